//! Owns what lets a restarted node tell its old peers at once that their connections are gone; does not send it.

use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::crypto::tls13::{Hkdf, OkmBlock};

/// Key of stateless resets, derived from the node's TLS key, so that it survives a restart without a file of its own.
/// With a key that is random per process a client would wait for its idle timeout.
pub(super) struct ResetKey {
    hkdf: &'static dyn Hkdf,
    key: OkmBlock,
}

impl ResetKey {
    pub fn derive(secret: &[u8]) -> Self {
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is a TLS 1.3 suite");
        let hkdf = suite.hkdf_provider;
        let key = hkdf.extract_from_secret(Some(b"tidewell"), secret).expand_block(&[b"stateless reset"]);
        Self { hkdf, key }
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(self.hkdf.hmac_sign(&self.key, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Resets are only signed, never verified here, so the time that a comparison takes tells nobody anything.
        if self.hkdf.hmac_sign(&self.key, data).as_ref() == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Random connection ids of 8 bytes. quinn's default marks its ids with a key of the process, and drops packets with
/// ids of another process in silence: those are the packets that a restarted node has to answer.
pub(super) struct RandomIds(CryptoProvider);

impl RandomIds {
    pub fn new() -> Self {
        Self(ring::default_provider())
    }
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        self.0.secure_random.fill(&mut bytes).expect("the system's random generator answers");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_secret_gives_the_same_key() {
        let sign = |secret: &[u8]| {
            let mut out = [0; 32];
            ResetKey::derive(secret).sign(b"id", &mut out);
            out
        };
        assert_eq!(sign(b"a"), sign(b"a"));
        assert_ne!(sign(b"a"), sign(b"b"));
        assert!(ResetKey::derive(b"a").verify(b"id", &sign(b"a")).is_ok());
        let mut ids = RandomIds::new();
        assert_ne!(ids.generate_cid(), ids.generate_cid());
    }
}
