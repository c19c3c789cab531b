//! The bytes of a Parquet file, its columns encoded side by side.
//!
//! Encoding is most of what a large commit costs, and nobody else can commit meanwhile. The
//! columns of a row group do not depend on each other, so each processor takes one after the
//! other. The bytes are the same whoever encoded them.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;

/// Rows of a row group from which other processors help. Chosen: starting a thread takes some
/// 50 us, encoding so many rows a hundred times as long.
const SHARED_ROWS: usize = 1 << 16;

/// Rows of a row group of a large file. Chosen: the parquet crate's own default.
pub(super) const GROUP_ROWS: usize = 1 << 20;

/// Batches as one file, in row groups of [`GROUP_ROWS`].
///
/// # Arguments
/// * `schema`: of primitive, text or dictionary columns, which are one Parquet column each. One
///   that a batch lacks is NULL in its rows.
pub(super) fn encode(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    properties: WriterProperties,
) -> Result<Vec<u8>> {
    let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties))?;
    let (mut file, factory) = writer.into_serialized_writer()?;
    for (number, group) in groups(batches).iter().enumerate() {
        let writers = factory.create_column_writers(number)?;
        let mut row_group = file.next_row_group()?;
        for chunk in encode_columns(schema, group, writers)? {
            chunk.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
    }
    file.into_inner()
}

/// The rows of each row group.
fn groups(batches: &[RecordBatch]) -> Vec<Vec<RecordBatch>> {
    let mut groups: Vec<Vec<RecordBatch>> = Vec::new();
    let mut room = 0;
    for batch in batches {
        let mut first = 0;
        while first < batch.num_rows() {
            if room == 0 {
                groups.push(Vec::new());
                room = GROUP_ROWS;
            }
            let rows = room.min(batch.num_rows() - first);
            if let Some(group) = groups.last_mut() {
                group.push(batch.slice(first, rows));
            }
            (first, room) = (first + rows, room - rows);
        }
    }
    groups
}

fn encode_columns(
    schema: &SchemaRef,
    group: &[RecordBatch],
    writers: Vec<ArrowColumnWriter>,
) -> Result<Vec<ArrowColumnChunk>> {
    let fields = schema.fields();
    if writers.len() != fields.len() {
        return Err(ParquetError::General("a column is nested".to_owned()));
    }
    let rows: usize = group.iter().map(RecordBatch::num_rows).sum();
    let threads = match rows >= SHARED_ROWS {
        true => thread::available_parallelism().map_or(1, usize::from),
        false => 1,
    };
    let columns = Mutex::new(fields.iter().zip(writers).enumerate());
    let work = || -> Result<Vec<(usize, ArrowColumnChunk)>> {
        let mut done = Vec::new();
        loop {
            let next = columns
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next();
            let Some((index, (field, writer))) = next else {
                return Ok(done);
            };
            done.push((index, encode_column(field, group, writer)?));
        }
    };
    let mut chunks = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(fields.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut chunks = work()?;
        for helper in helpers {
            chunks.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok::<_, ParquetError>(chunks)
    })?;
    chunks.sort_by_key(|(index, _)| *index);
    Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect())
}

fn encode_column(
    field: &Field,
    group: &[RecordBatch],
    mut writer: ArrowColumnWriter,
) -> Result<ArrowColumnChunk> {
    for batch in group {
        let found: Option<&ArrayRef> = batch.column_by_name(field.name());
        let array = found.map_or_else(
            || new_null_array(field.data_type(), batch.num_rows()),
            Arc::clone,
        );
        for leaf in compute_leaves(field, &array)? {
            writer.write(&leaf)?;
        }
    }
    writer.close()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Schema};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("number", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]))
    }

    fn numbers(first: i64, rows: usize) -> RecordBatch {
        let numbers = Int64Array::from_iter_values((first..).take(rows));
        let texts: StringArray = (first..)
            .take(rows)
            .map(|number| (number % 3 > 0).then(|| number.to_string()))
            .collect();
        RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap()
    }

    fn check(batches: &[RecordBatch], expected: &[RecordBatch], groups: usize) {
        let bytes = encode(&schema(), batches, WriterProperties::default()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), groups);
        let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let join = |batches: &[RecordBatch]| concat_batches(&schema(), batches).unwrap();
        assert_eq!(join(&read), join(expected));
    }

    #[test]
    fn a_file_holds_the_rows_of_all_batches_in_order() {
        check(&[], &[], 0);
        let small = [numbers(0, 5), numbers(5, 3)];
        check(&small, &small, 1);
        let shared = [numbers(0, SHARED_ROWS), numbers(7, 2)];
        check(&shared, &shared, 1);
        let two_groups = [numbers(0, GROUP_ROWS - 1), numbers(9, 3)];
        check(&two_groups, &two_groups, 2);
    }

    #[test]
    fn a_column_that_a_batch_lacks_is_null() {
        let whole = numbers(0, 4);
        let lacking = whole.project(&[0]).unwrap();
        let texts = new_null_array(&DataType::Utf8, 4);
        let nulls = vec![Arc::clone(whole.column(0)), texts];
        let expected = RecordBatch::try_new(schema(), nulls).unwrap();
        check(&[whole.clone(), lacking], &[whole, expected], 1);
    }
}
