//! Sluicegate: select sources with plain SQL, see what would happen, schedule the transformation
//! jobs, and be certain that no source is processed twice at once.
//!
//! The layers, each of which may use only those before it: [`error`] [`id`] [`time`] [`config`],
//! then `model`, `ledger`, `functions`, `tables`, `format`, `session`, `worker`, `server`, `repl`,
//! `engine`, `demo`, `cli`.
//! `src/ARCHITECTURE.md` describes how data flows through them.

pub mod cli;
pub mod config;
pub mod demo;
pub mod engine;
pub mod error;
pub mod format;
pub mod functions;
pub mod id;
pub mod ledger;
pub mod model;
pub mod repl;
pub mod server;
pub mod session;
pub mod tables;
pub mod time;
pub mod worker;
