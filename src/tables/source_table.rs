//! A source table for SQL: its Parquet runs and its system columns.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BooleanBufferBuilder, DictionaryArray, Int32Array, StringArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints, ScalarValue};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, Result};
use crate::id::{JobId, RunId, Slot};
use crate::model::columns::{dictionary_type, time_type};
use crate::model::keys::Key;
use crate::model::sources::{Source, SourceTable, TableDef};
use crate::model::state::State;
use crate::tables::columns::{bools, ints, times};
use crate::tables::source_scan::{LiveRows, RunScan, SourceScan, SystemColumns};
use crate::time::Timestamp;

/// The system columns of every source table: reserved names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemColumn {
    /// Where the source stands in the life cycle of its table.
    Status,
    /// Since when.
    StatusAt,
    /// Whether somebody holds it.
    Locked,
    /// The job that is live on it.
    LiveJobId,
    /// The job that was scheduled last.
    LastJobId,
    /// The commit that changed it last.
    Version,
}

impl SystemColumn {
    /// All of them, in table order.
    pub const ALL: [Self; 6] = [
        Self::Status,
        Self::StatusAt,
        Self::Locked,
        Self::LiveJobId,
        Self::LastJobId,
        Self::Version,
    ];

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::StatusAt => "status_at",
            Self::Locked => "locked",
            Self::LiveJobId => "live_job_id",
            Self::LastJobId => "last_job_id",
            Self::Version => "version",
        }
    }

    /// What it means.
    pub fn doc(self) -> &'static str {
        match self {
            Self::Status => "Where the source stands in the life cycle of its table.",
            Self::StatusAt => "When the status was set.",
            Self::Locked => "Whether a running job or an explicit lock holds the source.",
            Self::LiveJobId => "The job that runs on it or waits longest for it; NULL: none.",
            Self::LastJobId => "The job that was scheduled last, live or final.",
            Self::Version => "The commit that changed the row or its status last.",
        }
    }

    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Status => dictionary_type(),
            Self::StatusAt => time_type(),
            Self::Locked => DataType::Boolean,
            Self::LiveJobId | Self::LastJobId | Self::Version => DataType::Int64,
        }
    }

    /// The column of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

static FIELDS: LazyLock<Vec<FieldRef>> = LazyLock::new(|| {
    let field = |column: SystemColumn| Field::new(column.name(), column.data_type(), true);
    SystemColumn::ALL
        .into_iter()
        .map(|column| Arc::new(field(column)))
        .collect()
});

/// The Arrow schema of a table's user columns.
///
/// # Errors
/// `SG9001 bug` where a type in the ledger is unknown to this version.
pub fn user_schema(def: &TableDef) -> Result<SchemaRef> {
    let fields = def.columns.iter().map(|column| {
        let data_type: DataType = column.data_type.parse().map_err(|error| {
            Error::bug(format!("type \"{}\" cannot be read", column.data_type)).with_source(error)
        })?;
        Ok(Field::new(&column.name, data_type, column.nullable))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

/// A source table at one version.
#[derive(Debug)]
pub struct SourceProvider {
    scan: SourceScan,
    schema: SchemaRef,
    constraints: Constraints,
}

impl SourceProvider {
    /// The table in `state`, its locks judged at `now`.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn try_new(
        state: &Arc<State>,
        table: &Arc<SourceTable>,
        store_url: ObjectStoreUrl,
        now: Timestamp,
    ) -> Result<Self> {
        let runs = table
            .runs
            .iter()
            .filter(|(_, run)| run.live_rows > 0)
            .map(|(id, run)| RunScan {
                path: run.path.to_string(),
                bytes: run.bytes,
                rows: run.rows,
                run: id.0,
                live: if run.live_rows == run.rows {
                    LiveRows::All
                } else {
                    LiveRows::Some(live_rows(table, *id, &run.slots, run.rows))
                },
            });
        Self::over(state, table, store_url, now, runs.collect())
    }

    /// The same table with only the sources in `slots`, whose rows are read by their numbers.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn of_slots(
        state: &Arc<State>,
        table: &Arc<SourceTable>,
        store_url: ObjectStoreUrl,
        now: Timestamp,
        slots: &[Slot],
    ) -> Result<Self> {
        let mut rows: BTreeMap<RunId, Vec<usize>> = BTreeMap::new();
        for source in slots.iter().filter_map(|&slot| table.source(slot)) {
            rows.entry(source.run)
                .or_default()
                .push(source.row as usize);
        }
        let runs = rows.into_iter().filter_map(|(id, rows)| {
            let run = table.runs.get(&id)?;
            let mut wanted = BooleanBufferBuilder::new(0);
            wanted.append_n(usize::try_from(run.rows).ok()?, false);
            for row in rows {
                wanted.set_bit(row, true);
            }
            Some(RunScan {
                path: run.path.to_string(),
                bytes: run.bytes,
                rows: run.rows,
                run: id.0,
                live: LiveRows::Some(wanted.finish()),
            })
        });
        Self::over(state, table, store_url, now, runs.collect())
    }

    fn over(
        state: &Arc<State>,
        table: &Arc<SourceTable>,
        store_url: ObjectStoreUrl,
        now: Timestamp,
        runs: Vec<RunScan>,
    ) -> Result<Self> {
        let user = user_schema(&table.def)?;
        let key = user.index_of(&table.def.key).map_err(|error| {
            Error::bug(format!("table \"{}\" has no key column", table.name)).with_source(error)
        })?;
        let system = Arc::new(SystemRows::new(state, table, now));
        let scan = SourceScan {
            store_url,
            schema: user,
            runs,
            system,
        };
        let schema = scan.table_schema();
        let constraints = Constraints::new_unverified(vec![Constraint::PrimaryKey(vec![key])]);
        Ok(Self {
            scan,
            schema,
            constraints,
        })
    }
}

fn live_rows(table: &SourceTable, run: RunId, slots: &[u32], rows: u64) -> BooleanBuffer {
    BooleanBuffer::collect_bool(usize::try_from(rows).unwrap_or(usize::MAX), |row| {
        slots
            .get(row)
            .and_then(|&slot| table.source(Slot(slot)))
            .is_some_and(|source| source.run == run && source.row as usize == row)
    })
}

#[async_trait]
impl TableProvider for SourceProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        self.scan.plan(state, projection, filters, limit)
    }
}

/// Answers for the system columns from the snapshot.
#[derive(Debug)]
struct SystemRows {
    state: Arc<State>,
    table: Arc<SourceTable>,
    now: Timestamp,
    explicit: ExplicitLocks,
}

/// Which sources explicit locks hold.
#[derive(Debug)]
enum ExplicitLocks {
    /// A lock on the table holds all.
    All,
    /// Locks below the table.
    Below {
        /// The sources that a lock names, or that have a locked path below them.
        slots: HashSet<u32>,
        /// The locked paths, without the table: a source whose key lies below one is locked too.
        paths: HashSet<String>,
    },
}

impl SystemRows {
    fn new(state: &Arc<State>, table: &Arc<SourceTable>, now: Timestamp) -> Self {
        let on_table = state
            .locks
            .covering(&table.name)
            .any(|(_, lock)| lock.expires_at > now);
        let explicit = if on_table {
            ExplicitLocks::All
        } else {
            let prefix = table.name.len() + 1;
            let below = state
                .locks
                .below(&table.name)
                .filter(|(_, lock)| lock.expires_at > now);
            let paths = below.filter_map(|(path, _)| path.get(prefix..).map(str::to_owned));
            let paths: HashSet<String> = paths.collect();
            let named = paths
                .iter()
                .flat_map(|path| paths_to(path).chain([path.as_str()]));
            let slots = named.filter_map(|path| {
                let key = table.def.key_type.parse(path)?;
                table.keys.find(key).map(|slot| slot.0)
            });
            ExplicitLocks::Below {
                slots: slots.collect(),
                paths,
            }
        };
        Self {
            state: Arc::clone(state),
            table: Arc::clone(table),
            now,
            explicit,
        }
    }

    fn locked(&self, slot: Slot, source: &Source) -> bool {
        let running = source
            .running_job
            .some()
            .and_then(|job| self.state.job(job));
        let by_job = running.is_some_and(|job| job.expires_at > self.now);
        by_job
            || match &self.explicit {
                ExplicitLocks::All => true,
                ExplicitLocks::Below { paths, .. } if paths.is_empty() => false,
                ExplicitLocks::Below { slots, paths } => {
                    slots.contains(&slot.0)
                        || match self.table.keys.get(slot) {
                            Some(Key::Text(key)) => paths_to(key).any(|path| paths.contains(path)),
                            Some(Key::Int(_)) | None => false,
                        }
                }
            }
    }
}

/// The paths above a path: `a` and `a/b` of `a/b/c`.
fn paths_to(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .filter_map(|(end, _)| path.get(..end))
}

impl SystemColumns for SystemRows {
    fn fields(&self) -> &[FieldRef] {
        &FIELDS
    }

    fn column(&self, run: u32, column: usize, rows: &[u64]) -> ArrayRef {
        let slots = self
            .table
            .runs
            .get(&RunId(run))
            .map(|run| run.slots.as_slice());
        let slots = slots.unwrap_or_default();
        let each = || {
            rows.iter().map(|&row| {
                let slot = slots.get(usize::try_from(row).ok()?).copied().map(Slot)?;
                Some((slot, self.table.source(slot)?))
            })
        };
        let number = |of: fn(&Source) -> Option<u64>| {
            ints(each().map(|found| found.and_then(|(_, source)| of(source))))
        };
        match SystemColumn::ALL.get(column) {
            Some(SystemColumn::Status) => {
                let codes = each().map(|found| found.map(|(_, source)| i32::from(source.status.0)));
                let codes: Int32Array = codes.collect();
                let names = StringArray::from_iter_values(self.table.statuses.iter());
                match DictionaryArray::<Int32Type>::try_new(codes, Arc::new(names)) {
                    Ok(array) => Arc::new(array),
                    Err(_) => arrow::array::new_null_array(&dictionary_type(), rows.len()),
                }
            }
            Some(SystemColumn::StatusAt) => times(
                each().map(|found| found.map_or(Timestamp(0), |(_, source)| source.status_at)),
            ),
            Some(SystemColumn::Locked) => {
                bools(each().map(|found| found.map(|(slot, source)| self.locked(slot, source))))
            }
            Some(SystemColumn::LiveJobId) => number(|source| {
                source
                    .running_job
                    .some()
                    .or(source.live_job.some())
                    .map(|job: JobId| job.0)
            }),
            Some(SystemColumn::LastJobId) => {
                number(|source| source.last_job.some().map(|job| job.0))
            }
            Some(SystemColumn::Version) | None => number(|source| Some(source.version.0)),
        }
    }

    fn select(&self, run: u32, filters: &[Expr]) -> Option<Vec<Range<u64>>> {
        let tests: Vec<Test> = filters.iter().map(|filter| self.test(filter)).collect();
        if tests.iter().all(|test| matches!(test, Test::Maybe)) {
            return None;
        }
        let slots = &self.table.runs.get(&RunId(run))?.slots;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (row, &slot) in slots.iter().enumerate() {
            let slot = Slot(slot);
            let passes = self
                .table
                .source(slot)
                .is_some_and(|source| tests.iter().all(|test| test.may_pass(self, slot, source)));
            if !passes {
                continue;
            }
            let row = row as u64;
            match ranges.last_mut() {
                Some(last) if last.end == row => last.end = row + 1,
                Some(_) | None => ranges.push(row..row + 1),
            }
        }
        Some(ranges)
    }
}

/// A filter as far as it can be judged from memory. It never rules out a row that passes.
#[derive(Debug)]
enum Test {
    /// By status: whether a status of this code passes.
    Status(Vec<bool>),
    /// `locked` or `NOT locked`.
    Locked(bool),
    /// `live_job_id IS [NOT] NULL`.
    Live(bool),
    /// All of them.
    And(Vec<Test>),
    /// One of them.
    Or(Vec<Test>),
    /// Not to be judged from memory.
    Maybe,
}

impl Test {
    fn may_pass(&self, rows: &SystemRows, slot: Slot, source: &Source) -> bool {
        match self {
            Self::Status(passing) => passing
                .get(usize::from(source.status.0))
                .copied()
                .unwrap_or(true),
            Self::Locked(wanted) => rows.locked(slot, source) == *wanted,
            Self::Live(wanted) => source.live_job.some().is_some() == *wanted,
            Self::And(tests) => tests.iter().all(|test| test.may_pass(rows, slot, source)),
            Self::Or(tests) => tests.iter().any(|test| test.may_pass(rows, slot, source)),
            Self::Maybe => true,
        }
    }
}

impl SystemRows {
    fn test(&self, filter: &Expr) -> Test {
        match filter {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::And,
                right,
            }) => Test::And(vec![self.test(left), self.test(right)]),
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Or,
                right,
            }) => Test::Or(vec![self.test(left), self.test(right)]),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let texts = match (column_of(left), column_of(right)) {
                    (Some(SystemColumn::Status), None) => text_of(right),
                    (None, Some(SystemColumn::Status)) => text_of(left),
                    _ => None,
                };
                match (texts, op) {
                    (Some(text), Operator::Eq) => self.status_test(|status| status == text),
                    (Some(text), Operator::NotEq) => self.status_test(|status| status != text),
                    _ => Test::Maybe,
                }
            }
            Expr::InList(list) if column_of(&list.expr) == Some(SystemColumn::Status) => {
                let texts: Option<Vec<&str>> = list.list.iter().map(text_of).collect();
                match texts {
                    Some(texts) => {
                        self.status_test(|status| texts.contains(&status) != list.negated)
                    }
                    None => Test::Maybe,
                }
            }
            Expr::Column(_) if column_of(filter) == Some(SystemColumn::Locked) => {
                Test::Locked(true)
            }
            Expr::Not(inner) if column_of(inner) == Some(SystemColumn::Locked) => {
                Test::Locked(false)
            }
            Expr::IsNull(inner) if column_of(inner) == Some(SystemColumn::LiveJobId) => {
                Test::Live(false)
            }
            Expr::IsNotNull(inner) if column_of(inner) == Some(SystemColumn::LiveJobId) => {
                Test::Live(true)
            }
            _ => Test::Maybe,
        }
    }

    fn status_test(&self, passes: impl Fn(&str) -> bool) -> Test {
        Test::Status(
            self.table
                .statuses
                .iter()
                .map(|status| passes(status))
                .collect(),
        )
    }
}

fn column_of(expr: &Expr) -> Option<SystemColumn> {
    match expr {
        Expr::Column(column) => SystemColumn::named(&column.name),
        Expr::Cast(cast) => match cast.expr.as_ref() {
            // A cast of the status dictionary to text changes no value.
            Expr::Column(column) => {
                SystemColumn::named(&column.name).filter(|column| *column == SystemColumn::Status)
            }
            _ => None,
        },
        _ => None,
    }
}

fn text_of(expr: &Expr) -> Option<&str> {
    fn text(value: &ScalarValue) -> Option<&str> {
        match value {
            ScalarValue::Utf8(text)
            | ScalarValue::LargeUtf8(text)
            | ScalarValue::Utf8View(text) => text.as_deref(),
            ScalarValue::Dictionary(_, value) => text(value),
            _ => None,
        }
    }
    match expr {
        Expr::Literal(value, _) => text(value),
        _ => None,
    }
}
