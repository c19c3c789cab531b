//! Access tokens: made, listed, revoked, and recognised.
//!
//! A token is 256 random bits. Only its SHA-256 is stored: there is nothing to guess, so a slow
//! hash would protect nothing. Making and revoking are commits, so they count at once for every
//! server that reads a snapshot of the store.

use std::fmt::Write;
use std::sync::Arc;

use rand::RngExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::Result;
use crate::ledger::Ledger;
use crate::model::draft::Author;
use crate::model::state::State;
use crate::model::tokens::{AccessToken, Role, Validity};

/// What every token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "sgt_";

fn author(actor: &str) -> Author {
    Author::new(actor, Uuid::now_v7().to_string())
}

/// Makes a token.
///
/// # Returns
/// The token itself, which is shown once and stored nowhere.
///
/// # Errors
/// `SG2004 invalid-definition` for a name, `SG2003 already-exists`; those of the store.
pub async fn create(ledger: &Ledger, actor: &str, name: &str, role: Role) -> Result<String> {
    let mut bytes = [0_u8; 32];
    rand::rng().fill(&mut bytes);
    let token = format!("{PREFIX}{}", hex(&bytes));
    let hash = hash_of(&token);
    let name = name.to_owned();
    let create = move |draft: &mut crate::model::draft::Draft<'_>| {
        draft.create_token(&name, role, &hash)?;
        let text = format!("token create --role {} --name {name}", role.name());
        draft.note_statement(&text, None, "[]")
    };
    ledger.commit(author(actor), create).await?;
    Ok(token)
}

/// Revokes a token.
///
/// # Errors
/// `SG2001 unknown-object`; those of the store.
pub async fn revoke(ledger: &Ledger, actor: &str, name: &str) -> Result<()> {
    let name = name.to_owned();
    let revoke = move |draft: &mut crate::model::draft::Draft<'_>| {
        draft.revoke_token(&name)?;
        draft.note_statement(&format!("token revoke {name}"), None, "[]")
    };
    ledger.commit(author(actor), revoke).await.map(drop)
}

/// The valid token that these characters are, with its name. Every token is compared whole, so
/// the time that it takes tells nothing about how near a guess was.
pub fn recognise<'s>(state: &'s State, token: &str) -> Option<(&'s Arc<str>, &'s AccessToken)> {
    let hash = hash_of(token);
    let mut found = None;
    for (name, known) in state.tokens.iter() {
        let same = same_in_constant_time(known.hash.as_bytes(), hash.as_bytes());
        if same && known.validity == Validity::Valid {
            found = Some((name, known));
        }
    }
    found
}

fn hash_of(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn same_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use crate::ledger::store::{Store, StoreOptions};
    use crate::time::Clock;

    use super::*;

    async fn ledger() -> Ledger {
        let store = Store::open("memory://", &StoreOptions::default()).await;
        Ledger::open(store.unwrap(), Clock::System, Arc::default())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_token_is_known_until_it_is_revoked() {
        let ledger = ledger().await;
        let token = create(&ledger, "ann", "robot", Role::Worker).await.unwrap();
        let state = ledger.snapshot().await.unwrap();
        let (name, known) = recognise(&state, &token).unwrap();
        assert_eq!((name.as_ref(), known.role), ("robot", Role::Worker));
        assert!(!known.hash.contains(&token[PREFIX.len()..]));
        for guess in ["", PREFIX, &token[1..], &format!("{token}0"), &known.hash] {
            assert!(recognise(&state, guess).is_none(), "{guess}");
        }
        assert!(create(&ledger, "ann", "robot", Role::Admin).await.is_err());
        revoke(&ledger, "ann", "robot").await.unwrap();
        assert!(revoke(&ledger, "ann", "robot").await.is_err());
        let state = ledger.snapshot().await.unwrap();
        assert!(recognise(&state, &token).is_none());
        let again = create(&ledger, "ann", "robot", Role::Admin).await.unwrap();
        assert_ne!(again, token);
    }

    #[tokio::test]
    async fn names_that_could_be_mistaken_are_refused() {
        let ledger = ledger().await;
        for name in ["", "a b", "a\nb", "a/b", &"x".repeat(101)] {
            assert!(
                create(&ledger, "ann", name, Role::Reader).await.is_err(),
                "{name}"
            );
        }
    }
}
