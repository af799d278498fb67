//! Owns the way into a running shard, and its two threads: they wait, `turn` does what is due when they need not.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};

use super::append::Append;
use super::core::{LogHold, ShardCore};
use super::drive::Drive;
use super::turn::{Command, FlushJob, Flushes, Worker};
use crate::clock::Clock;
use crate::error::{Error, Refusal, RefusalCode, Result};
use crate::types::{LogPosition, ProducerId, SeqNo};
use crate::upkeep::flush::Flusher;

/// How often an idle shard looks at the age of its memtable.
const TICK: Duration = Duration::from_millis(200);

/// How long a flush waits before it tries again, on a full disk or without descriptors.
const FLUSH_PAUSE: Duration = Duration::from_millis(500);

/// Who moves the shards of an engine.
#[derive(Clone, Default)]
pub(crate) enum Run {
    /// Two threads each.
    #[default]
    Threads,
    /// The caller.
    #[cfg(feature = "simulation")]
    Steps(Arc<super::stepped::Stepping>),
}

/// A running shard.
pub struct ShardHandle {
    sender: ShardSender,
    worker: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
    #[cfg(feature = "simulation")]
    stepped: Option<Arc<super::stepped::SteppedShard>>,
}

/// The way into a running shard.
#[derive(Clone)]
pub struct ShardSender {
    queue: Sender<Command>,
    drive: Drive,
}

/// The answer to a flush that is under way.
pub struct FlushWait {
    answer: Receiver<Result<()>>,
    drive: Drive,
}

impl ShardHandle {
    /// Starts `core`.
    pub(crate) fn start(
        shard: u32,
        core: ShardCore,
        flusher: Flusher,
        clock: Arc<dyn Clock>,
        queue_batches: usize,
        run: &Run,
    ) -> Self {
        let (queue, commands) = bounded(queue_batches);
        // The number of jobs is bounded by the sealed memtables that a shard may have.
        let (jobs_to, jobs) = unbounded();
        let (flushed_to, flushed) = unbounded();
        let stopping = Arc::clone(&flusher.stopping);
        let flushes = Flushes::new(flusher, flushed_to, Arc::clone(&clock));
        let waits = matches!(run, Run::Threads);
        let worker = Worker { core, commands, jobs: jobs_to, flushed, clock, waits, put_back: None, paused: None };
        #[cfg(feature = "simulation")]
        if let Run::Steps(stepping) = run {
            let stepped = Some(stepping.add(worker, flushes, jobs));
            let sender = ShardSender { queue, drive: stepping.drive() };
            return Self { sender, worker: None, flusher: None, stepped };
        }
        let flusher = spawn(format!("shard-{shard}-flush"), move || run_flushes(flushes, &jobs));
        let worker = spawn(format!("shard-{shard}"), move || run_worker(worker, &stopping));
        let sender = ShardSender { queue, drive: Drive::default() };
        Self {
            sender,
            worker: Some(worker),
            flusher: Some(flusher),
            #[cfg(feature = "simulation")]
            stepped: None,
        }
    }

    /// The way in.
    pub fn sender(&self) -> ShardSender {
        self.sender.clone()
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&mut self) {
        // A closed queue means that the worker has ended already.
        let _ = self.sender.send(Command::Stop);
        #[cfg(feature = "simulation")]
        if let Some(stepped) = self.stepped.take() {
            while !stepped.has_ended() && stepped.step_worker() | stepped.step_flush() {}
        }
        for thread in [self.worker.take(), self.flusher.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a shard thread panicked");
            }
        }
    }
}

impl ShardSender {
    /// Hands a batch over; refuses when the queue is full.
    ///
    /// # Errors
    /// `Overloaded`, or `ShuttingDown` when the shard is gone; the sink is not told then.
    pub fn append(&self, append: Append) -> Result<(), Refusal> {
        self.queue.try_send(Command::Append(append)).map_err(|error| match error {
            TrySendError::Full(_) => {
                Refusal::new(RefusalCode::Overloaded, "the shard's queue is full; send again later")
            }
            TrySendError::Disconnected(_) => Refusal::new(RefusalCode::ShuttingDown, "the node is going down"),
        })
    }

    /// Says that a batch will not come again. Blocks while the queue is full: the order of commands matters.
    pub fn skip(&self, producer: ProducerId, seq: SeqNo) {
        // A closed shard waits for nothing.
        let _ = self.send(Command::Skip(producer, seq));
    }

    /// Starts to put everything that was acknowledged into segments.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn flush(&self) -> Result<FlushWait> {
        self.flush_then(|_| Ok(()))
    }

    /// As [`Self::flush`], and does `then` when the rows are in segments, before any later flush.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn flush_then(&self, then: impl FnOnce(&mut Flusher) -> Result<()> + Send + 'static) -> Result<FlushWait> {
        let (reply, answer) = bounded(1);
        self.send(Command::Flush(Box::new(then), reply))?;
        Ok(FlushWait { answer, drive: self.drive.clone() })
    }

    /// Keeps the log's files until the hold goes; everything acknowledged before the call lies before the position.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn hold_log(&self) -> Result<(LogPosition, Arc<LogHold>)> {
        let (reply, answer) = bounded(1);
        self.send(Command::HoldLog(reply))?;
        self.drive.recv(&answer).map_err(|_| closed())
    }

    /// Puts everything that was acknowledged into segments, then stands still until the other end of `resumed` goes.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn pause(&self, resumed: Receiver<()>) -> Result<FlushWait> {
        let (reply, answer) = bounded(1);
        self.send(Command::Pause(resumed, reply))?;
        Ok(FlushWait { answer, drive: self.drive.clone() })
    }

    /// Batches in the queue.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Blocks while the queue is full.
    fn send(&self, command: Command) -> Result<()> {
        self.drive.send(&self.queue, command).map_err(|_| closed())
    }
}

impl FlushWait {
    /// Blocks until the rows are in segments and what was to be done then is done.
    ///
    /// # Errors
    /// The failure that kept the rows from the disk, or that of what was to be done then.
    pub fn wait(self) -> Result<()> {
        self.drive.recv(&self.answer).map_err(|_| closed())?
    }

    /// As [`Self::wait`], until `deadline`.
    ///
    /// # Errors
    /// As [`Self::wait`], and when it takes longer.
    pub fn wait_until(self, deadline: Instant) -> Result<()> {
        self.drive.recv_deadline(&self.answer, deadline).map_err(|error| match error {
            RecvTimeoutError::Disconnected => closed(),
            RecvTimeoutError::Timeout => Error::Invalid(
                "the shards could not write their rows in time; is the disk full? try again later".into(),
            ),
        })?
    }
}

pub(super) fn closed() -> Error {
    Error::Invalid("the shard is closed".into())
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name).spawn(body).expect("the system starts threads when the node starts")
}

fn run_worker(mut worker: Worker, stopping: &AtomicBool) {
    loop {
        let command = match worker.commands.recv_timeout(TICK) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if !worker.turn(command) {
            break;
        }
        if let Some(resumed) = worker.paused.take() {
            // Nothing is ever sent: the end of the channel is the sign.
            let _ = resumed.recv();
        }
        if !stopping.load(Ordering::Relaxed)
            && let Some(rest) = worker.rest_for_merges()
        {
            std::thread::sleep(rest);
        }
    }
    worker.end();
}

fn run_flushes(mut flushes: Flushes, jobs: &Receiver<FlushJob>) {
    for job in jobs {
        let mut job = Some(job);
        while let Some(next) = job {
            job = flushes.turn(next);
            if job.is_some() {
                std::thread::sleep(FLUSH_PAUSE);
            }
        }
    }
}
