//! A source table for SQL: its Parquet runs and its system columns.

#[cfg(test)]
mod tests;

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
use crate::model::chunked::LEAF_ITEMS;
use crate::model::columns::{dictionary_type, time_type};
use crate::model::keys::{Key, KeyType};
use crate::model::sources::{
    Share, Source, SourceTable, SourcesDigest, StatusCode, StatusSet, TableDef,
};
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
        let slots = self.slots(run);
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

    fn key(&self) -> Option<&str> {
        Some(&self.table.def.key)
    }

    fn keys(&self, run: u32, rows: &[u64]) -> ArrayRef {
        let slots = self.slots(run);
        let slot = |row: &u64| slots.get(usize::try_from(*row).ok()?).copied();
        // No row is without its slot; there is no key in the last one.
        let slots = rows.iter().map(|row| Slot(slot(row).unwrap_or(u32::MAX)));
        self.table.keys.array(slots)
    }

    fn select(&self, run: u32, filters: &[Expr]) -> Option<Vec<Range<u64>>> {
        let tests: Vec<Test> = filters.iter().map(|filter| self.test(filter)).collect();
        if tests.iter().all(|test| matches!(test, Test::Maybe)) {
            return None;
        }
        let keys = tests.iter().find_map(|test| match test {
            Test::Keys(slots) => Some(slots),
            _ => None,
        });
        if let Some(slots) = keys {
            return Some(self.rows_of(run, slots));
        }
        let test = Test::And(tests);
        let slots = self.slots(run);
        let mut selected = Selected::default();
        let mut row = 0;
        // By parts of a run whose slots follow each other inside one leaf of the sources: mostly
        // the digest of the leaf decides for all of them.
        while let Some(&first) = slots.get(row) {
            let of_leaf = LEAF_ITEMS - first as usize % LEAF_ITEMS;
            let end = slots.len().min(row + of_leaf);
            let part = slots.get(row..end).unwrap_or_default();
            let share = match in_sequence(part) {
                true => self.table.sources.digest(first as usize),
                false => None,
            };
            match share.map_or(Share::Some, |digest| test.share(self, digest)) {
                Share::All => selected.add(row as u64..end as u64),
                Share::None => {}
                Share::Some => {
                    for (row, &slot) in (row as u64..).zip(part) {
                        let slot = Slot(slot);
                        let source = self.table.source(slot);
                        if source.is_some_and(|source| test.may_pass(self, slot, source)) {
                            selected.add(row..row + 1);
                        }
                    }
                }
            }
            row = end;
        }
        Some(selected.0)
    }
}

/// Whether each slot is the one after that before it.
fn in_sequence(slots: &[u32]) -> bool {
    let first = slots.first().copied().unwrap_or_default();
    // Without an early end, so that it is done many at a time.
    slots.iter().zip(0_u32..).fold(true, |yes, (slot, index)| {
        yes & (*slot == first.wrapping_add(index))
    })
}

/// Ascending ranges of rows that do not touch.
#[derive(Default)]
struct Selected(Vec<Range<u64>>);

impl Selected {
    fn add(&mut self, rows: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == rows.start => last.end = rows.end,
            Some(_) | None => self.0.push(rows),
        }
    }
}

/// A filter as far as it can be judged from memory. It never rules out a row that passes.
#[derive(Debug)]
enum Test {
    /// By status.
    Status(StatusSet),
    /// `locked` or `NOT locked`.
    Locked(bool),
    /// `live_job_id IS [NOT] NULL`.
    Live(bool),
    /// By key: the slots that pass.
    Keys(HashSet<u32>),
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
            Self::Status(passing) => passing.contains(source.status),
            Self::Locked(wanted) => rows.locked(slot, source) == *wanted,
            Self::Live(wanted) => source.live_job.some().is_some() == *wanted,
            Self::Keys(slots) => slots.contains(&slot.0),
            Self::And(tests) => tests.iter().all(|test| test.may_pass(rows, slot, source)),
            Self::Or(tests) => tests.iter().any(|test| test.may_pass(rows, slot, source)),
            Self::Maybe => true,
        }
    }

    /// How many of the sources of a digest may pass. `Some` where it does not tell.
    fn share(&self, rows: &SystemRows, digest: &SourcesDigest) -> Share {
        let wanted = |share: Share, wanted: bool| match (share, wanted) {
            (Share::Some, _) => Share::Some,
            (Share::All, true) | (Share::None, false) => Share::All,
            (Share::All, false) | (Share::None, true) => Share::None,
        };
        let fold = |tests: &[Self], decisive: Share, else_: Share| {
            let shares = tests.iter().map(|test| test.share(rows, digest));
            shares.fold(else_, |folded, share| match (folded, share) {
                (one, other) if one == decisive || other == decisive => decisive,
                (one, other) if one == other => one,
                (Share::Some, _) | (_, Share::Some) => Share::Some,
                (one, _) => one,
            })
        };
        match self {
            Self::Status(passing) => digest.statuses.share_in(passing),
            Self::Locked(locked) => wanted(rows.locked_share(digest), *locked),
            Self::Live(live) => wanted(digest.live, *live),
            Self::Keys(_) => Share::Some,
            Self::And(tests) => fold(tests, Share::None, Share::All),
            Self::Or(tests) => fold(tests, Share::All, Share::None),
            Self::Maybe => Share::All,
        }
    }
}

impl SystemRows {
    /// The slots of a run by row number.
    fn slots(&self, run: u32) -> &[u32] {
        let run = self.table.runs.get(&RunId(run));
        run.map(|run| run.slots.as_slice()).unwrap_or_default()
    }

    /// The rows of a run that hold some sources.
    fn rows_of(&self, run: u32, slots: &HashSet<u32>) -> Vec<Range<u64>> {
        let sources = slots
            .iter()
            .filter_map(|&slot| self.table.source(Slot(slot)));
        let mut rows: Vec<u64> = sources
            .filter(|source| source.run == RunId(run))
            .map(|source| u64::from(source.row))
            .collect();
        rows.sort_unstable();
        let mut selected = Selected::default();
        rows.into_iter().for_each(|row| selected.add(row..row + 1));
        selected.0
    }

    fn locked_share(&self, digest: &SourcesDigest) -> Share {
        match &self.explicit {
            ExplicitLocks::All => Share::All,
            ExplicitLocks::Below { paths, .. }
                if paths.is_empty() && digest.running == Share::None =>
            {
                Share::None
            }
            ExplicitLocks::Below { .. } => Share::Some,
        }
    }

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
            }) => match (self.test(left), self.test(right)) {
                // A short IN list comes as comparisons.
                (Test::Keys(left), Test::Keys(right)) => Test::Keys(&left | &right),
                (left, right) => Test::Or(vec![left, right]),
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let (column, value) = match (left.as_ref(), right.as_ref()) {
                    (column, Expr::Literal(value, _)) | (Expr::Literal(value, _), column) => {
                        (column, value)
                    }
                    _ => return Test::Maybe,
                };
                match (column_of(column), op) {
                    (Some(SystemColumn::Status), Operator::Eq) => {
                        self.status_test(std::slice::from_ref(value), |listed| listed)
                    }
                    (Some(SystemColumn::Status), Operator::NotEq) => {
                        self.status_test(std::slice::from_ref(value), |listed| !listed)
                    }
                    (None, Operator::Eq) if self.is_key(column) => {
                        self.key_test(std::slice::from_ref(value))
                    }
                    _ => Test::Maybe,
                }
            }
            Expr::InList(list) => {
                let values = list.list.iter().map(|value| match value {
                    Expr::Literal(value, _) => Some(value.clone()),
                    _ => None,
                });
                let Some(values) = values.collect::<Option<Vec<_>>>() else {
                    return Test::Maybe;
                };
                if column_of(&list.expr) == Some(SystemColumn::Status) {
                    self.status_test(&values, |listed| listed != list.negated)
                } else if self.is_key(&list.expr) && !list.negated {
                    self.key_test(&values)
                } else {
                    Test::Maybe
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

    /// The statuses for which `passes` holds, told whether a status is among `values`.
    fn status_test(&self, values: &[ScalarValue], passes: impl Fn(bool) -> bool) -> Test {
        let Some(texts) = values.iter().map(text_of).collect::<Option<Vec<&str>>>() else {
            return Test::Maybe;
        };
        let statuses = (0_u8..).map(StatusCode).zip(self.table.statuses.iter());
        let passing = statuses.filter(|(_, status)| passes(texts.contains(&&***status)));
        Test::Status(passing.map(|(code, _)| code).collect())
    }

    fn is_key(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Column(column) if column.name == self.table.def.key)
    }

    fn key_test(&self, values: &[ScalarValue]) -> Test {
        let keys = values.iter().map(|value| match self.table.def.key_type {
            KeyType::Text => text_of(value).map(Key::Text),
            KeyType::Int => match value {
                ScalarValue::Int64(Some(number)) => Some(Key::Int(*number)),
                _ => None,
            },
        });
        match keys.collect::<Option<Vec<Key<'_>>>>() {
            Some(keys) => {
                let slots = keys.into_iter().filter_map(|key| self.table.keys.find(key));
                Test::Keys(slots.map(|slot| slot.0).collect())
            }
            None => Test::Maybe,
        }
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

fn text_of(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
            text.as_deref()
        }
        ScalarValue::Dictionary(_, value) => text_of(value),
        _ => None,
    }
}
