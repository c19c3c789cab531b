//! What is narrowed from memory: every live row that passes, and no other live row.

use datafusion::logical_expr::{col, lit};

use super::*;
use crate::id::{BatchId, TableId, Token, TransformId, Version};
use crate::model::jobs::{Job, JobState};
use crate::model::locks::{Lock, LockMode};
use crate::model::sources::{ColumnDef, Presence, Run};

const NOW: Timestamp = Timestamp(1_000);

/// A run of rows in the order of slots, and one of rows that came later: some replaced older
/// ones. Whole leaves have one status, others several; jobs are live on some sources, and run on
/// fewer; some sources were deleted.
fn table() -> (State, Arc<SourceTable>) {
    let def = TableDef {
        columns: vec![ColumnDef {
            name: "id".to_owned(),
            data_type: "Utf8".to_owned(),
            nullable: false,
        }],
        key: "id".to_owned(),
        key_type: KeyType::Text,
        sql: String::new(),
    };
    let mut state = State::default();
    let mut table = SourceTable::new(TableId(1), "notices", def);
    let codes = ["RAW", "DONE", "FAILED"].map(|status| table.intern_status(status).unwrap());
    let replaced = |slot: u32| slot.is_multiple_of(97);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for slot in 0..2_000_u32 {
        table.keys.push(Key::Text(&format!("n/{slot}"))).unwrap();
        let leaf = slot as usize / LEAF_ITEMS;
        let live = leaf == 2 || slot % 10 == 3 && leaf > 3;
        let running = live && slot % 20 == 3;
        let job = match live {
            true => JobId(state.jobs.len() as u64 + 1),
            false => JobId::NONE,
        };
        if live {
            state.jobs.push(job_until(if slot % 40 == 3 {
                NOW
            } else {
                Timestamp(2_000)
            }));
        }
        let in_first = slot < 1_500 && !replaced(slot);
        if slot < 1_500 {
            first.push(slot);
        }
        if !in_first {
            second.push(slot);
        }
        let (run, row) = match in_first {
            true => (RunId(1), slot),
            false => (RunId(2), second.len() as u32 - 1),
        };
        table.sources.push(Source {
            run,
            row,
            status: codes[if leaf < 4 {
                leaf % 2
            } else {
                slot as usize % 3
            }],
            presence: match slot % 211 {
                5 => Presence::Deleted,
                _ => Presence::Present,
            },
            status_at: NOW,
            live_job: job,
            running_job: if running { job } else { JobId::NONE },
            last_job: job,
            version: Version(1),
        });
    }
    for (id, slots) in [(RunId(1), first), (RunId(2), second)] {
        let run = Run {
            path: "".into(),
            rows: slots.len() as u64,
            bytes: 0,
            slots: Arc::new(slots),
            live_rows: 0,
            changed_at: Version(1),
        };
        Arc::make_mut(&mut table.runs).insert(id, run);
    }
    (state, Arc::new(table))
}

fn job_until(expires_at: Timestamp) -> Job {
    Job {
        table: TableId(1),
        slot: Slot(0),
        transform: TransformId(1),
        transform_version: 1,
        batch: BatchId(1),
        state: JobState::Running,
        priority: 0,
        attempt: 1,
        failures: 0,
        crashes: 0,
        worker: 0,
        token: Token(1),
        next_live: JobId::NONE,
        created_at: NOW,
        run_at: NOW,
        started_at: NOW,
        ended_at: Timestamp(0),
        expires_at,
        extra: None,
    }
}

fn lock(state: &mut State, resource: &str) {
    let lock = Lock {
        token: Token(9),
        mode: LockMode::Exclusive,
        owner: "ann".into(),
        reason: None,
        acquired_at: NOW,
        expires_at: Timestamp(5_000),
    };
    state.locks.insert(resource, lock);
}

type Passes = fn(&SystemRows, Slot, &Source) -> bool;

fn status_of<'r>(rows: &'r SystemRows, source: &Source) -> &'r str {
    rows.table.status_name(source.status)
}

fn cases() -> Vec<(Expr, Passes)> {
    let (status, live) = (|| col("status"), || col("live_job_id"));
    vec![
        (status().eq(lit("RAW")), |rows, _, source| {
            status_of(rows, source) == "RAW"
        }),
        (lit("DONE").not_eq(status()), |rows, _, source| {
            status_of(rows, source) != "DONE"
        }),
        (
            status().in_list(vec![lit("DONE"), lit("FAILED")], true),
            |rows, _, source| status_of(rows, source) == "RAW",
        ),
        (status().eq(lit("NONE")), |_, _, _| false),
        (col("locked"), |rows, slot, source| {
            rows.locked(slot, source)
        }),
        (!col("locked"), |rows, slot, source| {
            !rows.locked(slot, source)
        }),
        (live().is_null(), |_, _, source| {
            source.live_job == JobId::NONE
        }),
        (
            live().is_not_null().and(status().eq(lit("RAW"))),
            |rows, _, source| source.live_job != JobId::NONE && status_of(rows, source) == "RAW",
        ),
        (
            live().is_null().or(status().eq(lit("DONE"))),
            |rows, _, source| source.live_job == JobId::NONE || status_of(rows, source) == "DONE",
        ),
        (
            (!col("locked"))
                .and(live().is_null())
                .and(status().not_eq(lit("FAILED"))),
            |rows, slot, source| {
                !rows.locked(slot, source)
                    && source.live_job == JobId::NONE
                    && status_of(rows, source) != "FAILED"
            },
        ),
        (col("id").eq(lit("n/97")), |_, slot, _| slot.0 == 97),
        (col("id").eq(lit("nobody")), |_, _, _| false),
        (
            col("id").in_list(vec![lit("n/5"), lit("n/6"), lit("n/1999")], false),
            // Slot 5 was deleted.
            |_, slot, _| [6, 1_999].contains(&slot.0),
        ),
        (
            col("id").eq(lit("n/7")).or(col("id").eq(lit("n/8"))),
            |_, slot, _| [7, 8].contains(&slot.0),
        ),
        (
            col("id").eq(lit("n/7")).or(status().eq(lit("DONE"))),
            |rows, slot, source| slot.0 == 7 || status_of(rows, source) == "DONE",
        ),
    ]
}

fn check(state: &State, table: &Arc<SourceTable>) {
    let rows = SystemRows::new(&Arc::new(state.clone()), table, NOW);
    for (filter, passes) in cases() {
        let mut found = 0;
        for (id, run) in table.runs.iter() {
            let selected = rows.select(id.0, std::slice::from_ref(&filter)).unwrap();
            for (row, &slot) in (0_u32..).zip(run.slots.iter()) {
                let source = table.source(Slot(slot));
                let live = source.filter(|source| (source.run, source.row) == (*id, row));
                let Some(source) = live else { continue };
                let is_in = selected.iter().any(|range| range.contains(&u64::from(row)));
                let expected = passes(&rows, Slot(slot), source);
                assert_eq!(is_in, expected, "{filter}: slot {slot} of run {id}");
                found += u32::from(is_in);
            }
            assert!(selected.is_sorted_by_key(|range| range.start), "{filter}");
        }
        let nothing = ["NONE", "nobody"]
            .iter()
            .any(|word| filter.to_string().contains(word));
        assert!(found > 0 || nothing, "{filter} finds nothing");
    }
}

#[test]
fn filters_are_judged_as_row_by_row() {
    let (mut state, table) = table();
    check(&state, &table);
    lock(&mut state, "notices/n/700");
    lock(&mut state, "notices/n/1999/part");
    check(&state, &table);
}

#[test]
fn a_change_is_seen_by_the_next_filter() {
    let (state, mut table) = table();
    check(&state, &table);
    let failed = table.status_code("FAILED").unwrap();
    Arc::make_mut(&mut table)
        .source_mut(Slot(10))
        .unwrap()
        .status = failed;
    check(&state, &table);
}

#[test]
fn what_is_not_understood_narrows_nothing() {
    let (state, table) = table();
    let rows = SystemRows::new(&Arc::new(state), &table, NOW);
    for filter in [
        col("status").gt(lit("A")),
        col("id").not_eq(lit("n/7")),
        col("id").in_list(vec![lit("n/7")], true),
        col("id").eq(lit(7)),
        col("id").eq(lit(ScalarValue::Utf8(None))),
        col("status").eq(col("id")),
    ] {
        assert!(
            rows.select(1, std::slice::from_ref(&filter)).is_none(),
            "{filter}"
        );
    }
}
