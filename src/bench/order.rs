//! Owns which rows a sender puts into its next batch: in order, late, or once more; does not make their values.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::demo::fleet::Rng;

/// How far from the ideal a stream of rows is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disorder {
    /// Of each row, the chance to come late.
    pub late: f64,
    /// By how many rows at most; each number of rows from 1 on is as likely.
    pub late_rows: u64,
    /// Of each row, the chance to come once more, a batch later.
    pub twice: f64,
}

impl Disorder {
    /// Whether rows come in order, each once.
    pub fn is_none(&self) -> bool {
        self.late <= 0.0 && self.twice <= 0.0
    }
}

/// Numbers of rows, each at least once.
pub struct Order {
    disorder: Disorder,
    next: u64,
    /// When due, and which row.
    held: BinaryHeap<Reverse<(u64, u64)>>,
    rng: Rng,
    /// Rows that came, or will come, once more.
    pub repeated: u64,
}

/// Chances are counted in millionths.
const CHANCES: u64 = 1_000_000;

impl Order {
    /// Rows from 0 on.
    pub fn new(disorder: Disorder, seed: u64) -> Self {
        Self { disorder, next: 0, held: BinaryHeap::new(), rng: Rng::new(seed), repeated: 0 }
    }

    fn happens(&mut self, chance: f64) -> bool {
        (self.rng.below(CHANCES) as f64) < chance * CHANCES as f64
    }

    /// The next `count` rows.
    pub fn take(&mut self, count: usize) -> Vec<u64> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            if self.held.peek().is_some_and(|Reverse((due, _))| *due <= self.next)
                && let Some(Reverse((_, row))) = self.held.pop()
            {
                rows.push(row);
                continue;
            }
            let row = self.next;
            self.next += 1;
            if self.happens(self.disorder.late) {
                let by = 1 + self.rng.below(self.disorder.late_rows.max(1));
                self.held.push(Reverse((row + by, row)));
                continue;
            }
            rows.push(row);
            if self.happens(self.disorder.twice) {
                self.repeated += 1;
                self.held.push(Reverse((row + count as u64, row)));
            }
        }
        rows
    }

    /// Up to `count` rows that were held back, once nothing new comes.
    pub fn rest(&mut self, count: usize) -> Vec<u64> {
        let mut rows = Vec::new();
        while rows.len() < count
            && let Some(Reverse((_, row))) = self.held.pop()
        {
            // A row and its repetition go apart: two rows of one time in a batch are another matter.
            if rows.contains(&row) {
                self.held.push(Reverse((u64::MAX, row)));
                break;
            }
            rows.push(row);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_and_some_come_late_or_twice() {
        let disorder = Disorder { late: 0.05, late_rows: 60, twice: 0.01 };
        let mut order = Order::new(disorder, 7);
        let mut rows = Vec::new();
        for _ in 0..200 {
            rows.extend(order.take(50));
        }
        loop {
            let rest = order.rest(50);
            if rest.is_empty() {
                break;
            }
            rows.extend(rest);
        }
        let late = rows.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((300..1_200).contains(&late), "{late} of {} rows come after a later one", rows.len());
        assert!((50..200).contains(&order.repeated), "{}", order.repeated);
        let sent = rows.len() as u64;
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len() as u64 + order.repeated, sent);
        assert_eq!(rows, (0..rows.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn without_disorder_rows_are_in_order() {
        assert!(Disorder::default().is_none());
        let mut order = Order::new(Disorder::default(), 1);
        assert_eq!((order.take(3), order.take(2), order.rest(9)), (vec![0, 1, 2], vec![3, 4], vec![]));
    }
}
