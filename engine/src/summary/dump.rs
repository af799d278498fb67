//! Owns the readable form of a summary for `inspect`; does not check it (see `verify`).

use std::fmt::{self, Write};
use std::sync::Arc;

use super::aggregate::scalar;
use super::reader::{Summary, SummaryEntry};
use super::types::{StepRows, StepSums};
use crate::types::Scalar;

/// Writes what `summary` is, and when `device` is given or `steps` is set, its devices step by step. Damage is written
/// where it is met and does not end the dump; the only error is that of `out`.
///
/// # Errors
/// That of `out`.
pub fn dump(summary: &Arc<Summary>, device: Option<&str>, steps: bool, out: &mut dyn Write) -> fmt::Result {
    let (time_min, time_max) = summary.time_range();
    let (seq_min, seq_max) = summary.seq_range();
    writeln!(
        out,
        "summary {} id {:016x} shard {} step {} of segment {:016x}",
        summary.name(),
        summary.id(),
        summary.shard(),
        summary.step(),
        summary.segment()
    )?;
    writeln!(
        out,
        "table {} flushes {seq_min}..={seq_max} created {}; {} devices, {} steps, {} bytes, times {time_min}..={time_max}",
        summary.schema().name,
        summary.created_ns(),
        summary.device_count(),
        summary.steps(),
        summary.file_bytes()
    )?;
    let mut result = Ok(());
    let mut show = |id: &str, entry: crate::Result<SummaryEntry>| {
        result = match entry {
            Ok(entry) => dump_device(id, &entry, out),
            Err(error) => writeln!(out, "device {id}: {error}"),
        };
        result.is_ok()
    };
    match device {
        Some(id) => match summary.find(id) {
            Ok(Some(entry)) => {
                show(id, Ok(entry));
            }
            Ok(None) => return writeln!(out, "device {id}: no steps here"),
            Err(error) => {
                show(id, Err(error));
            }
        },
        None if steps => {
            if let Err(error) = summary.visit(&mut show) {
                return writeln!(out, "{error}");
            }
        }
        None => {}
    }
    result
}

fn dump_device(device: &str, entry: &SummaryEntry, out: &mut dyn Write) -> fmt::Result {
    let (first, last) = entry.received();
    writeln!(out, "device {device}: {} steps, {} bytes, received {first}..={last}", entry.steps(), entry.len)?;
    let fields = &entry.summary().schema().fields;
    let mut rows = StepRows::default();
    if let Err(error) = entry.load(i64::MIN..i64::MAX, fields, &mut rows) {
        return writeln!(out, "  {error}");
    }
    for at in rows.range.clone() {
        writeln!(out, "  step {}", rows.starts[at])?;
        for (field, def) in rows.fields.iter().zip(fields).filter(|(field, _)| field.count[at] > 0) {
            let sum = match &field.sum {
                StepSums::F64(sums) => format!("{:?}", sums[at]),
                StepSums::I64(sums) => sums[at].to_string(),
                StepSums::None => "-".to_owned(),
            };
            writeln!(
                out,
                "    {}: count {} nan {} sum {sum} min {} max {} first {} at {} last {} at {}",
                def.name,
                field.count[at],
                field.nan[at],
                show(scalar(&field.min, at)),
                show(scalar(&field.max, at)),
                show(scalar(&field.first, at)),
                field.first_at[at],
                show(scalar(&field.last, at)),
                field.last_at[at]
            )?;
        }
    }
    Ok(())
}

fn show(scalar: Option<Scalar>) -> String {
    match scalar {
        None => "-".to_owned(),
        Some(Scalar::F64(v)) => format!("{v:?}"),
        Some(Scalar::I64(v)) => v.to_string(),
        Some(Scalar::Bool(v)) => v.to_string(),
    }
}
