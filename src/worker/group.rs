//! One claimed group on its way: its rows, its executor, its heartbeats, its reports.
//!
//! Invariants: every job of the group is reported once, or its lease is left to run out; the
//! report of a source is one commit together with its columns, its status and its output.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::id::{JobId, RunId, Slot, TableId};
use crate::model::decide::{Completion, Failure, Outcome as Verdict, Report};
use crate::model::draft::{Author, Draft};
use crate::model::transform::{TransformDef, TransformKind};
use crate::session::core::Core;
use crate::session::writeback::{Patch, Written, check_patch, write_patches};
use crate::worker::command::{self, CommandSpec, Outcome, Stop, StopReason};
use crate::worker::log::MemoryLog;
use crate::worker::{assignments, output, sql};

/// Outcomes that are reported in one commit at the most.
const REPORTS_MAX: usize = 1000;

/// How long an outcome may wait for others, so that quick sources share a commit.
const REPORT_WAIT: Duration = Duration::from_millis(50);

/// How often a report is tried again while the store does not answer.
const REPORT_TRIES: u32 = 5;

/// One job of a group.
#[derive(Debug, Clone)]
pub struct GroupJob {
    /// The job and the token of the attempt.
    pub report: Report,
    /// The attempt, from 1.
    pub attempt: u16,
    /// Its source.
    pub slot: Slot,
    /// The key of its source.
    pub source_id: String,
    /// Its parameters, as JSON.
    pub params: Option<String>,
}

/// Jobs of one transform that were claimed together.
#[derive(Debug, Clone)]
pub struct Group {
    /// The transform.
    pub transform: Arc<str>,
    /// What it says, in the version that was claimed.
    pub def: Arc<TransformDef>,
    /// The table of its sources.
    pub table: TableId,
    /// The jobs; never empty.
    pub jobs: Vec<GroupJob>,
}

/// How often reports ended in one way, by outcome of the model.
pub type Verdicts = BTreeMap<Verdict, u64>;

/// What a group needs of its worker.
#[derive(Debug, Clone)]
pub struct Context {
    /// The store.
    pub core: Arc<Core>,
    /// The name of the worker, which is the actor of its events.
    pub worker: Arc<str>,
    /// The folder in which commands run.
    pub working_dir: PathBuf,
}

impl Context {
    pub(super) fn author(&self) -> Author {
        Author {
            actor: Arc::clone(&self.worker),
            statement_id: Uuid::now_v7().to_string().into(),
        }
    }
}

/// Runs a group to its end and reports every job of it.
///
/// # Arguments
/// `stop`: asks to hand back what is not done; `seen` is told of every report.
///
/// # Errors
/// Those of the store, when a report cannot be made. What was not reported is retried when its
/// lease has run out.
pub async fn run(
    context: &Context,
    group: Group,
    mut stop: tokio::sync::watch::Receiver<bool>,
    seen: &(dyn Fn(&Verdicts) + Send + Sync),
) -> Result<()> {
    let by_job: HashMap<JobId, GroupJob> = group
        .jobs
        .iter()
        .map(|job| (job.report.job, job.clone()))
        .collect();
    let live = Arc::new(Mutex::new(by_job.clone()));
    let (stops, stop_requests) = mpsc::channel(group.jobs.len() + 8);
    let (send, mut outcomes) = mpsc::channel(REPORTS_MAX);
    let log = Arc::new(MemoryLog::default());
    let beating = tokio::spawn(heartbeats(
        context.clone(),
        Arc::clone(&live),
        group.def.lease(),
        stops.clone(),
    ));
    let beating = AbortOnDrop(beating);
    let asked = tokio::spawn({
        let stops = stops.clone();
        async move {
            if stop.wait_for(|stop| *stop).await.is_ok() {
                // A closed channel means that the group has ended already.
                let _ = stops.send(Stop::Group(StopReason::Shutdown)).await;
            }
        }
    });
    let asked = AbortOnDrop(asked);
    let work = execute(context, &group, Arc::clone(&log), stop_requests, send);
    let reports = {
        let (group, by_job, live, log) = (&group, &by_job, &live, &log);
        // It owns the receiver: when a report fails for good, the executor must not wait for
        // somebody to take its outcomes while the heartbeats keep the jobs for ever.
        async move {
            while let Some(first) = outcomes.recv().await {
                let mut ended = vec![first];
                let until = Instant::now() + REPORT_WAIT;
                while ended.len() < REPORTS_MAX {
                    match tokio::time::timeout_at(until, outcomes.recv()).await {
                        Ok(Some(next)) => ended.push(next),
                        Ok(None) | Err(_) => break,
                    }
                }
                let verdicts = report(context, group, by_job, ended, live, log).await?;
                seen(&verdicts);
            }
            Ok(())
        }
    };
    let (worked, reported) = tokio::join!(work, reports);
    drop((beating, asked));
    reported.and(worked)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does the work; every source gets an outcome. The channel closes when it is done.
///
/// # Errors
/// The sources could not be read; then all are handed back.
async fn execute(
    context: &Context,
    group: &Group,
    log: Arc<MemoryLog>,
    stops: mpsc::Receiver<Stop>,
    outcomes: mpsc::Sender<(JobId, Outcome)>,
) -> Result<()> {
    let prepared = assignments::prepare(context, group).await;
    let ready = match prepared {
        Ok(ready) => ready,
        Err(error) => {
            // Whatever is wrong with the store or the rows, no source is to blame.
            tracing::warn!(transform = %group.transform, %error, "a group could not be read");
            for job in &group.jobs {
                let _ = outcomes.send((job.report.job, Outcome::Released)).await;
            }
            return Err(error);
        }
    };
    for (job, outcome) in ready.failed {
        let _ = outcomes.send((job, outcome)).await;
    }
    match &group.def.kind {
        TransformKind::Sql { body, output } => {
            let work = sql::Work {
                context,
                group,
                body,
                output: *output,
                rows: ready.rows,
                batch: ready.batch,
            };
            work.run(stops, outcomes).await?;
        }
        TransformKind::Command { command } => {
            let spec = CommandSpec {
                command: command.clone(),
                timeout: Duration::from_millis(group.def.timeout_ms),
                memory_bytes: group.def.memory_bytes,
                working_dir: context.working_dir.clone(),
                env: HashMap::new(),
            };
            let limits = context.core.ledger.limits();
            let list = ready.list;
            if let Err(error) =
                command::run_command(&spec, limits, list, log, stops, outcomes).await
            {
                // Its jobs hold the error.
                tracing::debug!(transform = %group.transform, %error, "a command could not be run");
            }
        }
        TransformKind::Outside => {
            for job in &group.jobs {
                let _ = outcomes.send((job.report.job, Outcome::Released)).await;
            }
        }
    }
    Ok(())
}

/// Renews the leases of all that is not reported yet, three times per lease.
async fn heartbeats(
    context: Context,
    live: Arc<Mutex<HashMap<JobId, GroupJob>>>,
    lease: Duration,
    stops: mpsc::Sender<Stop>,
) {
    let pause = (lease / 3).max(Duration::from_millis(10));
    let mut last_answer = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        let reports: Vec<Report> = live.lock().values().map(|job| job.report).collect();
        if reports.is_empty() {
            return;
        }
        let asked_at = Instant::now();
        let answered = context.core.ledger.commit(context.author(), move |draft| {
            reports
                .iter()
                .map(|report| Ok((report.job, draft.heartbeat(*report)?.outcome)))
                .collect::<Result<Vec<_>>>()
        });
        let left = lease.saturating_sub(last_answer.elapsed());
        let answered = match tokio::time::timeout(left, answered).await {
            Ok(answered) => answered,
            Err(error) => Err(Error::new(
                Code::StoreUnavailable,
                "the store did not answer for a lease",
            )
            .with_source(error)),
        };
        match answered {
            Ok(answers) => {
                last_answer = asked_at;
                for (job, outcome) in answers.reply {
                    let reason = match outcome {
                        Verdict::Alive => continue,
                        Verdict::AliveCancelRequested => StopReason::Cancelled,
                        _ => StopReason::LeaseLost,
                    };
                    // A report may have ended the job since the list was made.
                    if live.lock().contains_key(&job) {
                        // Where there is no room, the next heartbeat says it again: waiting for
                        // room would let the leases of the others run out.
                        let _ = stops.try_send(Stop::Job(job, reason));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "heartbeats could not be sent");
                // After a whole lease without an answer others may have the sources.
                if last_answer.elapsed() >= lease {
                    let _ = stops.send(Stop::Group(StopReason::LeaseLost)).await;
                    return;
                }
            }
        }
    }
}

/// One outcome, ready to be decided.
struct Ended {
    report: Report,
    outcome: Outcome,
    output: Option<String>,
}

async fn report(
    context: &Context,
    group: &Group,
    by_job: &HashMap<JobId, GroupJob>,
    outcomes: Vec<(JobId, Outcome)>,
    live: &Mutex<HashMap<JobId, GroupJob>>,
    log: &MemoryLog,
) -> Result<Verdicts> {
    let core = &context.core;
    let state = core.ledger.seen();
    let table = state.tables.get(&group.table).map(Arc::clone);
    let table = table.ok_or_else(|| Error::bug("a table with running jobs was dropped"))?;
    let mut patches = Vec::new();
    let mut ended = Vec::new();
    for (id, mut outcome) in outcomes {
        let Some(job) = by_job.get(&id) else { continue };
        let mut at = None;
        if let Outcome::Completed {
            status,
            columns,
            output,
        } = &outcome
        {
            let checked = check_patch(&table, columns).and_then(|()| {
                group
                    .def
                    .status_to_set(status.as_deref())
                    .map(drop)
                    .map_err(|status| {
                        Error::new(
                            Code::InvalidAnswer,
                            format!("the transform may not set status \"{status}\""),
                        )
                        .with_hint(format!("It may set: {}.", group.def.to_status.join(", ")))
                    })
            });
            let linked = match checked {
                Ok(()) => output::link(context, group, job, output.as_deref()).await,
                Err(error) => Err(error),
            };
            match linked {
                Ok(link) => {
                    at = link;
                    patches.push(Patch {
                        job: id,
                        source_id: job.source_id.clone(),
                        columns: columns.clone(),
                    });
                }
                Err(error) => outcome = failed(&error),
            }
        }
        if matches!(group.def.kind, TransformKind::Command { .. }) {
            output::keep_log(context, id, job.attempt, &log.of_job(id)).await;
        }
        ended.push(Ended {
            report: job.report,
            outcome,
            output: at,
        });
    }
    let written = with_retries(|| {
        let sight = core.sight(core.ledger.seen());
        write_patches(&core.base, sight, &core.ledger, &table, &patches)
    });
    let written = match written.await {
        Ok(written) => written.map(Arc::new),
        Err(error) if error.retryable() => return Err(error),
        // Trying again would go the same way, so these sources fail, and the others do not.
        Err(error) => {
            for one in &mut ended {
                if matches!(&one.outcome, Outcome::Completed { columns, .. } if !columns.is_empty())
                {
                    one.outcome = failed(&error);
                }
            }
            None
        }
    };
    let ended = Arc::new(ended);
    let committed = with_retries(|| {
        let (ended, written) = (Arc::clone(&ended), written.clone());
        // If a try whose answer was lost was written after all, the next is refused as stale.
        core.ledger.commit(context.author(), move |draft| {
            decide_all(draft, &ended, written.as_deref())
        })
    });
    let verdicts = committed.await?.reply;
    let mut live = live.lock();
    for one in ended.iter() {
        live.remove(&one.report.job);
    }
    Ok(verdicts)
}

/// Does something with the store again while that may help.
async fn with_retries<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut tries = 0;
    loop {
        match attempt().await {
            Err(error) if error.retryable() && tries < REPORT_TRIES => {
                tries += 1;
                tracing::warn!(%error, tries, "a report could not be made");
                tokio::time::sleep(Duration::from_millis(200) * tries).await;
            }
            ended => return ended,
        }
    }
}

fn decide_all(
    draft: &mut Draft<'_>,
    ended: &[Ended],
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
    one: &Ended,
    written: Option<(&Written, RunId)>,
) -> Result<Verdict> {
    let decision = match &one.outcome {
        Outcome::Completed { status, .. } => draft.complete_job(
            one.report,
            Completion {
                status: status.as_deref(),
                row: written.and_then(|(written, run)| written.row(run, one.report.job)),
                output_uri: one.output.as_deref(),
            },
        )?,
        Outcome::Failed { code, message } => {
            draft.fail_job(one.report, Failure { code, message })?
        }
        Outcome::Cancelled => draft.fail_job(
            one.report,
            Failure {
                code: "cancelled",
                message: "it was stopped because somebody cancelled it",
            },
        )?,
        Outcome::Released => draft.hand_back(one.report)?,
    };
    Ok(decision.outcome)
}

/// A source's failure from one of our errors.
pub(super) fn failed(error: &Error) -> Outcome {
    let mut message = error.message().to_owned();
    if let Some(detail) = error.detail() {
        message = format!("{message}: {detail}");
    }
    Outcome::Failed {
        code: error.code().as_str().to_owned(),
        message,
    }
}
