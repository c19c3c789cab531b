//! Runs one statement for a person or a script: binds the parameters, asks before it does much,
//! writes the rows, tells what happened, and stops on Ctrl-C.
//!
//! Invariants: rows go to the output, everything else to the notes (standard error); a cancelled
//! statement is dropped, and what it had committed by then stays.

use std::cell::Cell;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::sql::sqlparser::tokenizer::Token;
use futures::StreamExt;
use futures::future::BoxFuture;

use super::connection::{Connection, Shown};
use super::guard;
use super::output::Output;
use super::pager::Paging;
use super::variables::Variables;
use super::waiting;
use crate::error::Result;
use crate::format::{Format, Look, ResultWriter, Wide};
use crate::session::parameters::Parameters;
use crate::session::script::tokens_so_far;
use crate::session::{OutcomeCount, StatementKind};

/// How a statement ended that made no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ran to its end.
    Done,
    /// Ctrl-C.
    Cancelled,
    /// The user was asked and said no; nothing was done.
    Declined,
    /// The reader of the output has gone.
    OutputClosed,
}

/// Answers whether a statement that does much may go on.
pub type Confirm = fn(question: &str) -> bool;

/// Whether the time of each statement is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Told after each statement.
    On,
    /// Not told.
    Off,
}

/// Runs statements over one connection and shows their results.
pub struct Runner {
    /// Where statements run.
    pub connection: Connection,
    /// Where rows go.
    pub output: Output,
    /// How rows are written.
    pub format: Format,
    /// What becomes of rows that are wider than the terminal.
    pub wide: Wide,
    /// Whether what is longer than the terminal goes through a pager.
    pub paging: Paging,
    /// Whether times are told.
    pub timing: Timing,
    /// The values of parameters.
    pub variables: Variables,
    confirm: Option<Confirm>,
    notes: Box<dyn Write + Send>,
}

impl Runner {
    /// Writes rows to standard output and notes to standard error. Without `confirm`, nobody is
    /// asked before a statement that does much.
    pub fn new(
        connection: impl Into<Connection>,
        format: Format,
        confirm: Option<Confirm>,
    ) -> Self {
        Self {
            connection: connection.into(),
            output: Output::stdout(),
            format,
            wide: Wide::Expand,
            paging: Paging::On,
            timing: Timing::Off,
            variables: Variables::default(),
            confirm,
            notes: Box::new(io::stderr()),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_notes(mut self, notes: Box<dyn Write + Send>) -> Self {
        self.notes = notes;
        self
    }

    /// Tells the user something. A closed standard error is no reason to stop.
    pub fn note(&mut self, text: &str) {
        let _ = self.notes.write_all(text.as_bytes());
        let _ = self.notes.flush();
    }

    /// Runs one statement and shows its result.
    ///
    /// # Errors
    /// Whatever the statement's error is; SG6005 output-failed.
    pub async fn run(&mut self, sql: &str) -> Result<Ended> {
        let started = Instant::now();
        let answered = Cell::new(false);
        let ended = {
            let work = self.attempt(sql, &answered);
            // Signals are listened to before the work begins, which may start a pager that shares
            // them.
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => None,
                ended = work => Some(ended),
            }
        };
        if ended.is_none() {
            self.connection.cancel().await;
        }
        let ended = match ended {
            Some(Err(_)) if self.output.closed() => Ended::OutputClosed,
            Some(ended) => ended?,
            None if answered.get() => {
                self.note("\ncancelled\n");
                Ended::Cancelled
            }
            None => {
                self.note(
                    "\ncancelled before the answer; if the statement has effects, table \
                     \"statements\" tells whether they were committed\n",
                );
                Ended::Cancelled
            }
        };
        if self.timing == Timing::On {
            self.note(&format!("time: {}\n", duration_text(started.elapsed())));
        }
        Ok(ended)
    }

    /// Shows rows that are at hand, as the result of a query.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn show(&mut self, batch: &RecordBatch) -> Result<()> {
        let look = self.output.look(self.wide);
        let pipe = self.output.next_result(self.format, self.paging)?;
        let mut writer = ResultWriter::try_new(self.format, batch.schema(), look, pipe)?;
        writer.write(batch)?;
        writer.finish()?;
        self.note_rows(batch.num_rows() as u64);
        Ok(())
    }

    /// Shows text that comes from elsewhere. On a terminal nothing in it steers that.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn show_text(&mut self, text: &str) -> Result<()> {
        match self.output.look(self.wide) {
            Look::Plain => self.show_page(text),
            Look::Terminal { .. } => self.show_page(&harmless(text)),
        }
    }

    /// Shows text that was made for the output.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn show_page(&mut self, text: &str) -> Result<()> {
        let mut pipe = self.output.next_result(Format::Table, self.paging)?;
        let written = pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush());
        written.map_err(crate::format::unwritable)
    }

    /// Runs one of the prompt's own queries, whose columns are few: they are cut, not expanded.
    ///
    /// # Errors
    /// Those of [`Runner::run`].
    pub async fn list(&mut self, sql: &str) -> Result<Ended> {
        let wide = std::mem::replace(&mut self.wide, Wide::Cut);
        let ended = self.run(sql).await;
        self.wide = wide;
        ended
    }

    async fn attempt(&mut self, sql: &str, answered: &Cell<bool>) -> Result<Ended> {
        if yields_rows(sql) {
            self.output.accept(self.format)?;
        }
        let parameters = self.variables.bind(sql)?;
        if let Some(confirm) = self.confirm
            && let Some(question) = guard::question(&self.connection, &self.variables, sql).await?
            && !tokio::task::block_in_place(|| confirm(&question))
        {
            self.note("nothing was done\n");
            return Ok(Ended::Declined);
        }
        self.answer(sql, parameters, answered).await?;
        if waiting::runs_jobs(sql) {
            self.tell_waiting().await;
        }
        Ok(Ended::Done)
    }

    /// What waits is a comfort: where it cannot be had, the jobs have run all the same.
    async fn tell_waiting(&mut self) {
        match waiting::lines(&self.connection).await {
            Ok(lines) => {
                for line in lines {
                    self.note(&format!("note: {line}\n"));
                }
            }
            Err(error) => tracing::debug!(%error, "what waits is not known"),
        }
    }

    async fn answer(
        &mut self,
        sql: &str,
        parameters: Parameters,
        answered: &Cell<bool>,
    ) -> Result<()> {
        let reply = self.connection.execute(sql, parameters).await?;
        answered.set(true);
        let Shown {
            kind,
            schema,
            mut batches,
            rows_affected,
            summary,
            notes,
        } = reply;
        let affected = match kind {
            StatementKind::Dml => rows_affected,
            StatementKind::Query
            | StatementKind::Effect
            | StatementKind::Ddl
            | StatementKind::Explain
            | StatementKind::Preview
            | StatementKind::Setting => None,
        };
        if affected.is_some() || schema.fields().is_empty() {
            while let Some(batch) = batches.next().await {
                batch?;
            }
            match affected {
                Some(rows) => self.note(&format!("{} affected\n", rows_text(rows))),
                None => self.note("ok\n"),
            }
        } else if kind == StatementKind::Explain && self.format == Format::Table {
            while let Some(batch) = batches.next().await {
                self.write_plan(&batch?)?;
            }
        } else {
            let rows = self.write_rows(schema, &mut batches).await?;
            if !self.output.left() {
                self.note_rows(rows);
            }
        }
        if !summary.is_empty() {
            self.note(&format!("{}\n", summary_text(&summary)));
        }
        for note in notes {
            self.note(&format!("note: {note}\n"));
        }
        Ok(())
    }

    fn write_rows<'a>(
        &'a mut self,
        schema: SchemaRef,
        batches: &'a mut (dyn futures::Stream<Item = Result<RecordBatch>> + Send + Unpin),
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let look = self.output.look(self.wide);
            let pipe = self.output.next_result(self.format, self.paging)?;
            let mut writer = ResultWriter::try_new(self.format, schema, look, pipe)?;
            let mut rows = 0;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                rows += batch.num_rows() as u64;
                writer.write(&batch)?;
                if self.output.left() {
                    break;
                }
            }
            writer.finish()?;
            Ok(rows)
        })
    }

    /// A query plan is a text of many lines, which a table would squeeze into one.
    fn write_plan(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut pipe = self.output.next_result(Format::Table, self.paging)?;
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            for column in batch.columns() {
                let cell = array_value_to_string(column, row);
                text.push_str(cell.map_err(crate::format::unwritable)?.trim_end());
                text.push('\n');
            }
        }
        pipe.write_all(text.as_bytes())
            .map_err(crate::format::unwritable)?;
        pipe.flush().map_err(crate::format::unwritable)
    }

    /// The count of rows is for people; programs count themselves.
    fn note_rows(&mut self, rows: u64) {
        match self.format {
            Format::Table | Format::Expanded => self.note(&format!("({})\n", rows_text(rows))),
            Format::Csv
            | Format::Json
            | Format::Ndjson
            | Format::Parquet
            | Format::Arrow
            | Format::ArrowFile => {
                if matches!(self.output.look(self.wide), Look::Terminal { .. }) {
                    self.note(&format!("({})\n", rows_text(rows)));
                }
            }
        }
    }
}

/// Whether a statement begins like one that answers with rows.
fn yields_rows(sql: &str) -> bool {
    let first = tokens_so_far(sql)
        .into_iter()
        .map(|(token, _)| token)
        .find_map(|t| match t {
            Token::Word(word) => Some(word.value.to_uppercase()),
            _ => None,
        });
    let first = first.unwrap_or_default();
    [
        "SELECT", "WITH", "VALUES", "CALL", "PREVIEW", "APPLY", "EXPLAIN", "SHOW", "TABLE",
    ]
    .contains(&first.as_str())
}

/// A text without what steers a terminal; lines and tabs stay.
fn harmless(text: &str) -> String {
    let control = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| {
            if control(&c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// `3 scheduled, 1 already-live`; with the functions' names where there are several.
pub(super) fn summary_text(summary: &[OutcomeCount]) -> String {
    let mut functions: Vec<&str> = Vec::new();
    for count in summary {
        if !functions.contains(&count.function.as_str()) {
            functions.push(&count.function);
        }
    }
    let part = |function: &str| {
        let counts = summary.iter().filter(|c| c.function == function);
        let texts: Vec<_> = counts
            .map(|c| format!("{} {}", grouped(c.count), c.outcome))
            .collect();
        texts.join(", ")
    };
    match functions.as_slice() {
        [only] => part(only),
        several => {
            let parts: Vec<_> = several
                .iter()
                .map(|f| format!("{f}: {}", part(f)))
                .collect();
            parts.join("; ")
        }
    }
}

pub(super) fn rows_text(rows: u64) -> String {
    if rows == 1 {
        "1 row".to_owned()
    } else {
        format!("{} rows", grouped(rows))
    }
}

/// `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn duration_text(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_a_terminal_steers_nothing() {
        assert_eq!(harmless("a\tb\r\nc"), "a\tb\nc");
        assert_eq!(harmless("\x1b[2Jx\rq"), "\u{fffd}[2Jx\u{fffd}q");
    }

    #[test]
    fn summaries_name_functions_only_where_there_are_several() {
        let count = |function: &str, outcome: &str, count| OutcomeCount {
            function: function.into(),
            outcome: outcome.into(),
            count,
        };
        let mut summary = vec![
            count("f", "scheduled", 1_234_567),
            count("f", "already-live", 1),
        ];
        assert_eq!(
            summary_text(&summary),
            "1,234,567 scheduled, 1 already-live"
        );
        summary.push(count("g", "acquired", 100));
        assert_eq!(
            summary_text(&summary),
            "f: 1,234,567 scheduled, 1 already-live; g: 100 acquired"
        );
    }
}
