//! `CALL claim_jobs(...)`: jobs for workers outside.
//!
//! A claim that is repeated under its idempotency key is answered with its jobs again, on every
//! server and after a crash: a worker whose answer was lost goes on with them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::collect;

use crate::error::{Error, Result};
use crate::functions::effect::{CLAIM_JOBS, Signature};
use crate::id::{JobId, Slot, TableId, Token, TransformId};
use crate::json::object_text;
use crate::model::decide::Report;
use crate::model::draft::Draft;
use crate::model::event::AttemptRef;
use crate::model::kept::KeptStatement;
use crate::model::rules;
use crate::model::state::{Dropped, State};
use crate::model::transform::{Permission, TransformKind};
use crate::session::catalog::state_over;
use crate::session::core::{Core, Procedure};
use crate::session::effect_node::action::check_effect_rows;
use crate::session::effect_node::planning::plan_statement;
use crate::session::names::literal;
use crate::session::parser::parse;
use crate::session::sink::StatementText;
use crate::session::source_rows::{json_rows, whole_sources};
use crate::session::statement::Statement;
use crate::session::{Session, query_tree};
use crate::tables::columns::{ints, texts, times};
use crate::tables::events::Events;
use crate::time::Timestamp;

/// The procedure.
#[derive(Debug)]
pub struct ClaimJobs;

/// One claimed job, as the worker sees it.
#[derive(Debug)]
struct Claimed {
    report: Report,
    place: (TableId, Slot),
    attempt: u64,
    transform: Arc<str>,
    transform_version: u64,
    table: Arc<str>,
    source: String,
    params: Option<Box<str>>,
    expires_at: Timestamp,
}

#[async_trait]
impl Procedure for ClaimJobs {
    fn signature(&self) -> &'static Signature {
        &CLAIM_JOBS
    }

    async fn call(
        &self,
        session: &Session,
        text: StatementText,
        args: StructArray,
        rows_max: usize,
    ) -> Result<RecordBatch> {
        let worker = args.column(0).as_string::<i32>().value(0).to_owned();
        let names = args.column(1);
        let names: Option<Vec<String>> = names.is_valid(0).then(|| {
            let list = names.as_list::<i32>().value(0);
            list.as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect()
        });
        let max = args.column(2);
        let max = max
            .is_valid(0)
            .then(|| max.as_primitive::<Int64Type>().value(0));
        let limit = session.core().ledger.limits().claim_jobs_max;
        let max = match usize::try_from(max.unwrap_or(1)) {
            Ok(max) if max <= limit => max,
            _ => {
                return Err(CLAIM_JOBS.argument_error(format!(
                    "argument \"max\" of claim_jobs is not between 0 and {limit}"
                )));
            }
        };
        check_effect_rows(max, rows_max)?;
        let ledger = &session.core().ledger;
        let author = text.author.clone();
        let committed = ledger
            .commit(author.clone(), move |draft| {
                let transforms = wanted(draft, names.as_deref())?;
                let started = draft.claim_jobs(&worker, &transforms, max)?;
                let claimed: Vec<Claimed> = started
                    .iter()
                    .filter_map(|one| Claimed::of(draft.state(), one.attempt))
                    .collect();
                if !draft.is_empty() {
                    let summary = format!(
                        r#"[{{"function":"claim_jobs","outcome":"started","count":{}}}]"#,
                        claimed.len()
                    );
                    draft.note_statement(&text.sql, text.idempotency_key.as_deref(), &summary)?;
                }
                Ok(claimed)
            })
            .await?;
        let claimed = committed.reply;
        let shown = shown(session.core(), &claimed, &args).await;
        if shown.is_err() {
            // Nobody would work on them until their leases are over.
            let reports: Vec<Report> = claimed.iter().map(|one| one.report).collect();
            let handed_back = ledger.commit(author, move |draft| {
                reports
                    .iter()
                    .try_for_each(|report| draft.hand_back(*report).map(drop))
            });
            handed_back.await?;
        }
        shown
    }

    /// Of the attempts that the first call started, those that still run: nobody can work on the
    /// others. Which they are follows from the events of the commit.
    async fn again(
        &self,
        session: &Session,
        kept: &KeptStatement,
        args: StructArray,
    ) -> Result<Option<RecordBatch>> {
        let core = session.core();
        let started = started(core, kept).await?;
        let state = core.ledger.snapshot().await?;
        let claimed = started
            .into_iter()
            .filter_map(|attempt| Claimed::of(&state, attempt));
        let claimed: Vec<Claimed> = claimed.collect();
        shown(core, &claimed, &args).await.map(Some)
    }
}

impl Claimed {
    /// What the worker of an attempt needs to know; `None` where the attempt does not run.
    fn of(state: &State, attempt: AttemptRef) -> Option<Self> {
        let job = state.job(attempt.job)?;
        match rules::report_is_live(job, attempt) {
            Permission::Allowed => {}
            Permission::Denied => return None,
        }
        let params = job.extra.as_ref().and_then(|extra| extra.params.as_deref());
        Some(Self {
            report: Report {
                job: attempt.job,
                token: attempt.token,
            },
            place: (job.table, job.slot),
            attempt: u64::from(attempt.attempt),
            transform: Arc::clone(&state.transforms.get(&job.transform)?.name),
            transform_version: u64::from(job.transform_version),
            table: Arc::clone(&state.tables.get(&job.table)?.name),
            source: state.key(job.table, job.slot)?.to_string(),
            params: params.map(Into::into),
            expires_at: job.expires_at,
        })
    }
}

/// The attempts that a statement started, in their order.
async fn started(core: &Core, kept: &KeptStatement) -> Result<Vec<AttemptRef>> {
    let store = core.ledger.store().clone();
    let events = Events::of_commit(store, core.store_url.clone(), kept.version);
    let sight = core.sight(core.ledger.seen());
    let extra: Vec<(String, Arc<dyn TableProvider>)> =
        vec![("commit_events".to_owned(), Arc::new(events))];
    let session = state_over(&core.base, sight, extra);
    let sql = format!(
        "SELECT job_id, attempt, token FROM commit_events WHERE version = {} AND statement_id = {} \
         AND kind = 'job-started' ORDER BY ordinal",
        kept.version.0,
        literal(&kept.statement_id)
    );
    let Statement::Query(query) = parse(&sql)?.statement else {
        return Err(Error::bug("the events of a commit are no query"));
    };
    let plan = plan_statement(&session, query_tree(*query)).await?;
    let physical = session.create_physical_plan(&plan).await?;
    let mut started = Vec::new();
    for batch in collect(physical, session.task_ctx()).await? {
        let numbers = batch
            .columns()
            .iter()
            .map(|column| cast(column, &DataType::UInt64))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let numbers: Vec<&UInt64Array> =
            numbers.iter().map(|column| column.as_primitive()).collect();
        let [jobs, attempts, tokens] = numbers.as_slice() else {
            return Err(Error::bug("the events of a commit have other columns"));
        };
        for row in 0..batch.num_rows() {
            started.push(AttemptRef {
                job: JobId(jobs.value(row)),
                attempt: u16::try_from(attempts.value(row)).unwrap_or(u16::MAX),
                token: Token(tokens.value(row)),
            });
        }
    }
    Ok(started)
}

/// The answer to a claim.
async fn shown(core: &Core, claimed: &[Claimed], args: &StructArray) -> Result<RecordBatch> {
    let with_rows = args.column(3).as_boolean();
    if with_rows.is_null(0) || !with_rows.value(0) {
        return rows(claimed, None);
    }
    rows(claimed, Some(&sources_of(core, claimed).await?))
}

/// The rows of the claimed sources, as JSON objects: the columns of the table, and the status.
async fn sources_of(core: &Core, claimed: &[Claimed]) -> Result<HashMap<JobId, String>> {
    let state = core.ledger.seen();
    let mut by_table: BTreeMap<TableId, HashMap<&str, &Claimed>> = BTreeMap::new();
    for one in claimed {
        let of_table = by_table.entry(one.place.0).or_default();
        of_table.insert(&one.source, one);
    }
    let mut found = HashMap::with_capacity(claimed.len());
    for (id, by_key) in by_table {
        let table = state.tables.get(&id).map(Arc::clone);
        let table = table.ok_or_else(|| Error::bug("a table with running jobs was dropped"))?;
        let slots: Vec<Slot> = by_key.values().map(|one| one.place.1).collect();
        let (batch, keys) = whole_sources(core, Arc::clone(&state), &table, &slots).await?;
        for (key, object) in keys.iter().zip(json_rows(&batch)?) {
            let one = by_key.get(key.as_str());
            let one = one.ok_or_else(|| Error::bug("a row came that was not asked for"))?;
            found.insert(one.report.job, object_text(&object));
        }
    }
    Ok(found)
}

/// The transforms of these names; without names, all that outside workers run.
fn wanted(draft: &Draft<'_>, names: Option<&[String]>) -> Result<Vec<TransformId>> {
    match names {
        Some(names) => names
            .iter()
            .map(|name| Ok(draft.schedule_target(name)?.transform()))
            .collect(),
        None => {
            let all = draft.state().transforms.values();
            let outside = all.filter(|transform| {
                transform.dropped == Dropped::No
                    && matches!(transform.def().kind, TransformKind::Outside)
            });
            Ok(outside.map(|transform| transform.id).collect())
        }
    }
}

/// `rows = claimed jobs`; the column `row` is there where `sources` are.
fn rows(claimed: &[Claimed], sources: Option<&HashMap<JobId, String>>) -> Result<RecordBatch> {
    let int = |of: fn(&Claimed) -> u64| ints(claimed.iter().map(|one| Some(of(one))));
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("job_id", int(|one| one.report.job.0)),
        ("token", int(|one| one.report.token.0)),
        ("attempt", int(|one| one.attempt)),
        (
            "transform",
            texts(claimed.iter().map(|one| Some(&one.transform))),
        ),
        ("transform_version", int(|one| one.transform_version)),
        (
            "source_table",
            texts(claimed.iter().map(|one| Some(&one.table))),
        ),
        (
            "source_id",
            texts(claimed.iter().map(|one| Some(&one.source))),
        ),
        (
            "params",
            texts(claimed.iter().map(|one| one.params.as_deref())),
        ),
        (
            "expires_at",
            times(claimed.iter().map(|one| one.expires_at)),
        ),
    ];
    if let Some(sources) = sources {
        let of_jobs = claimed.iter().map(|one| sources.get(&one.report.job));
        let of_jobs = texts(of_jobs.map(|row| row.map(String::as_str)));
        columns.push(("row", of_jobs));
    }
    let field = |(name, column): &(&str, ArrayRef)| {
        Field::new(
            *name,
            column.data_type().clone(),
            matches!(*name, "params" | "row"),
        )
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}
