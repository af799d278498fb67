//! Owns rows whose time lies too far ahead of the node's clock: which they are and where they wait; does not decide what
//! becomes of them.
//!
//! Such rows go to the **shadow table** of their table, called `~TABLE`: a name that no batch can use. There they are
//! logged, flushed and merged like any rows, but no answer about the table sees them. An operator lists them, releases
//! them or drops them (see `release`).

mod release;

pub use release::Released;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns};

use crate::catalog;
use crate::error::Result;
use crate::snapshot::{Snapshot, TableView};
use crate::types::Rows;

/// First character of a shadow table's name.
const SHADOW: char = '~';

/// The shadow table of `table`.
pub fn shadow_of(table: &str) -> String {
    format!("{SHADOW}{table}")
}

/// The table whose rows the shadow table `name` keeps; `None` for any other table.
pub fn table_of(name: &str) -> Option<&str> {
    name.strip_prefix(SHADOW)
}

/// The last time that a row may have that arrived at `received_ns`.
pub fn last_allowed(received_ns: i64, max_future: Duration) -> i64 {
    received_ns.saturating_add(i64::try_from(max_future.as_nanos()).unwrap_or(i64::MAX))
}

/// Whether a row of `batch` lies after `last_ns`.
pub(crate) fn is_ahead(batch: &Batch, last_ns: i64) -> bool {
    // Without an early exit the loop runs on vectors.
    batch.times.iter().copied().max().is_some_and(|newest| newest > last_ns)
}

/// The rows up to `last_ns`, and those after it as a batch of the shadow table.
pub(crate) fn split(batch: Batch, last_ns: i64) -> (Option<Batch>, Option<Batch>) {
    if !is_ahead(&batch, last_ns) {
        return (Some(batch), None);
    }
    let kept = select(&batch, |time| time <= last_ns);
    let ahead = select(&batch, |time| time > last_ns).map(|rows| Batch { table: shadow_of(&batch.table), ..rows });
    (kept, ahead)
}

/// The rows of `batch` whose time is wanted; `None` when there is none.
fn select(batch: &Batch, wanted: impl Fn(i64) -> bool) -> Option<Batch> {
    let mut devices = DeviceRuns::default();
    let mut times = Vec::new();
    let mut columns: Vec<Column> = batch.fields.iter().map(|f| Column::new(f.column.field_type())).collect();
    for (device, rows) in batch.devices.iter() {
        let before = times.len();
        let mut at = rows.start;
        while at < rows.end {
            let run = batch.times[at..rows.end].iter().take_while(|&&time| wanted(time)).count();
            times.extend_from_slice(&batch.times[at..at + run]);
            for (column, field) in columns.iter_mut().zip(&batch.fields) {
                column.extend_from(&field.column, at..at + run);
            }
            at += run;
            at += batch.times[at..rows.end].iter().take_while(|&&time| !wanted(time)).count();
        }
        if times.len() > before {
            devices.push(device, (times.len() - before) as u32);
        }
    }
    let fields = batch.fields.iter().zip(columns).map(|(field, mut column)| {
        column.normalise();
        BatchField { name: field.name.clone(), column }
    });
    (!times.is_empty()).then(|| Batch { table: batch.table.clone(), devices, fields: fields.collect(), times })
}

/// One device's rows that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The table that they were sent to.
    pub table: Arc<str>,
    /// The device.
    pub device: Arc<str>,
    /// How many rows.
    pub rows: u64,
    /// Time of the first row, as the device gave it.
    pub first_ns: i64,
    /// Time of the last row.
    pub last_ns: i64,
    /// When the first and the last batch with such rows came, by the node's clock.
    pub received_ns: (i64, i64),
}

impl Snapshot {
    /// The rows that wait, by table and device, of the devices that are `wanted`.
    ///
    /// # Errors
    /// A damaged segment.
    pub fn quarantined(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Quarantined>> {
        let mut found = Vec::new();
        for shadow in catalog::sorted(&self.tables) {
            let Some(table) = table_of(&shadow.name) else { continue };
            let Some(view) = self.table(&shadow.name) else { continue };
            let mut devices: BTreeMap<Arc<str>, (i64, i64)> = BTreeMap::new();
            view.visit_devices(&mut |id, received| {
                if wanted(&id) {
                    let all = devices.entry(id).or_insert(received);
                    *all = (all.0.min(received.0), all.1.max(received.1));
                }
            })?;
            for (device, received_ns) in devices {
                let (rows, first_ns, last_ns) = extent(&view, &device)?;
                if rows > 0 {
                    found.push(Quarantined { table: table.into(), device, rows, first_ns, last_ns, received_ns });
                }
            }
        }
        Ok(found)
    }
}

/// Number, first and last time of a device's rows.
fn extent(view: &TableView, device: &str) -> Result<(u64, i64, i64)> {
    let (mut count, mut first, mut last) = (0, i64::MAX, i64::MIN);
    let mut rows = Rows::default();
    for part in view.scan(device, i64::MIN, i64::MAX, &[])? {
        part.load_fields(&[], &mut rows)?;
        count += rows.times.len() as u64;
        first = first.min(rows.times.first().copied().unwrap_or(i64::MAX));
        last = last.max(rows.times.last().copied().unwrap_or(i64::MIN));
    }
    Ok((count, first, last))
}

#[cfg(test)]
mod tests {
    use tidewell_codec::Values;

    use super::*;

    fn batch(devices: &[(&str, &[i64])]) -> Batch {
        let mut runs = DeviceRuns::default();
        let mut times = Vec::new();
        for (device, rows) in devices {
            runs.push(device, rows.len() as u32);
            times.extend_from_slice(rows);
        }
        let column = Column { values: Values::I64(times.clone()), validity: None };
        Batch { table: "readings".into(), devices: runs, times, fields: vec![BatchField { name: "v".into(), column }] }
    }

    #[test]
    fn only_the_rows_ahead_are_set_aside() {
        let sent = batch(&[("a", &[1, 9, 2, 3]), ("b", &[8, 9]), ("a", &[4]), ("c", &[5, 7])]);
        let (kept, ahead) = split(sent, 5);
        assert_eq!(kept, Some(batch(&[("a", &[1, 2, 3]), ("a", &[4]), ("c", &[5])])));
        let shadow = Batch { table: "~readings".into(), ..batch(&[("a", &[9]), ("b", &[8, 9]), ("c", &[7])]) };
        assert_eq!(ahead, Some(shadow));
    }

    #[test]
    fn a_batch_of_one_kind_stays_whole() {
        let sent = batch(&[("a", &[1, 2])]);
        assert_eq!(split(sent.clone(), 2), (Some(sent.clone()), None));
        let (kept, ahead) = split(sent.clone(), 0);
        assert_eq!((kept, ahead), (None, Some(Batch { table: "~readings".into(), ..sent })));
    }

    #[test]
    fn no_batch_can_name_a_shadow_table() {
        let shadow = Batch { table: shadow_of("readings"), ..batch(&[("a", &[1])]) };
        assert!(shadow.check(&tidewell_codec::BatchLimits::default()).is_err());
        assert_eq!((table_of("~readings"), table_of("readings")), (Some("readings"), None));
    }
}
