//! Statements that change rows, and those that show or set something.

use datafusion::sql::parser::CopyToSource;
use datafusion::sql::parser::CopyToStatement;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Delete, DoUpdate, FromTable, Insert, OnConflict,
    OnConflictAction, OnInsert, Set, ShowStatementFilter, ShowStatementOptions, Spanned,
    Statement as SqlStatement, TableObject, Update, UpdateTableFromKind,
};

use super::{Checked, Clauses, Place, absent, anywhere, refused};

const NO_RETURNING: &str = "Read the rows afterwards; events show what the statement changed.";
const UPSERT: &str =
    "Use INSERT ... ON CONFLICT (key) DO NOTHING, or DO UPDATE SET a = excluded.a.";
const HINTS: &str = "Leave it out; it would change nothing.";

impl Clauses<'_> {
    pub(super) fn sql(&self, statement: &SqlStatement) -> Checked {
        match statement {
            SqlStatement::Insert(insert) => self.insert(insert),
            SqlStatement::Update(update) => self.update(update),
            SqlStatement::Delete(delete) => self.delete(delete),
            // It is refused as a whole, with the table's name in the hint.
            SqlStatement::Truncate(_) => Ok(()),
            SqlStatement::CreateTable(create) => self.create_table(create),
            SqlStatement::CreateView(create) => self.create_view(create),
            SqlStatement::Drop {
                object_type: _, // Table or view.
                if_exists: _,
                names: _,
                cascade,
                restrict: _, // What DROP does anyway.
                purge,
                temporary,
                table,
            } => {
                let near = || statement.span();
                let hint = "Drop what depends on it first; SHOW TABLES lists what there is.";
                absent(*cascade, "CASCADE", near, hint)?;
                absent(
                    *purge,
                    "PURGE",
                    near,
                    "Files go by themselves, after the retention.",
                )?;
                absent(*temporary, "TEMPORARY", near, HINTS)?;
                absent(table.is_some(), "ON", near, HINTS)
            }
            SqlStatement::Set(set) => self.set(set),
            SqlStatement::ShowVariable { variable: _ } => Ok(()),
            SqlStatement::ShowVariables {
                filter,
                global,
                session,
            } => {
                let near = || statement.span();
                absent(*global, "GLOBAL", near, HINTS)?;
                absent(*session, "SESSION", near, HINTS)?;
                self.filter(filter.as_ref(), near)
            }
            SqlStatement::ShowTables {
                terse,
                history,
                extended: _, // Planned.
                full: _,     // Planned.
                external,
                show_options,
            } => {
                let near = || statement.span();
                absent(*terse, "TERSE", near, HINTS)?;
                absent(*history, "HISTORY", near, "Query table events.")?;
                absent(
                    *external,
                    "EXTERNAL",
                    near,
                    "Query information_schema.tables.",
                )?;
                self.show_options(show_options, near)
            }
            SqlStatement::ShowColumns {
                extended: _, // Planned.
                full: _,     // Planned.
                show_options,
            } => self.show_options(show_options, || statement.span()),
            SqlStatement::ShowFunctions { filter } => {
                self.filter(filter.as_ref(), || statement.span())
            }
            SqlStatement::ExplainTable {
                describe_alias: _, // DESCRIBE or DESC.
                hive_format,
                has_table_keyword: _, // DESCRIBE TABLE t is DESCRIBE t.
                table_name: _,
            } => absent(hive_format.is_some(), "FORMAT", || statement.span(), HINTS),
            // The classes of statements that never come here, see `parser::class_of`.
            _ => Ok(()),
        }
    }

    fn insert(&self, insert: &Insert) -> Checked {
        let Insert {
            insert_token: _, // A place.
            optimizer_hints,
            or,
            ignore,
            into: _, // INSERT t is INSERT INTO t.
            table,
            table_alias: _, // The name of the target within ON CONFLICT.
            columns: _,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword: _, // INSERT INTO TABLE t is INSERT INTO t.
            on,
            returning,
            output,
            replace_into: _, // Which kind of write it is.
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        let near = || insert.table.span();
        absent(!optimizer_hints.is_empty(), "hint", near, HINTS)?;
        absent(or.is_some(), "OR", anywhere, UPSERT)?;
        absent(*ignore, "IGNORE", anywhere, UPSERT)?;
        match table {
            TableObject::TableName(_) => {}
            TableObject::TableFunction(_) | TableObject::TableQuery(_) => {
                return Err(refused("INSERT", near, "Name a source table."));
            }
        }
        absent(
            *overwrite,
            "OVERWRITE",
            anywhere,
            "Use DELETE FROM and then INSERT INTO, or INSERT ... ON CONFLICT (key) DO UPDATE.",
        )?;
        absent(
            !assignments.is_empty(),
            "SET",
            near,
            "Write (a, b) VALUES (1, 2).",
        )?;
        absent(
            partitioned.is_some(),
            "PARTITION",
            near,
            "Name its columns among the others.",
        )?;
        absent(
            !after_columns.is_empty(),
            "columns behind PARTITION",
            near,
            HINTS,
        )?;
        absent(returning.is_some(), "RETURNING", near, NO_RETURNING)?;
        absent(output.is_some(), "OUTPUT", near, NO_RETURNING)?;
        absent(priority.is_some(), "priority of INSERT", near, HINTS)?;
        absent(
            insert_alias.is_some(),
            "alias of the rows",
            near,
            "The new row is \"excluded\".",
        )?;
        absent(
            settings.is_some(),
            "SETTINGS",
            near,
            "Use SET before the statement.",
        )?;
        absent(
            format_clause.is_some(),
            "FORMAT",
            near,
            "Use an external table for a file.",
        )?;
        absent(
            multi_table_insert_type.is_some()
                || !multi_table_into_clauses.is_empty()
                || !multi_table_when_clauses.is_empty()
                || multi_table_else_clause.is_some(),
            "INSERT of several tables",
            near,
            "Write one INSERT for each table.",
        )?;
        match source {
            Some(query) => self.query(query)?,
            None => {
                return Err(refused(
                    "INSERT without rows",
                    near,
                    "Write VALUES (...) or SELECT.",
                ));
            }
        }
        match on {
            None => Ok(()),
            Some(OnInsert::DuplicateKeyUpdate(_)) => {
                Err(refused("ON DUPLICATE KEY UPDATE", near, UPSERT))
            }
            Some(OnInsert::OnConflict(conflict)) => self.on_conflict(conflict, near),
            // The enum is open; what it gains is refused.
            Some(_) => Err(refused("ON", near, UPSERT)),
        }
    }

    fn on_conflict(&self, conflict: &OnConflict, near: impl Place) -> Checked {
        let OnConflict {
            conflict_target,
            action,
        } = conflict;
        match conflict_target {
            // Whether these are the key, is asked where the table is known.
            None | Some(ConflictTarget::Columns(_)) => {}
            Some(ConflictTarget::OnConstraint(_)) => {
                return Err(refused(
                    "ON CONSTRAINT",
                    near,
                    "Name the key: ON CONFLICT (key).",
                ));
            }
        }
        match action {
            OnConflictAction::DoNothing => Ok(()),
            OnConflictAction::DoUpdate(DoUpdate {
                assignments,
                selection,
            }) => {
                self.assignments(assignments)?;
                self.option(selection.as_ref())
            }
        }
    }

    fn assignments(&self, assignments: &[Assignment]) -> Checked {
        for assignment in assignments {
            let Assignment { target, value } = assignment;
            match target {
                AssignmentTarget::ColumnName(_) => {}
                AssignmentTarget::Tuple(_) => {
                    return Err(refused(
                        "SET of several columns",
                        || assignment.span(),
                        "Write SET a = ..., b = ...",
                    ));
                }
            }
            self.expr(value)?;
        }
        Ok(())
    }

    fn update(&self, update: &Update) -> Checked {
        let Update {
            update_token: _, // A place.
            optimizer_hints,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        let near = || table.span();
        absent(!optimizer_hints.is_empty(), "hint", near, HINTS)?;
        absent(or.is_some(), "OR", anywhere, UPSERT)?;
        self.table_with_joins(table)?;
        self.assignments(assignments)?;
        match from {
            None => {}
            Some(UpdateTableFromKind::AfterSet(tables)) => {
                tables
                    .iter()
                    .try_for_each(|table| self.table_with_joins(table))?;
            }
            Some(UpdateTableFromKind::BeforeSet(_)) => {
                return Err(refused("FROM", near, "Write FROM behind SET."));
            }
        }
        self.option(selection.as_ref())?;
        absent(returning.is_some(), "RETURNING", near, NO_RETURNING)?;
        absent(output.is_some(), "OUTPUT", near, NO_RETURNING)?;
        self.order_by_exprs(order_by)?;
        self.option(limit.as_ref())
    }

    fn delete(&self, delete: &Delete) -> Checked {
        let Delete {
            delete_token: _, // A place.
            optimizer_hints,
            tables: _, // Only DELETE FROM one table comes here.
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        let near = || delete.span();
        absent(!optimizer_hints.is_empty(), "hint", near, HINTS)?;
        match from {
            FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => {
                tables
                    .iter()
                    .try_for_each(|table| self.table_with_joins(table))?;
            }
        }
        if let Some(tables) = using {
            tables
                .iter()
                .try_for_each(|table| self.table_with_joins(table))?;
        }
        self.option(selection.as_ref())?;
        absent(returning.is_some(), "RETURNING", near, NO_RETURNING)?;
        absent(output.is_some(), "OUTPUT", near, NO_RETURNING)?;
        self.order_by_exprs(order_by)?;
        self.option(limit.as_ref())
    }

    fn set(&self, set: &Set) -> Checked {
        match set {
            Set::SingleAssignment {
                scope,
                hivevar,
                variable,
                values,
            } => {
                let near = || variable.span();
                absent(
                    scope.is_some(),
                    "scope of SET",
                    near,
                    "Write SET name = value.",
                )?;
                absent(*hivevar, "HIVEVAR", near, "Write SET name = value.")?;
                self.exprs(values)
            }
            Set::SetTimeZone { local, value } => {
                absent(*local, "LOCAL", || value.span(), "Times are UTC.")?;
                self.expr(value)
            }
            Set::ParenthesizedAssignments { .. }
            | Set::MultipleAssignments { .. }
            | Set::SetSessionAuthorization(_)
            | Set::SetSessionParam(_)
            | Set::SetRole { .. }
            | Set::SetNames { .. }
            | Set::SetNamesDefault {}
            | Set::SetTransaction { .. } => Err(refused(
                "SET",
                anywhere,
                "Write SET name = value; SHOW ALL lists the names.",
            )),
        }
    }

    fn show_options(&self, options: &ShowStatementOptions, near: impl Place) -> Checked {
        let ShowStatementOptions {
            show_in: _, // The table of SHOW COLUMNS; else refused by the planner.
            starts_with,
            limit,
            limit_from,
            filter_position,
        } = options;
        let hint = "Query information_schema.tables or information_schema.columns.";
        absent(starts_with.is_some(), "STARTS WITH", near, hint)?;
        absent(limit.is_some() || limit_from.is_some(), "LIMIT", near, hint)?;
        absent(filter_position.is_some(), "filter of SHOW", near, hint)
    }

    fn filter(&self, filter: Option<&ShowStatementFilter>, near: impl Place) -> Checked {
        match filter {
            // Planned, or refused by the planner.
            None
            | Some(
                ShowStatementFilter::Like(_)
                | ShowStatementFilter::ILike(_)
                | ShowStatementFilter::NoKeyword(_),
            ) => Ok(()),
            Some(ShowStatementFilter::Where(_)) => {
                Err(refused("WHERE", near, "Query information_schema."))
            }
        }
    }

    pub(super) fn copy(&self, copy: &CopyToStatement) -> Checked {
        let CopyToStatement {
            source,
            target: _,         // Where it goes.
            partitioned_by: _, // Planned.
            stored_as: _,      // Planned.
            options: _,        // Each is known by its name, or refused.
        } = copy;
        match source {
            CopyToSource::Query(query) => self.query(query),
            CopyToSource::Relation(_) => Ok(()),
        }
    }
}
