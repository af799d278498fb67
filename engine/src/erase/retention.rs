//! Owns retention: where a table's rows are cut off, which files go with that; does not decide when it is looked at.

use std::sync::Arc;

use tidewell_codec::{Batch, Column, DeviceRuns};

use super::Masks;
use crate::engine::Engine;
use crate::error::Result;
use crate::limits::DAY_NS;
use crate::manifest::{Edit, Manifest, ManifestState, Retention, SegmentMeta};
use crate::planted::{self, Bug};
use crate::shard::{ShardView, SharedView};
use crate::summary::{Step, SummaryMeta};

impl Retention {
    /// First time whose steps are kept at `now_ns`; `None` when they go with their rows.
    pub fn step_from(&self, step: Step, now_ns: i64) -> Option<i64> {
        let kept_ns = self.kept(step)?;
        let oldest = now_ns.saturating_sub(i64::try_from(kept_ns).unwrap_or(i64::MAX));
        Some(oldest.div_euclid(DAY_NS).saturating_mul(DAY_NS))
    }

    /// First time whose rows are kept at `now_ns`: the start of a day, so that whole files go and a day is there whole or not
    /// at all. `i64::MIN` when rows are kept for ever.
    pub fn raw_from(&self, now_ns: i64) -> i64 {
        let Some(raw_ns) = self.raw_ns else { return i64::MIN };
        let oldest = now_ns.saturating_sub(i64::try_from(raw_ns).unwrap_or(i64::MAX));
        oldest.div_euclid(DAY_NS).saturating_mul(DAY_NS)
    }
}

impl Engine {
    /// Sets for how long `table` keeps its rows. A shorter time takes effect at once.
    ///
    /// # Errors
    /// There is no such table, or a failed write.
    pub fn set_retention(&self, table: &str, retention: Retention) -> Result<()> {
        self.require_table(table)?;
        let cut_off = {
            let mut manifest = self.manifest.lock();
            manifest.append(&[Edit::RetentionSet { table: table.into(), retention }])?;
            for (number, shard) in (0..).zip(&self.shards) {
                shard.view.set_masks(manifest.state(), number);
            }
            manifest.state().cut_offs.contains_key(table)
        };
        if cut_off {
            // A cut-off that may go back must not bring back what it hid: flushes leave that out.
            self.flush()?;
        }
        self.keep()
    }

    /// Carries out retention as of now. The engine does so by itself every few seconds, unless compaction is off.
    ///
    /// # Errors
    /// A failed write; it is tried again the next time.
    pub fn keep(&self) -> Result<()> {
        self.keeper.keep()
    }
}

/// Moves every table's cut-off to where its policy has it at `now_ns`, and lets go of the segments that lie before it: one
/// edit. A cut-off goes back, after a longer retention was set, only when nothing before it is stored any more: what
/// was gone for readers stays gone. Returns whether anything changed.
pub(super) fn advance(manifest: &mut Manifest, views: &[Arc<SharedView>], now_ns: i64) -> Result<bool> {
    let state = manifest.state();
    let mut edits = Vec::new();
    let mut gone = Vec::new();
    for table in state.retention.keys().chain(state.cut_offs.keys()) {
        if edits.iter().any(|edit| matches!(edit, Edit::CutOff { table: done, .. } if done == table)) {
            continue;
        }
        let current = state.cut_offs.get(table).copied().unwrap_or(i64::MIN);
        let wanted = state.retention.get(table).map_or(i64::MIN, |retention| retention.raw_from(now_ns));
        let cut_off = if wanted >= current || !stores_before(state, table, current) { wanted } else { current };
        if cut_off != current {
            edits.push(Edit::CutOff { table: Arc::clone(table), raw_before_ns: cut_off });
        }
        let expired = state.segments.values().filter(|meta| {
            let last = if planted::is(Bug::RetentionTooMuch) { meta.time_min } else { meta.time_max };
            meta.table == *table && last < cut_off
        });
        let retention = state.retention.get(table).copied().unwrap_or_default();
        // Rows that nothing tells of yet wait for their steps, hidden.
        let told = |meta: &&SegmentMeta| is_told(&views[meta.shard as usize].load(), meta, &retention, now_ns);
        gone.extend(expired.filter(told).map(|meta| meta.id));
    }
    gone.sort_unstable();
    gone.dedup();
    for &id in &gone {
        edits.push(Edit::SegmentRemoved { id });
        let stays = state.summaries_of(id).filter(|meta| is_step_kept(state, meta, now_ns));
        edits.extend(stays.cloned().map(Edit::SummaryAdded));
    }
    let alone = state.summaries.values().filter(|meta| !state.segments.contains_key(&meta.segment));
    for meta in alone.filter(|meta| !is_step_kept(state, meta, now_ns)) {
        edits.push(Edit::SummaryRemoved { segment: meta.segment, id: meta.id });
    }
    if edits.is_empty() {
        return Ok(false);
    }
    manifest.append(&edits)?;
    for (shard, view) in (0..).zip(views) {
        // Both at once: between them a reader would see half of what lies before the cut-off.
        view.cut_off(manifest.state(), shard, &gone);
    }
    Ok(true)
}

/// Whether a summary may outlive its segment at `now_ns`.
fn is_step_kept(state: &ManifestState, meta: &SummaryMeta, now_ns: i64) -> bool {
    let from = state.retention.get(&meta.table).and_then(|retention| retention.step_from(meta.step, now_ns));
    from.is_some_and(|from| meta.time_max >= from)
}

/// Whether summaries tell of everything in the segment that is to outlive it.
fn is_told(view: &ShardView, meta: &SegmentMeta, retention: &Retention, now_ns: i64) -> bool {
    let kept =
        Step::ALL.into_iter().filter(|step| retention.step_from(*step, now_ns).is_some_and(|t| meta.time_max >= t));
    let live = view.segments.get(&meta.table).into_iter().flatten().find(|live| live.meta.id == meta.id);
    let kept: Vec<Step> = kept.collect();
    kept.is_empty() || live.is_some_and(|live| live.lacks_steps(&kept).is_empty())
}

fn stores_before(state: &ManifestState, table: &str, time: i64) -> bool {
    state.segments.values().any(|meta| &*meta.table == table && meta.time_min < time)
        || state.summaries.values().any(|meta| &*meta.table == table && meta.time_min < time)
}

impl Masks {
    /// The batch without rows that its table would not keep, and their number.
    pub fn without_expired(&self, batch: Batch) -> (Batch, usize) {
        let cut_off = self.cut_off(&batch.table);
        if cut_off == i64::MIN || batch.times.iter().all(|time| *time >= cut_off) {
            return (batch, 0);
        }
        let before = batch.times.len();
        let kept: Vec<usize> = (0..before).filter(|&row| batch.times[row] >= cut_off).collect();
        let mut devices = DeviceRuns::default();
        for (device, range) in batch.devices.iter() {
            let rows = kept.partition_point(|row| *row < range.end) - kept.partition_point(|row| *row < range.start);
            if rows > 0 {
                devices.push(device, rows as u32);
            }
        }
        let mut fields = batch.fields;
        for field in &mut fields {
            let mut column = Column::new(field.column.field_type());
            kept.iter().for_each(|&row| column.extend_from(&field.column, row..row + 1));
            column.normalise();
            field.column = column;
        }
        let times: Vec<i64> = kept.iter().map(|&row| batch.times[row]).collect();
        let expired = before - times.len();
        (Batch { devices, times, fields, ..batch }, expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_from_the_start_of_a_day() {
        let days = |n: u64| Retention { raw_ns: Some(n * DAY_NS as u64), ..Retention::default() };
        assert_eq!(days(1).raw_from(10 * DAY_NS), 9 * DAY_NS);
        assert_eq!(days(1).raw_from(10 * DAY_NS - 1), 8 * DAY_NS);
        assert_eq!(days(30).raw_from(0), -30 * DAY_NS);
        assert_eq!(Retention::default().raw_from(0), i64::MIN);
        assert!(Retention { raw_ns: Some(u64::MAX), ..Retention::default() }.raw_from(i64::MIN + 5) < 0);
    }
}
