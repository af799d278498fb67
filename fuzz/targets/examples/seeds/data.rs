//! Owns the first inputs that hold columns or are files of a data directory: what the product writes, small.

use std::sync::Arc;

use tidewell_codec::{Batch, BatchField, Bitmap, Column, DeviceRuns, FieldType, Tier, Values};
use tidewell_codec::{encode_batch, encode_column, encode_times};
use tidewell_engine::device_log::{LogConfig, LogWriter, RecordHead};
use tidewell_engine::manifest::{Edit, Erasure, Manifest, Retention, SegmentMeta, write_heads};
use tidewell_engine::segment::{SegmentSpec, SegmentWriter};
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::summary::SummaryBuild;
use tidewell_engine::upkeep::FileNumbers;
use tidewell_engine::{FieldDef, Head, LogPosition, ProducerId, Rows, SeqNo, Step, TableSchema};

use crate::Folder;

const TIERS: [Tier; 3] = [Tier::Plain, Tier::Hot, Tier::Cold];
const START: i64 = 1_700_000_000_000_000_000;

/// Everything that holds columns, and the files of a data directory.
pub fn write(folder: &Folder) {
    columns(folder);
    batches(folder);
    logs(folder);
    let segments =
        [(1, 4, Tier::Plain), (3, 40, Tier::Hot), (2, 300, Tier::Cold), (1, 700, Tier::Hot), (130, 1, Tier::Hot)];
    for (number, (devices, rows, tier)) in segments.into_iter().enumerate() {
        self::segments(folder, number, devices, rows, tier);
    }
    manifests(folder);
    heads(folder);
}

/// Numbers that look random and are the same every time.
fn noise(index: usize) -> u64 {
    let x = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 7
}

fn column(field_type: FieldType, rows: usize, shape: usize, nulls: bool) -> Column {
    let mut column = Column::new(field_type);
    for row in 0..rows {
        let number = match shape {
            0 => noise(row) as i64,
            1 => 50,
            2 => 1_000 + 10 * row as i64,
            3 => (noise(row) % 40) as i64,
            _ => (row / 9 * 100) as i64,
        };
        match &mut column.values {
            Values::F64(values) => values.push(match shape {
                0 => f64::from_bits(noise(row) << 3),
                3 if row % 11 == 5 => f64::NAN,
                _ => number as f64 / 10.0,
            }),
            Values::I64(values) => values.push(number),
            Values::Bool(values) => values.push(number % 3 == 1),
            Values::Utf8(values) => values.push(&format!("state {}", number % 7)),
        }
    }
    if nulls {
        let mut bits = Bitmap::with_capacity(rows);
        (0..rows).for_each(|row| bits.push(!noise(row).is_multiple_of(4)));
        column.validity = Some(bits);
        column.normalise();
    }
    column
}

const TYPES: [FieldType; 4] = [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8];

fn columns(folder: &Folder) {
    for (type_number, field_type) in TYPES.into_iter().enumerate() {
        for (tier, shape) in TIERS.into_iter().flat_map(|tier| (0..5).map(move |shape| (tier, shape))) {
            for (rows, nulls) in [(3, false), (100, false), (100, true), (1_100, false)] {
                let column = column(field_type, rows, shape, nulls);
                let mut input = vec![type_number as u8, rows as u8, (rows >> 8) as u8];
                encode_column(&column, 0..rows, tier, &mut input);
                if input.len() < 1_500 {
                    folder.put("column", &format!("{type_number}-{tier:?}-{shape}-{rows}-{nulls}"), &input);
                }
                if let (Values::I64(times), false) = (&column.values, nulls) {
                    let mut input = vec![0x80, rows as u8, (rows >> 8) as u8];
                    encode_times(times, tier, &mut input);
                    if input.len() < 1_500 {
                        folder.put("column", &format!("times-{tier:?}-{shape}-{rows}"), &input);
                    }
                }
            }
        }
        for shape in 0..64u8 {
            let mut input = vec![type_number as u8, 3, shape];
            input.extend((0..90).map(|at| noise(at + usize::from(shape)) as u8));
            folder.put("column_round_trip", &format!("{type_number}-{shape}"), &input);
        }
    }
}

fn a_batch(devices: &[&str], rows: usize, shape: usize) -> Batch {
    let mut runs = DeviceRuns::default();
    devices.iter().for_each(|device| runs.push(device, rows as u32));
    let total = rows * devices.len();
    let field = |field_type: FieldType, name: &str| BatchField {
        name: name.to_owned(),
        column: column(field_type, total, shape, shape > 2),
    };
    Batch {
        table: "readings".to_owned(),
        devices: runs,
        times: (0..total).map(|row| START + 10_000_000_000 * row as i64).collect(),
        fields: vec![
            field(FieldType::F64, "speed"),
            field(FieldType::I64, "count"),
            field(FieldType::Bool, "open"),
            field(FieldType::Utf8, "state"),
        ],
    }
}

fn payloads() -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for tier in TIERS {
        for (at, devices) in [&["truck_1"][..], &["truck_1", "truck_10", "truck_2"]].into_iter().enumerate() {
            for (rows, shape) in [(1, 0), (5, 3), (60, 4)] {
                let mut payload = Vec::new();
                encode_batch(&a_batch(devices, rows, shape + at), tier, &mut payload);
                payloads.push(payload);
            }
        }
    }
    payloads
}

fn batches(folder: &Folder) {
    for (at, payload) in payloads().iter().enumerate() {
        folder.put("batch", &at.to_string(), payload);
    }
}

/// A log file without the zeros behind its header, as the target takes it.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(16));
    [&bytes[..64], &bytes[4096.min(end)..end.max(4096)]].concat()
}

fn logs(folder: &Folder) {
    let memory = Memory::new();
    let config = LogConfig { file_bytes: 8 << 10, ..LogConfig::default() };
    let mut log = LogWriter::resume(Arc::new(memory.clone()), 3, LogPosition::default(), config).unwrap();
    let payloads: Vec<Vec<u8>> = payloads().into_iter().filter(|payload| payload.len() < 400).collect();
    for seq in 1..=24u64 {
        let head = RecordHead { producer: ProducerId(9), seq: SeqNo(seq), received_ns: START + seq as i64 };
        log.append(&head, &payloads[seq as usize % payloads.len()]).unwrap();
        if seq % 3 == 0 {
            log.commit().unwrap();
        }
    }
    log.close().unwrap();
    let files: Vec<Vec<u8>> =
        memory.list("log").unwrap().iter().map(|name| memory.read(&format!("log/{name}")).unwrap()).collect();
    for (at, file) in files.iter().enumerate() {
        let mut input = vec![0, 0, 0, 0, 0];
        input.extend_from_slice(&packed(file));
        folder.put("log", &format!("one-{at}"), &input);
    }
    for (at, pair) in files.windows(2).enumerate() {
        let (first, second) = (packed(&pair[0]), packed(&pair[1]));
        for from in [0, 2] {
            let mut input = vec![1 | from, first.len() as u8, (first.len() >> 8) as u8, 0, 1];
            input.extend_from_slice(&first);
            input.extend_from_slice(&second);
            folder.put("log", &format!("two-{at}-{from}"), &input);
        }
    }
}

fn segments(folder: &Folder, number: usize, devices: usize, rows: usize, tier: Tier) {
    let names = [
        ("speed", FieldType::F64),
        ("count", FieldType::I64),
        ("open", FieldType::Bool),
        ("state", FieldType::Utf8),
        ("never", FieldType::F64),
    ];
    let fields =
        names.iter().map(|(name, field_type)| FieldDef { name: (*name).into(), field_type: *field_type }).collect();
    let schema = Arc::new(TableSchema { name: "readings".into(), fields });
    let spec = SegmentSpec {
        id: 17,
        shard: 3,
        schema: Arc::clone(&schema),
        tier,
        block_rows: 256,
        seq_min: 7,
        seq_max: 9,
        created_ns: START,
    };
    let memory = Arc::new(Memory::new());
    let storage: Arc<dyn Storage> = memory.clone();
    let mut writer = SegmentWriter::create(memory.clone(), spec.clone()).unwrap();
    let mut summaries = SummaryBuild::new(&storage, &spec, &Step::ALL, &FileNumbers::new(18, 1, 1));
    for device in 0..devices {
        let times = (0..rows).map(|row| START + 10_000_000_000 * row as i64 + (noise(row) % 9) as i64).collect();
        let columns = schema.fields.iter().enumerate().map(|(at, field)| match &*field.name {
            "never" => Column::nulls(FieldType::F64, rows),
            _ => column(field.field_type, rows, (at + device + number) % 5, at % 2 == 1),
        });
        let rows = Rows { columns: columns.collect(), times };
        let id = format!("vehicle-{device:03}");
        writer.push_device(&id, (START, START + 250), &rows).unwrap();
        summaries.begin_device(&id, (START, START + 250));
        summaries.push_rows(&rows);
        summaries.end_device().unwrap();
    }
    writer.finish().unwrap();
    folder.put("segment", &number.to_string(), &memory.read("seg/0000000000000011.seg").unwrap());
    for meta in summaries.finish().unwrap() {
        let bytes = memory.read(&tidewell_engine::summary::summary_name(meta.id)).unwrap();
        folder.put("summary", &format!("{number}-{}", meta.step), &bytes);
    }
}

fn manifests(folder: &Folder) {
    let table = |name: &str| -> Arc<str> { name.into() };
    let field = |name: &str, field_type| Edit::Field { table: "power".into(), field: name.into(), field_type };
    let segment = |id, shard| SegmentMeta {
        id,
        shard,
        table: "power".into(),
        level: 1,
        seq_min: id,
        seq_max: id + 2,
        rows: 1_000,
        bytes: 4_321,
        time_min: START,
        time_max: START + 1_000,
        clean: 0,
    };
    let erasure = |number, table: Option<&str>| {
        Edit::ErasureAdded(Erasure {
            number,
            shard: 1,
            table: table.map(Into::into),
            device: "pump-1".into(),
            start_ns: -7,
            end_ns: 99,
            before_seq: 12,
            created_ns: START,
        })
    };
    let pairs = Arc::new([("site".to_owned(), "Süd".to_owned())].into());
    let groups = [
        vec![Edit::Created { shards: 2, created_ns: START }],
        vec![field("volts", FieldType::F64), field("on", FieldType::Bool)],
        vec![
            Edit::SegmentAdded(segment(17, 1)),
            Edit::LogReleased { shard: 1, position: LogPosition { generation: 5, offset: 8192 } },
            Edit::ProducerHeads { shard: 1, number: 7 },
        ],
        vec![Edit::Attributes { device: "pump-1".into(), pairs }],
        vec![
            Edit::SegmentRemoved { id: 17 },
            Edit::SegmentAdded(segment(21, 0)),
            Edit::NextIds { segment: 30, heads: 12 },
        ],
        vec![erasure(5, Some("power")), erasure(6, None)],
        vec![
            Edit::RetentionSet {
                table: table("power"),
                retention: Retention { raw_ns: Some(30), minute_ns: None, hour_ns: Some(5_000), day_ns: None },
            },
            Edit::CutOff { table: table("power"), raw_before_ns: 86_400_000_000_000 },
        ],
        vec![Edit::ErasureRemoved { number: 6 }, Edit::TableRenamed { from: table("power"), to: table("energy") }],
        vec![Edit::TableDropped { table: table("energy") }],
    ];
    let memory = Memory::new();
    let (mut manifest, _) = Manifest::open(Arc::new(memory.clone())).unwrap();
    for (at, group) in groups.iter().enumerate() {
        manifest.append(group).unwrap();
        folder.put("manifest", &at.to_string(), &memory.read("manifest/0000000000000001.manifest").unwrap());
    }
}

fn heads(folder: &Folder) {
    let pair = |producer: u128, seq: u64| (ProducerId(producer), Head { seq: SeqNo(seq), received_ns: START });
    for pairs in [vec![], vec![pair(1, 5)], vec![pair(1, 5), pair(2, 1), pair(u128::MAX, u64::MAX)]] {
        let memory = Memory::new();
        write_heads(&memory, 1, 7, &pairs).unwrap();
        folder.put("heads", &pairs.len().to_string(), &memory.read("heads/0001-0000000000000007.heads").unwrap());
    }
}
