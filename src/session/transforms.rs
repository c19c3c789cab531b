//! What a transform's query sees and what it must give, checked when it is created and used when
//! it runs.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::Query;

use crate::error::{Code, Error, Position, Result};
use crate::model::sources::SourceTable;
use crate::session::catalog::{Sight, state_over};
use crate::session::effect_node::planning::plan_statement;
use crate::session::query_tree;
use crate::session::statement::Output;
use crate::tables::source_table::{SystemColumn, user_schema};

/// The table that the query of a transform reads.
pub const INPUT: &str = "input";

/// The column of a result that fails its source where it is not NULL.
pub const ERROR: &str = "error";

/// Columns of `input` beside those of the source table.
pub const JOB_COLUMNS: [&str; 4] = ["job_id", "attempt", "params", "content"];

/// The columns of `input`: those of the table, `status`, the job's, and `content`, the text of
/// the file at `uri`.
///
/// # Errors
/// `SG9001 bug`.
pub fn input_schema(table: &SourceTable) -> Result<SchemaRef> {
    let user = user_schema(&table.def)?;
    let mut fields: Vec<Arc<Field>> = user.fields().iter().cloned().collect();
    let mut add = |name: &str, data_type: DataType, nullable: bool| {
        // A column of the table with such a name wins.
        if user.index_of(name).is_err() {
            fields.push(Arc::new(Field::new(name, data_type, nullable)));
        }
    };
    add(SystemColumn::Status.name(), DataType::Utf8, false);
    add("job_id", DataType::Int64, false);
    add("attempt", DataType::Int64, false);
    add("params", DataType::Utf8, true);
    add("content", DataType::Utf8, true);
    Ok(Arc::new(Schema::new(fields)))
}

/// Checks that the query of a transform can be planned and gives what is needed.
///
/// # Returns
/// What the author should know: columns that will not be kept.
///
/// # Errors
/// Those of planning, with positions inside the query; `SG2004 invalid-definition`.
pub(super) async fn check_query(
    base: &SessionState,
    sight: Sight,
    table: &SourceTable,
    query: Query,
    output: Output,
    position: Position,
) -> Result<Vec<String>> {
    let input: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(input_schema(table)?));
    let state = state_over(base, sight, vec![(INPUT.to_owned(), input)]);
    let plan = plan_statement(&state, query_tree(query)).await?;
    check_result(table, plan.schema().as_arrow(), output).map_err(|error| {
        if error.position().is_some() {
            error
        } else {
            error.with_position(position)
        }
    })
}

fn check_result(table: &SourceTable, result: &Schema, output: Output) -> Result<Vec<String>> {
    let invalid = |message: String| Error::new(Code::InvalidDefinition, message);
    let key = &table.def.key;
    let user = user_schema(&table.def)?;
    let mut seen = HashSet::new();
    let mut dropped = Vec::new();
    for field in result.fields() {
        let name = field.name().as_str();
        if !seen.insert(name) {
            return Err(invalid(format!("the query gives column \"{name}\" twice"))
                .with_hint("Give one of them another name with AS."));
        }
        let wanted = match user.field_with_name(name) {
            Ok(column) => column.data_type().clone(),
            Err(_) if name == SystemColumn::Status.name() || name == ERROR => DataType::Utf8,
            Err(_) => {
                if output == Output::None && !JOB_COLUMNS.contains(&name) {
                    dropped.push(name.to_owned());
                }
                continue;
            }
        };
        if field.data_type() != &DataType::Null && !can_cast_types(field.data_type(), &wanted) {
            return Err(invalid(format!(
                "the query gives column \"{name}\" the type {}, which does not fit {wanted}",
                field.data_type()
            ))
            .with_hint("CAST it to the type of the source table's column."));
        }
    }
    if !seen.contains(key.as_str()) {
        return Err(
            invalid(format!("the query does not give the key column \"{key}\"")).with_hint(
                format!("Add {key} to its SELECT list: one row per source, by its key."),
            ),
        );
    }
    if dropped.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "source table \"{}\" has no column {}: not kept; add OUTPUT PARQUET to keep all columns \
         in a file",
        table.name,
        dropped
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", ")
    )])
}
