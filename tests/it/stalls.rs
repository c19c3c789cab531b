//! Clients that neither send on nor take what they asked for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// More than connections buffer.
const LONG: &str = "SELECT value, repeat('x', 1000) FROM range(0, 10000000)";

/// A server within this process, with limits of its own.
struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let options = EngineOptions::new("memory://");
        let engine = Engine::open_with(options, Clock::System, limits).await;
        let engine = engine.expect("a store in memory opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, asked) = watch::channel(false);
        let ended = tokio::spawn(async move {
            let served = engine.serve(listener, "ann", None, asked).await;
            served.expect("the server ends well");
        });
        Self {
            address,
            stop,
            ended,
        }
    }

    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn post(&self, sql: &str) -> TcpStream {
        self.post_with("", sql)
    }

    /// `headers`: lines, each with its end.
    fn post_with(&self, headers: &str, sql: &str) -> TcpStream {
        let length = sql.len();
        self.connect(&format!(
            "POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/csv\r\n\
             {headers}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{sql}"
        ))
    }

    async fn statements(&self) -> Vec<Value> {
        let url = format!("http://{}/v1/statements", self.address);
        let answer = reqwest::get(url).await.unwrap().text().await.unwrap();
        let listed: Value = serde_json::from_str(&answer).unwrap();
        listed["statements"].as_array().unwrap().clone()
    }

    async fn until_state(&self, state: &str) -> Value {
        for _ in 0..600 {
            let listed = self.statements().await;
            if let Some(found) = listed.into_iter().find(|one| one["state"] == state) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no statement is {state}");
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.ended.await.unwrap();
    }
}

/// What comes until the connection ends, which it does.
fn all(mut stream: TcpStream) -> String {
    let longest = Some(Duration::from_secs(60));
    stream.set_read_timeout(longest).unwrap();
    let mut all = Vec::new();
    // A connection that is reset ends as well.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// The end of a body in chunks: one of no length.
const LAST_CHUNK: &str = "0\r\n\r\n";

/// Whether an answer was begun, and its end is missing.
async fn assert_cut(stalled: TcpStream) {
    let got = tokio::task::spawn_blocking(move || all(stalled)).await;
    let got = got.unwrap();
    assert!(got.len() > 1000 && !got.ends_with(LAST_CHUNK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_rows_loses_its_statement_and_hears_no_end() {
    let limits = Limits {
        server_stall_max: Duration::from_millis(300),
        server_statements_max: 1,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let stalled = server.post(LONG);
    let ended = server.until_state("cancelled").await;
    let why = ended["error"]["detail"].as_str().unwrap();
    assert!(why.contains("took no rows"), "{why}");
    // Its place is free.
    let next = all(server.post("SELECT 1 AS n, pg_sleep()"));
    assert!(next.starts_with("HTTP/1.1 400"), "{next}");
    assert_cut(stalled).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_kept_rows_hears_no_end_either() {
    let limits = Limits {
        server_stall_max: Duration::from_millis(300),
        server_background_max: 1,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let sql = "SELECT value, repeat('x', 1000) FROM range(0, 50000)";
    let kept = all(server.post_with("Prefer: respond-async\r\n", sql));
    assert!(kept.starts_with("HTTP/1.1 202"), "{kept}");
    let ended = server.until_state("committed").await;
    let place = ended["result"].as_str().unwrap();
    let fetch = || {
        server.connect(&format!(
            "GET {place}?format=csv HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    };
    let stalled = fetch();
    // Its place among those that are sent is free again.
    let whole = loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let fetched = fetch();
        let got = tokio::task::spawn_blocking(move || all(fetched)).await;
        let got = got.unwrap();
        if !got.starts_with("HTTP/1.1 202") {
            break got;
        }
    };
    assert!(whole.ends_with(LAST_CHUNK) && whole.len() > 50_000_000);
    assert_cut(stalled).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_although_a_client_takes_no_rows() {
    let limits = Limits {
        shutdown_wait: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let _stalled = server.post(LONG);
    server.until_state("running").await;
    let ended = tokio::time::timeout(Duration::from_secs(60), server.end()).await;
    assert!(ended.is_ok(), "it waits for a client that never reads");
}
