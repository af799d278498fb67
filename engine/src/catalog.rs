//! Owns the tables of the node and their field types; does not store rows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::RwLock;
use tidewell_codec::Batch;

use crate::error::{Refusal, RefusalCode};
use crate::limits::{TABLE_FIELDS_MAX, TABLES_MAX};
use crate::types::{FieldDef, TableSchema};

/// All tables. A schema only ever grows while the table is there: a field keeps its index and its type.
#[derive(Default)]
pub struct Catalog {
    tables: RwLock<Arc<Tables>>,
}

/// Tables of one moment, by name.
pub type Tables = HashMap<Arc<str>, Arc<TableSchema>>;

impl Catalog {
    /// A catalog that knows `tables`.
    pub fn new(tables: Vec<TableSchema>) -> Self {
        let tables = tables.into_iter().map(|t| (Arc::clone(&t.name), Arc::new(t))).collect();
        Self { tables: RwLock::new(Arc::new(tables)) }
    }

    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<Arc<TableSchema>> {
        self.tables.read().get(name).cloned()
    }

    /// All tables, sorted by name.
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        sorted(&self.tables.read())
    }

    /// The tables of this moment.
    pub fn load(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read())
    }

    /// Forgets a table: a batch may make it anew.
    pub fn drop_table(&self, name: &str) {
        Arc::make_mut(&mut self.tables.write()).remove(name);
    }

    /// Gives a table another name.
    pub fn rename_table(&self, from: &str, to: &Arc<str>) {
        let mut tables = self.tables.write();
        let tables = Arc::make_mut(&mut tables);
        if let Some(table) = tables.remove(from) {
            let table = TableSchema { name: Arc::clone(to), fields: table.fields.clone() };
            tables.insert(Arc::clone(to), Arc::new(table));
        }
    }

    /// Makes sure that the batch's table has its fields with their types, adding what is new.
    ///
    /// # Errors
    /// A field of another type, by table, field, has and got; too many tables or fields. Nothing is added then.
    pub fn admit(&self, batch: &Batch) -> Result<Arc<TableSchema>, Refusal> {
        self.admit_to(&batch.table, batch)
    }

    /// As [`Catalog::admit`], for the table called `name` whatever the batch says.
    ///
    /// # Errors
    /// As [`Catalog::admit`].
    pub fn admit_to(&self, name: &str, batch: &Batch) -> Result<Arc<TableSchema>, Refusal> {
        if let Some(table) = self.tables.read().get(name)
            && missing_fields(table, batch)?.is_empty()
        {
            return Ok(Arc::clone(table));
        }
        let mut tables = self.tables.write();
        let mut table = match tables.get(name) {
            Some(table) => TableSchema::clone(table),
            None if tables.len() >= TABLES_MAX => {
                return Err(Refusal::new(
                    RefusalCode::TooLarge,
                    format!("table {name} would be one more than the {TABLES_MAX} tables that a node holds"),
                ));
            }
            None => TableSchema { name: name.into(), fields: Vec::new() },
        };
        // Between the two locks another batch may have added the same fields: look again.
        let missing = missing_fields(&table, batch)?;
        if table.fields.len() + missing.len() > TABLE_FIELDS_MAX {
            return Err(Refusal::new(
                RefusalCode::TooLarge,
                format!(
                    "table {} has {} fields and the batch brings {} new ones; a table holds {TABLE_FIELDS_MAX}",
                    table.name,
                    table.fields.len(),
                    missing.len()
                ),
            ));
        }
        table.fields.extend(missing);
        let table = Arc::new(table);
        // Snapshots that hold the tables of before keep them: few tables, and seldom a new field.
        Arc::make_mut(&mut tables).insert(Arc::clone(&table.name), Arc::clone(&table));
        Ok(table)
    }
}

/// The tables, sorted by name.
pub fn sorted(tables: &Tables) -> Vec<Arc<TableSchema>> {
    let mut tables: Vec<_> = tables.values().cloned().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}

/// Fields of `batch` that `table` does not have.
fn missing_fields(table: &TableSchema, batch: &Batch) -> Result<Vec<FieldDef>, Refusal> {
    let mut missing = Vec::new();
    for (index, field) in batch.fields.iter().enumerate() {
        let got = field.column.field_type();
        // Batches usually list a table's fields in the table's order.
        let known = match table.fields.get(index) {
            Some(same) if *same.name == *field.name => Some(same),
            _ => table.field(&field.name).map(|(_, def)| def),
        };
        match known {
            Some(def) if def.field_type == got => {}
            Some(def) => {
                return Err(Refusal::new(
                    RefusalCode::TypeConflict,
                    format!(
                        "field {} of table {} has type {}, the batch brings {got}",
                        field.name, table.name, def.field_type
                    ),
                ));
            }
            None => missing.push(FieldDef { name: field.name.as_str().into(), field_type: got }),
        }
    }
    Ok(missing)
}
