//! Explicit locks: leases on resources, which are paths such as `notices/00123-2024`.
//!
//! A lock covers its resource and all below it. Two locks conflict when one covers the other's
//! resource and at least one of them is exclusive. The lock that a running job holds on its
//! source is not kept here but with the source, so that it costs no memory of its own.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::id::Token;
use crate::time::Timestamp;

/// What a lock shuts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// Everybody else.
    Exclusive,
    /// Exclusive ones only.
    Shared,
}

impl LockMode {
    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Exclusive, Self::Shared]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Its fencing token.
    pub token: Token,
    /// What it shuts out.
    pub mode: LockMode,
    /// Who holds it.
    pub owner: Arc<str>,
    /// Why, in the owner's words.
    pub reason: Option<Arc<str>>,
    /// Since when.
    pub acquired_at: Timestamp,
    /// Until when, unless it is renewed.
    pub expires_at: Timestamp,
}

/// All explicit locks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LockTable {
    by_resource: OrdMap<Arc<str>, Vec<Lock>>,
    by_expiry: OrdSet<(Timestamp, Token, Arc<str>)>,
}

impl LockTable {
    /// All locks by resource.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Lock)> {
        self.by_resource
            .iter()
            .flat_map(|(resource, locks)| locks.iter().map(move |lock| (resource, lock)))
    }

    /// Whether there is no lock at all.
    pub fn is_empty(&self) -> bool {
        self.by_resource.is_empty()
    }

    /// The lock with this token on this resource.
    pub fn get(&self, resource: &str, token: Token) -> Option<&Lock> {
        self.by_resource
            .get(resource)?
            .iter()
            .find(|lock| lock.token == token)
    }

    /// Adds a lock.
    pub fn insert(&mut self, resource: &str, lock: Lock) {
        let resource: Arc<str> = resource.into();
        self.by_expiry
            .insert((lock.expires_at, lock.token, Arc::clone(&resource)));
        self.by_resource.entry(resource).or_default().push(lock);
    }

    /// Removes the lock with this token.
    pub fn remove(&mut self, resource: &str, token: Token) -> Option<Lock> {
        let locks = self.by_resource.get_mut(resource)?;
        let lock = locks.remove(locks.iter().position(|lock| lock.token == token)?);
        if locks.is_empty() {
            self.by_resource.remove(resource);
        }
        self.by_expiry
            .remove(&(lock.expires_at, token, resource.into()));
        Some(lock)
    }

    /// The locks whose lease has ended at `now`, the earliest first.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = (&Arc<str>, Token)> {
        self.by_expiry
            .iter()
            .take_while(move |(expires_at, ..)| *expires_at <= now)
            .map(|(_, token, resource)| (resource, *token))
    }

    /// When the next lease ends.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.by_expiry.get_min().map(|(expires_at, ..)| *expires_at)
    }

    /// A lock that shuts out a new lock of `mode` on `resource`.
    pub fn conflict<'a>(
        &'a self,
        resource: &str,
        mode: LockMode,
    ) -> Option<(&'a Arc<str>, &'a Lock)> {
        let shuts_out =
            |lock: &&Lock| mode == LockMode::Exclusive || lock.mode == LockMode::Exclusive;
        self.covering(resource)
            .chain(self.below(resource))
            .find(|(_, lock)| shuts_out(lock))
    }

    /// The locks on the resource itself and on the paths above it.
    pub fn covering<'a, 'r>(
        &'a self,
        resource: &'r str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Lock)> + use<'a, 'r> {
        let ends = resource
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([resource.len()]);
        ends.filter_map(move |end| resource.get(..end))
            .filter_map(|path| self.by_resource.get_key_value(path))
            .flat_map(|(path, locks)| locks.iter().map(move |lock| (path, lock)))
    }

    /// The locks on paths below the resource.
    pub fn below<'a>(
        &'a self,
        resource: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Lock)> + use<'a> {
        let prefix = format!("{resource}/");
        let from: Arc<str> = prefix.as_str().into();
        self.by_resource
            .range(from..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .flat_map(|(path, locks)| locks.iter().map(move |lock| (path, lock)))
    }
}

/// The longest resource, in bytes. Chosen: ample for a URL, and every event of a lock repeats it.
const RESOURCE_BYTES_MAX: usize = 1024;

/// Why a text cannot be a resource; `None` where it can.
pub fn resource_problem(resource: &str) -> Option<&'static str> {
    path_problem(resource.strip_prefix('@').unwrap_or(resource), 0)
}

/// Why a text is no path: it is empty, has an empty part or control characters. `before` counts
/// the bytes of the path that it is put behind.
pub fn path_problem(path: &str, before: usize) -> Option<&'static str> {
    if path.is_empty() {
        Some("it is empty")
    } else if path.split('/').any(str::is_empty) {
        Some("it has an empty part")
    } else if path.chars().any(char::is_control) {
        Some("it has a control character")
    } else if path.len() + before > RESOURCE_BYTES_MAX {
        Some("it is longer than 1024 bytes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(locks: &[(&str, LockMode, u64)]) -> LockTable {
        let mut table = LockTable::default();
        for &(resource, mode, token) in locks {
            table.insert(
                resource,
                Lock {
                    token: Token(token),
                    mode,
                    owner: "ann".into(),
                    reason: None,
                    acquired_at: Timestamp(0),
                    expires_at: Timestamp(i64::try_from(token).unwrap() * 10),
                },
            );
        }
        table
    }

    fn check(held: &[(&str, LockMode, u64)], wanted: (&str, LockMode), in_the_way: Option<u64>) {
        let locks = table(held);
        let found = locks
            .conflict(wanted.0, wanted.1)
            .map(|(_, lock)| lock.token.0);
        assert_eq!(found, in_the_way, "{held:?} against {wanted:?}");
    }

    #[test]
    fn a_lock_covers_all_below_it_and_nothing_beside_it() {
        use LockMode::{Exclusive as X, Shared as S};
        check(&[("notices", X, 1)], ("notices/1", X), Some(1));
        check(&[("notices/1", X, 1)], ("notices", X), Some(1));
        check(&[("notices/1", X, 1)], ("notices/10", X), None);
        check(&[("notices", X, 1)], ("notices-old/1", X), None);
        check(&[("notices-old", X, 1)], ("notices", X), None);
        check(&[("notices/a/b", X, 1)], ("notices/a", S), Some(1));
        check(&[("notices", S, 1)], ("notices/1", S), None);
        check(&[("notices", S, 1)], ("notices/1", X), Some(1));
        check(
            &[("notices/1", S, 1), ("notices/2", X, 2)],
            ("notices", S),
            Some(2),
        );
    }

    #[test]
    fn an_expired_lock_is_listed_until_it_is_removed() {
        let mut locks = table(&[("a", LockMode::Exclusive, 1), ("b", LockMode::Exclusive, 2)]);
        let expired: Vec<Token> = locks
            .expired(Timestamp(10))
            .map(|(_, token)| token)
            .collect();
        assert_eq!(expired, [Token(1)]);
        assert!(locks.remove("a", Token(2)).is_none());
        assert!(locks.remove("a", Token(1)).is_some());
        assert_eq!(locks.next_expiry(), Some(Timestamp(20)));
    }
}
