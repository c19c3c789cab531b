//! A child process in a process group of its own, as one stream of events.
//!
//! Invariants: no pipe of the child ever blocks us or it (input, output and log move at once);
//! when [`Event::Ended`] was seen, nobody of the group is left; a child whose [`Process`] is
//! dropped is killed; a grandchild that keeps a pipe open delays the end by at most the grace.
//! Called by `worker::command` only. Unix only.

use std::collections::HashMap;
use std::ffi::OsString;
use std::future::{Future, pending};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Code, Error, Result};

/// Bytes read from a pipe at once. Chosen: the size of a Linux pipe.
const READ_BYTES: usize = 64 << 10;

/// Bytes read after a child's end without waiting. Chosen: both pipes at the largest size that
/// Linux gives to a process without privileges (pipe(7), pipe-max-size).
const LEFTOVER_BYTES_MAX: usize = 2 << 20;

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The program and its arguments; never empty.
    pub(crate) argv: Vec<OsString>,
    /// The folder it runs in.
    pub(crate) folder: PathBuf,
    /// Variables added to our own environment.
    pub(crate) env: HashMap<String, String>,
    /// Bound of the address space of each process of the group.
    pub(crate) memory_bytes: Option<u64>,
    /// When [`Event::Deadline`] comes.
    pub(crate) deadline: Instant,
    /// From the request to end until the kill, and how long pipes are drained after the end.
    pub(crate) grace: Duration,
    /// Whether it is fed.
    pub(crate) input: Input,
}

/// Whether a child gets input from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Standard input is `/dev/null`.
    Empty,
    /// Standard input is a pipe; see [`Process::feed`].
    Piped,
}

/// Something that happened to a child.
#[derive(Debug)]
pub(crate) enum Event {
    /// All input given so far is written: more may be fed, or the input closed.
    Fed,
    /// It wrote to standard output.
    Output(Vec<u8>),
    /// It wrote to standard error.
    Log(Vec<u8>),
    /// The deadline has passed. Comes once, and only while nobody asked it to end.
    Deadline,
    /// It has ended and its pipes are drained. Always the last event.
    Ended(ExitStatus),
}

/// How far the end of a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked to end; killed when the timer rings.
    Ending,
    /// Killed; only the exit status is missing.
    Killed,
    /// Gone; the pipes are drained until the timer rings.
    Gone(ExitStatus),
    /// Gone, and the timer has rung: what the pipes hold by now is still read, up to this many
    /// bytes, and nothing is waited for. Whoever still has them open may write for ever.
    Late(ExitStatus, usize),
}

/// A running child and its pipes.
pub(crate) struct Process {
    child: Child,
    group: libc::pid_t,
    phase: Phase,
    stdin: Option<ChildStdin>,
    pending: Vec<u8>,
    written: usize,
    hungry: bool,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    timer: Pin<Box<Sleep>>,
    deadline_passed: bool,
    grace: Duration,
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

impl Process {
    /// Starts a child in a new process group.
    ///
    /// # Errors
    /// `SG8001 command-unusable`: the program or the folder does not exist or may not be used.
    pub(crate) async fn start(start: Start) -> Result<Self> {
        let unusable = |program: &OsString, cause: io::Error| {
            Error::new(
                Code::CommandUnusable,
                format!(
                    "command \"{}\" cannot be started",
                    program.to_string_lossy()
                ),
            )
            .with_detail(format!(
                "{cause}; the folder is \"{}\".",
                start.folder.display()
            ))
            .with_hint("Name a program that this worker finds in its PATH, and an existing folder.")
            .with_source(cause)
        };
        let Some((program, arguments)) = start.argv.split_first() else {
            return Err(Error::new(Code::CommandUnusable, "the command is empty")
                .with_hint("Name a program: USING COMMAND 'python3 to_rdf.py'."));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&start.folder)
            .envs(&start.env)
            .stdin(match start.input {
                Input::Empty => Stdio::null(),
                Input::Piped => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        limit_child(&mut command, start.memory_bytes);
        let mut child = spawn_on_lasting_thread(command)
            .await
            .map_err(|cause| unusable(program, cause))?;
        let group = child
            .id()
            .and_then(|id| libc::pid_t::try_from(id).ok())
            .ok_or_else(|| Error::bug("a child that just started has no id"))?;
        Ok(Self {
            group,
            phase: Phase::Running,
            stdin: child.stdin.take(),
            pending: Vec::new(),
            written: 0,
            hungry: true,
            stdout: child.stdout.take().map(|pipe| Box::new(pipe) as Pipe),
            stderr: child.stderr.take().map(|pipe| Box::new(pipe) as Pipe),
            timer: Box::pin(sleep_until(start.deadline)),
            deadline_passed: false,
            grace: start.grace,
            child,
        })
    }

    /// Gives input; [`Event::Fed`] tells when all of it is written.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() {
            self.pending.extend_from_slice(bytes);
            self.hungry = true;
        }
    }

    /// Closes standard input, so that the child sees its end.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
        self.pending.clear();
        self.written = 0;
    }

    /// Asks the whole group to end (SIGTERM); it is killed when it has not after the grace.
    pub(crate) fn terminate(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Ending;
            self.signal(libc::SIGTERM);
            self.timer.as_mut().reset(Instant::now() + self.grace);
        }
    }

    /// The next event. Safe to drop and call again: no byte is lost.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Phase::Late(status, left) = self.phase {
                return self.leftover(status, left);
            }
            if let Some(event) = self.finished() {
                return event;
            }
            let timer_matters = match self.phase {
                Phase::Running => !self.deadline_passed,
                Phase::Ending | Phase::Gone(_) => true,
                Phase::Killed | Phase::Late(..) => false,
            };
            let running = !matches!(self.phase, Phase::Gone(_));
            tokio::select! {
                status = self.child.wait(), if running => self.bury(status),
                () = &mut self.timer, if timer_matters => {
                    if let Some(event) = self.ring() {
                        return event;
                    }
                }
                chunk = read(&mut self.stdout), if self.stdout.is_some() => match chunk {
                    Some(bytes) => return Event::Output(bytes),
                    None => self.stdout = None,
                },
                chunk = read(&mut self.stderr), if self.stderr.is_some() => match chunk {
                    Some(bytes) => return Event::Log(bytes),
                    None => self.stderr = None,
                },
                count = write(&mut self.stdin, &self.pending[self.written..]),
                    if running && self.hungry && self.stdin.is_some() =>
                {
                    if let Some(event) = self.advance_input(count) {
                        return event;
                    }
                }
            }
        }
    }

    fn finished(&self) -> Option<Event> {
        match self.phase {
            Phase::Gone(status) if self.stdout.is_none() && self.stderr.is_none() => {
                Some(Event::Ended(status))
            }
            Phase::Gone(_) | Phase::Late(..) | Phase::Running | Phase::Ending | Phase::Killed => {
                None
            }
        }
    }

    /// What the pipes hold without waiting, then the end. On a busy machine the timer can ring
    /// before the last output is read, and an answer must not be lost for that.
    fn leftover(&mut self, status: ExitStatus, left: usize) -> Event {
        if left == 0 {
            return Event::Ended(status);
        }
        let (bytes, event): (_, fn(Vec<u8>) -> Event) = match ready_bytes(&mut self.stdout) {
            Some(bytes) => (bytes, Event::Output),
            None => match ready_bytes(&mut self.stderr) {
                Some(bytes) => (bytes, Event::Log),
                None => return Event::Ended(status),
            },
        };
        self.phase = Phase::Late(status, left.saturating_sub(bytes.len()));
        event(bytes)
    }

    /// The leader has ended: what it left behind in its group is killed, or it would keep the
    /// pipes open and go on working on sources whose locks are released.
    fn bury(&mut self, status: io::Result<ExitStatus>) {
        self.signal(libc::SIGKILL);
        self.close_input();
        // Waiting for our own child fails only when somebody else reaped it: the status is lost,
        // and counts as exit code 255, for the default would be success.
        self.phase = Phase::Gone(status.unwrap_or_else(|_| ExitStatus::from_raw(255 << 8)));
        self.timer.as_mut().reset(Instant::now() + self.grace);
    }

    fn ring(&mut self) -> Option<Event> {
        match self.phase {
            Phase::Running => {
                self.deadline_passed = true;
                return Some(Event::Deadline);
            }
            Phase::Ending => {
                self.signal(libc::SIGKILL);
                self.phase = Phase::Killed;
            }
            // Somebody who left the group still holds the pipes: we do not wait for it.
            Phase::Gone(status) => self.phase = Phase::Late(status, LEFTOVER_BYTES_MAX),
            Phase::Killed | Phase::Late(..) => {}
        }
        None
    }

    fn advance_input(&mut self, count: io::Result<usize>) -> Option<Event> {
        match count {
            Ok(count) => {
                self.written += count;
                if self.written < self.pending.len() {
                    return None;
                }
                self.pending.clear();
                self.written = 0;
                self.hungry = false;
                Some(Event::Fed)
            }
            // It does not read its input (any more). What it answers and how it ends counts.
            Err(_) => {
                self.close_input();
                None
            }
        }
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: killpg has no memory effects. The id cannot have been given to a stranger: the
        // kernel keeps it while the leader is not reaped or any member lives. Only between the
        // reaping and the call in `bury` may it be free, far less than a round of process ids.
        unsafe {
            libc::killpg(self.group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.phase {
            Phase::Running | Phase::Ending | Phase::Killed => self.signal(libc::SIGKILL),
            Phase::Gone(_) | Phase::Late(..) => {}
        }
    }
}

/// What a pipe holds; `None` where reading would have to wait.
fn ready_bytes(pipe: &mut Option<Pipe>) -> Option<Vec<u8>> {
    // Unconstrained: a spent task budget would look like an empty pipe.
    unconstrained(read(pipe)).now_or_never().flatten()
}

async fn read(pipe: &mut Option<Pipe>) -> Option<Vec<u8>> {
    let Some(pipe) = pipe else {
        return pending().await;
    };
    let mut bytes = Vec::with_capacity(READ_BYTES);
    match pipe.read_buf(&mut bytes).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(bytes),
    }
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(_) if bytes.is_empty() => Ok(0),
        Some(stdin) => stdin.write(bytes).await,
        None => pending().await,
    }
}

/// Sets what must be set between fork and exec.
fn limit_child(command: &mut Command, memory_bytes: Option<u64>) {
    #[cfg(target_os = "linux")]
    let parent = std::process::id();
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are
    // allowed: it makes system calls only, and allocates nothing (errors from errno do not).
    unsafe {
        command.pre_exec(move || {
            if let Some(bytes) = memory_bytes {
                let limit = libc::rlimit {
                    rlim_cur: bytes as _,
                    rlim_max: bytes as _,
                };
                if libc::setrlimit(libc::RLIMIT_AS, &raw const limit) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            #[cfg(target_os = "linux")]
            {
                // The child dies with us, even when we are killed. We may be dead already.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            Ok(())
        });
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts the child on a thread that lives as long as this process.
///
/// The death signal of Linux is sent when the *thread* that forked ends, and threads of the
/// runtime do end (those of the blocking pool after ten idle seconds).
fn spawn_on_lasting_thread(mut command: Command) -> impl Future<Output = io::Result<Child>> + Send {
    static STARTER: OnceLock<Option<mpsc::SyncSender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = mpsc::sync_channel::<Job>(64);
        std::thread::Builder::new()
            .name("command-starter".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .ok()
            .map(|_| sender)
    });
    let runtime = tokio::runtime::Handle::current();
    let (reply, child) = oneshot::channel();
    let job: Job = Box::new(move || {
        let _context = runtime.enter();
        // A dropped receiver drops the child, which kills it.
        let _ = reply.send(command.spawn());
    });
    let sent = starter
        .as_ref()
        .is_some_and(|starter| starter.send(job).is_ok());
    async move {
        let gone = || io::Error::other("the thread that starts commands is gone");
        if !sent {
            return Err(gone());
        }
        child.await.unwrap_or_else(|_| Err(gone()))
    }
}
