//! Four processes on one store: they schedule, claim, complete, lock and write at once, and in
//! the end the ledger tells the same story as they do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::binary::{Place, Row, Running, int, rows, text, wait_for};

const PROCESSES: usize = 4;
/// Rounds of each process. Chosen: about six hundred commits, ten seconds in a debug build.
const ROUNDS: usize = 16;
const SOURCES: usize = 60;

/// What is there before the processes begin.
fn set_up(place: &Place) {
    place.sql(&format!(
        "CREATE TABLE docs (id TEXT PRIMARY KEY, n BIGINT, by_worker TEXT);
         INSERT INTO docs (id, n, status)
           SELECT concat('d', value), value, 'RAW' FROM generate_series(1, {SOURCES});
         CREATE TRANSFORM outside ON docs FROM STATUS 'RAW', 'SEEN', 'DONE' TO STATUS 'DONE'
           WITH (lease '1 hour', max_attempts 2, backoff '1 millisecond', group_size 10,
                 concurrency 100)
           USING OUTSIDE WORKER;
         CREATE TRANSFORM inside ON docs FROM STATUS 'RAW', 'SEEN', 'DONE' TO STATUS 'SEEN'
           WITH (lease '1 hour', group_size 7, concurrency 100)
           AS SELECT id, concat('job ', job_id) AS by_worker FROM input"
    ));
}

/// The statements of one process. Whoever changes something says what it was told, and as whom.
fn script(me: usize) -> String {
    let mut script = String::new();
    for round in 0..ROUNDS {
        let begin = (me * 7 + round * 11) % SOURCES;
        // Half of what one process selects is also selected by its neighbours.
        script.push_str(&format!(
            "SELECT 'scheduled' AS what, schedule_job('outside', id) AS job_id, id FROM docs
              WHERE n BETWEEN {begin} AND {begin} + 14;
             SELECT 'scheduled' AS what, schedule_job('inside', id) AS job_id, id FROM docs
              WHERE n BETWEEN {begin} + 7 AND {begin} + 21;
             CALL claim_jobs('p{me}', transforms => ['outside'], max => 6);
             INSERT INTO docs (id, n, status) VALUES ('new-{me}-{round}', 1000, 'RAW');
             SELECT 'locked' AS what, acquire_lock('docs/d{lock}', ttl => '1 hour') AS lock_token;
             SELECT 'failed' AS what, job_id, token, fail_job(job_id, token, 'odd: on purpose') AS ok
               FROM jobs WHERE worker = 'p{me}' AND state = 'running' AND job_id % 5 = 0;
             SELECT 'completed' AS what, job_id, token, complete_job(job_id, token) AS ok
               FROM jobs WHERE worker = 'p{me}' AND state = 'running';
             SELECT 'released' AS what, token AS lock_token, release_lock(resource, token) AS ok
               FROM locks WHERE owner = 'p{me}' AND job_id IS NULL;\n",
            lock = (begin + round) % SOURCES + 1,
        ));
        if round % 4 == 3 {
            script.push_str(&format!(
                "CALL run_jobs(transforms => ['inside'], worker => 'p{me}/inside');\n"
            ));
        }
    }
    script.push_str(&format!(
        "CALL run_jobs(transforms => ['inside'], worker => 'p{me}/inside', wait => '1 second');\n"
    ));
    script
}

/// All that one process was told.
fn run(place: &Place, me: usize) -> Running {
    let file = place.path(&format!("p{me}.sql"));
    std::fs::write(&file, script(me)).unwrap();
    let mut command = place.command();
    command.args(["--format", "ndjson", "--actor", &format!("p{me}"), "-f"]);
    let notes = std::fs::File::create(place.path(&format!("p{me}.log"))).unwrap();
    command.arg(file).stderr(notes);
    Running::start(command)
}

#[test]
fn four_processes_on_one_store_never_hold_a_source_twice() {
    let place = Place::new();
    set_up(&place);
    let mut processes: Vec<Running> = (0..PROCESSES).map(|me| run(&place, me)).collect();
    let mut told = Vec::new();
    for (me, process) in processes.iter_mut().enumerate() {
        let lines: Vec<String> = std::iter::from_fn(|| process.line()).collect();
        let notes = std::fs::read_to_string(place.path(&format!("p{me}.log"))).unwrap();
        assert_eq!(process.end(), Some(0), "process {me}:\n{notes}");
        told.push(rows(&lines.join("\n")));
    }
    // What one process left to another that had ended already.
    finish(&place);
    place.check();
    let events = place.sql(
        "SELECT version, ordinal, at, kind, source_table, source_id, job_id, attempt, token,
                resource, owner, actor, worker, outcome
           FROM events ORDER BY version, ordinal",
    );
    no_version_is_missing(&events);
    nobody_holds_what_another_holds(&events);
    every_job_ends_once(&place, &events);
    what_was_told_is_in_the_ledger(&place, &told, &events);
}

/// Ends what is live; some retries may wait for a worker.
fn finish(place: &Place) {
    wait_for("all jobs to become final", || {
        place.sql(
            "CALL claim_jobs('last', transforms => ['outside'], max => 1000);
             SELECT complete_job(job_id, token) FROM jobs
              WHERE worker = 'last' AND state = 'running';
             CALL run_jobs(transforms => ['inside'], wait => '1 second')",
        );
        let live = place.sql("SELECT count(*) AS live FROM jobs WHERE ended_at IS NULL");
        (int(&live[0], "live") == 0).then_some(())
    });
}

fn no_version_is_missing(events: &[Row]) {
    let versions: BTreeSet<i64> = events.iter().map(|event| int(event, "version")).collect();
    let expected: BTreeSet<i64> = (1..=versions.len() as i64).collect();
    assert_eq!(versions, expected);
}

/// Walks through the ledger with a list of who holds what.
fn nobody_holds_what_another_holds(events: &[Row]) {
    let mut holders: BTreeMap<String, &Row> = BTreeMap::new();
    let mut resource_of: BTreeMap<i64, String> = BTreeMap::new();
    let mut last_token = 0;
    let mut handed_over = 0;
    for event in events {
        let begins = match text(event, "kind") {
            "job-started" => Some(format!("docs/{}", text(event, "source_id"))),
            "lock-acquired" => Some(text(event, "resource").to_owned()),
            _ => None,
        };
        if let Some(resource) = begins {
            let token = int(event, "token");
            assert!(token > last_token, "token {token} after {last_token}");
            last_token = token;
            resource_of.insert(token, resource.clone());
            let other = holders.insert(resource, event);
            assert!(other.is_none(), "{event:?} while {other:?}");
        }
        let ends = matches!(
            text(event, "kind"),
            "job-completed" | "job-failed" | "job-crashed" | "job-released" | "lock-released"
        );
        if ends {
            let resource = &resource_of[&int(event, "token")];
            let held = holders.remove(resource);
            let held = held.unwrap_or_else(|| panic!("{event:?} ends what nobody holds"));
            assert_eq!(held["token"], event["token"], "{event:?}");
            handed_over += 1;
        }
        assert_ne!(text(event, "kind"), "lock-expired", "leases are an hour");
    }
    assert!(holders.is_empty(), "{holders:?}");
    assert!(handed_over > 200, "only {handed_over} holds");
}

fn every_job_ends_once(place: &Place, events: &[Row]) {
    let mut ends: BTreeMap<i64, u32> = BTreeMap::new();
    for event in events {
        match text(event, "kind") {
            "job-scheduled" => assert_eq!(ends.insert(int(event, "job_id"), 0), None),
            "job-completed" | "job-cancelled" => {
                *ends.get_mut(&int(event, "job_id")).unwrap() += 1;
            }
            _ => {}
        }
    }
    let jobs = place.sql("SELECT job_id, state, failures FROM jobs ORDER BY job_id");
    assert_eq!(jobs.len(), ends.len());
    let mut discarded = 0;
    for (index, job) in jobs.iter().enumerate() {
        assert_eq!(int(job, "job_id"), index as i64 + 1);
        let expected = match text(job, "state") {
            "completed" | "cancelled" => 1,
            "discarded" => {
                discarded += 1;
                assert_eq!(int(job, "failures"), 2);
                0
            }
            other => panic!("job {index} is {other}"),
        };
        assert_eq!(ends[&int(job, "job_id")], expected, "{job:?}");
    }
    assert!(jobs.len() > 100 && discarded > 0, "{} jobs", jobs.len());
}

/// Every reply is in the ledger, and everything in the ledger was a reply to somebody.
fn what_was_told_is_in_the_ledger(place: &Place, told: &[Vec<Row>], events: &[Row]) {
    let in_ledger = |kind: &str, column: &str, by: &str| -> Vec<i64> {
        let of_kind = events
            .iter()
            .filter(|event| text(event, "kind") == kind && event["actor"] == by);
        let mut found: Vec<i64> = of_kind.map(|event| int(event, column)).collect();
        found.sort_unstable();
        found
    };
    for (me, told) in told.iter().enumerate() {
        let me = format!("p{me}");
        let said = |what: &str, column: &str, ok: Option<&Value>| -> Vec<i64> {
            let of_what = told.iter().filter(|row| {
                row.get("what").and_then(Value::as_str) == Some(what)
                    && (ok.is_none() || row.get("ok") == ok)
                    && !row[column].is_null()
            });
            let mut found: Vec<i64> = of_what.map(|row| int(row, column)).collect();
            found.sort_unstable();
            found
        };
        let yes = Some(&Value::Bool(true));
        assert_eq!(
            said("completed", "token", yes),
            in_ledger("job-completed", "token", &me)
        );
        assert_eq!(
            said("locked", "lock_token", None),
            in_ledger("lock-acquired", "token", &me)
        );
        assert_eq!(
            said("released", "lock_token", yes),
            in_ledger("lock-released", "token", &me)
        );
        let failed = in_ledger("job-failed", "token", &me);
        let said_failed = told
            .iter()
            .filter(|row| row.get("what").and_then(Value::as_str) == Some("failed"));
        assert_eq!(said_failed.count(), failed.len());
        // A job that was live already is told by its id too.
        let mut scheduled = said("scheduled", "job_id", None);
        scheduled.dedup();
        let scheduled: BTreeSet<i64> = scheduled.into_iter().collect();
        for job in in_ledger("job-scheduled", "job_id", &me) {
            assert!(scheduled.contains(&job), "{me} was not told of job {job}");
        }
        // Rows of claim_jobs have no `what`.
        let claimed: Vec<i64> = told
            .iter()
            .filter(|row| row.contains_key("expires_at"))
            .map(|row| int(row, "token"))
            .collect();
        assert!(claimed.is_sorted(), "{claimed:?}");
        assert_eq!(claimed, in_ledger("job-started", "token", &me));
        let inserted = place.sql(&format!(
            "SELECT count(*) AS rows FROM docs WHERE id LIKE 'new-{}-%'",
            &me[1..]
        ));
        assert_eq!(int(&inserted[0], "rows"), ROUNDS as i64);
    }
    let seen = place.sql("SELECT count(*) AS rows FROM docs WHERE by_worker LIKE 'job %'");
    assert!(int(&seen[0], "rows") > 0);
}

#[test]
fn a_worker_outside_that_slept_past_its_lease_is_refused() {
    let place = Place::new();
    let claimed = place.sql(
        "CREATE TABLE docs (id TEXT PRIMARY KEY);
         INSERT INTO docs (id, status) VALUES ('a', 'RAW');
         CREATE TRANSFORM outside ON docs FROM STATUS 'RAW' TO STATUS 'DONE', 'ODD'
           WITH (lease '300 milliseconds', backoff '1 millisecond') USING OUTSIDE WORKER;
         SELECT schedule_job('outside', id) AS job FROM docs;
         CALL claim_jobs('sleeper')",
    );
    let old = int(&claimed[1], "token");
    let new = wait_for("the lease to end", || {
        let claimed = place.sql("CALL claim_jobs('waker')");
        claimed.first().map(|row| int(row, "token"))
    });
    assert!(new > old);
    for report in [
        format!("heartbeat(1, {old})"),
        format!("complete_job(1, {old}, status => 'ODD')"),
        format!("fail_job(1, {old}, 'late')"),
    ] {
        place.sql(&format!("SELECT {report} AS told"));
    }
    // The other's lease may be over as well by now; then it is nobody's.
    let refused = place.sql(&format!(
        "SELECT function, outcome FROM events
          WHERE kind = 'effect-refused' AND token = {old} ORDER BY version, ordinal"
    ));
    let refused: Vec<&str> = refused.iter().map(|row| text(row, "function")).collect();
    assert_eq!(refused, ["heartbeat", "complete_job", "fail_job"]);
    wait_for("the waker to complete", || {
        place.sql(
            "CALL claim_jobs('waker');
             SELECT complete_job(job_id, token) FROM jobs WHERE state = 'running'",
        );
        let job = place.sql("SELECT state FROM jobs");
        (text(&job[0], "state") == "completed").then_some(())
    });
    let docs = place.sql("SELECT status FROM docs");
    assert_eq!(text(&docs[0], "status"), "DONE");
    place.check();
}
