//! `CALL claim_jobs(...)`: jobs for workers outside.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Field, Int64Type, Schema};
use async_trait::async_trait;

use crate::error::Result;
use crate::functions::effect::{CLAIM_JOBS, Signature};
use crate::id::TransformId;
use crate::model::draft::Draft;
use crate::model::state::Dropped;
use crate::model::transform::TransformKind;
use crate::session::Session;
use crate::session::core::Procedure;
use crate::session::sink::StatementText;
use crate::tables::columns::{ints, texts, times};
use crate::time::Timestamp;

/// The procedure.
#[derive(Debug)]
pub struct ClaimJobs;

/// One claimed job, as the worker sees it.
#[derive(Debug)]
struct Claimed {
    job: u64,
    token: u64,
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
        let ledger = &session.core().ledger;
        let committed = ledger
            .commit(text.author.clone(), move |draft| {
                let transforms = wanted(draft, names.as_deref())?;
                let started = draft.claim_jobs(&worker, &transforms, max)?;
                let claimed: Vec<Claimed> = started
                    .iter()
                    .filter_map(|one| {
                        let state = draft.state();
                        let job = state.job(one.attempt.job)?;
                        let transform = state.transforms.get(&one.transform)?;
                        Some(Claimed {
                            job: one.attempt.job.0,
                            token: one.attempt.token.0,
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
        rows(&committed.reply)
    }
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

fn rows(claimed: &[Claimed]) -> Result<RecordBatch> {
    let int = |of: fn(&Claimed) -> u64| ints(claimed.iter().map(|one| Some(of(one))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("job_id", int(|one| one.job)),
        ("token", int(|one| one.token)),
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
    let field = |(name, column): &(&str, ArrayRef)| {
        Field::new(*name, column.data_type().clone(), *name == "params")
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}
