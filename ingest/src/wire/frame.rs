//! Owns what a frame is: its header, its kinds and their bytes; does not buffer or order frames.

use bytes::Bytes;

use super::bytes::{Reader, put_text};
use super::reader::FrameError;
use super::reject::{CloseCode, RejectCode};

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 48;
/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"TW";
/// The layout of the header. It never changes within ALPN `tidewell/1`.
pub const HEADER_VERSION: u8 = 1;
/// The oldest and newest protocol version that this build speaks.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
/// The ALPN protocol name.
pub const ALPN: &[u8] = b"tidewell/1";

/// No batch is ever longer; a lane that announces one ends. The welcome's `max_frame_bytes` is at most this.
pub const MAX_BATCH_PAYLOAD: usize = 64 << 20;
/// Devices in one resume frame: one a shard is enough.
pub const MAX_RESUME_DEVICES: usize = 1_024;
/// Bytes of a device id.
pub const MAX_DEVICE_BYTES: usize = 256;
/// Bytes of a message for people.
pub const MAX_MESSAGE_BYTES: usize = 1_024;
/// Bytes of the name of a peer's software.
pub const MAX_SOFTWARE_BYTES: usize = 128;

/// Who numbers batches: chosen at random by a client, once per lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub u128);

impl std::fmt::Display for ProducerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// When a batch is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On disk, synced and visible to every later query.
    #[default]
    Durable,
    /// In memory and visible; lost with the node.
    Received,
}

/// The kind of a frame; the discriminants are its byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client's first frame on a lane.
    Hello = 1,
    /// Server's answer to it.
    Welcome = 2,
    /// Opens a producer on this lane and asks what of it is settled.
    Resume = 3,
    /// The answer to it.
    Resumed = 4,
    /// Rows.
    Batch = 5,
    /// Everything up to a number is settled.
    Ack = 6,
    /// One batch was refused.
    Nack = 7,
    /// The sender of this frame will end the lane.
    GoAway = 8,
}

impl Kind {
    /// Every kind of this version.
    pub const ALL: [Self; 8] =
        [Self::Hello, Self::Welcome, Self::Resume, Self::Resumed, Self::Batch, Self::Ack, Self::Nack, Self::GoAway];

    /// The kind of a byte on the wire.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The name in messages and in the protocol document.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Resume => "resume",
            Self::Resumed => "resumed",
            Self::Batch => "batch",
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::GoAway => "goaway",
        }
    }

    /// The longest payload of this kind.
    pub fn max_payload(self) -> usize {
        match self {
            // Later versions append to these two, so there is room.
            Self::Hello | Self::Welcome => 4_096,
            Self::Resume => 4 + MAX_RESUME_DEVICES * (2 + MAX_DEVICE_BYTES),
            Self::Resumed => 4 + MAX_RESUME_DEVICES * 8,
            Self::Batch => MAX_BATCH_PAYLOAD,
            Self::Ack => 0,
            Self::Nack | Self::GoAway => 16 + MAX_MESSAGE_BYTES,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The checked header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is; a raw byte, because unknown kinds from 128 on are skipped.
    pub kind: u8,
    /// Bytes of the payload.
    pub length: u32,
    /// CRC-32C of the payload.
    pub checksum: u32,
    /// How often the producer has gone back on this lane (batch, nack); 0 elsewhere.
    pub attempt: u32,
    /// The producer (resume, resumed, batch, ack, nack); 0 elsewhere.
    pub producer: ProducerId,
    /// The number of the batch (batch, ack, nack); 0 elsewhere.
    pub seq: u64,
    /// Bit 0 of a batch: acknowledge when received. All other bits are 0.
    pub flags: u8,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..2].copy_from_slice(&MAGIC);
        out[2] = HEADER_VERSION;
        out[3] = self.kind;
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..12].copy_from_slice(&self.checksum.to_le_bytes());
        out[12..16].copy_from_slice(&self.attempt.to_le_bytes());
        out[16..32].copy_from_slice(&self.producer.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.seq.to_le_bytes());
        out[40] = self.flags;
        let checksum = crc32c::crc32c(&out[..44]);
        out[44..48].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads and checks a header: first that it is one, then that nothing in it changed, then what it says.
    ///
    /// # Errors
    /// Wrong magic, checksum, header version or reserved bytes.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..2] != MAGIC {
            return Err(FrameError::Magic { found: [bytes[0], bytes[1]] });
        }
        let (expected, found) = (u32_at(44), crc32c::crc32c(&bytes[..44]));
        if expected != found {
            return Err(FrameError::HeaderChecksum { expected, found });
        }
        if bytes[2] != HEADER_VERSION {
            return Err(FrameError::HeaderVersion { found: bytes[2] });
        }
        if bytes[40] & !1 != 0 || bytes[41..44] != [0; 3] {
            return Err(FrameError::Reserved { found: u32_at(40) });
        }
        let mut producer = [0; 16];
        producer.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            kind: bytes[3],
            length: u32_at(4),
            checksum: u32_at(8),
            attempt: u32_at(12),
            producer: ProducerId(u128::from_le_bytes(producer)),
            seq: u64::from(u32_at(32)) | u64::from(u32_at(36)) << 32,
            flags: bytes[40],
        })
    }
}

/// The client's first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version that the client speaks.
    pub version_min: u16,
    /// The newest one.
    pub version_max: u16,
    /// Name and version of the client's software, for the node's log.
    pub software: String,
}

/// The server's answer: which version, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version of this lane.
    pub version: u16,
    /// Shards of this node's data: a batch belongs to one.
    pub shard_count: u32,
    /// The longest batch payload in bytes.
    pub max_frame_bytes: u32,
    /// Most rows of one batch.
    pub max_rows: u32,
    /// Payload bytes sent on this lane and not acknowledged, above which the node stops reading.
    pub max_in_flight_bytes: u32,
    /// The same in batches.
    pub max_in_flight_batches: u32,
    /// The lane ends when nothing comes for so long; 0 = never.
    pub idle_ms: u32,
    /// The node's clock, nanoseconds since 1970 UTC.
    pub clock_ns: i64,
    /// Rows further ahead of the node's clock than this are refused.
    pub max_future_ns: u64,
    /// Name and version of the node's software.
    pub software: String,
}

/// Rows of one shard with their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFrame {
    /// Who numbers it.
    pub producer: ProducerId,
    /// Its number; rising on a lane, gaps allowed, never 0.
    pub seq: u64,
    /// Raised by the sender each time it goes back to an earlier number on this lane.
    pub attempt: u32,
    /// When it is to be acknowledged.
    pub durability: Durability,
    /// The encoded batch (`tidewell_codec::batch`), as it goes into the log.
    pub payload: Bytes,
}

/// One batch was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Whose batch.
    pub producer: ProducerId,
    /// Which one.
    pub seq: u64,
    /// The attempt of the refused frame, so that a nack of an earlier attempt is told apart.
    pub attempt: u32,
    /// Why.
    pub code: RejectCode,
    /// Whether the same batch may be accepted later.
    pub retryable: bool,
    /// How long to wait before sending it again.
    pub retry_after_ms: u32,
    /// For people: what, where, expected, found.
    pub message: String,
}

/// The sender of this frame will end the lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub reason: CloseCode,
    /// For so long batches that are on their way are still taken and acknowledged.
    pub drain_ms: u32,
    /// For people.
    pub message: String,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Client's first frame.
    Hello(Hello),
    /// Server's answer.
    Welcome(Welcome),
    /// Opens a producer on this lane and asks, for the shard of each device, up to which number it is settled.
    Resume {
        /// The producer.
        producer: ProducerId,
        /// One device of each shard that matters to the client; may be empty.
        devices: Vec<String>,
    },
    /// The answer: numbers in the order of the devices, 0 = none.
    Resumed {
        /// The producer.
        producer: ProducerId,
        /// The last settled number for the shard of each device.
        settled: Vec<u64>,
    },
    /// Rows.
    Batch(BatchFrame),
    /// Every batch of this producer up to `seq` is settled: acknowledged at its durability, or refused for good.
    Ack {
        /// The producer.
        producer: ProducerId,
        /// The last settled number.
        seq: u64,
    },
    /// One batch was refused.
    Nack(Nack),
    /// The lane will end.
    GoAway(GoAway),
}

impl Frame {
    /// What kind of frame it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Resume { .. } => Kind::Resume,
            Self::Resumed { .. } => Kind::Resumed,
            Self::Batch(_) => Kind::Batch,
            Self::Ack { .. } => Kind::Ack,
            Self::Nack(_) => Kind::Nack,
            Self::GoAway(_) => Kind::GoAway,
        }
    }

    /// The frame in two pieces, so that a batch's payload is written without a copy. The second is empty for other
    /// frames.
    pub fn to_chunks(&self) -> [Bytes; 2] {
        if let Self::Batch(batch) = self {
            return [Bytes::copy_from_slice(&self.header(&batch.payload).encode()), batch.payload.clone()];
        }
        let mut out = Vec::new();
        self.encode(&mut out);
        [Bytes::from(out), Bytes::new()]
    }

    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Self::Batch(batch) = self {
            out.extend_from_slice(&self.header(&batch.payload).encode());
            out.extend_from_slice(&batch.payload);
            return;
        }
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        self.encode_payload(out);
        let header = self.header(&out[start + HEADER_BYTES..]).encode();
        out[start..start + HEADER_BYTES].copy_from_slice(&header);
    }

    fn header(&self, payload: &[u8]) -> Header {
        let kind = self.kind();
        assert!(payload.len() <= kind.max_payload(), "a {kind} payload of {} bytes is over its bound", payload.len());
        let (producer, seq, attempt, flags) = match self {
            Self::Resume { producer, .. } | Self::Resumed { producer, .. } => (*producer, 0, 0, 0),
            Self::Batch(b) => (b.producer, b.seq, b.attempt, u8::from(b.durability == Durability::Received)),
            Self::Ack { producer, seq } => (*producer, *seq, 0, 0),
            Self::Nack(n) => (n.producer, n.seq, n.attempt, 0),
            Self::Hello(_) | Self::Welcome(_) | Self::GoAway(_) => (ProducerId(0), 0, 0, 0),
        };
        Header {
            kind: kind as u8,
            length: u32::try_from(payload.len()).expect("bounded above"),
            checksum: crc32c::crc32c(payload),
            attempt,
            producer,
            seq,
            flags,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                out.extend_from_slice(&hello.version_min.to_le_bytes());
                out.extend_from_slice(&hello.version_max.to_le_bytes());
                put_text(out, &hello.software, MAX_SOFTWARE_BYTES);
            }
            Self::Welcome(welcome) => {
                out.extend_from_slice(&welcome.version.to_le_bytes());
                out.extend_from_slice(&welcome.shard_count.to_le_bytes());
                out.extend_from_slice(&welcome.max_frame_bytes.to_le_bytes());
                out.extend_from_slice(&welcome.max_rows.to_le_bytes());
                out.extend_from_slice(&welcome.max_in_flight_bytes.to_le_bytes());
                out.extend_from_slice(&welcome.max_in_flight_batches.to_le_bytes());
                out.extend_from_slice(&welcome.idle_ms.to_le_bytes());
                out.extend_from_slice(&welcome.clock_ns.to_le_bytes());
                out.extend_from_slice(&welcome.max_future_ns.to_le_bytes());
                put_text(out, &welcome.software, MAX_SOFTWARE_BYTES);
            }
            Self::Resume { devices, .. } => {
                out.extend_from_slice(&u32::try_from(devices.len()).unwrap_or(u32::MAX).to_le_bytes());
                devices.iter().for_each(|device| put_text(out, device, MAX_DEVICE_BYTES));
            }
            Self::Resumed { settled, .. } => {
                out.extend_from_slice(&u32::try_from(settled.len()).unwrap_or(u32::MAX).to_le_bytes());
                settled.iter().for_each(|seq| out.extend_from_slice(&seq.to_le_bytes()));
            }
            Self::Batch(batch) => out.extend_from_slice(&batch.payload),
            Self::Ack { .. } => {}
            Self::Nack(nack) => {
                out.extend_from_slice(&nack.code.value().to_le_bytes());
                out.push(u8::from(nack.retryable));
                out.push(0);
                out.extend_from_slice(&nack.retry_after_ms.to_le_bytes());
                put_text(out, &nack.message, MAX_MESSAGE_BYTES);
            }
            Self::GoAway(goaway) => {
                out.extend_from_slice(&goaway.reason.value().to_le_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&goaway.drain_ms.to_le_bytes());
                put_text(out, &goaway.message, MAX_MESSAGE_BYTES);
            }
        }
    }

    /// Reads the frame that `header`, whose payload checksum was found right, announces.
    ///
    /// # Errors
    /// A payload that does not read as its kind, left-over bytes, header fields set that the kind does not use.
    pub fn decode(header: &Header, kind: Kind, payload: Bytes) -> Result<Self, FrameError> {
        let mut reader = Reader::new(kind, &payload);
        let unused = match kind {
            Kind::Hello | Kind::Welcome | Kind::GoAway => {
                header.producer.0 != 0 || header.seq != 0 || header.attempt != 0 || header.flags != 0
            }
            Kind::Resume | Kind::Resumed => header.seq != 0 || header.attempt != 0 || header.flags != 0,
            Kind::Ack => header.attempt != 0 || header.flags != 0,
            Kind::Nack => header.flags != 0,
            Kind::Batch => false,
        };
        if unused {
            return Err(
                reader.malformed("header", "expected 0 in the header fields that the frame does not use".into())
            );
        }
        let producer = header.producer;
        let frame = match kind {
            Kind::Hello => {
                let hello = Hello {
                    version_min: reader.u16("version_min")?,
                    version_max: reader.u16("version_max")?,
                    software: reader.text("software", MAX_SOFTWARE_BYTES)?,
                };
                // What a later version appends is for a later version to read.
                return Ok(Self::Hello(hello));
            }
            Kind::Welcome => {
                let welcome = Welcome {
                    version: reader.u16("version")?,
                    shard_count: reader.u32("shard_count")?,
                    max_frame_bytes: reader.u32("max_frame_bytes")?,
                    max_rows: reader.u32("max_rows")?,
                    max_in_flight_bytes: reader.u32("max_in_flight_bytes")?,
                    max_in_flight_batches: reader.u32("max_in_flight_batches")?,
                    idle_ms: reader.u32("idle_ms")?,
                    clock_ns: reader.i64("clock_ns")?,
                    max_future_ns: reader.u64("max_future_ns")?,
                    software: reader.text("software", MAX_SOFTWARE_BYTES)?,
                };
                if welcome.shard_count == 0 {
                    return Err(reader.malformed("shard_count", "expected at least 1, found 0".into()));
                }
                return Ok(Self::Welcome(welcome));
            }
            Kind::Resume => {
                let count = Self::count(&mut reader, "devices", 2)?;
                let mut devices = Vec::with_capacity(count);
                for _ in 0..count {
                    devices.push(reader.text("device", MAX_DEVICE_BYTES)?);
                }
                Self::Resume { producer, devices }
            }
            Kind::Resumed => {
                let count = Self::count(&mut reader, "settled", 8)?;
                let settled = (0..count).map(|_| reader.u64("settled")).collect::<Result<_, _>>()?;
                Self::Resumed { producer, settled }
            }
            Kind::Batch => {
                if header.seq == 0 {
                    return Err(reader.malformed("seq", "expected a number from 1, found 0".into()));
                }
                let durability = if header.flags & 1 == 1 { Durability::Received } else { Durability::Durable };
                let (seq, attempt) = (header.seq, header.attempt);
                return Ok(Self::Batch(BatchFrame { producer, seq, attempt, durability, payload }));
            }
            Kind::Ack => Self::Ack { producer, seq: header.seq },
            Kind::Nack => {
                let code = RejectCode::from_value(reader.u16("code")?);
                let retryable = match (reader.u8("retryable")?, reader.u8("reserved")?) {
                    (0, 0) => false,
                    (1, 0) => true,
                    (a, b) => {
                        return Err(reader.malformed("retryable", format!("expected 0 or 1 and 0, found {a}, {b}")));
                    }
                };
                let retry_after_ms = reader.u32("retry_after_ms")?;
                let message = reader.text("message", MAX_MESSAGE_BYTES)?;
                let (seq, attempt) = (header.seq, header.attempt);
                Self::Nack(Nack { producer, seq, attempt, code, retryable, retry_after_ms, message })
            }
            Kind::GoAway => {
                let reason = CloseCode::from_value(reader.u16("reason")?);
                match reader.u16("reserved")? {
                    0 => {}
                    found => return Err(reader.malformed("reserved", format!("expected 0, found {found}"))),
                }
                let drain_ms = reader.u32("drain_ms")?;
                Self::GoAway(GoAway { reason, drain_ms, message: reader.text("message", MAX_MESSAGE_BYTES)? })
            }
        };
        reader.finish()?;
        Ok(frame)
    }

    /// A count that the bytes which are really there can hold.
    fn count(reader: &mut Reader<'_>, field: &'static str, smallest: usize) -> Result<usize, FrameError> {
        let count = reader.u32(field)? as usize;
        let max = MAX_RESUME_DEVICES.min(reader.left() / smallest);
        if count > max {
            return Err(reader.malformed(field, format!("expected at most {max} entries, found {count}")));
        }
        Ok(count)
    }
}
