//! Commits as Parquet files, and their replay.
//!
//! Parquet has no checksum that its Rust writer fills in, so a flipped bit could read as another
//! event. A file of events therefore holds in its footer the hash of all its bytes, taken while
//! zeros stood in the place of the hash; whoever decodes it compares.

use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use twox_hash::XxHash64;

use crate::error::{Code, Error, Result};
use crate::id::Version;
use crate::ledger::errors::{damaged, too_new};
use crate::ledger::parquet_file;
use crate::model::apply::apply;
use crate::model::columns::{self, Column, EventsReader};
use crate::model::lineage::{FORMAT, Header};
use crate::model::state::State;

const FORMAT_KEY: &str = "sluicegate.format";

const HASH_KEY: &str = "sluicegate.hash";

/// What stands before the 16 hexadecimal digits of the hash, and tells the place in the file.
/// Only texts of the footer that are no texts of users come behind it.
const HASH_HEAD: &str = "xxh64:";

const NO_HASH: &str = "0000000000000000";

/// Rows of a commit from which compression pays for its time. Below, a file is some disk blocks,
/// and `history/` compresses what stays.
const COMPRESS_ROWS: usize = 1 << 13;

/// Rows of a commit from which it matters how its numbers and texts are encoded. Below, setting
/// up an encoder for each column takes longer than anything else.
const ENCODING_ROWS: usize = 512;

/// The path of a commit's file.
pub fn commit_path(version: Version) -> String {
    format!("ledger/{:020}.parquet", version.0)
}

/// The version in the path of a commit's file.
pub fn commit_version(path: &str) -> Option<Version> {
    let number = path.strip_prefix("ledger/")?.strip_suffix(".parquet")?;
    (number.len() == 20)
        .then(|| number.parse().ok().map(Version))
        .flatten()
}

/// A file of events in memory.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The file.
    pub bytes: Bytes,
    /// The digest by which the next commit names this one: the hash in the footer.
    pub digest: u64,
}

/// The events of a file.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Their rows.
    pub batches: Vec<RecordBatch>,
    /// The digest of the file.
    pub digest: u64,
}

impl Decoded {
    /// How many events there are.
    pub fn rows(&self) -> u64 {
        self.batches
            .iter()
            .map(|batch| batch.num_rows() as u64)
            .sum()
    }
}

/// A commit as a file: its events, the first of which says where it stands.
///
/// # Errors
/// `SG9001 bug`.
pub fn encode_commit(batches: &[RecordBatch], header: &Header) -> Result<Encoded> {
    let Some((first, others)) = batches.split_first() else {
        return Err(Error::bug("a commit without events is to be written"));
    };
    let (mut fields, mut columns): (Vec<_>, Vec<_>) = (
        first.schema().fields().iter().cloned().collect(),
        first.slice(0, 1).columns().to_vec(),
    );
    for (column, array) in columns::header_columns(header) {
        fields.push(Arc::new(columns::schema().field(column as usize).clone()));
        columns.push(array);
    }
    let head = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
    let head = head.map_err(|error| unwritable(error.into()))?;
    let rest = first.slice(1, first.num_rows().saturating_sub(1));
    let all: Vec<RecordBatch> = [head, rest]
        .into_iter()
        .chain(others.iter().cloned())
        .collect();
    encode(&all)
}

/// Events as the bytes of a Parquet file. It has the columns that one of the batches has.
///
/// # Errors
/// `SG9001 bug`.
pub fn encode(batches: &[RecordBatch]) -> Result<Encoded> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let used = |column: &&Column| {
        let mut batches = batches.iter();
        batches.any(|batch| batch.column_by_name(column.name()).is_some())
    };
    let used: Vec<usize> = Column::ALL
        .iter()
        .filter(used)
        .map(|column| *column as usize)
        .collect();
    let schema = columns::schema().project(&used);
    let schema = schema.map_err(|error| unwritable(error.into()))?;
    let properties = properties(&schema, rows);
    let mut bytes = parquet_file::encode(&Arc::new(schema), batches, properties)
        .map_err(|error| unwritable(error.into()))?;
    let digest = content_hash(&bytes);
    let hash = format!("{digest:016x}");
    let place = hash_place(&bytes).and_then(|place| bytes.get_mut(place));
    let place = place.ok_or_else(|| Error::bug("a file of events has no place for its hash"))?;
    place.copy_from_slice(hash.as_bytes());
    let bytes = bytes.into();
    Ok(Encoded { bytes, digest })
}

fn unwritable(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::bug("events cannot be written").with_source(error)
}

fn properties(schema: &Schema, rows: usize) -> WriterProperties {
    let compression = match rows >= COMPRESS_ROWS {
        true => Compression::ZSTD(ZstdLevel::default()),
        false => Compression::UNCOMPRESSED,
    };
    let mut properties = WriterProperties::builder();
    let chosen = (rows >= ENCODING_ROWS).then_some(schema.fields());
    for field in chosen.into_iter().flatten() {
        // Numbers mostly count on or stay, texts of their own do not repeat: a dictionary would
        // take more time and bytes.
        let encoding = match field.data_type() {
            DataType::Dictionary(..) => continue,
            DataType::Utf8 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            _ => Encoding::DELTA_BINARY_PACKED,
        };
        let path = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding);
    }
    properties
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![
            KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_string()),
            KeyValue::new(HASH_KEY.to_owned(), format!("{HASH_HEAD}{NO_HASH}")),
        ]))
        .build()
}

/// Where the digits of the hash are in a file of events.
fn hash_place(bytes: &[u8]) -> Option<Range<usize>> {
    let mut windows = bytes.windows(HASH_HEAD.len());
    let head = windows.rposition(|window| window == HASH_HEAD.as_bytes())?;
    let first = head + HASH_HEAD.len();
    let place = first..first + NO_HASH.len();
    (place.end <= bytes.len()).then_some(place)
}

/// The hash by which files of the store are recognised as undamaged: XXH64 with seed 0.
pub fn content_hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// The events in the bytes of a Parquet file.
///
/// # Errors
/// `SG7003 store-corrupt`, `SG7004 store-too-new`.
pub fn decode(path: &str, bytes: Bytes) -> Result<Decoded> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(|error| damaged(path, error))?;
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let metadata = metadata.map(Vec::as_slice).unwrap_or_default();
    check_format(path, metadata)?;
    let digest = check_hash(path, &bytes)?;
    let reader = builder
        .with_batch_size(parquet_file::GROUP_ROWS)
        .build()
        .map_err(|error| damaged(path, error))?;
    let batches = reader
        .collect::<std::result::Result<Vec<_>, ArrowError>>()
        .map_err(|error| damaged(path, error))?;
    Ok(Decoded { batches, digest })
}

fn check_format(path: &str, metadata: &[KeyValue]) -> Result<()> {
    let format = metadata
        .iter()
        .find(|pair| pair.key == FORMAT_KEY)
        .and_then(|pair| pair.value.as_deref()?.parse::<u32>().ok());
    match format {
        Some(format) if format <= FORMAT => Ok(()),
        Some(format) => Err(too_new(path, format)),
        None => Err(Error::new(
            Code::StoreCorrupt,
            format!("file \"{path}\" says no format version"),
        )
        .with_hint("It was not written by Sluicegate; move it out of the store.")),
    }
}

/// Whether a file of events has the bytes that were written.
///
/// # Returns
/// Its digest.
///
/// # Errors
/// `SG7003 store-corrupt`.
pub fn check_hash(path: &str, bytes: &[u8]) -> Result<u64> {
    let parts = hash_place(bytes).and_then(|place| {
        let before = bytes.get(..place.start)?;
        Some((before, bytes.get(place.clone())?, bytes.get(place.end..)?))
    });
    let digest = parts.and_then(|(before, digits, after)| {
        let mut hasher = XxHash64::with_seed(0);
        hasher.write(before);
        hasher.write(NO_HASH.as_bytes());
        hasher.write(after);
        let digest = hasher.finish();
        (digits == format!("{digest:016x}").as_bytes()).then_some(digest)
    });
    digest.ok_or_else(|| damaged(path, "its bytes are not those that were written"))
}

/// Folds the commits `first..=last` of somebody else into a state, checking every rule.
///
/// # Errors
/// `SG7003 store-corrupt`, naming version and row.
pub fn replay(state: &mut State, first: Version, last: Version, events: &Decoded) -> Result<()> {
    replay_rows(state, first, last, &events.batches)?;
    // A compacted file has the digest of none of its commits.
    state.lineage.head = (first == last).then_some(events.digest);
    Ok(())
}

/// The same of some rows of a file.
///
/// # Errors
/// Those of [`replay`].
pub fn replay_rows(
    state: &mut State,
    first: Version,
    last: Version,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut next = (first, 0);
    for batch in batches {
        let reader = EventsReader::try_new(batch)
            .map_err(|error| broken(next.0, next.1, error.to_string()))?;
        for row in 0..reader.len() {
            let fail = |what: String| broken(next.0, next.1, what);
            let place = reader.place(row).map_err(|error| fail(error.to_string()))?;
            let begins_next = next.1 > 0 && place == (next.0.next(), 0) && next.0 < last;
            if place != next && !begins_next {
                return Err(fail(format!(
                    "the row says commit {}, row {}",
                    place.0, place.1
                )));
            }
            let fail = |what: String| broken(place.0, place.1, what);
            if place.1 == 0 {
                let header = reader.header(row);
                let header = header.map_err(|error| fail(error.to_string()))?;
                let follows = state.lineage.advance(&header);
                follows.map_err(|error| fail(error.to_string()))?;
            }
            let origin = reader
                .origin(row)
                .map_err(|error| fail(error.to_string()))?;
            let event = reader
                .event(row, state)
                .map_err(|error| fail(error.to_string()))?;
            apply(state, place.0, origin, &event).map_err(|error| fail(error.to_string()))?;
            next = (place.0, place.1 + 1);
        }
    }
    if next.1 == 0 {
        return Err(Error::new(
            Code::StoreCorrupt,
            format!("commit {first} is empty"),
        ));
    }
    if next.0 != last {
        return Err(broken(
            next.0,
            next.1,
            format!("commit {last} does not follow"),
        ));
    }
    Ok(())
}

fn broken(version: Version, row: u64, what: String) -> Error {
    Error::new(
        Code::StoreCorrupt,
        format!("commit {version} breaks a rule in row {row}"),
    )
    .with_detail(format!("{what}."))
    .with_hint("Do not write to this store; run sluicegate check.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::{World, author, transform_def};
    use crate::model::compare::difference;
    use crate::model::decide::{Decision, IfExists, ScheduleOptions};
    use crate::model::draft::{Draft, Drafted};

    #[tokio::test]
    async fn many_jobs_at_once_are_those_of_one_call_after_the_other() {
        let keys: Vec<String> = (0..600).map(|number| format!("n/{number}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut world = World::new().await;
        world.table_of("notices", &keys).await;
        for name in ["one", "two"] {
            let def = transform_def("notices", &["RAW"], &["DONE"]);
            world
                .commit(|draft| draft.create_transform(name, &def, IfExists::Fail).map(drop))
                .await;
        }
        world
            .commit(|draft| {
                let other = draft.schedule_target("two")?;
                for key in ["n/3", "n/5"] {
                    draft.schedule_job(&other, key, ScheduleOptions::default())?;
                }
                draft.set_status("notices", "n/7", "DONE", None).map(drop)
            })
            .await;
        // Each twice, and one that is not there between them.
        let wanted: Vec<&str> = keys
            .iter()
            .copied()
            .chain(["stranger"])
            .chain(keys.iter().copied())
            .collect();
        let options = ScheduleOptions {
            params: Some("{\"x\":1}"),
            batch: Some("all"),
            ..ScheduleOptions::default()
        };
        let draft = || {
            let version = world.state.version.next();
            let author = author("ann", "statement");
            Draft::new(
                world.state.clone(),
                version,
                world.now,
                author,
                &world.limits,
            )
        };
        let at_once = |mut draft: Draft<'_>| -> Result<(Vec<Decision>, Drafted)> {
            let target = draft.schedule_target("one")?;
            let mut decisions = Vec::new();
            draft.schedule_jobs(&target, wanted.iter().copied(), options, &mut decisions)?;
            Ok((decisions, draft.finish()?))
        };
        let one_by_one = |mut draft: Draft<'_>| -> Result<(Vec<Decision>, Drafted)> {
            let target = draft.schedule_target("one")?;
            let decisions = wanted
                .iter()
                .map(|key| draft.schedule_job(&target, key, options))
                .collect::<Result<_>>()?;
            Ok((decisions, draft.finish()?))
        };
        let (many, drafted) = at_once(draft()).unwrap();
        let (single, mut expected) = one_by_one(draft()).unwrap();
        assert_eq!(many, single);
        assert_eq!(drafted.events, expected.events);
        assert_eq!(difference(&drafted.state, &expected.state), None);

        let header = world.state.lineage.next(|| "store".into());
        let encoded = encode_commit(&[drafted.events], &header).unwrap();
        let events = decode("ledger/1.parquet", encoded.bytes).unwrap();
        let mut replayed = world.state.clone();
        let version = drafted.state.version;
        replay(&mut replayed, version, version, &events).unwrap();
        assert_eq!(replayed.lineage.head, Some(encoded.digest));
        expected.state.lineage.committed(header, encoded.digest);
        assert_eq!(difference(&replayed, &expected.state), None);
    }
}
