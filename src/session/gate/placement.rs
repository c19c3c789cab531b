//! Finds effect calls in a syntax tree, and tells the user where one cannot stand.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, ObjectName, Query, Spanned, TableFactor, Visit, Visitor,
};

use crate::error::{Code, Error, Position};
use crate::functions::effect::{EffectFunction, Procedures};
use crate::session::gate::position_of;
use crate::session::parser::{identifier, object_name};

/// An effect call that was found.
pub(super) struct Found {
    /// The function.
    pub name: String,
    /// What encloses it within the clause that was searched.
    pub place: Option<String>,
    /// Where it stands.
    pub position: Option<Position>,
}

/// Whether an effect function, or a procedure that only CALL runs, is named anywhere.
pub fn names_effect(tree: &impl Visit) -> bool {
    find(tree, &Procedures::default()).is_some()
}

/// The first effect call in the tree, at any depth.
pub(super) fn find(tree: &impl Visit, procedures: &Procedures) -> Option<Found> {
    let mut finder = Finder {
        procedures,
        enclosing: Vec::new(),
    };
    match tree.visit(&mut finder) {
        ControlFlow::Break(found) => Some(*found),
        ControlFlow::Continue(()) => None,
    }
}

/// The unqualified use of a column of this name outside subqueries, with its position.
pub(super) fn find_column(tree: &impl Visit, name: &str) -> Option<Option<Position>> {
    let mut finder = ColumnFinder { name, depth: 0 };
    match tree.visit(&mut finder) {
        ControlFlow::Break(position) => Some(position),
        ControlFlow::Continue(()) => None,
    }
}

/// Where the name of a call stands.
pub(super) fn function_position(call: &Function) -> Option<Position> {
    position_of(call.name.span())
}

struct Finder<'a> {
    procedures: &'a Procedures,
    /// What the walk is inside of, outermost first; `None` for what needs no mention.
    enclosing: Vec<Option<String>>,
}

impl Finder<'_> {
    fn check_name(&self, name: &ObjectName) -> ControlFlow<Box<Found>> {
        let resolved = object_name(name);
        let effect = EffectFunction::named(&resolved).is_some();
        if !effect && self.procedures.named(&resolved).is_none() {
            return ControlFlow::Continue(());
        }
        let place = self.enclosing.iter().rev().flatten().next().cloned();
        ControlFlow::Break(Box::new(Found {
            name: resolved,
            place,
            position: position_of(name.span()),
        }))
    }
}

impl Visitor for Finder<'_> {
    type Break = Box<Found>;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        let nested = !self.enclosing.is_empty();
        self.enclosing.push(nested.then(|| "a subquery".to_owned()));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.enclosing.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                name,
                args: Some(_),
                ..
            }
            | TableFactor::Function { name, .. } => self.check_name(name)?,
            _ => {}
        }
        let derived = matches!(factor, TableFactor::Derived { .. });
        self.enclosing
            .push(derived.then(|| "a subquery".to_owned()));
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, _factor: &TableFactor) -> ControlFlow<Self::Break> {
        self.enclosing.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::Function(function) = expr {
            self.check_name(&function.name)?;
        }
        self.enclosing.push(describe(expr));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<Self::Break> {
        self.enclosing.pop();
        ControlFlow::Continue(())
    }
}

fn describe(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Case { .. } => "a CASE expression".to_owned(),
        Expr::Cast { .. } | Expr::Convert { .. } => "a cast".to_owned(),
        Expr::CompoundFieldAccess { .. } | Expr::JsonAccess { .. } => "a field access".to_owned(),
        Expr::InList { .. } => "an IN list".to_owned(),
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            "a subquery".to_owned()
        }
        Expr::Function(function) => {
            format!(
                "the arguments of {}",
                object_name(&function.name).to_uppercase()
            )
        }
        Expr::Nested(_) => "parentheses".to_owned(),
        _ => "an expression".to_owned(),
    })
}

struct ColumnFinder<'a> {
    name: &'a str,
    depth: usize,
}

impl Visitor for ColumnFinder<'_> {
    type Break = Option<Position>;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Identifier(ident) if self.depth == 0 && identifier(ident) == self.name => {
                ControlFlow::Break(position_of(ident.span))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The error for an effect in a clause where it cannot stand.
pub(super) fn misplaced(found: &Found, clause: &str) -> Error {
    let name = &found.name;
    let clause = match &found.place {
        // The enclosing expression says more than the generic words.
        Some(place) if matches!(clause, "an expression" | "this place" | "this clause") => {
            place.clone()
        }
        Some(place) if place == clause => place.clone(),
        Some(place) => format!("{clause}, in {place}"),
        None => clause.to_owned(),
    };
    let error = if EffectFunction::named(name).is_some() {
        Error::new(
            Code::EffectMisplaced,
            format!("effect function \"{name}\" cannot stand in {clause}"),
        )
        .with_hint(way_out(name, &clause))
    } else {
        Error::new(
            Code::EffectMisplaced,
            format!("procedure \"{name}\" cannot stand in a query"),
        )
        .with_hint(format!("Only CALL runs it: CALL {name}(...)."))
    };
    match found.position {
        Some(position) => error.with_position(position),
        None => error,
    }
}

fn way_out(name: &str, clause: &str) -> String {
    let within = |word: &str| clause.contains(word);
    if within("DISTINCT") {
        format!("Select the distinct rows below it: SELECT {name}(...) FROM (SELECT DISTINCT ...).")
    } else if within("UNION") || within("INTERSECT") || within("EXCEPT") {
        format!("Combine the rows below it: SELECT {name}(...) FROM (SELECT ... UNION ALL ...).")
    } else if within("EXPLAIN ANALYZE") {
        "Use EXPLAIN, which runs nothing, or PREVIEW, which shows the outcome of each row."
            .to_owned()
    } else if within("PREPARE") || within("EXECUTE") {
        "Send the statement itself each time; an idempotency key makes a repetition safe."
            .to_owned()
    } else if within("a view") {
        format!("Keep the view pure and write SELECT {name}(...) FROM the view.")
    } else if within("a transform") {
        "A transform returns rows; its status and columns are written when its job completes."
            .to_owned()
    } else if within("CREATE TABLE") || within("INSERT") || within("COPY") || within("INTO") {
        "Run it as a statement of its own; jobs, locks and events show afterwards what it did."
            .to_owned()
    } else if within("arguments of an effect") {
        "Use two statements, one after the other.".to_owned()
    } else if within("ORDER BY") || within("GROUP BY") {
        format!("{name} runs after {clause}; order and group by columns of the tables.")
    } else {
        format!(
            "It runs once per final row: make it a bare item of the outermost SELECT list, \
             SELECT {name}(...) FROM ..., and keep everything around it pure."
        )
    }
}
