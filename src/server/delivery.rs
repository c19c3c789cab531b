//! Rows on their way to a client, in bounded memory and time, whatever the client does.
//!
//! A task reads the rows, makes pieces of them and hands these on as the client takes them. So a
//! statement that is cancelled, or whose client takes nothing for
//! [`Limits::server_stall_max`](crate::config::Limits::server_stall_max), ends and frees its place
//! although nobody reads. What was begun and not completed ends in an error, which no client takes
//! for the end of the rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::server::App;
use crate::server::allowance::Share;
use crate::server::problem::Problem;
use crate::server::run::{Rows, Run};
use crate::server::statements::cancelled;

/// Pieces that wait for the client. Chosen: it hides a round trip, and no more.
const PIECES_MAX: usize = 4;

/// Rows that are made into a piece at once. The rows of an effect may come as one batch of a
/// million.
const SLICE_ROWS: usize = 8192;

/// Bytes of rows in memory that are made into a piece at once. Chosen: documents make a batch of
/// hundreds of megabytes, and the pieces of all clients are in memory beside it.
const SLICE_BYTES: usize = 1 << 20;

/// What the rows are of. It holds a place, which is free when it is dropped.
pub(super) enum Of {
    /// A statement that runs.
    Run(Run),
    /// One that has ended; its rows are in memory as long as they are sent.
    Kept {
        /// The server.
        app: Arc<App>,
        /// Ends the sending.
        stop: CancellationToken,
        /// One of its actor's, so that the bytes of rows that are sent are bounded.
        _share: Share,
    },
}

impl Of {
    fn app(&self) -> &App {
        match self {
            Self::Run(run) => &run.app,
            Self::Kept { app, .. } => app,
        }
    }

    /// What ends the sending, also of a statement that has ended.
    fn stop(&self) -> CancellationToken {
        match self {
            Self::Run(run) => run.record.sending(),
            Self::Kept { stop, .. } => stop.clone(),
        }
    }

    fn succeed(&self, rows: u64) {
        if let Self::Run(run) = self {
            run.record.note_rows(rows);
            run.succeed(None);
        }
    }

    fn fail(&self, error: Error) -> Problem {
        match self {
            Self::Run(run) => {
                tracing::info!(%error, statement_id = %run.record.id, "a result was cut short");
                run.fail(error)
            }
            Self::Kept { .. } => error.into(),
        }
    }
}

/// Makes what is sent out of rows.
pub(super) trait Encode: Send + 'static {
    /// What is sent.
    type Piece: Send + 'static;

    /// Of some rows; none where they wait for more.
    fn write(&mut self, rows: RecordBatch) -> Result<Option<Self::Piece>>;

    /// How many rows it has got.
    fn rows(&self) -> u64;

    /// What stands after all rows.
    fn finish(self) -> Result<Option<Self::Piece>>;
}

/// What is made into a piece at once of some rows, and the rest of them.
pub(super) fn cut(batch: &RecordBatch) -> (RecordBatch, Option<RecordBatch>) {
    let rows = batch.num_rows();
    let bytes: usize = batch.columns().iter().map(|column| bytes_of(column)).sum();
    let fits = rows.saturating_mul(SLICE_BYTES) / bytes.max(1);
    let length = fits.clamp(1, SLICE_ROWS).min(rows);
    let rest = (length < rows).then(|| batch.slice(length, rows - length));
    (batch.slice(0, length), rest)
}

/// About how many bytes some rows are when they are written out.
fn bytes_of(column: &dyn Array) -> usize {
    // The length of a value is in the first four bytes of its view.
    let viewed = |views: &[u128]| views.iter().map(|view| *view as u32 as usize + 16).sum();
    if let Some(texts) = column.as_string_view_opt() {
        return viewed(texts.views());
    }
    if let Some(binaries) = column.as_binary_view_opt() {
        return viewed(binaries.views());
    }
    if let Some(dictionary) = column.as_any_dictionary_opt() {
        let values = dictionary.values();
        let one = bytes_of(values) / values.len().max(1);
        return column.len().saturating_mul(one + 1);
    }
    let slice = column.to_data().get_slice_memory_size();
    slice.unwrap_or_else(|_| column.get_array_memory_size())
}

/// Sends rows.
///
/// # Arguments
/// `head`: what was made of the first rows already; `rest`: what is left of the batch that they
/// were in.
pub(super) fn deliver<E: Encode>(
    of: Of,
    encoder: E,
    head: Option<E::Piece>,
    rest: Option<RecordBatch>,
    rows: Rows,
) -> impl Stream<Item = Result<E::Piece, Problem>> + Send + 'static {
    let (pieces, mut taken) = mpsc::channel(PIECES_MAX);
    let (tells, told) = oneshot::channel();
    let tasks = of.app().tasks.clone();
    let stop = of.stop();
    tasks.spawn(async move {
        let rows = futures::stream::iter(rest.map(Ok)).chain(rows);
        let driven = drive(&of, &stop, encoder, head, rows, &pieces).await;
        let end = driven.map_err(|error| of.fail(error));
        // The place is free before the client hears of the end, for it may never listen.
        drop(of);
        // A client that has gone needs no end.
        let _ = tells.send(end);
    });
    let end = async {
        match told.await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(Err(problem)),
            Err(lost) => Some(Err(Error::bug("a result has no end")
                .with_source(lost)
                .into())),
        }
    };
    futures::stream::poll_fn(move |context| taken.poll_recv(context))
        .map(Ok)
        .chain(futures::stream::once(end).filter_map(futures::future::ready))
}

async fn drive<E: Encode>(
    of: &Of,
    stop: &CancellationToken,
    mut encoder: E,
    head: Option<E::Piece>,
    mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    pieces: &mpsc::Sender<E::Piece>,
) -> Result<()> {
    let stall_max = of.app().limits().server_stall_max;
    let send = async |piece: Option<E::Piece>| -> Result<()> {
        let Some(piece) = piece else { return Ok(()) };
        tokio::select! {
            biased;
            sent = pieces.send(piece) => sent.map_err(|_| gone()),
            () = stop.cancelled() => Err(cancelled()),
            () = tokio::time::sleep(stall_max) => Err(stalled()),
        }
    };
    send(head).await?;
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Err(cancelled()),
            () = pieces.closed() => return Err(gone()),
            next = rows.next() => next,
        };
        let mut left = next.transpose()?;
        if left.is_none() {
            break;
        }
        while let Some(batch) = left {
            let (slice, rest) = cut(&batch);
            send(encoder.write(slice)?).await?;
            left = rest;
        }
    }
    let count = encoder.rows();
    let last = encoder.finish()?;
    // Ended before the last bytes are gone: whoever has read them all finds it so.
    of.succeed(count);
    send(last).await
}

fn gone() -> Error {
    cancelled().with_detail("The client has gone.")
}

fn stalled() -> Error {
    cancelled()
        .with_detail("The client took no rows for too long.")
        .with_hint("Read the rows as they come, or write them to a file first with COPY.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray, StringViewArray,
    };

    use super::*;

    fn lengths(column: ArrayRef) -> Vec<usize> {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let (mut lengths, mut left) = (Vec::new(), Some(batch));
        while let Some(batch) = left {
            let (slice, rest) = cut(&batch);
            lengths.push(slice.num_rows());
            left = rest;
        }
        lengths
    }

    #[test]
    fn rows_are_cut_by_number_and_by_bytes() {
        let numbers = Int64Array::from_iter_values(0..20_000);
        assert_eq!(lengths(Arc::new(numbers)), [8192, 8192, 3616]);
        let half = "x".repeat(SLICE_BYTES / 2);
        let documents = StringArray::from_iter_values(std::iter::repeat_n(&half, 7));
        assert_eq!(lengths(Arc::new(documents)), [1, 1, 1, 1, 1, 1, 1]);
        let quarter = "x".repeat(SLICE_BYTES / 4 - 8);
        let documents = StringArray::from_iter_values(std::iter::repeat_n(&quarter, 7));
        assert_eq!(lengths(Arc::new(documents)), [4, 3]);
        assert_eq!(lengths(Arc::new(StringArray::new_null(0))), [0]);
        let views = StringViewArray::from_iter_values(std::iter::repeat_n(&half, 5));
        assert_eq!(lengths(Arc::new(views)), [1, 1, 1, 1, 1]);
        let keys = Int32Array::from_iter_values((0..9000).map(|at| at % 100));
        let short: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|_| "x")));
        let few = DictionaryArray::new(keys.clone(), short);
        assert_eq!(lengths(Arc::new(few)), [8192, 808]);
        let long: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|_| &quarter)));
        let many = lengths(Arc::new(DictionaryArray::new(keys, long)));
        assert!(many.iter().all(|rows| (3..=4).contains(rows)), "{many:?}");
    }
}
