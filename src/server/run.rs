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
use tracing::Span;
use tracing::field::Empty;

use crate::error::{Code, Error, Result};
use crate::server::App;
use crate::server::allowance::Allowance;
use crate::server::auth::Caller;
use crate::server::problem::Problem;
use crate::server::request::SqlRequest;
use crate::server::statements::{Kept, Outcome, Record, StatementState, cancelled};
use crate::session::parser::parse;
use crate::session::statement::Statement;
use crate::session::{Description, ExecuteOptions, Repetition, StatementKind, TakenBack, kind_of};

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

/// A statement that runs.
pub(super) struct Run {
    pub app: Arc<App>,
    pub record: Arc<Record>,
    /// Under which it commits: that of its ticket, however often this is fetched.
    statement_id: Arc<str>,
    /// From its beginning to its last row.
    span: Span,
    _place: OwnedSemaphorePermit,
    /// Of the tables that came with it, which are read to the end of the result.
    _allowance: Option<Allowance>,
}

/// What a statement that only writes has done.
pub(super) struct Written {
    pub statement_id: Arc<str>,
    /// Rows that were written or removed; of effects, rows of the answer.
    pub rows: u64,
    pub version: Option<u64>,
    pub repetition: Repetition,
}

/// A place for a statement, and what the statement is.
pub(super) struct Placed {
    pub kind: StatementKind,
    pub get: GetAllowed,
    place: OwnedSemaphorePermit,
}

/// Whether a statement may be sent with GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GetAllowed {
    Yes,
    No,
}

/// Gives a statement a place among those that run, and parses it there, to know what it is: a long
/// one takes a while.
///
/// # Errors
/// `SG4009 too-busy`; those of the parser.
pub(super) fn placed(app: &App, sql: &str) -> Result<Placed> {
    let place = place(app)?;
    let statement = parse(sql)?.statement;
    let kind = kind_of(&statement);
    let acts = kind.changes() || matches!(statement, Statement::Copy(_) | Statement::Set(_));
    Ok(Placed {
        kind,
        place,
        get: if acts {
            GetAllowed::No
        } else {
            GetAllowed::Yes
        },
    })
}

/// A place among the statements that run.
///
/// # Errors
/// `SG4009 too-busy`.
pub(super) fn place(app: &App) -> Result<OwnedSemaphorePermit> {
    Arc::clone(&app.places).try_acquire_owned().map_err(|_| {
        Error::new(
            Code::TooBusy,
            "the server runs as many statements as it may",
        )
        .with_hint("Try again after the seconds in Retry-After.")
    })
}

impl Run {
    /// Begins a record.
    pub(super) fn begin(
        app: &Arc<App>,
        caller: &Caller,
        placed: Placed,
        request: &SqlRequest,
    ) -> Self {
        let (actor, kind) = (&caller.actor, placed.kind);
        let record = app.registry.add(actor, kind, &request.sql);
        record.begin();
        Self::new(app, placed, request, record)
    }

    /// The same without letting it run: it waits for its ticket.
    pub(super) fn plan(
        app: &Arc<App>,
        caller: &Caller,
        placed: Placed,
        request: &SqlRequest,
    ) -> Self {
        let (actor, kind) = (&caller.actor, placed.kind);
        let record = app.registry.add(actor, kind, &request.sql);
        app.registry.wait_for_ticket(&record);
        Self::new(app, placed, request, record)
    }

    /// Begins the statement of a ticket.
    ///
    /// # Errors
    /// Those of [`Registry::of_ticket`](crate::server::statements::Registry::of_ticket).
    pub(super) fn of_ticket(
        app: &Arc<App>,
        caller: &Caller,
        placed: Placed,
        request: &SqlRequest,
        id: &str,
    ) -> Result<Self> {
        let (actor, kind) = (&caller.actor, placed.kind);
        let record = app.registry.of_ticket(id, actor, kind, &request.sql)?;
        let mut run = Self::new(app, placed, request, record);
        run.statement_id = id.into();
        Ok(run)
    }

    fn new(app: &Arc<App>, placed: Placed, request: &SqlRequest, record: Arc<Record>) -> Self {
        Self {
            app: Arc::clone(app),
            span: span_of(&record),
            statement_id: Arc::clone(&record.id),
            record,
            _place: placed.place,
            _allowance: request.allowance.clone(),
        }
    }

    /// Rows of the answer that the client wants. What a change touches is bounded before it is
    /// committed; afterwards its rows are told, however many.
    pub(super) fn rows_max(&self, request: &SqlRequest) -> Option<u64> {
        request.rows_max.filter(|_| !self.record.kind.changes())
    }

    fn options(&self, request: &SqlRequest, key: Option<&str>) -> ExecuteOptions {
        ExecuteOptions {
            statement_id: Some(Arc::clone(&self.statement_id)),
            parameters: request.parameters.clone(),
            idempotency_key: key.map(Into::into),
            timeout: request.timeout,
            rows_max: request
                .rows_max
                .map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)),
            tables: request.tables.clone(),
            lock_tokens: request.lock_tokens.clone(),
        }
    }

    /// Plans the statement and runs nothing.
    ///
    /// # Errors
    /// Those of the session; `SG4010 cancelled`, `SG5003 timeout`.
    pub(super) async fn describe(
        &self,
        caller: &Caller,
        request: &SqlRequest,
    ) -> Result<Description> {
        let session = self.app.session(caller);
        let options = self.options(request, None);
        let longest = self.app.limits().statement_timeout;
        let limit = request.timeout.map_or(longest, |limit| limit.min(longest));
        tokio::select! {
            () = self.record.cancel.cancelled() => Err(cancelled()),
            () = tokio::time::sleep(limit) => {
                Err(Error::new(Code::Timeout, "planning the statement took too long")
                    .with_hint("Nothing was run. Send it with a longer Sluicegate-Timeout."))
            }
            described = session.describe(&request.sql, options) => described,
        }
    }

    /// Runs a statement that answers with a count only.
    ///
    /// # Errors
    /// Those of [`Run::execute`], with what is known of the effects.
    pub(super) async fn write(
        &self,
        caller: &Caller,
        request: &SqlRequest,
        key: Option<&str>,
    ) -> Result<Written, Problem> {
        let ran = async {
            let answer = self.execute(caller, request, key).await?;
            let (id, repetition) = (Arc::clone(&answer.statement_id), answer.repetition);
            let mut rows = answer.rows;
            let mut count = 0;
            while let Some(batch) = rows.next().await {
                count += batch?.num_rows() as u64;
            }
            let outcome = self.record.outcome();
            Ok(Written {
                statement_id: id,
                rows: outcome.rows_affected.unwrap_or(count),
                version: outcome.version,
                repetition,
            })
        };
        match ran.await {
            Ok(written) => {
                self.succeed(None);
                Ok(written)
            }
            Err(error) => Err(self.fail(error)),
        }
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
        let session = self.app.session(caller);
        let options = self.options(request, key);
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
            locks: reply.locks.clone(),
            notes: reply.notes.clone(),
        });
        let mut answer = Answer {
            schema: reply.schema,
            rows: Box::pin(reply.batches.map(|batch| Ok(batch?))),
            repetition: reply.repetition,
            statement_id: reply.statement_id,
        };
        if answer.repetition == Repetition::Summary {
            let first = self.app.registry.get(&answer.statement_id, &caller.actor);
            if let Some(kept) = first.ok().and_then(|first| first.kept()) {
                answer.repetition = Repetition::Rows;
                answer.schema = Arc::clone(&kept.schema);
                answer.rows = stored(&kept);
            }
        }
        if answer.repetition != Repetition::No {
            self.record.repeats(&answer.statement_id, answer.repetition);
        }
        Ok(answer)
    }

    /// The same. The rows of a change that has a key are in memory; they are to be kept for
    /// whoever repeats it, where they are not too many.
    ///
    /// # Errors
    /// Those of [`Run::execute`].
    pub(super) async fn act(
        &self,
        caller: &Caller,
        request: &SqlRequest,
        key: Option<&str>,
    ) -> Result<(Answer, Option<Kept>)> {
        let answer = self.execute(caller, request, key).await?;
        let keeps = key.is_some() && self.record.kind.changes();
        if !keeps || answer.repetition != Repetition::No {
            return Ok((answer, None));
        }
        let (statement_id, schema) = (Arc::clone(&answer.statement_id), Arc::clone(&answer.schema));
        let rows = self.collect(answer, None, usize::MAX).await?;
        let answer = Answer {
            schema,
            rows: stored(&rows),
            repetition: Repetition::No,
            statement_id,
        };
        let bytes_max = self.app.limits().server_result_bytes_max;
        Ok((answer, Some(rows).filter(|rows| rows.bytes <= bytes_max)))
    }

    /// Reads all rows, to be kept.
    ///
    /// # Errors
    /// Those of the query; `SG5004 too-large`, `SG5001 too-many-rows`, `SG4010 cancelled`.
    pub(super) async fn collect(
        &self,
        answer: Answer,
        rows_max: Option<u64>,
        bytes_max: usize,
    ) -> Result<Kept> {
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
        self.record.note_rows(count);
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
        let problem = self.record.told(error);
        self.end(state, Some(&problem), None);
        problem
    }

    fn end(&self, state: StatementState, problem: Option<&Problem>, kept: Option<Kept>) {
        if self.record.state() == StatementState::Running {
            self.app.metrics.ended(self.record.kind, state);
            self.span.record("outcome", state.name());
            if let Some(problem) = problem {
                self.span
                    .record("error_code", problem.error().code().as_str());
            }
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

/// The idempotency key of a ticket.
pub(super) fn key_of_ticket(id: &str) -> String {
    format!("ticket {id}")
}

/// Cancels a statement of the caller. A change that was planned only is taken back in the store, so
/// that no server runs its ticket.
///
/// # Errors
/// Those of the commit.
pub(super) async fn cancel_run(
    app: &App,
    caller: &Caller,
    record: &Arc<Record>,
) -> Result<StatementState> {
    if record.state() == StatementState::Planned && record.kind.changes() {
        let key = key_of_ticket(&record.id);
        if app.session(caller).take_back(&record.id, &key).await? == TakenBack::No {
            // Another server has run it.
            app.registry
                .end(record, StatementState::Committed, None, None);
        }
    }
    Ok(app.registry.cancel(record))
}

fn span_of(record: &Record) -> Span {
    tracing::info_span!(
        "statement",
        statement_id = &*record.id,
        kind = record.kind.name(),
        actor = &*record.actor,
        outcome = Empty,
        error_code = Empty,
    )
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
