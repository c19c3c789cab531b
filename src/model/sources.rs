//! The sources of one table: which run and row holds each, its status, its live jobs.
//!
//! Everything here is by slot. User columns stay in the Parquet runs; a source costs some 40
//! bytes of memory plus its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::id::{JobId, RunId, Slot, TableId, Version};
use crate::model::chunked::{Chunked, Digest, LEAF_ITEMS};
use crate::model::keys::{Key, KeyType, Keys};
use crate::time::Timestamp;

/// The status of a source that was inserted without one.
pub const INITIAL_STATUS: &str = "RAW";

/// Distinct statuses that one table may use. Bounded so that a status is one byte in memory.
pub const STATUSES_MAX: usize = 250;

/// A user column of a source table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Its name, unique in the table and not a system column's.
    pub name: String,
    /// Its Arrow type in the text form of `arrow::datatypes::DataType`.
    pub data_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// What CREATE TABLE says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDef {
    /// The user columns in order.
    pub columns: Vec<ColumnDef>,
    /// The name of the primary key column.
    pub key: String,
    /// Its type.
    pub key_type: KeyType,
    /// The statement's text, shown by `\d`.
    pub sql: String,
}

/// One immutable Parquet file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its path in the store.
    pub path: Arc<str>,
    /// Rows in the file, live or dead.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// By row number: the slot that the row was written for.
    pub slots: Arc<Vec<u32>>,
    /// Rows that are the newest of their key.
    pub live_rows: u64,
    /// The last version at which one of its rows died or came.
    pub changed_at: Version,
}

/// What is known of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Where its newest row is: the run, and the row number in it.
    pub run: RunId,
    /// The row number inside the run.
    pub row: u32,
    /// Its status, an index into the table's statuses.
    pub status: StatusCode,
    /// Whether the source exists; a deleted one keeps its slot.
    pub presence: Presence,
    /// When the status was set last.
    pub status_at: Timestamp,
    /// The first of its live jobs; the others follow by `Job::next_live`.
    pub live_job: JobId,
    /// The job that holds its lock, because it runs.
    pub running_job: JobId,
    /// The job that was scheduled last.
    pub last_job: JobId,
    /// The commit that changed its row or status last.
    pub version: Version,
}

/// A set of statuses of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusSet([u64; 4]);

impl StatusSet {
    /// Adds a status.
    pub fn insert(&mut self, StatusCode(code): StatusCode) {
        if let Some(word) = self.0.get_mut(usize::from(code / 64)) {
            *word |= 1 << (code % 64);
        }
    }

    /// Whether a status is in it.
    pub fn contains(&self, StatusCode(code): StatusCode) -> bool {
        let word = self.0.get(usize::from(code / 64));
        word.is_some_and(|word| word >> (code % 64) & 1 == 1)
    }

    /// How many of these are in `other`.
    pub fn share_in(&self, other: &Self) -> Share {
        let all = |(these, those): (&u64, &u64)| these & !those == 0;
        let none = |(these, those): (&u64, &u64)| these & those == 0;
        if self.0.iter().zip(&other.0).all(none) {
            Share::None
        } else if self.0.iter().zip(&other.0).all(all) {
            Share::All
        } else {
            Share::Some
        }
    }
}

impl FromIterator<StatusCode> for StatusSet {
    fn from_iter<I: IntoIterator<Item = StatusCode>>(codes: I) -> Self {
        let mut set = Self::default();
        codes.into_iter().for_each(|code| set.insert(code));
        set
    }
}

/// What some sources have together, present or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcesDigest {
    /// Their statuses.
    pub statuses: StatusSet,
    /// Those on which a job is live.
    pub live: Share,
    /// Those that a job holds, because it runs.
    pub running: Share,
}

/// How many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// None.
    None,
    /// Some, not all.
    Some,
    /// All.
    All,
}

impl Share {
    fn of(matching: usize, all: usize) -> Self {
        match matching {
            0 => Self::None,
            matching if matching == all => Self::All,
            _ => Self::Some,
        }
    }
}

impl Digest<Source> for SourcesDigest {
    fn of(sources: &[Source]) -> Self {
        let count = |having: fn(&Source) -> bool| {
            let having = sources.iter().filter(|source| having(source)).count();
            Share::of(having, sources.len())
        };
        Self {
            statuses: sources.iter().map(|source| source.status).collect(),
            live: count(|source| source.live_job != JobId::NONE),
            running: count(|source| source.running_job != JobId::NONE),
        }
    }
}

/// Whether a slot's source exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It exists.
    Present,
    /// It was deleted; an INSERT of the same key brings the slot back.
    Deleted,
}

/// A status, as an index into its table's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusCode(pub u8);

/// One source table.
#[derive(Debug, Clone)]
pub struct SourceTable {
    /// Its id.
    pub id: TableId,
    /// Its name.
    pub name: Arc<str>,
    /// Its columns and key.
    pub def: Arc<TableDef>,
    /// Keys by slot and slots by key.
    pub keys: Keys,
    /// What is known of each source, by slot.
    pub sources: Chunked<Source, SourcesDigest>,
    /// Its runs.
    pub runs: Arc<BTreeMap<RunId, Run>>,
    /// The id that the next run gets.
    pub next_run: RunId,
    /// All statuses that were ever used, by [`StatusCode`].
    pub statuses: Arc<Vec<Arc<str>>>,
    /// Sources by status, by [`StatusCode`].
    pub status_counts: Arc<Vec<u64>>,
    /// Jobs that run on its sources now.
    pub running: u64,
    /// Jobs that are not final on its sources.
    pub live_jobs: u64,
    /// Those of the running jobs whose keys have parts.
    pub nested_running: NestedRunning,
}

/// Running jobs by key, where keys have parts (`n/lot`). Tables without such keys pay nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NestedRunning(OrdMap<Arc<str>, JobId>);

impl NestedRunning {
    /// Notes that a job runs on a key.
    pub fn insert(&mut self, key: Key<'_>, job: JobId) {
        if let Some(key) = nested(key) {
            self.0.insert(key.into(), job);
        }
    }

    /// Notes that no job runs on a key.
    pub fn remove(&mut self, key: Key<'_>) {
        if let Some(key) = nested(key) {
            self.0.remove(key);
        }
    }

    /// A job on a key below this one.
    pub fn below(&self, key: &str) -> Option<JobId> {
        if self.0.is_empty() {
            return None;
        }
        let prefix = format!("{key}/");
        let from: Arc<str> = prefix.as_str().into();
        let (next, job) = self.0.range(from..).next()?;
        next.starts_with(&prefix).then_some(*job)
    }
}

fn nested(key: Key<'_>) -> Option<&str> {
    match key {
        Key::Text(text) => text.contains('/').then_some(text),
        Key::Int(_) => None,
    }
}

impl SourceTable {
    /// An empty table.
    pub fn new(id: TableId, name: &str, def: TableDef) -> Self {
        Self {
            id,
            name: name.into(),
            keys: Keys::new(def.key_type),
            def: Arc::new(def),
            sources: Chunked::default(),
            runs: Arc::new(BTreeMap::new()),
            next_run: RunId(1),
            statuses: Arc::new(Vec::new()),
            status_counts: Arc::new(Vec::new()),
            running: 0,
            live_jobs: 0,
            nested_running: NestedRunning::default(),
        }
    }

    /// The source in a slot, where it is present.
    pub fn source(&self, slot: Slot) -> Option<&Source> {
        self.sources
            .get(slot.0 as usize)
            .filter(|source| source.presence == Presence::Present)
    }

    /// The source in a slot, present or deleted, to be changed.
    pub fn source_mut(&mut self, slot: Slot) -> Option<&mut Source> {
        self.sources.get_mut(slot.0 as usize)
    }

    /// One of the jobs that run on its sources.
    ///
    /// # Guarantees
    /// Cost: nothing where none runs, else a look at the digests of the sources.
    pub fn a_running_job(&self) -> Option<JobId> {
        if self.running == 0 {
            return None;
        }
        let runs = |leaf: &usize| {
            let digest = self.sources.digest(*leaf);
            digest.is_some_and(|digest| digest.running != Share::None)
        };
        let leaf = (0..self.sources.len()).step_by(LEAF_ITEMS).find(runs)?;
        let sources = (leaf..).map_while(|index| self.sources.get(index));
        sources
            .take(LEAF_ITEMS)
            .find_map(|source| source.running_job.some())
    }

    /// The number of sources.
    pub fn len(&self) -> u64 {
        self.status_counts.iter().sum()
    }

    /// Whether there are no sources.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of a status.
    pub fn status_name(&self, status: StatusCode) -> &str {
        self.statuses
            .get(usize::from(status.0))
            .map_or("", AsRef::as_ref)
    }

    /// The code of a status that some source of this table had at some time.
    pub fn status_code(&self, name: &str) -> Option<StatusCode> {
        let index = self
            .statuses
            .iter()
            .position(|status| status.as_ref() == name)?;
        u8::try_from(index).ok().map(StatusCode)
    }

    /// The code of a status, adding it to the list; `None` where the list is full.
    pub fn intern_status(&mut self, name: &str) -> Option<StatusCode> {
        if let Some(code) = self.status_code(name) {
            return Some(code);
        }
        let code = self.statuses.len();
        if code >= STATUSES_MAX {
            return None;
        }
        Arc::make_mut(&mut self.statuses).push(name.into());
        Arc::make_mut(&mut self.status_counts).push(0);
        u8::try_from(code).ok().map(StatusCode)
    }

    /// Moves the count of one source from one status to another.
    pub fn count_status(&mut self, from: Option<StatusCode>, to: Option<StatusCode>) {
        let counts = Arc::make_mut(&mut self.status_counts);
        if let Some(count) = from.and_then(|code| counts.get_mut(usize::from(code.0))) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = to.and_then(|code| counts.get_mut(usize::from(code.0))) {
            *count += 1;
        }
    }

    /// Whether a row of a run is the newest of a source that is present.
    pub fn liveness(&self, run: RunId, row: u32) -> RowLiveness {
        let slot = self
            .runs
            .get(&run)
            .and_then(|run| run.slots.get(row as usize))
            .map(|&slot| Slot(slot));
        match slot.and_then(|slot| self.source(slot)) {
            Some(source) if source.run == run && source.row == row => RowLiveness::Live,
            Some(_) | None => RowLiveness::Dead,
        }
    }
}

/// Whether a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowLiveness {
    /// It is the newest row of a present source.
    Live,
    /// It was replaced or deleted.
    Dead,
}
