//! Owns doing due merges of one shard's segments; `pick` says which are due. Does not touch memtables.
//!
//! A crash leaves either the inputs or the outputs: one manifest edit swaps them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewell_codec::Tier;

use super::FileNumbers;
use super::flush::open_live;
use super::merge::merge;
use super::output::{Finished, OutputSpec, Outputs, Pace};
use super::pick::{self, Candidate, Due};
use super::throttle::Throttle;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::limits::COMPACTION_LEVEL_MAX;
use crate::manifest::{Edit, Manifest};
use crate::shard::{LiveSegment, ShardStats, SharedView};
use crate::storage::Storage;
use crate::summary::LiveSummary;

/// For how long the inputs of a merge that failed are left alone: a damaged input or a full disk does not heal at once, and
/// other merges go on meanwhile.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What the merges of one shard must not do at the same time, and what they must not do for now.
#[derive(Default)]
pub struct Running {
    flushed: Mutex<()>,
    partitions: Mutex<()>,
    /// Segments whose merge failed, and until when they are left alone.
    paused: Mutex<HashMap<u64, Instant>>,
}

/// Merges one shard's segments. A merge of flushed ones and one within a partition may run at the same time: neither
/// has inputs of the other, and the outputs of the first are later in log order than all that the second touches.
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
    /// How fast background merges may write.
    pub throttle: Arc<Throttle>,
    /// Merges that run.
    pub running: Running,
}

impl Compactor {
    /// Does the merge of flushed segments that is due; false when none is.
    ///
    /// # Errors
    /// A failed read or write; the inputs stay, and are left alone for a while.
    pub fn merge_flushed(&self, now_ns: i64) -> Result<bool> {
        let _alone = self.running.flushed.lock();
        self.run_first(now_ns, pick::flushed)
    }

    /// Does a merge within a partition that is due; false when none is.
    ///
    /// # Errors
    /// As [`Self::merge_flushed`].
    pub fn merge_partition(&self, now_ns: i64) -> Result<bool> {
        let _alone = self.running.partitions.lock();
        self.run_first(now_ns, pick::partition)
    }

    /// Brings all flushed segments into days and each day into one cold file.
    ///
    /// # Errors
    /// A failed read or write; what was merged before stays merged.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        let _alone = (self.running.flushed.lock(), self.running.partitions.lock());
        for table in self.tables() {
            while let Some(due) = pick::flushed_all(&self.candidates(&table, false), now_ns) {
                self.merge(&table, &due, now_ns)?;
            }
            for due in pick::unfinished(&self.candidates(&table, false), now_ns) {
                self.merge(&table, &due, now_ns)?;
            }
        }
        Ok(())
    }

    fn run_first(&self, now_ns: i64, pick: fn(&[Candidate], i64) -> Option<Due>) -> Result<bool> {
        let next = || {
            self.tables().into_iter().find_map(|table| {
                let due = pick(&self.candidates(&table, true), now_ns)?;
                Some((table, due))
            })
        };
        let done = match next() {
            None => Ok(false),
            Some((table, due)) => {
                let done = self.merge(&table, &due, now_ns);
                if done.is_err() {
                    let until = Instant::now() + PAUSE_AFTER_FAILURE;
                    self.running.paused.lock().extend(due.inputs.iter().map(|id| (*id, until)));
                }
                done.map(|()| true)
            }
        };
        let mut paused = self.running.paused.lock();
        paused.retain(|_, until| *until > Instant::now());
        self.stats.merges_failing.set(paused.len() as u64);
        done
    }

    /// Names of the tables with segments, sorted.
    fn tables(&self) -> Vec<Arc<str>> {
        let mut tables: Vec<Arc<str>> = self.view.load().segments.keys().cloned().collect();
        tables.sort_unstable();
        tables
    }

    fn candidates(&self, table: &str, with_paused: bool) -> Vec<Candidate> {
        let paused = self.running.paused.lock();
        let now = Instant::now();
        let is_paused = |id: u64| with_paused && paused.get(&id).is_some_and(|until| *until > now);
        let view = self.view.load();
        let segments = view.segments.get(table).map(Vec::as_slice).unwrap_or_default();
        segments
            .iter()
            .map(|live| Candidate {
                id: live.meta.id,
                level: live.meta.level,
                seq_min: live.meta.seq_min,
                seq_max: live.meta.seq_max,
                rows: live.meta.rows,
                devices: live.segment.device_count(),
                time_min: live.meta.time_min,
                time_max: live.meta.time_max,
                cold: live.segment.tier() == Tier::Cold,
                created_ns: live.segment.created_ns(),
                paused: is_paused(live.meta.id),
            })
            .collect()
    }

    fn merge(&self, table: &str, due: &Due, now_ns: i64) -> Result<()> {
        let Some(schema) = self.catalog.table(table) else { return Ok(()) };
        let view = self.view.load();
        let segments = view.segments.get(table).map(Vec::as_slice).unwrap_or_default();
        // In log order, as the view has them.
        let inputs: Vec<_> = segments.iter().filter(|s| due.inputs.contains(&s.meta.id)).cloned().collect();
        let least = |of: fn(&LiveSegment) -> u64| inputs.iter().map(|s| of(s)).min().unwrap_or(0);
        let spec = OutputSpec {
            shard: self.shard,
            schema: Arc::clone(&schema),
            tier: due.tier,
            level: inputs.iter().map(|s| s.meta.level).max().unwrap_or(0).saturating_add(1).min(COMPACTION_LEVEL_MAX),
            seq_min: least(|s| s.meta.seq_min),
            seq_max: inputs.iter().map(|s| s.meta.seq_max).max().unwrap_or(0),
            clean: least(|s| s.meta.clean),
            kept_steps: self.view.load().masks.kept_steps(table).to_vec(),
            created_ns: now_ns,
        };
        let throttle = (!due.urgent).then_some(&*self.throttle);
        let pace = Pace { throttle, stopping: &self.stopping };
        let mut outputs = Outputs::new(&self.storage, &self.numbers, spec, pace);
        merge(&inputs, &schema, &due.split, &mut outputs, &self.stopping)?;
        let finished = outputs.into_finished();
        let swapped = self.swap(&inputs, &finished);
        if swapped.is_err() {
            // The next try has numbers of its own.
            finished.into_iter().for_each(|f| f.remove(&*self.storage));
        }
        swapped
    }

    /// Puts the outputs in the place of the inputs, in the manifest and for readers.
    fn swap(&self, inputs: &[Arc<LiveSegment>], outputs: &[Finished]) -> Result<()> {
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
        self.stats.compaction_rows.add(outputs.iter().map(|o| o.meta.rows).sum());
        let ids: Vec<u64> = inputs.iter().map(|s| s.meta.id).collect();
        self.view.replace_segments(&ids, opened);
        self.stats.flushed_segments.set(self.view.flushed_segments());
        Ok(())
    }
    fn open(&self, output: &super::output::Finished) -> Result<Arc<LiveSegment>> {
        let summaries = output.summaries().map(|meta| LiveSummary::open(&self.storage, meta.clone()));
        Ok(open_live(&self.storage, output.meta.clone())?.with_summaries(summaries.collect::<Result<_>>()?))
    }
}
