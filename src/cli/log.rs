//! Standard error: the log, and what the program tells its user.
//!
//! As text, that is for people who watch a terminal. As JSON, every line is an object, notes and
//! the last error too, so that a collector reads all of it.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::error::{Error, Result};
use crate::repl::report::{Origin, render};
use crate::telemetry::Exporter;

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

    /// Send traces of requests, statements and groups of jobs to this OpenTelemetry collector, by
    /// OTLP over gRPC, such as http://localhost:4317
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT"
    )]
    otlp_endpoint: Option<String>,
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

/// Begins the log of the process, inside its runtime. What is returned must be ended with it.
///
/// # Errors
/// Those of [`Exporter::try_new`].
pub(super) fn begin(args: &LogArgs) -> Result<Option<Exporter>> {
    let format = *FORMAT.get_or_init(|| args.log_format);
    let usual = match format {
        LogFormat::Text => "sluicegate=warn,error",
        LogFormat::Json => "sluicegate=info,error",
    };
    let filter =
        EnvFilter::try_from_env("SLUICEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let exporter = args.otlp_endpoint.as_deref().map(Exporter::try_new);
    let exporter = exporter.transpose()?;
    let log = tracing_subscriber::registry().with(exporter.as_ref().map(Exporter::layer));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // Fails only where a subscriber is set already, which then does the work.
    let _ = match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal());
            log.with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            log.with(lines.with_filter(filter)).try_init()
        }
    };
    Ok(exporter)
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
