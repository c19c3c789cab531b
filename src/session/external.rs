//! External tables: files of others, read as they were written.
//!
//! DataFusion reads them, but five things are decided here first. A file without a byte, and one
//! that cannot be read, is an error that names it. The columns of CSV are inferred from whole
//! records, and what a number would not give back is text: codes with leading zeros, integers
//! beyond 64 bits, more digits than a DOUBLE carries. Dates come in as text and become the day that
//! is written. Compressed files, and JSON documents that are no lines, are read whole, within a
//! bound. Line ends in quotes are honoured (`newlines_in_values` is on in [`core`](super::core)),
//! so one CSV file is read by one thread.

use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::{MemTable, MemoryCatalogProviderList, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{
    CreateExternalTable, DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, col,
};
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use datafusion::sql::parser::Statement as SyntaxTree;
use futures::TryStreamExt;

use crate::error::{Code, Error, Result};
use crate::functions::dates::{Misfit, WrittenDate, is_date};
use crate::functions::files::Roots;
use crate::session::names::quoted;

mod csv;
mod document;

/// Bytes of a file from which columns are inferred. Chosen: more than any head of a code list, and
/// a fraction of a second.
const PREFIX_BYTES: u64 = 8 << 20;

/// Bytes, unpacked, of the files of one table that are read whole. Chosen: code lists and answers
/// of services are far smaller; what is larger belongs into Parquet.
const WHOLE_BYTES_MAX: u64 = 256 << 20;

/// What the files of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
    Other,
}

/// How the files of a table are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// One file of a table.
struct File {
    meta: ObjectMeta,
    /// As people know it.
    name: String,
    store: Arc<dyn ObjectStore>,
}

impl File {
    /// Its bytes, or the first of them.
    async fn read(&self, most: Option<u64>) -> Result<Vec<u8>> {
        let end = most.map_or(self.meta.size, |most| most.min(self.meta.size));
        let bytes = self.store.get_range(&self.meta.location, 0..end).await;
        Ok(bytes.map_err(|error| self.unreadable(error))?.to_vec())
    }

    fn unreadable(&self, cause: impl std::fmt::Display) -> Error {
        Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" cannot be read", self.name),
        )
        .with_detail(format!("{cause}."))
        .with_hint("Check what it holds, and STORED AS and OPTIONS of the external table.")
    }
}

/// The provider of an external table, checked against the roots.
///
/// # Errors
/// `SG6001 outside-roots`; `SG6002 file-unreadable`: an empty or broken file, by its name;
/// `SG2004 invalid-definition`; what else DataFusion finds wrong.
pub async fn external_table(
    session: &SessionState,
    tree: SyntaxTree,
    roots: &Roots,
) -> Result<Arc<dyn TableProvider>> {
    // DataFusion looks up every name in the statement, that of the table itself too, which would
    // come back here without end. The statement refers to no other table.
    let nameless = SessionStateBuilder::new_from_existing(session.clone())
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .build();
    let plan = nameless.statement_to_plan(tree).await?;
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(mut command)) = plan else {
        return Err(Error::bug(
            "CREATE EXTERNAL TABLE planned to something else",
        ));
    };
    let checked = command
        .locations
        .iter()
        .map(|location| roots.permit(location));
    command.locations = checked.collect::<Result<Vec<String>>>()?;
    let format = match command.file_type.to_uppercase().as_str() {
        "CSV" => Format::Csv,
        "JSON" | "NDJSON" => Format::Json,
        _ => Format::Other,
    };
    let files = files(session, &command).await?;
    if let Some(empty) = files.iter().find(|file| file.meta.size == 0) {
        return Err(Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" is empty", empty.name),
        )
        .with_hint(
            "Write it again, or remove it: a table without rows has a header or a schema.",
        ));
    }
    let dates = date_columns(&mut command, format)?;
    let provider = provider(session, &mut command, format, &files).await?;
    with_dates(provider, &dates)
}

async fn provider(
    session: &SessionState,
    command: &mut CreateExternalTable,
    format: Format,
    files: &[File],
) -> Result<Arc<dyn TableProvider>> {
    let packing = packing(command, files)?;
    let document = format == Format::Json
        && option(command, "newline_delimited").is_some_and(|value| value == "false");
    let declared = declared(command);
    match (format, packing) {
        (Format::Csv, Packing::Plain) => {
            if declared.is_none() && !files.is_empty() {
                let schema = csv::infer(command, files).await?;
                command.schema = Arc::new(DFSchema::try_from(schema)?);
            }
            listed(session, command, files).await
        }
        (Format::Json, Packing::Plain) if !document => listed(session, command, files).await,
        (Format::Csv, _) => {
            let texts = whole_texts(files, packing).await?;
            let (schema, batches) = csv::whole(command, files, &texts, declared)?;
            in_memory(schema, batches)
        }
        (Format::Json, _) => {
            let mut texts = whole_texts(files, packing).await?;
            if document {
                for (file, text) in files.iter().zip(&mut texts) {
                    *text = document::lines(file, text)?;
                }
            }
            let (schema, batches) = document::rows(files, &texts, declared)?;
            in_memory(schema, batches)
        }
        (Format::Other, _) => listed(session, command, files).await,
    }
}

/// As DataFusion lists and reads them. Where that fails, the first file that fails by itself is
/// named.
async fn listed(
    session: &SessionState,
    command: &CreateExternalTable,
    files: &[File],
) -> Result<Arc<dyn TableProvider>> {
    let file_type = command.file_type.to_uppercase();
    let factory = session.table_factories().get(&file_type).ok_or_else(|| {
        Error::new(
            Code::InvalidDefinition,
            format!("file type \"{file_type}\" is unknown"),
        )
        .with_hint("Write STORED AS PARQUET, CSV, JSON or ARROW.")
    })?;
    let whole = match factory.create(session, command).await {
        Ok(provider) => return Ok(provider),
        Err(error) => Error::from(error),
    };
    let reads = matches!(
        whole.code(),
        Code::QueryFailed | Code::FileUnreadable | Code::Bug
    );
    for file in files.iter().filter(|_| reads) {
        let alone = CreateExternalTable {
            locations: vec![file.name.clone()],
            ..command.clone()
        };
        if let Err(error) = factory.create(session, &alone).await {
            return Err(file.unreadable(Error::from(error)));
        }
    }
    Err(whole)
}

/// The unpacked bytes of each file.
async fn whole_texts(files: &[File], packing: Packing) -> Result<Vec<Vec<u8>>> {
    let mut unpacked = Unpacked::default();
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        texts.push(unpacked.whole(file, packing).await?);
    }
    Ok(texts)
}

/// The rows of files that were read whole; what is wrong with one names it.
fn rows_of(
    files: &[File],
    texts: &[Vec<u8>],
    read: impl Fn(&[u8]) -> Result<Vec<RecordBatch>, ArrowError>,
) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for (file, text) in files.iter().zip(texts) {
        batches.extend(read(text).map_err(|error| file.unreadable(error))?);
    }
    Ok(batches)
}

fn in_memory(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(schema, vec![batches])?))
}

/// The files that a table reads, those without a byte too, which DataFusion leaves out silently.
async fn files(session: &SessionState, command: &CreateExternalTable) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for location in &command.locations {
        let url = ListingTableUrl::parse(location)?;
        let base = url.object_store();
        let store = session.runtime_env().object_store(&base)?;
        let of = |meta: ObjectMeta| {
            let path = format!("/{}", meta.location);
            let name = match base.as_str() {
                "file:///" => path,
                base => format!("{}{}", base.trim_end_matches('/'), path),
            };
            File {
                meta,
                name,
                store: Arc::clone(&store),
            }
        };
        if !url.is_collection() && url.get_glob().is_none() {
            let meta = store.head(url.prefix()).await.map_err(|error| {
                Error::new(
                    Code::FileUnreadable,
                    format!("file \"{location}\" cannot be read"),
                )
                .with_detail(format!("{error}."))
                .with_hint("Check the path or LOCATION.")
            })?;
            files.push(of(meta));
            continue;
        }
        let found = url.list_all_files(session, store.as_ref(), "").await?;
        let mut found: Vec<ObjectMeta> = found.try_collect().await?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        files.extend(found.into_iter().map(of));
    }
    Ok(files)
}

fn option<'c>(command: &'c CreateExternalTable, name: &str) -> Option<&'c str> {
    let named = command.options.iter().find(|(key, _)| {
        let key = key.to_ascii_lowercase();
        key.strip_prefix("format.").unwrap_or(&key) == name
    });
    named.map(|(_, value)| value.as_str())
}

fn declared(command: &CreateExternalTable) -> Option<SchemaRef> {
    let schema = command.schema.inner();
    (!schema.fields().is_empty()).then(|| Arc::clone(schema))
}

fn packing(command: &CreateExternalTable, files: &[File]) -> Result<Packing> {
    let of_name = |name: &str| {
        let name = name.to_ascii_lowercase();
        match name.rsplit('.').next() {
            Some("gz" | "gzip") => "gzip",
            Some("zst" | "zstd") => "zstd",
            Some("bz2") => "bzip2",
            Some("xz") => "xz",
            Some(_) | None => "",
        }
        .to_owned()
    };
    let said = match option(command, "compression") {
        Some(said) => said.to_ascii_lowercase(),
        None => files
            .first()
            .map(|file| of_name(&file.name))
            .unwrap_or_default(),
    };
    match said.as_str() {
        "" | "uncompressed" => Ok(Packing::Plain),
        "gzip" | "gz" => Ok(Packing::Gzip),
        "zstd" | "zst" => Ok(Packing::Zstd),
        other => Err(Error::new(
            Code::Unsupported,
            format!("files that are packed with {other} are not read"),
        )
        .with_hint("Unpack them, or pack them with gzip or zstd.")),
    }
}

/// The bytes that were read whole so far.
#[derive(Default)]
struct Unpacked(u64);

impl Unpacked {
    async fn whole(&mut self, file: &File, packing: Packing) -> Result<Vec<u8>> {
        let left = WHOLE_BYTES_MAX.saturating_sub(self.0);
        let packed = file.read(Some(left + 1)).await?;
        let bytes = unpack(&packed, packing, left).map_err(|error| file.unreadable(error))?;
        self.0 += bytes.len() as u64;
        if self.0 > WHOLE_BYTES_MAX {
            return Err(Error::new(
                Code::TooLarge,
                format!("file \"{}\" has too many bytes to be read whole", file.name),
            )
            .with_detail(format!(
                "The files of a table may have {WHOLE_BYTES_MAX} in sum."
            ))
            .with_hint("Write it as Parquet, or unpacked with a row or an object per line."));
        }
        Ok(bytes)
    }
}

fn unpack(packed: &[u8], packing: Packing, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match packing {
        Packing::Plain => bytes.extend_from_slice(packed),
        Packing::Gzip => {
            let reader = flate2::read::MultiGzDecoder::new(packed);
            reader.take(most + 1).read_to_end(&mut bytes)?;
        }
        Packing::Zstd => {
            let reader = zstd::stream::read::Decoder::new(packed)?;
            reader.take(most + 1).read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}

/// Turns the declared DATE columns of texts into TEXT, for the files are read by Arrow.
///
/// # Returns
/// Their names and types.
fn date_columns(
    command: &mut CreateExternalTable,
    format: Format,
) -> Result<Vec<(String, DataType)>> {
    if format == Format::Other {
        return Ok(Vec::new());
    }
    let schema = command.schema.inner();
    let dates = schema
        .fields()
        .iter()
        .filter(|field| is_date(field.data_type()))
        .filter(|field| !command.table_partition_cols.contains(field.name()))
        .map(|field| (field.name().clone(), field.data_type().clone()));
    let dates: Vec<(String, DataType)> = dates.collect();
    if dates.is_empty() {
        return Ok(dates);
    }
    let fields = schema.fields().iter().map(|field| {
        let field = field.as_ref().clone();
        match dates.iter().any(|(name, _)| name == field.name()) {
            true => field.with_data_type(DataType::Utf8),
            false => field,
        }
    });
    let texts = Schema::new(fields.collect::<Vec<Field>>());
    command.schema = Arc::new(DFSchema::try_from(texts)?);
    Ok(dates)
}

fn with_dates(
    provider: Arc<dyn TableProvider>,
    dates: &[(String, DataType)],
) -> Result<Arc<dyn TableProvider>> {
    if dates.is_empty() {
        return Ok(provider);
    }
    let schema = provider.schema();
    let columns = schema.fields().iter().map(|field| {
        let column = col(quoted(field.name()));
        match dates.iter().find(|(name, _)| name == field.name()) {
            Some((name, to)) => WrittenDate::udf(to.clone(), Misfit::Error)
                .call(vec![column])
                .alias(name),
            None => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    let plan = LogicalPlanBuilder::scan("files", provider_as_source(provider), None)?
        .project(columns)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}
