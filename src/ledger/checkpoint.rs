//! Checkpoints: whole snapshots, so that opening a store need not replay everything.
//!
//! `checkpoints/<version>/` holds one Parquet file per [`Part`] of the state and `manifest.json`,
//! which names them. The manifest is put last and only if there is none: a checkpoint is whole
//! once it is visible, and of several processes that write the same one, one wins. Files have
//! random names, so that those of the others are never mixed in.
//!
//! `open == replay of all commits` in the sense of [`crate::model::compare`]. A checkpoint that
//! is damaged is passed over, for an older one or for the replay of everything.

mod manifest;
mod parts;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Code, Result};
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::cost::Cost;
use crate::ledger::errors::{damaged, gone, hole};
use crate::ledger::history::{self, EventsFile};
use crate::ledger::store::{Found, PutNew, Stamp, Store};
use crate::model::frozen::Frozen;
use crate::model::state::State;
use crate::time::Timestamp;

pub(super) use manifest::{FOLDER, folder_version, manifest_version};
pub use manifest::{Manifest, Written, manifest_path};

/// Ledger files read ahead while opening. Chosen: 500 commits at 30 ms each take half a second;
/// each is small, or at most one large commit.
const READ_AHEAD: usize = 32;

/// How often opening begins again because files were cleaned up under it. Each time a newer
/// checkpoint has been written meanwhile, so a second time is rare.
const OPEN_ATTEMPTS_MAX: u32 = 5;

/// What a store looked like when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The newest state.
    pub state: State,
    /// The checkpoint that it came from; `None` where everything was replayed.
    pub checkpoint: Option<Version>,
    /// What was replayed after it.
    pub replayed: Cost,
    /// Which file the newest commit is; `None` where there is no commit, or its file is not there.
    pub head: Option<Stamp>,
}

/// The newest state of a store.
///
/// # Errors
/// `SG7002 store-unavailable`, `SG7003 store-corrupt`, `SG7004 store-too-new`.
pub async fn open(store: &Store) -> Result<Opened> {
    let mut attempt = 1;
    loop {
        match open_once(store).await {
            Err(error) if error.code() == Code::SnapshotGone && attempt < OPEN_ATTEMPTS_MAX => {
                tracing::debug!(%error, attempt, "the store is opened again");
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

async fn open_once(store: &Store) -> Result<Opened> {
    let mut damage = None;
    for version in versions(store).await?.into_iter().rev() {
        let opened = match load(store, version).await {
            Ok(state) => replay_ledger(store, state, Some(version)).await,
            Err(error) => Err(error),
        };
        match opened {
            Err(error) if error.code() == Code::StoreCorrupt => {
                tracing::warn!(%error, detail = error.detail(), %version, "checkpoint passed over");
                damage.get_or_insert(error);
            }
            ended => return ended,
        }
    }
    match (replay_all(store).await, damage) {
        // What is wrong with the newest checkpoint is the nearest cause.
        (Err(_), Some(error)) => Err(error),
        // Without any commit the damaged checkpoint was all that there was.
        (Ok(opened), Some(error)) if opened.state.version == Version(0) => Err(error),
        (ended, _) => ended,
    }
}

/// The state at the end of what `history/` and the ledger hold, from the very first commit.
async fn replay_all(store: &Store) -> Result<Opened> {
    let mut state = State::default();
    let files = history::history_files(store).await?;
    for file in history::chain(&files) {
        let bytes = read(store, &file.path).await?;
        replay_file(&mut state, &file, bytes)?;
    }
    replay_ledger(store, state, None).await
}

/// Folds one file of events into a state.
pub(super) fn replay_file(state: &mut State, file: &EventsFile, bytes: bytes::Bytes) -> Result<()> {
    codec::replay(
        state,
        file.from,
        file.to,
        &codec::decode(&file.path, bytes)?,
    )
}

async fn read(store: &Store, path: &str) -> Result<bytes::Bytes> {
    store.get(path).await?.ok_or_else(|| gone(path))
}

/// Folds the commits after `state` into it.
///
/// A listing beside writers has holes, so it only tells how far to go: each commit is asked for
/// by its name. One that is not there has been cleaned up, and then a newer checkpoint holds it;
/// or it is lost.
async fn replay_ledger(
    store: &Store,
    mut state: State,
    checkpoint: Option<Version>,
) -> Result<Opened> {
    let listed = store
        .list_after("ledger", &codec::commit_path(state.version))
        .await?;
    let listed = listed.iter().rev();
    let last = listed
        .filter_map(|entry| codec::commit_version(&entry.path))
        .next();
    let last = last.unwrap_or(state.version);
    let reads = (state.version.0 + 1..=last.0)
        .map(Version)
        // Each read owns its handle: a borrowed one would make the opening future not Send.
        .map(|version| (store.clone(), version, codec::commit_path(version)))
        .map(|(store, version, path)| async move {
            let found = store.read(&path).await;
            found.map(|found| (version, path, found))
        });
    let mut commits = stream::iter(reads).buffered(READ_AHEAD);
    let mut replayed = Cost::default();
    let mut head = None;
    while let Some((version, path, found)) = commits.try_next().await? {
        let Some(Found { bytes, stamp }) = found else {
            // Whoever deletes a commit has written a newer checkpoint before.
            let newest = newest(store).await?;
            return Err(match newest.is_some_and(|newest| newest >= version) {
                true => gone(&path),
                false => hole(state.version, last),
            });
        };
        let size = bytes.len() as u64;
        let events = codec::decode(&path, bytes)?;
        replayed.add(size, events.rows());
        codec::replay(&mut state, version, version, &events)?;
        head = Some(stamp);
    }
    if head.is_none() && state.version > Version(0) {
        head = store.stamp(&codec::commit_path(state.version)).await?;
    }
    Ok(Opened {
        state,
        checkpoint,
        replayed,
        head,
    })
}

/// The versions of all checkpoints that are whole, ascending.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn versions(store: &Store) -> Result<Vec<Version>> {
    let entries = store.list(FOLDER).await?;
    let found = entries.iter();
    Ok(found
        .filter_map(|entry| manifest_version(&entry.path))
        .collect())
}

/// The version of the newest checkpoint.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn newest(store: &Store) -> Result<Option<Version>> {
    Ok(versions(store).await?.pop())
}

/// The state of one checkpoint.
///
/// # Errors
/// `SG7003 store-corrupt`, `SG7004 store-too-new`; `SG7005 snapshot-gone` where it was cleaned
/// up meanwhile.
pub async fn load(store: &Store, version: Version) -> Result<State> {
    let path = manifest_path(version);
    let manifest = Manifest::parse(&path, &read(store, &path).await?)?;
    let loaded = parts::load(store, &manifest).await;
    match loaded {
        // Manifests go first when a checkpoint is cleaned up: a file that lacks while the
        // manifest is there is a loss.
        Err(error) if error.code() == Code::SnapshotGone && store.size(&path).await?.is_some() => {
            Err(damaged(&path, format!("{error}")))
        }
        other => other,
    }
}

/// The runs that a checkpoint names.
#[derive(Debug)]
pub(super) struct NamedRuns {
    /// The time of its commit.
    pub at: Timestamp,
    /// Their paths.
    pub paths: BTreeSet<String>,
}

/// The runs that a checkpoint names.
///
/// # Errors
/// Those of [`load`].
pub(super) async fn runs_of(store: &Store, version: Version) -> Result<NamedRuns> {
    let path = manifest_path(version);
    let manifest = Manifest::parse(&path, &read(store, &path).await?)?;
    Ok(NamedRuns {
        at: Timestamp(manifest.catalog().at),
        paths: parts::run_paths(store, &manifest).await?,
    })
}

/// Writes a checkpoint, unless there is one of this version.
///
/// # Errors
/// `SG7002 store-unavailable`.
///
/// # Guarantees
/// Whole or not there. Takes a second or so per ten million sources, and holds no lock.
pub async fn write(store: &Store, state: &State, at: Timestamp) -> Result<Written> {
    let path = manifest_path(state.version);
    if let Some(bytes) = store.get(&path).await? {
        return Ok(Manifest::parse(&path, &bytes)?.written(bytes.len()));
    }
    let frozen = Frozen::new(state);
    let files = parts::write(store, &frozen).await?;
    let manifest = Manifest::new(at, frozen.catalog(), files);
    let bytes = manifest.encode()?;
    let size = bytes.len();
    if store.put_new(&path, bytes).await? == PutNew::Created {
        return Ok(manifest.written(size));
    }
    for file in manifest.files() {
        store.delete(&file.path).await?;
    }
    let bytes = read(store, &path).await?;
    Ok(Manifest::parse(&path, &bytes)?.written(bytes.len()))
}
