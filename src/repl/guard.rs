//! What a person is asked before a statement that does much: what it would do, by outcome, to how
//! many rows, and how to get it back.
//!
//! Asking changes nothing. A statement that cannot be foreseen because it is wrong is not asked
//! about: it fails by itself, with its own words.

use std::fmt::Display;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    FromTable, Statement as SqlStatement, TableWithJoins, UpdateTableFromKind,
};

use super::connection::{Connection, Foresight};
use super::statement::{rows_text, summary_text};
use super::variables::Variables;
use crate::error::{Error, Result};
use crate::functions::effect::EffectFunction;
use crate::session::OutcomeCount;
use crate::session::names::quoted;
use crate::session::parser::parse;
use crate::session::statement::{DropKind, Statement};

/// Rows above which a person is asked. Chosen: more than anybody lists by hand.
pub const ASK_ABOVE_ROWS: u64 = 1_000;

/// Rows of a table above which a person is asked about half of them. Chosen: fewer are typed again
/// sooner than a question is answered.
const HANDFUL_ROWS: u64 = 10;

/// What is asked before a statement; none where it does little.
///
/// # Errors
/// Those of the store.
pub async fn question(
    connection: &Connection,
    variables: &Variables,
    sql: &str,
) -> Result<Option<String>> {
    let Ok(parsed) = parse(sql) else {
        return Ok(None);
    };
    let stakes = Stakes {
        connection,
        variables,
    };
    match parsed.statement {
        Statement::Effect(_) => stakes.effects(sql).await,
        Statement::Update { table, tree } => {
            stakes
                .some_rows("change", &table, matched(&tree), sql)
                .await
        }
        Statement::Delete { table, tree } => {
            stakes
                .some_rows("delete", &table, matched(&tree), sql)
                .await
        }
        Statement::Truncate { table, .. } => stakes.all_rows("delete", &table).await,
        Statement::Drop {
            kind: DropKind::Table,
            name,
            ..
        } => stakes.all_rows("drop the table with", &name).await,
        Statement::Drop {
            kind: DropKind::View | DropKind::Transform,
            ..
        }
        | Statement::Insert { .. }
        | Statement::Query(_)
        | Statement::Preview(_)
        | Statement::Call(_)
        | Statement::CreateTable { .. }
        | Statement::CreateView { .. }
        | Statement::CreateExternalTable { .. }
        | Statement::CreateTransform(_)
        | Statement::Explain { .. }
        | Statement::Set(_)
        | Statement::Show(_)
        | Statement::ShowCreate(_)
        | Statement::Describe(_)
        | Statement::Copy(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Checkpoint
        | Statement::Other(_) => Ok(None),
    }
}

struct Stakes<'a> {
    connection: &'a Connection,
    variables: &'a Variables,
}

impl Stakes<'_> {
    async fn effects(&self, sql: &str) -> Result<Option<String>> {
        let values = self.variables.bind(sql)?;
        let foreseen = self.connection.foresee(sql, values, ASK_ABOVE_ROWS).await;
        let foresight = match foreseen {
            Ok(foresight) => foresight,
            // The statement is wrong, and says where when it is run.
            Err(error) if error.position().is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((foresight.rows > ASK_ABOVE_ROWS).then(|| of_effects(&foresight)))
    }

    /// Of a change of those rows of a table that `matched` counts.
    async fn some_rows(
        &self,
        verb: &str,
        table: &str,
        matched: Option<String>,
        sql: &str,
    ) -> Result<Option<String>> {
        let Some(all) = self
            .count(&format!("SELECT count(*) FROM {}", quoted(table)))
            .await?
        else {
            return Ok(None);
        };
        let rows = match matched {
            Some(count) => self.count(&count).await?,
            None => None,
        };
        match rows {
            Some(rows) if !large(rows, all) => Ok(None),
            Some(rows) => Ok(Some(of_rows(verb, rows, all, table))),
            None => {
                let explained = self.rows(&format!("EXPLAIN {sql}")).await;
                Ok(explained.is_ok().then(|| {
                    let (name, all, keep) = (quoted(table), rows_text(all), keeping(table));
                    format!(
                        "This would {verb} rows of {name}, which has {all}; how many cannot be \
                         foreseen.\n{keep}\n{GO_ON}"
                    )
                }))
            }
        }
    }

    async fn all_rows(&self, verb: &str, table: &str) -> Result<Option<String>> {
        let count = format!("SELECT count(*) FROM {}", quoted(table));
        let all = self.count(&count).await?;
        let rows = all.filter(|all| large(*all, *all));
        Ok(rows.map(|rows| of_rows(verb, rows, rows, table)))
    }

    /// The number that a query answers; none where it is wrong.
    async fn count(&self, sql: &str) -> Result<Option<u64>> {
        let batches = match self.rows(sql).await {
            Ok(batches) => batches,
            Err(error) if error.retryable() => return Err(error),
            Err(_) => return Ok(None),
        };
        let batch = batches.iter().find(|batch| batch.num_rows() > 0);
        let column = batch.and_then(|batch| batch.columns().first());
        let number = column.and_then(|column| {
            let numbers = column.as_primitive_opt::<Int64Type>()?;
            u64::try_from(numbers.value(0)).ok()
        });
        number
            .map(Some)
            .ok_or_else(|| Error::bug("a count has no number"))
    }

    async fn rows(&self, sql: &str) -> Result<Vec<datafusion::arrow::array::RecordBatch>> {
        let values = self.variables.bind(sql)?;
        self.connection.rows(sql, values).await
    }
}

const GO_ON: &str = "Go on? [y/N] ";

fn large(rows: u64, all: u64) -> bool {
    rows > ASK_ABOVE_ROWS || all > HANDFUL_ROWS && rows.saturating_mul(2) > all
}

/// A query that counts the rows which UPDATE or DELETE match; none for a form without one.
fn matched(tree: &SyntaxTree) -> Option<String> {
    let SyntaxTree::Statement(statement) = tree else {
        return None;
    };
    let listed = |first: &TableWithJoins, further: &[TableWithJoins]| {
        let mut tables = first.to_string();
        for table in further {
            tables.push_str(&format!(", {table}"));
        }
        tables
    };
    let (tables, selection): (String, Option<&dyn Display>) = match statement.as_ref() {
        SqlStatement::Update(update) => {
            let further: &[TableWithJoins] = match &update.from {
                None => &[],
                Some(
                    UpdateTableFromKind::BeforeSet(tables) | UpdateTableFromKind::AfterSet(tables),
                ) => tables,
            };
            let selection = update.selection.as_ref().map(|one| one as &dyn Display);
            (listed(&update.table, further), selection)
        }
        SqlStatement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            let (first, _) = from.split_first()?;
            let further = delete.using.as_deref().unwrap_or_default();
            let selection = delete.selection.as_ref().map(|one| one as &dyn Display);
            (listed(first, further), selection)
        }
        _ => return None,
    };
    let condition = selection.map(|one| format!(" WHERE {one}"));
    Some(format!(
        "SELECT count(*) FROM {tables}{}",
        condition.unwrap_or_default()
    ))
}

fn of_rows(verb: &str, rows: u64, all: u64, table: &str) -> String {
    let what = match rows == all {
        true => format!("all {}", rows_text(all)),
        false => format!("{} of the {}", grouped_of(rows), rows_text(all)),
    };
    format!(
        "This would {verb} {what} of {}.\n{}\n{GO_ON}",
        quoted(table),
        keeping(table)
    )
}

fn grouped_of(rows: u64) -> String {
    let text = rows_text(rows);
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// How a table is kept before it is changed.
fn keeping(table: &str) -> String {
    format!(
        "Nothing brings the old rows back, unless you keep them first: COPY (SELECT * FROM {}) TO \
         'kept.parquet' STORED AS PARQUET;",
        quoted(table)
    )
}

fn of_effects(foresight: &Foresight) -> String {
    let called: Vec<EffectFunction> = EffectFunction::ALL
        .iter()
        .copied()
        .filter(|function| {
            let named = |one: &OutcomeCount| one.function == function.name();
            foresight.outcomes.iter().any(named)
        })
        .collect();
    let phrases: Vec<&str> = called.iter().map(|function| doing(*function)).collect();
    let what = match phrases.is_empty() {
        true => "touch".to_owned(),
        false => phrases.join(" and "),
    };
    let mut text = format!("This would {what} {}", rows_text(foresight.rows));
    if !foresight.outcomes.is_empty() {
        text.push_str(&format!(": {}", summary_text(&foresight.outcomes)));
    }
    text.push_str(".\n");
    for function in called {
        text.push_str(&format!("{}\n", way_back(function)));
    }
    text.push_str(GO_ON);
    text
}

/// What an effect function does, before a number of rows.
fn doing(function: EffectFunction) -> &'static str {
    match function {
        EffectFunction::ScheduleJob => "schedule jobs for",
        EffectFunction::CancelJob => "cancel jobs in",
        EffectFunction::RetryJob => "retry jobs in",
        EffectFunction::SetStatus => "set the status of",
        EffectFunction::AcquireLock => "acquire locks for",
        EffectFunction::RenewLock => "renew locks of",
        EffectFunction::ReleaseLock => "release locks of",
        EffectFunction::Heartbeat => "renew the leases of",
        EffectFunction::CompleteJob => "complete jobs in",
        EffectFunction::FailJob => "fail jobs in",
        EffectFunction::HandBackJob => "hand back jobs in",
    }
}

/// How an effect is taken back.
fn way_back(function: EffectFunction) -> &'static str {
    match function {
        EffectFunction::ScheduleJob => {
            "To take it back, before the jobs have run: SELECT cancel_job(job_id) FROM jobs WHERE \
             batch_id = (SELECT max(batch_id) FROM batches) AND ended_at IS NULL;"
        }
        EffectFunction::CancelJob => {
            "To take it back: SELECT retry_job(job_id) for the same jobs makes new ones; what a \
             running job has done by then is lost."
        }
        EffectFunction::RetryJob => "To take it back: SELECT cancel_job(job_id) for the new jobs.",
        EffectFunction::SetStatus => {
            "To take it back: set_status once more; status_history keeps what each status was."
        }
        EffectFunction::AcquireLock => {
            "To take it back: SELECT release_lock(resource, token) FROM locks; the lease ends by \
             itself, too."
        }
        EffectFunction::RenewLock | EffectFunction::Heartbeat => {
            "It needs no way back: leases end by themselves."
        }
        EffectFunction::ReleaseLock => {
            "To take it back: acquire_lock once more, where nobody else was faster."
        }
        EffectFunction::CompleteJob => {
            "A completed job stays completed; status_history keeps what each status was."
        }
        EffectFunction::FailJob => "To take it back: retry_job for those that are discarded.",
        EffectFunction::HandBackJob => "It needs no way back: the jobs wait for a worker again.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions};

    #[test]
    fn changes_are_counted_by_what_they_match() {
        for (sql, expected) in [
            ("UPDATE t SET a = 1", "SELECT count(*) FROM t"),
            (
                "UPDATE t SET a = 1 WHERE b = $x AND c LIKE 'a''b'",
                "SELECT count(*) FROM t WHERE b = $x AND c LIKE 'a''b'",
            ),
            (
                "DELETE FROM \"T t\" WHERE a IN (SELECT b FROM u)",
                "SELECT count(*) FROM \"T t\" WHERE a IN (SELECT b FROM u)",
            ),
        ] {
            let tree = match parse(sql).unwrap().statement {
                Statement::Update { tree, .. } | Statement::Delete { tree, .. } => tree,
                other => panic!("{other:?}"),
            };
            assert_eq!(matched(&tree).as_deref(), Some(expected), "{sql}");
        }
    }

    async fn asked(connection: &Connection, sql: &str) -> Option<String> {
        let variables = Variables::default();
        question(connection, &variables, sql).await.unwrap()
    }

    async fn store(rows: u64) -> Connection {
        let engine = Engine::open(EngineOptions::new("memory://")).await.unwrap();
        let session = engine.session("ann");
        for sql in [
            "CREATE TABLE t (id BIGINT, a TEXT, PRIMARY KEY (id))".to_owned(),
            format!("INSERT INTO t SELECT value, 'x' FROM generate_series(1, {rows})"),
            "CREATE TRANSFORM f ON t FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER"
                .to_owned(),
        ] {
            session.execute(&sql).await.unwrap();
        }
        Connection::from(session)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn half_of_a_table_is_asked_about_and_a_handful_is_not() {
        let many = store(20).await;
        for (sql, expected) in [
            ("UPDATE t SET a = 'y' WHERE id <= 10", None),
            (
                "UPDATE t SET a = 'y' WHERE id <= 11",
                Some("change 11 of the 20 rows of \"t\"."),
            ),
            (
                "DELETE FROM t WHERE id > 0",
                Some("delete all 20 rows of \"t\"."),
            ),
            (
                "DROP TABLE t",
                Some("drop the table with all 20 rows of \"t\"."),
            ),
            ("TRUNCATE t", Some("delete all 20 rows of \"t\".")),
            ("DROP TRANSFORM f", None),
            ("DROP TABLE IF EXISTS nope", None),
            ("DELETE FROM t WHERE nope = 1", None),
            ("SELECT schedule_job('f', id) FROM t", None),
            ("SELECT * FROM t", None),
        ] {
            let question = asked(&many, sql).await;
            match expected {
                None => assert_eq!(question, None, "{sql}"),
                Some(expected) => {
                    let text = question.unwrap();
                    assert!(text.contains(expected) && text.contains("COPY"), "{text}");
                    assert!(text.ends_with("\nGo on? [y/N] "), "{text}");
                }
            }
        }
        let few = store(10).await;
        assert_eq!(asked(&few, "DROP TABLE t").await, None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_effects_are_asked_about_with_their_outcomes() {
        let many = store(3_000).await;
        let schedule = "SELECT schedule_job('f', id) FROM t WHERE id > 2152";
        many.rows(schedule, Default::default()).await.unwrap();
        let text = asked(&many, "SELECT schedule_job('f', id) FROM t")
            .await
            .unwrap();
        assert!(
            text.starts_with(
                "This would schedule jobs for 3,000 rows: 2,152 scheduled, 848 already-live.\n"
            ),
            "{text}"
        );
        assert!(text.contains("cancel_job(job_id)"), "{text}");
        let update = asked(&many, "UPDATE t SET a = 'y' WHERE id <= 1001").await;
        assert!(update.unwrap().contains("change 1,001 of the 3,000 rows"));
    }
}
