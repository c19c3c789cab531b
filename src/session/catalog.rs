//! The names that a statement sees: everything as of one snapshot.
//!
//! Names are resolved while a statement is planned, so a statement pays only for what it uses.
//! Views and external tables are planned from their stored text each time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    SchemaProvider, TableProvider,
};
use datafusion::datasource::ViewTable;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};

use crate::error::{Code, Error, Result};
use crate::functions::files::Roots;
use crate::ledger::Ledger;
use crate::model::event::ObjectKind;
use crate::model::state::{Object, State};
use crate::session::as_written::{AsWritten, number_literals};
use crate::session::external::external_table;
use crate::session::parser::{self, CATALOG, SCHEMA};
use crate::session::statement::Statement;
use crate::tables::events::Events;
use crate::tables::operations;
use crate::tables::snapshot_table::{SnapshotRows, SnapshotTable};
use crate::tables::source_table::SourceProvider;
use crate::time::Timestamp;

/// Views inside views, to end a circle of views. Chosen: above what a person writes, and half of
/// what overflowed a thread's stack of 2 MiB in a debug build.
const VIEW_DEPTH_MAX: usize = 16;

/// Views that every store has, by name: `sql/views/`.
pub const VIEWS: &[(&str, &str)] = &[
    ("attempts", include_str!("../../sql/views/attempts.sql")),
    (
        "lock_history",
        include_str!("../../sql/views/lock_history.sql"),
    ),
    ("statements", include_str!("../../sql/views/statements.sql")),
    (
        "status_history",
        include_str!("../../sql/views/status_history.sql"),
    ),
];

/// Names of the system tables and views, which nobody may take.
pub fn reserved_names() -> impl Iterator<Item = &'static str> {
    [
        "jobs",
        "locks",
        "batches",
        "transforms",
        "workers",
        "events",
    ]
    .into_iter()
    .chain(VIEWS.iter().map(|(name, _)| *name))
}

/// What names resolve against.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The snapshot.
    pub state: Arc<State>,
    /// The moment for which locks and job states are judged.
    pub now: Timestamp,
    /// The ledger, for the `events` table.
    pub ledger: Ledger,
    /// Where Parquet runs are.
    pub store_url: ObjectStoreUrl,
    /// The store's own URL, for URIs that users see.
    pub public_url: Arc<str>,
    /// What external tables may read.
    pub roots: Arc<Roots>,
}

/// The schema of one statement.
#[derive(Debug)]
pub struct SnapshotSchema {
    sight: Sight,
    extra: Vec<(String, Arc<dyn TableProvider>)>,
    session: SessionState,
    depth: AtomicUsize,
}

/// A session state that sees the snapshot.
///
/// # Arguments
/// `base`: functions, rules and settings; `extra`: tables of this statement alone, such as
/// `input`, which hide others of the same name.
pub fn state_over(
    base: &SessionState,
    sight: Sight,
    extra: Vec<(String, Arc<dyn TableProvider>)>,
) -> SessionState {
    let now = sight.now;
    with_schema(base, now, schema(base, sight, extra))
}

/// All tables of the snapshot. Of one statement: it counts how deep views are nested, whoever
/// asks.
///
/// # Arguments
/// `base` and `extra` as for [`state_over`].
pub fn schema(
    base: &SessionState,
    sight: Sight,
    extra: Vec<(String, Arc<dyn TableProvider>)>,
) -> Arc<SnapshotSchema> {
    let now = sight.now;
    // The schema plans views with a state that holds the schema itself; a weak reference in the
    // middle keeps the pair from holding each other for ever.
    Arc::new_cyclic(|weak: &Weak<SnapshotSchema>| SnapshotSchema {
        sight,
        extra,
        session: with_schema(base, now, Arc::new(WeakSchema(weak.clone()))),
        depth: AtomicUsize::new(0),
    })
}

fn with_schema(
    base: &SessionState,
    now: Timestamp,
    schema: Arc<dyn SchemaProvider>,
) -> SessionState {
    let catalog = MemoryCatalogProvider::new();
    // Registering a first schema in an empty catalog of our own cannot fail.
    drop(catalog.register_schema(SCHEMA, schema));
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let mut state = SessionStateBuilder::new_from_existing(base.clone())
        .with_catalog_list(Arc::new(list))
        .build();
    state.mark_start_execution();
    // now() is the moment at which locks and job states are judged, so that a query which
    // compares the two agrees with itself.
    state.execution_props_mut().query_execution_start_time = DateTime::from_timestamp_micros(now.0);
    state
}

impl SnapshotSchema {
    fn system_rows(&self) -> Vec<Arc<dyn SnapshotRows>> {
        operations::all(&self.sight.state, self.sight.now, &self.sight.public_url)
    }

    async fn resolve(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some((_, table)) = self.extra.iter().find(|(extra, _)| extra == name) {
            return Ok(Some(Arc::clone(table)));
        }
        let Sight {
            state,
            now,
            ledger,
            store_url,
            ..
        } = &self.sight;
        if let Some(table) = state.table(name) {
            let provider = SourceProvider::try_new(state, table, store_url.clone(), *now)?;
            return Ok(Some(Arc::new(provider)));
        }
        if name == "events" {
            let events = Events::new(ledger.store().clone(), store_url.clone(), state.version);
            return Ok(Some(Arc::new(events)));
        }
        if let Some((_, sql)) = VIEWS.iter().find(|(view, _)| *view == name) {
            return self.view(name, sql).await.map(Some);
        }
        if let Some(object) = state.objects.get(name) {
            return self.object(name, object).await.map(Some);
        }
        let mut system = self.system_rows().into_iter();
        let found = system.find(|rows| rows.name() == name);
        Ok(found.map(|rows| Arc::new(SnapshotTable::new(rows)) as Arc<dyn TableProvider>))
    }

    async fn object(&self, name: &str, object: &Object) -> Result<Arc<dyn TableProvider>> {
        let statement = parser::parse(&object.sql)?.statement;
        match (object.kind, statement) {
            (ObjectKind::View, Statement::CreateView { mut tree, .. }) => {
                number_literals(&mut tree);
                self.planned(name, async {
                    match self.session.statement_to_plan(*tree).await? {
                        LogicalPlan::Ddl(DdlStatement::CreateView(view)) => {
                            let plan = AsWritten::apply(Arc::unwrap_or_clone(view.input))?;
                            Ok((plan, view.definition))
                        }
                        _ => Err(unreadable(name)),
                    }
                })
                .await
            }
            (ObjectKind::ExternalTable, Statement::CreateExternalTable { tree, .. }) => {
                external_table(&self.session, *tree, &self.sight.roots).await
            }
            (ObjectKind::View | ObjectKind::ExternalTable, _) => Err(unreadable(name)),
        }
    }

    async fn view(&self, name: &str, sql: &str) -> Result<Arc<dyn TableProvider>> {
        self.planned(name, async {
            Ok((
                self.session.create_logical_plan(sql).await?,
                Some(sql.to_owned()),
            ))
        })
        .await
    }

    async fn planned(
        &self,
        name: &str,
        plan: impl Future<Output = Result<(LogicalPlan, Option<String>)>> + Send,
    ) -> Result<Arc<dyn TableProvider>> {
        if self.depth.fetch_add(1, Ordering::SeqCst) >= VIEW_DEPTH_MAX {
            return Err(
                Error::new(Code::PlanError, format!("view \"{name}\" names itself"))
                    .with_hint("Views may not be made of each other in a circle; replace one."),
            );
        }
        let planned = plan.await;
        self.depth.fetch_sub(1, Ordering::SeqCst);
        let (plan, sql) = planned.map_err(|error| in_view(name, error))?;
        Ok(Arc::new(ViewTable::new(plan, sql)))
    }
}

/// What is wrong inside a view, without the place in the view's own text, which nobody typed now.
fn in_view(name: &str, error: Error) -> Error {
    // A view inside the view has said so already.
    if error.message().starts_with("view ") {
        return error;
    }
    let wrong = Error::new(
        error.code(),
        format!("view \"{name}\": {}", error.message()),
    );
    let detail = error.detail().map(str::to_owned);
    let wrong = detail.into_iter().fold(wrong, Error::with_detail);
    wrong.with_hint(format!(
        "CREATE OR REPLACE VIEW {name} AS ... mends it, and DROP VIEW {name} removes it."
    ))
}

fn unreadable(name: &str) -> Error {
    Error::bug(format!("the stored text of \"{name}\" is not what it was"))
}

#[async_trait]
impl SchemaProvider for SnapshotSchema {
    fn table_names(&self) -> Vec<String> {
        let state = &self.sight.state;
        let mut names: Vec<String> = reserved_names().map(str::to_owned).collect();
        names.extend(state.table_ids.keys().map(ToString::to_string));
        names.extend(state.objects.keys().map(ToString::to_string));
        names.extend(self.extra.iter().map(|(name, _)| name.clone()));
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.resolve(name).await?)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}

/// The schema as seen from the state that it plans views with.
#[derive(Debug)]
struct WeakSchema(Weak<SnapshotSchema>);

#[async_trait]
impl SchemaProvider for WeakSchema {
    fn table_names(&self) -> Vec<String> {
        self.0
            .upgrade()
            .map(|schema| schema.table_names())
            .unwrap_or_default()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        match self.0.upgrade() {
            Some(schema) => schema.table(name).await,
            None => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0
            .upgrade()
            .is_some_and(|schema| schema.table_exist(name))
    }
}
