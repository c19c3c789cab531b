//! CSV: the columns of whole records, and files that are read whole.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::CreateExternalTable;

use crate::error::Result;
use crate::session::external::{File, PREFIX_BYTES, option, rows_of};

/// Records from which types are inferred, where no option says how many. Chosen: all of the prefix;
/// a code with leading zeros late in a list must not become a number.
const RECORDS_MAX: usize = usize::MAX;

/// How the fields of a file are told apart.
struct Dialect {
    header: bool,
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    shorter_rows: bool,
    records_max: usize,
}

impl Dialect {
    fn of(command: &CreateExternalTable) -> Self {
        let byte = |name: &str| option(command, name).and_then(|text| text.bytes().next());
        let flag = |name: &str| option(command, name).map(|text| text.eq_ignore_ascii_case("true"));
        Self {
            header: flag("has_header").unwrap_or(true),
            delimiter: byte("delimiter").unwrap_or(b','),
            quote: byte("quote").unwrap_or(b'"'),
            escape: byte("escape"),
            comment: byte("comment"),
            shorter_rows: flag("truncated_rows").unwrap_or(false),
            records_max: option(command, "schema_infer_max_rec")
                .and_then(|text| text.parse().ok())
                .unwrap_or(RECORDS_MAX),
        }
    }

    fn format(&self) -> CsvFormat {
        let mut format = CsvFormat::default()
            .with_header(self.header)
            .with_delimiter(self.delimiter)
            .with_quote(self.quote)
            .with_truncated_rows(self.shorter_rows);
        if let Some(escape) = self.escape {
            format = format.with_escape(escape);
        }
        if let Some(comment) = self.comment {
            format = format.with_comment(comment);
        }
        format
    }

    /// How many bytes the whole records at the beginning have. A line end in quotes ends none.
    fn whole_records(&self, bytes: &[u8]) -> usize {
        let (mut quotes, mut escaped, mut end) = (false, false, 0);
        for (at, &byte) in bytes.iter().enumerate() {
            if escaped {
                escaped = false;
            } else if Some(byte) == self.escape {
                escaped = true;
            } else if byte == self.quote {
                quotes = !quotes;
            } else if byte == b'\n' && !quotes {
                end = at + 1;
            }
        }
        end
    }

    /// The columns of records.
    fn columns(&self, records: &[u8]) -> Result<Schema, arrow::error::ArrowError> {
        let (inferred, _) = self
            .format()
            .infer_schema(Cursor::new(records), Some(self.records_max))?;
        let texts = inferred
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), DataType::Utf8, true));
        let texts = Schema::new(texts.collect::<Vec<_>>());
        let reader = ReaderBuilder::new(Arc::new(texts))
            .with_format(self.format())
            .build(Cursor::new(records))?;
        let mut whole = vec![true; inferred.fields().len()];
        let mut left = self.records_max;
        for batch in reader {
            let batch = batch?;
            let batch = batch.slice(0, left.min(batch.num_rows()));
            left = left.saturating_sub(batch.num_rows());
            for ((whole, field), column) in
                whole.iter_mut().zip(inferred.fields()).zip(batch.columns())
            {
                let mut texts = column.as_string::<i32>().iter().flatten();
                *whole = *whole && texts.all(|text| keeps(text, field.data_type()));
            }
        }
        let fields = inferred.fields().iter().zip(whole).map(|(field, whole)| {
            match (field.data_type(), whole) {
                (_, false) | (DataType::Null, _) => Field::new(field.name(), DataType::Utf8, true),
                (_, true) => field.as_ref().clone().with_nullable(true),
            }
        });
        Ok(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// Whether a number gives back the digits that were written.
fn keeps(text: &str, data_type: &DataType) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    let led_by_zero = digits.len() > 1
        && digits.starts_with('0')
        && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    match data_type {
        DataType::Int64 => !led_by_zero && text.parse::<i64>().is_ok(),
        DataType::Float64 => !led_by_zero && double_keeps(text),
        // The enum is open; other types are told apart by their signs.
        _ => true,
    }
}

fn double_keeps(text: &str) -> bool {
    let significant = |text: &str| {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => significant(&format!("{value:e}")) == significant(text),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// The columns of some files, from the first records of each.
pub(super) async fn infer(command: &CreateExternalTable, files: &[File]) -> Result<Schema> {
    let dialect = Dialect::of(command);
    let mut schemas = Vec::with_capacity(files.len());
    for file in files {
        let bytes = file.read(Some(PREFIX_BYTES)).await?;
        let cut = (bytes.len() as u64) < file.meta.size;
        let end = if cut {
            dialect.whole_records(&bytes)
        } else {
            bytes.len()
        };
        if end == 0 {
            return Err(file.unreadable("its first record has no end within the first 8 MiB"));
        }
        let records = bytes.get(..end).unwrap_or_default();
        let columns = dialect.columns(records);
        schemas.push(columns.map_err(|error| file.unreadable(error))?);
    }
    merged(files, schemas)
}

/// One schema of several: a column that is not of one type in all of them is text.
fn merged(files: &[File], schemas: Vec<Schema>) -> Result<Schema> {
    let mut schemas = schemas.into_iter().zip(files);
    let Some((mut all, _)) = schemas.next() else {
        return Ok(Schema::empty());
    };
    for (schema, file) in schemas {
        if schema.fields().len() != all.fields().len() {
            return Err(file.unreadable(format!(
                "it has {} columns, the files before it {}",
                schema.fields().len(),
                all.fields().len()
            )));
        }
        let fields = all.fields().iter().zip(schema.fields()).map(|(a, b)| {
            let data_type = match (a.data_type(), b.data_type()) {
                (a, b) if a == b => a.clone(),
                (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
                    DataType::Float64
                }
                _ => DataType::Utf8,
            };
            Field::new(a.name(), data_type, true)
        });
        all = Schema::new(fields.collect::<Vec<_>>());
    }
    Ok(all)
}

/// The rows of files that were read whole.
pub(super) fn whole(
    command: &CreateExternalTable,
    files: &[File],
    texts: &[Vec<u8>],
    declared: Option<SchemaRef>,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let dialect = Dialect::of(command);
    let schema = match declared {
        Some(schema) => schema,
        None => {
            let schemas = files.iter().zip(texts).map(|(file, text)| {
                let columns = dialect.columns(text);
                columns.map_err(|error| file.unreadable(error))
            });
            Arc::new(merged(files, schemas.collect::<Result<Vec<_>>>()?)?)
        }
    };
    let batches = rows_of(files, texts, |text| {
        ReaderBuilder::new(Arc::clone(&schema))
            .with_format(dialect.format())
            .build(Cursor::new(text))?
            .collect()
    })?;
    Ok((schema, batches))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect() -> Dialect {
        Dialect {
            header: true,
            delimiter: b',',
            quote: b'"',
            escape: None,
            comment: None,
            shorter_rows: false,
            records_max: RECORDS_MAX,
        }
    }

    #[test]
    fn columns_are_what_gives_back_their_digits() {
        let text = "\u{feff}code,n,big,x,long,day,note\r\n\
            03000000,7,9223372036854775808,0.5,12345678901234567.89,2024-01-01,\"a\r\nb, c\"\r\n\
            45000000,-1,1,1e-20,1.5,2024-01-02,d\r\n";
        let schema = dialect().columns(text.as_bytes()).unwrap();
        let found: Vec<(&str, &DataType)> = schema
            .fields()
            .iter()
            .map(|field| (field.name().as_str(), field.data_type()))
            .collect();
        let expected = [
            ("code", &DataType::Utf8),
            ("n", &DataType::Int64),
            ("big", &DataType::Utf8),
            ("x", &DataType::Float64),
            ("long", &DataType::Utf8),
            ("day", &DataType::Date32),
            ("note", &DataType::Utf8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn records_end_outside_of_quotes() {
        let records = |text: &str| dialect().whole_records(text.as_bytes());
        assert_eq!(records("a,b\n1,\"x\ny\"\n2,\"z"), 12);
        assert_eq!(records("a,\"b\n\"\"c\n"), 0);
    }
}
