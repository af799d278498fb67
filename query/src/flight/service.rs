//! Owns the Flight calls of the query address; does not compute answers or accept connections.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, SchemaAsIpc, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream, StreamExt};
use tidewell_engine::TableSchema;
use tonic::{Request, Response, Status, Streaming};

use super::actions::{self, Results};
use super::answer::{AnswerStream, answer};
use super::auth::{Authenticator, DeviceScope, Principal, Roles};
use super::connection::Connection;
use super::descriptor::{asked, question, ticket, whole_table};
use super::put::{Lanes, PutResults, put};
use super::running::{FlightLimits, Running};
use super::status::engine_status;
use super::store::Store;
use crate::export::rows_schema;
use crate::query::CancelFlag;

/// The Flight service over one store. Clones share it.
#[derive(Clone)]
pub struct FlightQueries {
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    limits: Arc<FlightLimits>,
    queries: Arc<Running>,
    actions: Arc<Running>,
    lanes: Arc<Lanes>,
}

impl FlightQueries {
    /// A service that answers from `store` whom `authenticator` knows.
    pub fn new(store: Arc<dyn Store>, authenticator: Arc<dyn Authenticator>, limits: FlightLimits) -> Self {
        Self {
            queries: Running::new(limits.queries, limits.turn_wait, store.memory()),
            actions: Running::new(limits.actions, limits.turn_wait, None),
            store,
            authenticator,
            limits: Arc::new(limits),
            lanes: Lanes::new(),
        }
    }

    /// Number of queries that run now.
    pub fn running_queries(&self) -> usize {
        self.queries.count()
    }

    pub(crate) fn running(&self) -> Arc<Running> {
        self.queries.clone()
    }

    pub(crate) fn limits(&self) -> Arc<FlightLimits> {
        self.limits.clone()
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Principal>, Status> {
        let authorization = match request.metadata().get("authorization") {
            None => None,
            Some(value) => {
                Some(value.to_str().map_err(|_| Status::unauthenticated("header 'authorization' is not ASCII text"))?)
            }
        };
        // Without our own listener (an embedding test) there is no connection to look at.
        let connection = request.extensions().get::<Connection>();
        let identified = match connection {
            Some(connection) => connection.identify(&*self.authenticator, authorization),
            None => {
                let credentials = super::auth::Credentials { certificate: None, authorization };
                self.authenticator.authenticate(&credentials)
            }
        };
        identified.map_err(|why| {
            let peer = connection.and_then(Connection::peer);
            tracing::debug!(?peer, why, "query address: caller refused");
            Status::unauthenticated(why)
        })
    }

    fn reader<T>(&self, request: &Request<T>, what: &str) -> Result<Arc<Principal>, Status> {
        let caller = self.caller(request)?;
        caller.require(Roles::READER, what)?;
        Ok(caller)
    }

    /// The ticket for a descriptor, and the columns of its answer.
    fn described(&self, descriptor: &FlightDescriptor, caller: &Principal) -> Result<(Ticket, Arc<Schema>), Status> {
        let (request, ticket) = asked(descriptor)?;
        let plan = self.store.plan(&request, &caller.devices, CancelFlag::default())?;
        Ok((ticket, plan.schema))
    }
}

/// Exactly one endpoint, which some clients insist on; no location, which means "here".
fn info(descriptor: FlightDescriptor, ticket: Ticket, schema: &Schema) -> Result<FlightInfo, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(ticket);
    Ok(FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(format!("cannot encode the schema: {error}")))?
        .with_descriptor(descriptor)
        .with_endpoint(endpoint)
        .with_ordered(true))
}

fn table_info(table: &TableSchema) -> Result<FlightInfo, Status> {
    let schema = rows_schema(table.fields.iter().map(|field| (&*field.name, field.field_type)));
    info(FlightDescriptor::new_path(vec![table.name.to_string()]), ticket(&whole_table(&table.name)), &schema)
}

/// Runs what may block on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Status::internal("the call panicked: this is a defect of the node, see its log")),
    }
}

#[tonic::async_trait]
impl FlightService for FlightQueries {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = AnswerStream;
    type DoPutStream = PutResults;
    type DoActionStream = Results;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented(
            "Handshake: there are no sessions; connect with a client certificate or send the header \
             'authorization: Bearer <token>' with each call",
        ))
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let caller = self.reader(&request, "ListFlights")?;
        if !request.get_ref().expression.is_empty() {
            return Err(Status::invalid_argument(
                "ListFlights: criteria are not supported; leave the expression empty",
            ));
        }
        let store = self.store.clone();
        let turn = self.actions.start("calls").await?;
        let flights = blocking(move || {
            let _turn = turn;
            let mut flights = Vec::new();
            for table in store.tables() {
                let visible = matches!(caller.devices, DeviceScope::All)
                    || store.has_devices(&table.name, &caller.devices).map_err(|error| engine_status(&error))?;
                if visible {
                    flights.push(table_info(&table)?);
                }
            }
            Ok(flights)
        })
        .await?;
        Ok(Response::new(stream::iter(flights.into_iter().map(Ok)).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let caller = self.reader(&request, "GetFlightInfo")?;
        let descriptor = request.into_inner();
        let (ticket, schema) = self.described(&descriptor, &caller)?;
        Ok(Response::new(info(descriptor, ticket, &schema)?))
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("PollFlightInfo: queries start at once; call GetFlightInfo and then DoGet"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let caller = self.reader(&request, "GetSchema")?;
        let (_, schema) = self.described(request.get_ref(), &caller)?;
        let result = SchemaResult::try_from(SchemaAsIpc::new(&schema, &IpcWriteOptions::default()))
            .map_err(|error| Status::internal(format!("cannot encode the schema: {error}")))?;
        Ok(Response::new(result))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let caller = self.reader(&request, "DoGet")?;
        let request = question(&request.get_ref().ticket)?;
        let query = self.queries.start("queries").await?;
        let plan = self.store.plan(&request, &caller.devices, query.state().cancel_flag())?;
        Ok(Response::new(answer(plan, query, self.limits.clone())))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let caller = self.caller(&request)?;
        caller.require(Roles::WRITER, "DoPut")?;
        let results = put(request.into_inner(), self.store.clone(), caller, &self.lanes, self.limits.clone()).await?;
        Ok(Response::new(results))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange: not available in this version; ask with DoGet"))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let caller = self.caller(&request)?;
        let action = request.into_inner();
        let kind = actions::admit(&action, &caller)?;
        let turn = self.actions.start("actions").await?;
        let store = self.store.clone();
        let results = blocking(move || {
            let _turn = turn;
            actions::run(kind, &action.body, &store, &caller)
        })
        .await?;
        Ok(Response::new(results))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.caller(&request)?;
        Ok(Response::new(stream::iter(actions::list().map(Ok)).boxed()))
    }
}
