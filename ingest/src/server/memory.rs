//! Owns the bound on memory of batches in flight; does not know what holds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidewell_engine::memory::{Class, MemoryBudget};
use tokio::sync::Semaphore;

use super::metrics::Counter;

/// Waits for a reservation.
pub(super) type Reserving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Bytes that batches may take between arrival and settlement. Those who wait are served in order.
///
/// A reservation is an estimate made before decoding. When the decoded batch turns out larger, the difference is taken
/// at once and, where nothing is left, becomes a debt that later releases pay first. So the bound is exceeded by at
/// most one batch per thread that decodes.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    debt: AtomicUsize,
    /// The node's memory, where the same bytes are counted.
    node: Option<Arc<MemoryBudget>>,
}

impl Budget {
    pub fn new(total: usize, node: Option<Arc<MemoryBudget>>) -> Self {
        let total = total.clamp(1, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(total)), total, debt: AtomicUsize::new(0), node }
    }

    /// What a request for `bytes` comes down to: one that is larger than everything takes everything.
    pub fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.total)).unwrap_or(u32::MAX)
    }

    /// Takes `bytes` now, if they are free and nobody waits.
    pub fn try_reserve(&self, bytes: u32) -> bool {
        let taken = self.free.try_acquire_many(bytes).map(|permit| permit.forget()).is_ok();
        if taken {
            self.count(bytes as usize);
        }
        taken
    }

    fn count(&self, bytes: usize) {
        if let Some(node) = &self.node {
            node.add(Class::Queue, bytes as u64);
        }
    }

    /// Takes `bytes` when they are free.
    pub fn reserve(self: &Arc<Self>, bytes: u32) -> Reserving {
        let budget = self.clone();
        Box::pin(async move {
            // The semaphore is never closed.
            if let Ok(permit) = budget.free.acquire_many(bytes).await {
                permit.forget();
                budget.count(bytes as usize);
            }
        })
    }

    /// Corrects a reservation; gives the bytes to be released in the end.
    pub fn adjust(&self, reserved: u32, actual: usize) -> usize {
        let reserved = reserved as usize;
        if actual < reserved {
            self.release(reserved - actual);
        } else {
            let more = actual - reserved;
            let taken = self.free.forget_permits(more);
            self.count(more);
            self.debt.fetch_add(more - taken, Ordering::Relaxed);
        }
        actual
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: usize) {
        if let Some(node) = &self.node {
            node.sub(Class::Queue, bytes as u64);
        }
        let mut paid = 0;
        self.debt
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |debt| {
                paid = debt.min(bytes);
                Some(debt - paid)
            })
            .ok();
        if bytes > paid {
            self.free.add_permits(bytes - paid);
        }
    }

    /// Bytes taken and not given back.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.total + self.debt.load(Ordering::Relaxed) - self.free.available_permits()
    }
}

/// One lane's share of bytes received and not yet handed on, kept in a common counter.
#[derive(Debug)]
pub(super) struct Share<'a> {
    counter: &'a Counter,
    held: u64,
}

impl<'a> Share<'a> {
    pub fn new(counter: &'a Counter) -> Self {
        Self { counter, held: 0 }
    }

    /// Sets this lane's share and gives the sum over all lanes.
    pub fn set(&mut self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        if bytes > self.held {
            self.counter.add(bytes - self.held);
        } else if bytes < self.held {
            self.counter.sub(self.held - bytes);
        }
        self.held = bytes;
        self.counter.value()
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.counter.sub(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debts_are_paid_before_anyone_gets_in() {
        let budget = Budget::new(100, None);
        assert!(budget.try_reserve(60));
        let first = budget.adjust(60, 150);
        assert_eq!((first, budget.used()), (150, 150));
        assert!(!budget.try_reserve(1));
        budget.release(50);
        assert!(!budget.try_reserve(1), "the debt comes first");
        budget.release(100);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_reserve(budget.clamp(1_000_000)));
        assert_eq!(budget.used(), 100);
        assert_eq!(budget.adjust(100, 30), 30);
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn shares_sum_up_and_leave_nothing_behind() {
        let counter = Counter::default();
        let mut a = Share::new(&counter);
        let mut b = Share::new(&counter);
        assert_eq!((a.set(10), b.set(5), a.set(3)), (10, 15, 8));
        drop((a, b));
        assert_eq!(counter.value(), 0);
    }
}
