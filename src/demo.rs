//! The demonstrator's material: a corpus of notices of our own making, and the rule by which a
//! mapping suite covers a notice.

pub mod corpus;
pub mod eligibility;
