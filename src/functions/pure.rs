//! The functions that read and change nothing, as a session registers them.

use std::sync::Arc;

use datafusion::catalog::{TableFunction, TableFunctionImpl};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;

use crate::functions::files::Roots;
use crate::functions::list_files::{self, ListFiles};
use crate::functions::read::{self, Reader};
use crate::functions::{json, now, translate, xpath};
use crate::ledger::Ledger;

/// The scalar functions of ours.
///
/// # Arguments
/// `roots`: the folders that `read_text` and `content_hash` keep to; `ledger`: its store and its
/// limits.
pub fn scalars(ledger: &Ledger, roots: &Arc<Roots>) -> Vec<Arc<ScalarUDF>> {
    let reader = Arc::new(Reader {
        roots: Arc::clone(roots),
        store: ledger.store().clone(),
        file_bytes_max: ledger.limits().file_bytes_max,
    });
    read::functions(&reader)
        .into_iter()
        .chain(xpath::functions())
        .chain([json::function(), now::function(), translate::function()])
        .map(Arc::new)
        .collect()
}

/// The table function `list_files` with its name.
pub fn listing(ledger: &Ledger, roots: &Arc<Roots>) -> (&'static str, Arc<dyn TableFunctionImpl>) {
    let listing = ListFiles {
        roots: Arc::clone(roots),
        store: ledger.store().clone(),
        files_max: ledger.limits().list_files_max,
    };
    (list_files::NAME, Arc::new(listing))
}

/// Registers all pure functions of ours beside those of DataFusion.
///
/// # Arguments
/// Those of [`scalars`].
pub fn install(
    mut builder: SessionStateBuilder,
    ledger: &Ledger,
    roots: &Arc<Roots>,
) -> SessionStateBuilder {
    builder
        .scalar_functions()
        .get_or_insert_default()
        .extend(scalars(ledger, roots));
    builder
        .expr_planners()
        .get_or_insert_default()
        .push(Arc::new(json::Operators));
    let (name, implementation) = listing(ledger, roots);
    let table = TableFunction::new(name.to_owned(), implementation);
    builder
        .table_functions()
        .get_or_insert_default()
        .insert(name.to_owned(), Arc::new(table));
    builder
}
