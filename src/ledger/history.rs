//! Which files hold the events of a store: the newest commits in `ledger/`, one file each, older
//! ones together in `history/events/<from>-<to>.parquet`, sorted by version and ordinal.
//!
//! History files never change and are never deleted, and a commit's own file is deleted only
//! after it is in one. Processes that compact at once mostly choose the same commits; where their
//! limits differ, files overlap, and [`chain`] picks ones that do not.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::errors::{gone, hole};
use crate::ledger::store::{Entry, Store};
use crate::time::Timestamp;

const FOLDER: &str = "history/events";

/// Bytes of ledger files that make a history file. Chosen: one that is decoded fits in memory
/// many times, and a year of busy weeks is some thousand files.
const FILE_BYTES: u64 = 64 << 20;

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
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

impl EventsFile {
    fn new(entry: Entry, from: Version, to: Version) -> Self {
        Self {
            path: entry.path,
            bytes: entry.bytes,
            from,
            to,
            modified: entry.modified,
        }
    }
}

/// The path of the history file of some commits.
pub fn history_path(from: Version, to: Version) -> String {
    format!("{FOLDER}/{:020}-{:020}.parquet", from.0, to.0)
}

fn history_range(path: &str) -> Option<(Version, Version)> {
    let name = path.strip_prefix(FOLDER)?.strip_prefix('/')?;
    let (from, to) = name.strip_suffix(".parquet")?.split_once('-')?;
    let (from, to) = (Version(from.parse().ok()?), Version(to.parse().ok()?));
    (from <= to && *path == history_path(from, to)).then_some((from, to))
}

/// All files of `history/events`, overlapping ones among them.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn history_files(store: &Store) -> Result<Vec<EventsFile>> {
    let files = store.list(FOLDER).await?.into_iter().filter_map(|entry| {
        let (from, to) = history_range(&entry.path)?;
        Some(EventsFile::new(entry, from, to))
    });
    Ok(files.collect())
}

/// The files of the ledger itself, ascending.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn ledger_files(store: &Store) -> Result<Vec<EventsFile>> {
    let files = store.list("ledger").await?.into_iter().filter_map(|entry| {
        let version = codec::commit_version(&entry.path)?;
        Some(EventsFile::new(entry, version, version))
    });
    Ok(files.collect())
}

/// Files that hold the commits from the first on without a hole or a commit twice, and reach as
/// far as any choice does.
pub fn chain(files: &[EventsFile]) -> Vec<EventsFile> {
    // By the commit after it: a file that ends there and continues a chain from commit 1.
    let mut ends: BTreeMap<Version, &EventsFile> = BTreeMap::new();
    let mut sorted: Vec<&EventsFile> = files.iter().collect();
    sorted.sort_by_key(|file| (file.from, file.to));
    for file in sorted {
        if file.from == Version(1) || ends.contains_key(&file.from) {
            ends.entry(file.to.next()).or_insert(file);
        }
    }
    let mut chain = Vec::new();
    let mut next = ends.last_key_value().map(|(end, _)| *end);
    while let Some(file) = next.and_then(|end| ends.get(&end)) {
        chain.push(EventsFile::clone(file));
        next = Some(file.from);
    }
    chain.reverse();
    chain
}

/// The last commit that a chain holds.
fn reach(chain: &[EventsFile]) -> Version {
    chain.last().map(|file| file.to).unwrap_or_default()
}

/// The files that together hold the commits up to `up_to` exactly once, in order.
///
/// # Errors
/// `SG7002 store-unavailable`.
///
/// # Guarantees
/// The files stay for `ledger_grace`, and history files for ever.
pub async fn events_files(store: &Store, up_to: Version) -> Result<Vec<EventsFile>> {
    // The ledger first: what is compacted between the two listings is then seen twice, not
    // never.
    let ledger = ledger_files(store).await?;
    let mut history = history_files(store).await?;
    history.retain(|file| file.to <= up_to);
    let mut files = chain(&history);
    let reached = reach(&files);
    let newer = ledger.into_iter();
    let newer = newer.filter(|file| file.from > reached && file.to <= up_to);
    for file in newer {
        let before = reach(&files);
        fill(store, &mut files, before, Version(file.from.0 - 1)).await?;
        files.push(file);
    }
    if up_to < Version(u64::MAX) {
        let before = reach(&files);
        fill(store, &mut files, before, up_to).await?;
    }
    Ok(files)
}

/// Asks by their names for the commits that a listing beside a writer has passed over.
async fn fill(
    store: &Store,
    files: &mut Vec<EventsFile>,
    before: Version,
    last: Version,
) -> Result<()> {
    for version in (before.0 + 1..=last.0).map(Version) {
        let path = codec::commit_path(version);
        // One that is not there was compacted meanwhile, or is lost: whoever reads says so.
        if let Some(bytes) = store.size(&path).await? {
            files.push(EventsFile {
                path,
                bytes,
                from: version,
                to: version,
                modified: Timestamp::default(),
            });
        }
    }
    Ok(())
}

/// Writes the history files that are due: those of commits up to `up_to` that fill one.
///
/// # Arguments
/// * `file_commits`: commits that fill a file; so do [`FILE_BYTES`].
///
/// # Returns
/// How many were written.
///
/// # Errors
/// `SG7002 store-unavailable`, `SG7003 store-corrupt`.
pub async fn compact(store: &Store, up_to: Version, file_commits: u64) -> Result<u64> {
    let ledger = ledger_files(store).await?;
    let reached = reach(&chain(&history_files(store).await?));
    let mut due: Vec<EventsFile> = Vec::new();
    let mut bytes = 0;
    let mut written = 0;
    let newer = ledger.into_iter().filter(|file| file.from > reached);
    for file in newer.take_while(|file| file.to <= up_to) {
        bytes += file.bytes;
        due.push(file);
        if due.len() as u64 >= file_commits || bytes >= FILE_BYTES {
            write(store, &due).await?;
            due.clear();
            (bytes, written) = (0, written + 1);
        }
    }
    Ok(written)
}

async fn write(store: &Store, commits: &[EventsFile]) -> Result<()> {
    let (Some(first), Some(last)) = (commits.first(), commits.last()) else {
        return Ok(());
    };
    let path = history_path(first.from, last.to);
    if first == last {
        // One large commit: its file is as good as any, and decoding it may not fit in memory.
        let bytes = store.get(&first.path).await?;
        let bytes = bytes.ok_or_else(|| gone(&first.path))?;
        codec::check_hash(&first.path, &bytes)?;
        return store.put_new(&path, bytes).await.map(drop);
    }
    let mut batches = Vec::new();
    let mut expected = first.from;
    for file in commits {
        if file.from != expected {
            return Err(hole(Version(expected.0 - 1), file.from));
        }
        expected = expected.next();
        let bytes = store.get(&file.path).await?;
        let bytes = bytes.ok_or_else(|| gone(&file.path))?;
        batches.extend(codec::decode(&file.path, bytes)?.batches);
    }
    let bytes = codec::encode(&batches)?.bytes;
    // Whoever was first wrote the same events.
    store.put_new(&path, bytes).await.map(drop)
}

/// Deletes ledger files that nobody needs any more.
///
/// # Arguments
/// * `covered`: the version up to which checkpoints hold everything; of the older of two, so
///   that one of them may be lost.
/// * `before`: only commits whose history file was written before this moment; a reader that
///   listed the ledger earlier has had its grace.
///
/// # Returns
/// How many were deleted.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn delete_compacted(store: &Store, covered: Version, before: Timestamp) -> Result<u64> {
    let chain = chain(&history_files(store).await?);
    let old = chain.iter().take_while(|file| file.modified < before);
    let reached = old.last().map(|file| file.to).unwrap_or_default();
    let mut deleted = 0;
    for file in ledger_files(store).await? {
        if file.to <= reached.min(covered) && file.modified < before {
            store.delete(&file.path).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(from: u64, to: u64) -> EventsFile {
        EventsFile {
            path: history_path(Version(from), Version(to)),
            bytes: 0,
            from: Version(from),
            to: Version(to),
            modified: Timestamp(0),
        }
    }

    fn check(files: &[(u64, u64)], expected: &[(u64, u64)]) {
        let files: Vec<EventsFile> = files.iter().map(|(from, to)| file(*from, *to)).collect();
        let chain = chain(&files);
        let chain: Vec<(u64, u64)> = chain.iter().map(|f| (f.from.0, f.to.0)).collect();
        assert_eq!(chain, expected, "{files:?}");
    }

    #[test]
    fn chain_reaches_furthest_and_holds_no_commit_twice() {
        check(&[], &[]);
        check(&[(1, 4), (5, 8)], &[(1, 4), (5, 8)]);
        check(&[(5, 8)], &[]);
        check(&[(1, 4), (6, 8)], &[(1, 4)]);
        // The longer first file leads nowhere; the shorter one is continued.
        check(&[(1, 6), (1, 4), (5, 8)], &[(1, 4), (5, 8)]);
        check(&[(1, 4), (1, 6), (5, 6), (7, 9)], &[(1, 6), (7, 9)]);
    }

    #[test]
    fn a_history_path_names_its_commits() {
        let path = history_path(Version(1), Version(512));
        assert_eq!(history_range(&path), Some((Version(1), Version(512))));
        for path in [
            "history/events/1-2.parquet",
            "history/events/x",
            "history/jobs/a-b.parquet",
        ] {
            assert_eq!(history_range(path), None, "{path}");
        }
    }
}
