//! The errors of the store and of what it holds, in one place, so that they read alike.

use crate::error::{Code, Error};
use crate::id::Version;
use crate::model::lineage::FORMAT;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A file of the store cannot be read, written, listed or deleted.
pub(super) fn unavailable(verb: &str, path: &str, cause: impl Into<Cause>) -> Error {
    unable(&format!("{verb} file \"{path}\""), cause)
}

/// The same for what is described.
pub(super) fn unable(act: &str, cause: impl Into<Cause>) -> Error {
    let cause = cause.into();
    Error::new(Code::StoreUnavailable, format!("the store cannot {act}"))
        .with_detail(format!("{cause}."))
        .with_hint("Check that the store can be reached and written, and has room; then try again.")
        .with_source(cause)
}

/// It is not known whether a file was written.
pub(super) fn unconfirmed(path: &str, cause: impl Into<Cause>) -> Error {
    let cause = cause.into();
    Error::new(
        Code::StoreUnavailable,
        format!("the store did not confirm file \"{path}\""),
    )
    .with_detail(format!(
        "It is unknown whether the file was written. {cause}."
    ))
    .with_hint("Check the network and the store, then look before you try again.")
    .with_source(cause)
}

/// Commits between `before` and `after` are nowhere.
pub(super) fn hole(before: Version, after: Version) -> Error {
    Error::new(
        Code::StoreCorrupt,
        format!("commit {} is missing", before.next()),
    )
    .with_detail(format!("The ledger goes on with commit {after}."))
    .with_hint("Restore the file from a backup; sluicegate check names all that are missing.")
}

/// A file was cleaned up by another process.
pub(super) fn gone(path: &str) -> Error {
    snapshot_gone(&format!("\"{path}\""))
}

/// The same for one that is described.
pub fn snapshot_gone(file: &str) -> Error {
    Error::new(
        Code::SnapshotGone,
        format!("file {file} has been cleaned up"),
    )
    .with_detail("It was replaced by newer files longer than ledger_grace ago.")
    .with_hint("Run the statement again; it reads the newest version.")
}

/// The store is not the one that was opened.
pub(super) fn replaced(version: Version, found: &str) -> Error {
    Error::new(
        Code::StoreReplaced,
        "the store is not the one that this process opened",
    )
    .with_detail(format!("Commit {version} was its newest; {found}."))
    .with_hint("Find out who deleted or replaced it; start again to work with what is there.")
}

/// A file cannot be read as what it should be.
pub fn damaged(path: &str, cause: impl Into<Cause>) -> Error {
    let cause = cause.into();
    Error::new(Code::StoreCorrupt, format!("file \"{path}\" is damaged"))
        .with_detail(format!("{cause}."))
        .with_hint("Restore the file from a backup; sluicegate check names all damaged files.")
        .with_source(cause)
}

/// A file of a later format.
pub fn too_new(path: &str, format: u32) -> Error {
    Error::new(
        Code::StoreTooNew,
        format!("file \"{path}\" has format {format}"),
    )
    .with_detail(format!("This program reads formats up to {FORMAT}."))
    .with_hint("Use a newer version of Sluicegate.")
}
