//! What workers report: heartbeats, successes, failures, jobs handed back.

use crate::error::Result;
use crate::id::{JobId, Token};
use crate::model::decide::{Decision, Outcome};
use crate::model::draft::Draft;
use crate::model::event::{AttemptRef, Event, Refusal, RowRef};
use crate::model::jobs::Job;
use crate::model::rules;
use crate::model::transform::Permission;
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
    /// Rule 3: the running attempt that a report is of.
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
        let def = self.state.transforms.get(&job.transform).map(|t| t.def());
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
        let transform = self
            .state
            .transforms
            .get(&job.transform)
            .map(std::sync::Arc::clone);
        let status = match transform
            .as_ref()
            .map(|t| t.def().status_to_set(done.status))
        {
            None => None,
            Some(Ok(status)) => status,
            Some(Err(status)) => {
                let allowed = transform
                    .as_ref()
                    .map(|t| t.def().to_status.join(", "))
                    .unwrap_or_default();
                let reason =
                    format!("the transform may not set status \"{status}\", only: {allowed}");
                let decision = Decision::refused(Outcome::StatusNotAllowed, reason);
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
        let again = self
            .state
            .transforms
            .get(&job.transform)
            .map_or(Permission::Denied, |transform| {
                rules::attempts_left(&job, transform)
            });
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

    /// Gives a running job back unfinished; it uses up no attempt of its limit.
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
        self.emit(&Event::JobReleased {
            attempt,
            run_at: self.at,
        })?;
        Ok(Decision::new(Outcome::HandedBack).with_job(report.job))
    }
}
