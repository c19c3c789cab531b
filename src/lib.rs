//! Sluicegate: select sources with plain SQL, see what would happen, schedule the transformation
//! jobs, and be certain that no source is processed twice at once.
//!
//! # A store in five statements
//!
//! A store is a folder or a bucket; here it is in memory. Everything else is SQL.
//!
//! ```
//! use sluicegate::engine::{Engine, EngineOptions};
//!
//! # #[tokio::main]
//! # async fn main() -> sluicegate::error::Result<()> {
//! let engine = Engine::open(EngineOptions::new("memory://")).await?;
//! let session = engine.session("anna");
//! for sql in [
//!     "CREATE TABLE notices (notice_id TEXT, title TEXT, PRIMARY KEY (notice_id))",
//!     "INSERT INTO notices VALUES ('1-2024', 'bridge'), ('2-2024', 'school')",
//!     "CREATE TRANSFORM shout ON notices FROM STATUS 'RAW' TO STATUS 'LOUD' \
//!      AS SELECT notice_id, upper(title) AS title FROM input",
//! ] {
//!     session.execute(sql).await?;
//! }
//!
//! // What would happen? PREVIEW does nothing and tells the outcome per row.
//! let preview = session
//!     .execute("PREVIEW SELECT schedule_job('shout', notice_id) FROM notices")
//!     .await?;
//! assert_eq!((preview.summary[0].outcome.as_str(), preview.summary[0].count), ("scheduled", 2));
//!
//! // One commit, whatever the number of rows; it is durable when this returns.
//! let scheduled = session
//!     .execute("SELECT schedule_job('shout', notice_id) FROM notices")
//!     .await?;
//! assert_eq!(scheduled.version, preview.version + 1);
//!
//! // A worker inside a statement. `Engine::work` and `sluicegate work` are others.
//! session.execute("CALL run_jobs('shout')").await?;
//!
//! let reply = session
//!     .execute("SELECT title FROM notices WHERE status = 'LOUD' ORDER BY title")
//!     .await?;
//! let rows: usize = reply.collect().await?.iter().map(|batch| batch.num_rows()).sum();
//! assert_eq!(rows, 2);
//! engine.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # A store inside another DataFusion program
//!
//! [`Session::register`](session::Session::register) puts the tables of one snapshot and the pure
//! functions into a session of one's own; `examples/embed.rs` shows more of it.
//!
//! ```
//! # use sluicegate::engine::{Engine, EngineOptions};
//! use datafusion::prelude::SessionContext;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let engine = Engine::open(EngineOptions::new("memory://")).await?;
//! # let session = engine.session("anna");
//! # session.execute("CREATE TABLE notices (notice_id TEXT, PRIMARY KEY (notice_id))").await?;
//! let context = SessionContext::new();
//! let version = session.register(&context, "store").await?;
//! let tables = context.sql("SELECT name, kind FROM store.transforms").await?;
//! assert_eq!((version.0, tables.count().await?), (1, 0));
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! The layers, each of which may use only those before it: [`error`] [`id`] [`time`] [`config`]
//! [`json`], then `model`, `ledger`, `functions`, `tables`, `format`, `session`, `worker`,
//! `server`, `repl`, `engine`, `demo`, `cli`.
//! `src/ARCHITECTURE.md` describes how data flows through them.

pub mod bench;
pub mod chance;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod engine;
pub mod error;
pub mod format;
pub mod functions;
pub mod id;
pub mod json;
pub mod ledger;
pub mod model;
pub mod repl;
pub mod server;
pub mod session;
#[cfg(test)]
#[path = "../tests/sim/mod.rs"]
mod sim;
pub mod tables;
pub mod telemetry;
pub mod time;
pub mod worker;
