//! A simulated process: its clock, its way to the store, and the ledger that it has opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::shelf::{Faults, Line, Shelf};
use crate::config::Limits;
use crate::error::Error;
use crate::ledger::store::{Answers, Store};
use crate::ledger::{Duty, Ledger};
use crate::time::{Clock, SimulatedClock, Timestamp};

/// When all simulations begin.
pub(super) const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);

/// A clock that is as wrong as it is told to be.
#[derive(Debug)]
pub(super) struct WrongClock {
    began: Instant,
    ahead_ms: AtomicI64,
}

impl WrongClock {
    pub(super) fn new(began: Instant, ahead_ms: i64) -> Arc<Self> {
        let ahead_ms = AtomicI64::new(ahead_ms);
        Arc::new(Self { began, ahead_ms })
    }

    /// Sets it ahead of the right time, or behind it.
    pub(super) fn set(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }
}

impl SimulatedClock for WrongClock {
    fn now(&self) -> Timestamp {
        let right = BEGIN.after(self.began.elapsed());
        Timestamp(right.0 + self.ahead_ms.load(Ordering::SeqCst) * 1000)
    }

    fn running(&self) -> Duration {
        self.began.elapsed()
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        checkpoint_commits: 6,
        ledger_grace: Duration::from_secs(60),
        ledger_watch: Duration::from_secs(30),
        clock_check: Duration::from_secs(60),
        merge_runs: 3,
        lease: Duration::from_secs(20),
        turn_races: 1,
        crashes_max: 50,
        ..Limits::default()
    }
}

/// One life of a process.
pub(super) struct Process {
    pub name: String,
    pub line: Arc<Line>,
    pub clock: Arc<WrongClock>,
    pub ledger: Ledger,
    ended: AtomicBool,
}

impl Process {
    /// Starts a process.
    pub(super) async fn start(
        name: String,
        shelf: &Arc<Shelf>,
        faults: Faults,
        answers: Answers,
        clock: Arc<WrongClock>,
    ) -> Result<Arc<Self>, Error> {
        let line = Line::new(shelf, faults);
        let store = Store::simulated("sim", Arc::clone(&line) as _, answers)?;
        let time = Clock::Simulated(Arc::clone(&clock) as _);
        let ledger = Ledger::open_with(store, time, Arc::new(limits()), Duty::Takes).await?;
        Ok(Arc::new(Self {
            name,
            line,
            clock,
            ledger,
            ended: AtomicBool::new(false),
        }))
    }

    /// Ends it as `kill -9` does.
    pub(super) fn kill(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.line.cut();
    }

    /// Whether it was killed.
    pub(super) fn killed(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}
