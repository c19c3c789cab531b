//! `multipart/form-data`: a request as JSON, and beside it tables as Arrow IPC streams.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::Field;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use crate::error::{Code, Error, Result};
use crate::server::allowance::Allowance;
use crate::server::intake::{Intake, pieces, throw_away};
use crate::server::ipc::Upload;
use crate::session::bound_table::BoundTable;

/// The name of the part that holds the statement.
const REQUEST: &str = "request";

/// Tables of one request. Chosen: more than a statement joins.
const TABLES_MAX: usize = 32;

/// The parts of a form.
#[derive(Debug)]
pub(super) struct Form {
    /// The part `request`.
    pub request: Vec<u8>,
    /// The others.
    pub tables: Vec<BoundTable>,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message).with_hint(
        "Send the JSON request as the part \"request\", and each table as a part with its name.",
    )
}

/// Reads a form.
///
/// # Errors
/// `SG4003 bad-request`, `SG5004 too-large`, `SG5001 too-many-rows`, `SG4009 too-busy`; those of
/// [`BoundTable::try_new`].
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    intake: &Intake<'_>,
    allowance: &Allowance,
) -> Result<Form> {
    let refused: Arc<Mutex<Option<Error>>> = Arc::default();
    let pieces = pieces(body, intake.waits);
    let counted = counted(pieces, allowance.clone(), Arc::clone(&refused));
    let mut request = Request::new(Body::from_stream(counted));
    if let Some(media) = headers.get(header::CONTENT_TYPE) {
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, media.clone());
    }
    // The allowance bounds it.
    DefaultBodyLimit::disable().apply(&mut request);
    let form = Multipart::from_request(request, &()).await;
    let form = form.map_err(|error| bad("the form has no boundary").with_source(error));
    let mut form = form?;
    match parts(&mut form, intake, allowance).await {
        Ok(form) => Ok(form),
        Err(Failed::Ours(error)) => {
            // A client that still writes would see a broken pipe and not the answer.
            while let Ok(Some(_)) = form.next_field().await {}
            Err(error)
        }
        Err(Failed::Form(error)) => {
            let refused = refused.lock().take();
            Err(refused.unwrap_or_else(|| {
                bad("the body is no form").with_detail(format!("{}.", error.body_text()))
            }))
        }
    }
}

enum Failed {
    Ours(Error),
    Form(axum::extract::multipart::MultipartError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<axum::extract::multipart::MultipartError> for Failed {
    fn from(error: axum::extract::multipart::MultipartError) -> Self {
        Self::Form(error)
    }
}

async fn parts(
    form: &mut Multipart,
    intake: &Intake<'_>,
    allowance: &Allowance,
) -> Result<Form, Failed> {
    let mut request = None;
    let mut tables = Vec::new();
    while let Some(field) = form.next_field().await? {
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(bad("a part of the form has no name").into());
        };
        if name == REQUEST {
            let text = small(field, intake.body_bytes_max).await?;
            if request.replace(text).is_some() {
                return Err(bad("the form has two parts \"request\"").into());
            }
            continue;
        }
        if tables.len() == TABLES_MAX {
            return Err(bad(format!("the form has more than {TABLES_MAX} tables")).into());
        }
        tables.push(table(&name, field, intake, allowance).await?);
    }
    match request {
        Some(request) => Ok(Form { request, tables }),
        None => Err(bad("the form has no part \"request\"").into()),
    }
}

async fn small(mut field: Field<'_>, bytes_max: usize) -> Result<Vec<u8>, Failed> {
    let mut text = Vec::new();
    while let Some(piece) = field.chunk().await? {
        if text.len() + piece.len() > bytes_max {
            return Err(Error::new(
                Code::TooLarge,
                format!("the part \"request\" has more than {bytes_max} bytes"),
            )
            .with_hint("Send the rows as parts of their own, and the statement here.")
            .into());
        }
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

async fn table(
    name: &str,
    mut field: Field<'_>,
    intake: &Intake<'_>,
    allowance: &Allowance,
) -> Result<BoundTable, Failed> {
    let of_table = |error: Error| {
        let said = error
            .detail()
            .map_or_else(String::new, |said| format!(" {said}"));
        error.with_detail(format!("It is about the part \"{name}\".{said}"))
    };
    let mut upload = Upload::new(allowance.clone(), intake.rows_max);
    while let Some(piece) = field.chunk().await? {
        upload.write(&piece).map_err(of_table)?;
    }
    let rows = upload.finish().map_err(of_table)?;
    Ok(BoundTable::try_new(
        name,
        &rows.schema,
        &rows.batches,
        rows.digest,
    )?)
}

/// The body, whose bytes are taken from the allowance before anybody keeps them. The error that
/// ends it is left in `refused`, for a form tells it in its own words only.
fn counted(
    pieces: impl Stream<Item = Result<Bytes>> + Send + 'static,
    allowance: Allowance,
    refused: Arc<Mutex<Option<Error>>>,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    futures::stream::unfold(Some(Box::pin(pieces)), move |pieces| {
        let (allowance, refused) = (allowance.clone(), Arc::clone(&refused));
        async move {
            let mut pieces = pieces?;
            let error = match pieces.next().await? {
                Ok(piece) => match allowance.take(piece.len()) {
                    Ok(()) => return Some((Ok(piece), Some(pieces))),
                    Err(error) => {
                        throw_away(pieces).await;
                        error
                    }
                },
                Err(error) => error,
            };
            *refused.lock() = Some(error);
            let error = std::io::Error::other("the body is refused");
            Some((Err(axum::Error::new(error)), None))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use crate::server::intake::Waits;

    use super::*;

    async fn code(body: Vec<u8>) -> Option<Code> {
        let mut headers = HeaderMap::new();
        let media = "multipart/form-data; boundary=cut".parse().unwrap();
        headers.insert(header::CONTENT_TYPE, media);
        let intake = Intake {
            body_bytes_max: 100,
            upload_bytes_max: 1000,
            rows_max: 10,
            pool: &Arc::new(Semaphore::new(2)),
            waits: Waits {
                piece_max: Duration::MAX,
                whole_max: Duration::from_secs(60),
            },
        };
        let allowance = intake.allowance();
        let form = read(&headers, Body::from(body), &intake, &allowance).await;
        form.err().map(|error| error.code())
    }

    fn part(name: &str, content: &[u8]) -> Vec<u8> {
        let head = format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    }

    #[tokio::test]
    async fn forms_are_bounded() {
        let whole = |parts: Vec<Vec<u8>>| [parts.concat(), b"--cut--\r\n".to_vec()].concat();
        let fits = part(REQUEST, &[b' '; 100]);
        assert_eq!(code(whole(vec![fits])).await, None);
        let long = part(REQUEST, &[b' '; 101]);
        assert_eq!(code(whole(vec![long])).await, Some(Code::TooLarge));
        let table = part("t", &[0; 1100]);
        assert_eq!(code(whole(vec![table])).await, Some(Code::TooLarge));
        let none = whole(vec![part("t", b"")]);
        assert_eq!(code(none).await, Some(Code::BadRequest));
        let endless = [part("t", b"x"), vec![b'x'; 900]].concat();
        assert_eq!(code(endless).await, Some(Code::BadRequest));
        let twice = [part(REQUEST, b"{}"), part(REQUEST, b"{}")].concat();
        assert_eq!(code(whole(vec![twice])).await, Some(Code::BadRequest));
    }
}
