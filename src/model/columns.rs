//! Events as columns: the schema of the `events` table, its builder and its reader.
//!
//! One wide table holds all kinds; a column that a kind does not use is NULL. What a reader of
//! the table wants to see beside a job (its source, its transform, its batch) is written into
//! each of the job's rows, although replay could do without it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Int32Builder, Int64Array, Int64Builder, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::id::{BatchId, JobId, RunId, Slot, TableId, Token, Version};
use crate::model::event::{
    AttemptRef, Event, EventKind, ObjectKind, Origin, Refusal, RowRef, Scheduled, SourceRef,
};
use crate::model::jobs::JobState;
use crate::model::keys::Key;
use crate::model::lineage::Header;
use crate::model::locks::LockMode;
use crate::model::state::State;
use crate::model::tokens::Role;
use crate::time::Timestamp;

/// The type of every time column: microseconds in UTC.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of text columns whose values repeat.
pub fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Int,
    Time,
    Text,
    Dictionary,
}

macro_rules! columns {
    ($($name:ident = $text:literal, $shape:ident, $doc:literal;)*) => {
        /// A column of the `events` table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each column's text is in `Column::doc`")]
        pub enum Column { $($name,)* }

        impl Column {
            /// Every column, in table order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in SQL.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }

            fn shape(self) -> Shape {
                match self { $(Self::$name => Shape::$shape,)* }
            }
        }
    };
}

columns! {
    Version = "version", Int, "The commit.";
    Ordinal = "ordinal", Int, "The place of the event in its commit, from 0.";
    At = "at", Time, "When the commit was made; it never runs back.";
    Actor = "actor", Dictionary, "Who: the user or worker.";
    StatementId = "statement_id", Dictionary, "The statement that caused it.";
    Kind = "kind", Dictionary, "What happened, such as `job-completed`.";
    SourceTable = "source_table", Dictionary, "The source table.";
    SourceId = "source_id", Text, "The key of the source, as text.";
    Slot = "slot", Int, "The place of the source in its table's memory.";
    RunId = "run_id", Int, "The Parquet run that holds the source's new row.";
    RunRow = "run_row", Int, "The row number in that run, from 0.";
    FromStatus = "from_status", Dictionary, "The source's status before; NULL where it stays.";
    ToStatus = "to_status", Dictionary, "The source's status from now on; NULL where it stays.";
    Transform = "transform", Dictionary, "The transform.";
    TransformVersion = "transform_version", Int, "The version of the transform that runs.";
    JobId = "job_id", Int, "The job.";
    BatchId = "batch_id", Int, "The batch of the job.";
    Attempt = "attempt", Int, "The attempt, from 1.";
    Token = "token", Int, "The fencing token of the attempt or lock, or of the lock of a change.";
    ParentJobId = "parent_job_id", Int, "The final job that this one tries again.";
    Priority = "priority", Int, "Higher runs first.";
    RunAt = "run_at", Time, "The job does not start before.";
    Worker = "worker", Dictionary, "The worker of the attempt.";
    FromState = "from_state", Dictionary, "The job's state before.";
    ToState = "to_state", Dictionary, "The job's state from now on.";
    ExpiresAt = "expires_at", Time, "The end of the lease.";
    Resource = "resource", Text, "The locked resource, or the name of what was made or revoked.";
    Mode = "mode", Dictionary, "The lock's mode, the kind of what was made, or a token's role.";
    Owner = "owner", Dictionary, "The lock's owner, or who is in the way.";
    Function = "function", Dictionary, "The effect function that was refused.";
    Outcome = "outcome", Dictionary, "Why it was refused, in one word.";
    ErrorCode = "error_code", Dictionary, "The class of the error.";
    Message = "message", Text, "The error, the reason, or the statement's text.";
    Uri = "uri", Text, "The output: a path, where it is in the store. Or the path of the run.";
    Rows = "rows", Int, "Rows of the run.";
    Bytes = "bytes", Int, "Bytes of the run.";
    Params = "params", Dictionary, "The job's parameters, or an idempotency key.";
    Payload = "payload", Text, "Definitions and summaries, as JSON, or the SHA-256 of a token.";
    Format = "format", Int, "The format of the commit's rules; in its first row only.";
    StoreId = "store_id", Text, "The id of the store; in a commit's first row only.";
    Previous = "previous", Text, "The digest of the commit before; in a commit's first row only.";
}

/// The schema of the `events` table and of every ledger file.
///
/// # Returns
/// Nullable columns in the order of [`Column::ALL`]: Int64, Timestamp(us, UTC), Utf8 or
/// Dictionary(Int32, Utf8).
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let field = |column: &Column| {
            let data_type = match column.shape() {
                Shape::Int => DataType::Int64,
                Shape::Time => time_type(),
                Shape::Text => DataType::Utf8,
                Shape::Dictionary => dictionary_type(),
            };
            Field::new(column.name(), data_type, true)
        };
        Arc::new(Schema::new(
            Column::ALL.iter().map(field).collect::<Vec<_>>(),
        ))
    });
    Arc::clone(&SCHEMA)
}

/// The columns of a header, for the first row of a commit.
///
/// # Returns
/// Arrays of one row each.
pub fn header_columns(header: &Header) -> Vec<(Column, ArrayRef)> {
    let text = |text: Option<String>| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let mut columns = vec![(
        Column::Format,
        Arc::new(Int64Array::from(vec![i64::from(header.format)])) as ArrayRef,
    )];
    if let Some(store) = &header.store {
        columns.push((Column::StoreId, text(Some(store.to_string()))));
    }
    if let Some(previous) = header.previous {
        columns.push((Column::Previous, text(Some(format!("{previous:016x}")))));
    }
    columns
}

/// Bytes of a text that room is made for, where there are many. Chosen: that of a short key.
const TEXT_BYTES: usize = 16;

/// Rows that room is made for beside those that come at once: the statement itself comes last.
const SPARE_ROWS: usize = 16;

#[derive(Debug)]
enum Values {
    Int(Int64Builder),
    Time(TimestampMicrosecondBuilder),
    Text(StringBuilder),
    Dictionary(DictionaryBuilder),
}

impl Values {
    fn new(shape: Shape, rows: usize) -> Self {
        match shape {
            Shape::Int => Self::Int(Int64Builder::with_capacity(rows)),
            Shape::Time => Self::Time(
                TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(time_type()),
            ),
            Shape::Text => Self::Text(StringBuilder::with_capacity(rows, rows * TEXT_BYTES)),
            Shape::Dictionary => Self::Dictionary(DictionaryBuilder::with_capacity(rows)),
        }
    }

    fn append_nulls(&mut self, count: usize) {
        match self {
            Self::Int(builder) => builder.append_nulls(count),
            Self::Time(builder) => builder.append_nulls(count),
            Self::Text(builder) => builder.append_nulls(count),
            Self::Dictionary(builder) => builder.keys.append_nulls(count),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Int(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Dictionary(builder) => Arc::new(builder.finish()?),
        })
    }
}

/// Texts that repeat. Arrow's own builder hashes each value; here a run of equal values costs
/// one comparison each.
#[derive(Debug)]
struct DictionaryBuilder {
    keys: Int32Builder,
    names: Vec<Arc<str>>,
    index: HashMap<Arc<str>, i32>,
    last: Option<(Arc<str>, i32)>,
}

impl DictionaryBuilder {
    fn with_capacity(rows: usize) -> Self {
        Self {
            keys: Int32Builder::with_capacity(rows),
            names: Vec::new(),
            index: HashMap::new(),
            last: None,
        }
    }

    fn append(&mut self, value: &str, times: usize) {
        if let Some((last, key)) = &self.last
            && last.as_ref() == value
        {
            self.keys.append_value_n(*key, times);
            return;
        }
        let (name, key) = match self.index.get_key_value(value) {
            Some((name, key)) => (Arc::clone(name), *key),
            None => {
                let name: Arc<str> = value.into();
                let key = i32::try_from(self.names.len()).unwrap_or(i32::MAX);
                self.names.push(Arc::clone(&name));
                self.index.insert(Arc::clone(&name), key);
                (name, key)
            }
        };
        self.keys.append_value_n(key, times);
        self.last = Some((name, key));
    }

    fn finish(&mut self) -> Result<DictionaryArray<Int32Type>, ArrowError> {
        let names = StringArray::from_iter_values(self.names.iter());
        let array = DictionaryArray::try_new(self.keys.finish(), Arc::new(names));
        *self = Self::with_capacity(0);
        array
    }
}

/// Collects events as columns. A column that no event uses costs nothing per event.
#[derive(Debug)]
pub struct EventsBuilder {
    columns: Vec<(Values, usize)>,
    rows: usize,
    /// The rows that are being appended: a value is written into each of them.
    times: usize,
    first_ordinal: usize,
}

impl Default for EventsBuilder {
    fn default() -> Self {
        let columns = Column::ALL
            .iter()
            .map(|column| (Values::new(column.shape(), 0), 0))
            .collect();
        Self {
            columns,
            rows: 0,
            times: 1,
            first_ordinal: 0,
        }
    }
}

impl EventsBuilder {
    /// No events yet; the first one will have this ordinal in its commit.
    pub fn starting_at(ordinal: usize) -> Self {
        Self {
            first_ordinal: ordinal,
            ..Self::default()
        }
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// All events as one batch. It has the columns of [`schema`] in their order, without those
    /// that no event uses: a million rows of nothing would cost as much as values.
    ///
    /// # Errors
    /// Where Arrow refuses the columns, which would be a bug.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let mut used = Vec::with_capacity(self.columns.len());
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (index, (values, filled)) in self.columns.iter_mut().enumerate() {
            if *filled == 0 {
                continue;
            }
            values.append_nulls(rows - *filled);
            *filled = 0;
            used.push(index);
            arrays.push(values.finish()?);
        }
        let schema = Arc::new(schema().project(&used)?);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, arrays, &options)
    }

    /// The values of a column, to which the caller appends those of `times` rows.
    fn at(&mut self, column: Column) -> Option<(&mut Values, usize)> {
        let (rows, times) = (self.rows, self.times);
        let (values, filled) = self.columns.get_mut(column as usize)?;
        if *filled == 0 && times > 1 {
            *values = Values::new(column.shape(), rows + times + SPARE_ROWS);
        }
        if *filled < rows {
            values.append_nulls(rows - *filled);
        }
        *filled = rows + times;
        Some((values, times))
    }

    fn int(&mut self, column: Column, value: i64) {
        if let Some((Values::Int(builder), times)) = self.at(column) {
            builder.append_value_n(value, times);
        }
    }

    /// Numbers that count on from row to row.
    fn counting(&mut self, column: Column, first: u64) {
        if let Some((Values::Int(builder), times)) = self.at(column) {
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let numbers = first..first.saturating_add(times as u64);
            numbers.for_each(|value| builder.append_value(number(value)));
        }
    }

    fn id(&mut self, column: Column, value: u64) {
        self.int(column, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn time(&mut self, column: Column, value: Timestamp) {
        if let Some((Values::Time(builder), times)) = self.at(column) {
            builder.append_value_n(value.0, times);
        }
    }

    fn text(&mut self, column: Column, value: &str) {
        match self.at(column) {
            Some((Values::Text(builder), times)) => {
                (0..times).for_each(|_| builder.append_value(value));
            }
            Some((Values::Dictionary(builder), times)) => builder.append(value, times),
            Some((Values::Int(_) | Values::Time(_), _)) | None => {}
        }
    }

    fn text_if(&mut self, column: Column, value: Option<&str>) {
        if let Some(value) = value {
            self.text(column, value);
        }
    }

    fn key(&mut self, key: Key<'_>) {
        match key {
            Key::Text(text) => self.text(Column::SourceId, text),
            Key::Int(number) => self.text(Column::SourceId, &number.to_string()),
        }
    }

    fn source(&mut self, state: &State, source: SourceRef<'_>) {
        if let Some(table) = state.tables.get(&source.table) {
            self.text(Column::SourceTable, &table.name);
        }
        self.key(source.key);
        self.int(Column::Slot, i64::from(source.slot.0));
        if let Some(token) = source.under {
            self.id(Column::Token, token.0);
        }
    }

    fn row(&mut self, row: RowRef) {
        self.int(Column::RunId, i64::from(row.run.0));
        self.int(Column::RunRow, i64::from(row.row));
    }

    /// The columns that every event of an existing job has.
    fn job(&mut self, state: &State, id: JobId) {
        self.id(Column::JobId, id.0);
        let Some(job) = state.job(id) else { return };
        self.text(Column::FromState, job.state.name());
        self.id(Column::BatchId, job.batch.0);
        if let Some(transform) = state.transforms.get(&job.transform) {
            self.text(Column::Transform, &transform.name);
        }
        if let Some(key) = state.key(job.table, job.slot) {
            self.source(
                state,
                SourceRef {
                    table: job.table,
                    slot: job.slot,
                    key,
                    under: None,
                },
            );
        }
    }

    fn attempt(&mut self, state: &State, attempt: AttemptRef) {
        self.job(state, attempt.job);
        self.int(Column::Attempt, i64::from(attempt.attempt));
        self.id(Column::Token, attempt.token.0);
        let job = state
            .job(attempt.job)
            .filter(|job| job.state == JobState::Running);
        if let Some(worker) = job.and_then(|job| state.worker_name(job.worker)) {
            self.text(Column::Worker, worker);
        }
    }

    fn status_change(&mut self, state: &State, job: JobId, status: &str) {
        let Some(job) = state.job(job) else { return };
        let table = state.tables.get(&job.table);
        if let Some((table, source)) = table.and_then(|t| Some((t, t.source(job.slot)?))) {
            self.text(Column::FromStatus, table.status_name(source.status));
        }
        self.text(Column::ToStatus, status);
    }

    /// Appends an event. `state` is the one before it.
    pub fn push(&mut self, version: Version, origin: Origin<'_>, event: &Event<'_>, state: &State) {
        self.head(version, origin, event.kind());
        self.push_body(event, state);
        self.rows += 1;
    }

    /// Appends the `job-scheduled` events of jobs whose ids follow each other, in the order of
    /// their sources.
    pub fn push_scheduled(
        &mut self,
        version: Version,
        origin: Origin<'_>,
        (first, with): (JobId, Scheduled<'_>),
        (table, slots): (TableId, &[Slot]),
        state: &State,
    ) {
        self.times = slots.len();
        self.head(version, origin, EventKind::JobScheduled);
        self.scheduled(first, with, state);
        if let Some(table) = state.tables.get(&table) {
            self.text(Column::SourceTable, &table.name);
            if let Some((Values::Text(builder), _)) = self.at(Column::SourceId) {
                for slot in slots {
                    match table.keys.get(*slot) {
                        Some(Key::Text(text)) => builder.append_value(text),
                        Some(Key::Int(number)) => builder.append_value(number.to_string()),
                        None => builder.append_null(),
                    }
                }
            }
        }
        if let Some((Values::Int(builder), _)) = self.at(Column::Slot) {
            slots
                .iter()
                .for_each(|slot| builder.append_value(i64::from(slot.0)));
        }
        self.rows += slots.len();
        self.times = 1;
    }

    /// The columns that every event has.
    fn head(&mut self, version: Version, origin: Origin<'_>, kind: EventKind) {
        self.id(Column::Version, version.0);
        let ordinal = self.first_ordinal + self.rows;
        self.counting(Column::Ordinal, ordinal as u64);
        self.time(Column::At, origin.at);
        self.text(Column::Actor, origin.actor);
        self.text(Column::StatementId, origin.statement_id);
        self.text(Column::Kind, kind.name());
    }

    /// The columns of scheduled jobs but for those of their sources.
    fn scheduled(&mut self, first: JobId, with: Scheduled<'_>, state: &State) {
        self.counting(Column::JobId, first.0);
        if let Some(transform) = state.transforms.get(&with.transform) {
            self.text(Column::Transform, &transform.name);
        }
        self.id(Column::BatchId, with.batch.0);
        self.int(Column::Priority, i64::from(with.priority));
        self.time(Column::RunAt, with.run_at);
        self.text(Column::ToState, JobState::Waiting.name());
        self.text_if(Column::Params, with.params);
        if let Some(parent) = with.parent.some() {
            self.id(Column::ParentJobId, parent.0);
        }
    }

    fn push_body(&mut self, event: &Event<'_>, state: &State) {
        match *event {
            Event::StatementCommitted {
                sql,
                idempotency_key,
                summary,
            } => {
                self.text(Column::Message, sql);
                self.text_if(Column::Params, idempotency_key);
                self.text(Column::Payload, summary);
            }
            Event::TableCreated { name, def } => {
                self.text(Column::SourceTable, name);
                self.text(Column::Payload, def);
            }
            Event::TableDropped { table } => {
                if let Some(table) = state.tables.get(&table) {
                    self.text(Column::SourceTable, &table.name);
                }
            }
            Event::ObjectCreated { kind, name, sql } => {
                self.text(Column::Resource, name);
                self.text(Column::Mode, kind.name());
                self.text(Column::Message, sql);
            }
            Event::ObjectDropped { kind, name } => {
                self.text(Column::Resource, name);
                self.text(Column::Mode, kind.name());
            }
            Event::TokenCreated { name, role, hash } => {
                self.text(Column::Resource, name);
                self.text(Column::Mode, role.name());
                self.text(Column::Payload, hash);
            }
            Event::TokenRevoked { name } => self.text(Column::Resource, name),
            Event::TurnTaken { holder, expires_at } => {
                self.text(Column::Owner, holder);
                self.time(Column::ExpiresAt, expires_at);
            }
            Event::TimeRepaired => {}
            Event::TransformCreated { name, def } => {
                self.text(Column::Transform, name);
                self.text(Column::Payload, def);
            }
            Event::TransformDropped { transform } => {
                if let Some(transform) = state.transforms.get(&transform) {
                    self.text(Column::Transform, &transform.name);
                }
            }
            Event::RunAdded {
                table,
                run,
                path,
                rows,
                bytes,
            } => {
                self.run(state, table, run, path, rows, bytes);
            }
            Event::RunsMerged {
                table,
                run,
                path,
                rows,
                bytes,
                merged,
            } => {
                self.run(state, table, run, path, rows, bytes);
                self.text(Column::Payload, merged);
            }
            Event::SourceInserted {
                source,
                row,
                status,
            } => {
                self.source(state, source);
                self.row(row);
                self.text(Column::ToStatus, status);
            }
            Event::SourceUpdated { source, row } => {
                self.source(state, source);
                self.row(row);
            }
            Event::SourceDeleted { source } => self.source(state, source),
            Event::StatusSet { source, status } => {
                self.source(state, source);
                let table = state.tables.get(&source.table);
                if let Some((table, row)) = table.and_then(|t| Some((t, t.source(source.slot)?))) {
                    self.text(Column::FromStatus, table.status_name(row.status));
                }
                self.text(Column::ToStatus, status);
            }
            Event::BatchCreated { batch, name } => {
                self.id(Column::BatchId, batch.0);
                self.text_if(Column::Resource, name);
            }
            Event::EffectRefused(refusal) => self.refusal(refusal),
            Event::LockAcquired {
                resource,
                token,
                mode,
                owner,
                reason,
                expires_at,
            } => {
                self.lock(resource, token);
                self.text(Column::Mode, mode.name());
                self.text(Column::Owner, owner);
                self.text_if(Column::Message, reason);
                self.time(Column::ExpiresAt, expires_at);
            }
            Event::LockRenewed {
                resource,
                token,
                expires_at,
            } => {
                self.lock(resource, token);
                self.time(Column::ExpiresAt, expires_at);
            }
            Event::LockReleased {
                resource,
                token,
                reason,
            } => {
                self.lock(resource, token);
                self.text_if(Column::Message, reason);
            }
            Event::LockExpired { resource, token } => self.lock(resource, token),
            Event::JobScheduled { .. }
            | Event::JobStarted { .. }
            | Event::JobRenewed { .. }
            | Event::JobCompleted { .. }
            | Event::JobFailed { .. }
            | Event::JobCrashed { .. }
            | Event::JobReleased { .. }
            | Event::JobCancelRequested { .. }
            | Event::JobCancelled { .. } => self.push_job(event, state),
        }
    }

    fn push_job(&mut self, event: &Event<'_>, state: &State) {
        match *event {
            Event::JobScheduled { job, source, with } => {
                self.scheduled(job, with, state);
                self.source(state, source);
            }
            Event::JobStarted {
                attempt,
                worker,
                transform_version,
                expires_at,
            } => {
                self.attempt(state, attempt);
                self.text(Column::Worker, worker);
                self.int(Column::TransformVersion, i64::from(transform_version));
                self.time(Column::ExpiresAt, expires_at);
                self.text(Column::ToState, JobState::Running.name());
            }
            Event::JobRenewed {
                attempt,
                expires_at,
            } => {
                self.attempt(state, attempt);
                self.time(Column::ExpiresAt, expires_at);
            }
            Event::JobCompleted {
                attempt,
                status,
                row,
                output_uri,
            } => {
                self.attempt(state, attempt);
                if let Some(status) = status {
                    self.status_change(state, attempt.job, status);
                }
                if let Some(row) = row {
                    self.row(row);
                }
                self.text_if(Column::Uri, output_uri);
                self.text(Column::ToState, JobState::Completed.name());
            }
            Event::JobFailed {
                attempt,
                run_at,
                code,
                message,
            } => {
                self.attempt(state, attempt);
                self.text(Column::ErrorCode, code);
                self.text(Column::Message, message);
                self.next_try(run_at, JobState::Retryable);
            }
            Event::JobCrashed { attempt, run_at } => {
                self.attempt(state, attempt);
                self.next_try(run_at, JobState::Waiting);
            }
            Event::JobReleased { attempt, run_at } => {
                self.attempt(state, attempt);
                self.next_try(run_at, JobState::Waiting);
            }
            Event::JobCancelRequested { job } => self.job(state, job),
            Event::JobCancelled { job, reason } => {
                let running = state.job(job).filter(|job| job.state == JobState::Running);
                match running {
                    // The attempt ends with the job; its row must say which one it was.
                    Some(found) => self.attempt(
                        state,
                        AttemptRef {
                            job,
                            attempt: found.attempt,
                            token: found.token,
                        },
                    ),
                    None => self.job(state, job),
                }
                self.text(Column::Message, reason);
                self.text(Column::ToState, JobState::Cancelled.name());
            }
            _ => {}
        }
    }

    fn next_try(&mut self, run_at: Option<Timestamp>, again: JobState) {
        match run_at {
            Some(run_at) => {
                self.time(Column::RunAt, run_at);
                self.text(Column::ToState, again.name());
            }
            None => self.text(Column::ToState, JobState::Discarded.name()),
        }
    }

    fn run(
        &mut self,
        state: &State,
        table: TableId,
        run: RunId,
        path: &str,
        rows: u64,
        bytes: u64,
    ) {
        if let Some(table) = state.tables.get(&table) {
            self.text(Column::SourceTable, &table.name);
        }
        self.int(Column::RunId, i64::from(run.0));
        self.text(Column::Uri, path);
        self.id(Column::Rows, rows);
        self.id(Column::Bytes, bytes);
    }

    fn lock(&mut self, resource: &str, token: Token) {
        self.text(Column::Resource, resource);
        self.id(Column::Token, token.0);
    }

    fn refusal(&mut self, refusal: Refusal<'_>) {
        self.text(Column::Function, refusal.function);
        self.text(Column::Outcome, refusal.outcome);
        self.text(Column::Message, refusal.reason);
        self.text_if(Column::Transform, refusal.transform);
        self.text_if(Column::SourceTable, refusal.table);
        self.text_if(Column::SourceId, refusal.source_id);
        self.text_if(Column::Resource, refusal.resource);
        self.text_if(Column::Owner, refusal.holder);
        if let Some(job) = refusal.job {
            self.id(Column::JobId, job.0);
        }
        if let Some(token) = refusal.token {
            self.id(Column::Token, token.0);
        }
    }
}

/// Why a row of the ledger could not be read as an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A column has another type than [`schema`] says.
    #[error("column \"{0}\" has an unexpected type")]
    ColumnType(&'static str),
    /// A column that this kind of event needs is NULL, out of range or names nothing.
    #[error("column \"{0}\" is missing or out of range")]
    Missing(&'static str),
    /// The kind is not known to this version of the program.
    #[error("event kind \"{0}\" is unknown")]
    Kind(String),
}

enum Cells<'a> {
    Int(&'a Int64Array),
    Time(&'a TimestampMicrosecondArray),
    Text(&'a StringArray),
    Dictionary(&'a DictionaryArray<Int32Type>, &'a StringArray),
    Absent,
}

/// Reads the rows of a batch as events.
pub struct EventsReader<'a> {
    cells: Vec<Cells<'a>>,
    rows: usize,
}

impl<'a> EventsReader<'a> {
    /// Looks at a batch; columns that it lacks count as NULL, columns too many are passed over.
    ///
    /// # Errors
    /// [`Unreadable::ColumnType`].
    pub fn try_new(batch: &'a RecordBatch) -> Result<Self, Unreadable> {
        let cells = Column::ALL.iter().map(|column| {
            let Some(array) = batch.column_by_name(column.name()) else {
                return Ok(Cells::Absent);
            };
            let any = array.as_any();
            let cells = match column.shape() {
                Shape::Int => any.downcast_ref().map(Cells::Int),
                Shape::Time => any.downcast_ref().map(Cells::Time),
                Shape::Text => any.downcast_ref().map(Cells::Text),
                Shape::Dictionary => {
                    any.downcast_ref::<DictionaryArray<Int32Type>>()
                        .and_then(|keys| {
                            Some(Cells::Dictionary(
                                keys,
                                keys.values().as_any().downcast_ref()?,
                            ))
                        })
                }
            };
            cells.ok_or(Unreadable::ColumnType(column.name()))
        });
        Ok(Self {
            cells: cells.collect::<Result<_, _>>()?,
            rows: batch.num_rows(),
        })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn int_if(&self, column: Column, row: usize) -> Option<i64> {
        match self.cells.get(column as usize)? {
            Cells::Int(array) => array.is_valid(row).then(|| array.value(row)),
            Cells::Time(array) => array.is_valid(row).then(|| array.value(row)),
            Cells::Text(_) | Cells::Dictionary(..) | Cells::Absent => None,
        }
    }

    fn text_if(&self, column: Column, row: usize) -> Option<&'a str> {
        match self.cells.get(column as usize)? {
            Cells::Text(array) => array.is_valid(row).then(|| array.value(row)),
            Cells::Dictionary(keys, values) => {
                let key = keys.key(row)?;
                (key < values.len() && values.is_valid(key)).then(|| values.value(key))
            }
            Cells::Int(_) | Cells::Time(_) | Cells::Absent => None,
        }
    }

    fn text(&self, column: Column, row: usize) -> Result<&'a str, Unreadable> {
        self.text_if(column, row)
            .ok_or(Unreadable::Missing(column.name()))
    }

    fn number<T: TryFrom<i64>>(&self, column: Column, row: usize) -> Result<T, Unreadable> {
        self.int_if(column, row)
            .and_then(|value| T::try_from(value).ok())
            .ok_or(Unreadable::Missing(column.name()))
    }

    fn time(&self, column: Column, row: usize) -> Result<Timestamp, Unreadable> {
        self.number(column, row).map(Timestamp)
    }

    fn job_id(&self, row: usize) -> Result<JobId, Unreadable> {
        self.number(Column::JobId, row).map(JobId)
    }

    fn attempt(&self, row: usize) -> Result<AttemptRef, Unreadable> {
        Ok(AttemptRef {
            job: self.job_id(row)?,
            attempt: self.number(Column::Attempt, row)?,
            token: Token(self.number(Column::Token, row)?),
        })
    }

    fn token_if(&self, row: usize) -> Option<Token> {
        let token = self.int_if(Column::Token, row)?;
        u64::try_from(token).ok().map(Token)
    }

    fn row_ref(&self, row: usize) -> Result<RowRef, Unreadable> {
        Ok(RowRef {
            run: RunId(self.number(Column::RunId, row)?),
            row: self.number(Column::RunRow, row)?,
        })
    }

    fn table(&self, row: usize, state: &State) -> Result<crate::id::TableId, Unreadable> {
        let name = self.text(Column::SourceTable, row)?;
        state
            .table_ids
            .get(name)
            .copied()
            .ok_or(Unreadable::Missing(Column::SourceTable.name()))
    }

    fn transform(&self, row: usize, state: &State) -> Result<crate::id::TransformId, Unreadable> {
        let name = self.text(Column::Transform, row)?;
        state
            .transform_ids
            .get(name)
            .copied()
            .ok_or(Unreadable::Missing(Column::Transform.name()))
    }

    fn source(&self, row: usize, state: &State) -> Result<SourceRef<'a>, Unreadable> {
        let table = self.table(row, state)?;
        let missing = Unreadable::Missing(Column::SourceId.name());
        let key_type = state.tables.get(&table).map(|table| table.def.key_type);
        let text = self.text(Column::SourceId, row)?;
        Ok(SourceRef {
            table,
            slot: Slot(self.number(Column::Slot, row)?),
            key: key_type
                .and_then(|key_type| key_type.parse(text))
                .ok_or(missing)?,
            under: self.token_if(row),
        })
    }

    /// The commit that a row says it belongs to, and its place there.
    ///
    /// # Errors
    /// [`Unreadable::Missing`].
    pub fn place(&self, row: usize) -> Result<(Version, u64), Unreadable> {
        Ok((
            Version(self.number(Column::Version, row)?),
            self.number(Column::Ordinal, row)?,
        ))
    }

    /// What a row says of the whole commit, whose first row it must be.
    ///
    /// # Errors
    /// [`Unreadable::Missing`].
    pub fn header(&self, row: usize) -> Result<Header, Unreadable> {
        if self.int_if(Column::Format, row).is_none() {
            return Ok(Header::silent());
        }
        let previous = self.text_if(Column::Previous, row);
        let previous = previous.map(|digits| u64::from_str_radix(digits, 16));
        let unreadable = |_| Unreadable::Missing(Column::Previous.name());
        Ok(Header {
            format: self.number(Column::Format, row)?,
            store: Some(self.text(Column::StoreId, row)?.into()),
            previous: previous.transpose().map_err(unreadable)?,
        })
    }

    /// Who caused a row, by which statement and when.
    ///
    /// # Errors
    /// [`Unreadable::Missing`].
    pub fn origin(&self, row: usize) -> Result<Origin<'a>, Unreadable> {
        Ok(Origin {
            actor: self.text(Column::Actor, row)?,
            statement_id: self.text(Column::StatementId, row)?,
            at: self.time(Column::At, row)?,
        })
    }

    /// The event in a row. Names are looked up in `state`, which is the one before it.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn event(&self, row: usize, state: &State) -> Result<Event<'a>, Unreadable> {
        let kind = self.text(Column::Kind, row)?;
        let kind = EventKind::parse(kind).ok_or_else(|| Unreadable::Kind(kind.to_owned()))?;
        let text = |column| self.text(column, row);
        Ok(match kind {
            EventKind::StatementCommitted => Event::StatementCommitted {
                sql: text(Column::Message)?,
                idempotency_key: self.text_if(Column::Params, row),
                summary: text(Column::Payload)?,
            },
            EventKind::TableCreated => Event::TableCreated {
                name: text(Column::SourceTable)?,
                def: text(Column::Payload)?,
            },
            EventKind::TableDropped => Event::TableDropped {
                table: self.table(row, state)?,
            },
            EventKind::ObjectCreated => Event::ObjectCreated {
                kind: self.object_kind(row)?,
                name: text(Column::Resource)?,
                sql: text(Column::Message)?,
            },
            EventKind::ObjectDropped => Event::ObjectDropped {
                kind: self.object_kind(row)?,
                name: text(Column::Resource)?,
            },
            EventKind::TokenCreated => Event::TokenCreated {
                name: text(Column::Resource)?,
                role: Role::parse(text(Column::Mode)?)
                    .ok_or(Unreadable::Missing(Column::Mode.name()))?,
                hash: text(Column::Payload)?,
            },
            EventKind::TurnTaken => Event::TurnTaken {
                holder: text(Column::Owner)?,
                expires_at: self.time(Column::ExpiresAt, row)?,
            },
            EventKind::TimeRepaired => Event::TimeRepaired,
            EventKind::TokenRevoked => Event::TokenRevoked {
                name: text(Column::Resource)?,
            },
            EventKind::TransformCreated => Event::TransformCreated {
                name: text(Column::Transform)?,
                def: text(Column::Payload)?,
            },
            EventKind::TransformDropped => Event::TransformDropped {
                transform: self.transform(row, state)?,
            },
            EventKind::RunAdded => Event::RunAdded {
                table: self.table(row, state)?,
                run: RunId(self.number(Column::RunId, row)?),
                path: text(Column::Uri)?,
                rows: self.number(Column::Rows, row)?,
                bytes: self.number(Column::Bytes, row)?,
            },
            EventKind::RunsMerged => Event::RunsMerged {
                table: self.table(row, state)?,
                run: RunId(self.number(Column::RunId, row)?),
                path: text(Column::Uri)?,
                rows: self.number(Column::Rows, row)?,
                bytes: self.number(Column::Bytes, row)?,
                merged: text(Column::Payload)?,
            },
            EventKind::SourceInserted => Event::SourceInserted {
                source: self.source(row, state)?,
                row: self.row_ref(row)?,
                status: text(Column::ToStatus)?,
            },
            EventKind::SourceUpdated => Event::SourceUpdated {
                source: self.source(row, state)?,
                row: self.row_ref(row)?,
            },
            EventKind::SourceDeleted => Event::SourceDeleted {
                source: self.source(row, state)?,
            },
            EventKind::StatusSet => Event::StatusSet {
                source: self.source(row, state)?,
                status: text(Column::ToStatus)?,
            },
            EventKind::BatchCreated => Event::BatchCreated {
                batch: BatchId(self.number(Column::BatchId, row)?),
                name: self.text_if(Column::Resource, row),
            },
            EventKind::EffectRefused => Event::EffectRefused(self.refusal(row)?),
            EventKind::LockAcquired
            | EventKind::LockRenewed
            | EventKind::LockReleased
            | EventKind::LockExpired => self.lock_event(kind, row)?,
            EventKind::JobScheduled
            | EventKind::JobStarted
            | EventKind::JobRenewed
            | EventKind::JobCompleted
            | EventKind::JobFailed
            | EventKind::JobCrashed
            | EventKind::JobReleased
            | EventKind::JobCancelRequested
            | EventKind::JobCancelled => self.job_event(kind, row, state)?,
        })
    }

    fn object_kind(&self, row: usize) -> Result<ObjectKind, Unreadable> {
        ObjectKind::parse(self.text(Column::Mode, row)?)
            .ok_or(Unreadable::Missing(Column::Mode.name()))
    }

    fn job_event(
        &self,
        kind: EventKind,
        row: usize,
        state: &State,
    ) -> Result<Event<'a>, Unreadable> {
        let run_at_if = self.int_if(Column::RunAt, row).map(Timestamp);
        Ok(match kind {
            EventKind::JobScheduled => Event::JobScheduled {
                job: self.job_id(row)?,
                source: self.source(row, state)?,
                with: Scheduled {
                    transform: self.transform(row, state)?,
                    batch: BatchId(self.number(Column::BatchId, row)?),
                    priority: self.number(Column::Priority, row)?,
                    run_at: self.time(Column::RunAt, row)?,
                    params: self.text_if(Column::Params, row),
                    parent: match self.int_if(Column::ParentJobId, row) {
                        Some(_) => JobId(self.number(Column::ParentJobId, row)?),
                        None => JobId::NONE,
                    },
                },
            },
            EventKind::JobStarted => Event::JobStarted {
                attempt: self.attempt(row)?,
                worker: self.text(Column::Worker, row)?,
                transform_version: self.number(Column::TransformVersion, row)?,
                expires_at: self.time(Column::ExpiresAt, row)?,
            },
            EventKind::JobRenewed => Event::JobRenewed {
                attempt: self.attempt(row)?,
                expires_at: self.time(Column::ExpiresAt, row)?,
            },
            EventKind::JobCompleted => Event::JobCompleted {
                attempt: self.attempt(row)?,
                status: self.text_if(Column::ToStatus, row),
                row: match self.int_if(Column::RunId, row) {
                    Some(_) => Some(self.row_ref(row)?),
                    None => None,
                },
                output_uri: self.text_if(Column::Uri, row),
            },
            EventKind::JobFailed => Event::JobFailed {
                attempt: self.attempt(row)?,
                run_at: run_at_if,
                code: self.text(Column::ErrorCode, row)?,
                message: self.text(Column::Message, row)?,
            },
            EventKind::JobCrashed => Event::JobCrashed {
                attempt: self.attempt(row)?,
                run_at: run_at_if,
            },
            EventKind::JobReleased => Event::JobReleased {
                attempt: self.attempt(row)?,
                run_at: run_at_if,
            },
            EventKind::JobCancelled => Event::JobCancelled {
                job: self.job_id(row)?,
                reason: self.text(Column::Message, row)?,
            },
            _ => Event::JobCancelRequested {
                job: self.job_id(row)?,
            },
        })
    }

    fn lock_event(&self, kind: EventKind, row: usize) -> Result<Event<'a>, Unreadable> {
        let resource = self.text(Column::Resource, row)?;
        let token = Token(self.number(Column::Token, row)?);
        Ok(match kind {
            EventKind::LockAcquired => Event::LockAcquired {
                resource,
                token,
                mode: LockMode::parse(self.text(Column::Mode, row)?)
                    .ok_or(Unreadable::Missing(Column::Mode.name()))?,
                owner: self.text(Column::Owner, row)?,
                reason: self.text_if(Column::Message, row),
                expires_at: self.time(Column::ExpiresAt, row)?,
            },
            EventKind::LockRenewed => Event::LockRenewed {
                resource,
                token,
                expires_at: self.time(Column::ExpiresAt, row)?,
            },
            EventKind::LockReleased => Event::LockReleased {
                resource,
                token,
                reason: self.text_if(Column::Message, row),
            },
            _ => Event::LockExpired { resource, token },
        })
    }

    fn refusal(&self, row: usize) -> Result<Refusal<'a>, Unreadable> {
        Ok(Refusal {
            function: self.text(Column::Function, row)?,
            outcome: self.text(Column::Outcome, row)?,
            reason: self.text(Column::Message, row)?,
            transform: self.text_if(Column::Transform, row),
            table: self.text_if(Column::SourceTable, row),
            source_id: self.text_if(Column::SourceId, row),
            job: self
                .int_if(Column::JobId, row)
                .and_then(|id| u64::try_from(id).ok())
                .map(JobId),
            token: self.token_if(row),
            resource: self.text_if(Column::Resource, row),
            holder: self.text_if(Column::Owner, row),
        })
    }
}
