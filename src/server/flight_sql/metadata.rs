//! What a store has, as the commands of Flight SQL ask for it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTableTypes,
    CommandGetTables, Nullable, Searchable, SqlInfo, SqlSupportedCaseSensitivity,
    SqlSupportedTransaction, XdbcDataType,
};

use crate::error::{Error, Result};
use crate::server::App;
use crate::session::{Access, TableName};

/// The one catalog and its one schema.
const CATALOG: &str = "datafusion";
const SCHEMA: &str = "public";

/// What a table can be; those of other databases first.
const TABLE_TYPES: [&str; 5] = [
    "TABLE",
    "VIEW",
    "EXTERNAL TABLE",
    "SYSTEM TABLE",
    "SYSTEM VIEW",
];

fn table_type(kind: &str) -> &'static str {
    match kind {
        "view" => "VIEW",
        "external table" => "EXTERNAL TABLE",
        "system table" => "SYSTEM TABLE",
        "system view" => "SYSTEM VIEW",
        _ => "TABLE",
    }
}

fn unmade(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::bug("metadata does not fit its columns").with_source(error)
}

/// `rows = 1, columns = (catalog_name: Utf8)`
pub(super) fn catalogs(query: CommandGetCatalogs) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    builder.append(CATALOG);
    builder.build().map_err(unmade)
}

/// `columns = (catalog_name: Utf8, db_schema_name: Utf8)`
pub(super) fn schemas(query: CommandGetDbSchemas) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    builder.append(CATALOG, SCHEMA);
    builder.build().map_err(unmade)
}

/// Tables and views, with their columns where they are asked for. A view that cannot be planned
/// has none.
pub(super) fn tables(query: CommandGetTables, tables: &[TableName]) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    for TableName {
        name, kind, schema, ..
    } in tables
    {
        let empty = Schema::empty();
        let schema = schema.as_deref().unwrap_or(&empty);
        builder
            .append(CATALOG, SCHEMA, name, table_type(kind), schema)
            .map_err(unmade)?;
    }
    builder.build().map_err(unmade)
}

/// `columns = (table_type: Utf8)`
pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    for name in TABLE_TYPES {
        builder.append(name);
    }
    builder.build().map_err(unmade)
}

/// The columns of [`primary_keys`].
pub(super) fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// The key of a source table; nothing for any other table.
pub(super) fn primary_keys(
    query: &CommandGetPrimaryKeys,
    tables: &[TableName],
) -> Result<RecordBatch> {
    let here = query.catalog.as_deref().is_none_or(|name| name == CATALOG)
        && query.db_schema.as_deref().is_none_or(|name| name == SCHEMA);
    let table = tables
        .iter()
        .find(|table| here && table.name == query.table);
    let key = table.and_then(|table| table.key.as_deref());
    let text =
        |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from_iter(value.map(Some))) };
    let columns: Vec<ArrayRef> = vec![
        text(key.map(|_| CATALOG)),
        text(key.map(|_| SCHEMA)),
        text(key.map(|_| query.table.as_str())),
        text(key),
        Arc::new(StringArray::from_iter(key.map(|_| None::<&str>))),
        Arc::new(Int32Array::from_iter(key.map(|_| Some(1)))),
    ];
    Ok(RecordBatch::try_new(primary_keys_schema(), columns)?)
}

/// The columns of exported, imported and crossing keys, of which a store has none.
pub(super) fn foreign_keys_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// What the server is and does.
pub(super) fn sql_info(app: &App) -> Result<SqlInfoData> {
    let timeout = app.limits().statement_timeout.as_millis();
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Sluicegate");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    let read_only = app.options.access == Access::ReadOnly;
    info.append(SqlInfo::FlightSqlServerReadOnly, read_only);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    let none = SqlSupportedTransaction::None as i32;
    info.append(SqlInfo::FlightSqlServerTransaction, none);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let timeout = i32::try_from(timeout).unwrap_or(i32::MAX);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, timeout);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0);
    let lower = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    info.append(SqlInfo::SqlIdentifierCase, lower);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.build().map_err(unmade)
}

/// The types of columns, as CREATE TABLE names them.
pub(super) fn types() -> Result<XdbcTypeInfoData> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, size, quote, case_sensitive) in [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1, None, false),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 16, None, false),
        ("INTEGER", XdbcDataType::XdbcInteger, 32, None, false),
        ("BIGINT", XdbcDataType::XdbcBigint, 64, None, false),
        ("REAL", XdbcDataType::XdbcReal, 24, None, false),
        ("DOUBLE", XdbcDataType::XdbcDouble, 53, None, false),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38, None, false),
        ("TEXT", XdbcDataType::XdbcVarchar, i32::MAX, Some("'"), true),
        (
            "BYTEA",
            XdbcDataType::XdbcVarbinary,
            i32::MAX,
            Some("X'"),
            false,
        ),
        ("DATE", XdbcDataType::XdbcDate, 10, Some("DATE '"), false),
        (
            "TIMESTAMP",
            XdbcDataType::XdbcTimestamp,
            26,
            Some("TIMESTAMP '"),
            false,
        ),
    ] {
        builder.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size: Some(size),
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(|_| "'".to_owned()),
            create_params: (name == "DECIMAL")
                .then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive,
            searchable: Searchable::Full,
            unsigned_attribute: Some(false),
            sql_data_type: data_type,
            ..XdbcTypeInfo::default()
        });
    }
    builder.build().map_err(unmade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, kind: &str, key: Option<&str>) -> TableName {
        TableName {
            name: name.to_owned(),
            kind: kind.to_owned(),
            columns: Vec::new(),
            schema: None,
            key: key.map(str::to_owned),
        }
    }

    #[test]
    fn a_source_table_has_its_key() {
        let tables = [
            table("notices", "source table", Some("id")),
            table("v", "view", None),
        ];
        for (name, catalog, rows) in [
            ("notices", None, 1),
            ("notices", Some("datafusion"), 1),
            ("notices", Some("other"), 0),
            ("v", None, 0),
            ("nothing", None, 0),
        ] {
            let query = CommandGetPrimaryKeys {
                catalog: catalog.map(str::to_owned),
                db_schema: None,
                table: name.to_owned(),
            };
            let keys = primary_keys(&query, &tables).unwrap();
            assert_eq!(keys.num_rows(), rows, "{name} {catalog:?}");
        }
    }

    #[test]
    fn every_kind_of_table_is_a_listed_type() {
        for kind in [
            "source table",
            "view",
            "external table",
            "system table",
            "system view",
        ] {
            assert!(TABLE_TYPES.contains(&table_type(kind)), "{kind}");
        }
        assert_eq!(types().unwrap().record_batch(None).unwrap().num_rows(), 11);
    }
}
