//! The values of `$name` in statements: `-v name=value` and `\set name value`.
//!
//! Invariants: a value is bound as a parameter and never becomes a part of the text; a statement
//! gets the values of the names that stand in it and no others.

use std::collections::BTreeMap;
use std::str::FromStr;

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Code, Error, Position, Result, nearest};
use crate::json::{Object, Value, parse};
use crate::session::parameters::Parameters;
use crate::session::script::tokens_so_far;

/// A name with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    name: String,
    value: Value,
}

impl Variable {
    /// A variable from its two parts.
    ///
    /// # Errors
    /// SG1001 syntax-error: no such name can be written behind a `$`.
    pub fn try_new(name: &str, value: &str) -> Result<Self> {
        let mut letters = name.chars();
        let begins = letters
            .next()
            .is_some_and(|first| first.is_alphabetic() || first == '_');
        if !begins || !letters.all(|letter| letter.is_alphanumeric() || letter == '_') {
            return Err(Error::new(
                Code::SyntaxError,
                format!("\"{name}\" is no parameter name"),
            )
            .with_hint("A name is letters, digits and _, and begins with no digit."));
        }
        Ok(Self {
            name: name.to_owned(),
            value: read(value),
        })
    }
}

impl FromStr for Variable {
    type Err = Error;

    /// Reads `name=value`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Error::new(Code::SyntaxError, format!("\"{text}\" has no ="))
                .with_hint("Write -v name=value.")
        })?;
        Self::try_new(name, value)
    }
}

/// The value that a text stands for. As in SQL, a number, TRUE, FALSE and NULL are what they say,
/// and a text may stand in quotes; everything else is text as well.
fn read(text: &str) -> Value {
    let quoted = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    if let Some(inner) = quoted {
        return Value::Text(inner.replace("''", "'"));
    }
    match text.to_ascii_lowercase().as_str() {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        "null" => return Value::Null,
        _ => {}
    }
    match parse(text) {
        Ok(Value::Number(digits)) => Value::Number(digits),
        Ok(_) | Err(_) => Value::Text(text.to_owned()),
    }
}

/// The values by their names.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, Value>);

impl Variables {
    /// Gives a name its value.
    pub fn set(&mut self, variable: Variable) {
        self.0.insert(variable.name, variable.value);
    }

    /// Takes a name's value away.
    ///
    /// # Errors
    /// SG2001 unknown-object.
    pub fn unset(&mut self, name: &str) -> Result<()> {
        let name = name.trim_start_matches('$');
        if self.0.remove(name).is_some() {
            return Ok(());
        }
        let error = Error::new(
            Code::UnknownObject,
            format!("parameter \"${name}\" has no value"),
        );
        Err(match nearest(name, self.0.keys().map(String::as_str)) {
            Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
            None => error.with_hint("Type \\set for those that have one."),
        })
    }

    /// Names and values as SQL would write them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| {
            let text = match value {
                Value::Null => "NULL".to_owned(),
                Value::Bool(true) => "TRUE".to_owned(),
                Value::Bool(false) => "FALSE".to_owned(),
                Value::Text(text) => crate::session::names::literal(text),
                Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
            };
            (name.as_str(), text)
        })
    }

    /// The names that have a value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values of the names that stand in a statement.
    ///
    /// # Errors
    /// SG1002 plan-error: a name without a value.
    pub fn bind(&self, sql: &str) -> Result<Parameters> {
        let mut values = Object::new();
        for (token, range) in tokens_so_far(sql) {
            let Token::Placeholder(written) = token else {
                continue;
            };
            // A `?` has no name; the session says what it wants.
            let Some(name) = written.strip_prefix('$') else {
                continue;
            };
            match self.0.get(name) {
                Some(value) => drop(values.insert(name.to_owned(), value.clone())),
                None => return Err(self.unbound(name).with_position(place(sql, range.start))),
            }
        }
        Ok(match values.is_empty() {
            true => Parameters::None,
            false => Parameters::Named(values),
        })
    }

    fn unbound(&self, name: &str) -> Error {
        let error = Error::new(
            Code::PlanError,
            format!("parameter \"${name}\" has no value"),
        );
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            return error.with_hint(
                "Here parameters have names: write $name, and give its value with \
                 \\set name value, or with -v name=value on the command line.",
            );
        }
        let give = format!(
            "\\set {name} value gives it one at the prompt, -v {name}=value on the command line."
        );
        match nearest(name, self.names()) {
            Some(near) => error.with_hint(format!("Did you mean \"${near}\"? {give}")),
            None => error.with_hint(give),
        }
    }
}

/// The line and column of a byte of a text.
fn place(text: &str, at: usize) -> Position {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() as u64 + 1;
    Position { line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_sql_reads_them() {
        for (text, expected) in [
            ("RAW", Value::from("RAW")),
            ("a b", Value::from("a b")),
            ("", Value::from("")),
            ("42", Value::Number("42".to_owned())),
            ("-1.5", Value::Number("-1.5".to_owned())),
            ("'42'", Value::from("42")),
            ("'it''s'", Value::from("it's")),
            ("it's", Value::from("it's")),
            ("True", Value::Bool(true)),
            ("null", Value::Null),
            ("007", Value::from("007")),
            ("1-2024", Value::from("1-2024")),
            (
                "9223372036854775807",
                Value::Number("9223372036854775807".to_owned()),
            ),
            (
                "12345678901234567890123",
                Value::Number("12345678901234567890123".to_owned()),
            ),
            (
                "0.12345678901234567",
                Value::Number("0.12345678901234567".to_owned()),
            ),
            ("1'; DROP TABLE t", Value::from("1'; DROP TABLE t")),
        ] {
            let variable = Variable::try_new("a", text).unwrap();
            assert_eq!(variable.value, expected, "{text}");
        }
    }

    #[test]
    fn names_are_names_and_assignments_have_two_parts() {
        for (text, taken) in [
            ("a=b", true),
            ("_a1=b=c", true),
            ("a=", true),
            ("a", false),
            ("=b", false),
            ("1a=b", false),
            ("a-b=c", false),
            ("a b=c", false),
        ] {
            assert_eq!(text.parse::<Variable>().is_ok(), taken, "{text}");
        }
    }

    #[test]
    fn statements_get_the_values_that_stand_in_them() {
        let mut variables = Variables::default();
        for variable in ["state=RAW", "n=5", "other=x"] {
            variables.set(variable.parse().unwrap());
        }
        for (sql, expected) in [
            ("SELECT 1", "null"),
            ("SELECT '$state', $$ $n $$ -- $n", "null"),
            (
                "SELECT * FROM t WHERE a = $state LIMIT $n",
                r#"{"n":5,"state":"RAW"}"#,
            ),
            ("SELECT $n, $n", r#"{"n":5}"#),
        ] {
            let bound = variables.bind(sql).unwrap().to_json();
            assert_eq!(bound.to_string(), expected, "{sql}");
        }
    }

    #[test]
    fn names_without_a_value_say_how_to_give_one() {
        let mut variables = Variables::default();
        variables.set("batch=may".parse().unwrap());
        let error = variables.bind("SELECT 1,\n  $batc").unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 2, column: 3 }));
        assert_eq!(error.message(), "parameter \"$batc\" has no value");
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("Did you mean \"$batch\"? \\set batc value"));
        assert!(hint.contains("-v batc=value"), "{hint}");
        let hint = variables.bind("SELECT $1").unwrap_err();
        assert!(hint.hint().unwrap().contains("write $name"));
        assert!(variables.unset("nope").is_err());
        variables.unset("$batch").unwrap();
        assert!(variables.bind("SELECT $batch").is_err());
    }
}
