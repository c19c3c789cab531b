//! The HTTP server, as clients meet it: a process of the real binary, and requests to it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use datafusion::arrow::ipc::reader::{FileReader, StreamReader};
use futures::future::join_all;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::error::Code;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    client: Client,
}

/// One answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self
    }

    #[track_caller]
    pub(crate) fn fails(&self, status: u16, code: Code) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(self.json()["code"], code.as_str(), "{}", self.text());
        assert_eq!(self.json()["status"], status);
    }
}

pub(crate) fn sluicegate(store: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["--create", "--actor", "ann", "--store"])
        .arg(store);
    command
}

pub(crate) fn token(store: &Path, role: &str, name: &str) -> String {
    let mut command = sluicegate(store);
    command.args(["token", "create", "--role", role, "--name", name]);
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Server {
    pub(crate) fn start(store: &Path) -> Self {
        Self::start_with(store, &[])
    }

    pub(crate) fn start_with(store: &Path, args: &[&str]) -> Self {
        let mut command = sluicegate(store);
        command.args(["serve", "--bind", "127.0.0.1:0"]).args(args);
        command.current_dir(store.parent().expect("the store is in a folder"));
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().expect("the server says where it is").unwrap();
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("no address: {line}"));
        let url = url.trim_end_matches(';').to_owned();
        // So that a full pipe never stops the server.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            url,
            client: Client::new(),
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("the server answers");
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("the body is whole").to_vec(),
        }
    }

    pub(crate) async fn post(&self, sql: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::POST, "/v1/sql", headers, sql.to_owned())
            .await
    }

    pub(crate) async fn json(&self, request: Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(Method::POST, "/v1/sql", &all, request.to_string())
            .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// The first value of the first row.
    pub(crate) async fn value(&self, sql: &str) -> Value {
        let rows = self.post(sql, &[]).await.ok().json();
        rows[0]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone()
    }

    pub(crate) async fn prepare(&self) {
        for sql in [
            "CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id))",
            "INSERT INTO notices VALUES ('a', 1), ('b', 9007199254740993), ('o''brien', NULL)",
            "CREATE TRANSFORM index ON notices FROM STATUS 'RAW' TO STATUS 'DONE' \
             USING OUTSIDE WORKER",
        ] {
            self.post(sql, &[]).await.ok();
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn folder() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store");
    (folder, store)
}

const ROWS: &str = "SELECT id, n FROM notices ORDER BY id";

#[tokio::test]
async fn every_format_brings_the_rows() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let of = async |accept| server.post(ROWS, &[("accept", accept)]).await.ok();

    let answer = server.post(ROWS, &[]).await.ok();
    let expected = json!([{"id": "a", "n": "1"}, {"id": "b", "n": "9007199254740993"},
        {"id": "o'brien", "n": null}]);
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("sluicegate-statement-kind"), Some("query"));
    assert!(answer.header("sluicegate-statement-id").is_some());
    assert_eq!(answer.header("sluicegate-version"), Some("3"));

    let numbers = server
        .send(Method::POST, "/v1/sql?integers=number", &[], ROWS)
        .await;
    assert!(numbers.ok().text().contains("9007199254740993"));
    let lines = of("application/x-ndjson").await.text();
    assert_eq!(lines.lines().last(), Some(r#"{"$end":{"rows":3}}"#));
    assert_eq!(
        of("text/csv").await.text(),
        "id,n\na,1\nb,9007199254740993\no'brien,\n"
    );
    assert!(of("text/plain").await.text().contains("o'brien"));
    let stream = of("application/vnd.apache.arrow.stream").await.body;
    let rows = StreamReader::try_new(stream.as_slice(), None).unwrap();
    assert_eq!(
        rows.map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
        3
    );
    let file = std::io::Cursor::new(of("application/vnd.apache.arrow.file").await.body);
    let rows = FileReader::try_new(file, None).unwrap();
    assert_eq!(
        rows.map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
        3
    );
    let parquet = of("application/vnd.apache.parquet").await.body;
    let rows = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(parquet)).unwrap();
    assert_eq!(rows.metadata().file_metadata().num_rows(), 3);

    let many = "SELECT value FROM generate_series(1, 300000)";
    let answer = server
        .post(many, &[("accept", "application/x-ndjson")])
        .await
        .ok();
    assert_eq!(
        answer.text().lines().last(),
        Some(r#"{"$end":{"rows":300000}}"#)
    );
    let packed = [("accept", "text/csv"), ("accept-encoding", "gzip")];
    let packed = server.post(many, &packed).await.ok();
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn parameters_are_values_and_never_syntax() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    for attempt in [
        "o'brien",
        "' OR 1=1 --",
        "'); DROP TABLE notices; --",
        "$1",
        "\\",
    ] {
        let request = json!({"sql": "SELECT id FROM notices WHERE id = $1", "params": [attempt]});
        let rows = server.json(request, &[]).await.ok().json();
        let expected = if attempt == "o'brien" {
            json!([{"id": attempt}])
        } else {
            json!([])
        };
        assert_eq!(rows, expected, "{attempt}");
        let sql = "INSERT INTO notices VALUES ($id, $n)";
        let id = format!("{attempt}+");
        let answer = server
            .json(json!({"sql": sql, "params": {"id": id, "n": -5}}), &[])
            .await;
        assert_eq!(answer.ok().header("sluicegate-rows-affected"), Some("1"));
        let request = json!({"sql": "SELECT n FROM notices WHERE id = $id", "params": {"id": id}});
        assert_eq!(
            server.json(request, &[]).await.ok().json(),
            json!([{"n": "-5"}])
        );
    }
    // In effects: those that are planned, those of constants, and CALL.
    let sql = "SELECT schedule_job($1, id) AS job FROM notices WHERE id = $2";
    let rows = server
        .json(json!({"sql": sql, "params": ["index", "a"]}), &[])
        .await
        .ok()
        .json();
    assert_eq!(rows, json!([{"job": "1"}]));
    let sql = "SELECT acquire_lock($1) AS token";
    let rows = server
        .json(json!({"sql": sql, "params": ["@a 'lock'"]}), &[])
        .await
        .ok()
        .json();
    assert!(rows[0]["token"].is_string(), "{rows}");
    let request = json!({"sql": "CALL claim_jobs($1, max => $2)", "params": ["w", 5]});
    let rows = server.json(request, &[]).await.ok().json();
    assert_eq!(rows[0]["source_id"], "a");
    let resource = server
        .value("SELECT resource FROM locks WHERE resource LIKE '@a %'")
        .await;
    assert_eq!(resource, "@a 'lock'");
    let request = json!({"sql": "SELECT $1 + $2", "params": [1]});
    server.json(request, &[]).await.fails(400, Code::PlanError);
}

#[tokio::test]
async fn errors_are_problems_with_their_status() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let wrong = server.post("SELECT\n  nothing FROM notices", &[]).await;
    wrong.fails(400, Code::PlanError);
    assert_eq!(wrong.json()["position"], json!({"line": 2, "column": 3}));
    assert_eq!(wrong.json()["effects_committed"], false);
    server
        .post("SELEC 1", &[])
        .await
        .fails(400, Code::SyntaxError);
    server
        .post("SELECT 1; SELECT 2", &[])
        .await
        .fails(400, Code::SyntaxError);
    server.post("", &[]).await.fails(400, Code::SyntaxError);
    server
        .post("SELECT * FROM nowhere", &[])
        .await
        .fails(404, Code::UnknownObject);
    let twice = server
        .post("INSERT INTO notices VALUES ('a', 1)", &[])
        .await;
    twice.fails(409, Code::DuplicateKey);
    let divided = server.post("SELECT 1 / (n - n) FROM notices", &[]).await;
    divided.fails(400, Code::QueryFailed);

    let get = async |sql: &str| {
        let sql: String = sql.bytes().map(|byte| format!("%{byte:02x}")).collect();
        server.get(&format!("/v1/sql?q={sql}")).await
    };
    assert_eq!(get("SELECT 1 AS a").await.ok().json(), json!([{"a": "1"}]));
    for sql in [
        "SELECT schedule_job('index', id) FROM notices",
        "CALL claim_jobs('w')",
        "DELETE FROM notices",
        "DROP TABLE notices",
    ] {
        let refused = get(sql).await;
        refused.fails(405, Code::MethodNotAllowed);
        assert_eq!(refused.header("allow"), Some("POST"), "{sql}");
    }
    let put = server.send(Method::PUT, "/v1/sql", &[], "SELECT 1").await;
    put.fails(405, Code::MethodNotAllowed);
    assert!(
        put.header("allow")
            .is_some_and(|allow| allow.contains("POST")),
        "{put:?}"
    );
    server
        .get("/v1/nowhere")
        .await
        .fails(404, Code::UnknownObject);
    server
        .get("/v1/sql?sql=SELECT")
        .await
        .fails(400, Code::BadRequest);

    let of = async |name, value| server.post("SELECT 1", &[(name, value)]).await;
    of("accept", "text/html")
        .await
        .fails(406, Code::NotAcceptable);
    of("content-type", "application/xml")
        .await
        .fails(415, Code::UnsupportedMedia);
    of("sluicegate-timeout", "soon")
        .await
        .fails(400, Code::BadRequest);
    of("origin", "https://evil.example")
        .await
        .fails(403, Code::RoleDenied);
    of("authorization", "Bearer nobody")
        .await
        .fails(401, Code::Unauthenticated);
    server
        .json(json!({"sql": 1}), &[])
        .await
        .fails(400, Code::BadRequest);
    server
        .json(json!({"sql": "SELECT 1", "x": 1}), &[])
        .await
        .fails(400, Code::BadRequest);
    let large = format!("SELECT '{}'", "x".repeat(17 << 20));
    server.post(&large, &[]).await.fails(413, Code::TooLarge);
    let long = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 10000000) b \
                WHERE a.value % 7 = b.value % 11";
    let late = server.post(long, &[("sluicegate-timeout", "200ms")]).await;
    late.fails(504, Code::Timeout);
    let request = json!({"sql": long, "timeout_ms": 200});
    server.json(request, &[]).await.fails(504, Code::Timeout);
    let many = json!({"sql": ROWS, "max_rows": 2});
    server.json(many, &[]).await.fails(413, Code::TooManyRows);
    let read_only = [("sluicegate-read-only", "?1")];
    let refused = server.post("DELETE FROM notices", &read_only).await;
    refused.fails(403, Code::ReadOnly);
}

#[tokio::test]
async fn limits_and_folders_are_not_for_clients() {
    let (folder, store) = folder();
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    std::fs::write(folder.path().join("docs/inside.txt"), "ours").unwrap();
    let server = Server::start_with(&store, &["--allow-root", "docs"]);
    let limit = "SET datafusion.runtime.memory_limit = '100G'";
    server
        .post(limit, &[])
        .await
        .fails(403, Code::SettingDenied);
    let setting = "SET datafusion.execution.batch_size = 10";
    server
        .post(setting, &[])
        .await
        .fails(400, Code::Unsupported);
    let inside = server.value("SELECT read_text('docs/inside.txt')").await;
    assert_eq!(inside, "ours");
    for path in [
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
        "docs/inside.txt/../../x",
        "beside.txt",
    ] {
        let sql = "SELECT read_text($1)";
        let answer = server
            .json(json!({"sql": sql, "params": [path]}), &[])
            .await;
        answer.fails(403, Code::OutsideRoots);
        let sql = format!("COPY (SELECT 1) TO '{path}.csv'");
        server.post(&sql, &[]).await.fails(403, Code::OutsideRoots);
    }
    for path in [
        "/v1/../etc/passwd",
        "/v1/statements/..%2f..%2fetc%2fpasswd",
        "//v1//sql",
    ] {
        assert_eq!(
            server.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_repeated_key_tells_the_first_outcome_also_after_a_kill() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let key = [("idempotency-key", "k-1")];
    let request = json!({
        "sql": "SELECT schedule_job($1, id) AS job FROM notices",
        "params": ["index"],
    });
    let first = server.json(request.clone(), &key).await.ok();
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = server.json(request.clone(), &key).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("?1"));
    assert_eq!(again.header("sluicegate-replayed"), Some("rows"));
    assert_eq!(again.body, first.body);
    let same = ["sluicegate-statement-id", "sluicegate-version"];
    for name in same {
        assert_eq!(again.header(name), first.header(name));
    }
    let other = json!({"sql": request["sql"], "params": ["other"]});
    server.json(other, &key).await.fails(422, Code::KeyReused);
    server
        .post("DELETE FROM notices", &key)
        .await
        .fails(422, Code::KeyReused);
    // A statement that found nothing has had its outcome, too.
    let none = [("idempotency-key", "k-2")];
    let nothing = "UPDATE notices SET n = 5 WHERE id = 'new'";
    server.post(nothing, &none).await.ok();
    server
        .post("INSERT INTO notices VALUES ('new', 0)", &[])
        .await
        .ok();
    let again = server.post(nothing, &none).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("?1"));
    server.kill();

    let server = Server::start(&store);
    let other_server = Server::start(&store);
    for server in [&server, &other_server] {
        let again = server.json(request.clone(), &key).await.ok();
        assert_eq!(again.header("sluicegate-replayed"), Some("summary"));
        for name in same {
            assert_eq!(again.header(name), first.header(name));
        }
        let counted = json!([{"function": "schedule_job", "outcome": "scheduled", "count": "3"}]);
        assert_eq!(again.json(), counted);
    }
    assert_eq!(server.value("SELECT count(*) FROM jobs").await, "3");
    let known = "SELECT count(*) FROM statements WHERE idempotency_key IN ('k-1', 'k-2')";
    assert_eq!(server.value(known).await, "2");
}

#[tokio::test]
async fn of_many_requests_with_one_key_one_acts() {
    let (_folder, store) = folder();
    let servers = [Server::start(&store), Server::start(&store)];
    servers[0].prepare().await;
    let insert = "INSERT INTO notices VALUES ('once', 1)";
    let requests = (0..20).map(|n: usize| servers[n % 2].post(insert, &[("idempotency-key", "k")]));
    let answers = join_all(requests).await;
    let mut acted = 0;
    for answer in answers {
        let answer = answer.ok();
        assert_eq!(answer.header("sluicegate-rows-affected"), Some("1"));
        acted += usize::from(answer.header("idempotency-replayed").is_none());
    }
    assert_eq!(acted, 1);
}

#[tokio::test]
async fn fifty_clients_of_two_servers_lose_nothing() {
    let (_folder, store) = folder();
    let servers = [Server::start(&store), Server::start(&store)];
    servers[0].prepare().await;
    let insert = "INSERT INTO notices SELECT 'n' || value, value FROM generate_series(1, 200)";
    servers[1].post(insert, &[]).await.ok();
    let schedule = |n: usize| {
        let sql = format!("SELECT schedule_job('index', id) FROM notices WHERE n % 50 = {n}");
        let server = &servers[n % 2];
        async move { server.post(&sql, &[]).await.ok() }
    };
    join_all((0..50).map(schedule)).await;
    assert_eq!(
        servers[0]
            .value("SELECT count(DISTINCT source_id) FROM jobs")
            .await,
        "202"
    );
    let work = |n: usize| {
        let server = &servers[n % 2];
        async move {
            let sql = format!("CALL claim_jobs('w{n}', max => 10)");
            let jobs = server.post(&sql, &[]).await.ok().json();
            let jobs = jobs.as_array().unwrap().clone();
            for job in &jobs {
                let params = json!([job["job_id"], job["token"]]);
                let sql = "SELECT complete_job($1, $2) AS done";
                server
                    .json(json!({"sql": sql, "params": params}), &[])
                    .await
                    .ok();
            }
            jobs.into_iter()
                .map(|job| job["job_id"].as_str().unwrap().to_owned())
        }
    };
    let claimed = join_all((0..50).map(work)).await;
    let mut claimed: Vec<String> = claimed.into_iter().flatten().collect();
    let all = claimed.len();
    claimed.sort();
    claimed.dedup();
    assert_eq!((all, claimed.len()), (202, 202), "a job is claimed once");
    let done = "SELECT count(*) FROM jobs WHERE state = 'completed'";
    assert_eq!(servers[1].value(done).await, "202");
}

const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 100000) a, \
    generate_series(1, 10000000) b WHERE a.value % 7 = b.value % 11";

#[tokio::test]
async fn a_statement_is_a_resource_of_its_sender() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let done = server.post(ROWS, &[("prefer", "wait=30")]).await.ok();
    assert_eq!(done.json().as_array().unwrap().len(), 3);
    let id = done.header("sluicegate-statement-id").unwrap();
    let record = server
        .get(&format!("/v1/statements/{id}"))
        .await
        .ok()
        .json();
    assert_eq!(
        (&record["state"], &record["rows"]),
        (&json!("committed"), &json!(3))
    );
    let path = format!("/v1/statements/{id}/result?format=csv");
    assert!(server.get(&path).await.ok().text().starts_with("id,n\n"));

    let started = server.post(ENDLESS, &[("prefer", "respond-async")]).await;
    assert_eq!(started.status, StatusCode::ACCEPTED);
    let path = started.header("location").unwrap().to_owned();
    assert_eq!(server.get(&path).await.ok().json()["state"], "running");
    assert_eq!(
        server.get(&format!("{path}/result")).await.status,
        StatusCode::ACCEPTED
    );
    let cancelled = server.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    let mut state = Value::Null;
    for _ in 0..200 {
        state = server.get(&path).await.ok().json()["state"].clone();
        if state != "running" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state, "cancelled");
    server
        .get(&format!("{path}/result"))
        .await
        .fails(409, Code::Cancelled);
    let list = server.get("/v1/statements").await.ok().json();
    assert!(list["statements"].as_array().unwrap().len() >= 2);
    server
        .get("/v1/statements/none")
        .await
        .fails(404, Code::UnknownObject);

    let background: Vec<_> = (0..20)
        .map(|_| server.post(ENDLESS, &[("prefer", "respond-async")]))
        .collect();
    let answers = join_all(background).await;
    let busy = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
    let busy: Vec<_> = busy.collect();
    assert!(!busy.is_empty());
    busy[0].fails(429, Code::TooBusy);
    assert!(busy[0].header("retry-after").is_some());
}

#[tokio::test]
async fn tokens_and_their_roles_decide() {
    let (_folder, store) = folder();
    let server = Server::start(&store);
    server.prepare().await;
    let admin = token(&store, "admin", "root");
    // At once, on a server that was running before there was a token.
    server
        .post("SELECT 1", &[])
        .await
        .fails(401, Code::Unauthenticated);
    let [reader, worker, operator] =
        ["reader", "worker", "operator"].map(|role| token(&store, role, role));
    let second = Server::start(&store);
    let sent = async |token: &str, sql: &str| {
        let bearer = format!("Bearer {token}");
        second.post(sql, &[("authorization", &bearer)]).await
    };
    let schedule = "SELECT schedule_job('index', id) FROM notices WHERE id = 'a'";
    let cases = [
        ("SELECT * FROM jobs", [true, true, true, true]),
        (
            "PREVIEW SELECT schedule_job('index', id) FROM notices",
            [true, true, true, true],
        ),
        (schedule, [false, false, true, true]),
        ("CALL claim_jobs('w')", [false, true, true, true]),
        ("SELECT heartbeat(99, 99)", [false, true, true, true]),
        (
            "INSERT INTO notices VALUES (uuid(), 1)",
            [false, false, true, true],
        ),
        ("SELECT release_lock('a', 1)", [false, false, true, true]),
        (
            "CREATE OR REPLACE VIEW v AS SELECT 1",
            [false, false, false, true],
        ),
        ("CHECKPOINT", [false, false, false, true]),
    ];
    for (sql, allowed) in cases {
        for (token, allowed) in [&reader, &worker, &operator, &admin].iter().zip(allowed) {
            let answer = sent(token, sql).await;
            if allowed {
                assert_eq!(answer.status, StatusCode::OK, "{sql}: {}", answer.text());
            } else {
                assert_eq!(
                    answer.status,
                    StatusCode::FORBIDDEN,
                    "{sql}: {}",
                    answer.text()
                );
            }
        }
    }
    let actor = "SELECT actor FROM events WHERE kind = 'job-scheduled'";
    assert_eq!(
        sent(&reader, actor).await.ok().json(),
        json!([{"actor": "operator"}])
    );
    let kept = sent(&admin, "SELECT payload FROM events").await.ok().text();
    assert!(
        !kept.contains(&admin[4..]),
        "a token is stored in the clear"
    );

    // Another's statement is as one that never was.
    let theirs = sent(&operator, "SELECT 1").await.ok();
    let id = theirs.header("sluicegate-statement-id").unwrap().to_owned();
    let bearer = format!("Bearer {reader}");
    for path in [
        format!("/v1/statements/{id}"),
        format!("/v1/statements/{id}/result"),
    ] {
        let answer = second
            .send(Method::GET, &path, &[("authorization", &bearer)], "")
            .await;
        answer.fails(404, Code::UnknownObject);
    }
    for wrong in [
        "",
        "x",
        &operator[..operator.len() - 1],
        &format!("{operator}0"),
    ] {
        sent(wrong, "SELECT 1")
            .await
            .fails(401, Code::Unauthenticated);
    }
    let revoked = sluicegate(&store)
        .args(["token", "revoke", "operator"])
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    sent(&operator, "SELECT 1")
        .await
        .fails(401, Code::Unauthenticated);
    for name in ["reader", "worker", "root"] {
        sluicegate(&store)
            .args(["token", "revoke", name])
            .output()
            .unwrap();
    }
    // A store that had tokens never falls back to none.
    server
        .post("SELECT 1", &[])
        .await
        .fails(401, Code::Unauthenticated);
    let listed = sluicegate(&store).args(["token", "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.matches("revoked").count(), 4, "{listed}");
}

#[test]
fn without_tokens_no_other_machine_is_served() {
    let (_folder, store) = folder();
    let mut command = sluicegate(&store);
    let output = command
        .args(["serve", "--bind", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(Code::Unauthenticated.as_str()), "{said}");
}

#[tokio::test]
async fn health_metrics_and_the_description_answer() {
    let (_folder, store) = folder();
    let server = Server::start_with(&store, &["--workers", "1"]);
    server.prepare().await;
    server
        .post("SELECT schedule_job('index', id) FROM notices", &[])
        .await
        .ok();
    assert_eq!(server.get("/health/live").await.ok().text(), "live\n");
    assert_eq!(server.get("/health/ready").await.ok().text(), "ready\n");
    let metrics = server.get("/metrics").await.ok().text();
    server
        .post("CALL claim_jobs('w', 'index', max => 1)", &[])
        .await
        .ok();
    let complete = "SELECT complete_job(job_id, token) FROM jobs WHERE state = 'running'";
    server.post(complete, &[]).await.ok();
    let worked = server.get("/metrics").await.ok().text();
    let count = "sluicegate_attempt_duration_seconds_count{transform=\"index\"} 1";
    assert!(worked.contains(count), "{worked}");
    let lags = [
        "sluicegate_ledger_lag_commits 0",
        "sluicegate_ledger_commits_to_replay 6",
    ];
    assert!(lags.iter().all(|lag| worked.contains(lag)), "{worked}");
    for line in [
        "sluicegate_commits_total 4",
        "sluicegate_jobs_waiting{transform=\"index\"} 3",
        "sluicegate_statements_total{kind=\"effect\",outcome=\"committed\"} 1",
    ] {
        assert!(
            metrics.lines().any(|other| other == line),
            "{line} in:\n{metrics}"
        );
    }
    let document = server.get("/v1/openapi.json").await.ok().json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = server
                .send(method, &path.replace("{id}", "x"), &[], "")
                .await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
}

#[tokio::test]
async fn sigterm_lets_what_runs_end() {
    let (_folder, store) = folder();
    let mut server = Server::start_with(&store, &["--workers", "1"]);
    server.prepare().await;
    let long = "SELECT count(*) AS n FROM generate_series(1, 3000) a, generate_series(1, 10000) b \
                WHERE a.value % 7 = b.value % 11";
    let url = format!("{}/v1/sql", server.url);
    let request = server.client.post(url).body(long).send();
    let running = tokio::spawn(request);
    for _ in 0..200 {
        let list = server.get("/v1/statements").await.json();
        if list["statements"].to_string().contains("3000") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let kill = Command::new("kill")
        .arg(server.child.id().to_string())
        .status()
        .unwrap();
    assert!(kill.success());
    let answer = running.await.unwrap().expect("the statement ends");
    assert_eq!(answer.status(), StatusCode::OK);
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_key_holds_among_sessions_without_a_server() {
    use sluicegate::session::{ExecuteOptions, Repetition};
    let engine = Engine::open(EngineOptions::new("memory://keys"))
        .await
        .unwrap();
    let (ann, bob) = (engine.session("ann"), engine.session("bob"));
    let create = "CREATE TABLE t (id TEXT, PRIMARY KEY (id))";
    ann.execute(create).await.unwrap();
    let keyed = || ExecuteOptions {
        idempotency_key: Some("k".into()),
        ..ExecuteOptions::default()
    };
    let insert = "INSERT INTO t VALUES ('a')";
    let first = ann.execute_with(insert, keyed()).await.unwrap();
    let again = ann.execute_with(insert, keyed()).await.unwrap();
    assert_eq!(first.repetition, Repetition::No);
    assert_eq!(again.repetition, Repetition::Summary);
    assert_eq!(
        (again.version, again.rows_affected),
        (first.version, Some(1))
    );
    let error = ann
        .execute_with("DELETE FROM t", keyed())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::KeyReused);
    // Keys are each user's own.
    let theirs = bob.execute_with("DELETE FROM t", keyed()).await.unwrap();
    assert_eq!(theirs.repetition, Repetition::No);
    assert_eq!(theirs.rows_affected, Some(1));
}
