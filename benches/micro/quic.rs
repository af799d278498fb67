//! Owns the figures of the whole way in: client library, QUIC with certificates of both ends, server, engine, disk, and the
//! acknowledgement back; both ends in this process, on loopback.
#![allow(missing_docs, reason = "a bench target")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tidewell_benches::store::Store;
use tidewell_benches::{Truck, fleet_batch};
use tidewell_codec::Tier;
use tidewell_ingest::authority::Authority;
use tidewell_ingest::client::{Client, ClientConfig, Delivery, Part, split};
use tidewell_ingest::grants::{Grants, GrantsConfig};
use tidewell_ingest::server::{Server, ServerConfig};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tokio::runtime::Runtime;

const PAYLOAD_BYTES: usize = 4_096;
/// Batches with rows of their own; after the last one the first comes again.
const BATCHES: usize = 1_000;
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A node's way in, on a free port.
struct Node {
    runtime: Runtime,
    store: Store,
    server: Option<Server>,
    addr: SocketAddr,
    tls: TempDir,
}

impl Node {
    fn start() -> Self {
        let tls = tempfile::tempdir().expect("a temporary directory");
        Authority::ensure_development_set(tls.path(), &[]).expect("a development authority");
        let mut grants = GrantsConfig::default();
        grants.gateways.insert("dev".into(), vec!["*".into()]);
        let grants = Grants::new(&grants).expect("a good pattern").shared();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let store = Store::open();
        let config = ServerConfig { addr: SocketAddr::from(([127, 0, 0, 1], 0)), ..ServerConfig::default() };
        let _inside = runtime.enter();
        let server = Server::start(config, &material(&tls, "node"), grants, store.engine().clone());
        let server = server.expect("a free port");
        let addr = server.local_addr().expect("a bound socket");
        drop(_inside);
        Self { runtime, store, server: Some(server), addr, tls }
    }

    async fn connect(&self) -> Client {
        let client = Client::connect(ClientConfig::new(self.addr), &material(&self.tls, "dev")).await;
        client.expect("a node that accepts its own authority")
    }

    /// Rows of the only device.
    fn rows(&self) -> usize {
        let parts = self.store.table().scan("truck_0", i64::MIN, i64::MAX, &[]).expect("a good index");
        let mut rows = tidewell_engine::Rows::default();
        parts.iter().map(|part| part.load(&mut rows).map(|()| rows.times.len()).expect("good blocks")).sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown(CLOSE_MAX));
        }
    }
}

fn material(dir: &TempDir, name: &str) -> TlsMaterial {
    TlsMaterial::load(&TlsFiles::in_dir(dir.path(), name)).expect("a development certificate")
}

/// Encoded batches of one truck, each of about [`PAYLOAD_BYTES`], and the rows of one.
fn batches(client: &Client) -> (Vec<Part>, usize) {
    let encode = |truck: &mut [Truck], from, steps| {
        let batch = fleet_batch(truck, 0, from, steps);
        let mut parts = split::split(batch, client.limits(), Tier::Hot).expect("a batch within the limits");
        assert_eq!(parts.len(), 1);
        parts.remove(0)
    };
    let mut steps = 1;
    while encode(&mut [Truck::new(0)], 0, steps).payload.len() < PAYLOAD_BYTES {
        steps += 1;
    }
    let mut truck = [Truck::new(0)];
    ((0..BATCHES).map(|index| encode(&mut truck, index * steps, steps)).collect(), steps)
}

async fn acknowledged(delivery: Delivery) {
    delivery.wait().await.expect("a batch that the node takes");
}

/// Durable acknowledgements with so many batches on their way; the time of a batch, not of a window of them.
fn round_trip(c: &mut Criterion) {
    let node = Node::start();
    let client = node.runtime.block_on(node.connect());
    let (batches, steps) = batches(&client);
    eprintln!("batches of {steps} rows, {} values, {} bytes", steps * 10, batches[0].payload.len());
    let mut sent = 0;
    let mut group = c.benchmark_group("quic");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 8, 64] {
        group.bench_function(BenchmarkId::new("batch_4k_durable", in_flight), |b| {
            b.iter_custom(|count| {
                node.runtime.block_on(async {
                    let mut waiting = VecDeque::with_capacity(in_flight);
                    let start = Instant::now();
                    for _ in 0..count {
                        if waiting.len() == in_flight
                            && let Some(oldest) = waiting.pop_front()
                        {
                            acknowledged(oldest).await;
                        }
                        let parts = vec![batches[sent % BATCHES].clone()];
                        waiting.push_back(client.send_parts(parts).await.expect("an open client"));
                        sent += 1;
                    }
                    for delivery in waiting {
                        acknowledged(delivery).await;
                    }
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
    assert_eq!(node.rows(), sent.min(BATCHES) * steps, "every acknowledged row is read back, once");
    assert_eq!(node.runtime.block_on(client.close(CLOSE_MAX)), 0);
}

/// A client that nobody knows yet: socket, handshake with both certificates, greeting; and its first batch.
fn cold(c: &mut Criterion) {
    let node = Node::start();
    let client = node.runtime.block_on(node.connect());
    let (batches, _) = batches(&client);
    let mut group = c.benchmark_group("quic");
    group.sample_size(20);
    for (name, sends) in [("connect", false), ("connect_and_first_batch", true)] {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for index in 0..count as usize {
                    node.runtime.block_on(async {
                        let start = Instant::now();
                        let client = node.connect().await;
                        if sends {
                            let parts = vec![batches[index % BATCHES].clone()];
                            acknowledged(client.send_parts(parts).await.expect("an open client")).await;
                        }
                        spent += start.elapsed();
                        client.close(CLOSE_MAX).await;
                    });
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, round_trip, cold);
criterion_main!(benches);
