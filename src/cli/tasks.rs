//! The subcommands that other parts of the crate do. Each function is the one place to connect
//! that part.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::{DemoArgs, WorkArgs};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::ledger::check;
use crate::ledger::store::{Store, StoreOptions};

/// Runs a worker until it is told to end.
pub(super) async fn work(_engine: &Engine, _actor: &str, _args: WorkArgs) -> Result<ExitCode> {
    Err(missing("work"))
}

/// Checks every rule of a store, also of one that does not open.
pub(super) async fn check(url: &str) -> Result<ExitCode> {
    let store = Store::open(url, &StoreOptions::default()).await?;
    let report = check::check(&store).await?;
    let mut text: String = report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    let unnamed = report.errors + report.notes - report.findings.len() as u64;
    if unnamed > 0 {
        text.push_str(&format!("and {unnamed} more\n"));
    }
    text.push_str(&format!(
        "checked version {}: {} files of events, {} checkpoints, {} runs; {} errors, {} notes\n",
        report.version,
        report.events_files,
        report.checkpoints,
        report.runs,
        report.errors,
        report.notes
    ));
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(Error::new(Code::OutputFailed, "output cannot be written")
                .with_detail(error.to_string()));
        }
        Ok(()) | Err(_) => {}
    }
    Ok(match report.errors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Fills a store with examples.
pub(super) async fn demo(_engine: &Engine, _actor: &str, _args: DemoArgs) -> Result<ExitCode> {
    Err(missing("demo"))
}

/// Measures this machine.
pub(super) async fn bench() -> Result<ExitCode> {
    Err(missing("bench"))
}

/// Prints the reference.
pub(super) fn reference() -> Result<()> {
    Err(missing("reference"))
}

fn missing(name: &str) -> Error {
    Error::new(
        Code::Unsupported,
        format!("subcommand \"{name}\" is not in this build"),
    )
    .with_hint("Use a build that has it.")
}
