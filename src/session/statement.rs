//! A parsed statement: what kind it is, and what the session needs to run it.
//!
//! Statements that DataFusion plans keep its syntax tree; our own have their parts. Nothing here
//! was checked by the gate yet.

use std::time::Duration;

use datafusion::common::format::ExplainStatementOptions;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{Function, Query};

use crate::error::Position;

/// One statement with its text.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The text as it was sent, without the closing semicolon and blanks around it.
    pub text: String,
    /// What it says.
    pub statement: Statement,
}

/// What one statement says.
#[derive(Debug, Clone)]
pub enum Statement {
    /// A query without any effect.
    Query(Box<Query>),
    /// A query that names an effect function somewhere; the gate judges where.
    Effect(Box<Query>),
    /// `PREVIEW` of a [`Statement::Effect`] or a [`Statement::Call`].
    Preview(Box<Statement>),
    /// `CALL f(...)`, of an effect function or a procedure.
    Call(Box<Function>),
    /// `INSERT INTO` or `REPLACE INTO`.
    Insert {
        /// The table as DataFusion resolves it.
        table: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `UPDATE table SET ...`
    Update {
        /// The table as DataFusion resolves it.
        table: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `DELETE FROM table ...`
    Delete {
        /// The table as DataFusion resolves it.
        table: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `TRUNCATE table`
    Truncate {
        /// The table as DataFusion resolves it.
        table: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `CREATE TABLE`, with columns or with a query.
    CreateTable {
        /// The table as DataFusion resolves it.
        table: String,
        /// What happens where it exists.
        existing: Existing,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `CREATE VIEW`
    CreateView {
        /// The view as DataFusion resolves it.
        name: String,
        /// What happens where it exists.
        existing: Existing,
        /// The text after AS.
        body: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `CREATE EXTERNAL TABLE`
    CreateExternalTable {
        /// The table as DataFusion resolves it.
        table: String,
        /// For DataFusion.
        tree: Box<SyntaxTree>,
    },
    /// `CREATE TRANSFORM`
    CreateTransform(Box<CreateTransform>),
    /// `DROP ...`
    Drop {
        /// What kind of object.
        kind: DropKind,
        /// The name as DataFusion resolves it.
        name: String,
        /// What happens where it does not exist.
        missing: Missing,
        /// The rest of what was said; of a transform there is none.
        tree: Option<Box<SyntaxTree>>,
    },
    /// `EXPLAIN`
    Explain {
        /// ANALYZE, VERBOSE, FORMAT and so on.
        options: Box<ExplainStatementOptions>,
        /// What is explained.
        statement: Box<Statement>,
        /// The whole EXPLAIN, for DataFusion where the inner statement is pure.
        tree: Box<SyntaxTree>,
    },
    /// `SET` and `RESET`
    Set(Box<SyntaxTree>),
    /// `SHOW`
    Show(Box<SyntaxTree>),
    /// `SHOW CREATE TABLE | VIEW | TRANSFORM name`
    ShowCreate(String),
    /// `DESCRIBE table`
    Describe(Box<SyntaxTree>),
    /// `COPY ... TO`
    Copy(Box<SyntaxTree>),
    /// `PREPARE`
    Prepare(Box<SyntaxTree>),
    /// `EXECUTE` and `DEALLOCATE`
    Execute(Box<SyntaxTree>),
    /// `BEGIN`, `COMMIT`, `ROLLBACK` and their like.
    Transaction(Box<SyntaxTree>),
    /// `CHECKPOINT`
    Checkpoint,
    /// What parses but is not ours; the gate refuses it.
    Other(Box<SyntaxTree>),
}

/// What `CREATE` does where the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Refuse,
    /// `OR REPLACE`
    Replace,
    /// `IF NOT EXISTS`
    Keep,
}

/// What `DROP` does where the object does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error.
    Refuse,
    /// `IF EXISTS`
    Ignore,
}

/// What can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropKind {
    /// A table.
    Table,
    /// A view.
    View,
    /// A transform.
    Transform,
}

/// The parts of `CREATE TRANSFORM`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTransform {
    /// The name of the transform.
    pub name: String,
    /// What happens where it exists.
    pub existing: Existing,
    /// The source table.
    pub table: String,
    /// `FROM STATUS`: the statuses from which a source is taken. At least one.
    pub from_status: Vec<String>,
    /// `TO STATUS`: the statuses that it may set; the first is the default. At least one.
    pub to_status: Vec<String>,
    /// `WITH (...)`
    pub options: TransformOptions,
    /// What does the work.
    pub body: TransformBody,
}

/// The options of a transform; `None` where not given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransformOptions {
    /// Jobs that one run takes at most.
    pub group_size: Option<u32>,
    /// Jobs that run at the same time at most, over all workers.
    pub concurrency: Option<u32>,
    /// Attempts before a job is discarded.
    pub max_attempts: Option<u32>,
    /// The priority of its jobs where `schedule_job` does not say.
    pub priority: Option<i64>,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// The lease of a running job.
    pub lease: Option<Duration>,
    /// The pause before the second attempt; it grows with each further one.
    pub backoff: Option<Duration>,
    /// The longest pause between attempts.
    pub backoff_max: Option<Duration>,
    /// Bytes of memory that an attempt may use.
    pub memory_bytes: Option<u64>,
    /// What it leaves behind beside the columns.
    pub output: Output,
}

/// What a transform writes to its output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Nothing by itself.
    #[default]
    None,
    /// `OUTPUT PARQUET`: all columns of the result.
    Parquet,
}

/// What does the work of a transform.
#[derive(Debug, Clone, PartialEq)]
pub enum TransformBody {
    /// `AS SELECT ...`
    Sql {
        /// The query as it was written.
        text: String,
        /// Where it begins in the statement.
        position: Position,
        /// The query, parsed.
        query: Box<Query>,
    },
    /// `USING COMMAND '...'`
    Command(String),
    /// `USING OUTSIDE WORKER`
    Outside,
}

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A query without effects.
    Query,
    /// A query with effects, or CALL.
    Effect,
    /// INSERT, REPLACE, UPDATE, DELETE.
    Dml,
    /// CREATE, DROP, CHECKPOINT.
    Ddl,
    /// EXPLAIN.
    Explain,
    /// PREVIEW.
    Preview,
    /// SET, SHOW, DESCRIBE, COPY.
    Setting,
}

impl StatementKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Query,
        Self::Effect,
        Self::Dml,
        Self::Ddl,
        Self::Explain,
        Self::Preview,
        Self::Setting,
    ];

    /// The name in headers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Effect => "effect",
            Self::Dml => "dml",
            Self::Ddl => "ddl",
            Self::Explain => "explain",
            Self::Preview => "preview",
            Self::Setting => "setting",
        }
    }

    /// Whether a statement of this kind may change the store.
    pub fn changes(self) -> bool {
        match self {
            Self::Effect | Self::Dml | Self::Ddl => true,
            Self::Query | Self::Explain | Self::Preview | Self::Setting => false,
        }
    }
}

/// What a statement is, before it is run.
pub fn kind_of(statement: &Statement) -> StatementKind {
    match statement {
        Statement::Query(_) => StatementKind::Query,
        Statement::Effect(_) | Statement::Call(_) => StatementKind::Effect,
        Statement::Preview(_) => StatementKind::Preview,
        Statement::Explain { .. } => StatementKind::Explain,
        Statement::Insert { .. }
        | Statement::Update { .. }
        | Statement::Delete { .. }
        | Statement::Truncate { .. } => StatementKind::Dml,
        Statement::CreateTable { .. }
        | Statement::CreateView { .. }
        | Statement::CreateExternalTable { .. }
        | Statement::CreateTransform(_)
        | Statement::Drop { .. }
        | Statement::Checkpoint => StatementKind::Ddl,
        Statement::Set(_)
        | Statement::Show(_)
        | Statement::ShowCreate(_)
        | Statement::Describe(_)
        | Statement::Copy(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Other(_) => StatementKind::Setting,
    }
}
