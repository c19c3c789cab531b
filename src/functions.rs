//! SQL functions.

pub mod carrier;
mod constant;
pub mod dates;
pub mod dialect;
pub mod effect;
pub mod epoch;
pub mod files;
mod json;
pub mod list_files;
mod now;
mod pattern;
pub mod pure;
mod read;
mod translate;
mod xml;
mod xpath;
