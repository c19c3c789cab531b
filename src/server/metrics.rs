//! Health, and numbers for Prometheus in its text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State as AppState;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use crate::model::jobs::JobState;
use crate::model::state::{Dropped, State};
use crate::server::App;
use crate::server::auth::caller;
use crate::server::sql::Handled;
use crate::server::statements::StatementState;
use crate::session::StatementKind;

/// How long the store may take to answer before the server counts as not ready.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// How long its answer counts: everybody may ask, and each answer costs a request to the store.
const READY_FOR: Duration = Duration::from_secs(1);

/// How far something is behind the ledger, in commits.
#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    /// This server.
    unread: u64,
    /// The last checkpoint.
    to_replay: u64,
}

/// What is counted since the server began.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    statements: Mutex<BTreeMap<(&'static str, StatementState), u64>>,
    /// When the store was asked last whether it answers, and whether it did.
    ready: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Metrics {
    pub(super) fn ended(&self, kind: StatementKind, state: StatementState) {
        *self
            .statements
            .lock()
            .entry((kind.name(), state))
            .or_default() += 1;
    }

    fn text(&self, state: &State, running: usize, lag: Lag) -> String {
        let mut out = String::new();
        family(
            &mut out,
            "sluicegate_statements_total",
            "counter",
            "Statements that ended on this server, by kind and outcome.",
        );
        for ((kind, outcome), count) in self.statements.lock().iter() {
            let labels = [("kind", *kind), ("outcome", outcome.name())];
            sample(&mut out, "sluicegate_statements_total", &labels, *count);
        }
        let running = running as u64;
        let locks = state.locks.iter().count() as u64;
        for (name, kind, help, value) in [
            (
                "sluicegate_statements_running",
                "gauge",
                "Statements that run on this server.",
                running,
            ),
            (
                "sluicegate_commits_total",
                "counter",
                "Commits of the store.",
                state.version.0,
            ),
            (
                "sluicegate_ledger_lag_commits",
                "gauge",
                "Commits of others that this server had not read until it was asked for this.",
                lag.unread,
            ),
            (
                "sluicegate_ledger_commits_to_replay",
                "gauge",
                "Commits after the last checkpoint, which whoever opens the store replays.",
                lag.to_replay,
            ),
            (
                "sluicegate_locks",
                "gauge",
                "Explicit locks that are held.",
                locks,
            ),
        ] {
            family(&mut out, name, kind, help);
            sample(&mut out, name, &[], value);
        }
        for (name, help) in [
            (
                "sluicegate_jobs_waiting",
                "Jobs in the queue, by transform.",
            ),
            ("sluicegate_jobs_running", "Jobs that run, by transform."),
        ] {
            family(&mut out, name, "gauge", help);
            for transform in state.transforms.values() {
                let value = match name {
                    "sluicegate_jobs_waiting" => transform.queue.len(),
                    _ => transform.running,
                };
                if transform.dropped == Dropped::No {
                    sample(&mut out, name, &[("transform", &transform.name)], value);
                }
            }
        }
        let name = "sluicegate_attempt_duration_seconds";
        let help = "Attempts that ended, whoever ran them, since this server opened the store.";
        family(&mut out, name, "summary", help);
        for (id, ran) in state.ran.iter() {
            let Some(transform) = state.transforms.get(id) else {
                continue;
            };
            let labels = [("transform", &*transform.name)];
            let seconds = Duration::from_micros(ran.micros).as_secs_f64();
            sample(&mut out, &format!("{name}_sum"), &labels, seconds);
            sample(&mut out, &format!("{name}_count"), &labels, ran.attempts);
        }
        let name = "sluicegate_jobs_ended_total";
        family(&mut out, name, "counter", "Jobs that ended, by outcome.");
        for (outcome, job_state) in [
            ("completed", JobState::Completed),
            ("cancelled", JobState::Cancelled),
            ("discarded", JobState::Discarded),
        ] {
            let count: u64 = state
                .batches
                .iter()
                .map(|batch| batch.count(job_state))
                .sum();
            sample(&mut out, name, &[("outcome", outcome)], count);
        }
        out
    }
}

// Writing to a String cannot fail.
fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let escape = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    let labels = match labels.as_slice() {
        [] => String::new(),
        some => format!("{{{}}}", some.join(",")),
    };
    let _ = writeln!(out, "{name}{labels} {value}");
}

/// `GET /metrics`
pub(super) async fn metrics(AppState(app): AppState<Arc<App>>, headers: HeaderMap) -> Handled {
    let ledger = &app.core.ledger;
    let before = ledger.seen().version;
    // It reads what others committed.
    caller(&app, &headers).await?;
    let state = ledger.seen();
    let lag = Lag {
        unread: state.version.0.saturating_sub(before.0),
        to_replay: ledger.maintenance().commits_since_checkpoint(),
    };
    let all = app.limits().server_statements_max;
    let running = all.saturating_sub(app.places.available_permits());
    let text = app.metrics.text(&state, running, lag);
    let media = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((media, text).into_response())
}

/// `GET /health/live`
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// `GET /health/ready`
pub(super) async fn ready(AppState(app): AppState<Arc<App>>) -> Response {
    // Those that ask at once wait for one answer.
    let mut told = app.metrics.ready.lock().await;
    let recent = told.filter(|(at, _)| at.elapsed() < READY_FOR);
    let ready = match recent {
        Some((_, ready)) => ready,
        None => {
            let snapshot = tokio::time::timeout(READY_WITHIN, app.core.ledger.snapshot());
            let ready = matches!(snapshot.await, Ok(Ok(_)));
            *told = Some((Instant::now(), ready));
            ready
        }
    };
    match ready && !app.closing.is_cancelled() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut out = String::new();
        sample(&mut out, "n", &[("a", "x\"\\\n")], 3);
        assert_eq!(out, "n{a=\"x\\\"\\\\\\n\"} 3\n");
        let metrics = Metrics::default();
        metrics.ended(StatementKind::Query, StatementState::Committed);
        let text = metrics.text(&State::default(), 2, Lag::default());
        assert!(
            text.contains("sluicegate_statements_total{kind=\"query\",outcome=\"committed\"} 1\n")
        );
        assert!(text.contains("sluicegate_commits_total 0\n"));
    }
}
