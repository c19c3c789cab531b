//! Verifies a store: reads everything, changes nothing, and says all that is wrong.
//!
//! It takes nothing for granted, so it also works on a store that does not open. Every commit is
//! replayed with every rule; every checkpoint must equal the replay; every file that the newest
//! state names must be there, be whole, and hold the rows that it should.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::error::{Code, Error, Result};
use crate::id::{JobId, RunId, Slot, Version};
use crate::ledger::checkpoint;
use crate::ledger::codec;
use crate::ledger::errors::gone;
use crate::ledger::history::{self, EventsFile};
use crate::ledger::store::Store;
use crate::model::columns::EventsReader;
use crate::model::compare::difference;
use crate::model::keys::Key;
use crate::model::outputs::{kept, output_path, path_in_store};
use crate::model::sources::{RowLiveness, Run, SourceTable};
use crate::model::state::State;

/// How often checking begins again because another process cleaned up meanwhile.
const ATTEMPTS_MAX: u32 = 5;

/// Findings that a report names; the others are counted. Chosen: more than anybody reads.
const FINDINGS_MAX: usize = 1_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something is lost or wrong.
    Error,
    /// Worth knowing; nothing is wrong.
    Note,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file that it is about.
    pub path: String,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}: {}", self.path, self.what)
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The first findings.
    pub findings: Vec<Finding>,
    /// How many errors there are, also those that are not among the findings.
    pub errors: u64,
    /// How many notes.
    pub notes: u64,
    /// The last commit that was replayed.
    pub version: Version,
    /// Files of events that were read.
    pub events_files: u64,
    /// Checkpoints that were compared with the replay.
    pub checkpoints: u64,
    /// Runs that were read.
    pub runs: u64,
}

impl Report {
    fn add(&mut self, severity: Severity, path: &str, what: impl Into<String>) {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Note => self.notes += 1,
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                severity,
                path: path.to_owned(),
                what: what.into(),
            });
        }
    }

    fn error(&mut self, path: &str, what: impl Into<String>) {
        self.add(Severity::Error, path, what);
    }

    /// Notes an error of ours that says what is wrong; hands on one that says something else.
    fn broken(&mut self, path: &str, error: Error) -> Result<()> {
        match error.code() {
            Code::StoreCorrupt | Code::StoreTooNew => {
                let detail = error.detail().unwrap_or_default();
                self.error(path, format!("{}. {detail}", error.message()));
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Checks a store.
///
/// # Errors
/// `SG7002 store-unavailable`: it cannot be read, so nothing can be said of it.
pub async fn check(store: &Store) -> Result<Report> {
    let mut attempt = 1;
    loop {
        match check_once(store, attempt == ATTEMPTS_MAX).await {
            Err(error) if error.code() == Code::SnapshotGone && attempt < ATTEMPTS_MAX => {
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

async fn check_once(store: &Store, settled: bool) -> Result<Report> {
    let mut report = Report::default();
    let state = check_commits(store, settled, &mut report).await?;
    check_runs(store, &state, &mut report).await?;
    check_outputs(store, &state, &mut report).await?;
    Ok(report)
}

/// Replays everything and compares the checkpoints; returns the newest state that is known.
async fn check_commits(store: &Store, settled: bool, report: &mut Report) -> Result<State> {
    for entry in store.list("ledger").await? {
        if codec::commit_version(&entry.path).is_none() {
            report.add(Severity::Note, &entry.path, "no commit has this name");
        }
    }
    let mut checkpoints: BTreeSet<Version> =
        checkpoint::versions(store).await?.into_iter().collect();
    let files = history::events_files(store, Version(u64::MAX)).await?;
    let mut replay = Replay {
        settled,
        ..Replay::default()
    };
    for file in &files {
        replay.file(store, file, &mut checkpoints, report).await?;
    }
    report.version = replay.state.version;
    // What is left are checkpoints that the replay has not reached.
    let mut newest = replay.state;
    for version in checkpoints {
        let path = checkpoint::manifest_path(version);
        if replay.whole {
            report.error(
                &path,
                format!(
                    "the checkpoint is newer than the last commit, {}",
                    report.version
                ),
            );
        }
        match checkpoint::load(store, version).await {
            Ok(state) => newest = state,
            Err(error) if error.code() == Code::SnapshotGone => {}
            Err(error) => report.broken(&path, error)?,
        }
    }
    Ok(newest)
}

/// The replay of all commits.
struct Replay {
    state: State,
    next: Version,
    /// Whether no commit was missing or broken so far; after one, rules say nothing.
    whole: bool,
    /// Whether what is missing has been looked for again.
    settled: bool,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            state: State::default(),
            next: Version(1),
            whole: true,
            settled: false,
        }
    }
}

impl Replay {
    async fn file(
        &mut self,
        store: &Store,
        file: &EventsFile,
        checkpoints: &mut BTreeSet<Version>,
        report: &mut Report,
    ) -> Result<()> {
        if file.from != self.next {
            // Compacted between two listings, perhaps: then another look finds it.
            if !self.settled {
                return Err(gone(&codec::commit_path(self.next)));
            }
            let missing = codec::commit_path(self.next);
            let last = file.from.0 - 1;
            report.error(
                &missing,
                format!("commits {} to {last} are missing", self.next),
            );
            self.whole = false;
        }
        self.next = file.to.next();
        let bytes = store.get(&file.path).await?;
        let bytes = bytes.ok_or_else(|| gone(&file.path))?;
        report.events_files += 1;
        let events = match codec::decode(&file.path, bytes) {
            Ok(events) => events,
            Err(error) => {
                self.whole = false;
                return report.broken(&file.path, error);
            }
        };
        if !self.whole {
            return Ok(());
        }
        for (version, rows) in by_commit(file, &events.batches) {
            let before = self.state.clone();
            if let Err(error) = codec::replay_rows(&mut self.state, version, version, &rows) {
                self.whole = false;
                self.state = before;
                return report.broken(&file.path, error);
            }
            // A compacted file has the digest of none of its commits.
            self.state.lineage.head = (file.from == file.to).then_some(events.digest);
            if checkpoints.remove(&version) {
                self.compare(store, version, report).await?;
            }
        }
        if self.state.version != file.to {
            self.whole = false;
            let last = self.state.version;
            report.error(&file.path, format!("it ends with commit {last}"));
        }
        Ok(())
    }

    async fn compare(&self, store: &Store, version: Version, report: &mut Report) -> Result<()> {
        let path = checkpoint::manifest_path(version);
        report.checkpoints += 1;
        match checkpoint::load(store, version).await {
            Ok(state) => {
                if let Some(what) = difference(&state, &self.state) {
                    report.error(
                        &path,
                        format!("the checkpoint differs from the replay: {what}"),
                    );
                }
                Ok(())
            }
            // It was cleaned up while the commits before it were replayed.
            Err(error) if error.code() == Code::SnapshotGone => Ok(()),
            Err(error) => report.broken(&path, error),
        }
    }
}

/// The rows of each commit of a file. Rows in a wrong place end up in commits where the replay
/// finds them.
fn by_commit(file: &EventsFile, batches: &[RecordBatch]) -> Vec<(Version, Vec<RecordBatch>)> {
    if file.from == file.to {
        return vec![(file.from, batches.to_vec())];
    }
    let mut commits: Vec<(Version, Vec<RecordBatch>)> = Vec::new();
    for batch in batches {
        let reader = EventsReader::try_new(batch).ok();
        let version = |row| {
            let place = reader.as_ref()?.place(row).ok();
            place.map(|(version, _)| version)
        };
        let mut first = 0;
        while first < batch.num_rows() {
            let of = version(first);
            let same = (first..batch.num_rows()).take_while(|row| version(*row) == of);
            let len = same.count();
            let rows = batch.slice(first, len);
            let of = of.unwrap_or_default();
            match commits.last_mut() {
                Some((last, all)) if *last == of => all.push(rows),
                Some(_) | None => commits.push((of, vec![rows])),
            }
            first += len;
        }
    }
    commits
}

/// Every run that the state names, and files that it does not name.
async fn check_runs(store: &Store, state: &State, report: &mut Report) -> Result<()> {
    let entries = store.list("tables").await?;
    let mut files: BTreeMap<&str, u64> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.bytes))
        .collect();
    for table in state.tables.values() {
        for (id, run) in table.runs.iter() {
            report.runs += 1;
            match files.remove(&*run.path) {
                None => report.error(&run.path, format!("the run of {} is missing", of(table))),
                Some(bytes) if bytes != run.bytes => report.error(
                    &run.path,
                    format!("it has {bytes} bytes; the commit says {}", run.bytes),
                ),
                Some(_) => {
                    if let Err(what) = check_rows(store, table, *id, run).await? {
                        report.error(&run.path, what);
                    }
                }
            }
        }
    }
    for path in files.into_keys() {
        report.add(
            Severity::Note,
            path,
            "no table names this file; it is cleaned up by and by",
        );
    }
    Ok(())
}

fn of(table: &SourceTable) -> String {
    format!("table \"{}\"", table.name)
}

/// A run as Parquet reads it: piece by piece, because it may be larger than the memory.
struct RunBytes {
    store: Store,
    path: String,
    bytes: u64,
}

impl AsyncFileReader for RunBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let external = |error: Error| ParquetError::External(Box::new(error));
            let bytes = self.store.get_range(&self.path, range).await;
            bytes
                .map_err(external)?
                .ok_or_else(|| external(gone(&self.path)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            let metadata = ParquetMetaDataReader::new().load_and_finish(self, bytes);
            metadata.await.map(Arc::new)
        }
        .boxed()
    }
}

/// Reads all rows of a run. The inner result says what is wrong with them.
async fn check_rows(
    store: &Store,
    table: &SourceTable,
    id: RunId,
    run: &Run,
) -> Result<std::result::Result<(), String>> {
    let reader = RunBytes {
        store: store.clone(),
        path: run.path.to_string(),
        bytes: run.bytes,
    };
    let batches = match ParquetRecordBatchStreamBuilder::new(reader).await {
        Ok(builder) => builder.build(),
        Err(error) => return Ok(Err(format!("it cannot be read: {error}"))),
    };
    let mut batches = match batches {
        Ok(batches) => batches,
        Err(error) => return Ok(Err(format!("it cannot be read: {error}"))),
    };
    let mut first = 0;
    loop {
        match batches.try_next().await {
            Ok(Some(batch)) => {
                if let Err(what) = check_keys(table, id, run, first, &batch) {
                    return Ok(Err(what));
                }
                first += batch.num_rows() as u64;
            }
            Ok(None) if first == run.rows => return Ok(Ok(())),
            Ok(None) => {
                let what = format!("it has {first} rows; the commit says {}", run.rows);
                return Ok(Err(what));
            }
            Err(error) => {
                return Ok(Err(format!(
                    "it cannot be read from row {first} on: {error}"
                )));
            }
        }
    }
}

/// Live rows must have the key of the source that they belong to.
fn check_keys(
    table: &SourceTable,
    id: RunId,
    run: &Run,
    first: u64,
    batch: &RecordBatch,
) -> std::result::Result<(), String> {
    let keys = batch.column_by_name(&table.def.key);
    let keys = keys.ok_or_else(|| format!("it has no key column \"{}\"", table.def.key))?;
    for index in 0..batch.num_rows() {
        let row = u32::try_from(first + index as u64).unwrap_or(u32::MAX);
        if table.liveness(id, row) == RowLiveness::Dead {
            continue;
        }
        let slot = run.slots.get(row as usize).copied().unwrap_or(u32::MAX);
        let expected = table.keys.get(Slot(slot));
        let found = if keys.is_null(index) {
            None
        } else if let Some(texts) = keys.as_string_view_opt() {
            Some(Key::Text(texts.value(index)))
        } else if let Some(texts) = keys.as_string_opt::<i32>() {
            // Runs of earlier versions.
            Some(Key::Text(texts.value(index)))
        } else {
            let numbers = keys.as_primitive_opt::<Int64Type>();
            numbers.map(|numbers| Key::Int(numbers.value(index)))
        };
        if found != expected {
            let shown = |key: Option<Key<'_>>| key.map_or("NULL".to_owned(), |key| key.to_string());
            return Err(format!(
                "row {row} has key \"{}\"; the commit says \"{}\"",
                shown(found),
                shown(expected)
            ));
        }
    }
    Ok(())
}

/// Outputs of completed jobs that are in the store itself.
async fn check_outputs(store: &Store, state: &State, report: &mut Report) -> Result<()> {
    let url = store.url().as_str();
    let uris = state.jobs.iter().zip(1_u64..).filter_map(|(job, id)| {
        let uri = job.extra.as_ref()?.output_uri.as_deref()?;
        let transform = state.transforms.get(&job.transform)?;
        let own = output_path(&transform.name, JobId(id), job.attempt);
        let kept = kept(url, uri);
        Some((id, path_in_store(&kept, &own)?.to_owned()))
    });
    let mut uris = uris.peekable();
    if uris.peek().is_none() {
        return Ok(());
    }
    let entries = store.list("outputs").await?;
    let there: BTreeSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    for (id, path) in uris {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let inside = there.range(folder.as_str()..).next();
        let found =
            there.contains(path.as_str()) || inside.is_some_and(|file| file.starts_with(&folder));
        if !found {
            report.error(&path, format!("the output of job {id} is missing"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::ledger::checkpoint::write;
    use crate::ledger::testing::{World, flip};
    use crate::time::Timestamp;

    use super::*;

    async fn errors(world: &World) -> Vec<String> {
        let report = check(&world.store).await.unwrap();
        let errors = report.findings.iter();
        let errors = errors.filter(|finding| finding.severity == Severity::Error);
        errors.map(ToString::to_string).collect()
    }

    async fn world() -> World {
        let mut world = World::new().await;
        world.table_of("notices", &["a", "b", "c"]).await;
        world.commits(4).await;
        write(&world.store, &world.state, world.now).await.unwrap();
        world.commits(4).await;
        world
    }

    fn run_path(world: &World) -> String {
        let table = world.state.table("notices").unwrap();
        table.runs.values().next().unwrap().path.to_string()
    }

    #[tokio::test]
    async fn a_sound_store_has_no_finding() {
        let world = world().await;
        let report = check(&world.store).await.unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(
            (report.version, report.checkpoints, report.runs),
            (world.version(), 1, 1)
        );
        history::compact(&world.store, Version(7), 3).await.unwrap();
        let all = Timestamp::MAX;
        assert_eq!(
            history::delete_compacted(&world.store, Version(4), all)
                .await
                .unwrap(),
            4
        );
        let report = check(&world.store).await.unwrap();
        assert_eq!(report.findings, []);
        assert_eq!((report.version, report.checkpoints), (world.version(), 1));
    }

    #[tokio::test]
    async fn a_missing_commit_is_named() {
        let world = world().await;
        world
            .store
            .delete(&codec::commit_path(Version(3)))
            .await
            .unwrap();
        let errors = errors(&world).await;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].ends_with("00003.parquet: commits 3 to 3 are missing"),
            "{errors:?}"
        );
    }

    #[tokio::test]
    async fn flipped_bytes_are_found_wherever_they_are() {
        let checked = |path: String| async move {
            let world = world().await;
            let path = if path.is_empty() {
                run_path(&world)
            } else {
                path
            };
            flip(&world.store, &path, |len| len / 4).await;
            let errors = errors(&world).await;
            assert!(!errors.is_empty(), "{path}");
        };
        checked(codec::commit_path(Version(2))).await;
        checked(codec::commit_path(Version(9))).await;
        checked(checkpoint::manifest_path(Version(6))).await;
    }

    #[tokio::test]
    async fn a_checkpoint_that_differs_from_the_replay_is_found() {
        let world = world().await;
        let mut other = world.state.clone();
        other.last_token.0 += 1;
        write(&world.store, &other, world.now).await.unwrap();
        let errors = errors(&world).await;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("last token"), "{errors:?}");
    }

    #[tokio::test]
    async fn runs_that_are_missing_cut_or_foreign_are_found() {
        let world = world().await;
        let path = run_path(&world);
        let bytes = world.store.get(&path).await.unwrap().unwrap();
        world.store.delete(&path).await.unwrap();
        assert!(errors(&world).await[0].contains("is missing"));
        world.store.put_new(&path, bytes.slice(..40)).await.unwrap();
        assert!(errors(&world).await[0].contains("40 bytes"));
        let mut world = World::new().await;
        world.table_of("notices", &["a", "b", "c"]).await;
        world.table_of("others", &["x", "y", "z"]).await;
        let other = world
            .state
            .table("others")
            .unwrap()
            .runs
            .values()
            .next()
            .unwrap()
            .clone();
        let foreign = world.store.get(&other.path).await.unwrap().unwrap();
        let path = run_path(&world);
        world.store.delete(&path).await.unwrap();
        world.store.put_new(&path, foreign).await.unwrap();
        let errors = errors(&world).await;
        assert!(
            errors[0].contains("row 0 has key \"x\"; the commit says \"a\""),
            "{errors:?}"
        );
    }

    #[tokio::test]
    async fn a_file_that_no_table_names_is_a_note() {
        let world = world().await;
        world
            .store
            .put_new("tables/notices/left.parquet", "x".into())
            .await
            .unwrap();
        let report = check(&world.store).await.unwrap();
        assert_eq!((report.errors, report.notes), (0, 1));
    }
}
