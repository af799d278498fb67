//! Owns which rows of segments are gone for readers: one shard's erasures by device, and the tables' cut-offs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::manifest::{Erasure, ManifestState, SegmentMeta};
use crate::scan::{Mask, Source};
use crate::segment::{DeviceBlocks, Segment};
use crate::shard::LiveSegment;
use crate::summary::{Step, SummaryMeta};

/// What is gone in one shard at one moment. A device without an erasure costs a look-up, and none while there is no erasure.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    devices: HashMap<Arc<str>, Vec<Erasure>>,
    cut_offs: HashMap<Arc<str>, i64>,
    /// Steps that tables keep beyond their rows.
    kept_steps: HashMap<Arc<str>, Vec<Step>>,
    highest: u64,
}

impl Masks {
    /// The masks of `shard`.
    pub fn new(state: &ManifestState, shard: u32) -> Self {
        let mut masks = Self {
            cut_offs: state.cut_offs.iter().map(|(table, time)| (table.clone(), *time)).collect(),
            kept_steps: state.retention.iter().map(|(table, kept)| (table.clone(), kept.kept_steps())).collect(),
            ..Self::default()
        };
        for erasure in state.erasures.values().filter(|erasure| erasure.shard == shard) {
            masks.highest = masks.highest.max(erasure.number);
            masks.devices.entry(Arc::clone(&erasure.device)).or_default().push(erasure.clone());
        }
        masks
    }

    /// First time that `table` still has; `i64::MIN` when nothing is cut off.
    pub fn cut_off(&self, table: &str) -> i64 {
        self.cut_offs.get(table).copied().unwrap_or(i64::MIN)
    }

    /// The steps that `table` keeps beyond its rows.
    pub fn kept_steps(&self, table: &str) -> &[Step] {
        self.kept_steps.get(table).map_or(&[], |steps| steps)
    }

    /// First time whose rows a rewrite of `table` carries on. Steps that outlive rows are made from whole files, so while a
    /// table keeps some its files stay as they are until they go whole.
    pub fn rewritten_from(&self, table: &str) -> i64 {
        if self.kept_steps(table).is_empty() { self.cut_off(table) } else { i64::MIN }
    }

    /// The erasures of the shard, in no order.
    pub fn erasures(&self) -> impl Iterator<Item = &Erasure> {
        self.devices.values().flatten()
    }

    /// The number that a segment may carry as `clean` when these masks were applied while it was written; `least` is the
    /// lowest among its inputs.
    pub fn clean(&self, least: u64) -> u64 {
        self.highest.max(least)
    }

    /// Whether a merge of this segment would leave out rows that were deleted before `created_before_ns`.
    ///
    /// # Errors
    /// A damaged index.
    pub fn has_work(&self, live: &LiveSegment, created_before_ns: i64) -> Result<bool> {
        let due = |erasure: &&Erasure| erasure.created_ns <= created_before_ns && applies(erasure, &live.meta);
        for erasure in self.erasures().filter(due) {
            if has_rows(erasure, &live.segment)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Which part of the segment's time lies before its table's cut-off.
    pub fn cut_share(&self, meta: &SegmentMeta) -> f64 {
        let cut_off = self.rewritten_from(&meta.table);
        let before = cut_off as f64 - meta.time_min as f64;
        let all = (meta.time_max as f64 - meta.time_min as f64).max(1.0);
        if cut_off <= meta.time_min { 0.0 } else { (before / all).min(1.0) }
    }

    /// The times at which rows of `device` in the segment `meta` are deleted. Says nothing of cut-offs: those hold for every
    /// source of a table alike, so scans begin there.
    pub fn mask(&self, meta: &SegmentMeta, device: &str) -> Mask {
        if self.devices.is_empty() {
            return Mask::default();
        }
        match self.devices.get(device) {
            None => Mask::default(),
            Some(erasures) => Mask::new(erasures.iter().filter(|e| applies(e, meta)).map(Erasure::span).collect()),
        }
    }

    /// The times at which rows of `device` are deleted of which a summary tells whose segment is gone.
    pub fn mask_kept(&self, meta: &SummaryMeta, device: &str) -> Mask {
        match self.devices.get(device) {
            None => Mask::default(),
            Some(erasures) => {
                let older = erasures.iter().filter(|e| applies_to_kept(e, meta));
                Mask::new(older.map(Erasure::span).collect())
            }
        }
    }

    /// The device's blocks in the segment `meta` as a source of a scan, without what was deleted.
    pub fn source(&self, meta: &SegmentMeta, device: &str, blocks: DeviceBlocks) -> Source {
        let mask = self.mask(meta, device);
        if mask.is_empty() { Source::Blocks(blocks) } else { Source::Masked(blocks, mask) }
    }

    /// Whether anything of `device` in the segment `meta` may be gone.
    pub fn may_hide(&self, meta: &SegmentMeta, device: &str) -> bool {
        self.cut_off(&meta.table) > meta.time_min || (!self.devices.is_empty() && self.devices.contains_key(device))
    }

    /// Whether readers find a row of `device` in its blocks of the segment `meta`.
    ///
    /// # Errors
    /// A damaged block, when its times must be looked at.
    pub fn leaves_rows(&self, meta: &SegmentMeta, device: &str, blocks: &DeviceBlocks) -> Result<bool> {
        let mask = self.mask(meta, device);
        let cut_off = self.rewritten_from(&meta.table);
        let there = |time: i64| time >= cut_off && !mask.covers(time);
        if mask.is_empty() {
            return Ok(blocks.time_range().1 >= cut_off);
        }
        // The first and the last time of a block are those of rows, so only a block with both ends gone must be read.
        let metas = || (0..blocks.len()).map(|at| (at, blocks.meta(at)));
        if metas().any(|(_, meta)| there(meta.time_min) || there(meta.time_max)) {
            return Ok(true);
        }
        let mut times = Vec::new();
        for (at, meta) in metas() {
            if mask.left_of(meta.time_min.max(cut_off), meta.time_max).next().is_some() {
                times.clear();
                blocks.load_times(at, &mut times)?;
                if times.iter().any(|time| there(*time)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Whether the segment may have rows of the erasure, as far as the manifest tells.
pub(super) fn applies(erasure: &Erasure, meta: &SegmentMeta) -> bool {
    let (first, last) = erasure.span();
    erasure.shard == meta.shard
        && meta.clean < erasure.number
        && meta.seq_max < erasure.before_seq
        && meta.time_min <= last
        && meta.time_max >= first
        && erasure.covers_table(&meta.table)
}

/// The same of a summary that stands for a segment that is gone.
pub(super) fn applies_to_kept(erasure: &Erasure, meta: &SummaryMeta) -> bool {
    let (first, last) = erasure.span();
    // A step tells of more time than that between its rows.
    let reach = meta.step.width_ns();
    erasure.shard == meta.shard
        && meta.seq_max < erasure.before_seq
        && meta.time_min.saturating_sub(reach) <= last
        && meta.time_max.saturating_add(reach) >= first
        && erasure.covers_table(&meta.table)
}

/// Whether the segment has blocks of the device in the time of the erasure; says nothing of whether it applies.
pub(super) fn has_rows(erasure: &Erasure, segment: &Arc<Segment>) -> Result<bool> {
    let (first, last) = erasure.span();
    let blocks = segment.find(&erasure.device)?;
    Ok(blocks.is_some_and(|blocks| !blocks.overlapping(first, last).is_empty()))
}
