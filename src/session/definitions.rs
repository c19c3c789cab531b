//! CREATE and DROP: what a definition must be before it becomes durable.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::Constraint;
use datafusion::logical_expr::{CreateMemoryTable, DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    CreateTable as SqlCreateTable, Expr as SqlExpr, Statement as SqlStatement, TableConstraint,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::config::Limits;
use crate::error::{Code, Error, Result, nearest};
use crate::model::decide::{IfExists, IfMissing, NewObject};
use crate::model::draft::Draft;
use crate::model::event::ObjectKind;
use crate::model::keys::KeyType;
use crate::model::sources::{ColumnDef, TableDef};
use crate::model::state::{Object, State};
use crate::model::transform::{SqlOutput, TransformDef, TransformKind};
use crate::session::catalog::{VIEWS, reserved_names, state_over};
use crate::session::effect_node::planning::plan_statement;
use crate::session::external::external_table;
use crate::session::parser::identifier;
use crate::session::statement::{
    CreateTransform, DropKind, Existing, Missing, Output, Statement, TransformBody,
};
use crate::session::transforms::check_query;
use crate::session::write::plan_create;
use crate::session::{Reply, Running, Session, StatementKind, no_columns, query_tree};
use crate::tables::source_table::SystemColumn;

/// The longest name of a table, view or transform, in bytes. Chosen: names are parts of paths.
const NAME_MAX: usize = 100;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidDefinition, message)
}

fn if_exists(existing: Existing) -> IfExists {
    match existing {
        Existing::Refuse => IfExists::Fail,
        Existing::Replace => IfExists::Replace,
        Existing::Keep => IfExists::Keep,
    }
}

/// Names become parts of paths and of resources, so they are plain.
pub(super) fn check_name(kind: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !begins || !name.chars().all(plain) || name.len() > NAME_MAX {
        return Err(
            invalid(format!("{kind} \"{name}\" cannot have this name")).with_hint(format!(
                "Use up to {NAME_MAX} letters, digits and _, and begin with a letter."
            )),
        );
    }
    if kind != "transform" && reserved_names().any(|reserved| reserved == name) {
        return Err(Error::new(
            Code::AlreadyExists,
            format!("system table \"{name}\" has this name"),
        )
        .with_hint("Choose another name."));
    }
    Ok(())
}

impl Session {
    /// Runs CREATE or DROP.
    pub(super) async fn define(&self, running: Running, statement: Statement) -> Result<Reply> {
        let mut notes = Vec::new();
        match statement {
            Statement::CreateTable {
                table,
                existing,
                tree,
            } => {
                check_name("source table", &table)?;
                let tree = match *tree {
                    SyntaxTree::Statement(statement) => match *statement {
                        SqlStatement::CreateTable(create) if create.query.is_some() => {
                            return self
                                .create_table_as(running, &table, existing, create)
                                .await;
                        }
                        other => SyntaxTree::Statement(Box::new(other)),
                    },
                    other => other,
                };
                let def = self.table_def(&running, &table, tree).await?;
                self.note_definition(&running, move |draft| {
                    draft.create_table(&table, &def, if_exists(existing))
                })
                .await?;
            }
            Statement::CreateView {
                name,
                existing,
                tree,
                ..
            } => {
                check_name("view", &name)?;
                self.check_view(&running, &name, *tree).await?;
                let sql = Arc::clone(&running.text.sql);
                self.create_object(&running, ObjectKind::View, name, sql, existing)
                    .await?;
            }
            Statement::CreateExternalTable { table, tree } => {
                check_name("external table", &table)?;
                let SyntaxTree::CreateExternalTable(create) = tree.as_ref() else {
                    return Err(Error::bug("CREATE EXTERNAL TABLE without its tree"));
                };
                let existing = match (create.or_replace, create.if_not_exists) {
                    (true, _) => Existing::Replace,
                    (false, true) => Existing::Keep,
                    (false, false) => Existing::Refuse,
                };
                let mut sql = running.text.sql.to_string();
                for location in &create.locations {
                    let whole = self.core.roots.permit(location)?;
                    sql = with_location(&sql, location, &whole)?;
                }
                let state = self.over(&running.state, &[]);
                external_table(&state, *tree, &self.core.roots).await?;
                let kind = ObjectKind::ExternalTable;
                self.create_object(&running, kind, table, sql.into(), existing)
                    .await?;
            }
            Statement::CreateTransform(create) => {
                check_name("transform", &create.name)?;
                let (def, said) = self.transform_def(&running, &create).await?;
                notes = said;
                self.note_definition(&running, move |draft| {
                    draft.create_transform(&create.name, &def, if_exists(create.existing))
                })
                .await?;
            }
            Statement::Drop {
                kind,
                name,
                missing,
                tree: _,
            } => {
                let missing = match missing {
                    Missing::Refuse => IfMissing::Fail,
                    Missing::Ignore => IfMissing::Ignore,
                };
                self.note_definition(&running, move |draft| {
                    drop_object(draft, kind, &name, missing)
                })
                .await?;
            }
            _ => return Err(Error::bug("a statement that defines nothing")),
        }
        self.created(running, notes, None)
    }

    fn created(&self, running: Running, notes: Vec<String>, rows: Option<u64>) -> Result<Reply> {
        let empty = RecordBatch::new_empty(no_columns());
        let mut reply = self.rows(running, StatementKind::Ddl, empty)?;
        reply.notes = notes;
        reply.rows_affected = rows;
        Ok(reply)
    }

    async fn note_definition(
        &self,
        running: &Running,
        decide: impl Fn(&mut Draft<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let text = running.text.clone();
        let committed = self
            .core
            .ledger
            .commit(running.text.author.clone(), move |draft| {
                decide(draft)?;
                // IF NOT EXISTS and IF EXISTS may have found nothing to do.
                if draft.is_empty() {
                    return Ok(());
                }
                draft.note_statement(&text.sql, text.idempotency_key.as_deref(), "[]")
            })
            .await?;
        if let Ok(mut done) = running.done.lock() {
            *done = Some(super::Done {
                version: committed.version,
                ..super::Done::default()
            });
        }
        Ok(())
    }

    async fn create_object(
        &self,
        running: &Running,
        kind: ObjectKind,
        name: String,
        sql: Arc<str>,
        existing: Existing,
    ) -> Result<()> {
        self.note_definition(running, move |draft| {
            let object = NewObject {
                kind,
                name: &name,
                sql: &sql,
            };
            draft.create_object(object, if_exists(existing))
        })
        .await
    }

    async fn table_def(&self, running: &Running, name: &str, tree: SyntaxTree) -> Result<TableDef> {
        let state = self.over(&running.state, &[]);
        // DataFusion refuses a name that exists; whether it does is decided at the commit.
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) =
            plan_statement(&state, tree).await?
        else {
            return Err(Error::bug("CREATE TABLE planned to something else"));
        };
        let CreateMemoryTable {
            constraints,
            input,
            column_defaults,
            temporary,
            ..
        } = create;
        if temporary {
            return Err(
                Error::new(Code::Unsupported, "temporary tables are not supported")
                    .with_hint("Use WITH, or CREATE VIEW."),
            );
        }
        if let Some((column, _)) = column_defaults.first() {
            return Err(Error::new(
                Code::Unsupported,
                format!("column \"{column}\" has a DEFAULT, which is not supported"),
            )
            .with_hint("Give the value in INSERT, or use coalesce() in a view."));
        }
        let fields = input.schema().fields();
        let mut keys: Option<Vec<String>> = None;
        for constraint in constraints.iter() {
            match constraint {
                Constraint::PrimaryKey(columns) => {
                    let names = columns.iter().filter_map(|place| fields.get(*place));
                    keys = Some(names.map(|field| field.name().clone()).collect());
                }
                Constraint::Unique(_) => {
                    return Err(Error::new(Code::Unsupported, "UNIQUE is not supported")
                        .with_hint("Only the primary key is unique."));
                }
            }
        }
        definition_of(name, fields, keys.as_deref(), &running.text.sql)
    }

    /// `CREATE TABLE ... AS SELECT`: the table and its rows are one commit.
    async fn create_table_as(
        &self,
        running: Running,
        name: &str,
        existing: Existing,
        mut create: SqlCreateTable,
    ) -> Result<Reply> {
        let Some(query) = create.query.take() else {
            return Err(Error::bug("CREATE TABLE AS without a query"));
        };
        if existing == Existing::Keep && running.state.name_in_use(name).is_some() {
            return self.created(running, Vec::new(), Some(0));
        }
        let session = |extra| self.over_with(&running.state, &running.tables, extra);
        let def = if create.columns.is_empty() {
            let plan = plan_statement(&session(Vec::new()), query_tree(*query.clone())).await?;
            let keys = key_columns(&create);
            let fields = as_columns(plan.schema().fields(), keys.as_deref());
            definition_of(name, &fields, keys.as_deref(), &running.text.sql)?
        } else {
            let tree = SyntaxTree::Statement(Box::new(SqlStatement::CreateTable(create)));
            self.table_def(&running, name, tree).await?
        };
        let target = self.write_target(&running);
        let plan = plan_create(&session, name, def, *query, target).await?;
        let state = session(Vec::new());
        self.written(running, &state, &plan, StatementKind::Ddl)
            .await
    }

    /// Plans a view as if it was there already, so that a circle is found before it is made.
    async fn check_view(&self, running: &Running, name: &str, tree: SyntaxTree) -> Result<()> {
        let planned = plan_statement(&self.over(&running.state, &[]), tree).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateView(view)) = planned else {
            return Err(Error::bug("CREATE VIEW planned to something else"));
        };
        if view.temporary {
            return Err(
                Error::new(Code::Unsupported, "temporary views are not supported")
                    .with_hint("Leave TEMPORARY out; a view costs nothing until it is read."),
            );
        }
        let mut with_view = State::clone(&running.state);
        let object = Object {
            kind: ObjectKind::View,
            sql: Arc::clone(&running.text.sql),
            created_at: running.state.at,
        };
        Arc::make_mut(&mut with_view.objects).insert(name.into(), object);
        let sight = self.sight(&Arc::new(with_view));
        let state = state_over(&self.base(), sight, Vec::new());
        let quoted = format!("SELECT * FROM \"{name}\"");
        state.create_logical_plan(&quoted).await?;
        Ok(())
    }

    async fn transform_def(
        &self,
        running: &Running,
        create: &CreateTransform,
    ) -> Result<(TransformDef, Vec<String>)> {
        let limits = self.core.ledger.limits();
        let mut notes = Vec::new();
        let kind = match &create.body {
            TransformBody::Sql {
                text,
                position,
                query,
            } => {
                let Some(table) = running.state.table(&create.table) else {
                    return Err(unknown_source_table(&running.state, &create.table));
                };
                let sight = self.sight(&running.state);
                let output = create.options.output;
                let query = query.as_ref().clone();
                notes = check_query(&self.base(), sight, table, query, output, *position).await?;
                TransformKind::Sql {
                    body: text.clone(),
                    output: match output {
                        Output::None => SqlOutput::None,
                        Output::Parquet => SqlOutput::Parquet,
                    },
                }
            }
            TransformBody::Command(command) => TransformKind::Command {
                command: command.clone(),
            },
            TransformBody::Outside => TransformKind::Outside,
        };
        if create.options.output == Output::Parquet && !matches!(kind, TransformKind::Sql { .. }) {
            return Err(invalid(format!(
                "transform \"{}\" is no SQL transform, so OUTPUT PARQUET has no meaning",
                create.name
            ))
            .with_hint("Leave it out; a command writes its own output."));
        }
        Ok((definition(create, kind, limits, &running.text.sql)?, notes))
    }
}

/// The numbers of a transform, with their defaults.
fn definition(
    create: &CreateTransform,
    kind: TransformKind,
    limits: &Limits,
    sql: &str,
) -> Result<TransformDef> {
    let options = &create.options;
    let millis = |duration: Option<Duration>, default: Duration| {
        u64::try_from(duration.unwrap_or(default).as_millis()).unwrap_or(u64::MAX)
    };
    let too_long = options.lease.is_some_and(|lease| lease > limits.lease_max);
    if too_long {
        return Err(invalid(format!(
            "lease is longer than {} s",
            limits.lease_max.as_secs()
        ))
        .with_hint("The limit is the setting lease_max; heartbeats prolong a lease."));
    }
    let group_size = options.group_size.unwrap_or(match kind {
        TransformKind::Sql { .. } => 500,
        TransformKind::Command { .. } => 50,
        TransformKind::Outside => 1000,
    });
    let max_attempts = u16::try_from(options.max_attempts.unwrap_or(3)).map_err(|error| {
        invalid("max_attempts is larger than 65535")
            .with_hint("Use a smaller number.")
            .with_source(error)
    })?;
    let priority = i16::try_from(options.priority.unwrap_or(0)).map_err(|error| {
        invalid("priority is out of range")
            .with_hint("Use a number from -32768 to 32767.")
            .with_source(error)
    })?;
    Ok(TransformDef {
        table: create.table.clone(),
        from_status: create.from_status.clone(),
        to_status: create.to_status.clone(),
        kind,
        group_size,
        timeout_ms: millis(options.timeout, Duration::from_secs(600)),
        max_attempts,
        concurrency: options.concurrency.unwrap_or(4),
        lease_ms: millis(options.lease, limits.lease),
        backoff_ms: millis(options.backoff, Duration::from_secs(10)),
        backoff_max_ms: millis(options.backoff_max, Duration::from_secs(3600)),
        priority,
        memory_bytes: options.memory_bytes,
        sql: sql.to_owned(),
    })
}

/// The statements that made what has this name; a transform may have the name of a table.
///
/// # Returns
/// rows = 1 or 2, columns = (name: Utf8, kind: Utf8, statement: Utf8).
///
/// # Errors
/// `SG2001 unknown-object`.
pub(super) fn show_create(state: &State, name: &str) -> Result<RecordBatch> {
    let table = state
        .table(name)
        .map(|table| ("table", table.def.sql.as_str()));
    let object = state.objects.get(name);
    let object = object.map(|object| (object.kind.name(), object.sql.as_ref()));
    let system = VIEWS.iter().find(|(view, _)| *view == name);
    let system = system.map(|(_, sql)| ("system view", *sql));
    let transform = state.transform(name);
    let transform = transform.map(|transform| ("transform", transform.def().sql.as_str()));
    let found: Vec<(&str, &str)> = [table, object, system, transform]
        .into_iter()
        .flatten()
        .collect();
    if found.is_empty() {
        let known = state.table_ids.keys().chain(state.objects.keys());
        let known: Vec<&str> = known.map(AsRef::as_ref).collect();
        let error = Error::new(
            Code::UnknownObject,
            format!("there is no table, view or transform \"{name}\" with a definition"),
        );
        return Err(match nearest(name, known.into_iter()) {
            Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
            None => {
                error.with_hint("SHOW TABLES lists tables and views, table transforms the rest.")
            }
        });
    }
    let column = |cells: Vec<&str>| Arc::new(StringArray::from(cells)) as ArrayRef;
    Ok(RecordBatch::try_from_iter([
        ("name", column(vec![name; found.len()])),
        (
            "kind",
            column(found.iter().map(|(kind, _)| *kind).collect()),
        ),
        (
            "statement",
            column(found.iter().map(|(_, sql)| *sql).collect()),
        ),
    ])?)
}

fn unknown_source_table(state: &State, name: &str) -> Error {
    let tables: Vec<&str> = state.table_ids.keys().map(AsRef::as_ref).collect();
    Error::new(
        Code::UnknownObject,
        format!("source table \"{name}\" does not exist"),
    )
    .with_hint(match tables.as_slice() {
        [] => "Make one with CREATE TABLE ... PRIMARY KEY.".to_owned(),
        tables => format!("Source tables of this store: {}.", tables.join(", ")),
    })
}

/// The table of such columns.
fn definition_of(
    name: &str,
    fields: &Fields,
    keys: Option<&[String]>,
    sql: &str,
) -> Result<TableDef> {
    let key = match keys {
        Some([one]) => fields.iter().find(|field| field.name() == one),
        Some(_) => {
            return Err(invalid(format!(
                "source table \"{name}\" has a primary key of several columns"
            ))
            .with_hint(
                "Use one TEXT column that joins them, such as concat_ws('-', a, b), as key. \
                 Joined by / it is a path, where a job or lock on a part above keeps others \
                 out.",
            ));
        }
        None => None,
    };
    let Some(key) = key else {
        return Err(
            invalid(format!("source table \"{name}\" has no primary key"))
                .with_detail("Every row is a source, and a source is known by its key.")
                .with_hint(
                    "Add PRIMARY KEY (column) with one TEXT or BIGINT column; for a query write \
                     CREATE TABLE t (PRIMARY KEY (column)) AS SELECT ...",
                ),
        );
    };
    let key_type = match key.data_type() {
        DataType::Utf8 => KeyType::Text,
        DataType::Int64 => KeyType::Int,
        other => {
            return Err(
                invalid(format!("primary key \"{}\" has type {other}", key.name()))
                    .with_hint("Make the key a TEXT or BIGINT column."),
            );
        }
    };
    let columns = fields
        .iter()
        .map(|field| column_def(field, key))
        .collect::<Result<_>>()?;
    Ok(TableDef {
        columns,
        key: key.name().clone(),
        key_type,
        sql: sql.to_owned(),
    })
}

/// The primary key of a CREATE TABLE that names no columns beside it.
fn key_columns(create: &SqlCreateTable) -> Option<Vec<String>> {
    create.constraints.iter().find_map(|constraint| {
        let TableConstraint::PrimaryKey(key) = constraint else {
            return None;
        };
        let columns = key.columns.iter().filter_map(|one| match &one.column.expr {
            SqlExpr::Identifier(column) => Some(identifier(column)),
            _ => None,
        });
        Some(columns.collect())
    })
}

/// The columns of a query as those of a table: one type for texts, and BIGINT for a key of numbers.
fn as_columns(fields: &Fields, keys: Option<&[String]>) -> Fields {
    let column = |field: &FieldRef| {
        let key = keys.is_some_and(|keys| keys.contains(field.name()));
        let data_type = match field.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::Dictionary(_, values) => values.as_ref().clone(),
            number if key && number.is_integer() => DataType::Int64,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, true)
    };
    fields.iter().map(column).collect()
}

fn column_def(field: &Field, key: &Field) -> Result<ColumnDef> {
    let name = field.name();
    if SystemColumn::named(name).is_some() || name.starts_with("__") {
        return Err(
            invalid(format!("column \"{name}\" has a reserved name")).with_hint(
                "Every source table has the columns status, status_at, locked, live_job_id, \
             last_job_id and version; choose another name.",
            ),
        );
    }
    let data_type = field.data_type().to_string();
    let unwritable = matches!(
        field.data_type(),
        DataType::Interval(_) | DataType::Duration(_)
    );
    if unwritable || data_type.parse::<DataType>().ok().as_ref() != Some(field.data_type()) {
        return Err(invalid(format!(
            "column \"{name}\" has type {data_type}, which is not supported"
        ))
        .with_hint("Use TEXT, numbers, BOOLEAN, DATE, TIMESTAMP, or lists such as TEXT[]."));
    }
    Ok(ColumnDef {
        name: name.clone(),
        data_type,
        nullable: field.is_nullable() && name != key.name(),
    })
}

fn drop_object(
    draft: &mut Draft<'_>,
    kind: DropKind,
    name: &str,
    missing: IfMissing,
) -> Result<()> {
    match kind {
        DropKind::Transform => draft.drop_transform(name, missing),
        DropKind::View => draft.drop_object(ObjectKind::View, name, missing),
        DropKind::Table => {
            let object = draft.state().objects.get(name).map(|object| object.kind);
            if object == Some(ObjectKind::ExternalTable) {
                draft.drop_object(ObjectKind::ExternalTable, name, missing)
            } else {
                draft.drop_table(name, missing)
            }
        }
    }
}

/// The statement with its LOCATION written out, so that it means the same from any folder.
fn with_location(sql: &str, written: &str, whole: &str) -> Result<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|error| Error::new(Code::SyntaxError, error.to_string()))?;
    let mut after_location = false;
    let text = tokens.iter().map(|token| match token {
        Token::Word(word) if word.value.eq_ignore_ascii_case("location") => {
            after_location = true;
            token.to_string()
        }
        Token::SingleQuotedString(text) if after_location && text == written => {
            Token::SingleQuotedString(whole.to_owned()).to_string()
        }
        other => other.to_string(),
    });
    Ok(text.collect())
}
