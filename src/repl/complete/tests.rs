//! What Tab offers, by what is typed.

use super::*;
use crate::session::{FunctionKind, FunctionName};

fn known() -> Known {
    let table = |name: &str, columns: &[&str]| TableName {
        name: name.into(),
        kind: "source table".into(),
        columns: columns
            .iter()
            .map(|c| ((*c).to_owned(), "Utf8".to_owned()))
            .collect(),
        schema: None,
        key: None,
    };
    Known {
        names: Names {
            tables: vec![
                table("notices", &["notice_id", "status"]),
                TableName {
                    kind: "system table".into(),
                    ..table("jobs", &["job_id", "state", "transform"])
                },
                table("lots", &["lot_id", "price"]),
            ],
            functions: vec![FunctionName {
                name: "schedule_job".into(),
                signature: "schedule_job(transform, source_id)".into(),
                kind: FunctionKind::Effect,
                description: String::new(),
                parameters: vec!["transform", "source_id", "priority", "batch"],
            }],
        },
        transforms: vec![
            transform("normalise", &["RAW", "NORMAL"]),
            transform("to_rdf", &["NORMAL", "DONE"]),
        ],
        statuses: BTreeMap::from([
            (
                "notices".to_owned(),
                vec!["ODD'".to_owned(), "RAW".to_owned()],
            ),
            ("lots".to_owned(), vec!["LOT".to_owned()]),
        ]),
        variables: vec!["batch".into(), "state".into()],
    }
}

fn transform(name: &str, statuses: &[&str]) -> Transform {
    Transform {
        name: name.into(),
        table: "notices".into(),
        statuses: statuses.iter().map(|&status| status.into()).collect(),
    }
}

/// What is offered where the cursor stands at the end, or at `|`.
#[track_caller]
fn check(typed: &str, expected: &[&str]) {
    let (typed, rest) = typed.split_once('|').unwrap_or((typed, ""));
    let (start, found) = candidates(&known(), typed, rest);
    let values: Vec<_> = found.iter().map(|(value, _)| value.as_str()).collect();
    assert_eq!(values, expected, "{typed:?}");
    assert!(typed.is_char_boundary(start));
}

#[test]
fn completion_follows_what_stands_before() {
    check("SELECT * FROM n", &["notices"]);
    check("SELECT * FROM ", &["notices", "jobs", "lots"]);
    check(
        "SELECT s",
        &[
            "status",
            "state",
            "schedule_job(",
            "SCHEDULE",
            "SELECT",
            "SET",
            "SHOW",
            "STATUS",
        ],
    );
    check("SELECT * FROM notices WHERE sta", &["status", "STATUS"]);
    check(
        "SELECT * FROM notices AS n JOIN jobs j ON n.",
        &["notice_id", "status"],
    );
    check("SELECT * FROM notices AS n JOIN jobs j ON j.st", &["state"]);
    check("SELECT '\u{e4}', jobs.j", &["job_id"]);
    check("DROP TRANSFORM to", &["to_rdf"]);
    check("", &[]);
}

#[test]
fn columns_are_those_of_the_tables_in_the_same_statement() {
    check(
        "SELECT l| FROM lots",
        &["lot_id", "lots", "LEFT", "LIKE", "LIMIT"],
    );
    check("SELECT * FROM notices; SELECT pric| FROM lots", &["price"]);
    check("SELECT n.| FROM notices AS n", &["notice_id", "status"]);
    check("SELECT price| FROM lots; SELECT * FROM notices", &["price"]);
}

#[test]
fn texts_complete_to_what_the_column_or_the_argument_can_be() {
    check("SELECT schedule_job('to", &["to_rdf'"]);
    check("SELECT schedule_job('", &["normalise'", "to_rdf'"]);
    check("SELECT schedule_job(transform => 'n", &["normalise'"]);
    check("SELECT schedule_job('to_rdf', 'n", &[]);
    check("SELECT * FROM notices WHERE status = 'R", &["RAW'"]);
    check(
        "SELECT * FROM notices WHERE status = '",
        &["DONE'", "NORMAL'", "ODD'''", "RAW'"],
    );
    check(
        "SELECT * FROM notices WHERE status IN ('RAW', 'D",
        &["DONE'"],
    );
    check("SELECT * FROM lots WHERE status <> '", &["LOT'"]);
    check(
        "SELECT * FROM jobs WHERE state = 'r",
        &["retryable'", "running'"],
    );
    check("SELECT * FROM jobs WHERE transform = 't", &["to_rdf'"]);
    check("SELECT * FROM notices WHERE notice_id = 'R", &[]);
    check("CREATE TRANSFORM x ON lots FROM STATUS '", &["LOT'"]);
}

#[test]
fn named_arguments_complete_until_they_are_given() {
    check(
        "SELECT schedule_job('to_rdf', notice_id, ba| FROM notices",
        &["batch => "],
    );
    check(
        "SELECT schedule_job('to_rdf', notice_id, batch => 'x', ba| FROM notices",
        &[],
    );
    check("SELECT schedule_job('to_rdf', upper(ba| FROM notices", &[]);
    check("CALL schedule_job(prio", &["priority => "]);
}

#[test]
fn parameters_complete_to_those_that_have_a_value() {
    check("SELECT $b", &["batch"]);
    check(
        "SELECT * FROM notices WHERE status = $",
        &["batch", "state"],
    );
    check("\\unset st", &["state"]);
}

#[test]
fn files_complete_folder_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("scripts")).unwrap();
    for name in ["select.sql", ".secret", "scripts/a.sql"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    check(
        &format!("\\i {}", at("s")),
        &[&at("scripts/"), &at("select.sql")],
    );
    check(&format!("\\i {}", at("scripts/")), &[&at("scripts/a.sql")]);
    check(&format!("\\i {}", at(".s")), &[&at(".secret")]);
    check(&format!("\\o {}", at("nope/")), &[]);
}

#[test]
fn commands_complete_with_their_arguments() {
    check("\\ti", &["\\timing"]);
    check("\\d no", &["notices"]);
    check("\\dj c", &["completed", "cancelled"]);
    check("\\format c", &["csv"]);
    check("\\x a", &["auto"]);
    check("\\source l", &["lots"]);
    check("\\source j", &[]);
}
