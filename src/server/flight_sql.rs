//! Arrow Flight SQL, on the port of HTTP: `FlightService` of gRPC.
//!
//! Statements go the way of those over HTTP: a record, a place, a session, the caller's role.
//! `GetFlightInfo` plans and runs nothing; its ticket is run by `DoGet`, and with effects once,
//! however often it is fetched ([`flight`](super::flight)). The info of a statement that changes
//! something has no schema: ADBC drivers fetch rows in the background where they know the schema,
//! and `cursor.execute("DELETE ...")` has to be done when it returns. Prepared statements are
//! sealed in their handles, with the parameters that were bound, so the server keeps nothing of
//! them.
//!
//! The token is in the metadata: `authorization: Bearer`. A client that has a user name and a
//! password only sends the token as the password in a handshake.
//!
//! Invariants: nobody is served before [`admit`] knows who it is, not even the first message of a
//! stream is read; there are no transactions, and who asks for one is told so.

mod metadata;
mod rows;
mod status;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
    ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionEndSavepointRequest, ActionEndTransactionRequest,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
    CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TableExistsOption, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse,
    Result as ActionResult, Ticket as RpcTicket,
};
use axum::Router;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Code, Error, Result};
use crate::server::App;
use crate::server::auth::{Caller, caller};
use crate::server::flight::{Fetched, PutMode, fetch, plan, put_sql, schema_message};
use crate::server::flight_sql::rows::{Messages, joined, of_run, received, sent, whole};
use crate::server::flight_sql::status::{status, unsupported};
use crate::server::request::{SqlRequest, idempotency_key, settings_of};
use crate::server::run::{Run, cancel_run, place, placed};
use crate::server::statements::StatementState;
use crate::server::tickets::{Handle, Ticket, row_of_text, row_text};
use crate::session::TableName;
use crate::session::bound_table::BoundTable;
use crate::session::parameters::Parameters;

/// The name of the action that cancels, of Flight itself.
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

type Rpc<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
struct FlightSql(Arc<App>);

/// Where the service is, for everybody who may enter.
pub(super) fn router(app: &Arc<App>) -> Router {
    let bytes_max = app.limits().server_message_bytes_max;
    let service = FlightServiceServer::new(FlightSql(Arc::clone(app)))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(usize::MAX);
    Router::new()
        .route_service("/arrow.flight.protocol.FlightService/{*method}", service)
        .layer(from_fn_with_state(Arc::clone(app), admit))
}

/// Lets callers in, and notes who they are; a handshake says who it is in its own way.
async fn admit(State(app): State<Arc<App>>, mut request: HttpRequest, next: Next) -> HttpResponse {
    if !request.uri().path().ends_with("/Handshake") {
        let caller = caller(&app, request.headers()).await;
        let caller = match caller.and_then(|caller| caller.narrowed(request.headers())) {
            Ok(caller) => caller,
            Err(error) => return refused(error),
        };
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

fn refused(error: Error) -> HttpResponse {
    status(error)
        .into_http::<axum::body::Body>()
        .into_response()
}

/// Who asks, and with which headers.
struct Asked {
    caller: Caller,
    headers: HeaderMap,
}

impl Asked {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| status(Error::bug("a request came past the door")))?;
        Ok(Self {
            caller,
            headers: request.metadata().clone().into_headers(),
        })
    }

    /// Who asks, as it is now.
    async fn caller(&self, app: &App) -> Result<Caller, Status> {
        let caller = self.caller.clone().again(app, &self.headers).await;
        let caller = caller.and_then(|caller| caller.narrowed(&self.headers));
        caller.map_err(status)
    }

    /// A statement with the limits that stand in the headers.
    fn statement(&self, sql: String) -> Result<SqlRequest, Status> {
        let mut request = SqlRequest::new(sql);
        settings_of(&mut request, &self.headers).map_err(status)?;
        Ok(request)
    }

    fn key(&self) -> Result<Option<&str>, Status> {
        idempotency_key(&self.headers).map_err(status)
    }
}

fn no_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => Err(no_transactions()),
        Some(_) | None => Ok(()),
    }
}

fn no_transactions() -> Status {
    unsupported(
        "a transaction",
        "Every statement is one commit; connect with autocommit, and select all rows that belong \
         together in one statement.",
    )
}

fn packed(message: &impl ProstMessageExt) -> Bytes {
    message.as_any().encode_to_vec().into()
}

impl FlightSql {
    async fn tables<T>(&self, request: &Request<T>) -> Result<Vec<TableName>, Status> {
        let asked = Asked::of(request)?;
        let _place = place(&self.0).map_err(status)?;
        let names = self.0.session(&asked.caller).names().await;
        Ok(names.map_err(status)?.tables)
    }

    /// The info of a command that answers for itself: the command is its ticket.
    fn told(
        &self,
        command: &impl ProstMessageExt,
        schema: &SchemaRef,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let ticket = RpcTicket::new(packed(command));
        let endpoint = FlightEndpoint::new().with_ticket(ticket);
        let mut info = FlightInfo::new()
            .with_endpoint(endpoint)
            .with_descriptor(request.into_inner())
            .with_total_records(-1)
            .with_total_bytes(-1);
        info.schema = schema_message(schema).map_err(status)?;
        Ok(Response::new(info))
    }

    /// Plans a statement; its one endpoint is its ticket.
    async fn planned(
        &self,
        caller: &Caller,
        request: &SqlRequest,
        descriptor: FlightDescriptor,
    ) -> Rpc<FlightInfo> {
        let planned = plan(&self.0, caller, request).await.map_err(status)?;
        let ticket = TicketStatementQuery {
            statement_handle: planned.ticket.into(),
        };
        let mut endpoint = FlightEndpoint::new().with_ticket(RpcTicket::new(packed(&ticket)));
        let seconds = planned.expires_at.0.div_euclid(1_000_000);
        endpoint.expiration_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let mut info = FlightInfo::new()
            .with_endpoint(endpoint)
            .with_descriptor(descriptor)
            .with_total_records(-1)
            .with_total_bytes(-1)
            .with_ordered(true)
            .with_app_metadata(planned.id.as_bytes().to_vec());
        let description = &planned.description;
        // Without a schema a driver fetches the ticket before its execute() returns, which so
        // tells that the change is committed; with one it may give up the rows, and the change.
        let schema = description
            .schema
            .as_ref()
            .filter(|_| !description.kind.changes());
        if let Some(schema) = schema {
            info.schema = schema_message(&sent(schema)).map_err(status)?;
        }
        Ok(Response::new(info))
    }

    /// Runs a statement for its count.
    async fn written(&self, asked: &Asked, request: &SqlRequest) -> Result<i64, Status> {
        let key = asked.key()?;
        // Rows may have come for a while, and others were written before them.
        let caller = asked.caller(&self.0).await?;
        let placed = placed(&self.0, &request.sql).map_err(status)?;
        let run = Run::begin(&self.0, &caller, placed, request);
        let written = run.write(&caller, request, key).await.map_err(status)?;
        Ok(i64::try_from(written.rows).unwrap_or(i64::MAX))
    }

    fn handle(&self, asked: &Asked, sealed: &[u8]) -> Result<Handle, Status> {
        let handle = asked.caller.tickets.open(sealed);
        handle.ok_or_else(|| {
            let error = Error::new(Code::UnknownObject, "the prepared statement does not exist");
            status(error.with_hint("It is of the token with which it was prepared."))
        })
    }

    /// The statement of a handle, with what was bound to it.
    fn prepared(&self, asked: &Asked, sealed: &[u8]) -> Result<SqlRequest, Status> {
        let handle = self.handle(asked, sealed)?;
        let mut request = asked.statement(handle.prepared)?;
        if let Some(row) = &handle.row {
            request.parameters = row_of_text(row).map_err(status)?;
        }
        Ok(request)
    }

    async fn cancel(&self, asked: &Asked, info: &FlightInfo) -> Result<CancelStatus, Status> {
        let ticket = info
            .endpoint
            .first()
            .and_then(|endpoint| endpoint.ticket.as_ref());
        let command = ticket.and_then(|ticket| {
            let any = arrow_flight::sql::Any::decode(ticket.ticket.as_ref()).ok()?;
            any.unpack::<TicketStatementQuery>().ok()?
        });
        let sealed = command
            .map(|command| command.statement_handle)
            .unwrap_or_default();
        let record = Ticket::open(&sealed, &asked.caller.tickets, self.0.now())
            .and_then(|ticket| self.0.registry.get(&ticket.id, &asked.caller.actor));
        let record = record.map_err(status)?;
        let was = cancel_run(&self.0, &asked.caller, &record).await;
        Ok(match was.map_err(status)? {
            StatementState::Planned | StatementState::Cancelled => CancelStatus::Cancelled,
            StatementState::Running => CancelStatus::Cancelling,
            StatementState::Committed | StatementState::Failed => CancelStatus::NotCancellable,
        })
    }
}

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Rpc<<Self as FlightService>::HandshakeStream> {
        let given = request.metadata().get("authorization");
        let given = given
            .and_then(|given| given.to_str().ok())
            .unwrap_or_default();
        let token = match given.split_once(' ') {
            Some((scheme, basic)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(basic.trim()).ok();
                let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
                pair.and_then(|pair| Some(pair.split_once(':')?.1.to_owned()))
            }
            Some((_, token)) => Some(token.trim().to_owned()),
            None => None,
        };
        let bearer = format!("Bearer {}", token.unwrap_or_default());
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&bearer);
        let value = value.map_err(|_| Status::unauthenticated("the token is no plain text"))?;
        headers.insert(header::AUTHORIZATION, value);
        caller(&self.0, &headers).await.map_err(status)?;
        let answer = HandshakeResponse {
            protocol_version: 0,
            payload: bearer.clone().into_bytes().into(),
        };
        let answers = futures::stream::iter([Ok(answer)]);
        let mut response: Response<<Self as FlightService>::HandshakeStream> =
            Response::new(Box::pin(answers));
        if let Ok(bearer) = bearer.parse() {
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        no_transaction(query.transaction_id.as_ref())?;
        let asked = Asked::of(&request)?;
        let statement = asked.statement(query.query)?;
        self.planned(&asked.caller, &statement, request.into_inner())
            .await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let asked = Asked::of(&request)?;
        let statement = self.prepared(&asked, &query.prepared_statement_handle)?;
        self.planned(&asked.caller, &statement, request.into_inner())
            .await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        let Asked { caller, headers } = Asked::of(&request)?;
        let Fetched {
            run,
            caller,
            request,
            key,
        } = fetch(&self.0, caller, &headers, &ticket.statement_handle).map_err(status)?;
        let rows_max = run.rows_max(&request);
        let (answer, kept) = match run.act(&caller, &request, Some(&key)).await {
            Ok(acted) => acted,
            Err(error) => return Err(status(run.fail(error))),
        };
        if let Some(kept) = kept {
            run.succeed(Some(kept));
        }
        let mut response = Response::new(of_run(run, answer.schema, answer.rows, rows_max));
        if let Ok(id) = answer.statement_id.parse() {
            response
                .metadata_mut()
                .insert("sluicegate-statement-id", id);
        }
        Ok(response)
    }

    async fn do_get_prepared_statement(
        &self,
        _query: CommandPreparedStatementQuery,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        Err(unsupported(
            "DoGet of a prepared statement",
            "Ask for its info first, and fetch the ticket.",
        ))
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let schema = query.into_builder().schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        answered(metadata::catalogs(query))
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let schema = query.clone().into_builder().schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        answered(metadata::schemas(query))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let schema = query.clone().into_builder().schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        let tables = self.tables(&request).await?;
        answered(metadata::tables(query, &tables))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let schema = query.into_builder().schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        answered(metadata::table_types(query))
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let info = metadata::sql_info(&self.0).map_err(status)?;
        let schema = query.clone().into_builder(&info).schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        let info = metadata::sql_info(&self.0).map_err(status)?;
        let batch = query.into_builder(&info).build();
        answered(batch.map_err(|error| Error::bug("infos have no rows").with_source(error)))
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        self.told(&query, &metadata::primary_keys_schema(), request)
    }

    async fn do_get_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        let tables = self.tables(&request).await?;
        answered(metadata::primary_keys(&query, &tables))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        self.told(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        no_foreign_keys()
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        self.told(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        no_foreign_keys()
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        self.told(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        no_foreign_keys()
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Rpc<FlightInfo> {
        let types = metadata::types().map_err(status)?;
        let schema = query.into_builder(&types).schema();
        self.told(&query, &schema, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<RpcTicket>,
    ) -> Rpc<Messages> {
        let types = metadata::types().map_err(status)?;
        let batch = query.into_builder(&types).build();
        answered(batch.map_err(|error| Error::bug("types have no rows").with_source(error)))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        no_transaction(command.transaction_id.as_ref())?;
        let asked = Asked::of(&request)?;
        let statement = asked.statement(command.query)?;
        self.written(&asked, &statement).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        no_transaction(command.transaction_id.as_ref())?;
        let asked = Asked::of(&request)?;
        let exists = command.table_definition_options.as_ref();
        let exists = exists.map_or(TableExistsOption::Append, |options| options.if_exists());
        if exists != TableExistsOption::Append || command.temporary {
            return Err(unsupported(
                "making a table of the rows",
                "A source table needs a key: make it with CREATE TABLE, and ingest with the mode \
                 append.",
            ));
        }
        // Whoever may write no rows sends none.
        self.0
            .session(&asked.caller)
            .check_insert()
            .map_err(status)?;
        let (rows, allowance) = received(request.into_inner(), self.0.intake()).await?;
        let rows = rows.ok_or_else(|| {
            status(Error::new(
                Code::BadRequest,
                "the rows to ingest have no schema",
            ))
        })?;
        let sql = put_sql(&command.table, PutMode::Insert, &rows.schema);
        let mut statement = asked.statement(sql)?;
        let input = BoundTable::input(&rows.schema, &rows.batches, rows.digest);
        statement.tables = vec![input.map_err(status)?];
        statement.allowance = Some(allowance);
        self.written(&asked, &statement).await
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let asked = Asked::of(&request)?;
        let mut handle = self.handle(&asked, &query.prepared_statement_handle)?;
        let (rows, _allowance) = received(request.into_inner(), self.0.intake()).await?;
        handle.row = match rows {
            None => None,
            Some(rows) => {
                let rows = joined(&rows).map_err(status)?;
                if rows.num_rows() != 1 {
                    return Err(unsupported(
                        "a query with more than one row of parameters",
                        "Bind one row, or run it as an update, which runs once for each row.",
                    ));
                }
                Some(row_text(&rows).map_err(status)?)
            }
        };
        let sealed = asked.caller.tickets.seal(&handle).map_err(status)?;
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(sealed.into()),
        })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let asked = Asked::of(&request)?;
        let mut statement = self.prepared(&asked, &query.prepared_statement_handle)?;
        let (rows, allowance) = received(request.into_inner(), self.0.intake()).await?;
        let Some(rows) = rows else {
            return self.written(&asked, &statement).await;
        };
        statement.allowance = Some(allowance);
        let rows = joined(&rows).map_err(status)?;
        if rows.num_rows() > 1 && asked.key()?.is_some() {
            return Err(unsupported(
                "an idempotency key for several rows of parameters",
                "Each row is a statement of its own; use ingestion to write rows in one commit.",
            ));
        }
        let mut all: i64 = 0;
        for at in 0..rows.num_rows() {
            statement.parameters = Parameters::Row(rows.slice(at, 1));
            let written = self.written(&asked, &statement).await;
            all = all.saturating_add(written.map_err(|error| of_row(error, at, &rows))?);
        }
        Ok(all)
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(vec![Ok(ActionType {
            r#type: CANCEL_FLIGHT_INFO.to_owned(),
            description: "Asks the statement of a FlightInfo to end".to_owned(),
        })])
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Rpc<<Self as FlightService>::DoActionStream> {
        let asked = Asked::of(&request)?;
        let action = request.into_inner();
        if action.r#type != CANCEL_FLIGHT_INFO {
            return Err(unsupported(
                &format!("action \"{}\"", action.r#type),
                "ListActions lists those that are.",
            ));
        }
        let asks = CancelFlightInfoRequest::decode(action.body);
        let info = asks.ok().and_then(|asks| asks.info).unwrap_or_default();
        let body = CancelFlightInfoResult {
            status: self.cancel(&asked, &info).await? as i32,
        };
        let result = ActionResult {
            body: body.encode_to_vec().into(),
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(result)]))))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        no_transaction(query.transaction_id.as_ref())?;
        let asked = Asked::of(&request)?;
        let _place = place(&self.0).map_err(status)?;
        let prepared = self.0.session(&asked.caller).prepare(&query.query).await;
        let prepared = prepared.map_err(status)?;
        let handle = Handle {
            prepared: query.query,
            row: None,
        };
        let sealed = asked.caller.tickets.seal(&handle).map_err(status)?;
        let schema = prepared.schema.map(|schema| schema_message(&sent(&schema)));
        let schema = schema.transpose().map_err(status)?;
        let parameters = schema_message(&prepared.parameters).map_err(status)?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: sealed.into(),
            dataset_schema: schema.unwrap_or_default(),
            parameter_schema: parameters,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        // Nothing is kept of it.
        Ok(())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_begin_savepoint(
        &self,
        _query: ActionBeginSavepointRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_savepoint(
        &self,
        _query: ActionEndSavepointRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let asked = Asked::of(&request)?;
        let info = FlightInfo::decode(query.info).unwrap_or_default();
        Ok(ActionCancelQueryResult {
            result: self.cancel(&asked, &info).await? as i32,
        })
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

fn answered(batch: Result<RecordBatch>) -> Rpc<Messages> {
    Ok(Response::new(whole(batch.map_err(status)?)))
}

fn no_foreign_keys() -> Rpc<Messages> {
    answered(Ok(RecordBatch::new_empty(metadata::foreign_keys_schema())))
}

/// Says which of several rows of parameters it was, and so what was committed before.
fn of_row(error: Status, at: usize, rows: &RecordBatch) -> Status {
    if rows.num_rows() == 1 {
        return error;
    }
    let message = format!(
        "{}. It was row {} of {} of the parameters; those before it are committed",
        error.message(),
        at + 1,
        rows.num_rows()
    );
    Status::with_metadata(error.code(), message, error.metadata().clone())
}
