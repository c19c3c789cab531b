//! What must hold of every history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::actor::{Fact, Log, TABLE};
use super::process::limits;
use super::shelf::{Line, Shelf};
use crate::id::{Token, Version};
use crate::ledger::check::{Severity, check};
use crate::ledger::store::{Answers, Store};
use crate::ledger::{checkpoint, codec, history};
use crate::model::columns::EventsReader;
use crate::model::compare::difference;
use crate::model::keys::Key;
use crate::model::state::State;

/// A statement in the ledger: the versions of its events, and how many there are.
type Statements = BTreeMap<String, (BTreeSet<Version>, u64)>;

/// Judges a store against what everybody was told.
pub(super) async fn judge(shelf: &Arc<Shelf>, log: &Log) -> String {
    let store = Store::simulated("judge", Line::clear(shelf), Answers::Certain).unwrap();
    let facts = log.facts();
    for fact in &facts {
        if let Fact::Wrong { what } = fact {
            panic!("{what}");
        }
    }
    let report = check(&store).await.unwrap();
    let errors = report.findings.iter();
    let errors: Vec<_> = errors
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let opened = checkpoint::open(&store).await.unwrap();
    let (statements, replayed) = replay(&store, opened.state.version).await;
    assert_eq!(difference(&opened.state, &replayed), None);
    judge_statements(&facts, &statements);
    judge_sources(&facts, &opened.state);
    judge_holders(&facts);
    let text: Vec<String> = statements
        .iter()
        .map(|(statement, (versions, rows))| format!("{statement} {versions:?} {rows}"))
        .collect();
    format!(
        "version {} {:016x}",
        opened.state.version,
        codec::content_hash(text.join("\n").as_bytes())
    )
}

/// All events, from the files as they are, and the state that they lead to.
async fn replay(store: &Store, version: Version) -> (Statements, State) {
    let (mut statements, mut state) = (Statements::new(), State::default());
    let mut expected = Version(1);
    for file in history::events_files(store, version).await.unwrap() {
        assert_eq!(file.from, expected, "a version is missing or there twice");
        expected = file.to.next();
        let bytes = store.get(&file.path).await.unwrap().unwrap();
        let events = codec::decode(&file.path, bytes).unwrap();
        for batch in &events.batches {
            let reader = EventsReader::try_new(batch).unwrap();
            for row in 0..reader.len() {
                let statement = reader.origin(row).unwrap().statement_id.to_owned();
                let entry = statements.entry(statement).or_default();
                entry.0.insert(reader.place(row).unwrap().0);
                entry.1 += 1;
            }
        }
        codec::replay(&mut state, file.from, file.to, &events).unwrap();
    }
    (statements, state)
}

/// What was acknowledged is there once, and what was refused is not there.
fn judge_statements(facts: &[Fact], statements: &Statements) {
    for fact in facts {
        match fact {
            Fact::Committed { statement, version } => {
                let found = statements.get(statement);
                let versions = found.map(|(versions, _)| versions);
                let last = versions.and_then(BTreeSet::last);
                assert_eq!(last, Some(version), "acknowledged statement {statement}");
                // Its turn and the leases that it ended are earlier commits of its own.
            }
            Fact::Refused { statement } => {
                assert!(
                    !statements.contains_key(statement) || turn_only(statements, statement),
                    "refused statement {statement} is in the ledger"
                );
            }
            Fact::Held { .. } | Fact::LetGo { .. } | Fact::Inserted { .. } | Fact::Wrong { .. } => {
            }
        }
    }
}

/// A statement that was refused in the end may have asked for its turn.
fn turn_only(statements: &Statements, statement: &str) -> bool {
    statements
        .get(statement)
        .is_some_and(|(versions, rows)| *rows <= 2 * versions.len() as u64)
}

fn judge_sources(facts: &[Fact], state: &State) {
    let table = state.table(TABLE).unwrap();
    for fact in facts {
        if let Fact::Inserted { keys } = fact {
            for key in keys {
                let slot = table.keys.find(Key::Text(key));
                let there = slot.and_then(|slot| table.source(slot)).is_some();
                assert!(there, "source {key} was acknowledged and is not there");
            }
        }
    }
}

/// A span in which somebody knew to hold a resource.
#[derive(Debug)]
struct Span {
    token: Token,
    resource: String,
    from: Duration,
    to: Duration,
}

/// Nobody holds what another holds, on the path, above it or below it.
fn judge_holders(facts: &[Fact]) {
    let mut spans: Vec<Span> = Vec::new();
    // The clocks of two processes differ by twice the skew at most.
    let skew = limits().clock_skew_max * 2;
    for fact in facts {
        match fact {
            Fact::Held {
                resource,
                token,
                from,
                expires_at,
            } => {
                assert!(
                    spans.iter().all(|span| span.token != *token),
                    "{token} told twice"
                );
                spans.push(Span {
                    token: *token,
                    resource: resource.clone(),
                    from: *from,
                    to: expires_at.saturating_sub(skew).max(*from),
                });
            }
            Fact::LetGo { token, at } => {
                let held = spans.iter_mut().find(|span| span.token == *token);
                if let Some(held) = held {
                    held.to = held.to.min(*at).max(held.from);
                }
            }
            Fact::Committed { .. }
            | Fact::Refused { .. }
            | Fact::Inserted { .. }
            | Fact::Wrong { .. } => {}
        }
    }
    spans.sort_by_key(|span| span.from);
    for (index, one) in spans.iter().enumerate() {
        let later = spans.iter().skip(index + 1);
        for other in later.take_while(|other| other.from < one.to) {
            assert!(
                !meet(&one.resource, &other.resource),
                "{one:?} and {other:?}"
            );
        }
    }
}

fn meet(one: &str, other: &str) -> bool {
    let below = |path: &str, above: &str| {
        path.strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}
