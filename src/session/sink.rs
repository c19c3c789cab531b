//! From the rows of an effect statement to decisions of the model, in one commit.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Int64Builder, StringBuilder, StructArray,
};
use arrow::compute::partition;
use arrow::datatypes::{DurationMicrosecondType, Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;

use crate::error::{Code, Error, Result};
use crate::functions::effect::EffectFunction;
use crate::id::{JobId, TableId, Token, Version};
use crate::json::{Value, parse};
use crate::ledger::Ledger;
use crate::model::decide::{
    AcquireOptions, Completion, Decision, Failure, Force, Grant, Outcome, Report, ScheduleOptions,
    ScheduleTarget,
};
use crate::model::draft::{Author, Draft};
use crate::model::event::RowRef;
use crate::model::locks::LockMode;
use crate::model::outputs::kept;
use crate::model::state::State;
use crate::session::core::Core;
use crate::session::effect_node::action::{BoundCall, EffectForecast, EffectSink, forecast_fields};
use crate::session::held::{Held, LockChanges};
use crate::session::writeback::{Columns, Patch, Written, check_patch, write_patches};
use crate::time::Timestamp;

/// How often one effect function ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutcomeCount {
    /// The effect function.
    pub function: String,
    /// How it ended.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// What a statement did, known when it has committed.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// The version at which it is true.
    pub version: Version,
    /// How its effects ended.
    pub summary: Vec<OutcomeCount>,
    /// The rows that it wrote or deleted.
    pub rows_affected: Option<u64>,
    /// The locks that it acquired and released.
    pub locks: LockChanges,
}

/// The text of a statement, as it is kept in the ledger.
#[derive(Debug, Clone)]
pub struct StatementText {
    /// Who runs it, and its id.
    pub author: Author,
    /// Its text.
    pub sql: Arc<str>,
    /// The key under which a repeated request is recognised.
    pub idempotency_key: Option<Arc<str>>,
}

/// Commits the effects of one statement.
#[derive(Debug)]
pub struct LedgerSink {
    /// Where to.
    pub core: Arc<Core>,
    /// On whose behalf.
    pub text: StatementText,
    /// The locks of its session.
    pub(super) held: Held,
    /// Filled when it is done.
    pub done: Arc<Mutex<Option<Done>>>,
}

#[async_trait]
impl EffectSink for LedgerSink {
    async fn apply(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<ArrayRef>> {
        let patches = Patches::prepare(&self.core, &calls, rows).await?;
        let text = self.text.clone();
        let store_url = Arc::clone(&self.core.public_url);
        let committed = self
            .core
            .ledger
            .commit(self.text.author.clone(), move |draft| {
                let linked = patches.link(draft)?;
                let mut run = Run::new(rows, &calls, &store_url);
                run.all(draft, &linked)?;
                let summary = run.counts();
                let json = serde_json::to_string(&summary).unwrap_or_default();
                draft.note_statement(&text.sql, text.idempotency_key.as_deref(), &json)?;
                Ok((run.results(), summary, run.locks()))
            })
            .await?;
        let (results, summary, locks) = committed.reply;
        self.held.follow(&locks);
        if let Ok(mut done) = self.done.lock() {
            *done = Some(Done {
                version: committed.version,
                summary,
                rows_affected: None,
                locks,
            });
        }
        Ok(results)
    }
}

/// The new rows of one source table, and of each the call and row that it comes from.
type TablePatches = (Vec<Patch>, Vec<(usize, usize)>);

/// The columns that the `complete_job` calls of one statement write back.
#[derive(Debug, Default)]
struct Patches {
    written: Vec<Written>,
    /// Per call and row: which of `written`, and the job.
    places: Vec<Vec<Option<(usize, JobId)>>>,
}

impl Patches {
    /// Writes the new rows, one run per source table, before anything is decided.
    async fn prepare(core: &Core, calls: &[BoundCall], rows: usize) -> Result<Self> {
        if !calls.iter().any(|call| writes_back(call, rows)) {
            return Ok(Self::default());
        }
        let state = core.ledger.snapshot().await?;
        let by_table = patches(&state, calls, rows)?;
        let mut places = vec![vec![None; rows]; calls.len()];
        let mut written = Vec::new();
        for (id, (patches, of)) in by_table {
            let Some(table) = state.tables.get(&id) else {
                continue;
            };
            let sight = core.sight(Arc::clone(&state));
            let run = write_patches(&core.base, sight, &core.ledger, table, &patches).await?;
            let Some(run) = run else { continue };
            for ((call, row), patch) in of.into_iter().zip(&patches) {
                if let Some(place) = places.get_mut(call).and_then(|rows| rows.get_mut(row)) {
                    *place = Some((written.len(), patch.job));
                }
            }
            written.push(run);
        }
        Ok(Self { written, places })
    }

    /// Lets the runs join their tables, and says which row belongs to which call and row.
    fn link(&self, draft: &mut Draft<'_>) -> Result<Vec<Vec<Option<RowRef>>>> {
        let runs = self
            .written
            .iter()
            .map(|run| run.add(draft))
            .collect::<Result<Vec<_>>>()?;
        let row = |place: &Option<(usize, JobId)>| {
            let (at, job) = (*place)?;
            self.written.get(at)?.row(*runs.get(at)?, job)
        };
        Ok(self
            .places
            .iter()
            .map(|rows| rows.iter().map(row).collect())
            .collect())
    }
}

/// Whether a call brings columns in some row.
fn writes_back(call: &BoundCall, rows: usize) -> bool {
    let columns = call.args.columns().get(COLUMNS);
    call.function == EffectFunction::CompleteJob && columns.is_some_and(|c| c.null_count() < rows)
}

/// The columns that calls bring, checked against their tables.
///
/// # Errors
/// `SG1004 effect-argument`, `SG8005 invalid-answer`.
fn patches(
    state: &State,
    calls: &[BoundCall],
    rows: usize,
) -> Result<BTreeMap<TableId, TablePatches>> {
    let mut by_table: BTreeMap<TableId, TablePatches> = BTreeMap::new();
    let calls = calls.iter().enumerate();
    let calls: Vec<_> = calls.filter(|(_, call)| writes_back(call, rows)).collect();
    if calls.is_empty() {
        return Ok(by_table);
    }
    let mut seen = HashSet::new();
    // In the order of the decisions: rows of a run are linked in their order.
    for row in 0..rows {
        for &(at, call) in &calls {
            let args = Args { call, row };
            let Some(json) = args.text(COLUMNS) else {
                continue;
            };
            let report = args.report();
            // A stale report writes nothing; the model refuses it with its reason.
            let live = state
                .job(report.job)
                .filter(|job| job.token == report.token);
            let Some(job) = live else { continue };
            let (Some(table), Some(key)) =
                (state.tables.get(&job.table), state.key(job.table, job.slot))
            else {
                continue;
            };
            let no_object = || {
                call.function
                    .signature()
                    .argument_error("argument \"columns\" of complete_job is no JSON object")
            };
            let columns = match parse(json).map_err(|error| no_object().with_source(error))? {
                Value::Object(columns) => Columns::Named(columns),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Text(_)
                | Value::Array(_) => return Err(no_object()),
            };
            check_patch(table, &columns)?;
            if !seen.insert(report.job) {
                return Err(call.function.signature().argument_error(format!(
                    "job {} is completed with columns twice in one statement",
                    report.job
                )));
            }
            let (patches, of) = by_table.entry(job.table).or_default();
            patches.push(Patch {
                job: report.job,
                source_id: key.to_string(),
                columns,
            });
            of.push((at, row));
        }
    }
    Ok(by_table)
}

/// The place of argument `columns` of `complete_job`.
const COLUMNS: usize = 4;

/// Tells what the effects of one statement would do.
#[derive(Debug)]
pub struct LedgerForecast {
    /// On what.
    pub ledger: Ledger,
    /// On whose behalf.
    pub author: Author,
    /// Filled when it is done.
    pub done: Arc<Mutex<Option<Done>>>,
}

#[async_trait]
impl EffectForecast for LedgerForecast {
    async fn forecast(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<StructArray>> {
        let foreseen = self
            .ledger
            .preview(self.author.clone(), |draft| {
                patches(draft.state(), &calls, rows)?;
                let mut run = Run::new(rows, &calls, self.ledger.store().url().as_str());
                run.all(draft, &[])?;
                Ok((run.forecasts()?, run.counts()))
            })
            .await?;
        let (forecasts, summary) = foreseen.reply;
        if let Ok(mut done) = self.done.lock() {
            *done = Some(Done {
                version: foreseen.version,
                summary,
                rows_affected: None,
                locks: LockChanges::default(),
            });
        }
        Ok(forecasts)
    }
}

/// The rows and calls of one statement on their way through the model.
struct Run<'c> {
    rows: usize,
    calls: &'c [BoundCall],
    store_url: &'c str,
    targets: Vec<Option<ScheduleTarget>>,
    decisions: Vec<Vec<Decision>>,
}

impl<'c> Run<'c> {
    fn new(rows: usize, calls: &'c [BoundCall], store_url: &'c str) -> Self {
        let decisions = calls.iter().map(|_| Vec::with_capacity(rows)).collect();
        Self {
            rows,
            calls,
            store_url,
            targets: vec![None; calls.len()],
            decisions,
        }
    }

    /// All calls of a row before the next row.
    fn all(&mut self, draft: &mut Draft<'_>, linked: &[Vec<Option<RowRef>>]) -> Result<()> {
        if let ([call], [decisions]) = (self.calls, self.decisions.as_mut_slice())
            && call.function == EffectFunction::ScheduleJob
        {
            return schedule_all(draft, call, decisions);
        }
        for row in 0..self.rows {
            for (index, call) in self.calls.iter().enumerate() {
                let decision = match call.null_argument(row) {
                    Some(name) => null_argument(name),
                    None => {
                        let target = self.targets.get_mut(index);
                        let target = target.ok_or_else(|| Error::bug("a call without a place"))?;
                        let link = linked.get(index).and_then(|rows| rows.get(row)).copied();
                        decide(
                            draft,
                            Args { call, row },
                            self.store_url,
                            target,
                            link.flatten(),
                        )?
                    }
                };
                if let Some(decisions) = self.decisions.get_mut(index) {
                    decisions.push(decision);
                }
            }
        }
        Ok(())
    }

    fn counts(&self) -> Vec<OutcomeCount> {
        let mut counts: BTreeMap<(&str, Outcome), u64> = BTreeMap::new();
        for (call, decisions) in self.calls.iter().zip(&self.decisions) {
            for decision in decisions {
                *counts
                    .entry((call.function.name(), decision.outcome))
                    .or_default() += 1;
            }
        }
        let count = |((function, outcome), count): ((&str, Outcome), u64)| OutcomeCount {
            function: function.to_owned(),
            outcome: outcome.name().to_owned(),
            count,
        };
        counts.into_iter().map(count).collect()
    }

    fn locks(&self) -> LockChanges {
        let mut changes = LockChanges::default();
        let of_locks = self.calls.iter().zip(&self.decisions).filter(|(call, _)| {
            matches!(
                call.function,
                EffectFunction::AcquireLock | EffectFunction::ReleaseLock
            )
        });
        for (call, decisions) in of_locks {
            for (row, decision) in decisions.iter().enumerate() {
                if decision.outcome == Outcome::Acquired {
                    changes.acquired.extend(decision.token);
                }
                if decision.outcome == Outcome::Released {
                    let token = Args { call, row }.int(TOKEN);
                    let token = token.and_then(|token| u64::try_from(token).ok());
                    changes.released.extend(token.map(Token));
                }
            }
        }
        changes
    }

    fn results(&self) -> Vec<ArrayRef> {
        let pairs = self.calls.iter().zip(&self.decisions);
        pairs
            .map(|(call, decisions)| results(call.function, decisions))
            .collect()
    }

    fn forecasts(&self) -> Result<Vec<StructArray>> {
        self.decisions
            .iter()
            .map(|decisions| forecast(decisions))
            .collect()
    }
}

/// The place of argument `token` of `release_lock`.
const TOKEN: usize = 1;

/// The place of argument `source_id` of `schedule_job`.
const SOURCE_ID: usize = 1;

/// Decides `schedule_job` where it is a statement's only call: rows that follow each other and
/// have the same other arguments are one call of the model.
fn schedule_all(
    draft: &mut Draft<'_>,
    call: &BoundCall,
    decisions: &mut Vec<Decision>,
) -> Result<()> {
    let columns = call.args.columns();
    let others: Vec<ArrayRef> = (0..columns.len())
        .filter(|&at| at != SOURCE_ID)
        .filter_map(|at| columns.get(at).cloned())
        .collect();
    let source_ids = columns.get(SOURCE_ID).map(|ids| ids.as_string_opt::<i32>());
    let source_ids = source_ids
        .flatten()
        .ok_or_else(|| Error::bug("schedule_job has no source_id"))?;
    for alike in partition(&others)?.ranges() {
        let mut row = alike.start;
        while row < alike.end {
            if let Some(name) = call.null_argument(row) {
                decisions.push(null_argument(name));
                row += 1;
                continue;
            }
            let args = Args { call, row };
            let target = draft.schedule_target(args.text(0).unwrap_or_default())?;
            let options = args.schedule_options(2)?;
            let null = (row..alike.end).find(|&row| source_ids.is_null(row));
            let end = null.unwrap_or(alike.end);
            let ids = (row..end).map(|row| source_ids.value(row));
            draft.schedule_jobs(&target, ids, options, decisions)?;
            row = end;
        }
    }
    Ok(())
}

fn null_argument(name: &str) -> Decision {
    Decision::refused(
        Outcome::NullArgument,
        format!("argument \"{name}\" is NULL"),
    )
}

fn results(function: EffectFunction, decisions: &[Decision]) -> ArrayRef {
    match function {
        EffectFunction::ScheduleJob | EffectFunction::RetryJob => {
            integers(decisions, |decision| decision.job.map(|job| job.0))
        }
        EffectFunction::AcquireLock => {
            integers(decisions, |decision| decision.token.map(|token| token.0))
        }
        EffectFunction::Heartbeat => {
            let mut builder = StringBuilder::new();
            for decision in decisions {
                match decision.outcome {
                    Outcome::Alive => builder.append_value("alive"),
                    Outcome::AliveCancelRequested => builder.append_value("cancel-requested"),
                    Outcome::NullArgument => builder.append_null(),
                    _ => builder.append_value("stale"),
                }
            }
            Arc::new(builder.finish())
        }
        EffectFunction::CancelJob
        | EffectFunction::SetStatus
        | EffectFunction::RenewLock
        | EffectFunction::ReleaseLock
        | EffectFunction::CompleteJob
        | EffectFunction::FailJob
        | EffectFunction::HandBackJob => {
            let mut builder = BooleanBuilder::with_capacity(decisions.len());
            for decision in decisions {
                match decision.outcome {
                    Outcome::NullArgument => builder.append_null(),
                    outcome => builder.append_value(outcome.grant() == Grant::Granted),
                }
            }
            Arc::new(builder.finish())
        }
    }
}

fn integers(decisions: &[Decision], of: impl Fn(&Decision) -> Option<u64>) -> ArrayRef {
    let mut builder = Int64Builder::with_capacity(decisions.len());
    for decision in decisions {
        let refused = match decision.outcome {
            // The id of the live job is the answer, although no job was made.
            Outcome::AlreadyLive => false,
            outcome => outcome.grant() == Grant::Refused,
        };
        let value = of(decision).filter(|_| !refused);
        builder.append_option(value.and_then(|value| i64::try_from(value).ok()));
    }
    Arc::new(builder.finish())
}

fn forecast(decisions: &[Decision]) -> Result<StructArray> {
    let mut outcomes = StringBuilder::new();
    let mut reasons = StringBuilder::new();
    let mut jobs = Int64Builder::new();
    let mut holders = StringBuilder::new();
    for decision in decisions {
        outcomes.append_value(decision.outcome.name());
        reasons.append_option(Some(&decision.reason).filter(|reason| !reason.is_empty()));
        jobs.append_option(
            decision
                .blocking_job
                .and_then(|job| i64::try_from(job.0).ok()),
        );
        holders.append_option(decision.holder.as_deref());
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(outcomes.finish()),
        Arc::new(reasons.finish()),
        Arc::new(jobs.finish()),
        Arc::new(holders.finish()),
    ];
    Ok(StructArray::try_new(forecast_fields(), columns, None)?)
}

/// The arguments of one call in one row, by position.
struct Args<'c> {
    call: &'c BoundCall,
    row: usize,
}

impl<'c> Args<'c> {
    fn column(&self, index: usize) -> Option<&'c ArrayRef> {
        let column = self.call.args.columns().get(index)?;
        column.is_valid(self.row).then_some(column)
    }

    fn text(&self, index: usize) -> Option<&'c str> {
        Some(self.column(index)?.as_string_opt::<i32>()?.value(self.row))
    }

    fn int(&self, index: usize) -> Option<i64> {
        Some(
            self.column(index)?
                .as_primitive_opt::<Int64Type>()?
                .value(self.row),
        )
    }

    fn id(&self, index: usize) -> u64 {
        // Ids are positive, so no job or token has the number that stands for a negative one.
        self.int(index)
            .and_then(|id| u64::try_from(id).ok())
            .unwrap_or(u64::MAX)
    }

    fn time(&self, index: usize) -> Option<Timestamp> {
        let column = self
            .column(index)?
            .as_primitive_opt::<TimestampMicrosecondType>()?;
        Some(Timestamp(column.value(self.row)))
    }

    fn duration(&self, index: usize) -> Option<Duration> {
        let column = self
            .column(index)?
            .as_primitive_opt::<DurationMicrosecondType>()?;
        u64::try_from(column.value(self.row))
            .ok()
            .map(Duration::from_micros)
    }

    fn flag(&self, index: usize) -> bool {
        self.column(index)
            .and_then(|column| column.as_boolean_opt())
            .is_some_and(|column| column.value(self.row))
    }

    fn schedule_options(&self, first: usize) -> Result<ScheduleOptions<'c>> {
        let priority = self.int(first).map(|priority| {
            i16::try_from(priority).map_err(|error| {
                Error::new(
                    Code::EffectArgument,
                    format!("priority {priority} is out of range"),
                )
                .with_hint("Use a number from -32768 to 32767.")
                .with_source(error)
            })
        });
        Ok(ScheduleOptions {
            priority: priority.transpose()?,
            run_at: self.time(first + 1),
            params: self.text(first + 2),
            batch: self.text(first + 3),
        })
    }

    fn report(&self) -> Report {
        Report {
            job: JobId(self.id(0)),
            token: Token(self.id(1)),
        }
    }
}

fn decide(
    draft: &mut Draft<'_>,
    args: Args<'_>,
    store_url: &str,
    target: &mut Option<ScheduleTarget>,
    link: Option<RowRef>,
) -> Result<Decision> {
    let call = args.call;
    let text = |index: usize| args.text(index).unwrap_or_default();
    match call.function {
        EffectFunction::ScheduleJob => {
            let name = text(0);
            let known = target.take().filter(|target| target.name() == name);
            let known = match known {
                Some(known) => known,
                None => draft.schedule_target(name)?,
            };
            let decision = draft.schedule_job(&known, text(1), args.schedule_options(2)?);
            *target = Some(known);
            decision
        }
        EffectFunction::CancelJob => draft.cancel_job(JobId(args.id(0))),
        EffectFunction::RetryJob => draft.retry_job(JobId(args.id(0)), args.schedule_options(1)?),
        EffectFunction::SetStatus => draft.set_status(text(0), text(1), text(2), args.text(3)),
        EffectFunction::AcquireLock => draft.acquire_lock(
            text(0),
            AcquireOptions {
                ttl: args.duration(1),
                mode: args
                    .text(2)
                    .and_then(LockMode::parse)
                    .unwrap_or(LockMode::Exclusive),
                reason: args.text(3),
            },
        ),
        EffectFunction::RenewLock => draft.renew_lock(text(0), Token(args.id(1)), args.duration(2)),
        EffectFunction::ReleaseLock => {
            let token = args.int(1).map(|_| Token(args.id(1)));
            let force = if args.flag(2) { Force::Yes } else { Force::No };
            if token.is_none() && force == Force::No {
                return Err(call
                    .function
                    .signature()
                    .argument_error("argument \"token\" of release_lock is missing"));
            }
            draft.release_lock(text(0), token, force)
        }
        EffectFunction::Heartbeat => draft.heartbeat(args.report()),
        EffectFunction::CompleteJob => draft.complete_job(
            args.report(),
            Completion {
                output_uri: args.text(2).map(|uri| kept(store_url, uri)).as_deref(),
                status: args.text(3),
                row: link,
            },
        ),
        EffectFunction::FailJob => draft.fail_job(
            args.report(),
            Failure {
                message: text(2),
                code: args.text(3).unwrap_or("error"),
            },
        ),
        EffectFunction::HandBackJob => draft.hand_back(args.report()),
    }
}
