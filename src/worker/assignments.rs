//! From the jobs of a group to the rows and assignments that executors work on.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::id::Slot;
use crate::model::sources::SourceTable;
use crate::model::state::State;
use crate::model::transform::TransformKind;
use crate::session::core::Core;
use crate::session::source_rows::{json_rows, source_rows};
use crate::session::write::key_at;
use crate::tables::source_table::{SystemColumn, user_schema};
use crate::worker::command::Assignment;
use crate::worker::output;
use crate::worker::queue::{Group, GroupJob, Input, Ready};

/// The column that says where a source document is.
const URI: &str = "uri";

/// The table of a group's sources.
///
/// # Errors
/// `SG9001 bug`: a table with running jobs cannot be dropped.
pub(super) fn table_of(state: &State, group: &Group) -> Result<Arc<SourceTable>> {
    let table = state.table(&group.def.table).map(Arc::clone);
    table.ok_or_else(|| Error::bug("a table with running jobs was dropped"))
}

/// Reads the rows of a group's sources.
///
/// # Errors
/// Those of the store.
pub(super) async fn prepare(core: &Arc<Core>, group: &Group) -> Result<Ready> {
    let state = core.ledger.seen();
    let table = table_of(&state, group)?;
    let schema = user_schema(&table.def)?;
    let status = SystemColumn::Status.name();
    let columns: Vec<&str> = schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .chain([status])
        .collect();
    let slots = group
        .jobs
        .iter()
        .map(|job| Some(state.job(job.report.job)?.slot));
    let slots: Option<Vec<Slot>> = slots.collect();
    let slots = slots.ok_or_else(|| Error::bug("a running job is not known"))?;
    let batch = source_rows(&core.base, core.sight(state), &table, &slots, &columns).await?;
    let key = schema.index_of(&table.def.key)?;
    let mut by_key: HashMap<&str, &GroupJob> = group
        .jobs
        .iter()
        .map(|job| (job.source_id.as_str(), job))
        .collect();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let found = key_at(table.def.key_type, batch.column(key), row).map(|key| key.to_string());
        let job = found.and_then(|key| by_key.remove(key.as_str()));
        rows.push(
            job.cloned()
                .ok_or_else(|| Error::bug("a row came that was not asked for"))?,
        );
    }
    let failed = by_key.into_values().map(|job| {
        let error = Error::bug(format!(
            "source \"{}\" of a running job has no row",
            job.source_id
        ));
        (job.report.job, super::group::failed(&error))
    });
    let failed = failed.collect();
    let input = match group.def.kind {
        TransformKind::Command { .. } => Input::Sources(assign(core, group, &rows, &batch).await?),
        TransformKind::Sql { .. } | TransformKind::Outside => Input::Rows {
            core: Arc::clone(core),
            jobs: rows,
            batch,
        },
    };
    Ok(Ready { input, failed })
}

async fn assign(
    core: &Core,
    group: &Group,
    jobs: &[GroupJob],
    batch: &RecordBatch,
) -> Result<Vec<Assignment>> {
    let uris = match batch.column_by_name(URI) {
        Some(column) => Some(cast(column, &DataType::Utf8)?),
        None => None,
    };
    let rows = json_rows(batch)?;
    let mut list = Vec::with_capacity(jobs.len());
    for (index, (job, row)) in jobs.iter().zip(rows).enumerate() {
        let uris = uris.as_ref().and_then(|uris| uris.as_string_opt::<i32>());
        let uri = uris
            .filter(|uris| uris.is_valid(index))
            .map(|uris| uris.value(index).to_owned());
        let params = job
            .params
            .as_deref()
            .and_then(|json| serde_json::from_str(json).ok());
        list.push(Assignment {
            job_id: job.report.job,
            attempt: job.attempt,
            token: job.report.token,
            source_id: job.source_id.clone(),
            uri,
            output: output::prepare(core, group, job).await?,
            params,
            row,
        });
    }
    Ok(list)
}
