//! One claimed group on its way: its rows, its executor, its reports. Its heartbeats are those of
//! the whole worker ([`pulse`](crate::worker::pulse)).
//!
//! Invariants: every job of the group is reported once, or its lease is left to run out; the
//! report of a source is one commit together with its columns, its status and its output.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::id::JobId;
use crate::model::transform::TransformKind;
use crate::worker::command::{self, CommandSpec, Outcome, Stop, StopReason};
use crate::worker::log::MemoryLog;
use crate::worker::pulse::{Keeping, Pulse};
use crate::worker::queue::{Ended, Group, GroupJob, Input, Queue, Verdicts};
use crate::worker::sql;

/// Outcomes that are reported in one commit at the most.
const REPORTS_MAX: usize = 1000;

/// How long an outcome may wait for others, so that quick sources share a commit.
const REPORT_WAIT: Duration = Duration::from_millis(50);

/// What a group needs of its worker.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where its jobs come from and its reports go to.
    pub queue: Arc<dyn Queue>,
    /// What renews its leases.
    pub pulse: Arc<Pulse>,
    /// The folder in which commands run.
    pub working_dir: PathBuf,
}

/// Runs a group to its end and reports every job of it.
///
/// # Arguments
/// `stop`: asks to hand back what is not done; `seen` is told of every report.
///
/// # Errors
/// Those of the store, when a report cannot be made. What was not reported is retried when its
/// lease has run out.
#[tracing::instrument(
    name = "group",
    skip_all,
    fields(transform = %group.transform, jobs = group.jobs.len())
)]
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
    let (keeping, stop_requests) = context.pulse.keep(&group);
    let (send, mut outcomes) = mpsc::channel(REPORTS_MAX);
    let log = Arc::new(MemoryLog::default());
    let asked = tokio::spawn({
        let stops = keeping.stops().clone();
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
        let (group, by_job, keeping, log) = (&group, &by_job, &keeping, &log);
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
                let verdicts = report(context, group, by_job, ended, keeping, log).await?;
                seen(&verdicts);
            }
            Ok(())
        }
    };
    let began = Instant::now();
    let (worked, reported) = tokio::join!(work, reports);
    drop(asked);
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(ms, "a group ended");
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
    let ready = match context.queue.prepare(group).await {
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
    match (&group.def.kind, ready.input) {
        (TransformKind::Sql { body, output }, Input::Rows { core, jobs, batch }) => {
            let work = sql::Work {
                core: &core,
                group,
                body,
                output: *output,
                rows: jobs,
                batch,
            };
            work.run(stops, outcomes).await?;
        }
        (TransformKind::Command { command }, Input::Sources(list)) => {
            let spec = CommandSpec {
                command: command.clone(),
                timeout: Duration::from_millis(group.def.timeout_ms),
                memory_bytes: group.def.memory_bytes,
                working_dir: context.working_dir.clone(),
                env: HashMap::new(),
            };
            let limits = context.queue.limits();
            if let Err(error) =
                command::run_command(&spec, limits, list, log, stops, outcomes).await
            {
                // Its jobs hold the error.
                tracing::debug!(transform = %group.transform, %error, "a command could not be run");
            }
        }
        // What this worker has no executor for.
        (TransformKind::Sql { .. } | TransformKind::Command { .. } | TransformKind::Outside, _) => {
            for job in &group.jobs {
                let _ = outcomes.send((job.report.job, Outcome::Released)).await;
            }
        }
    }
    Ok(())
}

async fn report(
    context: &Context,
    group: &Group,
    by_job: &HashMap<JobId, GroupJob>,
    outcomes: Vec<(JobId, Outcome)>,
    keeping: &Keeping,
    log: &MemoryLog,
) -> Result<Verdicts> {
    let prints = matches!(group.def.kind, TransformKind::Command { .. });
    let ended = outcomes.into_iter().filter_map(|(id, outcome)| {
        Some(Ended {
            job: by_job.get(&id)?.clone(),
            outcome,
            log: prints.then(|| log.of_job(id)),
        })
    });
    let ended: Vec<Ended> = ended.collect();
    let reported: Vec<JobId> = ended.iter().map(|one| one.job.report.job).collect();
    let verdicts = context.queue.report(group, ended).await?;
    keeping.reported(&reported);
    Ok(verdicts)
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
