//! Owns the engine's snapshot as a source of queries; does not add anything to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewell_engine::{Error, FieldStats, Rows, Snapshot, TableSchema, TableView};

use super::{Part, Source, Table};

impl Source for Snapshot {
    type Table = TableView;

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        Snapshot::tables(self)
    }

    fn table(&self, name: &str) -> Option<TableView> {
        Snapshot::table(self, name)
    }

    fn attributes(&self, device: &str) -> Option<Arc<BTreeMap<String, String>>> {
        Snapshot::attributes(self, device)
    }
}

impl Table for TableView {
    type Part = tidewell_engine::Part;

    fn schema(&self) -> &Arc<TableSchema> {
        TableView::schema(self)
    }

    fn devices(&self) -> Result<Vec<Arc<str>>, Error> {
        TableView::devices(self)
    }

    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<Self::Part>, Error> {
        TableView::scan(self, device, start, end, fields)
    }
}

impl Part for tidewell_engine::Part {
    fn time_range(&self) -> (i64, i64) {
        tidewell_engine::Part::time_range(self)
    }

    fn rows_max(&self) -> usize {
        tidewell_engine::Part::rows_max(self)
    }

    fn stats(&self, field: usize) -> Option<FieldStats> {
        tidewell_engine::Part::stats(self, field)
    }

    fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<(), Error> {
        tidewell_engine::Part::load_fields(self, which, rows)
    }
}
