//! From the text that names a store to the open store.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind;
use std::path::{self, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use tokio::task::spawn_blocking;
use url::Url;

use crate::error::{Code, Error, Result};
use crate::ledger::local::{self, KnownFolders};

/// What opening does where there is no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Absent {
    /// Makes it: a new store is an empty folder, or nothing in a bucket.
    #[default]
    Make,
    /// Refuses: somebody named something else than they meant.
    Refuse,
}

/// How long a bucket may take before it counts as not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// To answer one request, and a second more for each megabyte.
    pub request: Duration,
    /// For a request and all its repetitions; after it no further one is begun.
    pub wait: Duration,
}

impl Default for Patience {
    /// Chosen: an operator who waits knows within a minute, and a bucket that is slow for a
    /// moment (S3 asks to come back after seconds) is not given up.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(10),
            wait: Duration::from_secs(20),
        }
    }
}

/// How a store is opened.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Of folders, and of places in buckets; a store in memory is always made.
    pub absent: Absent,
    /// Settings of an object store client that the environment does not give.
    /// Pairs as object_store names them, such as `aws_endpoint` or `allow_http`. They win over
    /// the variables `AWS_*`, `AZURE_*` and `GOOGLE_*` of the environment.
    pub settings: Vec<(String, String)>,
    /// Of buckets.
    pub patience: Patience,
}

/// Where a store is.
#[derive(Debug)]
pub(super) struct Place {
    pub url: Url,
    pub registry_url: Url,
    pub objects: Arc<dyn ObjectStore>,
    pub medium: Medium,
}

/// By whose clock files in memory are dated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dates {
    /// This machine's: no other process sees them, so there is nothing to compare.
    Machine,
    /// That of a simulation.
    Simulated,
}

/// What decides how a put is made durable and how far its answer can be trusted.
#[derive(Debug)]
pub(super) enum Medium {
    Local {
        root: PathBuf,
        files: LocalFileSystem,
        known: Arc<KnownFolders>,
    },
    /// The answer to a put is the truth.
    Memory(Dates),
    /// The answer to a put may be lost, or be about an earlier attempt of the same put.
    Remote,
}

const FORMS: &str = "Give a folder, or a URL such as file:///folder, memory://name, \
                     s3://bucket/path, az://container/path or gs://bucket/path.";

/// Variables of the environment that configure the clients of object stores.
const VARIABLES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// How often a client repeats a request that a bucket answered with 429 or 5xx. Chosen: pauses
/// grow to some seconds in all; longer is for who asked to decide.
const RETRIES_MAX: usize = 4;

/// The longest time of one request with its body. Chosen: a part of 8 MB on a slow line.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The named stores in memory; they live as long as the process.
static NAMED: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

pub(super) async fn open(text: &str, options: &StoreOptions) -> Result<Place> {
    let Some((scheme, _)) = text.split_once("://") else {
        return open_folder(text, PathBuf::from(text), options.absent).await;
    };
    let url = Url::parse(text).map_err(|error| {
        store_url(text)
            .with_detail(format!("{error}."))
            .with_source(error)
    })?;
    match scheme.to_ascii_lowercase().as_str() {
        "file" => match url.to_file_path() {
            Ok(folder) => open_folder(text, folder, options.absent).await,
            Err(()) => Err(store_url(text).with_detail("A file URL has three slashes.")),
        },
        "memory" => open_memory(text, &url),
        "s3" | "s3a" | "az" | "azure" | "adl" | "abfs" | "abfss" | "gs" => {
            open_remote(text, url, options)
        }
        _ => Err(store_url(text)),
    }
}

/// The error of a store that is not there and is not to be made.
pub fn no_store(text: &str) -> Error {
    let error = Error::new(Code::StoreUrl, format!("store \"{text}\" does not exist"));
    let folder = path::absolute(text).ok().filter(|_| !text.contains("://"));
    let told = folder.map(|folder| format!("There is no folder {}.", folder.display()));
    told.into_iter().fold(error, Error::with_detail).with_hint(
        "Look at the address; sluicegate init makes a new store there, and so does --create.",
    )
}

async fn open_folder(text: &str, folder: PathBuf, absent: Absent) -> Result<Place> {
    if folder.as_os_str().is_empty() {
        return Err(store_url(text));
    }
    if absent == Absent::Refuse && !folder.exists() {
        return Err(no_store(text));
    }
    let made = spawn_blocking(move || {
        let folder = path::absolute(folder)?;
        if !folder.is_dir() {
            // Durable from the first folder that exists down to the new one.
            let top = folder
                .ancestors()
                .find(|above| above.exists())
                .unwrap_or(&folder);
            let made = folder.ancestors().take_while(|below| *below != top).last();
            local::make_folders(made.unwrap_or(&folder), &folder)?;
        }
        fs::canonicalize(folder)
    })
    .await
    .unwrap_or_else(|error| Err(error.into()));
    let root = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => store_url(text)
            .with_detail("There is a file of that name.")
            .with_source(error),
        _ => Error::new(
            Code::StoreUnavailable,
            format!("store \"{text}\" cannot be opened"),
        )
        .with_detail(format!("{error}."))
        .with_hint("Check that the folder may be made and written by this user.")
        .with_source(error),
    })?;
    let url = Url::from_directory_path(&root).map_err(|()| store_url(text))?;
    let client = |error: object_store::Error| {
        Error::new(
            Code::StoreUnavailable,
            format!("store \"{text}\" cannot be opened"),
        )
        .with_detail(format!("{error}."))
        .with_hint("Check that the folder may be read by this user.")
        .with_source(error)
    };
    let files = LocalFileSystem::new_with_prefix(&root).map_err(client)?;
    let objects: Arc<dyn ObjectStore> = Arc::new(files.clone());
    let registry_url = registry_url(url.as_str())?;
    let medium = Medium::Local {
        root,
        files,
        known: Arc::new(KnownFolders::default()),
    };
    Ok(Place {
        url,
        registry_url,
        objects,
        medium,
    })
}

fn open_memory(text: &str, url: &Url) -> Result<Place> {
    static ANONYMOUS: AtomicU64 = AtomicU64::new(0);
    let (identity, memory) = match url.host_str() {
        Some(name) if !name.is_empty() => {
            let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
            (
                url.to_string(),
                Arc::clone(named.entry(name.to_owned()).or_default()),
            )
        }
        Some(_) | None => {
            let number = ANONYMOUS.fetch_add(1, Ordering::Relaxed);
            (format!("memory:///anonymous/{number}"), Arc::default())
        }
    };
    let below = Path::from_url_path(url.path()).map_err(|error| {
        store_url(text)
            .with_detail(format!("{error}."))
            .with_source(error)
    })?;
    Ok(Place {
        url: url.clone(),
        registry_url: registry_url(&identity)?,
        objects: prefixed(memory, below),
        medium: Medium::Memory(Dates::Machine),
    })
}

fn open_remote(text: &str, mut url: Url, options: &StoreOptions) -> Result<Place> {
    let variables = env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| VARIABLES.iter().any(|prefix| key.starts_with(prefix)));
    let settings: Vec<(String, String)> = variables
        .chain(options.settings.iter().cloned())
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .collect();
    refuse_plain_http(text, &settings)?;
    let cannot = |error: object_store::Error| {
        store_url(text)
            .with_detail(format!("{error}."))
            .with_hint(format!(
                "{FORMS} Settings come from AWS_*, AZURE_* and GOOGLE_* variables."
            ))
            .with_source(error)
    };
    let (scheme, below) = ObjectStoreScheme::parse(&url).map_err(|error| cannot(error.into()))?;
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: options.patience.wait,
        ..RetryConfig::default()
    };
    // Whole files are bounded by who reads them; this is for bodies of which nothing comes.
    let client = ClientOptions::new()
        .with_connect_timeout(options.patience.connect)
        .with_timeout(BODY_TIMEOUT);
    macro_rules! built {
        ($builder:ident) => {{
            let named = $builder::new()
                .with_url(url.to_string())
                .with_client_options(client)
                .with_retry(retry);
            let all = settings.into_iter().fold(named, |builder, (key, value)| {
                match key.parse() {
                    Ok(key) => builder.with_config(key, value),
                    // A variable of the same prefix that is for other programs.
                    Err(_) => builder,
                }
            });
            Arc::new(all.build().map_err(cannot)?) as Arc<dyn ObjectStore>
        }};
    }
    let objects = match scheme {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder),
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder),
        // Foreign and non-exhaustive; the caller has looked at the scheme.
        _ => return Err(store_url(text)),
    };
    // A URL that cannot carry a password has none to hide.
    let _ = url.set_password(None);
    let registry_url = registry_url(url.as_str())?;
    Ok(Place {
        url,
        registry_url,
        objects: prefixed(objects, below),
        medium: Medium::Remote,
    })
}

/// The client would say no more than "builder error" at its first request.
fn refuse_plain_http(text: &str, settings: &[(String, String)]) -> Result<()> {
    let last = |names: &[&str]| {
        let mut found = settings.iter().rev();
        found
            .find(|(key, _)| names.contains(&key.as_str()))
            .map(|(_, value)| value.as_str())
    };
    let endpoints = [
        "aws_endpoint",
        "aws_endpoint_url",
        "azure_endpoint",
        "azure_storage_endpoint",
        "endpoint",
    ];
    let plain = last(&endpoints).filter(|endpoint| endpoint.starts_with("http://"));
    let allowed = last(&[
        "aws_allow_http",
        "azure_allow_http",
        "allow_http",
        "azure_storage_use_emulator",
        "azure_use_emulator",
    ]);
    match plain {
        Some(endpoint) if !allowed.is_some_and(|value| value.eq_ignore_ascii_case("true")) => {
            Err(store_url(text)
                .with_detail(format!(
                    "Its endpoint {endpoint} is reached without encryption."
                ))
                .with_hint("Set AWS_ALLOW_HTTP=true (AZURE_ALLOW_HTTP) where that is meant."))
        }
        Some(_) | None => Ok(()),
    }
}

/// The error for a bucket that does not answer when it is opened.
pub(super) fn unreachable(
    url: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let text = error.to_string();
    // Where no credentials are given, clients ask the machine that they would run on in a cloud.
    let metadata = ["169.254.169.254", "169.254.170.2", "metadata.google"];
    let (detail, hint) = match metadata.iter().any(|address| text.contains(address)) {
        true => (
            "There are no credentials, and this machine has none of its own.".to_owned(),
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AZURE_..., GOOGLE_...).",
        ),
        false => (
            format!("{text}."),
            "Check the bucket's name, the network, and the AWS_*, AZURE_* or GOOGLE_* variables.",
        ),
    };
    Error::new(
        Code::StoreUnavailable,
        format!("store \"{url}\" cannot be read"),
    )
    .with_detail(detail)
    .with_hint(hint)
    .with_source(error)
}

fn prefixed(objects: Arc<dyn ObjectStore>, below: Path) -> Arc<dyn ObjectStore> {
    if below.as_ref().is_empty() {
        objects
    } else {
        Arc::new(PrefixStore::new(objects, below))
    }
}

/// A host name per store, since DataFusion tells object stores apart by scheme and host only.
pub(super) fn registry_url(identity: &str) -> Result<Url> {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    hasher.write(identity.as_bytes());
    let text = format!("sluicegate://store-{:016x}", hasher.finish());
    Url::parse(&text).map_err(|error| Error::bug("a registry url is not a url").with_source(error))
}

fn store_url(text: &str) -> Error {
    Error::new(
        Code::StoreUrl,
        format!("store url \"{text}\" cannot be used"),
    )
    .with_hint(FORMS)
}
