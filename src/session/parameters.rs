//! Values for the placeholders `$1`, `$name` and `?` of a statement.
//!
//! A value is bound as a literal in the syntax tree, after the text was parsed: it can never
//! become syntax, and every kind of statement sees it the same way, also those that DataFusion
//! does not plan, such as an effect with constant arguments.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    Array, Expr, GroupByExpr, OrderByKind, Query, Select, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::error::{Code, Error, Result};
use crate::json;
use crate::session::statement::Statement;

mod typed;

/// The values of one statement.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Parameters {
    /// None were given.
    #[default]
    None,
    /// `$1` is the first.
    Positional(Vec<json::Value>),
    /// `$name` is the value of `name`.
    Named(json::Object),
    /// The first row of a batch, which keeps its types; `$1` is the first column.
    Row(RecordBatch),
}

impl Parameters {
    /// The values of a JSON array or object; NULL stands for none.
    ///
    /// # Errors
    /// `SG4003 bad-request` for any other JSON.
    pub fn from_json(value: json::Value) -> Result<Self> {
        match value {
            json::Value::Null => Ok(Self::None),
            json::Value::Array(values) => Ok(Self::Positional(values)),
            json::Value::Object(values) => Ok(Self::Named(values)),
            json::Value::Bool(_) | json::Value::Number(_) | json::Value::Text(_) => {
                Err(Error::new(
                    Code::BadRequest,
                    "the parameters are neither a list nor an object",
                )
                .with_hint("Write [\"a\", 1] for $1, $2, or {\"name\": \"a\"} for $name."))
            }
        }
    }

    /// The JSON of [`Parameters::from_json`]; NULL for a row of Arrow.
    pub fn to_json(&self) -> json::Value {
        match self {
            Self::None | Self::Row(_) => json::Value::Null,
            Self::Positional(values) => json::Value::Array(values.clone()),
            Self::Named(values) => json::Value::Object(values.clone()),
        }
    }

    /// The literal of a placeholder such as `$1` or `$name`, without its sign; none without a
    /// value.
    fn literal(&self, name: &str) -> Option<Literal> {
        let place = || name.parse::<usize>().ok()?.checked_sub(1);
        let literal = match self {
            Self::None => return None,
            Self::Positional(values) => literal(values.get(place()?)?),
            Self::Named(values) => literal(values.get(name)?),
            Self::Row(batch) => {
                let column = batch.columns().get(place()?)?;
                typed::literal(column, 0)
            }
        };
        Some(literal.map_or(Literal::Missing, |literal| Literal::Is(Box::new(literal))))
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Positional(values) => (1..=values.len()).map(|at| at.to_string()).collect(),
            Self::Named(values) => values.keys().cloned().collect(),
            Self::Row(batch) => (1..=batch.num_columns()).map(|at| at.to_string()).collect(),
        }
    }

    fn as_text(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Positional(_) | Self::Named(_) => Some(self.to_json().to_string()),
            Self::Row(batch) => {
                let columns = batch.columns().iter();
                let texts = columns.map(|column| Some(typed::literal(column, 0)?.to_string()));
                Some(format!(
                    "[{}]",
                    texts.collect::<Option<Vec<_>>>()?.join(", ")
                ))
            }
        }
    }
}

/// What SQL has for a value.
enum Literal {
    Is(Box<Expr>),
    /// Nothing: an object or a struct.
    Missing,
}

/// Puts the values where their placeholders stand.
///
/// # Returns
/// The text of the statement as the ledger keeps it: with the values in a comment behind it, so
/// that `statements` shows what was run, and two requests can be compared by their text.
///
/// # Errors
/// `SG1002 plan-error`: a placeholder without a value, a value without a placeholder, a value
/// that SQL has no literal for; `SG1005 unsupported-statement` for statements whose text is kept
/// to be run later.
pub fn bind(text: String, statement: &mut Statement, values: &Parameters) -> Result<String> {
    let mut marks = Marks::default();
    // It never breaks.
    let _: ControlFlow<Error> = bind_statement(statement, values, &mut marks);
    let mut binder = Binder {
        values,
        marks: marks.0,
        used: BTreeSet::new(),
    };
    if let ControlFlow::Break(error) = bind_statement(statement, values, &mut binder) {
        return Err(error);
    }
    let unused = |name: &String| !binder.used.contains(name);
    if let Some(name) = values.names().into_iter().find(unused) {
        return Err(Error::new(
            Code::PlanError,
            format!("parameter \"${name}\" does not stand in the statement"),
        )
        .with_hint("Leave it out, or write it where its value belongs."));
    }
    Ok(match values.as_text().filter(|_| !binder.used.is_empty()) {
        Some(json) => format!("{text}\n-- parameters: {json}"),
        None => text,
    })
}

/// The placeholders of a statement, by their names without the sign, in their order. Those that
/// were `?` are `$1`, `$2` and so on in the statement then.
///
/// # Errors
/// Those of [`bind`] for statements that take none.
pub fn placeholders(statement: &mut Statement) -> Result<Vec<String>> {
    let mut marks = Marks::default();
    if let ControlFlow::Break(error) = bind_statement(statement, &Parameters::None, &mut marks) {
        return Err(error);
    }
    let mut names = Names {
        marks: marks.0,
        names: BTreeSet::new(),
    };
    if let ControlFlow::Break(error) = bind_statement(statement, &Parameters::None, &mut names) {
        return Err(error);
    }
    let number = |name: &String| name.parse::<usize>().unwrap_or(usize::MAX);
    let mut names: Vec<String> = names.names.into_iter().collect();
    names.sort_by_key(number);
    Ok(names)
}

fn bind_statement(
    statement: &mut Statement,
    values: &Parameters,
    binder: &mut impl VisitorMut<Break = Error>,
) -> ControlFlow<Error> {
    match statement {
        Statement::Query(query) | Statement::Effect(query) => query.visit(binder),
        Statement::Preview(inner) => bind_statement(inner, values, binder),
        Statement::Call(function) => function.visit(binder),
        Statement::Explain {
            statement, tree, ..
        } => {
            bind_statement(statement, values, binder)?;
            bind_tree(tree, binder)
        }
        Statement::Insert { tree, .. }
        | Statement::Update { tree, .. }
        | Statement::Delete { tree, .. }
        | Statement::Truncate { tree, .. } => bind_tree(tree, binder),
        Statement::CreateTable { .. }
        | Statement::CreateView { .. }
        | Statement::CreateExternalTable { .. }
        | Statement::CreateTransform(_)
        | Statement::Drop { .. }
        | Statement::Set(_)
        | Statement::Show(_)
        | Statement::ShowCreate(_)
        | Statement::Describe(_)
        | Statement::Copy(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Checkpoint
        | Statement::Other(_) => match values {
            Parameters::None => ControlFlow::Continue(()),
            Parameters::Positional(values) if values.is_empty() => ControlFlow::Continue(()),
            Parameters::Row(batch) if batch.num_columns() == 0 => ControlFlow::Continue(()),
            Parameters::Positional(_) | Parameters::Named(_) | Parameters::Row(_) => {
                ControlFlow::Break(
                    Error::new(
                        Code::Unsupported,
                        "parameters are not supported in this statement",
                    )
                    .with_hint("They work in queries, effects, CALL, INSERT, UPDATE and DELETE."),
                )
            }
        },
    }
}

fn bind_tree(
    tree: &mut SyntaxTree,
    binder: &mut impl VisitorMut<Break = Error>,
) -> ControlFlow<Error> {
    match tree {
        SyntaxTree::Statement(statement) => statement.visit(binder),
        SyntaxTree::Explain(explain) => bind_tree(&mut explain.statement, binder),
        _ => ControlFlow::Continue(()),
    }
}

/// Where each `?` stands in the text, whose order is theirs.
#[derive(Default)]
struct Marks(BTreeSet<Location>);

impl VisitorMut for Marks {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Some((QUESTION, at)) = placeholder(expr) {
            self.0.insert(at);
        }
        ControlFlow::Continue(())
    }
}

/// The names of placeholders, which those without one get here.
struct Names {
    marks: BTreeSet<Location>,
    names: BTreeSet<String>,
}

impl VisitorMut for Names {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Some((written, at)) = placeholder(expr) {
            let name = name_of(written, at, &self.marks);
            *expr = Expr::value(Value::Placeholder(format!("${name}")));
            self.names.insert(name);
        }
        ControlFlow::Continue(())
    }
}

/// The name of a placeholder without its sign: of a `?`, its place among them.
fn name_of(written: &str, at: Location, marks: &BTreeSet<Location>) -> String {
    match written.strip_prefix('$') {
        Some(name) => name.to_owned(),
        None => marks.range(..=at).count().to_string(),
    }
}

struct Binder<'v> {
    values: &'v Parameters,
    marks: BTreeSet<Location>,
    used: BTreeSet<String>,
}

const QUESTION: &str = "?";

fn placeholder(expr: &Expr) -> Option<(&str, Location)> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => Some((name, value.span.start)),
            _ => None,
        },
        _ => None,
    }
}

/// As a literal a number there would name a column.
fn ordinal(clause: &str) -> ControlFlow<Error> {
    ControlFlow::Break(
        Error::new(
            Code::PlanError,
            format!("a parameter cannot stand alone in {clause}"),
        )
        .with_hint("Write the name of a column; a value orders and groups nothing."),
    )
}

impl VisitorMut for Binder<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let Some(order_by) = &query.order_by
            && let OrderByKind::Expressions(exprs) = &order_by.kind
            && exprs.iter().any(|one| placeholder(&one.expr).is_some())
        {
            return ordinal("ORDER BY");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let GroupByExpr::Expressions(exprs, _) = &select.group_by
            && exprs.iter().any(|one| placeholder(one).is_some())
        {
            return ordinal("GROUP BY");
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let Some((written, at)) = placeholder(expr) else {
            return ControlFlow::Continue(());
        };
        let name = name_of(written, at, &self.marks);
        match self.values.literal(&name) {
            None => ControlFlow::Break(
                Error::new(
                    Code::PlanError,
                    format!("parameter \"${name}\" has no value"),
                )
                .with_hint("Give the values of $1, $2, ... as a list, those of $name by name."),
            ),
            Some(Literal::Is(literal)) => {
                self.used.insert(name);
                *expr = *literal;
                ControlFlow::Continue(())
            }
            Some(Literal::Missing) => ControlFlow::Break(
                Error::new(
                    Code::PlanError,
                    format!("parameter \"${name}\" is an object"),
                )
                .with_hint("Send it as text; use the JSON functions to read it."),
            ),
        }
    }
}

/// The literal of a value; none for an object.
fn literal(value: &json::Value) -> Option<Expr> {
    Some(match value {
        json::Value::Null => Expr::value(Value::Null),
        json::Value::Bool(flag) => Expr::value(Value::Boolean(*flag)),
        json::Value::Number(number) => typed::number(number.clone()),
        json::Value::Text(text) => Expr::value(Value::SingleQuotedString(text.clone())),
        json::Value::Array(items) => Expr::Array(Array {
            elem: items.iter().map(literal).collect::<Option<_>>()?,
            named: true,
        }),
        json::Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use serde_json::json;

    use crate::session::parser::parse;

    use super::*;

    fn bound(sql: &str, values: serde_json::Value) -> Result<(String, String)> {
        let values = json::parse(&values.to_string()).unwrap();
        let parsed = parse(sql)?;
        let mut statement = parsed.statement;
        let text = bind(parsed.text, &mut statement, &Parameters::from_json(values)?)?;
        let tree = match statement {
            Statement::Query(query) | Statement::Effect(query) => query.to_string(),
            Statement::Call(function) => function.to_string(),
            Statement::Insert { tree, .. } | Statement::Delete { tree, .. } => tree.to_string(),
            other => format!("{other:?}"),
        };
        Ok((tree, text))
    }

    #[test]
    fn values_become_literals_wherever_they_stand() {
        for (sql, values, expected) in [
            ("SELECT $1", json!(["o'brien"]), "SELECT 'o''brien'"),
            (
                "SELECT $1",
                json!(["'); DROP TABLE t; --"]),
                "SELECT '''); DROP TABLE t; --'",
            ),
            (
                "SELECT * FROM t WHERE a = $a AND b IN ($b, $a) LIMIT $n",
                json!({"a": null, "b": true, "n": 5}),
                "SELECT * FROM t WHERE a = NULL AND b IN (true, NULL) LIMIT 5",
            ),
            (
                "SELECT ?, a FROM t WHERE b = ? LIMIT ?",
                json!(["x", 2, 3]),
                "SELECT 'x', a FROM t WHERE b = 2 LIMIT 3",
            ),
            ("SELECT -$1", json!([-7]), "SELECT --7"),
            (
                "SELECT $2, $1",
                json!([1.5, [1, "a"]]),
                "SELECT ARRAY[1, 'a'], 1.5",
            ),
            ("CALL f($1, x => $2)", json!(["a", 2]), "f('a', x => 2)"),
            (
                "INSERT INTO t VALUES ($1, $2)",
                json!(["$2", "x"]),
                "INSERT INTO t VALUES ('$2', 'x')",
            ),
            (
                "SELECT acquire_lock($1)",
                json!(["a"]),
                "SELECT acquire_lock('a')",
            ),
        ] {
            let (tree, text) =
                bound(sql, values.clone()).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            assert_eq!(tree, expected, "{sql}");
            assert!(
                text.starts_with(&format!("{sql}\n-- parameters: ")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (sql, values, code) in [
            ("SELECT $1", json!([]), Code::PlanError),
            ("SELECT $1", json!(null), Code::PlanError),
            ("SELECT ?, ?", json!([1]), Code::PlanError),
            ("SELECT $0", json!([1]), Code::PlanError),
            ("SELECT $1", json!([1, 2]), Code::PlanError),
            ("SELECT $a", json!({"b": 1}), Code::PlanError),
            ("SELECT $1", json!([{"a": 1}]), Code::PlanError),
            ("SELECT a FROM t ORDER BY $1", json!([1]), Code::PlanError),
            ("SELECT 1 FROM t GROUP BY $1", json!([1]), Code::PlanError),
            ("SELECT 1", json!("text"), Code::BadRequest),
            ("CREATE VIEW v AS SELECT $1", json!([1]), Code::Unsupported),
        ] {
            let error = bound(sql, values.clone()).unwrap_err();
            assert_eq!(error.code(), code, "{sql} {values}");
        }
    }

    #[test]
    fn placeholders_have_an_order() {
        for (sql, expected) in [
            ("SELECT 1", vec![]),
            ("SELECT $2, $1, $10, $2", vec!["1", "2", "10"]),
            ("SELECT ? WHERE ? = ?", vec!["1", "2", "3"]),
            ("UPDATE t SET a = $a WHERE b = $b", vec!["a", "b"]),
            ("CALL claim_jobs($1)", vec!["1"]),
        ] {
            let mut statement = parse(sql).unwrap().statement;
            assert_eq!(placeholders(&mut statement).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn rows_of_arrow_keep_their_types() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["o'brien"])),
            Arc::new(Int64Array::from(vec![i64::MIN])),
            Arc::new(Float64Array::from(vec![0.1])),
            Arc::new(TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC")),
            Arc::new(BinaryArray::from(vec![&b"\x00'"[..]])),
            Arc::new(Int64Array::from(vec![None])),
        ];
        let names = ["a", "b", "c", "d", "e", "f"];
        let batch = RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap();
        let parsed = parse("SELECT $1, $2, $3, $4, $5, $6").unwrap();
        let mut statement = parsed.statement;
        let text = bind(parsed.text, &mut statement, &Parameters::Row(batch)).unwrap();
        let Statement::Query(query) = statement else {
            panic!("it is a query");
        };
        let query = query.to_string();
        assert!(query.starts_with("SELECT 'o''brien', -9223372036854775808, arrow_cast('0.1', "));
        assert!(query.ends_with(", X'0027', NULL"), "{query}");
        assert!(
            text.contains("\n-- parameters: ['o''brien', -9223372036854775808, "),
            "{text}"
        );
    }
}
