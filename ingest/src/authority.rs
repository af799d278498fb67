//! Owns the development authority: makes a CA, certificates and revocation lists as PEM files; does not verify them.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::identity::{Identity, IdentityError, Peer};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the authority's own certificate.
const AUTHORITY_DAYS: u32 = 3650;
/// Life of a certificate that it issues.
const LEAF_DAYS: u32 = 730;
/// Life of a revocation list.
const LIST_DAYS: u32 = 30;
/// Clocks of fresh devices are often behind, so validity starts in the past.
const BACKDATE: Duration = DAY;

/// File of the authority's certificate.
pub const CA_FILE: &str = "ca.pem";
/// File of the authority's key.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// File of the authority's revocation list.
pub const CRL_FILE: &str = "crl.pem";

/// What went wrong with the authority's files.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no usable certificate or key, or a certificate could not be made.
    #[error("{what}: {path}: {source}", path = path.display())]
    Certificate {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the certificate library said.
        source: rcgen::Error,
    },
    /// A file that must not be overwritten exists.
    #[error("{path} exists already; remove it or choose another directory", path = .0.display())]
    Exists(PathBuf),
    /// A name that cannot stand in a certificate.
    #[error("{name:?} is no DNS name or IP address")]
    BadHost {
        /// The name.
        name: String,
    },
    /// The revocation list that is there cannot be read.
    #[error("{path} holds no usable revocation list; put a good one there or move it away", path = .0.display())]
    List(PathBuf),
    /// A certificate to be revoked cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

/// The two files of an issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, readable by the owner only.
    pub key: PathBuf,
}

/// A certificate authority whose key lies in a directory: for development and for small fleets.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes `ca.pem` and `ca-key.pem` in `dir`.
    ///
    /// # Errors
    /// When they exist or cannot be written.
    pub fn create(dir: &Path) -> Result<Self, AuthorityError> {
        make_private_dir(dir)?;
        let path = dir.join(CA_FILE);
        if path.exists() {
            return Err(AuthorityError::Exists(path));
        }
        let fail = |source| AuthorityError::Certificate { what: "making the authority", path: path.clone(), source };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let mut params = base_params("Tidewell development authority", AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(fail)?;
        write_file(&dir.join(CA_KEY_FILE), key.serialize_pem().as_bytes(), true, false)?;
        write_file(&path, certificate.pem().as_bytes(), false, false)?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Reads `ca.pem` and `ca-key.pem` from `dir`.
    ///
    /// # Errors
    /// When they are missing or broken.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let key_path = dir.join(CA_KEY_FILE);
        let key = KeyPair::from_pem(&read_file(&key_path)?).map_err(|source| AuthorityError::Certificate {
            what: "reading the authority's key",
            path: key_path,
            source,
        })?;
        let path = dir.join(CA_FILE);
        let issuer = Issuer::from_ca_cert_pem(&read_file(&path)?, key).map_err(|source| {
            AuthorityError::Certificate { what: "reading the authority's certificate", path, source }
        })?;
        Ok(Self { dir: dir.to_owned(), issuer })
    }

    /// Opens the authority of `dir`, or makes one when there is none; tells whether it was made.
    ///
    /// # Errors
    /// As [`Authority::open`] and [`Authority::create`].
    pub fn open_or_create(dir: &Path) -> Result<(Self, bool), AuthorityError> {
        if dir.join(CA_FILE).exists() { Ok((Self::open(dir)?, false)) } else { Ok((Self::create(dir)?, true)) }
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Issues a certificate to `identities` and writes `FILE.pem` and `FILE-key.pem`. `hosts` are the DNS names and IP
    /// addresses under which a node is reached; peers that only connect need none.
    ///
    /// # Errors
    /// When the files exist or cannot be written, or a host is malformed.
    pub fn issue(&self, file: &str, identities: &[Identity], hosts: &[&str]) -> Result<IssuedFiles, AuthorityError> {
        let common_name = identities.first().map_or_else(|| format!("node {file}"), ToString::to_string);
        let mut params = base_params(&common_name, LEAF_DAYS);
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        for identity in identities {
            let uri = Ia5String::try_from(identity.to_uri()).expect("percent-encoded names are ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        if !identities.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if !hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let files = IssuedFiles {
            certificate: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}-key.pem")),
        };
        let fail = |source| AuthorityError::Certificate {
            what: "issuing a certificate",
            path: files.certificate.clone(),
            source,
        };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        write_file(&files.key, key.serialize_pem().as_bytes(), true, false)?;
        write_file(&files.certificate, certificate.pem().as_bytes(), false, false)?;
        Ok(files)
    }

    /// Issues `node.pem` for a node reached under `hosts`; `localhost` and the loopback addresses are always among them.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_node(&self, hosts: &[&str]) -> Result<IssuedFiles, AuthorityError> {
        let mut all = vec!["localhost", "127.0.0.1", "::1"];
        all.extend(hosts.iter().filter(|host| !["localhost", "127.0.0.1", "::1"].contains(host)));
        self.issue("node", &[], &all)
    }

    /// Issues `dev.pem`: gateway `dev` and admin `dev` in one certificate.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_dev(&self) -> Result<IssuedFiles, AuthorityError> {
        self.issue("dev", &[Identity::Gateway("dev".into()), Identity::Admin("dev".into())], &[])
    }

    /// Makes sure that `dir` holds a full development set (`ca`, `node`, `dev`, each with its key); tells whether
    /// anything was made.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn ensure_development_set(dir: &Path, hosts: &[&str]) -> Result<bool, AuthorityError> {
        let (authority, mut made) = Self::open_or_create(dir)?;
        if !dir.join("node.pem").exists() {
            authority.issue_node(hosts)?;
            made = true;
        }
        if !dir.join("dev.pem").exists() {
            authority.issue_dev()?;
            made = true;
        }
        Ok(made)
    }

    /// Writes `crl.pem`, which revokes the given certificates (all of them: it replaces the list before).
    ///
    /// # Errors
    /// When a certificate cannot be read or the list not be written.
    pub fn revoke(&self, certificates: &[&Path]) -> Result<PathBuf, AuthorityError> {
        self.write_list(Vec::new(), certificates)
    }

    /// Adds the given certificates to those that `crl.pem` revokes already.
    ///
    /// # Errors
    /// As [`Authority::revoke`], and when the list that is there cannot be read.
    pub fn revoke_also(&self, certificates: &[&Path]) -> Result<PathBuf, AuthorityError> {
        let path = self.dir.join(CRL_FILE);
        let mut entries = Vec::new();
        if path.exists() {
            let broken = || AuthorityError::List(path.clone());
            let list =
                CertificateRevocationListDer::from_pem_slice(read_file(&path)?.as_bytes()).map_err(|_| broken())?;
            let (_, list) = CertificateRevocationList::from_der(&list).map_err(|_| broken())?;
            entries.extend(list.iter_revoked_certificates().map(|entry| RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.raw_serial()),
                revocation_time: entry.revocation_date.to_datetime(),
                reason_code: None,
                invalidity_date: None,
            }));
        }
        self.write_list(entries, certificates)
    }

    fn write_list(
        &self,
        mut revoked_certs: Vec<RevokedCertParams>,
        certificates: &[&Path],
    ) -> Result<PathBuf, AuthorityError> {
        let path = self.dir.join(CRL_FILE);
        let now = SystemTime::now();
        for certificate in certificates {
            let der = CertificateDer::from_pem_slice(read_file(certificate)?.as_bytes());
            let peer = der.map_err(|_| IdentityError::NotACertificate).and_then(|der| Peer::from_der(&der));
            let peer = peer.map_err(|source| AuthorityError::Identity { path: certificate.to_path_buf(), source })?;
            let serial_number = SerialNumber::from_slice(&peer.serial);
            if revoked_certs.iter().all(|entry| entry.serial_number != serial_number) {
                revoked_certs.push(RevokedCertParams {
                    serial_number,
                    revocation_time: now.into(),
                    reason_code: None,
                    invalidity_date: None,
                });
            }
        }
        let number = now.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_secs());
        let list = CertificateRevocationListParams {
            this_update: (now - BACKDATE).into(),
            next_update: (now + DAY * LIST_DAYS).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(|source| {
            AuthorityError::Certificate { what: "signing the revocation list", path: path.clone(), source }
        })?;
        write_file(&path, pem.as_bytes(), false, true)?;
        Ok(path)
    }
}

fn base_params(common_name: &str, days: u32) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + DAY * days).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // X.509 bounds a common name at 64 characters; the whole name stands in the URI.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || AuthorityError::BadHost { name: host.into() };
    rustls_pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(Ia5String::try_from(host).map_err(|_| bad())?))
}

fn make_private_dir(dir: &Path) -> Result<(), AuthorityError> {
    fs::create_dir_all(dir).map_err(|source| AuthorityError::Io {
        operation: "making directory",
        path: dir.to_owned(),
        source,
    })
}

fn read_file(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::Io {
        operation: "reading",
        path: path.to_owned(),
        source,
    })
}

/// Writes through a temporary name, so that a reader that reloads never sees half a file. Keys get mode 0600 before
/// their bytes are written.
fn write_file(path: &Path, bytes: &[u8], private: bool, replace: bool) -> Result<(), AuthorityError> {
    if !replace && path.exists() {
        return Err(AuthorityError::Exists(path.to_owned()));
    }
    let temporary = path.with_extension("pem.tmp");
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(if private { 0o600 } else { 0o644 });
        }
        #[cfg(not(unix))]
        let _ = private;
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| AuthorityError::Io { operation: "writing", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_of(path: &Path) -> Peer {
        let der = CertificateDer::from_pem_file(path).unwrap();
        Peer::from_der(&der).unwrap()
    }

    #[test]
    fn a_development_set_is_made_once_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        assert!(Authority::ensure_development_set(&tls, &["node.example"]).unwrap());
        let before = fs::read(tls.join("ca.pem")).unwrap();
        assert!(!Authority::ensure_development_set(&tls, &[]).unwrap());
        assert_eq!(before, fs::read(tls.join("ca.pem")).unwrap());
        let dev = peer_of(&tls.join("dev.pem"));
        assert_eq!(dev.to_string(), "gateway/dev+admin/dev");
        let message = Peer::from_der(&CertificateDer::from_pem_file(tls.join("node.pem")).unwrap()).unwrap_err();
        assert!(message.to_string().contains("localhost"), "names what it found: {message}");
        assert!(matches!(Authority::create(&tls), Err(AuthorityError::Exists(_))));
    }

    #[test]
    fn an_opened_authority_issues_and_revokes() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path()).unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let files = authority.issue("truck", &[Identity::Device("a b/ü".into())], &[]).unwrap();
        let peer = peer_of(&files.certificate);
        assert_eq!(peer.identities, [Identity::Device("a b/ü".into())]);
        let list = authority.revoke(&[&files.certificate]).unwrap();
        assert!(fs::read_to_string(list).unwrap().contains("X509 CRL"));
        assert!(authority.issue("x", &[], &["not a host"]).unwrap_err().to_string().contains("not a host"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            for key in [files.key, dir.path().join(CA_KEY_FILE)] {
                assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
    }
}
