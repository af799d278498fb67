//! Owns taking damaged bytes of a log out of the way of later replays; for repair only. Decides nothing about loss.

use super::Damage;
use super::record::{
    FileHeader, PAYLOAD_BYTES_MAX, Place, RECORD_ALIGN, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader, RecordKind,
    parse_file_name,
};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageFile};
use crate::types::{ProducerId, SeqNo};

/// Puts records without a batch in the place of damaged bytes, whose content they keep as payload but for the bytes of
/// their headers. False when the damage is of a kind that cannot be written over: a missing file, a range too short.
///
/// # Errors
/// A failed read, write or sync.
pub fn retire(storage: &dyn Storage, damage: &Damage) -> Result<bool> {
    let name = damage.path.strip_prefix("log/").unwrap_or(&damage.path);
    let Some((shard, generation)) = parse_file_name(name) else { return Ok(false) };
    let mut file = match storage.open(&damage.path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("open", &*damage.path)(error)),
    };
    if damage.offset == 0 && damage.len == RECORDS_START {
        // What the header said of the file before is lost; that file's own records tell where they end. Old bytes may
        // follow the last record.
        let header = FileHeader { shard, generation, previous_generation: 0, previous_end: 0, recycled: true };
        write(&mut *file, &damage.path, 0, &header.encode())?;
    } else {
        let end = damage.offset + damage.len;
        let aligned = damage.offset.is_multiple_of(RECORD_ALIGN) && end.is_multiple_of(RECORD_ALIGN);
        if !aligned || damage.len < RECORD_HEADER_BYTES as u64 {
            return Ok(false);
        }
        let mut at = damage.offset;
        while at < end {
            let mut len = (end - at).min(PAYLOAD_BYTES_MAX as u64);
            if (1..RECORD_HEADER_BYTES as u64).contains(&(end - at - len)) {
                // Room for the header of the last one.
                len -= RECORD_HEADER_BYTES as u64;
            }
            fill(&mut *file, damage, Place { shard, generation, offset: at }, len)?;
            at += len;
        }
    }
    file.sync_data().map_err(Error::io("sync", &*damage.path))?;
    Ok(true)
}

/// Writes the header of a record of `len` bytes in all.
fn fill(file: &mut dyn StorageFile, damage: &Damage, place: Place, len: u64) -> Result<()> {
    let mut payload = vec![0; (len - RECORD_HEADER_BYTES as u64) as usize];
    let start = place.offset + RECORD_HEADER_BYTES as u64;
    let read = file.read_at(start, &mut payload).map_err(Error::io("read", &*damage.path))?;
    if read < payload.len() {
        // The file ends inside: it grows to what the record says.
        write(file, &damage.path, start + read as u64, &payload[read..])?;
    }
    let header = RecordHeader {
        kind: RecordKind::End,
        last: false,
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(&payload),
        generation: place.generation,
        synced_through: place.offset,
        producer: ProducerId(0),
        seq: SeqNo(0),
        received_ns: 0,
    };
    let mut bytes = [0; RECORD_HEADER_BYTES];
    header.encode(place, &mut bytes);
    write(file, &damage.path, place.offset, &bytes)
}

fn write(file: &mut dyn StorageFile, path: &str, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_at(offset, bytes).map_err(Error::io("write", path))
}
