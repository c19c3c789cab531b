//! Columns with their texts, and the arrays that tables are made of.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, ListBuilder, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::model::columns::time_type;
use crate::time::Timestamp;

/// The type of a system table's column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// BIGINT.
    Int,
    /// TEXT.
    Text,
    /// TIMESTAMP in UTC, microseconds.
    Time,
    /// BOOLEAN.
    Bool,
    /// A list of TEXT.
    TextList,
}

impl ColumnType {
    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Text => DataType::Utf8,
            Self::Time => time_type(),
            Self::Bool => DataType::Boolean,
            Self::TextList => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        }
    }
}

/// A column of a system table, as the reference shows it.
#[derive(Debug, Clone, Copy)]
pub struct ColumnDoc {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub column_type: ColumnType,
    /// What it means.
    pub doc: &'static str,
}

/// The schema of some columns; all are nullable.
pub fn schema_of(columns: &[ColumnDoc]) -> SchemaRef {
    let fields = columns
        .iter()
        .map(|column| Field::new(column.name, column.column_type.data_type(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// BIGINTs.
pub fn ints(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let clamped = values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    Arc::new(clamped.collect::<Int64Array>())
}

/// TEXTs.
pub fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// BOOLEANs.
pub fn bools(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<BooleanArray>())
}

/// TIMESTAMPs; zero stands for NULL.
pub fn times(values: impl Iterator<Item = Timestamp>) -> ArrayRef {
    let micros = values.map(|time| (time != Timestamp(0)).then_some(time.0));
    Arc::new(
        micros
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("UTC"),
    )
}

/// Lists of TEXT.
pub fn text_lists<'a>(values: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for list in values {
        for text in list {
            builder.values().append_value(text);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}
