//! Owns devices on several threads with answers in the order of devices; does not compute values.
//!
//! Devices are cut into tasks of neighbours. A thread takes the next task, and hands a bounded queue for its batches to
//! the reader before it begins; the reader empties queues in that order. Threads run ahead of the reader by a bounded
//! number of tasks and batches. The reader begins alone, because a question of a few hundred cheap devices is answered
//! before threads would have started: they are called when what the first devices took tells of more work than that. The
//! task that the reader waits for is always held by a running thread whose queue the reader empties, so nobody waits in a
//! circle.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::memory::{Charge, batch_bytes};
use super::{Budget, Builder, Step, Work};
use crate::answer::{AnswerBatch, Batches};
use crate::error::QueryError;

/// Most devices of a task: large enough to make hand-offs rare, small enough to share the end of the work.
const TASK_DEVICES_MAX: usize = 64;
/// Tasks for each thread, so that one slow device does not leave the others idle.
const TASKS_PER_THREAD: usize = 8;
/// Tasks that threads may begin ahead of the reader, for each thread.
const TASKS_AHEAD: usize = 4;
/// Batches that wait in a task's queue.
const BATCHES_AHEAD: usize = 2;
/// Batches of all tasks together that may wait, for each thread.
pub(crate) const TASKS_AHEAD_BATCHES: usize = TASKS_AHEAD * BATCHES_AHEAD;

/// Work that the reader does alone: two threads save half of it, and starting and waiting for them costs as much.
const ALONE: Duration = Duration::from_micros(500);
/// Tasks take no less than this: each wakes the reader, which takes a processor from a thread that works.
const TASK_LEAST: Duration = Duration::from_micros(200);
/// Devices that tell how long the others will take.
const TOLD_BY: usize = 4;

/// Runs `work` on all its devices.
pub(crate) fn run<W: Work>(work: W, budget: Budget) -> Box<dyn Batches> {
    let own = Own {
        builder: work.builder(),
        end: work.device_count(),
        work: Arc::new(work),
        device: 0,
        cursor: None,
        space: W::Space::default(),
        worked: Duration::ZERO,
    };
    if own.end <= 1 || budget.threads <= 1 {
        return Box::new(Inline { own, budget });
    }
    Box::new(Parallel { own, budget, queue: None, order: None, threads: Vec::new(), failed: false })
}

/// Devices on the reader's own thread.
struct Own<W: Work> {
    work: Arc<W>,
    builder: Builder,
    device: usize,
    /// The devices from here on are not the reader's.
    end: usize,
    cursor: Option<W::Cursor>,
    space: W::Space,
    /// Time spent in earlier calls.
    worked: Duration,
}

impl<W: Work> Own<W> {
    fn is_done(&self) -> bool {
        self.cursor.is_none() && self.device == self.end
    }

    /// One step; afterwards the batch may be full.
    fn step(&mut self) -> Result<(), QueryError> {
        match &mut self.cursor {
            None => {
                self.cursor = self.work.open(self.device, &mut self.space)?;
                self.device += 1;
            }
            Some(cursor) => {
                if self.work.step(cursor, &mut self.space, &mut self.builder)? == Step::Done {
                    self.cursor = None;
                }
            }
        }
        Ok(())
    }

    /// Whether the devices that are left are worth threads, after `worked` time in all.
    fn needs_help(&self, worked: Duration) -> bool {
        let left = self.end - self.device;
        if cfg!(test) {
            // Tests have little work, and want all ways of sharing it.
            return left > 0 && self.device >= self.end % TOLD_BY;
        }
        let told = self.device >= TOLD_BY || worked > ALONE;
        told && left > 0 && worked.as_nanos() * left as u128 > ALONE.as_nanos() * self.device.max(1) as u128
    }
}

/// All devices on the reader's own thread.
struct Inline<W: Work> {
    own: Own<W>,
    budget: Budget,
}

impl<W: Work> Batches for Inline<W> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        while !self.own.is_done() && !self.own.builder.is_full() {
            self.budget.check()?;
            self.own.step()?;
        }
        Ok(self.own.builder.take())
    }
}

/// A batch, counted while it waits.
type Message = Result<(AnswerBatch, Charge), QueryError>;

/// First devices on the reader's thread, those that are left on threads of their own.
struct Parallel<W: Work> {
    own: Own<W>,
    budget: Budget,
    /// The queue of the task that is being read.
    queue: Option<Receiver<Message>>,
    order: Option<Receiver<Receiver<Message>>>,
    threads: Vec<JoinHandle<()>>,
    failed: bool,
}

struct Shared<W> {
    work: Arc<W>,
    budget: Budget,
    task_devices: usize,
    /// Next task, and where its queue is announced. One lock for both, so that queues arrive in order of tasks.
    next: Mutex<(usize, SyncSender<Receiver<Message>>)>,
}

impl<W: Work> Parallel<W> {
    /// Hands the devices that are left to threads; those before them took `worked`.
    fn start(&mut self, worked: Duration) -> Result<(), QueryError> {
        let devices = self.own.end - self.own.device;
        let threads = self.budget.threads.min(devices);
        let shared_out = devices.div_ceil(threads * TASKS_PER_THREAD).clamp(1, TASK_DEVICES_MAX);
        let least = TASK_LEAST.as_nanos() * self.own.device as u128 / worked.as_nanos().max(1);
        let least = usize::try_from(least).unwrap_or(usize::MAX).min(devices.div_ceil(threads));
        let task_devices = shared_out.max(least);
        let (sender, order) = sync_channel(threads * TASKS_AHEAD);
        let next = Mutex::new((self.own.device, sender));
        let work = Arc::clone(&self.own.work);
        let shared = Arc::new(Shared { work, budget: self.budget.clone(), task_devices, next });
        self.own.end = self.own.device;
        self.order = Some(order);
        for index in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("query-{index}"))
                .spawn(move || shared.run())
                .map_err(|e| QueryError::Defect { what: format!("starting a thread: {e}") })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// The next batch in order of tasks.
    fn receive(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        loop {
            if self.queue.is_none() {
                self.queue = self.order.as_ref().and_then(|order| order.recv().ok());
            }
            match self.queue.as_ref().map(Receiver::recv) {
                Some(Ok(message)) => return message.map(|(batch, _)| Some(batch)),
                // The task is over.
                Some(Err(_)) => self.queue = None,
                None => return self.join().map(|()| None),
            }
        }
    }

    fn read(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        let begun = Instant::now();
        while !self.failed && !self.own.is_done() && !self.own.builder.is_full() {
            self.budget.check()?;
            let worked = self.own.worked + begun.elapsed();
            if self.own.needs_help(worked) {
                self.start(worked)?;
            } else {
                self.own.step()?;
            }
        }
        self.own.worked += begun.elapsed();
        // Small batches of many devices go together; a large one goes alone and uncopied.
        while !self.failed && self.own.is_done() && !self.own.builder.is_full() {
            match self.receive()? {
                Some(batch) => self.own.builder.append(batch),
                None => break,
            }
        }
        Ok(self.own.builder.take())
    }

    fn join(&mut self) -> Result<(), QueryError> {
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or("query").to_owned();
            if thread.join().is_err() {
                return Err(QueryError::Defect { what: format!("thread {name} panicked") });
            }
        }
        Ok(())
    }
}

impl<W: Work> Batches for Parallel<W> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        let read = self.read();
        if read.is_err() {
            self.failed = true;
            self.budget.stop();
        }
        read
    }
}

impl<W: Work> Drop for Parallel<W> {
    fn drop(&mut self) {
        self.budget.stop();
        // Threads that wait for room in a queue wake up when its reader is gone.
        self.queue = None;
        self.order = None;
        for thread in self.threads.drain(..) {
            // A panic was reported to the reader, or nobody reads any more.
            let _ = thread.join();
        }
    }
}

impl<W: Work> Shared<W> {
    fn run(&self) {
        let mut space = W::Space::default();
        let mut builder = self.work.builder();
        loop {
            let (first, queue) = {
                let mut next = self.next.lock();
                let first = next.0;
                if first >= self.work.device_count() {
                    return;
                }
                let (sender, receiver) = sync_channel(BATCHES_AHEAD);
                // Waits here while too many tasks are ahead of the reader; the others then wait for the lock, and may.
                if next.1.send(receiver).is_err() {
                    return;
                }
                next.0 = first + self.task_devices;
                (first, sender)
            };
            let end = (first + self.task_devices).min(self.work.device_count());
            if let Err(error) = self.task(first..end, &mut space, &mut builder, &queue) {
                // Nobody listens when the answer was dropped.
                let _ = queue.send(Err(error));
                return;
            }
        }
    }

    fn task(
        &self,
        devices: std::ops::Range<usize>,
        space: &mut W::Space,
        builder: &mut Builder,
        queue: &SyncSender<Message>,
    ) -> Result<(), QueryError> {
        for device in devices {
            self.budget.check()?;
            let Some(mut cursor) = self.work.open(device, space)? else { continue };
            loop {
                let step = self.work.step(&mut cursor, space, builder)?;
                if builder.is_full() {
                    self.send(builder, queue)?;
                }
                if step == Step::Done {
                    break;
                }
                self.budget.check()?;
            }
        }
        self.send(builder, queue)
    }

    fn send(&self, builder: &mut Builder, queue: &SyncSender<Message>) -> Result<(), QueryError> {
        match builder.take() {
            Some(batch) => {
                let charge = self.budget.memory.hold(batch_bytes(&batch))?;
                queue.send(Ok((batch, charge))).map_err(|_| QueryError::Cancelled)
            }
            None => Ok(()),
        }
    }
}
