//! The commands: what users and workers ask for, decided against the newest state.
//!
//! A command is a method of [`Draft`]. It returns a [`Decision`], granted or not, with the
//! reason; what was not granted is recorded as an event. It fails only where the whole statement
//! is malformed, and then the draft is thrown away.

mod catalog;
mod jobs;
mod locks;
mod reports;
mod sources;
mod tokens;
mod upkeep;

use std::borrow::Cow;
use std::sync::Arc;

use crate::id::{JobId, Slot, Token};
use crate::model::draft::Draft;
use crate::model::locks::LockMode;
use crate::model::rules;
use crate::model::sources::{Source, SourceTable};

pub use catalog::{IfExists, IfMissing, NewObject};
pub use jobs::{ScheduleOptions, ScheduleTarget, StartedJob};
pub use locks::{AcquireOptions, Force};
pub use reports::{Completion, Failure, Report};
pub use sources::{ChangedRow, NewRun, WriteMode};

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
    /// There is no such lock, or the token is an older one.
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
    /// Who holds a source, other than the actor of this draft by an explicit lock.
    pub(in crate::model) fn holder(
        &self,
        table: &SourceTable,
        slot: Slot,
        source: &Source,
    ) -> Option<Holder> {
        if let Some(id) = source.running_job.some() {
            let job = self.state.job(id)?;
            let worker = self.state.worker_name(job.worker)?;
            return Some(Holder {
                job: Some(id),
                name: Arc::clone(worker),
                reason: format!(
                    "job {id} runs on it, held by worker \"{worker}\" until {}",
                    job.expires_at
                ),
            });
        }
        let in_the_way = rules::lock_of_other(&self.state, table, slot, &self.author.actor);
        in_the_way.map(|(path, lock)| Holder {
            job: None,
            name: Arc::clone(&lock.owner),
            reason: format!(
                "{} lock on \"{path}\" is held by \"{}\" until {}",
                match lock.mode {
                    LockMode::Exclusive => "an exclusive",
                    LockMode::Shared => "a shared",
                },
                lock.owner,
                lock.expires_at
            ),
        })
    }
}
