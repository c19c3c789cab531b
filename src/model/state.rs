//! The state at one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;

use crate::id::{BatchId, JobId, Slot, TableId, Token, TransformId, Version};
use crate::model::chunked::Chunked;
use crate::model::event::ObjectKind;
use crate::model::jobs::{Batch, Job, JobState, Worker};
use crate::model::kept::KeptStatements;
use crate::model::keys::Key;
use crate::model::lineage::Lineage;
use crate::model::locks::LockTable;
use crate::model::queue::{Found, Queue};
use crate::model::sources::{Source, SourceTable};
use crate::model::tokens::AccessToken;
use crate::model::transform::{TransformDef, TransformVersion};
use crate::time::Timestamp;

/// A transform with its queue.
#[derive(Debug, Clone)]
pub struct Transform {
    /// Its id, kept through all versions.
    pub id: TransformId,
    /// Its name.
    pub name: Arc<str>,
    /// The table of its sources.
    pub table: TableId,
    /// The newest version.
    pub version: TransformVersion,
    /// When and by whom the newest version was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Arc<str>,
    /// Whether it can be used, or was dropped and is kept for the sake of its finished jobs.
    pub dropped: Dropped,
    /// Jobs that wait for it.
    pub queue: Queue,
    /// Jobs of it that run.
    pub running: u64,
    /// The attempts that run, by the version that they started.
    pub attempts: BTreeMap<u32, u64>,
    /// What older versions say of which attempts run.
    pub older: BTreeMap<u32, Arc<TransformDef>>,
}

/// Whether DROP was said of something that is kept for the sake of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It is in use.
    No,
    /// It was dropped.
    Yes,
}

impl Transform {
    /// What the newest version says.
    pub fn def(&self) -> &TransformDef {
        &self.version.def
    }

    /// What a version says, by which an attempt of it is judged. Checkpoints of old formats lack
    /// older versions; the newest stands in.
    pub fn def_of(&self, version: u32) -> &Arc<TransformDef> {
        self.older.get(&version).unwrap_or(&self.version.def)
    }

    /// Counts an attempt of a version in.
    pub(in crate::model) fn attempt_began(&mut self, version: u32) {
        self.running += 1;
        *self.attempts.entry(version).or_default() += 1;
    }

    /// Counts an attempt of a version out, and forgets the version where that was its last.
    pub(in crate::model) fn attempt_ended(&mut self, version: u32) {
        self.running = self.running.saturating_sub(1);
        let Some(attempts) = self.attempts.get_mut(&version) else {
            return;
        };
        *attempts = attempts.saturating_sub(1);
        if *attempts == 0 {
            self.attempts.remove(&version);
            self.older.remove(&version);
        }
    }
}

/// A view or external table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which of them.
    pub kind: ObjectKind,
    /// The statement that makes it.
    pub sql: Arc<str>,
    /// When.
    pub created_at: Timestamp,
}

/// The next turn: others wait, so that a statement which lost several races gets through.
///
/// It is a courtesy and no rule: a commit of somebody who did not wait is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The statement that has it.
    pub holder: Arc<str>,
    /// When others need not wait any more.
    pub expires_at: Timestamp,
}

/// What a transform's attempts have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    /// Attempts that ended, however.
    pub attempts: u64,
    /// Their time in microseconds.
    pub micros: u64,
}

/// Everything that is true at one version. Immutable once it is published; clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The version.
    pub version: Version,
    /// The time of its commit.
    pub at: Timestamp,
    /// What is known of the commits that led here.
    pub lineage: Lineage,
    /// The id that the next job gets, less one.
    pub last_job: JobId,
    /// The same for tokens.
    pub last_token: Token,
    /// The id that the next table gets.
    pub next_table: TableId,
    /// The id that the next transform gets.
    pub next_transform: TransformId,
    /// Source tables by id.
    pub tables: Arc<BTreeMap<TableId, Arc<SourceTable>>>,
    /// Source tables by name.
    pub table_ids: Arc<BTreeMap<Arc<str>, TableId>>,
    /// Transforms by id.
    pub transforms: Arc<BTreeMap<TransformId, Arc<Transform>>>,
    /// Transforms by name. A dropped name comes back with the same id.
    pub transform_ids: Arc<BTreeMap<Arc<str>, TransformId>>,
    /// Views and external tables by name.
    pub objects: Arc<BTreeMap<Arc<str>, Object>>,
    /// Jobs; job 1 is at index 0.
    pub jobs: Chunked<Job>,
    /// Batches; batch 1 is at index 0.
    pub batches: Chunked<Batch>,
    /// Workers in the order in which they came.
    pub workers: Chunked<Worker>,
    /// Workers by name.
    pub worker_ids: Arc<BTreeMap<Arc<str>, u32>>,
    /// Explicit locks.
    pub locks: LockTable,
    /// The statement that commits next, where one has asked for its turn.
    pub turn: Option<Turn>,
    /// The leases of running jobs, by their end.
    pub leases: OrdSet<(Timestamp, JobId)>,
    /// Statements that came with an idempotency key.
    pub kept: KeptStatements,
    /// Access tokens by name, revoked ones among them.
    pub tokens: Arc<BTreeMap<Arc<str>, AccessToken>>,
    /// What attempts took since this process opened the store. A counter for operators: nothing is
    /// decided from it, and no checkpoint has it.
    pub ran: Arc<BTreeMap<TransformId, Ran>>,
}

impl State {
    /// The source table of that name.
    pub fn table(&self, name: &str) -> Option<&Arc<SourceTable>> {
        self.tables.get(self.table_ids.get(name)?)
    }

    /// The transform of that name, where it has not been dropped.
    pub fn transform(&self, name: &str) -> Option<&Arc<Transform>> {
        self.transforms
            .get(self.transform_ids.get(name)?)
            .filter(|transform| transform.dropped == Dropped::No)
    }

    /// A job.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// A job, to be changed.
    pub fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs
            .get_mut(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// A batch.
    pub fn batch(&self, id: BatchId) -> Option<&Batch> {
        self.batches
            .get(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// A batch, to be changed.
    pub fn batch_mut(&mut self, id: BatchId) -> Option<&mut Batch> {
        self.batches
            .get_mut(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// A source table, to be changed.
    pub fn table_mut(&mut self, id: TableId) -> Option<&mut SourceTable> {
        Arc::make_mut(&mut self.tables)
            .get_mut(&id)
            .map(Arc::make_mut)
    }

    /// A transform, to be changed.
    pub fn transform_mut(&mut self, id: TransformId) -> Option<&mut Transform> {
        Arc::make_mut(&mut self.transforms)
            .get_mut(&id)
            .map(Arc::make_mut)
    }

    /// The name of a worker.
    pub fn worker_name(&self, index: u32) -> Option<&Arc<str>> {
        self.workers.get(index as usize).map(|worker| &worker.name)
    }

    /// The source of a job, where both are there.
    pub fn source(&self, table: TableId, slot: Slot) -> Option<&Source> {
        self.tables.get(&table)?.source(slot)
    }

    /// The key of a source, present or deleted.
    pub fn key(&self, table: TableId, slot: Slot) -> Option<Key<'_>> {
        self.tables.get(&table)?.keys.get(slot)
    }

    /// What the version of its transform says that the last attempt of a job started.
    pub fn def_of(&self, job: &Job) -> Option<&Arc<TransformDef>> {
        let transform = self.transforms.get(&job.transform)?;
        Some(transform.def_of(job.transform_version))
    }

    /// Parks the jobs that wait for a source while a job runs on it, and puts them back into their
    /// queues when none does.
    pub(in crate::model) fn park(&mut self, source: &Source, running: JobId) {
        let waiting: Vec<(TransformId, i16, Timestamp, JobId)> = self
            .live_jobs(source)
            .filter(|(_, job)| matches!(job.state, JobState::Waiting | JobState::Retryable))
            .map(|(id, job)| (job.transform, job.priority, job.run_at, id))
            .collect();
        for (transform, priority, run_at, id) in waiting {
            let Some(transform) = self.transform_mut(transform) else {
                continue;
            };
            match running.some() {
                Some(_) => match transform.queue.park(priority, run_at, id) {
                    Found::Yes => {}
                    // It comes from a checkpoint, which has the jobs of the order only.
                    Found::No => transform.queue.insert_parked(),
                },
                None => transform.queue.unpark(priority, run_at, id),
            }
        }
    }

    /// The live jobs of a source: the one that came first, first.
    pub fn live_jobs(&self, source: &Source) -> impl Iterator<Item = (JobId, &Job)> {
        let mut next = source.live_job.some();
        std::iter::from_fn(move || {
            let id = next?;
            let job = self.job(id)?;
            next = job.next_live.some();
            Some((id, job))
        })
    }

    /// The live job of a transform on a source.
    pub fn live_job(&self, source: &Source, transform: TransformId) -> Option<JobId> {
        self.live_jobs(source)
            .find_map(|(id, job)| (job.transform == transform).then_some(id))
    }

    /// The jobs whose lease has ended at `now`.
    pub fn crashed_jobs(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        self.leases
            .iter()
            .take_while(move |(expires_at, _)| *expires_at <= now)
            .map(|(_, job)| *job)
    }

    /// The kind of object that has this name already: all names share one space.
    pub fn name_in_use(&self, name: &str) -> Option<&'static str> {
        if self.table_ids.contains_key(name) {
            Some("source table")
        } else {
            self.objects.get(name).map(|object| object.kind.name())
        }
    }
}
