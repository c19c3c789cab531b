//! The store's I/O: whole files, put once, read, listed, deleted.
//!
//! Paths are relative to the store, with `/` between their parts. A file never changes once it
//! is there. Everything that was put is durable when the call returns. Only the ledger writes
//! here; table scans read through [`Store::object_store`].
//!
//! Every request is bounded: what a bucket does not answer in time is an error, so that nobody
//! waits for longer than [`Patience`] says.

mod blocking;
#[cfg(test)]
pub(crate) mod fault;
pub(super) mod file;
mod place;
mod scanned;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::chance;
use crate::error::{Error, Result};
use crate::ledger::errors::{unavailable, unconfirmed};
use crate::ledger::local::{self, Staging};
use crate::time::Timestamp;

use blocking::blocking;
use place::{Dates, Medium, Place};
use scanned::Scanned;

pub use file::{Entry, Found, Put, PutNew, Stamp};
pub use place::{Absent, Patience, StoreOptions, no_store};
pub use scanned::failed_scan;
pub use writer::DataWriter;

/// How often one request whose answer broke off is made again, within [`Patience::wait`].
const ATTEMPTS_MAX: u32 = 5;

/// The longest pause before the second attempt; each further one may last twice as long.
const PAUSE_MS: u64 = 20;

/// Bytes a second that a store is expected to take or give at least. Chosen: a slow line; below
/// it, requests of large files time out.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Where new stores look whether puts are safe. Nothing else is ever in it.
const PROBES: &str = "probe";

/// What a store says of itself when it is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its present moment, when the file was written that was to try it out.
    pub at: Timestamp,
    /// Whether a second put of one name is refused.
    pub second_put: SecondPut,
}

/// What a store does with a second put of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondPut {
    /// It refuses it, as it was asked to.
    Refused,
    /// It takes it.
    Taken,
}

/// How far the answers of a simulated store can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// The answer to a put is the truth, as on a local disk.
    Certain,
    /// It may be lost, or be about an earlier attempt of the same put, as on a bucket.
    Doubtful,
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: Url,
    registry_url: Url,
    objects: Arc<dyn ObjectStore>,
    medium: Medium,
    patience: Patience,
    tasks: Tasks,
}

/// Where work runs that takes a processor for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tasks {
    /// On threads of their own.
    Threads,
    /// In the task that asks for it: a simulation has one thread.
    Inline,
}

impl Tasks {
    /// Does work that would hold up a runtime.
    ///
    /// # Errors
    /// `SG9001 bug`: it panicked.
    pub async fn offload<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Inline => Ok(work()),
            Self::Threads => spawn_blocking(work)
                .await
                .map_err(|error| Error::bug("a background task ended").with_source(error)),
        }
    }

    /// Begins a task of its own, which may hold up its thread.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn spawn(
        self,
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        match self {
            Self::Inline => {
                tokio::spawn(work);
                Ok(())
            }
            Self::Threads => {
                let runtime = tokio::runtime::Handle::current();
                std::thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || runtime.block_on(work))
                    .map(drop)
            }
        }
    }
}

impl Store {
    /// Opens a store.
    ///
    /// # Arguments
    /// * `url`: a folder, or `file:///folder`, `memory://name`, `s3://bucket/path`,
    ///   `az://container/path`, `gs://bucket/path`.
    ///
    /// # Errors
    /// SG7001 store-url: it names no store. SG7002 store-unavailable: it does not answer.
    pub async fn open(url: &str, options: &StoreOptions) -> Result<Self> {
        let store = Self::at(place::open(url, options).await?, options.patience);
        if matches!(store.inner.medium, Medium::Remote) {
            let probe = async { store.inner.objects.list(None).try_next().await };
            match timeout(options.patience.wait, probe).await {
                // A bucket has no folders: a store in it has its first file.
                Ok(Ok(None)) if options.absent == Absent::Refuse => return Err(no_store(url)),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(place::unreachable(url, error)),
                Err(error) => return Err(place::unreachable(url, error)),
            }
        }
        Ok(store)
    }

    fn at(place: Place, patience: Patience) -> Self {
        let Place {
            url,
            registry_url,
            objects,
            medium,
        } = place;
        Self {
            inner: Arc::new(Inner {
                url,
                registry_url,
                objects,
                medium,
                patience,
                tasks: Tasks::Threads,
            }),
        }
    }

    /// A store over objects of a simulation, all of whose work is done in the calling thread.
    ///
    /// # Errors
    /// `SG9001 bug`: the name does not fit into a URL.
    pub fn simulated(name: &str, objects: Arc<dyn ObjectStore>, answers: Answers) -> Result<Self> {
        let text = format!("memory://{name}");
        let url = Url::parse(&text)
            .map_err(|error| Error::bug("a simulated store has no url").with_source(error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                url,
                registry_url: place::registry_url(&text)?,
                objects,
                medium: match answers {
                    Answers::Certain => Medium::Memory(Dates::Simulated),
                    Answers::Doubtful => Medium::Remote,
                },
                patience: Patience::default(),
                tasks: Tasks::Inline,
            }),
        })
    }

    /// The store's URL, absolute and without a password.
    pub fn url(&self) -> &Url {
        &self.inner.url
    }

    /// The folder of a local store.
    pub fn local_path(&self) -> Option<&FilePath> {
        match &self.inner.medium {
            Medium::Local { root, .. } => Some(root),
            Medium::Memory(_) | Medium::Remote => None,
        }
    }

    /// The URL under which to register [`Store::object_store`] with DataFusion: scheme and host
    /// only, one per store.
    pub fn registry_url(&self) -> &Url {
        &self.inner.registry_url
    }

    /// Where long work of this store runs.
    pub fn tasks(&self) -> Tasks {
        self.inner.tasks
    }

    /// How long requests may take.
    pub fn patience(&self) -> Patience {
        self.inner.patience
    }

    /// Whether asking the store which file has a name costs next to nothing.
    pub fn is_near(&self) -> bool {
        matches!(self.inner.medium, Medium::Local { .. } | Medium::Memory(_))
    }

    /// The files for reading. Its paths are the paths inside the store, without a base prefix.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.objects)
    }

    /// The same for scans of a snapshot: a file that is not there has been cleaned up, and reading
    /// it fails with SG7005 snapshot-gone; where the store does not answer, with SG7002
    /// store-unavailable.
    pub fn scanned(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Scanned(self.object_store()))
    }

    /// Puts a whole file unless its name is taken.
    ///
    /// # Errors
    /// Those of [`Store::put`].
    ///
    /// # Guarantees
    /// Those of [`Store::put`].
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<PutNew> {
        self.put(path, bytes).await.map(PutNew::from)
    }

    /// Puts a whole file unless its name is taken, and says which file it is.
    ///
    /// # Arguments
    /// * `bytes`: on a remote store they must differ from what any other writer may put under
    ///   this name (hold a random id, say): after a lost answer they tell whose file it is.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store refused; or it is unknown whether the file is there,
    /// which the detail then says. SG7008 store-unsafe: a file system without hard links.
    ///
    /// # Guarantees
    /// Of any number of callers with different bytes exactly one gets [`Put::Created`].
    /// Durable when it returns. Goes on to its end when the caller is dropped, for a local store.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<Put> {
        let location = location(path)?;
        match &self.inner.medium {
            Medium::Local { root, files, known } => {
                let target = file_path(files, &location)?;
                let (root, known) = (root.clone(), Arc::clone(known));
                blocking("write", path, move || {
                    local::put_new(&root, &target, &bytes, &known)
                })
                .await
            }
            Medium::Memory(_) => match self.create(&location, &bytes).await {
                Ok(stamp) => Ok(Put::Created(stamp)),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::AlreadyExists),
                Err(error) => Err(unavailable("write", path, error)),
            },
            Medium::Remote => self.put_remote(path, &location, &bytes).await,
        }
    }

    async fn create(&self, location: &Path, bytes: &Bytes) -> object_store::Result<Stamp> {
        let payload = bytes.clone().into();
        let put = self
            .inner
            .objects
            .put_opts(location, payload, PutMode::Create.into())
            .await?;
        Ok(Stamp::of_tag(put.e_tag.as_deref()))
    }

    async fn put_remote(&self, path: &str, location: &Path, bytes: &Bytes) -> Result<Put> {
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let put = self.in_time(bytes.len() as u64, self.create(location, bytes));
            let put_error = match put.await {
                Ok(stamp) => return Ok(Put::Created(stamp)),
                Err(error) => error,
            };
            if refused(&put_error) {
                return Err(unavailable("write", path, put_error));
            }
            // "Already exists" may be about an earlier attempt of this very put, and S3's 409
            // about a put still under way that fails in the end: only the object itself tells.
            let error = match self.in_time(bytes.len() as u64, self.whole(location)).await {
                Ok(found) if found.bytes == *bytes => return Ok(Put::Created(found.stamp)),
                Ok(_) => return Ok(Put::AlreadyExists),
                Err(object_store::Error::NotFound { .. }) => put_error,
                Err(read_error) => read_error,
            };
            attempt += 1;
            if attempt == ATTEMPTS_MAX || begun.elapsed() >= self.inner.patience.wait {
                return Err(unconfirmed(path, error));
            }
            tracing::debug!(%error, path, attempt, "put again");
            pause(attempt).await;
        }
    }

    /// A request to a bucket, given up where it takes longer than a slow line would.
    async fn in_time<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let most = self.inner.patience.request + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        match timeout(most, request).await {
            Ok(answered) => answered,
            Err(late) => Err(object_store::Error::Generic {
                store: "store",
                source: format!("no answer within {} s ({late})", most.as_secs()).into(),
            }),
        }
    }

    /// A request that reads, made again where its answer broke off.
    async fn again<T, F>(
        &self,
        path: &str,
        verb: &str,
        request: impl Fn() -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let error = match request().await {
                Ok(answer) => return Ok(Some(answer)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => error,
            };
            attempt += 1;
            let late = begun.elapsed() >= self.inner.patience.wait;
            if self.is_near() || late || attempt == ATTEMPTS_MAX || refused(&error) {
                return Err(unavailable(verb, path, error));
            }
            tracing::debug!(%error, path, attempt, verb, "asked again");
            pause(attempt).await;
        }
    }

    async fn whole(&self, location: &Path) -> object_store::Result<Found> {
        let got = self.inner.objects.get(location).await?;
        let stamp = Stamp::of_tag(got.meta.e_tag.as_deref());
        let bytes = got.bytes().await?;
        Ok(Found { bytes, stamp })
    }

    /// Begins a large file; it appears when the writer finishes.
    ///
    /// # Arguments
    /// * `path`: must be unique (hold a random id, say): a remote store cannot refuse a second
    ///   file of the same name here.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the file cannot be begun.
    pub async fn put_data(&self, path: &str) -> Result<DataWriter> {
        let location = location(path)?;
        let sink = match &self.inner.medium {
            Medium::Local { root, files, known } => {
                let target = file_path(files, &location)?;
                let (root, known) = (root.clone(), Arc::clone(known));
                let staging = blocking("write", path, move || {
                    Staging::create(&root, &target, &known)
                })
                .await?;
                writer::Sink::Local {
                    staging,
                    pending: Vec::new(),
                    pending_bytes: 0,
                }
            }
            Medium::Memory(_) | Medium::Remote => {
                let objects = Arc::clone(&self.inner.objects);
                writer::Sink::Remote(
                    BufWriter::with_capacity(objects, location, writer::PART_BYTES)
                        .with_max_concurrency(writer::PARTS_MAX),
                )
            }
        };
        Ok(DataWriter::new(path, sink))
    }

    /// Reads a whole file; `None` where there is none.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.read(path).await?.map(|found| found.bytes))
    }

    /// Reads a whole file and says which one it is; `None` where there is none.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn read(&self, path: &str) -> Result<Option<Found>> {
        let location = location(path)?;
        match &self.inner.medium {
            Medium::Local { files, .. } => {
                // Every statement asks for the next version, which is mostly not there: that
                // answer is a few microseconds away, less than the way to a blocking thread.
                match File::open(file_path(files, &location)?) {
                    Ok(file) => blocking("read", path, move || read_whole(file)).await,
                    Err(error) if absent(&error) => Ok(None),
                    Err(error) => Err(unavailable("read", path, error)),
                }
            }
            Medium::Memory(_) | Medium::Remote => {
                self.again(path, "read", || self.whole(&location)).await
            }
        }
    }

    /// Which file has a name; `None` where there is none.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn stamp(&self, path: &str) -> Result<Option<Stamp>> {
        let location = location(path)?;
        match &self.inner.medium {
            Medium::Local { files, .. } => match std::fs::metadata(file_path(files, &location)?) {
                Ok(metadata) => Ok(Some(Stamp::of_local(&metadata))),
                Err(error) if absent(&error) => Ok(None),
                Err(error) => Err(unavailable("read", path, error)),
            },
            Medium::Memory(_) | Medium::Remote => {
                let meta = self.again(path, "read", || {
                    self.in_time(0, self.inner.objects.head(&location))
                });
                let meta = meta.await?;
                Ok(meta.map(|meta| Stamp::of_tag(meta.e_tag.as_deref())))
            }
        }
    }

    /// Tries out what the whole ledger rests on: that a second put of one name is refused; and
    /// asks the store for its time.
    ///
    /// # Returns
    /// `None` of a store in memory, which no other process sees.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer, or may not be written. SG7008
    /// store-unsafe: a file system without hard links.
    pub async fn probe(&self) -> Result<Option<Probe>> {
        match &self.inner.medium {
            Medium::Local { root, .. } => {
                let root = root.clone();
                let at = blocking("write", PROBES, move || local::probe(&root)).await?;
                let second_put = SecondPut::Refused;
                Ok(Some(Probe { at, second_put }))
            }
            Medium::Memory(Dates::Machine) => Ok(None),
            Medium::Memory(Dates::Simulated) | Medium::Remote => {
                self.probe_remote().await.map(Some)
            }
        }
    }

    async fn probe_remote(&self) -> Result<Probe> {
        let path = format!("{PROBES}/{:016x}", chance::number());
        let location = location(&path)?;
        let first = Bytes::from_static(b"first");
        if self.put_remote(&path, &location, &first).await? == Put::AlreadyExists {
            return Err(Error::bug("a fresh name is taken"));
        }
        let second = Bytes::from_static(b"second");
        let second = self.in_time(0, self.create(&location, &second)).await;
        let meta = self.again(&path, "read", || {
            self.in_time(0, self.inner.objects.head(&location))
        });
        let meta = meta.await?;
        let deleted = self.delete(&path).await;
        let second_put = match second {
            Ok(_) => SecondPut::Taken,
            Err(object_store::Error::AlreadyExists { .. }) => SecondPut::Refused,
            Err(error) => return Err(unavailable("write", &path, error)),
        };
        deleted?;
        let meta = meta.ok_or_else(|| unavailable("read", &path, "it is not there"))?;
        Ok(Probe {
            at: Timestamp(meta.last_modified.timestamp_micros()),
            second_put,
        })
    }

    /// Reads the bytes `range` of a file; `None` where there is no such file.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer, or the file ends before the range
    /// begins.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let location = location(path)?;
        self.again(path, "read", || {
            self.inner.objects.get_range(&location, range.clone())
        })
        .await
    }

    /// The size of a file in bytes; `None` where there is none.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        let location = location(path)?;
        let meta = self.again(path, "read", || {
            self.in_time(0, self.inner.objects.head(&location))
        });
        Ok(meta.await?.map(|meta| meta.size))
    }

    /// All files below the folder `prefix`, ascending by path; none where it does not exist.
    /// The empty prefix stands for the whole store.
    ///
    /// A listing is not one moment: beside writers it may lack files that are there, and have
    /// some that are gone. What was there before it began and stays, it has.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let folder = location(prefix)?;
        let listed = self.again(prefix, "list", || {
            self.inner.objects.list(Some(&folder)).try_collect()
        });
        Ok(sorted(listed.await?))
    }

    /// As [`Store::list`], but only the files whose path is greater than `offset`.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn list_after(&self, prefix: &str, offset: &str) -> Result<Vec<Entry>> {
        let (folder, start) = (location(prefix)?, location(offset)?);
        let listed = self.again(prefix, "list", || {
            let listed = self.inner.objects.list_with_offset(Some(&folder), &start);
            listed.try_collect()
        });
        let mut entries = sorted(listed.await?);
        // Not every server heeds the offset.
        entries.retain(|entry| entry.path.as_str() > offset);
        Ok(entries)
    }

    /// Deletes a file, if it is there.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let location = location(path)?;
        self.again(path, "delete", || {
            self.in_time(0, self.inner.objects.delete(&location))
        })
        .await
        .map(drop)
    }

    /// Removes what crashed writers of a local store left, if last written before `before`.
    /// Uploads that were never completed to a bucket are for its life-cycle rules.
    ///
    /// # Returns
    /// How many files were removed.
    ///
    /// # Errors
    /// SG7002 store-unavailable: a folder cannot be read.
    pub async fn sweep_staging(&self, before: Timestamp) -> Result<u64> {
        match &self.inner.medium {
            Medium::Local { root, .. } => {
                let root = root.clone();
                blocking("sweep", "", move || local::sweep(&root, before)).await
            }
            Medium::Memory(_) | Medium::Remote => Ok(0),
        }
    }
}

/// Whether the store refused a put for good, so that the file is certainly not there.
fn refused(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::InvalidPath { .. }
        | E::NotFound { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::PermissionDenied { .. }
        | E::Unauthenticated { .. }
        | E::UnknownConfigurationKey { .. } => true,
        // Foreign and non-exhaustive: whatever is not known to be a refusal is unclear.
        _ => false,
    }
}

/// A path inside the store as object_store takes it; also for those who read through
/// [`Store::object_store`].
pub(crate) fn location(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|error| {
        Error::bug(format!("path \"{path}\" cannot stand in a store")).with_source(error)
    })
}

fn file_path(files: &object_store::local::LocalFileSystem, location: &Path) -> Result<PathBuf> {
    files.path_to_filesystem(location).map_err(|error| {
        Error::bug(format!("path \"{location}\" cannot stand in a store")).with_source(error)
    })
}

fn sorted(listed: Option<Vec<object_store::ObjectMeta>>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = listed
        .unwrap_or_default()
        .into_iter()
        .map(Entry::from)
        .collect();
    entries.sort_unstable();
    entries
}

async fn pause(attempt: u32) {
    let most = PAUSE_MS << attempt;
    tokio::time::sleep(Duration::from_millis(chance::within(1..=most))).await;
}

fn read_whole(mut file: File) -> io::Result<Option<Found>> {
    let metadata = file.metadata()?;
    let stamp = Stamp::of_local(&metadata);
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    match file.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
        other => other.map(|_| {
            let bytes = bytes.into();
            Some(Found { bytes, stamp })
        }),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
