//! Owns one merge of segments: device by device through all inputs, into a file for each range of time.
//!
//! Memory, whatever the inputs hold: for each open output a write buffer, a block, and 24 bytes and the id for each
//! device; for each input one page of its index and one device's list of blocks; and the rows of one part of a scan. At
//! most [`OUTPUTS_OPEN_MAX`] outputs are open: inputs with rows of more days are gone through several times.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::days::{Split, day_of};
use super::output::Outputs;
use crate::erase::Masks;
use crate::error::{Error, Result};
use crate::scan::{Source, plan};
use crate::segment::{DeviceBlocks, DeviceEntry};
use crate::shard::LiveSegment;
use crate::types::{FieldDef, Rows, TableSchema};

/// Outputs that are written at the same time.
pub const OUTPUTS_OPEN_MAX: usize = 16;

/// Rows of one device in all inputs.
pub struct DeviceSources {
    /// When the first and the last batch with these rows came.
    pub received: (i64, i64),
    /// The rows, in log order.
    pub sources: Vec<Source>,
    /// Enclose all rows.
    pub time_range: (i64, i64),
}

/// One input's blocks of a device.
pub type Found<'a> = (&'a LiveSegment, DeviceBlocks);

/// What a merge reads of one device: the one place that decides which rows of the inputs are carried on.
pub fn device_sources(device: &str, found: Vec<Found<'_>>, masks: &Masks) -> DeviceSources {
    let mut received = (i64::MAX, i64::MIN);
    let mut time_range = (i64::MAX, i64::MIN);
    let mut sources = Vec::with_capacity(found.len());
    for (input, blocks) in found {
        received = (received.0.min(blocks.received().0), received.1.max(blocks.received().1));
        let (first, last) = blocks.time_range();
        time_range = (time_range.0.min(first), time_range.1.max(last));
        sources.push(masks.source(&input.meta, device, blocks));
    }
    DeviceSources { received, sources, time_range }
}

/// Writes the rows of `inputs`, which are in log order, to `outputs`, cut by `split`; without those that `masks` hide.
///
/// # Errors
/// A damaged input, a failed write, or `stopping`.
pub fn merge(
    inputs: &[Arc<LiveSegment>],
    schema: &TableSchema,
    split: &Split,
    masks: &Masks,
    outputs: &mut Outputs<'_>,
    stopping: &AtomicBool,
) -> Result<()> {
    let fields: Arc<[FieldDef]> = schema.fields.iter().cloned().collect();
    let mut rows = Rows::default();
    let cut_off = masks.rewritten_from(&schema.name);
    for (start, end) in windows(inputs, split)? {
        let mut devices = Devices::new(inputs)?;
        while let Some((device, found)) = devices.next()? {
            if stopping.load(Ordering::Relaxed) {
                return Err(Error::Invalid("the merge was given up: the node goes down".into()));
            }
            let DeviceSources { received, sources, time_range } = device_sources(device, found, masks);
            if time_range.1 < start || (time_range.0 >= end && end != i64::MAX) {
                continue;
            }
            for part in plan(sources, &fields, start.max(cut_off), end) {
                part.load(&mut rows)?;
                outputs.push(split, device, received, &rows)?;
            }
            outputs.end_device()?;
        }
        outputs.finish_open()?;
    }
    Ok(())
}

/// Ranges of time, each of at most [`OUTPUTS_OPEN_MAX`] outputs with rows.
fn windows(inputs: &[Arc<LiveSegment>], split: &Split) -> Result<Vec<(i64, i64)>> {
    let first = inputs.iter().map(|s| s.meta.time_min).min().unwrap_or(0);
    let last = inputs.iter().map(|s| s.meta.time_max).max().unwrap_or(0);
    if day_of(last) - day_of(first) < OUTPUTS_OPEN_MAX as i64 {
        return Ok(vec![(first, i64::MAX)]);
    }
    let starts: Vec<i64> = starts_with_rows(inputs, split)?.into_iter().collect();
    let chunks: Vec<&[i64]> = starts.chunks(OUTPUTS_OPEN_MAX).collect();
    let ends = chunks.iter().skip(1).map(|next| next[0]).chain([i64::MAX]);
    Ok(chunks.iter().zip(ends).map(|(chunk, end)| (chunk[0], end)).collect())
}

/// Starts of the ranges in which some input has a row. Blocks tell it by their first and last times; only those that
/// reach over several ranges are opened.
fn starts_with_rows(inputs: &[Arc<LiveSegment>], split: &Split) -> Result<BTreeSet<i64>> {
    let mut starts = BTreeSet::new();
    let mut times = Vec::new();
    for input in inputs {
        for device in input.segment.devices() {
            let blocks = device?.blocks()?;
            for at in 0..blocks.len() {
                let meta = blocks.meta(at);
                let (first, last) = (split.range_of(meta.time_min), split.range_of(meta.time_max));
                starts.extend([first.0, last.0]);
                if first == last || first.1 == last.0 {
                    continue;
                }
                times.clear();
                blocks.load_times(at, &mut times)?;
                let mut next = 0;
                while let Some(time) = times.get(next) {
                    let (start, end) = split.range_of(*time);
                    starts.insert(start);
                    next += times[next..].partition_point(|t| *t < end).max(1);
                }
            }
        }
    }
    Ok(starts)
}

/// The devices of several segments in ascending order, each once, with its blocks in those that have it.
struct Devices<'a> {
    inputs: &'a [Arc<LiveSegment>],
    entries: Vec<Box<dyn Iterator<Item = Result<DeviceEntry<'a>>> + 'a>>,
    current: Vec<Option<DeviceEntry<'a>>>,
    /// Id and input of each current entry.
    heap: BinaryHeap<Reverse<(&'a str, usize)>>,
}

impl<'a> Devices<'a> {
    fn new(inputs: &'a [Arc<LiveSegment>]) -> Result<Self> {
        let mut devices = Self {
            inputs,
            entries: Vec::with_capacity(inputs.len()),
            current: inputs.iter().map(|_| None).collect(),
            heap: BinaryHeap::with_capacity(inputs.len()),
        };
        for (at, input) in inputs.iter().enumerate() {
            devices.entries.push(Box::new(input.segment.devices()));
            devices.advance(at)?;
        }
        Ok(devices)
    }

    fn advance(&mut self, at: usize) -> Result<()> {
        self.current[at] = self.entries[at].next().transpose()?;
        if let Some(entry) = &self.current[at] {
            self.heap.push(Reverse((entry.id(), at)));
        }
        Ok(())
    }

    /// The next device; its blocks are in the order of the inputs.
    fn next(&mut self) -> Result<Option<(&'a str, Vec<Found<'a>>)>> {
        let Some(&Reverse((device, _))) = self.heap.peek() else { return Ok(None) };
        let mut found = Vec::new();
        while let Some(&Reverse((id, at))) = self.heap.peek()
            && id == device
        {
            self.heap.pop();
            if let Some(entry) = &self.current[at] {
                found.push((&*self.inputs[at], entry.blocks()?));
            }
            self.advance(at)?;
        }
        Ok(Some((device, found)))
    }
}
