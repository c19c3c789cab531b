//! A state as record batches and back: what a checkpoint holds.
//!
//! A state is a [`Catalog`] of everything small and a list of [`Part`]s, each of which is one
//! batch of at most [`PART_ROWS`] rows. Parts are independent, so they can be decoded side by
//! side; [`thaw`] joins them. Whatever follows from something else (the leases, the locks by
//! their end, the ids by name) is made again.
//!
//! `thaw(freeze(state)) == state` in the sense of [`crate::model::compare`].

mod columns;
mod names;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use crate::id::{JobId, RunId, TableId, Token, TransformId, Version};
use crate::model::chunked::Chunked;
use crate::model::jobs::JobExtra;
use crate::model::keys::{KeyPart, Keys};
use crate::model::sources::{Run, SourceTable};
use crate::model::state::State;
use crate::model::transform::Permission;
use crate::time::Timestamp;

pub use columns::{Piece, decode};
pub use names::{Catalog, FrozenTable};

/// Rows of a part. A multiple of every chunk size of the state, so that decoded parts can be
/// joined without copying; large enough that a part is worth a file.
pub const PART_ROWS: usize = 1 << 20;

macro_rules! part_kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a part holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum PartKind { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl PartKind {
            /// The name in manifests and file names.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

part_kinds! {
    /// The keys of a table by slot.
    Keys = "keys";
    /// What is known of a table's sources, by slot.
    Sources = "sources";
    /// The runs of a table.
    Runs = "runs";
    /// The slots of a table's runs, one run after the other.
    Slots = "slots";
    /// Jobs by id.
    Jobs = "jobs";
    /// What few jobs have.
    Extras = "extras";
    /// Batches by id.
    Batches = "batches";
    /// Workers by index.
    Workers = "workers";
    /// Explicit locks.
    Locks = "locks";
    /// Waiting jobs, as ranges of ids.
    Queues = "queues";
    /// Statements that came with an idempotency key.
    Kept = "kept";
}

/// A piece of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// What it holds.
    pub kind: PartKind,
    /// The table that it belongs to; 0 where it belongs to none.
    pub table: u32,
    /// The place of its first row among all rows of this kind.
    pub first: u64,
    /// Its rows.
    pub rows: u64,
}

/// Why a frozen state cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub String);

impl Damage {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// A state, ready to be written.
#[derive(Debug)]
pub struct Frozen<'s> {
    state: &'s State,
    extras: Vec<&'s Arc<JobExtra>>,
    extra_of: Vec<u32>,
}

/// Stands for "no extra" in [`Frozen::extra_of`].
const NO_EXTRA: u32 = u32::MAX;

impl<'s> Frozen<'s> {
    /// Looks at a state.
    pub fn new(state: &'s State) -> Self {
        let mut extras: Vec<&Arc<JobExtra>> = Vec::new();
        let mut shared: BTreeMap<*const JobExtra, u32> = BTreeMap::new();
        let mut extra_of = Vec::with_capacity(state.jobs.len());
        for job in state.jobs.iter() {
            let index = match &job.extra {
                None => NO_EXTRA,
                Some(extra) => {
                    let next = u32::try_from(extras.len()).unwrap_or(NO_EXTRA);
                    // Only what several jobs point to needs to be found again.
                    let index = match Arc::strong_count(extra) {
                        1 => next,
                        _ => *shared.entry(Arc::as_ptr(extra)).or_insert(next),
                    };
                    if index == next {
                        extras.push(extra);
                    }
                    index
                }
            };
            extra_of.push(index);
        }
        Self {
            state,
            extras,
            extra_of,
        }
    }

    /// All parts.
    pub fn parts(&self) -> Vec<Part> {
        let state = self.state;
        let mut parts = Vec::new();
        for table in state.tables.values() {
            let slots = table.runs.values().map(|run| run.slots.len()).sum();
            for (kind, rows) in [
                (PartKind::Keys, table.keys.len() as usize),
                (PartKind::Sources, table.sources.len()),
                (PartKind::Runs, table.runs.len()),
                (PartKind::Slots, slots),
            ] {
                split(&mut parts, kind, table.id.0, rows);
            }
        }
        let ranges = state.transforms.values();
        let ranges = ranges.map(|transform| transform.queue.ranges().count());
        for (kind, rows) in [
            (PartKind::Jobs, state.jobs.len()),
            (PartKind::Extras, self.extras.len()),
            (PartKind::Batches, state.batches.len()),
            (PartKind::Workers, state.workers.len()),
            (PartKind::Locks, state.locks.iter().count()),
            (PartKind::Queues, ranges.sum()),
            (PartKind::Kept, state.kept.len()),
        ] {
            split(&mut parts, kind, 0, rows);
        }
        parts
    }

    /// Everything small.
    pub fn catalog(&self) -> Catalog {
        Catalog::of(self.state)
    }

    /// The rows of a part.
    ///
    /// # Errors
    /// Where Arrow refuses the columns, which would be a bug.
    pub fn batch(&self, part: Part) -> Result<RecordBatch, ArrowError> {
        columns::encode(self, part)
    }
}

fn split(parts: &mut Vec<Part>, kind: PartKind, table: u32, rows: usize) {
    for first in (0..rows).step_by(PART_ROWS) {
        parts.push(Part {
            kind,
            table,
            first: first as u64,
            rows: PART_ROWS.min(rows - first) as u64,
        });
    }
}

/// The state of a catalog and all parts, each decoded.
///
/// # Errors
/// [`Damage`] where parts are missing or contradict each other.
pub fn thaw(catalog: &Catalog, mut pieces: Vec<(Part, Piece)>) -> Result<State, Damage> {
    pieces.sort_by_key(|(part, _)| (part.table, part.kind, part.first));
    let mut state = State {
        version: Version(catalog.version),
        at: Timestamp(catalog.at),
        lineage: catalog.lineage()?,
        turn: catalog.turn(),
        last_job: JobId(catalog.last_job),
        last_token: Token(catalog.last_token),
        next_table: TableId(catalog.next_table),
        next_transform: TransformId(catalog.next_transform),
        ..State::default()
    };
    let mut rows = Rows::default();
    let mut tables: BTreeMap<u32, TableRows> = BTreeMap::new();
    for (part, piece) in pieces {
        let table = tables.entry(part.table).or_default();
        rows.add(table, piece);
    }
    for frozen in &catalog.tables {
        let rows = tables.remove(&frozen.id).unwrap_or_default();
        let table = source_table(frozen, rows)?;
        if !frozen.dropped {
            Arc::make_mut(&mut state.table_ids).insert(Arc::clone(&table.name), table.id);
        }
        Arc::make_mut(&mut state.tables).insert(table.id, Arc::new(table));
    }
    catalog.transforms(&mut state);
    catalog.objects(&mut state)?;
    catalog.tokens(&mut state)?;
    rows.fill(&mut state)?;
    Ok(state)
}

/// The pieces that belong to one table.
#[derive(Default)]
struct TableRows {
    keys: Vec<KeyPart>,
    sources: Vec<Vec<crate::model::sources::Source>>,
    runs: Vec<(RunId, Run, usize)>,
    slots: Vec<Vec<u32>>,
}

/// The pieces that belong to no table.
#[derive(Default)]
struct Rows {
    jobs: Vec<Vec<crate::model::jobs::Job>>,
    extra_of: Vec<(JobId, u32)>,
    leases: Vec<(Timestamp, JobId)>,
    extras: Vec<Arc<JobExtra>>,
    batches: Vec<crate::model::jobs::Batch>,
    workers: Vec<crate::model::jobs::Worker>,
    locks: Vec<(Arc<str>, crate::model::locks::Lock)>,
    queues: Vec<(TransformId, crate::model::queue::QueueRange)>,
    kept: Vec<(Arc<str>, crate::model::kept::KeptStatement)>,
}

impl Rows {
    fn add(&mut self, table: &mut TableRows, piece: Piece) {
        match piece {
            Piece::Keys(parts) => table.keys.extend(parts),
            Piece::Sources(leaves) => table.sources.extend(leaves),
            Piece::Runs(runs) => table.runs.extend(runs),
            Piece::Slots(slots) => table.slots.push(slots),
            Piece::Jobs {
                leaves,
                extra_of,
                leases,
            } => {
                self.jobs.extend(leaves);
                self.extra_of.extend(extra_of);
                self.leases.extend(leases);
            }
            Piece::Extras(extras) => self.extras.extend(extras),
            Piece::Batches(batches) => self.batches.extend(batches),
            Piece::Workers(workers) => self.workers.extend(workers),
            Piece::Locks(locks) => self.locks.extend(locks),
            Piece::Queues(queues) => self.queues.extend(queues),
            Piece::Kept(kept) => self.kept.extend(kept),
        }
    }

    fn fill(self, state: &mut State) -> Result<(), Damage> {
        let jobs = Chunked::from_leaves(self.jobs);
        state.jobs = jobs.ok_or_else(|| Damage::new("a part of the jobs is too short"))?;
        if state.jobs.len() as u64 != state.last_job.0 {
            return Err(Damage::new(format!(
                "there are {} jobs, but the last is job {}",
                state.jobs.len(),
                state.last_job
            )));
        }
        for (id, index) in self.extra_of {
            let extra = self.extras.get(index as usize).map(Arc::clone);
            let extra = extra.ok_or_else(|| Damage::new(format!("job {id} lacks a part")))?;
            if let Some(job) = state.job_mut(id) {
                job.extra = Some(extra);
            }
        }
        state.leases = self.leases.into_iter().collect();
        state.batches = self.batches.into_iter().collect();
        let names = self.workers.iter().map(|worker| Arc::clone(&worker.name));
        state.worker_ids = Arc::new(names.zip(0_u32..).collect());
        state.workers = self.workers.into_iter().collect();
        for (resource, lock) in self.locks {
            state.locks.insert(&resource, lock);
        }
        for (id, range) in self.queues {
            let transform = state.transform_mut(id);
            let put = transform.map(|transform| transform.queue.insert_range(range));
            if put != Some(Permission::Allowed) {
                return Err(Damage::new(format!("the queue of transform {id} overlaps")));
            }
        }
        restore_running(state);
        state.kept = self.kept.into_iter().collect();
        // Checkpoints of format 1 have every key that there was.
        state.kept.expire(state.at);
        Ok(())
    }
}

/// What follows from the jobs that run: attempts by version, keys with parts, and parked jobs.
/// Checkpoints of old formats have parked jobs among the others.
fn restore_running(state: &mut State) {
    let running: Vec<JobId> = state.leases.iter().map(|(_, id)| *id).collect();
    for id in running {
        let Some(job) = state.job(id) else { continue };
        let (table, slot, version) = (job.table, job.slot, job.transform_version);
        let (transform, source) = (job.transform, state.source(table, slot).copied());
        if let Some(transform) = state.transform_mut(transform) {
            *transform.attempts.entry(version).or_default() += 1;
        }
        let found = Arc::make_mut(&mut state.tables).get_mut(&table);
        if let Some(table) = found.map(Arc::make_mut)
            && let Some(key) = table.keys.get(slot)
        {
            table.nested_running.insert(key, id);
        }
        if let Some(source) = source {
            state.park(&source, id);
        }
    }
    for transform in Arc::make_mut(&mut state.transforms).values_mut() {
        let transform = Arc::make_mut(transform);
        let attempts = &transform.attempts;
        transform
            .older
            .retain(|version, _| attempts.contains_key(version));
    }
}

fn source_table(frozen: &FrozenTable, rows: TableRows) -> Result<SourceTable, Damage> {
    let broken = |what: &str| Damage::new(format!("table \"{}\" {what}", frozen.name));
    let mut table = SourceTable::new(TableId(frozen.id), &frozen.name, frozen.def.clone());
    let keys = Keys::from_parts(frozen.def.key_type, rows.keys);
    table.keys = keys.ok_or_else(|| broken("has a part of keys that does not fit"))?;
    let sources = Chunked::from_leaves(rows.sources);
    table.sources = sources.ok_or_else(|| broken("has a part of sources that does not fit"))?;
    if (u64::from(table.keys.len()), table.sources.len() as u64) != (frozen.keys, frozen.sources) {
        return Err(broken("lacks a part of its sources"));
    }
    let mut slots = rows.slots.into_iter().flatten();
    let mut runs = BTreeMap::new();
    for (id, mut run, len) in rows.runs {
        let of_run: Vec<u32> = slots.by_ref().take(len).collect();
        if of_run.len() < len {
            return Err(broken("lacks slots of a run"));
        }
        run.slots = Arc::new(of_run);
        runs.insert(id, run);
    }
    table.runs = Arc::new(runs);
    table.next_run = RunId(frozen.next_run);
    table.statuses = Arc::new(
        frozen
            .statuses
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
    );
    table.status_counts = Arc::new(frozen.status_counts.clone());
    table.running = frozen.running;
    table.live_jobs = frozen.live_jobs;
    Ok(table)
}
