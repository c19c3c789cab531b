//! The store's I/O: whole files, put once, read, listed, deleted.
//!
//! Paths are relative to the store, with `/` between their parts. A file never changes once it
//! is there. Everything that was put is durable when the call returns. Only the ledger writes
//! here; table scans read through [`Store::object_store`].

#[cfg(test)]
pub(crate) mod fault;
mod place;
mod scanned;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use url::Url;

use crate::error::{Code, Error, Result};
use crate::ledger::local::{self, KnownFolders, Staging};
use crate::time::Timestamp;

use scanned::Scanned;

pub use scanned::tells_of_a_gone_file;
pub use writer::DataWriter;

/// How long a bucket has to answer when it is opened. Chosen: a user waits for it, and the client
/// below would go on trying for minutes.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Attempts of one put whose outcome is unclear. Chosen: the client below retries a request for
/// minutes, so a store that is unclear this often is not there.
const PUT_ATTEMPTS_MAX: u32 = 5;

/// The longest pause before the second attempt; each further one may last twice as long.
const PUT_PAUSE_MS: u64 = 20;

/// Whether a put was the first for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// The file is there with these bytes, durably.
    Created,
    /// Another file has the name.
    AlreadyExists,
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

/// What opening does where there is no folder of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Absent {
    /// Makes it: a new store is an empty folder.
    #[default]
    Make,
    /// Refuses: whoever only reads named something else than they meant.
    Refuse,
}

/// How a store is opened.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Of local folders; a bucket is there or not.
    pub absent: Absent,
    /// Settings of an object store client that the environment does not give.
    /// Pairs as object_store names them, such as `aws_endpoint` or `allow_http`. They win over
    /// the variables `AWS_*`, `AZURE_*` and `GOOGLE_*` of the environment.
    pub settings: Vec<(String, String)>,
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
}

/// What decides how a put is made durable and how far its answer can be trusted.
#[derive(Debug)]
enum Medium {
    Local {
        root: PathBuf,
        files: LocalFileSystem,
        known: Arc<KnownFolders>,
    },
    /// The answer to a put is the truth.
    Memory,
    /// The answer to a put may be lost, or be about an earlier attempt of the same put.
    Remote,
}

impl Store {
    /// Opens a store; a local folder is made where it is missing.
    ///
    /// # Arguments
    /// * `url`: a path, `file://`, `memory://[name[/path]]`, `s3://bucket[/path]`,
    ///   `az://container[/path]`, `abfss://...` or `gs://bucket[/path]`. Within a process,
    ///   `memory://` with the same name is the same store; without a name it is a new one.
    ///
    /// # Errors
    /// SG7001 store-url: the URL is not of that form, or names a file. SG7002 store-unavailable:
    /// the folder or bucket cannot be reached.
    pub async fn open(url: &str, options: &StoreOptions) -> Result<Self> {
        let store = place::open(url, options).await?;
        if matches!(store.inner.medium, Medium::Remote) {
            let probe = async { store.inner.objects.list(None).try_next().await };
            match timeout(OPEN_TIMEOUT, probe).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(unreachable(url, error)),
                Err(error) => return Err(unreachable(url, error)),
            }
        }
        Ok(store)
    }

    fn new(url: Url, registry_url: Url, objects: Arc<dyn ObjectStore>, medium: Medium) -> Self {
        Self {
            inner: Arc::new(Inner {
                url,
                registry_url,
                objects,
                medium,
            }),
        }
    }

    /// The store's URL, absolute and without a password.
    pub fn url(&self) -> &Url {
        &self.inner.url
    }

    /// The folder of a local store.
    pub fn local_path(&self) -> Option<&FilePath> {
        match &self.inner.medium {
            Medium::Local { root, .. } => Some(root),
            Medium::Memory | Medium::Remote => None,
        }
    }

    /// The URL under which to register [`Store::object_store`] with DataFusion: scheme and host
    /// only, one per store.
    pub fn registry_url(&self) -> &Url {
        &self.inner.registry_url
    }

    /// The files for reading. Its paths are the paths inside the store, without a base prefix.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.objects)
    }

    /// The same for scans of a snapshot: a file that is not there has been cleaned up, and reading
    /// it fails with SG7005 snapshot-gone.
    pub fn scanned(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Scanned(self.object_store()))
    }

    /// Puts a whole file unless its name is taken.
    ///
    /// # Arguments
    /// * `bytes`: on a remote store they must differ from what any other writer may put under
    ///   this name (hold a random id, say): after a lost answer they tell whose file it is.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store refused; or it is unknown whether the file is there,
    /// which the detail then says.
    ///
    /// # Guarantees
    /// Of any number of callers with different bytes exactly one gets [`PutNew::Created`].
    /// Durable when it returns. Goes on to its end when the caller is dropped, for a local store.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<PutNew> {
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
            Medium::Memory => match self.create(&location, &bytes).await {
                Ok(()) => Ok(PutNew::Created),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(PutNew::AlreadyExists),
                Err(error) => Err(unavailable("write", path, error)),
            },
            Medium::Remote => self.put_new_remote(path, &location, &bytes).await,
        }
    }

    async fn create(&self, location: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let payload = bytes.clone().into();
        self.inner
            .objects
            .put_opts(location, payload, PutMode::Create.into())
            .await
            .map(|_| ())
    }

    async fn put_new_remote(&self, path: &str, location: &Path, bytes: &Bytes) -> Result<PutNew> {
        let mut attempt = 0;
        loop {
            let Err(put_error) = self.create(location, bytes).await else {
                return Ok(PutNew::Created);
            };
            if refused(&put_error) {
                return Err(unavailable("write", path, put_error));
            }
            // "Already exists" may be about an earlier attempt of this very put, and S3's 409
            // about a put still under way that fails in the end: only the object itself tells.
            let error = match self.holds(location, bytes).await {
                Ok(Some(Holds::These)) => return Ok(PutNew::Created),
                Ok(Some(Holds::Others)) => return Ok(PutNew::AlreadyExists),
                Ok(None) => put_error,
                Err(read_error) => read_error,
            };
            attempt += 1;
            if attempt == PUT_ATTEMPTS_MAX {
                return Err(Error::new(
                    Code::StoreUnavailable,
                    format!("the store did not confirm file \"{path}\""),
                )
                .with_detail(format!(
                    "It is unknown whether the file was written. {error}."
                ))
                .with_hint("Check the network and the store, then look before you try again.")
                .with_source(error));
            }
            tracing::debug!(%error, path, attempt, "put again");
            let pause_ms = rand::random_range(1..=PUT_PAUSE_MS << attempt);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn holds(&self, location: &Path, bytes: &Bytes) -> object_store::Result<Option<Holds>> {
        let found = match self.inner.objects.get(location).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if found.meta.size != bytes.len() as u64 || found.bytes().await? != *bytes {
            return Ok(Some(Holds::Others));
        }
        Ok(Some(Holds::These))
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
            Medium::Memory | Medium::Remote => {
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
            Medium::Memory | Medium::Remote => {
                let found = match self.inner.objects.get(&location).await {
                    Ok(found) => found,
                    Err(object_store::Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(unavailable("read", path, error)),
                };
                found
                    .bytes()
                    .await
                    .map(Some)
                    .map_err(|error| unavailable("read", path, error))
            }
        }
    }

    /// Reads the bytes `range` of a file; `None` where there is no such file.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer, or the file ends before the range
    /// begins.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let location = location(path)?;
        found(path, self.inner.objects.get_range(&location, range).await)
    }

    /// The size of a file in bytes; `None` where there is none.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        let location = location(path)?;
        let meta = found(path, self.inner.objects.head(&location).await)?;
        Ok(meta.map(|meta| meta.size))
    }

    /// All files below the folder `prefix`, ascending by path; none where it does not exist.
    /// The empty prefix stands for the whole store.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let folder = location(prefix)?;
        let objects = self.inner.objects.list(Some(&folder)).try_collect().await;
        sorted(prefix, objects)
    }

    /// As [`Store::list`], but only the files whose path is greater than `offset`.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn list_after(&self, prefix: &str, offset: &str) -> Result<Vec<Entry>> {
        let (folder, offset) = (location(prefix)?, location(offset)?);
        let objects = self
            .inner
            .objects
            .list_with_offset(Some(&folder), &offset)
            .try_collect()
            .await;
        sorted(prefix, objects)
    }

    /// Deletes a file, if it is there.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not answer.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let location = location(path)?;
        match self.inner.objects.delete(&location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unavailable("delete", path, error)),
        }
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
            Medium::Memory | Medium::Remote => Ok(0),
        }
    }
}

enum Holds {
    These,
    Others,
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

fn file_path(files: &LocalFileSystem, location: &Path) -> Result<PathBuf> {
    files.path_to_filesystem(location).map_err(|error| {
        Error::bug(format!("path \"{location}\" cannot stand in a store")).with_source(error)
    })
}

fn found<T>(path: &str, result: object_store::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(unavailable("read", path, error)),
    }
}

fn sorted(prefix: &str, objects: object_store::Result<Vec<ObjectMeta>>) -> Result<Vec<Entry>> {
    let objects = objects.map_err(|error| unavailable("list", prefix, error))?;
    let mut entries: Vec<Entry> = objects
        .into_iter()
        .map(|object| Entry {
            path: object.location.into(),
            bytes: object.size,
            modified: Timestamp(object.last_modified.timestamp_micros()),
        })
        .collect();
    entries.sort_unstable();
    Ok(entries)
}

fn read_whole(mut file: File) -> io::Result<Option<Bytes>> {
    let size = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    match file.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
        other => other.map(|_| Some(bytes.into())),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

async fn blocking<T: Send + 'static>(
    verb: &str,
    path: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(unavailable(verb, path, error)),
        Err(error) => Err(unavailable(verb, path, error)),
    }
}

fn unreachable(url: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        Code::StoreUnavailable,
        format!("store \"{url}\" cannot be read"),
    )
    .with_detail(format!("{error}."))
    .with_hint(
        "Check the bucket's name, the network, and the AWS_*, AZURE_* or GOOGLE_* variables.",
    )
    .with_source(error)
}

fn unavailable(
    verb: &str,
    path: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(
        Code::StoreUnavailable,
        format!("the store cannot {verb} file \"{path}\""),
    )
    .with_detail(format!("{error}."))
    .with_hint("Check that the store can be reached and written, and has room; then try again.")
    .with_source(error)
}
