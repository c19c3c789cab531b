//! From a rewritten query to a plan with the effect at its root, and what a session registers
//! for that to work.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch, StructArray};
use datafusion::common::format::ExplainStatementOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ExplainOption, Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF};
use datafusion::physical_plan::collect;
use datafusion::physical_planner::ExtensionPlanner;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Query, Statement as SqlStatement};

use crate::error::{Code, Error, Position, Result};
use crate::functions::carrier::{Carrier, carrier_name};
use crate::functions::effect::{EffectFunction, Procedures, Signature, effect_udfs};
use crate::session::as_written::number_literals;
use crate::session::effect_node::action::{BoundCall, EffectAction, EffectCall, EffectTarget};
use crate::session::effect_node::constant::{constant_arguments, constant_calls};
use crate::session::effect_node::{EffectNode, RootPlanner, StrayEffects, detached};
use crate::session::errors::suggest_table;
use crate::session::gate::{
    EffectItem, Gate, Naming, arguments_query, is_carrier_column, misplaced_in_plan,
};
use crate::session::membership::ThreeValuedMembership;

/// The functions that the rewriting needs: the nets and all carriers.
pub fn effect_functions(procedures: &Procedures) -> Vec<Arc<ScalarUDF>> {
    let effects = EffectFunction::ALL
        .iter()
        .map(|function| function.signature());
    let signatures = effects.chain(procedures.all().iter().copied());
    effect_udfs()
        .into_iter()
        .chain(signatures.map(Carrier::udf))
        .collect()
}

/// Gives a session everything that effects need: the nets, the carriers, the rule, the planner.
/// Functions that the builder has already are kept.
pub fn install(
    mut builder: SessionStateBuilder,
    procedures: &Procedures,
    planners: Vec<Arc<dyn ExtensionPlanner + Send + Sync>>,
) -> SessionStateBuilder {
    // Errors of planning take their positions from the spans.
    builder
        .config()
        .get_or_insert_default()
        .options_mut()
        .sql_parser
        .collect_spans = true;
    builder
        .scalar_functions()
        .get_or_insert_default()
        .extend(effect_functions(procedures));
    builder
        .with_analyzer_rule(Arc::new(ThreeValuedMembership))
        .with_analyzer_rule(Arc::new(StrayEffects))
        .with_query_planner(Arc::new(RootPlanner::new(planners)))
}

/// An effect statement that is ready to run.
#[derive(Debug)]
pub enum Prepared {
    /// Constants only: [`run_constant`] runs it.
    Constant {
        /// The action.
        action: EffectAction,
        /// Its calls, one row.
        calls: Vec<BoundCall>,
    },
    /// A plan with the effect at its root, to be run as any other plan, once.
    Plan(LogicalPlan),
}

/// From an effect query to what can be run, on the short path where that is possible.
///
/// # Errors
/// Those of [`Gate::rewrite_effects`] and [`plan_effects`].
pub async fn prepare_effects(
    gate: &Gate,
    state: &SessionState,
    query: &Query,
    target: EffectTarget,
    rows_max: usize,
) -> Result<Prepared> {
    let (query, items) = gate.rewrite_effects(query.clone())?;
    if let Some(calls) = constant_calls(&query, &items)? {
        return Ok(Prepared::Constant {
            action: constant_action(&items, target)?,
            calls,
        });
    }
    Ok(Prepared::Plan(
        plan_effects(state, query, &items, target, rows_max).await?,
    ))
}

/// Plans an effect query.
///
/// # Arguments
/// `query` and `items` as [`Gate::rewrite_effects`](crate::session::gate::Gate::rewrite_effects)
/// returns them; `rows_max` is `Limits::effect_rows_max`.
///
/// # Errors
/// Those of planning; `SG1003 effect-misplaced` where a wildcard hid that the result of an effect
/// orders or groups the rows; `SG1004 effect-argument` for types.
pub async fn plan_effects(
    state: &SessionState,
    query: Query,
    items: &[EffectItem],
    target: EffectTarget,
    rows_max: usize,
) -> Result<LogicalPlan> {
    let input = plan_query(state, query)
        .await
        .map_err(|error| at_item(error, items))?;
    check_carriers(&input, items)?;
    let calls = locate(&input, items)?;
    EffectNode::plan(input, Arc::new(EffectAction::new(calls, target, rows_max)))
}

/// The action for calls without a query, see
/// [`constant_calls`](crate::session::effect_node::constant::constant_calls).
pub fn constant_action(items: &[EffectItem], target: EffectTarget) -> Result<EffectAction> {
    let calls = name_calls(items.iter().enumerate(), HashSet::new())?;
    Ok(EffectAction::new(calls, target, 1))
}

/// Runs constant calls, in a task that a gone client does not tear. One row.
pub async fn run_constant(action: EffectAction, calls: Vec<BoundCall>) -> Result<RecordBatch> {
    detached(async move { action.run_calls(1, calls).await }).await
}

/// The plan of EXPLAIN over the plan of an effect.
///
/// # Errors
/// `SG1003 effect-misplaced` for ANALYZE, which would run it.
pub fn explain_effects(
    state: &SessionState,
    plan: LogicalPlan,
    options: &ExplainStatementOptions,
) -> Result<LogicalPlan> {
    if options.analyze {
        return Err(Error::new(
            Code::EffectMisplaced,
            "an effect cannot stand in EXPLAIN ANALYZE",
        )
        .with_hint("Use EXPLAIN or PREVIEW."));
    }
    let format = match &options.format {
        Some(format) => format.clone(),
        None => state.config_options().explain.format.clone(),
    };
    let option = ExplainOption {
        verbose: options.verbose,
        analyze: false,
        format,
        show_statistics: options.show_statistics,
        analyze_level: None,
        analyze_categories: None,
    };
    Ok(LogicalPlanBuilder::from(plan)
        .explain_option_format(option)?
        .build()?)
}

/// The arguments of a procedure as one row: of constants at once, else by running a query.
///
/// # Errors
/// `SG1004 effect-argument`; those of the query.
pub async fn procedure_arguments(
    state: &SessionState,
    signature: &Signature,
    args: &[Option<SqlExpr>],
    position: Option<Position>,
) -> Result<StructArray> {
    if let Some(constant) = constant_arguments(signature, args, position)? {
        return Ok(constant);
    }
    let plan = plan_query(state, arguments_query(signature, args)).await?;
    let physical = state.create_physical_plan(&plan).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    let one = batches.iter().find(|batch| batch.num_rows() == 1);
    let found = one
        .and_then(|batch| batch.columns().first())
        .and_then(|c| c.as_struct_opt());
    found.cloned().ok_or_else(|| {
        Error::bug(format!(
            "the arguments of \"{}\" are not one row",
            signature.name
        ))
    })
}

async fn plan_query(state: &SessionState, query: Query) -> Result<LogicalPlan> {
    let statement = SqlStatement::Query(Box::new(query));
    plan_statement(state, SyntaxTree::Statement(Box::new(statement))).await
}

/// Plans a statement of DataFusion's, with our errors; one for an unknown table says which table
/// of the default schema may be meant.
///
/// # Errors
/// `SG2001 unknown-object`, `SG1002 plan-error` and what the tables say.
pub async fn plan_statement(
    state: &SessionState,
    mut statement: SyntaxTree,
) -> Result<LogicalPlan> {
    number_literals(&mut statement);
    state.statement_to_plan(statement).await.map_err(|error| {
        let options = &state.config_options().catalog;
        let catalog = state.catalog_list().catalog(&options.default_catalog);
        let schema = catalog.and_then(|catalog| catalog.schema(&options.default_schema));
        let known = schema
            .map(|schema| schema.table_names())
            .unwrap_or_default();
        suggest_table(error.into(), known.iter().map(String::as_str))
    })
}

/// Adds the position of the call to an error about its arguments.
fn at_item(error: Error, items: &[EffectItem]) -> Error {
    if error.code() != Code::EffectArgument || error.position().is_some() {
        return error;
    }
    let of = |item: &&EffectItem| {
        error
            .message()
            .contains(&format!(" of {} ", item.function.name()))
    };
    match items.iter().find(of).and_then(|item| item.position) {
        Some(position) => error.with_position(position),
        None => error,
    }
}

/// Refuses a plan in which an effect's column does more than pass to the root.
fn check_carriers(plan: &LogicalPlan, items: &[EffectItem]) -> Result<()> {
    let mut found: Option<Error> = None;
    plan.apply_with_subqueries(|node| {
        let clause = match node {
            LogicalPlan::Projection(_) => return Ok(TreeNodeRecursion::Continue),
            LogicalPlan::Sort(_) => "ORDER BY",
            LogicalPlan::Aggregate(_) => "GROUP BY",
            LogicalPlan::Filter(_) => "a condition",
            LogicalPlan::Window(_) => "a window (OVER)",
            LogicalPlan::Distinct(_) => "SELECT DISTINCT",
            _ => "this place",
        };
        node.apply_expressions(|expr| {
            if let Some(item) = carried(expr, items)? {
                found = Some(misplaced_in_plan(item, clause));
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    found.map_or(Ok(()), Err)
}

/// The effect whose carrier or column is in the expression.
fn carried<'a>(expr: &Expr, items: &'a [EffectItem]) -> DataFusionResult<Option<&'a EffectItem>> {
    let mut found = None;
    expr.apply(|expr| {
        let item = match expr {
            Expr::Column(column) if is_carrier_column(&column.name) => {
                items.iter().find(|item| item.column == column.name)
            }
            Expr::ScalarFunction(call) => items
                .iter()
                .find(|item| carrier_name(item.function.name()) == call.name()),
            _ => None,
        };
        if item.is_some() {
            found = item;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn locate(input: &LogicalPlan, items: &[EffectItem]) -> Result<Vec<EffectCall>> {
    let schema = input.schema();
    let taken: HashSet<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| !is_carrier_column(name))
        .collect();
    let mut placed = Vec::with_capacity(items.len());
    for item in items {
        match schema.index_of_column_by_name(None, &item.column) {
            Some(column) => placed.push((column, item)),
            None => {
                return Err(Error::bug(format!(
                    "column \"{}\" is not in the plan",
                    item.column
                )));
            }
        }
    }
    name_calls(placed.into_iter(), taken)
}

fn name_calls<'a>(
    placed: impl Iterator<Item = (usize, &'a EffectItem)>,
    mut taken: HashSet<String>,
) -> Result<Vec<EffectCall>> {
    let mut calls = Vec::new();
    for (column, item) in placed {
        let mut name = item.name.clone();
        if taken.contains(&name) {
            if item.naming == Naming::Alias {
                let error =
                    Error::new(Code::PlanError, format!("column \"{name}\" is there twice"))
                        .with_hint("Give the effect another name with AS.");
                return Err(match item.position {
                    Some(position) => error.with_position(position),
                    None => error,
                });
            }
            let mut number = 2_u64;
            while taken.contains(&name) {
                name = format!("{}_{number}", item.name);
                number += 1;
            }
        }
        taken.insert(name.clone());
        let given = item
            .args
            .iter()
            .enumerate()
            .filter(|(_, arg)| arg.is_some());
        let given = given.map(|(at, _)| at).collect();
        calls.push(EffectCall {
            function: item.function,
            column,
            name,
            given,
        });
    }
    Ok(calls)
}
