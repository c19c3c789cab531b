//! What all sessions of one opened store share.

use std::sync::Arc;

use arrow::array::{RecordBatch, StructArray};
use async_trait::async_trait;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::functions::dialect;
use crate::functions::effect::{Procedures, Signature};
use crate::functions::files::Roots;
use crate::functions::pure;
use crate::ledger::Ledger;
use crate::model::kept::KeptStatement;
use crate::model::state::State;
use crate::session::Session;
use crate::session::as_written::analyzer_rules;
use crate::session::catalog::Sight;
use crate::session::effect_node::planning::install;
use crate::session::gate::Callables;
use crate::session::pushdown::guarded_rules;
use crate::session::sink::StatementText;
use crate::session::yielding::YieldingJoins;
use crate::tables::source_scan::register_store;

/// What `CALL` of a procedure runs. Effect functions are no procedures.
#[async_trait]
pub trait Procedure: std::fmt::Debug + Send + Sync {
    /// Its name, parameters and documentation.
    fn signature(&self) -> &'static Signature;

    /// Runs it.
    ///
    /// # Arguments
    /// `args`: one row, the fields of [`Signature::fields`]; required ones are not NULL;
    /// `rows_max`: rows that it may touch.
    async fn call(
        &self,
        session: &Session,
        text: StatementText,
        args: StructArray,
        rows_max: usize,
    ) -> Result<RecordBatch>;

    /// The rows of a call that was committed before, for whoever repeats it under its idempotency
    /// key. `None` where there is nothing to tell but how often which effect ended in which way.
    ///
    /// # Arguments
    /// `args`: as for [`Procedure::call`].
    async fn again(
        &self,
        _session: &Session,
        _kept: &KeptStatement,
        _args: StructArray,
    ) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
}

/// An opened store with everything that sessions need.
#[derive(Debug)]
pub struct Core {
    /// The ledger.
    pub ledger: Ledger,
    /// Functions, rules, settings and limits of a new session.
    pub base: SessionState,
    /// Where Parquet runs are, for DataFusion.
    pub store_url: ObjectStoreUrl,
    /// The store's own URL, as users see it.
    pub public_url: Arc<str>,
    /// What may be read and written outside the store.
    pub roots: Arc<Roots>,
    /// Which of its functions are aggregates and windows.
    pub callables: Arc<Callables>,
    /// What CALL knows beside the effect functions.
    pub procedures: Vec<Arc<dyn Procedure>>,
    /// Tasks that outlive the statement that began them, such as workers that hand back what
    /// runs. Whoever ends the process waits for them.
    pub background: TaskTracker,
}

impl Core {
    /// Builds what sessions share.
    ///
    /// # Errors
    /// Those of the runtime, such as a temporary folder that cannot be made.
    pub fn try_new(
        ledger: Ledger,
        roots: Arc<Roots>,
        procedures: Vec<Arc<dyn Procedure>>,
    ) -> Result<Self> {
        let limits = ledger.limits();
        let runtime: Arc<RuntimeEnv> = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.statement_memory_bytes)))
            .with_disk_manager_builder(
                DiskManagerBuilder::default()
                    .with_mode(DiskManagerMode::OsTmpDirectory)
                    .with_max_temp_directory_size(limits.spill_bytes_max),
            )
            // Listings of files that we or users write must not be remembered.
            .with_object_list_cache_limit(0)
            .build_arc()?;
        let store_url = register_store(&runtime, ledger.store())?;
        let known = procedures
            .iter()
            .fold(Procedures::default(), |all, one| all.with(one.signature()));
        let builder = SessionStateBuilder::new()
            .with_config(config())
            .with_runtime_env(runtime)
            .with_default_features()
            .with_analyzer_rules(analyzer_rules())
            .with_physical_optimizer_rules(guarded_rules())
            .with_physical_optimizer_rule(Arc::new(YieldingJoins));
        let base = pure::install(install(builder, &known, Vec::new()), &ledger, &roots);
        let base = dialect::install(base).build();
        let public_url: Arc<str> = ledger.store().url().as_str().into();
        Ok(Self {
            callables: Arc::new(Callables::of(&base)),
            ledger,
            base,
            store_url,
            public_url,
            roots,
            procedures,
            background: TaskTracker::new(),
        })
    }

    /// What names resolve against at one snapshot.
    pub fn sight(&self, state: Arc<State>) -> Sight {
        Sight {
            state,
            now: self.ledger.now(),
            ledger: self.ledger.clone(),
            store_url: self.store_url.clone(),
            public_url: Arc::clone(&self.public_url),
            roots: Arc::clone(&self.roots),
        }
    }

    /// The procedures as the gate knows them.
    pub fn known_procedures(&self) -> Procedures {
        self.procedures
            .iter()
            .fold(Procedures::default(), |all, one| all.with(one.signature()))
    }
}

/// The settings of a new session.
fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(true);
    let options = config.options_mut();
    // One text type everywhere: what is written, read back and compared is plain Utf8.
    options.sql_parser.map_string_types_to_utf8view = false;
    // A number keeps every digit that was written. What a DOUBLE would lose by it is mended by the
    // rules of `as_written`.
    options.sql_parser.parse_float_as_decimal = true;
    // Rows of CSV may have line ends in quotes; splitting a file at any line end invents rows.
    options.catalog.newlines_in_values = true;
    options.execution.parquet.schema_force_view_types = false;
    // Times are UTC, those of now() and of literals as well; no session may change it.
    options.execution.time_zone = Some("UTC".to_owned());
    // Look-ups of few rows in large runs are what operators do.
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.max_in_list_size = 1000;
    // User columns come back as they were written: nobody has to quote what they typed.
    options.explain.format = datafusion::common::format::ExplainFormat::Indent;
    config
}
