//! `CALL claim_jobs(...)`: jobs for workers outside.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Field, Int64Type, Schema};
use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::functions::effect::{CLAIM_JOBS, Signature};
use crate::id::{JobId, Slot, TableId, TransformId};
use crate::model::decide::Report;
use crate::model::draft::Draft;
use crate::model::state::Dropped;
use crate::model::transform::TransformKind;
use crate::session::Session;
use crate::session::core::{Core, Procedure};
use crate::session::effect_node::action::check_effect_rows;
use crate::session::sink::StatementText;
use crate::session::source_rows::{json_rows, whole_sources};
use crate::tables::columns::{ints, texts, times};
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
        let with_rows = args.column(3).as_boolean();
        let with_rows = with_rows.is_valid(0) && with_rows.value(0);
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
                    .filter_map(|one| {
                        let state = draft.state();
                        let job = state.job(one.attempt.job)?;
                        let transform = state.transforms.get(&one.transform)?;
                        Some(Claimed {
                            report: Report {
                                job: one.attempt.job,
                                token: one.attempt.token,
                            },
                            place: (job.table, job.slot),
                            attempt: u64::from(one.attempt.attempt),
                            transform: Arc::clone(&transform.name),
                            transform_version: u64::from(transform.version.number),
                            table: Arc::clone(&state.tables.get(&job.table)?.name),
                            source: state.key(job.table, job.slot)?.to_string(),
                            params: job
                                .extra
                                .as_ref()
                                .and_then(|e| e.params.as_deref())
                                .map(Into::into),
                            expires_at: one.expires_at,
                        })
                    })
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
        if !with_rows {
            return rows(&claimed, None);
        }
        match sources_of(session.core(), &claimed).await {
            Ok(sources) => rows(&claimed, Some(&sources)),
            Err(error) => {
                // Nobody would work on them until their leases are over.
                let reports: Vec<Report> = claimed.iter().map(|one| one.report).collect();
                let handed_back = ledger.commit(author, move |draft| {
                    reports
                        .iter()
                        .try_for_each(|report| draft.hand_back(*report).map(drop))
                });
                handed_back.await?;
                Err(error)
            }
        }
    }
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
            found.insert(
                one.report.job,
                serde_json::Value::Object(object).to_string(),
            );
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
