//! Every clause of a statement is honoured, or refused by its name.
//!
//! DataFusion's planner reads some fields of the syntax tree and passes over the others without a
//! word: `DELETE FROM t TABLESAMPLE (1 ROWS)` would delete all rows. So each struct of the tree
//! that can reach the planner is taken apart here field by field, never with `..`: a field that a
//! new parser adds is a compile error in this module until somebody decides what becomes of it.
//! A field that is neither checked nor walked into is bound to `_` with the reason beside it.
//!
//! Pure; called by [`Gate::check`](crate::session::gate::Gate::check) only.

use std::collections::HashSet;

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Tokenizer};

use crate::error::{Code, Error, Position};
use crate::session::gate::position_of;
use crate::session::statement::{Statement, TransformBody};

mod define;
mod expr;
mod query;
mod write;

/// Stack that must be left for one expression. Chosen: a frame of a debug build takes a tenth.
const RED_ZONE_BYTES: usize = 128 << 10;
/// Stack that is added at a time. Chosen: as much as a thread has.
const STACK_BYTES: usize = 2 << 20;
/// Stack to find the place of something by, which the parser's walk cannot add to. Chosen: the
/// longest chain that parses takes a tenth.
const SPAN_STACK_BYTES: usize = 64 << 20;

/// Which functions take the clauses of aggregates and of windows; to all others the planner gives
/// none of them.
#[derive(Debug, Default)]
pub struct Callables {
    aggregates: HashSet<String>,
    windows: HashSet<String>,
}

impl Callables {
    /// The functions of a session.
    pub fn of(session: &SessionState) -> Self {
        Self {
            aggregates: session.aggregate_functions().keys().cloned().collect(),
            windows: session.window_functions().keys().cloned().collect(),
        }
    }
}

/// A clause that has no meaning here.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The words of the clause, as they are written.
    clause: String,
    /// Something that stands near to it in the text.
    near: Option<Position>,
    hint: String,
}

type Checked = std::result::Result<(), Refusal>;

/// Where something near to a clause stands. It is asked of what is refused only: a span is found by
/// walking through all that it holds.
trait Place: Fn() -> Span + Copy {}

impl<F: Fn() -> Span + Copy> Place for F {}

/// The place of what has none: the words of the clause are looked for in the whole text.
fn anywhere() -> Span {
    Span::empty()
}

fn refused(clause: impl Into<String>, near: impl Place, hint: impl Into<String>) -> Refusal {
    Refusal {
        clause: clause.into(),
        near: position_of(stacker::maybe_grow(RED_ZONE_BYTES, SPAN_STACK_BYTES, near)),
        hint: hint.into(),
    }
}

/// Refuses a clause where it is there.
fn absent(there: bool, clause: &str, near: impl Place, hint: &str) -> Checked {
    if there {
        return Err(refused(clause, near, hint));
    }
    Ok(())
}

impl Refusal {
    /// The error, with the place of the clause in the text that was sent.
    pub(super) fn into_error(self, sql: &str) -> Error {
        let error = Error::new(
            Code::Unsupported,
            format!("{} is not supported here", self.clause),
        )
        .with_hint(self.hint);
        match find_words(sql, &self.clause, self.near).or(self.near) {
            Some(position) => error.with_position(position),
            None => error,
        }
    }
}

/// Where the words of a clause stand: first behind `near`, else anywhere.
fn find_words(sql: &str, clause: &str, near: Option<Position>) -> Option<Position> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .ok()?;
    let places: Vec<(&str, Position)> = tokens
        .iter()
        .filter_map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => {
                Some((word.value.as_str(), position_of(token.span)?))
            }
            _ => None,
        })
        .collect();
    let wanted: Vec<&str> = clause
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let found = |from: Position| {
        places
            .windows(wanted.len())
            .filter(|words| {
                let same = words
                    .iter()
                    .zip(&wanted)
                    .all(|((word, _), wanted)| word.eq_ignore_ascii_case(wanted));
                let begin = words.first().map(|(_, at)| (at.line, at.column));
                same && begin >= Some((from.line, from.column))
            })
            .find_map(|words| words.first().map(|(_, at)| *at))
    };
    let start = Position { line: 1, column: 1 };
    near.and_then(found).or_else(|| found(start))
}

/// One walk over a statement.
pub(super) struct Clauses<'c> {
    callables: &'c Callables,
}

impl<'c> Clauses<'c> {
    pub(super) fn new(callables: &'c Callables) -> Self {
        Self { callables }
    }

    /// Looks at every field of a statement.
    pub(super) fn statement(&self, statement: &Statement) -> Checked {
        match statement {
            Statement::Query(query) | Statement::Effect(query) => self.query(query),
            Statement::Preview(inner) => self.statement(inner),
            Statement::Call(function) => self.function(function),
            Statement::Explain {
                // Read by whoever runs it: each option is there.
                options: _,
                statement,
                // The same statement once more.
                tree: _,
            } => self.statement(statement),
            Statement::CreateTransform(create) => match &create.body {
                TransformBody::Sql { query, .. } => self.query(query),
                TransformBody::Command(_) | TransformBody::Outside => Ok(()),
            },
            Statement::Insert { tree, .. }
            | Statement::Update { tree, .. }
            | Statement::Delete { tree, .. }
            | Statement::Truncate { tree, .. }
            | Statement::CreateTable { tree, .. }
            | Statement::CreateView { tree, .. }
            | Statement::CreateExternalTable { tree, .. }
            | Statement::Set(tree)
            | Statement::Show(tree)
            | Statement::Describe(tree)
            | Statement::Copy(tree) => self.tree(tree),
            Statement::Drop { tree, .. } => match tree {
                Some(tree) => self.tree(tree),
                None => Ok(()),
            },
            // Refused as a whole, or without any clause.
            Statement::Prepare(_)
            | Statement::Execute(_)
            | Statement::Transaction(_)
            | Statement::Other(_)
            | Statement::ShowCreate(_)
            | Statement::Checkpoint => Ok(()),
        }
    }

    fn tree(&self, tree: &SyntaxTree) -> Checked {
        match tree {
            SyntaxTree::Statement(statement) => self.sql(statement),
            SyntaxTree::CreateExternalTable(create) => self.external_table(create),
            SyntaxTree::CopyTo(copy) => self.copy(copy),
            // Explain was taken apart before; RESET has a name only.
            SyntaxTree::Explain(_) | SyntaxTree::Reset(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
