//! CREATE and DROP.

use std::sync::Arc;

use crate::error::{Code, Error, Result};
use crate::model::draft::Draft;
use crate::model::event::{Event, ObjectKind};
use crate::model::sources::TableDef;
use crate::model::transform::TransformDef;

/// What to do where the name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Fail.
    Fail,
    /// OR REPLACE.
    Replace,
    /// IF NOT EXISTS: leave it as it is.
    Keep,
}

/// A view or external table that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewObject<'a> {
    /// Which of them.
    pub kind: ObjectKind,
    /// Its name.
    pub name: &'a str,
    /// The statement.
    pub sql: &'a str,
}

/// Whether DROP minds that there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// It fails.
    Fail,
    /// IF EXISTS: it does nothing.
    Ignore,
}

impl Draft<'_> {
    fn taken(name: &str, kind: &str) -> Error {
        Error::new(
            Code::AlreadyExists,
            format!("{kind} \"{name}\" already exists"),
        )
        .with_hint("Choose another name, or DROP it first.")
    }

    /// CREATE TABLE.
    ///
    /// # Errors
    /// `SG2003 already-exists`.
    pub fn create_table(&mut self, name: &str, def: &TableDef, if_exists: IfExists) -> Result<()> {
        if let Some(kind) = self.state.name_in_use(name) {
            return match if_exists {
                IfExists::Keep => Ok(()),
                IfExists::Fail | IfExists::Replace => Err(Self::taken(name, kind)),
            };
        }
        let def = serde_json::to_string(def)
            .map_err(|error| Error::bug("a table cannot be written").with_source(error))?;
        self.emit(&Event::TableCreated { name, def: &def })
    }

    /// CREATE VIEW and CREATE EXTERNAL TABLE.
    ///
    /// # Errors
    /// `SG2003 already-exists`.
    pub fn create_object(&mut self, object: NewObject<'_>, if_exists: IfExists) -> Result<()> {
        let NewObject { kind, name, sql } = object;
        if let Some(found) = self.state.name_in_use(name) {
            match if_exists {
                IfExists::Keep => return Ok(()),
                IfExists::Replace if found == kind.name() => {}
                IfExists::Fail | IfExists::Replace => return Err(Self::taken(name, found)),
            }
        }
        self.emit(&Event::ObjectCreated { kind, name, sql })
    }

    /// CREATE TRANSFORM.
    ///
    /// # Errors
    /// `SG2001 unknown-object`: no such source table. `SG2003 already-exists`. `SG2005
    /// object-in-use`: it is moved to another table while jobs wait.
    pub fn create_transform(
        &mut self,
        name: &str,
        def: &TransformDef,
        if_exists: IfExists,
    ) -> Result<()> {
        let table = self.source_table(&def.table)?.id;
        if let Some(old) = self.state.transform(name) {
            match if_exists {
                IfExists::Keep => return Ok(()),
                IfExists::Fail => {
                    return Err(Self::taken(name, "transform").with_hint(
                        "Use CREATE OR REPLACE TRANSFORM to make a new version of it.",
                    ));
                }
                IfExists::Replace if old.table == table => {}
                IfExists::Replace => {
                    return Err(Error::new(
                        Code::ObjectInUse,
                        format!("transform \"{name}\" is for another source table"),
                    )
                    .with_hint("DROP it first, or choose another name."));
                }
            }
        }
        let def = serde_json::to_string(def)
            .map_err(|error| Error::bug("a transform cannot be written").with_source(error))?;
        self.emit(&Event::TransformCreated { name, def: &def })
    }

    /// DROP TRANSFORM.
    ///
    /// # Errors
    /// `SG2002 unknown-transform`. `SG2005 object-in-use`: it has live jobs.
    pub fn drop_transform(&mut self, name: &str, if_missing: IfMissing) -> Result<()> {
        let Some(transform) = self.state.transform(name) else {
            return match if_missing {
                IfMissing::Ignore => Ok(()),
                IfMissing::Fail => Err(self
                    .schedule_target(name)
                    .err()
                    .unwrap_or_else(|| Error::bug("a transform is there and is not"))),
            };
        };
        let (id, live) = (transform.id, transform.queue.len() + transform.running);
        if live > 0 {
            return Err(Error::new(
                Code::ObjectInUse,
                format!("transform \"{name}\" has {live} live jobs"),
            )
            .with_hint(format!(
                "Cancel them first: SELECT cancel_job(job_id) FROM jobs WHERE transform = \
                 '{name}' AND ended_at IS NULL."
            )));
        }
        self.emit(&Event::TransformDropped { transform: id })
    }

    /// DROP TABLE of a source table.
    ///
    /// # Errors
    /// `SG2001 unknown-object`. `SG2005 object-in-use`: it has live jobs, locks or transforms.
    pub fn drop_table(&mut self, name: &str, if_missing: IfMissing) -> Result<()> {
        let Some(table) = self.state.table(name).map(Arc::clone) else {
            return match if_missing {
                IfMissing::Ignore => Ok(()),
                IfMissing::Fail => self.source_table(name).map(drop),
            };
        };
        let in_use = |what: String, hint: &str| {
            Error::new(Code::ObjectInUse, format!("source table \"{name}\" {what}")).with_hint(hint)
        };
        if table.live_jobs > 0 {
            let first = self
                .live_jobs_of(table.id)
                .first()
                .copied()
                .unwrap_or_default();
            let what = format!("has {} live jobs, job {first} among them", table.live_jobs);
            return Err(in_use(what, "Cancel them first with cancel_job."));
        }
        let mut users = self.state.transforms.values().filter(|transform| {
            transform.table == table.id && transform.dropped == crate::model::state::Dropped::No
        });
        if let Some(transform) = users.next() {
            let what = format!("is used by transform \"{}\"", transform.name);
            return Err(in_use(what, "DROP the transform first."));
        }
        let locked = self
            .state
            .locks
            .covering(name)
            .chain(self.state.locks.below(name))
            .next();
        if let Some((path, lock)) = locked {
            let what = format!("is locked: \"{path}\" by \"{}\"", lock.owner);
            return Err(in_use(
                what,
                "Release the lock first, or wait for it to expire.",
            ));
        }
        self.emit(&Event::TableDropped { table: table.id })
    }

    /// DROP VIEW and DROP of an external table.
    ///
    /// # Errors
    /// `SG2001 unknown-object`.
    pub fn drop_object(
        &mut self,
        kind: ObjectKind,
        name: &str,
        if_missing: IfMissing,
    ) -> Result<()> {
        let found = self
            .state
            .objects
            .get(name)
            .is_some_and(|object| object.kind == kind);
        match (found, if_missing) {
            (true, _) => self.emit(&Event::ObjectDropped { kind, name }),
            (false, IfMissing::Ignore) => Ok(()),
            (false, IfMissing::Fail) => Err(Error::new(
                Code::UnknownObject,
                format!("{} \"{name}\" does not exist", kind.name()),
            )
            .with_hint("List what there is with SHOW TABLES.")),
        }
    }
}
