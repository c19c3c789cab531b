//! Brings batches into the shape that a format can carry: timestamps in UTC, names unique.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::unwritable;
use crate::error::Result;

/// UTC as an offset: needs no time zone tables.
const UTC: &str = "+00:00";

/// The schema that batches are brought to before they are written.
pub(super) struct Shape {
    schema: SchemaRef,
    changed: bool,
}

impl Shape {
    /// Columns as they are.
    pub(super) fn same(schema: &SchemaRef) -> Self {
        Self {
            schema: Arc::clone(schema),
            changed: false,
        }
    }

    /// Every timestamp, also inside lists and structs, at offset zero: the same moments, printed
    /// with `Z`. A timestamp without a zone is taken as UTC, as everywhere in a store.
    pub(super) fn utc(schema: &SchemaRef) -> Self {
        let fields: Vec<FieldRef> = schema.fields().iter().map(utc_field).collect();
        let changed = fields.iter().zip(schema.fields()).any(|(a, b)| a != b);
        Self {
            schema: Arc::new(Schema::new(fields)),
            changed,
        }
    }

    /// Numbers the columns whose name came before: a JSON object would lose them, and Parquet
    /// readers cannot tell them apart.
    pub(super) fn with_unique_names(self) -> Self {
        let mut seen = HashSet::new();
        let mut changed = self.changed;
        let taken: HashSet<String> = self
            .schema
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect();
        let mut fields = Vec::new();
        for field in self.schema.fields() {
            let mut name = field.name().clone();
            let mut n = 2;
            while !seen.insert(name.clone()) {
                name = format!("{}_{n}", field.name());
                while taken.contains(&name) {
                    n += 1;
                    name = format!("{}_{n}", field.name());
                }
                n += 1;
            }
            changed |= name != *field.name();
            fields.push(Arc::new(field.as_ref().clone().with_name(name)));
        }
        Self {
            schema: Arc::new(Schema::new(fields)),
            changed,
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The batch in this shape.
    pub(super) fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if !self.changed {
            return Ok(batch.clone());
        }
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(Arc::clone(column))
                } else {
                    cast(column, field.data_type())
                }
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(unwritable)?;
        RecordBatch::try_new(self.schema(), columns).map_err(unwritable)
    }
}

fn utc_field(field: &FieldRef) -> FieldRef {
    Arc::new(
        field
            .as_ref()
            .clone()
            .with_data_type(utc_type(field.data_type())),
    )
}

/// The type with its timestamps in UTC. Types that hold no timestamps, or that cannot be cast
/// inside, stay as they are.
fn utc_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(item) => DataType::List(utc_field(item)),
        DataType::LargeList(item) => DataType::LargeList(utc_field(item)),
        DataType::FixedSizeList(item, n) => DataType::FixedSizeList(utc_field(item), *n),
        DataType::Map(entries, sorted) => DataType::Map(utc_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(utc_field).collect()),
        other => other.clone(),
    }
}

/// Whether people read such values from the right.
pub(super) fn numeric(field: &Field) -> bool {
    field.data_type().is_numeric()
}
