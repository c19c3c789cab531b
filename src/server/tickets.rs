//! Tickets: a planned statement in the hands of its client, sealed.
//!
//! A ticket holds the statement, encrypted and authenticated (ChaCha20-Poly1305, RFC 8439) under a
//! key that is derived from the client's own access token. So every server of the store can run
//! it, also after a restart, without keeping anything; nobody else can read, change or use it;
//! and a revoked token takes its tickets along. On a server without tokens, where whoever reaches
//! it may do everything, the key is that of the store.
//!
//! How often a ticket is fetched does not matter: its id is an idempotency key.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::json::parse;
use crate::server::statements::expired;
use crate::session::parameters::Parameters;
use crate::time::Timestamp;

/// What the key is for, and the form of what it seals.
const PURPOSE: &[u8] = b"sluicegate ticket 1";

/// The key of one caller's tickets.
#[derive(Clone)]
pub(super) struct TicketKey([u8; 32]);

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

/// A prepared statement in the hands of its client, sealed in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handle {
    pub prepared: String,
    /// The parameters that were bound, as [`row_text`] writes them.
    pub row: Option<String>,
}

/// The first row of a batch as an Arrow stream, in base64.
///
/// # Errors
/// `SG9001 bug`.
pub(super) fn row_text(batch: &RecordBatch) -> Result<String> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(&batch.slice(0, 1))?;
    Ok(URL_SAFE_NO_PAD.encode(writer.into_inner()?))
}

/// The parameters that [`row_text`] wrote.
///
/// # Errors
/// `SG9001 bug`: it was sealed by us.
pub(super) fn row_of_text(text: &str) -> Result<Parameters> {
    let stream = of_text(text);
    let mut reader = StreamReader::try_new(stream.as_slice(), None)?;
    match reader.next() {
        Some(batch) => Ok(Parameters::Row(batch?)),
        None => Err(Error::bug("sealed parameters have no row")),
    }
}

/// What a ticket holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    /// The statement that was planned.
    pub id: String,
    /// When it is over, in microseconds since 1970.
    pub expires_at: i64,
    pub sql: String,
    /// The parameters as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<String>,
    /// The parameters as an Arrow stream of one row, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The locks that the request showed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lock_tokens: Vec<u64>,
    /// Whether the request asked for a session that only reads.
    #[serde(default)]
    pub read_only: bool,
}

impl TicketKey {
    /// The key of what only the caller and a server that is asked by it know.
    pub(super) fn of(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, PURPOSE);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Self(bytes)
    }

    fn aead(&self) -> Result<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &self.0)
            .map(LessSafeKey::new)
            .map_err(|_| Error::bug("a key of 32 bytes is none"))
    }

    /// Encrypts and authenticates.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub(super) fn seal(&self, plain: &impl Serialize) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(plain);
        let mut bytes = plain.map_err(|error| Error::bug("it is no JSON").with_source(error))?;
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill(&mut nonce);
        let tag = self
            .aead()?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(PURPOSE),
                &mut bytes,
            )
            .map_err(|_| Error::bug("a ticket cannot be sealed"))?;
        Ok([&nonce[..], &bytes, tag.as_ref()].concat())
    }

    /// What was sealed under this key; none for anything else.
    pub(super) fn open<T: for<'de> Deserialize<'de>>(&self, sealed: &[u8]) -> Option<T> {
        let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = bytes.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aead = self.aead().ok()?;
        let plain = aead
            .open_in_place(nonce, Aad::from(PURPOSE), &mut bytes)
            .ok()?;
        serde_json::from_slice(plain).ok()
    }
}

impl Ticket {
    /// The parameters of its statement.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub(super) fn parameters(&self) -> Result<Parameters> {
        match &self.row {
            Some(row) => row_of_text(row),
            None => match &self.params {
                Some(json) => {
                    let value = parse(json);
                    let sealed =
                        |error| Error::bug("sealed parameters are no JSON").with_source(error);
                    Parameters::from_json(value.map_err(sealed)?)
                }
                None => Ok(Parameters::None),
            },
        }
    }

    /// The ticket as its client gets it.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub(super) fn seal(&self, key: &TicketKey) -> Result<Vec<u8>> {
        key.seal(self)
    }

    /// Opens a ticket.
    ///
    /// # Errors
    /// `SG2001 unknown-object` for what is none of the caller's tickets; `SG4008
    /// statement-expired`.
    pub(super) fn open(sealed: &[u8], key: &TicketKey, now: Timestamp) -> Result<Self> {
        let ticket: Option<Self> = key.open(sealed);
        let ticket = ticket.ok_or_else(|| {
            Error::new(Code::UnknownObject, "the ticket does not exist")
                .with_hint("A ticket is of the token with which its statement was planned.")
        })?;
        if now.0 > ticket.expires_at {
            return Err(expired("the ticket is over"));
        }
        Ok(ticket)
    }
}

/// A ticket as a part of an address.
pub(super) fn as_text(sealed: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(sealed)
}

/// The ticket in an address; what is none opens with no key.
pub(super) fn of_text(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            id: "1".to_owned(),
            expires_at: 1000,
            sql: "SELECT 'secret'".to_owned(),
            params: Some("[1]".to_owned()),
            row: None,
            rows_max: None,
            timeout_ms: Some(5),
            lock_tokens: vec![12],
            read_only: true,
        }
    }

    #[test]
    fn a_ticket_is_of_one_key_for_some_time() {
        let (ours, theirs) = (TicketKey::of(b"ours"), TicketKey::of(b"theirs"));
        let sealed = ticket().seal(&ours).unwrap();
        let text = as_text(&sealed);
        assert_eq!(of_text(&text), sealed);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let code = |key, now| Ticket::open(&sealed, key, Timestamp(now)).map_err(|e| e.code());
        assert_eq!(code(&ours, 1000), Ok(ticket()));
        assert_eq!(code(&ours, 1001), Err(Code::StatementExpired));
        assert_eq!(code(&theirs, 0), Err(Code::UnknownObject));
        assert_ne!(ticket().seal(&ours).unwrap(), sealed);
    }

    #[test]
    fn a_changed_ticket_is_none() {
        let key = TicketKey::of(b"ours");
        let sealed = ticket().seal(&key).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(Ticket::open(&changed, &key, Timestamp(0)).is_err(), "{at}");
            assert!(
                Ticket::open(&sealed[..at], &key, Timestamp(0)).is_err(),
                "{at}"
            );
        }
    }
}
