//! Owns a source of queries whose blocks are decoded already, so that a bench times the kernels; has no statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewell_engine::{Error, FieldStats, Rows, Step, StepPart, TableSchema, TableView};
use tidewell_query::source::{Newest, Part, Source, Stretch, Stretches, Table};

/// One table's rows as decoded blocks.
#[derive(Clone)]
pub struct Decoded(Arc<Decodings>);

struct Decodings {
    schema: Arc<TableSchema>,
    /// All fields of each device's blocks, in time order.
    devices: BTreeMap<Arc<str>, Vec<Arc<Rows>>>,
}

impl Decoded {
    /// Decodes all of `table`.
    pub fn of(table: &TableView) -> Self {
        let fields: Vec<usize> = (0..table.schema().fields.len()).collect();
        let decode = |device: &Arc<str>| {
            let parts = table.scan(device, i64::MIN, i64::MAX, &fields).expect("a good segment");
            let blocks = parts.iter().map(|part| {
                let mut rows = Rows::default();
                part.load(&mut rows).expect("a good block");
                Arc::new(rows)
            });
            (Arc::clone(device), blocks.collect())
        };
        let devices = table.devices().expect("a good index").iter().map(decode).collect();
        Self(Arc::new(Decodings { schema: Arc::clone(table.schema()), devices }))
    }
}

impl Source for Decoded {
    type Table = Self;

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        vec![Arc::clone(&self.0.schema)]
    }

    fn table(&self, name: &str) -> Option<Self> {
        (*self.0.schema.name == *name).then(|| self.clone())
    }

    fn attributes(&self, _: &str) -> Option<Arc<BTreeMap<String, String>>> {
        None
    }
}

impl Table for Decoded {
    type Part = DecodedPart;
    type Steps = StepPart;
    type Newest = DecodedParts;

    fn schema(&self) -> &Arc<TableSchema> {
        &self.0.schema
    }

    fn devices(&self) -> Result<Vec<Arc<str>>, Error> {
        Ok(self.0.devices.keys().cloned().collect())
    }

    /// Questions of the benches cover all rows, so that no block is cut.
    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<DecodedPart>, Error> {
        let blocks = self.0.devices.get(device).into_iter().flatten();
        let parts = blocks.map(|rows| {
            assert!(rows.times[0] >= start && rows.times[rows.times.len() - 1] < end, "a block that the range cuts");
            DecodedPart { rows: Arc::clone(rows), fields: fields.into() }
        });
        Ok(parts.collect())
    }

    fn scan_back(&self, device: &Arc<str>, end: i64, fields: &Arc<[usize]>) -> DecodedParts {
        DecodedParts(self.scan(device, i64::MIN, end, fields).expect("blocks in memory").into_iter().rev())
    }

    fn scan_steps(
        &self,
        device: &str,
        start: i64,
        end: i64,
        fields: &[usize],
        _: &[Step],
        _: &dyn Fn(Step, i64) -> bool,
    ) -> Result<Stretches<Self>, Error> {
        Ok(self.scan(device, start, end, fields)?.into_iter().map(Stretch::Rows).collect())
    }
}

/// The blocks of one device, the newest first.
pub struct DecodedParts(std::iter::Rev<std::vec::IntoIter<DecodedPart>>);

impl Newest for DecodedParts {
    type Part = DecodedPart;

    fn next_part(&mut self) -> Result<Option<DecodedPart>, Error> {
        Ok(self.0.next())
    }
}

/// One block. Loading copies the asked columns, which costs little beside what is computed from them.
pub struct DecodedPart {
    rows: Arc<Rows>,
    fields: Vec<usize>,
}

impl Part for DecodedPart {
    fn time_range(&self) -> (i64, i64) {
        (self.rows.times[0], self.rows.times[self.rows.times.len() - 1])
    }

    fn rows_max(&self) -> usize {
        self.rows.times.len()
    }

    fn stats(&self, _: usize) -> Option<FieldStats> {
        None
    }

    fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<(), Error> {
        rows.times.clear();
        rows.times.extend_from_slice(&self.rows.times);
        rows.columns.clear();
        for (at, field) in self.fields.iter().enumerate() {
            let source = &self.rows.columns[*field];
            let mut column = tidewell_codec::Column::new(source.field_type());
            if which.contains(&at) {
                column.extend_from(source, 0..source.len());
            }
            rows.columns.push(column);
        }
        Ok(())
    }
}
