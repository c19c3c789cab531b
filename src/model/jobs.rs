//! Jobs: one transform applied to one source.
//!
//! A job has no heap memory of its own; what few jobs have stands behind one shared pointer.

use std::sync::Arc;

use crate::id::{BatchId, JobId, Slot, TableId, Token, TransformId};
use crate::time::Timestamp;

/// The state of a job as it is kept. What users see is [`Job::shown_state`], because a job whose
/// time comes turns available without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// In the queue, before its first attempt or after a crash or hand-back.
    Waiting,
    /// In the queue after a failed attempt.
    Retryable,
    /// Held by a worker, which also holds the lock on the source.
    Running,
    /// Final: done, its output is linked.
    Completed,
    /// Final: cancelled by somebody.
    Cancelled,
    /// Final: failed on its last attempt.
    Discarded,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Retryable,
        Self::Running,
        Self::Completed,
        Self::Cancelled,
        Self::Discarded,
    ];

    /// Whether a job in this state is live or has come to its end.
    pub fn liveness(self) -> Liveness {
        match self {
            Self::Waiting | Self::Retryable | Self::Running => Liveness::Live,
            Self::Completed | Self::Cancelled | Self::Discarded => Liveness::Final,
        }
    }

    /// The name in events and tables; a waiting job's depends on the time.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "available",
            Self::Retryable => "retryable",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Discarded => "discarded",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Whether a job can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It can.
    Live,
    /// Never again.
    Final,
}

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The table of its source.
    pub table: TableId,
    /// Its source.
    pub slot: Slot,
    /// What is to be done.
    pub transform: TransformId,
    /// The version of the transform that the last attempt ran, 0 before the first.
    pub transform_version: u32,
    /// The statement that scheduled it.
    pub batch: BatchId,
    /// Where it stands.
    pub state: JobState,
    /// Higher runs first.
    pub priority: i16,
    /// Attempts begun.
    pub attempt: u16,
    /// Attempts that ended with a failure.
    pub failures: u16,
    /// Attempts that ended because the lease ran out.
    pub crashes: u16,
    /// The worker of the last attempt, an index into `State::workers`.
    pub worker: u32,
    /// The fencing token of the last attempt.
    pub token: Token,
    /// The next live job of the same source, or none.
    pub next_live: JobId,
    /// When it was scheduled.
    pub created_at: Timestamp,
    /// Not to be started before.
    pub run_at: Timestamp,
    /// When the last attempt began; 0 before the first.
    pub started_at: Timestamp,
    /// When it came to its final state; 0 before.
    pub ended_at: Timestamp,
    /// When the lease of a running job ends.
    pub expires_at: Timestamp,
    /// What few jobs have.
    pub extra: Option<Arc<JobExtra>>,
}

/// The parts that few jobs have, or that many jobs share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobExtra {
    /// Parameters, as JSON text.
    pub params: Option<Arc<str>>,
    /// The final job that this one tries again.
    pub parent: JobId,
    /// The code of the last error.
    pub error_code: Option<Arc<str>>,
    /// The text of the last error.
    pub error: Option<Arc<str>>,
    /// Where the completed job's output is.
    pub output_uri: Option<Arc<str>>,
    /// When cancelling was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// Who asked for it.
    pub cancel_requested_by: Option<Arc<str>>,
}

impl Job {
    /// The state that users see at `now`: River's graph.
    ///
    /// # Source
    /// Job states of River (riverqueue.com/docs/job-lifecycle).
    pub fn shown_state(&self, now: Timestamp) -> &'static str {
        match self.state {
            JobState::Waiting if self.run_at > now => "scheduled",
            JobState::Retryable if self.run_at <= now => "available",
            other => other.name(),
        }
    }

    /// How often it was handed back: the attempts that ended in no other way.
    pub fn hand_backs(&self) -> u16 {
        let running = u16::from(self.state == JobState::Running);
        self.attempt
            .saturating_sub(running)
            .saturating_sub(self.failures)
            .saturating_sub(self.crashes)
    }

    /// What few jobs have, to be changed.
    pub fn extra_mut(&mut self) -> &mut JobExtra {
        Arc::make_mut(self.extra.get_or_insert_default())
    }

    /// When cancelling was asked for.
    pub fn cancel_requested_at(&self) -> Option<Timestamp> {
        self.extra.as_ref()?.cancel_requested_at
    }
}

/// The jobs that one statement scheduled.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The name that the user gave, if any.
    pub name: Option<Arc<str>>,
    /// The statement.
    pub statement_id: Arc<str>,
    /// Who ran it.
    pub actor: Arc<str>,
    /// When.
    pub created_at: Timestamp,
    /// When its last live job ended; 0 while some are live.
    pub ended_at: Timestamp,
    /// Jobs by state, in the order of [`JobState::ALL`].
    pub counts: [u64; 6],
}

impl Batch {
    /// All its jobs.
    pub fn jobs(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Its jobs in one state.
    pub fn count(&self, state: JobState) -> u64 {
        JobState::ALL
            .iter()
            .zip(self.counts)
            .find_map(|(other, count)| (*other == state).then_some(count))
            .unwrap_or(0)
    }

    /// Counts new jobs.
    pub fn count_scheduled(&mut self, jobs: u64) {
        for (state, count) in JobState::ALL.iter().zip(self.counts.iter_mut()) {
            if *state == JobState::Waiting {
                *count += jobs;
            }
        }
        self.ended_at = Timestamp(0);
    }

    /// Counts a job out of one state and into another.
    pub fn count_move(&mut self, from: JobState, to: JobState) {
        for (state, count) in JobState::ALL.iter().zip(self.counts.iter_mut()) {
            if *state == from {
                *count = count.saturating_sub(1);
            }
            if *state == to {
                *count += 1;
            }
        }
    }
}

/// What is known of a worker: the name under which it claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Its name.
    pub name: Arc<str>,
    /// Its first claim.
    pub first_seen_at: Timestamp,
    /// Its last claim, heartbeat or report.
    pub last_seen_at: Timestamp,
    /// Jobs that it holds.
    pub running: u64,
    /// Attempts that it completed.
    pub completed: u64,
    /// Attempts that it reported as failed.
    pub failed: u64,
    /// Attempts whose lease ran out.
    pub crashed: u64,
}
