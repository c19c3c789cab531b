//! Columns that workers write back: the new rows of a group's sources, as one run.
//!
//! The run is written before the jobs are reported; its rows are linked by the commit that
//! completes them. Other columns keep the values that they have when the run is written: nobody
//! else can change them, because the running job holds the source.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::id::{JobId, RunId, Slot, TableId};
use crate::ledger::Ledger;
use crate::ledger::run::{RunWriter, run_path};
use crate::model::decide::NewRun;
use crate::model::draft::Draft;
use crate::model::event::RowRef;
use crate::model::sources::SourceTable;
use crate::session::catalog::Sight;
use crate::session::source_rows::source_rows;
use crate::session::write::{key_at, new_run};
use crate::tables::source_table::{SystemColumn, user_schema};

/// New values of one source.
#[derive(Debug, Clone)]
pub struct Patch {
    /// The job that found them.
    pub job: JobId,
    /// The key of its source.
    pub source_id: String,
    /// Columns and values; columns that are not named keep theirs.
    pub columns: Map<String, Value>,
}

/// A run of new rows, and which of them belongs to which job.
#[derive(Debug)]
pub struct Written {
    table: TableId,
    run: NewRun,
    rows: HashMap<JobId, u32>,
}

impl Written {
    /// Lets the run join its table.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn add(&self, draft: &mut Draft<'_>) -> Result<RunId> {
        draft.add_result_run(self.table, &self.run)
    }

    /// The row of a job in the run.
    pub fn row(&self, run: RunId, job: JobId) -> Option<RowRef> {
        self.rows.get(&job).map(|&row| RowRef { run, row })
    }
}

/// Checks one patch against the table, so that a wrong one fails its own source alone.
///
/// # Errors
/// `SG8005 invalid-answer`: a column that the table does not have or that cannot be written, or
/// a value that does not fit its type.
pub fn check_patch(table: &SourceTable, columns: &Map<String, Value>) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let schema = user_schema(&table.def)?;
    for (name, value) in columns {
        let wrong = |what: &str| {
            Err(
                Error::new(Code::InvalidAnswer, format!("column \"{name}\" {what}"))
                    .with_hint(format!("Return only columns of \"{}\".", table.name)),
            )
        };
        if SystemColumn::named(name).is_some() {
            return wrong("is a system column");
        }
        if *name == table.def.key {
            return wrong("is the key");
        }
        match schema.field_with_name(name) {
            Err(_) => {
                return wrong(&format!(
                    "does not exist in source table \"{}\"",
                    table.name
                ));
            }
            Ok(field) if !field.is_nullable() && value.is_null() => {
                return wrong("may not be NULL");
            }
            Ok(_) => {}
        }
    }
    patch_batch(table, &schema, &[columns]).map(drop)
}

/// One row of values per patch, all columns of the table; unnamed ones are NULL.
fn patch_batch(
    table: &SourceTable,
    schema: &SchemaRef,
    patches: &[&Map<String, Value>],
) -> Result<RecordBatch> {
    let nullable: Vec<Field> = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true))
        .collect();
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::new(Schema::new(nullable)))
        .with_batch_size(patches.len().max(1))
        .with_coerce_primitive(true)
        .build_decoder()?;
    let misfit = |error: arrow::error::ArrowError| {
        Error::new(
            Code::InvalidAnswer,
            format!("columns do not fit source table \"{}\"", table.name),
        )
        .with_detail(format!("{error}."))
        .with_hint("Return values of the columns' types; dates and times as ISO 8601 text.")
    };
    decoder.serialize(patches).map_err(misfit)?;
    match decoder.flush().map_err(misfit)? {
        Some(batch) => Ok(batch),
        None => Err(Error::bug("no patch came out of the decoder")),
    }
}

/// Writes the new rows of patches as a run. Patches must have been checked.
///
/// # Returns
/// `None` where no patch names a column.
///
/// # Errors
/// Those of the store; `SG9001 bug`.
pub async fn write_patches(
    base: &SessionState,
    sight: Sight,
    ledger: &Ledger,
    table: &Arc<SourceTable>,
    patches: &[Patch],
) -> Result<Option<Written>> {
    let patches: Vec<&Patch> = patches
        .iter()
        .filter(|patch| !patch.columns.is_empty())
        .collect();
    if patches.is_empty() {
        return Ok(None);
    }
    let schema = user_schema(&table.def)?;
    let columns: Vec<&Map<String, Value>> = patches.iter().map(|patch| &patch.columns).collect();
    let values = patch_batch(table, &schema, &columns)?;
    let slots: Vec<Slot> = patches
        .iter()
        .filter_map(|patch| table.keys.find(table.def.key_type.parse(&patch.source_id)?))
        .collect();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let present = source_rows(base, sight, table, &slots, &names).await?;
    let key = schema.index_of(&table.def.key)?;
    let keys = present.column(key);
    let mut row_of: HashMap<String, usize> = HashMap::with_capacity(present.num_rows());
    for row in 0..present.num_rows() {
        if let Some(found) = key_at(table.def.key_type, keys, row) {
            row_of.insert(found.to_string(), row);
        }
    }
    // Patches whose source is gone are left out: their reports will be refused.
    let kept: Vec<(usize, usize)> = patches
        .iter()
        .enumerate()
        .filter_map(|(index, patch)| Some((index, *row_of.get(&patch.source_id)?)))
        .collect();
    let merged = schema.fields().iter().enumerate().map(|(column, field)| {
        let (new, old) = (values.column(column), present.column(column));
        let picks: Vec<(usize, usize)> = kept
            .iter()
            .map(|&(patch, row)| {
                let named = columns
                    .get(patch)
                    .is_some_and(|map| map.contains_key(field.name()));
                if named { (0, patch) } else { (1, row) }
            })
            .collect();
        interleave(&[new.as_ref(), old.as_ref()], &picks)
    });
    let merged = merged.collect::<std::result::Result<Vec<ArrayRef>, _>>()?;
    let merged = RecordBatch::try_new(Arc::clone(&schema), merged)?;
    let mut writer = RunWriter::open(
        ledger.store(),
        &run_path(&table.name, ledger.now()),
        schema,
        &table.def.key,
    )
    .await?;
    writer.write(&merged).await?;
    let run = new_run(writer.finish().await?);
    let rows = kept
        .iter()
        .enumerate()
        .filter_map(|(row, &(patch, _))| Some((patches.get(patch)?.job, u32::try_from(row).ok()?)));
    Ok(Some(Written {
        table: table.id,
        run,
        rows: rows.collect(),
    }))
}
