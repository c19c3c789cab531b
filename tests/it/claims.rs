//! Claims whose answers were lost: they are told again, with the jobs that the worker still holds.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::error::Code;
use sluicegate::session::{ExecuteOptions, Repetition};
use sluicegate::time::{Clock, Timestamp};
use tempfile::TempDir;

const CLAIM: &str = "CALL claim_jobs('w', 'publish', max => 2, rows => TRUE)";

/// A process on a store whose clock stands still.
struct Process {
    engine: Engine,
    clock: Clock,
}

impl Process {
    async fn open(store: &TempDir, clock: &Clock) -> Self {
        let options = EngineOptions::new(store.path().display().to_string());
        let engine = Engine::open_with(options, clock.clone(), Limits::default())
            .await
            .unwrap();
        Self {
            engine,
            clock: clock.clone(),
        }
    }

    async fn sql(&self, sql: &str) -> String {
        let session = self.engine.session("ann");
        let rows = session.execute(sql).await.unwrap().collect().await.unwrap();
        text(&rows)
    }

    /// A statement with the key `k`.
    async fn keyed(&self, sql: &str) -> Result<(Repetition, String), Code> {
        let options = ExecuteOptions {
            idempotency_key: Some("k".into()),
            ..ExecuteOptions::default()
        };
        let reply = self.engine.session("ann").execute_with(sql, options).await;
        let reply = reply.map_err(|error| error.code())?;
        let repetition = reply.repetition;
        Ok((repetition, text(&reply.collect().await.unwrap())))
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn text(rows: &[RecordBatch]) -> String {
    pretty_format_batches(rows).unwrap().to_string()
}

/// A store with three jobs for outside workers, with leases of an hour and a half.
async fn prepared() -> (TempDir, Process) {
    let store = TempDir::new().unwrap();
    let clock = Clock::mock(Timestamp(1_700_000_000_000_000));
    let process = Process::open(&store, &clock).await;
    for sql in [
        "CREATE TABLE docs (id TEXT PRIMARY KEY, n INT)",
        "INSERT INTO docs (id, n) VALUES ('a', 1), ('b', 2), ('c', 3)",
        "CREATE TRANSFORM publish ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           WITH (lease '90 minutes') USING OUTSIDE WORKER",
        "SELECT schedule_job('publish', id, params => '{\"x\": 1}') FROM docs ORDER BY id",
    ] {
        process.sql(sql).await;
    }
    (store, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_claim_gets_its_rows_in_every_process() {
    let (store, process) = prepared().await;
    let (repetition, first) = process.keyed(CLAIM).await.unwrap();
    assert_eq!(repetition, Repetition::No);
    assert!(first.contains(r#"{"id":"a","n":1"#), "{first}");
    process.advance(60);
    let other = Process::open(&store, &process.clock).await;
    for process in [&process, &other] {
        let again = process.keyed(CLAIM).await.unwrap();
        assert_eq!(again, (Repetition::Rows, first.clone()));
    }
    // The commit is found in a history file, too.
    other.sql("CHECKPOINT").await;
    let again = other.keyed(CLAIM).await.unwrap();
    assert_eq!(again, (Repetition::Rows, first));
    let without = "CALL claim_jobs('w', 'publish', max => 2)";
    assert_eq!(other.keyed(without).await, Err(Code::KeyReused));
    assert_eq!(other.keyed("DELETE FROM docs").await, Err(Code::KeyReused));
    let running = "SELECT count(*) AS n FROM jobs WHERE state = 'running'";
    assert!(process.sql(running).await.contains("| 2 |"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_claim_names_no_attempt_that_has_ended() {
    let (_store, process) = prepared().await;
    let (_, first) = process.keyed(CLAIM).await.unwrap();
    process
        .sql("SELECT complete_job(1, 1), hand_back_job(2, 2)")
        .await;
    process.sql("CALL claim_jobs('v', 'publish')").await;
    let (repetition, again) = process.keyed(CLAIM).await.unwrap();
    assert_eq!(repetition, Repetition::Rows);
    let columns = first.lines().take(3).map(|line| line.matches('|').count());
    let same = again.lines().take(3).map(|line| line.matches('|').count());
    assert!(columns.eq(same), "{again}");
    assert_eq!(again.lines().count(), 4, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_found_nothing_may_find_something_when_it_is_repeated() {
    let (_store, process) = prepared().await;
    process.sql("SELECT cancel_job(job_id) FROM jobs").await;
    let (_, none) = process.keyed(CLAIM).await.unwrap();
    assert!(!none.contains("publish"), "{none}");
    process.sql("SELECT schedule_job('publish', 'c')").await;
    let (repetition, found) = process.keyed(CLAIM).await.unwrap();
    assert_eq!(repetition, Repetition::No);
    assert!(found.contains("publish"), "{found}");
}

/// Seven days of claims and reports are millions of keys; an hour of them is enough, for what comes
/// later is a new claim, or refused as stale.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_workers_count_for_an_hour() {
    let (store, process) = prepared().await;
    let claimed = process.keyed(CLAIM).await.unwrap();
    process.advance(3600);
    process.sql("INSERT INTO docs (id) VALUES ('d')").await;
    let again = process.keyed(CLAIM).await.unwrap();
    assert_eq!(again, (Repetition::Rows, claimed.1));
    process.advance(1);
    process.sql("INSERT INTO docs (id) VALUES ('e')").await;
    // A checkpoint and the replay agree on it.
    process.sql("CHECKPOINT").await;
    let other = Process::open(&store, &process.clock).await;
    let (repetition, rows) = other.keyed(CLAIM).await.unwrap();
    assert_eq!(repetition, Repetition::No);
    assert!(rows.contains(r#"{"id":"c","n":3"#), "{rows}");
}
