//! The demonstrator: a common operation from start to end, told step by step with its SQL.
//!
//! Everything that it does, it does with statements that a user could type; what it adds is the
//! telling. Two workers and a second operator are real: they run at the same time on the store.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tokio::sync::watch;

use crate::demo::corpus;
use crate::demo::setup::setup_statements;
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, ResultWriter, Wide};
use crate::session::Session;
use crate::session::progress::Watcher;
use crate::worker::{WorkOptions, Worked};

/// The example worker, so that the demonstrator runs wherever the program was put.
const TO_RDF: &str = include_str!("../../examples/to_rdf.py");

/// The seed of the made-up notices. Chosen: any will do; the same gives the same notices.
const SEED: u64 = 20_240_101;

/// Rows of a result that are shown.
const ROWS_SHOWN: usize = 6;

/// Lines of a statement that are shown.
const LINES_SHOWN: usize = 14;

/// How long the second operator looks for a notice that is being worked on.
const LOOK_FOR_LOCKED: Duration = Duration::from_secs(20);

/// What the demonstrator works on.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Where generated notices and the example worker are written.
    pub folder: PathBuf,
    /// The notices; made up where absent.
    pub notices: Option<PathBuf>,
    /// How many notices to make up.
    pub count: usize,
    /// What the user types to reach the store, such as `--store ./sluicegate-demo/store`.
    pub store_option: String,
    /// The same to read the documents through a server.
    pub root_option: String,
}

/// Tells the whole story.
///
/// # Errors
/// `SG2005 object-in-use`: the store is not empty. What a statement fails with.
pub async fn tell(engine: &Engine, setting: &Setting) -> Result<()> {
    let started = Instant::now();
    refuse_used_store(engine).await?;
    let story = Story {
        engine,
        anna: engine.session("anna"),
        ben: engine.session("ben"),
    };
    let notices = story.material(setting)?;
    story.register(&notices).await?;
    story.normalise().await?;
    story.decide_eligibility().await?;
    story.preview(&setting.folder).await?;
    story.transform().await?;
    story.retry().await?;
    story.summary(setting, started.elapsed()).await
}

async fn refuse_used_store(engine: &Engine) -> Result<()> {
    if engine.ledger().snapshot().await?.version.0 == 0 {
        return Ok(());
    }
    Err(Error::new(
        Code::ObjectInUse,
        "the demo needs an empty store, and this one has content",
    )
    .with_hint("Remove the folder ./sluicegate-demo, or name another store with --store."))
}

struct Story<'a> {
    engine: &'a Engine,
    anna: Session,
    ben: Session,
}

impl Story<'_> {
    /// Puts the files in place; returns the folder of the notices.
    fn material(&self, setting: &Setting) -> Result<PathBuf> {
        let unwritable = |path: &Path, error: std::io::Error| {
            Error::new(
                Code::OutputFailed,
                format!("\"{}\" cannot be written", path.display()),
            )
            .with_detail(error.to_string())
            .with_source(error)
        };
        std::fs::create_dir_all(&setting.folder)
            .map_err(|error| unwritable(&setting.folder, error))?;
        let script = setting.folder.join("to_rdf.py");
        std::fs::write(&script, TO_RDF).map_err(|error| unwritable(&script, error))?;
        head("0. The notices");
        let notices = match &setting.notices {
            Some(given) => given.clone(),
            None => {
                let folder = setting.folder.join("notices");
                corpus::generate(&folder, setting.count, SEED)?;
                folder
            }
        };
        let made = if setting.notices.is_some() {
            "given"
        } else {
            "made up, some of them broken"
        };
        say(&format!(
            "Procurement notices ({made}) are in {}.",
            notices.display()
        ));
        Ok(notices)
    }

    async fn register(&self, notices: &Path) -> Result<()> {
        head("1. Register them: each file becomes a source, a row of table notices");
        for statement in setup_statements()? {
            self.quietly(&self.anna, &statement).await?;
        }
        let pattern = format!("{}/*.xml", notices.display()).replace('\'', "''");
        self.run(
            &self.anna,
            &format!(
                r"
                INSERT INTO notices (notice_id, uri, content_hash, bytes)
                SELECT replace(name, '.xml', ''), uri, content_hash(uri), bytes
                  FROM list_files('{pattern}')"
            ),
        )
        .await
    }

    async fn normalise(&self) -> Result<()> {
        head("2. Normalise: transform normalise reads the XML with XPath, in plain SQL");
        self.run(
            &self.anna,
            "SELECT schedule_job('normalise', notice_id) FROM notices",
        )
        .await?;
        self.run(&self.anna, "CALL run_jobs('normalise', wait => '1 minute')")
            .await?;
        say("A notice that cannot be normalised is kept, with the class of its error:");
        self.run(
            &self.anna,
            r"
                SELECT error_code, count(*) AS notices, min(source_id) AS example
                  FROM jobs WHERE transform = 'normalise' AND state = 'discarded'
                 GROUP BY error_code ORDER BY notices DESC, error_code",
        )
        .await?;
        self.run(
            &self.anna,
            r"
                SELECT notice_source, count(*) AS notices,
                       count(DISTINCT eforms_subtype) AS subtypes,
                       min(publication_date) AS first, max(publication_date) AS last
                  FROM notices WHERE status = 'NORMALISED_METADATA' GROUP BY notice_source",
        )
        .await
    }

    async fn decide_eligibility(&self) -> Result<()> {
        head("3. Decide eligibility: is there a mapping suite for the notice's form and version?");
        say("View eligible_notices joins the notices with table mapping_suites.");
        self.run(
            &self.anna,
            r"
                SELECT n.notice_id, e.mapping_suite,
                       set_status('notices', n.notice_id,
                                  CASE WHEN e.notice_id IS NULL THEN 'INELIGIBLE_FOR_TRANSFORMATION'
                                       ELSE 'ELIGIBLE_FOR_TRANSFORMATION' END)
                  FROM notices AS n LEFT JOIN eligible_notices AS e ON e.notice_id = n.notice_id
                 WHERE n.status = 'NORMALISED_METADATA'",
        )
        .await
    }

    async fn preview(&self, folder: &Path) -> Result<()> {
        head("4. See what would happen, before anything does");
        let script = folder.join("to_rdf.py").display().to_string();
        let command = format!("python3 {}", shell_words::quote(&script)).replace('\'', "''");
        self.run(
            &self.anna,
            &format!(
                r"
                CREATE TRANSFORM to_rdf ON notices
                  FROM STATUS 'ELIGIBLE_FOR_TRANSFORMATION' TO STATUS 'TRANSFORMED'
                  WITH (group_size 25, concurrency 4, max_attempts 2, backoff '1 second')
                  USING COMMAND '{command}'"
            ),
        )
        .await?;
        say("Ben reads two notices by hand and keeps others away from them meanwhile:");
        self.run(
            &self.ben,
            r"
                SELECT notice_id,
                       acquire_lock('notices/' || notice_id, ttl => '10 minutes') AS token
                  FROM notices WHERE status = 'ELIGIBLE_FOR_TRANSFORMATION'
                 ORDER BY notice_id LIMIT 2",
        )
        .await?;
        say("Anna looks at her selection; PREVIEW does nothing and tells the outcome per row:");
        self.run(&self.anna, &format!("PREVIEW\n{}", dedented(SCHEDULE)))
            .await
    }

    /// Schedules, and lets two workers run while Ben tries to take what they hold.
    async fn transform(&self) -> Result<()> {
        head("5. Schedule, and let two workers transform while Ben wants the same notices");
        self.run(&self.anna, SCHEDULE).await?;
        let (stop, asked) = watch::channel(false);
        let work = |name: &str| {
            let mut options = WorkOptions::until_idle(name);
            options.transforms = vec!["to_rdf".to_owned()];
            options.end = crate::worker::End::WhenIdle(Duration::from_secs(10));
            options.parallel = 1;
            self.engine.work(options, asked.clone(), Watcher::default())
        };
        let workers = async { tokio::try_join!(work("worker-1"), work("worker-2")) };
        let (worked, refused) = tokio::join!(workers, self.ben_tries());
        drop(stop);
        let (first, second) = worked?;
        refused?;
        for (name, worked) in [("worker-1", first), ("worker-2", second)] {
            say(&format!("{name}: {}", told(&worked)));
        }
        say("What the two did, from the ledger; each job links the N-Triples that it wrote:");
        self.run(
            &self.anna,
            r"
                SELECT worker, outcome, count(*) AS attempts, min(error_code) AS error_code
                  FROM attempts WHERE transform = 'to_rdf' GROUP BY worker, outcome
                 ORDER BY worker, outcome",
        )
        .await
    }

    async fn ben_tries(&self) -> Result<()> {
        let started = Instant::now();
        let running = "SELECT count(*) FROM jobs WHERE state = 'running'";
        let live = "SELECT count(*) FROM jobs WHERE ended_at IS NULL";
        while started.elapsed() < LOOK_FOR_LOCKED && self.number(live).await? > 0 {
            if self.number(running).await? > 0 {
                say("While a worker holds them, Ben is refused (token NULL):");
                self.run(
                    &self.ben,
                    r"
                SELECT source_id, acquire_lock('notices/' || source_id) AS token
                  FROM jobs WHERE state = 'running' ORDER BY job_id LIMIT 3",
                )
                .await?;
                return self
                    .run(
                        &self.ben,
                        r"
                SELECT actor, resource, message AS reason FROM events
                 WHERE kind = 'effect-refused' AND actor = 'ben'
                 ORDER BY version, ordinal LIMIT 3",
                    )
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        say("The workers were so quick that Ben never saw a notice locked.");
        Ok(())
    }

    async fn retry(&self) -> Result<()> {
        head("6. Failures: look at the reasons, then retry just those");
        self.run(
            &self.anna,
            r"
                SELECT job_id, source_id, attempt, error_code, error FROM jobs
                 WHERE transform = 'to_rdf' AND state = 'discarded' ORDER BY job_id",
        )
        .await?;
        if self.number(NO_LOTS).await? == 0 {
            say("No notice failed for want of lots, so there is nothing to retry here.");
        } else {
            self.retry_without_lots().await?;
        }
        say("Ben is done with his two; they can be scheduled like the others.");
        self.run(
            &self.ben,
            r"
                SELECT resource, release_lock(resource, token) AS released
                  FROM locks WHERE owner = 'ben'",
        )
        .await?;
        self.run(&self.anna, SCHEDULE).await?;
        self.run(&self.anna, "CALL run_jobs('to_rdf')").await
    }

    async fn retry_without_lots(&self) -> Result<()> {
        say("Notices without lots are fine for us: retry them with a parameter that says so.");
        self.run(
            &self.anna,
            r#"
                SELECT retry_job(job_id, params => '{"allow_no_lots": true}',
                                 batch => 'without lots')
                  FROM jobs
                 WHERE transform = 'to_rdf' AND state = 'discarded' AND error_code = 'no-lots'"#,
        )
        .await
    }

    async fn summary(&self, setting: &Setting, took: Duration) -> Result<()> {
        head("7. The end");
        self.run(
            &self.anna,
            "SELECT status, count(*) AS notices FROM notices GROUP BY status ORDER BY status",
        )
        .await?;
        self.run(
            &self.anna,
            r"
                SELECT batch_id, name, actor, jobs, completed, discarded,
                       ended_at - created_at AS took FROM batches ORDER BY batch_id",
        )
        .await?;
        say("Was any notice ever held by two jobs at once? The ledger knows every start and end:");
        self.run(&self.anna, OVERLAPS).await?;
        say(&format!(
            "All this took {:.1} s. Look around:",
            took.as_secs_f64()
        ));
        let option = &setting.store_option;
        for line in [
            format!(
                "sluicegate {option}                      # a prompt; \\d lists tables, \\? helps"
            ),
            format!("sluicegate {option} -c 'SELECT * FROM jobs LIMIT 5' --format expanded"),
            format!("sluicegate {option} -c 'SELECT * FROM events ORDER BY version DESC LIMIT 20'"),
            format!("sluicegate {option} check                # every rule, every file"),
            format!(
                "sluicegate {option} {} serve --workers 2",
                setting.root_option
            ),
        ] {
            say(&format!("  {line}"));
        }
        Ok(())
    }

    /// The number that Ben's question gives.
    async fn number(&self, sql: &str) -> Result<i64> {
        Ok(first_integer(
            &self.ben.execute(sql).await?.collect().await?,
        ))
    }

    /// Shows a statement and its result.
    async fn run(&self, session: &Session, sql: &str) -> Result<()> {
        let sql = &dedented(sql);
        show_statement(session.actor(), sql);
        let reply = session.execute(sql).await?;
        let schema = std::sync::Arc::clone(&reply.schema);
        let (summary, affected) = (reply.summary.clone(), reply.rows_affected);
        let batches = reply.collect().await?;
        let mut text = String::new();
        if !schema.fields().is_empty() {
            text = table(&concat_batches(&schema, &batches)?)?;
        }
        if let Some(rows) = affected {
            let _ = writeln!(text, "{rows} rows affected");
        }
        let counts: Vec<String> = summary
            .iter()
            .map(|one| format!("{} {}", one.count, one.outcome))
            .collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "=> {}", counts.join(", "));
        }
        print(&text);
        Ok(())
    }

    /// Shows the first line of a long statement of the setting up.
    async fn quietly(&self, session: &Session, sql: &str) -> Result<()> {
        let first = sql
            .lines()
            .find(|line| !line.trim().is_empty() && !line.starts_with("--"));
        print(&format!(
            "{}> {} ...\n",
            session.actor(),
            first.unwrap_or_default().trim_end()
        ));
        session.execute(sql).await?.collect().await.map(drop)
    }
}

/// The selection that the story is about.
const SCHEDULE: &str = r"
                SELECT schedule_job('to_rdf', notice_id, batch => 'since 2015')
                  FROM notices
                 WHERE status = 'ELIGIBLE_FOR_TRANSFORMATION'
                   AND publication_date >= DATE '2015-01-01'
                 ORDER BY notice_id";

/// How many jobs failed because their notice has no lots.
const NO_LOTS: &str = "SELECT count(*) FROM jobs
                        WHERE transform = 'to_rdf' AND state = 'discarded'
                          AND error_code = 'no-lots'";

/// Attempts on one source of which a later one began before an earlier one had ended.
const OVERLAPS: &str = r"
                SELECT count(*) AS overlaps
                  FROM attempts AS a JOIN attempts AS b
                    ON b.source_table = a.source_table AND b.source_id = a.source_id
                   AND b.token > a.token
                 WHERE a.ended_at IS NULL OR b.started_at < a.ended_at";

fn first_integer(batches: &[RecordBatch]) -> i64 {
    use arrow::array::AsArray;
    let column = batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .map(|batch| batch.column(0));
    column
        .and_then(|column| column.as_primitive_opt::<arrow::datatypes::Int64Type>())
        .map_or(0, |column| column.value(0))
}

fn told(worked: &Worked) -> String {
    let parts: Vec<String> = worked
        .values()
        .flatten()
        .map(|(verdict, count)| format!("{count} {}", verdict.name()))
        .collect();
    if parts.is_empty() {
        "nothing was left for it".to_owned()
    } else {
        parts.join(", ")
    }
}

/// The first rows as a table, and how many more there are.
fn table(batch: &RecordBatch) -> Result<String> {
    let shown = batch.slice(0, batch.num_rows().min(ROWS_SHOWN));
    let mut bytes = Vec::new();
    let look = Look::Terminal {
        columns: 110,
        styled: false,
        wide: Wide::Cut,
    };
    let mut writer = ResultWriter::try_new(Format::Table, batch.schema(), look, &mut bytes)?;
    writer.write(&shown)?;
    writer.finish()?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if batch.num_rows() > ROWS_SHOWN {
        let _ = writeln!(text, " ... {} more rows", batch.num_rows() - ROWS_SHOWN);
    }
    Ok(text)
}

/// The text without the indentation that it has in this file.
fn dedented(sql: &str) -> String {
    let lines = || sql.lines().filter(|line| !line.trim().is_empty());
    let indent = |line: &str| line.len() - line.trim_start().len();
    let least = lines().map(indent).min().unwrap_or(0);
    lines()
        .map(|line| line.get(least..).unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

fn show_statement(actor: &str, sql: &str) {
    let mut text = String::new();
    let lines: Vec<&str> = sql.lines().collect();
    for (number, line) in lines.iter().take(LINES_SHOWN).enumerate() {
        let lead = if number == 0 {
            format!("{actor}> ")
        } else {
            " ".repeat(actor.len() + 2)
        };
        let _ = writeln!(text, "{lead}{line}");
    }
    if lines.len() > LINES_SHOWN {
        let _ = writeln!(text, "      ... {} more lines", lines.len() - LINES_SHOWN);
    }
    print(text.trim_end());
    print(";\n");
}

fn head(title: &str) {
    print(&format!("\n== {title}\n\n"));
}

fn say(text: &str) {
    print(&format!("-- {text}\n"));
}

fn print(text: &str) {
    // A reader that has gone does not stop the story: the store is still filled.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
