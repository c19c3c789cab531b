//! The system tables of daily work: `jobs locks batches transforms workers`.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;

use crate::id::{JobId, Token};
use crate::model::jobs::{Batch, Job, JobExtra, JobState, Worker};
use crate::model::locks::LockMode;
use crate::model::outputs::{address, log_path, output_path, shown};
use crate::model::state::{Dropped, State, Transform};
use crate::model::transform::TransformKind;
use crate::tables::columns::{ColumnDoc, ColumnType, ints, text_lists, texts, times};
use crate::tables::snapshot_table::SnapshotRows;
use crate::time::Timestamp;

const fn column(name: &'static str, column_type: ColumnType, doc: &'static str) -> ColumnDoc {
    ColumnDoc {
        name,
        column_type,
        doc,
    }
}

/// Bytes that are kept of the end of what a command printed. Bounded, because every job of a group
/// keeps a copy of its own.
pub const LOG_BYTES_MAX: usize = 64 << 10;

/// Files that one attempt may leave behind. Chosen: a source becomes a handful of files; more is
/// a program that runs wild.
pub const OUTPUT_FILES_MAX: usize = 10_000;

/// `jobs`: one row per job, live or final.
#[derive(Debug)]
pub struct Jobs {
    /// The snapshot.
    pub state: Arc<State>,
    /// The moment for which states are shown.
    pub now: Timestamp,
    /// The store's URL, for the addresses of outputs and logs.
    pub store_url: Arc<str>,
}

const JOBS: &[ColumnDoc] = &[
    column("job_id", ColumnType::Int, "The job, counted from 1."),
    column("source_table", ColumnType::Text, "The table of its source."),
    column(
        "source_id",
        ColumnType::Text,
        "The key of its source, as text.",
    ),
    column("transform", ColumnType::Text, "What is to be done."),
    column(
        "transform_version",
        ColumnType::Int,
        "The version that the last attempt ran.",
    ),
    column(
        "batch_id",
        ColumnType::Int,
        "The batch in which it was scheduled.",
    ),
    column(
        "state",
        ColumnType::Text,
        "`scheduled` (its time has not come), `available`, `running`, `retryable` (failed, waits \
         for its next attempt), and finally `completed`, `cancelled` or `discarded`.",
    ),
    column("priority", ColumnType::Int, "Higher runs first."),
    column("attempt", ColumnType::Int, "Attempts begun."),
    column("failures", ColumnType::Int, "Attempts that failed."),
    column("crashes", ColumnType::Int, "Attempts whose lease ran out."),
    column(
        "worker",
        ColumnType::Text,
        "The worker of the last attempt.",
    ),
    column(
        "token",
        ColumnType::Int,
        "The fencing token of the last attempt.",
    ),
    column("created_at", ColumnType::Time, "When it was scheduled."),
    column("run_at", ColumnType::Time, "It does not start before."),
    column(
        "started_at",
        ColumnType::Time,
        "When the last attempt began.",
    ),
    column(
        "ended_at",
        ColumnType::Time,
        "When it came to its final state; NULL while live.",
    ),
    column(
        "expires_at",
        ColumnType::Time,
        "When the lease of a running job ends.",
    ),
    column("params", ColumnType::Text, "Its parameters, as JSON."),
    column(
        "parent_job_id",
        ColumnType::Int,
        "The final job that it tries again.",
    ),
    column(
        "error_code",
        ColumnType::Text,
        "The class of the last error.",
    ),
    column(
        "error",
        ColumnType::Text,
        "The last error, or why it was cancelled.",
    ),
    column(
        "output_uri",
        ColumnType::Text,
        "The output of a completed job, at the address at which the store is open.",
    ),
    column(
        "log_uri",
        ColumnType::Text,
        "The log of the last attempt of a command, there when the attempt has ended; read it with \
         read_text.",
    ),
    column(
        "cancel_requested_at",
        ColumnType::Time,
        "When cancelling was asked for.",
    ),
    column("cancel_requested_by", ColumnType::Text, "By whom."),
];

impl SnapshotRows for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn columns(&self) -> &'static [ColumnDoc] {
        JOBS
    }

    fn len(&self) -> usize {
        self.state.jobs.len()
    }

    fn counted_by(&self) -> Option<&'static str> {
        Some("job_id")
    }

    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef {
        let name = JOBS.get(column).map_or("", |column| column.name);
        let state = &self.state;
        let jobs = || rows.clone().filter_map(|row| state.jobs.get(row));
        let number = |of: fn(&Job) -> Option<u64>| ints(jobs().map(of));
        let time = |of: fn(&Job) -> Timestamp| times(jobs().map(of));
        let extra_text = |of: fn(&JobExtra) -> Option<&Arc<str>>| {
            texts(jobs().map(|job| job.extra.as_deref().and_then(of)))
        };
        match name {
            "job_id" => ints(rows.clone().map(|row| Some(row as u64 + 1))),
            "source_table" => {
                texts(jobs().map(|job| state.tables.get(&job.table).map(|table| &*table.name)))
            }
            "source_id" => {
                texts(jobs().map(|job| state.key(job.table, job.slot).map(|key| key.to_string())))
            }
            "transform" => texts(jobs().map(|job| {
                state
                    .transforms
                    .get(&job.transform)
                    .map(|found| &*found.name)
            })),
            "transform_version" => number(|job| {
                (job.transform_version > 0).then_some(u64::from(job.transform_version))
            }),
            "batch_id" => number(|job| Some(job.batch.0)),
            "state" => texts(jobs().map(|job| Some(job.shown_state(self.now)))),
            "priority" => Arc::new(
                jobs()
                    .map(|job| i64::from(job.priority))
                    .collect::<arrow::array::Int64Array>(),
            ),
            "attempt" => number(|job| Some(u64::from(job.attempt))),
            "failures" => number(|job| Some(u64::from(job.failures))),
            "crashes" => number(|job| Some(u64::from(job.crashes))),
            "worker" => texts(jobs().map(|job| {
                state
                    .worker_name(job.worker)
                    .filter(|_| job.attempt > 0)
                    .map(|name| &**name)
            })),
            "token" => number(|job| (job.token != Token(0)).then_some(job.token.0)),
            "created_at" => time(|job| job.created_at),
            "run_at" => time(|job| job.run_at),
            "started_at" => time(|job| job.started_at),
            "ended_at" => time(|job| job.ended_at),
            "expires_at" => time(|job| match job.state {
                JobState::Running => job.expires_at,
                JobState::Waiting
                | JobState::Retryable
                | JobState::Completed
                | JobState::Cancelled
                | JobState::Discarded => Timestamp(0),
            }),
            "params" => extra_text(|extra| extra.params.as_ref()),
            "parent_job_id" => number(|job| {
                job.extra
                    .as_ref()
                    .and_then(|extra| extra.parent.some())
                    .map(|parent| parent.0)
            }),
            "error_code" => extra_text(|extra| extra.error_code.as_ref()),
            "error" => extra_text(|extra| extra.error.as_ref()),
            "output_uri" => texts(rows.clone().map(|row| {
                let job = state.jobs.get(row)?;
                let uri = job.extra.as_ref()?.output_uri.as_deref()?;
                let transform = state.transforms.get(&job.transform)?;
                let own = output_path(&transform.name, JobId(row as u64 + 1), job.attempt);
                Some(shown(&self.store_url, uri, &own))
            })),
            "log_uri" => texts(rows.clone().map(|row| {
                let job = state.jobs.get(row).filter(|job| job.attempt > 0)?;
                // Only programs print.
                let transform = state.transforms.get(&job.transform)?;
                if !matches!(transform.def().kind, TransformKind::Command { .. }) {
                    return None;
                }
                let path = log_path(JobId(row as u64 + 1), job.attempt);
                Some(address(&self.store_url, &path))
            })),
            "cancel_requested_at" => {
                times(jobs().map(|job| job.cancel_requested_at().unwrap_or_default()))
            }
            _ => extra_text(|extra| extra.cancel_requested_by.as_ref()),
        }
    }
}

/// A lock as the `locks` table shows it.
#[derive(Debug, Clone)]
struct HeldLock {
    resource: String,
    mode: LockMode,
    owner: Arc<str>,
    token: Token,
    reason: Option<Arc<str>>,
    acquired_at: Timestamp,
    expires_at: Timestamp,
    job: Option<JobId>,
}

/// `locks`: explicit locks and those of running jobs.
#[derive(Debug)]
pub struct Locks {
    held: Vec<HeldLock>,
}

const LOCKS: &[ColumnDoc] = &[
    column(
        "resource",
        ColumnType::Text,
        "What is locked, with all below it.",
    ),
    column("mode", ColumnType::Text, "`exclusive` or `shared`."),
    column(
        "owner",
        ColumnType::Text,
        "Who holds it: a user, or the worker of the job.",
    ),
    column("token", ColumnType::Int, "Its fencing token."),
    column("reason", ColumnType::Text, "Why, in the owner's words."),
    column("acquired_at", ColumnType::Time, "Since when."),
    column(
        "expires_at",
        ColumnType::Time,
        "Until when, unless it is renewed.",
    ),
    column(
        "job_id",
        ColumnType::Int,
        "The running job that holds it; NULL for an explicit lock.",
    ),
];

impl Locks {
    /// The locks that are held at `now`.
    pub fn new(state: &State, now: Timestamp) -> Self {
        let explicit = state
            .locks
            .iter()
            .filter(|(_, lock)| lock.expires_at > now)
            .map(|(resource, lock)| HeldLock {
                resource: resource.to_string(),
                mode: lock.mode,
                owner: Arc::clone(&lock.owner),
                token: lock.token,
                reason: lock.reason.clone(),
                acquired_at: lock.acquired_at,
                expires_at: lock.expires_at,
                job: None,
            });
        let running = state
            .leases
            .iter()
            .filter(|(expires_at, _)| *expires_at > now);
        let of_jobs = running.filter_map(|(expires_at, id)| {
            let job = state.job(*id)?;
            let table = state.tables.get(&job.table)?;
            let transform = state.transforms.get(&job.transform)?;
            Some(HeldLock {
                resource: format!("{}/{}", table.name, table.keys.get(job.slot)?),
                mode: LockMode::Exclusive,
                owner: Arc::clone(state.worker_name(job.worker)?),
                token: job.token,
                reason: Some(format!("{} runs", transform.name).into()),
                acquired_at: job.started_at,
                expires_at: *expires_at,
                job: Some(*id),
            })
        });
        Self {
            held: explicit.chain(of_jobs).collect(),
        }
    }
}

impl SnapshotRows for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn columns(&self) -> &'static [ColumnDoc] {
        LOCKS
    }

    fn len(&self) -> usize {
        self.held.len()
    }

    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef {
        let held = self.held.get(rows).unwrap_or_default().iter();
        match LOCKS.get(column).map_or("", |column| column.name) {
            "resource" => texts(held.map(|lock| Some(&lock.resource))),
            "mode" => texts(held.map(|lock| Some(lock.mode.name()))),
            "owner" => texts(held.map(|lock| Some(&lock.owner))),
            "token" => ints(held.map(|lock| Some(lock.token.0))),
            "reason" => texts(held.map(|lock| lock.reason.as_ref())),
            "acquired_at" => times(held.map(|lock| lock.acquired_at)),
            "expires_at" => times(held.map(|lock| lock.expires_at)),
            _ => ints(held.map(|lock| lock.job.map(|job| job.0))),
        }
    }
}

/// `batches`: one row per statement that scheduled jobs.
#[derive(Debug)]
pub struct Batches {
    /// The snapshot.
    pub state: Arc<State>,
}

const BATCHES: &[ColumnDoc] = &[
    column("batch_id", ColumnType::Int, "The batch, counted from 1."),
    column("name", ColumnType::Text, "The name given by batch =>."),
    column(
        "statement_id",
        ColumnType::Text,
        "The statement that scheduled it.",
    ),
    column("actor", ColumnType::Text, "Who ran it."),
    column("created_at", ColumnType::Time, "When."),
    column(
        "ended_at",
        ColumnType::Time,
        "When its last live job ended; NULL while some live.",
    ),
    column("jobs", ColumnType::Int, "All its jobs."),
    column(
        "available",
        ColumnType::Int,
        "Its jobs that wait for their first attempt.",
    ),
    column(
        "retryable",
        ColumnType::Int,
        "Its jobs that failed and wait for another attempt.",
    ),
    column("running", ColumnType::Int, "Its jobs that run."),
    column("completed", ColumnType::Int, "Its jobs that are done."),
    column(
        "cancelled",
        ColumnType::Int,
        "Its jobs that were cancelled.",
    ),
    column(
        "discarded",
        ColumnType::Int,
        "Its jobs that failed on their last attempt.",
    ),
];

impl SnapshotRows for Batches {
    fn name(&self) -> &'static str {
        "batches"
    }

    fn columns(&self) -> &'static [ColumnDoc] {
        BATCHES
    }

    fn len(&self) -> usize {
        self.state.batches.len()
    }

    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef {
        let name = BATCHES.get(column).map_or("", |column| column.name);
        let batches = rows.clone().filter_map(|row| self.state.batches.get(row));
        match name {
            "batch_id" => ints(rows.map(|row| Some(row as u64 + 1))),
            "name" => texts(batches.map(|batch| batch.name.as_ref())),
            "statement_id" => texts(batches.map(|batch| Some(&batch.statement_id))),
            "actor" => texts(batches.map(|batch| Some(&batch.actor))),
            "created_at" => times(batches.map(|batch| batch.created_at)),
            "ended_at" => times(batches.map(|batch| batch.ended_at)),
            "jobs" => ints(batches.map(|batch| Some(batch.jobs()))),
            state => {
                let state = JobState::parse(state).unwrap_or(JobState::Discarded);
                ints(batches.map(|batch: &Batch| Some(batch.count(state))))
            }
        }
    }
}

/// `transforms`: one row per transform, its newest version.
#[derive(Debug)]
pub struct Transforms {
    transforms: Vec<(Arc<Transform>, Arc<str>)>,
}

const TRANSFORMS: &[ColumnDoc] = &[
    column("name", ColumnType::Text, "The transform."),
    column(
        "version",
        ColumnType::Int,
        "Its newest version, counted from 1.",
    ),
    column(
        "source_table",
        ColumnType::Text,
        "The table of its sources.",
    ),
    column("kind", ColumnType::Text, "`sql`, `command` or `outside`."),
    column(
        "from_status",
        ColumnType::TextList,
        "The statuses from which it takes sources.",
    ),
    column(
        "to_status",
        ColumnType::TextList,
        "The statuses it may set; the first by default.",
    ),
    column(
        "group_size",
        ColumnType::Int,
        "Sources in one claim of a worker.",
    ),
    column(
        "concurrency",
        ColumnType::Int,
        "How many times group_size jobs may run at once in the whole store.",
    ),
    column(
        "max_attempts",
        ColumnType::Int,
        "Failures after which a job is discarded.",
    ),
    column("timeout_ms", ColumnType::Int, "How long one group may run."),
    column(
        "lease_ms",
        ColumnType::Int,
        "The lease of a running job, renewed by heartbeats.",
    ),
    column(
        "backoff_ms",
        ColumnType::Int,
        "The pause after the first failure; it doubles.",
    ),
    column("backoff_max_ms", ColumnType::Int, "The longest pause."),
    column(
        "memory_bytes",
        ColumnType::Int,
        "Address space of a command; NULL: unlimited.",
    ),
    column("waiting", ColumnType::Int, "Its jobs in the queue."),
    column("running", ColumnType::Int, "Its jobs that run."),
    column(
        "created_at",
        ColumnType::Time,
        "When its newest version was made.",
    ),
    column("created_by", ColumnType::Text, "By whom."),
    column(
        "definition",
        ColumnType::Text,
        "The statement that made it.",
    ),
];

impl Transforms {
    /// The transforms in use.
    pub fn new(state: &State) -> Self {
        let used = state
            .transforms
            .values()
            .filter(|found| found.dropped == Dropped::No);
        let named = used.filter_map(|transform| {
            let table = state.tables.get(&transform.table)?;
            Some((Arc::clone(transform), Arc::clone(&table.name)))
        });
        Self {
            transforms: named.collect(),
        }
    }
}

impl SnapshotRows for Transforms {
    fn name(&self) -> &'static str {
        "transforms"
    }

    fn columns(&self) -> &'static [ColumnDoc] {
        TRANSFORMS
    }

    fn len(&self) -> usize {
        self.transforms.len()
    }

    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef {
        let rows = self.transforms.get(rows).unwrap_or_default();
        let each = || rows.iter().map(|(transform, _)| transform);
        let number = |of: fn(&Transform) -> Option<u64>| ints(each().map(|found| of(found)));
        match TRANSFORMS.get(column).map_or("", |column| column.name) {
            "name" => texts(each().map(|found| Some(&found.name))),
            "version" => number(|found| Some(u64::from(found.version.number))),
            "source_table" => texts(rows.iter().map(|(_, table)| Some(table))),
            "kind" => texts(each().map(|found| Some(found.def().kind.name()))),
            "from_status" => text_lists(each().map(|found| found.def().from_status.as_slice())),
            "to_status" => text_lists(each().map(|found| found.def().to_status.as_slice())),
            "group_size" => number(|found| Some(u64::from(found.def().group_size))),
            "concurrency" => number(|found| Some(u64::from(found.def().concurrency))),
            "max_attempts" => number(|found| Some(u64::from(found.def().max_attempts))),
            "timeout_ms" => number(|found| Some(found.def().timeout_ms)),
            "lease_ms" => number(|found| Some(found.def().lease_ms)),
            "backoff_ms" => number(|found| Some(found.def().backoff_ms)),
            "backoff_max_ms" => number(|found| Some(found.def().backoff_max_ms)),
            "memory_bytes" => number(|found| found.def().memory_bytes),
            "waiting" => number(|found| Some(found.queue.len())),
            "running" => number(|found| Some(found.running)),
            "created_at" => times(each().map(|found| found.created_at)),
            "created_by" => texts(each().map(|found| Some(&found.created_by))),
            _ => texts(each().map(|found| Some(&found.def().sql))),
        }
    }
}

/// `workers`: one row per name under which jobs were claimed.
#[derive(Debug)]
pub struct Workers {
    /// The snapshot.
    pub state: Arc<State>,
}

const WORKERS: &[ColumnDoc] = &[
    column("name", ColumnType::Text, "The worker."),
    column("first_seen_at", ColumnType::Time, "Its first claim."),
    column(
        "last_seen_at",
        ColumnType::Time,
        "Its last claim, heartbeat or report.",
    ),
    column("running", ColumnType::Int, "Jobs that it holds."),
    column("completed", ColumnType::Int, "Attempts that it completed."),
    column(
        "failed",
        ColumnType::Int,
        "Attempts that it reported as failed.",
    ),
    column(
        "crashed",
        ColumnType::Int,
        "Attempts of it whose lease ran out.",
    ),
];

impl SnapshotRows for Workers {
    fn name(&self) -> &'static str {
        "workers"
    }

    fn columns(&self) -> &'static [ColumnDoc] {
        WORKERS
    }

    fn len(&self) -> usize {
        self.state.workers.len()
    }

    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef {
        let each = || rows.clone().filter_map(|row| self.state.workers.get(row));
        let number = |of: fn(&Worker) -> u64| ints(each().map(|worker| Some(of(worker))));
        match WORKERS.get(column).map_or("", |column| column.name) {
            "name" => texts(each().map(|worker| Some(&worker.name))),
            "first_seen_at" => times(each().map(|worker| worker.first_seen_at)),
            "last_seen_at" => times(each().map(|worker| worker.last_seen_at)),
            "running" => number(|worker| worker.running),
            "completed" => number(|worker| worker.completed),
            "failed" => number(|worker| worker.failed),
            _ => number(|worker| worker.crashed),
        }
    }
}

/// The columns of a table of this file.
pub fn columns_of(table: &str) -> Option<&'static [ColumnDoc]> {
    match table {
        "jobs" => Some(JOBS),
        "locks" => Some(LOCKS),
        "batches" => Some(BATCHES),
        "transforms" => Some(TRANSFORMS),
        "workers" => Some(WORKERS),
        _ => None,
    }
}

/// All tables of this file, for a snapshot.
pub fn all(state: &Arc<State>, now: Timestamp, store_url: &Arc<str>) -> Vec<Arc<dyn SnapshotRows>> {
    vec![
        Arc::new(Jobs {
            state: Arc::clone(state),
            now,
            store_url: Arc::clone(store_url),
        }),
        Arc::new(Locks::new(state, now)),
        Arc::new(Batches {
            state: Arc::clone(state),
        }),
        Arc::new(Transforms::new(state)),
        Arc::new(Workers {
            state: Arc::clone(state),
        }),
    ]
}
