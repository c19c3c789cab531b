//! Documents of sources, and what attempts leave behind, to and from a worker that has no access
//! to the store. Only pieces of a file are in memory.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use reqwest::{Body, Method};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::model::decide::Report;

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// How long one file may take. Chosen: the largest that is taken, at ten megabytes a second.
const FILE_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the server put an output.
#[derive(Debug, Clone, Deserialize)]
pub struct Stored {
    /// The file.
    pub uri: String,
    /// The folder of the attempt.
    pub folder: String,
}

impl Client {
    /// Copies the document of a running job's source to a file of this machine.
    ///
    /// # Errors
    /// `SG8006 lease-lost`, `SG6001 outside-roots`, `SG6002 file-unreadable`, `SG5004 too-large`;
    /// `SG6005 output-failed`: the copy cannot be written.
    pub async fn fetch_source(&self, job: Report, to: &Path) -> Result<()> {
        let path = format!("/v1/jobs/{}/source?token={}", job.job, job.token);
        let request = self.request(Method::GET, &path).timeout(FILE_TIMEOUT);
        let mut body = self.send(request).await?.bytes_stream();
        let unwritable = |error| local(to, error);
        let mut file = File::create(to).await.map_err(unwritable)?;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| self.silent(error))?;
            file.write_all(&piece).await.map_err(unwritable)?;
        }
        file.flush().await.map_err(unwritable)
    }

    /// Stores a file that an attempt wrote.
    ///
    /// # Arguments
    /// `name`: its path in the attempt's folder, with `/`.
    ///
    /// # Errors
    /// `SG8006 lease-lost`, `SG5004 too-large`; `SG6005 output-failed`: it cannot be read here.
    pub async fn store_output(&self, job: Report, name: &str, from: &Path) -> Result<Stored> {
        let path = output_address(job, name);
        let file = File::open(from).await.map_err(|error| local(from, error))?;
        let body = Body::wrap_stream(ReaderStream::with_capacity(file, PIECE_BYTES));
        let request = self.request(Method::PUT, &path).timeout(FILE_TIMEOUT);
        let answer = self.send(request.body(body)).await?;
        let answer = answer.bytes().await.map_err(|error| self.silent(error))?;
        serde_json::from_slice(&answer).map_err(|error| {
            Error::new(
                Code::BadRequest,
                "the server does not say where an output is",
            )
            .with_source(error)
        })
    }

    /// Stores what the command of an attempt printed.
    ///
    /// # Errors
    /// `SG8006 lease-lost`, `SG5004 too-large`.
    pub async fn store_log(&self, job: Report, log: Vec<u8>) -> Result<()> {
        let path = format!("/v1/jobs/{}/log?token={}", job.job, job.token);
        let request = self.request(Method::PUT, &path).timeout(FILE_TIMEOUT);
        self.send(request.body(log)).await.map(drop)
    }
}

fn output_address(job: Report, name: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let query = query
        .append_pair("token", &job.token.to_string())
        .append_pair("path", name)
        .finish();
    format!("/v1/jobs/{}/output?{query}", job.job)
}

fn local(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::OutputFailed,
        format!("\"{}\" cannot be written or read", path.display()),
    )
    .with_detail(format!("{error}."))
    .with_source(error)
}
