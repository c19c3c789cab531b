//! Standard error: the log, and what the program tells its user.
//!
//! As text, that is for people who watch a terminal. As JSON, every line is an object, notes and
//! the last error too, so that a collector reads all of it.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::Error;
use crate::repl::report::{Origin, render};

/// How standard error is written.
#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    /// How standard error is written: text, or json for an object per line. SLUICEGATE_LOG says
    /// what is logged, such as info or debug; as json that is info unless it says otherwise
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = LogFormat::Text,
        env = "SLUICEGATE_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// The format of this process. A process has one standard error.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or(LogFormat::Text)
}

/// Begins the log of the process.
pub(super) fn begin(args: &LogArgs) {
    let format = *FORMAT.get_or_init(|| args.log_format);
    let usual = match format {
        LogFormat::Text => "sluicegate=warn,error",
        LogFormat::Json => "sluicegate=info,error",
    };
    let filter =
        EnvFilter::try_from_env("SLUICEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let log = tracing_subscriber::registry().with(filter);
    // Fails only where a subscriber is set already, which then does the work.
    let _ = match format {
        LogFormat::Text => log
            .with(layer.with_ansi(io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => log
            .with(layer.json().flatten_event(true).with_span_list(false))
            .try_init(),
    };
}

/// Tells the user something; `text` ends with its line.
pub(super) fn note(text: &str) {
    match format() {
        // A closed standard error leaves nobody to tell.
        LogFormat::Text => drop(io::stderr().write_all(text.as_bytes())),
        LogFormat::Json => tracing::info!("{}", text.trim_end()),
    }
}

/// Tells the user why the process fails.
pub(super) fn complain(error: &Error) {
    match format() {
        LogFormat::Text => {
            let text = render(error, Origin::Process, None);
            drop(io::stderr().write_all(text.as_bytes()));
        }
        LogFormat::Json => tracing::error!(
            code = error.code().as_str(),
            detail = error.detail(),
            hint = error.hint(),
            "{error}"
        ),
    }
}
