//! Owns what restarts of the node cost its senders: time, never rows.

#![allow(clippy::unwrap_used)] // helpers of tests may panic

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::server::{Server, ServerConfig};
use tokio::runtime::{Builder, Runtime};

/// A node in a runtime of its own, so that it can be killed without a word.
struct Node {
    runtime: Runtime,
    server: Server,
    addr: SocketAddr,
}

impl Node {
    fn start(addr: SocketAddr, tls: &Tls, store: &Arc<MemoryStore>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = runtime.enter();
        let (server, addr) = start_again(addr, tls, store);
        drop(guard);
        Self { runtime, server, addr }
    }

    fn kill(self) {
        drop(self.server);
        self.runtime.shutdown_background();
    }
}

/// The socket of the node before goes with its last task, which takes a moment.
fn start_again(addr: SocketAddr, tls: &Tls, store: &Arc<MemoryStore>) -> (Server, SocketAddr) {
    let until = Instant::now() + Duration::from_secs(10);
    let config = ServerConfig { addr, ..server_config() };
    loop {
        match Server::start(config.clone(), &tls.material("node"), grants().shared(), store.clone()) {
            Ok(server) => {
                let addr = server.local_addr().unwrap();
                return (server, addr);
            }
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_go_on_after_the_node_was_killed() {
    let tls = Tls::new();
    let store = MemoryStore::start(2, 1_024);
    let mut node = Node::start(any_port(), &tls, &store);
    let addr = node.addr;
    let config = ClientConfig { backoff_max: Duration::from_millis(200), ..client_config(addr) };
    let client = Client::connect(config, &tls.material("dev")).await.unwrap();
    let sender = tokio::spawn({
        let client = client.clone();
        async move {
            for round in 0..300 {
                client.send(batch(&["truck_1", "truck_2", "truck_3"], 20, round)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            client.flush().await.unwrap();
        }
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        // Some batches are applied whose acknowledgements never leave.
        store.stall(true);
        tokio::time::sleep(Duration::from_millis(30)).await;
        node.kill();
        store.stall(false);
        node = Node::start(addr, &tls, &store);
    }
    let began = Instant::now();
    sender.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "the restarted node tells old connections that they are gone");
    let rows = store.rows();
    assert_eq!(rows.len(), 300 * 3 * 20);
    assert!(rows.values().all(|&count| count == 1), "a row was applied twice");
    assert!(store.repetitions() > 0, "the test has not lost an acknowledgement");
    assert_eq!(client.stats().rejected.load(std::sync::atomic::Ordering::Relaxed), 0);
    drop(client);
    node.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_acknowledges_what_it_took() {
    let tls = Tls::new();
    let store = MemoryStore::start(2, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let config = ClientConfig { backoff_max: Duration::from_millis(200), ..client_config(addr) };
    let client = Client::connect(config, &tls.material("dev")).await.unwrap();
    store.stall(true);
    let mut deliveries = Vec::new();
    for round in 0..20 {
        deliveries.push(client.send(batch(&["truck_1", "truck_2"], 20, round)).await.unwrap());
    }
    eventually("they are in the queue", || store.queued() >= 20).await;
    let release = tokio::spawn({
        let store = store.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            store.stall(false);
        }
    });
    let began = Instant::now();
    server.shutdown(Duration::from_secs(10)).await;
    assert!(began.elapsed() > Duration::from_millis(250), "it waited for the store");
    assert!(began.elapsed() < Duration::from_secs(5), "it did not wait longer than needed: {:?}", began.elapsed());
    release.await.unwrap();
    for delivery in &deliveries {
        tokio::time::timeout(Duration::from_secs(1), delivery.wait()).await.expect("acknowledged before").unwrap();
    }
    // What is sent meanwhile waits for the next node.
    let later = client.send(batch(&["truck_9"], 20, 0)).await.unwrap();
    let (server, _) = start_again(addr, &tls, &store);
    later.wait().await.unwrap();
    assert_eq!(store.row_count(), 20 * 2 * 20 + 20);
    assert_eq!(store.repetitions(), 0);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_settle_stops_at_its_deadline() {
    let tls = Tls::new();
    let store = MemoryStore::start(1, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    store.stall(true);
    let delivery = client.send(batch(&["truck_1"], 20, 0)).await.unwrap();
    eventually("it is in the queue", || store.queued() == 1).await;
    let began = Instant::now();
    server.shutdown(Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(!delivery.is_done());
    assert_eq!(client.close(Duration::from_millis(100)).await, 1);
    assert!(delivery.wait().await.unwrap_err().message.contains("not acknowledged"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_data_directory_at_the_same_address_is_noticed() {
    let tls = Tls::new();
    let node = Node::start(any_port(), &tls, &MemoryStore::start(2, 16));
    let addr = node.addr;
    let config = ClientConfig { backoff_max: Duration::from_millis(100), ..client_config(addr) };
    let client = Client::connect(config, &tls.material("dev")).await.unwrap();
    node.kill();
    let other = MemoryStore::start(5, 16);
    let node = Node::start(addr, &tls, &other);
    let delivery = client.send(batch(&["truck_1"], 20, 0)).await.unwrap();
    let lost = delivery.wait().await.unwrap_err();
    assert!(lost.message.contains("another data directory"), "{}", lost.message);
    assert_eq!(other.row_count(), 0);
    node.kill();
}
