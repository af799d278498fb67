//! Owns the readable form of a segment for `inspect`; does not check it (see `verify`).

use std::fmt::{self, Write};
use std::sync::Arc;

use super::reader::{DeviceBlocks, Segment};
use crate::types::{FieldStats, Scalar};

/// Writes what `segment` is, and when `device` is given or `blocks` is set, its devices block by block. Damage is
/// written where it is met and does not end the dump; the only error is that of `out`.
pub fn dump(segment: &Arc<Segment>, device: Option<&str>, blocks: bool, out: &mut dyn Write) -> fmt::Result {
    let (time_min, time_max) = segment.time_range();
    let (seq_min, seq_max) = segment.seq_range();
    writeln!(
        out,
        "segment {} id {:016x} shard {} tier {:?}",
        segment.name(),
        segment.id(),
        segment.shard(),
        segment.tier()
    )?;
    writeln!(
        out,
        "table {} flushes {seq_min}..={seq_max} created {} block_rows {}",
        segment.schema().name,
        segment.created_ns(),
        segment.block_rows()
    )?;
    for field in &segment.schema().fields {
        writeln!(out, "  field {} {}", field.name, field.field_type)?;
    }
    writeln!(
        out,
        "{} devices, {} blocks, {} rows, {} bytes, times {time_min}..={time_max}",
        segment.device_count(),
        segment.block_count(),
        segment.rows(),
        segment.file_bytes()
    )?;
    if let Some(device) = device {
        return match segment.find(device) {
            Ok(Some(found)) => dump_device(device, &found, out),
            Ok(None) => writeln!(out, "device {device}: no rows here"),
            Err(error) => writeln!(out, "device {device}: {error}"),
        };
    }
    if blocks {
        for entry in segment.devices() {
            match entry.and_then(|entry| Ok((entry.id(), entry.blocks()?))) {
                Ok((id, found)) => dump_device(id, &found, out)?,
                Err(error) => writeln!(out, "{error}")?,
            }
        }
    }
    Ok(())
}

fn dump_device(device: &str, blocks: &DeviceBlocks, out: &mut dyn Write) -> fmt::Result {
    let (first, last) = blocks.received();
    writeln!(out, "device {device}: {} blocks, {} rows, received {first}..={last}", blocks.len(), blocks.rows())?;
    for at in 0..blocks.len() {
        let meta = blocks.meta(at);
        let block = match blocks.block(at) {
            Ok(block) => block,
            Err(error) => {
                writeln!(out, "  block {at}: {error}")?;
                continue;
            }
        };
        let entry = blocks.entries()[at];
        writeln!(
            out,
            "  block {at}: {} rows, times {}..={}, {} bytes at {}, meta {} bytes",
            meta.rows, meta.time_min, meta.time_max, entry.data_len, entry.data_offset, entry.meta_len
        )?;
        match block.times_chunk() {
            Ok(_) => writeln!(out, "    time: {} bytes", block.times_bytes())?,
            Err(error) => writeln!(out, "    time: {error}")?,
        }
        for (field, def) in blocks.segment().schema().fields.iter().enumerate() {
            match block.field_chunk(field) {
                Ok(None) => {}
                Ok(Some(chunk)) => {
                    write!(out, "    {}: {} bytes, ", def.name, chunk.len())?;
                    dump_stats(&block.stats(field), out)?;
                }
                Err(error) => writeln!(out, "    {}: {error}", def.name)?,
            }
        }
    }
    Ok(())
}

fn dump_stats(stats: &FieldStats, out: &mut dyn Write) -> fmt::Result {
    let show = |scalar: Option<Scalar>| match scalar {
        None => "-".to_owned(),
        Some(Scalar::F64(v)) => format!("{v:?}"),
        Some(Scalar::I64(v)) => v.to_string(),
        Some(Scalar::Bool(v)) => v.to_string(),
    };
    writeln!(
        out,
        "valid {} nan {} min {} max {} sum {} first {} last {}",
        stats.valid,
        stats.nan,
        show(stats.min),
        show(stats.max),
        show(stats.sum),
        show(stats.first),
        show(stats.last)
    )
}
