//! Outputs and logs of a store that was moved: they are where the store is, and `check` knows.

use std::fs;

use crate::binary::{Place, Row, int, text};

/// A command whose output has a name that no URL likes.
const MAKE: &str = r#"
import json, sys
for line in sys.stdin:
    source = json.loads(line)
    print("making", source["source_id"], file=sys.stderr)
    open(source["output"] + "/a #1%.txt", "w").write("made")
    print(json.dumps({"source_id": source["source_id"], "output": "a #1%.txt"}))
"#;

/// Job 1 is of a command; 2, 3 and 4 are of outside workers, whose outputs are inside the store
/// as a worker at it names them, as a store at an older place named them, and somewhere else.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("make.py"), MAKE).unwrap();
    place.sql(
        "CREATE TABLE docs (id TEXT PRIMARY KEY);
         INSERT INTO docs (id) VALUES ('a'), ('b'), ('c'), ('d');
         CREATE TRANSFORM make ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           USING COMMAND 'python3 make.py';
         CREATE TRANSFORM publish ON docs FROM STATUS 'RAW' TO STATUS 'DONE'
           USING OUTSIDE WORKER;
         SELECT schedule_job('make', 'a');
         SELECT schedule_job('publish', id) FROM docs WHERE id > 'a' ORDER BY id;
         CALL run_jobs()",
    );
    for job in [2, 3] {
        let folder = place.store().join(format!("outputs/publish/{job}/1"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("x.txt"), format!("published {job}")).unwrap();
    }
    let claimed = place.sql("CALL claim_jobs('w', 'publish', max => 3)");
    let store = place.store().canonicalize().unwrap();
    let addresses = [
        format!("file://{}/outputs/publish/2/1/x.txt", store.display()),
        "file:///old/place/outputs/publish/3/1/x.txt".to_owned(),
        "s3://bucket/outputs/2024/4/1/x.txt".to_owned(),
    ];
    for (row, uri) in claimed.iter().zip(addresses) {
        let (job, token) = (int(row, "job_id"), int(row, "token"));
        place.sql(&format!(
            "SELECT complete_job({job}, {token}, output_uri => '{uri}')"
        ));
    }
    place
}

fn all(rows: &[Row], column: &str) -> Vec<String> {
    rows.iter()
        .map(|row| text(row, column).to_owned())
        .collect()
}

#[test]
fn outputs_and_logs_move_with_their_store() {
    let mut place = place();
    for name in ["store", "elsewhere/moved"] {
        if name != "store" {
            place.move_store(name);
        }
        let read =
            "SELECT read_text(output_uri) AS text FROM jobs WHERE job_id < 4 ORDER BY job_id";
        let expected = ["made", "published 2", "published 3"];
        assert_eq!(all(&place.sql(read), "text"), expected);
        let log = place.sql("SELECT read_text(log_uri) AS log FROM jobs WHERE job_id = 1");
        assert_eq!(text(&log[0], "log"), "making a\n");
        let uris = all(
            &place.sql("SELECT output_uri FROM jobs ORDER BY job_id"),
            "output_uri",
        );
        let store = place.store().canonicalize().unwrap();
        let made = format!("file://{}/outputs/make/1/1/a %231%25.txt", store.display());
        assert_eq!(uris[0], made);
        assert_eq!(uris[3], "s3://bucket/outputs/2024/4/1/x.txt");
        let attempts = place.sql("SELECT output_uri FROM attempts ORDER BY job_id");
        assert_eq!(all(&attempts, "output_uri"), uris);
        place.check();
    }
}

#[test]
fn the_ledger_keeps_paths_inside_the_store() {
    let place = place();
    let kept = "SELECT uri FROM events WHERE kind = 'job-completed' ORDER BY job_id";
    let expected = [
        "outputs/make/1/1/a #1%.txt",
        "outputs/publish/2/1/x.txt",
        "file:///old/place/outputs/publish/3/1/x.txt",
        "s3://bucket/outputs/2024/4/1/x.txt",
    ];
    assert_eq!(all(&place.sql(kept), "uri"), expected);
    let read = place.sql(
        "SELECT read_text(uri) AS text FROM events WHERE kind = 'job-completed' AND job_id < 3
          ORDER BY job_id",
    );
    assert_eq!(all(&read, "text"), ["made", "published 2"]);
}

#[test]
fn check_names_outputs_that_are_gone() {
    let mut place = place();
    place.move_store("moved");
    for path in ["outputs/make/1/1/a #1%.txt", "outputs/publish/3/1/x.txt"] {
        fs::remove_file(place.store().join(path)).unwrap();
    }
    let done = place.command().arg("check").output().unwrap();
    let found = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{found}");
    for line in [
        "error: outputs/make/1/1/a #1%.txt: the output of job 1 is missing",
        "error: outputs/publish/3/1/x.txt: the output of job 3 is missing",
    ] {
        assert!(found.contains(line), "{found}");
    }
    assert!(found.contains(" 2 errors"), "{found}");
    // It is the store's fault, not the job's.
    let states = place.sql("SELECT count(*) AS n FROM jobs WHERE state = 'completed'");
    assert_eq!(int(&states[0], "n"), 4);
}
