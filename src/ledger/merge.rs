//! Merges: several small runs of a table are written again as one, without their dead rows.
//!
//! Runs are merged with others of about their size, so that a row is written again a few times
//! in its life and not with every merge. A merge decides like every other commit; where a row of
//! its runs changed while it read them, nothing happens and the next one tries again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::id::{RunId, TableId, Version};
use crate::ledger::errors::{damaged, gone};
use crate::ledger::run::{RunFile, RunWriter, run_path};
use crate::ledger::store::Store;
use crate::model::decide::NewRun;
use crate::model::draft::Draft;
use crate::model::sources::{RowLiveness, Run, SourceTable, TableDef};
use crate::model::state::State;
use crate::time::Timestamp;

/// Bytes from which a run is not small, however few rows it has: its rows are whole documents,
/// and writing them again costs more than a file saves. Also bounds the memory of a merge, which
/// reads one run at a time.
const SMALL_RUN_BYTES: u64 = 128 << 20;

/// Runs of one merge. Chosen: bounds a merge after a long time without any.
const RUNS_MAX: usize = 256;

/// Rows of a batch on its way through a merge.
const BATCH_ROWS: usize = 8192;

/// Runs that are to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merge {
    table: TableId,
    runs: Vec<RunId>,
    read_at: Version,
}

/// A merge that is worth its work; `None` where there is none.
pub(super) fn due(state: &State, limits: &Limits) -> Option<Merge> {
    state.tables.values().find_map(|table| {
        let mut tiers: BTreeMap<u32, Vec<RunId>> = BTreeMap::new();
        for (id, run) in table.runs.iter() {
            if run.live_rows < limits.small_run_rows && run.bytes < SMALL_RUN_BYTES {
                tiers.entry(tier(run, limits)).or_default().push(*id);
            }
        }
        let runs = tiers
            .into_values()
            .find(|runs| runs.len() >= limits.merge_runs.max(2))?;
        Some(Merge {
            table: table.id,
            runs: runs.into_iter().take(RUNS_MAX).collect(),
            read_at: state.version,
        })
    })
}

/// Runs of one tier are of about one size: a merge of them is in the next tier.
fn tier(run: &Run, limits: &Limits) -> u32 {
    let step = (limits.merge_runs as u64).max(2);
    run.live_rows.checked_ilog(step).unwrap_or(0)
}

impl Merge {
    /// Writes the run that replaces the others.
    ///
    /// # Errors
    /// Those of the store; `SG7003 store-corrupt`.
    pub(super) async fn write(
        &self,
        store: &Store,
        state: &State,
        now: Timestamp,
    ) -> Result<NewRun> {
        let table = state.tables.get(&self.table);
        let table = table.ok_or_else(|| Error::bug("a table to be merged is not there"))?;
        let schema = schema(&table.def).map_err(|error| {
            Error::bug(format!(
                "the columns of table \"{}\" cannot be read",
                table.name
            ))
            .with_source(error)
        })?;
        let path = run_path(&table.name, now);
        let mut writer = RunWriter::open(store, &path, Arc::clone(&schema), &table.def.key).await?;
        for id in &self.runs {
            let run = table.runs.get(id);
            let run = run.ok_or_else(|| Error::bug("a run to be merged is not there"))?;
            copy_live_rows(store, table, *id, run, &schema, &mut writer).await?;
        }
        let RunFile { path, rows, bytes } = writer.finish().await?;
        Ok(NewRun { path, rows, bytes })
    }

    /// Puts the new run in the place of the others.
    ///
    /// # Errors
    /// `SG3004 write-conflict`.
    pub(super) fn decide(&self, draft: &mut Draft<'_>, new: &NewRun) -> Result<()> {
        draft.merge_runs(self.table, &self.runs, new, self.read_at)
    }
}

async fn copy_live_rows(
    store: &Store,
    table: &SourceTable,
    id: RunId,
    run: &Run,
    schema: &SchemaRef,
    writer: &mut RunWriter,
) -> Result<()> {
    if run.live_rows == 0 {
        return Ok(());
    }
    let bytes = store.get(&run.path).await?;
    let bytes = bytes.ok_or_else(|| gone(&run.path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| {
            builder
                .with_row_selection(live_rows(table, id, run))
                .with_batch_size(BATCH_ROWS)
                .build()
        })
        .map_err(|error| damaged(&run.path, error))?;
    for batch in reader {
        let batch = batch.and_then(|batch| conform(&batch, schema));
        let batch = batch.map_err(|error| damaged(&run.path, error))?;
        writer.write(&batch).await?;
    }
    Ok(())
}

/// The live rows of a run, in order.
fn live_rows(table: &SourceTable, id: RunId, run: &Run) -> RowSelection {
    let rows = 0..u32::try_from(run.rows).unwrap_or(u32::MAX);
    let selectors = rows.map(|row| match table.liveness(id, row) {
        RowLiveness::Live => RowSelector::select(1),
        RowLiveness::Dead => RowSelector::skip(1),
    });
    // Neighbours of one kind become one selector.
    selectors.collect()
}

/// The Arrow schema of a table's user columns.
pub(super) fn schema(def: &TableDef) -> std::result::Result<SchemaRef, ArrowError> {
    let fields = def.columns.iter().map(|column| {
        let data_type: DataType = column.data_type.parse()?;
        Ok(Field::new(&column.name, data_type, column.nullable))
    });
    let fields: Vec<Field> = fields.collect::<std::result::Result<_, ArrowError>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// A batch of an older file in the columns that the table has.
fn conform(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> std::result::Result<RecordBatch, ArrowError> {
    let arrays = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => Ok(Arc::clone(array)),
            Some(array) => cast(array, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(
        Arc::clone(schema),
        arrays.collect::<std::result::Result<_, _>>()?,
        &options,
    )
}
