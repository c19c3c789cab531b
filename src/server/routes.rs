//! Every address of the server, once: the router and `GET /v1/openapi.json` are made of this list.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use serde_json::{Map, Value, json};

use crate::error::{Code, Error};
use crate::format::Format;
use crate::server::App;
use crate::server::negotiate::content_type;
use crate::server::problem::Problem;
use crate::server::{flight, jobs, metrics, sql};

/// What an address does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    PostSql,
    GetSql,
    ListStatements,
    GetStatement,
    GetResult,
    CancelStatement,
    FlightInfo,
    FlightStream,
    FlightPut,
    FlightActions,
    FlightAction,
    GetSource,
    PutOutput,
    PutLog,
    Live,
    Ready,
    Metrics,
    OpenApi,
}

/// One operation of the API.
struct Operation {
    does: Does,
    method: &'static str,
    path: &'static str,
    summary: &'static str,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        does: Does::PostSql,
        method: "post",
        path: "/v1/sql",
        summary: "Runs one statement",
    },
    Operation {
        does: Does::GetSql,
        method: "get",
        path: "/v1/sql",
        summary: "Runs one query without effects",
    },
    Operation {
        does: Does::ListStatements,
        method: "get",
        path: "/v1/statements",
        summary: "Lists your own statements on this server",
    },
    Operation {
        does: Does::GetStatement,
        method: "get",
        path: "/v1/statements/{id}",
        summary: "Shows one of your statements",
    },
    Operation {
        does: Does::CancelStatement,
        method: "delete",
        path: "/v1/statements/{id}",
        summary: "Cancels one of your statements",
    },
    Operation {
        does: Does::GetResult,
        method: "get",
        path: "/v1/statements/{id}/result",
        summary: "The rows of a statement that was sent with Prefer",
    },
    Operation {
        does: Does::FlightInfo,
        method: "post",
        path: "/v1/flight/info",
        summary: "Plans one statement, and runs nothing",
    },
    Operation {
        does: Does::FlightStream,
        method: "get",
        path: "/v1/flight/stream/{ticket}",
        summary: "Runs the statement of a ticket; one with effects acts once",
    },
    Operation {
        does: Does::FlightPut,
        method: "post",
        path: "/v1/flight/put",
        summary: "Writes rows into a source table, in one commit",
    },
    Operation {
        does: Does::FlightActions,
        method: "get",
        path: "/v1/flight/actions",
        summary: "Lists the actions",
    },
    Operation {
        does: Does::FlightAction,
        method: "post",
        path: "/v1/flight/action/{type}",
        summary: "Does an action",
    },
    Operation {
        does: Does::GetSource,
        method: "get",
        path: "/v1/jobs/{id}/source",
        summary: "The document of a running job's source, for the worker that holds it",
    },
    Operation {
        does: Does::PutOutput,
        method: "put",
        path: "/v1/jobs/{id}/output",
        summary: "Stores a file that a running attempt wrote",
    },
    Operation {
        does: Does::PutLog,
        method: "put",
        path: "/v1/jobs/{id}/log",
        summary: "Stores what a running attempt printed",
    },
    Operation {
        does: Does::Live,
        method: "get",
        path: "/health/live",
        summary: "Whether the process answers",
    },
    Operation {
        does: Does::Ready,
        method: "get",
        path: "/health/ready",
        summary: "Whether the store answers",
    },
    Operation {
        does: Does::Metrics,
        method: "get",
        path: "/metrics",
        summary: "Numbers for Prometheus",
    },
    Operation {
        does: Does::OpenApi,
        method: "get",
        path: "/v1/openapi.json",
        summary: "This description",
    },
];

/// The router.
pub(super) fn router() -> Router<Arc<App>> {
    let router = OPERATIONS.iter().fold(Router::new(), |router, operation| {
        router.route(operation.path, handler(operation.does))
    });
    router
        .fallback(async || -> Problem {
            Error::new(Code::UnknownObject, "there is nothing at this address")
                .with_hint("GET /v1/openapi.json lists the addresses.")
                .into()
        })
        .method_not_allowed_fallback(async || -> Problem {
            Error::new(
                Code::MethodNotAllowed,
                "the address does not know this method",
            )
            .with_hint("The header Allow lists those that it knows.")
            .into()
        })
}

fn handler(does: Does) -> MethodRouter<Arc<App>> {
    match does {
        Does::PostSql => post(sql::post),
        Does::GetSql => get(sql::get),
        Does::ListStatements => get(sql::list),
        Does::GetStatement => get(sql::show),
        Does::GetResult => get(sql::result),
        Does::CancelStatement => delete(sql::cancel),
        Does::FlightInfo => post(flight::info),
        // A HEAD would run the statement and throw its rows away.
        Does::FlightStream => get(flight::stream).head(no_head),
        Does::FlightPut => post(flight::put),
        Does::FlightActions => get(flight::actions),
        Does::FlightAction => post(flight::action),
        Does::GetSource => get(jobs::source),
        Does::PutOutput => put(jobs::put_output),
        Does::PutLog => put(jobs::put_log),
        Does::Live => get(metrics::live),
        Does::Ready => get(metrics::ready),
        Does::Metrics => get(metrics::metrics),
        Does::OpenApi => get(openapi),
    }
}

async fn no_head() -> Problem {
    let error = Error::new(Code::MethodNotAllowed, "a ticket is run by GET only");
    let error = error.with_hint("POST /v1/flight/info tells the columns and runs nothing.");
    Problem::from(error).with_allow("GET")
}

async fn openapi() -> Response {
    let media = [(axum::http::header::CONTENT_TYPE, "application/json")];
    (media, format!("{}\n", document())).into_response()
}

/// The description of the API after OpenAPI 3.1.
fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.to_owned(), described(operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluicegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "SQL over HTTP; an error is a problem of RFC 9457.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": problem_schema(), "Statement": statement_schema()},
        },
    })
}

fn described(operation: &Operation) -> Value {
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let failed = json!({
        "description": "An error",
        "content": {"application/problem+json": {"schema": problem}},
    });
    let statement = json!({"$ref": "#/components/schemas/Statement"});
    let one = json!({"application/json": {"schema": statement}});
    let id = named("id", "path", "The id of the statement");
    let formats: Vec<&str> = Format::ALL.iter().map(|format| format.as_str()).collect();
    let mut output = vec![
        one_of("format", "Overrides Accept", &formats),
        one_of("integers", "64-bit integers in JSON", &["text", "number"]),
    ];
    let ok = |content: Value| json!({"description": "Done", "content": content});
    let text = || ok(json!({"text/plain": {"schema": {"type": "string"}}}));
    let open = json!([{}]);
    let (parameters, body, answers, security) = match operation.does {
        Does::PostSql => {
            output.extend(request_headers());
            (output, Some(sql_body()), sql_answers(), None)
        }
        Does::GetSql => {
            output.push(needed(named("q", "query", "The query")));
            output.push(named("params", "query", "Its parameters, as JSON"));
            output.extend(request_headers());
            (output, None, sql_answers(), None)
        }
        Does::ListStatements => {
            let list = json!({"type": "object", "properties": {
                "statements": {"type": "array", "items": statement}}});
            let list = json!({"application/json": {"schema": list}});
            (vec![], None, json!({"200": ok(list)}), None)
        }
        Does::GetStatement => (vec![id], None, json!({"200": ok(one)}), None),
        Does::GetResult => {
            output.push(id);
            (output, None, sql_answers(), None)
        }
        Does::CancelStatement => (vec![id], None, json!({"202": ok(one)}), None),
        Does::FlightInfo => {
            let info = json!({"application/json": {"schema": info_schema()}});
            (
                limit_headers(),
                Some(sql_body()),
                json!({"200": ok(info)}),
                None,
            )
        }
        Does::FlightStream => {
            let arrow = json!({"application/vnd.apache.arrow.stream": {}});
            let ticket = named("ticket", "path", "Of POST /v1/flight/info");
            (vec![ticket], None, json!({"200": ok(arrow)}), None)
        }
        Does::FlightPut => {
            let mut all = limit_headers();
            all.push(key_header());
            all.push(needed(named("table", "query", "The source table")));
            let modes = ["insert", "replace"];
            all.push(one_of("mode", "What of keys that are there", &modes));
            let stream = json!({"schema": {"type": "string", "format": "binary"}});
            let body = json!({"required": true, "content": {
                "application/vnd.apache.arrow.stream": stream}});
            let done = json!({"application/json": {"schema": put_schema()}});
            (all, Some(body), json!({"200": ok(done)}), None)
        }
        Does::FlightActions => {
            let any = json!({"application/json": {"schema": {"type": "object"}}});
            (vec![], None, json!({"200": ok(any)}), None)
        }
        Does::FlightAction => {
            let body = json!({"content": {"application/json": {"schema": {
                "type": "object",
                "properties": {"statement_id": {"type": "string"}}}}}});
            let kind = named("type", "path", "One of GET /v1/flight/actions");
            (vec![kind], Some(body), json!({"200": ok(one)}), None)
        }
        Does::GetSource => {
            let file = ok(json!({"application/octet-stream": {}}));
            (of_job(), None, json!({"200": file}), None)
        }
        Does::PutOutput => {
            let mut parameters = of_job();
            let path = named("path", "query", "Its path in the attempt's folder");
            parameters.push(needed(path));
            let text = json!({"type": "string"});
            let stored = json!({"type": "object", "properties": {"uri": text, "folder": text}});
            let stored = json!({"application/json": {"schema": stored}});
            (
                parameters,
                Some(file_body()),
                json!({"200": ok(stored)}),
                None,
            )
        }
        Does::PutLog => {
            let done = json!({"204": {"description": "Done"}});
            (of_job(), Some(file_body()), done, None)
        }
        Does::Live | Does::Ready => (vec![], None, json!({"200": text()}), Some(open)),
        Does::Metrics => (vec![], None, json!({"200": text()}), None),
        Does::OpenApi => {
            let any = json!({"application/json": {"schema": {"type": "object"}}});
            (vec![], None, json!({"200": ok(any)}), Some(open))
        }
    };
    let mut answers = answers;
    if let Some(answers) = answers.as_object_mut() {
        answers.insert("default".to_owned(), failed);
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": format!("{:?}", operation.does),
        "parameters": parameters,
        "responses": answers,
        "security": security.unwrap_or_else(|| json!([{"token": []}, {}])),
    });
    if let (Some(described), Some(body)) = (described.as_object_mut(), body) {
        described.insert("requestBody".to_owned(), body);
    }
    described
}

fn named(name: &str, place: &str, text: &str) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": {"type": "string"},
    })
}

/// A parameter of a kind that is not any text.
fn of_schema(name: &str, place: &str, text: &str, schema: Value) -> Value {
    let mut parameter = named(name, place, text);
    parameter["schema"] = schema;
    parameter
}

fn one_of(name: &str, text: &str, words: &[&str]) -> Value {
    of_schema(
        name,
        "query",
        text,
        json!({"type": "string", "enum": words}),
    )
}

/// A parameter without which the request is refused.
fn needed(mut parameter: Value) -> Value {
    parameter["required"] = json!(true);
    parameter
}

/// A number that is an id, a token or a count.
fn number() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX})
}

fn of_job() -> Vec<Value> {
    let token = "The fencing token of its attempt";
    vec![
        of_schema("id", "path", "The job", number()),
        needed(of_schema("token", "query", token, number())),
    ]
}

fn file_body() -> Value {
    json!({"required": true, "content": {"application/octet-stream": {}}})
}

fn request_headers() -> Vec<Value> {
    let mut all = limit_headers();
    all.push(key_header());
    all.push(named("Prefer", "header", "respond-async, or wait=SECONDS"));
    all
}

fn key_header() -> Value {
    let text = "A repetition with this key does not run again";
    let key = json!({"type": "string", "pattern": "^[!-~]{1,200}$"});
    of_schema("Idempotency-Key", "header", text, key)
}

fn limit_headers() -> Vec<Value> {
    // Not zero.
    let time = r"^([1-9][0-9]{0,8}(\.[0-9]{1,6})?|0\.0{0,5}[1-9])(s|ms)?$";
    [
        (
            "Sluicegate-Timeout",
            "Seconds, or milliseconds such as 500ms",
            json!({"type": "string", "pattern": time}),
        ),
        ("Sluicegate-Max-Rows", "More rows are an error", number()),
        (
            "Sluicegate-Read-Only",
            "?1 refuses every change",
            json!({"type": "string", "enum": ["?0", "?1"]}),
        ),
        (
            "Sluicegate-Lock-Tokens",
            "Locks that the caller shows as its own: the tokens that acquire_lock gave",
            json!({"type": "string", "pattern": "^([0-9]{1,18}( ?, ?[0-9]{1,18})*)?$"}),
        ),
    ]
    .map(|(name, text, schema)| of_schema(name, "header", text, schema))
    .into()
}

fn sql_body() -> Value {
    let text = json!({"schema": {"type": "string"}});
    let request = json!({
        "type": "object",
        "required": ["sql"],
        "additionalProperties": false,
        "properties": {
            "sql": {"type": "string"},
            "params": {"type": ["array", "object", "null"]},
            "max_rows": {"type": ["integer", "null"], "minimum": 0},
            "timeout_ms": {"type": ["integer", "null"], "minimum": 1},
            "lock_tokens": {
                "type": ["array", "null"],
                "items": {"type": "integer", "minimum": 0},
            },
        },
    });
    json!({"required": true, "content": {
        "text/plain": text,
        "application/sql": text,
        "application/json": {"schema": request},
        "multipart/form-data": {"schema": {
            "type": "object",
            "description": "Each further part is an Arrow IPC stream, and a table of its name",
            "required": ["request"],
            "properties": {"request": request},
            "additionalProperties": {"type": "string", "format": "binary"},
        }},
    }})
}

const KINDS: &str = "query, effect, dml, ddl, explain, preview or setting";

fn sql_answers() -> Value {
    let mut content: Map<String, Value> = Map::new();
    for format in Format::ALL {
        let media = content_type(*format).split(';').next().unwrap_or_default();
        content.insert(media.to_owned(), json!({}));
    }
    let header = |text: &str| json!({"description": text, "schema": {"type": "string"}});
    let statement = json!({"$ref": "#/components/schemas/Statement"});
    json!({
        "200": {"description": "The rows", "content": content, "headers": {
            "Sluicegate-Statement-Id": header("The statement"),
            "Sluicegate-Statement-Kind": header(KINDS),
            "Sluicegate-Version": header("The version that was read or committed"),
            "Sluicegate-Rows-Affected": header("Rows that were written or removed"),
            "Sluicegate-Summary": header("How often each effect ended in which way, as JSON"),
            "Sluicegate-Notes": header("What to know beside the rows, as JSON"),
            "Idempotency-Replayed": header("?1 for the outcome of an earlier request"),
            "Sluicegate-Replayed": header("rows, or summary where the rows are gone"),
        }},
        "202": {"description": "It runs; ask at Location",
            "content": {"application/json": {"schema": statement}}},
    })
}

fn info_schema() -> Value {
    let endpoint = json!({"type": "object", "properties": {
        "ticket": {"type": "string"},
        "locations": {"type": "array", "items": {"type": "string"}},
        "expiration_time": {"type": "string", "format": "date-time"},
    }});
    object(json!({
        "statement_id": {"type": "string"},
        "kind": {"type": "string"},
        "schema": {"type": ["string", "null"],
            "description": "An Arrow IPC schema message in base64; null where only running tells"},
        "endpoints": {"type": "array", "items": endpoint},
        "total_records": {"type": "integer", "description": "-1: not known"},
        "total_bytes": {"type": "integer", "description": "-1: not known"},
        "ordered": {"type": "boolean"},
    }))
}

fn put_schema() -> Value {
    object(json!({
        "statement_id": {"type": "string"},
        "rows_affected": {"type": "integer"},
        "version": {"type": ["integer", "null"]},
    }))
}

/// An object with all of these parts.
fn object(properties: Value) -> Value {
    let parts = properties.as_object().into_iter().flatten();
    let names: Vec<&String> = parts.map(|(name, _)| name).collect();
    json!({"type": "object", "required": names, "properties": properties})
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    object(json!({
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "message": {"type": "string"},
        "code": {"type": "string", "enum": codes},
        "sqlstate": {"type": "string"},
        "statement_id": {"type": ["string", "null"]},
        "position": {"type": ["object", "null"]},
        "retryable": {"type": "boolean"},
        "effects_committed": {"type": ["boolean", "null"]},
        "hint": {"type": ["string", "null"]},
    }))
}

fn statement_schema() -> Value {
    object(json!({
        "statement_id": {"type": "string"},
        "kind": {"type": "string"},
        "state": {"enum": ["planned", "running", "committed", "failed", "cancelled"]},
        "sql": {"type": "string"},
        "submitted_at": {"type": "string", "format": "date-time"},
        "ended_at": {"type": ["string", "null"], "format": "date-time"},
        "version": {"type": ["integer", "null"]},
        "rows": {"type": ["integer", "null"]},
        "rows_affected": {"type": ["integer", "null"]},
        "summary": {"type": "array"},
        "notes": {"type": "array"},
        "error": {"oneOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
        "result": {"type": ["string", "null"]},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let document = document();
        for Operation { method, path, .. } in OPERATIONS {
            let described = &document["paths"][*path][*method];
            assert!(described["responses"].is_object(), "{method} {path}");
        }
        // Building it panics where two routes clash.
        drop(router());
    }
}
