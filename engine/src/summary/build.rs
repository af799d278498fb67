//! Owns making a segment's summaries while its rows are written, or afterwards from its blocks; does not choose when.

use std::sync::Arc;

use super::aggregate::StepBuilder;
use super::live::LiveSummary;
use super::types::Step;
use super::writer::{SummarySpec, SummaryWriter};
use super::{SummaryMeta, summary_name};
use crate::erase::Masks;
use crate::error::Result;
use crate::manifest::{Edit, SegmentMeta};
use crate::segment::{Segment, SegmentSpec};
use crate::storage::Storage;
use crate::types::{FieldDef, Rows, TableSchema};
use crate::upkeep::{Beside, FileNumbers, MergeSink};

/// A step of fewer rows costs about as much as the rows do.
const ROWS_PER_STEP_MIN: u64 = 16;

/// Makes the summaries of one segment out of the rows that go into it: the same calls as the segment's writer gets.
pub struct SummaryBuild {
    storage: Arc<dyn Storage>,
    hours: StepBuilder,
    minutes: StepBuilder,
    /// Steps that the table keeps longer than its rows: every device has them.
    kept: Vec<Step>,
    fields: Vec<FieldDef>,
    writers: Vec<SummaryWriter>,
    device: Option<(String, (i64, i64))>,
}

impl SummaryBuild {
    /// For the segment of `spec`. A step is stored for a device with at least 16 rows to each such step, and of those in
    /// `kept` for every device.
    pub fn new(storage: &Arc<dyn Storage>, spec: &SegmentSpec, kept: &[Step], numbers: &FileNumbers) -> Self {
        let fields = &spec.schema.fields;
        let writers = Step::ALL.map(|step| {
            let spec = SummarySpec {
                id: numbers.segment(),
                segment: spec.id,
                shard: spec.shard,
                step,
                schema: Arc::clone(&spec.schema),
                seq_min: spec.seq_min,
                seq_max: spec.seq_max,
                created_ns: spec.created_ns,
            };
            SummaryWriter::new(Arc::clone(storage), spec)
        });
        let least = |step| if kept.contains(&step) { 0 } else { ROWS_PER_STEP_MIN };
        Self {
            storage: Arc::clone(storage),
            // Days come from hours, so hours are always computed.
            hours: StepBuilder::new(Step::Hour, fields, 0),
            minutes: StepBuilder::new(Step::Minute, fields, least(Step::Minute)),
            kept: kept.to_vec(),
            fields: fields.clone(),
            writers: writers.into(),
            device: None,
        }
    }

    /// Starts a device, after all before.
    pub fn begin_device(&mut self, device: &str, received: (i64, i64)) {
        debug_assert!(self.device.is_none(), "the device before is still open");
        self.device = Some((device.to_owned(), received));
    }

    /// Adds rows to the device, later than all before.
    pub fn push_rows(&mut self, rows: &Rows) {
        self.hours.push_rows(rows);
        self.minutes.push_rows(rows);
    }

    /// Ends the device.
    ///
    /// # Errors
    /// A failed write.
    pub fn end_device(&mut self) -> Result<()> {
        let (device, received) = self.device.take().expect("end_device follows begin_device");
        let (minutes, hours) = (self.minutes.end_device(), self.hours.end_device());
        let Some(hours) = hours else { return Ok(()) };
        let days = hours.days(&self.fields);
        let rows: u64 = hours.rows.iter().sum();
        let steps = [minutes, Some(hours), Some(days)];
        for ((step, steps), writer) in Step::ALL.into_iter().zip(steps).zip(&mut self.writers) {
            let Some(steps) = steps else { continue };
            let pays = rows >= steps.numbers.len() as u64 * ROWS_PER_STEP_MIN;
            if pays || self.kept.contains(&step) {
                writer.push_device(&device, received, &steps)?;
            }
        }
        Ok(())
    }

    /// Writes what is left. Steps that no device has make no file.
    ///
    /// # Errors
    /// A failed write; nothing of the summaries stays.
    pub fn finish(self) -> Result<Vec<SummaryMeta>> {
        let mut done: Vec<SummaryMeta> = Vec::new();
        for writer in self.writers {
            match writer.finish() {
                Ok(meta) => done.extend(meta),
                Err(error) => {
                    for meta in done {
                        let _ = self.storage.remove(&summary_name(meta.id));
                    }
                    return Err(error);
                }
            }
        }
        Ok(done)
    }
}

impl MergeSink for SummaryBuild {
    fn begin_device(&mut self, device: &str, received: (i64, i64)) {
        self.begin_device(device, received);
    }

    fn push_rows(&mut self, rows: &Rows) -> Result<()> {
        self.push_rows(rows);
        Ok(())
    }

    fn end_device(&mut self) -> Result<()> {
        self.end_device()
    }

    fn finish(self: Box<Self>, _: &SegmentMeta) -> Result<Beside> {
        let metas = (*self).finish()?;
        let files = metas.iter().map(|meta| summary_name(meta.id)).collect();
        Ok(Beside { edits: metas.into_iter().map(Edit::SummaryAdded).collect(), files })
    }

    fn discard(self: Box<Self>) {
        // Its writers take their files along.
    }
}

/// Makes the summaries of a segment that was written before.
///
/// # Errors
/// A damaged block, a failed write; nothing of the summaries stays.
pub fn build_for_segment(
    storage: &Arc<dyn Storage>,
    segment: &Arc<Segment>,
    kept: &[Step],
    numbers: &FileNumbers,
    now_ns: i64,
) -> Result<Vec<SummaryMeta>> {
    let (seq_min, seq_max) = segment.seq_range();
    let spec = SegmentSpec {
        id: segment.id(),
        shard: segment.shard(),
        schema: Arc::clone(segment.schema()),
        tier: segment.tier(),
        block_rows: segment.block_rows(),
        seq_min,
        seq_max,
        created_ns: now_ns,
    };
    let mut build = SummaryBuild::new(storage, &spec, kept, numbers);
    let fields: Arc<[FieldDef]> = segment.schema().fields.iter().cloned().collect();
    let mut rows = Rows::default();
    for entry in segment.devices() {
        let entry = entry?;
        let blocks = entry.blocks()?;
        build.begin_device(entry.id(), blocks.received());
        let source = crate::scan::Source::Blocks(blocks);
        for part in crate::scan::plan(vec![source], &fields, i64::MIN, i64::MAX) {
            part.load(&mut rows)?;
            build.push_rows(&rows);
        }
        build.end_device()?;
    }
    build.finish()
}

/// Writes a summary anew that stands for rows that are gone, without the steps that deletes touch. `None` when nothing is
/// left of it.
///
/// # Errors
/// A damaged entry, a failed write; nothing stays.
pub(crate) fn rewrite_without(
    storage: &Arc<dyn Storage>,
    live: &LiveSummary,
    masks: &Masks,
    numbers: &FileNumbers,
    now_ns: i64,
) -> Result<Option<SummaryMeta>> {
    let (summary, step) = (&live.summary, live.meta.step);
    let schema = Arc::new(TableSchema { name: Arc::clone(&live.meta.table), fields: summary.schema().fields.clone() });
    let mut writer = SummaryWriter::new(
        Arc::clone(storage),
        SummarySpec {
            id: numbers.segment(),
            segment: live.meta.segment,
            shard: live.meta.shard,
            step,
            schema,
            seq_min: live.meta.seq_min,
            seq_max: live.meta.seq_max,
            created_ns: now_ns,
        },
    );
    let mut written = Ok(());
    summary.visit(&mut |device, entry| {
        let mask = masks.mask_kept(&live.meta, device);
        written = entry.and_then(|entry| {
            let steps = entry.without(&|number| mask.touches(step.start_of(number), step.last_of(number)))?;
            writer.push_device(device, entry.received(), &steps)
        });
        written.is_ok()
    })?;
    written?;
    writer.finish()
}
