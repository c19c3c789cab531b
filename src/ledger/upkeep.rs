//! Background upkeep: checkpoints, history, the end of files that nobody needs, merges.
//!
//! The committer reports every commit. Where enough has come together, a round runs on a thread
//! of its own, on a published snapshot, and takes no lock that a commit waits for. Any process
//! may stop at any step: each step leaves a valid store, and the next round goes on from there.
//! Processes that do the same at once agree by put-if-absent.
//!
//! The order of a round is that of safety. A commit's file goes only after its events are in
//! `history/` and a checkpoint holds its effect, both for longer than `ledger_grace`; an old
//! checkpoint goes only after newer ones have stood for as long.

mod clean;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::ledger::checkpoint::{self, Opened, Written};
use crate::ledger::committer::{Proposal, Request};
use crate::ledger::store::Store;
use crate::ledger::upkeep::clean::Moments;
use crate::ledger::{history, merge};
use crate::model::draft::Author;
use crate::model::state::State;
use crate::time::{Clock, Timestamp};

/// How much longer than the last checkpoint took nothing is done about the next one. Chosen: a
/// large store under many small commits spends a tenth of one core on checkpoints.
const REST: u32 = 9;

/// The share of `ledger_grace` that opening a store may take before it must begin again.
const OPENING_SHARE: u32 = 10;

/// A file of rows is named by a commit within so many times `statement_timeout`, or never.
const UNNAMED_STATEMENTS: u32 = 2;

/// Merges of one round. Chosen: the next commits begin another round soon.
const MERGES_MAX: u32 = 8;

/// Who merges, as events name it.
const ACTOR: &str = "upkeep";

/// Whether a process takes part in the upkeep of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// It does.
    Takes,
    /// It leaves it to others, because it may not write.
    Leaves,
}

/// What a round is for.
enum Task {
    /// What is due.
    Round,
    /// A checkpoint, now, and then what is due.
    Checkpoint(oneshot::Sender<Result<Written>>),
}

/// Background upkeep of a store. Cheap to clone.
#[derive(Clone)]
pub struct Maintenance {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    limits: Arc<Limits>,
    clock: Clock,
    duty: Duty,
    published: Arc<RwLock<Arc<State>>>,
    /// Weak, so that the committer ends with the last handle of the ledger.
    requests: mpsc::WeakSender<Request>,
    runtime: Handle,
    progress: Mutex<Progress>,
    /// Whether a round runs.
    busy: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Commits and bytes since the last checkpoint that this process knows of.
    commits: u64,
    bytes: u64,
    /// Commits since runs were counted last.
    uncounted: u64,
    /// When the store last said that there was no newer commit.
    current_at: Timestamp,
    /// No checkpoint is begun before, so that writing them takes a bounded share of the machine.
    rest_until: Timestamp,
}

impl fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintenance")
            .field("store", &self.inner.store.url().as_str())
            .field("duty", &self.inner.duty)
            .finish_non_exhaustive()
    }
}

impl Maintenance {
    /// Upkeep of a store that has just been opened. Must be called inside a runtime.
    pub(super) fn new(
        store: Store,
        limits: Arc<Limits>,
        clock: Clock,
        duty: Duty,
        published: Arc<RwLock<Arc<State>>>,
        requests: mpsc::WeakSender<Request>,
    ) -> Self {
        let progress = Progress {
            current_at: clock.now(),
            ..Progress::default()
        };
        Self {
            inner: Arc::new(Inner {
                store,
                limits,
                clock,
                duty,
                published,
                requests,
                runtime: Handle::current(),
                progress: Mutex::new(progress),
                busy: watch::Sender::new(false),
            }),
        }
    }

    /// Notes how the store was opened, and begins what that leaves to be done: staging files of
    /// crashed writers are swept, and the indexes of large tables are built before they are
    /// asked for.
    pub(super) fn opened(&self, opened: &Opened) {
        let since = opened.checkpoint.unwrap_or_default();
        {
            let mut progress = self.progress();
            progress.commits = opened.state.version.0.saturating_sub(since.0);
            progress.bytes = opened.replayed_bytes;
        }
        let maintenance = self.clone();
        let state = self.state();
        drop(spawn("opened", move || {
            for table in state.tables.values() {
                table.keys.warm();
            }
            drop(state);
            maintenance.sweep_staging();
        }));
        self.begin_if_due();
    }

    fn sweep_staging(&self) {
        if self.inner.duty == Duty::Leaves {
            return;
        }
        let swept = self.inner.store.sweep_staging(self.moments().before_grace);
        match self.inner.runtime.block_on(swept) {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "left-over staging files swept"),
            // The next opening sweeps them; the process may just be ending.
            Err(error) => tracing::debug!(%error, "staging files are not swept"),
        }
    }

    /// Notes a commit, its size in bytes, and when the store was asked for it or to take it.
    pub(super) fn committed(&self, state: &State, bytes: u64, asked_at: Timestamp) {
        {
            let mut progress = self.progress();
            progress.commits += 1;
            progress.bytes += bytes;
            progress.uncounted += 1;
            progress.current_at = asked_at;
            let every = self.inner.limits.merge_runs as u64;
            if progress.uncounted >= every && merge::due(state, &self.inner.limits).is_some() {
                progress.uncounted = 0;
                drop(progress);
                return self.begin(Task::Round);
            }
        }
        self.begin_if_due();
    }

    fn begin_if_due(&self) {
        if self.checkpoint_due() {
            self.begin(Task::Round);
        }
    }

    fn checkpoint_due(&self) -> bool {
        let limits = &self.inner.limits;
        let progress = self.progress();
        let enough = progress.commits >= limits.checkpoint_commits
            || progress.bytes >= limits.checkpoint_bytes;
        enough && self.inner.clock.now() >= progress.rest_until
    }

    /// Notes that the store had no newer commit when it was asked.
    pub(super) fn current(&self, asked_at: Timestamp) {
        self.progress().current_at = asked_at;
    }

    /// Whether so much time has passed that ledger files may be gone which were not read yet.
    /// Half of the grace, because this clock and the store's may differ.
    pub(super) fn may_be_cut_off(&self) -> bool {
        let asleep = self.inner.clock.now().since(self.progress().current_at);
        asleep >= self.inner.limits.ledger_grace / 2
    }

    /// Writes a checkpoint of the newest state that this process has seen.
    ///
    /// # Errors
    /// `SG7002 store-unavailable`.
    pub async fn checkpoint(&self) -> Result<Written> {
        self.idle().await;
        let (done, written) = oneshot::channel();
        self.begin(Task::Checkpoint(done));
        let ended = |_| Error::new(Code::StoreUnavailable, "the checkpoint was broken off");
        written.await.map_err(ended)?
    }

    /// Waits until no round runs.
    pub async fn idle(&self) {
        let mut busy = self.inner.busy.subscribe();
        // The sender lives as long as `self`.
        let _ = busy.wait_for(|busy| !busy).await;
    }

    fn begin(&self, task: Task) {
        let inner = &self.inner;
        if inner.duty == Duty::Leaves && matches!(task, Task::Round) {
            return;
        }
        let mut was_idle = false;
        inner.busy.send_if_modified(|busy| {
            was_idle = !*busy;
            *busy = true;
            was_idle
        });
        if !was_idle && matches!(task, Task::Round) {
            // What is due now is found by the next commit after the round that runs.
            return;
        }
        let (maintenance, end) = (self.clone(), End(self.inner.busy.clone()));
        let spawned = spawn("upkeep", move || {
            let _end = end;
            maintenance.run(task);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "upkeep cannot begin");
        }
    }

    fn run(&self, task: Task) {
        let state = self.state();
        let version = state.version;
        match task {
            Task::Checkpoint(done) => {
                let written = self.write_checkpoint(&state);
                // Whoever asked may have gone away.
                drop(done.send(written));
            }
            Task::Round if self.checkpoint_due() => {
                if let Err(error) = self.write_checkpoint(&state) {
                    tracing::warn!(%error, %version, "checkpoint is not written");
                    return;
                }
            }
            Task::Round => {}
        }
        if let Err(error) = self.inner.runtime.block_on(self.tidy(&state)) {
            tracing::warn!(%error, %version, "upkeep is put off");
        }
    }

    fn write_checkpoint(&self, state: &State) -> Result<Written> {
        let inner = &self.inner;
        let (commits, bytes) = {
            let progress = self.progress();
            (progress.commits, progress.bytes)
        };
        let began_at = inner.clock.now();
        let written =
            inner
                .runtime
                .block_on(checkpoint::write(&inner.store, state, inner.clock.now()))?;
        tracing::debug!(version = %written.version, bytes = written.bytes, "checkpoint is written");
        let ended_at = inner.clock.now();
        let mut progress = self.progress();
        progress.rest_until = ended_at.after(ended_at.since(began_at) * REST);
        // Commits that came meanwhile count for the next one.
        progress.commits = progress.commits.saturating_sub(commits);
        progress.bytes = progress.bytes.saturating_sub(bytes);
        Ok(written)
    }

    /// Everything of a round but the checkpoint.
    async fn tidy(&self, state: &State) -> Result<()> {
        let inner = &self.inner;
        let checkpoints = checkpoint::versions(&inner.store).await?;
        if let Some(newest) = checkpoints.last() {
            history::compact(&inner.store, *newest, inner.limits.checkpoint_commits).await?;
        }
        let moments = self.moments();
        clean::checkpoints(&inner.store, moments).await?;
        // The older of two: a commit stays until one more checkpoint than needed holds it.
        if let Some(covered) = checkpoints.iter().rev().nth(1) {
            history::delete_compacted(&inner.store, *covered, moments.before_grace).await?;
        }
        let unnamed_max = inner.limits.statement_timeout * UNNAMED_STATEMENTS;
        clean::runs(&inner.store, state, moments, unnamed_max).await?;
        self.merge().await
    }

    /// Merges small runs, where enough have come together.
    async fn merge(&self) -> Result<()> {
        let inner = &self.inner;
        for _ in 0..MERGES_MAX {
            let state = self.state();
            let Some(merge) = merge::due(&state, &inner.limits) else {
                return Ok(());
            };
            let new = merge.write(&inner.store, &state).await?;
            let path = new.path.clone();
            let Some(requests) = inner.requests.upgrade() else {
                return inner.store.delete(&path).await;
            };
            let (done, committed) = oneshot::channel();
            let proposal = Proposal {
                author: Author::new(ACTOR, Uuid::now_v7().to_string()),
                decide: Box::new(move |draft| merge.decide(draft, &new)),
                done,
            };
            // A committer that has ended answers nothing.
            drop(requests.send(Request::Commit(proposal)).await);
            drop(requests);
            match committed.await {
                Ok(Ok(version)) => tracing::debug!(%version, path, "small runs are merged"),
                // Rows changed meanwhile: the file is named nowhere, and the runs are looked at
                // again.
                Ok(Err(error)) if error.code() == Code::WriteConflict => {
                    inner.store.delete(&path).await?;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn moments(&self) -> Moments {
        Moments {
            before_grace: self.before(self.inner.limits.ledger_grace),
            before_opening: self.before(self.inner.limits.ledger_grace / OPENING_SHARE),
        }
    }

    fn before(&self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.inner.clock.now().0.saturating_sub(micros))
    }

    fn state(&self) -> Arc<State> {
        let published = self.inner.published.read();
        Arc::clone(&published.unwrap_or_else(PoisonError::into_inner))
    }

    /// Commits since the last checkpoint that this process knows of.
    pub fn commits_since_checkpoint(&self) -> u64 {
        self.progress().commits
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        let progress = self.inner.progress.lock();
        progress.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round, however it ends.
struct End(watch::Sender<bool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}
