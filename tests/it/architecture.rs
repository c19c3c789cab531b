//! The shape of the source: layers, who may name what, and the marks of every file.
//!
//! `src/ARCHITECTURE.md` says why; this says whether.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the ground up. A file may name its own layer and those of earlier rows, and
/// not the neighbours of its row.
const LAYERS: &[&[&str]] = &[
    &["error", "id", "time", "config", "json", "telemetry"],
    &["chance"],
    &["model"],
    &["ledger"],
    &["functions", "tables", "format"],
    &["session"],
    &["client"],
    &["worker", "server", "repl"],
    &["engine"],
    &["demo", "bench"],
    &["cli"],
    &["main"],
];

/// What only some files may name, and why.
const KEEPERS: &[Keeper] = &[
    Keeper {
        names: &["object_store"],
        keepers: &["ledger"],
        reason: "every byte of the store goes through one door",
    },
    Keeper {
        names: &["ArrowWriter", "AsyncArrowWriter"],
        // `--format parquet` writes a result for a user, nothing of the store.
        keepers: &["ledger", "format"],
        reason: "what is durable is written in one place",
    },
    Keeper {
        names: &["datafusion"],
        // The prompt uses the tokenizer and the Arrow that DataFusion exports, as results do.
        keepers: &[
            "functions",
            "tables",
            "format",
            "session",
            "worker/sql",
            "repl",
        ],
        reason: "model and ledger must not change when DataFusion does",
    },
    Keeper {
        names: &["axum", "axum_server", "tonic", "arrow_flight"],
        keepers: &["server"],
        reason: "one path for all surfaces goes through session",
    },
    Keeper {
        names: &["reqwest"],
        keepers: &["client"],
        reason: "errors of a server are made ours in one place",
    },
    Keeper {
        names: &["SystemTime::now", "Utc::now", "Local::now"],
        keepers: &["time"],
        reason: "a test must be able to stand still",
    },
];

/// Lines of a file. Above, a file is more than one idea.
const LINES_MAX: usize = 800;

/// Files that are longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "model/apply.rs",
        "one match and its arms: the fold of every event",
    ),
    (
        "model/columns.rs",
        "writer and reader of the same columns, checked against each other",
    ),
];

/// Columns of a line.
const COLUMNS_MAX: usize = 100;

struct Keeper {
    names: &'static [&'static str],
    keepers: &'static [&'static str],
    reason: &'static str,
}

struct Source {
    /// Its path below `src`, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn layer(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines that are shipped: without comments, and without what only tests see.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let only_tests = self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs");
        self.text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .filter(move |(_, line)| !only_tests && !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path: PathBuf = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("it is below src");
                sources.push(Source {
                    path: below.display().to_string(),
                    text: fs::read_to_string(&path).expect("source is UTF-8"),
                });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty());
    sources
}

/// The words that follow `crate::`, those in braces too.
fn named_modules(line: &str) -> Vec<&str> {
    let word = |text: &'_ str| {
        text.find(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .unwrap_or(text.len())
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(|item| {
                    let item = item.trim();
                    &item[..word(item)]
                }));
            }
            None => found.push(&rest[..word(rest)]),
        }
    }
    found
}

/// Whether `name` stands in the line as the beginning of a path of its own.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let part_of = |letter: Option<char>| {
            letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
        };
        let inner = line[..at].ends_with("::") && !name.contains(char::is_uppercase);
        // A method of that name is not the crate.
        let method = before == Some('.');
        let apart = !part_of(before) && !part_of(after) && !inner && !method;
        apart && !line[..at].contains('"')
    })
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[track_caller]
fn assert_none(breaks: &[String], rule: &str) {
    assert!(breaks.is_empty(), "{rule}:\n  {}", breaks.join("\n  "));
}

#[test]
fn imports_point_to_lower_layers_only() {
    let mut breaks = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let layer = source.layer();
        let Some(own) = rank(layer) else {
            breaks.push(format!("{}: no layer \"{layer}\" in LAYERS", source.path));
            continue;
        };
        for (at, line) in source.shipped() {
            for module in named_modules(line) {
                let upward = rank(module).is_some_and(|other| other > own);
                let sideways = module != layer && own > 0 && rank(module) == Some(own);
                if upward || sideways {
                    let arrow = if upward { "upward" } else { "sideways" };
                    breaks.push(format!("{}:{at}: {arrow} to {module}", source.path));
                }
            }
        }
    }
    assert_none(&breaks, "a layer imports only what is below it");
}

#[test]
fn only_the_keepers_name_what_is_kept() {
    let mut breaks = Vec::new();
    for Keeper {
        names: kept,
        keepers,
        reason,
    } in KEEPERS
    {
        for source in &sources() {
            let keeper = |keeper: &&str| {
                let module = source.path.strip_prefix(*keeper);
                module.is_some_and(|rest| rest.starts_with('/') || rest.starts_with(".rs"))
            };
            if keepers.iter().any(keeper) {
                continue;
            }
            for (at, line) in source.shipped() {
                for name in kept.iter().filter(|name| names(line, name)) {
                    breaks.push(format!("{}:{at}: {name} ({reason})", source.path));
                }
            }
        }
    }
    assert_none(&breaks, "only its keepers may name it");
}

#[test]
fn every_file_says_what_it_is() {
    let mute = |source: &&Source| !source.text.starts_with("//! ");
    let breaks: Vec<String> = sources()
        .iter()
        .filter(mute)
        .map(|source| source.path.clone())
        .collect();
    assert_none(&breaks, "a file begins with //!");
}

#[test]
fn lines_are_ascii_and_fit() {
    let mut breaks = Vec::new();
    for source in &sources() {
        for (at, line) in source.text.lines().enumerate() {
            if !line.is_ascii() {
                breaks.push(format!("{}:{}: not ASCII", source.path, at + 1));
            }
            if line.chars().count() > COLUMNS_MAX {
                breaks.push(format!(
                    "{}:{}: over {COLUMNS_MAX} columns",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    assert_none(&breaks, "source is ASCII in lines of bounded length");
}

#[test]
fn files_are_short_or_excused() {
    let mut breaks = Vec::new();
    for source in &sources() {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > LINES_MAX && !excused {
            breaks.push(format!("{}: {lines} lines", source.path));
        }
        if lines <= LINES_MAX && excused {
            breaks.push(format!("{}: needs no excuse any more", source.path));
        }
    }
    assert_none(&breaks, "a file is one idea");
}

#[test]
fn the_page_tells_of_every_module() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ARCHITECTURE.md");
    let page = fs::read_to_string(path).expect("the page is readable");
    let (_, modules) = page.split_once("## Modules").expect("it has the section");
    let untold = |source: &&Source| {
        let layer = source.layer();
        let told = |part: &str| part.split(", ").any(|name| name == layer);
        !["lib", "main"].contains(&layer) && !modules.split("**").skip(1).step_by(2).any(told)
    };
    let breaks: Vec<String> = sources()
        .iter()
        .filter(untold)
        .map(|source| source.path.clone())
        .collect();
    assert_none(&breaks, "every module has its paragraph in ARCHITECTURE.md");
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(named_modules("use crate::model::apply;"), ["model"]);
    assert_eq!(
        named_modules("use crate::{error, id::JobId};"),
        ["error", "id"]
    );
    assert!(names("use object_store::path;", "object_store"));
    assert!(!names(
        "use datafusion::object_store::Error;",
        "object_store"
    ));
    assert!(names(
        "let now = std::time::SystemTime::now();",
        "SystemTime::now"
    ));
    assert!(!names("let my_object_store = 1;", "object_store"));
}
