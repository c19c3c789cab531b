//! The locks that a session was given, which it shows with each of its statements.
//!
//! A lock belongs to its token, not to the name of its user: so two programs of one user keep each
//! other out, and one session is one program. Invariant: a token is here from the commit of its
//! lock until it is released in this session; one that expired, or was released by force, is no
//! harm, for no other lock ever has its number.

use std::sync::{Arc, Mutex};

use imbl::OrdSet;

use crate::id::Token;

/// The locks that one statement acquired and released.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "Numbers", into = "Numbers")]
pub struct LockChanges {
    /// In the order of the rows.
    pub acquired: Vec<Token>,
    /// In the order of the rows; without those that were released by force.
    pub released: Vec<Token>,
}

/// The same as it is sent.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Numbers {
    acquired: Vec<u64>,
    released: Vec<u64>,
}

impl From<Numbers> for LockChanges {
    fn from(numbers: Numbers) -> Self {
        let tokens = |numbers: Vec<u64>| numbers.into_iter().map(Token).collect();
        Self {
            acquired: tokens(numbers.acquired),
            released: tokens(numbers.released),
        }
    }
}

impl From<LockChanges> for Numbers {
    fn from(changes: LockChanges) -> Self {
        let numbers = |tokens: Vec<Token>| tokens.into_iter().map(|token| token.0).collect();
        Self {
            acquired: numbers(changes.acquired),
            released: numbers(changes.released),
        }
    }
}

impl LockChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.acquired.is_empty() && self.released.is_empty()
    }
}

/// The tokens of a session. Clones are of the same session.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<OrdSet<Token>>>);

impl Held {
    /// Adds tokens that are shown from now on.
    pub(super) fn add(&self, tokens: impl IntoIterator<Item = Token>) {
        if let Ok(mut held) = self.0.lock() {
            held.extend(tokens);
        }
    }

    /// Follows what a statement did.
    pub(super) fn follow(&self, changes: &LockChanges) {
        if let Ok(mut held) = self.0.lock() {
            held.extend(changes.acquired.iter().copied());
            for token in &changes.released {
                held.remove(token);
            }
        }
    }

    /// What a statement shows, beside the tokens that came with it.
    pub(super) fn shown(&self, with: &[Token]) -> OrdSet<Token> {
        let held = self.0.lock().map(|held| held.clone());
        let mut held = held.unwrap_or_default();
        held.extend(with.iter().copied());
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_shown_until_it_is_released() {
        let held = Held::default();
        let changes = |acquired: &[u64], released: &[u64]| LockChanges {
            acquired: acquired.iter().copied().map(Token).collect(),
            released: released.iter().copied().map(Token).collect(),
        };
        held.follow(&changes(&[1, 2], &[]));
        held.clone().follow(&changes(&[3], &[1, 9]));
        let shown: Vec<u64> = held
            .shown(&[Token(7)])
            .iter()
            .map(|token| token.0)
            .collect();
        assert_eq!(shown, [2, 3, 7]);
        let shown: Vec<u64> = held.shown(&[]).iter().map(|token| token.0).collect();
        assert_eq!(shown, [2, 3]);
    }
}
