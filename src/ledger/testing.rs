//! What tests of the ledger share: a store, a state, commits without a committer.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};

use crate::config::Limits;
use crate::error::Result;
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::merge;
use crate::ledger::run::{RunWriter, run_path};
use crate::ledger::store::{PutNew, Store, StoreOptions};
use crate::model::decide::{IfExists, NewRun, WriteMode};
use crate::model::draft::{Author, Draft};
use crate::model::keys::{Key, KeyType};
use crate::model::sources::{ColumnDef, TableDef};
use crate::model::state::State;
use crate::model::transform::{TransformDef, TransformKind};
use crate::time::Timestamp;

/// A store and everything that was ever committed to it.
pub(crate) struct World {
    pub store: Store,
    pub state: State,
    pub now: Timestamp,
    pub limits: Limits,
    statements: u64,
}

impl World {
    /// A new store in memory.
    pub async fn new() -> Self {
        Self::over(memory().await)
    }

    /// A store without any commit.
    pub fn over(store: Store) -> Self {
        Self {
            store,
            state: State::default(),
            now: Timestamp(1_700_000_000_000_000),
            limits: Limits::default(),
            statements: 0,
        }
    }

    /// Moves the clock on.
    pub fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Commits what `decide` emits, unless it fails or there is nothing.
    pub async fn commit(&mut self, decide: impl FnOnce(&mut Draft<'_>) -> Result<()>) {
        self.statements += 1;
        let author = author("ann", &format!("statement-{}", self.statements));
        let version = self.state.version.next();
        let mut draft = Draft::new(self.state.clone(), version, self.now, author, &self.limits);
        let decided = draft.expire_leases().and_then(|()| decide(&mut draft));
        if decided.is_err() || draft.is_empty() {
            return;
        }
        let drafted = draft.finish().unwrap();
        let header = self.state.lineage.next(|| "store".into());
        let encoded = codec::encode_commit(&[drafted.events], &header).unwrap();
        let path = codec::commit_path(version);
        let put = self.store.put_new(&path, encoded.bytes).await.unwrap();
        assert_eq!(put, PutNew::Created);
        self.state = drafted.state;
        self.state.lineage.committed(header, encoded.digest);
    }

    /// Commits so many small changes.
    pub async fn commits(&mut self, count: u64) {
        for number in 0..count {
            let sql = format!("SELECT {number}");
            self.commit(|draft| draft.note_statement(&sql, None, "{}"))
                .await;
        }
    }

    /// Makes a table, and sources in it whose rows are in a real run.
    pub async fn table_of(&mut self, name: &str, keys: &[&str]) {
        let def = table_def(KeyType::Text);
        self.commit(|draft| draft.create_table(name, &def, IfExists::Fail))
            .await;
        let run = real_run(&self.store, name, keys).await;
        let rows: Vec<_> = keys.iter().map(|key| (Key::Text(key), None)).collect();
        self.commit(|draft| {
            draft
                .write_rows(name, &run, WriteMode::Insert, rows.into_iter())
                .map(drop)
        })
        .await;
    }

    /// The version so far.
    pub fn version(&self) -> Version {
        self.state.version
    }
}

pub(crate) async fn memory() -> Store {
    Store::open("memory://", &StoreOptions::default())
        .await
        .unwrap()
}

pub(crate) fn author(actor: &str, statement: &str) -> Author {
    Author::new(actor, statement)
}

pub(crate) fn table_def(key_type: KeyType) -> TableDef {
    let column = |name: &str, data_type: &str| ColumnDef {
        name: name.to_owned(),
        data_type: data_type.to_owned(),
        nullable: name != "id",
    };
    let key = match key_type {
        KeyType::Text => "Utf8",
        KeyType::Int => "Int64",
    };
    TableDef {
        columns: vec![column("id", key), column("number", "Int64")],
        key: "id".to_owned(),
        key_type,
        sql: "CREATE TABLE ...".to_owned(),
    }
}

pub(crate) fn transform_def(table: &str, from: &[&str], to: &[&str]) -> TransformDef {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    TransformDef {
        table: table.to_owned(),
        from_status: owned(from),
        to_status: owned(to),
        kind: TransformKind::Outside,
        group_size: 10,
        timeout_ms: 600_000,
        max_attempts: 2,
        concurrency: 4,
        lease_ms: 60_000,
        backoff_ms: 1_000,
        backoff_max_ms: 10_000,
        priority: 0,
        memory_bytes: None,
        sql: "CREATE TRANSFORM ...".to_owned(),
    }
}

/// The columns of [`table_def`] as they are in a run.
pub(crate) fn schema_of_table() -> arrow::datatypes::SchemaRef {
    merge::schema(&table_def(KeyType::Text)).unwrap()
}

/// A run with a row of `(key, length of key)` for each key.
pub(crate) async fn real_run(store: &Store, table: &str, keys: &[&str]) -> NewRun {
    let schema = schema_of_table();
    let path = run_path(table, Timestamp(1_700_000_000_000_000));
    let mut writer = RunWriter::open(store, &path, Arc::clone(&schema), "id")
        .await
        .unwrap();
    let ids = StringArray::from_iter_values(keys);
    let numbers = keys.iter().map(|key| i64::try_from(key.len()).unwrap());
    let numbers = Int64Array::from_iter_values(numbers);
    let batch = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(numbers)]).unwrap();
    writer.write(&batch).await.unwrap();
    let run = writer.finish().await.unwrap();
    NewRun {
        path: run.path,
        rows: run.rows,
        bytes: run.bytes,
    }
}

/// Changes one byte in the middle of a file.
pub(crate) async fn flip(store: &Store, path: &str, place: impl Fn(usize) -> usize) {
    let mut bytes = store.get(path).await.unwrap().unwrap().to_vec();
    let place = place(bytes.len());
    bytes[place] ^= 0x01;
    store.delete(path).await.unwrap();
    store.put_new(path, bytes.into()).await.unwrap();
}
