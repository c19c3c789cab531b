//! Processes that are killed at random moments, and what the store says afterwards.
//!
//! A failing test prints its seed; `SLUICEGATE_SEED=... cargo test` replays its choices (not the
//! machine's).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::time::Clock;

use crate::binary::{Place, Row, Running, int, rows, text, wait_for};

/// Choices that a seed replays: a linear congruential generator (Knuth, MMIX).
struct Choices(u64);

impl Choices {
    fn new() -> Self {
        let given = std::env::var("SLUICEGATE_SEED").ok();
        let seed = given.map_or_else(rand::random, |seed| seed.parse().unwrap());
        eprintln!("SLUICEGATE_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Lets a random moment of a process come. Not to wait for anything: to hit anything.
    fn moment(&mut self) {
        std::thread::sleep(Duration::from_micros(self.below(20_000)));
    }
}

const SETUP: &str = "CREATE TABLE docs (id TEXT PRIMARY KEY, n BIGINT, note TEXT);
    CREATE TRANSFORM outside ON docs FROM STATUS 'RAW', 'CHECKED' TO STATUS 'DONE'
      WITH (lease '1 day', group_size 100) USING OUTSIDE WORKER";

/// One statement whose effect depends on nothing but those before it.
fn statement(number: usize, choices: &mut Choices) -> String {
    let some = choices.below(7);
    let rows = |from, to| {
        format!(
            "SELECT concat('d{number}-', value), value, 'RAW' FROM generate_series({from}, {to})"
        )
    };
    match choices.below(16) {
        0..=2 => format!("INSERT INTO docs (id, n, status) {}", rows(1, 30)),
        // Refused for its last row: nothing of it may be there.
        3 => format!(
            "INSERT INTO docs (id, n) SELECT * FROM (
               SELECT concat('new{number}-', value) AS id, value AS n FROM generate_series(1, 20)
               UNION ALL SELECT min(id), 0 FROM docs)"
        ),
        4 => format!(
            "REPLACE INTO docs (id, n, note, status)
               SELECT id, n + 100, NULL, 'RAW' FROM docs WHERE n % 7 = {some} AND NOT locked"
        ),
        5 => format!("UPDATE docs SET note = 'u{number}' WHERE n % 7 = {some} AND NOT locked"),
        6 => format!("DELETE FROM docs WHERE n % 13 = {some} AND NOT locked"),
        7 | 8 => format!(
            "SELECT id, schedule_job('outside', id, batch => 'b{number}') AS job FROM docs
              WHERE n % 7 = {some} ORDER BY id"
        ),
        9 => format!(
            "SELECT id, set_status('docs', id, 'CHECKED') AS was_set FROM docs
              WHERE n % 7 = {some} ORDER BY id"
        ),
        10 => format!(
            "SELECT id, acquire_lock(concat('docs/', id), ttl => '1 day') AS token FROM docs
              WHERE n % 11 = {some} ORDER BY id"
        ),
        11 => "SELECT resource, release_lock(resource, token) AS was_released FROM locks
                WHERE job_id IS NULL ORDER BY resource LIMIT 9"
            .to_owned(),
        12 => format!("CALL claim_jobs('worker', max => {some})"),
        13 => "SELECT job_id, complete_job(job_id, token) AS was_done FROM jobs
                WHERE state = 'running' ORDER BY job_id LIMIT 5"
            .to_owned(),
        14 => "CHECKPOINT".to_owned(),
        _ => format!(
            "CREATE TABLE extra{number} (k BIGINT PRIMARY KEY);
             SELECT {number} AS half;
             DROP TABLE extra{number}"
        ),
    }
}

/// Runs statements with a mark after each, which tells that its reply has been given.
fn script(place: &Place, statements: &[String], first: usize) -> Command {
    let marked = statements.iter().enumerate();
    let text: String = marked
        .map(|(index, sql)| format!("{sql};\nSELECT {} AS done;\n", first + index))
        .collect();
    let file = place.path("script.sql");
    std::fs::write(&file, text).unwrap();
    let mut command = place.command();
    command
        .args(["--format", "ndjson", "--keep-going", "--actor", "ann", "-f"])
        .arg(file)
        .stderr(std::process::Stdio::null());
    command
}

/// Everything that a user can see and that time does not change.
fn seen(place: &Place) -> Vec<Row> {
    place.sql(
        "SELECT id, n, note, status, locked, live_job_id, last_job_id FROM docs ORDER BY id;
         SELECT job_id, source_id, state, batch_id, attempt, token, worker FROM jobs
          ORDER BY job_id;
         SELECT resource, mode, owner, token, job_id FROM locks ORDER BY resource;
         SELECT batch_id, name, jobs, completed FROM batches ORDER BY batch_id;
         SELECT name, version, waiting, running FROM transforms ORDER BY name;
         SELECT table_name FROM information_schema.tables ORDER BY table_name;
         SELECT kind, count(*) AS events FROM events
          WHERE actor <> 'upkeep' GROUP BY kind ORDER BY kind",
    )
}

/// The replies without what depends on the time or on the upkeep.
fn replies(lines: &[String], until: usize) -> Vec<Row> {
    let mut told = Vec::new();
    for mut row in lines.iter().flat_map(|line| rows(line)) {
        if row.contains_key("files") {
            continue;
        }
        row.remove("expires_at");
        let done = row.get("done").and_then(Value::as_u64);
        told.push(row);
        if done == Some(until as u64) {
            return told;
        }
    }
    panic!("mark {until} was not reached: {told:?}");
}

/// How many marks there are, if each came after the one before it.
fn marks(lines: &[String], first: usize) -> usize {
    let marks = lines.iter().flat_map(|line| rows(line));
    let mut next = first;
    for mark in marks.filter_map(|row| row.get("done").and_then(Value::as_u64)) {
        assert_eq!(mark, next as u64);
        next += 1;
    }
    next - first
}

/// Two stores get the same statements; the processes of one of them are killed. After each kill
/// it must be equal to the other, which was given all statements that were answered, or those and
/// the one that was under way.
#[test]
fn a_killed_process_loses_nothing_that_it_answered() {
    const STATEMENTS: usize = 60;
    const MARKS_MAX: u64 = 12;
    let mut choices = Choices::new();
    let (killed, spared) = (Place::new(), Place::new());
    let mut statements: Vec<String> = SETUP.split(';').map(|sql| sql.trim().to_owned()).collect();
    statements.push("INSERT INTO docs (id, n, status) VALUES ('a', 0, 'RAW')".to_owned());
    for number in 0..STATEMENTS {
        statements.push(statement(number, &mut choices));
    }
    // One statement each: a mark stands behind every one.
    let statements: Vec<String> = statements
        .iter()
        .flat_map(|sql| sql.split(';'))
        .map(|sql| sql.trim().to_owned())
        .collect();
    let mut position = 0;
    let mut kills = 0;
    while position < statements.len() {
        let rest = &statements[position..];
        let mut process = Running::start(script(&killed, rest, position));
        let wanted = choices.below(MARKS_MAX);
        let mut lines = Vec::new();
        while marks(&lines, position) < usize::try_from(wanted).unwrap() {
            match process.line() {
                Some(line) => lines.push(line),
                None => break,
            }
        }
        choices.moment();
        lines.extend(process.kill());
        kills += 1;
        // Killed before it made the store, it left nothing to be checked.
        if killed.store().exists() {
            killed.check();
        }
        let answered = marks(&lines, position);
        let mut given = spare(&spared, &statements, position, answered, &lines);
        let found = seen_if_there(&killed);
        if given < statements.len() && found != seen_if_there(&spared) {
            spare(&spared, &statements, given, 1, &[]);
            given += 1;
        }
        let expected = seen_if_there(&spared);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "after {given}: {}", statements[given - 1]);
        }
        assert_eq!(found.len(), expected.len());
        position = given;
    }
    let torn = killed.sql(
        "SELECT statement_id FROM events WHERE actor <> 'upkeep'
          GROUP BY statement_id HAVING count(DISTINCT version) > 1",
    );
    assert!(torn.is_empty(), "statements in two commits: {torn:?}");
    eprintln!("{kills} kills");
}

/// Gives `count` statements to the store whose processes live; how many it has now.
fn spare(
    place: &Place,
    statements: &[String],
    from: usize,
    count: usize,
    lines: &[String],
) -> usize {
    let to = from + count;
    if count > 0 {
        let mut process = Running::start(script(place, &statements[from..to], from));
        let told: Vec<String> = std::iter::from_fn(|| process.line()).collect();
        process.end();
        if !lines.is_empty() {
            assert_eq!(replies(lines, to - 1), replies(&told, to - 1));
        }
    }
    to
}

/// The first kill may come before there is a table.
fn seen_if_there(place: &Place) -> Vec<Row> {
    let tables =
        place.sql("SELECT table_name FROM information_schema.tables WHERE table_name = 'docs'");
    if tables.is_empty() {
        return tables;
    }
    seen(place)
}

const SOURCES: usize = 36;
/// Fewer than the crashes of one job that use up no attempt.
const WORKER_KILLS: usize = 4;

/// Three ways to run a transform; each leaves the number of its attempt wherever it can.
fn workshop(place: &Place) {
    let lines = "while read -r line; do
        id=$(printf '%s' \"$line\" | sed 's/.*\"source_id\":\"\\([^\"]*\\)\".*/\\1/')
        out=$(printf '%s' \"$line\" | sed 's/.*\"output\":\"\\([^\"]*\\)\".*/\\1/')
        attempt=$(printf '%s' \"$line\" | sed 's/.*\"attempt\":\\([0-9]*\\).*/\\1/')
        echo \"$attempt\" > \"$out/result\"
        printf '{\"source_id\":\"%s\",\"columns\":{\"by_lines\":\"%s\"}}\\n' \"$id\" \"$attempt\"
    done\n";
    std::fs::write(place.path("lines.sh"), lines).unwrap();
    std::fs::write(
        place.path("each.sh"),
        "echo \"$SLUICEGATE_ATTEMPT\" > \"$1/result\"\n",
    )
    .unwrap();
    let options = "lease '1500 milliseconds', backoff '1 millisecond', concurrency 20, group_size";
    place.sql(&format!(
        "CREATE TABLE docs (id TEXT PRIMARY KEY, by_sql TEXT, by_lines TEXT);
         INSERT INTO docs (id, status)
           SELECT concat('d', value), 'RAW' FROM generate_series(1, {SOURCES});
         CREATE TRANSFORM sql ON docs FROM STATUS 'RAW' TO STATUS 'SQL' WITH ({options} 3)
           OUTPUT PARQUET AS SELECT id, CAST(attempt AS TEXT) AS by_sql FROM input;
         CREATE TRANSFORM lines ON docs FROM STATUS 'SQL' TO STATUS 'LINES' WITH ({options} 4)
           USING COMMAND 'sh lines.sh';
         CREATE TRANSFORM each ON docs FROM STATUS 'LINES' TO STATUS 'EACH' WITH ({options} 2)
           USING COMMAND 'sh each.sh {{output}}'"
    ));
}

#[test]
fn jobs_of_killed_workers_are_finished_by_others() {
    let mut choices = Choices::new();
    let place = Place::new();
    workshop(&place);
    for (transform, status) in [("sql", "RAW"), ("lines", "SQL"), ("each", "LINES")] {
        place.sql(&format!(
            "SELECT schedule_job('{transform}', id) FROM docs WHERE status = '{status}'"
        ));
        for kill in 0..WORKER_KILLS {
            let name = format!("{transform}-{kill}");
            let mut worker = place.work(&["--name", &name, "--parallel", "2"]);
            let until = place.commits() + 1 + usize::try_from(choices.below(5)).unwrap();
            wait_for("the worker to commit", || {
                (place.commits() >= until || all_final(&place, until)).then_some(())
            });
            choices.moment();
            worker.kill();
            place.check();
        }
        place.work_out();
    }
    place.check();
    finished_jobs_agree(&place, 3 * SOURCES);
}

/// Asks only when the ledger has stood still for a look: a worker with nothing to do is no reason
/// to wait.
fn all_final(place: &Place, until: usize) -> bool {
    let before = place.commits();
    let live = place.sql("SELECT count(*) AS live FROM jobs WHERE ended_at IS NULL");
    before == place.commits() && until > before && int(&live[0], "live") == 0
}

/// Events, jobs, sources and files tell the same.
fn finished_jobs_agree(place: &Place, count: usize) {
    let ends = place.sql(
        "SELECT job_id, count(*) AS ends, max(attempt) AS attempt, max(version) AS version
           FROM events WHERE kind IN ('job-completed', 'job-cancelled', 'job-failed')
          GROUP BY job_id ORDER BY job_id",
    );
    let jobs = place.sql(
        "SELECT job_id, source_id, transform, state, attempt, crashes, output_uri FROM jobs
          ORDER BY job_id",
    );
    let docs = place.sql("SELECT id, by_sql, by_lines, status FROM docs");
    let docs: BTreeMap<&str, &Row> = docs.iter().map(|row| (text(row, "id"), row)).collect();
    assert_eq!((ends.len(), jobs.len()), (count, count));
    let mut crashes = 0;
    for (end, job) in ends.iter().zip(&jobs) {
        assert_eq!(text(job, "state"), "completed", "{job:?}");
        assert_eq!((&end["job_id"], int(end, "ends")), (&job["job_id"], 1));
        assert_eq!(end["attempt"], job["attempt"], "{job:?}");
        crashes += int(job, "crashes");
        let attempt = int(job, "attempt").to_string();
        let doc = docs[text(job, "source_id")];
        assert_eq!(text(doc, "status"), "EACH");
        let uri = text(job, "output_uri");
        let folder = format!(
            "outputs/{}/{}/{attempt}",
            text(job, "transform"),
            job["job_id"]
        );
        assert!(uri.contains(&folder), "{uri} is not in {folder}");
        match text(job, "transform") {
            "sql" => assert_eq!(text(doc, "by_sql"), attempt, "{job:?}"),
            other => {
                let result = place.store().join(&folder).join("result");
                assert_eq!(std::fs::read_to_string(result).unwrap().trim(), attempt);
                if other == "lines" {
                    assert_eq!(text(doc, "by_lines"), attempt, "{job:?}");
                }
            }
        }
    }
    assert!(crashes > 0, "no kill hit a running job");
}

/// What the child process below is given.
const UPKEEP_STORE: &str = "SLUICEGATE_TEST_UPKEEP_STORE";

/// Limits so small that checkpoints, history, merges and clean-ups go on all the time.
fn small_limits() -> Limits {
    Limits {
        checkpoint_commits: 4,
        merge_runs: 3,
        small_run_rows: 100,
        ledger_grace: Duration::from_millis(200),
        statement_timeout: Duration::from_secs(20),
        ..Limits::default()
    }
}

/// No test by itself: the process that the next one kills.
#[tokio::test(flavor = "multi_thread")]
async fn upkeep_until_it_is_killed() {
    let Ok(store) = std::env::var(UPKEEP_STORE) else {
        return;
    };
    let options = EngineOptions::new(store);
    let engine = Engine::open_with(options, Clock::System, small_limits())
        .await
        .unwrap();
    let session = engine.session("upkept");
    let run = async |sql: String| {
        session
            .execute(&sql)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap()
    };
    run("CREATE TABLE IF NOT EXISTS docs (n BIGINT PRIMARY KEY, note TEXT)".to_owned()).await;
    for _ in 0.. {
        let reply = run(
            "INSERT INTO docs (n, status) SELECT coalesce(max(n), 0) + 1, 'RAW' FROM docs"
                .to_owned(),
        );
        reply.await;
        run("UPDATE docs SET note = 'last' WHERE n > (SELECT max(n) - 2 FROM docs)".to_owned())
            .await;
        println!("\nanswered");
    }
}

#[test]
fn kills_during_upkeep_leave_a_whole_store() {
    const KILLS: usize = 12;
    let mut choices = Choices::new();
    let place = Place::new();
    let mut answered = 0;
    let mut inserted = 0;
    for _ in 0..KILLS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash::upkeep_until_it_is_killed", "--nocapture"])
            .env(UPKEEP_STORE, place.store());
        let mut process = Running::start(command);
        let is_answer = |line: &String| line == "answered";
        let wanted = usize::try_from(choices.below(25)).unwrap();
        let said = std::iter::from_fn(|| process.line()).filter(is_answer);
        answered += said.take(wanted + 1).count();
        choices.moment();
        answered += process.kill().iter().filter(|line| is_answer(line)).count();
        place.check();
        let found = place.sql(
            "SELECT count(*) AS rows, coalesce(max(n), 0) AS newest FROM docs;
             SELECT count(DISTINCT version) AS versions, max(version) AS version FROM events",
        );
        assert_eq!(found[0]["rows"], found[0]["newest"]);
        assert_eq!(found[1]["versions"], found[1]["version"]);
        // Each kill may leave a row that was inserted and not answered.
        inserted = usize::try_from(int(&found[0], "rows")).unwrap();
        assert!((answered..=answered + KILLS).contains(&inserted));
    }
    let versions = place.sql("SELECT max(version) AS version FROM events");
    let versions = usize::try_from(int(&versions[0], "version")).unwrap();
    assert!(versions > inserted, "{versions} versions");
    assert!(place.commits() < versions, "no commit was cleaned up");
    let history: PathBuf = place.store().join("history/events");
    assert!(std::fs::read_dir(history).unwrap().count() > 0);
    eprintln!("{versions} versions, {} files of commits", place.commits());
}
