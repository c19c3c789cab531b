//! Every way in which an effect could run too often, too early or not at all.

use std::sync::Mutex;

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::sync::Notify;

use super::action::{BoundCall, EffectForecast, EffectSink, EffectTarget, forecast_fields};
use super::constant::constant_calls;
use super::planning::{
    Prepared, explain_effects, install, plan_effects, prepare_effects, procedure_arguments,
    run_constant,
};
use super::*;
use crate::functions::effect::{EffectFunction, Procedures};
use crate::session::gate::{Access, Call, Callables, Gate};
use crate::session::parser::parse;
use crate::session::statement::Statement;

mod clients;
mod nets;
mod output;

/// Writes down what is applied, in the order in which it takes effect.
#[derive(Debug, Default)]
struct Recorder {
    log: Mutex<Vec<String>>,
    commits: Mutex<usize>,
    /// Where set, `apply` tells that it has begun and waits to be let on.
    pause: Option<Arc<(Notify, Notify)>>,
}

fn show(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array.as_ref(), &options)
        .unwrap()
        .value(row)
        .to_string()
}

impl Recorder {
    fn log(&self) -> String {
        self.log.lock().unwrap().join("; ")
    }
}

#[async_trait]
impl EffectSink for Recorder {
    async fn apply(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<ArrayRef>> {
        assert!(rows > 0);
        if let Some(pause) = &self.pause {
            pause.0.notify_one();
            pause.1.notified().await;
        }
        *self.commits.lock().unwrap() += 1;
        let mut log = self.log.lock().unwrap();
        let mut results: Vec<Vec<i64>> = vec![Vec::new(); calls.len()];
        for row in 0..rows {
            for (call, results) in calls.iter().zip(&mut results) {
                assert_eq!(call.args.len(), rows);
                let mut args: Vec<String> = call
                    .args
                    .columns()
                    .iter()
                    .map(|column| show(column, row))
                    .collect();
                while args.last().is_some_and(|last| last == "NULL")
                    && args.len() > 1
                    && call.null_argument(row).is_none()
                {
                    args.pop();
                }
                log.push(format!("{}({})", call.function.name(), args.join(",")));
                results.push(i64::try_from(log.len()).unwrap());
            }
        }
        let arrays = calls
            .iter()
            .zip(results)
            .map(|(call, results)| -> ArrayRef {
                match call.function.return_type() {
                    DataType::Int64 => Arc::new(Int64Array::from(results)),
                    DataType::Boolean => Arc::new(BooleanArray::from(vec![true; rows])),
                    _ => Arc::new(StringArray::from(vec!["alive"; rows])),
                }
            });
        Ok(arrays.collect())
    }
}

#[async_trait]
impl EffectForecast for Recorder {
    async fn forecast(&self, rows: usize, calls: Vec<BoundCall>) -> Result<Vec<StructArray>> {
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None; rows]));
        let text =
            |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value; rows])) };
        let one = || {
            let columns = vec![
                text(Some("scheduled")),
                text(None),
                Arc::clone(&nulls),
                text(None),
            ];
            StructArray::try_new(forecast_fields(), columns, None).unwrap()
        };
        Ok(calls.iter().map(|_| one()).collect())
    }
}

/// Eight sources in four batches of four partitions, keys not in order.
fn sources() -> Arc<MemTable> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("form", DataType::Utf8, true),
    ]));
    let part = |ids: [i64; 2], form: &str| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(StringArray::from(vec![form; 2])),
        ];
        vec![RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()]
    };
    let parts = vec![
        part([7, 2], "a"),
        part([1, 8], "b"),
        part([5, 4], "a"),
        part([6, 3], "b"),
    ];
    Arc::new(MemTable::try_new(schema, parts).unwrap())
}

struct Bench {
    state: SessionState,
    gate: Gate,
    recorder: Arc<Recorder>,
    rows_max: usize,
}

impl Bench {
    async fn new(recorder: Recorder, config: SessionConfig, memory: usize) -> Self {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(memory, 1.0)
            .build_arc()
            .unwrap();
        let procedures = Procedures::default();
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features();
        let context = SessionContext::new_with_state(install(builder, &procedures, vec![]).build());
        context.register_table("t", sources()).unwrap();
        context.register_table("sources", sources()).unwrap();
        context
            .sql("CREATE VIEW v AS SELECT id FROM t WHERE id > 6")
            .await
            .unwrap();
        let gate = Gate::new(
            Access::ReadWrite,
            procedures,
            Arc::new(Callables::of(&context.state())),
        );
        let recorder = Arc::new(recorder);
        Self {
            state: context.state(),
            gate,
            recorder,
            rows_max: 1000,
        }
    }

    async fn small() -> Self {
        let config = SessionConfig::new().with_target_partitions(4);
        Self::new(Recorder::default(), config, 1 << 30).await
    }

    fn commit(&self) -> EffectTarget {
        EffectTarget::Commit(Arc::clone(&self.recorder) as _)
    }

    async fn plan(&self, query: &datafusion::sql::sqlparser::ast::Query) -> Result<LogicalPlan> {
        let (query, items) = self.gate.rewrite_effects(query.clone())?;
        plan_effects(&self.state, query, &items, self.commit(), self.rows_max).await
    }

    async fn collect(&self, plan: &LogicalPlan) -> Result<Vec<RecordBatch>> {
        let physical = self.state.create_physical_plan(plan).await?;
        Ok(collect(physical, self.state.task_ctx()).await?)
    }

    /// What a session does with a statement, without the ledger.
    async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let parsed = parse(sql)?;
        self.gate.check(&parsed.statement, sql)?;
        self.run_statement(&parsed.statement).await
    }

    async fn run_statement(&self, statement: &Statement) -> Result<Vec<RecordBatch>> {
        match statement {
            Statement::Effect(query) => self.collect(&self.plan(query).await?).await,
            Statement::Call(function) => match self.gate.call(function)? {
                Call::Effect(query) => {
                    let target = self.commit();
                    match prepare_effects(&self.gate, &self.state, &query, target, 1000).await? {
                        Prepared::Constant { action, calls } => {
                            Ok(vec![run_constant(action, calls).await?])
                        }
                        Prepared::Plan(plan) => self.collect(&plan).await,
                    }
                }
                Call::Procedure {
                    signature,
                    args,
                    position,
                } => {
                    let args = procedure_arguments(&self.state, signature, &args, position).await?;
                    let shown: Vec<String> = args.columns().iter().map(|c| show(c, 0)).collect();
                    let line = format!("{}({})", signature.name, shown.join(","));
                    self.recorder.log.lock().unwrap().push(line);
                    Ok(vec![])
                }
            },
            Statement::Preview(inner) => match inner.as_ref() {
                Statement::Effect(query) => {
                    let (query, items) = self.gate.rewrite_effects(query.as_ref().clone())?;
                    let target = EffectTarget::Preview(Arc::clone(&self.recorder) as _);
                    let plan = plan_effects(&self.state, query, &items, target, 1000).await?;
                    self.collect(&plan).await
                }
                other => panic!("preview of {other:?}"),
            },
            Statement::Explain {
                options, statement, ..
            } => match statement.as_ref() {
                Statement::Effect(query) => {
                    let plan = self.plan(query).await?;
                    self.collect(&explain_effects(&self.state, plan, options)?)
                        .await
                }
                other => panic!("explain of {other:?}"),
            },
            other => panic!("{other:?} is not run here"),
        }
    }
}

fn rows(batches: &[RecordBatch]) -> String {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = batch.columns().iter().map(|c| show(c, row)).collect();
            lines.push(cells.join(" "));
        }
    }
    lines.join("; ")
}

/// Runs a statement and compares its effects, in order, with `effects` (`s1` stands for
/// `schedule_job(x,1)`), and its rows. All effects must be in one commit.
async fn check(sql: &str, effects: &str, result: &str) {
    let bench = Bench::small().await;
    let batches = bench
        .run(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let log = bench
        .recorder
        .log()
        .replace("schedule_job(x,", "s")
        .replace(')', "");
    assert_eq!(log, effects, "effects of {sql}");
    assert_eq!(rows(&batches), result, "rows of {sql}");
    assert!(*bench.recorder.commits.lock().unwrap() <= 1, "{sql}");
}

/// Runs a statement that must be refused before it did anything.
async fn refuse(sql: &str, code: Code, message: &str) {
    let bench = Bench::small().await;
    let error = bench
        .run(sql)
        .await
        .map(|batches| rows(&batches))
        .expect_err(sql);
    assert_eq!(
        (error.code(), error.message()),
        (code, message),
        "{sql}: {error:?}"
    );
    assert_eq!(bench.recorder.log(), "", "{sql}");
}

#[tokio::test]
async fn effects_run_once_per_final_row_in_order() {
    // Order, limit, offset.
    check(
        "SELECT schedule_job('x', id) FROM t ORDER BY id LIMIT 3",
        "s1; s2; s3",
        "1; 2; 3",
    )
    .await;
    check(
        "SELECT id, schedule_job('x', id) AS job FROM t ORDER BY id DESC LIMIT 2 OFFSET 1",
        "s7; s6",
        "7 1; 6 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM t ORDER BY form, -id LIMIT 2",
        "s7; s5",
        "1; 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM t ORDER BY form DESC, abs(id - 4), id",
        "s3; s6; s1; s8; s4; s5; s2; s7",
        "1; 2; 3; 4; 5; 6; 7; 8",
    )
    .await;
    // The scalar subquery becomes a node of its own, which must not cost the order.
    check(
        "SELECT schedule_job('x', id, priority => (SELECT max(id) FROM t)) FROM t \
         WHERE id > (SELECT min(id) + 4 FROM t) ORDER BY form, id DESC",
        "s7,8; s8,8; s6,8",
        "1; 2; 3",
    )
    .await;
    check("SELECT schedule_job('x', id) FROM t LIMIT 0", "", "").await;
    check("SELECT schedule_job('x', id) FROM t WHERE id > 100", "", "").await;
    check(
        "SELECT schedule_job('x', id) FROM t ORDER BY id",
        "s1; s2; s3; s4; s5; s6; s7; s8",
        "1; 2; 3; 4; 5; 6; 7; 8",
    )
    .await;
    // A null argument reaches the sink as such.
    check(
        "SELECT schedule_job('x', NULLIF(id, 1)) FROM t WHERE id < 3 ORDER BY id",
        "sNULL,NULL,NULL,NULL,NULL; s2",
        "1; 2",
    )
    .await;
    // All calls of a row before the next row; the same call twice is two effects.
    check(
        "SELECT schedule_job('x', id), schedule_job('x', id), id FROM t ORDER BY id LIMIT 2",
        "s1; s1; s2; s2",
        "1 2 1; 3 4 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) AS a, cancel_job(id) AS b FROM t ORDER BY id LIMIT 2",
        "s1; cancel_job(1; s2; cancel_job(2",
        "1 true; 3 true",
    )
    .await;
    check(
        "SELECT *, schedule_job('x', id) FROM t ORDER BY id LIMIT 2",
        "s1; s2",
        "1 b 1; 2 a 2",
    )
    .await;
}

#[tokio::test]
async fn the_query_below_may_be_anything_pure() {
    // A CTE that is read twice.
    check(
        "WITH c AS (SELECT id FROM t WHERE id < 3) \
         SELECT schedule_job('x', a.id) FROM c a JOIN c b ON a.id = b.id ORDER BY a.id",
        "s1; s2",
        "1; 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM v ORDER BY id",
        "s7; s8",
        "1; 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM \
         (SELECT id FROM t WHERE id = 1 UNION ALL SELECT id FROM t WHERE id = 1) u",
        "s1; s1",
        "1; 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', (SELECT max(id) FROM t)) FROM t WHERE id = 1",
        "s8",
        "1",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM t WHERE id = (SELECT min(u.id) FROM t u WHERE \
         u.form = t.form) ORDER BY id",
        "s1; s2",
        "1; 2",
    )
    .await;
    // A join gives each final row its own effect.
    check(
        "SELECT schedule_job('x', a.id) FROM t a JOIN t b ON a.form = b.form WHERE a.id = 1",
        "s1; s1; s1; s1",
        "1; 2; 3; 4",
    )
    .await;
    check(
        "SELECT form, schedule_job('x', max(id)), count(*) FROM t GROUP BY form ORDER BY form",
        "s7; s8",
        "a 1 4; b 2 4",
    )
    .await;
    check(
        "SELECT schedule_job('x', max(id)) FROM t GROUP BY form HAVING max(id) > 7",
        "s8",
        "1",
    )
    .await;
    check(
        "SELECT schedule_job('x', id) FROM (SELECT DISTINCT form, 5 AS id FROM t) d",
        "s5; s5",
        "1; 2",
    )
    .await;
    check(
        "SELECT schedule_job('x', CASE WHEN id = 1 THEN coalesce(NULL, 5) ELSE id END) FROM t \
         WHERE id IN (1, 2) ORDER BY id",
        "s5; s2",
        "1; 2",
    )
    .await;
    check("SELECT schedule_job('x', 1)", "s1", "1").await;
    check("SELECT schedule_job('x', unnest([4, 6]))", "s4; s6", "1; 2").await;
    check(
        "SELECT schedule_job('x', row_number() OVER (ORDER BY id)) FROM v ORDER BY id DESC",
        "s2; s1",
        "1; 2",
    )
    .await;
    check(
        "SELECT a.id, b.id, schedule_job('x', a.id) FROM t a JOIN t b ON a.id = b.id \
           WHERE a.id = 1",
        "s1",
        "1 1 1",
    )
    .await;
}

#[tokio::test]
async fn arguments_may_be_named_positional_or_left_out() {
    check(
        "SELECT schedule_job('x', id, batch => form, priority => '5') FROM t WHERE id = 1",
        "s1,5,NULL,NULL,b",
        "1",
    )
    .await;
    check(
        "SELECT schedule_job(source_id => 'k', transform => 'x')",
        "sk",
        "1",
    )
    .await;
    check(
        "CALL acquire_lock('a/b', ttl => INTERVAL '90' SECOND)",
        "acquire_lock(a/b,PT90S",
        "1",
    )
    .await;
    check(
        "CALL acquire_lock('a', '1 minute', reason => 'me')",
        "acquire_lock(a,PT60S,NULL,me",
        "1",
    )
    .await;
    check(
        "CALL release_lock('a', force => true)",
        "release_lock(a,NULL,true",
        "true",
    )
    .await;
    check("CALL heartbeat(1 + 1, 3)", "heartbeat(2,3", "alive").await;
    check(
        "CALL claim_jobs('w', 'a, b', max => 3)",
        "claim_jobs(w,[a, b],3,NULL",
        "",
    )
    .await;
    check(
        "CALL claim_jobs(concat('w', '1'), ['a'])",
        "claim_jobs(w1,[a],NULL,NULL",
        "",
    )
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_named_before_anything_runs() {
    let code = Code::EffectArgument;
    for (sql, message) in [
        (
            "SELECT schedule_job('x')",
            "argument \"source_id\" of schedule_job is missing",
        ),
        (
            "SELECT cancel_job(1, 2)",
            "cancel_job takes at most 1 arguments",
        ),
        (
            "SELECT cancel_job(1, job_id => 2)",
            "argument \"job_id\" of cancel_job is given twice",
        ),
        (
            "SELECT cancel_job(id => 2)",
            "cancel_job has no argument \"id\"",
        ),
        (
            "SELECT cancel_job(job_id => 2, 3)",
            "cancel_job has a positional argument after a named one",
        ),
        ("SELECT cancel_job(*)", "cancel_job takes no wildcard"),
        (
            "SELECT cancel_job('soon')",
            "argument \"job_id\" of cancel_job is 'soon', but must be a whole number",
        ),
        (
            "SELECT cancel_job(form) FROM t",
            "argument \"job_id\" of cancel_job is 'a', but must be a whole number",
        ),
        (
            "SELECT schedule_job('x', id, run_at => id) FROM t",
            "argument \"run_at\" of schedule_job is Int64, but must be TIMESTAMP",
        ),
        (
            "CALL acquire_lock('x', mode => 'both')",
            "argument \"mode\" of acquire_lock is 'both', but must be one of 'exclusive', 'shared'",
        ),
        (
            "CALL claim_jobs()",
            "argument \"worker\" of claim_jobs is missing",
        ),
    ] {
        let bench = Bench::small().await;
        let error = bench
            .run(sql)
            .await
            .map(|batches| rows(&batches))
            .expect_err(sql);
        assert_eq!(error.code(), code, "{sql}: {error:?}");
        // Which partition is read first decides which value is named.
        assert_eq!(error.message().replace("'b'", "'a'"), message, "{sql}");
        assert!(
            error.hint().is_some_and(|hint| hint.starts_with("Write ")),
            "{sql}"
        );
        assert_eq!(bench.recorder.log(), "", "{sql}");
    }
    let bench = Bench::small().await;
    let sql = "SELECT id,\n  schedule_job('x', id, run_at => id) FROM t";
    let error = bench.run(sql).await.expect_err(sql);
    assert_eq!(
        error.position(),
        Some(crate::error::Position { line: 2, column: 3 })
    );
}

#[tokio::test]
async fn an_ordinal_behind_a_wildcard_is_refused_by_the_plan() {
    let message = "effect function \"schedule_job\" cannot stand in ORDER BY";
    refuse(
        "SELECT *, schedule_job('x', id) FROM t ORDER BY 3",
        Code::EffectMisplaced,
        message,
    )
    .await;
    check(
        "SELECT *, schedule_job('x', id) FROM t ORDER BY 1 LIMIT 1",
        "s1",
        "1 b 1",
    )
    .await;
}

#[tokio::test]
async fn a_plan_runs_once_however_often_it_is_collected() {
    let bench = Bench::small().await;
    let Statement::Effect(query) = parse("SELECT schedule_job('x', id) FROM t WHERE id = 1")
        .unwrap()
        .statement
    else {
        panic!("not an effect");
    };
    let plan = bench.plan(&query).await.unwrap();
    let physical = bench.state.create_physical_plan(&plan).await.unwrap();
    collect(Arc::clone(&physical), bench.state.task_ctx())
        .await
        .unwrap();
    // The physical plan again, and a new one from the same logical plan.
    let again = collect(physical, bench.state.task_ctx())
        .await
        .map_err(Error::from)
        .unwrap_err();
    assert_eq!(again.message(), "an effect statement runs only once");
    let again = bench.collect(&plan).await.unwrap_err();
    assert_eq!(again.message(), "an effect statement runs only once");
    assert_eq!(bench.recorder.log(), "schedule_job(x,1)");
}

#[tokio::test]
async fn many_partitions_keep_the_order() {
    let config = SessionConfig::new()
        .with_target_partitions(16)
        .with_batch_size(7);
    let bench = Bench::new(Recorder::default(), config, 1 << 30).await;
    let sql = "SELECT schedule_job('x', a.id * 100 + b.id) FROM t a, t b WHERE a.form = b.form \
               ORDER BY a.id * 100 + b.id DESC";
    bench.run(sql).await.unwrap();
    let log = bench.recorder.log();
    let ids: Vec<i64> = log
        .split("; ")
        .map(|line| {
            line.trim_start_matches("schedule_job(x,")
                .trim_end_matches(')')
        })
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(ids.len(), 32);
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    assert_eq!(*bench.recorder.commits.lock().unwrap(), 1);
}

#[tokio::test]
async fn too_many_rows_change_nothing_and_name_the_setting() {
    let mut bench = Bench::small().await;
    bench.rows_max = 7;
    let error = bench
        .run("SELECT schedule_job('x', id) FROM t")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::TooManyRows);
    assert!(error.hint().unwrap().contains("effect_rows_max"));
    assert_eq!(bench.recorder.log(), "");
    bench
        .run("SELECT schedule_job('x', id) FROM t LIMIT 7")
        .await
        .unwrap();
}

#[tokio::test]
async fn the_memory_limit_holds_for_collected_rows() {
    let config = SessionConfig::new().with_target_partitions(1);
    let mut bench = Bench::new(Recorder::default(), config, 64 << 10).await;
    bench.rows_max = 1_000_000;
    let sql = "SELECT schedule_job('x', repeat('k', 1000)) FROM t a, t b, t c, t d";
    let error = bench.run(sql).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfMemory, "{error:?}");
    assert_eq!(bench.recorder.log(), "");
}

#[tokio::test]
async fn constant_calls_need_no_plan() {
    let bench = Bench::small().await;
    for (sql, constant) in [
        ("SELECT acquire_lock('a')", true),
        (
            "SELECT acquire_lock('a', ttl => INTERVAL '5 seconds'), cancel_job(-1)",
            true,
        ),
        ("SELECT acquire_lock('a' || 'b')", false),
        ("SELECT acquire_lock('a'), 1", false),
        ("SELECT acquire_lock('a') WHERE false", false),
        ("SELECT acquire_lock('a') LIMIT 0", false),
    ] {
        let Statement::Effect(query) = parse(sql).unwrap().statement else {
            panic!("{sql}")
        };
        let (query, items) = bench.gate.rewrite_effects(*query).unwrap();
        assert_eq!(
            constant_calls(&query, &items).unwrap().is_some(),
            constant,
            "{sql}"
        );
    }
    let args = |sql: &'static str| {
        let Statement::Call(call) = parse(sql).unwrap().statement else {
            panic!("{sql}")
        };
        let Call::Procedure {
            signature,
            args,
            position,
        } = bench.gate.call(&call).unwrap()
        else {
            panic!("{sql}");
        };
        let state = &bench.state;
        async move {
            procedure_arguments(state, signature, &args, position)
                .await
                .unwrap()
        }
    };
    let row = args("CALL claim_jobs('w', ARRAY['a', 'b'])").await;
    assert_eq!(row.column(1).as_list::<i32>().value(0).len(), 2);
}

#[tokio::test]
async fn errors_of_planning_say_what_and_where() {
    let bench = Bench::small().await;
    for (sql, code, message, hint, at) in [
        (
            "SELECT cancel_job(id)\nFROM sorces",
            Code::UnknownObject,
            "table \"sorces\" does not exist",
            Some("Did you mean \"sources\"?"),
            Some((2, 6)),
        ),
        (
            "SELECT cancel_job(1),\n forms FROM t",
            Code::PlanError,
            "column \"forms\" does not exist",
            Some("Did you mean \"form\"?"),
            Some((2, 2)),
        ),
        (
            "SELECT cancel_job(t.identifier) FROM t",
            Code::PlanError,
            "column \"t.identifier\" does not exist",
            Some("There are: id, form."),
            Some((1, 19)),
        ),
    ] {
        let error = bench
            .run(sql)
            .await
            .map(|batches| rows(&batches))
            .expect_err(sql);
        let found = error.position().map(|at| (at.line, at.column));
        assert_eq!(
            (error.code(), error.message(), error.hint(), found),
            (code, message, hint, at),
            "{error:?}"
        );
    }
}
