//! Clients that go away: before, while and after the rows are read.

use datafusion::catalog::streaming::StreamingTable;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::streaming::PartitionStream;

use super::*;

type Outcome = Arc<Mutex<Option<String>>>;

/// A scan that gives one batch and then waits for ever.
#[derive(Debug)]
struct Endless(SchemaRef);

impl PartitionStream for Endless {
    fn schema(&self) -> &SchemaRef {
        &self.0
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1]))];
        let batch = RecordBatch::try_new(Arc::clone(&self.0), columns).unwrap();
        let rows = stream::once(async { Ok(batch) }).chain(stream::pending());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0), rows))
    }
}

/// Tells when the action has ended, and how.
#[derive(Debug)]
struct Watched {
    action: Arc<dyn RootAction>,
    ended: Arc<Notify>,
    outcome: Outcome,
}

#[async_trait]
impl RootAction for Watched {
    fn name(&self) -> &str {
        "watched"
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef> {
        self.action.output_schema(input)
    }

    async fn run(
        &self,
        input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let result = self.action.run(input, context).await;
        let outcome = match &result {
            Ok(batches) => rows(batches),
            Err(error) => error.message().to_owned(),
        };
        *self.outcome.lock().unwrap() = Some(outcome);
        self.ended.notify_one();
        result
    }
}

fn watched(recorder: &Arc<Recorder>) -> (Arc<dyn RootAction>, Arc<Notify>, Outcome) {
    let call = action::EffectCall {
        function: EffectFunction::ScheduleJob,
        column: 0,
        name: "job".to_owned(),
        given: vec![0, 1],
    };
    let target = EffectTarget::Commit(Arc::clone(recorder) as _);
    let inner = Arc::new(action::EffectAction::new(vec![call], target, 10));
    let (ended, outcome) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let (ended_too, outcome_too) = (Arc::clone(&ended), Arc::clone(&outcome));
    (
        Arc::new(Watched {
            action: inner,
            ended,
            outcome,
        }),
        ended_too,
        outcome_too,
    )
}

async fn watched_stream(
    bench: &Bench,
    from: &str,
) -> (SendableRecordBatchStream, Arc<Notify>, Outcome) {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let endless = StreamingTable::try_new(Arc::clone(&schema), vec![Arc::new(Endless(schema))]);
    let context = SessionContext::new_with_state(bench.state.clone());
    if !context.table_exist("endless").unwrap() {
        context
            .register_table("endless", Arc::new(endless.unwrap()))
            .unwrap();
    }
    let sql = format!("SELECT schedule_job('x', id) FROM {from} WHERE id = 1");
    let Statement::Effect(query) = parse(&sql).unwrap().statement else {
        panic!("no effect")
    };
    let (query, _) = bench.gate.rewrite_effects(*query).unwrap();
    let input = context
        .sql(&query.to_string())
        .await
        .unwrap()
        .into_unoptimized_plan();
    let (action, ended, outcome) = watched(&bench.recorder);
    let plan = EffectNode::plan(input, action).unwrap();
    let physical = bench.state.create_physical_plan(&plan).await.unwrap();
    (
        execute_stream(physical, bench.state.task_ctx()).unwrap(),
        ended,
        outcome,
    )
}

#[tokio::test]
async fn a_client_gone_before_the_first_row_changes_nothing() {
    let bench = Bench::small().await;
    let (stream, _, outcome) = watched_stream(&bench, "t").await;
    drop(stream);
    tokio::task::yield_now().await;
    assert_eq!(*outcome.lock().unwrap(), None);
    assert_eq!(bench.recorder.log(), "");
}

#[tokio::test]
async fn a_client_gone_or_timed_out_while_rows_are_read_changes_nothing() {
    let bench = Bench::small().await;
    let (mut stream, ended, outcome) = watched_stream(&bench, "endless").await;
    // One poll starts the task, which reads a row and waits for the next for ever.
    assert!(futures::poll!(stream.next()).is_pending());
    tokio::task::yield_now().await;
    drop(stream);
    ended.notified().await;
    let outcome = outcome.lock().unwrap().clone();
    assert_eq!(
        outcome.as_deref(),
        Some("the statement was given up before it acted")
    );
    assert_eq!(bench.recorder.log(), "");
}

#[tokio::test]
async fn a_client_gone_during_the_commit_does_not_tear_it() {
    let pause = Arc::new((Notify::new(), Notify::new()));
    let recorder = Recorder {
        pause: Some(Arc::clone(&pause)),
        ..Recorder::default()
    };
    let config = SessionConfig::new().with_target_partitions(4);
    let bench = Bench::new(recorder, config, 1 << 30).await;
    let (mut stream, ended, outcome) = watched_stream(&bench, "t").await;
    tokio::select! {
        _ = stream.next() => panic!("the commit waits, so there is no row yet"),
        () = pause.0.notified() => {}
    }
    drop(stream);
    pause.1.notify_one();
    ended.notified().await;
    assert_eq!(outcome.lock().unwrap().as_deref(), Some("1"));
    assert_eq!(bench.recorder.log(), "schedule_job(x,1)");
}
