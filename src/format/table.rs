//! Aligned columns for people. The widths are those of the first rows, so that a result of any
//! length is written in bounded memory; on a terminal longer texts are cut with an ellipsis,
//! elsewhere they stick out and nothing is lost. Numbers are never cut. Where the first rows do not
//! fit on a terminal that asks for it, all rows are written with one line per value instead.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use nu_ansi_term::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::cells::{Cell, Cells, Reader, push_visible};
use super::expanded::Expansion;
use super::shape::{Shape, numeric};
use super::{Look, Wide, unwritable};
use crate::error::Result;

/// Rows that are held back to find the widths. Chosen: fills many screens, costs little memory.
const MEASURED_ROWS: usize = 1_000;

/// The least width that a text column is cut to on a narrow terminal, in columns.
const NARROWEST: usize = 8;

const ELLIPSIS: char = '\u{2026}';

pub(super) struct TableWriter<W> {
    shape: Shape,
    look: Look,
    paint: Paint,
    numeric: Vec<bool>,
    held: Vec<RecordBatch>,
    held_rows: usize,
    layout: Layout,
    out: W,
}

/// How rows are laid out.
enum Layout {
    /// Not known before the first rows are measured.
    Open,
    /// In columns of these widths.
    Columns(Vec<usize>),
    /// With one line per value.
    Lines(Box<Expansion>),
}

impl<W: Write> TableWriter<W> {
    pub(super) fn new(schema: SchemaRef, look: Look, out: W) -> Self {
        Self {
            shape: Shape::utc(&schema),
            look,
            paint: Paint::new(look),
            numeric: schema.fields().iter().map(|f| numeric(f)).collect(),
            held: Vec::new(),
            held_rows: 0,
            layout: Layout::Open,
            out,
        }
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.layout {
            Layout::Columns(widths) => {
                let widths = std::mem::take(widths);
                let batch = self.shape.fit(batch)?;
                let written = self.write_rows(&batch, &widths);
                self.layout = Layout::Columns(widths);
                written
            }
            Layout::Lines(expansion) => expansion.write(batch, &mut self.out),
            Layout::Open => {
                let batch = self.shape.fit(batch)?;
                self.held_rows += batch.num_rows();
                self.held.push(batch);
                if self.held_rows >= MEASURED_ROWS {
                    self.settle()?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn finish(mut self) -> Result<W> {
        match self.layout {
            Layout::Open => self.settle()?,
            Layout::Columns(_) | Layout::Lines(_) => {}
        }
        Ok(self.out)
    }

    /// Fixes the layout, then writes what was held back.
    fn settle(&mut self) -> Result<()> {
        let widths = self.measured()?;
        let held = std::mem::take(&mut self.held);
        if self.expands(&widths) {
            let mut expansion = Expansion::new(&self.shape.schema(), self.look);
            for batch in held {
                expansion.write(&batch, &mut self.out)?;
            }
            self.layout = Layout::Lines(Box::new(expansion));
            return Ok(());
        }
        let widths = self.fitted(widths);
        self.write_header(&widths)?;
        for batch in held {
            self.write_rows(&batch, &widths)?;
        }
        self.layout = Layout::Columns(widths);
        Ok(())
    }

    /// Whether rows of these widths are to be written with one line per value. No rows are never
    /// too wide: their header tells the columns.
    fn expands(&self, widths: &[usize]) -> bool {
        match self.look {
            Look::Terminal {
                columns,
                wide: Wide::Expand,
                ..
            } => self.held_rows > 0 && frame(widths) + widths.iter().sum::<usize>() > columns,
            Look::Plain
            | Look::Terminal {
                wide: Wide::Cut, ..
            } => false,
        }
    }

    fn measured(&self) -> Result<Vec<usize>> {
        let schema = self.shape.schema();
        let mut widths: Vec<usize> = schema
            .fields()
            .iter()
            .map(|f| visible(f.name()).width())
            .collect();
        let mut left = MEASURED_ROWS;
        let mut text = String::new();
        for batch in &self.held {
            let mut cells = Cells::try_new(batch, Reader::Person)?;
            for row in 0..batch.num_rows().min(left) {
                for (column, width) in widths.iter_mut().enumerate() {
                    text.clear();
                    let found = match cells.write(column, row, &mut text) {
                        Cell::Null => null_text().width(),
                        Cell::Value => shown(&text).width(),
                    };
                    *width = found.max(*width);
                }
            }
            left = left.saturating_sub(batch.num_rows());
        }
        Ok(widths)
    }

    /// On a terminal, cuts the widest text columns until a row fits on a line.
    fn fitted(&self, mut widths: Vec<usize>) -> Vec<usize> {
        let Look::Terminal { columns, .. } = self.look else {
            return widths;
        };
        let room = columns.saturating_sub(frame(&widths));
        let total = |cap: usize| -> usize {
            let cut = |(w, n): (&usize, &bool)| if *n { *w } else { (*w).min(cap) };
            widths.iter().zip(&self.numeric).map(cut).sum()
        };
        let widest = widths.iter().copied().max().unwrap_or(0);
        let cap = (NARROWEST..=widest)
            .rev()
            .find(|cap| total(*cap) <= room)
            .unwrap_or(NARROWEST);
        for (width, numeric) in widths.iter_mut().zip(&self.numeric) {
            if !numeric {
                *width = (*width).min(cap);
            }
        }
        widths
    }

    fn write_header(&mut self, widths: &[usize]) -> Result<()> {
        let schema = self.shape.schema();
        if widths.is_empty() {
            return Ok(());
        }
        let mut line = Line::default();
        for (i, field) in schema.fields().iter().enumerate() {
            let right = self.numeric.get(i).copied().unwrap_or_default();
            let width = widths.get(i).copied().unwrap_or_default();
            let name = self.clipped(visible(field.name()), width);
            let painted = self.paint.header(&name);
            line.cell(
                &painted,
                name.width(),
                width,
                if right { Side::Right } else { Side::Left },
            );
        }
        line.text.push('\n');
        for (i, width) in widths.iter().enumerate() {
            line.text.push_str(if i == 0 { "-" } else { "-+-" });
            line.text.extend(std::iter::repeat_n('-', *width));
        }
        line.text.push_str("-\n");
        self.out.write_all(line.text.as_bytes()).map_err(unwritable)
    }

    fn write_rows(&mut self, batch: &RecordBatch, widths: &[usize]) -> Result<()> {
        let mut cells = Cells::try_new(batch, Reader::Person)?;
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            let mut line = Line::default();
            for (i, width) in widths.iter().copied().enumerate() {
                let numeric = self.numeric.get(i).copied().unwrap_or_default();
                let side = if numeric { Side::Right } else { Side::Left };
                text.clear();
                match cells.write(i, row, &mut text) {
                    Cell::Null => {
                        line.cell(&self.paint.null(), null_text().width(), width, side);
                    }
                    Cell::Value if numeric => line.cell(&text, text.width(), width, side),
                    Cell::Value => {
                        let shown = self.clipped(shown(&text), width);
                        line.cell(&shown, shown.width(), width, side);
                    }
                }
            }
            line.text.push('\n');
            self.out
                .write_all(line.text.as_bytes())
                .map_err(unwritable)?;
        }
        self.out.flush().map_err(unwritable)
    }

    fn clipped(&self, text: String, width: usize) -> String {
        match self.look {
            Look::Plain => text,
            Look::Terminal { .. } => clip(text, width),
        }
    }
}

/// What a line has beside its cells.
fn frame(widths: &[usize]) -> usize {
    3 * widths.len().saturating_sub(1) + 2
}

/// The styles of a look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    header: Style,
    null: Style,
}

impl Paint {
    pub(super) fn new(look: Look) -> Self {
        match look {
            Look::Terminal { styled: true, .. } => Self {
                header: Style::new().bold(),
                null: Style::new().dimmed(),
            },
            Look::Plain | Look::Terminal { styled: false, .. } => Self {
                header: Style::new(),
                null: Style::new(),
            },
        }
    }

    pub(super) fn header(&self, text: &str) -> String {
        self.header.paint(text).to_string()
    }

    pub(super) fn null(&self) -> String {
        self.null.paint(null_text()).to_string()
    }
}

/// How NULL is shown to people. The text `NULL` is shown in quotes, so the two never look alike.
pub(super) fn null_text() -> &'static str {
    "NULL"
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// One line in the making. The padding of a left-aligned cell waits until another cell follows,
/// so that no line ends in spaces.
#[derive(Default)]
struct Line {
    text: String,
    padding: usize,
    started: bool,
}

impl Line {
    fn cell(&mut self, painted: &str, shown_width: usize, width: usize, side: Side) {
        self.text.extend(std::iter::repeat_n(' ', self.padding));
        self.text
            .push_str(match (self.started, painted.is_empty()) {
                (false, _) => " ",
                (true, false) => " | ",
                (true, true) => " |",
            });
        self.started = true;
        let padding = width.saturating_sub(shown_width);
        match side {
            Side::Left => self.padding = padding + usize::from(painted.is_empty()),
            Side::Right => {
                self.text.extend(std::iter::repeat_n(' ', padding));
                self.padding = 0;
            }
        }
        self.text.push_str(painted);
    }
}

fn visible(text: &str) -> String {
    let mut out = String::new();
    push_visible(text, &mut out);
    out
}

fn shown(text: &str) -> String {
    if text == null_text() {
        format!("'{text}'")
    } else {
        visible(text)
    }
}

/// Cuts a text to so many columns of a terminal, the last of them an ellipsis.
fn clip(text: String, width: usize) -> String {
    if text.width() <= width {
        return text;
    }
    let mut left = width.saturating_sub(1);
    let mut out = String::new();
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.width().unwrap_or(0)) else {
            break;
        };
        left = rest;
        out.push(c);
    }
    out.push(ELLIPSIS);
    out
}
