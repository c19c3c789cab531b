//! A commit in the making: a state that is one's own, and the events that led to it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use imbl::OrdSet;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::{BatchId, JobId, Slot, TableId, Token, Version};
use crate::model::apply::{advance, apply};
use crate::model::columns::EventsBuilder;
use crate::model::event::{Event, Origin, Scheduled};
use crate::model::lineage::FORMAT;
use crate::model::rules::Violation;
use crate::model::scheduling::Scheduling;
use crate::model::state::State;
use crate::time::Timestamp;

/// Who runs a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The user or worker.
    pub actor: Arc<str>,
    /// The statement.
    pub statement_id: Arc<str>,
    /// The locks that it shows as its own, see `rules::lock_is_own`.
    pub lock_tokens: OrdSet<Token>,
}

impl Author {
    /// Somebody who shows no lock.
    pub fn new(actor: impl Into<Arc<str>>, statement_id: impl Into<Arc<str>>) -> Self {
        Self {
            actor: actor.into(),
            statement_id: statement_id.into(),
            lock_tokens: OrdSet::new(),
        }
    }
}

/// The decisions of one statement on top of a state. Throw it away to undo them.
///
/// The commands are methods, see [`crate::model::decide`].
#[derive(Debug)]
pub struct Draft<'l> {
    pub(in crate::model) state: State,
    pub(in crate::model) limits: &'l Limits,
    pub(in crate::model) author: Author,
    pub(in crate::model) at: Timestamp,
    pub(in crate::model) version: Version,
    pub(in crate::model) batches: HashMap<Option<Arc<str>>, BatchId>,
    events: EventsBuilder,
}

/// What a draft led to.
#[derive(Debug)]
pub struct Drafted {
    /// The state after it.
    pub state: State,
    /// Its events in the columns of [`crate::model::columns::schema`]; no rows, nothing happened.
    pub events: RecordBatch,
}

impl<'l> Draft<'l> {
    /// Begins on top of `state`, for the commit `version`, which may hold other drafts too.
    ///
    /// # Arguments
    /// `now` is raised to the time of `state` where it is earlier: time never runs back.
    pub fn new(
        mut state: State,
        version: Version,
        now: Timestamp,
        author: Author,
        limits: &'l Limits,
    ) -> Self {
        let at = now.max(state.at);
        state.lineage.format = FORMAT;
        let events = EventsBuilder::default();
        Self {
            state,
            limits,
            author,
            at,
            version,
            batches: HashMap::new(),
            events,
        }
    }

    /// Counts the events of this draft from `ordinal` on, after those of earlier drafts of the
    /// same commit.
    #[must_use]
    pub fn with_first_ordinal(mut self, ordinal: usize) -> Self {
        self.events = EventsBuilder::starting_at(ordinal);
        self
    }

    /// The state as it is with all decisions so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The time of the commit.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Who decides.
    pub fn actor(&self) -> &Arc<str> {
        &self.author.actor
    }

    /// Whether anything happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Notes the statement itself, so that `statements` shows it. Call it once, last.
    ///
    /// # Errors
    /// `SG4007 key-reused`: a statement with this key is in the store already. Then nothing of
    /// this one happens, so two requests with one key cannot both act, however they race.
    pub fn note_statement(
        &mut self,
        sql: &str,
        idempotency_key: Option<&str>,
        summary: &str,
    ) -> Result<()> {
        if let Some(key) = idempotency_key
            && self.state.kept.get(key).is_some()
        {
            return Err(Error::new(
                Code::KeyReused,
                "a statement with this idempotency key was committed before",
            )
            .with_hint("Make a new key for every statement."));
        }
        self.emit(&Event::StatementCommitted {
            sql,
            idempotency_key,
            summary,
        })
    }

    /// Ends the draft.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn finish(mut self) -> Result<Drafted> {
        let events = self
            .events
            .finish()
            .map_err(|error| Error::bug("events do not fit their columns").with_source(error))?;
        Ok(Drafted {
            state: self.state,
            events,
        })
    }

    /// Folds an event in and keeps it. Every rule is checked here.
    pub(in crate::model) fn emit(&mut self, event: &Event<'_>) -> Result<()> {
        let origin = origin(&self.author, self.at);
        self.events.push(self.version, origin, event, &self.state);
        apply(&mut self.state, self.version, origin, event).map_err(broken)
    }

    /// Begins to schedule jobs that have all but their sources in common. Their events are kept
    /// when it ends, so nothing may be emitted before.
    pub(in crate::model) fn begin_scheduling<'a>(
        &mut self,
        table: TableId,
        with: Scheduled<'a>,
    ) -> Result<OpenScheduling<'a>> {
        let origin = origin(&self.author, self.at);
        advance(&mut self.state, self.version, origin).map_err(broken)?;
        let jobs = Scheduling::begin(&self.state, table, with).map_err(broken)?;
        Ok(OpenScheduling {
            jobs,
            slots: Vec::new(),
        })
    }

    /// Folds a job on a source in.
    pub(in crate::model) fn add_scheduled(
        &mut self,
        open: &mut OpenScheduling<'_>,
        slot: Slot,
    ) -> Result<JobId> {
        let job = open.jobs.next();
        open.jobs.add(&mut self.state, job, slot).map_err(broken)?;
        open.slots.push(slot);
        Ok(job)
    }

    /// Keeps the events of the jobs.
    pub(in crate::model) fn end_scheduling(&mut self, open: OpenScheduling<'_>) -> Result<()> {
        let OpenScheduling { jobs, slots } = open;
        let origin = origin(&self.author, self.at);
        let common = (jobs.first(), jobs.with());
        let sources = (jobs.table(), slots.as_slice());
        self.events
            .push_scheduled(self.version, origin, common, sources, &self.state);
        jobs.end(&mut self.state).map_err(broken)
    }
}

/// Jobs whose events are not kept yet.
#[derive(Debug)]
pub(in crate::model) struct OpenScheduling<'a> {
    jobs: Scheduling<'a>,
    slots: Vec<Slot>,
}

fn origin(author: &Author, at: Timestamp) -> Origin<'_> {
    Origin {
        actor: &author.actor,
        statement_id: &author.statement_id,
        at,
    }
}

fn broken(violation: Violation) -> Error {
    Error::bug(format!(
        "a decision breaks the rule \"{}\"",
        violation.rule.text()
    ))
    .with_detail(format!("{}.", violation.what))
    .with_source(violation)
}
