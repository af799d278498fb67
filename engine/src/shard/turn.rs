//! Owns what a shard does at a turn: one group of commands, one flush. Whoever calls it, a thread or a simulation, decides
//! when, and waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::append::Append;
use super::core::{LogHold, Sealed, ShardCore};
use super::worker::closed;
use crate::clock::Clock;
use crate::error::{Error, Refusal, RefusalCode, Result};
use crate::types::{LogPosition, ProducerId, SeqNo};
use crate::upkeep::flush::Flusher;

/// Rest of a shard after a group commit for each flushed segment beyond the bound.
const REST: Duration = Duration::from_millis(5);
/// The longest such rest.
const REST_MAX: Duration = Duration::from_millis(100);

/// What is done where flushes are done behind a flush, before any other.
pub(super) type Then = Box<dyn FnOnce(&mut Flusher) -> Result<()> + Send>;

#[allow(clippy::large_enum_variant, reason = "nearly all commands are appends; a box would be an allocation a batch")]
pub(super) enum Command {
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

/// From the worker to where flushes are done.
pub(super) enum FlushJob {
    Flush(Sealed),
    /// When everything before is done: do this, and answer.
    Barrier(Then, Sender<Result<()>>),
}

/// Feeds a shard's state machine.
pub(super) struct Worker {
    pub(super) core: ShardCore,
    pub(super) commands: Receiver<Command>,
    pub(super) jobs: Sender<FlushJob>,
    pub(super) flushed: Receiver<Result<LogPosition>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether a turn may wait for a flush; else what needs it is put back, for the turn after it.
    pub(super) waits: bool,
    /// What was put back: comes before all commands.
    pub(super) put_back: Option<Command>,
    /// While the other end is there, the shard stands still.
    pub(super) paused: Option<Receiver<()>>,
}

impl Worker {
    /// Does `command` and what arrived behind it as one group, then looks after the memtable. False at the end.
    pub(super) fn turn(&mut self, command: Option<Command>) -> bool {
        if command.is_none() {
            self.core.look_for_room();
        }
        if let Some(command) = command
            && !self.take_group(command)
        {
            return false;
        }
        self.note_flushed();
        if self.core.wants_seal(self.clock.now_ns()) && self.wait_for_room() {
            self.seal();
        }
        true
    }

    /// Refuses what is queued, and ends the log.
    pub(super) fn end(self) {
        for command in self.put_back.into_iter().chain(self.commands.try_iter()) {
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
                    if !self.wait_for_room() {
                        self.put_back = Some(Command::Flush(then, reply));
                        break;
                    }
                    if let Some(stopped) = self.core.stopped() {
                        let _ = reply.send(Err(stopped));
                        break;
                    }
                    self.seal();
                    // Where flushes are done ends only after this, so the barrier is always answered.
                    let _ = self.jobs.send(FlushJob::Barrier(then, reply));
                }
                Command::HoldLog(reply) => {
                    self.commit();
                    let _ = reply.send(self.core.hold_log());
                }
                Command::Pause(resumed, reply) => {
                    self.commit();
                    if !self.wait_for_room() {
                        self.put_back = Some(Command::Pause(resumed, reply));
                        break;
                    }
                    if let Some(stopped) = self.core.stopped() {
                        let _ = reply.send(Err(stopped));
                        break;
                    }
                    self.seal();
                    let _ = self.jobs.send(FlushJob::Barrier(Box::new(|_| Ok(())), reply));
                    self.paused = Some(resumed);
                    break;
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
    /// the senders. False when there is no room and no waiting.
    fn wait_for_room(&mut self) -> bool {
        self.note_flushed();
        while !self.core.may_seal() {
            self.core.count_stall();
            if !self.waits {
                return false;
            }
            match self.flushed.recv() {
                Ok(done) => self.after_flush(done),
                Err(_) => return true,
            }
        }
        true
    }

    /// How long to rest when flushed segments pile up: the more there are, the longer. Each rest is short, so that
    /// acknowledgements stay steady while senders are slowed.
    pub(super) fn rest_for_merges(&self) -> Option<Duration> {
        let excess = self.core.flushed_segments_excess();
        if excess == 0 {
            return None;
        }
        self.core.count_stall();
        Some((REST * u32::try_from(excess).unwrap_or(u32::MAX).min(1_000)).min(REST_MAX))
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

/// Does a shard's flushes, in order.
pub(super) struct Flushes {
    pub(super) flusher: Flusher,
    pub(super) flushed: Sender<Result<LogPosition>>,
    pub(super) clock: Arc<dyn Clock>,
    failure: Option<String>,
}

impl Flushes {
    pub(super) fn new(flusher: Flusher, flushed: Sender<Result<LogPosition>>, clock: Arc<dyn Clock>) -> Self {
        Self { flusher, flushed, clock, failure: None }
    }

    /// Does `job`, or gives it back when there is no room on the disk.
    pub(super) fn turn(&mut self, job: FlushJob) -> Option<FlushJob> {
        match job {
            FlushJob::Flush(sealed) if self.failure.is_none() => {
                let done = match self.flusher.flush(&sealed, self.clock.now_ns()) {
                    // Nothing is lost by waiting: the rows are in the log and in memory, and ingest is held up.
                    Err(error) if error.passes() && !self.flusher.is_stopping() && self.flusher.may_try_again() => {
                        tracing::warn!(%error, "a segment cannot be written for the moment; waiting");
                        return Some(FlushJob::Flush(sealed));
                    }
                    done => done,
                };
                if let Err(error) = &done {
                    tracing::error!(%error, "a flush failed");
                    self.failure = Some(error.to_string());
                }
                let _ = self.flushed.send(done.map(|()| sealed.until));
            }
            // After a failed flush the log keeps what follows; the next open replays it.
            FlushJob::Flush(_) => {}
            FlushJob::Barrier(then, reply) => {
                let answer = match &self.failure {
                    None => then(&mut self.flusher),
                    Some(cause) => Err(Error::Poisoned { shard: self.flusher.shard(), cause: cause.clone() }),
                };
                let _ = reply.send(answer);
            }
        }
        None
    }
}
