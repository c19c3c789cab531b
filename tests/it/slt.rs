//! Runs `tests/slt/**/*.slt`: SQL and what it gives, through real sessions on a real store.
//!
//! The format is that of sqllogictest. Each file has a store of its own in a temporary folder and
//! a clock that stands at 2026-01-05 12:00 UTC. `connection NAME` opens another session on the
//! same store. Beside SQL, a record may hold one of these lines:
//!
//! | line | what it does |
//! |---|---|
//! | `\actor NAME` | the session of this connection belongs to NAME from now on |
//! | `\advance 90 s` | moves the clock on; the units are `ms`, `s`, `min`, `h` and `d` |
//! | `\reopen` | closes the store and opens it again, as a new process would |
//! | `\read-only` | the session of this connection may not change the store from now on |
//! | `\limit effect_rows_max 3` | opens the store again with that limit |
//! | `\file sql/x.sql` | runs the statements of a file of the crate; the last one gives the rows |
//!
//! In SQL, `{store}` stands for the folder of the store and `{crate}` for that of the crate.
//!
//! `SLT_UPDATE=1 cargo test --test it slt` writes what came out into the files: read the diff.
//! `SLT_ONLY=locks` runs the files with that in their path.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use sluicegate::config::Limits;
use sluicegate::engine::{Access, Engine, EngineOptions};
use sluicegate::error::Error;
use sluicegate::session::{Session, StatementKind, split_statements};
use sluicegate::time::{Clock, Timestamp};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio::sync::Mutex;

/// 2026-01-05T12:00:00Z, a Monday.
const NOON: Timestamp = Timestamp(1_767_614_400_000_000);

/// The store of one file, shared by its connections.
pub struct Bench {
    folder: tempfile::TempDir,
    clock: Clock,
    limits: Limits,
    engine: Engine,
    /// Counts the openings: a session of an earlier one is opened again.
    opened: u64,
}

impl Bench {
    /// A new store in a folder of its own.
    pub async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock::mock(NOON);
        let limits = Limits::default();
        let engine = open(folder.path(), Access::ReadWrite, &clock, &limits).await;
        Self {
            engine: engine.expect("a new store opens"),
            folder,
            clock,
            limits,
            opened: 0,
        }
    }

    async fn reopen(&mut self) -> Result<(), Failure> {
        self.engine = open(
            self.folder.path(),
            Access::ReadWrite,
            &self.clock,
            &self.limits,
        )
        .await
        .map_err(Failure::Statement)?;
        self.opened += 1;
        Ok(())
    }
}

async fn open(
    folder: &Path,
    access: Access,
    clock: &Clock,
    limits: &Limits,
) -> Result<Engine, Error> {
    let options = EngineOptions {
        access,
        roots: vec![
            PathBuf::from(env!("CARGO_MANIFEST_DIR")),
            folder.to_path_buf(),
        ],
        ..EngineOptions::new(folder.join("store").display().to_string())
    };
    Engine::open_with(options, clock.clone(), limits.clone()).await
}

/// One connection: the session of one actor.
pub struct Connection {
    bench: Arc<Mutex<Bench>>,
    actor: String,
    access: Access,
    session: Option<(u64, Session)>,
}

/// Why a record failed.
#[derive(Debug)]
pub enum Failure {
    /// The statement's own error.
    Statement(Error),
    /// A control line that is none.
    Control(String),
}

impl fmt::Display for Failure {
    /// Everything that a user reads, without the position.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(line) => write!(f, "control line \"{line}\" is unknown"),
            Self::Statement(error) => {
                write!(f, "{}: {}", error.code(), error.message())?;
                if let Some(detail) = error.detail() {
                    write!(f, "\ndetail: {detail}")?;
                }
                if let Some(hint) = error.hint() {
                    write!(f, "\nhint: {hint}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Failure {}

impl Connection {
    /// A connection of the actor `operator`.
    pub fn new(bench: Arc<Mutex<Bench>>) -> Self {
        Self {
            bench,
            actor: "operator".to_owned(),
            access: Access::ReadWrite,
            session: None,
        }
    }

    async fn session(&mut self) -> Result<Session, Failure> {
        let bench = self.bench.lock().await;
        if let Some((opened, session)) = &self.session
            && *opened == bench.opened
        {
            return Ok(session.clone());
        }
        let session = match self.access {
            Access::ReadWrite | Access::Operator | Access::Worker => {
                bench.engine.session(&self.actor)
            }
            Access::ReadOnly => {
                let folder = bench.folder.path();
                open(folder, Access::ReadOnly, &bench.clock, &bench.limits)
                    .await
                    .map_err(Failure::Statement)?
                    .session(&self.actor)
            }
        };
        self.session = Some((bench.opened, session.clone()));
        Ok(session)
    }

    async fn control(&mut self, line: &str) -> Result<(), Failure> {
        let unknown = || Failure::Control(line.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["\\actor", name] => {
                self.actor = (*name).to_owned();
                self.session = None;
            }
            ["\\advance", count, unit] => {
                let ms = match *unit {
                    "ms" => 1,
                    "s" => 1000,
                    "min" => 60_000,
                    "h" => 3_600_000,
                    "d" => 86_400_000,
                    _ => return Err(unknown()),
                };
                let count: u64 = count.parse().map_err(|_| unknown())?;
                let bench = self.bench.lock().await;
                bench.clock.advance(Duration::from_millis(count * ms));
            }
            ["\\reopen"] => self.bench.lock().await.reopen().await?,
            ["\\read-only"] => {
                self.access = Access::ReadOnly;
                self.session = None;
            }
            ["\\limit", name, value] => {
                let mut bench = self.bench.lock().await;
                let value: usize = value.parse().map_err(|_| unknown())?;
                match *name {
                    "effect_rows_max" => bench.limits.effect_rows_max = value,
                    "statement_memory_bytes" => bench.limits.statement_memory_bytes = value,
                    "statement_timeout_s" => {
                        bench.limits.statement_timeout = Duration::from_secs(value as u64);
                    }
                    "claim_jobs_max" => bench.limits.claim_jobs_max = value,
                    _ => return Err(unknown()),
                }
                bench.reopen().await?;
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Runs a statement to its end.
    ///
    /// # Errors
    /// The statement's.
    pub async fn execute(&mut self, sql: &str) -> Result<(StatementKind, Answer), Failure> {
        let folder = self.bench.lock().await.folder.path().join("store");
        let sql = sql
            .replace("{store}", &folder.display().to_string())
            .replace("{crate}", env!("CARGO_MANIFEST_DIR"));
        let session = self.session().await?;
        let reply = session.execute(&sql).await.map_err(Failure::Statement)?;
        let (kind, affected) = (reply.kind, reply.rows_affected);
        let types = reply.schema.fields().iter();
        let types = types.map(|field| column_type(field.data_type())).collect();
        let batches = reply.collect().await.map_err(Failure::Statement)?;
        let rows = batches.iter().flat_map(shown).collect();
        Ok((
            kind,
            Answer {
                types,
                rows,
                affected,
            },
        ))
    }
}

impl Connection {
    async fn file(&mut self, path: &str) -> Result<(StatementKind, Answer), Failure> {
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = fs::read_to_string(whole).map_err(|_| Failure::Control(path.to_owned()))?;
        let statements = split_statements(&text).map_err(Failure::Statement)?;
        let mut last = Err(Failure::Control(path.to_owned()));
        for statement in statements {
            last = Ok(self.execute(&statement.text).await?);
        }
        last
    }
}

/// What a statement gave.
pub struct Answer {
    /// One per column.
    pub types: Vec<DefaultColumnType>,
    /// The rows as text.
    pub rows: Vec<Vec<String>>,
    /// Rows written.
    pub affected: Option<u64>,
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

fn shown(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that can be shown"))
        .collect();
    let cell = |column: &ArrayFormatter<'_>, row| match column.value(row).to_string() {
        text if text.is_empty() => "(empty)".to_owned(),
        // A record ends at an empty line, so a line end inside a value is written out.
        text => text.replace('\n', "\\n"),
    };
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| cell(column, row)).collect())
        .collect()
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let line = sql.trim();
        let (kind, answer) = match line.strip_prefix("\\file ") {
            Some(path) => self.file(path).await?,
            None if line.starts_with('\\') => {
                self.control(line).await?;
                return Ok(DBOutput::StatementComplete(0));
            }
            None => self.execute(sql).await?,
        };
        Ok(match kind {
            StatementKind::Dml => DBOutput::StatementComplete(answer.affected.unwrap_or_default()),
            StatementKind::Ddl => DBOutput::StatementComplete(0),
            StatementKind::Query
            | StatementKind::Effect
            | StatementKind::Explain
            | StatementKind::Preview
            | StatementKind::Setting
                if answer.types.is_empty() =>
            {
                DBOutput::StatementComplete(0)
            }
            StatementKind::Query
            | StatementKind::Effect
            | StatementKind::Explain
            | StatementKind::Preview
            | StatementKind::Setting => DBOutput::Rows {
                types: answer.types,
                rows: answer.rows,
            },
        })
    }

    async fn shutdown(&mut self) {
        self.session = None;
    }
}

fn scripts() -> Vec<PathBuf> {
    let only = std::env::var("SLT_ONLY").unwrap_or_default();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt")];
    let mut scripts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("tests/slt is readable") {
            let path = entry.expect("tests/slt is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt")
                && path.display().to_string().contains(&only)
            {
                scripts.push(path);
            }
        }
    }
    scripts.sort();
    scripts
}

async fn run(path: PathBuf) -> Result<(), String> {
    let bench = Arc::new(Mutex::new(Bench::open().await));
    let mut runner = Runner::new(|| {
        let bench = Arc::clone(&bench);
        async move { Ok(Connection::new(bench)) }
    });
    let end = if std::env::var_os("SLT_UPDATE").is_some() {
        let updated = runner.update_test_file(
            &path,
            " ",
            sqllogictest::default_validator,
            sqllogictest::default_normalizer,
            sqllogictest::default_column_validator,
        );
        updated.await.map_err(|error| error.to_string())
    } else {
        let ran = runner.run_file_async(&path).await;
        ran.map_err(|error| error.display(false).to_string())
    };
    runner.shutdown_async().await;
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_gives_what_it_says() {
    let scripts = scripts();
    assert!(!scripts.is_empty(), "tests/slt has no scripts");
    let runtime = tokio::runtime::Handle::current();
    let running: Vec<_> = scripts
        .into_iter()
        .map(|path| {
            let runtime = runtime.clone();
            tokio::task::spawn_blocking(move || runtime.block_on(run(path)))
        })
        .collect();
    let mut failures = Vec::new();
    for script in running {
        failures.extend(script.await.expect("a script does not panic").err());
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
