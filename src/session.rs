//! One user's connection to a store: from the text of one statement to its reply.
//!
//! Every statement goes the same way: [`parser`] -> [`gate`] -> a snapshot -> a plan over the
//! [`catalog`] of that snapshot -> where it changes something, one commit at the root of the plan
//! ([`effect_node`]) -> [`Reply`]. The REPL, scripts, servers and workers all call
//! [`Session::execute`].

mod as_written;
pub mod bound_table;
pub mod catalog;
pub mod claim;
pub mod core;
mod definitions;
mod describe;
pub mod effect_node;
mod embedding;
mod errors;
mod external;
pub mod gate;
mod held;
mod membership;
pub mod names;
pub mod parameters;
pub mod parser;
pub mod progress;
mod pushdown;
pub mod reference;
mod replay;
pub mod script;
pub mod sink;
pub mod source_rows;
pub mod statement;
mod syntax;
pub mod tokens;
pub mod transforms;
pub mod write;
pub mod writeback;
mod yielding;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{collect, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Query};
use futures::StreamExt;
use uuid::Uuid;

use crate::error::{Code, Error, Position, Result};
use crate::functions::effect::{EffectFunction, Need, Signature};
use crate::id::Token;
use crate::ledger::Ledger;
use crate::ledger::checkpoint::Written;
use crate::model::draft::Author;
use crate::model::state::State;
use crate::session::bound_table::BoundTable;
use crate::session::catalog::{Sight, state_over};
use crate::session::core::{Core, Procedure};
use crate::session::effect_node::action::{EffectTarget, check_effect_rows};
use crate::session::effect_node::constant::constant_calls;
use crate::session::effect_node::planning::{
    constant_action, explain_effects, plan_effects, plan_statement, procedure_arguments,
    run_constant,
};
use crate::session::gate::{Call, Gate};
use crate::session::held::Held;
use crate::session::parameters::Parameters;
use crate::session::progress::Watcher;
use crate::session::sink::{Done, LedgerForecast, LedgerSink, StatementText};
use crate::session::statement::{Parsed, Statement};
use crate::session::write::{Extra, WriteTarget, plan_write};
use crate::tables::columns::ints;

pub use describe::{Description, Prepared};
pub use gate::Access;
pub use held::LockChanges;
pub use names::{FunctionKind, FunctionName, Names, TableName};
pub use replay::{Repetition, TakenBack};
pub use script::{ScriptStatement, split_statements};
pub use sink::OutcomeCount;
pub use statement::{StatementKind, kind_of};
pub use syntax::query_tree;

use errors::timed_out;

/// What comes with a statement beside its text.
#[derive(Debug, Clone, Default)]
pub struct ExecuteOptions {
    /// The id that it gets; a new one where there is none.
    pub statement_id: Option<Arc<str>>,
    /// The values of its placeholders.
    pub parameters: Parameters,
    /// The key under which a repetition is recognised, among those of the session's actor. It
    /// counts for statements that may change something; a query runs again.
    pub idempotency_key: Option<Arc<str>>,
    /// How long it may run, where that is less than `Limits::statement_timeout`.
    pub timeout: Option<Duration>,
    /// Rows that it may touch where it changes something, if that is less than
    /// `Limits::effect_rows_max`.
    pub rows_max: Option<usize>,
    /// Rows that came with it, as tables that no other statement sees.
    pub tables: Vec<BoundTable>,
    /// Locks that it shows as its own, beside those that the session was given.
    pub lock_tokens: Vec<Token>,
}

/// The answer to one statement. What it changed is durable when this is there.
pub struct Reply {
    /// The id of the statement, as in table `statements`.
    pub statement_id: Arc<str>,
    /// What the statement is.
    pub kind: StatementKind,
    /// The columns of the rows; none where there are no rows to show.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: SendableRecordBatchStream,
    /// The version at which the rows are true: that of the commit where there was one.
    pub version: u64,
    /// Rows that INSERT, REPLACE, UPDATE or DELETE wrote or removed.
    pub rows_affected: Option<u64>,
    /// How often each effect function ended in which way.
    pub summary: Vec<OutcomeCount>,
    /// The locks that it acquired and released.
    pub locks: LockChanges,
    /// What the user should know beside the rows.
    pub notes: Vec<String>,
    /// Whether this is the outcome of an earlier statement with the same idempotency key.
    pub repetition: Repetition,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("statement_id", &self.statement_id)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("rows_affected", &self.rows_affected)
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// All rows.
    ///
    /// # Errors
    /// What stops the query on its way.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        let mut stream = self.batches;
        while let Some(batch) = stream.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}

/// One program's connection to a store. Clones share their settings, and the locks that the program
/// was given: what a session acquires is its own, and kept from every other session, of the same
/// user as well.
#[derive(Debug, Clone)]
pub struct Session {
    core: Arc<Core>,
    gate: Arc<Gate>,
    actor: Arc<str>,
    options: Arc<Mutex<Option<ConfigOptions>>>,
    locks: Held,
    watcher: Watcher,
}

/// One statement before it has a snapshot.
#[derive(Debug, Clone)]
struct Task {
    text: StatementText,
    kind: StatementKind,
    limit: Duration,
    rows_max: usize,
    tables: Arc<[BoundTable]>,
}

/// One statement on its way.
struct Running {
    state: Arc<State>,
    text: StatementText,
    limit: Duration,
    rows_max: usize,
    tables: Arc<[BoundTable]>,
    done: Arc<Mutex<Option<Done>>>,
}

impl Session {
    /// A session of `actor`, whose name stands in every event that it causes.
    pub fn new(core: Arc<Core>, actor: &str, access: Access) -> Self {
        let gate = Gate::new(access, core.known_procedures(), Arc::clone(&core.callables));
        Self {
            core,
            gate: Arc::new(gate),
            actor: actor.into(),
            options: Arc::default(),
            locks: Held::default(),
            watcher: Watcher::default(),
        }
    }

    /// The same session, whose long statements tell `watcher` how far they are.
    #[must_use]
    pub fn with_watcher(mut self, watcher: Watcher) -> Self {
        self.watcher = watcher;
        self
    }

    /// The same session, which also shows these locks as its own: a program that was started anew
    /// goes on under the locks of the one before.
    #[must_use]
    pub fn with_lock_tokens(self, tokens: impl IntoIterator<Item = Token>) -> Self {
        self.locks.add(tokens);
        self
    }

    /// Who is told how far a long statement is.
    pub fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// What all sessions of the store share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Whose session it is.
    pub fn actor(&self) -> &Arc<str> {
        &self.actor
    }

    fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }

    /// The session's functions, rules and settings.
    pub fn base(&self) -> SessionState {
        let mut base = self.core.base.clone();
        if let Ok(options) = self.options.lock()
            && let Some(options) = options.as_ref()
        {
            *base.config_mut().options_mut() = options.clone();
        }
        base
    }

    fn sight(&self, state: &Arc<State>) -> Sight {
        self.core.sight(Arc::clone(state))
    }

    fn over(&self, state: &Arc<State>, tables: &[BoundTable]) -> SessionState {
        self.over_with(state, tables, Vec::new())
    }

    /// The same, with tables that only this plan sees.
    fn over_with(
        &self,
        state: &Arc<State>,
        tables: &[BoundTable],
        mut extra: Extra,
    ) -> SessionState {
        extra.extend(tables.iter().map(BoundTable::provider));
        state_over(&self.base(), self.sight(state), extra)
    }

    /// Runs exactly one statement.
    ///
    /// # Errors
    /// Any [`Code`]; nothing was changed then, unless it is `SG5003 timeout` or
    /// `SG7002 store-unavailable`, where table `statements` tells whether it was.
    ///
    /// # Guarantees
    /// At most one commit. Dropping the future does not undo a commit that was sent.
    pub async fn execute(&self, sql: &str) -> Result<Reply> {
        self.execute_with(sql, ExecuteOptions::default()).await
    }

    /// The same, with parameters, a time limit and an idempotency key.
    ///
    /// # Errors
    /// Those of [`Session::execute`], and `SG4007 key-reused`: the key was used for a statement
    /// with another text or other parameters. `SG1002 plan-error` for parameters that do not fit.
    ///
    /// # Guarantees
    /// Those of [`Session::execute`]. Of all statements with one key, in all processes, at most
    /// one commits; the others get its outcome.
    pub async fn execute_with(&self, sql: &str, options: ExecuteOptions) -> Result<Reply> {
        let unlimited = options.timeout.is_none();
        let (task, statement) = self.task(sql, options)?;
        let limit = task.limit;
        let bounded = unlimited && bounds_itself(&statement);
        let work = self.once(task, statement);
        if bounded {
            return work.await;
        }
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| timed_out(limit))?
    }

    /// Whether this session may write rows, which a caller asks before it reads many.
    ///
    /// # Errors
    /// `SG1007 read-only`, `SG4002 role-denied`.
    pub fn check_insert(&self) -> Result<()> {
        self.gate.check_insert()
    }

    /// Parses a statement, binds what came with it, and asks the gate.
    fn task(&self, sql: &str, options: ExecuteOptions) -> Result<(Task, Statement)> {
        let Parsed {
            text,
            mut statement,
        } = parser::parse(sql)?;
        let mut text = parameters::bind(text, &mut statement, &options.parameters)?;
        self.gate.check(&statement, sql)?;
        bound_table::check_use(&options.tables, &statement)?;
        for table in &options.tables {
            text = format!("{text}\n{}", table.note());
        }
        let (shown, most) = (
            options.lock_tokens.len(),
            self.ledger().limits().lock_tokens_max,
        );
        if shown > most {
            let message = format!("the statement shows {shown} locks, more than {most}");
            return Err(Error::new(Code::TooLarge, message)
                .with_hint("Show the locks that it needs; one on a path covers all below it."));
        }
        let id = options.statement_id;
        let id = id.unwrap_or_else(|| Uuid::now_v7().to_string().into());
        let mut author = Author::new(Arc::clone(&self.actor), id);
        author.lock_tokens = self.locks.shown(&options.lock_tokens);
        let kind = kind_of(&statement);
        let key = options.idempotency_key.filter(|_| kind.changes());
        let text = StatementText {
            author,
            sql: text.into(),
            idempotency_key: key.map(|key| replay::key_of(&self.actor, &key)),
        };
        let limits = self.ledger().limits();
        let (longest, most) = (limits.statement_timeout, limits.effect_rows_max);
        let task = Task {
            text,
            kind,
            limit: options.timeout.map_or(longest, |limit| limit.min(longest)),
            rows_max: options.rows_max.map_or(most, |rows| rows.min(most)),
            tables: options.tables.into(),
        };
        Ok((task, statement))
    }

    async fn dispatch(&self, task: Task, statement: Statement) -> Result<Reply> {
        match statement {
            // A write is read and decided again where another statement came in between.
            Statement::Insert { .. } | Statement::Update { .. } | Statement::Delete { .. } => {
                let mut retries = self.ledger().limits().write_retries_max;
                loop {
                    let running = self.begin(&task).await?;
                    match self.write(running, statement.clone()).await {
                        Err(error) if error.code() == Code::WriteConflict && retries > 0 => {
                            retries -= 1;
                        }
                        ended => return ended,
                    }
                }
            }
            other => {
                let running = self.begin(&task).await?;
                self.run(running, other).await
            }
        }
    }

    async fn begin(&self, task: &Task) -> Result<Running> {
        let state = self.ledger().snapshot().await?;
        bound_table::check_names(&task.tables, &state)?;
        Ok(Running {
            state,
            text: task.text.clone(),
            limit: task.limit,
            rows_max: task.rows_max,
            tables: Arc::clone(&task.tables),
            done: Arc::default(),
        })
    }

    async fn run(&self, running: Running, statement: Statement) -> Result<Reply> {
        match statement {
            Statement::Query(query) => {
                let state = self.over(&running.state, &running.tables);
                let plan = plan_statement(&state, query_tree(*query)).await?;
                self.stream(running, &state, &plan, StatementKind::Query)
                    .await
            }
            Statement::Effect(query) => self.effects(running, &query).await,
            Statement::Preview(inner) => self.preview(running, *inner).await,
            Statement::Call(function) => match self.gate.call(&function)? {
                Call::Effect(query) => self.effects(running, &query).await,
                Call::Procedure {
                    signature,
                    args,
                    position,
                } => {
                    let (procedure, args) =
                        self.procedure(&running, signature, &args, position).await?;
                    let (text, most) = (running.text.clone(), running.rows_max);
                    let rows = procedure.call(self, text, args, most).await?;
                    let version = self.ledger().seen().version.0;
                    let mut reply = self.rows(running, StatementKind::Effect, rows)?;
                    reply.version = version;
                    Ok(reply)
                }
            },
            Statement::Explain {
                options,
                statement,
                tree,
            } => {
                let state = self.over(&running.state, &running.tables);
                let inner = match *statement {
                    Statement::Query(_) => None,
                    inner => self.plan_inner(&running, &state, inner).await?,
                };
                let plan = match inner {
                    Some(plan) => explain_effects(&state, plan, &options)?,
                    None => plan_statement(&state, *tree).await?,
                };
                self.stream(running, &state, &plan, StatementKind::Explain)
                    .await
            }
            Statement::Set(tree) => self.set(running, *tree).await,
            Statement::Show(tree) | Statement::Describe(tree) => {
                let state = self.over(&running.state, &running.tables);
                let plan = plan_statement(&state, *tree).await?;
                self.through_context(running, state, plan).await
            }
            Statement::ShowCreate(name) => {
                let rows = definitions::show_create(&running.state, &name)?;
                self.rows(running, StatementKind::Setting, rows)
            }
            Statement::Copy(tree) => self.copy(running, *tree).await,
            Statement::Checkpoint => {
                let written = self.ledger().maintenance().checkpoint().await?;
                let row = checkpoint_row(&written)?;
                let mut reply = self.rows(running, StatementKind::Ddl, row)?;
                reply.version = written.version.0;
                Ok(reply)
            }
            Statement::CreateTable { .. }
            | Statement::CreateView { .. }
            | Statement::CreateExternalTable { .. }
            | Statement::CreateTransform(_)
            | Statement::Drop { .. } => self.define(running, statement).await,
            Statement::Insert { .. } | Statement::Update { .. } | Statement::Delete { .. } => {
                self.write(running, statement).await
            }
            Statement::Truncate { table, .. } => {
                Err(
                    Error::new(Code::Unsupported, "TRUNCATE is not supported").with_hint(format!(
                        "Use DELETE FROM {table}, which respects locks and live jobs."
                    )),
                )
            }
            Statement::Prepare(_) | Statement::Execute(_) => Err(Error::new(
                Code::Unsupported,
                "PREPARE and EXECUTE are not supported",
            )
            .with_detail("A prepared plan would answer from the snapshot that it was planned on.")
            .with_hint("Send the statement itself; planning it takes about a millisecond.")),
            Statement::Transaction(_) | Statement::Other(_) => {
                Err(Error::bug("the gate let a statement through"))
            }
        }
    }

    /// A procedure and the arguments of its call.
    async fn procedure(
        &self,
        running: &Running,
        signature: &'static Signature,
        args: &[Option<SqlExpr>],
        position: Option<Position>,
    ) -> Result<(Arc<dyn Procedure>, StructArray)> {
        let state = self.over(&running.state, &running.tables);
        let args = procedure_arguments(&state, signature, args, position).await?;
        for (parameter, column) in signature.parameters.iter().zip(args.columns()) {
            if parameter.need == Need::Required && column.is_null(0) {
                return Err(signature.argument_error(format!(
                    "argument \"{}\" of {} is NULL",
                    parameter.name, signature.name
                )));
            }
        }
        let mut known = self.core.procedures.iter();
        let procedure = known.rfind(|one| one.signature().name == signature.name);
        let procedure = procedure.ok_or_else(|| Error::bug("a known procedure is not there"))?;
        Ok((Arc::clone(procedure), args))
    }

    fn commit_target(&self, running: &Running) -> EffectTarget {
        EffectTarget::Commit(Arc::new(LedgerSink {
            core: Arc::clone(&self.core),
            text: running.text.clone(),
            held: self.locks.clone(),
            done: Arc::clone(&running.done),
        }))
    }

    fn preview_target(&self, running: &Running) -> EffectTarget {
        EffectTarget::Preview(Arc::new(LedgerForecast {
            ledger: self.ledger().clone(),
            author: running.text.author.clone(),
            done: Arc::clone(&running.done),
        }))
    }

    async fn effects(&self, running: Running, query: &Query) -> Result<Reply> {
        let target = self.commit_target(&running);
        self.act(running, query, target, StatementKind::Effect)
            .await
    }

    async fn preview(&self, running: Running, inner: Statement) -> Result<Reply> {
        let query = self.effect_query(inner)?;
        let target = self.preview_target(&running);
        self.act(running, &query, target, StatementKind::Preview)
            .await
    }

    /// The effect query of a statement that is one, or a CALL of an effect function.
    fn effect_query(&self, statement: Statement) -> Result<Box<Query>> {
        match statement {
            Statement::Effect(query) => Ok(query),
            Statement::Call(function) => match self.gate.call(&function)? {
                Call::Effect(query) => Ok(query),
                Call::Procedure { signature, .. } => Err(Error::new(
                    Code::Unsupported,
                    format!("procedure \"{}\" has no plan", signature.name),
                )
                .with_hint("PREVIEW and EXPLAIN work for effect functions, such as schedule_job.")),
            },
            _ => Err(Error::bug("a statement without effects")),
        }
    }

    async fn act(
        &self,
        running: Running,
        query: &Query,
        target: EffectTarget,
        kind: StatementKind,
    ) -> Result<Reply> {
        let (query, items) = self.gate.rewrite_effects(query.clone())?;
        // Constants need no plan: acquiring a lock must cost one commit and nothing else.
        if let Some(calls) = constant_calls(&query, &items)? {
            check_effect_rows(1, running.rows_max)?;
            let batch = run_constant(constant_action(&items, target)?, calls).await?;
            return self.rows(running, kind, batch);
        }
        let state = self.over(&running.state, &running.tables);
        let rows_max = running.rows_max;
        let plan = plan_effects(&state, query, &items, target, rows_max).await?;
        self.whole(running, &state, &plan, kind).await
    }

    fn write_target(&self, running: &Running) -> WriteTarget {
        WriteTarget {
            ledger: self.ledger().clone(),
            text: running.text.clone(),
            done: Arc::clone(&running.done),
            rows_max: running.rows_max,
        }
    }

    async fn write(&self, running: Running, statement: Statement) -> Result<Reply> {
        let state = self.over(&running.state, &running.tables);
        let plan = self.plan_inner(&running, &state, statement).await?;
        let plan = plan.ok_or_else(|| Error::bug("a write has no plan"))?;
        self.written(running, &state, &plan, StatementKind::Dml)
            .await
    }

    /// Runs the plan of a write, whose count is no row of the answer.
    async fn written(
        &self,
        running: Running,
        state: &SessionState,
        plan: &LogicalPlan,
        kind: StatementKind,
    ) -> Result<Reply> {
        let mut reply = self.whole(running, state, plan, kind).await?;
        reply.schema = no_columns();
        reply.batches = stream_of(no_columns(), Vec::new());
        Ok(reply)
    }

    /// The plan of a statement with one of our nodes at its root; `None` for all others.
    async fn plan_inner(
        &self,
        running: &Running,
        state: &SessionState,
        statement: Statement,
    ) -> Result<Option<LogicalPlan>> {
        let (target, statement) = match statement {
            Statement::Insert { table, tree, .. }
            | Statement::Update { table, tree }
            | Statement::Delete { table, tree } => {
                let target = self.write_target(running);
                let session = |extra| self.over_with(&running.state, &running.tables, extra);
                return plan_write(&session, &running.state, *tree, &table, target)
                    .await
                    .map(Some);
            }
            Statement::Preview(inner) => (self.preview_target(running), *inner),
            Statement::Effect(_) | Statement::Call(_) => (self.commit_target(running), statement),
            _ => return Ok(None),
        };
        let query = self.effect_query(statement)?;
        let (query, items) = self.gate.rewrite_effects(*query)?;
        let rows_max = running.rows_max;
        plan_effects(state, query, &items, target, rows_max)
            .await
            .map(Some)
    }

    async fn set(&self, running: Running, tree: SyntaxTree) -> Result<Reply> {
        let state = self.over(&running.state, &running.tables);
        let plan = plan_statement(&state, tree).await?;
        let context = SessionContext::new_with_state(state);
        context.execute_logical_plan(plan).await?;
        if let Ok(mut options) = self.options.lock() {
            *options = Some(context.state().config_options().as_ref().clone());
        }
        self.rows(
            running,
            StatementKind::Setting,
            RecordBatch::new_empty(no_columns()),
        )
    }

    async fn copy(&self, running: Running, mut tree: SyntaxTree) -> Result<Reply> {
        if let SyntaxTree::CopyTo(copy) = &mut tree {
            copy.target = self.core.roots.permit_write(&copy.target)?;
        }
        let state = self.over(&running.state, &running.tables);
        let plan = plan_statement(&state, tree).await?;
        self.whole(running, &state, &plan, StatementKind::Setting)
            .await
    }

    async fn through_context(
        &self,
        running: Running,
        state: SessionState,
        plan: LogicalPlan,
    ) -> Result<Reply> {
        let context = SessionContext::new_with_state(state);
        let frame = context.execute_logical_plan(plan).await?;
        let batches = frame.execute_stream().await?;
        Ok(reply(
            running,
            StatementKind::Setting,
            batches.schema(),
            batches,
        ))
    }

    /// A query: rows are sent as they are found.
    async fn stream(
        &self,
        running: Running,
        state: &SessionState,
        plan: &LogicalPlan,
        kind: StatementKind,
    ) -> Result<Reply> {
        let physical = state.create_physical_plan(plan).await?;
        let batches = execute_stream(physical, state.task_ctx())?;
        let limit = running.limit;
        let schema = batches.schema();
        let ends = tokio::time::Instant::now() + limit;
        let bounded = futures::stream::unfold(Some(batches), move |batches| async move {
            let mut batches = batches?;
            match tokio::time::timeout_at(ends, batches.next()).await {
                Ok(next) => next.map(|batch| (batch, Some(batches))),
                Err(_) => Some((Err(timed_out(limit).into()), None)),
            }
        });
        let batches = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), bounded));
        Ok(reply(running, kind, schema, batches))
    }

    /// A plan that changes something: it is run to its end before the reply.
    async fn whole(
        &self,
        running: Running,
        state: &SessionState,
        plan: &LogicalPlan,
        kind: StatementKind,
    ) -> Result<Reply> {
        let physical = state.create_physical_plan(plan).await?;
        let schema = physical.schema();
        let batches = collect(physical, state.task_ctx()).await?;
        Ok(reply(
            running,
            kind,
            Arc::clone(&schema),
            stream_of(schema, batches),
        ))
    }

    fn rows(&self, running: Running, kind: StatementKind, batch: RecordBatch) -> Result<Reply> {
        let schema = batch.schema();
        let batches = stream_of(Arc::clone(&schema), vec![batch]);
        Ok(reply(running, kind, schema, batches))
    }

    /// Tables, views and functions with their columns, for completion and `\d`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn names(&self) -> Result<Names> {
        let state = self.ledger().snapshot().await?;
        names::names(&self.over(&state, &[]), &state, &self.gate).await
    }
}

/// Whether a statement watches its time itself, or is as long as the work that it was given, as
/// a procedure that runs jobs is.
fn bounds_itself(statement: &Statement) -> bool {
    match statement {
        Statement::Query(_) => true,
        Statement::Call(function) => {
            EffectFunction::named(&parser::object_name(&function.name)).is_none()
        }
        _ => false,
    }
}

/// What CHECKPOINT answers.
fn checkpoint_row(written: &Written) -> Result<RecordBatch> {
    let columns = [
        ("version", written.version.0),
        ("files", written.files),
        ("bytes", written.bytes),
    ]
    .map(|(name, value)| (name, ints(std::iter::once(Some(value)))));
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn no_columns() -> SchemaRef {
    Arc::new(Schema::empty())
}

fn stream_of(schema: SchemaRef, batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let batches = futures::stream::iter(batches.into_iter().map(Ok));
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

fn reply(
    running: Running,
    kind: StatementKind,
    schema: SchemaRef,
    batches: SendableRecordBatchStream,
) -> Reply {
    let done = running.done.lock().ok().and_then(|mut done| done.take());
    let version = done
        .as_ref()
        .map_or(running.state.version, |done| done.version);
    let Done {
        version: _,
        summary,
        rows_affected,
        locks,
    } = done.unwrap_or_default();
    Reply {
        statement_id: running.text.author.statement_id,
        kind,
        schema,
        batches,
        version: version.0,
        rows_affected,
        summary,
        locks,
        notes: Vec::new(),
        repetition: Repetition::No,
    }
}
