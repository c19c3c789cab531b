//! The subcommands that other parts of the crate do. Each function is the one place to connect
//! that part.

use std::process::ExitCode;

use super::{DemoArgs, WorkArgs};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};

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
