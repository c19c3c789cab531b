//! DataFusion's errors as ours.
//!
//! Our own errors travel through DataFusion as `External` and come back whole. The rest is
//! sorted by what the user does next, with the position where DataFusion knows it.

use std::error::Error as StdError;
use std::time::Duration;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{SchemaError, Span};
use datafusion::error::DataFusionError;
use datafusion::object_store::Error::NotFound;

use crate::error::{Code, Error, Position, nearest};
use crate::functions::dialect::instead;
use crate::ledger::store::failed_scan;
use crate::session::parser::syntax_error;

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match own(error) {
            Ok(ours) => ours,
            Err(theirs) => translate(theirs),
        }
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

/// Our own error out of the wrappings, or the error as it was.
fn own(error: DataFusionError) -> Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => Ok(*ours),
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => own(*inner),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
        },
        DataFusionError::Context(context, inner) => {
            own(*inner).map_err(|inner| DataFusionError::Context(context, Box::new(inner)))
        }
        DataFusionError::Diagnostic(diagnostic, inner) => {
            own(*inner).map_err(|inner| DataFusionError::Diagnostic(diagnostic, Box::new(inner)))
        }
        DataFusionError::ArrowError(inner, backtrace) => match *inner {
            ArrowError::ExternalError(inner) => own(DataFusionError::External(inner)),
            inner => Err(DataFusionError::ArrowError(Box::new(inner), backtrace)),
        },
        // The error has several owners, so ours is copied.
        DataFusionError::Shared(inner) => match borrowed(inner.as_ref()) {
            Some(ours) => Ok(copy(ours)),
            None => Err(DataFusionError::Shared(inner)),
        },
        DataFusionError::Collection(inner) => {
            match inner.iter().find_map(|inner| borrowed(inner)) {
                Some(ours) => Ok(copy(ours)),
                None => Err(DataFusionError::Collection(inner)),
            }
        }
        // Parquet's and the object store's own wrappings.
        other => match borrowed(&other) {
            Some(ours) => Ok(copy(ours)),
            None => Err(other),
        },
    }
}

fn borrowed<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

fn copy(error: &Error) -> Error {
    let mut copied = Error::new(error.code(), error.message());
    if let Some(detail) = error.detail() {
        copied = copied.with_detail(detail);
    }
    if let Some(hint) = error.hint() {
        copied = copied.with_hint(hint);
    }
    if let Some(position) = error.position() {
        copied = copied.with_position(position);
    }
    copied
}

fn translate(error: DataFusionError) -> Error {
    let position = span_of(&error);
    let translated = match error.find_root() {
        DataFusionError::SQL(..) => syntax_error(error.find_root()),
        DataFusionError::ResourcesExhausted(message) => Error::new(
            Code::OutOfMemory,
            "the statement needs more memory than it may use",
        )
        .with_detail(message.clone())
        .with_hint("Select fewer rows or columns, or raise statement_memory_bytes in the limits."),
        DataFusionError::SchemaError(inner, _) => schema_error(inner),
        DataFusionError::Plan(message) => plan_error(message),
        DataFusionError::Configuration(message) => plan_error(message),
        DataFusionError::NotImplemented(message) => Error::new(Code::Unsupported, tidy(message))
            .with_hint("DataFusion cannot run this; write the query in another way."),
        // DataFusion's reader of footers keeps only the text of an error.
        DataFusionError::ParquetError(inner) => failed_scan(&inner.to_string())
            .unwrap_or_else(|| Error::new(Code::QueryFailed, tidy(&error.find_root().message()))),
        DataFusionError::ObjectStore(inner) if matches!(**inner, NotFound { .. }) => {
            Error::new(Code::FileUnreadable, "a file of the query does not exist")
                .with_detail(inner.to_string())
                .with_hint("Check the path or LOCATION.")
        }
        DataFusionError::ObjectStore(_) => {
            Error::new(Code::StoreUnavailable, "the store did not answer")
                .with_detail(error.find_root().strip_backtrace())
                .with_hint("Try again; if it persists, check the address and the credentials.")
        }
        DataFusionError::Internal(message) => Error::bug(tidy(message)),
        DataFusionError::ExecutionJoin(inner) => Error::bug(format!("a task ended: {inner}")),
        // VALUES is checked against the table's columns before a row of it is seen.
        root if root.message().contains("declared as non-nullable") => {
            Error::new(Code::InvalidKey, "a key or NOT NULL column is NULL")
                .with_detail(tidy(&root.message()))
                .with_hint("Give every row a key and all NOT NULL columns a value.")
        }
        root => Error::new(Code::QueryFailed, tidy(&root.message())),
    };
    let translated = match position {
        Some(position) if translated.position().is_none() => translated.with_position(position),
        _ => translated,
    };
    translated.with_source(error)
}

fn span_of(error: &DataFusionError) -> Option<Position> {
    let span: Span = match error {
        DataFusionError::Diagnostic(diagnostic, _) => diagnostic.span?,
        DataFusionError::Context(_, inner) => return span_of(inner),
        DataFusionError::Collection(inner) => return inner.iter().find_map(span_of),
        _ => return None,
    };
    Some(Position {
        line: span.start.line,
        column: span.start.column,
    })
}

fn schema_error(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let names: Vec<&str> = valid_fields
                .iter()
                .map(|field| field.name.as_str())
                .collect();
            let error = Error::new(
                Code::PlanError,
                format!("column \"{}\" does not exist", field.flat_name()),
            );
            match nearest(&field.name, names.iter().copied()) {
                Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
                // Only what stands in double quotes keeps its case.
                None if field.name != field.name.to_lowercase() => error.with_hint(format!(
                    "A text stands in single quotes: '{}'.",
                    field.name.replace('\'', "''")
                )),
                None if names.is_empty() => error,
                None => error.with_hint(format!("There are: {}.", names.join(", "))),
            }
        }
        SchemaError::AmbiguousReference { field } => Error::new(
            Code::PlanError,
            format!("column \"{}\" is ambiguous", field.name),
        )
        .with_hint("Write the table before the column, or name one of them with AS."),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(Code::PlanError, format!("column \"{name}\" is there twice"))
                .with_hint("Give one of them another name with AS.")
        }
    }
}

fn plan_error(message: &str) -> Error {
    let message = tidy(message);
    if let Some(name) = message
        .strip_prefix("table '")
        .and_then(|rest| rest.strip_suffix("' not found"))
    {
        let name = name.rsplit('.').next().unwrap_or(name);
        return unknown_table(name, std::iter::empty());
    }
    // "invalid function 'f'.", and on a second line "Did you mean 'g'?"
    if let Some(rest) = message.strip_prefix("invalid function '")
        && let Some((name, rest)) = rest.split_once('\'')
    {
        let error = Error::new(
            Code::PlanError,
            format!("function \"{name}\" does not exist"),
        );
        if let Some(hint) = instead(name) {
            return error.with_hint(hint);
        }
        return match rest
            .split('\'')
            .nth(1)
            .and_then(|near| nearest(name, [near].into_iter()))
        {
            Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
            None => error.with_hint("SHOW FUNCTIONS lists the functions."),
        };
    }
    match message.split_once('\n') {
        Some((first, rest)) => {
            let lines: Vec<&str> = rest.split_whitespace().collect();
            Error::new(Code::PlanError, first.trim_end_matches('.')).with_detail(lines.join(" "))
        }
        None => Error::new(Code::PlanError, message),
    }
}

/// The error for a table that is not there. `known` are the names that the user may have meant.
pub fn unknown_table<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::new(
        Code::UnknownObject,
        format!("table \"{name}\" does not exist"),
    );
    match nearest(name, known) {
        Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
        None => error.with_hint("SHOW TABLES lists the tables."),
    }
}

/// Adds "did you mean" to the error for an unknown table, where a known name is near.
pub fn suggest_table<'a>(error: Error, known: impl Iterator<Item = &'a str>) -> Error {
    // What is unknown inside a view is said with the view.
    if error.code() != Code::UnknownObject || error.message().starts_with("view ") {
        return error;
    }
    let name = error
        .message()
        .split('"')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    match nearest(&name, known) {
        Some(near) => error.with_hint(format!("Did you mean \"{near}\"?")),
        None => error,
    }
}

/// Removes what DataFusion puts before its messages, and makes it one lower-case line.
fn tidy(message: &str) -> String {
    const PREFIXES: [&str; 4] = [
        "Error during planning: ",
        "Execution error: ",
        "Optimizer rule ",
        "SQL error: ",
    ];
    let mut message = message.trim();
    while let Some(rest) = PREFIXES
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
    {
        message = rest;
    }
    let mut letters = message.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) if !letters.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        Some(first) => std::iter::once(first).chain(letters).collect(),
        None => "the query failed".to_owned(),
    }
}

/// The error of a statement that came to its limit.
pub(super) fn timed_out(limit: Duration) -> Error {
    Error::new(
        Code::Timeout,
        format!("the statement ran longer than {} s", limit.as_secs_f64()),
    )
    .with_detail("The limit is the setting statement_timeout, or less where the request says so.")
    .with_hint("Narrow it with WHERE; where it has effects, look it up in table statements.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use datafusion::object_store::ObjectStoreExt;
    use datafusion::object_store::path::Path;
    use datafusion::parquet::errors::ParquetError;

    use super::*;
    use crate::ledger::store::fault::{FaultyStore, remote};

    #[test]
    fn own_errors_come_back_whole_through_every_wrapping() {
        let ours = || {
            DataFusionError::from(
                Error::new(Code::RowLocked, "row \"1\" is locked").with_hint("Wait."),
            )
        };
        let wrapped = [
            ours(),
            ours().context("while sorting"),
            DataFusionError::Shared(Arc::new(ours().context("shared"))),
            DataFusionError::from(ArrowError::ExternalError(Box::new(ours()))),
            DataFusionError::Collection(vec![ours()]),
        ];
        for error in wrapped {
            let shown = format!("{error:?}");
            let back = Error::from(error);
            assert_eq!(back.code(), Code::RowLocked, "{shown}");
            assert_eq!(back.message(), "row \"1\" is locked");
            assert_eq!(back.hint(), Some("Wait."));
        }
    }

    #[test]
    fn exhausted_resources_are_out_of_memory() {
        let error = Error::from(DataFusionError::ResourcesExhausted("no room".to_owned()));
        assert_eq!(error.code(), Code::OutOfMemory);
        assert_eq!(error.detail(), Some("no room"));
    }

    #[test]
    fn a_near_table_is_suggested() {
        let names = ["notices", "jobs"];
        let error = suggest_table(unknown_table("job", std::iter::empty()), names.into_iter());
        assert_eq!(error.hint(), Some("Did you mean \"jobs\"?"));
    }

    #[tokio::test]
    async fn scans_tell_a_silent_store_from_a_gone_and_from_a_broken_file() {
        let objects = FaultyStore::new([]);
        let store = remote(Arc::clone(&objects) as _);
        let file = Path::from("tables/1.parquet");
        let put = store.put_new(file.as_ref(), Bytes::from_static(b"bytes"));
        put.await.unwrap();

        objects.lose_reads(1);
        let silent = store.scanned().get(&file).await.unwrap_err();
        let gone = store.scanned().get(&Path::from("tables/2.parquet")).await;
        let gone = gone.unwrap_err();
        for (error, code) in [(silent, Code::StoreUnavailable), (gone, Code::SnapshotGone)] {
            // As a reader passes it on that keeps the error, and as one that keeps its text.
            let text = ParquetError::General(format!("cannot open: {error}"));
            let whole = Error::from(DataFusionError::from(error));
            assert_eq!(whole.code(), code, "{whole:?}");
            assert!(whole.message().contains("tables/"), "{whole:?}");
            assert_eq!(Error::from(DataFusionError::from(text)).code(), code);
        }
        let got = store.scanned().get(&file).await.unwrap().bytes().await;
        assert_eq!(got.unwrap(), "bytes");

        let broken = ParquetError::General("EOF: file size of 5 is less than footer".to_owned());
        let broken = Error::from(DataFusionError::from(broken));
        assert_eq!(broken.code(), Code::QueryFailed);
    }
}
