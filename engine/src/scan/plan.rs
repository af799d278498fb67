//! Owns the decision which blocks and rows of a device must be merged; decodes nothing but, seldom, times.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::mask::Mask;
use super::narrow::BlockSource;
use super::part::{Data, Part, Piece};
use crate::segment::DeviceBlocks;
use crate::types::{FieldDef, Rows};

/// A part that must be merged is cut at the edge of a block once it has so many rows, so that loading it takes bounded
/// memory: this, and one block for each source that reaches across the cut.
const MERGE_ROWS: usize = 32_768;
/// Rows in memory are handed on in parts of so many.
const MEMORY_ROWS: usize = 16_384;

/// Where rows of one device come from. Sources are listed in log order: later ones win.
#[derive(Clone)]
pub enum Source {
    /// The device's blocks in one segment.
    Blocks(DeviceBlocks),
    /// The same, without the rows at some times.
    Masked(DeviceBlocks, Mask),
    /// Rows in memory, times strictly rising, one column for each field of the scan, in its order.
    Rows(Arc<Rows>),
}

impl Source {
    fn blocks(&self) -> Option<&DeviceBlocks> {
        match self {
            Self::Blocks(blocks) | Self::Masked(blocks, _) => Some(blocks),
            Self::Rows(_) => None,
        }
    }
}

/// Piece of one source, not divided further; enclosed by times `first..=last`.
#[derive(Clone, Copy)]
struct Unit {
    source: usize,
    first: i64,
    last: i64,
    rows: usize,
    /// The block of a segment, or the first row of a run in memory.
    at: usize,
    /// A block that no edge of the range, of a mask or of another unit cuts.
    whole: bool,
}

/// Cuts the answer for `start_ns..end_ns` into parts that are disjoint in time and in time order.
///
/// A block that nothing else overlaps is a part of its own and stays encoded; overlapping ones are merged when their part
/// is loaded. `end_ns` is exclusive, but `i64::MAX` stands for "no end" and includes a row at that very time.
pub fn plan(sources: Vec<Source>, fields: &Arc<[FieldDef]>, start_ns: i64, end_ns: i64) -> Vec<Part> {
    let last_ns = if end_ns == i64::MAX { i64::MAX } else { end_ns.saturating_sub(1) };
    if end_ns == i64::MIN || start_ns > last_ns {
        return Vec::new();
    }
    let mut units = block_units(&sources, start_ns, last_ns);
    sort(&mut units);
    if split_wide_blocks(&sources, &mut units) {
        sort(&mut units);
    }
    let edges = clusters(&units).map(|cluster| span(&units[cluster])).collect::<Vec<_>>();
    if memory_units(&sources, &edges, start_ns, last_ns, &mut units) {
        sort(&mut units);
    }

    let maps: Vec<Option<Arc<[Option<usize>]>>> =
        sources.iter().map(|source| source.blocks().map(|blocks| field_map(blocks, fields))).collect();
    let mut parts = Vec::new();
    for cluster in clusters(&units) {
        for (first, last) in cuts(&units[cluster.clone()]) {
            let mut inside: Vec<&Unit> =
                units[cluster.clone()].iter().filter(|u| u.first <= last && u.last >= first).collect();
            // Log order; pieces of one source are disjoint, their order among themselves does not matter.
            inside.sort_by_key(|unit| unit.source);
            let pieces: Vec<Piece> = inside.iter().map(|unit| piece(unit, &sources, &maps)).collect();
            let whole = matches!(&inside[..], [unit] if unit.whole);
            parts.push(Part { first, last, fields: fields.clone(), pieces, whole, held: None, without: None });
        }
    }
    parts
}

/// By first time; of two that begin together, the longer one first.
fn sort(units: &mut [Unit]) {
    units.sort_by_key(|unit| (unit.first, Reverse(unit.last)));
}

fn block_units(sources: &[Source], start: i64, end: i64) -> Vec<Unit> {
    let mut units = Vec::new();
    for (source, from) in sources.iter().enumerate() {
        let Some(blocks) = from.blocks() else { continue };
        for at in blocks.overlapping(start, end) {
            let meta = blocks.meta(at);
            let whole = meta.time_min >= start && meta.time_max <= end;
            let (first, last) = (meta.time_min.max(start), meta.time_max.min(end));
            let unit = Unit { source, first, last, rows: meta.rows, at, whole };
            match from {
                // What a mask leaves of a block is told apart from its neighbours by time alone: zone maps do not hold.
                Source::Masked(_, mask) => units.extend(mask.left_of(first, last).map(|(from, to)| {
                    let whole = whole && (from, to) == (first, last);
                    Unit { first: from, last: to, whole, ..unit }
                })),
                _ => units.push(unit),
            }
        }
    }
    units
}

/// A few late rows can make one block reach over a whole day of others. Its times are decoded, and when it has no row in
/// the blocks it reaches over, it is divided there, so that those blocks need not be merged. Pays when they have
/// at least as many rows as the wide block. Returns whether anything was divided.
fn split_wide_blocks(sources: &[Source], units: &mut Vec<Unit>) -> bool {
    let count = units.len();
    let mut divided = false;
    for wide in 0..count {
        let unit = units[wide];
        let contained: Vec<Unit> = units[wide + 1..count]
            .iter()
            .take_while(|other| other.first <= unit.last)
            .filter(|other| other.last <= unit.last)
            .copied()
            .collect();
        // One block may just hold the same rows again, as when a device sends twice; those must be merged anyway.
        if contained.len() < 2 || contained.iter().map(|other| other.rows).sum::<usize>() < unit.rows {
            continue;
        }
        let Some(blocks) = sources[unit.source].blocks() else { continue };
        let mut times = Vec::new();
        // Damage is left for the load to report, where the caller learns what it hits.
        if blocks.load_times(unit.at, &mut times).is_err() {
            continue;
        }
        times.retain(|t| (unit.first..=unit.last).contains(t));
        let before = |t: i64| times.partition_point(|own| *own < t);
        let mut freed = 0;
        let mut borders = Vec::new();
        for other in &contained {
            let at = before(other.first);
            // Strictly inside a gap between two rows of the wide block.
            if at > 0 && at < times.len() && times[at] > other.last {
                freed += other.rows;
                borders.push(at);
            }
        }
        if freed < unit.rows {
            continue;
        }
        borders.dedup();
        borders.push(times.len());
        let mut start = 0;
        let runs: Vec<Unit> = borders
            .iter()
            .map(|&end| {
                let (first, last) = (times[start], times[end - 1]);
                let run = Unit { first, last, rows: end - start, whole: false, ..unit };
                start = end;
                run
            })
            .collect();
        units[wide] = runs[0];
        units.extend_from_slice(&runs[1..]);
        divided = true;
    }
    divided
}

/// Adds the rows in memory, divided at `edges` (the clusters of blocks, in order), so that a row that is late touches
/// only the blocks at its time. Returns whether any was added.
fn memory_units(sources: &[Source], edges: &[(i64, i64)], start: i64, end: i64, units: &mut Vec<Unit>) -> bool {
    let before = units.len();
    for (source, rows) in sources.iter().enumerate() {
        let Source::Rows(rows) = rows else { continue };
        let times = &rows.times;
        let mut at = times.partition_point(|t| *t < start);
        let end = times.partition_point(|t| *t <= end);
        while at < end {
            // The first cluster that does not lie before this row either holds it or bounds its run.
            let next = edges.get(edges.partition_point(|(_, last)| *last < times[at]));
            let run_end = match next {
                Some((first, last)) if *first <= times[at] => times[at..end].partition_point(|t| t <= last),
                Some((first, _)) => times[at..end].partition_point(|t| t < first),
                None => end - at,
            };
            let run_end = at + run_end.min(MEMORY_ROWS);
            let (first, last) = (times[at], times[run_end - 1]);
            units.push(Unit { source, first, last, rows: run_end - at, at, whole: false });
            at = run_end;
        }
    }
    units.len() > before
}

/// Runs of sorted units that overlap, directly or through others.
fn clusters(units: &[Unit]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut last = units.get(start)?.last;
        let mut end = start + 1;
        while let Some(unit) = units.get(end).filter(|unit| unit.first <= last) {
            last = last.max(unit.last);
            end += 1;
        }
        let cluster = start..end;
        start = end;
        Some(cluster)
    })
}

fn span(cluster: &[Unit]) -> (i64, i64) {
    (cluster[0].first, cluster.iter().map(|unit| unit.last).max().unwrap_or(cluster[0].last))
}

/// The time ranges of a cluster's parts: one, or more when it has many rows.
fn cuts(cluster: &[Unit]) -> Vec<(i64, i64)> {
    let (mut first, last) = span(cluster);
    let mut out = Vec::new();
    let mut rows = 0;
    for unit in cluster {
        if rows >= MERGE_ROWS && unit.first > first {
            out.push((first, unit.first - 1));
            first = unit.first;
            rows = 0;
        }
        rows += unit.rows;
    }
    out.push((first, last));
    out
}

/// For each field of the scan its index in the segment's schema.
fn field_map(blocks: &DeviceBlocks, fields: &[FieldDef]) -> Arc<[Option<usize>]> {
    let schema = blocks.segment().schema();
    fields.iter().map(|field| schema.field(&field.name).map(|(at, _)| at)).collect()
}

fn piece(unit: &Unit, sources: &[Source], maps: &[Option<Arc<[Option<usize>]>>]) -> Piece {
    let data = match (&sources[unit.source], &maps[unit.source]) {
        (Source::Blocks(blocks) | Source::Masked(blocks, _), Some(map)) => {
            Data::Block(BlockSource::new(blocks.clone(), unit.at, map.clone()))
        }
        (Source::Rows(rows), _) => Data::Rows { rows: rows.clone(), range: unit.at..unit.at + unit.rows },
        (Source::Blocks(_) | Source::Masked(..), None) => unreachable!("every source of blocks has a map of fields"),
    };
    Piece { first: unit.first, last: unit.last, rows_max: unit.rows, data }
}
