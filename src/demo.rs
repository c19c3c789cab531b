//! The demonstrator's material: a corpus of notices of our own making, how a notice is normalised,
//! and the rule by which a mapping suite covers it.

pub mod corpus;
pub mod eligibility;
pub mod normalise;
