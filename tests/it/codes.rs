//! Every error code that SQL can cause is caused by some script of `tests/slt`.

use std::fs;
use std::path::Path;

use sluicegate::error::Code;

/// Codes that no script can cause, and where they are tested instead.
const ELSEWHERE: &[(Code, &str)] = &[
    (
        Code::WriteConflict,
        "a race: the statement is retried; model and tests/sim",
    ),
    (Code::Unauthenticated, "tests of server"),
    (Code::RoleDenied, "tests of server"),
    (Code::BadRequest, "tests of server"),
    (Code::NotAcceptable, "tests of server"),
    (Code::UnsupportedMedia, "tests of server"),
    (Code::MethodNotAllowed, "tests of server"),
    (Code::KeyReused, "tests of server"),
    (Code::StatementExpired, "tests of server"),
    (Code::TooBusy, "tests of server"),
    (Code::Cancelled, "tests of server"),
    (
        Code::TooLarge,
        "needs a file or an answer of many megabytes: unit tests",
    ),
    (
        Code::Contended,
        "a race of processes: tests of ledger::committer",
    ),
    (Code::OutsideRoots, "tests of functions::files"),
    (Code::FileUnreadable, "tests of functions::read"),
    (Code::NotXml, "tests of functions::xpath"),
    (Code::InvalidXPath, "tests of functions::xpath"),
    (
        Code::OutputFailed,
        "the reader of the output went away: tests of repl",
    ),
    (Code::StoreUrl, "opening a store: tests of ledger::store"),
    (
        Code::StoreUnavailable,
        "a store that fails: tests of ledger::store",
    ),
    (Code::StoreCorrupt, "a damaged store: tests of ledger"),
    (
        Code::StoreTooNew,
        "a store of a later version: tests of ledger",
    ),
    (
        Code::SnapshotGone,
        "a reader that is too slow: tests of ledger",
    ),
    (
        Code::StoreReplaced,
        "a folder that is deleted: tests of ledger",
    ),
    (Code::ClockOff, "a wrong clock: tests of ledger, tests/sim"),
    (
        Code::StoreUnsafe,
        "a bucket that takes every put: tests of ledger",
    ),
    (Code::TimeAhead, "a wrong clock of before: tests of ledger"),
    (
        Code::CommandUnusable,
        "outcomes of workers: tests of worker::command",
    ),
    (
        Code::CommandFailed,
        "outcomes of workers: tests of worker::command",
    ),
    (
        Code::NoAnswer,
        "outcomes of workers: tests of worker::command",
    ),
    (
        Code::AttemptTimeout,
        "outcomes of workers: tests of worker::command",
    ),
    (
        Code::LeaseLost,
        "outcomes of workers: tests of worker::command",
    ),
    (Code::Bug, "must never be seen"),
];

fn scripts() -> String {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt")];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("tests/slt is readable") {
            let path = entry.expect("tests/slt is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                text.push_str(&fs::read_to_string(path).expect("a script is text"));
            }
        }
    }
    text
}

#[test]
fn every_code_is_caused_by_a_script_or_tested_elsewhere() {
    let scripts = scripts();
    let untested: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| ELSEWHERE.iter().all(|(elsewhere, _)| elsewhere != *code))
        .map(|code| code.as_str())
        .filter(|code| !scripts.contains(&format!("{code}: ")))
        .collect();
    assert!(
        untested.is_empty(),
        "no script causes {}",
        untested.join(", ")
    );
    assert!(!scripts.contains("SG9001"), "a script shows a bug");
}
