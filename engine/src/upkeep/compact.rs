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
use crate::error::Result;
use crate::limits::COMPACTION_LEVEL_MAX;
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
        // Only the segments: a merge that held the view would keep flushed memtables in memory until it ends.
        let segments = Arc::clone(&self.view.load().segments);
        let mut tables: Vec<_> = segments.iter().collect();
        tables.sort_by(|a, b| a.0.cmp(b.0));
        for (table, segments) in tables {
            if let Some(due) = pick::due(segments) {
                self.merge(table, &due, now_ns)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings all flushed segments into days and each day into one cold file.
    ///
    /// # Errors
    /// A failed read or write; what was merged before stays merged.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        let tables: Vec<Arc<str>> = self.view.load().segments.keys().cloned().collect();
        for table in tables {
            let segments = |view: &SharedView| view.load().segments.get(&table).cloned().unwrap_or_default();
            if let Some(due) = pick::flushed(&segments(&self.view), 1) {
                self.merge(&table, &due, now_ns)?;
            }
            for due in pick::unfinished(&segments(&self.view)) {
                self.merge(&table, &due, now_ns)?;
            }
        }
        Ok(())
    }

    fn merge(&self, table: &str, due: &Due, now_ns: i64) -> Result<()> {
        let Some(schema) = self.catalog.table(table) else { return Ok(()) };
        let inputs = &due.inputs;
        let least = |of: fn(&LiveSegment) -> u64| inputs.iter().map(|s| of(s)).min().unwrap_or(0);
        let spec = OutputSpec {
            shard: self.shard,
            schema: Arc::clone(&schema),
            tier: Tier::Cold,
            level: inputs.iter().map(|s| s.meta.level).max().unwrap_or(0).saturating_add(1).min(COMPACTION_LEVEL_MAX),
            seq_min: least(|s| s.meta.seq_min),
            seq_max: inputs.iter().map(|s| s.meta.seq_max).max().unwrap_or(0),
            clean: least(|s| s.meta.clean),
            kept_steps: self.view.load().masks.kept_steps(table).to_vec(),
            created_ns: now_ns,
        };
        let mut outputs = Outputs::new(&self.storage, &self.numbers, spec);
        merge(inputs, &schema, &due.split, &mut outputs, &self.stopping)?;
        let finished = outputs.into_finished();
        let swapped = self.swap(inputs, &finished);
        if swapped.is_err() {
            // The next try has numbers of its own.
            finished.into_iter().for_each(|f| f.remove(&*self.storage));
        }
        swapped
    }

    /// Puts the outputs in the place of the inputs, in the manifest and for readers.
    fn swap(&self, inputs: &[Arc<LiveSegment>], outputs: &[super::output::Finished]) -> Result<()> {
        let mut edits: Vec<Edit> = Vec::new();
        for output in outputs {
            edits.push(Edit::SegmentAdded(output.meta.clone()));
            edits.extend(output.beside.iter().flat_map(|beside| beside.edits.iter().cloned()));
        }
        edits.extend(inputs.iter().map(|s| Edit::SegmentRemoved { id: s.meta.id }));
        let opened = outputs.iter().map(|output| self.open(output)).collect::<Result<Vec<_>>>()?;
        self.manifest.lock().append(&edits)?;
        for segment in &opened {
            self.stats.compaction_bytes.add(segment.meta.bytes);
        }
        self.stats.compactions.add(1);
        let ids: Vec<u64> = inputs.iter().map(|s| s.meta.id).collect();
        self.view.replace_segments(&ids, opened);
        Ok(())
    }
    fn open(&self, output: &super::output::Finished) -> Result<Arc<LiveSegment>> {
        let summaries = output.summaries().map(|meta| LiveSummary::open(&self.storage, meta.clone()));
        Ok(open_live(&self.storage, output.meta.clone())?.with_summaries(summaries.collect::<Result<_>>()?))
    }
}
