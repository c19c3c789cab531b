//! The committer: the thread that decides, writes commits, and reads those of others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::checkpoint;
use crate::ledger::codec;
use crate::ledger::store::{PutNew, Store};
use crate::ledger::upkeep::Maintenance;
use crate::model::draft::{Author, Draft, Drafted};
use crate::model::state::State;
use crate::time::Clock;

/// What a process asks of its committer.
pub(super) enum Request {
    /// Read what other processes committed.
    CatchUp(oneshot::Sender<Result<()>>),
    /// Decide and commit.
    Commit(Proposal),
}

/// A statement that wants to commit.
pub(super) struct Proposal {
    pub author: Author,
    pub decide: Decide,
    pub done: oneshot::Sender<Result<Version>>,
}

/// Decides one statement. May run several times, each time on another state.
pub(super) type Decide = Box<dyn Fn(&mut Draft<'_>) -> Result<()> + Send>;

/// The state of the committer thread.
pub(super) struct Committer {
    pub store: Store,
    pub clock: Clock,
    pub limits: Arc<Limits>,
    pub state: State,
    pub published: Arc<RwLock<Arc<State>>>,
    pub maintenance: Maintenance,
    pub runtime: Handle,
}

/// The longest pause before a lost race is run again, in milliseconds. Chosen: some commits long.
const RACE_PAUSE_MS: u64 = 10;

/// How often an answer is thrown away because this process slept over it. Bounded for the sake
/// of a grace that is shorter than a request.
const SLEEPS_MAX: u32 = 3;

impl Committer {
    /// Works until the last handle of the ledger is dropped.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut waiting = Vec::new();
            let mut proposals = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::CatchUp(done) => waiting.push(done),
                    Request::Commit(proposal) => proposals.push(proposal),
                }
                next = (proposals.len() < self.limits.commit_proposals_max)
                    .then(|| inbox.try_recv().ok())
                    .flatten();
            }
            let caught_up = self.catch_up();
            for done in waiting {
                // A receiver that has gone away no longer wants to know.
                drop(done.send(caught_up.as_ref().copied().map_err(copy_of)));
            }
            match caught_up {
                Ok(()) => self.commit(proposals),
                Err(error) => {
                    for proposal in proposals {
                        drop(proposal.done.send(Err(copy_of(&error))));
                    }
                }
            }
        }
    }

    /// Reads the commits of others until there is no newer one.
    fn catch_up(&mut self) -> Result<()> {
        let before = self.state.version;
        let mut slept = 0;
        let caught_up = loop {
            // Before the question, too: in the place of a commit that was cleaned up there may
            // be the file of a process that came too late and crashed.
            if let Err(error) = self.reopen_if_cut_off() {
                break Err(error);
            }
            let version = self.state.version.next();
            let path = codec::commit_path(version);
            // Taken before the question: the answer may be old when it is read.
            let asked_at = self.clock.now();
            let got = self.runtime.block_on(self.store.get(&path));
            if self.maintenance.may_be_cut_off() && slept < SLEEPS_MAX {
                slept += 1;
                continue;
            }
            match got {
                Ok(Some(bytes)) => {
                    let size = bytes.len() as u64;
                    // A copy, so that a broken commit leaves the state as it was.
                    let mut state = self.state.clone();
                    let replayed = codec::decode(&path, bytes)
                        .and_then(|events| codec::replay(&mut state, version, version, &events));
                    if let Err(error) = replayed {
                        break Err(error);
                    }
                    self.state = state;
                    self.maintenance.committed(&self.state, size, asked_at);
                }
                Ok(None) => {
                    self.maintenance.current(asked_at);
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        if self.state.version != before {
            self.publish();
        }
        caught_up
    }

    /// A reader that slept long may find its next commit cleaned up: then a checkpoint is newer.
    fn reopen_if_cut_off(&mut self) -> Result<()> {
        if !self.maintenance.may_be_cut_off() {
            return Ok(());
        }
        let asked_at = self.clock.now();
        if self.is_in_a_checkpoint(self.state.version.next())? {
            self.state = self.runtime.block_on(checkpoint::open(&self.store))?.state;
        }
        self.maintenance.current(asked_at);
        Ok(())
    }

    fn is_in_a_checkpoint(&self, version: Version) -> Result<bool> {
        let newest = self.runtime.block_on(checkpoint::newest(&self.store))?;
        Ok(newest.is_some_and(|newest| newest >= version))
    }

    /// Whether a commit that was put is not one, because it is in the place of another that was
    /// written, compacted and deleted while this process slept. Nobody reads such a file, and
    /// the next clean-up takes it where it cannot be taken back here.
    fn came_too_late(&mut self, version: Version) -> Result<bool> {
        if !self.maintenance.may_be_cut_off() || !self.is_in_a_checkpoint(version)? {
            return Ok(false);
        }
        self.runtime
            .block_on(self.store.delete(&codec::commit_path(version)))?;
        Ok(true)
    }

    fn publish(&self) {
        let state = Arc::new(self.state.clone());
        match self.published.write() {
            Ok(mut published) => *published = state,
            Err(poisoned) => *poisoned.into_inner() = state,
        }
    }

    /// Decides all proposals one after the other, writes them as one commit, and when another
    /// process was first, does it again on top of that one's.
    fn commit(&mut self, mut proposals: Vec<Proposal>) {
        let mut races = 0;
        while !proposals.is_empty() {
            let version = self.state.version.next();
            let (kept, drafted) = self.decide(std::mem::take(&mut proposals), version);
            proposals = kept;
            let Some((mut state, batches)) = drafted else {
                // Nothing happened: the answer is true at the version that was read.
                return answer(proposals, || Ok(self.state.version));
            };
            let asked_at = self.clock.now();
            let header = self
                .state
                .lineage
                .next(|| Uuid::now_v7().to_string().into());
            let put = codec::encode_commit(&batches, &header).and_then(|encoded| {
                let size = encoded.bytes.len() as u64;
                state.lineage.committed(header, encoded.digest);
                let path = codec::commit_path(version);
                let put = self
                    .runtime
                    .block_on(self.store.put_new(&path, encoded.bytes))?;
                Ok((put, size))
            });
            match put {
                Ok((PutNew::Created, size)) => match self.came_too_late(version) {
                    Ok(false) => {
                        self.state = state;
                        self.publish();
                        self.maintenance.committed(&self.state, size, asked_at);
                        return answer(proposals, || Ok(version));
                    }
                    Ok(true) => {
                        if let Err(error) = self.catch_up() {
                            return answer(proposals, || Err(copy_of(&error)));
                        }
                    }
                    Err(error) => return answer(proposals, || Err(copy_of(&error))),
                },
                Ok((PutNew::AlreadyExists, _)) if races >= self.limits.commit_retries_max => {
                    return answer(proposals, || Err(contended(races)));
                }
                Ok((PutNew::AlreadyExists, _)) => {
                    races += 1;
                    let pause = rand::random_range(0..=RACE_PAUSE_MS.min(u64::from(races)));
                    std::thread::sleep(Duration::from_millis(pause));
                    if let Err(error) = self.catch_up() {
                        return answer(proposals, || Err(copy_of(&error)));
                    }
                }
                Err(error) => return answer(proposals, || Err(copy_of(&error))),
            }
        }
    }

    /// Decides proposals in order on one state. One that fails is answered and leaves no trace.
    fn decide(
        &self,
        proposals: Vec<Proposal>,
        version: Version,
    ) -> (Vec<Proposal>, Option<(State, Vec<RecordBatch>)>) {
        let mut state = self.state.clone();
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut rows = 0;
        let mut kept = Vec::with_capacity(proposals.len());
        let now = self.clock.now();
        for proposal in proposals {
            let mut draft = Draft::new(
                state.clone(),
                version,
                now,
                proposal.author.clone(),
                &self.limits,
            )
            .with_first_ordinal(rows);
            // A bug in one decision must not end the thread that decides for all others. The draft
            // is thrown away, so a half-changed one is not seen.
            let decided = catch_unwind(AssertUnwindSafe(|| {
                draft
                    .expire_leases()
                    .and_then(|()| (proposal.decide)(&mut draft))
            }));
            let decided = decided.unwrap_or_else(|_| Err(Error::bug("a decision panicked")));
            let drafted = decided.and_then(|()| draft.finish());
            match drafted {
                Ok(Drafted {
                    state: after,
                    events,
                }) => {
                    state = after;
                    rows += events.num_rows();
                    if events.num_rows() > 0 {
                        batches.push(events);
                    }
                    kept.push(proposal);
                }
                Err(error) => drop(proposal.done.send(Err(error))),
            }
        }
        (kept, (!batches.is_empty()).then_some((state, batches)))
    }
}

fn answer(proposals: Vec<Proposal>, result: impl Fn() -> Result<Version>) {
    for proposal in proposals {
        // A receiver that has gone away no longer wants to know.
        drop(proposal.done.send(result()));
    }
}

fn contended(races: u32) -> Error {
    Error::new(Code::Contended, "the store is too busy to commit")
        .with_detail(format!(
            "Other processes were first {races} times in a row."
        ))
        .with_hint("Run the statement again; nothing was changed.")
}

/// The same error for each of several statements. The source stays with the first.
fn copy_of(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.message());
    if let Some(detail) = error.detail() {
        copy = copy.with_detail(detail);
    }
    if let Some(hint) = error.hint() {
        copy = copy.with_hint(hint);
    }
    copy
}
