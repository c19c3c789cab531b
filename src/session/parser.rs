//! From text to [`Statement`]: DataFusion's parser, and our own statements around it.
//!
//! Every error carries the position in the text. The texts of statements, views and transforms
//! are slices of what was sent, never printed from the syntax tree.

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{CopyToSource, DFParser, DFParserBuilder, Statement as SyntaxTree};
use datafusion::sql::sqlparser::ast::{
    CreateTable, CreateView, FromTable, Ident, ObjectName, ObjectNamePart, ObjectType, Query,
    Statement as SqlStatement, TableFactor, TableObject, TableWithJoins,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{
    Location, Token, TokenWithSpan, Tokenizer, TokenizerError, Word,
};

use crate::error::{Code, Error, Position, Result};
use crate::session::gate::names_effect;
use crate::session::statement::{DropKind, Existing, Missing, Parsed, Statement};

mod depth;
mod transform;

/// The catalog and schema of everything; both are DataFusion's defaults.
pub const CATALOG: &str = "datafusion";
/// See [`CATALOG`].
pub const SCHEMA: &str = "public";

/// How deep expressions and subqueries may nest. Chosen: well within a 2 MiB stack, and far more
/// than people write.
const NESTING_MAX: usize = 100;

/// Parses exactly one statement.
///
/// # Errors
/// `SG1001 syntax-error` with the position, also for an empty text and for more than one
/// statement; `SG2004 invalid-definition` for options of a transform.
pub fn parse(sql: &str) -> Result<Parsed> {
    let text = Source::try_new(sql)?;
    let tokens = text.significant();
    let Some(first) = tokens.first() else {
        return Err(Error::new(Code::SyntaxError, "there is no statement")
            .with_hint("Write one SQL statement, such as SELECT * FROM jobs."));
    };
    depth::check(&text.tokens)?;
    let start = first.span.start;
    let mut parser = DFParserBuilder::new(text.tokens.clone())
        .with_recursion_limit(NESTING_MAX)
        .build()
        .map_err(|error| syntax_error(&error))?;
    let statement = parse_statement(&text, &mut parser)?;
    let ended = parser.parser.consume_token(&Token::SemiColon);
    while parser.parser.consume_token(&Token::SemiColon) {}
    let next = parser.parser.peek_token();
    match &next.token {
        Token::EOF => {}
        _ if ended => {
            return Err(
                Error::new(Code::SyntaxError, "there is more than one statement")
                    .with_hint("Send the statements one by one; each is one commit.")
                    .with_position(position(next.span.start)),
            );
        }
        _ => return Err(expected("end of statement", &next)),
    }
    Ok(Parsed {
        text: text.slice(start, text.end).to_owned(),
        statement,
    })
}

/// A piece of a script: one statement and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text, without the semicolon.
    pub text: String,
    /// Where it begins in the script.
    pub start: Position,
}

impl Piece {
    /// A position within the piece as one within the script.
    pub fn in_script(&self, at: Position) -> Position {
        let column = if at.line == 1 {
            at.column + self.start.column - 1
        } else {
            at.column
        };
        Position {
            line: at.line + self.start.line - 1,
            column,
        }
    }
}

/// Splits a script at its semicolons, not at those in texts and comments. Pieces without a
/// statement are left out. A last piece without semicolon counts.
///
/// # Errors
/// `SG1001 syntax-error`: a text, name or comment that does not end.
pub fn split(sql: &str) -> Result<Vec<Piece>> {
    let text = Source::try_new(sql)?;
    let mut pieces = Vec::new();
    let mut open: Option<(Location, Location)> = None;
    for token in text.significant_and_semicolons() {
        if token.token == Token::SemiColon {
            pieces.extend(open.take());
        } else {
            let start = open.map_or(token.span.start, |(start, _)| start);
            open = Some((start, token.span.end));
        }
    }
    pieces.extend(open);
    Ok(pieces
        .into_iter()
        .map(|(start, end)| Piece {
            text: text.slice(start, end).to_owned(),
            start: position(start),
        })
        .collect())
}

/// The text with its tokens.
struct Source<'a> {
    sql: &'a str,
    tokens: Vec<TokenWithSpan>,
    /// Where the last token ends that is neither blank, comment nor semicolon.
    end: Location,
}

impl<'a> Source<'a> {
    fn try_new(sql: &'a str) -> Result<Self> {
        let dialect = GenericDialect {};
        let tokens = Tokenizer::new(&dialect, sql)
            .tokenize_with_location()
            .map_err(|TokenizerError { message, location }| {
                Error::new(Code::SyntaxError, lower_first(&message))
                    .with_position(position(location))
            })?;
        let mut source = Self {
            sql,
            tokens,
            end: Location::new(1, 1),
        };
        if let Some(last) = source.significant().last() {
            source.end = last.span.end;
        }
        Ok(source)
    }

    fn significant_and_semicolons(&self) -> impl Iterator<Item = &TokenWithSpan> {
        self.tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
    }

    fn significant(&self) -> Vec<&TokenWithSpan> {
        self.significant_and_semicolons()
            .filter(|token| token.token != Token::SemiColon)
            .collect()
    }

    fn offset(&self, at: Location) -> usize {
        let lines_before = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let line_start: usize = self
            .sql
            .split_inclusive('\n')
            .take(lines_before)
            .map(str::len)
            .sum();
        let line = self.sql.get(line_start..).unwrap_or_default();
        let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
        line.char_indices()
            .nth(column)
            .map_or(self.sql.len(), |(offset, _)| line_start + offset)
    }

    fn slice(&self, start: Location, end: Location) -> &'a str {
        let (start, end) = (self.offset(start), self.offset(end));
        self.sql.get(start..end).unwrap_or_default()
    }
}

fn position(at: Location) -> Position {
    Position {
        line: at.line,
        column: at.column,
    }
}

fn expected(what: &str, found: &TokenWithSpan) -> Error {
    let found_text = match &found.token {
        Token::EOF => "the end".to_owned(),
        token => format!("\"{token}\""),
    };
    let error = Error::new(
        Code::SyntaxError,
        format!("expected {what}, found {found_text}"),
    );
    // The end of the text has no position of its own.
    if found.span.start.line == 0 {
        error
    } else {
        error.with_position(position(found.span.start))
    }
}

/// The syntax error of DataFusion's parser as ours, with the position out of its text.
pub fn syntax_error(error: &DataFusionError) -> Error {
    let message = match error {
        DataFusionError::SQL(inner, _) => match inner.as_ref() {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                message.clone()
            }
            ParserError::RecursionLimitExceeded => {
                return Error::new(Code::SyntaxError, "the statement nests too deep")
                    .with_hint("Split it with WITH or a view.");
            }
        },
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            return syntax_error(inner);
        }
        other => other.strip_backtrace(),
    };
    let (message, at) = take_position(&message);
    let message = message
        .strip_prefix("Expected: ")
        .map_or_else(|| lower_first(message), |rest| format!("expected {rest}"))
        .replace(", found: EOF", ", found the end")
        .replace(", found: ", ", found ");
    let error = Error::new(Code::SyntaxError, message);
    match at {
        Some(at) => error.with_position(at),
        None => error,
    }
}

/// Splits ` at Line: 1, Column: 5` off the end of a message.
fn take_position(message: &str) -> (&str, Option<Position>) {
    let Some((before, after)) = message.rsplit_once(" at Line: ") else {
        return (message, None);
    };
    let mut numbers = after
        .split(", Column: ")
        .map(|number| number.trim().parse::<u64>());
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(line)), Some(Ok(column)), None) => (before, Some(Position { line, column })),
        _ => (message, None),
    }
}

fn lower_first(message: &str) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn parse_statement(source: &Source<'_>, parser: &mut DFParser<'_>) -> Result<Statement> {
    if take_words(parser, &["PREVIEW"]) {
        let begin = parser.parser.peek_token();
        let inner = parse_statement(source, parser)?;
        return match inner {
            Statement::Effect(_) | Statement::Call(_) => Ok(Statement::Preview(Box::new(inner))),
            _ => Err(Error::new(Code::SyntaxError, "there is no effect to preview")
                .with_hint(
                    "Write PREVIEW SELECT schedule_job(...) FROM ..., or run the query as it is.",
                )
                .with_position(position(begin.span.start))),
        };
    }
    if take_words(parser, &["SHOW", "CREATE"]) {
        let kinds: [&[&str]; 4] = [
            &["TABLE"],
            &["EXTERNAL", "TABLE"],
            &["VIEW"],
            &["TRANSFORM"],
        ];
        if !kinds.iter().any(|words| take_words(parser, words)) {
            let next = parser.parser.peek_token();
            return Err(expected("TABLE, VIEW or TRANSFORM", &next));
        }
        let name = from_parser(parser.parser.parse_object_name(false))?;
        return Ok(Statement::ShowCreate(relation_name(&name)));
    }
    if take_words(parser, &["CHECKPOINT"]) {
        return Ok(Statement::Checkpoint);
    }
    if take_words(parser, &["DROP", "TRANSFORM"]) {
        let missing = if parser
            .parser
            .parse_keywords(&[Keyword::IF, Keyword::EXISTS])
        {
            Missing::Ignore
        } else {
            Missing::Refuse
        };
        let name = parse_name(parser)?;
        return Ok(Statement::Drop {
            kind: DropKind::Transform,
            name,
            missing,
            tree: None,
        });
    }
    if take_words(parser, &["CREATE", "TRANSFORM"]) {
        return transform::parse(source, parser, Existing::Refuse);
    }
    if take_words(parser, &["CREATE", "OR", "REPLACE", "TRANSFORM"]) {
        return transform::parse(source, parser, Existing::Replace);
    }
    let tree = parser
        .parse_statement()
        .map_err(|error| syntax_error(&error))?;
    classify(source, tree)
}

/// Consumes these words if all of them come next. Most are no keywords of the parser.
fn take_words(parser: &mut DFParser<'_>, words: &[&str]) -> bool {
    let found = words.iter().enumerate().all(|(n, word)| {
        matches!(
            parser.parser.peek_nth_token(n).token,
            Token::Word(Word { ref value, quote_style: None, .. })
                if value.eq_ignore_ascii_case(word)
        )
    });
    if found {
        for _ in words {
            parser.parser.next_token();
        }
    }
    found
}

fn expect_words(parser: &mut DFParser<'_>, words: &[&str]) -> Result<()> {
    if take_words(parser, words) {
        return Ok(());
    }
    Err(expected(&words.join(" "), &parser.parser.peek_token()))
}

fn from_parser<T>(result: Result<T, ParserError>) -> Result<T> {
    result.map_err(|error| syntax_error(&DataFusionError::SQL(Box::new(error), None)))
}

fn parse_name(parser: &mut DFParser<'_>) -> Result<String> {
    Ok(object_name(&from_parser(
        parser.parser.parse_object_name(false),
    )?))
}

/// A name as DataFusion resolves it: unquoted parts in lower case, parts joined by dots.
pub fn object_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => identifier(ident),
            ObjectNamePart::Function(function) => function.to_string(),
        })
        .collect();
    parts.join(".")
}

/// The name of a table or view, without the catalog and the schema that every store has.
pub fn relation_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident().map(identifier))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [SCHEMA, table] | [CATALOG, SCHEMA, table] => (*table).to_owned(),
        _ => object_name(name),
    }
}

/// An identifier as DataFusion resolves it: in lower case unless quoted.
pub fn identifier(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

fn query(query: Box<Query>) -> Statement {
    if names_effect(query.as_ref()) {
        Statement::Effect(query)
    } else {
        Statement::Query(query)
    }
}

fn classify(source: &Source<'_>, tree: SyntaxTree) -> Result<Statement> {
    let tree = match tree {
        SyntaxTree::Statement(statement) => return classify_sql(source, statement),
        tree => Box::new(tree),
    };
    Ok(match tree.as_ref() {
        SyntaxTree::Statement(_) => return Err(Error::bug("a statement was classified twice")),
        SyntaxTree::CreateExternalTable(create) => Statement::CreateExternalTable {
            table: relation_name(&create.name),
            tree,
        },
        SyntaxTree::CopyTo(copy) => match copy.source {
            CopyToSource::Relation(_) | CopyToSource::Query(_) => Statement::Copy(tree),
        },
        SyntaxTree::Explain(explain) => Statement::Explain {
            options: Box::new(explain.options.clone()),
            statement: Box::new(classify(source, explain.statement.as_ref().clone())?),
            tree,
        },
        SyntaxTree::Reset(_) => Statement::Set(tree),
    })
}

fn classify_sql(source: &Source<'_>, statement: Box<SqlStatement>) -> Result<Statement> {
    let statement = match *statement {
        SqlStatement::Query(inner) => return Ok(query(inner)),
        SqlStatement::Call(function) => return Ok(Statement::Call(Box::new(function))),
        other => other,
    };
    let class = class_of(source, &statement)?;
    let tree = Box::new(SyntaxTree::Statement(Box::new(statement)));
    Ok(match class {
        Class::Insert(table) => Statement::Insert { table, tree },
        Class::Update(table) => Statement::Update { table, tree },
        Class::Delete(table) => Statement::Delete { table, tree },
        Class::Truncate(table) => Statement::Truncate { table, tree },
        Class::CreateTable(table, existing) => Statement::CreateTable {
            table,
            existing,
            tree,
        },
        Class::CreateView(name, existing, body) => Statement::CreateView {
            name,
            existing,
            body,
            tree,
        },
        Class::Drop(kind, name, missing) => Statement::Drop {
            kind,
            name,
            missing,
            tree: Some(tree),
        },
        Class::Set => Statement::Set(tree),
        Class::Show => Statement::Show(tree),
        Class::Describe => Statement::Describe(tree),
        Class::Prepare => Statement::Prepare(tree),
        Class::Execute => Statement::Execute(tree),
        Class::Transaction => Statement::Transaction(tree),
        Class::Other => Statement::Other(tree),
    })
}

/// What [`classify_sql`] takes out of a tree before it gives the tree away.
enum Class {
    Insert(String),
    Update(String),
    Delete(String),
    Truncate(String),
    CreateTable(String, Existing),
    CreateView(String, Existing, String),
    Drop(DropKind, String, Missing),
    Set,
    Show,
    Describe,
    Prepare,
    Execute,
    Transaction,
    Other,
}

fn class_of(source: &Source<'_>, statement: &SqlStatement) -> Result<Class> {
    Ok(match statement {
        SqlStatement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => Class::Insert(relation_name(name)),
            TableObject::TableFunction(_) | TableObject::TableQuery(_) => Class::Other,
        },
        SqlStatement::Update(update) => named(&update.table).map_or(Class::Other, Class::Update),
        SqlStatement::Delete(delete) => match &delete.from {
            FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => {
                match tables.as_slice() {
                    [table] if delete.tables.is_empty() => {
                        named(table).map_or(Class::Other, Class::Delete)
                    }
                    _ => Class::Other,
                }
            }
        },
        SqlStatement::Truncate(truncate) => match truncate.table_names.as_slice() {
            [table] if truncate.partitions.is_none() => Class::Truncate(relation_name(&table.name)),
            _ => Class::Other,
        },
        SqlStatement::CreateTable(CreateTable {
            name,
            or_replace,
            if_not_exists,
            ..
        }) => Class::CreateTable(relation_name(name), existing(*or_replace, *if_not_exists)?),
        SqlStatement::CreateView(CreateView {
            name,
            or_replace,
            if_not_exists,
            materialized: false,
            ..
        }) => Class::CreateView(
            relation_name(name),
            existing(*or_replace, *if_not_exists)?,
            source.view_body().to_owned(),
        ),
        SqlStatement::Drop {
            object_type,
            if_exists,
            names,
            ..
        } => {
            let kind = match object_type {
                ObjectType::Table => DropKind::Table,
                ObjectType::View => DropKind::View,
                _ => return Ok(Class::Other),
            };
            let missing = if *if_exists {
                Missing::Ignore
            } else {
                Missing::Refuse
            };
            match names.as_slice() {
                [name] => Class::Drop(kind, relation_name(name), missing),
                _ => Class::Other,
            }
        }
        SqlStatement::Set(_) => Class::Set,
        SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowTables { .. } => Class::Show,
        SqlStatement::ExplainTable { .. } => Class::Describe,
        SqlStatement::Prepare { .. } => Class::Prepare,
        SqlStatement::Execute { .. } | SqlStatement::Deallocate { .. } => Class::Execute,
        SqlStatement::StartTransaction { .. }
        | SqlStatement::Commit { .. }
        | SqlStatement::Rollback { .. }
        | SqlStatement::Savepoint { .. }
        | SqlStatement::ReleaseSavepoint { .. } => Class::Transaction,
        // The tree is not ours: what it gains in a new release stays refused until it is known.
        _ => Class::Other,
    })
}

fn named(table: &TableWithJoins) -> Option<String> {
    match &table.relation {
        TableFactor::Table {
            name, args: None, ..
        } if table.joins.is_empty() => Some(relation_name(name)),
        _ => None,
    }
}

fn existing(or_replace: bool, if_not_exists: bool) -> Result<Existing> {
    match (or_replace, if_not_exists) {
        (false, false) => Ok(Existing::Refuse),
        (true, false) => Ok(Existing::Replace),
        (false, true) => Ok(Existing::Keep),
        (true, true) => Err(both_or_replace_and_if_not_exists()),
    }
}

fn both_or_replace_and_if_not_exists() -> Error {
    Error::new(
        Code::SyntaxError,
        "OR REPLACE and IF NOT EXISTS exclude each other",
    )
    .with_hint("Write one of them.")
}

impl<'a> Source<'a> {
    /// What follows the first AS outside parentheses, after VIEW.
    fn view_body(&self) -> &'a str {
        let mut depth = 0_usize;
        let mut view_seen = false;
        let mut tokens = self.significant().into_iter();
        for token in tokens.by_ref() {
            match &token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                Token::Word(word) if depth == 0 && word.keyword == Keyword::VIEW => {
                    view_seen = true;
                }
                Token::Word(word)
                    if depth == 0
                        && view_seen
                        && word.quote_style.is_none()
                        && word.keyword == Keyword::AS =>
                {
                    break;
                }
                _ => {}
            }
        }
        match tokens.next() {
            Some(first) => self.slice(first.span.start, self.end),
            None => "",
        }
    }
}

#[cfg(test)]
mod tests;
