//! The queue of a worker that has no store, only a server: SQL over HTTP, as any outside worker
//! speaks it, and the server's addresses for files.
//!
//! It takes the jobs of commands. A transform in SQL is planned over the tables of the store, so
//! workers at the store run it, such as those of `sluicegate serve --workers`.
//!
//! Invariants: each claim and each report has an idempotency key and is sent again, with pauses
//! that grow, while the server does not answer; a report that was sent twice counts once. A claim
//! is repeated under its key until it is answered, before another is made, so no job waits for the
//! end of its lease because an answer was lost.

mod files;
mod reports;
mod transforms;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::client::{Client, Request};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::id::{JobId, Token};
use crate::json::{Value, parse};
use crate::model::decide::Report;
use crate::session::OutcomeCount;
use crate::session::names::literal;
use crate::session::source_rows::URI;
use crate::worker::queue::{Beat, Ended, Group, GroupJob, Input, Queue, Ready, Verdicts};
use crate::worker::remote::files::Files;
use crate::worker::remote::reports::table;
use crate::worker::remote::transforms::Listed;
use crate::worker::retry::Retries;

pub use files::Inputs;

/// Of a request, while the server does not answer. Chosen: some forty seconds in all, in which a
/// server starts again; each pause is twice as long as the one before, up to five seconds.
const ASKS: Retries = Retries {
    most: 11,
    pause: |tries| {
        let pause = Duration::from_millis(200).saturating_mul(1 << (tries - 1).min(5));
        pause.min(Duration::from_secs(5))
    },
    told: "the server is asked again",
};

/// How long one request of a worker may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The queue behind a server.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    worker: Arc<str>,
    limits: Limits,
    background: TaskTracker,
    files: Files,
    /// What is known of jobs that wait or run.
    left: AtomicU64,
    /// Jobs that ran when it claimed last; what became of them it has to look at once more.
    running: AtomicU64,
    /// Transforms of which some job's lease is over, although nobody has ended it: a claim does.
    overdue: Mutex<BTreeSet<String>>,
    unanswered: Mutex<Option<Claim>>,
}

/// A claim, from its first request to its answer.
#[derive(Debug)]
struct Claim {
    of: Listed,
    key: String,
    asked_at: Instant,
}

impl Remote {
    /// The queue of a server, for a worker of this name.
    pub fn new(client: Client, worker: Arc<str>, inputs: Inputs) -> Self {
        Self {
            files: Files::new(client.clone(), inputs),
            client,
            worker,
            limits: Limits::default(),
            background: TaskTracker::new(),
            left: AtomicU64::new(0),
            running: AtomicU64::new(0),
            overdue: Mutex::default(),
            unanswered: Mutex::default(),
        }
    }

    /// Runs a statement that may be sent again, also where its answer broke off.
    ///
    /// # Returns
    /// How often each effect ended in which way, and the rows.
    async fn run(
        &self,
        key: &str,
        sql: String,
        tables: Vec<(&'static str, RecordBatch)>,
    ) -> Result<(Vec<OutcomeCount>, Vec<RecordBatch>)> {
        ASKS.run(async || {
            let request = Request {
                sql: sql.clone(),
                tables: tables.clone(),
                idempotency_key: Some(key.to_owned()),
                timeout: Some(REQUEST_TIMEOUT),
                ..Request::default()
            };
            let mut answer = self.client.execute(request).await?;
            let summary = std::mem::take(&mut answer.summary);
            Ok((summary, answer.collect().await?))
        })
        .await
    }

    async fn listed(&self, names: &[String]) -> Result<Vec<Listed>> {
        let listed = Listed::all(&self.client).await?;
        let ours = listed
            .into_iter()
            .filter(|one| one.command.is_some() && (names.is_empty() || names.contains(&one.name)));
        Ok(ours.collect())
    }

    /// Claims a group of one transform. Where no answer comes, the claim is left to be repeated.
    async fn claim_of(&self, claim: Claim) -> Result<Option<Group>> {
        let sql = format!(
            "CALL claim_jobs({}, [{}], max => {}, rows => TRUE)",
            literal(&self.worker),
            literal(&claim.of.name),
            claim.of.def.group_size
        );
        let claimed = match self.run(&claim.key, sql, Vec::new()).await {
            Ok((_, claimed)) => claimed,
            Err(error) => {
                if error.retryable() {
                    *self.unanswered.lock() = Some(claim);
                }
                return Err(error);
            }
        };
        let mut jobs = Vec::new();
        let mut replaced = false;
        for batch in claimed {
            let rows = Rows(&batch);
            for row in 0..batch.num_rows() {
                let (Some(job), Some(token)) = (rows.int("job_id", row), rows.int("token", row))
                else {
                    return Err(Error::bug("a claimed job came without its id and token"));
                };
                replaced |= rows.int("transform_version", row) != Some(claim.of.version);
                jobs.push(GroupJob {
                    report: Report {
                        job: JobId(job),
                        token: Token(token),
                    },
                    attempt: rows
                        .int("attempt", row)
                        .and_then(|attempt| u16::try_from(attempt).ok())
                        .unwrap_or(1),
                    source_id: rows.text("source_id", row).unwrap_or_default(),
                    params: rows.text("params", row),
                    row: rows.text("row", row).map(Into::into),
                });
            }
        }
        if replaced {
            // The transform was replaced between the list and the claim.
            self.hand_back(jobs.iter().map(|job| job.report)).await?;
            return Ok(None);
        }
        Ok((!jobs.is_empty()).then(|| Group {
            transform: claim.of.name.as_str().into(),
            def: Arc::clone(&claim.of.def),
            jobs,
            claimed_at: claim.asked_at,
        }))
    }
}

#[async_trait]
impl Queue for Remote {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn background(&self) -> &TaskTracker {
        &self.background
    }

    async fn check(&self, names: &[String]) -> Result<()> {
        let listed = ASKS.run(|| Listed::all(&self.client)).await?;
        transforms::check(&listed, names)
    }

    async fn claim(&self, names: &[String], turn: u64) -> Result<Option<Group>> {
        let unanswered = self.unanswered.lock().take();
        if let Some(claim) = unanswered
            && let Some(group) = self.claim_of(claim).await?
        {
            return Ok(Some(group));
        }
        let mut listed = self.listed(names).await?;
        let left = listed.iter().map(|one| one.waiting + one.running).sum();
        self.left.store(left, Ordering::Relaxed);
        let running = listed.iter().map(|one| one.running).sum();
        self.running.store(running, Ordering::Relaxed);
        let overdue = std::mem::take(&mut *self.overdue.lock());
        listed.retain(|one| one.waiting > 0 || overdue.contains(&one.name));
        let first = usize::try_from(turn).unwrap_or(0) % listed.len().max(1);
        listed.rotate_left(first);
        for of in listed {
            let claim = Claim {
                of,
                key: Uuid::now_v7().to_string(),
                asked_at: Instant::now(),
            };
            if let Some(group) = self.claim_of(claim).await? {
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    async fn next_due(&self, names: &[String]) -> Result<Option<Duration>> {
        let listed = self.listed(names).await?;
        if listed.iter().all(|one| one.waiting + one.running == 0) {
            return Ok(None);
        }
        let names: Vec<String> = listed.iter().map(|one| literal(&one.name)).collect();
        // Of running jobs the end of the lease counts, be it over or not.
        let sql = format!(
            "SELECT transform, min(coalesce(expires_at, run_at)) AS due, now() AS now FROM jobs \
             WHERE ended_at IS NULL AND transform IN ({}) \
             AND (expires_at IS NOT NULL OR run_at > now()) GROUP BY transform",
            names.join(", ")
        );
        let request = Request {
            timeout: Some(REQUEST_TIMEOUT),
            ..Request::new(sql)
        };
        let mut first = None;
        for batch in self.client.execute(request).await?.collect().await? {
            let rows = Rows(&batch);
            for row in 0..batch.num_rows() {
                let (Some(due), Some(now)) = (rows.micros("due", row), rows.micros("now", row))
                else {
                    continue;
                };
                if due <= now {
                    let name = rows.text("transform", row);
                    self.overdue.lock().extend(name);
                }
                let micros = u64::try_from(due.saturating_sub(now)).unwrap_or(0);
                let wait = Duration::from_micros(micros);
                first = Some(first.map_or(wait, |first: Duration| first.min(wait)));
            }
        }
        // Somebody ended a lease since the claim: its job is due, and would look like one that
        // nobody can claim.
        let ran = self.running.swap(0, Ordering::Relaxed) > 0;
        Ok(first.or_else(|| ran.then_some(Duration::ZERO)))
    }

    fn left(&self, _names: &[String]) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    async fn prepare(&self, group: &Group) -> Result<Ready> {
        let mut list = Vec::with_capacity(group.jobs.len());
        for job in &group.jobs {
            let row = parse(job.row.as_deref().unwrap_or_default());
            let Ok(Value::Object(row)) = row else {
                return Err(Error::bug("a claimed job came without its row"));
            };
            let uri = row.get(URI).and_then(Value::as_text).map(str::to_owned);
            list.push(job.assignment(uri, String::new(), row));
        }
        let (list, failed) = self.files.fetch(list).await?;
        Ok(Ready {
            input: Input::Sources(list),
            failed,
        })
    }

    async fn heartbeat(&self, reports: Vec<Report>) -> Result<Vec<(JobId, Beat)>> {
        let sql = "SELECT job, heartbeat(job, token) AS beat FROM running".to_owned();
        // A repeated heartbeat must be a new one, so it has no key.
        let request = Request {
            timeout: Some(REQUEST_TIMEOUT),
            tables: vec![("running", table(&reports, Vec::new())?)],
            ..Request::new(sql)
        };
        let mut beats = Vec::with_capacity(reports.len());
        for batch in self.client.execute(request).await?.collect().await? {
            let rows = Rows(&batch);
            for row in 0..batch.num_rows() {
                let Some(job) = rows.int("job", row) else {
                    continue;
                };
                let beat = match rows.text("beat", row).as_deref() {
                    Some("alive") => Beat::Alive,
                    Some("cancel-requested") => Beat::CancelRequested,
                    Some(_) | None => Beat::Lost,
                };
                beats.push((JobId(job), beat));
            }
        }
        Ok(beats)
    }

    async fn cancelled(&self, reports: &[Report]) -> Result<Vec<JobId>> {
        let ids = || reports.iter().map(|report| report.job.0);
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "SELECT job_id AS job, token FROM jobs WHERE job_id BETWEEN {first} AND {last} \
             AND cancel_requested_at IS NOT NULL AND ended_at IS NULL"
        );
        let request = Request {
            timeout: Some(REQUEST_TIMEOUT),
            ..Request::new(sql)
        };
        let mut asked = BTreeSet::new();
        for batch in self.client.execute(request).await?.collect().await? {
            let rows = Rows(&batch);
            let pair = |row| Some((rows.int("job", row)?, rows.int("token", row)?));
            asked.extend((0..batch.num_rows()).filter_map(pair));
        }
        let ours = reports.iter().map(|one| (one.job.0, one.token.0));
        let ours = ours.filter(|pair| asked.contains(pair));
        Ok(ours.map(|(job, _)| JobId(job)).collect())
    }

    async fn report(&self, group: &Group, ended: Vec<Ended>) -> Result<Verdicts> {
        self.report_all(group, ended).await
    }
}

/// The values of a batch, by the names of columns.
struct Rows<'a>(&'a RecordBatch);

impl Rows<'_> {
    fn column(&self, name: &str, to: &DataType, row: usize) -> Option<ArrayRef> {
        let column = self.0.column_by_name(name)?;
        (row < column.len() && column.is_valid(row)).then_some(())?;
        cast(&column.slice(row, 1), to).ok()
    }

    fn int(&self, name: &str, row: usize) -> Option<u64> {
        let column = self.column(name, &DataType::Int64, row)?;
        u64::try_from(column.as_primitive::<Int64Type>().value(0)).ok()
    }

    fn text(&self, name: &str, row: usize) -> Option<String> {
        let column = self.column(name, &DataType::Utf8, row)?;
        Some(column.as_string::<i32>().value(0).to_owned())
    }

    /// A moment, in microseconds since 1970.
    fn micros(&self, name: &str, row: usize) -> Option<i64> {
        let unit = arrow::datatypes::TimeUnit::Microsecond;
        let moment = DataType::Timestamp(unit, Some("+00:00".into()));
        let column = self.column(name, &moment, row)?;
        let column = cast(&column, &DataType::Int64).ok()?;
        Some(column.as_primitive::<Int64Type>().value(0))
    }

    fn texts(&self, name: &str, row: usize) -> Vec<String> {
        let Some(lists) = self.0.column_by_name(name) else {
            return Vec::new();
        };
        let list = lists
            .as_list_opt::<i32>()
            .filter(|lists| lists.is_valid(row));
        let list = list.and_then(|lists| cast(&lists.value(row), &DataType::Utf8).ok());
        let texts = list.iter().flat_map(|list| list.as_string::<i32>().iter());
        texts.flatten().map(str::to_owned).collect()
    }
}
