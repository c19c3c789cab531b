//! Tests of checkpoints: what is opened from one equals what a replay gives.

use std::time::Duration;

use proptest::prelude::*;

use crate::id::{JobId, RunId, Slot};
use crate::ledger::history;
use crate::ledger::testing::{World, flip, memory, table_def, transform_def};
use crate::model::compare::difference;
use crate::model::decide::{
    AcquireOptions, ChangedRow, Completion, Failure, Force, IfExists, IfMissing, NewObject, NewRun,
    Report, ScheduleOptions, WriteMode,
};
use crate::model::draft::Draft;
use crate::model::event::ObjectKind;
use crate::model::jobs::JobState;
use crate::model::kept::KEY_KEEP;
use crate::model::keys::{Key, KeyType};
use crate::model::lineage::FORMAT;
use crate::model::locks::LockMode;
use crate::model::tokens::Role;

use super::*;

const STATUSES: [&str; 3] = ["RAW", "DONE", "ODD"];

/// One random step: which command, and two numbers from which its arguments follow.
type Op = (u8, u8, u8);

/// Commands that [`command`] knows.
const COMMANDS: u8 = 20;

fn table_name(number: u8) -> (&'static str, KeyType) {
    match number % 3 {
        0 => ("texts", KeyType::Text),
        1 => ("numbers", KeyType::Int),
        _ => ("others", KeyType::Text),
    }
}

fn running(draft: &Draft<'_>, number: u8) -> Option<Report> {
    let jobs = draft.state().jobs.iter().zip(1..);
    let running: Vec<Report> = jobs
        .filter(|(job, _)| job.state == JobState::Running)
        .map(|(job, id)| Report {
            job: JobId(id),
            token: job.token,
        })
        .collect();
    running
        .get(usize::from(number) % running.len().max(1))
        .copied()
}

fn some_rows(draft: &Draft<'_>, table: &str, number: u8) -> Vec<ChangedRow> {
    let Some(table) = draft.state().table(table) else {
        return Vec::new();
    };
    let slots = (0..table.keys.len()).filter(|slot| slot % 4 == u32::from(number) % 4);
    slots
        .filter_map(|slot| {
            let version = table.source(Slot(slot))?.version;
            Some(ChangedRow {
                slot: Slot(slot),
                version,
            })
        })
        .collect()
}

/// A run that is only spoken of: replay reads no rows.
fn run(path: &str, rows: usize) -> NewRun {
    NewRun {
        path: format!("tables/{path}.parquet"),
        rows: rows as u64,
        bytes: 100,
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per command")]
fn command(draft: &mut Draft<'_>, (kind, a, b): Op) -> Result<()> {
    let (table, key_type) = table_name(a);
    let transform = ["one", "two", "three"][usize::from(b % 3)];
    let number = i64::from(b % 16);
    let id = match key_type {
        KeyType::Text => format!("n/{number}"),
        KeyType::Int => number.to_string(),
    };
    match kind % COMMANDS {
        0 => draft.create_table(table, &table_def(key_type), IfExists::Fail),
        1 if b < 32 => draft.drop_table(table, IfMissing::Fail),
        2 | 1 => {
            let texts: Vec<String> = (0..16).map(|n| format!("n/{n}")).collect();
            let keys = (0..i64::from(b % 16))
                .zip(&texts)
                .map(|(n, text)| match key_type {
                    KeyType::Text => Key::Text(text),
                    KeyType::Int => Key::Int(n),
                });
            let rows = keys.map(|key| (key, (b > 99).then_some(STATUSES[usize::from(a % 3)])));
            let run = run("put", usize::from(b % 16));
            draft
                .write_rows(table, &run, WriteMode::Replace, rows)
                .map(drop)
        }
        3 => {
            let rows = some_rows(draft, table, b);
            draft.update_rows(table, &run("update", rows.len()), &rows)
        }
        4 => {
            let rows = some_rows(draft, table, b);
            draft.delete_rows(table, &rows)
        }
        5 => {
            let from = &STATUSES[..usize::from(b % 3)];
            let def = transform_def(table, from, &STATUSES[1..]);
            draft.create_transform(transform, &def, IfExists::Replace)
        }
        6 if a < 64 => draft.drop_transform(transform, IfMissing::Fail),
        6..=8 => {
            let target = draft.schedule_target(transform)?;
            let run_at = Timestamp(draft.at().0 + i64::from(a % 4) * 20_000_000);
            let options = ScheduleOptions {
                priority: (a > 128).then_some(i16::from(a) - 200),
                run_at: (b > 128).then_some(run_at),
                params: (a % 5 == 0).then_some("{\"x\":1}"),
                batch: (b % 5 == 0).then_some("named"),
            };
            for number in 0..number {
                let id = match draft.state().table("numbers") {
                    Some(table)
                        if draft.state().transform(transform).map(|t| t.table)
                            == Some(table.id) =>
                    {
                        number.to_string()
                    }
                    Some(_) | None => format!("n/{number}"),
                };
                draft.schedule_job(&target, &id, options)?;
            }
            Ok(())
        }
        9 => {
            let ids: Vec<_> = draft.state().transforms.keys().copied().collect();
            let worker = format!("worker-{}", a % 3);
            draft
                .claim_jobs(&worker, &ids, usize::from(b % 8))
                .map(drop)
        }
        10 => match running(draft, a) {
            Some(report) => {
                let done = Completion {
                    status: (b > 128).then_some("ODD"),
                    row: None,
                    output_uri: (b % 2 == 0).then_some("outputs/x"),
                };
                draft.complete_job(report, done).map(drop)
            }
            None => Ok(()),
        },
        11 => match running(draft, a) {
            Some(report) => {
                let failure = Failure {
                    code: "E1",
                    message: "it broke",
                };
                draft.fail_job(report, failure).map(drop)
            }
            None => Ok(()),
        },
        12 => match running(draft, a) {
            Some(report) if b < 128 => draft.heartbeat(report).map(drop),
            Some(report) => draft.hand_back(report).map(drop),
            None => Ok(()),
        },
        13 => {
            let resource = if b % 4 == 0 {
                table.to_owned()
            } else {
                format!("{table}/{id}")
            };
            let options = AcquireOptions {
                ttl: Some(Duration::from_secs(u64::from(a) + 1)),
                mode: if b % 3 == 0 {
                    LockMode::Shared
                } else {
                    LockMode::Exclusive
                },
                reason: (a % 3 == 0).then_some("because"),
            };
            draft.acquire_lock(&resource, options).map(drop)
        }
        14 => {
            let held = draft.state().locks.iter().next();
            let held = held.map(|(resource, lock)| (resource.to_string(), lock.token));
            match held {
                Some((resource, token)) if b < 128 => {
                    draft.renew_lock(&resource, token, None).map(drop)
                }
                Some((resource, token)) => draft
                    .release_lock(&resource, Some(token), Force::No)
                    .map(drop),
                None => Ok(()),
            }
        }
        15 => draft.cancel_job(JobId(u64::from(b))).map(drop),
        16 => draft
            .retry_job(JobId(u64::from(b)), ScheduleOptions::default())
            .map(drop),
        17 => draft
            .set_status(table, &id, STATUSES[usize::from(b) % 3], None)
            .map(drop),
        18 => {
            let object = NewObject {
                kind: if a % 2 == 0 {
                    ObjectKind::View
                } else {
                    ObjectKind::ExternalTable
                },
                name: ["v", "w"][usize::from(b % 2)],
                sql: "CREATE VIEW ...",
            };
            draft.create_object(object, IfExists::Replace)
        }
        19 => {
            let name = ["reader", "robot"][usize::from(a % 2)];
            match draft.create_token(name, Role::ALL[usize::from(b) % 4], &"ab".repeat(32)) {
                Ok(()) => Ok(()),
                Err(_) => draft.revoke_token(name),
            }
        }
        _ => {
            let merged = draft.state().table(table).map(|table| {
                let runs: Vec<RunId> = table.runs.keys().copied().take(3).collect();
                let live = runs.iter().filter_map(|run| table.runs.get(run));
                let live: u64 = live.map(|run| run.live_rows).sum();
                (table.id, runs, usize::try_from(live).unwrap())
            });
            if let Some((table, runs, live)) = merged.filter(|(_, runs, _)| runs.len() > 1) {
                let read_at = draft.state().version;
                draft.merge_runs(table, &runs, &run("merged", live), read_at)?;
            }
            draft.note_statement("SELECT ...", Some(&format!("key-{}", a % 4)), "{}")
        }
    }
}

async fn replayed(store: &Store) -> State {
    replay_all(store).await.unwrap().state
}

fn same(a: &State, b: &State) {
    assert_eq!(difference(a, b), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn opening_from_a_checkpoint_equals_replay_from_the_start(
        ops in prop::collection::vec(any::<Op>(), 1..120),
        checkpoint_at in 0_usize..120,
        compact in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            // So that most commands find something.
            for op in [(0, 0, 0), (0, 1, 0), (2, 0, 15), (2, 1, 15), (5, 0, 0), (5, 1, 1)] {
                world.commit(|draft| command(draft, op)).await;
            }
            for (step, op) in ops.iter().enumerate() {
                if op.1 % 4 == 0 {
                    world.wait(u64::from(op.2));
                }
                world.commit(|draft| command(draft, *op)).await;
                if step == checkpoint_at {
                    write(&world.store, &world.state, world.now).await.unwrap();
                }
            }
            if compact {
                history::compact(&world.store, world.version(), 3).await.unwrap();
                let all = Timestamp::MAX;
                history::delete_compacted(&world.store, Version(u64::MAX), all).await.unwrap();
            }
            let replayed = replayed(&world.store).await;
            same(&world.state, &replayed);
            if let Some(version) = newest(&world.store).await.unwrap() {
                load(&world.store, version).await.unwrap();
            }
            if !compact {
                let opened = open(&world.store).await.unwrap();
                same(&opened.state, &replayed);
            }
            // Whatever is decided next must be decided alike.
            let again = write(&world.store, &replayed, world.now).await.unwrap();
            same(&load(&world.store, again.version).await.unwrap(), &replayed);
        });
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over() {
    let mut world = World::new().await;
    world.table_of("notices", &["a", "b"]).await;
    let older = write(&world.store, &world.state, world.now).await.unwrap();
    world.commits(3).await;
    let newer = write(&world.store, &world.state, world.now).await.unwrap();
    world.commits(2).await;
    assert_eq!(
        open(&world.store).await.unwrap().checkpoint,
        Some(newer.version)
    );
    let files = world
        .store
        .list(&manifest::folder(newer.version))
        .await
        .unwrap();
    let keys = files
        .iter()
        .find(|file| file.path.contains("/keys-"))
        .unwrap();
    flip(&world.store, &keys.path, |len| len / 2).await;
    let opened = open(&world.store).await.unwrap();
    assert_eq!(opened.checkpoint, Some(older.version));
    same(&opened.state, &world.state);
    flip(&world.store, &manifest_path(older.version), |len| len / 2).await;
    let opened = open(&world.store).await.unwrap();
    assert_eq!(opened.checkpoint, None);
    same(&opened.state, &world.state);
    // An old checkpoint whose next commits are in history only is no way to open either.
    history::compact(&world.store, world.version(), 2)
        .await
        .unwrap();
    let all = Timestamp::MAX;
    history::delete_compacted(&world.store, world.version(), all)
        .await
        .unwrap();
    let opened = open(&world.store).await.unwrap();
    same(&opened.state, &world.state);
}

#[tokio::test]
async fn an_unfinished_checkpoint_is_none() {
    let mut world = World::new().await;
    world.table_of("notices", &["a"]).await;
    let written = write(&world.store, &world.state, world.now).await.unwrap();
    assert_eq!(
        write(&world.store, &world.state, world.now).await.unwrap(),
        written
    );
    world
        .store
        .delete(&manifest_path(written.version))
        .await
        .unwrap();
    let opened = open(&world.store).await.unwrap();
    assert_eq!(opened.checkpoint, None);
    same(&opened.state, &world.state);
}

#[tokio::test]
async fn a_missing_commit_is_an_error_and_not_the_end() {
    let mut world = World::new().await;
    world.commits(5).await;
    world
        .store
        .delete(&codec::commit_path(Version(3)))
        .await
        .unwrap();
    let error = open(&world.store).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::StoreCorrupt, "commit 3 is missing")
    );
}

#[tokio::test]
async fn a_flipped_byte_of_a_commit_is_found() {
    let mut world = World::new().await;
    world.commits(3).await;
    flip(&world.store, &codec::commit_path(Version(2)), |len| len / 3).await;
    let error = open(&world.store).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    assert!(error.message().contains("00002.parquet"), "{error}");
}

#[tokio::test]
async fn keys_that_count_no_longer_are_in_neither_replay_nor_checkpoint() {
    let mut world = World::new().await;
    for key in ["old", "young"] {
        world
            .commit(|draft| draft.note_statement("SELECT 1", Some(key), "[]"))
            .await;
        world.now = world.now.after(KEY_KEEP / 2 + Duration::from_secs(1));
    }
    // Time passes, but for the store it does so with its commits.
    assert_eq!(world.state.kept.len(), 2);
    world.commits(1).await;
    let kept = |state: &State| {
        let keys = state.kept.iter().map(|(key, _)| key.to_string());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(kept(&world.state), ["young"]);
    let replayed = open(&world.store).await.unwrap().state;
    assert_eq!(difference(&replayed, &world.state), None);
    write(&world.store, &world.state, world.now).await.unwrap();
    let opened = open(&world.store).await.unwrap();
    assert_eq!(opened.checkpoint, Some(world.version()));
    assert_eq!(difference(&opened.state, &world.state), None);
}

#[tokio::test]
async fn a_checkpoint_of_a_later_format_is_refused() {
    let mut world = World::new().await;
    world.commits(1).await;
    let frozen = Frozen::new(&world.state);
    let manifest = Manifest::new(world.now, frozen.catalog(), Vec::new());
    let text = String::from_utf8(manifest.encode().unwrap().to_vec()).unwrap();
    let body = text.split_once("\"checkpoint\":").unwrap().1.trim_end();
    let body = body
        .strip_suffix('}')
        .unwrap()
        .replace(&format!("\"format\":{}", FORMAT), "\"format\":99");
    let hash = codec::content_hash(body.as_bytes());
    let text = format!("{{\"hash\":\"{hash:016x}\",\"checkpoint\":{body}}}\n");
    let path = manifest_path(world.version());
    world.store.put_new(&path, text.into()).await.unwrap();
    let error = open(&world.store).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreTooNew);
}

#[tokio::test]
async fn an_empty_store_has_an_empty_checkpoint() {
    let store = memory().await;
    write(&store, &State::default(), Timestamp(1))
        .await
        .unwrap();
    same(&open(&store).await.unwrap().state, &State::default());
}

/// Prints how long a large store takes: `SLUICEGATE_MEASURE=10000000 cargo test --release --lib
/// a_large_store -- --nocapture`. Without the variable it is a small one.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_opens_to_the_same_state() {
    let rows = std::env::var("SLUICEGATE_MEASURE").ok();
    let rows: usize = rows.and_then(|rows| rows.parse().ok()).unwrap_or(3_000);
    let folder = tempfile::tempdir().unwrap();
    let options = crate::ledger::store::StoreOptions::default();
    let store = Store::open(folder.path().to_str().unwrap(), &options)
        .await
        .unwrap();
    let mut world = World::over(store);
    let def = table_def(KeyType::Text);
    world
        .commit(|draft| draft.create_table("texts", &def, IfExists::Fail))
        .await;
    for first in (0..rows).step_by(1_000_000) {
        let keys: Vec<String> = (first..rows.min(first + 1_000_000))
            .map(|number| format!("{number:08}-2024"))
            .collect();
        let put = run(&format!("texts/{first}"), keys.len());
        let rows = keys.iter().map(|key| (Key::Text(key), None));
        world
            .commit(|draft| {
                draft
                    .write_rows("texts", &put, WriteMode::Insert, rows)
                    .map(drop)
            })
            .await;
    }
    let def = transform_def("texts", &[], &["DONE"]);
    world
        .commit(|draft| draft.create_transform("one", &def, IfExists::Fail))
        .await;
    world
        .commit(|draft| {
            let target = draft.schedule_target("one")?;
            for number in 0..rows / 10 {
                let key = format!("{number:08}-2024");
                draft.schedule_job(&target, &key, ScheduleOptions::default())?;
            }
            Ok(())
        })
        .await;
    let clock = std::time::Instant::now();
    let written = write(&world.store, &world.state, world.now).await.unwrap();
    let wrote = clock.elapsed();
    let clock = std::time::Instant::now();
    let opened = open(&world.store).await.unwrap();
    let open_took = clock.elapsed();
    let clock = std::time::Instant::now();
    opened.state.table("texts").unwrap().keys.warm();
    let index_took = clock.elapsed();
    println!(
        "{rows} sources, {} jobs: {} bytes written in {wrote:?}, opened in {open_took:?}, \
         keys indexed in {index_took:?}",
        opened.state.jobs.len(),
        written.bytes
    );
    same(&opened.state, &world.state);
}
