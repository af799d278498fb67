//! Owns what the manifest's edits add up to; does no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::edit::Edit;
use super::erasure::{Erasure, Retention};
use super::heads::heads_name;
use crate::limits::SHARDS_MAX;
use crate::registry::Registry;
use crate::segment::segment_name;
use crate::summary::{SummaryMeta, summary_name};
use crate::types::{FieldDef, LogPosition, TableSchema};

/// What the manifest knows about a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its number, never used again.
    pub id: u64,
    /// The shard that wrote it.
    pub shard: u32,
    /// The table whose rows it holds.
    pub table: Arc<str>,
    /// 0 for a flushed memtable, higher after compaction.
    pub level: u8,
    /// Smallest flush number in it: its place in log order.
    pub seq_min: u64,
    /// Largest flush number in it.
    pub seq_max: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Time of the first row.
    pub time_min: i64,
    /// Time of the last row.
    pub time_max: i64,
    /// Highest number of an erasure that was carried out when it was written: it has no row of it or of any lower one.
    pub clean: u64,
}

/// What the data directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestState {
    /// Shards; 0 before [`Edit::Created`].
    pub shard_count: u32,
    /// When the directory was made.
    pub created_ns: i64,
    /// Tables in the order in which they appeared.
    pub tables: Vec<TableSchema>,
    /// Segments that belong to the data.
    pub segments: BTreeMap<u64, SegmentMeta>,
    /// Per shard, where replay starts.
    pub released: Vec<LogPosition>,
    /// Per shard, the number of its heads file.
    pub heads_files: Vec<Option<u64>>,
    /// Attributes of devices that have some.
    pub attributes: Registry,
    /// Deletes that files still have rows of, by number.
    pub erasures: BTreeMap<u64, Erasure>,
    /// How long tables keep their rows, where it is not for ever.
    pub retention: BTreeMap<Arc<str>, Retention>,
    /// First time that a table still has, where something was cut off.
    pub cut_offs: BTreeMap<Arc<str>, i64>,
    /// Summaries, by the segment that they tell of and their own number. One whose segment is not there stands for it.
    pub summaries: BTreeMap<(u64, u64), SummaryMeta>,
    /// A number that no segment and no summary has had.
    pub next_segment_id: u64,
    /// A number that no heads file has had.
    pub next_heads_id: u64,
}

impl ManifestState {
    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.tables.iter().find(|table| &*table.name == name)
    }

    /// Applies one edit.
    ///
    /// # Errors
    /// Says why the edit contradicts the state, which is then unchanged.
    pub fn apply(&mut self, edit: &Edit) -> Result<(), String> {
        if self.shard_count == 0 && !matches!(edit, Edit::Created { .. }) {
            return Err("an edit before the data directory was made".to_owned());
        }
        match edit {
            Edit::Created { shards, created_ns } => {
                if self.shard_count != 0 || *shards == 0 {
                    return Err(format!("a data directory made with {shards} shards, having {}", self.shard_count));
                }
                if *shards > SHARDS_MAX {
                    return Err(format!("a data directory made with {shards} shards, at most {SHARDS_MAX} can be"));
                }
                self.shard_count = *shards;
                self.created_ns = *created_ns;
                self.released = vec![LogPosition::default(); *shards as usize];
                self.heads_files = vec![None; *shards as usize];
            }
            Edit::Field { table, field, field_type } => {
                let definition = FieldDef { name: field.clone(), field_type: *field_type };
                match self.tables.iter_mut().find(|known| known.name == *table) {
                    None => self.tables.push(TableSchema { name: table.clone(), fields: vec![definition] }),
                    Some(known) => match known.field(field) {
                        Some((_, old)) if old.field_type != *field_type => {
                            let old = old.field_type;
                            return Err(format!("field {field} of table {table} as {field_type}, being {old}"));
                        }
                        Some(_) => {}
                        None => known.fields.push(definition),
                    },
                }
            }
            Edit::SegmentAdded(meta) => {
                self.check_shard(meta.shard)?;
                if self.segments.contains_key(&meta.id) {
                    return Err(format!("segment {} added twice", meta.id));
                }
                self.next_segment_id = self.next_segment_id.max(meta.id.saturating_add(1));
                self.segments.insert(meta.id, meta.clone());
            }
            Edit::SegmentRemoved { id } => {
                if self.segments.remove(id).is_none() {
                    return Err(format!("segment {id} removed, not being there"));
                }
                // What is to stay is added again behind this edit: nothing can be left standing by mistake.
                for summary in self.summaries_of(*id).map(|meta| meta.id).collect::<Vec<_>>() {
                    self.summaries.remove(&(*id, summary));
                }
            }
            Edit::LogReleased { shard, position } => {
                self.check_shard(*shard)?;
                let released = &mut self.released[*shard as usize];
                if position < released {
                    return Err(format!("log of shard {shard} released before {position:?}, after {released:?}"));
                }
                *released = *position;
            }
            Edit::ProducerHeads { shard, number } => {
                self.check_shard(*shard)?;
                self.next_heads_id = self.next_heads_id.max(number.saturating_add(1));
                self.heads_files[*shard as usize] = Some(*number);
            }
            Edit::Attributes { device, pairs } => {
                self.attributes.set(device, pairs);
            }
            Edit::NextIds { segment, heads } => {
                self.next_segment_id = self.next_segment_id.max(*segment);
                self.next_heads_id = self.next_heads_id.max(*heads);
            }
            Edit::ErasureAdded(erasure) => {
                self.check_shard(erasure.shard)?;
                if self.erasures.contains_key(&erasure.number) {
                    return Err(format!("erasure {} added twice", erasure.number));
                }
                self.erasures.insert(erasure.number, erasure.clone());
            }
            Edit::ErasureRemoved { number } => {
                if self.erasures.remove(number).is_none() {
                    return Err(format!("erasure {number} removed, not being there"));
                }
            }
            Edit::RetentionSet { table, retention } => {
                if retention.is_for_ever() {
                    self.retention.remove(table);
                } else {
                    self.retention.insert(table.clone(), *retention);
                }
            }
            Edit::CutOff { table, raw_before_ns } => {
                if *raw_before_ns == i64::MIN {
                    self.cut_offs.remove(table);
                } else {
                    self.cut_offs.insert(table.clone(), *raw_before_ns);
                }
            }
            Edit::TableDropped { table } => self.drop_table(table)?,
            Edit::TableRenamed { from, to } => self.rename_table(from, to)?,
            Edit::SummaryAdded(meta) => {
                self.check_shard(meta.shard)?;
                if self.segments.contains_key(&meta.id) || self.summaries.contains_key(&(meta.segment, meta.id)) {
                    return Err(format!("summary {} added, its number being taken", meta.id));
                }
                self.next_segment_id = self.next_segment_id.max(meta.id.saturating_add(1));
                self.summaries.insert((meta.segment, meta.id), meta.clone());
            }
            Edit::SummaryRemoved { segment, id } => {
                if self.summaries.remove(&(*segment, *id)).is_none() {
                    return Err(format!("summary {id} of segment {segment} removed, not being there"));
                }
            }
        }
        Ok(())
    }

    /// The summaries of a segment.
    pub fn summaries_of(&self, segment: u64) -> impl Iterator<Item = &SummaryMeta> {
        self.summaries.range((segment, 0)..=(segment, u64::MAX)).map(|(_, meta)| meta)
    }

    fn drop_table(&mut self, table: &str) -> Result<(), String> {
        let at = self.tables.iter().position(|known| &*known.name == table);
        self.tables.remove(at.ok_or_else(|| format!("table {table} dropped, not being there"))?);
        self.segments.retain(|_, meta| &*meta.table != table);
        self.summaries.retain(|_, meta| &*meta.table != table);
        self.erasures.retain(|_, erasure| erasure.table.as_deref() != Some(table));
        self.retention.remove(table);
        self.cut_offs.remove(table);
        Ok(())
    }

    fn rename_table(&mut self, from: &str, to: &Arc<str>) -> Result<(), String> {
        if self.table(to).is_some() {
            return Err(format!("table {from} renamed to {to}, which is there"));
        }
        let table = self.tables.iter_mut().find(|known| &*known.name == from);
        table.ok_or_else(|| format!("table {from} renamed, not being there"))?.name = to.clone();
        for meta in self.segments.values_mut().filter(|meta| &*meta.table == from) {
            meta.table = to.clone();
        }
        for meta in self.summaries.values_mut().filter(|meta| &*meta.table == from) {
            meta.table = to.clone();
        }
        for erasure in self.erasures.values_mut().filter(|erasure| erasure.table.as_deref() == Some(from)) {
            erasure.table = Some(to.clone());
        }
        if let Some(retention) = self.retention.remove(from) {
            self.retention.insert(to.clone(), retention);
        }
        if let Some(cut_off) = self.cut_offs.remove(from) {
            self.cut_offs.insert(to.clone(), cut_off);
        }
        Ok(())
    }

    /// Names of the immutable files that stay for as long as this state lists them, and that a reader can hold.
    pub fn lasting_files(&self) -> Vec<String> {
        let summaries = self.summaries.keys().map(|(_, id)| summary_name(*id));
        self.segments.keys().map(|id| segment_name(*id)).chain(summaries).collect()
    }

    /// Names of the heads files: replaced at each flush.
    pub fn heads_names(&self) -> Vec<String> {
        let numbers = (0..).zip(&self.heads_files);
        numbers.filter_map(|(shard, number)| number.map(|number| heads_name(shard, number))).collect()
    }

    /// A number above those of all erasures that are there or that a segment says to be clean of.
    pub fn next_erasure(&self) -> u64 {
        let clean = self.segments.values().map(|meta| meta.clean).max().unwrap_or(0);
        self.erasures.keys().next_back().copied().unwrap_or(0).max(clean) + 1
    }

    /// Edits that make this state out of an empty one.
    pub fn snapshot(&self) -> Vec<Edit> {
        let mut edits = vec![Edit::Created { shards: self.shard_count, created_ns: self.created_ns }];
        for table in &self.tables {
            edits.extend(table.fields.iter().map(|field| Edit::Field {
                table: table.name.clone(),
                field: field.name.clone(),
                field_type: field.field_type,
            }));
        }
        edits.extend(self.segments.values().cloned().map(Edit::SegmentAdded));
        edits.extend(self.summaries.values().cloned().map(Edit::SummaryAdded));
        for (shard, position) in (0..).zip(&self.released) {
            edits.push(Edit::LogReleased { shard, position: *position });
        }
        for (shard, number) in (0..).zip(&self.heads_files) {
            edits.extend(number.map(|number| Edit::ProducerHeads { shard, number }));
        }
        edits.extend(
            self.attributes
                .sorted()
                .into_iter()
                .map(|(device, pairs)| Edit::Attributes { device, pairs: Arc::new(pairs) }),
        );
        edits.extend(self.erasures.values().cloned().map(Edit::ErasureAdded));
        edits.extend(
            self.retention
                .iter()
                .map(|(table, retention)| Edit::RetentionSet { table: table.clone(), retention: *retention }),
        );
        edits.extend(
            self.cut_offs.iter().map(|(table, time)| Edit::CutOff { table: table.clone(), raw_before_ns: *time }),
        );
        edits.push(Edit::NextIds { segment: self.next_segment_id, heads: self.next_heads_id });
        edits
    }

    fn check_shard(&self, shard: u32) -> Result<(), String> {
        if shard < self.shard_count { Ok(()) } else { Err(format!("shard {shard} of {}", self.shard_count)) }
    }
}
