//! What a worker needs of whoever keeps the jobs.
//!
//! The loop, a group and the executors know [`Queue`] only: whether the ledger is at hand
//! ([`local`](crate::worker::local)) or behind a server ([`remote`](crate::worker::remote)) makes
//! no difference to them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::error::Result;
use crate::id::JobId;
use crate::json::{Object, parse};
use crate::model::decide::{Outcome as Verdict, Report};
use crate::model::transform::TransformDef;
use crate::session::core::Core;
use crate::worker::command::{Assignment, Outcome};

/// How often reports ended in one way, by outcome of the model.
pub type Verdicts = BTreeMap<Verdict, u64>;

/// One job of a group.
#[derive(Debug, Clone)]
pub struct GroupJob {
    /// The job and the token of the attempt.
    pub report: Report,
    /// The attempt, from 1.
    pub attempt: u16,
    /// The key of its source.
    pub source_id: String,
    /// Its parameters, as JSON.
    pub params: Option<String>,
    /// The row of its source as a JSON object, where that came with the claim.
    pub row: Option<Arc<str>>,
}

impl GroupJob {
    /// The job as a command gets it.
    pub fn assignment(&self, uri: Option<String>, output: String, row: Object) -> Assignment {
        let params = self.params.as_deref();
        Assignment {
            job_id: self.report.job,
            attempt: self.attempt,
            token: self.report.token,
            source_id: self.source_id.clone(),
            uri,
            output,
            params: params.and_then(|json| parse(json).ok()),
            row,
        }
    }
}

/// Jobs of one transform that were claimed together.
#[derive(Debug, Clone)]
pub struct Group {
    /// The transform.
    pub transform: Arc<str>,
    /// What it says, in the version that was claimed.
    pub def: Arc<TransformDef>,
    /// The jobs; never empty.
    pub jobs: Vec<GroupJob>,
    /// When they were asked for, which is before their leases began.
    pub claimed_at: Instant,
}

/// A group that can be worked on.
#[derive(Debug)]
pub struct Ready {
    /// What the executor gets.
    pub input: Input,
    /// Jobs that cannot be worked on.
    pub failed: Vec<(JobId, Outcome)>,
}

/// What an executor gets.
#[derive(Debug)]
pub enum Input {
    /// Rows for a query, which is planned over the tables of a store.
    Rows {
        /// The store.
        core: Arc<Core>,
        /// The jobs whose rows are there.
        jobs: Vec<GroupJob>,
        /// The columns, one row per job.
        batch: RecordBatch,
    },
    /// Sources for a command.
    Sources(Vec<Assignment>),
}

/// What a heartbeat is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Go on.
    Alive,
    /// The lease is renewed, but somebody asked the job to stop.
    CancelRequested,
    /// Somebody else may have the source.
    Lost,
}

/// How one job ended, before it is reported.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The job.
    pub job: GroupJob,
    /// How the executor ended it.
    pub outcome: Outcome,
    /// What its command printed; none for other kinds.
    pub log: Option<Vec<u8>>,
}

/// Where jobs come from and reports go to.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync {
    /// The bounds that the worker keeps.
    fn limits(&self) -> &Limits;

    /// Tasks for which the end of the process waits.
    fn background(&self) -> &TaskTracker;

    /// Checks that there are transforms of these names and that this worker can run them.
    ///
    /// # Errors
    /// `SG2002 unknown-transform`, `SG1004 effect-argument`.
    async fn check(&self, names: &[String]) -> Result<()>;

    /// Claims a group, of these transforms or of all that this worker can run.
    ///
    /// # Arguments
    /// `turn`: which transform is asked first where nobody knows whose job comes first, so that
    /// none starves the others.
    ///
    /// # Errors
    /// Those of the store or of the way to it.
    async fn claim(&self, names: &[String], turn: u64) -> Result<Option<Group>>;

    /// How long until a job comes due that cannot be claimed yet; none where no job waits.
    ///
    /// # Errors
    /// Those of the way to the store.
    async fn next_due(&self, names: &[String]) -> Result<Option<Duration>>;

    /// Jobs that wait or run, as far as is known without asking.
    fn left(&self, names: &[String]) -> u64;

    /// Fetches what the executor of a group needs.
    ///
    /// # Errors
    /// Those of the store; then no source is to blame.
    async fn prepare(&self, group: &Group) -> Result<Ready>;

    /// Renews the leases of running attempts.
    ///
    /// # Errors
    /// Those of the store.
    async fn heartbeat(&self, reports: Vec<Report>) -> Result<Vec<(JobId, Beat)>>;

    /// Which of some running attempts somebody asked to cancel. Changes nothing.
    ///
    /// # Errors
    /// Those of the store or of the way to it.
    async fn cancelled(&self, reports: &[Report]) -> Result<Vec<JobId>>;

    /// Reports how jobs of a group ended.
    ///
    /// # Errors
    /// Those of the store, when trying again did not help.
    ///
    /// # Guarantees
    /// A report counts once, however often it had to be sent.
    async fn report(&self, group: &Group, ended: Vec<Ended>) -> Result<Verdicts>;
}
