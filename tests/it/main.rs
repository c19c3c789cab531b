//! Tests of whole flows through the public interface, one module per flow.

mod files;
mod normalise;
