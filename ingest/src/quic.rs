//! Owns the QUIC settings and UDP sockets of both ends; does not know frames.

mod reset;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Once};
use std::time::Duration;

use quinn::{AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tls::{TlsError, TlsMaterial};
use reset::{RandomIds, ResetKey};

/// Above this UDP payload, ten segments no longer fit in one segmented send: the kernel refuses it, the loss looks like
/// a black hole, and the connection falls back to 1,200 bytes.
pub const UDP_PAYLOAD_MAX: u16 = 6_553;
/// What QUIC assumes of every path.
const UDP_PAYLOAD_MIN: u16 = 1_200;

/// QUIC and socket settings of one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicSettings {
    /// Requested size of the socket's receive and send buffer. The kernel's default (208 KiB for all connections)
    /// overflows when a few hundred devices send at once.
    pub socket_buffer_bytes: usize,
    /// Largest UDP payload. `None` leaves it to discovery up to 1,452; set it on loopback and jumbo frames, where
    /// 6,500 doubles the throughput. Bounded by [`UDP_PAYLOAD_MAX`]; both ends need it.
    pub udp_payload_max: Option<u16>,
    /// Whether the kernel cuts segments (4 times the throughput); off only for broken network drivers.
    pub segmentation_offload: bool,
    /// A connection without a packet for so long ends.
    pub idle_timeout: Duration,
    /// How often a silent connection sends a ping; `None` lets it go idle.
    pub keep_alive: Option<Duration>,
    /// Bytes that one lane may have on its way or unread.
    pub stream_receive_window: u32,
    /// The same of one connection.
    pub receive_window: u32,
    /// Bytes that may be sent and not acknowledged by QUIC.
    pub send_window: u64,
    /// Lanes that the other end may open. Each allowed one costs memory when a connection starts.
    pub lanes_max: u32,
}

impl QuicSettings {
    /// Settings of a node: it receives batches and sends acknowledgements.
    pub fn server() -> Self {
        Self {
            socket_buffer_bytes: 4 << 20,
            udp_payload_max: None,
            segmentation_offload: true,
            idle_timeout: Duration::from_secs(60),
            keep_alive: None,
            stream_receive_window: 1 << 20,
            receive_window: 4 << 20,
            send_window: 256 << 10,
            lanes_max: 16,
        }
    }

    /// Settings of a sender.
    pub fn client() -> Self {
        Self {
            stream_receive_window: 256 << 10,
            receive_window: 1 << 20,
            send_window: 8 << 20,
            lanes_max: 0,
            // Bindings of address translation often die near 30 s.
            keep_alive: Some(Duration::from_secs(10)),
            idle_timeout: Duration::from_secs(30),
            ..Self::server()
        }
    }

    fn payload(&self) -> Option<u16> {
        self.udp_payload_max.map(|bytes| bytes.clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD_MAX))
    }

    /// quinn's form of the settings.
    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut ack_frequency = AckFrequencyConfig::default();
        ack_frequency.ack_eliciting_threshold(VarInt::from_u32(20)).max_ack_delay(Some(Duration::from_millis(5)));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(self.lanes_max))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window))
            .receive_window(VarInt::from_u32(self.receive_window))
            .send_window(self.send_window)
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            .keep_alive_interval(self.keep_alive)
            .datagram_receive_buffer_size(None)
            .ack_frequency_config(Some(ack_frequency))
            .enable_segmentation_offload(self.segmentation_offload);
        if let Some(payload) = self.payload() {
            // Only the bound of the search rises: it takes a few round trips, and a path that carries less still works.
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(payload);
            transport.mtu_discovery_config(Some(discovery));
        }
        Arc::new(transport)
    }

    /// The endpoint's settings. With a `secret` that survives a restart, so do the answers to packets of connections
    /// from before it.
    pub(crate) fn endpoint(&self, secret: Option<&[u8]>) -> EndpointConfig {
        let mut config = match secret {
            Some(secret) => EndpointConfig::new(Arc::new(ResetKey::derive(secret))),
            None => EndpointConfig::default(),
        };
        if secret.is_some() {
            config.cid_generator(|| Box::new(RandomIds::new()));
        }
        if let Some(payload) = self.payload() {
            config.max_udp_payload_size(payload.max(1_472)).expect("clamped to what QUIC allows");
        }
        config
    }

    /// A UDP socket with large buffers.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn bind(&self, addr: SocketAddr) -> io::Result<BoundSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false).ok();
        }
        let wanted = self.socket_buffer_bytes;
        // A kernel that refuses leaves its default, which the granted size below then shows.
        socket.set_recv_buffer_size(wanted).ok();
        socket.set_send_buffer_size(wanted).ok();
        socket.bind(&addr.into())?;
        let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?);
        Ok(BoundSocket { socket: socket.into(), buffer_wanted: wanted, buffer_granted: granted })
    }
}

/// A socket and what the kernel made of the request for buffers.
pub(crate) struct BoundSocket {
    pub socket: UdpSocket,
    pub buffer_wanted: usize,
    pub buffer_granted: usize,
}

impl BoundSocket {
    /// Tells whoever operates it when the kernel capped the buffers; once a process.
    pub fn warn_when_capped(&self) {
        static TOLD: Once = Once::new();
        if self.buffer_granted < self.buffer_wanted && !TOLD.is_completed() {
            TOLD.call_once(|| {});
            tracing::warn!(
                wanted_bytes = self.buffer_wanted,
                granted_bytes = self.buffer_granted,
                "the kernel caps UDP socket buffers; with many packets at once some will be lost; \
                 raise net.core.rmem_max and net.core.wmem_max"
            );
        }
    }
}

/// quinn's server config for `material`.
#[cfg(feature = "server")]
pub(crate) fn server_config(material: &TlsMaterial, settings: &QuicSettings) -> Result<quinn::ServerConfig, TlsError> {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(Arc::new(material.server_config()?))
        .map_err(|error| TlsError::Rejected(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    // Nothing large arrives before accept, because there is no 0-RTT.
    config.transport_config(settings.transport()).max_incoming(1_024).incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(8 << 20);
    Ok(config)
}

/// quinn's client config for `material`.
#[cfg(feature = "client")]
pub(crate) fn client_config(material: &TlsMaterial, settings: &QuicSettings) -> Result<quinn::ClientConfig, TlsError> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::new(material.client_config()?))
        .map_err(|error| TlsError::Rejected(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(settings.transport());
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_stay_where_segmented_sends_work() {
        let mut settings = QuicSettings::server();
        assert_eq!(settings.payload(), None);
        for (asked, used) in [(9_000, 6_553), (6_500, 6_500), (100, 1_200)] {
            settings.udp_payload_max = Some(asked);
            assert_eq!(settings.payload(), Some(used));
        }
    }

    #[test]
    fn sockets_tell_what_the_kernel_granted() {
        let settings = QuicSettings { socket_buffer_bytes: 64 << 10, ..QuicSettings::server() };
        let bound = settings.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(bound.buffer_granted >= 64 << 10);
        assert!(bound.socket.local_addr().unwrap().port() != 0);
    }
}
