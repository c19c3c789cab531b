//! A pager for results that are longer than the screen: `$PAGER`, or less.
//!
//! Invariants: what fits on the screen goes straight to it; a pager that cannot be started costs
//! no row; whoever leaves the pager wants no further rows, which is no error; the terminal is the
//! pager's until it has ended.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is run where `PAGER` is not set: long lines are cut, colours shown, and what is on the
/// screen stays there.
const LESS: [&str; 2] = ["less", "-SRFX"];

/// Lines that are needed below a result: the count of rows and the prompt.
const BELOW: usize = 2;

/// Whether long results go through a pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// They do, where a person sits at a terminal.
    On,
    /// They never do.
    Off,
}

/// The size of a terminal, and how much of it is written on.
#[derive(Debug, Clone, Copy)]
struct Screen {
    lines_max: usize,
    columns: usize,
    lines: usize,
    column: usize,
    escape: bool,
}

impl Screen {
    fn new(columns: usize, rows: usize) -> Self {
        Self {
            lines_max: rows.saturating_sub(BELOW),
            columns: columns.max(1),
            lines: 0,
            column: 0,
            escape: false,
        }
    }

    /// Whether the screen still holds all that was written, with these bytes.
    fn holds(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match byte {
                b'\n' => {
                    self.lines += 1;
                    self.column = 0;
                }
                0x1b => self.escape = true,
                letter if self.escape => self.escape = !letter.is_ascii_alphabetic(),
                // Further bytes of one letter.
                0x80..=0xbf => {}
                _ if self.column == self.columns => {
                    self.lines += 1;
                    self.column = 1;
                }
                _ => self.column += 1,
            }
        }
        self.lines <= self.lines_max
    }
}

/// A writer to the terminal that begins a pager when the screen is full.
pub struct Pages {
    screen: Screen,
    state: State,
    left: Arc<AtomicBool>,
}

enum State {
    /// It may fit on the screen.
    Holding(Vec<u8>),
    /// There is no pager.
    Direct,
    /// The pager reads.
    Paging(Child, ChildStdin),
    /// The pager has ended.
    Left,
}

impl Pages {
    /// Pages for one result.
    ///
    /// # Arguments
    /// `left`: set when the person leaves the pager before the end.
    ///
    /// # Returns
    /// None where nobody could use a pager: input or output is no terminal, its size is unknown,
    /// or `PAGER` is empty.
    pub fn try_new(left: &Arc<AtomicBool>) -> Option<Self> {
        let person = io::stdin().is_terminal() && io::stdout().is_terminal();
        if !person || std::env::var_os("PAGER").is_some_and(|value| value.is_empty()) {
            return None;
        }
        let (columns, rows) = crossterm::terminal::size().ok()?;
        (rows > 0).then(|| Self {
            screen: Screen::new(columns.into(), rows.into()),
            state: State::Holding(Vec::new()),
            left: Arc::clone(left),
        })
    }

    fn begin(&mut self, held: &[u8]) -> io::Result<()> {
        match pager() {
            Some((child, input)) => {
                self.state = State::Paging(child, input);
                self.page(held)
            }
            None => {
                self.state = State::Direct;
                io::stdout().write_all(held)
            }
        }
    }

    fn page(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Paging(_, input) = &mut self.state else {
            return Ok(());
        };
        match input.write_all(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.end();
                self.left.store(true, Ordering::Relaxed);
                Ok(())
            }
            written => written,
        }
    }

    /// Waits for the person to leave the pager.
    fn end(&mut self) {
        if let State::Paging(mut child, input) = std::mem::replace(&mut self.state, State::Left) {
            drop(input);
            // Its exit code says nothing about the rows.
            let _ = child.wait();
        }
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Holding(held) => {
                held.extend_from_slice(bytes);
                if !self.screen.holds(bytes) {
                    let held = std::mem::take(held);
                    self.begin(&held)?;
                }
            }
            State::Direct => io::stdout().write_all(bytes)?,
            State::Paging(..) => self.page(bytes)?,
            State::Left => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Direct => io::stdout().flush(),
            State::Paging(_, input) => match input.flush() {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                flushed => flushed,
            },
            State::Holding(_) | State::Left => Ok(()),
        }
    }
}

impl Drop for Pages {
    /// Shows what fitted on the screen; also of a statement that was cancelled.
    fn drop(&mut self) {
        if let State::Holding(held) = &self.state {
            let mut out = io::stdout();
            // A terminal that has gone is told of at the next write.
            let _ = out.write_all(held).and_then(|()| out.flush());
        }
        self.end();
    }
}

/// Starts the pager; none where there is none.
fn pager() -> Option<(Child, ChildStdin)> {
    let words = match std::env::var("PAGER") {
        Ok(line) => shell_words::split(&line).ok()?,
        Err(_) => LESS.map(str::to_owned).to_vec(),
    };
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "SRFX");
    }
    let mut child = command.spawn().ok()?;
    let input = child.stdin.take()?;
    Some((child, input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_count_lines_and_what_sticks_out_of_them() {
        // Eight lines for rows, of ten columns.
        for (text, held) in [
            ("a\n".repeat(8), true),
            ("a\n".repeat(9), false),
            (format!("{}\n", "a".repeat(10)).repeat(8), true),
            (format!("{}\n", "a".repeat(11)).repeat(4), true),
            (format!("{}\n", "a".repeat(11)).repeat(5), false),
            (format!("{}\n", "\u{e4}".repeat(10)).repeat(8), true),
            (
                format!("\x1b[1;2m{}\x1b[0m\n", "a".repeat(10)).repeat(8),
                true,
            ),
        ] {
            let mut screen = Screen::new(10, 10);
            assert_eq!(screen.holds(text.as_bytes()), held, "{text:?}");
        }
    }
}
