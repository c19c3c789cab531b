//! Completion at the prompt: keywords, tables, columns, functions and their arguments, transforms,
//! statuses, parameters, commands, formats, files.
//!
//! It reads a copy of the names that the prompt renews after each change of them, so a key press
//! never waits for the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
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
    pub transforms: Vec<Transform>,
    /// The statuses of the sources of each table.
    pub statuses: BTreeMap<String, Vec<String>>,
    /// The parameters that have a value.
    pub variables: Vec<String>,
}

/// A transform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// Its name.
    pub name: String,
    /// The table of its sources.
    pub table: String,
    /// The statuses that it takes and sets.
    pub statuses: Vec<String>,
}

impl Known {
    /// The statuses of a table: of its sources, and those that its transforms know.
    fn statuses_of(&self, table: &str) -> BTreeSet<&str> {
        let named = |other: &str| other.eq_ignore_ascii_case(table);
        let there = self.statuses.iter().filter(|(name, _)| named(name));
        let meant = self.transforms.iter().filter(|one| named(&one.table));
        there
            .flat_map(|(_, statuses)| statuses)
            .chain(meant.flat_map(|one| &one.statuses))
            .map(String::as_str)
            .collect()
    }
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
        let (start, found) = candidates(&known, typed, line.get(pos..).unwrap_or_default());
        let suggestions: Vec<Suggestion> = found
            .into_iter()
            .map(|(value, description)| Suggestion {
                append_whitespace: !value.ends_with(['(', '\'', '/', ' ']),
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

fn plain(name: &str) -> Candidate {
    (name.to_owned(), None)
}

/// The statement that is being typed: its tokens before the word under the cursor, and all others.
struct Typed {
    before: Vec<Token>,
    after: Vec<Token>,
}

impl Typed {
    /// The tables that it names, by the name that it gives them.
    fn tables<'n>(&self, names: &'n Names) -> Vec<&'n TableName> {
        let named: BTreeSet<String> = self
            .before
            .iter()
            .chain(&self.after)
            .filter_map(|token| match token {
                Token::Word(word) if word.quote_style.is_some() || !keyword(&word.value) => {
                    Some(word.value.to_lowercase())
                }
                _ => None,
            })
            .collect();
        let tables = names.tables.iter();
        tables
            .filter(|table| named.contains(&table.name.to_lowercase()))
            .collect()
    }

    /// The function whose arguments are being typed, and the tokens of that call.
    fn call(&self) -> Option<(&str, &[Token])> {
        let mut depth = 0_usize;
        for (at, token) in self.before.iter().enumerate().rev() {
            match token {
                Token::RParen => depth += 1,
                Token::LParen if depth > 0 => depth -= 1,
                Token::LParen => {
                    let Some(Token::Word(function)) =
                        at.checked_sub(1).and_then(|at| self.before.get(at))
                    else {
                        return None;
                    };
                    return Some((
                        &function.value,
                        self.before.get(at + 1..).unwrap_or_default(),
                    ));
                }
                _ => {}
            }
        }
        None
    }
}

/// Where the word under the cursor begins, and what may stand there.
///
/// # Arguments
/// `rest`: what is typed behind the cursor.
fn candidates(known: &Known, typed: &str, rest: &str) -> (usize, Vec<Candidate>) {
    if typed.trim_start().starts_with('\\') {
        return command_candidates(known, typed);
    }
    let tokens: Vec<(Token, Range<usize>)> = tokens_so_far(typed)
        .into_iter()
        .filter(|(token, _)| !matches!(token, Token::Whitespace(_)))
        .collect();
    let tokenized = tokens.last().map_or(0, |(_, range)| range.end);
    let open = typed.get(tokenized..).and_then(|rest| rest.find('\''));
    let word = match open {
        Some(open) => tokenized + open,
        None => word_start(typed),
    };
    let whole = tokens.into_iter().filter(|(_, range)| range.end <= word);
    let before: Vec<Token> = whole.map(|(token, _)| token).collect();
    let begin = before.iter().rposition(|token| *token == Token::SemiColon);
    let before = before
        .get(begin.map_or(0, |at| at + 1)..)
        .unwrap_or_default();
    let after = tokens_so_far(rest).into_iter().map(|(token, _)| token);
    let statement = Typed {
        before: before.to_vec(),
        after: after
            .take_while(|token| *token != Token::SemiColon)
            .collect(),
    };
    if open.is_some() {
        return text_candidates(known, typed, &statement, word + 1);
    }
    let prefix = typed.get(word..).unwrap_or_default().to_lowercase();
    let dollar = typed
        .get(..word)
        .is_some_and(|before| before.ends_with('$'));
    let mut found = match dollar {
        true => known.variables.iter().map(|name| plain(name)).collect(),
        false => word_candidates(known, &statement, &prefix),
    };
    found.retain(|(value, _)| value.to_lowercase().starts_with(&prefix));
    (word, found)
}

fn word_candidates(known: &Known, statement: &Typed, prefix: &str) -> Vec<Candidate> {
    match statement.before.as_slice() {
        [.., Token::Word(table), Token::Period] => {
            columns(resolve(&known.names, statement, &table.value))
        }
        [.., Token::Word(last)] if takes_table(&last.value) => tables(&known.names),
        [.., Token::Word(last)] if last.value.eq_ignore_ascii_case("transform") => {
            let transforms = known.transforms.iter();
            transforms.map(|transform| plain(&transform.name)).collect()
        }
        before if prefix.is_empty() && before.is_empty() => Vec::new(),
        _ => {
            let mut found = arguments(&known.names, statement);
            found.extend(anywhere(&known.names, statement));
            found
        }
    }
}

/// The named arguments that a call of an effect function or a procedure does not have yet.
fn arguments(names: &Names, statement: &Typed) -> Vec<Candidate> {
    let Some((name, given)) = statement.call() else {
        return Vec::new();
    };
    let begins = matches!(given, [] | [.., Token::Comma]);
    let mut functions = names.functions.iter();
    let function = functions.find(|one| one.name.eq_ignore_ascii_case(name));
    let Some(function) = function.filter(|_| begins) else {
        return Vec::new();
    };
    let said = |parameter: &str| {
        given.windows(2).any(|pair| {
            matches!(pair, [Token::Word(word), Token::RArrow]
                if word.value.eq_ignore_ascii_case(parameter))
        })
    };
    let open = function.parameters.iter().filter(|name| !said(name));
    open.map(|name| (format!("{name} => "), Some(function.signature.clone())))
        .collect()
}

fn command_candidates(known: &Known, typed: &str) -> (usize, Vec<Candidate>) {
    let start = typed.len() - typed.trim_start().len();
    let rest = typed.get(start..).unwrap_or_default();
    let Some((name, argument)) = rest.split_once(char::is_whitespace) else {
        let found = HELP.iter().filter(|(name, _, _)| name.starts_with(rest));
        let found = found.map(|(name, _, does)| ((*name).to_owned(), Some((*does).to_owned())));
        return (start, found.collect());
    };
    let argument = argument.trim_start();
    let words = |words: &[&str]| words.iter().map(|word| plain(word)).collect();
    let mut found: Vec<Candidate> = match name {
        "\\d" | "\\d+" => tables(&known.names),
        "\\df" => {
            let functions = known.names.functions.iter();
            functions.map(|function| plain(&function.name)).collect()
        }
        "\\dj" | "\\dj+" => words(JOB_STATES),
        "\\format" => Format::ALL.iter().map(|f| (f.to_string(), None)).collect(),
        "\\x" => words(&["on", "off", "auto"]),
        "\\timing" | "\\pager" => words(&["on", "off"]),
        "\\set" | "\\unset" => known.variables.iter().map(|name| plain(name)).collect(),
        "\\source" => {
            let sources = known.names.tables.iter();
            let sources = sources.filter(|table| table.kind == "source table");
            sources.map(|table| plain(&table.name)).collect()
        }
        "\\i" | "\\o" => files(argument),
        _ => Vec::new(),
    };
    found.retain(|(value, _)| value.starts_with(argument));
    (typed.len() - argument.len(), found)
}

/// Files and folders whose path begins like this. Hidden ones only where the dot is typed.
fn files(typed: &str) -> Vec<Candidate> {
    let (folder, begun) = match typed.rsplit_once('/') {
        Some((folder, begun)) => (format!("{folder}/"), begun),
        None => (String::new(), typed),
    };
    let read = std::fs::read_dir(if folder.is_empty() { "." } else { &folder });
    let mut found: Vec<Candidate> = read
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let shown =
                name.starts_with(begun) && (!name.starts_with('.') || begun.starts_with('.'));
            // Through links: what is behind them is opened.
            let end = match entry.path().is_dir() {
                true => "/",
                false => "",
            };
            shown.then(|| (format!("{folder}{name}{end}"), None))
        })
        .collect();
    found.sort();
    found
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

/// Columns of statuses, in source tables and where changes of them are told.
const STATUS_COLUMNS: &[&str] = &["status", "from_status", "to_status"];

/// What may stand in a text that is being typed: by the column that it is compared with, by the
/// argument that it is, or by the clause.
fn text_candidates(
    known: &Known,
    typed: &str,
    statement: &Typed,
    start: usize,
) -> (usize, Vec<Candidate>) {
    let prefix = typed.get(start..).unwrap_or_default();
    let mut before = statement.before.as_slice();
    // In a list the column stands in front of it.
    while let [rest @ .., Token::SingleQuotedString(_), Token::Comma] = before {
        before = rest;
    }
    let words: BTreeSet<&str> = match before {
        [.., Token::Word(column), Token::Word(keyword), Token::LParen]
            if keyword.value.eq_ignore_ascii_case("in") =>
        {
            compared(known, statement, &column.value)
        }
        [.., Token::Word(column), Token::Eq | Token::Neq] => {
            compared(known, statement, &column.value)
        }
        // FROM STATUS 'RAW' TO STATUS 'DONE'
        [.., Token::Word(clause)] if clause.value.eq_ignore_ascii_case("status") => {
            statuses(known, statement)
        }
        _ => argument_texts(known, statement),
    };
    let fitting = words.into_iter().filter(|word| word.starts_with(prefix));
    let closed = fitting.map(|word| (format!("{}'", word.replace('\'', "''")), None));
    (start, closed.collect())
}

fn of_statuses(column: &str) -> bool {
    STATUS_COLUMNS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(column))
}

/// What a column is compared with.
fn compared<'k>(known: &'k Known, statement: &Typed, column: &str) -> BTreeSet<&'k str> {
    match column.to_lowercase().as_str() {
        "state" => JOB_STATES.iter().copied().collect(),
        "transform" => transforms(known),
        column if of_statuses(column) => statuses(known, statement),
        _ => BTreeSet::new(),
    }
}

fn transforms(known: &Known) -> BTreeSet<&str> {
    let transforms = known.transforms.iter();
    transforms
        .map(|transform| transform.name.as_str())
        .collect()
}

/// The statuses of the tables that the statement names; of all where it names none with sources.
fn statuses<'k>(known: &'k Known, statement: &Typed) -> BTreeSet<&'k str> {
    let named = statement.tables(&known.names);
    let of = |tables: &[&'k TableName]| -> BTreeSet<&'k str> {
        let all = tables.iter();
        all.flat_map(|table| known.statuses_of(&table.name))
            .collect()
    };
    let found = of(&named);
    match found.is_empty() {
        true => of(&known.names.tables.iter().collect::<Vec<_>>()),
        false => found,
    }
}

/// What the argument of a function can be: a transform, a status, a table.
fn argument_texts<'k>(known: &'k Known, statement: &Typed) -> BTreeSet<&'k str> {
    let Some((function, given)) = statement.call() else {
        return BTreeSet::new();
    };
    let named = match given {
        [.., Token::Word(name), Token::RArrow] => Some(name.value.to_lowercase()),
        _ => None,
    };
    let mut functions = known.names.functions.iter();
    let function = functions.find(|one| one.name.eq_ignore_ascii_case(function));
    let place = given.iter().filter(|token| **token == Token::Comma).count();
    let parameter = named.or_else(|| {
        let parameters = &function?.parameters;
        parameters.get(place).map(|name| (*name).to_owned())
    });
    match parameter.as_deref() {
        Some("transform" | "transforms") => transforms(known),
        Some("status") => statuses(known, statement),
        Some("table" | "source_table") => {
            let sources = known.names.tables.iter();
            let sources = sources.filter(|table| table.kind == "source table");
            sources.map(|table| table.name.as_str()).collect()
        }
        Some(_) | None => BTreeSet::new(),
    }
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
fn resolve<'a>(names: &'a Names, statement: &Typed, name: &str) -> Option<&'a TableName> {
    let table = |name: &str| {
        names
            .tables
            .iter()
            .find(|t| t.name.eq_ignore_ascii_case(name))
    };
    table(name).or_else(|| {
        let tokens = statement.before.iter().chain(&statement.after);
        let words: Vec<Option<&str>> = tokens
            .filter(|token| !matches!(token, Token::Whitespace(_)))
            .map(|token| match token {
                Token::Word(word) => Some(word.value.as_str()),
                _ => None,
            })
            .collect();
        words.windows(2).enumerate().find_map(|(i, pair)| {
            let [Some(first), Some(second)] = pair else {
                return None;
            };
            let aliased = if second.eq_ignore_ascii_case("as") {
                *words.get(i + 2)?
            } else {
                Some(*second)
            };
            aliased
                .filter(|alias| alias.eq_ignore_ascii_case(name))
                .and_then(|_| table(first))
        })
    })
}

/// Columns of the tables that the statement names (of all, where it names none), then functions,
/// tables and keywords.
fn anywhere(names: &Names, statement: &Typed) -> Vec<Candidate> {
    let named = statement.tables(names);
    let tables_meant = match named.is_empty() {
        true => names.tables.iter().collect(),
        false => named,
    };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for table in tables_meant {
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
mod tests;
