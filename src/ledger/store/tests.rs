//! The store as its callers see it, in a folder, in memory, and with lost answers.

use std::collections::HashSet;
use std::fs::{self, File};
use std::time::{Duration, UNIX_EPOCH};

use super::fault::{Fault, FaultyStore, remote};
use super::*;
use crate::error::Code;

async fn open(url: &str) -> Store {
    Store::open(url, &StoreOptions::default()).await.unwrap()
}

async fn open_folder(folder: &FilePath) -> Store {
    open(folder.to_str().unwrap()).await
}

async fn put(store: &Store, path: &str, text: &'static str) -> PutNew {
    store
        .put_new(path, Bytes::from_static(text.as_bytes()))
        .await
        .unwrap()
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.path.as_str()).collect()
}

#[tokio::test]
async fn put_of_a_taken_name_keeps_the_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for store in [open_folder(folder.path()).await, open("memory://").await] {
        assert_eq!(put(&store, "ledger/1.parquet", "a").await, PutNew::Created);
        assert_eq!(
            put(&store, "ledger/1.parquet", "b").await,
            PutNew::AlreadyExists
        );
        assert_eq!(store.get("ledger/1.parquet").await.unwrap().unwrap(), "a");
        assert_eq!(store.get("ledger/2.parquet").await.unwrap(), None);
        assert_eq!(store.get("ledger").await.unwrap(), None);
        assert_eq!(store.get("ledger/1.parquet/2").await.unwrap(), None);
    }
}

#[tokio::test]
async fn reads_of_ranges_and_sizes_find_nothing_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    for store in [open_folder(folder.path()).await, open("memory://").await] {
        put(&store, "a", "0123456789").await;
        assert_eq!(store.get_range("a", 2..5).await.unwrap().unwrap(), "234");
        assert_eq!(store.get_range("b", 2..5).await.unwrap(), None);
        assert_eq!(store.size("a").await.unwrap(), Some(10));
        assert_eq!(store.size("b").await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_puts_of_one_name_create_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let local = open_folder(folder.path()).await;
    for store in [local, open("memory://").await, remote(FaultyStore::new([]))] {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let store = store.clone();
                tokio::spawn(async move {
                    store
                        .put_new("ledger/1", format!("racer {racer}").into())
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut winners = Vec::new();
        for (racer, task) in racers.into_iter().enumerate() {
            if task.await.unwrap() == PutNew::Created {
                winners.push(racer);
            }
        }
        assert_eq!(winners.len(), 1);
        let bytes = store.get("ledger/1").await.unwrap().unwrap();
        assert_eq!(bytes, format!("racer {}", winners[0]));
        assert_eq!(names(&store.list("").await.unwrap()), ["ledger/1"]);
    }
}

#[tokio::test]
async fn put_with_unknown_outcome_is_resolved_by_reading() {
    use Fault::{AfterPut, BeforePut, Conflict, Overtaken};
    let other = || Overtaken(Bytes::from_static(b"other"));
    let cases = [
        (vec![AfterPut], Some(PutNew::Created)),
        (vec![BeforePut], Some(PutNew::Created)),
        (vec![BeforePut, BeforePut, AfterPut], Some(PutNew::Created)),
        (vec![BeforePut, other()], Some(PutNew::AlreadyExists)),
        (
            vec![Overtaken(Bytes::from_static(b"more bytes"))],
            Some(PutNew::AlreadyExists),
        ),
        (vec![Conflict, Conflict], Some(PutNew::Created)),
        (vec![Conflict, other()], Some(PutNew::AlreadyExists)),
        (vec![BeforePut; 5], None),
        (vec![Conflict; 5], None),
    ];
    for (faults, expected) in cases {
        let case = format!("{faults:?}");
        let objects = FaultyStore::new(faults);
        let store = remote(Arc::clone(&objects) as _);
        let outcome = store
            .put_new("ledger/1", Bytes::from_static(b"these"))
            .await;
        assert_eq!(objects.pending(), 0, "{case}");
        match expected {
            Some(expected) => assert_eq!(outcome.unwrap(), expected, "{case}"),
            None => {
                let error = outcome.unwrap_err();
                assert_eq!(error.code(), Code::StoreUnavailable, "{case}");
                assert!(
                    error.detail().unwrap().contains("unknown whether"),
                    "{case}"
                );
            }
        }
    }
}

#[tokio::test]
async fn put_whose_reading_back_is_lost_too_is_resolved_by_the_next() {
    let objects = FaultyStore::new([Fault::AfterPut]);
    objects.lose_reads(2);
    let store = remote(objects);
    assert_eq!(put(&store, "ledger/1", "these").await, PutNew::Created);
}

#[tokio::test]
async fn refused_put_fails_at_once() {
    let objects = FaultyStore::new([Fault::Denied, Fault::None]);
    let store = remote(Arc::clone(&objects) as _);
    let error = store.put_new("ledger/1", Bytes::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert_eq!(objects.pending(), 1);
}

#[tokio::test]
async fn listing_is_sorted_and_bounded_by_prefix_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    for store in [open_folder(folder.path()).await, open("memory://").await] {
        assert!(store.list("ledger").await.unwrap().is_empty());
        for path in ["ledger/3", "ledger/1", "ledger-2/1", "ledger/2", "a/b/c"] {
            put(&store, path, "x").await;
        }
        let all = ["a/b/c", "ledger-2/1", "ledger/1", "ledger/2", "ledger/3"];
        assert_eq!(names(&store.list("").await.unwrap()), all);
        assert_eq!(names(&store.list("ledger").await.unwrap()), all[2..]);
        assert_eq!(
            names(&store.list_after("ledger", "ledger/1").await.unwrap()),
            all[3..]
        );
        assert!(
            store
                .list_after("ledger", "ledger/3")
                .await
                .unwrap()
                .is_empty()
        );
        let entry = &store.list("a").await.unwrap()[0];
        assert!(entry.bytes == 1 && entry.modified > Timestamp(0));
    }
}

#[tokio::test]
async fn listing_has_no_page_limit() {
    let store = open("memory://").await;
    for number in (0..2500).rev() {
        store
            .put_new(&format!("ledger/{number:05}"), Bytes::new())
            .await
            .unwrap();
    }
    let entries = store.list("ledger").await.unwrap();
    let expected: Vec<String> = (0..2500)
        .map(|number| format!("ledger/{number:05}"))
        .collect();
    assert_eq!(names(&entries), expected);
    assert_eq!(
        store
            .list_after("ledger", "ledger/01000")
            .await
            .unwrap()
            .len(),
        1499
    );
}

#[tokio::test]
async fn delete_is_idempotent() {
    let folder = tempfile::tempdir().unwrap();
    for store in [open_folder(folder.path()).await, open("memory://").await] {
        put(&store, "a/b", "x").await;
        store.delete("a/b").await.unwrap();
        store.delete("a/b").await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), None);
        assert_eq!(put(&store, "a/b", "y").await, PutNew::Created);
    }
}

#[tokio::test]
async fn large_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let remote = remote(FaultyStore::new([]));
    for store in [
        open_folder(folder.path()).await,
        open("memory://").await,
        remote,
    ] {
        let chunk = Bytes::from(vec![7; 3 << 20]);
        let mut writer = store.put_data("tables/t/1.parquet").await.unwrap();
        let mut dropped = store.put_data("tables/t/2.parquet").await.unwrap();
        for _ in 0..4 {
            writer.append(chunk.clone()).await.unwrap();
            dropped.append(chunk.clone()).await.unwrap();
        }
        assert!(store.list("").await.unwrap().is_empty());
        drop(dropped);
        assert_eq!(writer.finish().await.unwrap(), 12 << 20);
        assert_eq!(
            names(&store.list("").await.unwrap()),
            ["tables/t/1.parquet"]
        );
        let bytes = store.get("tables/t/1.parquet").await.unwrap().unwrap();
        assert!(bytes.len() == 12 << 20 && bytes.iter().all(|byte| *byte == 7));
    }
    assert_eq!(
        fs::read_dir(folder.path().join("tables/t"))
            .unwrap()
            .count(),
        1
    );
}

#[tokio::test]
async fn small_large_file_is_written_too() {
    let folder = tempfile::tempdir().unwrap();
    for store in [open_folder(folder.path()).await, open("memory://").await] {
        let mut writer = store.put_data("tables/t/1.parquet").await.unwrap();
        writer.append(Bytes::from_static(b"tiny")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 4);
        assert_eq!(
            store.get("tables/t/1.parquet").await.unwrap().unwrap(),
            "tiny"
        );
    }
}

#[tokio::test]
async fn sweep_removes_old_staging_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).await;
    put(&store, "a/b/c", "x").await;
    let old = folder.path().join("a/b/.staging-00000000000000aa#1");
    let young = folder.path().join("a/.staging-00000000000000bb#1");
    let other = folder.path().join("a/.hidden");
    for (path, seconds) in [(&old, 100), (&young, 300), (&other, 100)] {
        let file = File::create(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }
    assert_eq!(
        names(&store.list("").await.unwrap()),
        ["a/.hidden", "a/b/c"]
    );
    assert_eq!(
        store.sweep_staging(Timestamp(200_000_000)).await.unwrap(),
        1
    );
    assert!(!old.exists() && young.exists() && other.exists());
    assert_eq!(store.sweep_staging(Timestamp::MAX).await.unwrap(), 1);
    assert_eq!(
        names(&store.list("").await.unwrap()),
        ["a/.hidden", "a/b/c"]
    );
}

#[tokio::test]
async fn put_after_its_folder_was_removed_makes_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).await;
    put(&store, "a/b/1", "x").await;
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    assert_eq!(put(&store, "a/b/2", "x").await, PutNew::Created);
}

#[tokio::test]
async fn memory_is_shared_by_name_and_path() {
    let (first, again) = (
        open("memory://shared-1").await,
        open("memory://shared-1").await,
    );
    let below = open("memory://shared-1/x").await;
    let (other, anonymous) = (open("memory://shared-2").await, open("memory://").await);
    put(&first, "x/a", "1").await;
    assert_eq!(again.get("x/a").await.unwrap().unwrap(), "1");
    assert_eq!(below.get("a").await.unwrap().unwrap(), "1");
    assert_eq!(names(&below.list("").await.unwrap()), ["a"]);
    for store in [&other, &anonymous, &open("memory://").await] {
        assert!(store.list("").await.unwrap().is_empty());
    }
    let urls: HashSet<_> = [&first, &again, &below, &other, &anonymous]
        .iter()
        .map(|store| store.registry_url().as_str().to_owned())
        .collect();
    assert_eq!(urls.len(), 4);
}

#[tokio::test]
async fn folder_is_made_and_named_by_path_or_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder/store");
    let store = open_folder(&path).await;
    put(&store, "a", "1").await;
    assert_eq!(
        store.local_path(),
        Some(fs::canonicalize(&path).unwrap().as_path())
    );
    assert!(store.url().as_str().starts_with("file:///"));
    let again = open(store.url().as_str()).await;
    assert_eq!(again.get("a").await.unwrap().unwrap(), "1");
    assert_eq!(again.registry_url(), store.registry_url());
    let bytes = store
        .object_store()
        .get(&Path::from("a"))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(bytes, "1");
}

#[tokio::test]
async fn unusable_urls_are_refused_with_the_usable_forms() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    let file = file.to_str().unwrap();
    let below = format!("{file}/below");
    for url in [
        "",
        "ftp://host/x",
        "s3://",
        "file://host/x",
        "://",
        file,
        &below,
    ] {
        let error = Store::open(url, &StoreOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::StoreUrl, "{url}: {error:?}");
        assert!(error.hint().unwrap().contains("s3://bucket/path"), "{url}");
    }
}

#[tokio::test]
async fn bucket_is_configured_by_options() {
    let settings = [
        ("aws_endpoint", "http://127.0.0.1:1"),
        ("aws_region", "eu-central-1"),
        ("allow_http", "true"),
        ("aws_skip_signature", "true"),
    ];
    let options = StoreOptions {
        absent: Absent::Make,
        settings: settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        ..StoreOptions::default()
    };
    let place = place::open("s3://bucket/path", &options).await.unwrap();
    assert!(matches!(place.medium, Medium::Remote));
    assert_eq!(place.url.as_str(), "s3://bucket/path");
}
