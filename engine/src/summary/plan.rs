//! Owns the decision where stored steps stand for a device's rows; does not read aggregates.
//!
//! A step may stand for rows when exactly one source has rows in it, that source has the step, and the caller can use
//! it. What remains is planned from rows.

use std::sync::Arc;

use super::reader::SummaryEntry;
use super::types::{Step, StepPart, Stretch};
use crate::error::{Error, Result};
use crate::scan::{Source, plan};
use crate::segment::{DeviceBlocks, Segment};
use crate::types::{FieldDef, Rows};

/// Rows in memory further apart than this do not keep the steps between them from use.
const APART_NS: i64 = Step::Minute.width_ns();

/// Where rows of one device come from, in log order.
pub(crate) enum StepSource {
    /// The device's blocks in one segment that has no steps of it.
    Blocks(DeviceBlocks),
    /// Rows in memory, times strictly rising, one column for each field of the scan.
    Rows(Arc<Rows>),
    /// A segment with steps of the device, or only its steps.
    Steps {
        /// One for each length that the caller can use and that is stored, longest first; at least one.
        entries: Vec<SummaryEntry>,
        /// Where the rows are. `None`: they are gone.
        rows: Option<Arc<Segment>>,
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
    /// Whether something hides rows of a source at times of a range: its steps tell of rows that are not in the answer.
    pub hidden: &'a dyn Fn(usize, i64, i64) -> bool,
}

/// A time during which a source may have rows, both ends inclusive.
#[derive(Clone, Copy)]
struct Interval {
    first: i64,
    last: i64,
    source: usize,
}

/// A run of steps of one source that is used.
struct Run {
    first: i64,
    last: i64,
    part: StepPart,
}

/// Cuts the answer into stretches that are disjoint and in time order. `rows_of` plans `[start, end]` (both inclusive)
/// from rows of the given sources.
pub(crate) fn plan_steps(
    sources: &[StepSource],
    question: &StepQuestion<'_>,
    rows_of: &mut dyn FnMut(Vec<(usize, Source)>, i64, i64) -> Vec<crate::scan::Part>,
) -> Result<Vec<Stretch>> {
    if question.first > question.last {
        return Ok(Vec::new());
    }
    let intervals = intervals(sources, question);
    let mut found: Vec<Option<DeviceBlocks>> = sources.iter().map(|_| None).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        if let StepSource::Steps { entries, rows } = source {
            let own = runs_of(at, entries, &intervals, question);
            if keeps(at, rows.as_ref(), entries, &own, question, &mut found)? {
                runs.extend(own);
            }
        }
    }
    runs.sort_unstable_by_key(|run| run.first);
    let mut out = Vec::with_capacity(runs.len() + 2);
    let mut next = Some(question.first);
    for run in runs {
        if let Some(first) = next.filter(|first| *first < run.first) {
            rows_between(sources, &intervals, question, &mut found, (first, run.first - 1), rows_of, &mut out)?;
        }
        next = run.last.checked_add(1);
        out.push(Stretch::Steps(run.part));
    }
    if let Some(first) = next.filter(|first| *first <= question.last) {
        rows_between(sources, &intervals, question, &mut found, (first, question.last), rows_of, &mut out)?;
    }
    Ok(out)
}

/// The times at which sources may have rows within the range, in order of their beginning.
fn intervals(sources: &[StepSource], question: &StepQuestion<'_>) -> Vec<Interval> {
    let mut out = Vec::new();
    for (source, held) in sources.iter().enumerate() {
        match held {
            StepSource::Blocks(blocks) => out.extend(blocks.overlapping(question.first, question.last).map(|at| {
                let meta = blocks.meta(at);
                Interval { first: meta.time_min, last: meta.time_max, source }
            })),
            StepSource::Rows(rows) => {
                let mut from = 0;
                for at in 1..=rows.times.len() {
                    if at == rows.times.len() || rows.times[at].saturating_sub(rows.times[at - 1]) > APART_NS {
                        out.push(Interval { first: rows.times[from], last: rows.times[at - 1], source });
                        from = at;
                    }
                }
            }
            StepSource::Steps { entries, .. } => {
                let (first, last) = entries[0].time_range();
                out.push(Interval { first, last, source });
            }
        }
    }
    out.retain(|i| i.first <= question.last && i.last >= question.first);
    out.sort_unstable_by_key(|i| i.first);
    out
}

/// The runs of steps of source `at` that may stand for its rows.
fn runs_of(at: usize, entries: &[SummaryEntry], intervals: &[Interval], question: &StepQuestion<'_>) -> Vec<Run> {
    // Times at which no other source has rows.
    let mut free: Vec<(i64, i64)> = Vec::new();
    let mut next = Some(question.first);
    let (own_first, own_last) = entries[0].time_range();
    for other in intervals.iter().filter(|i| i.source != at) {
        if let Some(first) = next.filter(|first| *first < other.first) {
            free.push((first, other.first - 1));
        }
        next = match (next, other.last.checked_add(1)) {
            (Some(next), Some(after)) => Some(next.max(after)),
            _ => None,
        };
    }
    free.extend(next.filter(|first| *first <= question.last).map(|first| (first, question.last)));
    // A range that ends before the source's first step, or begins after its last one, holds none of them.
    let widest = question.steps.first().map_or(0, |step| step.width_ns());
    free.retain(|(first, last)| *last >= own_first && *first <= own_last.saturating_add(widest));

    let mut runs = Vec::new();
    for entry in entries {
        let step = entry.summary().step();
        let (number_first, number_last) = (step.number(own_first), step.number(own_last));
        let mut left = Vec::new();
        for (first, last) in free {
            let begins = step.number(first);
            let low = (begins + i64::from(step.start_of(begins) < first)).max(number_first);
            let ends = step.number(last);
            let high = (ends - i64::from(step.last_of(ends) > last)).min(number_last);
            let mut rest = Some(first);
            let mut number = low;
            while number <= high {
                let usable = |number: i64| {
                    (question.usable)(step, step.start_of(number))
                        && !(question.hidden)(at, step.start_of(number), step.last_of(number))
                };
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

/// Whether the runs of source `at` are worth using: what lies between them is read from rows, and a block that is
/// decoded once for each gap in it costs more than decoding it once. Where rows are gone, a gap is an error.
fn keeps(
    at: usize,
    rows: Option<&Arc<Segment>>,
    entries: &[SummaryEntry],
    runs: &[Run],
    question: &StepQuestion<'_>,
    found: &mut [Option<DeviceBlocks>],
) -> Result<bool> {
    let (own_first, own_last) = entries[0].time_range();
    let (first, last) = (own_first.max(question.first), own_last.min(question.last));
    let mut gaps = Vec::new();
    let mut next = Some(first);
    for run in runs {
        gaps.extend(next.filter(|from| *from < run.first).map(|from| (from, run.first - 1)));
        next = run.last.checked_add(1);
    }
    gaps.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
    if gaps.is_empty() || runs.is_empty() && rows.is_some() {
        return Ok(!runs.is_empty());
    }
    let Some(segment) = rows else {
        // The shortest stored steps tell best whether a gap has rows.
        let finest = entries.last().unwrap_or(&entries[0]);
        let step = finest.summary().step();
        let entry = finest.decode()?;
        let has_rows = |(from, to): &(i64, i64)| {
            let range = entry.find(step.number(*from)..step.number(*to).saturating_add(1));
            range.into_iter().any(|i| entry.first_row[i] <= *to && entry.last_row[i] >= *from)
        };
        return match gaps.iter().find(|gap| has_rows(gap) && !(question.hidden)(at, gap.0, gap.1)) {
            None => Ok(true),
            Some((from, _)) => Err(rows_gone(finest, question, *from)),
        };
    };
    let Some(blocks) = blocks_of(segment, question.device, &mut found[at])? else { return Ok(true) };
    let decoded: usize = gaps.iter().map(|(from, to)| blocks.overlapping(*from, *to).len()).sum();
    let asked = blocks.overlapping(first, last).len();
    Ok(decoded < asked || decoded == 0)
}

fn rows_gone(entry: &SummaryEntry, question: &StepQuestion<'_>, at: i64) -> Error {
    Error::Invalid(format!(
        "table {}: the rows of device {} at {at} are beyond retention and steps of {} remain; ask for windows of whole steps of that length",
        entry.summary().schema().name,
        question.device,
        entry.summary().step()
    ))
}

fn blocks_of(segment: &Arc<Segment>, device: &str, found: &mut Option<DeviceBlocks>) -> Result<Option<DeviceBlocks>> {
    if found.is_none() {
        *found = segment.find(device)?;
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
    rows_of: &mut dyn FnMut(Vec<(usize, Source)>, i64, i64) -> Vec<crate::scan::Part>,
    out: &mut Vec<Stretch>,
) -> Result<()> {
    let mut here: Vec<usize> =
        intervals.iter().take_while(|i| i.first <= last).filter(|i| i.last >= first).map(|i| i.source).collect();
    here.sort_unstable();
    here.dedup();
    let mut chosen = Vec::with_capacity(here.len());
    for at in here {
        match &sources[at] {
            StepSource::Blocks(blocks) => chosen.push((at, Source::Blocks(blocks.clone()))),
            StepSource::Rows(rows) => chosen.push((at, Source::Rows(Arc::clone(rows)))),
            StepSource::Steps { rows: Some(segment), .. } => {
                let blocks = blocks_of(segment, question.device, &mut found[at])?;
                chosen.extend(blocks.map(|blocks| (at, Source::Blocks(blocks))));
            }
            StepSource::Steps { rows: None, .. } => {}
        }
    }
    if !chosen.is_empty() {
        out.extend(rows_of(chosen, first, last).into_iter().map(Stretch::Rows));
    }
    Ok(())
}

/// Plans rows of sources that nothing hides.
pub(crate) fn plan_rows(
    fields: &Arc<[FieldDef]>,
) -> impl FnMut(Vec<(usize, Source)>, i64, i64) -> Vec<crate::scan::Part> + '_ {
    move |sources, first, last| {
        let sources = sources.into_iter().map(|(_, source)| source).collect();
        plan(sources, fields, first, last.saturating_add(1))
    }
}
