//! SQL functions.

pub mod carrier;
pub mod effect;
pub mod files;
pub mod pure;
