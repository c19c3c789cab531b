//! The command line: what can be typed after `sluicegate`, and which part of the crate does it.
//!
//! Exit codes: 0 done, 1 a statement or a task failed, 2 the command line itself is wrong,
//! 130 cancelled by Ctrl-C. Data goes to standard output, everything else to standard error.

mod log;
mod serve;
mod server;
mod tasks;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::engine::{Absent, Access, Engine, EngineOptions, WorkingFolder};
use crate::error::{Code, Error, Result};
use crate::format::{Format, Wide};
use crate::id::Token;
use crate::repl::connection::Connection;
use crate::repl::progress;
use crate::repl::script::{OnError, ScriptEnd, read_script, run_script};
use crate::repl::statement::Runner;
use crate::repl::variables::Variable;
use crate::repl::{Repl, ask, interactive};

const CANCELLED: u8 = 130;

/// Stack of a thread that plans statements. Chosen: planning recurses by the depth of a statement
/// and of its views; memory is taken only where it is used.
const STACK_BYTES: usize = 8 << 20;

const DEFAULT_STORE: &str = "./sluicegate-store";

/// Select sources with SQL, see what would happen, schedule and run transformation jobs.
///
/// Without a subcommand, runs the statements of -c or -f, or of standard input where that is no
/// terminal; otherwise opens a prompt.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    server: server::ServerArgs,

    #[command(flatten)]
    sql: SqlArgs,

    #[command(flatten)]
    log: log::LogArgs,

    #[command(subcommand)]
    task: Option<Task>,
}

/// Which store, and as whom.
#[derive(Debug, Args)]
struct StoreArgs {
    /// The store: a folder, or an s3://, az://, gs:// or memory:// URL
    /// [default: ./sluicegate-store]
    #[arg(long, global = true, value_name = "URL", env = "SLUICEGATE_STORE")]
    store: Option<String>,

    /// Make the store where there is none; otherwise only init, demo and the prompt do
    #[arg(long, global = true)]
    create: bool,

    /// The name that events carry as their actor [default: the user's login name]
    #[arg(long, global = true, value_name = "NAME")]
    actor: Option<String>,

    /// Refuse every statement that would change the store
    #[arg(long, global = true)]
    read_only: bool,

    /// A folder that statements may read and write files in, beside the store and, except for
    /// serve, the working folder; may be given several times
    #[arg(long, global = true, value_name = "PATH")]
    allow_root: Vec<PathBuf>,
}

/// Statements that are given, not typed.
#[derive(Debug, Args)]
struct SqlArgs {
    /// Run these statements, or one backslash command; may be given several times
    #[arg(
        short = 'c',
        long,
        value_name = "SQL",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    command: Vec<String>,

    /// Run this script; - is standard input; may be given several times
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// The value of $NAME in the statements, bound as a parameter: a number, TRUE, FALSE, NULL or
    /// a text, which may stand in single quotes; may be given several times
    #[arg(short = 'v', long = "set", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<Variable>,

    /// A lock that the statements show as their own: the token that acquire_lock gave; may be given
    /// several times
    #[arg(long = "lock-token", value_name = "N")]
    lock_tokens: Vec<u64>,

    /// How rows are written: table, expanded, csv, json, ndjson, parquet, arrow or
    /// arrow-file [default: table, and on a terminal expanded where rows are too wide]
    #[arg(long, value_name = "FORMAT", value_parser = format_name)]
    format: Option<Format>,

    /// Go on with the next statement after an error; the exit code is still 1
    #[arg(long)]
    keep_going: bool,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a worker: claim groups of jobs, run their transforms, report the outcomes
    ///
    /// Any number of workers, on any number of machines, may share one store. A worker ends on
    /// Ctrl-C after the groups at hand are reported. With --server it needs no store; it then runs
    /// commands only, and leaves transforms in SQL to workers at the store.
    Work(WorkArgs),
    /// Serve the store over HTTP
    ///
    /// Without a token in the store, only this machine is served. The server ends on Ctrl-C after
    /// what runs has ended. SLUICEGATE_LOG=info logs every request.
    Serve(serve::ServeArgs),
    /// Make, list and revoke the tokens with which requests to a server show who sends them
    #[command(subcommand)]
    Token(serve::TokenTask),
    /// Make a new store, and say where it is
    Init,
    /// Put the time of a store right that a machine with a wrong clock moved into the future
    ///
    /// Such a store was made by a release that did not refuse wrong clocks: no lease in it ends and
    /// no retry starts before that moment. One commit moves the time, and the leases and pauses
    /// that were given since, back to the present. Does nothing where nothing is wrong.
    Repair,
    /// Check every rule of the store, and report each break of one
    ///
    /// Reads the whole ledger and changes nothing. The exit code is 1 where a rule is broken.
    Check,
    /// Show a common operation from start to end, on notices that it makes up
    ///
    /// Writes to ./sluicegate-demo; the store is ./sluicegate-demo/store unless --store says
    /// otherwise, and must be empty.
    Demo(DemoArgs),
    /// Measure scheduling, claiming, locking, selecting and fetching on this machine
    ///
    /// In a store of its own in a folder that is removed afterwards. Use a release build.
    Bench(BenchArgs),
    /// Print the page of an error code, such as SG1003; without a code, list all codes
    Explain {
        /// The code or its name, such as SG1003 or effect-misplaced
        code: Option<String>,
    },
    /// Print the reference of SQL functions, tables and statements
    Reference,
}

/// How a worker works.
#[derive(Debug, Clone, Args)]
pub struct WorkArgs {
    /// Take jobs of these transforms only, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub transforms: Vec<String>,

    /// End after so many groups of jobs
    #[arg(long, value_name = "N")]
    pub max_groups: Option<NonZeroU64>,

    /// End when no job is due
    #[arg(long)]
    pub until_idle: bool,

    /// With --until-idle: wait for jobs that come due within so many seconds, such as retries
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        requires = "until_idle"
    )]
    pub wait: u64,

    /// Groups that run at once [default: the number of processors]
    #[arg(long, value_name = "N")]
    pub parallel: Option<NonZeroU64>,

    /// The name of the worker in jobs and events [default: host and process]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// With --server: give commands the uri of a source as it is, for this machine sees the same
    /// files; otherwise they get a copy that is fetched from the server
    #[arg(long)]
    pub direct_inputs: bool,
}

/// How much is measured, and where.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Sources in the table
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub sources: u64,

    /// Jobs that one statement schedules
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub jobs: u64,

    /// Rows of the result that is fetched, in process and over HTTP
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub rows: u64,

    /// The folder in which the store is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// What a demo store holds.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Read notices from the XML files of this folder instead of making them up
    #[arg(long, value_name = "DIR")]
    pub notices: Option<PathBuf>,

    /// How many notices
    #[arg(long, value_name = "N")]
    pub count: Option<NonZeroU64>,
}

/// Runs the process: reads the command line and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(async {
                let traces = log::begin(&cli.log)?;
                let done = dispatch(cli).await;
                if let Some(traces) = traces {
                    // It waits for tasks of the runtime.
                    tokio::task::block_in_place(|| traces.end());
                }
                done
            });
            // A cancelled statement may still compute on a blocking thread; nobody waits for it.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Error::bug(format!("the runtime cannot start: {error}"))),
    };
    result.unwrap_or_else(|error| {
        log::complain(&error);
        ExitCode::FAILURE
    })
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let Cli {
        store,
        server,
        sql,
        task,
        log: _,
    } = cli;
    if let Some(client) = server.client(store.read_only)? {
        return match task {
            None => {
                let scripts = scripts(&sql)?;
                let session = server::session(client).await?;
                let session = session.with_lock_tokens(lock_tokens(&sql));
                run_sql(session, server.url(), sql, scripts).await
            }
            Some(Task::Work(args)) => server::work(client, args).await,
            Some(_) => Err(
                Error::new(Code::BadRequest, "--server is for statements and for work")
                    .with_hint("Run this command where the store is."),
            ),
        };
    }
    match task {
        None => {
            let scripts = scripts(&sql)?;
            let prompts = scripts.is_empty() && interactive();
            let engine = open_for(&store, prompts).await?;
            let session = engine.session(&actor(&store)).with_watcher(progress::bar());
            let session = session.with_lock_tokens(lock_tokens(&sql));
            let ended = run_sql(session, store_url(&store), sql, scripts).await;
            engine.close().await;
            ended
        }
        Some(Task::Explain { code }) => explain(code.as_deref()),
        Some(Task::Reference) => tasks::reference().await.map(|()| ExitCode::SUCCESS),
        Some(Task::Work(args)) => tasks::work(&open(&store).await?, args).await,
        Some(Task::Serve(args)) => {
            let options = EngineOptions {
                working_folder: WorkingFolder::Closed,
                ..options(&store, store_url(&store), store.allow_root.clone())
            };
            serve::serve(&Engine::open(options).await?, &actor(&store), args).await
        }
        Some(Task::Token(task)) => {
            if store.read_only {
                return Err(Error::new(
                    Code::ReadOnly,
                    "tokens are not for a read-only store",
                ));
            }
            serve::token(&open(&store).await?, &actor(&store), task).await
        }
        Some(Task::Init) => tasks::init(&store).await,
        Some(Task::Repair) => tasks::repair(&open(&store).await?, &actor(&store)).await,
        Some(Task::Check) => tasks::check(store_url(&store)).await,
        Some(Task::Demo(args)) => tasks::demo(&store, args).await,
        Some(Task::Bench(args)) => tasks::bench(args).await,
    }
}

fn lock_tokens(args: &SqlArgs) -> impl Iterator<Item = Token> {
    args.lock_tokens.iter().copied().map(Token)
}

fn store_url(args: &StoreArgs) -> &str {
    args.store.as_deref().unwrap_or(DEFAULT_STORE)
}

/// Opens the store for statements. The prompt makes one where there is none, and says so: a person
/// sees what happens.
async fn open_for(args: &StoreArgs, prompts: bool) -> Result<Engine> {
    match open(args).await {
        Err(error) if error.code() == Code::StoreUrl && prompts && !args.read_only => {
            let options = EngineOptions {
                absent: Absent::Make,
                ..options(args, store_url(args), args.allow_root.clone())
            };
            let engine = Engine::open(options).await?;
            log::note(&format!("made the new store {}\n", store_url(args)));
            Ok(engine)
        }
        opened => opened,
    }
}

async fn open(args: &StoreArgs) -> Result<Engine> {
    Engine::open(options(args, store_url(args), args.allow_root.clone())).await
}

fn options(args: &StoreArgs, url: &str, roots: Vec<PathBuf>) -> EngineOptions {
    EngineOptions {
        access: if args.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        },
        roots,
        absent: match args.create {
            true => Absent::Make,
            false => Absent::Refuse,
        },
        ..EngineOptions::new(url)
    }
}

fn actor(args: &StoreArgs) -> String {
    let login = || {
        ["USER", "LOGNAME", "USERNAME"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
    };
    args.actor
        .clone()
        .or_else(login)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// One text of SQL with the name that errors give it.
struct Script {
    name: String,
    text: String,
}

async fn run_sql(
    connection: impl Into<Connection>,
    place: &str,
    sql: SqlArgs,
    scripts: Vec<Script>,
) -> Result<ExitCode> {
    let confirm = interactive().then_some(ask as fn(&str) -> _);
    let format = sql.format.unwrap_or(Format::Table);
    let mut runner = Runner::new(connection, format, confirm);
    if sql.format.is_some() {
        runner.wide = Wide::Cut;
    }
    for variable in &sql.variables {
        runner.variables.set(variable.clone());
    }
    let repl = Repl::new(runner);
    if scripts.is_empty() && interactive() {
        return repl.run(place).await.map(|()| ExitCode::SUCCESS);
    }
    run_scripts(&sql, scripts, repl).await
}

async fn run_scripts(sql: &SqlArgs, scripts: Vec<Script>, mut repl: Repl) -> Result<ExitCode> {
    let on_error = if sql.keep_going {
        OnError::KeepGoing
    } else {
        OnError::Stop
    };
    let mut code = ExitCode::SUCCESS;
    for Script { name, text } in scripts {
        let end = if text.trim_start().starts_with('\\') && !sql.command.is_empty() {
            match repl.run_command(&text).await {
                Ok(end) => end,
                Err(error) => {
                    log::complain(&error);
                    ScriptEnd::Failed
                }
            }
        } else {
            run_script(repl.runner(), &name, &text, on_error).await
        };
        match (end, on_error) {
            (ScriptEnd::Done, _) => {}
            (ScriptEnd::Failed, OnError::Stop) => return Ok(ExitCode::FAILURE),
            (ScriptEnd::Failed, OnError::KeepGoing) => code = ExitCode::FAILURE,
            (ScriptEnd::Cancelled, _) => return Ok(ExitCode::from(CANCELLED)),
            (ScriptEnd::OutputClosed, _) => return Ok(code),
        }
    }
    Ok(code)
}

fn scripts(sql: &SqlArgs) -> Result<Vec<Script>> {
    let command = |text: &String| Script {
        name: "<command>".to_owned(),
        text: text.clone(),
    };
    let mut scripts: Vec<Script> = sql.command.iter().map(command).collect();
    for path in &sql.file {
        let name = if path == Path::new("-") {
            "<stdin>".to_owned()
        } else {
            path.display().to_string()
        };
        scripts.push(Script {
            name,
            text: read_script(path)?,
        });
    }
    if scripts.is_empty() && !interactive() {
        scripts.push(Script {
            name: "<stdin>".to_owned(),
            text: read_script(Path::new("-"))?,
        });
    }
    Ok(scripts)
}

/// Prints the page of a code, or the list of all.
fn explain(wanted: Option<&str>) -> Result<ExitCode> {
    let text = match wanted {
        None => {
            let line = |code: &Code| format!("{code}  {}\n", code.slug());
            Code::ALL.iter().map(line).collect()
        }
        Some(wanted) => match find_code(wanted) {
            Some(code) => code.page().to_owned(),
            None => {
                let error = Error::new(
                    Code::UnknownObject,
                    format!("error code \"{wanted}\" does not exist"),
                )
                .with_hint("Type sluicegate explain for the list of codes.");
                log::complain(&error);
                return Ok(ExitCode::from(2));
            }
        },
    };
    tasks::print(&text).map(|()| ExitCode::SUCCESS)
}

/// A code by `SG1003`, `1003` or `effect-misplaced`.
fn find_code(wanted: &str) -> Option<Code> {
    let wanted = wanted.trim().to_ascii_lowercase();
    Code::ALL.iter().copied().find(|code| {
        let code_text = code.as_str().to_ascii_lowercase();
        wanted == code_text
            || code_text.strip_prefix("sg") == Some(&wanted)
            || wanted == code.slug()
    })
}

fn variable(text: &str) -> Result<Variable, String> {
    text.parse().map_err(told)
}

fn format_name(name: &str) -> Result<Format, String> {
    name.parse().map_err(told)
}

/// An error as the parser of the command line shows it.
fn told(error: Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::ledger::store::{Store, StoreOptions};

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_after_a_subcommand() {
        for line in [
            [
                "sluicegate",
                "--store",
                "memory://",
                "work",
                "--transforms",
                "a,b",
            ],
            [
                "sluicegate",
                "work",
                "--transforms",
                "a,b",
                "--store",
                "memory://",
            ],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.store.store.as_deref(), Some("memory://"));
            let Some(Task::Work(work)) = cli.task else {
                panic!("no worker: {line:?}")
            };
            assert_eq!(work.transforms, ["a", "b"]);
        }
    }

    #[test]
    fn wrong_options_are_usage_errors() {
        for line in [
            &["sluicegate", "--format", "xlsx"][..],
            &["sluicegate", "-c", "SELECT 1", "-f", "a.sql"],
            &["sluicegate", "work", "--max-groups", "0"],
            &["sluicegate", "nope"],
        ] {
            assert_eq!(
                Cli::try_parse_from(line).unwrap_err().exit_code(),
                2,
                "{line:?}"
            );
        }
    }

    #[tokio::test]
    async fn check_judges_a_store_that_does_not_open() {
        let url = "memory://check-of-a-store";
        let store = Store::open(url, &StoreOptions::default()).await.unwrap();
        let checked = || async { format!("{:?}", tasks::check(url).await.unwrap()) };
        assert_eq!(checked().await, format!("{:?}", ExitCode::SUCCESS));
        let path = "ledger/00000000000000000001.parquet";
        store.put_new(path, "no Parquet".into()).await.unwrap();
        assert!(Engine::open(EngineOptions::new(url)).await.is_err());
        assert_eq!(checked().await, format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn codes_are_found_by_number_and_name() {
        for wanted in ["SG1003", "sg1003", "1003", "effect-misplaced"] {
            assert_eq!(find_code(wanted), Some(Code::EffectMisplaced), "{wanted}");
        }
        assert_eq!(find_code("SG0000"), None);
    }
}
