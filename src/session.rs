//! TEMPORARY stand-in for the session layer: a plain DataFusion context with the same surface, so
//! that the REPL can run. The real session replaces this file.

pub mod script;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use crate::error::{Code, Error, Result};

pub use script::{ScriptStatement, split_statements};

/// One user's connection to a store.
#[derive(Clone)]
pub struct Session {
    context: Arc<SessionContext>,
}

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A pure query.
    Query,
    /// A query with effects, or CALL.
    Effect,
    /// INSERT, UPDATE, DELETE.
    Dml,
    /// CREATE, DROP, ALTER.
    Ddl,
    /// EXPLAIN.
    Explain,
    /// PREVIEW.
    Preview,
    /// SET, SHOW.
    Setting,
}

/// How often one effect function ended in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeCount {
    /// The effect function.
    pub function: String,
    /// How it ended.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// The answer to one statement.
pub struct Reply {
    /// The id of the statement.
    pub statement_id: String,
    /// What the statement is.
    pub kind: StatementKind,
    /// The columns of the rows.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: SendableRecordBatchStream,
    /// The snapshot that was read, or what was committed.
    pub version: u64,
    /// Rows that DML touched.
    pub rows_affected: Option<u64>,
    /// How the effects ended.
    pub summary: Vec<OutcomeCount>,
}

/// A table or view with its columns.
#[derive(Debug, Clone)]
pub struct TableName {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Names and types.
    pub columns: Vec<(String, String)>,
}

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// Pure.
    Scalar,
    /// Changes state.
    Effect,
}

/// A function.
#[derive(Debug, Clone)]
pub struct FunctionName {
    /// Name.
    pub name: String,
    /// Signature.
    pub signature: String,
    /// Kind.
    pub kind: FunctionKind,
    /// Description.
    pub description: String,
}

/// Names for completion.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Tables and views.
    pub tables: Vec<TableName>,
    /// Functions.
    pub functions: Vec<FunctionName>,
}

fn failed(error: DataFusionError) -> Error {
    Error::new(Code::PlanError, error.strip_backtrace())
}

impl Session {
    pub(crate) fn stub() -> Self {
        Self {
            context: Arc::new(SessionContext::new()),
        }
    }

    /// Runs exactly one statement.
    pub async fn execute(&self, sql: &str) -> Result<Reply> {
        let upper = sql.trim_start().to_uppercase();
        let kind = match upper.split_whitespace().next().unwrap_or_default() {
            "INSERT" | "DELETE" | "UPDATE" => StatementKind::Dml,
            "CREATE" | "DROP" => StatementKind::Ddl,
            "EXPLAIN" => StatementKind::Explain,
            "SET" => StatementKind::Setting,
            _ => StatementKind::Query,
        };
        let effect = sql.contains("/* effect */");
        let frame = self.context.sql(sql).await.map_err(failed)?;
        let batches = frame.execute_stream().await.map_err(failed)?;
        let (kind, summary) = if effect {
            let count = |outcome: &str, count| OutcomeCount {
                function: "schedule_job".into(),
                outcome: outcome.into(),
                count,
            };
            (
                StatementKind::Effect,
                vec![count("scheduled", 3), count("already-live", 1)],
            )
        } else {
            (kind, Vec::new())
        };
        Ok(Reply {
            statement_id: "stub".into(),
            kind,
            schema: batches.schema(),
            batches,
            version: 0,
            rows_affected: (kind == StatementKind::Dml).then_some(0),
            summary,
        })
    }

    /// Names for completion.
    pub async fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        for catalog in self.context.catalog_names() {
            let Some(catalog) = self.context.catalog(&catalog) else {
                continue;
            };
            for schema in catalog.schema_names() {
                let Some(schema) = catalog.schema(&schema) else {
                    continue;
                };
                for name in schema.table_names() {
                    let table = schema.table(&name).await.map_err(failed)?;
                    let Some(table) = table else { continue };
                    let columns = table
                        .schema()
                        .fields()
                        .iter()
                        .map(|f| (f.name().clone(), f.data_type().to_string()))
                        .collect();
                    names.tables.push(TableName {
                        name,
                        kind: "table".into(),
                        columns,
                    });
                }
            }
        }
        for (name, function) in self.context.state().scalar_functions() {
            let description = function.documentation().map(|d| d.description.clone());
            let signature = function
                .documentation()
                .map_or(format!("{name}()"), |d| d.syntax_example.clone());
            names.functions.push(FunctionName {
                name: name.clone(),
                signature,
                kind: FunctionKind::Scalar,
                description: description.unwrap_or_default(),
            });
        }
        names.functions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// How many effects a statement would make.
    pub async fn count_effects(&self, sql: &str) -> Result<Option<u64>> {
        if !sql.contains("/* effect */") {
            return Ok(None);
        }
        let mut batches = self.execute(sql).await?.batches;
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            rows += batch.map_err(failed)?.num_rows() as u64;
        }
        Ok(Some(rows))
    }
}
