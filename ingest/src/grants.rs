//! Owns what an identity may write and read; does not know certificates or sockets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::identity::{Identity, Peer};

/// What a reader may do beyond reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    #[default]
    Reader,
    /// Reads, and writes through the query address.
    Writer,
    /// Everything, also deletes, rules and backups.
    Admin,
}

impl Role {
    /// The role called `name` in a config file.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "reader" => Self::Reader,
            "writer" => Self::Writer,
            "admin" => Self::Admin,
            _ => return None,
        })
    }
}

/// Grant of one reader, as a config file gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaderGrant {
    /// What it may do.
    pub role: Role,
    /// Patterns of the device ids it may see.
    pub devices: Vec<String>,
}

/// All grants, as a config file gives them: names to patterns. Identities without an entry get nothing, except a
/// device (its own id) and an admin (reads and administers everything).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantsConfig {
    /// Gateway name → patterns of the device ids that it may write.
    pub gateways: BTreeMap<String, Vec<String>>,
    /// Reader name → what it may see.
    pub readers: BTreeMap<String, ReaderGrant>,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grant of {owner}: pattern {pattern:?} is refused: {reason}")]
pub struct GrantError {
    /// Whose grant: `gateway/depot`.
    pub owner: String,
    /// The pattern as found.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A write or read that no rule allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{peer} may not write device {device:?}: {rule}")]
pub struct Denied {
    /// Who asked.
    pub peer: String,
    /// For which device.
    pub device: String,
    /// The rules that were tried and what they allow.
    pub rule: String,
}

/// A set of device patterns.
#[derive(Clone, Debug)]
pub struct Patterns {
    texts: Vec<String>,
    set: GlobSet,
    all: bool,
}

impl Patterns {
    /// Compiles `patterns` (`truck_*`, `site-?`, `{a,b}*`, `[0-9]*`); `*` alone matches everything.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn new(owner: &str, patterns: &[String]) -> Result<Self, GrantError> {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            let fail = |reason: String| GrantError { owner: owner.into(), pattern: pattern.clone(), reason };
            if pattern.is_empty() {
                return Err(fail("it is empty".into()));
            }
            builder.add(Glob::new(pattern).map_err(|error| fail(error.kind().to_string()))?);
        }
        let set = builder.build().map_err(|error| GrantError {
            owner: owner.into(),
            pattern: patterns.join(" "),
            reason: error.to_string(),
        })?;
        Ok(Self { texts: patterns.to_vec(), set, all: patterns.iter().any(|p| p == "*" || p == "**") })
    }

    /// Everything.
    pub fn all() -> Self {
        Self { texts: vec!["*".into()], set: GlobSet::empty(), all: true }
    }

    /// Whether `device` matches one of them.
    pub fn matches(&self, device: &str) -> bool {
        self.all || self.set.is_match(device)
    }

    /// Whether they match every device, so that no one needs to be looked at.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// The patterns as written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// Compiled grants of one moment.
#[derive(Debug, Default)]
pub struct Grants {
    gateways: HashMap<String, Arc<Patterns>>,
    readers: HashMap<String, (Role, Arc<Patterns>)>,
}

/// Grants that a running node replaces when its config is read again.
pub type SharedGrants = Arc<ArcSwap<Grants>>;

impl Grants {
    /// Compiles a config.
    ///
    /// # Errors
    /// When a pattern is malformed; names whose it is.
    pub fn new(config: &GrantsConfig) -> Result<Self, GrantError> {
        let mut grants = Self::default();
        for (name, patterns) in &config.gateways {
            let compiled = Patterns::new(&format!("gateway/{name}"), patterns)?;
            grants.gateways.insert(name.clone(), Arc::new(compiled));
        }
        for (name, grant) in &config.readers {
            let compiled = Patterns::new(&format!("reader/{name}"), &grant.devices)?;
            grants.readers.insert(name.clone(), (grant.role, Arc::new(compiled)));
        }
        Ok(grants)
    }

    /// Wraps them so that they can be replaced while connections live.
    pub fn shared(self) -> SharedGrants {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// May `identity` write `device`?
    ///
    /// # Errors
    /// When no rule allows it; names the rules.
    pub fn authorise(&self, identity: &Identity, device: &str) -> Result<(), Denied> {
        let rights = self.write_rights(std::slice::from_ref(identity));
        if rights.allows(device) { Ok(()) } else { Err(rights.denied(&identity.to_string(), device)) }
    }

    /// What a peer with these identities may write.
    pub fn write_rights(&self, identities: &[Identity]) -> WriteRights {
        let mut rights = WriteRights { own: Vec::new(), patterns: Vec::new(), all: false, rules: Vec::new() };
        for identity in identities {
            match identity {
                Identity::Device(id) => {
                    rights.rules.push(format!("{identity} writes only its own id {id:?}"));
                    rights.own.push(id.clone());
                }
                Identity::Gateway(name) => match self.gateways.get(name) {
                    Some(patterns) => {
                        rights.rules.push(format!("the grant of {identity} allows {:?}", patterns.texts()));
                        rights.all |= patterns.is_all();
                        rights.patterns.push(patterns.clone());
                    }
                    None => rights.rules.push(format!("{identity} has no grant")),
                },
                Identity::Reader(_) | Identity::Admin(_) => {
                    rights.rules.push(format!("{identity} does not write over the ingest address"));
                }
            }
        }
        rights
    }

    /// What a peer may read, and in which role; `None` when nothing.
    pub fn read_rights(&self, peer: &Peer) -> Option<(Role, Arc<Patterns>)> {
        let mut best: Option<(Role, Arc<Patterns>)> = None;
        for identity in &peer.identities {
            let found = match identity {
                Identity::Admin(_) => Some((Role::Admin, Arc::new(Patterns::all()))),
                Identity::Reader(name) => self.readers.get(name).cloned(),
                Identity::Device(_) | Identity::Gateway(_) => None,
            };
            if let Some(found) = found
                && best.as_ref().is_none_or(|(role, _)| *role < found.0)
            {
                best = Some(found);
            }
        }
        best
    }
}

/// What one peer may write, resolved once per connection.
#[derive(Clone, Debug)]
pub struct WriteRights {
    own: Vec<String>,
    patterns: Vec<Arc<Patterns>>,
    all: bool,
    rules: Vec<String>,
}

impl WriteRights {
    /// Whether every device is allowed.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether `device` may be written.
    pub fn allows(&self, device: &str) -> bool {
        self.all || self.own.iter().any(|own| own == device) || self.patterns.iter().any(|p| p.matches(device))
    }

    /// The refusal of `device`, with the rules that were tried.
    pub fn denied(&self, peer: &str, device: &str) -> Denied {
        let rule = if self.rules.is_empty() { "it has no grant".into() } else { self.rules.join("; ") };
        Denied { peer: peer.into(), device: device.into(), rule }
    }
}

/// Remembers for one lane which devices were allowed, so that a batch of a thousand known devices costs a thousand
/// hash look-ups and no pattern matching, and a grant of everything costs nothing.
#[derive(Debug)]
pub struct WriteGuard {
    shared: SharedGrants,
    seen: Arc<Grants>,
    peer: Arc<Peer>,
    rights: WriteRights,
    allowed: std::collections::HashSet<String>,
}

/// Devices remembered per lane; beyond, the memory starts over.
const ALLOWED_MAX: usize = 65_536;

impl WriteGuard {
    /// The guard of one lane of `peer`.
    pub fn new(shared: SharedGrants, peer: Arc<Peer>) -> Self {
        let seen = shared.load_full();
        let rights = seen.write_rights(&peer.identities);
        Self { shared, seen, peer, rights, allowed: Default::default() }
    }

    /// Checks all `devices` against the grants of this moment.
    ///
    /// # Errors
    /// For the first device that is not allowed.
    pub fn check<'a>(&mut self, devices: impl Iterator<Item = &'a str>) -> Result<(), Denied> {
        let current = self.shared.load();
        if !Arc::ptr_eq(&current, &self.seen) {
            self.seen = Arc::clone(&current);
            self.rights = self.seen.write_rights(&self.peer.identities);
            self.allowed.clear();
        }
        if self.rights.is_all() {
            return Ok(());
        }
        for device in devices {
            if self.allowed.contains(device) {
                continue;
            }
            if !self.rights.allows(device) {
                return Err(self.rights.denied(&self.peer.to_string(), device));
            }
            if self.allowed.len() >= ALLOWED_MAX {
                self.allowed.clear();
            }
            self.allowed.insert(device.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Grants {
        let mut config = GrantsConfig::default();
        config.gateways.insert("depot".into(), vec!["truck_*".into(), "van_[0-9]".into()]);
        config.gateways.insert("dev".into(), vec!["*".into()]);
        config.readers.insert("fleet".into(), ReaderGrant { role: Role::Reader, devices: vec!["truck_*".into()] });
        Grants::new(&config).unwrap()
    }

    #[test]
    fn writes_follow_the_grant_and_refusals_name_the_rule() {
        let grants = grants();
        let depot = Identity::Gateway("depot".into());
        assert!(grants.authorise(&depot, "truck_77").is_ok());
        assert!(grants.authorise(&depot, "truck_a/b").is_ok());
        assert!(grants.authorise(&depot, "van_7").is_ok());
        let denied = grants.authorise(&depot, "van_77").unwrap_err().to_string();
        assert!(
            denied.contains("gateway/depot") && denied.contains("van_77") && denied.contains("truck_*"),
            "{denied}"
        );
        let own = Identity::Device("truck_1".into());
        assert!(grants.authorise(&own, "truck_1").is_ok());
        assert!(grants.authorise(&own, "truck_2").unwrap_err().to_string().contains("only its own id"));
        let unknown = grants.authorise(&Identity::Gateway("other".into()), "x").unwrap_err().to_string();
        assert!(unknown.contains("gateway/other has no grant"), "{unknown}");
        assert!(grants.authorise(&Identity::Admin("root".into()), "x").is_err());
        assert!(grants.authorise(&Identity::Gateway("dev".into()), "anything at all").is_ok());
    }

    #[test]
    fn readers_and_admins_read() {
        let grants = grants();
        let peer = |identities: Vec<Identity>| Peer { identities, serial: vec![], issuer: vec![] };
        let (role, patterns) = grants.read_rights(&peer(vec![Identity::Reader("fleet".into())])).unwrap();
        assert_eq!(role, Role::Reader);
        assert!(patterns.matches("truck_1") && !patterns.matches("van_1"));
        let (role, patterns) =
            grants.read_rights(&peer(vec![Identity::Gateway("dev".into()), Identity::Admin("dev".into())])).unwrap();
        assert!(role == Role::Admin && patterns.is_all());
        assert!(grants.read_rights(&peer(vec![Identity::Device("truck_1".into())])).is_none());
    }

    #[test]
    fn a_guard_sees_new_grants_at_once() {
        let shared = grants().shared();
        let peer =
            Arc::new(Peer { identities: vec![Identity::Gateway("depot".into())], serial: vec![], issuer: vec![] });
        let mut guard = WriteGuard::new(shared.clone(), peer);
        assert!(guard.check(["truck_1", "truck_2"].into_iter()).is_ok());
        assert!(guard.check(["truck_1", "bike"].into_iter()).is_err());
        shared.store(Arc::new(Grants::default()));
        assert!(guard.check(["truck_1"].into_iter()).is_err(), "a remembered device outlived its grant");
    }

    #[test]
    fn bad_patterns_name_their_owner() {
        let mut config = GrantsConfig::default();
        config.gateways.insert("depot".into(), vec!["[".into()]);
        let message = Grants::new(&config).unwrap_err().to_string();
        assert!(message.contains("gateway/depot") && message.contains("\"[\""), "{message}");
    }
}
