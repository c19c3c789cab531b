//! Everything durable: the store's files and what is written into them.

pub mod local;
pub mod store;
