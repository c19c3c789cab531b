//! The rules that no commit may break, each a named predicate.
//!
//! [`crate::model::apply`] asks them for every event, both when a commit is decided and when it is
//! replayed. A broken rule in a commit that is about to be written is a bug of ours; in one that
//! is read it means that the ledger was damaged or written by something else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::chance::made_at;
use crate::id::{JobId, Slot, TableId, TransformId};
use crate::model::event::AttemptRef;
use crate::model::jobs::{Job, JobState};
use crate::model::locks::{Lock, LockMode, LockTable};
use crate::model::sources::{Source, SourceTable};
use crate::model::state::{Dropped, State, Transform};
use crate::model::transform::Permission;
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
    OneHolder = "a resource has at most one live exclusive lock";
    /// Design rule 2.
    RunsUnderLock = "a job runs only while it holds the lock on its source";
    /// Design rule 3.
    LiveToken = "a report carries the live job, attempt and token";
    /// Design rule 4.
    LeaseEnds = "a lease ends after it began, and only an ended lease expires or crashes";
    /// Design rule 5.
    OneLiveJob = "a source has at most one live job of a transform";
    /// Design rule 6.
    JobEdge = "a job changes its state only along an edge of the graph";
    /// Design rule 7.
    StatusEdge = "a transform takes a source only from and to the statuses that it names";
    /// Design rule 8.
    TimeForward = "time never runs back";
    /// Design rule 9.
    Bounded = "attempts stay within their limit";
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

/// A running job whose source the resource covers, or whose source covers the resource.
pub fn running_job_on(state: &State, resource: &str) -> Option<JobId> {
    let (table, key) = match resource.split_once('/') {
        Some((table, key)) => (state.table(table)?, Some(key)),
        None => (state.table(resource)?, None),
    };
    if table.running == 0 {
        return None;
    }
    match key {
        Some(key) => {
            // A path below a source (`notices/1/part`) is covered by the source's lock, and a
            // path above some sources whose keys hold slashes covers those.
            let ends = key
                .match_indices('/')
                .map(|(end, _)| end)
                .chain([key.len()]);
            let covering = ends
                .filter_map(|end| table.def.key_type.parse(key.get(..end)?))
                .filter_map(|key| table.source(table.keys.find(key)?))
                .find_map(|source| source.running_job.some());
            covering.or_else(|| running_below(state, table, &format!("{key}/")))
        }
        None => running_below(state, table, ""),
    }
}

fn running_below(state: &State, table: &SourceTable, prefix: &str) -> Option<JobId> {
    state.leases.iter().map(|(_, job)| *job).find(|&id| {
        state.job(id).is_some_and(|job| {
            job.table == table.id
                && (prefix.is_empty()
                    || table
                        .keys
                        .get(job.slot)
                        .is_some_and(|key| key.to_string().starts_with(prefix)))
        })
    })
}

/// Rule 1 and 2: nobody holds the source, so that a job may start on it.
pub fn source_is_free(
    locks: &LockTable,
    table: &SourceTable,
    slot: Slot,
    source: &Source,
) -> Permission {
    if source.running_job != JobId::NONE {
        return Permission::Denied;
    }
    if locks.is_empty() {
        return Permission::Allowed;
    }
    Permission::of(table.keys.get(slot).is_some_and(|key| {
        let resource = format!("{}/{key}", table.name);
        locks.conflict(&resource, LockMode::Exclusive).is_none()
    }))
}

/// Rule 1: the lock of somebody else than `actor` on a source, on what is above it or below it.
pub fn lock_of_other<'s>(
    state: &'s State,
    table: &SourceTable,
    slot: Slot,
    actor: &str,
) -> Option<(&'s Arc<str>, &'s Lock)> {
    if state.locks.is_empty() {
        return None;
    }
    let resource = format!("{}/{}", table.name, table.keys.get(slot)?);
    let locks = state
        .locks
        .covering(&resource)
        .chain(state.locks.below(&resource));
    locks.into_iter().find(|(_, lock)| *lock.owner != *actor)
}

/// What a job is scheduled with: a transform of its source's table that was not dropped.
pub fn works_on(transform: &Transform, table: TableId) -> Permission {
    Permission::of(transform.table == table && transform.dropped == Dropped::No)
}

/// Rule 3: the report is of the attempt that runs.
pub fn report_is_live(job: &Job, report: AttemptRef) -> Permission {
    Permission::of(
        job.state == JobState::Running
            && job.attempt == report.attempt
            && job.token == report.token,
    )
}

/// Rule 4: a lease lies ahead.
pub fn lease_lies_ahead(now: Timestamp, expires_at: Timestamp) -> Permission {
    Permission::of(expires_at > now)
}

/// Rule 4: a lease is over.
pub fn lease_is_over(now: Timestamp, expires_at: Timestamp) -> Permission {
    Permission::of(expires_at <= now)
}

/// Rule 5: the transform has no live job on the source.
pub fn no_live_job(state: &State, source: &Source, transform: TransformId) -> Permission {
    Permission::of(state.live_job(source, transform).is_none())
}

/// Rule 6: the edges of the job graph.
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

/// Rule 7: the transform takes sources of this status.
pub fn status_is_taken(transform: &Transform, status: &str) -> Permission {
    transform.def().takes(status)
}

/// Rule 7: the transform may set this status.
pub fn status_may_be_set(transform: &Transform, status: Option<&str>) -> Permission {
    match status {
        None => Permission::Allowed,
        Some(status) => Permission::of(transform.def().status_to_set(Some(status)).is_ok()),
    }
}

/// Rule 8: the commit is not earlier than the one before it.
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

/// Rule 9: one more failure is within the limit, so the job may be tried again.
pub fn attempts_left(job: &Job, transform: &Transform) -> Permission {
    Permission::of(job.failures + 1 < transform.def().max_attempts)
}
