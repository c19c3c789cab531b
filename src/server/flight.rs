//! The verbs of Arrow Flight over plain HTTP: `/v1/flight/...`.
//!
//! `info` plans a statement and runs nothing; its ticket is run by `stream`. A ticket of a
//! statement with effects acts once, however often and wherever it is fetched: its id is an
//! idempotency key of the caller. A query runs again each time. `put` writes an Arrow stream into
//! a source table, in one commit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::{IpcMessage, SchemaAsIpc};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::id::Token;
use crate::server::App;
use crate::server::auth::{Caller, caller};
use crate::server::intake::{Intake, pieces, throw_away};
use crate::server::ipc::Upload;
use crate::server::negotiate::Output;
use crate::server::problem::Problem;
use crate::server::request::{
    SqlRequest, idempotency_key, media_type, plain_coding, read, settings_of, whole,
};
use crate::server::run::{Run, cancel_run, key_of_ticket, placed};
use crate::server::sql::{Handled, json_answer, query_of, repeat, wait_for};
use crate::server::tickets::{Ticket, as_text, of_text, row_text};
use crate::session::Description;
use crate::session::bound_table::{BoundTable, INPUT};
use crate::session::names::quoted;
use crate::session::parameters::Parameters;
use crate::time::Timestamp;

/// An action, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    CancelStatement,
    CloseStatement,
    HealthCheck,
}

impl Action {
    const ALL: &[Self] = &[
        Self::CancelStatement,
        Self::CloseStatement,
        Self::HealthCheck,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::CancelStatement => "cancel_statement",
            Self::CloseStatement => "close_statement",
            Self::HealthCheck => "health_check",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::CancelStatement => "Asks the statement \"statement_id\" to end",
            Self::CloseStatement => "The same, and gives up its rows",
            Self::HealthCheck => "Whether the store answers",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfStatement {
    statement_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    table: String,
    mode: Option<String>,
}

/// How rows get into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutMode {
    /// A key that is there is an error.
    Insert,
    /// It is replaced.
    Replace,
}

/// A planned statement and its ticket.
pub(super) struct Planned {
    pub id: Arc<str>,
    pub description: Description,
    pub ticket: Vec<u8>,
    pub expires_at: Timestamp,
}

/// Plans a statement, which runs nothing, and seals its ticket.
///
/// # Errors
/// Those of planning, with the statement's id; `SG4009 too-busy`; `SG4005 unsupported-media` where
/// tables came with it.
pub(super) async fn plan(
    app: &Arc<App>,
    caller: &Caller,
    request: &SqlRequest,
) -> Result<Planned, Problem> {
    if !request.tables.is_empty() {
        return Err(
            Error::new(Code::UnsupportedMedia, "a ticket carries no tables")
                .with_hint("Send tables and their statement with POST /v1/sql.")
                .into(),
        );
    }
    let run = Run::plan(app, caller, placed(app, &request.sql)?, request);
    let description = match run.describe(caller, request).await {
        Ok(description) => description,
        Err(error) => return Err(run.fail(error)),
    };
    let expires_at = app.now().after(app.limits().server_ticket_keep);
    let ticket = Ticket {
        id: run.record.id.to_string(),
        expires_at: expires_at.0,
        sql: request.sql.clone(),
        params: match request.parameters.to_json() {
            json if json.is_null() => None,
            json => Some(json.to_string()),
        },
        row: match &request.parameters {
            Parameters::Row(row) => Some(row_text(row)?),
            Parameters::None | Parameters::Positional(_) | Parameters::Named(_) => None,
        },
        rows_max: request.rows_max,
        timeout_ms: request
            .timeout
            .map(|time| time.as_millis().try_into().unwrap_or(u64::MAX)),
        lock_tokens: request.lock_tokens.iter().map(|token| token.0).collect(),
        read_only: caller.only_reads(),
    };
    Ok(Planned {
        id: Arc::clone(&run.record.id),
        description,
        ticket: ticket.seal(&caller.tickets)?,
        expires_at,
    })
}

/// The statement of a ticket, with the key under which it acts once, ready to run.
pub(super) struct Fetched {
    pub run: Run,
    pub caller: Caller,
    pub request: SqlRequest,
    pub key: String,
}

/// Opens a ticket and begins its statement.
///
/// # Errors
/// Those of [`Ticket::open`]; `SG4010 cancelled`, `SG4009 too-busy`.
pub(super) fn fetch(
    app: &Arc<App>,
    caller: Caller,
    headers: &HeaderMap,
    sealed: &[u8],
) -> Result<Fetched> {
    let ticket = Ticket::open(sealed, &caller.tickets, app.now())?;
    let mut request = SqlRequest {
        parameters: ticket.parameters()?,
        rows_max: ticket.rows_max,
        timeout: ticket.timeout_ms.map(Duration::from_millis),
        lock_tokens: ticket.lock_tokens.into_iter().map(Token).collect(),
        ..SqlRequest::new(ticket.sql)
    };
    // Of the limits of both requests, the narrower count; the locks that either shows are shown.
    settings_of(&mut request, headers)?;
    let caller = match ticket.read_only {
        true => caller.reading(),
        false => caller,
    };
    let placed = placed(app, &request.sql)?;
    let run = Run::of_ticket(app, &caller, placed, &request, &ticket.id)?;
    Ok(Fetched {
        run,
        caller,
        request,
        key: key_of_ticket(&ticket.id),
    })
}

/// The schema as the message that Flight clients read.
///
/// # Errors
/// `SG9001 bug`.
pub(super) fn schema_message(schema: &Schema) -> Result<bytes::Bytes> {
    let options = IpcWriteOptions::default();
    let message: Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    match message {
        Ok(message) => Ok(message.0),
        Err(error) => Err(Error::bug("a schema has no message").with_source(error)),
    }
}

/// `POST /v1/flight/info`
pub(super) async fn info(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Handled {
    let caller = caller(&app, &headers).await?;
    let request = read(&headers, body, app.intake()).await?;
    let caller = caller.again(&app, &headers).await?.narrowed(&headers)?;
    let planned = plan(&app, &caller, &request).await?;
    let ticket = as_text(&planned.ticket);
    let bytes_max = app.limits().server_ticket_bytes_max;
    if ticket.len() > bytes_max {
        return Err(Error::new(
            Code::TooLarge,
            format!("the ticket of the statement has more than {bytes_max} bytes"),
        )
        .with_hint("Send long statements with POST /v1/sql, or over Flight SQL.")
        .into());
    }
    let schema = planned.description.schema.as_deref().map(schema_message);
    let schema = schema.transpose()?.map(|message| STANDARD.encode(message));
    let answer = json!({
        "statement_id": planned.id,
        "kind": planned.description.kind.name(),
        "schema": schema,
        "endpoints": [{
            "ticket": ticket,
            "locations": [],
            "expiration_time": planned.expires_at.to_string(),
        }],
        "total_records": -1,
        "total_bytes": -1,
        "ordered": true,
    });
    Ok(json_answer(StatusCode::OK, &answer))
}

/// `GET /v1/flight/stream/{ticket}`
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(ticket): Path<String>,
    headers: HeaderMap,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let caller = caller.narrowed(&headers)?;
    let Fetched {
        run,
        caller,
        request,
        key,
    } = fetch(&app, caller, &headers, &of_text(&ticket))?;
    wait_for(run, &caller, request, Some(&key), Output::ARROW).await
}

/// `POST /v1/flight/put?table=&mode=`
pub(super) async fn put(
    State(app): State<Arc<App>>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let query: PutQuery = query_of(raw.as_deref(), "table and mode")?;
    let mode = put_mode(query.mode.as_deref())?;
    let media = media_type(&headers)?;
    let arrow = [
        "application/vnd.apache.arrow.stream",
        "application/octet-stream",
    ];
    if !arrow.iter().any(|known| media.eq_ignore_ascii_case(known)) {
        return Err(Error::new(
            Code::UnsupportedMedia,
            format!("rows of type \"{media}\" are not read here"),
        )
        .with_hint("Send an Arrow IPC stream as application/vnd.apache.arrow.stream.")
        .into());
    }
    plain_coding(&headers)?;
    // Whoever may write no rows sends none.
    let narrowed = caller.clone().narrowed(&headers)?;
    app.session(&narrowed).check_insert()?;
    let mut request = rows_of_body(body, app.intake(), &query.table, mode).await?;
    let caller = caller.again(&app, &headers).await?.narrowed(&headers)?;
    settings_of(&mut request, &headers)?;
    let key = idempotency_key(&headers)?.map(str::to_owned);
    let run = Run::begin(&app, &caller, placed(&app, &request.sql)?, &request);
    let written = run.write(&caller, &request, key.as_deref()).await?;
    let mut response = json_answer(
        StatusCode::OK,
        &json!({
            "statement_id": written.statement_id,
            "rows_affected": written.rows,
            "version": written.version,
        }),
    );
    repeat(response.headers_mut(), written.repetition);
    Ok(response)
}

fn put_mode(name: Option<&str>) -> Result<PutMode> {
    match name {
        None | Some("insert") => Ok(PutMode::Insert),
        Some("replace") => Ok(PutMode::Replace),
        Some(other) => Err(Error::new(
            Code::BadRequest,
            format!("mode \"{other}\" is neither insert nor replace"),
        )
        .with_hint("insert refuses keys that are there; replace replaces their rows.")),
    }
}

async fn rows_of_body(
    body: Body,
    intake: Intake<'_>,
    table: &str,
    mode: PutMode,
) -> Result<SqlRequest> {
    let allowance = intake.allowance();
    let mut upload = Upload::new(allowance.clone(), intake.rows_max);
    let mut pieces = pin!(pieces(body, intake.waits));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let taken = allowance.take(piece.len());
        if let Err(error) = taken.and_then(|()| upload.write(&piece)) {
            drop(upload);
            throw_away(pieces).await;
            return Err(error);
        }
    }
    let rows = upload.finish()?;
    let input = BoundTable::input(&rows.schema, &rows.batches, rows.digest)?;
    Ok(SqlRequest {
        tables: vec![input],
        allowance: Some(allowance),
        ..SqlRequest::new(put_sql(table, mode, &rows.schema))
    })
}

/// The statement that puts all columns of the rows into a table.
pub(super) fn put_sql(table: &str, mode: PutMode, schema: &Schema) -> String {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| quoted(field.name()))
        .collect();
    let columns = columns.join(", ");
    let verb = match mode {
        PutMode::Insert => "INSERT",
        PutMode::Replace => "REPLACE",
    };
    format!(
        "{verb} INTO {} ({columns}) SELECT {columns} FROM {}",
        quoted(table),
        quoted(INPUT)
    )
}

/// `GET /v1/flight/actions`
pub(super) async fn actions(State(app): State<Arc<App>>, headers: HeaderMap) -> Handled {
    caller(&app, &headers).await?;
    let all: Vec<Value> = Action::ALL
        .iter()
        .map(|action| json!({"type": action.name(), "description": action.description()}))
        .collect();
    Ok(json_answer(StatusCode::OK, &json!({ "actions": all })))
}

/// `POST /v1/flight/action/{type}`
pub(super) async fn action(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let caller = caller(&app, &headers).await?;
    let known = Action::ALL.iter().find(|action| action.name() == name);
    let Some(known) = known else {
        return Err(Error::new(
            Code::UnknownObject,
            format!("action \"{name}\" does not exist"),
        )
        .with_hint("GET /v1/flight/actions lists them.")
        .into());
    };
    if *known == Action::HealthCheck {
        app.core.ledger.snapshot().await?;
        return Ok(json_answer(StatusCode::OK, &json!({"status": "ready"})));
    }
    let (body, _allowance) = whole(&headers, body, &app.intake()).await?;
    let of = serde_json::from_slice::<OfStatement>(&body).map_err(|error| {
        Error::new(Code::BadRequest, "the action has no statement")
            .with_hint("Send {\"statement_id\": \"...\"}.")
            .with_source(error)
    })?;
    let caller = caller.again(&app, &headers).await?;
    let record = app.registry.get(&of.statement_id, &caller.actor)?;
    cancel_run(&app, &caller, &record).await?;
    if *known == Action::CloseStatement {
        app.registry.forget_rows(&record);
    }
    Ok(json_answer(StatusCode::OK, &record.json()))
}
