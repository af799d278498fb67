//! Owns run-length coding: the value of each run as one integer stream, the lengths as another; does not choose it.

use crate::error::Result;
use crate::integers::{self, Choice};
use crate::reader::{Reader, put_varint};
use crate::scratch::Scratch;

const CODEC: &str = "runs";

/// Appends the number of runs, their values and all lengths but the last, which the count of values tells.
pub(crate) fn encode(values: &[i64], run_count: usize, choice: Choice, out: &mut Vec<u8>) {
    let (mut heads, mut lengths) = (Scratch::<i64>::take(), Scratch::<i64>::take());
    heads.reserve(run_count);
    lengths.reserve(run_count);
    let mut start = 0;
    for index in 1..=values.len() {
        if index == values.len() || values[index] != values[start] {
            heads.push(values[start]);
            lengths.push((index - start) as i64);
            start = index;
        }
    }
    lengths.pop();
    put_varint(out, heads.len() as u64);
    integers::encode(&heads, Choice { runs: false, ..choice }, out);
    integers::encode(&lengths, Choice::simple(choice.tier), out);
}

/// Reads what [`encode`] wrote, after the stream's kind byte.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>, depth: u8) -> Result<()> {
    reader.codec = CODEC;
    let run_count = reader.bounded("runs", count)?;
    if run_count == 0 && count > 0 {
        return Err(reader.invalid("no run for at least one value"));
    }
    let (mut heads, mut lengths) = (Scratch::<i64>::take(), Scratch::<i64>::take());
    integers::decode_nested(reader, run_count, &mut heads, depth + 1)?;
    integers::decode_nested(reader, run_count.saturating_sub(1), &mut lengths, depth + 1)?;
    reader.codec = CODEC;
    let start = values.len();
    let last = last_length(&lengths, count).ok_or_else(|| reader.invalid("lengths do not add up to the count"))?;
    values.resize(start + count, 0);
    let mut rest = &mut values[start..];
    for (&head, &length) in heads.iter().zip(lengths.iter().chain([&last])) {
        let (run, tail) = rest.split_at_mut(length as usize);
        run.fill(head);
        rest = tail;
    }
    Ok(())
}

/// The length of the last of several runs over `count` rows; `None` unless every run has at least one row.
pub(crate) fn last_length(lengths: &[i64], count: usize) -> Option<i64> {
    let mut left = i64::try_from(count).ok()?;
    for &length in lengths {
        if length <= 0 || length >= left {
            return None;
        }
        left -= length;
    }
    Some(left)
}
