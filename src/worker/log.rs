//! Logs of attempts: what programs print, bounded, with the end kept for messages.
//!
//! Invariant: at most `bytes_max` bytes of a log reach its sink, and one note of what is missing.
//! The types are for the worker's loop, which stores logs; [`Log`] is for `worker::command`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::JobId;

/// Bytes of a log's end that a failure's message may quote. Chosen: a traceback's last lines.
const TAIL_BYTES: usize = 2048;
/// Lines of it.
const TAIL_LINES: usize = 8;

/// Whose log some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogOf {
    /// Of every attempt of the group: one process printed it.
    Group,
    /// Of the attempt of this job alone.
    Job(JobId),
}

/// Takes what programs print, as they print it. Called from the task that runs the group: it must
/// not block. At most `Limits::log_bytes_max` bytes, plus a note, come per [`LogOf`].
pub trait LogSink: Send + Sync {
    /// Adds bytes at the end of a log.
    fn append(&self, of: LogOf, bytes: &[u8]);
}

/// Keeps logs in memory.
#[derive(Debug, Default)]
pub struct MemoryLog(Mutex<HashMap<LogOf, Vec<u8>>>);

impl MemoryLog {
    /// What was printed for a job so far: by the process of its group, then by its own.
    pub fn of_job(&self, job: JobId) -> Vec<u8> {
        let logs = self.lock();
        let parts = [LogOf::Group, LogOf::Job(job)].map(|of| logs.get(&of));
        parts.into_iter().flatten().flatten().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LogOf, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSink for MemoryLog {
    fn append(&self, of: LogOf, bytes: &[u8]) {
        self.lock().entry(of).or_default().extend_from_slice(bytes);
    }
}

/// One log: bounded, with its end kept for messages.
pub(crate) struct Log {
    of: LogOf,
    sink: Arc<dyn LogSink>,
    room: u64,
    dropped: u64,
    tail: Vec<u8>,
}

impl Log {
    /// An empty log that keeps `bytes_max` bytes.
    pub(crate) fn new(of: LogOf, bytes_max: u64, sink: Arc<dyn LogSink>) -> Self {
        Self {
            of,
            sink,
            room: bytes_max,
            dropped: 0,
            tail: Vec::new(),
        }
    }

    /// Adds what was printed.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let kept = usize::try_from(self.room)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        if kept > 0 {
            self.sink.append(self.of, &bytes[..kept]);
        }
        self.room -= kept as u64;
        self.dropped += (bytes.len() - kept) as u64;
        self.tail
            .extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
    }

    /// Adds a line of our own.
    pub(crate) fn note(&mut self, text: &str) {
        self.append(format!("[sluicegate] {text}\n").as_bytes());
    }

    /// Says how much was dropped.
    pub(crate) fn close(&mut self) {
        if self.dropped > 0 {
            let note = format!("\n[sluicegate] {} more bytes were dropped\n", self.dropped);
            self.sink.append(self.of, note.as_bytes());
        }
    }

    /// The last lines, made to follow a message; empty where nothing was printed.
    pub(crate) fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        match &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            [] => String::new(),
            last => format!("; its log ends with: {}", last.join("\n")),
        }
    }
}
