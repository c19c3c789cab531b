//! Errors of the server, as they were before they were sent.

use reqwest::StatusCode;
use serde_json::Value;

use crate::error::{Code, Error, Position};

/// Bytes of an answer that is not ours which a message may quote.
const QUOTED: usize = 200;

/// The error that an answer tells of.
pub(super) fn of_answer(status: StatusCode, body: &[u8]) -> Error {
    let problem = serde_json::from_slice::<Value>(body).ok();
    if let Some(problem) = problem.filter(|problem| problem.get("code").is_some()) {
        return error_of(&problem);
    }
    let code = match status.is_server_error() {
        true => Code::StoreUnavailable,
        false => Code::BadRequest,
    };
    let text: String = String::from_utf8_lossy(body).chars().take(QUOTED).collect();
    let error = Error::new(code, format!("the server answers {status}"))
        .with_hint("Look whether this is the address of sluicegate serve.");
    match text.trim() {
        "" => error,
        text => error.with_detail(format!("It says: {text}")),
    }
}

/// The error of a problem after RFC 9457.
pub(super) fn error_of(problem: &Value) -> Error {
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let given = text("code").unwrap_or_default();
    let code = Code::ALL.iter().find(|code| code.as_str() == given);
    let whole = text("detail").unwrap_or("the server tells no reason");
    let message = text("message").unwrap_or(whole);
    let mut error = match code {
        Some(code) => Error::new(*code, message),
        // A newer server may have codes that this program has not.
        None => Error::new(Code::QueryFailed, format!("{message} ({given})")),
    };
    let rest = whole.strip_prefix(message);
    let rest = rest.map(|rest| rest.trim_start_matches(['.', ' ']));
    if let Some(detail) = rest.filter(|rest| !rest.is_empty()) {
        error = error.with_detail(detail);
    }
    if let Some(hint) = text("hint") {
        error = error.with_hint(hint);
    }
    let number = |name: &str| problem.get("position")?.get(name)?.as_u64();
    match (number("line"), number("column")) {
        (Some(line), Some(column)) => error.with_position(Position { line, column }),
        (Some(_) | None, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_come_back_whole() {
        let error = error_of(&json!({
            "code": "SG3003",
            "message": "row \"a. b\" is locked",
            "detail": "row \"a. b\" is locked. By w.",
            "hint": "Wait.",
            "position": {"line": 2, "column": 7},
        }));
        assert_eq!(error.code(), Code::RowLocked);
        assert_eq!(error.message(), "row \"a. b\" is locked");
        assert_eq!(error.detail(), Some("By w."));
        assert_eq!(error.hint(), Some("Wait."));
        assert_eq!(error.position(), Some(Position { line: 2, column: 7 }));
    }

    #[test]
    fn answers_of_others_are_told_as_they_are() {
        let gateway = of_answer(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(gateway.code(), Code::StoreUnavailable);
        let page = of_answer(StatusCode::NOT_FOUND, b"nothing here");
        assert_eq!(page.code(), Code::BadRequest);
        assert_eq!(page.detail(), Some("It says: nothing here"));
        let newer = of_answer(
            StatusCode::BAD_REQUEST,
            br#"{"code":"SG9999","detail":"x"}"#,
        );
        assert_eq!(newer.message(), "x (SG9999)");
    }
}
