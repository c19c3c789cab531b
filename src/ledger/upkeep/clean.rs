//! The end of files that nobody needs any more.
//!
//! A file is judged by what the store says of it and by nothing that a process remembers, so it
//! does not matter who cleans up, or how often processes start and end.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Result;
use crate::id::Version;
use crate::ledger::checkpoint::{self, FOLDER, folder_version, manifest_version};
use crate::ledger::store::{Entry, Store};
use crate::model::rules;
use crate::model::state::State;
use crate::time::Timestamp;

/// Checkpoints that always stay: one of them may be lost.
const KEPT: usize = 2;

/// How old a file of a checkpoint is that was never finished, when it is swept. Chosen: far longer
/// than the largest one takes, so that a slow writer does not lose its first parts.
const UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);

/// Moments by which files are judged, all by the store's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// When the newest file of the store was written, which is not after now.
    pub now: Timestamp,
    /// That, less `ledger_grace`.
    pub before_grace: Timestamp,
    /// That, less the time that opening a store may take: whoever reads a checkpoint that goes
    /// opens again, but should not have to often.
    pub before_opening: Timestamp,
}

/// Deletes checkpoints that newer ones have replaced, and what is left of unfinished ones.
pub(super) async fn checkpoints(store: &Store, moments: Moments) -> Result<()> {
    let entries = store.list(FOLDER).await?;
    let whole: Vec<(Version, Timestamp)> = entries
        .iter()
        .filter_map(|entry| Some((manifest_version(&entry.path)?, entry.modified)))
        .collect();
    let old = replaced(&whole, moments);
    // Manifests first: without one, nobody takes the rest for a checkpoint.
    for version in &old {
        store.delete(&checkpoint::manifest_path(*version)).await?;
    }
    let newest = whole.last().map(|(version, _)| *version);
    for entry in &entries {
        let Some(version) = folder_version(&entry.path) else {
            continue;
        };
        let is_whole = whole.iter().any(|(whole, _)| *whole == version);
        let unfinished = !is_whole
            && newest.is_some_and(|newest| version <= newest)
            && entry.modified < moments.now.before(UNFINISHED_AGE);
        if old.contains(&version) || unfinished {
            store.delete(&entry.path).await?;
        }
    }
    Ok(())
}

/// The checkpoints that may go. `whole`: all, ascending, and when each was written.
///
/// Beside the newest ones the newest that is older than the grace stays: [`runs`] needs it.
fn replaced(whole: &[(Version, Timestamp)], moments: Moments) -> BTreeSet<Version> {
    let anchor = anchor(whole, moments.before_grace);
    let newer = whole.iter().skip(1);
    let pairs = whole
        .iter()
        .zip(newer)
        .take(whole.len().saturating_sub(KEPT));
    pairs
        .filter(|(_, (_, replaced_at))| *replaced_at < moments.before_opening)
        .map(|((version, _), _)| *version)
        .filter(|version| Some(*version) != anchor)
        .collect()
}

/// The newest checkpoint that was written before a moment.
fn anchor(whole: &[(Version, Timestamp)], before: Timestamp) -> Option<Version> {
    let mut newest_first = whole.iter().rev();
    newest_first
        .find(|(_, written_at)| *written_at < before)
        .map(|(version, _)| *version)
}

/// Deletes files of rows that no state names any more.
///
/// Take the newest checkpoint that is older than the grace, and a file that was older than
/// [`rules::FILE_AGE_MAX`], by its name, at the time of that checkpoint's commit. No later commit
/// may name it any more: the model refuses that, whoever slept over it. So if neither the
/// checkpoint nor the state names the file, then it was never named and never will be, or it
/// stopped to be before the checkpoint, and every reader that could need it has had its grace.
pub(super) async fn runs(store: &Store, state: &State, moments: Moments) -> Result<u64> {
    let manifests = store.list(FOLDER).await?;
    let whole: Vec<(Version, Timestamp)> = manifests
        .iter()
        .filter_map(|entry| Some((manifest_version(&entry.path)?, entry.modified)))
        .collect();
    let Some(anchor) = anchor(&whole, moments.before_grace) else {
        return Ok(0);
    };
    if state.version < anchor {
        return Ok(0);
    }
    let candidates = store.list("tables").await?;
    let named = run_paths(state);
    let unnamed = |entry: &Entry| !named.contains(entry.path.as_str());
    let candidates: Vec<Entry> = candidates.into_iter().filter(unnamed).collect();
    if candidates.is_empty() {
        return Ok(0);
    }
    let before = checkpoint::runs_of(store, anchor).await?;
    let mut deleted = 0;
    for entry in candidates {
        let made_at = rules::file_made_at(&entry.path);
        let old = made_at.is_some_and(|made_at| before.at.since(made_at) > rules::FILE_AGE_MAX);
        if old && !before.paths.contains(&entry.path) {
            store.delete(&entry.path).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// The paths of all runs of a state.
fn run_paths(state: &State) -> BTreeSet<&str> {
    let tables = state.tables.values();
    tables
        .flat_map(|table| table.runs.values())
        .map(|run| &*run.path)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(whole: &[(u64, i64)], before_grace: i64, before_opening: i64, gone: &[u64]) {
        let whole: Vec<_> = whole
            .iter()
            .map(|(version, at)| (Version(*version), Timestamp(*at)))
            .collect();
        let moments = Moments {
            now: Timestamp(100),
            before_grace: Timestamp(before_grace),
            before_opening: Timestamp(before_opening),
        };
        let replaced: Vec<u64> = replaced(&whole, moments).iter().map(|v| v.0).collect();
        assert_eq!(replaced, gone, "{whole:?} {moments:?}");
    }

    #[test]
    fn two_checkpoints_stay_and_one_from_before_the_grace() {
        let all = [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50)];
        check(&[], 100, 100, &[]);
        check(&all[..2], 100, 100, &[]);
        check(&all, 100, 100, &[1, 2, 3]);
        // 2 is what was there before the grace.
        check(&all, 25, 100, &[1, 3]);
        // 3 was replaced a moment ago.
        check(&all, 25, 35, &[1]);
        check(&all, 5, 5, &[]);
    }
}
