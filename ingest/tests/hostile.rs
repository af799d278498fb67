//! Owns what broken and hostile peers can do: at most harm themselves.

mod common;

use std::time::Duration;

use common::*;
use tidewell_codec::BatchLimits;
use tidewell_ingest::client::Client;
use tidewell_ingest::server::ServerConfig;
use tidewell_ingest::wire::{CloseCode, Frame, RejectCode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_lane_and_nothing_else() {
    let tls = Tls::new();
    let store = MemoryStore::start(1, 16);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let peer = RawPeer::connect(addr, tls.material("dev").client_config().unwrap()).await.unwrap();
    let mut good = peer.lane().await;
    good.open(1).await;
    let mut bad = peer.lane().await;
    bad.open(2).await;
    bad.send.write_all(&[0xa5; 4_096]).await.unwrap();
    match bad.hear().await {
        Some(Frame::GoAway(goaway)) => {
            assert_eq!(goaway.reason, CloseCode::BadHeader);
            assert!(goaway.message.contains("magic"), "{}", goaway.message);
        }
        other => panic!("expected goaway, heard {other:?}"),
    }
    assert_eq!(bad.hear().await, None);
    good.batch(1, 1, payload(&batch(&["truck_1"], 3, 0))).await;
    assert!(matches!(good.hear().await, Some(Frame::Ack { seq: 1, .. })));
    assert_eq!((store.row_count(), server.metrics().lane_ends()["bad_header"]), (3, 1));
    assert_eq!(server.metrics().connections.value(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_batch_is_refused_by_itself() {
    let tls = Tls::new();
    let store = MemoryStore::start(1, 16);
    let config = ServerConfig { batch: BatchLimits { payload: 20_000, ..BatchLimits::default() }, ..server_config() };
    let (server, addr) = start(config, &tls, store.clone());
    let peer = RawPeer::connect(addr, tls.material("dev").client_config().unwrap()).await.unwrap();
    let mut lane = peer.lane().await;
    lane.open(1).await;
    let nacked = async |lane: &mut RawLane, seq, bytes| {
        lane.batch(1, seq, bytes).await;
        match lane.hear().await {
            Some(Frame::Nack(nack)) => {
                assert_eq!((nack.seq, nack.retryable), (seq, false));
                assert_eq!(lane.hear().await, Some(Frame::Ack { producer: nack.producer, seq }));
                (nack.code, nack.message)
            }
            other => panic!("expected a nack, heard {other:?}"),
        }
    };
    let (code, message) = nacked(&mut lane, 1, vec![0; 30_000]).await;
    assert!(code == RejectCode::TooLarge && message.contains("20000") && message.contains("30000"), "{message}");
    let mut bytes = payload(&batch(&["truck_1"], 3, 0));
    bytes.pop();
    assert_eq!(nacked(&mut lane, 2, bytes).await.0, RejectCode::Malformed);
    assert_eq!(nacked(&mut lane, 3, vec![]).await.0, RejectCode::Malformed);
    assert_eq!(nacked(&mut lane, 4, vec![0xff; 100]).await.0, RejectCode::UnsupportedVersion);
    lane.batch(1, 5, payload(&batch(&["truck_1"], 3, 0))).await;
    assert!(matches!(lane.hear().await, Some(Frame::Ack { seq: 5, .. })));
    assert_eq!((store.row_count(), server.metrics().in_flight_bytes.value()), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_are_let_go() {
    let tls = Tls::new();
    let config = ServerConfig {
        first_frame_timeout: Duration::from_millis(200),
        lane_idle: Duration::from_millis(300),
        ..server_config()
    };
    let (server, addr) = start(config, &tls, MemoryStore::start(1, 16));
    let tls_config = || tls.material("dev").client_config().unwrap();
    // No lane at all.
    let silent = RawPeer::connect(addr, tls_config()).await.unwrap();
    assert!(silent.connection.closed().await.to_string().contains("no lane"));
    // A lane without a hello.
    let peer = RawPeer::connect(addr, tls_config()).await.unwrap();
    let mut mute = peer.lane().await;
    mute.send.write_all(b"T").await.unwrap();
    assert!(matches!(mute.hear().await, Some(Frame::GoAway(goaway)) if goaway.reason == CloseCode::IdleTimeout));
    // A lane that says nothing after its greeting.
    let mut idle = peer.lane().await;
    idle.open(1).await;
    assert!(matches!(idle.hear().await, Some(Frame::GoAway(goaway)) if goaway.reason == CloseCode::IdleTimeout));
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_never_end_are_bounded_together() {
    let tls = Tls::new();
    let config = ServerConfig { memory_bytes: 1 << 20, ..server_config() };
    let (server, addr) = start(config, &tls, MemoryStore::start(1, 16));
    let peer = RawPeer::connect(addr, tls.material("dev").client_config().unwrap()).await.unwrap();
    let mut whole = Vec::new();
    let frame = tidewell_ingest::wire::BatchFrame {
        producer: tidewell_ingest::wire::ProducerId(1),
        seq: 1,
        attempt: 0,
        durability: Default::default(),
        payload: vec![0; 4 << 20].into(),
    };
    Frame::Batch(frame).encode(&mut whole);
    let mut lanes = Vec::new();
    for producer in 0..8 {
        let mut lane = peer.lane().await;
        lane.open(producer + 1).await;
        // All but the end; the node may stop the lane in between.
        lane.send.write_all(&whole[..300 << 10]).await.ok();
        lanes.push(lane);
    }
    eventually("some lanes are ended", || server.metrics().lane_ends().contains_key("internal")).await;
    // Others still work.
    drop(lanes);
    let client = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    client.send(batch(&["truck_1"], 3, 0)).await.unwrap().wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_with_batches_in_flight_leaves_nothing_behind() {
    let tls = Tls::new();
    let store = MemoryStore::start(1, 1_024);
    let (server, addr) = start(server_config(), &tls, store.clone());
    store.stall(true);
    let peer = RawPeer::connect(addr, tls.material("dev").client_config().unwrap()).await.unwrap();
    let mut lane = peer.lane().await;
    lane.open(1).await;
    for seq in 1..=10 {
        lane.batch(1, seq, payload(&batch(&["truck_1"], 100, seq as i64))).await;
    }
    let metrics = server.metrics().clone();
    eventually("they are in the queue", || store.queued() == 10).await;
    peer.connection.close(1u32.into(), b"gone");
    eventually("the connection is gone", || metrics.connections.value() == 0).await;
    assert!(metrics.in_flight_bytes.value() > 0);
    store.stall(false);
    eventually("memory is given back", || metrics.in_flight_bytes.value() == 0).await;
    assert_eq!((store.row_count(), metrics.lanes.value()), (1_000, 0));
}
