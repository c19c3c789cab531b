//! The pulse of a worker: one round of heartbeats for all groups that run, and one look per
//! `Limits::worker_watch` for jobs that somebody cancelled.
//!
//! A round renews what is due and what will be soon, so that groups which were claimed at
//! different moments beat together, in one commit. The look commits nothing; it is why a cancel
//! reaches a command within seconds, however long its lease is.
//!
//! Invariants: no lease is taken for alive longer than `lease` after the request that renewed it
//! was sent; a stop is told once per job, so telling one never waits for the group.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{Code, Error, Result};
use crate::id::JobId;
use crate::model::decide::Report;
use crate::worker::command::{Stop, StopReason};
use crate::worker::queue::{Beat, Group, Queue};

/// Requests to stop that a group as a whole may get: a lost lease and the end of the worker.
const GROUP_STOPS: usize = 2;

/// The shortest time between two rounds for one group, for a lease of nearly nothing.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Keeps the groups of one worker alive until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    shared: Arc<Shared>,
    beating: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    roster: Mutex<Roster>,
    changed: Notify,
}

impl Pulse {
    /// Begins to beat.
    pub fn start(queue: Arc<dyn Queue>) -> Self {
        let shared = Arc::new(Shared::default());
        let beating = tokio::spawn(beat(queue, Arc::clone(&shared)));
        Self { shared, beating }
    }

    /// Keeps a group until what it returns is dropped.
    ///
    /// # Returns
    /// Also where the requests to stop come from.
    pub fn keep(&self, group: &Group) -> (Keeping, mpsc::Receiver<Stop>) {
        // Each job is told once, and whoever tells does not wait.
        let (stops, requests) = mpsc::channel(group.jobs.len() + GROUP_STOPS);
        let number = self.shared.roster.lock().add(group, stops.clone());
        self.shared.changed.notify_one();
        let keeping = Keeping {
            shared: Arc::clone(&self.shared),
            number,
            stops,
        };
        (keeping, requests)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// A group that is kept alive.
#[derive(Debug)]
pub struct Keeping {
    shared: Arc<Shared>,
    number: u64,
    stops: mpsc::Sender<Stop>,
}

impl Keeping {
    /// By which the group is told to stop.
    pub fn stops(&self) -> &mpsc::Sender<Stop> {
        &self.stops
    }

    /// Jobs of the group that were reported and need no lease any more.
    pub fn reported(&self, jobs: &[JobId]) {
        let mut roster = self.shared.roster.lock();
        if let Some(kept) = roster.groups.get_mut(&self.number) {
            for job in jobs {
                kept.live.remove(job);
            }
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.shared.roster.lock().groups.remove(&self.number);
    }
}

/// One group.
#[derive(Debug)]
struct Kept {
    live: HashMap<JobId, Report>,
    lease: Duration,
    /// When the request was sent by which the lease was given or renewed.
    renewed_at: Instant,
    /// When it is to be renewed.
    due_at: Instant,
    stops: mpsc::Sender<Stop>,
    /// Jobs that were told to stop.
    told: HashSet<JobId>,
}

impl Kept {
    fn ends_at(&self) -> Instant {
        self.renewed_at + self.lease
    }

    /// A lease has room for three rounds.
    fn pause(&self) -> Duration {
        (self.lease / 3).max(PAUSE_MIN)
    }
}

/// The groups that run.
#[derive(Debug, Default)]
struct Roster {
    next: u64,
    groups: BTreeMap<u64, Kept>,
}

/// Attempts that are renewed together.
#[derive(Debug)]
struct Round {
    groups: Vec<u64>,
    reports: Vec<Report>,
    asked_at: Instant,
    /// How long an answer is of use to all of them.
    patience: Duration,
}

impl Roster {
    fn add(&mut self, group: &Group, stops: mpsc::Sender<Stop>) -> u64 {
        let number = self.next;
        self.next += 1;
        let reports = group.jobs.iter().map(|job| (job.report.job, job.report));
        let mut kept = Kept {
            live: reports.collect(),
            lease: group.def.lease(),
            renewed_at: group.claimed_at,
            due_at: group.claimed_at,
            stops,
            told: HashSet::new(),
        };
        kept.due_at += kept.pause();
        self.groups.insert(number, kept);
        number
    }

    fn live(&self) -> Vec<Report> {
        let reports = self.groups.values().flat_map(|kept| kept.live.values());
        reports.copied().collect()
    }

    /// Stops groups that were not renewed for a whole lease: others may have their sources.
    fn lapse(&mut self, now: Instant) {
        self.groups.retain(|_, kept| {
            let lapsed = !kept.live.is_empty() && kept.ends_at() <= now;
            if lapsed {
                // It has room; a closed channel means that the group has ended.
                let _ = kept.stops.try_send(Stop::Group(StopReason::LeaseLost));
            }
            !lapsed
        });
    }

    /// What is to be renewed now: where one group is due, all that have half of their pause behind
    /// them.
    fn round(&self, now: Instant) -> Option<Round> {
        let running = || self.groups.iter().filter(|(_, kept)| !kept.live.is_empty());
        if !running().any(|(_, kept)| kept.due_at <= now) {
            return None;
        }
        let mut round = Round {
            groups: Vec::new(),
            reports: Vec::new(),
            asked_at: now,
            patience: Duration::MAX,
        };
        for (number, kept) in running().filter(|(_, kept)| kept.due_at <= now + kept.pause() / 2) {
            round.groups.push(*number);
            round.reports.extend(kept.live.values());
            round.patience = round.patience.min(kept.ends_at().duration_since(now));
        }
        Some(round)
    }

    fn renewed(&mut self, round: &Round, beats: Vec<(JobId, Beat)>) {
        for number in &round.groups {
            if let Some(kept) = self.groups.get_mut(number) {
                kept.renewed_at = round.asked_at;
                kept.due_at = round.asked_at + kept.pause();
            }
        }
        for (job, beat) in beats {
            match beat {
                Beat::Alive => {}
                Beat::CancelRequested => self.stop(job, StopReason::Cancelled),
                Beat::Lost => self.stop(job, StopReason::LeaseLost),
            }
        }
    }

    /// Asks again after the pause of a group, or after `again` where that is shorter.
    fn failed(&mut self, round: &Round, now: Instant, again: Duration) {
        for number in &round.groups {
            if let Some(kept) = self.groups.get_mut(number) {
                kept.due_at = now + kept.pause().min(again);
            }
        }
    }

    /// Tells a job to stop, if it still runs: it may have been reported since it was asked for.
    fn stop(&mut self, job: JobId, reason: StopReason) {
        let mut groups = self.groups.values_mut();
        if let Some(kept) = groups.find(|kept| kept.live.contains_key(&job))
            && kept.told.insert(job)
        {
            // It has room, see `keep`.
            let _ = kept.stops.try_send(Stop::Job(job, reason));
        }
    }

    /// When to look at the groups again, where nothing else happens before.
    fn wakes_at(&self, asking: Asking, look_at: Instant) -> Option<Instant> {
        let running = || self.groups.values().filter(|kept| !kept.live.is_empty());
        let due = running().map(|kept| match asking.beats {
            InFlight::Yes => kept.ends_at(),
            InFlight::No => kept.due_at.min(kept.ends_at()),
        });
        let look = match asking.looks {
            InFlight::Yes => None,
            InFlight::No => running().next().map(|_| look_at),
        };
        due.chain(look).min()
    }
}

/// Whether an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Yes,
    No,
}

/// What is asked of the queue at the moment.
#[derive(Debug, Clone, Copy)]
struct Asking {
    beats: InFlight,
    looks: InFlight,
}

/// An answer of the queue that may be on its way.
struct Answer<T>(Option<BoxFuture<'static, T>>);

impl<T> Answer<T> {
    fn in_flight(&self) -> InFlight {
        match self.0 {
            Some(_) => InFlight::Yes,
            None => InFlight::No,
        }
    }

    /// The answer, once; for ever where nothing was asked.
    async fn wait(&mut self) -> T {
        let Some(answer) = &mut self.0 else {
            return pending().await;
        };
        let answer = answer.await;
        self.0 = None;
        answer
    }
}

/// What woke the loop.
enum Wake {
    Beaten(Round, Result<Vec<(JobId, Beat)>>),
    Looked(Result<Vec<JobId>>),
    /// Something is due, or a group came.
    Due,
}

async fn beat(queue: Arc<dyn Queue>, shared: Arc<Shared>) {
    let watch = queue.limits().worker_watch;
    let (mut beats, mut looks) = (Answer(None), Answer(None));
    let mut look_at = Instant::now() + watch;
    loop {
        let wakes_at = {
            let now = Instant::now();
            let mut roster = shared.roster.lock();
            roster.lapse(now);
            if beats.in_flight() == InFlight::No
                && let Some(round) = roster.round(now)
            {
                beats = Answer(Some(renew(Arc::clone(&queue), round).boxed()));
            }
            let live = roster.live();
            if looks.in_flight() == InFlight::No && look_at <= now && !live.is_empty() {
                looks = Answer(Some(look(Arc::clone(&queue), live).boxed()));
                look_at = now + watch;
            }
            let asking = Asking {
                beats: beats.in_flight(),
                looks: looks.in_flight(),
            };
            roster.wakes_at(asking, look_at)
        };
        let due = async {
            match wakes_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let woken = tokio::select! {
            (round, answer) = beats.wait() => Wake::Beaten(round, answer),
            found = looks.wait() => Wake::Looked(found),
            () = due => Wake::Due,
            () = shared.changed.notified() => Wake::Due,
        };
        match woken {
            Wake::Beaten(round, Ok(told)) => shared.roster.lock().renewed(&round, told),
            Wake::Beaten(round, Err(error)) => {
                tracing::warn!(%error, "heartbeats could not be sent");
                shared.roster.lock().failed(&round, Instant::now(), watch);
            }
            Wake::Looked(Ok(cancelled)) => {
                let mut roster = shared.roster.lock();
                for job in cancelled {
                    roster.stop(job, StopReason::Cancelled);
                }
            }
            // The next look is soon, and heartbeats tell of cancels too.
            Wake::Looked(Err(error)) => tracing::debug!(%error, "cancelled jobs are not known"),
            Wake::Due => {}
        }
    }
}

async fn renew(queue: Arc<dyn Queue>, round: Round) -> (Round, Result<Vec<(JobId, Beat)>>) {
    let answer = queue.heartbeat(round.reports.clone());
    let answer = match tokio::time::timeout(round.patience, answer).await {
        Ok(answer) => answer,
        Err(error) => Err(Error::new(
            Code::StoreUnavailable,
            "heartbeats were not answered within a lease",
        )
        .with_source(error)),
    };
    (round, answer)
}

async fn look(queue: Arc<dyn Queue>, live: Vec<Report>) -> Result<Vec<JobId>> {
    queue.cancelled(&live).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Token;

    const SECOND: Duration = Duration::from_secs(1);

    /// Groups that were added by hand: a job each, with the lease of the group.
    struct Bench {
        roster: Roster,
        began: Instant,
        stops: Vec<mpsc::Receiver<Stop>>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                roster: Roster::default(),
                began: Instant::now(),
                stops: Vec::new(),
            }
        }

        fn at(&self, seconds: u32) -> Instant {
            self.began + SECOND * seconds
        }

        /// A group of one job that was claimed at a second.
        fn group(&mut self, job: u64, lease: u32, claimed: u32) {
            let (stops, requests) = mpsc::channel(1 + GROUP_STOPS);
            self.stops.push(requests);
            let report = Report {
                job: JobId(job),
                token: Token(job),
            };
            let kept = Kept {
                live: [(report.job, report)].into(),
                lease: SECOND * lease,
                renewed_at: self.at(claimed),
                due_at: self.at(claimed) + SECOND * lease / 3,
                stops,
                told: HashSet::new(),
            };
            self.roster.groups.insert(job, kept);
        }

        #[track_caller]
        fn due(&self, second: u32, expected: &[u64]) {
            let round = self.roster.round(self.at(second));
            let reports = round.iter().flat_map(|round| &round.reports);
            let mut jobs: Vec<u64> = reports.map(|report| report.job.0).collect();
            jobs.sort_unstable();
            assert_eq!(jobs, expected);
        }

        fn told(&mut self, group: usize) -> Vec<Stop> {
            let mut told = Vec::new();
            while let Ok(stop) = self.stops[group].try_recv() {
                told.push(stop);
            }
            told
        }
    }

    #[test]
    fn a_round_takes_what_is_due_and_what_will_be_soon() {
        let mut bench = Bench::new();
        bench.group(1, 60, 0);
        bench.group(2, 60, 5);
        bench.group(3, 60, 15);
        bench.group(4, 86_400, 0);
        bench.due(19, &[]);
        bench.due(20, &[1, 2]);
        let round = bench.roster.round(bench.at(20)).unwrap();
        assert_eq!(round.patience, SECOND * 40);
        bench.roster.renewed(&round, Vec::new());
        bench.due(34, &[]);
        // From there on all beat together.
        bench.due(35, &[1, 2, 3]);
    }

    #[test]
    fn a_failed_round_is_asked_again_soon_and_a_lease_without_answer_is_lost() {
        let mut bench = Bench::new();
        bench.group(1, 60, 0);
        bench.group(2, 600, 0);
        let round = bench.roster.round(bench.at(20)).unwrap();
        bench.roster.failed(&round, bench.at(20), SECOND);
        bench.due(20, &[]);
        bench.due(21, &[1]);
        bench.roster.lapse(bench.at(59));
        assert_eq!(bench.told(0), []);
        bench.roster.lapse(bench.at(60));
        bench.roster.lapse(bench.at(61));
        assert_eq!(bench.told(0), [Stop::Group(StopReason::LeaseLost)]);
        assert_eq!(bench.told(1), []);
        bench.due(61, &[]);
    }

    #[test]
    fn a_job_is_told_to_stop_once_and_only_while_it_runs() {
        let mut bench = Bench::new();
        bench.group(1, 60, 0);
        bench.group(2, 60, 0);
        bench.roster.stop(JobId(1), StopReason::Cancelled);
        bench.roster.stop(JobId(1), StopReason::Cancelled);
        let round = bench.roster.round(bench.at(20)).unwrap();
        let beats = vec![(JobId(1), Beat::CancelRequested), (JobId(2), Beat::Lost)];
        bench.roster.groups.get_mut(&2).unwrap().live.clear();
        bench.roster.renewed(&round, beats);
        let cancelled = Stop::Job(JobId(1), StopReason::Cancelled);
        assert_eq!(bench.told(0), [cancelled]);
        assert_eq!(bench.told(1), []);
    }

    #[test]
    fn it_wakes_for_whatever_comes_first() {
        let mut bench = Bench::new();
        let asking = |beats, looks| Asking { beats, looks };
        let look_at = bench.at(30);
        let idle = asking(InFlight::No, InFlight::No);
        assert_eq!(bench.roster.wakes_at(idle, look_at), None);
        bench.group(1, 60, 0);
        for (beats, looks, second) in [
            (InFlight::No, InFlight::No, 20),
            (InFlight::Yes, InFlight::No, 30),
            (InFlight::Yes, InFlight::Yes, 60),
        ] {
            let wakes_at = bench.roster.wakes_at(asking(beats, looks), look_at);
            assert_eq!(wakes_at, Some(bench.at(second)));
        }
    }
}
