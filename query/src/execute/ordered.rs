//! Owns devices on several threads with answers in the order of devices; does not compute values.
//!
//! Devices are cut into tasks of neighbours. A thread takes the next task, and hands a bounded queue for its batches to
//! the reader before it begins; the reader empties queues in that order. Threads run ahead of the reader by a bounded
//! number of tasks and batches. The task that the reader waits for is always held by a running thread whose queue
//! the reader empties, so nobody waits in a circle.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

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

/// Runs `work` on all its devices.
pub(crate) fn run<W: Work>(work: W, budget: Budget) -> Box<dyn Batches> {
    let builder = work.builder();
    if work.device_count() <= 1 || budget.threads <= 1 {
        return Box::new(Inline { work, budget, builder, device: 0, cursor: None, space: W::Space::default() });
    }
    Box::new(Parallel {
        work: Some(work),
        budget,
        builder,
        queue: None,
        order: None,
        threads: Vec::new(),
        failed: false,
    })
}

/// All devices on the reader's own thread.
struct Inline<W: Work> {
    work: W,
    budget: Budget,
    builder: Builder,
    device: usize,
    cursor: Option<W::Cursor>,
    space: W::Space,
}

impl<W: Work> Batches for Inline<W> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        while self.cursor.is_some() || self.device < self.work.device_count() {
            self.budget.check()?;
            match &mut self.cursor {
                None => {
                    self.cursor = self.work.open(self.device, &mut self.space)?;
                    self.device += 1;
                }
                Some(cursor) => {
                    if self.work.step(cursor, &mut self.space, &mut self.builder)? == Step::Done {
                        self.cursor = None;
                    }
                    if self.builder.is_full() {
                        return Ok(self.builder.take());
                    }
                }
            }
        }
        Ok(self.builder.take())
    }
}

/// A batch, counted while it waits.
type Message = Result<(AnswerBatch, Charge), QueryError>;

/// Devices on threads of their own.
struct Parallel<W: Work> {
    /// Taken when the threads start, at the first read.
    work: Option<W>,
    budget: Budget,
    builder: Builder,
    /// The queue of the task that is being read.
    queue: Option<Receiver<Message>>,
    order: Option<Receiver<Receiver<Message>>>,
    threads: Vec<JoinHandle<()>>,
    failed: bool,
}

struct Shared<W> {
    work: W,
    budget: Budget,
    task_devices: usize,
    /// Next task, and where its queue is announced. One lock for both, so that queues arrive in order of tasks.
    next: Mutex<(usize, SyncSender<Receiver<Message>>)>,
}

impl<W: Work> Parallel<W> {
    fn start(&mut self, work: W) -> Result<(), QueryError> {
        let devices = work.device_count();
        let threads = self.budget.threads.min(devices);
        let task_devices = devices.div_ceil(threads * TASKS_PER_THREAD).clamp(1, TASK_DEVICES_MAX);
        let (sender, order) = sync_channel(threads * TASKS_AHEAD);
        let next = Mutex::new((0, sender));
        let shared = Arc::new(Shared { work, budget: self.budget.clone(), task_devices, next });
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
        if let Some(work) = self.work.take() {
            self.budget.check()?;
            self.start(work)?;
        }
        // Small batches of many devices go together; a large one goes alone and uncopied.
        while !self.failed && !self.builder.is_full() {
            match self.receive() {
                Ok(Some(batch)) => self.builder.append(batch),
                Ok(None) => break,
                Err(error) => {
                    self.failed = true;
                    self.budget.stop();
                    return Err(error);
                }
            }
        }
        Ok(self.builder.take())
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
