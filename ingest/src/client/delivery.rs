//! Owns the fate of a sent batch as its sender sees it; does not send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::RejectCode;

/// A batch, or a part of one, that the node refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows of {device:?} and others were refused: {code}: {message}")]
pub struct Rejected {
    /// Which rule; `Internal` when the client itself gave up.
    pub code: RejectCode,
    /// What, where, expected, found.
    pub message: String,
    /// The first device of the part.
    pub device: String,
    /// Rows of the part.
    pub rows: u32,
}

/// A part that is settled, for whoever measures.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// Its rows.
    pub rows: u32,
    /// Its payload bytes.
    pub payload_bytes: usize,
    /// When `send` took it, after waiting for room.
    pub accepted_at: Instant,
    /// When it was first given to the transport.
    pub sent_at: Instant,
    /// When its acknowledgement was read.
    pub settled_at: Instant,
}

/// Is told what happens; called from the client's tasks, so it must not block.
pub trait Observer: Send + Sync {
    /// A part is acknowledged.
    fn settled(&self, settled: &Settled) {
        let _ = settled;
    }

    /// A part is refused for good: its rows are not in the node and will not be.
    fn rejected(&self, rejected: &Rejected) {
        let _ = rejected;
    }

    /// The connection was lost or could not be made; the client tries again after `retry_in`.
    fn disconnected(&self, reason: &str, retry_in: std::time::Duration) {
        let _ = (reason, retry_in);
    }

    /// Connected, for the first time or again.
    fn connected(&self) {}
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// Resolves when all parts of a batch are settled. Dropping it changes nothing: the batch is sent all the same, and
/// [`Client::flush`](super::Client::flush) waits for it.
#[derive(Clone, Debug)]
pub struct Delivery(Arc<State>);

#[derive(Debug)]
struct State {
    open: AtomicUsize,
    rejected: Mutex<Option<Rejected>>,
    done: Notify,
}

impl Delivery {
    pub(super) fn new(parts: usize) -> Self {
        Self(Arc::new(State { open: AtomicUsize::new(parts), rejected: Mutex::new(None), done: Notify::new() }))
    }

    pub(super) fn part_done(&self, outcome: Result<(), Rejected>) {
        if let Err(rejected) = outcome {
            self.0.rejected.lock().get_or_insert(rejected);
        }
        // Release, so that who sees zero sees the refusal too.
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.done.notify_waiters();
        }
    }

    /// Whether all parts are settled.
    pub fn is_done(&self) -> bool {
        self.0.open.load(Ordering::Acquire) == 0
    }

    /// Waits until every part is acknowledged or refused.
    ///
    /// # Errors
    /// The first refusal. Other parts of the batch may have been accepted.
    pub async fn wait(&self) -> Result<(), Rejected> {
        loop {
            let notified = self.0.done.notified();
            tokio::pin!(notified);
            // Registered before looking, or the last part could end in between.
            notified.as_mut().enable();
            if self.is_done() {
                return self.0.rejected.lock().clone().map_or(Ok(()), Err);
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivery_waits_for_all_parts_and_keeps_the_first_refusal() {
        let delivery = Delivery::new(3);
        let waiter = tokio::spawn({
            let delivery = delivery.clone();
            async move { delivery.wait().await }
        });
        let rejected = |message: &str| Rejected {
            code: RejectCode::TypeConflict,
            message: message.into(),
            device: "a".into(),
            rows: 1,
        };
        delivery.part_done(Ok(()));
        delivery.part_done(Err(rejected("first")));
        tokio::task::yield_now().await;
        assert!(!delivery.is_done() && !waiter.is_finished());
        delivery.part_done(Err(rejected("second")));
        assert_eq!(waiter.await.unwrap().unwrap_err().message, "first");
        assert!(delivery.wait().await.is_err(), "asking again gives the same");
    }
}
