//! `IN (SELECT ...)` and `EXISTS` with the three values of SQL, wherever they stand.
//!
//! DataFusion plans `x IN (SELECT y ...)` beside an OR as a mark join, whose mark is FALSE where
//! SQL says NULL: `x NOT IN (...) OR ...` then takes rows of which nobody knows. It has no plan at
//! all for a correlated NOT IN, and none for either word outside of a WHERE. This rule leaves the
//! forms that DataFusion plans right, and writes the others as expressions that it does:
//!
//! - in a WHERE, under AND and OR only: `x IN (...)`, where FALSE and NULL do the same; and NOT IN
//!   as a condition of its own, where nothing of the list comes from outside;
//! - elsewhere in a WHERE, a list that comes from outside: `= ANY` and `<> ALL`;
//! - else counts: of the list, of its NULLs, and of what equals `x`.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery,
    lit, not, when,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::scalar::ScalarValue;

/// The rule; it stands before all others, which then see nothing new.
#[derive(Debug, Default)]
pub struct ThreeValuedMembership;

impl AnalyzerRule for ThreeValuedMembership {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite)
            .map(|done| done.data)
    }

    fn name(&self) -> &'static str {
        "three_valued_membership"
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = input_schema(&plan);
    match plan {
        LogicalPlan::Filter(filter) => {
            let condition = condition(filter.predicate, Place::Conjunct)?;
            let filter = Filter::try_new(condition, filter.input)?;
            Ok(Transformed::yes(LogicalPlan::Filter(filter)))
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => below(plan, &schema),
        LogicalPlan::Sort(_) => {
            let columns = plan.schema().columns();
            let sorted = below(plan, &schema)?;
            if !sorted.transformed {
                return Ok(sorted);
            }
            let columns = columns.into_iter().map(Expr::Column);
            let plan = LogicalPlanBuilder::from(sorted.data).project(columns)?;
            Ok(Transformed::yes(plan.build()?))
        }
        LogicalPlan::Projection(_) => {
            // A column keeps the name that the query gave it.
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let counted = expr.transform_up(|expr| counted(expr, &schema))?;
                Ok(counted.update_data(|expr| name.restore(expr)))
            })
        }
        // DataFusion says itself that no other place has a plan.
        _ => Ok(Transformed::no(plan)),
    }
}

/// A plan of aggregates, windows or an order, whose conditions are columns of a projection below
/// it: DataFusion joins what a query counts to projections and conditions only.
fn below(plan: LogicalPlan, schema: &DFSchema) -> Result<Transformed<LogicalPlan>> {
    let mut made: Vec<Expr> = Vec::new();
    let names = NamePreserver::new(&plan);
    let done = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let done = expr.transform_up(|expr| {
            let done = counted(expr, schema)?;
            if !done.transformed {
                return Ok(done);
            }
            let column = format!("__member_{}", made.len());
            made.push(done.data.alias(&column));
            Ok(Transformed::yes(Expr::Column(Column::from_name(column))))
        })?;
        Ok(done.update_data(|expr| name.restore(expr)))
    })?;
    let input = done
        .data
        .inputs()
        .first()
        .map(|input| LogicalPlan::clone(input));
    let Some(input) = input.filter(|_| !made.is_empty()) else {
        return Ok(done);
    };
    let columns = schema.columns().into_iter().map(Expr::Column).chain(made);
    let input = LogicalPlanBuilder::from(input).project(columns)?;
    let expressions = done.data.expressions();
    let plan = done
        .data
        .with_new_exprs(expressions, vec![input.build()?])?;
    Ok(Transformed::yes(plan))
}

fn input_schema(plan: &LogicalPlan) -> DFSchema {
    match plan.inputs().first() {
        Some(input) => input.schema().as_ref().clone(),
        None => DFSchema::empty(),
    }
}

/// Where an expression stands within a WHERE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It must be true for the row to be taken.
    Conjunct,
    /// Below OR: that it is true helps, and nothing else of it counts.
    Positive,
    /// Anywhere else, where NULL and FALSE may differ.
    Other,
}

/// The condition of a WHERE.
fn condition(expr: Expr, place: Place) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if op == Operator::And || op == Operator::Or =>
        {
            let place = match (place, op) {
                (Place::Other, _) => Place::Other,
                (place, Operator::And) => place,
                _ => Place::Positive,
            };
            let left = condition(*left, place)?;
            let right = condition(*right, place)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(
                Box::new(left),
                op,
                Box::new(right),
            )))
        }
        // NOT (x IN ...) is x NOT IN ....
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(InSubquery {
                expr,
                subquery,
                negated,
            }) => {
                let turned = InSubquery::new(expr, subquery, !negated);
                condition(Expr::InSubquery(turned), place)
            }
            other => Ok(not(condition(other, Place::Other)?)),
        },
        Expr::InSubquery(member) => in_condition(member, place),
        other => other
            .map_children(|child| condition(child, Place::Other).map(Transformed::yes))
            .map(|done| done.data),
    }
}

fn in_condition(member: InSubquery, place: Place) -> Result<Expr> {
    let correlated = !member.subquery.outer_ref_columns.is_empty();
    let right_as_it_is = match (place, member.negated) {
        (Place::Conjunct | Place::Positive, false) => true,
        (Place::Conjunct, true) => !correlated,
        (Place::Positive, true) | (Place::Other, _) => false,
    };
    if right_as_it_is {
        return Ok(Expr::InSubquery(member));
    }
    let InSubquery {
        expr,
        subquery,
        negated,
    } = member;
    if correlated {
        let (op, quantifier) = match negated {
            true => (Operator::NotEq, SetQuantifier::All),
            false => (Operator::Eq, SetQuantifier::Any),
        };
        return Ok(Expr::SetComparison(SetComparison::new(
            expr, subquery, op, quantifier,
        )));
    }
    let member = InSubquery::new(expr.clone(), subquery.clone(), false);
    three_valued(Expr::InSubquery(member), *expr, &subquery, negated)
}

/// An expression outside of a WHERE, with counts in the place of IN and EXISTS.
fn counted(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Exists(Exists { subquery, negated }) => {
            let some = count_of(&subquery, None)?.gt(lit(0_i64));
            Ok(Transformed::yes(if negated { not(some) } else { some }))
        }
        Expr::InSubquery(InSubquery {
            expr,
            subquery,
            negated,
        }) => {
            let found = matches(*expr.clone(), &subquery, schema)?;
            three_valued(found, *expr, &subquery, negated).map(Transformed::yes)
        }
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op,
            quantifier,
        }) => match (op, &quantifier) {
            (Operator::Eq, SetQuantifier::Any) | (Operator::NotEq, SetQuantifier::All) => {
                let negated = op == Operator::NotEq;
                let found = matches(*expr.clone(), &subquery, schema)?;
                three_valued(found, *expr, &subquery, negated).map(Transformed::yes)
            }
            (op, quantifier) => plan_err!(
                "{op} {quantifier} with a query stands in WHERE only; compare with \
                 (SELECT min(...)) or (SELECT max(...))"
            ),
        },
        other => Ok(Transformed::no(other)),
    }
}

/// `x [NOT] IN` a list, from whether it was found there.
fn three_valued(found: Expr, x: Expr, list: &Subquery, negated: bool) -> Result<Expr> {
    let nulls = count_of(list, Some(column_of(list)?.is_null()))?;
    let unknown = count_of(list, None)?
        .gt(lit(0_i64))
        .and(x.is_null().or(nulls.gt(lit(0_i64))));
    when(found, lit(!negated))
        .when(unknown, lit(ScalarValue::Boolean(None)))
        .otherwise(lit(negated))
}

/// Whether something in the list equals `x`.
fn matches(x: Expr, list: &Subquery, schema: &DFSchema) -> Result<Expr> {
    let outer = x.transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = Expr::Column(column.clone()).to_field(schema)?.1;
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let same = column_of(list)?.eq(outer.data.clone());
    let mut list = list.clone();
    outer.data.apply(|expr| {
        if let Expr::OuterReferenceColumn(..) = expr
            && !list.outer_ref_columns.contains(expr)
        {
            list.outer_ref_columns.push(expr.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(count_of(&list, Some(same))?.gt(lit(0_i64)))
}

/// The one column of a list.
fn column_of(list: &Subquery) -> Result<Expr> {
    match list.subquery.schema().columns().as_slice() {
        [column] => Ok(Expr::Column(Column::clone(column))),
        columns => plan_err!("the query of IN gives {} columns, not one", columns.len()),
    }
}

/// How many rows of a query there are.
fn count_of(query: &Subquery, filter: Option<Expr>) -> Result<Expr> {
    let mut plan = LogicalPlanBuilder::from(Arc::unwrap_or_clone(Arc::clone(&query.subquery)));
    if let Some(filter) = filter {
        plan = plan.filter(filter)?;
    }
    let none: [Expr; 0] = [];
    let plan = plan.aggregate(none, [count(lit(1_i64))])?.build()?;
    Ok(Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(plan),
        outer_ref_columns: query.outer_ref_columns.clone(),
        spans: query.spans.clone(),
    }))
}
