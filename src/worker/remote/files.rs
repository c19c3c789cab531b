//! Documents and outputs of a worker that has no access to the store: copies in a folder of this
//! machine, one per attempt, which is removed when the attempt is reported.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use url::Url;

use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::id::JobId;
use crate::model::decide::Report;
use crate::worker::command::{Assignment, Outcome};
use crate::worker::group::failed;
use crate::worker::output::{end_of, files, inside};
use crate::worker::remote::ASKS;

/// Documents of one group that are fetched at once.
const FETCHES: usize = 8;

/// The longest file name of a copy that is taken from its source, in bytes.
const NAME_MAX: usize = 100;

/// Where commands find the documents of their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// In a copy on this machine, fetched from the server; `http:` and `https:` are left as they
    /// are, and so is any other address outside the store.
    Fetched,
    /// Where the source says: this machine sees the same files.
    Direct,
}

/// The files of the attempts at hand.
#[derive(Debug)]
pub(super) struct Files {
    client: Client,
    inputs: Inputs,
    root: PathBuf,
}

impl Files {
    pub(super) fn new(client: Client, inputs: Inputs) -> Self {
        let name = format!("sluicegate-{}-{}", std::process::id(), uuid::Uuid::now_v7());
        Self {
            client,
            inputs,
            root: std::env::temp_dir().join(name),
        }
    }

    fn folder(&self, job: Report) -> PathBuf {
        self.root.join(format!("{}-{}", job.job, job.token))
    }

    fn output(&self, job: Report) -> PathBuf {
        self.folder(job).join("output")
    }

    /// Makes the folders of attempts and fetches their documents.
    ///
    /// # Returns
    /// The sources that can be worked on, and those that cannot.
    ///
    /// # Errors
    /// `SG6005 output-failed`; those of the way to the server, when trying again did not help.
    pub(super) async fn fetch(
        &self,
        list: Vec<Assignment>,
    ) -> Result<(Vec<Assignment>, Vec<(JobId, Outcome)>)> {
        let fetched = futures::stream::iter(list)
            .map(|source| self.fetch_one(source))
            .buffered(FETCHES);
        let fetched: Vec<_> = fetched.try_collect().await?;
        let (mut ready, mut lost) = (Vec::new(), Vec::new());
        for (source, error) in fetched {
            match error {
                None => ready.push(source),
                Some(error) => lost.push((source.job_id, failed(&error))),
            }
        }
        Ok((ready, lost))
    }

    async fn fetch_one(&self, mut source: Assignment) -> Result<(Assignment, Option<Error>)> {
        let job = Report {
            job: source.job_id,
            token: source.token,
        };
        let output = self.output(job);
        make(&output).await?;
        source.output = output.display().to_string();
        let Some(uri) = source.uri.clone() else {
            return Ok((source, None));
        };
        let place = place(&uri);
        if self.inputs == Inputs::Direct || place == Location::Web {
            return Ok((source, None));
        }
        let folder = self.folder(job).join("input");
        make(&folder).await?;
        let copy = folder.join(name_of(&uri));
        match ASKS.run(|| self.client.fetch_source(job, &copy)).await {
            Ok(()) => source.uri = Some(copy.display().to_string()),
            Err(error) if error.retryable() || error.code() == Code::OutputFailed => {
                return Err(error);
            }
            // Somewhere else than in the store; the command may know how to read it.
            Err(_) if place == Location::Bucket => {}
            Err(error) => return Ok((source, Some(error))),
        }
        Ok((source, None))
    }

    /// Stores what an attempt wrote.
    ///
    /// # Returns
    /// Where the output is; none where it wrote nothing.
    ///
    /// # Errors
    /// `SG8005 invalid-answer`, `SG6005 output-failed`, and those of the server.
    pub(super) async fn store(&self, job: Report, named: Option<&str>) -> Result<Option<String>> {
        let folder = self.output(job);
        let named = named.map(|name| inside(&folder, name)).transpose()?;
        let mut at = None;
        for file in files(&folder).await? {
            let inner = file.strip_prefix(&folder).unwrap_or(&file);
            let name = inner.to_str().ok_or_else(|| {
                Error::new(Code::InvalidAnswer, "the name of an output is no text")
                    .with_detail(format!("It is {}.", inner.display()))
            })?;
            let stored = ASKS
                .run(|| self.client.store_output(job, name, &file))
                .await?;
            match &named {
                Some(named) if named == inner => at = Some(stored.uri),
                Some(named) => {
                    at.get_or_insert_with(|| format!("{}/{}", stored.folder, named.display()));
                }
                None => at = Some(stored.folder),
            }
        }
        Ok(at)
    }

    /// Stores what an attempt printed. A log that cannot be kept is no reason to fail a source.
    pub(super) async fn keep_log(&self, job: Report, log: &[u8]) {
        let end = end_of(log);
        let kept = ASKS.run(|| self.client.store_log(job, end.to_vec())).await;
        if let Err(error) = kept {
            tracing::warn!(job = %job.job, %error, "a log could not be kept");
        }
    }

    /// Removes the folder of an attempt. What cannot be removed from a temporary folder does no
    /// harm.
    pub(super) async fn forget(&self, job: Report) {
        let _ = tokio::fs::remove_dir_all(self.folder(job)).await;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

async fn make(folder: &Path) -> Result<()> {
    tokio::fs::create_dir_all(folder).await.map_err(|error| {
        Error::new(
            Code::OutputFailed,
            format!("folder \"{}\" cannot be made", folder.display()),
        )
        .with_detail(format!("{error}."))
        .with_source(error)
    })
}

/// Where a document is, by the form of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Location {
    /// A file of the server's machine.
    File,
    /// A bucket, which may be the store.
    Bucket,
    /// Anybody can fetch it.
    Web,
}

fn place(uri: &str) -> Location {
    let url = uri.contains("://").then(|| Url::parse(uri).ok()).flatten();
    match url.as_ref().map(Url::scheme) {
        None | Some("file") => Location::File,
        Some("http" | "https") => Location::Web,
        Some(_) => Location::Bucket,
    }
}

/// A file name that tells what it is a copy of, and is one on every system.
fn name_of(uri: &str) -> String {
    let last = uri.rsplit('/').next().unwrap_or_default();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let name: String = last
        .chars()
        .map(|letter| if plain(letter) { letter } else { '_' })
        .collect();
    let from = name.len().saturating_sub(NAME_MAX);
    let name = name.get(from..).unwrap_or_default();
    match name.trim_start_matches('.') {
        "" => "document".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_where_documents_are() {
        for (uri, expected) in [
            ("data/a.xml", Location::File),
            ("/data/a.xml", Location::File),
            ("file:///data/a.xml", Location::File),
            ("s3://bucket/a.xml", Location::Bucket),
            ("https://example.org/a.xml", Location::Web),
        ] {
            assert_eq!(place(uri), expected, "{uri}");
        }
    }

    #[test]
    fn copies_have_harmless_names() {
        for (uri, expected) in [
            ("s3://bucket/notices/1-2024.xml", "1-2024.xml"),
            ("/data/..", "document"),
            ("/data/.hidden", "hidden"),
            ("/data/", "document"),
            ("/data/a b;c.xml", "a_b_c.xml"),
        ] {
            assert_eq!(name_of(uri), expected, "{uri}");
        }
        assert_eq!(name_of(&format!("/d/{}", "a".repeat(300))).len(), NAME_MAX);
    }
}
