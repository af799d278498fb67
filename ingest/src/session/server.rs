//! Owns the node's end of a lane: greeting, order, acknowledgement, draining; does not decode payloads or know who may write.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::planted::{self, Bug};
use crate::wire::{
    BatchFrame, CloseCode, Durability, Frame, GoAway, Hello, Nack, ProducerId, Received, RejectCode, VERSIONS, Welcome,
};

/// Answers that may wait to be written before the lane stops reading.
const MAX_WAITING_ACTIONS: usize = 1_024;

/// What the node's end of a lane is told once.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name and version of this software.
    pub software: String,
    /// Shards of this node's data.
    pub shard_count: u32,
    /// The longest batch payload in bytes.
    pub max_frame_bytes: u32,
    /// Most rows of one batch; told to the client here, checked by whoever decodes.
    pub max_rows: u32,
    /// Payload bytes handed out and not settled, above which [`ServerSession::wants_read`] says no.
    pub max_in_flight_bytes: u32,
    /// The same in batches.
    pub max_in_flight_batches: u32,
    /// Most producers of one lane.
    pub max_producers: usize,
    /// A lane whose hello has not come after so long ends.
    pub hello_timeout: Duration,
    /// A lane on which nothing came for so long, and which owes no answer, ends. Zero = never.
    pub idle: Duration,
    /// How far ahead of the node's clock rows may be; told to the client.
    pub max_future: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            software: concat!("tidewell/", env!("CARGO_PKG_VERSION")).into(),
            shard_count: 1,
            max_frame_bytes: 4 << 20,
            max_rows: 65_536,
            max_in_flight_bytes: 8 << 20,
            max_in_flight_batches: 256,
            max_producers: 16,
            hello_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            max_future: Duration::from_secs(600),
        }
    }
}

/// Why a submitted batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which rule.
    pub code: RejectCode,
    /// What, where, expected, found.
    pub message: String,
    /// For retryable codes: how long the sender is to wait.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal without a waiting time.
    pub fn new(code: RejectCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: 0 }
    }
}

/// A batch to be checked and appended. Its outcome comes back with the ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Names this hand-over in [`ServerSession::settled`].
    pub ticket: u64,
    /// Who numbered the batch.
    pub producer: ProducerId,
    /// Its number.
    pub seq: u64,
    /// When the outcome may be told.
    pub durability: Durability,
    /// The encoded batch.
    pub payload: Bytes,
}

/// What the caller is to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Claim the producer for this lane, look up the last settled number for the shard of each device, and give them
    /// to [`ServerSession::resumed`].
    LookUp {
        /// The producer.
        producer: ProducerId,
        /// Devices, one of each shard that the client asks about.
        devices: Vec<String>,
    },
    /// Check and append a batch. A refusal that is known at once must be told before the next frame is fed.
    Submit(Submission),
    /// A batch was refused for good, so its number will not come to a shard again. Hand this to every shard, through the
    /// same queue as batches: a shard that refused the number for now, and takes nothing later until it comes again,
    /// must stop waiting for it. Not on behalf of a lane that does not own the producer any more.
    Skip {
        /// The producer.
        producer: ProducerId,
        /// The number.
        seq: u64,
    },
    /// Write a frame.
    Send(Frame),
    /// Flush what was written, then end the lane with this application error code. Nothing comes after it.
    Close {
        /// Why.
        code: CloseCode,
        /// For the node's log.
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitHello { until: Duration },
    Open,
    Draining { until: Duration },
    Closed,
}

/// One number of a producer that is not yet covered by the cumulative ack.
#[derive(Debug)]
struct Entry {
    /// The newest hand-over that has no outcome yet.
    ticket: Option<u64>,
    /// Appended, or refused for good.
    settled: bool,
    /// The sender has gone back to this number or an earlier one and will send it again, so that a retryable refusal of
    /// the earlier copy is of no interest.
    superseded: bool,
}

#[derive(Debug)]
struct Producer {
    /// Told apart from an earlier life of the same producer on this lane.
    generation: u64,
    /// Everything up to here is settled.
    acked: u64,
    /// The number of the newest frame.
    last: u64,
    attempt: u32,
    /// Numbers that were refused for now, those refused only because they came after another included. Nothing after
    /// the lowest is taken until that has come again, or until an earlier copy of it turns out to be settled: a shard
    /// that sees a later number would take the lower one for a repetition.
    held: BTreeSet<u64>,
    window: BTreeMap<u64, Entry>,
    ack_due: bool,
}

#[derive(Debug)]
struct Ticket {
    producer: ProducerId,
    generation: u64,
    seq: u64,
    attempt: u32,
    bytes: usize,
}

/// The node's end of one lane.
///
/// After each call that takes `&mut self`, call [`poll`](Self::poll) until it gives nothing and do what it says.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    phase: Phase,
    producers: HashMap<ProducerId, Producer>,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    next_generation: u64,
    in_flight_bytes: usize,
    out: VecDeque<Action>,
    last_heard: Duration,
    finished: bool,
}

impl ServerSession {
    /// A lane that was opened at `now` (any monotonic time; only differences matter).
    pub fn new(config: ServerConfig, now: Duration) -> Self {
        let phase = Phase::AwaitHello { until: now + config.hello_timeout };
        Self {
            config,
            phase,
            producers: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 1,
            next_generation: 1,
            in_flight_bytes: 0,
            out: VecDeque::new(),
            last_heard: now,
            finished: false,
        }
    }

    /// The longest batch payload: for [`FrameReader::new`](crate::wire::FrameReader::new).
    pub fn max_frame_bytes(&self) -> usize {
        self.config.max_frame_bytes as usize
    }

    /// Takes what the reader gave. `unix_ns` is the node's clock, which the welcome tells.
    pub fn receive(&mut self, received: Received, now: Duration, unix_ns: i64) {
        if self.phase == Phase::Closed {
            return;
        }
        self.last_heard = now;
        match (self.phase, received) {
            (Phase::AwaitHello { .. }, Received::Frame(Frame::Hello(hello))) => self.hello(&hello, unix_ns),
            (Phase::AwaitHello { .. }, _) => {
                self.close(CloseCode::UnexpectedFrame, "expected hello as the first frame".into());
            }
            (_, Received::Frame(Frame::Batch(batch))) => self.batch(batch),
            (_, Received::Frame(Frame::Resume { producer, devices })) => self.resume(producer, devices),
            // The client will end the lane by itself; what it still sends is taken.
            (_, Received::Frame(Frame::GoAway(_))) => {}
            (_, Received::Frame(other)) => {
                self.close(CloseCode::UnexpectedFrame, format!("a node does not take {} frames here", other.kind()));
            }
            (_, Received::DamagedBatch { producer, seq, attempt, expected, found }) => {
                let message = format!("batch {seq}: expected payload checksum {expected:08x}, found {found:08x}");
                self.refuse_frame(producer, seq, attempt, Refusal::new(RejectCode::BadChecksum, message));
            }
            (_, Received::OversizedBatch { producer, seq, attempt, length, max }) => {
                let message = format!("batch {seq}: expected at most {max} bytes of payload, found {length}");
                self.refuse_frame(producer, seq, attempt, Refusal::new(RejectCode::TooLarge, message));
            }
        }
    }

    /// The framing is broken: tells the peer and ends the lane.
    pub fn broken(&mut self, error: &crate::wire::FrameError) {
        self.close(error.close_code(), error.to_string());
    }

    /// The peer has finished its side of the stream: the lane ends when all is settled.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    fn hello(&mut self, hello: &Hello, unix_ns: i64) {
        let version = hello.version_max.min(*VERSIONS.end());
        if version < hello.version_min.max(*VERSIONS.start()) {
            let message = format!(
                "this node speaks versions {} to {}, the client {} to {}",
                VERSIONS.start(),
                VERSIONS.end(),
                hello.version_min,
                hello.version_max
            );
            return self.close(CloseCode::UnsupportedVersion, message);
        }
        let config = &self.config;
        self.out.push_back(Action::Send(Frame::Welcome(Welcome {
            version,
            shard_count: config.shard_count,
            max_frame_bytes: config.max_frame_bytes,
            max_rows: config.max_rows,
            max_in_flight_bytes: config.max_in_flight_bytes,
            max_in_flight_batches: config.max_in_flight_batches,
            idle_ms: u32::try_from(config.idle.as_millis()).unwrap_or(u32::MAX),
            clock_ns: unix_ns,
            max_future_ns: u64::try_from(config.max_future.as_nanos()).unwrap_or(u64::MAX),
            software: config.software.clone(),
        })));
        self.phase = Phase::Open;
    }

    fn resume(&mut self, producer: ProducerId, devices: Vec<String>) {
        if !self.producers.contains_key(&producer) && self.producers.len() >= self.config.max_producers {
            // Those that owe nothing can be opened again at no loss: the shards know what is settled.
            self.producers.retain(|_, p| !p.window.is_empty() || p.ack_due);
            if self.producers.len() >= self.config.max_producers {
                let max = self.config.max_producers;
                return self.close(CloseCode::TooManyProducers, format!("expected at most {max} producers on a lane"));
            }
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let fresh = Producer {
            generation,
            acked: 0,
            last: 0,
            attempt: 0,
            held: BTreeSet::new(),
            window: BTreeMap::new(),
            ack_due: false,
        };
        self.producers.insert(producer, fresh);
        self.out.push_back(Action::LookUp { producer, devices });
    }

    /// The answer to [`Action::LookUp`]: numbers in the order of its devices.
    pub fn resumed(&mut self, producer: ProducerId, settled: Vec<u64>) {
        if self.phase != Phase::Closed {
            self.out.push_back(Action::Send(Frame::Resumed { producer, settled }));
        }
    }

    /// A newer lane has resumed `producer`: this one ends. What is on its way here is sent again there.
    pub fn fence(&mut self, producer: ProducerId) {
        if self.producers.contains_key(&producer) {
            self.close(CloseCode::Superseded, format!("producer {producer} was resumed on a newer lane"));
        }
    }

    /// The producers that were resumed on this lane.
    pub fn producers(&self) -> impl Iterator<Item = ProducerId> + '_ {
        self.producers.keys().copied()
    }

    fn batch(&mut self, batch: BatchFrame) {
        let BatchFrame { producer, seq, attempt, durability, payload } = batch;
        if !self.admit(producer, seq, attempt) {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let Some(p) = self.producers.get_mut(&producer) else { return };
        p.window.insert(seq, Entry { ticket: Some(ticket), settled: false, superseded: false });
        let bytes = payload.len();
        self.in_flight_bytes += bytes;
        self.tickets.insert(ticket, Ticket { producer, generation: p.generation, seq, attempt, bytes });
        self.out.push_back(Action::Submit(Submission { ticket, producer, seq, durability, payload }));
    }

    /// Refuses a batch that the reader could not give whole; it holds its place in the order like any other.
    fn refuse_frame(&mut self, producer: ProducerId, seq: u64, attempt: u32, refusal: Refusal) {
        if !self.admit(producer, seq, attempt) {
            return;
        }
        let Some(p) = self.producers.get_mut(&producer) else { return };
        p.window.insert(seq, Entry { ticket: None, settled: false, superseded: false });
        self.refuse(producer, seq, attempt, refusal);
    }

    /// Whether the batch is next in order and has to be handed on; answers it by itself when not.
    fn admit(&mut self, producer: ProducerId, seq: u64, attempt: u32) -> bool {
        let Some(p) = self.producers.get_mut(&producer) else {
            self.close(
                CloseCode::NotResumed,
                format!("batch {seq} of producer {producer}, which was not resumed here"),
            );
            return false;
        };
        if seq <= p.acked {
            p.ack_due = true;
            return false;
        }
        if attempt > p.attempt {
            p.attempt = attempt;
            p.last = seq - 1;
            p.window.range_mut(seq..).for_each(|(_, entry)| entry.superseded = true);
        }
        if attempt < p.attempt || seq <= p.last {
            // A repetition of what is on its way is answered when that is settled, one of what was refused for now has been.
            if p.window.contains_key(&seq) {
                return false;
            }
            let message = format!(
                "batch {seq} of attempt {attempt}: expected a number above {} of attempt {}, or a higher attempt",
                p.last, p.attempt
            );
            self.nack(producer, seq, attempt, Refusal::new(RejectCode::OutOfOrder, message));
            return false;
        }
        p.last = seq;
        if let Some(&held) = p.held.first()
            && seq > held
            && !planted::is(Bug::NoHold)
        {
            // A client inside its window never comes here; one that does not stop is stopped.
            let max = 4 * self.config.max_in_flight_batches as usize;
            if p.window.len() >= max {
                let message = format!("expected at most {max} batches that are not acknowledged");
                self.close(CloseCode::WindowExceeded, message);
                return false;
            }
            let entry = p.window.entry(seq).or_insert(Entry { ticket: None, settled: false, superseded: false });
            // An earlier copy was settled meanwhile; the cumulative ack will say so.
            if !entry.settled {
                // An outcome of an earlier copy that is still to come does not bring this one in.
                entry.ticket = None;
                let message = format!("batch {seq}: batch {held} was refused and has to come again first");
                self.refuse(producer, seq, attempt, Refusal::new(RejectCode::AfterRefused, message));
            }
            return false;
        }
        p.held.remove(&seq);
        // An earlier copy was settled meanwhile; the cumulative ack will say so.
        p.window.get(&seq).is_none_or(|entry| !entry.settled)
    }

    /// The outcome of a submitted batch.
    pub fn settled(&mut self, ticket: u64, outcome: Result<(), Refusal>) {
        let Some(Ticket { producer, generation, seq, attempt, bytes }) = self.tickets.remove(&ticket) else {
            return;
        };
        self.in_flight_bytes -= bytes;
        let Some(p) = self.producers.get_mut(&producer).filter(|p| p.generation == generation) else { return };
        // An earlier copy may have been settled, and acknowledged, before this one.
        let Some(entry) = p.window.get_mut(&seq).filter(|entry| !entry.settled) else { return };
        match outcome {
            Ok(()) => {
                entry.settled = true;
                p.held.remove(&seq);
                Self::advance(p);
            }
            // The newer copy has an outcome of its own.
            Err(_) if entry.ticket.is_some_and(|newer| newer != ticket) => {}
            Err(refusal) if refusal.code.retryable() && (entry.superseded || entry.ticket != Some(ticket)) => {}
            Err(refusal) => self.refuse(producer, seq, attempt, refusal),
        }
    }

    fn refuse(&mut self, producer: ProducerId, seq: u64, attempt: u32, refusal: Refusal) {
        let Some(p) = self.producers.get_mut(&producer) else { return };
        let another_copy =
            |ticket: &Ticket| ticket.producer == producer && ticket.generation == p.generation && ticket.seq == seq;
        if !refusal.code.retryable() && self.tickets.values().any(another_copy) {
            // Whether the number is applied or refused is not known before that copy has its outcome; a resume tells.
            let message =
                format!("batch {seq} was sent again and refused ({}) while a copy is on its way", refusal.message);
            return self.close(CloseCode::UnexpectedFrame, message);
        }
        let Some(entry) = p.window.get_mut(&seq) else { return };
        entry.ticket = None;
        if refusal.code.retryable() {
            p.held.insert(seq);
        } else {
            entry.settled = true;
            p.held.remove(&seq);
            // A lane that has ended may not own the producer any more. Where the batch comes again, it is refused again.
            if self.phase != Phase::Closed {
                self.out.push_back(Action::Skip { producer, seq });
            }
        }
        // The nack goes first, so that the ack that covers it finds a batch already reported.
        self.nack(producer, seq, attempt, refusal);
        if let Some(p) = self.producers.get_mut(&producer) {
            Self::advance(p);
        }
    }

    fn nack(&mut self, producer: ProducerId, seq: u64, attempt: u32, refusal: Refusal) {
        if self.phase == Phase::Closed {
            return;
        }
        self.out.push_back(Action::Send(Frame::Nack(Nack {
            producer,
            seq,
            attempt,
            code: refusal.code,
            retryable: refusal.code.retryable(),
            retry_after_ms: refusal.retry_after_ms,
            message: refusal.message,
        })));
    }

    /// Moves the cumulative ack over what is settled.
    fn advance(p: &mut Producer) {
        while let Some(first) = p.window.first_entry()
            && (first.get().settled || planted::is(Bug::AckOverGap))
        {
            p.acked = *first.key();
            p.ack_due = true;
            first.remove();
        }
    }

    /// Whether to read on. When not, leave bytes unread: flow control then stops the sender.
    pub fn wants_read(&self) -> bool {
        if self.phase == Phase::Closed || self.out.len() >= MAX_WAITING_ACTIONS {
            return false;
        }
        // Without outstanding work no outcome would ever start the reading again, and a batch that has to come again
        // could not come.
        if self.tickets.is_empty() {
            return true;
        }
        let batches = self.tickets.len().max(self.producers.values().map(|p| p.window.len()).sum());
        batches < self.config.max_in_flight_batches as usize
            && self.in_flight_bytes < self.config.max_in_flight_bytes as usize
    }

    /// Batches handed out and not settled.
    pub fn in_flight(&self) -> usize {
        self.tickets.len()
    }

    /// Asks the client to leave: batches on their way are still taken for `drain`, then the lane ends.
    pub fn drain(&mut self, reason: CloseCode, message: &str, drain: Duration, now: Duration) {
        match self.phase {
            Phase::Closed | Phase::Draining { .. } => return,
            Phase::AwaitHello { .. } => return self.close(reason, message.to_owned()),
            Phase::Open => {}
        }
        self.phase = Phase::Draining { until: now + drain };
        let drain_ms = u32::try_from(drain.as_millis()).unwrap_or(u32::MAX);
        self.out.push_back(Action::Send(Frame::GoAway(GoAway { reason, drain_ms, message: message.to_owned() })));
    }

    /// Tells the client why, then ends the lane at once. What was handed out is settled without an answer: the client
    /// learns of it when it resumes.
    pub fn close(&mut self, code: CloseCode, message: String) {
        if self.phase == Phase::Closed {
            return;
        }
        self.push_acks();
        self.phase = Phase::Closed;
        self.out.push_back(Action::Send(Frame::GoAway(GoAway { reason: code, drain_ms: 0, message: message.clone() })));
        self.out.push_back(Action::Close { code, message });
    }

    /// Whether the lane has ended.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Ends the lane when one of its times has come.
    pub fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::AwaitHello { until } if now >= until => {
                self.close(CloseCode::IdleTimeout, format!("no hello within {:?}", self.config.hello_timeout));
            }
            Phase::Draining { until } if now >= until => {
                self.close(CloseCode::ShuttingDown, "the time to drain is over".into());
            }
            Phase::Open if self.idle_deadline().is_some_and(|at| now >= at) => {
                self.close(CloseCode::IdleTimeout, format!("nothing came for {:?}", self.config.idle));
            }
            _ => {}
        }
    }

    /// When to call [`tick`](Self::tick) next.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::AwaitHello { until } | Phase::Draining { until } => Some(until),
            Phase::Open => self.idle_deadline(),
            Phase::Closed => None,
        }
    }

    fn idle_deadline(&self) -> Option<Duration> {
        (!self.config.idle.is_zero() && self.tickets.is_empty()).then(|| self.last_heard + self.config.idle)
    }

    fn push_acks(&mut self) {
        if self.phase == Phase::Closed {
            return;
        }
        for (&producer, p) in &mut self.producers {
            if std::mem::take(&mut p.ack_due) {
                self.out.push_back(Action::Send(Frame::Ack { producer, seq: p.acked }));
            }
        }
    }

    /// What to do next. Acks wait until nothing else is to be done, so that one covers all that was settled together.
    pub fn poll(&mut self) -> Option<Action> {
        if self.out.is_empty() {
            self.push_acks();
        }
        if self.out.is_empty() && self.finished && self.tickets.is_empty() && self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            return Some(Action::Close { code: CloseCode::Done, message: String::new() });
        }
        self.out.pop_front()
    }
}
