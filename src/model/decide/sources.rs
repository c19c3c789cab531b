//! Changes of the sources themselves: INSERT, REPLACE, UPDATE, DELETE, merges, write-back.
//!
//! The rows are in a Parquet file already, durable but not yet named by any event.

use std::sync::Arc;

use crate::error::{Code, Error, Result};
use crate::id::{RunId, Slot, TableId, Version};
use crate::model::draft::Draft;
use crate::model::event::{Event, RowRef, SourceRef};
use crate::model::jobs::Liveness;
use crate::model::keys::Key;
use crate::model::rules;
use crate::model::sources::{INITIAL_STATUS, STATUSES_MAX, SourceTable};
use crate::model::transform::Permission;

/// A Parquet file that is to join a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// Its path in the store.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What happens to a key that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// INSERT: the statement fails.
    Insert,
    /// REPLACE INTO: the row is replaced.
    Replace,
    /// ON CONFLICT DO NOTHING: the row that is there stays.
    Keep,
    /// ON CONFLICT DO UPDATE: the row is made from the one that the statement read.
    Upsert,
}

/// A row of a run that goes into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutRow<'r> {
    /// Its key.
    pub key: Key<'r>,
    /// The status that was given for it.
    pub status: Option<&'r str>,
    /// The version of the row that it was made from; of [`WriteMode::Upsert`] only.
    pub seen: Option<Version>,
}

impl<'r> From<(Key<'r>, Option<&'r str>)> for PutRow<'r> {
    fn from((key, status): (Key<'r>, Option<&'r str>)) -> Self {
        Self {
            key,
            status,
            seen: None,
        }
    }
}

/// A row that UPDATE or DELETE has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRow {
    /// The source.
    pub slot: Slot,
    /// Its version when the statement read it.
    pub version: Version,
}

impl Draft<'_> {
    /// The source table of that name.
    pub(in crate::model) fn source_table(&self, name: &str) -> Result<&Arc<SourceTable>> {
        self.state.table(name).ok_or_else(|| {
            let names: Vec<&str> = self.state.table_ids.keys().map(AsRef::as_ref).collect();
            Error::new(
                Code::UnknownObject,
                format!("source table \"{name}\" does not exist"),
            )
            .with_hint(match names.is_empty() {
                true => "Make one with CREATE TABLE ... PRIMARY KEY.".to_owned(),
                false => format!("Source tables of this store: {}.", names.join(", ")),
            })
        })
    }

    fn add_run(&mut self, table: TableId, run: &NewRun) -> Result<RunId> {
        self.require_fresh(&run.path)?;
        let id = self
            .state
            .tables
            .get(&table)
            .map(|table| table.next_run)
            .unwrap_or_default();
        self.emit(&Event::RunAdded {
            table,
            run: id,
            path: &run.path,
            rows: run.rows,
            bytes: run.bytes,
        })?;
        Ok(id)
    }

    /// Requires that a file cannot have been cleaned up, as one that its writer slept over may be.
    fn require_fresh(&self, path: &str) -> Result<()> {
        match rules::file_is_fresh(path, self.at) {
            Permission::Allowed => Ok(()),
            Permission::Denied => Err(Error::new(
                Code::WriteConflict,
                format!("file \"{path}\" is too old to join a table"),
            )
            .with_detail("Its writer was stopped for so long that it may have been cleaned up.")
            .with_hint("Run the statement again; nothing was changed.")),
        }
    }

    /// Requires that a table is still the one that a statement read, and no other of its name.
    ///
    /// # Errors
    /// `SG3004 write-conflict`: it was dropped, and perhaps made again with other columns.
    pub fn require_table(&self, read: &SourceTable) -> Result<()> {
        match self.state.table(&read.name) {
            Some(now) if now.id == read.id => Ok(()),
            Some(_) | None => Err(table_changed(&read.name)),
        }
    }

    /// Lets a run of worker-written columns join a table; `complete_job` links its rows.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn add_result_run(&mut self, table: TableId, run: &NewRun) -> Result<RunId> {
        self.add_run(table, run)
    }

    /// Puts the rows of a run into a table.
    ///
    /// # Arguments
    /// `rows`: one per row of the run, in file order.
    ///
    /// # Returns
    /// How many rows came or changed.
    ///
    /// # Errors
    /// `SG3001 duplicate-key`, `SG3002 invalid-key`, `SG3003 row-locked`, `SG5006
    /// too-many-statuses`. `SG3004 write-conflict`: a row that an upsert was made from changed
    /// since, or one came.
    pub fn write_rows<'k, R: Into<PutRow<'k>>>(
        &mut self,
        table: &str,
        run: &NewRun,
        mode: WriteMode,
        rows: impl Iterator<Item = R>,
    ) -> Result<u64> {
        let table = self.source_table(table)?.id;
        let run = self.add_run(table, run)?;
        let mut put = 0;
        for (place, row) in rows.enumerate() {
            let at = RowRef {
                run,
                row: u32::try_from(place).unwrap_or(u32::MAX),
            };
            put += self.write_row(table, at, row.into(), mode)?;
        }
        Ok(put)
    }

    /// Puts one row, and tells how many that were: one or none.
    fn write_row(
        &mut self,
        table: TableId,
        row: RowRef,
        put: PutRow<'_>,
        mode: WriteMode,
    ) -> Result<u64> {
        let PutRow { key, status, seen } = put;
        let Some(found) = self.state.tables.get(&table) else {
            return Err(Error::bug("a table went away while it was written"));
        };
        let slot = found.keys.find(key);
        let source = slot.and_then(|slot| Some((slot, found.source(slot)?)));
        let Some((slot, source)) = source else {
            if seen.is_some() {
                return Err(table_changed(&found.name));
            }
            let slot = slot.unwrap_or(Slot(found.keys.len()));
            let status = status.unwrap_or(INITIAL_STATUS);
            self.insertable(found, key, status)?;
            let source = self.source_ref(found, slot, key);
            self.emit(&Event::SourceInserted {
                source,
                row,
                status,
            })?;
            return Ok(1);
        };
        match mode {
            WriteMode::Insert => return Err(duplicate_key(found, key)),
            WriteMode::Keep => return Ok(0),
            WriteMode::Upsert if seen != Some(source.version) => {
                return Err(table_changed(&found.name));
            }
            WriteMode::Upsert | WriteMode::Replace => {}
        }
        if let Some(holder) = self.holder(found, slot, source) {
            return Err(row_locked(found, key, &holder.reason));
        }
        let changes_status =
            status.is_some_and(|status| found.status_name(source.status) != status);
        if let Some(status) = status {
            fits(found, status)?;
        }
        let source = self.source_ref(found, slot, key);
        self.emit(&Event::SourceUpdated { source, row })?;
        match status {
            Some(status) if changes_status => self.emit(&Event::StatusSet { source, status })?,
            Some(_) | None => {}
        }
        Ok(1)
    }

    /// Whether a row of a new key may come.
    fn insertable(&self, table: &SourceTable, key: Key<'_>, status: &str) -> Result<()> {
        if let Err(problem) = rules::key_is_path(table, key) {
            let message = format!(
                "key \"{key}\" of table \"{}\" is no path: {problem}",
                table.name
            );
            return Err(Error::new(Code::InvalidKey, message)
                .with_detail("Locks and jobs name sources by their keys. Nothing was inserted.")
                .with_hint(
                    "Write a key whose parts between slashes are not empty, such as 00123-2024 or \
                     2024/00123; or leave the row out with WHERE.",
                ));
        }
        if let Some(holder) = self.holder_of_key(table, key) {
            let message = format!("key \"{key}\" of table \"{}\" is locked", table.name);
            return Err(Error::new(Code::RowLocked, message)
                .with_detail(format!(
                    "No row can come there: {}. Nothing was inserted.",
                    holder.reason
                ))
                .with_hint("Wait for it, or show the token of the lock where it is yours."));
        }
        fits(table, status)
    }

    /// Gives sources the rows of a run.
    ///
    /// # Arguments
    /// `rows`: per row of the run, in file order, the source as the statement read it.
    ///
    /// # Errors
    /// `SG3003 row-locked`. `SG3004 write-conflict`: a source changed since it was read; read
    /// again and retry.
    pub fn update_rows(&mut self, table: &str, run: &NewRun, rows: &[ChangedRow]) -> Result<()> {
        let table = Arc::clone(self.source_table(table)?);
        let run = self.add_run(table.id, run)?;
        for (row, changed) in rows.iter().enumerate() {
            let row = RowRef {
                run,
                row: u32::try_from(row).unwrap_or(u32::MAX),
            };
            let source = self.changeable(&table, *changed)?;
            self.emit(&Event::SourceUpdated { source, row })?;
        }
        Ok(())
    }

    /// Deletes sources.
    ///
    /// # Errors
    /// `SG3003 row-locked`, `SG3004 write-conflict`. `SG3005 row-in-use`: it has a live job.
    pub fn delete_rows(&mut self, table: &str, rows: &[ChangedRow]) -> Result<()> {
        let table = Arc::clone(self.source_table(table)?);
        for changed in rows {
            let source = self.changeable(&table, *changed)?;
            let live = table
                .source(changed.slot)
                .and_then(|source| source.live_job.some());
            if let Some(job) = live {
                return Err(Error::new(
                    Code::RowInUse,
                    format!(
                        "source \"{}\" of table \"{}\" has a live job",
                        source.key, table.name
                    ),
                )
                .with_detail(format!("Job {job} waits for it. Nothing was deleted."))
                .with_hint("Cancel the job first, or add AND live_job_id IS NULL to the WHERE."));
            }
            self.emit(&Event::SourceDeleted { source })?;
        }
        Ok(())
    }

    fn changeable<'t>(&self, table: &'t SourceTable, row: ChangedRow) -> Result<SourceRef<'t>> {
        let conflict = || table_changed(&table.name);
        let now = self.state.tables.get(&table.id).ok_or_else(conflict)?;
        let source = now.source(row.slot).ok_or_else(conflict)?;
        let key = table.keys.get(row.slot).ok_or_else(conflict)?;
        if let Some(holder) = self.holder(now, row.slot, source) {
            return Err(row_locked(table, key, &holder.reason));
        }
        if source.version != row.version {
            return Err(conflict());
        }
        Ok(self.source_ref(now, row.slot, key))
    }

    /// A source as its event names it, with the lock under which it changes.
    fn source_ref<'k>(&self, table: &SourceTable, slot: Slot, key: Key<'k>) -> SourceRef<'k> {
        SourceRef {
            table: table.id,
            slot,
            key,
            under: self.under(table, key),
        }
    }

    /// Replaces runs by one that holds their live rows, in the order of run and row.
    ///
    /// # Arguments
    /// `read_at`: the version at which the live rows were read.
    ///
    /// # Errors
    /// `SG3004 write-conflict`: a row of the old runs changed since; merge again later.
    pub fn merge_runs(
        &mut self,
        table: TableId,
        old: &[RunId],
        new: &NewRun,
        read_at: Version,
    ) -> Result<()> {
        let changed = match self.state.tables.get(&table) {
            Some(table) => old.iter().any(|id| {
                table
                    .runs
                    .get(id)
                    .is_none_or(|run| run.changed_at > read_at)
            }),
            None => true,
        };
        if changed {
            return Err(Error::new(
                Code::WriteConflict,
                "the runs changed while they were merged",
            ));
        }
        self.require_fresh(&new.path)?;
        let run = self
            .state
            .tables
            .get(&table)
            .map(|t| t.next_run)
            .unwrap_or_default();
        let ids: Vec<u32> = old.iter().map(|id| id.0).collect();
        let merged = serde_json::to_string(&ids)
            .map_err(|error| Error::bug("run ids cannot be written").with_source(error))?;
        self.emit(&Event::RunsMerged {
            table,
            run,
            path: &new.path,
            rows: new.rows,
            bytes: new.bytes,
            merged: &merged,
        })
    }

    /// The live jobs of a table, for DROP.
    pub(in crate::model) fn live_jobs_of(&self, table: TableId) -> Vec<crate::id::JobId> {
        let jobs = self.state.jobs.iter().enumerate();
        jobs.filter(|(_, job)| job.table == table && job.state.liveness() == Liveness::Live)
            .map(|(index, _)| crate::id::JobId(index as u64 + 1))
            .collect()
    }
}

fn duplicate_key(table: &SourceTable, key: Key<'_>) -> Error {
    Error::new(
        Code::DuplicateKey,
        format!("source table \"{}\" already has key \"{key}\"", table.name),
    )
    .with_detail("Nothing was inserted.")
    .with_hint(
        "Add ON CONFLICT DO NOTHING to keep the row that is there, or ON CONFLICT DO UPDATE SET a \
         = excluded.a to change what is named of it.",
    )
}

fn table_changed(name: &str) -> Error {
    Error::new(
        Code::WriteConflict,
        format!("table \"{name}\" changed while the statement ran"),
    )
    .with_detail("Nothing was changed.")
    .with_hint("Run the statement again.")
}

fn row_locked(table: &SourceTable, key: Key<'_>, reason: &str) -> Error {
    Error::new(
        Code::RowLocked,
        format!("source \"{key}\" of table \"{}\" is locked", table.name),
    )
    .with_detail(format!(
        "It cannot be changed: {reason}. Nothing was changed."
    ))
    .with_hint("Wait for it, or add AND NOT locked to the WHERE.")
}

/// Rule 10: whether a source may get this status.
///
/// # Errors
/// `SG5006 too-many-statuses`.
pub(in crate::model) fn fits(table: &SourceTable, status: &str) -> Result<()> {
    match rules::status_fits(table, status) {
        Permission::Allowed => Ok(()),
        Permission::Denied => Err(too_many_statuses(table, status)),
    }
}

fn too_many_statuses(table: &SourceTable, status: &str) -> Error {
    Error::new(
        Code::TooManyStatuses,
        format!(
            "table \"{}\" has no room for status \"{status}\"",
            table.name
        ),
    )
    .with_detail(format!(
        "It has had {STATUSES_MAX} statuses, which is the most. Nothing was changed."
    ))
    .with_hint("Use a status that it has, and keep what differs from row to row in a column.")
}

#[cfg(test)]
mod tests {
    use crate::model::apply::apply;
    use crate::model::event::Origin;
    use crate::model::keys::KeyType;
    use crate::model::lineage::{FORMAT, SILENT_FORMAT};
    use crate::model::rules::Rule;
    use crate::model::testing::{World, texts};

    use super::*;

    /// Sources with the keys `x//y`, `/z`, `w/` and '' were there, and could not be locked.
    #[test]
    fn keys_that_are_no_paths_are_refused() {
        let mut world = World::new(KeyType::Text, &[]);
        for key in ["", "/", "/z", "w/", "x//y", "a\nb", "a\u{7f}"] {
            let inserted = world.insert("ann", &[], &[Key::Text(key)]);
            let code = inserted.map_err(|error| error.code());
            assert_eq!(code, Err(Code::InvalidKey), "{key:?}");
        }
        let long = "x".repeat(1023);
        assert!(world.insert("ann", &[], &[Key::Text(&long)]).is_err());
        world
            .insert("ann", &[], &[Key::Text(&long[..1022])])
            .unwrap();
        world
            .insert("ann", &[], &texts(&["x/y", "@z", " ", "."]))
            .unwrap();
    }

    /// Older ledgers hold commits that broke rules which came later.
    #[test]
    fn a_commit_is_judged_by_the_rules_of_its_format() {
        let mut world = World::new(KeyType::Text, &texts(&["a"]));
        let token = world.lock("ann", "n").token;
        let at = world.now;
        let origin = |actor| Origin {
            actor,
            statement_id: "s",
            at,
        };
        let source = |slot, key, under| SourceRef {
            table: TableId(world.state.tables.keys().next().unwrap().0),
            slot: Slot(slot),
            key: Key::Text(key),
            under,
        };
        let set = |under| Event::StatusSet {
            source: source(0, "a", under),
            status: "X",
        };
        let insert = |key| Event::SourceInserted {
            source: source(1, key, token),
            row: RowRef {
                run: RunId(2),
                row: 0,
            },
            status: "RAW",
        };
        let check = |format, actor, event: &Event<'_>, broken: Option<Rule>| {
            let mut state = world.state.clone();
            state.lineage.format = format;
            let version = state.version.next();
            let table = *state.tables.keys().next().unwrap();
            let run = Event::RunAdded {
                table,
                run: RunId(2),
                path: "p",
                rows: 1,
                bytes: 1,
            };
            apply(&mut state, version, origin(actor), &run).unwrap();
            let applied = apply(&mut state, version, origin(actor), event);
            assert_eq!(
                applied.err().map(|found| found.rule),
                broken,
                "{format} {event:?}"
            );
        };
        check(SILENT_FORMAT, "ann", &set(None), None);
        check(SILENT_FORMAT, "bob", &set(None), Some(Rule::OneHolder));
        check(FORMAT, "ann", &set(None), Some(Rule::OwnLock));
        check(FORMAT, "bob", &set(token), Some(Rule::OwnLock));
        check(FORMAT, "ann", &set(token), None);
        check(SILENT_FORMAT, "bob", &insert("x//y"), None);
        check(FORMAT, "ann", &insert("x//y"), Some(Rule::Paths));
        check(FORMAT, "bob", &insert("x/y"), Some(Rule::OwnLock));
        check(FORMAT, "ann", &insert("x/y"), None);
        let free = Event::LockAcquired {
            resource: "@x",
            token: crate::id::Token(world.state.last_token.0 + 1),
            mode: crate::model::locks::LockMode::Exclusive,
            owner: "ann",
            reason: None,
            expires_at: at.after(std::time::Duration::from_secs(1)),
        };
        check(FORMAT, "ann", &free, None);
        check(FORMAT, "bob", &free, Some(Rule::OwnLock));
        check(SILENT_FORMAT, "bob", &free, None);
    }
}
