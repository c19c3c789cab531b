//! Where the prompt sends statements: to a session of an opened store, or to a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::util::display::array_value_to_string;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;

use crate::client::{Answer, Client, Request};
use crate::error::{Error, Result};
use crate::functions::effect::EffectFunction;
use crate::id::Token;
use crate::session::parameters::Parameters;
use crate::session::{
    ExecuteOptions, LockChanges, Names, OutcomeCount, Session, StatementKind, TableName,
};

/// The answer to one statement.
pub struct Shown {
    /// What the statement is.
    pub kind: StatementKind,
    /// The columns of the rows; none where there are no rows to show.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// Rows that were written or removed.
    pub rows_affected: Option<u64>,
    /// How often each effect function ended in which way.
    pub summary: Vec<OutcomeCount>,
    /// What the user should know beside the rows.
    pub notes: Vec<String>,
}

/// What an effect statement would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foresight {
    /// The rows that it would act on.
    pub rows: u64,
    /// How often which effect would end in which way; empty where that was not asked.
    pub outcomes: Vec<OutcomeCount>,
}

/// Where statements run.
#[derive(Clone)]
pub enum Connection {
    /// In this process.
    Store(Session),
    /// At a server.
    Server(ServerSession),
}

impl From<Session> for Connection {
    fn from(session: Session) -> Self {
        Self::Store(session)
    }
}

impl From<ServerSession> for Connection {
    fn from(session: ServerSession) -> Self {
        Self::Server(session)
    }
}

impl Connection {
    /// Runs one statement.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn execute(&self, sql: &str, parameters: Parameters) -> Result<Shown> {
        match self {
            Self::Store(session) => {
                let options = ExecuteOptions {
                    parameters,
                    ..ExecuteOptions::default()
                };
                let reply = session.execute_with(sql, options).await?;
                let batches = reply.batches.map(|batch| batch.map_err(Error::from));
                Ok(Shown {
                    kind: reply.kind,
                    schema: reply.schema,
                    batches: batches.boxed(),
                    rows_affected: reply.rows_affected,
                    summary: reply.summary,
                    notes: reply.notes,
                })
            }
            Self::Server(session) => session.execute(sql, parameters).await,
        }
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn rows(&self, sql: &str, parameters: Parameters) -> Result<Vec<RecordBatch>> {
        let mut shown = self.execute(sql, parameters).await?;
        let mut batches = Vec::new();
        while let Some(batch) = shown.batches.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// What an effect statement would do.
    ///
    /// # Arguments
    /// `few`: rows up to which the outcomes need not be told.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn foresee(&self, sql: &str, values: Parameters, few: u64) -> Result<Foresight> {
        if let Self::Store(session) = self {
            // Counting is much cheaper than foretelling.
            let rows = session.count_effects(sql, &values).await?.unwrap_or(0);
            if rows <= few {
                return Ok(Foresight {
                    rows,
                    outcomes: Vec::new(),
                });
            }
        }
        let mut preview = self.execute(&format!("PREVIEW {sql}"), values).await?;
        let mut rows = 0;
        while let Some(batch) = preview.batches.next().await {
            rows += batch?.num_rows() as u64;
        }
        Ok(Foresight {
            rows,
            outcomes: preview.summary,
        })
    }

    /// Tables, views and functions, for completion and `\d`.
    ///
    /// # Errors
    /// Those of the store or the server.
    pub async fn names(&self) -> Result<Names> {
        match self {
            Self::Store(session) => session.names().await,
            Self::Server(session) => session.names().await,
        }
    }

    /// Asks for the end of a statement whose answer was dropped. One in this process has ended by
    /// that.
    pub async fn cancel(&self) {
        match self {
            Self::Store(_) => {}
            Self::Server(session) => session.cancel().await,
        }
    }
}

/// A user's connection to a server. Clones share what they read.
#[derive(Clone)]
pub struct ServerSession {
    client: Client,
    /// The functions, and the tables that every store has, of this program's version.
    known: Arc<Names>,
    /// The statement whose rows are being read.
    reading: Arc<Mutex<Option<Arc<str>>>>,
    /// The locks that it was given, which it shows with every statement.
    locks: Arc<Mutex<BTreeSet<Token>>>,
}

const COLUMNS: &str = "SELECT t.table_name, t.table_type, c.column_name, c.data_type, \
                       c.is_nullable \
                       FROM information_schema.tables t LEFT JOIN information_schema.columns c \
                       ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
                       WHERE t.table_schema <> 'information_schema' \
                       ORDER BY t.table_name, c.ordinal_position";

/// The keys of all source tables that there ever were, the newest last.
const KEYS: &str = "SELECT source_table, json_text(payload, 'key') FROM events \
                    WHERE kind = 'table-created' ORDER BY version, ordinal";

impl ServerSession {
    /// A connection through a client.
    ///
    /// # Arguments
    /// `known`: names of an empty store, for what a server does not tell.
    pub fn new(client: Client, known: Names) -> Self {
        Self {
            client,
            known: Arc::new(known),
            reading: Arc::default(),
            locks: Arc::default(),
        }
    }

    /// The same connection, which also shows these locks as its own.
    #[must_use]
    pub fn with_lock_tokens(self, tokens: impl IntoIterator<Item = Token>) -> Self {
        self.locks.lock().extend(tokens);
        self
    }

    async fn send(&self, sql: impl Into<String>, values: &Parameters) -> Result<Answer> {
        let lock_tokens = self.locks.lock().iter().copied().collect();
        let request = Request {
            lock_tokens,
            parameters: values.to_json(),
            ..Request::new(sql)
        };
        self.client.execute(request).await
    }

    /// Keeps the locks that a statement was given, and forgets those that it released. The answer
    /// is borrowed for good while it waits: it may move to another thread, not be shared with one.
    async fn follow(&self, answer: &mut Answer) -> Result<()> {
        let of_locks = |one: &OutcomeCount| {
            let Some(function) = EffectFunction::named(&one.function) else {
                return false;
            };
            function == EffectFunction::AcquireLock || function == EffectFunction::ReleaseLock
        };
        let acts = answer.kind == StatementKind::Effect && answer.summary.iter().any(of_locks);
        let changes = match &answer.locks {
            Some(changes) => changes.clone(),
            None if acts => self.changes_of(&answer.statement_id).await?,
            None => return Ok(()),
        };
        let mut locks = self.locks.lock();
        locks.extend(changes.acquired);
        for token in &changes.released {
            locks.remove(token);
        }
        Ok(())
    }

    /// The locks that a statement acquired and released, as the ledger has them.
    async fn changes_of(&self, statement_id: &str) -> Result<LockChanges> {
        let id = statement_id.replace('\'', "''");
        let sql = format!(
            "SELECT kind = 'lock-acquired', token FROM events WHERE statement_id = '{id}' \
             AND kind IN ('lock-acquired', 'lock-released') ORDER BY ordinal"
        );
        let found = self.send(sql, &Parameters::None);
        let mut changes = LockChanges::default();
        for batch in found.await?.collect().await? {
            let [acquired, tokens] = batch.columns() else {
                continue;
            };
            let tokens = tokens.as_primitive::<Int64Type>();
            for (acquired, token) in acquired.as_boolean().iter().zip(tokens) {
                let token = token.and_then(|token| u64::try_from(token).ok());
                match acquired {
                    Some(true) => changes.acquired.extend(token.map(Token)),
                    Some(false) | None => changes.released.extend(token.map(Token)),
                }
            }
        }
        Ok(changes)
    }

    async fn execute(&self, sql: &str, parameters: Parameters) -> Result<Shown> {
        *self.reading.lock() = None;
        let mut answer = self.send(sql, &parameters).await?;
        self.follow(&mut answer).await?;
        *self.reading.lock() = Some(answer.statement_id);
        let schema = answer.rows.schema();
        let batches = futures::stream::try_unfold(answer.rows, |mut rows| async move {
            let batch = rows.next().await?;
            Ok(batch.map(|batch| (batch, rows)))
        });
        Ok(Shown {
            kind: answer.kind,
            schema,
            batches: batches.boxed(),
            rows_affected: answer.rows_affected,
            summary: answer.summary,
            notes: answer.notes,
        })
    }

    async fn names(&self) -> Result<Names> {
        let mut columns = self.execute(COLUMNS, Parameters::None).await?;
        let mut tables: BTreeMap<String, TableName> = BTreeMap::new();
        let mut required: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(batch) = columns.batches.next().await {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let name = text(&batch, 0, row).unwrap_or_default();
                let table = tables.entry(name.clone()).or_insert_with(|| TableName {
                    kind: match text(&batch, 1, row).as_deref() {
                        Some("VIEW") => "view".to_owned(),
                        Some(_) | None => "external table".to_owned(),
                    },
                    name: name.clone(),
                    columns: Vec::new(),
                    schema: None,
                    key: None,
                });
                let Some(column) = text(&batch, 2, row) else {
                    continue;
                };
                if text(&batch, 4, row).as_deref() == Some("NO") {
                    required.entry(name).or_default().push(column.clone());
                }
                let kind = text(&batch, 3, row).unwrap_or_default();
                table.columns.push((column, kind));
            }
        }
        for table in tables.values_mut() {
            let everywhere = self.known.tables.iter().find(|one| one.name == table.name);
            if let Some(known) = everywhere {
                table.kind.clone_from(&known.kind);
            } else if table.columns.iter().any(|(name, _)| name == "live_job_id") {
                "source table".clone_into(&mut table.kind);
            }
        }
        self.add_keys(&mut tables, &required).await?;
        Ok(Names {
            tables: tables.into_values().collect(),
            functions: self.known.functions.clone(),
        })
    }

    /// A key is never NULL. Where other columns of its table are not either, the ledger tells
    /// which of them it is.
    async fn add_keys(
        &self,
        tables: &mut BTreeMap<String, TableName>,
        required: &BTreeMap<String, Vec<String>>,
    ) -> Result<()> {
        let mut doubtful = false;
        for table in tables.values_mut().filter(|one| one.kind == "source table") {
            match required.get(&table.name).map(Vec::as_slice) {
                Some([key]) => table.key = Some(key.clone()),
                Some(_) => doubtful = true,
                None => {}
            }
        }
        if !doubtful {
            return Ok(());
        }
        let mut keys = self.execute(KEYS, Parameters::None).await?;
        while let Some(batch) = keys.batches.next().await {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let table = text(&batch, 0, row).and_then(|name| tables.get_mut(&name));
                if let Some(table) = table.filter(|table| table.kind == "source table") {
                    table.key = text(&batch, 1, row);
                }
            }
        }
        Ok(())
    }

    /// Before its answer has begun, a statement ends by the closed connection.
    async fn cancel(&self) {
        let statement = self.reading.lock().take();
        if let Some(id) = statement
            && let Err(error) = self.client.cancel(&id).await
        {
            tracing::debug!(%error, "a statement was not cancelled at the server");
        }
    }
}

/// The text of a cell; none for NULL.
pub(super) fn text(batch: &RecordBatch, column: usize, row: usize) -> Option<String> {
    let column = batch.columns().get(column);
    let column = column.filter(|column| column.is_valid(row))?;
    array_value_to_string(column, row).ok()
}
