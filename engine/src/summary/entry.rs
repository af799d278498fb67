//! Owns the bytes of one device's entry in a summary (`docs/format/summary.md`); does no I/O.
//!
//! An entry must be small: a device that sends every ten seconds has 24 hours a day, and a summary that takes a
//! twentieth of the rows is worth its while. So what most fields share is stored once (how many rows a step has, when
//! the first and the last came), decimals are integers, and a value that lies near another is stored relative to it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tidewell_codec::{
    Bitmap, Column, FieldType, Tier, Values, decode_column_into, decode_times_into, encode_column, encode_times,
};

use super::aggregate::DeviceSteps;
use super::types::{Step, StepField, StepSums};
use crate::segment::bytes::{Cursor, Flaw, put_varint, put_zigzag};
use crate::segment::format::put_crc;
use crate::segment::zone::{EXACT_MAX, PLACES_MAX, POWERS, decimal};
use crate::types::FieldDef;

/// Steps of one entry at the most: what a reader is willing to allocate for.
pub(crate) const STEPS_MAX: usize = 65_536;
/// So few numbers are stored one by one; more as a chunk with its length.
const LIST_MAX: usize = 8;

/// Entry: steps without rows lie between others.
const GAPS: u8 = 1;

/// Field: it is null in some rows, so its counts follow.
const OWN_COUNT: u8 = 1;
/// Field: some values are NaN.
const NANS: u8 = 1 << 1;
/// Field: its first and last values are not those of the first and last rows, so their times follow.
const OWN_TIMES: u8 = 1 << 2;
/// Field: sums of doubles are raw; of integers absent.
const SUM_APART: u8 = 1 << 3;
/// Field: upper half of the flags of doubles that are not decimals.
const RAW: u8 = 15;

/// Appends the entry of a device that has at least one step. `received` is when its first and last batch came.
pub(crate) fn encode_entry(
    steps: &DeviceSteps,
    step: Step,
    received: (i64, i64),
    fields: &[FieldDef],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let count = steps.numbers.len();
    assert!(count > 0 && count <= STEPS_MAX, "{count} steps in an entry");
    let (first, last) = (steps.first_row[0], steps.last_row[count - 1]);
    put_varint(out, count as u64);
    out.extend_from_slice(&first.to_le_bytes());
    put_varint(out, last.wrapping_sub(first) as u64);
    put_zigzag(out, received.0.wrapping_sub(first));
    put_zigzag(out, received.1.wrapping_sub(received.0));
    let gaps = steps.numbers[count - 1] - steps.numbers[0] != count as i64 - 1;
    out.push(if gaps { GAPS } else { 0 });
    let mut list = Vec::with_capacity(count);
    if gaps {
        list.extend(steps.numbers.iter().map(|number| number - steps.numbers[0]));
        put_integers(out, &list);
    }
    let from_start = |times: &[i64], list: &mut Vec<i64>| {
        list.clear();
        list.extend(times.iter().zip(&steps.numbers).map(|(at, number)| at.wrapping_sub(step.start_of(*number))));
    };
    list.clear();
    list.extend(steps.rows.iter().map(|rows| *rows as i64));
    put_integers(out, &list);
    from_start(&steps.first_row, &mut list);
    put_integers(out, &list);
    from_start(&steps.last_row, &mut list);
    put_integers(out, &list);

    let present: Bitmap = steps.fields.iter().map(|field| field.count.iter().any(|count| *count > 0)).collect();
    out.extend_from_slice(present.as_bytes());
    let mut bodies = Vec::new();
    for (at, (field, def)) in steps.fields.iter().zip(fields).enumerate() {
        if present.get(at) {
            let body = bodies.len();
            encode_field(field, def.field_type, steps, step, &mut bodies);
            put_varint(out, (bodies.len() - body) as u64);
        }
    }
    out.extend_from_slice(&bodies);
    put_crc(out, start);
}

fn encode_field(field: &StepField, field_type: FieldType, steps: &DeviceSteps, step: Step, out: &mut Vec<u8>) {
    let flags_at = out.len();
    let mut flags = 0;
    out.push(0);
    let integers = |counts: &[u64]| counts.iter().map(|count| *count as i64).collect::<Vec<_>>();
    if field.count != steps.rows {
        flags |= OWN_COUNT;
        put_integers(out, &integers(&field.count));
    }
    if field.nan.iter().any(|nan| *nan > 0) {
        flags |= NANS;
        put_integers(out, &integers(&field.nan));
    }
    let text = field_type == FieldType::Utf8;
    if !text && (field.first_at != steps.first_row || field.last_at != steps.last_row) {
        flags |= OWN_TIMES;
        for times in [&field.first_at, &field.last_at] {
            // A step without a value has no such times; 0 is as good as any.
            let offsets = times.iter().zip(&steps.numbers).zip(&field.count);
            let offsets = offsets.map(|((at, number), count)| match count {
                0 => 0,
                _ => at.wrapping_sub(step.start_of(*number)),
            });
            put_integers(out, &offsets.collect::<Vec<_>>());
        }
    }
    match field_type {
        FieldType::F64 => encode_doubles(field, &mut flags, out),
        FieldType::I64 => {
            let column = |column| filled(column, |values| if let Values::I64(v) = values { v } else { &[] });
            let (min, max) = (column(&field.min), column(&field.max));
            put_four(out, &min, &max, &column(&field.first), &column(&field.last));
            match &field.sum {
                StepSums::I64(sums) => put_sums(out, field, sums, &min, &max),
                _ => flags |= SUM_APART,
            }
        }
        FieldType::Bool => {
            let columns = [&field.min, &field.max, &field.first, &field.last];
            let nibble = |at: usize| {
                let bits = columns.iter().enumerate();
                bits.fold(0, |nibble, (bit, column)| match &column.values {
                    Values::Bool(values) => nibble | i64::from(column.is_valid(at) && values.get(at)) << bit,
                    _ => nibble,
                })
            };
            put_integers(out, &(0..field.count.len()).map(nibble).collect::<Vec<_>>());
        }
        FieldType::Utf8 => {}
    }
    out[flags_at] = flags;
}

/// The values of a column; a null has the value before it, so that it costs nothing.
fn filled<'a, T: Copy + Default + 'a>(column: &'a Column, values: impl Fn(&'a Values) -> &'a [T]) -> Vec<T> {
    let values = values(&column.values);
    let first = (0..values.len()).find(|at| column.is_valid(*at));
    let mut before = first.map_or(T::default(), |at| values[at]);
    (0..values.len())
        .map(|at| {
            if column.is_valid(at) {
                before = values[at];
            }
            before
        })
        .collect()
}

fn encode_doubles(field: &StepField, flags: &mut u8, out: &mut Vec<u8>) {
    let column = |column| filled(column, |values| if let Values::F64(v) = values { v } else { &[] });
    let (first, last) = (column(&field.first), column(&field.last));
    let (min, max) = (column(&field.min), column(&field.max));
    let all = || [&min, &max, &first, &last].into_iter().flatten();
    let places = (0..=PLACES_MAX).find(|&places| all().all(|&value| decimal(value, places).is_some()));
    let mut bounds = None;
    match places {
        Some(places) => {
            *flags |= places << 4;
            let integers = |values: &[f64]| -> Vec<i64> {
                values.iter().map(|v| decimal(*v, places).expect("the places were chosen for these values")).collect()
            };
            let (min, max) = (integers(&min), integers(&max));
            put_four(out, &min, &max, &integers(&first), &integers(&last));
            bounds = Some((min, max));
        }
        None => {
            *flags |= RAW << 4;
            for values in [min, max, first, last] {
                put_doubles(out, values);
            }
        }
    }
    let StepSums::F64(sums) = &field.sum else { unreachable!("doubles have sums") };
    // A sum of decimals is nearly one: the decimal and how many steps of a double it is off are shorter than the double.
    let power = POWERS[usize::from(places.unwrap_or(0))];
    // Adding 0 makes the zero that rounding leaves of a small negative sum the one that an integer stands for.
    let near: Vec<f64> = sums.iter().map(|sum| (sum * power).round() + 0.0).collect();
    let start = out.len();
    if near.iter().all(|near| near.abs() < EXACT_MAX) {
        let off = sums.iter().zip(&near);
        let off: Vec<i64> =
            off.map(|(sum, near)| sum.to_bits().wrapping_sub((near / power).to_bits()) as i64).collect();
        let near: Vec<i64> = near.iter().map(|near| *near as i64).collect();
        match bounds {
            Some((min, max)) => put_sums(out, field, &near, &min, &max),
            None => put_integers(out, &near),
        }
        put_integers(out, &off);
        if out.len() - start <= sums.len() * 8 {
            return;
        }
        out.truncate(start);
    }
    *flags |= SUM_APART;
    put_doubles(out, sums.clone());
}

fn put_sums(out: &mut Vec<u8>, field: &StepField, sums: &[i64], min: &[i64], max: &[i64]) {
    let even = |at: usize| even_sum(field.count[at] - field.nan[at], min[at], max[at]);
    put_integers(out, &(0..sums.len()).map(|at| sums[at].wrapping_sub(even(at))).collect::<Vec<_>>());
}

/// Smallest, largest, first and last values: the largest and the last relative to the smallest, the first relative to
/// the last one of the step before.
fn put_four(out: &mut Vec<u8>, min: &[i64], max: &[i64], first: &[i64], last: &[i64]) {
    put_integers(out, min);
    put_integers(out, &max.iter().zip(min).map(|(max, min)| max.wrapping_sub(*min)).collect::<Vec<_>>());
    put_integers(out, &last.iter().zip(min).map(|(last, min)| last.wrapping_sub(*min)).collect::<Vec<_>>());
    let before = last.first().into_iter().chain(last);
    put_integers(out, &first.iter().zip(before).map(|(first, last)| first.wrapping_sub(*last)).collect::<Vec<_>>());
}

/// What a sum would be, were the values spread evenly between the smallest and the largest one: sums are stored relative to
/// it.
fn even_sum(numbers: u64, min: i64, max: i64) -> i64 {
    (i128::from(numbers) * (i128::from(min) + i128::from(max)) / 2) as i64
}

fn put_integers(out: &mut Vec<u8>, values: &[i64]) {
    if values.len() <= LIST_MAX {
        values.iter().for_each(|value| put_zigzag(out, *value));
        return;
    }
    let mut chunk = Vec::with_capacity(values.len());
    encode_times(values, Tier::Hot, &mut chunk);
    put_varint(out, chunk.len() as u64);
    out.extend_from_slice(&chunk);
}

fn put_doubles(out: &mut Vec<u8>, values: Vec<f64>) {
    if values.len() <= LIST_MAX {
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        return;
    }
    let count = values.len();
    let column = Column { values: Values::F64(values), validity: None };
    let mut chunk = Vec::with_capacity(count * 8);
    encode_column(&column, 0..count, Tier::Hot, &mut chunk);
    put_varint(out, chunk.len() as u64);
    out.extend_from_slice(&chunk);
}

/// What an entry says before its fields. Times of rows, not of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    /// Steps that have rows.
    pub count: usize,
    /// Time of the first row.
    pub first: i64,
    /// Time of the last row.
    pub last: i64,
    /// When the first and the last batch with these rows came.
    pub received: (i64, i64),
    gaps: bool,
}

impl EntryHead {
    /// Reads the head of an entry whose checksum was checked.
    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Flaw> {
        const TIME: &str = "times of rows that rise";
        let count = cursor.varint("a count of steps")?;
        if count == 0 || count > STEPS_MAX as u64 {
            return Err(cursor.flaw("a count of steps", count.to_string()));
        }
        let first = cursor.i64(TIME)?;
        let span = cursor.varint(TIME)?;
        let Some(last) = first.checked_add_unsigned(span) else {
            return Err(cursor.flaw(TIME, format!("{span} past {first}")));
        };
        let received = first.wrapping_add(cursor.zigzag("a receive time")?);
        let received = (received, received.wrapping_add(cursor.zigzag("a receive time")?));
        let gaps = match cursor.byte("flags of an entry")? {
            0 => false,
            GAPS => true,
            other => return Err(cursor.flaw("flags of an entry", other.to_string())),
        };
        Ok(Self { count: count as usize, first, last, received, gaps })
    }
}

/// What an entry says of all fields; their bodies are read one by one. Its checksum was checked.
#[derive(Debug)]
pub(crate) struct Entry {
    pub head: EntryHead,
    step: Step,
    /// Bytes of the entry without its checksum.
    pub len: usize,
    /// Where the steps begin.
    pub starts: Arc<[i64]>,
    /// Numbers of the steps; what follows is parallel to them.
    pub numbers: Vec<i64>,
    pub rows: Vec<i64>,
    pub first_row: Vec<i64>,
    pub last_row: Vec<i64>,
    /// For each field of the summary's schema where its body is among the bytes of the entry.
    bodies: Vec<Option<Range<usize>>>,
    /// For each field of the summary's schema its steps, once somebody kept them here.
    pub kept: Box<[OnceLock<Arc<StepField>>]>,
}

impl Entry {
    /// Memory that an entry of `steps` steps and `fields` fields takes, about.
    pub(crate) fn bytes_of(steps: usize, fields: usize) -> usize {
        size_of::<Self>()
            + steps * 5 * 8
            + fields * (size_of::<Option<Range<usize>>>() + size_of::<OnceLock<Arc<StepField>>>())
    }

    /// Memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(self.numbers.len(), self.bodies.len())
    }

    pub(crate) fn decode(bytes: &[u8], step: Step, fields: usize) -> Result<Self, Flaw> {
        const STEPS: &str = "steps that rise from the first row's to the last row's";
        let mut cursor = Cursor::new(bytes);
        let head = EntryHead::decode(&mut cursor)?;
        let number = step.number(head.first);
        let numbers: Vec<i64> = if head.gaps {
            let list = take_integers(&mut cursor, head.count)?;
            if list[0] != 0 || !list.is_sorted_by(|a, b| a < b) {
                return Err(cursor.flaw(STEPS, format!("{} steps from {}", list.len(), list[0])));
            }
            list.into_iter().map(|offset| number.saturating_add(offset)).collect()
        } else {
            (0..head.count as i64).map(|offset| number.saturating_add(offset)).collect()
        };
        if numbers.last() != Some(&step.number(head.last)) {
            return Err(cursor.flaw(STEPS, format!("{numbers:?}")));
        }
        let rows = take_integers(&mut cursor, head.count)?;
        if rows.iter().any(|rows| *rows < 1) {
            return Err(cursor.flaw("rows in every step", format!("{rows:?}")));
        }
        let first_row = take_times(&mut cursor, step, &numbers)?;
        let last_row = take_times(&mut cursor, step, &numbers)?;
        let ends = (first_row[0], last_row[head.count - 1]);
        if ends != (head.first, head.last) {
            return Err(cursor.flaw("the times of the first and the last row", format!("{ends:?}")));
        }
        let present = cursor.take(fields.div_ceil(8), "a bit for each field")?;
        let mut lens = Vec::with_capacity(fields);
        for field in 0..fields {
            let has = present[field / 8] >> (field % 8) & 1 == 1;
            lens.push(if has { Some(cursor.varint("the length of a field")?) } else { None });
        }
        let mut bodies = Vec::with_capacity(fields);
        for len in lens {
            let body = len.map(|len| {
                let body = cursor.take(usize::try_from(len).unwrap_or(usize::MAX), "the body of a field")?;
                Ok(cursor.position() - body.len()..cursor.position())
            });
            bodies.push(body.transpose()?);
        }
        cursor.end("the end of an entry")?;
        let starts = numbers.iter().map(|number| step.start_of(*number)).collect();
        let kept = (0..fields).map(|_| OnceLock::new()).collect();
        Ok(Self { head, step, len: bytes.len(), starts, numbers, rows, first_row, last_row, bodies, kept })
    }

    /// The steps whose numbers lie in `range`.
    pub(crate) fn find(&self, numbers: Range<i64>) -> Range<usize> {
        let start = self.numbers.partition_point(|number| *number < numbers.start);
        start..self.numbers.partition_point(|number| *number < numbers.end).max(start)
    }

    /// The steps `range` of a field of `field_type`, out of the `bytes` that it was decoded from: `field` is its index in
    /// the summary's schema, `None` when the summary does not know it.
    pub(crate) fn field(
        &self,
        bytes: &[u8],
        field: Option<usize>,
        field_type: FieldType,
        range: Range<usize>,
    ) -> Result<StepField, Flaw> {
        match field.and_then(|at| self.bodies[at].clone()) {
            Some(body) => self.decode_field(&bytes[body], field_type, range),
            None => Ok(empty_field(field_type, range.len())),
        }
    }

    fn decode_field(&self, body: &[u8], field_type: FieldType, range: Range<usize>) -> Result<StepField, Flaw> {
        const COUNT: &str = "counts of values within the rows of a step";
        let count = self.numbers.len();
        let mut cursor = Cursor::new(body);
        let flags = cursor.byte("flags of a field")?;
        let counts = if flags & OWN_COUNT != 0 { &take_integers(&mut cursor, count)? } else { &self.rows };
        let nans = if flags & NANS != 0 { Some(take_integers(&mut cursor, count)?) } else { None };
        let nan = |at: usize| nans.as_ref().map_or(0, |nans| nans[at]);
        let fit = |at: usize| (0..=self.rows[at]).contains(&counts[at]) && (0..=counts[at]).contains(&nan(at));
        if let Some(at) = (0..count).find(|at| !fit(*at)) {
            return Err(cursor.flaw(COUNT, format!("{}, {} NaN of {} rows", counts[at], nan(at), self.rows[at])));
        }
        let text = field_type == FieldType::Utf8;
        let mut out = StepField {
            count: counts[range.clone()].iter().map(|count| *count as u64).collect(),
            nan: range.clone().map(|at| nan(at) as u64).collect(),
            ..StepField::new(field_type)
        };
        if flags & OWN_TIMES != 0 && !text {
            out.first_at = take_times(&mut cursor, self.step, &self.numbers)?[range.clone()].to_vec();
            out.last_at = take_times(&mut cursor, self.step, &self.numbers)?[range.clone()].to_vec();
        } else {
            out.first_at = if text { vec![0; range.len()] } else { self.first_row[range.clone()].to_vec() };
            out.last_at = if text { vec![0; range.len()] } else { self.last_row[range.clone()].to_vec() };
        }
        let even = |at: usize, min: &[i64], max: &[i64]| even_sum((counts[at] - nan(at)) as u64, min[at], max[at]);
        match field_type {
            FieldType::F64 => decode_doubles(&mut cursor, flags, count, range.clone(), &even, &mut out)?,
            FieldType::I64 => {
                let four = take_four(&mut cursor, count)?;
                let even: Vec<i64> = range.clone().map(|at| even(at, &four[0], &four[1])).collect();
                let [min, max, first, last] = four.map(|values| Values::I64(values[range.clone()].to_vec()));
                out.min.values = min;
                out.max.values = max;
                out.first.values = first;
                out.last.values = last;
                out.sum = match flags & SUM_APART {
                    0 => {
                        let sums = take_integers(&mut cursor, count)?;
                        let sums = sums[range.clone()].iter().zip(&even);
                        StepSums::I64(sums.map(|(sum, even)| sum.wrapping_add(*even)).collect())
                    }
                    _ => StepSums::None,
                };
            }
            FieldType::Bool => {
                let nibbles = take_integers(&mut cursor, count)?;
                let bits = |bit: u8| Values::Bool(nibbles[range.clone()].iter().map(|n| n >> bit & 1 == 1).collect());
                out.min.values = bits(0);
                out.max.values = bits(1);
                out.first.values = bits(2);
                out.last.values = bits(3);
            }
            FieldType::Utf8 => {
                for column in [&mut out.min, &mut out.max, &mut out.first, &mut out.last] {
                    column.extend_nulls(range.len());
                }
            }
        }
        cursor.end("the end of a field")?;
        if !text {
            put_nulls(&mut out);
        }
        Ok(out)
    }
}

/// Steps in which a field has no value.
fn empty_field(field_type: FieldType, steps: usize) -> StepField {
    let mut out = StepField::new(field_type);
    for column in [&mut out.min, &mut out.max, &mut out.first, &mut out.last] {
        column.extend_nulls(steps);
    }
    match &mut out.sum {
        StepSums::F64(sums) => sums.resize(steps, 0.0),
        StepSums::I64(sums) => sums.resize(steps, 0),
        StepSums::None => {}
    }
    let none = vec![0; steps];
    StepField { count: none.clone(), nan: none, first_at: vec![0; steps], last_at: vec![0; steps], ..out }
}

/// Marks what the counts say is not there, as a column that was never given a value has it.
fn put_nulls(field: &mut StepField) {
    let none: Vec<bool> = field.count.iter().map(|count| *count == 0).collect();
    if none.contains(&true) {
        for (at, none) in none.iter().enumerate().filter(|(_, none)| **none) {
            debug_assert!(none);
            field.first_at[at] = 0;
            field.last_at[at] = 0;
        }
        let valid: Bitmap = none.iter().map(|none| !none).collect();
        set_validity(&mut field.first, &valid);
        set_validity(&mut field.last, &valid);
    }
    if field.count.iter().zip(&field.nan).any(|(count, nan)| count == nan) {
        let valid: Bitmap = field.count.iter().zip(&field.nan).map(|(count, nan)| nan < count).collect();
        set_validity(&mut field.min, &valid);
        set_validity(&mut field.max, &valid);
    }
}

fn set_validity(column: &mut Column, valid: &Bitmap) {
    for at in (0..valid.len()).filter(|at| !valid.get(*at)) {
        match &mut column.values {
            Values::F64(values) => values[at] = 0.0,
            Values::I64(values) => values[at] = 0,
            Values::Bool(values) => values.set(at, false),
            Values::Utf8(_) => {}
        }
    }
    column.validity = Some(valid.clone());
}

/// [`even_sum`] of a step, given the smallest and the largest integers of all steps.
type EvenSum<'a> = dyn Fn(usize, &[i64], &[i64]) -> i64 + 'a;

fn decode_doubles(
    cursor: &mut Cursor<'_>,
    flags: u8,
    count: usize,
    range: Range<usize>,
    even: &EvenSum<'_>,
    out: &mut StepField,
) -> Result<(), Flaw> {
    let mut evens = vec![0; range.len()];
    let power = POWERS.get(usize::from(flags >> 4)).copied();
    let columns = match power {
        Some(power) => {
            let four = take_four(cursor, count)?;
            evens.iter_mut().zip(range.clone()).for_each(|(own, at)| *own = even(at, &four[0], &four[1]));
            four.map(|integers| integers[range.clone()].iter().map(|n| *n as f64 / power).collect::<Vec<_>>())
        }
        None => {
            let mut take = || take_doubles(cursor, count).map(|values| values[range.clone()].to_vec());
            [take()?, take()?, take()?, take()?]
        }
    };
    let [min, max, first, last] = columns.map(Values::F64);
    out.min.values = min;
    out.max.values = max;
    out.first.values = first;
    out.last.values = last;
    out.sum = StepSums::F64(if flags & SUM_APART != 0 {
        take_doubles(cursor, count)?[range].to_vec()
    } else {
        let near = take_integers(cursor, count)?;
        let off = take_integers(cursor, count)?;
        let power = power.unwrap_or(1.0);
        let near = near[range.clone()].iter().zip(&evens).map(|(near, even)| near.wrapping_add(*even));
        let sums = near.zip(&off[range]);
        sums.map(|(near, off)| f64::from_bits((near as f64 / power).to_bits().wrapping_add(*off as u64))).collect()
    });
    Ok(())
}

fn take_four(cursor: &mut Cursor<'_>, count: usize) -> Result<[Vec<i64>; 4], Flaw> {
    let min = take_integers(cursor, count)?;
    let mut max = take_integers(cursor, count)?;
    let mut last = take_integers(cursor, count)?;
    let mut first = take_integers(cursor, count)?;
    last.iter_mut().zip(&min).for_each(|(last, min)| *last = last.wrapping_add(*min));
    max.iter_mut().zip(&min).for_each(|(max, min)| *max = max.wrapping_add(*min));
    let before = last.first().into_iter().chain(&last);
    first.iter_mut().zip(before).for_each(|(first, last)| *first = first.wrapping_add(*last));
    Ok([min, max, first, last])
}

/// Times that lie in their steps, stored from the steps' starts.
fn take_times(cursor: &mut Cursor<'_>, step: Step, numbers: &[i64]) -> Result<Vec<i64>, Flaw> {
    let mut times = take_integers(cursor, numbers.len())?;
    for (time, number) in times.iter_mut().zip(numbers) {
        let (start, offset) = (step.start_of(*number), *time);
        *time = start.wrapping_add(offset);
        if !(0..step.width_ns()).contains(&offset) || *time < start {
            return Err(cursor.flaw("times within their steps", format!("{offset} past {start}")));
        }
    }
    Ok(times)
}

fn take_integers(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<i64>, Flaw> {
    const INTEGERS: &str = "a list of integers";
    if count <= LIST_MAX {
        return (0..count).map(|_| cursor.zigzag(INTEGERS)).collect();
    }
    let chunk = take_chunk(cursor, INTEGERS)?;
    let mut values = Vec::with_capacity(count);
    match decode_times_into(chunk, count, &mut values) {
        Ok(()) => Ok(values),
        Err(error) => Err(cursor.flaw(INTEGERS, error.to_string())),
    }
}

fn take_doubles(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<f64>, Flaw> {
    const DOUBLES: &str = "a list of doubles";
    if count <= LIST_MAX {
        return (0..count).map(|_| cursor.u64(DOUBLES).map(f64::from_bits)).collect();
    }
    let chunk = take_chunk(cursor, DOUBLES)?;
    let mut column = Column::new(FieldType::F64);
    match decode_column_into(chunk, FieldType::F64, count, &mut column) {
        Ok(()) => match column {
            Column { values: Values::F64(values), validity: None } => Ok(values),
            _ => Err(cursor.flaw(DOUBLES, "nulls")),
        },
        Err(error) => Err(cursor.flaw(DOUBLES, error.to_string())),
    }
}

fn take_chunk<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<&'a [u8], Flaw> {
    let len = cursor.varint(what)?;
    cursor.take(usize::try_from(len).unwrap_or(usize::MAX), what)
}
