//! `CALL run_jobs(...)`: a worker inside a statement, which works until no job is due.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DurationMicrosecondType, Int64Type};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::functions::effect::{ParameterKind, Returns, Signature, optional};
use crate::session::Session;
use crate::session::core::Procedure;
use crate::session::sink::StatementText;
use crate::tables::columns::{ints, texts};
use crate::worker::{End, WorkOptions, Worked, work};

/// Groups that one call may run at once. Chosen: far more than a machine has processors.
const PARALLEL_MAX: usize = 256;

static RUN_JOBS: Signature = Signature {
    name: "run_jobs",
    parameters: &[
        optional(
            "transforms",
            ParameterKind::TextList,
            "Only these: a list, or text with commas. Default: all SQL and command transforms.",
        ),
        optional(
            "worker",
            ParameterKind::Text,
            "The name of the worker in jobs and events. Default: the user, then `/run_jobs`.",
        ),
        optional(
            "wait",
            ParameterKind::Interval,
            "Also waits for jobs that come due within this time, such as retries. Default: 0.",
        ),
        optional(
            "parallel",
            ParameterKind::Integer,
            "Groups of jobs that run at once. Default: the number of processors.",
        ),
    ],
    returns: Returns::Rows,
    doc: "Works the queue until no job is due, and returns how attempts ended: a row per \
          transform and outcome. Ctrl-C hands back what runs.",
};

/// The procedure.
#[derive(Debug)]
pub struct RunJobs;

#[async_trait]
impl Procedure for RunJobs {
    fn signature(&self) -> &'static Signature {
        &RUN_JOBS
    }

    async fn call(
        &self,
        session: &Session,
        _text: StatementText,
        args: StructArray,
        // It says with its own arguments how much it works.
        _rows_max: usize,
    ) -> Result<RecordBatch> {
        let options = options(session.actor(), &args)?;
        let core = Arc::clone(session.core());
        let (asks, asked) = watch::channel(false);
        let _asks_when_dropped = StopOnDrop(asks);
        let seen = session.watcher().clone();
        // A task of its own: when the statement is cancelled, what runs is still handed back.
        let task = core.background.spawn({
            let core = Arc::clone(&core);
            async move { work(&core, options, asked, seen).await }
        });
        let worked = task.await;
        rows(&worked.map_err(|error| Error::bug("a worker was torn").with_source(error))??)
    }
}

struct StopOnDrop(watch::Sender<bool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn options(actor: &str, args: &StructArray) -> Result<WorkOptions> {
    let given = |index: usize| Some(args.column(index)).filter(|column| column.is_valid(0));
    let worker = match given(1) {
        Some(name) => name.as_string::<i32>().value(0).to_owned(),
        None => format!("{actor}/run_jobs"),
    };
    let mut options = WorkOptions::until_idle(worker);
    if let Some(names) = given(0) {
        let names = names.as_list::<i32>().value(0);
        let names = names.as_string::<i32>().iter().flatten();
        options.transforms = names.map(str::to_owned).collect();
    }
    if let Some(wait) = given(2) {
        let micros = wait.as_primitive::<DurationMicrosecondType>().value(0);
        let micros = u64::try_from(micros)
            .map_err(|_| RUN_JOBS.argument_error("argument \"wait\" of run_jobs is negative"))?;
        options.end = End::WhenIdle(Duration::from_micros(micros));
    }
    if let Some(parallel) = given(3) {
        let parallel = parallel.as_primitive::<Int64Type>().value(0);
        options.parallel = usize::try_from(parallel)
            .ok()
            .filter(|parallel| (1..=PARALLEL_MAX).contains(parallel))
            .ok_or_else(|| {
                RUN_JOBS.argument_error(format!(
                    "argument \"parallel\" of run_jobs is not between 1 and {PARALLEL_MAX}"
                ))
            })?;
    }
    Ok(options)
}

/// `rows = outcomes, columns = (transform: Utf8, outcome: Utf8, attempts: Int64)`.
fn rows(worked: &Worked) -> Result<RecordBatch> {
    let all = || {
        worked.iter().flat_map(|(transform, verdicts)| {
            verdicts
                .iter()
                .map(move |(verdict, count)| (transform, verdict.name(), *count))
        })
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "transform",
            texts(all().map(|(transform, ..)| Some(transform))),
        ),
        ("outcome", texts(all().map(|(_, outcome, _)| Some(outcome)))),
        ("attempts", ints(all().map(|(.., count)| Some(count)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
