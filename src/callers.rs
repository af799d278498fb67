//! Owns who a caller of the query address is, by certificate and grants; does not verify certificates (TLS did).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tidewell_ingest::grants::{Role, SharedGrants};
use tidewell_ingest::identity::Peer;
use tidewell_ingest::tls::Revoked;
use tidewell_query::flight::{Authenticator, Credentials, DeviceScope, Principal, Roles};

/// Tells callers of the query address by their certificate.
pub struct Callers {
    grants: SharedGrants,
    revoked: RwLock<Revoked>,
    generation: AtomicU64,
}

impl Callers {
    /// Callers with `grants`, except those that are revoked.
    pub fn new(grants: SharedGrants, revoked: Revoked) -> Self {
        Self { grants, revoked: RwLock::new(revoked), generation: AtomicU64::new(1) }
    }

    /// Uses new revocations; grants are shared and may have changed too.
    pub fn reload(&self, revoked: Revoked) {
        *self.revoked.write() = revoked;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Authenticator for Callers {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Arc<Principal>, String> {
        let Some(certificate) = credentials.certificate else {
            return Err(
                "no client certificate; show one that this node's authority signed (tidewell cert reader)".into()
            );
        };
        let peer = Peer::from_der(certificate).map_err(|error| format!("client certificate: {error}"))?;
        if self.revoked.read().contains(&peer) {
            return Err(format!("the certificate of {peer} is revoked"));
        }
        let Some((role, patterns)) = self.grants.load().read_rights(&peer) else {
            return Err(format!("{peer} has no grant to read; add one with `tidewell cert reader` or in grants.toml"));
        };
        let devices =
            DeviceScope::from_patterns(patterns.texts().iter().map(String::as_str)).map_err(|e| e.to_string())?;
        let roles = match role {
            Role::Reader => Roles::READER,
            Role::Writer => Roles { reader: true, ..Roles::WRITER },
            Role::Admin => Roles::ADMIN,
        };
        Ok(Arc::new(Principal { name: peer.to_string(), roles, devices }))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
