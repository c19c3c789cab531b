//! Columns that workers write back: the new rows of a group's sources, as one run.
//!
//! The run is written before the jobs are reported; its rows are linked by the commit that
//! completes them. Other columns keep the values that they have when the run is written: nobody
//! else can change them, because the running job holds the source.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SessionState;

use crate::error::{Code, Error, Result};
use crate::functions::dates::{Misfit, cast_as_written, is_date, is_text, text_dates};
use crate::id::{JobId, RunId, Slot, TableId};
use crate::json::{Object, object_text};
use crate::ledger::Ledger;
use crate::ledger::run::{RunWriter, run_path};
use crate::model::decide::NewRun;
use crate::model::draft::Draft;
use crate::model::event::RowRef;
use crate::model::sources::SourceTable;
use crate::session::catalog::Sight;
use crate::session::source_rows::{json_rows, source_rows};
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
    pub columns: Columns,
}

/// The values that a source gets, by the names of columns.
#[derive(Debug, Clone, PartialEq)]
pub enum Columns {
    /// Of a command or an outside worker, as JSON.
    Named(Object),
    /// Of a query: one row of Arrow, which never was text.
    Row(RecordBatch),
}

impl Columns {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Named(object) => object.is_empty(),
            Self::Row(row) => row.num_columns() == 0,
        }
    }

    /// The JSON object; none where there are none.
    ///
    /// # Errors
    /// A type that JSON cannot hold.
    pub fn to_json(&self) -> Result<Option<String>> {
        match self {
            _ if self.is_empty() => Ok(None),
            Self::Named(object) => Ok(Some(object_text(object))),
            Self::Row(row) => Ok(json_rows(row)?.first().map(object_text)),
        }
    }

    /// The names, and whether the value is NULL.
    fn names(&self) -> Vec<(String, bool)> {
        match self {
            Self::Named(object) => object
                .iter()
                .map(|(name, value)| (name.clone(), value.is_null()))
                .collect(),
            Self::Row(row) => row
                .schema_ref()
                .fields()
                .iter()
                .zip(row.columns())
                .map(|(field, column)| (field.name().clone(), column.is_null(0)))
                .collect(),
        }
    }

    fn names_column(&self, name: &str) -> bool {
        match self {
            Self::Named(object) => object.contains_key(name),
            Self::Row(row) => row.column_by_name(name).is_some(),
        }
    }
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
pub fn check_patch(table: &SourceTable, columns: &Columns) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let schema = user_schema(&table.def)?;
    for (name, null) in columns.names() {
        let wrong = |what: &str| {
            Err(
                Error::new(Code::InvalidAnswer, format!("column \"{name}\" {what}"))
                    .with_hint(format!("Return only columns of \"{}\".", table.name)),
            )
        };
        if SystemColumn::named(&name).is_some() {
            return wrong("is a system column");
        }
        if name == table.def.key {
            return wrong("is the key");
        }
        match schema.field_with_name(&name) {
            Err(_) => {
                return wrong(&format!(
                    "does not exist in source table \"{}\"",
                    table.name
                ));
            }
            Ok(field) if !field.is_nullable() && null => {
                return wrong("may not be NULL");
            }
            Ok(_) => {}
        }
    }
    patch_rows(table, &schema, &[columns]).map(drop)
}

/// A row of values per patch, all columns of the table; unnamed ones are NULL.
fn patch_rows(
    table: &SourceTable,
    schema: &SchemaRef,
    patches: &[&Columns],
) -> Result<Vec<RecordBatch>> {
    let objects = patches.iter().filter_map(|columns| match columns {
        Columns::Named(object) => Some(object),
        Columns::Row(_) => None,
    });
    let objects: Vec<&Object> = objects.collect();
    let named = named_rows(table, schema, &objects)?;
    let mut at = 0;
    let rows = patches.iter().map(|columns| match (columns, &named) {
        (Columns::Row(row), _) => fitted_row(schema, row),
        (Columns::Named(_), Some(named)) => {
            at += 1;
            Ok(named.slice(at - 1, 1))
        }
        (Columns::Named(_), None) => Err(Error::bug("no patch came out of the decoder")),
    });
    rows.collect()
}

fn nullable(schema: &SchemaRef, date_type: Option<DataType>) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let field = field.as_ref().clone().with_nullable(true);
            match &date_type {
                Some(other) if is_date(field.data_type()) => field.with_data_type(other.clone()),
                Some(_) | None => field,
            }
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// The row of a query in the columns of the table.
fn fitted_row(schema: &SchemaRef, row: &RecordBatch) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let to = field.data_type();
        match row.column_by_name(field.name()) {
            Some(column) => cast_as_written(column, to),
            None => Ok(new_null_array(to, 1)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(nullable(schema, None), columns)?)
}

/// The rows of JSON objects. The decoder gets their text, so that numbers keep their digits; dates
/// come out of it as text, for Arrow would shift those with an offset.
fn named_rows(
    table: &SourceTable,
    schema: &SchemaRef,
    objects: &[&Object],
) -> Result<Option<RecordBatch>> {
    if objects.is_empty() {
        return Ok(None);
    }
    let mut decoder = arrow::json::ReaderBuilder::new(nullable(schema, Some(DataType::Utf8)))
        .with_batch_size(objects.len())
        .with_coerce_primitive(true)
        .build_decoder()?;
    let misfit = |detail: String| {
        Error::new(
            Code::InvalidAnswer,
            format!("columns do not fit source table \"{}\"", table.name),
        )
        .with_detail(detail)
        .with_hint("Return values of the columns' types; dates and times as ISO 8601 text.")
    };
    let of_arrow = |error: arrow::error::ArrowError| misfit(format!("{error}."));
    for object in objects {
        let text = object_text(object);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let read = decoder.decode(rest).map_err(of_arrow)?;
            if read == 0 {
                return Err(Error::bug("the decoder took no more patches"));
            }
            rest = rest.get(read..).unwrap_or_default();
        }
    }
    let Some(batch) = decoder.flush().map_err(of_arrow)? else {
        return Ok(None);
    };
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| {
        let to = field.data_type();
        if is_date(to) && is_text(column.data_type()) {
            return text_dates(column, to, Misfit::Error)
                .map_err(|error| misfit(format!("Column \"{}\": {error}.", field.name())));
        }
        Ok(Arc::clone(column))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(Some(RecordBatch::try_new(nullable(schema, None), columns)?))
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
    let columns: Vec<&Columns> = patches.iter().map(|patch| &patch.columns).collect();
    let values = patch_rows(table, &schema, &columns)?;
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
        let old = std::iter::once(present.column(column));
        let all = old.chain(values.iter().map(|row| row.column(column)));
        let all: Vec<&dyn Array> = all.map(AsRef::as_ref).collect();
        let picks: Vec<(usize, usize)> = kept
            .iter()
            .map(|&(patch, row)| {
                let columns = columns.get(patch);
                match columns.is_some_and(|columns| columns.names_column(field.name())) {
                    true => (patch + 1, 0),
                    false => (0, row),
                }
            })
            .collect();
        interleave(&all, &picks)
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
