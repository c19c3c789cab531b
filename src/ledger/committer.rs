//! The committer: the one task of a process that decides, writes commits, and reads those of
//! others.
//!
//! Each round takes what waits, reads what others committed, decides on top of it, and puts the
//! result under the next version. Whoever loses a race goes into the next round. So nobody waits
//! for anybody but the commit that is under way, and the rounds of a large statement, which takes
//! long to decide, alternate with those of small ones.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::chance;
use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::clock_guard::{ClockGuard, check_time};
use crate::ledger::codec::{self, Encoded};
use crate::ledger::proposal::{ACTOR, Decide, Proposal, Purpose, Request, answer_all, copy_of};
use crate::ledger::standing::{self, Fate, Standing, Stands, statements_of};
use crate::ledger::store::{Put, Stamp, Store};
use crate::ledger::upkeep::Maintenance;
use crate::model::draft::{Author, Draft, Drafted};
use crate::model::state::State;
use crate::time::Clock;

/// The longest pause before a lost race is run again, for each race that was lost, in
/// milliseconds. Chosen: about a commit.
const RACE_PAUSE_MS: u64 = 2;

/// The longest pause of all, in milliseconds.
const RACE_PAUSE_MAX_MS: u64 = 100;

/// How often whoever waits for another's turn looks whether it is over.
const TURN_POLL: Duration = Duration::from_millis(20);

/// A statement that takes so long to decide is large. Chosen: as long as some commits.
const LARGE: Duration = Duration::from_millis(50);

/// How much longer than its deciding took last time a turn lasts, and by how much more.
const TURN_TIMES: u32 = 4;
const TURN_SPARE: Duration = Duration::from_secs(2);

/// Races after which a small statement asks for its turn, for each that makes a large one ask.
/// Chosen: a turn is a commit of its own, and small statements get through by luck.
const SMALL_RACES: u32 = 8;

/// How long reads wait for a put that is under way before they ask the store themselves. Chosen:
/// a put takes less, mostly, and then there is nothing to ask.
const READ_PATIENCE: Duration = Duration::from_millis(500);

/// Commits that are read ahead at the most, by a reader that is behind.
const READ_AHEAD_MAX: usize = 16;

/// The state of the committer.
pub(super) struct Committer {
    pub store: Store,
    pub clock: Clock,
    pub limits: Arc<Limits>,
    pub state: State,
    pub standing: Standing,
    pub guard: ClockGuard,
    pub published: Arc<RwLock<Arc<State>>>,
    pub maintenance: Maintenance,
    /// What goes into the store's lineage where the store has no id yet.
    pub new_store: Arc<str>,
    pub waiting: VecDeque<Proposal>,
    pub reads: Vec<oneshot::Sender<Result<()>>>,
    /// Whether the last round lost its race.
    pub lost: bool,
    /// The statement of this process that asked for a turn last.
    pub took_turn: Option<Arc<str>>,
}

/// What all kept proposals of a round led to.
struct Round {
    state: State,
    encoded: Encoded,
    events: u64,
}

/// What became of a put.
enum Outcome {
    /// It is the commit.
    Committed,
    /// Somebody else was first.
    Lost,
}

impl Committer {
    /// Works until the last handle of the ledger is dropped and nothing waits.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        loop {
            // Reads may have come during the last put.
            if self.waiting.is_empty() && self.reads.is_empty() {
                match inbox.recv().await {
                    Some(request) => self.take(request),
                    None => return,
                }
            }
            while self.waiting.len() < self.limits.commit_proposals_max
                && let Ok(request) = inbox.try_recv()
            {
                self.take(request);
            }
            let caught_up = self.catch_up().await;
            for done in self.reads.drain(..) {
                // A receiver that has gone away no longer wants to know.
                drop(done.send(caught_up.as_ref().copied().map_err(copy_of)));
            }
            if let Err(error) = caught_up {
                let waiting = self.waiting.drain(..).collect();
                answer_all(waiting, || Err(copy_of(&error)));
                continue;
            }
            if self.waiting.is_empty() {
                continue;
            }
            match self.turn_of_another() {
                Some(left) => self.wait(left.min(TURN_POLL), &mut inbox).await,
                None => self.round(&mut inbox).await,
            }
            self.give_turn_back();
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::CatchUp(done) => self.reads.push(done),
            Request::Commit(proposal) => self.waiting.push_back(proposal),
        }
    }

    /// Waits, and takes a request that comes meanwhile.
    async fn wait(&mut self, most: Duration, inbox: &mut mpsc::Receiver<Request>) {
        match timeout(most, inbox.recv()).await {
            Ok(Some(request)) => self.take(request),
            // All handles are gone; what waits is still committed.
            Ok(None) => sleep(most).await,
            Err(_) => {}
        }
    }

    /// How long the turn of a statement of another process lasts.
    fn turn_of_another(&self) -> Option<Duration> {
        let turn = self.state.turn.as_ref()?;
        let ours = |one: &Proposal| one.author.statement_id == turn.holder;
        if self.waiting.iter().any(ours) {
            return None;
        }
        let left = turn.expires_at.since(self.clock.now());
        // A turn never lasts longer, whatever a clock says.
        (!left.is_zero() && left <= self.limits.turn + self.limits.clock_skew_max).then_some(left)
    }

    /// Lets others go on where the statement that had the turn came to nothing.
    fn give_turn_back(&mut self) {
        let Some(turn) = &self.state.turn else { return };
        let waits = self.waiting.iter().any(|one| self.has_turn(one));
        if waits || self.took_turn.as_ref() != Some(&turn.holder) {
            return;
        }
        self.took_turn = None;
        let author = Author::new(ACTOR, Arc::clone(&turn.holder));
        let (done, _) = oneshot::channel();
        let decide: Decide = Box::new(|draft| draft.give_turn_back());
        let back = Proposal::new(author, Purpose::Change, decide, done);
        self.waiting.push_front(back);
    }

    /// Reads the commits of others until there is no newer one.
    async fn catch_up(&mut self) -> Result<()> {
        let before = self.state.version;
        let caught_up = self.read_on().await;
        if self.state.version != before {
            self.publish();
        }
        caught_up
    }

    async fn read_on(&mut self) -> Result<()> {
        loop {
            // Taken before the questions: their answers may be old when they are read.
            let asked_at = self.clock.running();
            let known = self.state.clone();
            let read = self.read_newer().await;
            let grace = self.limits.ledger_grace;
            let version = self.state.version;
            let stands = self.standing.ask(&self.store, version, asked_at, grace);
            match stands.await? {
                Stands::Yes => return read,
                // What is newer than the checkpoint is read like everything else.
                Stands::No => self.reopen(known).await?,
            }
        }
    }

    /// Reads commit after commit, some ahead where there are many.
    async fn read_newer(&mut self) -> Result<()> {
        let mut ahead = 1;
        loop {
            let first = self.state.version.next();
            let versions = (0..ahead as u64).map(|number| Version(first.0 + number));
            let reads = versions.map(|version| {
                let (store, path) = (self.store.clone(), codec::commit_path(version));
                async move { (version, store.read(&path).await) }
            });
            let reads: Vec<_> = reads.collect();
            let mut found = stream::iter(reads).buffered(ahead);
            while let Some((version, found)) = found.next().await {
                let Some(found) = found? else {
                    return Ok(());
                };
                self.fold(version, found.bytes, found.stamp)?;
            }
            ahead = (ahead * 2).min(READ_AHEAD_MAX);
        }
    }

    fn fold(&mut self, version: Version, bytes: bytes::Bytes, stamp: Stamp) -> Result<()> {
        let (path, size) = (codec::commit_path(version), bytes.len() as u64);
        let events = codec::decode(&path, bytes)?;
        // A copy, so that a broken commit leaves the state as it was.
        let mut state = self.state.clone();
        codec::replay(&mut state, version, version, &events)?;
        self.state = state;
        self.standing.moved(version, stamp);
        self.maintenance.committed(&self.state, size, events.rows());
        Ok(())
    }

    /// Goes on from the newest checkpoint, where commits were cleaned up that were not read yet.
    /// What was read since is thrown away: it may be what nobody should read.
    async fn reopen(&mut self, known: State) -> Result<()> {
        self.state = known;
        let asked_at = self.clock.running();
        let mut opened = standing::reopened(&self.store, &self.state).await?;
        opened.state.ran = Arc::clone(&self.state.ran);
        self.maintenance.reopened(&opened);
        let version = opened.state.version;
        self.standing = Standing::new(version, opened.head.take(), asked_at);
        self.state = opened.state;
        Ok(())
    }

    fn publish(&self) {
        let state = Arc::new(self.state.clone());
        match self.published.write() {
            Ok(mut published) => *published = state,
            Err(poisoned) => *poisoned.into_inner() = state,
        }
    }

    /// Decides the proposals whose turn it is, and puts them as one commit.
    async fn round(&mut self, inbox: &mut mpsc::Receiver<Request>) {
        if let Err(error) = self.may_write().await {
            let waiting = self.waiting.drain(..).collect();
            return answer_all(waiting, || Err(copy_of(&error)));
        }
        let chosen = self.choose();
        let version = self.state.version.next();
        let (mut kept, drafted) = self.decide(chosen, version);
        let Some((state, batches)) = drafted else {
            // Nothing happened: the answer is true at the version that was read.
            let version = self.state.version;
            return answer_all(kept, || Ok(version));
        };
        let round = match self.encode(state, &batches) {
            Ok(round) => round,
            Err(error) => return answer_all(kept, || Err(copy_of(&error))),
        };
        match self.put(version, round, inbox).await {
            Ok(Outcome::Committed) => {
                self.lost = false;
                for one in kept {
                    if self.has_turn(&one) {
                        // It only asked for its turn, and is decided now that it has it.
                        self.took_turn = Some(Arc::clone(&one.author.statement_id));
                        self.waiting.push_front(one);
                    } else {
                        one.answer(Ok(version));
                    }
                }
            }
            Ok(Outcome::Lost) => self.run_again(&mut kept).await,
            Err(error) => answer_all(kept, || Err(copy_of(&error))),
        }
    }

    async fn may_write(&mut self) -> Result<()> {
        let checked = self.guard.check(&self.store, &self.clock, &self.limits);
        checked.await
    }

    fn has_turn(&self, one: &Proposal) -> bool {
        let turn = self.state.turn.as_ref();
        turn.is_some_and(|turn| turn.holder == one.author.statement_id)
    }

    /// All that waits; but after a lost race first what is decided quickly, so that heartbeats do
    /// not wait for as long as a large statement is decided in vain.
    fn choose(&mut self) -> Vec<Proposal> {
        let large = |one: &Proposal| one.took >= LARGE;
        let turn = self.waiting.iter().any(|one| self.has_turn(one));
        let mixed = self.waiting.iter().any(large) && !self.waiting.iter().all(large);
        if turn || !self.lost || !mixed {
            return self.waiting.drain(..).collect();
        }
        self.lost = false;
        let (later, now): (VecDeque<_>, VecDeque<_>) = self.waiting.drain(..).partition(large);
        self.waiting = later;
        now.into()
    }

    async fn run_again(&mut self, kept: &mut Vec<Proposal>) {
        self.lost = true;
        let mut most = 0;
        for mut one in kept.drain(..).rev() {
            one.races += 1;
            most = most.max(one.races);
            if one.races > self.limits.commit_retries_max {
                let races = one.races;
                one.answer(Err(contended(races)));
            } else {
                self.waiting.push_front(one);
            }
        }
        let pause = (RACE_PAUSE_MS * u64::from(most)).min(RACE_PAUSE_MAX_MS);
        sleep(Duration::from_millis(chance::within(0..=pause))).await;
    }

    fn encode(&self, mut state: State, batches: &[RecordBatch]) -> Result<Round> {
        let header = self.state.lineage.next(|| Arc::clone(&self.new_store));
        let encoded = codec::encode_commit(batches, &header)?;
        state.lineage.committed(header, encoded.digest);
        let events = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        Ok(Round {
            state,
            encoded,
            events,
        })
    }

    /// Puts a commit, and finds out what became of it. Requests that come meanwhile are taken.
    async fn put(
        &mut self,
        version: Version,
        round: Round,
        inbox: &mut mpsc::Receiver<Request>,
    ) -> Result<Outcome> {
        let path = codec::commit_path(version);
        let (store, bytes) = (self.store.clone(), round.encoded.bytes.clone());
        let put = async { store.put(&path, bytes).await };
        let stamp = match self.meanwhile(put, version, inbox).await? {
            Put::AlreadyExists => return Ok(Outcome::Lost),
            Put::Created(stamp) => stamp,
        };
        let (known, grace) = (self.state.version, self.limits.ledger_grace);
        // The reading is from after the put: it is the put that may have slept.
        let asked = self.clock.running();
        let stands = self.standing.ask(&self.store, known, asked, grace).await?;
        if stands == Stands::No {
            let statements =
                statements_of(&codec::decode(&path, round.encoded.bytes.clone())?, version);
            match standing::fate(&self.store, version, &self.state, &statements).await? {
                Fate::Valid => {}
                Fate::Dead => {
                    remove(self.store.clone(), &path, &stamp).await?;
                    return Ok(Outcome::Lost);
                }
            }
        }
        let Round {
            state,
            encoded,
            events,
        } = round;
        self.state = state;
        self.standing = Standing::new(version, Some(stamp), asked);
        self.publish();
        let size = encoded.bytes.len() as u64;
        self.maintenance.committed(&self.state, size, events);
        Ok(Outcome::Committed)
    }

    /// Waits for a put. Reads do not wait for it for long: where the store says that there is no
    /// commit of its version, what is known is the newest.
    async fn meanwhile(
        &mut self,
        put: impl Future<Output = Result<Put>>,
        version: Version,
        inbox: &mut mpsc::Receiver<Request>,
    ) -> Result<Put> {
        let mut put = std::pin::pin!(put);
        let path = codec::commit_path(version);
        // How many reads wait for the answer to the question that is under way.
        let mut asked = 0;
        let mut question: BoxFuture<'_, Result<Option<Stamp>>> = later().boxed();
        loop {
            let room = self.waiting.len() < self.limits.commit_proposals_max;
            tokio::select! {
                biased;
                ended = &mut put => return ended,
                request = inbox.recv(), if room && !inbox.is_closed() => {
                    if let Some(request) = request {
                        self.take(request);
                    }
                }
                found = &mut question => {
                    self.answer_reads(asked, found);
                    asked = self.reads.len();
                    let (store, path) = (self.store.clone(), path.clone());
                    question = match asked {
                        0 => later().boxed(),
                        _ => async move {
                            let found = store.stamp(&path).await;
                            sleep(READ_PATIENCE / 10).await;
                            found
                        }.boxed(),
                    };
                }
            }
        }
    }

    /// Answers the reads that waited when the store was asked for a newer commit.
    fn answer_reads(&mut self, asked: usize, found: Result<Option<Stamp>>) {
        let answer = match found {
            Ok(None) => Ok(()),
            // It may be the very commit that is being put; that will be known soon.
            Ok(Some(_)) => return,
            Err(error) => Err(error),
        };
        for done in self.reads.drain(..asked.min(self.reads.len())) {
            drop(done.send(answer.as_ref().copied().map_err(copy_of)));
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
        for mut proposal in proposals {
            let began_at = self.clock.running();
            let draft = Draft::new(
                state.clone(),
                version,
                now,
                proposal.author.clone(),
                &self.limits,
            )
            .with_first_ordinal(rows);
            match self.decide_one(&proposal, draft) {
                Ok(Drafted {
                    state: after,
                    events,
                }) => {
                    state = after;
                    rows += events.num_rows();
                    if events.num_rows() > 0 {
                        batches.push(events);
                    }
                    if !self.wants_turn(&proposal) {
                        proposal.took = self.clock.running().saturating_sub(began_at);
                    }
                    kept.push(proposal);
                }
                Err(error) => proposal.answer(Err(error)),
            }
        }
        (kept, (!batches.is_empty()).then_some((state, batches)))
    }

    fn decide_one(&self, proposal: &Proposal, mut draft: Draft<'_>) -> Result<Drafted> {
        // A bug in one decision must not end the task that decides for all others. The draft is
        // thrown away, so a half-changed one is not seen.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            if proposal.purpose == Purpose::Repair {
                return (proposal.decide)(&mut draft);
            }
            check_time(draft.state().at, self.clock.now(), &self.limits)?;
            draft.expire_leases()?;
            if self.wants_turn(proposal) && draft.state().turn.is_none() {
                let length = proposal.took * TURN_TIMES + TURN_SPARE;
                return draft.take_turn(draft.at().after(length.min(self.limits.turn)));
            }
            (proposal.decide)(&mut draft)
        }));
        decided.unwrap_or_else(|_| Err(Error::bug("a decision panicked")))?;
        draft.finish()
    }

    /// Whether a proposal has lost so many races that it needs the next turn.
    fn wants_turn(&self, proposal: &Proposal) -> bool {
        let races = match proposal.took >= LARGE {
            true => self.limits.turn_races,
            false => self.limits.turn_races.saturating_mul(SMALL_RACES),
        };
        proposal.races >= races && self.state.turn.is_none()
    }
}

/// Takes back a file that is proved to be no commit, unless another one has its name by now.
async fn remove(store: Store, path: &str, stamp: &Stamp) -> Result<()> {
    if store.stamp(path).await?.as_ref() == Some(stamp) {
        store.delete(path).await?;
    }
    Ok(())
}

/// Time for a put to end, before its reads ask the store themselves.
async fn later() -> Result<Option<Stamp>> {
    sleep(READ_PATIENCE).await;
    Ok(None)
}

fn contended(races: u32) -> Error {
    Error::new(Code::Contended, "the store is too busy to commit")
        .with_detail(format!(
            "Other processes were first {races} times in a row."
        ))
        .with_hint("Run the statement again; nothing was changed.")
}
