//! Owns what a shard remembers of each producer: the highest number applied; does not do I/O.

use std::collections::HashMap;

use crate::limits::{DAY_NS, PRODUCER_MEMORY_DAYS, PRODUCERS_REMEMBERED};
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
    /// new id at every start do not fill memory for ever; but not one of the newest [`PRODUCERS_REMEMBERED`].
    pub fn prune(&mut self, now_ns: i64) {
        if self.heads.len() <= PRODUCERS_REMEMBERED {
            return;
        }
        let mut received: Vec<i64> = self.heads.values().map(|head| head.received_ns).collect();
        let (_, newest, _) = received.select_nth_unstable_by_key(PRODUCERS_REMEMBERED - 1, |&at| std::cmp::Reverse(at));
        let oldest = now_ns.saturating_sub(PRODUCER_MEMORY_DAYS * DAY_NS).min(*newest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_does_not_forget_the_newest() {
        let count = PRODUCERS_REMEMBERED as i64 + 100;
        let mut heads = ProducerHeads::default();
        for n in 0..count {
            heads.advance(ProducerId(n as u128), SeqNo(1), n);
        }
        heads.prune(count);
        assert_eq!(heads.len() as i64, count, "nobody was silent for long");
        heads.prune(40 * DAY_NS);
        assert_eq!(heads.len(), PRODUCERS_REMEMBERED);
        assert_eq!((heads.last(ProducerId(99)), heads.last(ProducerId(100))), (SeqNo(0), SeqNo(1)));
        heads.prune(80 * DAY_NS);
        assert_eq!(heads.len(), PRODUCERS_REMEMBERED);
    }
}
