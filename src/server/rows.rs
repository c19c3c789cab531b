//! Rows as the body of an answer, in bounded memory: a batch is encoded, and the next one is read
//! when the client has taken it.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::body::{Body, Bytes};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
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
    /// `SG6005 output-failed` where the format has no such column type.
    pub(super) fn try_new(
        schema: &SchemaRef,
        output: Output,
        rows_max: Option<u64>,
    ) -> Result<Self> {
        let exact = Exact::new(schema, output);
        let piece = Piece::default();
        let format = output.format;
        let (look, codec) = (Look::Plain, output.codec);
        let writer =
            ResultWriter::try_new_with(format, exact.schema(), look, codec, piece.clone())?;
        Ok(Self {
            exact,
            piece,
            writer,
            format,
            rows: 0,
            rows_max,
        })
    }

    pub(super) fn write(&mut self, batch: RecordBatch) -> Result<Bytes> {
        self.rows += batch.num_rows() as u64;
        check_rows(self.rows, self.rows_max)?;
        self.writer.write(&self.exact.fit(batch)?)?;
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

/// The body of an answer whose first batch was read already, so that an error up to there was
/// still an answer of its own. A later one aborts the body, which no client takes for its end.
pub(super) fn body(run: Run, encoder: Encoder, first: Option<RecordBatch>, rows: Rows) -> Body {
    let (pieces, mut taken) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES_MAX);
    let tasks = run.app.tasks.clone();
    tasks.spawn(async move {
        if let Err(error) = pump(&run, encoder, first, rows, &pieces).await {
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
    first: Option<RecordBatch>,
    rows: Rows,
    pieces: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<()> {
    let mut rows = futures::stream::iter(first.map(Ok)).chain(rows);
    let send = async |piece: Bytes| -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = run.record.cancel.cancelled() => Err(cancelled()),
            sent = pieces.send(Ok(piece)) => sent.map_err(|_| gone()),
        }
    };
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
