//! From the jobs of a group to the rows and assignments that executors work on.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::id::{JobId, Slot};
use crate::model::transform::TransformKind;
use crate::session::source_rows::source_rows;
use crate::session::write::key_at;
use crate::tables::source_table::{SystemColumn, user_schema};
use crate::worker::command::{Assignment, Outcome};
use crate::worker::group::{Context, Group, GroupJob};
use crate::worker::output;

/// The column that says where a source document is.
const URI: &str = "uri";

/// A group with its rows.
pub(super) struct Ready {
    /// The jobs whose rows are there.
    pub rows: Vec<GroupJob>,
    /// For commands.
    pub list: Vec<Assignment>,
    /// Jobs that cannot be worked on.
    pub failed: Vec<(JobId, Outcome)>,
    /// The columns, one row per job of `rows`.
    pub batch: RecordBatch,
}

/// Reads the rows of a group's sources.
///
/// # Errors
/// Those of the store.
pub(super) async fn prepare(context: &Context, group: &Group) -> Result<Ready> {
    let core = &context.core;
    let state = core.ledger.seen();
    let table = state.tables.get(&group.table).map(Arc::clone);
    let table = table.ok_or_else(|| Error::bug("a table with running jobs was dropped"))?;
    let schema = user_schema(&table.def)?;
    let status = SystemColumn::Status.name();
    let columns: Vec<&str> = schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .chain([status])
        .collect();
    let slots: Vec<Slot> = group.jobs.iter().map(|job| job.slot).collect();
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
    let list = match group.def.kind {
        TransformKind::Command { .. } => assign(context, group, &rows, &batch).await?,
        TransformKind::Sql { .. } | TransformKind::Outside => Vec::new(),
    };
    Ok(Ready {
        rows,
        list,
        failed,
        batch,
    })
}

async fn assign(
    context: &Context,
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
            output: output::prepare(context, group, job).await?,
            params,
            row,
        });
    }
    Ok(list)
}

/// Rows as JSON objects, NULL included: dates and times as ISO 8601 text.
///
/// # Errors
/// A type that JSON cannot hold.
pub(super) fn json_rows(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    serde_json::from_slice(&writer.into_inner())
        .map_err(|error| Error::bug("rows are no JSON objects").with_source(error))
}
