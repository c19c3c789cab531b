//! One line per value under a rule per row: for rows that are too wide for a table. Values are
//! never cut; their further lines are indented.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use unicode_width::UnicodeWidthStr;

use super::cells::{Cell, Cells, Reader, push_visible};
use super::shape::Shape;
use super::table::{Paint, null_text};
use super::{Look, unwritable};
use crate::error::Result;

pub(super) struct ExpandedWriter<W> {
    expansion: Expansion,
    out: W,
}

impl<W: Write> ExpandedWriter<W> {
    pub(super) fn new(schema: SchemaRef, look: Look, out: W) -> Self {
        Self {
            expansion: Expansion::new(&schema, look),
            out,
        }
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.expansion.write(batch, &mut self.out)
    }

    pub(super) fn finish(self) -> W {
        self.out
    }
}

/// Rows on their way to one line per value.
pub(super) struct Expansion {
    shape: Shape,
    paint: Paint,
    names: Vec<String>,
    rows: u64,
}

impl Expansion {
    pub(super) fn new(schema: &SchemaRef, look: Look) -> Self {
        let width = schema
            .fields()
            .iter()
            .map(|f| f.name().width())
            .max()
            .unwrap_or(0);
        let names = schema.fields().iter().map(|f| {
            let mut name = String::new();
            push_visible(f.name(), &mut name);
            name.extend(std::iter::repeat_n(' ', width.saturating_sub(name.width())));
            name
        });
        let names = names.collect();
        Self {
            shape: Shape::utc(schema),
            paint: Paint::new(look),
            names,
            rows: 0,
        }
    }

    pub(super) fn write(&mut self, batch: &RecordBatch, out: &mut impl Write) -> Result<()> {
        let batch = self.shape.fit(batch)?;
        let mut cells = Cells::try_new(&batch, Reader::Person)?;
        let (mut text, mut lines) = (String::new(), String::new());
        for row in 0..batch.num_rows() {
            self.rows += 1;
            lines.clear();
            lines.push_str(&self.paint.header(&format!("-[ row {} ]-", self.rows)));
            lines.push('\n');
            for (column, name) in self.names.iter().enumerate() {
                lines.push_str(name);
                lines.push_str(" |");
                text.clear();
                match cells.write(column, row, &mut text) {
                    Cell::Null => {
                        lines.push(' ');
                        lines.push_str(&self.paint.null());
                    }
                    Cell::Value => push_lines(&text, name.width(), &mut lines),
                }
                lines.push('\n');
            }
            out.write_all(lines.as_bytes()).map_err(unwritable)?;
        }
        out.flush().map_err(unwritable)
    }
}

fn push_lines(text: &str, indent: usize, out: &mut String) {
    if text == null_text() {
        out.push_str(" '");
        out.push_str(text);
        out.push('\'');
        return;
    }
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(" :");
        }
        if !line.is_empty() {
            out.push(' ');
            push_visible(line.strip_suffix('\r').unwrap_or(line), out);
        }
    }
}
