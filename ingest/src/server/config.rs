//! Owns the settings and bounds of the ingest address; does not read config files.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tidewell_codec::BatchLimits;
use tidewell_engine::memory::MemoryBudget;

use crate::quic::QuicSettings;

/// Settings and bounds of the ingest address. Every bound has a default that suits a small node.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address to listen on; port 0 takes a free one.
    pub addr: SocketAddr,
    /// QUIC and socket settings.
    pub quic: QuicSettings,
    /// Connections at a time; further ones are refused.
    pub connections_max: usize,
    /// Handshakes at a time; further ones are refused.
    pub handshakes_max: usize,
    /// Handshakes of one address at a time (of IPv6, one network of 64 bits); further ones are refused, so that whoever lets
    /// his stall keeps nobody else out.
    pub handshakes_per_address_max: usize,
    /// Handshakes in flight from which on a peer must first prove its address (a round trip more).
    pub retry_from_handshakes: usize,
    /// A handshake that takes longer is given up.
    pub handshake_timeout: Duration,
    /// A connection that opens no lane, and a lane that says no hello, for so long ends.
    pub first_frame_timeout: Duration,
    /// A lane on which nothing comes for so long ends; zero lets it stay.
    pub lane_idle: Duration,
    /// Bounds of one batch.
    pub batch: BatchLimits,
    /// Batches of one lane that may wait for settlement; beyond, the lane is not read.
    pub lane_batches_in_flight: u32,
    /// The same in payload bytes.
    pub lane_bytes_in_flight: u32,
    /// Producers that one lane may resume.
    pub lane_producers_max: usize,
    /// Memory for batches between arrival and settlement, decoded form included, over all connections. Beyond,
    /// lanes are not read and flow control stops the senders. What then lies unread in QUIC's buffers comes on top:
    /// connections share a quarter of this, each gets at most the receive window and at least 64 KiB.
    pub memory_bytes: usize,
    /// Where the bytes in flight are counted, beside the node's other memory.
    pub memory: Option<Arc<MemoryBudget>>,
    /// What the welcome tells about the engine's bound on rows ahead of its clock.
    pub max_future: Duration,
    /// How long a lane waits for room in a shard's queue before it tells the sender to retry.
    pub queue_wait_max: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 4433)),
            quic: QuicSettings::server(),
            connections_max: 100_000,
            handshakes_max: 2_048,
            handshakes_per_address_max: 256,
            retry_from_handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            first_frame_timeout: Duration::from_secs(10),
            lane_idle: Duration::from_secs(15 * 60),
            batch: BatchLimits::default(),
            lane_batches_in_flight: 256,
            lane_bytes_in_flight: 8 << 20,
            lane_producers_max: 16,
            memory_bytes: 256 << 20,
            memory: None,
            max_future: Duration::from_secs(600),
            queue_wait_max: Duration::from_secs(10),
        }
    }
}
