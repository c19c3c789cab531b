//! Workers that are stopped from outside: by a signal, a cancel, a time-out, a lost lease. What
//! they ran must end with them, and their reports must count for nothing where they come too late.

use std::process::Stdio;
use std::time::Duration;

use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::session::progress::Watcher;
use sluicegate::time::Clock;
use sluicegate::worker::WorkOptions;
use tokio::sync::watch;

use crate::binary::{PATIENCE, Place, Row, Running, int, lives, text, there, wait_for};

/// A table with one job of a command that runs `script` with `$1` as its output folder. Before
/// that the script notes its own process and that of a grandchild that would live for long.
fn one_job(place: &Place, options: &str, script: &str) {
    let begin = "sleep 600 & echo $! > \"$1/grandchild\"; echo $$ > \"$1/child\"\n";
    std::fs::write(place.path("run.sh"), format!("{begin}{script}\n")).unwrap();
    place.sql(&format!(
        "CREATE TABLE docs (id TEXT PRIMARY KEY, note TEXT);
         INSERT INTO docs (id, status) VALUES ('a', 'RAW');
         CREATE TRANSFORM run ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (backoff '1 millisecond', {options}) USING COMMAND 'sh run.sh {{output}}';
         SELECT schedule_job('run', id) FROM docs"
    ));
}

/// Waits until an attempt runs; its processes.
fn processes_of(place: &Place, attempt: u32) -> [u32; 2] {
    let folder = place.store().join(format!("outputs/run/1/{attempt}"));
    ["grandchild", "child"].map(|name| {
        wait_for("a command to run", || {
            let id = std::fs::read_to_string(folder.join(name)).ok()?;
            id.strip_suffix('\n')?.parse().ok()
        })
    })
}

fn all_gone(processes: [u32; 2]) {
    wait_for("processes to be gone", || {
        (!processes.iter().any(|id| lives(*id))).then_some(())
    });
}

fn job(place: &Place) -> Row {
    place.sql("SELECT * FROM jobs WHERE job_id = 1").remove(0)
}

/// The kinds of the events of the job, in order, without the renewals.
fn story(place: &Place) -> Vec<String> {
    let events = place.sql(
        "SELECT kind FROM events WHERE job_id = 1 AND kind <> 'job-renewed'
          ORDER BY version, ordinal",
    );
    events
        .iter()
        .map(|row| text(row, "kind").to_owned())
        .collect()
}

/// A worker whose notes go to a file.
fn noted_worker(place: &Place) -> Running {
    let notes = std::fs::File::create(place.path("notes")).unwrap();
    let mut command = place.command();
    command.args(["work", "--name", "first"]).stderr(notes);
    Running::start(command)
}

fn noted(place: &Place, what: &str) {
    wait_for(what, || {
        let notes = std::fs::read_to_string(place.path("notes")).unwrap();
        notes.contains(what).then_some(())
    });
}

#[test]
fn a_worker_that_is_told_to_end_hands_back_what_runs() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let place = Place::new();
        // A lease that no test waits for.
        one_job(
            &place,
            "lease '1 day'",
            "[ \"$SLUICEGATE_ATTEMPT\" -gt 1 ] || sleep 600",
        );
        let mut worker = noted_worker(&place);
        let processes = processes_of(&place, 1);
        worker.signal(signal);
        assert_eq!(worker.end(), Some(0));
        all_gone(processes);
        assert_eq!(text(&job(&place), "state"), "available");
        place.work_out();
        let expected = [
            "job-scheduled",
            "job-started",
            "job-released",
            "job-started",
        ];
        assert_eq!(story(&place)[..4], expected);
        assert_eq!(text(&job(&place), "state"), "completed");
        place.check();
    }
}

/// An answer that was given before the end counts; only what has none is handed back.
#[test]
fn a_worker_that_is_told_to_end_reports_what_is_finished() {
    let place = Place::new();
    let script = "read -r line; echo '{\"source_id\":\"a\"}'; read -r line; touch asked; sleep 600";
    std::fs::write(place.path("lines.sh"), script).unwrap();
    place.sql(
        "CREATE TABLE docs (id TEXT PRIMARY KEY);
         INSERT INTO docs (id, status) VALUES ('a', 'RAW'), ('b', 'RAW');
         CREATE TRANSFORM run ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (lease '1 day', group_size 2) USING COMMAND 'sh lines.sh';
         SELECT schedule_job('run', id) FROM docs ORDER BY id",
    );
    let mut worker = noted_worker(&place);
    wait_for("both sources to be given", || there(&place.path("asked")));
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.end(), Some(0));
    let jobs = place.sql("SELECT source_id, state FROM jobs ORDER BY source_id");
    let states: Vec<&str> = jobs.iter().map(|row| text(row, "state")).collect();
    assert_eq!(states, ["completed", "available"]);
    place.check();
}

#[test]
fn a_second_signal_ends_a_worker_and_its_commands_at_once() {
    let place = Place::new();
    one_job(
        &place,
        "lease '1 second'",
        "trap '' TERM; touch deaf; while :; do sleep 1; done",
    );
    let mut worker = noted_worker(&place);
    let processes = processes_of(&place, 1);
    wait_for("the command to be deaf", || there(&place.path("deaf")));
    worker.signal(libc::SIGINT);
    noted(&place, "ending: ");
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.end(), Some(130));
    noted(&place, "ended at once");
    all_gone(processes);
    // Nobody reported: the lease runs out, and somebody else does it.
    std::fs::write(place.path("run.sh"), "exit 0").unwrap();
    place.work_out();
    let expected = [
        "job-scheduled",
        "job-started",
        "job-crashed",
        "job-started",
        "job-completed",
    ];
    assert_eq!(story(&place), expected);
    place.check();
}

/// With a lease of a day a heartbeat, eight hours later, was the first to tell of the cancel.
#[test]
fn a_command_of_a_cancelled_job_is_killed_whatever_its_lease() {
    for lease in ["1 second", "1 day"] {
        let place = Place::new();
        one_job(&place, &format!("lease '{lease}'"), "sleep 600");
        let mut worker = place.work(&["--until-idle", "--wait", "100"]);
        let processes = processes_of(&place, 1);
        place.sql("SELECT cancel_job(1)");
        // Nothing is left to be done, so the worker ends.
        assert_eq!(worker.end(), Some(0));
        all_gone(processes);
        assert_eq!(text(&job(&place), "state"), "cancelled");
        assert_eq!(
            story(&place)[2..],
            ["job-cancel-requested", "job-cancelled"]
        );
        let docs = place.sql("SELECT status, locked FROM docs");
        assert_eq!(text(&docs[0], "status"), "RAW");
        assert_eq!(docs[0]["locked"], false);
        place.check();
    }
}

/// Groups of one worker beat together, though they were claimed one after the other.
#[test]
fn one_commit_renews_all_groups_of_a_worker() {
    let place = Place::new();
    std::fs::write(
        place.path("run.sh"),
        "while ! [ -e go ]; do sleep 0.05; done",
    )
    .unwrap();
    place.sql(
        "CREATE TABLE docs (id TEXT PRIMARY KEY);
         INSERT INTO docs (id, status) VALUES ('a', 'RAW'), ('b', 'RAW'), ('c', 'RAW');
         CREATE TRANSFORM one ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (lease '2 seconds') USING COMMAND 'sh run.sh {source_id}';
         CREATE TRANSFORM two ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (lease '3 seconds') USING COMMAND 'sh run.sh {source_id}';
         SELECT schedule_job(CASE id WHEN 'a' THEN 'two' ELSE 'one' END, id) FROM docs",
    );
    let mut worker = place.work(&["--until-idle", "--parallel", "3"]);
    wait_for("a round of heartbeats for all", || {
        let rounds = place.sql(
            "SELECT version FROM events WHERE kind = 'job-renewed'
              GROUP BY version HAVING count(*) = 3",
        );
        rounds.first().map(drop)
    });
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(worker.end(), Some(0));
    place.check();
}

#[test]
fn a_time_out_kills_the_whole_process_group() {
    let place = Place::new();
    one_job(
        &place,
        "timeout '1 second', max_attempts 1",
        "trap '' TERM; while :; do sleep 1; done",
    );
    let mut worker = place.work(&["--until-idle"]);
    let processes = processes_of(&place, 1);
    assert_eq!(worker.end(), Some(0));
    all_gone(processes);
    let job = job(&place);
    assert_eq!(text(&job, "state"), "discarded");
    assert!(
        text(&job, "error").contains("did not end within 1s"),
        "{job:?}"
    );
    assert!(job["output_uri"].is_null());
    place.check();
}

/// A worker sleeps past its lease while its command goes on, and somebody else does the job.
fn overslept(first_attempt: &str, meanwhile: impl FnOnce(&Place)) {
    let place = Place::new();
    let script = format!(
        "if [ \"$SLUICEGATE_ATTEMPT\" = 1 ]; then {first_attempt}; fi
         echo \"$SLUICEGATE_ATTEMPT\" > \"$1/result\"; kill $!"
    );
    one_job(&place, "lease '1 second'", &script);
    let mut sleeper = noted_worker(&place);
    let processes = processes_of(&place, 1);
    sleeper.signal(libc::SIGSTOP);
    place.work_out();
    let attempt = int(&job(&place), "attempt");
    assert!(attempt > 1);
    meanwhile(&place);
    sleeper.signal(libc::SIGCONT);
    wait_for("the sleeper to be refused", || {
        let refused = place.sql(
            "SELECT 1 AS one FROM events WHERE kind = 'effect-refused' AND job_id = 1
              AND outcome = 'stale-token' AND token = 1",
        );
        refused.first().map(drop)
    });
    all_gone(processes);
    sleeper.signal(libc::SIGTERM);
    assert_eq!(sleeper.end(), Some(0));
    let job = job(&place);
    assert_eq!(text(&job, "state"), "completed");
    assert_eq!(int(&job, "attempt"), attempt);
    let folder = format!("outputs/run/1/{attempt}");
    assert!(text(&job, "output_uri").contains(&folder), "{job:?}");
    let result = std::fs::read_to_string(place.store().join(folder).join("result")).unwrap();
    assert_eq!(result.trim(), attempt.to_string());
    let ends = story(&place);
    let ends = ends.iter().filter(|kind| *kind == "job-completed");
    assert_eq!(ends.count(), 1);
    place.check();
}

#[test]
fn a_worker_that_slept_past_its_lease_kills_its_command() {
    overslept("sleep 600", |_| ());
}

#[test]
fn what_a_worker_finishes_after_its_lease_is_never_linked() {
    overslept("while ! [ -e go ]; do sleep 0.05; done", |place| {
        std::fs::write(place.path("go"), "").unwrap();
        let late = place.store().join("outputs/run/1/1/result");
        wait_for("the late result", || there(&late));
    });
}

/// A program that left its process group outlives its worker. What it writes then is seen by
/// nobody.
#[test]
fn what_a_stray_of_a_killed_worker_writes_is_never_linked() {
    let place = Place::new();
    let script = "echo \"$SLUICEGATE_ATTEMPT\" > \"$1/result\"
        if [ \"$SLUICEGATE_ATTEMPT\" = 1 ]; then
          setsid sh -c 'echo $$ > stray; while ! [ -e go ]; do sleep 0.05; done
                        echo stray > \"$1/result\"; touch written' sh \"$1\" &
          sleep 600
        fi";
    std::fs::write(place.path("run.sh"), script).unwrap();
    one_job(&place, "lease '1 second'", script);
    let mut worker = place.work(&["--name", "killed"]);
    let [_, child] = processes_of(&place, 1);
    wait_for("the stray", || there(&place.path("stray")));
    worker.kill();
    wait_for("the command to be gone", || (!lives(child)).then_some(()));
    place.work_out();
    std::fs::write(place.path("go"), "").unwrap();
    wait_for("the stray to write", || there(&place.path("written")));
    let job = job(&place);
    assert_eq!(text(&job, "state"), "completed");
    let folder = format!("outputs/run/1/{}", int(&job, "attempt"));
    assert_ne!(folder, "outputs/run/1/1");
    assert!(text(&job, "output_uri").contains(&folder));
    let result = std::fs::read_to_string(place.store().join(folder).join("result")).unwrap();
    assert_eq!(result.trim(), int(&job, "attempt").to_string());
    place.check();
}

/// Ctrl-C in a statement that works: what runs is handed back before the process ends.
#[test]
fn ctrl_c_in_run_jobs_hands_back_what_runs() {
    let place = Place::new();
    one_job(&place, "lease '1 day'", "sleep 600");
    let mut command = place.command();
    command
        .args(["-c", "CALL run_jobs()"])
        .stderr(Stdio::null());
    let mut statement = Running::start(command);
    let processes = processes_of(&place, 1);
    statement.signal(libc::SIGINT);
    assert_eq!(statement.end(), Some(130));
    all_gone(processes);
    assert_eq!(
        story(&place),
        ["job-scheduled", "job-started", "job-released"]
    );
    place.check();
}

/// The store breaks while a group of more sources than outcomes may wait is answered. The worker
/// must neither wait for ever nor keep the jobs by its heartbeats.
#[test]
fn a_group_that_cannot_be_reported_is_given_up() {
    const JOBS: usize = 2500;
    let place = Place::new();
    let script = "if [ ! -e broken ]; then touch broken; mv store/tables away; : > store/tables; fi
        exec sed 's/.*\"source_id\":\"\\([^\"]*\\)\".*/{\"source_id\":\"\\1\",\"columns\":{\"note\":\"x\"}}/'";
    std::fs::write(place.path("run.sh"), script).unwrap();
    place.sql(&format!(
        "CREATE TABLE docs (id TEXT PRIMARY KEY, note TEXT);
         INSERT INTO docs (id, status)
           SELECT concat('d', value), 'RAW' FROM generate_series(1, {JOBS});
         CREATE TRANSFORM run ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (lease '3 seconds', backoff '1 millisecond', group_size {JOBS})
           USING COMMAND 'sh run.sh';
         SELECT schedule_job('run', id) FROM docs"
    ));
    let mut worker = noted_worker(&place);
    noted(&place, "a group ended without all its reports");
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.end(), Some(0));
    std::fs::remove_file(place.store().join("tables")).unwrap();
    std::fs::rename(place.path("away"), place.store().join("tables")).unwrap();
    place.work_out();
    let done = place.sql("SELECT count(*) AS done FROM docs WHERE status = 'DONE' AND note = 'x'");
    assert_eq!(int(&done[0], "done"), i64::try_from(JOBS).unwrap());
    place.check();
}

/// Rows that cannot be read are no source's fault, so their jobs are handed back. The worker must
/// not claim them again in a tight loop, and gives up some day.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_read_its_sources_gives_up() {
    let place = Place::new();
    one_job(&place, "lease '1 day'", "exit 0");
    std::fs::rename(place.store().join("tables"), place.path("away")).unwrap();
    let limits = Limits {
        worker_poll: Duration::from_millis(1),
        worker_retries_max: 3,
        ..Limits::default()
    };
    let options = EngineOptions::new(place.store().display().to_string());
    let engine = Engine::open_with(options, Clock::System, limits)
        .await
        .unwrap();
    let (_asks, asked) = watch::channel(false);
    // One group at a time, so that their number is exact.
    let options = WorkOptions {
        parallel: 1,
        ..WorkOptions::until_idle("w")
    };
    let worker = engine.work(options, asked, Watcher::default());
    let ended = tokio::time::timeout(PATIENCE, worker).await;
    assert!(ended.expect("it gives up").is_err());
    std::fs::rename(place.path("away"), place.store().join("tables")).unwrap();
    let mut expected = vec!["job-scheduled"];
    for _ in 0..4 {
        expected.extend(["job-started", "job-released"]);
    }
    assert_eq!(story(&place), expected);
    place.check();
}
