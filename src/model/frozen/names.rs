//! Everything of a state that is small, as JSON: counters, tables, transforms, views.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Damage;
use crate::id::{TableId, TransformId};
use crate::model::event::ObjectKind;
use crate::model::lineage::Lineage;
use crate::model::queue::Queue;
use crate::model::sources::{SourceTable, TableDef};
use crate::model::state::{Dropped, Object, State, Transform, Turn};
use crate::model::tokens::{AccessToken, Role, Validity};
use crate::model::transform::{TransformDef, TransformVersion};
use crate::time::Timestamp;

/// The small things of a state. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// The version of the state.
    pub version: u64,
    /// The time of its commit.
    pub at: i64,
    /// The id of the store; checkpoints of before there was one lack it, and the next.
    #[serde(default)]
    pub store: Option<String>,
    /// The digest of the newest commit, as 16 hexadecimal digits.
    #[serde(default)]
    pub head: Option<String>,
    /// The statement that commits next, and until when others wait for it.
    #[serde(default)]
    turn: Option<(String, i64)>,
    /// The last job.
    pub last_job: u64,
    /// The last token.
    pub last_token: u64,
    /// The id that the next table gets.
    pub next_table: u32,
    /// The id that the next transform gets.
    pub next_transform: u32,
    /// Source tables, dropped ones among them.
    pub tables: Vec<FrozenTable>,
    transforms: Vec<FrozenTransform>,
    objects: Vec<FrozenObject>,
    // Checkpoints of before there were tokens lack it.
    #[serde(default)]
    tokens: Vec<FrozenToken>,
}

/// A source table without its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrozenTable {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether it was dropped.
    pub dropped: bool,
    /// Its columns.
    pub def: TableDef,
    /// How many keys it ever had.
    pub keys: u64,
    /// How many slots it has.
    pub sources: u64,
    /// The id that the next run gets.
    pub next_run: u32,
    /// Its statuses by code.
    pub statuses: Vec<String>,
    /// Sources by status.
    pub status_counts: Vec<u64>,
    /// Jobs that run on its sources.
    pub running: u64,
    /// Jobs that are live on its sources.
    pub live_jobs: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FrozenTransform {
    id: u32,
    name: String,
    table: u32,
    number: u32,
    def: TransformDef,
    created_at: i64,
    created_by: String,
    dropped: bool,
    running: u64,
    /// What older versions say of which attempts run. Checkpoints of before 3 lack it. Pairs: a map
    /// with numbers as keys cannot be read back where serde flattens what it is part of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older: Vec<(u32, TransformDef)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FrozenObject {
    kind: String,
    name: String,
    sql: String,
    created_at: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FrozenToken {
    name: String,
    role: String,
    hash: String,
    created_at: i64,
    created_by: String,
    revoked_at: Option<i64>,
}

impl Catalog {
    pub(super) fn of(state: &State) -> Self {
        let tables = state.tables.values();
        let objects = state.objects.iter().map(|(name, object)| FrozenObject {
            kind: object.kind.name().to_owned(),
            name: name.to_string(),
            sql: object.sql.to_string(),
            created_at: object.created_at.0,
        });
        Self {
            version: state.version.0,
            at: state.at.0,
            store: state.lineage.store.as_deref().map(str::to_owned),
            head: state.lineage.head.map(|head| format!("{head:016x}")),
            turn: state
                .turn
                .as_ref()
                .map(|turn| (turn.holder.to_string(), turn.expires_at.0)),
            last_job: state.last_job.0,
            last_token: state.last_token.0,
            next_table: state.next_table.0,
            next_transform: state.next_transform.0,
            tables: tables.map(|table| FrozenTable::of(state, table)).collect(),
            transforms: state
                .transforms
                .values()
                .map(|one| FrozenTransform::of(one))
                .collect(),
            objects: objects.collect(),
            tokens: state.tokens.iter().map(FrozenToken::of).collect(),
        }
    }

    /// The statement that commits next.
    pub(super) fn turn(&self) -> Option<Turn> {
        let (holder, expires_at) = self.turn.as_ref()?;
        Some(Turn {
            holder: holder.as_str().into(),
            expires_at: Timestamp(*expires_at),
        })
    }

    /// What is known of the commits that led to the state.
    pub(super) fn lineage(&self) -> Result<Lineage, Damage> {
        let head = self.head.as_deref();
        let head = head.map(|digits| u64::from_str_radix(digits, 16));
        let damaged = |_| Damage::new("the digest of its commit is no number");
        Ok(Lineage {
            store: self.store.as_deref().map(Into::into),
            head: head.transpose().map_err(damaged)?,
            ..Lineage::default()
        })
    }

    /// Puts the transforms, without their queues, into a state.
    pub(super) fn transforms(&self, state: &mut State) {
        for frozen in &self.transforms {
            let transform = frozen.thaw();
            let (id, name) = (transform.id, Arc::clone(&transform.name));
            Arc::make_mut(&mut state.transform_ids).insert(name, id);
            Arc::make_mut(&mut state.transforms).insert(id, Arc::new(transform));
        }
    }

    /// Puts the access tokens into a state.
    pub(super) fn tokens(&self, state: &mut State) -> Result<(), Damage> {
        let tokens = Arc::make_mut(&mut state.tokens);
        for frozen in &self.tokens {
            tokens.insert(frozen.name.as_str().into(), frozen.thaw()?);
        }
        Ok(())
    }

    /// Puts views and external tables into a state.
    pub(super) fn objects(&self, state: &mut State) -> Result<(), Damage> {
        for frozen in &self.objects {
            let kind = ObjectKind::parse(&frozen.kind).ok_or_else(|| {
                Damage::new(format!("object \"{}\" is of an unknown kind", frozen.name))
            })?;
            let object = Object {
                kind,
                sql: frozen.sql.as_str().into(),
                created_at: Timestamp(frozen.created_at),
            };
            Arc::make_mut(&mut state.objects).insert(frozen.name.as_str().into(), object);
        }
        Ok(())
    }
}

impl FrozenToken {
    fn of((name, token): (&Arc<str>, &AccessToken)) -> Self {
        Self {
            name: name.to_string(),
            role: token.role.name().to_owned(),
            hash: token.hash.to_string(),
            created_at: token.created_at.0,
            created_by: token.created_by.to_string(),
            revoked_at: match token.validity {
                Validity::Valid => None,
                Validity::Revoked(at) => Some(at.0),
            },
        }
    }

    fn thaw(&self) -> Result<AccessToken, Damage> {
        let role = Role::parse(&self.role);
        let unknown = || Damage::new(format!("token \"{}\" has an unknown role", self.name));
        Ok(AccessToken {
            role: role.ok_or_else(unknown)?,
            hash: self.hash.as_str().into(),
            created_at: Timestamp(self.created_at),
            created_by: self.created_by.as_str().into(),
            validity: match self.revoked_at {
                None => Validity::Valid,
                Some(at) => Validity::Revoked(Timestamp(at)),
            },
        })
    }
}

impl FrozenTable {
    fn of(state: &State, table: &SourceTable) -> Self {
        Self {
            id: table.id.0,
            name: table.name.to_string(),
            dropped: state.table_ids.get(&table.name) != Some(&table.id),
            def: TableDef::clone(&table.def),
            keys: u64::from(table.keys.len()),
            sources: table.sources.len() as u64,
            next_run: table.next_run.0,
            statuses: table.statuses.iter().map(ToString::to_string).collect(),
            status_counts: table.status_counts.to_vec(),
            running: table.running,
            live_jobs: table.live_jobs,
        }
    }
}

impl FrozenTransform {
    fn of(transform: &Transform) -> Self {
        Self {
            id: transform.id.0,
            name: transform.name.to_string(),
            table: transform.table.0,
            number: transform.version.number,
            def: transform.def().clone(),
            created_at: transform.created_at.0,
            created_by: transform.created_by.to_string(),
            dropped: transform.dropped == Dropped::Yes,
            running: transform.running,
            older: transform
                .older
                .iter()
                .map(|(version, def)| (*version, TransformDef::clone(def)))
                .collect(),
        }
    }

    fn thaw(&self) -> Transform {
        Transform {
            id: TransformId(self.id),
            name: self.name.as_str().into(),
            table: TableId(self.table),
            version: TransformVersion {
                number: self.number,
                def: Arc::new(self.def.clone()),
            },
            created_at: Timestamp(self.created_at),
            created_by: self.created_by.as_str().into(),
            dropped: if self.dropped {
                Dropped::Yes
            } else {
                Dropped::No
            },
            queue: Queue::default(),
            running: self.running,
            attempts: BTreeMap::new(),
            older: self
                .older
                .iter()
                .map(|(version, def)| (*version, Arc::new(def.clone())))
                .collect(),
        }
    }
}
