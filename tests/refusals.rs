//! Owns the proof that each way to be wrong gets the answer that `docs/protocol.md` gives it, and harms nobody else.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{BASE_NS, Node, RawLane, RawPeer, batch, payload, run};
use tempfile::TempDir;
use tidewell_codec::{Batch, BatchField, Column, Text, Values, shard_of};
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_ingest::wire::{BatchFrame, CloseCode, Frame, Hello, Nack, ProducerId, RejectCode};

/// Makes certificates with the binary itself, as an operator does.
fn cert(dir: &Path, args: &[&str]) {
    let said = run(&[&["cert"], args, &["--tls-dir", dir.to_str().unwrap()]].concat());
    assert_eq!(said.code, Some(0), "cert {args:?}: {said:?}");
}

/// A node with an authority that issued a device, a gateway and a reader, and a neighbour that behaves.
struct Scene {
    node: Node,
    neighbour: Neighbour,
    _folder: TempDir,
}

impl Scene {
    async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("tls");
        cert(&tls, &["init"]);
        cert(&tls, &["device", "truck_1"]);
        cert(&tls, &["gateway", "depot", "--devices", "trailer_*"]);
        cert(&tls, &["reader", "dashboard"]);
        let data = folder.path().join("data");
        let tls_dir = format!("tls.dir={}", tls.display());
        let node = Node::start(&data, &["engine.shards=4", &tls_dir], None);
        let neighbour = Neighbour::start(&node).await;
        Self { node, neighbour, _folder: folder }
    }

    fn material(&self, name: &str) -> TlsMaterial {
        TlsMaterial::load(&TlsFiles::in_dir(&self.node.ready.tls_dir, name)).unwrap()
    }

    async fn peer(&self, name: &str) -> RawPeer {
        RawPeer::connect(self.node.ready.ingest, self.material(name).client_config().unwrap()).await.unwrap()
    }

    /// A lane of `name` with producer 1 open.
    async fn lane(&self, name: &str) -> (RawPeer, RawLane) {
        let peer = self.peer(name).await;
        let mut lane = peer.lane().await;
        lane.open(1).await;
        (peer, lane)
    }
}

/// Sends a batch every few milliseconds on a connection of its own and counts the acknowledgements.
struct Neighbour {
    acked: Arc<AtomicU64>,
}

impl Neighbour {
    async fn start(node: &Node) -> Self {
        let acked = Arc::new(AtomicU64::new(0));
        let client = Client::connect(ClientConfig::new(node.ready.ingest), &node.material("dev")).await.unwrap();
        let count = acked.clone();
        tokio::spawn(async move {
            for second in 0.. {
                let delivery = client.send(batch(&["neighbour"], 1, second)).await.unwrap();
                delivery.wait().await.expect("nothing is wrong with the neighbour's batches");
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { acked }
    }

    /// Waits for acknowledgements of batches that are sent from now on.
    async fn is_served(&self) {
        // One may have been on its way.
        let wanted = self.acked.load(Ordering::SeqCst) + 3;
        let until = Instant::now() + Duration::from_secs(20);
        while self.acked.load(Ordering::SeqCst) < wanted {
            assert!(Instant::now() < until, "the neighbour is not acknowledged any more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn nack(lane: &mut RawLane) -> Nack {
    match lane.hear().await {
        Some(Frame::Nack(nack)) => nack,
        other => panic!("expected a nack, heard {other:?}"),
    }
}

/// Sends batch `seq`, which must be refused for good with `code`: the nack comes first, then the ack that covers it.
async fn refused(lane: &mut RawLane, seq: u64, bytes: Vec<u8>, code: RejectCode) -> String {
    lane.batch(1, seq, bytes).await;
    let nack = nack(lane).await;
    assert_eq!((nack.seq, nack.code, nack.retryable), (seq, code, false), "{}", nack.message);
    assert_eq!(lane.hear().await, Some(Frame::Ack { producer: ProducerId(1), seq }));
    nack.message
}

async fn taken(lane: &mut RawLane, seq: u64, bytes: Vec<u8>) {
    lane.batch(1, seq, bytes).await;
    assert_eq!(lane.hear().await, Some(Frame::Ack { producer: ProducerId(1), seq }));
}

/// The node's last word on a lane.
async fn ended(lane: &mut RawLane) -> (CloseCode, String) {
    let last = match lane.hear().await {
        Some(Frame::GoAway(goaway)) => (goaway.reason, goaway.message),
        other => panic!("expected goaway, heard {other:?}"),
    };
    assert_eq!(lane.hear().await, None, "the lane ends behind the goaway");
    last
}

/// Why a connection that got through the handshake was closed all the same, before any greeting.
async fn turned_away(peer: Result<RawPeer, quinn::ConnectionError>) -> String {
    let peer = match peer {
        Ok(peer) => peer,
        Err(error) => return error.to_string(),
    };
    if let Ok((mut send, mut recv)) = peer.connection.open_bi().await {
        let mut hello = Vec::new();
        Frame::Hello(Hello { version_min: 1, version_max: 1, software: "stranger".into() }).encode(&mut hello);
        send.write_all(&hello).await.ok();
        let heard = recv.read_chunk(1, true).await;
        assert!(!matches!(heard, Ok(Some(_))), "a stranger is greeted");
    }
    tokio::time::timeout(Duration::from_secs(20), peer.connection.closed()).await.expect("closed").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_turned_away_before_any_greeting() {
    let scene = Scene::set().await;
    let addr = scene.node.ready.ingest;

    // A certificate of another authority, for the same name; the node's own authority is trusted, so that the client
    // comes as far as showing it.
    let foreign = tempfile::tempdir().unwrap();
    cert(&foreign.path().join("tls"), &["init"]);
    let mut files = TlsFiles::in_dir(&foreign.path().join("tls"), "dev");
    files.ca = scene.node.ready.tls_dir.join("ca.pem");
    let material = TlsMaterial::load(&files).unwrap();
    let reason = turned_away(RawPeer::connect(addr, material.client_config().unwrap()).await).await;
    assert!(reason.contains("certificate") || reason.contains("UnknownIssuer"), "{reason}");
    scene.neighbour.is_served().await;
    // And the client library says so instead of trying for ever.
    let error = Client::connect(ClientConfig::new(addr), &material).await.err().unwrap().to_string();
    assert!(error.contains(&addr.to_string()), "{error}");

    // The right certificate, another protocol.
    let mut config = scene.material("dev").client_config().unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let reason = turned_away(RawPeer::connect(addr, config).await).await;
    assert!(reason.contains("application protocol") || reason.contains("120"), "{reason}");
    scene.neighbour.is_served().await;

    // A reader asks, and writes nothing: refused at its first batch, by name.
    let (_peer, mut lane) = scene.lane("dashboard").await;
    let message = refused(&mut lane, 1, payload(&batch(&["truck_1"], 1, 0)), RejectCode::NotAuthorised).await;
    assert!(message.contains("truck_1") && message.contains("dashboard"), "{message}");
    scene.neighbour.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_were_not_granted_are_refused_by_name_and_rule() {
    let scene = Scene::set().await;
    // A device writes its own id only.
    let (_device, mut lane) = scene.lane("truck_1").await;
    taken(&mut lane, 1, payload(&batch(&["truck_1"], 2, 0))).await;
    let message = refused(&mut lane, 2, payload(&batch(&["truck_2"], 2, 0)), RejectCode::NotAuthorised).await;
    assert!(message.contains("truck_2") && message.contains("truck_1"), "{message}");
    taken(&mut lane, 3, payload(&batch(&["truck_1"], 2, 2))).await;
    scene.neighbour.is_served().await;

    // A gateway writes what its patterns match; one stranger in a batch refuses the batch whole.
    let (_gateway, mut lane) = scene.lane("depot").await;
    taken(&mut lane, 1, payload(&batch(&["trailer_7"], 2, 0))).await;
    let shard = shard_of("trailer_7", 4);
    let stranger = (1..).map(|n| format!("truck_{n}")).find(|id| shard_of(id, 4) == shard).unwrap();
    let mixed = payload(&batch(&["trailer_7", &stranger], 2, 50));
    let message = refused(&mut lane, 2, mixed, RejectCode::NotAuthorised).await;
    assert!(message.contains(&stranger) && message.contains("depot") && message.contains("trailer_*"), "{message}");
    taken(&mut lane, 3, payload(&batch(&["trailer_7"], 2, 2))).await;
    scene.neighbour.is_served().await;

    let question =
        r#"{"range": {"table": "readings", "devices": {"glob": "tr*"}, "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
    let answer = scene.node.query().await.query(question).await.unwrap().collect().await.unwrap();
    let mut rows: Vec<(String, i64)> = Vec::new();
    for batch in &answer {
        let times = common::integers(batch, "time").into_iter().flatten();
        rows.extend(common::texts(batch, "device").into_iter().zip(times.map(|time| (time - BASE_NS) / 1_000_000_000)));
    }
    let expected = [("trailer_7", 0..4), ("truck_1", 0..4)];
    let expected: Vec<(String, i64)> =
        expected.into_iter().flat_map(|(id, rows)| rows.map(move |row| (id.to_owned(), row))).collect();
    assert_eq!(rows, expected, "nothing of a refused batch is stored");
}

fn with_time(mut batch: Batch, time: i64) -> Batch {
    *batch.times.last_mut().unwrap() = time;
    batch
}

fn unix_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_batch_is_refused_by_itself_and_its_lane_goes_on() {
    let scene = Scene::set().await;
    let peer = scene.peer("dev").await;
    let mut lane = peer.lane().await;
    let welcome = lane.open(1).await;
    assert_eq!((welcome.shard_count, welcome.version), (4, 1));
    let good = |first| payload(&batch(&["truck_1"], 3, first));
    taken(&mut lane, 1, good(0)).await;

    let bytes = vec![0; welcome.max_frame_bytes as usize + 1];
    let length = bytes.len().to_string();
    let message = refused(&mut lane, 2, bytes, RejectCode::TooLarge).await;
    assert!(message.contains(&length) && message.contains(&welcome.max_frame_bytes.to_string()), "{message}");
    scene.neighbour.is_served().await;

    let rows = welcome.max_rows as usize + 1;
    let message = refused(&mut lane, 3, payload(&batch(&["truck_1"], rows, 0)), RejectCode::TooLarge).await;
    assert!(message.contains(&rows.to_string()) && message.contains(&welcome.max_rows.to_string()), "{message}");

    let mut text = Text::default();
    ["fast", "faster", "slow"].iter().for_each(|word| text.push(word));
    let column = Column { values: Values::Utf8(text), validity: None };
    let conflict = Batch { fields: vec![BatchField { name: "speed".into(), column }], ..batch(&["truck_1"], 3, 9) };
    let message = refused(&mut lane, 4, payload(&conflict), RejectCode::TypeConflict).await;
    for part in ["readings", "speed", "f64", "utf8"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    scene.neighbour.is_served().await;

    let other = (2..).map(|n| format!("truck_{n}")).find(|id| shard_of(id, 4) != shard_of("truck_1", 4)).unwrap();
    let mixed = payload(&batch(&["truck_1", &other], 1, 9));
    let message = refused(&mut lane, 5, mixed, RejectCode::MixedShards).await;
    assert!(message.contains("truck_1") && message.contains(&other), "{message}");

    let ahead = i64::try_from(welcome.max_future_ns).unwrap() + 60_000_000_000;
    // A wrong clock is no reason to lose rows: they are taken, and stay out of answers.
    taken(&mut lane, 6, payload(&with_time(batch(&["truck_1"], 1, 9), unix_ns() + ahead))).await;
    scene.neighbour.is_served().await;

    assert!(!refused(&mut lane, 7, vec![1, 2, 3], RejectCode::Malformed).await.is_empty());
    let mut cut = good(9);
    cut.pop();
    assert!(!refused(&mut lane, 8, cut, RejectCode::Malformed).await.is_empty());
    let mut later = good(9);
    later[0] = 99;
    let message = refused(&mut lane, 9, later, RejectCode::UnsupportedVersion).await;
    assert!(message.contains("99"), "{message}");
    taken(&mut lane, 10, good(3)).await;
    scene.neighbour.is_served().await;
    let question =
        r#"{"range": {"table": "readings", "devices": ["truck_1"], "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
    let answer = scene.node.query().await.query(question).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.iter().map(|batch| batch.num_rows()).sum::<usize>(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_batch_comes_again_in_order() {
    let scene = Scene::set().await;
    let (_peer, mut lane) = scene.lane("dev").await;
    let bytes = |first| payload(&batch(&["truck_1"], 3, first));
    taken(&mut lane, 1, bytes(0)).await;
    let (durability, producer) = (Default::default(), ProducerId(1));
    let mut frame = Vec::new();
    Frame::Batch(BatchFrame { producer, seq: 2, attempt: 0, durability, payload: bytes(3).into() }).encode(&mut frame);
    *frame.last_mut().unwrap() ^= 1;
    lane.send.write_all(&frame).await.unwrap();
    let damaged = nack(&mut lane).await;
    assert_eq!((damaged.seq, damaged.code, damaged.retryable), (2, RejectCode::BadChecksum, true));
    // Nothing passes it until it has come again.
    lane.batch(1, 3, bytes(6)).await;
    let after = nack(&mut lane).await;
    assert_eq!((after.seq, after.code, after.retryable), (3, RejectCode::AfterRefused, true));
    scene.neighbour.is_served().await;
    lane.send_again(1, 2, 1, bytes(3)).await;
    lane.send_again(1, 3, 1, bytes(6)).await;
    let mut last = 0;
    while last < 3 {
        match lane.hear().await {
            Some(Frame::Ack { producer: ProducerId(1), seq }) if seq > last => last = seq,
            other => panic!("expected an ack above {last}, heard {other:?}"),
        }
    }
    let question =
        r#"{"range": {"table": "readings", "devices": ["truck_1"], "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
    let answer = scene.node.query().await.query(question).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.iter().map(|batch| batch.num_rows()).sum::<usize>(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_its_lane_and_nothing_else() {
    let scene = Scene::set().await;
    let peer = scene.peer("dev").await;
    let mut good = peer.lane().await;
    good.open(7).await;

    let mut lane = peer.lane().await;
    lane.open(1).await;
    lane.send.write_all(&[0xa5; 4_096]).await.unwrap();
    let (reason, message) = ended(&mut lane).await;
    assert!(reason == CloseCode::BadHeader && message.contains("magic"), "{reason:?}: {message}");
    scene.neighbour.is_served().await;

    // One flipped bit in a header: nobody knows where the next frame starts.
    let mut lane = peer.lane().await;
    lane.open(1).await;
    let mut frame = Vec::new();
    let (durability, producer) = (Default::default(), ProducerId(1));
    let bytes = payload(&batch(&["truck_1"], 1, 0));
    Frame::Batch(BatchFrame { producer, seq: 1, attempt: 0, durability, payload: bytes.into() }).encode(&mut frame);
    frame[20] ^= 1;
    lane.send.write_all(&frame).await.unwrap();
    assert_eq!(ended(&mut lane).await.0, CloseCode::BadHeader);

    // No common version.
    let mut lane = peer.lane().await;
    lane.say(&Frame::Hello(Hello { version_min: 7, version_max: 9, software: "tomorrow".into() })).await;
    let (reason, message) = ended(&mut lane).await;
    assert!(reason == CloseCode::UnsupportedVersion && message.contains('7'), "{reason:?}: {message}");

    // A batch before its producer was resumed, and a frame that only nodes send.
    let mut lane = peer.lane().await;
    lane.open(1).await;
    lane.batch(2, 1, payload(&batch(&["truck_1"], 1, 0))).await;
    assert_eq!(ended(&mut lane).await.0, CloseCode::NotResumed);
    let mut lane = peer.lane().await;
    lane.open(1).await;
    lane.say(&Frame::Ack { producer: ProducerId(1), seq: 1 }).await;
    assert_eq!(ended(&mut lane).await.0, CloseCode::UnexpectedFrame);

    // The other lane of the same connection never noticed.
    good.batch(7, 1, payload(&batch(&["truck_1"], 3, 0))).await;
    assert_eq!(good.hear().await, Some(Frame::Ack { producer: ProducerId(7), seq: 1 }));
    scene.neighbour.is_served().await;
}
