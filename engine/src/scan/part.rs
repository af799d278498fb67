//! Owns one piece of a scan's answer, decoded and merged only when it is loaded; does not decide what is in it.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Bitmap, Column, NarrowColumn, Text, Values};

use super::merge::merge;
use super::narrow::{BlockSource, NarrowRows};
use crate::damage::Skipped;
use crate::error::{Error, Result};
use crate::memory::Held;
use crate::segment::{DeviceBlocks, empty_stats};
use crate::types::{FieldDef, FieldStats, Rows};

/// Rows of one device in a range of time: one block that nothing else overlaps, or several pieces to merge.
///
/// Holds what it reads from (mapped segments, rows in memory), so it can be loaded at any time, on any thread, and more
/// than once. Rows that have no value in any of the asked fields are part of the answer, too.
pub struct Part {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) fields: Arc<[FieldDef]>,
    /// In log order.
    pub(super) pieces: Vec<Piece>,
    /// One piece that is a block wholly inside the range.
    pub(super) whole: bool,
    /// What the rows in memory count for, while a part of them lives.
    pub(super) held: Option<Arc<Held>>,
    /// For readers that go without damaged blocks instead of failing.
    pub(super) without: Option<Arc<Without>>,
}

/// Whose rows are read, and where it is noted which of them are missing.
pub(crate) struct Without {
    pub(crate) device: Arc<str>,
    pub(crate) skipped: Arc<Skipped>,
}

/// One source's contribution; clipped to times `first..=last`.
pub(super) struct Piece {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) rows_max: usize,
    pub(super) data: Data,
}

pub(super) enum Data {
    Block(BlockSource),
    Rows { rows: Arc<Rows>, range: Range<usize> },
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("first", &self.first)
            .field("last", &self.last)
            .field("pieces", &self.pieces.len())
            .field("rows_max", &self.rows_max())
            .finish_non_exhaustive()
    }
}

impl Part {
    /// Keeps `held` for as long as this part.
    pub(crate) fn hold(&mut self, held: &Arc<Held>) {
        self.held = Some(Arc::clone(held));
    }

    /// A first and a last time, both inclusive, that enclose all rows; exact for a whole block.
    pub fn time_range(&self) -> (i64, i64) {
        (self.first, self.last)
    }

    /// At most so many rows; exact for a whole block.
    pub fn rows_max(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rows_max).sum()
    }

    /// Makes the part leave damaged blocks out and take note of them, instead of failing. A block that turns out to be
    /// damaged when a second load reads other fields gives no row from then on.
    pub(crate) fn go_without(&mut self, without: &Arc<Without>) {
        self.without = Some(Arc::clone(without));
    }

    /// The fields of the scan, in the order of the loaded columns.
    pub fn fields(&self) -> &Arc<[FieldDef]> {
        &self.fields
    }

    /// The zone map of `field` (an index into the scan's fields). `None` unless the part is a whole block whose meta is
    /// undamaged; damage is reported by [`Part::load`].
    pub fn stats(&self, field: usize) -> Option<FieldStats> {
        let [Piece { data: Data::Block(source), .. }] = &self.pieces[..] else { return None };
        if !self.whole || source.known_damage().is_some() {
            return None;
        }
        let opened = source.open().ok()?;
        Some(match source.map[field] {
            Some(at) => opened.stats(at),
            None => empty_stats(self.fields[field].field_type, opened.rows() as u32),
        })
    }

    /// Decodes all fields of the scan; what `rows` held is replaced, its memory reused. On an error `rows` is empty.
    pub fn load(&self, rows: &mut Rows) -> Result<()> {
        let all: Vec<usize> = (0..self.fields.len()).collect();
        self.load_fields(&all, rows)
    }

    /// Decodes times and the fields `which` (indices into the scan's fields); the other columns are left empty.
    pub fn load_fields(&self, which: &[usize], rows: &mut Rows) -> Result<()> {
        let loaded = match &self.pieces[..] {
            [piece] => self.load_piece(piece, which, rows),
            pieces => pieces
                .iter()
                .map(|piece| {
                    // Only the asked columns go through the merge.
                    let mut own = Rows::default();
                    self.load_piece(piece, which, &mut own)?;
                    let columns = which.iter().map(|at| std::mem::replace(&mut own.columns[*at], EMPTY));
                    Ok(Rows { columns: columns.collect(), times: own.times })
                })
                .collect::<Result<Vec<_>>>()
                .map(|sources| {
                    let merged = merge(sources);
                    clear(rows, &self.fields);
                    rows.times = merged.times;
                    for (at, column) in which.iter().zip(merged.columns) {
                        rows.columns[*at] = column;
                    }
                }),
        };
        if loaded.is_err() {
            clear(rows, &self.fields);
        }
        loaded
    }

    fn load_piece(&self, piece: &Piece, which: &[usize], rows: &mut Rows) -> Result<()> {
        let loaded = self.read_piece(piece, which, rows);
        let (Some(without), Data::Block(source)) = (&self.without, &piece.data) else { return loaded };
        let Err(error) = loaded else { return Ok(()) };
        without.skipped.note(source.blocks.damaged(source.block, &without.device, &error).ok_or(error)?);
        clear(rows, &self.fields);
        Ok(())
    }

    fn read_piece(&self, piece: &Piece, which: &[usize], rows: &mut Rows) -> Result<()> {
        clear(rows, &self.fields);
        // A piece may reach beyond a part that was cut out of a long run of overlapping blocks.
        let (first, last) = (piece.first.max(self.first), piece.last.min(self.last));
        let keep = |times: &[i64]| {
            let start = times.partition_point(|t| *t < first);
            start..times.partition_point(|t| *t <= last).max(start)
        };
        match &piece.data {
            Data::Rows { rows: source, range } => {
                let kept = keep(&source.times[range.clone()]);
                let kept = range.start + kept.start..range.start + kept.end;
                rows.times.extend_from_slice(&source.times[kept.clone()]);
                for &at in which {
                    rows.columns[at].extend_from(&source.columns[at], kept.clone());
                }
            }
            Data::Block(source) => {
                // Once a part of a block is known to be damaged no load gives any of it: all loads give the same rows.
                if let Some(place) = source.known_damage() {
                    return Err(place.error());
                }
                let (kept, cut) = match source.kept_times()? {
                    Some(times) => {
                        let kept = times.rows(first, last);
                        times.extend_into(kept.clone(), &mut rows.times);
                        (kept.clone(), kept != (0..times.len()))
                    }
                    None => {
                        source.open()?.load_times(&mut rows.times)?;
                        let kept = keep(&rows.times);
                        let cut = kept != (0..rows.times.len());
                        rows.times.truncate(kept.end);
                        rows.times.drain(..kept.start);
                        (kept, cut)
                    }
                };
                for &at in which {
                    let column = &mut rows.columns[at];
                    match source.map[at] {
                        _ if kept.is_empty() => {}
                        Some(field) => {
                            self.check_type(&source.blocks, field, at)?;
                            match source.kept_field(field)? {
                                Some(narrow) => narrow.extend_into(kept.clone(), column),
                                None => {
                                    source.open()?.load_field(field, column)?;
                                    if cut {
                                        clip(column, kept.clone());
                                    }
                                }
                            }
                            column.normalise();
                        }
                        None => column.extend_nulls(kept.len()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the fields `which` (indices into the scan's fields) in narrow form, and which rows of them are the part's.
    /// False when the part is not (a piece of) one block; it must then be loaded. Times only when they were needed.
    /// A damaged block of a reader that goes without is one to load, too: that takes note of it.
    pub fn narrow(&self, which: &[usize], rows: &mut NarrowRows) -> Result<bool> {
        match self.read_narrow(which, rows) {
            Err(Error::Corruption { .. }) if self.without.is_some() => {
                rows.clear();
                Ok(false)
            }
            other => other,
        }
    }

    fn read_narrow(&self, which: &[usize], rows: &mut NarrowRows) -> Result<bool> {
        rows.clear();
        let [piece] = &self.pieces[..] else { return Ok(false) };
        let Data::Block(source) = &piece.data else { return Ok(false) };
        if let Some(place) = source.known_damage() {
            return Err(place.error());
        }
        let (first, last) = (piece.first.max(self.first), piece.last.min(self.last));
        let meta = source.blocks.meta(source.block);
        rows.range = 0..meta.rows;
        if first > meta.time_min || last < meta.time_max {
            let times = source.times()?;
            rows.range = times.rows(first, last);
            rows.times = Some(times);
        }
        rows.columns.resize(self.fields.len(), None);
        for &at in which {
            rows.columns[at] = Some(match source.map[at] {
                Some(field) => {
                    self.check_type(&source.blocks, field, at)?;
                    source.field(field)?
                }
                None => Arc::new(NarrowColumn::nulls(self.fields[at].field_type, meta.rows)),
            });
        }
        Ok(true)
    }

    /// Adds the times to what [`Part::narrow`] gave.
    pub fn narrow_times(&self, rows: &mut NarrowRows) -> Result<()> {
        if let (None, [Piece { data: Data::Block(source), .. }]) = (&rows.times, &self.pieces[..]) {
            rows.times = Some(source.times()?);
        }
        Ok(())
    }

    fn check_type(&self, blocks: &DeviceBlocks, field: usize, at: usize) -> Result<()> {
        let (kept, asked) = (&blocks.segment().schema().fields[field], &self.fields[at]);
        if kept.field_type == asked.field_type {
            return Ok(());
        }
        let expected = format!("field {} of type {}", asked.name, asked.field_type);
        Err(Error::corruption(blocks.segment().name(), 0, expected, kept.field_type.name()))
    }
}

const EMPTY: Column = Column { values: Values::F64(Vec::new()), validity: None };

/// Empties `rows` and gives it one column for each of `fields`, with the memory it has.
fn clear(rows: &mut Rows, fields: &[FieldDef]) {
    rows.times.clear();
    rows.columns.truncate(fields.len());
    for (column, field) in rows.columns.iter_mut().zip(fields) {
        if column.field_type() != field.field_type {
            *column = Column::new(field.field_type);
            continue;
        }
        column.validity = None;
        match &mut column.values {
            Values::F64(v) => v.clear(),
            Values::I64(v) => v.clear(),
            Values::Bool(v) => v.clear(),
            Values::Utf8(v) => v.clear(),
        }
    }
    let missing = &fields[rows.columns.len()..];
    rows.columns.extend(missing.iter().map(|field| Column::new(field.field_type)));
}

/// Keeps the rows `range` of `column`.
fn clip(column: &mut Column, range: Range<usize>) {
    let bits = |bitmap: &Bitmap| {
        let mut out = Bitmap::with_capacity(range.len());
        out.extend_from(bitmap, range.clone());
        out
    };
    match &mut column.values {
        Values::F64(v) => {
            v.truncate(range.end);
            v.drain(..range.start);
        }
        Values::I64(v) => {
            v.truncate(range.end);
            v.drain(..range.start);
        }
        Values::Bool(v) => *v = bits(v),
        Values::Utf8(v) => {
            let mut out = Text::default();
            out.extend_from(v, range.clone());
            *v = out;
        }
    }
    if let Some(validity) = &mut column.validity {
        *validity = bits(validity);
    }
}
