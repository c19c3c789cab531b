//! Access tokens: who may do what over the network. Only the hash of a token is known here.

use std::sync::Arc;

use crate::time::Timestamp;

/// What the bearer of a token may do. Each is named for who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Queries and previews.
    Reader,
    /// The same, and claiming and reporting jobs.
    Worker,
    /// All effects, and changes of rows in source tables.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: &[Self] = &[Self::Reader, Self::Worker, Self::Operator, Self::Admin];

    /// The name that users type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.name() == name)
    }
}

/// Whether a token still opens the door. A revoked one is kept, so that a store that once had
/// tokens never falls back to asking for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It does.
    Valid,
    /// It was revoked then.
    Revoked(Timestamp),
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// What its bearer may do.
    pub role: Role,
    /// SHA-256 of the token, as 64 hexadecimal digits.
    pub hash: Arc<str>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Arc<str>,
    /// Whether it opens the door.
    pub validity: Validity,
}

/// Why a name cannot be that of a token; `None` where it can. It stands in events as the actor.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
        return Some("Use up to 100 letters, digits, and any of _ - . @");
    }
    None
}
