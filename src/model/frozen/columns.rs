//! The columns of each kind of part.
//!
//! Times are Int64 in microseconds and ids are unsigned, because nobody queries these files and
//! plain numbers decode fastest. The loops over sources and jobs allocate nothing per row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, PrimitiveArray,
    RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{
    ArrowPrimitiveType, Int16Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

use super::{Damage, Frozen, NO_EXTRA, Part, PartKind};
use crate::id::{BatchId, JobId, RunId, Slot, TableId, Token, TransformId, Version};
use crate::model::chunked::LEAF_ITEMS;
use crate::model::jobs::{Batch, Job, JobExtra, JobState, Worker};
use crate::model::kept::{KeptStatement, digest_of};
use crate::model::keys::{KeyPart, KeyType};
use crate::model::locks::{Lock, LockMode};
use crate::model::queue::QueueRange;
use crate::model::sources::{Presence, Run, Source, SourceTable, StatusCode};
use crate::time::Timestamp;

/// A decoded part.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is described at `PartKind`")]
pub enum Piece {
    Keys(Vec<KeyPart>),
    Sources(Vec<Vec<Source>>),
    Runs(Vec<(RunId, Run, usize)>),
    Slots(Vec<u32>),
    Jobs {
        leaves: Vec<Vec<Job>>,
        extra_of: Vec<(JobId, u32)>,
        leases: Vec<(Timestamp, JobId)>,
    },
    Extras(Vec<Arc<JobExtra>>),
    Batches(Vec<Batch>),
    Workers(Vec<Worker>),
    Locks(Vec<(Arc<str>, Lock)>),
    Queues(Vec<(TransformId, QueueRange)>),
    Kept(Vec<(Arc<str>, KeptStatement)>),
}

type Columns = Vec<(&'static str, ArrayRef)>;

/// The rows of a part.
pub(super) fn encode(frozen: &Frozen<'_>, part: Part) -> Result<RecordBatch, ArrowError> {
    let state = frozen.state;
    let table = state.tables.get(&TableId(part.table));
    let columns = match (part.kind, table) {
        (PartKind::Keys, Some(table)) => keys(table, part),
        (PartKind::Sources, Some(table)) => sources(table, part),
        (PartKind::Runs, Some(table)) => runs(table, part),
        (PartKind::Slots, Some(table)) => {
            let slots = table
                .runs
                .values()
                .flat_map(|run| run.slots.iter().copied());
            vec![("slot", primitive::<UInt32Type>(window(slots, part)))]
        }
        (PartKind::Jobs, _) => jobs(frozen, part),
        (PartKind::Extras, _) => extras(&rows(frozen.extras.iter().map(|e| &***e), part)),
        (PartKind::Batches, _) => batches(&rows(state.batches.iter(), part)),
        (PartKind::Workers, _) => workers(&rows(state.workers.iter(), part)),
        (PartKind::Locks, _) => locks(&rows(state.locks.iter(), part)),
        (PartKind::Queues, _) => {
            let ranges = state.transforms.iter().flat_map(|(id, transform)| {
                transform.queue.ranges().map(move |range| (*id, range))
            });
            queues(&rows(ranges, part))
        }
        (PartKind::Kept, _) => kept(&rows(state.kept.iter(), part)),
        (PartKind::Keys | PartKind::Sources | PartKind::Runs | PartKind::Slots, None) => Vec::new(),
    };
    RecordBatch::try_from_iter(columns)
}

fn window<T>(all: impl Iterator<Item = T>, part: Part) -> impl Iterator<Item = T> {
    let first = usize::try_from(part.first).unwrap_or(usize::MAX);
    all.skip(first)
        .take(usize::try_from(part.rows).unwrap_or(usize::MAX))
}

fn rows<T>(all: impl Iterator<Item = T>, part: Part) -> Vec<T> {
    window(all, part).collect()
}

fn primitive<T: ArrowPrimitiveType>(values: impl Iterator<Item = T::Native>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::from_iter_values(values))
}

/// One column of some rows.
fn column<R, T: ArrowPrimitiveType>(rows: &[R], value: impl Fn(&R) -> T::Native) -> ArrayRef {
    primitive::<T>(rows.iter().map(value))
}

fn texts<'r, R>(rows: &'r [R], value: impl Fn(&'r R) -> Option<&'r str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

fn keys(table: &SourceTable, part: Part) -> Columns {
    let first = u32::try_from(part.first).unwrap_or(u32::MAX);
    let end = u32::try_from(part.first + part.rows).unwrap_or(u32::MAX);
    vec![("key", table.keys.array((first..end).map(Slot)))]
}

fn sources(table: &SourceTable, part: Part) -> Columns {
    let first = usize::try_from(part.first).unwrap_or(usize::MAX);
    let leaves = table.sources.leaves().skip(first / LEAF_ITEMS);
    let sources: Vec<&Source> = leaves
        .flatten()
        .take(usize::try_from(part.rows).unwrap_or(usize::MAX))
        .collect();
    let presence = |source: &&Source| match source.presence {
        Presence::Present => 1,
        Presence::Deleted => 0,
    };
    vec![
        ("run", column::<_, UInt32Type>(&sources, |s| s.run.0)),
        ("row", column::<_, UInt32Type>(&sources, |s| s.row)),
        ("status", column::<_, UInt8Type>(&sources, |s| s.status.0)),
        ("present", column::<_, UInt8Type>(&sources, presence)),
        (
            "status_at",
            column::<_, Int64Type>(&sources, |s| s.status_at.0),
        ),
        (
            "live_job",
            column::<_, UInt64Type>(&sources, |s| s.live_job.0),
        ),
        (
            "running_job",
            column::<_, UInt64Type>(&sources, |s| s.running_job.0),
        ),
        (
            "last_job",
            column::<_, UInt64Type>(&sources, |s| s.last_job.0),
        ),
        (
            "version",
            column::<_, UInt64Type>(&sources, |s| s.version.0),
        ),
    ]
}

fn runs(table: &SourceTable, part: Part) -> Columns {
    let runs = rows(table.runs.iter(), part);
    vec![
        ("run", column::<_, UInt32Type>(&runs, |(id, _)| id.0)),
        ("path", texts(&runs, |(_, run)| Some(&*run.path))),
        ("rows", column::<_, UInt64Type>(&runs, |(_, run)| run.rows)),
        (
            "bytes",
            column::<_, UInt64Type>(&runs, |(_, run)| run.bytes),
        ),
        (
            "slots",
            column::<_, UInt64Type>(&runs, |(_, run)| run.slots.len() as u64),
        ),
        (
            "live_rows",
            column::<_, UInt64Type>(&runs, |(_, run)| run.live_rows),
        ),
        (
            "changed_at",
            column::<_, UInt64Type>(&runs, |(_, run)| run.changed_at.0),
        ),
    ]
}

fn state_code(state: JobState) -> u8 {
    let index = JobState::ALL.iter().position(|one| *one == state);
    index
        .and_then(|index| u8::try_from(index).ok())
        .unwrap_or(u8::MAX)
}

fn jobs(frozen: &Frozen<'_>, part: Part) -> Columns {
    let jobs = rows(frozen.state.jobs.iter(), part);
    let extra = window(frozen.extra_of.iter().copied(), part);
    let time = |value: fn(&Job) -> Timestamp| column::<_, Int64Type>(&jobs, move |j| value(j).0);
    vec![
        ("table", column::<_, UInt32Type>(&jobs, |j| j.table.0)),
        ("slot", column::<_, UInt32Type>(&jobs, |j| j.slot.0)),
        (
            "transform",
            column::<_, UInt32Type>(&jobs, |j| j.transform.0),
        ),
        (
            "transform_version",
            column::<_, UInt32Type>(&jobs, |j| j.transform_version),
        ),
        ("batch", column::<_, UInt64Type>(&jobs, |j| j.batch.0)),
        (
            "state",
            column::<_, UInt8Type>(&jobs, |j| state_code(j.state)),
        ),
        ("priority", column::<_, Int16Type>(&jobs, |j| j.priority)),
        ("attempt", column::<_, UInt16Type>(&jobs, |j| j.attempt)),
        ("failures", column::<_, UInt16Type>(&jobs, |j| j.failures)),
        ("crashes", column::<_, UInt16Type>(&jobs, |j| j.crashes)),
        ("worker", column::<_, UInt32Type>(&jobs, |j| j.worker)),
        ("token", column::<_, UInt64Type>(&jobs, |j| j.token.0)),
        (
            "next_live",
            column::<_, UInt64Type>(&jobs, |j| j.next_live.0),
        ),
        ("created_at", time(|j| j.created_at)),
        ("run_at", time(|j| j.run_at)),
        ("started_at", time(|j| j.started_at)),
        ("ended_at", time(|j| j.ended_at)),
        ("expires_at", time(|j| j.expires_at)),
        ("extra", primitive::<UInt32Type>(extra)),
    ]
}

fn extras(extras: &[&JobExtra]) -> Columns {
    let asked = extras.iter().map(|e| e.cancel_requested_at.map(|at| at.0));
    vec![
        ("params", texts(extras, |e| e.params.as_deref())),
        ("parent", column::<_, UInt64Type>(extras, |e| e.parent.0)),
        ("error_code", texts(extras, |e| e.error_code.as_deref())),
        ("error", texts(extras, |e| e.error.as_deref())),
        ("output_uri", texts(extras, |e| e.output_uri.as_deref())),
        (
            "cancel_requested_at",
            Arc::new(asked.collect::<Int64Array>()),
        ),
        (
            "cancel_requested_by",
            texts(extras, |e| e.cancel_requested_by.as_deref()),
        ),
    ]
}

/// The columns of [`Batch::counts`], in the order of [`JobState::ALL`].
const COUNTS: [&str; 6] = [
    "waiting",
    "retryable",
    "running",
    "completed",
    "cancelled",
    "discarded",
];

fn batches(batches: &[&Batch]) -> Columns {
    let mut columns = vec![
        ("name", texts(batches, |b| b.name.as_deref())),
        ("statement_id", texts(batches, |b| Some(&*b.statement_id))),
        ("actor", texts(batches, |b| Some(&*b.actor))),
        (
            "created_at",
            column::<_, Int64Type>(batches, |b| b.created_at.0),
        ),
        (
            "ended_at",
            column::<_, Int64Type>(batches, |b| b.ended_at.0),
        ),
    ];
    for (name, state) in COUNTS.into_iter().zip(JobState::ALL) {
        columns.push((name, column::<_, UInt64Type>(batches, |b| b.count(state))));
    }
    columns
}

fn workers(workers: &[&Worker]) -> Columns {
    vec![
        ("name", texts(workers, |w| Some(&*w.name))),
        (
            "first_seen_at",
            column::<_, Int64Type>(workers, |w| w.first_seen_at.0),
        ),
        (
            "last_seen_at",
            column::<_, Int64Type>(workers, |w| w.last_seen_at.0),
        ),
        ("running", column::<_, UInt64Type>(workers, |w| w.running)),
        (
            "completed",
            column::<_, UInt64Type>(workers, |w| w.completed),
        ),
        ("failed", column::<_, UInt64Type>(workers, |w| w.failed)),
        ("crashed", column::<_, UInt64Type>(workers, |w| w.crashed)),
    ]
}

fn locks(locks: &[(&Arc<str>, &Lock)]) -> Columns {
    vec![
        ("resource", texts(locks, |(resource, _)| Some(resource))),
        (
            "token",
            column::<_, UInt64Type>(locks, |(_, lock)| lock.token.0),
        ),
        ("mode", texts(locks, |(_, lock)| Some(lock.mode.name()))),
        ("owner", texts(locks, |(_, lock)| Some(&*lock.owner))),
        ("reason", texts(locks, |(_, lock)| lock.reason.as_deref())),
        (
            "acquired_at",
            column::<_, Int64Type>(locks, |(_, lock)| lock.acquired_at.0),
        ),
        (
            "expires_at",
            column::<_, Int64Type>(locks, |(_, lock)| lock.expires_at.0),
        ),
    ]
}

fn queues(ranges: &[(TransformId, QueueRange)]) -> Columns {
    vec![
        ("transform", column::<_, UInt32Type>(ranges, |(id, _)| id.0)),
        (
            "priority",
            column::<_, Int16Type>(ranges, |(_, range)| range.priority),
        ),
        (
            "run_at",
            column::<_, Int64Type>(ranges, |(_, range)| range.run_at.0),
        ),
        (
            "first",
            column::<_, UInt64Type>(ranges, |(_, range)| range.first.0),
        ),
        (
            "end",
            column::<_, UInt64Type>(ranges, |(_, range)| range.end.0),
        ),
    ]
}

fn digests(kept: &[(&Arc<str>, &KeptStatement)]) -> ArrayRef {
    let mut digests = FixedSizeBinaryBuilder::with_capacity(kept.len(), 32);
    for (_, one) in kept {
        // A digest is as long as it says.
        let _ = digests.append_value(one.digest);
    }
    Arc::new(digests.finish())
}

fn kept(kept: &[(&Arc<str>, &KeptStatement)]) -> Columns {
    vec![
        ("key", texts(kept, |(key, _)| Some(key))),
        (
            "statement_id",
            texts(kept, |(_, one)| Some(&*one.statement_id)),
        ),
        ("digest", digests(kept)),
        ("summary", texts(kept, |(_, one)| Some(&*one.summary))),
        (
            "version",
            column::<_, UInt64Type>(kept, |(_, one)| one.version.0),
        ),
        ("at", column::<_, Int64Type>(kept, |(_, one)| one.at.0)),
    ]
}

/// Decodes the batches of a part.
///
/// # Arguments
/// * `key_type`: that of the part's table; it matters for keys only.
///
/// # Errors
/// [`Damage`] where a column is missing or has another type, or the rows are too few.
pub fn decode(part: Part, key_type: KeyType, batches: &[RecordBatch]) -> Result<Piece, Damage> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows as u64 != part.rows {
        return Err(Damage::new(format!(
            "there are {rows} rows, not {}",
            part.rows
        )));
    }
    match part.kind {
        PartKind::Keys => {
            let keys = batches.iter().map(|batch| match key_type {
                KeyType::Text => Ok(KeyPart::of_texts(array(batch, "key")?)),
                KeyType::Int => Ok(KeyPart::of_ints(array(batch, "key")?)),
            });
            Ok(Piece::Keys(keys.collect::<Result<_, Damage>>()?))
        }
        PartKind::Sources => {
            let mut leaves = Vec::with_capacity(rows / LEAF_ITEMS + 1);
            batches
                .iter()
                .try_for_each(|batch| thaw_sources(batch, &mut leaves))?;
            Ok(Piece::Sources(leaves))
        }
        PartKind::Slots => {
            let mut slots = Vec::with_capacity(rows);
            for batch in batches {
                slots.extend_from_slice(array::<UInt32Array>(batch, "slot")?.values());
            }
            Ok(Piece::Slots(slots))
        }
        PartKind::Jobs => thaw_jobs(part, batches),
        PartKind::Runs => each(batches, thaw_runs).map(Piece::Runs),
        PartKind::Extras => each(batches, thaw_extras).map(Piece::Extras),
        PartKind::Batches => each(batches, thaw_batches).map(Piece::Batches),
        PartKind::Workers => each(batches, thaw_workers).map(Piece::Workers),
        PartKind::Locks => each(batches, thaw_locks).map(Piece::Locks),
        PartKind::Queues => each(batches, thaw_queues).map(Piece::Queues),
        PartKind::Kept => each(batches, thaw_kept).map(Piece::Kept),
    }
}

fn each<T>(
    batches: &[RecordBatch],
    thaw: impl Fn(&RecordBatch) -> Result<Vec<T>, Damage>,
) -> Result<Vec<T>, Damage> {
    let mut all = Vec::new();
    for batch in batches {
        all.extend(thaw(batch)?);
    }
    Ok(all)
}

fn array<'b, A: Array + 'static>(batch: &'b RecordBatch, name: &str) -> Result<&'b A, Damage> {
    let column = batch.column_by_name(name);
    let typed = column.and_then(|column| column.as_any().downcast_ref());
    typed.ok_or_else(|| Damage::new(format!("column \"{name}\" is missing or of another type")))
}

fn values<'b, T: ArrowPrimitiveType>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b [T::Native], Damage> {
    Ok(array::<PrimitiveArray<T>>(batch, name)?.values())
}

/// Rows in leaves, as [`crate::model::chunked::Chunked`] holds them.
fn in_leaves<T>(mut rows: impl Iterator<Item = T>, leaves: &mut Vec<Vec<T>>) {
    loop {
        let mut leaf = Vec::with_capacity(LEAF_ITEMS);
        leaf.extend(rows.by_ref().take(LEAF_ITEMS));
        if leaf.is_empty() {
            return;
        }
        leaves.push(leaf);
    }
}

fn thaw_sources(batch: &RecordBatch, leaves: &mut Vec<Vec<Source>>) -> Result<(), Damage> {
    let place = values::<UInt32Type>(batch, "run")?
        .iter()
        .zip(values::<UInt32Type>(batch, "row")?);
    let status = values::<UInt8Type>(batch, "status")?
        .iter()
        .zip(values::<UInt8Type>(batch, "present")?)
        .zip(values::<Int64Type>(batch, "status_at")?);
    let jobs = values::<UInt64Type>(batch, "live_job")?
        .iter()
        .zip(values::<UInt64Type>(batch, "running_job")?)
        .zip(values::<UInt64Type>(batch, "last_job")?);
    let versions = values::<UInt64Type>(batch, "version")?;
    let rows = place.zip(status).zip(jobs).zip(versions);
    let sources = rows.map(|((((run, row), status), jobs), version)| {
        let ((status, present), status_at) = status;
        let ((live_job, running_job), last_job) = jobs;
        Source {
            run: RunId(*run),
            row: *row,
            status: StatusCode(*status),
            presence: match present {
                0 => Presence::Deleted,
                _ => Presence::Present,
            },
            status_at: Timestamp(*status_at),
            live_job: JobId(*live_job),
            running_job: JobId(*running_job),
            last_job: JobId(*last_job),
            version: Version(*version),
        }
    });
    in_leaves(sources, leaves);
    Ok(())
}

fn thaw_jobs(part: Part, batches: &[RecordBatch]) -> Result<Piece, Damage> {
    let mut leaves = Vec::new();
    let mut extra_of = Vec::new();
    let mut leases = Vec::new();
    let mut first = part.first + 1;
    for batch in batches {
        let before = leaves.len();
        thaw_job_rows(batch, &mut leaves)?;
        let jobs = leaves.iter().skip(before).flatten();
        let running = jobs
            .zip(first..)
            .filter(|(job, _)| job.state == JobState::Running);
        leases.extend(running.map(|(job, id)| (job.expires_at, JobId(id))));
        let extras = values::<UInt32Type>(batch, "extra")?.iter().zip(first..);
        let some = extras.filter(|(extra, _)| **extra != NO_EXTRA);
        extra_of.extend(some.map(|(extra, id)| (JobId(id), *extra)));
        first += batch.num_rows() as u64;
    }
    Ok(Piece::Jobs {
        leaves,
        extra_of,
        leases,
    })
}

/// The jobs of a batch, column by column: nineteen columns do not zip.
fn thaw_job_rows(batch: &RecordBatch, leaves: &mut Vec<Vec<Job>>) -> Result<(), Damage> {
    let mut jobs = vec![NEW_JOB; batch.num_rows()];
    fill::<UInt32Type>(batch, "table", &mut jobs, |job, value| {
        job.table = TableId(value)
    })?;
    fill::<UInt32Type>(batch, "slot", &mut jobs, |job, value| {
        job.slot = Slot(value)
    })?;
    fill::<UInt32Type>(batch, "transform", &mut jobs, |job, value| {
        job.transform = TransformId(value);
    })?;
    fill::<UInt32Type>(batch, "transform_version", &mut jobs, |job, value| {
        job.transform_version = value;
    })?;
    fill::<UInt64Type>(batch, "batch", &mut jobs, |job, value| {
        job.batch = BatchId(value)
    })?;
    if let Some(code) = values::<UInt8Type>(batch, "state")?
        .iter()
        .find(|code| JobState::ALL.get(usize::from(**code)).is_none())
    {
        return Err(Damage::new(format!("job state {code} is unknown")));
    }
    fill::<UInt8Type>(batch, "state", &mut jobs, |job, value| {
        if let Some(state) = JobState::ALL.get(usize::from(value)) {
            job.state = *state;
        }
    })?;
    fill::<Int16Type>(batch, "priority", &mut jobs, |job, value| {
        job.priority = value
    })?;
    fill::<UInt16Type>(batch, "attempt", &mut jobs, |job, value| {
        job.attempt = value
    })?;
    fill::<UInt16Type>(batch, "failures", &mut jobs, |job, value| {
        job.failures = value
    })?;
    fill::<UInt16Type>(batch, "crashes", &mut jobs, |job, value| {
        job.crashes = value
    })?;
    fill::<UInt32Type>(batch, "worker", &mut jobs, |job, value| job.worker = value)?;
    fill::<UInt64Type>(batch, "token", &mut jobs, |job, value| {
        job.token = Token(value)
    })?;
    fill::<UInt64Type>(batch, "next_live", &mut jobs, |job, value| {
        job.next_live = JobId(value)
    })?;
    fill::<Int64Type>(batch, "created_at", &mut jobs, |job, at| {
        job.created_at = Timestamp(at)
    })?;
    fill::<Int64Type>(batch, "run_at", &mut jobs, |job, at| {
        job.run_at = Timestamp(at)
    })?;
    fill::<Int64Type>(batch, "started_at", &mut jobs, |job, at| {
        job.started_at = Timestamp(at)
    })?;
    fill::<Int64Type>(batch, "ended_at", &mut jobs, |job, at| {
        job.ended_at = Timestamp(at)
    })?;
    fill::<Int64Type>(batch, "expires_at", &mut jobs, |job, at| {
        job.expires_at = Timestamp(at)
    })?;
    in_leaves(jobs.into_iter(), leaves);
    Ok(())
}

const NEW_JOB: Job = Job {
    table: TableId(0),
    slot: Slot(0),
    transform: TransformId(0),
    transform_version: 0,
    batch: BatchId(0),
    state: JobState::Waiting,
    priority: 0,
    attempt: 0,
    failures: 0,
    crashes: 0,
    worker: 0,
    token: Token(0),
    next_live: JobId::NONE,
    created_at: Timestamp(0),
    run_at: Timestamp(0),
    started_at: Timestamp(0),
    ended_at: Timestamp(0),
    expires_at: Timestamp(0),
    extra: None,
};

fn fill<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
    jobs: &mut [Job],
    set: impl Fn(&mut Job, T::Native),
) -> Result<(), Damage> {
    let column = values::<T>(batch, name)?;
    jobs.iter_mut()
        .zip(column)
        .for_each(|(job, value)| set(job, *value));
    Ok(())
}

/// The rows of a batch of some small kind, cell by cell.
struct Cells<'b> {
    batch: &'b RecordBatch,
    row: usize,
}

impl<'b> Cells<'b> {
    fn rows(batch: &'b RecordBatch) -> impl Iterator<Item = Self> {
        (0..batch.num_rows()).map(move |row| Self { batch, row })
    }

    fn number<T: ArrowPrimitiveType>(&self, name: &str) -> Result<T::Native, Damage> {
        let column = array::<PrimitiveArray<T>>(self.batch, name)?;
        Ok(column.value(self.row))
    }

    fn u64(&self, name: &str) -> Result<u64, Damage> {
        self.number::<UInt64Type>(name)
    }

    fn time(&self, name: &str) -> Result<Timestamp, Damage> {
        self.number::<Int64Type>(name).map(Timestamp)
    }

    fn time_if(&self, name: &str) -> Result<Option<Timestamp>, Damage> {
        let column = array::<Int64Array>(self.batch, name)?;
        Ok(column
            .is_valid(self.row)
            .then(|| Timestamp(column.value(self.row))))
    }

    fn text_if(&self, name: &str) -> Result<Option<Arc<str>>, Damage> {
        let column = array::<StringArray>(self.batch, name)?;
        Ok(column
            .is_valid(self.row)
            .then(|| column.value(self.row).into()))
    }

    /// Format 1 has the text of the statement in its place.
    fn digest(&self) -> Result<[u8; 32], Damage> {
        if self.batch.column_by_name("sql").is_some() {
            return Ok(digest_of(&self.text("sql")?));
        }
        let column = array::<FixedSizeBinaryArray>(self.batch, "digest")?;
        let digest = column.value(self.row).try_into();
        digest.map_err(|_| Damage::new("a digest has another length"))
    }

    fn text(&self, name: &str) -> Result<Arc<str>, Damage> {
        Ok(self.text_if(name)?.unwrap_or_default())
    }
}

fn thaw_runs(batch: &RecordBatch) -> Result<Vec<(RunId, Run, usize)>, Damage> {
    let run = |cells: Cells<'_>| {
        let run = Run {
            path: cells.text("path")?,
            rows: cells.u64("rows")?,
            bytes: cells.u64("bytes")?,
            slots: Arc::default(),
            live_rows: cells.u64("live_rows")?,
            changed_at: Version(cells.u64("changed_at")?),
        };
        let slots = usize::try_from(cells.u64("slots")?);
        let slots = slots.map_err(|_| Damage::new("a run has too many slots"))?;
        Ok((RunId(cells.number::<UInt32Type>("run")?), run, slots))
    };
    Cells::rows(batch).map(run).collect()
}

fn thaw_extras(batch: &RecordBatch) -> Result<Vec<Arc<JobExtra>>, Damage> {
    let extra = |cells: Cells<'_>| {
        Ok(Arc::new(JobExtra {
            params: cells.text_if("params")?,
            parent: JobId(cells.u64("parent")?),
            error_code: cells.text_if("error_code")?,
            error: cells.text_if("error")?,
            output_uri: cells.text_if("output_uri")?,
            cancel_requested_at: cells.time_if("cancel_requested_at")?,
            cancel_requested_by: cells.text_if("cancel_requested_by")?,
        }))
    };
    Cells::rows(batch).map(extra).collect()
}

fn thaw_batches(batch: &RecordBatch) -> Result<Vec<Batch>, Damage> {
    let one = |cells: Cells<'_>| {
        let mut counts = [0; 6];
        for (count, name) in counts.iter_mut().zip(COUNTS) {
            *count = cells.u64(name)?;
        }
        Ok(Batch {
            name: cells.text_if("name")?,
            statement_id: cells.text("statement_id")?,
            actor: cells.text("actor")?,
            created_at: cells.time("created_at")?,
            ended_at: cells.time("ended_at")?,
            counts,
        })
    };
    Cells::rows(batch).map(one).collect()
}

fn thaw_workers(batch: &RecordBatch) -> Result<Vec<Worker>, Damage> {
    let worker = |cells: Cells<'_>| {
        Ok(Worker {
            name: cells.text("name")?,
            first_seen_at: cells.time("first_seen_at")?,
            last_seen_at: cells.time("last_seen_at")?,
            running: cells.u64("running")?,
            completed: cells.u64("completed")?,
            failed: cells.u64("failed")?,
            crashed: cells.u64("crashed")?,
        })
    };
    Cells::rows(batch).map(worker).collect()
}

fn thaw_locks(batch: &RecordBatch) -> Result<Vec<(Arc<str>, Lock)>, Damage> {
    let lock = |cells: Cells<'_>| {
        let mode = LockMode::parse(&cells.text("mode")?);
        let lock = Lock {
            token: Token(cells.u64("token")?),
            mode: mode.ok_or_else(|| Damage::new("a lock has an unknown mode"))?,
            owner: cells.text("owner")?,
            reason: cells.text_if("reason")?,
            acquired_at: cells.time("acquired_at")?,
            expires_at: cells.time("expires_at")?,
        };
        Ok((cells.text("resource")?, lock))
    };
    Cells::rows(batch).map(lock).collect()
}

fn thaw_queues(batch: &RecordBatch) -> Result<Vec<(TransformId, QueueRange)>, Damage> {
    let range = |cells: Cells<'_>| {
        let range = QueueRange {
            priority: cells.number::<Int16Type>("priority")?,
            run_at: cells.time("run_at")?,
            first: JobId(cells.u64("first")?),
            end: JobId(cells.u64("end")?),
        };
        Ok((TransformId(cells.number::<UInt32Type>("transform")?), range))
    };
    Cells::rows(batch).map(range).collect()
}

fn thaw_kept(batch: &RecordBatch) -> Result<Vec<(Arc<str>, KeptStatement)>, Damage> {
    let kept = |cells: Cells<'_>| {
        let kept = KeptStatement {
            statement_id: cells.text("statement_id")?,
            digest: cells.digest()?,
            summary: cells.text("summary")?,
            version: Version(cells.u64("version")?),
            at: cells.time("at")?,
        };
        Ok((cells.text("key")?, kept))
    };
    Cells::rows(batch).map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_format_1_are_read_by_their_texts() {
        let one = KeptStatement {
            statement_id: "s".into(),
            digest: digest_of("SELECT 1"),
            summary: "[]".into(),
            version: Version(3),
            at: Timestamp(4),
        };
        let key: Arc<str> = "ann\nk".into();
        let mut columns = kept(&[(&key, &one)]);
        let newest = RecordBatch::try_from_iter(columns.clone()).unwrap();
        columns.retain(|(name, _)| *name != "digest");
        columns.push(("sql", texts(&["SELECT 1"], |sql| Some(*sql))));
        let first = RecordBatch::try_from_iter(columns).unwrap();
        for batch in [newest, first] {
            assert_eq!(
                thaw_kept(&batch).unwrap(),
                [(Arc::clone(&key), one.clone())]
            );
        }
        let short = FixedSizeBinaryArray::try_from_iter([[0_u8; 3]].iter()).unwrap();
        let column: ArrayRef = Arc::new(short);
        let damaged = RecordBatch::try_from_iter([("digest", column)]).unwrap();
        assert!(thaw_kept(&damaged).is_err());
    }
}
