//! Owns the world of one run: who is in it, what happens at a step, what must be true after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidewell_engine::memory::MemoryBudget;
use tidewell_engine::storage::Memory;
use tidewell_engine::storage::faulty::Fault;
use tidewell_engine::{BackupView, Engine, EngineConfig, RefusalCode};
use tidewell_ingest::session::ClientEvent;

use crate::batches::{Batches, Fate};
use crate::check;
use crate::client::Client;
use crate::coverage::{Coverage, Phase};
use crate::disk::Disk;
use crate::model::{Change, DAY_NS, Model};
use crate::node::{Done, Event, Events, Node, SimClock};
use crate::random::Random;

/// What differs from run to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the node.
    pub shards: u32,
    /// Clients.
    pub clients: usize,
    /// How often the disk fails: a step in so many; 0 = never.
    pub faults: u64,
    /// How often the node dies: a step in so many; 0 = never.
    pub deaths: u64,
    /// How often the network cuts and flips: a step in so many; 0 = never.
    pub network: u64,
    /// Bytes of memtables.
    pub memtable_bytes: usize,
    /// Rows of a merged file.
    pub segment_rows_max: u64,
    /// Bytes of a log file.
    pub log_file_bytes: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x005e_ed0f_91a2);
        Self {
            shards: 1 + random.below(2) as u32,
            clients: 1 + random.below(3) as usize,
            faults: *random.pick(&[0, 60, 30]),
            deaths: *random.pick(&[80, 40, 20]),
            network: *random.pick(&[0, 40, 15]),
            memtable_bytes: *random.pick(&[24 << 10, 96 << 10, 1 << 20]),
            segment_rows_max: *random.pick(&[100, 1_000, 1 << 20]),
            log_file_bytes: *random.pick(&[8 << 10, 32 << 10, 256 << 10]),
        }
    }
}

/// A violation of what must be true.
pub type Broken = String;

/// Everybody.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Duration,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) disk: Disk,
    pub(crate) node: Option<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) model: Model,
    pub(crate) batches: Batches,
    pub(crate) events: Events,
    /// Changes of which nobody knows whether they happened.
    pub(crate) uncertain: Vec<Change>,
    /// What the next open may also find: changes that failed may be on the disk all the same.
    alternatives: Vec<Model>,
    /// The manifest takes nothing any more.
    pub(crate) stopped: bool,
    /// A backup that is being copied, and what it must hold.
    pub(crate) backup: Option<(BackupView, Model)>,
    serial: i64,
    next_lane: u64,
    /// What happened, a line each.
    pub story: Vec<String>,
    /// What was met.
    pub coverage: Coverage,
}

/// When every run begins: noon of some day.
const BEGIN_NS: i64 = 20_000 * DAY_NS + DAY_NS / 2;

impl World {
    /// A new world with an empty disk, and a node that runs.
    ///
    /// # Errors
    /// The node does not open.
    pub fn new(plan: Plan) -> Result<Self, Broken> {
        let clock = Arc::new(SimClock::default());
        clock.0.store(BEGIN_NS, Ordering::Relaxed);
        let mut world = Self {
            clients: (0..plan.clients).map(|id| Client::new(id, plan.shards)).collect(),
            plan,
            now: Duration::from_secs(1),
            clock,
            disk: Disk::over(Memory::new()),
            node: None,
            model: Model::default(),
            batches: Batches::default(),
            events: Events::default(),
            uncertain: Vec::new(),
            alternatives: Vec::new(),
            stopped: false,
            backup: None,
            serial: 0,
            next_lane: 1,
            story: Vec::new(),
            coverage: Coverage::default(),
        };
        world.open()?;
        Ok(world)
    }

    pub(crate) fn now_ns(&self) -> i64 {
        self.clock.0.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.clock.0.fetch_add(by.as_nanos() as i64, Ordering::Relaxed);
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = (self.now_ns() - BEGIN_NS) as f64 / 1e9;
        self.story.push(format!("{at:>12.3} s  {}", line()));
    }

    pub(crate) fn config(&self) -> EngineConfig {
        EngineConfig {
            shards: Some(self.plan.shards),
            memory: MemoryBudget::new(256 << 20),
            memtable_bytes: self.plan.memtable_bytes,
            log_file_bytes: self.plan.log_file_bytes,
            segment_rows_max: self.plan.segment_rows_max,
            queue_batches: 6,
            block_cache_bytes: 1 << 20,
            ..EngineConfig::default()
        }
    }

    /// Does one step, all of whose choices come out of `step`; then looks at what follows from it.
    ///
    /// # Errors
    /// What must be true is not.
    pub fn step(&mut self, step: u64) -> Result<(), Broken> {
        let mut random = Random::new(step);
        self.advance(Duration::from_millis(random.below(2_000)));
        self.plan_faults(&mut random);
        match random.below(100) {
            0..20 => self.client_pushes(&mut random),
            20..52 => self.network(&mut random)?,
            52..54 => self.connection(&mut random),
            54..55 => self.client_dies(&mut random),
            55..58 => self.time_passes(&mut random),
            58..61 => self.questions(&mut random)?,
            _ => self.operate(&mut random)?,
        }
        self.hear_of_events()?;
        self.look_at_disk(&mut random)
    }

    fn plan_faults(&mut self, random: &mut Random) {
        if random.one_in(self.plan.deaths) {
            if random.one_in(2) {
                let after = random.below(30);
                self.tell(|| format!("the node will die after {after} operations of its disk"));
                self.disk.halt_in(after);
            } else {
                let (phase, later) = (*random.pick(&Phase::ALL), random.below(4));
                self.tell(|| format!("the node will die in {phase:?}, {later} operations of it from here"));
                self.disk.halt_at(phase, later);
            }
        }
        if random.one_in(self.plan.faults) {
            match random.below(5) {
                3 | 4 => {
                    let phase = *random.pick(&Phase::ALL);
                    let fault = if random.one_in(4) { Fault::Enospc } else { Fault::Eio };
                    self.tell(|| format!("the next operation in {phase:?} fails: {fault:?}"));
                    self.disk.fail_next(phase, fault);
                }
                0 => {
                    let refusals = 1 + random.below(12) as u32;
                    self.tell(|| format!("the disk is full for {refusals} questions"));
                    self.disk.fill_up(refusals);
                    self.coverage.count("disk full");
                }
                1 => {
                    let n = 1 + random.below(20);
                    self.tell(|| format!("operation {n} from here finds the disk full"));
                    self.disk.fail_in(n, Fault::Enospc);
                }
                _ => {
                    let n = 1 + random.below(20);
                    self.tell(|| format!("operation {n} from here fails"));
                    self.disk.fail_in(n, Fault::Eio);
                }
            }
        }
    }

    /// Some bytes move, here and there.
    fn network(&mut self, random: &mut Random) -> Result<(), Broken> {
        for _ in 0..1 + random.below(12) {
            match random.below(3) {
                0 => self.client_writes(random),
                1 => self.node_hears(random)?,
                _ => self.client_hears(random)?,
            }
        }
        let lonely = self.clients.iter().position(|client| client.lane.is_none());
        if let Some(at) = lonely.filter(|_| random.one_in(3)) {
            self.connect(at);
        }
        Ok(())
    }

    fn client_pushes(&mut self, random: &mut Random) {
        let at = random.below(self.clients.len() as u64) as usize;
        let now_ns = self.now_ns();
        if let Some((key, sent)) = self.clients[at].push(random, now_ns, &mut self.serial) {
            self.tell(|| {
                let (rows, table) = (sent.rows.len(), &sent.table);
                let bad = if sent.bad { ", which is no batch" } else { "" };
                format!("client {at} makes batch {} of {:x}: {rows} rows for {table}{bad}", key.1, key.0)
            });
            self.coverage.count("batches");
            self.batches.add(key, sent);
        }
    }

    fn client_writes(&mut self, random: &mut Random) {
        let at = random.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[at];
        let lane = client.lane.and_then(|lane| self.node.as_mut()?.lanes.get_mut(&lane));
        let Some(lane) = lane else { return };
        for _ in 0..1 + random.below(4) {
            let Some(frame) = client.session.poll_send(self.now) else { break };
            let mut bytes = frame.to_chunks().concat();
            if random.one_in(self.plan.network * 2) {
                let bit = random.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
                self.coverage.count("flipped bits");
            }
            lane.to_node.extend(bytes);
        }
    }

    fn node_hears(&mut self, random: &mut Random) -> Result<(), Broken> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let lanes: Vec<u64> = node.lanes.keys().copied().collect();
        if lanes.is_empty() {
            return Ok(());
        }
        let lane = *random.pick(&lanes);
        let count = if random.one_in(2) { usize::MAX } else { 1 + random.below(600) as usize };
        let done = node.hear(lane, count, self.now);
        self.note_done(done)?;
        self.hear_of_events()
    }

    fn note_done(&mut self, done: Vec<Done>) -> Result<(), Broken> {
        for done in done {
            match done {
                Done::Handed(key) => self.batches.hand_over(key),
                Done::Refused(key, message) => {
                    self.tell(|| format!("batch {} of {:x} is refused for good: {message}", key.1, key.0));
                    self.batches.refused(key, &message)?;
                }
            }
        }
        Ok(())
    }

    fn client_hears(&mut self, random: &mut Random) -> Result<(), Broken> {
        let at = random.below(self.clients.len() as u64) as usize;
        let count = if random.one_in(2) { usize::MAX } else { 1 + random.below(200) as usize };
        self.deliver_to_client(at, count)
    }

    pub(crate) fn deliver_to_client(&mut self, at: usize, count: usize) -> Result<(), Broken> {
        let client = &mut self.clients[at];
        let lane = client.lane.and_then(|lane| self.node.as_mut()?.lanes.get_mut(&lane));
        let Some(lane) = lane else { return Ok(()) };
        let count = count.min(lane.to_client.len());
        let chunk: Vec<u8> = lane.to_client.drain(..count).collect();
        let ended = lane.closed.is_some() && lane.to_client.is_empty();
        client.reader.feed(chunk.into());
        while let Some(received) = client.reader.next().map_err(|error| format!("a node writes no frames: {error}"))? {
            client.session.receive(received, self.now);
        }
        while let Some(event) = client.session.poll_event() {
            match event {
                ClientEvent::Settled(batch) => {
                    client.spool.remove(&batch.seq);
                    self.batches.told(client.key(batch.seq))?;
                }
                ClientEvent::Refused { batch, message, .. } => {
                    client.spool.remove(&batch.seq);
                    self.batches.refused(client.key(batch.seq), &message)?;
                }
                ClientEvent::Broken { message, .. } => return Err(format!("the node broke the protocol: {message}")),
                ClientEvent::ShardCountChanged { before, now } => {
                    return Err(format!("the node has {now} shards and had {before}"));
                }
                ClientEvent::Retrying { .. } => self.coverage.count("retries"),
                ClientEvent::Welcome(_) | ClientEvent::Ready | ClientEvent::GoAway(_) => {}
            }
        }
        if ended {
            self.clients[at].disconnect();
        }
        Ok(())
    }

    fn connection(&mut self, random: &mut Random) {
        let at = random.below(self.clients.len() as u64) as usize;
        if self.clients[at].lane.is_none() {
            self.connect(at);
        } else if random.one_in(self.plan.network / 10) {
            // What was sent may still arrive, on the old lane, while the client goes on with a new one.
            self.tell(|| format!("client {at} loses its lane"));
            self.clients[at].disconnect();
            self.coverage.count("cuts");
            if random.one_in(2) {
                self.connect(at);
                self.coverage.count("migrations");
            }
        }
    }

    pub(crate) fn connect(&mut self, at: usize) {
        let Some(node) = &mut self.node else { return };
        let lane = self.next_lane;
        self.next_lane += 1;
        node.connect(lane, self.now);
        self.clients[at].connect(lane);
        self.tell(|| format!("client {at} opens lane {lane}"));
    }

    fn client_dies(&mut self, random: &mut Random) {
        let at = random.below(self.clients.len() as u64) as usize;
        if random.one_in(3) {
            let forgotten = self.clients[at].forget();
            self.tell(|| format!("client {at} dies and comes back as somebody new, forgetting {}", forgotten.len()));
            self.batches.forget(forgotten);
            self.coverage.count("clients that forgot");
        } else {
            self.clients[at].restart();
            self.tell(|| format!("client {at} dies and comes back with its spool"));
            self.coverage.count("client deaths");
        }
    }

    fn time_passes(&mut self, random: &mut Random) {
        let by = *random.pick(&[30, 400, 3_700, 40_000]);
        self.advance(Duration::from_secs(by));
        self.tell(|| format!("{by} seconds pass"));
    }

    /// Takes note of what the engine told, in order, and lets the lanes hear of it.
    pub(crate) fn hear_of_events(&mut self) -> Result<(), Broken> {
        loop {
            let Some(event) = self.events.lock().pop_front() else { return Ok(()) };
            match event {
                Event::Settled { lane, ticket, key, outcome } => {
                    match &outcome {
                        Ok(()) => {
                            if let Some(change) = self.batches.applied(key)? {
                                self.tell(|| format!("batch {} of {:x} is durable", key.1, key.0));
                                self.apply(&change);
                            }
                        }
                        Err(refusal) => {
                            self.tell(|| format!("batch {} of {:x} is refused: {refusal}", key.1, key.0));
                            self.coverage.count("refusals for now");
                            match refusal.code {
                                RefusalCode::ShardPoisoned => {}
                                RefusalCode::DiskFull => self.batches.doubt(key),
                                _ => self.batches.taken_back(key),
                            }
                        }
                    }
                    if let Some(node) = &mut self.node {
                        let done = node.settle(lane, ticket, outcome);
                        self.note_done(done)?;
                    }
                }
                Event::Changed(change) => self.apply(&change),
                Event::Uncertain(change) => self.uncertain.push(change),
            }
        }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        self.model.apply(change);
        // They stand for a manifest that has stopped and takes no other change than that which failed.
        if matches!(change, Change::Rows { .. }) {
            self.alternatives.iter_mut().for_each(|model| model.apply(change));
        }
    }

    fn look_at_disk(&mut self, random: &mut Random) -> Result<(), Broken> {
        for phase in self.disk.take_failed() {
            *self.coverage.faults.entry(phase).or_default() += 1;
        }
        if let Some(phase) = self.disk.halted() {
            let phase = if self.backup.is_some() && random.one_in(2) { Phase::Backup } else { phase };
            self.die(random, phase)?;
        }
        if self.node.is_none() {
            return self.open();
        }
        if !self.uncertain.is_empty() {
            self.resolve("after an operation that failed")?;
        }
        Ok(())
    }

    /// The node is gone from one moment to the next; its disk is as a process or a machine leaves it.
    pub(crate) fn die(&mut self, random: &mut Random, phase: Phase) -> Result<(), Broken> {
        let power = random.one_in(2);
        let seed = match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            _ => random.number(),
        };
        let left = if power { self.disk.memory().crash(seed) } else { self.disk.memory().kill() };
        self.tell(|| format!("the node dies in {phase:?}: {}", if power { "power loss" } else { "killed" }));
        *self.coverage.crashes.entry(phase).or_default() += 1;
        self.coverage.count(if power { "power losses" } else { "kills" });
        self.take_down(left);
        if random.one_in(3) {
            let after = random.below(14);
            self.tell(|| format!("the next one will die after {after} operations of its disk"));
            self.disk.halt_in(after);
        }
        Ok(())
    }

    /// Takes the node away; the next one finds the files of `left`.
    pub(crate) fn take_down(&mut self, left: Memory) {
        self.disk.meanwhile(None);
        self.backup = None;
        self.node = None;
        self.events.lock().clear();
        for client in &mut self.clients {
            client.disconnect();
        }
        self.disk = Disk::over(left);
    }

    /// Opens the node on what is on the disk, and compares.
    pub(crate) fn open(&mut self) -> Result<(), Broken> {
        self.disk.set_activity(Some(Phase::Open));
        let storage = Arc::new(self.disk.clone());
        let opened = Engine::open_stepped(storage, self.config(), Arc::clone(&self.clock) as _);
        self.disk.set_activity(None);
        let (engine, report) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let planned = self.disk.halted().is_some() || !self.disk.take_failed().is_empty();
                return if planned { Ok(()) } else { Err(format!("the node does not open: {error}")) };
            }
        };
        let damage = report.log_damage();
        if !damage.is_empty() || !report.set_aside.is_empty() {
            return Err(format!("damage on a disk without rot: {damage:?} {:?}", report.set_aside));
        }
        self.tell(|| format!("the node opens: {} segments, {} records", report.segments, report.records()));
        let engine = Arc::new(engine);
        self.node = Some(Node::new(Arc::clone(&engine), Arc::clone(&self.events), Arc::clone(&self.clock)));
        let id = |producer: u128| tidewell_engine::ProducerId(producer);
        let changes = self.batches.adopt(|key, sent| engine.last_settled(id(key.0), &sent.device).0)?;
        self.coverage.add("adopted batches", changes.len() as u64);
        let mut bases = std::mem::take(&mut self.alternatives);
        bases.insert(0, self.model.clone());
        self.stopped = false;
        self.choose(&bases, &changes, "after an open")?;
        self.alternatives.clear();
        Ok(())
    }

    pub(crate) fn resolve(&mut self, when: &str) -> Result<(), Broken> {
        self.resolve_with(&[], when)
    }

    /// Finds out which of the uncertain changes took effect, each whole or not at all, before `then`.
    pub(crate) fn resolve_with(&mut self, then: &[Change], when: &str) -> Result<(), Broken> {
        let base = [self.model.clone()];
        self.choose(&base, then, when)
    }

    /// All rows and policies must be as one of the bases says, with some of the uncertain changes.
    fn choose(&mut self, bases: &[Model], then: &[Change], when: &str) -> Result<(), Broken> {
        let Some(node) = &self.node else { return Ok(()) };
        let uncertain = std::mem::take(&mut self.uncertain);
        let snapshot = node.engine.snapshot();
        let (mut found, mut others, mut first, mut told) = (None, Vec::new(), None, None);
        for base in bases {
            for choice in 0..1u32 << uncertain.len().min(4) {
                let mut model = base.clone();
                let happened = uncertain.iter().enumerate().filter(|(at, _)| choice >> at & 1 == 1);
                happened.for_each(|(_, change)| model.apply(change));
                then.iter().for_each(|change| model.apply(change));
                if found.is_some() {
                    others.push(model);
                    continue;
                }
                match check::rows(&snapshot, &model).and_then(|()| check::policies(&node.engine, &model)) {
                    Ok(()) => {
                        told = Some(others.len());
                        found = Some(model);
                    }
                    Err(error) => {
                        first.get_or_insert(error);
                        others.push(model);
                    }
                }
            }
        }
        let Some(model) = found else {
            let choices = if others.len() > 1 { " (and so with every choice)" } else { "" };
            return Err(format!("{when}: {}{choices}", first.unwrap_or_default()));
        };
        self.model = model;
        if let Some(at) = told.filter(|_| bases.len() > 1 || !uncertain.is_empty()) {
            self.tell(|| {
                format!("{when}: what was uncertain is as choice {at} of {} says: {uncertain:?}", others.len() + 1)
            });
        }
        if !uncertain.is_empty() {
            self.alternatives.extend(others);
            self.alternatives.dedup();
        }
        Ok(())
    }

    /// Compares everything with the model.
    pub(crate) fn compare(&mut self, when: &str) -> Result<(), Broken> {
        self.hear_of_events()?;
        self.resolve(when)?;
        let Some(node) = &self.node else { return Ok(()) };
        let counted: u64 = node.engine.figures().iter().map(|figures| figures.batches).sum();
        if counted != self.batches.applied {
            return Err(format!("{when}: the node applied {counted} batches, {} were taken", self.batches.applied));
        }
        Ok(())
    }

    /// Ends the run: no more faults, all is sent, all is compared, also after one more loss of power.
    ///
    /// # Errors
    /// What must be true is not.
    pub fn finish(&mut self) -> Result<(), Broken> {
        self.disk.heal();
        self.tell(|| "no more faults".to_owned());
        // What has stopped goes on after a restart.
        if self.node.is_some() && self.disk.halted().is_none() {
            self.restart()?;
        } else {
            let left = self.disk.memory().kill();
            self.take_down(left);
            self.open()?;
        }
        self.settle()?;
        let open: Vec<_> = self.batches.iter().filter(|(_, sent)| !sent.forgotten && sent.fate == Fate::Open).collect();
        if let Some((key, _)) = open.first() {
            return Err(format!("batch {} of {:x} has no fate at the end", key.1, key.0));
        }
        self.compare("at the end")?;
        self.last_checks()
    }

    /// Everybody does what is to be done until no client waits for anything.
    fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..2_000 {
            if self.is_poisoned() {
                self.restart()?;
            }
            for at in 0..self.clients.len() {
                if self.clients[at].lane.is_none() {
                    self.connect(at);
                }
                let client = &mut self.clients[at];
                let Some(node) = &mut self.node else { return Err("there is no node".into()) };
                while let Some(frame) = client.session.poll_send(self.now) {
                    let Some(lane) = client.lane.and_then(|lane| node.lanes.get_mut(&lane)) else { break };
                    lane.to_node.extend(frame.to_chunks().concat());
                }
                let lanes: Vec<u64> = node.lanes.keys().copied().collect();
                for lane in lanes {
                    let Some(node) = &mut self.node else { break };
                    let done = node.hear(lane, usize::MAX, self.now);
                    self.note_done(done)?;
                }
                self.step_shards();
                self.hear_of_events()?;
                self.deliver_to_client(at, usize::MAX)?;
            }
            self.advance(Duration::from_millis(20));
            if self.clients.iter().all(|client| client.session.buffered().0 == 0) {
                return Ok(());
            }
        }
        Err("nothing settles any more".into())
    }
}
