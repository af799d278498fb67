//! Owns the rows that are in the log but not yet in a segment; does not write files.
//!
//! A batch is kept as the columns it was decoded to, an immutable **chunk**; each device keeps a list of **runs** into
//! the chunks. So an append moves no value, costs one entry per device of the batch, and a reader that knows how many
//! chunks there were at its moment sees exactly those, while the writer goes on.

mod gather;
mod order;

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::sync::{Mutex, RwLock};
use tidewell_codec::{Batch, Column};

use crate::memory::{Class, Held, MemoryBudget};
use crate::planted::{self, Bug};
use crate::scan::merge::is_rising;
use crate::types::{Rows, TableSchema};

/// Devices that a seal gathers together. More would share more work, and would not fit into the second-level cache.
const GATHER_DEVICES: usize = 32;

/// The rows of a shard since its last seal. One writer, any number of readers.
#[derive(Default)]
pub struct Memtable {
    tables: RwLock<HashMap<Arc<str>, TableRows>>,
    bytes: AtomicUsize,
    rows: AtomicUsize,
    /// What it counts for in the node's memory, until its last reader leaves.
    held: Option<Mutex<Held>>,
}

/// One table's rows.
#[derive(Default)]
struct TableRows {
    chunks: Vec<Arc<Chunk>>,
    slots: HashMap<Arc<str>, u32, BuildHasherDefault<DeviceHasher>>,
    devices: Vec<DeviceRuns>,
}

/// The columns of one batch, placed at the table's field indexes.
struct Chunk {
    times: Vec<i64>,
    columns: Vec<Option<Column>>,
}

/// Where one device's rows are, in log order.
struct DeviceRuns {
    id: Arc<str>,
    runs: Vec<Run>,
    received_first_ns: i64,
    received_last_ns: i64,
    /// The last time, as long as times rise from row to row; `i64::MAX` once one did not.
    rising_to: i64,
}

/// Rows `start..start + len` of a chunk.
#[derive(Clone, Copy)]
struct Run {
    chunk: u32,
    start: u32,
    len: u32,
}

/// How much of a table existed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u32);

/// A device in a memtable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemtableDevice {
    /// Its id.
    pub id: Arc<str>,
    /// When its first and last batch arrived, by the node's clock.
    pub received_ns: (i64, i64),
}

impl Memtable {
    /// An empty memtable whose bytes are counted in `memory`.
    pub fn counted(memory: &Arc<MemoryBudget>) -> Self {
        // Nothing always fits.
        let held = memory.hold(Class::Memtable, 0).ok().map(Mutex::new);
        Self { held, ..Self::default() }
    }

    /// Its rows are in segments: what is left of it, readers hold.
    pub fn retire(&self) {
        if let Some(held) = &self.held {
            held.lock().move_to(Class::Query);
        }
    }

    /// Its bytes, once it was retired.
    pub fn retired_bytes(&self) -> u64 {
        let held = self.held.as_ref().map(|held| held.lock());
        held.filter(|held| held.class() == Class::Query).map_or(0, |held| held.bytes())
    }

    /// Decoded bytes that the rows and their index take.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of rows, duplicates included.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Makes batches visible, in log order, with the receive time of each. The schemas have all of the batches' fields.
    pub fn publish(&self, batches: impl Iterator<Item = (Batch, Arc<TableSchema>, i64)>) {
        // One lock for a whole group commit: readers wait for it as long as index entries take.
        let mut tables = self.tables.write();
        let (mut bytes, mut rows) = (0, 0);
        for (batch, schema, received_ns) in batches {
            rows += batch.times.len();
            if !tables.contains_key(&schema.name) {
                tables.insert(Arc::clone(&schema.name), TableRows::default());
            }
            if let Some(table) = tables.get_mut(&schema.name) {
                bytes += table.append(batch, &schema, received_ns);
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(held) = &self.held {
            held.lock().grow(bytes as u64);
        }
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Tables with rows.
    pub fn tables(&self) -> Vec<Arc<str>> {
        self.tables.read().keys().cloned().collect()
    }

    /// The present moment of `table`; rows published later are not part of it.
    pub fn mark(&self, table: &str) -> Mark {
        Mark(self.tables.read().get(table).map_or(0, |t| t.chunks.len() as u32))
    }

    /// Devices with rows before `mark` that are not older than `from_ns`, in order of their first row.
    pub fn devices(&self, table: &str, mark: Mark, from_ns: i64) -> Vec<MemtableDevice> {
        let tables = self.tables.read();
        let Some(table) = tables.get(table) else { return Vec::new() };
        table
            .devices
            .iter()
            .filter(|d| d.runs.first().is_some_and(|r| r.chunk < mark.0) && table.reaches(d, mark, from_ns))
            .map(|d| MemtableDevice { id: Arc::clone(&d.id), received_ns: (d.received_first_ns, d.received_last_ns) })
            .collect()
    }

    /// One device's rows before `mark`, for the fields at `fields` of `schema`, in log order: times may fall and repeat.
    /// Rows outside `[start_ns, end_ns)` (`i64::MAX` has no end) are left out where that is cheap.
    pub fn rows_of(
        &self,
        schema: &TableSchema,
        device: &str,
        fields: &[usize],
        mark: Mark,
        (start_ns, end_ns): (i64, i64),
    ) -> Rows {
        let (runs, chunks) = {
            let tables = self.tables.read();
            let Some(table) = tables.get(&schema.name) else { return Rows::default() };
            let Some(&slot) = table.slots.get(device) else { return Rows::default() };
            // Chunks come in order, so what the mark hides is a tail.
            let runs = &table.devices[slot as usize].runs;
            let seen = runs.partition_point(|r| r.chunk < mark.0);
            let Some(first) = runs[..seen].first() else { return Rows::default() };
            let last = runs[seen - 1].chunk;
            let base = first.chunk;
            let runs: Vec<Run> = runs[..seen].iter().map(|r| Run { chunk: r.chunk - base, ..*r }).collect();
            (runs, table.chunks[base as usize..=last as usize].to_vec())
        };
        let runs: Vec<Run> = runs.into_iter().filter_map(|run| gather::clip(&chunks, run, start_ns, end_ns)).collect();
        gather::gather(&chunks, &[&runs], schema, fields).pop().unwrap_or_default()
    }

    /// About `count` rows of one device before `mark` and `end_ns`, the newest ones, in log order; and the time from which
    /// they are all (`i64::MIN` when there are no others). More rows where their order is not known.
    pub fn newest_of(
        &self,
        schema: &TableSchema,
        device: &str,
        fields: &[usize],
        mark: Mark,
        end_ns: i64,
        count: usize,
    ) -> (Rows, i64) {
        let mut runs = Vec::new();
        let mut chunks = Vec::new();
        let mut complete_from = i64::MIN;
        {
            let tables = self.tables.read();
            let Some(table) = tables.get(&schema.name) else { return (Rows::default(), complete_from) };
            let Some(&slot) = table.slots.get(device) else { return (Rows::default(), complete_from) };
            let device_runs = &table.devices[slot as usize];
            if device_runs.rising_to == i64::MAX {
                drop(tables);
                return (self.rows_of(schema, device, fields, mark, (i64::MIN, end_ns)), complete_from);
            }
            let mut seen = &device_runs.runs[..device_runs.runs.partition_point(|r| r.chunk < mark.0)];
            if end_ns != i64::MAX {
                let first_time = |r: &Run| table.chunks[r.chunk as usize].times[r.start as usize];
                seen = &seen[..seen.partition_point(|r| first_time(r) < end_ns)];
            }
            let mut missing = count;
            while let Some((run, before)) = seen.split_last().filter(|_| missing > 0) {
                seen = before;
                let chunk = &table.chunks[run.chunk as usize];
                let times = &chunk.times[run.start as usize..(run.start + run.len) as usize];
                let end = if end_ns == i64::MAX { times.len() } else { times.partition_point(|&time| time < end_ns) };
                let start = end.saturating_sub(missing);
                missing -= end - start;
                if start > 0 || !seen.is_empty() {
                    complete_from = times[start];
                } else {
                    complete_from = i64::MIN;
                }
                runs.push(Run {
                    chunk: chunks.len() as u32,
                    start: run.start + start as u32,
                    len: (end - start) as u32,
                });
                chunks.push(Arc::clone(chunk));
            }
        }
        // They were found from the last one back.
        runs.reverse();
        (gather::gather(&chunks, &[&runs], schema, fields).pop().unwrap_or_default(), complete_from)
    }

    /// All rows of a sealed memtable's table, device by device in ascending order of id, every field, in order of time. Rows
    /// of one time are in log order, and may all be there.
    ///
    /// # Errors
    /// Whatever `visit` returns.
    pub fn drain_table<E>(
        &self,
        schema: &TableSchema,
        mut visit: impl FnMut(&MemtableDevice, Rows) -> Result<(), E>,
    ) -> Result<(), E> {
        let tables = self.tables.read();
        let Some(table) = tables.get(&schema.name) else { return Ok(()) };
        let fields: Vec<usize> = (0..schema.fields.len()).collect();
        // A later row takes the place of an earlier one when it has a value in every field.
        let full = |chunk: &Arc<Chunk>, field: usize| {
            let column = chunk.columns.get(field).and_then(Option::as_ref);
            column.is_some_and(|column| column.validity.is_none())
        };
        let last_wins = table.chunks.iter().all(|chunk| fields.iter().all(|&field| full(chunk, field)));
        let times: Vec<&[i64]> = table.chunks.iter().map(|chunk| &chunk.times[..]).collect();
        let mut order: Vec<&DeviceRuns> = table.devices.iter().collect();
        order.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for group in order.chunks(GATHER_DEVICES) {
            let sorted: Vec<Option<Vec<Run>>> = group
                .iter()
                .map(|device| match device.rising_to {
                    i64::MAX => order::in_time_order(&times, &device.runs, last_wins),
                    _ => None,
                })
                .collect();
            let lost = usize::from(planted::is(Bug::RotationLosesChunk));
            let runs = group.iter().zip(&sorted).map(|(device, sorted)| sorted.as_deref().unwrap_or(&device.runs));
            let runs: Vec<&[Run]> = runs.map(|runs| &runs[..runs.len() - lost]).collect();
            let gathered = gather::gather(&table.chunks, &runs, schema, &fields);
            for (device, rows) in group.iter().zip(gathered) {
                let received_ns = (device.received_first_ns, device.received_last_ns);
                visit(&MemtableDevice { id: Arc::clone(&device.id), received_ns }, rows)?;
            }
        }
        Ok(())
    }
}

impl DeviceRuns {
    fn note_times(&mut self, times: &[i64]) {
        let rises = times.first().is_some_and(|first| *first > self.rising_to) && is_rising(times);
        self.rising_to = times.last().copied().filter(|_| rises).unwrap_or(i64::MAX);
    }
}

impl TableRows {
    /// Whether the device has a row before `mark` that is not older than `from_ns`.
    fn reaches(&self, device: &DeviceRuns, mark: Mark, from_ns: i64) -> bool {
        let times =
            |run: &Run| &self.chunks[run.chunk as usize].times[run.start as usize..(run.start + run.len) as usize];
        // The last rows are the youngest, nearly always, so the first look decides.
        let mut runs = device.runs.iter().rev().skip_while(|run| run.chunk >= mark.0);
        from_ns == i64::MIN || runs.any(|run| times(run).iter().rev().any(|time| *time >= from_ns))
    }

    /// Takes a batch; returns the bytes it adds.
    fn append(&mut self, batch: Batch, schema: &TableSchema, received_ns: i64) -> usize {
        let chunk_index = u32::try_from(self.chunks.len()).expect("a memtable is sealed long before 2^32 batches");
        let mut bytes = batch.times.len() * 8 + std::mem::size_of::<Chunk>() + 64;
        // Devices of a gateway come in the same order every time, so the next slot is the best guess.
        let mut guess = 0;
        for (id, range) in batch.devices.iter() {
            let slot = match self.devices.get(guess) {
                Some(device) if *device.id == *id => guess,
                _ => match self.slots.get(id) {
                    Some(&slot) => slot as usize,
                    None => {
                        let slot = self.devices.len();
                        let id: Arc<str> = id.into();
                        bytes += 2 * id.len() + 128;
                        self.slots.insert(Arc::clone(&id), slot as u32);
                        let runs = Vec::new();
                        self.devices.push(DeviceRuns {
                            id,
                            runs,
                            received_first_ns: received_ns,
                            received_last_ns: received_ns,
                            rising_to: i64::MIN,
                        });
                        slot
                    }
                },
            };
            guess = slot + 1;
            let device = &mut self.devices[slot];
            device.runs.push(Run { chunk: chunk_index, start: range.start as u32, len: range.len() as u32 });
            device.received_first_ns = device.received_first_ns.min(received_ns);
            device.received_last_ns = device.received_last_ns.max(received_ns);
            device.note_times(&batch.times[range]);
            bytes += std::mem::size_of::<Run>();
        }
        let mut columns: Vec<Option<Column>> = Vec::new();
        columns.resize_with(schema.fields.len(), || None);
        for (index, field) in batch.fields.into_iter().enumerate() {
            let place = match schema.fields.get(index) {
                Some(same) if *same.name == *field.name => Some(index),
                _ => schema.field(&field.name).map(|(place, _)| place),
            };
            bytes += field.column.memory_bytes() + std::mem::size_of::<Option<Column>>();
            // `Catalog::admit` put every field of the batch into the schema.
            columns[place.expect("the schema has the batch's fields")] = Some(field.column);
        }
        self.chunks.push(Arc::new(Chunk { times: batch.times, columns }));
        bytes
    }
}

/// Hashes device ids with xxh3: keys are bounded in length, and their number by what certificates grant.
#[derive(Default)]
struct DeviceHasher(u64);

impl Hasher for DeviceHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u8(&mut self, _: u8) {
        // The end mark of a string: ids are the whole key, so it adds nothing.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
