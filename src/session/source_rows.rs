//! The rows of some sources, found by where they are and not by a search.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::json::writer::JsonArray;
use datafusion::execution::SessionState;
use datafusion::physical_plan::collect;

use crate::error::{Error, Result};
use crate::format::json_options;
use crate::id::Slot;
use crate::json::{Object, Value, parse_bytes};
use crate::model::sources::SourceTable;
use crate::model::state::State;
use crate::session::catalog::{Sight, state_over};
use crate::session::core::Core;
use crate::session::names::quoted;
use crate::session::write::key_at;
use crate::tables::source_table::{SourceProvider, SystemColumn, user_schema};

/// The column that says where the document of a source is.
pub const URI: &str = "uri";

/// The name of the table that holds just these sources.
const SOURCES: &str = "__sources";

/// Reads the named columns of the sources in `slots`, in no particular order. Sources that are
/// gone are left out.
///
/// # Errors
/// Those of the store; `SG9001 bug`.
pub async fn source_rows(
    base: &SessionState,
    sight: Sight,
    table: &Arc<SourceTable>,
    slots: &[Slot],
    columns: &[&str],
) -> Result<RecordBatch> {
    let provider = SourceProvider::of_slots(
        &sight.state,
        table,
        sight.store_url.clone(),
        sight.now,
        slots,
    )?;
    let columns: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
    let sql = format!("SELECT {} FROM {SOURCES}", columns.join(", "));
    let state = state_over(base, sight, vec![(SOURCES.to_owned(), Arc::new(provider))]);
    let plan = state.create_logical_plan(&sql).await?;
    let physical = state.create_physical_plan(&plan).await?;
    let batches = collect(Arc::clone(&physical), state.task_ctx()).await?;
    Ok(concat_batches(&physical.schema(), &batches)?)
}

/// Whole sources, as workers get them: all columns of the table and the status, in no particular
/// order, and the key of each row as text.
///
/// # Errors
/// Those of [`source_rows`].
pub async fn whole_sources(
    core: &Core,
    state: Arc<State>,
    table: &Arc<SourceTable>,
    slots: &[Slot],
) -> Result<(RecordBatch, Vec<String>)> {
    let schema = user_schema(&table.def)?;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let names: Vec<&str> = names.chain([SystemColumn::Status.name()]).collect();
    let batch = source_rows(&core.base, core.sight(state), table, slots, &names).await?;
    let column = batch.column(schema.index_of(&table.def.key)?);
    let keys = (0..batch.num_rows()).map(|row| {
        let key = key_at(table.def.key_type, column, row);
        key.map(|key| key.to_string())
            .ok_or_else(|| Error::bug("a source has no key"))
    });
    let keys = keys.collect::<Result<_>>()?;
    Ok((batch, keys))
}

/// Rows as JSON objects, NULL included: dates and times as ISO 8601 text, numbers with all digits.
///
/// # Errors
/// A type that JSON cannot hold.
pub fn json_rows(batch: &RecordBatch) -> Result<Vec<Object>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let mut writer = json_options().build::<_, JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let no_rows = || Error::bug("rows are no JSON objects");
    let rows = parse_bytes(&writer.into_inner()).map_err(|error| no_rows().with_source(error))?;
    let Value::Array(rows) = rows else {
        return Err(no_rows());
    };
    let rows = rows.into_iter().map(|row| match row {
        Value::Object(row) => Ok(row),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Array(_) => {
            Err(no_rows())
        }
    });
    rows.collect()
}
