//! Runs transforms of kind SQL: one query over the rows of a group, one outcome per source.
//!
//! A row that makes the query fail must not fail its neighbours: the group is then split in
//! halves until the row stands alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::TableProvider;
use datafusion::config::ConfigNonZeroUsize;
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col, lit};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::{Code, Error, Result};
use crate::functions::dates::cast_as_written;
use crate::id::JobId;
use crate::ledger::run::RunWriter;
use crate::model::sources::SourceTable;
use crate::model::transform::SqlOutput;
use crate::session::catalog::state_over;
use crate::session::core::Core;
use crate::session::effect_node::planning::plan_statement;
use crate::session::names::quoted;
use crate::session::statement::Statement;
use crate::session::transforms::{ERROR, INPUT, input_schema};
use crate::session::writeback::Columns;
use crate::session::{parser, query_tree};
use crate::tables::source_table::{SystemColumn, user_schema};
use crate::worker::assignments::table_of;
use crate::worker::command::{Outcome, Stop, StopReason};
use crate::worker::group::failed;
use crate::worker::output;
use crate::worker::queue::{Group, GroupJob};

/// Rows that flow through a transform's query at once. Small, because each may carry a whole
/// document.
const BATCH_ROWS: usize = 32;

/// A group for the executor.
pub(super) struct Work<'a> {
    pub core: &'a Arc<Core>,
    pub group: &'a Group,
    pub body: &'a str,
    pub output: SqlOutput,
    pub rows: Vec<GroupJob>,
    pub batch: RecordBatch,
}

/// The query of a transform over some rows, ready to run.
struct Planned {
    table: Arc<SourceTable>,
    physical: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

impl Work<'_> {
    /// Runs the query and sends one outcome per row.
    ///
    /// # Errors
    /// The query could not be planned, or the store did not answer: no row is to blame, so all
    /// that are not done are handed back.
    pub async fn run(
        self,
        mut stops: mpsc::Receiver<Stop>,
        outcomes: mpsc::Sender<(JobId, Outcome)>,
    ) -> Result<()> {
        let mut worked = Ok(());
        let mut stopped: HashMap<JobId, StopReason> = HashMap::new();
        let done: Mutex<HashSet<JobId>> = Mutex::default();
        let timeout = std::time::Duration::from_millis(self.group.def.timeout_ms);
        let ended = {
            let work = self.parts(&done, &outcomes);
            tokio::pin!(work);
            let ends = tokio::time::sleep(timeout);
            tokio::pin!(ends);
            loop {
                tokio::select! {
                    all = &mut work => {
                        worked = all;
                        break None;
                    }
                    () = &mut ends => break Some(StopReason::Timeout),
                    stop = stops.recv() => match stop {
                        Some(Stop::Group(reason)) => break Some(reason),
                        // The query goes on for the others; the job's report says what happened.
                        Some(Stop::Job(job, reason)) => {
                            stopped.insert(job, reason);
                            let over = |job| stopped.contains_key(job) || done.lock().contains(job);
                            if self.rows.iter().all(|row| over(&row.report.job)) {
                                break None;
                            }
                        }
                        None => {
                            worked = work.await;
                            break None;
                        }
                    },
                }
            }
        };
        let done = done.into_inner();
        for job in self.rows.iter().map(|row| row.report.job) {
            if done.contains(&job) {
                continue;
            }
            let outcome = match stopped.get(&job).copied().or(ended) {
                Some(StopReason::Timeout) => failed(&Error::new(
                    Code::AttemptTimeout,
                    format!("the query ran longer than {} s", timeout.as_secs_f64()),
                )),
                Some(StopReason::Cancelled) => Outcome::Cancelled,
                Some(StopReason::LeaseLost | StopReason::Shutdown) | None => Outcome::Released,
            };
            let _ = outcomes.send((job, outcome)).await;
        }
        worked
    }

    async fn parts(
        &self,
        done: &Mutex<HashSet<JobId>>,
        outcomes: &mpsc::Sender<(JobId, Outcome)>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let mut parts = vec![all];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let planned = self.plan(&part).await?;
            let settled = match self.query(planned, &part).await {
                Ok(settled) => settled,
                Err(error) if error.retryable() => return Err(error),
                Err(error) if part.len() == 1 => {
                    part.iter().map(|&row| (row, failed(&error))).collect()
                }
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second.to_vec());
                    parts.push(first.to_vec());
                    continue;
                }
            };
            for (row, outcome) in settled {
                let Some(job) = self.rows.get(row) else {
                    continue;
                };
                // A closed channel means that nobody waits for this group any more.
                if outcomes.send((job.report.job, outcome)).await.is_err() {
                    return Ok(());
                }
                done.lock().insert(job.report.job);
            }
        }
        Ok(())
    }

    /// Plans the query over some rows.
    async fn plan(&self, part: &[usize]) -> Result<Planned> {
        let core = self.core;
        let state = core.ledger.seen();
        let table = table_of(&state, self.group)?;
        let input = self.input(part, &input_schema(&table)?)?;
        let mut base = core.base.clone();
        let batch_size = ConfigNonZeroUsize::try_new(BATCH_ROWS)?;
        base.config_mut().options_mut().execution.batch_size = batch_size;
        let input = with_content(&base, input)?;
        let session = state_over(&base, core.sight(state), vec![(INPUT.to_owned(), input)]);
        let Statement::Query(query) = parser::parse(self.body)?.statement else {
            return Err(Error::bug("the body of a transform is no query"));
        };
        let plan = plan_statement(&session, query_tree(*query)).await?;
        let physical = session.create_physical_plan(&plan).await?;
        Ok(Planned {
            table,
            physical,
            context: session.task_ctx(),
        })
    }

    /// Runs the query over some rows; one outcome for each of them.
    async fn query(&self, planned: Planned, part: &[usize]) -> Result<Vec<(usize, Outcome)>> {
        let Planned {
            table,
            physical,
            context,
        } = planned;
        let schema = physical.schema();
        let mut stream = execute_stream(physical, context)?;
        let mut batches = Vec::new();
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            rows += batch.num_rows();
            if rows > 2 * self.rows.len() + BATCH_ROWS {
                return Err(Error::new(
                    Code::InvalidAnswer,
                    "the query gives more rows than there are sources",
                )
                .with_detail("A transform gives one row per source."));
            }
            batches.push(batch);
        }
        let result = concat_batches(&schema, &batches)?;
        self.settle(part, &result, &table.def.key, &user_schema(&table.def)?)
            .await
    }

    fn input(&self, part: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let indices: arrow::array::UInt32Array =
            part.iter().map(|&row| u32::try_from(row).ok()).collect();
        let rows = take_record_batch(&self.batch, &indices)?;
        let jobs = || part.iter().filter_map(|&row| self.rows.get(row));
        let id = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in schema.fields() {
            let column: ArrayRef = match (rows.column_by_name(field.name()), field.name().as_str())
            {
                (Some(column), _) => cast(column, field.data_type())?,
                (None, "job_id") => Arc::new(
                    jobs()
                        .map(|job| Some(id(job.report.job.0)))
                        .collect::<Int64Array>(),
                ),
                (None, "attempt") => Arc::new(
                    jobs()
                        .map(|job| Some(i64::from(job.attempt)))
                        .collect::<Int64Array>(),
                ),
                (None, "params") => Arc::new(
                    jobs()
                        .map(|job| job.params.as_deref())
                        .collect::<StringArray>(),
                ),
                (None, _) => continue,
            };
            fields.push(Arc::clone(field));
            columns.push(column);
        }
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    async fn settle(
        &self,
        part: &[usize],
        result: &RecordBatch,
        key: &str,
        user: &SchemaRef,
    ) -> Result<Vec<(usize, Outcome)>> {
        let keys = result.column_by_name(key).ok_or_else(|| {
            Error::new(
                Code::InvalidAnswer,
                format!("the query does not give the key column \"{key}\""),
            )
        })?;
        let keys = cast(keys, &DataType::Utf8)?;
        let keys = keys.as_string::<i32>();
        let mut found: HashMap<&str, Vec<usize>> = HashMap::new();
        for row in 0..keys.len() {
            if keys.is_valid(row) {
                found.entry(keys.value(row)).or_default().push(row);
            }
        }
        let (kept, misfits) = kept_columns(result, key, user)?;
        let mut settled = Vec::with_capacity(part.len());
        for &index in part {
            let Some(job) = self.rows.get(index) else {
                continue;
            };
            let outcome = match found.get(job.source_id.as_str()).map(Vec::as_slice) {
                None => failed(&Error::new(
                    Code::NoAnswer,
                    format!("the query gave no row for source \"{}\"", job.source_id),
                )),
                // An error that the query itself gives says more.
                Some([row]) if misfits.contains_key(row) && !has_error(result, *row) => {
                    failed(&Error::new(
                        Code::InvalidAnswer,
                        misfits.get(row).cloned().unwrap_or_default(),
                    ))
                }
                Some([row]) => match self.outcome(job, result, *row, &kept).await {
                    Ok(outcome) => outcome,
                    Err(error) => failed(&error),
                },
                Some(several) => failed(&Error::new(
                    Code::InvalidAnswer,
                    format!(
                        "the query gave {} rows for source \"{}\"",
                        several.len(),
                        job.source_id
                    ),
                )),
            };
            settled.push((index, outcome));
        }
        Ok(settled)
    }

    async fn outcome(
        &self,
        job: &GroupJob,
        result: &RecordBatch,
        row: usize,
        kept: &RecordBatch,
    ) -> Result<Outcome> {
        let text = |name: &str| {
            let column = kept.column_by_name(name)?.as_string_opt::<i32>()?;
            (row < column.len() && column.is_valid(row)).then(|| column.value(row))
        };
        let status = SystemColumn::Status.name();
        if let Some(error) = text(ERROR) {
            let (code, message) = classify(error);
            return Ok(Outcome::Failed {
                code: code.to_owned(),
                message: message.to_owned(),
            });
        }
        let fields = kept.schema_ref().fields().iter().enumerate();
        let columns = fields.filter(|(_, field)| *field.name() != ERROR && field.name() != status);
        let columns: Vec<usize> = columns.map(|(at, _)| at).collect();
        let columns = Columns::Row(kept.project(&columns)?.slice(row, 1));
        let status = text(status).map(str::to_owned);
        let output = match self.output {
            SqlOutput::None => None,
            SqlOutput::Parquet => {
                let path = format!("{}/result.parquet", output::folder(self.group, job));
                let store = self.core.ledger.store();
                let schema = result.schema();
                let key = schema
                    .fields()
                    .first()
                    .map(|f| f.name().clone())
                    .unwrap_or_default();
                let mut writer = RunWriter::open(store, &path, Arc::clone(&schema), &key).await?;
                writer.write(&result.slice(row, 1)).await?;
                writer.finish().await?;
                Some(path)
            }
        };
        Ok(Outcome::Completed {
            status,
            columns,
            output,
        })
    }
}

/// Whether the query gives an error for this row.
fn has_error(result: &RecordBatch, row: usize) -> bool {
    let errors = result.column_by_name(ERROR);
    errors.is_some_and(|errors| errors.is_valid(row))
}

/// The columns of a result that go back to the source (those of the table, `status`, `error`),
/// and by row what does not fit the type of its column.
fn kept_columns(
    result: &RecordBatch,
    key: &str,
    user: &SchemaRef,
) -> Result<(RecordBatch, HashMap<usize, String>)> {
    let mut misfits = HashMap::new();
    let mut columns = Vec::new();
    for (field, column) in result.schema().fields().iter().zip(result.columns()) {
        let name = field.name().as_str();
        let wanted = match user.field_with_name(name) {
            Ok(_) if name == key => continue,
            Ok(field) => field.data_type().clone(),
            Err(_) if name == SystemColumn::Status.name() || name == ERROR => DataType::Utf8,
            Err(_) => continue,
        };
        let fitted = cast_as_written(column, &wanted)?;
        // A value that cannot be cast turns NULL.
        for row in 0..column.len() {
            if column.is_valid(row) && fitted.is_null(row) {
                let value = array_value_to_string(column, row)?;
                misfits.entry(row).or_insert(format!(
                    "value \"{value}\" of column \"{name}\" is no {wanted}"
                ));
            }
        }
        columns.push((field.name().clone(), fitted));
    }
    if columns.is_empty() {
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(result.num_rows()));
        let none = Arc::new(arrow::datatypes::Schema::empty());
        let kept = RecordBatch::try_new_with_options(none, Vec::new(), &options)?;
        return Ok((kept, misfits));
    }
    let kept = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )?;
    Ok((kept, misfits))
}

/// Splits `class: message`, so that failures can be selected by their class.
fn classify(error: &str) -> (&str, &str) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match error.split_once(':') {
        Some((class, message))
            if !class.is_empty() && class.len() <= 60 && class.chars().all(word) =>
        {
            (class, message.trim_start())
        }
        _ => ("error", error),
    }
}

/// `input`: the rows, and `content` read only where the query asks for it.
fn with_content(base: &SessionState, rows: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    let schema = rows.schema();
    let table = MemTable::try_new(Arc::clone(&schema), vec![vec![rows]])?;
    let table: Arc<dyn TableProvider> = Arc::new(table);
    if schema.index_of("content").is_ok() {
        return Ok(table);
    }
    let column = |name: &str| col(quoted(name));
    let mut columns: Vec<Expr> = schema.fields().iter().map(|f| column(f.name())).collect();
    let content = match (
        schema.index_of("uri"),
        base.scalar_functions().get("read_text"),
    ) {
        (Ok(_), Some(read_text)) => read_text.call(vec![column("uri")]),
        _ => lit(ScalarValue::Utf8(None)),
    };
    columns.push(content.alias("content"));
    let plan = LogicalPlanBuilder::scan("rows", provider_as_source(table), None)?
        .project(columns)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

#[cfg(test)]
mod tests {
    use super::classify;

    #[test]
    fn errors_are_split_into_class_and_message() {
        assert_eq!(classify("broken-xml: line 3"), ("broken-xml", "line 3"));
        assert_eq!(classify("no class here"), ("error", "no class here"));
        assert_eq!(classify("two words: x"), ("error", "two words: x"));
    }
}
