//! Filters are pushed down by the names of columns, so they must not reach a plan in which a name
//! stands twice.
//!
//! DataFusion's rule takes a filter above a join apart by index, but every other node below it
//! finds the columns of its input by name: above `FULL JOIN a AS t1 ... a AS t2`, `t2.y < t1.g`
//! became a filter of `t2` on its own `g`, and other rows came out. While one of those rules runs,
//! a node that takes no filter stands above every node with such columns; the filter stays where
//! it is.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::error::Error;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's physical rules, those that push filters down with their guard.
pub(super) fn guarded_rules() -> Vec<Rule> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    rules
        .map(|rule| match rule.name().starts_with("FilterPushdown") {
            true => Arc::new(Guarded(rule)) as Rule,
            false => rule,
        })
        .collect()
}

/// A rule that pushes filters down, but through no node in which a name stands twice.
struct Guarded(Rule);

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({})", self.0.name())
    }
}

impl PhysicalOptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut guards = false;
        let plan = plan.transform_up(|plan| {
            if plan.children().is_empty() || unambiguous(plan.as_ref()) {
                return Ok(Transformed::no(plan));
            }
            guards = true;
            Ok(Transformed::yes(Arc::new(Guard { input: plan })))
        })?;
        let plan = self.0.optimize(plan.data, config)?;
        if !guards {
            return Ok(plan);
        }
        let plan = plan.transform_up(|plan| {
            let input = plan.downcast_ref::<Guard>().map(|guard| &guard.input);
            Ok(match input.map(Arc::clone) {
                Some(input) => Transformed::yes(input),
                None => Transformed::no(plan),
            })
        })?;
        Ok(plan.data)
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn unambiguous(plan: &dyn ExecutionPlan) -> bool {
    let schema = plan.schema();
    let mut names = HashSet::new();
    schema
        .fields()
        .iter()
        .all(|field| names.insert(field.name()))
}

/// Its input, to which no filter goes down: that is what a node does that says nothing of filters.
#[derive(Debug)]
struct Guard {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Guard {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl ExecutionPlan for Guard {
    fn name(&self) -> &'static str {
        "Guard"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        let [input] = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children)
            .map_err(|inputs| Error::bug(format!("a guard has {} inputs", inputs.len())))?;
        Ok(Arc::new(Self { input }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
