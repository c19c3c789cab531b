//! Runs `sql/tour/*.sql` as a newcomer would, with the real binary over one store, and compares
//! everything that it prints with `tests/tour/<same name>.out`.
//!
//! What differs from run to run is masked: a moment in UTC becomes [`MOMENT`]. Nothing else is;
//! the tour avoids ids and durations that vary.
//!
//! `TOUR_UPDATE=1 cargo test --test it tour` writes what came out into the files: read the diff.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands for every moment.
const MOMENT: &str = "2026-01-05T12:00:00.000000Z";

/// Runs one script; returns what stdout and stderr show together, as on a terminal.
fn run(folder: &Path, script: &Path) -> String {
    let printed = folder.join("printed");
    let out = File::create(&printed).expect("the folder is writable");
    let err = out.try_clone().expect("a file may have two handles");
    let status = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["--store", "tour-store", "--create", "--actor", "anna", "-f"])
        .arg(script)
        .current_dir(folder)
        .env_remove("SLUICEGATE_STORE")
        .env_remove("SLUICEGATE_LOG")
        .stdout(out)
        .stderr(err)
        .status()
        .expect("the binary starts");
    let text = fs::read_to_string(printed).expect("it prints UTF-8");
    assert!(status.success(), "{}: {status}\n{text}", script.display());
    masked(&text)
}

/// The text with [`MOMENT`] in place of every moment.
fn masked(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let (line, shorter) = masked_line(line);
        // A moment of whole milliseconds is printed shorter, and its column is narrower.
        let mut before = lines.iter_mut().rev();
        if let Some(rule) = before
            .find(|line| line.starts_with('-'))
            .filter(|_| shorter > 0)
            && rule
                .rsplit('+')
                .next()
                .is_some_and(|run| run.len() < MOMENT.len() + 2)
        {
            rule.push_str(&"-".repeat(shorter));
        }
        lines.push(line);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The line, and by how much its moment was shorter than the mask.
fn masked_line(line: &str) -> (String, usize) {
    const SECONDS: &str = "dddd-dd-ddTdd:dd:dd";
    let is_moment = |text: &&str| {
        let mut form = SECONDS.chars().zip(text.chars());
        text.len() >= SECONDS.len()
            && form.all(|(form, is)| form == is || form == 'd' && is.is_ascii_digit())
    };
    let starts = line.char_indices().map(|(at, _)| at);
    let mut moments = starts.filter(|&at| line.get(at..).as_ref().is_some_and(is_moment));
    let Some(start) = moments.next() else {
        return (line.to_owned(), 0);
    };
    let Some(length) = line[start..].find('Z').map(|end| end + 1) else {
        return (line.to_owned(), 0);
    };
    let (rest, shorter) = masked_line(&line[start + length..]);
    let head = &line[..start];
    let shorter = shorter.max(MOMENT.len().saturating_sub(length));
    (format!("{head}{MOMENT}{rest}"), shorter)
}

fn scripts(top: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(top.join("sql/tour")).expect("sql/tour is readable");
    let paths = entries.map(|entry| entry.expect("sql/tour is readable").path());
    let mut scripts: Vec<PathBuf> = paths.collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "sql/tour has no scripts");
    scripts
}

#[test]
fn the_tour_prints_what_is_committed() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let update = std::env::var_os("TOUR_UPDATE").is_some();
    let mut failures = Vec::new();
    for script in scripts(top) {
        let found = run(folder.path(), &script);
        let name = script.file_stem().expect("a script has a name");
        let path = top.join("tests/tour").join(name).with_extension("out");
        if update {
            fs::write(&path, &found).expect("tests/tour is writable");
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        let differs = found
            .lines()
            .zip(expected.lines())
            .position(|(a, b)| a != b);
        if found != expected {
            let lines = found.lines().count().min(expected.lines().count());
            let line = differs.unwrap_or(lines);
            failures.push(format!(
                "{}:{}: expected {:?}, found {:?}",
                path.display(),
                line + 1,
                expected.lines().nth(line),
                found.lines().nth(line),
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "the tour changed; TOUR_UPDATE=1 accepts it:\n{}",
        failures.join("\n")
    );
}

#[test]
fn the_first_statements_of_the_readme_run() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(top.join("README.md")).expect("README.md is readable");
    let (_, rest) = readme.split_once("```sql\n").expect("it has SQL");
    let (sql, _) = rest.split_once("```").expect("SQL ends");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("first.sql");
    fs::write(
        &script,
        format!("{sql}SELECT title, status FROM notices ORDER BY title;"),
    )
    .expect("the folder is writable");
    let printed = run(folder.path(), &script);
    for expected in [
        " shout     | completed |        2",
        " BRIDGE | LOUD",
        " SCHOOL | LOUD",
    ] {
        assert!(
            printed.contains(expected),
            "no \"{expected}\" in:\n{printed}"
        );
    }
}

#[test]
fn moments_are_masked_and_nothing_else() {
    for (text, expected) in [
        ("2024-01-08 and 2024\n", "2024-01-08 and 2024\n".to_owned()),
        (
            "until 2026-11-25T03:30:13.143889Z, then\n",
            format!("until {MOMENT}, then\n"),
        ),
        (
            "---+--------------------------\n x | 2026-11-25T03:30:13.143Z\n",
            format!("---+-----------------------------\n x | {MOMENT}\n"),
        ),
    ] {
        assert_eq!(masked(text), expected);
    }
}
