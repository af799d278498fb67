//! Owns what a shard remembers of each producer: the highest number applied; does not do I/O.

use std::collections::HashMap;

use crate::limits::{DAY_NS, PRODUCER_MEMORY_DAYS};
use crate::types::{Head, ProducerId, SeqNo};

/// The heads of all producers that wrote to a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerHeads {
    heads: HashMap<ProducerId, Head>,
}

impl ProducerHeads {
    /// The highest number applied, 0 before the first.
    pub fn last(&self, producer: ProducerId) -> SeqNo {
        self.heads.get(&producer).map_or(SeqNo(0), |h| h.seq)
    }

    /// Takes note of an applied batch.
    pub fn advance(&mut self, producer: ProducerId, seq: SeqNo, received_ns: i64) {
        let head = self.heads.entry(producer).or_insert(Head { seq, received_ns });
        head.seq = head.seq.max(seq);
        head.received_ns = head.received_ns.max(received_ns);
    }

    /// Heads to keep at a seal: a producer silent for [`PRODUCER_MEMORY_DAYS`] is forgotten, so that clients that take a
    /// new id at every start do not fill memory for ever.
    pub fn prune(&mut self, now_ns: i64) {
        let oldest = now_ns.saturating_sub(PRODUCER_MEMORY_DAYS * DAY_NS);
        self.heads.retain(|_, head| head.received_ns >= oldest);
    }

    /// All heads, sorted by producer.
    pub fn sorted(&self) -> Vec<(ProducerId, Head)> {
        let mut heads: Vec<_> = self.heads.iter().map(|(p, h)| (*p, *h)).collect();
        heads.sort_unstable_by_key(|(producer, _)| *producer);
        heads
    }

    /// Number of producers.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether no producer ever wrote.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

impl FromIterator<(ProducerId, Head)> for ProducerHeads {
    fn from_iter<T: IntoIterator<Item = (ProducerId, Head)>>(iter: T) -> Self {
        Self { heads: iter.into_iter().collect() }
    }
}
