//! Owns the full check of a summary: every checksum, every invariant, and against the rows while there are some.

use std::sync::Arc;

use super::aggregate::{DeviceSteps, StepBuilder};
use super::reader::{Summary, SummaryEntry};
use super::types::{Step, StepField, StepSums};
use crate::error::{Error, Result};
use crate::scan::{Source, plan};
use crate::segment::{Damage, Segment};
use crate::types::{FieldDef, Rows};

/// Reads all of `summary` and lists what is wrong; with its `segment`, compares every step with what the rows give.
/// Header, trailer and root were checked at open.
pub fn verify(summary: &Arc<Summary>, segment: Option<&Arc<Segment>>) -> Vec<Damage> {
    let mut damage: Vec<Damage> = Vec::new();
    let trailer = summary.trailer;
    let mut before: Option<String> = None;
    let mut next_offset = Some(u64::from(trailer.header_len));
    let (mut devices, mut steps) = (0u64, 0u64);
    let (mut time_min, mut time_max) = (i64::MAX, i64::MIN);
    let visited = summary.visit(&mut |id, entry| {
        devices += 1;
        let device = || Some(id.to_owned());
        let wrong = |offset: u64, expected: &str, found: String| Damage {
            device: device(),
            error: Error::corruption(summary.name(), offset, expected, found),
        };
        if before.as_deref().is_some_and(|before| before >= id) || id.is_empty() {
            damage.push(wrong(0, "device ids that ascend", format!("{id:?} after {before:?}")));
        }
        before = Some(id.to_owned());
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                next_offset = None;
                damage.push(Damage { device: device(), error });
                return true;
            }
        };
        if next_offset.is_some_and(|next| next != entry.offset) {
            damage.push(wrong(entry.offset, "entries without a gap", format!("{next_offset:?}")));
        }
        next_offset = Some(entry.offset + entry.len as u64);
        steps += entry.steps() as u64;
        time_min = time_min.min(entry.time_range().0);
        time_max = time_max.max(entry.time_range().1);
        match check_entry(id, &entry, segment) {
            Ok(None) => {}
            Ok(Some((expected, found))) => damage.push(wrong(entry.offset, &expected, found)),
            Err(error) => damage.push(Damage { device: device(), error }),
        }
        true
    });
    if let Err(error) = visited {
        damage.push(Damage { device: None, error });
    }
    let counted = (devices, steps, time_min, time_max);
    let kept = (trailer.devices, trailer.steps, trailer.time_min, trailer.time_max);
    // After other damage the totals must differ, which says nothing new.
    if damage.is_empty() && counted != kept {
        let error =
            Error::corruption(summary.name(), trailer.root_offset, format!("totals {counted:?}"), format!("{kept:?}"));
        damage.push(Damage { device: None, error });
    }
    if next_offset.is_some_and(|end| end != trailer.index_offset) {
        let (expected, found) = ("entries that end at the index", format!("{next_offset:?}"));
        damage.push(Damage {
            device: None,
            error: Error::corruption(summary.name(), trailer.index_offset, expected, found),
        });
    }
    damage
}

/// What an entry should say and what it says, if that differs.
fn check_entry(device: &str, entry: &SummaryEntry, segment: Option<&Arc<Segment>>) -> Result<Option<(String, String)>> {
    let summary = entry.summary();
    let fields = &summary.schema().fields;
    let read = entry.decode()?;
    let mut kept = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        let steps = read.field(entry.bytes(), Some(at), field.field_type, 0..read.numbers.len());
        kept.push(steps.map_err(summary.flawed(entry.offset))?);
    }
    let Some(segment) = segment else { return Ok(None) };
    let Some(real) = recompute(segment, device, summary.step())? else {
        return Ok(Some(("a device that the segment has".to_owned(), "none".to_owned())));
    };
    let counts: Vec<i64> = real.rows.iter().map(|rows| *rows as i64).collect();
    if (&read.numbers, &read.rows, &read.first_row, &read.last_row)
        != (&real.numbers, &counts, &real.first_row, &real.last_row)
    {
        return Ok(Some((format!("steps {:?} with rows {counts:?}", real.numbers), format!("{:?}", read.numbers))));
    }
    for (at, field) in fields.iter().enumerate() {
        if !same_field(&kept[at], &real.fields[at]) {
            let expected = format!("steps of {} equal to its rows, {:?}", field.name, real.fields[at]);
            return Ok(Some((expected, format!("{:?}", kept[at]))));
        }
    }
    Ok(None)
}

/// The steps that the rows of a segment give.
fn recompute(segment: &Arc<Segment>, device: &str, step: Step) -> Result<Option<DeviceSteps>> {
    let Some(blocks) = segment.find(device)? else { return Ok(None) };
    let fields: Arc<[FieldDef]> = segment.schema().fields.iter().cloned().collect();
    let computed = if step == Step::Day { Step::Hour } else { step };
    let mut builder = StepBuilder::new(computed, &fields, 0);
    let mut rows = Rows::default();
    for part in plan(vec![Source::Blocks(blocks)], &fields, i64::MIN, i64::MAX) {
        part.load(&mut rows)?;
        builder.push_rows(&rows);
    }
    let steps = builder.end_device();
    Ok(if step == Step::Day { steps.map(|hours| hours.days(&fields)) } else { steps })
}

/// Equal to the bit; a NaN sum equals any NaN, as its bits depend on the processor.
pub(super) fn same_field(a: &StepField, b: &StepField) -> bool {
    let same_sums = match (&a.sum, &b.sum) {
        (StepSums::F64(a), StepSums::F64(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
        }
        (a, b) => a == b,
    };
    let same_column = |a: &tidewell_codec::Column, b: &tidewell_codec::Column| {
        a.len() == b.len()
            && (0..a.len()).all(|at| match (super::aggregate::scalar(a, at), super::aggregate::scalar(b, at)) {
                (Some(crate::types::Scalar::F64(a)), Some(crate::types::Scalar::F64(b))) => a.to_bits() == b.to_bits(),
                (a, b) => a == b,
            })
    };
    (&a.count, &a.nan, &a.first_at, &a.last_at) == (&b.count, &b.nan, &b.first_at, &b.last_at)
        && same_sums
        && same_column(&a.min, &b.min)
        && same_column(&a.max, &b.max)
        && same_column(&a.first, &b.first)
        && same_column(&a.last, &b.last)
}
