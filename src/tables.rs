//! What SQL reads: tables over a snapshot of the store.

pub mod source_scan;
