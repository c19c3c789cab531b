//! The short path: calls whose arguments are constants run without planning a query.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int64Array, ListArray, NullArray, StringArray, StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, Expr, GroupByExpr, Query, SetExpr, UnaryOperator, Value,
};

use crate::error::{Position, Result};
use crate::functions::carrier::convert;
use crate::functions::effect::Signature;
use crate::session::effect_node::action::BoundCall;
use crate::session::gate::EffectItem;

/// The calls with their arguments, one row, where the query is nothing but effect calls with
/// constant arguments. `None` where it has to be planned.
///
/// # Arguments
/// `query` and `items` as [`Gate::rewrite_effects`](crate::session::gate::Gate::rewrite_effects)
/// returns them.
///
/// # Errors
/// `SG1004 effect-argument`.
pub fn constant_calls(query: &Query, items: &[EffectItem]) -> Result<Option<Vec<BoundCall>>> {
    if items.is_empty() || !is_bare(query, items.len()) {
        return Ok(None);
    }
    let mut calls = Vec::with_capacity(items.len());
    for item in items {
        match constant_arguments(item.function.signature(), &item.args, item.position)? {
            Some(args) => calls.push(BoundCall {
                function: item.function,
                args,
            }),
            None => return Ok(None),
        }
    }
    Ok(Some(calls))
}

/// One row of converted arguments, where all are constants.
///
/// # Errors
/// `SG1004 effect-argument` with the position of the call.
pub fn constant_arguments(
    signature: &Signature,
    args: &[Option<Expr>],
    position: Option<Position>,
) -> Result<Option<StructArray>> {
    let mut columns = Vec::with_capacity(args.len());
    for (parameter, arg) in signature.parameters.iter().zip(args) {
        let value = match arg {
            Some(expr) => match constant(expr) {
                Some(value) => value,
                None => return Ok(None),
            },
            None => Arc::new(NullArray::new(1)),
        };
        let column = convert(signature, parameter, &value).map_err(|error| match position {
            Some(position) => error.with_position(position),
            None => error,
        })?;
        columns.push(column);
    }
    Ok(Some(StructArray::try_new(
        signature.fields(),
        columns,
        None,
    )?))
}

/// Whether the query is `SELECT` of `items` things and has no clause at all.
fn is_bare(query: &Query, items: usize) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    let no_groups = match &select.group_by {
        GroupByExpr::All(_) => false,
        GroupByExpr::Expressions(exprs, modifiers) => exprs.is_empty() && modifiers.is_empty(),
    };
    query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty()
        && no_groups
        && select.projection.len() == items
        && select.from.is_empty()
        && select.distinct.is_none()
        && select.top.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.selection.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
}

/// A literal, as DataFusion would type it. Casts to text and whole numbers are the parameters'
/// conversions again, so those of texts are taken; everything else is planned.
fn constant(expr: &Expr) -> Option<ArrayRef> {
    match expr {
        Expr::Nested(inner) => constant(inner),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
                Some(Arc::new(StringArray::from(vec![text.as_str()])))
            }
            Value::Number(number, _) => Some(Arc::new(Int64Array::from(vec![
                number.parse::<i64>().ok()?,
            ]))),
            Value::Boolean(value) => Some(Arc::new(BooleanArray::from(vec![*value]))),
            Value::Null => Some(Arc::new(NullArray::new(1))),
            _ => None,
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(number, _) => {
                    let number = format!("-{number}").parse::<i64>().ok()?;
                    Some(Arc::new(Int64Array::from(vec![number])))
                }
                _ => None,
            },
            _ => None,
        },
        Expr::Interval(interval)
            if interval.leading_field.is_none() && interval.last_field.is_none() =>
        {
            text(&interval.value)
        }
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type: SqlType::Text | SqlType::Varchar(None),
            array: false,
            format: None,
        } => text(expr),
        Expr::Array(array) => {
            let texts: Option<Vec<ArrayRef>> = array.elem.iter().map(text).collect();
            let texts: Vec<String> = texts?
                .iter()
                .filter_map(|one| one.as_any().downcast_ref::<StringArray>())
                .map(|one| one.value(0).to_owned())
                .collect();
            let values = StringArray::from(texts);
            let offsets = OffsetBuffer::from_lengths([array.elem.len()]);
            let field = Arc::new(Field::new("item", DataType::Utf8, true));
            Some(Arc::new(
                ListArray::try_new(field, offsets, Arc::new(values), None).ok()?,
            ))
        }
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<ArrayRef> {
    constant(expr).filter(|value| value.data_type() == &DataType::Utf8)
}
