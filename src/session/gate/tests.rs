//! Where effects may stand, and what else the gate refuses.

use datafusion::execution::session_state::SessionStateBuilder;

use super::*;
use crate::session::parser::parse;

fn gate(access: Access) -> Gate {
    let base = SessionStateBuilder::new_with_default_features().build();
    Gate::new(
        access,
        Procedures::default(),
        Arc::new(Callables::of(&base)),
    )
}

/// The place that the refusal names, or `fine`.
fn check(sql: &str, expected: &str) {
    let parsed = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let found = match gate(Access::ReadWrite).check(&parsed.statement, sql) {
        Ok(()) => "fine".to_owned(),
        Err(error) => {
            assert_eq!(error.code(), Code::EffectMisplaced, "{sql}: {error:?}");
            assert!(error.hint().is_some(), "{sql}");
            let at = error
                .position()
                .unwrap_or_else(|| panic!("no position: {sql}"));
            let rest = &sql[usize::try_from(at.column).unwrap() - 1..];
            assert!(
                ["f(", "job", "schedule_job", "claim_jobs("]
                    .iter()
                    .any(|s| rest.starts_with(s)),
                "{sql} at {rest}"
            );
            let (_, place) = error.message().split_once(" cannot stand in ").unwrap();
            place.to_owned()
        }
    };
    assert_eq!(found, expected, "{sql}");
}

/// Puts an effect call where the word `F` stands.
fn with_effect(sql: &str) -> String {
    let mut text = format!(" {sql} ");
    for (before, after) in [
        (' ', ' '),
        (' ', ','),
        ('(', ')'),
        (' ', ')'),
        ('(', ','),
        (' ', '['),
        (' ', ':'),
    ] {
        let call = format!("{before}schedule_job('x', id){after}");
        text = text.replace(&format!("{before}F{after}"), &call);
    }
    text = text.replace("(F ", "(schedule_job('x', id) ");
    text.trim().to_owned()
}

#[test]
fn effects_stand_only_as_bare_items_of_the_outermost_select() {
    for (sql, expected) in [
        ("SELECT F FROM t", "fine"),
        (
            "SELECT *, F AS job FROM t WHERE id > 1 ORDER BY id LIMIT 1",
            "fine",
        ),
        ("SELECT ALL F FROM t", "fine"),
        ("WITH c AS (SELECT 1 AS id) SELECT F FROM c", "fine"),
        ("SELECT F FROM t GROUP BY id HAVING count(*) > 1", "fine"),
        ("SELECT id FROM t WHERE F > 1", "WHERE, in an expression"),
        (
            "SELECT id FROM t WHERE id IN (1, F)",
            "WHERE, in an IN list",
        ),
        (
            "SELECT id FROM t WHERE id IN (SELECT F FROM t)",
            "WHERE, in a subquery",
        ),
        (
            "SELECT a.id FROM t a JOIN t b ON F = b.id",
            "JOIN ... ON, in an expression",
        ),
        ("SELECT id FROM t GROUP BY id, F", "GROUP BY"),
        (
            "SELECT id FROM t GROUP BY id HAVING F > 1",
            "HAVING, in an expression",
        ),
        ("SELECT id FROM t ORDER BY F", "ORDER BY"),
        ("SELECT id, F AS job FROM t ORDER BY job", "ORDER BY"),
        ("SELECT id, F AS job FROM t ORDER BY job + 1", "ORDER BY"),
        ("SELECT id, F FROM t ORDER BY schedule_job", "ORDER BY"),
        ("SELECT id, F FROM t ORDER BY 2", "ORDER BY"),
        ("SELECT id, F FROM t ORDER BY 1", "fine"),
        ("SELECT id, F AS id2 FROM t ORDER BY t.id2", "fine"),
        ("SELECT id, F AS job FROM t GROUP BY id, job", "GROUP BY"),
        ("SELECT id, F AS job FROM t GROUP BY 1, 2", "GROUP BY"),
        ("SELECT id, F AS job FROM t GROUP BY ALL", "GROUP BY ALL"),
        (
            "SELECT id, F AS job FROM t GROUP BY id HAVING job IS NULL",
            "HAVING",
        ),
        ("SELECT DISTINCT F FROM t", "SELECT DISTINCT"),
        ("SELECT DISTINCT ON (id) id, F FROM t", "SELECT DISTINCT"),
        (
            "SELECT CASE WHEN id > 1 THEN F END FROM t",
            "a CASE expression",
        ),
        ("SELECT coalesce(F, 0) FROM t", "the arguments of COALESCE"),
        ("SELECT F + 1 FROM t", "an expression"),
        ("SELECT (F) FROM t", "parentheses"),
        ("SELECT F::TEXT FROM t", "a cast"),
        ("SELECT CAST(F AS TEXT) FROM t", "a cast"),
        ("SELECT (F).outcome FROM t", "parentheses"),
        ("SELECT F['outcome'] FROM t", "a field access"),
        ("SELECT F OVER () FROM t", "a window (OVER)"),
        ("SELECT sum(F) OVER () FROM t", "the arguments of SUM"),
        ("SELECT F FILTER (WHERE true) FROM t", "FILTER"),
        ("SELECT (SELECT F) FROM t", "a subquery"),
        (
            "SELECT id FROM (SELECT id, F FROM t) s",
            "FROM, in a subquery",
        ),
        (
            "SELECT id FROM t JOIN (SELECT F AS id) s USING (id)",
            "JOIN ... ON, in a subquery",
        ),
        (
            "SELECT id FROM t, LATERAL (SELECT F) s",
            "FROM, in a subquery",
        ),
        ("SELECT * FROM F", "FROM"),
        ("SELECT * FROM claim_jobs('w')", "a query"),
        ("SELECT claim_jobs('w')", "a query"),
        (
            "WITH c AS (SELECT F FROM t) SELECT * FROM c",
            "a CTE (WITH)",
        ),
        ("SELECT F FROM t UNION ALL SELECT 1", "UNION"),
        ("SELECT id FROM t EXCEPT SELECT F FROM t", "EXCEPT"),
        ("(SELECT F FROM t)", "a query in parentheses"),
        ("VALUES (schedule_job('x', 1))", "VALUES"),
        ("SELECT F INTO u FROM t", "SELECT INTO"),
        ("SELECT id FROM t LIMIT schedule_job('x', 1)", "this clause"),
        (
            "SELECT set_status('t', F, 'A') FROM t",
            "the arguments of an effect function",
        ),
        (
            "CALL set_status('t', schedule_job('x', 1), 'A')",
            "the arguments of an effect function",
        ),
        (
            "CALL claim_jobs(schedule_job('x', 1))",
            "the arguments of CALL",
        ),
        ("CREATE VIEW v AS SELECT F FROM t", "a view"),
        ("CREATE TABLE u AS SELECT F FROM t", "CREATE TABLE AS"),
        ("INSERT INTO u SELECT F FROM t", "INSERT"),
        ("UPDATE t SET id = F", "UPDATE"),
        ("DELETE FROM t WHERE F > 1", "DELETE, in an expression"),
        ("COPY (SELECT F FROM t) TO 'x.csv'", "COPY"),
        ("PREPARE p AS SELECT F FROM t", "PREPARE"),
        ("EXECUTE p(schedule_job('x', 1))", "EXECUTE"),
        ("EXPLAIN SELECT F FROM t", "fine"),
        ("EXPLAIN ANALYZE SELECT F FROM t", "EXPLAIN ANALYZE"),
        (
            "EXPLAIN ANALYZE CALL schedule_job('x', 1)",
            "EXPLAIN ANALYZE",
        ),
        (
            "EXPLAIN SELECT id FROM t WHERE F > 1",
            "WHERE, in an expression",
        ),
        ("PREVIEW SELECT F FROM t", "fine"),
        ("PREVIEW SELECT DISTINCT F FROM t", "SELECT DISTINCT"),
        (
            "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' AS SELECT F FROM input",
            "a transform",
        ),
        (
            "SELECT \"schedule_job\"('x', id) FROM t WHERE id > 1",
            "fine",
        ),
        ("SELECT SCHEDULE_JOB('x', id) FROM t", "fine"),
    ] {
        check(&with_effect(sql), expected);
    }
}

#[test]
fn the_rewritten_query_holds_carriers_with_all_arguments() {
    let parsed = parse("SELECT id, acquire_lock('a', reason => name) AS L FROM t").unwrap();
    let Statement::Effect(query) = parsed.statement else {
        panic!("no effect")
    };
    let (query, items) = gate(Access::ReadWrite).rewrite_effects(*query).unwrap();
    assert_eq!(
        query.to_string(),
        "SELECT id, \"__arguments_of_acquire_lock\"('a', NULL, NULL, name) AS \
         \"__effect_0\" FROM t"
    );
    assert_eq!(items.len(), 1);
    assert_eq!(
        (items[0].name.as_str(), items[0].naming),
        ("l", Naming::Alias)
    );
    assert_eq!(
        items[0].position,
        Some(Position {
            line: 1,
            column: 12
        })
    );
}

/// The code with which a statement is refused, or `None`.
fn code(access: Access, sql: &str) -> Option<Code> {
    let parsed = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    gate(access)
        .check(&parsed.statement, sql)
        .err()
        .map(|error| {
            assert!(error.hint().is_some(), "{sql}");
            error.code()
        })
}

#[test]
fn a_read_only_session_reads_previews_and_explains() {
    let denied = Some(Code::ReadOnly);
    for (sql, expected) in [
        ("SELECT 1", None),
        ("PREVIEW SELECT cancel_job(1)", None),
        ("EXPLAIN SELECT cancel_job(1)", None),
        ("SHOW TABLES", None),
        ("DESCRIBE t", None),
        ("SELECT cancel_job(1)", denied),
        ("CALL cancel_job(1)", denied),
        ("INSERT INTO t VALUES (1)", denied),
        ("REPLACE INTO t VALUES (1)", denied),
        ("UPDATE t SET a = 1", denied),
        ("DELETE FROM t", denied),
        ("TRUNCATE TABLE t", denied),
        ("CREATE TABLE t (a INT)", denied),
        (
            "CREATE TRANSFORM x ON t FROM STATUS 'A' TO STATUS 'B' USING OUTSIDE WORKER",
            denied,
        ),
        ("DROP TABLE t", denied),
        ("COPY t TO 'x.csv'", denied),
        ("CHECKPOINT", denied),
        ("EXPLAIN ANALYZE DELETE FROM t", Some(Code::Unsupported)),
    ] {
        assert_eq!(code(Access::ReadOnly, sql), expected, "{sql}");
        if expected == denied {
            assert_eq!(code(Access::ReadWrite, sql), None, "{sql}");
        }
    }
}

#[test]
fn settings_transactions_and_foreign_statements_are_refused() {
    let denied = Some(Code::SettingDenied);
    let unsupported = Some(Code::Unsupported);
    for (sql, expected) in [
        ("SET datafusion.execution.batch_size = 100", None),
        ("SET datafusion.runtime.memory_limit = '10G'", denied),
        ("SET DataFusion.Runtime.memory_limit = '10G'", denied),
        ("SET \"datafusion.runtime.memory_limit\" = '10G'", denied),
        ("RESET datafusion.runtime.memory_limit", denied),
        ("BEGIN", unsupported),
        ("START TRANSACTION", unsupported),
        ("COMMIT", unsupported),
        ("ROLLBACK", unsupported),
        ("ALTER TABLE t ADD COLUMN a INT", unsupported),
        ("CREATE INDEX i ON t (a)", unsupported),
        ("PREVIEW CALL claim_jobs('w')", unsupported),
        ("CALL nothing()", Some(Code::UnknownObject)),
        ("CALL cancel_job()", Some(Code::EffectArgument)),
    ] {
        assert_eq!(code(Access::ReadWrite, sql), expected, "{sql}");
    }
}

#[test]
fn the_longest_chain_that_parses_passes_the_gate() {
    let terms: Vec<String> = (0..390).map(|id| format!("id = {id}")).collect();
    let sql = format!("SELECT cancel_job(id) FROM t WHERE {}", terms.join(" OR "));
    assert_eq!(code(Access::ReadWrite, &sql), None);
    let sql = format!("{sql} OR cancel_job(1)");
    assert_eq!(code(Access::ReadWrite, &sql), Some(Code::EffectMisplaced));
}
