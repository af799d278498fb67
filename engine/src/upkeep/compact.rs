//! Owns doing due merges of one shard's segments; `pick` says which are due. Does not touch memtables.
//!
//! A crash leaves either the inputs or the outputs: one manifest edit swaps them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tidewell_codec::Tier;

use super::FileNumbers;
use super::flush::open_live;
use super::merge::merge;
use super::output::{OutputSpec, Outputs};
use super::pick::{self, Due};
use crate::catalog::Catalog;
use crate::erase::Masks;
use crate::error::Result;
use crate::limits::{COMPACTION_LEVEL_MAX, ERASE_DELAY_NS};
use crate::manifest::{Edit, Manifest};
use crate::shard::{LiveSegment, ShardStats, SharedView};
use crate::storage::Storage;
use crate::summary::LiveSummary;

/// Merges one shard's segments.
pub struct Compactor {
    /// The shard.
    pub shard: u32,
    /// The data directory.
    pub storage: Arc<dyn Storage>,
    /// All tables.
    pub catalog: Arc<Catalog>,
    /// Which segments exist.
    pub manifest: Arc<Mutex<Manifest>>,
    /// Numbers of new files.
    pub numbers: Arc<FileNumbers>,
    /// What readers see.
    pub view: Arc<SharedView>,
    /// Counters.
    pub stats: Arc<ShardStats>,
    /// Set when the node goes down: a merge gives up between two devices, and its inputs stay.
    pub stopping: Arc<AtomicBool>,
}

impl Compactor {
    /// Does one due merge; false when none is due.
    ///
    /// # Errors
    /// A failed read or write; the inputs stay.
    pub fn run_once(&self, now_ns: i64) -> Result<bool> {
        let view = self.view.load();
        let mut tables: Vec<_> = view.segments.iter().collect();
        tables.sort_by(|a, b| a.0.cmp(b.0));
        for (table, segments) in tables {
            let due = match pick::due(segments) {
                Some(due) => Some(due),
                None => pick::erasing(segments, &view.masks, now_ns.saturating_sub(ERASE_DELAY_NS))?,
            };
            if let Some(due) = due {
                self.merge(table, &due, &view.masks, now_ns)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings all flushed segments into days and each day into one cold file, without rows that are gone for readers.
    ///
    /// # Errors
    /// A failed read or write; what was merged before stays merged.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        let tables: Vec<Arc<str>> = self.view.load().segments.keys().cloned().collect();
        for table in tables {
            // Inputs of a merge come from the same moment as the masks, or later deletes would be taken for done.
            let now = || {
                let view = self.view.load();
                (view.segments.get(&table).cloned().unwrap_or_default(), Arc::clone(&view.masks))
            };
            let (segments, masks) = now();
            if let Some(due) = pick::flushed(&segments, 1) {
                self.merge(&table, &due, &masks, now_ns)?;
            }
            let (segments, masks) = now();
            for due in pick::unfinished(&segments) {
                self.merge(&table, &due, &masks, now_ns)?;
            }
            let (segments, masks) = now();
            for segment in segments {
                if pick::hides_rows(&segment, &masks, i64::MAX)? {
                    self.merge(&table, &pick::whole(vec![segment]), &masks, now_ns)?;
                }
            }
        }
        Ok(())
    }

    fn merge(&self, table: &str, due: &Due, masks: &Masks, now_ns: i64) -> Result<()> {
        let Some(schema) = self.catalog.table(table) else { return Ok(()) };
        let inputs = &due.inputs;
        let least = |of: fn(&LiveSegment) -> u64| inputs.iter().map(|s| of(s)).min().unwrap_or(0);
        let spec = OutputSpec {
            shard: self.shard,
            schema: Arc::clone(&schema),
            tier: Tier::Cold,
            // A segment that is only rewritten stays as deep as it is.
            level: match &inputs[..] {
                [only] => only.meta.level.max(1),
                _ => inputs.iter().map(|s| s.meta.level).max().unwrap_or(0).saturating_add(1).min(COMPACTION_LEVEL_MAX),
            },
            seq_min: least(|s| s.meta.seq_min),
            seq_max: inputs.iter().map(|s| s.meta.seq_max).max().unwrap_or(0),
            clean: masks.clean(least(|s| s.meta.clean)),
            kept_steps: masks.kept_steps(table).to_vec(),
            created_ns: now_ns,
        };
        let mut outputs = Outputs::new(&self.storage, &self.numbers, spec);
        merge(inputs, &schema, &due.split, masks, &mut outputs, &self.stopping)?;
        let finished = outputs.into_finished();
        let swapped = self.swap(inputs, &finished);
        if !matches!(swapped, Ok(true)) {
            // The next try has numbers of its own.
            finished.into_iter().for_each(|f| f.remove(&*self.storage));
        }
        swapped.map(drop)
    }

    /// Puts the outputs in the place of the inputs, in the manifest and for readers. False when the inputs are not what they
    /// were: retention took one, or their table was dropped or renamed while they were merged.
    fn swap(&self, inputs: &[Arc<LiveSegment>], outputs: &[super::output::Finished]) -> Result<bool> {
        let mut edits: Vec<Edit> = Vec::new();
        for output in outputs {
            edits.push(Edit::SegmentAdded(output.meta.clone()));
            edits.extend(output.beside.iter().flat_map(|beside| beside.edits.iter().cloned()));
        }
        edits.extend(inputs.iter().map(|s| Edit::SegmentRemoved { id: s.meta.id }));
        let opened = outputs.iter().map(|output| self.open(output)).collect::<Result<Vec<_>>>()?;
        // Held until readers see the same: whoever takes segments out of the manifest meets them in the view.
        let mut manifest = self.manifest.lock();
        if inputs.iter().any(|input| manifest.state().segments.get(&input.meta.id) != Some(&input.meta)) {
            return Ok(false);
        }
        manifest.append(&edits)?;
        for segment in &opened {
            self.stats.compaction_bytes.add(segment.meta.bytes);
        }
        self.stats.compactions.add(1);
        let ids: Vec<u64> = inputs.iter().map(|s| s.meta.id).collect();
        self.view.replace_segments(&ids, opened);
        Ok(true)
    }
    fn open(&self, output: &super::output::Finished) -> Result<Arc<LiveSegment>> {
        let summaries = output.summaries().map(|meta| LiveSummary::open(&self.storage, meta.clone()));
        Ok(open_live(&self.storage, output.meta.clone())?.with_summaries(summaries.collect::<Result<_>>()?))
    }
}
