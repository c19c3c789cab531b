//! Opens a store and wires all parts together.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Limits;
use crate::error::Result;
use crate::functions::files::Roots;
use crate::ledger::Ledger;
use crate::ledger::store::{Store, StoreOptions};
use crate::session::Session;
use crate::session::claim::ClaimJobs;
use crate::session::core::{Core, Procedure};
use crate::session::progress::Watcher;
use crate::time::Clock;
use crate::worker::run_jobs::RunJobs;
use crate::worker::{WorkOptions, Worked, work};

pub use crate::session::Access;

/// What to open and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The store: a folder or an object-store URL.
    pub store: String,
    /// Whether sessions may change the store.
    pub access: Access,
    /// Folders, beside the store and the working folder, in which statements may read and write.
    pub roots: Vec<PathBuf>,
}

impl EngineOptions {
    /// A store that may be changed, with no further folders.
    pub fn new(store: impl Into<String>) -> Self {
        Self {
            store: store.into(),
            access: Access::ReadWrite,
            roots: Vec::new(),
        }
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
    access: Access,
}

impl Engine {
    /// Opens the store, and makes it where it does not exist.
    ///
    /// # Errors
    /// `SG7001 store-url`, `SG7002 store-unavailable`, `SG7003 store-corrupt`, `SG7004
    /// store-too-new`.
    pub async fn open(options: EngineOptions) -> Result<Self> {
        Self::open_with(options, Clock::System, Limits::default()).await
    }

    /// Opens the store with a clock and limits of one's own.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub async fn open_with(options: EngineOptions, clock: Clock, limits: Limits) -> Result<Self> {
        let store = Store::open(&options.store, &StoreOptions::default()).await?;
        let folder = std::env::current_dir().ok();
        let roots = Roots::new(store.url().as_str(), folder.as_deref(), &options.roots)?;
        let ledger = Ledger::open(store, clock, Arc::new(limits)).await?;
        let procedures: Vec<Arc<dyn Procedure>> = vec![Arc::new(ClaimJobs), Arc::new(RunJobs)];
        let core = Core::try_new(ledger, Arc::new(roots), procedures)?;
        Ok(Self {
            core: Arc::new(core),
            access: options.access,
        })
    }

    /// Opens a session of one user, whose name stands in every event that it causes.
    pub fn session(&self, actor: &str) -> Session {
        Session::new(Arc::clone(&self.core), actor, self.access)
    }

    /// Works the queue, as `CALL run_jobs` does, until the options say so or `stop` turns true.
    ///
    /// # Errors
    /// Those of [`work`].
    pub async fn work(
        &self,
        options: WorkOptions,
        stop: watch::Receiver<bool>,
        watcher: Watcher,
    ) -> Result<Worked> {
        work(&self.core, options, stop, watcher).await
    }

    /// Waits, within `Limits::shutdown_wait`, for what goes on in the background.
    pub async fn close(&self) {
        self.core.background.close();
        let wait = self.core.ledger.limits().shutdown_wait;
        if tokio::time::timeout(wait, self.core.background.wait())
            .await
            .is_err()
        {
            tracing::warn!("workers did not end in time; their leases will run out");
        }
    }

    /// The ledger of the store.
    pub fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }
}
