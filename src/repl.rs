//! The interactive prompt: reads statements and commands, shows results, keeps a history.
//!
//! Invariants: data goes to standard output or the file of `\o`, everything else to standard
//! error; no error ends the prompt. Called by `cli`.

pub mod commands;
mod complete;
pub mod connection;
mod highlight;
pub mod output;
pub mod progress;
pub mod report;
pub mod script;
pub mod statement;

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use datafusion::arrow::util::display::array_value_to_string;
use futures::StreamExt;
use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Prompt,
    PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal,
    ValidationResult, Validator, default_emacs_keybindings,
};

use self::commands::Command;
use self::complete::{Known, SharedNames, SqlCompleter};
use self::connection::Connection;
use self::highlight::SqlHighlighter;
use self::output::Output;
use self::report::{Origin, render};
use self::script::{OnError, ScriptEnd, read_script, run_script};
use self::statement::{Ended, Runner, Timing};
use crate::error::{Code, Error, Result};
use crate::format::{Format, unwritable};
use crate::session::script::{Ending, ending, split_statements};

/// Entries that the history file keeps. Chosen: years of use in well under a megabyte.
const HISTORY_ENTRIES: usize = 10_000;

/// Says `This would ...` and waits for y or n. Anything but yes is no.
pub fn ask(question: &str) -> bool {
    let prompt = Fixed {
        first: question.to_owned(),
        next: String::new(),
    };
    match Reedline::create().read_line(&prompt) {
        Ok(Signal::Success(answer)) => {
            matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
        }
        _ => false,
    }
}

/// The prompt.
pub struct Repl {
    runner: Runner,
    known: SharedNames,
    last: Option<String>,
}

/// Whether the prompt goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Leave,
    /// A script was not run to its end, and has told why.
    Ended(ScriptEnd),
}

impl Repl {
    /// A prompt over a runner.
    pub fn new(runner: Runner) -> Self {
        Self {
            runner,
            known: SharedNames::default(),
            last: None,
        }
    }

    /// Reads and runs until Ctrl-D or `\q`.
    ///
    /// # Errors
    /// SG6005 output-failed: the terminal cannot be read or drawn on.
    pub async fn run(mut self) -> Result<()> {
        self.runner.note(&format!(
            "sluicegate {}: type SQL and end it with ; or type \\? for help\n",
            env!("CARGO_PKG_VERSION")
        ));
        self.renew_names().await;
        let mut editor = self.editor();
        let prompt = Fixed {
            first: "sluicegate=> ".into(),
            next: "sluicegate-> ".into(),
        };
        loop {
            match tokio::task::block_in_place(|| editor.read_line(&prompt)) {
                Ok(Signal::Success(text)) => match self.enter(&text).await {
                    Next::Read | Next::Ended(_) => {}
                    Next::Leave => return Ok(()),
                },
                Ok(Signal::CtrlD) => return Ok(()),
                // Ctrl-C while typing throws the line away; reedline has other signals only
                // where one asks for them.
                Ok(_) => {}
                Err(error) => return Err(unwritable(error)),
            }
        }
    }

    /// Runs one backslash command as `-c` gives it.
    ///
    /// # Errors
    /// SG1001 syntax-error and whatever the command meets.
    pub async fn run_command(mut self, line: &str) -> Result<ScriptEnd> {
        Ok(match self.command(line).await? {
            Next::Read | Next::Leave => ScriptEnd::Done,
            Next::Ended(end) => end,
        })
    }

    fn editor(&mut self) -> Reedline {
        let mut keys = default_emacs_keybindings();
        keys.add_binding(
            KeyModifiers::NONE,
            KeyCode::Tab,
            ReedlineEvent::UntilFound(vec![
                ReedlineEvent::Menu(MENU.to_owned()),
                ReedlineEvent::MenuNext,
            ]),
        );
        let menu = ColumnarMenu::default()
            .with_name(MENU)
            .with_marker("")
            .with_columns(4)
            .with_column_padding(2);
        let coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let editor = Reedline::create()
            .with_completer(Box::new(SqlCompleter::new(Arc::clone(&self.known))))
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
            .with_edit_mode(Box::new(Emacs::new(keys)))
            .with_highlighter(Box::new(SqlHighlighter))
            .with_validator(Box::new(Statements))
            .with_quick_completions(true)
            .with_partial_completions(true)
            .with_ansi_colors(coloured)
            .use_bracketed_paste(true);
        let Some(path) = history_path() else {
            return editor;
        };
        match FileBackedHistory::with_file(HISTORY_ENTRIES, path.clone()) {
            Ok(history) => editor.with_history(Box::new(history)),
            Err(error) => {
                self.runner.note(&format!(
                    "history \"{}\" cannot be kept: {error}\n",
                    path.display()
                ));
                editor
            }
        }
    }

    /// Runs what was typed: a command, or the statements up to the last `;`.
    async fn enter(&mut self, text: &str) -> Next {
        if text.trim_start().starts_with('\\') {
            return match self.command(text).await {
                Ok(next) => next,
                Err(error) => {
                    self.runner.note(&render(&error, Origin::Process, None));
                    Next::Read
                }
            };
        }
        if matches!(text.trim(), "exit" | "quit" | "help") {
            self.runner.note("Type \\q to leave, or \\? for help.\n");
            return Next::Read;
        }
        let origin = Origin::Prompt { text };
        let statements = match split_statements(text) {
            Ok(statements) => statements,
            Err(error) => {
                self.runner.note(&render(&error, origin, error.position()));
                return Next::Read;
            }
        };
        for statement in statements {
            self.last = Some(statement.text.clone());
            match self.runner.run(&statement.text).await {
                Ok(Ended::Done) => {}
                Ok(Ended::OutputClosed) => return Next::Leave,
                Ok(Ended::Cancelled | Ended::Declined) => break,
                Err(error) => {
                    let position = error.position().map(|p| statement.in_script(p));
                    self.runner.note(&render(&error, origin, position));
                    break;
                }
            }
        }
        if changes_names(text) {
            self.renew_names().await;
        }
        Next::Read
    }

    async fn command(&mut self, line: &str) -> Result<Next> {
        match line.parse::<Command>()? {
            Command::Describe(name) => {
                let names = self.runner.connection.names().await?;
                self.runner.show(&commands::columns(&names, &name)?)?;
            }
            Command::Tables => {
                let names = self.runner.connection.names().await?;
                self.runner.show(&commands::tables(&names)?)?;
            }
            Command::Functions(pattern) => {
                let names = self.runner.connection.names().await?;
                self.runner
                    .show(&commands::functions(&names, pattern.as_deref())?)?;
            }
            Command::Query(sql) => {
                self.runner.run(&sql).await?;
            }
            Command::Expanded => {
                let format = match self.runner.format {
                    Format::Expanded => Format::Table,
                    Format::Table
                    | Format::Csv
                    | Format::Json
                    | Format::Ndjson
                    | Format::Parquet
                    | Format::Arrow
                    | Format::ArrowFile => Format::Expanded,
                };
                self.set_format(format);
            }
            Command::Timing => {
                let (timing, text) = match self.runner.timing {
                    Timing::On => (Timing::Off, "timing is off\n"),
                    Timing::Off => (Timing::On, "timing is on\n"),
                };
                self.runner.timing = timing;
                self.runner.note(text);
            }
            Command::Watch(pause) => self.watch(pause).await?,
            Command::Include(path) => {
                let text = read_script(&path)?;
                let name = path.display().to_string();
                let end = run_script(&mut self.runner, &name, &text, OnError::Stop).await;
                self.renew_names().await;
                if end != ScriptEnd::Done {
                    return Ok(Next::Ended(end));
                }
            }
            Command::Output(None) => self.runner.output = Output::stdout(),
            Command::Output(Some(path)) => self.runner.output = Output::file(&path)?,
            Command::Format(None) => {
                self.runner
                    .note(&format!("format is {}\n", self.runner.format));
            }
            Command::Format(Some(format)) => self.set_format(format),
            Command::Help => self.runner.note(&commands::help()),
            Command::Quit => return Ok(Next::Leave),
        }
        Ok(Next::Read)
    }

    fn set_format(&mut self, format: Format) {
        self.runner.format = format;
        self.runner.note(&format!("format is {format}\n"));
    }

    /// Repeats the last query until Ctrl-C. Effects are not repeated: nobody means that.
    async fn watch(&mut self, pause: Duration) -> Result<()> {
        let Some(sql) = self.last.clone() else {
            return Err(Error::new(
                Code::SyntaxError,
                "command \"\\watch\" has nothing to repeat",
            )
            .with_hint("Run a query first; \\watch repeats the last one."));
        };
        let changes = [
            "insert", "update", "delete", "replace", "create", "drop", "call", "apply",
        ];
        let first = sql
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_lowercase();
        if changes.contains(&first.as_str())
            || self.runner.connection.count_effects(&sql).await?.is_some()
        {
            return Err(Error::new(
                Code::Unsupported,
                "command \"\\watch\" repeats queries only, and the last statement has effects",
            )
            .with_hint("Run a query first; \\watch repeats the last one."));
        }
        loop {
            match self.runner.run(&sql).await? {
                Ended::Done => {}
                Ended::Cancelled | Ended::Declined | Ended::OutputClosed => return Ok(()),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }

    /// Names are a comfort: where they cannot be had, the prompt works without.
    async fn renew_names(&mut self) {
        let Ok(names) = self.runner.connection.names().await else {
            return;
        };
        let transforms = if names.tables.iter().any(|table| table.name == "transforms") {
            transforms(&self.runner.connection)
                .await
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known { names, transforms };
    }
}

const MENU: &str = "completion";

async fn transforms(connection: &Connection) -> Result<Vec<String>> {
    let mut reply = connection.execute("SELECT * FROM transforms").await?;
    let column = reply
        .schema
        .fields()
        .iter()
        .position(|field| matches!(field.name().as_str(), "transform" | "name"));
    let mut found = Vec::new();
    while let Some(Ok(batch)) = reply.batches.next().await {
        let Some(column) = column.and_then(|column| batch.columns().get(column)) else {
            break;
        };
        found.extend(
            (0..batch.num_rows()).filter_map(|row| array_value_to_string(column, row).ok()),
        );
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn changes_names(text: &str) -> bool {
    let text = text.to_lowercase();
    ["create", "drop", "alter"]
        .iter()
        .any(|word| text.contains(word))
}

/// `SLUICEGATE_HISTORY`, or a file in the user's XDG state folder. Empty means no history.
fn history_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICEGATE_HISTORY") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state.join("sluicegate").join("history"))
}

/// Whether standard input is a person.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// Enter sends the text when its last statement is closed, or when it is a command.
struct Statements;

impl Validator for Statements {
    fn validate(&self, text: &str) -> ValidationResult {
        let text = text.trim();
        if text.starts_with('\\') || matches!(text, "exit" | "quit" | "help") {
            return ValidationResult::Complete;
        }
        match ending(text) {
            Ending::Open => ValidationResult::Incomplete,
            Ending::Empty | Ending::Closed => ValidationResult::Complete,
        }
    }
}

/// A prompt that always says the same.
struct Fixed {
    first: String,
    next: String,
}

impl Prompt for Fixed {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.first)
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.next)
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("(search \"{}\") ", search.term))
    }
}
