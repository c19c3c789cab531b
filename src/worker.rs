//! Workers: they claim groups of jobs, run them, and report each source by itself.

mod answer;
pub mod command;
pub mod log;
mod process;
