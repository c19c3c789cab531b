//! Which of several processes writes the next checkpoint.
//!
//! All of them see at the same moment that one is due. Each would write it, and the store would
//! get as many as there are processes. So whoever is first announces it by a file in the folder of
//! the checkpoint before; the others leave it to that one, for a while. It is a courtesy: two
//! checkpoints do no harm, and one that never comes is written by another process later.

use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::id::Version;
use crate::ledger::checkpoint::{FOLDER, folder_version};
use crate::ledger::store::file::Entry;
use crate::ledger::store::{PutNew, Store};
use crate::time::Timestamp;

/// How long an announcement keeps others away. Chosen: a checkpoint of a hundred million sources.
const KEPT_AWAY: Duration = Duration::from_secs(120);

/// Announcements after one checkpoint. Chosen: as many processes died over it.
const ANNOUNCED_MAX: usize = 1000;

const NAME: &str = "next-";

/// Announces the checkpoint that follows the one of version `base`.
///
/// # Arguments
/// * `entries`: the listing of all checkpoints.
/// * `now`: the store's present moment.
///
/// # Returns
/// Whether this process is to write it.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub(super) async fn announce(
    store: &Store,
    base: Version,
    entries: &[Entry],
    now: Timestamp,
) -> Result<bool> {
    let announced = |entry: &&Entry| {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        folder_version(&entry.path) == Some(base) && name.starts_with(NAME)
    };
    let announced: Vec<&Entry> = entries.iter().filter(announced).collect();
    let newest = announced.iter().map(|entry| entry.modified).max();
    let kept_away = newest.is_some_and(|newest| now.since(newest) < KEPT_AWAY);
    if kept_away || announced.len() >= ANNOUNCED_MAX {
        return Ok(false);
    }
    let path = format!("{FOLDER}/{:020}/{NAME}{:03}", base.0, announced.len());
    // The bytes tell whose file it is, where an answer is lost.
    let bytes = Bytes::from(format!("{:016x}", crate::chance::number()));
    Ok(store.put_new(&path, bytes).await? == PutNew::Created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::memory;

    #[tokio::test]
    async fn one_process_announces_a_checkpoint_and_another_takes_over_later() {
        let store = memory().await;
        let base = Version(7);
        let now = crate::time::Clock::System.now();
        let entries = store.list(FOLDER).await.unwrap();
        assert!(announce(&store, base, &entries, now).await.unwrap());
        // Whoever listed before it was announced, and whoever sees it.
        assert!(!announce(&store, base, &entries, now).await.unwrap());
        let entries = store.list(FOLDER).await.unwrap();
        assert!(!announce(&store, base, &entries, now).await.unwrap());
        let later = now.after(KEPT_AWAY * 2);
        assert!(announce(&store, base, &entries, later).await.unwrap());
        assert!(announce(&store, Version(9), &entries, now).await.unwrap());
    }
}
