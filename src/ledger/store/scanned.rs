//! The store as queries read it: a file that is gone is no mistake of the user's.
//!
//! A query reads the files of its snapshot. Those may be cleaned up under it when it runs for
//! longer than the grace; then it must say so, and whoever asked may simply ask again.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};

use crate::ledger::errors::{snapshot_gone, unable, unavailable};

/// Reads of another store, with "not found" as `SG7005 snapshot-gone` and all else that fails as
/// `SG7002 store-unavailable`.
#[derive(Debug)]
pub(super) struct Scanned(pub Arc<dyn ObjectStore>);

impl fmt::Display for Scanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The names of this store in errors of object_store, by what went wrong.
const GONE: &str = "sluicegate-snapshot";
const SILENT: &str = "sluicegate-store";

/// The error of a scan that the text of a foreign error wraps, for readers that keep no more of
/// an error than its text; `None` where the file itself is wrong.
pub fn failed_scan(text: &str) -> Option<crate::error::Error> {
    let tells_of = |store| text.contains(&format!("Generic {store} error"));
    if tells_of(GONE) {
        Some(snapshot_gone("of the query"))
    } else if tells_of(SILENT) {
        Some(unable("read a file of the query", text))
    } else {
        None
    }
}

fn explained(location: &Path, error: Error) -> Error {
    let (store, ours) = match error {
        Error::NotFound { .. } => {
            let ours = snapshot_gone(&format!("\"{location}\""));
            (GONE, ours.with_source(error))
        }
        // Foreign and non-exhaustive.
        other => (SILENT, unavailable("read", location.as_ref(), other)),
    };
    Error::Generic {
        store,
        source: Box::new(ours),
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
        let mut got = got.map_err(|error| explained(location, error))?;
        // The bytes come later, and may break off.
        if let GetResultPayload::Stream(bytes) = got.payload {
            let location = location.clone();
            let bytes = bytes.map_err(move |error| explained(&location, error));
            got.payload = GetResultPayload::Stream(bytes.boxed());
        }
        Ok(got)
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
