//! `json_text`: one value out of a JSON text, such as the parameters of a job.
//!
//! Pure and total: what is no JSON, or has no such value, gives NULL, for a selection over a
//! million jobs must not fail on one of them.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, DocSection, Documentation, Expr, ExprSchemable, Like,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::functions::constant::{answer, constant};
use crate::functions::dates::is_text;
use crate::json::{Value, parse};

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    let section = DocSection {
        include: true,
        label: "JSON Functions",
        description: Some("Read values of JSON texts."),
    };
    Documentation::builder(
        section,
        "The value at a path of a JSON text: texts without their quotes, everything else as JSON. \
         NULL where there is no such value, where it is null, or where the text is no JSON.",
        "json_text(json, path)",
    )
    .with_argument(
        "json",
        "TEXT that is JSON, such as the column params of table jobs.",
    )
    .with_argument(
        "path",
        "TEXT: names of members and places in arrays, from 0, with dots between them.",
    )
    .with_sql_example("SELECT json_text('{\"suite\": {\"version\": \"2.0.0\"}}', 'suite.version')")
    .build()
});

/// The function.
pub(super) fn function() -> ScalarUDF {
    ScalarUDF::from(JsonText {
        signature: Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonText {
    signature: Signature,
}

impl ScalarUDFImpl for JsonText {
    fn name(&self) -> &str {
        "json_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        texts(&args, text_at)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// A text per row of two columns of texts.
fn texts(
    args: &ScalarFunctionArgs,
    of: impl Fn(&str, &str) -> Option<String>,
) -> DataFusionResult<ColumnarValue> {
    let arrays = ColumnarValue::values_to_arrays(&args.args)?;
    let column = |at: usize| {
        arrays
            .get(at)
            .and_then(|array| array.as_string_opt::<i32>())
    };
    let mut texts = StringBuilder::new();
    if let (Some(jsons), Some(paths)) = (column(0), column(1)) {
        for (json, path) in jsons.iter().zip(paths) {
            texts.append_option(json.zip(path).and_then(|(json, path)| of(json, path)));
        }
    }
    let texts: ArrayRef = Arc::new(texts.finish());
    answer(constant(&args.args) && texts.len() == 1, texts)
}

/// `json -> name` and `json ->> name`: a member, or an element by its place from 0, as JSON or as
/// text. Texts are JSON here, so the operators work on them.
#[derive(Debug)]
pub(super) struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> DataFusionResult<PlannerResult<RawBinaryExpr>> {
        let given = match expr.op {
            BinaryOperator::Arrow => Given::Json,
            BinaryOperator::LongArrow => Given::Text,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        if !is_text(&expr.left.get_type(schema)?) {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { op, left, right } = expr;
        let planned = applied(&left, right.clone(), given, schema)?;
        Ok(match planned {
            Some(planned) => PlannerResult::Planned(planned),
            None => PlannerResult::Original(RawBinaryExpr { op, left, right }),
        })
    }
}

/// The member of a JSON text. The parser binds comparisons tighter than these operators, so that
/// `json ->> 'a' = 'x'` comes with `'a' = 'x'` on the right: it is the key that they compare with.
fn applied(
    json: &Expr,
    right: Expr,
    given: Given,
    schema: &DFSchema,
) -> DataFusionResult<Option<Expr>> {
    let mut right = right;
    let key = match &mut right {
        Expr::BinaryExpr(BinaryExpr { left, .. }) => left.as_mut(),
        Expr::Like(Like { expr, .. })
        | Expr::InList(InList { expr, .. })
        | Expr::Between(Between { expr, .. })
        | Expr::IsNull(expr)
        | Expr::IsNotNull(expr) => expr.as_mut(),
        key => {
            let data_type = key.get_type(schema)?;
            if !(is_text(&data_type) || data_type.is_integer()) {
                return Ok(None);
            }
            let json = json.clone().cast_to(&DataType::Utf8, schema)?;
            let key = key.clone().cast_to(&DataType::Utf8, schema)?;
            return Ok(Some(member(given).call(vec![json, key])));
        }
    };
    match applied(json, key.clone(), given, schema)? {
        Some(member) => *key = member,
        None => return Ok(None),
    }
    Ok(Some(right))
}

/// What an operator gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Given {
    Json,
    Text,
}

fn member(given: Given) -> ScalarUDF {
    ScalarUDF::from(Member {
        given,
        signature: Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Member {
    given: Given,
    signature: Signature,
}

impl ScalarUDFImpl for Member {
    fn name(&self) -> &str {
        match self.given {
            Given::Json => "json_member",
            Given::Text => "json_member_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let given = self.given;
        texts(&args, |json, key| member_of(json, key, given))
    }
}

fn member_of(json: &str, key: &str, given: Given) -> Option<String> {
    let value = match parse(json).ok()? {
        Value::Object(mut members) => members.remove(key)?,
        Value::Array(values) => values.into_iter().nth(key.parse::<usize>().ok()?)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => return None,
    };
    match (value, given) {
        (Value::Null, Given::Text) => None,
        (Value::Text(text), Given::Text) => Some(text),
        (value, Given::Json | Given::Text) => Some(value.to_string()),
    }
}

fn text_at(json: &str, path: &str) -> Option<String> {
    let whole = parse(json).ok()?;
    let mut value = &whole;
    for step in path.split('.') {
        value = match value {
            Value::Object(members) => members.get(step)?,
            Value::Array(values) => values.get(step.parse::<usize>().ok()?)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => return None,
        };
    }
    match value {
        Value::Null => None,
        Value::Text(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, path: &str, expected: Option<&str>) {
        assert_eq!(text_at(json, path).as_deref(), expected, "{path} of {json}");
    }

    #[test]
    fn paths_go_through_objects_and_arrays() {
        check(r#"{"a": {"b": [10, "x"]}}"#, "a.b.1", Some("x"));
        check(r#"{"a": {"b": [10, "x"]}}"#, "a.b.0", Some("10"));
        check(r#"{"a": {"b": [10, "x"]}}"#, "a.b", Some(r#"[10,"x"]"#));
    }

    #[test]
    fn numbers_keep_their_digits() {
        let json = r#"{"p":1.10,"n":123456789012345678901234567890,"l":[1.0,2e400]}"#;
        check(json, "p", Some("1.10"));
        check(json, "n", Some("123456789012345678901234567890"));
        check(json, "l", Some("[1.0,2e400]"));
    }

    #[test]
    fn what_is_not_there_is_null() {
        check(r#"{"a": null}"#, "a", None);
        check(r#"{"a": 1}"#, "b", None);
        check(r#"{"a": 1}"#, "a.b", None);
        check("[1]", "x", None);
        check("no json", "a", None);
    }
}
