//! Completion at the prompt: keywords, tables, columns, functions, transforms, commands, formats.
//!
//! It reads a copy of the names that the prompt renews after each change of them, so a key press
//! never waits for the store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::sql::sqlparser::tokenizer::Token;
use reedline::{Completer, CompletionResult, Span, Suggestion};

use super::commands::HELP;
use super::highlight::{KEYWORDS, keyword};
use crate::format::Format;
use crate::session::script::tokens_so_far;
use crate::session::{Names, TableName};

/// Everything that has a name.
#[derive(Debug, Default)]
pub struct Known {
    /// Tables and functions.
    pub names: Names,
    /// Transforms.
    pub transforms: Vec<String>,
}

/// Names that the prompt renews and the completer reads.
pub type SharedNames = Arc<Mutex<Known>>;

/// Completes SQL and commands.
pub struct SqlCompleter {
    known: SharedNames,
}

impl SqlCompleter {
    /// Completes from these names.
    pub fn new(known: SharedNames) -> Self {
        Self { known }
    }
}

impl Completer for SqlCompleter {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let typed = line.get(..pos).unwrap_or(line);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, found) = candidates(&known, typed);
        let suggestions: Vec<Suggestion> = found
            .into_iter()
            .map(|(value, description)| Suggestion {
                append_whitespace: !value.ends_with('(') && !value.ends_with('\''),
                value,
                description,
                span: Span::new(start, typed.len().max(start)),
                ..Suggestion::default()
            })
            .collect();
        CompletionResult::fresh(suggestions)
    }
}

type Candidate = (String, Option<String>);

/// Where the word under the cursor begins, and what may stand there.
fn candidates(known: &Known, typed: &str) -> (usize, Vec<Candidate>) {
    if typed.trim_start().starts_with('\\') {
        return command_candidates(known, typed);
    }
    let tokens: Vec<(Token, std::ops::Range<usize>)> = tokens_so_far(typed)
        .into_iter()
        .filter(|(token, _)| !matches!(token, Token::Whitespace(_)))
        .collect();
    let tokenized = tokens.last().map_or(0, |(_, range)| range.end);
    if let Some(open) = typed.get(tokenized..).and_then(|rest| rest.find('\'')) {
        return text_candidates(known, typed, &tokens, tokenized + open + 1);
    }
    let word = word_start(typed);
    let before: Vec<&Token> = tokens
        .iter()
        .filter(|(_, r)| r.end <= word)
        .map(|(token, _)| token)
        .collect();
    let prefix = typed.get(word..).unwrap_or_default();
    let mut found = match before.as_slice() {
        [.., Token::Word(table), Token::Period] => {
            columns(resolve(&known.names, &before, &table.value))
        }
        [.., Token::Word(last)] if takes_table(&last.value) => tables(&known.names),
        [.., Token::Word(last)] if last.value.eq_ignore_ascii_case("transform") => known
            .transforms
            .iter()
            .map(|name| (name.clone(), None))
            .collect(),
        _ if prefix.is_empty() && before.is_empty() => Vec::new(),
        _ => anywhere(&known.names, &before),
    };
    let prefix = prefix.to_lowercase();
    found.retain(|(value, _)| value.to_lowercase().starts_with(&prefix));
    (word, found)
}

fn command_candidates(known: &Known, typed: &str) -> (usize, Vec<Candidate>) {
    let start = typed.len() - typed.trim_start().len();
    let rest = typed.get(start..).unwrap_or_default();
    let Some((name, argument)) = rest.split_once(char::is_whitespace) else {
        let found = HELP.iter().filter(|(name, _, _)| name.starts_with(rest));
        let found = found.map(|(name, _, does)| ((*name).to_owned(), Some((*does).to_owned())));
        return (start, found.collect());
    };
    let mut found: Vec<Candidate> = match name {
        "\\d" => tables(&known.names),
        "\\df" => known
            .names
            .functions
            .iter()
            .map(|f| (f.name.clone(), None))
            .collect(),
        "\\dj" => JOB_STATES
            .iter()
            .map(|state| ((*state).to_owned(), None))
            .collect(),
        "\\format" => Format::ALL.iter().map(|f| (f.to_string(), None)).collect(),
        _ => Vec::new(),
    };
    let argument = argument.trim_start();
    found.retain(|(value, _)| value.starts_with(argument));
    (typed.len() - argument.len(), found)
}

/// The states of a job, as the design names them.
const JOB_STATES: &[&str] = &[
    "scheduled",
    "available",
    "running",
    "retryable",
    "completed",
    "cancelled",
    "discarded",
];

/// Inside a text only one thing is known: the first argument of `schedule_job` is a transform.
fn text_candidates(
    known: &Known,
    typed: &str,
    tokens: &[(Token, std::ops::Range<usize>)],
    start: usize,
) -> (usize, Vec<Candidate>) {
    let prefix = typed.get(start..).unwrap_or_default();
    let found = match tokens {
        [.., (Token::Word(function), _), (Token::LParen, _)]
            if function.value.eq_ignore_ascii_case("schedule_job") =>
        {
            let fitting = known
                .transforms
                .iter()
                .filter(|name| name.starts_with(prefix));
            fitting.map(|name| (format!("{name}'"), None)).collect()
        }
        _ => Vec::new(),
    };
    (start, found)
}

fn word_start(typed: &str) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    typed.len()
        - typed
            .chars()
            .rev()
            .take_while(|c| word(*c))
            .map(char::len_utf8)
            .sum::<usize>()
}

fn takes_table(word: &str) -> bool {
    ["from", "join", "into", "update", "table", "describe"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(word))
}

fn tables(names: &Names) -> Vec<Candidate> {
    names
        .tables
        .iter()
        .map(|table| (table.name.clone(), Some(table.kind.clone())))
        .collect()
}

fn columns(table: Option<&TableName>) -> Vec<Candidate> {
    let columns = table
        .map(|table| table.columns.as_slice())
        .unwrap_or_default();
    columns
        .iter()
        .map(|(name, kind)| (name.clone(), Some(kind.clone())))
        .collect()
}

/// The table that a name or an alias stands for.
fn resolve<'a>(names: &'a Names, tokens: &[&Token], name: &str) -> Option<&'a TableName> {
    let table = |name: &str| {
        names
            .tables
            .iter()
            .find(|t| t.name.eq_ignore_ascii_case(name))
    };
    let word = |token: &Token| match token {
        Token::Word(word) => Some(word.value.clone()),
        _ => None,
    };
    table(name).or_else(|| {
        let words: Vec<Option<String>> = tokens.iter().map(|token| word(token)).collect();
        words.windows(2).enumerate().find_map(|(i, pair)| {
            let [Some(first), Some(second)] = pair else {
                return None;
            };
            let aliased = if second.eq_ignore_ascii_case("as") {
                words.get(i + 2)?.as_deref()
            } else {
                Some(second.as_str())
            };
            aliased
                .filter(|alias| alias.eq_ignore_ascii_case(name))
                .and_then(|_| table(first))
        })
    })
}

/// Columns of the tables that the statement names (of all, where it names none), then functions,
/// tables and keywords.
fn anywhere(names: &Names, tokens: &[&Token]) -> Vec<Candidate> {
    let named: BTreeSet<String> = tokens
        .iter()
        .filter_map(|token| match token {
            Token::Word(word) if !keyword(&word.value) => Some(word.value.to_lowercase()),
            _ => None,
        })
        .collect();
    let mentioned = |table: &&TableName| named.contains(&table.name.to_lowercase());
    let any = names.tables.iter().any(|table| mentioned(&table));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for table in names.tables.iter().filter(|table| !any || mentioned(table)) {
        for (name, kind) in &table.columns {
            if seen.insert(name.as_str()) {
                found.push((name.clone(), Some(format!("{}: {kind}", table.name))));
            }
        }
    }
    let functions = names.functions.iter();
    found.extend(functions.map(|f| (format!("{}(", f.name), Some(f.signature.clone()))));
    found.extend(tables(names));
    found.extend(KEYWORDS.iter().map(|word| ((*word).to_owned(), None)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{FunctionKind, FunctionName};

    fn known() -> Known {
        let table = |name: &str, columns: &[&str]| TableName {
            name: name.into(),
            kind: "source table".into(),
            columns: columns
                .iter()
                .map(|c| ((*c).to_owned(), "Utf8".to_owned()))
                .collect(),
            schema: None,
            key: None,
        };
        Known {
            names: Names {
                tables: vec![
                    table("notices", &["notice_id", "status"]),
                    table("jobs", &["job_id", "state"]),
                ],
                functions: vec![FunctionName {
                    name: "schedule_job".into(),
                    signature: "schedule_job(transform, source_id)".into(),
                    kind: FunctionKind::Effect,
                    description: String::new(),
                }],
            },
            transforms: vec!["normalise".into(), "to_rdf".into()],
        }
    }

    #[track_caller]
    fn check(typed: &str, expected: &[&str]) {
        let (start, found) = candidates(&known(), typed);
        let values: Vec<_> = found.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(values, expected, "{typed:?}");
        assert!(typed.is_char_boundary(start));
    }

    #[test]
    fn completion_follows_what_stands_before() {
        check("SELECT * FROM n", &["notices"]);
        check("SELECT * FROM ", &["notices", "jobs"]);
        check(
            "SELECT s",
            &[
                "status",
                "state",
                "schedule_job(",
                "SCHEDULE",
                "SELECT",
                "SET",
                "SHOW",
                "STATUS",
            ],
        );
        check("SELECT * FROM notices WHERE sta", &["status", "STATUS"]);
        check(
            "SELECT * FROM notices AS n JOIN jobs j ON n.",
            &["notice_id", "status"],
        );
        check("SELECT * FROM notices AS n JOIN jobs j ON j.st", &["state"]);
        check("SELECT '\u{e4}', jobs.j", &["job_id"]);
        check("DROP TRANSFORM to", &["to_rdf"]);
        check("", &[]);
    }

    #[test]
    fn texts_complete_to_transforms_only_where_one_stands() {
        check("SELECT schedule_job('to", &["to_rdf'"]);
        check("SELECT schedule_job('", &["normalise'", "to_rdf'"]);
        check("SELECT * FROM notices WHERE status = 'S", &[]);
    }

    #[test]
    fn commands_complete_with_their_arguments() {
        check("\\ti", &["\\timing"]);
        check("\\d no", &["notices"]);
        check("\\dj c", &["completed", "cancelled"]);
        check("\\format c", &["csv"]);
        check("\\i f", &[]);
    }
}
