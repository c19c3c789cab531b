//! The rules that no commit may break, each a named predicate.
//!
//! [`crate::model::apply`] asks them for every event, both when a commit is decided and when it is
//! replayed. A broken rule in a commit that is about to be written is a bug of ours; in one that
//! is read it means that the ledger was damaged or written by something else.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdSet;
use uuid::Uuid;

use crate::chance::made_at;
use crate::id::{JobId, Slot, TableId, Token, TransformId};
use crate::model::event::AttemptRef;
use crate::model::jobs::{Job, JobState};
use crate::model::keys::{Key, KeyType};
use crate::model::locks::{Lock, LockMode, LockTable, path_problem};
use crate::model::sources::{STATUSES_MAX, Source, SourceTable};
use crate::model::state::{Dropped, State, Transform};
use crate::model::transform::{Permission, TransformDef};
use crate::time::Timestamp;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A rule, as messages name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it demands, in one line.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rules! {
    /// Design rule 1.
    OneHolder = "a path has one holder, above it and below it";
    /// Design rule 1.
    Paths = "keys and locked resources are paths";
    /// Design rule 2.
    OwnLock = "a lock belongs to its token under the name that took it";
    /// Design rule 3.
    RunsUnderLock = "a job runs only while it holds the lock on its source";
    /// Design rule 4.
    LiveToken = "a report carries the live job, attempt and token";
    /// Design rule 5.
    LeaseEnds = "a lease ends after it began, and only an ended lease expires or crashes";
    /// Design rule 7.
    OneLiveJob = "a source has at most one live job of a transform";
    /// Design rule 7.
    JobEdge = "a job changes its state only along an edge of the graph";
    /// Design rule 8.
    StatusEdge = "a transform takes a source only from and to the statuses that it names";
    /// Design rule 9.
    TimeForward = "time never runs back";
    /// Design rule 10.
    Bounded = "attempts and statuses stay within their limit";
    /// Commits follow each other.
    Lineage = "a commit is of this store and follows the commit before it";
    /// Files that may be cleaned up already are not named.
    FreshFile = "a file joins a table soon after it was written, or never";
    /// Ids are given in order.
    IdsInOrder = "ids, tokens and slots are given in order, without holes";
    /// What an event names is there.
    Known = "an event names only what exists";
    /// Names are unique.
    UniqueName = "a name stands for one thing";
    /// A source's row is in a run of its table.
    RowInRun = "a source's row is in a run of its table";
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", rule.text())]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What broke it.
    pub what: String,
}

/// Fails with a [`Violation`] unless the predicate holds.
pub fn require(
    rule: Rule,
    holds: Permission,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    match holds {
        Permission::Allowed => Ok(()),
        Permission::Denied => Err(Violation { rule, what: what() }),
    }
}

/// Rule 1: a new lock conflicts with no other, and no running job holds what it covers.
pub fn lock_is_free(state: &State, resource: &str, mode: LockMode) -> Permission {
    Permission::of(
        state.locks.conflict(resource, mode).is_none() && running_job_on(state, resource).is_none(),
    )
}

/// Rule 1: a running job whose source the resource covers, or whose source covers the resource.
pub fn running_job_on(state: &State, resource: &str) -> Option<JobId> {
    match resource.split_once('/') {
        Some((table, key)) => running_job_at(state.table(table)?, key),
        None => state.table(resource)?.a_running_job(),
    }
}

/// Rule 1: a running job on a key, on one above it or on one below it.
///
/// # Guarantees
/// Cost: a look-up per part of the key, and one for all keys below.
pub fn running_job_at(table: &SourceTable, key: &str) -> Option<JobId> {
    if table.running == 0 {
        return None;
    }
    // A path below a source (`notices/1/part`) is covered by the source's lock, and a path above
    // some sources whose keys hold slashes covers those.
    let ends = key.match_indices('/').map(|(end, _)| end);
    ends.chain([key.len()])
        .filter_map(|end| table.def.key_type.parse(key.get(..end)?))
        .filter_map(|key| table.source(table.keys.find(key)?))
        .find_map(|source| source.running_job.some())
        .or_else(|| table.nested_running.below(key))
}

/// The same for the key of a source, beside a job on the source itself. Where no key of the table
/// has parts, nothing is looked up.
pub fn running_job_on_key(table: &SourceTable, key: Key<'_>) -> Option<JobId> {
    match key {
        Key::Text(text) if text.contains('/') => running_job_at(table, text),
        Key::Text(text) => table.nested_running.below(text),
        Key::Int(_) => None,
    }
}

/// Rule 1 and 3: nobody holds the source, so that a job may start on it.
pub fn source_is_free(
    locks: &LockTable,
    table: &SourceTable,
    slot: Slot,
    source: &Source,
) -> Permission {
    if source.running_job != JobId::NONE {
        return Permission::Denied;
    }
    let Some(key) = table.keys.get(slot) else {
        return Permission::Denied;
    };
    if running_job_on_key(table, key).is_some() {
        return Permission::Denied;
    }
    if locks.is_empty() {
        return Permission::Allowed;
    }
    let resource = format!("{}/{key}", table.name);
    Permission::of(locks.conflict(&resource, LockMode::Exclusive).is_none())
}

/// Rule 1: the locks on a key, on what is above it and below it.
pub fn locks_on<'s>(
    locks: &'s LockTable,
    table: &SourceTable,
    key: Key<'_>,
) -> Vec<(&'s Arc<str>, &'s Lock)> {
    if locks.is_empty() {
        return Vec::new();
    }
    let resource = format!("{}/{key}", table.name);
    let found = locks.covering(&resource).chain(locks.below(&resource));
    found.collect()
}

/// Rule 2: whether a lock is one's own: its token is shown, under the name that took it.
pub fn lock_is_own(lock: &Lock, actor: &str, shown: &OrdSet<Token>) -> Permission {
    Permission::of(*lock.owner == *actor && shown.contains(&lock.token))
}

/// Rule 2: a row whose key is locked changes under one of its locks only, all of which are of the
/// actor.
///
/// A change that is decided is held to more ([`lock_is_own`] of each lock); its event names one
/// token, for that is what a replay can know.
pub fn changes_under(
    locks: &[(&Arc<str>, &Lock)],
    actor: &str,
    under: Option<Token>,
) -> Permission {
    let named = locks.iter().any(|(_, lock)| Some(lock.token) == under);
    let of_actor = locks.iter().all(|(_, lock)| *lock.owner == *actor);
    Permission::of(locks.is_empty() || (named && of_actor))
}

/// Rule 1: the key of a source is a path below its table.
pub fn key_is_path(table: &SourceTable, key: Key<'_>) -> Result<(), &'static str> {
    match key {
        Key::Int(_) => Ok(()),
        Key::Text(text) => path_problem(text, table.name.len() + 1).map_or(Ok(()), Err),
    }
}

/// Rule 1: a resource is a path below a table, which names a source or could, or is free.
pub fn resource_is_known(state: &State, resource: &str) -> Permission {
    if resource.starts_with('@') {
        return Permission::Allowed;
    }
    let (table, key) = match resource.split_once('/') {
        Some((table, key)) => (table, key.split('/').next()),
        None => (resource, None),
    };
    let known = state
        .table(table)
        .is_some_and(|table| match table.def.key_type {
            KeyType::Text => true,
            KeyType::Int => key.is_none_or(|key| table.def.key_type.parse(key).is_some()),
        });
    Permission::of(known)
}

/// What a job is scheduled with: a transform of its source's table that was not dropped.
pub fn works_on(transform: &Transform, table: TableId) -> Permission {
    Permission::of(transform.table == table && transform.dropped == Dropped::No)
}

/// Rule 4: the report is of the attempt that runs.
pub fn report_is_live(job: &Job, report: AttemptRef) -> Permission {
    Permission::of(
        job.state == JobState::Running
            && job.attempt == report.attempt
            && job.token == report.token,
    )
}

/// Rule 5: a lease lies ahead.
pub fn lease_lies_ahead(now: Timestamp, expires_at: Timestamp) -> Permission {
    Permission::of(expires_at > now)
}

/// Rule 5: a lease is over.
pub fn lease_is_over(now: Timestamp, expires_at: Timestamp) -> Permission {
    Permission::of(expires_at <= now)
}

/// Rule 7: the transform has no live job on the source.
pub fn no_live_job(state: &State, source: &Source, transform: TransformId) -> Permission {
    Permission::of(state.live_job(source, transform).is_none())
}

/// Rule 7: the edges of the job graph.
///
/// `Waiting -> Running` a worker claims it. `Waiting -> Cancelled` somebody cancels it, or its
/// source is no longer in a status that the transform takes. `Retryable -> Running | Cancelled`
/// the same. `Running -> Completed` success. `Running -> Retryable` failure with attempts left.
/// `Running -> Discarded` the last failure. `Running -> Waiting` crash, or handed back.
/// `Running -> Cancelled` its worker followed a request. There is no edge from a final state.
pub fn job_edge(from: JobState, to: JobState) -> Permission {
    use JobState::{Cancelled, Completed, Discarded, Retryable, Running, Waiting};
    Permission::of(match from {
        Waiting | Retryable => matches!(to, Running | Cancelled),
        Running => matches!(to, Completed | Retryable | Discarded | Waiting | Cancelled),
        Completed | Cancelled | Discarded => false,
    })
}

/// Rule 8: the transform takes sources of this status.
pub fn status_is_taken(transform: &Transform, status: &str) -> Permission {
    transform.def().takes(status)
}

/// Rule 8: a transform of this definition may set this status.
pub fn status_may_be_set(def: &TransformDef, status: Option<&str>) -> Permission {
    match status {
        None => Permission::Allowed,
        Some(status) => Permission::of(def.status_to_set(Some(status)).is_ok()),
    }
}

/// Rule 9: the commit is not earlier than the one before it.
pub fn time_runs_on(before: Timestamp, at: Timestamp) -> Permission {
    Permission::of(at >= before)
}

/// How long after it was made a file may join a table. Far longer than a statement takes; what
/// joins nothing within it never will, so then it may be deleted. A part of the format: a replay
/// judges by the same span.
pub const FILE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// When a file was made, by its writer's clock: its name is an id that tells.
pub fn file_made_at(path: &str) -> Option<Timestamp> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    made_at(Uuid::try_parse(name).ok()?)
}

/// The file that a commit at this moment names cannot have been cleaned up. One whose name does
/// not tell its age never is.
pub fn file_is_fresh(path: &str, at: Timestamp) -> Permission {
    Permission::of(file_made_at(path).is_none_or(|made| at.since(made) <= FILE_AGE_MAX))
}

/// Rule 10: one more failure is within the limit, so the job may be tried again.
pub fn attempts_left(job: &Job, def: &TransformDef) -> Permission {
    Permission::of(
        job.failures + 1 < def.max_attempts && attempt_follows(job) == Permission::Allowed,
    )
}

/// Rule 10: there is a number for one more attempt.
pub fn attempt_follows(job: &Job) -> Permission {
    Permission::of(job.attempt < u16::MAX)
}

/// Rule 10: a table has a code for the status, or room for one more.
pub fn status_fits(table: &SourceTable, status: &str) -> Permission {
    Permission::of(table.statuses.len() < STATUSES_MAX || table.status_code(status).is_some())
}
