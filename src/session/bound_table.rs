//! Rows that come with a statement, as a table of that statement alone.
//!
//! Invariants: the rows are in memory, and whoever brings them has bounded them; such a table
//! never hides one of the store; nothing that outlives the statement names it.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use crate::error::{Code, Error, Result};
use crate::model::state::State;
use crate::session::definitions::check_name;
use crate::session::statement::Statement;

/// The name of the rows of [`INSERT`](crate::session::Session) statements that the program makes
/// itself. Nobody can give it to a table.
pub const INPUT: &str = "$input";

/// A table of one statement.
#[derive(Debug, Clone)]
pub struct BoundTable {
    name: Arc<str>,
    rows: usize,
    digest: [u8; 32],
    table: Arc<MemTable>,
}

impl BoundTable {
    /// A table under a name that a user chose.
    ///
    /// # Arguments
    /// `digest`: the SHA-256 of the bytes that the rows came in. It stands in the statement's text,
    /// so that a repetition with other rows is another statement.
    ///
    /// # Errors
    /// `SG2004 invalid-definition` for the name, `SG2003 already-exists` for that of a system
    /// table; `SG1002 plan-error` where two columns have one name.
    pub fn try_new(
        name: &str,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        digest: [u8; 32],
    ) -> Result<Self> {
        check_name("bound table", name)?;
        Self::named(name, schema, batches, digest)
    }

    /// The same under the name [`INPUT`].
    ///
    /// # Errors
    /// `SG1002 plan-error` where two columns have one name.
    pub fn input(schema: &SchemaRef, batches: &[RecordBatch], digest: [u8; 32]) -> Result<Self> {
        Self::named(INPUT, schema, batches, digest)
    }

    fn named(
        name: &str,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        digest: [u8; 32],
    ) -> Result<Self> {
        let mut names = HashSet::new();
        for field in schema.fields() {
            if !names.insert(field.name()) {
                return Err(Error::new(
                    Code::PlanError,
                    format!(
                        "bound table \"{name}\" has two columns \"{}\"",
                        field.name()
                    ),
                )
                .with_hint("Give every column a name of its own."));
            }
        }
        let plain = plain(schema);
        let fit = |batch: &RecordBatch| -> Result<RecordBatch> {
            let columns = batch.columns().iter().zip(plain.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            Ok(RecordBatch::try_new(Arc::clone(&plain), columns)?)
        };
        let batches = batches.iter().map(fit).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: name.into(),
            rows: batches.iter().map(RecordBatch::num_rows).sum(),
            digest,
            table: Arc::new(MemTable::try_new(plain, vec![batches])?),
        })
    }

    pub(super) fn provider(&self) -> (String, Arc<dyn TableProvider>) {
        let table: Arc<dyn TableProvider> = Arc::clone(&self.table) as _;
        (self.name.to_string(), table)
    }

    /// What the text of the statement says of it.
    pub(super) fn note(&self) -> String {
        let mut note = format!("-- table {}: {} rows, sha256 ", self.name, self.rows);
        for byte in self.digest {
            // Writing to a String cannot fail.
            let _ = write!(note, "{byte:02x}");
        }
        note
    }
}

/// The columns with one type for texts, which is that of all our tables. What describes the
/// whole, such as the index of a data frame, says nothing about a result made from it.
fn plain(schema: &Schema) -> SchemaRef {
    let plain = |field: &Field| match field.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => field.clone().with_data_type(DataType::Utf8),
        _ => field.clone(),
    };
    let fields: Vec<Field> = schema.fields().iter().map(|field| plain(field)).collect();
    Arc::new(Schema::new(fields))
}

/// Refuses bound tables where a statement would keep their names.
///
/// # Errors
/// `SG1005 unsupported-statement`; `SG1002 plan-error` for two of one name.
pub(super) fn check_use(tables: &[BoundTable], statement: &Statement) -> Result<()> {
    for (at, table) in tables.iter().enumerate() {
        if tables.iter().take(at).any(|other| other.name == table.name) {
            return Err(Error::new(
                Code::PlanError,
                format!("bound table \"{}\" is there twice", table.name),
            )
            .with_hint("Give every table of a request a name of its own."));
        }
    }
    let Some(first) = tables.first() else {
        return Ok(());
    };
    match statement {
        Statement::Query(_)
        | Statement::Effect(_)
        | Statement::Preview(_)
        | Statement::Call(_)
        | Statement::Insert { .. }
        | Statement::Update { .. }
        | Statement::Delete { .. }
        | Statement::Explain { .. }
        | Statement::Describe(_)
        | Statement::Copy(_) => Ok(()),
        Statement::Truncate { .. }
        | Statement::CreateTable { .. }
        | Statement::CreateView { .. }
        | Statement::CreateExternalTable { .. }
        | Statement::CreateTransform(_)
        | Statement::Drop { .. }
        | Statement::Set(_)
        | Statement::Show(_)
        | Statement::ShowCreate(_)
        | Statement::Prepare(_)
        | Statement::Execute(_)
        | Statement::Transaction(_)
        | Statement::Checkpoint
        | Statement::Other(_) => Err(Error::new(
            Code::Unsupported,
            format!(
                "bound table \"{}\" has no use in this statement",
                first.name
            ),
        )
        .with_detail("A bound table is gone when its statement has ended.")
        .with_hint("Use it in queries, effects, INSERT, REPLACE, UPDATE and DELETE.")),
    }
}

/// Refuses bound tables that would hide one of the store.
///
/// # Errors
/// `SG2003 already-exists`.
pub(super) fn check_names(tables: &[BoundTable], state: &State) -> Result<()> {
    for BoundTable { name, .. } in tables {
        if let Some(kind) = state.name_in_use(name) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("bound table \"{name}\" has the name of a {kind}"),
            )
            .with_hint("Send it under another name."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, LargeStringArray};

    use super::*;

    fn batch(names: [&str; 2]) -> RecordBatch {
        let text = LargeStringArray::from(vec!["a", "b"]);
        let schema = Schema::new(vec![
            Field::new(names[0], DataType::LargeUtf8, true),
            Field::new(names[1], DataType::Int64, true),
        ]);
        let columns = vec![
            Arc::new(text) as _,
            Arc::new(Int64Array::from(vec![1, 2])) as _,
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn texts_become_the_one_type_that_tables_have() {
        let batch = batch(["id", "n"]);
        let table = BoundTable::try_new("picked", &batch.schema(), &[batch], [7; 32]).unwrap();
        let types: Vec<DataType> = table
            .table
            .schema()
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(types, [DataType::Utf8, DataType::Int64]);
        assert!(
            table
                .note()
                .starts_with("-- table picked: 2 rows, sha256 0707"),
            "{}",
            table.note()
        );
    }

    #[test]
    fn names_are_plain_and_no_columns_twice() {
        let twice = batch(["id", "id"]);
        let error = BoundTable::try_new("a", &twice.schema(), &[], [0; 32]).unwrap_err();
        assert_eq!(error.code(), Code::PlanError);
        let once = batch(["id", "n"]).schema();
        for (name, code) in [
            ("", Code::InvalidDefinition),
            ("a b", Code::InvalidDefinition),
            ("a\"b", Code::InvalidDefinition),
            ("../a", Code::InvalidDefinition),
            ("$input", Code::InvalidDefinition),
            ("jobs", Code::AlreadyExists),
        ] {
            let error = BoundTable::try_new(name, &once, &[], [0; 32]).unwrap_err();
            assert_eq!(error.code(), code, "{name}");
        }
    }
}
