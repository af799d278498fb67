//! Owns the seam to stored data, as the engine's snapshot gives it; does not hold data.
//!
//! The traits mirror the engine's `Snapshot`, `TableView` and `Part` method by method. They exist so that answers can be
//! tested against a naive store in memory; every use is generic, so no call in a loop goes through a table.

mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewell_engine::{Error, FieldStats, NarrowRows, Rows, Step, StepRows, TableSchema};

/// Data of one moment. Cheap to clone.
pub trait Source: Clone + Send + Sync + 'static {
    /// One table of that moment.
    type Table: Table;

    /// All tables, sorted by name.
    fn tables(&self) -> Vec<Arc<TableSchema>>;
    /// The table called `name`.
    fn table(&self, name: &str) -> Option<Self::Table>;
    /// The attributes of a device; `None` when the device is unknown.
    fn attributes(&self, device: &str) -> Option<Arc<BTreeMap<String, String>>>;
}

/// One table of one moment.
pub trait Table: Sized + Send + Sync + 'static {
    /// Rows of one device that lie together in time.
    type Part: Part;
    /// Aggregates of whole steps that stand for rows.
    type Steps: Steps;
    /// Parts of a device, the newest first.
    type Newest: Newest<Part = Self::Part>;

    /// Name and fields.
    fn schema(&self) -> &Arc<TableSchema>;
    /// Devices that have rows here, sorted by id.
    fn devices(&self) -> Result<Vec<Arc<str>>, Error>;
    /// The rows of `device` with `start <= time < end`, as parts in time order that do not overlap. `fields` are indexes
    /// into the schema.
    fn scan(&self, device: &str, start: i64, end: i64, fields: &[usize]) -> Result<Vec<Self::Part>, Error>;
    /// The rows of `device` before `end` as parts that do not overlap, the newest first, found as they are read.
    fn scan_back(&self, device: &Arc<str>, end: i64, fields: &Arc<[usize]>) -> Self::Newest;
    /// The rows of [`Self::scan`], with aggregates of whole steps in the place of rows where they are stored, nothing else lies at
    /// their time, and `usable` says of the step's length and start that they serve. `steps` are the lengths that may be
    /// used, longest first; a step that `usable` takes lies wholly inside the range.
    fn scan_steps(
        &self,
        device: &str,
        start: i64,
        end: i64,
        fields: &[usize],
        steps: &[Step],
        usable: &dyn Fn(Step, i64) -> bool,
    ) -> Result<Stretches<Self>, Error>;
}

/// What a scan by steps gives: disjoint, in time order.
pub type Stretches<T> = Vec<Stretch<<T as Table>::Part, <T as Table>::Steps>>;

/// A stretch of time in the answer of a scan by steps.
pub enum Stretch<P, S> {
    /// Rows as they were written.
    Rows(P),
    /// Aggregates that stand for them.
    Steps(S),
}

/// Rows of one device that lie together in time, perhaps not decoded yet. Indexes are into the `fields` of the scan.
pub trait Part: Send + 'static {
    /// First and last time inside, both inclusive; for a part cut by the range, a bound that may be wider.
    fn time_range(&self) -> (i64, i64);
    /// Most rows that loading can give.
    fn rows_max(&self) -> usize;
    /// Exact statistics; present only when every row of the part lies inside the range of the scan.
    fn stats(&self, field: usize) -> Option<FieldStats>;
    /// Replaces the content of `rows` by the times and the columns `which`; other columns are left empty.
    fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<(), Error>;
    /// Gives the columns `which` in narrow form; false when the part has none, and then it has to be loaded.
    fn narrow(&self, which: &[usize], rows: &mut NarrowRows) -> Result<bool, Error> {
        let _ = (which, rows);
        Ok(false)
    }
    /// Adds the times to what [`Part::narrow`] gave.
    fn narrow_times(&self, rows: &mut NarrowRows) -> Result<(), Error> {
        let _ = rows;
        Ok(())
    }
}

/// Parts of one device, the newest first.
pub trait Newest: Send + 'static {
    /// Rows that lie together in time.
    type Part: Part;

    /// The next older part.
    fn next_part(&mut self) -> Result<Option<Self::Part>, Error>;
}

/// Aggregates of a run of steps of one length, perhaps not decoded yet.
pub trait Steps: Send + 'static {
    /// The length of the steps.
    fn step(&self) -> Step;
    /// Start of the first step and last time of the last, both inclusive.
    fn time_range(&self) -> (i64, i64);
    /// Replaces the content of `rows` by the steps that have rows, with all fields of the scan.
    fn load(&self, rows: &mut StepRows) -> Result<(), Error>;
}

#[cfg(test)]
pub(crate) mod memory;
