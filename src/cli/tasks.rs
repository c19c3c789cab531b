//! The subcommands that other parts of the crate do. Each function is the one place to connect
//! that part.

use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{CANCELLED, DemoArgs, StoreArgs, WorkArgs};
use crate::demo::story::{Setting, tell};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Code, Error, Result};
use crate::ledger::check;
use crate::ledger::store::{Store, StoreOptions};
use crate::repl::progress;
use crate::session::reference::markdown;
use crate::worker::{End, WorkOptions};

/// Notices that the demonstrator makes up. Chosen: it takes well under a minute on two cores.
const COUNT: usize = 500;

/// Runs a worker until it is told to end: by SIGINT or SIGTERM. A second one ends it at once.
pub(super) async fn work(engine: &Engine, args: WorkArgs) -> Result<ExitCode> {
    let mut options = WorkOptions::until_idle(args.name.unwrap_or_else(worker_name));
    options.transforms = args.transforms;
    options.groups_max = args.max_groups.map(NonZeroU64::get);
    options.end = match args.until_idle {
        true => End::WhenIdle(Duration::from_secs(args.wait)),
        false => End::Never,
    };
    if let Some(parallel) = args.parallel {
        options.parallel = usize::try_from(parallel.get()).unwrap_or(usize::MAX);
    }
    let (asks, asked) = watch::channel(false);
    let worked = engine.work(options, asked, progress::bar());
    tokio::pin!(worked);
    let worked = tokio::select! {
        worked = &mut worked => worked?,
        signal = told_to_end() => {
            signal?;
            note("ending: what runs is finished or handed back; again to end at once\n");
            asks.send_replace(true);
            tokio::select! {
                worked = &mut worked => worked?,
                _ = told_to_end() => {
                    note("ended at once: what ran is tried again when its lease is over\n");
                    return Ok(ExitCode::from(CANCELLED));
                }
            }
        }
    };
    for (transform, verdicts) in &worked {
        let texts: Vec<String> = verdicts
            .iter()
            .map(|(verdict, count)| format!("{count} {}", verdict.name()))
            .collect();
        note(&format!("{transform}: {}\n", texts.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn told_to_end() -> Result<()> {
    let unheard =
        |error: std::io::Error| Error::bug("signals cannot be listened to").with_source(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// `host/process`, so that nobody confuses the workers of several machines.
pub(super) fn worker_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "worker",
        name => name,
    };
    format!("{host}/{}", std::process::id())
}

pub(super) fn note(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
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
    print(&text)?;
    Ok(match report.errors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Tells the demonstrator's story on an empty store.
pub(super) async fn demo(store: &StoreArgs, args: DemoArgs) -> Result<ExitCode> {
    let folder = PathBuf::from("sluicegate-demo");
    let url = store
        .store
        .clone()
        .unwrap_or_else(|| folder.join("store").display().to_string());
    let mut roots = store.allow_root.clone();
    roots.extend(args.notices.clone());
    let engine = super::open_url(store, &url, roots).await?;
    let setting = Setting {
        folder: std::path::absolute(&folder).unwrap_or(folder),
        notices: args
            .notices
            .map(|given| std::path::absolute(&given).unwrap_or(given)),
        count: args
            .count
            .map_or(COUNT, |count| usize::try_from(count.get()).unwrap_or(COUNT)),
        store_option: format!("--store {}", shell_words::quote(&url)),
    };
    let told = tell(&engine, &setting).await;
    engine.close().await;
    told.map(|()| ExitCode::SUCCESS)
}

/// Measures this machine.
pub(super) async fn bench() -> Result<ExitCode> {
    Err(missing("bench"))
}

/// Prints the reference. It is about no store, so it opens an empty one.
pub(super) async fn reference() -> Result<()> {
    let engine = Engine::open(EngineOptions::new("memory://reference")).await?;
    print(&markdown(&engine.session("reference")).await?)
}

/// Writes to standard output; a reader that has gone is no error.
pub(super) fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Code::OutputFailed, "output cannot be written")
                .with_detail(error.to_string())
                .with_source(error))
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
