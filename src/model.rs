//! What is true at one version and how it changes: pure, deterministic, without clock or I/O.
//!
//! A [`state::State`] is an immutable snapshot that is cheap to clone. A [`draft::Draft`] decides
//! commands one after the other against a copy of it: each decision is emitted as
//! [`event::Event`]s, and an event is folded into the copy by [`apply`] at the very moment it is
//! emitted. Replay folds the same events with the same function, so a commit and its replay
//! cannot differ, and every rule of [`rules`] is checked both times.

pub mod apply;
pub mod chunked;
pub mod columns;
pub mod compare;
pub mod decide;
pub mod draft;
pub mod event;
pub mod frozen;
pub mod jobs;
pub mod kept;
pub mod keys;
pub mod lineage;
pub mod locks;
pub mod outputs;
pub mod queue;
mod repair;
pub mod rules;
mod scheduling;
pub mod sources;
pub mod state;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod transform;
