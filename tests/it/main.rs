//! Integration tests: everything here goes through the public surface of the crate.
//!
//! One binary, so that the crate is linked once.

mod architecture;
mod codes;
mod files;
mod normalise;
mod reference;
mod selections;
mod server;
mod slt;
