//! What puts, reads and listings tell of a file of the store.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectMeta;

use crate::time::Timestamp;

/// Which file stands under a name: another file of the same name has another stamp.
///
/// On a local disk: device, inode, time and size. On a bucket: the entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// Of a local disk.
    Inode {
        /// The device.
        device: u64,
        /// The number of the file there.
        inode: u64,
        /// When it was written last, in nanoseconds, as far as it fits.
        modified: i64,
        /// Its bytes.
        bytes: u64,
    },
    /// Of a bucket.
    Tag(Arc<str>),
    /// Of a store that does not say.
    Unknown,
}

impl Stamp {
    pub(in crate::ledger) fn of_local(metadata: &Metadata) -> Self {
        let nanos = metadata.mtime().wrapping_mul(1_000_000_000);
        Self::Inode {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: nanos.wrapping_add(metadata.mtime_nsec()),
            bytes: metadata.len(),
        }
    }

    pub(super) fn of_tag(tag: Option<&str>) -> Self {
        tag.map_or(Self::Unknown, |tag| Self::Tag(tag.into()))
    }
}

/// A whole file.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its content.
    pub bytes: Bytes,
    /// Which file it is.
    pub stamp: Stamp,
}

/// What came of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The file is there with these bytes, durably.
    Created(Stamp),
    /// Another file has the name.
    AlreadyExists,
}

/// Whether a put was the first for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// The file is there with these bytes, durably.
    Created,
    /// Another file has the name.
    AlreadyExists,
}

impl From<Put> for PutNew {
    fn from(put: Put) -> Self {
        match put {
            Put::Created(_) => Self::Created,
            Put::AlreadyExists => Self::AlreadyExists,
        }
    }
}

/// A file of the store, as listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Path inside the store.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

impl From<ObjectMeta> for Entry {
    fn from(object: ObjectMeta) -> Self {
        Self {
            path: object.location.into(),
            bytes: object.size,
            modified: Timestamp(object.last_modified.timestamp_micros()),
        }
    }
}

/// The store's present moment, as far as a listing tells: nothing that it lists can have been
/// written later. So it may be behind, and never ahead; whoever deletes by it deletes too little.
pub fn latest(entries: &[Entry]) -> Timestamp {
    let moments = entries.iter().map(|entry| entry.modified);
    moments.max().unwrap_or_default()
}
