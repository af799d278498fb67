//! Owns a client of the simulation: its devices, its spool, its end of a lane; decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidewell_codec::{Tier, encode_batch, shard_of};
use tidewell_ingest::session::{ClientConfig, ClientSession, OutBatch};
use tidewell_ingest::wire::{Durability, FrameReader, ProducerId};

use crate::batches::{Fate, Key, Sent};
use crate::random::Random;
use crate::rows::{Fields, Row, Value, batch};

/// A client, across its deaths.
pub struct Client {
    /// Its number.
    pub id: usize,
    /// Its end of the lane.
    pub session: ClientSession,
    /// What it hears.
    pub reader: FrameReader,
    /// The lane that it listens to.
    pub lane: Option<u64>,
    /// What it sent, or will, and nobody acknowledged: survives its death.
    pub spool: BTreeMap<u64, OutBatch>,
    producer: u128,
    next_seq: u64,
    shards: u32,
    devices: Vec<String>,
}

/// Tables that clients write to.
pub const TABLES: [&str; 2] = ["t", "u"];

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3_600 * SECOND;

fn session(producer: u128, shards: u32) -> ClientSession {
    let config = ClientConfig {
        max_buffered_batches: 24,
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    ClientSession::new(config, ProducerId(producer), Some(shards))
}

impl Client {
    /// A new client with devices of its own.
    pub fn new(id: usize, shards: u32) -> Self {
        let producer = 0x1000 * (id as u128 + 1);
        Self {
            id,
            session: session(producer, shards),
            reader: FrameReader::new(0),
            lane: None,
            spool: BTreeMap::new(),
            producer,
            next_seq: 1,
            shards,
            devices: (0..3).map(|at| format!("c{id}-d{at}")).collect(),
        }
    }

    /// Its devices.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// The name of a batch of the present life.
    pub fn key(&self, seq: u64) -> Key {
        (self.producer, seq)
    }

    /// Makes a batch and takes it for sending, unless the buffer is full. `serial` numbers all rows of the world.
    pub fn push(&mut self, random: &mut Random, now_ns: i64, serial: &mut i64) -> Option<(Key, Sent)> {
        let first = random.pick(&self.devices).clone();
        let shard = shard_of(&first, self.shards);
        let mates: Vec<&String> = self.devices.iter().filter(|device| shard_of(device, self.shards) == shard).collect();
        let table = if random.one_in(4) { TABLES[1] } else { TABLES[0] };
        // Some write much at a time.
        let count = if random.one_in(12) { 100 + random.below(200) } else { 1 + random.below(12) };
        let late = random.one_in(3);
        let mut rows: Vec<Row> = (0..count)
            .map(|_| {
                *serial += 1;
                let time = if late {
                    // Few places, so that keys meet again.
                    let hours = random.below(96) as i64;
                    (now_ns - hours * HOUR).div_euclid(HOUR) * HOUR + random.below(20) as i64 * 10 * SECOND
                } else {
                    now_ns.div_euclid(SECOND) * SECOND - random.below(300) as i64 * SECOND
                };
                Row { device: (*random.pick(&mates)).clone(), time, fields: fields(random, *serial) }
            })
            .collect();
        if !random.one_in(4) {
            rows.sort_by(|a, b| (&a.device, a.time).cmp(&(&b.device, b.time)));
        }
        let bad = random.one_in(40);
        let mut payload = Vec::new();
        if bad {
            payload = vec![0xab; 20];
        } else {
            encode_batch(&batch(table, &rows), Tier::Hot, &mut payload);
        }
        let out = OutBatch {
            seq: self.next_seq,
            shard,
            device: first.clone(),
            rows: rows.len() as u32,
            durability: Durability::Durable,
            payload: Bytes::from(payload),
        };
        self.session.push_numbered(out.clone()).ok()?;
        let key = self.key(out.seq);
        self.spool.insert(out.seq, out);
        self.next_seq += 1;
        let table = table.to_owned();
        Some((key, Sent { table, rows, device: first, shard, bad, fate: Fate::Open, told: false, forgotten: false }))
    }

    /// Loses its lane; what it sent on it may still arrive.
    pub fn disconnect(&mut self) {
        self.session.disconnected();
        self.lane = None;
    }

    /// Opens another lane.
    pub fn connect(&mut self, lane: u64) {
        self.disconnect();
        self.reader = FrameReader::new(0);
        self.session.connected();
        self.lane = Some(lane);
    }

    /// Dies and comes back with its spool.
    pub fn restart(&mut self) {
        self.lane = None;
        self.session = session(self.producer, self.shards);
        for batch in self.spool.values() {
            self.session.push_numbered(batch.clone()).expect("what was taken once is taken again");
        }
    }

    /// Dies and comes back as somebody new. Gives what is forgotten.
    pub fn forget(&mut self) -> Vec<Key> {
        let forgotten = self.spool.keys().map(|seq| self.key(*seq)).collect();
        self.spool.clear();
        self.producer += 1;
        self.next_seq = 1;
        self.restart();
        forgotten
    }
}

fn fields(random: &mut Random, serial: i64) -> Fields {
    let mut fields = Fields::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    if !random.one_in(5) {
        set("n", Value::I64(serial));
    }
    if !random.one_in(4) {
        let v = match random.below(30) {
            0 => f64::NAN,
            1 => -0.0,
            2 => 1e300,
            _ => (random.below(4_000) as f64 - 1_000.0) / 4.0,
        };
        set("v", Value::F64(v.to_bits()));
    }
    if random.one_in(3) {
        set("b", Value::Bool(random.one_in(2)));
    }
    if random.one_in(3) {
        set("s", Value::Utf8(format!("text {}", random.below(5))));
    }
    if random.one_in(20) {
        set(&format!("x{}", random.below(4)), Value::I64(serial));
    }
    if fields.is_empty() {
        fields.insert("n".to_owned(), Value::I64(serial));
    }
    fields
}
