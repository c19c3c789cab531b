//! Expressions, calls of functions, and windows.

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, Interval, JsonPathElem, LambdaFunction, Spanned,
    Subscript, WindowFrame, WindowFrameBound, WindowSpec, WindowType,
};

use super::{Checked, Clauses, Place, RED_ZONE_BYTES, STACK_BYTES, absent, refused};
use crate::session::parser::object_name;

/// What a function that is called can have.
struct Kind<'a> {
    called: &'a str,
    aggregate: bool,
    window: bool,
}

impl Kind<'_> {
    /// Refuses what aggregates alone can have.
    fn of_aggregates(&self, there: bool, clause: &str, near: impl Place) -> Checked {
        self.only(there && !self.aggregate, clause, near, "aggregate")
    }

    /// Refuses what windows alone can have, and aggregates as windows.
    fn of_windows(&self, there: bool, clause: &str, near: impl Place) -> Checked {
        self.only(there && !self.window, clause, near, "window")
    }

    fn only(&self, misplaced: bool, clause: &str, near: impl Place, kind: &str) -> Checked {
        if misplaced {
            let hint = format!("\"{}\" is no {kind} function; leave it out.", self.called);
            return Err(refused(clause, near, hint));
        }
        Ok(())
    }
}

impl Clauses<'_> {
    pub(super) fn exprs(&self, exprs: &[Expr]) -> Checked {
        exprs.iter().try_for_each(|expr| self.expr(expr))
    }

    pub(super) fn option(&self, expr: Option<&Expr>) -> Checked {
        expr.map_or(Ok(()), |expr| self.expr(expr))
    }

    pub(super) fn expr(&self, expr: &Expr) -> Checked {
        // A chain of operators is as deep as it is long.
        stacker::maybe_grow(RED_ZONE_BYTES, STACK_BYTES, || self.part(expr))
    }

    fn part(&self, expr: &Expr) -> Checked {
        let near = || expr.span();
        match expr {
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            // The type and the text; the planner reads both.
            | Expr::TypedString(_)
            | Expr::Wildcard(_)
            | Expr::QualifiedWildcard(..) => Ok(()),
            Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner)
            | Expr::Nested(inner)
            | Expr::UnaryOp { op: _, expr: inner }
            | Expr::Named { expr: inner, name: _ } => self.expr(inner),
            Expr::IsDistinctFrom(left, right)
            | Expr::IsNotDistinctFrom(left, right)
            | Expr::BinaryOp { left, op: _, right }
            | Expr::AllOp { left, compare_op: _, right }
            // SOME is ANY.
            | Expr::AnyOp { left, compare_op: _, right, is_some: _ } => {
                self.expr(left)?;
                self.expr(right)
            }
            Expr::InList { expr, list, negated: _ } => {
                self.expr(expr)?;
                self.exprs(list)
            }
            Expr::InSubquery { expr, subquery, negated: _ } => {
                self.expr(expr)?;
                self.query(subquery)
            }
            Expr::Between { expr, negated: _, low, high } => {
                self.expr(expr)?;
                self.expr(low)?;
                self.expr(high)
            }
            Expr::Exists { subquery, negated: _ } | Expr::Subquery(subquery) => {
                self.query(subquery)
            }
            Expr::Like { negated: _, any, expr, pattern, escape_char: _ }
            | Expr::ILike { negated: _, any, expr, pattern, escape_char: _ } => {
                absent(*any, "ANY", near, "Write one LIKE for each pattern, with OR.")?;
                self.expr(expr)?;
                self.expr(pattern)
            }
            Expr::Function(function) => self.function(function),
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                self.option(operand.as_deref())?;
                for when in conditions {
                    self.expr(&when.condition)?;
                    self.expr(&when.result)?;
                }
                self.option(else_result.as_deref())
            }
            Expr::Cast { kind: _, expr, data_type: _, array, format } => {
                absent(*array, "ARRAY", near, "Write the type with brackets: CAST(x AS TEXT[]).")?;
                absent(format.is_some(), "FORMAT", near, "Use to_date(text, format) or to_char.")?;
                self.expr(expr)
            }
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                sets.iter().try_for_each(|set| self.exprs(set))
            }
            Expr::Array(array) => self.exprs(&array.elem),
            Expr::Tuple(values) => self.exprs(values),
            Expr::CompoundFieldAccess { .. }
            | Expr::JsonAccess { .. }
            | Expr::AtTimeZone { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Struct { .. }
            | Expr::Dictionary(_)
            | Expr::Map(_)
            | Expr::Interval(_)
            | Expr::Lambda(_)
            | Expr::SimilarTo { .. }
            | Expr::RLike { .. }
            | Expr::IsNormalized { .. }
            | Expr::InUnnest { .. }
            | Expr::Convert { .. }
            | Expr::Collate { .. }
            | Expr::Prefixed { .. }
            | Expr::MatchAgainst { .. }
            | Expr::OuterJoin(_)
            | Expr::Prior(_)
            | Expr::MemberOf(_) => self.special(expr, near),
        }
    }

    /// The rest of [`Clauses::part`]: forms with words of their own.
    fn special(&self, expr: &Expr, near: impl Place) -> Checked {
        match expr {
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root)?;
                access_chain
                    .iter()
                    .try_for_each(|access| self.access(access))
            }
            Expr::JsonAccess { value, path } => {
                self.expr(value)?;
                path.path.iter().try_for_each(|part| match part {
                    JsonPathElem::Dot { .. } => Ok(()),
                    JsonPathElem::Bracket { key } | JsonPathElem::ColonBracket { key } => {
                        self.expr(key)
                    }
                })
            }
            Expr::AtTimeZone {
                timestamp,
                time_zone,
            } => {
                self.expr(timestamp)?;
                self.expr(time_zone)
            }
            // A comma or FROM, either way.
            Expr::Extract {
                field: _,
                syntax: _,
                expr,
            } => self.expr(expr),
            // The planner refuses the fields that it does not know.
            Expr::Ceil { expr, field: _ } | Expr::Floor { expr, field: _ } => self.expr(expr),
            Expr::Position { expr, r#in } => {
                self.expr(expr)?;
                self.expr(r#in)
            }
            Expr::Substring {
                expr,
                substring_from,
                substring_for,
                special: _,   // Commas in the place of FROM and FOR.
                shorthand: _, // SUBSTR.
            } => {
                self.expr(expr)?;
                self.option(substring_from.as_deref())?;
                self.option(substring_for.as_deref())
            }
            Expr::Trim {
                trim_where: _,
                trim_what,
                expr,
                trim_characters,
            } => {
                self.option(trim_what.as_deref())?;
                self.expr(expr)?;
                trim_characters
                    .as_ref()
                    .map_or(Ok(()), |all| self.exprs(all))
            }
            Expr::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                self.expr(expr)?;
                self.expr(overlay_what)?;
                self.expr(overlay_from)?;
                self.option(overlay_for.as_deref())
            }
            Expr::Struct { values, fields } => {
                absent(
                    !fields.is_empty(),
                    "STRUCT",
                    near,
                    "Use named_struct('name', value, ...).",
                )?;
                self.exprs(values)
            }
            Expr::Dictionary(fields) => fields.iter().try_for_each(|field| self.expr(&field.value)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| {
                self.expr(&entry.key)?;
                self.expr(&entry.value)
            }),
            Expr::Interval(interval) => self.interval(interval, near),
            Expr::Lambda(LambdaFunction {
                params: _,
                body,
                syntax: _,
            }) => self.expr(body),
            // The planner takes the pattern for a regular expression.
            Expr::SimilarTo { .. } => Err(refused(
                "SIMILAR TO",
                near,
                "Use LIKE with % and _, or ~ with a regular expression.",
            )),
            Expr::RLike { .. } => Err(refused("RLIKE", near, "Use ~ with a regular expression.")),
            Expr::IsNormalized { .. } => Err(refused(
                "NORMALIZED",
                near,
                "Compare the texts as they are.",
            )),
            Expr::InUnnest { .. } => Err(refused(
                "UNNEST",
                near,
                "Use array_has(list, value) or = ANY(list).",
            )),
            Expr::Convert { .. } => Err(refused("CONVERT", near, "Use CAST(value AS type).")),
            Expr::Collate { .. } => Err(refused(
                "COLLATE",
                near,
                "Texts compare by their code points; lower() and translate() help.",
            )),
            Expr::Prefixed { .. } => Err(refused("prefix", near, "Texts are UTF-8.")),
            Expr::MatchAgainst { .. } => Err(refused(
                "MATCH",
                near,
                "Use LIKE, or ~ with a regular expression.",
            )),
            Expr::OuterJoin(_) => Err(refused("(+)", near, "Write LEFT JOIN ... ON ...")),
            Expr::Prior(_) => Err(refused("PRIOR", near, "Use WITH RECURSIVE.")),
            Expr::MemberOf(_) => Err(refused("MEMBER OF", near, "Use array_has(list, value).")),
            // Those of `part`, which names every kind, so that a new one is an error.
            _ => Ok(()),
        }
    }

    fn interval(&self, interval: &Interval, near: impl Place) -> Checked {
        let Interval {
            value,
            leading_field: _, // Planned.
            leading_precision,
            last_field,
            fractional_seconds_precision,
        } = interval;
        let hint = "Write the units into the text: INTERVAL '1 day 2 hours'.";
        absent(
            leading_precision.is_some()
                || last_field.is_some()
                || fractional_seconds_precision.is_some(),
            "INTERVAL",
            near,
            hint,
        )?;
        self.expr(value)
    }

    fn access(&self, access: &AccessExpr) -> Checked {
        match access {
            AccessExpr::Dot(expr) => self.expr(expr),
            AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index),
            AccessExpr::Subscript(Subscript::Slice {
                lower_bound,
                upper_bound,
                stride,
            }) => {
                self.option(lower_bound.as_ref())?;
                self.option(upper_bound.as_ref())?;
                self.option(stride.as_ref())
            }
        }
    }

    /// A call. What belongs to aggregates and windows only is refused on other functions, to
    /// which the planner does not give it.
    pub(super) fn function(&self, function: &Function) -> Checked {
        let Function {
            name,
            uses_odbc_syntax: _, // {fn f(x)} is f(x).
            parameters,
            args,
            filter,
            null_treatment,
            over,
            within_group,
        } = function;
        let near = || name.span();
        let called = object_name(name);
        absent(
            !matches!(parameters, FunctionArguments::None),
            "second list of arguments",
            near,
            "Give all arguments in one list.",
        )?;
        let aggregate = self.callables.aggregates.contains(&called);
        let kind = Kind {
            called: &called,
            aggregate,
            window: aggregate || self.callables.windows.contains(&called),
        };
        kind.of_aggregates(filter.is_some(), "FILTER", near)?;
        kind.of_aggregates(!within_group.is_empty(), "WITHIN GROUP", near)?;
        kind.of_windows(over.is_some(), "OVER", near)?;
        kind.of_windows(null_treatment.is_some(), "NULLS", near)?;
        match args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(_) => {
                return Err(refused(
                    format!("query as the argument of {called}"),
                    near,
                    "Put the query in parentheses of its own: f((SELECT ...)).",
                ));
            }
            FunctionArguments::List(list) => {
                self.argument_list(list, near, &kind)?;
            }
        }
        self.option(filter.as_deref())?;
        self.order_by_exprs(within_group)?;
        match over {
            None | Some(WindowType::NamedWindow(_)) => Ok(()),
            Some(WindowType::WindowSpec(spec)) => self.window(spec),
        }
    }

    fn argument_list(
        &self,
        list: &FunctionArgumentList,
        near: impl Place,
        kind: &Kind<'_>,
    ) -> Checked {
        let FunctionArgumentList {
            duplicate_treatment,
            args,
            clauses,
        } = list;
        kind.of_aggregates(duplicate_treatment.is_some(), "DISTINCT", near)?;
        args.iter().try_for_each(|arg| self.argument(arg))?;
        for clause in clauses {
            match clause {
                FunctionArgumentClause::OrderBy(exprs) => {
                    kind.of_aggregates(true, "ORDER BY", near)?;
                    self.order_by_exprs(exprs)?;
                }
                FunctionArgumentClause::IgnoreOrRespectNulls(_) => {
                    kind.only(!kind.window, "NULLS", near, "aggregate")?;
                }
                FunctionArgumentClause::Limit(_)
                | FunctionArgumentClause::OnOverflow(_)
                | FunctionArgumentClause::Having(_)
                | FunctionArgumentClause::Separator(_)
                | FunctionArgumentClause::JsonNullClause(_)
                | FunctionArgumentClause::JsonReturningClause(_) => {
                    return Err(refused(
                        clause.to_string(),
                        near,
                        "Give arguments, DISTINCT and ORDER BY only.",
                    ));
                }
            }
        }
        Ok(())
    }

    fn argument(&self, arg: &FunctionArg) -> Checked {
        // Named arguments are resolved, or refused by name, by whoever knows the function.
        let value = match arg {
            FunctionArg::Named {
                name: _,
                arg,
                operator: _,
            }
            | FunctionArg::Unnamed(arg) => arg,
            FunctionArg::ExprNamed {
                name,
                arg,
                operator: _,
            } => {
                self.expr(name)?;
                arg
            }
        };
        match value {
            FunctionArgExpr::Expr(expr) => self.expr(expr),
            FunctionArgExpr::Wildcard => Ok(()),
            FunctionArgExpr::QualifiedWildcard(name) => Err(refused(
                format!("{name}.*"),
                || arg.span(),
                "Name a column, such as the key: count(t.key) counts the rows where it is there.",
            )),
            FunctionArgExpr::WildcardWithOptions(options) => Err(refused(
                format!("*{options}"),
                || arg.span(),
                "Write * alone, or name a column.",
            )),
        }
    }

    /// The arguments of a table function, which are known by their places.
    pub(super) fn table_arguments(&self, args: &[FunctionArg]) -> Checked {
        for arg in args {
            match arg {
                FunctionArg::Unnamed(_) => self.argument(arg)?,
                FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => {
                    return Err(refused(
                        "named argument",
                        || arg.span(),
                        "A table function takes its arguments in their order, without names.",
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn window(&self, spec: &WindowSpec) -> Checked {
        let WindowSpec {
            window_name,
            partition_by,
            order_by,
            window_frame,
        } = spec;
        if let Some(name) = window_name {
            return Err(refused(
                format!("window {name} within a window"),
                || name.span,
                "Write the window out: OVER (PARTITION BY ... ORDER BY ...).",
            ));
        }
        self.exprs(partition_by)?;
        self.order_by_exprs(order_by)?;
        let Some(frame) = window_frame else {
            return Ok(());
        };
        let WindowFrame {
            units: _, // Planned.
            start_bound,
            end_bound,
        } = frame;
        let bound = |bound: &WindowFrameBound| match bound {
            WindowFrameBound::CurrentRow => Ok(()),
            WindowFrameBound::Preceding(expr) | WindowFrameBound::Following(expr) => {
                self.option(expr.as_deref())
            }
        };
        bound(start_bound)?;
        end_bound.as_ref().map_or(Ok(()), bound)
    }
}
