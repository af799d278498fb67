//! Owns what became of every batch that was ever made, and what of it must be so; does not know how batches travel.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Change;
use crate::rows::Row;

/// Producer and number.
pub type Key = (u128, u64);

/// What became of a batch, as the node told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing is known: it may be there or not.
    Open,
    /// It is in the node for good.
    Applied,
    /// It was refused for good.
    Refused,
}

/// A batch.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where its rows go.
    pub table: String,
    /// Its rows.
    pub rows: Vec<Row>,
    /// One of its devices.
    pub device: String,
    /// The shard of its devices.
    pub shard: u32,
    /// Whether its payload is no batch.
    pub bad: bool,
    /// What became of it.
    pub fate: Fate,
    /// Its sender was told.
    pub told: bool,
    /// Its sender has forgotten it.
    pub forgotten: bool,
}

/// All batches.
#[derive(Default)]
pub struct Batches {
    all: BTreeMap<Key, Sent>,
    /// Those that the running node got, in order, each once.
    handed: Vec<Key>,
    /// Those of them that were refused for want of room: a death may bring them back, and they may come again.
    doubted: BTreeSet<Key>,
    /// The last number applied, by producer and shard.
    last: BTreeMap<(u128, u32), u64>,
    /// Batches that the running node applied.
    pub applied: u64,
}

impl Batches {
    /// Takes note of a new batch.
    pub fn add(&mut self, key: Key, sent: Sent) {
        self.all.insert(key, sent);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Sent)> {
        self.all.iter()
    }

    /// The sender does not know these any more.
    pub fn forget(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if let Some(sent) = self.all.get_mut(&key) {
                sent.forgotten = true;
            }
        }
    }

    /// The node got a batch.
    pub fn hand_over(&mut self, key: Key) {
        if self.doubted.remove(&key) {
            self.taken_back(key);
        }
        if !self.handed.contains(&key) {
            self.handed.push(key);
        }
    }

    /// The node refused a batch for want of room: nobody was promised anything, and a part of it may be on the disk.
    pub fn doubt(&mut self, key: Key) {
        self.doubted.insert(key);
    }

    /// The node took a batch back: it is not in the log.
    pub fn taken_back(&mut self, key: Key) {
        self.handed.retain(|handed| *handed != key);
    }

    /// The node says that a batch is in for good; the change that this makes.
    pub fn applied(&mut self, key: Key) -> Result<Option<Change>, String> {
        let Some(sent) = self.all.get_mut(&key) else {
            return Err(format!("batch {} of {:x} is acknowledged and was never sent", key.1, key.0));
        };
        match sent.fate {
            Fate::Refused => {
                Err(format!("batch {} of {:x} is acknowledged after it was refused for good", key.1, key.0))
            }
            Fate::Applied => Ok(None),
            Fate::Open => {
                sent.fate = Fate::Applied;
                let last = self.last.entry((key.0, sent.shard)).or_default();
                if key.1 <= *last {
                    return Err(format!("batch {} of {:x} is applied after batch {last}", key.1, key.0));
                }
                *last = key.1;
                self.applied += 1;
                Ok(Some(Change::Rows { table: sent.table.clone(), rows: sent.rows.clone() }))
            }
        }
    }

    /// The node says that a batch was refused for good.
    pub fn refused(&mut self, key: Key, message: &str) -> Result<(), String> {
        match self.all.get_mut(&key) {
            Some(sent) if sent.bad => {
                sent.fate = Fate::Refused;
                Ok(())
            }
            _ => Err(format!("batch {} of {:x} is refused for good although it is sound: {message}", key.1, key.0)),
        }
    }

    /// The sender was told that a batch is settled.
    pub fn told(&mut self, key: Key) -> Result<(), String> {
        let Some(sent) = self.all.get_mut(&key) else {
            return Err(format!("batch {} of {:x} is acknowledged to a sender that never sent it", key.1, key.0));
        };
        sent.told = true;
        if sent.fate == Fate::Open {
            return Err(format!("batch {} of {:x} is acknowledged to its sender and not applied", key.1, key.0));
        }
        Ok(())
    }

    /// The node is open again: what nobody knew is as `last` tells, whole or absent. The changes, in order of the log.
    pub fn adopt(&mut self, last: impl Fn(Key, &Sent) -> u64) -> Result<Vec<Change>, String> {
        let mut found = Vec::new();
        for key in std::mem::take(&mut self.handed) {
            let Some(sent) = self.all.get(&key) else { continue };
            if sent.fate == Fate::Open && !sent.bad && key.1 <= last(key, sent) {
                found.push(key);
            }
        }
        self.doubted.clear();
        // One that was refused and came again stands behind those that were refused with it; what is found of them is what
        // came first, and the log has a producer's batches in the order of their numbers.
        let mut rising: BTreeMap<u128, BTreeSet<u64>> = BTreeMap::new();
        for key in &found {
            rising.entry(key.0).or_default().insert(key.1);
        }
        let mut changes = Vec::new();
        for (producer, _) in found {
            if let Some(seq) = rising.get_mut(&producer).and_then(BTreeSet::pop_first) {
                changes.extend(self.applied((producer, seq))?);
            }
        }
        self.applied = 0;
        Ok(changes)
    }
}
