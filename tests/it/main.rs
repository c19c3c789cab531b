//! Integration tests: everything here goes through the public surface of the crate.
//!
//! One binary, so that the crate is linked once.

mod architecture;
mod codes;
mod commands;
mod embedding;
mod files;
mod normalise;
mod reference;
mod selections;
mod slt;
mod tour;
