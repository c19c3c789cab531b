//! JSON values that keep every digit: a number is the text that was written.
//!
//! `serde_json` makes of a number an integer of 64 bits or a DOUBLE, and its exact numbers are a
//! feature that would change every crate of the tree. Users' values (rows, parameters, columns that
//! come back) go through this type; records of our own have their serde types.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

/// How deep values may lie in each other; the parser goes down by calling itself.
const DEPTH_MAX: usize = 128;

/// The members of an object.
pub type Object = BTreeMap<String, Value>;

/// A value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A text, without its quotes.
    Text(String),
    /// A list.
    Array(Vec<Value>),
    /// Members by their names; of two with one name the last counts.
    Object(Object),
}

impl Value {
    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => {
                false
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => quoted(text, f),
            Self::Array(values) => {
                f.write_char('[')?;
                for (at, value) in values.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{value}")?;
                }
                f.write_char(']')
            }
            Self::Object(members) => write_object(members, f),
        }
    }
}

/// The text of an object.
pub fn object_text(members: &Object) -> String {
    struct Whole<'a>(&'a Object);
    impl Display for Whole<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            write_object(self.0, f)
        }
    }
    Whole(members).to_string()
}

fn write_object(members: &Object, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_char('{')?;
    for (at, (name, value)) in members.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { "," })?;
        quoted(name, f)?;
        write!(f, ":{value}")?;
    }
    f.write_char('}')
}

fn quoted(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// What is no JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong} at byte {at}")]
pub struct NoJson {
    /// The byte, from 0.
    pub at: usize,
    wrong: &'static str,
}

/// Reads one value and nothing else.
///
/// # Errors
/// Where the text is no JSON, or values lie more than 128 deep in each other.
pub fn parse(text: &str) -> Result<Value, NoJson> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.blanks();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.wrong("more than one value")),
    }
}

/// As [`parse`].
///
/// # Errors
/// As [`parse`], and where the bytes are not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Value, NoJson> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => Err(NoJson {
            at: error.valid_up_to(),
            wrong: "no UTF-8",
        }),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn wrong(&self, wrong: &'static str) -> NoJson {
        NoJson { at: self.at, wrong }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(blank).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Result<Value, NoJson> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("values lie too deep in each other"));
        }
        self.blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) | None => self.word(),
        }
    }

    fn word(&mut self) -> Result<Value, NoJson> {
        let words = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
        ];
        for (word, value) in words {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.wrong("expected a value"))
    }

    fn array(&mut self, depth: usize) -> Result<Value, NoJson> {
        self.at += 1;
        let mut values = Vec::new();
        self.blanks();
        if self.take(b']') {
            return Ok(Value::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Value::Array(values));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected a comma or ]"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, NoJson> {
        self.at += 1;
        let mut members = Object::new();
        self.blanks();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("expected a name in quotes"));
            }
            let name = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(self.wrong("expected a colon"));
            }
            let value = self.value(depth + 1)?;
            members.insert(name, value);
            self.blanks();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected a comma or }"));
            }
        }
    }

    /// The end is found here; escapes are read as everywhere.
    fn string(&mut self) -> Result<String, NoJson> {
        let mut escaped = false;
        let end = self.rest().bytes().skip(1).position(|byte| match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' => {
                escaped = true;
                false
            }
            byte => byte == b'"',
        });
        let end = end.ok_or_else(|| self.wrong("a text without its end"))?;
        let token = self.rest().get(..end + 2).unwrap_or_default();
        let text = serde_json::from_str(token).map_err(|_| self.wrong("a text with a wrong sign"));
        self.at += token.len();
        text
    }

    fn digits(&mut self) -> usize {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Result<Value, NoJson> {
        let begin = self.at;
        self.take(b'-');
        let zero = self.peek() == Some(b'0');
        let whole = self.digits();
        let mut right = whole == 1 || (whole > 1 && !zero);
        if self.take(b'.') {
            right &= self.digits() > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let _ = self.take(b'+') || self.take(b'-');
            right &= self.digits() > 0;
        }
        match self.text.get(begin..self.at) {
            Some(number) if right => Ok(Value::Number(number.to_owned())),
            Some(_) | None => Err(self.wrong("a number with a wrong sign")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_were_read() {
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            "1.10",
            "-0.0",
            "1e400",
            "123456789012345678901234567890",
            r#"{"a":[1,2.50,"x\"\\\n\u0001"],"b":{"c":null}}"#,
            "\"\u{e9}\u{1f600}\"",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let blank = " { \"b\" : 1 ,\r\n\t\"a\" : [ 2 , 3 ] } ";
        assert_eq!(parse(blank).unwrap().to_string(), r#"{"a":[2,3],"b":1}"#);
        assert_eq!(
            parse(r#""\ud83d\ude00""#).unwrap(),
            Value::from("\u{1f600}")
        );
    }

    #[test]
    fn it_agrees_with_serde_on_what_is_json() {
        for text in [
            "",
            "nul",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":1,}",
            "\"a",
            "\"\\x\"",
            "\"\n\"",
            "1 1",
            "NaN",
            "[",
            "{\"a\":",
            "\"\\\"",
            "0",
            "-0",
            "1.5E+7",
            "[[]]",
            "\"\\u0041\"",
            "\"\\ud800\"",
        ] {
            let theirs = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(parse(text).is_ok(), theirs, "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse_bytes(b"\"\xff\"").is_err());
    }
}
