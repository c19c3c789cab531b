//! Tests of the command executor with real programs.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::json::parse;
use crate::worker::log::MemoryLog;

/// Reads a JSON line per source and answers by the first word of its id.
const WORKER: &str = r#"
import json, os, sys
for line in sys.stdin:
    s = json.loads(line)
    kind = s["source_id"].split("-")[0]
    answer = {"source_id": s["source_id"]}
    if kind == "echo":
        answer.update(status="DONE", columns={"seen": s}, output=s["output"] + "/x")
    elif kind == "bad":
        answer["error"] = {"code": "broken-xml", "message": "line 3"}
    elif kind == "mute":
        continue
    elif kind == "crash":
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(7)
    elif kind == "noise":
        print("not json at all")
        print(json.dumps({"source_id": "stranger"}))
        print(json.dumps(answer), flush=True)
        answer["error"] = "a second answer"
    elif kind == "loud":
        sys.stderr.write("x" * 3000000 + "\nthe end\n")
    elif kind == "long":
        answer["columns"] = {"a": "y" * 200000}
    elif kind == "hang":
        import time
        time.sleep(300)
    elif kind == "byjob":
        answer = {"job_id": s["job_id"], "status": "DONE"}
    print(json.dumps(answer), flush=True)
"#;

struct Bench {
    folder: TempDir,
    limits: Limits,
    timeout: Duration,
    memory_bytes: Option<u64>,
}

struct Seen {
    outcomes: HashMap<u64, Outcome>,
    log: Arc<MemoryLog>,
    result: Result<()>,
}

impl Seen {
    fn failure(&self, job: u64) -> (&str, &str) {
        match &self.outcomes[&job] {
            Outcome::Failed { code, message } => (code, message),
            other => panic!("job {job} has outcome {other:?}"),
        }
    }

    fn completed(&self, job: u64) -> bool {
        matches!(self.outcomes[&job], Outcome::Completed { .. })
    }

    fn log_of(&self, job: u64) -> String {
        String::from_utf8(self.log.of_job(JobId(job))).unwrap()
    }
}

fn assignment(job: u64, source: &str) -> Assignment {
    Assignment {
        job_id: JobId(job),
        attempt: 1,
        token: Token(job),
        source_id: source.to_owned(),
        uri: Some(format!("in/{source}")),
        output: format!("out/{source}"),
        params: Some(parse(r#"{"depth": 2}"#).unwrap()),
        row: Object::from([("form".to_owned(), Value::from("F02"))]),
    }
}

fn group(sources: &[&str]) -> Vec<Assignment> {
    (1..)
        .zip(sources)
        .map(|(job, source)| assignment(job, source))
        .collect()
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("worker.py"), WORKER).unwrap();
        let limits = Limits {
            kill_grace: Duration::from_millis(300),
            answer_line_bytes_max: 100_000,
            log_bytes_max: 10_000,
            ..Limits::default()
        };
        Self {
            folder,
            limits,
            timeout: Duration::from_secs(60),
            memory_bytes: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self, command: &str) -> CommandSpec {
        CommandSpec {
            command: command.to_owned(),
            timeout: self.timeout,
            memory_bytes: self.memory_bytes,
            working_dir: self.folder.path().to_owned(),
            env: HashMap::from([("SUITE".to_owned(), "demo".to_owned())]),
        }
    }

    async fn run(&self, command: &str, group: Vec<Assignment>) -> Seen {
        let (_stop, stops) = mpsc::channel(8);
        self.run_stoppable(command, group, stops, |_| {}).await
    }

    /// Runs with a channel of one outcome, and shows each outcome to `watch` as it comes.
    async fn run_stoppable(
        &self,
        command: &str,
        group: Vec<Assignment>,
        stops: mpsc::Receiver<Stop>,
        mut watch: impl FnMut(JobId),
    ) -> Seen {
        let spec = self.spec(command);
        let log = Arc::new(MemoryLog::default());
        let (sender, mut receiver) = mpsc::channel(1);
        let sink: Arc<dyn LogSink> = log.clone();
        let run = run_command(&spec, &self.limits, group, sink, stops, sender);
        let collect = async {
            let mut outcomes = HashMap::new();
            while let Some((job, outcome)) = receiver.recv().await {
                watch(job);
                assert!(
                    outcomes.insert(job.0, outcome).is_none(),
                    "two outcomes for {job}"
                );
            }
            outcomes
        };
        let (result, outcomes) = tokio::join!(run, collect);
        Seen {
            outcomes,
            log,
            result,
        }
    }
}

/// Whether a process is dead, or a zombie that only its new parent has to reap.
fn dead(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}

#[tokio::test]
async fn echo_worker_completes_each_source_with_its_columns() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["echo-a", "bad-b", "byjob-c"]))
        .await;
    let Outcome::Completed {
        status,
        columns,
        output,
    } = &seen.outcomes[&1]
    else {
        panic!()
    };
    assert_eq!(status.as_deref(), Some("DONE"));
    assert_eq!(output.as_deref(), Some("out/echo-a/x"));
    let Columns::Named(columns) = columns else {
        panic!()
    };
    let expected = r#"{"job_id": 1, "source_id": "echo-a", "uri": "in/echo-a",
        "output": "out/echo-a", "attempt": 1, "params": {"depth": 2}, "row": {"form": "F02"}}"#;
    assert_eq!(columns["seen"], parse(expected).unwrap());
    assert_eq!(seen.failure(2), ("broken-xml", "line 3"));
    assert!(seen.completed(3));
    seen.result.unwrap();
}

#[tokio::test]
async fn large_group_with_full_pipes_both_ways_does_not_deadlock() {
    let mut sources = Vec::new();
    for job in 1..=600 {
        let mut source = assignment(job, &format!("echo-{job}"));
        source
            .row
            .insert("text".to_owned(), Value::Text("z".repeat(5000)));
        sources.push(source);
    }
    let seen = Bench::new().run("python3 worker.py", sources).await;
    assert!((1..=600).all(|job| seen.completed(job)));
}

#[tokio::test]
async fn mute_source_fails_alone_with_no_answer() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["echo-a", "mute-b", "echo-c"]))
        .await;
    assert!(seen.completed(1) && seen.completed(3));
    let (code, message) = seen.failure(2);
    assert_eq!(code, "SG8003");
    assert_eq!(
        message,
        "the command ended with exit code 0 without an answer for source \"mute-b\""
    );
}

#[tokio::test]
async fn crash_in_the_middle_keeps_answers_and_fails_the_rest() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["echo-a", "crash-b", "echo-c"]))
        .await;
    assert!(seen.completed(1));
    for job in [2, 3] {
        let (code, message) = seen.failure(job);
        assert_eq!(code, "SG8003");
        assert!(message.contains("exit code 7"), "{message}");
        assert!(message.contains("about to crash"), "{message}");
    }
}

#[tokio::test]
async fn exit_code_after_all_answers_is_only_noted() {
    let command = r#"sh -c 'read line; echo "{\"job_id\": 1}"; exit 3'"#;
    let seen = Bench::new().run(command, group(&["a"])).await;
    assert!(seen.completed(1));
    assert!(
        seen.log_of(1)
            .contains("[sluicegate] the command ended with exit code 3")
    );
}

#[tokio::test]
async fn garbage_strangers_and_second_answers_are_noted_and_do_no_harm() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["noise-a", "echo-b"]))
        .await;
    assert!(seen.completed(1) && seen.completed(2));
    let log = seen.log_of(1);
    for note in [
        "it is not JSON: not json at all",
        "\"stranger\"",
        "the first one counts",
    ] {
        assert!(log.contains(note), "{note} in {log}");
    }
}

#[tokio::test]
async fn huge_log_is_cut_with_a_note_and_its_end_is_known() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["loud-a", "crash-b"]))
        .await;
    assert!(seen.completed(1));
    assert!(seen.failure(2).1.contains("the end"));
    let log = seen.log_of(1);
    assert!(log.len() < 10_100, "{} bytes", log.len());
    assert!(log.contains("more bytes were dropped"));
}

#[tokio::test]
async fn too_long_answer_leaves_its_source_without_one() {
    let seen = Bench::new()
        .run("python3 worker.py", group(&["long-a", "echo-b"]))
        .await;
    assert_eq!(seen.failure(1).0, "SG8003");
    assert!(seen.completed(2));
    assert!(seen.log_of(1).contains("at most 100000 may be answered"));
}

#[tokio::test]
async fn timeout_kills_grandchildren_that_ignore_the_request() {
    let bench = Bench {
        timeout: Duration::from_millis(800),
        ..Bench::new()
    };
    let command = r#"sh -c 'trap "" TERM; sleep 300 & echo $! > pid; wait'"#;
    let seen = bench.run(command, group(&["a"])).await;
    assert_eq!(seen.failure(1).0, "SG8004");
    let pid = fs::read_to_string(bench.path("pid")).unwrap();
    wait_until("death of the grandchild", || dead(pid.trim())).await;
}

#[tokio::test]
async fn grandchild_outside_the_group_does_not_delay_the_end() {
    let bench = Bench::new();
    let command =
        r#"sh -c 'read -r line; setsid sleep 300 & echo $! > pid; echo "{\"job_id\": 1}"'"#;
    let started = Instant::now();
    let seen = bench.run(command, group(&["a"])).await;
    assert!(seen.completed(1));
    assert!(started.elapsed() < Duration::from_secs(60));
    let pid = fs::read_to_string(bench.path("pid")).unwrap();
    Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[tokio::test]
async fn timeout_releases_what_was_never_given() {
    let bench = Bench {
        timeout: Duration::from_millis(800),
        ..Bench::new()
    };
    let mut sources = group(&["a", "b"]);
    // More than a pipe holds, so that the second line is never begun.
    sources[0]
        .row
        .insert("text".to_owned(), Value::Text("z".repeat(1 << 20)));
    let seen = bench.run("sleep 300", sources).await;
    assert_eq!(seen.failure(1).0, "SG8004");
    assert_eq!(seen.outcomes[&2], Outcome::Released);
}

#[tokio::test]
async fn group_stops_end_the_process_with_the_outcome_of_their_reason() {
    let check = async |reason, expected: fn(&Outcome) -> bool| {
        let (stop, stops) = mpsc::channel(8);
        let sources = group(&["echo-a", "hang-b", "echo-c"]);
        let seen = Bench::new()
            .run_stoppable("python3 worker.py", sources, stops, |job| {
                if job == JobId(1) {
                    stop.try_send(Stop::Group(reason)).unwrap();
                }
            })
            .await;
        assert!(seen.completed(1));
        for job in [2, 3] {
            assert!(
                expected(&seen.outcomes[&job]),
                "{reason:?}: {:?}",
                seen.outcomes[&job]
            );
        }
    };
    check(StopReason::Cancelled, |outcome| {
        *outcome == Outcome::Cancelled
    })
    .await;
    check(StopReason::Shutdown, |outcome| {
        *outcome == Outcome::Released
    })
    .await;
    check(
        StopReason::LeaseLost,
        |outcome| matches!(outcome, Outcome::Failed { code, .. } if code == "SG8006"),
    )
    .await;
    check(
        StopReason::Timeout,
        |outcome| matches!(outcome, Outcome::Failed { code, .. } if code == "SG8004"),
    )
    .await;
}

#[tokio::test]
async fn cancelled_job_ends_with_its_answer_while_others_go_on() {
    // The program answers source 1, waits for a file, then answers the rest.
    let bench = Bench::new();
    let script = r#"
import json, os, sys, time
first = True
for line in sys.stdin:
    s = json.loads(line)
    print(json.dumps({"job_id": s["job_id"]}), flush=True)
    while first and not os.path.exists("go"):
        time.sleep(0.01)
    first = False
"#;
    fs::write(bench.path("slow.py"), script).unwrap();
    let (stop, stops) = mpsc::channel(1);
    let sent = tokio::sync::Notify::new();
    let go = bench.path("go");
    let run = bench.run_stoppable("python3 slow.py", group(&["a", "b", "c"]), stops, |job| {
        if job == JobId(1) {
            stop.try_send(Stop::Job(JobId(2), StopReason::Cancelled))
                .unwrap();
            sent.notify_one();
        }
    });
    let release = async {
        sent.notified().await;
        // The channel of one has room again when the request was taken.
        drop(stop.reserve().await.unwrap());
        fs::write(&go, "").unwrap();
    };
    let (seen, ()) = tokio::join!(run, release);
    assert!(seen.completed(1) && seen.completed(3));
    assert_eq!(seen.outcomes[&2], Outcome::Cancelled);
}

#[tokio::test]
async fn process_ends_when_only_cancelled_jobs_are_left() {
    let (stop, stops) = mpsc::channel(8);
    let seen = Bench::new()
        .run_stoppable(
            "python3 worker.py",
            group(&["echo-a", "hang-b"]),
            stops,
            |job| {
                if job == JobId(1) {
                    stop.try_send(Stop::Job(JobId(2), StopReason::Cancelled))
                        .unwrap();
                }
            },
        )
        .await;
    assert!(seen.completed(1));
    assert_eq!(seen.outcomes[&2], Outcome::Cancelled);
}

#[tokio::test]
async fn nobody_listening_kills_the_process() {
    let bench = Bench::new();
    let spec = bench.spec("sh -c 'echo $$ > pid.new; mv pid.new pid; sleep 300'");
    let (_stop, stops) = mpsc::channel(1);
    let (sender, receiver) = mpsc::channel(1);
    let log: Arc<dyn LogSink> = Arc::new(MemoryLog::default());
    let run = run_command(&spec, &bench.limits, group(&["a"]), log, stops, sender);
    let leave = async {
        wait_until("start", || bench.path("pid").exists()).await;
        drop(receiver);
    };
    let (result, ()) = tokio::join!(run, leave);
    result.unwrap();
    let pid = fs::read_to_string(bench.path("pid")).unwrap();
    wait_until("death", || dead(pid.trim())).await;
}

#[tokio::test]
async fn placeholders_keep_blanks_quotes_and_braces_in_one_argument() {
    let bench = Bench::new();
    let mut sources = group(&["a b", "it's \"x\"", "$(touch pwned); {output}"]);
    for source in &mut sources {
        source.output = bench
            .path(&format!("out {}", source.job_id))
            .display()
            .to_string();
    }
    let script = r#"printf "%s|%s|%s|%s" "$1" "$2" "$SLUICEGATE_JOB_ID" "$SUITE" > "$3""#;
    let command = format!("sh -c '{script}' sh {{source_id}} uri={{uri}} {{output}}");
    let seen = bench.run(&command, sources.clone()).await;
    for source in &sources {
        let (job, id) = (source.job_id.0, &source.source_id);
        assert!(seen.completed(job), "{:?}", seen.outcomes);
        let written = fs::read_to_string(&source.output).unwrap();
        assert_eq!(written, format!("{id}|uri=in/{id}|{job}|demo"));
    }
    assert!(!bench.path("pwned").exists());
}

#[tokio::test]
async fn exit_code_decides_in_the_placeholder_form() {
    let bench = Bench::new();
    let command =
        r#"sh -c 'echo "log of $1"; test "$1" != b || { echo bad >&2; exit 4; }' sh {source_id}"#;
    let mut sources = group(&["a", "b", "c", "d"]);
    sources[3].source_id = "nul\0byte".to_owned();
    let seen = bench.run(command, sources).await;
    assert!(seen.completed(1) && seen.completed(3));
    let (code, message) = seen.failure(2);
    assert_eq!(code, "SG8002");
    assert!(
        message.contains("exit code 4") && message.contains("bad"),
        "{message}"
    );
    assert_eq!(seen.log_of(3), "log of c\n");
    assert_eq!(seen.failure(4).0, "SG8001");
}

#[tokio::test]
async fn timeout_in_the_placeholder_form_ends_one_source_only() {
    let bench = Bench {
        timeout: Duration::from_millis(800),
        ..Bench::new()
    };
    let command = r#"sh -c 'test "$1" != b || sleep 300' sh {source_id}"#;
    let seen = bench.run(command, group(&["a", "b", "c"])).await;
    assert!(seen.completed(1) && seen.completed(3));
    assert_eq!(seen.failure(2).0, "SG8004");
}

#[tokio::test]
async fn shutdown_in_the_placeholder_form_releases_the_rest() {
    let (stop, stops) = mpsc::channel(8);
    let command = r#"sh -c 'test "$1" != b || sleep 300' sh {source_id}"#;
    let seen = Bench::new()
        .run_stoppable(command, group(&["a", "b", "c", "d"]), stops, |job| {
            if job == JobId(1) {
                stop.try_send(Stop::Job(JobId(4), StopReason::Cancelled))
                    .unwrap();
                stop.try_send(Stop::Group(StopReason::Shutdown)).unwrap();
            }
        })
        .await;
    assert!(seen.completed(1));
    assert_eq!(seen.outcomes[&2], Outcome::Released);
    assert_eq!(seen.outcomes[&3], Outcome::Released);
    assert_eq!(seen.outcomes[&4], Outcome::Cancelled);
}

#[tokio::test]
async fn memory_limit_makes_the_program_fail_not_the_machine() {
    let bench = Bench {
        memory_bytes: Some(200 << 20),
        ..Bench::new()
    };
    let seen = bench
        .run("python3 -c 'bytearray(1 << 30)' {source_id}", group(&["a"]))
        .await;
    assert!(
        seen.failure(1).1.contains("MemoryError"),
        "{:?}",
        seen.outcomes
    );
}

#[tokio::test]
async fn unusable_commands_fail_every_source_and_say_so() {
    let commands = [
        "",
        "no-such-program-here",
        "python3 'open",
        "sh -c 'cat {uri}'",
    ];
    for command in commands {
        let seen = Bench::new().run(command, group(&["a", "b"])).await;
        assert_eq!(
            seen.result.as_ref().unwrap_err().code(),
            Code::CommandUnusable,
            "{command}"
        );
        assert_eq!(
            (seen.failure(1).0, seen.failure(2).0),
            ("SG8001", "SG8001"),
            "{command}"
        );
    }
}

/// Not a case of its own: the process that `death_of_the_worker_kills_the_program` kills.
#[tokio::test]
async fn worker_that_is_killed() {
    let Ok(folder) = std::env::var("SLUICEGATE_TEST_FOLDER") else {
        return;
    };
    let bench = Bench::new();
    let command = "sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 300'";
    let spec = CommandSpec {
        working_dir: folder.into(),
        ..bench.spec(command)
    };
    let (_stop, stops) = mpsc::channel(1);
    let (sender, _receiver) = mpsc::channel(1);
    let log: Arc<dyn LogSink> = Arc::new(MemoryLog::default());
    run_command(&spec, &bench.limits, group(&["a"]), log, stops, sender)
        .await
        .unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn death_of_the_worker_kills_the_program() {
    let folder = TempDir::new().unwrap();
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker::command::tests::worker_that_is_killed"])
        .env("SLUICEGATE_TEST_FOLDER", folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let file = folder.path().join("pid");
    wait_until("start of the program", || file.exists()).await;
    let pid = fs::read_to_string(&file).unwrap();
    assert!(!dead(pid.trim()));
    worker.kill().unwrap();
    worker.wait().unwrap();
    wait_until("death of the program", || dead(pid.trim())).await;
}
