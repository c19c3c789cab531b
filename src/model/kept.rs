//! Outcomes of statements that came with an idempotency key, for as long as their keys count.
//!
//! Invariant: at every version there are exactly the outcomes whose keys count, by the time of
//! commits and by what the outcome itself says. So a replay, a checkpoint and every process have
//! the same ones.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

use crate::id::Version;
use crate::time::Timestamp;

/// How long a key counts. Chosen: whoever was down for a weekend can still send again.
pub const KEY_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long the key of a statement of a worker counts. Chosen: far longer than a worker sends the
/// same again, and short enough that the keys of a busy week do not pile up. What is repeated later
/// does no harm: a report is refused as stale, and a claim is a new one.
pub const WORKER_KEY_KEEP: Duration = Duration::from_secs(3600);

/// What workers call for every group, as summaries name it.
const WORKER_CALLS: [&str; 5] = [
    "claim_jobs",
    "heartbeat",
    "complete_job",
    "fail_job",
    "hand_back_job",
];

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

impl KeptStatement {
    /// How long its key counts: [`WORKER_KEY_KEEP`] where its summary tells of nothing but the
    /// calls of a worker, else [`KEY_KEEP`].
    pub fn keep(&self) -> Duration {
        #[derive(serde::Deserialize)]
        struct Counted<'a> {
            #[serde(borrow)]
            function: Cow<'a, str>,
        }
        let counts: Vec<Counted<'_>> = serde_json::from_str(&self.summary).unwrap_or_default();
        let of_worker = |one: &Counted<'_>| WORKER_CALLS.contains(&&*one.function);
        match !counts.is_empty() && counts.iter().all(of_worker) {
            true => WORKER_KEY_KEEP,
            false => KEY_KEEP,
        }
    }
}

/// What is kept of a text, to know it again: its SHA-256.
pub fn digest_of(sql: &str) -> [u8; 32] {
    Sha256::digest(sql.as_bytes()).into()
}

/// Outcomes by key. Clones are cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeptStatements {
    by_key: OrdMap<Arc<str>, KeptStatement>,
    /// By the last moment at which the key counts.
    by_end: OrdSet<(Timestamp, Arc<str>)>,
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
        self.by_end
            .insert((kept.at.after(kept.keep()), Arc::clone(&key)));
        self.by_key.insert(key, kept);
    }

    /// Lets the keys of the future count from `now`.
    pub(in crate::model) fn repair(&mut self, now: Timestamp) {
        let all = self.by_key.iter();
        let moved = all.map(|(key, kept)| {
            let at = kept.at.min(now);
            (Arc::clone(key), KeptStatement { at, ..kept.clone() })
        });
        *self = moved.collect();
    }

    /// Gives up those whose keys count no longer.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some((end, key)) = self.by_end.get_min().cloned() {
            if now <= end {
                return;
            }
            self.by_key.remove(&key);
            self.by_end.remove(&(end, key));
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
    fn keys_of_workers_count_for_less_long() {
        let count =
            |function: &str| format!(r#"{{"function":"{function}","outcome":"x","count":1}}"#);
        let of = |functions: &[&str]| {
            let counts: Vec<String> = functions.iter().map(|name| count(name)).collect();
            format!("[{}]", counts.join(","))
        };
        for (summary, keep) in [
            (of(&["claim_jobs"]), WORKER_KEY_KEEP),
            (
                of(&["complete_job", "complete_job", "fail_job"]),
                WORKER_KEY_KEEP,
            ),
            (of(&["heartbeat"]), WORKER_KEY_KEEP),
            (of(&["hand_back_job"]), WORKER_KEY_KEEP),
            (of(&["schedule_job"]), KEY_KEEP),
            (of(&["complete_job", "schedule_job"]), KEY_KEEP),
            (of(&[]), KEY_KEEP),
            (r#"{"rows":3}"#.to_owned(), KEY_KEEP),
            (r#""taken back""#.to_owned(), KEY_KEEP),
            ("no JSON".to_owned(), KEY_KEEP),
        ] {
            let kept = KeptStatement {
                statement_id: "s".into(),
                digest: digest_of("SELECT 1"),
                summary: summary.as_str().into(),
                version: Version(1),
                at: Timestamp(0),
            };
            assert_eq!(kept.keep(), keep, "{summary}");
        }
    }

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
