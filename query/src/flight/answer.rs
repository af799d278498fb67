//! Owns the way of record batches from a computing thread to the wire, with bounded memory; does not compute them.
//!
//! A query that is known to be small is computed where its call arrived, which saves two thread wake-ups (about
//! 60 µs). Any other goes to a blocking thread that is at most [`BATCHES_AHEAD`] batches ahead of the wire.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::encode::{FlightDataEncoder, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::utils::batches_to_flight_data;
use futures::{FutureExt, Stream, StreamExt};
use serde_json::json;
use tidewell_engine::{DamagedPlace, Skipped};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::Status;

use super::actions::time_text;
use super::running::{FlightLimits, QueryState, RunningQuery, Stop};
use super::store::{Batches, Plan};

/// Batches that wait between the computing thread and the wire.
const BATCHES_AHEAD: usize = 2;
/// One message on the wire, about.
const MESSAGE_BYTES: usize = 2 << 20;
/// A query that was taken for small moves to a blocking thread when it is not done after this time.
const INLINE_TIME: Duration = Duration::from_millis(1);
/// Batches that a small query may give before it moves to a blocking thread.
const INLINE_BATCHES: usize = 4;

/// How often a query that waits for its client looks whether it may.
const LOOK: Duration = Duration::from_millis(50);

/// Starts computing and returns the answer as Flight messages. Dropping the stream stops the computation.
pub(crate) fn answer(plan: Plan, query: RunningQuery, limits: Arc<FlightLimits>) -> AnswerStream {
    let Plan { schema, small, mut batches, skipped, pins } = plan;
    let state = query.state().clone();
    state.pin(pins);
    let mut first = Vec::new();
    let mut ended = false;
    if small {
        let start = Instant::now();
        while !ended && first.len() < INLINE_BATCHES && start.elapsed() < INLINE_TIME {
            match step(&state, &mut batches) {
                Some(batch) => {
                    ended = batch.is_err();
                    first.push(batch);
                }
                None => ended = true,
            }
        }
    }
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    if ended {
        // Iterator, permit and snapshot go before the first byte is sent.
        drop((batches, query, sender));
    } else {
        let limits = limits.clone();
        let handle = Handle::current();
        handle.clone().spawn_blocking(move || produce(batches, &query, &sender, &limits, &handle));
    }
    let input = BatchStream { first: first.into_iter(), receiver, state: state.clone(), limits: limits.clone() };
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(schema.clone())
        .with_max_flight_data_size(MESSAGE_BYTES)
        .build(input);
    AnswerStream { messages, _guard: StopOnDrop(state.clone()), state, schema, limits, tick: None, skipped }
}

/// Computes one batch. A panic becomes an error of this query alone.
fn step(state: &QueryState, batches: &mut Batches) -> Option<Result<RecordBatch, Status>> {
    let batch = state.compute(|| catch_unwind(AssertUnwindSafe(|| batches.next())));
    match batch {
        Ok(Some(batch)) => Some(batch),
        Ok(None) => {
            state.complete();
            None
        }
        Err(_) => Some(Err(Status::internal("the query panicked: this is a defect of the node, see its log"))),
    }
}

fn produce(
    mut batches: Batches,
    query: &RunningQuery,
    sender: &mpsc::Sender<Result<RecordBatch, Status>>,
    limits: &FlightLimits,
    handle: &Handle,
) {
    let state = query.state();
    loop {
        if state.computed() > limits.compute {
            state.stop(Stop::TimeLimit);
        }
        if state.stopped() != Stop::None {
            return;
        }
        let Some(batch) = step(state, &mut batches) else { return };
        let last = batch.is_err();
        match sender.try_send(batch) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return state.stop(Stop::ClientGone),
            Err(mpsc::error::TrySendError::Full(batch)) => {
                if let Err(why) = state.wait_for_client(|| wait(batch, query, sender, limits, handle)) {
                    return state.stop(why);
                }
            }
        }
        query.relieve();
        if last {
            return;
        }
    }
}

/// Waits until the client has taken enough for one more batch. What the query keeps in memory may be needed meanwhile.
fn wait(
    mut batch: Result<RecordBatch, Status>,
    query: &RunningQuery,
    sender: &mpsc::Sender<Result<RecordBatch, Status>>,
    limits: &FlightLimits,
    handle: &Handle,
) -> Result<(), Stop> {
    let begin = Instant::now();
    loop {
        match handle.block_on(async { sender.send_timeout(batch, LOOK.min(limits.stall)).await }) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(Stop::ClientGone),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) if begin.elapsed() >= limits.stall => {
                return Err(Stop::Stalled);
            }
            Err(mpsc::error::SendTimeoutError::Timeout(same)) => batch = same,
        }
        query.relieve();
        match query.state().stopped() {
            Stop::None => {}
            why => return Err(why),
        }
    }
}

/// What the encoder reads: batches computed in place, then those of the thread, then how it ended.
struct BatchStream {
    first: std::vec::IntoIter<Result<RecordBatch, Status>>,
    receiver: mpsc::Receiver<Result<RecordBatch, Status>>,
    state: Arc<QueryState>,
    limits: Arc<FlightLimits>,
}

impl Stream for BatchStream {
    type Item = Result<RecordBatch, FlightError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let batch = match self.first.next() {
            Some(batch) => Some(batch),
            None => std::task::ready!(self.receiver.poll_recv(cx)),
        };
        Poll::Ready(match batch {
            Some(Ok(batch)) => Some(Ok(batch)),
            // A scan that was asked to stop reports that it was; why it was asked is the better answer.
            Some(Err(status)) => Some(Err(match self.state.stopped() {
                Stop::None => status,
                _ => self.state.outcome(&self.limits).err().unwrap_or(status),
            }
            .into())),
            None => self.state.outcome(&self.limits).err().map(|status| Err(status.into())),
        })
    }
}

struct StopOnDrop(Arc<QueryState>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // After a complete answer nobody looks at the flag any more.
        self.0.stop(Stop::ClientGone);
    }
}

/// The messages of one answer.
pub struct AnswerStream {
    messages: FlightDataEncoder,
    state: Arc<QueryState>,
    schema: SchemaRef,
    limits: Arc<FlightLimits>,
    /// Runs only while the stream is quiet, so that a small answer never touches the timer.
    tick: Option<Pin<Box<Sleep>>>,
    /// What the answer went without; told behind its last row.
    skipped: Option<Arc<Skipped>>,
    _guard: StopOnDrop,
}

impl AnswerStream {
    /// The time until something is due while the stream is quiet: a sign of life, or the end of its time.
    fn next_tick(&self) -> Duration {
        self.limits.compute.saturating_sub(self.state.computed()).min(self.limits.keep_alive)
    }
}

impl Stream for AnswerStream {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(message) = self.messages.poll_next_unpin(cx) {
            self.tick = None;
            if message.is_none()
                && let Some(skipped) = self.skipped.take().filter(|skipped| !skipped.is_empty())
            {
                return Poll::Ready(Some(told(&self.schema, &skipped)));
            }
            return Poll::Ready(message.map(|message| message.map_err(Status::from)));
        }
        loop {
            let wait = self.next_tick();
            let tick = self.tick.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            std::task::ready!(tick.poll_unpin(cx));
            self.tick = None;
            if self.state.computed() >= self.limits.compute {
                // The scan looks at its flag within milliseconds, ends, and the reason comes out of the encoder.
                self.state.stop(Stop::TimeLimit);
                return Poll::Pending;
            }
            if wait >= self.limits.keep_alive {
                return Poll::Ready(Some(sign_of_life(&self.schema)));
            }
        }
    }
}

/// What the answer went without, in an empty batch: clients that look at rows only are not disturbed.
fn told(schema: &SchemaRef, skipped: &Skipped) -> Result<FlightData, Status> {
    let (places, more) = skipped.places();
    let places: Vec<_> = places.iter().map(place_json).collect();
    let metadata = json!({"damage": {"places": places, "more": more}});
    Ok(sign_of_life(schema)?.with_app_metadata(metadata.to_string()))
}

/// A place that cannot be read, as answers and `stats` name it.
pub(crate) fn place_json(place: &DamagedPlace) -> serde_json::Value {
    json!({
        "path": place.path,
        "offset": place.offset,
        "table": place.table,
        "device": place.device,
        "first": time_text(place.first_ns),
        "last": time_text(place.last_ns),
        "rows": if place.rows == 0 { None } else { Some(place.rows) },
        "cause": place.cause,
    })
}

/// An empty record batch as a message.
fn sign_of_life(schema: &SchemaRef) -> Result<FlightData, Status> {
    let messages = batches_to_flight_data(schema, vec![RecordBatch::new_empty(schema.clone())])
        .map_err(|error| Status::internal(format!("cannot encode an empty batch: {error}")))?;
    messages.into_iter().last().ok_or_else(|| Status::internal("an empty batch encoded to nothing"))
}
