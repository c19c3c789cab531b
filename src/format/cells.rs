//! The text of single values: exact numbers, UTC timestamps, nested values as JSON.

use std::fmt::Write;
use std::sync::LazyLock;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::json::nested_options;
use super::spans::{Span, spans};
use super::unwritable;
use crate::error::Result;

static SCALARS: FormatOptions<'static> = FormatOptions::new().with_display_error(true);
static NESTED: LazyLock<EncoderOptions> = LazyLock::new(nested_options);

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// NULL: no text was written.
    Null,
    /// A value: its text was written.
    Value,
}

/// The cells of one batch that [`super::shape::Shape::utc`] has shaped.
pub(super) struct Cells<'a> {
    columns: Vec<Column<'a>>,
    bytes: Vec<u8>,
}

struct Column<'a> {
    nulls: Option<NullBuffer>,
    text: Text<'a>,
}

enum Text<'a> {
    Scalar(ArrayFormatter<'a>),
    Spans(Vec<Span>),
    Json(NullableEncoder<'a>),
}

/// Who reads the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Spans of time are short: `2 h 05 min`.
    Person,
    /// Every value is whole.
    Program,
}

impl<'a> Cells<'a> {
    pub(super) fn try_new(batch: &'a RecordBatch, reader: Reader) -> Result<Self> {
        let schema = batch.schema_ref();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            let encoder = if field.data_type().is_nested() {
                // Types without a JSON form keep the one of Arrow.
                make_encoder(field, array, &NESTED).ok()
            } else {
                None
            };
            let spans = match reader {
                Reader::Person => spans(array),
                Reader::Program => None,
            };
            let text = match (encoder, spans) {
                (Some(encoder), _) => Text::Json(encoder),
                (None, Some(spans)) => Text::Spans(spans),
                (None, None) => {
                    Text::Scalar(ArrayFormatter::try_new(array, &SCALARS).map_err(unwritable)?)
                }
            };
            columns.push(Column {
                nulls: array.logical_nulls(),
                text,
            });
        }
        Ok(Self {
            columns,
            bytes: Vec::new(),
        })
    }

    /// Appends the text of a cell to `out`.
    pub(super) fn write(&mut self, column: usize, row: usize, out: &mut String) -> Cell {
        let Some(column) = self.columns.get_mut(column) else {
            return Cell::Null;
        };
        if column
            .nulls
            .as_ref()
            .is_some_and(|nulls| nulls.is_null(row))
        {
            return Cell::Null;
        }
        match &mut column.text {
            // Writing to a String cannot fail, and the options turn errors of values into text.
            Text::Scalar(formatter) => drop(write!(out, "{}", formatter.value(row))),
            Text::Spans(spans) => {
                if let Some(span) = spans.get(row) {
                    span.write(out);
                }
            }
            Text::Json(encoder) => {
                self.bytes.clear();
                encoder.encode(row, &mut self.bytes);
                out.push_str(&String::from_utf8_lossy(&self.bytes));
            }
        }
        Cell::Value
    }
}

/// Appends a text with its control characters made visible, so that a value can neither break
/// the lines of a table nor steer the terminal.
pub(super) fn push_visible(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
}
