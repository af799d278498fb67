//! Owns completing summaries that outlive rows: steps that a table came to keep later, deletes in steps whose rows are gone.

use std::sync::Arc;

use tidewell_codec::Tier;

use super::compact::Compactor;
use crate::erase::Masks;
use crate::error::Result;
use crate::manifest::Edit;
use crate::shard::LiveSegment;
use crate::summary::{LiveSummary, Step, SummaryMeta, build_for_segment, rewrite_without, summary_name};

impl Compactor {
    /// Makes the steps of one segment that its table keeps beyond its rows and that it does not have of every device, or
    /// carries out deletes in one summary whose rows are gone. False when there is no such thing.
    ///
    /// # Errors
    /// A failed read or write; everything stays as it was.
    pub(super) fn complete_steps(&self, now_ns: i64) -> Result<bool> {
        let view = self.view.load();
        // What was written in haste is merged again soon, unless its rows are about to go.
        let settled = |live: &&Arc<LiveSegment>| {
            let ends = live.meta.time_max < view.masks.cut_off(&live.meta.table);
            live.meta.level > 0 && (live.segment.tier() == Tier::Cold || ends)
        };
        for live in view.segments.values().flatten().filter(settled) {
            let lacking = live.lacks_steps(view.masks.kept_steps(&live.meta.table));
            if !lacking.is_empty() {
                return self.make_steps(live, &lacking, now_ns).map(|()| true);
            }
        }
        for live in view.kept.values().flatten() {
            let mut hides = view.masks.erasures().map(|erasure| live.has_steps(erasure));
            if hides.try_fold(false, |any, one| one.map(|one| any || one))? {
                return self.rewrite_kept(live, &view.masks, now_ns).map(|()| true);
            }
        }
        Ok(false)
    }

    fn make_steps(&self, live: &LiveSegment, steps: &[Step], now_ns: i64) -> Result<()> {
        let made = build_for_segment(&self.storage, &live.segment, steps, &self.numbers, now_ns)?;
        let (new, other): (Vec<_>, Vec<_>) = made.into_iter().partition(|meta| steps.contains(&meta.step));
        let remove = |meta: &SummaryMeta| {
            // What stays is in no manifest; the next open removes it.
            let _ = self.storage.remove(&summary_name(meta.id));
        };
        other.iter().for_each(remove);
        // A file of a table that was renamed keeps the name that the table had.
        let new: Vec<_> = new.into_iter().map(|meta| SummaryMeta { table: live.meta.table.clone(), ..meta }).collect();
        let opened: Vec<_> =
            new.iter().map(|meta| LiveSummary::open(&self.storage, meta.clone())).collect::<Result<_>>()?;
        let mut manifest = self.manifest.lock();
        if manifest.state().segments.get(&live.meta.id) != Some(&live.meta) {
            new.iter().for_each(remove);
            return Ok(());
        }
        let old = manifest.state().summaries_of(live.meta.id).filter(|meta| steps.contains(&meta.step));
        let old = old.map(|meta| Edit::SummaryRemoved { segment: meta.segment, id: meta.id });
        let edits: Vec<Edit> = old.chain(new.into_iter().map(Edit::SummaryAdded)).collect();
        manifest.append(&edits)?;
        self.view.set_summaries(live.meta.id, opened);
        Ok(())
    }

    fn rewrite_kept(&self, live: &LiveSummary, masks: &Masks, now_ns: i64) -> Result<()> {
        let new = rewrite_without(&self.storage, live, masks, &self.numbers, now_ns)?;
        let opened: Vec<_> =
            new.iter().map(|meta| LiveSummary::open(&self.storage, meta.clone())).collect::<Result<_>>()?;
        let mut manifest = self.manifest.lock();
        let key = (live.meta.segment, live.meta.id);
        if manifest.state().summaries.get(&key) != Some(&live.meta) {
            if let Some(meta) = &new {
                let _ = self.storage.remove(&summary_name(meta.id));
            }
            return Ok(());
        }
        let old = Edit::SummaryRemoved { segment: live.meta.segment, id: live.meta.id };
        let edits: Vec<Edit> = std::iter::once(old).chain(new.map(Edit::SummaryAdded)).collect();
        manifest.append(&edits)?;
        self.view.replace_kept(&[live.meta.id], opened);
        Ok(())
    }
}
