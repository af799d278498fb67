//! Owns right checksums for changed bytes: a fuzzer that had to guess them would never get behind one.
//!
//! Lengths and magics at the two ends of a file are put right as well; all else stays as it is.

use std::sync::Arc;

use tidewell_engine::error::Error;
use tidewell_engine::segment::{self, Segment};
use tidewell_engine::summary::{self, Summary};

use crate::files::holding;
use crate::input::{u32_at, u64_at};

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

fn put_sum(bytes: &mut [u8], of: std::ops::Range<usize>, at: usize) {
    if let Some(sum) = bytes.get(of).map(crc32c::crc32c) {
        put(bytes, at, &sum.to_le_bytes());
    }
}

/// Log files: the header and every record that can be found.
pub fn log(bytes: &mut [u8], shard: u32, generation: u64) {
    put(bytes, 0, b"TWELLLOG\x01\0\0\0");
    put(bytes, 12, &shard.to_le_bytes());
    put(bytes, 16, &generation.to_le_bytes());
    put_sum(bytes, 0..60, 60);
    let mut at = 4096;
    while at + 64 <= bytes.len() {
        if bytes[at + 4..at + 6] != *b"TW" {
            at += 16;
            continue;
        }
        put(bytes, at + 16, &generation.to_le_bytes());
        let len = u32_at(bytes, at + 8).unwrap_or_default() as usize;
        put_sum(bytes, at + 64..at.saturating_add(64 + len), at + 12);
        let sum = crc32c::crc32c(&bytes[at + 4..at + 64]);
        let sum = crc32c::crc32c_append(sum, &shard.to_le_bytes());
        let sum = crc32c::crc32c_append(sum, &(at as u64).to_le_bytes());
        put(bytes, at, &sum.to_le_bytes());
        let align = if bytes[at + 7] & 1 == 1 { 512 } else { 16 };
        at = (at + 64).saturating_add(len).next_multiple_of(align);
    }
}

/// A manifest: the header and its records, the last of which ends with the file.
pub fn manifest(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().max(32).next_multiple_of(8), 0);
    put(bytes, 0, b"TWELLMAN");
    let number = u64_at(bytes, 16).unwrap_or_default();
    put_sum(bytes, 0..28, 28);
    let mut at = 32;
    while at + 16 <= bytes.len() {
        put(bytes, at + 4, b"TWed");
        let room = bytes.len() - at - 16;
        let len = (u32_at(bytes, at + 8).unwrap_or_default() as usize).min(room);
        put(bytes, at + 8, &(len as u32).to_le_bytes());
        put_sum(bytes, at + 16..at + 16 + len, at + 12);
        let sum = crc32c::crc32c(&bytes[at + 4..at + 16]);
        let sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
        let sum = crc32c::crc32c_append(sum, &(at as u64).to_le_bytes());
        put(bytes, at, &sum.to_le_bytes());
        at = (at + 16 + len).next_multiple_of(8);
    }
}

/// A heads file.
pub fn heads(bytes: &mut Vec<u8>) {
    let pairs = bytes.len().saturating_sub(40) / 32;
    bytes.resize(40 + pairs * 32, 0);
    put(bytes, 0, b"TWELLHED\x01\0\0\0");
    put(bytes, 24, &(pairs as u64).to_le_bytes());
    let len = bytes.len();
    put_sum(bytes, 40..len, 32);
    put_sum(bytes, 0..36, 36);
}

/// A segment, and a summary of one: both ends, then whatever the full check finds, which names the bytes and their sum.
pub fn segment(name: &str, bytes: &mut [u8]) {
    put(bytes, 0, b"TWSEG\r\n\x1a\x01\0\0\0");
    ends(bytes, 96, 56, 84, b"TWSEGEND");
    mend(bytes, |bytes| match Segment::open(&holding(name, bytes), name) {
        Ok(segment) => segment::verify(&segment).into_iter().map(|damage| damage.error).collect(),
        Err(error) => vec![error],
    });
}

/// As [`segment`].
pub fn summary(name: &str, bytes: &mut [u8]) {
    put(bytes, 0, b"TWSUM\r\n\x1a\x01\0\0\0");
    ends(bytes, 88, 48, 76, b"TWSUMEND");
    mend(bytes, |bytes| match Summary::open(&holding(name, bytes), name) {
        Ok(summary) => {
            summary::verify(&summary, None::<&Arc<Segment>>).into_iter().map(|damage| damage.error).collect()
        }
        Err(error) => vec![error],
    });
}

fn ends(bytes: &mut [u8], trailer: usize, file_len: usize, sum: usize, magic: &[u8; 8]) {
    let Some(start) = bytes.len().checked_sub(trailer) else { return };
    let len = bytes.len() as u64;
    let header_len = u32_at(bytes, 12).unwrap_or_default();
    put(bytes, start + file_len, &len.to_le_bytes());
    put(bytes, start + file_len + 12, &header_len.to_le_bytes());
    put(bytes, start + sum + 4, magic);
    put_sum(bytes, start..start + sum, start + sum);
}

/// Puts right the sums that `check` complains of, until it complains of none: one lies behind another, six deep.
fn mend(bytes: &mut [u8], check: impl Fn(&[u8]) -> Vec<Error>) {
    for _ in 0..8 {
        let mut mended = false;
        for error in check(bytes) {
            let Some((at, sum)) = wrong_sum(&error) else { continue };
            put(bytes, at, &sum.to_le_bytes());
            mended = true;
        }
        if !mended {
            return;
        }
    }
}

/// Where the sum is that `error` tells of, and what it should be.
fn wrong_sum(error: &Error) -> Option<(usize, u32)> {
    let Error::Corruption { offset, expected, found, .. } = error else { return None };
    expected.strip_prefix("checksum ")?;
    let (sum, len) = found.strip_suffix(" bytes")?.split_once(" over ")?;
    Some((usize::try_from(*offset).ok()? + len.parse::<usize>().ok()?, u32::from_str_radix(sum, 16).ok()?))
}

/// A stream of frames: magic, version and sums of each, as long as lengths lead from one to the next.
pub fn frames(bytes: &mut [u8]) {
    let mut at = 0;
    while at + 48 <= bytes.len() {
        put(bytes, at, b"TW\x01");
        let len = u32_at(bytes, at + 4).unwrap_or_default() as usize;
        let end = at.saturating_add(48 + len);
        if len == 0 {
            put(bytes, at + 8, &[0; 4]);
        } else {
            put_sum(bytes, at + 48..end, at + 8);
        }
        put_sum(bytes, at..at + 44, at + 44);
        at = end;
    }
}
