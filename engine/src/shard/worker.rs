//! Owns a shard's threads: the loop that feeds the state machine and the one that flushes; decides nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, select, unbounded};

use super::append::Append;
use super::core::{LogHold, Sealed, ShardCore};
use crate::clock::Clock;
use crate::error::{Error, Refusal, RefusalCode, Result};
use crate::types::{LogPosition, ProducerId, SeqNo};
use crate::upkeep::flush::Flusher;

/// How often an idle shard looks at the age of its memtable.
const TICK: Duration = Duration::from_millis(200);

/// A running shard's threads.
pub struct ShardHandle {
    sender: ShardSender,
    worker: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
}

/// The way into a running shard.
#[derive(Clone)]
pub struct ShardSender(Sender<Command>);

/// What is done on the flusher's thread behind a flush, before any other.
type Then = Box<dyn FnOnce(&mut Flusher) -> Result<()> + Send>;

/// The answer to a flush that is under way.
pub struct FlushWait(Receiver<Result<()>>);

#[allow(clippy::large_enum_variant, reason = "nearly all commands are appends; a box would be an allocation a batch")]
enum Command {
    Append(Append),
    /// This batch will not come again.
    Skip(ProducerId, SeqNo),
    /// Seal what is there; when it is in segments, do what is to be done then, and answer.
    Flush(Then, Sender<Result<()>>),
    /// Commit what is there, keep the log's files, and say where the log ends.
    HoldLog(Sender<(LogPosition, Arc<LogHold>)>),
    /// As a flush, then stand still until the other end of the channel goes.
    Pause(Receiver<()>, Sender<Result<()>>),
    /// Refuse everything behind this, then end.
    Stop,
}

/// From the worker to the flusher.
enum FlushJob {
    Flush(Sealed),
    /// When everything before is done: do this, and answer.
    Barrier(Then, Sender<Result<()>>),
}

impl ShardHandle {
    /// Starts the threads of `core`.
    pub fn start(shard: u32, core: ShardCore, flusher: Flusher, clock: Arc<dyn Clock>, queue_batches: usize) -> Self {
        let (queue, commands) = bounded(queue_batches);
        // The number of jobs is bounded by the sealed memtables that a shard may have.
        let (jobs_to, jobs) = unbounded();
        let (flushed_to, flushed) = unbounded();
        let flush_clock = Arc::clone(&clock);
        let stopping = Arc::clone(&flusher.stopping);
        let flusher =
            spawn(format!("shard-{shard}-flush"), move || run_flusher(flusher, &jobs, &flushed_to, &*flush_clock));
        let worker = spawn(format!("shard-{shard}"), move || {
            Worker { core, commands, jobs: jobs_to, flushed, clock, stopping }.run();
        });
        Self { sender: ShardSender(queue), worker: Some(worker), flusher: Some(flusher) }
    }

    /// The way in.
    pub fn sender(&self) -> ShardSender {
        self.sender.clone()
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&mut self) {
        // A closed queue means that the worker has ended already.
        let _ = self.sender.0.send(Command::Stop);
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
        self.0.try_send(Command::Append(append)).map_err(|error| match error {
            TrySendError::Full(_) => {
                Refusal::new(RefusalCode::Overloaded, "the shard's queue is full; send again later")
            }
            TrySendError::Disconnected(_) => Refusal::new(RefusalCode::ShuttingDown, "the node is going down"),
        })
    }

    /// Says that a batch will not come again. Blocks while the queue is full: the order of commands matters.
    pub fn skip(&self, producer: ProducerId, seq: SeqNo) {
        // A closed shard waits for nothing.
        let _ = self.0.send(Command::Skip(producer, seq));
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
        self.0.send(Command::Flush(Box::new(then), reply)).map_err(|_| closed())?;
        Ok(FlushWait(answer))
    }

    /// Keeps the log's files until the hold goes; everything acknowledged before the call lies before the position.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn hold_log(&self) -> Result<(LogPosition, Arc<LogHold>)> {
        let (reply, answer) = bounded(1);
        self.0.send(Command::HoldLog(reply)).map_err(|_| closed())?;
        answer.recv().map_err(|_| closed())
    }

    /// Puts everything that was acknowledged into segments, then stands still until the other end of `resumed` goes.
    ///
    /// # Errors
    /// The shard is closed.
    pub fn pause(&self, resumed: Receiver<()>) -> Result<FlushWait> {
        let (reply, answer) = bounded(1);
        self.0.send(Command::Pause(resumed, reply)).map_err(|_| closed())?;
        Ok(FlushWait(answer))
    }

    /// Batches in the queue.
    pub fn queued(&self) -> usize {
        self.0.len()
    }
}

impl FlushWait {
    /// Blocks until the rows are in segments and what was to be done then is done.
    ///
    /// # Errors
    /// The failure that kept the rows from the disk, or that of what was to be done then.
    pub fn wait(self) -> Result<()> {
        self.0.recv().map_err(|_| closed())?
    }

    /// As [`Self::wait`], until `deadline`.
    ///
    /// # Errors
    /// As [`Self::wait`], and when it takes longer.
    pub fn wait_until(self, deadline: Instant) -> Result<()> {
        self.0.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Disconnected => closed(),
            RecvTimeoutError::Timeout => Error::Invalid(
                "the shards could not write their rows in time; is the disk full? try again later".into(),
            ),
        })?
    }
}

fn closed() -> Error {
    Error::Invalid("the shard is closed".into())
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name).spawn(body).expect("the system starts threads when the node starts")
}

struct Worker {
    core: ShardCore,
    commands: Receiver<Command>,
    jobs: Sender<FlushJob>,
    flushed: Receiver<Result<LogPosition>>,
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let command = match self.commands.recv_timeout(TICK) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if command.is_none() {
                self.core.look_for_room();
            }
            if let Some(command) = command
                && !self.take_group(command)
            {
                break;
            }
            self.note_flushed();
            self.give_way_to_merges();
            if self.core.wants_seal(self.clock.now_ns()) {
                self.wait_for_room();
                self.seal();
            }
        }
        for command in self.commands.try_iter() {
            match command {
                Command::Append(append) => {
                    append.settle(Err(Refusal::new(RefusalCode::ShuttingDown, "the node is going down")));
                }
                Command::Flush(_, reply) | Command::Pause(_, reply) => {
                    let _ = reply.send(Err(closed()));
                }
                Command::Skip(..) | Command::HoldLog(_) | Command::Stop => {}
            }
        }
        self.core.close();
    }

    /// Commits one group: all that arrived during the last one, within its bounds. False at the end.
    fn take_group(&mut self, first: Command) -> bool {
        let mut command = Some(first);
        while let Some(next) = command {
            match next {
                Command::Append(append) => self.core.stage(append),
                Command::Skip(producer, seq) => self.core.skip(producer, seq),
                Command::Flush(then, reply) => {
                    self.commit();
                    self.wait_for_room();
                    self.seal();
                    // The flusher ends only after this thread, so the barrier is always answered.
                    let _ = self.jobs.send(FlushJob::Barrier(then, reply));
                }
                Command::HoldLog(reply) => {
                    self.commit();
                    let _ = reply.send(self.core.hold_log());
                }
                Command::Pause(resumed, reply) => {
                    self.commit();
                    self.wait_for_room();
                    self.seal();
                    let _ = self.jobs.send(FlushJob::Barrier(Box::new(|_| Ok(())), reply));
                    // Nothing is ever sent: the end of the channel is the sign.
                    let _ = resumed.recv();
                }
                Command::Stop => {
                    self.commit();
                    return false;
                }
            }
            if self.core.group_is_full() {
                break;
            }
            command = self.commands.try_recv().ok();
        }
        self.commit();
        true
    }

    fn commit(&mut self) {
        let started = Instant::now();
        self.core.commit(self.clock.now_ns());
        self.core.record_commit(started.elapsed());
    }

    fn seal(&mut self) {
        if let Some(sealed) = self.core.seal(self.clock.now_ns()) {
            let _ = self.jobs.send(FlushJob::Flush(sealed));
        }
    }

    /// Blocks while as many memtables wait for the disk as the budget allows: the queue fills, then flow control holds
    /// the senders.
    fn wait_for_room(&mut self) {
        self.note_flushed();
        while !self.core.may_seal() {
            self.core.count_stall();
            select! {
                recv(self.flushed) -> done => match done {
                    Ok(done) => self.after_flush(done),
                    Err(_) => return,
                },
            }
        }
    }

    /// Rests a while when flushed segments pile up: the more there are, the longer. Each rest is short, so that acknowledgements
    /// stay steady while senders are slowed.
    fn give_way_to_merges(&mut self) {
        let excess = self.core.flushed_segments_excess();
        if excess > 0 && !self.stopping.load(Ordering::Relaxed) {
            self.core.count_stall();
            std::thread::sleep((REST * u32::try_from(excess).unwrap_or(u32::MAX).min(1_000)).min(REST_MAX));
        }
    }

    fn note_flushed(&mut self) {
        while let Ok(done) = self.flushed.try_recv() {
            self.after_flush(done);
        }
    }

    fn after_flush(&mut self, done: Result<LogPosition>) {
        match done {
            Ok(until) => self.core.release(until),
            Err(error) => self.core.poison(&error),
        }
    }
}

/// Rest of a shard after a group commit for each flushed segment beyond the bound.
const REST: Duration = Duration::from_millis(5);
/// The longest such rest.
const REST_MAX: Duration = Duration::from_millis(100);
/// How long a flush waits before it tries again, on a full disk or without descriptors.
const FLUSH_PAUSE: Duration = Duration::from_millis(500);

fn run_flusher(
    mut flusher: Flusher,
    jobs: &Receiver<FlushJob>,
    flushed: &Sender<Result<LogPosition>>,
    clock: &dyn Clock,
) {
    let mut failure: Option<String> = None;
    for job in jobs {
        match job {
            FlushJob::Flush(sealed) if failure.is_none() => {
                let done = loop {
                    match flusher.flush(&sealed, clock.now_ns()) {
                        // Nothing is lost by waiting: the rows are in the log and in memory, and ingest is held up.
                        Err(error) if error.passes() && !flusher.is_stopping() => {
                            tracing::warn!(%error, "a segment cannot be written for the moment; waiting");
                            std::thread::sleep(FLUSH_PAUSE);
                        }
                        done => break done,
                    }
                };
                if let Err(error) = &done {
                    tracing::error!(%error, "a flush failed");
                    failure = Some(error.to_string());
                }
                let _ = flushed.send(done.map(|()| sealed.until));
            }
            // After a failed flush the log keeps what follows; the next open replays it.
            FlushJob::Flush(_) => {}
            FlushJob::Barrier(then, reply) => {
                let answer = match &failure {
                    None => then(&mut flusher),
                    Some(cause) => Err(Error::Poisoned { shard: flusher.shard(), cause: cause.clone() }),
                };
                let _ = reply.send(answer);
            }
        }
    }
}
