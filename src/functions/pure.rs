//! The functions that read and change nothing, as a session registers them.

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::execution::session_state::SessionStateBuilder;

use crate::functions::files::Roots;
use crate::functions::list_files::{self, ListFiles};
use crate::functions::read::{self, Reader};
use crate::functions::{json, translate, xpath};
use crate::ledger::Ledger;

/// Registers all pure functions of ours beside those of DataFusion.
///
/// # Arguments
/// `roots`: the folders that `list_files`, `read_text` and `content_hash` keep to; `ledger`: its
/// store and its limits.
pub fn install(
    mut builder: SessionStateBuilder,
    ledger: &Ledger,
    roots: &Arc<Roots>,
) -> SessionStateBuilder {
    let limits = ledger.limits();
    let reader = Arc::new(Reader {
        roots: Arc::clone(roots),
        store: ledger.store().clone(),
        file_bytes_max: limits.file_bytes_max,
    });
    let listing = ListFiles {
        roots: Arc::clone(roots),
        store: ledger.store().clone(),
        files_max: limits.list_files_max,
    };
    let scalars = read::functions(&reader)
        .into_iter()
        .chain(xpath::functions())
        .chain([json::function(), translate::function()])
        .map(Arc::new);
    builder
        .scalar_functions()
        .get_or_insert_default()
        .extend(scalars);
    let table = TableFunction::new(list_files::NAME.to_owned(), Arc::new(listing));
    builder
        .table_functions()
        .get_or_insert_default()
        .insert(list_files::NAME.to_owned(), Arc::new(table));
    builder
}
