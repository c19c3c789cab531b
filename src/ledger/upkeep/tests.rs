//! Tests of the upkeep: checkpoints, history, clean-up and merges, also after crashes.

use std::collections::BTreeSet;
use std::path::Path;

use futures::executor::block_on;

use crate::id::{Slot, Version};
use crate::ledger::check::check;
use crate::ledger::store::fault::{Fault, FaultyStore, remote};
use crate::ledger::store::{Answers, StoreOptions};
use crate::ledger::testing::{World, author, real_run, table_def, transform_def};
use crate::ledger::{Ledger, codec};
use crate::model::compare::difference;
use crate::model::decide::{
    AcquireOptions, Completion, IfExists, NewRun, Report, ScheduleOptions, WriteMode,
};
use crate::model::kept::digest_of;
use crate::model::keys::{Key, KeyType};
use crate::model::lineage::FORMAT;
use crate::model::locks::LockMode;
use crate::sim::shelf::{Line, Shelf};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn limits() -> Limits {
    Limits {
        checkpoint_commits: 4,
        merge_runs: 4,
        ..Limits::default()
    }
}

/// A clock that stands still, and a store that dates its files by it.
fn world() -> (Store, Clock) {
    let clock = Clock::mock(Timestamp(1_700_000_000_000_000));
    let line = Line::clear(&Shelf::new(clock.clone()));
    let store = Store::simulated("upkeep", line, Answers::Certain).unwrap();
    (store, clock)
}

async fn open(store: &Store, clock: &Clock) -> Ledger {
    Ledger::open(store.clone(), clock.clone(), Arc::new(limits()))
        .await
        .unwrap()
}

async fn note(ledger: &Ledger) -> Version {
    let noted = ledger
        .commit(author("ann", "s"), |draft| {
            draft.note_statement("SELECT 1", None, "{}")
        })
        .await
        .unwrap();
    ledger.maintenance().idle().await;
    noted.version
}

async fn notes(ledger: &Ledger, count: u64) {
    for _ in 0..count {
        note(ledger).await;
    }
}

async fn ledger_versions(store: &Store) -> Vec<u64> {
    let files = history::ledger_files(store).await.unwrap();
    files.iter().map(|file| file.from.0).collect()
}

async fn assert_sound(store: &Store) {
    let report = check(store).await.unwrap();
    assert_eq!(report.errors, 0, "{:?}", report.findings);
}

/// Every commit is in exactly one of the files that a query on `events` reads.
async fn assert_events_complete(store: &Store, last: Version) {
    let mut expected = 1;
    for file in history::events_files(store, last).await.unwrap() {
        assert_eq!(file.from.0, expected);
        expected = file.to.0 + 1;
    }
    assert_eq!(expected, last.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_files_go_after_the_grace_and_a_sleeper_reopens() {
    let (store, clock) = world();
    let busy = open(&store, &clock).await;
    let sleeper = open(&store, &clock).await;
    notes(&busy, 13).await;
    assert_eq!(ledger_versions(&store).await, (1..=13).collect::<Vec<_>>());
    assert_events_complete(&store, Version(13)).await;
    clock.advance(HOUR);
    notes(&busy, 4).await;
    let left = ledger_versions(&store).await;
    assert_eq!(left.first(), Some(&13), "{left:?}");
    assert_events_complete(&store, Version(17)).await;
    assert_sound(&store).await;

    let state = sleeper.snapshot().await.unwrap();
    assert_eq!(state.version, Version(17));
    assert_eq!(difference(&state, &busy.seen()), None);
    assert_eq!(note(&sleeper).await, Version(18));
    assert_eq!(busy.snapshot().await.unwrap().version, Version(18));
    assert_sound(&store).await;
    let versions = checkpoint::versions(&store).await.unwrap();
    assert!(versions.len() <= 3, "{versions:?}");
}

/// A process was suspended between reading the newest commit and putting its own. Meanwhile
/// others committed, and the file that its own collides with was compacted and deleted: the put
/// succeeds, although the commit's number was given long ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_the_place_of_a_deleted_one_is_taken_back() {
    let (store, clock) = world();
    let suspended = open(&store, &clock).await;
    let others = Mutex::new(Some(World::over(store.clone())));
    let moved = clock.clone();
    let committed = suspended
        .commit(author("bob", "late"), move |draft| {
            if let Some(mut world) = others.lock().unwrap().take() {
                block_on(async {
                    world.commits(6).await;
                    checkpoint::write(&world.store, &world.state, world.now)
                        .await
                        .unwrap();
                    history::compact(&world.store, Version(6), 3).await.unwrap();
                    let all = Timestamp::MAX;
                    history::delete_compacted(&world.store, Version(6), all)
                        .await
                        .unwrap();
                });
                moved.advance(HOUR);
            }
            draft.note_statement("SELECT 'late'", None, "{}")
        })
        .await
        .unwrap();
    assert_eq!(committed.version, Version(7));
    assert_eq!(ledger_versions(&store).await, [7]);
    assert_sound(&store).await;
}

/// As before, but the late process crashed before it took its file back, and the next one to wake
/// up finds that file where its next commit should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_left_in_the_place_of_a_deleted_commit_is_not_read() {
    let (store, clock) = world();
    let sleeper = open(&store, &clock).await;
    let mut world = World::over(store.clone());
    world.commits(6).await;
    checkpoint::write(&store, &world.state, world.now)
        .await
        .unwrap();
    history::compact(&store, Version(6), 3).await.unwrap();
    history::delete_compacted(&store, Version(6), Timestamp::MAX)
        .await
        .unwrap();
    let mut late = World::new().await;
    late.table_of("late", &["a"]).await;
    let path = codec::commit_path(Version(1));
    let left = late.store.get(&path).await.unwrap().unwrap();
    store.put_new(&path, left).await.unwrap();
    clock.advance(HOUR);
    let state = sleeper.snapshot().await.unwrap();
    assert_eq!(difference(&state, &world.state), None);
    assert_eq!(note(&sleeper).await, Version(7));
    assert_events_complete(&store, Version(7)).await;
    assert_sound(&store).await;
}

async fn insert(ledger: &Ledger, keys: &'static [&'static str]) {
    let run: NewRun = real_run(ledger.store(), "notices", keys).await;
    ledger
        .commit(author("ann", "s"), move |draft| {
            let rows = keys.iter().map(|key| (Key::Text(key), None));
            draft
                .write_rows("notices", &run, WriteMode::Replace, rows)
                .map(drop)
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_runs_become_one_without_dead_rows() {
    let (store, clock) = world();
    let ledger = open(&store, &clock).await;
    ledger
        .commit(author("ann", "s"), |draft| {
            draft.create_table("notices", &table_def(KeyType::Text), IfExists::Fail)
        })
        .await
        .unwrap();
    insert(&ledger, &["a", "b", "c"]).await;
    insert(&ledger, &["d"]).await;
    insert(&ledger, &["b", "e"]).await;
    insert(&ledger, &["f"]).await;
    ledger.maintenance().idle().await;
    let state = ledger.snapshot().await.unwrap();
    let table = state.table("notices").unwrap();
    let runs: Vec<_> = table.runs.values().collect();
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].rows, runs[0].live_rows), (6, 6));
    let slots = runs[0].slots.iter();
    let keys = slots.map(|slot| table.keys.get(Slot(*slot)).unwrap().to_string());
    assert_eq!(keys.collect::<Vec<_>>(), ["a", "c", "d", "b", "e", "f"]);
    // Checks the key of every row, too.
    assert_sound(&store).await;
    assert_eq!(merge::due(&state, &limits()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_merged_runs_go_when_no_commit_may_name_them_and_no_reader_needs_them() {
    let (store, clock) = world();
    let mut world = World::over(store.clone());
    world.table_of("notices", &["a", "b"]).await;
    real_run(&store, "notices", &["left"]).await;
    let files = || async { store.list("tables").await.unwrap().len() };
    let clean = |state: &State| {
        let (store, state, now) = (store.clone(), state.clone(), clock.now());
        async move {
            let moments = Moments {
                now,
                before_grace: now.before(HOUR),
                before_opening: now.before(HOUR),
            };
            clean::runs(&store, &state, moments).await.unwrap()
        }
    };
    let checkpoint = |world: &World| {
        let (store, state, now) = (store.clone(), world.state.clone(), clock.now());
        async move { checkpoint::write(&store, &state, now).await.unwrap() }
    };
    let day = Duration::from_secs(24 * 3600);
    // Without a checkpoint nothing is known of the past.
    clock.advance(2 * day);
    assert_eq!((clean(&world.state).await, files().await), (0, 2));
    // Of its commit's time a statement might still name the file.
    checkpoint(&world).await;
    clock.advance(2 * day);
    assert_eq!((clean(&world.state).await, files().await), (0, 2));
    world.now = clock.now();
    world.commits(1).await;
    checkpoint(&world).await;
    // Readers have their grace.
    assert_eq!((clean(&world.state).await, files().await), (0, 2));
    clock.advance(2 * HOUR);
    assert_eq!((clean(&world.state).await, files().await), (1, 1));
    assert_sound(&store).await;
}

/// A writer slept between its file and its commit, for longer than such files are kept.
#[tokio::test]
async fn a_commit_that_names_an_old_file_is_refused() {
    let (store, clock) = world();
    let ledger = open(&store, &clock).await;
    let def = table_def(KeyType::Text);
    ledger
        .commit(author("ann", "table"), move |draft| {
            draft.create_table("notices", &def, IfExists::Fail)
        })
        .await
        .unwrap();
    let run = real_run(&store, "notices", &["a"]).await;
    clock.advance(Duration::from_secs(25 * 3600));
    let late = ledger.commit(author("bob", "late"), move |draft| {
        let rows = [(Key::Text("a"), None)];
        draft
            .write_rows("notices", &run, WriteMode::Insert, rows.into_iter())
            .map(drop)
    });
    let error = late.await.unwrap_err();
    assert_eq!(error.code(), Code::WriteConflict, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoint_on_demand_answers_what_it_wrote() {
    let (store, clock) = world();
    let ledger = open(&store, &clock).await;
    note(&ledger).await;
    let written = ledger.maintenance().checkpoint().await.unwrap();
    assert_eq!(written.version, Version(1));
    let files = store.list("checkpoints").await.unwrap();
    let bytes = files.iter().map(|file| file.bytes).sum::<u64>();
    assert_eq!((files.len() as u64, bytes), (written.files, written.bytes));
    assert_eq!(ledger.maintenance().checkpoint().await.unwrap(), written);
    let reopened = checkpoint::open(&store).await.unwrap();
    assert_eq!(reopened.checkpoint, Some(Version(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_duty_leaves_the_store_alone() {
    let (store, clock) = world();
    let idle = Ledger::open_with(store.clone(), clock, Arc::new(limits()), Duty::Leaves);
    let idle = idle.await.unwrap();
    notes(&idle, 9).await;
    let folders: BTreeSet<String> = store
        .list("")
        .await
        .unwrap()
        .iter()
        .filter_map(|entry| Some(entry.path.split_once('/')?.0.to_owned()))
        .collect();
    assert_eq!(folders, BTreeSet::from(["ledger".to_owned()]));
}

/// A crash is a store that takes no more from some put on.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_put_leaves_a_valid_store() {
    const BEFORE: usize = 7;
    let mut written = 0;
    for puts in 0..20 {
        let faults = vec![Fault::None; BEFORE + puts];
        let denied = vec![Fault::Denied; 100];
        let objects = FaultyStore::new(faults.into_iter().chain(denied));
        let mut world = World::over(remote(objects));
        world.table_of("notices", &["a", "b"]).await;
        world.commits(4).await;
        let checkpoint = checkpoint::write(&world.store, &world.state, world.now).await;
        let compacted = history::compact(&world.store, Version(6), 3).await;
        written += u32::from(checkpoint.is_ok() && compacted.is_ok());
        // Deletes are not denied: what is written decides alone what may go.
        let covered = checkpoint::newest(&world.store)
            .await
            .unwrap()
            .unwrap_or_default();
        history::delete_compacted(&world.store, covered, Timestamp::MAX)
            .await
            .unwrap();
        let opened = checkpoint::open(&world.store).await.unwrap();
        assert_eq!(difference(&opened.state, &world.state), None, "{puts} puts");
        assert_events_complete(&world.store, Version(6)).await;
        assert_sound(&world.store).await;
    }
    assert!(
        (1..20).contains(&written),
        "{written} of 20 went to the end"
    );
}

/// Stores of every released format must open for ever. `SLUICEGATE_WRITE_FIXTURE=1` writes the
/// one of this format, where there is none yet.
#[tokio::test(flavor = "multi_thread")]
async fn stores_of_every_format_open() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ledger");
    if std::env::var_os("SLUICEGATE_WRITE_FIXTURE").is_some() {
        write_fixture(&folder.join(format!("format-{}", FORMAT))).await;
    }
    for format in 1..=FORMAT {
        let path = folder.join(format!("format-{format}"));
        assert!(path.is_dir(), "there is no fixture of format {format}");
        let path = path.to_str().unwrap();
        let store = Store::open(path, &StoreOptions::default()).await.unwrap();
        let opened = checkpoint::open(&store).await.unwrap();
        assert_eq!(opened.checkpoint, Some(Version(7)));
        let state = opened.state;
        assert_eq!(state.version, Version(9));
        let table = state.table("notices").unwrap();
        assert_eq!((table.len(), state.jobs.len()), (3, 2));
        assert_eq!(
            table.status_name(table.source(Slot(0)).unwrap().status),
            "DONE"
        );
        assert_eq!(state.locks.iter().count(), 1);
        // That of format 1 has none in its checkpoint.
        assert_eq!(state.kept.get("early").is_some(), format >= 2);
        assert_eq!(state.kept.get("key").unwrap().digest, digest_of("SELECT 1"));
        let report = check(&store).await.unwrap();
        assert_eq!(report.findings, []);
        assert_eq!((report.checkpoints, report.runs), (1, 1));
    }
}

async fn write_fixture(folder: &Path) {
    if folder.exists() {
        return;
    }
    let store = Store::open(folder.to_str().unwrap(), &StoreOptions::default())
        .await
        .unwrap();
    let mut world = World::over(store);
    world.table_of("notices", &["a", "b", "c"]).await;
    let def = transform_def("notices", &["RAW"], &["DONE"]);
    world
        .commit(|draft| draft.create_transform("normalise", &def, IfExists::Fail))
        .await;
    world
        .commit(|draft| {
            let target = draft.schedule_target("normalise")?;
            draft.schedule_job(&target, "a", ScheduleOptions::default())?;
            draft
                .schedule_job(&target, "b", ScheduleOptions::default())
                .map(drop)
        })
        .await;
    let ids: Vec<_> = world.state.transforms.keys().copied().collect();
    world
        .commit(|draft| draft.claim_jobs("worker-1", &ids, 1).map(drop))
        .await;
    let token = world.state.last_token;
    world
        .commit(|draft| {
            let job = crate::id::JobId(1);
            draft
                .complete_job(Report { job, token }, Completion::default())
                .map(drop)
        })
        .await;
    world
        .commit(|draft| {
            let options = AcquireOptions {
                ttl: None,
                mode: LockMode::Exclusive,
                reason: Some("a look"),
            };
            draft.acquire_lock("notices/c", options).map(drop)?;
            draft.note_statement("SELECT 0", Some("early"), "{}")
        })
        .await;
    checkpoint::write(&world.store, &world.state, world.now)
        .await
        .unwrap();
    history::compact(&world.store, Version(4), 4).await.unwrap();
    let all = Timestamp::MAX;
    history::delete_compacted(&world.store, Version(2), all)
        .await
        .unwrap();
    world
        .commit(|draft| draft.note_statement("SELECT 1", Some("key"), "{}"))
        .await;
    world.commits(1).await;
}
