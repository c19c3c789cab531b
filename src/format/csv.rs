//! CSV after RFC 4180 with `\n` line ends. Arrow's own writer refuses lists and structs and
//! writes NULL and the empty text alike; here NULL is nothing and the empty text is `""`.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::cells::{Cell, Cells, Reader};
use super::shape::Shape;
use super::unwritable;
use crate::error::Result;

pub(super) struct CsvWriter<W> {
    shape: Shape,
    out: W,
}

impl<W: Write> CsvWriter<W> {
    pub(super) fn try_new(schema: SchemaRef, mut out: W) -> Result<Self> {
        let mut header = String::new();
        for (i, field) in schema.fields().iter().enumerate() {
            if i > 0 {
                header.push(',');
            }
            push_field(field.name(), &mut header);
        }
        header.push('\n');
        if !schema.fields().is_empty() {
            out.write_all(header.as_bytes()).map_err(unwritable)?;
        }
        Ok(Self {
            shape: Shape::utc(&schema),
            out,
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = self.shape.fit(batch)?;
        let mut cells = Cells::try_new(&batch, Reader::Program)?;
        let (mut text, mut line) = (String::new(), String::new());
        for row in 0..batch.num_rows() {
            line.clear();
            for column in 0..batch.num_columns() {
                if column > 0 {
                    line.push(',');
                }
                text.clear();
                if cells.write(column, row, &mut text) == Cell::Value {
                    push_field(&text, &mut line);
                }
            }
            line.push('\n');
            self.out.write_all(line.as_bytes()).map_err(unwritable)?;
        }
        self.out.flush().map_err(unwritable)
    }

    pub(super) fn finish(self) -> W {
        self.out
    }
}

fn push_field(text: &str, line: &mut String) {
    if text.is_empty() || text.contains(['"', ',', '\n', '\r']) {
        line.push('"');
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
}
