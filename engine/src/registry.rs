//! Owns what operators said of devices, packed: a million described devices must fit; does not store it on disk.
//!
//! A device with attributes is one allocation (id and pairs in a row) and one slot of a hash table. The tables are shared
//! between those who hold a registry, and one of them is copied when it changes while somebody else holds it: a change
//! costs a few thousandths of the whole, a reader's copy nothing. A device without attributes is not here at all.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// Pairs of names and values that an operator gave a device.
pub type Attributes = BTreeMap<String, String>;

/// Tables of a registry: a change copies one of them when it is shared.
const TABLES: usize = 256;

/// The attributes of all devices that have some. A clone is cheap.
#[derive(Clone)]
pub struct Registry {
    tables: Arc<[Arc<Table>; TABLES]>,
    len: usize,
}

type Table = HashSet<Packed, BuildHasherDefault<IdHasher>>;

/// Length and bytes of the id, then of each name and value. Equal when the ids are.
#[derive(Clone)]
pub(crate) struct Packed(Arc<[u8]>);

impl Packed {
    fn new(device: &str, pairs: &Attributes) -> Self {
        let mut bytes = Vec::new();
        let texts = std::iter::once(device).chain(pairs.iter().flat_map(|(name, value)| [&**name, value]));
        for text in texts {
            // The bounds of ids and attributes are far below 64 KiB.
            let len = u16::try_from(text.len()).expect("ids, names and values are bounded");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        Self(bytes.into())
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first_chunk::<2>()?;
            let (text, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = behind;
            Some(std::str::from_utf8(text).expect("made from text"))
        })
    }

    /// The device.
    pub(crate) fn id(&self) -> &str {
        self.texts().next().unwrap_or_default()
    }

    fn pairs(&self) -> Attributes {
        let mut texts = self.texts().skip(1);
        std::iter::from_fn(|| Some((texts.next()?.to_owned(), texts.next()?.to_owned()))).collect()
    }
}

impl Borrow<str> for Packed {
    fn borrow(&self) -> &str {
        self.id()
    }
}

impl Hash for Packed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Packed {}

impl Default for Registry {
    fn default() -> Self {
        let empty = Arc::new(Table::default());
        Self { tables: Arc::new(std::array::from_fn(|_| Arc::clone(&empty))), len: 0 }
    }
}

impl Registry {
    /// Devices with attributes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no device has any.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The attributes of `device`, if it has any.
    pub fn get(&self, device: &str) -> Option<Attributes> {
        self.tables[table_of(device)].get(device).map(Packed::pairs)
    }

    /// The value of one attribute.
    pub fn value(&self, device: &str, name: &str) -> Option<&str> {
        let mut texts = self.tables[table_of(device)].get(device)?.texts().skip(1);
        std::iter::from_fn(|| Some((texts.next()?, texts.next()?)))
            .find(|(own, _)| *own == name)
            .map(|(_, value)| value)
    }

    /// Whether `device` has attributes.
    pub fn contains(&self, device: &str) -> bool {
        self.tables[table_of(device)].contains(device)
    }

    /// Gives `device` these attributes in place of all that it had; none removes it.
    pub fn set(&mut self, device: &str, pairs: &Attributes) {
        let had = self.contains(device);
        if pairs.is_empty() && !had {
            return;
        }
        let table = Arc::make_mut(&mut Arc::make_mut(&mut self.tables)[table_of(device)]);
        if pairs.is_empty() {
            table.remove(device);
            self.len -= 1;
        } else {
            table.replace(Packed::new(device, pairs));
            self.len += usize::from(!had);
        }
    }

    /// All entries, sorted by id.
    pub(crate) fn packed(&self) -> Vec<Packed> {
        let mut all: Vec<Packed> = self.tables.iter().flat_map(|table| table.iter().cloned()).collect();
        all.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        all
    }

    /// Devices and their attributes, sorted by id.
    pub fn sorted(&self) -> Vec<(Arc<str>, Attributes)> {
        self.packed().into_iter().map(|packed| (packed.id().into(), packed.pairs())).collect()
    }
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.tables.iter().zip(other.tables.iter()).all(|(own, theirs)| {
                own.iter().all(|packed| theirs.get(packed.id()).is_some_and(|same| same.0 == packed.0))
            })
    }
}

impl Eq for Registry {}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.sorted()).finish()
    }
}

fn table_of(device: &str) -> usize {
    (xxhash_rust::xxh3::xxh3_64(device.as_bytes()) >> 32) as usize % TABLES
}

/// Hashes ids with xxh3; who may name devices is bounded by grants.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u8(&mut self, _: u8) {
        // The end mark of a string: ids are the whole key, so it adds nothing.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_registry_is_a_map(
            steps in prop::collection::vec(("[a-c]{1,3}", prop::collection::btree_map("[a-z]{1,2}", "[ä-ü]{0,3}", 0..3)), 0..60),
        ) {
            let mut model: BTreeMap<String, Attributes> = BTreeMap::new();
            let mut registry = Registry::default();
            let mut copies = Vec::new();
            for (device, pairs) in steps {
                copies.push((registry.clone(), model.clone()));
                registry.set(&device, &pairs);
                if pairs.is_empty() { model.remove(&device); } else { model.insert(device, pairs); }
            }
            copies.push((registry, model));
            // Whoever holds an older one sees what it was.
            for (registry, model) in copies {
                let sorted: Vec<(String, Attributes)> =
                    registry.sorted().into_iter().map(|(id, pairs)| (id.to_string(), pairs)).collect();
                prop_assert_eq!(&sorted, &model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(registry.len(), model.len());
                for (device, pairs) in &model {
                    prop_assert_eq!(registry.get(device), Some(pairs.clone()));
                    for (name, value) in pairs {
                        prop_assert_eq!(registry.value(device, name), Some(value.as_str()));
                    }
                    prop_assert_eq!(registry.value(device, "?"), None);
                }
                prop_assert!(registry.get("?").is_none());
                let mut again = Registry::default();
                model.iter().for_each(|(device, pairs)| again.set(device, pairs));
                prop_assert!(again == registry);
            }
        }
    }
}
