//! Owns the ingest address: its start, reload and end; what happens on a lane is in the modules below.
//!
//! - `listener`: who is let in
//! - `connection`, `lane`: from streams to the store and back
//! - `mailbox`, `memory`, `live`: what lanes share
//! - [`store`]: what is needed of the engine

mod config;
mod connection;
mod lane;
mod listener;
mod live;
mod mailbox;
mod memory;
mod metrics;
pub mod store;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quinn::{Endpoint, TokioRuntime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use config::ServerConfig;
pub use metrics::{Counter, Metrics};
pub use store::Store;

use crate::grants::SharedGrants;
use crate::quic;
use crate::session::Producers;
use crate::tls::{Revoked, TlsError, TlsMaterial};
use crate::wire::{CloseCode, ProducerId};

/// Why the ingest address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("binding the ingest address {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Lanes end once what they handed on is settled, at the latest after the time given.
    Draining(Duration),
}

/// Locks over producers: batches of different producers seldom wait for each other.
const PRODUCER_LOCKS: usize = 16;

/// What all tasks of the server share. Lock order: `producers`, `lanes`, a mailbox.
struct Inner {
    config: ServerConfig,
    endpoint: Endpoint,
    store: Arc<dyn Store>,
    grants: SharedGrants,
    metrics: Arc<Metrics>,
    memory: Arc<memory::Budget>,
    /// Bytes received on all lanes and not yet handed on.
    unread_bytes: Counter,
    admission: listener::Admission,
    live: live::Live,
    revoked: ArcSwap<Revoked>,
    /// What new connections get, before the share of memory of each is known.
    accepting: ArcSwap<quinn::ServerConfig>,
    producers: [Mutex<Producers>; PRODUCER_LOCKS],
    lanes: Mutex<HashMap<u64, Arc<mailbox::Mailbox>>>,
    lane_next: AtomicU64,
    phase: watch::Sender<Phase>,
    started: Instant,
}

impl Inner {
    fn producers(&self, producer: ProducerId) -> &Mutex<Producers> {
        &self.producers[producer.0 as usize % PRODUCER_LOCKS]
    }
}

/// A running ingest address.
pub struct Server {
    inner: Arc<Inner>,
    listener: JoinHandle<()>,
}

impl Server {
    /// Binds the address and serves it on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound or the certificates not be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        config: ServerConfig,
        material: &TlsMaterial,
        grants: SharedGrants,
        store: Arc<dyn Store>,
    ) -> Result<Self, StartError> {
        let quinn_config = quic::server_config(material, &config.quic)?;
        let accepting = ArcSwap::from_pointee(quinn_config.clone());
        let revoked = material.revoked()?;
        let fail = |source| StartError::Bind { addr: config.addr, source };
        let bound = config.quic.bind(config.addr).map_err(fail)?;
        bound.warn_when_capped();
        let endpoint = Endpoint::new(
            config.quic.endpoint(Some(material.key_pem())),
            Some(quinn_config),
            bound.socket,
            Arc::new(TokioRuntime),
        )
        .map_err(fail)?;
        let inner = Arc::new(Inner {
            memory: Arc::new(memory::Budget::new(config.memory_bytes, config.memory.clone())),
            config,
            endpoint,
            store,
            grants,
            metrics: Arc::default(),
            unread_bytes: Counter::default(),
            admission: listener::Admission::default(),
            live: live::Live::default(),
            revoked: ArcSwap::from_pointee(revoked),
            accepting,
            producers: Default::default(),
            lanes: Mutex::default(),
            lane_next: AtomicU64::new(1),
            phase: watch::Sender::new(Phase::Serving),
            started: Instant::now(),
        });
        let listener = tokio::spawn(listener::run(inner.clone()));
        Ok(Self { inner, listener })
    }

    /// The address that is served; tells the port when 0 was asked for.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The grants that it goes by; store new ones there to change them.
    pub fn grants(&self) -> &SharedGrants {
        &self.inner.grants
    }

    /// Uses new certificates and revocation lists: for new connections from now on, and live ones whose certificate is
    /// now revoked are closed. Gives how many were.
    ///
    /// # Errors
    /// When the material cannot be used; the old one then stays in use.
    pub fn reload_tls(&self, material: &TlsMaterial) -> Result<usize, TlsError> {
        let inner = &self.inner;
        let config = quic::server_config(material, &inner.config.quic)?;
        let revoked = material.revoked()?;
        inner.endpoint.set_server_config(Some(config.clone()));
        inner.accepting.store(Arc::new(config));
        let closing = inner.live.matching(|peer| revoked.contains(peer));
        inner.revoked.store(Arc::new(revoked));
        for connection in &closing {
            inner.metrics.revoked.add(1);
            listener::close(connection, CloseCode::NotAuthorised, "the certificate is revoked");
        }
        Ok(closing.len())
    }

    /// Lets nobody in any more, asks clients to leave, settles what was received, tells them, and closes; at the
    /// latest after `deadline`. Batches that were not acknowledged then are sent again by their clients.
    pub async fn shutdown(self, deadline: Duration) {
        let inner = &self.inner;
        inner.endpoint.set_server_config(None);
        inner.phase.send_replace(Phase::Draining(deadline));
        for mailbox in inner.lanes.lock().values() {
            mailbox.post(mailbox::Letter::Stopping);
        }
        let drained = async {
            while inner.live.len() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Lanes end by themselves at the deadline; the rest is for their last words to arrive.
        if timeout(deadline + Duration::from_millis(500), drained).await.is_err() {
            tracing::warn!(connections = inner.live.len(), "connections did not drain in time and are closed");
        }
        let code = u32::from(CloseCode::ShuttingDown.value());
        inner.endpoint.close(code.into(), b"the node is stopping");
        // The close packets are sent once; a peer that misses them learns from a stateless reset or its idle timeout.
        timeout(Duration::from_secs(1), inner.endpoint.wait_idle()).await.ok();
        self.listener.abort();
    }
}
