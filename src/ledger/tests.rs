//! A ledger in a world that is not as it should be: clocks, buckets, folders, other writers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::ledger::store::{Answers, StoreOptions};
use crate::ledger::testing::author;
use crate::model::decide::AcquireOptions;
use crate::model::locks::LockMode;
use crate::sim::shelf::{Line, Shelf};

const NOON: Timestamp = Timestamp(1_700_000_000_000_000);

fn simulated(shelf: &Arc<Shelf>) -> Store {
    Store::simulated("ledger", Line::clear(shelf), Answers::Doubtful).unwrap()
}

async fn open(store: &Store, clock: &Clock) -> Result<Ledger> {
    Ledger::open(store.clone(), clock.clone(), Arc::default()).await
}

async fn note(ledger: &Ledger, statement: &str) -> Result<Version> {
    let noted = ledger.commit(author("ann", statement), |draft| {
        draft.note_statement("SELECT 1", None, "[]")
    });
    Ok(noted.await?.version)
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code()
}

/// Two processes once held one lock on such a bucket, and nobody was told.
#[tokio::test]
async fn a_bucket_that_takes_every_put_is_not_opened_for_writing() {
    let clock = Clock::mock(NOON);
    let shelf = Shelf::new(clock.clone());
    note(&open(&simulated(&shelf), &clock).await.unwrap(), "s")
        .await
        .unwrap();
    shelf.ignore_conditions();
    assert_eq!(
        code(open(&simulated(&shelf), &clock).await),
        Code::StoreUnsafe
    );
    let reader = Ledger::open_with(simulated(&shelf), clock, Arc::default(), Duty::Leaves);
    assert_eq!(reader.await.unwrap().seen().version, Version(1));
}

/// One commit of a machine a day ahead once made every lease wait for the next day.
#[tokio::test]
async fn a_process_with_a_wrong_clock_commits_nothing() {
    let right = Clock::mock(NOON);
    let shelf = Shelf::new(right.clone());
    for ahead in [3600, -3600] {
        let wrong = Clock::mock(Timestamp(NOON.0 + ahead * 1_000_000));
        assert_eq!(code(open(&simulated(&shelf), &wrong).await), Code::ClockOff);
    }
    // Within the skew all is well, until somebody sets the clock: the wall clock goes on by an
    // hour while the running clock stands.
    let near = Clock::mock(NOON.after(Duration::from_secs(5)));
    let ledger = open(&simulated(&shelf), &near).await.unwrap();
    note(&ledger, "first").await.unwrap();
    near.advance(Duration::from_secs(3600));
    assert_eq!(code(note(&ledger, "second").await), Code::ClockOff);
    right.advance(Duration::from_secs(3600));
    assert_eq!(note(&ledger, "third").await.unwrap(), Version(2));
}

#[tokio::test]
async fn a_store_that_a_wrong_clock_moved_into_the_future_is_repaired() {
    let clock = Clock::mock(NOON);
    let store = Store::open("memory://", &StoreOptions::default())
        .await
        .unwrap();
    let ahead = Clock::mock(NOON.after(Duration::from_secs(24 * 3600)));
    // In memory no clock is compared: so such stores came about.
    let wrong = open(&store, &ahead).await.unwrap();
    let locked = wrong.commit(author("bob", "lock"), |draft| {
        let options = AcquireOptions {
            ttl: Some(Duration::from_secs(60)),
            mode: LockMode::Exclusive,
            reason: None,
        };
        draft.acquire_lock("@nightly", options)
    });
    locked.await.unwrap();
    drop(wrong);
    let ledger = open(&store, &clock).await.unwrap();
    assert_eq!(code(note(&ledger, "early").await), Code::TimeAhead);
    let repaired = ledger.repair(author("ann", "repair")).await.unwrap();
    assert_eq!(repaired, Some(ahead.now()));
    assert_eq!(ledger.repair(author("ann", "again")).await.unwrap(), None);
    note(&ledger, "now").await.unwrap();
    assert_eq!(ledger.seen().locks.iter().count(), 1);
    clock.advance(Duration::from_secs(61));
    note(&ledger, "later").await.unwrap();
    assert_eq!(ledger.seen().locks.iter().count(), 0);
    let report = check::check(&store).await.unwrap();
    assert_eq!(report.errors, 0, "{report:?}");
    let opened = checkpoint::open(&store).await.unwrap();
    let difference = crate::model::compare::difference(&opened.state, &ledger.seen());
    assert_eq!(difference, None);
}

/// The folder was once made again, and commits were acknowledged that nobody could read.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_deleted_under_a_process_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let at = |folder: &std::path::Path| folder.display().to_string();
    let options = StoreOptions::default();
    let store = Store::open(&at(&folder), &options).await.unwrap();
    let ledger = open(&store, &Clock::System).await.unwrap();
    note(&ledger, "first").await.unwrap();
    let kept = parent.path().join("kept");
    std::fs::rename(&folder, &kept).unwrap();
    assert_eq!(code(ledger.snapshot().await), Code::StoreReplaced);
    assert_eq!(code(note(&ledger, "second").await), Code::StoreReplaced);
    assert!(!folder.exists());
    // Another store in its place is not taken for it.
    let other = Store::open(&at(&folder), &options).await.unwrap();
    let another = open(&other, &Clock::System).await.unwrap();
    note(&another, "foreign").await.unwrap();
    assert_eq!(code(note(&ledger, "third").await), Code::StoreReplaced);
    assert_eq!(another.snapshot().await.unwrap().version, Version(1));
    // The very files in the old place are.
    std::fs::rename(&folder, parent.path().join("other")).unwrap();
    std::fs::rename(&kept, &folder).unwrap();
    assert_eq!(note(&ledger, "fourth").await.unwrap(), Version(2));
}

/// A million jobs that take a second alone were refused after three minutes beside small commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_statement_gets_its_turn_beside_small_ones() {
    let store = Store::open("memory://", &StoreOptions::default())
        .await
        .unwrap();
    let (small, large) = (
        open(&store, &Clock::System).await.unwrap(),
        open(&store, &Clock::System).await.unwrap(),
    );
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let hammer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut commits = 0_u64;
        while !ended.load(Ordering::SeqCst) {
            let noted = runtime.block_on(note(&small, &format!("small-{commits}")));
            noted.unwrap();
            commits += 1;
        }
        commits
    });
    let committed = large.commit(author("bob", "large"), |draft| {
        // As long as deciding a large statement takes.
        std::thread::sleep(Duration::from_millis(80));
        draft.note_statement("SELECT large", None, "[]")
    });
    let version = committed.await.unwrap().version;
    done.store(true, Ordering::SeqCst);
    let commits = hammer.join().unwrap();
    assert!(commits > 3, "{commits} small commits are no race");
    let races = u64::from(large.limits().turn_races);
    assert!(version > Version(races), "{version}");
    assert_eq!(large.snapshot().await.unwrap().turn, None);
}

/// A job whose worker and server died together once waited until somebody committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_over_ends_although_nobody_does_anything() {
    let store = Store::open("memory://", &StoreOptions::default())
        .await
        .unwrap();
    let clock = Clock::mock(NOON);
    let limits = Limits {
        ledger_watch: Duration::from_millis(20),
        ..Limits::default()
    };
    let open =
        |limits: &Limits| Ledger::open(store.clone(), clock.clone(), Arc::new(limits.clone()));
    let idle = open(&limits).await.unwrap();
    let gone = open(&Limits::default()).await.unwrap();
    let locked = gone.commit(author("bob", "lock"), |draft| {
        let options = AcquireOptions {
            ttl: None,
            mode: LockMode::Exclusive,
            reason: None,
        };
        draft.acquire_lock("@nightly", options)
    });
    locked.await.unwrap();
    drop(gone);
    clock.advance(Duration::from_secs(3600));
    let ended = async {
        while idle.seen().version < Version(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = tokio::time::timeout(Duration::from_secs(60), ended);
    assert!(patience.await.is_ok(), "nobody ended the lease");
    assert_eq!(idle.seen().locks.iter().count(), 0);
}
