//! Opening a store, and the checkpoints that keep opening short.

use std::sync::Arc;

use crate::config::Limits;
use crate::error::Result;
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::store::Store;
use crate::model::state::State;
use crate::time::Clock;

/// The newest state of a store.
///
/// # Errors
/// `SG7002 store-unavailable`, `SG7003 store-corrupt`, `SG7004 store-too-new`.
pub async fn open(store: &Store) -> Result<State> {
    let mut state = State::default();
    loop {
        let version = state.version.next();
        let path = codec::commit_path(version);
        let Some(bytes) = store.get(&path).await? else {
            return Ok(state);
        };
        codec::replay(&mut state, version, &codec::decode(&path, bytes)?)?;
    }
}

/// The version of the newest checkpoint.
///
/// # Errors
/// `SG7002 store-unavailable`.
pub async fn newest(_store: &Store) -> Result<Option<Version>> {
    Ok(None)
}

/// Background upkeep of a store.
#[derive(Debug, Clone)]
pub struct Maintenance {
    store: Store,
    limits: Arc<Limits>,
    clock: Clock,
}

impl Maintenance {
    /// Upkeep of a store that has just been opened.
    pub fn new(store: Store, limits: Arc<Limits>, clock: Clock) -> Self {
        Self {
            store,
            limits,
            clock,
        }
    }

    /// Notes a commit and its size in bytes.
    pub fn committed(&self, _version: Version, _bytes: u64) {}

    /// Whether so much time has passed that ledger files may be gone which were not read yet.
    pub fn may_be_cut_off(&self) -> bool {
        false
    }
}
