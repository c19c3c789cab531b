//! The benchmark: what the design sets targets for, measured on this machine in one run.
//!
//! Everything durable, on a store in a folder of its own that is removed afterwards. Beside each
//! figure stand its target and what another system needed for the same work on a machine with two
//! processors, as the design gives them. Figures of one run can be compared with each other, those
//! of two runs hardly: say which machine, and how many sources.

mod http;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::engine::{Engine, EngineOptions};
use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, ResultWriter};
use crate::id::TransformId;
use crate::model::decide::{Completion, Report};
use crate::model::draft::Author;
use crate::session::Session;

use http::Served;

/// How much work is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Sources in the table.
    pub sources: u64,
    /// Jobs that one statement schedules; at most one per source.
    pub jobs: u64,
    /// Rows of the result that is fetched.
    pub rows: u64,
}

/// How many jobs are claimed and completed, in what portions.
#[derive(Debug, Clone, Copy)]
struct Claims {
    batches: u64,
    batch: usize,
}

impl Claims {
    /// At most half of the jobs, so that as many are left for the other way.
    fn of(scale: Scale) -> Self {
        let half = scale.jobs / 2;
        let batch = half.min(CLAIM_BATCH as u64);
        Self {
            batches: half.checked_div(batch).unwrap_or(0).min(CLAIM_BATCHES),
            batch: usize::try_from(batch).unwrap_or(CLAIM_BATCH),
        }
    }
}

/// Rows that one INSERT of the setting up writes: they become one run.
const INSERT_ROWS: u64 = 1_000_000;

/// Jobs that are claimed and completed at once. The design's batch.
const CLAIM_BATCH: usize = 1000;

/// Batches that are claimed and completed.
const CLAIM_BATCHES: u64 = 100;

/// Locks that are acquired and released.
const LOCKS: usize = 200;

/// Times that the selection is made.
const SELECTIONS: usize = 9;

/// One line of the result.
#[derive(Default)]
struct Figure {
    work: String,
    value: String,
    /// The same through a server.
    http: String,
    target: &'static str,
    others: &'static str,
}

/// Measures, and returns the table of figures.
///
/// # Errors
/// `SG6005 output-failed`: no folder can be made. Those of the store.
pub async fn run(folder: &Path, scale: Scale) -> Result<String> {
    let place = folder.join(format!("sluicegate-bench-{}", std::process::id()));
    let measured = measure(&place, scale).await;
    // What cannot be removed is left for the user to see.
    let _ = std::fs::remove_dir_all(&place);
    Ok(table(scale, &measured?))
}

async fn measure(place: &Path, scale: Scale) -> Result<Vec<Figure>> {
    let store = place.display().to_string();
    let engine = Engine::open(EngineOptions::new(&store)).await?;
    let session = engine.session("bench");
    let mut figures = vec![fill(&session, scale.sources).await?];
    // Before so many commits that a checkpoint is written beside it.
    figures.push(select(&session).await?);
    let served = Served::start(&engine).await?;
    figures.push(locks(&session, &served).await?);
    figures.push(schedule(&session, scale.jobs).await?);
    figures.push(claim_and_complete(&engine, &served, Claims::of(scale)).await?);
    for format in [Format::Arrow, Format::Json] {
        figures.push(result(&session, &served, format, scale.rows).await?);
    }
    served.end().await?;
    rows(&session, "CHECKPOINT").await?;
    engine.close().await;
    drop((session, engine));
    figures.extend(reopen(&store, scale).await?);
    Ok(figures)
}

async fn rows(session: &Session, sql: &str) -> Result<usize> {
    let batches = session.execute(sql).await?.collect().await?;
    Ok(batches
        .iter()
        .map(arrow::array::RecordBatch::num_rows)
        .sum())
}

async fn fill(session: &Session, sources: u64) -> Result<Figure> {
    rows(
        session,
        "CREATE TABLE notices (id TEXT, form TEXT, published DATE, title TEXT, PRIMARY KEY (id))",
    )
    .await?;
    rows(
        session,
        "CREATE TRANSFORM noop ON notices FROM STATUS 'RAW' TO STATUS 'DONE' \
         WITH (group_size 1000, concurrency 1000000) USING OUTSIDE WORKER",
    )
    .await?;
    let started = Instant::now();
    let mut first = 1;
    while first <= sources {
        let last = sources.min(first + INSERT_ROWS - 1);
        let sql = format!(
            "INSERT INTO notices SELECT lpad(CAST(value AS TEXT), 8, '0') || '-2024', \
             'F' || lpad(CAST(value % 40 AS TEXT), 2, '0'), \
             DATE '2015-01-01' + CAST(value % 3650 AS INT), 'notice ' || value \
             FROM generate_series({first}, {last})"
        );
        rows(session, &sql).await?;
        first = last + 1;
    }
    Ok(Figure {
        work: format!("insert {sources} sources, durable"),
        value: seconds(started.elapsed()),
        ..Figure::default()
    })
}

async fn locks(session: &Session, served: &Served) -> Result<Figure> {
    let mut times = Vec::with_capacity(LOCKS);
    for _ in 0..LOCKS {
        let started = Instant::now();
        let batches = session
            .execute("CALL acquire_lock('@bench')")
            .await?
            .collect()
            .await?;
        let token = batches.first().and_then(|batch| {
            use arrow::array::AsArray;
            let column = batch
                .column(0)
                .as_primitive_opt::<arrow::datatypes::Int64Type>()?;
            Some(column.value(0))
        });
        let token = token.ok_or_else(|| Error::bug("a lock came without its token"))?;
        rows(session, &format!("CALL release_lock('@bench', {token})")).await?;
        times.push(started.elapsed());
    }
    let mut over_http = Vec::with_capacity(LOCKS);
    for _ in 0..LOCKS {
        over_http.push(served.lock().await?);
    }
    Ok(Figure {
        work: "acquire and release one lock, durable, in SQL".to_owned(),
        value: median(&mut times),
        http: median(&mut over_http),
        target: "<= 1.2 ms",
        others: "PostgreSQL 0.62 ms, Redis 0.77 ms, etcd 2.7 ms",
    })
}

async fn select(session: &Session) -> Result<Figure> {
    let sql = "SELECT id FROM notices WHERE status = 'RAW' AND form = 'F03' \
               AND published >= DATE '2018-01-01' AND published < DATE '2020-08-01' \
               AND NOT locked AND live_job_id IS NULL";
    let found = rows(session, sql).await?;
    let mut times = Vec::with_capacity(SELECTIONS);
    for _ in 0..SELECTIONS {
        let started = Instant::now();
        rows(session, sql).await?;
        times.push(started.elapsed());
    }
    Ok(Figure {
        work: format!("select by status, form, dates, not locked, no live job ({found} rows)"),
        value: median(&mut times),
        http: String::new(),
        target: "<= 66 ms at 10 M",
        others: "at 10 M: DuckDB 66 ms, DataFusion 144 ms, PostgreSQL 411 ms",
    })
}

async fn schedule(session: &Session, jobs: u64) -> Result<Figure> {
    let sql =
        format!("SELECT schedule_job('noop', id) FROM notices WHERE status = 'RAW' LIMIT {jobs}");
    let started = Instant::now();
    let scheduled = rows(session, &sql).await?;
    Ok(Figure {
        work: format!("schedule {scheduled} selected sources, durable"),
        value: seconds(started.elapsed()),
        http: String::new(),
        target: "<= 0.8 s for 1 M",
        others: "PostgreSQL 8.5 s for 1 M",
    })
}

async fn claim_and_complete(engine: &Engine, served: &Served, claims: Claims) -> Result<Figure> {
    let author = || Author::new("bench", "bench");
    let ledger = engine.ledger();
    let transform = ledger
        .seen()
        .transform("noop")
        .map_or(TransformId(0), |noop| noop.id);
    let mut completed = 0;
    let started = Instant::now();
    for _ in 0..claims.batches {
        let claim = ledger.commit(author(), move |draft| {
            let claimed = draft.claim_jobs("bench", &[transform], claims.batch)?;
            Ok(claimed
                .into_iter()
                .map(|one| one.attempt)
                .collect::<Vec<_>>())
        });
        let attempts = Arc::new(claim.await?.reply);
        completed += attempts.len();
        let complete = ledger.commit(author(), move |draft| {
            for attempt in attempts.iter() {
                let report = Report {
                    job: attempt.job,
                    token: attempt.token,
                };
                draft.complete_job(report, Completion::default())?;
            }
            Ok(())
        });
        complete.await?;
    }
    let each_second = completed as f64 / started.elapsed().as_secs_f64();
    Ok(Figure {
        work: format!("claim and complete in batches of {}, durable", claims.batch),
        value: thousands(each_second, "jobs"),
        http: thousands(served.claim_and_complete(claims).await?, "jobs"),
        target: ">= 250 k jobs/s, >= 100 k over HTTP",
        others: "PostgreSQL SKIP LOCKED 50 k, graphile-worker 14 k, pg-boss 9 k",
    })
}

/// Fetches a result of three columns to its end. In process, Arrow is the batches as they come,
/// and JSON is written to nowhere.
async fn result(session: &Session, served: &Served, format: Format, rows: u64) -> Result<Figure> {
    let sql = format!(
        "SELECT value AS id, 'notice ' || value AS title, \
         DATE '2015-01-01' + CAST(value % 3650 AS INT) AS published \
         FROM generate_series(1, {rows})"
    );
    let started = Instant::now();
    let mut reply = session.execute(&sql).await?;
    let mut json = match format {
        Format::Json => {
            let schema = Arc::clone(&reply.schema);
            Some(ResultWriter::try_new(
                format,
                schema,
                Look::Plain,
                io::sink(),
            )?)
        }
        _ => None,
    };
    while let Some(batch) = reply.batches.next().await {
        let batch = batch?;
        if let Some(json) = &mut json {
            json.write(&batch)?;
        }
    }
    let in_process = rows as f64 / started.elapsed().as_secs_f64();
    let accept = match format {
        Format::Json => "application/json",
        _ => "application/vnd.apache.arrow.stream",
    };
    let (over_http, bytes) = served.result(&sql, accept, rows).await?;
    Ok(Figure {
        work: format!("fetch {rows} rows of three columns, {format}"),
        value: thousands(in_process, "rows"),
        http: format!("{}, {:.0} MB/s", thousands(over_http, "rows"), bytes / 1e6),
        ..Figure::default()
    })
}

async fn reopen(store: &str, scale: Scale) -> Result<Vec<Figure>> {
    let started = Instant::now();
    let engine = Engine::open(EngineOptions::new(store)).await?;
    let session = engine.session("bench");
    rows(
        &session,
        "SELECT status, count(*) FROM notices GROUP BY status",
    )
    .await?;
    let opened = Figure {
        work: format!("open with {} sources, first answer", scale.sources),
        value: seconds(started.elapsed()),
        target: "<= 1 s at 10 M",
        ..Figure::default()
    };
    let memory = Figure {
        work: format!(
            "memory with {} sources and {} jobs",
            scale.sources, scale.jobs
        ),
        value: resident().map_or_else(
            || "unknown on this system".to_owned(),
            |kib| format!("{:.2} GB", kib as f64 * 1024.0 / 1e9),
        ),
        target: "<= 2.5 GB at 10 M and 1 M",
        ..Figure::default()
    };
    engine.close().await;
    Ok(vec![opened, memory])
}

/// The memory of this process in KiB, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn thousands(each_second: f64, what: &str) -> String {
    format!("{:.0} k {what}/s", each_second / 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn median(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    format!("{:.2} ms (p95 {:.2})", ms(at(50)), ms(at(95)))
}

fn table(scale: Scale, figures: &[Figure]) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "{} sources, {} jobs, {cores} processors, {} build\n\n\
         | work | here | over HTTP | target | others |\n|---|---|---|---|---|\n",
        scale.sources,
        scale.jobs,
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    );
    for figure in figures {
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            figure.work, figure.value, figure.http, figure.target, figure.others
        ));
    }
    text
}

/// Checks a scale.
///
/// # Errors
/// `SG5004 too-large`: more sources than the design is made for, or more jobs than sources.
pub fn check_scale(scale: Scale) -> Result<()> {
    if scale.sources > 50_000_000 || scale.jobs > scale.sources || scale.rows > 100_000_000 {
        return Err(
            Error::new(Code::TooLarge, "so much is not measured").with_hint(
                "Ask for at most 50000000 sources, one job per source, and 100000000 rows.",
            ),
        );
    }
    Ok(())
}
