//! Runs one statement for a person or a script: asks before a large effect, writes the rows,
//! tells what happened, and stops on Ctrl-C.
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
use super::output::Output;
use crate::error::Result;
use crate::format::{Format, Look, ResultWriter};
use crate::session::script::tokens_so_far;
use crate::session::{OutcomeCount, StatementKind};

/// Rows above which a person is asked before an effect. Chosen: more than anybody lists by hand.
pub const ASK_ABOVE_ROWS: u64 = 1_000;

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

/// Answers whether a large effect may go on.
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
    /// Whether times are told.
    pub timing: Timing,
    confirm: Option<Confirm>,
    notes: Box<dyn Write + Send>,
}

impl Runner {
    /// Writes rows to standard output and notes to standard error. Without `confirm`, nobody is
    /// asked before a large effect.
    pub fn new(
        connection: impl Into<Connection>,
        format: Format,
        confirm: Option<Confirm>,
    ) -> Self {
        Self {
            connection: connection.into(),
            output: Output::stdout(),
            format,
            timing: Timing::Off,
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
            tokio::select! {
                ended = work => Some(ended),
                _ = tokio::signal::ctrl_c() => None,
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
        let look = self.output.look();
        let pipe = self.output.next_result(self.format)?;
        let mut writer = ResultWriter::try_new(self.format, batch.schema(), look, pipe)?;
        writer.write(batch)?;
        writer.finish()?;
        self.note_rows(batch.num_rows() as u64);
        Ok(())
    }

    async fn attempt(&mut self, sql: &str, answered: &Cell<bool>) -> Result<Ended> {
        if yields_rows(sql) {
            self.output.accept(self.format)?;
        }
        if let Some(confirm) = self.confirm
            && let Some(rows) = self.connection.count_effects(sql).await?
            && rows > ASK_ABOVE_ROWS
            && !tokio::task::block_in_place(|| confirm(&question(sql, rows)))
        {
            self.note("nothing was done\n");
            return Ok(Ended::Declined);
        }
        let reply = self.connection.execute(sql).await?;
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
            self.note_rows(rows);
        }
        if !summary.is_empty() {
            self.note(&format!("{}\n", summary_text(&summary)));
        }
        for note in notes {
            self.note(&format!("note: {note}\n"));
        }
        Ok(Ended::Done)
    }

    fn write_rows<'a>(
        &'a mut self,
        schema: SchemaRef,
        batches: &'a mut (dyn futures::Stream<Item = Result<RecordBatch>> + Send + Unpin),
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let look = self.output.look();
            let pipe = self.output.next_result(self.format)?;
            let mut writer = ResultWriter::try_new(self.format, schema, look, pipe)?;
            let mut rows = 0;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                rows += batch.num_rows() as u64;
                writer.write(&batch)?;
            }
            writer.finish()?;
            Ok(rows)
        })
    }

    /// A query plan is a text of many lines, which a table would squeeze into one.
    fn write_plan(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut pipe = self.output.next_result(Format::Table)?;
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
                if matches!(self.output.look(), Look::Terminal { .. }) {
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

/// What each effect function does, for the question before a large one.
const EFFECTS: &[(&str, &str)] = &[
    ("schedule_job", "schedule jobs for"),
    ("cancel_job", "cancel jobs in"),
    ("retry_job", "retry jobs in"),
    ("set_status", "set the status of"),
    ("acquire_lock", "acquire locks for"),
    ("renew_lock", "renew locks of"),
    ("release_lock", "release locks of"),
    ("claim_jobs", "claim jobs for"),
    ("heartbeat", "renew the leases of"),
    ("complete_job", "complete jobs in"),
    ("fail_job", "fail jobs in"),
    ("hand_back_job", "hand back jobs in"),
];

fn question(sql: &str, rows: u64) -> String {
    let words: Vec<String> = tokens_so_far(sql)
        .iter()
        .map(|(token, _)| token.to_string().to_lowercase())
        .collect();
    let called = EFFECTS
        .iter()
        .filter(|(name, _)| words.iter().any(|word| word == name));
    let phrases: Vec<&str> = called.map(|(_, phrase)| *phrase).collect();
    let what = if phrases.is_empty() {
        "touch".to_owned()
    } else {
        phrases.join(" and ")
    };
    format!("This would {what} {}. Go on? [y/N] ", rows_text(rows))
}

/// `3 scheduled, 1 already-live`; with the functions' names where there are several.
fn summary_text(summary: &[OutcomeCount]) -> String {
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

fn rows_text(rows: u64) -> String {
    if rows == 1 {
        "1 row".to_owned()
    } else {
        format!("{} rows", grouped(rows))
    }
}

/// `12,345`.
fn grouped(number: u64) -> String {
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
    fn questions_name_what_would_be_done() {
        let ask = |sql| question(sql, 12_345);
        assert_eq!(
            ask("SELECT Schedule_Job('t', id) FROM n"),
            "This would schedule jobs for 12,345 rows. Go on? [y/N] "
        );
        assert_eq!(
            ask("SELECT 'schedule_job' FROM n"),
            "This would touch 12,345 rows. Go on? [y/N] "
        );
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
