//! Owns files of what each producer had reached in a shard when its log was released; does not decide when to write one.

use crate::error::{Error, Result};
use crate::storage::{Storage, write_new_file};
use crate::types::{Head, ProducerId, SeqNo};

/// Version that is written.
const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TWELLHED";
const HEADER_BYTES: usize = 40;
const PAIR_BYTES: usize = 32;

/// Name of a heads file.
pub fn heads_name(shard: u32, number: u64) -> String {
    format!("heads/{shard:04}-{number:016x}.heads")
}

/// Writes heads file `number` of a shard, whole or not at all. `pairs` rise by producer.
///
/// # Errors
/// When it cannot be written.
///
/// # Panics
/// When the producers do not rise.
pub fn write_heads(storage: &dyn Storage, shard: u32, number: u64, pairs: &[(ProducerId, Head)]) -> Result<()> {
    assert!(pairs.windows(2).all(|pair| pair[0].0 < pair[1].0), "producers rise");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + pairs.len() * PAIR_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&shard.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(pairs.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    for (producer, head) in pairs {
        bytes.extend_from_slice(&producer.0.to_le_bytes());
        bytes.extend_from_slice(&head.seq.0.to_le_bytes());
        bytes.extend_from_slice(&head.received_ns.to_le_bytes());
    }
    let body = crc32c::crc32c(&bytes[HEADER_BYTES..]);
    bytes[32..36].copy_from_slice(&body.to_le_bytes());
    let header = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&header.to_le_bytes());
    let name = heads_name(shard, number);
    write_new_file(storage, &name, &bytes).map_err(Error::io("write", name))
}

/// Reads heads file `number` of a shard.
///
/// # Errors
/// When it cannot be read, is damaged, or is of a newer version.
pub fn read_heads(storage: &dyn Storage, shard: u32, number: u64) -> Result<Vec<(ProducerId, Head)>> {
    let name = heads_name(shard, number);
    let bytes = storage.read(&name).map_err(Error::io("read", &*name))?;
    let damaged =
        |offset: usize, expected: &str, found: String| Error::corruption(&*name, offset as u64, expected, found);
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(0, "a header of 40 bytes", format!("{} bytes", bytes.len())));
    };
    if header[..8] != MAGIC {
        return Err(damaged(0, "magic TWELLHED", format!("{:02x?}", &header[..8])));
    }
    let u32_at = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("fixed length"));
    let u64_at = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("fixed length"));
    if crc32c::crc32c(&header[..36]) != u32_at(36) {
        return Err(damaged(36, "the header's checksum", format!("{:08x}", u32_at(36))));
    }
    if u32_at(8) > FORMAT_VERSION {
        return Err(Error::NewerFormat { path: name, format: "heads", found: u32_at(8), supported: FORMAT_VERSION });
    }
    if (u32_at(12), u64_at(16)) != (shard, number) {
        let found = format!("the header of {}", heads_name(u32_at(12), u64_at(16)));
        return Err(damaged(12, "the header of this file", found));
    }
    if u64_at(24).checked_mul(PAIR_BYTES as u64) != Some(body.len() as u64) {
        return Err(damaged(
            24,
            "as many bytes as pairs need",
            format!("{} pairs in {} bytes", u64_at(24), body.len()),
        ));
    }
    if crc32c::crc32c(body) != u32_at(32) {
        return Err(damaged(HEADER_BYTES, "pairs with their checksum", "other bytes".to_owned()));
    }
    let pair = |pair: &[u8]| {
        let (producer, rest) = pair.split_first_chunk::<16>().expect("pairs have 32 bytes");
        let (seq, received) = rest.split_first_chunk::<8>().expect("pairs have 32 bytes");
        let received = received.first_chunk().expect("pairs have 32 bytes");
        let head = Head { seq: SeqNo(u64::from_le_bytes(*seq)), received_ns: i64::from_le_bytes(*received) };
        (ProducerId(u128::from_le_bytes(*producer)), head)
    };
    Ok(body.chunks_exact(PAIR_BYTES).map(pair).collect())
}
