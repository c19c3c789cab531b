//! Writes one immutable Parquet run of a source table.
//!
//! Row groups begin at multiples of [`ROW_GROUP_ROWS`] unless the rows are very wide; scans split
//! their work there, but do not rely on it. The key column has a bloom filter, so that a look-up
//! by key reads little. Only the ledger writes runs.
//!
//! A run says of TEXT columns that they are `Utf8View`. It changes no value and no byte of them;
//! but a reader that decodes to views copies no text, and where a filter compares texts of up to
//! 12 bytes, most time went into copying them. Tables show TEXT as `Utf8`, see
//! `session::core`: the scan casts the rows that are left.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::chance;
use crate::error::{Error, Result};
use crate::ledger::store::{DataWriter, Store};
use crate::time::Timestamp;

/// A new, unique path for rows of a table. It tells when it was made: a commit that names it must
/// come soon after, see [`crate::model::rules::FILE_AGE_MAX`].
pub fn run_path(table: &str, now: Timestamp) -> String {
    format!("tables/{table}/{}.parquet", chance::id(now))
}

/// Rows of a row group. Chosen: small enough that two cores share a run of a few 100,000 rows,
/// large enough that the footer stays small against the data.
pub const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Encoded bytes after which a row group ends early: bounds the memory of a writer whose rows
/// are whole documents.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;

/// Share of absent keys that the bloom filter lets through. Chosen: about 10 bits a key.
const BLOOM_FALSE_SHARE: f64 = 0.01;

/// The columns as the file has them.
fn viewed(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    });
    let fields: Vec<FieldRef> = fields.collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A run that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFile {
    /// Path inside the store.
    pub path: String,
    /// How many rows it has.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A run on its way into the store. It appears when [`RunWriter::finish`] returns; dropped before
/// that, it leaves nothing.
pub struct RunWriter {
    path: String,
    schema: SchemaRef,
    rows: u64,
    writer: AsyncArrowWriter<Sink>,
}

impl fmt::Debug for RunWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunWriter")
            .field("path", &self.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl RunWriter {
    /// Begins a run.
    ///
    /// # Arguments
    /// * `path`: where in the store; must be unique.
    /// * `schema`: the columns that every batch has.
    /// * `key`: the name of the key column.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the file cannot be begun.
    pub async fn open(store: &Store, path: &str, schema: SchemaRef, key: &str) -> Result<Self> {
        let level = ZstdLevel::try_new(1).map_err(|error| unencodable(path, error))?;
        let key = ColumnPath::new(vec![key.to_owned()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_column_bloom_filter_fpp(key.clone(), BLOOM_FALSE_SHARE)
            .set_column_bloom_filter_max_ndv(key, ROW_GROUP_ROWS as u64)
            .build();
        let sink = Sink(store.put_data(path).await?);
        let schema = viewed(&schema);
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties))
            .map_err(|error| unencodable(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            schema,
            rows: 0,
            writer,
        })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not take them; the run is lost as a whole.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let unencodable = |error| unencodable(&self.path, error);
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns
            .collect::<std::result::Result<Vec<_>, ArrowError>>()
            .and_then(|columns| RecordBatch::try_new(Arc::clone(&self.schema), columns))
            .map_err(|error| unencodable(error.into()))?;
        self.writer.write(&columns).await.map_err(unencodable)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Makes the run visible and durable.
    ///
    /// # Errors
    /// SG7002 store-unavailable: the store did not take it, or it is unknown whether it did.
    pub async fn finish(mut self) -> Result<RunFile> {
        self.writer
            .finish()
            .await
            .map_err(|error| unencodable(&self.path, error))?;
        let Sink(data) = self.writer.into_inner();
        let bytes = data.finish().await?;
        Ok(RunFile {
            path: self.path,
            rows: self.rows,
            bytes,
        })
    }
}

/// Where Parquet hands over what it has encoded.
#[derive(Debug)]
struct Sink(DataWriter);

impl AsyncFileWriter for Sink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move {
            self.0
                .append(bytes)
                .await
                .map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        // The run becomes visible in `RunWriter::finish` only.
        async { Ok(()) }.boxed()
    }
}

/// The store's own error where there is one, else a broken assumption about the batches.
fn unencodable(path: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => bug(path, other),
        },
        // Foreign and non-exhaustive.
        other => bug(path, Box::new(other)),
    }
}

fn bug(path: &str, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::bug(format!("run \"{path}\" cannot be encoded: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::file::serialized_reader::ReadOptionsBuilder;

    use crate::ledger::store::StoreOptions;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("number", DataType::Int64, true),
        ]))
    }

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let ids = StringArray::from_iter_values(rows.clone().map(|row| format!("k{row}")));
        let numbers = Int64Array::from_iter_values(rows);
        RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(numbers)]).unwrap()
    }

    #[tokio::test]
    async fn run_has_aligned_row_groups_page_index_and_key_filter() {
        let store = Store::open("memory://", &StoreOptions::default())
            .await
            .unwrap();
        let mut writer = RunWriter::open(&store, "tables/t/1", schema(), "id")
            .await
            .unwrap();
        writer.write(&batch(0..100_000)).await.unwrap();
        writer.write(&batch(100_000..200_000)).await.unwrap();
        assert!(store.list("").await.unwrap().is_empty());
        let run = writer.finish().await.unwrap();
        let bytes = store.get("tables/t/1").await.unwrap().unwrap();
        assert_eq!((run.rows, run.bytes), (200_000, bytes.len() as u64));
        let options = ReadOptionsBuilder::new().with_page_index().build();
        let file = SerializedFileReader::new_with_options(bytes.clone(), options).unwrap();
        let rows: Vec<i64> = file
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows())
            .collect();
        assert_eq!(rows, [131_072, 68_928]);
        assert!(file.metadata().column_index().is_some());
        let group = file.metadata().row_group(0);
        assert!(group.column(0).bloom_filter_offset().is_some());
        assert!(group.column(1).bloom_filter_offset().is_none());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = arrow::compute::concat_batches(&read[0].schema(), &read).unwrap();
        assert_eq!(read.schema().field(0).data_type(), &DataType::Utf8View);
        let written = batch(0..200_000);
        let ids = cast(read.column(0), &DataType::Utf8).unwrap();
        assert_eq!(
            [&ids, read.column(1)],
            [written.column(0), written.column(1)]
        );
    }

    #[tokio::test]
    async fn dropped_run_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let store = Store::open(url, &StoreOptions::default()).await.unwrap();
        let mut writer = RunWriter::open(&store, "tables/t/1", schema(), "id")
            .await
            .unwrap();
        writer.write(&batch(0..10)).await.unwrap();
        drop(writer);
        assert_eq!(
            std::fs::read_dir(folder.path().join("tables/t"))
                .unwrap()
                .count(),
            0
        );
    }

    #[tokio::test]
    async fn batch_of_another_schema_is_refused() {
        let store = Store::open("memory://", &StoreOptions::default())
            .await
            .unwrap();
        let mut writer = RunWriter::open(&store, "tables/t/1", schema(), "id")
            .await
            .unwrap();
        let other = batch(0..1).project(&[1]).unwrap();
        assert_eq!(
            writer.write(&other).await.unwrap_err().code(),
            crate::error::Code::Bug
        );
    }
}
