//! Whether two states are the same, and where they first differ.
//!
//! A checkpoint and the replay of all commits must agree in everything that is decided from or
//! shown: `sluicegate check` and the tests ask here. What is left out is only how something came
//! about in memory, such as touching ranges of a queue.

use std::fmt::Debug;

use crate::model::sources::SourceTable;
use crate::model::state::{State, Transform};
use crate::model::transform::Permission;

/// The first difference of two states, in words; `None` where they are the same.
pub fn difference(a: &State, b: &State) -> Option<String> {
    unequal("version", &a.version, &b.version)
        .or_else(|| unequal("time", &a.at, &b.at))
        .or_else(|| match a.lineage.agrees(&b.lineage) {
            Permission::Allowed => None,
            Permission::Denied => unequal("lineage", &a.lineage, &b.lineage),
        })
        .or_else(|| unequal("last job", &a.last_job, &b.last_job))
        .or_else(|| unequal("last token", &a.last_token, &b.last_token))
        .or_else(|| unequal("next table", &a.next_table, &b.next_table))
        .or_else(|| unequal("next transform", &a.next_transform, &b.next_transform))
        .or_else(|| unequal("table names", &a.table_ids, &b.table_ids))
        .or_else(|| unequal("transform names", &a.transform_ids, &b.transform_ids))
        .or_else(|| unequal("views and external tables", &a.objects, &b.objects))
        .or_else(|| unequal("tables", &a.tables.len(), &b.tables.len()))
        .or_else(|| {
            let mut pairs = a.tables.values().zip(b.tables.values());
            pairs.find_map(|(a, b)| table_difference(a, b))
        })
        .or_else(|| unequal("transforms", &a.transforms.len(), &b.transforms.len()))
        .or_else(|| {
            let mut pairs = a.transforms.values().zip(b.transforms.values());
            pairs.find_map(|(a, b)| transform_difference(a, b))
        })
        .or_else(|| first_unequal("job", 1, a.jobs.iter(), b.jobs.iter()))
        .or_else(|| first_unequal("batch", 1, a.batches.iter(), b.batches.iter()))
        .or_else(|| first_unequal("worker", 0, a.workers.iter(), b.workers.iter()))
        .or_else(|| unequal("worker names", &a.worker_ids, &b.worker_ids))
        .or_else(|| unequal("locks", &a.locks, &b.locks))
        .or_else(|| unequal("turn", &a.turn, &b.turn))
        .or_else(|| unequal("leases", &a.leases, &b.leases))
        .or_else(|| unequal("kept statements", &a.kept, &b.kept))
        .or_else(|| unequal("access tokens", &a.tokens, &b.tokens))
}

fn table_difference(a: &SourceTable, b: &SourceTable) -> Option<String> {
    let what = unequal("id", &a.id, &b.id)
        .or_else(|| unequal("name", &a.name, &b.name))
        .or_else(|| unequal("definition", &a.def, &b.def))
        .or_else(|| unequal("keys", &a.keys.len(), &b.keys.len()))
        .or_else(|| (a.keys != b.keys).then(|| "its keys differ".to_owned()))
        .or_else(|| first_unequal("source", 0, a.sources.iter(), b.sources.iter()))
        .or_else(|| unequal("next run", &a.next_run, &b.next_run))
        .or_else(|| unequal("runs", &a.runs.len(), &b.runs.len()))
        .or_else(|| first_unequal("run", 0, a.runs.iter(), b.runs.iter()))
        .or_else(|| unequal("statuses", &a.statuses, &b.statuses))
        .or_else(|| unequal("sources by status", &a.status_counts, &b.status_counts))
        .or_else(|| unequal("running jobs", &a.running, &b.running))
        .or_else(|| unequal("live jobs", &a.live_jobs, &b.live_jobs))
        .or_else(|| unequal("nested jobs", &a.nested_running, &b.nested_running))?;
    Some(format!("table \"{}\": {what}", a.name))
}

fn transform_difference(a: &Transform, b: &Transform) -> Option<String> {
    let what = unequal("id", &a.id, &b.id)
        .or_else(|| unequal("name", &a.name, &b.name))
        .or_else(|| unequal("table", &a.table, &b.table))
        .or_else(|| unequal("version", &a.version, &b.version))
        .or_else(|| unequal("time", &a.created_at, &b.created_at))
        .or_else(|| unequal("maker", &a.created_by, &b.created_by))
        .or_else(|| unequal("dropped", &a.dropped, &b.dropped))
        .or_else(|| unequal("queue", &a.queue, &b.queue))
        .or_else(|| unequal("running jobs", &a.running, &b.running))
        .or_else(|| unequal("attempts by version", &a.attempts, &b.attempts))
        .or_else(|| {
            // Checkpoints of old formats lack older versions.
            let both = a
                .older
                .iter()
                .filter_map(|(version, def)| Some((def, b.older.get(version)?)));
            both.into_iter()
                .find_map(|(a, b)| unequal("older version", a, b))
        })?;
    Some(format!("transform \"{}\": {what}", a.name))
}

/// Characters of a value that a message shows. Chosen: a line or two.
const SHOWN_CHARS: usize = 300;

fn unequal<T: PartialEq + Debug>(what: &str, a: &T, b: &T) -> Option<String> {
    (a != b).then(|| format!("{what}: {} is not {}", shown(a), shown(b)))
}

fn first_unequal<T: PartialEq + Debug>(
    what: &str,
    first: u64,
    a: impl Iterator<Item = T>,
    mut b: impl Iterator<Item = T>,
) -> Option<String> {
    for (number, a) in (first..).zip(a) {
        match b.next() {
            Some(b) if a == b => {}
            Some(b) => return unequal(&format!("{what} {number}"), &a, &b),
            None => return Some(format!("{what} {number} is not in both")),
        }
    }
    b.next().map(|_| format!("there are more of {what}"))
}

fn shown(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
