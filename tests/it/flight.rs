//! Rows that come and go as Arrow: tables beside a statement, tickets, and uploads.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::array::{ArrayRef, Int64Array, LargeStringArray, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sluicegate::error::Code;

use crate::server::{Answer, Server, folder, token};

/// Rows of a data frame, with the type that its texts have.
fn frame(ids: &[&str]) -> RecordBatch {
    let id: ArrayRef = Arc::new(LargeStringArray::from(ids.to_vec()));
    let place: Int64Array = (0..).take(ids.len()).map(Some).collect();
    RecordBatch::try_from_iter([("id", id), ("place", Arc::new(place) as ArrayRef)]).unwrap()
}

fn stream(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap();
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn rows(answer: &Answer) -> Vec<RecordBatch> {
    let reader = StreamReader::try_new(answer.body.as_slice(), None).expect("it is a stream");
    reader.map(|batch| batch.expect("it is whole")).collect()
}

/// A form of a request and tables.
async fn form(server: &Server, request: Value, tables: &[(&str, &[u8])]) -> Answer {
    form_with(server, request, tables, &[]).await
}

async fn form_with(
    server: &Server,
    request: Value,
    tables: &[(&str, &[u8])],
    headers: &[(&str, &str)],
) -> Answer {
    let mut body = Vec::new();
    let mut part = |name: &str, content: &[u8]| {
        let head = format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    };
    if !request.is_null() {
        part("request", request.to_string().as_bytes());
    }
    for (name, content) in tables {
        part(name, content);
    }
    body.extend_from_slice(b"--cut--\r\n");
    let mut all = vec![("content-type", "multipart/form-data; boundary=cut")];
    all.extend(headers);
    server.send(Method::POST, "/v1/sql", &all, body).await
}

#[tokio::test]
async fn a_table_beside_a_statement_is_a_table_of_it_alone() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let batch = frame(&["b", "a"]);
    for compression in [
        None,
        Some(CompressionType::ZSTD),
        Some(CompressionType::LZ4_FRAME),
    ] {
        let rows = stream(&batch, compression);
        let sql = "SELECT s.place, n.id FROM selection s JOIN notices n ON n.id = s.id \
                   WHERE place < $1 ORDER BY place";
        let request = json!({"sql": sql, "params": [1]});
        let answer = form(&server, request, &[("selection", &rows)]).await;
        assert_eq!(answer.ok().json(), json!([{"place": "0", "id": "b"}]));
    }
    let rows = stream(&batch, None);
    let preview = json!({"sql": "PREVIEW SELECT schedule_job('index', id) FROM selection"});
    let answer = form(&server, preview, &[("selection", &rows)]).await.ok();
    assert_eq!(
        answer.json().as_array().map(Vec::len),
        Some(2),
        "{}",
        answer.text()
    );
    assert_eq!(server.value("SELECT count(*) FROM jobs").await, "0");

    let schedule = json!({"sql": "SELECT schedule_job('index', id) AS job FROM selection"});
    let key = [("idempotency-key", "edited")];
    let first = form_with(&server, schedule.clone(), &[("selection", &rows)], &key)
        .await
        .ok();
    let ids = "SELECT string_agg(source_id, ',' ORDER BY source_id) FROM jobs";
    assert_eq!(server.value(ids).await, "a,b");
    let again = form_with(&server, schedule.clone(), &[("selection", &rows)], &key)
        .await
        .ok();
    assert_eq!(again.header("idempotency-replayed"), Some("?1"));
    assert_eq!(again.body, first.body);
    // The same text with other rows is another statement.
    let other = stream(&frame(&["o'brien"]), None);
    let refused = form_with(&server, schedule, &[("selection", &other)], &key).await;
    refused.fails(422, Code::KeyReused);

    let new = stream(&frame(&["c", "d"]), None);
    let insert = json!({"sql": "INSERT INTO notices SELECT id, place FROM selection"});
    let answer = form(&server, insert, &[("selection", &new)]).await.ok();
    assert_eq!(answer.header("sluicegate-rows-affected"), Some("2"));
    let update = json!({"sql": "UPDATE notices SET n = 7 WHERE id IN (SELECT id FROM selection)"});
    let answer = form(&server, update, &[("selection", &new)]).await.ok();
    assert_eq!(answer.header("sluicegate-rows-affected"), Some("2"));
    let sum = "SELECT count(*) FROM notices WHERE n = 7";
    assert_eq!(server.value(sum).await, "2");
    let gone = server.post("SELECT * FROM selection", &[]).await;
    gone.fails(404, Code::UnknownObject);
    let kept = server
        .value("SELECT count(*) FROM statements WHERE sql LIKE '%-- table selection: 2 rows%'");
    assert_eq!(kept.await, "3");
}

#[tokio::test]
async fn a_form_that_is_wrong_says_what_is() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let good = stream(&frame(&["a"]), None);
    let one = || json!({"sql": "SELECT 1"});
    let mut file = FileWriter::try_new(Vec::new(), &frame(&["a"]).schema()).unwrap();
    file.write(&frame(&["a"])).unwrap();
    let file = file.into_inner().unwrap();
    for (name, content, status, code) in [
        ("notices", &good[..], 409, Code::AlreadyExists),
        ("jobs", &good, 409, Code::AlreadyExists),
        ("a b", &good, 400, Code::InvalidDefinition),
        ("../a", &good, 400, Code::InvalidDefinition),
        ("a;DROP TABLE notices", &good, 400, Code::InvalidDefinition),
        ("$input", &good, 400, Code::InvalidDefinition),
        ("", &good, 400, Code::InvalidDefinition),
        ("t", b"", 400, Code::BadRequest),
        ("t", b"id,n\na,1\n", 400, Code::BadRequest),
        ("t", &file, 400, Code::BadRequest),
        ("t", &good[..good.len() - 30], 400, Code::BadRequest),
    ] {
        form(&server, one(), &[(name, content)])
            .await
            .fails(status, code);
    }
    form(&server, Value::Null, &[("t", &good)])
        .await
        .fails(400, Code::BadRequest);
    form(&server, json!({"sql": 1}), &[("t", &good)])
        .await
        .fails(400, Code::BadRequest);
    let twice = form(&server, one(), &[("t", &good), ("t", &good)]).await;
    twice.fails(400, Code::PlanError);
    let kept = json!({"sql": "CREATE VIEW v AS SELECT * FROM t"});
    form(&server, kept, &[("t", &good)])
        .await
        .fails(400, Code::Unsupported);
    let written = json!({"sql": "DELETE FROM t"});
    form(&server, written, &[("t", &good)])
        .await
        .fails(404, Code::UnknownObject);
    let no_boundary = [("content-type", "multipart/form-data")];
    server
        .post("x", &no_boundary)
        .await
        .fails(400, Code::BadRequest);
    let no_form = [("content-type", "multipart/form-data; boundary=cut")];
    server
        .post("x", &no_form)
        .await
        .fails(400, Code::BadRequest);
    assert_eq!(server.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn codecs_compress_buffers_and_never_twice() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    let sql = "SELECT value, 'the same text' AS text FROM generate_series(1, 50000)";
    let of = async |codecs: &str| {
        let accept = format!("application/vnd.apache.arrow.stream{codecs}");
        let headers = [
            ("accept", accept.as_str()),
            ("accept-encoding", "gzip, zstd"),
        ];
        server.post(sql, &headers).await.ok()
    };
    let plain = server
        .post(sql, &[("accept", "application/vnd.apache.arrow.stream")])
        .await
        .ok();
    let packed = of("").await;
    assert!(packed.header("content-encoding").is_some());
    for (codecs, named) in [
        ("; codecs=\"zstd, lz4\"", "zstd"),
        ("; codecs=\"lz4\"", "lz4"),
    ] {
        let answer = of(codecs).await;
        let media = format!("application/vnd.apache.arrow.stream; codecs={named}");
        assert_eq!(answer.header("content-type"), Some(media.as_str()));
        assert_eq!(answer.header("content-encoding"), None);
        assert!(answer.body.len() * 2 < plain.body.len(), "{named}");
        assert_eq!(rows(&answer), rows(&plain), "{named}");
    }
}

impl Server {
    async fn info(&self, request: Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(Method::POST, "/v1/flight/info", &all, request.to_string())
            .await
    }

    async fn fetch(&self, info: &Value, headers: &[(&str, &str)]) -> Answer {
        let ticket = info["endpoints"][0]["ticket"].as_str().unwrap();
        let path = format!("/v1/flight/stream/{ticket}");
        self.send(Method::GET, &path, headers, "").await
    }

    async fn action(&self, name: &str, body: Value) -> Answer {
        let path = format!("/v1/flight/action/{name}");
        self.send(Method::POST, &path, &[], body.to_string()).await
    }
}

/// The columns that an answer of `info` announces.
fn announced(info: &Value) -> SchemaRef {
    let message = info["schema"].as_str().expect("a schema is known");
    let message = STANDARD.decode(message).unwrap();
    // A message of a schema and the end of the stream make an empty stream.
    let stream = [message.as_slice(), &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]].concat();
    StreamReader::try_new(stream.as_slice(), None)
        .unwrap()
        .schema()
}

#[tokio::test]
async fn a_ticket_of_an_effect_acts_once_on_every_server() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let request = json!({
        "sql": "SELECT id, schedule_job($1, id) AS job FROM notices ORDER BY id",
        "params": ["index"],
    });
    let info = server.info(request, &[]).await.ok().json();
    assert_eq!(
        (&info["kind"], &info["ordered"]),
        (&json!("effect"), &json!(true))
    );
    assert_eq!(info["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(server.value("SELECT count(*) FROM jobs").await, "0");
    let path = format!("/v1/statements/{}", info["statement_id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.ok().json()["state"], "planned");

    let first = server.fetch(&info, &[]).await.ok();
    assert_eq!(
        first.header("sluicegate-statement-id"),
        info["statement_id"].as_str()
    );
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(rows(&first)[0].schema(), announced(&info));
    assert_eq!(rows(&first)[0].num_rows(), 3);
    let again = server.fetch(&info, &[]).await.ok();
    assert_eq!(again.header("sluicegate-replayed"), Some("rows"));
    assert_eq!(again.body, first.body);
    assert_eq!(server.get(&path).await.ok().json()["state"], "committed");
    let other = Server::start(&store);
    server.kill();
    let server = Server::start(&store);
    for server in [&server, &other] {
        let again = server.fetch(&info, &[]).await.ok();
        assert_eq!(again.header("sluicegate-replayed"), Some("summary"));
        let id = again.header("sluicegate-statement-id");
        assert_eq!(id, info["statement_id"].as_str());
    }
    assert_eq!(server.value("SELECT count(*) FROM jobs").await, "3");

    // Planned here, run there, by many at once.
    let insert = json!({"sql": "INSERT INTO notices VALUES ('once', 1)"});
    let info = server.info(insert, &[]).await.ok().json();
    assert_eq!(announced(&info).fields().len(), 0);
    let servers = [&other, &server];
    let fetches = (0..20).map(|n: usize| servers[n % 2].fetch(&info, &[]));
    let mut acted = 0;
    for answer in join_all(fetches).await {
        let answer = answer.ok();
        assert_eq!(answer.header("sluicegate-rows-affected"), Some("1"));
        acted += usize::from(answer.header("idempotency-replayed").is_none());
    }
    assert_eq!(acted, 1);

    let query = json!({"sql": "SELECT n FROM notices WHERE id = $1", "params": ["b"]});
    let info = server.info(query, &[]).await.ok().json();
    for _ in 0..2 {
        let answer = other.fetch(&info, &[]).await.ok();
        assert_eq!(rows(&answer)[0].schema(), announced(&info));
        assert_eq!(answer.header("idempotency-replayed"), None);
    }
    let procedure = json!({"sql": "CALL claim_jobs('w', max => 2)"});
    let info = server.info(procedure, &[]).await.ok().json();
    assert_eq!(info["schema"], Value::Null);
    assert_eq!(rows(&server.fetch(&info, &[]).await.ok())[0].num_rows(), 2);
}

#[tokio::test]
async fn what_info_announces_is_what_comes() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    for sql in [
        "SELECT acquire_lock('@a') AS token",
        "CALL acquire_lock('@b')",
        "SELECT schedule_job('index', 'a'), set_status('notices', 'b', 'RAW')",
        "PREVIEW SELECT acquire_lock('@c')",
        "PREVIEW SELECT schedule_job('index', id) FROM notices",
        "SELECT release_lock('@a', 1)",
        "SELECT * FROM notices",
        "SELECT * FROM jobs",
        "SELECT count(*), max(n), array_agg(id) FROM notices GROUP BY n > 1",
        "SELECT * FROM events",
        "SELECT now(), 1.5, 'a', NULL, [1, NULL], INTERVAL '1' DAY",
        "SELECT arrow_cast('a', 'Dictionary(Int32, Utf8)') AS d",
    ] {
        let info = server.info(json!({"sql": sql}), &[]).await.ok().json();
        let answer = server.fetch(&info, &[]).await.ok();
        let reader = StreamReader::try_new(answer.body.as_slice(), None).unwrap();
        assert_eq!(reader.schema(), announced(&info), "{sql}");
    }
}

#[tokio::test]
async fn tickets_are_of_their_caller_and_may_be_refused() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let [admin, reader, operator] =
        ["admin", "reader", "operator"].map(|role| format!("Bearer {}", token(&store, role, role)));
    let of = |bearer: &'_ str| [("authorization", bearer.to_owned())];
    let schedule = json!({"sql": "SELECT schedule_job('index', id) FROM notices"});
    let headers = of(&operator);
    let operators: Vec<(&str, &str)> = headers.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let headers = of(&reader);
    let readers: Vec<(&str, &str)> = headers.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let headers = of(&admin);
    let admins: Vec<(&str, &str)> = headers.iter().map(|(a, b)| (*a, b.as_str())).collect();
    server
        .info(schedule.clone(), &[])
        .await
        .fails(401, Code::Unauthenticated);
    server
        .info(schedule.clone(), &readers)
        .await
        .fails(403, Code::ReadOnly);
    let info = server.info(schedule.clone(), &operators).await.ok().json();
    server
        .fetch(&info, &[])
        .await
        .fails(401, Code::Unauthenticated);
    for others in [&readers, &admins] {
        server
            .fetch(&info, others)
            .await
            .fails(404, Code::UnknownObject);
    }
    let forged = json!({"endpoints": [{"ticket": "AAAA"}]});
    server
        .fetch(&forged, &operators)
        .await
        .fails(404, Code::UnknownObject);
    let sql = json!({"endpoints": [{"ticket": "SELECT%201"}]});
    server
        .fetch(&sql, &operators)
        .await
        .fails(404, Code::UnknownObject);
    let mut read_only = operators.clone();
    read_only.push(("sluicegate-read-only", "?1"));
    server
        .fetch(&info, &read_only)
        .await
        .fails(403, Code::ReadOnly);
    server
        .info(schedule.clone(), &read_only)
        .await
        .fails(403, Code::ReadOnly);
    server.fetch(&info, &operators).await.ok();

    // Planned, and cancelled before it ran.
    let info = server.info(schedule, &operators).await.ok().json();
    let path = format!("/v1/statements/{}", info["statement_id"].as_str().unwrap());
    server
        .send(Method::DELETE, &path, &readers, "")
        .await
        .fails(404, Code::UnknownObject);
    let cancelled = server.send(Method::DELETE, &path, &operators, "").await;
    assert_eq!(cancelled.json()["state"], "cancelled");
    server
        .fetch(&info, &operators)
        .await
        .fails(409, Code::Cancelled);

    let wrong = json!({"sql": "SELECT nothing FROM notices"});
    let wrong = server.info(wrong, &operators).await;
    wrong.fails(400, Code::PlanError);
    assert!(wrong.json()["statement_id"].is_string());
    let long = json!({"sql": format!("SELECT '{}'", "x".repeat(20_000))});
    server
        .info(long, &operators)
        .await
        .fails(413, Code::TooLarge);
    let limited = json!({"sql": "SELECT * FROM notices", "max_rows": 1});
    let info = server.info(limited, &operators).await.ok().json();
    server
        .fetch(&info, &operators)
        .await
        .fails(413, Code::TooManyRows);
}

#[tokio::test]
async fn rows_are_put_into_a_table_in_one_commit() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let put = async |query: &str, rows: Vec<u8>, more: &[(&str, &str)]| {
        let mut headers = vec![("content-type", "application/vnd.apache.arrow.stream")];
        headers.extend(more);
        let path = format!("/v1/flight/put?{query}");
        server.send(Method::POST, &path, &headers, rows).await
    };
    let texts = |ids: &[&str]| {
        let id: ArrayRef = Arc::new(LargeStringArray::from(ids.to_vec()));
        stream(&RecordBatch::try_from_iter([("id", id)]).unwrap(), None)
    };
    let key = [("idempotency-key", "put")];
    let answer = put("table=notices", texts(&["x", "y"]), &key).await.ok();
    assert_eq!(
        (&answer.json()["rows_affected"], &answer.json()["version"]),
        (&json!(2), &json!(4))
    );
    let again = put("table=notices", texts(&["x", "y"]), &key).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("?1"));
    assert_eq!(again.json()["version"], json!(4));
    put("table=notices", texts(&["z"]), &key)
        .await
        .fails(422, Code::KeyReused);
    assert_eq!(server.value("SELECT count(*) FROM notices").await, "5");
    put("table=notices", texts(&["new", "x"]), &[])
        .await
        .fails(409, Code::DuplicateKey);
    // A row without all columns would blank the others.
    put("table=notices&mode=replace", texts(&["new", "b"]), &[])
        .await
        .fails(400, Code::Unsupported);
    let whole: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(LargeStringArray::from(vec!["new", "b"]))),
        ("n", Arc::new(Int64Array::from(vec![None, None::<i64>]))),
    ];
    let whole = stream(&RecordBatch::try_from_iter(whole).unwrap(), None);
    let replaced = put("table=notices&mode=replace", whole, &[]).await.ok();
    assert_eq!(replaced.json()["rows_affected"], 2);
    assert_eq!(server.value("SELECT count(*) FROM notices").await, "6");
    assert_eq!(
        server.value("SELECT n FROM notices WHERE id = 'b'").await,
        Value::Null
    );

    let columns = stream(&frame(&["q"]), None);
    put("table=notices", columns, &[])
        .await
        .fails(400, Code::PlanError);
    put("table=nothing", texts(&["a"]), &[])
        .await
        .fails(404, Code::UnknownObject);
    put("table=jobs", texts(&["a"]), &[])
        .await
        .fails(404, Code::UnknownObject);
    let injected = "table=notices%22%20SELECT%201%3B--";
    put(injected, texts(&["a"]), &[])
        .await
        .fails(404, Code::UnknownObject);
    put("table=notices&mode=upsert", texts(&["a"]), &[])
        .await
        .fails(400, Code::BadRequest);
    put("mode=insert", texts(&["a"]), &[])
        .await
        .fails(400, Code::BadRequest);
    put("table=notices", b"id\na".to_vec(), &[])
        .await
        .fails(400, Code::BadRequest);
    let csv = [("content-type", "text/csv")];
    let answer = server
        .send(Method::POST, "/v1/flight/put?table=notices", &csv, "id")
        .await;
    answer.fails(415, Code::UnsupportedMedia);
    let read_only = [("sluicegate-read-only", "?1")];
    put("table=notices", texts(&["a"]), &read_only)
        .await
        .fails(403, Code::ReadOnly);
    assert_eq!(server.value("SELECT count(*) FROM notices").await, "6");
}

#[tokio::test]
async fn actions_are_listed_and_done() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    let listed = server.get("/v1/flight/actions").await.ok().json();
    let names: Vec<&str> = listed["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["cancel_statement", "close_statement", "health_check"]
    );
    assert_eq!(
        server.action("health_check", json!({})).await.ok().json()["status"],
        "ready"
    );
    let info = server
        .info(json!({"sql": "SELECT 1"}), &[])
        .await
        .ok()
        .json();
    let of = json!({"statement_id": info["statement_id"]});
    let cancelled = server.action("cancel_statement", of).await.ok().json();
    assert_eq!(cancelled["state"], "cancelled");
    server.fetch(&info, &[]).await.fails(409, Code::Cancelled);
    let kept = server.post("SELECT 1", &[("prefer", "wait=30")]).await.ok();
    let id = kept.header("sluicegate-statement-id").unwrap();
    let closed = server
        .action("close_statement", json!({"statement_id": id}))
        .await
        .ok();
    assert_eq!(closed.json()["state"], "committed");
    let result = server.get(&format!("/v1/statements/{id}/result")).await;
    result.fails(410, Code::StatementExpired);
    for (body, status, code) in [
        (json!({}), 400, Code::BadRequest),
        (json!({"statement_id": "none"}), 404, Code::UnknownObject),
    ] {
        server
            .action("cancel_statement", body)
            .await
            .fails(status, code);
    }
    server
        .action("drop_table", json!({}))
        .await
        .fails(404, Code::UnknownObject);
}
