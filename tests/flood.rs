//! Owns the proof that devices which behave are served beside a crowd that does not: handshakes that never end, frames
//! that are none.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Chance, Node, RawPeer, batch, payload};
use parking_lot::Mutex;
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::wire::{BatchFrame, Frame, ProducerId};
use tokio::net::UdpSocket;

/// One measurement at a time: the crowds are in this process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const HANDSHAKES: usize = 5_000;
/// What one address may have under way.
const OF_ONE_ADDRESS: u64 = 256;
const DEVICES: usize = 4;
/// What a device sends, whatever the answers take: a batch every so often.
const PACE: Duration = Duration::from_millis(10);
const ROWS: usize = 20;
/// Throughput that devices which behave keep.
const KEPT: f64 = 0.8;

fn window() -> Duration {
    Duration::from_secs(if std::env::var("TIDEWELL_LONG_TESTS").as_deref() == Ok("1") { 30 } else { 4 })
}

/// Devices that send at their pace and note when each batch was acknowledged.
#[derive(Clone, Default)]
struct Devices {
    acked: Arc<AtomicU64>,
    latencies: Arc<Mutex<Vec<Duration>>>,
}

impl Devices {
    async fn start(node: &Node) -> Self {
        let devices = Self::default();
        for number in 0..DEVICES {
            let client = Client::connect(ClientConfig::new(node.ready.ingest), &node.material("dev")).await.unwrap();
            let devices = devices.clone();
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(PACE);
                for turn in 0i64.. {
                    tick.tick().await;
                    let name = format!("truck_{number}");
                    let due = Instant::now();
                    let delivery = client.send(batch(&[&name], ROWS, turn * ROWS as i64)).await.unwrap();
                    let devices = devices.clone();
                    tokio::spawn(async move {
                        delivery.wait().await.expect("nothing is wrong with these batches");
                        devices.acked.fetch_add(1, Ordering::Relaxed);
                        devices.latencies.lock().push(due.elapsed());
                    });
                }
            });
        }
        devices
    }

    /// Batches acknowledged in a second, and the 99th percentile of how long it took, over the next window.
    async fn measure(&self, what: &str) -> (f64, Duration) {
        self.latencies.lock().clear();
        let (before, begin) = (self.acked.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(window()).await;
        let rate = (self.acked.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
        let mut latencies = std::mem::take(&mut *self.latencies.lock());
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(Duration::MAX);
        println!("{what}: {rate:.0} batches a second, p99 {:.1} ms", p99.as_secs_f64() * 1e3);
        (rate, p99)
    }
}

fn assert_kept(calm: (f64, Duration), stormy: (f64, Duration)) {
    assert!(stormy.0 >= KEPT * calm.0, "{:.0} of {:.0} batches a second are left", stormy.0, calm.0);
    // The crowd is in this very process and takes the same cores; what must not happen is a wait for the crowd.
    let bound = 10 * calm.1 + Duration::from_millis(250);
    assert!(stormy.1 <= bound, "the 99th percentile went from {:?} to {:?}", calm.1, stormy.1);
}

/// Passes packets on to the node and swallows what it answers, all but the demand to prove an address: whoever sends
/// through it begins a handshake, proves its address, and never goes on.
async fn one_way(node: SocketAddr) -> SocketAddr {
    const LONG_HEADER_RETRY: u8 = 0xf0;
    let (outer, inner) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    inner.connect(node).await.unwrap();
    let address = outer.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut from_peer, mut from_node) = (vec![0; 2_048], vec![0; 2_048]);
        let mut peer = None;
        loop {
            tokio::select! {
                Ok((bytes, from)) = outer.recv_from(&mut from_peer) => {
                    peer = Some(from);
                    inner.send(&from_peer[..bytes]).await.ok();
                }
                Ok(bytes) = inner.recv(&mut from_node) => {
                    if let Some(peer) = peer.filter(|_| from_node[0] & LONG_HEADER_RETRY == LONG_HEADER_RETRY) {
                        outer.send_to(&from_node[..bytes], peer).await.ok();
                    }
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_handshakes_that_stall_cost_devices_little() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &["engine.shards=2"], None);
    let devices = Devices::start(&node).await;
    let calm = devices.measure("alone").await;

    let gate = one_way(node.ready.ingest).await;
    let crypto = node.material("dev").client_config().unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let stalled = Arc::new(AtomicU64::new(0));
    let crowd = {
        let (stalled, gate) = (stalled.clone(), gate);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            for at in 0..HANDSHAKES {
                waiting.push(endpoint.connect_with(config.clone(), gate, "localhost").unwrap());
                stalled.fetch_add(1, Ordering::Relaxed);
                if at % 16 == 0 {
                    // All of them within the first half of the window, with the node getting its share of the cores.
                    tokio::time::sleep(window() / 2 / (HANDSHAKES as u32 / 16)).await;
                }
            }
            futures::future::join_all(waiting).await
        })
    };
    let stormy = devices.measure("beside handshakes that stall").await;
    let most = node.metric("tidewell_ingest_handshakes");
    let (retried, refused) =
        (node.metric("tidewell_ingest_retried_connections"), node.metric("tidewell_ingest_refused_connections"));
    println!(
        "{} begun, {most} under way, {retried} had to prove their address, {refused} refused",
        stalled.load(Ordering::Relaxed)
    );
    assert!(stalled.load(Ordering::Relaxed) >= HANDSHAKES as u64 / 2, "the crowd was there");
    assert!((1..=OF_ONE_ADDRESS).contains(&most), "{most} handshakes of one address are under way");
    assert!(retried > 0, "from 256 on an address has to be proved");
    assert!(refused > 0, "an address has its bound");
    assert_kept(calm, stormy);
    // Who comes now, from elsewhere, is let in at once.
    let begin = Instant::now();
    let endpoint = quinn::Endpoint::client("127.0.0.2:0".parse().unwrap()).unwrap();
    let crypto =
        quinn::crypto::rustls::QuicClientConfig::try_from(node.material("dev").client_config().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connected = endpoint.connect_with(config, node.ready.ingest, "localhost").unwrap().await;
    println!("a newcomer was let in after {} ms", begin.elapsed().as_millis());
    assert!(connected.is_ok() && begin.elapsed() < Duration::from_secs(3), "{connected:?} after {:?}", begin.elapsed());
    assert!(node.metric("tidewell_ingest_handshakes") > 0, "the crowd still stands there");
    crowd.abort();
    assert_eq!(node.admin("/readyz").0, 200);
}

/// Says what is no frame, what is a damaged one and what is a frame around nonsense, as fast as it may.
async fn shout(
    node: SocketAddr,
    tls: rustls::ClientConfig,
    mut chance: Chance,
    stop: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
) {
    let peer = RawPeer::connect(node, tls).await.unwrap();
    let good = payload(&batch(&["shouter"], 50, 0));
    let mut producer = u128::from(chance.below(u64::MAX)) << 64;
    while !stop.load(Ordering::Relaxed) {
        producer += 1;
        let mut lane = peer.lane().await;
        lane.open(producer).await;
        for seq in 1..=20 {
            let kind = chance.below(if seq == 20 { 3 } else { 2 });
            let mut bytes = Vec::new();
            let payload = if kind == 0 { vec![0xa5; 400] } else { good.clone() };
            let producer = ProducerId(producer);
            let durability = Default::default();
            Frame::Batch(BatchFrame { producer, seq, attempt: 0, durability, payload: payload.into() })
                .encode(&mut bytes);
            match kind {
                // Nonsense in a good frame: refused for good.
                0 => {}
                // A payload with a flipped bit: to be sent again.
                1 => *bytes.last_mut().unwrap() ^= 1,
                // No frame at all: the end of the lane.
                _ => bytes.iter_mut().for_each(|byte| *byte ^= 0x5a),
            }
            said.fetch_add(1, Ordering::Relaxed);
            if lane.send.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The answers are read: who never reads is held up by flow control, and shouts less.
        lane.send.finish().ok();
        while let Ok(Some(_)) = lane.recv.read_chunk(65_536, true).await {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_frames_does_not_hold_up_good_ones() {
    let mut chance = Chance::printed();
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &["engine.shards=2"], None);
    let devices = Devices::start(&node).await;
    let calm = devices.measure("alone").await;
    let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            let tls = node.material("dev").client_config().unwrap();
            let chance = Chance::of(chance.below(u64::MAX));
            tokio::spawn(shout(node.ready.ingest, tls, chance, stop.clone(), said.clone()))
        })
        .collect();
    let stormy = devices.measure("beside a flood of bad frames").await;
    stop.store(true, Ordering::Relaxed);
    let all = said.load(Ordering::Relaxed);
    let nacks = node.metric("tidewell_ingest_nacks");
    println!("{all} bad frames, {nacks} refusals");
    assert!(all as f64 > 2.0 * stormy.0 * window().as_secs_f64(), "more bad frames than good ones, found {all}");
    assert!(nacks > all / 4, "{nacks} refusals of {all} bad frames");
    assert_kept(calm, stormy);
    for peer in crowd {
        tokio::time::timeout(Duration::from_secs(20), peer).await.expect("each gets its answers").unwrap();
    }
    let query = node.query().await;
    let question =
        r#"{"range": {"table": "readings", "devices": ["shouter"], "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
    let rows: usize =
        query.query(question).await.unwrap().collect().await.unwrap().iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 0, "nothing of it was applied");
}
