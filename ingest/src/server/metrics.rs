//! Owns the counters of the ingest address; does not format or publish them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::wire::{CloseCode, RejectCode};

/// A number that rises, or a level that also falls.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes from it; for levels only.
    pub fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the ingest address has done since it started. Each field is exact on its own; together they are not one moment.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Level: connections with a verified certificate.
    pub connections: Counter,
    /// Connections that got that far.
    pub connections_total: Counter,
    /// Level: handshakes in flight.
    pub handshakes: Counter,
    /// Handshakes that failed: certificate, protocol, time.
    pub handshakes_failed: Counter,
    /// Connection attempts refused because a bound was reached.
    pub refused: Counter,
    /// Connection attempts that were asked to prove their address first.
    pub retried: Counter,
    /// Connections closed because their certificate was revoked.
    pub revoked: Counter,
    /// Level: lanes.
    pub lanes: Counter,
    /// Batches settled as accepted (durable, or received where asked for).
    pub batches: Counter,
    /// Rows in them.
    pub rows: Counter,
    /// Field values in them, nulls included.
    pub values: Counter,
    /// Payload bytes in them.
    pub bytes: Counter,
    /// Level: bytes of payloads and decoded rows between arrival and settlement.
    pub in_flight_bytes: Counter,
    /// How often a lane stopped reading because the memory bound was reached.
    pub memory_waits: Counter,
    /// How often a lane stopped reading because a shard's queue was full.
    pub queue_waits: Counter,
    nacks: Mutex<BTreeMap<&'static str, u64>>,
    lane_ends: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    pub(crate) fn nack(&self, code: RejectCode) {
        *self.nacks.lock().entry(code.name()).or_default() += 1;
    }

    pub(crate) fn lane_end(&self, code: CloseCode) {
        *self.lane_ends.lock().entry(code.name()).or_default() += 1;
    }

    /// Batches refused, by the name of the code.
    pub fn nacks(&self) -> BTreeMap<&'static str, u64> {
        self.nacks.lock().clone()
    }

    /// Lanes ended by the node, by the name of the code.
    pub fn lane_ends(&self) -> BTreeMap<&'static str, u64> {
        self.lane_ends.lock().clone()
    }
}

/// Keeps a level raised while it lives.
#[derive(Debug)]
pub(crate) struct Level<'a>(&'a Counter);

impl<'a> Level<'a> {
    pub fn raise(counter: &'a Counter) -> Self {
        counter.add(1);
        Self(counter)
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}
