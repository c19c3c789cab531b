//! Statements with an idempotency key: at most one of all that carry it commits, and the others
//! get its outcome.
//!
//! The key is part of the commit, and a commit with a key that the store has already is refused
//! while it is decided ([`Draft::note_statement`]). So it does not matter which process, before
//! or after a crash, a repetition reaches. For how long a key counts says [`KeptStatement::keep`].
//! What is kept is a summary, for the rows of the first answer are not in the ledger; but those of
//! a procedure may follow from it ([`Procedure::again`]).
//!
//! [`Procedure::again`]: crate::session::core::Procedure::again
//! [`Draft::note_statement`]: crate::model::draft::Draft::note_statement

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::Function;

use crate::error::{Code, Error, Result};
use crate::functions::effect::CLAIM_JOBS;
use crate::model::draft::Author;
use crate::model::kept::{KeptStatement, digest_of};
use crate::session::gate::Call;
use crate::session::sink::OutcomeCount;
use crate::session::statement::Statement;
use crate::session::{LockChanges, Reply, Session, StatementKind, Task, parser, stream_of};
use crate::tables::columns::{ints, texts};

/// The key as the store keeps it: every user has keys of their own. A key has no line break, so
/// the last one in the text separates the two.
pub(super) fn key_of(actor: &str, key: &str) -> Arc<str> {
    format!("{actor}\n{}", key.replace('\n', " ")).into()
}

/// The summary of a statement that was taken back.
const TAKEN_BACK: &str = "\"taken back\"";

/// Whether a statement ran, or the outcome of an earlier one is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repetition {
    /// It ran.
    No,
    /// It did not; these are the rows of the first answer.
    Rows,
    /// It did not; the rows are gone, and these say how its effects ended.
    Summary,
}

/// Whether a statement could be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// It will never run.
    Yes,
    /// It has run, or was taken back before.
    No,
}

/// What the summary of a write says.
#[derive(serde::Deserialize)]
struct Written {
    rows: u64,
}

impl Session {
    /// Runs a statement, or answers with the outcome of the one that had its key before.
    pub(super) async fn once(&self, task: Task, statement: Statement) -> Result<Reply> {
        let Some(key) = task.text.idempotency_key.clone() else {
            return self.dispatch(task, statement).await;
        };
        let call = if let Statement::Call(function) = &statement {
            Some(function.clone())
        } else {
            None
        };
        let first = First {
            task: task.clone(),
            call,
        };
        if let Some(reply) = self.replay(&first, &key).await? {
            return Ok(reply);
        }
        // Workers ask for jobs all the time. A claim that found none has changed nothing, and what
        // its repetition finds is as good.
        let claims = matches!(&statement, Statement::Call(function)
            if parser::object_name(&function.name) == CLAIM_JOBS.name);
        match self.dispatch(task, statement).await {
            Ok(reply) => {
                if claims || self.ledger().seen().kept.get(&key).is_some() {
                    return Ok(reply);
                }
                // It found nothing to do; so must every repetition.
                let (note, kept) = (first.task.text.clone(), Arc::clone(&key));
                let noted = self
                    .ledger()
                    .commit(note.author.clone(), move |draft| {
                        draft.note_statement(&note.sql, Some(&kept), "[]")
                    })
                    .await;
                match noted {
                    Ok(_) => Ok(reply),
                    Err(error) => self.replay(&first, &key).await?.ok_or(error),
                }
            }
            // Another request with the key may have been first, whatever it is that failed here.
            Err(error) => self.replay(&first, &key).await?.ok_or(error),
        }
    }

    /// Takes back a planned statement that would run under this key: from now on no process runs
    /// it.
    ///
    /// # Arguments
    /// `id`: under which the commit stands in `statements`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take_back(&self, id: &Arc<str>, key: &str) -> Result<TakenBack> {
        let key = key_of(self.actor(), key);
        let author = Author::new(Arc::clone(&self.actor), Arc::clone(id));
        let noted = self.ledger().commit(author, move |draft| {
            draft.note_statement("-- taken back before it ran", Some(&key), TAKEN_BACK)
        });
        match noted.await {
            Ok(_) => Ok(TakenBack::Yes),
            Err(error) if error.code() == Code::KeyReused => Ok(TakenBack::No),
            Err(error) => Err(error),
        }
    }

    async fn replay(&self, first: &First, key: &str) -> Result<Option<Reply>> {
        let state = self.ledger().snapshot().await?;
        let Some(kept) = state.kept.get(key) else {
            return Ok(None);
        };
        if &*kept.summary == TAKEN_BACK {
            return Err(Error::new(Code::Cancelled, "the statement was cancelled")
                .with_detail("Its owner took it back before it ran; nothing was changed."));
        }
        if kept.digest != digest_of(&first.task.text.sql) {
            return Err(Error::new(
                Code::KeyReused,
                "the idempotency key was used for another statement",
            )
            .with_detail(format!(
                "Statement {} of {} has it, with another text or other parameters.",
                kept.statement_id, kept.at
            ))
            .with_hint("Make a new key for every statement."));
        }
        let mut reply = outcome(kept, first.task.kind)?;
        if let Some(rows) = self.rows_again(first, kept).await? {
            reply.schema = rows.schema();
            reply.batches = stream_of(rows.schema(), vec![rows]);
            reply.repetition = Repetition::Rows;
        }
        Ok(Some(reply))
    }

    /// The rows of the first answer, where they follow from the store.
    async fn rows_again(&self, first: &First, kept: &KeptStatement) -> Result<Option<RecordBatch>> {
        let Some(function) = &first.call else {
            return Ok(None);
        };
        match self.gate.call(function)? {
            Call::Effect(_) => Ok(None),
            Call::Procedure {
                signature,
                args,
                position,
            } => {
                let running = self.begin(&first.task).await?;
                let (procedure, args) =
                    self.procedure(&running, signature, &args, position).await?;
                procedure.again(self, kept, args).await
            }
        }
    }
}

/// What a repetition needs to know of a statement that may have run before.
struct First {
    task: Task,
    /// The function, where it is a CALL.
    call: Option<Box<Function>>,
}

/// The reply that repeats what a statement did.
///
/// `rows = kinds of outcome, columns = (function: Utf8, outcome: Utf8, count: Int64)`
fn outcome(kept: &KeptStatement, kind: StatementKind) -> Result<Reply> {
    let written: Option<Written> = serde_json::from_str(&kept.summary).ok();
    let summary: Vec<OutcomeCount> = serde_json::from_str(&kept.summary).unwrap_or_default();
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "function",
            texts(summary.iter().map(|one| Some(one.function.as_str()))),
        ),
        (
            "outcome",
            texts(summary.iter().map(|one| Some(one.outcome.as_str()))),
        ),
        ("count", ints(summary.iter().map(|one| Some(one.count)))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    Ok(Reply {
        statement_id: Arc::clone(&kept.statement_id),
        kind,
        schema: batch.schema(),
        batches: stream_of(batch.schema(), vec![batch]),
        version: kept.version.0,
        rows_affected: written.map(|written| written.rows),
        summary,
        locks: LockChanges::default(),
        notes: vec!["this is the outcome of an earlier statement with the same key".to_owned()],
        repetition: Repetition::Summary,
    })
}
