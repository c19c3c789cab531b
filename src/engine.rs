//! TEMPORARY stand-in for the engine: the only place where a session is opened. The real engine
//! replaces this file.

use std::path::PathBuf;

use crate::error::Result;
use crate::session::Session;

/// Whether sessions may change the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Queries and changes.
    ReadWrite,
    /// Queries only.
    ReadOnly,
}

/// What to open and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The store: a folder or an object-store URL.
    pub store: String,
    /// Whether sessions may change the store.
    pub access: Access,
    /// Folders that statements may read files from and write files to.
    pub roots: Vec<PathBuf>,
}

/// An open store.
pub struct Engine {}

impl Engine {
    /// Opens the store, and makes it where it does not exist.
    pub async fn open(_options: EngineOptions) -> Result<Self> {
        Ok(Self {})
    }

    /// Opens a session of one user.
    pub fn session(&self, _actor: &str) -> Session {
        Session::stub()
    }
}
