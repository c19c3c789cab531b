//! From SQL text to rows.

pub mod effect_node;
pub mod errors;
pub mod gate;
pub mod parser;
pub mod statement;
