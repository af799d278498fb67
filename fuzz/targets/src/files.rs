//! Owns the promises about files: whatever a disk gives back, the answer is rows that were written or a named error.

use std::sync::Arc;

use tidewell_codec::{BatchLimits, Column, decode_batch};
use tidewell_engine::device_log::{LogConfig, LogWriter, dump, replay};
use tidewell_engine::manifest::{Edit, Manifest, heads_name, orphans, read_heads, write_heads};
use tidewell_engine::segment::{self, Segment, segment_name};
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::summary::{self, StepRows, Summary, summary_name};
use tidewell_engine::{LogPosition, ProducerId, SeqNo};

use crate::columns::same_column;
use crate::input::{Input, u32_at, u64_at};
use crate::sums;

/// A directory with one file.
pub fn holding(name: &str, bytes: &[u8]) -> Memory {
    let memory = Memory::new();
    add(&memory, name, bytes);
    memory
}

fn add(memory: &Memory, name: &str, bytes: &[u8]) {
    let mut file = memory.create(name).expect("a new file in memory");
    file.write_at(0, bytes).expect("memory takes bytes");
    file.sync_data().expect("memory syncs");
}

/// One or two log files, without the zeros between header and records; the first bytes say how to cut them apart and from
/// where to replay.
///
/// # Panics
/// When a second replay finds something else, or the log cannot be written on after a replay.
pub fn log(data: &[u8]) {
    for mended in [false, true] {
        let mut input = Input::new(data);
        let (choice, first_len, from) = (input.u8(), usize::from(input.u16()), u64::from(input.u16()));
        let (shard, memory) = (3, Memory::new());
        let generations = if choice & 1 == 0 { 1 } else { 2 };
        for generation in 1..=generations {
            let part = if generation == generations { input.rest() } else { input.take(first_len) };
            let (header, records) = part.split_at(part.len().min(64));
            let mut bytes = header.to_vec();
            bytes.resize(4096, 0);
            bytes.extend_from_slice(records);
            if mended {
                sums::log(&mut bytes, shard, generation);
            }
            add(&memory, &format!("log/{shard:04}-{generation:016x}.log"), &bytes);
        }
        let from = match choice >> 1 & 3 {
            0 => LogPosition::default(),
            generation => LogPosition { generation: generation.into(), offset: from * 16 },
        };
        replay_twice(&memory, shard, from);
    }
}

fn replay_twice(memory: &Memory, shard: u32, from: LogPosition) {
    let limits = BatchLimits { rows: 2_048, cells: 16 << 10, decoded: 4 << 20, ..BatchLimits::default() };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let seen = dump(memory, shard, from, &mut |record| {
        let _ = decode_batch(record.payload, &limits);
        first.push((record.position, record.producer, record.seq, record.payload.len()));
        Ok(())
    });
    let replayed = replay(memory, shard, from, &mut |record| {
        second.push((record.position, record.producer, record.seq, record.payload.len()));
        Ok(())
    });
    assert_eq!((seen.is_ok(), &first), (replayed.is_ok(), &second), "looking at a log changed it");
    let Ok(report) = replayed else { return };
    assert_eq!(report.records as usize, second.len());
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let config = LogConfig { file_bytes: 64 << 10, ..LogConfig::default() };
    let Ok(mut log) = LogWriter::resume(storage, shard, report.end, config) else { return };
    let head = tidewell_engine::device_log::RecordHead { producer: ProducerId(7), seq: SeqNo(9), received_ns: 1 };
    if log.append(&head, b"behind").is_err() || log.commit().is_err() {
        return;
    }
    drop(log);
    let mut last = None;
    let again = replay(memory, shard, from, &mut |record| {
        last = Some((record.producer, record.seq, record.payload.to_vec()));
        Ok(())
    });
    if again.is_ok() {
        assert_eq!(last, Some((head.producer, head.seq, b"behind".to_vec())), "what was written last comes last");
    }
}

/// A segment.
///
/// # Panics
/// When two ways to read a block differ.
pub fn segment(data: &[u8]) {
    let name = segment_name(u64_at(data, 16).unwrap_or_default());
    read_segment(&name, data, false);
    let mut bytes = data.to_vec();
    sums::segment(&name, &mut bytes);
    read_segment(&name, &bytes, true);
}

fn read_segment(name: &str, bytes: &[u8], mended: bool) {
    let memory = holding(name, bytes);
    if mended {
        // Without right sums it would try each byte of the header.
        let _ = segment::rescue(&memory, name);
    }
    let Ok(segment) = Segment::open(&memory, name) else { return };
    let _ = segment::verify(&segment);
    let mut text = String::new();
    segment::dump(&segment, None, true, &mut text).expect("a string takes text");
    let _ = segment.find("");
    let _ = segment.devices_after("m").map(|devices| devices.take(4).count());
    for device in segment.devices().take(16).filter_map(Result::ok) {
        let Ok(blocks) = device.blocks() else { continue };
        let _ = (blocks.rows(), blocks.time_range(), blocks.received(), blocks.overlapping(0, i64::MAX));
        for at in 0..blocks.len().min(8) {
            let Ok(block) = blocks.block(at) else { continue };
            let (mut times, rows) = (Vec::new(), block.rows());
            if block.load_times(&mut times).is_ok() {
                let narrow = block.narrow_times().expect("what can be read wide can be read narrow");
                assert!((0..rows).all(|row| narrow.get(row) == times[row]), "narrow and wide times differ");
            }
            for (field, def) in segment.schema().fields.iter().enumerate().take(64) {
                let _ = (block.stats(field), block.field_bytes(field));
                let mut wide = Column::new(def.field_type);
                if block.load_field(field, &mut wide).is_ok() {
                    let narrow = block.narrow_field(field).expect("what can be read wide can be read narrow");
                    let mut widened = Column::new(def.field_type);
                    narrow.extend_into(0..rows, &mut widened);
                    assert!(same_column(&wide, &widened), "narrow and wide values differ");
                }
            }
        }
    }
}

/// A summary.
///
/// # Panics
/// When a device that is listed is not found.
pub fn summary(data: &[u8]) {
    let name = summary_name(u64_at(data, 16).unwrap_or_default());
    read_summary(&name, data);
    let mut bytes = data.to_vec();
    sums::summary(&name, &mut bytes);
    read_summary(&name, &bytes);
}

fn read_summary(name: &str, bytes: &[u8]) {
    let Ok(summary) = Summary::open(&holding(name, bytes), name) else { return };
    let _ = summary::verify(&summary, None);
    let mut text = String::new();
    summary::dump(&summary, None, true, &mut text).expect("a string takes text");
    let _ = summary.find("");
    let mut left = 16;
    let _ = summary.visit(&mut |_, entry| {
        if let Ok(entry) = entry {
            let mut rows = StepRows::default();
            let (first, last) = (entry.time_range().0, entry.time_range().1);
            let numbers = summary.step().number(first)..summary.step().number(last);
            let _ = entry.load(numbers, &summary.schema().fields, &mut rows);
        }
        left -= 1;
        left > 0
    });
}

/// A manifest.
///
/// # Panics
/// When a manifest that was taken does not come back from its own writing.
pub fn manifest(data: &[u8]) {
    read_manifest(data);
    let mut bytes = data.to_vec();
    sums::manifest(&mut bytes);
    read_manifest(&bytes);
}

fn read_manifest(bytes: &[u8]) {
    let number = u64_at(bytes, 16).unwrap_or_default() % (u64::MAX - 1);
    let memory = holding(&format!("manifest/{number:016x}.manifest"), bytes);
    let inspected = Manifest::inspect(&memory);
    let opened = Manifest::open(Arc::new(memory.clone()));
    assert_eq!(inspected.is_ok(), opened.is_ok(), "looking and opening disagree");
    let (Ok((seen, _)), Ok((mut manifest, state))) = (inspected, opened) else { return };
    assert_eq!(seen, state);
    let _ = orphans(&memory, &state);
    let pairs = Arc::new([("key".to_owned(), "value".to_owned())].into());
    if manifest.append(&[Edit::Attributes { device: "pump".into(), pairs }]).is_ok() {
        let (again, _) = Manifest::inspect(&memory).expect("what was just written can be read");
        assert_eq!(&again, manifest.state(), "a manifest that was written differs");
    }
}

/// A heads file.
///
/// # Panics
/// When heads that were taken do not come back from their own writing.
pub fn heads(data: &[u8]) {
    read_one_heads_file(data);
    let mut bytes = data.to_vec();
    sums::heads(&mut bytes);
    read_one_heads_file(&bytes);
}

fn read_one_heads_file(bytes: &[u8]) {
    let (shard, number) = (u32_at(bytes, 12).unwrap_or_default(), u64_at(bytes, 16).unwrap_or_default());
    let memory = holding(&heads_name(shard, number), bytes);
    let Ok(pairs) = read_heads(&memory, shard, number) else { return };
    if pairs.windows(2).all(|two| two[0].0 < two[1].0) {
        let again = Memory::new();
        write_heads(&again, shard, number, &pairs).expect("memory takes a file");
        assert_eq!(read_heads(&again, shard, number).expect("what was just written can be read"), pairs);
    }
}
