//! What people and workers do in a process, and what they were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use tokio::time::{Instant, sleep};

use super::process::Process;
use crate::chance;
use crate::error::{Code, Error, Result};
use crate::id::{JobId, Token, Version};
use crate::ledger::run::{RunWriter, run_path};
use crate::ledger::testing::schema_of_table;
use crate::model::decide::{
    AcquireOptions, ChangedRow, Completion, Failure, Force, NewRun, Outcome, Report,
    ScheduleOptions, WriteMode,
};
use crate::model::draft::{Author, Draft};
use crate::model::keys::Key;
use crate::model::locks::LockMode;

/// The table of all simulations, and its transforms.
pub(super) const TABLE: &str = "notices";
pub(super) const TRANSFORMS: [&str; 2] = ["first", "second"];

/// Keys are few, so that actors meet.
const KEYS: u64 = 12;

/// What an actor knows to have happened.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// A statement, and the version of its commit.
    Committed { statement: String, version: Version },
    /// A statement failed for good: nothing of it may be in the ledger.
    Refused { statement: String },
    /// A lock is held from `from` on, at least until it is let go or its lease is over.
    Held {
        resource: String,
        token: Token,
        from: Duration,
        expires_at: Duration,
    },
    /// A lock is let go from this moment on.
    LetGo { token: Token, at: Duration },
    /// Sources that are in the table.
    Inserted { keys: Vec<String> },
    /// A reader did not get what it must get.
    Wrong { what: String },
}

/// What all actors of a simulation know.
#[derive(Debug)]
pub(super) struct Log {
    began: Instant,
    facts: Mutex<Vec<Fact>>,
    /// What each actor waits for.
    waits: Mutex<BTreeMap<String, &'static str>>,
}

impl Log {
    pub(super) fn new(began: Instant) -> Arc<Self> {
        Arc::new(Self {
            began,
            facts: Mutex::default(),
            waits: Mutex::default(),
        })
    }

    /// What the actors of a process wait for.
    pub(super) fn waits_of(&self, process: &str) -> String {
        let waits = self.waits.lock().unwrap();
        let of_process = waits.iter().filter(|(name, _)| name.starts_with(process));
        format!("{:?}", of_process.collect::<Vec<_>>())
    }

    fn waits(&self, name: &str, what: &'static str) {
        self.waits.lock().unwrap().insert(name.to_owned(), what);
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn note(&self, fact: Fact) {
        self.facts.lock().unwrap().push(fact);
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        self.facts.lock().unwrap().clone()
    }
}

/// An actor in a process.
#[derive(Clone)]
pub(super) struct Actor {
    pub process: Arc<Process>,
    pub log: Arc<Log>,
    pub name: String,
}

/// Whether an error leaves open what became of the statement.
fn open_ended(error: &Error) -> bool {
    matches!(error.code(), Code::StoreUnavailable | Code::Bug)
}

fn key() -> String {
    match chance::within(0..=KEYS) {
        // One lies below another.
        0 => "k1/below".to_owned(),
        number => format!("k{number}"),
    }
}

async fn pause(seconds: u64) {
    sleep(Duration::from_millis(chance::within(0..=seconds * 1000))).await;
}

impl Actor {
    /// Commits what `decide` emits, and notes what the actor is told.
    async fn commit<R: Send + 'static>(
        &self,
        what: &'static str,
        decide: impl Fn(&mut Draft<'_>) -> Result<R> + Send + 'static,
    ) -> Option<R> {
        let statement = chance::id(self.process.ledger.now()).to_string();
        let author = Author::new(self.name.as_str(), statement.as_str());
        let committed = self.process.ledger.commit(author, move |draft| {
            let decided = decide(draft)?;
            draft.note_statement(what, None, "{}")?;
            Ok(decided)
        });
        self.log.waits(&self.name, what);
        let committed = committed.await;
        self.log.waits(&self.name, "nothing");
        match committed {
            // Whoever was killed is not told.
            _ if self.process.killed() => None,
            Ok(committed) => {
                let version = committed.version;
                self.log.note(Fact::Committed { statement, version });
                Some(committed.reply)
            }
            Err(error) if open_ended(&error) => {
                assert_ne!(error.code(), Code::Bug, "{error:?}");
                None
            }
            Err(error) => {
                let expected = [
                    Code::WriteConflict,
                    Code::RowLocked,
                    Code::RowInUse,
                    Code::DuplicateKey,
                    Code::ClockOff,
                    Code::Contended,
                    Code::SnapshotGone,
                ];
                if !expected.contains(&error.code()) {
                    let what = format!("{what}: {error:?}");
                    self.log.note(Fact::Wrong { what });
                }
                self.log.note(Fact::Refused { statement });
                None
            }
        }
    }

    /// A random thing that operators do.
    pub(super) async fn operate(&self) {
        match chance::within(0..=9) {
            0..=2 => self.lock().await,
            3 | 4 => self.insert().await,
            5 => self.update().await,
            6 | 7 => self.schedule().await,
            8 => self.cancel().await,
            _ => self.set_status().await,
        }
        pause(4).await;
    }

    async fn lock(&self) {
        let resource = match chance::within(0..=5) {
            0 => TABLE.to_owned(),
            1 => "@free".to_owned(),
            _ => format!("{TABLE}/{}", key()),
        };
        let ttl = Duration::from_secs(chance::within(10..=90));
        let path = resource.clone();
        let asked_at = self.log.now();
        let granted = self.commit("acquire_lock", move |draft| {
            let options = AcquireOptions {
                ttl: Some(ttl),
                mode: LockMode::Exclusive,
                reason: None,
            };
            draft.acquire_lock(&path, options)
        });
        let Some(token) = granted.await.and_then(|decision| decision.token) else {
            return;
        };
        // Whoever holds a lock counts its lease from when it asked.
        self.log.note(Fact::Held {
            resource: resource.clone(),
            token,
            from: self.log.now(),
            expires_at: asked_at + ttl,
        });
        pause(20).await;
        if chance::within(0..=3) == 0 {
            return;
        }
        let at = self.log.now();
        self.log.note(Fact::LetGo { token, at });
        self.commit("release_lock", move |draft| {
            draft.release_lock(&resource, Some(token), Force::No)
        })
        .await;
    }

    async fn insert(&self) {
        let mut keys: Vec<String> = (0..=chance::within(0..=3)).map(|_| key()).collect();
        keys.sort();
        keys.dedup();
        let Ok(run) = self.write(&keys).await else {
            return;
        };
        let inserted = keys.clone();
        let done = self.commit("replace into", move |draft| {
            let rows = keys.iter().map(|key| (Key::Text(key), None));
            draft
                .write_rows(TABLE, &run, WriteMode::Replace, rows)
                .map(drop)
        });
        if done.await.is_some() {
            self.log.note(Fact::Inserted { keys: inserted });
        }
    }

    async fn write(&self, keys: &[String]) -> Result<NewRun> {
        let ledger = &self.process.ledger;
        let schema = schema_of_table();
        let path = run_path(TABLE, ledger.now());
        let mut writer = RunWriter::open(ledger.store(), &path, Arc::clone(&schema), "id").await?;
        let ids = StringArray::from_iter_values(keys);
        let numbers = Int64Array::from_iter_values(keys.iter().map(|key| key.len() as i64));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(numbers)]);
        writer.write(&batch.unwrap()).await?;
        let file = writer.finish().await?;
        Ok(NewRun {
            path: file.path,
            rows: file.rows,
            bytes: file.bytes,
        })
    }

    async fn update(&self) {
        let Ok(state) = self.process.ledger.snapshot().await else {
            return;
        };
        let Some(table) = state.table(TABLE) else {
            return;
        };
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..=chance::within(0..=2) {
            let key = key();
            let slot = table.keys.find(Key::Text(&key));
            let Some((slot, source)) = slot.and_then(|slot| Some((slot, table.source(slot)?)))
            else {
                continue;
            };
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            rows.push(ChangedRow {
                slot,
                version: source.version,
            });
        }
        if keys.is_empty() {
            return;
        }
        if let Ok(run) = self.write(&keys).await {
            self.commit("update", move |draft| draft.update_rows(TABLE, &run, &rows))
                .await;
        }
    }

    async fn schedule(&self) {
        let name = TRANSFORMS[chance::within(0..=1) as usize];
        let keys: Vec<String> = (0..=chance::within(0..=4)).map(|_| key()).collect();
        let priority = i16::try_from(chance::within(0..=3)).unwrap();
        self.commit("schedule_job", move |draft| {
            let target = draft.schedule_target(name)?;
            let options = ScheduleOptions {
                priority: Some(priority),
                ..ScheduleOptions::default()
            };
            for key in &keys {
                draft.schedule_job(&target, key, options)?;
            }
            Ok(())
        })
        .await;
    }

    async fn cancel(&self) {
        let last = self.process.ledger.seen().last_job.0;
        let job = JobId(chance::within(0..=last));
        self.commit("cancel_job", move |draft| draft.cancel_job(job))
            .await;
    }

    async fn set_status(&self) {
        let (key, status) = (key(), ["RAW", "DONE"][chance::within(0..=1) as usize]);
        self.commit("set_status", move |draft| {
            draft.set_status(TABLE, &key, status, None)
        })
        .await;
    }

    /// Claims jobs and reports on them: in time, late, or never.
    pub(super) async fn work(&self) {
        let (worker, max) = (self.name.clone(), chance::within(1..=3) as usize);
        let asked_at = self.log.now();
        let claimed = self.commit("claim_jobs", move |draft| {
            let ids: Vec<_> = draft.state().transforms.keys().copied().collect();
            let started = draft.claim_jobs(&worker, &ids, max)?;
            let state = draft.state();
            let named = started.iter().filter_map(|one| {
                let job = state.job(one.attempt.job)?;
                let key = state.key(job.table, job.slot)?;
                Some((
                    one.attempt,
                    key.to_string(),
                    one.expires_at.since(draft.at()),
                ))
            });
            Ok(named.collect::<Vec<_>>())
        });
        let Some(claimed) = claimed.await else {
            return pause(3).await;
        };
        for (attempt, key, lease) in &claimed {
            self.log.note(Fact::Held {
                resource: format!("{TABLE}/{key}"),
                token: attempt.token,
                from: self.log.now(),
                expires_at: asked_at + *lease,
            });
        }
        // Most work ends within its lease, some beats, some is far too late.
        pause(if chance::within(0..=4) == 0 { 60 } else { 8 }).await;
        for (attempt, _, _) in claimed {
            let report = Report {
                job: attempt.job,
                token: attempt.token,
            };
            let at = self.log.now();
            let how = chance::within(0..=9);
            if how != 1 {
                let token = attempt.token;
                self.log.note(Fact::LetGo { token, at });
            }
            match how {
                0 => {}
                1 => {
                    self.commit("heartbeat", move |draft| draft.heartbeat(report))
                        .await;
                }
                2 => {
                    let failure = Failure {
                        code: "x",
                        message: "it failed",
                    };
                    self.commit("fail_job", move |draft| draft.fail_job(report, failure))
                        .await;
                }
                3 => {
                    self.commit("hand_back_job", move |draft| draft.hand_back(report))
                        .await;
                }
                _ => {
                    self.commit("complete_job", move |draft| {
                        draft.complete_job(report, Completion::default())
                    })
                    .await;
                }
            }
        }
        pause(2).await;
    }

    /// Reads a state, and the files that it names a moment later.
    pub(super) async fn look(&self, grace: Duration) {
        let ledger = &self.process.ledger;
        let before = ledger.seen().version;
        let asked_at = self.log.now();
        self.log.waits(&self.name, "snapshot");
        let Ok(state) = ledger.snapshot().await else {
            return pause(5).await;
        };
        self.log.waits(&self.name, "nothing");
        if state.version < before {
            let what = format!("version {} after {before}", state.version);
            self.log.note(Fact::Wrong { what });
        }
        pause(10).await;
        for table in state.tables.values() {
            for run in table.runs.values() {
                let there = ledger.store().size(&run.path).await;
                // Whoever was away for longer than the grace is told so, and reads again.
                let in_time = self.log.now() - asked_at < grace / 2;
                if matches!(there, Ok(None)) && in_time && !self.process.killed() {
                    let what = format!("{} is gone under version {}", run.path, state.version);
                    self.log.note(Fact::Wrong { what });
                }
            }
        }
        if chance::within(0..=9) == 0 {
            self.log.waits(&self.name, "checkpoint");
            drop(ledger.maintenance().checkpoint().await);
        }
        pause(5).await;
    }

    /// Works until nothing waits or runs. For the end of a simulation, when nothing goes wrong.
    pub(super) async fn finish(&self) -> bool {
        for _ in 0..2000 {
            let worker = self.name.clone();
            let ended = self.commit("finish", move |draft| {
                let ids: Vec<_> = draft.state().transforms.keys().copied().collect();
                for one in draft.claim_jobs(&worker, &ids, 100)? {
                    let report = Report {
                        job: one.attempt.job,
                        token: one.attempt.token,
                    };
                    let done = draft.complete_job(report, Completion::default())?;
                    if done.outcome != Outcome::Completed {
                        return Err(Error::bug(format!("{done:?}")));
                    }
                }
                let transforms = draft.state().transforms.values();
                Ok(transforms.map(|t| t.queue.len() + t.running).sum::<u64>())
            });
            match ended.await {
                Some(0) => return true,
                Some(_) | None => sleep(Duration::from_secs(5)).await,
            }
        }
        false
    }
}
