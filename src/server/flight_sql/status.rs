//! Errors as gRPC statuses: the one table from code to status, and what goes along.

use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::{Code as Rpc, Status};

use crate::error::{Code, Error};
use crate::server::problem::{Effects, Problem};

/// The status of a code. ADBC drivers make their exceptions of it.
fn rpc(code: Code) -> Rpc {
    match code {
        Code::SyntaxError
        | Code::PlanError
        | Code::EffectMisplaced
        | Code::EffectArgument
        | Code::QueryFailed
        | Code::InvalidDefinition
        | Code::InvalidKey
        | Code::NotXml
        | Code::InvalidXPath
        | Code::CommandUnusable
        | Code::CommandFailed
        | Code::NoAnswer
        | Code::InvalidAnswer
        | Code::BadRequest
        | Code::NotAcceptable
        | Code::UnsupportedMedia
        | Code::MethodNotAllowed
        | Code::KeyReused => Rpc::InvalidArgument,
        Code::Unsupported => Rpc::Unimplemented,
        Code::Unauthenticated => Rpc::Unauthenticated,
        Code::SettingDenied | Code::ReadOnly | Code::RoleDenied | Code::OutsideRoots => {
            Rpc::PermissionDenied
        }
        Code::UnknownObject
        | Code::UnknownTransform
        | Code::FileUnreadable
        | Code::StatementExpired => Rpc::NotFound,
        Code::AlreadyExists | Code::DuplicateKey => Rpc::AlreadyExists,
        Code::ObjectInUse | Code::RowLocked | Code::RowInUse | Code::LeaseLost => {
            Rpc::FailedPrecondition
        }
        Code::WriteConflict | Code::Contended => Rpc::Aborted,
        Code::Cancelled => Rpc::Cancelled,
        Code::TooManyRows | Code::OutOfMemory | Code::TooLarge | Code::TooManyStatuses => {
            Rpc::ResourceExhausted
        }
        Code::Timeout | Code::AttemptTimeout => Rpc::DeadlineExceeded,
        Code::TooBusy | Code::StoreUnavailable | Code::SnapshotGone | Code::ClockOff => {
            Rpc::Unavailable
        }
        Code::OutputFailed
        | Code::StoreUrl
        | Code::StoreCorrupt
        | Code::StoreTooNew
        | Code::StoreReplaced
        | Code::StoreUnsafe
        | Code::TimeAhead
        | Code::Bug => Rpc::Internal,
    }
}

/// An error on its way to a client of Flight. The message says everything, because that is all
/// that most clients show.
pub(in crate::server) fn status(problem: impl Into<Problem>) -> Status {
    let problem = problem.into();
    let error = problem.error();
    let code = error.code();
    let mut message = format!("{code} {}: {error}", code.slug());
    if let Some(at) = error.position() {
        message.push_str(&format!(" at line {}, column {}", at.line, at.column));
    }
    for more in [error.detail(), error.hint()].into_iter().flatten() {
        message.push_str(&format!(". {}", more.trim_end_matches('.')));
    }
    let mut more = MetadataMap::new();
    let effects = match problem.effects() {
        Effects::None => "?0",
        Effects::Committed => "?1",
        Effects::Unknown => "unknown",
    };
    for (name, value) in [
        ("sluicegate-code", code.as_str()),
        ("sluicegate-sqlstate", code.sqlstate()),
        ("sluicegate-effects-committed", effects),
        (
            "sluicegate-statement-id",
            problem.statement_id().unwrap_or_default(),
        ),
    ] {
        if !value.is_empty()
            && let Ok(value) = value.parse()
        {
            more.insert(AsciiMetadataKey::from_static(name), value);
        }
    }
    let rpc = rpc(code);
    if matches!(rpc, Rpc::Internal | Rpc::Unavailable) {
        tracing::warn!(?error, "a request failed");
    }
    Status::with_metadata(rpc, message, more)
}

/// The status of what this server never does.
pub(super) fn unsupported(what: &str, hint: &str) -> Status {
    let message = format!("{what} is not supported");
    status(Error::new(Code::Unsupported, message).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use crate::error::Position;

    use super::*;

    #[test]
    fn a_status_says_everything() {
        let error = Error::new(Code::UnknownObject, "table \"a\" does not exist")
            .with_hint("Did you mean \"b\"?")
            .with_position(Position { line: 1, column: 8 });
        let status = status(error);
        assert_eq!(status.code(), Rpc::NotFound);
        assert_eq!(
            status.message(),
            "SG2001 unknown-object: table \"a\" does not exist at line 1, column 8. \
             Did you mean \"b\"?"
        );
        let code = status.metadata().get("sluicegate-code");
        assert_eq!(code.and_then(|code| code.to_str().ok()), Some("SG2001"));
        assert!(status.metadata().get("sluicegate-statement-id").is_none());
    }
}
