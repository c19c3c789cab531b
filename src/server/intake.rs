//! What requests bring, in bounded memory and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::error::{Code, Error, Result};
use crate::server::allowance::Allowance;

/// Bytes of a body that is too long which are read and thrown away. Chosen: some times what a
/// body may have; who sends more has the connection closed.
const THROWN_MAX: usize = 256 << 20;

/// How much is read of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intake<'a> {
    /// Bytes of a statement with its parameters.
    pub body_bytes_max: usize,
    /// Bytes of the tables beside it.
    pub upload_bytes_max: usize,
    /// Rows of one table.
    pub rows_max: usize,
    /// What the bodies of all requests take.
    pub pool: &'a Arc<Semaphore>,
    /// How long it may take.
    pub waits: Waits,
}

/// How long the server waits for a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// For its next piece.
    pub piece_max: Duration,
    /// For all of it.
    pub whole_max: Duration,
}

impl Intake<'_> {
    /// What one request may take.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance::new(
            self.pool,
            self.body_bytes_max.saturating_add(self.upload_bytes_max),
        )
    }
}

/// The items of what a client sends, as they come. The last one is an error where the client
/// takes too long.
pub(super) fn timely<S>(items: S, waits: Waits) -> impl Stream<Item = Result<S::Item>> + Send
where
    S: Stream<Item: Send> + Send + Unpin,
{
    let end = Instant::now() + waits.whole_max;
    futures::stream::unfold(Some(items), move |items| async move {
        let mut items = items?;
        let wait = waits.piece_max.min(end.duration_since(Instant::now()));
        match tokio::time::timeout(wait, items.next()).await {
            Ok(item) => Some((Ok(item?), Some(items))),
            Err(_) => Some((Err(late(waits)), None)),
        }
    })
}

fn late(waits: Waits) -> Error {
    let Waits {
        piece_max,
        whole_max,
    } = waits;
    Error::new(Code::BadRequest, "the body takes too long")
        .with_detail(format!(
            "The server waits {piece_max:?} for its next piece and {whole_max:?} for all of it. \
             Nothing was run."
        ))
        .with_hint("Send it again, in parts where the line is slow.")
}

/// The pieces of a body.
///
/// # Errors
/// `SG4003 bad-request`, as the last item, for a body that takes too long or is cut short.
pub(super) fn pieces(body: Body, waits: Waits) -> impl Stream<Item = Result<Bytes>> + Send {
    timely(body.into_data_stream(), waits).map(|piece| {
        piece?.map_err(|error| {
            Error::new(Code::BadRequest, "the body ended early").with_source(error)
        })
    })
}

/// Reads on and keeps nothing, within bounds: a client that still writes would otherwise see a
/// broken pipe and not the answer.
pub(super) async fn throw_away(pieces: impl Stream<Item = Result<Bytes>>) {
    let mut pieces = std::pin::pin!(pieces);
    let mut thrown = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        thrown += piece.len();
        if thrown > THROWN_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// How many pieces came, and whether all did.
    async fn read(
        sent: impl Stream<Item = ()> + Send + 'static,
        piece_max: Duration,
        whole_max: Duration,
    ) -> (usize, bool) {
        let waits = Waits {
            piece_max,
            whole_max,
        };
        let sent = sent.map(|()| Ok::<_, std::io::Error>(Bytes::from_static(b"x")));
        let read: Vec<Result<Bytes>> = pieces(Body::from_stream(sent), waits).collect().await;
        let came = read.iter().filter(|piece| piece.is_ok()).count();
        (came, came == read.len())
    }

    #[tokio::test]
    async fn a_body_may_neither_stall_nor_drip_for_ever() {
        let short = Duration::from_millis(20);
        let three = || futures::stream::iter([(); 3]);
        assert_eq!(read(three(), LONG, LONG).await, (3, true));
        let stalls = three().chain(futures::stream::pending());
        assert_eq!(read(stalls, short, LONG).await, (3, false));
        let drips = futures::stream::repeat(()).then(move |()| tokio::time::sleep(short / 10));
        assert!(!read(drips, LONG, short).await.1);
    }
}
