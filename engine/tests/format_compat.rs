//! Owns the promise that files of every released format version can be read: fixtures of logs and manifests.
//!
//! `TIDEWELL_WRITE_FIXTURES=1 cargo test -p tidewell-engine --test format_compat` writes what today's version writes;
//! a fixture of a version that was released never changes.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tidewell_engine::Head;
use tidewell_engine::device_log::{LogConfig, LogWriter, RecordHead, replay};
use tidewell_engine::manifest::{
    Edit, Erasure, Manifest, ManifestState, Retention, SegmentMeta, read_heads, write_heads,
};
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::{FieldType, LogPosition, ProducerId, SeqNo};

const LOG: &str = "log/0003-0000000000000001.log";
const MANIFEST: &str = "manifest/0000000000000001.manifest";
const HEADS: &str = "heads/0001-0000000000000007.heads";

fn fixture(name: &str, written: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os("TIDEWELL_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, written).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A directory with one file.
fn holding(name: &str, bytes: &[u8]) -> Memory {
    let memory = Memory::new();
    memory.create(name).unwrap().write_at(0, bytes).unwrap();
    memory
}

fn records() -> Vec<(RecordHead, Vec<u8>)> {
    let head = |producer, seq| RecordHead {
        producer: ProducerId(producer),
        seq: SeqNo(seq),
        received_ns: 1_700_000_000_000_000_000 + seq as i64,
    };
    vec![
        (head(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, 1), b"first payload".to_vec()),
        (head(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, 2), Vec::new()),
        (head(42, u64::MAX), (0..=255).collect()),
    ]
}

#[test]
fn log_version_1_is_read_and_written() {
    let memory = Memory::new();
    let mut log = LogWriter::resume(Arc::new(memory.clone()), 3, LogPosition::default(), LogConfig::default()).unwrap();
    for group in records().chunks(2) {
        for (head, payload) in group {
            log.append(head, payload).unwrap();
        }
        log.commit().unwrap();
    }
    let end = log.close().unwrap();
    let written = memory.read(LOG).unwrap();
    let bytes = fixture("log-v1.log", &written);
    assert!(bytes == written, "today's log differs from the fixture: a new format needs a new version");

    let mut found = Vec::new();
    let report = replay(&holding(LOG, &bytes), 3, LogPosition::default(), &mut |record| {
        let head = RecordHead { producer: record.producer, seq: record.seq, received_ns: record.received_ns };
        found.push((head, record.payload.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(found, records());
    assert_eq!((report.end, report.cut, report.damaged), (end, None, vec![]));
}

fn edits() -> Vec<Vec<Edit>> {
    let field = |field: &str, field_type| Edit::Field { table: "power".into(), field: field.into(), field_type };
    let pairs = BTreeMap::from([("site".to_owned(), "Süd".to_owned()), ("unit".to_owned(), String::new())]);
    vec![
        vec![Edit::Created { shards: 2, created_ns: 1_700_000_000_000_000_000 }],
        vec![
            field("volts", FieldType::F64),
            field("count", FieldType::I64),
            field("on", FieldType::Bool),
            field("text", FieldType::Utf8),
        ],
        vec![
            Edit::SegmentAdded(SegmentMeta {
                id: 17,
                shard: 1,
                table: "power".into(),
                level: 2,
                seq_min: 3,
                seq_max: 9,
                rows: 1000,
                bytes: 4321,
                time_min: -1,
                time_max: 1_700_000_000_000_000_000,
                clean: 0,
            }),
            Edit::LogReleased { shard: 1, position: LogPosition { generation: 5, offset: 8192 } },
            Edit::ProducerHeads { shard: 1, number: 7 },
        ],
        vec![Edit::Attributes { device: "pump-1".into(), pairs: Arc::new(pairs) }],
        vec![Edit::SegmentRemoved { id: 17 }, Edit::NextIds { segment: 30, heads: 12 }],
    ]
}

/// The edits that version 2 brought.
fn edits_of_version_2() -> Vec<Vec<Edit>> {
    let erasure = |number, table: Option<&str>, end_ns| {
        Edit::ErasureAdded(Erasure {
            number,
            shard: 1,
            table: table.map(Into::into),
            device: "pump-1".into(),
            start_ns: -7,
            end_ns,
            before_seq: 12,
            created_ns: 1_700_000_000_000_000_001,
        })
    };
    let retention = Retention { raw_ns: Some(30), minute_ns: None, hour_ns: Some(5_000), day_ns: None };
    vec![
        vec![erasure(5, Some("power"), 99), erasure(6, None, i64::MAX)],
        vec![
            Edit::RetentionSet { table: "power".into(), retention },
            Edit::CutOff { table: "power".into(), raw_before_ns: 86_400_000_000_000 },
        ],
        vec![
            Edit::ErasureRemoved { number: 6 },
            Edit::Field { table: "gone".into(), field: "x".into(), field_type: FieldType::F64 },
        ],
        vec![
            Edit::TableRenamed { from: "power".into(), to: "energy".into() },
            Edit::TableDropped { table: "gone".into() },
        ],
    ]
}

fn written_manifest(groups: &[Vec<Edit>]) -> (Vec<u8>, ManifestState) {
    let memory = Memory::new();
    let (mut manifest, _) = Manifest::open(Arc::new(memory.clone())).unwrap();
    let mut state = ManifestState::default();
    for group in groups {
        manifest.append(group).unwrap();
        group.iter().for_each(|edit| state.apply(edit).unwrap());
    }
    (memory.read(MANIFEST).unwrap(), state)
}

#[test]
fn manifest_version_1_is_read_and_the_next_edit_makes_it_version_2() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest-v1.manifest");
    let bytes = std::fs::read(path).unwrap();
    let (_, mut state) = written_manifest(&edits());
    let memory = holding(MANIFEST, &bytes);
    let (found, report) = Manifest::inspect(&memory).unwrap();
    assert_eq!(found, state);
    assert_eq!((report.records, report.cut), (5, None));

    // A program of version 1 must not read on to edits that it does not know.
    let (mut manifest, _) = Manifest::open(Arc::new(memory.clone())).unwrap();
    for edits in edits_of_version_2() {
        manifest.append(&edits).unwrap();
        edits.iter().for_each(|edit| state.apply(edit).unwrap());
    }
    let bytes = memory.read("manifest/0000000000000002.manifest").unwrap();
    assert_eq!((bytes[8], memory.list("manifest").unwrap().len()), (2, 1));
    assert_eq!(Manifest::inspect(&memory).unwrap().0, state);
}

#[test]
fn manifest_version_2_is_read_and_written() {
    let mut groups = edits();
    groups.extend(edits_of_version_2());
    let (written, state) = written_manifest(&groups);
    let bytes = fixture("manifest-v2.manifest", &written);
    assert!(bytes == written, "today's manifest differs from the fixture: a new format needs a new version");

    let (found, report) = Manifest::inspect(&holding(MANIFEST, &bytes)).unwrap();
    assert_eq!(found, state);
    assert_eq!((report.records, report.cut), (9, None));
}

#[test]
fn heads_version_1_are_read_and_written() {
    let head = |seq, received_ns| Head { seq: SeqNo(seq), received_ns };
    let pairs = [(ProducerId(1), head(5, -1)), (ProducerId(u128::MAX), head(u64::MAX, i64::MAX))];
    let memory = Memory::new();
    write_heads(&memory, 1, 7, &pairs).unwrap();
    let written = memory.read(HEADS).unwrap();
    let bytes = fixture("heads-v1.heads", &written);
    assert!(bytes == written, "today's heads differ from the fixture: a new format needs a new version");
    assert_eq!(read_heads(&holding(HEADS, &bytes), 1, 7).unwrap(), pairs);
}
