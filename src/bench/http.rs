//! The same work through a server on this machine, by the HTTP client that workers use.
//!
//! Server and client share the processors of one machine and one process; what the figures do not
//! hold is a network.

use std::pin::pin;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Claims;
use crate::client::{Client, ClientOptions, Request};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};

/// A server of the store, and a client of it.
pub(super) struct Served {
    client: Client,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<()>>,
}

impl Served {
    /// Serves a store on a free port of this machine.
    ///
    /// # Errors
    /// `SG6005 output-failed`: no port is free.
    pub(super) async fn start(engine: &Engine) -> Result<Self> {
        let unusable = |error: std::io::Error| {
            Error::new(Code::OutputFailed, "no port can be listened at").with_source(error)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(unusable)?;
        let url = format!("http://{}", listener.local_addr().map_err(unusable)?);
        let client = Client::try_new(&ClientOptions {
            url,
            ..ClientOptions::default()
        })?;
        let (stop, stopped) = watch::channel(false);
        let engine = engine.clone();
        let server =
            tokio::spawn(async move { engine.serve(listener, "bench", None, stopped).await });
        Ok(Self {
            client,
            stop,
            server,
        })
    }

    /// Ends the server.
    pub(super) async fn end(self) -> Result<()> {
        self.stop.send_replace(true);
        drop(self.client);
        let ended = |error| Error::bug("the server of the benchmark ended").with_source(error);
        self.server.await.map_err(ended)?
    }

    async fn rows(&self, sql: String) -> Result<Vec<RecordBatch>> {
        self.client
            .execute(Request::new(sql))
            .await?
            .collect()
            .await
    }

    /// How long it takes to acquire and release one lock.
    pub(super) async fn lock(&self) -> Result<Duration> {
        let started = Instant::now();
        let rows = self.rows("CALL acquire_lock('@bench')".to_owned()).await?;
        let token = rows.first().and_then(|rows| {
            let tokens = rows.column(0).as_primitive_opt::<Int64Type>()?;
            Some(tokens.value(0))
        });
        let token = token.ok_or_else(|| Error::bug("a lock came without its token"))?;
        self.rows(format!("CALL release_lock('@bench', {token})"))
            .await?;
        Ok(started.elapsed())
    }

    /// Jobs that are claimed and completed in a second.
    pub(super) async fn claim_and_complete(&self, claims: Claims) -> Result<f64> {
        let mut completed = 0;
        let started = Instant::now();
        for _ in 0..claims.batches {
            let sql = format!("CALL claim_jobs('bench', max => {})", claims.batch);
            for rows in self.rows(sql).await? {
                let ended = ["job_id", "token"].map(|name| rows.schema().index_of(name));
                let ended = ended.into_iter().collect::<Result<Vec<_>, _>>();
                let ended = ended
                    .and_then(|columns| rows.project(&columns))
                    .map_err(|error| Error::bug("claims have no ids").with_source(error))?;
                completed += ended.num_rows();
                let request = Request {
                    tables: vec![("ended", ended)],
                    ..Request::new("SELECT complete_job(job_id, token) AS done FROM ended")
                };
                self.client.execute(request).await?.collect().await?;
            }
        }
        Ok(completed as f64 / started.elapsed().as_secs_f64())
    }

    /// Rows and bytes of a result in a second.
    pub(super) async fn result(&self, sql: &str, accept: &str, rows: u64) -> Result<(f64, f64)> {
        let started = Instant::now();
        let mut pieces = pin!(self.client.fetch(sql, accept).await?);
        let mut bytes = 0;
        while let Some(piece) = pieces.try_next().await? {
            bytes += piece.len();
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok((rows as f64 / seconds, bytes as f64 / seconds))
    }
}
