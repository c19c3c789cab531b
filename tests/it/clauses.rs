//! No clause is dropped: each that the parser takes is refused, or makes a difference.
//!
//! Statements are put together from a base and a clause, for every clause of the grammar that can
//! stand there. The rows are made so that each clause, where it is honoured, changes the answer.

use std::fmt::Write;

use arrow::util::pretty::pretty_format_batches;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::session::Session;
use sluicegate::time::{Clock, Timestamp};
use tempfile::TempDir;

/// 2026-01-05T12:00:00Z.
const NOON: Timestamp = Timestamp(1_767_614_400_000_000);

const SETUP: &[&str] = &[
    "CREATE TABLE t (id TEXT, g TEXT, n BIGINT, PRIMARY KEY (id))",
    "INSERT INTO t VALUES ('a', 'x', 3), ('b', 'x', 1), ('c', 'y', 2), ('d', NULL, NULL)",
    "CREATE TABLE u (id TEXT, v BIGINT, PRIMARY KEY (id))",
    "INSERT INTO u VALUES ('a', 1), ('c', 2), ('z', 9)",
];

/// What may follow `FROM t`.
const TABLE: &[&str] = &[
    "TABLESAMPLE (1 ROWS)",
    "TABLESAMPLE BERNOULLI (1)",
    "SAMPLE (1 ROWS)",
    "PARTITION (p0)",
    "FOR SYSTEM_TIME AS OF now()",
    "WITH (NOLOCK)",
    "USE INDEX (i)",
    "WITH ORDINALITY",
    "AS q (a)",
    "JOIN u",
    "LEFT JOIN u",
    "JOIN u ON t.id = u.id",
    "JOIN u USING (id)",
    "NATURAL JOIN u",
    "LEFT JOIN u ON t.id = u.id",
    "FULL JOIN u ON t.id = u.id",
    "LEFT SEMI JOIN u ON t.id = u.id",
    "LEFT ANTI JOIN u ON t.id = u.id",
    "SEMI JOIN u ON t.id = u.id",
    "ANTI JOIN u ON t.id = u.id",
    "GLOBAL JOIN u ON t.id = u.id",
    "ASOF JOIN u MATCH_CONDITION (t.n >= u.v) ON t.id = u.id",
    "STRAIGHT_JOIN u ON t.id = u.id",
    "CROSS JOIN u",
    "CROSS APPLY u",
    "OUTER APPLY u",
    "LATERAL VIEW explode(g) e AS f",
    "PIVOT (count(n) FOR g IN ('x'))",
    "UNPIVOT (m FOR k IN (n))",
    "PREWHERE id = 'a'",
    "WHERE id = 'a'",
    "START WITH id = 'a' CONNECT BY PRIOR id = g",
    "CONNECT BY PRIOR id = g",
    "QUALIFY row_number() OVER (ORDER BY id) = 1",
    "ORDER BY n DESC",
    "ORDER BY n NULLS FIRST",
    "ORDER BY n WITH FILL",
    "ORDER BY n INTERPOLATE",
    "ORDER BY ALL DESC",
    "CLUSTER BY id",
    "DISTRIBUTE BY id",
    "SORT BY n",
    "LIMIT 1",
    "LIMIT 1 BY g",
    "LIMIT 1, 1",
    "OFFSET 1",
    "OFFSET 1 ROWS",
    "FETCH FIRST 1 ROWS ONLY",
    "FETCH FIRST 1 PERCENT ROWS WITH TIES",
    "FOR UPDATE",
    "FOR SHARE NOWAIT",
    "FOR JSON AUTO",
    "FOR XML PATH",
    "SETTINGS x = 1",
    "FORMAT JSON",
    "UNION SELECT id, g, n FROM t LIMIT 1",
    "UNION ALL SELECT 'q', 'q', 1",
    "UNION BY NAME SELECT 'q' AS id, 'q' AS g, 1 AS n",
    "EXCEPT SELECT 'a', 'x', 3",
    "INTERSECT SELECT 'a', 'x', 3",
    "MINUS SELECT 'a', 'x', 3",
    "|> WHERE id = 'a'",
    "|> LIMIT 1",
    "|> ORDER BY n DESC",
    "|> AGGREGATE count(*) GROUP BY g",
    "|> AGGREGATE count(*) AS c GROUP BY g DESC",
    "|> TABLESAMPLE BERNOULLI (1 PERCENT)",
    "|> DROP id",
    "|> RENAME id AS x",
    "|> SET n = 7",
    "|> EXTEND n + 1 AS m",
];

/// What may stand between SELECT and FROM.
const LIST: &[&str] = &[
    "DISTINCT g",
    "DISTINCT ON (g) id",
    "TOP 1 id",
    "TOP (10) PERCENT id",
    "HIGH_PRIORITY id",
    "SQL_NO_CACHE id",
    "AS STRUCT id",
    "AS VALUE id",
    "* EXCEPT (id)",
    "* EXCLUDE (id)",
    "* REPLACE ('k' AS id)",
    "* RENAME (id AS k)",
    "* ILIKE 'i%'",
    "id INTO k",
    "upper(id) FILTER (WHERE false)",
    "upper(DISTINCT id)",
    "upper(id ORDER BY id)",
    "upper(id) OVER ()",
    "upper(id) WITHIN GROUP (ORDER BY id)",
    "upper(id) IGNORE NULLS",
    "id COLLATE \"C\"",
    "CAST(id AS TEXT FORMAT 'x')",
    "id SIMILAR TO 'a%'",
    "count(t.*)",
    "count(* EXCLUDE (id))",
    "sum(n) FILTER (WHERE id = 'a')",
    "sum(DISTINCT n % 2)",
    "array_agg(id ORDER BY n DESC LIMIT 1)",
    "string_agg(id, ',' ON OVERFLOW TRUNCATE)",
    "group_concat(id SEPARATOR ';')",
    "row_number() FILTER (WHERE false) OVER (ORDER BY id)",
    "sum(n) OVER (w ORDER BY id)",
    "sum(n) OVER (ORDER BY id ROWS 1 PRECEDING)",
    "sum(n) OVER (ORDER BY id ROWS 1 PRECEDING EXCLUDE CURRENT ROW)",
    "first_value(g) IGNORE NULLS OVER (ORDER BY id DESC)",
    "PRIOR id",
    "MATCH (id) AGAINST ('a')",
    "INTERVAL '1' DAY (2)",
    "TRIM(LEADING 'a' FROM id)",
    "_utf8'a'",
];

/// What may follow `GROUP BY g`.
const GROUP: &[&str] = &[
    "WITH ROLLUP",
    "WITH CUBE",
    "WITH TOTALS",
    "HAVING count(*) > 1",
    "GROUPING SETS ((g), ())",
    ", ROLLUP (n)",
];

/// Statements that change rows, each with a clause that asks for less, or more, than without.
const CHANGES: &[&str] = &[
    "DELETE FROM t TABLESAMPLE (1 ROWS)",
    "DELETE FROM t PARTITION (p0)",
    "DELETE FROM t WITH (NOLOCK)",
    "DELETE FROM t WHERE id = 'a'",
    "DELETE FROM t USING u WHERE u.id = t.id",
    "DELETE FROM t ORDER BY id LIMIT 1",
    "DELETE FROM t LIMIT 1",
    "DELETE FROM t RETURNING id",
    "DELETE t FROM t JOIN u ON t.id = u.id",
    "DELETE FROM t AS k WHERE k.id = 'a'",
];

async fn prepared(store: &TempDir) -> Session {
    let options = EngineOptions::new(store.path().display().to_string());
    let engine = Engine::open_with(options, Clock::mock(NOON), Limits::default())
        .await
        .expect("a new store opens");
    let session = engine.session("ann");
    for sql in SETUP {
        session.execute(sql).await.expect(sql);
    }
    session
}

/// The answer as text; the refusal where there is one.
async fn answer(session: &Session, sql: &str) -> Result<String, String> {
    let reply = session.execute(sql).await.map_err(|e| format!("{e:?}"))?;
    let rows = reply.collect().await.map_err(|e| format!("{e:?}"))?;
    Ok(pretty_format_batches(&rows)
        .expect("rows print")
        .to_string())
}

/// Says which statements give the same as their base.
async fn dropped(session: &Session, base: &str, statements: &[String]) -> String {
    let without = answer(session, base).await.expect(base);
    let mut same = String::new();
    for sql in statements {
        if answer(session, sql).await.as_ref() == Ok(&without) {
            let _ = writeln!(same, "{sql}");
        }
    }
    same
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clause_of_a_query_is_refused_or_makes_a_difference() {
    let store = TempDir::new().expect("a folder");
    let session = prepared(&store).await;
    let mut same = String::new();
    let base = "SELECT id, g, n FROM t";
    let all = TABLE.iter().map(|clause| format!("{base} {clause}"));
    same += &dropped(&session, base, &all.collect::<Vec<_>>()).await;
    for base in [
        "SELECT id FROM t",
        "SELECT upper(id) FROM t",
        "SELECT * FROM t",
    ] {
        let all = LIST.iter().map(|list| format!("SELECT {list} FROM t"));
        same += &dropped(&session, base, &all.collect::<Vec<_>>()).await;
    }
    let base = "SELECT g, count(*) AS c FROM t GROUP BY g ORDER BY g";
    let all = GROUP
        .iter()
        .map(|clause| format!("SELECT g, count(*) AS c FROM t GROUP BY g {clause} ORDER BY g"));
    same += &dropped(&session, base, &all.collect::<Vec<_>>()).await;
    assert_eq!(same, "", "taken without a word");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clause_of_a_delete_is_refused_or_makes_a_difference() {
    let store = TempDir::new().expect("a folder");
    let session = prepared(&store).await;
    for sql in CHANGES {
        let before = answer(&session, "SELECT count(*) FROM t")
            .await
            .expect("a count");
        let deleted = session.execute(sql).await;
        let after = answer(&session, "SELECT count(*) FROM t")
            .await
            .expect("a count");
        match deleted {
            Ok(reply) => assert!(reply.rows_affected < Some(4), "{sql} deleted all"),
            Err(error) => {
                assert_eq!(before, after, "{sql}: {error:?}");
            }
        }
        let again = "INSERT INTO t VALUES ('a', 'x', 3), ('b', 'x', 1), ('c', 'y', 2), ('d', NULL, \
                     NULL) ON CONFLICT DO NOTHING";
        session
            .execute(again)
            .await
            .expect("the rows are there again");
    }
}
