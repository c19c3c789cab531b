//! What refuses an effect that got past the gate.

use datafusion::logical_expr::LogicalPlanBuilder;

use super::*;

#[tokio::test]
async fn effect_functions_that_get_past_the_gate_are_refused() {
    let bench = Bench::small().await;
    let context = SessionContext::new_with_state(bench.state.clone());
    for sql in [
        "SELECT schedule_job('x', id) FROM t",
        "SELECT id FROM t WHERE schedule_job('x', id) > 0",
        "SELECT id FROM t WHERE id IN (SELECT schedule_job('x', id) FROM t)",
        "CREATE TABLE u AS SELECT schedule_job('x', id) FROM t",
        "EXPLAIN ANALYZE SELECT schedule_job('x', id) FROM t",
        "COPY (SELECT schedule_job('x', id) FROM t) TO 'never.csv'",
    ] {
        let result = match context.sql(sql).await {
            Ok(frame) => frame.collect().await,
            Err(error) => Err(error),
        };
        let error = Error::from(result.expect_err(sql));
        assert_eq!(error.code(), Code::EffectMisplaced, "{sql}: {error:?}");
    }
    // PREPARE is optimised without being analysed; its execution is refused by the planner.
    context
        .sql("PREPARE p AS SELECT schedule_job('x', id) FROM t")
        .await
        .unwrap();
    for _ in 0..2 {
        let result = context.sql("EXECUTE p").await.unwrap().collect().await;
        assert_eq!(
            Error::from(result.unwrap_err()).code(),
            Code::EffectMisplaced
        );
    }
}

#[tokio::test]
async fn an_effect_below_the_root_is_refused() {
    let bench = Bench::small().await;
    let Statement::Effect(query) = parse("SELECT schedule_job('x', id) AS job FROM t")
        .unwrap()
        .statement
    else {
        panic!("not an effect");
    };
    let plan = bench.plan(&query).await.unwrap();
    let above = LogicalPlanBuilder::from(plan)
        .limit(0, Some(1))
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(bench.collect(&above).await.unwrap_err().code(), Code::Bug);
    assert_eq!(bench.recorder.log(), "");
}
