//! Owns what a backup says of itself (`docs/format/backup.md`): one JSON file, written last; does not store it.

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::destination::Destination;

/// Version that is written.
pub const VERSION: u32 = 1;
const FORMAT: &str = "tidewell-backup";
/// Where listings are.
pub const DIR: &str = "backups";
/// Where files are.
pub const DATA: &str = "data";

/// One completed backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Always [`FORMAT`].
    format: String,
    /// Version of this form.
    version: u32,
    /// The moment of the backup, as its name.
    pub name: String,
    /// The version of the program that made it.
    pub program: String,
    /// Whose data it is.
    pub store: StoreId,
    /// Every file of the data directory.
    pub files: Vec<Entry>,
    /// Damage that the node's files had when they were copied.
    pub damage: Vec<String>,
}

/// What tells a data directory from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreId {
    /// When it was made.
    pub created_ns: i64,
    /// Its shards.
    pub shards: u32,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name in the data directory.
    pub name: String,
    /// Its key at the destination.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Checksum of all its bytes.
    pub crc32c: u32,
}

impl Listing {
    /// A backup of the moment `name`.
    pub fn new(name: String, store: StoreId, files: Vec<Entry>, damage: Vec<String>) -> Self {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT.to_owned(), version: VERSION, name, program, store, files, damage }
    }

    /// Its key and its bytes. The key has their checksum.
    pub fn encode(&self) -> (String, Vec<u8>) {
        let bytes = serde_json::to_vec_pretty(self).expect("plain values become JSON");
        (format!("{DIR}/{}.{:08x}.json", self.name, crc32c::crc32c(&bytes)), bytes)
    }

    /// Reads the listing with this key.
    ///
    /// # Errors
    /// When the bytes are not those that were written, or of a newer version.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<Self> {
        let (_, crc) = parts(key).ok_or_else(|| anyhow!("{key}: expected {DIR}/NAME.CHECKSUM.json"))?;
        let found = crc32c::crc32c(bytes);
        if found != crc {
            bail!("{key} is damaged: expected bytes with checksum {crc:08x}, found {found:08x}");
        }
        let value: serde_json::Value = serde_json::from_slice(bytes).with_context(|| format!("read {key}"))?;
        if value["format"] != FORMAT {
            bail!("{key}: expected a listing of {FORMAT}, found {}", value["format"]);
        }
        if value["version"].as_u64().is_none_or(|version| version > u64::from(VERSION)) {
            bail!("{key}: version {} is newer than {VERSION}, which this program reads", value["version"]);
        }
        serde_json::from_value(value).with_context(|| format!("read {key}"))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// One line of a list.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"name": self.name, "files": self.files.len(), "bytes": self.bytes(), "damage": self.damage.len()})
    }
}

/// Name and checksum in a listing's key.
pub fn parts(key: &str) -> Option<(&str, u32)> {
    let (name, crc) = key.strip_prefix(DIR)?.strip_prefix('/')?.strip_suffix(".json")?.rsplit_once('.')?;
    let crc = (crc.len() == 8).then(|| u32::from_str_radix(crc, 16).ok())??;
    Some((name, crc))
}

/// Keys of all listings, oldest first.
///
/// # Errors
/// When the destination cannot be listed.
pub fn keys(destination: &Destination) -> Result<Vec<String>> {
    Ok(destination.list(DIR)?.into_keys().filter(|key| parts(key).is_some()).collect())
}

/// Reads one listing.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub fn read(destination: &Destination, key: &str) -> Result<Listing> {
    Listing::decode(key, &destination.get(key)?).with_context(|| destination.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_comes_back_and_a_flipped_bit_or_a_newer_version_is_refused() {
        let entry = Entry { name: "seg/1.seg".into(), key: "data/seg/1.seg.5-1".into(), bytes: 5, crc32c: 9 };
        let store = StoreId { created_ns: 7, shards: 2 };
        let listing = Listing::new("20261121T130000.000000000Z".into(), store, vec![entry], vec![]);
        let (key, mut bytes) = listing.encode();
        assert!(key.starts_with("backups/20261121T130000.000000000Z."), "{key}");
        assert_eq!(Listing::decode(&key, &bytes).unwrap(), listing);
        bytes[40] ^= 1;
        assert!(Listing::decode(&key, &bytes).unwrap_err().to_string().contains("is damaged"));
        let (key, bytes) = Listing { version: 2, ..listing }.encode();
        assert!(Listing::decode(&key, &bytes).unwrap_err().to_string().contains("version 2 is newer"));
    }
}
