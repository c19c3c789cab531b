//! Events: the facts a commit consists of. The ledger is the table of them.
//!
//! An event borrows its texts, so that deciding or replaying a million rows allocates nothing
//! per row. `columns` turns events into the columns of the `events` table and back.

use crate::id::{BatchId, JobId, RunId, Slot, TableId, Token, TransformId};
use crate::model::keys::Key;
use crate::model::locks::LockMode;
use crate::model::tokens::Role;
use crate::time::Timestamp;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in the `events` table.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// A statement that changed something. It comes last, after what it did.
    StatementCommitted = "statement-committed";
    /// CREATE TABLE.
    TableCreated = "table-created";
    /// DROP TABLE.
    TableDropped = "table-dropped";
    /// CREATE VIEW or CREATE EXTERNAL TABLE.
    ObjectCreated = "object-created";
    /// DROP VIEW or DROP of an external table.
    ObjectDropped = "object-dropped";
    /// CREATE TRANSFORM: a new transform or a new version of one.
    TransformCreated = "transform-created";
    /// DROP TRANSFORM.
    TransformDropped = "transform-dropped";
    /// A Parquet file of rows joined a table; the sources that it brings follow.
    RunAdded = "run-added";
    /// Several runs were written again as one, without their dead rows.
    RunsMerged = "runs-merged";
    /// A source came.
    SourceInserted = "source-inserted";
    /// A source got a new row.
    SourceUpdated = "source-updated";
    /// A source went.
    SourceDeleted = "source-deleted";
    /// A source got another status by `set_status`.
    StatusSet = "status-set";
    /// A statement began to schedule jobs.
    BatchCreated = "batch-created";
    /// A job came.
    JobScheduled = "job-scheduled";
    /// A worker got the job and with it the lock on the source.
    JobStarted = "job-started";
    /// A heartbeat renewed the lease of a running job.
    JobRenewed = "job-renewed";
    /// An attempt succeeded.
    JobCompleted = "job-completed";
    /// An attempt failed.
    JobFailed = "job-failed";
    /// The lease of an attempt ran out.
    JobCrashed = "job-crashed";
    /// A worker handed a job back unfinished.
    JobReleased = "job-released";
    /// Somebody asked to cancel a running job.
    JobCancelRequested = "job-cancel-requested";
    /// A job was cancelled.
    JobCancelled = "job-cancelled";
    /// An effect was not granted.
    EffectRefused = "effect-refused";
    /// A lock was acquired.
    LockAcquired = "lock-acquired";
    /// A lock's lease was prolonged.
    LockRenewed = "lock-renewed";
    /// A lock was released.
    LockReleased = "lock-released";
    /// A lock's lease ran out.
    LockExpired = "lock-expired";
    /// An access token was made.
    TokenCreated = "token-created";
    /// An access token was revoked.
    TokenRevoked = "token-revoked";
    /// A statement that had lost several races got the next turn.
    TurnTaken = "turn-taken";
    /// The time of the store was put right, which a wrong clock had moved into the future.
    TimeRepaired = "time-repaired";
}

impl EventKind {
    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// What kind of thing CREATE made, besides tables and transforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A view.
    View,
    /// An external table.
    ExternalTable,
}

impl ObjectKind {
    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::ExternalTable => "external table",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::View, Self::ExternalTable]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A source as events name it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceRef<'a> {
    /// Its table.
    pub table: TableId,
    /// Its place.
    pub slot: Slot,
    /// Its key.
    pub key: Key<'a>,
    /// The lock of the actor's own under which it changes.
    pub under: Option<Token>,
}

/// What jobs that are scheduled together have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled<'a> {
    /// The transform.
    pub transform: TransformId,
    /// The batch.
    pub batch: BatchId,
    /// Higher runs first.
    pub priority: i16,
    /// Not before.
    pub run_at: Timestamp,
    /// Parameters, as JSON.
    pub params: Option<&'a str>,
    /// The final job that is tried again; none for a new one.
    pub parent: JobId,
}

/// A running attempt as reports name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptRef {
    /// The job.
    pub job: JobId,
    /// The attempt, from 1.
    pub attempt: u16,
    /// Its fencing token.
    pub token: Token,
}

/// A row in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRef {
    /// The run.
    pub run: RunId,
    /// The row number in it.
    pub row: u32,
}

/// What an effect that was refused was about; what is unknown is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Refusal<'a> {
    /// The effect function.
    pub function: &'a str,
    /// The outcome, such as `locked`.
    pub outcome: &'a str,
    /// Why, in words.
    pub reason: &'a str,
    /// The transform that was asked for.
    pub transform: Option<&'a str>,
    /// The table of the source.
    pub table: Option<&'a str>,
    /// The source's key as it was given.
    pub source_id: Option<&'a str>,
    /// The job that was named or is in the way.
    pub job: Option<JobId>,
    /// The token that was shown.
    pub token: Option<Token>,
    /// The resource that was asked for.
    pub resource: Option<&'a str>,
    /// Who is in the way.
    pub holder: Option<&'a str>,
}

/// One fact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// See [`EventKind::StatementCommitted`].
    StatementCommitted {
        /// Its text.
        sql: &'a str,
        /// The key under which a repeated request is recognised.
        idempotency_key: Option<&'a str>,
        /// How many rows or outcomes, as JSON.
        summary: &'a str,
    },
    /// See [`EventKind::TableCreated`].
    TableCreated {
        /// The table's name.
        name: &'a str,
        /// `TableDef` as JSON.
        def: &'a str,
    },
    /// See [`EventKind::TableDropped`].
    TableDropped {
        /// The table.
        table: TableId,
    },
    /// See [`EventKind::ObjectCreated`].
    ObjectCreated {
        /// View or external table.
        kind: ObjectKind,
        /// Its name.
        name: &'a str,
        /// The statement that makes it.
        sql: &'a str,
    },
    /// See [`EventKind::ObjectDropped`].
    ObjectDropped {
        /// View or external table.
        kind: ObjectKind,
        /// Its name.
        name: &'a str,
    },
    /// See [`EventKind::TransformCreated`].
    TransformCreated {
        /// The transform's name.
        name: &'a str,
        /// `TransformDef` as JSON.
        def: &'a str,
    },
    /// See [`EventKind::TransformDropped`].
    TransformDropped {
        /// The transform.
        transform: TransformId,
    },
    /// See [`EventKind::RunAdded`].
    RunAdded {
        /// The table.
        table: TableId,
        /// The run.
        run: RunId,
        /// Its path in the store.
        path: &'a str,
        /// Its rows.
        rows: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// See [`EventKind::RunsMerged`]. The new run holds the live rows of the old ones, in the
    /// order of the old runs' ids and their rows.
    RunsMerged {
        /// The table.
        table: TableId,
        /// The new run.
        run: RunId,
        /// Its path in the store.
        path: &'a str,
        /// Its rows.
        rows: u64,
        /// Its bytes.
        bytes: u64,
        /// The ids of the runs that it replaces, as a JSON array in ascending order.
        merged: &'a str,
    },
    /// See [`EventKind::SourceInserted`].
    SourceInserted {
        /// The source.
        source: SourceRef<'a>,
        /// Its row.
        row: RowRef,
        /// Its first status.
        status: &'a str,
    },
    /// See [`EventKind::SourceUpdated`].
    SourceUpdated {
        /// The source.
        source: SourceRef<'a>,
        /// Its row.
        row: RowRef,
    },
    /// See [`EventKind::SourceDeleted`].
    SourceDeleted {
        /// The source.
        source: SourceRef<'a>,
    },
    /// See [`EventKind::StatusSet`].
    StatusSet {
        /// The source.
        source: SourceRef<'a>,
        /// The status from now on.
        status: &'a str,
    },
    /// See [`EventKind::BatchCreated`].
    BatchCreated {
        /// The batch.
        batch: BatchId,
        /// The name that the user gave.
        name: Option<&'a str>,
    },
    /// See [`EventKind::JobScheduled`].
    JobScheduled {
        /// The job.
        job: JobId,
        /// The source.
        source: SourceRef<'a>,
        /// Everything else.
        with: Scheduled<'a>,
    },
    /// See [`EventKind::JobStarted`].
    JobStarted {
        /// The attempt.
        attempt: AttemptRef,
        /// Who.
        worker: &'a str,
        /// The version of the transform that it runs.
        transform_version: u32,
        /// The end of the lease.
        expires_at: Timestamp,
    },
    /// See [`EventKind::JobRenewed`].
    JobRenewed {
        /// The attempt.
        attempt: AttemptRef,
        /// The end of the lease.
        expires_at: Timestamp,
    },
    /// See [`EventKind::JobCompleted`].
    JobCompleted {
        /// The attempt.
        attempt: AttemptRef,
        /// The source's new status, if it changes.
        status: Option<&'a str>,
        /// The source's new row, if columns were written back.
        row: Option<RowRef>,
        /// The output.
        output_uri: Option<&'a str>,
    },
    /// See [`EventKind::JobFailed`].
    JobFailed {
        /// The attempt.
        attempt: AttemptRef,
        /// When it is tried again; `None` when it is discarded.
        run_at: Option<Timestamp>,
        /// The class of the error.
        code: &'a str,
        /// The error.
        message: &'a str,
    },
    /// See [`EventKind::JobCrashed`].
    JobCrashed {
        /// The attempt.
        attempt: AttemptRef,
        /// When it is tried again; `None` when it is discarded.
        run_at: Option<Timestamp>,
    },
    /// See [`EventKind::JobReleased`].
    JobReleased {
        /// The attempt.
        attempt: AttemptRef,
        /// When it may start again; `None` when it is discarded.
        run_at: Option<Timestamp>,
    },
    /// See [`EventKind::JobCancelRequested`].
    JobCancelRequested {
        /// The job.
        job: JobId,
    },
    /// See [`EventKind::JobCancelled`].
    JobCancelled {
        /// The job.
        job: JobId,
        /// Why.
        reason: &'a str,
    },
    /// See [`EventKind::EffectRefused`].
    EffectRefused(Refusal<'a>),
    /// See [`EventKind::LockAcquired`].
    LockAcquired {
        /// What is locked.
        resource: &'a str,
        /// The token.
        token: Token,
        /// What it shuts out.
        mode: LockMode,
        /// Who.
        owner: &'a str,
        /// Why.
        reason: Option<&'a str>,
        /// The end of the lease.
        expires_at: Timestamp,
    },
    /// See [`EventKind::LockRenewed`].
    LockRenewed {
        /// What is locked.
        resource: &'a str,
        /// The token.
        token: Token,
        /// The end of the lease.
        expires_at: Timestamp,
    },
    /// See [`EventKind::LockReleased`].
    LockReleased {
        /// What was locked.
        resource: &'a str,
        /// The token.
        token: Token,
        /// Why, where it was released by force.
        reason: Option<&'a str>,
    },
    /// See [`EventKind::LockExpired`].
    LockExpired {
        /// What was locked.
        resource: &'a str,
        /// The token.
        token: Token,
    },
    /// See [`EventKind::TokenCreated`].
    TokenCreated {
        /// Its name, which is the actor of what its bearer does.
        name: &'a str,
        /// What its bearer may do.
        role: Role,
        /// SHA-256 of it, as 64 hexadecimal digits.
        hash: &'a str,
    },
    /// See [`EventKind::TokenRevoked`].
    TokenRevoked {
        /// Its name.
        name: &'a str,
    },
    /// See [`EventKind::TurnTaken`].
    TurnTaken {
        /// The statement.
        holder: &'a str,
        /// Until when others wait for it; not after the commit where it gives its turn back.
        expires_at: Timestamp,
    },
    /// See [`EventKind::TimeRepaired`]. The time that counts from here on is that of the event.
    TimeRepaired,
}

impl Event<'_> {
    /// What happened.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::StatementCommitted { .. } => EventKind::StatementCommitted,
            Self::TableCreated { .. } => EventKind::TableCreated,
            Self::TableDropped { .. } => EventKind::TableDropped,
            Self::ObjectCreated { .. } => EventKind::ObjectCreated,
            Self::ObjectDropped { .. } => EventKind::ObjectDropped,
            Self::TransformCreated { .. } => EventKind::TransformCreated,
            Self::TransformDropped { .. } => EventKind::TransformDropped,
            Self::RunAdded { .. } => EventKind::RunAdded,
            Self::RunsMerged { .. } => EventKind::RunsMerged,
            Self::SourceInserted { .. } => EventKind::SourceInserted,
            Self::SourceUpdated { .. } => EventKind::SourceUpdated,
            Self::SourceDeleted { .. } => EventKind::SourceDeleted,
            Self::StatusSet { .. } => EventKind::StatusSet,
            Self::BatchCreated { .. } => EventKind::BatchCreated,
            Self::JobScheduled { .. } => EventKind::JobScheduled,
            Self::JobStarted { .. } => EventKind::JobStarted,
            Self::JobRenewed { .. } => EventKind::JobRenewed,
            Self::JobCompleted { .. } => EventKind::JobCompleted,
            Self::JobFailed { .. } => EventKind::JobFailed,
            Self::JobCrashed { .. } => EventKind::JobCrashed,
            Self::JobReleased { .. } => EventKind::JobReleased,
            Self::JobCancelRequested { .. } => EventKind::JobCancelRequested,
            Self::JobCancelled { .. } => EventKind::JobCancelled,
            Self::EffectRefused(_) => EventKind::EffectRefused,
            Self::LockAcquired { .. } => EventKind::LockAcquired,
            Self::LockRenewed { .. } => EventKind::LockRenewed,
            Self::LockReleased { .. } => EventKind::LockReleased,
            Self::LockExpired { .. } => EventKind::LockExpired,
            Self::TokenCreated { .. } => EventKind::TokenCreated,
            Self::TokenRevoked { .. } => EventKind::TokenRevoked,
            Self::TurnTaken { .. } => EventKind::TurnTaken,
            Self::TimeRepaired => EventKind::TimeRepaired,
        }
    }
}

/// Who caused an event, and by which statement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Origin<'a> {
    /// The user or worker.
    pub actor: &'a str,
    /// The statement.
    pub statement_id: &'a str,
    /// When: the same for all events of a commit.
    pub at: Timestamp,
}
