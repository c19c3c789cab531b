//! The action of effect queries: read the rows that carry arguments, let the sink commit, and
//! put the results where the arguments were. PREVIEW asks a forecast instead.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt;

use crate::error::{Code, Error, Result};
use crate::functions::effect::{EffectFunction, Need};
use crate::session::effect_node::RootAction;

/// One effect function with the arguments of all rows.
#[derive(Debug, Clone)]
pub struct BoundCall {
    /// The function.
    pub function: EffectFunction,
    /// One row per output row; the fields are [`Signature::fields`] of the function, in order.
    /// Any of them may be NULL in a row, required ones too: such a row has no effect and the
    /// result NULL. See [`BoundCall::null_argument`].
    ///
    /// [`Signature::fields`]: crate::functions::effect::Signature::fields
    pub args: StructArray,
}

impl BoundCall {
    /// The first required argument that is NULL in this row.
    pub fn null_argument(&self, row: usize) -> Option<&'static str> {
        let parameters = self.function.signature().parameters;
        parameters
            .iter()
            .zip(self.args.columns())
            .find(|(parameter, column)| parameter.need == Need::Required && column.is_null(row))
            .map(|(parameter, _)| parameter.name)
    }
}

/// Carries out the effects of one statement.
#[async_trait]
pub trait EffectSink: std::fmt::Debug + Send + Sync {
    /// Applies the calls in one commit.
    ///
    /// # Arguments
    /// `rows` is the length of every call's arguments, at least 1. Rows are in their final order;
    /// all calls of one row come before the next row.
    ///
    /// # Returns
    /// Per call an array of results, of its return type and `rows` long.
    async fn apply(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<ArrayRef>>;
}

/// Foretells the effects of one statement and changes nothing.
#[async_trait]
pub trait EffectForecast: std::fmt::Debug + Send + Sync {
    /// Foretells the calls as if they ran in this order now.
    ///
    /// # Returns
    /// Per call a struct of [`forecast_fields`], `rows` long.
    async fn forecast(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<StructArray>>;
}

/// The columns that PREVIEW shows per call beside its arguments: `outcome` such as `scheduled`,
/// `already-live`, `locked`; `reason` in words; `blocking_job_id` and `holder`, who is in the way.
pub fn forecast_fields() -> Fields {
    Fields::from(vec![
        Field::new("outcome", DataType::Utf8, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("blocking_job_id", DataType::Int64, true),
        Field::new("holder", DataType::Utf8, true),
    ])
}

/// Who takes the calls.
#[derive(Debug, Clone)]
pub enum EffectTarget {
    /// Do it.
    Commit(Arc<dyn EffectSink>),
    /// PREVIEW: tell what would happen.
    Preview(Arc<dyn EffectForecast>),
}

/// One effect of a planned query.
#[derive(Debug, Clone)]
pub struct EffectCall {
    /// The function.
    pub function: EffectFunction,
    /// The column of the input that carries its arguments.
    pub column: usize,
    /// The name of its column in the output.
    pub name: String,
    /// Which parameters the call gives; PREVIEW shows only these.
    pub given: Vec<usize>,
}

/// The action of an effect query.
#[derive(Debug)]
pub struct EffectAction {
    name: String,
    calls: Vec<EffectCall>,
    target: EffectTarget,
    rows_max: usize,
}

impl EffectAction {
    /// The action of these calls, over at most `rows_max` rows.
    pub fn new(calls: Vec<EffectCall>, target: EffectTarget, rows_max: usize) -> Self {
        let names: Vec<&str> = calls.iter().map(|call| call.function.name()).collect();
        let name = match &target {
            EffectTarget::Commit(_) => names.join(", "),
            EffectTarget::Preview(_) => format!("preview of {}", names.join(", ")),
        };
        Self {
            name,
            calls,
            target,
            rows_max,
        }
    }

    fn call_at(&self, column: usize) -> Option<(usize, &EffectCall)> {
        self.calls
            .iter()
            .enumerate()
            .find(|(_, call)| call.column == column)
    }

    fn committed_schema(&self, input: &SchemaRef) -> SchemaRef {
        let fields = input
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| match self.call_at(at) {
                Some((_, call)) => Arc::new(Field::new(
                    call.name.clone(),
                    call.function.return_type(),
                    true,
                )),
                None => Arc::clone(field),
            });
        Arc::new(Schema::new_with_metadata(
            fields.collect::<Fields>(),
            input.metadata().clone(),
        ))
    }

    fn preview_schema(&self, input: &SchemaRef) -> SchemaRef {
        let kept = input
            .fields()
            .iter()
            .enumerate()
            .filter(|(at, _)| self.call_at(*at).is_none());
        let mut fields: Vec<FieldRef> = kept.map(|(_, field)| Arc::clone(field)).collect();
        for call in &self.calls {
            let signature = call.function.signature().fields();
            let args = call
                .given
                .iter()
                .filter_map(|given| signature.get(*given).cloned());
            for field in args.chain(forecast_fields().iter().cloned()) {
                let name = self.preview_name(&fields, call, field.name());
                fields.push(Arc::new(field.as_ref().clone().with_name(name)));
            }
        }
        Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()))
    }

    /// With one call its columns have plain names, with several the call's name before them.
    /// What is taken already gets the call's name and, if need be, a number.
    fn preview_name(&self, taken: &[FieldRef], call: &EffectCall, name: &str) -> String {
        let free = |name: &str| taken.iter().all(|field| field.name() != name);
        if self.calls.len() == 1 && free(name) {
            return name.to_owned();
        }
        let long = format!("{}_{name}", call.name);
        if free(&long) {
            return long;
        }
        let mut number = 2_u64;
        loop {
            let numbered = format!("{long}_{number}");
            if free(&numbered) {
                return numbered;
            }
            number += 1;
        }
    }

    /// Runs the calls for arguments that are there already, as one row or more.
    ///
    /// # Returns
    /// The rows; columns as in the output of a query whose items are these calls.
    pub async fn run_calls(&self, rows: usize, calls: Vec<BoundCall>) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> = calls
            .iter()
            .map(|call| Arc::new(call.args.clone()) as ArrayRef)
            .collect();
        let fields: Fields = self
            .calls
            .iter()
            .zip(&arrays)
            .map(|(call, args)| Field::new(call.name.clone(), args.data_type().clone(), true))
            .collect();
        let input = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        let output = self.output_schema(&input.schema())?;
        let mut batches = self.decide(vec![input], rows, calls, &output).await?;
        batches
            .pop()
            .ok_or_else(|| Error::bug("an effect returned no row"))
    }

    async fn collect(
        &self,
        mut input: SendableRecordBatchStream,
        reservation: &MemoryReservation,
    ) -> Result<(Vec<RecordBatch>, usize)> {
        let mut memory = RecordBatchMemoryCounter::new();
        let mut batches = Vec::new();
        let mut rows = 0;
        while let Some(batch) = input.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            rows += batch.num_rows();
            check_effect_rows(rows, self.rows_max)?;
            // Twice: the arguments are copied into one array for the sink.
            reservation.try_grow(2 * memory.count_batch(&batch))?;
            batches.push(batch);
        }
        Ok((batches, rows))
    }

    fn bind(&self, batches: &[RecordBatch]) -> Result<Vec<BoundCall>> {
        let bound = self.calls.iter().map(|call| {
            let parts: Vec<&dyn Array> = batches
                .iter()
                .map(|batch| batch.column(call.column).as_ref())
                .collect();
            let all = concat(&parts)?;
            let args = all
                .as_struct_opt()
                .filter(|args| args.fields() == &call.function.signature().fields())
                .ok_or_else(|| {
                    Error::bug(format!("column {} carries no arguments", call.column))
                })?;
            Ok(BoundCall {
                function: call.function,
                args: args.clone(),
            })
        });
        bound.collect()
    }

    /// One commit or forecast, and the rows with its results.
    async fn decide(
        &self,
        batches: Vec<RecordBatch>,
        rows: usize,
        calls: Vec<BoundCall>,
        output: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        match &self.target {
            EffectTarget::Commit(sink) => {
                let results = sink.apply(rows, calls).await?;
                let types = self.calls.iter().map(|call| call.function.return_type());
                check_results(&results, types, rows)?;
                self.committed_rows(&batches, &results, output)
            }
            EffectTarget::Preview(forecast) => {
                let results = forecast.forecast(rows, calls.clone()).await?;
                let results: Vec<ArrayRef> = results
                    .into_iter()
                    .map(|array| Arc::new(array) as ArrayRef)
                    .collect();
                let types = self
                    .calls
                    .iter()
                    .map(|_| DataType::Struct(forecast_fields()));
                check_results(&results, types, rows)?;
                self.preview_rows(&batches, &calls, &results, output)
            }
        }
    }

    fn committed_rows(
        &self,
        batches: &[RecordBatch],
        results: &[ArrayRef],
        output: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let mut done = 0;
        let rows = batches.iter().map(|batch| {
            let columns = batch.columns().iter().enumerate().map(|(at, column)| {
                match self.call_at(at).and_then(|(n, _)| results.get(n)) {
                    Some(result) => result.slice(done, batch.num_rows()),
                    None => Arc::clone(column),
                }
            });
            let rows = RecordBatch::try_new(Arc::clone(output), columns.collect())?;
            done += batch.num_rows();
            Ok(rows)
        });
        rows.collect()
    }

    fn preview_rows(
        &self,
        batches: &[RecordBatch],
        calls: &[BoundCall],
        results: &[ArrayRef],
        output: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let mut done = 0;
        let rows = batches.iter().map(|batch| {
            let kept = batch.columns().iter().enumerate();
            let kept = kept.filter(|(at, _)| self.call_at(*at).is_none());
            let mut columns: Vec<ArrayRef> = kept.map(|(_, column)| Arc::clone(column)).collect();
            for ((call, bound), result) in self.calls.iter().zip(calls).zip(results) {
                let args = call
                    .given
                    .iter()
                    .filter_map(|given| bound.args.columns().get(*given));
                let outcome = result.as_struct_opt().map_or(&[][..], StructArray::columns);
                columns.extend(
                    args.chain(outcome)
                        .map(|column| column.slice(done, batch.num_rows())),
                );
            }
            let rows = RecordBatch::try_new(Arc::clone(output), columns)?;
            done += batch.num_rows();
            Ok(rows)
        });
        rows.collect()
    }
}

fn check_results(
    results: &[ArrayRef],
    types: impl ExactSizeIterator<Item = DataType>,
    rows: usize,
) -> Result<()> {
    let fit = results.len() == types.len()
        && results
            .iter()
            .zip(types)
            .all(|(array, expected)| array.len() == rows && array.data_type() == &expected);
    if fit {
        Ok(())
    } else {
        Err(Error::bug(
            "the results of the effects do not fit their calls",
        ))
    }
}

#[async_trait]
impl RootAction for EffectAction {
    fn name(&self) -> &str {
        &self.name
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef> {
        Ok(match &self.target {
            EffectTarget::Commit(_) => self.committed_schema(input),
            EffectTarget::Preview(_) => self.preview_schema(input),
        })
    }

    async fn run(
        &self,
        input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let output = self.output_schema(&input.schema())?;
        // Held until the rows are given away: the commit still has them.
        let reservation = MemoryConsumer::new("effect rows").register(context.memory_pool());
        let (batches, rows) = self.collect(input, &reservation).await?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let calls = self.bind(&batches)?;
        self.decide(batches, rows, calls, &output).await
    }
}

/// Refuses an effect statement of more rows than it may have.
///
/// # Errors
/// `SG5001 too-many-rows`.
pub fn check_effect_rows(rows: usize, rows_max: usize) -> Result<()> {
    if rows <= rows_max {
        return Ok(());
    }
    Err(Error::new(
        Code::TooManyRows,
        format!("the effect statement has more than {rows_max} rows"),
    )
    .with_detail("Nothing was changed.")
    .with_hint(
        "Narrow the WHERE, add a LIMIT, or raise max_rows of the request or effect_rows_max.",
    ))
}
