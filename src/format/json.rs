//! JSON as results are written: the frame of an array with a row per line, so that long results can
//! be read and cut by line, and numbers that JSON has none for.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, JsonFormat, NullableEncoder,
};

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

/// NULL is written as `null`: every row has every key. NaN and infinity, for which JSON has no
/// number, are the texts that Arrow and Python read back.
pub fn json_options() -> WriterBuilder {
    WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(WholeFloats))
}

/// The same for a value inside of another.
pub(super) fn nested_options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(WholeFloats))
}

#[derive(Debug)]
struct WholeFloats;

impl EncoderFactory for WholeFloats {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        if !array.data_type().is_floating() {
            return Ok(None);
        }
        let wide = cast(array, &DataType::Float64)?;
        let wide: Float64Array = wide.as_primitive::<Float64Type>().clone();
        if wide.values().iter().all(|value| value.is_finite()) {
            return Ok(None);
        }
        let shorter = matches!(array.data_type(), DataType::Float32);
        let nulls = wide.nulls().cloned();
        let encoder = Floats { wide, shorter };
        Ok(Some(NullableEncoder::new(Box::new(encoder), nulls)))
    }
}

/// A column that has a value without a number in JSON.
struct Floats {
    wide: Float64Array,
    shorter: bool,
}

impl Encoder for Floats {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.wide.value(row);
        let text = match (value.is_finite(), self.shorter) {
            (true, false) => format!("{value:?}"),
            // It was one, so it comes back whole.
            (true, true) => format!("{:?}", value as f32),
            (false, _) if value.is_nan() => "\"NaN\"".to_owned(),
            (false, _) if value > 0.0 => "\"Infinity\"".to_owned(),
            (false, _) => "\"-Infinity\"".to_owned(),
        };
        // As Arrow writes the columns that go without this: 1.0e300.
        let text = match text.contains('.') {
            true => text,
            false => text.replacen('e', ".0e", 1),
        };
        out.extend_from_slice(text.as_bytes());
    }
}
