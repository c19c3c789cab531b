//! Pieces of syntax trees that we make ourselves, such as the query below a writing statement.
//!
//! Names are quoted: they are what they are, in whatever case. Pure.

use datafusion::sql::parser::Statement as Tree;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    CaseWhen, Expr, Function, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart,
    Query, Select, SelectFlavor, SelectItem, SetExpr, Statement, TableAlias, TableFactor,
    TableWithJoins,
};

/// A name that is taken as it is.
pub fn ident(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

/// The name of an object, of one part.
pub fn name(name: Ident) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(name)])
}

/// `table.column`
pub fn column(table: &Ident, column: &str) -> Expr {
    Expr::CompoundIdentifier(vec![table.clone(), ident(column)])
}

/// `expr AS "name"`
pub fn aliased(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias {
        expr,
        alias: ident(name),
    }
}

/// `CASE WHEN condition THEN then ELSE otherwise END`
pub fn case(condition: Expr, then: Expr, otherwise: Option<Expr>) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen {
            condition,
            result: then,
        }],
        else_result: otherwise.map(Box::new),
    }
}

/// A call without arguments yet.
pub fn function(called: Ident, args: FunctionArguments) -> Function {
    Function {
        name: name(called),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }
}

/// `"table" AS alias`
pub fn table(called: &str, alias: Ident) -> TableWithJoins {
    TableWithJoins {
        relation: TableFactor::Table {
            name: name(ident(called)),
            alias: Some(TableAlias {
                explicit: true,
                name: alias,
                columns: Vec::new(),
                at: None,
            }),
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        },
        joins: Vec::new(),
    }
}

/// `SELECT projection`
pub fn select(projection: Vec<SelectItem>) -> Select {
    Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from: Vec::new(),
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    }
}

/// A query that is one SELECT.
pub fn query(select: Select) -> Query {
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}

/// A query as DataFusion plans it.
pub fn query_tree(query: Query) -> Tree {
    Tree::Statement(Box::new(Statement::Query(Box::new(query))))
}
