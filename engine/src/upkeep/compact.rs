//! Owns doing due merges of one shard's segments; `pick` says which are due. Does not touch memtables.
//!
//! A crash leaves either the inputs or the outputs: one manifest edit swaps them.

use crate::sync::atomic::AtomicBool;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use tidewell_codec::Tier;

use super::FileNumbers;
use super::flush::open_live;
use super::merge::merge;
use super::output::{Finished, OutputSpec, Outputs, Pace};
use super::pick::{self, Candidate, Due, Terms};
use super::stretch::{Stretch, stretches};
use super::throttle::Throttle;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::limits::{COMPACTION_LEVEL_MAX, DAY_NS, ERASE_DELAY_NS};
use crate::manifest::{Edit, Manifest};
use crate::shard::{LiveSegment, ShardStats, ShardView, SharedView};
use crate::storage::Storage;
use crate::summary::LiveSummary;

/// For how long the inputs of a merge that failed are left alone: a damaged input or a full disk does not heal at once, and
/// other merges go on meanwhile.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Days that share a file are at most this part of those that the table keeps.
const GROUP_PART_OF_RETENTION: i64 = 4;

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
    /// Rows from which on an output is full.
    pub rows_max: u64,
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
        self.run_first(now_ns, pick::flushed, |live| live.meta.level == 0, true)
    }

    /// Does a merge within a partition that is due; false when none is.
    ///
    /// # Errors
    /// As [`Self::merge_flushed`].
    pub fn merge_partition(&self, now_ns: i64) -> Result<bool> {
        let _alone = self.running.partitions.lock();
        Ok(self.run_first(now_ns, pick::partition, |live| live.meta.level > 0, false)?
            || self.complete_steps(now_ns)?)
    }

    /// Brings all flushed segments into days and each day into one cold file, without rows that are gone for readers.
    ///
    /// # Errors
    /// A failed read or write; what was merged before stays merged. A merge for which the disk has no room is told at the
    /// end: others may need none, and make some.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        let _alone = (self.running.flushed.lock(), self.running.partitions.lock());
        let run = || -> Result<Option<Error>> {
            let mut no_room = None;
            for table in tables(&self.view.load_files()) {
                self.run_table(&table, now_ns, &mut no_room)?;
            }
            Ok(no_room)
        };
        // Once more with the room that others made.
        if run()?.is_some()
            && let Some(error) = run()?
        {
            return Err(error);
        }
        while self.complete_steps(now_ns)? {}
        Ok(())
    }

    /// The part of [`Self::run_all`] that is one table's; notes in `no_room` what the disk had no room for.
    fn run_table(&self, table: &Arc<str>, now_ns: i64, no_room: &mut Option<Error>) -> Result<()> {
        let mut merge = |view: &ShardView, due: &Due| match self.merge(view, table, due, now_ns) {
            Err(error) if error.is_disk_full() => {
                no_room.get_or_insert(error);
                Ok(false)
            }
            done => done.map(|()| true),
        };
        let terms = self.terms(table, now_ns);
        let mut all_flushed = true;
        while all_flushed {
            let view = self.view.load_files();
            let stretches = self.stretches(&view, table, false);
            let Some(due) = stretches.iter().find_map(|s| pick::flushed_all(&s.segments, terms)) else { break };
            all_flushed = merge(&view, &due)?;
        }
        let view = self.view.load_files();
        let stretches = self.stretches(&view, table, false);
        for due in stretches.iter().flat_map(|stretch| pick::unfinished(&stretch.segments, terms)) {
            merge(&view, &due)?;
        }
        let view = self.view.load_files();
        for (live, candidate) in segments(&view, table).iter().zip(self.candidates(&view, table, false)) {
            // Flushed ones are merged in their order, as soon as there is room.
            if is_damaged(live) || (candidate.level == 0 && !all_flushed) {
                continue;
            }
            if view.masks.cut_share(&live.meta) > 0.0 || view.masks.has_work(live, i64::MAX)? {
                merge(&view, &pick::alone(&candidate))?;
            }
        }
        Ok(())
    }

    /// Does the first merge that `pick` finds in some table, or else one that takes away rows of segments for which `mine`
    /// holds, when they are gone for readers.
    fn run_first(
        &self,
        now_ns: i64,
        pick: fn(&[Candidate], Terms) -> Option<Due>,
        mine: fn(&LiveSegment) -> bool,
        with_overdue: bool,
    ) -> Result<bool> {
        // Inputs of a merge come from the same moment as the masks, or later deletes would be taken for done.
        let view = self.view.load_files();
        let mut found = None;
        for table in tables(&view) {
            let stretches = self.stretches(&view, &table, true);
            let terms = self.terms(&table, now_ns);
            // Only the merges of flushed segments look after those that waited.
            let mut overdue = stretches.iter().filter(|stretch| stretch.overdue && with_overdue);
            let due = overdue
                .find_map(|stretch| pick::flushed_all(&stretch.segments, terms))
                .or_else(|| stretches.iter().find_map(|stretch| pick(&stretch.segments, terms)));
            let due = match due {
                None => self.erasing(&view, &table, &stretches, terms, mine)?,
                due => due,
            };
            if let Some(due) = due {
                found = Some((table, due));
                break;
            }
        }
        let done = match found {
            None => Ok(false),
            Some((table, due)) => {
                let done = self.merge(&view, &table, &due, now_ns);
                if done.is_err() {
                    self.pause(due.inputs);
                }
                done.map(|()| true)
            }
        };
        let mut paused = self.running.paused.lock();
        paused.retain(|_, until| *until > Instant::now());
        self.stats.merges_failing.set(paused.len() as u64);
        done
    }

    /// A merge of segments with rows that were deleted a while ago, or most of whose time lies before the table's cut-off:
    /// the flushed ones together, any other one by itself.
    fn erasing(
        &self,
        view: &ShardView,
        table: &str,
        stretches: &[Stretch],
        terms: Terms,
        mine: fn(&LiveSegment) -> bool,
    ) -> Result<Option<Due>> {
        let deleted_before_ns = terms.now_ns.saturating_sub(ERASE_DELAY_NS);
        let all = stretches.iter().flat_map(|stretch| stretch.segments.iter().map(move |s| (stretch, s)));
        for (stretch, candidate) in all.filter(|(_, candidate)| !candidate.paused) {
            let live = segments(view, table).iter().find(|live| live.meta.id == candidate.id);
            let Some(live) = live.filter(|live| mine(live)) else { continue };
            let is_flushed = candidate.level == 0;
            let cut = !is_flushed && view.masks.cut_share(&live.meta) >= 0.5;
            let work = view.masks.has_work(live, deleted_before_ns);
            if work.is_err() {
                self.pause([candidate.id].into());
            }
            if cut || work? {
                let due =
                    if is_flushed { pick::flushed_all(&stretch.segments, terms) } else { Some(pick::alone(candidate)) };
                return Ok(due);
            }
        }
        Ok(None)
    }

    /// What `pick` needs to know beside the table's segments.
    fn terms(&self, table: &str, now_ns: i64) -> Terms {
        let kept_ns = self.manifest.lock().state().retention.get(table).and_then(|retention| retention.raw_ns);
        let kept_days = kept_ns.map_or(i64::MAX, |kept| i64::try_from(kept / DAY_NS as u64).unwrap_or(i64::MAX));
        Terms { now_ns, group_days_max: kept_days / GROUP_PART_OF_RETENTION }
    }

    fn pause(&self, segments: BTreeSet<u64>) {
        let until = Instant::now() + PAUSE_AFTER_FAILURE;
        self.running.paused.lock().extend(segments.into_iter().map(|id| (id, until)));
    }

    /// The table's segments as far as they may be merged with each other: damaged ones are left out.
    fn stretches(&self, view: &ShardView, table: &str, with_paused: bool) -> Vec<Stretch> {
        let damaged = segments(view, table).iter().filter(|live| is_damaged(live)).map(|live| &live.meta);
        let aside = view.set_aside.iter().map(|aside| &aside.meta).filter(|meta| &*meta.table == table);
        stretches(self.candidates(view, table, with_paused), &damaged.chain(aside).collect::<Vec<_>>())
    }

    /// What `pick` needs to know of the table's segments, in their order.
    fn candidates(&self, view: &ShardView, table: &str, with_paused: bool) -> Vec<Candidate> {
        let paused = self.running.paused.lock();
        let now = Instant::now();
        let is_paused = |id: u64| with_paused && paused.get(&id).is_some_and(|until| *until > now);
        segments(view, table)
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

    /// Merges segments of `view`, without the rows that its masks hide.
    fn merge(&self, view: &ShardView, table: &str, due: &Due, now_ns: i64) -> Result<()> {
        let Some(schema) = self.catalog.table(table) else { return Ok(()) };
        // In log order, as the view has them.
        let inputs: Vec<_> =
            segments(view, table).iter().filter(|s| due.inputs.contains(&s.meta.id)).cloned().collect();
        let masks = &view.masks;
        let least = |of: fn(&LiveSegment) -> u64| inputs.iter().map(|s| of(s)).min().unwrap_or(0);
        let spec = OutputSpec {
            shard: self.shard,
            schema: Arc::clone(&schema),
            tier: due.tier,
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
            rows_max: self.rows_max,
        };
        let throttle = (!due.urgent).then_some(&*self.throttle);
        let pace = Pace { throttle, stopping: &self.stopping };
        let mut outputs = Outputs::new(&self.storage, &self.numbers, spec, pace);
        merge(&inputs, &schema, &due.split, masks, &mut outputs, &self.stopping)?;
        let finished = outputs.into_finished();
        let swapped = self.swap(&inputs, &finished);
        // After a failure that stopped the manifest nobody knows whether the edit is there: what it names must stay.
        if !matches!(swapped, Ok(true)) && self.manifest.lock().is_sound() {
            // The next try has numbers of its own.
            finished.into_iter().for_each(|f| f.remove(&*self.storage));
        }
        swapped.map(drop)
    }

    /// Puts the outputs in the place of the inputs, in the manifest and for readers. False when the inputs are not what they
    /// were: retention took one, or their table was dropped or renamed while they were merged.
    fn swap(&self, inputs: &[Arc<LiveSegment>], outputs: &[Finished]) -> Result<bool> {
        let mut edits: Vec<Edit> = Vec::new();
        for output in outputs {
            edits.push(Edit::SegmentAdded(output.meta.clone()));
            edits.extend(output.beside.iter().flat_map(|beside| beside.edits.iter().cloned()));
        }
        edits.extend(inputs.iter().map(|s| Edit::SegmentRemoved { id: s.meta.id }));
        let opened = outputs.iter().map(|output| self.open(output)).collect::<Result<Vec<_>>>()?;
        {
            // Held until readers see the same: whoever takes segments out of the manifest meets them in the view.
            let mut manifest = self.manifest.lock();
            if inputs.iter().any(|input| manifest.state().segments.get(&input.meta.id) != Some(&input.meta)) {
                return Ok(false);
            }
            manifest.append(&edits)?;
            let ids: Vec<u64> = inputs.iter().map(|s| s.meta.id).collect();
            self.view.replace_segments(&ids, opened);
        }
        self.stats.compactions.add(1);
        self.stats.compaction_bytes.add(outputs.iter().map(|o| o.meta.bytes).sum());
        self.stats.compaction_rows.add(outputs.iter().map(|o| o.meta.rows).sum());
        self.stats.flushed_segments.set(self.view.flushed_segments());
        Ok(true)
    }

    fn open(&self, output: &Finished) -> Result<Arc<LiveSegment>> {
        let summaries = output.summaries().map(|meta| LiveSummary::open(&self.storage, meta.clone()));
        Ok(open_live(&self.storage, output.meta.clone())?.with_summaries(summaries.collect::<Result<_>>()?))
    }
}

fn is_damaged(live: &LiveSegment) -> bool {
    !live.segment.known_damage().is_empty()
}

/// Names of the tables with segments, sorted.
fn tables(view: &ShardView) -> Vec<Arc<str>> {
    let mut tables: Vec<Arc<str>> = view.segments.keys().cloned().collect();
    tables.sort_unstable();
    tables
}

/// The table's segments in log order.
fn segments<'a>(view: &'a ShardView, table: &str) -> &'a [Arc<LiveSegment>] {
    view.segments.get(table).map(Vec::as_slice).unwrap_or_default()
}
