//! Owns who a caller is and what the caller may do; does not know where certificates and tokens are kept.

use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use rustls_pki_types::CertificateDer;
use tonic::Status;

/// What a connection and a request say about their caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The client certificate, already verified against the client authority.
    pub certificate: Option<&'a CertificateDer<'static>>,
    /// The `authorization` header as it came, for example `Bearer …`.
    pub authorization: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// The token of an `authorization: Bearer …` header.
    pub fn bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.authorization?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// Tells who a caller is. The node implements it over its certificates, tokens and grants.
pub trait Authenticator: Send + Sync + 'static {
    /// The caller behind `credentials`, or why there is none (the text is sent to the caller).
    ///
    /// # Errors
    /// A sentence that says what was missing or wrong, without secrets.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Arc<Principal>, String>;

    /// Changes whenever grants or revocations changed. An answer that rests on a certificate alone is kept per
    /// connection until then, so that a small query does not parse X.509 each time.
    fn generation(&self) -> u64 {
        0
    }
}

/// One caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Name in logs and messages.
    pub name: String,
    /// What it may do.
    pub roles: Roles,
    /// Which devices it may see.
    pub devices: DeviceScope,
}

impl Principal {
    /// An administrator of every device.
    pub fn admin(name: &str) -> Self {
        Self { name: name.to_owned(), roles: Roles::ADMIN, devices: DeviceScope::All }
    }

    /// Refuses unless one of `needed` is held.
    pub(crate) fn require(&self, needed: Roles, what: &str) -> Result<(), Status> {
        if self.roles.any_of(needed) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{what} needs the role {needed}, and '{}' has {}; ask an administrator for a grant",
            self.name, self.roles
        )))
    }
}

/// A set of roles. An administrator may do what readers and writers may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// May ask.
    pub reader: bool,
    /// May write and describe devices.
    pub writer: bool,
    /// May do everything, upkeep included.
    pub admin: bool,
}

impl Roles {
    /// Readers only.
    pub const READER: Self = Self { reader: true, writer: false, admin: false };
    /// Writers only.
    pub const WRITER: Self = Self { reader: false, writer: true, admin: false };
    /// Administrators.
    pub const ADMIN: Self = Self { reader: true, writer: true, admin: true };

    fn any_of(self, needed: Self) -> bool {
        self.admin || (self.reader && needed.reader) || (self.writer && needed.writer)
    }
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(self.reader, "reader"), (self.writer, "writer"), (self.admin, "admin")];
        let held: Vec<&str> = names.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.write_str(if held.is_empty() { "none".to_owned() } else { held.join(" or ") }.as_str())
    }
}

/// The devices that a caller may see.
#[derive(Clone, Debug)]
pub enum DeviceScope {
    /// Every device.
    All,
    /// Those whose id matches one of the patterns.
    Patterns(Arc<GlobSet>),
}

impl DeviceScope {
    /// Devices that match one of `patterns` (`*` matches any run of characters, `/` included).
    ///
    /// # Errors
    /// When a pattern is not a valid glob.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            if pattern == "*" {
                return Ok(Self::All);
            }
            set.add(Glob::new(pattern)?);
        }
        Ok(Self::Patterns(Arc::new(set.build()?)))
    }

    /// Whether `device` is inside.
    pub fn contains(&self, device: &str) -> bool {
        match self {
            Self::All => true,
            Self::Patterns(set) => set.is_match(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_read_leniently() {
        let bearer = |header| Credentials { certificate: None, authorization: header }.bearer();
        assert_eq!(bearer(Some("Bearer abc")), Some("abc"));
        assert_eq!(bearer(Some("bearer  abc ")), Some("abc"));
        assert_eq!(bearer(Some("Basic abc")), None);
        assert_eq!(bearer(Some("Bearer ")), None);
        assert_eq!(bearer(None), None);
    }

    #[test]
    fn scopes_match_whole_ids() {
        let scope = DeviceScope::from_patterns(["truck_*", "site/a"]).unwrap();
        assert!(scope.contains("truck_1") && scope.contains("truck_a/b") && scope.contains("site/a"));
        assert!(!scope.contains("a_truck_1") && !scope.contains("site/ab"));
        assert!(DeviceScope::from_patterns(["x", "*"]).unwrap().contains("anything"));
        assert!(!DeviceScope::from_patterns([]).unwrap().contains("anything"));
    }

    #[test]
    fn roles_are_checked_and_named() {
        let reader = Principal { name: "r".into(), roles: Roles::READER, devices: DeviceScope::All };
        assert!(reader.require(Roles::READER, "a query").is_ok());
        let refused =
            reader.require(Roles { writer: true, admin: true, reader: false }, "action 'describe'").unwrap_err();
        assert!(refused.message().contains("writer or admin") && refused.message().contains("'r' has reader"));
        assert!(Principal::admin("a").require(Roles::WRITER, "x").is_ok());
    }
}
