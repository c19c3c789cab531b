//! The commands of the prompt: those that are queries run on any store, and what the program says
//! where they are given with `-c`.

use std::process::{Command, Stdio};

use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::repl::commands::{Command as Typed, HELP};

use crate::binary::Place;

/// `\dp` was in the list for a table that no store had.
#[tokio::test(flavor = "multi_thread")]
async fn every_listing_of_the_prompt_runs() {
    let engine = Engine::open(EngineOptions::new("memory://")).await;
    let session = engine.expect("a store in memory opens").session("ann");
    let mut ran = 0;
    for (name, _, _) in HELP {
        for name in [(*name).to_owned(), format!("{name}+")] {
            if let Ok(Typed::Query(sql, _)) = name.parse() {
                let reply = session.execute(&sql).await.expect(&name);
                reply.collect().await.expect(&name);
                ran += 1;
            }
        }
    }
    assert!(ran > 8, "{ran} commands are queries");
}

/// What `-c` prints where the terminal is none: rows, and notes.
#[track_caller]
fn told(place: &Place, arguments: &[&str]) -> (bool, String, String) {
    let mut command = place.command();
    command.args(arguments).stderr(Stdio::piped());
    let done = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        done.status.success(),
        text(&done.stdout),
        text(&done.stderr),
    )
}

/// A store with a finished job of a command, one that waits for an outside worker, and one that a
/// lock keeps waiting.
fn place() -> Place {
    let place = Place::new();
    place.sql(
        "CREATE TABLE notices (id TEXT, uri TEXT, n INT, PRIMARY KEY (id));
         INSERT INTO notices VALUES ('a', 'a.txt', 1), ('b', 'b.txt', 2), ('c', 'c.txt', 3);
         CREATE TRANSFORM copy ON notices FROM STATUS 'RAW' TO STATUS 'COPIED'
           USING COMMAND 'cp -v {uri} {output}';
         CREATE TRANSFORM send ON notices FROM STATUS 'RAW' TO STATUS 'SENT' USING OUTSIDE WORKER;",
    );
    for name in ["a.txt", "b.txt"] {
        std::fs::write(place.path(name), "text").expect("the folder is writable");
    }
    place.sql(
        "SELECT schedule_job('copy', 'a');
         CALL run_jobs();
         SELECT schedule_job('copy', 'b'), schedule_job('send', 'c');
         SELECT acquire_lock('notices/b', reason => 'look first');",
    );
    place
}

#[test]
fn types_and_meanings_of_columns_are_those_of_sql() {
    let (_, columns, _) = told(&place(), &["--format", "csv", "-c", "\\d Notices"]);
    for line in [
        "column,type,meaning",
        "id,TEXT,The primary key.",
        "n,INT,\"\"",
        "status,TEXT,Where the source stands in the life cycle of its table.",
        "status_at,TIMESTAMP,When the status was set.",
    ] {
        assert!(columns.lines().any(|one| one == line), "{line}\n{columns}");
    }
}

#[test]
fn logs_outputs_and_the_life_of_a_source_are_shown() {
    let place = place();
    let (_, log, _) = told(&place, &["-c", "\\log 1"]);
    assert!(log.contains("a.txt' -> ") && log.ends_with('\n'), "{log}");
    let (_, files, _) = told(&place, &["--format", "csv", "-c", "\\out 1"]);
    assert!(files.contains("outputs/copy/1/1"), "{files}");
    let (_, life, _) = told(&place, &["-c", "\\source b"]);
    for part in [
        "notices/b\n",
        "uri ",
        "jobs, newest first",
        "look first",
        "job-scheduled",
    ] {
        assert!(life.contains(part), "no {part}: {life}");
    }
    for (line, told_of) in [
        ("\\log 2", "detail: It is available and was never begun."),
        (
            "\\out 2",
            "detail: It is available; only a completed job has output.",
        ),
        ("\\log 99", "error SG2001: job 99 does not exist"),
        (
            "\\source nope",
            "error SG2001: source \"nope\" does not exist",
        ),
        ("\\sorce b", "hint: Did you mean \"\\source\"?"),
    ] {
        let (done, _, notes) = told(&place, &["-c", line]);
        assert!(!done && notes.contains(told_of), "{line}: {notes}");
    }
}

#[test]
fn run_jobs_tells_what_it_left_waiting_and_for_whom() {
    let (done, _, notes) = told(&place(), &["-c", "CALL run_jobs()"]);
    assert!(done, "{notes}");
    for line in [
        "note: 1 job of transform \"copy\" is locked by \"",
        "note: 1 job waits for an outside worker of transform \"send\"",
    ] {
        assert!(notes.contains(line), "{notes}");
    }
}

#[test]
fn parameters_are_bound_in_commands_and_scripts_and_never_pasted() {
    let place = place();
    std::fs::write(
        place.path("count.sql"),
        "SELECT count(*) AS n FROM notices\n WHERE id = $id AND n < $most;",
    )
    .expect("the folder is writable");
    let count = |id: &str| {
        let id = format!("id={id}");
        let arguments = [
            "--format",
            "csv",
            "-v",
            &id,
            "-v",
            "most=2",
            "-f",
            "count.sql",
        ];
        told(&place, &arguments)
    };
    assert_eq!(count("a").1, "n\n1\n");
    assert_eq!(count("' OR 'a' = 'a").1, "n\n0\n");
    let (done, _, notes) = told(&place, &["-v", "id=a", "-f", "count.sql"]);
    assert!(!done, "{notes}");
    assert!(
        notes.contains("count.sql:2:25: error SG1002: parameter \"$most\" has no value"),
        "{notes}"
    );
    assert!(notes.contains("-v most=value"), "{notes}");
    let set = [
        "--format",
        "csv",
        "-c",
        "\\set id b",
        "-c",
        "SELECT $id AS id",
    ];
    assert_eq!(told(&place, &set).1, "id\nb\n");
}

#[test]
fn settings_are_told_when_they_change() {
    let place = place();
    for (sql, told_of) in [
        ("\\watch", "has nothing to repeat"),
        ("\\x on", "format is expanded"),
        ("\\x auto", "format is table, expanded where too wide"),
        ("\\timing on", "timing is on"),
        ("\\pager off", "pager is off"),
        ("\\set", "no parameter has a value"),
    ] {
        let (_, _, notes) = told(&place, &["-c", sql]);
        assert!(notes.contains(told_of), "{sql}: {notes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_tell_views_from_tables() {
    let engine = Engine::open(EngineOptions::new("memory://")).await;
    let session = engine.expect("a store in memory opens").session("ann");
    for sql in [
        "CREATE TABLE notices (id TEXT, PRIMARY KEY (id))",
        "CREATE VIEW some AS SELECT id FROM notices",
    ] {
        session.execute(sql).await.expect(sql);
    }
    let names = session.names().await.expect("a store has names");
    for (name, kind) in [
        ("notices", "source table"),
        ("some", "view"),
        ("jobs", "system table"),
        ("attempts", "system view"),
    ] {
        let found = names.tables.iter().find(|table| table.name == name);
        assert_eq!(found.map(|table| &*table.kind), Some(kind), "{name}");
    }
}

/// A typing error in `--store` once made an empty store, and an answer about nothing.
#[test]
fn stores_are_made_only_where_somebody_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let typed = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .current_dir(folder.path())
            .env_remove("SLUICEGATE_STORE")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.success(), told)
    };
    for task in [
        &["-c", "SELECT 1"][..],
        &["work", "--until-idle"],
        &["serve", "--bind", "127.0.0.1:0"],
        &["token", "create", "--role", "reader", "--name", "r"],
        &["check"],
        &["repair"],
        &["--read-only", "-c", "SELECT 1"],
    ] {
        let line: Vec<&str> = ["--store", "typo"].iter().chain(task).copied().collect();
        let (done, told) = typed(&line);
        assert!(!done, "{line:?}");
        for part in [
            "SG7001: store \"typo\" does not exist",
            "/typo.",
            "init",
            "--create",
        ] {
            assert!(told.contains(part), "{line:?}: no {part} in {told}");
        }
        assert!(!folder.path().join("typo").exists(), "{line:?}");
    }
    assert!(typed(&["--store", "a", "init"]).0);
    assert!(
        typed(&["--store", "a", "init"]).0,
        "a store that is there is left alone"
    );
    assert!(typed(&["--store", "a", "-c", "SELECT 1"]).0);
    assert!(typed(&["--store", "b", "--create", "-c", "SELECT 1"]).0);
    assert!(typed(&["--store", "memory://", "-c", "SELECT 1"]).0);
}
