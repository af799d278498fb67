//! Owns turning received chunks into frames; does not read sockets or order frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frame::{Frame, HEADER_BYTES, HEADER_VERSION, Header, Kind, MAGIC, ProducerId};
use super::reject::CloseCode;
use crate::planted::{self, Bug};

/// The peer broke the framing, or a control frame. The lane ends with [`FrameError::close_code`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame of this protocol.
    #[error("frame header: expected magic {MAGIC:02x?}, found {found:02x?}")]
    Magic {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// Something in the header changed on the way.
    #[error("frame header: expected checksum {expected:08x}, found {found:08x}")]
    HeaderChecksum {
        /// What the header says.
        expected: u32,
        /// What its bytes have.
        found: u32,
    },
    /// A header layout that this build does not know.
    #[error("frame header: expected version {HEADER_VERSION}, found {found}")]
    HeaderVersion {
        /// What the header says.
        found: u8,
    },
    /// Bits that this version does not define.
    #[error("frame header: expected 0 in reserved bits, found flags {found:#010x}")]
    Reserved {
        /// The four bytes from the flags on.
        found: u32,
    },
    /// A frame that must be understood and is not.
    #[error("frame type {found} is not known and below 128, so it must not be skipped")]
    UnknownKind {
        /// The type byte.
        found: u8,
    },
    /// A frame over the bound of its kind.
    #[error("frame type {kind}: expected at most {max} bytes of payload, found {length}")]
    TooLong {
        /// The type byte.
        kind: u8,
        /// Announced bytes.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// A control frame changed on the way.
    #[error("{kind} frame: expected payload checksum {expected:08x}, found {found:08x}")]
    PayloadChecksum {
        /// Which frame.
        kind: Kind,
        /// What the header says.
        expected: u32,
        /// What the payload has.
        found: u32,
    },
    /// A control frame that does not read as its kind.
    #[error("{kind} frame: {field} at byte {offset} of the payload: {problem}")]
    Malformed {
        /// Which frame.
        kind: Kind,
        /// Which field of it.
        field: &'static str,
        /// Where in the payload.
        offset: usize,
        /// Expected and found.
        problem: String,
    },
}

impl FrameError {
    /// The code with which the lane ends.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Magic { .. } | Self::HeaderChecksum { .. } | Self::Reserved { .. } => CloseCode::BadHeader,
            Self::HeaderVersion { .. } => CloseCode::UnsupportedVersion,
            Self::UnknownKind { .. } => CloseCode::UnknownFrame,
            Self::TooLong { .. } => CloseCode::FrameTooLarge,
            Self::PayloadChecksum { .. } => CloseCode::BadChecksum,
            Self::Malformed { .. } => CloseCode::MalformedFrame,
        }
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole frame with the right checksum.
    Frame(Frame),
    /// A batch whose header is right and whose payload changed on the way. It costs only itself.
    DamagedBatch {
        /// Whose batch.
        producer: ProducerId,
        /// Which one.
        seq: u64,
        /// Its attempt.
        attempt: u32,
        /// The checksum that the header says.
        expected: u32,
        /// The checksum of the payload.
        found: u32,
    },
    /// A batch over this lane's limit. Its bytes are skipped, never kept.
    OversizedBatch {
        /// Whose batch.
        producer: ProducerId,
        /// Which one.
        seq: u64,
        /// Its attempt.
        attempt: u32,
        /// Announced bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
}

/// Cuts a stream of chunks into frames.
///
/// Feed what came, then call [`next`](Self::next) until it gives nothing. A payload that lies in one chunk is a slice
/// of it; one that spans chunks is copied together once. Kept bytes never exceed what was fed and not yet taken.
#[derive(Debug)]
pub struct FrameReader {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    header: Option<(Header, Kind)>,
    skip: usize,
    max_batch: usize,
}

impl FrameReader {
    /// A reader that takes batches of up to `max_batch` bytes of payload; 0 for a side that takes none.
    pub fn new(max_batch: usize) -> Self {
        Self { chunks: VecDeque::new(), buffered: 0, header: None, skip: 0, max_batch }
    }

    /// Takes the next chunk of the stream.
    pub fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.buffered += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes fed and not yet given out.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Whether the stream may end here: no frame has begun.
    pub fn at_boundary(&self) -> bool {
        self.buffered == 0 && self.header.is_none() && self.skip == 0
    }

    /// The next frame, or `None` until more is fed.
    ///
    /// # Errors
    /// Broken framing or a broken control frame. The lane must end: where the next frame starts is unknown.
    #[allow(clippy::should_implement_trait)] // an Iterator would promise that None is the end
    pub fn next(&mut self) -> Result<Option<Received>, FrameError> {
        loop {
            self.skip();
            if self.skip > 0 {
                return Ok(None);
            }
            let Some((header, kind)) = self.header else {
                if self.buffered < HEADER_BYTES {
                    return Ok(None);
                }
                let mut bytes = [0; HEADER_BYTES];
                self.copy_front(&mut bytes);
                let header = Header::decode(&bytes)?;
                let length = header.length as usize;
                let Some(kind) = Kind::from_byte(header.kind) else {
                    if header.kind < 128 {
                        return Err(FrameError::UnknownKind { found: header.kind });
                    }
                    // Types from 128 on are hints of a later version: skipped unread.
                    let max = Kind::Hello.max_payload();
                    if length > max {
                        return Err(FrameError::TooLong { kind: header.kind, length, max });
                    }
                    self.skip = length;
                    continue;
                };
                if length > kind.max_payload() {
                    return Err(FrameError::TooLong { kind: header.kind, length, max: kind.max_payload() });
                }
                if kind == Kind::Batch && length > self.max_batch {
                    self.skip = length;
                    let Header { producer, seq, attempt, .. } = header;
                    return Ok(Some(Received::OversizedBatch { producer, seq, attempt, length, max: self.max_batch }));
                }
                self.header = Some((header, kind));
                continue;
            };
            if self.buffered < header.length as usize {
                return Ok(None);
            }
            self.header = None;
            let payload = self.take(header.length as usize);
            let (expected, found) = (header.checksum, crc32c::crc32c(&payload));
            if expected != found && !planted::is(Bug::ChecksumIgnored) {
                if kind != Kind::Batch {
                    return Err(FrameError::PayloadChecksum { kind, expected, found });
                }
                let Header { producer, seq, attempt, .. } = header;
                return Ok(Some(Received::DamagedBatch { producer, seq, attempt, expected, found }));
            }
            return Frame::decode(&header, kind, payload).map(|frame| Some(Received::Frame(frame)));
        }
    }

    fn skip(&mut self) {
        while self.skip > 0 {
            let Some(front) = self.chunks.front_mut() else { return };
            let count = front.len().min(self.skip);
            bytes::Buf::advance(front, count);
            self.skip -= count;
            self.buffered -= count;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Takes `out.len()` bytes, which are there.
    fn copy_front(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let front = self.chunks.front_mut().expect("the caller checked how many bytes are buffered");
            let count = front.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&front[..count]);
            bytes::Buf::advance(front, count);
            done += count;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        self.buffered -= done;
    }

    /// Takes `length` bytes, which are there: a slice when they lie in one chunk.
    fn take(&mut self, length: usize) -> Bytes {
        if length == 0 {
            return Bytes::new();
        }
        let front = self.chunks.front_mut().expect("the caller checked how many bytes are buffered");
        if front.len() > length {
            self.buffered -= length;
            return front.split_to(length);
        }
        if front.len() == length {
            self.buffered -= length;
            return self.chunks.pop_front().expect("it was there a line ago");
        }
        let mut whole = BytesMut::zeroed(length);
        self.copy_front(&mut whole);
        whole.freeze()
    }
}
