//! Rows as the body of an answer, in bounded memory: a batch is encoded, and the next one is read
//! when the client has taken it.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, ResultWriter};
use crate::server::exact::Exact;
use crate::server::negotiate::Output;
use crate::server::run::{Rows, Run, cancelled, check_rows};
use crate::server::statements::Outcome;

/// Encoded pieces that wait for the client. Chosen: it hides a round trip, and no more.
const PIECES_MAX: usize = 4;

/// Rows that are encoded at once. The rows of an effect may come as one batch of a million.
pub(super) const SLICE_ROWS: usize = 8192;

/// What a writer has written and nobody has taken yet.
#[derive(Debug, Clone, Default)]
struct Piece(Arc<Mutex<Vec<u8>>>);

impl Piece {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

impl Write for Piece {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Rows in one format.
pub(super) struct Encoder {
    exact: Exact,
    piece: Piece,
    writer: ResultWriter<Piece>,
    format: Format,
    rows: u64,
    rows_max: Option<u64>,
}

impl Encoder {
    /// Begins a result.
    ///
    /// # Errors
    /// `SG4004 not-acceptable` where the format has no such column type.
    pub(super) fn try_new(
        schema: &SchemaRef,
        output: Output,
        rows_max: Option<u64>,
    ) -> Result<Self> {
        let exact = Exact::new(schema, output);
        let piece = Piece::default();
        let format = output.format;
        let (look, codec) = (Look::Plain, output.codec);
        let writer = ResultWriter::try_new_with(format, exact.schema(), look, codec, piece.clone());
        let writer = writer.map_err(|error| unfit(format, error))?;
        Ok(Self {
            exact,
            piece,
            writer,
            format,
            rows: 0,
            rows_max,
        })
    }

    /// Encodes the beginning of the first batch, and leaves the rest of it.
    pub(super) fn begin(
        &mut self,
        first: Option<RecordBatch>,
    ) -> Result<(Bytes, Option<RecordBatch>)> {
        let Some(first) = first else {
            return Ok((Bytes::new(), None));
        };
        let length = SLICE_ROWS.min(first.num_rows());
        let head = self.write(first.slice(0, length))?;
        let rest = first.slice(length, first.num_rows() - length);
        Ok((head, (rest.num_rows() > 0).then_some(rest)))
    }

    pub(super) fn write(&mut self, batch: RecordBatch) -> Result<Bytes> {
        self.rows += batch.num_rows() as u64;
        check_rows(self.rows, self.rows_max)?;
        let written = self.writer.write(&self.exact.fit(batch)?);
        written.map_err(|error| unfit(self.format, error))?;
        Ok(self.piece.take())
    }

    pub(super) fn finish(self) -> Result<Bytes> {
        self.writer.finish()?;
        let mut last = Vec::from(self.piece.take());
        // A reader that does not find this line last knows that the rows were cut.
        if self.format == Format::Ndjson {
            let end = format!("{{\"$end\":{{\"rows\":{}}}}}\n", self.rows);
            last.extend_from_slice(end.as_bytes());
        }
        Ok(last.into())
    }
}

/// Writing to memory fails only where the format cannot hold the rows.
fn unfit(format: Format, error: Error) -> Error {
    let detail = error.detail().unwrap_or_else(|| error.message()).to_owned();
    Error::new(
        Code::NotAcceptable,
        format!("the rows cannot be written as {format}"),
    )
    .with_detail(detail)
    .with_hint(
        "Ask for another format, or CAST the column to one that the format has, such as TEXT.",
    )
    .with_source(error)
}

/// The body of an answer whose beginning, `head`, was encoded already, so that an error up to there
/// was still an answer of its own. A later one aborts the body, which no client takes for its end.
pub(super) fn body(
    run: Run,
    encoder: Encoder,
    head: Bytes,
    rest: Option<RecordBatch>,
    rows: Rows,
) -> Body {
    let (pieces, mut taken) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES_MAX);
    let tasks = run.app.tasks.clone();
    tasks.spawn(async move {
        let rows = futures::stream::iter(rest.map(Ok)).chain(rows);
        if let Err(error) = pump(&run, encoder, head, rows, &pieces).await {
            tracing::info!(%error, statement_id = %run.record.id, "a result was cut short");
            let aborted = io::Error::other(error.to_string());
            run.fail(error);
            // A client that has gone needs no error.
            let _ = pieces.send(Err(aborted)).await;
        }
    });
    Body::from_stream(futures::stream::poll_fn(move |context| {
        taken.poll_recv(context)
    }))
}

async fn pump(
    run: &Run,
    mut encoder: Encoder,
    head: Bytes,
    mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    pieces: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<()> {
    let send = async |piece: Bytes| -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = run.record.cancel.cancelled() => Err(cancelled()),
            sent = pieces.send(Ok(piece)) => sent.map_err(|_| gone()),
        }
    };
    send(head).await?;
    loop {
        let next = tokio::select! {
            () = run.record.cancel.cancelled() => return Err(cancelled()),
            () = pieces.closed() => return Err(gone()),
            next = rows.next() => next,
        };
        let Some(batch) = next else { break };
        let batch = batch?;
        for start in (0..batch.num_rows()).step_by(SLICE_ROWS) {
            let length = SLICE_ROWS.min(batch.num_rows() - start);
            send(encoder.write(batch.slice(start, length))?).await?;
        }
    }
    let count = encoder.rows;
    let last = encoder.finish()?;
    let outcome = run.record.outcome();
    run.record.note(Outcome {
        rows: Some(count),
        ..outcome
    });
    // Ended before the last bytes are gone: whoever has read them all finds it so.
    run.succeed(None);
    if !last.is_empty() {
        let _ = pieces.send(Ok(last)).await;
    }
    Ok(())
}

fn gone() -> Error {
    cancelled().with_detail("The client has gone.")
}
