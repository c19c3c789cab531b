//! Workers: they claim groups of jobs, run them, and report each source by itself.
//!
//! [`work`] is the loop: claim (a commit), run ([`group`]), report (a commit). It holds no state
//! that matters: a worker that dies leaves leases behind, and whoever commits after their end
//! gives the jobs to somebody else.

mod answer;
mod assignments;
pub mod command;
pub mod group;
pub mod local;
pub mod log;
mod output;
mod process;
pub mod pulse;
pub mod queue;
pub mod remote;
mod retry;
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
use crate::error::{Error, Result};
use crate::model::decide::Outcome;
use crate::session::core::Core;
use crate::session::progress::{Progress, Watcher};
use crate::worker::group::Context;
use crate::worker::local::Local;
use crate::worker::pulse::Pulse;
use crate::worker::queue::{Group, Queue, Verdicts};

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
    stop: watch::Receiver<bool>,
    watcher: Watcher,
) -> Result<Worked> {
    let queue = Local::new(Arc::clone(core), Arc::clone(&options.name));
    work_from(Arc::new(queue), options, stop, watcher).await
}

/// The same, with the jobs of any queue.
///
/// # Errors
/// Those of [`work`].
pub async fn work_from(
    queue: Arc<dyn Queue>,
    options: WorkOptions,
    mut stop: watch::Receiver<bool>,
    watcher: Watcher,
) -> Result<Worked> {
    queue.check(&options.transforms).await?;
    let worker = Worker {
        context: Context {
            pulse: Arc::new(Pulse::start(Arc::clone(&queue))),
            queue,
            working_dir: options.working_dir.clone(),
        },
        options,
        worked: Arc::default(),
        watcher,
    };
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

/// What there is to do.
enum Found {
    Group(Box<Group>),
    /// Nothing, to be looked for again after this time.
    Nothing(Duration),
    /// Nothing, and nothing will come.
    Idle,
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
                match self.claim_or_pause(begun, groups.is_empty()).await {
                    Ok(Found::Group(group)) => {
                        begun += 1;
                        groups.spawn(self.group(*group, stop.clone()));
                        continue;
                    }
                    Ok(Found::Idle) => return Ok(()),
                    Ok(Found::Nothing(wait)) => pause = Some(wait),
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
        self.context.queue.limits()
    }

    /// One group, from its claim to its last report.
    fn group(
        &self,
        group: Group,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let context = self.context.clone();
        // Tracked, for a group that is dropped kills its commands, and the process waits for that.
        let tracker = self.context.queue.background().clone();
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
                watcher.tell(progress(context.queue.left(&wanted), &worked));
            };
            let ended = group::run(&context, group, stop, &seen).await;
            ended.inspect_err(|error| {
                tracing::error!(%transform, %error, "a group ended without all its reports");
            })
        })
    }

    /// A group, or how long there is none.
    async fn claim_or_pause(&self, turn: u64, alone: bool) -> Result<Found> {
        let (queue, names) = (&self.context.queue, &self.options.transforms);
        if let Some(group) = queue.claim(names, turn).await? {
            return Ok(Found::Group(Box::new(group)));
        }
        let due = queue.next_due(names).await?;
        if let End::WhenIdle(wait) = self.options.end
            && alone
            && due.is_none_or(|due| due > wait)
        {
            return Ok(Found::Idle);
        }
        let poll = self.limits().worker_poll;
        // What is due already, such as a job whose lease is over, could not be claimed just now:
        // to ask for it at once would be a tight loop.
        let wait = due.filter(|due| !due.is_zero()).unwrap_or(poll);
        Ok(Found::Nothing(wait.clamp(Duration::from_millis(1), poll)))
    }

    fn tell(&self) {
        let left = self.context.queue.left(&self.options.transforms);
        self.watcher.tell(progress(left, &self.worked.lock()));
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

fn progress(left: u64, worked: &Worked) -> Progress {
    let ended = worked
        .values()
        .flatten()
        .filter(|(verdict, _)| ends_job(**verdict));
    let done: u64 = ended.map(|(_, count)| count).sum();
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
fn ends_job(verdict: Outcome) -> bool {
    matches!(
        verdict,
        Outcome::Completed | Outcome::Discarded | Outcome::Cancelled
    )
}
