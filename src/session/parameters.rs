//! Values for the placeholders `$1` and `$name` of a statement.
//!
//! A value is bound as a literal in the syntax tree, after the text was parsed: it can never
//! become syntax, and every kind of statement sees it the same way, also those that DataFusion
//! does not plan, such as an effect with constant arguments.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    Array, Expr, GroupByExpr, OrderByKind, Query, Select, UnaryOperator, Value, VisitMut,
    VisitorMut,
};

use crate::error::{Code, Error, Result};
use crate::session::statement::Statement;

/// The values of one statement.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Parameters {
    /// None were given.
    #[default]
    None,
    /// `$1` is the first.
    Positional(Vec<serde_json::Value>),
    /// `$name` is the value of `name`.
    Named(serde_json::Map<String, serde_json::Value>),
}

impl Parameters {
    /// The values of a JSON array or object; NULL stands for none.
    ///
    /// # Errors
    /// `SG4003 bad-request` for any other JSON.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        match json {
            serde_json::Value::Null => Ok(Self::None),
            serde_json::Value::Array(values) => Ok(Self::Positional(values)),
            serde_json::Value::Object(values) => Ok(Self::Named(values)),
            serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => Err(Error::new(
                Code::BadRequest,
                "the parameters are neither a list nor an object",
            )
            .with_hint("Write [\"a\", 1] for $1, $2, or {\"name\": \"a\"} for $name.")),
        }
    }

    /// The JSON of [`Parameters::from_json`].
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::None => serde_json::Value::Null,
            Self::Positional(values) => serde_json::Value::Array(values.clone()),
            Self::Named(values) => serde_json::Value::Object(values.clone()),
        }
    }

    /// The name and value of a placeholder such as `$1` or `$name`.
    fn named(&self, placeholder: &str) -> Option<(String, &serde_json::Value)> {
        let name = placeholder.strip_prefix('$')?;
        let value = match self {
            Self::None => None,
            Self::Positional(values) => {
                let place = name.parse::<usize>().ok()?.checked_sub(1)?;
                values.get(place)
            }
            Self::Named(values) => values.get(name),
        };
        value.map(|value| (name.to_owned(), value))
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Positional(values) => (1..=values.len()).map(|at| at.to_string()).collect(),
            Self::Named(values) => values.keys().cloned().collect(),
        }
    }

    fn as_json(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Positional(values) => serde_json::to_string(values).ok(),
            Self::Named(values) => serde_json::to_string(values).ok(),
        }
    }
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
    let mut binder = Binder {
        values,
        used: BTreeSet::new(),
    };
    if let ControlFlow::Break(error) = bind_statement(statement, &mut binder) {
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
    Ok(match values.as_json().filter(|_| !binder.used.is_empty()) {
        Some(json) => format!("{text}\n-- parameters: {json}"),
        None => text,
    })
}

fn bind_statement(statement: &mut Statement, binder: &mut Binder<'_>) -> ControlFlow<Error> {
    match statement {
        Statement::Query(query) | Statement::Effect(query) => query.visit(binder),
        Statement::Preview(inner) => bind_statement(inner, binder),
        Statement::Call(function) => function.visit(binder),
        Statement::Explain {
            statement, tree, ..
        } => {
            bind_statement(statement, binder)?;
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
        | Statement::Describe(_)
        | Statement::Copy(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Checkpoint
        | Statement::Other(_) => match binder.values {
            Parameters::None => ControlFlow::Continue(()),
            Parameters::Positional(values) if values.is_empty() => ControlFlow::Continue(()),
            Parameters::Positional(_) | Parameters::Named(_) => ControlFlow::Break(
                Error::new(
                    Code::Unsupported,
                    "parameters are not supported in this statement",
                )
                .with_hint("They work in queries, effects, CALL, INSERT, UPDATE and DELETE."),
            ),
        },
    }
}

fn bind_tree(tree: &mut SyntaxTree, binder: &mut Binder<'_>) -> ControlFlow<Error> {
    match tree {
        SyntaxTree::Statement(statement) => statement.visit(binder),
        SyntaxTree::Explain(explain) => bind_tree(&mut explain.statement, binder),
        _ => ControlFlow::Continue(()),
    }
}

struct Binder<'v> {
    values: &'v Parameters,
    used: BTreeSet<String>,
}

fn placeholder(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => Some(name),
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
        let Some(name) = placeholder(expr) else {
            return ControlFlow::Continue(());
        };
        let Some((used, value)) = self.values.named(name) else {
            return ControlFlow::Break(
                Error::new(
                    Code::PlanError,
                    format!("parameter \"{name}\" has no value"),
                )
                .with_hint("Give the values of $1, $2, ... as a list, those of $name by name."),
            );
        };
        match literal(value) {
            Some(literal) => {
                self.used.insert(used);
                *expr = literal;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(
                Error::new(
                    Code::PlanError,
                    format!("parameter \"{name}\" is an object"),
                )
                .with_hint("Send it as text; use the JSON functions to read it."),
            ),
        }
    }
}

/// The literal of a value; none for an object.
fn literal(value: &serde_json::Value) -> Option<Expr> {
    Some(match value {
        serde_json::Value::Null => Expr::value(Value::Null),
        serde_json::Value::Bool(flag) => Expr::value(Value::Boolean(*flag)),
        serde_json::Value::Number(number) => {
            let text = number.to_string();
            match text.strip_prefix('-') {
                Some(digits) => Expr::UnaryOp {
                    op: UnaryOperator::Minus,
                    expr: Box::new(Expr::value(Value::Number(digits.to_owned(), false))),
                },
                None => Expr::value(Value::Number(text, false)),
            }
        }
        serde_json::Value::String(text) => Expr::value(Value::SingleQuotedString(text.clone())),
        serde_json::Value::Array(items) => Expr::Array(Array {
            elem: items.iter().map(literal).collect::<Option<_>>()?,
            named: true,
        }),
        serde_json::Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::session::parser::parse;

    use super::*;

    fn bound(sql: &str, values: serde_json::Value) -> Result<(String, String)> {
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
}
