//! What is refused, by which name, and where the error points to.

use std::sync::Arc;

use datafusion::execution::session_state::SessionStateBuilder;

use crate::functions::effect::Procedures;
use crate::session::gate::{Access, Gate};
use crate::session::parser::parse;

use super::*;

/// Checks that a statement is refused at the place that the bar marks, or taken where there is
/// none.
#[track_caller]
fn check(marked: &str) {
    let sql = marked.replace('^', "");
    let base = SessionStateBuilder::new_with_default_features().build();
    let callables = Arc::new(Callables::of(&base));
    let gate = Gate::new(Access::ReadWrite, Procedures::default(), callables);
    let parsed = parse(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let refused = gate.check(&parsed.statement, &sql).err();
    let place = refused.as_ref().map(|error| {
        let clear = error.code() == Code::Unsupported && error.hint().is_some();
        assert!(clear, "{sql}: {error:?}");
        let at = error.position().unwrap_or(Position { line: 1, column: 0 });
        usize::try_from(at.column).unwrap()
    });
    let expected = marked.find('^').map(|place| place + 1);
    assert_eq!(place, expected, "{sql}: {refused:?}");
}

#[test]
fn clauses_of_queries_that_nobody_reads_are_refused_where_they_stand() {
    for sql in [
        "SELECT * FROM t ^TABLESAMPLE (1 ROWS)",
        "SELECT * FROM (SELECT 1 AS a) AS s ^TABLESAMPLE (1 ROWS)",
        "SELECT id FROM t ^PREWHERE id = '1'",
        "SELECT count(*) FROM t ^START WITH id = '1' CONNECT BY PRIOR id = title",
        "SELECT count(*) FROM t ^CONNECT BY PRIOR id = title",
        "SELECT title, count(*) FROM t GROUP BY title ^WITH ROLLUP",
        "SELECT title, count(*) FROM t GROUP BY title ^WITH CUBE",
        "SELECT title, count(*) FROM t GROUP BY title ^WITH TOTALS",
        "SELECT id FROM t ^FOR UPDATE",
        "SELECT id FROM t ^FOR SHARE",
        "SELECT id FROM t ^FOR UPDATE SKIP LOCKED",
        "SELECT id FROM t ^WITH (NOLOCK)",
        "SELECT id FROM t ^SETTINGS x = 1",
        "SELECT id FROM t ^FORMAT JSON",
        "SELECT id FROM t ORDER BY id ^FETCH FIRST 1 ROWS ONLY",
        "SELECT ^TOP 1 id FROM t",
        "SELECT id ^INTO u FROM t",
        "SELECT id FROM t ^CLUSTER BY id",
        "SELECT id FROM t ^DISTRIBUTE BY id",
        "SELECT id FROM t ^SORT BY id",
        "^FROM t",
        "SELECT * ^ILIKE '%d' FROM t",
        "SELECT * ^RENAME (id AS x) FROM t",
        "SELECT id FROM t ORDER BY id ^WITH FILL",
        "WITH RECURSIVE c AS (SELECT 1 AS n UNION ALL SELECT n FROM c ^LIMIT 5) SELECT 1 FROM c",
        "SELECT id FROM t ^PARTITION (p0)",
        "SELECT * FROM generate_series(1, 3) ^WITH ORDINALITY",
        "SELECT * FROM UNNEST([1]) ^WITH OFFSET",
        "SELECT * FROM t ^ASOF JOIN u MATCH_CONDITION (t.a >= u.a) ON t.b = u.b",
        "SELECT * FROM t ^SEMI JOIN u ON t.a = u.a",
        "SELECT * FROM t ^ANTI JOIN u ON t.a = u.a",
        "SELECT id FROM t |> AGGREGATE count(*) GROUP BY ^id DESC",
    ] {
        check(sql);
    }
}

#[test]
fn clauses_of_calls_belong_to_functions_that_have_them() {
    for sql in [
        "SELECT upper(id) ^FILTER (WHERE false) FROM t",
        "SELECT upper(^DISTINCT id) FROM t",
        "SELECT abs(1) ^OVER ()",
        "SELECT row_number() ^FILTER (WHERE false) OVER () FROM t",
        "SELECT upper(id ^ORDER BY id) FROM t",
        "SELECT lower(id) ^WITHIN GROUP (ORDER BY id) FROM t",
        "SELECT sum(1) OVER (^w ORDER BY id) FROM t WINDOW w AS (PARTITION BY x)",
        "SELECT 'abc' ^SIMILAR TO 'a%'",
        "SELECT CAST('1' AS INT ^FORMAT '9')",
        "SELECT id ^COLLATE \"C\" FROM t",
    ] {
        check(sql);
    }
    for sql in [
        "SELECT count(DISTINCT id) FILTER (WHERE a > 1) FROM t",
        "SELECT array_agg(id ORDER BY id DESC) FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT lag(id) IGNORE NULLS OVER (PARTITION BY a ORDER BY b) FROM t",
        "SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY b ROWS 1 PRECEDING)",
    ] {
        check(sql);
    }
}

#[test]
fn clauses_of_changes_that_nobody_reads_are_refused_where_they_stand() {
    for sql in [
        "DELETE FROM z ^TABLESAMPLE (1 ROWS)",
        "DELETE FROM z ^PARTITION (p0)",
        "DELETE FROM z ^RETURNING id",
        "UPDATE z ^TABLESAMPLE (1 ROWS) SET title = 'x'",
        "UPDATE z SET title = 'x' ^RETURNING id",
        "UPDATE ^OR IGNORE z SET title = 'x'",
        "UPDATE z SET (^a, b) = (1, 2)",
        "INSERT ^OR IGNORE INTO s SELECT 1",
        "INSERT ^OR REPLACE INTO s SELECT 1",
        "INSERT ^IGNORE INTO s SELECT 1",
        "INSERT ^OVERWRITE s SELECT 1",
        "INSERT INTO s ^PARTITION (id) SELECT 1",
        "INSERT INTO s VALUES ('a') ^RETURNING id",
        "INSERT INTO s VALUES ('a') ^ON DUPLICATE KEY UPDATE a = 1",
        "INSERT INTO s SELECT id FROM t ^FOR UPDATE",
        "CREATE TABLE g (id TEXT, c TEXT ^GENERATED ALWAYS AS (upper(id)), PRIMARY KEY (id))",
        "CREATE TABLE g (id TEXT PRIMARY KEY, c TEXT ^COLLATE \"C\")",
        "CREATE TABLE g (id TEXT PRIMARY KEY, c TEXT ^CHECK (c <> ''))",
        "CREATE TABLE g (id TEXT PRIMARY KEY, c TEXT ^REFERENCES t (id))",
        "CREATE TABLE g (id TEXT PRIMARY KEY, c TEXT ^COMMENT 'x')",
        "CREATE VIEW v AS SELECT id FROM t ^FOR UPDATE",
        "DROP TABLE z ^CASCADE",
        "SHOW ^TERSE TABLES",
        "EXPLAIN DELETE FROM z ^TABLESAMPLE (1 ROWS)",
        "PREVIEW SELECT schedule_job('t', id) FROM s ^PREWHERE id = '1'",
        "COPY (SELECT id FROM t ^FOR UPDATE) TO 'x.csv'",
        "CREATE TRANSFORM f ON s FROM STATUS 'A' TO STATUS 'B' AS SELECT id FROM input \
         ^TABLESAMPLE (1 ROWS)",
    ] {
        check(sql);
    }
    for sql in [
        "DELETE FROM z AS n WHERE n.id = '1' ORDER BY id LIMIT 1",
        "DELETE FROM z USING y WHERE z.id = y.id",
        "UPDATE z AS n SET a = y.a FROM y WHERE y.id = n.id",
        "INSERT INTO s VALUES ('a') ON CONFLICT DO NOTHING",
        "INSERT INTO s VALUES ('a') ON CONFLICT (id) DO UPDATE SET a = s.a WHERE s.a > 1",
    ] {
        check(sql);
    }
}
