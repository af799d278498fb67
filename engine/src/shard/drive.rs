//! Owns what a caller does until a shard answers: it sleeps while the shard's threads work. Without threads, in a
//! simulation, it moves the shards itself.

use std::time::Instant;

use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, SendError, Sender};

/// How a caller waits for a shard.
#[derive(Clone, Default)]
pub struct Drive {
    /// Moves the shards by a turn; false when none had anything to do.
    #[cfg(feature = "simulation")]
    pub(super) turn: Option<std::sync::Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Drive {
    /// Sends once there is room.
    pub fn send<T>(&self, to: &Sender<T>, message: T) -> Result<(), SendError<T>> {
        self.until(|| !to.is_full());
        to.send(message)
    }

    /// Receives once something is there.
    pub fn recv<T>(&self, from: &Receiver<T>) -> Result<T, RecvError> {
        if self.until(|| !from.is_empty()) { from.recv() } else { from.try_recv().map_err(|_| RecvError) }
    }

    /// As [`Self::recv`], until `deadline`.
    pub fn recv_deadline<T>(&self, from: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
        if self.until(|| !from.is_empty()) {
            from.recv_deadline(deadline)
        } else {
            from.try_recv().map_err(|_| RecvTimeoutError::Timeout)
        }
    }

    /// Moves the shards until `done`. False when they have come to a stop before; with threads, whoever waits next sleeps.
    #[cfg(feature = "simulation")]
    fn until(&self, done: impl Fn() -> bool) -> bool {
        /// Turns without progress after which nothing more will come: a full disk may be full for some of them.
        const IDLE_TURNS_MAX: u32 = 1_000;
        let Some(turn) = &self.turn else { return true };
        let mut idle = 0;
        while !done() && idle < IDLE_TURNS_MAX {
            idle = if turn() { 0 } else { idle + 1 };
        }
        done()
    }

    #[cfg(not(feature = "simulation"))]
    fn until(&self, _: impl Fn() -> bool) -> bool {
        true
    }
}
