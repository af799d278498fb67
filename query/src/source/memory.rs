//! Owns a naive store in memory for tests; does not try to be fast.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidewell_engine::{Column, Error, FieldDef, FieldStats, FieldType, Rows, Scalar, TableSchema};

use super::{Part, Source, Table};
use crate::kernels::Cell;

/// Rows of one device: time and one cell per field.
pub(crate) type CellRows = Vec<(i64, Vec<Cell>)>;

/// Tables in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySource {
    pub tables: BTreeMap<String, Arc<MemoryTable>>,
    pub attributes: BTreeMap<String, Arc<BTreeMap<String, String>>>,
}

/// One table.
#[derive(Debug)]
pub(crate) struct MemoryTable {
    pub schema: Arc<TableSchema>,
    pub devices: BTreeMap<Arc<str>, CellRows>,
    /// Sizes of blocks, taken in turn.
    pub blocks: Vec<usize>,
    /// Whether blocks carry statistics.
    pub stats: bool,
    /// How many blocks were loaded.
    pub loads: Arc<AtomicUsize>,
}

impl MemorySource {
    /// One table `t` with blocks of four rows.
    pub fn new(fields: &[(&str, FieldType)], devices: Vec<(&str, CellRows)>) -> Self {
        let fields = fields.iter().map(|&(name, field_type)| FieldDef { name: name.into(), field_type }).collect();
        let table = MemoryTable {
            schema: Arc::new(TableSchema { name: "t".into(), fields }),
            devices: devices.into_iter().map(|(id, rows)| (id.into(), rows)).collect(),
            blocks: vec![4],
            stats: true,
            loads: Arc::default(),
        };
        Self { tables: [("t".to_owned(), Arc::new(table))].into(), attributes: BTreeMap::new() }
    }

    /// The same rows in other blocks.
    pub fn with_blocks(&self, blocks: &[usize], stats: bool) -> Self {
        let mut other = self.clone();
        for table in other.tables.values_mut() {
            let (schema, devices) = (table.schema.clone(), table.devices.clone());
            *table = Arc::new(MemoryTable { schema, devices, blocks: blocks.to_vec(), stats, loads: Arc::default() });
        }
        other
    }
}

impl Source for MemorySource {
    type Table = Arc<MemoryTable>;

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.values().map(|t| t.schema.clone()).collect()
    }

    fn table(&self, name: &str) -> Option<Self::Table> {
        self.tables.get(name).cloned()
    }

    fn attributes(&self, device: &str) -> Option<Arc<BTreeMap<String, String>>> {
        self.attributes.get(device).cloned()
    }
}

impl Table for Arc<MemoryTable> {
    type Part = MemoryPart;

    fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    fn devices(&self) -> Result<Vec<Arc<str>>, Error> {
        Ok(self.devices.keys().cloned().collect())
    }

    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<MemoryPart>, Error> {
        let mut parts = Vec::new();
        let mut rest = self.devices.get(device).map_or(&[][..], |rows| &rows[..]);
        let mut sizes = self.blocks.iter().cycle();
        while !rest.is_empty() {
            let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (block, later) = rest.split_at(size);
            rest = later;
            let inside: Vec<_> = block.iter().filter(|(t, _)| (start..end).contains(t)).collect();
            let bounds = (block[0].0, block[block.len() - 1].0);
            if bounds.1 < start || bounds.0 >= end {
                continue;
            }
            let whole = inside.len() == block.len() && self.stats;
            let columns = fields.iter().map(|&field| {
                let mut column = Column::new(self.schema.fields[field].field_type);
                inside.iter().for_each(|(_, cells)| cells[field].push_to(&mut column));
                column
            });
            let rows = Rows { columns: columns.collect(), times: inside.iter().map(|(t, _)| *t).collect() };
            let stats = whole.then(|| {
                fields.iter().map(|&f| stats(block.iter().map(|(_, cells)| &cells[f]), block.len())).collect()
            });
            // A cut block keeps its wide bounds, and may turn out to be empty.
            parts.push(MemoryPart { bounds, rows, stats, loads: self.loads.clone() });
        }
        Ok(parts)
    }
}

/// A block.
pub(crate) struct MemoryPart {
    bounds: (i64, i64),
    rows: Rows,
    stats: Option<Vec<FieldStats>>,
    loads: Arc<AtomicUsize>,
}

impl Part for MemoryPart {
    fn time_range(&self) -> (i64, i64) {
        self.bounds
    }

    fn rows_max(&self) -> usize {
        self.rows.times.len()
    }

    fn stats(&self, field: usize) -> Option<FieldStats> {
        self.stats.as_ref().map(|stats| stats[field])
    }

    fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<(), Error> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        rows.times.clone_from(&self.rows.times);
        rows.columns = self.rows.columns.iter().map(|c| Column::new(c.field_type())).collect();
        for &field in which {
            rows.columns[field] = self.rows.columns[field].clone();
        }
        Ok(())
    }
}

/// Statistics as segments keep them.
pub(crate) fn stats<'a>(cells: impl Iterator<Item = &'a Cell>, rows: usize) -> FieldStats {
    let mut text = false;
    let values: Vec<Scalar> = cells
        .filter_map(|cell| match cell {
            Cell::F64(v) => Some(Scalar::F64(*v)),
            Cell::I64(v) => Some(Scalar::I64(*v)),
            Cell::Bool(v) => Some(Scalar::Bool(*v)),
            Cell::Text(_) => {
                text = true;
                Some(Scalar::Bool(false))
            }
            Cell::Null => None,
        })
        .collect();
    let order = |a: &Scalar, b: &Scalar| match (a, b) {
        (Scalar::F64(a), Scalar::F64(b)) => a.total_cmp(b),
        (Scalar::I64(a), Scalar::I64(b)) => a.cmp(b),
        (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
        _ => panic!("one type a column"),
    };
    let number = |v: &Scalar| !matches!(v, Scalar::F64(v) if v.is_nan());
    let comparable: Vec<Scalar> = values.iter().copied().filter(number).collect();
    let sum = values.iter().try_fold(0i64, |sum, v| match v {
        Scalar::I64(v) => sum.checked_add(*v),
        _ => None,
    });
    let stats = FieldStats {
        rows: rows as u32,
        valid: values.len() as u32,
        nan: (values.len() - comparable.len()) as u32,
        min: comparable.iter().copied().min_by(order),
        max: comparable.iter().copied().max_by(order),
        sum: sum.map(Scalar::I64),
        first: values.first().copied(),
        last: values.last().copied(),
    };
    // Of text only counts are kept.
    if text { FieldStats { min: None, max: None, sum: None, first: None, last: None, ..stats } } else { stats }
}
