//! A table whose rows are made from the snapshot while they are read.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::project_schema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::memory::{LazyBatchGenerator, LazyMemoryExec};
use parking_lot::RwLock;

use crate::tables::columns::{ColumnDoc, schema_of};

/// Rows of a batch. DataFusion's default batch size.
const BATCH_ROWS: usize = 8192;

/// Where the rows of a system table come from.
pub trait SnapshotRows: fmt::Debug + Send + Sync + 'static {
    /// The name in SQL.
    fn name(&self) -> &'static str;

    /// The columns, in order.
    fn columns(&self) -> &'static [ColumnDoc];

    /// The number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of one column for a range of rows.
    fn column(&self, column: usize, rows: Range<usize>) -> ArrayRef;
}

/// The table over such rows.
#[derive(Debug)]
pub struct SnapshotTable {
    rows: Arc<dyn SnapshotRows>,
    schema: SchemaRef,
}

impl SnapshotTable {
    /// The table.
    pub fn new(rows: Arc<dyn SnapshotRows>) -> Self {
        let schema = schema_of(rows.columns());
        Self { rows, schema }
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let end = self.rows.len().min(limit.unwrap_or(usize::MAX));
        let generator = Generator {
            rows: Arc::clone(&self.rows),
            schema: Arc::clone(&schema),
            columns,
            next: 0,
            end,
        };
        let generators: Vec<Arc<RwLock<dyn LazyBatchGenerator>>> =
            vec![Arc::new(RwLock::new(generator))];
        Ok(Arc::new(LazyMemoryExec::try_new(schema, generators)?))
    }
}

#[derive(Debug, Clone)]
struct Generator {
    rows: Arc<dyn SnapshotRows>,
    schema: SchemaRef,
    columns: Vec<usize>,
    next: usize,
    end: usize,
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table={}, rows={}", self.rows.name(), self.end)
    }
}

impl LazyBatchGenerator for Generator {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn generate_next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let rows = self.next..self.end.min(self.next + BATCH_ROWS);
        if rows.is_empty() {
            return Ok(None);
        }
        self.next = rows.end;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns = self
            .columns
            .iter()
            .map(|&column| self.rows.column(column, rows.clone()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &options)
            .map(Some)
            .map_err(|error| DataFusionError::ArrowError(Box::new(error), None))
    }

    fn reset_state(&self) -> Arc<RwLock<dyn LazyBatchGenerator>> {
        Arc::new(RwLock::new(Self {
            next: 0,
            ..self.clone()
        }))
    }
}
