//! Integration tests: everything here goes through the public surface of the crate.
//!
//! One binary, so that the crate is linked once.

mod architecture;
mod binary;
mod claims;
mod clauses;
mod codes;
mod commands;
mod contention;
mod crash;
mod embedding;
mod external;
mod files;
mod flight;
mod normalise;
mod outputs;
mod reference;
mod selections;
mod server;
mod slt;
mod stalls;
mod stops;
mod tour;
