//! Work of the file system, off the runtime's threads, with its errors as ours.

use std::io::{self, ErrorKind};

use tokio::task::spawn_blocking;

use crate::error::{Code, Error, Result};
use crate::ledger::errors::unavailable;

/// Does what blocks.
pub(super) async fn blocking<T: Send + 'static>(
    verb: &str,
    path: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => {
            Err(without_links().with_source(error))
        }
        Ok(Err(error)) => Err(unavailable(verb, path, error)),
        Err(error) => Err(unavailable(verb, path, error)),
    }
}

fn without_links() -> Error {
    Error::new(
        Code::StoreUnsafe,
        "the file system of the store cannot make hard links",
    )
    .with_detail("A commit is a hard link to its name: the only way that never replaces a file.")
    .with_hint("Put the store on a file system such as ext4, XFS, APFS or NFS, or into a bucket.")
}
