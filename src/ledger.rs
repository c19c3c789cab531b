//! Everything durable: the store's files and what is written into them.

mod local;
pub mod run;
pub mod store;
