//! The table function `list_files(pattern)`: the files that a pattern names, one row each.
//!
//! Files are listed when the rows are asked for, not when the statement is planned, on a thread
//! that may block. Folders are read one by one, in the order of their names, so rows come sorted
//! by `uri` and memory does not grow with their number.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, col};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::sync::mpsc::Sender;

use crate::error::{Code, Error, Result};
use crate::functions::files::{Place, Roots};
use crate::functions::pattern::Names;
use crate::ledger::store::Store;

/// The name in SQL.
pub const NAME: &str = "list_files";

/// What it does, for the reference.
pub const DOCUMENTATION: &str = "list_files(pattern): the files that a pattern names, sorted by \
    uri. Columns: uri TEXT, name TEXT (without its folders), bytes BIGINT, modified_at TIMESTAMP \
    (UTC). In the pattern, * stands for any name, ? for one letter, [a-z] for one of these, {a,b} \
    for a or b, and ** for any number of folders; hidden files must be named. A folder stands for \
    the files in it. Links to folders, and links that lead outside the allowed folders, are left \
    out. Example: SELECT uri FROM list_files('notices/**/*.xml');";

/// Rows of a batch. Chosen: as DataFusion's own.
const BATCH_ROWS: usize = 8192;

/// Batches that wait for the reader.
const BATCHES_WAITING: usize = 2;

/// The table function.
#[derive(Debug)]
pub(super) struct ListFiles {
    pub(super) roots: Arc<Roots>,
    pub(super) store: Store,
    pub(super) files_max: usize,
}

impl TableFunctionImpl for ListFiles {
    fn call_with_args(&self, args: TableFunctionArgs) -> DataFusionResult<Arc<dyn TableProvider>> {
        let pattern = match args.exprs() {
            [Expr::Literal(value, _)] => value.try_as_str().flatten(),
            _ => None,
        };
        let pattern = pattern.ok_or_else(|| {
            Error::new(Code::PlanError, "list_files takes one text")
                .with_hint("Write list_files('folder/**/*.xml').")
        })?;
        let listing = Arc::new(Listing {
            schema: schema(),
            pattern: pattern.to_owned(),
            roots: Arc::clone(&self.roots),
            store: self.store.clone(),
            files_max: self.files_max,
        });
        let table = StreamingTable::try_new(schema(), vec![listing])?
            .with_sort_order(vec![col("uri").sort(true, false)]);
        Ok(Arc::new(table))
    }
}

/// The columns of the function's rows.
pub(super) fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    Arc::new(Schema::new(vec![
        Field::new("uri", DataType::Utf8, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("bytes", DataType::Int64, false),
        Field::new("modified_at", time, true),
    ]))
}

#[derive(Debug)]
struct Listing {
    schema: SchemaRef,
    pattern: String,
    roots: Arc<Roots>,
    store: Store,
    files_max: usize,
}

impl PartitionStream for Listing {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let mut stream = RecordBatchReceiverStreamBuilder::new(schema, BATCHES_WAITING);
        let mut rows = Rows {
            sender: stream.tx(),
            files: Vec::new(),
            listed: 0,
            files_max: self.files_max,
        };
        let (pattern, roots, store) = (
            self.pattern.clone(),
            Arc::clone(&self.roots),
            self.store.clone(),
        );
        match self.roots.in_store(&pattern) {
            Ok(None) => {
                stream.spawn_blocking(move || {
                    let listed = list_folder(&pattern, &roots, &mut rows);
                    Ok(listed.and_then(|()| rows.send())?)
                });
            }
            Ok(Some(path)) => {
                stream.spawn(async move {
                    let found = find_in_store(&store, &path, &roots).await?;
                    let sent = tokio::task::spawn_blocking(move || {
                        found.into_iter().try_for_each(|file| rows.push(file))?;
                        rows.send()
                    });
                    Ok(sent
                        .await
                        .map_err(|error| DataFusionError::External(error.into()))??)
                });
            }
            Err(error) => {
                stream.spawn(async move { Err(error.into()) });
            }
        }
        stream.build()
    }
}

/// A file that was found.
struct Found {
    uri: String,
    bytes: u64,
    modified_us: Option<i64>,
}

/// What was found and not sent yet.
struct Rows {
    sender: Sender<DataFusionResult<RecordBatch>>,
    files: Vec<Found>,
    listed: usize,
    files_max: usize,
}

impl Rows {
    fn push(&mut self, file: Found) -> Result<()> {
        self.listed += 1;
        if self.listed > self.files_max {
            return Err(Error::new(
                Code::TooManyRows,
                format!("list_files found more than {} files", self.files_max),
            )
            .with_detail("The limit is the setting list_files_max.")
            .with_hint("Narrow the pattern, and list the files in parts."));
        }
        self.files.push(file);
        if self.files.len() >= BATCH_ROWS {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        let files = std::mem::take(&mut self.files);
        let name = |file: &Found| file.uri.rsplit('/').next().unwrap_or_default().to_owned();
        let names: StringArray = files.iter().map(|file| Some(name(file))).collect();
        let bytes: Int64Array = files
            .iter()
            .map(|file| i64::try_from(file.bytes).ok())
            .collect();
        let times: TimestampMicrosecondArray = files.iter().map(|file| file.modified_us).collect();
        let uris: StringArray = files.into_iter().map(|file| Some(file.uri)).collect();
        let batch = RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(uris),
                Arc::new(names),
                Arc::new(bytes),
                Arc::new(times.with_timezone("+00:00")),
            ],
        )
        .map_err(|error| Error::bug("the rows of list_files do not fit").with_source(error))?;
        // A closed channel means that the reader has what it needs.
        self.sender.blocking_send(Ok(batch)).map_err(|_| closed())
    }
}

/// Ends a listing that nobody reads any more; nobody sees it.
fn closed() -> Error {
    Error::new(Code::QueryFailed, "the reader of the files is gone")
}

async fn find_in_store(store: &Store, path: &str, roots: &Roots) -> Result<Vec<Found>> {
    let sign = path.find(['*', '?', '[', '{']).unwrap_or(path.len());
    let folder = path
        .split_at(sign)
        .0
        .rfind('/')
        .map_or("", |cut| path.split_at(cut).0);
    let names = match path.strip_suffix('/') {
        _ if sign < path.len() => Names::try_new(path)?,
        Some(folder) => Names::try_new(&format!("{}/*", glob::Pattern::escape(folder)))?,
        None if path.is_empty() => Names::try_new("*")?,
        None => {
            let name = glob::Pattern::escape(path);
            Names::try_new(&format!("{{{name},{name}/*}}"))?
        }
    };
    let url = roots.remote_url().unwrap_or_default();
    let entries = store.list(folder).await?.into_iter();
    Ok(entries
        .filter(|entry| names.matches(&entry.path))
        .map(|entry| Found {
            uri: format!("{url}{}", entry.path),
            bytes: entry.bytes,
            modified_us: Some(entry.modified.0),
        })
        .collect())
}

fn list_folder(uri: &str, roots: &Roots, rows: &mut Rows) -> Result<()> {
    let (folder, pattern) = roots.split_pattern(uri)?;
    let Place::Local(base) = roots.resolve(&folder.to_string_lossy())? else {
        return Err(Error::bug("a local folder is in a remote store"));
    };
    let names = if pattern.is_empty() {
        let meta = fs::metadata(&base).map_err(|error| unreadable(&base, error))?;
        if !meta.is_dir() {
            return rows.push(found(&base, &meta)?);
        }
        Names::try_new("*")?
    } else {
        Names::try_new(&pattern)?
    };
    // A stack of folders, each with what is still to do in it, the next at its end.
    let mut open = vec![(String::new(), entries(&base, &base)?)];
    while let Some((inside, left)) = open.last_mut() {
        let Some(entry) = left.pop() else {
            open.pop();
            continue;
        };
        let path = format!("{inside}{}", entry.key);
        match entry.kind {
            Kind::Folder => {
                if names.reaches(open.len()) {
                    let inner = entries(&base, &entry.path)?;
                    open.push((path, inner));
                }
            }
            Kind::File | Kind::Link if !names.matches(&path) => {}
            Kind::File => {
                let meta = fs::metadata(&entry.path);
                match meta {
                    Ok(meta) => rows.push(found(&entry.path, &meta)?)?,
                    // It was removed since its folder was read.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(unreadable(&entry.path, error)),
                }
            }
            Kind::Link => {
                let inside = entry
                    .path
                    .to_str()
                    .is_some_and(|path| roots.resolve(path).is_ok());
                if let (true, Ok(meta)) = (inside, fs::metadata(&entry.path))
                    && meta.is_file()
                {
                    rows.push(found(&entry.path, &meta)?)?;
                }
            }
        }
    }
    Ok(())
}

enum Kind {
    File,
    Folder,
    Link,
}

struct Entry {
    /// The name; that of a folder ends with a slash, so that the order is that of whole paths.
    key: String,
    path: PathBuf,
    kind: Kind,
}

/// What is in a folder, in descending order; what is neither file nor folder is left out.
fn entries(base: &Path, folder: &Path) -> Result<Vec<Entry>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && folder != base => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(folder, error)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let path = entry.path();
        let file_type = entry
            .file_type()
            .map_err(|error| unreadable(&path, error))?;
        let kind = if file_type.is_dir() {
            Kind::Folder
        } else if file_type.is_symlink() {
            Kind::Link
        } else if file_type.is_file() {
            Kind::File
        } else {
            continue;
        };
        let mut key = entry
            .file_name()
            .into_string()
            .map_err(|_| no_text(&path))?;
        if matches!(kind, Kind::Folder) {
            if key.starts_with('.') {
                continue;
            }
            key.push('/');
        }
        entries.push(Entry { key, path, kind });
    }
    entries.sort_unstable_by(|a, b| b.key.cmp(&a.key));
    Ok(entries)
}

fn found(path: &Path, meta: &fs::Metadata) -> Result<Found> {
    let since = meta
        .modified()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok(Found {
        uri: path.to_str().ok_or_else(|| no_text(path))?.to_owned(),
        bytes: meta.len(),
        modified_us: since.and_then(|since| i64::try_from(since.as_micros()).ok()),
    })
}

fn no_text(path: &Path) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!("the name of file \"{}\" is not UTF-8", path.display()),
    )
    .with_hint("Rename the file, or choose a folder without it.")
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!("\"{}\" cannot be listed", path.display()),
    )
    .with_detail(format!("{error}."))
    .with_hint("Check the path and its permissions.")
    .with_source(error)
}
