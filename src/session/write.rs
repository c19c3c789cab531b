//! INSERT, REPLACE INTO, UPDATE and DELETE of source tables, and columns written back by workers.
//!
//! A writing statement is a query ([`changes`]) with an [`EffectNode`] at its root, so it is exact
//! in the same way as an effect: it reads all rows, writes one Parquet run, and commits once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt;

use crate::error::{Code, Error, Result};
use crate::id::{TableId, Version};
use crate::ledger::Ledger;
use crate::ledger::run::{RunFile, RunWriter, run_path};
use crate::model::decide::{ChangedRow, IfExists, NewRun, PutRow, WriteMode};
use crate::model::keys::{Key, KeyType};
use crate::model::sources::{SourceTable, TableDef};
use crate::model::state::State;
use crate::session::LockChanges;
use crate::session::effect_node::{EffectNode, RootAction};
use crate::session::sink::{Done, StatementText};
use crate::tables::source_table::user_schema;

mod changes;

pub use changes::Extra;

use changes::Kind;

/// Where the table that is written comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It is there.
    Store,
    /// The commit of the statement makes it.
    Statement,
}

/// The root of a writing statement.
#[derive(Debug)]
pub struct WriteAction {
    kind: Kind,
    origin: Origin,
    name: String,
    table: Arc<SourceTable>,
    schema: SchemaRef,
    target: WriteTarget,
}

/// Where a write goes, and how many rows it may touch.
#[derive(Debug, Clone)]
pub struct WriteTarget {
    /// The ledger that gets the commit.
    pub ledger: Ledger,
    /// The statement, as the commit notes it.
    pub text: StatementText,
    /// Where the commit is told.
    pub done: Arc<Mutex<Option<Done>>>,
    /// Rows that it may touch.
    pub rows_max: usize,
}

/// Plans a writing statement on a source table.
///
/// # Arguments
/// `session`: what the statement sees, with these tables beside.
///
/// # Errors
/// `SG1005 unsupported-statement` for forms that have no meaning here; `SG2001 unknown-object`;
/// those of planning.
pub async fn plan_write(
    session: &(dyn Fn(Extra) -> SessionState + Send + Sync),
    state: &State,
    tree: SyntaxTree,
    table: &str,
    target: WriteTarget,
) -> Result<LogicalPlan> {
    let Some(table) = state.table(table).map(Arc::clone) else {
        return Err(not_a_source_table(state, table));
    };
    let (kind, input) = changes::plan(session, tree, &table).await?;
    let name = match kind {
        Kind::Put(WriteMode::Insert | WriteMode::Keep | WriteMode::Upsert) => "insert into",
        Kind::Put(WriteMode::Replace) => "replace into",
        Kind::Update => "update",
        Kind::Delete => "delete from",
    };
    let action = WriteAction {
        kind,
        origin: Origin::Store,
        name: format!("{name} {}", table.name),
        schema: user_schema(&table.def)?,
        table,
        target,
    };
    EffectNode::plan(input, Arc::new(action))
}

/// Plans the rows of `CREATE TABLE ... AS`, whose commit makes the table as well.
///
/// # Errors
/// Those of planning.
pub async fn plan_create(
    session: &(dyn Fn(Extra) -> SessionState + Send + Sync),
    name: &str,
    def: TableDef,
    query: Query,
    target: WriteTarget,
) -> Result<LogicalPlan> {
    // Its id is given by the commit; nothing of this one is kept.
    let table = Arc::new(SourceTable::new(TableId(0), name, def));
    let input = changes::new_table(&session(Vec::new()), &table, query).await?;
    let action = WriteAction {
        kind: Kind::Put(WriteMode::Insert),
        origin: Origin::Statement,
        name: format!("create table {name}"),
        schema: user_schema(&table.def)?,
        table,
        target,
    };
    EffectNode::plan(input, Arc::new(action))
}

fn not_a_source_table(state: &State, name: &str) -> Error {
    let tables: Vec<&str> = state.table_ids.keys().map(AsRef::as_ref).collect();
    let hint = if tables.is_empty() {
        "Make a source table with CREATE TABLE ... PRIMARY KEY.".to_owned()
    } else {
        format!("Source tables of this store: {}.", tables.join(", "))
    };
    Error::new(
        Code::UnknownObject,
        format!("source table \"{name}\" does not exist"),
    )
    .with_detail("Only source tables can be written; system tables change by effects.")
    .with_hint(hint)
}

fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(
        "count",
        DataType::UInt64,
        false,
    )]))
}

/// The keys of a table in a column of a batch.
pub fn key_at(key_type: KeyType, column: &ArrayRef, row: usize) -> Option<Key<'_>> {
    if column.is_null(row) {
        return None;
    }
    match key_type {
        KeyType::Text => Some(Key::Text(column.as_string_opt::<i32>()?.value(row))),
        KeyType::Int => Some(Key::Int(column.as_primitive_opt::<Int64Type>()?.value(row))),
    }
}

/// What is kept in memory of the rows that go to Parquet.
#[derive(Debug, Default)]
struct Collected {
    keys: Vec<ArrayRef>,
    statuses: Vec<Option<StringArray>>,
    /// Per batch, the versions of the rows that were read; NULL for a new row.
    versions: Vec<Option<Int64Array>>,
    rows: usize,
}

impl WriteAction {
    /// Reads all rows, and writes those of INSERT and UPDATE into a run.
    async fn collect(
        &self,
        input: &mut SendableRecordBatchStream,
    ) -> Result<(Collected, Option<RunFile>)> {
        let key = match self.kind {
            Kind::Put(_) | Kind::Update => self.schema.index_of(&self.table.def.key)?,
            Kind::Delete => 0,
        };
        let users = match self.kind {
            Kind::Put(_) | Kind::Update => self.schema.fields().len(),
            Kind::Delete => 1,
        };
        let mut writer: Option<RunWriter> = None;
        let mut collected = Collected::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            collected.rows += batch.num_rows();
            let limit = self.target.rows_max;
            if collected.rows > limit {
                return Err(Error::new(
                    Code::TooManyRows,
                    format!("the statement touches more than {limit} rows"),
                )
                .with_detail("Nothing was changed.")
                .with_hint(
                    "Narrow it with WHERE, do it in parts, or raise max_rows of the request or \
                     effect_rows_max.",
                ));
            }
            let keys = Arc::clone(batch.column(key));
            if keys.null_count() > 0 {
                return Err(Error::new(
                    Code::InvalidKey,
                    format!("key column \"{}\" is NULL", self.table.def.key),
                )
                .with_hint("Give every row a key, or leave the row out with WHERE."));
            }
            collected.keys.push(keys);
            let mut system = batch.columns().iter().skip(users);
            if let Kind::Put(_) = self.kind
                && let Some(statuses) = system.next()
            {
                let statuses = arrow::compute::cast(statuses, &DataType::Utf8)?;
                let some = statuses.null_count() < statuses.len();
                collected.statuses.push(
                    some.then(|| statuses.as_string_opt::<i32>().cloned())
                        .flatten(),
                );
            }
            let versions = system.next();
            let versions = versions.and_then(|all| all.as_primitive_opt::<Int64Type>());
            collected.versions.push(versions.cloned());
            if self.kind == Kind::Delete {
                continue;
            }
            let users: Vec<usize> = (0..users).collect();
            let rows = batch.project(&users)?;
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())
                .map_err(not_null)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    let path = run_path(&self.table.name, self.target.ledger.now());
                    let store = self.target.ledger.store();
                    let schema = Arc::clone(&self.schema);
                    writer.insert(RunWriter::open(store, &path, schema, &self.table.def.key).await?)
                }
            };
            writer.write(&rows).await?;
        }
        let run = match writer {
            Some(writer) => Some(writer.finish().await?),
            None => None,
        };
        Ok((collected, run))
    }

    async fn commit(&self, rows: Collected, run: Option<RunFile>) -> Result<u64> {
        let run = run.map(new_run);
        let (kind, origin, table) = (self.kind, self.origin, Arc::clone(&self.table));
        let text = self.target.text.clone();
        check_once(kind, &table, &rows)?;
        // A commit may be decided several times; the last time counts.
        let affected = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&affected);
        let committed = self
            .target
            .ledger
            .commit(self.target.text.author.clone(), move |draft| {
                match origin {
                    Origin::Statement => {
                        draft.create_table(&table.name, &table.def, IfExists::Fail)?;
                    }
                    Origin::Store => draft.require_table(&table)?,
                }
                let affected = match (kind, &run) {
                    (Kind::Put(mode), Some(run)) => {
                        draft.write_rows(&table.name, run, mode, put_rows(&table, &rows))?
                    }
                    (Kind::Update, Some(run)) => {
                        draft.update_rows(&table.name, run, &changed(&table, &rows)?)?;
                        rows.rows as u64
                    }
                    (Kind::Delete, _) => {
                        draft.delete_rows(&table.name, &changed(&table, &rows)?)?;
                        rows.rows as u64
                    }
                    (Kind::Put(_) | Kind::Update, None) => 0,
                };
                counted.store(affected, Ordering::Relaxed);
                let summary = format!("{{\"rows\":{affected}}}");
                draft.note_statement(&text.sql, text.idempotency_key.as_deref(), &summary)
            })
            .await?;
        let affected = affected.load(Ordering::Relaxed);
        self.finish(committed.version, affected);
        Ok(affected)
    }

    fn finish(&self, version: Version, rows: u64) {
        if let Ok(mut done) = self.target.done.lock() {
            *done = Some(Done {
                version,
                summary: Vec::new(),
                rows_affected: Some(rows),
                locks: LockChanges::default(),
            });
        }
    }
}

/// A run file as the model names it.
pub fn new_run(run: RunFile) -> NewRun {
    NewRun {
        path: run.path,
        rows: run.rows,
        bytes: run.bytes,
    }
}

fn not_null(error: arrow::error::ArrowError) -> Error {
    Error::new(Code::QueryFailed, "a NOT NULL column is NULL")
        .with_detail(format!("{error}."))
        .with_hint("Give the column a value, or leave the row out with WHERE.")
}

/// All keys in file order, with the batch and the row in it.
fn each_key<'r>(
    table: &SourceTable,
    rows: &'r Collected,
) -> impl Iterator<Item = (Key<'r>, usize, usize)> {
    let key_type = table.def.key_type;
    rows.keys.iter().enumerate().flat_map(move |(batch, keys)| {
        (0..keys.len())
            .filter_map(move |row| key_at(key_type, keys, row).map(|key| (key, batch, row)))
    })
}

/// The version of a row when the statement read it; `None` for a new row.
fn seen(rows: &Collected, batch: usize, row: usize) -> Option<Version> {
    let versions = rows.versions.get(batch)?.as_ref()?;
    let version = versions.is_valid(row).then(|| versions.value(row))?;
    u64::try_from(version).ok().map(Version)
}

/// The rows of a run as the model takes them.
fn put_rows<'r>(table: &SourceTable, rows: &'r Collected) -> impl Iterator<Item = PutRow<'r>> {
    each_key(table, rows).map(|(key, batch, row)| {
        let statuses = rows.statuses.get(batch).and_then(Option::as_ref);
        let status = statuses.filter(|all| all.is_valid(row));
        PutRow {
            key,
            status: status.map(|all| all.value(row)),
            seen: seen(rows, batch, row),
        }
    })
}

fn changed(table: &SourceTable, rows: &Collected) -> Result<Vec<ChangedRow>> {
    each_key(table, rows)
        .map(
            |(key, batch, row)| match (table.keys.find(key), seen(rows, batch, row)) {
                (Some(slot), Some(version)) => Ok(ChangedRow { slot, version }),
                (None, _) | (_, None) => Err(Error::bug("a row was read that has no source")),
            },
        )
        .collect()
}

/// Refuses a statement that would give one row two new ones, of which nobody knows the last.
fn check_once(kind: Kind, table: &SourceTable, rows: &Collected) -> Result<()> {
    match kind {
        // A second row of a key is refused, kept away or the last one, as the mode says.
        Kind::Put(WriteMode::Insert | WriteMode::Keep | WriteMode::Replace) => return Ok(()),
        Kind::Put(WriteMode::Upsert) | Kind::Update | Kind::Delete => {}
    }
    let mut slots = vec![false; table.keys.len() as usize];
    let mut new = HashSet::new();
    for (key, _, _) in each_key(table, rows) {
        let slot = table.keys.find(key);
        let again = match slot.and_then(|slot| slots.get_mut(slot.0 as usize)) {
            Some(taken) => std::mem::replace(taken, true),
            None => !new.insert(key),
        };
        if again {
            return Err(Error::new(
                Code::DuplicateKey,
                format!(
                    "the statement changes row \"{key}\" of table \"{}\" twice",
                    table.name
                ),
            )
            .with_detail("Nothing was changed.")
            .with_hint(
                "Let each row meet one other only: GROUP BY the key, or QUALIFY row_number() OVER \
                 (PARTITION BY key ORDER BY ...) = 1.",
            ));
        }
    }
    Ok(())
}

#[async_trait]
impl RootAction for WriteAction {
    fn name(&self) -> &str {
        &self.name
    }

    fn output_schema(&self, _input: &SchemaRef) -> Result<SchemaRef> {
        Ok(count_schema())
    }

    async fn run(
        &self,
        mut input: SendableRecordBatchStream,
        _context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let (rows, run) = self.collect(&mut input).await?;
        let count = if rows.rows == 0 && self.origin == Origin::Store {
            self.finish(self.target.ledger.seen().version, 0);
            0
        } else {
            self.commit(rows, run).await?
        };
        let counts: ArrayRef = Arc::new(UInt64Array::from(vec![count]));
        Ok(vec![RecordBatch::try_new(count_schema(), vec![counts])?])
    }
}
