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
use tidewell_engine::manifest::{Edit, Manifest, ManifestState, SegmentMeta, read_heads, write_heads};
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
            }),
            Edit::LogReleased { shard: 1, position: LogPosition { generation: 5, offset: 8192 } },
            Edit::ProducerHeads { shard: 1, number: 7 },
        ],
        vec![Edit::Attributes { device: "pump-1".into(), pairs: Arc::new(pairs) }],
        vec![Edit::SegmentRemoved { id: 17 }, Edit::NextIds { segment: 30, heads: 12 }],
    ]
}

#[test]
fn manifest_version_1_is_read_and_written() {
    let memory = Memory::new();
    let (mut manifest, _) = Manifest::open(Arc::new(memory.clone())).unwrap();
    let mut state = ManifestState::default();
    for group in edits() {
        manifest.append(&group).unwrap();
        group.iter().for_each(|edit| state.apply(edit).unwrap());
    }
    let written = memory.read(MANIFEST).unwrap();
    let bytes = fixture("manifest-v1.manifest", &written);
    assert!(bytes == written, "today's manifest differs from the fixture: a new format needs a new version");

    let (found, report) = Manifest::inspect(&holding(MANIFEST, &bytes)).unwrap();
    assert_eq!(found, state);
    assert_eq!((report.records, report.cut), (5, None));
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
