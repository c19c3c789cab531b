//! The transforms of a server, read from its table `transforms`.

use std::sync::Arc;

use crate::client::{Client, Request};
use crate::error::{Code, Error, Result};
use crate::model::transform::{TransformDef, TransformKind};
use crate::session::parser::parse;
use crate::session::statement::{Statement, TransformBody};
use crate::worker::local::{for_outside_workers, unknown_transform};
use crate::worker::remote::{REQUEST_TIMEOUT, Rows};

const LIST: &str = "SELECT name, version, source_table, kind, from_status, to_status, group_size, \
                    concurrency, max_attempts, timeout_ms, lease_ms, backoff_ms, backoff_max_ms, \
                    memory_bytes, waiting, running, \
                    CASE WHEN kind = 'command' THEN definition END AS definition FROM transforms";

/// One transform of the server.
#[derive(Debug)]
pub(super) struct Listed {
    pub name: String,
    pub version: u64,
    pub waiting: u64,
    pub running: u64,
    /// The command line; none for other kinds.
    pub command: Option<String>,
    kind: String,
    pub def: Arc<TransformDef>,
}

impl Listed {
    /// All of them.
    ///
    /// # Errors
    /// Those of the way to the server.
    pub(super) async fn all(client: &Client) -> Result<Vec<Self>> {
        let request = Request {
            timeout: Some(REQUEST_TIMEOUT),
            ..Request::new(LIST)
        };
        let mut listed = Vec::new();
        for batch in client.execute(request).await?.collect().await? {
            let rows = Rows(&batch);
            for row in 0..batch.num_rows() {
                listed.push(Self::of(&rows, row));
            }
        }
        Ok(listed)
    }

    fn of(rows: &Rows<'_>, row: usize) -> Self {
        let text = |name: &str| rows.text(name, row).unwrap_or_default();
        let int = |name: &str| rows.int(name, row).unwrap_or_default();
        let count = |name: &str| u32::try_from(int(name)).unwrap_or(u32::MAX);
        let sql = text("definition");
        let command = command_of(&sql);
        let def = TransformDef {
            table: text("source_table"),
            from_status: rows.texts("from_status", row),
            to_status: rows.texts("to_status", row),
            kind: match &command {
                Some(command) => TransformKind::Command {
                    command: command.clone(),
                },
                None => TransformKind::Outside,
            },
            group_size: count("group_size"),
            timeout_ms: int("timeout_ms"),
            max_attempts: u16::try_from(int("max_attempts")).unwrap_or(u16::MAX),
            concurrency: count("concurrency"),
            lease_ms: int("lease_ms"),
            backoff_ms: int("backoff_ms"),
            backoff_max_ms: int("backoff_max_ms"),
            // Who claims has no use for it: the server orders the queue.
            priority: 0,
            memory_bytes: rows.int("memory_bytes", row),
            sql,
        };
        Self {
            name: text("name"),
            version: int("version"),
            waiting: int("waiting"),
            running: int("running"),
            command,
            kind: text("kind"),
            def: Arc::new(def),
        }
    }
}

/// The command line of a definition.
fn command_of(definition: &str) -> Option<String> {
    match parse(definition).ok()?.statement {
        Statement::CreateTransform(create) => match create.body {
            TransformBody::Command(command) => Some(command),
            TransformBody::Sql { .. } | TransformBody::Outside => None,
        },
        _ => None,
    }
}

/// Checks that a worker behind the server can run what it was told to.
///
/// # Errors
/// `SG2002 unknown-transform`, `SG1004 effect-argument`.
pub(super) fn check(listed: &[Listed], names: &[String]) -> Result<()> {
    for name in names {
        let found = listed.iter().find(|one| one.name == *name);
        let found = found.ok_or_else(|| unknown_transform(name))?;
        match found.kind.as_str() {
            "command" => {}
            "outside" => return Err(for_outside_workers(name)),
            _ => {
                return Err(Error::new(
                    Code::EffectArgument,
                    format!(
                        "transform \"{name}\" is in SQL, which a worker at a server cannot run"
                    ),
                )
                .with_detail("Its query is planned over the tables of the store.")
                .with_hint(
                    "Run it where the store is: sluicegate work --store URL, or sluicegate serve \
                     --workers N.",
                ));
            }
        }
    }
    let left: Vec<&str> = listed
        .iter()
        .filter(|one| one.kind == "sql" && names.is_empty())
        .map(|one| one.name.as_str())
        .collect();
    if !left.is_empty() {
        tracing::warn!(
            transforms = left.join(", "),
            "transforms in SQL are left to workers at the store"
        );
    }
    Ok(())
}
