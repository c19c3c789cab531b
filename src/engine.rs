//! Opens a store and wires all parts together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::functions::files::Roots;
use crate::ledger::store::{Store, StoreOptions};
use crate::ledger::{Duty, Ledger};
use crate::server::{ServeOptions, Tls, serve};
use crate::session::Session;
use crate::session::claim::ClaimJobs;
use crate::session::core::{Core, Procedure};
use crate::session::progress::Watcher;
use crate::time::Clock;
use crate::worker::run_jobs::RunJobs;
use crate::worker::{WorkOptions, Worked, work};

pub use crate::functions::files::WorkingFolder;
pub use crate::ledger::store::Absent;
pub use crate::session::Access;

/// What to open and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The store: a folder or an object-store URL.
    pub store: String,
    /// Whether sessions may change the store.
    pub access: Access,
    /// Folders, beside the store and an open working folder, in which statements may read and
    /// write.
    pub roots: Vec<PathBuf>,
    /// What statements may do in the working folder.
    pub working_folder: WorkingFolder,
    /// What opening for writing does where there is no store.
    pub absent: Absent,
}

impl EngineOptions {
    /// A store that may be changed, and is made where there is none, with the working folder and no
    /// further ones.
    pub fn new(store: impl Into<String>) -> Self {
        Self {
            store: store.into(),
            access: Access::ReadWrite,
            roots: Vec::new(),
            working_folder: WorkingFolder::Open,
            absent: Absent::Make,
        }
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
    access: Access,
    clock: Clock,
}

impl Engine {
    /// Opens the store. Where it does not exist, it is made if the options say so; for reading
    /// only, it must exist.
    ///
    /// # Errors
    /// `SG7001 store-url`: the address is wrong, or there is no store; `SG7002 store-unavailable`,
    /// `SG7003 store-corrupt`, `SG7004 store-too-new`.
    pub async fn open(options: EngineOptions) -> Result<Self> {
        Self::open_with(options, Clock::System, Limits::default()).await
    }

    /// Opens the store with a clock and limits of one's own.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub async fn open_with(options: EngineOptions, clock: Clock, limits: Limits) -> Result<Self> {
        let absent = match options.access {
            Access::ReadWrite | Access::Operator | Access::Worker => options.absent,
            Access::ReadOnly => Absent::Refuse,
        };
        let how = StoreOptions {
            absent,
            ..StoreOptions::default()
        };
        let store = Store::open(&options.store, &how).await?;
        let folder = std::env::current_dir().ok();
        let roots = Roots::new(
            store.url().as_str(),
            folder.as_deref(),
            options.working_folder,
            &options.roots,
        )?;
        let duty = match options.access {
            Access::ReadWrite | Access::Operator | Access::Worker => Duty::Takes,
            Access::ReadOnly => Duty::Leaves,
        };
        let ledger = Ledger::open_with(store, clock.clone(), Arc::new(limits), duty).await?;
        let procedures: Vec<Arc<dyn Procedure>> = vec![Arc::new(ClaimJobs), Arc::new(RunJobs)];
        let core = Core::try_new(ledger, Arc::new(roots), procedures)?;
        Ok(Self {
            core: Arc::new(core),
            access: options.access,
            clock,
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
        if self.access == Access::ReadOnly {
            return Err(Error::new(Code::ReadOnly, "a worker cannot run read-only")
                .with_hint("Open the store for writing; a worker commits what it does."));
        }
        work(&self.core, options, stop, watcher).await
    }

    /// Serves the store over HTTP, or over HTTPS with `tls`, until `stop` turns true. Requests
    /// without a token, which a store that never had one allows on this machine, act as `actor`.
    ///
    /// # Errors
    /// `SG4001 unauthenticated` for a listener that others reach, where the store has no token.
    pub async fn serve(
        &self,
        listener: TcpListener,
        actor: &str,
        tls: Option<Tls>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let options = ServeOptions {
            actor: actor.into(),
            access: self.access,
        };
        let core = Arc::clone(&self.core);
        serve(core, listener, options, tls, self.clock.clone(), stop).await
    }

    /// Waits, within `Limits::shutdown_wait`, for what goes on in the background: workers that
    /// hand back what runs, and the upkeep. Where every process is short, one of them must see
    /// the upkeep through.
    pub async fn close(&self) {
        self.close_within(self.core.ledger.limits().shutdown_wait)
            .await;
    }

    /// The same within a time of one's own.
    pub async fn close_within(&self, wait: Duration) {
        self.core.background.close();
        let background = async {
            self.core.background.wait().await;
            self.core.ledger.maintenance().idle().await;
        };
        if tokio::time::timeout(wait, background).await.is_err() {
            tracing::warn!("the background did not end in time; leases of workers will run out");
        }
    }

    /// The ledger of the store.
    pub fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::Int64Type;

    use crate::error::Code;
    use crate::ledger::history;

    use super::*;

    async fn rows(session: &Session, sql: &str) -> Result<Vec<RecordBatch>> {
        session.execute(sql).await?.collect().await
    }

    async fn number(session: &Session, sql: &str) -> i64 {
        let batches = rows(session, sql).await.unwrap();
        let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
        batch.column(0).as_primitive::<Int64Type>().value(0)
    }

    async fn store_of_notices() -> (Engine, Session) {
        let engine = Engine::open(EngineOptions::new("memory://")).await.unwrap();
        let session = engine.session("ann");
        for sql in [
            "CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id))",
            "INSERT INTO notices VALUES ('a', 1), ('b', 2)",
        ] {
            rows(&session, sql).await.unwrap();
        }
        (engine, session)
    }

    /// Programs that embed a store spawn these on a runtime of many threads.
    #[test]
    fn futures_of_the_public_surface_are_send() {
        fn send<T: Send>(_: T) {}
        send(Engine::open(EngineOptions::new("memory://never-polled")));
        let _ = |engine: &Engine, session: &Session| {
            send(engine.close());
            send(session.execute("SELECT 1"));
        };
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checkpoint_answers_its_version_and_events_stay_whole() {
        let (engine, session) = store_of_notices().await;
        let version = number(&session, "CHECKPOINT").await;
        assert_eq!(
            u64::try_from(version).unwrap(),
            engine.ledger().seen().version.0
        );
        let events = number(&session, "SELECT count(*) FROM events").await;
        let store = engine.ledger().store();
        let version = engine.ledger().seen().version;
        history::compact(store, version, 1).await.unwrap();
        let all = crate::time::Timestamp::MAX;
        assert_eq!(
            history::delete_compacted(store, version, all)
                .await
                .unwrap(),
            version.0
        );
        assert_eq!(
            number(&session, "SELECT count(*) FROM events").await,
            events
        );
        assert_eq!(number(&session, "SELECT count(*) FROM notices").await, 2);
    }

    /// A typing error in `--store` once left an empty folder behind, and an answer about nothing.
    #[tokio::test]
    async fn a_reader_makes_no_store() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("absent");
        let options = EngineOptions {
            access: Access::ReadOnly,
            ..EngineOptions::new(folder.display().to_string())
        };
        let error = Engine::open(options).await.unwrap_err();
        assert_eq!((error.code(), folder.exists()), (Code::StoreUrl, false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_query_whose_files_were_cleaned_up_may_be_run_again() {
        let (engine, session) = store_of_notices().await;
        let store = engine.ledger().store();
        for entry in store.list("tables").await.unwrap() {
            store.delete(&entry.path).await.unwrap();
        }
        let error = rows(&session, "SELECT sum(n) FROM notices")
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.retryable()),
            (Code::SnapshotGone, true)
        );
    }
}
