//! Owns the node of the simulation: its engine, and the glue between lanes and engine that the server has in
//! `ingest/src/server/lane.rs`, without sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidewell_codec::{BatchLimits, decode_batch};
use tidewell_engine::clock::Clock;
use tidewell_engine::{self as engine, Append, AppendSink, Engine, RefusalCode};
use tidewell_ingest::session::{Action, Producers, Refusal, ServerConfig, ServerSession, Submission};
use tidewell_ingest::wire::{CloseCode, Frame, FrameReader, ProducerId, RejectCode};

use crate::batches::Key;
use crate::model::Change;

/// The clock of everything.
#[derive(Debug, Default)]
pub struct SimClock(pub AtomicI64);

impl Clock for SimClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened in the engine, in order.
pub enum Event {
    /// A batch has its outcome.
    Settled { lane: u64, ticket: u64, key: Key, outcome: Result<(), engine::Refusal> },
    /// Something else changed the rows.
    Changed(Change),
    /// Something else may have changed the rows.
    Uncertain(Change),
}

/// Where the engine tells what happened.
pub type Events = Arc<Mutex<VecDeque<Event>>>;

struct Sink {
    lane: u64,
    key: Key,
    events: Events,
}

impl AppendSink for Sink {
    fn settled(&self, ticket: u64, outcome: Result<(), engine::Refusal>) {
        self.events.lock().push_back(Event::Settled { lane: self.lane, ticket, key: self.key, outcome });
    }
}

/// One lane of a client.
pub struct Lane {
    /// Rises with every lane.
    pub id: u64,
    session: ServerSession,
    reader: FrameReader,
    /// Bytes on their way.
    pub to_node: VecDeque<u8>,
    /// Bytes on their way back.
    pub to_client: VecDeque<u8>,
    /// A batch for which there was no room in the shard's queue, and how often that was so.
    waiting: Option<(Submission, u32)>,
    /// Why the node ended it.
    pub closed: Option<CloseCode>,
}

/// What a lane had done that the world must know.
pub enum Done {
    /// A batch went to the engine.
    Handed(Key),
    /// A batch was refused for good before that.
    Refused(Key, String),
}

/// A running node.
pub struct Node {
    /// Its engine.
    pub engine: Arc<Engine>,
    /// Its lanes.
    pub lanes: BTreeMap<u64, Lane>,
    producers: Producers,
    events: Events,
    clock: Arc<SimClock>,
}

/// How often a batch is offered to a full queue before it is refused for now.
const QUEUE_TRIES: u32 = 2;

fn session_config(shards: u32) -> ServerConfig {
    ServerConfig {
        shard_count: shards,
        max_frame_bytes: 64 << 10,
        max_in_flight_bytes: 8 << 10,
        max_in_flight_batches: 8,
        idle: Duration::ZERO,
        ..ServerConfig::default()
    }
}

impl Node {
    /// A node around an open engine.
    pub fn new(engine: Arc<Engine>, events: Events, clock: Arc<SimClock>) -> Self {
        Self { engine, lanes: BTreeMap::new(), producers: Producers::default(), events, clock }
    }

    /// A client opens a lane.
    pub fn connect(&mut self, id: u64, now: Duration) {
        let session = ServerSession::new(session_config(self.engine.shard_count()), now);
        let reader = FrameReader::new(session.max_frame_bytes());
        let (to_node, to_client) = Default::default();
        self.lanes.insert(id, Lane { id, session, reader, to_node, to_client, waiting: None, closed: None });
    }

    /// At most `count` bytes of a lane arrive, and the node does what they ask for.
    pub fn hear(&mut self, lane: u64, count: usize, now: Duration) -> Vec<Done> {
        let mut done = Vec::new();
        let Some(at) = self.lanes.get_mut(&lane) else { return done };
        if let Some((submission, tries)) = at.waiting.take() {
            self.submit(lane, submission, tries, &mut done);
            self.act(lane, &mut done);
        }
        if let Some(at) = self.lanes.get_mut(&lane)
            && at.may_read()
        {
            let count = count.min(at.to_node.len());
            let chunk: Bytes = at.to_node.drain(..count).collect();
            at.reader.feed(chunk);
        }
        // As a server does: as long as the session wants to read, one frame and what follows from it.
        while let Some(at) = self.lanes.get_mut(&lane).filter(|at| at.may_read()) {
            match at.reader.next() {
                Ok(Some(received)) => at.session.receive(received, now, self.clock.now_ns()),
                Ok(None) => break,
                Err(error) => at.session.broken(&error),
            }
            self.act(lane, &mut done);
        }
        done
    }

    /// A lane hears of an outcome.
    pub fn settle(&mut self, lane: u64, ticket: u64, outcome: Result<(), engine::Refusal>) -> Vec<Done> {
        let mut done = Vec::new();
        if let Some(at) = self.lanes.get_mut(&lane) {
            at.session.settled(ticket, outcome.map_err(refusal_of_engine));
            self.act(lane, &mut done);
        }
        done
    }

    fn act(&mut self, lane: u64, done: &mut Vec<Done>) {
        while let Some(action) = self.lanes.get_mut(&lane).and_then(|at| at.session.poll()) {
            match action {
                Action::Send(frame) => self.send(lane, &frame),
                Action::Close { code, .. } => {
                    if let Some(at) = self.lanes.get_mut(&lane) {
                        at.closed = Some(code);
                    }
                }
                Action::LookUp { producer, devices } => {
                    if let Some(loser) = self.producers.claim(producer, lane)
                        && let Some(loser) = self.lanes.get_mut(&loser)
                    {
                        loser.session.fence(producer);
                    }
                    let id = engine::ProducerId(producer.0);
                    let settled = devices.iter().map(|device| self.engine.last_settled(id, device).0).collect();
                    if let Some(at) = self.lanes.get_mut(&lane) {
                        at.session.resumed(producer, settled);
                    }
                }
                Action::Submit(submission) => self.submit(lane, submission, 0, done),
                Action::Skip { producer, seq } => {
                    if self.producers.owns(producer, lane) {
                        self.engine.skip(engine::ProducerId(producer.0), engine::SeqNo(seq));
                    }
                }
            }
        }
    }

    fn send(&mut self, lane: u64, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        if let Some(at) = self.lanes.get_mut(&lane) {
            at.to_client.extend(bytes);
        }
    }

    fn submit(&mut self, lane: u64, submission: Submission, tries: u32, done: &mut Vec<Done>) {
        let Submission { ticket, producer, seq, durability, payload } = submission;
        let key = (producer.0, seq);
        let received_ns = self.clock.now_ns();
        let limits = BatchLimits::default();
        let judged = decode_batch(&payload, &limits)
            .map_err(|error| Refusal::new(RejectCode::Malformed, error.to_string()))
            .and_then(|batch| {
                self.engine.check(&batch, received_ns).map_err(refusal_of_engine)?;
                Ok(batch)
            });
        let batch = match judged {
            Ok(batch) => batch,
            Err(refusal) => {
                done.push(Done::Refused(key, refusal.message.clone()));
                return self.told(lane, ticket, Err(refusal));
            }
        };
        if !self.owns(producer, lane) {
            let refusal = Refusal::new(RejectCode::AfterRefused, format!("{producer} was resumed on another lane"));
            return self.told(lane, ticket, Err(refusal));
        }
        let append = Append {
            producer: engine::ProducerId(producer.0),
            seq: engine::SeqNo(seq),
            payload: payload.clone(),
            batch,
            received_ns,
            durability: engine::Durability::Durable,
            ticket,
            sink: Arc::new(Sink { lane, key, events: Arc::clone(&self.events) }),
        };
        match self.engine.append(append) {
            Ok(()) => done.push(Done::Handed(key)),
            Err(refusal) if refusal.code == RefusalCode::Overloaded && tries < QUEUE_TRIES => {
                // Not reading is the better answer: flow control stops the sender, and its order stays as it is.
                if let Some(at) = self.lanes.get_mut(&lane) {
                    let submission = Submission { ticket, producer, seq, durability, payload };
                    at.waiting = Some((submission, tries + 1));
                }
            }
            Err(refusal) => self.told(lane, ticket, Err(refusal_of_engine(refusal))),
        }
    }

    fn owns(&self, producer: ProducerId, lane: u64) -> bool {
        self.producers.owns(producer, lane)
    }

    fn told(&mut self, lane: u64, ticket: u64, outcome: Result<(), Refusal>) {
        if let Some(at) = self.lanes.get_mut(&lane) {
            at.session.settled(ticket, outcome);
        }
    }
}

impl Lane {
    fn may_read(&self) -> bool {
        self.waiting.is_none() && self.session.wants_read()
    }
}

fn refusal_of_engine(refusal: engine::Refusal) -> Refusal {
    let code = match refusal.code {
        RefusalCode::Malformed => RejectCode::Malformed,
        RefusalCode::MixedShards => RejectCode::MixedShards,
        RefusalCode::TypeConflict => RejectCode::TypeConflict,
        RefusalCode::TooLarge => RejectCode::TooLarge,
        RefusalCode::DiskFull => RejectCode::DiskFull,
        RefusalCode::ShardPoisoned => RejectCode::ShardPoisoned,
        RefusalCode::Overloaded => RejectCode::Overloaded,
        RefusalCode::AfterRefused => RejectCode::AfterRefused,
        RefusalCode::ShuttingDown => RejectCode::ShuttingDown,
    };
    Refusal { retry_after_ms: if code.retryable() { 5 } else { 0 }, ..Refusal::new(code, refusal.message) }
}
