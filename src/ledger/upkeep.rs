//! Background upkeep: checkpoints, history, the end of files that nobody needs, merges.
//!
//! The committer reports every commit. Where enough has come together, a round runs on a thread
//! of its own, on a published snapshot, and takes no lock that a commit waits for. Any process
//! may stop at any step: each step leaves a valid store, and the next round goes on from there.
//! Processes that do the same at once agree by put-if-absent.
//!
//! Files are judged by the store's clock alone: "now" is when the newest file was written. A
//! process whose clock is wrong, or that slept, therefore deletes nothing too early.
//!
//! The order of a round is that of safety. A commit's file goes only after its events are in
//! `history/` and a checkpoint holds its effect, both for longer than `ledger_grace`; an old
//! checkpoint goes only after newer ones have stood for as long.

mod clean;
mod intent;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::chance;
use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::checkpoint::{self, Opened, Written, manifest_version};
use crate::ledger::cost::Cost;
use crate::ledger::proposal::{ACTOR, Decide, Proposal, Purpose, Request};
use crate::ledger::store::Store;
use crate::ledger::store::file::latest;
use crate::ledger::upkeep::clean::Moments;
use crate::ledger::{codec, history, merge};
use crate::model::draft::Author;
use crate::model::state::State;
use crate::time::{Clock, Timestamp};

/// How much longer than the last checkpoint took nothing is done about the next one. Chosen: a
/// large store under many small commits spends a tenth of one core on checkpoints.
const REST: u32 = 9;

/// The share of `ledger_grace` that opening a store may take before it must begin again.
const OPENING_SHARE: u32 = 10;

/// Merges of one round. Chosen: the next commits begin another round soon.
const MERGES_MAX: u32 = 8;

/// How old a staging file is that is swept when a store is opened. Chosen: far longer than
/// anything is written.
const STAGING_AGE: Duration = Duration::from_secs(24 * 3600);

/// Commits whose cost is remembered one by one. Chosen: what comes before was long due.
const COSTS_MAX: usize = 1 << 16;

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
    progress: Mutex<Progress>,
    /// Whether a round runs.
    busy: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Progress {
    /// What it costs to replay the commits after the newest checkpoint that this process knows.
    cost: Cost,
    /// The version from which on the cost of each commit is known.
    since: Version,
    /// The same for each commit that this process saw happen, the oldest first.
    commits: VecDeque<(Version, Cost)>,
    /// Commits since runs were counted last.
    uncounted: u64,
    /// No checkpoint is begun before, so that writing them takes a bounded share of the machine.
    rest_until: Duration,
}

impl Progress {
    fn add(&mut self, version: Version, bytes: u64, events: u64) {
        let mut cost = Cost::default();
        cost.add(bytes, events);
        self.cost.add(bytes, events);
        self.commits.push_back((version, cost));
        if self.commits.len() > COSTS_MAX {
            let dropped = self.commits.pop_front();
            self.since = dropped.map_or(self.since, |(version, _)| version);
        }
        self.uncounted += 1;
    }

    /// Notes a checkpoint, whoever wrote it.
    fn covered(&mut self, checkpoint: Version) {
        let newer = |(version, _): &&(Version, Cost)| *version > checkpoint;
        let mut cost = Cost::default();
        for (_, one) in self.commits.iter().filter(newer) {
            cost.add(one.bytes, one.events);
        }
        // An older one leaves something to be replayed of which only the sum is known.
        if checkpoint >= self.since {
            self.cost = cost;
        }
        self.commits.retain(|(version, _)| *version > checkpoint);
    }
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
        Self {
            inner: Arc::new(Inner {
                store,
                limits,
                clock,
                duty,
                published,
                requests,
                progress: Mutex::default(),
                busy: watch::Sender::new(false),
            }),
        }
    }

    /// Notes how the store was opened, and begins what that leaves to be done: staging files of
    /// crashed writers are swept, and the indexes of large tables are built before they are
    /// asked for.
    pub(super) fn opened(&self, opened: &Opened) {
        self.reopened(opened);
        let maintenance = self.clone();
        let state = self.state();
        let spawned = self.inner.store.tasks().spawn("opened", async move {
            for table in state.tables.values() {
                table.keys.warm();
            }
            drop(state);
            maintenance.sweep_staging().await;
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "indexes are built when they are asked for");
        }
        self.begin_if_due();
    }

    /// Notes that commits were passed over, up to a newer checkpoint.
    pub(super) fn reopened(&self, opened: &Opened) {
        let mut progress = self.progress();
        progress.cost = opened.replayed;
        progress.since = opened.state.version;
        progress.commits.clear();
    }

    async fn sweep_staging(&self) {
        if self.inner.duty == Duty::Leaves {
            return;
        }
        let swept = async {
            let now = self.store_now().await?;
            let before = now.before(STAGING_AGE);
            self.inner.store.sweep_staging(before).await
        };
        match swept.await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "left-over staging files swept"),
            // The next opening sweeps them; the process may just be ending.
            Err(error) => tracing::debug!(%error, "staging files are not swept"),
        }
    }

    /// Notes a commit, its size in bytes, and its events.
    pub(super) fn committed(&self, state: &State, bytes: u64, events: u64) {
        {
            let mut progress = self.progress();
            progress.add(state.version, bytes, events);
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
        let progress = self.progress();
        progress.cost.due(&self.inner.limits) && self.inner.clock.running() >= progress.rest_until
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
        let spawned = self.inner.store.tasks().spawn("upkeep", async move {
            let _end = end;
            maintenance.run(task).await;
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "upkeep cannot begin");
        }
    }

    async fn run(&self, task: Task) {
        let state = self.state();
        let version = state.version;
        match task {
            Task::Checkpoint(done) => {
                let written = self.write_checkpoint(&state).await;
                // Whoever asked may have gone away.
                drop(done.send(written));
            }
            Task::Round => match self.is_to_write(version).await {
                Ok(true) => {
                    if let Err(error) = self.write_checkpoint(&state).await {
                        tracing::warn!(%error, %version, "checkpoint is not written");
                        return;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, %version, "upkeep is put off");
                    return;
                }
            },
        }
        if let Err(error) = self.tidy(&state).await {
            tracing::warn!(%error, %version, "upkeep is put off");
        }
    }

    /// Whether a checkpoint is due, also when those of other processes count, and none of them is
    /// about to write it.
    async fn is_to_write(&self, version: Version) -> Result<bool> {
        if !self.checkpoint_due() {
            return Ok(false);
        }
        let store = &self.inner.store;
        let entries = store.list(checkpoint::FOLDER).await?;
        let newest = entries
            .iter()
            .filter_map(|entry| manifest_version(&entry.path))
            .max();
        self.progress().covered(newest.unwrap_or_default());
        if !self.checkpoint_due() || newest.is_some_and(|newest| newest >= version) {
            return Ok(false);
        }
        let now = self.store_now().await?;
        intent::announce(store, newest.unwrap_or_default(), &entries, now).await
    }

    /// The store's present moment, as far as its newest files tell; never later than it is.
    async fn store_now(&self) -> Result<Timestamp> {
        let newest = self.state().version;
        let before = codec::commit_path(Version(newest.0.saturating_sub(1)));
        let commits = self.inner.store.list_after("ledger", &before).await?;
        Ok(latest(&commits))
    }

    async fn write_checkpoint(&self, state: &State) -> Result<Written> {
        let inner = &self.inner;
        let began = inner.clock.running();
        let written = checkpoint::write(&inner.store, state, inner.clock.now()).await?;
        tracing::debug!(version = %written.version, bytes = written.bytes, "checkpoint is written");
        let ended = inner.clock.running();
        let mut progress = self.progress();
        progress.rest_until = ended + ended.saturating_sub(began) * REST;
        progress.covered(written.version);
        Ok(written)
    }

    /// Everything of a round but the checkpoint.
    async fn tidy(&self, state: &State) -> Result<()> {
        let inner = &self.inner;
        let checkpoints = checkpoint::versions(&inner.store).await?;
        if let Some(newest) = checkpoints.last() {
            history::compact(&inner.store, *newest, inner.limits.checkpoint_commits).await?;
        }
        let now = self.store_now().await?;
        let grace = inner.limits.ledger_grace;
        let moments = Moments {
            now,
            before_grace: now.before(grace),
            before_opening: now.before(grace / OPENING_SHARE),
        };
        clean::checkpoints(&inner.store, moments).await?;
        // The older of two: a commit stays until one more checkpoint than needed holds it.
        if let Some(covered) = checkpoints.iter().rev().nth(1) {
            history::delete_compacted(&inner.store, *covered, moments.before_grace).await?;
        }
        clean::runs(&inner.store, state, moments).await?;
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
            let new = merge.write(&inner.store, &state, inner.clock.now()).await?;
            let path = new.path.clone();
            let Some(requests) = inner.requests.upgrade() else {
                return inner.store.delete(&path).await;
            };
            let (done, committed) = oneshot::channel();
            let decide: Decide = Box::new(move |draft| merge.decide(draft, &new));
            let proposal = Proposal::new(self.author(), Purpose::Change, decide, done);
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

    fn author(&self) -> Author {
        Author::new(ACTOR, chance::id(self.inner.clock.now()).to_string())
    }

    /// Looks again and again, for as long as the ledger is open, at what others committed, and
    /// ends leases that are over. So a job whose worker died waits for nobody's statement.
    pub(super) async fn watch(self) {
        loop {
            let half = self.inner.limits.ledger_watch.as_millis() as u64 / 2;
            let pause = half + chance::within(0..=half.max(1));
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let Some(requests) = self.inner.requests.upgrade() else {
                return;
            };
            let (done, answer) = oneshot::channel();
            let request = match self.overdue() {
                false => {
                    let (done, answer) = oneshot::channel();
                    let sent = requests.send(Request::CatchUp(done)).await;
                    drop((sent, requests));
                    // A store that does not answer is met again by the next statement.
                    drop(answer.await);
                    continue;
                }
                true => {
                    // Leases are ended before each decision; there is nothing else to decide.
                    let decide: Decide = Box::new(|_| Ok(()));
                    Proposal::new(self.author(), Purpose::Change, decide, done)
                }
            };
            let sent = requests.send(Request::Commit(request)).await;
            drop((sent, requests));
            if let Ok(Err(error)) = answer.await {
                tracing::debug!(%error, "leases that are over are not ended yet");
            }
        }
    }

    fn overdue(&self) -> bool {
        let (state, now) = (self.state(), self.inner.clock.now());
        let job = state.crashed_jobs(now).next().is_some();
        job || state.locks.expired(now).next().is_some()
    }

    fn state(&self) -> Arc<State> {
        let published = self.inner.published.read();
        Arc::clone(&published.unwrap_or_else(PoisonError::into_inner))
    }

    /// Commits since the last checkpoint that this process knows of.
    pub fn commits_since_checkpoint(&self) -> u64 {
        self.progress().cost.commits
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
