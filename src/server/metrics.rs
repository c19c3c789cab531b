//! Health, and numbers for Prometheus in its text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

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

/// What is counted since the server began.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    statements: Mutex<BTreeMap<(&'static str, StatementState), u64>>,
}

impl Metrics {
    pub(super) fn ended(&self, kind: StatementKind, state: StatementState) {
        *self
            .statements
            .lock()
            .entry((kind.name(), state))
            .or_default() += 1;
    }

    fn text(&self, state: &State, running: usize) -> String {
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
        let name = "sluicegate_jobs_ended_total";
        family(&mut out, name, "counter", "Jobs that ended, by outcome.");
        for (outcome, job_state) in [
            ("completed", JobState::Completed),
            ("cancelled", JobState::Cancelled),
            ("discarded", JobState::Discarded),
        ] {
            let count = state
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

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
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
    caller(&app, &headers).await?;
    let all = app.limits().server_statements_max;
    let running = all.saturating_sub(app.places.available_permits());
    let text = app.metrics.text(&app.core.ledger.seen(), running);
    let media = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((media, text).into_response())
}

/// `GET /health/live`
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// `GET /health/ready`
pub(super) async fn ready(AppState(app): AppState<Arc<App>>) -> Response {
    let snapshot = tokio::time::timeout(READY_WITHIN, app.core.ledger.snapshot());
    match snapshot.await {
        Ok(Ok(_)) if !app.closing.is_cancelled() => "ready\n".into_response(),
        Ok(_) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
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
        let text = metrics.text(&State::default(), 2);
        assert!(
            text.contains("sluicegate_statements_total{kind=\"query\",outcome=\"committed\"} 1\n")
        );
        assert!(text.contains("sluicegate_commits_total 0\n"));
    }
}
