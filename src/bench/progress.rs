//! Owns what is watched while rows are sent: rate and latency of each interval, the node's memory; does not send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewell_ingest::client::Client;

use super::{histogram, milliseconds, round};
use crate::child::memory_of;

/// How often the node's memory is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Latencies of the present interval, and of all.
pub(super) struct Latencies {
    recent: Mutex<Histogram<u64>>,
    all: Mutex<Histogram<u64>>,
}

impl Latencies {
    pub fn new() -> Self {
        Self { recent: Mutex::new(histogram()), all: Mutex::new(histogram()) }
    }

    pub fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.recent.lock().saturating_record(us.max(1));
    }

    /// Ends the interval; gives its latencies.
    fn turn(&self) -> Histogram<u64> {
        let recent = std::mem::replace(&mut *self.recent.lock(), histogram());
        self.all.lock().add(&recent).expect("both have the same bounds");
        recent
    }

    /// Milliseconds over all intervals.
    pub fn all(&self) -> Value {
        self.turn();
        milliseconds(&self.all.lock())
    }
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    pub intervals: Vec<Value>,
    /// Most anonymous and resident bytes of the node.
    pub anonymous: u64,
    pub resident: u64,
}

/// Watches until `stop` is set; an interval that is not whole is left out, unless it is the only one.
pub(super) async fn watch(
    clients: Vec<Client>,
    latencies: Arc<dyn AsRef<Latencies> + Send + Sync>,
    every: Duration,
    node: Option<u32>,
    stop: Arc<AtomicBool>,
) -> Seen {
    let rows = || -> u64 { clients.iter().map(|c| c.stats().rows.load(Ordering::Relaxed)).sum() };
    let mut seen = Seen::default();
    let (mut since, mut before) = (Instant::now(), rows());
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some((anonymous, resident)) = node.and_then(memory_of) {
            seen.anonymous = seen.anonymous.max(anonymous);
            seen.resident = seen.resident.max(resident);
        }
        let stopping = stop.load(Ordering::Relaxed);
        if since.elapsed() >= every || (stopping && seen.intervals.is_empty()) {
            let (now, seconds) = (rows(), since.elapsed().as_secs_f64());
            seen.intervals.push(json!({
                "seconds": round(seconds, 1),
                "rows_per_second": round((now - before) as f64 / seconds, 0),
                "ack_ms": milliseconds(&(*latencies).as_ref().turn()),
                "node_anonymous_bytes": node.and_then(memory_of).map(|(anonymous, _)| anonymous),
            }));
            (since, before) = (Instant::now(), now);
        }
        if stopping {
            return seen;
        }
    }
}
