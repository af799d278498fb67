//! Owns the sender's end of a lane: numbers, what is not acknowledged, sending again; does not encode batches or connect.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::planted::{self, Bug};
use crate::wire::frame::MAX_RESUME_DEVICES;
use crate::wire::{
    BatchFrame, CloseCode, Durability, Frame, GoAway, Hello, Nack, ProducerId, Received, RejectCode, VERSIONS, Welcome,
};

/// What the sender's end is told once.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Name and version of this software.
    pub software: String,
    /// Payload bytes that may wait for their acknowledgement, unsent ones included.
    pub max_buffered_bytes: usize,
    /// The same in batches.
    pub max_buffered_batches: usize,
    /// The first wait after a retryable refusal; doubled while nothing is settled.
    pub retry_min: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// Send again also what a resume says is settled. A refusal that was lost with its connection is then told again,
    /// since a node checks a batch before it looks whether it knows it; the price is bytes.
    pub resend_settled: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            software: concat!("tidewell-client/", env!("CARGO_PKG_VERSION")).into(),
            max_buffered_bytes: 64 << 20,
            max_buffered_batches: 16_384,
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(5),
            resend_settled: false,
        }
    }
}

/// A batch that waits for its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutBatch {
    /// Its number.
    pub seq: u64,
    /// The shard of its devices.
    pub shard: u32,
    /// One of its devices: asks for the shard's numbers when resuming.
    pub device: String,
    /// Its rows.
    pub rows: u32,
    /// When it is to be acknowledged.
    pub durability: Durability,
    /// The encoded batch.
    pub payload: Bytes,
}

/// Why a batch cannot be taken for sending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No more room until something is acknowledged.
    #[error("{batches} batches with {bytes} bytes wait for their acknowledgement, which is the bound")]
    Full {
        /// Batches waiting.
        batches: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The node told a smaller limit.
    #[error("batch: {what}: the node takes at most {max}, found {found}")]
    TooLarge {
        /// Bytes or rows.
        what: &'static str,
        /// The node's limit.
        max: usize,
        /// What the batch has.
        found: usize,
    },
    /// Numbers rise.
    #[error("batch number {found}: expected a number above {last}")]
    NotRising {
        /// The last one.
        last: u64,
        /// This one.
        found: u64,
    },
    /// The batch was built for another number of shards.
    #[error("batch for {found} shards: the node has {expected}")]
    ShardCount {
        /// The node's.
        expected: u32,
        /// The batch's.
        found: u32,
    },
}

/// What the user of the session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The node greeted: its limits hold from now on.
    Welcome(Welcome),
    /// Everything that was waiting has been looked up; batches flow.
    Ready,
    /// A batch is settled at its durability.
    Settled(OutBatch),
    /// A batch was refused for good.
    Refused {
        /// The batch, taken out of the queue.
        batch: OutBatch,
        /// Why.
        code: RejectCode,
        /// What, where, expected, found.
        message: String,
    },
    /// A batch was refused for now; it and all later ones are sent again after the wait.
    Retrying {
        /// The batch.
        seq: u64,
        /// Why.
        code: RejectCode,
        /// What, where, expected, found.
        message: String,
        /// How long nothing is sent.
        wait: Duration,
    },
    /// The node will end the lane; nothing more is sent on it.
    GoAway(GoAway),
    /// This is another data directory than the batches were built for: none of them has been sent to it. Take them with
    /// [`ClientSession::into_unsettled`], split them anew and send them under a new producer.
    ShardCountChanged {
        /// The count that the batches were built for.
        before: u32,
        /// The node's.
        now: u32,
    },
    /// The node broke the protocol: end the connection with this code.
    Broken {
        /// The code.
        code: CloseCode,
        /// What it did.
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    AwaitWelcome,
    AwaitResumed,
    Open,
    Leaving,
    Failed,
}

#[derive(Debug)]
struct Item {
    batch: OutBatch,
    /// The attempt of its newest frame on this connection.
    attempt: u32,
}

/// The sender's end of one lane, across as many connections as it takes.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    producer: ProducerId,
    phase: Phase,
    shard_count: Option<u32>,
    welcome: Option<Welcome>,
    /// In the order of their numbers; those below `next_send` are on their way.
    queue: VecDeque<Item>,
    queued_bytes: usize,
    next_seq: u64,
    next_send: u64,
    highest_sent: u64,
    sent_batches: usize,
    sent_bytes: usize,
    attempt: u32,
    asked_shards: Option<Vec<u32>>,
    not_before: Duration,
    backoff: Duration,
    control: VecDeque<Frame>,
    events: VecDeque<ClientEvent>,
}

impl ClientSession {
    /// A session of `producer`, which must be random and new, or restored together with its batches and numbers.
    /// `shard_count` is what restored batches were built for.
    pub fn new(config: ClientConfig, producer: ProducerId, shard_count: Option<u32>) -> Self {
        Self {
            config,
            producer,
            phase: Phase::Disconnected,
            shard_count,
            welcome: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_seq: 1,
            next_send: 1,
            highest_sent: 0,
            sent_batches: 0,
            sent_bytes: 0,
            attempt: 0,
            asked_shards: None,
            not_before: Duration::ZERO,
            backoff: Duration::ZERO,
            control: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The producer.
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// The node's number of shards, once known.
    pub fn shard_count(&self) -> Option<u32> {
        self.shard_count
    }

    /// The greeting of the newest connection.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// The number that the next batch gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Batches and payload bytes that wait for their acknowledgement.
    pub fn buffered(&self) -> (usize, usize) {
        (self.queue.len(), self.queued_bytes)
    }

    /// Batches and payload bytes that are on their way.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.sent_batches, self.sent_bytes)
    }

    /// Whether batches flow.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Takes a batch for sending and gives its number.
    ///
    /// # Errors
    /// When the buffer is full or the node's limits forbid the batch.
    pub fn push(
        &mut self,
        payload: Bytes,
        rows: u32,
        device: &str,
        shard: u32,
        durability: Durability,
    ) -> Result<u64, PushError> {
        let seq = self.next_seq;
        self.push_numbered(OutBatch { seq, shard, device: device.to_owned(), rows, durability, payload })?;
        Ok(seq)
    }

    /// Takes a batch that has a number already, as one out of a spool.
    ///
    /// # Errors
    /// As [`push`](Self::push), and when the number does not rise.
    pub fn push_numbered(&mut self, batch: OutBatch) -> Result<(), PushError> {
        if batch.seq < self.next_seq {
            return Err(PushError::NotRising { last: self.next_seq - 1, found: batch.seq });
        }
        if let Some(welcome) = &self.welcome {
            let limits = [
                ("payload bytes", welcome.max_frame_bytes as usize, batch.payload.len()),
                ("rows", welcome.max_rows as usize, batch.rows as usize),
            ];
            for (what, max, found) in limits {
                if found > max {
                    return Err(PushError::TooLarge { what, max, found });
                }
            }
        }
        let (batches, bytes) = self.buffered();
        // One batch always fits, whatever its size, or it could never be sent.
        if batches > 0
            && (batches >= self.config.max_buffered_batches
                || bytes + batch.payload.len() > self.config.max_buffered_bytes)
        {
            return Err(PushError::Full { batches, bytes });
        }
        self.next_seq = batch.seq + 1;
        self.queued_bytes += batch.payload.len();
        self.queue.push_back(Item { batch, attempt: 0 });
        Ok(())
    }

    /// A lane has been opened: greets.
    pub fn connected(&mut self) {
        if self.phase == Phase::Failed {
            return;
        }
        self.disconnected();
        self.phase = Phase::AwaitWelcome;
        self.control.push_back(Frame::Hello(Hello {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            software: self.config.software.clone(),
        }));
    }

    /// The lane is gone: everything not acknowledged will be sent again.
    pub fn disconnected(&mut self) {
        if planted::is(Bug::ClientForgets) {
            self.queue.pop_back().inspect(|item| self.queued_bytes -= item.batch.payload.len());
        }
        self.control.clear();
        self.asked_shards = None;
        self.next_send = 0;
        self.highest_sent = 0;
        self.sent_batches = 0;
        self.sent_bytes = 0;
        self.attempt = 0;
        self.not_before = Duration::ZERO;
        if self.phase != Phase::Failed {
            self.phase = Phase::Disconnected;
        }
    }

    /// Takes what the reader gave.
    pub fn receive(&mut self, received: Received, now: Duration) {
        let Received::Frame(frame) = received else {
            return self.broken(CloseCode::UnexpectedFrame, "a client does not take batches".into());
        };
        match (self.phase, frame) {
            (Phase::Failed | Phase::Disconnected, _) => {}
            (_, Frame::GoAway(goaway)) => {
                self.phase = Phase::Leaving;
                self.events.push_back(ClientEvent::GoAway(goaway));
            }
            (Phase::AwaitWelcome, Frame::Welcome(welcome)) => self.greeted(welcome),
            (Phase::AwaitResumed | Phase::Open | Phase::Leaving, Frame::Resumed { producer, settled })
                if producer == self.producer =>
            {
                self.resumed(&settled);
            }
            (Phase::Open | Phase::Leaving, Frame::Ack { producer, seq }) if producer == self.producer => self.ack(seq),
            (Phase::Open | Phase::Leaving, Frame::Nack(nack)) if nack.producer == self.producer => {
                self.nack(nack, now);
            }
            (_, frame) => {
                self.broken(CloseCode::UnexpectedFrame, format!("expected no {} frame of this kind now", frame.kind()));
            }
        }
    }

    fn broken(&mut self, code: CloseCode, message: String) {
        self.disconnected();
        self.events.push_back(ClientEvent::Broken { code, message });
    }

    fn greeted(&mut self, welcome: Welcome) {
        if !VERSIONS.contains(&welcome.version) {
            let message = format!("the node chose version {}, which was not offered", welcome.version);
            return self.broken(CloseCode::UnsupportedVersion, message);
        }
        let now = welcome.shard_count;
        match self.shard_count {
            Some(before) if before != now => {
                self.disconnected();
                self.phase = Phase::Failed;
                self.events.push_back(ClientEvent::ShardCountChanged { before, now });
                return;
            }
            _ => self.shard_count = Some(now),
        }
        self.welcome = Some(welcome.clone());
        self.events.push_back(ClientEvent::Welcome(welcome));
        let mut asked: BTreeMap<u32, &str> = BTreeMap::new();
        for item in &self.queue {
            asked.entry(item.batch.shard).or_insert(&item.batch.device);
        }
        // Beyond the bound of one frame a shard is not asked about: its batches are all sent again.
        let (shards, devices): (Vec<u32>, Vec<String>) =
            asked.into_iter().take(MAX_RESUME_DEVICES).map(|(shard, device)| (shard, device.to_owned())).unzip();
        // With nothing to look up there is nothing to wait for.
        self.phase = if devices.is_empty() { Phase::Open } else { Phase::AwaitResumed };
        if self.phase == Phase::Open {
            self.events.push_back(ClientEvent::Ready);
        }
        self.asked_shards = Some(shards);
        self.control.push_back(Frame::Resume { producer: self.producer, devices });
    }

    fn resumed(&mut self, settled: &[u64]) {
        let Some(shards) = self.asked_shards.take().filter(|shards| shards.len() == settled.len()) else {
            return self.broken(CloseCode::UnexpectedFrame, "resumed does not answer what was asked".into());
        };
        if self.phase != Phase::AwaitResumed {
            return;
        }
        if !self.config.resend_settled {
            let settled: BTreeMap<u32, u64> = shards.into_iter().zip(settled.iter().copied()).collect();
            for item in std::mem::take(&mut self.queue) {
                if settled.get(&item.batch.shard).is_some_and(|&seq| item.batch.seq <= seq) {
                    self.queued_bytes -= item.batch.payload.len();
                    self.events.push_back(ClientEvent::Settled(item.batch));
                } else {
                    self.queue.push_back(item);
                }
            }
        }
        self.phase = Phase::Open;
        self.events.push_back(ClientEvent::Ready);
    }

    fn ack(&mut self, seq: u64) {
        if seq > self.highest_sent {
            let message = format!("ack of batch {seq}: expected at most {}, the last one sent", self.highest_sent);
            return self.broken(CloseCode::UnexpectedFrame, message);
        }
        while let Some(item) = self.queue.pop_front_if(|item| item.batch.seq <= seq) {
            self.forget(&item.batch);
            self.events.push_back(ClientEvent::Settled(item.batch));
            self.backoff = Duration::ZERO;
        }
    }

    /// Takes a batch that left the queue out of the counts.
    fn forget(&mut self, batch: &OutBatch) {
        self.queued_bytes -= batch.payload.len();
        if batch.seq < self.next_send {
            self.sent_batches -= 1;
            self.sent_bytes -= batch.payload.len();
        }
    }

    fn nack(&mut self, nack: Nack, now: Duration) {
        let Ok(index) = self.queue.binary_search_by_key(&nack.seq, |item| item.batch.seq) else {
            return; // settled meanwhile
        };
        if nack.seq > self.highest_sent {
            let message =
                format!("nack of batch {}: expected at most {}, the last one sent", nack.seq, self.highest_sent);
            return self.broken(CloseCode::UnexpectedFrame, message);
        }
        if !nack.retryable {
            if let Some(item) = self.queue.remove(index) {
                self.forget(&item.batch);
                let Nack { code, message, .. } = nack;
                self.events.push_back(ClientEvent::Refused { batch: item.batch, code, message });
            }
            return;
        }
        // A refusal of a copy that was, or is about to be, sent again says nothing new.
        if nack.seq >= self.next_send || self.queue[index].attempt != nack.attempt {
            return;
        }
        // Go back: the node takes nothing later until this one has come again, and it must come first.
        for item in self.queue.range(index..).take_while(|item| item.batch.seq < self.next_send) {
            self.sent_batches -= 1;
            self.sent_bytes -= item.batch.payload.len();
        }
        self.next_send = nack.seq + u64::from(planted::is(Bug::NackLosesOrder));
        self.attempt += 1;
        self.backoff = (self.backoff * 2).clamp(self.config.retry_min, self.config.retry_max);
        let wait = self.backoff.max(Duration::from_millis(u64::from(nack.retry_after_ms)));
        self.not_before = now + wait;
        let Nack { seq, code, message, .. } = nack;
        self.events.push_back(ClientEvent::Retrying { seq, code, message, wait });
    }

    /// The next frame to write, if any may be written now.
    pub fn poll_send(&mut self, now: Duration) -> Option<Frame> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        if self.phase != Phase::Open || now < self.not_before {
            return None;
        }
        let welcome = self.welcome.as_ref()?;
        let index = self.queue.partition_point(|item| item.batch.seq < self.next_send);
        let item = self.queue.get_mut(index)?;
        let bytes = item.batch.payload.len();
        // One batch may always be on its way, or a small limit would stop the lane for good.
        if self.sent_batches > 0
            && (self.sent_batches >= welcome.max_in_flight_batches as usize
                || self.sent_bytes + bytes > welcome.max_in_flight_bytes as usize)
        {
            return None;
        }
        item.attempt = self.attempt;
        let OutBatch { seq, durability, ref payload, .. } = item.batch;
        self.next_send = seq + 1;
        self.highest_sent = self.highest_sent.max(seq);
        self.sent_batches += 1;
        self.sent_bytes += bytes;
        let (producer, attempt, payload) = (self.producer, self.attempt, payload.clone());
        Some(Frame::Batch(BatchFrame { producer, seq, attempt, durability, payload }))
    }

    /// When [`poll_send`](Self::poll_send) may give something although nothing was received or pushed.
    pub fn wakeup(&self, now: Duration) -> Option<Duration> {
        let waiting = self.phase == Phase::Open && self.queue.back().is_some_and(|i| i.batch.seq >= self.next_send);
        (waiting && now < self.not_before).then_some(self.not_before)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Takes out what is not settled, in the order of numbers.
    pub fn into_unsettled(self) -> Vec<OutBatch> {
        self.queue.into_iter().map(|item| item.batch).collect()
    }
}
