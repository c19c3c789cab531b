//! Errors as RFC 9457 problems: the one table from code to status, and the body.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Code, Error};
use crate::session::StatementKind;

/// Seconds after which a client may come back. Chosen: most statements are shorter.
const RETRY_AFTER: &str = "1";

/// What is known of the effects of a statement that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effects {
    /// There are none.
    None,
    /// They are in the store.
    Committed,
    /// They may be; table `statements` tells.
    Unknown,
}

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct Problem {
    error: Error,
    status: StatusCode,
    statement_id: Option<Arc<str>>,
    effects: Effects,
    allow: Option<&'static str>,
}

/// The status of a code.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::SyntaxError
        | Code::PlanError
        | Code::EffectMisplaced
        | Code::EffectArgument
        | Code::Unsupported
        | Code::QueryFailed
        | Code::InvalidDefinition
        | Code::InvalidKey
        | Code::NotXml
        | Code::InvalidXPath
        | Code::CommandUnusable
        | Code::CommandFailed
        | Code::NoAnswer
        | Code::InvalidAnswer
        | Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::SettingDenied | Code::ReadOnly | Code::RoleDenied | Code::OutsideRoots => {
            StatusCode::FORBIDDEN
        }
        Code::UnknownObject | Code::UnknownTransform | Code::FileUnreadable => {
            StatusCode::NOT_FOUND
        }
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Code::AlreadyExists
        | Code::ObjectInUse
        | Code::DuplicateKey
        | Code::RowLocked
        | Code::WriteConflict
        | Code::RowInUse
        | Code::Cancelled
        | Code::Contended
        | Code::LeaseLost => StatusCode::CONFLICT,
        Code::StatementExpired => StatusCode::GONE,
        Code::TooManyRows | Code::OutOfMemory | Code::TooLarge | Code::TooManyStatuses => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Code::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Code::OutputFailed
        | Code::StoreUrl
        | Code::StoreCorrupt
        | Code::StoreTooNew
        | Code::StoreReplaced
        | Code::StoreUnsafe
        | Code::TimeAhead
        | Code::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        Code::TooBusy | Code::StoreUnavailable | Code::SnapshotGone | Code::ClockOff => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::Timeout | Code::AttemptTimeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            status: status(error.code()),
            error,
            statement_id: None,
            effects: Effects::None,
            allow: None,
        }
    }
}

impl Problem {
    /// The error of a statement that was begun.
    pub(super) fn of_statement(error: Error, id: &Arc<str>, kind: StatementKind) -> Self {
        let open = matches!(
            error.code(),
            Code::Timeout | Code::StoreUnavailable | Code::Cancelled | Code::Bug
        );
        Self {
            statement_id: Some(Arc::clone(id)),
            effects: if open && kind.changes() {
                Effects::Unknown
            } else {
                Effects::None
            },
            ..Self::from(error)
        }
    }

    /// The same problem, of which more is known.
    pub(super) fn with_effects(mut self, effects: Effects) -> Self {
        self.effects = effects;
        self
    }

    /// The same problem with another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same problem, which says what is allowed.
    pub(super) fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The error.
    pub(super) fn error(&self) -> &Error {
        &self.error
    }

    /// The statement, where one was begun.
    pub(super) fn statement_id(&self) -> Option<&str> {
        self.statement_id.as_deref()
    }

    /// What is known of its effects.
    pub(super) fn effects(&self) -> Effects {
        self.effects
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub(super) fn body(&self) -> Value {
        let error = &self.error;
        let code = error.code();
        json!({
            "type": format!("urn:sluicegate:error:{}", code.slug()),
            "title": code.slug().replace('-', " "),
            "status": self.status.as_u16(),
            "detail": match error.detail() {
                Some(detail) => format!("{error}. {detail}"),
                None => error.to_string(),
            },
            "message": error.message(),
            "code": code.as_str(),
            "sqlstate": code.sqlstate(),
            "statement_id": self.statement_id,
            "position": error.position().map(|at| json!({"line": at.line, "column": at.column})),
            "retryable": error.retryable(),
            "effects_committed": match self.effects {
                Effects::None => Some(false),
                Effects::Committed => Some(true),
                Effects::Unknown => None,
            },
            "hint": error.hint(),
        })
    }
}

/// A problem that was kept as its parts.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let problem = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, problem);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let busy = [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if busy.contains(&status) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"sluicegate\"");
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(error = ?self.error, "a request failed");
        }
        let mut response = answer(self.status, &self.body());
        if let Some(allow) = self.allow {
            let headers = response.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Kind;

    use super::*;

    #[test]
    fn every_code_has_a_status_that_fits_its_kind() {
        for code in Code::ALL {
            let status = status(*code).as_u16();
            let fits = match code.kind() {
                Kind::Input => (400..500).contains(&status) || status == 500,
                Kind::NotFound => [404, 410].contains(&status),
                Kind::Conflict => status == 409,
                Kind::Denied => [401, 403].contains(&status),
                Kind::Limit => [413, 503, 504].contains(&status),
                Kind::Unavailable => [500, 503].contains(&status),
                Kind::Corrupt | Kind::Internal => status == 500,
            };
            assert!(fits, "{code} {} is {status}", code.slug());
        }
    }

    #[test]
    fn a_problem_has_every_field() {
        let problem = Problem::from(Error::new(Code::SyntaxError, "no")).body();
        for field in [
            "type",
            "title",
            "status",
            "detail",
            "message",
            "code",
            "sqlstate",
            "statement_id",
            "position",
            "retryable",
            "effects_committed",
            "hint",
        ] {
            assert!(problem.get(field).is_some(), "{field}");
        }
    }
}
