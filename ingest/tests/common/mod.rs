//! Owns what the behaviour tests share: certificates, a node on a free port, a store that can stall, batches.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part, and helpers of tests may panic

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Tier, Values, encode_batch};
use tidewell_engine::{Append, ProducerId, Refusal, RefusalCode, SeqNo};
use tidewell_ingest::authority::Authority;
use tidewell_ingest::client::ClientConfig;
use tidewell_ingest::grants::{Grants, GrantsConfig};
use tidewell_ingest::identity::Identity;
use tidewell_ingest::server::{Server, ServerConfig, Store};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_ingest::wire::{self, BatchFrame, Frame, FrameReader, Hello, Received};

/// A directory with a development set and more certificates.
pub struct Tls(pub TempDir);

impl Tls {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority::ensure_development_set(dir.path(), &[]).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn issue(&self, file: &str, identity: Identity) {
        Authority::open(self.path()).unwrap().issue(file, &[identity], &[]).unwrap();
    }

    pub fn material(&self, name: &str) -> TlsMaterial {
        TlsMaterial::load(&TlsFiles::in_dir(self.path(), name)).unwrap()
    }
}

pub fn grants() -> Grants {
    let mut config = GrantsConfig::default();
    config.gateways.insert("dev".into(), vec!["*".into()]);
    config.gateways.insert("depot".into(), vec!["truck_*".into()]);
    Grants::new(&config).unwrap()
}

pub fn server_config() -> ServerConfig {
    ServerConfig { addr: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() }
}

pub fn start(config: ServerConfig, tls: &Tls, store: Arc<dyn Store>) -> (Server, SocketAddr) {
    let server = Server::start(config, &tls.material("node"), grants().shared(), store).unwrap();
    let addr = server.local_addr().unwrap();
    (server, addr)
}

pub fn client_config(addr: SocketAddr) -> ClientConfig {
    ClientConfig { connect_timeout: Duration::from_secs(20), ..ClientConfig::new(addr) }
}

/// `rows` rows for each of `devices`; every value tells its device, `round` and place.
pub fn batch(devices: &[&str], rows: usize, round: i64) -> Batch {
    let mut runs = DeviceRuns::default();
    let mut times = Vec::new();
    let mut speed = Vec::new();
    for device in devices {
        runs.push(device, rows as u32);
        for row in 0..rows as i64 {
            times.push(1_700_000_000_000_000_000 + round * 1_000_000_000 + row);
            speed.push((round * 1_000 + row) as f64 / 10.0);
        }
    }
    let column = Column { values: Values::F64(speed), validity: None };
    Batch { table: "readings".into(), devices: runs, times, fields: vec![BatchField { name: "speed".into(), column }] }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store in memory that keeps the engine's promises: one thread, a bounded queue, repetitions recognised.
pub struct MemoryStore {
    shards: u32,
    queue_max: usize,
    state: Mutex<State>,
    work: Condvar,
    stalled: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Append>,
    settled: HashMap<(ProducerId, u32), u64>,
    /// (device, time) → how often a row was applied.
    rows: BTreeMap<(String, i64), u32>,
    repetitions: u64,
}

impl MemoryStore {
    pub fn start(shards: u32, queue_max: usize) -> Arc<Self> {
        let store = Arc::new(Self {
            shards,
            queue_max,
            state: Mutex::default(),
            work: Condvar::new(),
            stalled: AtomicBool::new(false),
        });
        let worker = Arc::downgrade(&store);
        std::thread::spawn(move || {
            while let Some(store) = worker.upgrade() {
                store.work_once();
            }
        });
        store
    }

    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::SeqCst);
        self.work.notify_all();
    }

    pub fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    pub fn repetitions(&self) -> u64 {
        self.state.lock().repetitions
    }

    /// Rows applied, each with how often.
    pub fn rows(&self) -> BTreeMap<(String, i64), u32> {
        self.state.lock().rows.clone()
    }

    pub fn row_count(&self) -> usize {
        self.state.lock().rows.len()
    }

    fn work_once(&self) {
        let mut state = self.state.lock();
        if state.queue.is_empty() || self.stalled.load(Ordering::SeqCst) {
            self.work.wait_for(&mut state, Duration::from_millis(20));
            return;
        }
        let group: Vec<Append> = state.queue.drain(..).collect();
        for append in &group {
            let shard = append.batch.devices.shard(self.shards).unwrap();
            let last = state.settled.entry((append.producer, shard)).or_default();
            if append.seq.0 <= *last {
                state.repetitions += 1;
                continue;
            }
            *last = append.seq.0;
            for (device, rows) in append.batch.devices.iter() {
                for row in rows {
                    *state.rows.entry((device.to_owned(), append.batch.times[row])).or_default() += 1;
                }
            }
        }
        drop(state);
        for append in group {
            append.sink.settled(append.ticket, Ok(()));
        }
    }
}

impl Store for MemoryStore {
    fn shard_count(&self) -> u32 {
        self.shards
    }

    fn check(&self, batch: &Batch, _now_ns: i64) -> Result<(), Refusal> {
        batch
            .devices
            .shard(self.shards)
            .map(|_| ())
            .map_err(|error| Refusal::new(RefusalCode::MixedShards, error.to_string()))
    }

    fn append(&self, request: Append) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.queue.len() >= self.queue_max {
            return Err(Refusal::new(RefusalCode::Overloaded, "the queue is full"));
        }
        state.queue.push_back(request);
        self.work.notify_one();
        Ok(())
    }

    fn skip(&self, _producer: ProducerId, _seq: SeqNo) {} // this store never refuses for now

    fn last_settled(&self, producer: ProducerId, device: &str) -> SeqNo {
        let shard = tidewell_codec::shard_of(device, self.shards);
        SeqNo(self.state.lock().settled.get(&(producer, shard)).copied().unwrap_or(0))
    }
}

/// A peer that speaks frames by hand, and so can say what the client library never says.
pub struct RawPeer {
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
}

impl RawPeer {
    pub async fn connect(addr: SocketAddr, config: rustls::ClientConfig) -> Result<Self, quinn::ConnectionError> {
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, addr, "localhost").unwrap().await?;
        Ok(Self { endpoint, connection })
    }

    pub async fn lane(&self) -> RawLane {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        RawLane { send, recv, reader: FrameReader::new(0) }
    }
}

pub struct RawLane {
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
    reader: FrameReader,
}

impl RawLane {
    pub async fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send.write_all(&bytes).await.unwrap();
    }

    /// The next frame; `None` when the node ended the lane.
    pub async fn hear(&mut self) -> Option<Frame> {
        loop {
            match self.reader.next().unwrap() {
                Some(Received::Frame(frame)) => return Some(frame),
                Some(other) => panic!("a node does not send {other:?}"),
                None => {}
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.recv.read_chunk(65_536, true));
            match chunk.await.expect("the node answers within 20 s") {
                Ok(Some(chunk)) => self.reader.feed(chunk.bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Greets and opens a producer.
    pub async fn open(&mut self, producer: u128) {
        self.say(&Frame::Hello(Hello { version_min: 1, version_max: 1, software: "test".into() })).await;
        assert!(matches!(self.hear().await, Some(Frame::Welcome(_))));
        self.say(&Frame::Resume { producer: wire::ProducerId(producer), devices: vec![] }).await;
        assert!(matches!(self.hear().await, Some(Frame::Resumed { .. })));
    }

    pub async fn batch(&mut self, producer: u128, seq: u64, payload: Vec<u8>) {
        let frame = BatchFrame {
            producer: wire::ProducerId(producer),
            seq,
            attempt: 0,
            durability: Default::default(),
            payload: payload.into(),
        };
        self.say(&Frame::Batch(frame)).await;
    }
}

pub fn payload(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_batch(batch, Tier::Plain, &mut bytes);
    bytes
}
