//! A state for tests of the commands: each step is a commit, and each commit is replayed.

use std::time::Duration;

use crate::config::Limits;
use crate::error::Result;
use crate::id::{JobId, Slot, Token};
use crate::model::apply::apply;
use crate::model::columns::EventsReader;
use crate::model::compare::difference;
use crate::model::decide::{
    AcquireOptions, ChangedRow, Decision, IfExists, NewRun, Outcome, Report, ScheduleOptions,
    WriteMode,
};
use crate::model::draft::{Author, Draft};
use crate::model::keys::{Key, KeyType};
use crate::model::locks::LockMode;
use crate::model::sources::{ColumnDef, TableDef};
use crate::model::state::State;
use crate::model::transform::{TransformDef, TransformKind};
use crate::time::Timestamp;

/// The table of every test.
pub(in crate::model) const TABLE: &str = "n";

/// A state with the table `n`.
pub(in crate::model) struct World {
    pub state: State,
    pub limits: Limits,
    pub now: Timestamp,
}

impl World {
    /// The table has these sources.
    pub(in crate::model) fn new(key_type: KeyType, keys: &[Key<'_>]) -> Self {
        let mut world = Self {
            state: State::default(),
            limits: Limits::default(),
            now: Timestamp(1_000_000_000),
        };
        let def = TableDef {
            columns: vec![ColumnDef {
                name: "id".to_owned(),
                data_type: "Utf8".to_owned(),
                nullable: false,
            }],
            key: "id".to_owned(),
            key_type,
            sql: String::new(),
        };
        world.commit("ann", |draft| {
            draft.create_table(TABLE, &def, IfExists::Fail)
        });
        world.insert("ann", &[], keys).unwrap();
        world
    }

    /// A transform from any status to these.
    pub(in crate::model) fn transform(&mut self, name: &str, to: &[&str]) {
        let def = TransformDef {
            table: TABLE.to_owned(),
            from_status: Vec::new(),
            to_status: to.iter().map(ToString::to_string).collect(),
            kind: TransformKind::Outside,
            group_size: 2,
            timeout_ms: 600_000,
            max_attempts: 2,
            concurrency: 4,
            lease_ms: 60_000,
            backoff_ms: 1_000,
            backoff_max_ms: 64_000,
            priority: 0,
            memory_bytes: None,
            sql: String::new(),
        };
        self.commit("ann", |draft| {
            draft.create_transform(name, &def, IfExists::Replace)
        });
    }

    /// Decides as somebody who shows these locks, and replays what was decided.
    pub(in crate::model) fn step<T>(
        &mut self,
        actor: &str,
        tokens: &[u64],
        decide: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut author = Author::new(actor, "statement");
        author.lock_tokens = tokens.iter().copied().map(Token).collect();
        let version = self.state.version.next();
        let mut draft = Draft::new(self.state.clone(), version, self.now, author, &self.limits);
        let decided = decide(&mut draft)?;
        let drafted = draft.finish()?;
        let mut replayed = self.state.clone();
        let reader = EventsReader::try_new(&drafted.events).unwrap();
        for row in 0..reader.len() {
            let event = reader.event(row, &replayed).unwrap();
            let origin = reader.origin(row).unwrap();
            apply(&mut replayed, version, origin, &event).unwrap();
        }
        if !reader.is_empty() {
            assert_eq!(difference(&drafted.state, &replayed), None);
            self.state = drafted.state;
        }
        Ok(decided)
    }

    /// A step without locks that is granted.
    pub(in crate::model) fn commit<T>(
        &mut self,
        actor: &str,
        decide: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> T {
        self.step(actor, &[], decide).unwrap()
    }

    pub(in crate::model) fn insert(
        &mut self,
        actor: &str,
        tokens: &[u64],
        keys: &[Key<'_>],
    ) -> Result<()> {
        self.write(actor, tokens, keys, None, WriteMode::Insert)
    }

    pub(in crate::model) fn write(
        &mut self,
        actor: &str,
        tokens: &[u64],
        keys: &[Key<'_>],
        status: Option<&str>,
        mode: WriteMode,
    ) -> Result<()> {
        let run = run(keys.len());
        let rows = keys.iter().map(|key| (*key, status));
        self.step(actor, tokens, |draft| {
            draft.write_rows(TABLE, &run, mode, rows).map(drop)
        })
    }

    pub(in crate::model) fn update(
        &mut self,
        actor: &str,
        tokens: &[u64],
        key: &str,
    ) -> Result<()> {
        let rows = [self.row(key)];
        let run = run(1);
        self.step(actor, tokens, |draft| draft.update_rows(TABLE, &run, &rows))
    }

    pub(in crate::model) fn delete(
        &mut self,
        actor: &str,
        tokens: &[u64],
        key: &str,
    ) -> Result<()> {
        let rows = [self.row(key)];
        self.step(actor, tokens, |draft| draft.delete_rows(TABLE, &rows))
    }

    fn row(&self, key: &str) -> ChangedRow {
        let table = self.state.table(TABLE).unwrap();
        let slot: Slot = table
            .keys
            .find(table.def.key_type.parse(key).unwrap())
            .unwrap();
        let version = table.source(slot).unwrap().version;
        ChangedRow { slot, version }
    }

    pub(in crate::model) fn lock(&mut self, actor: &str, resource: &str) -> Decision {
        self.step(actor, &[], |draft| {
            draft.acquire_lock(resource, exclusive())
        })
        .unwrap()
    }

    pub(in crate::model) fn schedule(
        &mut self,
        transform: &str,
        key: &str,
        priority: i16,
    ) -> JobId {
        let options = ScheduleOptions {
            priority: Some(priority),
            ..ScheduleOptions::default()
        };
        let decision = self.commit("ann", |draft| {
            let target = draft.schedule_target(transform)?;
            draft.schedule_job(&target, key, options)
        });
        assert_eq!(decision.outcome, Outcome::Scheduled, "{}", decision.reason);
        decision.job.unwrap()
    }

    /// Claims of all transforms; the keys of the sources that started.
    pub(in crate::model) fn claim(&mut self, max: usize) -> Vec<(Report, String)> {
        let ids: Vec<_> = self.state.transforms.keys().copied().collect();
        let started = self.commit("w", |draft| draft.claim_jobs("w", &ids, max));
        let started = started.iter().map(|one| {
            let job = self.state.job(one.attempt.job).unwrap();
            let report = Report {
                job: one.attempt.job,
                token: one.attempt.token,
            };
            (
                report,
                self.state.key(job.table, job.slot).unwrap().to_string(),
            )
        });
        started.collect()
    }

    pub(in crate::model) fn claimed_keys(&mut self, max: usize) -> Vec<String> {
        self.claim(max).into_iter().map(|(_, key)| key).collect()
    }

    pub(in crate::model) fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }
}

/// A run that is only spoken of.
fn run(rows: usize) -> NewRun {
    NewRun {
        path: "tables/n/run.parquet".to_owned(),
        rows: rows as u64,
        bytes: 100,
    }
}

pub(in crate::model) fn exclusive() -> AcquireOptions<'static> {
    AcquireOptions {
        ttl: None,
        mode: LockMode::Exclusive,
        reason: None,
    }
}

pub(in crate::model) fn texts(keys: &'static [&'static str]) -> Vec<Key<'static>> {
    keys.iter().map(|key| Key::Text(key)).collect()
}
