//! The commands of the prompt that are queries run on any store.

use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::repl::commands::{Command, HELP};

/// `\dp` was in the list for a table that no store had.
#[tokio::test(flavor = "multi_thread")]
async fn every_listing_of_the_prompt_runs() {
    let engine = Engine::open(EngineOptions::new("memory://")).await;
    let session = engine.expect("a store in memory opens").session("ann");
    let mut ran = 0;
    for (name, _, _) in HELP {
        if let Ok(Command::Query(sql)) = name.parse() {
            let reply = session.execute(&sql).await.expect(name);
            reply.collect().await.expect(name);
            ran += 1;
        }
    }
    assert!(ran > 3, "{ran} commands are queries");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_tell_views_from_tables() {
    let engine = Engine::open(EngineOptions::new("memory://")).await;
    let session = engine.expect("a store in memory opens").session("ann");
    for sql in [
        "CREATE TABLE notices (id TEXT, PRIMARY KEY (id))",
        "CREATE VIEW some AS SELECT id FROM notices",
    ] {
        session.execute(sql).await.expect(sql);
    }
    let names = session.names().await.expect("a store has names");
    for (name, kind) in [
        ("notices", "source table"),
        ("some", "view"),
        ("jobs", "system table"),
        ("attempts", "system view"),
    ] {
        let found = names.tables.iter().find(|table| table.name == name);
        assert_eq!(found.map(|table| &*table.kind), Some(kind), "{name}");
    }
}
