//! Owns the tests of segments as files: round trips, hostile bytes, sizes, the golden file.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Bitmap, Column, Text, Tier, Values};

use super::format::{CRC_LEN, TRAILER_LEN};
use super::zone::same_stats;
use super::*;
use crate::error::{Error, Result};
use crate::storage::{Memory, Storage};
use crate::types::{FieldDef, FieldType, Rows, TableSchema};

/// A small generator with a fixed seed, so that a failure repeats.
pub(crate) struct Chance(pub u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(crate) fn schema(fields: &[(&str, FieldType)]) -> Arc<TableSchema> {
    let fields = fields.iter().map(|(name, field_type)| FieldDef { name: (*name).into(), field_type: *field_type });
    Arc::new(TableSchema { name: "readings".into(), fields: fields.collect() })
}

fn all_types() -> Arc<TableSchema> {
    schema(&[
        ("speed", FieldType::F64),
        ("count", FieldType::I64),
        ("open", FieldType::Bool),
        ("state", FieldType::Utf8),
        ("never", FieldType::F64),
    ])
}

pub(crate) fn spec(schema: &Arc<TableSchema>, id: u64, block_rows: usize) -> SegmentSpec {
    SegmentSpec {
        id,
        shard: 3,
        schema: schema.clone(),
        tier: Tier::Hot,
        block_rows,
        seq_min: 7,
        seq_max: 9,
        created_ns: 1_700_000_000_000_000_000,
    }
}

/// Rows with every kind of value, about one in `nulls` of them null; null slots hold what decoding gives them.
pub(crate) fn random_rows(schema: &TableSchema, rows: usize, start: i64, nulls: u64, chance: &mut Chance) -> Rows {
    let mut time = start;
    let mut times = Vec::new();
    for _ in 0..rows {
        times.push(time);
        time += 1 + chance.below(1_000_000) as i64;
    }
    let columns = schema.fields.iter().map(|field| {
        let valid: Bitmap = (0..rows).map(|_| chance.below(nulls) > 0 && &*field.name != "never").collect();
        let mut column = Column::new(field.field_type);
        for row in 0..rows {
            if !valid.get(row) {
                match &mut column.values {
                    Values::F64(v) => v.push(0.0),
                    Values::I64(v) => v.push(0),
                    Values::Bool(v) => v.push(false),
                    Values::Utf8(v) => v.push(""),
                }
                continue;
            }
            match &mut column.values {
                Values::F64(v) => v.push(match chance.below(20) {
                    0 => f64::from_bits(0x7ff8_0000_0000_1234),
                    1 => -0.0,
                    2 => f64::INFINITY,
                    _ => chance.below(5000) as f64 / 10.0,
                }),
                Values::I64(v) => v.push(chance.below(1 << 40) as i64 - (1 << 39)),
                Values::Bool(v) => v.push(chance.below(2) == 1),
                Values::Utf8(v) => v.push(["idle", "grün", "", "running"][chance.below(4) as usize]),
            }
        }
        column.validity = Some(valid);
        column.normalise();
        column
    });
    Rows { columns: columns.collect(), times }
}

pub(crate) fn write(storage: &Arc<Memory>, spec: SegmentSpec, devices: &[(String, Rows)]) -> SegmentSummary {
    let mut writer = SegmentWriter::create(storage.clone(), spec).unwrap();
    for (device, rows) in devices {
        writer.push_device(device, (100, 250), rows).unwrap();
    }
    writer.finish().unwrap()
}

fn fleet(schema: &TableSchema, devices: usize, rows: Range<u64>, seed: u64) -> Vec<(String, Rows)> {
    let mut chance = Chance(seed);
    (0..devices)
        .map(|at| {
            let rows = rows.start + chance.below(rows.end - rows.start);
            let start = 1_700_000_000_000_000_000 + chance.below(1 << 40) as i64;
            (format!("vehicle-{at:05}"), random_rows(schema, rows as usize, start, 4, &mut chance))
        })
        .collect()
}

/// All rows of a device, block by block.
fn read_device(blocks: &DeviceBlocks) -> Result<Rows> {
    let fields = &blocks.segment().schema().fields;
    let mut rows = Rows { times: vec![], columns: fields.iter().map(|f| Column::new(f.field_type)).collect() };
    for at in 0..blocks.len() {
        let block = blocks.block(at)?;
        block.load_times(&mut rows.times)?;
        for (field, column) in rows.columns.iter_mut().enumerate() {
            block.load_field(field, column)?;
        }
    }
    rows.columns.iter_mut().for_each(Column::normalise);
    Ok(rows)
}

fn read_all(storage: &dyn Storage, name: &str) -> Result<Vec<(String, Rows)>> {
    let segment = Segment::open(storage, name)?;
    let mut out = Vec::new();
    for entry in segment.devices() {
        let entry = entry?;
        out.push((entry.id().to_owned(), read_device(&entry.blocks()?)?));
    }
    Ok(out)
}

/// Equal to the bit: `PartialEq` of doubles would take NaN for different and the zeros for the same.
pub(crate) fn same_rows(a: &Rows, b: &Rows) -> bool {
    let same = |(a, b): (&Column, &Column)| match (&a.values, &b.values) {
        (Values::F64(x), Values::F64(y)) => {
            a.validity == b.validity && x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits())
        }
        _ => a == b,
    };
    a.times == b.times && a.columns.len() == b.columns.len() && a.columns.iter().zip(&b.columns).all(same)
}

fn same_fleet(a: &[(String, Rows)], b: &[(String, Rows)]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((i, a), (j, b))| i == j && same_rows(a, b))
}

#[test]
fn all_types_come_back_from_many_devices() {
    for (tier, seed) in [(Tier::Plain, 1), (Tier::Hot, 2), (Tier::Cold, 3)] {
        let (storage, schema) = (Arc::new(Memory::new()), all_types());
        let devices = fleet(&schema, 300, 1..90, seed);
        let summary = write(&storage, SegmentSpec { tier, ..spec(&schema, 5, 32) }, &devices);
        let name = segment_name(5);
        assert!(same_fleet(&read_all(&*storage, &name).unwrap(), &devices));

        let segment = Segment::open(&*storage, &name).unwrap();
        assert_eq!(verify(&segment).iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!((segment.id(), segment.shard(), segment.tier(), segment.seq_range()), (5, 3, tier, (7, 9)));
        assert_eq!(segment.schema(), &schema);
        assert_eq!((segment.rows(), segment.device_count()), (summary.rows, 300));
        assert_eq!((segment.time_range(), segment.file_bytes()), ((summary.time_min, summary.time_max), summary.bytes));
        for (device, rows) in &devices {
            let blocks = segment.find(device).unwrap().unwrap();
            assert_eq!((blocks.len(), blocks.received()), (rows.times.len().div_ceil(32), (100, 250)));
            for at in 0..blocks.len() {
                let range = at * 32..rows.times.len().min(at * 32 + 32);
                let meta = blocks.meta(at);
                let times = (rows.times[range.start], rows.times[range.end - 1]);
                assert_eq!((meta.rows, (meta.time_min, meta.time_max)), (range.len(), times));
                for field in 0..schema.fields.len() {
                    let stats = field_stats(&rows.columns[field], range.clone());
                    assert!(same_stats(&blocks.stats(at, field).unwrap(), &stats));
                }
            }
        }
        for absent in ["", "a", "vehicle-00000x", "vehicle-00127~", "zzz"] {
            assert!(segment.find(absent).unwrap().is_none(), "{absent}");
        }
        let mut text = String::new();
        dump(&segment, Some("vehicle-00007"), false, &mut text).unwrap();
        assert!(text.contains("field state utf8") && text.contains("device vehicle-00007"), "{text}");
    }
}

#[test]
fn rows_in_pieces_give_the_same_file_as_rows_at_once() {
    let (whole, pieces, schema) = (Arc::new(Memory::new()), Arc::new(Memory::new()), all_types());
    let devices = fleet(&schema, 3, 200..300, 4);
    write(&whole, spec(&schema, 1, 50), &devices);
    let mut writer = SegmentWriter::create(pieces.clone(), spec(&schema, 1, 50)).unwrap();
    let mut chance = Chance(8);
    for (device, rows) in &devices {
        writer.begin_device(device, (100, 250));
        let mut start = 0;
        while start < rows.times.len() {
            let end = rows.times.len().min(start + 1 + chance.below(120) as usize);
            let mut piece = Rows { times: rows.times[start..end].to_vec(), columns: vec![] };
            for column in &rows.columns {
                let mut part = Column::new(column.field_type());
                part.extend_from(column, start..end);
                piece.columns.push(part);
            }
            writer.push_rows(&piece).unwrap();
            start = end;
        }
        writer.end_device().unwrap();
    }
    writer.finish().unwrap();
    // Rows that went through the writer's buffer may carry a bitmap of their own; what is read must be the same.
    let name = segment_name(1);
    assert!(same_fleet(&read_all(&*pieces, &name).unwrap(), &read_all(&*whole, &name).unwrap()));
    assert_eq!(
        Segment::open(&*pieces, &name).unwrap().block_count(),
        Segment::open(&*whole, &name).unwrap().block_count()
    );
}

#[test]
fn segments_appear_whole_or_not_at_all() {
    let (storage, schema) = (Arc::new(Memory::new()), all_types());
    let mut writer = SegmentWriter::create(storage.clone(), spec(&schema, 1, 50)).unwrap();
    let devices = fleet(&schema, 1, 5..6, 4);
    writer.push_device(&devices[0].0, (0, 0), &devices[0].1).unwrap();
    // A writer that fails takes its file along.
    drop(writer);
    assert!(storage.list(SEGMENT_DIR).unwrap().is_empty());
    // A crash cannot; the left-over does not hinder the next attempt.
    let mut writer = SegmentWriter::create(storage.clone(), spec(&schema, 1, 50)).unwrap();
    writer.push_device(&devices[0].0, (0, 0), &devices[0].1).unwrap();
    std::mem::forget(writer);
    assert_eq!(storage.list(SEGMENT_DIR).unwrap(), ["0000000000000001.seg.tmp"]);
    write(&storage, spec(&schema, 1, 50), &devices);
    assert_eq!(storage.list(SEGMENT_DIR).unwrap(), ["0000000000000001.seg"]);

    let empty = SegmentWriter::create(storage.clone(), spec(&schema, 2, 50)).unwrap();
    assert!(matches!(empty.finish(), Err(Error::Invalid(_))));
    assert_eq!(storage.list(SEGMENT_DIR).unwrap(), ["0000000000000001.seg"]);
}

#[test]
fn text_bounds_a_block_before_rows_do() {
    let (storage, schema) = (Arc::new(Memory::new()), schema(&[("log", FieldType::Utf8)]));
    let mut text = Text::default();
    let line = "x".repeat(1 << 20);
    (0..10).for_each(|_| text.push(&line));
    let rows = Rows { times: (0..10).collect(), columns: vec![Column { values: Values::Utf8(text), validity: None }] };
    write(&storage, spec(&schema, 1, 4096), &[("d".into(), rows.clone())]);
    let segment = Segment::open(&*storage, &segment_name(1)).unwrap();
    let blocks = segment.find("d").unwrap().unwrap();
    assert_eq!((0..blocks.len()).map(|at| blocks.meta(at).rows).collect::<Vec<_>>(), [4, 4, 2]);
    assert!(same_rows(&read_device(&blocks).unwrap(), &rows));
}

#[test]
fn names_are_canonical() {
    assert_eq!(segment_name(0xab), "seg/00000000000000ab.seg");
    assert_eq!(segment_id("seg/00000000000000ab.seg"), Some(0xab));
    for other in ["seg/00000000000000AB.seg", "seg/00000000000000ab.seg.tmp", "seg/ab.seg", "seg/+0000000000000ab.seg"]
    {
        assert_eq!(segment_id(other), None, "{other}");
    }
}

type Fleet = Vec<(String, Rows)>;

fn small() -> (Arc<Memory>, String, Fleet, Vec<u8>) {
    let (storage, schema) = (Arc::new(Memory::new()), all_types());
    let devices = fleet(&schema, 3, 5..20, 6);
    write(&storage, spec(&schema, 1, 8), &devices);
    let bytes = storage.read(&segment_name(1)).unwrap();
    (storage, segment_name(1), devices, bytes)
}

#[test]
fn a_cut_segment_is_refused_at_every_length() {
    let (storage, name, _, bytes) = small();
    for len in 0..bytes.len() {
        storage.damage(&name, |file| *file = bytes[..len].to_vec());
        assert!(matches!(Segment::open(&*storage, &name), Err(Error::Corruption { .. })), "cut at {len}");
    }
    storage.damage(&name, |file| {
        *file = bytes.clone();
        file.push(0);
    });
    assert!(matches!(Segment::open(&*storage, &name), Err(Error::Corruption { .. })));
}

#[test]
fn a_flipped_bit_is_named_and_never_gives_a_wrong_row() {
    let (storage, name, devices, bytes) = small();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            storage.damage(&name, |file| {
                *file = bytes.clone();
                file[at] ^= 1 << bit;
            });
            match read_all(&*storage, &name) {
                Ok(_) => panic!("bit {bit} of byte {at} is covered by no checksum"),
                Err(Error::Corruption { path, .. }) => assert_eq!(path, name),
                Err(Error::NewerFormat { path, .. }) => assert_eq!((path, at / 4), (name.clone(), 2)),
                Err(other) => panic!("{other}"),
            }
            // What does not touch the damage is still right, and `verify` finds what is damaged.
            let Ok(segment) = Segment::open(&*storage, &name) else { continue };
            assert!(!verify(&segment).is_empty(), "bit {bit} of byte {at}");
            for (device, rows) in &devices {
                if let Ok(Some(blocks)) = segment.find(device)
                    && let Ok(read) = read_device(&blocks)
                {
                    assert!(same_rows(&read, rows), "bit {bit} of byte {at}");
                }
            }
        }
    }
}

/// Damage that carries a right checksum, as a hostile or buggy writer would leave it: anything but a panic.
#[test]
fn sections_with_right_checksums_and_wrong_contents_do_not_panic() {
    let (storage, name, _, bytes) = small();
    let segment = Segment::open(&*storage, &name).unwrap();
    let trailer = segment.trailer;
    let mut sections = vec![(0, trailer.header_len as usize), (bytes.len() - TRAILER_LEN, 88)];
    sections.push((trailer.root_offset as usize, bytes.len() - TRAILER_LEN - trailer.root_offset as usize));
    let (page, offset) = segment.page(0).unwrap();
    sections.push((offset as usize, trailer.root_offset as usize - offset as usize));
    for slot in 0..page.len() {
        let (offset, len) = page.directory(slot);
        sections.push((offset as usize, len as usize));
    }
    for entry in segment.devices() {
        for block in entry.unwrap().blocks().unwrap().entries() {
            sections.push((block.meta_offset as usize, block.meta_len as usize));
            sections.push((block.data_offset as usize, block.data_len as usize));
        }
    }
    for (start, len) in sections {
        let end = start + len - CRC_LEN;
        for at in start..end {
            for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 0x10, bytes[at].wrapping_add(1)] {
                storage.damage(&name, |file| {
                    *file = bytes.clone();
                    file[at] = value;
                    let crc = crc32c::crc32c(&file[start..end]).to_le_bytes();
                    file[end..end + CRC_LEN].copy_from_slice(&crc);
                });
                let _ = read_all(&*storage, &name);
                if let Ok(segment) = Segment::open(&*storage, &name) {
                    verify(&segment);
                    dump(&segment, None, true, &mut String::new()).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_by_name_and_version() {
    let (storage, name, ..) = small();
    storage.damage(&name, |file| file[8] = 2);
    match Segment::open(&*storage, &name) {
        Err(Error::NewerFormat { path, format, found, supported }) => {
            assert_eq!((path, format, found, supported), (name, "segment", 2, 1));
        }
        other => panic!("{other:?}"),
    }
}

/// The bytes of version 1 must stay readable, and a change of what is written must be meant: it brings a version, a row in
/// `docs/format/segment.md` and a new fixture (run with `TIDEWELL_WRITE_FIXTURES=1`).
#[test]
fn version_1_is_written_and_read_as_in_the_fixture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/segment-v1.seg");
    let (storage, schema) = (Arc::new(Memory::new()), all_types());
    let devices = fleet(&schema, 130, 1..6, 17);
    // Raw values: how well the codecs compress is no matter of this format.
    write(&storage, SegmentSpec { tier: Tier::Plain, ..spec(&schema, 0x1d, 3) }, &devices);
    let name = segment_name(0x1d);
    let written = storage.read(&name).unwrap();
    if std::env::var_os("TIDEWELL_WRITE_FIXTURES").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let kept = std::fs::read(path).unwrap();
    assert!(kept == written, "{} bytes written, {} in the fixture", written.len(), kept.len());
    storage.damage(&name, |file| *file = kept.clone());
    assert!(same_fleet(&read_all(&*storage, &name).unwrap(), &devices));
    assert!(verify(&Segment::open(&*storage, &name).unwrap()).is_empty());
}

#[test]
fn a_segment_under_another_name_is_refused() {
    let (storage, name, ..) = small();
    storage.rename(&name, &segment_name(2)).unwrap();
    assert!(matches!(Segment::open(&*storage, &segment_name(2)), Err(Error::Corruption { offset: 16, .. })));
}

/// Verification must see what checksums cannot: a zone map that does not fit its data.
#[test]
fn verify_compares_zone_maps_with_the_data() {
    let (storage, schema) = (Arc::new(Memory::new()), schema(&[("n", FieldType::I64)]));
    let rows = Rows { times: vec![1, 2], columns: vec![Column { values: Values::I64(vec![5, 8]), validity: None }] };
    write(&storage, spec(&schema, 1, 8), &[("d".into(), rows)]);
    let segment = Segment::open(&*storage, &segment_name(1)).unwrap();
    let entry = segment.find("d").unwrap().unwrap().entries()[0];
    drop(segment);
    storage.damage(&segment_name(1), |file| {
        let (start, end) = (entry.meta_offset as usize, (entry.meta_offset + entry.meta_len) as usize - CRC_LEN);
        // The last byte is the sum.
        file[end - 1] += 2;
        let crc = crc32c::crc32c(&file[start..end]).to_le_bytes();
        file[end..end + CRC_LEN].copy_from_slice(&crc);
    });
    let damage = verify(&Segment::open(&*storage, &segment_name(1)).unwrap());
    assert_eq!(damage.len(), 1);
    assert!(damage[0].to_string().contains("zone map of n"), "{}", damage[0]);
}

/// A million slow devices must not drown in metadata.
#[test]
fn slow_devices_stay_compact() {
    let names: Vec<String> = (0..10).map(|at| format!("f{at}")).collect();
    let schema = schema(&names.iter().map(|n| (n.as_str(), FieldType::F64)).collect::<Vec<_>>());
    let mut chance = Chance(11);
    let devices: Vec<(String, Rows)> = (0..500)
        .map(|at| {
            let times = (0..10).map(|row| 1_700_000_000_000_000_000 + row * 60_000_000_000).collect();
            let mut column = || {
                let base = chance.below(5_000);
                let values = (0..10).map(|_| (base + chance.below(40)) as f64 / 10.0).collect();
                Column { values: Values::F64(values), validity: None }
            };
            (format!("vehicle-{at:05}"), Rows { times, columns: (0..10).map(|_| column()).collect() })
        })
        .collect();
    let storage = Arc::new(Memory::new());
    let summary = write(&storage, spec(&schema, 1, 4096), &devices);
    let segment = Segment::open(&*storage, &segment_name(1)).unwrap();
    let mut chunks = 0;
    for entry in segment.devices() {
        let block = entry.unwrap().blocks().unwrap().block(0).unwrap();
        chunks += block.times_bytes() + (0..10).map(|field| block.field_bytes(field)).sum::<u64>();
    }
    let overhead = (summary.bytes - chunks) as f64 / (500.0 * 10.0);
    println!("{overhead:.1} bytes of metadata per block and field, {chunks} bytes of chunks");
    assert!(overhead <= 25.0, "{overhead:.1} bytes of metadata per block and field");
}
