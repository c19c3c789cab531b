//! Rows as Flight messages, both ways, in bounded memory.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Status;

use crate::error::{Error, Result};
use crate::server::allowance::Allowance;
use crate::server::flight_sql::status::status;
use crate::server::ipc::{Upload, Uploaded};
use crate::server::request::Intake;
use crate::server::rows::SLICE_ROWS;
use crate::server::run::{Rows, Run, cancelled, check_rows};
use crate::server::statements::Outcome;

/// Messages on their way.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>;

/// The columns as they are sent: values instead of dictionaries, which some clients do not read.
pub(super) fn sent(schema: &SchemaRef) -> SchemaRef {
    let none = futures::stream::empty::<Result<RecordBatch, FlightError>>();
    let encoder = FlightDataEncoderBuilder::new().with_schema(Arc::clone(schema));
    encoder
        .build(none)
        .known_schema()
        .unwrap_or_else(|| Arc::clone(schema))
}

fn messages(
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> Messages {
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .build(rows);
    Box::pin(encoder.map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        error => status(Error::bug("rows cannot be sent").with_source(error)),
    }))
}

/// Rows that are in memory.
pub(super) fn whole(batch: RecordBatch) -> Messages {
    messages(batch.schema(), futures::stream::iter([Ok(batch)]))
}

/// The rows of a statement. A batch is read when the client has taken the one before; a client
/// that goes away drops the statement.
pub(super) fn of_run(run: Run, schema: SchemaRef, rows: Rows, rows_max: Option<u64>) -> Messages {
    let batches = futures::stream::unfold(Some((run, rows, 0)), move |state| async move {
        let (run, mut rows, count) = state?;
        let next = tokio::select! {
            () = run.record.cancel.cancelled() => Err(cancelled()),
            next = rows.next() => next.transpose(),
        };
        let next = next.and_then(|batch| {
            let all = count + batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
            check_rows(all, rows_max).map(|()| (batch, all))
        });
        match next {
            Ok((Some(batch), all)) => Some((Ok(batch), Some((run, rows, all)))),
            Ok((None, all)) => {
                let outcome = run.record.outcome();
                run.record.note(Outcome {
                    rows: Some(all),
                    ..outcome
                });
                run.succeed(None);
                None
            }
            Err(error) => {
                tracing::info!(%error, statement_id = %run.record.id, "a result was cut short");
                let status = status(run.fail(error));
                Some((Err(FlightError::Tonic(Box::new(status))), None))
            }
        }
    });
    // The rows of an effect may come as one batch of a million.
    let slices = batches.flat_map(|batch| {
        let slices: Vec<Result<RecordBatch, FlightError>> = match batch {
            Ok(batch) => (0..batch.num_rows())
                .step_by(SLICE_ROWS)
                .map(|at| Ok(batch.slice(at, SLICE_ROWS.min(batch.num_rows() - at))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(slices)
    });
    messages(schema, slices)
}

/// Reads the rows that a client sends.
///
/// # Returns
/// None where it sends no schema, and what the rows take.
///
/// # Errors
/// Those of [`Upload`]; `SG4003 bad-request` for a stream that is cut short.
pub(super) async fn received(
    mut stream: PeekableFlightDataStream,
    intake: Intake<'_>,
) -> Result<(Option<Uploaded>, Allowance), Status> {
    let allowance = intake.allowance();
    let mut upload = Upload::new(allowance.clone(), intake.rows_max);
    let mut some = false;
    while let Some(message) = stream.next().await {
        let FlightData {
            data_header,
            data_body,
            ..
        } = message?;
        if data_header.is_empty() {
            continue;
        }
        some = true;
        allowance
            .take(data_header.len() + data_body.len())
            .and_then(|()| upload.message(&data_header, &data_body))
            .map_err(status)?;
    }
    if !some {
        return Ok((None, allowance));
    }
    Ok((Some(upload.finish().map_err(status)?), allowance))
}

/// All rows as one batch.
///
/// # Errors
/// `SG9001 bug`.
pub(super) fn joined(rows: &Uploaded) -> Result<RecordBatch> {
    Ok(arrow::compute::concat_batches(&rows.schema, &rows.batches)?)
}
