//! Owns who a peer is, as its certificate says; does not decide what it may do.

use std::fmt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "tidewell://";

/// Longest device id and longest name of a gateway, reader or admin, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// One name that a certificate carries, as a SAN URI such as `tidewell://device/truck_1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// Writes its own id and nothing else.
    Device(String),
    /// Writes the ids that its grant matches.
    Gateway(String),
    /// Reads what its grant matches.
    Reader(String),
    /// Administers the node.
    Admin(String),
}

impl Identity {
    /// The kind, as it stands in the URI.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Device(_) => "device",
            Self::Gateway(_) => "gateway",
            Self::Reader(_) => "reader",
            Self::Admin(_) => "admin",
        }
    }

    /// The name, decoded.
    pub fn name(&self) -> &str {
        match self {
            Self::Device(name) | Self::Gateway(name) | Self::Reader(name) | Self::Admin(name) => name,
        }
    }

    /// The URI that a certificate carries; the name is percent-encoded.
    pub fn to_uri(&self) -> String {
        let mut uri = format!("{SCHEME}{}/", self.kind());
        for &byte in self.name().as_bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
                uri.push(byte as char);
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri
    }

    /// Reads one URI of the `tidewell` scheme.
    ///
    /// # Errors
    /// When the kind is unknown or the name is empty, too long or not percent-encoded UTF-8.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let bad = |reason| IdentityError::BadUri { uri: uri.to_owned(), reason };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with tidewell://"))?;
        let (kind, name) = rest.split_once('/').ok_or_else(|| bad("it has no name after the kind"))?;
        let name = percent_decode(name).ok_or_else(|| bad("its name is not percent-encoded UTF-8"))?;
        if name.is_empty() {
            return Err(bad("its name is empty"));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(bad("its name is longer than 256 bytes"));
        }
        Ok(match kind {
            "device" => Self::Device(name),
            "gateway" => Self::Gateway(name),
            "reader" => Self::Reader(name),
            "admin" => Self::Admin(name),
            _ => return Err(bad("its kind is none of device, gateway, reader, admin")),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

/// Everything that a peer's certificate says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its names; at least one.
    pub identities: Vec<Identity>,
    /// Serial number of the certificate, as its DER holds it.
    pub serial: Vec<u8>,
    /// DER of the issuer's name, which together with the serial a revocation list refers to.
    pub issuer: Vec<u8>,
}

impl Peer {
    /// Reads the names out of an end-entity certificate that the TLS layer has already verified.
    ///
    /// # Errors
    /// When it carries no name of the `tidewell` scheme; the message tells what it carries instead.
    pub fn from_der(certificate: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::NotACertificate)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::NotACertificate)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let mut identities = Vec::new();
        let mut others = Vec::new();
        for name in names {
            match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => identities.push(Identity::from_uri(uri)?),
                other => others.push(other.to_string()),
            }
        }
        if identities.is_empty() {
            return Err(IdentityError::NoIdentity {
                subject: certificate.subject().to_string(),
                found: others.join(", "),
            });
        }
        Ok(Self {
            identities,
            serial: certificate.raw_serial().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, identity) in self.identities.iter().enumerate() {
            write!(f, "{}{identity}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("the peer's certificate cannot be parsed")]
    NotACertificate,
    /// No SAN of the `tidewell` scheme.
    #[error(
        "the certificate of {subject} carries no tidewell:// name (found: [{found}]); issue it with `tidewell cert device|gateway|reader`"
    )]
    NoIdentity {
        /// The certificate's subject.
        subject: String,
        /// The alternative names that it has.
        found: String,
    },
    /// A name of the `tidewell` scheme that cannot be read.
    #[error("the certificate's name {uri:?} is refused: {reason}")]
    BadUri {
        /// The name as found.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            let high = (digits[0] as char).to_digit(16)?;
            let low = (digits[1] as char).to_digit(16)?;
            bytes.push((high * 16 + low) as u8);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_its_uri() {
        for name in ["truck_1", "a/b c", "grün%20", "*", "\u{0}", &"x".repeat(256)] {
            for identity in
                [Identity::Device(name.into()), Identity::Gateway(name.into()), Identity::Admin(name.into())]
            {
                let uri = identity.to_uri();
                assert!(uri.is_ascii(), "{uri}");
                assert_eq!(Identity::from_uri(&uri), Ok(identity));
            }
        }
    }

    #[test]
    fn bad_uris_name_what_was_found() {
        for (uri, part) in [
            ("tidewell://device", "no name"),
            ("tidewell://device/", "empty"),
            ("tidewell://robot/a", "none of device"),
            ("tidewell://device/%4", "percent"),
            ("tidewell://device/%zz", "percent"),
            ("tidewell://device/%ff", "percent"),
            ("https://example.org", "does not begin"),
        ] {
            let message = Identity::from_uri(uri).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains(uri), "{message}");
        }
        assert!(Identity::from_uri(&format!("tidewell://device/{}", "x".repeat(257))).is_err());
    }
}
