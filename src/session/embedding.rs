//! The tables of a store for a DataFusion session that is not ours.
//!
//! What a program gets is frozen: the tables of one snapshot, as one schema, so that every query
//! over it is true at one version. Reading needs nothing else of ours: the views are planned, and
//! runs are read through an object store that is registered beside. Effects are not among it; the
//! names are there, and refuse.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

use crate::error::Result;
use crate::functions::effect::effect_udfs;
use crate::functions::pure;
use crate::id::Version;
use crate::session::Session;
use crate::session::catalog::{Sight, SnapshotSchema, schema};
use crate::tables::source_scan::register_store;

impl Session {
    /// Puts the store's tables and our pure functions into another DataFusion session.
    ///
    /// The tables are those of [`Session::execute`]: source tables, system tables, views and
    /// external tables, under `<schema>.<table>` in the default catalog of `context`. They show
    /// the newest version of the store at the moment of this call, and stay at it. Call again
    /// with the same name to see a newer one; queries that are planned already are not touched.
    ///
    /// # Arguments
    /// `schema`: any name that the default catalog of `context` may take; what stood there is
    /// replaced.
    ///
    /// # Returns
    /// The version that the tables show. Locks and leases are judged at the moment of the call.
    ///
    /// # Errors
    /// `SG7002 store-unavailable`; `SG1002 plan-error` where the catalog takes no schema.
    ///
    /// # Guarantees
    /// Nothing that runs in `context` changes the store. `schedule_job` and the other effect
    /// functions are `SG1003 effect-misplaced` there; they go through [`Session::execute`].
    pub async fn register(&self, context: &SessionContext, schema: &str) -> Result<Version> {
        let state = self.ledger().snapshot().await?;
        register_store(&context.runtime_env(), self.ledger().store())?;
        for function in pure::scalars(self.ledger(), &self.core().roots) {
            context.register_udf(function.as_ref().clone());
        }
        let (name, listing) = pure::listing(self.ledger(), &self.core().roots);
        context.register_udtf(name, listing);
        for net in effect_udfs() {
            context.register_udf(net.as_ref().clone());
        }
        let wanted = context
            .copied_config()
            .options()
            .catalog
            .default_catalog
            .clone();
        let catalog = context
            .catalog(&wanted)
            .ok_or_else(|| DataFusionError::Plan(format!("catalog \"{wanted}\" does not exist")))?;
        let version = state.version;
        let tables = Frozen {
            base: self.base(),
            sight: self.core().sight(state),
        };
        catalog.register_schema(schema, Arc::new(tables))?;
        Ok(version)
    }
}

/// The tables of one snapshot, for any number of statements at once.
#[derive(Debug)]
struct Frozen {
    base: SessionState,
    sight: Sight,
}

impl Frozen {
    /// A schema is of one statement, and nothing here tells statements apart.
    fn fresh(&self) -> Arc<SnapshotSchema> {
        schema(&self.base, self.sight.clone(), Vec::new())
    }
}

#[async_trait]
impl SchemaProvider for Frozen {
    fn table_names(&self) -> Vec<String> {
        self.fresh().table_names()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        self.fresh().table(name).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.fresh().table_exist(name)
    }
}
