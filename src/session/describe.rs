//! What a statement would answer, without running it.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::functions_aggregate::expr_fn;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;

use crate::error::Result;
use crate::session::effect_node::constant::constant_calls;
use crate::session::effect_node::planning::plan_statement;
use crate::session::statement::{Parsed, Statement};
use crate::session::{Session, parser, query_tree};

impl Session {
    /// How many rows of effects a statement would make, without making them; `None` where it has
    /// none.
    ///
    /// # Errors
    /// Those of planning and of the query.
    pub async fn count_effects(&self, sql: &str) -> Result<Option<u64>> {
        let Parsed { statement, .. } = parser::parse(sql)?;
        let Statement::Effect(query) = statement else {
            return Ok(None);
        };
        let (query, items) = self.gate.rewrite_effects(*query)?;
        if constant_calls(&query, &items)?.is_some() {
            return Ok(Some(1));
        }
        let state = self.over(&self.ledger().snapshot().await?, &[]);
        let plan = plan_statement(&state, query_tree(query)).await?;
        let count = expr_fn::count(lit(1_i64));
        let none: [Expr; 0] = [];
        let plan = LogicalPlanBuilder::from(plan)
            .aggregate(none, [count])?
            .build()?;
        let physical = state.create_physical_plan(&plan).await?;
        let batches = collect(physical, state.task_ctx()).await?;
        let column = batches
            .iter()
            .find(|batch| batch.num_rows() > 0)
            .map(|batch| batch.column(0));
        let count =
            column.and_then(|column| Some(column.as_primitive_opt::<Int64Type>()?.value(0)));
        Ok(count.and_then(|count| u64::try_from(count).ok()))
    }
}
