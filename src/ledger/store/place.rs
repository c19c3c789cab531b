//! From the text that names a store to the open store.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind;
use std::path::{self, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use tokio::task::spawn_blocking;
use url::Url;

use crate::error::{Code, Error, Result};
use crate::ledger::local::{self, KnownFolders};
use crate::ledger::store::{Absent, Medium, Store, StoreOptions};

const FORMS: &str = "Give a folder, or a URL such as file:///folder, memory://name, \
                     s3://bucket/path, az://container/path or gs://bucket/path.";

/// Variables of the environment that configure the clients of object stores.
const VARIABLES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The named stores in memory; they live as long as the process.
static NAMED: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

pub(super) async fn open(text: &str, options: &StoreOptions) -> Result<Store> {
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

async fn open_folder(text: &str, folder: PathBuf, absent: Absent) -> Result<Store> {
    if folder.as_os_str().is_empty() {
        return Err(store_url(text));
    }
    if absent == Absent::Refuse && !folder.exists() {
        return Err(
            Error::new(Code::StoreUrl, format!("store \"{text}\" does not exist"))
                .with_hint("Give the folder of a store. Opening it for writing makes a new one."),
        );
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
            local::make_folder(made.unwrap_or(&folder), &folder)?;
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
    Ok(Store::new(url, registry_url, objects, medium))
}

fn open_memory(text: &str, url: &Url) -> Result<Store> {
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
    let objects = prefixed(memory, below);
    Ok(Store::new(
        url.clone(),
        registry_url(&identity)?,
        objects,
        Medium::Memory,
    ))
}

fn open_remote(text: &str, mut url: Url, options: &StoreOptions) -> Result<Store> {
    let variables = env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| VARIABLES.iter().any(|prefix| key.starts_with(prefix)));
    let settings = variables.chain(options.settings.iter().cloned());
    let (client, below) = object_store::parse_url_opts(&url, settings).map_err(|error| {
        store_url(text)
            .with_detail(format!("{error}."))
            .with_hint(format!(
                "{FORMS} Settings come from AWS_*, AZURE_* and GOOGLE_* variables."
            ))
            .with_source(error)
    })?;
    // A URL that cannot carry a password has none to hide.
    let _ = url.set_password(None);
    let registry_url = registry_url(url.as_str())?;
    Ok(Store::new(
        url,
        registry_url,
        prefixed(Arc::from(client), below),
        Medium::Remote,
    ))
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
