//! Making and revoking access tokens.

use crate::error::{Code, Error, Result};
use crate::model::draft::Draft;
use crate::model::event::Event;
use crate::model::tokens::{Role, Validity, name_problem};

impl Draft<'_> {
    /// Makes a token of this hash.
    ///
    /// # Errors
    /// `SG2004 invalid-definition` for a name; `SG2003 already-exists` where a valid token has it.
    pub fn create_token(&mut self, name: &str, role: Role, hash: &str) -> Result<()> {
        if let Some(hint) = name_problem(name) {
            let message = format!("token \"{name}\" cannot have this name");
            return Err(Error::new(Code::InvalidDefinition, message).with_hint(hint));
        }
        let taken = self.state.tokens.get(name);
        if taken.is_some_and(|token| token.validity == Validity::Valid) {
            let message = format!("token \"{name}\" exists already");
            return Err(Error::new(Code::AlreadyExists, message)
                .with_hint("Revoke it first, or choose another name."));
        }
        self.emit(&Event::TokenCreated { name, role, hash })
    }

    /// Revokes a token: from this commit on it opens nothing.
    ///
    /// # Errors
    /// `SG2001 unknown-object`: there is no such token, or it was revoked before.
    pub fn revoke_token(&mut self, name: &str) -> Result<()> {
        let known = self.state.tokens.get(name);
        if known.is_none_or(|token| token.validity != Validity::Valid) {
            let message = format!("token \"{name}\" does not exist");
            return Err(Error::new(Code::UnknownObject, message)
                .with_hint("The command sluicegate token list shows which there are."));
        }
        self.emit(&Event::TokenRevoked { name })
    }
}
