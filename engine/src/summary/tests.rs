//! Owns the tests of summaries: against naive aggregates, as files, and where they may stand for rows.

use std::sync::Arc;

use tidewell_codec::{Bitmap, Column, FieldType, Values};

use super::aggregate::{StepBuilder, scalar};
use super::plan::{StepQuestion, StepSource, plan_steps};
use super::verify::same_field;
use super::*;
use crate::limits::DAY_NS;
use crate::scan::{BlockCache, Mask, Source, plan};
use crate::segment::tests::{Chance, schema, spec};
use crate::segment::{Segment, SegmentWriter, segment_name};
use crate::storage::{Memory, Storage};
use crate::types::{FieldDef, Rows, Scalar, TableSchema};
use crate::upkeep::FileNumbers;

const START: i64 = 1_700_000_000_000_000_000;

fn all_types() -> Arc<TableSchema> {
    schema(&[
        ("speed", FieldType::F64),
        ("noise", FieldType::F64),
        ("count", FieldType::I64),
        ("open", FieldType::Bool),
        ("state", FieldType::Utf8),
        ("never", FieldType::F64),
    ])
}

/// Rows with every kind of value, some null, at most `gap_ns` apart and now and then much further.
fn rows(schema: &TableSchema, count: usize, start: i64, gap_ns: u64, chance: &mut Chance) -> Rows {
    let mut time = start;
    let times: Vec<i64> = (0..count)
        .map(|_| {
            time += 1 + chance.below(gap_ns) as i64 + if chance.below(97) == 0 { DAY_NS / 10 } else { 0 };
            time
        })
        .collect();
    let nulls = 1 + chance.below(6);
    let columns = schema.fields.iter().map(|field| {
        let valid: Bitmap =
            (0..count).map(|_| (nulls == 1 || chance.below(nulls) > 0) && &*field.name != "never").collect();
        let mut column = Column::new(field.field_type);
        for row in 0..count {
            let valid = valid.get(row);
            match &mut column.values {
                Values::F64(v) => v.push(match (valid, chance.below(30)) {
                    (false, _) => 0.0,
                    (_, 0) if &*field.name == "noise" => f64::from_bits(0x7ff8_0000_0000_1234),
                    (_, 1) if &*field.name == "noise" => -0.0,
                    (_, 2) if &*field.name == "noise" => f64::INFINITY,
                    (_, 3) if &*field.name == "noise" => chance.below(1 << 50) as f64 / 3.0,
                    _ => chance.below(5000) as f64 / 10.0,
                }),
                Values::I64(v) => v.push(if valid { chance.below(1 << 40) as i64 - (1 << 39) } else { 0 }),
                Values::Bool(v) => v.push(valid && chance.below(2) == 1),
                Values::Utf8(v) => v.push(if valid { ["idle", "grün", ""][chance.below(3) as usize] } else { "" }),
            }
        }
        column.validity = Some(valid);
        column.normalise();
        column
    });
    Rows { columns: columns.collect(), times }
}

/// The aggregates of `rows` in step `step` by the definition, one value after the other.
fn naive(rows: &Rows, defs: &[FieldDef], step: Step) -> Vec<(i64, Vec<StepField>)> {
    let mut out: Vec<(i64, Vec<StepField>)> = Vec::new();
    let mut from = 0;
    while from < rows.times.len() {
        let number = step.number(rows.times[from]);
        let to = from + rows.times[from..].iter().take_while(|t| step.number(**t) == number).count();
        let fields = rows.columns.iter().zip(defs).map(|(column, def)| {
            let values: Vec<(usize, Option<Scalar>)> =
                (from..to).filter(|row| column.is_valid(*row)).map(|row| (row, scalar(column, row))).collect();
            let lanes = |part: &[f64]| {
                let mut lanes = [0.0; 8];
                part.iter().enumerate().filter(|(_, v)| !v.is_nan()).for_each(|(at, v)| lanes[at % 8] += v);
                let [a, b, c, d, e, f, g, h] = lanes;
                ((a + e) + (c + g)) + ((b + f) + (d + h))
            };
            let double = |value: &Option<Scalar>| if let Some(Scalar::F64(v)) = value { Some(*v) } else { None };
            let mut field = StepField::new(def.field_type);
            field.count.push(values.len() as u64);
            field.nan.push(values.iter().filter_map(|(_, v)| double(v)).filter(|v| v.is_nan()).count() as u64);
            match &mut field.sum {
                StepSums::F64(sums) => {
                    // A day is the sum of its hours, every other step of its rows.
                    let hours = values.chunk_by(|a, b| {
                        step != Step::Day || Step::Hour.number(rows.times[a.0]) == Step::Hour.number(rows.times[b.0])
                    });
                    let parts =
                        hours.map(|hour| lanes(&hour.iter().filter_map(|(_, v)| double(v)).collect::<Vec<_>>()));
                    sums.push(parts.fold(0.0, |sum, part| sum + part));
                }
                StepSums::I64(sums) => {
                    sums.push(values.iter().map(|(_, v)| if let Some(Scalar::I64(v)) = v { *v } else { 0 }).sum());
                }
                StepSums::None => {}
            }
            let text = def.field_type == FieldType::Utf8;
            let numbers: Vec<(f64, i64, Scalar)> = values
                .iter()
                .filter_map(|(_, v)| match v {
                    Some(Scalar::F64(v)) if v.is_nan() => None,
                    Some(Scalar::F64(f)) => Some((*f, 0, Scalar::F64(*f))),
                    Some(Scalar::I64(i)) => Some((0.0, *i, Scalar::I64(*i))),
                    Some(Scalar::Bool(b)) => Some((0.0, i64::from(*b), Scalar::Bool(*b))),
                    None => None,
                })
                .collect();
            let order = |a: &&(f64, i64, Scalar), b: &&(f64, i64, Scalar)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            put(&mut field.min, numbers.iter().min_by(order).map(|n| n.2));
            put(&mut field.max, numbers.iter().max_by(order).map(|n| n.2));
            put(&mut field.first, values.first().and_then(|v| v.1));
            put(&mut field.last, values.last().and_then(|v| v.1));
            let at = |value: Option<&(usize, Option<Scalar>)>| value.filter(|_| !text).map_or(0, |v| rows.times[v.0]);
            field.first_at.push(at(values.first()));
            field.last_at.push(at(values.last()));
            field
        });
        out.push((step.start_of(number), fields.collect()));
        from = to;
    }
    out
}

fn put(column: &mut Column, value: Option<Scalar>) {
    match (value, &mut column.values) {
        (Some(Scalar::F64(v)), Values::F64(values)) => values.push(v),
        (Some(Scalar::I64(v)), Values::I64(values)) => values.push(v),
        (Some(Scalar::Bool(v)), Values::Bool(values)) => values.push(v),
        _ => column.extend_nulls(1),
    }
}

/// One step of a field, as [`naive`] gives it.
fn one(field: &StepField, at: usize) -> StepField {
    let column = |column: &Column| {
        let mut out = Column::new(column.field_type());
        out.extend_from(column, at..at + 1);
        out.normalise();
        out
    };
    StepField {
        count: vec![field.count[at]],
        nan: vec![field.nan[at]],
        sum: match &field.sum {
            StepSums::F64(sums) => StepSums::F64(vec![sums[at]]),
            StepSums::I64(sums) => StepSums::I64(vec![sums[at]]),
            StepSums::None => StepSums::None,
        },
        min: column(&field.min),
        max: column(&field.max),
        first: column(&field.first),
        last: column(&field.last),
        first_at: vec![field.first_at[at]],
        last_at: vec![field.last_at[at]],
    }
}

/// Segment `id` of the devices and its summaries, all steps for every device.
fn write(
    storage: &Arc<dyn Storage>,
    schema: &Arc<TableSchema>,
    id: u64,
    devices: &[(String, Rows)],
    kept: &[Step],
) -> (Arc<Segment>, Vec<SummaryMeta>) {
    let numbers = FileNumbers::new(id + 1, 1, 1);
    let spec = spec(schema, id, 500);
    let mut build = SummaryBuild::new(storage, &spec, kept, &numbers);
    let mut writer = SegmentWriter::create(Arc::clone(storage), spec).unwrap();
    for (device, rows) in devices {
        writer.push_device(device, (100, 250), rows).unwrap();
        build.begin_device(device, (100, 250));
        // In pieces, as merges push them.
        for from in (0..rows.times.len()).step_by(333) {
            let to = rows.times.len().min(from + 333);
            let cut = |column: &Column| {
                let mut out = Column::new(column.field_type());
                out.extend_from(column, from..to);
                out
            };
            build.push_rows(&Rows {
                times: rows.times[from..to].to_vec(),
                columns: rows.columns.iter().map(cut).collect(),
            });
        }
        build.end_device().unwrap();
    }
    writer.finish().unwrap();
    let metas = build.finish().unwrap();
    (Segment::open(&**storage, &segment_name(id)).unwrap(), metas)
}

fn open(storage: &Arc<dyn Storage>, metas: &[SummaryMeta]) -> Vec<Arc<Summary>> {
    metas.iter().map(|meta| Summary::open(&**storage, &summary_name(meta.id)).unwrap()).collect()
}

#[test]
fn steps_come_back_as_the_definition_has_them() {
    let schema = all_types();
    for seed in 1..25 {
        let chance = &mut Chance(seed * 7919);
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let gap = [1_000_000_000, 40_000_000_000, 3_000_000_000_000][seed as usize % 3];
        let devices: Vec<(String, Rows)> = (0..5)
            .map(|at| {
                let count = 1 + chance.below(3000) as usize;
                (format!("d{at}"), rows(&schema, count, START - (seed as i64 % 2) * 2 * START, gap, chance))
            })
            .collect();
        let (segment, metas) = write(&storage, &schema, 1, &devices, &Step::ALL);
        assert_eq!(metas.len(), 3);
        for summary in open(&storage, &metas) {
            for (device, rows) in &devices {
                let entry = summary.find(device).unwrap().expect("every device is kept");
                assert_eq!(entry.received(), (100, 250));
                let mut found = StepRows::default();
                entry.load(i64::MIN..i64::MAX, &schema.fields, &mut found).unwrap();
                let expected = naive(rows, &schema.fields, summary.step());
                assert_eq!(found.starts[found.range.clone()], expected.iter().map(|e| e.0).collect::<Vec<_>>());
                for (at, (start, fields)) in expected.iter().enumerate() {
                    for (field, expected) in fields.iter().enumerate() {
                        let found = one(&found.fields[field], found.range.start + at);
                        assert!(same_field(&found, expected), "seed {seed} {device} {start}: {found:?} {expected:?}");
                    }
                }
            }
            assert!(summary.find("x").unwrap().is_none());
            let damage = verify(&summary, Some(&segment));
            assert!(damage.is_empty(), "{damage:?}");
        }
    }
}

#[test]
fn a_small_negative_sum_among_whole_ones_keeps_its_sign() {
    let schema = schema(&[("celsius", FieldType::F64)]);
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let value = |at: i64| match at {
        // No decimal, so sums are kept as whole numbers and what they are off.
        6 => 1.0 / 3.0,
        14 => 0.1,
        15 => -0.3,
        at => 2.5 + (at % 2) as f64,
    };
    let rows = Rows {
        times: (0..120).map(|at| START + at * 30_000_000_000).collect(),
        columns: vec![Column { values: Values::F64((0..120).map(value).collect()), validity: None }],
    };
    let (segment, metas) = write(&storage, &schema, 1, &[("d".to_owned(), rows)], &Step::ALL);
    for summary in open(&storage, &metas) {
        let damage = verify(&summary, Some(&segment));
        assert!(damage.is_empty(), "{damage:?}");
    }
}

#[test]
fn steps_of_few_rows_are_not_kept_unless_asked_for() {
    let schema = schema(&[("speed", FieldType::F64)]);
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let every = |seconds: i64, count: i64| Rows {
        times: (0..count).map(|at| START + at * seconds * 1_000_000_000).collect(),
        columns: vec![Column { values: Values::F64((0..count).map(|at| at as f64).collect()), validity: None }],
    };
    let devices = [("fast".to_owned(), every(1, 7200)), ("slow".to_owned(), every(600, 150))];
    let (segment, metas) = write(&storage, &schema, 1, &devices, &[]);
    let steps: Vec<(Step, u64)> = open(&storage, &metas).iter().map(|s| (s.step(), s.device_count())).collect();
    assert_eq!(steps, [(Step::Minute, 1), (Step::Hour, 1), (Step::Day, 2)]);
    let (_, metas) = write(&storage, &schema, 11, &devices, &[Step::Hour]);
    let steps: Vec<(Step, u64)> = open(&storage, &metas).iter().map(|s| (s.step(), s.device_count())).collect();
    assert_eq!(steps, [(Step::Minute, 1), (Step::Hour, 2), (Step::Day, 2)]);
    // Afterwards, from the segment alone, the same bytes come out but for the numbers.
    let numbers = FileNumbers::new(21, 1, 1);
    let later = build_for_segment(&storage, &segment, &[], &numbers, spec(&schema, 1, 500).created_ns).unwrap();
    assert_eq!(later.iter().map(|m| (m.step, m.rows, m.bytes)).collect::<Vec<_>>().len(), 3);
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_never_a_panic() {
    let schema = all_types();
    let memory = Arc::new(Memory::new());
    let storage: Arc<dyn Storage> = memory.clone();
    let chance = &mut Chance(77);
    let devices: Vec<(String, Rows)> =
        (0..3).map(|at| (format!("d{at}"), rows(&schema, 300, START, 90_000_000_000, chance))).collect();
    let (segment, metas) = write(&storage, &schema, 1, &devices, &Step::ALL);
    let name = summary_name(metas[1].id);
    let bytes = storage.read(&name).unwrap();
    for at in 0..bytes.len() {
        memory.damage(&name, |file| file[at] ^= 1 << (at % 8));
        if let Ok(summary) = Summary::open(&*storage, &name) {
            assert!(!verify(&summary, Some(&segment)).is_empty(), "byte {at}");
            for (device, _) in &devices {
                if let Ok(Some(entry)) = summary.find(device) {
                    let _ = entry.load(i64::MIN..i64::MAX, &schema.fields, &mut StepRows::default());
                }
            }
        }
        memory.damage(&name, |file| file[at] ^= 1 << (at % 8));
    }
    for cut in [0, 10, 15, 87, 88, bytes.len() / 2, bytes.len() - 1] {
        storage.remove(&name).unwrap();
        storage.create(&name).unwrap().write_at(0, &bytes[..cut]).unwrap();
        assert!(Summary::open(&*storage, &name).is_err(), "{cut} bytes");
    }
}

/// A body under a right checksum may still be forged: every byte of an entry is changed, and the checksum made anew.
#[test]
fn forged_entries_are_refused_or_read_but_never_a_panic() {
    let schema = all_types();
    let chance = &mut Chance(5);
    let rows = rows(&schema, 600, START, 90_000_000_000, chance);
    let mut builder = StepBuilder::new(Step::Hour, &schema.fields, 0);
    builder.push_rows(&rows);
    let steps = builder.end_device().unwrap();
    let mut bytes = Vec::new();
    super::entry::encode_entry(&steps, Step::Hour, (1, 2), &schema.fields, &mut bytes);
    bytes.truncate(bytes.len() - 4);
    for at in 0..bytes.len() {
        for flip in [1, 0x10, 0x80, 0xff] {
            bytes[at] ^= flip;
            if let Ok(entry) = super::entry::Entry::decode(&bytes, Step::Hour, schema.fields.len()) {
                for (field, def) in schema.fields.iter().enumerate() {
                    let _ = entry.field(&bytes, Some(field), def.field_type, 0..entry.numbers.len());
                }
            }
            bytes[at] ^= flip;
        }
    }
}

#[test]
fn what_is_decoded_is_kept_while_there_is_room() {
    let schema = all_types();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let rows = rows(&schema, 2_000, START, 90_000_000_000, &mut Chance(21));
    let (_, metas) = write(&storage, &schema, 1, &[("a".into(), rows.clone()), ("b".into(), rows)], &[Step::Hour]);
    let summary = open(&storage, &metas).remove(0);
    let mut expected = StepRows::default();
    summary.find("b").unwrap().unwrap().load(i64::MIN..i64::MAX, &schema.fields, &mut expected).unwrap();

    let (roomy, full) = (Arc::new(BlockCache::new(16 << 20)), Arc::new(BlockCache::new(0)));
    let load = |cache: &Arc<BlockCache>, device: &str| {
        let mut found = StepRows::default();
        let entry = summary.find_cached(device, cache).unwrap().unwrap();
        entry.load(i64::MIN..i64::MAX, &schema.fields, &mut found).unwrap();
        found
    };
    // Of NaN the bits count.
    let same = |found: &StepRows| format!("{found:?}") == format!("{expected:?}");
    assert!(same(&load(&roomy, "b")) && same(&load(&full, "b")));
    let figures = roomy.figures();
    assert_eq!((figures.hits, figures.entries), (0, 1));
    let (first, second) = (load(&roomy, "b"), load(&roomy, "b"));
    assert!(same(&first) && first.fields.iter().zip(&second.fields).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!((roomy.figures().hits, roomy.figures().misses), (2, figures.misses));
    assert_eq!(roomy.figures().bytes, figures.bytes);
    load(&roomy, "a");
    assert_eq!(roomy.figures().entries, 2);
    assert_eq!((full.figures().entries, full.bytes()), (0, 0));
    assert!(same(&load(&full, "b")));
}

#[test]
fn integer_sums_beyond_64_bits_are_absent() {
    let schema = schema(&[("count", FieldType::I64)]);
    let mut builder = StepBuilder::new(Step::Hour, &schema.fields, 0);
    let values = vec![i64::MAX, i64::MAX, -5];
    let times = vec![START, START + 1, START + DAY_NS];
    builder.push_rows(&Rows { times, columns: vec![Column { values: Values::I64(values), validity: None }] });
    let steps = builder.end_device().unwrap();
    let mut bytes = Vec::new();
    super::entry::encode_entry(&steps, Step::Hour, (1, 2), &schema.fields, &mut bytes);
    bytes.truncate(bytes.len() - 4);
    let entry = super::entry::Entry::decode(&bytes, Step::Hour, 1).unwrap();
    let field = entry.field(&bytes, Some(0), FieldType::I64, 0..2).unwrap();
    assert_eq!((field.sum, field.count), (StepSums::None, vec![2, 1]));
    assert_eq!(field.max.values, Values::I64(vec![i64::MAX, -5]));
}

#[test]
fn the_ends_of_time_have_steps() {
    let schema = schema(&[("v", FieldType::F64)]);
    for step in [Step::Minute, Step::Hour] {
        let mut builder = StepBuilder::new(step, &schema.fields, 0);
        let times = vec![i64::MIN, i64::MIN + 1, 0, i64::MAX - 1, i64::MAX];
        let column = Column { values: Values::F64(vec![1.0, 2.0, 3.0, 4.0, 5.0]), validity: None };
        builder.push_rows(&Rows { times: times.clone(), columns: vec![column] });
        let steps = builder.end_device().unwrap();
        assert_eq!(steps.rows, [2, 1, 2]);
        let mut bytes = Vec::new();
        super::entry::encode_entry(&steps, step, (1, 2), &schema.fields, &mut bytes);
        let entry = super::entry::Entry::decode(&bytes[..bytes.len() - 4], step, 1).unwrap();
        assert_eq!((entry.first_row[0], entry.last_row[2]), (i64::MIN, i64::MAX));
    }
}

/// What a scan by steps gives covers every row exactly once, by itself or in a step whose aggregates are those of the
/// rows in it; whatever lies over what, is deleted, or can be used.
#[test]
fn stretches_are_the_rows() {
    let schema = all_types();
    let fields: Arc<[FieldDef]> = schema.fields.iter().cloned().collect();
    let (mut used, mut both) = (0, 0);
    for seed in 1..150u64 {
        let chance = &mut Chance(seed * 104_729);
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let cache = Arc::new(BlockCache::new([0, 16 << 10, 64 << 20][seed as usize % 3]));
        let mut sources = Vec::new();
        let mut plain = Vec::new();
        let gap = [2_000_000_000, 30_000_000_000, 900_000_000_000][seed as usize % 3];
        for id in 0..1 + chance.below(4) {
            let start = START + chance.below(3) as i64 * DAY_NS + chance.below(DAY_NS as u64) as i64;
            let count = 1 + chance.below(if id == 0 { 3000 } else { 400 }) as usize;
            let rows = rows(&schema, count, start, gap, chance);
            if chance.below(4) == 0 {
                let rows = Arc::new(rows);
                plain.push(Source::Rows(Arc::clone(&rows)));
                sources.push(StepSource::Rows(Source::Rows(rows)));
                continue;
            }
            let mask = match chance.below(4) {
                0 => {
                    let from = START + chance.below(4 * DAY_NS as u64) as i64;
                    Mask::new(vec![(from, from + chance.below(DAY_NS as u64 / 2) as i64)])
                }
                _ => Mask::default(),
            };
            let (segment, metas) = write(&storage, &schema, 1 + id * 10, &[("d".into(), rows)], &Step::ALL);
            let blocks = segment.find("d").unwrap().unwrap();
            let source = match mask.is_empty() {
                true => Source::Blocks(blocks),
                false => Source::Masked(blocks, mask.clone()),
            };
            plain.push(source.clone());
            let mut entries: Vec<SummaryEntry> = open(&storage, &metas)
                .iter()
                .filter(|_| chance.below(4) > 0)
                .map(|summary| summary.find_cached("d", &cache).unwrap().unwrap())
                .collect();
            entries.reverse();
            sources.push(match entries.is_empty() {
                true => StepSource::Rows(source),
                false => StepSource::Steps { entries, segment: Some(segment), mask },
            });
        }
        let start = START - DAY_NS + chance.below(4 * DAY_NS as u64) as i64;
        let end = start + chance.below(6 * DAY_NS as u64) as i64;
        let steps: Vec<Step> = Step::ALL.into_iter().rev().filter(|_| chance.below(4) > 0).collect();
        let rule = chance.below(4);
        let usable = |step: Step, at: i64| match rule {
            0 => true,
            // Windows of 90 minutes: an hour, then half of one, and so on.
            1 => step != Step::Day && (at / Step::Hour.width_ns() % 3 != 1 || step == Step::Minute),
            2 => (at / step.width_ns()) % 7 != 3,
            _ => step == Step::Hour,
        };
        let cut_off = if chance.below(3) == 0 { START + DAY_NS - START % DAY_NS } else { i64::MIN };
        let last = end - 1;
        let question = StepQuestion {
            device: "d",
            first: start,
            last,
            fields: &fields,
            steps: &steps,
            usable: &usable,
            cut_off,
            kept: &[],
            cache: None,
        };
        let stretches = plan_steps(&sources, &question).unwrap();

        let columns = fields.iter().map(|field| Column::new(field.field_type)).collect();
        let mut all = Rows { times: Vec::new(), columns };
        let mut rows = Rows::default();
        for part in plan(plain, &fields, start.max(cut_off), end) {
            part.load(&mut rows).unwrap();
            append(&mut all, &rows, 0..rows.times.len());
        }
        let between = |from: i64, to: i64| {
            let range = all.times.partition_point(|t| *t < from)..all.times.partition_point(|t| *t <= to);
            let mut out =
                Rows { times: Vec::new(), columns: all.columns.iter().map(|c| Column::new(c.field_type())).collect() };
            append(&mut out, &all, range);
            out.columns.iter_mut().for_each(Column::normalise);
            out
        };
        let (mut next, mut kinds, mut counted) = (i64::MIN, [false; 2], 0);
        for stretch in &stretches {
            let (first, last) = stretch.time_range();
            assert!(next <= first && first <= last && first >= start && last < end, "seed {seed}: {stretch:?}");
            next = last + 1;
            let expected = between(first, last);
            counted += expected.times.len();
            match stretch {
                Stretch::Rows(part) => {
                    kinds[0] = true;
                    part.load(&mut rows).unwrap();
                    assert_eq!(rows.times, expected.times, "seed {seed}");
                    assert_eq!(format!("{:?}", rows.columns), format!("{:?}", expected.columns));
                }
                Stretch::Steps(part) => {
                    (kinds[1], used) = (true, used + 1);
                    let mut found = StepRows::default();
                    // The second time out of the cache.
                    part.load(&mut found).unwrap();
                    part.load(&mut found).unwrap();
                    let expected = naive(&expected, &fields, part.step());
                    assert_eq!(
                        found.starts[found.range.clone()],
                        expected.iter().map(|e| e.0).collect::<Vec<_>>(),
                        "seed {seed}"
                    );
                    for (at, (start, expected)) in expected.iter().enumerate() {
                        assert!(usable(part.step(), *start) && steps.contains(&part.step()));
                        for (field, expected) in expected.iter().enumerate() {
                            let found = one(&found.fields[field], found.range.start + at);
                            assert!(same_field(&found, expected), "seed {seed}, {start}: {found:?} {expected:?}");
                        }
                    }
                }
            }
        }
        assert_eq!(counted, all.times.len(), "seed {seed}: every row is in one stretch");
        both += usize::from(kinds == [true; 2]);
    }
    assert!(used > 60 && both > 20, "{used} runs of steps, {both} answers of both kinds");
}

fn append(out: &mut Rows, rows: &Rows, range: std::ops::Range<usize>) {
    out.times.extend_from_slice(&rows.times[range.clone()]);
    for (own, theirs) in out.columns.iter_mut().zip(&rows.columns) {
        own.extend_from(theirs, range.clone());
    }
}

#[test]
fn steps_outlive_their_rows_and_what_they_cannot_tell_is_refused() {
    let schema = schema(&[("speed", FieldType::F64)]);
    let fields: Arc<[FieldDef]> = schema.fields.iter().cloned().collect();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let midnight = START - START % DAY_NS;
    let count = 8640;
    let rows = Rows {
        times: (0..count).map(|at| midnight + at * 10_000_000_000).collect(),
        columns: vec![Column { values: Values::F64((0..count).map(|at| at as f64).collect()), validity: None }],
    };
    let (_, metas) = write(&storage, &schema, 1, &[("d".into(), rows)], &[]);
    let entries = |mask: Mask| {
        let mut entries: Vec<_> = open(&storage, &metas).iter().map(|s| s.find("d").unwrap().unwrap()).collect();
        entries.reverse();
        [StepSource::Steps { entries, segment: None, mask }]
    };
    let ask = |mask: Mask, first: i64, last: i64, steps: &[Step]| {
        let question = StepQuestion {
            device: "d",
            first,
            last,
            fields: &fields,
            steps,
            usable: &|_, _| true,
            cut_off: midnight + 5 * DAY_NS,
            kept: &[Step::Hour, Step::Day],
            cache: None,
        };
        plan_steps(&entries(mask), &question)
    };
    let hour = Step::Hour.width_ns();
    let found = ask(Mask::default(), midnight, midnight + DAY_NS - 1, &[Step::Day, Step::Hour]).unwrap();
    assert!(matches!(&found[..], [Stretch::Steps(part)] if part.step() == Step::Day));
    let found = ask(Mask::default(), midnight + hour, midnight + DAY_NS + hour, &[Step::Day, Step::Hour]).unwrap();
    assert!(
        matches!(&found[..], [Stretch::Steps(part)] if part.time_range() == (midnight + hour, midnight + DAY_NS - 1))
    );
    for (first, steps) in
        [(midnight + hour / 2, &[Step::Day, Step::Hour][..]), (midnight, &[]), (midnight, &[Step::Minute])]
    {
        let error = ask(Mask::default(), first, midnight + DAY_NS - 1, steps).unwrap_err();
        assert!(matches!(&error, crate::Error::RowsGone { step: Step::Hour, .. }), "{error}");
        assert!(error.to_string().contains("steps of 1h"), "{error}");
    }
    // A delete takes the steps that it touches along, and is no reason to refuse.
    let gone = Mask::new(vec![(midnight + 5 * hour + 7, midnight + 6 * hour + 9)]);
    let found = ask(gone, midnight, midnight + DAY_NS - 1, &[Step::Day, Step::Hour]).unwrap();
    let ranges: Vec<(i64, i64)> = found.iter().map(Stretch::time_range).collect();
    assert_eq!(ranges, [(midnight, midnight + 5 * hour - 1), (midnight + 7 * hour, midnight + DAY_NS - 1)]);
}

/// A summary of version 1, with every kind of field, is what today's program writes, and is read.
#[test]
fn version_1_is_read_and_written() {
    let schema = all_types();
    let memory = Arc::new(Memory::new());
    let storage: Arc<dyn Storage> = memory.clone();
    let chance = &mut Chance(20);
    let devices = [
        ("pump/ä".to_owned(), rows(&schema, 200, START, 700_000_000_000, chance)),
        ("truck_1".to_owned(), rows(&schema, 400, START, 20_000_000_000, chance)),
    ];
    let (_, metas) = write(&storage, &schema, 1, &devices, &Step::ALL);
    let written = storage.read(&summary_name(metas[1].id)).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/summary-v1.sum");
    if std::env::var_os("TIDEWELL_WRITE_FIXTURES").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes == written, "today's summary differs from the fixture: a new format needs a new version");
    let other = Memory::new();
    other.create(&summary_name(metas[1].id)).unwrap().write_at(0, &bytes).unwrap();
    let summary = Summary::open(&other, &summary_name(metas[1].id)).unwrap();
    assert_eq!((summary.step(), summary.segment(), summary.shard(), summary.seq_range()), (Step::Hour, 1, 3, (7, 9)));
    for (device, rows) in &devices {
        let mut found = StepRows::default();
        summary.find(device).unwrap().unwrap().load(i64::MIN..i64::MAX, &schema.fields, &mut found).unwrap();
        for (at, (start, fields)) in naive(rows, &schema.fields, Step::Hour).iter().enumerate() {
            assert_eq!(found.starts[at], *start);
            assert!(fields.iter().zip(&found.fields).all(|(e, f)| same_field(&one(f, at), e)));
        }
    }
    let mut text = String::new();
    dump(&summary, Some("truck_1"), false, &mut text).unwrap();
    assert!(text.contains("step 1h of segment 0000000000000001") && text.contains("    speed: count "), "{text}");
}

/// Ten fields of a truck every ten seconds: positions, sensors with one decimal, a tank, whole numbers that seldom change.
fn truck(chance: &mut Chance, rows: usize) -> Rows {
    let around = |chance: &mut Chance, width: u64| chance.below(2 * width + 1) as i64 - width as i64;
    let scales = [1e5, 1e5, 10.0, 10.0, 10.0, 10.0, 10.0, 100.0];
    let steps = [150, 150, 20, 40, 50, 3, 5, 0];
    let bounds = [
        (2_500_000, 5_000_000),
        (-12_500_000, -7_000_000),
        (0, 50_000),
        (0, 1000),
        (0, 3600),
        (-100, 100),
        (0, 500),
        (5, 100),
    ];
    let mut state: Vec<i64> = bounds.iter().map(|(low, high)| low + chance.below((high - low) as u64) as i64).collect();
    let (mut load, mut status) = (0i64, 0i64);
    let mut doubles = vec![Vec::new(); 8];
    let mut integers = vec![Vec::new(); 2];
    for _ in 0..rows {
        for (at, column) in doubles.iter_mut().enumerate() {
            column.push(state[at] as f64 / scales[at]);
            state[at] = (state[at] + around(chance, steps[at])).clamp(bounds[at].0, bounds[at].1);
        }
        integers[0].push(load);
        integers[1].push(status);
        if chance.below(10_000) < 200 {
            state[7] = if state[7] <= 5 { 100 } else { state[7] - 1 };
        }
        if chance.below(10_000) < 20 {
            load = chance.below(5001) as i64;
        }
        if chance.below(10_000) < 100 {
            status = chance.below(6) as i64;
        }
    }
    let columns = doubles.into_iter().map(Values::F64).chain(integers.into_iter().map(Values::I64));
    Rows {
        times: (0..rows as i64).map(|at| START - START % DAY_NS + at * 10_000_000_000).collect(),
        columns: columns.map(|values| Column { values, validity: None }).collect(),
    }
}

#[test]
fn summaries_take_less_than_a_twentieth_of_the_rows() {
    let names: Vec<String> = (0..10).map(|at| format!("field_{at}")).collect();
    let types = |at| if at < 8 { FieldType::F64 } else { FieldType::I64 };
    let fields: Vec<(&str, FieldType)> = names.iter().enumerate().map(|(at, name)| (&**name, types(at))).collect();
    let schema = schema(&fields);
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let chance = &mut Chance(99);
    let mut spec = spec(&schema, 1, crate::limits::COLD_BLOCK_ROWS);
    spec.tier = tidewell_codec::Tier::Cold;
    let numbers = FileNumbers::new(2, 1, 1);
    let mut build = SummaryBuild::new(&storage, &spec, &[], &numbers);
    let mut writer = SegmentWriter::create(Arc::clone(&storage), spec).unwrap();
    for device in 0..8 {
        let (device, rows) = (format!("truck_{device:04}"), truck(chance, 8640));
        writer.push_device(&device, (1, 2), &rows).unwrap();
        build.begin_device(&device, (1, 2));
        build.push_rows(&rows);
        build.end_device().unwrap();
    }
    let rows = writer.finish().unwrap().bytes;
    let metas = build.finish().unwrap();
    let bytes: u64 = metas.iter().map(|meta| meta.bytes).sum();
    println!("{bytes} of {rows}, {:?}", metas.iter().map(|meta| (meta.step, meta.bytes)).collect::<Vec<_>>());
    assert_eq!(metas.len(), 2, "six rows to a minute are no reason to keep it");
    assert!(bytes * 20 < rows, "{bytes} bytes of summaries, {rows} of rows");
}
