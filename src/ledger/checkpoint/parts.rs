//! The Parquet files of a checkpoint: written one after the other, read side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::manifest::{Manifest, PartFile, folder, manifest_path};
use crate::chance;
use crate::error::{Error, Result};
use crate::id::Version;
use crate::ledger::codec;
use crate::ledger::errors::{self, gone};
use crate::ledger::store::Store;
use crate::model::frozen::{self, Frozen, PART_ROWS, Part, PartKind, Piece};
use crate::model::keys::KeyType;
use crate::model::state::State;
use crate::time::Timestamp;

/// Rows of a batch while decoding. Chosen: the columns of one batch stay in the second-level
/// cache while they are turned into rows.
const BATCH_ROWS: usize = 1 << 14;

/// Columns whose values mostly differ from row to row by little: a dictionary would only be
/// thrown away again.
const DELTAS: [&str; 10] = [
    "row",
    "slot",
    "live_job",
    "running_job",
    "last_job",
    "token",
    "next_live",
    "first",
    "end",
    "extra",
];

/// Writes all parts.
pub(super) async fn write(store: &Store, frozen: &Frozen<'_>) -> Result<Vec<PartFile>> {
    let catalog = frozen.catalog();
    let mut files = Vec::new();
    for part in frozen.parts() {
        let batch = frozen
            .batch(part)
            .map_err(|error| unwritable(part, error))?;
        let bytes = encode(&batch).map_err(|error| unwritable(part, error))?;
        let path = format!(
            "{}/{}-{}-{}-{}.parquet",
            folder(Version(catalog.version)),
            part.kind.name(),
            part.table,
            part.first,
            chance::id(Timestamp(catalog.at)).simple()
        );
        files.push(PartFile {
            part,
            bytes: bytes.len() as u64,
            hash: format!("{:016x}", codec::content_hash(&bytes)),
            path: path.clone(),
        });
        let mut writer = store.put_data(&path).await?;
        writer.append(bytes).await?;
        writer.finish().await?;
    }
    Ok(files)
}

fn unwritable(part: Part, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::bug(format!(
        "{} of a checkpoint cannot be written",
        part.kind.name()
    ))
    .with_source(error)
}

fn encode(batch: &RecordBatch) -> parquet::errors::Result<Bytes> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(PART_ROWS))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_write_batch_size(BATCH_ROWS);
    for name in DELTAS {
        let column = ColumnPath::new(vec![name.to_owned()]);
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    // Keys are unique.
    let key = ColumnPath::new(vec!["key".to_owned()]);
    let properties = properties.set_column_dictionary_enabled(key, false);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build()))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes.into())
}

/// Reads and joins all parts.
pub(super) async fn load(store: &Store, manifest: &Manifest) -> Result<State> {
    let tasks = store.tasks();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let files = manifest.files().iter().map(|file| {
        let table = manifest.catalog().tables.iter();
        let key_type = table
            .filter(|table| table.id == file.part.table)
            .map(|table| table.def.key_type)
            .next_back()
            .unwrap_or(KeyType::Text);
        let (store, file) = (store.clone(), file.clone());
        async move {
            let bytes = store.get(&file.path).await?;
            let bytes = bytes.ok_or_else(|| gone(&file.path))?;
            let part = file.part;
            let piece = tasks
                .offload(move || decode(&file, key_type, bytes))
                .await?;
            piece.map(|piece| (part, piece))
        }
    });
    // Collected: a stream over the borrowed manifest would make the opening future not Send.
    let files: Vec<_> = files.collect();
    // Files are read ahead of the cores that decode them.
    let pieces: Vec<(Part, Piece)> = stream::iter(files)
        .buffer_unordered(cores * 2)
        .try_collect()
        .await?;
    let manifest = Arc::new(manifest.catalog().clone());
    let path = manifest_path(Version(manifest.version));
    let thawed = tasks
        .offload(move || frozen::thaw(&manifest, pieces))
        .await?;
    thawed.map_err(|damage| errors::damaged(&path, damage))
}

/// The paths of the runs in all parts.
pub(super) async fn run_paths(store: &Store, manifest: &Manifest) -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    let files = manifest.files().iter();
    for file in files.filter(|file| file.part.kind == PartKind::Runs) {
        let bytes = store.get(&file.path).await?;
        let bytes = bytes.ok_or_else(|| gone(&file.path))?;
        if let Piece::Runs(runs) = decode(file, KeyType::Text, bytes)? {
            paths.extend(runs.iter().map(|(_, run, _)| run.path.to_string()));
        }
    }
    Ok(paths)
}

fn decode(file: &PartFile, key_type: KeyType, bytes: Bytes) -> Result<Piece> {
    let damaged = |what: &str| errors::damaged(&file.path, what);
    if bytes.len() as u64 != file.bytes {
        return Err(damaged("it has another size than the manifest says"));
    }
    if format!("{:016x}", codec::content_hash(&bytes)) != file.hash {
        return Err(damaged("its content is not what was written"));
    }
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(|error| errors::damaged(&file.path, error))?
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| errors::damaged(&file.path, error))?;
    frozen::decode(file.part, key_type, &batches)
        .map_err(|error| errors::damaged(&file.path, error))
}
