//! Rows that come and go as Arrow: tables beside a statement, tickets, and uploads.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, LargeStringArray, RecordBatch};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use reqwest::Method;
use serde_json::{Value, json};
use sluicegate::error::Code;

use crate::server::{Answer, Server, folder};

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
