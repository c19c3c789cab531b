//! The HTTP client of a Sluicegate server: statements, their rows, and the files of jobs.
//!
//! Used by workers and the prompt that have no access to the store. Invariants: what the server
//! refuses comes back as the [`Error`] that it was, with code, place and hint; an answer that is
//! cut is an error, never the end of the rows; nothing is sent again here: whoever repeats a
//! request gives it an idempotency key.

mod answer;
mod files;
mod problem;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::json::{Object, Value, object_text};
use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response};
use url::Url;
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::id::Token;

pub use answer::{Answer, Batches};

/// How long a connection may take to be made. Chosen: a far server answers within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a silent connection is tested, so that a server which has gone is noticed while a
/// long statement runs.
const KEEPALIVE: Duration = Duration::from_secs(30);

const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// Which server, and who asks.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Its address, such as `https://jobs.example:8080`.
    pub url: String,
    /// The token that is sent with every request.
    pub token: Option<String>,
    /// A file of PEM certificates of authorities that are trusted beside those of the system.
    pub ca: Option<PathBuf>,
    /// Whether every statement is sent as one that may only read.
    pub reading: Reading,
}

/// Whether statements may change the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// They may, as far as the token allows.
    #[default]
    AndWriting,
    /// They may not.
    Only,
}

/// A statement on its way to the server.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its text.
    pub sql: String,
    /// The values of its placeholders, as a JSON list or object.
    pub parameters: Value,
    /// Rows that go along as tables, by the names that the statement gives them.
    pub tables: Vec<(&'static str, RecordBatch)>,
    /// The key under which a repetition is recognised.
    pub idempotency_key: Option<String>,
    /// How long the whole answer may take; none: as long as the connection lives.
    pub timeout: Option<Duration>,
    /// Locks that it shows as its own.
    pub lock_tokens: Vec<Token>,
}

impl Request {
    /// A statement alone.
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            ..Self::default()
        }
    }
}

/// A connection to a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    token: Option<Arc<str>>,
    reading: Reading,
}

impl Client {
    /// A client of a server; nothing is sent yet.
    ///
    /// # Errors
    /// `SG4003 bad-request`: the address is no HTTP URL. `SG6002 file-unreadable`: the
    /// certificates cannot be read.
    pub fn try_new(options: &ClientOptions) -> Result<Self> {
        let url = Url::parse(&options.url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = url else {
            return Err(Error::new(
                Code::BadRequest,
                format!("server \"{}\" is no HTTP address", options.url),
            )
            .with_hint("Write http://HOST:PORT or https://HOST:PORT."));
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true)
            // A token must not follow to another host.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &options.ca {
            for certificate in certificates(path)? {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http.build().map_err(|error| {
            Error::new(Code::Bug, "the HTTP client cannot be made").with_source(error)
        })?;
        Ok(Self {
            http,
            base: url.as_str().trim_end_matches('/').into(),
            token: options.token.as_deref().map(Into::into),
            reading: options.reading,
        })
    }

    /// Whether statements may change the store.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Runs one statement; its effects are durable when this returns.
    ///
    /// # Errors
    /// Those of the statement; `SG7002 store-unavailable`: the server does not answer.
    pub async fn execute(&self, request: Request) -> Result<Answer> {
        let mut fields = Object::new();
        fields.insert("sql".to_owned(), Value::Text(request.sql));
        if !request.lock_tokens.is_empty() {
            let tokens = request.lock_tokens.iter();
            let tokens = tokens.map(|token| Value::Number(token.0.to_string()));
            fields.insert("lock_tokens".to_owned(), Value::Array(tokens.collect()));
        }
        if !request.parameters.is_null() {
            fields.insert("params".to_owned(), request.parameters);
        }
        let statement = object_text(&fields);
        let (content_type, body) = match request.tables.as_slice() {
            [] => ("application/json".to_owned(), statement.into_bytes()),
            tables => form(&statement, tables)?,
        };
        let mut sent = self
            .request(Method::POST, "/v1/sql")
            .header("accept", ARROW_STREAM)
            .header("content-type", content_type)
            .body(body);
        if let Some(key) = &request.idempotency_key {
            sent = sent.header("idempotency-key", key);
        }
        if let Some(timeout) = request.timeout {
            sent = sent.timeout(timeout);
        }
        if self.reading == Reading::Only {
            sent = sent.header("sluicegate-read-only", "?1");
        }
        Answer::read(self.clone(), self.send(sent).await?).await
    }

    /// Runs one statement and gives the bytes of its answer as they come, in the format that
    /// `accept` names.
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn fetch(
        &self,
        sql: &str,
        accept: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let sent = self
            .request(Method::POST, "/v1/sql")
            .header("accept", accept)
            .header("content-type", "text/plain")
            .body(sql.to_owned());
        let client = self.clone();
        let pieces = self.send(sent).await?.bytes_stream();
        Ok(pieces.map_err(move |error| client.silent(error)))
    }

    /// Asks a statement to end.
    ///
    /// # Errors
    /// `SG2001 unknown-object`, `SG4008 statement-expired`; `SG7002 store-unavailable`.
    pub async fn cancel(&self, statement_id: &str) -> Result<()> {
        let path = format!("/v1/statements/{statement_id}");
        let request = self.request(Method::DELETE, &path).timeout(CONNECT_TIMEOUT);
        self.send(request).await.map(drop)
    }

    /// Why a statement failed, where the server knows that it did.
    async fn failure(&self, statement_id: &str) -> Option<Error> {
        let path = format!("/v1/statements/{statement_id}");
        let request = self.request(Method::GET, &path).timeout(CONNECT_TIMEOUT);
        let record = self.send(request).await.ok()?.bytes().await.ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        let error = record.get("error").filter(|error| error.is_object())?;
        Some(problem::error_of(error))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an answer that is no success is an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.silent(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.silent(error))?;
        Err(problem::of_answer(status, &body))
    }

    fn silent(&self, error: reqwest::Error) -> Error {
        let causes: Vec<String> = causes(&error).skip(1).collect();
        let detail = match causes.last() {
            Some(cause) => format!("{cause}."),
            None => format!("{error}."),
        };
        let hint = match detail.contains("certificate") {
            true => {
                "Give --ca the certificate of its authority, or its own where it signed itself; \
                 its own must not be that of an authority (basicConstraints CA:FALSE)."
            }
            false => "Look whether sluicegate serve runs there, and try again.",
        };
        Error::new(
            Code::StoreUnavailable,
            format!("server \"{}\" does not answer", self.base),
        )
        .with_detail(detail)
        .with_hint(hint)
        .with_source(error)
    }
}

/// What an error and its causes say.
fn causes(error: &(dyn std::error::Error + 'static)) -> impl Iterator<Item = String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string)
}

fn certificates(path: &PathBuf) -> Result<Vec<reqwest::Certificate>> {
    let unusable = || {
        Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" has no certificates", path.display()),
        )
        .with_hint("Give --ca a file of certificates in PEM that you may read.")
    };
    let pem = std::fs::read(path).map_err(|error| {
        unusable()
            .with_detail(format!("{error}."))
            .with_source(error)
    })?;
    let found = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| unusable().with_source(error))?;
    match found.is_empty() {
        true => Err(unusable()),
        false => Ok(found),
    }
}

/// A statement and its tables as a form: its media type with the boundary, and its bytes.
fn form(statement: &str, tables: &[(&str, RecordBatch)]) -> Result<(String, Vec<u8>)> {
    // Drawn anew each time: nobody can know it and put it into a value.
    let boundary = format!("sluicegate-{}", Uuid::new_v4());
    let mut body = Vec::new();
    let head = |name: &str, media: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\
             Content-Type: {media}\r\n\r\n"
        )
    };
    body.extend_from_slice(head("request", "application/json").as_bytes());
    body.extend_from_slice(statement.as_bytes());
    for (name, rows) in tables {
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(head(name, ARROW_STREAM).as_bytes());
        let written = StreamWriter::try_new(&mut body, &rows.schema()).and_then(|mut writer| {
            writer.write(rows)?;
            writer.finish()
        });
        written.map_err(|error| Error::bug("rows cannot be sent").with_source(error))?;
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok((format!("multipart/form-data; boundary={boundary}"), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_no_servers_are_refused() {
        for (url, taken) in [
            ("http://127.0.0.1:8080", true),
            ("https://jobs.example/sluicegate/", true),
            ("127.0.0.1:8080", false),
            ("localhost:8080", false),
            ("ftp://jobs.example", false),
            ("", false),
        ] {
            let options = ClientOptions {
                url: url.to_owned(),
                ..ClientOptions::default()
            };
            let made = Client::try_new(&options);
            assert_eq!(made.as_ref().is_ok(), taken, "{url}: {made:?}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for text in [None, Some("no certificate")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = certificates(&path).unwrap_err();
            assert_eq!(error.code(), Code::FileUnreadable);
            assert!(error.message().contains("ca.pem"), "{error}");
        }
    }
}
