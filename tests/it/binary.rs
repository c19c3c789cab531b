//! The real program on a real folder: started, watched, killed, and asked afterwards.
//!
//! Whatever waits here waits for a condition, for [`PATIENCE`] at most.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to come true. Chosen: far longer than a slow machine needs, for
/// only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A row of a result by column.
pub type Row = serde_json::Map<String, Value>;

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(LOOK);
    }
}

/// A whole number of a row.
#[track_caller]
pub fn int(row: &Row, column: &str) -> i64 {
    let value = &row[column];
    value
        .as_i64()
        .unwrap_or_else(|| panic!("{column} of {row:?}"))
}

/// A text of a row.
#[track_caller]
pub fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    let value = &row[column];
    value
        .as_str()
        .unwrap_or_else(|| panic!("{column} of {row:?}"))
}

/// Whether a process lives; one that has ended and is not waited for does not.
pub fn lives(id: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z'),
        Err(_) => false,
    }
}

/// A folder with a store in it.
pub struct Place {
    folder: TempDir,
    store: &'static str,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            store: "store",
        }
    }

    /// A path beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path(self.store)
    }

    /// Moves the store, as somebody who has a new disk does.
    pub fn move_store(&mut self, name: &'static str) {
        let to = self.path(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(self.store(), to).unwrap();
        self.store = name;
    }

    /// The program with this store, as it would be typed.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command
            .current_dir(self.folder.path())
            .env_remove("SLUICEGATE_STORE")
            .env_remove("SLUICEGATE_LOG")
            .arg("--store")
            .arg(self.store())
            .arg("--create")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    /// Runs statements in a process of their own; the rows of all their results.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Vec<Row> {
        let mut command = self.command();
        command.args(["--format", "ndjson", "-c", sql]);
        let done = command.stderr(Stdio::piped()).output().unwrap();
        let notes = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{sql}\n{notes}");
        rows(&String::from_utf8(done.stdout).unwrap())
    }

    /// `sluicegate check` finds nothing wrong.
    #[track_caller]
    pub fn check(&self) {
        let done = self.command().arg("check").output().unwrap();
        let found = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{found}");
        let clean = found.lines().any(|line| line.contains(" 0 errors"));
        assert!(clean, "{found}");
    }

    /// The newest commit by its file. Only for stores so young that none is cleaned up.
    pub fn commits(&self) -> usize {
        let entries = std::fs::read_dir(self.store().join("ledger"));
        let commits = entries.into_iter().flatten().flatten();
        let whole = |name: &str| !name.starts_with('.');
        commits
            .filter(|entry| entry.file_name().to_str().is_some_and(whole))
            .count()
    }

    /// Starts a worker.
    pub fn work(&self, arguments: &[&str]) -> Running {
        let mut command = self.command();
        command.arg("work").args(arguments);
        Running::start(command)
    }

    /// Lets workers work until every job is final.
    #[track_caller]
    pub fn work_out(&self) {
        wait_for("all jobs to become final", || {
            let mut worker = self.work(&["--until-idle", "--wait", "10", "--name", "last"]);
            assert_eq!(worker.end(), Some(0), "the worker's exit code");
            let live = self.sql("SELECT count(*) AS live FROM jobs WHERE ended_at IS NULL");
            (int(&live[0], "live") == 0).then_some(())
        });
    }
}

/// Lines of JSON.
pub fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// A process that is killed at the latest when it is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // A line without its end was cut off by a kill: it was not said.
            let whole = output.split(b'\n').map_while(Result::ok);
            for line in whole {
                let line = String::from_utf8_lossy(&line).into_owned();
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line of its output; `None` when it has said all.
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(Disconnected) => None,
            Err(Timeout) => panic!("a process said nothing"),
        }
    }

    pub fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: it has no memory effects, and the id is that of a child that is not waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// `kill -9`, and all that it had said.
    pub fn kill(&mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().collect()
    }

    /// Waits for its end; its exit code, where no signal ended it.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_for("the end of a process", || child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a file is there.
pub fn there(path: &Path) -> Option<()> {
    path.exists().then_some(())
}
