//! Splits a script into statements by the SQL tokenizer, so that a `;` inside a string, a quoted
//! name, a comment or a dollar quote ends nothing.
//!
//! Invariants: the text of a statement runs from its first token to its last, without the `;`;
//! a piece that holds only whitespace and comments is no statement; positions count characters.
//! Pure. Called by the REPL, by scripts and by whoever takes more than one statement as text.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{
    Location, Token, TokenWithSpan, Tokenizer, TokenizerError,
};

use crate::error::{Code, Error, Position, Result};

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptStatement {
    /// The statement from its first token to its last, without the `;`.
    pub text: String,
    /// Where its first token stands in the script.
    pub position: Position,
}

impl ScriptStatement {
    /// Turns a position inside the statement's text into one inside the script.
    pub fn in_script(&self, inner: Position) -> Position {
        if inner.line <= 1 {
            Position {
                line: self.position.line,
                column: self.position.column + inner.column.saturating_sub(1),
            }
        } else {
            Position {
                line: self.position.line + inner.line - 1,
                column: inner.column,
            }
        }
    }
}

/// How a text that is still being typed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing but whitespace and comments.
    Empty,
    /// The last token is a `;`, or the text cannot become right by typing on.
    Closed,
    /// A statement, string, name or comment is not ended yet.
    Open,
}

/// Splits a script at each `;` outside strings, quoted names, comments and dollar quotes.
///
/// # Errors
/// SG1001 syntax-error: a string, quoted name or comment has no end; the position is its start
/// where the tokenizer knows it.
pub fn split_statements(script: &str) -> Result<Vec<ScriptStatement>> {
    let tokens = tokenize(script).map_err(|(_, error)| syntax_error(&error))?;
    let mut offsets = Offsets::new(script);
    let mut statements = Vec::new();
    let mut open: Option<(Location, usize, usize)> = None;
    for token in &tokens {
        match token.token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => statements.extend(open.take().and_then(|o| cut(script, o))),
            _ => {
                let start = offsets.at(token.span.start);
                let end = offsets.at(token.span.end);
                let (first, from, _) = open.unwrap_or((token.span.start, start, end));
                open = Some((first, from, end));
            }
        }
    }
    statements.extend(open.and_then(|o| cut(script, o)));
    Ok(statements)
}

/// Tells whether a text that is being typed is ready to run.
pub fn ending(text: &str) -> Ending {
    match tokenize(text) {
        Ok(tokens) => {
            let last = tokens
                .iter()
                .rev()
                .find(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF));
            match last.map(|t| &t.token) {
                None => Ending::Empty,
                Some(Token::SemiColon) => Ending::Closed,
                Some(_) => Ending::Open,
            }
        }
        Err((_, error)) if unfinished(&error) => Ending::Open,
        Err(_) => Ending::Closed,
    }
}

/// The tokens of a text; where it cannot be tokenized to its end, those before the error.
pub(crate) fn tokens_so_far(text: &str) -> Vec<(Token, std::ops::Range<usize>)> {
    let tokens = match tokenize(text) {
        Ok(tokens) => tokens,
        Err((tokens, _)) => tokens,
    };
    let mut offsets = Offsets::new(text);
    tokens
        .into_iter()
        .map(|t| {
            let start = offsets.at(t.span.start);
            (t.token, start..offsets.at(t.span.end).max(start))
        })
        .collect()
}

fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>, (Vec<TokenWithSpan>, TokenizerError)> {
    let dialect = GenericDialect {};
    let mut tokens = Vec::new();
    match Tokenizer::new(&dialect, text).tokenize_with_location_into_buf(&mut tokens) {
        Ok(()) => Ok(tokens),
        Err(error) => Err((tokens, error)),
    }
}

/// The tokenizer has no kinds of errors, only texts; each of those that typing on can mend says
/// so in one of these ways.
fn unfinished(error: &TokenizerError) -> bool {
    ["Unterminated", "before EOF", "Unexpected EOF"]
        .iter()
        .any(|s| error.message.contains(s))
}

fn syntax_error(error: &TokenizerError) -> Error {
    let message = error.message.trim_end_matches('.');
    let mut chars = message.chars();
    let lower: String = chars
        .next()
        .map(|c| c.to_ascii_lowercase())
        .into_iter()
        .chain(chars)
        .collect();
    let hint = if unfinished(error) {
        "Close the string, quoted name or comment that opens here; nothing of the script was run."
    } else {
        "Correct the text at this place; nothing of the script was run."
    };
    Error::new(Code::SyntaxError, lower)
        .with_position(Position {
            line: error.location.line.max(1),
            column: error.location.column.max(1),
        })
        .with_hint(hint)
}

fn cut(script: &str, (first, from, to): (Location, usize, usize)) -> Option<ScriptStatement> {
    let text = script.get(from..to)?.to_owned();
    Some(ScriptStatement {
        text,
        position: Position {
            line: first.line,
            column: first.column,
        },
    })
}

/// Turns the tokenizer's lines and columns into byte offsets in one pass over the text. It counts
/// as the tokenizer does: only `\n` ends a line, and a column is a character.
struct Offsets<'a> {
    text: &'a str,
    offset: usize,
    line: u64,
    column: u64,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            offset: 0,
            line: 1,
            column: 1,
        }
    }

    fn at(&mut self, location: Location) -> usize {
        if (location.line, location.column) < (self.line, self.column) {
            *self = Self::new(self.text);
        }
        let rest = self.text.get(self.offset..).unwrap_or_default();
        for c in rest.chars() {
            if (self.line, self.column) >= (location.line, location.column) {
                break;
            }
            self.offset += c.len_utf8();
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(script: &str, expected: &[(&str, u64, u64)]) {
        let statements = split_statements(script).unwrap();
        let found: Vec<_> = statements
            .iter()
            .map(|s| (s.text.as_str(), s.position.line, s.position.column))
            .collect();
        assert_eq!(found, expected, "script: {script:?}");
    }

    #[test]
    fn statements_end_at_semicolons_not_at_lines() {
        check(
            "SELECT 1; SELECT 2;",
            &[("SELECT 1", 1, 1), ("SELECT 2", 1, 11)],
        );
        check(
            "SELECT\n  1\n;\n\n  SELECT 2",
            &[("SELECT\n  1", 1, 1), ("SELECT 2", 5, 3)],
        );
        check(
            "SELECT 1;\r\nSELECT 2;\r\n",
            &[("SELECT 1", 1, 1), ("SELECT 2", 2, 1)],
        );
    }

    #[test]
    fn semicolons_inside_quotes_and_comments_end_nothing() {
        check(
            "SELECT 'a;b', 'it''s;';",
            &[("SELECT 'a;b', 'it''s;'", 1, 1)],
        );
        check(
            "SELECT \"a;\"\"b\" FROM t;",
            &[("SELECT \"a;\"\"b\" FROM t", 1, 1)],
        );
        check(
            "SELECT $$a;b$$; SELECT 1",
            &[("SELECT $$a;b$$", 1, 1), ("SELECT 1", 1, 17)],
        );
        check("SELECT $q$;$$;$q$", &[("SELECT $q$;$$;$q$", 1, 1)]);
        check(
            "SELECT 1 -- one; two\n, 2;",
            &[("SELECT 1 -- one; two\n, 2", 1, 1)],
        );
        check(
            "SELECT /* ; /* ; */ ; */ 1;",
            &[("SELECT /* ; /* ; */ ; */ 1", 1, 1)],
        );
        check("SELECT E'\\';', 1;", &[("SELECT E'\\';', 1", 1, 1)]);
        check(
            "SELECT '\\'; SELECT 2",
            &[("SELECT '\\'", 1, 1), ("SELECT 2", 1, 13)],
        );
    }

    #[test]
    fn comments_and_empty_statements_are_no_statements() {
        check("", &[]);
        check(" ;; -- only this\n /* and this */ ;", &[]);
        check("SELECT 1; -- the end", &[("SELECT 1", 1, 1)]);
        check("-- head\nSELECT 1", &[("SELECT 1", 2, 1)]);
        check("SELECT 1 /* tail */ ;", &[("SELECT 1", 1, 1)]);
    }

    #[test]
    fn positions_count_characters_and_texts_keep_them() {
        let text = "SELECT '\u{e4}\u{20ac}\u{1f600}'; SELECT '\u{e4};' AS x;";
        check(
            text,
            &[
                ("SELECT '\u{e4}\u{20ac}\u{1f600}'", 1, 1),
                ("SELECT '\u{e4};' AS x", 1, 15),
            ],
        );
    }

    #[test]
    fn unterminated_text_is_a_syntax_error_at_its_start() {
        for (script, line, column) in [
            ("SELECT 1;\nSELECT 'abc;\n", 2, 8),
            ("SELECT 1, \"abc;", 1, 11),
        ] {
            let error = split_statements(script).unwrap_err();
            assert_eq!(error.code(), Code::SyntaxError);
            assert_eq!(
                error.position(),
                Some(Position { line, column }),
                "{script:?}"
            );
        }
        assert_eq!(
            split_statements("SELECT 1 /* a").unwrap_err().code(),
            Code::SyntaxError
        );
        assert_eq!(
            split_statements("SELECT $$a").unwrap_err().code(),
            Code::SyntaxError
        );
    }

    #[test]
    fn typing_goes_on_until_the_last_token_is_a_semicolon() {
        for (text, expected) in [
            ("", Ending::Empty),
            ("  -- note\n", Ending::Empty),
            (";", Ending::Closed),
            ("SELECT 1", Ending::Open),
            ("SELECT 1;", Ending::Closed),
            ("SELECT 1; -- done", Ending::Closed),
            ("SELECT 1; SELECT", Ending::Open),
            ("SELECT ';", Ending::Open),
            ("SELECT \";", Ending::Open),
            ("SELECT $$;", Ending::Open),
            ("SELECT $tag$;", Ending::Open),
            ("SELECT E';", Ending::Open),
            ("/* ;", Ending::Open),
        ] {
            assert_eq!(ending(text), expected, "{text:?}");
        }
    }

    #[test]
    fn inner_positions_move_by_the_place_of_the_statement() {
        let statement = &split_statements("SELECT 1;\n   SELECT\n  x").unwrap()[1];
        let at = |line, column| statement.in_script(Position { line, column });
        assert_eq!(
            at(1, 8),
            Position {
                line: 2,
                column: 11
            }
        );
        assert_eq!(at(2, 3), Position { line: 3, column: 3 });
    }
}
