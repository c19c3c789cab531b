//! The functions that read and change nothing, as a session registers them.

use std::sync::Arc;

use datafusion::execution::session_state::SessionStateBuilder;

use crate::functions::files::Roots;
use crate::functions::json;
use crate::ledger::Ledger;

/// Registers all pure functions of ours beside those of DataFusion.
pub fn install(
    mut builder: SessionStateBuilder,
    _ledger: &Ledger,
    _roots: &Arc<Roots>,
) -> SessionStateBuilder {
    builder
        .scalar_functions()
        .get_or_insert_default()
        .push(Arc::new(json::function()));
    builder
}
