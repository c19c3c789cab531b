//! SQL functions.

pub mod carrier;
pub mod effect;
pub mod files;
mod json;
pub mod pure;
