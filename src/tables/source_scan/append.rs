//! Completes the rows that come out of Parquet with their system columns.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::{Int64Type, SchemaRef, UInt32Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, FilterDescription, FilterPushdownPhase,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

use crate::tables::source_scan::{Output, SystemColumns, memory_column};

/// Appends system columns by run and row number, and drops those two.
///
/// Input: the user columns of the output in its order, then run (UInt32) and row (Int64).
/// Output: one row for each, in order.
#[derive(Debug)]
pub(super) struct SystemColumnsExec {
    input: Arc<dyn ExecutionPlan>,
    appender: Arc<Appender>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

#[derive(Debug)]
struct Appender {
    system: Arc<dyn SystemColumns>,
    schema: SchemaRef,
    outputs: Vec<Output>,
}

impl SystemColumnsExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        system: Arc<dyn SystemColumns>,
        schema: SchemaRef,
        outputs: &[Output],
    ) -> Self {
        let outputs = outputs.to_vec();
        Self::over(
            input,
            Arc::new(Appender {
                system,
                schema,
                outputs,
            }),
        )
    }

    fn over(input: Arc<dyn ExecutionPlan>, appender: Arc<Appender>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&appender.schema)),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Self {
            input,
            appender,
            properties: Arc::new(properties),
            metrics,
        }
    }
}

impl Appender {
    fn append(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if batch.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let user = batch.num_columns().saturating_sub(2);
        let [user @ .., run, row] = batch.columns() else {
            return internal_err!("a scan without row numbers has {user} columns");
        };
        let (Some(runs), Some(numbers)) = (
            run.as_primitive_opt::<UInt32Type>(),
            row.as_primitive_opt::<Int64Type>(),
        ) else {
            return internal_err!("a scan numbers its rows with {}", row.data_type());
        };
        let rows: Vec<u64> = numbers
            .values()
            .iter()
            .map(|row| row.cast_unsigned())
            .collect();
        let mut user = user.iter();
        let columns = self
            .outputs
            .iter()
            .map(|output| match output {
                Output::User(index) => match user.next() {
                    Some(column) => Ok(Arc::clone(column)),
                    None => internal_err!("a scan lacks user column {index}"),
                },
                memory => self.column(*memory, runs.values(), &rows),
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }

    /// The values for rows of mostly one run; a batch that joins several is taken apart.
    fn column(&self, output: Output, runs: &[u32], rows: &[u64]) -> Result<ArrayRef> {
        let mut rest = rows;
        let mut parts = Vec::with_capacity(1);
        for same in runs.chunk_by(|left, right| left == right) {
            let (Some(run), Some((part, after))) =
                (same.first(), rest.split_at_checked(same.len()))
            else {
                return internal_err!("a scan numbers {} of {} rows", rows.len(), runs.len());
            };
            parts.push(memory_column(self.system.as_ref(), *run, output, part)?);
            rest = after;
        }
        match parts.as_slice() {
            [] => internal_err!("a scan asks for {output:?} of no rows"),
            [part] => Ok(Arc::clone(part)),
            parts => {
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                Ok(concat(&parts)?)
            }
        }
    }
}

impl DisplayAs for SystemColumnsExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self
            .appender
            .schema
            .fields()
            .iter()
            .zip(&self.appender.outputs);
        let names: Vec<&str> = fields
            .filter(|(_, output)| output.user().is_none())
            .map(|(field, _)| field.name().as_str())
            .collect();
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "SystemColumnsExec: columns=[{}]", names.join(", "))
            }
            DisplayFormatType::TreeRender => write!(f, "columns={}", names.join(", ")),
        }
    }
}

impl ExecutionPlan for SystemColumnsExec {
    fn name(&self) -> &'static str {
        "SystemColumnsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// Order is kept, but saying so would be wrong: DataFusion then pushes a sort below this
    /// node by the index of its columns (`handle_custom_pushdown` in its optimizer), and the
    /// columns of input and output differ.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::over(input, Arc::clone(&self.appender)))),
            (Some(_) | None, _) => internal_err!("SystemColumnsExec has one input"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let appender = Arc::clone(&self.appender);
        let batches = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            Ok(appender.append(&batch)?.record_output(&metrics))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let [input] = inputs else {
            return internal_err!("SystemColumnsExec has one input");
        };
        let mut user = input.column_statistics.iter();
        let columns = self.appender.outputs.iter().map(|output| match output {
            Output::User(_) => user.next().cloned().unwrap_or_default(),
            Output::System(_) | Output::Key => ColumnStatistics::new_unknown(),
        });
        Ok(Arc::new(Statistics {
            num_rows: input.num_rows,
            column_statistics: columns.collect(),
            ..Statistics::default()
        }))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    /// Filters on user columns alone go down to Parquet.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let outputs = self.appender.outputs.iter().enumerate();
        let user: HashSet<usize> = outputs
            .filter(|(_, output)| output.user().is_some())
            .map(|(index, _)| index)
            .collect();
        let child = ChildFilterDescription::from_child_with_allowed_indices(
            &parent_filters,
            user,
            &self.input,
        )?;
        Ok(FilterDescription::new().with_child(child))
    }
}
