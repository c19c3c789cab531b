//! Outcomes of statements that came with an idempotency key, for as long as their keys count.
//!
//! Invariant: at every version there are exactly the outcomes of the last [`KEY_KEEP`], by the time
//! of commits. So a replay, a checkpoint and every process have the same ones.

use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

use crate::id::Version;
use crate::time::Timestamp;

/// How long a key counts. Chosen: whoever was down for a weekend can still send again.
pub const KEY_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// The outcome of a statement that came with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStatement {
    /// The statement.
    pub statement_id: Arc<str>,
    /// Of its text, which may be long.
    pub digest: [u8; 32],
    /// What it did, as JSON.
    pub summary: Arc<str>,
    /// The commit.
    pub version: Version,
    /// When.
    pub at: Timestamp,
}

/// What is kept of a text, to know it again: its SHA-256.
pub fn digest_of(sql: &str) -> [u8; 32] {
    Sha256::digest(sql.as_bytes()).into()
}

/// Outcomes by key. Clones are cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeptStatements {
    by_key: OrdMap<Arc<str>, KeptStatement>,
    by_age: OrdSet<(Timestamp, Arc<str>)>,
}

impl KeptStatements {
    /// The outcome that has this key.
    pub fn get(&self, key: &str) -> Option<&KeptStatement> {
        self.by_key.get(key)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &KeptStatement)> {
        self.by_key.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Keeps an outcome.
    pub fn insert(&mut self, key: Arc<str>, kept: KeptStatement) {
        self.by_age.insert((kept.at, Arc::clone(&key)));
        self.by_key.insert(key, kept);
    }

    /// Lets the keys of the future count from `now`.
    pub(in crate::model) fn repair(&mut self, now: Timestamp) {
        let future = |(at, _): &&(Timestamp, Arc<str>)| *at > now;
        let wrong: Vec<_> = self.by_age.iter().filter(future).cloned().collect();
        for (at, key) in wrong {
            self.by_age.remove(&(at, Arc::clone(&key)));
            if let Some(kept) = self.by_key.get(&key).cloned() {
                self.insert(key, KeptStatement { at: now, ..kept });
            }
        }
    }

    /// Gives up those whose keys count no longer.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.by_age.get_min().cloned() {
            if now.since(at) <= KEY_KEEP {
                return;
            }
            self.by_key.remove(&key);
            self.by_age.remove(&(at, key));
        }
    }
}

impl FromIterator<(Arc<str>, KeptStatement)> for KeptStatements {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, KeptStatement)>>(all: I) -> Self {
        let mut kept = Self::default();
        all.into_iter().for_each(|(key, one)| kept.insert(key, one));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_kept_for_their_time_and_no_longer() {
        let one = |seconds: u64| KeptStatement {
            statement_id: "s".into(),
            digest: digest_of("SELECT 1"),
            summary: "[]".into(),
            version: Version(1),
            at: Timestamp(0).after(Duration::from_secs(seconds)),
        };
        let mut kept: KeptStatements = [("a".into(), one(5)), ("b".into(), one(0))]
            .into_iter()
            .collect();
        let end = Timestamp(0).after(KEY_KEEP);
        kept.expire(end);
        assert_eq!(kept.len(), 2);
        kept.expire(end.after(Duration::from_secs(1)));
        assert!(kept.get("b").is_none() && kept.get("a").is_some());
        kept.expire(Timestamp::MAX);
        assert_eq!(kept, KeptStatements::default());
    }
}
