//! Everything durable: the store's files and what is written into them.
//!
//! [`Ledger`] is the only thing that commits. One thread of its own, the committer, holds the
//! newest state, decides what is proposed to it, writes commits and reads those of others; so
//! there is one order of decisions in a process, and the store's put-if-absent makes it one order
//! among all processes.

pub mod check;
pub mod checkpoint;
mod clock_guard;
pub mod codec;
mod committer;
pub mod cost;
pub mod errors;
pub mod history;
mod local;
mod merge;
mod parquet_file;
mod proposal;
pub mod run;
mod standing;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::{mpsc, oneshot};

use crate::chance;
use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::clock_guard::ClockGuard;
use crate::ledger::committer::Committer;
use crate::ledger::proposal::{Proposal, Purpose, Request};
use crate::ledger::standing::Standing;
use crate::ledger::store::Store;
use crate::model::draft::{Author, Draft};
use crate::model::state::State;
use crate::time::{Clock, Timestamp};

pub use upkeep::{Duty, Maintenance};

/// Requests that wait for the committer before senders must wait too.
const REQUESTS_MAX: usize = 4096;

/// What a commit led to.
#[derive(Debug)]
pub struct Committed<R> {
    /// What `decide` returned.
    pub reply: R,
    /// The version at which it is true.
    pub version: Version,
}

/// A store, opened. Cheap to clone; the committer ends with the last clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Clock,
    limits: Arc<Limits>,
    state: Arc<RwLock<Arc<State>>>,
    requests: mpsc::Sender<Request>,
    maintenance: Maintenance,
}

impl Ledger {
    /// Opens a store: reads its newest checkpoint and the commits after it.
    ///
    /// # Errors
    /// `SG7002 store-unavailable`, `SG7003 store-corrupt`, `SG7004 store-too-new`.
    pub async fn open(store: Store, clock: Clock, limits: Arc<Limits>) -> Result<Self> {
        Self::open_with(store, clock, limits, Duty::Takes).await
    }

    /// The same, and says whether this process takes part in the upkeep of the store.
    ///
    /// # Errors
    /// Those of [`Ledger::open`].
    pub async fn open_with(
        store: Store,
        clock: Clock,
        limits: Arc<Limits>,
        duty: Duty,
    ) -> Result<Self> {
        let mut guard = ClockGuard::default();
        if duty == Duty::Takes {
            match guard.check(&store, &clock, &limits).await {
                // A store that is full or may only be read can be read; a commit is refused.
                Err(error) if error.code() == Code::StoreUnavailable => {
                    tracing::debug!(%error, "the store could not be tried out");
                }
                checked => checked?,
            }
        }
        let asked_at = clock.running();
        let mut opened = checkpoint::open(&store).await?;
        // What this process has not seen happen is not counted.
        opened.state.ran = Arc::default();
        let published = Arc::new(RwLock::new(Arc::new(opened.state.clone())));
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let maintenance = Maintenance::new(
            store.clone(),
            Arc::clone(&limits),
            clock.clone(),
            duty,
            Arc::clone(&published),
            requests.downgrade(),
        );
        maintenance.opened(&opened);
        let committer = Committer {
            store: store.clone(),
            clock: clock.clone(),
            limits: Arc::clone(&limits),
            standing: Standing::new(opened.state.version, opened.head, asked_at),
            state: opened.state,
            guard,
            published: Arc::clone(&published),
            maintenance: maintenance.clone(),
            new_store: chance::id(clock.now()).to_string().into(),
            waiting: VecDeque::new(),
            reads: Vec::new(),
            lost: false,
            took_turn: None,
        };
        store
            .tasks()
            .spawn("committer", committer.run(inbox))
            .map_err(|error| {
                Error::new(Code::StoreUnavailable, "the committer thread cannot start")
                    .with_source(error)
            })?;
        if duty == Duty::Takes {
            tokio::spawn(maintenance.clone().watch());
        }
        let inner = Inner {
            store,
            clock,
            limits,
            state: published,
            requests,
            maintenance,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The limits.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.inner.limits
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Checkpoints, history, merges.
    pub fn maintenance(&self) -> &Maintenance {
        &self.inner.maintenance
    }

    /// The newest state that this process has seen, without asking the store.
    pub fn seen(&self) -> Arc<State> {
        match self.inner.state.read() {
            Ok(state) => Arc::clone(&state),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }

    /// The newest state of the store: reads the commits of other processes first.
    ///
    /// # Errors
    /// `SG7002 store-unavailable`, `SG7003 store-corrupt`.
    pub async fn snapshot(&self) -> Result<Arc<State>> {
        let (done, answer) = oneshot::channel();
        self.send(Request::CatchUp(done)).await?;
        answer.await.map_err(|_| gone())??;
        Ok(self.seen())
    }

    /// Decides and commits.
    ///
    /// `decide` runs against the newest state, and again on a newer one when another process
    /// committed first; so it must do nothing but decide. When it fails, or emits no event,
    /// nothing is written.
    ///
    /// # Errors
    /// What `decide` fails with; `SG5005 contended` after too many lost races; those of the
    /// store. An error of the store leaves open whether the commit was written.
    ///
    /// # Guarantees
    /// The events of one call are in one commit, which is durable when this returns. Once it is
    /// sent, dropping the future does not undo it.
    pub async fn commit<R, F>(&self, author: Author, decide: F) -> Result<Committed<R>>
    where
        R: Send + 'static,
        F: Fn(&mut Draft<'_>) -> Result<R> + Send + 'static,
    {
        self.propose(author, Purpose::Change, decide).await
    }

    /// Puts the time of the store right, where a machine with a wrong clock committed in the
    /// future: moves it, and the leases and pauses that were given since, back to the present.
    ///
    /// # Returns
    /// The time that the store had; `None` where nothing was wrong.
    ///
    /// # Errors
    /// `SG7007 clock-off`: this machine's clock is wrong itself; those of the store.
    pub async fn repair(&self, author: Author) -> Result<Option<Timestamp>> {
        let state = self.snapshot().await?;
        if state.at <= self.now().after(self.inner.limits.clock_skew_max) {
            return Ok(None);
        }
        let clock = self.inner.clock.clone();
        let repaired = self.propose(author, Purpose::Repair, move |draft| {
            draft.repair_time(clock.now())
        });
        Ok(Some(repaired.await?.reply))
    }

    async fn propose<R, F>(
        &self,
        author: Author,
        purpose: Purpose,
        decide: F,
    ) -> Result<Committed<R>>
    where
        R: Send + 'static,
        F: Fn(&mut Draft<'_>) -> Result<R> + Send + 'static,
    {
        let reply = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&reply);
        let (done, answer) = oneshot::channel();
        let decide = Box::new(move |draft: &mut Draft<'_>| {
            let decided = decide(draft)?;
            if let Ok(mut slot) = kept.lock() {
                *slot = Some(decided);
            }
            Ok(())
        });
        let proposal = Proposal::new(author, purpose, decide, done);
        self.send(Request::Commit(proposal)).await?;
        let version = answer.await.map_err(|_| gone())??;
        let reply = reply.lock().ok().and_then(|mut slot| slot.take());
        let reply = reply.ok_or_else(|| Error::bug("a commit came without its reply"))?;
        Ok(Committed { reply, version })
    }

    /// Decides without committing: what would happen.
    ///
    /// # Errors
    /// What `decide` fails with; those of the store.
    pub async fn preview<R>(
        &self,
        author: Author,
        decide: impl FnOnce(&mut Draft<'_>) -> Result<R>,
    ) -> Result<Committed<R>> {
        let state = self.snapshot().await?;
        let version = state.version;
        let mut draft = Draft::new(
            State::clone(&state),
            version.next(),
            self.now(),
            author,
            &self.inner.limits,
        );
        draft.expire_leases()?;
        Ok(Committed {
            reply: decide(&mut draft)?,
            version,
        })
    }

    async fn send(&self, request: Request) -> Result<()> {
        self.inner.requests.send(request).await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::new(Code::StoreUnavailable, "the store was closed")
        .with_hint("Open it again; an earlier message says why it was closed.")
}
