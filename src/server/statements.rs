//! The statements that a server runs or has run, each a resource of whoever sent it.
//!
//! Invariants: a record ends once; records of ended statements and their rows are bounded in
//! number, bytes and time; nobody can tell another's statement from one that never was.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::server::problem::{Effects, Problem};
use crate::session::{LockChanges, OutcomeCount, Repetition, StatementKind};
use crate::time::{Clock, Timestamp};

/// Characters that are kept of the text of a statement. Chosen: ample for what people write; what
/// programs send with rows in it is a thousand times that, and there may be many records.
const SQL_CHARS: usize = 4096;

/// What a statement is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StatementState {
    Planned,
    Running,
    Committed,
    Failed,
    Cancelled,
}

impl StatementState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn ended(self) -> bool {
        match self {
            Self::Planned | Self::Running => false,
            Self::Committed | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What is known of the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub version: Option<u64>,
    pub rows: Option<u64>,
    pub rows_affected: Option<u64>,
    pub summary: Vec<OutcomeCount>,
    pub locks: LockChanges,
    pub notes: Vec<String>,
}

/// Rows that are kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub schema: SchemaRef,
    pub batches: Arc<[RecordBatch]>,
    pub bytes: usize,
}

#[derive(Debug)]
struct Progress {
    state: StatementState,
    ended_at: Option<Timestamp>,
    outcome: Outcome,
    problem: Option<(StatusCode, Value)>,
    kept: Option<Kept>,
    origin: Origin,
    /// Ends the sending of rows.
    sending: CancellationToken,
}

/// Where the outcome that a statement tells is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// It ran itself.
    Own,
    /// An earlier statement with the same key, of this id.
    Earlier(Arc<str>, Repetition),
    /// It never ran: its owner took it back while it was planned.
    Recalled,
}

/// One statement.
#[derive(Debug)]
pub(super) struct Record {
    pub id: Arc<str>,
    pub actor: Arc<str>,
    pub kind: StatementKind,
    pub cancel: CancellationToken,
    sql: String,
    submitted_at: Timestamp,
    progress: Mutex<Progress>,
    ended: watch::Sender<bool>,
}

impl Record {
    pub(super) fn state(&self) -> StatementState {
        self.progress.lock().state
    }

    /// Lets a planned statement run; whether it had not run before.
    pub(super) fn begin(&self) -> bool {
        let mut progress = self.progress.lock();
        let begins =
            progress.state == StatementState::Planned && progress.origin != Origin::Recalled;
        if begins {
            progress.state = StatementState::Running;
        }
        begins
    }

    /// What ends the sending of its rows, which begins now.
    pub(super) fn sending(&self) -> CancellationToken {
        self.progress.lock().sending.clone()
    }

    /// An error of this statement, with what is known of its effects.
    pub(super) fn told(&self, error: Error) -> Problem {
        let committed = self.kind.changes() && self.outcome().version.is_some();
        let problem = Problem::of_statement(error, &self.id, self.kind);
        match committed {
            true => problem.with_effects(Effects::Committed),
            false => problem,
        }
    }

    pub(super) fn origin(&self) -> Origin {
        self.progress.lock().origin.clone()
    }

    /// Notes that its outcome is that of an earlier statement.
    pub(super) fn repeats(&self, earlier: &Arc<str>, repetition: Repetition) {
        self.progress.lock().origin = Origin::Earlier(Arc::clone(earlier), repetition);
    }

    /// Notes what is known before the last row was sent.
    pub(super) fn note(&self, outcome: Outcome) {
        self.progress.lock().outcome = outcome;
    }

    /// Notes how many rows the answer had.
    pub(super) fn note_rows(&self, rows: u64) {
        self.progress.lock().outcome.rows = Some(rows);
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.progress.lock().outcome.clone()
    }

    pub(super) fn problem(&self) -> Option<(StatusCode, Value)> {
        self.progress.lock().problem.clone()
    }

    pub(super) fn kept(&self) -> Option<Kept> {
        self.progress.lock().kept.clone()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as the record.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// The resource.
    pub(super) fn json(&self) -> Value {
        let progress = self.progress.lock();
        let outcome = &progress.outcome;
        let result = progress.kept.as_ref();
        json!({
            "statement_id": self.id,
            "kind": self.kind.name(),
            "state": progress.state.name(),
            "sql": self.sql,
            "submitted_at": self.submitted_at.to_string(),
            "ended_at": progress.ended_at.map(|at| at.to_string()),
            "version": outcome.version,
            "rows": outcome.rows,
            "rows_affected": outcome.rows_affected,
            "summary": outcome.summary,
            "notes": outcome.notes,
            "error": progress.problem.as_ref().map(|(_, body)| body),
            "result": result.map(|_| format!("/v1/statements/{}/result", self.id)),
        })
    }
}

/// The statements of one server.
#[derive(Debug)]
pub(super) struct Registry {
    clock: Clock,
    limits: Arc<Limits>,
    closing: CancellationToken,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<Arc<str>, Arc<Record>>,
    /// Those that were planned for a ticket, the oldest first, whatever became of them.
    planned: VecDeque<(Timestamp, Arc<Record>)>,
    /// Ended ones, the oldest first.
    ended: VecDeque<(Timestamp, Arc<Record>)>,
    /// Those whose records are gone, the oldest first.
    gone: VecDeque<Gone>,
    kept_bytes: usize,
}

/// What is left of a record.
#[derive(Debug)]
struct Gone {
    id: Arc<str>,
    actor: Arc<str>,
    /// Its ticket, which may live longer, must not bring it back.
    recalled: bool,
}

impl Gone {
    fn is(&self, id: &str, actor: &str) -> bool {
        &*self.id == id && &*self.actor == actor
    }
}

impl Inner {
    fn forget_rows(&mut self, record: &Record) {
        if let Some(kept) = record.progress.lock().kept.take() {
            self.kept_bytes = self.kept_bytes.saturating_sub(kept.bytes);
        }
    }

    fn expire(&mut self, now: Timestamp, limits: &Limits) {
        while let Some((at, record)) = self.planned.front() {
            let old = now.since(*at) > limits.server_ticket_keep;
            if !old && self.planned.len() <= limits.server_records_max {
                break;
            }
            if record.state() == StatementState::Planned {
                self.records.remove(&record.id);
            }
            self.planned.pop_front();
        }
        while let Some((at, record)) = self.ended.front() {
            let old = now.since(*at) > limits.server_keep;
            if !old && self.ended.len() <= limits.server_records_max {
                break;
            }
            let record = Arc::clone(record);
            self.ended.pop_front();
            self.forget_rows(&record);
            self.records.remove(&record.id);
            self.gone.push_back(Gone {
                id: Arc::clone(&record.id),
                actor: Arc::clone(&record.actor),
                recalled: record.origin() == Origin::Recalled,
            });
            if self.gone.len() > limits.server_records_max {
                self.gone.pop_front();
            }
        }
        let mut oldest = 0;
        while self.kept_bytes > limits.server_results_bytes_max {
            let Some((_, record)) = self.ended.get(oldest) else {
                break;
            };
            let record = Arc::clone(record);
            self.forget_rows(&record);
            oldest += 1;
        }
    }
}

impl Registry {
    pub(super) fn new(clock: Clock, limits: Arc<Limits>, closing: CancellationToken) -> Self {
        Self {
            clock,
            limits,
            closing,
            inner: Mutex::default(),
        }
    }

    /// Notes a statement that is about to run or be planned.
    pub(super) fn add(&self, actor: &Arc<str>, kind: StatementKind, sql: &str) -> Arc<Record> {
        let mut inner = self.inner.lock();
        inner.expire(self.clock.now(), &self.limits);
        self.add_to(&mut inner, new_id(), actor, kind, sql)
    }

    /// The statement of a ticket, which runs from now on: under the id of the ticket the first
    /// time, also where another server planned it, and under a new one when it is fetched again.
    ///
    /// # Errors
    /// `SG4010 cancelled` for one that its owner took back before it was fetched. One that was
    /// cancelled while it ran may be committed, which its idempotency key tells.
    pub(super) fn of_ticket(
        &self,
        id: &str,
        actor: &Arc<str>,
        kind: StatementKind,
        sql: &str,
    ) -> Result<Arc<Record>> {
        let mut inner = self.inner.lock();
        inner.expire(self.clock.now(), &self.limits);
        let known = inner.records.get(id).map(Arc::clone);
        let record = match known.filter(|record| record.actor == *actor) {
            Some(record) if record.origin() == Origin::Recalled => return Err(cancelled()),
            Some(record) if record.begin() => return Ok(record),
            Some(_) => self.add_to(&mut inner, new_id(), actor, kind, sql),
            None => {
                let mut gone = inner.gone.iter().filter(|gone| gone.is(id, actor));
                if gone.any(|gone| gone.recalled) {
                    return Err(cancelled());
                }
                self.add_to(&mut inner, id.into(), actor, kind, sql)
            }
        };
        record.begin();
        Ok(record)
    }

    fn add_to(
        &self,
        inner: &mut Inner,
        id: Arc<str>,
        actor: &Arc<str>,
        kind: StatementKind,
        sql: &str,
    ) -> Arc<Record> {
        let record = Arc::new(Record {
            id: Arc::clone(&id),
            actor: Arc::clone(actor),
            kind,
            cancel: self.closing.child_token(),
            sql: beginning(sql),
            submitted_at: self.clock.now(),
            progress: Mutex::new(Progress {
                state: StatementState::Planned,
                ended_at: None,
                outcome: Outcome::default(),
                problem: None,
                kept: None,
                origin: Origin::Own,
                sending: self.closing.child_token(),
            }),
            ended: watch::Sender::new(false),
        });
        inner.records.insert(id, Arc::clone(&record));
        record
    }

    /// Keeps a statement that waits for its ticket to be fetched, as long as a ticket counts.
    pub(super) fn wait_for_ticket(&self, record: &Arc<Record>) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        inner.planned.push_back((now, Arc::clone(record)));
        inner.expire(now, &self.limits);
    }

    /// Asks a statement to end, and rows on their way to be given up. One that never began has
    /// ended then; one that has ended stays as it is.
    ///
    /// # Returns
    /// What it was at.
    pub(super) fn cancel(&self, record: &Arc<Record>) -> StatementState {
        let was = {
            let mut progress = record.progress.lock();
            if progress.state == StatementState::Planned {
                progress.origin = Origin::Recalled;
            }
            progress.sending.cancel();
            progress.sending = self.closing.child_token();
            progress.state
        };
        if was == StatementState::Planned {
            let problem = Problem::of_statement(cancelled(), &record.id, record.kind);
            let problem = problem.with_effects(Effects::None);
            self.end(record, StatementState::Cancelled, Some(&problem), None);
        } else if was == StatementState::Running {
            record.cancel.cancel();
        }
        was
    }

    /// Gives up the rows of a statement.
    pub(super) fn forget_rows(&self, record: &Record) {
        self.inner.lock().forget_rows(record);
    }

    /// Ends a statement; what ended before stays as it was.
    pub(super) fn end(
        &self,
        record: &Arc<Record>,
        state: StatementState,
        problem: Option<&Problem>,
        kept: Option<Kept>,
    ) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        {
            let mut progress = record.progress.lock();
            if progress.state.ended() {
                return;
            }
            progress.state = state;
            progress.ended_at = Some(now);
            progress.problem = problem.map(|problem| (problem.status(), problem.body()));
            inner.kept_bytes += kept.as_ref().map_or(0, |kept| kept.bytes);
            progress.kept = kept;
        }
        inner.ended.push_back((now, Arc::clone(record)));
        inner.expire(now, &self.limits);
        record.ended.send_replace(true);
    }

    /// The statement of this id, where it is the actor's.
    ///
    /// # Errors
    /// `SG2001 unknown-object`, `SG4008 statement-expired`.
    pub(super) fn get(&self, id: &str, actor: &str) -> Result<Arc<Record>> {
        let mut inner = self.inner.lock();
        inner.expire(self.clock.now(), &self.limits);
        let record = inner.records.get(id);
        if let Some(record) = record.filter(|record| record.actor.as_ref() == actor) {
            return Ok(Arc::clone(record));
        }
        if inner.gone.iter().any(|gone| gone.is(id, actor)) {
            return Err(expired("the record of the statement is no longer kept"));
        }
        Err(Error::new(
            Code::UnknownObject,
            format!("statement \"{id}\" does not exist"),
        )
        .with_hint("GET /v1/statements lists your own statements on this server."))
    }

    /// The statements of an actor, the newest first.
    pub(super) fn of(&self, actor: &str) -> Vec<Arc<Record>> {
        let mut inner = self.inner.lock();
        inner.expire(self.clock.now(), &self.limits);
        let own = inner.records.values();
        let mut own: Vec<_> = own
            .filter(|record| record.actor.as_ref() == actor)
            .map(Arc::clone)
            .collect();
        own.sort_by(|a, b| b.id.cmp(&a.id));
        own
    }

    /// How many statements of an actor have not ended.
    pub(super) fn running(&self, actor: &str) -> usize {
        let inner = self.inner.lock();
        let own = inner.records.values();
        own.filter(|record| {
            record.actor.as_ref() == actor && record.state() == StatementState::Running
        })
        .count()
    }
}

fn new_id() -> Arc<str> {
    Uuid::now_v7().to_string().into()
}

/// The beginning of a statement, to know it by. Table `statements` has all of those that changed
/// the store.
fn beginning(sql: &str) -> String {
    let Some((end, _)) = sql.char_indices().nth(SQL_CHARS) else {
        return sql.to_owned();
    };
    format!("{}...", sql.get(..end).unwrap_or_default())
}

/// The error of a cancelled statement.
pub(super) fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the statement was cancelled")
        .with_hint("Where it has effects, table statements tells whether they were committed.")
}

/// The error for what is no longer kept.
pub(super) fn expired(message: &str) -> Error {
    Error::new(Code::StatementExpired, message)
        .with_hint("Table statements keeps what changed the store; run a query again.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::datatypes::Schema;

    use super::*;

    fn registry(limits: Limits) -> Registry {
        let clock = Clock::mock(Timestamp(0));
        Registry::new(clock, Arc::new(limits), CancellationToken::new())
    }

    fn ended(registry: &Registry, id: &str, actor: &str, bytes: usize) -> Arc<Record> {
        let record = registry.of_ticket(id, &actor.into(), StatementKind::Query, "SELECT 1");
        let record = record.unwrap();
        let kept = Kept {
            schema: Arc::new(Schema::empty()),
            batches: Arc::new([]),
            bytes,
        };
        registry.end(&record, StatementState::Committed, None, Some(kept));
        record
    }

    #[test]
    fn the_statement_of_another_is_as_one_that_never_was() {
        let registry = registry(Limits::default());
        ended(&registry, "1", "ann", 1);
        assert!(registry.get("1", "ann").is_ok());
        let theirs = registry.get("1", "bob").unwrap_err();
        let nobodys = registry.get("2", "bob").unwrap_err();
        assert_eq!(theirs.code(), nobodys.code());
        assert_eq!(theirs.message().replace('1', "2"), nobodys.message());
        assert!(registry.of("bob").is_empty());
    }

    #[test]
    fn records_expire_by_time_and_number_and_rows_by_bytes() {
        let limits = Limits {
            server_records_max: 3,
            server_results_bytes_max: 100,
            ..Limits::default()
        };
        let keep = limits.server_keep;
        let registry = registry(limits);
        let first = ended(&registry, "1", "ann", 60);
        let second = ended(&registry, "2", "ann", 60);
        assert!(first.kept().is_none() && second.kept().is_some());
        for id in ["3", "4"] {
            ended(&registry, id, "ann", 1);
        }
        let code = |id| registry.get(id, "ann").err().map(|error| error.code());
        assert_eq!(code("1"), Some(Code::StatementExpired));
        assert_eq!(code("2"), None);
        registry.clock.advance(keep + Duration::from_secs(1));
        assert_eq!(code("2"), Some(Code::StatementExpired));
        assert_eq!(registry.inner.lock().kept_bytes, 0);
    }

    fn fetched(registry: &Registry, id: &str) -> Result<Arc<Record>> {
        registry.of_ticket(id, &"ann".into(), StatementKind::Effect, "CALL f()")
    }

    #[test]
    fn a_plan_that_was_taken_back_never_runs_also_when_its_record_is_gone() {
        let limits = Limits::default();
        let keep = limits.server_keep;
        assert!(keep < limits.server_ticket_keep);
        let registry = registry(limits);
        let ann: Arc<str> = "ann".into();
        let plan = || {
            let planned = registry.add(&ann, StatementKind::Effect, "CALL f()");
            registry.wait_for_ticket(&planned);
            planned
        };
        let (taken_back, planned) = (plan(), plan());
        registry.cancel(&taken_back);
        assert!(!taken_back.begin());
        assert_eq!(taken_back.problem().unwrap().0, StatusCode::CONFLICT);
        assert!(fetched(&registry, &taken_back.id).is_err());
        registry.clock.advance(keep + Duration::from_secs(1));
        assert!(registry.get(&taken_back.id, "ann").is_err());
        assert!(fetched(&registry, &taken_back.id).is_err());
        assert_eq!(fetched(&registry, &planned.id).unwrap().id, planned.id);
    }

    /// Its key tells what became of it, so nothing that may have run is refused.
    #[test]
    fn a_ticket_is_run_under_its_id_once_and_further_fetches_have_their_own() {
        let registry = registry(Limits::default());
        let first = fetched(&registry, "1").unwrap();
        assert_eq!(&*first.id, "1");
        let meanwhile = fetched(&registry, "1").unwrap();
        assert_ne!(meanwhile.id, first.id);
        registry.end(&first, StatementState::Committed, None, None);
        assert_eq!(registry.cancel(&first), StatementState::Committed);
        assert_eq!(first.state(), StatementState::Committed);
        assert!(!first.cancel.is_cancelled() && !first.sending().is_cancelled());
        registry.cancel(&meanwhile);
        assert!(meanwhile.cancel.is_cancelled());
        assert!(fetched(&registry, "1").is_ok());
    }

    #[test]
    fn only_the_beginning_of_a_statement_is_kept() {
        assert_eq!(beginning("SELECT 1"), "SELECT 1");
        let long = "\u{e4}".repeat(SQL_CHARS + 1);
        let kept = beginning(&long);
        assert!(kept.ends_with("...") && kept.chars().count() == SQL_CHARS + 3);
    }
}
