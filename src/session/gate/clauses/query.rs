//! Queries: WITH, SELECT, FROM, joins, ORDER BY, LIMIT and what may follow them.

use datafusion::sql::sqlparser::ast::{
    ConnectByKind, Cte, CteAsMaterialized, Distinct, ExprWithAlias, ExprWithAliasAndOrderBy,
    GroupByExpr, GroupByWithModifier, Join, JoinConstraint, JoinOperator, LimitClause,
    NamedWindowDefinition, NamedWindowExpr, ObjectName, OrderBy, OrderByExpr, OrderByKind,
    OrderByOptions, PipeOperator, Query, Select, SelectFlavor, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, Spanned, TableAlias, TableFactor,
    TableWithJoins, Values, WildcardAdditionalOptions, With,
};

use super::{Checked, Clauses, Place, RED_ZONE_BYTES, STACK_BYTES, absent, refused};

const LEAVE_OUT: &str = "Leave it out; it would change nothing.";
const DERIVED: &str = "Write it with a subquery, a join or UNION ALL.";
const NUMBERED: &str = "Use row_number() OVER ().";
const OWN_TABLE: &str = "Use a subquery in FROM, or a table function of the reference.";

impl Clauses<'_> {
    pub(super) fn query(&self, query: &Query) -> Checked {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let near = || query.span();
        if let Some(with) = with {
            self.with(with)?;
        }
        self.set_expr(body)?;
        if let Some(order_by) = order_by {
            self.order_by(order_by, body)?;
        }
        if let Some(limit) = limit_clause {
            self.limit(limit, near)?;
        }
        absent(fetch.is_some(), "FETCH", near, "Write LIMIT n.")?;
        absent(
            !locks.is_empty(),
            "FOR",
            near,
            "A query locks nothing; acquire_lock('table/key') does, and a running job holds its \
             source.",
        )?;
        absent(
            for_clause.is_some(),
            "FOR",
            near,
            "The format of the answer is chosen at the prompt (\\format) or by the request.",
        )?;
        absent(
            settings.is_some(),
            "SETTINGS",
            near,
            "Use SET before the query.",
        )?;
        absent(
            format_clause.is_some(),
            "FORMAT",
            near,
            "The format of the answer is chosen at the prompt (\\format) or by the request.",
        )?;
        pipe_operators
            .iter()
            .try_for_each(|one| self.pipe(one, near))
    }

    fn with(&self, with: &With) -> Checked {
        let With {
            with_token: _, // A place.
            recursive,
            cte_tables,
        } = with;
        for cte in cte_tables {
            let Cte {
                alias,
                query,
                from,
                materialized,
                closing_paren_token: _, // A place.
            } = cte;
            let near = || alias.name.span;
            self.table_alias(alias)?;
            absent(from.is_some(), "FROM", near, LEAVE_OUT)?;
            match materialized {
                // What the planner does anyway.
                None | Some(CteAsMaterialized::NotMaterialized) => {}
                Some(CteAsMaterialized::Materialized) => {
                    return Err(refused(
                        "MATERIALIZED",
                        near,
                        "Leave it out. A CTE that is used twice is planned twice.",
                    ));
                }
            }
            self.query(query)?;
            if *recursive {
                recursive_query(query, near)?;
            }
        }
        Ok(())
    }

    fn set_expr(&self, body: &SetExpr) -> Checked {
        stacker::maybe_grow(RED_ZONE_BYTES, STACK_BYTES, || self.body(body))
    }

    fn body(&self, body: &SetExpr) -> Checked {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation {
                left,
                op: _,             // Planned, or refused by the planner with its quantifier.
                set_quantifier: _, // Likewise.
                right,
            } => {
                self.set_expr(left)?;
                self.set_expr(right)
            }
            SetExpr::Values(values) => self.values(values),
            SetExpr::Insert(_) => Err(writing("INSERT", || body.span())),
            SetExpr::Update(_) => Err(writing("UPDATE", || body.span())),
            SetExpr::Delete(_) => Err(writing("DELETE", || body.span())),
            SetExpr::Merge(_) => Err(writing("MERGE", || body.span())),
            SetExpr::Table(_) => Err(refused("TABLE", || body.span(), "Write SELECT * FROM it.")),
        }
    }

    pub(super) fn values(&self, values: &Values) -> Checked {
        let Values {
            explicit_row: _, // ROW(1, 2) is (1, 2).
            value_keyword,
            rows,
        } = values;
        absent(*value_keyword, "VALUE", || values.span(), "Write VALUES.")?;
        rows.iter().try_for_each(|row| self.exprs(&row.content))
    }

    fn select(&self, select: &Select) -> Checked {
        let Select {
            select_token: _, // A place.
            optimizer_hints,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _, // Where TOP stands, which is refused.
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _, // Either order means the same.
            value_table_mode,
            flavor,
        } = select;
        let near = || select.span();
        absent(!optimizer_hints.is_empty(), "hint", near, LEAVE_OUT)?;
        match distinct {
            None | Some(Distinct::All | Distinct::Distinct) => {}
            Some(Distinct::On(exprs)) => self.exprs(exprs)?,
        }
        if let Some(modifiers) = select_modifiers
            && modifiers.is_any_set()
        {
            let words = modifiers.to_string();
            return Err(refused(words.trim(), near, LEAVE_OUT));
        }
        absent(top.is_some(), "TOP", near, "Write LIMIT n at the end.")?;
        absent(
            exclude.is_some(),
            "EXCLUDE",
            near,
            "Write it behind the star: SELECT * EXCLUDE (a), b.",
        )?;
        absent(
            into.is_some(),
            "INTO",
            near,
            "Use CREATE TABLE ... AS SELECT, or INSERT INTO ... SELECT.",
        )?;
        absent(
            !lateral_views.is_empty(),
            "LATERAL VIEW",
            near,
            "Use CROSS JOIN unnest(...).",
        )?;
        absent(prewhere.is_some(), "PREWHERE", near, "Write WHERE.")?;
        if let Some(kind) = connect_by.first() {
            let words = match kind {
                ConnectByKind::ConnectBy { .. } => "CONNECT BY",
                ConnectByKind::StartWith { .. } => "START WITH",
            };
            return Err(refused(words, near, "Use WITH RECURSIVE."));
        }
        absent(
            !cluster_by.is_empty(),
            "CLUSTER BY",
            near,
            "Write ORDER BY.",
        )?;
        absent(!distribute_by.is_empty(), "DISTRIBUTE BY", near, LEAVE_OUT)?;
        absent(!sort_by.is_empty(), "SORT BY", near, "Write ORDER BY.")?;
        absent(
            value_table_mode.is_some(),
            "AS",
            near,
            "Use named_struct('name', value, ...) for a struct.",
        )?;
        match flavor {
            SelectFlavor::Standard | SelectFlavor::FromFirst => {}
            SelectFlavor::FromFirstNoSelect => {
                return Err(refused("FROM", near, "Write SELECT * before it."));
            }
        }
        projection
            .iter()
            .try_for_each(|item| self.select_item(item))?;
        from.iter()
            .try_for_each(|table| self.table_with_joins(table))?;
        self.option(selection.as_ref())?;
        self.group_by(group_by, near)?;
        self.option(having.as_ref())?;
        named_window
            .iter()
            .try_for_each(|one| self.named_window(one))?;
        self.option(qualify.as_ref())
    }

    pub(super) fn select_item(&self, item: &SelectItem) -> Checked {
        match item {
            SelectItem::UnnamedExpr(expr) => self.expr(expr),
            SelectItem::ExprWithAlias { expr, alias: _ } => self.expr(expr),
            SelectItem::ExprWithAliases {
                expr: _,
                aliases: _,
            } => Err(refused(
                "AS",
                || item.span(),
                "Give each column one name; s['field'] takes a field out of a struct.",
            )),
            SelectItem::QualifiedWildcard(kind, options) => {
                match kind {
                    SelectItemQualifiedWildcardKind::ObjectName(_) => {}
                    SelectItemQualifiedWildcardKind::Expr(_) => {
                        return Err(refused(
                            "*",
                            || item.span(),
                            "Write s['field'] for each field.",
                        ));
                    }
                }
                self.wildcard(options)
            }
            SelectItem::Wildcard(options) => self.wildcard(options),
        }
    }

    fn wildcard(&self, options: &WildcardAdditionalOptions) -> Checked {
        let WildcardAdditionalOptions {
            wildcard_token,
            opt_ilike,
            opt_exclude: _, // Planned.
            opt_except: _,  // Planned.
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        let near = || wildcard_token.0.span;
        absent(opt_ilike.is_some(), "ILIKE", near, "Name the columns.")?;
        absent(
            opt_rename.is_some(),
            "RENAME",
            near,
            "Name the columns: a AS b.",
        )?;
        absent(opt_alias.is_some(), "AS", near, "Name the columns: a AS b.")?;
        match opt_replace {
            Some(replace) => replace
                .items
                .iter()
                .try_for_each(|item| self.expr(&item.expr)),
            None => Ok(()),
        }
    }

    fn group_by(&self, group_by: &GroupByExpr, near: impl Place) -> Checked {
        let modifiers = match group_by {
            GroupByExpr::All(modifiers) => modifiers,
            GroupByExpr::Expressions(exprs, modifiers) => {
                self.exprs(exprs)?;
                modifiers
            }
        };
        match modifiers.first() {
            None => Ok(()),
            Some(modifier) => {
                let (words, hint) = match modifier {
                    GroupByWithModifier::Rollup => ("WITH ROLLUP", "Write GROUP BY ROLLUP (a, b)."),
                    GroupByWithModifier::Cube => ("WITH CUBE", "Write GROUP BY CUBE (a, b)."),
                    GroupByWithModifier::Totals => ("WITH TOTALS", "Write GROUP BY ROLLUP (a, b)."),
                    GroupByWithModifier::GroupingSets(_) => (
                        "GROUPING SETS",
                        "Write GROUP BY GROUPING SETS ((a), (b)) alone.",
                    ),
                };
                Err(refused(words, near, hint))
            }
        }
    }

    fn named_window(&self, window: &NamedWindowDefinition) -> Checked {
        let NamedWindowDefinition(name, definition) = window;
        match definition {
            NamedWindowExpr::NamedWindow(_) => Err(refused(
                "WINDOW",
                || name.span,
                "Write the window out: w AS (...).",
            )),
            NamedWindowExpr::WindowSpec(spec) => self.window(spec),
        }
    }

    pub(super) fn table_with_joins(&self, table: &TableWithJoins) -> Checked {
        let TableWithJoins { relation, joins } = table;
        self.table_factor(relation)?;
        joins.iter().try_for_each(|join| self.join(join))
    }

    pub(super) fn table_alias(&self, alias: &TableAlias) -> Checked {
        let TableAlias {
            explicit: _, // With or without AS.
            name,
            columns,
            at,
        } = alias;
        let typed = columns.iter().any(|column| column.data_type.is_some());
        absent(
            typed,
            "type of a column",
            || name.span,
            "Write CAST in the SELECT list.",
        )?;
        absent(
            at.is_some(),
            "AT",
            || name.span,
            "Use row_number() OVER (...).",
        )
    }

    fn alias(&self, alias: Option<&TableAlias>) -> Checked {
        alias.map_or(Ok(()), |alias| self.table_alias(alias))
    }

    /// A table by its name, as a target or in FROM.
    pub(super) fn table_factor(&self, factor: &TableFactor) -> Checked {
        let near = || factor.span();
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                self.alias(alias.as_ref())?;
                if let Some(args) = args {
                    absent(args.settings.is_some(), "SETTINGS", near, LEAVE_OUT)?;
                    one_part(name, near)?;
                    self.table_arguments(&args.args)?;
                }
                absent(!with_hints.is_empty(), "WITH", near, LEAVE_OUT)?;
                absent(
                    version.is_some(),
                    "AS OF",
                    near,
                    "Table events has what was: every change with its version and time.",
                )?;
                absent(*with_ordinality, "WITH ORDINALITY", near, NUMBERED)?;
                absent(
                    !partitions.is_empty(),
                    "PARTITION",
                    near,
                    "Choose the rows with WHERE.",
                )?;
                absent(
                    json_path.is_some(),
                    "path",
                    near,
                    "Use json_text(column, 'path').",
                )?;
                absent(sample.is_some(), "TABLESAMPLE", near, SAMPLE)?;
                absent(!index_hints.is_empty(), "INDEX", near, LEAVE_OUT)
            }
            TableFactor::Derived {
                lateral: _, // Planned; in the first place it has nothing to its left.
                subquery,
                alias,
                sample,
            } => {
                absent(sample.is_some(), "TABLESAMPLE", near, SAMPLE)?;
                self.alias(alias.as_ref())?;
                self.query(subquery)
            }
            TableFactor::Function {
                lateral: _, // Planned.
                name,
                args,
                with_ordinality,
                alias,
            } => {
                absent(*with_ordinality, "WITH ORDINALITY", near, NUMBERED)?;
                one_part(name, near)?;
                self.alias(alias.as_ref())?;
                self.table_arguments(args)
            }
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset,
                with_offset_alias: _, // Of WITH OFFSET, which is refused.
                with_ordinality,
            } => {
                absent(*with_offset, "WITH OFFSET", near, NUMBERED)?;
                absent(*with_ordinality, "WITH ORDINALITY", near, NUMBERED)?;
                self.alias(alias.as_ref())?;
                self.exprs(array_exprs)
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                self.alias(alias.as_ref())?;
                self.table_with_joins(table_with_joins)
            }
            TableFactor::TableFunction { .. } => {
                Err(refused("TABLE", near, "Write the function alone."))
            }
            TableFactor::JsonTable { .. } => Err(refused("JSON_TABLE", near, OWN_TABLE)),
            TableFactor::OpenJsonTable { .. } => Err(refused("OPENJSON", near, OWN_TABLE)),
            TableFactor::Pivot { .. } => Err(refused(
                "PIVOT",
                near,
                "Use sum(x) FILTER (WHERE ...) for each column.",
            )),
            TableFactor::Unpivot { .. } => Err(refused("UNPIVOT", near, DERIVED)),
            TableFactor::MatchRecognize { .. } => Err(refused(
                "MATCH_RECOGNIZE",
                near,
                "Use lag() and lead() OVER (...).",
            )),
            TableFactor::XmlTable { .. } => Err(refused(
                "XMLTABLE",
                near,
                "Use xpath_texts(document, 'path') and unnest().",
            )),
            TableFactor::SemanticView { .. } => Err(refused("SEMANTIC_VIEW", near, OWN_TABLE)),
        }
    }

    fn join(&self, join: &Join) -> Checked {
        let Join {
            relation,
            global,
            join_operator,
        } = join;
        let near = || relation.span();
        self.table_factor(relation)?;
        absent(*global, "GLOBAL", near, LEAVE_OUT)?;
        match join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => {
                self.join_constraint(constraint, relation)
            }
            JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)
            | JoinOperator::LeftSemi(constraint)
            | JoinOperator::RightSemi(constraint)
            | JoinOperator::LeftAnti(constraint)
            | JoinOperator::RightAnti(constraint) => self.join_constraint(constraint, relation),
            JoinOperator::CrossJoin(constraint) => match constraint {
                JoinConstraint::None => Ok(()),
                JoinConstraint::On(_) | JoinConstraint::Using(_) | JoinConstraint::Natural => Err(
                    refused("CROSS JOIN", near, "Write JOIN where there is a condition."),
                ),
            },
            JoinOperator::Semi(_) => Err(refused("SEMI JOIN", near, "Write LEFT SEMI JOIN.")),
            JoinOperator::Anti(_) => Err(refused("ANTI JOIN", near, "Write LEFT ANTI JOIN.")),
            JoinOperator::CrossApply => Err(refused(
                "CROSS APPLY",
                near,
                "Write CROSS JOIN LATERAL (...).",
            )),
            JoinOperator::OuterApply => Err(refused(
                "OUTER APPLY",
                near,
                "Write LEFT JOIN LATERAL (...) ON TRUE.",
            )),
            JoinOperator::AsOf { .. } => Err(refused(
                "ASOF JOIN",
                near,
                "Use a LATERAL subquery with ORDER BY and LIMIT 1.",
            )),
            JoinOperator::StraightJoin(_) => Err(refused("STRAIGHT_JOIN", near, "Write JOIN.")),
            JoinOperator::ArrayJoin
            | JoinOperator::LeftArrayJoin
            | JoinOperator::InnerArrayJoin => {
                Err(refused("ARRAY JOIN", near, "Use CROSS JOIN unnest(...)."))
            }
        }
    }

    fn join_constraint(&self, constraint: &JoinConstraint, relation: &TableFactor) -> Checked {
        match constraint {
            JoinConstraint::On(expr) => self.expr(expr),
            JoinConstraint::Using(_) | JoinConstraint::Natural => Ok(()),
            // An unnest beside its table says by itself what belongs together.
            JoinConstraint::None if matches!(relation, TableFactor::UNNEST { .. }) => Ok(()),
            JoinConstraint::None => Err(refused(
                "JOIN without ON",
                || relation.span(),
                "Say which rows belong together with ON or USING, or write CROSS JOIN.",
            )),
        }
    }

    fn order_by(&self, order_by: &OrderBy, body: &SetExpr) -> Checked {
        let OrderBy { kind, interpolate } = order_by;
        let near = || order_by.span();
        absent(interpolate.is_some(), "INTERPOLATE", near, LEAVE_OUT)?;
        match kind {
            OrderByKind::All(_) => match body {
                SetExpr::Select(_) => Ok(()),
                SetExpr::Query(_)
                | SetExpr::SetOperation { .. }
                | SetExpr::Values(_)
                | SetExpr::Insert(_)
                | SetExpr::Update(_)
                | SetExpr::Delete(_)
                | SetExpr::Merge(_)
                | SetExpr::Table(_) => Err(refused(
                    "ORDER BY ALL",
                    near,
                    "Name the columns, or write ORDER BY 1, 2.",
                )),
            },
            OrderByKind::Expressions(exprs) => self.order_by_exprs(exprs),
        }
    }

    pub(super) fn order_by_exprs(&self, exprs: &[OrderByExpr]) -> Checked {
        for one in exprs {
            let OrderByExpr {
                expr,
                options: _, // ASC, DESC, NULLS FIRST, NULLS LAST: planned.
                with_fill,
            } = one;
            absent(
                with_fill.is_some(),
                "WITH FILL",
                || one.span(),
                "Join with generate_series(...) for rows that are not there.",
            )?;
            self.expr(expr)?;
        }
        Ok(())
    }

    fn limit(&self, limit: &LimitClause, near: impl Place) -> Checked {
        match limit {
            LimitClause::LimitOffset {
                limit,
                offset,
                limit_by,
            } => {
                absent(
                    !limit_by.is_empty(),
                    "LIMIT",
                    near,
                    "LIMIT n BY is QUALIFY row_number() OVER (PARTITION BY ...) <= n.",
                )?;
                self.option(limit.as_ref())?;
                self.option(offset.as_ref().map(|offset| &offset.value))
            }
            LimitClause::OffsetCommaLimit { offset, limit } => {
                self.expr(offset)?;
                self.expr(limit)
            }
        }
    }

    fn pipe(&self, operator: &PipeOperator, near: impl Place) -> Checked {
        let queries = |queries: &[Query]| queries.iter().try_for_each(|one| self.query(one));
        match operator {
            PipeOperator::Limit { expr, offset } => {
                self.expr(expr)?;
                self.option(offset.as_ref())
            }
            PipeOperator::Where { expr } => self.expr(expr),
            PipeOperator::OrderBy { exprs } => self.order_by_exprs(exprs),
            PipeOperator::Select { exprs } | PipeOperator::Extend { exprs } => {
                exprs.iter().try_for_each(|item| self.select_item(item))
            }
            PipeOperator::As { alias: _ } => Ok(()),
            PipeOperator::Aggregate {
                full_table_exprs,
                group_by_expr,
            } => full_table_exprs
                .iter()
                .chain(group_by_expr)
                .try_for_each(|one| self.aggregate_item(one)),
            // Whether the planner knows a quantifier, it says itself.
            PipeOperator::Union {
                set_quantifier: _,
                queries: all,
            }
            | PipeOperator::Intersect {
                set_quantifier: _,
                queries: all,
            }
            | PipeOperator::Except {
                set_quantifier: _,
                queries: all,
            } => queries(all),
            PipeOperator::Join(join) => self.join(join),
            PipeOperator::Set { .. } => Err(refused("SET", near, "Use |> SELECT * REPLACE (...).")),
            PipeOperator::Drop { .. } => {
                Err(refused("DROP", near, "Use |> SELECT * EXCLUDE (...)."))
            }
            PipeOperator::Rename { .. } => Err(refused("RENAME", near, "Use |> SELECT a AS b.")),
            PipeOperator::TableSample { .. } => Err(refused("TABLESAMPLE", near, SAMPLE)),
            PipeOperator::Call { .. } => Err(refused("CALL", near, DERIVED)),
            PipeOperator::Pivot { .. } => Err(refused("PIVOT", near, DERIVED)),
            PipeOperator::Unpivot { .. } => Err(refused("UNPIVOT", near, DERIVED)),
        }
    }

    fn aggregate_item(&self, item: &ExprWithAliasAndOrderBy) -> Checked {
        let ExprWithAliasAndOrderBy {
            expr: ExprWithAlias { expr, alias: _ },
            order_by: OrderByOptions { asc, nulls_first },
        } = item;
        absent(
            asc.is_some() || nulls_first.is_some(),
            "order of AGGREGATE",
            || expr.span(),
            "Use |> ORDER BY behind it.",
        )?;
        self.expr(expr)
    }
}

const SAMPLE: &str = "For a random sample write ORDER BY random() LIMIT n; by kind, QUALIFY \
                      row_number() OVER (PARTITION BY kind ORDER BY random()) <= n.";

/// Of a recursive query only the two sides of its UNION are planned.
fn recursive_query(query: &Query, near: impl Place) -> Checked {
    let union = matches!(
        query.body.as_ref(),
        SetExpr::SetOperation {
            op: SetOperator::Union,
            ..
        }
    );
    if !union {
        return Ok(());
    }
    let hint = "Put it behind the WITH, or into one side of the UNION in parentheses.";
    absent(query.with.is_some(), "WITH", || query.span(), hint)?;
    absent(query.order_by.is_some(), "ORDER BY", near, hint)?;
    absent(query.limit_clause.is_some(), "LIMIT", near, hint)?;
    absent(
        !query.pipe_operators.is_empty(),
        "pipe operator",
        near,
        hint,
    )
}

/// The planner takes the first part of the name of a table function.
fn one_part(name: &ObjectName, near: impl Place) -> Checked {
    absent(
        name.0.len() > 1,
        "schema of a function",
        near,
        "Write the function's name alone.",
    )
}

fn writing(word: &str, near: impl Place) -> super::Refusal {
    refused(
        word,
        near,
        "A statement that writes stands alone; read afterwards what it did.",
    )
}
