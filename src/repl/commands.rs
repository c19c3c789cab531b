//! The commands of the prompt that begin with a backslash: how they are read. Reading is pure;
//! running is in `repl`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::pager::Paging;
use super::statement::Timing;
use super::variables::Variable;
use crate::error::{Code, Error, Result, nearest};
use crate::format::Format;
use crate::id::JobId;
use crate::session::names::literal;

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
    Query(String, Columns),
    /// `\log JOB`: the log of a job's last attempt.
    Log(JobId),
    /// `\out JOB`: the files that a job left.
    Outputs(JobId),
    /// `\source [TABLE] KEY`: the life of a source.
    Source {
        /// Its table; none: whichever has such a source.
        table: Option<String>,
        /// Its key.
        key: String,
    },
    /// `\x [on|off|auto]`: table or expanded; without an argument, the other one.
    Expanded(Option<Expanded>),
    /// `\timing [on|off]`: tell times or not.
    Timing(Option<Timing>),
    /// `\pager [on|off]`: long results through a pager or not.
    Pager(Option<Paging>),
    /// `\set`: the parameters that have a value.
    Variables,
    /// `\set NAME VALUE`: a parameter's value.
    Set(Variable),
    /// `\unset NAME`
    Unset(String),
    /// `\watch [SECONDS]`: run the last query again and again.
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

/// Which columns a listing has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Those that fit on a screen.
    Few,
    /// All: the name of the command ends in `+`.
    All,
}

/// When rows are written with one line per value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expanded {
    /// Always.
    On,
    /// Never.
    Off,
    /// Where they are wider than the terminal.
    Auto,
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
    (
        "\\source",
        "[TABLE] KEY",
        "the life of a source: row, statuses, jobs, locks, events",
    ),
    ("\\log", "JOB", "what the last attempt of a job printed"),
    ("\\out", "JOB", "the files that a job left"),
    (
        "\\set",
        "[NAME VALUE]",
        "give $NAME a value, or list those that have one",
    ),
    ("\\unset", "NAME", "take the value of $NAME away"),
    (
        "\\x",
        "[on|off|auto]",
        "one line per value; auto: where rows are too wide",
    ),
    (
        "\\pager",
        "[on|off]",
        "long results through $PAGER, or less",
    ),
    ("\\timing", "[on|off]", "the time of each statement"),
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
    ("\\q", "", "leave (also exit, quit, Ctrl-D)"),
];

/// Other names of commands.
const ALIASES: &[(&str, &str)] = &[
    ("\\h", "\\?"),
    ("\\help", "\\?"),
    ("\\quit", "\\q"),
    ("\\exit", "\\q"),
];

impl FromStr for Command {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (typed, argument) = match line.split_once(char::is_whitespace) {
            Some((name, argument)) => (name, Some(argument.trim())),
            None => (line, None),
        };
        let (name, columns) = match typed.strip_suffix('+') {
            Some(name) => (name, Columns::All),
            None => (typed, Columns::Few),
        };
        let argument = argument.filter(|argument| !argument.is_empty());
        if let Some(query) = listing(name, argument.map(unquoted).as_deref(), columns) {
            return Ok(Self::Query(query, columns));
        }
        let alias = ALIASES.iter().find(|(alias, _)| *alias == typed);
        match (alias.map_or(typed, |(_, name)| *name), argument) {
            ("\\d", Some(table)) => Ok(Self::Describe(unquoted(table))),
            ("\\d" | "\\dt", None) => Ok(Self::Tables),
            ("\\df", pattern) => Ok(Self::Functions(pattern.map(unquoted))),
            ("\\source", Some(words)) => source(words),
            ("\\log", Some(job)) => Ok(Self::Log(job_id(job)?)),
            ("\\out", Some(job)) => Ok(Self::Outputs(job_id(job)?)),
            ("\\x", word) => {
                let words = [
                    ("on", Expanded::On),
                    ("off", Expanded::Off),
                    ("auto", Expanded::Auto),
                ];
                Ok(Self::Expanded(word_of(typed, word, &words)?))
            }
            ("\\timing", word) => {
                let words = [("on", Timing::On), ("off", Timing::Off)];
                Ok(Self::Timing(word_of(typed, word, &words)?))
            }
            ("\\pager", word) => {
                let words = [("on", Paging::On), ("off", Paging::Off)];
                Ok(Self::Pager(word_of(typed, word, &words)?))
            }
            ("\\set", None) => Ok(Self::Variables),
            ("\\set", Some(words)) => match words.split_once(char::is_whitespace) {
                Some((name, value)) => Variable::try_new(name, value.trim()).map(Self::Set),
                None => Err(unreadable(typed, None)),
            },
            ("\\unset", Some(name)) => Ok(Self::Unset(name.to_owned())),
            ("\\watch", seconds) => Ok(Self::Watch(pause(seconds)?)),
            ("\\i", Some(file)) => Ok(Self::Include(unquoted(file).into())),
            ("\\o", file) => Ok(Self::Output(file.map(|file| unquoted(file).into()))),
            ("\\format", format) => Ok(Self::Format(format.map(str::parse).transpose()?)),
            ("\\?", _) => Ok(Self::Help),
            ("\\q", _) => Ok(Self::Quit),
            (name, argument) => Err(unreadable(name, argument)),
        }
    }
}

/// The query of a command that lists rows of a system table; none for another command.
fn listing(name: &str, argument: Option<&str>, columns: Columns) -> Option<String> {
    let (few, table, rest) = match (name, argument) {
        ("\\dj", None) => (JOBS, "jobs", "ORDER BY job_id DESC LIMIT 100".to_owned()),
        ("\\dj", Some(state)) => {
            let state = literal(state);
            let rest = format!("WHERE state = {state} ORDER BY job_id DESC LIMIT 100");
            (JOBS, "jobs", rest)
        }
        ("\\dl", None) => (LOCKS, "locks", "ORDER BY resource".to_owned()),
        ("\\db", None) => (
            BATCHES,
            "batches",
            "ORDER BY batch_id DESC LIMIT 20".to_owned(),
        ),
        ("\\dw", None) => (WORKERS, "workers", "ORDER BY name".to_owned()),
        ("\\dx", None) => (TRANSFORMS, "transforms", "ORDER BY name".to_owned()),
        _ => return None,
    };
    let columns = match columns {
        Columns::Few => few,
        Columns::All => "*",
    };
    Some(format!("SELECT {columns} FROM {table} {rest}"))
}

// Each fits into the 80 columns of a usual terminal, with names of usual length.
const JOBS: &str = "job_id, transform, source_id, state, attempt, error_code";
const LOCKS: &str =
    "resource, mode, owner, token, date_trunc('second', expires_at) AS expires_at, reason";
const BATCHES: &str = "batch_id, name, actor, jobs, available + retryable + running AS live, \
                       completed, discarded, cancelled";
const WORKERS: &str = "name, date_trunc('second', last_seen_at) AS last_seen_at, running, \
                       completed, failed, crashed";
const TRANSFORMS: &str = "name, kind, source_table, from_status, to_status, waiting, running";

/// Letters, with the backslash, by which a command is recognised that is spelled otherwise behind
/// them. Chosen: with fewer, `\d` is like half of the commands.
const ALIKE: usize = 4;

/// What goes wrong with a known name is its argument.
fn unreadable(name: &str, argument: Option<&str>) -> Error {
    let plain = name.trim_end_matches('+');
    let known = HELP.iter().find(|(known, _, _)| *known == plain);
    if let Some((_, takes, _)) = known.filter(|_| plain == name || listed(plain)) {
        let message = match argument {
            Some(_) => format!("command \"{name}\" takes no argument"),
            None => format!("command \"{name}\" needs an argument"),
        };
        return Error::new(Code::SyntaxError, message)
            .with_hint(format!("Write {}.", format!("{name} {takes}").trim_end()));
    }
    let error = Error::new(
        Code::SyntaxError,
        format!("command \"{name}\" does not exist"),
    );
    let names = || {
        let help = HELP.iter().map(|(known, _, _)| *known);
        help.chain(ALIASES.iter().map(|(alias, _)| *alias))
    };
    let begins = || {
        names().find(|known| {
            let pairs = known.chars().zip(plain.chars());
            pairs.take_while(|(known, typed)| known == typed).count() >= ALIKE
        })
    };
    match nearest(plain, names()).or_else(begins) {
        Some(near) => error.with_hint(format!(
            "Did you mean \"{near}\"? Type \\? for the list of commands."
        )),
        None => error.with_hint("Type \\? for the list of commands."),
    }
}

/// Whether a command has a longer form, with `+`.
fn listed(name: &str) -> bool {
    listing(name, None, Columns::All).is_some()
}

fn unquoted(text: &str) -> String {
    let inner = |quote| text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    inner('\'')
        .or_else(|| inner('"'))
        .unwrap_or(text)
        .to_owned()
}

/// One of the words that a command takes.
fn word_of<T: Copy>(name: &str, typed: Option<&str>, words: &[(&str, T)]) -> Result<Option<T>> {
    let Some(typed) = typed else {
        return Ok(None);
    };
    let found = words
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(typed));
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Error::new(
            Code::SyntaxError,
            format!("command \"{name}\" does not know \"{typed}\""),
        )
        .with_hint(format!("Write {name} {}.", words.join("|")))
    })
}

/// `KEY` or `TABLE KEY`; what has blanks in it stands in quotes.
fn source(words: &str) -> Result<Command> {
    let wrong = || {
        Error::new(
            Code::SyntaxError,
            "command \"\\source\" takes a key, or a table and a key",
        )
        .with_hint("Write \\source notices '1 2024'; what has blanks in it stands in quotes.")
    };
    let mut words = shell_words::split(words).map_err(|_| wrong())?.into_iter();
    match (words.next(), words.next(), words.next()) {
        (Some(key), None, None) => Ok(Command::Source { table: None, key }),
        (Some(table), Some(key), None) => Ok(Command::Source {
            table: Some(table),
            key,
        }),
        (_, _, _) => Err(wrong()),
    }
}

fn job_id(text: &str) -> Result<JobId> {
    text.parse().map(JobId).map_err(|_| {
        Error::new(Code::SyntaxError, format!("\"{text}\" is no job"))
            .with_hint("Write the number of a job; \\dj lists them.")
    })
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
        let plus = if listed(name) { "[+]" } else { "" };
        let left = format!("{name}{plus} {argument}");
        out.push_str(&format!("  {left:<20} {does}\n"));
    }
    out.push_str("A + behind a name shows all columns. In SQL, $NAME is the value of \\set.\n");
    out.push_str("Tab completes, Ctrl-R searches the history, Ctrl-C cancels.\n");
    out
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
            ("\\exit", Command::Quit),
            ("\\x", Command::Expanded(None)),
            ("\\x Auto", Command::Expanded(Some(Expanded::Auto))),
            ("\\x on;", Command::Expanded(Some(Expanded::On))),
            ("\\timing off", Command::Timing(Some(Timing::Off))),
            ("\\pager off", Command::Pager(Some(Paging::Off))),
            ("\\log 7", Command::Log(JobId(7))),
            ("\\out 7", Command::Outputs(JobId(7))),
            ("\\set", Command::Variables),
            ("\\unset a", Command::Unset("a".into())),
            (
                "\\set a  b c ",
                Command::Set(Variable::try_new("a", "b c").unwrap()),
            ),
            (
                "\\source 1-2024",
                Command::Source {
                    table: None,
                    key: "1-2024".into(),
                },
            ),
            (
                "\\source notices 'a b'",
                Command::Source {
                    table: Some("notices".into()),
                    key: "a b".into(),
                },
            ),
        ] {
            assert_eq!(line.parse::<Command>().unwrap(), expected, "{line}");
        }
        let Command::Query(sql, Columns::Few) = "\\dj it's".parse().unwrap() else {
            panic!("no query")
        };
        assert!(sql.contains("WHERE state = 'it''s' ORDER BY"), "{sql}");
        let Command::Query(sql, Columns::All) = "\\dj+ running".parse().unwrap() else {
            panic!("no query")
        };
        assert!(sql.starts_with("SELECT * FROM jobs WHERE"), "{sql}");
    }

    #[test]
    fn unreadable_commands_tell_the_way_out() {
        for (line, hint) in [
            ("\\nope", "Type \\? for the list of commands."),
            (
                "\\sourec 1",
                "Did you mean \"\\source\"? Type \\? for the list of commands.",
            ),
            (
                "\\dtt",
                "Did you mean \"\\dt\"? Type \\? for the list of commands.",
            ),
            (
                "\\time",
                "Did you mean \"\\timing\"? Type \\? for the list of commands.",
            ),
            (
                "\\logs 3",
                "Did you mean \"\\log\"? Type \\? for the list of commands.",
            ),
            (
                "\\df+",
                "Did you mean \"\\df\"? Type \\? for the list of commands.",
            ),
            ("\\i", "Write \\i FILE."),
            ("\\dl+ x", "Write \\dl+."),
            ("\\x maybe", "Write \\x on|off|auto."),
            ("\\timing auto", "Write \\timing on|off."),
            ("\\set a", "Write \\set [NAME VALUE]."),
            (
                "\\set 1 b",
                "A name is letters, digits and _, and begins with no digit.",
            ),
            ("\\log", "Write \\log JOB."),
            ("\\log x", "Write the number of a job; \\dj lists them."),
            (
                "\\source a b c",
                "Write \\source notices '1 2024'; what has blanks in it stands in quotes.",
            ),
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
                "[SECONDS]" | "JOB" => format!("{name} 1"),
                "[NAME VALUE]" => format!("{name} a b"),
                "[on|off|auto]" | "[on|off]" => format!("{name} on"),
                "" => (*name).to_owned(),
                _ => format!("{name} x"),
            };
            assert!(line.parse::<Command>().is_ok(), "{line}");
        }
    }
}
