//! What the prompt gathers about one thing: the life of a source on one page (`\source`), what a
//! job printed (`\log`), and the files that it left (`\out`).
//!
//! Invariants: it only reads; what a person typed is bound as a parameter.

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;

use super::connection::{Connection, text};
use super::listing;
use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, ResultWriter};
use crate::id::JobId;
use crate::json::Value;
use crate::session::names::quoted;
use crate::session::parameters::Parameters;
use crate::session::{Names, TableName};

/// Rows of one section at most, the newest. Chosen: a page that is still read.
const SECTION_ROWS_MAX: usize = 50;

/// The parts of a source's life beside its row: title, and a query whose first rows are the newest.
/// `$table` and `$key` name the source, `$path` is its resource with a slash behind it.
const SECTIONS: &[(&str, &str)] = &[
    (
        "statuses",
        "SELECT status, date_trunc('second', began_at) AS since,
                date_trunc('second', ended_at) AS until, job_id, actor
           FROM status_history WHERE source_table = $table AND source_id = $key
          ORDER BY version DESC, began_at DESC",
    ),
    (
        "jobs",
        "SELECT job_id, transform, state, attempt, worker,
                date_trunc('second', coalesce(ended_at, started_at, run_at)) AS at, error_code
           FROM jobs WHERE source_table = $table AND source_id = $key ORDER BY job_id DESC",
    ),
    (
        "locks",
        "SELECT resource, mode, owner, token, date_trunc('second', acquired_at) AS since,
                date_trunc('second', coalesce(ended_at, expires_at)) AS until, ending, reason
           FROM lock_history
          WHERE job_id IS NULL AND (starts_with($path, resource || '/')
                                    OR starts_with(resource || '/', $path))
          ORDER BY token DESC",
    ),
    (
        "events",
        "SELECT version, date_trunc('second', at) AS at, actor, kind, to_status, job_id,
                coalesce(message, outcome, error_code) AS message
           FROM events WHERE source_table = $table AND source_id = $key
          ORDER BY version DESC, ordinal DESC",
    ),
];

/// The life of a source.
///
/// # Errors
/// SG2001 unknown-object: there is no such source, or it is in several tables.
pub async fn source(
    connection: &Connection,
    table: Option<&str>,
    key: &str,
    look: Look,
) -> Result<String> {
    let names = connection.names().await?;
    let (table, row) = match table {
        Some(name) => {
            let table = listing::find(&names, name)?;
            let row = row_of(connection, table, key).await?;
            (table.name.clone(), row)
        }
        None => found(connection, &names, key).await?,
    };
    let path = format!("{table}/{key}/");
    let given = [
        ("table", Value::from(table.as_str())),
        ("key", Value::from(key)),
        ("path", Value::from(path.as_str())),
    ];
    let mut page = format!("{table}/{key}\n");
    if let Some(row) = &row {
        let (known, nulls) = told(row)?;
        page.push_str(&written(Format::Expanded, &known, look)?);
        if nulls > 0 {
            page.push_str(&format!("({nulls} columns are NULL)\n"));
        }
    }
    let mut events = 0;
    for (title, query) in SECTIONS {
        let limited = format!("{query} LIMIT {}", SECTION_ROWS_MAX + 1);
        let batches = connection.rows(&limited, bound(query, &given)).await?;
        let Some(first) = batches.first() else {
            continue;
        };
        let rows = concat_batches(&first.schema(), &batches).map_err(crate::format::unwritable)?;
        if rows.num_rows() == 0 {
            continue;
        }
        events = rows.num_rows();
        let shown = rows.slice(0, events.min(SECTION_ROWS_MAX));
        let newest = if events > SECTION_ROWS_MAX {
            format!(", the newest {SECTION_ROWS_MAX}")
        } else {
            ", newest first".to_owned()
        };
        page.push_str(&format!("\n{title}{newest}\n"));
        page.push_str(&written(Format::Table, &shown, look)?);
    }
    match (row, events) {
        (None, 0) => Err(absent(key).with_hint(format!(
            "Table {} has no source of that key, and never had one.",
            quoted(&table)
        ))),
        (Some(_), _) | (None, _) => Ok(page),
    }
}

/// The table that has such a source, and its row; or the table that had one.
async fn found(
    connection: &Connection,
    names: &Names,
    key: &str,
) -> Result<(String, Option<RecordBatch>)> {
    let mut found = Vec::new();
    for table in names.tables.iter().filter(|table| table.key.is_some()) {
        if let Some(row) = row_of(connection, table, key).await? {
            found.push((table.name.clone(), row));
        }
    }
    if found.len() > 1 {
        let tables: Vec<String> = found.iter().map(|(table, _)| quoted(table)).collect();
        return Err(Error::new(
            Code::UnknownObject,
            format!("source \"{key}\" is in several tables"),
        )
        .with_detail(format!("They are {}.", tables.join(", ")))
        .with_hint("Write \\source TABLE KEY."));
    }
    if let Some((table, row)) = found.pop() {
        return Ok((table, Some(row)));
    }
    let gone = "SELECT source_table FROM events WHERE source_id = $key AND source_table IS NOT NULL
                ORDER BY version DESC LIMIT 1";
    let batches = connection
        .rows(gone, bound(gone, &[("key", Value::from(key))]))
        .await?;
    let table = batches.iter().find_map(|batch| text(batch, 0, 0));
    table.map(|table| (table, None)).ok_or_else(|| {
        absent(key).with_hint("Write \\source TABLE KEY; \\dt lists the source tables.")
    })
}

fn absent(key: &str) -> Error {
    Error::new(
        Code::UnknownObject,
        format!("source \"{key}\" does not exist"),
    )
}

/// The row of a source; none where there is none.
async fn row_of(
    connection: &Connection,
    table: &TableName,
    key: &str,
) -> Result<Option<RecordBatch>> {
    let Some(column) = &table.key else {
        return Err(Error::new(
            Code::UnknownObject,
            format!("{} \"{}\" has no sources", table.kind, table.name),
        )
        .with_hint("\\dt lists the source tables."));
    };
    let whole = |(name, kind): &&(String, String)| name == column && kind == "Int64";
    let key = match table.columns.iter().find(whole) {
        None => Value::Text(key.to_owned()),
        Some(_) => match key.parse::<i64>() {
            Ok(number) => Value::Number(number.to_string()),
            Err(_) => return Ok(None),
        },
    };
    let sql = format!(
        "SELECT * FROM {} WHERE {} = $key",
        quoted(&table.name),
        quoted(column)
    );
    let batches = connection
        .rows(&sql, bound(&sql, &[("key", key.clone())]))
        .await?;
    Ok(batches.into_iter().find(|batch| batch.num_rows() > 0))
}

/// Those of the values that the text names.
fn bound(sql: &str, given: &[(&str, Value)]) -> Parameters {
    let named = given
        .iter()
        .filter(|(name, _)| sql.contains(&format!("${name}")));
    Parameters::Named(
        named
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

/// The columns of a row that have a value, and how many have none.
fn told(row: &RecordBatch) -> Result<(RecordBatch, usize)> {
    let valid = |column: &usize| {
        row.columns()
            .get(*column)
            .is_some_and(|one| one.is_valid(0))
    };
    let known: Vec<usize> = (0..row.num_columns()).filter(valid).collect();
    let nulls = row.num_columns() - known.len();
    let known = row.project(&known).map_err(crate::format::unwritable)?;
    Ok((known, nulls))
}

fn written(format: Format, batch: &RecordBatch, look: Look) -> Result<String> {
    let mut bytes = Vec::new();
    let mut writer = ResultWriter::try_new(format, batch.schema(), look, &mut bytes)?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is known of a job that is asked about.
struct Asked {
    state: String,
    attempt: u64,
    transform: String,
    uri: Option<String>,
}

async fn asked(connection: &Connection, job: JobId, uri: &str) -> Result<Asked> {
    let sql = format!("SELECT state, attempt, transform, {uri} FROM jobs WHERE job_id = $job");
    let batches = connection
        .rows(
            &sql,
            bound(&sql, &[("job", Value::Number(job.0.to_string()))]),
        )
        .await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    let batch = batch.ok_or_else(|| {
        Error::new(Code::UnknownObject, format!("job {job} does not exist"))
            .with_hint("\\dj lists the newest jobs.")
    })?;
    let cell = |column| text(batch, column, 0).unwrap_or_default();
    Ok(Asked {
        state: cell(0),
        attempt: cell(1).parse().unwrap_or(0),
        transform: cell(2),
        uri: text(batch, 3, 0),
    })
}

/// What the last attempt of a job printed.
///
/// # Errors
/// SG2001 unknown-object: there is no such job, or it has no log; SG6002 file-unreadable.
pub async fn log(connection: &Connection, job: JobId) -> Result<String> {
    let asked = asked(connection, job, "log_uri").await?;
    let none = |detail: String| {
        Error::new(Code::UnknownObject, format!("job {job} has no log")).with_detail(detail)
    };
    let Some(uri) = asked.uri else {
        return Err(match asked.attempt {
            0 => none(format!("It is {} and was never begun.", asked.state)),
            _ => none(format!(
                "Its transform \"{}\" is no command; only commands print.",
                asked.transform
            ))
            .with_hint(format!(
                "SELECT error FROM jobs WHERE job_id = {job}; tells why it failed."
            )),
        });
    };
    if asked.state == "running" {
        return Err(none(format!("Attempt {} still runs.", asked.attempt))
            .with_hint("The log is there when the attempt has ended."));
    }
    let sql = "SELECT read_text($uri)";
    let batches = connection
        .rows(sql, bound(sql, &[("uri", Value::Text(uri))]))
        .await?;
    let mut log = batches
        .iter()
        .find_map(|batch| text(batch, 0, 0))
        .unwrap_or_default();
    if !log.is_empty() && !log.ends_with('\n') {
        log.push('\n');
    }
    Ok(log)
}

/// The files that a job left: a query and its parameters.
///
/// # Errors
/// SG2001 unknown-object: there is no such job, or it has no output.
pub async fn outputs(connection: &Connection, job: JobId) -> Result<RecordBatch> {
    let asked = asked(connection, job, "output_uri").await?;
    let Some(uri) = asked.uri else {
        let detail = match asked.state.as_str() {
            "completed" => format!("Its transform \"{}\" wrote no file.", asked.transform),
            state => format!("It is {state}; only a completed job has output."),
        };
        return Err(
            Error::new(Code::UnknownObject, format!("job {job} has no output")).with_detail(detail),
        );
    };
    let attempt = format!("/{job}/{}", asked.attempt);
    // An address of another form names the output itself.
    let folder = match uri.find(&format!("{attempt}/")) {
        Some(at) => uri.get(..at + attempt.len()).unwrap_or(&uri),
        None => &uri,
    };
    let sql = "SELECT name, bytes, modified_at, uri FROM list_files($pattern)";
    let given = [(
        "pattern",
        Value::Text(format!("{}/**", literal_pattern(folder))),
    )];
    let batches = connection.rows(sql, bound(sql, &given)).await?;
    let batches = match batches.iter().any(|batch| batch.num_rows() > 0) {
        true => batches,
        false => {
            let given = [("pattern", Value::Text(literal_pattern(&uri)))];
            connection.rows(sql, bound(sql, &given)).await?
        }
    };
    let first = batches.first().ok_or_else(|| {
        Error::new(
            Code::FileUnreadable,
            format!("output \"{uri}\" is not there"),
        )
    })?;
    concat_batches(&first.schema(), &batches).map_err(crate::format::unwritable)
}

/// A path as a pattern that means nothing but it.
fn literal_pattern(path: &str) -> String {
    path.chars().fold(String::new(), |mut pattern, letter| {
        match letter {
            '*' | '?' | '[' | '{' | '}' => pattern.extend(['[', letter, ']']),
            _ => pattern.push(letter),
        }
        pattern
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::session::Session;

    async fn store() -> (Session, Connection) {
        let engine = Engine::open(EngineOptions::new("memory://")).await.unwrap();
        let session = engine.session("ann");
        for sql in [
            "CREATE TABLE t (id TEXT, a TEXT, b TEXT, PRIMARY KEY (id))",
            "CREATE TABLE n (id BIGINT, PRIMARY KEY (id))",
            "INSERT INTO t (id, a) VALUES ('x''y', 'first'), ('7', 'second')",
            "INSERT INTO n VALUES (7), (8)",
            "CREATE TRANSFORM f ON t FROM STATUS 'RAW' TO STATUS 'F' AS SELECT id FROM input",
            "SELECT acquire_lock('t', reason => 'pause')",
            "SELECT release_lock('t', force => TRUE)",
            "SELECT schedule_job('f', id) FROM t",
            "CALL run_jobs()",
            "DELETE FROM n WHERE id = 8",
        ] {
            session.execute(sql).await.unwrap();
        }
        (session.clone(), Connection::from(session))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_tells_the_life_of_a_source() {
        let (_, connection) = store().await;
        let page = source(&connection, None, "x'y", Look::Plain).await.unwrap();
        assert!(page.starts_with("t/x'y\n-[ row 1 ]-\n"), "{page}");
        for part in [
            "\na           | first\n",
            "(2 columns are NULL)",
            "\nstatuses, newest first\n",
            " F      | ",
            "\njobs, newest first\n",
            " completed ",
            "\nlocks, newest first\n",
            " pause\n",
            "\nevents, newest first\n",
            "job-completed",
        ] {
            assert!(page.contains(part), "no {part:?} in {page}");
        }
        let gone = source(&connection, None, "8", Look::Plain).await.unwrap();
        assert!(gone.starts_with("n/8\n\n") && gone.contains("source-deleted"));
        let chosen = source(&connection, Some("N"), "7", Look::Plain).await;
        assert!(chosen.unwrap().starts_with("n/7\n"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sources_that_are_not_there_are_told_with_the_way_out() {
        let (_, connection) = store().await;
        for (table, key, message, hint) in [
            (
                None,
                "7",
                "source \"7\" is in several tables",
                "Write \\source TABLE KEY.",
            ),
            (
                None,
                "nope",
                "source \"nope\" does not exist",
                "Write \\source TABLE KEY; \\dt lists the source tables.",
            ),
            (
                Some("n"),
                "x",
                "source \"x\" does not exist",
                "Table \"n\" has no source of that key, and never had one.",
            ),
            (
                Some("jobz"),
                "1",
                "table \"jobz\" does not exist",
                "Did you mean \"jobs\"?",
            ),
            (
                Some("jobs"),
                "1",
                "system table \"jobs\" has no sources",
                "\\dt lists the source tables.",
            ),
        ] {
            let error = source(&connection, table, key, Look::Plain)
                .await
                .unwrap_err();
            assert_eq!((error.message(), error.hint()), (message, Some(hint)));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn jobs_without_log_or_output_say_why() {
        let (session, connection) = store().await;
        session
            .execute("SELECT schedule_job('f', 7)")
            .await
            .unwrap();
        for (job, log_detail, output_detail) in [
            (
                1,
                Some("Its transform \"f\" is no command; only commands print."),
                Some("Its transform \"f\" wrote no file."),
            ),
            (99, None, None),
        ] {
            let error = log(&connection, JobId(job)).await.unwrap_err();
            assert_eq!(error.detail(), log_detail);
            let error = outputs(&connection, JobId(job)).await.unwrap_err();
            assert_eq!(error.detail(), output_detail);
        }
    }

    #[test]
    fn patterns_of_paths_mean_the_path() {
        assert_eq!(literal_pattern("/a[1]/{b}/c*"), "/a[[]1]/[{]b[}]/c[*]");
    }
}
