//! Which files hold the events of a store.

use crate::error::Result;
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::store::Store;

/// A file of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsFile {
    /// Its path in the store.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// The first commit in it.
    pub from: Version,
    /// The last commit in it.
    pub to: Version,
}

/// The files that together hold the commits up to `up_to` exactly once, in order.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn events_files(store: &Store, up_to: Version) -> Result<Vec<EventsFile>> {
    let files = store.list("ledger").await?.into_iter().filter_map(|entry| {
        let version = codec::commit_version(&entry.path).filter(|version| *version <= up_to)?;
        Some(EventsFile {
            path: entry.path,
            bytes: entry.bytes,
            from: version,
            to: version,
        })
    });
    Ok(files.collect())
}
