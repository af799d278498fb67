//! Owns the client library: batches in, acknowledgements out, over connections that come and go; needs no engine.
//!
//! - [`rows`]: from single rows to batches
//! - [`split`]: from batches to encoded parts of one shard
//! - `lane`, `link`: sending and sending again
//! - [`Delivery`], [`Observer`]: what became of a batch

mod delivery;
mod lane;
mod link;
pub mod rows;
pub mod split;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, TokioRuntime};
use tidewell_codec::{Batch, BatchError, Tier};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

pub use delivery::{Delivery, NoObserver, Observer, Rejected, Settled};
pub use rows::{RowBatcher, RowBuilder, RowError, Value};
pub use split::{NodeLimits, Part};

use crate::quic::{self, QuicSettings};
use crate::tls::{TlsError, TlsMaterial};
use crate::wire::{Durability, Frame, FrameReader, Hello, ProducerId, Received, VERSIONS, Welcome};
use lane::{Lane, Outgoing, Queue};
use link::{Backoff, LinkState, Target, random_u128};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The node's ingest address.
    pub addr: SocketAddr,
    /// The name that the node's certificate must carry.
    pub server_name: String,
    /// QUIC and socket settings.
    pub quic: QuicSettings,
    /// Lanes; no more than the node has shards are used, because a shard's batches keep to one lane.
    pub lanes: usize,
    /// Batches per lane that may wait for their acknowledgement; `send` waits when there are more.
    pub in_flight_batches: usize,
    /// Payload bytes of all lanes together that may wait.
    pub in_flight_bytes: usize,
    /// How columns are encoded.
    pub encoding: Tier,
    /// What acknowledgements promise.
    pub durability: Durability,
    /// Bound on a handshake and on the greeting of a lane.
    pub handshake_timeout: Duration,
    /// How long [`Client::connect`] tries.
    pub connect_timeout: Duration,
    /// The first wait before connecting again.
    pub backoff_min: Duration,
    /// The longest such wait.
    pub backoff_max: Duration,
    /// Name and version that the node's log shows.
    pub software: String,
}

impl ClientConfig {
    /// Defaults for a node at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            server_name: "localhost".into(),
            quic: QuicSettings::client(),
            lanes: 4,
            in_flight_batches: 64,
            in_flight_bytes: 32 << 20,
            encoding: Tier::Hot,
            durability: Durability::Durable,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(10),
            software: concat!("tidewell-client/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket.
    #[error("opening a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node does not answer, or does not want this client.
    #[error("connecting to {addr}: {reason}")]
    Refused {
        /// The node.
        addr: SocketAddr,
        /// What it, or the network, said.
        reason: String,
    },
}

/// Why a batch was not taken for sending.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No node would take it.
    #[error("the batch cannot be sent: {0}")]
    Batch(#[from] BatchError),
    /// The client is closed, or has given up.
    #[error("the client takes nothing more: {0}")]
    Closed(String),
}

/// What a client has done.
#[derive(Debug, Default)]
pub struct ClientStats {
    /// Parts acknowledged.
    pub batches: AtomicU64,
    /// Rows in them.
    pub rows: AtomicU64,
    /// Payload bytes in them.
    pub payload_bytes: AtomicU64,
    /// Parts refused for good.
    pub rejected: AtomicU64,
    /// Rows in them.
    pub rejected_rows: AtomicU64,
    /// Refusals that led to sending again.
    pub retries: AtomicU64,
}

/// What the client's tasks share.
struct Shared {
    config: ClientConfig,
    observer: Arc<dyn Observer>,
    stats: ClientStats,
    bytes: Semaphore,
    bytes_total: usize,
}

impl Shared {
    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_total)).unwrap_or(u32::MAX)
    }

    /// A part is settled: its room is free.
    fn free(&self, slots: &Semaphore, bytes: usize) {
        slots.add_permits(1);
        self.bytes.add_permits(self.clamp(bytes) as usize);
    }
}

/// Sends batches to one node. Clones share connection and lanes; the client ends when it is closed, or with its last
/// clone.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    queues: Vec<Arc<Queue>>,
    welcome: Welcome,
    endpoint: Endpoint,
    stop: watch::Sender<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Client {
    /// Connects, and returns when the node has greeted: only then is it known that it accepts the certificate.
    ///
    /// # Errors
    /// When the node cannot be reached within `connect_timeout`, or refuses.
    pub async fn connect(config: ClientConfig, material: &TlsMaterial) -> Result<Self, ConnectError> {
        Self::connect_observed(config, material, Arc::new(NoObserver)).await
    }

    /// As [`Client::connect`], with somebody who is told what happens.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_observed(
        config: ClientConfig,
        material: &TlsMaterial,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ConnectError> {
        let local: SocketAddr =
            if config.addr.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
        let bound = config.quic.bind(local)?;
        bound.warn_when_capped();
        let mut endpoint = Endpoint::new(config.quic.endpoint(None), None, bound.socket, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(quic::client_config(material, &config.quic)?);
        let target = Target {
            endpoint: endpoint.clone(),
            addr: config.addr,
            server_name: config.server_name.clone(),
            handshake_timeout: config.handshake_timeout,
        };
        let (connection, welcome) = first_connection(&target, &config).await?;

        let lanes = config.lanes.clamp(1, welcome.shard_count.max(1) as usize);
        let bytes_total = config.in_flight_bytes.clamp(1, u32::MAX as usize);
        let backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let slots = config.in_flight_batches.max(1);
        let shared = Arc::new(Shared {
            config,
            observer: observer.clone(),
            stats: ClientStats::default(),
            bytes: Semaphore::new(bytes_total),
            bytes_total,
        });
        let stop = watch::Sender::new(false);
        let link: Arc<watch::Sender<LinkState>> = Arc::new(watch::Sender::new(Some(connection)));
        let queues: Vec<_> = (0..lanes).map(|_| Arc::new(Queue::new(slots))).collect();
        for queue in &queues {
            let producer = ProducerId(random_u128());
            let (link, stop) = (link.subscribe(), stop.subscribe());
            let lane = Lane::new(shared.clone(), queue.clone(), link, stop, producer, welcome.shard_count);
            tokio::spawn(lane.run());
        }
        observer.connected();
        tokio::spawn(link::keep(target, backoff, link, observer, stop.subscribe()));
        Ok(Self(Arc::new(Handle { shared, queues, welcome, endpoint, stop })))
    }

    /// What the node told when the client connected first.
    pub fn welcome(&self) -> &Welcome {
        &self.0.welcome
    }

    /// The node's limits, for who encodes by himself.
    pub fn limits(&self) -> NodeLimits {
        NodeLimits::from(&self.0.welcome)
    }

    /// Lanes in use.
    pub fn lanes(&self) -> usize {
        self.0.queues.len()
    }

    /// Counters.
    pub fn stats(&self) -> &ClientStats {
        &self.0.shared.stats
    }

    /// Takes a batch for sending: waits until there is room for it, not until it is acknowledged. A batch of devices of
    /// several shards, or over the node's limits, is sent in parts, each of which is taken or refused whole. Batches of
    /// one device sent one after the other are applied in that order.
    ///
    /// # Errors
    /// When no node would take the batch, or the client is closed.
    pub async fn send(&self, batch: Batch) -> Result<Delivery, SendError> {
        let parts = split::split(batch, self.limits(), self.0.shared.config.encoding)?;
        self.send_parts(parts).await
    }

    /// As [`Client::send`], with parts that [`split::split`] made for this node's [`limits`](Client::limits).
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn send_parts(&self, parts: Vec<Part>) -> Result<Delivery, SendError> {
        let shared = &self.0.shared;
        let delivery = Delivery::new(parts.len());
        for part in parts {
            let queue = &self.0.queues[part.shard as usize % self.0.queues.len()];
            queue.room().await?;
            match shared.bytes.acquire_many(shared.clamp(part.payload.len())).await {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(SendError::Closed("the client was closed".into())),
            }
            queue.push(Outgoing {
                part,
                durability: shared.config.durability,
                delivery: delivery.clone(),
                accepted_at: Instant::now(),
            })?;
        }
        Ok(delivery)
    }

    /// Waits until everything sent so far is acknowledged or refused. Refusals are told to the observer, to each
    /// [`Delivery`], and counted in [`ClientStats::rejected`].
    ///
    /// # Errors
    /// When the client was closed or gave up before.
    pub async fn flush(&self) -> Result<(), SendError> {
        for queue in &self.0.queues {
            queue.flush().await?;
        }
        Ok(())
    }

    /// Flushes for at most `deadline`, then disconnects. Gives how many parts were never acknowledged; whether the node
    /// has them is not known.
    pub async fn close(self, deadline: Duration) -> u64 {
        let flushed = timeout(deadline, self.flush()).await;
        let stats = &self.0.shared.stats;
        let before = stats.rejected.load(Ordering::Relaxed);
        self.0.stop.send_replace(true);
        if flushed.is_err() {
            // The lanes tell what they give up on.
            self.flush().await.ok();
        }
        let lost = stats.rejected.load(Ordering::Relaxed) - before;
        self.0.endpoint.close(0u32.into(), b"done");
        timeout(Duration::from_millis(200), self.0.endpoint.wait_idle()).await.ok();
        lost
    }
}

/// Connects and greets once. In TLS 1.3 a client is connected before the node has looked at its certificate, so only
/// the greeting shows that it is welcome.
async fn first_connection(target: &Target, config: &ClientConfig) -> Result<(Connection, Welcome), ConnectError> {
    let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
    let until = Instant::now() + config.connect_timeout;
    loop {
        let attempt = async {
            let connection = target.connect().await?;
            let welcome = greet(&connection, &config.software)
                .await
                .map_err(|error| connection.close_reason().map_or(error, |reason| reason.to_string()))?;
            Ok::<_, String>((connection, welcome))
        };
        let left = until.saturating_duration_since(Instant::now());
        let reason = match timeout(left, attempt).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no greeting within {:?}", config.connect_timeout),
        };
        let wait = backoff.wait();
        if Instant::now() + wait >= until || is_final(&reason) {
            return Err(ConnectError::Refused { addr: config.addr, reason });
        }
        tokio::time::sleep(wait).await;
    }
}

/// Whether trying again cannot help: the peers do not trust each other or do not speak the same protocol.
fn is_final(reason: &str) -> bool {
    ["cryptographic handshake failed", "closed by peer", "invalid peer certificate", "invalid server name"]
        .iter()
        .any(|sign| reason.contains(sign))
}

async fn greet(connection: &Connection, software: &str) -> Result<Welcome, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let hello = Frame::Hello(Hello {
        version_min: *VERSIONS.start(),
        version_max: *VERSIONS.end(),
        software: software.to_owned(),
    });
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    send.write_all(&bytes).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    let mut reader = FrameReader::new(0);
    while let Some(chunk) = recv.read_chunk(4_096, true).await.map_err(|error| error.to_string())? {
        reader.feed(chunk.bytes);
        match reader.next().map_err(|error| error.to_string())? {
            Some(Received::Frame(Frame::Welcome(welcome))) => return Ok(welcome),
            Some(Received::Frame(Frame::GoAway(goaway))) => {
                return Err(format!("{}: {}", goaway.reason, goaway.message));
            }
            Some(other) => return Err(format!("expected welcome, found {other:?}")),
            None => {}
        }
    }
    Err("the node ended the lane without a greeting".into())
}
