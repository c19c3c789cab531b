//! Result formats: rows as text for people, as text for programs, or as columnar files.
//!
//! Invariants: rows are written as they come, and at most the first rows of a table are held back
//! to find its widths; no number loses a digit; the text formats write every timestamp in UTC as
//! RFC 3339 with `Z`, and nested values as JSON; an empty result still has its header, `[]`, or
//! a valid empty file.
//! Nothing but data is written here. Called by the REPL, scripts and the server.

mod cells;
mod csv;
mod expanded;
mod json;
mod shape;
mod spans;
mod table;

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::arrow::json::Writer as JsonWriter;
use datafusion::arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::error::{Code, Error, Result};

pub use json::json_options;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// One line per value, for wide rows.
    Expanded,
    /// RFC 4180 with a header; NULL is nothing, an empty text is `""`.
    Csv,
    /// One JSON array of objects.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// One Parquet file.
    Parquet,
    /// One Arrow IPC stream.
    Arrow,
    /// One Arrow IPC file, also known as Feather.
    ArrowFile,
}

impl Format {
    /// Every format, as help texts list them.
    pub const ALL: &[Self] = &[
        Self::Table,
        Self::Expanded,
        Self::Csv,
        Self::Json,
        Self::Ndjson,
        Self::Parquet,
        Self::Arrow,
        Self::ArrowFile,
    ];

    /// The name that users type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Expanded => "expanded",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::ArrowFile => "arrow-file",
        }
    }

    /// Whether rows are JSON objects.
    pub fn json(self) -> bool {
        match self {
            Self::Json | Self::Ndjson => true,
            Self::Table
            | Self::Expanded
            | Self::Csv
            | Self::Parquet
            | Self::Arrow
            | Self::ArrowFile => false,
        }
    }

    /// Whether the bytes are no text: such an output holds one result and goes to no terminal.
    pub fn binary(self) -> bool {
        match self {
            Self::Parquet | Self::Arrow | Self::ArrowFile => true,
            Self::Table | Self::Expanded | Self::Csv | Self::Json | Self::Ndjson => false,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|f| f.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|f| f.as_str()).collect();
                Error::new(
                    Code::UnknownObject,
                    format!("format \"{name}\" does not exist"),
                )
                .with_hint(format!("The formats are {}.", names.join(", ")))
            })
    }
}

/// How the buffers of Arrow formats are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpcCodec {
    /// Not at all.
    None,
    /// LZ4, fast.
    Lz4,
    /// Zstandard, small.
    Zstd,
}

impl IpcCodec {
    fn options(self) -> Result<IpcWriteOptions> {
        let codec = match self {
            Self::None => None,
            Self::Lz4 => Some(CompressionType::LZ4_FRAME),
            Self::Zstd => Some(CompressionType::ZSTD),
        };
        IpcWriteOptions::default()
            .try_with_compression(codec)
            .map_err(unwritable)
    }
}

/// Where the text formats are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A file or a pipe: nothing is cut off, nothing is coloured.
    Plain,
    /// A terminal of so many columns: long texts are cut, NULL is dim.
    Terminal {
        /// Columns of the terminal.
        columns: usize,
        /// Whether escape sequences for styles may be written.
        styled: bool,
        /// What becomes of rows that are wider than that.
        wide: Wide,
    },
}

/// What becomes of the rows of a table that are wider than the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wide {
    /// Their longest texts are cut.
    Cut,
    /// They are written with one line per value.
    Expand,
}

/// Writes the rows of one result.
pub struct ResultWriter<W: Write + Send>(Inner<W>);

enum Inner<W: Write + Send> {
    Table(table::TableWriter<W>),
    Expanded(expanded::ExpandedWriter<W>),
    Csv(csv::CsvWriter<W>),
    Json(shape::Shape, JsonWriter<W, json::Rows>),
    Ndjson(shape::Shape, JsonWriter<W, LineDelimited>),
    Parquet(shape::Shape, Box<ArrowWriter<W>>),
    Arrow(StreamWriter<W>),
    ArrowFile(Box<FileWriter<W>>),
}

impl<W: Write + Send> ResultWriter<W> {
    /// Starts a result with these columns.
    ///
    /// # Errors
    /// SG6005 output-failed: `out` cannot be written, or the format has no such column type.
    pub fn try_new(format: Format, schema: SchemaRef, look: Look, out: W) -> Result<Self> {
        Self::try_new_with(format, schema, look, IpcCodec::None, out)
    }

    /// The same with compressed buffers, where the format is one of Arrow's.
    ///
    /// # Errors
    /// Those of [`ResultWriter::try_new`].
    pub fn try_new_with(
        format: Format,
        schema: SchemaRef,
        look: Look,
        codec: IpcCodec,
        out: W,
    ) -> Result<Self> {
        Ok(Self(match format {
            Format::Table => Inner::Table(table::TableWriter::new(schema, look, out)),
            Format::Expanded => Inner::Expanded(expanded::ExpandedWriter::new(schema, look, out)),
            Format::Csv => Inner::Csv(csv::CsvWriter::try_new(schema, out)?),
            Format::Json => {
                let shape = shape::Shape::utc(&schema).with_unique_names();
                Inner::Json(shape, json_options().build(out))
            }
            Format::Ndjson => {
                let shape = shape::Shape::utc(&schema).with_unique_names();
                Inner::Ndjson(shape, json_options().build(out))
            }
            Format::Parquet => {
                let shape = shape::Shape::same(&schema).with_unique_names();
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(Default::default()))
                    .build();
                let writer = ArrowWriter::try_new(out, shape.schema(), Some(properties));
                Inner::Parquet(shape, Box::new(writer.map_err(unwritable)?))
            }
            Format::Arrow => {
                let writer = StreamWriter::try_new_with_options(out, &schema, codec.options()?);
                Inner::Arrow(writer.map_err(unwritable)?)
            }
            Format::ArrowFile => {
                let writer = FileWriter::try_new_with_options(out, &schema, codec.options()?);
                Inner::ArrowFile(Box::new(writer.map_err(unwritable)?))
            }
        }))
    }

    /// Writes some more rows.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.0 {
            Inner::Table(writer) => writer.write(batch),
            Inner::Expanded(writer) => writer.write(batch),
            Inner::Csv(writer) => writer.write(batch),
            Inner::Json(shape, writer) => {
                writer.write(&shape.fit(batch)?).map_err(unwritable)?;
                writer.get_mut().flush().map_err(unwritable)
            }
            Inner::Ndjson(shape, writer) => {
                writer.write(&shape.fit(batch)?).map_err(unwritable)?;
                writer.get_mut().flush().map_err(unwritable)
            }
            Inner::Parquet(shape, writer) => {
                writer.write(&shape.fit(batch)?).map_err(unwritable)?;
                // A row group is held in memory until it is flushed; wide rows fill it in bytes
                // long before they do in rows.
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(unwritable)?;
                }
                Ok(())
            }
            Inner::Arrow(writer) => writer.write(batch).map_err(unwritable),
            Inner::ArrowFile(writer) => writer.write(batch).map_err(unwritable),
        }
    }

    /// Writes what was held back and the end of the format.
    ///
    /// # Errors
    /// SG6005 output-failed.
    pub fn finish(self) -> Result<()> {
        let mut out = match self.0 {
            Inner::Table(writer) => writer.finish()?,
            Inner::Expanded(writer) => writer.finish(),
            Inner::Csv(writer) => writer.finish(),
            Inner::Json(_, mut writer) => {
                writer.finish().map_err(unwritable)?;
                writer.into_inner()
            }
            Inner::Ndjson(_, mut writer) => {
                writer.finish().map_err(unwritable)?;
                writer.into_inner()
            }
            Inner::Parquet(_, writer) => writer.into_inner().map_err(unwritable)?,
            Inner::Arrow(writer) => writer.into_inner().map_err(unwritable)?,
            Inner::ArrowFile(writer) => writer.into_inner().map_err(unwritable)?,
        };
        out.flush().map_err(unwritable)
    }
}

/// Bytes of encoded rows after which Parquet output ends a row group. Chosen: large enough to
/// read well, small enough to be held in memory beside the query.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The error of an output that cannot be written.
pub(crate) fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::OutputFailed, "output cannot be written")
        .with_detail(error.to_string())
        .with_hint("Look at the space and the permissions of the output, or choose another format.")
        .with_source(error)
}

#[cfg(test)]
mod tests;
