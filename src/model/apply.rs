//! Folds an event into a state, checking every rule on the way.
//!
//! The same function runs when a commit is decided and when it is replayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{BatchId, JobId, RunId, Slot, TableId, Token, TransformId, Version};
use crate::model::event::{AttemptRef, Event, ObjectKind, Origin, RowRef, SourceRef};
use crate::model::jobs::{Batch, Job, JobState, Liveness, Worker};
use crate::model::kept::{KeptStatement, digest_of};
use crate::model::lineage::SILENT_FORMAT;
use crate::model::locks::{Lock, LockMode, resource_problem};
use crate::model::queue::Found;
use crate::model::repair;
use crate::model::rules::{self, Rule, Violation, require};
use crate::model::scheduling::Scheduling;
use crate::model::sources::{Presence, Run, Source, SourceTable, TableDef};
use crate::model::state::{Dropped, Object, State, Transform, Turn};
use crate::model::tokens::{AccessToken, Role, Validity};
use crate::model::transform::{Permission, TransformDef, TransformVersion};
use crate::time::Timestamp;

/// Folds one event of the commit `version` into `state`.
///
/// # Errors
/// The rule that the event breaks. `state` may be half changed then and must be thrown away.
pub fn apply(
    state: &mut State,
    version: Version,
    origin: Origin<'_>,
    event: &Event<'_>,
) -> Result<(), Violation> {
    if *event == Event::TimeRepaired {
        return time_repaired(state, version, origin);
    }
    advance(state, version, origin)?;
    let mut step = Step {
        state,
        version,
        origin,
    };
    match *event {
        Event::StatementCommitted {
            sql,
            idempotency_key,
            summary,
        } => {
            step.statement_committed(sql, idempotency_key, summary);
            Ok(())
        }
        Event::TableCreated { name, def } => step.table_created(name, def),
        Event::TableDropped { table } => step.table_dropped(table),
        Event::ObjectCreated { kind, name, sql } => step.object_created(kind, name, sql),
        Event::ObjectDropped { kind, name } => step.object_dropped(kind, name),
        Event::TransformCreated { name, def } => step.transform_created(name, def),
        Event::TokenCreated { name, role, hash } => step.token_created(name, role, hash),
        Event::TokenRevoked { name } => step.token_revoked(name),
        Event::TurnTaken { holder, expires_at } => {
            step.turn_taken(holder, expires_at);
            Ok(())
        }
        // Folded in above, because it is the one event that turns time back.
        Event::TimeRepaired => Ok(()),
        Event::TransformDropped { transform } => step.transform_dropped(transform),
        Event::RunAdded {
            table,
            run,
            path,
            rows,
            bytes,
        } => step.run_added(table, run, path, rows, bytes),
        Event::RunsMerged {
            table,
            run,
            path,
            rows,
            bytes,
            merged,
        } => step.runs_merged(table, run, path, rows, bytes, merged),
        Event::SourceInserted {
            source,
            row,
            status,
        } => step.source_inserted(source, row, status),
        Event::SourceUpdated { source, row } => {
            step.source_unlocked(source)?;
            step.row_moved(source.table, source.slot, row)
        }
        Event::SourceDeleted { source } => step.source_deleted(source),
        Event::StatusSet { source, status } => {
            step.source_unlocked(source)?;
            step.status_set(source.table, source.slot, status)
        }
        Event::BatchCreated { batch, name } => step.batch_created(batch, name),
        Event::JobScheduled { job, source, with } => {
            let mut scheduling = Scheduling::begin(step.state, source.table, with)?;
            scheduling.add(step.state, job, source.slot)?;
            scheduling.end(step.state)
        }
        Event::JobStarted {
            attempt,
            worker,
            transform_version,
            expires_at,
        } => step.job_started(attempt, worker, transform_version, expires_at),
        Event::JobRenewed {
            attempt,
            expires_at,
        } => step.job_renewed(attempt, expires_at),
        Event::JobCompleted {
            attempt,
            status,
            row,
            output_uri,
        } => step.job_completed(attempt, status, row, output_uri),
        Event::JobFailed {
            attempt,
            run_at,
            code,
            message,
        } => step.job_failed(attempt, run_at, code, message),
        Event::JobCrashed { attempt, run_at } => step.job_crashed(attempt, run_at),
        Event::JobReleased { attempt, run_at } => step.job_released(attempt, run_at),
        Event::JobCancelRequested { job } => step.job_cancel_requested(job),
        Event::JobCancelled { job, reason } => step.job_cancelled(job, reason),
        Event::EffectRefused(_) => Ok(()),
        Event::LockAcquired {
            resource,
            token,
            mode,
            owner,
            reason,
            expires_at,
        } => step.lock_acquired(resource, token, mode, owner, reason, expires_at),
        Event::LockRenewed {
            resource,
            token,
            expires_at,
        } => step.lock_renewed(resource, token, expires_at),
        Event::LockReleased {
            resource,
            token,
            reason,
        } => step.lock_released(resource, token, reason),
        Event::LockExpired { resource, token } => {
            let lock = step.lock_removed(resource, token)?;
            require(
                Rule::LeaseEnds,
                rules::lease_is_over(origin.at, lock.expires_at),
                || format!("lock on \"{resource}\" is held until {}", lock.expires_at),
            )
        }
    }
}

/// Moves a state to the commit of an event.
pub(in crate::model) fn advance(
    state: &mut State,
    version: Version,
    origin: Origin<'_>,
) -> Result<(), Violation> {
    require(
        Rule::TimeForward,
        rules::time_runs_on(state.at, origin.at),
        || format!("{} comes after {}", origin.at, state.at),
    )?;
    state.at = origin.at;
    enter(state, version, origin);
    let done = |turn: &Turn| *turn.holder == *origin.statement_id;
    if state.turn.as_ref().is_some_and(done) {
        state.turn = None;
    }
    Ok(())
}

fn enter(state: &mut State, version: Version, origin: Origin<'_>) {
    if state.version != version {
        state.version = version;
        state.kept.expire(origin.at);
    }
}

fn time_repaired(state: &mut State, version: Version, origin: Origin<'_>) -> Result<(), Violation> {
    require(
        Rule::TimeForward,
        Permission::of(origin.at <= state.at),
        || format!("time is repaired from {} to {}", state.at, origin.at),
    )?;
    repair::repair(state, origin.at);
    enter(state, version, origin);
    Ok(())
}

/// One event being folded in.
struct Step<'s, 'o> {
    state: &'s mut State,
    version: Version,
    origin: Origin<'o>,
}

/// What an event names must be there.
pub(in crate::model) fn known<T>(
    found: Option<T>,
    what: impl FnOnce() -> String,
) -> Result<T, Violation> {
    found.ok_or_else(|| Violation {
        rule: Rule::Known,
        what: what(),
    })
}

fn definition<T: serde::de::DeserializeOwned>(kind: &str, json: &str) -> Result<T, Violation> {
    serde_json::from_str(json).map_err(|error| Violation {
        rule: Rule::Known,
        what: format!("the definition of a {kind} cannot be read: {error}"),
    })
}

impl Step<'_, '_> {
    fn table(&mut self, id: TableId) -> Result<&mut SourceTable, Violation> {
        known(self.state.table_mut(id), || format!("table {id}"))
    }

    fn job(&mut self, id: JobId) -> Result<&mut Job, Violation> {
        known(self.state.job_mut(id), || format!("job {id}"))
    }

    fn statement_committed(&mut self, sql: &str, key: Option<&str>, summary: &str) {
        let Some(key) = key else { return };
        let kept = KeptStatement {
            statement_id: self.origin.statement_id.into(),
            digest: digest_of(sql),
            summary: summary.into(),
            version: self.version,
            at: self.origin.at,
        };
        self.state.kept.insert(key.into(), kept);
    }

    fn table_created(&mut self, name: &str, def: &str) -> Result<(), Violation> {
        self.unused(name)?;
        let def: TableDef = definition("table", def)?;
        let id = self.state.next_table;
        self.state.next_table = TableId(id.0 + 1);
        let table = Arc::new(SourceTable::new(id, name, def));
        Arc::make_mut(&mut self.state.table_ids).insert(name.into(), id);
        Arc::make_mut(&mut self.state.tables).insert(id, table);
        Ok(())
    }

    fn unused(&self, name: &str) -> Result<(), Violation> {
        let in_use = self.state.name_in_use(name);
        require(Rule::UniqueName, Permission::of(in_use.is_none()), || {
            format!("{} \"{name}\" exists", in_use.unwrap_or_default())
        })
    }

    /// The keys stay, because finished jobs name their sources by slot.
    fn table_dropped(&mut self, id: TableId) -> Result<(), Violation> {
        let table = self.table(id)?;
        let (name, live_jobs) = (Arc::clone(&table.name), table.live_jobs);
        require(Rule::Known, Permission::of(live_jobs == 0), || {
            format!("table \"{name}\" is dropped with {live_jobs} live jobs")
        })?;
        table.sources = super::chunked::Chunked::default();
        table.runs = Arc::default();
        table.status_counts = Arc::default();
        Arc::make_mut(&mut self.state.table_ids).remove(&name);
        Ok(())
    }

    fn object_created(&mut self, kind: ObjectKind, name: &str, sql: &str) -> Result<(), Violation> {
        // CREATE OR REPLACE VIEW replaces a view, and nothing else.
        let replaces = self
            .state
            .objects
            .get(name)
            .is_some_and(|object| object.kind == kind);
        if !replaces {
            self.unused(name)?;
        }
        let object = Object {
            kind,
            sql: sql.into(),
            created_at: self.origin.at,
        };
        Arc::make_mut(&mut self.state.objects).insert(name.into(), object);
        Ok(())
    }

    fn object_dropped(&mut self, kind: ObjectKind, name: &str) -> Result<(), Violation> {
        let removed = Arc::make_mut(&mut self.state.objects).remove(name);
        let same = removed.is_some_and(|object| object.kind == kind);
        require(Rule::Known, Permission::of(same), || {
            format!("{} \"{name}\"", kind.name())
        })
    }

    fn token_created(&mut self, name: &str, role: Role, hash: &str) -> Result<(), Violation> {
        let taken = self.state.tokens.get(name);
        let free = taken.is_none_or(|token| token.validity != Validity::Valid);
        require(Rule::UniqueName, Permission::of(free), || {
            format!("token \"{name}\" exists")
        })?;
        let token = AccessToken {
            role,
            hash: hash.into(),
            created_at: self.origin.at,
            created_by: self.origin.actor.into(),
            validity: Validity::Valid,
        };
        Arc::make_mut(&mut self.state.tokens).insert(name.into(), token);
        Ok(())
    }

    fn turn_taken(&mut self, holder: &str, expires_at: Timestamp) {
        let turn = Turn {
            holder: holder.into(),
            expires_at,
        };
        self.state.turn = (expires_at > self.origin.at).then_some(turn);
    }

    fn token_revoked(&mut self, name: &str) -> Result<(), Violation> {
        let at = self.origin.at;
        let token = Arc::make_mut(&mut self.state.tokens).get_mut(name);
        let token = token.filter(|token| token.validity == Validity::Valid);
        let token = known(token, || format!("token \"{name}\""))?;
        token.validity = Validity::Revoked(at);
        Ok(())
    }

    fn transform_created(&mut self, name: &str, def: &str) -> Result<(), Violation> {
        let def: TransformDef = definition("transform", def)?;
        let table = self.state.table_ids.get(def.table.as_str()).copied();
        let table = known(table, || format!("table \"{}\"", def.table))?;
        let before = self.state.transform_ids.get(name).copied();
        let old = before.and_then(|id| self.state.transforms.get(&id));
        let same_table = old.is_none_or(|old| old.table == table || old.queue.is_empty());
        require(Rule::UniqueName, Permission::of(same_table), || {
            format!("transform \"{name}\" has jobs on another table")
        })?;
        let number = old.map_or(1, |old| old.version.number + 1);
        let id = before.unwrap_or(self.state.next_transform);
        let new = Transform {
            id,
            name: name.into(),
            table,
            version: TransformVersion {
                number,
                def: Arc::new(def),
            },
            created_at: self.origin.at,
            created_by: self.origin.actor.into(),
            dropped: Dropped::No,
            queue: old.map(|old| old.queue.clone()).unwrap_or_default(),
            running: old.map_or(0, |old| old.running),
            attempts: old.map(|old| old.attempts.clone()).unwrap_or_default(),
            older: old.map(|old| older_versions(old)).unwrap_or_default(),
        };
        if before.is_none() {
            self.state.next_transform = TransformId(id.0 + 1);
            Arc::make_mut(&mut self.state.transform_ids).insert(name.into(), id);
        }
        Arc::make_mut(&mut self.state.transforms).insert(id, Arc::new(new));
        Ok(())
    }

    fn transform_dropped(&mut self, id: TransformId) -> Result<(), Violation> {
        let transform = known(self.state.transform_mut(id), || format!("transform {id}"))?;
        let idle = transform.queue.is_empty() && transform.running == 0;
        transform.dropped = Dropped::Yes;
        require(Rule::Known, Permission::of(idle), || {
            "a transform is dropped with jobs".into()
        })
    }

    fn run_added(
        &mut self,
        table: TableId,
        run: RunId,
        path: &str,
        rows: u64,
        bytes: u64,
    ) -> Result<(), Violation> {
        let (version, at) = (self.version, self.origin.at);
        if self.state.lineage.format > SILENT_FORMAT {
            require(Rule::FreshFile, rules::file_is_fresh(path, at), || {
                format!("file \"{path}\" joins a table at {at}")
            })?;
        }
        let table = self.table(table)?;
        require(
            Rule::IdsInOrder,
            Permission::of(table.next_run == run),
            || format!("run {run} comes where run {} is next", table.next_run),
        )?;
        table.next_run = RunId(run.0 + 1);
        let run_state = Run {
            path: path.into(),
            rows,
            bytes,
            slots: Arc::new(Vec::new()),
            live_rows: 0,
            changed_at: version,
        };
        Arc::make_mut(&mut table.runs).insert(run, run_state);
        Ok(())
    }

    fn runs_merged(
        &mut self,
        table: TableId,
        run: RunId,
        path: &str,
        rows: u64,
        bytes: u64,
        merged: &str,
    ) -> Result<(), Violation> {
        let old_runs: Vec<u32> = definition("merge", merged)?;
        self.run_added(table, run, path, rows, bytes)?;
        let table = self.table(table)?;
        let mut slots = Vec::new();
        for old in old_runs.into_iter().map(RunId) {
            let old_run = Arc::make_mut(&mut table.runs).remove(&old);
            let old_run = known(old_run, || format!("run {old}"))?;
            for (row, &slot) in old_run.slots.iter().enumerate() {
                let new_row = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let Some(source) = table.source(Slot(slot)) else {
                    continue;
                };
                if source.run != old || source.row as usize != row {
                    continue;
                }
                if let Some(source) = table.source_mut(Slot(slot)) {
                    (source.run, source.row) = (run, new_row);
                }
                slots.push(slot);
            }
        }
        require(
            Rule::RowInRun,
            Permission::of(slots.len() as u64 == rows),
            || {
                format!(
                    "run {run} holds {rows} rows, of which {} are live",
                    slots.len()
                )
            },
        )?;
        if let Some(new) = Arc::make_mut(&mut table.runs).get_mut(&run) {
            (new.live_rows, new.slots) = (rows, Arc::new(slots));
        }
        Ok(())
    }

    fn source_inserted(
        &mut self,
        source: SourceRef<'_>,
        row: RowRef,
        status: &str,
    ) -> Result<(), Violation> {
        let (at, version) = (self.origin.at, self.version);
        if self.state.lineage.format > SILENT_FORMAT {
            let table = known(self.state.tables.get(&source.table), || {
                format!("table {}", source.table)
            })?;
            let path = rules::key_is_path(table, source.key);
            require(Rule::Paths, Permission::of(path.is_ok()), || {
                let problem = path.err().unwrap_or_default();
                format!("key \"{}\" is inserted: {problem}", source.key)
            })?;
            self.unlocked(source)?;
        }
        let table = self.table(source.table)?;
        let code = table.intern_status(status);
        let code = code.ok_or_else(|| Violation {
            rule: Rule::Bounded,
            what: format!("table \"{}\" has too many statuses", table.name),
        })?;
        let new = Source {
            run: row.run,
            row: row.row,
            status: code,
            presence: Presence::Present,
            status_at: at,
            live_job: JobId::NONE,
            running_job: JobId::NONE,
            last_job: JobId::NONE,
            version,
        };
        if source.slot.0 == table.keys.len() {
            let pushed = table.keys.push(source.key);
            require(
                Rule::IdsInOrder,
                Permission::of(pushed == Some(source.slot)),
                || format!("source \"{}\" gets no slot", source.key),
            )?;
            table.sources.push(new);
        } else {
            let same_key = table.keys.get(source.slot) == Some(source.key);
            let absent = same_key && table.source(source.slot).is_none();
            require(Rule::UniqueName, Permission::of(absent), || {
                format!(
                    "source \"{}\" is inserted in slot {}",
                    source.key, source.slot
                )
            })?;
            if let Some(old) = table.source_mut(source.slot) {
                *old = Source {
                    last_job: old.last_job,
                    ..new
                };
            }
        }
        table.count_status(None, Some(code));
        place_row(table, version, source.slot, row)
    }

    /// Rules 1 and 2 for a source that is there.
    fn source_unlocked(&mut self, source: SourceRef<'_>) -> Result<(), Violation> {
        let found = self.state.source(source.table, source.slot);
        let found = known(found, || format!("source \"{}\"", source.key))?;
        require(
            Rule::OneHolder,
            Permission::of(found.running_job == JobId::NONE),
            || {
                format!(
                    "source \"{}\" is changed while job {} runs",
                    source.key, found.running_job
                )
            },
        )?;
        self.unlocked(source)
    }

    /// Rules 1 and 2: what is locked can be changed by nobody but the holder, and no job may run
    /// on what is above it or below it. In formats that name no lock, that of the actor's name
    /// counted as the actor's own.
    fn unlocked(&self, source: SourceRef<'_>) -> Result<(), Violation> {
        let SourceRef { table, key, .. } = source;
        let table = known(self.state.tables.get(&table), || {
            format!("the table of source \"{key}\"")
        })?;
        let locks = rules::locks_on(&self.state.locks, table, key);
        let actor = self.origin.actor;
        if self.state.lineage.format <= SILENT_FORMAT {
            let of_actor = locks.iter().all(|(_, lock)| *lock.owner == *actor);
            return require(Rule::OneHolder, Permission::of(of_actor), || {
                format!("source \"{key}\" is changed under somebody's lock")
            });
        }
        let job = rules::running_job_on_key(table, key);
        require(Rule::OneHolder, Permission::of(job.is_none()), || {
            let job = job.unwrap_or_default();
            format!("source \"{key}\" is changed while job {job} runs")
        })?;
        let own = rules::changes_under(&locks, actor, source.under);
        require(Rule::OwnLock, own, || {
            format!("source \"{key}\" is changed under somebody's lock")
        })
    }

    fn row_moved(&mut self, table: TableId, slot: Slot, row: RowRef) -> Result<(), Violation> {
        let version = self.version;
        let table = self.table(table)?;
        row_died(table, version, slot);
        if let Some(source) = table.source_mut(slot) {
            (source.run, source.row, source.version) = (row.run, row.row, version);
        }
        place_row(table, version, slot, row)
    }

    fn source_deleted(&mut self, source: SourceRef<'_>) -> Result<(), Violation> {
        self.source_unlocked(source)?;
        let version = self.version;
        let table = self.table(source.table)?;
        row_died(table, version, source.slot);
        let gone = known(table.source_mut(source.slot), || {
            format!("slot {}", source.slot)
        })?;
        let (status, live_job) = (gone.status, gone.live_job);
        gone.presence = Presence::Deleted;
        gone.version = version;
        table.count_status(Some(status), None);
        require(Rule::Known, Permission::of(live_job == JobId::NONE), || {
            format!(
                "source \"{}\" is deleted while job {live_job} is live",
                source.key
            )
        })
    }

    fn status_set(&mut self, table: TableId, slot: Slot, status: &str) -> Result<(), Violation> {
        let (at, version) = (self.origin.at, self.version);
        let table = self.table(table)?;
        let code = table.intern_status(status).ok_or_else(|| Violation {
            rule: Rule::Bounded,
            what: format!("table \"{}\" has too many statuses", table.name),
        })?;
        let source = known(table.source_mut(slot), || format!("slot {slot}"))?;
        let before = source.status;
        (source.status, source.status_at, source.version) = (code, at, version);
        table.count_status(Some(before), Some(code));
        Ok(())
    }

    fn batch_created(&mut self, batch: BatchId, name: Option<&str>) -> Result<(), Violation> {
        let next = self.state.batches.len() as u64 + 1;
        require(Rule::IdsInOrder, Permission::of(batch.0 == next), || {
            format!("batch {batch} comes where batch {next} is next")
        })?;
        self.state.batches.push(Batch {
            name: name.map(Into::into),
            statement_id: self.origin.statement_id.into(),
            actor: self.origin.actor.into(),
            created_at: self.origin.at,
            ended_at: Timestamp(0),
            counts: [0; 6],
        });
        Ok(())
    }

    fn job_started(
        &mut self,
        attempt: AttemptRef,
        worker: &str,
        transform_version: u32,
        expires_at: Timestamp,
    ) -> Result<(), Violation> {
        let at = self.origin.at;
        let AttemptRef {
            job: id,
            attempt: number,
            token,
        } = attempt;
        require(
            Rule::LeaseEnds,
            rules::lease_lies_ahead(at, expires_at),
            || format!("the lease of job {id} ends at {expires_at}"),
        )?;
        self.next_token(token)?;
        let job = known(self.state.job(id), || format!("job {id}"))?;
        let (table, slot, transform_id) = (job.table, job.slot, job.transform);
        let in_order = Some(number) == job.attempt.checked_add(1) && job.run_at <= at;
        require(Rule::IdsInOrder, Permission::of(in_order), || {
            format!(
                "attempt {number} of job {id} comes after attempt {}",
                job.attempt
            )
        })?;
        let source_table = known(self.state.tables.get(&table), || format!("table {table}"))?;
        let source = known(source_table.source(slot), || {
            format!("the source of job {id}")
        })?;
        let free = rules::source_is_free(&self.state.locks, source_table, slot, source);
        require(Rule::RunsUnderLock, free, || {
            format!("job {id} starts on a locked source")
        })?;
        let transform = self.state.transforms.get(&transform_id);
        let transform = known(transform, || format!("transform {transform_id}"))?;
        let status = source_table.status_name(source.status);
        require(
            Rule::StatusEdge,
            rules::status_is_taken(transform, status),
            || format!("job {id} starts on a source in status \"{status}\""),
        )?;
        let worker = self.worker(worker)?;
        self.leave_queue(id, JobState::Running)?;
        let job = self.job(id)?;
        job.attempt = number;
        job.token = token;
        job.worker = worker;
        job.transform_version = transform_version;
        job.started_at = at;
        job.expires_at = expires_at;
        self.state.leases.insert((expires_at, id));
        if let Some(transform) = self.state.transform_mut(transform_id) {
            transform.attempt_began(transform_version);
        }
        self.seen(worker, |worker| worker.running += 1);
        self.hold(table, slot, id)
    }

    /// Gives the lock on a source to a job, or takes it back (`JobId::NONE`).
    fn hold(&mut self, table: TableId, slot: Slot, job: JobId) -> Result<(), Violation> {
        let found = Arc::make_mut(&mut self.state.tables).get_mut(&table);
        let found = known(found.map(Arc::make_mut), || format!("table {table}"))?;
        let key = found.keys.get(slot);
        match (job.some(), key) {
            (Some(job), Some(key)) => found.nested_running.insert(key, job),
            (None, Some(key)) => found.nested_running.remove(key),
            (_, None) => {}
        }
        found.running = match job.some() {
            Some(_) => found.running + 1,
            None => found.running.saturating_sub(1),
        };
        let Some(source) = found.source_mut(slot) else {
            return Ok(());
        };
        let held_by = std::mem::replace(&mut source.running_job, job);
        let source = *source;
        let alone = source.live_job == job.some().unwrap_or(held_by);
        let last = self.state.job(source.live_job);
        if !alone || last.is_some_and(|job| job.next_live != JobId::NONE) {
            self.state.park(&source, job);
        }
        Ok(())
    }

    fn next_token(&mut self, token: Token) -> Result<(), Violation> {
        let next = Token(self.state.last_token.0 + 1);
        require(Rule::IdsInOrder, Permission::of(token == next), || {
            format!("token {token} comes where token {next} is next")
        })?;
        self.state.last_token = token;
        Ok(())
    }

    fn worker(&mut self, name: &str) -> Result<u32, Violation> {
        if let Some(&index) = self.state.worker_ids.get(name) {
            return Ok(index);
        }
        let index = u32::try_from(self.state.workers.len());
        let index = known(index.ok(), || "room for another worker".into())?;
        Arc::make_mut(&mut self.state.worker_ids).insert(name.into(), index);
        self.state.workers.push(Worker {
            name: name.into(),
            first_seen_at: self.origin.at,
            last_seen_at: self.origin.at,
            running: 0,
            completed: 0,
            failed: 0,
            crashed: 0,
        });
        Ok(index)
    }

    fn seen(&mut self, worker: u32, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.state.workers.get_mut(worker as usize) {
            worker.last_seen_at = self.origin.at;
            change(worker);
        }
    }

    /// Moves a job along an edge of the graph and keeps its batch's counts.
    fn change_state(&mut self, id: JobId, to: JobState) -> Result<JobState, Violation> {
        let at = self.origin.at;
        let job = self.job(id)?;
        let (from, batch) = (job.state, job.batch);
        require(Rule::JobEdge, rules::job_edge(from, to), || {
            format!("job {id} goes from {} to {}", from.name(), to.name())
        })?;
        job.state = to;
        if to.liveness() == Liveness::Final {
            job.ended_at = at;
        }
        let batch = known(self.state.batch_mut(batch), || format!("batch {batch}"))?;
        batch.count_move(from, to);
        let live: u64 = JobState::ALL
            .iter()
            .filter(|state| state.liveness() == Liveness::Live)
            .map(|state| batch.count(*state))
            .sum();
        if live == 0 {
            batch.ended_at = at;
        }
        Ok(from)
    }

    fn leave_queue(&mut self, id: JobId, to: JobState) -> Result<(), Violation> {
        self.change_state(id, to)?;
        let job = known(self.state.job(id), || format!("job {id}"))?;
        let (transform, priority, run_at) = (job.transform, job.priority, job.run_at);
        if let Some(transform) = self.state.transform_mut(transform)
            && transform.queue.remove(priority, run_at, id) == Found::No
        {
            transform.queue.remove_parked();
        }
        Ok(())
    }

    /// Rule 4, for every report of a worker.
    fn report(&mut self, attempt: AttemptRef) -> Result<(), Violation> {
        let job = self.job(attempt.job)?;
        require(Rule::LiveToken, rules::report_is_live(job, attempt), || {
            format!(
                "job {} attempt {} token {} is not what runs",
                attempt.job, attempt.attempt, attempt.token
            )
        })
    }

    /// Takes a running job off its worker and releases the lock on its source.
    fn stop_running(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Worker),
    ) -> Result<(), Violation> {
        let job = known(self.state.job(id), || format!("job {id}"))?;
        let (lease, worker, began) = ((job.expires_at, id), job.worker, job.started_at);
        let (table, slot, transform) = (job.table, job.slot, job.transform);
        let version = job.transform_version;
        self.state.leases.remove(&lease);
        self.hold(table, slot, JobId::NONE)?;
        if let Some(transform) = self.state.transform_mut(transform) {
            transform.attempt_ended(version);
        }
        let took = self.origin.at.since(began).as_micros();
        let ran = Arc::make_mut(&mut self.state.ran)
            .entry(transform)
            .or_default();
        ran.attempts += 1;
        ran.micros += u64::try_from(took).unwrap_or(u64::MAX);
        self.seen(worker, |worker| {
            worker.running = worker.running.saturating_sub(1);
            change(worker);
        });
        Ok(())
    }

    /// Takes a final job out of the list of its source's live jobs.
    fn unlink(&mut self, id: JobId) -> Result<(), Violation> {
        let job = self.job(id)?;
        let (table, slot, next) = (job.table, job.slot, job.next_live);
        job.next_live = JobId::NONE;
        let source = known(self.state.source(table, slot), || {
            format!("the source of job {id}")
        })?;
        let mut before = None;
        let mut walker = source.live_job;
        while walker != id {
            before = Some(walker);
            walker = known(self.state.job(walker), || {
                format!("job {id} among the live")
            })?
            .next_live;
        }
        if let Some(before) = before {
            self.job(before)?.next_live = next;
        }
        let table = self.table(table)?;
        table.live_jobs = table.live_jobs.saturating_sub(1);
        if before.is_none()
            && let Some(source) = table.source_mut(slot)
        {
            source.live_job = next;
        }
        Ok(())
    }

    /// Puts a job that ran back into the queue.
    fn requeue(&mut self, id: JobId, to: JobState, run_at: Timestamp) -> Result<(), Violation> {
        self.stop_running(id, |_| {})?;
        self.change_state(id, to)?;
        let job = self.job(id)?;
        job.run_at = run_at;
        let (transform, priority) = (job.transform, job.priority);
        if let Some(transform) = self.state.transform_mut(transform) {
            transform.queue.insert(priority, run_at, id);
        }
        Ok(())
    }

    fn job_renewed(&mut self, attempt: AttemptRef, expires_at: Timestamp) -> Result<(), Violation> {
        self.report(attempt)?;
        require(
            Rule::LeaseEnds,
            rules::lease_lies_ahead(self.origin.at, expires_at),
            || format!("the lease of job {} ends at {expires_at}", attempt.job),
        )?;
        let job = self.job(attempt.job)?;
        let (before, worker) = (job.expires_at, job.worker);
        job.expires_at = expires_at;
        self.state.leases.remove(&(before, attempt.job));
        self.state.leases.insert((expires_at, attempt.job));
        self.seen(worker, |_| {});
        Ok(())
    }

    fn job_completed(
        &mut self,
        attempt: AttemptRef,
        status: Option<&str>,
        row: Option<RowRef>,
        output_uri: Option<&str>,
    ) -> Result<(), Violation> {
        self.report(attempt)?;
        let id = attempt.job;
        let job = known(self.state.job(id), || format!("job {id}"))?;
        let (table, slot, transform) = (job.table, job.slot, job.transform);
        let def = self.judging(transform, job.transform_version)?;
        require(
            Rule::StatusEdge,
            rules::status_may_be_set(&def, status),
            || format!("job {id} sets status \"{}\"", status.unwrap_or_default()),
        )?;
        self.stop_running(id, |worker| worker.completed += 1)?;
        self.change_state(id, JobState::Completed)?;
        if let Some(uri) = output_uri {
            self.job(id)?.extra_mut().output_uri = Some(uri.into());
        }
        if let Some(row) = row {
            self.row_moved(table, slot, row)?;
        }
        if let Some(status) = status {
            self.status_set(table, slot, status)?;
        }
        self.unlink(id)
    }

    /// Rule 4: what the version says that an attempt started. Old formats judged by the newest.
    fn judging(
        &self,
        transform: TransformId,
        version: u32,
    ) -> Result<Arc<TransformDef>, Violation> {
        let found = self.state.transforms.get(&transform);
        let found = known(found, || format!("transform {transform}"))?;
        Ok(match self.state.lineage.format > SILENT_FORMAT {
            true => Arc::clone(found.def_of(version)),
            false => Arc::clone(&found.version.def),
        })
    }

    fn job_failed(
        &mut self,
        attempt: AttemptRef,
        run_at: Option<Timestamp>,
        code: &str,
        message: &str,
    ) -> Result<(), Violation> {
        self.report(attempt)?;
        let id = attempt.job;
        if run_at.is_some() {
            let failed = known(self.state.job(id), || format!("job {id}"))?;
            let def = self.judging(failed.transform, failed.transform_version)?;
            require(Rule::Bounded, rules::attempts_left(failed, &def), || {
                format!(
                    "job {id} is tried again after {} failures",
                    failed.failures + 1
                )
            })?;
        }
        let job = self.job(id)?;
        job.failures += 1;
        let extra = job.extra_mut();
        (extra.error_code, extra.error) = (Some(code.into()), Some(message.into()));
        let worker = job.worker;
        self.seen(worker, |worker| worker.failed += 1);
        match run_at {
            Some(run_at) => self.requeue(id, JobState::Retryable, run_at),
            None => self.end(id, JobState::Discarded),
        }
    }

    /// Ends a running job without success.
    fn end(&mut self, id: JobId, to: JobState) -> Result<(), Violation> {
        self.stop_running(id, |_| {})?;
        self.change_state(id, to)?;
        self.unlink(id)
    }

    fn job_crashed(
        &mut self,
        attempt: AttemptRef,
        run_at: Option<Timestamp>,
    ) -> Result<(), Violation> {
        self.report(attempt)?;
        let (id, at) = (attempt.job, self.origin.at);
        let job = self.job(id)?;
        require(
            Rule::LeaseEnds,
            rules::lease_is_over(at, job.expires_at),
            || {
                format!(
                    "job {id} crashes before its lease ends at {}",
                    job.expires_at
                )
            },
        )?;
        job.crashes += 1;
        let worker = job.worker;
        self.seen(worker, |worker| worker.crashed += 1);
        match run_at {
            Some(run_at) => self.requeue(id, JobState::Waiting, run_at),
            None => self.end(id, JobState::Discarded),
        }
    }

    /// A hand-back uses up no attempt of the limit, but it is counted: a job that is only handed
    /// back would otherwise go round for ever.
    fn job_released(
        &mut self,
        attempt: AttemptRef,
        run_at: Option<Timestamp>,
    ) -> Result<(), Violation> {
        self.report(attempt)?;
        let id = attempt.job;
        let Some(run_at) = run_at else {
            let job = self.job(id)?;
            let times = job.hand_backs() + 1;
            let error = format!("it was handed back {times} times, and never finished");
            job.extra_mut().error = Some(error.into());
            return self.end(id, JobState::Discarded);
        };
        self.requeue(id, JobState::Waiting, run_at)
    }

    fn job_cancel_requested(&mut self, id: JobId) -> Result<(), Violation> {
        let (at, actor) = (self.origin.at, self.origin.actor);
        let job = self.job(id)?;
        require(
            Rule::JobEdge,
            Permission::of(job.state == JobState::Running),
            || format!("job {id} is asked to stop while {}", job.state.name()),
        )?;
        let extra = job.extra_mut();
        extra.cancel_requested_at = Some(at);
        extra.cancel_requested_by = Some(actor.into());
        Ok(())
    }

    fn job_cancelled(&mut self, id: JobId, reason: &str) -> Result<(), Violation> {
        let job = self.job(id)?;
        let running = job.state == JobState::Running;
        let asked = Permission::of(!running || job.cancel_requested_at().is_some());
        require(Rule::JobEdge, asked, || {
            format!("running job {id} is cancelled, and nobody asked for it")
        })?;
        if !reason.is_empty() {
            job.extra_mut().error = Some(reason.into());
        }
        if running {
            return self.end(id, JobState::Cancelled);
        }
        self.leave_queue(id, JobState::Cancelled)?;
        self.unlink(id)
    }

    fn lock_acquired(
        &mut self,
        resource: &str,
        token: Token,
        mode: LockMode,
        owner: &str,
        reason: Option<&str>,
        expires_at: Timestamp,
    ) -> Result<(), Violation> {
        let at = self.origin.at;
        if self.state.lineage.format > SILENT_FORMAT {
            let named = resource_problem(resource).is_none()
                && rules::resource_is_known(self.state, resource) == Permission::Allowed;
            require(Rule::Paths, Permission::of(named), || {
                format!("\"{resource}\" is locked, which names nothing")
            })?;
            let of_actor = Permission::of(owner == self.origin.actor);
            require(Rule::OwnLock, of_actor, || {
                format!("a lock on \"{resource}\" is taken for \"{owner}\"")
            })?;
        }
        require(
            Rule::OneHolder,
            rules::lock_is_free(self.state, resource, mode),
            || format!("\"{resource}\" is locked again by \"{owner}\""),
        )?;
        require(
            Rule::LeaseEnds,
            rules::lease_lies_ahead(at, expires_at),
            || format!("the lease on \"{resource}\" ends at {expires_at}"),
        )?;
        self.next_token(token)?;
        self.state.locks.insert(
            resource,
            Lock {
                token,
                mode,
                owner: owner.into(),
                reason: reason.map(Into::into),
                acquired_at: at,
                expires_at,
            },
        );
        Ok(())
    }

    fn lock_renewed(
        &mut self,
        resource: &str,
        token: Token,
        expires_at: Timestamp,
    ) -> Result<(), Violation> {
        require(
            Rule::LeaseEnds,
            rules::lease_lies_ahead(self.origin.at, expires_at),
            || format!("the lease on \"{resource}\" ends at {expires_at}"),
        )?;
        let lock = self.lock_removed(resource, token)?;
        let of_actor = Permission::of(*lock.owner == *self.origin.actor);
        if self.state.lineage.format > SILENT_FORMAT {
            require(Rule::OwnLock, of_actor, || {
                format!(
                    "the lock of \"{}\" on \"{resource}\" is renewed",
                    lock.owner
                )
            })?;
        }
        self.state
            .locks
            .insert(resource, Lock { expires_at, ..lock });
        Ok(())
    }

    fn lock_released(
        &mut self,
        resource: &str,
        token: Token,
        forced: Option<&str>,
    ) -> Result<(), Violation> {
        let lock = self.lock_removed(resource, token)?;
        if self.state.lineage.format <= SILENT_FORMAT {
            return Ok(());
        }
        let may = Permission::of(*lock.owner == *self.origin.actor || forced.is_some());
        require(Rule::OwnLock, may, || {
            format!(
                "the lock of \"{}\" on \"{resource}\" is released",
                lock.owner
            )
        })
    }

    fn lock_removed(&mut self, resource: &str, token: Token) -> Result<Lock, Violation> {
        self.state
            .locks
            .remove(resource, token)
            .ok_or_else(|| Violation {
                rule: Rule::LiveToken,
                what: format!("\"{resource}\" is not locked with token {token}"),
            })
    }
}

/// The versions by which attempts that run will be judged, beside the one that comes.
fn older_versions(transform: &Transform) -> BTreeMap<u32, Arc<TransformDef>> {
    let mut older = transform.older.clone();
    let TransformVersion { number, def } = &transform.version;
    if transform.attempts.contains_key(number) {
        older.insert(*number, Arc::clone(def));
    }
    older
}

/// Stands in a run for a row that was never linked. No source has this slot.
const NO_SLOT: u32 = u32::MAX;

/// Notes that a row is the newest of its source.
fn place_row(
    table: &mut SourceTable,
    version: Version,
    slot: Slot,
    row: RowRef,
) -> Result<(), Violation> {
    let run = Arc::make_mut(&mut table.runs).get_mut(&row.run);
    let run = run.ok_or_else(|| Violation {
        rule: Rule::RowInRun,
        what: format!("run {} of table \"{}\"", row.run, table.name),
    })?;
    // Rows join a run in file order and in the commit that adds the run. A row may be left out:
    // that of an attempt whose report was refused after its columns had been written.
    let in_order = run.slots.len() <= row.row as usize && u64::from(row.row) < run.rows;
    require(
        Rule::RowInRun,
        Permission::of(in_order && run.changed_at == version),
        || {
            format!(
                "row {} of run {} comes after {} rows",
                row.row,
                row.run,
                run.slots.len()
            )
        },
    )?;
    let slots = Arc::make_mut(&mut run.slots);
    slots.resize(row.row as usize, NO_SLOT);
    slots.push(slot.0);
    run.live_rows += 1;
    Ok(())
}

fn row_died(table: &mut SourceTable, version: Version, slot: Slot) {
    let Some(run) = table.sources.get(slot.0 as usize).map(|source| source.run) else {
        return;
    };
    if let Some(run) = Arc::make_mut(&mut table.runs).get_mut(&run) {
        run.live_rows = run.live_rows.saturating_sub(1);
        run.changed_at = version;
    }
}
