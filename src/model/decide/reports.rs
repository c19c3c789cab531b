//! What workers report: heartbeats, successes, failures, jobs handed back.

use std::sync::Arc;

use crate::error::Result;
use crate::id::{JobId, Token};
use crate::model::decide::sources::fits;
use crate::model::decide::{Decision, Outcome};
use crate::model::draft::Draft;
use crate::model::event::{AttemptRef, Event, Refusal, RowRef};
use crate::model::jobs::Job;
use crate::model::rules;
use crate::model::transform::{Permission, TransformDef};
use crate::time::Timestamp;

/// Whose report it is: the job and the fencing token that came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The token of the attempt.
    pub token: Token,
}

/// What a successful attempt leaves behind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Completion<'a> {
    /// The status that it chose; the transform's first where it chose none.
    pub status: Option<&'a str>,
    /// Where its columns were written.
    pub row: Option<RowRef>,
    /// Its output.
    pub output_uri: Option<&'a str>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The class of the error, such as `SG8002` or one of the transform's own.
    pub code: &'a str,
    /// The error.
    pub message: &'a str,
}

impl Draft<'_> {
    /// Rule 4: the running attempt that a report is of.
    fn reported(
        &mut self,
        function: &str,
        report: Report,
    ) -> Result<Result<(AttemptRef, Job), Decision>> {
        let decision = match self.state.job(report.job) {
            None => Decision::refused(
                Outcome::UnknownJob,
                format!("there is no job {}", report.job),
            ),
            Some(job) => {
                let attempt = AttemptRef {
                    job: report.job,
                    attempt: job.attempt,
                    token: report.token,
                };
                if rules::report_is_live(job, attempt) == Permission::Allowed {
                    return Ok(Ok((attempt, job.clone())));
                }
                let state = job.shown_state(self.at);
                let reason = if job.token == report.token {
                    // The attempt was the last, but it is over.
                    format!(
                        "job {} is {state}; its attempt with token {} has ended",
                        report.job, report.token
                    )
                } else {
                    format!(
                        "job {} is {state}, and its last token is {}, not {}",
                        report.job, job.token, report.token
                    )
                };
                Decision::refused(Outcome::StaleToken, reason).with_job(report.job)
            }
        };
        let about = Refusal {
            job: Some(report.job),
            token: Some(report.token),
            ..Refusal::default()
        };
        self.refuse(function, &decision, about)?;
        Ok(Err(decision))
    }

    /// Whether a report would be taken: its attempt still runs.
    pub fn report_lives(&self, report: Report) -> bool {
        self.state.job(report.job).is_some_and(|job| {
            let attempt = AttemptRef {
                job: report.job,
                attempt: job.attempt,
                token: report.token,
            };
            rules::report_is_live(job, attempt) == Permission::Allowed
        })
    }

    /// Renews the lease of a running job.
    ///
    /// # Returns
    /// `alive`, `alive-cancel-requested`, or a refusal: then the work must stop, for the job
    /// belongs to somebody else by now.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn heartbeat(&mut self, report: Report) -> Result<Decision> {
        let (attempt, job) = match self.reported("heartbeat", report)? {
            Ok(live) => live,
            Err(refused) => return Ok(refused),
        };
        let def = self.state.def_of(&job);
        let lease = def.map_or(self.limits.lease, |def| def.lease());
        // The second clock: a job that beats but hangs is not renewed beyond its timeout, with a
        // lease in which its worker can report that.
        let last = def.map(|def| job.started_at.after(def.timeout()).after(lease));
        let expires_at = self.at.after(lease).min(last.unwrap_or(Timestamp::MAX));
        let expires_at = expires_at.max(job.expires_at);
        self.emit(&Event::JobRenewed {
            attempt,
            expires_at,
        })?;
        let outcome = match job.cancel_requested_at() {
            Some(_) => Outcome::AliveCancelRequested,
            None => Outcome::Alive,
        };
        Ok(Decision::new(outcome).with_job(report.job))
    }

    /// Ends a job well: in one commit the lock is released, the source gets its status and its
    /// columns, and the output is linked.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn complete_job(&mut self, report: Report, done: Completion<'_>) -> Result<Decision> {
        let (attempt, job) = match self.reported("complete_job", report)? {
            Ok(live) => live,
            Err(refused) => return Ok(refused),
        };
        let def = self.state.def_of(&job).map(Arc::clone);
        let status = match self.status_of(&job, def.as_deref(), done.status) {
            Ok(status) => status,
            Err(decision) => {
                let about = Refusal {
                    job: Some(report.job),
                    token: Some(report.token),
                    ..Refusal::default()
                };
                self.refuse("complete_job", &decision, about)?;
                return Ok(decision.with_job(report.job));
            }
        };
        self.emit(&Event::JobCompleted {
            attempt,
            status,
            row: done.row,
            output_uri: done.output_uri,
        })?;
        Ok(Decision::new(Outcome::Completed).with_job(report.job))
    }

    /// The status that the source of a completed job gets, by the version of the transform that
    /// its attempt started.
    fn status_of<'a>(
        &self,
        job: &Job,
        def: Option<&'a TransformDef>,
        asked: Option<&'a str>,
    ) -> Result<Option<&'a str>, Decision> {
        let Some(def) = def else { return Ok(None) };
        let status = def.status_to_set(asked).map_err(|status| {
            let allowed = def.to_status.join(", ");
            let reason = format!("the transform may not set status \"{status}\", only: {allowed}");
            Decision::refused(Outcome::StatusNotAllowed, reason)
        })?;
        let table = self.state.tables.get(&job.table);
        match status.zip(table).map(|(status, table)| fits(table, status)) {
            None | Some(Ok(())) => Ok(status),
            Some(Err(error)) => {
                let reason = format!("{}: {error}", error.code());
                Err(Decision::refused(Outcome::TooManyStatuses, reason))
            }
        }
    }

    /// Ends an attempt badly: the job is tried again after a pause, or discarded after its last
    /// attempt. Where somebody asked to cancel it, it is cancelled.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn fail_job(&mut self, report: Report, failure: Failure<'_>) -> Result<Decision> {
        let (attempt, job) = match self.reported("fail_job", report)? {
            Ok(live) => live,
            Err(refused) => return Ok(refused),
        };
        if job.cancel_requested_at().is_some() {
            self.emit(&Event::JobCancelled {
                job: report.job,
                reason: failure.message,
            })?;
            return Ok(Decision::new(Outcome::Cancelled).with_job(report.job));
        }
        let def = self.state.def_of(&job);
        let again = def.map_or(Permission::Denied, |def| rules::attempts_left(&job, def));
        let run_at = match again {
            Permission::Allowed => Some(self.at.after(self.pause_after(&job, job.failures + 1))),
            Permission::Denied => None,
        };
        self.emit(&Event::JobFailed {
            attempt,
            run_at,
            code: failure.code,
            message: failure.message,
        })?;
        let outcome = if run_at.is_some() {
            Outcome::Retryable
        } else {
            Outcome::Discarded
        };
        Ok(Decision::new(outcome).with_job(report.job))
    }

    /// Gives a running job back unfinished; it uses up no attempt of its limit. The first few times
    /// it waits again at once, then after pauses that grow, and at last it is discarded: whoever
    /// hands back for ever must not keep everybody busy.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn hand_back(&mut self, report: Report) -> Result<Decision> {
        let (attempt, job) = match self.reported("hand_back_job", report)? {
            Ok(live) => live,
            Err(refused) => return Ok(refused),
        };
        if job.cancel_requested_at().is_some() {
            self.emit(&Event::JobCancelled {
                job: report.job,
                reason: "",
            })?;
            return Ok(Decision::new(Outcome::Cancelled).with_job(report.job));
        }
        let times = job.hand_backs() + 1;
        let last = times >= self.limits.hand_backs_max
            || rules::attempt_follows(&job) == Permission::Denied;
        let run_at = match times.saturating_sub(self.limits.hand_backs_free) {
            _ if last => None,
            0 => Some(self.at),
            slow => Some(self.at.after(self.pause_after(&job, slow))),
        };
        self.emit(&Event::JobReleased { attempt, run_at })?;
        let decision = match run_at {
            Some(_) => Decision::new(Outcome::HandedBack),
            None => Decision {
                reason: format!("it was handed back {times} times").into(),
                ..Decision::new(Outcome::Discarded)
            },
        };
        Ok(decision.with_job(report.job))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::jobs::JobState;
    use crate::model::keys::KeyType;
    use crate::model::sources::STATUSES_MAX;
    use crate::model::testing::{TABLE, World, texts};

    use super::*;

    fn world() -> World {
        let mut world = World::new(KeyType::Text, &texts(&["a", "b"]));
        world.transform("t", &["V1"]);
        world
    }

    fn state_of(world: &World, job: JobId) -> JobState {
        world.state.job(job).unwrap().state
    }

    /// A job that was handed back 65,535 times could never start again, and stood in the way of
    /// all others of its transform.
    #[test]
    fn hand_backs_pause_and_end() {
        let mut world = world();
        world.limits.hand_backs_free = 2;
        world.limits.hand_backs_max = 6;
        let job = world.schedule("t", "a", 0);
        let mut pauses = Vec::new();
        loop {
            let (report, _) = world.claim(1).remove(0);
            let decision = world.commit("w", |draft| draft.hand_back(report));
            let found = world.state.job(job).unwrap();
            if decision.outcome == Outcome::Discarded {
                break;
            }
            assert_eq!(decision.outcome, Outcome::HandedBack);
            assert_eq!((found.failures, found.crashes), (0, 0));
            pauses.push(found.run_at.since(world.now).as_secs_f64());
            world.now = found.run_at;
        }
        assert_eq!(pauses.len(), 5);
        assert_eq!(&pauses[..2], [0.0, 0.0]);
        assert!(
            pauses[2] > 0.5 && pauses[3] > pauses[2] && pauses[4] > pauses[3],
            "{pauses:?}"
        );
        assert_eq!(state_of(&world, job), JobState::Discarded);
        let found = world.state.job(job).unwrap();
        let error = found.extra.as_ref().unwrap().error.as_deref();
        assert_eq!(
            error,
            Some("it was handed back 6 times, and never finished")
        );
    }

    #[test]
    fn failures_and_crashes_are_no_hand_backs() {
        let mut world = world();
        let job = world.schedule("t", "a", 0);
        let failure = Failure {
            code: "x",
            message: "y",
        };
        let (report, _) = world.claim(1).remove(0);
        world.commit("w", |draft| draft.fail_job(report, failure));
        world.pass(100);
        world.claim(1);
        world.pass(100);
        world.commit("w", |draft| draft.expire_leases());
        world.pass(100);
        let (report, _) = world.claim(1).remove(0);
        assert_eq!(world.state.job(job).unwrap().hand_backs(), 0);
        world.commit("w", |draft| draft.hand_back(report));
        assert_eq!(world.state.job(job).unwrap().hand_backs(), 1);
    }

    #[test]
    fn the_last_attempt_that_has_a_number_ends_the_job() {
        for end in ["fail", "crash", "hand back"] {
            let mut world = world();
            let job = world.schedule("t", "a", 0);
            world.state.job_mut(job).unwrap().attempt = u16::MAX - 1;
            let (report, _) = world.claim(1).remove(0);
            world.pass(100);
            let failure = Failure {
                code: "x",
                message: "y",
            };
            world.commit("w", |draft| match end {
                "fail" => draft.fail_job(report, failure).map(drop),
                "crash" => draft.expire_leases(),
                _ => draft.hand_back(report).map(drop),
            });
            assert_eq!(state_of(&world, job), JobState::Discarded, "{end}");
        }
    }

    /// Work that was claimed under version 1 got the status of version 2, or was refused and went
    /// on running.
    #[test]
    fn a_report_is_judged_by_the_version_that_its_attempt_started() {
        let mut world = world();
        let jobs = [world.schedule("t", "a", 0), world.schedule("t", "b", 0)];
        let claimed = world.claim(2);
        world.transform("t", &["V2"]);
        world.transform("t", &["V3"]);
        let transform = world.state.transform("t").unwrap();
        assert_eq!(transform.older.keys().collect::<Vec<_>>(), [&1]);
        for (at, status) in [(0, None), (1, Some("V1"))] {
            let done = Completion {
                status,
                ..Completion::default()
            };
            let report = claimed[at].0;
            let refused = world.commit("w", |draft| {
                let done = Completion {
                    status: Some("V3"),
                    ..done
                };
                draft.complete_job(report, done)
            });
            assert_eq!(refused.outcome, Outcome::StatusNotAllowed);
            let decision = world.commit("w", |draft| draft.complete_job(report, done));
            assert_eq!(decision.outcome, Outcome::Completed, "{}", decision.reason);
            assert_eq!(state_of(&world, jobs[at]), JobState::Completed);
        }
        let table = world.state.table(TABLE).unwrap();
        let code = table.status_code("V1").unwrap();
        assert_eq!(table.status_counts[usize::from(code.0)], 2);
        let transform = world.state.transform("t").unwrap();
        assert!(transform.older.is_empty() && transform.attempts.is_empty());
    }

    #[test]
    fn a_status_too_many_is_refused_at_every_door() {
        let mut world = world();
        world.schedule("t", "a", 0);
        let (report, _) = world.claim(1).remove(0);
        for number in world.state.table(TABLE).unwrap().statuses.len()..STATUSES_MAX {
            let status = format!("S{number}");
            world.commit("ann", |draft| draft.set_status(TABLE, "b", &status, None));
        }
        let completed = world.commit("w", |draft| {
            draft.complete_job(report, Completion::default())
        });
        assert_eq!(completed.outcome, Outcome::TooManyStatuses);
        let set = world.step("ann", &[], |draft| {
            draft.set_status(TABLE, "b", "NEW", None)
        });
        let new = crate::model::decide::WriteMode::Insert;
        let inserted = world.write("ann", &[], &texts(&["c"]), Some("NEW"), new);
        let replace = crate::model::decide::WriteMode::Replace;
        let replaced = world.write("ann", &[], &texts(&["b"]), Some("NEW"), replace);
        let codes = [set.map(drop), inserted, replaced].map(|done| done.map_err(|e| e.code()));
        assert_eq!(codes, [Err(crate::error::Code::TooManyStatuses); 3]);
        world
            .write("ann", &[], &texts(&["b"]), Some("S9"), replace)
            .unwrap();
    }
}
