//! Numbers that JSON readers would round, as strings: integers of 64 bits and decimals.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::error::Result;
use crate::server::negotiate::{Integers, Output};

/// Rows as they are written.
pub(super) struct Exact {
    schema: SchemaRef,
    changed: bool,
}

impl Exact {
    /// The shape of rows for an output.
    pub(super) fn new(schema: &SchemaRef, output: Output) -> Self {
        let exact = match output.integers {
            Integers::Text => output.format.json(),
            Integers::Number => false,
        };
        if !exact {
            return Self {
                schema: Arc::clone(schema),
                changed: false,
            };
        }
        let fields: Vec<FieldRef> = schema.fields().iter().map(exact_field).collect();
        let changed = fields.iter().zip(schema.fields()).any(|(a, b)| a != b);
        Self {
            schema: Arc::new(Schema::new(fields)),
            changed,
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(super) fn fit(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if !self.changed {
            return Ok(batch);
        }
        let pairs = batch.columns().iter().zip(self.schema.fields());
        let columns = pairs.map(|(column, field)| Ok(cast(column, field.data_type())?));
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}

fn exact_field(field: &FieldRef) -> FieldRef {
    let data_type = exact_type(field.data_type());
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn exact_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int64
        | DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => DataType::Utf8,
        DataType::List(item) => DataType::List(exact_field(item)),
        DataType::LargeList(item) => DataType::LargeList(exact_field(item)),
        // JSON knows one kind of list, and some kinds of them cannot be cast in place.
        DataType::ListView(item) => DataType::List(exact_field(item)),
        DataType::LargeListView(item) => DataType::LargeList(exact_field(item)),
        DataType::FixedSizeList(item, length) => {
            DataType::FixedSizeList(exact_field(item), *length)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(exact_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(exact_field(entries), *sorted),
        // As its values: of a dictionary of numbers nothing but text can be made.
        DataType::Dictionary(_, value) => exact_type(value),
        DataType::RunEndEncoded(_, value) => exact_type(value.data_type()),
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Timestamp(..)
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Binary
        | DataType::FixedSizeBinary(_)
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        // The writer refuses unions.
        | DataType::Union(..) => data_type.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, DictionaryArray, FixedSizeListArray, Int32Array, Int64Array, Int64Builder,
        ListViewArray, MapArray, MapBuilder, StringBuilder,
    };
    use arrow::buffer::ScalarBuffer;

    use crate::format::{Format, IpcCodec, Look, ResultWriter};

    use super::*;

    const BIG: i64 = (1 << 53) + 1;

    fn json(column: ArrayRef) -> String {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let output = Output {
            format: Format::Ndjson,
            integers: Integers::Text,
            codec: IpcCodec::None,
        };
        let exact = Exact::new(&batch.schema(), output);
        let (mut text, schema) = (Vec::new(), exact.schema());
        let (look, codec) = (Look::Plain, IpcCodec::None);
        let writer = ResultWriter::try_new_with(Format::Ndjson, schema, look, codec, &mut text);
        let mut writer = writer.unwrap();
        writer.write(&exact.fit(batch).unwrap()).unwrap();
        writer.finish().unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn integers_of_64_bits_are_text_wherever_they_are() {
        let items = || Arc::new(Int64Array::from(vec![BIG])) as ArrayRef;
        let item = || Arc::new(Field::new("item", DataType::Int64, true));
        let one = || ScalarBuffer::from(vec![1]);
        let zero = || ScalarBuffer::from(vec![0]);
        let fixed = FixedSizeListArray::new(item(), 1, items(), None);
        let view = ListViewArray::new(item(), zero(), one(), items(), None);
        let list = format!("{{\"c\":[\"{BIG}\"]}}\n");
        let columns: [ArrayRef; 2] = [Arc::new(fixed), Arc::new(view)];
        for column in columns {
            let kind = column.data_type().to_string();
            assert_eq!(json(column), list, "{kind}");
        }
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("k");
        map.values().append_value(BIG);
        map.append(true).unwrap();
        let map: MapArray = map.finish();
        assert_eq!(
            json(Arc::new(map)),
            format!("{{\"c\":{{\"k\":\"{BIG}\"}}}}\n")
        );
        let keys = Int32Array::from(vec![0]);
        let dictionary = DictionaryArray::new(keys, items());
        assert_eq!(json(Arc::new(dictionary)), format!("{{\"c\":\"{BIG}\"}}\n"));
    }
}
