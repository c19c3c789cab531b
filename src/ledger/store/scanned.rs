//! The store as queries read it: a file that is gone is no mistake of the user's.
//!
//! A query reads the files of its snapshot. Those may be cleaned up under it when it runs for
//! longer than the grace; then it must say so, and whoever asked may simply ask again.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::ledger::errors::snapshot_gone;

/// Reads of another store, with "not found" as `SG7005 snapshot-gone`.
#[derive(Debug)]
pub(super) struct Scanned(pub Arc<dyn ObjectStore>);

impl fmt::Display for Scanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of this store in errors of object_store.
const SCANNED: &str = "sluicegate-snapshot";

/// Whether the text of a foreign error wraps one of a file that was cleaned up, for readers that
/// keep no more of an error than its text.
pub fn tells_of_a_gone_file(text: &str) -> bool {
    text.contains(&format!("Generic {SCANNED} error"))
}

fn explained(location: &Path, error: Error) -> Error {
    match error {
        Error::NotFound { .. } => Error::Generic {
            store: SCANNED,
            source: Box::new(snapshot_gone(&format!("\"{location}\"")).with_source(error)),
        },
        // Foreign and non-exhaustive.
        other => other,
    }
}

#[async_trait]
impl ObjectStore for Scanned {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.0.get_opts(location, options).await;
        got.map_err(|error| explained(location, error))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let got = self.0.get_ranges(location, ranges).await;
        got.map_err(|error| explained(location, error))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}
