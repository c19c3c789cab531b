//! Answers scans that name no user column, without reading any file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, exec_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream;

use crate::tables::source_scan::{Output, RunRows, SystemColumns, memory_column};

/// Yields system columns of known rows.
#[derive(Debug)]
pub(super) struct SystemRowsExec {
    columns: Arc<Columns>,
    partitions: Vec<Arc<[RunRows]>>,
    row_count: Precision<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

#[derive(Debug)]
struct Columns {
    system: Arc<dyn SystemColumns>,
    schema: SchemaRef,
    outputs: Vec<Output>,
}

impl SystemRowsExec {
    /// `outputs` are columns from memory only.
    pub(super) fn new(
        system: Arc<dyn SystemColumns>,
        schema: SchemaRef,
        outputs: &[Output],
        partitions: Vec<Vec<RunRows>>,
        row_count: Precision<usize>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            columns: Arc::new(Columns {
                system,
                outputs: outputs.to_vec(),
                schema,
            }),
            partitions: partitions.into_iter().map(Arc::from).collect(),
            row_count,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl Columns {
    fn batch(&self, run: u32, rows: &[u64]) -> Result<RecordBatch> {
        let columns = self
            .outputs
            .iter()
            .map(|output| memory_column(self.system.as_ref(), run, *output, rows))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}

/// Walks over the rows of a partition, a batch at a time, each of one run.
struct Cursor {
    runs: Arc<[RunRows]>,
    run: usize,
    range: usize,
    /// Rows of the present range already passed.
    passed: u64,
}

impl Cursor {
    /// The next rows, at most `rows_max`; `None` at the end.
    fn next(&mut self, rows_max: usize) -> Option<(u32, Vec<u64>)> {
        loop {
            let run = self.runs.get(self.run)?;
            let mut rows = Vec::new();
            while let Some(rest) = rest(run.ranges.get(self.range), self.passed) {
                let room = (rows_max - rows.len()) as u64;
                if rest.end - rest.start > room {
                    rows.extend(rest.start..rest.start + room);
                    self.passed += room;
                    break;
                }
                rows.extend(rest);
                self.range += 1;
                self.passed = 0;
            }
            if !rows.is_empty() {
                return Some((run.run, rows));
            }
            self.run += 1;
            self.range = 0;
            self.passed = 0;
        }
    }
}

fn rest(range: Option<&Range<u64>>, passed: u64) -> Option<Range<u64>> {
    range.map(|range| range.start + passed..range.end)
}

impl DisplayAs for SystemRowsExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.columns.schema.fields().iter();
        let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(
                f,
                "SystemRowsExec: columns=[{}], partitions={}",
                names.join(", "),
                self.partitions.len()
            ),
            DisplayFormatType::TreeRender => write!(f, "columns={}", names.join(", ")),
        }
    }
}

impl ExecutionPlan for SystemRowsExec {
    fn name(&self) -> &'static str {
        "SystemRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("SystemRowsExec has no input")
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(runs) = self.partitions.get(partition) else {
            return exec_err!("SystemRowsExec has no partition {partition}");
        };
        let rows_max = context.session_config().batch_size().max(1);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let columns = Arc::clone(&self.columns);
        let mut cursor = Cursor {
            runs: Arc::clone(runs),
            run: 0,
            range: 0,
            passed: 0,
        };
        let batches = std::iter::from_fn(move || {
            let _timer = metrics.elapsed_compute().timer();
            let (run, rows) = cursor.next(rows_max)?;
            Some(
                columns
                    .batch(run, &rows)
                    .map(|batch| batch.record_output(&metrics)),
            )
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream::iter(batches),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let unknown = Statistics::new_unknown(&self.schema());
        match args.partition() {
            Some(_) => Ok(Arc::new(unknown)),
            None => Ok(Arc::new(Statistics {
                num_rows: self.row_count,
                ..unknown
            })),
        }
    }
}
