//! Owns shards without threads: whoever holds them says which one takes its next turn. For simulations only.

use std::sync::Arc;

use crate::sync::{Mutex, RwLock};
use crossbeam_channel::{Receiver, TryRecvError};

use super::drive::Drive;
use super::turn::{FlushJob, Flushes, Worker};

/// All shards of an engine without threads.
#[derive(Default)]
pub(crate) struct Stepping {
    shards: RwLock<Vec<Arc<SteppedShard>>>,
}

/// One shard, moved by hand.
pub(crate) struct SteppedShard {
    /// `None` once it has ended.
    worker: Mutex<Option<Worker>>,
    flushes: Mutex<SteppedFlushes>,
}

struct SteppedFlushes {
    flushes: Flushes,
    jobs: Receiver<FlushJob>,
    /// Found no room on the disk; comes again before all others.
    put_back: Option<FlushJob>,
}

impl Stepping {
    /// How callers wait for these shards: they move them, each in turn.
    pub(super) fn drive(self: &Arc<Self>) -> Drive {
        let stepping = Arc::clone(self);
        Drive {
            turn: Some(Arc::new(move || {
                let shards = stepping.shards.read().clone();
                shards.iter().fold(false, |moved, shard| moved | shard.step_worker() | shard.step_flush())
            })),
        }
    }

    pub(super) fn add(&self, worker: Worker, flushes: Flushes, jobs: Receiver<FlushJob>) -> Arc<SteppedShard> {
        let flushes = SteppedFlushes { flushes, jobs, put_back: None };
        let shard = Arc::new(SteppedShard { worker: Mutex::new(Some(worker)), flushes: Mutex::new(flushes) });
        self.shards.write().push(Arc::clone(&shard));
        shard
    }

    pub(crate) fn shard(&self, shard: u32) -> Arc<SteppedShard> {
        Arc::clone(&self.shards.read()[shard as usize])
    }
}

impl SteppedShard {
    /// Takes what is queued as one group. False when there was nothing to do, or the shard is in the middle of a turn.
    pub(crate) fn step_worker(&self) -> bool {
        let Some(mut slot) = self.worker.try_lock() else { return false };
        let Some(worker) = slot.as_mut() else { return false };
        if worker.paused.as_ref().is_some_and(|resumed| resumed.try_recv() == Err(TryRecvError::Empty)) {
            return false;
        }
        worker.paused = None;
        let again = worker.put_back.is_some();
        let flushed = !worker.flushed.is_empty();
        // As a thread that waits for a flush, it takes nothing meanwhile.
        let waiting = worker.core.wants_seal(worker.clock.now_ns()) && !worker.core.may_seal() && !flushed;
        let command = match worker.put_back.take() {
            Some(command) => Some(command),
            None if waiting => return false,
            None => worker.commands.try_recv().ok(),
        };
        let sealed = worker.core.wants_seal(worker.clock.now_ns());
        let moved = command.is_some() && !again || flushed || sealed;
        if !worker.turn(command) {
            let worker = slot.take().expect("it has just had a turn");
            worker.end();
            return true;
        }
        moved || again && worker.put_back.is_none()
    }

    /// Does the next flush. False when none is due, none could be done, or one is being done.
    pub(crate) fn step_flush(&self) -> bool {
        let Some(mut slot) = self.flushes.try_lock() else { return false };
        let SteppedFlushes { flushes, jobs, put_back } = &mut *slot;
        let Some(job) = put_back.take().or_else(|| jobs.try_recv().ok()) else { return false };
        *put_back = flushes.turn(job);
        put_back.is_none()
    }

    /// Whether the worker has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.worker.try_lock().is_some_and(|worker| worker.is_none())
    }
}
