//! CREATE TABLE, CREATE VIEW and CREATE EXTERNAL TABLE.

use datafusion::sql::parser::CreateExternalTable;
use datafusion::sql::sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, CreateView, IndexColumn,
    PrimaryKeyConstraint, Spanned, TableConstraint,
};

use super::{Checked, Clauses, Place, absent, refused};

const NOT_KEPT: &str = "Leave it out; the table would not keep it.";
const CHECK_BY_SQL: &str = "Leave it out, and find such rows with a SELECT.";

impl Clauses<'_> {
    pub(super) fn create_table(&self, create: &CreateTable) -> Checked {
        let CreateTable {
            // Honoured.
            or_replace,
            if_not_exists,
            name,
            columns,
            constraints,
            query,
            table_options,
            hive_formats,
            like,
            clone,
            primary_key,
            // Refused with their names.
            temporary,
            location,
            comment,
            order_by,
            partition_by,
            cluster_by,
            // Refused by `plain` below, all together.
            external: _,
            dynamic: _,
            global: _,
            transient: _,
            volatile: _,
            iceberg: _,
            snapshot: _,
            hive_distribution: _,
            file_format: _,
            without_rowid: _,
            version: _,
            on_commit: _,
            on_cluster: _,
            clustered_by: _,
            inherits: _,
            partition_of: _,
            for_values: _,
            strict: _,
            copy_grants: _,
            enable_schema_evolution: _,
            change_tracking: _,
            data_retention_time_in_days: _,
            max_data_extension_time_in_days: _,
            default_ddl_collation: _,
            with_aggregation_policy: _,
            with_row_access_policy: _,
            with_storage_lifecycle_policy: _,
            with_tags: _,
            external_volume: _,
            base_location: _,
            catalog: _,
            catalog_sync: _,
            storage_serialization_policy: _,
            target_lag: _,
            warehouse: _,
            refresh_mode: _,
            initialize: _,
            require_user: _,
            diststyle: _,
            distkey: _,
            sortkey: _,
            backup: _,
        } = create;
        let near = || name.span();
        match table_options {
            CreateTableOptions::None => {}
            CreateTableOptions::With(_)
            | CreateTableOptions::Options(_)
            | CreateTableOptions::Plain(_)
            | CreateTableOptions::TableProperties(_) => {
                return Err(refused("option of the table", near, NOT_KEPT));
            }
        }
        if let Some(formats) = hive_formats {
            let set = formats.row_format.is_some()
                || formats.serde_properties.is_some()
                || formats.storage.is_some()
                || formats.location.is_some();
            absent(
                set,
                "STORED AS",
                near,
                "Write CREATE EXTERNAL TABLE for files.",
            )?;
        }
        let hint = "Leave it out; a source table has columns, a key, and what the system keeps.";
        absent(*temporary, "TEMPORARY", near, "Use WITH, or CREATE VIEW.")?;
        let files = "Write CREATE EXTERNAL TABLE for files.";
        absent(location.is_some(), "LOCATION", near, files)?;
        absent(comment.is_some(), "COMMENT", near, hint)?;
        absent(order_by.is_some(), "ORDER BY", near, hint)?;
        absent(partition_by.is_some(), "PARTITION BY", near, hint)?;
        absent(cluster_by.is_some(), "CLUSTER BY", near, hint)?;
        absent(
            like.is_some(),
            "LIKE",
            near,
            "Write the columns out; \\d t shows them.",
        )?;
        absent(
            clone.is_some(),
            "CLONE",
            near,
            "Write the columns out; \\d t shows them.",
        )?;
        absent(
            primary_key.is_some(),
            "PRIMARY KEY behind the columns",
            near,
            "Write it among the columns: (id TEXT, PRIMARY KEY (id)).",
        )?;
        let plain = CreateTableBuilder::new(name.clone())
            .or_replace(*or_replace)
            .if_not_exists(*if_not_exists)
            .columns(columns.clone())
            .constraints(constraints.clone())
            .hive_formats(hive_formats.clone())
            .query(query.clone())
            .build();
        absent(
            plain != *create,
            "one of the clauses of CREATE TABLE",
            near,
            hint,
        )?;
        columns.iter().try_for_each(|column| self.column(column))?;
        constraints
            .iter()
            .try_for_each(|one| constraint(one, near))?;
        query.as_ref().map_or(Ok(()), |query| self.query(query))
    }

    fn column(&self, column: &ColumnDef) -> Checked {
        let ColumnDef {
            name,
            data_type: _, // Planned.
            options,
        } = column;
        let near = || name.span;
        for option in options {
            // The name of a constraint says nothing.
            match &option.option {
                ColumnOption::Null | ColumnOption::NotNull => {}
                ColumnOption::PrimaryKey(key) => primary_key(key, near)?,
                // Refused where the table is made, with what to do in its place.
                ColumnOption::Default(_) | ColumnOption::Unique(_) => {}
                ColumnOption::Generated { .. } => {
                    return Err(refused(
                        "GENERATED",
                        near,
                        "Make a view with the expression.",
                    ));
                }
                ColumnOption::Materialized(_) => {
                    return Err(refused(
                        "MATERIALIZED",
                        near,
                        "Make a view with the expression.",
                    ));
                }
                ColumnOption::Ephemeral(_) => return Err(refused("EPHEMERAL", near, NOT_KEPT)),
                ColumnOption::Alias(_) => {
                    return Err(refused("ALIAS", near, "Make a view with the expression."));
                }
                ColumnOption::ForeignKey(_) => {
                    return Err(refused("REFERENCES", near, CHECK_BY_SQL));
                }
                ColumnOption::Check(_) => return Err(refused("CHECK", near, CHECK_BY_SQL)),
                ColumnOption::DialectSpecific(tokens) => {
                    let words: Vec<String> = tokens.iter().map(ToString::to_string).collect();
                    return Err(refused(
                        words.join(" "),
                        near,
                        "Give every row its own key.",
                    ));
                }
                ColumnOption::CharacterSet(_) => {
                    return Err(refused("CHARACTER SET", near, "Texts are UTF-8."));
                }
                ColumnOption::Collation(_) => {
                    return Err(refused(
                        "COLLATE",
                        near,
                        "Texts compare by their code points.",
                    ));
                }
                ColumnOption::Comment(_) => return Err(refused("COMMENT", near, NOT_KEPT)),
                ColumnOption::OnUpdate(_) => {
                    return Err(refused(
                        "ON UPDATE",
                        near,
                        "Column status_at and table events tell when a row changed.",
                    ));
                }
                ColumnOption::Options(_) => return Err(refused("OPTIONS", near, NOT_KEPT)),
                ColumnOption::Identity(_) => {
                    return Err(refused("IDENTITY", near, "Give every row its own key."));
                }
                ColumnOption::OnConflict(_) => return Err(refused("ON CONFLICT", near, NOT_KEPT)),
                ColumnOption::Policy(_) => return Err(refused("POLICY", near, NOT_KEPT)),
                ColumnOption::Tags(_) => return Err(refused("TAG", near, NOT_KEPT)),
                ColumnOption::Srid(_) => return Err(refused("SRID", near, NOT_KEPT)),
                ColumnOption::Invisible => return Err(refused("INVISIBLE", near, NOT_KEPT)),
            }
        }
        Ok(())
    }

    pub(super) fn create_view(&self, create: &CreateView) -> Checked {
        let CreateView {
            or_alter,
            or_replace: _,
            materialized: _, // Refused as another kind of statement.
            secure,
            name,
            name_before_not_exists,
            columns,
            query,
            options,
            cluster_by,
            comment,
            with_no_schema_binding,
            if_not_exists: _,
            temporary: _, // Refused where the view is made.
            copy_grants,
            to,
            params,
        } = create;
        let near = || name.span();
        absent(*or_alter, "OR ALTER", near, "Write OR REPLACE.")?;
        absent(*secure, "SECURE", near, NOT_KEPT)?;
        absent(
            *name_before_not_exists,
            "IF NOT EXISTS",
            near,
            "Write it before the name.",
        )?;
        for column in columns {
            absent(
                column.data_type.is_some() || column.options.is_some(),
                "type of a column",
                || column.name.span,
                "Write CAST in the SELECT list.",
            )?;
        }
        absent(
            !matches!(options, CreateTableOptions::None),
            "WITH",
            near,
            NOT_KEPT,
        )?;
        absent(!cluster_by.is_empty(), "CLUSTER BY", near, NOT_KEPT)?;
        absent(comment.is_some(), "COMMENT", near, NOT_KEPT)?;
        absent(
            *with_no_schema_binding,
            "WITH NO SCHEMA BINDING",
            near,
            NOT_KEPT,
        )?;
        absent(*copy_grants, "COPY GRANTS", near, NOT_KEPT)?;
        absent(
            to.is_some(),
            "TO",
            near,
            "Use INSERT INTO ... SELECT from the view.",
        )?;
        absent(params.is_some(), "parameter of the view", near, NOT_KEPT)?;
        self.query(query)
    }

    pub(super) fn external_table(&self, create: &CreateExternalTable) -> Checked {
        let CreateExternalTable {
            name,
            columns,
            file_type: _,            // Which reader.
            locations: _,            // Which files.
            table_partition_cols: _, // Planned.
            order_exprs: _,          // What the files promise.
            if_not_exists: _,
            or_replace: _,
            temporary,
            unbounded,
            options: _, // Each is known by its name, or refused.
            constraints,
        } = create;
        let near = || name.span();
        absent(
            *temporary,
            "TEMPORARY",
            near,
            "Leave it out; DROP TABLE removes the name only.",
        )?;
        absent(*unbounded, "UNBOUNDED", near, "Files are read as they are.")?;
        for column in columns {
            for option in &column.options {
                match &option.option {
                    ColumnOption::Null | ColumnOption::NotNull => {}
                    other => return Err(refused(other.to_string(), || column.name.span, NOT_KEPT)),
                }
            }
        }
        absent(
            !constraints.is_empty(),
            "constraint of an external table",
            near,
            "A source table has a primary key: INSERT INTO it from the external table.",
        )
    }
}

fn constraint(constraint: &TableConstraint, near: impl Place) -> Checked {
    match constraint {
        TableConstraint::PrimaryKey(key) => primary_key(key, near),
        // Refused where the table is made, with what to do in its place.
        TableConstraint::Unique(_) => Ok(()),
        TableConstraint::ForeignKey(_) => Err(refused("FOREIGN KEY", near, CHECK_BY_SQL)),
        TableConstraint::Check(_) => Err(refused("CHECK", near, CHECK_BY_SQL)),
        TableConstraint::Index(_) => Err(refused("INDEX", near, NOT_KEPT)),
        TableConstraint::FulltextOrSpatial(_) => Err(refused("FULLTEXT", near, NOT_KEPT)),
        TableConstraint::PrimaryKeyUsingIndex(_) | TableConstraint::UniqueUsingIndex(_) => {
            Err(refused("USING INDEX", near, NOT_KEPT))
        }
    }
}

fn primary_key(key: &PrimaryKeyConstraint, near: impl Place) -> Checked {
    let PrimaryKeyConstraint {
        name: _, // It says nothing.
        index_name,
        index_type,
        columns,
        index_options,
        characteristics,
    } = key;
    absent(index_name.is_some(), "name of the index", near, NOT_KEPT)?;
    absent(index_type.is_some(), "USING", near, NOT_KEPT)?;
    absent(
        !index_options.is_empty(),
        "option of the index",
        near,
        NOT_KEPT,
    )?;
    absent(
        characteristics.is_some(),
        "DEFERRABLE or NOT ENFORCED",
        near,
        NOT_KEPT,
    )?;
    for one in columns {
        let IndexColumn {
            column,
            operator_class,
        } = one;
        let order = &column.options;
        absent(
            operator_class.is_some() || order.asc.is_some() || order.nulls_first.is_some(),
            "order of the key",
            near,
            "Name the column alone.",
        )?;
    }
    Ok(())
}
