//! Owns the segments that a merge writes: one for each range of time, and what is written beside them.

use crate::sync::atomic::AtomicBool;
use std::collections::BTreeMap;
use std::sync::Arc;

use tidewell_codec::Tier;

use super::FileNumbers;
use super::days::Split;
use super::throttle::Throttle;
use crate::error::Result;
use crate::limits::{COLD_BLOCK_ROWS, HOT_BLOCK_ROWS};
use crate::manifest::{Edit, SegmentMeta};
use crate::segment::{SegmentSpec, SegmentWriter, segment_name};
use crate::storage::Storage;
use crate::summary::{Step, SummaryBuild, SummaryMeta};
use crate::types::{Rows, TableSchema};

/// Something that is written beside an output segment from the very rows that go into it.
///
/// For each device: `begin_device`, then its rows in rising time with one column for each field of the table, then
/// `end_device`. Devices ascend. In the end either `finish` or `discard`.
pub trait MergeSink: Send {
    /// The rows of `device` come next; `received` is when its first and last batch came.
    fn begin_device(&mut self, device: &str, received: (i64, i64));

    /// Rows of the device, later than all before.
    ///
    /// # Errors
    /// A failed write; the merge is given up.
    fn push_rows(&mut self, rows: &Rows) -> Result<()>;

    /// The device has no more rows here.
    ///
    /// # Errors
    /// A failed write; the merge is given up.
    fn end_device(&mut self) -> Result<()>;

    /// The segment is complete and will be `segment`; what was written beside it is made durable.
    ///
    /// # Errors
    /// A failed write; the merge is given up.
    fn finish(self: Box<Self>, segment: &SegmentMeta) -> Result<Beside>;

    /// The merge is given up: files that are there already go.
    fn discard(self: Box<Self>);
}

/// What a [`MergeSink`] leaves.
#[derive(Debug, Default)]
pub struct Beside {
    /// Take effect together with the segment.
    pub edits: Vec<Edit>,
    /// Files to remove when the merge is given up after all.
    pub files: Vec<String>,
}

/// What the outputs of one merge have in common.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// The shard.
    pub shard: u32,
    /// The table as it is now.
    pub schema: Arc<TableSchema>,
    /// How hard the codecs try.
    pub tier: Tier,
    /// 1 and more.
    pub level: u8,
    /// Smallest flush number of the inputs.
    pub seq_min: u64,
    /// Largest flush number of the inputs.
    pub seq_max: u64,
    /// The highest erasure that the outputs need not be masked for.
    pub clean: u64,
    /// Steps that the table keeps beyond its rows.
    pub kept_steps: Vec<Step>,
    /// Time of the node's clock.
    pub created_ns: i64,
    /// Rows from which on a file is full.
    pub rows_max: u64,
}

/// A segment that was written, and what lies beside it.
#[derive(Debug)]
pub struct Finished {
    /// The segment.
    pub meta: SegmentMeta,
    /// What was written beside it.
    pub beside: Vec<Beside>,
}

impl Finished {
    /// The summaries that were written beside it.
    pub fn summaries(&self) -> impl Iterator<Item = &SummaryMeta> {
        self.beside.iter().flat_map(|beside| &beside.edits).filter_map(|edit| match edit {
            Edit::SummaryAdded(meta) => Some(meta),
            _ => None,
        })
    }

    /// Removes the files of a merge that is given up.
    pub fn remove(self, storage: &dyn Storage) {
        let beside = self.beside.into_iter().flat_map(|beside| beside.files);
        for name in std::iter::once(segment_name(self.meta.id)).chain(beside) {
            // What stays is in no manifest; the next open removes it.
            let _ = storage.remove(&name);
        }
    }
}

/// What shall be written beside a segment. What is written in haste is merged again soon: summaries wait for that.
fn sinks(
    storage: &Arc<dyn Storage>,
    numbers: &FileNumbers,
    spec: &OutputSpec,
    segment: &SegmentSpec,
) -> Vec<Box<dyn MergeSink>> {
    match spec.tier {
        Tier::Cold => vec![Box::new(SummaryBuild::new(storage, segment, &spec.kept_steps, numbers))],
        _ => Vec::new(),
    }
}

/// One segment that is being written.
struct Output {
    id: u64,
    writer: SegmentWriter,
    sinks: Vec<Box<dyn MergeSink>>,
    /// Rows of the current device went in.
    in_device: bool,
    /// Bytes that the throttle knows of.
    bytes: u64,
}

impl Output {
    fn create(storage: &Arc<dyn Storage>, numbers: &FileNumbers, spec: &OutputSpec) -> Result<Self> {
        let id = numbers.segment();
        let segment = SegmentSpec {
            id,
            shard: spec.shard,
            schema: Arc::clone(&spec.schema),
            tier: spec.tier,
            block_rows: if spec.tier == Tier::Hot { HOT_BLOCK_ROWS } else { COLD_BLOCK_ROWS },
            seq_min: spec.seq_min,
            seq_max: spec.seq_max,
            created_ns: spec.created_ns,
        };
        let sinks = sinks(storage, numbers, spec, &segment);
        let writer = SegmentWriter::create(Arc::clone(storage), segment)?;
        Ok(Self { id, writer, sinks, in_device: false, bytes: 0 })
    }

    fn push(&mut self, device: &str, received: (i64, i64), rows: &Rows) -> Result<()> {
        if !self.in_device {
            self.writer.begin_device(device, received);
            self.sinks.iter_mut().for_each(|sink| sink.begin_device(device, received));
            self.in_device = true;
        }
        self.writer.push_rows(rows)?;
        self.sinks.iter_mut().try_for_each(|sink| sink.push_rows(rows))
    }

    fn end_device(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.in_device) {
            return Ok(());
        }
        self.writer.end_device()?;
        self.sinks.iter_mut().try_for_each(|sink| sink.end_device())
    }

    /// Bytes that came since the last call.
    fn new_bytes(&mut self) -> u64 {
        let bytes = self.writer.bytes();
        bytes - std::mem::replace(&mut self.bytes, bytes)
    }

    /// The one place where an output becomes complete.
    fn finish(self, storage: &dyn Storage, spec: &OutputSpec) -> Result<Finished> {
        let summary = match self.writer.finish() {
            Ok(summary) => summary,
            Err(error) => {
                self.sinks.into_iter().for_each(MergeSink::discard);
                return Err(error);
            }
        };
        let meta = SegmentMeta {
            id: self.id,
            shard: spec.shard,
            table: Arc::clone(&spec.schema.name),
            level: spec.level,
            seq_min: spec.seq_min,
            seq_max: spec.seq_max,
            rows: summary.rows,
            bytes: summary.bytes,
            time_min: summary.time_min,
            time_max: summary.time_max,
            clean: spec.clean,
        };
        let mut finished = Finished { meta, beside: Vec::new() };
        let mut failure = None;
        for sink in self.sinks {
            if failure.is_some() {
                sink.discard();
                continue;
            }
            match sink.finish(&finished.meta) {
                Ok(beside) => finished.beside.push(beside),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => Ok(finished),
            Some(error) => {
                finished.remove(storage);
                Err(error)
            }
        }
    }

    fn discard(self) {
        // The writer takes its file along when it is dropped.
        self.sinks.into_iter().for_each(MergeSink::discard);
    }
}

/// How fast the outputs may be written.
#[derive(Clone, Copy)]
pub struct Pace<'a> {
    /// Shared by all merges; `None` does not wait.
    pub throttle: Option<&'a Throttle>,
    /// Ends the wait.
    pub stopping: &'a AtomicBool,
}

impl Pace<'_> {
    fn wait_for(&self, bytes: u64) {
        if bytes > 0
            && let Some(throttle) = self.throttle
        {
            throttle.take(bytes, self.stopping);
        }
    }
}

/// All segments of one merge. Dropped before [`Outputs::into_finished`], it takes its files along.
pub struct Outputs<'a> {
    storage: &'a Arc<dyn Storage>,
    numbers: &'a FileNumbers,
    spec: OutputSpec,
    pace: Pace<'a>,
    /// By the start of the range.
    open: BTreeMap<i64, Output>,
    finished: Vec<Finished>,
    /// Rows of one range, cut out of a longer part.
    cut: Rows,
}

impl<'a> Outputs<'a> {
    /// No segment yet.
    pub fn new(storage: &'a Arc<dyn Storage>, numbers: &'a FileNumbers, spec: OutputSpec, pace: Pace<'a>) -> Self {
        Self { storage, numbers, spec, pace, open: BTreeMap::new(), finished: Vec::new(), cut: Rows::default() }
    }

    /// Adds rows of `device` to the files of their ranges; devices ascend, the rows of each rise in time.
    ///
    /// # Errors
    /// A failed write.
    pub fn push(&mut self, split: &Split, device: &str, received: (i64, i64), rows: &Rows) -> Result<()> {
        let mut at = 0;
        while at < rows.times.len() {
            let (start, end) = split.range_of(rows.times[at]);
            let until = match end {
                i64::MAX => rows.times.len(),
                _ => at + rows.times[at..].partition_point(|time| *time < end),
            };
            let output = match self.open.entry(start) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Output::create(self.storage, self.numbers, &self.spec)?)
                }
            };
            if at == 0 && until == rows.times.len() {
                output.push(device, received, rows)?;
                self.pace.wait_for(output.new_bytes());
                return Ok(());
            }
            self.cut.times.clear();
            self.cut.times.extend_from_slice(&rows.times[at..until]);
            self.cut.columns.clear();
            self.cut.columns.extend(rows.columns.iter().map(|column| {
                let mut own = tidewell_codec::Column::new(column.field_type());
                own.extend_from(column, at..until);
                own.normalise();
                own
            }));
            output.push(device, received, &self.cut)?;
            self.pace.wait_for(output.new_bytes());
            at = until;
        }
        Ok(())
    }

    /// Ends the device in all files. A file that has all the rows that one may have is completed: what follows in its
    /// range goes into another one, which then holds other devices.
    ///
    /// # Errors
    /// A failed write.
    pub fn end_device(&mut self) -> Result<()> {
        self.open.values_mut().try_for_each(Output::end_device)?;
        let full: Vec<i64> = self
            .open
            .iter()
            .filter(|(_, output)| output.writer.rows() >= self.spec.rows_max)
            .map(|(at, _)| *at)
            .collect();
        full.into_iter().try_for_each(|start| self.finish_one(start))
    }

    /// Completes all files.
    ///
    /// # Errors
    /// A failed write.
    pub fn finish_open(&mut self) -> Result<()> {
        while let Some((&start, _)) = self.open.first_key_value() {
            self.finish_one(start)?;
        }
        Ok(())
    }

    /// What was written; all files must be complete.
    pub fn into_finished(mut self) -> Vec<Finished> {
        assert!(self.open.is_empty(), "every output was finished");
        std::mem::take(&mut self.finished)
    }

    fn finish_one(&mut self, start: i64) -> Result<()> {
        if let Some(output) = self.open.remove(&start) {
            self.finished.push(output.finish(&**self.storage, &self.spec)?);
        }
        Ok(())
    }
}

impl Drop for Outputs<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.open).into_values().for_each(Output::discard);
        self.finished.drain(..).for_each(|finished| finished.remove(&**self.storage));
    }
}
