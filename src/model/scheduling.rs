//! How scheduled jobs join a state: checked one by one, counted and queued together.
//!
//! A commit may schedule a million jobs that differ in their sources only. What they have in
//! common is looked up and checked once. One job alone goes the same way, on decision and on
//! replay, so there is one text of the rules.

use std::sync::Arc;

use crate::id::{JobId, Slot, TableId, Token};
use crate::model::apply::known;
use crate::model::event::Scheduled;
use crate::model::jobs::{Job, JobExtra, JobState};
use crate::model::queue::QueueRange;
use crate::model::rules::{self, Rule, Violation, require};
use crate::model::state::State;
use crate::model::transform::Permission;
use crate::time::Timestamp;

/// Jobs that are being added to a state. Until [`Self::end`] they are with their sources, but not
/// in the queue nor in any count.
#[derive(Debug)]
pub(in crate::model) struct Scheduling<'a> {
    table: TableId,
    with: Scheduled<'a>,
    extra: Option<Arc<JobExtra>>,
    first: JobId,
    jobs: u64,
    /// Those whose sources are held by a running job.
    parked: Vec<JobId>,
}

impl<'a> Scheduling<'a> {
    /// Checks what holds for all jobs. `state` must be at the time and version of the commit.
    pub(in crate::model) fn begin(
        state: &State,
        table: TableId,
        with: Scheduled<'a>,
    ) -> Result<Self, Violation> {
        let transform = known(state.transforms.get(&with.transform), || {
            format!("transform {}", with.transform)
        })?;
        require(Rule::Known, rules::works_on(transform, table), || {
            format!(
                "transform \"{}\" is not one of this table, or was dropped",
                transform.name
            )
        })?;
        known(state.batch(with.batch), || format!("batch {}", with.batch))?;
        Ok(Self {
            table,
            with,
            extra: extra(state, with.params, with.parent),
            first: JobId(state.last_job.0 + 1),
            jobs: 0,
            parked: Vec::new(),
        })
    }

    /// The table of the sources.
    pub(in crate::model) fn table(&self) -> TableId {
        self.table
    }

    /// What the jobs have in common.
    pub(in crate::model) fn with(&self) -> Scheduled<'a> {
        self.with
    }

    /// The id of the first job.
    pub(in crate::model) fn first(&self) -> JobId {
        self.first
    }

    /// The id that the next job gets.
    pub(in crate::model) fn next(&self) -> JobId {
        JobId(self.first.0 + self.jobs)
    }

    /// Adds a job on a source.
    pub(in crate::model) fn add(
        &mut self,
        state: &mut State,
        id: JobId,
        slot: Slot,
    ) -> Result<(), Violation> {
        let next = JobId(state.last_job.0 + 1);
        let in_order = Permission::of(id == next && id == self.next());
        require(Rule::IdsInOrder, in_order, || {
            format!("job {id} comes where job {next} is next")
        })?;
        let source = known(state.source(self.table, slot), || {
            format!("the source in slot {slot}")
        })?;
        let free = rules::no_live_job(state, source, self.with.transform);
        require(Rule::OneLiveJob, free, || {
            let key = state.key(self.table, slot).map(|key| key.to_string());
            format!("source \"{}\" gets job {id}", key.unwrap_or_default())
        })?;
        let last_live = state.live_jobs(source).last().map(|(id, _)| id);
        if source.running_job != JobId::NONE {
            self.parked.push(id);
        }
        state.jobs.push(Job {
            table: self.table,
            slot,
            transform: self.with.transform,
            transform_version: 0,
            batch: self.with.batch,
            state: JobState::Waiting,
            priority: self.with.priority,
            attempt: 0,
            failures: 0,
            crashes: 0,
            worker: 0,
            token: Token(0),
            next_live: JobId::NONE,
            created_at: state.at,
            run_at: self.with.run_at,
            started_at: Timestamp(0),
            ended_at: Timestamp(0),
            expires_at: Timestamp(0),
            extra: self.extra.clone(),
        });
        state.last_job = id;
        let table = state.table_mut(self.table);
        let source = table.and_then(|table| table.source_mut(slot));
        let source = known(source, || format!("slot {slot}"))?;
        source.last_job = id;
        match last_live {
            None => source.live_job = id,
            Some(last) => known(state.job_mut(last), || format!("job {last}"))?.next_live = id,
        }
        self.jobs += 1;
        Ok(())
    }

    /// Queues and counts the jobs.
    pub(in crate::model) fn end(self, state: &mut State) -> Result<(), Violation> {
        let Self { table, with, .. } = self;
        let (first, end) = (self.first, self.next());
        if first == end {
            return Ok(());
        }
        let table = known(state.table_mut(table), || format!("table {table}"))?;
        table.live_jobs += self.jobs;
        let transform = known(state.transform_mut(with.transform), || {
            format!("transform {}", with.transform)
        })?;
        transform.queue.insert_new(QueueRange {
            priority: with.priority,
            run_at: with.run_at,
            first,
            end,
        });
        for job in self.parked {
            transform.queue.park(with.priority, with.run_at, job);
        }
        let batch = known(state.batch_mut(with.batch), || {
            format!("batch {}", with.batch)
        })?;
        batch.count_scheduled(self.jobs);
        Ok(())
    }
}

/// What few jobs have. Jobs of one statement mostly share their parameters: those of the last
/// job are used again.
fn extra(state: &State, params: Option<&str>, parent: JobId) -> Option<Arc<JobExtra>> {
    if params.is_none() && parent == JobId::NONE {
        return None;
    }
    let last = state.job(state.last_job).and_then(|job| job.extra.as_ref());
    Some(match last {
        Some(extra)
            if extra.params.as_deref() == params
                && **extra
                    == JobExtra {
                        params: extra.params.clone(),
                        parent,
                        ..JobExtra::default()
                    } =>
        {
            Arc::clone(extra)
        }
        Some(_) | None => Arc::new(JobExtra {
            params: params.map(Into::into),
            parent,
            ..JobExtra::default()
        }),
    })
}
