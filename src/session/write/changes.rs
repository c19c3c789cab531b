//! Writing statements as queries: the query of INSERT, REPLACE, UPDATE and DELETE gives the rows as
//! they are to be, and which rows of the table they were when it read them.
//!
//! DataFusion plans queries only, not the change: its plans of UPDATE and DELETE know neither an
//! alias of the target nor other tables, and take the names that SET assigns to as no other name.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DmlStatement, Expr as PlannedExpr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, WriteOp, lit,
};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement as SyntaxTree;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, ConflictTarget, Delete, Distinct, DoUpdate, Expr,
    FromTable, Ident, Insert, Join, JoinConstraint, JoinOperator, LimitClause, ObjectNamePart,
    OnConflict, OnConflictAction, OnInsert, OrderBy, OrderByExpr, OrderByKind, Query, Select,
    SelectItem, SetExpr, Statement as SqlStatement, TableFactor, TableObject, TableWithJoins,
    Update, UpdateTableFromKind, VisitMut, VisitorMut,
};

use crate::error::{Code, Error, Result};
use crate::model::decide::WriteMode;
use crate::model::sources::SourceTable;
use crate::session::effect_node::planning::plan_statement;
use crate::session::parser::{identifier, object_name};
use crate::session::{query_tree, syntax};
use crate::tables::source_table::{SystemColumn, user_schema};

/// The new row of ON CONFLICT, as in PostgreSQL.
const EXCLUDED: &str = "excluded";

/// Tables that a statement sees beside those of its snapshot.
pub type Extra = Vec<(String, Arc<dyn TableProvider>)>;

/// What a writing statement does with the rows of its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows by their keys: all columns of the user, `status`, and `version` where the row is there
    /// already and was read.
    Put(WriteMode),
    /// All columns of the user, and the `version` that was read.
    Update,
    /// The key, and the `version` that was read.
    Delete,
}

/// The plan of the rows of a writing statement.
///
/// # Arguments
/// `session`: what it sees, with these tables beside.
///
/// # Returns
/// Its kind, and a plan of the columns that [`Kind`] tells.
///
/// # Errors
/// `SG1002 plan-error`, `SG1005 unsupported-statement`; those of planning.
pub(super) async fn plan(
    session: &(dyn Fn(Extra) -> SessionState + Send + Sync),
    tree: SyntaxTree,
    table: &SourceTable,
) -> Result<(Kind, LogicalPlan)> {
    let statement = match tree {
        SyntaxTree::Statement(statement) => *statement,
        _ => return Err(Error::bug("a writing statement of another kind")),
    };
    match statement {
        SqlStatement::Insert(insert) => insert_rows(session, insert, table).await,
        SqlStatement::Update(update) => {
            let query = update_query(update, table)?;
            let plan = plan_statement(&session(Vec::new()), query_tree(query)).await?;
            Ok((Kind::Update, typed(plan, table, &[SystemColumn::Version])?))
        }
        SqlStatement::Delete(delete) => {
            let query = delete_query(delete, table)?;
            let plan = plan_statement(&session(Vec::new()), query_tree(query)).await?;
            Ok((Kind::Delete, plan))
        }
        _ => Err(Error::bug("a writing statement of another kind")),
    }
}

async fn insert_rows(
    session: &(dyn Fn(Extra) -> SessionState + Send + Sync),
    mut insert: Insert,
    table: &SourceTable,
) -> Result<(Kind, LogicalPlan)> {
    let conflict = match insert.on.take() {
        None => None,
        Some(OnInsert::OnConflict(conflict)) => Some(conflict),
        Some(_) => return Err(Error::bug("the gate let ON DUPLICATE KEY through")),
    };
    let names = insert_names(&mut insert, table)?;
    let mode = if insert.replace_into {
        names_all(&names, table)?;
        WriteMode::Replace
    } else {
        WriteMode::Insert
    };
    let alias = match insert.table_alias.take() {
        Some(alias) => alias.alias,
        None => syntax::ident(&table.name),
    };
    let rows = match insert.source.as_deref() {
        Some(query) if !matches!(*query.body, SetExpr::Values(_)) => {
            rows_of_query(&session(Vec::new()), table, &names, query.clone()).await?
        }
        _ => rows_of_values(&session(Vec::new()), insert, table).await?,
    };
    let Some(OnConflict {
        conflict_target,
        action,
    }) = conflict
    else {
        return Ok((Kind::Put(mode), rows));
    };
    check_target(conflict_target.as_ref(), table)?;
    match action {
        OnConflictAction::DoNothing => Ok((Kind::Put(WriteMode::Keep), rows)),
        OnConflictAction::DoUpdate(update) => {
            let excluded: Arc<dyn TableProvider> = Arc::new(ViewTable::new(rows, None));
            let session = session(vec![(EXCLUDED.to_owned(), excluded)]);
            let query = upsert_query(update, alias, table)?;
            let plan = plan_statement(&session, query_tree(query)).await?;
            let system = [SystemColumn::Status, SystemColumn::Version];
            Ok((Kind::Put(WriteMode::Upsert), typed(plan, table, &system)?))
        }
    }
}

/// The rows of a query as those of a table that does not exist yet.
pub(super) async fn new_table(
    session: &SessionState,
    table: &SourceTable,
    query: Query,
) -> Result<LogicalPlan> {
    let columns = table.def.columns.iter();
    let names: Vec<String> = columns.map(|column| column.name.clone()).collect();
    rows_of_query(session, table, &names, query).await
}

/// The columns that an INSERT names; where it names none, it gets those of the table.
fn insert_names(insert: &mut Insert, table: &SourceTable) -> Result<Vec<String>> {
    if insert.columns.is_empty() {
        let columns = table.def.columns.iter();
        insert.columns = columns
            .map(|column| syntax::name(syntax::ident(&column.name)))
            .collect();
    }
    let mut names: Vec<String> = Vec::new();
    for column in &insert.columns {
        let name = object_name(column);
        match SystemColumn::named(&name) {
            Some(SystemColumn::Status) => {}
            Some(system) => return Err(system_column(system)),
            None => user_column(table, &name)?,
        }
        if names.contains(&name) {
            return Err(
                Error::new(Code::PlanError, format!("column \"{name}\" is named twice"))
                    .with_hint("Leave one of the two out."),
            );
        }
        names.push(name);
    }
    Ok(names)
}

fn user_column(table: &SourceTable, name: &str) -> Result<()> {
    if table.def.columns.iter().any(|column| column.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = table.def.columns.iter().map(|c| c.name.as_str()).collect();
    let error = Error::new(
        Code::PlanError,
        format!("source table \"{}\" has no column \"{name}\"", table.name),
    );
    let same = known.iter().find(|known| known.eq_ignore_ascii_case(name));
    Err(match same {
        Some(same) => error.with_hint(format!("Write it in quotes: \"{same}\".")),
        None => error.with_hint(format!("Its columns are: {}.", known.join(", "))),
    })
}

/// A REPLACE that left out a column would blank it in the rows that are there.
fn names_all(names: &[String], table: &SourceTable) -> Result<()> {
    let columns = table.def.columns.iter();
    let missing = columns
        .map(|column| &column.name)
        .find(|name| !names.contains(name));
    let Some(missing) = missing else {
        return Ok(());
    };
    Err(Error::new(
        Code::Unsupported,
        format!(
            "REPLACE INTO {} leaves column \"{missing}\" out",
            table.name
        ),
    )
    .with_detail("It would become NULL in every row that is there already.")
    .with_hint(format!(
        "Write INSERT INTO {} (...) ... ON CONFLICT ({}) DO UPDATE SET a = excluded.a, which \
         keeps what it does not name; or name every column.",
        table.name, table.def.key
    )))
}

fn check_target(target: Option<&ConflictTarget>, table: &SourceTable) -> Result<()> {
    let key = &table.def.key;
    match target {
        None => Ok(()),
        Some(ConflictTarget::Columns(columns))
            if columns.iter().map(identifier).eq([key.clone()]) =>
        {
            Ok(())
        }
        Some(ConflictTarget::Columns(_) | ConflictTarget::OnConstraint(_)) => Err(Error::new(
            Code::PlanError,
            format!(
                "ON CONFLICT does not name the key of table \"{}\"",
                table.name
            ),
        )
        .with_detail("Only the key is unique, so only it can be in conflict.")
        .with_hint(format!("Write ON CONFLICT ({key})."))),
    }
}

/// The rows of `INSERT ... VALUES`. DataFusion plans the whole, so that each value becomes the type
/// of its column by itself, whatever stands in the other rows.
async fn rows_of_values(
    session: &SessionState,
    insert: Insert,
    table: &SourceTable,
) -> Result<LogicalPlan> {
    let tree = SyntaxTree::Statement(Box::new(SqlStatement::Insert(Insert {
        replace_into: false,
        table: TableObject::TableName(syntax::name(syntax::ident(&table.name))),
        ..insert
    })));
    let LogicalPlan::Dml(DmlStatement { op, input, .. }) = plan_statement(session, tree).await?
    else {
        return Err(Error::bug("an INSERT planned to something else"));
    };
    match op {
        WriteOp::Insert(InsertOp::Append) => {
            let plan = Arc::unwrap_or_clone(input);
            typed(plan, table, &[SystemColumn::Status])
        }
        _ => Err(Error::bug("an INSERT planned to another operation")),
    }
}

/// The rows of an INSERT from a query, with the columns of the table.
///
/// DataFusion is not asked to plan the whole: while it plans an INSERT, it takes every VALUES
/// below it for the rows that go in, and gives them the columns of the target.
async fn rows_of_query(
    session: &SessionState,
    table: &SourceTable,
    names: &[String],
    query: Query,
) -> Result<LogicalPlan> {
    let plan = match plan_statement(session, query_tree(query.clone())).await {
        // Names do not matter here, and two columns may well come from one.
        Err(error) if error.message().contains("unique expression names") => {
            plan_statement(session, query_tree(numbered(query))).await?
        }
        planned => planned?,
    };
    let given = plan.schema().columns();
    if given.len() != names.len() {
        return Err(Error::new(
            Code::PlanError,
            format!(
                "the query gives {} columns, not {}",
                given.len(),
                names.len()
            ),
        )
        .with_hint(format!("The columns are: {}.", names.join(", "))));
    }
    let columns = fields(table, &[SystemColumn::Status])?;
    let columns = columns.iter().map(|field| {
        let place = names.iter().position(|name| name == field.name());
        let value = match place.and_then(|place| given.get(place)) {
            Some(column) => {
                PlannedExpr::Column(column.clone()).cast_to(field.data_type(), plan.schema())?
            }
            None => lit(ScalarValue::try_from(field.data_type())?),
        };
        Ok(value.alias(field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// The query with a name of its own for each column that has none.
fn numbered(mut query: Query) -> Query {
    number(&mut query.body);
    query
}

fn number(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for (place, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr) = item {
                    *item = syntax::aliased(expr.clone(), &format!("__value_{place}"));
                }
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            number(left);
            number(right);
        }
        SetExpr::Query(query) => number(&mut query.body),
        SetExpr::Values(_)
        | SetExpr::Insert(_)
        | SetExpr::Update(_)
        | SetExpr::Delete(_)
        | SetExpr::Merge(_)
        | SetExpr::Table(_) => {}
    }
}

/// The user's columns of a table, and some of the system's.
fn fields(table: &SourceTable, system: &[SystemColumn]) -> Result<Vec<FieldRef>> {
    let mut fields: Vec<FieldRef> = user_schema(&table.def)?.fields().iter().cloned().collect();
    let field = |column: &SystemColumn| Field::new(column.name(), column.data_type(), true);
    fields.extend(system.iter().map(|column| Arc::new(field(column))));
    Ok(fields)
}

/// A plan whose columns have the names and the types of the table's.
fn typed(plan: LogicalPlan, table: &SourceTable, system: &[SystemColumn]) -> Result<LogicalPlan> {
    let columns = fields(table, system)?;
    let columns = columns.iter().map(|field| {
        let given = plan
            .schema()
            .qualified_field_with_unqualified_name(field.name())?;
        let column = PlannedExpr::Column(given.into());
        let value = column.cast_to(field.data_type(), plan.schema())?;
        Ok(value.alias(field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// What SET assigns, by column.
fn assigned(assignments: Vec<Assignment>, table: &SourceTable) -> Result<Vec<(String, Expr)>> {
    let mut values: Vec<(String, Expr)> = Vec::new();
    for Assignment { target, value } in assignments {
        let AssignmentTarget::ColumnName(target) = target else {
            return Err(Error::bug("the gate let a tuple through"));
        };
        let last = target.0.last().and_then(ObjectNamePart::as_ident);
        let column = last.map(identifier).unwrap_or_default();
        if let Some(system) = SystemColumn::named(&column) {
            return Err(system_column(system));
        }
        user_column(table, &column)?;
        if column == table.def.key {
            return Err(Error::new(
                Code::Unsupported,
                format!("key column \"{column}\" cannot be changed"),
            )
            .with_hint("DELETE the row and INSERT it with its new key."));
        }
        if values.iter().any(|(known, _)| *known == column) {
            return Err(Error::new(
                Code::PlanError,
                format!("column \"{column}\" is assigned to twice"),
            )
            .with_hint("Leave one of the two out."));
        }
        values.push((column, value));
    }
    Ok(values)
}

/// Of each column of the user's: what SET assigns, else what is there.
fn new_values(
    table: &SourceTable,
    target: &Ident,
    values: &[(String, Expr)],
) -> Vec<(String, Expr)> {
    let columns = table.def.columns.iter();
    columns
        .map(|column| {
            let value = values.iter().find(|(name, _)| *name == column.name);
            let value = value.map_or_else(
                || syntax::column(target, &column.name),
                |(_, value)| Expr::Nested(Box::new(value.clone())),
            );
            (column.name.clone(), value)
        })
        .collect()
}

/// The rows of `ON CONFLICT DO UPDATE`: those of the statement, beside what is there.
fn upsert_query(update: DoUpdate, target: Ident, table: &SourceTable) -> Result<Query> {
    let DoUpdate {
        mut assignments,
        mut selection,
    } = update;
    // As in PostgreSQL, a name alone is one of the row that is there.
    let mut qualify = Qualify {
        target: target.clone(),
        depth: 0,
    };
    for assignment in &mut assignments {
        let _ = assignment.value.visit(&mut qualify);
    }
    if let Some(selection) = &mut selection {
        let _ = selection.visit(&mut qualify);
    }
    let excluded = syntax::ident(EXCLUDED);
    let version = SystemColumn::Version.name();
    let is_new = || Expr::IsNull(Box::new(syntax::column(&target, version)));
    let values = assigned(assignments, table)?;
    let mut projection: Vec<SelectItem> = new_values(table, &target, &values)
        .into_iter()
        .map(|(name, value)| {
            let given = syntax::column(&excluded, &name);
            syntax::aliased(syntax::case(is_new(), given, Some(value)), &name)
        })
        .collect();
    let status = SystemColumn::Status.name();
    let given = syntax::column(&excluded, status);
    projection.push(syntax::aliased(syntax::case(is_new(), given, None), status));
    projection.push(syntax::aliased(syntax::column(&target, version), version));
    let mut select = syntax::select(projection);
    let key = &table.def.key;
    let mut from = syntax::table(EXCLUDED, excluded.clone());
    from.joins.push(Join {
        relation: syntax::table(&table.name, target.clone()).relation,
        global: false,
        join_operator: JoinOperator::Left(JoinConstraint::On(binary(
            syntax::column(&target, key),
            BinaryOperator::Eq,
            syntax::column(&excluded, key),
        ))),
    });
    select.from.push(from);
    select.selection = selection.map(|selection| {
        let selection = Expr::Nested(Box::new(selection));
        binary(is_new(), BinaryOperator::Or, selection)
    });
    Ok(syntax::query(select))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

/// Puts the target before each name that stands alone, outside of subqueries.
struct Qualify {
    target: Ident,
    depth: usize,
}

impl VisitorMut for Qualify {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && self.depth == 0
        {
            *expr = Expr::CompoundIdentifier(vec![self.target.clone(), name.clone()]);
        }
        ControlFlow::Continue(())
    }
}

/// The target of UPDATE and DELETE by its plain name, and the name by which the statement calls it.
fn target(written: &TableWithJoins, table: &SourceTable) -> Result<(TableWithJoins, Ident)> {
    let alias = match &written.relation {
        TableFactor::Table { alias, .. } if written.joins.is_empty() => alias.clone(),
        _ => return Err(Error::bug("the target of a write is no table")),
    };
    let alias = alias.map_or_else(|| syntax::ident(&table.name), |alias| alias.name);
    Ok((syntax::table(&table.name, alias.clone()), alias))
}

fn update_query(update: Update, table: &SourceTable) -> Result<Query> {
    let (written, alias) = target(&update.table, table)?;
    let values = assigned(update.assignments, table)?;
    let mut projection: Vec<SelectItem> = new_values(table, &alias, &values)
        .into_iter()
        .map(|(name, value)| syntax::aliased(value, &name))
        .collect();
    let version = SystemColumn::Version.name();
    projection.push(syntax::aliased(syntax::column(&alias, version), version));
    let mut select = syntax::select(projection);
    select.from.push(written);
    match update.from {
        None => {}
        Some(UpdateTableFromKind::AfterSet(tables) | UpdateTableFromKind::BeforeSet(tables)) => {
            select.from.extend(tables);
        }
    }
    select.selection = update.selection;
    Ok(ordered(select, update.order_by, update.limit))
}

fn delete_query(delete: Delete, table: &SourceTable) -> Result<Query> {
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
    let [written] = tables.as_slice() else {
        return Err(Error::bug("a DELETE of several tables"));
    };
    let (written, alias) = target(written, table)?;
    let names = [table.def.key.as_str(), SystemColumn::Version.name()];
    let projection = names.map(|name| syntax::aliased(syntax::column(&alias, name), name));
    let mut select = syntax::select(projection.to_vec());
    select.from.push(written);
    if let Some(tables) = delete.using {
        // A row that meets several of the others is deleted once.
        select.distinct = Some(Distinct::Distinct);
        select.from.extend(tables);
    }
    select.selection = delete.selection;
    Ok(ordered(select, delete.order_by, delete.limit))
}

fn ordered(select: Select, order_by: Vec<OrderByExpr>, limit: Option<Expr>) -> Query {
    let mut query = syntax::query(select);
    if !order_by.is_empty() {
        query.order_by = Some(OrderBy {
            kind: OrderByKind::Expressions(order_by),
            interpolate: None,
        });
    }
    query.limit_clause = limit.map(|limit| LimitClause::LimitOffset {
        limit: Some(limit),
        offset: None,
        limit_by: Vec::new(),
    });
    query
}

fn system_column(column: SystemColumn) -> Error {
    let error = Error::new(
        Code::Unsupported,
        format!("system column \"{}\" cannot be written", column.name()),
    );
    match column {
        SystemColumn::Status => {
            error.with_hint("Use SELECT set_status('table', key, 'STATUS') FROM ...")
        }
        SystemColumn::StatusAt
        | SystemColumn::Locked
        | SystemColumn::LiveJobId
        | SystemColumn::LastJobId
        | SystemColumn::Version => error.with_hint("Leave it out; it follows from what happens."),
    }
}
