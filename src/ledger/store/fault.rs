//! An object store for tests whose answers get lost, as those of a bucket do.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use url::Url;

use crate::ledger::store::place::{Medium, Place};
use crate::ledger::store::{Patience, Store, place};

/// What happens to one put.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// The object is stored, but the answer is lost.
    AfterPut,
    /// The request is lost: nothing is stored.
    BeforePut,
    /// The request is lost, and another writer stores these bytes at that moment.
    Overtaken(Bytes),
    /// The store says 409: somebody else's put is under way (and then comes to nothing).
    Conflict,
    /// The store refuses for good.
    Denied,
}

/// Objects in memory; puts meet the given faults in turn, then none.
#[derive(Debug, Default)]
pub(crate) struct FaultyStore {
    inner: InMemory,
    faults: Mutex<VecDeque<Fault>>,
    lost_reads: Mutex<u32>,
}

impl FaultyStore {
    /// A store whose next puts meet `faults`.
    pub(crate) fn new(faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        let faults = Mutex::new(faults.into_iter().collect());
        Arc::new(Self {
            inner: InMemory::new(),
            faults,
            lost_reads: Mutex::new(0),
        })
    }

    /// Lets the next `count` reads go unanswered.
    pub(crate) fn lose_reads(&self, count: u32) {
        *self.lost_reads.lock().unwrap() = count;
    }

    /// The faults not yet met.
    pub(crate) fn pending(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

/// A remote store on top of any object store.
pub(crate) fn remote(objects: Arc<dyn ObjectStore>) -> Store {
    let url = Url::parse("s3://faulty").unwrap();
    let registry = place::registry_url("s3://faulty").unwrap();
    let place = Place {
        url,
        registry_url: registry,
        objects,
        medium: Medium::Remote,
    };
    Store::at(place, Patience::default())
}

fn lost() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "the answer was lost".into(),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self
            .faults
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Fault::None);
        match fault {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::AfterPut => {
                self.inner.put_opts(location, payload, options).await?;
                Err(lost())
            }
            Fault::BeforePut => Err(lost()),
            Fault::Overtaken(bytes) => {
                self.inner.put(location, bytes.into()).await?;
                Err(lost())
            }
            Fault::Conflict => Err(object_store::Error::AlreadyExists {
                path: location.to_string(),
                source: "409".into(),
            }),
            Fault::Denied => Err(object_store::Error::PermissionDenied {
                path: location.to_string(),
                source: "403".into(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        {
            let mut lost_reads = self.lost_reads.lock().unwrap();
            if *lost_reads > 0 {
                *lost_reads -= 1;
                return Err(lost());
            }
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
