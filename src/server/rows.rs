//! Rows as the body of an answer, in one of the formats.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::body::{Body, Bytes};
use futures::StreamExt;
use parking_lot::Mutex;

use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, ResultWriter};
use crate::server::delivery::{Encode, Of, cut, deliver};
use crate::server::exact::Exact;
use crate::server::negotiate::Output;
use crate::server::problem::Problem;
use crate::server::run::{Rows, check_rows};

/// What a writer has written and nobody has taken yet.
#[derive(Debug, Clone, Default)]
struct Piece(Arc<Mutex<Vec<u8>>>);

impl Piece {
    fn take(&self) -> Option<Bytes> {
        let written = std::mem::take(&mut *self.0.lock());
        (!written.is_empty()).then(|| written.into())
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
    ) -> Result<(Option<Bytes>, Option<RecordBatch>)> {
        let Some(first) = first else {
            return Ok((None, None));
        };
        let (head, rest) = cut(&first);
        Ok((self.write(head)?, rest))
    }
}

impl Encode for Encoder {
    type Piece = Bytes;

    fn write(&mut self, batch: RecordBatch) -> Result<Option<Bytes>> {
        self.rows += batch.num_rows() as u64;
        check_rows(self.rows, self.rows_max)?;
        let written = self.writer.write(&self.exact.fit(batch)?);
        written.map_err(|error| unfit(self.format, error))?;
        Ok(self.piece.take())
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn finish(self) -> Result<Option<Bytes>> {
        self.writer.finish()?;
        let mut last = Vec::from(self.piece.take().unwrap_or_default());
        // A reader that does not find this line last knows that the rows were cut.
        if self.format == Format::Ndjson {
            let end = format!("{{\"$end\":{{\"rows\":{}}}}}\n", self.rows);
            last.extend_from_slice(end.as_bytes());
        }
        Ok(Some(last.into()).filter(|last: &Bytes| !last.is_empty()))
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
    of: Of,
    encoder: Encoder,
    head: Option<Bytes>,
    rest: Option<RecordBatch>,
    rows: Rows,
) -> Body {
    let pieces = deliver(of, encoder, head, rest, rows);
    let aborted = |problem: Problem| io::Error::other(problem.error().to_string());
    Body::from_stream(pieces.map(move |piece| piece.map_err(aborted)))
}
