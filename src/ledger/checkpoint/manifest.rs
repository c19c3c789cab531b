//! The file that makes a checkpoint: which parts it has, and everything small.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::Version;
use crate::ledger::{codec, errors};
use crate::model::frozen::{Catalog, Part};
use crate::model::lineage::FORMAT;
use crate::time::Timestamp;

/// The folder of all checkpoints.
pub(in crate::ledger) const FOLDER: &str = "checkpoints";

const NAME: &str = "manifest.json";

/// What stands before the hash of the body, between the two, and behind the body. The hash is
/// of the body's very bytes, and has 16 hexadecimal digits.
const HEAD: &str = "{\"hash\":\"";
const NECK: &str = "\",\"checkpoint\":";
const TAIL: &str = "}\n";

/// Where the manifest of a version is.
pub fn manifest_path(version: Version) -> String {
    format!("{}/{NAME}", folder(version))
}

/// The folder of a version.
pub(super) fn folder(version: Version) -> String {
    format!("{FOLDER}/{:020}", version.0)
}

/// The version whose folder a file is in.
pub(in crate::ledger) fn folder_version(path: &str) -> Option<Version> {
    let (number, _) = path
        .strip_prefix(FOLDER)?
        .strip_prefix('/')?
        .split_once('/')?;
    (number.len() == 20)
        .then(|| number.parse().ok().map(Version))
        .flatten()
}

/// The version whose manifest a file is.
pub(in crate::ledger) fn manifest_version(path: &str) -> Option<Version> {
    folder_version(path).filter(|version| *path == manifest_path(*version))
}

/// What a checkpoint consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its version.
    pub version: Version,
    /// Its files, the manifest among them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One Parquet file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// What it holds.
    #[serde(flatten)]
    pub part: Part,
    /// Its path in the store.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// [`codec::content_hash`] of them, hexadecimal.
    pub hash: String,
}

/// The manifest of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    written_at: i64,
    #[serde(flatten)]
    catalog: Catalog,
    files: Vec<PartFile>,
}

/// As much of a manifest as every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    pub(super) fn new(at: Timestamp, catalog: Catalog, files: Vec<PartFile>) -> Self {
        Self {
            format: FORMAT,
            written_at: at.0,
            catalog,
            files,
        }
    }

    /// Everything small of the state.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The files.
    pub fn files(&self) -> &[PartFile] {
        &self.files
    }

    pub(super) fn written(&self, manifest_bytes: usize) -> Written {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        Written {
            version: Version(self.catalog.version),
            files: self.files.len() as u64 + 1,
            bytes: bytes + manifest_bytes as u64,
        }
    }

    /// As bytes of a file.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub(super) fn encode(&self) -> Result<Bytes> {
        let body = serde_json::to_string(self)
            .map_err(|error| Error::bug("a manifest cannot be written").with_source(error))?;
        let hash = codec::content_hash(body.as_bytes());
        Ok(format!("{HEAD}{hash:016x}{NECK}{body}{TAIL}").into())
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// `SG7003 store-corrupt`, `SG7004 store-too-new`.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| errors::damaged(path, what);
        let text = std::str::from_utf8(bytes).map_err(|error| errors::damaged(path, error))?;
        let (hash, body) = text
            .strip_prefix(HEAD)
            .and_then(|rest| rest.strip_suffix(TAIL)?.split_once(NECK))
            .ok_or_else(|| damaged("it is no manifest"))?;
        if hash != format!("{:016x}", codec::content_hash(body.as_bytes())) {
            return Err(damaged("its text is not what was written"));
        }
        let format: Format =
            serde_json::from_str(body).map_err(|error| errors::damaged(path, error))?;
        if format.format > FORMAT {
            return Err(errors::too_new(path, format.format));
        }
        serde_json::from_str(body).map_err(|error| errors::damaged(path, error))
    }
}
