//! Arrow values as literals: what has no literal of its own becomes a cast of its text, so that it
//! keeps its type.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::{
    Array as ArrayLiteral, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, UnaryOperator, Value,
};

/// The literal of one value; none where its type has no text that SQL reads.
pub(super) fn literal(column: &ArrayRef, row: usize) -> Option<Expr> {
    if column.is_null(row) {
        return Some(Expr::value(Value::Null));
    }
    Some(match column.data_type() {
        DataType::Null => Expr::value(Value::Null),
        DataType::Boolean => Expr::value(Value::Boolean(column.as_boolean().value(row))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Expr::value(Value::SingleQuotedString(text(column, row)?))
        }
        DataType::UInt64 => number(column.as_primitive::<UInt64Type>().value(row).to_string()),
        data_type if data_type.is_integer() => {
            let wide = cast(&column.slice(row, 1), &DataType::Int64).ok()?;
            number(wide.as_primitive::<Int64Type>().value(0).to_string())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = cast(&column.slice(row, 1), &DataType::Binary).ok()?;
            let bytes = bytes.as_binary::<i32>().value(0);
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Expr::value(Value::HexStringLiteral(hex.concat()))
        }
        DataType::Dictionary(_, value) => {
            let plain = cast(&column.slice(row, 1), value).ok()?;
            return literal(&plain, 0);
        }
        DataType::List(_) => items(&column.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => items(&column.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => items(&column.as_fixed_size_list().value(row))?,
        DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Timestamp(..)
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Interval(_)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => typed(text(column, row)?, column.data_type().to_string()),
        // The enum is open; durations, structs, maps and unions have no text that is read back.
        _ => return None,
    })
}

fn text(column: &ArrayRef, row: usize) -> Option<String> {
    let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::new()).ok()?;
    formatter.value(row).try_to_string().ok()
}

/// A number as SQL writes it.
pub(super) fn number(text: String) -> Expr {
    match text.strip_prefix('-') {
        Some(digits) => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(Expr::value(Value::Number(digits.to_owned(), false))),
        },
        None => Expr::value(Value::Number(text, false)),
    }
}

fn items(values: &ArrayRef) -> Option<Expr> {
    let elem = (0..values.len()).map(|at| literal(values, at));
    Some(Expr::Array(ArrayLiteral {
        elem: elem.collect::<Option<_>>()?,
        named: true,
    }))
}

/// `arrow_cast('text', 'type')`
fn typed(text: String, data_type: String) -> Expr {
    let argument = |text| {
        let text = Expr::value(Value::SingleQuotedString(text));
        FunctionArg::Unnamed(FunctionArgExpr::Expr(text))
    };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("arrow_cast")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument(text), argument(data_type)],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
