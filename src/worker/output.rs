//! What attempts leave behind: output files and logs, in folders of their own.
//!
//! A folder belongs to one attempt, so what a lost attempt goes on writing is never linked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Code, Error, Result};
use crate::id::JobId;
use crate::ledger::store::Store;
use crate::model::outputs::{log_path, output_path};
use crate::model::transform::TransformKind;
use crate::session::core::Core;
use crate::tables::operations::{LOG_BYTES_MAX, OUTPUT_FILES_MAX};
use crate::worker::queue::{Group, GroupJob};

/// The folder of an attempt, as a path in the store.
pub(super) fn folder(group: &Group, job: &GroupJob) -> String {
    output_path(&group.transform, job.report.job, job.attempt)
}

/// Where a program is to write: the attempt's folder itself in a local store, else a folder of
/// this machine whose files are stored when the program is done.
fn place(store: &Store, group: &Group, job: &GroupJob) -> PathBuf {
    let path = folder(group, job);
    match store.local_path() {
        Some(root) => root.join(path),
        None => std::env::temp_dir()
            .join(format!("sluicegate-{}", std::process::id()))
            .join(path)
            .join(job.report.token.to_string()),
    }
}

/// Makes the folder that a program writes into, and returns its path.
///
/// # Errors
/// `SG6005 output-failed`.
pub(super) async fn prepare(core: &Core, group: &Group, job: &GroupJob) -> Result<String> {
    let place = place(core.ledger.store(), group, job);
    tokio::fs::create_dir_all(&place)
        .await
        .map_err(|error| unwritable(&place, error))?;
    Ok(place.display().to_string())
}

/// What a completed attempt wrote, as a path in the store; `None` where it wrote nothing.
///
/// # Errors
/// `SG8005 invalid-answer`: it names an output that is not in its folder. `SG6005
/// output-failed`: its files cannot be read. Those of the store.
pub(super) async fn link(
    core: &Core,
    group: &Group,
    job: &GroupJob,
    named: Option<&str>,
) -> Result<Option<String>> {
    let store = core.ledger.store();
    let place = place(store, group, job);
    let path = folder(group, job);
    let named = match named {
        // An SQL transform names a file of the store that it has written itself.
        Some(name) if matches!(group.def.kind, TransformKind::Sql { .. }) => {
            return Ok(Some(name.to_owned()));
        }
        Some(name) => Some(inside(&place, name)?),
        None => None,
    };
    let files = files(&place).await?;
    if let Some(root) = store.local_path() {
        durable(root, &files).await?;
    } else {
        for file in &files {
            let bytes = tokio::fs::read(file)
                .await
                .map_err(|error| unwritable(file, error))?;
            let inner = file.strip_prefix(&place).unwrap_or(file);
            let mut writer = store
                .put_data(&format!("{path}/{}", inner.display()))
                .await?;
            writer.append(Bytes::from(bytes)).await?;
            writer.finish().await?;
        }
        // What cannot be removed from a temporary folder does no harm.
        let _ = tokio::fs::remove_dir_all(&place).await;
    }
    match (named, files.as_slice()) {
        (Some(inner), _) => Ok(Some(format!("{path}/{}", inner.display()))),
        (None, []) => {
            let _ = tokio::fs::remove_dir(&place).await;
            Ok(None)
        }
        (None, _) => Ok(Some(path)),
    }
}

/// Files, and the folders that lead to them, must be on disk before the commit that links them.
async fn durable(root: &Path, files: &[PathBuf]) -> Result<()> {
    let (root, files) = (root.to_path_buf(), files.to_vec());
    let synced = tokio::task::spawn_blocking(move || {
        let folders = files.iter().flat_map(|file| file.ancestors().skip(1));
        let folders = folders.filter(|folder| folder.starts_with(&root));
        let folders: BTreeSet<PathBuf> = folders.map(Path::to_path_buf).collect();
        for path in files.into_iter().chain(folders) {
            let sync = std::fs::File::open(&path).and_then(|open| open.sync_all());
            sync.map_err(|error| unwritable(&path, error))?;
        }
        Ok(())
    });
    synced
        .await
        .map_err(|error| Error::bug("a file was not synced").with_source(error))?
}

pub(super) fn inside(place: &Path, name: &str) -> Result<PathBuf> {
    let path = name.strip_prefix("file://").unwrap_or(name);
    let path = place.join(path);
    let outside = || {
        Error::new(
            Code::InvalidAnswer,
            format!("output \"{name}\" is not in the attempt's folder"),
        )
        .with_hint("Write below the folder that is given as output.")
    };
    let path = path
        .canonicalize()
        .map_err(|error| outside().with_source(error))?;
    let root = place
        .canonicalize()
        .map_err(|error| outside().with_source(error))?;
    path.strip_prefix(&root)
        .map(Path::to_path_buf)
        .map_err(|error| outside().with_source(error))
}

pub(super) async fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.to_path_buf();
    let listed = tokio::task::spawn_blocking(move || {
        let mut files = Vec::new();
        let mut open = vec![folder];
        while let Some(folder) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries {
                let entry = entry.map_err(|error| unwritable(&folder, error))?;
                let kind = entry
                    .file_type()
                    .map_err(|error| unwritable(&folder, error))?;
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
                if files.len() > OUTPUT_FILES_MAX {
                    return Err(Error::new(
                        Code::InvalidAnswer,
                        format!("the attempt wrote more than {OUTPUT_FILES_MAX} files"),
                    )
                    .with_hint("Write fewer, larger files."));
                }
            }
        }
        files.sort();
        Ok(files)
    });
    listed
        .await
        .map_err(|error| Error::bug("a folder was not listed").with_source(error))?
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::OutputFailed,
        format!("\"{}\" cannot be written or read", path.display()),
    )
    .with_detail(error.to_string())
    .with_source(error)
}

/// The part of a log that is kept.
pub(super) fn end_of(log: &[u8]) -> &[u8] {
    let cut = log.len().saturating_sub(LOG_BYTES_MAX);
    log.get(cut..).unwrap_or_default()
}

/// Keeps what an attempt printed. A log that cannot be kept is no reason to fail a source.
pub(super) async fn keep_log(core: &Core, job: JobId, attempt: u16, log: &[u8]) {
    let kept = async {
        let mut writer = core
            .ledger
            .store()
            .put_data(&log_path(job, attempt))
            .await?;
        writer.append(Bytes::copy_from_slice(end_of(log))).await?;
        writer.finish().await
    };
    if let Err(error) = kept.await {
        tracing::warn!(%job, %error, "a log could not be kept");
    }
}
