//! The gate: where effects may stand, what a session may run, and the rewriting of effect
//! queries into pure ones. It works on the syntax tree and does no I/O.
//!
//! After [`Gate::rewrite_effects`] the query holds no effect: each call became a carrier, a pure
//! function that returns the arguments as a struct, in a column of a reserved name.

use std::sync::Arc;

use datafusion::sql::parser::{
    CopyToSource, CopyToStatement, ResetStatement, Statement as SyntaxTree,
};
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, ObjectName, OrderByKind, Query, Select, SelectItem, Set,
    SetExpr, Statement as SqlStatement, Value, Visit,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Code, Error, Position, Result, nearest};
use crate::functions::carrier::carrier_name;
use crate::functions::effect::{EffectFunction, Procedures, Signature};
use crate::session::parser::{identifier, object_name};
use crate::session::statement::{Statement, TransformBody};
use crate::session::syntax;

mod access;
mod arguments;
mod clauses;
mod placement;

pub use access::Access;
pub use clauses::Callables;
pub use placement::names_effect;

use arguments::bind;
use clauses::Clauses;
use placement::{Found, find, function_position, misplaced};

/// The reserved name of the column that carries the arguments of the n-th effect of a query.
pub fn carrier_column(n: usize) -> String {
    format!("__effect_{n}")
}

/// Whether a name is one of [`carrier_column`].
pub fn is_carrier_column(name: &str) -> bool {
    name.starts_with("__effect_")
}

/// The rules of one session.
#[derive(Debug, Clone)]
pub struct Gate {
    access: Access,
    procedures: Procedures,
    callables: Arc<Callables>,
}

/// Where the name of an effect's column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `AS name`: a clash is an error.
    Alias,
    /// The function's name: a clash is resolved with a number.
    Function,
}

/// One effect call of the SELECT list.
#[derive(Debug, Clone)]
pub struct EffectItem {
    /// The function.
    pub function: EffectFunction,
    /// The output name that the user expects.
    pub name: String,
    /// Where the name comes from.
    pub naming: Naming,
    /// The name of the carrier's column in the rewritten query.
    pub column: String,
    /// One expression per parameter, `None` where left out.
    pub args: Vec<Option<Expr>>,
    /// Where the call stands.
    pub position: Option<Position>,
}

/// What a CALL calls.
#[derive(Debug, Clone)]
pub enum Call {
    /// An effect function: the same as a SELECT of it without FROM.
    Effect(Box<Query>),
    /// A procedure with one expression per parameter, `None` where left out.
    Procedure {
        /// Which one.
        signature: &'static Signature,
        /// The arguments.
        args: Vec<Option<Expr>>,
        /// Where the call stands.
        position: Option<Position>,
    },
}

impl Gate {
    /// The gate of a session.
    pub fn new(access: Access, procedures: Procedures, callables: Arc<Callables>) -> Self {
        Self {
            access,
            procedures,
            callables,
        }
    }

    /// The procedures that CALL knows.
    pub fn procedures(&self) -> &Procedures {
        &self.procedures
    }

    /// Judges a statement before anything of it is planned.
    ///
    /// # Arguments
    /// `sql`: the text that it was parsed from, for the places of what is refused.
    ///
    /// # Errors
    /// `SG1003 effect-misplaced`, `SG1004 effect-argument`, `SG1005 unsupported-statement`,
    /// `SG1006 setting-denied`, `SG1007 read-only`.
    pub fn check(&self, statement: &Statement, sql: &str) -> Result<()> {
        self.check_effects(statement)?;
        Clauses::new(&self.callables)
            .statement(statement)
            .map_err(|refusal| refusal.into_error(sql))
    }

    /// Whether the session may run it, and whether effects stand where they can.
    fn check_effects(&self, statement: &Statement) -> Result<()> {
        self.check_access(statement)?;
        match statement {
            Statement::Query(query) => self.refuse(query.as_ref(), "this place"),
            Statement::Effect(query) => self.rewrite_effects(query.as_ref().clone()).map(drop),
            Statement::Call(function) => self.call(function).map(drop),
            Statement::Preview(inner) => self.check_preview(inner),
            Statement::Insert { tree, .. } => self.refuse_sql(tree, "INSERT"),
            Statement::Update { tree, .. } => self.refuse_sql(tree, "UPDATE"),
            Statement::Delete { tree, .. } => self.refuse_sql(tree, "DELETE"),
            Statement::Truncate { tree, .. } => self.refuse_sql(tree, "TRUNCATE"),
            Statement::CreateTable { tree, .. } => self.refuse_sql(tree, "CREATE TABLE AS"),
            Statement::CreateView { tree, .. } => self.refuse_sql(tree, "a view"),
            Statement::CreateTransform(create) => match &create.body {
                TransformBody::Sql { query, .. } => self.refuse(query.as_ref(), "a transform"),
                TransformBody::Command(_) | TransformBody::Outside => Ok(()),
            },
            Statement::Explain {
                options, statement, ..
            } => {
                if options.analyze {
                    return self.check_analyze(statement);
                }
                match statement.as_ref() {
                    // EXPLAIN runs nothing, so any session may ask.
                    Statement::Query(_) | Statement::Effect(_) | Statement::Call(_) => {
                        let access = Access::ReadWrite;
                        Self {
                            access,
                            ..self.clone()
                        }
                        .check_effects(statement)
                    }
                    other => self.check_effects(other),
                }
            }
            Statement::Set(tree) => check_setting(tree),
            Statement::Copy(tree) => match tree.as_ref() {
                SyntaxTree::CopyTo(copy) => self.refuse_copy(copy),
                _ => Ok(()),
            },
            Statement::Prepare(tree) => self.refuse_sql(tree, "PREPARE"),
            Statement::Execute(tree) => self.refuse_sql(tree, "EXECUTE"),
            Statement::Transaction(tree) => Err(Error::new(
                Code::Unsupported,
                format!("{} is not supported", words(tree, 1)),
            )
            .with_hint(
                "Every statement is one commit: leave it out, and select all rows that \
                         belong together in one statement.",
            )),
            Statement::Other(tree) => {
                self.refuse_sql(tree, "this statement")?;
                Err(Error::new(
                    Code::Unsupported,
                    format!("{} is not supported", words(tree, 2)),
                )
                .with_hint("The command sluicegate reference lists the statements that there are."))
            }
            Statement::CreateExternalTable { .. }
            | Statement::Drop { .. }
            | Statement::Show(_)
            | Statement::ShowCreate(_)
            | Statement::Describe(_)
            | Statement::Checkpoint => Ok(()),
        }
    }

    fn check_preview(&self, inner: &Statement) -> Result<()> {
        match inner {
            Statement::Effect(query) => self.rewrite_effects(query.as_ref().clone()).map(drop),
            Statement::Call(function) => match self.call(function)? {
                Call::Effect(_) => Ok(()),
                Call::Procedure { signature, .. } => Err(Error::new(
                    Code::Unsupported,
                    format!("procedure \"{}\" cannot be previewed", signature.name),
                )
                .with_hint("PREVIEW works for effect functions, such as schedule_job.")),
            },
            _ => Err(Error::bug("PREVIEW of a statement without effects")),
        }
    }

    fn check_analyze(&self, inner: &Statement) -> Result<()> {
        match inner {
            Statement::Query(_) => self.check_effects(inner),
            Statement::Effect(query) => self.refuse(query.as_ref(), "EXPLAIN ANALYZE"),
            Statement::Call(function) => {
                let found = Found {
                    name: object_name(&function.name),
                    place: None,
                    position: function_position(function),
                };
                Err(misplaced(&found, "EXPLAIN ANALYZE"))
            }
            _ => Err(Error::new(
                Code::Unsupported,
                "EXPLAIN ANALYZE would run a statement that writes",
            )
            .with_hint("Use EXPLAIN, which runs nothing.")),
        }
    }

    fn refuse(&self, tree: &impl Visit, place: &str) -> Result<()> {
        match find(tree, &self.procedures) {
            Some(found) => Err(misplaced(&found, place)),
            None => Ok(()),
        }
    }

    fn refuse_sql(&self, tree: &SyntaxTree, place: &str) -> Result<()> {
        match tree {
            SyntaxTree::Statement(statement) => self.refuse(statement.as_ref(), place),
            _ => Ok(()),
        }
    }

    fn refuse_copy(&self, copy: &CopyToStatement) -> Result<()> {
        match &copy.source {
            CopyToSource::Query(query) => self.refuse(query.as_ref(), "COPY"),
            CopyToSource::Relation(_) => Ok(()),
        }
    }

    /// Resolves a CALL.
    ///
    /// # Errors
    /// `SG2001 unknown-object`: no such procedure; `SG1003` and `SG1004` as for a SELECT.
    pub fn call(&self, function: &Function) -> Result<Call> {
        let name = object_name(&function.name);
        if EffectFunction::named(&name).is_some() {
            let query = select_of(function.clone());
            self.rewrite_effects(query.clone())?;
            return Ok(Call::Effect(Box::new(query)));
        }
        let position = function_position(function);
        let Some(signature) = self.procedures.named(&name) else {
            let error = Error::new(
                Code::UnknownObject,
                format!("procedure \"{name}\" does not exist"),
            );
            let known: Vec<&str> = EffectFunction::ALL
                .iter()
                .map(|function| function.name())
                .chain(self.procedures.all().iter().map(|signature| signature.name))
                .collect();
            let error = match nearest(&name, known.iter().copied()) {
                Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
                None => error.with_hint(format!("There are: {}.", known.join(", "))),
            };
            return Err(match position {
                Some(position) => error.with_position(position),
                None => error,
            });
        };
        self.refuse(&function.args, "the arguments of CALL")?;
        let args = bind(signature, function)?;
        Ok(Call::Procedure {
            signature,
            args,
            position,
        })
    }

    /// Replaces every effect call by its carrier.
    ///
    /// # Returns
    /// The pure query, and the calls in the order of the SELECT list.
    ///
    /// # Errors
    /// `SG1003 effect-misplaced`: a call that is no bare item of the outermost SELECT list;
    /// `SG1004 effect-argument`.
    pub fn rewrite_effects(&self, mut query: Query) -> Result<(Query, Vec<EffectItem>)> {
        if let Some(with) = &query.with {
            self.refuse(with, "a CTE (WITH)")?;
        }
        if !query.pipe_operators.is_empty() {
            self.refuse(&query, "a query with pipe operators")?;
        }
        match query.body.as_ref() {
            SetExpr::Select(_) => {}
            SetExpr::SetOperation { op, .. } => {
                self.refuse(query.body.as_ref(), &op.to_string())?;
            }
            SetExpr::Query(_) => self.refuse(query.body.as_ref(), "a query in parentheses")?,
            SetExpr::Values(_) => self.refuse(query.body.as_ref(), "VALUES")?,
            SetExpr::Insert(_)
            | SetExpr::Update(_)
            | SetExpr::Delete(_)
            | SetExpr::Merge(_)
            | SetExpr::Table(_) => self.refuse(query.body.as_ref(), "this statement")?,
        }
        let mut items = Vec::new();
        if let SetExpr::Select(select) = query.body.as_mut() {
            items = self.rewrite_select(select)?;
            self.check_clauses(select, &items)?;
        }
        self.check_order(&query, &items)?;
        // Whatever clause is left that has no name here, an effect in it is refused as well.
        self.refuse(&query, "this clause")?;
        Ok((query, items))
    }

    fn rewrite_select(&self, select: &mut Select) -> Result<Vec<EffectItem>> {
        let distinct = match &select.distinct {
            Some(Distinct::Distinct | Distinct::On(_)) => true,
            Some(Distinct::All) | None => false,
        };
        let mut items = Vec::new();
        for item in &mut select.projection {
            let (call, alias) = match item {
                SelectItem::UnnamedExpr(Expr::Function(call)) => (call, None),
                SelectItem::ExprWithAlias {
                    expr: Expr::Function(call),
                    alias,
                } => (call, Some(alias)),
                _ => {
                    self.refuse(item, "an expression")?;
                    continue;
                }
            };
            let Some(function) = effect_named(&call.name) else {
                self.refuse(item, "an expression")?;
                continue;
            };
            let position = function_position(call);
            let here = Found {
                name: function.name().to_owned(),
                place: None,
                position,
            };
            if distinct {
                return Err(misplaced(&here, "SELECT DISTINCT"));
            }
            self.refuse(&call.args, "the arguments of an effect function")?;
            if let Some(clause) = extra_clause(call) {
                return Err(misplaced(&here, clause));
            }
            let args = bind(function.signature(), call)?;
            let (name, naming) = match alias {
                Some(alias) => (identifier(alias), Naming::Alias),
                None => (function.name().to_owned(), Naming::Function),
            };
            let column = carrier_column(items.len());
            *item = syntax::aliased(carrier_call(function.signature(), &args), &column);
            items.push(EffectItem {
                function,
                name,
                naming,
                column,
                args,
                position,
            });
        }
        Ok(items)
    }

    fn check_clauses(&self, select: &Select, items: &[EffectItem]) -> Result<()> {
        if select.into.is_some()
            && let Some(first) = items.first()
        {
            return Err(misplaced(&first.found(), "SELECT INTO"));
        }
        self.refuse(&select.distinct, "SELECT DISTINCT")?;
        for table in &select.from {
            self.refuse(&table.relation, "FROM")?;
            self.refuse(&table.joins, "JOIN ... ON")?;
        }
        self.refuse(&select.selection, "WHERE")?;
        self.refuse(&select.group_by, "GROUP BY")?;
        self.refuse(&select.having, "HAVING")?;
        self.refuse(&select.qualify, "QUALIFY")?;
        self.refuse(&select.named_window, "WINDOW")?;
        let aliases: Vec<&EffectItem> = items
            .iter()
            .filter(|item| item.naming == Naming::Alias)
            .collect();
        refuse_names(&select.having, &aliases, "HAVING")?;
        refuse_names(&select.qualify, &aliases, "QUALIFY")?;
        match &select.group_by {
            GroupByExpr::All(_) => match items.first() {
                Some(first) => Err(misplaced(&first.found(), "GROUP BY ALL")),
                None => Ok(()),
            },
            GroupByExpr::Expressions(exprs, _) => {
                refuse_names(exprs, &aliases, "GROUP BY")?;
                exprs
                    .iter()
                    .try_for_each(|e| refuse_ordinal(e, select, items, "GROUP BY"))
            }
        }
    }

    fn check_order(&self, query: &Query, items: &[EffectItem]) -> Result<()> {
        let Some(order_by) = &query.order_by else {
            return Ok(());
        };
        self.refuse(order_by, "ORDER BY")?;
        match &order_by.kind {
            OrderByKind::All(_) => match items.first() {
                Some(first) => Err(misplaced(&first.found(), "ORDER BY ALL")),
                None => Ok(()),
            },
            OrderByKind::Expressions(exprs) => {
                let named: Vec<&EffectItem> = items.iter().collect();
                refuse_names(exprs, &named, "ORDER BY")?;
                let SetExpr::Select(select) = query.body.as_ref() else {
                    return Ok(());
                };
                exprs
                    .iter()
                    .try_for_each(|order| refuse_ordinal(&order.expr, select, items, "ORDER BY"))
            }
        }
    }
}

impl EffectItem {
    fn found(&self) -> Found {
        Found {
            name: self.function.name().to_owned(),
            place: None,
            position: self.position,
        }
    }
}

/// The error for a plan in which a carrier stands where the gate could not see it.
pub fn misplaced_in_plan(item: &EffectItem, clause: &str) -> Error {
    misplaced(&item.found(), clause)
}

fn refuse_names(tree: &impl Visit, items: &[&EffectItem], clause: &str) -> Result<()> {
    match items
        .iter()
        .find_map(|item| placement::find_column(tree, &item.name).map(|position| (item, position)))
    {
        Some((item, position)) => {
            let found = Found {
                name: item.function.name().to_owned(),
                place: None,
                position,
            };
            Err(misplaced(&found, clause).with_detail(format!(
                "\"{}\" names the result of the effect. If a column of a table is meant, write \
                 the table before it.",
                item.name
            )))
        }
        None => Ok(()),
    }
}

/// Refuses `ORDER BY 2` where the second item is an effect. Behind a wildcard the number says
/// nothing yet; the plan is checked for that.
fn refuse_ordinal(expr: &Expr, select: &Select, items: &[EffectItem], clause: &str) -> Result<()> {
    let Expr::Value(value) = expr else {
        return Ok(());
    };
    let Value::Number(number, _) = &value.value else {
        return Ok(());
    };
    let index = number.parse::<usize>().unwrap_or(0).wrapping_sub(1);
    let wildcard = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    };
    if select
        .projection
        .iter()
        .take(index.saturating_add(1))
        .any(wildcard)
    {
        return Ok(());
    }
    let column = match select.projection.get(index) {
        Some(SelectItem::ExprWithAlias { alias, .. }) => &alias.value,
        _ => return Ok(()),
    };
    match items.iter().find(|item| item.column == *column) {
        Some(item) => Err(misplaced(&item.found(), clause)),
        None => Ok(()),
    }
}

/// The effect function that a name resolves to.
fn effect_named(name: &ObjectName) -> Option<EffectFunction> {
    EffectFunction::named(&object_name(name))
}

/// A clause on the call that only other kinds of functions have.
fn extra_clause(call: &Function) -> Option<&'static str> {
    if call.over.is_some() {
        return Some("a window (OVER)");
    }
    if call.filter.is_some() {
        return Some("FILTER");
    }
    if !call.within_group.is_empty() {
        return Some("WITHIN GROUP");
    }
    None
}

fn carrier_call(signature: &Signature, args: &[Option<Expr>]) -> Expr {
    let null = || Expr::Value(Value::Null.with_empty_span());
    let args = args
        .iter()
        .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg.clone().unwrap_or_else(null))))
        .collect();
    Expr::Function(syntax::function(
        syntax::ident(&carrier_name(signature.name)),
        FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
    ))
}

/// `SELECT carrier(args)`, for the arguments of a procedure that are no constants.
pub fn arguments_query(signature: &Signature, args: &[Option<Expr>]) -> Query {
    let item = syntax::aliased(carrier_call(signature, args), &carrier_column(0));
    syntax::query(syntax::select(vec![item]))
}

fn select_of(call: Function) -> Query {
    let item = SelectItem::UnnamedExpr(Expr::Function(call));
    syntax::query(syntax::select(vec![item]))
}

fn check_setting(tree: &SyntaxTree) -> Result<()> {
    let names: Vec<String> = match tree {
        SyntaxTree::Reset(ResetStatement::Variable(name)) => {
            vec![object_name(name)]
        }
        SyntaxTree::Statement(statement) => match statement.as_ref() {
            SqlStatement::Set(Set::SingleAssignment { variable, .. }) => {
                vec![object_name(variable)]
            }
            SqlStatement::Set(Set::ParenthesizedAssignments { variables, .. }) => {
                variables.iter().map(object_name).collect()
            }
            SqlStatement::Set(Set::MultipleAssignments { assignments }) => assignments
                .iter()
                .map(|assignment| object_name(&assignment.name))
                .collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    check_time_zone(tree)?;
    // DataFusion reads the names without regard to case, quoted or not.
    let denied = |name: &&String| {
        let name = name.to_lowercase();
        DENIED_SETTINGS.iter().find(|(part, _)| name.contains(part))
    };
    match names.iter().find_map(|name| Some((name, denied(&name)?))) {
        Some((name, (_, hint))) => Err(Error::new(
            Code::SettingDenied,
            format!("setting \"{name}\" cannot be changed in a session"),
        )
        .with_hint(*hint)),
        None => Ok(()),
    }
}

/// Refuses a time zone of the session: a cast between a time with and one without a zone would
/// depend on it, and DataFusion takes it into account in some comparisons only.
fn check_time_zone(tree: &SyntaxTree) -> Result<()> {
    let SyntaxTree::Statement(statement) = tree else {
        return Ok(());
    };
    let values: Vec<&Expr> = match statement.as_ref() {
        SqlStatement::Set(Set::SetTimeZone { local: _, value }) => vec![value],
        SqlStatement::Set(Set::SingleAssignment {
            variable, values, ..
        }) if names_time_zone(&object_name(variable)) => values.iter().collect(),
        _ => return Ok(()),
    };
    let utc = |value: &&Expr| {
        let text = value.to_string();
        ["utc", "z", "+00:00", "etc/utc"]
            .iter()
            .any(|zone| text.trim_matches('\'').eq_ignore_ascii_case(zone))
    };
    match values.iter().find(|value| !utc(value)) {
        Some(zone) => Err(Error::new(
            Code::SettingDenied,
            format!("time zone {zone} cannot be that of a session"),
        )
        .with_detail("Every time is UTC, whoever asks, so that a comparison means the same to all.")
        .with_hint(format!(
            "To show a time elsewhere, write status_at AT TIME ZONE {zone}."
        ))),
        None => Ok(()),
    }
}

fn names_time_zone(name: &str) -> bool {
    let letters: String = name.chars().filter(char::is_ascii_alphabetic).collect();
    letters.to_ascii_lowercase().ends_with("timezone")
}

/// Settings that are not a session's to change, by a part of their names, with the way out.
const DENIED_SETTINGS: &[(&str, &str)] = &[
    (
        "datafusion.runtime",
        "The limits of memory and disk are set where the server or REPL is started.",
    ),
    (
        "datafusion.catalog",
        "A store has one catalog and one schema; every name is found without them.",
    ),
    (
        "datafusion.sql_parser",
        "Every session must read a statement, a view or a transform in the same way.",
    ),
];

fn words(tree: &SyntaxTree, count: usize) -> String {
    let text = tree.to_string();
    let words: Vec<&str> = text.split_whitespace().take(count).collect();
    words.join(" ").to_uppercase()
}

fn position_of(span: Span) -> Option<Position> {
    (span.start.line > 0).then_some(Position {
        line: span.start.line,
        column: span.start.column,
    })
}

#[cfg(test)]
mod tests;
