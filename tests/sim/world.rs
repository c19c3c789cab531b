//! One history: processes that start, act, stop, die and start again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::actor::{Actor, Fact, Log, TABLE, TRANSFORMS};
use super::judge;
use super::process::{Process, WrongClock, limits};
use super::shelf::{Faults, Shelf};
use crate::chance;
use crate::error::Code;
use crate::ledger::store::Answers;
use crate::ledger::testing::{table_def, transform_def};
use crate::model::decide::IfExists;
use crate::model::draft::Author;
use crate::model::keys::KeyType;
use crate::time::Clock;

/// How wrong the world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// A bucket on a bad network.
    Bucket,
    /// A local disk: answers are true, processes are stopped and killed.
    Disk,
    /// Processes that sleep for hours and days between any two requests.
    Sleepers,
}

impl Setting {
    pub(super) const ALL: [Self; 3] = [Self::Bucket, Self::Disk, Self::Sleepers];

    fn answers(self) -> Answers {
        match self {
            Self::Bucket | Self::Sleepers => Answers::Doubtful,
            Self::Disk => Answers::Certain,
        }
    }

    fn faults(self) -> Faults {
        let quiet = Faults {
            delay_max: 40,
            ..Faults::default()
        };
        match self {
            Self::Bucket => Faults {
                before: 20,
                after: 20,
                late: 10,
                conflict: 20,
                refused: 20,
                pause: 5,
                pause_max: 120,
                delay_max: 300,
            },
            Self::Disk => Faults {
                pause: 10,
                pause_max: 300,
                delay_max: 3,
                ..quiet
            },
            Self::Sleepers => Faults {
                pause: 5,
                pause_max: 200_000,
                ..quiet
            },
        }
    }
}

/// Processes at a time.
const PROCESSES: usize = 3;

/// Times that each actor acts in one life of its process.
const ACTS: u64 = 8;

/// Lives of all processes.
const LIVES: usize = 7;

/// How long what is under way may take at the end, when nothing goes wrong any more.
const END_MAX: Duration = Duration::from_secs(3600);

/// Plays a history and judges it.
///
/// # Returns
/// What happened, in few words: the same for the same seed.
pub(super) fn play(seed: u64, setting: Setting) -> String {
    chance::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(history(setting))
}

async fn history(setting: Setting) -> String {
    let began = Instant::now();
    let right = WrongClock::new(began, 0);
    let shelf = Shelf::new(Clock::Simulated(right as _));
    let log = Log::new(began);
    set_up(&shelf, began).await;
    let mut lives = JoinSet::new();
    for number in 0..LIVES {
        if lives.len() >= PROCESSES {
            lives.join_next().await.unwrap().unwrap();
        }
        let life = live(number, Arc::clone(&shelf), setting, began, Arc::clone(&log));
        lives.spawn(life);
    }
    let ended = timeout(END_MAX * 1000, async {
        while let Some(life) = lives.join_next().await {
            life.unwrap();
        }
    });
    assert!(ended.await.is_ok(), "a process did not come to its end");
    end(&shelf, began, &log).await;
    judge::judge(&shelf, &log).await
}

/// The table and the transforms, by a process with which nothing is wrong.
async fn set_up(shelf: &Arc<Shelf>, began: Instant) {
    let clock = WrongClock::new(began, 0);
    let quiet = Faults::default();
    let process = Process::start("setup".into(), shelf, quiet, Answers::Certain, clock);
    let process = process.await.unwrap();
    let author = Author::new("setup", chance::id(process.ledger.now()).to_string());
    let committed = process.ledger.commit(author, |draft| {
        draft.create_table(TABLE, &table_def(KeyType::Text), IfExists::Fail)?;
        for name in TRANSFORMS {
            let def = transform_def(TABLE, &["RAW"], &["DONE", "RAW"]);
            draft.create_transform(name, &def, IfExists::Fail)?;
        }
        Ok(())
    });
    committed.await.unwrap();
}

/// One life of a process.
async fn live(number: usize, shelf: Arc<Shelf>, setting: Setting, began: Instant, log: Arc<Log>) {
    sleep(Duration::from_millis(chance::within(0..=3000))).await;
    // Most clocks are nearly right, one is not.
    let ahead = match chance::within(0..=5) {
        0 => chance::within(0..=7_200_000) as i64 - 3_600_000,
        _ => chance::within(0..=8000) as i64 - 4000,
    };
    let clock = WrongClock::new(began, ahead);
    let name = format!("p{number}");
    let started = Process::start(
        name.clone(),
        &shelf,
        setting.faults(),
        setting.answers(),
        Arc::clone(&clock),
    );
    let process = match started.await {
        Ok(process) => process,
        Err(error) => {
            let expected = [Code::ClockOff, Code::StoreUnavailable, Code::SnapshotGone];
            assert!(expected.contains(&error.code()), "{error:?}");
            return;
        }
    };
    let mut actors = JoinSet::new();
    let roles = ["operator", "operator", "worker", "reader"];
    for (number, role) in roles.into_iter().enumerate() {
        let actor = Actor {
            process: Arc::clone(&process),
            log: Arc::clone(&log),
            name: format!("{name}-{number}-{role}"),
        };
        actors.spawn(async move {
            for _ in 0..ACTS {
                match role {
                    "operator" => actor.operate().await,
                    "worker" => actor.work().await,
                    _ => actor.look(limits().ledger_grace).await,
                }
                if chance::within(0..=30) == 0 {
                    // Somebody sets the clock.
                    actor
                        .process
                        .clock
                        .set(chance::within(0..=40_000) as i64 - 20_000);
                }
            }
        });
    }
    let killed_after = match chance::within(0..=2) {
        0 => Some(Duration::from_millis(chance::within(0..=60_000))),
        _ => None,
    };
    let all = async { while actors.join_next().await.is_some_and(|one| one.is_ok()) {} };
    let mut all = std::pin::pin!(all);
    let life = killed_after.unwrap_or(END_MAX * 20);
    if timeout(life, &mut all).await.is_ok() {
        return;
    }
    if killed_after.is_some() {
        // What its requests have begun goes on; its actors end with this future.
        return process.kill();
    }
    // It was stopped again and again. When nothing goes wrong any more, all must come to an end.
    process.line.mend();
    if timeout(END_MAX, &mut all).await.is_err() {
        let what = format!("for ever waits one of {}", log.waits_of(&process.name));
        log.note(Fact::Wrong { what });
    }
}

/// Whatever went wrong: a process with which nothing is wrong does what is left.
async fn end(shelf: &Arc<Shelf>, began: Instant, log: &Arc<Log>) {
    // Requests that were cut off earlier are done by then, and every lease is over.
    sleep(Duration::from_secs(600)).await;
    let clock = WrongClock::new(began, 0);
    let quiet = Faults::default();
    let process = Process::start("end".into(), shelf, quiet, Answers::Certain, clock);
    let actor = Actor {
        process: process.await.unwrap(),
        log: Arc::clone(log),
        name: "end".to_owned(),
    };
    assert!(actor.finish().await, "jobs are left that do not end");
    let process = &actor.process;
    process.ledger.maintenance().idle().await;
    let state = process.ledger.snapshot().await.unwrap();
    assert_eq!(state.leases.len(), 0, "a lease is left");
}
