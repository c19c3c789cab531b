//! SQL functions.

pub mod carrier;
pub mod effect;
pub mod files;
mod json;
pub mod list_files;
mod pattern;
pub mod pure;
mod read;
mod translate;
mod xml;
mod xpath;
