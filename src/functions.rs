//! SQL functions.

pub mod carrier;
pub mod effect;
