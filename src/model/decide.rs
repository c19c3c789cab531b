//! The commands: what users and workers ask for, decided against the newest state.
//!
//! A command is a method of [`Draft`]. It returns a [`Decision`], granted or not, with the
//! reason; what was not granted is recorded as an event. It fails only where the whole statement
//! is malformed, and then the draft is thrown away.

mod catalog;
mod claims;
mod jobs;
mod locks;
mod reports;
mod sources;
mod tokens;
mod upkeep;

use std::borrow::Cow;
use std::sync::Arc;

use crate::id::{JobId, Slot, Token};
use crate::model::draft::{Author, Draft};
use crate::model::keys::Key;
use crate::model::locks::{Lock, LockMode};
use crate::model::rules;
use crate::model::sources::{Source, SourceTable};
use crate::model::transform::Permission;

pub use catalog::{IfExists, IfMissing, NewObject};
pub use claims::StartedJob;
pub use jobs::{ScheduleOptions, ScheduleTarget};
pub use locks::{AcquireOptions, Force};
pub use reports::{Completion, Failure, Report};
pub use sources::{ChangedRow, NewRun, PutRow, WriteMode};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $grant:ident;)*) => {
        /// How a command ended, in one word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Outcome { $($(#[$doc])* $name,)* }

        impl Outcome {
            /// Every outcome.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that users see.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the state changed as was asked for.
            pub fn grant(self) -> Grant {
                match self { $(Self::$name => Grant::$grant,)* }
            }
        }
    };
}

/// Whether a command was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It was.
    Granted,
    /// It was not.
    Refused,
}

outcomes! {
    /// A new job waits.
    Scheduled = "scheduled", Granted;
    /// The transform has a live job on the source already; its id is returned.
    AlreadyLive = "already-live", Refused;
    /// Somebody holds the source or resource.
    Locked = "locked", Refused;
    /// The transform does not take sources of this status.
    WrongStatus = "wrong-status", Refused;
    /// There is no source of this key.
    UnknownSource = "unknown-source", Refused;
    /// There is no job of this id.
    UnknownJob = "unknown-job", Refused;
    /// An argument that must be given is NULL.
    NullArgument = "null-argument", Refused;
    /// The job was cancelled.
    Cancelled = "cancelled", Granted;
    /// The job runs; its worker was asked to stop.
    CancelRequested = "cancel-requested", Granted;
    /// The job is final already.
    AlreadyFinal = "already-final", Refused;
    /// The source has the status from now on.
    StatusSet = "status-set", Granted;
    /// The source has this status already.
    Unchanged = "unchanged", Refused;
    /// The lock is held from now on.
    Acquired = "acquired", Granted;
    /// The lease was prolonged.
    Renewed = "renewed", Granted;
    /// The lock is free from now on.
    Released = "released", Granted;
    /// There is no such lock, the token is not its token, or somebody else took it.
    NotHeld = "not-held", Refused;
    /// The report's token is not that of the running attempt.
    StaleToken = "stale-token", Refused;
    /// The attempt lives on.
    Alive = "alive", Granted;
    /// The attempt lives on, but somebody asked to cancel it.
    AliveCancelRequested = "alive-cancel-requested", Granted;
    /// The job is done.
    Completed = "completed", Granted;
    /// The transform may not set this status.
    StatusNotAllowed = "status-not-allowed", Refused;
    /// The table has as many statuses as it may.
    TooManyStatuses = "too-many-statuses", Refused;
    /// The attempt failed; the job will be tried again.
    Retryable = "retryable", Granted;
    /// The attempt failed, and it was the last.
    Discarded = "discarded", Granted;
    /// The job waits again.
    HandedBack = "handed-back", Granted;
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// In one word.
    pub outcome: Outcome,
    /// In words; empty where there is nothing to say.
    pub reason: Cow<'static, str>,
    /// The job that was made, changed, or is live already.
    pub job: Option<JobId>,
    /// The token of the lock that was acquired.
    pub token: Option<Token>,
    /// The job that is in the way.
    pub blocking_job: Option<JobId>,
    /// Who is in the way.
    pub holder: Option<Arc<str>>,
}

impl Decision {
    /// A decision without further parts.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            reason: Cow::Borrowed(""),
            job: None,
            token: None,
            blocking_job: None,
            holder: None,
        }
    }

    /// A refusal with its reason.
    pub fn refused(outcome: Outcome, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::new(outcome)
        }
    }

    /// Adds the job.
    #[must_use]
    pub fn with_job(self, job: JobId) -> Self {
        Self {
            job: Some(job),
            ..self
        }
    }
}

/// Who or what holds a source.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Holder {
    pub job: Option<JobId>,
    pub name: Arc<str>,
    pub reason: String,
}

impl Holder {
    pub fn refusal(self) -> Decision {
        Decision {
            blocking_job: self.job,
            holder: Some(self.name),
            ..Decision::refused(Outcome::Locked, self.reason)
        }
    }
}

impl Draft<'_> {
    /// Who holds a source, other than the author of this draft by a lock of their own.
    pub(in crate::model) fn holder(
        &self,
        table: &SourceTable,
        slot: Slot,
        source: &Source,
    ) -> Option<Holder> {
        let key = table.keys.get(slot)?;
        match source.running_job.some() {
            Some(id) => self.held_by_job(id, &key.to_string()),
            None => self.holder_of_key(table, key),
        }
    }

    /// The same for a key, whether or not there is a source of it.
    pub(in crate::model) fn holder_of_key(
        &self,
        table: &SourceTable,
        key: Key<'_>,
    ) -> Option<Holder> {
        if let Some(id) = rules::running_job_on_key(table, key) {
            return self.held_by_job(id, &key.to_string());
        }
        let Author {
            actor, lock_tokens, ..
        } = &self.author;
        let locks = rules::locks_on(&self.state.locks, table, key);
        let of_other = locks
            .into_iter()
            .find(|(_, lock)| rules::lock_is_own(lock, actor, lock_tokens) == Permission::Denied);
        of_other.map(|(path, lock)| held_by_lock(path, lock, actor))
    }

    /// The lock of the author's own under which a key changes.
    pub(in crate::model) fn under(&self, table: &SourceTable, key: Key<'_>) -> Option<Token> {
        let locks = rules::locks_on(&self.state.locks, table, key);
        locks.first().map(|(_, lock)| lock.token)
    }

    /// The holder is a job, on what was asked for, above it or below it.
    pub(in crate::model) fn held_by_job(&self, id: JobId, asked: &str) -> Option<Holder> {
        let job = self.state.job(id)?;
        let worker = self.state.worker_name(job.worker)?;
        let key = self.state.key(job.table, job.slot)?.to_string();
        let place = match key == asked {
            true => "it".to_owned(),
            false => format!("\"{key}\""),
        };
        Some(Holder {
            job: Some(id),
            name: Arc::clone(worker),
            reason: format!(
                "job {id} runs on {place}, held by worker \"{worker}\" until {}",
                job.expires_at
            ),
        })
    }
}

/// A lock of somebody else; one of the author's own name belongs to another program of theirs, or
/// its token was not shown.
pub(in crate::model) fn held_by_lock(path: &str, lock: &Lock, actor: &str) -> Holder {
    let mode = match lock.mode {
        LockMode::Exclusive => "an exclusive",
        LockMode::Shared => "a shared",
    };
    let token = match *lock.owner == *actor {
        true => format!(" with token {}, which was not shown,", lock.token),
        false => String::new(),
    };
    Holder {
        job: None,
        name: Arc::clone(&lock.owner),
        reason: format!(
            "{mode} lock on \"{path}\" is held by \"{}\"{token} until {}",
            lock.owner, lock.expires_at
        ),
    }
}
