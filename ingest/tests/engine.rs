//! Owns the path from the client library into the real engine, and what a snapshot then holds.

#![allow(clippy::unwrap_used)] // helpers of tests may panic

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use common::*;
use tidewell_codec::{Batch, Column, Values};
use tidewell_engine::clock::SystemClock;
use tidewell_engine::storage::Disk;
use tidewell_engine::{Engine, EngineConfig, Rows};
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::server::{Server, ServerConfig};
use tidewell_ingest::wire::RejectCode;

fn open(dir: &Path) -> Arc<Engine> {
    let config =
        EngineConfig { shards: Some(2), log_file_bytes: 1 << 20, compaction: false, ..EngineConfig::default() };
    Arc::new(Engine::open(Arc::new(Disk::open(dir).unwrap()), config, Arc::new(SystemClock)).unwrap().0)
}

/// (device, time) → speed, of everything in the table.
fn stored(engine: &Engine) -> BTreeMap<(String, i64), f64> {
    let mut found = BTreeMap::new();
    let Some(table) = engine.snapshot().table("readings") else { return found };
    for device in table.devices().unwrap() {
        for part in table.scan(&device, i64::MIN, i64::MAX, &[0]).unwrap() {
            let mut rows = Rows::default();
            part.load(&mut rows).unwrap();
            let Values::F64(speeds) = &rows.columns[0].values else { panic!("speed is f64") };
            for (time, speed) in rows.times.iter().zip(speeds) {
                assert!(found.insert((device.to_string(), *time), *speed).is_none(), "{device} {time} twice");
            }
        }
    }
    found
}

fn expect(found: &mut BTreeMap<(String, i64), f64>, batch: &Batch) {
    let Values::F64(speeds) = &batch.fields[0].column.values else { panic!("speed is f64") };
    for (device, rows) in batch.devices.iter() {
        for row in rows {
            found.insert((device.to_owned(), batch.times[row]), speeds[row]);
        }
    }
}

fn start_on(addr: SocketAddr, tls: &Tls, engine: &Arc<Engine>) -> (Server, SocketAddr) {
    start(ServerConfig { addr, ..server_config() }, tls, engine.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_rows_are_in_the_next_snapshot_and_after_a_reopen() {
    let (tls, dir) = (Tls::new(), tempfile::tempdir().unwrap());
    let engine = open(dir.path());
    let (server, addr) = start_on("127.0.0.1:0".parse().unwrap(), &tls, &engine);
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..50 {
        let batch = batch(&["truck_1", "truck_2", "truck_3", "van_1"], 25, round);
        expect(&mut expected, &batch);
        let delivery = client.send(batch).await.unwrap();
        if round % 10 == 0 {
            delivery.wait().await.unwrap();
            assert_eq!(stored(&engine).len(), expected.len(), "acknowledged, so visible");
        }
    }
    client.flush().await.unwrap();
    assert_eq!(stored(&engine), expected);
    client.close(Duration::from_secs(5)).await;
    server.shutdown(Duration::from_secs(5)).await;
    engine.close().unwrap();
    drop(engine);
    assert_eq!(stored(&open(dir.path())), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_refuses_is_told_by_name() {
    let (tls, dir) = (Tls::new(), tempfile::tempdir().unwrap());
    let engine = open(dir.path());
    let (server, addr) = start_on("127.0.0.1:0".parse().unwrap(), &tls, &engine);
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    client.send(batch(&["truck_1"], 5, 0)).await.unwrap().wait().await.unwrap();
    let mut other_type = batch(&["truck_1"], 5, 1);
    other_type.fields[0].column = Column { values: Values::I64(vec![1; 5]), validity: None };
    let refused = client.send(other_type).await.unwrap().wait().await.unwrap_err();
    assert_eq!(refused.code, RejectCode::TypeConflict);
    for part in ["readings", "speed", "f64", "i64"] {
        assert!(refused.message.contains(part), "{part}: {}", refused.message);
    }
    let mut future = batch(&["truck_1"], 1, 2);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
    future.times[0] = now + 3_600_000_000_000;
    client.send(future).await.unwrap().wait().await.expect("a wrong clock is no reason to lose rows");
    let waiting = engine.snapshot().quarantined(|_| true).unwrap();
    assert_eq!((waiting.len(), &*waiting[0].device, waiting[0].rows), (1, "truck_1", 1));
    client.send(batch(&["truck_1"], 5, 3)).await.unwrap().wait().await.unwrap();
    assert_eq!(stored(&engine).len(), 10);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_the_whole_node_lose_and_repeat_nothing() {
    let (tls, dir) = (Tls::new(), tempfile::tempdir().unwrap());
    let mut engine = open(dir.path());
    let (mut server, addr) = start_on("127.0.0.1:0".parse().unwrap(), &tls, &engine);
    let config = ClientConfig { backoff_max: Duration::from_millis(100), ..client_config(addr) };
    let client = Client::connect(config, &tls.material("dev")).await.unwrap();
    let rounds = Arc::new(AtomicUsize::new(0));
    let sender = tokio::spawn({
        let (client, rounds) = (client.clone(), rounds.clone());
        async move {
            let mut expected = BTreeMap::new();
            for round in 0..400 {
                let batch = batch(&["truck_1", "truck_2", "truck_3"], 10, round);
                expect(&mut expected, &batch);
                client.send(batch).await.unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            client.flush().await.unwrap();
            expected
        }
    });
    for stop in 1..4 {
        eventually("some batches are sent", || rounds.load(Ordering::Relaxed) > stop * 80).await;
        // No time to drain: what is in the queues is settled, its acknowledgements are lost.
        server.shutdown(Duration::ZERO).await;
        engine.close().unwrap();
        drop(engine);
        engine = open(dir.path());
        server = loop {
            let config = ServerConfig { addr, ..server_config() };
            match Server::start(config, &tls.material("node"), grants().shared(), engine.clone()) {
                Ok(server) => break server,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
    }
    let expected = sender.await.unwrap();
    assert_eq!(stored(&engine), expected);
    assert_eq!(client.stats().rejected.load(Ordering::Relaxed), 0);
    drop(server);
}
