//! Scripts: `-f FILE`, `-c SQL`, standard input and `\i FILE`.
//!
//! Invariants: the whole script is split before its first statement runs, so that an unterminated
//! string runs nothing; statements run in order; an error is reported with its place in the file.

use std::io::Read;
use std::path::Path;

use super::report::{Origin, render};
use super::statement::{Ended, Runner};
use crate::error::{Code, Error, Position, Result};
use crate::session::script::{ScriptStatement, split_statements};

/// What follows an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Nothing more runs.
    Stop,
    /// The next statement runs.
    KeepGoing,
}

/// How a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptEnd {
    /// Every statement ran.
    Done,
    /// At least one statement failed or was declined.
    Failed,
    /// Ctrl-C.
    Cancelled,
    /// The reader of the output has gone.
    OutputClosed,
}

/// The text of a script file; `-` is standard input.
///
/// # Errors
/// SG6002 file-unreadable: it does not exist, may not be read, or is not UTF-8.
pub fn read_script(path: &Path) -> Result<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = read.map_err(|error| {
        Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" cannot be read", path.display()),
        )
        .with_detail(error.to_string())
        .with_hint("Name an SQL script in UTF-8 that exists and that you may read.")
        .with_source(error)
    })?;
    // Editors on Windows put a byte order mark first, which is no SQL.
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

/// Runs the statements of a script and reports errors as `name:line:column: error CODE: ...`.
pub async fn run_script(
    runner: &mut Runner,
    name: &str,
    text: &str,
    on_error: OnError,
) -> ScriptEnd {
    let origin = |start| Origin::Script { name, text, start };
    let statements = match split_statements(text) {
        Ok(statements) => statements,
        Err(error) => {
            let start = Position { line: 1, column: 1 };
            runner.note(&render(&error, origin(start), error.position()));
            return ScriptEnd::Failed;
        }
    };
    let mut end = ScriptEnd::Done;
    for statement in &statements {
        match run_one(runner, statement).await {
            Ok(Ended::Done) => continue,
            Ok(Ended::Cancelled) => return ScriptEnd::Cancelled,
            Ok(Ended::OutputClosed) => return ScriptEnd::OutputClosed,
            Ok(Ended::Declined) => {}
            Err(error) => {
                let position = error.position().map(|p| statement.in_script(p));
                runner.note(&render(&error, origin(statement.position), position));
            }
        }
        end = ScriptEnd::Failed;
        match on_error {
            OnError::Stop => break,
            OnError::KeepGoing => {}
        }
    }
    end
}

async fn run_one(runner: &mut Runner, statement: &ScriptStatement) -> Result<Ended> {
    if statement.text.starts_with('\\') {
        let word = statement.text.split_whitespace().next().unwrap_or_default();
        return Err(Error::new(
            Code::SyntaxError,
            format!("command \"{word}\" does not belong in a script"),
        )
        .with_position(Position { line: 1, column: 1 })
        .with_hint("Commands with a backslash work at the prompt; write SQL here."));
    }
    runner.run(&statement.text).await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::format::Format;
    use crate::repl::output::Output;
    use crate::repl::statement::Confirm;

    struct Notes(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Notes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The end, the data and the notes of a script.
    async fn run(
        script: &str,
        on_error: OnError,
        confirm: Option<Confirm>,
    ) -> (ScriptEnd, String, String) {
        let engine = Engine::open(EngineOptions::new("memory://")).await;
        let session = engine.unwrap().session("test");
        let (data, notes) = (Arc::default(), Arc::default());
        let mut runner = Runner::new(session, Format::Csv, confirm)
            .with_notes(Box::new(Notes(Arc::clone(&notes))));
        runner.output = Output::memory(&data);
        let end = run_script(&mut runner, "a.sql", script, on_error).await;
        let text = |bytes: &Mutex<Vec<u8>>| String::from_utf8(bytes.lock().unwrap().clone());
        (end, text(&data).unwrap(), text(&notes).unwrap())
    }

    const BROKEN: &str = "SELECT 1 AS a;\n  SELEC 2;\nSELECT 3 AS b;";

    #[tokio::test(flavor = "multi_thread")]
    async fn first_error_stops_a_script_and_tells_its_place() {
        let (end, data, notes) = run(BROKEN, OnError::Stop, None).await;
        assert_eq!((end, data.as_str()), (ScriptEnd::Failed, "a\n1\n"));
        assert!(notes.starts_with("a.sql:2:3: error SG1"), "{notes}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keep_going_runs_the_rest_and_still_fails() {
        let (end, data, _) = run(BROKEN, OnError::KeepGoing, None).await;
        assert_eq!((end, data.as_str()), (ScriptEnd::Failed, "a\n1\nb\n3\n"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn unterminated_string_runs_nothing() {
        let (end, data, notes) = run("SELECT 1;\nSELECT 'x;", OnError::KeepGoing, None).await;
        assert_eq!((end, data.as_str()), (ScriptEnd::Failed, ""));
        assert!(notes.starts_with("a.sql:2:8: error SG1001: "), "{notes}");
        assert!(
            notes.contains("LINE 2: SELECT 'x;\n               ^\n"),
            "{notes}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn backslash_commands_are_refused_with_the_way_out() {
        let (end, _, notes) = run("SELECT 1;\n\\d t", OnError::Stop, None).await;
        assert_eq!(end, ScriptEnd::Failed);
        assert!(
            notes.contains("a.sql:2:1: error SG1001: command \"\\d\""),
            "{notes}"
        );
    }

    const EFFECT: &str = "SELECT acquire_lock(concat('@r/', value)) FROM generate_series(1, 1001)";

    #[tokio::test(flavor = "multi_thread")]
    async fn large_effects_run_only_after_yes() {
        let (end, data, notes) = run(EFFECT, OnError::Stop, Some(|_| false)).await;
        assert_eq!((end, data.as_str()), (ScriptEnd::Failed, ""));
        assert_eq!(notes, "nothing was done\n");
        let asked: Confirm = |question| {
            question.contains("locks for 1,001 rows: 1,001 acquired.")
                && question.ends_with("Go on? [y/N] ")
        };
        let (end, data, notes) = run(EFFECT, OnError::Stop, Some(asked)).await;
        assert_eq!((end, data.lines().count()), (ScriptEnd::Done, 1_002));
        assert!(notes.contains("acquired"), "{notes}");
        let (end, ..) = run(EFFECT, OnError::Stop, None).await;
        assert_eq!(end, ScriptEnd::Done);
    }

    #[test]
    fn scripts_lose_their_byte_order_mark_and_missing_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sql");
        std::fs::write(&path, "\u{feff}SELECT 1").unwrap();
        assert_eq!(read_script(&path).unwrap(), "SELECT 1");
        let error = read_script(&folder.path().join("nope.sql")).unwrap_err();
        assert_eq!(error.code(), Code::FileUnreadable);
    }
}
