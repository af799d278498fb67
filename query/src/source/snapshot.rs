//! Owns the engine's snapshot as a source of queries: each method is the engine's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewell_engine::{
    Error, FieldStats, NarrowRows, Rows, Snapshot, Step, StepPart, StepRows, TableSchema, TableView,
};

use super::{Newest, Part, Source, Steps, Stretch, Stretches, Table};

impl Source for Snapshot {
    type Table = TableView;

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables()
    }

    fn table(&self, name: &str) -> Option<TableView> {
        self.table(name)
    }

    fn attributes(&self, device: &str) -> Option<Arc<BTreeMap<String, String>>> {
        self.attributes(device)
    }
}

impl Table for TableView {
    type Part = tidewell_engine::Part;
    type Steps = StepPart;
    type Newest = tidewell_engine::Newest;

    fn schema(&self) -> &Arc<TableSchema> {
        self.schema()
    }

    fn devices(&self) -> Result<Vec<Arc<str>>, Error> {
        self.devices()
    }

    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<Self::Part>, Error> {
        self.scan(device, start, end, fields)
    }

    fn scan_back(&self, device: &Arc<str>, end: i64, fields: &Arc<[usize]>) -> Self::Newest {
        self.scan_back(device, end, fields)
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
        let stretches = self.scan_steps(device, start, end, fields, steps, usable)?;
        let own = |stretch| match stretch {
            tidewell_engine::Stretch::Rows(part) => Stretch::Rows(part),
            tidewell_engine::Stretch::Steps(part) => Stretch::Steps(part),
        };
        Ok(stretches.into_iter().map(own).collect())
    }
}

impl Part for tidewell_engine::Part {
    fn time_range(&self) -> (i64, i64) {
        self.time_range()
    }

    fn rows_max(&self) -> usize {
        self.rows_max()
    }

    fn stats(&self, field: usize) -> Option<FieldStats> {
        self.stats(field)
    }

    fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<(), Error> {
        self.load_fields(which, rows)
    }

    fn narrow(&self, which: &[usize], rows: &mut NarrowRows) -> Result<bool, Error> {
        self.narrow(which, rows)
    }

    fn narrow_times(&self, rows: &mut NarrowRows) -> Result<(), Error> {
        self.narrow_times(rows)
    }
}

impl Newest for tidewell_engine::Newest {
    type Part = tidewell_engine::Part;

    fn next_part(&mut self) -> Result<Option<Self::Part>, Error> {
        self.next_part()
    }
}

impl Steps for StepPart {
    fn step(&self) -> Step {
        self.step()
    }

    fn time_range(&self) -> (i64, i64) {
        self.time_range()
    }

    fn load(&self, rows: &mut StepRows) -> Result<(), Error> {
        self.load(rows)
    }
}
