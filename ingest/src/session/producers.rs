//! Owns which lane may send batches of a producer; does not know lanes.

use std::collections::HashMap;

use crate::wire::ProducerId;

/// Each producer has one lane: the newest that resumed it. Lanes are numbered in the order in which they were opened.
///
/// A client that lost its connection comes back on a new lane while the node may still be reading what the old one
/// buffered. Were both to feed a shard, a batch of the old lane could overtake one that was refused and is sent again
/// on the new one, and the shard would take the latter for a repetition. So a lane hands a batch to its shard only
/// while it owns the producer, and looking up what is settled comes after the claim. A resume that comes late on an
/// old lane must not take the producer away from the new one, or the client would be refused on it for good.
///
/// The owner of this table holds one lock over "check `owns`, then append", and over "`claim`, then look up".
#[derive(Debug, Default)]
pub struct Producers {
    lanes: HashMap<ProducerId, u64>,
}

impl Producers {
    /// Gives `producer` to `lane` unless a newer one has it. Returns the lane that lost: the one before, or `lane`
    /// itself. It is to be told ([`ServerSession::fence`](super::ServerSession::fence)).
    pub fn claim(&mut self, producer: ProducerId, lane: u64) -> Option<u64> {
        match self.lanes.get(&producer) {
            Some(&newer) if newer > lane => Some(lane),
            _ => self.lanes.insert(producer, lane).filter(|&before| before != lane),
        }
    }

    /// Whether `lane` may send batches of `producer`.
    pub fn owns(&self, producer: ProducerId, lane: u64) -> bool {
        self.lanes.get(&producer) == Some(&lane)
    }

    /// Forgets `producer` when `lane`, which has ended, still owns it.
    pub fn release(&mut self, producer: ProducerId, lane: u64) {
        if self.owns(producer, lane) {
            self.lanes.remove(&producer);
        }
    }

    /// How many producers have a lane.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether no producer has a lane.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lane_that_claims_a_producer_owns_it() {
        let mut producers = Producers::default();
        assert_eq!(producers.claim(ProducerId(1), 7), None);
        assert_eq!(producers.claim(ProducerId(1), 7), None);
        assert_eq!(producers.claim(ProducerId(1), 8), Some(7));
        assert!(producers.owns(ProducerId(1), 8) && !producers.owns(ProducerId(1), 7));
        assert_eq!(producers.claim(ProducerId(1), 7), Some(7), "a resume that came late");
        producers.release(ProducerId(1), 7);
        assert!(producers.owns(ProducerId(1), 8));
        producers.release(ProducerId(1), 8);
        assert!(producers.is_empty());
    }
}
