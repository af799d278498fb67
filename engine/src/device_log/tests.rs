//! Owns the tests of the log: what a crash, a full disk or a bad medium may do to it.

use std::sync::Arc;

use proptest::prelude::*;

use super::record::{self, FileHeader, file_name};
use super::*;
use crate::storage::Memory;
use crate::storage::faulty::{Fault, Faulty, Operation};

const START: LogPosition = LogPosition { generation: 0, offset: 0 };
const SMALL: LogConfig = LogConfig { file_bytes: 12 << 10, spares_max: 2 };

/// A record of the model: producer, number, payload.
type Rec = (u128, u64, Vec<u8>);

fn head(rec: &Rec) -> RecordHead {
    RecordHead { producer: ProducerId(rec.0), seq: SeqNo(rec.1), received_ns: rec.1 as i64 * 10 }
}

/// Record number `seq` with `len` bytes that look like nothing else.
fn rec(seq: u64, len: usize) -> Rec {
    (7, seq, (0..len).map(|i| (seq as usize * 31 + i * 7) as u8 | 1).collect())
}

fn open(storage: &(impl Storage + Clone), end: LogPosition) -> LogWriter {
    LogWriter::resume(Arc::new(storage.clone()), 3, end, SMALL).unwrap()
}

fn append(log: &mut LogWriter, recs: &[Rec]) {
    for rec in recs {
        log.append(&head(rec), &rec.2).unwrap();
    }
}

fn replayed(storage: &dyn Storage, from: LogPosition) -> (Vec<Rec>, ReplayReport) {
    let mut recs = Vec::new();
    let mut last = from;
    let report = replay(storage, 3, from, &mut |record| {
        assert!(record.position >= last && record.end > record.position, "positions rise");
        assert_eq!(record.received_ns, record.seq.0 as i64 * 10);
        last = record.end;
        recs.push((record.producer.0, record.seq.0, record.payload.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(report.records, recs.len() as u64);
    assert!(report.end >= last);
    (recs, report)
}

/// One file with three groups of three, one and two records; gives its records and where the groups end.
fn three_groups(memory: &Memory) -> (Vec<Rec>, [u64; 3]) {
    let mut log = open(memory, START);
    let recs = vec![rec(1, 100), rec(2, 0), rec(3, 700), rec(4, 33), rec(5, 500), rec(6, 64)];
    let ends = [&recs[..3], &recs[3..4], &recs[4..]].map(|group| {
        append(&mut log, group);
        log.commit().unwrap().offset
    });
    (recs, ends)
}

#[test]
fn a_header_that_names_a_later_file_as_the_one_before_it_is_damage() {
    let header = |previous_generation| FileHeader {
        shard: 3,
        generation: 4,
        previous_generation,
        previous_end: 1,
        recycled: false,
    };
    assert_eq!(FileHeader::decode(&header(3).encode()), Ok(header(3)));
    for later in [4, 5, u64::MAX] {
        let found = FileHeader::decode(&header(later).encode());
        assert!(matches!(found, Err(record::HeaderFault::Damaged(_))), "{later}: {found:?}");
    }
}

#[test]
fn committed_records_come_back_in_order_over_many_files() {
    let memory = Memory::new();
    let mut log = open(&memory, START);
    let recs: Vec<Rec> = (1..200).map(|seq| rec(seq, (seq as usize * 37) % 2000)).collect();
    let mut ends = vec![START];
    for group in recs.chunks(3) {
        append(&mut log, group);
        ends.push(log.commit().unwrap());
    }
    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(ends.last().unwrap().generation > 10, "small files rotate");
    // Group after group, replay from its end gives the rest.
    for (group, end) in ends.iter().enumerate() {
        let (found, report) = replayed(&memory, *end);
        assert_eq!(found, recs[(group * 3).min(recs.len())..]);
        assert_eq!((report.end, report.cut, report.damaged), (*ends.last().unwrap(), None, vec![]));
    }
    let stats = log.stats();
    assert_eq!((stats.records, stats.groups), (199, 67));
    assert_eq!(stats.files, memory.list("log").unwrap().len() as u64);
    assert_eq!(shards(&memory).unwrap(), [3]);
    assert_eq!(replayed(&Memory::new(), START).1, ReplayReport::default());
}

#[test]
fn record_larger_than_a_file_has_a_file_of_its_own() {
    let memory = Memory::new();
    let mut log = open(&memory, START);
    let recs = [rec(1, 10), rec(2, 3 << 20), rec(3, 10)];
    for rec in &recs {
        append(&mut log, std::slice::from_ref(rec));
        log.commit().unwrap();
    }
    assert_eq!(replayed(&memory, START).0, recs);
    assert_eq!(log.end().generation, 3);
    let error = log.append(&head(&recs[0]), &vec![0; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[test]
fn file_cut_at_any_byte_gives_a_prefix() {
    let memory = Memory::new();
    let (recs, ends) = three_groups(&memory);
    let name = file_name(3, 1);
    let len = memory.read(&name).unwrap().len();
    for cut in 0..len {
        let memory = memory.kill();
        memory.damage(&name, |bytes| bytes.truncate(cut));
        let (found, report) = replayed(&memory, START);
        assert!(recs.starts_with(&found), "cut at {cut}");
        assert_eq!(report.damaged, [], "cut at {cut}");
        // What was acknowledged before the group that is cut is all there.
        let whole = [6, 4, 3].into_iter().zip([ends[2], ends[1], ends[0]]).find(|(_, end)| *end <= cut as u64);
        assert!(found.len() >= whole.map_or(0, |(records, _)| records), "cut at {cut}");
        let at_boundary = cut < RECORDS_START as usize || report.end.offset >= cut as u64;
        assert!(report.cut.is_some() || at_boundary || found == recs, "cut at {cut} is told: {report:?}");
        if let Some(cut_report) = report.cut {
            assert_eq!(cut_report.path, name);
            assert_eq!(cut_report.offset, report.end.offset);
        }
    }
}

#[test]
fn bit_flipped_anywhere_costs_one_record_and_is_named() {
    let memory = Memory::new();
    let (recs, ends) = three_groups(&memory);
    let name = file_name(3, 1);
    let mut starts = Vec::new();
    dump(&memory, 3, START, &mut |record| {
        starts.push(record.position.offset);
        Ok(())
    })
    .unwrap();
    for at in 0..ends[2] as usize {
        let memory = memory.kill();
        memory.damage(&name, |bytes| bytes[at] ^= 1 << (at % 8));
        let (found, report) = replayed(&memory, START);
        if at < RECORDS_START as usize {
            assert_eq!(found, recs, "byte {at} of the file header");
            assert_eq!(report.damaged.len(), usize::from(at < record::FILE_HEADER_BYTES), "byte {at}");
            continue;
        }
        let hit = starts.iter().rposition(|start| *start <= at as u64).unwrap();
        let used = starts[hit] as usize + RECORD_HEADER_BYTES + recs[hit].2.len();
        if at >= used {
            assert_eq!((found, report.damaged.len()), (recs.clone(), 0), "byte {at} of the filling");
        } else if (at as u64) < ends[1] {
            // A later group says that these bytes were durable.
            let mut rest = recs.clone();
            rest.remove(hit);
            assert_eq!(found, rest, "byte {at}");
            assert_eq!(report.cut, None, "byte {at}");
            let [damage] = &report.damaged[..] else { panic!("byte {at}: {report:?}") };
            assert!(damage.offset == starts[hit] && damage.len >= (used as u64 - starts[hit]), "byte {at}");
            let in_payload = at as u64 >= starts[hit] + RECORD_HEADER_BYTES as u64;
            let batch = in_payload.then_some((ProducerId(7), SeqNo(recs[hit].1)));
            assert_eq!(damage.batch, batch, "byte {at}");
        } else {
            // Nothing says so of the last group.
            assert_eq!((found, report.damaged.len()), (recs[..hit].to_vec(), 0), "byte {at}");
            assert_eq!(report.cut.unwrap().offset, starts[hit], "byte {at}");
        }
    }
}

#[test]
fn bit_flipped_after_an_orderly_end_or_before_a_later_file_is_damage_everywhere() {
    for close in [true, false] {
        let memory = Memory::new();
        let (recs, ends) = three_groups(&memory);
        let (_, report) = replayed(&memory, START);
        let mut log = open(&memory, report.end);
        if close {
            // One more writer whose file ends with the mark.
            append(&mut log, &[rec(7, 90)]);
            log.commit().unwrap();
            let mut all = recs.clone();
            all.push(rec(7, 90));
            let end = log.close().unwrap();
            assert_eq!(replayed(&memory, START).0, all);
            memory.damage(&file_name(3, 2), |bytes| bytes[RECORDS_START as usize + 70] ^= 4);
            let (found, report) = replayed(&memory, START);
            assert_eq!((found, report.cut), (recs.clone(), None));
            assert_eq!(report.damaged[0].batch, Some((ProducerId(7), SeqNo(7))));
            assert_eq!(report.end, end);
        } else {
            append(&mut log, &[rec(7, 90)]);
            log.commit().unwrap();
            memory.damage(&file_name(3, 1), |bytes| bytes[ends[2] as usize - 1000] ^= 4);
            let (found, report) = replayed(&memory, START);
            assert_eq!((found.len(), report.cut), (6, None));
            assert_eq!(report.damaged.len(), 1);
            // The whole file gone.
            memory.remove(&file_name(3, 1)).unwrap();
            let (found, report) = replayed(&memory, START);
            assert_eq!(found, [rec(7, 90)]);
            let expected = Damage {
                path: file_name(3, 1),
                offset: 0,
                len: ends[2],
                batch: None,
                devices: Vec::new(),
                reason: "the file is missing",
            };
            assert_eq!(report.damaged, [expected]);
            // Not when segments cover it.
            let from = LogPosition { generation: 1, offset: ends[2] };
            memory.remove(&file_name(3, 2)).unwrap();
            assert_eq!(replayed(&memory, from).1.damaged[0].path, file_name(3, 1));
        }
    }
}

#[test]
fn wiped_range_is_damage_and_the_rest_is_given() {
    let memory = Memory::new();
    let (recs, ends) = three_groups(&memory);
    memory.damage(&file_name(3, 1), |bytes| bytes[ends[0] as usize..ends[1] as usize].fill(0));
    let (found, report) = replayed(&memory, START);
    assert_eq!(found, [&recs[..3], &recs[4..]].concat());
    assert_eq!((report.damaged[0].offset, report.damaged[0].len), (ends[0], ends[1] - ends[0]));
}

#[test]
fn recycled_file_gives_only_its_new_records() {
    let memory = Memory::new();
    let mut log = open(&memory, START);
    let mut seq = 0;
    let mut fill = |log: &mut LogWriter, generation| {
        let mut recs = Vec::new();
        // Equal sizes, so that old records lie exactly where new ones would.
        while log.end().generation < generation {
            seq += 1;
            recs.push(rec(seq, 400));
            append(log, &recs[recs.len() - 1..]);
            log.commit().unwrap();
        }
        recs
    };
    let first = fill(&mut log, 4);
    let from = log.end();
    log.release_before(from).unwrap();
    assert_eq!(log.stats().spares, 2);
    assert_eq!(replayed(&memory, from).0, []);
    let second = fill(&mut log, 5);
    assert_eq!((log.stats().recycled, log.stats().spares), (1, 1));
    let (found, report) = replayed(&memory, from);
    assert_eq!(found, second);
    assert_eq!((report.cut, report.damaged.len(), report.end), (None, 0, log.end()));
    assert!(first.len() > 30 && memory.read(&file_name(3, 5)).unwrap().len() > log.end().offset as usize + 1000);
    // A torn group on top of old records.
    append(&mut log, &[rec(1000, 400), rec(1001, 400)]);
    let at = log.end().offset as usize;
    log.commit().unwrap();
    memory.damage(&file_name(3, 5), |bytes| bytes[at + 100] ^= 1);
    let (found, report) = replayed(&memory, from);
    assert_eq!(found, second);
    assert_eq!(report.cut.unwrap().bytes, 2 * (64 + 400));
}

#[test]
fn full_disk_while_a_spare_is_renamed_passes_too() {
    let faulty = Faulty::new();
    let mut log = open(&faulty, START);
    for seq in 1..8 {
        append(&mut log, &[rec(seq, 4000)]);
        log.commit().unwrap();
    }
    let from = log.end();
    log.release_before(from).unwrap();
    assert_eq!(log.stats().spares, 2);
    append(&mut log, &[rec(10, 9000)]);
    faulty.fail_named(Operation::Rename, "log", Fault::Enospc);
    assert!(log.commit().unwrap_err().is_disk_full());
    assert!(log.commit().unwrap_err().is_disk_full());
    faulty.heal();
    log.commit().unwrap();
    assert_eq!((log.stats().spares, log.stats().recycled), (1, 1));
    assert_eq!(replayed(&faulty.crash(0), from).0, [rec(10, 9000)]);
}

#[test]
fn failed_sync_or_write_poisons_for_good() {
    for operation in [Operation::Sync, Operation::Write, Operation::Create, Operation::SyncDir] {
        let faulty = Faulty::new();
        let mut log = open(&faulty, START);
        append(&mut log, &[rec(1, 10)]);
        faulty.fail_named(operation, "log", Fault::Eio);
        let first = log.commit().unwrap_err();
        assert!(matches!(first, Error::Io { .. }), "{first}");
        faulty.heal();
        let operations = faulty.operations();
        let again = [
            log.commit().unwrap_err(),
            log.append(&head(&rec(2, 1)), &[]).unwrap_err(),
            log.abandon_group().unwrap_err(),
        ];
        for error in again {
            assert!(matches!(&error, Error::Poisoned { shard: 3, cause } if *cause == first.to_string()), "{error}");
        }
        assert_eq!(faulty.operations(), operations, "nothing is tried again");
    }
}

#[test]
fn full_disk_is_a_state_that_passes() {
    // With room for the header only, for part of the group, and for nothing; at a file's start and inside a file.
    for (before, room) in [(0, 100), (0, 4096), (0, 5000), (1, 0), (1, 1000), (40, 0), (40, 5000)] {
        for retry in [true, false] {
            let faulty = Faulty::new();
            let mut log = open(&faulty, START);
            let kept: Vec<Rec> = (1..=before).map(|seq| rec(seq, 300)).collect();
            for rec in &kept {
                append(&mut log, std::slice::from_ref(rec));
                log.commit().unwrap();
            }
            let used: usize =
                faulty.list("log").unwrap().iter().map(|name| faulty.read(&format!("log/{name}")).unwrap().len()).sum();
            faulty.set_capacity(Some((used + room) as u64));
            let lost = [rec(100, 2000), rec(101, 9000)];
            append(&mut log, &lost);
            for _ in 0..5 {
                assert!(log.commit().unwrap_err().is_disk_full());
            }
            let mut expected = kept.clone();
            if retry {
                append(&mut log, &[rec(102, 50)]);
                assert!(log.commit().unwrap_err().is_disk_full());
                expected.extend([rec(100, 2000), rec(101, 9000), rec(102, 50)]);
            } else {
                log.abandon_group().unwrap();
                for seed in 1..20 {
                    assert_eq!(replayed(&faulty.crash(seed), START).0, kept, "{before} {room}");
                }
                append(&mut log, &[rec(200, 2000)]);
                expected.push(rec(200, 2000));
            }
            faulty.set_capacity(None);
            log.commit().unwrap();
            append(&mut log, &[rec(300, 20)]);
            expected.push(rec(300, 20));
            log.commit().unwrap();
            for seed in 1..20 {
                let (found, report) = replayed(&faulty.crash(seed), START);
                assert_eq!((found, report.cut, report.damaged), (expected.clone(), None, vec![]), "{before} {room}");
            }
        }
    }
}

#[test]
fn what_was_replayed_after_a_kill_survives_a_power_loss() {
    let faulty = Faulty::new();
    let mut log = open(&faulty, START);
    append(&mut log, &[rec(1, 10)]);
    log.commit().unwrap();
    append(&mut log, &[rec(2, 10)]);
    // The process dies between write and sync.
    faulty.halt_after(faulty.operations() + 1);
    log.commit().unwrap_err();
    let after_kill = faulty.memory().kill();
    assert_eq!(after_kill.crash(0).read(&file_name(3, 1)).unwrap().len(), 8192, "not synced yet");
    assert_eq!(replayed(&after_kill.crash(0), START).0, [rec(1, 10)]);
    assert_eq!(replayed(&after_kill, START).0, [rec(1, 10), rec(2, 10)]);
    assert_eq!(replayed(&after_kill.crash(0), START).0, [rec(1, 10), rec(2, 10)]);
}

#[test]
fn copy_of_a_record_inside_a_payload_is_not_a_record() {
    let memory = Memory::new();
    let mut log = open(&memory, START);
    append(&mut log, &[rec(1, 100)]);
    log.commit().unwrap();
    let name = file_name(3, 1);
    let copy = memory.read(&name).unwrap()[RECORDS_START as usize..][..RECORD_HEADER_BYTES + 100].to_vec();
    append(&mut log, &[(7, 2, copy)]);
    let at = log.commit().unwrap().offset as usize - 512;
    append(&mut log, &[rec(3, 1)]);
    log.commit().unwrap();
    // Without its header, the record around the copy is searched through.
    memory.damage(&name, |bytes| bytes[at] ^= 1);
    assert_eq!(replayed(&memory, START).0, [rec(1, 100), rec(3, 1)]);
}

#[test]
fn file_is_not_written_again_once_a_later_one_was_begun() {
    let faulty = Faulty::new();
    let mut log = open(&faulty, START);
    append(&mut log, &[rec(1, 100)]);
    log.commit().unwrap();
    // The next record needs a new file, for which the disk has no room but for its header.
    append(&mut log, &[rec(2, 10_000)]);
    faulty.fail_named(Operation::Write, &file_name(3, 2), Fault::Enospc);
    assert!(log.commit().unwrap_err().is_disk_full());
    log.abandon_group().unwrap();
    faulty.heal();
    // This one would fit into the old file, but that header says where the old file ends.
    append(&mut log, &[rec(3, 10)]);
    log.commit().unwrap();
    assert_eq!(replayed(&faulty.crash(u64::MAX), START).0, [rec(1, 100), rec(3, 10)]);
    assert_eq!(log.end().generation, 2);
}

#[test]
fn newer_version_is_refused_by_name_and_a_flipped_version_is_not_taken_for_one() {
    let memory = Memory::new();
    three_groups(&memory);
    memory.damage(&file_name(3, 1), |bytes| {
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let error = verify(&memory, 3, START).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { format: "log", found: 9, supported: 1, .. }), "{error}");
    memory.damage(&file_name(3, 1), |bytes| bytes[60] ^= 1);
    let report = verify(&memory, 3, START).unwrap();
    assert_eq!((report.records, report.damaged[0].offset), (6, 0));
}

#[test]
fn other_files_in_the_folder_are_left_alone() {
    let memory = Memory::new();
    for name in ["log/notes.txt", "log/3-1.log", "log/0003-000000000000000A.log", "log/0004-0000000000000001.log"] {
        memory.create(name).unwrap();
    }
    assert_eq!(generations(&memory, 3).unwrap(), [0; 0]);
    assert_eq!(record::parse_file_name("12345-00000000000000ff.log"), Some((12345, 255)));
}

/// Commits groups over recycled files until the storage fails, then gives what was acknowledged, what was appended
/// behind it, and where replay starts.
fn work(storage: &Faulty) -> (Vec<Rec>, Vec<Rec>, LogPosition) {
    let mut log = open(storage, START);
    let (mut acked, mut waiting, mut from) = (Vec::new(), Vec::new(), START);
    for seq in 1..60 {
        let rec = rec(seq, (seq as usize * 211) % 1500);
        append(&mut log, std::slice::from_ref(&rec));
        waiting.push(rec);
        if seq % 3 != 0 {
            continue;
        }
        match log.commit() {
            Ok(end) => {
                acked.append(&mut waiting);
                if seq % 12 == 0 {
                    acked.clear();
                    from = end;
                    // The caller's manifest has `from` by now.
                    if log.release_before(from).is_err() {
                        break;
                    }
                }
            }
            Err(_) => break,
        }
    }
    (acked, waiting, from)
}

#[test]
fn crash_after_every_operation_loses_nothing_acknowledged() {
    let whole = Faulty::new();
    work(&whole);
    assert!(whole.operations() > 60);
    for n in 0..=whole.operations() {
        let storage = Faulty::new();
        storage.halt_after(n);
        let (acked, waiting, from) = work(&storage);
        for seed in [0, u64::MAX, n + 1, n + 1000, n + 2000] {
            let after = storage.crash(seed);
            let (found, report) = replayed(&after, from);
            assert!(found.starts_with(&acked), "operation {n} seed {seed}");
            assert!([&acked[..], &waiting[..]].concat().starts_with(&found), "operation {n} seed {seed}");
            assert_eq!(report.damaged, [], "operation {n} seed {seed}");
            // Life goes on, and a second crash changes nothing either.
            let mut log = open(&after, report.end);
            log.release_before(from).unwrap();
            let more = [rec(1000, 700), rec(1001, 10)];
            append(&mut log, &more);
            log.commit().unwrap();
            let (again, report) = replayed(&after.crash(seed), from);
            assert_eq!(again, [&found[..], &more[..]].concat(), "operation {n} seed {seed}");
            assert_eq!((report.cut, report.damaged), (None, vec![]), "operation {n} seed {seed}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Commit,
    Release,
    Crash(u64),
    Kill,
    Close,
    FullDisk(u64),
    HaltAndCrash(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..3000).prop_map(Step::Append),
        6 => Just(Step::Commit),
        2 => Just(Step::Release),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => (0u64..6000).prop_map(Step::FullDisk),
        1 => (0u64..6, any::<u64>()).prop_map(|(n, seed)| Step::HaltAndCrash(n, seed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_work_and_crashes_match_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut storage = Faulty::new();
        let mut log = open(&storage, START);
        let (mut acked, mut waiting, mut from) = (Vec::<Rec>::new(), Vec::<Rec>::new(), START);
        let mut seq = 0;
        for step in steps {
            let mut crashed = None;
            match step {
                Step::Append(len) => {
                    seq += 1;
                    let rec = rec(seq, len);
                    append(&mut log, std::slice::from_ref(&rec));
                    waiting.push(rec);
                }
                Step::Commit => {
                    log.commit().unwrap();
                    acked.append(&mut waiting);
                }
                Step::Release => {
                    if waiting.is_empty() {
                        from = log.end();
                        acked.clear();
                        log.release_before(from).unwrap();
                    }
                }
                Step::Crash(seed) => crashed = Some(storage.crash(seed)),
                Step::Kill => crashed = Some(storage.memory().kill()),
                Step::Close => {
                    log.close().unwrap();
                    acked.append(&mut waiting);
                    let (found, report) = replayed(&storage, from);
                    prop_assert_eq!(&found, &acked);
                    prop_assert_eq!(report.damaged.len(), 0);
                    log = open(&storage, report.end);
                }
                Step::FullDisk(room) => {
                    let used: usize = storage
                        .list("log")
                        .unwrap()
                        .iter()
                        .map(|name| storage.read(&format!("log/{name}")).unwrap().len())
                        .sum();
                    storage.set_capacity(Some(used as u64 + room));
                    match log.commit() {
                        Ok(_) => acked.append(&mut waiting),
                        Err(error) => {
                            prop_assert!(error.is_disk_full());
                            log.abandon_group().unwrap();
                            waiting.clear();
                        }
                    }
                    storage.set_capacity(None);
                }
                Step::HaltAndCrash(n, seed) => {
                    storage.halt_after(storage.operations() + n);
                    if log.commit().is_ok() {
                        acked.append(&mut waiting);
                    }
                    crashed = Some(storage.crash(seed));
                }
            }
            if let Some(after) = crashed {
                storage = Faulty::over(after);
                let (found, report) = replayed(&storage, from);
                prop_assert!(found.starts_with(&acked));
                acked.append(&mut waiting);
                prop_assert!(acked.starts_with(&found));
                prop_assert_eq!(report.damaged.len(), 0);
                acked = found;
                log = open(&storage, report.end);
                log.release_before(from).unwrap();
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000), header: bool) {
        let memory = Memory::new();
        let mut file = memory.create(&file_name(3, 1)).unwrap();
        if header {
            let header = FileHeader { shard: 3, generation: 1, previous_generation: 0, previous_end: 0, recycled: true };
            file.write_at(0, &header.encode()).unwrap();
            file.write_at(RECORDS_START, &bytes).unwrap();
        } else {
            file.write_at(0, &bytes).unwrap();
        }
        prop_assert_eq!(verify(&memory, 3, START).unwrap().records, 0);
    }
}
