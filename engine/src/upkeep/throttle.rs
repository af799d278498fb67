//! Owns how fast merges may write; knows nothing of what they write.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// The longest sleep before the writer looks whether the node goes down.
const NAP: Duration = Duration::from_millis(100);

/// A bucket of bytes that fills at a steady rate and holds what a second brings. All merges of a node share one.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: Option<u64>,
    /// When the bytes that were taken so far are paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A bucket that fills with so many bytes a second; 0 does not limit.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: (bytes_per_second > 0).then_some(bytes_per_second), paid_at: Mutex::new(None) }
    }

    /// Waits until `bytes` may have been written, or until `stopping`.
    pub fn take(&self, bytes: u64, stopping: &AtomicBool) {
        let wait = self.reserve(bytes, Instant::now());
        let until = Instant::now() + wait;
        while !stopping.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// How long to wait for `bytes` that are taken at `now`.
    fn reserve(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_at = self.paid_at.lock();
        // What was saved up while nothing was written is worth a second at the most.
        let full = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let paid = paid_at.unwrap_or(full).max(full) + cost;
        *paid_at = Some(paid);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_after_what_a_second_saved() {
        let throttle = Throttle::new(1_000);
        let start = Instant::now();
        assert_eq!(throttle.reserve(1_000, start), Duration::ZERO);
        assert_eq!(throttle.reserve(500, start), Duration::from_millis(500));
        assert_eq!(throttle.reserve(500, start), Duration::from_secs(1));
        // An hour without a merge saves no more than a second's bytes.
        let later = start + Duration::from_secs(3_600);
        assert_eq!(throttle.reserve(3_000, later), Duration::from_secs(2));
        assert_eq!(Throttle::new(0).reserve(u64::MAX, start), Duration::ZERO);
    }

    #[test]
    fn node_that_goes_down_does_not_wait() {
        let throttle = Throttle::new(1);
        let started = Instant::now();
        throttle.take(1 << 20, &AtomicBool::new(true));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
