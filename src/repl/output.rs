//! Where data goes: standard output or a file. Data goes nowhere else, and nothing else goes here.
//!
//! Invariants: a closed pipe is remembered, so that `| head` ends quietly; a binary format is
//! refused on a terminal, and after another result in the same output.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(test)]
use std::sync::{Mutex, PoisonError};

use super::pager::{Pages, Paging};
use crate::error::{Code, Error, Result};
use crate::format::{Format, Look, Wide};

/// Columns assumed where a terminal does not tell its own. Chosen: the usual width.
const COLUMNS: usize = 80;

/// An output that results are written to, one after the other.
pub struct Output {
    target: Target,
    closed: Arc<AtomicBool>,
    left: Arc<AtomicBool>,
    results: u64,
}

enum Target {
    Stdout,
    File(File),
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::to(Target::Stdout)
    }

    /// A new file, or an emptied one.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn file(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| {
            Error::new(
                Code::OutputFailed,
                format!("output \"{}\" cannot be written", path.display()),
            )
            .with_detail(error.to_string())
            .with_hint("Name a file in a folder that exists and that you may write.")
            .with_source(error)
        })?;
        Ok(Self::to(Target::File(file)))
    }

    #[cfg(test)]
    pub(crate) fn memory(bytes: &Arc<Mutex<Vec<u8>>>) -> Self {
        Self::to(Target::Memory(Arc::clone(bytes)))
    }

    fn to(target: Target) -> Self {
        Self {
            target,
            closed: Arc::default(),
            left: Arc::default(),
            results: 0,
        }
    }

    /// Whether the reader of the output has gone.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether the person has left the pager of the last result, and wants no more of it.
    pub fn left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// How text formats look here.
    ///
    /// # Arguments
    /// `wide`: what becomes of rows that are wider than a terminal.
    pub fn look(&self, wide: Wide) -> Look {
        match &self.target {
            Target::Stdout if io::stdout().is_terminal() => Look::Terminal {
                columns: crossterm::terminal::size()
                    .map_or(COLUMNS, |(columns, _)| usize::from(columns).max(1)),
                styled: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
                wide,
            },
            Target::Stdout | Target::File(_) => Look::Plain,
            #[cfg(test)]
            Target::Memory(_) => Look::Plain,
        }
    }

    /// Whether the next result may have this format; asked before a statement runs, so that no
    /// effect is committed whose rows cannot be shown.
    ///
    /// # Errors
    /// SG1005 unsupported-statement: a binary format on a terminal, or not alone in its output.
    pub fn accept(&self, format: Format) -> Result<()> {
        if !format.binary() {
            return Ok(());
        }
        if self.look(Wide::Cut) != Look::Plain {
            return Err(Error::new(
                Code::Unsupported,
                format!("format \"{format}\" is binary and cannot go to a terminal"),
            )
            .with_hint("Redirect the output, or name a file with \\o FILE."));
        }
        if self.results > 0 {
            return Err(Error::new(
                Code::Unsupported,
                format!("an output in format \"{format}\" holds one result only"),
            )
            .with_hint("Write each result to a file of its own, or choose ndjson or csv."));
        }
        Ok(())
    }

    /// The writer of the next result.
    ///
    /// # Errors
    /// As [`Output::accept`]; SG6005 output-failed.
    pub fn next_result(&mut self, format: Format, paging: Paging) -> Result<Pipe> {
        self.accept(format)?;
        self.results += 1;
        self.left = Arc::default();
        let pages = match paging {
            Paging::On => Pages::try_new(&self.left),
            Paging::Off => None,
        };
        let inner: Box<dyn Write + Send> = match (&self.target, pages) {
            (Target::Stdout, Some(pages)) => Box::new(pages),
            (Target::Stdout, None) => Box::new(BufWriter::new(io::stdout())),
            (Target::File(file), _) => Box::new(BufWriter::new(
                file.try_clone().map_err(crate::format::unwritable)?,
            )),
            #[cfg(test)]
            (Target::Memory(bytes), _) => Box::new(Shared(Arc::clone(bytes))),
        };
        Ok(Pipe {
            inner,
            closed: Arc::clone(&self.closed),
        })
    }
}

/// A writer that remembers when its reader has gone.
pub struct Pipe {
    inner: Box<dyn Write + Send>,
    closed: Arc<AtomicBool>,
}

impl Pipe {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::BrokenPipe
        {
            self.closed.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.note(result)
    }
}

#[cfg(test)]
struct Shared(Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_outputs_hold_one_result() {
        let mut output = Output::memory(&Arc::default());
        output
            .next_result(Format::Arrow, Paging::On)
            .map(drop)
            .unwrap();
        let error = output.accept(Format::Arrow).unwrap_err();
        assert_eq!(error.code(), Code::Unsupported);
        output.accept(Format::Ndjson).unwrap();
    }

    #[test]
    fn closed_pipes_are_remembered_and_other_errors_are_not() {
        let closed = Arc::new(AtomicBool::new(false));
        let pipe = Pipe {
            inner: Box::new(Vec::new()),
            closed: Arc::clone(&closed),
        };
        let _ = pipe.note::<()>(Err(ErrorKind::StorageFull.into()));
        assert!(!closed.load(Ordering::Relaxed));
        let _ = pipe.note::<()>(Err(ErrorKind::BrokenPipe.into()));
        assert!(closed.load(Ordering::Relaxed));
    }

    #[test]
    fn unwritable_file_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/such/a.csv");
        let error = Output::file(&path).map(drop).unwrap_err();
        assert_eq!(error.code(), Code::OutputFailed);
        assert!(error.message().contains("a.csv"));
    }
}
