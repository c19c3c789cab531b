//! Durable files in a local folder.
//!
//! object_store 0.13 never fsyncs, so local writes go around it. A file is staged under a hidden
//! name in its own folder, fsynced, hard-linked to its name, and the folder is fsynced. So a
//! visible file is always whole, a name is never given twice, and what was published survives a
//! power cut. A crash leaves at most a staging file, which [`sweep`] removes.
//!
//! Staging names end in `#1`, which `LocalFileSystem` hides from its listings. Everything here
//! blocks; only [`super::store`] may call it, from a blocking thread.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::chance;
use crate::ledger::store::file::{Put, Stamp};
use crate::time::Timestamp;

const STAGING_PREFIX: &str = ".staging-";
const STAGING_SUFFIX: &str = "#1";

/// Folders remembered as durable. Chosen: far more than a store has that are written to often;
/// forgetting one costs a few fsyncs.
const KNOWN_FOLDERS_MAX: usize = 4096;

/// The folders whose own names are known to be on disk, so that they are fsynced once only.
#[derive(Debug, Default)]
pub(super) struct KnownFolders(Mutex<HashSet<PathBuf>>);

impl KnownFolders {
    fn contains(&self, folder: &Path) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(folder)
    }

    fn remember(&self, folder: &Path) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_FOLDERS_MAX {
            known.clear();
        }
        known.insert(folder.to_path_buf());
    }
}

/// A file that is being written and that nobody sees. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Staging {
    file: File,
    folder: PathBuf,
    staged: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// Begins the file that will be `target`, and makes its folder where it is missing; but not
    /// the store's own, whose absence means that the store was removed.
    pub(super) fn create(root: &Path, target: &Path, known: &KnownFolders) -> io::Result<Self> {
        let Some(folder) = target.parent() else {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "a file needs a folder",
            ));
        };
        if !known.contains(folder) {
            make_folder(root, folder)?;
            known.remember(folder);
        }
        let name = format!("{STAGING_PREFIX}{:016x}{STAGING_SUFFIX}", chance::number());
        let staged = folder.join(name);
        let open = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&staged)
        };
        let file = match open() {
            // Somebody removed a folder that was known.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_folder(root, folder)?;
                open()?
            }
            other => other?,
        };
        Ok(Self {
            file,
            folder: folder.to_path_buf(),
            staged,
            target: target.to_path_buf(),
        })
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives the file its name, durably; or leaves the file that has it already.
    ///
    /// An error after the link (a failing fsync of the folder) leaves the file visible: whoever
    /// gets it must look before going on, as after a remote store's time-out.
    pub(super) fn publish(self) -> io::Result<Put> {
        self.file.sync_data()?;
        match fs::hard_link(&self.staged, &self.target) {
            Ok(()) => {}
            // NFS sends a link again whose answer was lost, and is then told of its own file.
            // How many names the staged file has tells whose it is.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if self.file.metadata()?.nlink() < 2 {
                    return Ok(Put::AlreadyExists);
                }
            }
            Err(error) => return Err(without_links(error)),
        }
        sync_folder(&self.folder).map_err(|error| {
            let text = format!("it is unknown whether the file survives a crash: {error}");
            io::Error::new(error.kind(), text)
        })?;
        Ok(Put::Created(Stamp::of_local(&self.file.metadata()?)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.staged) {
            tracing::debug!(%error, path = %self.staged.display(), "staging file stays");
        }
    }
}

/// Writes a whole file unless its name is taken.
pub(super) fn put_new(
    root: &Path,
    target: &Path,
    bytes: &[u8],
    known: &KnownFolders,
) -> io::Result<Put> {
    // Saves the write where the race is lost already; the link decides.
    if fs::symlink_metadata(target).is_ok() {
        return Ok(Put::AlreadyExists);
    }
    let mut staging = Staging::create(root, target, known)?;
    staging.write(bytes)?;
    staging.publish()
}

/// Whether files can be linked here, and what time it is by the file system's clock.
pub(super) fn probe(root: &Path) -> io::Result<Timestamp> {
    let known = KnownFolders::default();
    known.remember(root);
    let name = format!(
        "{STAGING_PREFIX}{:016x}-link{STAGING_SUFFIX}",
        chance::number()
    );
    let target = root.join(name);
    let staging = Staging::create(root, &target, &known)?;
    let modified = staging.file.metadata()?.modified()?;
    fs::hard_link(&staging.staged, &target).map_err(without_links)?;
    fs::remove_file(&target)?;
    Ok(timestamp(modified))
}

/// Some file systems (FAT, some network mounts) have no hard links, and say so in several ways.
fn without_links(error: io::Error) -> io::Error {
    let kinds = [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EXDEV];
    match error.raw_os_error() {
        Some(number) if kinds.contains(&number) => io::Error::new(ErrorKind::Unsupported, error),
        Some(_) | None => error,
    }
}

/// Makes a folder of a store and its parents up to the store's own, which must be there. The
/// names from `root` down to it are durable afterwards, whoever made them: another process may
/// stand between its mkdir and its fsync.
pub(super) fn make_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if !root.is_dir() {
        let text = "the folder of the store is not there any more";
        return Err(io::Error::new(ErrorKind::NotFound, text));
    }
    make_folders(root, folder)
}

/// The same from anywhere: `root` is made, too.
pub(super) fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for made in folder.ancestors().take_while(|made| made.starts_with(root)) {
        if let Some(parent) = made.parent() {
            match sync_folder(parent) {
                // The folder that holds the store may belong to somebody else.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && made == root => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot fsync a folder and need not.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Removes staging files last written before `before`, in all folders below `folder`.
///
/// # Returns
/// How many were removed.
pub(super) fn sweep(folder: &Path, before: Timestamp) -> io::Result<u64> {
    let mut removed = 0;
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if is_staging(&entry.file_name().to_string_lossy()) {
                removed += u64::from(remove_if_old(&entry.path(), before)?);
            }
        }
    }
    Ok(removed)
}

fn is_staging(name: &str) -> bool {
    name.starts_with(STAGING_PREFIX) && name.ends_with(STAGING_SUFFIX)
}

fn remove_if_old(path: &Path, before: Timestamp) -> io::Result<bool> {
    let removed = fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .and_then(|modified| {
            if timestamp(modified) < before {
                fs::remove_file(path).map(|()| true)
            } else {
                Ok(false)
            }
        });
    match removed {
        // Its writer, or another sweep, was first.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}
