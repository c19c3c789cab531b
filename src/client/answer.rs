//! The answer to a statement: what its headers tell, and its rows as they come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Response;
use reqwest::header::HeaderMap;

use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::session::{LockChanges, OutcomeCount, StatementKind};

/// The answer to one statement. What it changed is durable when this is there.
#[derive(Debug)]
pub struct Answer {
    /// The id of the statement.
    pub statement_id: Arc<str>,
    /// What the statement is.
    pub kind: StatementKind,
    /// Rows that were written or removed.
    pub rows_affected: Option<u64>,
    /// How often each effect function ended in which way.
    pub summary: Vec<OutcomeCount>,
    /// The locks that it acquired and released; none where they are too many for a header, or an
    /// earlier statement did it.
    pub locks: Option<LockChanges>,
    /// What the user should know beside the rows.
    pub notes: Vec<String>,
    /// The rows.
    pub rows: Batches,
}

impl Answer {
    /// Reads an answer up to the schema of its rows.
    pub(super) async fn read(client: Client, response: Response) -> Result<Self> {
        let headers = response.headers();
        let statement_id: Arc<str> = text(headers, "sluicegate-statement-id")
            .unwrap_or_default()
            .into();
        let kind = text(headers, "sluicegate-statement-kind");
        let kind = StatementKind::ALL
            .iter()
            .find(|known| Some(known.name()) == kind);
        let rows_affected = text(headers, "sluicegate-rows-affected");
        let rows_affected = rows_affected.and_then(|rows| rows.parse().ok());
        let summary = json(headers, "sluicegate-summary");
        let locks = json(headers, "sluicegate-locks");
        let notes = json(headers, "sluicegate-notes");
        let mut rows = Batches {
            client,
            statement_id: Arc::clone(&statement_id),
            body: Box::pin(response.bytes_stream()),
            decoder: StreamDecoder::new(),
            unread: Buffer::from(Vec::<u8>::new()),
            found: VecDeque::new(),
            body_ended: false,
        };
        rows.read_schema().await?;
        Ok(Self {
            statement_id,
            kind: kind.copied().unwrap_or(StatementKind::Query),
            rows_affected,
            summary: summary.unwrap_or_default(),
            locks,
            notes: notes.unwrap_or_default(),
            rows,
        })
    }

    /// All rows.
    ///
    /// # Errors
    /// What stops the statement on its way.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.rows.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn json<T: serde::de::DeserializeOwned>(headers: &HeaderMap, name: &str) -> Option<T> {
    serde_json::from_str(text(headers, name)?).ok()
}

/// Rows on their way from the server. Dropped before their end, the server is told by the closed
/// connection.
pub struct Batches {
    client: Client,
    statement_id: Arc<str>,
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    decoder: StreamDecoder,
    unread: Buffer,
    found: VecDeque<RecordBatch>,
    body_ended: bool,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("statement_id", &self.statement_id)
            .finish_non_exhaustive()
    }
}

impl Batches {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        let schema = self.decoder.schema();
        schema.unwrap_or_else(|| Arc::new(arrow::datatypes::Schema::empty()))
    }

    /// The next rows; none at the end of all.
    ///
    /// # Errors
    /// What stopped the statement; `SG7002 store-unavailable`: the answer was cut.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.found.pop_front() {
                return Ok(Some(batch));
            }
            if self.body_ended {
                return self.decoder.finish().map(|()| None).map_err(|error| {
                    Error::new(Code::StoreUnavailable, "the answer of the server is cut")
                        .with_source(error)
                });
            }
            self.read_more().await?;
        }
    }

    async fn read_schema(&mut self) -> Result<()> {
        while self.decoder.schema().is_none() {
            if self.body_ended {
                return Err(Error::new(
                    Code::BadRequest,
                    "the answer of the server holds no rows in Arrow",
                )
                .with_hint("Look whether this is the address of sluicegate serve."));
            }
            self.read_more().await?;
        }
        Ok(())
    }

    /// Takes the next piece of the body and decodes what is whole by then.
    async fn read_more(&mut self) -> Result<()> {
        match self.body.next().await {
            None => self.body_ended = true,
            Some(Ok(piece)) => self.unread = Buffer::from(piece),
            Some(Err(error)) => {
                let told = self.client.failure(&self.statement_id).await;
                return Err(told.unwrap_or_else(|| self.client.silent(error)));
            }
        }
        while !self.unread.is_empty() {
            let decoded = self.decoder.decode(&mut self.unread).map_err(|error| {
                Error::new(Code::BadRequest, "the answer of the server is not Arrow")
                    .with_source(error)
            })?;
            self.found.extend(decoded);
        }
        Ok(())
    }
}
