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
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::memory::{LazyBatchGenerator, LazyMemoryExec};
use datafusion::scalar::ScalarValue;
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

    /// The column that counts the rows from 1, if there is one. Filters on it become a range of
    /// rows, so that one job costs the same beside a million others.
    fn counted_by(&self) -> Option<&'static str> {
        None
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

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // They only say which rows need not be made.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let all = 0..self.rows.len();
        let rows = match self.rows.counted_by() {
            Some(column) => filters
                .iter()
                .fold(all, |rows, filter| within(rows, column, filter)),
            None => all,
        };
        let end = rows
            .end
            .min(rows.start.saturating_add(limit.unwrap_or(usize::MAX)));
        let generator = Generator {
            rows: Arc::clone(&self.rows),
            schema: Arc::clone(&schema),
            columns,
            first: rows.start,
            next: rows.start,
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
    first: usize,
    next: usize,
    end: usize,
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "table={}, rows={}",
            self.rows.name(),
            self.end.saturating_sub(self.first)
        )
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
            next: self.first,
            ..self.clone()
        }))
    }
}

/// The part of some rows in which a filter can be true, where `column` counts them from 1.
fn within(rows: Range<usize>, column: &str, filter: &Expr) -> Range<usize> {
    let numbers = match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => {
            let rows = within(rows, column, left);
            return within(rows, column, right);
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            match (counts(left, column), number(right), number(left)) {
                (true, Some(number), _) => compared(*op, number),
                (false, _, Some(number)) if counts(right, column) => {
                    op.swap().and_then(|op| compared(op, number))
                }
                _ => None,
            }
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) if counts(expr, column) => number(low).zip(number(high)),
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) if counts(expr, column) => {
            let numbers: Option<Vec<i64>> = list.iter().map(number).collect();
            numbers.and_then(|numbers| {
                let first = numbers.iter().min().copied();
                first.zip(numbers.iter().max().copied())
            })
        }
        // Whatever else it says, it is judged row by row.
        _ => None,
    };
    let Some((first, last)) = numbers else {
        return rows;
    };
    let place = |number: i64| usize::try_from(number).unwrap_or(0);
    let start = rows.start.max(place(first.saturating_sub(1)));
    start..rows.end.min(place(last)).max(start)
}

fn counts(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Column(column) if column.name == name)
}

fn number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(number), _) => *number,
        _ => None,
    }
}

/// The first and the last number that compare so with another.
fn compared(op: Operator, number: i64) -> Option<(i64, i64)> {
    match op {
        Operator::Eq => Some((number, number)),
        Operator::Lt => Some((i64::MIN, number.saturating_sub(1))),
        Operator::LtEq => Some((i64::MIN, number)),
        Operator::Gt => Some((number.saturating_add(1), i64::MAX)),
        Operator::GtEq => Some((number, i64::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn filters_on_the_number_become_rows() {
        let id = || col("jobs.job_id");
        for (filter, expected) in [
            (id().eq(lit(3_i64)), 2..3),
            (lit(3_i64).eq(id()), 2..3),
            (id().gt(lit(3_i64)), 3..10),
            (lit(3_i64).gt(id()), 0..2),
            (id().between(lit(2_i64), lit(4_i64)), 1..4),
            (id().gt_eq(lit(2_i64)).and(id().lt(lit(4_i64))), 1..3),
            (id().in_list(vec![lit(7_i64), lit(5_i64)], false), 4..7),
            (id().eq(lit(11_i64)), 10..10),
            (id().eq(lit(0_i64)), 0..0),
            (id().eq(lit(-1_i64)), 0..0),
            (id().gt(lit(i64::MAX)), 10..10),
            (id().lt(lit(i64::MIN)), 0..0),
            // What cannot be a range leaves all rows.
            (id().not_eq(lit(3_i64)), 0..10),
            (id().in_list(vec![lit(7_i64)], true), 0..10),
            (id().eq(lit(1_i64)).or(id().eq(lit(2_i64))), 0..10),
            (col("jobs.token").eq(lit(3_i64)), 0..10),
            (id().eq(col("jobs.token")), 0..10),
        ] {
            let rows = within(0..10, "job_id", &filter);
            let same = rows == expected || rows.is_empty() && expected.is_empty();
            assert!(same, "{filter}: {rows:?}");
        }
    }
}
