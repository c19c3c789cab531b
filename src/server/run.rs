//! One statement on its way: a place among those that run, its record, and its end.
//!
//! However a run ends, by its last row, an error, a cancellation or a client that has gone, its
//! record ends and its place is free: dropping a [`Run`] does both.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::server::App;
use crate::server::auth::Caller;
use crate::server::problem::{Effects, Problem};
use crate::server::request::SqlRequest;
use crate::server::statements::{Kept, Outcome, Record, StatementState};
use crate::session::parser::parse;
use crate::session::statement::Statement;
use crate::session::{Access, ExecuteOptions, Session, StatementKind, kind_of};

/// Rows on their way.
pub(super) type Rows = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// What a statement answers.
pub(super) struct Answer {
    pub schema: SchemaRef,
    pub rows: Rows,
    pub repetition: Repetition,
    /// Of the statement that acted, which is an earlier one for a repetition.
    pub statement_id: Arc<str>,
}

/// Whether a statement ran, or the outcome of an earlier one is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// It ran.
    No,
    /// It did not; these are the rows of the first answer.
    Rows,
    /// It did not; the rows are gone, and these say how its effects ended.
    Summary,
}

/// A statement that runs.
pub(super) struct Run {
    pub app: Arc<App>,
    pub record: Arc<Record>,
    _place: OwnedSemaphorePermit,
}

/// What is checked before a statement gets a place.
pub(super) struct Checked {
    pub kind: StatementKind,
    pub get: GetAllowed,
}

/// Whether a statement may be sent with GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GetAllowed {
    Yes,
    No,
}

/// Parses a statement, to know what it is.
///
/// # Errors
/// Those of the parser.
pub(super) fn check(sql: &str) -> Result<Checked> {
    let statement = parse(sql)?.statement;
    let kind = kind_of(&statement);
    let acts = kind.changes() || matches!(statement, Statement::Copy(_) | Statement::Set(_));
    Ok(Checked {
        kind,
        get: if acts {
            GetAllowed::No
        } else {
            GetAllowed::Yes
        },
    })
}

impl Run {
    /// Takes a place and begins a record.
    ///
    /// # Errors
    /// `SG4009 too-busy`.
    pub(super) fn begin(
        app: &Arc<App>,
        caller: &Caller,
        kind: StatementKind,
        sql: &str,
    ) -> Result<Self> {
        let place = Arc::clone(&app.places).try_acquire_owned().map_err(|_| {
            Error::new(
                Code::TooBusy,
                "the server runs as many statements as it may",
            )
            .with_hint("Try again after the seconds in Retry-After.")
        })?;
        let id: Arc<str> = Uuid::now_v7().to_string().into();
        let record = app.registry.add(id, Arc::clone(&caller.actor), kind, sql);
        record.begin();
        Ok(Self {
            app: Arc::clone(app),
            record,
            _place: place,
        })
    }

    /// Runs the statement; its effects are committed when this returns.
    ///
    /// # Errors
    /// Those of the session; `SG4010 cancelled`.
    pub(super) async fn execute(
        &self,
        caller: &Caller,
        request: &SqlRequest,
        key: Option<&str>,
    ) -> Result<Answer> {
        let core = Arc::clone(&self.app.core);
        let session = Session::new(core, &caller.actor, caller.access);
        let options = ExecuteOptions {
            statement_id: Some(Arc::clone(&self.record.id)),
            parameters: request.parameters.clone(),
            idempotency_key: key.map(Into::into),
            timeout: request.timeout,
        };
        let reply = tokio::select! {
            () = self.record.cancel.cancelled() => return Err(cancelled()),
            reply = session.execute_with(&request.sql, options) => reply?,
        };
        // COPY and SHOW answer with columns. A SET that was allowed is gone with its session.
        if reply.kind == StatementKind::Setting && reply.schema.fields().is_empty() {
            return Err(Error::new(
                Code::Unsupported,
                "SET changes nothing here: every request is a session of its own",
            )
            .with_hint("Give the limits of a statement in its request."));
        }
        self.record.note(Outcome {
            version: Some(reply.version),
            rows: None,
            rows_affected: reply.rows_affected,
            summary: reply.summary.clone(),
            notes: reply.notes.clone(),
        });
        let mut answer = Answer {
            schema: reply.schema,
            rows: Box::pin(reply.batches.map(|batch| Ok(batch?))),
            repetition: Repetition::No,
            statement_id: reply.statement_id,
        };
        if reply.replayed {
            answer.repetition = Repetition::Summary;
            let first = self.app.registry.get(&answer.statement_id, &caller.actor);
            if let Some(kept) = first.ok().and_then(|first| first.kept()) {
                answer.repetition = Repetition::Rows;
                answer.schema = Arc::clone(&kept.schema);
                answer.rows = stored(&kept);
            }
        }
        Ok(answer)
    }

    /// Reads all rows, to be kept.
    ///
    /// # Errors
    /// Those of the query; `SG5004 too-large`, `SG5001 too-many-rows`, `SG4010 cancelled`.
    pub(super) async fn collect(&self, answer: Answer, rows_max: Option<u64>) -> Result<Kept> {
        let bytes_max = self.app.limits().server_result_bytes_max;
        let mut rows = answer.rows;
        let (mut batches, mut bytes, mut count) = (Vec::new(), 0, 0);
        loop {
            let next = tokio::select! {
                () = self.record.cancel.cancelled() => return Err(cancelled()),
                next = rows.next() => next,
            };
            let Some(batch) = next else { break };
            let batch = batch?;
            count += batch.num_rows() as u64;
            check_rows(count, rows_max)?;
            bytes += batch.get_array_memory_size();
            if bytes > bytes_max {
                return Err(Error::new(
                    Code::TooLarge,
                    format!("the result has more than {bytes_max} bytes"),
                )
                .with_detail("A result that nobody reads as it is found has to be kept.")
                .with_hint("Add a LIMIT, or send it without Prefer to read it as a stream."));
            }
            batches.push(batch);
        }
        let outcome = self.record.outcome();
        self.record.note(Outcome {
            rows: Some(count),
            ..outcome
        });
        Ok(Kept {
            schema: answer.schema,
            batches: batches.into(),
            bytes,
        })
    }

    /// Ends it with its rows.
    pub(super) fn succeed(&self, kept: Option<Kept>) {
        self.end(StatementState::Committed, None, kept);
    }

    /// Ends it with an error.
    pub(super) fn fail(&self, error: Error) -> Problem {
        let state = match error.code() {
            Code::Cancelled => StatementState::Cancelled,
            _ => StatementState::Failed,
        };
        let committed = self.record.kind.changes() && self.record.outcome().version.is_some();
        let problem = Problem::of_statement(error, &self.record.id, self.record.kind);
        let problem = if committed {
            problem.with_effects(Effects::Committed)
        } else {
            problem
        };
        self.end(state, Some(&problem), None);
        problem
    }

    fn end(&self, state: StatementState, problem: Option<&Problem>, kept: Option<Kept>) {
        if self.record.state() == StatementState::Running {
            self.app.metrics.ended(self.record.kind, state);
        }
        self.app.registry.end(&self.record, state, problem, kept);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.record.state() == StatementState::Running {
            self.fail(cancelled().with_detail("The client has gone."));
        }
    }
}

/// The error of a cancelled statement.
pub(super) fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the statement was cancelled")
        .with_hint("Where it has effects, table statements tells whether they were committed.")
}

/// Refuses more rows than the client wants.
///
/// # Errors
/// `SG5001 too-many-rows`.
pub(super) fn check_rows(count: u64, rows_max: Option<u64>) -> Result<()> {
    match rows_max {
        Some(most) if count > most => Err(Error::new(
            Code::TooManyRows,
            format!("the result has more than {most} rows"),
        )
        .with_detail("The limit is max_rows of the request.")
        .with_hint("Add a LIMIT to the statement, or raise max_rows.")),
        Some(_) | None => Ok(()),
    }
}

/// Kept rows as a stream.
pub(super) fn stored(kept: &Kept) -> Rows {
    let batches: Vec<RecordBatch> = kept.batches.to_vec();
    Box::pin(futures::stream::iter(batches.into_iter().map(Ok)))
}

/// What a caller may do where the request asks for no more than reading.
pub(super) fn reading(mut caller: Caller) -> Caller {
    caller.access = Access::ReadOnly;
    caller
}
