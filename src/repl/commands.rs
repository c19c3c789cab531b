//! The commands of the prompt that begin with a backslash: how they are read, and what they list.
//! Reading is pure; running is in `repl`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::error::{Code, Error, Result};
use crate::format::Format;
use crate::session::names::literal;
use crate::session::{Names, TableName};

/// The pause of `\watch` without seconds. Chosen: follows a batch without burdening the store.
const WATCH: Duration = Duration::from_secs(2);

/// A command of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `\d NAME`: the columns of a table.
    Describe(String),
    /// `\d`, `\dt`: the tables.
    Tables,
    /// `\df [PATTERN]`: the functions.
    Functions(Option<String>),
    /// `\dj [STATE]` and the like: a query over a table of the store.
    Query(String),
    /// `\x`: table or expanded.
    Expanded,
    /// `\timing`: tell times or not.
    Timing,
    /// `\watch [SECONDS]`: run the last statement again and again.
    Watch(Duration),
    /// `\i FILE`: run a script.
    Include(PathBuf),
    /// `\o [FILE]`: where rows go.
    Output(Option<PathBuf>),
    /// `\format [NAME]`: how rows are written.
    Format(Option<Format>),
    /// `\?`: the list of commands.
    Help,
    /// `\q`: leave.
    Quit,
}

/// Each command, its argument, and what it does.
pub const HELP: &[(&str, &str, &str)] = &[
    ("\\d", "[NAME]", "tables, or the columns of one"),
    ("\\dt", "", "tables"),
    ("\\df", "[PATTERN]", "functions; * stands for any text"),
    ("\\dj", "[STATE]", "newest jobs, such as \\dj running"),
    ("\\dl", "", "locks"),
    ("\\db", "", "newest batches"),
    ("\\dw", "", "workers"),
    ("\\dx", "", "transforms"),
    ("\\x", "", "turn one line per value on or off"),
    ("\\timing", "", "turn the time of each statement on or off"),
    ("\\watch", "[SECONDS]", "repeat the last query until Ctrl-C"),
    ("\\i", "FILE", "run a script"),
    (
        "\\o",
        "[FILE]",
        "write rows to a file, or to the screen again",
    ),
    (
        "\\format",
        "[NAME]",
        "table, expanded, csv, json, ndjson, parquet, arrow",
    ),
    ("\\?", "", "this list"),
    ("\\q", "", "leave (also Ctrl-D)"),
];

impl FromStr for Command {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, argument) = match line.split_once(char::is_whitespace) {
            Some((name, argument)) => (name, Some(unquoted(argument.trim()))),
            None => (line, None),
        };
        let argument = argument.filter(|argument| !argument.is_empty());
        let list = |sql: &str| Ok(Self::Query(sql.to_owned()));
        match (name, argument) {
            ("\\d", Some(table)) => Ok(Self::Describe(table)),
            ("\\d" | "\\dt", None) => Ok(Self::Tables),
            ("\\df", pattern) => Ok(Self::Functions(pattern)),
            ("\\dj", state) => Ok(Self::Query(jobs_query(state.as_deref()))),
            ("\\dl", None) => list("SELECT * FROM locks ORDER BY resource"),
            ("\\db", None) => list("SELECT * FROM batches ORDER BY batch_id DESC LIMIT 20"),
            ("\\dw", None) => list("SELECT * FROM workers"),
            ("\\dx", None) => list("SELECT * FROM transforms"),
            ("\\x", None) => Ok(Self::Expanded),
            ("\\timing", None) => Ok(Self::Timing),
            ("\\watch", seconds) => Ok(Self::Watch(pause(seconds.as_deref())?)),
            ("\\i", Some(file)) => Ok(Self::Include(file.into())),
            ("\\o", file) => Ok(Self::Output(file.map(PathBuf::from))),
            ("\\format", format) => Ok(Self::Format(format.map(|f| f.parse()).transpose()?)),
            ("\\?" | "\\h" | "\\help", _) => Ok(Self::Help),
            ("\\q" | "\\quit", _) => Ok(Self::Quit),
            (name, argument) => Err(unreadable(name, argument)),
        }
    }
}

/// What goes wrong with a known name is its argument.
fn unreadable(name: &str, argument: Option<String>) -> Error {
    match HELP.iter().find(|(known, _, _)| *known == name) {
        Some((_, takes, _)) => {
            let message = match argument {
                Some(_) => format!("command \"{name}\" takes no argument"),
                None => format!("command \"{name}\" needs an argument"),
            };
            Error::new(Code::SyntaxError, message)
                .with_hint(format!("Write {}.", format!("{name} {takes}").trim_end()))
        }
        None => Error::new(
            Code::SyntaxError,
            format!("command \"{name}\" does not exist"),
        )
        .with_hint("Type \\? for the list of commands."),
    }
}

fn unquoted(text: &str) -> String {
    let inner = |quote| text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    inner('\'')
        .or_else(|| inner('"'))
        .unwrap_or(text)
        .to_owned()
}

fn jobs_query(state: Option<&str>) -> String {
    let filter = match state {
        Some(state) => format!(" WHERE state = {}", literal(state)),
        None => String::new(),
    };
    format!("SELECT * FROM jobs{filter} ORDER BY job_id DESC LIMIT 100")
}

fn pause(seconds: Option<&str>) -> Result<Duration> {
    let Some(text) = seconds else {
        return Ok(WATCH);
    };
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds >= 0.1);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| {
            Error::new(
                Code::SyntaxError,
                format!("pause \"{text}\" is no number of seconds"),
            )
            .with_hint("Write \\watch 5; the shortest pause is 0.1.")
        })
}

/// The list of commands.
pub fn help() -> String {
    let mut out = String::from("Type SQL and end it with ; or one of these commands:\n");
    for (name, argument, does) in HELP {
        let left = format!("{name} {argument}");
        out.push_str(&format!("  {left:<18} {does}\n"));
    }
    out.push_str("Tab completes, Ctrl-R searches the history, Ctrl-C cancels.\n");
    out
}

/// The tables as rows.
///
/// # Errors
/// SG9001 bug only.
pub fn tables(names: &Names) -> Result<RecordBatch> {
    rows(
        &["name", "kind", "columns"],
        names.tables.iter().map(|table| {
            [
                table.name.clone(),
                table.kind.clone(),
                table.columns.len().to_string(),
            ]
        }),
    )
}

/// The columns of a table as rows.
///
/// # Errors
/// SG2001 unknown-object.
pub fn columns(names: &Names, name: &str) -> Result<RecordBatch> {
    let table = names
        .tables
        .iter()
        .find(|table| table.name == name)
        .or_else(|| {
            names
                .tables
                .iter()
                .find(|table| table.name.eq_ignore_ascii_case(name))
        });
    let Some(TableName { columns, .. }) = table else {
        return Err(Error::new(
            Code::UnknownObject,
            format!("table \"{name}\" does not exist"),
        )
        .with_hint("Type \\dt for the tables, or \\df for the functions."));
    };
    rows(
        &["column", "type"],
        columns
            .iter()
            .map(|(name, kind)| [name.clone(), kind.clone()]),
    )
}

/// The functions whose name matches, as rows.
///
/// # Errors
/// SG9001 bug only.
pub fn functions(names: &Names, pattern: Option<&str>) -> Result<RecordBatch> {
    let chosen = names
        .functions
        .iter()
        .filter(|function| pattern.is_none_or(|pattern| matches(pattern, &function.name)));
    rows(
        &["name", "signature", "description"],
        chosen.map(|function| {
            let description = function.description.lines().next().unwrap_or_default();
            [
                function.name.clone(),
                function.signature.clone(),
                description.to_owned(),
            ]
        }),
    )
}

/// Whether a name holds the pattern, or fits it where the pattern has a `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_lowercase(), name.to_lowercase());
    let Some((head, tail)) = pattern.split_once('*') else {
        return name.contains(&pattern);
    };
    let Some(mut rest) = name.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let Some(last) = parts.pop() else { return true };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn rows<const N: usize>(
    names: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<RecordBatch> {
    let rows: Vec<[String; N]> = rows.collect();
    let column = |i: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            rows.iter().filter_map(|row| row.get(i)),
        ))
    };
    RecordBatch::try_from_iter(names.iter().enumerate().map(|(i, name)| (*name, column(i))))
        .map_err(|error| Error::bug(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_their_arguments() {
        for (line, expected) in [
            ("\\d", Command::Tables),
            ("\\dt;", Command::Tables),
            ("\\d notices ;", Command::Describe("notices".into())),
            ("\\d \"My Table\"", Command::Describe("My Table".into())),
            ("\\df xpath*", Command::Functions(Some("xpath*".into()))),
            ("\\watch", Command::Watch(WATCH)),
            ("\\watch 0.5", Command::Watch(Duration::from_millis(500))),
            ("\\i 'a b.sql'", Command::Include("a b.sql".into())),
            ("\\o", Command::Output(None)),
            ("\\format CSV", Command::Format(Some(Format::Csv))),
            ("  \\q", Command::Quit),
        ] {
            assert_eq!(line.parse::<Command>().unwrap(), expected, "{line}");
        }
        let Command::Query(sql) = "\\dj it's".parse().unwrap() else {
            panic!("no query")
        };
        assert!(sql.contains("WHERE state = 'it''s' ORDER BY"), "{sql}");
    }

    #[test]
    fn unreadable_commands_tell_the_way_out() {
        for (line, hint) in [
            ("\\nope", "Type \\? for the list of commands."),
            ("\\i", "Write \\i FILE."),
            ("\\x on", "Write \\x."),
            ("\\watch 0", "Write \\watch 5; the shortest pause is 0.1."),
            ("\\watch NaN", "Write \\watch 5; the shortest pause is 0.1."),
            (
                "\\watch 1e300",
                "Write \\watch 5; the shortest pause is 0.1.",
            ),
        ] {
            assert_eq!(
                line.parse::<Command>().unwrap_err().hint(),
                Some(hint),
                "{line}"
            );
        }
        assert!("\\format xlsx".parse::<Command>().is_err());
    }

    #[test]
    fn every_command_of_the_help_is_known() {
        for (name, argument, _) in HELP {
            let line = match *argument {
                "FILE" | "[FILE]" => format!("{name} f"),
                "[NAME]" if *name == "\\format" => format!("{name} csv"),
                "[SECONDS]" => format!("{name} 1"),
                "" => (*name).to_owned(),
                _ => format!("{name} x"),
            };
            assert!(line.parse::<Command>().is_ok(), "{line}");
        }
    }

    #[test]
    fn patterns_are_parts_unless_they_have_a_star() {
        for (pattern, name, expected) in [
            ("job", "schedule_job", true),
            ("JOB", "schedule_job", true),
            ("job*", "schedule_job", false),
            ("*job", "schedule_job", true),
            ("s*e*job", "schedule_job", true),
            ("s*x*job", "schedule_job", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
