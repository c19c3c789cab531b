//! Scans the Parquet runs of a source table, with its system columns from memory.
//!
//! Rows live in immutable runs; which of them are live, and the values of the system columns,
//! are known in memory by row number. So dead rows, and rows that a filter on a system column
//! rules out, are left out before Parquet is opened; the others are read with their row number
//! and completed by [`append::SystemColumnsExec`]. A query that names no user column reads no
//! file at all ([`memory::SystemRowsExec`]).
//!
//! Planning does no I/O: each file carries the selection of its rows, and the reader turns that
//! into a selection of row groups and pages when it has the footer.
//!
//! All filters are `Inexact`: whoever plans keeps them above the scan, so that no answer depends
//! on what [`SystemColumns::select`] narrows. Filters on user columns come back down through
//! DataFusion's physical filter pushdown. Table providers of source tables call this.

mod append;
mod memory;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBufferBuilder};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{
    DataFusionError, Result, ScalarValue, Statistics, exec_err, internal_err, project_schema,
};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetRowSelection,
};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use parquet::arrow::RowNumber;
use parquet::arrow::arrow_reader::RowSelection;

use crate::ledger::store::{self, Store};

use append::SystemColumnsExec;
use memory::SystemRowsExec;
use rows::Piece;

/// Names of the helper columns between the Parquet reader and [`SystemColumnsExec`].
const RUN_COLUMN: &str = "__sluicegate_run";
const ROW_COLUMN: &str = "__sluicegate_row";

/// One run as the scan sees it.
#[derive(Debug, Clone)]
pub struct RunScan {
    /// Path inside the store.
    pub path: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Rows of the file, live or not.
    pub rows: u64,
    /// The number by which [`SystemColumns`] knows the run.
    pub run: u32,
    /// The rows that the table has.
    pub live: LiveRows,
}

/// Which rows of a run are live.
#[derive(Debug, Clone)]
pub enum LiveRows {
    /// All of them.
    All,
    /// Those whose bit is set; one bit for each row of the run.
    Some(BooleanBuffer),
}

impl LiveRows {
    /// All of `rows` rows but the `dead` ones.
    pub fn except(rows: usize, dead: impl IntoIterator<Item = usize>) -> Self {
        let mut bits = BooleanBufferBuilder::new(rows);
        bits.append_n(rows, true);
        for row in dead {
            bits.set_bit(row, false);
        }
        Self::Some(bits.finish())
    }
}

/// Answers questions about system columns from memory: pure and fast.
pub trait SystemColumns: Debug + Send + Sync {
    /// Names and types of the system columns. They stand behind the user columns.
    fn fields(&self) -> &[FieldRef];

    /// The values of one system column for rows of one run.
    ///
    /// # Arguments
    /// * `column`: index into [`SystemColumns::fields`].
    /// * `rows`: row numbers inside the run, ascending, all of them live.
    ///
    /// # Returns
    /// As many values as `rows`, of the field's type.
    fn column(&self, run: u32, column: usize, rows: &[u64]) -> ArrayRef;

    /// The user column whose values are in memory too.
    fn key(&self) -> Option<&str>;

    /// The values of the key for rows of one run, as [`SystemColumns::column`] those of others.
    fn keys(&self, run: u32, rows: &[u64]) -> ArrayRef;

    /// The rows of a run that can satisfy all `filters`; `None` where they cannot be narrowed.
    ///
    /// # Arguments
    /// * `filters`: conjuncts, each of which names the key or at least one system column; it may
    ///   name other columns too, and may be of any form. One that is not understood must be
    ///   passed over.
    ///
    /// # Returns
    /// Ranges ascending by start. May hold rows that fail a filter or are dead; must hold every
    /// live row that satisfies all of them.
    fn select(&self, run: u32, filters: &[Expr]) -> Option<Vec<Range<u64>>>;
}

/// A source table at one version.
#[derive(Debug, Clone)]
pub struct SourceScan {
    /// Where the runs are; see [`register_store`].
    pub store_url: ObjectStoreUrl,
    /// The user columns. A run written before a column was added reads as NULL there.
    pub schema: SchemaRef,
    /// The runs.
    pub runs: Vec<RunScan>,
    /// The system columns.
    pub system: Arc<dyn SystemColumns>,
}

/// Makes the files of a store readable in a runtime.
///
/// # Returns
/// The URL by which scans name the store; the same at every call.
///
/// # Errors
/// None that a user can cause: the store's registry URL is not of DataFusion's form.
pub fn register_store(runtime: &RuntimeEnv, store: &Store) -> Result<ObjectStoreUrl> {
    let url = ObjectStoreUrl::parse(store.registry_url())?;
    runtime.register_object_store(store.registry_url(), store.scanned());
    Ok(url)
}

impl SourceScan {
    /// The columns of the table: the user columns, then the system columns.
    pub fn table_schema(&self) -> SchemaRef {
        let user = self.schema.fields().iter().cloned();
        let fields: Vec<FieldRef> = user.chain(self.system.fields().iter().cloned()).collect();
        Arc::new(Schema::new_with_metadata(
            fields,
            self.schema.metadata().clone(),
        ))
    }

    /// Plans a scan.
    ///
    /// # Arguments
    /// * `projection`: indices into [`SourceScan::table_schema`]; `None` stands for all.
    /// * `filters`: conjuncts that the plan above checks again, all of them.
    /// * `limit`: rows that suffice; heeded where there is no filter.
    ///
    /// # Returns
    /// A plan with the projected columns in the order asked for. Its row count is exact where
    /// there is no filter.
    ///
    /// # Errors
    /// Execution: what the snapshot says of a run contradicts itself.
    pub fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.table_schema(), projection)?;
        let limit = if filters.is_empty() { limit } else { None };
        let selected = self.select(filters)?;
        let partitions_max = session.config().target_partitions();
        let partitions = rows::partitions(selected, partitions_max, limit);
        if partitions.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let row_count: u64 = partitions.iter().flatten().map(Piece::rows).sum();
        let row_count = usize::try_from(row_count).unwrap_or(usize::MAX);
        let row_count = if filters.is_empty() {
            Precision::Exact(row_count)
        } else {
            Precision::Inexact(row_count)
        };
        let outputs = self.outputs(projection, filters);
        if outputs.iter().all(|output| output.user().is_none()) {
            let system = Arc::clone(&self.system);
            let partitions = self.numbered(partitions);
            return Ok(Arc::new(SystemRowsExec::new(
                system, schema, &outputs, partitions, row_count,
            )));
        }
        self.plan_files(session, schema, &outputs, &partitions, row_count)
    }

    /// The rows of each run that are live and may satisfy the filters.
    fn select(&self, filters: &[Expr]) -> Result<Vec<Vec<Range<u64>>>> {
        let system = self
            .system
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        let known: HashSet<&str> = system.chain(self.system.key()).collect();
        let named = |filter: &&Expr| {
            let columns = filter.column_refs();
            columns
                .iter()
                .any(|column| known.contains(column.name.as_str()))
        };
        let filters: Vec<Expr> = filters.iter().filter(named).cloned().collect();
        self.runs
            .iter()
            .map(|run| {
                if let LiveRows::Some(bits) = &run.live
                    && bits.len() as u64 != run.rows
                {
                    return exec_err!(
                        "run \"{}\" has {} rows, but its live rows are of {}",
                        run.path,
                        run.rows,
                        bits.len()
                    );
                }
                let selected = match filters.as_slice() {
                    [] => None,
                    filters => self.system.select(run.run, filters),
                };
                Ok(rows::select(&run.live, run.rows, selected))
            })
            .collect()
    }

    /// Where each column of the output comes from.
    ///
    /// The key is read from memory where Parquet is read for the filters' columns at most. Where
    /// it is read for others, the key comes from there as well: a join may then tell the reader
    /// which keys it wants, and the others' values are not decoded.
    fn outputs(&self, projection: Option<&Vec<usize>>, filters: &[Expr]) -> Vec<Output> {
        let user = self.schema.fields().len();
        let all = user + self.system.fields().len();
        let projection = projection.map_or_else(|| (0..all).collect(), Vec::clone);
        let key = self
            .system
            .key()
            .and_then(|key| self.schema.index_of(key).ok());
        let filtered = self.filtered(filters);
        let key = key.filter(|key| {
            let mut others = projection
                .iter()
                .filter(|index| **index < user && *index != key);
            !filtered.contains(key) && others.all(|index| filtered.contains(index))
        });
        let output = |index| match index {
            index if Some(index) == key => Output::Key,
            index if index < user => Output::User(index),
            index => Output::System(index - user),
        };
        projection.into_iter().map(output).collect()
    }

    /// The user columns that filters name.
    fn filtered(&self, filters: &[Expr]) -> HashSet<usize> {
        let columns = filters.iter().flat_map(Expr::column_refs);
        columns
            .filter_map(|column| self.schema.index_of(&column.name).ok())
            .collect()
    }

    /// The memory side: what each partition reads, by the runs' own numbers.
    fn numbered(&self, partitions: Vec<Vec<Piece>>) -> Vec<Vec<RunRows>> {
        let numbered = |piece: Piece| {
            let run = self.runs.get(piece.index)?;
            Some(RunRows {
                run: run.run,
                ranges: piece.ranges,
            })
        };
        partitions
            .into_iter()
            .map(|pieces| pieces.into_iter().filter_map(numbered).collect())
            .collect()
    }

    /// The Parquet side: the user columns and the place of each row, then the system columns.
    fn plan_files(
        &self,
        session: &dyn Session,
        schema: SchemaRef,
        outputs: &[Output],
        partitions: &[Vec<Piece>],
        row_count: Precision<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let run_field = Arc::new(Field::new(RUN_COLUMN, DataType::UInt32, false));
        let row_field = Field::new(ROW_COLUMN, DataType::Int64, false);
        let row_field = Arc::new(row_field.with_extension_type(RowNumber));
        let files = TableSchema::builder(Arc::clone(&self.schema))
            .with_table_partition_cols(vec![run_field])
            .with_virtual_columns(vec![row_field])
            .build();
        let with_system = outputs.iter().any(|output| output.user().is_none());
        let mut columns: Vec<usize> = outputs.iter().filter_map(Output::user).collect();
        if with_system {
            let user = self.schema.fields().len();
            columns.extend([user, user + 1]);
        }
        let statistics = Statistics {
            num_rows: row_count,
            ..Statistics::new_unknown(files.table_schema())
        };
        let groups = partitions
            .iter()
            .map(|pieces| {
                pieces
                    .iter()
                    .filter_map(|piece| self.file(piece).transpose())
                    .collect()
            })
            .map(|files: Result<Vec<PartitionedFile>>| Ok(FileGroup::new(files?)))
            .collect::<Result<Vec<_>>>()?;
        let source = self.parquet_source(session, files)?;
        let config = FileScanConfigBuilder::new(self.store_url.clone(), source)
            .with_projection_indices(Some(columns))?
            .with_file_groups(groups)
            .with_statistics(statistics)
            .build();
        let files = DataSourceExec::from_data_source(config);
        if with_system {
            let system = Arc::clone(&self.system);
            Ok(Arc::new(SystemColumnsExec::new(
                files, system, schema, outputs,
            )))
        } else {
            Ok(files)
        }
    }

    fn parquet_source(
        &self,
        session: &dyn Session,
        files: TableSchema,
    ) -> Result<Arc<dyn FileSource>> {
        let runtime = session.runtime_env();
        let readers = CachedParquetFileReaderFactory::new(
            runtime.object_store(&self.store_url)?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let mut options = TableParquetOptions::new();
        options.global = session.config_options().execution.parquet.clone();
        let hint = options.global.metadata_size_hint;
        let mut source = ParquetSource::new(files)
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(readers))
            // Documents are wide: decode them only for rows that pass.
            .with_pushdown_filters(true);
        if let Some(hint) = hint {
            source = source.with_metadata_size_hint(hint);
        }
        Ok(Arc::new(source))
    }

    fn file(&self, piece: &Piece) -> Result<Option<PartitionedFile>> {
        let Some(run) = self.runs.get(piece.index) else {
            return Ok(None);
        };
        let mut file = PartitionedFile::new(run.path.as_str(), run.bytes);
        file.object_meta.location = store::location(&run.path)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        // DataFusion's cache of footers tells files apart by path, size and time alone; runs
        // never change, so the time can say which store the path is of.
        file.object_meta.last_modified = self.footer_stamp();
        file.partition_values = vec![ScalarValue::UInt32(Some(run.run))];
        let whole = piece.ranges.as_slice() == std::slice::from_ref(&(0..run.rows));
        if whole {
            Ok(Some(file))
        } else {
            Ok(Some(file.with_extension(selection(piece, run)?)))
        }
    }

    fn footer_stamp(&self) -> DateTime<Utc> {
        let mut hasher = foldhash::quality::FixedState::default().build_hasher();
        hasher.write(self.store_url.as_str().as_bytes());
        let micros = i64::try_from(hasher.finish() >> 12).unwrap_or_default();
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }
}

/// Where a column of the output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The user column of this index.
    User(usize),
    /// The system column of this index.
    System(usize),
    /// The key, from memory.
    Key,
}

impl Output {
    fn user(&self) -> Option<usize> {
        match self {
            Self::User(index) => Some(*index),
            Self::System(_) | Self::Key => None,
        }
    }
}

/// Rows of one run.
#[derive(Debug, Clone)]
struct RunRows {
    run: u32,
    ranges: Vec<Range<u64>>,
}

/// The values of a column from memory, checked against what its implementor promised.
fn memory_column(
    system: &dyn SystemColumns,
    run: u32,
    output: Output,
    rows: &[u64],
) -> Result<ArrayRef> {
    let values = match output {
        Output::System(index) => system.column(run, index, rows),
        Output::Key => system.keys(run, rows),
        Output::User(index) => return internal_err!("user column {index} is not in memory"),
    };
    if values.len() != rows.len() {
        return exec_err!("{output:?} has {} values for {}", values.len(), rows.len());
    }
    Ok(values)
}

fn selection(piece: &Piece, run: &RunScan) -> Result<ParquetRowSelection> {
    let narrow = |row: u64| {
        usize::try_from(row).or_else(|_| exec_err!("run \"{}\" has too many rows", run.path))
    };
    let ranges: Vec<Range<usize>> = piece
        .ranges
        .iter()
        .map(|range| Ok(narrow(range.start)?..narrow(range.end)?))
        .collect::<Result<_>>()?;
    let rows = narrow(run.rows)?;
    Ok(RowSelection::from_consecutive_ranges(ranges.into_iter(), rows).into())
}
