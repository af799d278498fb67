//! A client, the lanes that it opens, and a model of a node's shards, in one thread with made-up time and faults.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use ::bytes::Bytes;

use crate::session::*;
use crate::wire::{CloseCode, Durability, FrameReader, ProducerId, RejectCode};

/// A repeatable source of choices.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        bound > 0 && self.below(bound) == 0
    }
}

/// How often things go wrong: one in so many, 0 = never.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub cut: u64,
    pub overloaded: u64,
    pub disk_full: u64,
    pub flip: u64,
    /// Batches that are refused for good.
    pub bad: u64,
    /// Batches that are refused for good from some attempt on, as when a grant is taken away.
    pub sour: u64,
}

enum Job {
    Append { lane: u64, submission: Submission },
    Skip { producer: ProducerId, seq: u64 },
}

/// What a shard owes: order and deduplication by producer.
#[derive(Default)]
struct Shard {
    queue: VecDeque<Job>,
    highest: HashMap<ProducerId, u64>,
    gates: HashMap<ProducerId, u64>,
    applied: Vec<(ProducerId, u64)>,
}

impl Shard {
    fn take(&mut self, submission: &Submission, full: bool) -> Result<(), Refusal> {
        let (producer, seq) = (submission.producer, submission.seq);
        if seq <= self.highest.get(&producer).copied().unwrap_or(0) {
            return Ok(());
        }
        match self.gates.get(&producer) {
            Some(&gate) if seq > gate => return Err(Refusal::new(RejectCode::AfterRefused, "after a refused one")),
            Some(&gate) if seq == gate => drop(self.gates.remove(&producer)),
            _ => {}
        }
        if full {
            self.gates.insert(producer, seq);
            return Err(Refusal { retry_after_ms: 5, ..Refusal::new(RejectCode::DiskFull, "full") });
        }
        self.highest.insert(producer, seq);
        self.applied.push((producer, seq));
        Ok(())
    }
}

struct Lane {
    id: u64,
    session: ServerSession,
    reader: FrameReader,
    to_node: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// The client still listens.
    alive: bool,
    closed: Option<CloseCode>,
}

pub struct World {
    pub random: Random,
    pub faults: Faults,
    pub now: Duration,
    pub client: ClientSession,
    reader: FrameReader,
    lanes: Vec<Lane>,
    producers: Producers,
    shards: Vec<Shard>,
    /// Outcomes on their way from a shard's thread to its lane.
    outcomes: VecDeque<(u64, u64, Result<(), Refusal>)>,
    next_lane: u64,
    /// What became of each batch that was pushed.
    pub fates: BTreeMap<u64, Fate>,
    /// Bytes delivered, and after how many the connection is cut once.
    pub delivered: u64,
    pub cut_at: Option<u64>,
    pub retries: u64,
}

#[derive(Debug, Default)]
pub struct Fate {
    pub shard: usize,
    pub bad: bool,
    pub sour: bool,
    pub settled: u32,
    pub refused: u32,
}

pub const MAX_FRAME: u32 = 200;

fn server_config(shards: usize) -> ServerConfig {
    ServerConfig {
        shard_count: shards as u32,
        max_frame_bytes: MAX_FRAME,
        max_in_flight_bytes: 600,
        max_in_flight_batches: 8,
        idle: Duration::ZERO,
        ..ServerConfig::default()
    }
}

impl World {
    pub fn new(seed: u64, shards: usize, faults: Faults, config: ClientConfig) -> Self {
        Self {
            random: Random(seed | 1),
            faults,
            now: Duration::from_secs(1),
            client: ClientSession::new(config, ProducerId(77), None),
            reader: FrameReader::new(0),
            lanes: Vec::new(),
            producers: Producers::default(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            outcomes: VecDeque::new(),
            next_lane: 1,
            fates: BTreeMap::new(),
            delivered: 0,
            cut_at: None,
            retries: 0,
        }
    }

    fn connect(&mut self) {
        let id = self.next_lane;
        self.next_lane += 1;
        let session = ServerSession::new(server_config(self.shards.len()), self.now);
        let reader = FrameReader::new(session.max_frame_bytes());
        let (to_node, to_client) = Default::default();
        self.lanes.push(Lane { id, session, reader, to_node, to_client, alive: true, closed: None });
        self.reader = FrameReader::new(0);
        self.client.connected();
    }

    /// The client loses its connection; what it sent before may still reach the node.
    pub fn cut(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.alive = false);
        self.client.disconnected();
    }

    fn connected(&self) -> bool {
        self.lanes.last().is_some_and(|lane| lane.alive)
    }

    pub fn push(&mut self) {
        let Some(shards) = self.client.shard_count() else { return };
        let shard = self.random.below(u64::from(shards)) as u32;
        let bad = self.random.one_in(self.faults.bad);
        // What is too long for the welcome is refused here already; the node's own check is tested by itself.
        let length = 1 + self.random.below(u64::from(MAX_FRAME) - 1) as usize;
        let mut payload = vec![shard as u8; length];
        payload[0] = u8::from(bad) << 7 | shard as u8;
        match self.client.push(payload.into(), 1, &format!("device of {shard}"), shard, Durability::Durable) {
            Ok(seq) => {
                self.fates.insert(seq, Fate { shard: shard as usize, bad, ..Fate::default() });
            }
            Err(PushError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Does one thing, chosen at random.
    pub fn step(&mut self) {
        if self.random.one_in(self.faults.cut) {
            self.cut();
        }
        match self.random.below(9) {
            0 if !self.connected() => self.connect(),
            1 => self.write(),
            2 | 3 => self.node_hears(),
            4 | 5 => self.client_hears(),
            6 => _ = self.work(),
            7 => _ = self.tell(),
            _ => self.now += Duration::from_millis(self.random.below(30)),
        }
        self.events();
    }

    /// Does everything until the client has nothing left to wait for.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.connected() {
                self.connect();
            }
            self.write();
            (0..self.lanes.len()).for_each(|lane| self.deliver_to_node(lane, usize::MAX));
            while self.work() || self.tell() {}
            self.client_hears();
            self.now += Duration::from_millis(10);
            self.events();
            if self.client.buffered().0 == 0 {
                return;
            }
        }
        panic!("nothing settles any more: {:?}", self.client);
    }

    fn write(&mut self) {
        if let Some(lane) = self.lanes.last_mut().filter(|lane| lane.alive)
            && let Some(frame) = self.client.poll_send(self.now)
        {
            let mut bytes = frame.to_chunks().concat();
            if self.random.one_in(self.faults.flip) {
                let bit = self.random.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            lane.to_node.extend(bytes);
        }
    }

    fn count_delivered(&mut self, count: usize) -> usize {
        let count = match self.cut_at {
            Some(at) => count.min((at - self.delivered) as usize),
            None => count,
        };
        self.delivered += count as u64;
        count
    }

    fn node_hears(&mut self) {
        if self.lanes.is_empty() {
            return;
        }
        let lane = self.random.below(self.lanes.len() as u64) as usize;
        let count = 1 + self.random.below(400) as usize;
        self.deliver_to_node(lane, count);
    }

    fn deliver_to_node(&mut self, index: usize, count: usize) {
        if self.lanes[index].session.wants_read() {
            let count = count.min(self.lanes[index].to_node.len());
            let count = self.count_delivered(count);
            let lane = &mut self.lanes[index];
            let chunk: Bytes = lane.to_node.drain(..count).collect();
            lane.reader.feed(chunk);
        }
        // As a server does: as long as the session wants to read, one frame and what follows from it.
        while self.lanes[index].session.wants_read() {
            let lane = &mut self.lanes[index];
            match lane.reader.next() {
                Ok(Some(received)) => lane.session.receive(received, self.now, 0),
                Ok(None) => break,
                Err(error) => lane.session.broken(&error),
            }
            self.act(index);
        }
        if self.cut_at == Some(self.delivered) {
            self.cut_at = None;
            self.cut();
        }
    }

    fn act(&mut self, index: usize) {
        loop {
            let id = self.lanes[index].id;
            let Some(action) = self.lanes[index].session.poll() else { return };
            match action {
                Action::Send(frame) => {
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes);
                    self.lanes[index].to_client.extend(bytes);
                }
                Action::Close { code, .. } => self.lanes[index].closed = Some(code),
                Action::LookUp { producer, devices } => {
                    if let Some(loser) = self.producers.claim(producer, id) {
                        self.lanes.iter_mut().filter(|l| l.id == loser).for_each(|l| l.session.fence(producer));
                    }
                    let shard = |device: &str| device.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
                    let highest = |d: &String| self.shards[shard(d)].highest.get(&producer).copied().unwrap_or(0);
                    let settled = devices.iter().map(highest).collect();
                    self.lanes[index].session.resumed(producer, settled);
                }
                Action::Submit(submission) => self.submit(index, submission),
                Action::Skip { producer, .. } if !self.producers.owns(producer, id) => {}
                Action::Skip { producer, seq } => {
                    self.shards.iter_mut().for_each(|shard| shard.queue.push_back(Job::Skip { producer, seq }));
                }
            }
        }
    }

    fn submit(&mut self, index: usize, submission: Submission) {
        let id = self.lanes[index].id;
        let first = submission.payload[0];
        let fate = self.fates.get_mut(&submission.seq).unwrap();
        fate.sour |= self.random.one_in(self.faults.sour);
        let sour = fate.sour;
        let refusal = if !self.producers.owns(submission.producer, id) {
            Some(Refusal::new(RejectCode::AfterRefused, "resumed elsewhere"))
        } else if first & 0x80 != 0 {
            Some(Refusal::new(RejectCode::Malformed, "bad"))
        } else if sour {
            Some(Refusal::new(RejectCode::NotAuthorised, "grant taken away"))
        } else if self.random.one_in(self.faults.overloaded) {
            Some(Refusal { retry_after_ms: 3, ..Refusal::new(RejectCode::Overloaded, "queue full") })
        } else {
            None
        };
        match refusal {
            Some(refusal) => self.lanes[index].session.settled(submission.ticket, Err(refusal)),
            None => self.shards[usize::from(first)].queue.push_back(Job::Append { lane: id, submission }),
        }
    }

    /// A shard takes its next batch. False when all are idle.
    fn work(&mut self) -> bool {
        let busy: Vec<usize> = (0..self.shards.len()).filter(|&s| !self.shards[s].queue.is_empty()).collect();
        if busy.is_empty() {
            return false;
        }
        let shard = busy[self.random.below(busy.len() as u64) as usize];
        let full = self.random.one_in(self.faults.disk_full);
        match self.shards[shard].queue.pop_front().unwrap() {
            Job::Append { lane, submission } => {
                let outcome = self.shards[shard].take(&submission, full);
                self.outcomes.push_back((lane, submission.ticket, outcome));
            }
            Job::Skip { producer, seq } => {
                let gates = &mut self.shards[shard].gates;
                if gates.get(&producer) == Some(&seq) {
                    gates.remove(&producer);
                }
            }
        }
        true
    }

    /// A lane hears of its next outcome. False when there is none.
    fn tell(&mut self) -> bool {
        let Some((lane, ticket, outcome)) = self.outcomes.pop_front() else { return false };
        let index = self.lanes.iter().position(|l| l.id == lane).unwrap();
        self.lanes[index].session.settled(ticket, outcome);
        self.act(index);
        true
    }

    fn client_hears(&mut self) {
        let Some(index) = self.lanes.iter().rposition(|lane| lane.alive) else { return };
        let count = (1 + self.random.below(400) as usize).min(self.lanes[index].to_client.len());
        let count = self.count_delivered(count);
        let lane = &mut self.lanes[index];
        self.reader.feed(lane.to_client.drain(..count).collect());
        while let Some(received) = self.reader.next().unwrap() {
            self.client.receive(received, self.now);
        }
        let ended = lane.closed.is_some() && lane.to_client.is_empty();
        if ended || self.cut_at == Some(self.delivered) {
            self.cut_at = self.cut_at.filter(|&at| at != self.delivered);
            self.cut();
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Settled(batch) => {
                    let fate = self.fates.get_mut(&batch.seq).unwrap();
                    fate.settled += 1;
                    let applied = self.shards[fate.shard].applied.contains(&(ProducerId(77), batch.seq));
                    assert!(
                        applied || fate.bad || fate.sour,
                        "batch {} is acknowledged and was not applied",
                        batch.seq
                    );
                }
                ClientEvent::Refused { batch, code, .. } => {
                    let fate = self.fates.get_mut(&batch.seq).unwrap();
                    fate.refused += 1;
                    assert!(
                        fate.bad && code == RejectCode::Malformed || fate.sour && code == RejectCode::NotAuthorised
                    );
                }
                ClientEvent::Retrying { .. } => self.retries += 1,
                ClientEvent::Broken { message, .. } => panic!("{message}"),
                ClientEvent::GoAway(_) | ClientEvent::Welcome(_) | ClientEvent::Ready => {}
                ClientEvent::ShardCountChanged { .. } => panic!("the node has the same shards all the time"),
            }
        }
    }

    /// Each batch was told once, applied once, and in order.
    pub fn check(&self, refusals_are_exact: bool) {
        for shard in &self.shards {
            let seqs: Vec<u64> = shard.applied.iter().map(|(_, seq)| *seq).collect();
            assert!(seqs.is_sorted_by(|a, b| a < b), "applied in order, each once: {seqs:?}");
        }
        for (seq, fate) in &self.fates {
            assert_eq!(fate.settled + fate.refused, 1, "batch {seq}: {fate:?}");
            let applied = self.shards[fate.shard].applied.iter().filter(|(_, s)| s == seq).count();
            if fate.sour {
                // It may have been applied before the grant went, with the ack lost.
                assert!(applied <= 1, "batch {seq}: {fate:?}");
                continue;
            }
            assert_eq!(applied, usize::from(!fate.bad), "batch {seq}: {fate:?}");
            assert!(fate.refused == 0 || fate.bad, "batch {seq}: {fate:?}");
            assert!(!refusals_are_exact || fate.bad == (fate.refused == 1), "batch {seq}: {fate:?}");
        }
        assert!(self.lanes.iter().all(|lane| lane.session.in_flight() == 0));
    }
}
