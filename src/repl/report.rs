//! The text of an error for people: code, message, the line with a caret, detail, hint.
//! Pure; called by the prompt, by scripts and by the end of the process.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::error::{Error, Position};

/// Columns of a source line that are shown around the caret. Chosen: fits a terminal of 80
/// columns together with `LINE 1234: `.
const SHOWN_COLUMNS: usize = 66;

/// Where the statement of an error came from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// No SQL text: the command line, the store.
    Process,
    /// What was typed at the prompt.
    Prompt {
        /// All that was typed.
        text: &'a str,
    },
    /// A script.
    Script {
        /// The file, or what stands for it.
        name: &'a str,
        /// The whole script.
        text: &'a str,
        /// Where the statement begins; shown where the error itself has no place.
        start: Position,
    },
}

/// All parts of an error as lines. `position` is inside the whole text of `origin`.
pub fn render(error: &Error, origin: Origin<'_>, position: Option<Position>) -> String {
    let mut out = String::new();
    let text = match origin {
        Origin::Process => None,
        Origin::Prompt { text } => Some(text),
        Origin::Script { name, text, start } => {
            let Position { line, column } = position.unwrap_or(start);
            push(&mut out, format_args!("{name}:{line}:{column}: "));
            Some(text)
        }
    };
    push(
        &mut out,
        format_args!("error {}: {}\n", error.code(), error.message()),
    );
    if let (Some(text), Some(position)) = (text, position) {
        out.push_str(&caret(text, position));
    }
    if let Some(detail) = error.detail() {
        push(&mut out, format_args!("detail: {detail}\n"));
    }
    if let Some(hint) = error.hint() {
        push(&mut out, format_args!("hint: {hint}\n"));
    }
    out
}

/// The line of a position with a caret under its column; nothing where there is no such line.
fn caret(text: &str, position: Position) -> String {
    let index = usize::try_from(position.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(line) = text.split('\n').nth(index) else {
        return String::new();
    };
    let chars: Vec<char> = line.trim_end_matches('\r').chars().map(printable).collect();
    let column = usize::try_from(position.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let column = column.min(chars.len());
    let from = column.saturating_sub(SHOWN_COLUMNS / 2);
    let from = from.min(chars.len().saturating_sub(SHOWN_COLUMNS));
    let shown: String = chars.iter().skip(from).take(SHOWN_COLUMNS).collect();
    let (cut_left, cut_right) = (from > 0, chars.len() > from + SHOWN_COLUMNS);
    let head = format!(
        "LINE {}: {}",
        position.line,
        if cut_left { "..." } else { "" }
    );
    let before = chars.iter().skip(from).take(column - from);
    let pad = head.len() + before.map(|c| c.width().unwrap_or(0)).sum::<usize>();
    format!(
        "{head}{shown}{}\n{}^\n",
        if cut_right { "..." } else { "" },
        " ".repeat(pad)
    )
}

/// Control characters, tabs too, count as one column.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn at(line: u64, column: u64) -> Position {
        Position { line, column }
    }

    #[test]
    fn every_part_is_shown_in_order() {
        let error = Error::new(Code::SyntaxError, "expected an expression, found FROM")
            .with_detail("The list ends in a comma.")
            .with_hint("Remove the comma.");
        let text = "SELECT a,\n  b, FROM t";
        assert_eq!(
            render(&error, Origin::Prompt { text }, Some(at(2, 6))),
            "error SG1001: expected an expression, found FROM\n\
             LINE 2:   b, FROM t\n             ^\n\
             detail: The list ends in a comma.\n\
             hint: Remove the comma.\n"
        );
        let script = Origin::Script {
            name: "a.sql",
            text,
            start: at(1, 1),
        };
        let rendered = render(&error, script, Some(at(2, 6)));
        assert!(
            rendered.starts_with("a.sql:2:6: error SG1001: expected"),
            "{rendered}"
        );
        let rendered = render(&error, script, None);
        assert!(
            rendered.starts_with("a.sql:1:1: error SG1001: "),
            "{rendered}"
        );
        assert!(!rendered.contains('^'));
        assert!(render(&error, Origin::Process, None).starts_with("error SG1001: "));
    }

    #[track_caller]
    fn check(text: &str, position: Position, expected: &str) {
        assert_eq!(caret(text, position), expected);
    }

    #[test]
    fn caret_stands_under_its_column() {
        check("SELECT x", at(1, 8), "LINE 1: SELECT x\n               ^\n");
        check("\tx\r\ny", at(1, 2), "LINE 1:  x\n         ^\n");
        check("SELECT '\u{65e5}\u{672c}', x", at(1, 13), {
            "LINE 1: SELECT '\u{65e5}\u{672c}', x\n                      ^\n"
        });
    }

    #[test]
    fn caret_past_the_end_stands_behind_the_line() {
        check("SELECT", at(1, 99), "LINE 1: SELECT\n              ^\n");
        check("", at(1, 1), "LINE 1: \n        ^\n");
        check("SELECT", at(7, 1), "");
    }

    #[test]
    fn long_lines_show_a_window_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(200), "b".repeat(200));
        let shown = caret(&text, at(1, 201));
        let lines: Vec<_> = shown.lines().collect();
        assert!(
            lines[0].starts_with("LINE 1: ...a") && lines[0].ends_with("b..."),
            "{shown}"
        );
        assert_eq!(lines[0].find('X'), lines[1].find('^'));
        assert!(lines[0].len() <= 80);
    }
}
