//! Ids and ordinals. Each is a type of its own, so that a job id is never passed as a token.
//!
//! All of them are assigned by the ledger in commit order, so they are the same on every replay.

use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

ids! {
    /// The number of a commit: 1, 2, 3 ... without holes. 0 is the empty store.
    Version(u64);
    /// A job. Counted from 1 per store; 0 stands for "no job".
    JobId(u64);
    /// A batch: the jobs that one statement scheduled. Counted from 1; 0 stands for "no batch".
    BatchId(u64);
    /// A fencing token. It only grows; whoever reports with an older one is refused.
    Token(u64);
    /// A source table, by order of creation. Never used again after DROP TABLE.
    TableId(u32);
    /// One version of a transform, by order of creation.
    TransformId(u32);
    /// The place of a source in its table's memory: by order of first insertion, kept for ever.
    Slot(u32);
    /// A Parquet run of a source table, by order of creation within its table.
    RunId(u32);
}

impl Version {
    /// The version that the next commit gets.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl JobId {
    /// Stands for "no job" in compact structures.
    pub const NONE: Self = Self(0);

    /// `None` for [`JobId::NONE`].
    pub fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}
