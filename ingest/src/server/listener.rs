//! Owns who is let in: bounds on handshakes and connections, and the registry of live ones; does not read lanes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use quinn::{Connection, Incoming};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::{Inner, Phase, connection};
use crate::identity::Peer;
use crate::quic::QuicSettings;
use crate::wire::CloseCode;

/// What every connection may send unread, however many there are.
const WINDOW_MIN: u32 = 64 << 10;

/// Accepts until the endpoint closes or the node begins to stop.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut phase = inner.phase.subscribe();
    loop {
        let incoming = tokio::select! {
            incoming = inner.endpoint.accept() => incoming,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        match incoming {
            Some(incoming) => admit(&inner, incoming),
            None => return,
        }
    }
}

fn admit(inner: &Arc<Inner>, incoming: Incoming) {
    let config = &inner.config;
    let handshakes = inner.admission.handshakes.load(Ordering::Relaxed);
    let connections = inner.admission.connections.load(Ordering::Relaxed);
    if handshakes >= config.handshakes_max || connections + handshakes >= config.connections_max {
        inner.metrics.refused.add(1);
        incoming.refuse();
        return;
    }
    if handshakes >= config.retry_from_handshakes && !incoming.remote_address_validated() && incoming.may_retry() {
        inner.metrics.retried.add(1);
        // `may_retry` was just asked, so this cannot fail.
        incoming.retry().ok();
        return;
    }
    // Asked last: an address that was not proved may be anybody's.
    let Some(from) = inner.admission.from(incoming.remote_address().ip(), config.handshakes_per_address_max) else {
        inner.metrics.refused.add(1);
        incoming.refuse();
        return;
    };
    let permit = Handshake { _count: Held::new(inner, |admission| &admission.handshakes), from, inner: inner.clone() };
    tokio::spawn(serve(inner.clone(), incoming, permit));
}

/// A handshake that is under way.
struct Handshake {
    _count: Held,
    from: IpAddr,
    inner: Arc<Inner>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.inner.admission.ended(self.from);
    }
}

async fn serve(inner: Arc<Inner>, incoming: Incoming, handshake: Handshake) {
    let remote = incoming.remote_address();
    inner.metrics.handshakes.add(1);
    let outcome = match incoming.accept_with(Arc::new(config_for_next(&inner))) {
        Ok(connecting) => match timeout(inner.config.handshake_timeout, connecting).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no end within {:?}", inner.config.handshake_timeout)),
        },
        Err(error) => Err(error.to_string()),
    };
    inner.metrics.handshakes.sub(1);
    let connection = match outcome {
        Ok(connection) => connection,
        Err(error) => {
            inner.metrics.handshakes_failed.add(1);
            tracing::debug!(%remote, error, "handshake failed");
            return;
        }
    };
    let held = Held::new(&inner, |admission| &admission.connections);
    drop(handshake);
    let peer = match identify(&inner, &connection) {
        Ok(peer) => Arc::new(peer),
        Err(reason) => {
            inner.metrics.handshakes_failed.add(1);
            tracing::info!(%remote, reason, "connection refused");
            close(&connection, CloseCode::NotAuthorised, &reason);
            return;
        }
    };
    tracing::debug!(%remote, %peer, "connected");
    inner.metrics.connections_total.add(1);
    inner.metrics.connections.add(1);
    let id = inner.live.add(connection.clone(), peer.clone());
    // A revocation between the check above and the registration would otherwise be missed.
    if inner.revoked.load().contains(&peer) {
        close(&connection, CloseCode::NotAuthorised, "the certificate is revoked");
    }
    connection::run(&inner, &connection, peer).await;
    inner.live.remove(id);
    inner.metrics.connections.sub(1);
    drop(held);
}

/// The settings of a new connection. What its peer may send unread lies in memory, so the more connections there are,
/// the less each gets: a quarter of the memory bound is shared out.
fn config_for_next(inner: &Inner) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::clone(&inner.accepting.load());
    let settings = &inner.config.quic;
    let connections = inner.admission.connections.load(Ordering::Relaxed) + 1;
    let share = u32::try_from(inner.config.memory_bytes / 4 / connections).unwrap_or(u32::MAX).max(WINDOW_MIN);
    if share < settings.receive_window {
        let window = QuicSettings {
            receive_window: share,
            stream_receive_window: share.min(settings.stream_receive_window),
            ..settings.clone()
        };
        config.transport_config(window.transport());
    }
    config
}

fn identify(inner: &Inner, connection: &Connection) -> Result<Peer, String> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first()).ok_or("no client certificate")?;
    let peer = Peer::from_der(leaf).map_err(|error| error.to_string())?;
    if inner.revoked.load().contains(&peer) {
        return Err(format!("the certificate of {peer} is revoked"));
    }
    Ok(peer)
}

/// Closes a connection with a code and a message of bounded length.
pub(super) fn close(connection: &Connection, code: CloseCode, reason: &str) {
    let bytes = reason.as_bytes();
    connection.close(u32::from(code.value()).into(), &bytes[..bytes.len().min(512)]);
}

/// How much is let in at the moment.
#[derive(Debug, Default)]
pub(super) struct Admission {
    handshakes: AtomicUsize,
    connections: AtomicUsize,
    /// Handshakes by address; never more entries than handshakes.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    /// Counts a handshake of `address`; `None` when it has `max` already. Gives the name that [`Self::ended`] takes.
    fn from(&self, address: IpAddr, max: usize) -> Option<IpAddr> {
        let owner = owner_of(address);
        let mut addresses = self.addresses.lock();
        let count = addresses.entry(owner).or_default();
        *count += 1;
        if *count > max {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&owner);
            }
            return None;
        }
        Some(owner)
    }

    fn ended(&self, owner: IpAddr) {
        if let Entry::Occupied(mut entry) = self.addresses.lock().entry(owner) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What one customer of a network usually has: an address, or with IPv6 the addresses of 64 bits.
fn owner_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// One unit of a bound, given back when dropped.
struct Held {
    inner: Arc<Inner>,
    which: fn(&Admission) -> &AtomicUsize,
}

impl Held {
    fn new(inner: &Arc<Inner>, which: fn(&Admission) -> &AtomicUsize) -> Self {
        which(&inner.admission).fetch_add(1, Ordering::Relaxed);
        Self { inner: inner.clone(), which }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.which)(&self.inner.admission).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_bound_and_gets_it_back() {
        let admission = Admission::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (one, other) = (address("2001:db8::1"), address("2001:db8::ffff:2"));
        let owner = admission.from(one, 2).unwrap();
        assert!(admission.from(other, 2).is_some(), "the same network");
        assert!(admission.from(one, 2).is_none());
        assert!(admission.from(address("2001:db8:0:1::1"), 2).is_some());
        assert_eq!(
            admission.from(address("::ffff:127.0.0.1"), 1),
            admission.from(address("127.0.0.2"), 1).map(|_| address("127.0.0.1"))
        );
        admission.ended(owner);
        assert!(admission.from(one, 2).is_some());
        for _ in 0..2 {
            admission.ended(owner);
        }
        assert!(!admission.addresses.lock().contains_key(&owner));
        assert!(admission.from(one, 0).is_none() && !admission.addresses.lock().contains_key(&owner));
    }
}
