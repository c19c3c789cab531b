//! What a statement would answer, without running it.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::functions_aggregate::expr_fn;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;

use crate::error::{Code, Error, Result};
use crate::session::effect_node::constant::constant_calls;
use crate::session::effect_node::planning::plan_statement;
use crate::session::gate::Call;
use crate::session::parameters::{Parameters, bind, placeholders};
use crate::session::statement::{Parsed, Statement};
use crate::session::{
    ExecuteOptions, Session, StatementKind, kind_of, no_columns, parser, query_tree,
};

/// What a statement would answer.
#[derive(Debug, Clone)]
pub struct Description {
    /// What it is.
    pub kind: StatementKind,
    /// The columns of its rows; none where only running it tells, as for a procedure.
    pub schema: Option<SchemaRef>,
    /// The version at which it was planned.
    pub version: u64,
}

/// What is known of a statement before its parameters are.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The columns of its rows; none where only its parameters or running it tell.
    pub schema: Option<SchemaRef>,
    /// Its parameters: `$1`, or the name of one, with the type that it is used as; that of NULL
    /// where any will do.
    pub parameters: Schema,
}

impl Session {
    /// Plans a statement without its parameters, and runs nothing.
    ///
    /// # Errors
    /// Those with which [`Session::describe`] refuses it, whatever its parameters.
    pub async fn prepare(&self, sql: &str) -> Result<Prepared> {
        let Parsed { mut statement, .. } = parser::parse(sql)?;
        let names = placeholders(&mut statement)?;
        if names.is_empty() {
            let described = self.describe(sql, ExecuteOptions::default()).await?;
            return Ok(Prepared {
                schema: described.schema,
                parameters: Schema::empty(),
            });
        }
        self.gate.check(&statement, sql)?;
        let types = match statement {
            Statement::Query(query) => {
                let state = self.over(&self.ledger().snapshot().await?, &[]);
                match plan_statement(&state, query_tree(*query)).await {
                    Ok(plan) => plan.get_parameter_types().unwrap_or_default(),
                    Err(error) if error.code() == Code::UnknownObject => return Err(error),
                    // The types of its parameters may make a plan of it.
                    Err(_) => HashMap::new(),
                }
            }
            _ => HashMap::new(),
        };
        let field = |name: &String| {
            let name = format!("${name}");
            let known = types.get(&name).cloned().flatten();
            Field::new(name, known.unwrap_or(DataType::Null), true)
        };
        Ok(Prepared {
            schema: None,
            parameters: Schema::new(names.iter().map(field).collect::<Vec<_>>()),
        })
    }

    /// Plans a statement and runs nothing.
    ///
    /// # Errors
    /// Those with which [`Session::execute_with`] refuses it before it runs.
    pub async fn describe(&self, sql: &str, options: ExecuteOptions) -> Result<Description> {
        let (task, statement) = self.task(sql, options)?;
        let running = self.begin(&task).await?;
        let state = self.over(&running.state, &running.tables);
        let planned = match &statement {
            Statement::Query(query) => {
                Some(plan_statement(&state, query_tree(query.as_ref().clone())).await?)
            }
            Statement::Call(function) => match self.gate.call(function)? {
                Call::Effect(_) => self.plan_inner(&running, &state, statement.clone()).await?,
                Call::Procedure { .. } => None,
            },
            Statement::Effect(_)
            | Statement::Preview(_)
            | Statement::Insert { .. }
            | Statement::Update { .. }
            | Statement::Delete { .. } => {
                let plan = self.plan_inner(&running, &state, statement.clone()).await?;
                Some(plan.ok_or_else(|| Error::bug("a change has no plan"))?)
            }
            Statement::Truncate { .. }
            | Statement::CreateTable { .. }
            | Statement::CreateView { .. }
            | Statement::CreateExternalTable { .. }
            | Statement::CreateTransform(_)
            | Statement::Drop { .. }
            | Statement::Explain { .. }
            | Statement::Set(_)
            | Statement::Show(_)
            | Statement::ShowCreate(_)
            | Statement::Describe(_)
            | Statement::Copy(_)
            | Statement::Prepare(_)
            | Statement::Execute(_)
            | Statement::Transaction(_)
            | Statement::Checkpoint
            | Statement::Other(_) => None,
        };
        let schema = match (planned, kind_of(&statement)) {
            (_, StatementKind::Dml) => Some(no_columns()),
            (Some(plan), _) => Some(state.create_physical_plan(&plan).await?.schema()),
            (None, _) => None,
        };
        Ok(Description {
            kind: task.kind,
            schema,
            version: running.state.version.0,
        })
    }

    /// How many rows of effects a statement would make, without making them; `None` where it has
    /// none.
    ///
    /// # Errors
    /// Those of its parameters, of planning and of the query.
    pub async fn count_effects(&self, sql: &str, values: &Parameters) -> Result<Option<u64>> {
        let Parsed {
            text,
            mut statement,
        } = parser::parse(sql)?;
        bind(text, &mut statement, values)?;
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
