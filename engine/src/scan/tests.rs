//! Owns the tests of merge and plan: against a map that applies one row after the other, and on chosen shapes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tidewell_codec::{Column, Values};

use super::*;
use crate::segment::tests::{Chance, same_rows, schema, spec};
use crate::segment::{Segment, SegmentWriter, field_stats, segment_name};
use crate::storage::Memory;
use crate::types::{FieldDef, FieldType, Rows};

/// One value a field; the text and the boolean follow from the number.
type ModelRow = [Option<u8>; 4];
/// A source in log order: one row after the other, any order of time.
type ModelSource = Vec<(i64, ModelRow)>;

const FIELDS: [(&str, FieldType); 4] =
    [("a", FieldType::F64), ("b", FieldType::I64), ("c", FieldType::Bool), ("d", FieldType::Utf8)];

fn rows_of(source: &[(i64, ModelRow)], fields: &[usize]) -> Rows {
    let times = source.iter().map(|(time, _)| *time).collect();
    let columns = fields.iter().map(|&field| {
        let mut column = Column::new(FIELDS[field].1);
        for (_, row) in source {
            let Some(value) = row[field] else {
                column.extend_nulls(1);
                continue;
            };
            match &mut column.values {
                Values::F64(v) => v.push(if value == 0 { f64::NAN } else { f64::from(value) / 2.0 }),
                Values::I64(v) => v.push(i64::from(value)),
                Values::Bool(v) => v.push(value % 2 == 1),
                Values::Utf8(v) => v.push(&format!("text {value}")),
            }
            if let Some(validity) = &mut column.validity {
                validity.push(true);
            }
        }
        column
    });
    Rows { columns: columns.collect(), times }
}

/// The contract, row by row: later non-null wins.
fn model(sources: &[ModelSource]) -> BTreeMap<i64, ModelRow> {
    let mut map: BTreeMap<i64, ModelRow> = BTreeMap::new();
    for (time, row) in sources.iter().flatten() {
        let kept = map.entry(*time).or_default();
        for (kept, new) in kept.iter_mut().zip(row) {
            *kept = new.or(*kept);
        }
    }
    map
}

fn flatten(map: &BTreeMap<i64, ModelRow>) -> ModelSource {
    map.iter().map(|(time, row)| (*time, *row)).collect()
}

fn fields(which: &[usize]) -> Arc<[FieldDef]> {
    which.iter().map(|&at| FieldDef { name: FIELDS[at].0.into(), field_type: FIELDS[at].1 }).collect()
}

/// Writes rows as a segment with blocks of `block_rows`; it has only the first `known` fields.
fn blocks(storage: &Arc<Memory>, id: u64, rows: &Rows, block_rows: usize, known: usize) -> Source {
    let schema = schema(&FIELDS[..known]);
    let mut writer = SegmentWriter::create(storage.clone(), spec(&schema, id, block_rows)).unwrap();
    writer.push_device("d", (0, 0), rows).unwrap();
    writer.finish().unwrap();
    Source::Blocks(Segment::open(&**storage, &segment_name(id)).unwrap().find("d").unwrap().unwrap())
}

/// Loads all parts, checks what every part promises, and gives their rows one after the other.
fn collect(parts: &[Part], fields: &[FieldDef], start: i64, end: i64) -> Rows {
    let mut all = Rows { times: vec![], columns: fields.iter().map(|f| Column::new(f.field_type)).collect() };
    let mut rows = Rows::default();
    let mut before: Option<i64> = None;
    for part in parts {
        part.load(&mut rows).unwrap();
        let (first, last) = part.time_range();
        assert!(before.is_none_or(|before| before < first) && first <= last, "parts are disjoint and in order");
        assert!(first >= start && (last < end || end == i64::MAX), "parts lie in the range");
        before = Some(last);
        assert!(rows.times.iter().all(|t| (first..=last).contains(t)), "rows lie in their part");
        assert!(rows.times.len() <= part.rows_max());
        for (at, column) in rows.columns.iter().enumerate() {
            assert_eq!(column.len(), rows.times.len());
            if let Some(stats) = part.stats(at) {
                let real = field_stats(column, 0..column.len());
                assert_eq!(format!("{stats:?}"), format!("{real:?}"));
            }
            all.columns[at].extend_from(column, 0..column.len());
        }
        all.times.extend_from_slice(&rows.times);
        check_narrow(part, &rows);
        // Late materialisation gives the same columns.
        for at in 0..fields.len() {
            let mut one = Rows::default();
            part.load_fields(&[at], &mut one).unwrap();
            assert_eq!(one.times, rows.times);
            assert_eq!(format!("{:?}", one.columns[at]), format!("{:?}", rows.columns[at]));
            assert!(one.columns.iter().enumerate().all(|(other, c)| other == at || c.is_empty()));
        }
    }
    all.columns.iter_mut().for_each(Column::normalise);
    all
}

/// What a part gives in narrow form is what it loads.
fn check_narrow(part: &Part, rows: &Rows) {
    let which: Vec<usize> = (0..part.fields().len()).collect();
    let mut narrow = NarrowRows::default();
    if !part.narrow(&which, &mut narrow).unwrap() {
        assert!(narrow.columns.is_empty());
        return;
    }
    part.narrow_times(&mut narrow).unwrap();
    let mut times = Vec::new();
    narrow.times.as_ref().unwrap().extend_into(narrow.range.clone(), &mut times);
    assert_eq!(times, rows.times);
    for (narrow_column, column) in narrow.columns.iter().zip(&rows.columns) {
        let mut own = Column::new(column.field_type());
        narrow_column.as_ref().unwrap().extend_into(narrow.range.clone(), &mut own);
        own.normalise();
        assert_eq!(format!("{own:?}"), format!("{column:?}"));
    }
}

#[test]
fn a_block_is_decoded_once_while_it_is_cached() {
    let storage = Arc::new(Memory::new());
    let cache = Arc::new(BlockCache::new(1 << 20));
    let Source::Blocks(blocks) = blocks(&storage, 1, &numbers((0..100).map(|t| t * 10)), 10, 1) else { panic!() };
    let fields = fields(&[0]);
    let mut rows = Rows::default();
    for _ in 0..3 {
        for part in plan(vec![Source::Blocks(blocks.clone().cached(&cache))], &fields, 15, 985) {
            part.load(&mut rows).unwrap();
        }
    }
    let figures = cache.figures();
    // Times and one field of ten blocks.
    assert_eq!((figures.misses, figures.hits, figures.entries), (20, 40, 20));
}

fn assert_same(found: &Rows, expected: &Rows) {
    let mut expected = expected.clone();
    expected.columns.iter_mut().for_each(Column::normalise);
    assert!(same_rows(found, &expected), "found {found:#?}\nexpected {expected:#?}");
}

fn source(times: std::ops::Range<i64>) -> impl Strategy<Value = ModelSource> {
    let value = || proptest::option::weighted(0.7, 0u8..6);
    proptest::collection::vec((times, [value(), value(), value(), value()]), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sorting_and_merging_equal_a_map(sources in proptest::collection::vec(source(-30..30), 0..5)) {
        let all = [0, 1, 2, 3];
        let sorted: Vec<Rows> = sources.iter().map(|s| sort_unique(rows_of(s, &all))).collect();
        for (sorted, source) in sorted.iter().zip(&sources) {
            assert_same(sorted, &rows_of(&flatten(&model(std::slice::from_ref(source))), &all));
        }
        if !sources.is_empty() {
            assert_same(&merge(sorted), &rows_of(&flatten(&model(&sources)), &all));
        }
    }

    #[test]
    fn planned_parts_equal_a_map(
        sources in proptest::collection::vec((source(-60..60), -50i64..50, 0usize..3, 1usize..7), 1..6),
        which in proptest::sample::subsequence(vec![0usize, 1, 2, 3], 0..=4),
        range in prop_oneof![Just((i64::MIN, i64::MAX)), (-110i64..110, -110i64..110)],
        known in 1usize..5,
        cache in proptest::option::of(prop_oneof![Just(0usize), Just(16 * 600), Just(1 << 20)]),
    ) {
        let cache = cache.map(|limit| Arc::new(BlockCache::new(limit)));
        let storage = Arc::new(Memory::new());
        let mut models = Vec::new();
        let mut planned = Vec::new();
        for (id, (source, shift, kind, block_rows)) in sources.into_iter().enumerate() {
            let mut source: ModelSource = source.into_iter().map(|(time, row)| (time + shift, row)).collect();
            let segment = kind > 0 && !source.is_empty();
            let has = if segment && kind == 2 { known } else { 4 };
            source.iter_mut().for_each(|(_, row)| row[has..].fill(None));
            let sorted = flatten(&model(std::slice::from_ref(&source)));
            planned.push(if segment {
                let own: Vec<usize> = (0..has).collect();
                blocks(&storage, id as u64, &rows_of(&sorted, &own), block_rows, has)
            } else {
                Source::Rows(Arc::new(rows_of(&sorted, &which)))
            });
            models.push(source);
        }
        let fields = fields(&which);
        let (start, end) = range;
        let expected: ModelSource = flatten(&model(&models)).into_iter().filter(|(t, _)| (start..end).contains(t)).collect();
        for planned in &mut planned {
            if let (Source::Blocks(blocks), Some(cache)) = (planned, &cache) {
                *blocks = blocks.clone().cached(cache);
            }
        }
        let parts = plan(planned, &fields, start, end);
        // Once from the file and once, where there is room, from the cache.
        for _ in 0..2 {
            assert_same(&collect(&parts, &fields, start, end), &rows_of(&expected, &which));
        }
    }
}

fn numbers(times: impl Iterator<Item = i64>) -> Rows {
    let times: Vec<i64> = times.collect();
    let values = times.iter().map(|t| *t as f64).collect();
    Rows { columns: vec![Column { values: Values::F64(values), validity: None }], times }
}

fn part_kinds(parts: &[Part]) -> Vec<bool> {
    parts.iter().map(|part| part.stats(0).is_some()).collect()
}

#[test]
fn a_late_row_in_memory_merges_one_block_only() {
    let storage = Arc::new(Memory::new());
    let day = blocks(&storage, 1, &numbers((0..100).map(|t| t * 10)), 10, 1);
    let memory = Source::Rows(Arc::new(numbers([205, 1_000, 1_010].into_iter())));
    let fields = fields(&[0]);
    let parts = plan(vec![day, memory], &fields, i64::MIN, i64::MAX);
    let whole: Vec<bool> = (0..11).map(|at| at != 2 && at != 10).collect();
    assert_eq!(part_kinds(&parts), whole);
    assert_eq!(collect(&parts, &fields, i64::MIN, i64::MAX).times.len(), 103);
}

#[test]
fn a_block_with_one_late_row_does_not_merge_the_blocks_it_reaches_over() {
    let storage = Arc::new(Memory::new());
    let day = blocks(&storage, 1, &numbers((0..100).map(|t| t * 10)), 10, 1);
    let late = blocks(&storage, 2, &numbers(std::iter::once(205).chain((100..104).map(|t| t * 10))), 10, 1);
    let fields = fields(&[0]);
    let parts = plan(vec![day, late], &fields, i64::MIN, i64::MAX);
    let whole: Vec<bool> = (0..11).map(|at| at != 2 && at != 10).collect();
    assert_eq!(part_kinds(&parts), whole);
    assert_eq!(collect(&parts, &fields, i64::MIN, i64::MAX).times.len(), 105);
}

#[test]
fn long_overlaps_are_cut_into_bounded_parts() {
    let storage = Arc::new(Memory::new());
    let even = blocks(&storage, 1, &numbers((0..100_000).map(|t| t * 2)), 4096, 1);
    let odd = blocks(&storage, 2, &numbers((0..100_000).map(|t| t * 2 + 3)), 4096, 1);
    let memory = Source::Rows(Arc::new(numbers((0..50_000).map(|t| t * 2 + 200_000))));
    let fields = fields(&[0]);
    let parts = plan(vec![even, odd, memory], &fields, 11, 290_000);
    assert!(parts.len() >= 6);
    assert!(parts.iter().all(|part| part.rows_max() <= 32_768 + 3 * 16_384), "{parts:?}");
    let rows = collect(&parts, &fields, 11, 290_000);
    assert_eq!(rows.times.first(), Some(&11));
    assert_eq!(rows.times.last(), Some(&289_998));
    assert_eq!(rows.times.len(), 99_994 + 99_996 + 45_000);
}

#[test]
fn the_ends_of_time_are_reachable() {
    let storage = Arc::new(Memory::new());
    let ends = || numbers([i64::MIN, 0, i64::MAX - 1, i64::MAX].into_iter());
    let fields = fields(&[0]);
    let sources = || vec![blocks(&storage, 1, &ends(), 10, 1), Source::Rows(Arc::new(ends()))];
    let count = |start, end| collect(&plan(sources(), &fields, start, end), &fields, start, end).times.len();
    assert_eq!(count(i64::MIN, i64::MAX), 4);
    assert_eq!(count(i64::MIN, i64::MAX - 1), 2);
    assert_eq!(count(i64::MAX, i64::MAX), 1);
    assert_eq!((count(i64::MIN, i64::MIN), count(1, 1), count(5, -5)), (0, 0, 0));
}

#[test]
fn parts_can_be_loaded_on_other_threads() {
    fn check<T: Send + Sync>() {}
    check::<Part>();
}

#[test]
fn damage_surfaces_on_load_and_leaves_no_rows() {
    let storage = Arc::new(Memory::new());
    let rows = numbers((0..100).map(|t| t * 10));
    drop(blocks(&storage, 1, &rows, 10, 1));
    storage.damage(&segment_name(1), |file| file[100] ^= 1);
    let source = Source::Blocks(Segment::open(&*storage, &segment_name(1)).unwrap().find("d").unwrap().unwrap());
    let parts = plan(vec![source], &fields(&[0]), i64::MIN, i64::MAX);
    let mut loaded = numbers(0..3);
    assert!(parts[0].load(&mut loaded).is_err() || parts[1].load(&mut loaded).is_err());
    let mut chance = Chance(3);
    let at = 2 + chance.below(8) as usize;
    parts[at].load(&mut loaded).unwrap();
    assert_eq!(loaded.times.len(), 10);
}
