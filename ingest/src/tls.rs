//! Owns TLS material: reads PEM files and makes rustls configs of both ends; does not open sockets.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::identity::Peer;

pub use crate::wire::ALPN;

/// Where the material lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that the other end is checked against.
    pub ca: PathBuf,
    /// This end's certificate, followed by intermediates.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Revocation lists; none means that nothing is revoked.
    pub crls: Vec<PathBuf>,
    /// Whether a revocation list that is past its next update refuses everybody.
    pub enforce_crl_expiry: bool,
}

impl TlsFiles {
    /// The files `ca.pem`, `NAME.pem`, `NAME-key.pem` of `dir`, and `crl.pem` where it exists.
    pub fn in_dir(dir: &Path, name: &str) -> Self {
        let crl = dir.join("crl.pem");
        Self {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
            crls: if crl.exists() { vec![crl] } else { Vec::new() },
            enforce_crl_expiry: false,
        }
    }
}

/// What is wrong with the material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("reading {path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no usable {expected}: {found}", path = path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was expected in it.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// rustls refuses the material.
    #[error("TLS material is refused: {0}")]
    Rejected(String),
}

/// Certificates, key and revocation lists of one end.
#[derive(Debug)]
pub struct TlsMaterial {
    ca_pem: Vec<u8>,
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    enforce_crl_expiry: bool,
}

impl Clone for TlsMaterial {
    fn clone(&self) -> Self {
        Self {
            ca_pem: self.ca_pem.clone(),
            certificate_pem: self.certificate_pem.clone(),
            key_pem: self.key_pem.clone(),
            roots: self.roots.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            crls: self.crls.clone(),
            enforce_crl_expiry: self.enforce_crl_expiry,
        }
    }
}

impl TlsMaterial {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is missing or does not hold what it should; names it.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let ca_pem = read(&files.ca)?;
        let certificate_pem = read(&files.certificate)?;
        let key_pem = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| TlsError::Pem {
            path: files.key.clone(),
            expected: "private key",
            found: error.to_string(),
        })?;
        let mut crls = Vec::new();
        for path in &files.crls {
            crls.extend(parse(path, &read(path)?, "revocation list")?);
        }
        Ok(Self {
            roots: parse(&files.ca, &ca_pem, "certificate")?,
            chain: parse(&files.certificate, &certificate_pem, "certificate")?,
            key,
            crls,
            enforce_crl_expiry: files.enforce_crl_expiry,
            ca_pem,
            certificate_pem,
            key_pem,
        })
    }

    /// PEM of the authorities, for other TLS stacks of the node.
    pub fn ca_pem(&self) -> &[u8] {
        &self.ca_pem
    }

    /// PEM of this end's certificate chain.
    pub fn certificate_pem(&self) -> &[u8] {
        &self.certificate_pem
    }

    /// PEM of this end's key.
    pub fn key_pem(&self) -> &[u8] {
        &self.key_pem
    }

    /// The rustls config of the ingest address: TLS 1.3, client certificate required, nothing that survives a
    /// connection. Resumption would take the client's certificate out of the ticket and so skip revocation.
    ///
    /// # Errors
    /// When key and certificate do not match, or a list cannot be parsed.
    pub fn server_config(&self) -> Result<rustls::ServerConfig, TlsError> {
        let provider = provider();
        let mut verifier = WebPkiClientVerifier::builder_with_provider(self.root_store()?, provider.clone());
        if !self.crls.is_empty() {
            // A chain may run through intermediates for which no list exists; what the lists say about the
            // end entity is what counts.
            verifier = verifier
                .with_crls(self.crls.iter().cloned())
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status();
            if self.enforce_crl_expiry {
                verifier = verifier.enforce_revocation_expiration();
            }
        }
        let verifier = verifier.build().map_err(rejected)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(rejected)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(rejected)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The rustls config of a client of the ingest address.
    ///
    /// # Errors
    /// When key and certificate do not match.
    pub fn client_config(&self) -> Result<rustls::ClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(rejected)?
            .with_root_certificates(self.root_store()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(rejected)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// What the lists revoke, to look at connections that were accepted under older lists.
    ///
    /// # Errors
    /// When a list cannot be parsed.
    pub fn revoked(&self) -> Result<Revoked, TlsError> {
        let mut revoked = Revoked::default();
        for list in &self.crls {
            let (_, list) = CertificateRevocationList::from_der(list).map_err(rejected)?;
            for entry in list.iter_revoked_certificates() {
                revoked.0.insert((list.issuer().as_raw().to_vec(), entry.raw_serial().to_vec()));
            }
        }
        Ok(revoked)
    }

    fn root_store(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).map_err(rejected)?;
        }
        Ok(Arc::new(roots))
    }
}

/// Certificates that revocation lists name, by issuer and serial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(HashSet<(Vec<u8>, Vec<u8>)>);

impl Revoked {
    /// Whether the certificate of `peer` is among them.
    pub fn contains(&self, peer: &Peer) -> bool {
        self.0.contains(&(peer.issuer.clone(), peer.serial.clone()))
    }
}

/// ring with AES-128-GCM first: on CPUs with AES instructions it costs half of the others.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

fn rejected(error: impl std::fmt::Display) -> TlsError {
    TlsError::Rejected(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

fn parse<T: PemObject>(path: &Path, pem: &[u8], expected: &'static str) -> Result<Vec<T>, TlsError> {
    let fail = |found: String| TlsError::Pem { path: path.to_owned(), expected, found };
    let items = T::pem_slice_iter(pem).collect::<Result<Vec<T>, _>>().map_err(|error| fail(error.to_string()))?;
    if items.is_empty() { Err(fail("no PEM section of that kind".into())) } else { Ok(items) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::identity::Identity;

    #[test]
    fn material_of_a_development_set_makes_both_configs() {
        let dir = tempfile::tempdir().unwrap();
        Authority::ensure_development_set(dir.path(), &[]).unwrap();
        let node = TlsMaterial::load(&TlsFiles::in_dir(dir.path(), "node")).unwrap();
        let server = node.server_config().unwrap();
        assert_eq!(server.alpn_protocols, [ALPN.to_vec()]);
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        let dev = TlsMaterial::load(&TlsFiles::in_dir(dir.path(), "dev")).unwrap();
        assert!(dev.client_config().is_ok());
    }

    #[test]
    fn revocation_is_by_issuer_and_serial() {
        let dir = tempfile::tempdir().unwrap();
        Authority::ensure_development_set(dir.path(), &[]).unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let bad = authority.issue("bad", &[Identity::Device("bad".into())], &[]).unwrap();
        let good = authority.issue("good", &[Identity::Device("good".into())], &[]).unwrap();
        authority.revoke(&[&bad.certificate]).unwrap();
        let material = TlsMaterial::load(&TlsFiles::in_dir(dir.path(), "node")).unwrap();
        assert!(material.server_config().is_ok());
        let revoked = material.revoked().unwrap();
        let peer = |path: &Path| Peer::from_der(&CertificateDer::from_pem_file(path).unwrap()).unwrap();
        assert!(revoked.contains(&peer(&bad.certificate)));
        assert!(!revoked.contains(&peer(&good.certificate)));
        authority.revoke_also(&[&good.certificate]).unwrap();
        let both = TlsMaterial::load(&TlsFiles::in_dir(dir.path(), "node")).unwrap().revoked().unwrap();
        assert!(both.contains(&peer(&bad.certificate)) && both.contains(&peer(&good.certificate)));
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        Authority::ensure_development_set(dir.path(), &[]).unwrap();
        let mut files = TlsFiles::in_dir(dir.path(), "nobody");
        assert!(TlsMaterial::load(&files).unwrap_err().to_string().contains("nobody.pem"));
        files = TlsFiles::in_dir(dir.path(), "node");
        files.key = dir.path().join("ca.pem");
        assert!(TlsMaterial::load(&files).unwrap_err().to_string().contains("private key"));
        files.key = dir.path().join("dev-key.pem");
        assert!(TlsMaterial::load(&files).unwrap().server_config().is_err(), "key of another certificate");
    }
}
