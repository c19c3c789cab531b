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
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(exact_field).collect()),
        other => other.clone(),
    }
}
