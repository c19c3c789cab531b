//! What `CALL run_jobs()` left waiting, and for whom: told after its result.

use super::connection::{Connection, text};
use super::statement::grouped;
use crate::error::Result;
use crate::session::parameters::Parameters;
use crate::session::parser::{object_name, parse};
use crate::session::statement::Statement;

/// Jobs that are due and whose locks are looked for; further ones are told to wait for a worker.
/// Each is compared with each lock. Chosen: a second of work beside a thousand locks.
const LOOKED_AT: usize = 10_000;

/// Lines at most. Chosen: half a screen.
const LINES_MAX: usize = 12;

/// Live jobs by what they wait for. A lock keeps a job away on its source, above and below it.
fn query() -> String {
    format!(
        "WITH live AS (
           SELECT jobs.job_id, jobs.transform, jobs.run_at, jobs.worker,
                  jobs.source_table || '/' || jobs.source_id || '/' AS path,
                  CASE WHEN jobs.state = 'running' THEN 'running'
                       WHEN transforms.kind = 'outside' THEN 'outside'
                       WHEN jobs.run_at > now() THEN 'later'
                       ELSE 'due' END AS why
             FROM jobs JOIN transforms ON transforms.name = jobs.transform
            WHERE jobs.ended_at IS NULL
         ), held AS (
           SELECT due.job_id, min(locks.owner) AS owner
             FROM (SELECT job_id, path FROM live WHERE why = 'due' LIMIT {LOOKED_AT}) AS due
             JOIN locks ON starts_with(due.path, locks.resource || '/')
                        OR starts_with(locks.resource || '/', due.path)
            GROUP BY due.job_id
         )
         SELECT transform, why, whom, count(*) AS jobs, date_trunc('second', min(run_at)) AS at
           FROM (SELECT live.transform,
                        CASE WHEN held.owner IS NULL THEN live.why ELSE 'held' END AS why,
                        CASE live.why WHEN 'running' THEN live.worker ELSE held.owner END AS whom,
                        live.run_at
                   FROM live LEFT JOIN held ON held.job_id = live.job_id)
          GROUP BY transform, why, whom
          ORDER BY jobs DESC, transform, why, whom"
    )
}

/// Whether a statement runs jobs.
pub fn runs_jobs(sql: &str) -> bool {
    match parse(sql).map(|parsed| parsed.statement) {
        Ok(Statement::Call(function)) => object_name(&function.name) == "run_jobs",
        Ok(_) | Err(_) => false,
    }
}

/// A line for each group of jobs that wait for the same.
///
/// # Errors
/// Those of the store or the server.
pub async fn lines(connection: &Connection) -> Result<Vec<String>> {
    let batches = connection.rows(&query(), Parameters::None).await?;
    let mut lines = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cell = |column| text(batch, column, row).unwrap_or_default();
            let jobs = cell(3).parse().unwrap_or(0);
            lines.push(line(&cell(0), &cell(1), &cell(2), jobs, &cell(4)));
        }
    }
    let further = lines.len().saturating_sub(LINES_MAX);
    lines.truncate(LINES_MAX);
    if further > 0 {
        lines.push(format!("and {further} more; table \"jobs\" has them all"));
    }
    Ok(lines)
}

fn line(transform: &str, why: &str, whom: &str, jobs: u64, at: &str) -> String {
    let (count, one) = (grouped(jobs), jobs == 1);
    let verb = |single: &'static str, many: &'static str| if one { single } else { many };
    let noun = verb("job", "jobs");
    match why {
        "outside" => format!(
            "{count} {noun} {} for an outside worker of transform \"{transform}\"",
            verb("waits", "wait")
        ),
        "later" => match one {
            true => format!("1 job of transform \"{transform}\" is due at {at}"),
            false => {
                format!(
                    "{count} jobs of transform \"{transform}\" are due later, the first at {at}"
                )
            }
        },
        "held" => format!(
            "{count} {noun} of transform \"{transform}\" {} locked by \"{whom}\"",
            verb("is", "are")
        ),
        "running" => format!(
            "{count} {noun} of transform \"{transform}\" {} at worker \"{whom}\"",
            verb("runs", "run")
        ),
        _ => format!(
            "{count} {noun} of transform \"{transform}\" {} due and {} for a worker",
            verb("is", "are"),
            verb("waits", "wait")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions};

    #[test]
    fn only_calls_of_run_jobs_run_jobs() {
        for (sql, expected) in [
            ("CALL run_jobs()", true),
            ("call Run_Jobs(parallel => 2);", true),
            ("CALL claim_jobs('w')", false),
            ("SELECT 'CALL run_jobs()'", false),
            ("CALL", false),
        ] {
            assert_eq!(runs_jobs(sql), expected, "{sql}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_is_told_with_its_reason() {
        let engine = Engine::open(EngineOptions::new("memory://")).await.unwrap();
        let (ann, ben) = (engine.session("ann"), engine.session("ben"));
        let connection = Connection::from(ann.clone());
        assert_eq!(lines(&connection).await.unwrap(), Vec::<String>::new());
        for sql in [
            "CREATE TABLE t (id TEXT, PRIMARY KEY (id))",
            "INSERT INTO t VALUES ('a'), ('b'), ('b/1'), ('c'), ('d')",
            "CREATE TRANSFORM f ON t FROM STATUS 'RAW' TO STATUS 'F' AS SELECT id FROM input",
            "CREATE TRANSFORM o ON t FROM STATUS 'RAW' TO STATUS 'O' USING OUTSIDE WORKER",
            "SELECT schedule_job('f', id) FROM t WHERE id IN ('a', 'b')",
            "SELECT schedule_job('o', id) FROM t WHERE id IN ('c', 'b/1')",
            "SELECT schedule_job('f', 'd', run_at => TIMESTAMP '2199-01-01')",
            "SELECT acquire_lock('t/b/1')",
        ] {
            let session = if sql.contains("lock") { &ben } else { &ann };
            session.execute(sql).await.unwrap();
        }
        ann.execute("CALL run_jobs()").await.unwrap();
        assert_eq!(
            lines(&connection).await.unwrap(),
            [
                "2 jobs wait for an outside worker of transform \"o\"",
                "1 job of transform \"f\" is locked by \"ben\"",
                "1 job of transform \"f\" is due at 2199-01-01T00:00:00Z",
            ]
        );
        assert_eq!(
            line("f", "due", "", 1_200, ""),
            "1,200 jobs of transform \"f\" are due and wait for a worker"
        );
    }
}
