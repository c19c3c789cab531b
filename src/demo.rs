//! The demonstrator: its material (a corpus of notices of our own making, the tables and rules of
//! the domain) and the story that it tells with them.

pub mod corpus;
#[cfg(test)]
mod eligibility;
pub mod setup;
pub mod story;
