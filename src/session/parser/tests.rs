//! What parses to what, and where errors point.

use super::*;
use crate::session::statement::{Output, TransformBody};
use std::time::Duration;

/// The kind of a statement and its main parts.
fn kind(statement: &Statement) -> String {
    match statement {
        Statement::Query(_) => "query".to_owned(),
        Statement::Effect(_) => "effect".to_owned(),
        Statement::Preview(inner) => format!("preview {}", kind(inner)),
        Statement::Call(function) => format!("call {function}"),
        Statement::Insert { table, .. } => format!("insert {table}"),
        Statement::Update { table, .. } => format!("update {table}"),
        Statement::Delete { table, .. } => format!("delete {table}"),
        Statement::Truncate { table, .. } => format!("truncate {table}"),
        Statement::CreateTable {
            table, existing, ..
        } => {
            format!("create table {existing:?} {table}")
        }
        Statement::CreateView {
            name,
            existing,
            body,
            ..
        } => {
            format!("create view {existing:?} {name}: {body}")
        }
        Statement::CreateExternalTable { table, .. } => format!("create external table {table}"),
        Statement::CreateTransform(create) => format!("create transform {}", create.name),
        Statement::Drop {
            kind,
            name,
            missing,
            tree: _,
        } => format!("drop {kind:?} {name} {missing:?}"),
        Statement::Explain {
            options, statement, ..
        } => {
            let analyze = if options.analyze { " analyze" } else { "" };
            format!("explain{analyze} {}", kind(statement))
        }
        Statement::Set(_) => "set".to_owned(),
        Statement::Show(_) => "show".to_owned(),
        Statement::ShowCreate(name) => format!("show create {name}"),
        Statement::Describe(_) => "describe".to_owned(),
        Statement::Copy(_) => "copy".to_owned(),
        Statement::Prepare(_) => "prepare".to_owned(),
        Statement::Execute(_) => "execute".to_owned(),
        Statement::Transaction(_) => "transaction".to_owned(),
        Statement::Checkpoint => "checkpoint".to_owned(),
        Statement::Other(_) => "other".to_owned(),
    }
}

#[test]
fn statements_are_told_apart() {
    for (sql, expected) in [
        ("SELECT 1", "query"),
        ("VALUES (1)", "query"),
        ("SELECT cancel_job(1);", "effect"),
        ("SELECT 1 WHERE cancel_job(1)", "effect"),
        ("preview select cancel_job(1)", "preview effect"),
        ("PREVIEW CALL cancel_job(1)", "preview call cancel_job(1)"),
        (
            "CALL run_jobs(max => 3, worker => 'w')",
            "call run_jobs(max => 3, worker => 'w')",
        ),
        ("INSERT INTO T VALUES (1)", "insert t"),
        ("REPLACE INTO t VALUES (1)", "insert t"),
        ("INSERT OVERWRITE t SELECT 1", "insert t"),
        ("UPDATE \"T\" SET a = 1 WHERE b = 2", "update T"),
        ("DELETE FROM t WHERE a = 1", "delete t"),
        ("TRUNCATE TABLE t", "truncate t"),
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY)",
            "create table Refuse t",
        ),
        (
            "CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS a",
            "create table Keep t",
        ),
        (
            "CREATE VIEW v AS SELECT 1 -- one\n;",
            "create view Refuse v: SELECT 1",
        ),
        (
            "CREATE OR REPLACE VIEW v (a) AS\n WITH x AS (SELECT 1) SELECT * FROM x",
            "create view Replace v: WITH x AS (SELECT 1) SELECT * FROM x",
        ),
        (
            "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION 'x.csv'",
            "create external table e",
        ),
        (
            "CREATE TRANSFORM n ON t FROM STATUS 'A' TO STATUS 'B' USING OUTSIDE WORKER",
            "create transform n",
        ),
        ("DROP TABLE IF EXISTS t", "drop Table t Ignore"),
        ("DROP VIEW v", "drop View v Refuse"),
        ("DROP TRANSFORM IF EXISTS N", "drop Transform n Ignore"),
        ("EXPLAIN SELECT 1", "explain query"),
        (
            "EXPLAIN ANALYZE SELECT cancel_job(1)",
            "explain analyze effect",
        ),
        ("EXPLAIN FORMAT TREE SELECT 1", "explain query"),
        ("EXPLAIN CALL cancel_job(1)", "explain call cancel_job(1)"),
        ("SET datafusion.execution.batch_size = 1", "set"),
        ("RESET datafusion.execution.batch_size", "set"),
        ("SHOW TABLES", "show"),
        ("SHOW ALL", "show"),
        ("DESCRIBE t", "describe"),
        ("COPY t TO 'x.csv'", "copy"),
        ("PREPARE p AS SELECT 1", "prepare"),
        ("EXECUTE p", "execute"),
        ("DEALLOCATE p", "execute"),
        ("BEGIN", "transaction"),
        ("COMMIT", "transaction"),
        ("CHECKPOINT", "checkpoint"),
        ("DELETE FROM a, b", "other"),
        ("DROP TABLE a, b", "other"),
        ("CREATE INDEX i ON t (a)", "other"),
    ] {
        let parsed = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(kind(&parsed.statement), expected, "{sql}");
    }
}

#[test]
fn the_text_is_kept_as_it_was_sent() {
    let parsed = parse(" -- first\n  SELECT  'a;b', \"\u{fc}\" /* c */ ; ; ").unwrap();
    assert_eq!(parsed.text, "SELECT  'a;b', \"\u{fc}\"");
}

#[test]
fn a_transform_has_all_its_parts() {
    let sql = "CREATE OR REPLACE TRANSFORM normalise ON notices\n\
               FROM STATUS 'RAW', 'FIXED' TO STATUS 'DONE', 'BAD'\n\
               WITH (group_size 500, timeout '10 minutes', max_attempts = 3, concurrency 4,\n\
               lease '1 hour 30 minutes', backoff '500 ms', memory '512 MB', priority 9)\n\
               OUTPUT PARQUET\n\
               AS SELECT notice_id, 'x' AS status FROM input -- done\n;";
    let Statement::CreateTransform(create) = parse(sql).unwrap().statement else {
        panic!("not a transform");
    };
    assert_eq!(
        (create.name.as_str(), create.table.as_str()),
        ("normalise", "notices")
    );
    assert_eq!(create.existing, Existing::Replace);
    assert_eq!(create.from_status, ["RAW", "FIXED"]);
    assert_eq!(create.to_status, ["DONE", "BAD"]);
    assert_eq!(create.options.group_size, Some(500));
    assert_eq!(create.options.timeout, Some(Duration::from_secs(600)));
    assert_eq!(create.options.max_attempts, Some(3));
    assert_eq!(create.options.concurrency, Some(4));
    assert_eq!(create.options.lease, Some(Duration::from_secs(5400)));
    assert_eq!(create.options.backoff, Some(Duration::from_millis(500)));
    assert_eq!(create.options.memory_bytes, Some(512 << 20));
    assert_eq!(create.options.priority, Some(9));
    assert_eq!(create.options.output, Output::Parquet);
    let TransformBody::Sql { text, position, .. } = create.body else {
        panic!("no SQL")
    };
    assert_eq!(text, "SELECT notice_id, 'x' AS status FROM input");
    assert_eq!(position, Position { line: 6, column: 4 });

    let sql = "CREATE TRANSFORM IF NOT EXISTS c ON t FROM STATUS 'A' TO STATUS 'B' \
               USING COMMAND 'python3 x.py'";
    let Statement::CreateTransform(create) = parse(sql).unwrap().statement else {
        panic!("not a transform");
    };
    assert_eq!(create.existing, Existing::Keep);
    assert_eq!(
        create.body,
        TransformBody::Command("python3 x.py".to_owned())
    );
}

/// Parses what is wrong; the expectation is `line:column message`.
fn check_error(sql: &str, expected: &str) {
    let error = parse(sql).expect_err(sql);
    let at = match error.position() {
        Some(at) => format!("{}:{}", at.line, at.column),
        None => "-".to_owned(),
    };
    assert_eq!(format!("{at} {}", error.message()), expected, "{sql}");
}

#[test]
fn errors_say_what_was_expected_and_where() {
    check_error("", "- there is no statement");
    check_error(" -- nothing\n;", "- there is no statement");
    check_error(
        "SELECT 1; SELECT 2",
        "1:11 there is more than one statement",
    );
    check_error("SELECT 1 2", "1:10 expected end of statement, found \"2\"");
    check_error("SELEC 1", "1:1 expected an SQL statement, found SELEC");
    check_error("SELECT\n  1 +", "- expected an expression, found the end");
    check_error("SELECT 'a", "1:8 unterminated string literal");
    check_error("PREVIEW SELECT 1", "1:9 there is no effect to preview");
    check_error(
        "CREATE TRANSFORM x ON t FROM STATUS A",
        "1:37 expected a text in quotes, found \"A\"",
    );
    check_error(
        "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' USING MAGIC",
        "1:55 expected AS SELECT ..., USING COMMAND '...' or USING OUTSIDE WORKER, found \"USING\"",
    );
    check_error(
        "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' WITH (speed 9)",
        "1:61 option \"speed\" does not exist",
    );
    check_error(
        "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' WITH (timeout 'soon')",
        "1:69 option \"timeout\" is not a length of time such as '10 minutes'",
    );
    check_error(
        "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' WITH (priority 1, priority 2)",
        "1:73 option \"priority\" is double",
    );
    check_error(
        "CREATE OR REPLACE TRANSFORM IF NOT EXISTS x ON t",
        "- OR REPLACE and IF NOT EXISTS exclude each other",
    );
    let deep = format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200));
    check_error(&deep, "- the statement nests too deep");
}

#[test]
fn scripts_split_at_semicolons_outside_texts_and_comments() {
    let pieces = split("SELECT ';' ; -- a;b\n\n  CALL f();;SELECT 2 /* ; */").unwrap();
    let found: Vec<(&str, u64, u64)> = pieces
        .iter()
        .map(|piece| (piece.text.as_str(), piece.start.line, piece.start.column))
        .collect();
    assert_eq!(
        found,
        [
            ("SELECT ';'", 1, 1),
            ("CALL f()", 3, 3),
            ("SELECT 2", 3, 13)
        ]
    );
}

/// Planning 30,000 items kept both processors of a server busy for minutes.
#[test]
fn a_select_has_so_many_items_and_no_more() {
    for sql in [
        format!("SELECT {}", vec!["1"; 1665].join(", ")),
        format!(
            "SELECT 1 FROM (SELECT {} FROM t) AS x",
            vec!["1 IS DISTINCT FROM 2"; 1665].join(", ")
        ),
    ] {
        let error = parse(&sql).expect_err(&sql);
        assert_eq!(error.message(), "the SELECT has more than 1664 items");
    }
}

/// A chain as long as this overflowed the stack when its tree was copied, which ended the process.
#[test]
fn chains_are_bounded_however_they_are_built() {
    let chain = |link: &str| vec!["a"; 3000].join(link);
    let nested = |depth: usize| {
        (0..depth).fold("a".to_owned(), |inner, _| {
            format!("({inner}{})", "+a".repeat(20))
        })
    };
    for sql in [
        format!("SELECT 1 FROM t WHERE {}", chain(" OR ")),
        format!("SELECT {}", chain(" + ")),
        format!("SELECT {}", chain(" AND a = ")),
        format!("SELECT a{}", "::INT".repeat(3000)),
        format!("SELECT a{}", " IS NULL".repeat(3000)),
        format!("SELECT {}", vec!["1"; 3000].join(" UNION ALL SELECT ")),
        format!("SELECT {}", nested(40)),
    ] {
        let error = parse(&sql).expect_err(&sql);
        assert_eq!(
            error.message(),
            "more than 400 operators are chained",
            "{}",
            &sql[..60]
        );
        assert!(error.position().is_some());
    }
    let rows = vec!["(1 + 1, 'a')"; 3000].join(", ");
    for sql in [
        format!("INSERT INTO t VALUES {rows}"),
        format!(
            "SELECT 1 FROM t WHERE a IN ({})",
            vec!["-1"; 3000].join(", ")
        ),
        format!("SELECT {}", vec!["a + 1"; 1664].join(", ")),
        format!("SELECT f({})", vec!["a + 1"; 3000].join(", ")),
        format!("SELECT {}", nested(18)),
        format!(
            "SELECT 1 FROM t {}",
            "JOIN t ON a = b AND c = d ".repeat(300)
        ),
    ] {
        parse(&sql).unwrap_or_else(|error| panic!("{}: {error:?}", &sql[..60]));
    }
}
