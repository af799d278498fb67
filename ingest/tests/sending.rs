//! Owns how batches travel from the client library to the store over real QUIC.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use parking_lot::Mutex;
use tidewell_ingest::client::{Client, ClientConfig, Observer, RowBatcher, Settled, Value};
use tidewell_ingest::identity::Identity;
use tidewell_ingest::server::ServerConfig;
use tidewell_ingest::wire::RejectCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_arrives_once_and_is_acknowledged() {
    #[derive(Default)]
    struct Latencies(Mutex<Vec<Duration>>);
    impl Observer for Latencies {
        fn settled(&self, settled: &Settled) {
            self.0.lock().push(settled.settled_at - settled.sent_at);
        }
    }
    let tls = Tls::new();
    let store = MemoryStore::start(3, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let latencies = Arc::new(Latencies::default());
    let client = Client::connect_observed(client_config(addr), &tls.material("dev"), latencies.clone()).await.unwrap();
    assert_eq!((client.welcome().shard_count, client.lanes()), (3, 3));
    let devices: Vec<String> = (0..20).map(|n| format!("truck_{n}")).collect();
    let names: Vec<&str> = devices.iter().map(String::as_str).collect();
    let first = client.send(batch(&names, 10, 0)).await.unwrap();
    for round in 1..100 {
        client.send(batch(&names, 10, round)).await.unwrap();
    }
    first.wait().await.unwrap();
    client.flush().await.unwrap();
    let rows = store.rows();
    assert_eq!(rows.len(), 20 * 10 * 100);
    assert!(rows.values().all(|&count| count == 1));
    let metrics = server.metrics();
    assert_eq!(metrics.rows.value(), 20_000);
    assert_eq!(metrics.values.value(), 20_000);
    assert_eq!((metrics.connections.value(), metrics.in_flight_bytes.value()), (1, 0));
    assert_eq!(latencies.0.lock().len() as u64, metrics.batches.value());
    assert_eq!(client.close(Duration::from_secs(5)).await, 0);
    eventually("the connection is gone", || metrics.connections.value() == 0).await;
    server.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_sent_by_number_and_by_age() {
    let tls = Tls::new();
    let store = MemoryStore::start(2, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    let batcher = RowBatcher::new(client.clone(), 100, Duration::from_millis(50));
    for time in 0..250 {
        batcher.push("readings", "truck_1", time, &[("speed", Value::F64(time as f64))]).await.unwrap();
    }
    eventually("the rest is sent by its age", || store.row_count() == 250).await;
    batcher.push("readings", "truck_1", 999, &[("speed", Value::F64(1.0))]).await.unwrap();
    batcher.flush().await.unwrap();
    assert_eq!(store.row_count(), 251);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_not_granted_is_refused_by_rule_and_harms_nobody() {
    let tls = Tls::new();
    tls.issue("depot", Identity::Gateway("depot".into()));
    tls.issue("truck_7", Identity::Device("truck_7".into()));
    let store = MemoryStore::start(4, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let depot = Client::connect(client_config(addr), &tls.material("depot")).await.unwrap();
    let bad = depot.send(batch(&["bike_1"], 5, 0)).await.unwrap();
    let good = depot.send(batch(&["truck_1", "truck_2", "truck_3", "truck_4", "truck_5"], 5, 0)).await.unwrap();
    good.wait().await.unwrap();
    let rejected = bad.wait().await.unwrap_err();
    assert_eq!((rejected.code, rejected.rows), (RejectCode::NotAuthorised, 5));
    for part in ["gateway/depot", "bike_1", "truck_*"] {
        assert!(rejected.message.contains(part), "{part}: {}", rejected.message);
    }
    // The lane of the refused batch goes on.
    let again = depot.send(batch(&["truck_1", "truck_2", "truck_3", "truck_4", "truck_5"], 5, 1)).await.unwrap();
    again.wait().await.unwrap();
    let device = Client::connect(client_config(addr), &tls.material("truck_7")).await.unwrap();
    device.send(batch(&["truck_7"], 5, 0)).await.unwrap().wait().await.unwrap();
    let other = device.send(batch(&["truck_8"], 5, 0)).await.unwrap().wait().await.unwrap_err();
    assert!(other.message.contains("only its own id"), "{}", other.message);
    assert_eq!(store.row_count(), 55);
    assert_eq!(server.metrics().nacks()["not_authorised"], 2);
    // New grants hold for live connections.
    server.grants().store(Arc::default());
    assert!(depot.send(batch(&["truck_1"], 5, 2)).await.unwrap().wait().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_store_stops_senders_within_the_memory_bound() {
    let tls = Tls::new();
    let store = MemoryStore::start(2, 1_000_000);
    let config = ServerConfig { memory_bytes: 2 << 20, ..server_config() };
    let (server, addr) = start(config, &tls, store.clone());
    store.stall(true);
    let config = ClientConfig { in_flight_batches: 10_000, in_flight_bytes: 1 << 30, ..client_config(addr) };
    let devices: Vec<String> = (0..16).map(|n| format!("truck_{n}")).collect();
    let mut clients = Vec::new();
    for number in 0..4 {
        let client = Client::connect(config.clone(), &tls.material("dev")).await.unwrap();
        for round in 0..50 {
            let device = &devices[round % 4 + number * 4];
            client.send(batch(&[device], 2_000, round as i64)).await.unwrap();
        }
        clients.push(client);
    }
    let metrics = server.metrics().clone();
    eventually("lanes wait for memory", || metrics.memory_waits.value() >= 4).await;
    let mut highest = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        highest = highest.max(metrics.in_flight_bytes.value());
    }
    assert_eq!(metrics.batches.value(), 0);
    // One batch of 2,000 rows may go over it for each thread that decodes.
    assert!(highest > 1 << 20 && highest < (2 << 20) + 3 * 64_000, "{highest} bytes in flight");
    store.stall(false);
    for client in &clients {
        client.flush().await.unwrap();
    }
    let rows = store.rows();
    assert_eq!(rows.len(), 4 * 50 * 2_000);
    assert!(rows.values().all(|&count| count == 1));
    assert_eq!(metrics.in_flight_bytes.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_stops_reading_instead_of_refusing() {
    let tls = Tls::new();
    let store = MemoryStore::start(1, 4);
    let (server, addr) = start(server_config(), &tls, store.clone());
    store.stall(true);
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    for round in 0..40 {
        client.send(batch(&["truck_1"], 100, round)).await.unwrap();
    }
    let metrics = server.metrics().clone();
    eventually("the lane waits for the queue", || metrics.queue_waits.value() > 0).await;
    assert_eq!(store.queued(), 4);
    store.stall(false);
    client.flush().await.unwrap();
    assert_eq!(store.row_count(), 4_000);
    assert!(metrics.nacks().is_empty(), "{:?}", metrics.nacks());
}
