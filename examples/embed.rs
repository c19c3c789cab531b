//! A DataFusion program that opens a store beside its own tables.
//!
//! Run it with `cargo run --example embed`. The store is in memory, so it leaves nothing behind;
//! give a folder or a bucket to keep it: `cargo run --example embed -- ./my-store`.
//!
//! Two sessions take part. Everything that changes the store goes through Sluicegate's own
//! [`Session::execute`]. Reading may also happen in the program's own [`SessionContext`], where
//! the store's tables are a schema like any other and can be joined with whatever is there.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::session::Session;

type Error = Box<dyn std::error::Error>;

/// What an operator would type at the prompt.
const SETUP: &[&str] = &[
    "CREATE TABLE notices (notice_id TEXT, country TEXT, title TEXT, PRIMARY KEY (notice_id))",
    "INSERT INTO notices VALUES ('1-2024', 'FR', 'bridge'), ('2-2024', 'DE', ''), \
     ('3-2024', 'FR', 'school')",
    "CREATE TRANSFORM normalise ON notices FROM STATUS 'RAW' TO STATUS 'NORMALISED' \
     WITH (max_attempts 1) \
     AS SELECT notice_id, upper(title) AS title, \
               CASE WHEN title = '' THEN 'the notice has no title' END AS error FROM input",
    "SELECT schedule_job('normalise', notice_id, batch => 'first') FROM notices",
    "CALL run_jobs('normalise')",
];

/// A join of the program's table with two of the store's.
const JOINED: &str = "SELECT n.notice_id, n.title, n.status, c.name AS country, j.state, j.error \
                        FROM store.notices AS n \
                        JOIN countries AS c ON c.code = n.country \
                        JOIN store.jobs AS j ON j.job_id = n.last_job_id ORDER BY n.notice_id";

const COUNT: &str = "SELECT count(*) AS notices FROM store.notices";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1);
    run(
        url.as_deref().unwrap_or("memory://"),
        &mut std::io::stdout(),
    )
    .await
}

/// Shows everything on an empty store.
pub async fn run(store: &str, out: &mut impl Write) -> Result<(), Error> {
    let engine = Engine::open(EngineOptions::new(store)).await?;
    let session = engine.session("embedding program");
    for sql in SETUP {
        change(&session, sql, out).await?;
    }

    let context = SessionContext::new();
    context.register_batch("countries", countries()?)?;
    let version = session.register(&context, "store").await?;
    writeln!(
        out,
        "\nThe program's own session sees version {version} of the store:"
    )?;
    show(&context, JOINED, out).await?;

    // A snapshot stays what it is. Registering again shows the store as it is by then.
    let later = "INSERT INTO notices VALUES ('4-2024', 'DE', 'road')";
    change(&session, later, out).await?;
    writeln!(out, "\nBefore and after registering again:")?;
    show(&context, COUNT, out).await?;
    session.register(&context, "store").await?;
    show(&context, COUNT, out).await?;

    // Effects are refused outside of `Session::execute`, whatever the query looks like.
    let stray = "SELECT schedule_job('normalise', notice_id) FROM store.notices";
    if let Err(error) = context.sql(stray).await?.collect().await {
        let error = sluicegate::error::Error::from(error);
        writeln!(
            out,
            "\nAn effect in the program's own session: {}",
            error.message()
        )?;
    }
    engine.close().await;
    Ok(())
}

/// Runs one statement through Sluicegate and tells what it did.
async fn change(session: &Session, sql: &str, out: &mut impl Write) -> Result<(), Error> {
    let reply = session.execute(sql).await?;
    let summary = reply.summary.iter();
    let did: Vec<String> = summary
        .map(|one| format!("{} {}", one.count, one.outcome))
        .collect();
    let first = sql.split(" (").next().unwrap_or(sql);
    writeln!(
        out,
        "version {}: {first} ... {}",
        reply.version,
        did.join(", ")
    )?;
    Ok(())
}

/// Runs one query in the program's own session.
async fn show(context: &SessionContext, sql: &str, out: &mut impl Write) -> Result<(), Error> {
    let table = context.sql(sql).await?.to_string().await?;
    writeln!(out, "{table}")?;
    Ok(())
}

/// A table that the program has anyway.
fn countries() -> Result<RecordBatch, Error> {
    let column = |values: [&str; 2]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let columns = [
        ("code", column(["DE", "FR"])),
        ("name", column(["Germany", "France"])),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
