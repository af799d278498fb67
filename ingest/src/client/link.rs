//! Owns the one connection that all lanes of a client share: making it, making it again; does not send batches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Observer;

/// Where and how to connect.
pub(super) struct Target {
    pub endpoint: Endpoint,
    pub addr: SocketAddr,
    pub server_name: String,
    pub handshake_timeout: Duration,
}

impl Target {
    /// One attempt.
    pub async fn connect(&self) -> Result<Connection, String> {
        let connecting = self.endpoint.connect(self.addr, &self.server_name).map_err(|error| error.to_string())?;
        match timeout(self.handshake_timeout, connecting).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer from {} within {:?}", self.addr, self.handshake_timeout)),
        }
    }
}

/// Waits that grow while nothing works, spread at random so that a fleet does not come back at one moment.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), next: min }
    }

    /// The next wait: between half of the current bound and the bound.
    pub fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.max);
        let fraction = f64::from(random_u32()) / f64::from(u32::MAX);
        bound.mul_f64(0.5 + 0.5 * fraction)
    }

    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Random bytes from the TLS provider's generator: producer ids must never repeat in a fleet.
pub(super) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's random generator answers, or no TLS connection could be made either");
    u128::from_le_bytes(bytes)
}

fn random_u32() -> u32 {
    random_u128() as u32
}

/// What lanes watch: the connection while there is one.
pub(super) type LinkState = Option<Connection>;

/// A connection that lives shorter than this does not reset the backoff: it was most likely refused after the handshake.
const STABLE: Duration = Duration::from_secs(2);

/// Keeps `state` filled until `stop` turns true; `state` holds the first connection already.
pub(super) async fn keep(
    target: Target,
    mut backoff: Backoff,
    state: Arc<watch::Sender<LinkState>>,
    observer: Arc<dyn Observer>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let since = Instant::now();
        let connection = state.borrow().clone();
        let mut reason = String::new();
        if let Some(connection) = connection {
            tokio::select! {
                // `close` stops first and closes then: in this order its own end is no lost connection.
                biased;
                () = stopped(&mut stop) => return,
                error = connection.closed() => reason = error.to_string(),
            }
            state.send_replace(None);
            if since.elapsed() > STABLE {
                backoff.reset();
            }
        }
        loop {
            let wait = backoff.wait();
            tracing::debug!(reason, ?wait, "not connected");
            observer.disconnected(&reason, wait);
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut stop) => return,
            }
            let attempt = tokio::select! {
                attempt = target.connect() => attempt,
                () = stopped(&mut stop) => return,
            };
            match attempt {
                Ok(connection) => {
                    state.send_replace(Some(connection));
                    observer.connected();
                    break;
                }
                Err(error) => reason = error,
            }
        }
    }
}

/// Resolves when `stop` is true or its sender is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| backoff.wait().as_millis()).collect();
        for (wait, bound) in waits.iter().zip([100, 200, 400, 800, 1_000, 1_000]) {
            assert!((bound / 2..=bound).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(100));
        assert_ne!(random_u128(), random_u128());
    }
}
