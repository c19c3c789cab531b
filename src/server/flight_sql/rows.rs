//! Rows as Flight messages, both ways, in bounded memory.

use std::pin::{Pin, pin};
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
use crate::server::delivery::{Encode, Of, deliver};
use crate::server::flight_sql::status::status;
use crate::server::intake::{Intake, timely};
use crate::server::ipc::{Upload, Uploaded};
use crate::server::problem::Problem;
use crate::server::run::{Rows, Run, check_rows};

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

/// Rows are sent as they are; here they are counted.
struct Counted {
    rows: u64,
    rows_max: Option<u64>,
}

impl Encode for Counted {
    type Piece = RecordBatch;

    fn write(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        self.rows += batch.num_rows() as u64;
        check_rows(self.rows, self.rows_max)?;
        Ok(Some(batch))
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn finish(self) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
}

/// The rows of a statement.
pub(super) fn of_run(run: Run, schema: SchemaRef, rows: Rows, rows_max: Option<u64>) -> Messages {
    let counted = Counted { rows: 0, rows_max };
    let slices = deliver(Of::Run(run), counted, None, None, rows);
    let failed = |problem: Problem| FlightError::Tonic(Box::new(status(problem)));
    messages(schema, slices.map(move |slice| slice.map_err(failed)))
}

/// Reads the rows that a client sends.
///
/// # Returns
/// None where it sends no schema, and what the rows take.
///
/// # Errors
/// Those of [`Upload`]; `SG4003 bad-request` for a stream that is cut short.
pub(super) async fn received(
    stream: PeekableFlightDataStream,
    intake: Intake<'_>,
) -> Result<(Option<Uploaded>, Allowance), Status> {
    let allowance = intake.allowance();
    let mut upload = Upload::new(allowance.clone(), intake.rows_max);
    let mut some = false;
    let mut stream = pin!(timely(stream, intake.waits));
    while let Some(message) = stream.next().await {
        let message = message.map_err(status)?;
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
