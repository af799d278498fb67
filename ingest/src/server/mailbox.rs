//! Owns what others tell a lane: outcomes of its batches, loss of a producer, the node's end; does not act on it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidewell_engine::{AppendSink, Refusal};
use tokio::sync::Notify;

use super::memory::Budget;
use super::metrics::Metrics;
use crate::wire::ProducerId;

/// What a lane is told.
#[derive(Debug)]
pub(super) enum Letter {
    /// A batch ended.
    Settled(u64, Result<(), Refusal>),
    /// Another lane has resumed this producer.
    Fenced(ProducerId),
    /// The node begins to stop.
    Stopping,
}

/// What a batch in flight holds and will count for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlight {
    pub reserved: usize,
    pub payload: usize,
    pub rows: usize,
    pub values: usize,
}

/// One lane's mailbox. It outlives the lane until the last of its batches is settled, so that memory is given back
/// also for a connection that is gone. So it must not hold the endpoint.
pub(super) struct Mailbox {
    memory: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    letters: Vec<Letter>,
    in_flight: HashMap<u64, InFlight>,
}

impl Mailbox {
    pub fn new(memory: Arc<Budget>, metrics: Arc<Metrics>) -> Self {
        Self { memory, metrics, state: Mutex::default(), notify: Notify::new() }
    }

    /// Notes a batch before it is handed to the store, which may settle it at any moment after.
    pub fn expect(&self, ticket: u64, in_flight: InFlight) {
        self.metrics.in_flight_bytes.add(in_flight.reserved as u64);
        self.state.lock().in_flight.insert(ticket, in_flight);
    }

    /// The store did not take the batch: forgets it and gives its memory back.
    pub fn forget(&self, ticket: u64) {
        let held = self.state.lock().in_flight.remove(&ticket);
        self.give_back(held.unwrap_or_default());
    }

    fn give_back(&self, held: InFlight) {
        self.memory.release(held.reserved);
        self.metrics.in_flight_bytes.sub(held.reserved as u64);
    }

    /// Puts a letter in. The lane is woken by the first; it takes all at once.
    pub fn post(&self, letter: Letter) {
        let mut state = self.state.lock();
        state.letters.push(letter);
        let first = state.letters.len() == 1;
        drop(state);
        if first {
            self.notify.notify_one();
        }
    }

    /// Waits until there may be letters. Cancelling it loses nothing.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Moves all letters to `into`, which is empty.
    pub fn take(&self, into: &mut Vec<Letter>) {
        std::mem::swap(&mut self.state.lock().letters, into);
    }
}

impl AppendSink for Mailbox {
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>) {
        let mut state = self.state.lock();
        let held = state.in_flight.remove(&ticket).unwrap_or_default();
        let accepted = outcome.is_ok();
        state.letters.push(Letter::Settled(ticket, outcome));
        let first = state.letters.len() == 1;
        drop(state);
        self.give_back(held);
        if accepted {
            let metrics = &self.metrics;
            metrics.batches.add(1);
            metrics.rows.add(held.rows as u64);
            metrics.values.add(held.values as u64);
            metrics.bytes.add(held.payload as u64);
        }
        if first {
            self.notify.notify_one();
        }
    }
}
