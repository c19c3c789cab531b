//! The HTTP server: SQL in, rows out, over one store.
//!
//! `POST /v1/sql` runs one statement, sent as text or as JSON with parameters. A parameter is
//! bound as a value and never becomes syntax. `Accept` or `?format=` choose among JSON, NDJSON,
//! CSV, a text table, Arrow and Parquet; rows are sent as they are found. Effects are durable
//! before the first byte of the answer. `GET /v1/sql?q=` runs queries without effects.
//!
//! JSON writes integers of 64 bits and decimals as strings, which keeps them exact;
//! `?integers=number` asks for numbers. NDJSON ends with `{"$end":{"rows":N}}`: where that line is
//! missing, rows are. An error after the first row aborts the body.
//!
//! A request with an `Idempotency-Key` changes the store once, however often it is sent, to
//! whichever server of the store, before or after a crash. A repetition is answered with
//! `Idempotency-Replayed: ?1`, and with the first rows where this server still has them
//! (`Sluicegate-Replayed: rows`) or with the counts of outcomes (`summary`), the statement's id
//! and version. Keys are each user's own. A key with another statement is refused.
//!
//! A request may bring tables: as `multipart/form-data` with the JSON as the part `request`, and
//! each further part an Arrow IPC stream, which the statement sees as a table of the part's name.
//! Effects, previews and writes take their rows from it as from any other. No other statement sees
//! it, and it hides no table of the store. An idempotency key counts for the same rows only.
//!
//! Arrow answers have compressed buffers where `Accept` says so, as in
//! `application/vnd.apache.arrow.stream; codecs="zstd, lz4"`; the body as a whole is not compressed
//! then.
//!
//! `POST /v1/flight/info` plans a statement, runs nothing, and answers with a ticket;
//! `GET /v1/flight/stream/{ticket}` runs it and sends an Arrow stream. A ticket holds its
//! statement, sealed for the token that asked for it, so every server of the store can run it for
//! [`Limits::server_ticket_keep`]. With effects it acts once, however often it is fetched; a
//! further fetch gets the outcome, as with an idempotency key. A query runs again.
//! `POST /v1/flight/put?table=` writes an Arrow stream into a source table, in one commit.
//!
//! On the same port, gRPC clients find Arrow Flight SQL (`flight_sql`), with the same tokens,
//! roles, records and tickets. Where drivers differ from what HTTP clients get, the drivers win:
//! the info of a change has no schema, so that `execute` returns when it is committed, and
//! dictionaries are sent as their values.
//!
//! `Prefer: respond-async` or `wait=N` make a statement a resource below `/v1/statements`, with
//! its rows for a while; `DELETE` cancels. Nobody sees the statements of others.
//!
//! Without any token in the store, the server listens on this machine only and takes every
//! request for that of the user who started it, except those of web pages. As soon as there is a
//! token, each request needs one; its role decides what is allowed, and its name is the actor of
//! what it does. Made or revoked, a token counts at once, but for statements that run already.
//!
//! Invariants: everything goes through [`Session`](crate::session::Session); the number of
//! statements, the bytes of bodies and kept rows, and the time that a client may do nothing, are
//! bounded by [`Limits`](crate::config::Limits). Called by `engine`.

mod allowance;
mod auth;
mod delivery;
mod exact;
mod flight;
mod flight_sql;
mod intake;
mod ipc;
mod jobs;
mod metrics;
mod multipart;
mod negotiate;
mod problem;
mod request;
mod routes;
mod rows;
mod run;
mod sql;
mod statements;
mod tickets;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, HeaderMap, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tracing::Instrument;
use tracing::field::Empty;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::server::allowance::{Shares, permits};
use crate::server::auth::Caller;
use crate::server::intake::{Intake, Waits};
use crate::server::metrics::Metrics;
use crate::server::statements::Registry;
use crate::session::core::Core;
use crate::session::{Access, Session};
use crate::telemetry::continue_trace;
use crate::time::{Clock, Timestamp};

/// How long cancelled statements have to end. Chosen: they notice between two batches.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// For whom a server acts where a request carries no token.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The actor of such requests.
    pub actor: Arc<str>,
    /// What they may do. Of tokens, [`Access::ReadOnly`] makes readers.
    pub access: Access,
}

pub use tls::Tls;

/// What all requests share.
#[derive(Debug)]
struct App {
    core: Arc<Core>,
    options: ServeOptions,
    /// Whether only this machine can reach the server.
    loopback: bool,
    registry: Registry,
    places: Arc<Semaphore>,
    /// Of ended statements whose kept rows are being sent.
    sending: Arc<Shares>,
    /// Bytes of what came with requests.
    uploads: Arc<Semaphore>,
    metrics: Metrics,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl App {
    fn limits(&self) -> &Limits {
        self.core.ledger.limits()
    }

    fn now(&self) -> Timestamp {
        self.core.ledger.now()
    }

    /// How much is read of a body.
    fn intake(&self) -> Intake<'_> {
        let limits = self.limits();
        Intake {
            body_bytes_max: limits.server_body_bytes_max,
            upload_bytes_max: limits.server_upload_bytes_max,
            rows_max: limits.effect_rows_max,
            pool: &self.uploads,
            waits: Waits {
                piece_max: limits.server_stall_max,
                whole_max: limits.statement_timeout,
            },
        }
    }

    fn session(&self, caller: &Caller) -> Session {
        Session::new(Arc::clone(&self.core), &caller.actor, caller.access)
    }
}

/// Whether a server at this address may start without a token in the store.
///
/// # Errors
/// `SG4001 unauthenticated`: others could reach it, and there is no token.
pub async fn check_bind(core: &Core, listener: &TcpListener) -> Result<Protection> {
    let loopback = loopback(listener)?;
    let state = core.ledger.snapshot().await?;
    match (state.tokens.is_empty(), loopback) {
        (false, _) => Ok(Protection::Tokens),
        (true, true) => Ok(Protection::ThisMachine),
        (true, false) => Err(Error::new(
            Code::Unauthenticated,
            "a server without tokens listens on this machine only",
        )
        .with_hint(
            "Make a token with sluicegate token create --role admin, or use --bind 127.0.0.1:8080.",
        )),
    }
}

/// What keeps strangers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Every request needs a token.
    Tokens,
    /// Only this machine reaches the server; whoever does may act.
    ThisMachine,
}

fn loopback(listener: &TcpListener) -> Result<bool> {
    let address = listener.local_addr();
    let address =
        address.map_err(|error| Error::bug("a listener has no address").with_source(error))?;
    Ok(address.ip().is_loopback())
}

/// Serves until `stop` turns true; then what runs may end within `Limits::shutdown_wait`, and the
/// rest is cancelled.
///
/// # Errors
/// Those of [`check_bind`], and a listener that fails.
pub async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    options: ServeOptions,
    tls: Option<Tls>,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    check_bind(&core, &listener).await?;
    let limits = Arc::clone(core.ledger.limits());
    let closing = CancellationToken::new();
    let app = Arc::new(App {
        loopback: loopback(&listener)?,
        options,
        registry: Registry::new(clock, Arc::clone(&limits), closing.clone()),
        places: Arc::new(Semaphore::new(limits.server_statements_max)),
        sending: Arc::default(),
        uploads: Arc::new(Semaphore::new(permits(limits.server_uploads_bytes_max))),
        metrics: Metrics::default(),
        tasks: TaskTracker::new(),
        closing: closing.clone(),
        core,
    });
    // What is compressed already, or too small to gain.
    let packed = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        !short(headers, header::CONTENT_TYPE.as_str()).contains("codecs=")
    };
    let compressed = SizeAbove::new(256)
        .and(packed)
        .and(NotForContentType::new("application/vnd.apache.parquet"))
        .and(NotForContentType::new("application/problem+json"));
    let router = routes::router()
        .layer(CompressionLayer::new().compress_when(compressed))
        .with_state(Arc::clone(&app))
        .merge(flight_sql::router(&app))
        .layer(from_fn_with_state(Arc::clone(&app), log));
    let mut asked = stop.clone();
    let told = async move {
        // A sender that is gone asks for the end as well.
        let _ = asked.wait_for(|stop| *stop).await;
    };
    let served = async move {
        if let Some(tls) = tls {
            return tls::serve(listener, router, tls, told).await;
        }
        // Else the head and the first rows of a short answer wait for each other's
        // acknowledgement.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        });
        axum::serve(listener, router)
            .with_graceful_shutdown(told)
            .await
    };
    tokio::pin!(served);
    let late = async {
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(limits.shutdown_wait).await;
    };
    let failed = |error: std::io::Error| {
        Error::new(Code::Bug, "the server cannot take requests").with_source(error)
    };
    tokio::select! {
        ended = &mut served => ended.map_err(failed)?,
        () = late => tracing::warn!("requests did not end in time; they are cancelled"),
    }
    // Without a request nobody waits for what still runs.
    app.tasks.close();
    closing.cancel();
    if tokio::time::timeout(CANCEL_WAIT, app.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("statements did not heed their cancellation; they are left behind");
    }
    Ok(())
}

fn short(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().chars().take(100).collect()
}

/// One line per request, in a span of its own, in which everything else that it logs is. The
/// route is logged, not the address: that may hold SQL or a ticket.
async fn log(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = match route.map_or("none", MatchedPath::as_str) {
        // All methods of a gRPC service; its path is a name.
        route if route.contains("{*") => request.uri().path(),
        route => route,
    };
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        route,
        agent = short(request.headers(), header::USER_AGENT.as_str()),
        actor = Empty,
        statement_id = Empty,
    );
    let headers = request.headers();
    let header = |name: &str| headers.get(name)?.to_str().ok();
    continue_trace(&span, header("traceparent"), header("tracestate"));
    let response = next.run(request).instrument(span.clone()).await;
    let statement_id = short(response.headers(), "sluicegate-statement-id");
    if !statement_id.is_empty() {
        span.record("statement_id", statement_id);
    }
    span.in_scope(|| {
        tracing::info!(
            status = response.status().as_u16(),
            places = app.places.available_permits(),
            ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
    });
    response
}
