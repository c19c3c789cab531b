//! Whether what a process knows of a store is still so.
//!
//! A process may sleep for any time between any two calls (Ctrl-Z, a laptop, a stopped virtual
//! machine). Meanwhile commits are compacted and their files deleted, and then "there is no file
//! of that name" and "the file was created" no longer mean what they mean otherwise. Files are
//! deleted in the order of their versions. So as long as the file of the newest commit that the
//! process knows is there, and is that very file, nothing after it was ever deleted: all answers
//! since are true. Where it is not, a checkpoint or the history tells what became of it, or the
//! store is another one.

use std::time::Duration;

use crate::error::Result;
use crate::id::Version;
use crate::ledger::checkpoint;
use crate::ledger::codec::{self, Decoded};
use crate::ledger::errors::{gone, replaced};
use crate::ledger::history;
use crate::ledger::store::{Stamp, Store};
use crate::model::columns::EventsReader;
use crate::model::state::State;
use crate::model::transform::Permission;

/// The share of `ledger_grace` after which the answers of a bucket are checked by a request of
/// its own. Files are deleted after the whole of it; the rest is for requests under way.
const TRUSTED_SHARE: u32 = 10;

/// Which file is the commit of a version.
type Commit = (Version, Stamp);

/// The newest commit of which a process knows that it stands, and when it asked last.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// `None` where there is no commit, or its file was not there.
    anchor: Option<Commit>,
    /// The newest one that was read since, which is true only if the anchor still stands.
    newest: Option<Commit>,
    /// The reading of the running clock before the store was asked last.
    asked_at: Duration,
}

/// Whether the store is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// All answers since are true.
    Yes,
    /// The newest known commit is not there: it was cleaned up, or the store is another one.
    No,
}

/// What became of a commit that was put while it was not certain that its place was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the commit of that version.
    Valid,
    /// Another commit had the place and was compacted: nobody ever reads the file that was put.
    Dead,
}

impl Standing {
    /// Of a store that has just been opened.
    pub(super) fn new(version: Version, head: Option<Stamp>, asked_at: Duration) -> Self {
        let anchor = head.map(|stamp| (version, stamp));
        Self {
            newest: anchor.clone(),
            anchor,
            asked_at,
        }
    }

    /// Notes a newer commit. Whether it is one is known when the store has been asked.
    pub(super) fn moved(&mut self, version: Version, stamp: Stamp) {
        self.newest = Some((version, stamp));
    }

    /// Asks whether the anchor still stands; then what was read since is true, and the newest of
    /// it is the anchor from now on.
    ///
    /// # Arguments
    /// * `version`: the newest that was read.
    /// * `now`: a reading of the running clock, from before it was read.
    ///
    /// # Errors
    /// `SG7002 store-unavailable`.
    pub(super) async fn ask(
        &mut self,
        store: &Store,
        version: Version,
        now: Duration,
        grace: Duration,
    ) -> Result<Stands> {
        let away = now.saturating_sub(self.asked_at);
        if !store.is_near() && away < grace / TRUSTED_SHARE {
            self.anchor.clone_from(&self.newest);
            return Ok(Stands::Yes);
        }
        let stands = match &self.anchor {
            Some((version, stamp)) => {
                store.stamp(&codec::commit_path(*version)).await?.as_ref() == Some(stamp)
            }
            // There is nothing that could stand: a past that was cleaned up must be absent.
            None => checkpoint::newest(store)
                .await?
                .is_none_or(|newest| newest <= version),
        };
        if !stands {
            return Ok(Stands::No);
        }
        self.asked_at = now;
        self.anchor.clone_from(&self.newest);
        Ok(Stands::Yes)
    }
}

/// The newest state of a store in which the newest known commit is not there any more.
///
/// # Errors
/// `SG7006 store-replaced`: it is another store; those of [`checkpoint::open`].
pub(super) async fn reopened(store: &Store, known: &State) -> Result<checkpoint::Opened> {
    let opened = checkpoint::open(store).await?;
    let found = &opened.state;
    let what = if found.version == Version(0) {
        "there is no commit now".to_owned()
    } else if found.version < known.version {
        format!("the newest is commit {} now", found.version)
    } else if found.lineage.store != known.lineage.store && known.lineage.store.is_some() {
        "the commits are those of another store now".to_owned()
    } else if found.version == known.version
        && found.lineage.agrees(&known.lineage) == Permission::Denied
    {
        "another commit has its place now".to_owned()
    } else {
        return Ok(opened);
    };
    Err(replaced(known.version, &what))
}

/// What became of a commit whose file was created, although the commit before it is not there.
///
/// # Arguments
/// * `version`: of the commit; `known` is the state before it.
/// * `statements`: the statements whose events it holds.
///
/// # Errors
/// `SG7006 store-replaced`; `SG7002 store-unavailable`, `SG7003 store-corrupt`.
pub(super) async fn fate(
    store: &Store,
    version: Version,
    known: &State,
    statements: &[String],
) -> Result<Fate> {
    let files = history::history_files(store).await?;
    let chain = history::chain(&files);
    if let Some(file) = chain
        .iter()
        .find(|file| file.from <= version && version <= file.to)
    {
        let bytes = store
            .get(&file.path)
            .await?
            .ok_or_else(|| gone(&file.path))?;
        let events = codec::decode(&file.path, bytes)?;
        return Ok(
            match statements_of(&events, version).as_slice() == statements {
                true => Fate::Valid,
                false => Fate::Dead,
            },
        );
    }
    // It was never compacted, so never deleted: nothing else had its place, if its past is one
    // that was compacted.
    let reach = chain.last().map(|file| file.to).unwrap_or_default();
    if reach >= known.version {
        return Ok(Fate::Valid);
    }
    // Of a new store the file that was put would be a ledger that begins in the middle.
    let path = codec::commit_path(version);
    let others = history::ledger_files(store).await?;
    if others.iter().all(|file| file.path == path) && checkpoint::newest(store).await?.is_none() {
        store.delete(&path).await?;
    }
    Err(replaced(known.version, "it is not there any more"))
}

/// The statements of a commit, in the order of its rows, each as often as it begins anew.
pub(super) fn statements_of(events: &Decoded, version: Version) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for batch in &events.batches {
        let Ok(reader) = EventsReader::try_new(batch) else {
            continue;
        };
        for row in 0..reader.len() {
            if !reader.place(row).is_ok_and(|(of, _)| of == version) {
                continue;
            }
            if let Ok(origin) = reader.origin(row)
                && statements.last().map(String::as_str) != Some(origin.statement_id)
            {
                statements.push(origin.statement_id.to_owned());
            }
        }
    }
    statements
}
