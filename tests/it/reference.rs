//! `sql/reference.md` is what `sluicegate reference` prints.

use std::fs;
use std::path::Path;

use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::session::reference::markdown;

#[tokio::test]
async fn the_committed_reference_is_current() {
    let engine = Engine::open(EngineOptions::new("memory://reference")).await;
    let session = engine
        .expect("a store in memory opens")
        .session("reference");
    let generated = markdown(&session).await.expect("the reference is made");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/reference.md");
    let committed = fs::read_to_string(path).unwrap_or_default();
    let differs = generated
        .lines()
        .zip(committed.lines())
        .position(|(a, b)| a != b);
    assert!(
        generated == committed,
        "sql/reference.md is not current (first at line {}).\n\
         Regenerate it: cargo run -- reference > sql/reference.md",
        differs.map_or(committed.lines().count() + 1, |line| line + 1),
    );
}
