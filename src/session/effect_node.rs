//! The root of a plan that changes state: it reads all rows of the pure query below it, commits
//! at most once, and then emits rows.
//!
//! Invariants: the node stands at the root or directly below EXPLAIN; one node runs at most once
//! in its life, however often it is planned; a client that goes away before the query below has
//! ended stops everything, after that the commit is finished. Only the session builds these.

use std::cmp::Ordering;
use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::task::{Context, Poll};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;

use crate::error::{Code, Error, Result};
use crate::functions::effect::{EffectUdf, misplaced};

pub mod action;
pub mod constant;
pub mod planning;

/// What the root of a plan does with all rows of the pure query below it.
#[async_trait]
pub trait RootAction: Debug + Send + Sync {
    /// What EXPLAIN shows, such as `schedule_job, acquire_lock`.
    fn name(&self) -> &str;

    /// The schema of the rows that come out.
    ///
    /// # Errors
    /// Where the input lacks what the action needs.
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef>;

    /// Acts on all rows and returns the rows to emit.
    ///
    /// # Guarantees
    /// The implementation reads `input` to its end before it commits, commits at most once, and
    /// does not commit where `input` gives an error. It runs in a task of its own: a client that
    /// goes away makes `input` fail while it is read, and tears nothing after that.
    async fn run(
        &self,
        input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>>;
}

/// The logical node over the pure query.
#[derive(Clone)]
pub struct EffectNode {
    input: LogicalPlan,
    action: Arc<dyn RootAction>,
    schema: DFSchemaRef,
    /// Shared by every copy of this node and every plan made from it.
    started: Arc<AtomicBool>,
}

impl EffectNode {
    /// Puts `action` over `input`.
    ///
    /// # Errors
    /// Those of [`RootAction::output_schema`]; `SG1002 plan-error` where two columns of the
    /// result have the same name.
    pub fn plan(input: LogicalPlan, action: Arc<dyn RootAction>) -> Result<LogicalPlan> {
        let below = input.schema();
        let output = action.output_schema(below.inner())?;
        let mut next = 0;
        let fields = output.fields().iter().map(|field| {
            // Columns that pass through keep their table, so that a.id and b.id can both be there.
            let same = (next..below.fields().len()).find(|at| below.field(*at) == field);
            let qualifier = same.and_then(|at| {
                next = at + 1;
                below.qualified_field(at).0.cloned()
            });
            (qualifier, Arc::clone(field))
        });
        let schema = DFSchema::new_with_metadata(fields.collect(), output.metadata().clone())?;
        let node = Self {
            input,
            action,
            schema: Arc::new(schema),
            started: Arc::new(AtomicBool::new(false)),
        };
        Ok(LogicalPlan::Extension(Extension {
            node: Arc::new(node),
        }))
    }
}

impl Debug for EffectNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UserDefinedLogicalNodeCore::fmt_for_explain(self, f)
    }
}

// Every node is its own: two equal statements are still two effects.
impl PartialEq for EffectNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.started, &other.started) && self.input == other.input
    }
}

impl Eq for EffectNode {}

impl PartialOrd for EffectNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl Hash for EffectNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.started).hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for EffectNode {
    fn name(&self) -> &str {
        "Effect"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effect: {}", self.action.name())
    }

    fn with_exprs_and_inputs(
        &self,
        _exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        let [input] = <[LogicalPlan; 1]>::try_from(inputs)
            .map_err(|inputs| Error::bug(format!("an effect has {} inputs", inputs.len())))?;
        Ok(Self {
            input,
            ..self.clone()
        })
    }
}

/// The physical node.
#[derive(Debug)]
pub struct EffectExec {
    input: Arc<dyn ExecutionPlan>,
    action: Arc<dyn RootAction>,
    started: Arc<AtomicBool>,
    properties: Arc<PlanProperties>,
}

impl EffectExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        action: Arc<dyn RootAction>,
        started: Arc<AtomicBool>,
        schema: SchemaRef,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            action,
            started,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for EffectExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "EffectExec: {}", self.action.name())
            }
            DisplayFormatType::TreeRender => writeln!(f, "{}", self.action.name()),
        }
    }
}

impl ExecutionPlan for EffectExec {
    fn name(&self) -> &str {
        "EffectExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    // Together with no required ordering this makes the optimizer keep the query's ORDER BY.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let [input] = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children)
            .map_err(|inputs| Error::bug(format!("an effect has {} inputs", inputs.len())))?;
        Ok(Arc::new(Self {
            input,
            action: Arc::clone(&self.action),
            started: Arc::clone(&self.started),
            properties: Arc::clone(&self.properties),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let inputs = self.input.properties().partitioning.partition_count();
        if partition != 0 || inputs != 1 {
            return Err(Error::bug(format!(
                "effect partition {partition} over {inputs} input partitions"
            ))
            .into());
        }
        if self.started.swap(true, Atomic::SeqCst) {
            return Err(
                Error::new(Code::QueryFailed, "an effect statement runs only once")
                    .with_hint(
                        "Send the statement again; a plan of it cannot be run a second time.",
                    )
                    .into(),
            );
        }
        let (present, gone) = oneshot::channel();
        let input = Box::pin(UntilGone {
            input: self.input.execute(0, Arc::clone(&context))?,
            gone,
            ended: false,
        });
        let action = Arc::clone(&self.action);
        let rows = async move {
            // Dropped with this future, which tells the task that the client is gone.
            let _present: oneshot::Sender<()> = present;
            let batches = detached(async move { action.run(input, context).await }).await?;
            Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream::once(rows).try_flatten(),
        )))
    }
}

/// Runs `work` in a task of its own and waits for it. Dropping the wait does not stop the work.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::bug("the task of a commit ended early").with_source(error)),
    }
}

/// The rows of a stream, or an error once the client is gone before the stream has ended.
struct UntilGone {
    input: SendableRecordBatchStream,
    gone: oneshot::Receiver<()>,
    ended: bool,
}

impl Stream for UntilGone {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // The sender never sends: ready means that it was dropped.
        if self.gone.poll_unpin(cx).is_ready() {
            self.ended = true;
            let error = Error::new(
                Code::QueryFailed,
                "the statement was given up before it acted",
            )
            .with_hint("Nothing was changed; send it again.");
            return Poll::Ready(Some(Err(error.into())));
        }
        let next = self.input.poll_next_unpin(cx);
        if matches!(next, Poll::Ready(None)) {
            self.ended = true;
        }
        next
    }
}

impl RecordBatchStream for UntilGone {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

/// Plans [`EffectNode`].
#[derive(Debug, Default)]
pub struct EffectPlanner;

#[async_trait]
impl ExtensionPlanner for EffectPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<EffectNode>() else {
            return Ok(None);
        };
        let [input] = physical_inputs else {
            return Err(Error::bug("an effect is planned without its input").into());
        };
        Ok(Some(Arc::new(EffectExec::new(
            Arc::clone(input),
            Arc::clone(&node.action),
            Arc::clone(&node.started),
            Arc::clone(node.schema.inner()),
        ))))
    }
}

/// The query planner of a session: checks for stray effects once more, then plans.
pub struct RootPlanner {
    planner: DefaultPhysicalPlanner,
}

impl RootPlanner {
    /// A planner that knows [`EffectNode`] and the nodes of `others`.
    pub fn new(mut others: Vec<Arc<dyn ExtensionPlanner + Send + Sync>>) -> Self {
        others.push(Arc::new(EffectPlanner));
        Self {
            planner: DefaultPhysicalPlanner::with_extension_planners(others),
        }
    }
}

impl Debug for RootPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootPlanner")
    }
}

#[async_trait]
impl QueryPlanner for RootPlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        refuse_strays(logical_plan)?;
        self.planner
            .create_physical_plan(logical_plan, session)
            .await
    }
}

/// The rule that refuses stray effects while a plan is analysed.
#[derive(Debug, Default)]
pub struct StrayEffects;

impl AnalyzerRule for StrayEffects {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        refuse_strays(&plan)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "stray_effects"
    }
}

/// Refuses effect functions anywhere, and an [`EffectNode`] anywhere but at the root.
///
/// # Errors
/// `SG1003 effect-misplaced` for a function; `SG9001 bug` for a node, which only we can misplace.
pub fn refuse_strays(plan: &LogicalPlan) -> DataFusionResult<()> {
    let root: &LogicalPlan = match plan {
        LogicalPlan::Explain(explain) => &explain.plan,
        other => other,
    };
    plan.apply_with_subqueries(|node| {
        let effect = matches!(
            node,
            LogicalPlan::Extension(extension)
                if extension.node.as_any().is::<EffectNode>()
        );
        if effect && !std::ptr::eq(node, root) {
            return Err(Error::bug("an effect is not at the root of its plan").into());
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| match expr {
                Expr::ScalarFunction(call) => match call.func.inner().downcast_ref::<EffectUdf>() {
                    Some(effect) => Err(misplaced(effect.function()).into()),
                    None => Ok(TreeNodeRecursion::Continue),
                },
                _ => Ok(TreeNodeRecursion::Continue),
            })
        })
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
