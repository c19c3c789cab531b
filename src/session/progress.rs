//! How far a long statement is, for a person who watches.

use std::fmt;
use std::sync::Arc;

/// A moment of a long statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Jobs that ended.
    pub done: u64,
    /// Jobs that ended or are still before it.
    pub total: u64,
    /// How they ended, in words.
    pub text: String,
}

/// Who is told. Cheap to clone; by default nobody.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl Watcher {
    /// Calls `told` with each moment. It must not block.
    pub fn new(told: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// Passes a moment on.
    pub fn tell(&self, progress: Progress) {
        if let Some(told) = &self.0 {
            told(progress);
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watcher").field(&self.0.is_some()).finish()
    }
}
