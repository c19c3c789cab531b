//! The interactive prompt: reads statements and commands, shows results, keeps a history.
//!
//! Invariants: data goes to standard output or the file of `\o`, everything else to standard
//! error; no error ends the prompt. Called by `cli`.

pub mod commands;
mod complete;
pub mod connection;
mod guard;
mod highlight;
pub mod listing;
pub mod output;
mod page;
pub mod pager;
pub mod progress;
pub mod report;
pub mod script;
pub mod statement;
pub mod variables;
mod waiting;

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Prompt,
    PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal,
    ValidationResult, Validator, default_emacs_keybindings,
};

use self::commands::{Columns, Command, Expanded};
use self::complete::{SharedNames, SqlCompleter, Transform};
use self::connection::Connection;
use self::highlight::SqlHighlighter;
use self::output::Output;
use self::pager::Paging;
use self::report::{Origin, render};
use self::script::{OnError, ScriptEnd, read_script, run_script};
use self::statement::{Ended, Runner, Timing};
use crate::error::{Code, Error, Result};
use crate::format::{Format, Wide, unwritable};
use crate::session::ScriptStatement;
use crate::session::names::quoted;
use crate::session::parameters::Parameters;
use crate::session::parser::parse;
use crate::session::script::{Ending, ending, split_statements};
use crate::session::statement::Statement;
use crate::time::Clock;

/// Entries that the history file keeps. Chosen: years of use in well under a megabyte.
const HISTORY_ENTRIES: usize = 10_000;

/// Says `This would ...` and waits for y or n. Anything but yes is no.
pub fn ask(question: &str) -> bool {
    let (told, asked) = match question.rsplit_once('\n') {
        Some((told, asked)) => (format!("{told}\n"), asked),
        None => (String::new(), question),
    };
    // A closed standard error is no reason to go on without asking.
    let _ = std::io::stderr().write_all(told.as_bytes());
    let prompt = Fixed {
        first: asked.to_owned(),
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

    /// What runs its statements.
    pub fn runner(&mut self) -> &mut Runner {
        &mut self.runner
    }

    /// Reads and runs until Ctrl-D or `\q`.
    ///
    /// # Arguments
    /// `place`: the address of the store or the server, which is told.
    ///
    /// # Errors
    /// SG6005 output-failed: the terminal cannot be read or drawn on.
    pub async fn run(mut self, place: &str) -> Result<()> {
        self.runner.note(&format!(
            "sluicegate {} at {place}: type SQL and end it with ; or type \\? for help\n",
            env!("CARGO_PKG_VERSION")
        ));
        self.renew_names().await;
        let mut editor = self.editor();
        let name = short_name(place);
        let prompt = Fixed {
            first: format!("{name}=> "),
            next: format!("{name}-> "),
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
    pub async fn run_command(&mut self, line: &str) -> Result<ScriptEnd> {
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
        match word(text) {
            Some(Word::Leave) => return Next::Leave,
            Some(Word::Help) => {
                self.runner.note(&commands::help());
                return Next::Read;
            }
            None => {}
        }
        let origin = Origin::Prompt { text };
        let statements = match split_statements(text) {
            Ok(statements) => statements,
            Err(error) => {
                self.runner.note(&render(&error, origin, error.position()));
                return Next::Read;
            }
        };
        let reads = |one: &ScriptStatement| {
            parse(&one.text).is_ok_and(|parsed| only_reads(&parsed.statement))
        };
        let only_read = statements.iter().all(reads);
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
        } else if !only_read {
            self.renew_statuses();
        }
        Next::Read
    }

    async fn command(&mut self, line: &str) -> Result<Next> {
        match line.parse::<Command>()? {
            Command::Describe(name) => {
                let names = self.runner.connection.names().await?;
                self.list(&listing::columns(&names, &name)?)?;
            }
            Command::Tables => {
                let names = self.runner.connection.names().await?;
                self.list(&listing::tables(&names)?)?;
            }
            Command::Functions(pattern) => {
                let names = self.runner.connection.names().await?;
                self.list(&listing::functions(&names, pattern.as_deref())?)?;
            }
            Command::Query(sql, columns) => {
                match columns {
                    Columns::Few => self.runner.list(&sql).await?,
                    Columns::All => self.runner.run(&sql).await?,
                };
                self.last = Some(sql);
            }
            Command::Log(job) => {
                let log = page::log(&self.runner.connection, job).await?;
                if log.is_empty() {
                    self.runner.note("the log is empty\n");
                }
                self.runner.show_text(&log)?;
            }
            Command::Outputs(job) => {
                let files = page::outputs(&self.runner.connection, job).await?;
                self.runner.show(&files)?;
            }
            Command::Source { table, key } => {
                let look = self.runner.output.look(Wide::Cut);
                let connection = &self.runner.connection;
                let life = page::source(connection, table.as_deref(), &key, look).await?;
                self.runner.show_page(&life)?;
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
            Command::Help => self.runner.note(&commands::help()),
            Command::Quit => return Ok(Next::Leave),
            setting @ (Command::Expanded(_)
            | Command::Timing(_)
            | Command::Pager(_)
            | Command::Variables
            | Command::Set(_)
            | Command::Unset(_)
            | Command::Format(_)) => self.change(setting)?,
        }
        Ok(Next::Read)
    }

    /// The settings of the prompt, and its parameters.
    fn change(&mut self, setting: Command) -> Result<()> {
        let runner = &mut self.runner;
        match setting {
            Command::Expanded(wanted) => self.set_expanded(wanted),
            Command::Format(None) => {
                runner.note(&format!("format is {}\n", runner.format));
            }
            Command::Format(Some(format)) => {
                (runner.format, runner.wide) = (format, Wide::Cut);
                runner.note(&format!("format is {format}\n"));
            }
            Command::Timing(wanted) => {
                runner.timing = wanted.unwrap_or(match runner.timing {
                    Timing::On => Timing::Off,
                    Timing::Off => Timing::On,
                });
                runner.note(match runner.timing {
                    Timing::On => "timing is on\n",
                    Timing::Off => "timing is off\n",
                });
            }
            Command::Pager(wanted) => {
                runner.paging = wanted.unwrap_or(match runner.paging {
                    Paging::On => Paging::Off,
                    Paging::Off => Paging::On,
                });
                runner.note(match runner.paging {
                    Paging::On => "pager is on\n",
                    Paging::Off => "pager is off\n",
                });
            }
            Command::Variables => self.tell_variables(),
            Command::Set(variable) => {
                runner.variables.set(variable);
                self.renew_variables();
            }
            Command::Unset(name) => {
                runner.variables.unset(&name)?;
                self.renew_variables();
            }
            Command::Describe(_)
            | Command::Tables
            | Command::Functions(_)
            | Command::Query(..)
            | Command::Log(_)
            | Command::Outputs(_)
            | Command::Source { .. }
            | Command::Watch(_)
            | Command::Include(_)
            | Command::Output(_)
            | Command::Help
            | Command::Quit => return Err(Error::bug("a command that is no setting")),
        }
        Ok(())
    }

    fn set_expanded(&mut self, wanted: Option<Expanded>) {
        let runner = &mut self.runner;
        let wanted = wanted.unwrap_or(match runner.format {
            Format::Expanded => Expanded::Off,
            Format::Table
            | Format::Csv
            | Format::Json
            | Format::Ndjson
            | Format::Parquet
            | Format::Arrow
            | Format::ArrowFile => Expanded::On,
        });
        let (format, wide, told) = match wanted {
            Expanded::On => (Format::Expanded, runner.wide, "expanded"),
            Expanded::Off => (Format::Table, Wide::Cut, "table"),
            Expanded::Auto => (
                Format::Table,
                Wide::Expand,
                "table, expanded where too wide",
            ),
        };
        (runner.format, runner.wide) = (format, wide);
        runner.note(&format!("format is {told}\n"));
    }

    fn tell_variables(&mut self) {
        let lines = self.runner.variables.iter();
        let text: String = lines
            .map(|(name, value)| format!("${name} = {value}\n"))
            .collect();
        self.runner.note(match text.is_empty() {
            true => "no parameter has a value\n",
            false => &text,
        });
    }

    /// Names and their meanings, in columns that are cut where they are too wide.
    fn list(&mut self, rows: &RecordBatch) -> Result<()> {
        let wide = std::mem::replace(&mut self.runner.wide, Wide::Cut);
        let shown = self.runner.show(rows);
        self.runner.wide = wide;
        shown
    }

    /// Repeats the last query until Ctrl-C, each time below the moment at which it is asked.
    /// What changes something is not repeated: nobody means that.
    async fn watch(&mut self, pause: Duration) -> Result<()> {
        let hint = "Run a query first; \\watch repeats the last one.";
        let Some(sql) = self.last.clone() else {
            return Err(Error::new(
                Code::SyntaxError,
                "command \"\\watch\" has nothing to repeat",
            )
            .with_hint(hint));
        };
        if !only_reads(&parse(&sql)?.statement) {
            return Err(Error::new(
                Code::Unsupported,
                "command \"\\watch\" repeats queries only; the last statement changes something",
            )
            .with_hint(hint));
        }
        let paging = std::mem::replace(&mut self.runner.paging, Paging::Off);
        let ended = self.repeat(&sql, pause).await;
        self.runner.paging = paging;
        ended
    }

    async fn repeat(&mut self, sql: &str, pause: Duration) -> Result<()> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            self.runner.note(&format!(
                "{} (every {} s)\n",
                Clock::System.now(),
                pause.as_secs_f64()
            ));
            match self.runner.run(sql).await? {
                Ended::Done => {}
                Ended::Cancelled | Ended::Declined | Ended::OutputClosed => return Ok(()),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut interrupted => return Ok(()),
            }
        }
    }

    /// Names are a comfort: where they cannot be had, the prompt works without.
    async fn renew_names(&mut self) {
        let Ok(names) = self.runner.connection.names().await else {
            return;
        };
        let transforms = match names.tables.iter().any(|table| table.name == "transforms") {
            true => transforms(&self.runner.connection)
                .await
                .unwrap_or_default(),
            false => Vec::new(),
        };
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.names = names;
            known.transforms = transforms;
        }
        self.renew_variables();
        self.renew_statuses();
    }

    fn renew_variables(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.variables = self.runner.variables.names().map(str::to_owned).collect();
    }

    /// Statuses are found in a task of their own: a large table has many rows to ask.
    fn renew_statuses(&self) {
        let connection = self.runner.connection.clone();
        let known = Arc::clone(&self.known);
        tokio::spawn(async move {
            let tables: Vec<String> = {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let sources = known.names.tables.iter();
                let sources = sources.filter(|table| table.kind == "source table");
                sources.map(|table| table.name.clone()).collect()
            };
            for table in tables {
                let Ok(statuses) = statuses(&connection, &table).await else {
                    continue;
                };
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.statuses.insert(table, statuses);
            }
        });
    }
}

const MENU: &str = "completion";

async fn transforms(connection: &Connection) -> Result<Vec<Transform>> {
    let sql = "SELECT name, source_table, array_to_string(from_status, chr(10)), \
               array_to_string(to_status, chr(10)) FROM transforms ORDER BY name";
    let batches = connection.rows(sql, Parameters::None).await?;
    let mut found = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cell = |column| connection::text(batch, column, row).unwrap_or_default();
            let (from, to) = (cell(2), cell(3));
            found.push(Transform {
                name: cell(0),
                table: cell(1),
                statuses: from.lines().chain(to.lines()).map(str::to_owned).collect(),
            });
        }
    }
    Ok(found)
}

async fn statuses(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT DISTINCT status FROM {} ORDER BY status",
        quoted(table)
    );
    let batches = connection.rows(&sql, Parameters::None).await?;
    let texts = |batch: &RecordBatch| -> Vec<String> {
        (0..batch.num_rows())
            .filter_map(|row| connection::text(batch, 0, row))
            .collect()
    };
    Ok(batches.iter().flat_map(texts).collect())
}

fn changes_names(text: &str) -> bool {
    let text = text.to_lowercase();
    ["create", "drop", "alter"]
        .iter()
        .any(|word| text.contains(word))
}

/// Letters of the name in front of each line. Chosen: leaves a line of 80 columns its room.
const NAME_LETTERS_MAX: usize = 24;

/// The last part of an address, by which a person knows the store.
fn short_name(place: &str) -> String {
    let path = place.trim_end_matches('/');
    let last = path
        .rsplit('/')
        .find(|part| !part.is_empty() && *part != ".");
    let name = last.unwrap_or("sluicegate").trim_end_matches(':');
    let letters = name.chars().filter(|letter| !letter.is_control());
    letters.take(NAME_LETTERS_MAX).collect()
}

/// What people type who come from other prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Leave,
    Help,
}

fn word(text: &str) -> Option<Word> {
    let text = text.trim().trim_end_matches(';').trim_end();
    match text.to_ascii_lowercase().as_str() {
        "exit" | "quit" => Some(Word::Leave),
        "help" => Some(Word::Help),
        _ => None,
    }
}

/// Whether a statement may be run again and again.
fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::Query(_)
        | Statement::Preview(_)
        | Statement::Explain { .. }
        | Statement::Show(_)
        | Statement::ShowCreate(_)
        | Statement::Describe(_) => true,
        Statement::Effect(_)
        | Statement::Call(_)
        | Statement::Insert { .. }
        | Statement::Update { .. }
        | Statement::Delete { .. }
        | Statement::Truncate { .. }
        | Statement::CreateTable { .. }
        | Statement::CreateView { .. }
        | Statement::CreateExternalTable { .. }
        | Statement::CreateTransform(_)
        | Statement::Drop { .. }
        | Statement::Set(_)
        | Statement::Copy(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Checkpoint
        | Statement::Other(_) => false,
    }
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
        if text.starts_with('\\') || word(text).is_some() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_name_the_store() {
        for (place, expected) in [
            ("./sluicegate-store", "sluicegate-store"),
            ("demo/store/", "store"),
            ("s3://bucket/jobs", "jobs"),
            ("memory://", "memory"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            (".", "sluicegate"),
            (
                "/a-name-that-is-longer-than-any-line",
                "a-name-that-is-longer-th",
            ),
        ] {
            assert_eq!(short_name(place), expected, "{place}");
        }
    }

    #[test]
    fn words_of_other_prompts_are_known() {
        for (text, expected) in [
            ("exit", Some(Word::Leave)),
            (" QUIT ; ", Some(Word::Leave)),
            ("help", Some(Word::Help)),
            ("exit 1", None),
            ("", None),
        ] {
            assert_eq!(word(text), expected, "{text}");
        }
    }
}
