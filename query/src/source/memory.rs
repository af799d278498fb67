//! Owns a naive store in memory for tests; does not try to be fast.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidewell_engine::{
    Column, Error, FieldDef, FieldStats, FieldType, Rows, Scalar, Step, StepField, StepRows, StepSums, TableSchema,
};

use super::{Newest, Part, Source, Steps, Stretch, Stretches, Table};
use crate::kernels::scalar::summarise;
use crate::kernels::{Cell, Sum, Summary};

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
    /// Which steps are stored: every one whose number is not a multiple of this; 0 = none, 1 = none either.
    pub steps: i64,
    /// How many blocks were loaded.
    pub loads: Arc<AtomicUsize>,
    /// How many steps were loaded.
    pub steps_loaded: Arc<AtomicUsize>,
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
            steps: 0,
            loads: Arc::default(),
            steps_loaded: Arc::default(),
        };
        Self { tables: [("t".to_owned(), Arc::new(table))].into(), attributes: BTreeMap::new() }
    }

    /// The same rows in other blocks.
    pub fn with_blocks(&self, blocks: &[usize], stats: bool) -> Self {
        self.with_steps(blocks, stats, 0)
    }

    /// The same rows in other blocks, with other steps.
    pub fn with_steps(&self, blocks: &[usize], stats: bool, steps: i64) -> Self {
        let mut other = self.clone();
        for table in other.tables.values_mut() {
            *table = Arc::new(MemoryTable {
                schema: table.schema.clone(),
                devices: table.devices.clone(),
                blocks: blocks.to_vec(),
                stats,
                steps,
                loads: Arc::default(),
                steps_loaded: Arc::default(),
            });
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
    type Steps = MemorySteps;
    type Newest = std::vec::IntoIter<MemoryPart>;

    fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    fn devices(&self) -> Result<Vec<Arc<str>>, Error> {
        Ok(self.devices.keys().cloned().collect())
    }

    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<MemoryPart>, Error> {
        Ok(self.parts(self.rows(device), start, end, fields))
    }

    fn scan_back(&self, device: &Arc<str>, end: i64, fields: &Arc<[usize]>) -> Self::Newest {
        let mut parts = self.parts(self.rows(device), i64::MIN, end, fields);
        parts.reverse();
        parts.into_iter()
    }

    fn scan_steps(
        &self,
        device: &str,
        start: i64,
        end: i64,
        fields: &[usize],
        steps: &[Step],
        usable: &dyn Fn(Step, i64) -> bool,
    ) -> Result<Stretches<Self>, Error> {
        let mut out = Vec::new();
        let all = self.rows(device);
        // Rows before this one are in the answer.
        let mut done = all.partition_point(|(t, _)| *t < start);
        let mut at = done;
        while at < all.len() && all[at].0 < end {
            let stored = |step: Step| {
                let from = step.start_of(step.number(all[at].0));
                let is_stored = self.steps > 0 && from.div_euclid(step.width_ns()) % self.steps != 0;
                is_stored && all[done..at].iter().all(|(t, _)| *t < from) && usable(step, from)
            };
            let Some(step) = steps.iter().copied().find(|&step| stored(step)) else {
                at += 1;
                continue;
            };
            let from = step.start_of(step.number(all[at].0));
            let after = all.partition_point(|(t, _)| *t < from + step.width_ns());
            out.extend(self.parts(&all[done..at], start, end, fields).into_iter().map(Stretch::Rows));
            let own = (from, all[at..after].to_vec());
            match out.last_mut() {
                Some(Stretch::Steps(MemorySteps { step: last, steps, .. })) if *last == step && done == at => {
                    steps.push(own);
                }
                _ => out.push(Stretch::Steps(MemorySteps {
                    step,
                    steps: vec![own],
                    fields: fields.iter().map(|&f| (f, self.schema.fields[f].field_type)).collect(),
                    loaded: self.steps_loaded.clone(),
                })),
            }
            (done, at) = (after, after);
        }
        out.extend(self.parts(&all[done..at], start, end, fields).into_iter().map(Stretch::Rows));
        Ok(out)
    }
}

impl MemoryTable {
    fn rows(&self, device: &str) -> &[(i64, Vec<Cell>)] {
        self.devices.get(device).map_or(&[][..], |rows| &rows[..])
    }

    fn parts(&self, mut rest: &[(i64, Vec<Cell>)], start: i64, end: i64, fields: &[usize]) -> Vec<MemoryPart> {
        let mut parts = Vec::new();
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
        parts
    }
}

impl Newest for std::vec::IntoIter<MemoryPart> {
    type Part = MemoryPart;

    fn next_part(&mut self) -> Result<Option<MemoryPart>, Error> {
        Ok(self.next())
    }
}

/// Steps of one length, one after the other.
pub(crate) struct MemorySteps {
    step: Step,
    /// Start and rows of each.
    steps: Vec<(i64, CellRows)>,
    fields: Vec<(usize, FieldType)>,
    loaded: Arc<AtomicUsize>,
}

impl Steps for MemorySteps {
    fn step(&self) -> Step {
        self.step
    }

    fn time_range(&self) -> (i64, i64) {
        (self.steps[0].0, self.steps[self.steps.len() - 1].0 + self.step.width_ns() - 1)
    }

    fn load(&self, rows: &mut StepRows) -> Result<(), Error> {
        self.loaded.fetch_add(self.steps.len(), Ordering::Relaxed);
        rows.starts = self.steps.iter().map(|(start, _)| *start).collect();
        rows.fields = self.fields.iter().map(|&(field, field_type)| Arc::new(self.field(field, field_type))).collect();
        rows.range = 0..self.steps.len();
        Ok(())
    }
}

impl MemorySteps {
    fn field(&self, field: usize, field_type: FieldType) -> StepField {
        let mut out = StepField::new(field_type);
        let mut sums = Some(Vec::new());
        for (_, rows) in &self.steps {
            let cells = |rows: &[(i64, Vec<Cell>)]| {
                summarise(&rows.iter().map(|(t, cells)| (*t, cells[field].clone())).collect::<Vec<_>>())
            };
            let mut summary = cells(rows);
            if let (Step::Day, Sum::F64(sum)) = (self.step, &mut summary.sum) {
                let hours = rows.chunk_by(|a, b| Step::Hour.number(a.0) == Step::Hour.number(b.0));
                *sum = hours.fold(0.0, |day, rows| match cells(rows).sum {
                    Sum::F64(hour) => day + hour,
                    Sum::I64(_) => panic!("doubles"),
                });
            }
            push(&mut out, field_type, &summary);
            match (&mut out.sum, summary.sum) {
                (StepSums::F64(own), Sum::F64(sum)) => own.push(sum),
                (StepSums::I64(_), Sum::F64(_)) => sums.as_mut().into_iter().for_each(|sums| sums.push(0)),
                (StepSums::I64(_), Sum::I64(sum)) => match (i64::try_from(sum), &mut sums) {
                    (Ok(sum), Some(sums)) => sums.push(sum),
                    _ => sums = None,
                },
                _ => {}
            }
        }
        if field_type == FieldType::I64 {
            out.sum = sums.map_or(StepSums::None, StepSums::I64);
        }
        out
    }
}

fn push(out: &mut StepField, field_type: FieldType, summary: &Summary) {
    out.count.push(summary.count);
    let number = matches!(field_type, FieldType::F64 | FieldType::I64);
    out.nan.push(if number { summary.count - summary.numbers } else { 0 });
    let bound = |scalar: Scalar| if summary.numbers > 0 { Cell::from(scalar) } else { Cell::Null };
    bound(summary.min).push_to(&mut out.min);
    bound(summary.max).push_to(&mut out.max);
    for (end, column, times) in
        [(&summary.first, &mut out.first, &mut out.first_at), (&summary.last, &mut out.last, &mut out.last_at)]
    {
        let value = end.as_ref().filter(|_| field_type != FieldType::Utf8);
        value.map_or(Cell::Null, |(_, cell)| cell.clone()).push_to(column);
        times.push(value.map_or(0, |(time, _)| *time));
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
