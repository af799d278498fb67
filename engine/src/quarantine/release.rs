//! Owns what an operator does with rows that wait: into their table, or gone; does not decide which wait.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Tier, encode_batch};

use super::{extent, last_allowed, shadow_of};
use crate::engine::Engine;
use crate::erase::Delete;
use crate::error::{Error, Refusal, Result};
use crate::shard::{Append, AppendSink};
use crate::snapshot::TableView;
use crate::types::{Durability, ProducerId, Rows, SeqNo};

/// The producer of released rows. One number for ever, so that releases cost the shards no memory.
const PRODUCER: ProducerId = ProducerId(u128::from_be_bytes(*b"tidewell release"));
/// Rows of one batch of a release.
const BATCH_ROWS: usize = 8_192;

/// What became of a device's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Rows that are in their table now.
    pub released: u64,
    /// Rows that still lie too far in the future, and stay.
    pub waiting: u64,
}

impl Engine {
    /// Puts the rows of `device` whose time has come into `table`, through the log like any rows, then takes them out of
    /// quarantine. A crash in between leaves them in both; to release them again changes nothing, as they have the same
    /// keys. They count as written now: where the device has sent the same times again since, they win.
    ///
    /// # Errors
    /// No rows wait there, a shard that takes none now, a damaged segment. The rows stay in quarantine then.
    pub fn release_quarantined(&self, table: &str, device: &str) -> Result<Released> {
        // One at a time: all share one producer, whose numbers must rise.
        let _turn = self.releasing.lock();
        let view = self.waiting(table, device)?;
        let last_ns = last_allowed(self.now_ns(), self.config().max_future);
        let end_ns = last_ns.saturating_add(1);
        let fields: Vec<usize> = (0..view.schema().fields.len()).collect();
        let mut rows = Rows::default();
        let mut released = 0;
        for part in view.scan(device, i64::MIN, end_ns, &fields)? {
            part.load(&mut rows)?;
            for start in (0..rows.times.len()).step_by(BATCH_ROWS) {
                let end = rows.times.len().min(start + BATCH_ROWS);
                self.append_released(batch_of(table, device, &view, &rows, start..end))?;
            }
            released += rows.times.len() as u64;
        }
        if released > 0 {
            self.delete(&[quarantined(table, device, Some((i64::MIN, end_ns)))])?;
        }
        Ok(Released { released, waiting: self.still_waiting(table, device)? })
    }

    /// Deletes the rows of `device` that wait for `table`; returns their number.
    ///
    /// # Errors
    /// No rows wait there, a damaged segment, a disk that fails.
    pub fn drop_quarantined(&self, table: &str, device: &str) -> Result<u64> {
        let view = self.waiting(table, device)?;
        let (rows, ..) = extent(&view, device)?;
        self.delete(&[quarantined(table, device, None)])?;
        Ok(rows)
    }

    /// The shadow table, which has rows of `device`.
    fn waiting(&self, table: &str, device: &str) -> Result<TableView> {
        let none = || Error::Invalid(format!("no row of device {device} waits in the quarantine of table {table}"));
        let view = self.snapshot().table(&shadow_of(table)).ok_or_else(none)?;
        if extent(&view, device)?.0 == 0 { Err(none()) } else { Ok(view) }
    }

    fn still_waiting(&self, table: &str, device: &str) -> Result<u64> {
        match self.snapshot().table(&shadow_of(table)) {
            Some(view) => extent(&view, device).map(|(rows, ..)| rows),
            None => Ok(0),
        }
    }

    fn append_released(&self, batch: Batch) -> Result<()> {
        let (table, device) = (batch.table.clone(), batch.devices.get(0).0.to_owned());
        let refused = |refusal: Refusal| {
            Error::Invalid(format!("rows of device {device} stay in the quarantine of table {table}: {refusal}"))
        };
        let now_ns = self.now_ns();
        self.check(&batch, now_ns).map_err(refused)?;
        let seq = SeqNo(self.last_settled(PRODUCER, &device).0 + 1);
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        let (teller, told) = bounded(1);
        self.append(Append {
            producer: PRODUCER,
            seq,
            payload: Bytes::from(payload),
            batch,
            received_ns: now_ns,
            durability: Durability::Durable,
            ticket: 0,
            sink: Arc::new(Teller(teller)),
        })
        .map_err(refused)?;
        let outcome = told.recv().map_err(|_| Error::Invalid("the node is going down".into()))?;
        outcome.map_err(|refusal| {
            // This very batch will not come again, and nobody should wait for it.
            self.skip(PRODUCER, seq);
            refused(refusal)
        })
    }
}

/// The delete of what waits for `table`.
fn quarantined(table: &str, device: &str, range: Option<(i64, i64)>) -> Delete {
    Delete { table: Some(shadow_of(table).into()), device: device.into(), range }
}

fn batch_of(table: &str, device: &str, view: &TableView, rows: &Rows, range: std::ops::Range<usize>) -> Batch {
    let fields = view.schema().fields.iter().zip(&rows.columns).map(|(field, column)| {
        let mut part = Column::new(field.field_type);
        part.extend_from(column, range.clone());
        part.normalise();
        BatchField { name: field.name.to_string(), column: part }
    });
    Batch {
        table: table.to_owned(),
        devices: DeviceRuns::single(device, range.len() as u32),
        times: rows.times[range.clone()].to_vec(),
        fields: fields.collect(),
    }
}

/// Hears of a batch's fate, on the shard's thread.
struct Teller(Sender<Result<(), Refusal>>);

impl AppendSink for Teller {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        // There is room for the one outcome; nobody may listen any more.
        let _ = self.0.try_send(outcome);
    }
}
