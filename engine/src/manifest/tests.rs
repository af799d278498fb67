//! Owns the tests of the manifest: what a crash, a full disk or a bad medium may do to it.

use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::limits::SHARDS_MAX;
use crate::storage::Memory;
use crate::storage::faulty::{Fault, Faulty, Operation};
use crate::summary::{Step, SummaryMeta};
use crate::types::{FieldType, Head, LogPosition, ProducerId, SeqNo};

fn created() -> Edit {
    Edit::Created { shards: 2, created_ns: 1_700_000_000_000_000_000 }
}

fn segment(id: u64) -> Edit {
    Edit::SegmentAdded(SegmentMeta {
        id,
        shard: (id % 2) as u32,
        table: "power".into(),
        level: 1,
        seq_min: id,
        seq_max: id + 3,
        rows: 1000,
        bytes: 12_345,
        time_min: -5,
        time_max: i64::MAX,
        clean: id / 2,
    })
}

fn field(table: &str, name: &str, field_type: FieldType) -> Edit {
    Edit::Field { table: table.into(), field: name.into(), field_type }
}

fn released(shard: u32, generation: u64, offset: u64) -> Edit {
    Edit::LogReleased { shard, position: LogPosition { generation, offset } }
}

fn attributes(device: &str, pairs: &[(&str, &str)]) -> Edit {
    let pairs: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Edit::Attributes { device: device.into(), pairs: Arc::new(pairs) }
}

/// Groups of edits of every kind.
fn groups() -> Vec<Vec<Edit>> {
    vec![
        vec![created()],
        vec![field("power", "volts", FieldType::F64), field("power", "on", FieldType::Bool)],
        vec![segment(5), segment(6), released(0, 4, 8192), Edit::ProducerHeads { shard: 0, number: 2 }],
        vec![attributes("pump/ä", &[("site", "north"), ("unit", "")]), attributes("gone", &[("a", "b")])],
        vec![Edit::SegmentRemoved { id: 5 }, segment(9), field("flow", "name", FieldType::Utf8)],
        vec![attributes("gone", &[]), Edit::NextIds { segment: 40, heads: 1 }],
        vec![released(0, 5, 4096), field("power", "count", FieldType::I64)],
        vec![
            erasure(3, Some("power")),
            erasure(4, None),
            erasure(7, Some("flow")),
            retention("power", 30),
            cut_off("power", 5),
        ],
        vec![Edit::ErasureRemoved { number: 4 }, retention("flow", 1), retention("flow", 0), cut_off("flow", 9)],
        vec![Edit::TableRenamed { from: "power".into(), to: "energy".into() }, field("power", "volts", FieldType::I64)],
        vec![
            summary(21, 6, "energy"),
            summary(22, 6, "energy"),
            summary(23, 9, "energy"),
            // Its summaries go with a segment; one comes back to stand for it.
            Edit::SegmentRemoved { id: 9 },
            summary(23, 9, "energy"),
            Edit::SummaryRemoved { segment: 6, id: 22 },
        ],
        vec![Edit::TableDropped { table: "flow".into() }, erasure(9, Some("energy"))],
    ]
}

fn erasure(number: u64, table: Option<&str>) -> Edit {
    Edit::ErasureAdded(Erasure {
        number,
        shard: (number % 2) as u32,
        table: table.map(Into::into),
        device: format!("pump/{number}").into(),
        start_ns: i64::MIN,
        end_ns: number as i64,
        before_seq: number + 5,
        created_ns: 1_700_000_000_000_000_000,
    })
}

fn summary(id: u64, segment: u64, table: &str) -> Edit {
    Edit::SummaryAdded(SummaryMeta {
        id,
        segment,
        shard: (segment % 2) as u32,
        table: table.into(),
        step: Step::ALL[id as usize % 3],
        seq_min: segment,
        seq_max: segment + 3,
        rows: 24,
        bytes: 999,
        time_min: i64::MIN,
        time_max: -5,
    })
}

fn retention(table: &str, days: u64) -> Edit {
    let ns = Some(days * 86_400_000_000_000).filter(|ns| *ns > 0);
    Edit::RetentionSet { table: table.into(), retention: Retention { raw_ns: ns, day_ns: ns, ..Retention::default() } }
}

fn cut_off(table: &str, raw_before_ns: i64) -> Edit {
    Edit::CutOff { table: table.into(), raw_before_ns }
}

fn open(storage: &(impl Storage + Clone)) -> Result<Manifest> {
    Manifest::open(Arc::new(storage.clone())).map(|(manifest, state)| {
        assert_eq!(&state, manifest.state());
        manifest
    })
}

fn write(storage: &(impl Storage + Clone), groups: &[Vec<Edit>]) -> Manifest {
    let mut manifest = open(storage).unwrap();
    for group in groups {
        manifest.append(group).unwrap();
    }
    manifest
}

fn model(groups: &[Vec<Edit>]) -> ManifestState {
    let mut state = ManifestState::default();
    for edit in groups.iter().flatten() {
        state.apply(edit).unwrap();
    }
    state
}

const FIRST: &str = "manifest/0000000000000001.manifest";

#[test]
fn edits_add_up_to_the_same_state_after_reopening() {
    let memory = Memory::new();
    let manifest = write(&memory, &groups());
    let state = model(&groups());
    assert_eq!(manifest.state(), &state);
    assert_eq!(open(&memory).unwrap().state(), &state);
    assert_eq!(open(&memory.crash(0)).unwrap().state(), &state);
    assert_eq!(Manifest::inspect(&memory).unwrap().1.records, groups().len() as u64);
    // Ids are never used again, not even those of removed segments.
    assert_eq!((state.next_segment_id, state.next_heads_id), (40, 3));
    assert_eq!(state.table("energy").unwrap().fields.len(), 3);
    assert_eq!(state.table("power").unwrap().fields.len(), 1);
    assert!(state.table("flow").is_none() && !state.cut_offs.contains_key("flow"));
    assert!(state.segments.values().all(|meta| &*meta.table == "energy"));
    assert_eq!(state.erasures.keys().copied().collect::<Vec<_>>(), [3, 9]);
    assert_eq!((state.retention["energy"].raw_ns, state.cut_offs["energy"]), (Some(30 * 86_400_000_000_000), 5));
    assert_eq!(state.next_erasure(), 10);
    assert_eq!(state.summaries.keys().copied().collect::<Vec<_>>(), [(6, 21), (9, 23)]);
    assert_eq!(state.attributes.len(), 1);
    // A snapshot makes the same state.
    assert_eq!(model(&[state.snapshot()]), state);
}

#[test]
fn new_directory_has_an_empty_state_and_no_file() {
    let memory = Memory::new();
    let mut manifest = open(&memory).unwrap();
    assert_eq!(manifest.state(), &ManifestState::default());
    assert!(memory.list("manifest").unwrap().is_empty());
    let error = manifest.append(&[segment(1)]).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(memory.list("manifest").unwrap().is_empty());
}

#[test]
fn contradicting_edits_are_refused_and_nothing_changes() {
    let memory = Memory::new();
    let mut manifest = write(&memory, &groups());
    let bytes = memory.read(FIRST).unwrap();
    for edit in [
        created(),
        segment(6),
        Edit::SegmentRemoved { id: 5 },
        field("energy", "on", FieldType::F64),
        released(0, 4, 8192),
        released(2, 9, 9),
        Edit::ProducerHeads { shard: 2, number: 3 },
        erasure(3, None),
        Edit::ErasureRemoved { number: 4 },
        Edit::TableDropped { table: "flow".into() },
        Edit::TableRenamed { from: "flow".into(), to: "more".into() },
        Edit::TableRenamed { from: "energy".into(), to: "power".into() },
    ] {
        let error = manifest.append(&[field("x", "y", FieldType::F64), edit]).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert_eq!(memory.read(FIRST).unwrap(), bytes);
    assert_eq!(manifest.state(), &model(&groups()));
}

#[test]
fn more_shards_than_a_node_can_have_are_refused_before_they_take_memory() {
    let mut state = ManifestState::default();
    for shards in [0, SHARDS_MAX + 1, u32::MAX] {
        let refused = state.apply(&Edit::Created { shards, created_ns: 1 });
        assert!(refused.is_err_and(|reason| reason.contains("shards")), "{shards}");
    }
    assert_eq!(state, ManifestState::default());
    state.apply(&Edit::Created { shards: SHARDS_MAX, created_ns: 1 }).unwrap();
}

#[test]
fn file_cut_at_any_byte_opens_as_before_its_last_whole_record_or_not_at_all() {
    let memory = Memory::new();
    write(&memory, &groups());
    let bytes = memory.read(FIRST).unwrap();
    let base = open(&memory).unwrap().base as usize;
    let states: Vec<ManifestState> = (1..=groups().len()).map(|n| model(&groups()[..n])).collect();
    let mut seen = 0;
    for cut in 0..bytes.len() {
        let memory = memory.kill();
        memory.damage(FIRST, |bytes| bytes.truncate(cut));
        match open(&memory) {
            Err(Error::Corruption { path, offset, .. }) => {
                assert!(cut < base && path == FIRST && offset <= cut as u64, "cut at {cut}");
            }
            Err(other) => panic!("cut at {cut}: {other}"),
            Ok(mut manifest) => {
                let at = states.iter().position(|state| state == manifest.state()).unwrap();
                assert!(at == seen || at == seen + 1, "cut at {cut}");
                seen = at;
                let report = manifest.report().clone();
                assert_eq!(report.cut.map_or(cut as u64, |(at, len)| at + len), cut as u64);
                // It goes on where it was cut.
                manifest.append(&[attributes("more", &[("a", "b")])]).unwrap();
                let again = open(&memory).unwrap();
                assert_eq!((again.state(), again.report().cut), (manifest.state(), None));
            }
        }
    }
    assert_eq!(seen + 2, states.len());
}

#[test]
fn bit_flipped_anywhere_before_the_last_record_is_damage_that_names_its_place() {
    let memory = Memory::new();
    write(&memory, &groups());
    let bytes = memory.read(FIRST).unwrap();
    let last = {
        let memory = Memory::new();
        write(&memory, &groups()[..groups().len() - 1]).bytes() as usize
    };
    let before = model(&groups()[..groups().len() - 1]);
    let after = model(&groups());
    for at in 0..bytes.len() {
        let memory = memory.kill();
        memory.damage(FIRST, |bytes| bytes[at] ^= 1 << (at % 8));
        match open(&memory) {
            Err(Error::Corruption { path, offset, .. }) => {
                assert!(at < last && path == FIRST && offset <= at as u64, "byte {at}");
            }
            Err(other) => panic!("byte {at}: {other}"),
            // Filling between records means nothing.
            Ok(manifest) if manifest.state() == &after => assert_eq!(manifest.report().cut, None, "byte {at}"),
            Ok(manifest) => {
                assert_eq!((manifest.state(), at >= last), (&before, true), "byte {at}");
                assert_eq!(manifest.report().cut, Some((last as u64, (bytes.len() - last) as u64)), "byte {at}");
            }
        }
    }
}

#[test]
fn crash_after_every_operation_leaves_a_whole_number_of_groups() {
    let whole = Faulty::new();
    write(&whole, &groups());
    let states: Vec<ManifestState> = (0..=groups().len()).map(|n| model(&groups()[..n])).collect();
    for n in 0..=whole.operations() {
        let storage = Faulty::new();
        storage.halt_after(n);
        let mut done = 0;
        let mut manifest = open(&storage).unwrap();
        for group in groups() {
            if manifest.append(&group).is_err() {
                break;
            }
            done += 1;
        }
        for seed in [0, u64::MAX, n + 1, n + 1000] {
            let after = storage.crash(seed);
            let manifest = open(&after).unwrap();
            let found = states.iter().position(|state| state == manifest.state()).unwrap();
            assert!(found == done || found == done + 1, "operation {n} seed {seed}: {found} of {done}");
            // What was read is durable from then on.
            assert_eq!(open(&after.crash(0)).unwrap().state(), manifest.state());
        }
        let killed = storage.memory().kill();
        let state = open(&killed).unwrap().state().clone();
        assert_eq!(open(&killed.crash(0)).unwrap().state(), &state, "operation {n}");
    }
}

#[test]
fn crash_while_the_file_is_written_anew_keeps_every_edit() {
    let attributes_of =
        |n: u64| attributes(&format!("device {}", n % 10), &[("text", &"x".repeat(20_000 + n as usize))]);
    let run = |storage: &Faulty| {
        let mut manifest = match open(storage) {
            Ok(manifest) => manifest,
            Err(_) => return (0, 0),
        };
        if manifest.append(&[created()]).is_err() {
            return (0, 0);
        }
        let mut done = 1;
        while done < 120 && manifest.append(&[attributes_of(done), segment(done)]).is_ok() {
            done += 1;
        }
        (done, manifest.number)
    };
    let whole = Faulty::new();
    let (done, number) = run(&whole);
    assert_eq!(done, 120);
    assert!(number > 1, "the file was written anew");
    assert_eq!(whole.list("manifest").unwrap().len(), 1);
    assert!(whole.read(&format!("manifest/{number:016x}.manifest")).unwrap().len() < 3 << 20);
    let operations = whole.operations();
    for n in (0..=operations).filter(|n| n % 16 == 0 || (100..140).contains(n)) {
        let storage = Faulty::new();
        storage.halt_after(n);
        let (done, _) = run(&storage);
        for seed in [0, u64::MAX, n + 1, n + 2] {
            let manifest = open(&storage.crash(seed)).unwrap();
            let segments = manifest.state().segments.len() as u64;
            assert!(segments + 1 == done || segments == done || done == 0, "operation {n}: {segments} of {done}");
        }
    }
}

#[test]
fn failed_sync_stops_the_manifest_and_a_full_disk_does_not() {
    let faulty = Faulty::new();
    let mut manifest = write(&faulty, &groups());
    faulty.set_capacity(Some(faulty.read(FIRST).unwrap().len() as u64 + 10));
    for _ in 0..3 {
        assert!(manifest.append(&[segment(50)]).unwrap_err().is_disk_full());
    }
    assert_eq!(open(&faulty.crash(3)).unwrap().report().cut, None);
    faulty.set_capacity(None);
    manifest.append(&[segment(51)]).unwrap();
    assert_eq!(open(&faulty.crash(0)).unwrap().state(), manifest.state());
    faulty.fail_named(Operation::Sync, "manifest", Fault::Eio);
    let first = manifest.append(&[segment(52)]).unwrap_err();
    assert!(matches!(first, Error::Io { operation: "sync", .. }), "{first}");
    faulty.heal();
    let error = manifest.append(&[segment(53)]).unwrap_err();
    assert!(error.to_string().contains("stopped after a failed write or sync"), "{error}");
    assert!(!open(&faulty.crash(0)).unwrap().state().segments.contains_key(&52));
}

#[test]
fn record_that_a_failed_sync_left_in_the_page_cache_is_made_durable_by_the_next_open() {
    let faulty = Faulty::new();
    let mut manifest = write(&faulty, &groups());
    faulty.fail_named(Operation::Sync, "manifest", Fault::Eio);
    manifest.append(&[segment(52)]).unwrap_err();
    let again = Faulty::over(faulty.memory().kill());
    let mut manifest = open(&again).unwrap();
    assert!(manifest.state().segments.contains_key(&52), "the page cache has it");
    assert_eq!(open(&again.crash(0)).unwrap().state(), manifest.state());
    manifest.append(&[segment(53)]).unwrap();
    assert_eq!(open(&again.crash(0)).unwrap().state(), manifest.state());
}

#[test]
fn full_disk_at_the_first_edit_is_a_state_that_passes() {
    let faulty = Faulty::new();
    let mut manifest = open(&faulty).unwrap();
    faulty.set_capacity(Some(40));
    assert!(manifest.append(&[created()]).unwrap_err().is_disk_full());
    faulty.set_capacity(None);
    manifest.append(&[created()]).unwrap();
    assert_eq!(open(&faulty.crash(0)).unwrap().state(), &model(&[vec![created()]]));
}

#[test]
fn newer_version_and_a_file_under_another_name_are_refused() {
    let memory = Memory::new();
    write(&memory, &groups());
    memory.damage(FIRST, |bytes| {
        bytes[8] = FORMAT_VERSION as u8 + 1;
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open(&memory).err().unwrap();
    assert!(matches!(error, Error::NewerFormat { format: "manifest", found: 3, supported: 2, .. }), "{error}");
    let memory = Memory::new();
    write(&memory, &groups());
    memory.rename(FIRST, "manifest/0000000000000002.manifest").unwrap();
    let error = open(&memory).err().unwrap();
    assert!(matches!(error, Error::Corruption { offset: 0, .. }), "{error}");
}

#[test]
fn heads_come_back_and_damage_is_named() {
    let memory = Memory::new();
    let pairs: Vec<_> = (0..50u128)
        .map(|n| (ProducerId(n << 90 | n), Head { seq: SeqNo(n as u64 + 1), received_ns: n as i64 - 3 }))
        .collect();
    write_heads(&memory, 1, 7, &pairs).unwrap();
    write_heads(&memory, 1, 8, &[]).unwrap();
    assert_eq!(read_heads(&memory, 1, 7).unwrap(), pairs);
    assert_eq!(read_heads(&memory, 1, 8).unwrap(), []);
    let name = heads_name(1, 7);
    let bytes = memory.read(&name).unwrap();
    for at in 0..bytes.len() {
        for cut in [true, false] {
            let memory = memory.kill();
            memory.damage(&name, |bytes| if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << (at % 8) });
            let error = read_heads(&memory, 1, 7).unwrap_err();
            assert!(matches!(&error, Error::Corruption { path, .. } if *path == name), "byte {at}: {error}");
        }
    }
    let missing = read_heads(&memory, 0, 7).unwrap_err();
    assert!(matches!(missing, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
}

#[test]
fn orphans_are_files_that_no_edit_names() {
    let memory = Memory::new();
    let manifest = write(&memory, &groups());
    for name in
        ["seg/0000000000000006.seg", "seg/0000000000000005.seg", "seg/0000000000000007.seg.tmp", "seg/notes.txt"]
    {
        memory.create(name).unwrap();
    }
    for number in [1, 2, 3] {
        write_heads(&memory, 0, number, &[]).unwrap();
    }
    memory.create("manifest/0000000000000002.manifest.tmp").unwrap();
    let expected = [
        "seg/0000000000000005.seg",
        "seg/0000000000000007.seg.tmp",
        &heads_name(0, 1),
        &heads_name(0, 3),
        "manifest/0000000000000002.manifest.tmp",
    ];
    assert_eq!(orphans(&memory, manifest.state()).unwrap(), expected);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let memory = Memory::new();
        let mut all = edit::encode_file_header(1).to_vec();
        edit::encode_record(&[created()], 1, all.len() as u64, &mut all);
        all.extend_from_slice(&bytes);
        memory.create(FIRST).unwrap().write_at(0, &all).unwrap();
        let state = open(&memory).unwrap().state().clone();
        prop_assert_eq!(state, model(&[vec![created()]]));
        // As if their checksum were right.
        let _ = edit::decode_edits(&bytes);
    }
}
