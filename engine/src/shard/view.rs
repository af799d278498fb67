//! Owns the set of memtables and segments that a shard's readers see; does not read them.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::RwLock;

use crate::damage::{DamagedPlace, SetAside};
use crate::erase::Masks;
use crate::manifest::{ManifestState, SegmentMeta};
use crate::memory::MemoryBudget;
use crate::memtable::Memtable;
use crate::segment::Segment;
use crate::storage::Storage;
use crate::summary::{LiveSummary, STEPS_MAX, Step};

/// An open segment; its file goes with the last holder once it has been replaced.
pub struct LiveSegment {
    /// What the manifest says of it.
    pub meta: SegmentMeta,
    /// The reader.
    pub segment: Arc<Segment>,
    /// Its steps, the longest first.
    pub summaries: Vec<Arc<LiveSummary>>,
    file: Arc<StoredFile>,
}

/// The file of a segment, shared by all that was said of the segment in its time and that older snapshots hold.
struct StoredFile {
    name: String,
    storage: Arc<dyn Storage>,
    replaced: AtomicBool,
}

impl LiveSegment {
    /// Wraps an open segment that is stored as `name`.
    pub fn new(meta: SegmentMeta, segment: Arc<Segment>, name: String, storage: Arc<dyn Storage>) -> Arc<Self> {
        let file = Arc::new(StoredFile { name, storage, replaced: AtomicBool::new(false) });
        Arc::new(Self { meta, segment, summaries: Vec::new(), file })
    }

    /// The same segment after its table got another name.
    fn renamed(&self, table: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            meta: SegmentMeta { table: Arc::clone(table), ..self.meta.clone() },
            segment: Arc::clone(&self.segment),
            summaries: self.summaries.iter().map(|live| live.renamed(table)).collect(),
            file: Arc::clone(&self.file),
        })
    }

    /// The same segment with these summaries.
    pub fn with_summaries(&self, mut summaries: Vec<Arc<LiveSummary>>) -> Arc<Self> {
        summaries.sort_by_key(|live| Reverse(live.meta.step));
        Arc::new(Self {
            meta: self.meta.clone(),
            segment: Arc::clone(&self.segment),
            summaries,
            file: Arc::clone(&self.file),
        })
    }

    /// Those of `kept` that do not tell of every device. More steps than an entry may have cannot be told.
    pub fn lacks_steps(&self, kept: &[Step]) -> Vec<Step> {
        let told = |step: &Step| {
            let span = self.meta.time_max.saturating_sub(self.meta.time_min) / step.width_ns();
            span >= STEPS_MAX as i64 - 1
                || self
                    .summaries
                    .iter()
                    .any(|live| live.meta.step == *step && live.summary.device_count() == self.segment.device_count())
        };
        kept.iter().copied().filter(|step| !told(step)).collect()
    }

    /// Says that the manifest no longer lists it nor its summaries: the files are removed when the last query lets go.
    pub fn mark_replaced(&self) {
        self.mark_removed();
        self.summaries.iter().for_each(|summary| summary.mark_replaced());
    }

    /// Says that the manifest no longer lists the segment, of which summaries may stay.
    pub fn mark_removed(&self) {
        self.file.replaced.store(true, Ordering::Release);
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = self.storage.remove(&self.name)
        {
            // Not in the manifest any more, so the next open removes it as an orphan.
            tracing::warn!(segment = %self.name, %error, "cannot remove a replaced segment");
        }
    }
}

/// Segments by table, oldest first.
pub type SegmentMap = HashMap<Arc<str>, Vec<Arc<LiveSegment>>>;

/// One moment of a shard: sources in log order are segments, then sealed memtables, then the active one.
#[derive(Clone)]
pub struct ShardView {
    /// Segments by table, oldest first.
    pub segments: Arc<SegmentMap>,
    /// Segments that cannot be opened, and so are not among those.
    pub set_aside: Arc<[SetAside]>,
    /// Summaries by table that stand for segments that are gone, oldest first.
    pub kept: Arc<HashMap<Arc<str>, Vec<Arc<LiveSummary>>>>,
    /// What is gone for readers though segments still have it.
    pub masks: Arc<Masks>,
    /// Sealed memtables that are not in segments yet, oldest first.
    pub sealed: Vec<Arc<Memtable>>,
    /// The memtable that takes new rows.
    pub active: Arc<Memtable>,
}

/// The current view; replaced as a whole.
pub struct SharedView {
    current: RwLock<Arc<ShardView>>,
    memory: Arc<MemoryBudget>,
}

impl SharedView {
    /// A view of `segments` behind `masks`, and an empty memtable, which counts in `memory` as all later ones do.
    pub fn new(
        segments: Vec<Arc<LiveSegment>>,
        set_aside: Vec<SetAside>,
        masks: Masks,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        let view = ShardView {
            segments: Arc::new(by_table(segments)),
            set_aside: set_aside.into(),
            kept: Arc::default(),
            masks: Arc::new(masks),
            sealed: Vec::new(),
            active: Arc::new(Memtable::counted(&memory)),
        };
        Self { current: RwLock::new(Arc::new(view)), memory }
    }

    /// The view of this moment.
    pub fn load(&self) -> Arc<ShardView> {
        Arc::clone(&self.current.read())
    }

    /// Flushed segments that wait to be merged into days, of the table that has most.
    pub fn flushed_segments(&self) -> u64 {
        let view = self.load();
        let count = |segments: &Vec<Arc<LiveSegment>>| segments.iter().filter(|s| s.meta.level == 0).count();
        view.segments.values().map(count).max().unwrap_or(0) as u64
    }

    /// The view of this moment without its memtables: a merge that held them would keep them in memory until it ends,
    /// long after they were flushed.
    pub fn load_files(&self) -> Arc<ShardView> {
        let view = ShardView::clone(&self.current.read());
        Arc::new(ShardView { sealed: Vec::new(), active: Arc::new(Memtable::default()), ..view })
    }

    /// Seals the active memtable and starts a new one; returns the sealed one.
    pub fn rotate(&self) -> Arc<Memtable> {
        let mut current = self.current.write();
        let mut view = ShardView::clone(&current);
        let sealed = std::mem::replace(&mut view.active, Arc::new(Memtable::counted(&self.memory)));
        view.sealed.push(Arc::clone(&sealed));
        *current = Arc::new(view);
        sealed
    }

    /// Puts a sealed memtable's segments in its place.
    pub fn replace_sealed(&self, sealed: &Arc<Memtable>, segments: Vec<Arc<LiveSegment>>) {
        self.change(|view| {
            view.sealed.retain(|m| !Arc::ptr_eq(m, sealed));
            let all = view.segments.values().flatten().cloned().chain(segments).collect();
            view.segments = Arc::new(by_table(all));
        });
        sealed.retire();
    }

    /// Puts merged segments in the place of their inputs, whose files go when their last reader does.
    pub fn replace_segments(&self, inputs: &[u64], outputs: Vec<Arc<LiveSegment>>) {
        self.change(|view| {
            let (old, kept): (Vec<_>, Vec<_>) =
                view.segments.values().flatten().cloned().partition(|s| inputs.contains(&s.meta.id));
            view.segments = Arc::new(by_table(kept.into_iter().chain(outputs).collect()));
            old.iter().for_each(|s| s.mark_replaced());
        });
    }

    /// Gives a segment other summaries of the steps that `summaries` are of.
    pub fn set_summaries(&self, id: u64, summaries: Vec<Arc<LiveSummary>>) {
        self.change(|view| {
            let replace = |live: &Arc<LiveSegment>| {
                if live.meta.id != id {
                    return Arc::clone(live);
                }
                let same = |old: &Arc<LiveSummary>| summaries.iter().any(|new| new.meta.step == old.meta.step);
                let (old, left): (Vec<_>, Vec<_>) = live.summaries.iter().cloned().partition(same);
                old.iter().for_each(|summary| summary.mark_replaced());
                live.with_summaries(left.into_iter().chain(summaries.iter().cloned()).collect())
            };
            view.segments = Arc::new(by_table(view.segments.values().flatten().map(replace).collect()));
        });
    }

    /// Takes summaries away that stand for segments that are gone, and puts others in their place.
    pub fn replace_kept(&self, ids: &[u64], new: Vec<Arc<LiveSummary>>) {
        self.change(|view| {
            let (old, left): (Vec<_>, Vec<_>) =
                view.kept.values().flatten().cloned().partition(|s| ids.contains(&s.meta.id));
            view.kept = Arc::new(kept_by_table(left.into_iter().chain(new).collect()));
            old.iter().for_each(|summary| summary.mark_replaced());
        });
    }

    /// Takes the masks over from the manifest, whose edits come first.
    pub fn set_masks(&self, state: &ManifestState, shard: u32) {
        let masks = Arc::new(Masks::new(state, shard));
        self.change(|view| view.masks = masks);
    }

    /// Takes the masks over and lets go of segments that the manifest removed, whose files go with their last reader. Of
    /// summaries, those stay that the manifest still has.
    pub fn cut_off(&self, state: &ManifestState, shard: u32, gone: &[u64]) {
        let masks = Arc::new(Masks::new(state, shard));
        self.change(|view| {
            view.masks = masks;
            let (old, kept): (Vec<_>, Vec<_>) = {
                let all = view.segments.values().flatten().cloned();
                all.partition(|s| gone.binary_search(&s.meta.id).is_ok())
            };
            let (mut alone, expired): (Vec<_>, Vec<_>) = {
                let all = view.kept.values().flatten().cloned();
                all.partition(|live| state.summaries.contains_key(&(live.meta.segment, live.meta.id)))
            };
            expired.iter().for_each(|live| live.mark_replaced());
            if !old.is_empty() {
                view.segments = Arc::new(by_table(kept));
            }
            for segment in &old {
                segment.mark_removed();
                for live in &segment.summaries {
                    match state.summaries.contains_key(&(live.meta.segment, live.meta.id)) {
                        true => alone.push(Arc::clone(live)),
                        false => live.mark_replaced(),
                    }
                }
            }
            view.kept = Arc::new(kept_by_table(alone));
            view.set_aside = still_named(&view.set_aside, state);
        });
    }

    /// Takes masks and segments over after a table was dropped or renamed. The memtables must be empty.
    pub fn change_tables(&self, state: &ManifestState, shard: u32) {
        let masks = Arc::new(Masks::new(state, shard));
        self.change(|view| {
            view.set_aside = still_named(&view.set_aside, state);
            view.masks = masks;
            let now = view.segments.values().flatten().filter_map(|live| match state.segments.get(&live.meta.id) {
                Some(meta) if meta.table == live.meta.table => Some(Arc::clone(live)),
                Some(meta) => Some(live.renamed(&meta.table)),
                None => {
                    live.mark_replaced();
                    None
                }
            });
            view.segments = Arc::new(by_table(now.collect()));
            let kept = view.kept.values().flatten().filter_map(|live| {
                match state.summaries.get(&(live.meta.segment, live.meta.id)) {
                    Some(meta) if meta.table == live.meta.table => Some(Arc::clone(live)),
                    Some(meta) => Some(live.renamed(&meta.table)),
                    None => {
                        live.mark_replaced();
                        None
                    }
                }
            });
            view.kept = Arc::new(kept_by_table(kept.collect()));
        });
    }

    fn change(&self, edit: impl FnOnce(&mut ShardView)) {
        let mut current = self.current.write();
        let mut view = ShardView::clone(&current);
        edit(&mut view);
        *current = Arc::new(view);
    }
}

/// The segments that were set aside as the manifest has them now: some may have gone, or have got another table.
fn still_named(set_aside: &[SetAside], state: &ManifestState) -> Arc<[SetAside]> {
    let named = set_aside.iter().filter_map(|aside| {
        let meta = state.segments.get(&aside.meta.id)?.clone();
        let place = DamagedPlace { table: Arc::clone(&meta.table), ..aside.place.clone() };
        Some(SetAside { meta, place })
    });
    named.collect()
}

/// Groups segments by table, each in log order.
fn by_table(segments: Vec<Arc<LiveSegment>>) -> SegmentMap {
    let mut tables = SegmentMap::new();
    for segment in segments {
        tables.entry(Arc::clone(&segment.meta.table)).or_default().push(segment);
    }
    for list in tables.values_mut() {
        // Outputs of one compaction share a sequence range; they are disjoint in time, so their order is free.
        list.sort_by_key(|s| (s.meta.seq_max, s.meta.id));
    }
    tables
}

/// Groups summaries by table, each in log order.
fn kept_by_table(summaries: Vec<Arc<LiveSummary>>) -> HashMap<Arc<str>, Vec<Arc<LiveSummary>>> {
    let mut tables: HashMap<Arc<str>, Vec<Arc<LiveSummary>>> = HashMap::new();
    for summary in summaries {
        tables.entry(Arc::clone(&summary.meta.table)).or_default().push(summary);
    }
    for list in tables.values_mut() {
        // Those of one segment lie together, the longest step first.
        list.sort_by_key(|s| (s.meta.seq_max, s.meta.segment, Reverse(s.meta.step)));
    }
    tables
}
