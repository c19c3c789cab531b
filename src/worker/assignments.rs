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
use crate::session::source_rows::{URI, json_rows, whole_sources};
use crate::worker::command::Assignment;
use crate::worker::output;
use crate::worker::queue::{Group, GroupJob, Input, Ready};

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
    let slots = group
        .jobs
        .iter()
        .map(|job| Some(state.job(job.report.job)?.slot));
    let slots: Option<Vec<Slot>> = slots.collect();
    let slots = slots.ok_or_else(|| Error::bug("a running job is not known"))?;
    let (batch, keys) = whole_sources(core, state, &table, &slots).await?;
    let mut by_key: HashMap<&str, &GroupJob> = group
        .jobs
        .iter()
        .map(|job| (job.source_id.as_str(), job))
        .collect();
    let rows = keys.iter().map(|key| {
        let job = by_key.remove(key.as_str()).cloned();
        job.ok_or_else(|| Error::bug("a row came that was not asked for"))
    });
    let rows: Vec<GroupJob> = rows.collect::<Result<_>>()?;
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
        let output = output::prepare(core, group, job).await?;
        list.push(job.assignment(uri, output, row));
    }
    Ok(list)
}
