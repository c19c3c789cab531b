//! The frame of a JSON array: a row per line, so that long results can be read and cut by line.

use std::io::Write;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::JsonFormat;

/// `[`, the rows with commas between them, `]`; `[]` when there are none.
#[derive(Debug, Default)]
pub(super) struct Rows;

impl JsonFormat for Rows {
    fn start_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"[")?)
    }

    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        Ok(if is_first_row {
            Ok(())
        } else {
            writer.write_all(b",\n ")
        }?)
    }

    fn end_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"]\n")?)
    }
}

/// NULL is written as `null`: every row has every key.
pub(super) fn options() -> WriterBuilder {
    WriterBuilder::new().with_explicit_nulls(true)
}
