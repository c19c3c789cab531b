//! What a request says: its statement, its parameters, and how it wants to be answered.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde::Deserialize;

use crate::error::{Code, Error, Result};
use crate::id::Token;
use crate::json::{self, parse_bytes};
use crate::server::allowance::Allowance;
use crate::server::intake::{Intake, pieces, throw_away};
use crate::server::multipart;
use crate::session::bound_table::BoundTable;
use crate::session::parameters::Parameters;

/// The longest idempotency key, in bytes. Chosen: ample for a UUID or a name.
const KEY_MAX: usize = 200;

/// The part of an address behind `?`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// The statement of `GET /v1/sql`.
    pub q: Option<String>,
    /// The parameters of `GET /v1/sql`, as JSON.
    pub params: Option<String>,
    pub format: Option<String>,
    pub integers: Option<String>,
}

/// A statement as it was sent.
#[derive(Debug)]
pub(super) struct SqlRequest {
    pub sql: String,
    pub parameters: Parameters,
    pub rows_max: Option<u64>,
    pub timeout: Option<Duration>,
    pub tables: Vec<BoundTable>,
    /// Locks that it shows as the caller's own.
    pub lock_tokens: Vec<Token>,
    /// What the body takes, and the tables in it.
    pub allowance: Option<Allowance>,
}

impl SqlRequest {
    /// A statement without anything beside it.
    pub(super) fn new(sql: String) -> Self {
        Self {
            sql,
            parameters: Parameters::None,
            rows_max: None,
            timeout: None,
            tables: Vec::new(),
            lock_tokens: Vec::new(),
            allowance: None,
        }
    }

    fn from_json(bytes: &[u8]) -> Result<Self> {
        let no_request = |detail: String| {
            bad("the body is no request in JSON")
                .with_detail(format!("{detail}."))
                .with_hint("Its fields are sql, params, max_rows, timeout_ms and lock_tokens.")
        };
        let whole = parse_bytes(bytes).map_err(|error| no_request(error.to_string()))?;
        // The values of users keep their digits; the rest is of our own types.
        let (params, rest) = match whole {
            json::Value::Object(mut fields) => {
                let params = fields.remove("params").unwrap_or(json::Value::Null);
                (params, json::Value::Object(fields))
            }
            other => (json::Value::Null, other),
        };
        let request: JsonRequest = serde_json::from_str(&rest.to_string())
            .map_err(|error| no_request(error.to_string()))?;
        let tokens = request.lock_tokens.unwrap_or_default();
        Ok(Self {
            parameters: Parameters::from_json(params)?,
            rows_max: request.max_rows,
            timeout: request.timeout_ms.map(Duration::from_millis),
            lock_tokens: tokens.into_iter().map(Token).collect(),
            ..Self::new(request.sql)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest {
    sql: String,
    max_rows: Option<u64>,
    timeout_ms: Option<u64>,
    lock_tokens: Option<Vec<u64>>,
}

/// Whether the client waits for the end of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// To its end; the rows are sent as they are found.
    ToTheEnd,
    /// At most so long; then it gets an address to ask at.
    AtMost(Duration),
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(bad(format!("header \"{name}\" is not plain text"))),
    }
}

/// Reads the statement of a POST.
///
/// # Errors
/// `SG4005 unsupported-media`, `SG4003 bad-request`, `SG5004 too-large`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    intake: Intake<'_>,
) -> Result<SqlRequest> {
    plain_coding(headers)?;
    let media = media_type(headers)?;
    let json = media.eq_ignore_ascii_case("application/json");
    let form = media.eq_ignore_ascii_case("multipart/form-data");
    let plain = ["text/plain", "application/sql"];
    if !json && !form && !plain.iter().any(|known| media.eq_ignore_ascii_case(known)) {
        return Err(Error::new(
            Code::UnsupportedMedia,
            format!("a body of type \"{media}\" is not read here"),
        )
        .with_hint(
            "Send SQL as text/plain, JSON with the field sql as application/json, or that JSON and \
             tables as multipart/form-data.",
        ));
    }
    if form {
        let allowance = intake.allowance();
        let form = multipart::read(headers, body, &intake, &allowance).await?;
        let request = SqlRequest {
            tables: form.tables,
            allowance: Some(allowance),
            ..SqlRequest::from_json(&form.request)?
        };
        return with_headers(request, headers);
    }
    let (bytes, allowance) = whole(headers, body, &intake).await?;
    let request = if json {
        SqlRequest::from_json(&bytes)?
    } else {
        let sql = String::from_utf8(bytes);
        SqlRequest::new(sql.map_err(|error| bad("the body is not UTF-8").with_source(error))?)
    };
    let request = SqlRequest {
        allowance: Some(allowance),
        ..request
    };
    with_headers(request, headers)
}

/// Refuses a body that is compressed as a whole.
///
/// # Errors
/// `SG4005 unsupported-media`.
pub(super) fn plain_coding(headers: &HeaderMap) -> Result<()> {
    match text(headers, header::CONTENT_ENCODING.as_str())? {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => Err(Error::new(
            Code::UnsupportedMedia,
            format!("a body in the coding \"{coding}\" is not read here"),
        )
        .with_hint("Send it as it is; the buffers of an Arrow stream may be compressed.")),
        Some(_) | None => Ok(()),
    }
}

/// The media type of a body, without its parameters.
///
/// # Errors
/// `SG4003 bad-request`.
pub(super) fn media_type(headers: &HeaderMap) -> Result<&str> {
    let media = text(headers, header::CONTENT_TYPE.as_str())?.unwrap_or("text/plain");
    Ok(media.split(';').next().unwrap_or_default().trim())
}

/// The statement of a GET.
///
/// # Errors
/// `SG4003 bad-request`.
pub(super) fn of_query(headers: &HeaderMap, query: &Query) -> Result<SqlRequest> {
    let sql = query.q.clone().ok_or_else(|| {
        bad("the address has no query").with_hint("Write GET /v1/sql?q=SELECT..., URL-encoded.")
    })?;
    let params = match &query.params {
        None => json::Value::Null,
        Some(json) => parse_bytes(json.as_bytes())
            .map_err(|error| bad("params is no JSON").with_source(error))?,
    };
    let request = SqlRequest {
        parameters: Parameters::from_json(params)?,
        ..SqlRequest::new(sql)
    };
    with_headers(request, headers)
}

/// A short body, and what it takes.
///
/// # Errors
/// `SG4003 bad-request`, `SG5004 too-large`, `SG4009 too-busy`.
pub(super) async fn whole(
    headers: &HeaderMap,
    body: Body,
    intake: &Intake<'_>,
) -> Result<(Vec<u8>, Allowance)> {
    let most = intake.body_bytes_max;
    let announced = text(headers, header::CONTENT_LENGTH.as_str())?;
    let long = announced.is_some_and(|length| length.parse().is_ok_and(|n: usize| n > most));
    let bytes_max = if long { 0 } else { most };
    let allowance = intake.allowance();
    let mut pieces = pin!(pieces(body, intake.waits));
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let fits = match bytes.len() + piece.len() <= bytes_max {
            true => allowance.take(piece.len()),
            false => Err(Error::new(
                Code::TooLarge,
                format!("the body has more than {most} bytes"),
            )
            .with_hint("Send many rows as an Arrow stream, or INSERT from an external table.")),
        };
        if let Err(error) = fits {
            drop(bytes);
            throw_away(pieces).await;
            return Err(error);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, allowance))
}

fn with_headers(mut request: SqlRequest, headers: &HeaderMap) -> Result<SqlRequest> {
    settings_of(&mut request, headers)?;
    Ok(request)
}

/// The limits that stand in headers, and the locks that are shown there.
///
/// # Errors
/// `SG4003 bad-request`.
pub(super) fn settings_of(request: &mut SqlRequest, headers: &HeaderMap) -> Result<()> {
    if let Some(given) = text(headers, "sluicegate-max-rows")? {
        let rows = given.parse().map_err(|error| {
            bad(format!("Sluicegate-Max-Rows \"{given}\" is no number")).with_source(error)
        })?;
        request.rows_max = Some(request.rows_max.map_or(rows, |other| other.min(rows)));
    }
    if let Some(given) = text(headers, "sluicegate-timeout")? {
        let timeout = duration(given).ok_or_else(|| {
            bad(format!("Sluicegate-Timeout \"{given}\" is no time"))
                .with_hint("Write seconds, such as 30 or 0.5, or milliseconds, such as 500ms.")
        })?;
        request.timeout = Some(request.timeout.map_or(timeout, |other| other.min(timeout)));
    }
    request.lock_tokens.extend(lock_tokens(headers)?);
    Ok(())
}

/// The locks that a request shows, in one header or several.
fn lock_tokens(headers: &HeaderMap) -> Result<Vec<Token>> {
    let malformed = |given: &str| {
        bad(format!(
            "Sluicegate-Lock-Tokens has \"{given}\", which is no token"
        ))
        .with_hint("Write the numbers that acquire_lock gave, such as 12, 13.")
    };
    let mut tokens = Vec::new();
    for value in headers.get_all("sluicegate-lock-tokens") {
        let text = value.to_str().map_err(|error| {
            bad("header \"sluicegate-lock-tokens\" is not plain text").with_source(error)
        })?;
        if text.trim().is_empty() {
            continue;
        }
        for given in text.split(',').map(str::trim) {
            let digits = !given.is_empty() && given.bytes().all(|byte| byte.is_ascii_digit());
            let token = given.parse().ok().filter(|_| digits);
            tokens.push(Token(token.ok_or_else(|| malformed(given))?));
        }
    }
    Ok(tokens)
}

fn duration(given: &str) -> Option<Duration> {
    let (number, unit) = match given.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (given.strip_suffix('s').unwrap_or(given), 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| !time.is_zero())
}

/// The idempotency key, if any.
///
/// # Errors
/// `SG4003 bad-request`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>> {
    let key = text(headers, "idempotency-key")?.map(|key| key.trim_matches('"'));
    if key.is_some_and(|key| key.is_empty() || key.len() > KEY_MAX) {
        return Err(bad(format!(
            "the idempotency key has not between 1 and {KEY_MAX} characters"
        )));
    }
    Ok(key)
}

/// Whether the client asks for a session that only reads.
pub(super) fn read_only(headers: &HeaderMap) -> Result<bool> {
    match text(headers, "sluicegate-read-only")? {
        None | Some("?0") => Ok(false),
        Some("?1") => Ok(true),
        Some(other) => Err(
            bad(format!("Sluicegate-Read-Only \"{other}\" is no boolean"))
                .with_hint("Write ?1 or ?0."),
        ),
    }
}

/// How long the client waits. What it prefers beside that is ignored, as RFC 7240 says.
pub(super) fn patience(headers: &HeaderMap, longest: Duration) -> Patience {
    let all = headers.get_all("prefer").iter();
    let all = all.filter_map(|value| value.to_str().ok());
    let mut patience = Patience::ToTheEnd;
    for preference in all.flat_map(|value| value.split([',', ';'])) {
        let preference = preference.trim();
        if preference.eq_ignore_ascii_case("respond-async") && patience == Patience::ToTheEnd {
            patience = Patience::AtMost(Duration::ZERO);
        }
        if let Some(Ok(seconds)) = preference.strip_prefix("wait=").map(str::parse) {
            patience = Patience::AtMost(Duration::from_secs(seconds).min(longest));
        }
    }
    patience
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use crate::server::intake::Waits;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                header::HeaderName::from_static(name),
                value.parse().unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn times_are_seconds_or_milliseconds() {
        for (given, ms) in [("30", 30_000), ("0.5", 500), ("2s", 2_000), ("250ms", 250)] {
            assert_eq!(duration(given), Some(Duration::from_millis(ms)), "{given}");
        }
        for given in ["", "0", "-1", "NaN", "inf", "1e400", "soon", "1h"] {
            assert_eq!(duration(given), None, "{given}");
        }
    }

    #[test]
    fn tokens_of_locks_are_numbers_between_commas() {
        let of = |value| lock_tokens(&headers(&[("sluicegate-lock-tokens", value)]));
        for (given, tokens) in [
            ("", vec![]),
            ("12", vec![12]),
            (" 12,13 , 12", vec![12, 13, 12]),
        ] {
            let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
            assert_eq!(of(given).ok(), Some(tokens), "{given}");
        }
        for given in ["12,", ",", "-1", "+1", "a", "1 2", "99999999999999999999"] {
            assert_eq!(
                of(given).map_err(|e| e.code()),
                Err(Code::BadRequest),
                "{given}"
            );
        }
    }

    #[test]
    fn preferences_are_read_and_bounded() {
        let longest = Duration::from_secs(60);
        let of = |value| patience(&headers(&[("prefer", value)]), longest);
        assert_eq!(of("respond-async"), Patience::AtMost(Duration::ZERO));
        let ten = Patience::AtMost(Duration::from_secs(10));
        assert_eq!(of("respond-async, wait=10"), ten);
        assert_eq!(of("wait=10; respond-async"), ten);
        assert_eq!(of("wait=9999"), Patience::AtMost(longest));
        assert_eq!(of("return=minimal, wait=x"), Patience::ToTheEnd);
    }

    #[tokio::test]
    async fn bodies_are_checked() {
        for (media, body, code) in [
            ("text/plain", "SELECT 1", None),
            ("application/sql; charset=utf-8", "SELECT 1", None),
            (
                "application/json",
                r#"{"sql": "SELECT $1", "params": [1]}"#,
                None,
            ),
            (
                "application/json",
                r#"{"sql": "a", "lock_tokens": [1, 2]}"#,
                None,
            ),
            (
                "application/json",
                r#"{"sql": "a", "lock_tokens": [-1]}"#,
                Some(Code::BadRequest),
            ),
            ("application/json", r#"{"sql": 1}"#, Some(Code::BadRequest)),
            (
                "application/json",
                r#"{"sql": "a", "b": 1}"#,
                Some(Code::BadRequest),
            ),
            (
                "application/json",
                r#"{"sql": "a", "params": 1}"#,
                Some(Code::BadRequest),
            ),
            (
                "text/plain",
                "this body is far too long for the limit of the test",
                Some(Code::TooLarge),
            ),
            (
                "application/x-www-form-urlencoded",
                "SELECT 1",
                Some(Code::UnsupportedMedia),
            ),
        ] {
            let intake = Intake {
                body_bytes_max: 40,
                upload_bytes_max: 0,
                rows_max: 1,
                pool: &Arc::new(Semaphore::new(1)),
                waits: Waits {
                    piece_max: Duration::MAX,
                    whole_max: Duration::from_secs(60),
                },
            };
            let read = read(
                &headers(&[("content-type", media)]),
                Body::from(body),
                intake,
            )
            .await;
            assert_eq!(read.err().map(|error| error.code()), code, "{media} {body}");
        }
    }
}
