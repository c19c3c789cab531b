//! Scheduling, cancelling, retrying, and what time brings about.

use std::sync::Arc;

use crate::error::{Code, Error, Result};
use crate::id::{BatchId, JobId, Slot, TableId, Token, TransformId};
use crate::model::decide::{Decision, Outcome};
use crate::model::draft::Draft;
use crate::model::event::{AttemptRef, Event, Refusal, Scheduled, SourceRef};
use crate::model::jobs::{Job, JobState, Liveness};
use crate::model::keys::Key;
use crate::model::rules;
use crate::model::transform::Permission;
use crate::time::Timestamp;

/// The transform of a `schedule_job` call, looked up once for many rows.
#[derive(Debug, Clone)]
pub struct ScheduleTarget {
    transform: TransformId,
    table: TableId,
    name: Arc<str>,
    table_name: Arc<str>,
}

impl ScheduleTarget {
    /// The transform's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The transform.
    pub fn transform(&self) -> TransformId {
        self.transform
    }
}

/// The optional arguments of `schedule_job` and `retry_job`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScheduleOptions<'a> {
    /// Higher runs first; that of the transform where it is not given.
    pub priority: Option<i16>,
    /// Not before; at once where it is not given.
    pub run_at: Option<Timestamp>,
    /// Parameters for the transform, as JSON.
    pub params: Option<&'a str>,
    /// A name for the batch.
    pub batch: Option<&'a str>,
}

impl Draft<'_> {
    /// Looks up the transform of a `schedule_job` call.
    ///
    /// # Errors
    /// `SG2002 unknown-transform`.
    pub fn schedule_target(&self, name: &str) -> Result<ScheduleTarget> {
        let transform = self.state.transform(name).ok_or_else(|| {
            let names: Vec<&str> = self
                .state
                .transform_ids
                .keys()
                .map(AsRef::as_ref)
                .filter(|name| self.state.transform(name).is_some())
                .collect();
            let hint = if names.is_empty() {
                "There is no transform yet; make one with CREATE TRANSFORM.".to_owned()
            } else {
                format!("Transforms of this store: {}.", names.join(", "))
            };
            Error::new(
                Code::UnknownTransform,
                format!("transform \"{name}\" does not exist"),
            )
            .with_hint(hint)
        })?;
        let table = self.state.tables.get(&transform.table);
        Ok(ScheduleTarget {
            transform: transform.id,
            table: transform.table,
            name: Arc::clone(&transform.name),
            table_name: table
                .map(|table| Arc::clone(&table.name))
                .unwrap_or_default(),
        })
    }

    /// Schedules a transform on a source.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn schedule_job(
        &mut self,
        target: &ScheduleTarget,
        source_id: &str,
        options: ScheduleOptions<'_>,
    ) -> Result<Decision> {
        let mut decisions = Vec::with_capacity(1);
        self.schedule_jobs(target, [source_id], options, &mut decisions)?;
        decisions
            .pop()
            .ok_or_else(|| Error::bug("schedule_job gave no decision"))
    }

    /// Schedules a transform on sources, with the same outcome as one call after the other. What
    /// the jobs have in common is worked out once.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn schedule_jobs<'k>(
        &mut self,
        target: &ScheduleTarget,
        source_ids: impl IntoIterator<Item = &'k str>,
        options: ScheduleOptions<'_>,
        decisions: &mut Vec<Decision>,
    ) -> Result<()> {
        // The granted calls since the last refusal: events are in the order of the calls.
        let mut open = None;
        let mut before = None;
        let source_ids = source_ids.into_iter();
        decisions.reserve(source_ids.size_hint().0);
        for source_id in source_ids {
            match self.may_schedule(target, source_id, before) {
                Ok(source) => {
                    before = Some(source.slot);
                    let open = match &mut open {
                        Some(open) => open,
                        None => {
                            let with =
                                self.scheduled_with(target.transform, options, JobId::NONE)?;
                            open.insert(self.begin_scheduling(target.table, with)?)
                        }
                    };
                    let job = self.add_scheduled(open, source.slot)?;
                    decisions.push(Decision::new(Outcome::Scheduled).with_job(job));
                }
                Err(refused) => {
                    if let Some(open) = open.take() {
                        self.end_scheduling(open)?;
                    }
                    self.refuse(
                        "schedule_job",
                        &refused,
                        Refusal {
                            transform: Some(&target.name),
                            table: Some(&target.table_name),
                            source_id: Some(source_id),
                            ..Refusal::default()
                        },
                    )?;
                    decisions.push(refused);
                }
            }
        }
        open.map_or(Ok(()), |open| self.end_scheduling(open))
    }

    /// Where the source is free, the one that it names. `before` is a source that was found
    /// before it, see [`crate::model::keys::Keys::find_after`].
    fn may_schedule<'k>(
        &self,
        target: &ScheduleTarget,
        source_id: &'k str,
        before: Option<Slot>,
    ) -> Result<SourceRef<'k>, Decision> {
        let unknown = || {
            let reason = format!(
                "source table \"{}\" has no key \"{source_id}\"",
                target.table_name
            );
            Decision::refused(Outcome::UnknownSource, reason)
        };
        let table = self.state.tables.get(&target.table).ok_or_else(unknown)?;
        let key: Key<'k> = table.def.key_type.parse(source_id).ok_or_else(unknown)?;
        let slot = table.keys.find_after(before, key).ok_or_else(unknown)?;
        let source = table.source(slot).ok_or_else(unknown)?;
        if let Some(live) = self.state.live_job(source, target.transform) {
            let state = self
                .state
                .job(live)
                .map_or("live", |job| job.shown_state(self.at));
            let reason = format!("job {live} of this transform is {state} on it");
            let decision = Decision::refused(Outcome::AlreadyLive, reason).with_job(live);
            return Err(Decision {
                blocking_job: Some(live),
                ..decision
            });
        }
        if let Some(holder) = self.holder(table, slot, source) {
            return Err(holder.refusal());
        }
        let status = table.status_name(source.status);
        if let Some(transform) = self.state.transforms.get(&target.transform)
            && rules::status_is_taken(transform, status) == Permission::Denied
        {
            let reason = format!(
                "its status is {status}; transform \"{}\" takes {}",
                target.name,
                transform.def().from_status.join(", ")
            );
            return Err(Decision::refused(Outcome::WrongStatus, reason));
        }
        Ok(SourceRef {
            table: target.table,
            slot,
            key,
            under: None,
        })
    }

    fn scheduled_with<'o>(
        &mut self,
        transform: TransformId,
        options: ScheduleOptions<'o>,
        parent: JobId,
    ) -> Result<Scheduled<'o>> {
        let batch = self.batch(options.batch)?;
        let default = self
            .state
            .transforms
            .get(&transform)
            .map(|t| t.def().priority);
        Ok(Scheduled {
            transform,
            batch,
            priority: options.priority.or(default).unwrap_or(0),
            run_at: options.run_at.unwrap_or(self.at),
            params: options.params,
            parent,
        })
    }

    /// The batch of this statement with this name, made on its first use.
    fn batch(&mut self, name: Option<&str>) -> Result<BatchId> {
        let name: Option<Arc<str>> = name.map(Into::into);
        if let Some(batch) = self.batches.get(&name) {
            return Ok(*batch);
        }
        let batch = BatchId(self.state.batches.len() as u64 + 1);
        self.emit(&Event::BatchCreated {
            batch,
            name: name.as_deref(),
        })?;
        self.batches.insert(name, batch);
        Ok(batch)
    }

    /// Records that an effect was not granted.
    pub(in crate::model) fn refuse(
        &mut self,
        function: &str,
        decision: &Decision,
        about: Refusal<'_>,
    ) -> Result<()> {
        self.emit(&Event::EffectRefused(Refusal {
            function,
            outcome: decision.outcome.name(),
            reason: &decision.reason,
            job: decision.blocking_job.or(about.job),
            holder: decision.holder.as_deref(),
            ..about
        }))
    }

    fn unknown_job(id: JobId) -> Decision {
        Decision::refused(Outcome::UnknownJob, format!("there is no job {id}"))
    }

    /// Cancels a job; a running one is asked to stop.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn cancel_job(&mut self, id: JobId) -> Result<Decision> {
        let decision = match self.state.job(id) {
            None => Self::unknown_job(id),
            Some(job) if job.state.liveness() == Liveness::Final => {
                let reason = format!("job {id} is {} already", job.state.name());
                Decision::refused(Outcome::AlreadyFinal, reason).with_job(id)
            }
            Some(job) if job.state == JobState::Running => {
                if job.cancel_requested_at().is_none() {
                    self.emit(&Event::JobCancelRequested { job: id })?;
                }
                return Ok(Decision::new(Outcome::CancelRequested).with_job(id));
            }
            Some(_) => {
                self.emit(&Event::JobCancelled {
                    job: id,
                    reason: "",
                })?;
                return Ok(Decision::new(Outcome::Cancelled).with_job(id));
            }
        };
        self.refuse(
            "cancel_job",
            &decision,
            Refusal {
                job: Some(id),
                ..Refusal::default()
            },
        )?;
        Ok(decision)
    }

    /// Makes a new job with the transform, source and (unless others are given) the parameters
    /// and priority of a final one.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn retry_job(&mut self, id: JobId, options: ScheduleOptions<'_>) -> Result<Decision> {
        let about = Refusal {
            job: Some(id),
            ..Refusal::default()
        };
        let Some(old) = self.state.job(id).cloned() else {
            let decision = Self::unknown_job(id);
            self.refuse("retry_job", &decision, about)?;
            return Ok(decision);
        };
        if old.state.liveness() == Liveness::Live {
            let reason = format!(
                "job {id} is {} and needs no retry",
                old.shown_state(self.at)
            );
            let decision = Decision::refused(Outcome::AlreadyLive, reason).with_job(id);
            self.refuse("retry_job", &decision, about)?;
            return Ok(decision);
        }
        let names = self
            .state
            .transforms
            .get(&old.transform)
            .map(|t| Arc::clone(&t.name));
        let target = names.map(|name| self.schedule_target(&name)).transpose()?;
        let key = self
            .state
            .key(old.table, old.slot)
            .map(|key| key.to_string());
        let (Some(target), Some(key)) = (target, key) else {
            return Err(Error::bug(format!("job {id} has no transform or source")));
        };
        if target.table != old.table {
            return Err(Error::new(
                Code::InvalidDefinition,
                format!(
                    "transform \"{}\" is one of another table by now",
                    target.name
                ),
            )
            .with_detail(format!("Job {id} was of a source of another table."))
            .with_hint("Leave such jobs out: schedule_job takes the sources of today's table."));
        }
        let decision = match self.may_schedule(&target, &key, None) {
            Ok(source) => {
                let params = old.extra.as_ref().and_then(|extra| extra.params.clone());
                let options = ScheduleOptions {
                    priority: options.priority.or(Some(old.priority)),
                    params: options.params.or(params.as_deref()),
                    ..options
                };
                let with = self.scheduled_with(target.transform, options, id)?;
                let job = JobId(self.state.last_job.0 + 1);
                self.emit(&Event::JobScheduled { job, source, with })?;
                return Ok(Decision::new(Outcome::Scheduled).with_job(job));
            }
            Err(refused) => refused,
        };
        self.refuse(
            "retry_job",
            &decision,
            Refusal {
                transform: Some(&target.name),
                table: Some(&target.table_name),
                source_id: Some(&key),
                ..about
            },
        )?;
        Ok(decision)
    }

    /// Ends what has outlived its lease: running jobs crash, locks expire. Whoever commits next
    /// notices; nobody needs to watch.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn expire_leases(&mut self) -> Result<()> {
        let jobs: Vec<JobId> = self
            .state
            .crashed_jobs(self.at)
            .take(EXPIRIES_MAX)
            .collect();
        for id in jobs {
            self.crash(id)?;
        }
        let expired = self.state.locks.expired(self.at).take(EXPIRIES_MAX);
        let expired: Vec<(Arc<str>, Token)> = expired
            .map(|(resource, token)| (Arc::clone(resource), token))
            .collect();
        for (resource, token) in expired {
            self.emit(&Event::LockExpired {
                resource: &resource,
                token,
            })?;
        }
        Ok(())
    }

    fn crash(&mut self, id: JobId) -> Result<()> {
        let Some(job) = self.state.job(id) else {
            return Ok(());
        };
        let attempt = AttemptRef {
            job: id,
            attempt: job.attempt,
            token: job.token,
        };
        if job.cancel_requested_at().is_some() {
            return self.emit(&Event::JobCancelled {
                job: id,
                reason: "its lease ran out",
            });
        }
        let again = job.crashes + 1 < self.limits.crashes_max
            && rules::attempt_follows(job) == Permission::Allowed;
        let run_at = again.then(|| self.at.after(self.pause_after(job, job.crashes + 1)));
        self.emit(&Event::JobCrashed { attempt, run_at })
    }

    /// The pause before the next attempt of a job.
    pub(in crate::model) fn pause_after(&self, job: &Job, times: u16) -> std::time::Duration {
        let def = self.state.def_of(job);
        def.map(|def| def.backoff(times, job.token.0))
            .unwrap_or_default()
    }
}

/// Leases of either kind that one commit ends at the most; the next commit ends the others.
const EXPIRIES_MAX: usize = 100_000;
