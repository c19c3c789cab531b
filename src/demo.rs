//! The demonstrator's material: a corpus of notices of our own making.

pub mod corpus;
