//! The subcommands that other parts of the crate do. Each function is the one place to connect
//! that part.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::{DemoArgs, WorkArgs};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Code, Error, Result};
use crate::session::reference::markdown;

/// Runs a worker until it is told to end.
pub(super) async fn work(_engine: &Engine, _actor: &str, _args: WorkArgs) -> Result<ExitCode> {
    Err(missing("work"))
}

/// Checks every rule of the store.
pub(super) async fn check(_engine: &Engine) -> Result<ExitCode> {
    Err(missing("check"))
}

/// Fills a store with examples.
pub(super) async fn demo(_engine: &Engine, _actor: &str, _args: DemoArgs) -> Result<ExitCode> {
    Err(missing("demo"))
}

/// Measures this machine.
pub(super) async fn bench() -> Result<ExitCode> {
    Err(missing("bench"))
}

/// Prints the reference. It is about no store, so it opens an empty one.
pub(super) async fn reference() -> Result<()> {
    let engine = Engine::open(EngineOptions::new("memory://reference")).await?;
    let text = markdown(&engine.session("reference")).await?;
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Code::OutputFailed, "output cannot be written").with_source(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn missing(name: &str) -> Error {
    Error::new(
        Code::Unsupported,
        format!("subcommand \"{name}\" is not in this build"),
    )
    .with_hint("Use a build that has it.")
}
