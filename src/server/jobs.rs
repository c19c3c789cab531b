//! Files of running jobs, for workers that have no access to the store: the document of a source,
//! what an attempt writes, what its command prints.
//!
//! Invariants: only whoever gives the fencing token of the attempt that runs is served; no path
//! comes from the client but one inside the attempt's own folder, and what a source's `uri` names
//! is judged by the same roots as in SQL; files stream, only pieces of them are in memory.

use std::path::Path as FilePath;
use std::pin::pin;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::error::{Code, Error, Result};
use crate::functions::files::Place;
use crate::id::{JobId, Slot, TableId, Token};
use crate::ledger::store::Store;
use crate::model::event::AttemptRef;
use crate::model::outputs::{address, log_path, output_path};
use crate::model::rules;
use crate::model::transform::Permission;
use crate::server::App;
use crate::server::auth::caller;
use crate::server::intake::pieces;
use crate::server::request::plain_coding;
use crate::server::sql::{Handled, json_answer, query_of};
use crate::session::Access;
use crate::session::source_rows::{URI, source_rows};
use crate::tables::operations::{LOG_BYTES_MAX, OUTPUT_FILES_MAX};

/// Bytes of one piece of a file that is sent.
const PIECE_BYTES: usize = 1 << 20;

/// The longest path of a file in an attempt's folder, in bytes. Chosen: a file name of the usual
/// file systems has 255.
const PATH_MAX: usize = 255;

/// The part of an address behind `?`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    token: u64,
    path: Option<String>,
}

/// An attempt that runs, and whose holder asks.
struct Attempt {
    job: JobId,
    number: u16,
    transform: Arc<str>,
    table: TableId,
    slot: Slot,
    path: Option<String>,
}

impl Attempt {
    /// # Errors
    /// `SG4001 unauthenticated`, `SG4002 role-denied`, `SG4003 bad-request`; `SG8006 lease-lost`:
    /// the attempt does not run, or the token is not its own.
    async fn of(app: &App, headers: &HeaderMap, id: &str, raw: Option<&str>) -> Result<Self> {
        let caller = caller(app, headers).await?;
        match caller.access {
            Access::ReadWrite | Access::Operator | Access::Worker => {}
            Access::ReadOnly => {
                return Err(
                    Error::new(Code::RoleDenied, "files of jobs are for workers only")
                        .with_hint("Use a token of the role worker."),
                );
            }
        }
        let query: Query = query_of(raw, "token, and path for an output")?;
        let job = id.parse().map(JobId).map_err(|error| {
            Error::new(Code::BadRequest, format!("\"{id}\" is no job id")).with_source(error)
        })?;
        let state = app.core.ledger.snapshot().await?;
        let lost = || {
            Error::new(
                Code::LeaseLost,
                format!(
                    "job {job} has no running attempt with token {}",
                    query.token
                ),
            )
            .with_hint("Stop the work on it: somebody else may have it.")
        };
        let found = state.job(job).ok_or_else(lost)?;
        let asked = AttemptRef {
            job,
            attempt: found.attempt,
            token: Token(query.token),
        };
        let live = rules::report_is_live(found, asked) == Permission::Allowed
            && found.expires_at > app.core.ledger.now();
        let transform = state.transforms.get(&found.transform);
        let transform = transform.filter(|_| live).ok_or_else(lost)?;
        Ok(Self {
            job,
            number: found.attempt,
            transform: Arc::clone(&transform.name),
            table: found.table,
            slot: found.slot,
            path: query.path,
        })
    }

    fn folder(&self) -> String {
        output_path(&self.transform, self.job, self.number)
    }

    /// The `uri` of its source.
    async fn uri(&self, app: &App) -> Result<String> {
        let core = &app.core;
        let state = core.ledger.seen();
        let table = state.tables.get(&self.table).map(Arc::clone);
        let table = table.ok_or_else(|| Error::bug("a table with running jobs was dropped"))?;
        if !table.def.columns.iter().any(|column| column.name == URI) {
            return Err(no_document(format!(
                "table \"{}\" has no column \"{URI}\"",
                table.name
            )));
        }
        let sight = core.sight(Arc::clone(&state));
        let rows = source_rows(&core.base, sight, &table, &[self.slot], &[URI]).await?;
        let uris = rows.column(0).as_string_opt::<i32>();
        let uri = uris.filter(|uris| !uris.is_empty() && uris.is_valid(0));
        uri.map(|uris| uris.value(0).to_owned())
            .ok_or_else(|| no_document(format!("the source of job {} has no \"{URI}\"", self.job)))
    }
}

fn no_document(message: String) -> Error {
    Error::new(Code::FileUnreadable, message)
        .with_hint("A document is where the column \"uri\" of its source says.")
}

/// `GET /v1/jobs/{id}/source`
pub(super) async fn source(
    Shared(app): Shared<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Handled {
    let attempt = Attempt::of(&app, &headers, &id, raw.as_deref()).await?;
    let uri = attempt.uri(&app).await?;
    let place = app.core.roots.resolve(&uri)?;
    let limit = app.limits().server_file_bytes_max;
    let (size, body) = match place {
        Place::Local(path) => local_file(&uri, &path).await?,
        Place::Store(path) => stored_file(&uri, app.core.ledger.store(), path).await?,
    };
    if size > limit {
        return Err(too_large(limit).into());
    }
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    headers.insert(header::CONTENT_LENGTH, size.into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn too_large(limit: u64) -> Error {
    Error::new(
        Code::TooLarge,
        format!("the file has more than {limit} bytes"),
    )
    .with_detail("The limit is server_file_bytes_max.")
    .with_hint("Let a worker at the store do such jobs.")
}

async fn local_file(uri: &str, path: &FilePath) -> Result<(u64, Body)> {
    let unreadable = |error: std::io::Error| {
        no_document(format!("file \"{uri}\" cannot be read")).with_source(error)
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let about = file.metadata().await.map_err(unreadable)?;
    if !about.is_file() {
        return Err(no_document(format!("\"{uri}\" is no file")));
    }
    // A file that grows meanwhile must not be longer than was announced.
    let body = Body::from_stream(ReaderStream::with_capacity(
        file.take(about.len()),
        PIECE_BYTES,
    ));
    Ok((about.len(), body))
}

async fn stored_file(uri: &str, store: &Store, path: String) -> Result<(u64, Body)> {
    let absent = || no_document(format!("there is no file \"{uri}\""));
    let size = store.size(&path).await?.ok_or_else(absent)?;
    let pieces = stored_pieces(store, path, size);
    Ok((
        size,
        Body::from_stream(pieces.map(|piece| piece.map_err(|error| error.to_string()))),
    ))
}

/// A file of the store, of which pieces only are in memory.
fn stored_pieces(
    store: &Store,
    path: String,
    size: u64,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let store = store.clone();
    futures::stream::try_unfold(0, move |from| {
        let (store, path) = (store.clone(), path.clone());
        async move {
            if from >= size {
                return Ok(None);
            }
            let to = size.min(from + PIECE_BYTES as u64);
            let piece = store.get_range(&path, from..to).await?;
            let piece = piece.ok_or_else(|| no_document(format!("file \"{path}\" has gone")))?;
            Ok(Some((piece, to)))
        }
    })
}

/// `PUT /v1/jobs/{id}/output?token=&path=`
pub(super) async fn put_output(
    Shared(app): Shared<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let attempt = Attempt::of(&app, &headers, &id, raw.as_deref()).await?;
    let inner = attempt.path.as_deref().unwrap_or_default();
    check_inner(inner)?;
    let folder = attempt.folder();
    let path = format!("{folder}/{inner}");
    let store = app.core.ledger.store();
    let limits = app.limits();
    let others = store.list(&folder).await?;
    let others = others.iter().filter(|entry| entry.path != path);
    let (mut count, mut bytes) = (0_usize, 0);
    for entry in others {
        count += 1;
        bytes += entry.bytes;
    }
    if count >= OUTPUT_FILES_MAX {
        let error = Error::new(
            Code::TooLarge,
            format!("the attempt stores more than {OUTPUT_FILES_MAX} files"),
        );
        return Err(error.with_hint("Write fewer, larger files.").into());
    }
    let room = limits.server_attempt_bytes_max.saturating_sub(bytes);
    plain_coding(&headers)?;
    let bytes_max = limits.server_file_bytes_max.min(room);
    // Bodies take a while: whoever has lost the attempt, or the token, stores nothing.
    let still = async || Attempt::of(&app, &headers, &id, raw.as_deref()).await;
    store_body(&app, &path, body, bytes_max, still).await?;
    let root = &app.core.public_url;
    let stored = json!({"uri": address(root, &path), "folder": address(root, &folder)});
    Ok(json_answer(StatusCode::OK, &stored))
}

/// `PUT /v1/jobs/{id}/log?token=`
pub(super) async fn put_log(
    Shared(app): Shared<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let attempt = Attempt::of(&app, &headers, &id, raw.as_deref()).await?;
    plain_coding(&headers)?;
    let path = log_path(attempt.job, attempt.number);
    let still = async || Attempt::of(&app, &headers, &id, raw.as_deref()).await;
    store_body(&app, &path, body, LOG_BYTES_MAX as u64, still).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Whether a path stays in the attempt's folder, on every kind of store.
///
/// # Errors
/// `SG4003 bad-request`.
fn check_inner(path: &str) -> Result<()> {
    let part = |part: &str| {
        let plain = |letter: char| {
            letter.is_alphanumeric() || matches!(letter, '.' | '_' | '-' | '+' | '@' | '=' | ' ')
        };
        !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
    };
    if path.len() <= PATH_MAX && path.split('/').all(part) {
        return Ok(());
    }
    Err(Error::new(
        Code::BadRequest,
        "path= does not name a file in the attempt's folder",
    )
    .with_hint(
        "Name it by letters, digits and . _ - + @ = below the folder, such as result/a.ttl; no \
         part begins with a dot.",
    ))
}

/// Stores a body. One that was stored before, by a request whose answer was lost, stays.
///
/// # Errors
/// `SG5004 too-large`; `SG2002 already-exists`: another content was stored there before; those of
/// the body and the store.
async fn store_body(
    app: &App,
    path: &str,
    body: Body,
    bytes_max: u64,
    still: impl AsyncFnOnce() -> Result<Attempt>,
) -> Result<()> {
    let store = app.core.ledger.store();
    let mut writer = match store.size(path).await? {
        Some(_) => None,
        None => Some(store.put_data(path).await?),
    };
    let mut bytes = 0;
    let mut hash = Sha256::new();
    let mut pieces = pin!(pieces(body, app.intake().waits));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        hash.update(&piece);
        if let Some(writer) = &mut writer {
            writer.append(piece).await?;
        }
    }
    still().await?;
    let failed = match writer {
        None => None,
        Some(writer) => match writer.finish().await {
            Ok(_) => return Ok(()),
            Err(error) => Some(error),
        },
    };
    let Some(size) = store.size(path).await? else {
        return Err(failed.unwrap_or_else(|| Error::bug("a stored file has gone")));
    };
    let mut stored = pin!(stored_pieces(store, path.to_owned(), size));
    let mut stored_hash = Sha256::new();
    while let Some(piece) = stored.next().await {
        stored_hash.update(&piece?);
    }
    if hash.finalize() == stored_hash.finalize() {
        return Ok(());
    }
    Err(Error::new(
        Code::AlreadyExists,
        "the attempt has stored another file under this name",
    )
    .with_hint("Give every file of an attempt a name of its own."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_folder_of_the_attempt() {
        for (path, taken) in [
            ("a.ttl", true),
            ("result/part-1/a b.ttl", true),
            ("", false),
            ("/etc/passwd", false),
            ("../1/a", false),
            ("a/../../b", false),
            ("a//b", false),
            ("a/", false),
            (".hidden", false),
            ("a\\b", false),
            ("a\0b", false),
            ("a\nb", false),
            ("%2e%2e/b", false),
            ("c:/b", false),
        ] {
            assert_eq!(check_inner(path).is_ok(), taken, "{path:?}");
        }
        assert!(check_inner(&"a".repeat(256)).is_err());
    }
}
