//! JSON that is read whole: documents of one object or one array, and packed lines.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema;

use crate::error::Result;
use crate::json::{Value, object_text, parse_bytes};
use crate::session::external::{File, rows_of};

/// The rows of a document, an object per line: an object is one row, an array is rows of objects.
pub(super) fn lines(file: &File, text: &[u8]) -> Result<Vec<u8>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let rows = match parse_bytes(text).map_err(|error| file.unreadable(error))? {
        Value::Array(rows) => rows,
        object => vec![object],
    };
    let mut lines = Vec::new();
    for row in rows {
        let Value::Object(row) = row else {
            return Err(file.unreadable("a row of it is no JSON object"));
        };
        lines.extend_from_slice(object_text(&row).as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The rows of files with an object per line.
pub(super) fn rows(
    files: &[File],
    texts: &[Vec<u8>],
    declared: Option<SchemaRef>,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let schema = match declared {
        Some(schema) => schema,
        None => {
            let all = texts.concat();
            let inferred = infer_json_schema(Cursor::new(&all), None);
            let whose = |error| match files {
                [file] => file.unreadable(error),
                _ => crate::error::Error::from(error),
            };
            Arc::new(inferred.map_err(whose)?.0)
        }
    };
    let batches = rows_of(files, texts, |text| {
        ReaderBuilder::new(Arc::clone(&schema))
            .build(Cursor::new(text))?
            .collect()
    })?;
    Ok((schema, batches))
}
