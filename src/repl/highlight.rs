//! Colours for SQL that is being typed, by the tokenizer: what a string or comment is here is
//! what the session will take it for.

use datafusion::sql::sqlparser::tokenizer::{Token, Whitespace};
use nu_ansi_term::{Color, Style};
use reedline::{Highlighter, StyledText};

use crate::session::script::tokens_so_far;

/// The keywords that are coloured and completed: those of a query and of our own statements. The
/// tokenizer's own list has hundreds more, most of which are also good column names.
pub const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "APPLY",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CALL",
    "CASE",
    "CAST",
    "CHECKPOINT",
    "COMMAND",
    "CREATE",
    "CRON",
    "CROSS",
    "DATE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "KEY",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTPUT",
    "OVER",
    "PARQUET",
    "PARTITION",
    "PLAN",
    "PREVIEW",
    "PRIMARY",
    "QUALIFY",
    "REPLACE",
    "RIGHT",
    "SCHEDULE",
    "SELECT",
    "SET",
    "SHOW",
    "STATUS",
    "TABLE",
    "THEN",
    "TIMESTAMP",
    "TO",
    "TRANSFORM",
    "TRUE",
    "UNION",
    "UPDATE",
    "USING",
    "VALUES",
    "VIEW",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Colours keywords, texts, numbers and comments.
pub struct SqlHighlighter;

impl Highlighter for SqlHighlighter {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let mut styled = StyledText::new();
        if line.trim_start().starts_with('\\') {
            styled.push((Color::Cyan.normal(), line.to_owned()));
            return styled;
        }
        let mut done = 0;
        for (token, range) in tokens_so_far(line) {
            if let Some(text) = line.get(done..range.end).filter(|text| !text.is_empty()) {
                styled.push((style(&token), text.to_owned()));
                done = range.end;
            }
        }
        // What follows the last token is a text, name or comment without its end.
        if let Some(rest) = line.get(done..).filter(|rest| !rest.is_empty()) {
            styled.push((Color::Green.normal(), rest.to_owned()));
        }
        styled
    }
}

/// Whether a word is one of [`KEYWORDS`].
pub fn keyword(word: &str) -> bool {
    KEYWORDS
        .binary_search(&word.to_ascii_uppercase().as_str())
        .is_ok()
}

fn style(token: &Token) -> Style {
    match token {
        Token::Word(word) if word.quote_style.is_none() && keyword(&word.value) => {
            Color::Blue.bold()
        }
        Token::Number(..) => Color::Magenta.normal(),
        Token::SingleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::DollarQuotedString(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::UnicodeStringLiteral(_) => Color::Green.normal(),
        Token::Whitespace(
            Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_),
        ) => Style::new().dimmed(),
        // The tokens belong to another crate, and all others are plain.
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
        assert!(keyword("select") && !keyword("notice_id"));
    }

    #[test]
    fn highlighting_keeps_every_character() {
        for line in [
            "SELECT 'a;\u{e4}' -- x",
            "SELECT \"a",
            "SELECT 'open\ntext",
            "\\d notices",
            "",
            "/* open",
            "SELECT $$x$$ ; \u{1f600}",
        ] {
            let styled = SqlHighlighter.highlight(line, 0);
            let text: String = styled
                .buffer
                .iter()
                .map(|(_, text)| text.as_str())
                .collect();
            assert_eq!(text, line);
        }
    }

    #[test]
    fn keywords_and_texts_differ_in_style() {
        let styled = SqlHighlighter.highlight("SELECT 'FROM' FROM x", 0).buffer;
        let of = |text: &str| styled.iter().find(|(_, t)| t == text).map(|(s, _)| *s);
        assert_eq!(of("SELECT"), of("FROM"));
        assert_ne!(of("'FROM'"), of("FROM"));
        assert_eq!(of("x"), Some(Style::new()));
    }
}
