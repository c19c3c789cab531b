//! Writes one large file in pieces. The file appears whole or not at all.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::ledger::errors::unavailable;
use crate::ledger::local::Staging;
use crate::ledger::store::blocking::blocking;
use crate::ledger::store::file::Put;

/// Bytes gathered before they are handed to a blocking thread. Chosen: large against the cost of
/// the hand-over (about 20 us), small against the memory of a row group.
const LOCAL_CHUNK_BYTES: usize = 1 << 20;

/// Bytes of one part of a multipart upload. S3 takes 10,000 parts, so files up to 80 GB.
pub(super) const PART_BYTES: usize = 8 << 20;

/// Parts of one file in flight; bounds its memory to about `PARTS_MAX * PART_BYTES`.
pub(super) const PARTS_MAX: usize = 4;

/// A large file on its way into the store. Made by [`super::Store::put_data`].
///
/// Nobody sees the file before [`DataWriter::finish`] returned. Dropping the writer before that
/// removes what was written.
#[derive(Debug)]
pub struct DataWriter {
    path: String,
    bytes: u64,
    sink: Option<Sink>,
}

#[derive(Debug)]
pub(super) enum Sink {
    Local {
        staging: Staging,
        pending: Vec<Bytes>,
        pending_bytes: usize,
    },
    Remote(BufWriter),
}

impl DataWriter {
    pub(super) fn new(path: &str, sink: Sink) -> Self {
        Self {
            path: path.to_owned(),
            bytes: 0,
            sink: Some(sink),
        }
    }

    /// The path of the file inside the store.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The bytes appended so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not take them. The file is then lost as a whole;
    /// drop the writer and begin anew.
    pub async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes += bytes.len() as u64;
        let sink = self.sink.take().ok_or_else(|| self.unusable())?;
        let sink = match sink {
            Sink::Local {
                staging,
                mut pending,
                pending_bytes,
            } => {
                let pending_bytes = pending_bytes + bytes.len();
                pending.push(bytes);
                if pending_bytes < LOCAL_CHUNK_BYTES {
                    Sink::Local {
                        staging,
                        pending,
                        pending_bytes,
                    }
                } else {
                    let staging = flush(&self.path, staging, pending).await?;
                    Sink::Local {
                        staging,
                        pending: Vec::new(),
                        pending_bytes: 0,
                    }
                }
            }
            Sink::Remote(writer) => {
                // Back in place at once: a caller that gives up here must still abort it.
                let Sink::Remote(writer) = self.sink.insert(Sink::Remote(writer)) else {
                    return Err(self.unusable());
                };
                let Err(error) = writer.put(bytes).await else {
                    return Ok(());
                };
                // A part is missing: nothing may be appended after the hole.
                self.abort();
                return Err(unavailable("write", &self.path, error));
            }
        };
        self.sink = Some(sink);
        Ok(())
    }

    /// Makes the file visible and durable.
    ///
    /// # Returns
    /// Its size in bytes.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not take it, or it is unknown whether it did.
    pub async fn finish(mut self) -> Result<u64> {
        let sink = self.sink.take().ok_or_else(|| self.unusable())?;
        match sink {
            Sink::Local {
                staging, pending, ..
            } => {
                let staging = flush(&self.path, staging, pending).await?;
                match blocking("write", &self.path, move || staging.publish()).await? {
                    Put::Created(_) => {}
                    Put::AlreadyExists => {
                        return Err(Error::bug(format!(
                            "data file \"{}\" was written twice",
                            self.path
                        )));
                    }
                }
            }
            Sink::Remote(mut writer) => {
                writer
                    .shutdown()
                    .await
                    .map_err(|error| unavailable("write", &self.path, error))?;
            }
        }
        Ok(self.bytes)
    }

    fn abort(&mut self) {
        // A local staging file removes itself. Parts already uploaded need a request.
        if let Some(Sink::Remote(mut writer)) = self.sink.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let path = self.path.clone();
            runtime.spawn(async move {
                if let Err(error) = writer.abort().await {
                    tracing::debug!(%error, path, "parts of an upload stay");
                }
            });
        }
    }

    fn unusable(&self) -> Error {
        Error::bug(format!(
            "data file \"{}\" was written to after it failed",
            self.path
        ))
    }
}

impl Drop for DataWriter {
    fn drop(&mut self) {
        self.abort();
    }
}

async fn flush(path: &str, mut staging: Staging, pending: Vec<Bytes>) -> Result<Staging> {
    let write = move || {
        for bytes in pending {
            staging.write(&bytes)?;
        }
        Ok(staging)
    };
    blocking("write", path, write).await
}
