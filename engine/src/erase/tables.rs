//! Owns tables as an operator sees, drops and renames them: the moment between two batches at which no row of any shard is in
//! memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use tidewell_codec::check_table_name;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::{Edit, Retention};
use crate::quarantine::{shadow_of, table_of};
use crate::types::TableSchema;

/// How long the shards may take to write what they have in memory while no batch is taken. It was written just before, so
/// that only a disk without room needs longer.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What may become of a table.
enum Change {
    Drop(Arc<str>),
    Rename(Arc<str>, Arc<str>),
}

impl Change {
    fn table(&self) -> &str {
        match self {
            Self::Drop(table) | Self::Rename(table, _) => table,
        }
    }

    fn edit(&self) -> Edit {
        match self {
            Self::Drop(table) => Edit::TableDropped { table: table.clone() },
            Self::Rename(from, to) => Edit::TableRenamed { from: from.clone(), to: to.clone() },
        }
    }

    /// The same for the table of rows in quarantine.
    fn of_shadow(&self) -> Self {
        match self {
            Self::Drop(table) => Self::Drop(shadow_of(table).into()),
            Self::Rename(from, to) => Self::Rename(shadow_of(from).into(), shadow_of(to).into()),
        }
    }
}

/// A table as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFigures {
    /// Its name and fields.
    pub schema: Arc<TableSchema>,
    /// Files.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Their rows, some of which may be gone for readers.
    pub segment_rows: u64,
    /// First and last time in them.
    pub time_range: Option<(i64, i64)>,
    /// For how long rows are kept.
    pub retention: Retention,
    /// First time that is still there, where something was cut off.
    pub cut_off: Option<i64>,
    /// Deletes that files still have rows of, those of all tables included.
    pub erasures: u64,
}

impl Engine {
    /// All tables, sorted by name; without those that keep rows in quarantine.
    pub fn tables(&self) -> Vec<TableFigures> {
        let manifest = self.manifest.lock();
        let state = manifest.state();
        let tables = self.catalog.tables().into_iter().filter(|table| table_of(&table.name).is_none());
        let mut figures: Vec<TableFigures> = tables
            .map(|schema| TableFigures {
                segments: 0,
                segment_bytes: 0,
                segment_rows: 0,
                time_range: None,
                retention: state.retention.get(&schema.name).copied().unwrap_or_default(),
                cut_off: state.cut_offs.get(&schema.name).copied(),
                erasures: state.erasures.values().filter(|erasure| erasure.covers_table(&schema.name)).count() as u64,
                schema,
            })
            .collect();
        for meta in state.segments.values() {
            let Ok(at) = figures.binary_search_by(|table| table.schema.name.cmp(&meta.table)) else { continue };
            let table = &mut figures[at];
            table.segments += 1;
            table.segment_bytes += meta.bytes;
            table.segment_rows += meta.rows;
            let (first, last) = table.time_range.unwrap_or((i64::MAX, i64::MIN));
            table.time_range = Some((first.min(meta.time_min), last.max(meta.time_max)));
        }
        figures
    }

    /// Takes a table away, with all rows, its policy, its erasures. A batch that comes later makes it anew, with fields of
    /// any type. A crash leaves all of it or nothing.
    ///
    /// # Errors
    /// There is no such table, or a failed write: nothing happened.
    pub fn drop_table(&self, table: &str) -> Result<()> {
        self.change_tables(&|| {
            self.require_table(table)?;
            Ok(Change::Drop(table.into()))
        })
    }

    /// Gives a table another name; everything else of it stays. A batch that comes later under the old name makes a table anew.
    ///
    /// # Errors
    /// There is no such table, the new name is taken or no name, or a failed write: nothing happened.
    pub fn rename_table(&self, from: &str, to: &str) -> Result<()> {
        check_table_name(to).map_err(|error| Error::Invalid(error.to_string()))?;
        self.change_tables(&|| {
            self.require_table(from)?;
            if self.catalog.table(to).is_some() {
                return Err(Error::Invalid(format!("table {from} cannot become {to}: there is such a table")));
            }
            if self.catalog.table(&shadow_of(to)).is_some() {
                return Err(Error::Invalid(format!(
                    "table {from} cannot become {to}: rows of a table of that name wait in quarantine; release or drop them"
                )));
            }
            Ok(Change::Rename(from.into(), to.into()))
        })
    }

    /// That there is such a table.
    pub(crate) fn require_table(&self, table: &str) -> Result<()> {
        if self.catalog.table(table).is_some() {
            return Ok(());
        }
        let known: Vec<String> = self.tables().iter().map(|table| table.schema.name.to_string()).collect();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        Err(Error::Invalid(format!("there is no table {table}; tables: {known}")))
    }

    /// Makes the change while every shard stands still with empty memory: no row of the old table is outside segments, and no
    /// batch that was checked against the old tables is between check and log.
    fn change_tables(&self, change: &dyn Fn() -> Result<Change>) -> Result<()> {
        // Refused before the shards are bothered; asked again when they stand still.
        change()?;
        // Two at a time would wait for each other's shards.
        let _alone = self.changing_tables.lock();
        // The long part first, while batches are taken.
        self.flush()?;
        let mut held = Vec::new();
        let mut waits = Vec::new();
        for shard in &self.shards {
            let (resume, resumed) = bounded::<()>(0);
            waits.push(shard.sender.pause(resumed)?);
            held.push(resume);
        }
        let deadline = Instant::now() + PAUSE_MAX;
        waits.into_iter().try_for_each(|wait| wait.wait_until(deadline))?;
        let change = change()?;
        // Rows in quarantine go with their table.
        let changes = [change.of_shadow(), change];
        let mut manifest = self.manifest.lock();
        // A table that no flush has met yet is in the catalog only.
        let known = |change: &&Change| manifest.state().table(change.table()).is_some();
        let edits: Vec<Edit> = changes.iter().filter(known).map(Change::edit).collect();
        manifest.append(&edits)?;
        // Snapshots are taken before all of this or after it.
        let _moment = self.moment.write();
        for change in &changes {
            match change {
                Change::Drop(table) => self.catalog.drop_table(table),
                Change::Rename(from, to) => self.catalog.rename_table(from, to),
            }
        }
        for (number, shard) in (0..).zip(&self.shards) {
            shard.view.change_tables(manifest.state(), number);
        }
        drop(held);
        Ok(())
    }
}
