//! Owns turning a batch of any devices into encoded parts that a node takes: one shard each, within its limits.

use bytes::Bytes;
use tidewell_codec::{Batch, BatchError, BatchField, BatchLimits, Column, DeviceRuns, Tier, encode_batch, shard_of};

use crate::wire::Welcome;

/// An encoded batch of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard of all its devices.
    pub shard: u32,
    /// Its first device.
    pub device: String,
    /// Its rows.
    pub rows: u32,
    /// Its bytes.
    pub payload: Bytes,
}

/// What the node told about itself, as far as splitting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// Shards.
    pub shard_count: u32,
    /// Most rows of a batch.
    pub rows: usize,
    /// Most bytes of a payload.
    pub payload: usize,
}

impl From<&Welcome> for NodeLimits {
    fn from(welcome: &Welcome) -> Self {
        Self {
            shard_count: welcome.shard_count.max(1),
            rows: welcome.max_rows.max(1) as usize,
            payload: welcome.max_frame_bytes as usize,
        }
    }
}

/// Splits by shard, then by the node's limits, and encodes.
///
/// # Errors
/// A batch that no node takes, or a single row that is over the limit of a payload.
pub fn split(batch: Batch, limits: NodeLimits, tier: Tier) -> Result<Vec<Part>, BatchError> {
    batch.check(&BatchLimits { rows: usize::MAX, cells: usize::MAX, ..BatchLimits::default() })?;
    let mut parts = Vec::new();
    for (shard, batch) in by_shard(batch, limits.shard_count) {
        encode(batch, shard, limits, tier, &mut parts)?;
    }
    Ok(parts)
}

fn by_shard(batch: Batch, shard_count: u32) -> Vec<(u32, Batch)> {
    if let Ok(shard) = batch.devices.shard(shard_count) {
        return vec![(shard, batch)];
    }
    let mut selections: Vec<Vec<usize>> = vec![Vec::new(); shard_count as usize];
    for (run, (device, _)) in batch.devices.iter().enumerate() {
        selections[shard_of(device, shard_count) as usize].push(run);
    }
    let runs: Vec<_> = batch.devices.iter().collect();
    let pick = |chosen: &[usize]| {
        let mut part = empty_like(&batch);
        for &run in chosen {
            let (device, rows) = runs[run].clone();
            append(&mut part, &batch, device, rows);
        }
        part
    };
    let chosen = selections.iter().enumerate().filter(|(_, runs)| !runs.is_empty());
    chosen.map(|(shard, runs)| (u32::try_from(shard).unwrap_or(u32::MAX), pick(runs))).collect()
}

fn empty_like(batch: &Batch) -> Batch {
    let empty =
        |field: &BatchField| BatchField { name: field.name.clone(), column: Column::new(field.column.field_type()) };
    Batch {
        table: batch.table.clone(),
        devices: DeviceRuns::default(),
        times: Vec::new(),
        fields: batch.fields.iter().map(empty).collect(),
    }
}

fn append(part: &mut Batch, batch: &Batch, device: &str, rows: std::ops::Range<usize>) {
    part.devices.push(device, u32::try_from(rows.len()).unwrap_or(u32::MAX));
    part.times.extend_from_slice(&batch.times[rows.clone()]);
    for (to, from) in part.fields.iter_mut().zip(&batch.fields) {
        to.column.extend_from(&from.column, rows.clone());
    }
}

/// Encodes `batch`, in halves when it is over a limit.
fn encode(batch: Batch, shard: u32, limits: NodeLimits, tier: Tier, parts: &mut Vec<Part>) -> Result<(), BatchError> {
    let rows = batch.rows();
    let cells = rows.saturating_mul(batch.fields.len());
    if rows <= limits.rows && cells <= BatchLimits::default().cells {
        let mut payload = Vec::with_capacity(256 + cells * 3);
        encode_batch(&batch, tier, &mut payload);
        if payload.len() <= limits.payload {
            // The guess above is generous, and these bytes may wait for long.
            payload.shrink_to_fit();
            parts.push(Part {
                shard,
                device: batch.devices.get(0).0.to_owned(),
                rows: u32::try_from(rows).unwrap_or(u32::MAX),
                payload: Bytes::from(payload),
            });
            return Ok(());
        }
        if rows == 1 {
            return Err(BatchError::Limit {
                what: "bytes of one row",
                found: payload.len() as u64,
                max: limits.payload,
            });
        }
    }
    let (mut first, mut second) = (empty_like(&batch), empty_like(&batch));
    let middle = rows / 2;
    for (device, run) in batch.devices.iter() {
        if run.start < middle {
            append(&mut first, &batch, device, run.start..run.end.min(middle));
        }
        if run.end > middle {
            append(&mut second, &batch, device, run.start.max(middle)..run.end);
        }
    }
    drop(batch);
    encode(first, shard, limits, tier, parts)?;
    encode(second, shard, limits, tier, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewell_codec::{Values, decode_batch};

    fn batch(devices: usize, rows_each: usize) -> Batch {
        let mut runs = DeviceRuns::default();
        (0..devices).for_each(|d| runs.push(&format!("truck_{d}"), rows_each as u32));
        let rows = devices * rows_each;
        Batch {
            table: "readings".into(),
            devices: runs,
            times: (0..rows as i64).collect(),
            fields: vec![BatchField {
                name: "n".into(),
                column: Column { values: Values::I64((0..rows as i64).map(|v| v * 7).collect()), validity: None },
            }],
        }
    }

    fn rows_of(parts: &[Part]) -> Vec<(String, i64, i64)> {
        let mut rows = Vec::new();
        for part in parts {
            let batch = decode_batch(&part.payload, &BatchLimits::default()).unwrap();
            assert_eq!(batch.rows(), part.rows as usize);
            let Values::I64(values) = &batch.fields[0].column.values else { panic!("type") };
            for (device, run) in batch.devices.iter() {
                rows.extend(run.map(|row| (device.to_owned(), batch.times[row], values[row])));
            }
        }
        rows.sort();
        rows
    }

    #[test]
    fn parts_hold_every_row_once_and_each_has_one_shard() {
        let whole = batch(50, 20);
        let limits = NodeLimits { shard_count: 1, rows: 65_536, payload: 1 << 20 };
        let one = split(whole.clone(), limits, Tier::Plain).unwrap();
        assert_eq!(one.len(), 1);
        for shard_count in [2, 3, 7] {
            for rows in [7, 1_000] {
                let parts = split(whole.clone(), NodeLimits { shard_count, rows, ..limits }, Tier::Plain).unwrap();
                assert_eq!(rows_of(&parts), rows_of(&one));
                for part in &parts {
                    assert!(part.rows as usize <= rows);
                    let batch = decode_batch(&part.payload, &BatchLimits::default()).unwrap();
                    assert_eq!(batch.devices.shard(shard_count), Ok(part.shard));
                }
            }
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_halved_until_it_fits() {
        let limits = NodeLimits { shard_count: 1, rows: 65_536, payload: 1_000 };
        let parts = split(batch(3, 300), limits, Tier::Plain).unwrap();
        assert!(parts.len() > 10 && parts.iter().all(|part| part.payload.len() <= 1_000));
        assert_eq!(rows_of(&parts).len(), 900);
        let tiny = NodeLimits { payload: 10, ..limits };
        assert!(split(batch(1, 2), tiny, Tier::Plain).unwrap_err().is_limit());
    }
}
