//! The subcommands that other parts of the crate do. Each function is the one place to connect
//! that part.

use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::log::note;
use super::{BenchArgs, CANCELLED, DemoArgs, StoreArgs, WorkArgs};
use crate::bench::{self, Scale, check_scale};
use crate::chance;
use crate::demo::story::{Setting, tell};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::check;
use crate::ledger::store::{Absent, Store, StoreOptions};
use crate::model::draft::{Author, Draft};
use crate::repl::progress;
use crate::session::reference::markdown;
use crate::worker::{End, WorkOptions, Worked};

/// Notices that the demonstrator makes up. Chosen: it takes well under a minute on two cores.
const COUNT: usize = 500;

/// How long the commands of a worker may take to be killed when it ends at once. Chosen: it is a
/// matter of milliseconds, and somebody waits.
pub(super) const TEAR_WAIT: Duration = Duration::from_secs(2);

/// Runs a worker on a store until it is told to end: by SIGINT or SIGTERM. A second one ends it at
/// once.
pub(super) async fn work(engine: &Engine, args: WorkArgs) -> Result<ExitCode> {
    let options = work_options(args);
    let (asks, asked) = watch::channel(false);
    let worked = engine.work(options, asked, progress::bar());
    match until_told(worked, &asks).await? {
        Some(ended) => {
            engine.close().await;
            tell_worked(&ended?);
            Ok(ExitCode::SUCCESS)
        }
        None => {
            engine.close_within(TEAR_WAIT).await;
            Ok(torn())
        }
    }
}

/// How a worker works that was begun by these options.
pub(super) fn work_options(args: WorkArgs) -> WorkOptions {
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
    options
}

/// Runs a worker to its end: asks it to end at the first signal, and drops it at the second.
pub(super) async fn until_told<T>(
    worked: impl Future<Output = T>,
    asks: &watch::Sender<bool>,
) -> Result<Option<T>> {
    // One for both signals: none that comes between them is missed.
    let mut signals = Signals::listen()?;
    let mut worked = Box::pin(worked);
    Ok(tokio::select! {
        ended = &mut worked => Some(ended),
        () = signals.next() => {
            note("ending: what runs is finished or handed back; again to end at once\n");
            asks.send_replace(true);
            tokio::select! {
                ended = &mut worked => Some(ended),
                () = signals.next() => None,
            }
        }
    })
}

/// Tells of a worker that was dropped. Its commands are being killed, and the process must live
/// until that is done.
pub(super) fn torn() -> ExitCode {
    note("ended at once: what ran is tried again when its lease is over\n");
    ExitCode::from(CANCELLED)
}

/// Tells how attempts ended.
pub(super) fn tell_worked(worked: &Worked) {
    for (transform, verdicts) in worked {
        let texts: Vec<String> = verdicts
            .iter()
            .map(|(verdict, count)| format!("{count} {}", verdict.name()))
            .collect();
        note(&format!("{transform}: {}\n", texts.join(", ")));
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        let unheard =
            |error: io::Error| Error::bug("signals cannot be listened to").with_source(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(unheard)?,
            interrupt: signal(SignalKind::interrupt()).map_err(unheard)?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
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

/// Makes a store. Its first commit says so: a bucket has no folder that could be there.
pub(super) async fn init(store: &StoreArgs) -> Result<ExitCode> {
    let url = super::store_url(store);
    let options = EngineOptions {
        absent: Absent::Make,
        ..super::options(store, url, store.allow_root.clone())
    };
    let engine = Engine::open(options).await?;
    let ledger = engine.ledger();
    let text = if ledger.seen().version == Version::default() {
        let actor = super::actor(store);
        let author = Author::new(actor.as_str(), chance::id(ledger.now()).to_string());
        let first = |draft: &mut Draft<'_>| draft.note_statement("init", None, "[]");
        ledger.commit(author, first).await?;
        format!("made the new store {url}\n")
    } else {
        format!("the store {url} is there already; nothing was done\n")
    };
    print(&text)?;
    engine.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Puts the time of a store right.
pub(super) async fn repair(engine: &Engine, actor: &str) -> Result<ExitCode> {
    let ledger = engine.ledger();
    let author = Author::new(actor, chance::id(ledger.now()).to_string());
    let text = match ledger.repair(author).await? {
        None => "nothing to repair: the newest commit does not lie in the future\n".to_owned(),
        Some(before) => {
            let now = ledger.seen().at;
            format!("the time of the store was {before}; it is {now} from here on\n")
        }
    };
    print(&text)?;
    engine.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Checks every rule of a store, also of one that does not open.
pub(super) async fn check(url: &str) -> Result<ExitCode> {
    let options = StoreOptions {
        absent: Absent::Refuse,
        ..StoreOptions::default()
    };
    let store = Store::open(url, &options).await?;
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
    let options = EngineOptions {
        absent: Absent::Make,
        ..super::options(store, &url, roots)
    };
    let engine = Engine::open(options).await?;
    let documents = args
        .notices
        .as_ref()
        .unwrap_or(&folder)
        .display()
        .to_string();
    let setting = Setting {
        folder: std::path::absolute(&folder).unwrap_or(folder),
        notices: args
            .notices
            .map(|given| std::path::absolute(&given).unwrap_or(given)),
        count: args
            .count
            .map_or(COUNT, |count| usize::try_from(count.get()).unwrap_or(COUNT)),
        store_option: format!("--store {}", shell_words::quote(&url)),
        root_option: format!("--allow-root {}", shell_words::quote(&documents)),
    };
    let told = tell(&engine, &setting).await;
    engine.close().await;
    told.map(|()| ExitCode::SUCCESS)
}

/// Measures this machine.
pub(super) async fn bench(args: BenchArgs) -> Result<ExitCode> {
    let scale = Scale {
        sources: args.sources,
        jobs: args.jobs.min(args.sources),
        rows: args.rows,
    };
    check_scale(scale)?;
    print(&bench::run(&args.dir, scale).await?)?;
    Ok(ExitCode::SUCCESS)
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
