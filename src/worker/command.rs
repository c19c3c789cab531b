//! Runs transforms of kind command: any program of any language over a group of sources.
//!
//! Two forms, told apart by the command text ([`CommandForm::parse`]). Without placeholders the
//! program runs once for the group and speaks JSON lines: a line per source on its standard
//! input, a line per source on its standard output, standard error is the log. With `{uri}`,
//! `{output}`, `{source_id}` or `{job_id}` it runs once per source; exit code 0 is success.
//!
//! Invariants: each source of a group gets exactly one outcome; an outcome of a source that was
//! given to a program is sent after its answer or after the program is gone, so nobody works on
//! it any more when its lock is released; no shell ever sees a source's values.
//! Called by the worker's loop, which owns leases and reports.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::id::{JobId, Token};
use crate::json::{Object, Value, object_text};
use crate::session::writeback::Columns;
use crate::worker::answer::{self, Answer, Line, LineSplitter};
use crate::worker::log::{Log, LogOf, LogSink};
use crate::worker::process::{Event, Input, Process, Start};

/// One source of a group, as the executor sees it.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub job_id: JobId,
    /// Which attempt of the job this is, from 1.
    pub attempt: u16,
    /// The fencing token of the attempt. Never shown to the program.
    pub token: Token,
    /// The source's key as text.
    pub source_id: String,
    /// Where the source document is.
    pub uri: Option<String>,
    /// Path or URL that the attempt's output is written to.
    pub output: String,
    /// The `params` of `schedule_job`.
    pub params: Option<Value>,
    /// The source's row.
    pub row: Object,
}

/// How it ended for one source.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The program did its work.
    Completed {
        /// The status that it chose, or `None` for the transform's default.
        status: Option<String>,
        /// Columns to write back.
        columns: Columns,
        /// Where it says that its output is, where that differs from the given place.
        output: Option<String>,
    },
    /// It did not. The code is one of ours (`SG8003`) or the program's own (`broken-xml`).
    Failed {
        /// The class of the failure, for selecting by it.
        code: String,
        /// What happened, for a person.
        message: String,
    },
    /// It was stopped because somebody cancelled the job.
    Cancelled,
    /// Handed back unfinished, through no fault of its own: it was never given to the program, or
    /// the worker shuts down.
    Released,
}

/// Why a source or a group is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Its time is over.
    Timeout,
    /// Its lease or its lock is gone: another worker may take it at any moment.
    LeaseLost,
    /// Somebody cancelled it.
    Cancelled,
    /// This worker ends.
    Shutdown,
}

/// A request to stop, sent while a group runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All that has no outcome yet.
    Group(StopReason),
    /// One job. A program that has the whole group runs on for the others.
    Job(JobId, StopReason),
}

/// How to run the program.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// The text of `USING COMMAND`, split into words like a shell does, but run without one.
    pub command: String,
    /// From the start of the program to its end.
    pub timeout: Duration,
    /// Bound of the address space of each process, in bytes.
    pub memory_bytes: Option<u64>,
    /// The folder that the program runs in.
    pub working_dir: PathBuf,
    /// Variables added to the worker's own environment.
    pub env: HashMap<String, String>,
}

/// A command, split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandForm {
    /// One process for the group, JSON lines.
    Lines(Vec<String>),
    /// One process per source: some word holds a placeholder.
    PerSource(Vec<String>),
}

const PLACEHOLDERS: [&str; 4] = ["{uri}", "{output}", "{source_id}", "{job_id}"];
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "ash"];

impl CommandForm {
    /// Splits a command by the quoting rules of a POSIX shell. Nothing is expanded: `$HOME`, `*`,
    /// `|` and `>` are plain text. A placeholder is replaced inside its word, so a path with
    /// blanks or quotes stays one argument. Whoever needs a shell passes values as arguments:
    /// `sh -c 'xsltproc map.xsl "$1" > "$2"' sh {uri} {output}`.
    ///
    /// # Errors
    /// `SG8001 command-unusable`: empty, a quote without its partner, or a placeholder inside the
    /// script of a shell, where a source's value would be run as code.
    pub fn parse(command: &str) -> Result<Self> {
        let unusable = |message: &str, hint: &str| {
            Error::new(
                Code::CommandUnusable,
                format!("command \"{command}\" {message}"),
            )
            .with_hint(hint)
        };
        let words = shell_words::split(command).map_err(|cause| {
            unusable("has a quote without its partner", "Close the quote.").with_source(cause)
        })?;
        let Some(program) = words.first() else {
            return Err(unusable(
                "is empty",
                "Name a program: USING COMMAND 'python3 to_rdf.py'.",
            ));
        };
        let holds = |word: &String| PLACEHOLDERS.iter().any(|name| word.contains(name));
        let name = Path::new(program)
            .file_name()
            .and_then(|name| name.to_str());
        let script = words
            .iter()
            .position(|word| word.starts_with('-') && word.ends_with('c'));
        let pasted = script
            .and_then(|option| words.get(option + 1))
            .is_some_and(holds);
        if name.is_some_and(|name| SHELLS.contains(&name)) && pasted {
            return Err(unusable(
                "has a placeholder inside a shell script",
                "Pass values as arguments: sh -c 'cat \"$1\" > \"$2\"' sh {uri} {output}.",
            ));
        }
        if words.iter().any(holds) {
            return Ok(Self::PerSource(words));
        }
        Ok(Self::Lines(words))
    }
}

/// Runs a group, and sends the outcome of each source as soon as it is known.
///
/// # Arguments
/// - `stops`: requests to stop; when its sender is dropped, the group runs to its end.
/// - `outcomes`: when its receiver is dropped, the programs are killed.
///
/// # Errors
/// `SG8001 command-unusable`: the command cannot be parsed or started. The sources that it is
/// about are sent as failed with the same code, so the caller only logs this.
///
/// # Guarantees
/// Exactly one outcome per source, unless the receiver of `outcomes` or this future is dropped.
/// When it returns, no process that it started is left, save one that left its process group.
pub async fn run_command(
    spec: &CommandSpec,
    limits: &Limits,
    group: Vec<Assignment>,
    log: Arc<dyn LogSink>,
    stops: mpsc::Receiver<Stop>,
    outcomes: mpsc::Sender<(JobId, Outcome)>,
) -> Result<()> {
    let mut stops = Stops(Some(stops));
    let mut run = Run::new(spec, limits, group, log, outcomes);
    let result = match CommandForm::parse(&spec.command) {
        Ok(CommandForm::Lines(words)) => run.lines(&words, &mut stops).await,
        Ok(CommandForm::PerSource(words)) => run.per_source(&words, &mut stops).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        run.settle_rest(|_| failed(error.code(), describe(error)));
    }
    run.flush().await;
    result
}

/// How far a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// The program has it, at least in part.
    Given,
    Settled,
}

struct Source {
    assignment: Assignment,
    progress: Progress,
    stopped: Option<StopReason>,
}

/// The state of a group that runs.
struct Run<'a> {
    spec: &'a CommandSpec,
    limits: &'a Limits,
    sources: Vec<Source>,
    by_job: HashMap<JobId, usize>,
    by_key: HashMap<String, usize>,
    sink: Arc<dyn LogSink>,
    outcomes: mpsc::Sender<(JobId, Outcome)>,
    /// Outcomes that are not sent yet: at most one per source.
    ready: VecDeque<(JobId, Outcome)>,
    stopping: Option<StopReason>,
    /// All sources before this place were given or settled.
    next: usize,
    /// All sources before this place are settled.
    open_from: usize,
}

/// The requests to stop; none come any more when their sender is gone.
struct Stops(Option<mpsc::Receiver<Stop>>);

impl Stops {
    async fn next(&mut self) -> Stop {
        if let Some(stops) = &mut self.0 {
            if let Some(stop) = stops.recv().await {
                return stop;
            }
            self.0 = None;
        }
        pending().await
    }

    fn waiting(&mut self) -> Option<Stop> {
        self.0.as_mut()?.try_recv().ok()
    }
}

/// What a group's loop waits for.
enum Incoming {
    Process(Event),
    Stop(Stop),
    /// Nobody listens to outcomes any more.
    Deaf,
}

impl<'a> Run<'a> {
    fn new(
        spec: &'a CommandSpec,
        limits: &'a Limits,
        group: Vec<Assignment>,
        sink: Arc<dyn LogSink>,
        outcomes: mpsc::Sender<(JobId, Outcome)>,
    ) -> Self {
        let jobs = group
            .iter()
            .enumerate()
            .map(|(index, one)| (one.job_id, index));
        let keys = group
            .iter()
            .enumerate()
            .map(|(index, one)| (one.source_id.clone(), index));
        Self {
            spec,
            limits,
            by_job: jobs.collect(),
            by_key: keys.collect(),
            sources: group
                .into_iter()
                .map(|assignment| Source {
                    assignment,
                    progress: Progress::Waiting,
                    stopped: None,
                })
                .collect(),
            sink,
            outcomes,
            ready: VecDeque::new(),
            stopping: None,
            next: 0,
            open_from: 0,
        }
    }

    /// The JSON-lines form: one process for all.
    async fn lines(&mut self, words: &[String], stops: &mut Stops) -> Result<()> {
        if self.sources.is_empty() {
            return Ok(());
        }
        let argv = words.iter().map(OsString::from).collect();
        let mut process = Process::start(self.start(argv, Input::Piped, HashMap::new())).await?;
        let mut log = Log::new(
            LogOf::Group,
            self.limits.log_bytes_max,
            Arc::clone(&self.sink),
        );
        let mut splitter = LineSplitter::new(self.limits.answer_line_bytes_max);
        loop {
            match self.incoming(&mut process, stops).await {
                Incoming::Process(Event::Fed) => self.feed_next(&mut process)?,
                Incoming::Process(Event::Output(bytes)) => {
                    for line in splitter.push(&bytes) {
                        self.take_line(line, &mut log);
                    }
                }
                Incoming::Process(Event::Log(bytes)) => log.append(&bytes),
                Incoming::Process(Event::Deadline) => self.stopping = Some(StopReason::Timeout),
                Incoming::Process(Event::Ended(status)) => {
                    if let Some(line) = splitter.finish() {
                        self.take_line(line, &mut log);
                    }
                    self.end_lines(status, &mut log);
                    return Ok(());
                }
                Incoming::Stop(stop) => self.note_stop(stop),
                Incoming::Deaf => return Ok(()),
            }
            if self.stopping.is_some() || self.only_stopped_left() {
                process.terminate();
            }
        }
    }

    /// The placeholder form: one process after the other.
    async fn per_source(&mut self, words: &[String], stops: &mut Stops) -> Result<()> {
        let mut first_error = None;
        for index in 0..self.sources.len() {
            while let Some(stop) = stops.waiting() {
                self.note_stop(stop);
            }
            if self.stopping.is_some() {
                break;
            }
            if self.sources[index].progress != Progress::Waiting {
                continue;
            }
            match self.one_source(index, words, stops).await {
                Ok(Progress::Waiting) => return Ok(()),
                Ok(Progress::Given | Progress::Settled) => {}
                Err(error) => {
                    self.settle(index, failed(error.code(), describe(&error)));
                    first_error = first_error.or(Some(error));
                }
            }
        }
        let reason = self.stopping.unwrap_or(StopReason::Shutdown);
        self.settle_rest(|_| match reason {
            StopReason::Timeout | StopReason::Shutdown => Outcome::Released,
            StopReason::LeaseLost | StopReason::Cancelled => stopped(reason, self.spec.timeout),
        });
        first_error.map_or(Ok(()), Err)
    }

    /// Runs the program for one source. `Waiting` means that nobody listens any more.
    async fn one_source(
        &mut self,
        index: usize,
        words: &[String],
        stops: &mut Stops,
    ) -> Result<Progress> {
        let source = &self.sources[index].assignment;
        let job = source.job_id;
        let argv = words
            .iter()
            .map(|word| fill(word, source))
            .collect::<Result<_>>()?;
        let start = self.start(argv, Input::Empty, variables(source));
        let mut process = Process::start(start).await?;
        self.sources[index].progress = Progress::Given;
        let mut log = Log::new(
            LogOf::Job(job),
            self.limits.log_bytes_max,
            Arc::clone(&self.sink),
        );
        let mut own = None;
        loop {
            match self.incoming(&mut process, stops).await {
                Incoming::Process(Event::Fed) => {}
                Incoming::Process(Event::Output(bytes) | Event::Log(bytes)) => log.append(&bytes),
                Incoming::Process(Event::Deadline) => own = Some(StopReason::Timeout),
                Incoming::Process(Event::Ended(status)) => {
                    log.close();
                    let reason = self.sources[index].stopped.or(own).or(self.stopping);
                    self.settle(
                        index,
                        match reason {
                            Some(reason) => stopped(reason, self.spec.timeout),
                            None => exit_outcome(status, &log),
                        },
                    );
                    return Ok(Progress::Settled);
                }
                Incoming::Stop(stop) => self.note_stop(stop),
                Incoming::Deaf => return Ok(Progress::Waiting),
            }
            if own
                .or(self.stopping)
                .or(self.sources[index].stopped)
                .is_some()
            {
                process.terminate();
            }
        }
    }

    fn start(&self, argv: Vec<OsString>, input: Input, own: HashMap<String, String>) -> Start {
        let mut env = self.spec.env.clone();
        env.extend(own);
        Start {
            argv,
            folder: self.spec.working_dir.clone(),
            env,
            memory_bytes: self.spec.memory_bytes,
            deadline: Instant::now() + self.spec.timeout,
            grace: self.limits.kill_grace,
            input,
        }
    }

    /// Waits for the process, for a stop, and for room to send outcomes, whichever is first: a
    /// slow receiver of outcomes delays neither a kill nor a pipe.
    async fn incoming(&mut self, process: &mut Process, stops: &mut Stops) -> Incoming {
        loop {
            tokio::select! {
                room = self.outcomes.reserve(), if !self.ready.is_empty() => match room {
                    Ok(room) => {
                        if let Some(outcome) = self.ready.pop_front() {
                            room.send(outcome);
                        }
                    }
                    Err(_) => return Incoming::Deaf,
                },
                () = self.outcomes.closed(), if self.ready.is_empty() => return Incoming::Deaf,
                stop = stops.next() => return Incoming::Stop(stop),
                event = process.next() => return Incoming::Process(event),
            }
        }
    }

    /// Writes the next source's line, or closes the input after the last.
    fn feed_next(&mut self, process: &mut Process) -> Result<()> {
        while let Some(source) = self.sources.get_mut(self.next) {
            self.next += 1;
            if source.progress == Progress::Waiting {
                source.progress = Progress::Given;
                process.feed(&question(&source.assignment));
                return Ok(());
            }
        }
        process.close_input();
        Ok(())
    }

    fn take_line(&mut self, line: Line, log: &mut Log) {
        match line {
            Line::Text(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            Line::Text(text) => match Answer::parse(&text) {
                Ok(answer) => self.take_answer(answer, log),
                Err(reason) => log.note(&format!("ignored a line of stdout: {reason}")),
            },
            Line::TooLong(bytes) => log.note(&format!(
                "ignored a line of stdout of {bytes} bytes; at most {} may be answered",
                self.limits.answer_line_bytes_max
            )),
        }
    }

    fn take_answer(&mut self, answer: Answer, log: &mut Log) {
        let by_job = answer.job_id.and_then(|job| self.by_job.get(&job)).copied();
        let by_key = answer
            .source_id
            .as_ref()
            .and_then(|key| self.by_key.get(key))
            .copied();
        let (named, found) = match (answer.job_id, answer.source_id.as_deref()) {
            (Some(job), None) => (format!("job {job}"), by_job),
            (None, key) => (format!("source \"{}\"", key.unwrap_or_default()), by_key),
            (Some(job), Some(key)) => (
                format!("job {job} with source \"{key}\""),
                by_job.filter(|_| by_job == by_key),
            ),
        };
        let Some(index) = found else {
            log.note(&format!(
                "ignored an answer for {named}, which is not in this group"
            ));
            return;
        };
        let source = &self.sources[index];
        match (source.progress, source.stopped) {
            (Progress::Settled, _) => {
                log.note(&format!(
                    "ignored another answer for {named}: the first one counts"
                ));
            }
            (Progress::Waiting, _) => {
                log.note(&format!(
                    "ignored an answer for {named}, which was not asked yet"
                ));
            }
            (Progress::Given, Some(reason)) => {
                self.settle(index, stopped(reason, self.spec.timeout));
            }
            (Progress::Given, None) => {
                self.settle(
                    index,
                    match answer.result {
                        Ok(answer::Success {
                            status,
                            columns,
                            output,
                        }) => Outcome::Completed {
                            status,
                            columns: Columns::Named(columns),
                            output,
                        },
                        Err(answer::Failure { code, message }) => Outcome::Failed { code, message },
                    },
                );
            }
        }
    }

    /// Decides for all that have no answer when the process is gone.
    fn end_lines(&mut self, status: ExitStatus, log: &mut Log) {
        if !status.success() && self.stopping.is_none() {
            log.note(&format!("the command {}", exit_text(status)));
        }
        log.close();
        let tail = log.tail();
        let (stopping, timeout) = (self.stopping, self.spec.timeout);
        self.settle_rest(
            |source| match (source.stopped.or(stopping), source.progress) {
                (Some(StopReason::Timeout), Progress::Waiting) => Outcome::Released,
                (Some(reason), _) => stopped(reason, timeout),
                (None, _) => failed(
                    Code::NoAnswer,
                    format!(
                        "the command {} without an answer for source \"{}\"{tail}",
                        exit_text(status),
                        source.assignment.source_id
                    ),
                ),
            },
        );
    }

    fn note_stop(&mut self, stop: Stop) {
        match stop {
            Stop::Group(reason) => {
                self.stopping = self.stopping.or(Some(reason));
                // What comes after a cancel or a lost lease must not count any more.
                if matches!(reason, StopReason::Cancelled | StopReason::LeaseLost) {
                    for source in &mut self.sources {
                        source.stopped = source.stopped.or(Some(reason));
                    }
                }
            }
            Stop::Job(job, reason) => {
                let Some(&index) = self.by_job.get(&job) else {
                    return;
                };
                match self.sources[index].progress {
                    Progress::Waiting => {
                        self.settle(index, stopped(reason, self.spec.timeout));
                    }
                    Progress::Given => {
                        let source = &mut self.sources[index];
                        source.stopped = source.stopped.or(Some(reason));
                    }
                    Progress::Settled => {}
                }
            }
        }
    }

    /// Whether a process would work for stopped sources only.
    fn only_stopped_left(&mut self) -> bool {
        let settled = |one: &Source| one.progress == Progress::Settled;
        while self.sources.get(self.open_from).is_some_and(settled) {
            self.open_from += 1;
        }
        let rest = &self.sources[self.open_from..];
        !rest.is_empty() && rest.iter().all(|one| settled(one) || one.stopped.is_some())
    }

    fn settle(&mut self, index: usize, outcome: Outcome) {
        let source = &mut self.sources[index];
        if source.progress != Progress::Settled {
            source.progress = Progress::Settled;
            self.ready.push_back((source.assignment.job_id, outcome));
        }
    }

    fn settle_rest(&mut self, outcome: impl Fn(&Source) -> Outcome) {
        let open = |one: &&mut Source| one.progress != Progress::Settled;
        for source in self.sources.iter_mut().filter(open) {
            self.ready
                .push_back((source.assignment.job_id, outcome(source)));
            source.progress = Progress::Settled;
        }
    }

    async fn flush(&mut self) {
        while let Some(outcome) = self.ready.pop_front() {
            if self.outcomes.send(outcome).await.is_err() {
                return;
            }
        }
    }
}

fn failed(code: Code, message: String) -> Outcome {
    Outcome::Failed {
        code: code.as_str().to_owned(),
        message,
    }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.message()),
        None => error.message().to_owned(),
    }
}

fn stopped(reason: StopReason, timeout: Duration) -> Outcome {
    match reason {
        StopReason::Timeout => failed(
            Code::AttemptTimeout,
            format!("the command did not end within {timeout:?}"),
        ),
        StopReason::LeaseLost => failed(
            Code::LeaseLost,
            "the lease of the job was lost while it ran".to_owned(),
        ),
        StopReason::Cancelled => Outcome::Cancelled,
        StopReason::Shutdown => Outcome::Released,
    }
}

fn exit_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn exit_outcome(status: ExitStatus, log: &Log) -> Outcome {
    if status.success() {
        return Outcome::Completed {
            status: None,
            columns: Columns::Named(Object::new()),
            output: None,
        };
    }
    failed(
        Code::CommandFailed,
        format!("the command {}{}", exit_text(status), log.tail()),
    )
}

/// The line of one source.
fn question(source: &Assignment) -> Vec<u8> {
    let text = |text: &str| Value::Text(text.to_owned());
    let number = |number: u64| Value::Number(number.to_string());
    let line = Object::from(
        [
            ("job_id", number(source.job_id.0)),
            ("source_id", text(&source.source_id)),
            ("uri", source.uri.as_deref().map_or(Value::Null, text)),
            ("output", text(&source.output)),
            ("attempt", number(source.attempt.into())),
            ("params", source.params.clone().unwrap_or(Value::Null)),
            ("row", Value::Object(source.row.clone())),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let mut line = object_text(&line).into_bytes();
    line.push(b'\n');
    line
}

/// Replaces the placeholders of a word in one pass: a value that looks like one stays as it is.
fn fill(word: &str, source: &Assignment) -> Result<OsString> {
    let mut filled = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let name = PLACEHOLDERS.into_iter().find(|name| rest.starts_with(name));
        match name {
            Some("{uri}") => filled.push_str(source.uri.as_deref().ok_or_else(|| {
                Error::new(
                    Code::CommandUnusable,
                    format!("source \"{}\" has no uri for the command", source.source_id),
                )
            })?),
            Some("{output}") => filled.push_str(&source.output),
            Some("{source_id}") => filled.push_str(&source.source_id),
            Some("{job_id}") => filled.push_str(&source.job_id.to_string()),
            Some(_) | None => filled.push('{'),
        }
        rest = &rest[name.map_or(1, str::len)..];
    }
    filled.push_str(rest);
    Ok(filled.into())
}

fn variables(source: &Assignment) -> HashMap<String, String> {
    let all = BTreeMap::from([
        ("SLUICEGATE_JOB_ID", source.job_id.to_string()),
        ("SLUICEGATE_ATTEMPT", source.attempt.to_string()),
        ("SLUICEGATE_SOURCE_ID", source.source_id.clone()),
        ("SLUICEGATE_URI", source.uri.clone().unwrap_or_default()),
        ("SLUICEGATE_OUTPUT", source.output.clone()),
    ]);
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
