//! The tables of a store in a DataFusion session that is not ours, and the example that shows it.

use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::error::{Code, Error};
use sluicegate::session::Session;

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../../examples/embed.rs"]
mod example;

async fn run(session: &Session, sql: &str) {
    let reply = session.execute(sql).await.expect(sql);
    reply.collect().await.expect(sql);
}

async fn store() -> Session {
    let engine = Engine::open(EngineOptions::new("memory://")).await;
    let session = engine.expect("a store in memory opens").session("ann");
    for sql in [
        "CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id))",
        "INSERT INTO notices VALUES ('a', 1), ('b', 2), ('c', 3)",
        "DELETE FROM notices WHERE id = 'c'",
        "CREATE VIEW large AS SELECT id, xpath_text('<x>' || n || '</x>', '/x') AS text \
           FROM notices WHERE n > 1",
        "SELECT acquire_lock('notices/a')",
    ] {
        run(&session, sql).await;
    }
    session
}

/// The rows as text, with spaces between values.
async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let frame = context.sql(sql).await.expect(sql);
    let mut rows = Vec::new();
    for batch in frame.collect().await.expect(sql) {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter();
            let texts: Result<Vec<_>, _> = values.map(|v| array_value_to_string(v, row)).collect();
            rows.push(texts.expect(sql).join(" "));
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_session_reads_every_kind_of_table() {
    let session = store().await;
    let context = SessionContext::new();
    session
        .register(&context, "store")
        .await
        .expect("registers");
    for (sql, expected) in [
        (
            "SELECT id, n, status, locked FROM store.notices ORDER BY id",
            ["a 1 RAW true", "b 2 RAW false"].as_slice(),
        ),
        ("SELECT id FROM store.notices WHERE locked", &["a"]),
        ("SELECT * FROM store.large", &["b 2"]),
        (
            "SELECT resource, owner FROM store.locks",
            &["notices/a ann"],
        ),
        ("SELECT count(*) FROM store.statements", &["5"]),
        (
            "SELECT kind, source_id FROM store.events WHERE version = 3 AND source_id IS NOT NULL",
            &["source-deleted c"],
        ),
        ("SELECT json_text('{\"a\": 1}', 'a')", &["1"]),
        (
            "SELECT a.id FROM store.notices AS a JOIN store.notices AS b ON b.id = a.id \
              WHERE a.n = 2",
            &["b"],
        ),
    ] {
        assert_eq!(rows(&context, sql).await, expected, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_snapshot_stays_until_it_is_registered_again() {
    let session = store().await;
    let context = SessionContext::new();
    let before = session
        .register(&context, "store")
        .await
        .expect("registers");
    run(&session, "INSERT INTO notices VALUES ('d', 4)").await;
    let count = "SELECT count(*) FROM store.notices";
    assert_eq!(rows(&context, count).await, ["2"]);
    let after = session
        .register(&context, "store")
        .await
        .expect("registers");
    assert_eq!(
        (after.0, rows(&context, count).await),
        (before.0 + 1, vec!["3".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_are_refused_in_a_foreign_session() {
    let session = store().await;
    let context = SessionContext::new();
    session
        .register(&context, "store")
        .await
        .expect("registers");
    for sql in [
        "SELECT set_status('notices', id, 'X') FROM store.notices",
        "SELECT set_status('notices', 'b', 'X')",
    ] {
        let error = match context.sql(sql).await {
            Ok(frame) => frame.collect().await.expect_err(sql),
            Err(error) => error,
        };
        assert_eq!(Error::from(error).code(), Code::EffectMisplaced, "{sql}");
    }
    let unchanged = rows(&context, "SELECT DISTINCT status FROM store.notices").await;
    assert_eq!(unchanged, ["RAW"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_shows_what_it_promises() {
    let mut out = Vec::new();
    example::run("memory://", &mut out).await.expect("it runs");
    let text = String::from_utf8(out).expect("it writes UTF-8");
    for expected in [
        "3 scheduled",
        "| 1-2024    | BRIDGE | NORMALISED | France  | completed |",
        "| 2-2024    |        | RAW        | Germany | discarded | the notice has no title |",
        "An effect in the program's own session: ",
    ] {
        assert!(text.contains(expected), "no \"{expected}\" in:\n{text}");
    }
}
