//! What SQL reads: tables over a snapshot of the store.

pub mod columns;
pub mod events;
pub mod operations;
pub mod snapshot_table;
pub mod source_scan;
pub mod source_table;
