//! Values as they were written: numbers and dates keep what DataFusion would round or move.
//!
//! Three rules, each in one place for all statements:
//! - A number with a point, or too long for 64 bits, is a DECIMAL of just its digits
//!   (`parse_float_as_decimal`); one with an exponent is a DOUBLE ([`number_literals`]).
//! - Where a DECIMAL meets a DOUBLE, both are DOUBLE, as in PostgreSQL. DataFusion casts the DOUBLE
//!   to a DECIMAL with 15 places, which makes 1e-20 zero and fails on infinity.
//! - A text that becomes a date is the day that it says ([`dates`](crate::functions::dates)).
//!
//! The last two need types, so they are a rule of the analyzer. It runs before DataFusion's own
//! coercion, which would decide otherwise, and again after it, for the casts that it adds. Views
//! go through it by themselves, because sessions that are not ours read them too.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, InList, InSubquery, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
    Union,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::sql::parser::{CopyToSource, Statement as SyntaxTree};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, ExactNumberInfo, Expr as SqlExpr, Query, SetExpr, Value,
    VisitMut, VisitorMut,
};

use crate::functions::dates::{Misfit, WrittenDate, is_date, is_text};
use crate::functions::dialect::time_pattern;
use crate::functions::epoch::Epoch;

/// The rules of the analyzer, in their order.
pub(super) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(AsWritten),
        Arc::new(ResolveGroupingFunction::new()),
        Arc::new(TypeCoercion::new()),
        Arc::new(AsWritten),
    ]
}

/// The digits that a DECIMAL holds at most.
const DECIMAL_DIGITS_MAX: usize = 76;

/// The digits that a DOUBLE carries whatever they are (`f64::DIGITS`).
const DOUBLE_DIGITS: usize = 15;

/// Makes DOUBLE of the numbers with an exponent, which DataFusion would read as DECIMAL of a
/// negative scale, or refuse. In VALUES a column with one of them is DOUBLE as a whole.
pub(super) fn number_literals(tree: &mut SyntaxTree) {
    // It never breaks.
    let _: ControlFlow<()> = match tree {
        SyntaxTree::Statement(statement) => statement.visit(&mut Exponents),
        SyntaxTree::Explain(explain) => {
            number_literals(&mut explain.statement);
            ControlFlow::Continue(())
        }
        SyntaxTree::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(&mut Exponents),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        SyntaxTree::CreateExternalTable(_) | SyntaxTree::Reset(_) => ControlFlow::Continue(()),
    };
}

struct Exponents;

impl VisitorMut for Exponents {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            let columns = values.rows.first().map_or(0, |row| row.content.len());
            for column in 0..columns {
                let any = values
                    .rows
                    .iter()
                    .filter_map(|row| row.content.get(column))
                    .any(|expr| number(expr).is_some_and(|text| written(text) == Kind::Double));
                for row in values.rows.iter_mut().filter(|_| any) {
                    if let Some(expr) = row.content.get_mut(column) {
                        to_double(expr);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        let SqlExpr::Value(value) = expr else {
            return ControlFlow::Continue(());
        };
        let Value::Number(text, _) = &mut value.value else {
            return ControlFlow::Continue(());
        };
        match written(text) {
            Kind::Exact => {}
            Kind::Expanded(plain) => *text = plain,
            Kind::Double => to_double(expr),
        }
        ControlFlow::Continue(())
    }
}

/// The number that an expression is, without its sign.
fn number(expr: &SqlExpr) -> Option<&str> {
    match expr {
        SqlExpr::UnaryOp { expr, .. } => number(expr),
        SqlExpr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn to_double(expr: &mut SqlExpr) {
    match expr {
        SqlExpr::UnaryOp { expr, .. } => to_double(expr),
        SqlExpr::Value(value) => {
            if let Value::Number(text, _) = &value.value {
                let text = text.replace('_', "");
                *expr = SqlExpr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(SqlExpr::value(Value::SingleQuotedString(text))),
                    data_type: SqlType::Double(ExactNumberInfo::None),
                    array: false,
                    format: None,
                };
            }
        }
        _ => {}
    }
}

/// What a number is by the way it is written.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// An integer, or a DECIMAL.
    Exact,
    /// A DECIMAL, if it is written without its exponent.
    Expanded(String),
    /// A DOUBLE.
    Double,
}

fn written(text: &str) -> Kind {
    let lower = text.replace('_', "").to_ascii_lowercase();
    let digits_of = |text: &str| {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.trim_start_matches('0').len()
    };
    let Some((mantissa, exponent)) = lower.split_once('e') else {
        let places = lower.split_once('.').map_or(0, |(_, places)| places.len());
        return match digits_of(&lower).max(places) > DECIMAL_DIGITS_MAX {
            true => Kind::Double,
            false => Kind::Exact,
        };
    };
    // More digits than a DOUBLE carries were written on purpose.
    if digits_of(mantissa) <= DOUBLE_DIGITS {
        return Kind::Double;
    }
    match expanded(mantissa, exponent) {
        Some(plain) => Kind::Expanded(plain),
        None => Kind::Double,
    }
}

/// A number without its exponent, where a DECIMAL holds it.
fn expanded(mantissa: &str, exponent: &str) -> Option<String> {
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, places) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{places}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let most = i32::try_from(DECIMAL_DIGITS_MAX).ok()?;
    let length = i32::try_from(digits.len()).ok()?;
    if point > most || length.checked_sub(point)? > most {
        return None;
    }
    let plain = match usize::try_from(point) {
        Ok(point) if point >= digits.len() => format!("{digits:0<point$}.0"),
        Ok(point) => {
            let (whole, places) = digits.split_at_checked(point)?;
            format!("0{whole}.{places}")
        }
        Err(_) => {
            let zeros = usize::try_from(point.checked_neg()?).ok()?;
            format!("0.{}{digits}", "0".repeat(zeros))
        }
    };
    Some(plain)
}

/// The rule of the analyzer.
#[derive(Debug)]
pub(super) struct AsWritten;

impl AsWritten {
    /// Applies the rule to a plan that an analyzer without it may get.
    pub(super) fn apply(plan: LogicalPlan) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite_node)
            .map(|done| done.data)
    }
}

impl AnalyzerRule for AsWritten {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Self::apply(plan)
    }

    fn name(&self) -> &str {
        "as_written"
    }
}

fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let plan = match plan {
        LogicalPlan::Union(union) => return union_of_doubles(union),
        plan => plan,
    };
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        let source = scan.source.schema();
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &source,
        )?);
    }
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| rewrite(expr, &schema))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    match rewritten.transformed {
        true => rewritten.map_data(LogicalPlan::recompute_schema),
        false => Ok(rewritten),
    }
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Cast(cast) => {
            let (inner, to) = (cast.expr.as_ref(), cast.field.data_type());
            if let Some(exact) = literal_as(inner, to) {
                return Ok(Transformed::yes(exact));
            }
            if is_date(to) && is_text(&inner.get_type(schema)?) {
                let date = WrittenDate::udf(to.clone(), Misfit::Error);
                return Ok(Transformed::yes(date.call(vec![*cast.expr])));
            }
            Ok(Transformed::no(Expr::Cast(cast)))
        }
        Expr::TryCast(cast) => {
            let to = cast.field.data_type();
            if is_date(to) && is_text(&cast.expr.get_type(schema)?) {
                let date = WrittenDate::udf(to.clone(), Misfit::Null);
                return Ok(Transformed::yes(date.call(vec![*cast.expr])));
            }
            Ok(Transformed::no(Expr::TryCast(cast)))
        }
        Expr::ScalarFunction(call) => function(call, schema),
        other => meeting(other, schema),
    }
}

/// Functions whose arguments are of one type.
const OF_ONE_TYPE: &[&str] = &[
    "array_append",
    "array_has",
    "array_position",
    "array_prepend",
    "array_remove",
    "coalesce",
    "greatest",
    "ifnull",
    "least",
    "make_array",
    "nullif",
    "nvl",
    "nvl2",
];

fn function(call: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    // Casts by another name: these take the day in UTC as well.
    let misfit = match (call.name(), call.args.as_slice()) {
        ("to_date", [_]) | ("arrow_cast", [_, _]) => Some(Misfit::Error),
        ("arrow_try_cast", [_, _]) => Some(Misfit::Null),
        _ => None,
    };
    if let (Some(misfit), Some(text)) = (misfit, call.args.first())
        && is_text(&text.get_type(schema)?)
    {
        let text = text.clone();
        let call = Expr::ScalarFunction(call);
        let to = call.get_type(schema)?;
        return Ok(match is_date(&to) {
            true => Transformed::yes(WrittenDate::udf(to, misfit).call(vec![text])),
            false => Transformed::no(call),
        });
    }
    if call.name() == "date_part"
        && let [Expr::Literal(part, _), span] = call.args.as_slice()
        && part
            .try_as_str()
            .flatten()
            .is_some_and(|part| part.eq_ignore_ascii_case("epoch"))
        && matches!(
            span.get_type(schema)?,
            DataType::Interval(_) | DataType::Duration(_) | DataType::Timestamp(..)
        )
    {
        return Ok(Transformed::yes(Epoch::udf().call(vec![span.clone()])));
    }
    if call.name() == "to_char"
        && let [_, Expr::Literal(pattern, metadata)] = call.args.as_slice()
        && let Some(pattern) = pattern.try_as_str().flatten().and_then(time_pattern)
    {
        let pattern = Expr::Literal(ScalarValue::Utf8(Some(pattern)), metadata.clone());
        let ScalarFunction { func, args } = call;
        let args = args.into_iter().take(1).chain([pattern]).collect();
        return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction {
            func,
            args,
        })));
    }
    if !OF_ONE_TYPE.contains(&call.name()) {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    let ScalarFunction { func, mut args } = call;
    let changed = meet(args.iter_mut(), schema)?;
    let call = Expr::ScalarFunction(ScalarFunction { func, args });
    Ok(transformed(call, changed))
}

/// Makes DOUBLE of the DECIMAL operands of an expression that has DOUBLE ones.
fn meeting(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut expr = expr;
    let changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if of_numbers(*op) => {
            meet([left.as_mut(), right.as_mut()].into_iter(), schema)?
        }
        Expr::Between(Between {
            expr, low, high, ..
        }) => meet(
            [expr.as_mut(), low.as_mut(), high.as_mut()].into_iter(),
            schema,
        )?,
        Expr::InList(InList { expr, list, .. }) => {
            meet(std::iter::once(expr.as_mut()).chain(list), schema)?
        }
        Expr::InSubquery(within) => meet_subquery(within, schema)?,
        Expr::Case(case) => meet_case(case, schema)?,
        _ => false,
    };
    Ok(transformed(expr, changed))
}

fn transformed(expr: Expr, changed: bool) -> Transformed<Expr> {
    match changed {
        true => Transformed::yes(expr),
        false => Transformed::no(expr),
    }
}

fn of_numbers(op: Operator) -> bool {
    op.supports_propagation()
        || op.is_numerical_operators()
        || matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom)
}

fn meet_case(case: &mut Case, schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    if let Some(subject) = &mut case.expr {
        let whens = case
            .when_then_expr
            .iter_mut()
            .map(|(when, _)| when.as_mut());
        changed |= meet(std::iter::once(subject.as_mut()).chain(whens), schema)?;
    }
    let thens = case
        .when_then_expr
        .iter_mut()
        .map(|(_, then)| then.as_mut());
    let otherwise = case.else_expr.iter_mut().map(Box::as_mut);
    changed |= meet(thens.chain(otherwise), schema)?;
    Ok(changed)
}

fn meet_subquery(within: &mut InSubquery, schema: &DFSchema) -> Result<bool> {
    let given = within.subquery.subquery.schema();
    let Some((relation, field)) = given.iter().next() else {
        return Ok(false);
    };
    let ours = within.expr.get_type(schema)?;
    if ours.is_decimal() && field.data_type().is_floating() {
        to_float(within.expr.as_mut(), &DataType::Float64);
        return Ok(true);
    }
    if !(ours.is_floating() && field.data_type().is_decimal()) {
        return Ok(false);
    }
    let column = Expr::from((relation, field));
    let double = Expr::Cast(Cast::new(Box::new(column), DataType::Float64));
    let double = double.alias_qualified(relation.cloned(), field.name());
    let plan = LogicalPlanBuilder::from(Arc::clone(&within.subquery.subquery));
    within.subquery.subquery = Arc::new(plan.project([double])?.build()?);
    Ok(true)
}

fn meet<'a>(operands: impl Iterator<Item = &'a mut Expr>, schema: &DFSchema) -> Result<bool> {
    let mut decimals = Vec::new();
    let mut float: Option<DataType> = None;
    for operand in operands {
        match operand.get_type(schema)? {
            DataType::Float64 => float = Some(DataType::Float64),
            DataType::Float32 | DataType::Float16 => {
                float.get_or_insert(DataType::Float32);
            }
            data_type if data_type.is_decimal() => decimals.push(operand),
            _ => {}
        }
    }
    let Some(float) = float.filter(|_| !decimals.is_empty()) else {
        return Ok(false);
    };
    for decimal in decimals {
        to_float(decimal, &float);
    }
    Ok(true)
}

/// A literal becomes the nearest number of the type, so that `real_column = 0.1` finds 0.1; of
/// other expressions a REAL would lose digits.
fn to_float(decimal: &mut Expr, float: &DataType) {
    if let Some(exact) = literal_as(decimal, float) {
        *decimal = exact;
        return;
    }
    let inner = std::mem::replace(decimal, Expr::Literal(ScalarValue::Null, None));
    *decimal = Expr::Cast(Cast::new(Box::new(inner), DataType::Float64));
}

/// A DECIMAL literal as the number of a DOUBLE or REAL that is nearest to what was written. Arrow
/// divides by a power of ten, and so rounds twice.
fn literal_as(expr: &Expr, to: &DataType) -> Option<Expr> {
    let (negative, literal) = match expr {
        Expr::Negative(inner) => (true, inner.as_ref()),
        other => (false, other),
    };
    let Expr::Literal(literal, metadata) = literal else {
        return None;
    };
    let text = match literal {
        ScalarValue::Decimal32(Some(value), _, scale) => format!("{value}e{}", -i32::from(*scale)),
        ScalarValue::Decimal64(Some(value), _, scale) => format!("{value}e{}", -i32::from(*scale)),
        ScalarValue::Decimal128(Some(value), _, scale) => {
            format!("{value}e{}", -i32::from(*scale))
        }
        ScalarValue::Decimal256(Some(value), _, scale) => {
            format!("{value}e{}", -i32::from(*scale))
        }
        _ => return None,
    };
    let value = match to {
        DataType::Float64 => {
            let value: f64 = text.parse().ok()?;
            ScalarValue::Float64(Some(if negative { -value } else { value }))
        }
        DataType::Float32 => {
            let value: f32 = text.parse().ok()?;
            ScalarValue::Float32(Some(if negative { -value } else { value }))
        }
        _ => return None,
    };
    Some(Expr::Literal(value, metadata.clone()))
}

/// A UNION of which a column is DOUBLE in one branch and DECIMAL in another: DOUBLE in all.
fn union_of_doubles(union: Union) -> Result<Transformed<LogicalPlan>> {
    let columns = union
        .inputs
        .first()
        .map_or(0, |input| input.schema().fields().len());
    let type_at = |input: &Arc<LogicalPlan>, at: usize| {
        let field = input.schema().fields().get(at);
        field.map(|field| field.data_type().clone())
    };
    let doubles: Vec<usize> = (0..columns)
        .filter(|&at| {
            let types: Vec<_> = union.inputs.iter().filter_map(|i| type_at(i, at)).collect();
            types.iter().any(DataType::is_floating) && types.iter().any(DataType::is_decimal)
        })
        .collect();
    if doubles.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let inputs = union.inputs.into_iter().map(|input| {
        let columns: Vec<Expr> = input
            .schema()
            .iter()
            .enumerate()
            .map(|(at, (relation, field))| {
                let column = Expr::from((relation, field));
                match doubles.contains(&at) && field.data_type().is_decimal() {
                    true => Expr::Cast(Cast::new(Box::new(column), DataType::Float64))
                        .alias_qualified(relation.cloned(), field.name()),
                    false => column,
                }
            })
            .collect();
        let input = LogicalPlanBuilder::from(input).project(columns)?.build()?;
        Ok(Arc::new(input))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    Ok(Transformed::yes(LogicalPlan::Union(
        Union::try_new_with_loose_types(inputs)?,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_their_writing_says() {
        let plain = |text: &str| Kind::Expanded(text.to_owned());
        for (text, expected) in [
            ("1", Kind::Exact),
            ("0.5", Kind::Exact),
            ("12345678901234567890.0123456789", Kind::Exact),
            ("123456789012345678901234567890", Kind::Exact),
            ("1e100", Kind::Double),
            ("1_0E-2_0", Kind::Double),
            ("1.234567890123456789e3", plain("01234.567890123456789")),
            ("1234567890123456789e3", plain("1234567890123456789000.0")),
            ("1.234567890123456789e-2", plain("0.01234567890123456789")),
            ("1.234567890123456789e300", Kind::Double),
            ("1.234567890123456789e-300", Kind::Double),
        ] {
            assert_eq!(written(text), expected, "{text}");
        }
        assert_eq!(written(&"9".repeat(77)), Kind::Double);
        assert_eq!(written(&format!("0.{}1", "0".repeat(80))), Kind::Double);
    }
}
