//! Where a commit stands: the store that it is of, the commit that it follows, and the rules under
//! which it was decided.
//!
//! Invariant: commits of one store name one store, and each names the digest of the file of the
//! commit before it. So a store that was replaced under a process, or a past that was swapped, is
//! noticed by the first commit that does not fit, before anything is decided from it.

use std::sync::Arc;

use crate::model::rules::{Rule, Violation, require};
use crate::model::transform::Permission;

/// The format of ledger files and checkpoints that this program writes, and of the rules by which
/// it decides. It grows when an older program could not read them correctly.
///
/// A replay judges each commit by the rules of its own format: what was allowed stays valid.
pub const FORMAT: u32 = 3;

/// The last format whose commits say nothing of where they stand.
pub const SILENT_FORMAT: u32 = 2;

/// What the first row of a commit says of the whole commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The format of its rules.
    pub format: u32,
    /// The id of the store.
    pub store: Option<Arc<str>>,
    /// The digest of the file of the commit before it; `None` where that is not known.
    pub previous: Option<u64>,
}

impl Header {
    /// That of a commit which says nothing.
    pub fn silent() -> Self {
        Self {
            format: SILENT_FORMAT,
            store: None,
            previous: None,
        }
    }
}

/// What is known of the commits that led to a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The format of the commit that is being folded in.
    pub format: u32,
    /// The id of the store; `None` before its first commit of a format that names one.
    pub store: Option<Arc<str>>,
    /// The digest of the file of the newest commit; `None` where only a compacted file was read.
    pub head: Option<u64>,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            format: FORMAT,
            store: None,
            head: None,
        }
    }
}

impl Lineage {
    /// The header of the next commit. `new_store` is the id of a store that has none.
    pub fn next(&self, new_store: impl FnOnce() -> Arc<str>) -> Header {
        Header {
            format: FORMAT,
            store: Some(self.store.clone().unwrap_or_else(new_store)),
            previous: self.head,
        }
    }

    /// Goes on to a commit with this header.
    ///
    /// # Errors
    /// The commit is of another store, or follows another commit.
    pub fn advance(&mut self, header: &Header) -> Result<(), Violation> {
        let same = match (&self.store, &header.store) {
            (Some(known), Some(said)) => known == said,
            (Some(_), None) => header.format <= SILENT_FORMAT,
            (None, _) => true,
        };
        require(Rule::Lineage, Permission::of(same), || {
            "the commit is of another store".to_owned()
        })?;
        let follows = match (self.head, header.previous) {
            (Some(known), Some(said)) => known == said,
            (None, _) | (_, None) => true,
        };
        require(Rule::Lineage, Permission::of(follows), || {
            "the commit follows another one than the one before it".to_owned()
        })?;
        if self.store.is_none() {
            self.store.clone_from(&header.store);
        }
        self.format = header.format;
        self.head = None;
        Ok(())
    }

    /// Goes on to a commit of one's own, whose file has this digest.
    pub fn committed(&mut self, header: Header, digest: u64) {
        self.store = header.store;
        self.head = Some(digest);
    }

    /// Whether two lineages can be of one history: nothing that both know differs.
    pub fn agrees(&self, other: &Self) -> Permission {
        let heads = self.head.zip(other.head);
        Permission::of(self.store == other.store && heads.is_none_or(|(a, b)| a == b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(store: &str, previous: Option<u64>) -> Header {
        Header {
            format: FORMAT,
            store: Some(store.into()),
            previous,
        }
    }

    fn check(head: Option<u64>, next: &Header, fits: Permission) {
        let mut lineage = Lineage {
            store: Some("s".into()),
            head,
            ..Lineage::default()
        };
        assert_eq!(
            Permission::of(lineage.advance(next).is_ok()),
            fits,
            "{head:?} {next:?}"
        );
    }

    #[test]
    fn a_commit_of_another_store_or_past_does_not_follow() {
        use Permission::{Allowed, Denied};
        check(Some(1), &header("s", Some(1)), Allowed);
        check(None, &header("s", Some(1)), Allowed);
        check(Some(1), &header("s", None), Allowed);
        check(Some(1), &header("s", Some(2)), Denied);
        check(Some(1), &header("t", Some(1)), Denied);
        check(None, &header("t", None), Denied);
        check(Some(1), &Header::silent(), Allowed);
    }

    #[test]
    fn the_first_header_with_a_store_names_it() {
        let mut lineage = Lineage::default();
        lineage.advance(&Header::silent()).unwrap();
        assert_eq!(lineage.format, SILENT_FORMAT);
        let first = lineage.next(|| "new".into());
        lineage.advance(&first).unwrap();
        let second = lineage.next(|| "other".into());
        assert_eq!(second.store.as_deref(), Some("new"));
    }
}
