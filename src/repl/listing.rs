//! Tables, columns and functions as rows, for `\d`, `\dt` and `\df`. Pure: it reads names.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::DataType;

use crate::error::{Code, Error, Result, nearest};
use crate::model::columns::Column;
use crate::session::reference::sql_type;
use crate::session::{Names, TableName};
use crate::tables::operations;
use crate::tables::source_table::SystemColumn;

/// The tables as rows.
///
/// # Errors
/// SG9001 bug only.
pub fn tables(names: &Names) -> Result<RecordBatch> {
    rows(
        &["name", "kind", "columns"],
        names.tables.iter().map(|table| {
            [
                table.name.clone(),
                table.kind.clone(),
                table.columns.len().to_string(),
            ]
        }),
    )
}

/// The columns of a table as rows: their types in SQL, and what they mean.
///
/// # Errors
/// SG2001 unknown-object.
pub fn columns(names: &Names, name: &str) -> Result<RecordBatch> {
    let table = find(names, name)?;
    rows(
        &["column", "type", "meaning"],
        table
            .columns
            .iter()
            .map(|(column, kind)| [column.clone(), in_sql(kind), meaning(table, column)]),
    )
}

/// The table of a name, whose letters may be large or small.
///
/// # Errors
/// SG2001 unknown-object.
pub fn find<'n>(names: &'n Names, name: &str) -> Result<&'n TableName> {
    let tables = || names.tables.iter();
    let exact = tables().find(|table| table.name == name);
    let found = exact.or_else(|| tables().find(|table| table.name.eq_ignore_ascii_case(name)));
    found.ok_or_else(|| {
        let error = Error::new(
            Code::UnknownObject,
            format!("table \"{name}\" does not exist"),
        );
        match nearest(name, tables().map(|table| table.name.as_str())) {
            Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
            None => error.with_hint("Type \\dt for the tables, or \\df for the functions."),
        }
    })
}

/// The name in SQL of a type that is named as Arrow does.
fn in_sql(kind: &str) -> String {
    match kind.parse::<DataType>() {
        Ok(data_type) => sql_type(&data_type),
        Err(_) => kind.to_owned(),
    }
}

/// What a column means; nothing where only its users know.
fn meaning(table: &TableName, column: &str) -> String {
    let known = |name: &str| {
        let mut columns = operations::columns_of(name)?.iter();
        columns.find(|one| one.name == column).map(|one| one.doc)
    };
    let found = match table.kind.as_str() {
        "source table" if table.key.as_deref() == Some(column) => Some("The primary key."),
        "source table" => SystemColumn::named(column).map(SystemColumn::doc),
        "system table" if table.name == "events" => {
            let mut columns = Column::ALL.iter();
            let found = columns.find(|one| one.name() == column);
            found.map(|one| one.doc())
        }
        "system table" => known(&table.name),
        // They are made of events, mostly those of jobs.
        "system view" => known("jobs"),
        _ => None,
    };
    found.unwrap_or_default().to_owned()
}

/// The functions whose name matches, as rows.
///
/// # Errors
/// SG9001 bug only.
pub fn functions(names: &Names, pattern: Option<&str>) -> Result<RecordBatch> {
    let chosen = names
        .functions
        .iter()
        .filter(|function| pattern.is_none_or(|pattern| matches(pattern, &function.name)));
    rows(
        &["name", "signature", "description"],
        chosen.map(|function| {
            let description = function.description.lines().next().unwrap_or_default();
            [
                function.name.clone(),
                function.signature.clone(),
                description.to_owned(),
            ]
        }),
    )
}

/// Whether a name holds the pattern, or fits it where the pattern has a `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_lowercase(), name.to_lowercase());
    let Some((head, tail)) = pattern.split_once('*') else {
        return name.contains(&pattern);
    };
    let Some(mut rest) = name.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let Some(last) = parts.pop() else { return true };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn rows<const N: usize>(
    names: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<RecordBatch> {
    let rows: Vec<[String; N]> = rows.collect();
    let column = |i: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            rows.iter().filter_map(|row| row.get(i)),
        ))
    };
    RecordBatch::try_from_iter(names.iter().enumerate().map(|(i, name)| (*name, column(i))))
        .map_err(|error| Error::bug(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_sql_does() {
        for (kind, expected) in [
            ("Utf8", "TEXT"),
            ("Int64", "BIGINT"),
            ("Timestamp(\u{b5}s, \"UTC\")", "TIMESTAMP"),
            ("Timestamp(ns)", "TIMESTAMP"),
            ("Dictionary(Int32, Utf8)", "TEXT"),
            ("List(Utf8)", "TEXT[]"),
            ("List(non-null Int64)", "BIGINT[]"),
            ("Decimal128(10, 2)", "DECIMAL(10, 2)"),
            ("Date32", "DATE"),
            ("Float64", "DOUBLE"),
            ("Interval(MonthDayNano)", "INTERVAL"),
            ("something", "something"),
        ] {
            assert_eq!(in_sql(kind), expected, "{kind}");
        }
    }

    #[test]
    fn patterns_are_parts_unless_they_have_a_star() {
        for (pattern, name, expected) in [
            ("job", "schedule_job", true),
            ("JOB", "schedule_job", true),
            ("job*", "schedule_job", false),
            ("*job", "schedule_job", true),
            ("s*e*job", "schedule_job", true),
            ("s*x*job", "schedule_job", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
