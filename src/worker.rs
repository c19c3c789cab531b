//! Workers: they claim groups of jobs, run them, and report each source by itself.
//!
//! [`work`] is the loop: claim (a commit), run ([`group`]), report (a commit). It holds no state
//! that matters: a worker that dies leaves leases behind, and whoever commits after their end
//! gives the jobs to somebody else.

mod answer;
mod assignments;
pub mod command;
pub mod group;
pub mod log;
mod output;
mod process;
pub mod run_jobs;
mod sql;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::TransformId;
use crate::model::draft::Draft;
use crate::model::state::{Dropped, State, Transform};
use crate::model::transform::TransformKind;
use crate::session::core::Core;
use crate::session::progress::{Progress, Watcher};
use crate::time::Timestamp;
use crate::worker::group::{Context, Group, GroupJob, Verdicts};

/// When a worker ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Only when it is told to.
    Never,
    /// When no job is due, and none will be within this time.
    WhenIdle(Duration),
}

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// Its name in jobs and events.
    pub name: Arc<str>,
    /// The transforms whose jobs it takes; empty: all that are not for outside workers.
    pub transforms: Vec<String>,
    /// Groups after which it ends.
    pub groups_max: Option<u64>,
    /// When it ends.
    pub end: End,
    /// Groups that it runs at once.
    pub parallel: usize,
    /// The folder in which commands run.
    pub working_dir: PathBuf,
}

impl WorkOptions {
    /// All transforms, as many groups at once as there are processors, until no job is due.
    pub fn until_idle(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            transforms: Vec::new(),
            groups_max: None,
            end: End::WhenIdle(Duration::ZERO),
            parallel: std::thread::available_parallelism().map_or(1, usize::from),
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        }
    }
}

/// How attempts ended, by transform.
pub type Worked = BTreeMap<Arc<str>, Verdicts>;

/// Works until [`End`], or until `stop` turns true: then what runs is handed back or finished,
/// and reported.
///
/// # Errors
/// `SG2002 unknown-transform`, `SG1004 effect-argument` for a transform of outside workers; those
/// of the store, when it has not answered for `Limits::worker_retries_max` tries.
pub async fn work(
    core: &Arc<Core>,
    options: WorkOptions,
    mut stop: watch::Receiver<bool>,
    watcher: Watcher,
) -> Result<Worked> {
    let worker = Worker {
        context: Context {
            core: Arc::clone(core),
            worker: Arc::clone(&options.name),
            working_dir: options.working_dir.clone(),
        },
        options,
        worked: Arc::default(),
        watcher,
    };
    worker.check_names(&*core.ledger.snapshot().await?)?;
    worker.tell();
    worker.run(&mut stop).await?;
    Ok(std::mem::take(&mut *worker.worked.lock()))
}

/// What woke the loop.
enum Wake {
    GroupEnded(Result<()>),
    Time,
    Stop,
}

/// Whether another try may go well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hope {
    Some,
    None,
}

/// What went wrong in a row, so that a store that does not answer, or whose rows cannot be read,
/// is neither asked in a tight loop nor for ever.
#[derive(Default)]
struct Trouble {
    failures: u32,
    /// Whether the pause after the last failure is over.
    paused: bool,
    /// No more jobs are claimed; those that run are finished first.
    fatal: Option<Error>,
}

impl Trouble {
    fn note(&mut self, error: Error, hope: Hope, limits: &Limits) {
        self.failures += 1;
        self.paused = false;
        if hope == Hope::None || self.failures > limits.worker_retries_max {
            self.fatal = self.fatal.take().or(Some(error));
        }
    }

    fn pause(&self, limits: &Limits) -> Option<Duration> {
        let waits = self.failures > 0 && !self.paused;
        waits.then(|| limits.worker_poll.saturating_mul(self.failures))
    }
}

struct Worker {
    context: Context,
    options: WorkOptions,
    worked: Arc<Mutex<Worked>>,
    watcher: Watcher,
}

impl Worker {
    async fn run(&self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        let mut groups: JoinSet<Result<()>> = JoinSet::new();
        let mut begun = 0;
        let mut trouble = Trouble::default();
        loop {
            let stopping = *stop.borrow();
            let enough = self.options.groups_max.is_some_and(|max| begun >= max);
            let over = stopping || enough || trouble.fatal.is_some();
            if over && groups.is_empty() {
                return trouble.fatal.map_or(Ok(()), Err);
            }
            let room = !over && groups.len() < self.options.parallel;
            let mut pause = trouble.pause(self.limits());
            if room && pause.is_none() {
                match self.claim(begun).await {
                    Ok(Some(group)) => {
                        begun += 1;
                        groups.spawn(self.group(group, stop.clone()));
                        continue;
                    }
                    Ok(None) if groups.is_empty() && self.idle() => return Ok(()),
                    Ok(None) => pause = Some(self.pause()),
                    Err(error) => {
                        tracing::warn!(%error, "no jobs could be claimed");
                        let hope = match error.retryable() {
                            true => Hope::Some,
                            false => Hope::None,
                        };
                        trouble.note(error, hope, self.limits());
                        continue;
                    }
                }
            }
            match wait(&mut groups, pause, (!stopping).then_some(&mut *stop)).await {
                Wake::GroupEnded(Ok(())) => trouble.failures = 0,
                // The next group may be of another transform.
                Wake::GroupEnded(Err(error)) => trouble.note(error, Hope::Some, self.limits()),
                Wake::Time => trouble.paused = true,
                Wake::Stop => {}
            }
        }
    }

    fn limits(&self) -> &Limits {
        self.context.core.ledger.limits()
    }

    /// One group, from its claim to its last report.
    fn group(
        &self,
        group: Group,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let context = self.context.clone();
        // Tracked, for a group that is dropped kills its commands, and the process waits for that.
        let tracker = self.context.core.background.clone();
        let worked = Arc::clone(&self.worked);
        let watcher = self.watcher.clone();
        let wanted = self.options.transforms.clone();
        tracker.track_future(async move {
            let transform = Arc::clone(&group.transform);
            let seen = |verdicts: &Verdicts| {
                let mut worked = worked.lock();
                let of_transform = worked.entry(Arc::clone(&transform)).or_default();
                for (verdict, count) in verdicts {
                    *of_transform.entry(*verdict).or_default() += count;
                }
                watcher.tell(progress(&context.core.ledger.seen(), &wanted, &worked));
            };
            let ended = group::run(&context, group, stop, &seen).await;
            ended.inspect_err(|error| {
                tracing::error!(%transform, %error, "a group ended without all its reports");
            })
        })
    }

    fn check_names(&self, state: &State) -> Result<()> {
        for name in &self.options.transforms {
            let transform = state.transform(name).ok_or_else(|| {
                Error::new(
                    Code::UnknownTransform,
                    format!("transform \"{name}\" does not exist"),
                )
                .with_hint("SELECT name FROM transforms lists those of this store.")
            })?;
            if matches!(transform.def().kind, TransformKind::Outside) {
                return Err(Error::new(
                    Code::EffectArgument,
                    format!("transform \"{name}\" is run by outside workers"),
                )
                .with_hint("They get its jobs with CALL claim_jobs(...)."));
            }
        }
        Ok(())
    }

    async fn claim(&self, turn: u64) -> Result<Option<Group>> {
        let wanted = self.options.transforms.clone();
        let worker = Arc::clone(&self.options.name);
        let author = self.context.author();
        let committed = self.context.core.ledger.commit(author, move |draft| {
            let mut ids = runnable(draft.state(), &wanted)
                .map(|transform| transform.id)
                .collect::<Vec<_>>();
            // Each transform has its turn to be asked first, so that none starves the others.
            let first = usize::try_from(turn).unwrap_or(0) % ids.len().max(1);
            ids.rotate_left(first);
            for id in ids {
                if let Some(group) = claim_group(draft, &worker, id)? {
                    return Ok(Some(group));
                }
            }
            Ok(None)
        });
        Ok(committed.await?.reply)
    }

    /// The time until the queue is looked at again.
    fn pause(&self) -> Duration {
        let now = self.context.core.ledger.now();
        let due = self.next_due();
        let until_due = due.map(|due| due.since(now)).unwrap_or(Duration::MAX);
        until_due.clamp(Duration::from_millis(1), self.limits().worker_poll)
    }

    fn next_due(&self) -> Option<Timestamp> {
        let state = self.context.core.ledger.seen();
        let now = self.context.core.ledger.now();
        // What is due already could not be claimed: its sources are held by somebody, or its
        // transform is at its limit.
        let queued = runnable(&state, &self.options.transforms)
            .filter_map(|transform| transform.queue.next_run_after(now));
        // A job whose worker is gone comes due when its lease ends.
        let held = state.leases.iter().find(|(_, id)| {
            state
                .job(*id)
                .and_then(|job| state.transforms.get(&job.transform))
                .is_some_and(|transform| {
                    selected(transform, &self.options.transforms) == Selected::Yes
                })
        });
        queued.chain(held.map(|(ends_at, _)| *ends_at)).min()
    }

    fn idle(&self) -> bool {
        match self.options.end {
            End::Never => false,
            End::WhenIdle(wait) => {
                let now = self.context.core.ledger.now();
                self.next_due().is_none_or(|due| due > now.after(wait))
            }
        }
    }

    fn tell(&self) {
        let state = self.context.core.ledger.seen();
        self.watcher.tell(progress(
            &state,
            &self.options.transforms,
            &self.worked.lock(),
        ));
    }
}

/// Waits for a group to end, for the time, or for the request to stop.
async fn wait(
    groups: &mut JoinSet<Result<()>>,
    pause: Option<Duration>,
    stop: Option<&mut watch::Receiver<bool>>,
) -> Wake {
    let time = async {
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    let asked = async {
        match stop {
            Some(stop) => {
                if stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = groups.join_next(), if !groups.is_empty() => {
            Wake::GroupEnded(match ended {
                Some(Ok(ended)) => ended,
                Some(Err(error)) => Err(Error::bug("a group was torn").with_source(error)),
                None => Ok(()),
            })
        }
        () = time => Wake::Time,
        () = asked => Wake::Stop,
    }
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

fn claim_group(draft: &mut Draft<'_>, worker: &str, id: TransformId) -> Result<Option<Group>> {
    let Some(transform) = draft.state().transforms.get(&id).map(Arc::clone) else {
        return Ok(None);
    };
    let size = usize::try_from(transform.def().group_size).unwrap_or(usize::MAX);
    let started = draft.claim_jobs(worker, &[id], size)?;
    let state = draft.state();
    let jobs = started.iter().map(|one| {
        let job = state.job(one.attempt.job)?;
        Some(GroupJob {
            report: crate::model::decide::Report {
                job: one.attempt.job,
                token: one.attempt.token,
            },
            attempt: one.attempt.attempt,
            slot: job.slot,
            source_id: state.key(job.table, job.slot)?.to_string(),
            params: job
                .extra
                .as_ref()
                .and_then(|extra| extra.params.as_deref())
                .map(str::to_owned),
        })
    });
    let jobs = jobs.collect::<Option<Vec<_>>>();
    let jobs = jobs.ok_or_else(|| Error::bug("a started job has no source"))?;
    Ok((!jobs.is_empty()).then(|| Group {
        transform: Arc::clone(&transform.name),
        def: Arc::clone(&transform.version.def),
        table: transform.table,
        jobs,
    }))
}

fn progress(state: &State, names: &[String], worked: &Worked) -> Progress {
    let ended = worked
        .values()
        .flatten()
        .filter(|(verdict, _)| ends_job(**verdict));
    let done: u64 = ended.map(|(_, count)| count).sum();
    let left: u64 = runnable(state, names)
        .map(|t| t.queue.len() + t.running)
        .sum();
    let counts = worked
        .values()
        .flatten()
        .fold(BTreeMap::new(), |mut all, (verdict, count)| {
            *all.entry(verdict.name()).or_insert(0) += count;
            all
        });
    let texts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    Progress {
        done,
        total: done + left,
        text: texts.join(", "),
    }
}

/// Whether a job is out of the queue after such a report.
fn ends_job(verdict: crate::model::decide::Outcome) -> bool {
    use crate::model::decide::Outcome;
    matches!(
        verdict,
        Outcome::Completed | Outcome::Discarded | Outcome::Cancelled
    )
}
