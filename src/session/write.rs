//! INSERT, REPLACE INTO, UPDATE and DELETE of source tables, and columns written back by workers.
//!
//! DataFusion plans the statement, so that columns, defaults and types come out as everywhere;
//! but its own plan of the change is not run. The query below it is, with an [`EffectNode`] at its
//! root, so a write is exact in the same way as an effect: it reads all rows, writes one Parquet
//! run, and commits once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DmlStatement, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, WriteOp, col, lit,
};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, Ident, ObjectName, ObjectNamePart, Query, SetExpr, Statement as SqlStatement,
    TableObject,
};
use futures::StreamExt;

use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::Ledger;
use crate::ledger::run::{RunFile, RunWriter, run_path};
use crate::model::decide::{ChangedRow, NewRun, WriteMode};
use crate::model::keys::{Key, KeyType};
use crate::model::sources::SourceTable;
use crate::model::state::State;
use crate::session::effect_node::planning::plan_statement;
use crate::session::effect_node::{EffectNode, RootAction};
use crate::session::parser::{identifier, object_name};
use crate::session::sink::{Done, StatementText};
use crate::session::{LockChanges, names, query_tree};
use crate::tables::source_table::{SystemColumn, user_schema};

/// What a write does with the rows of its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put(WriteMode),
    Update,
    Delete,
}

/// The root of a writing statement.
#[derive(Debug)]
pub struct WriteAction {
    kind: Kind,
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
/// # Errors
/// `SG1005 unsupported-statement` for forms that have no meaning here; `SG2001 unknown-object`;
/// those of planning.
pub async fn plan_write(
    session: &SessionState,
    state: &State,
    tree: SyntaxTree,
    table: &str,
    target: WriteTarget,
) -> Result<LogicalPlan> {
    let Some(table) = state.table(table).map(Arc::clone) else {
        return Err(not_a_source_table(state, table));
    };
    let tree = complete(tree, &table)?;
    let (kind, input) = match query_of_insert(&tree) {
        Some((mode, names, query)) => (
            Kind::Put(mode),
            rows_of_query(session, &table, &names, query).await?,
        ),
        None => planned(session, tree).await?,
    };
    let schema = user_schema(&table.def)?;
    let version = SystemColumn::Version.name();
    let wanted: Vec<&str> = match kind {
        Kind::Put(_) => vec![SystemColumn::Status.name()],
        Kind::Update => vec![version],
        Kind::Delete => vec![version],
    };
    let users = schema.fields().iter().map(|field| field.name().as_str());
    let columns: Vec<&str> = match kind {
        Kind::Put(_) | Kind::Update => users.chain(wanted).collect(),
        Kind::Delete => vec![table.def.key.as_str(), version],
    };
    let quoted = columns.iter().map(|name| col(names::quoted(name)));
    let input = LogicalPlanBuilder::from(input)
        .project(quoted.collect::<Vec<_>>())?
        .build()?;
    let name = match kind {
        Kind::Put(WriteMode::Insert) => "insert into",
        Kind::Put(WriteMode::Replace) => "replace into",
        Kind::Update => "update",
        Kind::Delete => "delete from",
    };
    let action = WriteAction {
        kind,
        name: format!("{name} {}", table.name),
        table,
        schema,
        target,
    };
    EffectNode::plan(input, Arc::new(action))
}

/// What DataFusion makes of a writing statement.
async fn planned(session: &SessionState, tree: SyntaxTree) -> Result<(Kind, LogicalPlan)> {
    let LogicalPlan::Dml(DmlStatement { op, input, .. }) = plan_statement(session, tree).await?
    else {
        return Err(Error::bug("a writing statement planned to something else"));
    };
    let kind = match op {
        WriteOp::Insert(InsertOp::Append) => Kind::Put(WriteMode::Insert),
        WriteOp::Insert(InsertOp::Replace) => Kind::Put(WriteMode::Replace),
        WriteOp::Insert(InsertOp::Overwrite) => {
            return Err(
                Error::new(Code::Unsupported, "INSERT OVERWRITE is not supported")
                    .with_hint("Use REPLACE INTO, or DELETE FROM and then INSERT INTO."),
            );
        }
        WriteOp::Update => Kind::Update,
        WriteOp::Delete => Kind::Delete,
        // The enum is open: whatever else there is or will be has no meaning here.
        op => {
            return Err(
                Error::new(Code::Unsupported, format!("{} is not supported", op.name()))
                    .with_hint("Use INSERT INTO, REPLACE INTO, UPDATE or DELETE."),
            );
        }
    };
    Ok((kind, Arc::unwrap_or_clone(input)))
}

/// The parts of an INSERT or REPLACE from a query; `None` for any other statement.
fn query_of_insert(tree: &SyntaxTree) -> Option<(WriteMode, Vec<String>, Query)> {
    let SyntaxTree::Statement(statement) = tree else {
        return None;
    };
    let SqlStatement::Insert(insert) = statement.as_ref() else {
        return None;
    };
    let query = insert.source.as_deref()?;
    if insert.overwrite || matches!(*query.body, SetExpr::Values(_)) {
        return None;
    }
    let mode = if insert.replace_into {
        WriteMode::Replace
    } else {
        WriteMode::Insert
    };
    let names = insert.columns.iter().map(object_name).collect();
    Some((mode, names, query.clone()))
}

/// The rows of an INSERT from a query, with the columns of the table.
///
/// DataFusion is not asked to plan the whole: while it plans an INSERT, it takes every VALUES
/// below it for the rows that go in, and gives them the columns of the target.
async fn rows_of_query(
    session: &SessionState,
    table: &SourceTable,
    names: &[String],
    query: Query,
) -> Result<LogicalPlan> {
    let plan = plan_statement(session, query_tree(query)).await?;
    let given = plan.schema().columns();
    if given.len() != names.len() {
        return Err(Error::new(
            Code::PlanError,
            format!(
                "the query gives {} columns, not {}",
                given.len(),
                names.len()
            ),
        )
        .with_hint(format!("The columns are: {}.", names.join(", "))));
    }
    let mut fields: Vec<FieldRef> = user_schema(&table.def)?.fields().iter().cloned().collect();
    let status = SystemColumn::Status.name();
    fields.push(Arc::new(Field::new(status, DataType::Utf8, true)));
    for (place, name) in names.iter().enumerate() {
        if !fields.iter().any(|field| field.name() == name) {
            return Err(Error::new(
                Code::PlanError,
                format!("source table \"{}\" has no column \"{name}\"", table.name),
            ));
        }
        if names.iter().take(place).any(|other| other == name) {
            return Err(Error::new(
                Code::PlanError,
                format!("column \"{name}\" is named twice"),
            ));
        }
    }
    let columns = fields.iter().map(|field| {
        let place = names.iter().position(|name| name == field.name());
        let value = match place.and_then(|place| given.get(place)) {
            Some(column) => {
                Expr::Column(column.clone()).cast_to(field.data_type(), plan.schema())?
            }
            None => lit(ScalarValue::try_from(field.data_type())?),
        };
        Ok(value.alias(field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
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

/// Checks what a statement wants to set, and names the columns of an INSERT that names none.
fn complete(tree: SyntaxTree, table: &SourceTable) -> Result<SyntaxTree> {
    let SyntaxTree::Statement(statement) = tree else {
        return Ok(tree);
    };
    let statement = match *statement {
        SqlStatement::Insert(mut insert) => {
            if insert.on.is_some() || insert.returning.is_some() || insert.ignore {
                return Err(Error::new(
                    Code::Unsupported,
                    "ON CONFLICT, IGNORE and RETURNING are not supported",
                )
                .with_hint("Use REPLACE INTO to replace rows whose key is there already."));
            }
            for column in &insert.columns {
                let name = object_name(column);
                if let Some(system) = SystemColumn::named(&name)
                    && system != SystemColumn::Status
                {
                    return Err(system_column(system));
                }
            }
            if insert.columns.is_empty() {
                let name = |column: &str| {
                    ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote(
                        '"', column,
                    ))])
                };
                insert.columns = table
                    .def
                    .columns
                    .iter()
                    .map(|column| name(&column.name))
                    .collect();
            }
            if let TableObject::TableFunction(_) | TableObject::TableQuery(_) = insert.table {
                return Err(Error::new(
                    Code::Unsupported,
                    "only tables can be inserted into",
                ));
            }
            SqlStatement::Insert(insert)
        }
        SqlStatement::Update(update) => {
            let mut assigned = HashSet::new();
            for assignment in &update.assignments {
                let AssignmentTarget::ColumnName(name) = &assignment.target else {
                    return Err(
                        Error::new(Code::Unsupported, "tuples cannot be assigned to")
                            .with_hint("Write SET a = ..., b = ..."),
                    );
                };
                let column = name
                    .0
                    .last()
                    .and_then(ObjectNamePart::as_ident)
                    .map(identifier);
                let column = column.unwrap_or_default();
                if let Some(system) = SystemColumn::named(&column) {
                    return Err(system_column(system));
                }
                if column == table.def.key {
                    return Err(Error::new(
                        Code::Unsupported,
                        format!("key column \"{column}\" cannot be changed"),
                    )
                    .with_hint("DELETE the row and INSERT it with its new key."));
                }
                if !assigned.insert(column.clone()) {
                    return Err(Error::new(
                        Code::PlanError,
                        format!("column \"{column}\" is assigned to twice"),
                    )
                    .with_hint("Leave one of the two out."));
                }
            }
            SqlStatement::Update(update)
        }
        other => other,
    };
    Ok(SyntaxTree::Statement(Box::new(statement)))
}

fn system_column(column: SystemColumn) -> Error {
    let error = Error::new(
        Code::Unsupported,
        format!("system column \"{}\" cannot be written", column.name()),
    );
    match column {
        SystemColumn::Status => {
            error.with_hint("Use SELECT set_status('table', key, 'STATUS') FROM ...")
        }
        SystemColumn::StatusAt
        | SystemColumn::Locked
        | SystemColumn::LiveJobId
        | SystemColumn::LastJobId
        | SystemColumn::Version => error.with_hint("Leave it out; it follows from what happens."),
    }
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
    versions: Vec<Int64Array>,
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
            let last = batch.column(users);
            match self.kind {
                Kind::Put(_) => {
                    let statuses = arrow::compute::cast(last, &DataType::Utf8)?;
                    let some = statuses.null_count() < statuses.len();
                    collected.statuses.push(
                        some.then(|| statuses.as_string_opt::<i32>().cloned())
                            .flatten(),
                    );
                }
                Kind::Update | Kind::Delete => collected
                    .versions
                    .extend(last.as_primitive_opt::<Int64Type>().cloned()),
            }
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
        let affected = rows.rows as u64;
        let run = run.map(new_run);
        let (kind, table) = (self.kind, Arc::clone(&self.table));
        let text = self.target.text.clone();
        let committed = self
            .target
            .ledger
            .commit(self.target.text.author.clone(), move |draft| {
                draft.require_table(&table)?;
                match (kind, &run) {
                    (Kind::Put(mode), Some(run)) => {
                        let each = each_key(&table, &rows);
                        let each = each.map(|(key, batch, row)| {
                            let statuses = rows.statuses.get(batch).and_then(Option::as_ref);
                            let status = statuses.filter(|all| all.is_valid(row));
                            (key, status.map(|all| all.value(row)))
                        });
                        draft.write_rows(&table.name, run, mode, each)?;
                    }
                    (Kind::Update, Some(run)) => {
                        draft.update_rows(&table.name, run, &changed(&table, &rows)?)?;
                    }
                    (Kind::Delete, _) => {
                        draft.delete_rows(&table.name, &changed(&table, &rows)?)?
                    }
                    (Kind::Put(_) | Kind::Update, None) => {}
                }
                let summary = format!("{{\"rows\":{affected}}}");
                draft.note_statement(&text.sql, text.idempotency_key.as_deref(), &summary)
            })
            .await?;
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

fn changed(table: &SourceTable, rows: &Collected) -> Result<Vec<ChangedRow>> {
    each_key(table, rows)
        .map(|(key, batch, row)| {
            let version = rows.versions.get(batch).map(|versions| versions.value(row));
            let version = version.and_then(|version| u64::try_from(version).ok());
            match (table.keys.find(key), version) {
                (Some(slot), Some(version)) => Ok(ChangedRow {
                    slot,
                    version: Version(version),
                }),
                (None, _) | (_, None) => Err(Error::bug("a row was read that has no source")),
            }
        })
        .collect()
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
        let count = if rows.rows == 0 {
            self.finish(self.target.ledger.seen().version, 0);
            0
        } else {
            self.commit(rows, run).await?
        };
        let counts: ArrayRef = Arc::new(UInt64Array::from(vec![count]));
        Ok(vec![RecordBatch::try_new(count_schema(), vec![counts])?])
    }
}
