//! What a store needs for procurement notices: tables, codes, mapping suites, views, and the
//! transform `normalise`, as statements for any store.
//!
//! The rules stand in `sql/ted/`, the codes in `data/ted/`. The codes go into plain tables, so
//! that an operator can look at them and correct them with SQL.

use std::fmt::Write;

use crate::error::{Error, Result};
use crate::session::names::literal;
use crate::session::split_statements;

/// The transform `normalise`.
pub const NORMALISE_SQL: &str = include_str!("../../sql/ted/normalise.sql");

/// The tables `notices`, `ted_codes`, `ted_subtypes`, `ted_standard_forms` and
/// `mapping_suites`.
pub const SCHEMA_SQL: &str = include_str!("../../sql/ted/schema.sql");

/// The views `mapping_suite_matches` and `eligible_notices`.
pub const ELIGIBILITY_SQL: &str = include_str!("../../sql/ted/eligibility.sql");

/// The mapping suites: one row per suite, suite version, subtype and version range.
pub const MAPPING_SUITES_CSV: &str = include_str!("../../data/ted/mapping_suites.csv");

const CODES_CSV: &str = include_str!("../../data/ted/codes.csv");
const SUBTYPES_CSV: &str = include_str!("../../data/ted/subtypes.csv");
const STANDARD_FORMS_CSV: &str = include_str!("../../data/ted/standard_forms.csv");

/// The statements that make a store ready for notices, to be run in their order.
///
/// # Guarantees
/// They may be run again: tables are kept; codes, suites, views and the transform are replaced.
///
/// # Errors
/// `SG9001 bug`: the material that is compiled in is broken.
pub fn setup_statements() -> Result<Vec<String>> {
    let mut statements: Vec<String> = split_statements(SCHEMA_SQL)?
        .into_iter()
        .map(|statement| statement.text)
        .collect();
    statements.push(replace_into("ted_codes", CODES_CSV, Some(&[0, 1]))?);
    statements.push(replace_into("ted_subtypes", SUBTYPES_CSV, None)?);
    statements.push(replace_into(
        "ted_standard_forms",
        STANDARD_FORMS_CSV,
        Some(&[0, 1, 2]),
    )?);
    statements.push(replace_into(
        "mapping_suites",
        MAPPING_SUITES_CSV,
        Some(&[0, 1, 3, 4, 5]),
    )?);
    for script in [NORMALISE_SQL, ELIGIBILITY_SQL] {
        statements.extend(split_statements(script)?.into_iter().map(|one| one.text));
    }
    Ok(statements)
}

/// A statement with the rows of a CSV file without quotes; an empty field is NULL.
///
/// # Arguments
/// `key`: the fields that a first column joins with slashes. A key is a path, which has no empty
/// part: `*` stands for an empty field.
fn replace_into(table: &str, csv: &str, key: Option<&[usize]>) -> Result<String> {
    let mut lines = csv.lines();
    let columns = lines.next().unwrap_or_default().split(',').count();
    let mut sql = format!("REPLACE INTO {table} VALUES");
    for (row, line) in lines.enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != columns {
            return Err(Error::bug(format!(
                "row {row} of the rows of {table}: {line}"
            )));
        }
        let part = |at: &usize| match fields.get(*at).copied() {
            None | Some("") => "*",
            Some(field) => field,
        };
        let key = key.map(|key| key.iter().map(part).collect::<Vec<_>>().join("/"));
        let values = key.as_deref().into_iter().chain(fields.iter().copied());
        let values = values.map(|value| match value {
            "" => "NULL".to_owned(),
            value => literal(value),
        });
        let comma = if row == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(sql, "{comma}\n({})", values.collect::<Vec<_>>().join(", "));
    }
    Ok(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_with_their_keys_and_nulls() {
        let sql = replace_into("t", "a,b\nx,\ny,it's\n", Some(&[0, 1])).unwrap();
        let expected = "REPLACE INTO t VALUES\n('x/*', 'x', NULL),\n('y/it''s', 'y', 'it''s')";
        assert_eq!(sql, expected);
        assert!(replace_into("t", "a,b\nx\n", None).is_err());
    }

    #[test]
    fn forms_fit_one_subtype_at_most() {
        // Within a form either all rows or none count on a column.
        let rows: Vec<Vec<&str>> = STANDARD_FORMS_CSV
            .lines()
            .skip(1)
            .map(|line| line.split(',').collect())
            .collect();
        for one in &rows {
            for other in rows.iter().filter(|other| other[0] == one[0]) {
                for column in [1, 2] {
                    assert_eq!(one[column].is_empty(), other[column].is_empty(), "{one:?}");
                }
            }
        }
    }
}
