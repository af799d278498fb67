//! Owns the decision where stored steps stand for a device's rows; does not read aggregates.
//!
//! A step may stand for rows when exactly one source has rows in it, that source has the step, and the caller can use
//! it. What remains is planned from rows.

use std::sync::Arc;

use super::reader::SummaryEntry;
use super::types::{Step, StepPart, Stretch};
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::scan::{BlockCache, Mask, Source, plan};
use crate::segment::{DeviceBlocks, Segment};
use crate::types::FieldDef;

/// Rows in memory further apart than this do not keep the steps between them from use.
const APART_NS: i64 = Step::Minute.width_ns();

/// Where rows of one device come from, in log order.
pub(crate) enum StepSource {
    /// What is known only by its rows.
    Rows(Source),
    /// A segment with steps of the device, or only its steps.
    Steps {
        /// Those that are stored, longest first; at least one.
        entries: Vec<SummaryEntry>,
        /// Where the rows are. `None`: they are gone.
        segment: Option<Arc<Segment>>,
        /// Times at which rows are deleted of which the steps still tell.
        mask: Mask,
    },
}

/// What is asked of one device.
pub(crate) struct StepQuestion<'a> {
    pub device: &'a str,
    /// First and last time, both inclusive.
    pub first: i64,
    pub last: i64,
    pub fields: &'a Arc<[FieldDef]>,
    /// Longest first.
    pub steps: &'a [Step],
    pub usable: &'a dyn Fn(Step, i64) -> bool,
    /// The first time whose rows retention has left, and the steps that it keeps of those before.
    pub cut_off: i64,
    pub kept: &'a [Step],
    /// Keeps decoded blocks between queries.
    pub cache: Option<&'a Arc<BlockCache>>,
}

/// A time during which a source may have rows, both ends inclusive.
#[derive(Clone, Copy)]
struct Interval {
    first: i64,
    last: i64,
    source: usize,
    /// The last of the ends of this one and all before it.
    until: i64,
}

/// A run of steps of one source that is used.
struct Run {
    first: i64,
    last: i64,
    part: StepPart,
}

/// Cuts the answer into stretches that are disjoint and in time order.
///
/// # Errors
/// A damaged segment index; rows that are asked for and gone while steps of them are left.
pub(crate) fn plan_steps(sources: &[StepSource], question: &StepQuestion<'_>) -> Result<Vec<Stretch>> {
    if question.first > question.last {
        return Ok(Vec::new());
    }
    let intervals = intervals(sources, question);
    let mut found: Vec<Option<DeviceBlocks>> = sources.iter().map(|_| None).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        if let StepSource::Steps { entries, segment, mask } = source {
            let mut own = runs_of(at, entries, mask, &intervals, question);
            let gaps = gaps(entries, &own, question);
            let gone_before = if segment.is_some() { question.cut_off } else { i64::MAX };
            check_gone(entries, mask, &gaps, gone_before, question)?;
            if let Some(segment) = segment
                && !pays(segment, &gaps, question, &mut found[at])?
            {
                own.retain(|run| run.last < question.cut_off);
            }
            runs.extend(own);
        }
    }
    runs.sort_unstable_by_key(|run| run.first);
    let mut out = Vec::with_capacity(runs.len() + 2);
    let mut next = Some(question.first);
    for run in runs {
        if let Some(first) = next.filter(|first| *first < run.first) {
            rows_between(sources, &intervals, question, &mut found, (first, run.first - 1), &mut out)?;
        }
        next = run.last.checked_add(1);
        out.push(Stretch::Steps(run.part));
    }
    if let Some(first) = next.filter(|first| *first <= question.last) {
        rows_between(sources, &intervals, question, &mut found, (first, question.last), &mut out)?;
    }
    Ok(out)
}

/// The times at which sources may have rows within the range, in order of their beginning.
fn intervals(sources: &[StepSource], question: &StepQuestion<'_>) -> Vec<Interval> {
    let mut out = Vec::new();
    for (source, held) in sources.iter().enumerate() {
        match held {
            StepSource::Rows(Source::Blocks(blocks) | Source::Masked(blocks, _)) => {
                out.extend(blocks.overlapping(question.first, question.last).map(|at| {
                    let meta = blocks.meta(at);
                    Interval::new(meta.time_min, meta.time_max, source)
                }));
            }
            StepSource::Rows(Source::Rows(rows)) => {
                let mut from = 0;
                for at in 1..=rows.times.len() {
                    if at == rows.times.len() || rows.times[at].saturating_sub(rows.times[at - 1]) > APART_NS {
                        out.push(Interval::new(rows.times[from], rows.times[at - 1], source));
                        from = at;
                    }
                }
            }
            StepSource::Steps { entries, .. } => {
                let (first, last) = extent(entries);
                out.push(Interval::new(first, last, source));
            }
        }
    }
    out.retain(|i| i.first <= question.last && i.last >= question.first);
    out.sort_unstable_by_key(|i| i.first);
    let mut until = i64::MIN;
    for interval in &mut out {
        until = until.max(interval.last);
        interval.until = until;
    }
    out
}

impl Interval {
    fn new(first: i64, last: i64, source: usize) -> Self {
        Self { first, last, source, until: last }
    }
}

/// First and last time of the rows of which steps tell.
fn extent(entries: &[SummaryEntry]) -> (i64, i64) {
    entries[0].time_range()
}

/// The runs of steps of source `at` that may stand for its rows, in time order.
fn runs_of(
    at: usize,
    entries: &[SummaryEntry],
    mask: &Mask,
    intervals: &[Interval],
    question: &StepQuestion<'_>,
) -> Vec<Run> {
    let (own_first, own_last) = extent(entries);
    // Times at which no other source has rows, as far as its own reach: a table of years has many sources.
    let mut free: Vec<(i64, i64)> = Vec::new();
    let near = intervals.partition_point(|i| i.until < own_first);
    let mut next = Some(match near.checked_sub(1) {
        Some(before) => question.first.max(intervals[before].until + 1),
        None => question.first,
    });
    for other in intervals[near..].iter().filter(|i| i.source != at && !planted::is(Bug::StaleSummary)) {
        if let Some(first) = next.filter(|first| *first < other.first) {
            free.push((first, other.first - 1));
        }
        next = match (next, other.last.checked_add(1)) {
            (Some(next), Some(after)) => Some(next.max(after)),
            _ => None,
        };
        if other.first > own_last {
            break;
        }
    }
    free.extend(next.filter(|first| *first <= question.last).map(|first| (first, question.last)));
    free.retain(|(first, last)| *last >= own_first && *first <= own_last);

    let mut runs = Vec::new();
    for entry in entries {
        let step = entry.summary().step();
        if !question.steps.contains(&step) {
            continue;
        }
        let usable = |number: i64| {
            let (first, last) = (step.start_of(number), step.last_of(number));
            (first >= question.cut_off || question.kept.contains(&step))
                && !mask.touches(first, last)
                && (question.usable)(step, first)
        };
        let (number_first, number_last) = (step.number(own_first), step.number(own_last));
        let mut left = Vec::new();
        for (first, last) in free {
            let (begins, ends) = (step.number(first), step.number(last));
            // Only steps that lie wholly in between.
            let mut number = (begins + i64::from(step.start_of(begins) < first)).max(number_first);
            let high = (ends - i64::from(step.last_of(ends) > last)).min(number_last);
            let mut rest = Some(first);
            while number <= high {
                if !usable(number) {
                    number += 1;
                    continue;
                }
                let mut end = number + 1;
                while end <= high && usable(end) {
                    end += 1;
                }
                let run = (step.start_of(number), step.last_of(end - 1));
                left.extend(rest.filter(|rest| *rest < run.0).map(|rest| (rest, run.0 - 1)));
                runs.push(Run { first: run.0, last: run.1, part: StepPart::new(entry, number..end, question.fields) });
                rest = run.1.checked_add(1);
                number = end;
            }
            left.extend(rest.filter(|rest| *rest <= last).map(|rest| (rest, last)));
        }
        free = left;
    }
    runs.sort_unstable_by_key(|run| run.first);
    runs
}

/// The times between runs at which the source may have rows that are asked for.
fn gaps(entries: &[SummaryEntry], runs: &[Run], question: &StepQuestion<'_>) -> Vec<(i64, i64)> {
    let (own_first, own_last) = extent(entries);
    let (first, last) = (own_first.max(question.first), own_last.min(question.last));
    let mut gaps = Vec::new();
    let mut next = Some(first);
    for run in runs {
        gaps.extend(next.filter(|from| *from < run.first).map(|from| (from, run.first - 1)));
        next = run.last.checked_add(1);
    }
    gaps.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
    gaps
}

/// Refuses to answer without rows that are gone: in a gap between steps that tell of them. Steps that a delete touches are
/// no longer whole, and what is left of them cannot be told: they are gone with it.
fn check_gone(
    entries: &[SummaryEntry],
    mask: &Mask,
    gaps: &[(i64, i64)],
    gone_before: i64,
    question: &StepQuestion<'_>,
) -> Result<()> {
    let mut kept = entries.iter().rev().filter(|entry| question.kept.contains(&entry.summary().step()));
    let gaps = gaps.iter().filter(|(from, _)| *from < gone_before);
    let Some(finest) = kept.next() else { return Ok(()) };
    let step = finest.summary().step();
    let mut read = None;
    for (from, to) in gaps {
        let to = (*to).min(gone_before.saturating_sub(1));
        let entry = match &mut read {
            Some(entry) => entry,
            none => none.insert(finest.decode()?),
        };
        for at in entry.find(step.number(*from)..step.number(to).saturating_add(1)) {
            let (first, last) = (entry.first_row[at], entry.last_row[at]);
            let hidden = mask.touches(step.start_of(entry.numbers[at]), step.last_of(entry.numbers[at]));
            if first <= to && last >= *from && !hidden {
                return Err(Error::RowsGone {
                    table: finest.summary().schema().name.to_string(),
                    device: question.device.to_owned(),
                    from_ns: first.max(*from),
                    cut_off_ns: question.cut_off,
                    step,
                });
            }
        }
    }
    Ok(())
}

/// Whether using steps is worth what lies between them: that is read from rows, and decoding a block once for each gap
/// in it costs more than decoding it once.
fn pays(
    segment: &Arc<Segment>,
    gaps: &[(i64, i64)],
    question: &StepQuestion<'_>,
    found: &mut Option<DeviceBlocks>,
) -> Result<bool> {
    let alive = gaps.iter().filter(|(_, to)| *to >= question.cut_off);
    if alive.clone().next().is_none() {
        return Ok(true);
    }
    let Some(blocks) = blocks_of(segment, question, found)? else { return Ok(true) };
    let decoded: usize = alive.map(|(from, to)| blocks.overlapping((*from).max(question.cut_off), *to).len()).sum();
    let asked = blocks.overlapping(question.first.max(question.cut_off), question.last).len();
    Ok(decoded < asked || decoded == 0)
}

fn blocks_of(
    segment: &Arc<Segment>,
    question: &StepQuestion<'_>,
    found: &mut Option<DeviceBlocks>,
) -> Result<Option<DeviceBlocks>> {
    if found.is_none() {
        let blocks = segment.find(question.device)?;
        *found = match question.cache {
            Some(cache) => blocks.map(|blocks| blocks.cached(cache)),
            None => blocks,
        };
    }
    Ok(found.clone())
}

/// Plans a stretch in which no step is used from the rows of every source that has some there.
fn rows_between(
    sources: &[StepSource],
    intervals: &[Interval],
    question: &StepQuestion<'_>,
    found: &mut [Option<DeviceBlocks>],
    (first, last): (i64, i64),
    out: &mut Vec<Stretch>,
) -> Result<()> {
    let first = first.max(question.cut_off);
    let mut here: Vec<usize> =
        intervals.iter().take_while(|i| i.first <= last).filter(|i| i.last >= first).map(|i| i.source).collect();
    here.sort_unstable();
    here.dedup();
    let mut chosen = Vec::with_capacity(here.len());
    for at in here {
        match &sources[at] {
            StepSource::Rows(source) => chosen.push(source.clone()),
            StepSource::Steps { segment: Some(segment), mask, .. } => {
                let blocks = blocks_of(segment, question, &mut found[at])?;
                chosen.extend(blocks.map(|blocks| match mask.is_empty() {
                    true => Source::Blocks(blocks),
                    false => Source::Masked(blocks, mask.clone()),
                }));
            }
            StepSource::Steps { segment: None, .. } => {}
        }
    }
    if !chosen.is_empty() {
        let parts = plan(chosen, question.fields, first, last.saturating_add(1));
        out.extend(parts.into_iter().map(Stretch::Rows));
    }
    Ok(())
}
