//! Owns DoPut: bulk rows of a client, acknowledged when durable; does not convert them.
//!
//! Each call takes a **lane**: a producer of this process with rising numbers, since the engine keeps a head for every
//! producer it ever saw. A call that breaks off is simply repeated: rows with the same key replace themselves.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::json;
use tidewell_codec::{Batch, Tier, encode_batch};
use tidewell_engine::{Append, AppendSink, Durability, ProducerId, Refusal, SeqNo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;

use super::auth::Principal;
use super::descriptor::question;
use super::rows::Incoming;
use super::running::FlightLimits;
use super::status::refusal_status;
use super::store::Store;

/// DoPut calls at a time.
const LANES: usize = 8;
/// Record batches of a call whose acknowledgements are awaited.
const BATCHES_AHEAD: usize = 4;

/// The answer to a DoPut call.
pub(crate) type PutResults = BoxStream<'static, Result<PutResult, Status>>;

/// The lanes of a service.
pub(crate) struct Lanes {
    free: Mutex<Vec<Lane>>,
    turns: Arc<Semaphore>,
}

struct Lane {
    producer: ProducerId,
    seq: u64,
}

impl Lane {
    fn new() -> Self {
        Self { producer: ProducerId(random()), seq: 0 }
    }
}

impl Lanes {
    pub(crate) fn new() -> Arc<Self> {
        let free = std::iter::repeat_with(Lane::new).take(LANES).collect();
        Arc::new(Self { free: Mutex::new(free), turns: Arc::new(Semaphore::new(LANES)) })
    }

    async fn take(self: &Arc<Self>, wait: Duration) -> Result<TakenLane, Status> {
        let Ok(Ok(permit)) = tokio::time::timeout(wait, self.turns.clone().acquire_owned()).await else {
            return Err(Status::resource_exhausted(format!(
                "{LANES} DoPut calls run already, the most that this node allows; try again later"
            )));
        };
        let lane = self.free.lock().pop().expect("there are as many lanes as permits");
        Ok(TakenLane { lane: Some(lane), lanes: self.clone(), clean: false, _permit: permit })
    }
}

/// A lane in use; goes back when dropped, before its permit does.
struct TakenLane {
    lane: Option<Lane>,
    lanes: Arc<Lanes>,
    /// Whether every batch was acknowledged. After a refusal the engine waits for the refused number, so such a lane
    /// goes on under another name.
    clean: bool,
    _permit: OwnedSemaphorePermit,
}

impl TakenLane {
    fn next(&mut self) -> (ProducerId, SeqNo) {
        let lane = self.lane.as_mut().expect("a lane is there until it is dropped");
        lane.seq += 1;
        (lane.producer, SeqNo(lane.seq))
    }
}

impl Drop for TakenLane {
    fn drop(&mut self) {
        let lane = self.lane.take().filter(|_| self.clean).unwrap_or_else(Lane::new);
        self.lanes.free.lock().push(lane);
    }
}

/// 128 random bits: the standard library seeds its hash maps from the system.
fn random() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = || u128::from(RandomState::new().hash_one(std::process::id()));
    half() << 64 | half()
}

/// Takes the rows of one call. The answer has one message per record batch, once all rows so far are durable.
pub(crate) async fn put(
    mut incoming: impl Stream<Item = Result<FlightData, Status>> + Send + Unpin + 'static,
    store: Arc<dyn Store>,
    caller: Arc<Principal>,
    lanes: &Arc<Lanes>,
    limits: Arc<FlightLimits>,
) -> Result<PutResults, Status> {
    let Some(first) = incoming.next().await.transpose()? else {
        return Err(Status::invalid_argument("DoPut: the call has no message; expected a schema with a descriptor"));
    };
    let table = table(first.flight_descriptor.as_ref())?;
    let lane = lanes.take(limits.turn_wait).await?;
    let batches = record_batches(stream::once(async { Ok(first) }).chain(incoming));
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let wait = limits.stall;
    tokio::spawn(async move {
        let call = Call { table, store, caller, lane, stall: limits.stall };
        let last = match call.run(batches, &sender).await {
            Ok(lane) => Step::Done(lane),
            Err(status) => Step::Failed(status),
        };
        // A client that has gone needs no last word.
        let _ = sender.send_timeout(last, wait).await;
    });
    Ok(acknowledge(receiver, wait).boxed())
}

/// One DoPut call.
struct Call {
    table: String,
    store: Arc<dyn Store>,
    caller: Arc<Principal>,
    lane: TakenLane,
    stall: Duration,
}

/// What happens to a call, in order.
enum Step {
    /// The rows of a record batch were handed to the engine.
    Sent { rows: u64, fates: Vec<Fate> },
    /// Nothing more comes, because of this.
    Failed(Status),
    /// The client has sent all. Whoever hears the last acknowledgement gives the lane back.
    Done(TakenLane),
}

/// How one engine batch ends.
type Fate = oneshot::Receiver<Result<(), Refusal>>;

impl Call {
    async fn run(
        mut self,
        mut batches: FlightRecordBatchStream,
        sender: &mpsc::Sender<Step>,
    ) -> Result<TakenLane, Status> {
        let mut incoming: Option<Arc<Incoming>> = None;
        loop {
            let rows = tokio::time::timeout(self.stall, next(&mut batches)).await.map_err(|_| {
                Status::deadline_exceeded(format!("DoPut: no message for {} s", self.stall.as_secs_f64()))
            })??;
            if incoming.is_none()
                && let Some(schema) = batches.schema()
            {
                incoming = Some(Arc::new(Incoming::new(&self.table, schema)?));
            }
            let (Some(rows), Some(incoming)) = (rows, incoming.as_ref()) else { return Ok(self.lane) };
            let count = rows.num_rows() as u64;
            let (incoming, store, caller) = (incoming.clone(), self.store.clone(), self.caller.clone());
            let encoded = tokio::task::spawn_blocking(move || encode(&incoming, &rows, &*store, &caller));
            let encoded =
                encoded.await.map_err(|_| Status::internal("DoPut panicked: this is a defect of the node"))??;
            let fates: Result<Vec<Fate>, Status> =
                encoded.into_iter().map(|(batch, payload)| self.append(batch, payload)).collect();
            if sender.send_timeout(Step::Sent { rows: count, fates: fates? }, self.stall).await.is_err() {
                return Err(Status::deadline_exceeded("DoPut: the client does not read acknowledgements"));
            }
        }
    }

    fn append(&mut self, batch: Batch, payload: Bytes) -> Result<Fate, Status> {
        let (producer, seq) = self.lane.next();
        let (teller, told) = oneshot::channel();
        self.store
            .append(Append {
                producer,
                seq,
                payload,
                batch,
                received_ns: self.store.now_ns(),
                durability: Durability::Durable,
                ticket: 0,
                sink: Arc::new(Teller(Mutex::new(Some(teller)))),
            })
            .map_err(|refusal| refusal_status(&refusal))?;
        Ok(told)
    }
}

/// The record batches in the messages of a call.
fn record_batches(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> FlightRecordBatchStream {
    let messages = messages.map(|message| uncompressed(message?));
    FlightRecordBatchStream::new_from_flight_data(messages.map(|m| m.map_err(FlightError::from)))
}

/// The next record batch. After an error there is no other.
async fn next(batches: &mut FlightRecordBatchStream) -> Result<Option<RecordBatch>, Status> {
    // The decoder takes lengths and types of a message at their word, and panics where they are wrong.
    let next = AssertUnwindSafe(batches.next()).catch_unwind().await.map_err(|_| {
        Status::invalid_argument("DoPut: a message contradicts itself: its buffers or types are not what it says")
    })?;
    next.transpose().map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(format!("DoPut: {other}")),
    })
}

/// What a call with these messages would hand to the engine of `shard_count` shards: the way of a call without its turn,
/// its checks against tables and its acknowledgements.
///
/// # Errors
/// The status that ends such a call.
pub fn put_batches(table: &str, messages: Vec<FlightData>, shard_count: u32) -> Result<Vec<Batch>, Status> {
    let caller = Principal::admin("local");
    let mut stream = record_batches(stream::iter(messages.into_iter().map(Ok)));
    let (mut incoming, mut taken) = (None, Vec::new());
    // All messages are there, so nothing is waited for.
    while let Some(rows) = next(&mut stream).now_or_never().transpose()?.flatten() {
        if incoming.is_none()
            && let Some(schema) = stream.schema()
        {
            incoming = Some(Incoming::new(table, schema)?);
        }
        if let Some(incoming) = &incoming {
            taken.extend(incoming.batches(&rows, shard_count, &caller)?);
        }
    }
    Ok(taken)
}

/// Checks and encodes the rows of one record batch. Blocks.
fn encode(
    incoming: &Incoming,
    rows: &RecordBatch,
    store: &dyn Store,
    caller: &Principal,
) -> Result<Vec<(Batch, Bytes)>, Status> {
    let batches = incoming.batches(rows, store.shard_count(), caller)?;
    // All are checked before the first is handed on, so that a mistake refuses the record batch as a whole.
    batches.iter().try_for_each(|batch| store.check(batch)).map_err(|refusal| refusal_status(&refusal))?;
    let encode = |batch: Batch| {
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        (batch, Bytes::from(payload))
    };
    Ok(batches.into_iter().map(encode).collect())
}

/// Hears of one batch's fate, on the shard's thread.
struct Teller(Mutex<Option<oneshot::Sender<Result<(), Refusal>>>>);

impl AppendSink for Teller {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        if let Some(teller) = self.0.lock().take() {
            // Nobody listens any more when the call has ended.
            let _ = teller.send(outcome);
        }
    }
}

/// The acknowledgements of a call: after the first error nothing more.
fn acknowledge(receiver: mpsc::Receiver<Step>, wait: Duration) -> impl Stream<Item = Result<PutResult, Status>> + Send {
    stream::unfold((Some(receiver), 0), move |(receiver, durable)| async move {
        let mut receiver = receiver?;
        let durable = match receiver.recv().await {
            Some(Step::Sent { rows, fates }) => settled(fates, wait).await.map(|()| durable + rows),
            Some(Step::Failed(status)) => Err(status),
            // Whoever takes rows always has a last word; without it an end would pass for success.
            None => Err(Status::internal("DoPut ended without a result: this is a defect of the node")),
            Some(Step::Done(mut lane)) => {
                lane.clean = true;
                return None;
            }
        };
        Some(match durable {
            Ok(rows) => {
                let result = PutResult { app_metadata: json!({"rows": rows}).to_string().into() };
                (Ok(result), (Some(receiver), rows))
            }
            Err(status) => (Err(status), (None, 0)),
        })
    })
}

/// Waits until all engine batches of a record batch are durable.
async fn settled(fates: Vec<Fate>, wait: Duration) -> Result<(), Status> {
    for fate in fates {
        match tokio::time::timeout(wait, fate).await {
            Ok(Ok(outcome)) => outcome.map_err(|refusal| refusal_status(&refusal))?,
            Ok(Err(_)) => return Err(Status::unavailable("the node is shutting down; send the rows again")),
            Err(_) => return Err(Status::unavailable("the disk takes too long; send the rows again")),
        }
    }
    Ok(())
}

/// The table of a DoPut call.
fn table(descriptor: Option<&FlightDescriptor>) -> Result<String, Status> {
    let Some(descriptor) = descriptor else {
        return Err(Status::invalid_argument("DoPut: the first message has no descriptor; expected PATH with a table"));
    };
    match (descriptor.r#type(), descriptor.path.as_slice()) {
        (DescriptorType::Path, [table]) => Ok(table.clone()),
        (DescriptorType::Path, path) => Err(Status::invalid_argument(format!(
            "DoPut: path of {} parts; expected one, the name of a table",
            path.len()
        ))),
        _ => {
            // Flight SQL's commands get the answer that all of them get.
            question(&descriptor.cmd)?;
            Err(Status::invalid_argument("DoPut: a question takes no rows; expected PATH with a table"))
        }
    }
}

/// Refuses compressed messages: the length that they claim to have is the sender's word.
fn uncompressed(message: FlightData) -> Result<FlightData, Status> {
    let header = arrow::ipc::root_as_message(&message.data_header)
        .map_err(|error| Status::invalid_argument(format!("DoPut: a message header cannot be read: {error}")))?;
    let compressed = header.header_as_record_batch().is_some_and(|batch| batch.compression().is_some());
    if compressed || header.header_as_dictionary_batch().is_some() {
        return Err(Status::invalid_argument(
            "DoPut: compressed and dictionary messages are not taken; send plain record batches",
        ));
    }
    Ok(message)
}
