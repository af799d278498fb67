//! Owns which memtables a snapshot keeps in memory after they were flushed; gives nothing back itself.

use std::sync::{Arc, Weak};

use super::Snapshot;
use crate::memtable::Memtable;

/// The memtables that a snapshot had. Holding this holds none of them.
#[derive(Debug, Default)]
pub struct Pins(Vec<Weak<Memtable>>);

impl Pins {
    /// Bytes of those that were flushed since and are still there, because this snapshot or another one of their time is.
    pub fn bytes(&self) -> u64 {
        self.0.iter().filter_map(Weak::upgrade).map(|memtable| memtable.retired_bytes()).sum()
    }
}

impl Snapshot {
    /// What it keeps in memory.
    pub fn pins(&self) -> Pins {
        let memtables = self.shards.iter().flat_map(|view| view.sealed.iter().chain([&view.active]));
        Pins(memtables.map(Arc::downgrade).collect())
    }
}
