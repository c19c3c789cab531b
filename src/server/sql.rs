//! The handlers of `/v1/sql` and `/v1/statements`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::server::App;
use crate::server::auth::{Caller, caller};
use crate::server::delivery::Of;
use crate::server::negotiate::{Output, choose};
use crate::server::problem::{Problem, answer as problem_answer};
use crate::server::request::{
    Patience, Query, SqlRequest, idempotency_key, of_query, patience, read,
};
use crate::server::rows::{Encoder, body};
use crate::server::run::{GetAllowed, Placed, Run, cancel_run, check_rows, placed, stored};
use crate::server::statements::{Origin, Record, StatementState, expired};
use crate::session::Repetition;

/// The longest header of JSON, in bytes. Chosen: half of what common clients take of all headers.
const HEADER_MAX: usize = 4096;

/// What a handler answers.
pub(super) type Handled = Result<Response, Problem>;

/// The part of an address behind `?`.
///
/// # Errors
/// `SG4003 bad-request`, which says that these are `known`.
pub(super) fn query_of<T: DeserializeOwned>(raw: Option<&str>, known: &str) -> Result<T> {
    let uri = format!("/?{}", raw.unwrap_or_default());
    let uri: Uri = uri.parse().map_err(|error| {
        Error::new(Code::BadRequest, "the address is no URI").with_source(error)
    })?;
    let query = axum::extract::Query::try_from_uri(&uri);
    query.map(|query| query.0).map_err(|error| {
        Error::new(
            Code::BadRequest,
            "the address has not the parts that are known",
        )
        .with_detail(format!("{error}."))
        .with_hint(format!("Known are {known}."))
    })
}

const KNOWN: &str = "q, params, format and integers";

fn output(headers: &HeaderMap, query: &Query) -> Result<Output> {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    // Several lines are one list, as RFC 9110 says.
    let accept = (!accept.is_empty()).then(|| accept.join(", "));
    choose(
        query.format.as_deref(),
        query.integers.as_deref(),
        accept.as_deref(),
    )
}

/// `POST /v1/sql`
pub(super) async fn post(
    State(app): State<Arc<App>>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let query: Query = query_of(raw.as_deref(), KNOWN)?;
    let output = output(&headers, &query)?;
    let request = read(&headers, body, app.intake()).await?;
    let caller = caller.again(&app, &headers).await?.narrowed(&headers)?;
    let placed = placed(&app, &request.sql)?;
    run(&app, caller, &headers, placed, request, output).await
}

/// `GET /v1/sql?q=`
pub(super) async fn get(
    State(app): State<Arc<App>>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let query: Query = query_of(raw.as_deref(), KNOWN)?;
    let output = output(&headers, &query)?;
    let request = of_query(&headers, &query)?;
    let placed = placed(&app, &request.sql)?;
    if placed.get == GetAllowed::No {
        let error = Error::new(
            Code::MethodNotAllowed,
            "GET runs queries without effects only",
        )
        .with_hint("Send the statement with POST.");
        return Err(Problem::from(error).with_allow("POST"));
    }
    run(&app, caller.reading(), &headers, placed, request, output).await
}

async fn run(
    app: &Arc<App>,
    caller: Caller,
    headers: &HeaderMap,
    placed: Placed,
    request: SqlRequest,
    output: Output,
) -> Handled {
    let key = idempotency_key(headers)?.map(str::to_owned);
    let patience = patience(headers, app.limits().server_wait_max);
    if patience != Patience::ToTheEnd
        && app.registry.running(&caller.actor) >= app.limits().server_background_max
    {
        let error = Error::new(Code::TooBusy, "you run as many statements as you may")
            .with_hint("Wait until one of them has ended, or cancel one.");
        return Err(Problem::from(error).with_status(StatusCode::TOO_MANY_REQUESTS));
    }
    let run = Run::begin(app, &caller, placed, &request);
    let record = Arc::clone(&run.record);
    match patience {
        Patience::ToTheEnd => wait_for(run, &caller, request, key.as_deref(), output).await,
        Patience::AtMost(wait) => {
            app.tasks.spawn(async move {
                let answer = run.execute(&caller, &request, key.as_deref()).await;
                let kept = match answer {
                    Ok(answer) => {
                        let bytes_max = run.app.limits().server_result_bytes_max;
                        run.collect(answer, run.rows_max(&request), bytes_max).await
                    }
                    Err(error) => Err(error),
                };
                match kept {
                    Ok(kept) => run.succeed(Some(kept)),
                    Err(error) => drop(run.fail(error)),
                }
            });
            match tokio::time::timeout(wait, record.ended()).await {
                Ok(()) => result_of(app, &record, output).await,
                Err(_) => Ok(later(&record)),
            }
        }
    }
}

/// Runs a statement and sends its rows as they are found.
pub(super) async fn wait_for(
    run: Run,
    caller: &Caller,
    request: SqlRequest,
    key: Option<&str>,
    output: Output,
) -> Handled {
    let (mut answer, kept) = match run.act(caller, &request, key).await {
        Ok(acted) => acted,
        Err(error) => return Err(run.fail(error)),
    };
    let rows_max = run.rows_max(&request);
    let mut encoder = match Encoder::try_new(&answer.schema, output, rows_max) {
        Ok(encoder) => encoder,
        Err(error) => return Err(run.fail(error)),
    };
    let first = answer.rows.next().await.transpose();
    let first = first.and_then(|first| {
        let rows = first.as_ref().map_or(0, |batch| batch.num_rows());
        check_rows(rows as u64, rows_max).map(|()| first)
    });
    // Encoded before the head is sent: what the format cannot hold is still an error of its own.
    let (head, rest) = match first.and_then(|first| encoder.begin(first)) {
        Ok(begun) => begun,
        Err(error) => return Err(run.fail(error)),
    };
    if let Some(kept) = kept {
        run.succeed(Some(kept));
    }
    let mut response = Response::new(Body::empty());
    describe(
        response.headers_mut(),
        &run.record,
        &answer.statement_id,
        output,
    );
    repeat(response.headers_mut(), answer.repetition);
    *response.body_mut() = body(Of::Run(run), encoder, head, rest, answer.rows);
    Ok(response)
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Ids, numbers and names of ours are plain; what is not could not be sent.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn describe(headers: &mut HeaderMap, record: &Record, id: &str, output: Output) {
    put(headers, "content-type", &output.content_type());
    put(headers, "cache-control", "no-store");
    put(headers, "vary", "accept, authorization");
    put(headers, "x-content-type-options", "nosniff");
    put(headers, "sluicegate-statement-id", id);
    put(headers, "sluicegate-statement-kind", record.kind.name());
    let outcome = record.outcome();
    if let Some(version) = outcome.version {
        put(headers, "sluicegate-version", &version.to_string());
    }
    if let Some(rows) = outcome.rows_affected {
        put(headers, "sluicegate-rows-affected", &rows.to_string());
    }
    if !outcome.summary.is_empty() {
        put_json(headers, "sluicegate-summary", &json!(outcome.summary));
    }
    if !outcome.locks.is_empty() {
        put_json(headers, "sluicegate-locks", &json!(outcome.locks));
    }
    if !outcome.notes.is_empty() {
        put_json(headers, "sluicegate-notes", &json!(outcome.notes));
    }
}

/// A header of JSON in plain ASCII. What is longer than clients take is left out: the record of
/// the statement has it as well.
fn put_json(headers: &mut HeaderMap, name: &'static str, value: &Value) {
    let mut text = String::new();
    for unit in value.to_string().encode_utf16() {
        match u8::try_from(unit) {
            Ok(plain @ b' '..=b'~') => text.push(char::from(plain)),
            Ok(_) | Err(_) => text.push_str(&format!("\\u{unit:04x}")),
        }
    }
    if text.len() <= HEADER_MAX {
        put(headers, name, &text);
    }
}

pub(super) fn repeat(headers: &mut HeaderMap, repetition: Repetition) {
    let what = match repetition {
        Repetition::No => return,
        Repetition::Rows => "rows",
        Repetition::Summary => "summary",
    };
    put(headers, "idempotency-replayed", "?1");
    put(headers, "sluicegate-replayed", what);
}

pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    put(response.headers_mut(), "content-type", "application/json");
    put(response.headers_mut(), "cache-control", "no-store");
    response
}

/// 202: the statement goes on, and this is where to ask for it.
fn later(record: &Record) -> Response {
    let mut response = json_answer(StatusCode::ACCEPTED, &record.json());
    let location = format!("/v1/statements/{}", record.id);
    put(response.headers_mut(), "location", &location);
    put(
        response.headers_mut(),
        "sluicegate-statement-id",
        &record.id,
    );
    put(response.headers_mut(), "retry-after", "1");
    response
}

async fn result_of(app: &Arc<App>, record: &Record, output: Output) -> Handled {
    match record.state() {
        StatementState::Planned | StatementState::Running => return Ok(later(record)),
        StatementState::Failed | StatementState::Cancelled => {
            let ended = record.problem();
            let (status, body) =
                ended.ok_or_else(|| Error::bug("a statement failed for no reason"))?;
            return Ok(problem_answer(status, &body));
        }
        StatementState::Committed => {}
    }
    let Some(kept) = record.kept() else {
        return Err(record.told(expired("the rows of the statement are not kept")));
    };
    let most = app.limits().server_background_max;
    let of = match app.sending.take(&record.actor, most) {
        Some(share) => Of::Kept {
            app: Arc::clone(app),
            stop: record.sending(),
            _share: share,
        },
        // It has ended, and what it did must not look undone.
        None => return Ok(later(record)),
    };
    let begun = async {
        let mut encoder = Encoder::try_new(&kept.schema, output, None)?;
        let mut rows = stored(&kept);
        let (head, rest) = encoder.begin(rows.next().await.transpose()?)?;
        Ok::<_, Error>((encoder, head, rest, rows))
    };
    let (encoder, head, rest, rows) = begun.await.map_err(|error| record.told(error))?;
    let mut response = Response::new(body(of, encoder, head, rest, rows));
    let (id, repetition) = match record.origin() {
        Origin::Earlier(id, repetition) => (id, repetition),
        Origin::Own | Origin::Recalled => (Arc::clone(&record.id), Repetition::No),
    };
    describe(response.headers_mut(), record, &id, output);
    repeat(response.headers_mut(), repetition);
    Ok(response)
}

/// `GET /v1/statements`
pub(super) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Handled {
    let caller = caller(&app, &headers).await?;
    let own = app.registry.of(&caller.actor);
    let own: Vec<Value> = own.iter().map(|record| record.json()).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "statements": own })))
}

/// `GET /v1/statements/{id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let record = app.registry.get(&id, &caller.actor)?;
    Ok(json_answer(StatusCode::OK, &record.json()))
}

/// `GET /v1/statements/{id}/result`
pub(super) async fn result(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let output = output(&headers, &query_of(raw.as_deref(), KNOWN)?)?;
    let record = app.registry.get(&id, &caller.actor)?;
    result_of(&app, &record, output).await
}

/// `DELETE /v1/statements/{id}`: asks it to end. What has ended stays as it is.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let record = app.registry.get(&id, &caller.actor)?;
    cancel_run(&app, &caller, &record).await?;
    Ok(json_answer(StatusCode::ACCEPTED, &record.json()))
}
