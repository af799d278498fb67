//! Owns windows over several devices together; does not fill.
//!
//! Windows are taken in stretches that fit memory, devices in slices of fixed size. Slices are computed on several
//! threads and merged in the order of devices, so that the sums do not depend on how many threads there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Plan;
use super::fill::Filler;
use super::reader::{Loaded, Progress, WindowReader};
use crate::answer::{AnswerBatch, Batches};
use crate::error::QueryError;
use crate::execute::{Budget, Builder};
use crate::kernels::{Cell, Summary};
use crate::source::Table;

/// Devices of a slice. Part of the answer: another number adds doubles in another order.
const SLICE_DEVICES: usize = 64;
/// Summaries held for one stretch of windows and one slice.
const STRETCH_SUMMARIES_MAX: usize = 32_768;
/// Slices computed before they are merged, for each thread.
const SLICES_PER_THREAD: usize = 4;

/// Devices that go together, under the name that the answer shows.
#[derive(Clone, Debug)]
pub(crate) struct Grouped {
    pub name: Arc<str>,
    pub devices: Vec<Arc<str>>,
}

/// Downsampling of groups, one after the other.
pub(crate) struct GroupBatches<T> {
    table: Arc<T>,
    plan: Plan,
    groups: Vec<Grouped>,
    budget: Budget,
    builder: Builder,
    group: usize,
    filler: Filler,
    /// Windows `base..base + stretch.len()` of the group, and the next of them to offer.
    stretch: Stretch,
    base: usize,
    at: usize,
    cells: Vec<Cell>,
}

/// Summaries of a stretch of windows: one per field, `None` where no row is.
#[derive(Clone, Default)]
struct Stretch(Vec<Option<Vec<Summary>>>);

impl Stretch {
    /// Merges the windows of later devices.
    fn merge(&mut self, later: Stretch) {
        if self.0.is_empty() {
            *self = later;
            return;
        }
        for (own, theirs) in self.0.iter_mut().zip(later.0) {
            match (own, theirs) {
                (_, None) => {}
                (Some(own), Some(theirs)) => own.iter_mut().zip(theirs).for_each(|(a, b)| a.merge(b)),
                (own, theirs) => *own = theirs,
            }
        }
    }
}

impl Plan {
    /// Bytes of the windows that one thread computes before they are merged, and of those that they are merged into.
    pub(crate) fn slices_bytes(&self) -> u64 {
        let summaries = self.windows.count().saturating_mul(self.fields.len().max(1)).min(STRETCH_SUMMARIES_MAX);
        (summaries * (SLICES_PER_THREAD + 1) * size_of::<Summary>()) as u64
    }
}

impl<T: Table> GroupBatches<T> {
    pub fn new(table: Arc<T>, plan: Plan, groups: Vec<Grouped>, budget: Budget) -> Self {
        Self {
            builder: plan.builder(),
            filler: Filler::new(&plan),
            table,
            plan,
            groups,
            budget,
            group: 0,
            stretch: Stretch::default(),
            base: 0,
            at: 0,
            cells: Vec::new(),
        }
    }

    fn stretch_windows(&self) -> usize {
        (STRETCH_SUMMARIES_MAX / self.plan.fields.len().max(1)).max(1)
    }

    /// Computes windows `base..` of the current group.
    fn compute(&mut self) -> Result<(), QueryError> {
        let windows = self.base..(self.base + self.stretch_windows()).min(self.plan.windows.count());
        let devices = &self.groups[self.group].devices;
        let mut stretch = Stretch(vec![None; windows.len()]);
        for round in devices.chunks(SLICE_DEVICES * SLICES_PER_THREAD * self.budget.threads) {
            let slices: Vec<&[Arc<str>]> = round.chunks(SLICE_DEVICES).collect();
            let results: Vec<Mutex<Option<Result<Stretch, QueryError>>>> =
                slices.iter().map(|_| Mutex::new(None)).collect();
            let next = AtomicUsize::new(0);
            let work = || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slice) = slices.get(index) else { return };
                    *results[index].lock() = Some(self.slice(slice, windows.clone()));
                }
            };
            std::thread::scope(|scope| {
                for _ in 1..self.budget.threads.min(slices.len()) {
                    scope.spawn(work);
                }
                work();
            });
            for result in results {
                let slice = result.into_inner().expect("every slice was computed, or its thread's panic went on here");
                stretch.merge(slice?);
            }
        }
        self.stretch = stretch;
        self.at = 0;
        Ok(())
    }

    /// Windows of some devices.
    fn slice(&self, devices: &[Arc<str>], windows: std::ops::Range<usize>) -> Result<Stretch, QueryError> {
        let plan = &self.plan;
        let start = plan.windows.start(windows.start).max(plan.start);
        let end = plan.windows.start(windows.end).min(plan.end);
        let mut stretch = Stretch(vec![None; windows.len()]);
        let (mut loaded, mut summaries) = (Loaded::default(), Vec::new());
        for device in devices {
            self.budget.check()?;
            let mut reader = WindowReader::open(plan, &self.table, device, (start, end))?;
            while !reader.is_done() {
                match reader.next(plan, &mut loaded, &mut summaries)? {
                    Progress::Window(window) => {
                        let own: &mut Option<Vec<Summary>> = &mut stretch.0[window - windows.start];
                        match own {
                            Some(own) => own.iter_mut().zip(summaries.drain(..)).for_each(|(a, b)| a.merge(b)),
                            None => *own = Some(std::mem::take(&mut summaries)),
                        }
                    }
                    Progress::Loaded => self.budget.check()?,
                    Progress::Steps => unreachable!("windows of groups are not copied"),
                }
            }
        }
        Ok(stretch)
    }
}

impl<T: Table> Batches for GroupBatches<T> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        while let Some(group) = self.groups.get(self.group) {
            self.budget.check()?;
            let name = group.name.clone();
            if !self.filler.drain(&self.plan, &name, &mut self.builder) || self.builder.is_full() {
                return Ok(self.builder.take());
            }
            if self.at < self.stretch.0.len() {
                if let Some(summaries) = self.stretch.0[self.at].take() {
                    let window = self.base + self.at;
                    self.plan.cells(&name, window, &summaries, &mut self.cells)?;
                    self.filler.offer(&self.plan, &name, window, &mut self.cells, &mut self.builder)?;
                }
                self.at += 1;
                continue;
            }
            self.base += self.stretch.0.len();
            self.stretch = Stretch::default();
            if self.base < self.plan.windows.count() {
                self.compute()?;
            } else if !self.filler.finish(&self.plan)? {
                self.group += 1;
                self.base = 0;
                self.filler = Filler::new(&self.plan);
            }
        }
        Ok(self.builder.take())
    }
}
