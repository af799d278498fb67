//! Owns the threads that merge in the background; `Compactor` does the merges.
//!
//! Two threads, so that the long merge of a day never holds up flushed segments, which pile up under load: `compact` brings
//! flushed segments into days, `compact-days` does the rest. Both give way to ingest, the second more than the first.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sync::Mutex;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::compact::Compactor;
use crate::clock::Clock;
use crate::error::Result;

/// Told by flushes that there may be work.
pub type Poke = Sender<()>;

/// How long a thread rests when it is not poked.
const TICK: Duration = Duration::from_secs(5);
/// Niceness of the thread that brings flushed segments into days.
const NICE_FLUSHED: i32 = 5;
/// Niceness of the thread that merges days.
const NICE_PARTITIONS: i32 = 15;

/// The merges of all shards.
pub struct Merges {
    compactors: Arc<Vec<Compactor>>,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Merges {
    /// Merges that nobody does yet.
    pub fn new(compactors: Vec<Compactor>, stopping: Arc<AtomicBool>) -> Self {
        Self { compactors: Arc::new(compactors), stopping, threads: Mutex::default() }
    }

    /// Merges in the background from now on.
    pub fn start(&self, poked: Receiver<()>, clock: &Arc<dyn Clock>) {
        let (poke_days, days_poked) = bounded(1);
        let mut threads = self.threads.lock();
        let flushed = Worker {
            compactors: Arc::clone(&self.compactors),
            stopping: Arc::clone(&self.stopping),
            clock: Arc::clone(clock),
        };
        let days = Worker {
            compactors: Arc::clone(&self.compactors),
            stopping: Arc::clone(&self.stopping),
            clock: Arc::clone(clock),
        };
        threads.push(spawn("compact", move || {
            flushed.run(NICE_FLUSHED, &poked, |compactor, now_ns| {
                let done = compactor.merge_flushed(now_ns);
                if matches!(done, Ok(true)) {
                    // A full channel means that it has been told already.
                    let _ = poke_days.try_send(());
                }
                done
            });
        }));
        threads.push(spawn("compact-days", move || {
            days.run(NICE_PARTITIONS, &days_poked, Compactor::merge_partition);
        }));
    }

    /// Merges everything now, shard after shard.
    ///
    /// # Errors
    /// The first failed read or write.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        self.compactors.iter().try_for_each(|compactor| compactor.run_all(now_ns))
    }

    /// Does what is due now.
    ///
    /// # Errors
    /// The first failed read or write.
    pub fn run_due(&self, now_ns: i64) -> Result<()> {
        for compactor in self.compactors.iter() {
            while compactor.merge_flushed(now_ns)? || compactor.merge_partition(now_ns)? {}
        }
        Ok(())
    }

    /// The merges of one shard.
    #[cfg(feature = "simulation")]
    pub fn of_shard(&self, shard: u32) -> &Compactor {
        &self.compactors[shard as usize]
    }

    /// Waits for the threads, which end by the flag that all share.
    pub fn join(&self) {
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a merging thread panicked");
            }
        }
    }
}

struct Worker {
    compactors: Arc<Vec<Compactor>>,
    stopping: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
}

impl Worker {
    fn run(self, nice: i32, poked: &Receiver<()>, merge: impl Fn(&Compactor, i64) -> Result<bool>) {
        // On Linux this is the thread's own.
        if let Err(error) = rustix::process::nice(nice) {
            tracing::debug!(%error, "merges keep the normal priority");
        }
        while !self.is_stopping() {
            match wait(poked, &self.stopping) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let mut more = true;
            while more && !self.is_stopping() {
                more = false;
                for compactor in self.compactors.iter() {
                    match merge(compactor, self.clock.now_ns()) {
                        Ok(done) => more |= done,
                        Err(_) if self.is_stopping() => {}
                        Err(error) => {
                            tracing::error!(shard = compactor.shard, %error, "a merge of segments failed; its inputs stay");
                            // Its inputs are left alone now; others may be due.
                            more = true;
                        }
                    }
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Waits for a poke, but not long past `stopping`.
fn wait(poked: &Receiver<()>, stopping: &AtomicBool) -> Result<(), RecvTimeoutError> {
    const NAP: Duration = Duration::from_millis(500);
    let mut left = TICK;
    loop {
        match poked.recv_timeout(left.min(NAP)) {
            Err(RecvTimeoutError::Timeout) if left > NAP && !stopping.load(Ordering::Relaxed) => left -= NAP,
            other => return other,
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("the system starts threads when the node starts")
}
