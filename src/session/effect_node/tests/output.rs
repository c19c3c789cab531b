//! What comes out: names, plans, previews.

use std::fmt::Write as _;

use super::*;

#[tokio::test]
async fn names_of_effects_do_not_clash() {
    let bench = Bench::small().await;
    let names = |batches: Vec<RecordBatch>| -> Vec<String> {
        batches[0]
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    let sql = "SELECT id AS schedule_job, schedule_job('x', id), schedule_job('x', id) AS \"J\", \
               schedule_job('x', id) AS J2, schedule_job('x', id) FROM t";
    let found = names(bench.run(sql).await.unwrap());
    assert_eq!(
        found,
        [
            "schedule_job",
            "schedule_job_2",
            "J",
            "j2",
            "schedule_job_3"
        ]
    );
    refuse(
        "SELECT form, schedule_job('x', id) AS form FROM t",
        Code::PlanError,
        "column \"form\" is there twice",
    )
    .await;
}

#[tokio::test]
async fn explain_runs_nothing() {
    for sql in [
        "EXPLAIN SELECT schedule_job('x', id) FROM t ORDER BY id",
        "EXPLAIN VERBOSE SELECT schedule_job('x', id) FROM t ORDER BY id",
        "EXPLAIN FORMAT TREE SELECT schedule_job('x', id) FROM t ORDER BY id",
        "EXPLAIN FORMAT INDENT SELECT schedule_job('x', id) FROM t ORDER BY id",
    ] {
        let bench = Bench::small().await;
        let shown = rows(&bench.run(sql).await.unwrap());
        assert!(shown.contains("schedule_job"), "{sql}: {shown}");
        assert_eq!(bench.recorder.log(), "", "{sql}");
    }
}

#[tokio::test]
async fn preview_shows_arguments_and_outcome_and_does_nothing() {
    let bench = Bench::small().await;
    let show_all = |batches: Vec<RecordBatch>| {
        let mut text = String::new();
        for field in batches[0].schema().fields() {
            write!(text, "{} ", field.name()).unwrap();
        }
        format!("{}| {}", text, rows(&batches))
    };
    let one =
        "PREVIEW SELECT form, schedule_job('x', id, priority => 2) FROM t ORDER BY id LIMIT 1";
    assert_eq!(
        show_all(bench.run(one).await.unwrap()),
        "form transform source_id priority outcome reason blocking_job_id holder | \
         b x 1 2 scheduled NULL NULL NULL"
    );
    let two = "PREVIEW SELECT cancel_job(id) AS c, acquire_lock('r') FROM t LIMIT 1";
    assert!(show_all(bench.run(two).await.unwrap()).starts_with(
        "c_job_id c_outcome c_reason c_blocking_job_id c_holder acquire_lock_resource \
         acquire_lock_outcome"
    ));
    let clash = "PREVIEW SELECT id AS outcome, cancel_job(id) FROM t LIMIT 1";
    assert!(
        show_all(bench.run(clash).await.unwrap())
            .starts_with("outcome job_id cancel_job_outcome reason")
    );
    assert_eq!(bench.recorder.log(), "");
}
