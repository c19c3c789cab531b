//! What a process asks of its committer.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::id::Version;
use crate::model::draft::{Author, Draft};

/// Who does what nobody asked for: upkeep, the end of leases. Events name it.
pub(super) const ACTOR: &str = "upkeep";

/// A question or a wish.
pub(super) enum Request {
    /// Read what other processes committed.
    CatchUp(oneshot::Sender<Result<()>>),
    /// Decide and commit.
    Commit(Proposal),
}

/// Decides one statement. May run several times, each time on another state.
pub(super) type Decide = Box<dyn Fn(&mut Draft<'_>) -> Result<()> + Send>;

/// What a proposal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To change something.
    Change,
    /// To put the time of the store right; then the store's time may be in the future.
    Repair,
}

/// A statement that wants to commit.
pub(super) struct Proposal {
    pub author: Author,
    pub purpose: Purpose,
    pub decide: Decide,
    pub done: oneshot::Sender<Result<Version>>,
    /// Races that it lost.
    pub races: u32,
    /// How long it took to decide last time.
    pub took: Duration,
}

impl Proposal {
    pub(super) fn new(
        author: Author,
        purpose: Purpose,
        decide: Decide,
        done: oneshot::Sender<Result<Version>>,
    ) -> Self {
        Self {
            author,
            purpose,
            decide,
            done,
            races: 0,
            took: Duration::ZERO,
        }
    }

    /// Tells whoever asked. One that has gone away no longer wants to know.
    pub(super) fn answer(self, result: Result<Version>) {
        drop(self.done.send(result));
    }
}

/// Tells the same to several.
pub(super) fn answer_all(proposals: Vec<Proposal>, result: impl Fn() -> Result<Version>) {
    for proposal in proposals {
        proposal.answer(result());
    }
}

/// The same error for each of several statements. The source stays with the first.
pub(super) fn copy_of(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.message());
    if let Some(detail) = error.detail() {
        copy = copy.with_detail(detail);
    }
    if let Some(hint) = error.hint() {
        copy = copy.with_hint(hint);
    }
    copy
}
