//! Owns how many queries run, how long, and who stops them; does not run them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewell_engine::Pins;
use tidewell_engine::memory::{Class, MemoryBudget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::query::CancelFlag;

/// Bounds of the query address.
#[derive(Clone, Debug)]
pub struct FlightLimits {
    /// Open connections, those in a handshake included. Each has a file descriptor.
    pub connections: usize,
    /// Queries that run at a time. Each holds at most a few record batches in memory.
    pub queries: usize,
    /// Actions such as `flush` that run at a time.
    pub actions: usize,
    /// How long a call waits for its turn before RESOURCE_EXHAUSTED.
    pub turn_wait: Duration,
    /// How long a query may compute. Time in which its client takes no data does not count.
    pub compute: Duration,
    /// How long a client may take no data before its query is stopped.
    pub stall: Duration,
    /// A quiet stream gets an empty batch after this time, since proxies cut streams that say nothing.
    pub keep_alive: Duration,
    /// How long running queries may go on after shutdown began.
    pub drain: Duration,
}

impl Default for FlightLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            queries: 64,
            actions: 4,
            turn_wait: Duration::from_secs(2),
            compute: Duration::from_secs(300),
            stall: Duration::from_secs(120),
            keep_alive: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// A query begins when one of so many parts of the queries' memory is free.
const FREE_PART: u64 = 8;
/// How often a query that waits for memory looks again.
const MEMORY_POLL: Duration = Duration::from_millis(5);

/// Why a query stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stop {
    /// Nobody asked for it.
    None = 0,
    /// Its client went away.
    ClientGone = 1,
    /// It computed for too long.
    TimeLimit = 2,
    /// Its client took no data for too long.
    Stalled = 3,
    /// The node is going down.
    ShuttingDown = 4,
    /// It kept flushed memtables, and their memory was needed.
    Memory = 5,
}

/// All running queries of a service.
#[derive(Debug)]
pub(crate) struct Running {
    turns: Arc<Semaphore>,
    turns_max: usize,
    turn_wait: Duration,
    /// Queries begin only while some of their share is free.
    memory: Option<Arc<MemoryBudget>>,
    next_id: AtomicU64,
    queries: Mutex<HashMap<u64, Arc<QueryState>>>,
}

impl Running {
    pub(crate) fn new(turns: usize, turn_wait: Duration, memory: Option<Arc<MemoryBudget>>) -> Arc<Self> {
        Arc::new(Self {
            turns: Arc::new(Semaphore::new(turns)),
            turns_max: turns,
            turn_wait,
            memory,
            next_id: AtomicU64::new(0),
            queries: Mutex::default(),
        })
    }

    /// Waits for a turn, not for long.
    pub(crate) async fn start(self: &Arc<Self>, what: &str) -> Result<RunningQuery, Status> {
        let permit = match self.turns.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(self.turn_wait, self.turns.clone().acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                _ => {
                    return Err(Status::resource_exhausted(format!(
                        "{} {what} run already, the most that this node allows; try again later",
                        self.turns_max
                    )));
                }
            },
        };
        self.wait_for_memory(what).await?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(QueryState::default());
        self.queries.lock().insert(id, state.clone());
        Ok(RunningQuery { id, state, running: self.clone(), _permit: permit })
    }

    /// Waits, not for long, until a part of the queries' memory is free: small queries then fit for certain.
    async fn wait_for_memory(&self, what: &str) -> Result<(), Status> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let (share, begin) = (memory.share(Class::Query), Instant::now());
        while memory.free(Class::Query) < share / FREE_PART {
            if begin.elapsed() >= self.turn_wait {
                return Err(Status::resource_exhausted(format!(
                    "the {what} that run hold {} of the {share} bytes of memory for queries (memory_limit {}); try again later",
                    memory.used(Class::Query),
                    memory.limit()
                )));
            }
            self.relieve();
            tokio::time::sleep(MEMORY_POLL).await;
        }
        Ok(())
    }

    /// Stops a query that keeps flushed memtables in memory when that is more than may be kept: first the oldest of those
    /// that wait for their clients, whose answers could take for ever; any other only when the node's memory as a whole is
    /// exceeded, since it will soon end by itself. One at a time, as its end may be enough.
    fn relieve(&self) {
        let Some(memory) = &self.memory else { return };
        if memory.used(Class::Query) <= memory.share(Class::Query) {
            return;
        }
        let queries = self.queries.lock();
        let keeps = |query: &QueryState| query.pins.get().is_some_and(|pins| pins.bytes() > 0);
        if queries.values().any(|query| query.stopped() == Stop::Memory && keeps(query)) {
            return;
        }
        let exceeded = memory.is_exceeded();
        let may_go = |query: &QueryState| query.waits.load(Ordering::Acquire) || exceeded;
        let oldest = queries
            .iter()
            .filter(|(_, query)| may_go(query) && keeps(query))
            .min_by_key(|(id, query)| (!query.waits.load(Ordering::Acquire), **id));
        if let Some((_, query)) = oldest {
            tracing::info!(
                used = memory.used(Class::Query),
                share = memory.share(Class::Query),
                "a query is stopped: rows that it keeps in memory were flushed long ago"
            );
            query.stop(Stop::Memory);
        }
    }

    /// How many run now.
    pub(crate) fn count(&self) -> usize {
        self.queries.lock().len()
    }

    /// Stops all that run now.
    pub(crate) fn stop_all(&self) {
        self.queries.lock().values().for_each(|query| query.stop(Stop::ShuttingDown));
    }
}

/// One query that holds a turn. Dropped by whoever computes, when the computation ended.
#[derive(Debug)]
pub(crate) struct RunningQuery {
    id: u64,
    state: Arc<QueryState>,
    running: Arc<Running>,
    _permit: OwnedSemaphorePermit,
}

impl RunningQuery {
    pub(crate) fn state(&self) -> &Arc<QueryState> {
        &self.state
    }

    /// Sees to it that queries that should end for the sake of memory do; perhaps this one.
    pub(crate) fn relieve(&self) {
        self.running.relieve();
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.running.queries.lock().remove(&self.id);
    }
}

/// What the computing side and the sending side of a query share.
#[derive(Debug, Default)]
pub(crate) struct QueryState {
    /// The flag that scans look at.
    cancel: CancelFlag,
    reason: AtomicU8,
    complete: AtomicBool,
    /// Its client has to take something before it goes on.
    waits: AtomicBool,
    pins: OnceLock<Pins>,
    computing: Mutex<Computing>,
}

#[derive(Debug, Default)]
struct Computing {
    before: Duration,
    since: Option<Instant>,
}

impl QueryState {
    /// The flag that stops the computation.
    pub(crate) fn cancel_flag(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Asks the computation to stop; the first reason is kept.
    pub(crate) fn stop(&self, reason: Stop) {
        let _ = self.reason.compare_exchange(Stop::None as u8, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    /// Why it was asked to stop.
    pub(crate) fn stopped(&self) -> Stop {
        match self.reason.load(Ordering::Acquire) {
            1 => Stop::ClientGone,
            2 => Stop::TimeLimit,
            3 => Stop::Stalled,
            4 => Stop::ShuttingDown,
            5 => Stop::Memory,
            _ => Stop::None,
        }
    }

    /// Says what the query keeps in memory.
    pub(crate) fn pin(&self, pins: Pins) {
        let _ = self.pins.set(pins);
    }

    /// Runs `wait`, which waits for the client.
    pub(crate) fn wait_for_client<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waits.store(true, Ordering::Release);
        let result = wait();
        self.waits.store(false, Ordering::Release);
        result
    }

    /// Marks that the answer was handed over to its end.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Runs one step of the computation on the clock.
    pub(crate) fn compute<T>(&self, step: impl FnOnce() -> T) -> T {
        self.computing.lock().since = Some(Instant::now());
        let result = step();
        let mut computing = self.computing.lock();
        if let Some(since) = computing.since.take() {
            computing.before += since.elapsed();
        }
        result
    }

    /// How long it computed so far.
    pub(crate) fn computed(&self) -> Duration {
        let computing = self.computing.lock();
        computing.before + computing.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How the answer ended, when nothing more comes: well, or with the status to send.
    pub(crate) fn outcome(&self, limits: &FlightLimits) -> Result<(), Status> {
        Err(match self.stopped() {
            Stop::None if self.complete.load(Ordering::Acquire) => return Ok(()),
            Stop::None => {
                Status::internal("the query ended without a result: this is a defect of the node, see its log")
            }
            Stop::ClientGone => Status::cancelled("the client went away"),
            Stop::TimeLimit => Status::deadline_exceeded(format!(
                "the query computed for more than {} s, the limit of this node; narrow its range, devices or fields",
                limits.compute.as_secs_f64()
            )),
            Stop::Stalled => Status::deadline_exceeded(format!(
                "the client took no data for {} s; read faster or ask for less",
                limits.stall.as_secs_f64()
            )),
            Stop::ShuttingDown => Status::unavailable("the node is shutting down; ask again when it is back"),
            Stop::Memory => Status::resource_exhausted(
                "the answer took so long that rows it still reads in memory were written to disk, and their memory is needed (memory_limit); read faster, ask again or ask for less",
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_bounded_and_come_back() {
        let running = Running::new(1, Duration::from_millis(1), None);
        let query = running.start("queries").await.unwrap();
        let refused = running.start("queries").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(running.count(), 1);
        running.stop_all();
        assert!(query.state().cancel_flag().is_cancelled());
        assert_eq!(query.state().outcome(&FlightLimits::default()).unwrap_err().code(), tonic::Code::Unavailable);
        drop(query);
        assert_eq!(running.count(), 0);
        running.start("queries").await.unwrap();
    }

    #[tokio::test]
    async fn queries_wait_for_memory_and_are_refused_by_name() {
        let memory = MemoryBudget::new(1 << 30);
        let running = Running::new(4, Duration::from_millis(20), Some(memory.clone()));
        let held = memory.hold(Class::Query, memory.share(Class::Query)).unwrap();
        let refused = running.start("queries").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("memory_limit 1073741824"), "{refused}");
        let (begun, ()) = tokio::join!(running.start("queries"), async { drop(held) });
        begun.unwrap();
    }

    #[test]
    fn the_first_reason_is_kept_and_an_unfinished_answer_is_an_error() {
        let state = QueryState::default();
        let limits = FlightLimits::default();
        assert_eq!(state.outcome(&limits).unwrap_err().code(), tonic::Code::Internal);
        state.complete();
        assert!(state.outcome(&limits).is_ok());
        state.stop(Stop::TimeLimit);
        state.stop(Stop::ClientGone);
        assert_eq!(state.outcome(&limits).unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
