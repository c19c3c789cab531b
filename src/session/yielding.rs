//! A physical optimizer rule, after which joins give way to other tasks.
//!
//! DataFusion yields where a scan is polled. A join makes many batches of one batch of its input,
//! and what stands above it may take them all without a scan in between: until it is done, no
//! time-out and no cancellation of the statement is noticed, and where each thread has such a
//! statement, no other one runs. Called by `core`.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// Puts a yielding node above every join and every UNNEST.
#[derive(Debug)]
pub(super) struct YieldingJoins;

impl PhysicalOptimizerRule for YieldingJoins {
    fn name(&self) -> &'static str {
        "yielding_joins"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|plan| {
            let multiplies = plan.name().ends_with("JoinExec") || plan.name() == "UnnestExec";
            Ok(if multiplies {
                Transformed::yes(Arc::new(CooperativeExec::new(plan)))
            } else {
                Transformed::no(plan)
            })
        })?;
        Ok(plan.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Two statements with such joins once kept a server from answering anybody.
    #[tokio::test]
    async fn a_join_of_many_rows_can_be_stopped() {
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build();
        let context = SessionContext::new_with_state(state);
        for (join, sql) in [
            (
                "NestedLoopJoinExec",
                "SELECT count(*) FROM range(0, 300000) AS a, range(0, 300000) AS b
                  WHERE (a.value + b.value) % 2 = 1",
            ),
            (
                "CrossJoinExec",
                "SELECT sum(a.value + b.value)
                   FROM range(0, 300000) AS a, range(0, 300000) AS b",
            ),
            (
                "HashJoinExec",
                "SELECT sum(a.value + b.value)
                   FROM range(0, 300000) AS a JOIN range(0, 300000) AS b
                     ON a.value % 2 = b.value % 2",
            ),
        ] {
            let query = context.sql(sql).await.unwrap();
            let plan = query.clone().create_physical_plan().await.unwrap();
            let plan = datafusion::physical_plan::displayable(plan.as_ref()).indent(false);
            let plan = plan.to_string();
            assert!(plan.contains(join), "{plan}");
            let work = tokio::time::timeout(Duration::from_millis(1), query.collect());
            assert!(work.await.is_err(), "{join} ran to its end");
        }
    }
}
