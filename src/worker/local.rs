//! The queue of a worker that has the ledger at hand: every claim, heartbeat and report is a
//! commit of its own process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::{JobId, RunId, TransformId};
use crate::model::decide::{Completion, Failure, Outcome as Verdict, Report};
use crate::model::draft::{Author, Draft};
use crate::model::sources::SourceTable;
use crate::model::state::{Dropped, State, Transform};
use crate::model::transform::TransformKind;
use crate::session::core::Core;
use crate::session::writeback::{Patch, Written, check_patch, write_patches};
use crate::worker::command::Outcome;
use crate::worker::group::failed;
use crate::worker::queue::{Beat, Ended, Group, GroupJob, Queue, Ready, Verdicts};
use crate::worker::retry::Retries;
use crate::worker::{assignments, output};

/// Of a report, while the store does not answer.
const REPORTS: Retries = Retries {
    most: 5,
    pause: |tries| Duration::from_millis(200).saturating_mul(tries),
    told: "a report could not be made",
};

/// The queue of an opened store.
#[derive(Debug)]
pub struct Local {
    core: Arc<Core>,
    /// The name of the worker, which is the actor of its events.
    worker: Arc<str>,
}

impl Local {
    /// The queue of a store, for a worker of this name.
    pub fn new(core: Arc<Core>, worker: Arc<str>) -> Self {
        Self { core, worker }
    }

    fn author(&self) -> Author {
        Author::new(Arc::clone(&self.worker), Uuid::now_v7().to_string())
    }
}

#[async_trait]
impl Queue for Local {
    fn limits(&self) -> &Limits {
        self.core.ledger.limits()
    }

    fn background(&self) -> &TaskTracker {
        &self.core.background
    }

    async fn check(&self, names: &[String]) -> Result<()> {
        let state = self.core.ledger.snapshot().await?;
        for name in names {
            let transform = state
                .transform(name)
                .ok_or_else(|| unknown_transform(name))?;
            if matches!(transform.def().kind, TransformKind::Outside) {
                return Err(for_outside_workers(name));
            }
        }
        Ok(())
    }

    /// The state knows whose job comes first, so nobody needs a turn.
    async fn claim(&self, names: &[String], _turn: u64) -> Result<Option<Group>> {
        let wanted = names.to_vec();
        let worker = Arc::clone(&self.worker);
        let asked_at = Instant::now();
        let committed = self.core.ledger.commit(self.author(), move |draft| {
            let ids = runnable(draft.state(), &wanted)
                .map(|transform| transform.id)
                .collect::<Vec<_>>();
            claim_group(draft, &worker, &ids, asked_at)
        });
        Ok(committed.await?.reply)
    }

    async fn next_due(&self, names: &[String]) -> Result<Option<Duration>> {
        let state = self.core.ledger.seen();
        let now = self.core.ledger.now();
        // What is due already could not be claimed: its sources are held by somebody, or its
        // transform is at its limit.
        let queued =
            runnable(&state, names).filter_map(|transform| transform.queue.next_run_after(now));
        // A job whose worker is gone comes due when its lease ends.
        let held = state.leases.iter().find(|(_, id)| {
            state
                .job(*id)
                .and_then(|job| state.transforms.get(&job.transform))
                .is_some_and(|transform| selected(transform, names) == Selected::Yes)
        });
        let due = queued.chain(held.map(|(ends_at, _)| *ends_at)).min();
        Ok(due.map(|due| due.since(now)))
    }

    fn left(&self, names: &[String]) -> u64 {
        let state = self.core.ledger.seen();
        let left = runnable(&state, names);
        left.map(|transform| transform.queue.len() + transform.running)
            .sum()
    }

    async fn prepare(&self, group: &Group) -> Result<Ready> {
        assignments::prepare(&self.core, group).await
    }

    async fn heartbeat(&self, reports: Vec<Report>) -> Result<Vec<(JobId, Beat)>> {
        let answered = self.core.ledger.commit(self.author(), move |draft| {
            let beats = reports.iter().map(|report| {
                let beat = match draft.heartbeat(*report)?.outcome {
                    Verdict::Alive => Beat::Alive,
                    Verdict::AliveCancelRequested => Beat::CancelRequested,
                    _ => Beat::Lost,
                };
                Ok((report.job, beat))
            });
            beats.collect::<Result<Vec<_>>>()
        });
        Ok(answered.await?.reply)
    }

    async fn cancelled(&self, reports: &[Report]) -> Result<Vec<JobId>> {
        let state = self.core.ledger.snapshot().await?;
        let asked = reports.iter().filter(|report| {
            let job = state.job(report.job);
            job.is_some_and(|job| job.token == report.token && job.cancel_requested_at().is_some())
        });
        Ok(asked.map(|report| report.job).collect())
    }

    async fn report(&self, group: &Group, ended: Vec<Ended>) -> Result<Verdicts> {
        let core = &self.core;
        let table = assignments::table_of(&core.ledger.seen(), group)?;
        let mut patches = Vec::new();
        let mut reports = Vec::new();
        for one in ended {
            let (report, patch) = self.judge(group, &table, one).await?;
            reports.push(report);
            patches.extend(patch);
        }
        let written = REPORTS.run(|| {
            let sight = core.sight(core.ledger.seen());
            write_patches(&core.base, sight, &core.ledger, &table, &patches)
        });
        let written = match written.await {
            Ok(written) => written.map(Arc::new),
            Err(error) if error.retryable() => return Err(error),
            // Trying again would go the same way, so these sources fail, and the others do not.
            Err(error) => {
                for one in &mut reports {
                    if matches!(&one.outcome, Outcome::Completed { columns, .. }
                        if !columns.is_empty())
                    {
                        one.outcome = failed(&error);
                    }
                }
                None
            }
        };
        let reports = Arc::new(reports);
        let committed = REPORTS.run(|| {
            let (reports, written) = (Arc::clone(&reports), written.clone());
            // If a try whose answer was lost was written after all, the next is refused as stale.
            core.ledger.commit(self.author(), move |draft| {
                decide_all(draft, &reports, written.as_deref())
            })
        });
        Ok(committed.await?.reply)
    }
}

/// One outcome, ready to be decided.
struct Judged {
    report: Report,
    outcome: Outcome,
    output: Option<String>,
}

impl Local {
    /// Checks what an attempt gives, stores its output and its log.
    async fn judge(
        &self,
        group: &Group,
        table: &SourceTable,
        ended: Ended,
    ) -> Result<(Judged, Option<Patch>)> {
        let Ended {
            job,
            mut outcome,
            log,
        } = ended;
        let (mut at, mut patch) = (None, None);
        if let Outcome::Completed {
            status,
            columns,
            output,
        } = &outcome
        {
            let checked =
                check_patch(table, columns).and_then(|()| check_status(group, status.as_deref()));
            let linked = match checked {
                Ok(()) => output::link(&self.core, group, &job, output.as_deref()).await,
                Err(error) => Err(error),
            };
            match linked {
                Ok(link) => {
                    at = link;
                    patch = Some(Patch {
                        job: job.report.job,
                        source_id: job.source_id.clone(),
                        columns: columns.clone(),
                    });
                }
                Err(error) => outcome = failed(&error),
            }
        }
        if let Some(log) = log {
            output::keep_log(&self.core, job.report.job, job.attempt, &log).await;
        }
        let judged = Judged {
            report: job.report,
            outcome,
            output: at,
        };
        Ok((judged, patch))
    }
}

/// Whether the transform of a group may set a status.
///
/// # Errors
/// `SG8005 invalid-answer`.
pub(super) fn check_status(group: &Group, status: Option<&str>) -> Result<()> {
    group.def.status_to_set(status).map(drop).map_err(|status| {
        Error::new(
            Code::InvalidAnswer,
            format!("the transform may not set status \"{status}\""),
        )
        .with_hint(format!("It may set: {}.", group.def.to_status.join(", ")))
    })
}

/// The error for a transform that is not there.
pub(super) fn unknown_transform(name: &str) -> Error {
    Error::new(
        Code::UnknownTransform,
        format!("transform \"{name}\" does not exist"),
    )
    .with_hint("SELECT name FROM transforms lists those of this store.")
}

/// The error for a transform that only outside workers run.
pub(super) fn for_outside_workers(name: &str) -> Error {
    Error::new(
        Code::EffectArgument,
        format!("transform \"{name}\" is run by outside workers"),
    )
    .with_hint("They get its jobs with CALL claim_jobs(...).")
}

/// The transforms of these names, or all, that workers of ours can run.
fn runnable<'a>(
    state: &'a State,
    names: &'a [String],
) -> impl Iterator<Item = &'a Arc<Transform>> + 'a {
    let all = state.transforms.values();
    all.filter(move |transform| selected(transform, names) == Selected::Yes)
}

/// Whether a worker takes jobs of a transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selected {
    Yes,
    No,
}

fn selected(transform: &Transform, names: &[String]) -> Selected {
    let named = names.is_empty() || names.iter().any(|name| **name == *transform.name);
    let ours = !matches!(transform.def().kind, TransformKind::Outside);
    match transform.dropped == Dropped::No && named && ours {
        true => Selected::Yes,
        false => Selected::No,
    }
}

fn claim_group(
    draft: &mut Draft<'_>,
    worker: &str,
    ids: &[TransformId],
    claimed_at: Instant,
) -> Result<Option<Group>> {
    let started = draft.claim_group(worker, ids)?;
    let state = draft.state();
    let id = started.first().map(|one| one.transform);
    let Some(transform) = id.and_then(|id| state.transforms.get(&id)) else {
        return Ok(None);
    };
    let jobs = started.iter().map(|one| {
        let job = state.job(one.attempt.job)?;
        Some(GroupJob {
            report: Report {
                job: one.attempt.job,
                token: one.attempt.token,
            },
            attempt: one.attempt.attempt,
            source_id: state.key(job.table, job.slot)?.to_string(),
            params: job
                .extra
                .as_ref()
                .and_then(|extra| extra.params.as_deref())
                .map(str::to_owned),
            row: None,
        })
    });
    let jobs = jobs.collect::<Option<Vec<_>>>();
    let jobs = jobs.ok_or_else(|| Error::bug("a started job has no source"))?;
    Ok(Some(Group {
        transform: Arc::clone(&transform.name),
        def: Arc::clone(&transform.version.def),
        jobs,
        claimed_at,
    }))
}

fn decide_all(
    draft: &mut Draft<'_>,
    ended: &[Judged],
    written: Option<&Written>,
) -> Result<Verdicts> {
    // A run of which no row will be linked has no place in the table; above all it may be there
    // already, by a try whose answer was lost.
    let lives = ended.iter().any(|one| draft.report_lives(one.report));
    let written = written.filter(|_| lives);
    let run = written.map(|written| written.add(draft)).transpose()?;
    let mut verdicts = Verdicts::new();
    for one in ended {
        let verdict = decide_one(draft, one, written.zip(run))?;
        *verdicts.entry(verdict).or_default() += 1;
    }
    Ok(verdicts)
}

fn decide_one(
    draft: &mut Draft<'_>,
    one: &Judged,
    written: Option<(&Written, RunId)>,
) -> Result<Verdict> {
    let decision = match &one.outcome {
        Outcome::Completed { status, .. } => {
            let done = draft.complete_job(
                one.report,
                Completion {
                    status: status.as_deref(),
                    row: written.and_then(|(written, run)| written.row(run, one.report.job)),
                    output_uri: one.output.as_deref(),
                },
            )?;
            // Nobody else will end the attempt.
            if done.outcome == Verdict::TooManyStatuses {
                let failure = Failure {
                    code: Code::TooManyStatuses.as_str(),
                    message: &done.reason,
                };
                draft.fail_job(one.report, failure)?
            } else {
                done
            }
        }
        Outcome::Failed { code, message } => {
            draft.fail_job(one.report, Failure { code, message })?
        }
        Outcome::Cancelled => draft.fail_job(
            one.report,
            Failure {
                code: CANCELLED.0,
                message: CANCELLED.1,
            },
        )?,
        Outcome::Released => draft.hand_back(one.report)?,
    };
    Ok(decision.outcome)
}

/// Code and message of the report on a job that was cancelled while it ran.
pub(super) const CANCELLED: (&str, &str) =
    ("cancelled", "it was stopped because somebody cancelled it");
