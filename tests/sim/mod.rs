//! A deterministic simulation of processes on one store: one seed is one history.

pub(crate) mod shelf;
