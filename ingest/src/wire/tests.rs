//! Tests of frames and of the reader: round trips, any split into chunks, hostile bytes, the document's example.

use ::bytes::Bytes;
use proptest::prelude::*;

use super::frame::{HEADER_BYTES, Header, MAX_BATCH_PAYLOAD, MAX_MESSAGE_BYTES};
use super::*;

const MAX: usize = 1 << 20;

/// One frame of each kind, with every field set.
fn samples() -> Vec<Frame> {
    let producer = ProducerId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    vec![
        Frame::Hello(Hello { version_min: 1, version_max: 1, software: "tidewell-client/0.1.0".into() }),
        Frame::Welcome(Welcome {
            version: 1,
            shard_count: 2,
            max_frame_bytes: 4 << 20,
            max_rows: 65_536,
            max_in_flight_bytes: 8 << 20,
            max_in_flight_batches: 256,
            idle_ms: 600_000,
            clock_ns: 1_750_000_000_000_000_000,
            max_future_ns: 600_000_000_000,
            software: "tidewell/0.1.0".into(),
        }),
        Frame::Resume { producer, devices: vec!["truck_1".into(), "grün".into()] },
        Frame::Resumed { producer, settled: vec![41, 0] },
        Frame::Batch(BatchFrame {
            producer,
            seq: 42,
            attempt: 3,
            durability: Durability::Received,
            payload: Bytes::from_static(b"the payload is opaque here"),
        }),
        Frame::Ack { producer, seq: 42 },
        Frame::Nack(Nack {
            producer,
            seq: 43,
            attempt: 3,
            code: RejectCode::DiskFull,
            retryable: true,
            retry_after_ms: 1_000,
            message: "no room".into(),
        }),
        Frame::GoAway(GoAway { reason: CloseCode::ShuttingDown, drain_ms: 5_000, message: "restart".into() }),
    ]
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

fn read_all(reader: &mut FrameReader) -> Result<Vec<Received>, FrameError> {
    let mut all = Vec::new();
    while let Some(received) = reader.next()? {
        all.push(received);
    }
    Ok(all)
}

fn read(bytes: &[u8]) -> Result<Vec<Received>, FrameError> {
    let mut reader = FrameReader::new(MAX);
    reader.feed(Bytes::copy_from_slice(bytes));
    read_all(&mut reader)
}

#[test]
fn every_frame_comes_back() {
    for frame in samples() {
        let bytes = encoded(&frame);
        assert_eq!(read(&bytes).unwrap(), [Received::Frame(frame.clone())]);
        assert_eq!(frame.to_chunks().concat(), bytes);
    }
    assert_eq!(samples().iter().map(Frame::kind).collect::<Vec<_>>(), Kind::ALL);
}

#[test]
fn a_payload_inside_one_chunk_is_a_slice_of_it() {
    let frame = &samples()[4];
    let chunk = Bytes::from(encoded(frame));
    let mut reader = FrameReader::new(MAX);
    reader.feed(chunk.clone());
    let Some(Received::Frame(Frame::Batch(batch))) = reader.next().unwrap() else { panic!("a batch was sent") };
    assert_eq!(batch.payload.as_ptr(), chunk[HEADER_BYTES..].as_ptr());
    assert!(reader.at_boundary());
}

#[test]
fn a_truncated_frame_is_never_given_out() {
    for frame in samples() {
        let bytes = encoded(&frame);
        let mut reader = FrameReader::new(MAX);
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(reader.next().unwrap(), None, "{} bytes of {}", index, frame.kind());
            reader.feed(Bytes::copy_from_slice(&[*byte]));
            assert!(!reader.at_boundary());
        }
        assert_eq!(read_all(&mut reader).unwrap(), [Received::Frame(frame)]);
        assert!(reader.at_boundary());
    }
}

#[test]
fn no_flipped_bit_passes() {
    for frame in samples() {
        let bytes = encoded(&frame);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match read(&bad) {
                Err(error) => assert!(error.close_code() != CloseCode::Done, "{error}"),
                // Only a batch's payload may be damaged without ending the lane, and it names the right batch.
                Ok(all) => {
                    assert!(bit / 8 >= HEADER_BYTES && frame.kind() == Kind::Batch, "bit {bit} of {}", frame.kind());
                    let Received::DamagedBatch { seq: 42, attempt: 3, .. } = all[0] else { panic!("{all:?}") };
                }
            }
        }
    }
}

#[test]
fn the_lane_goes_on_after_a_damaged_or_oversized_batch() {
    let mut bytes = encoded(&samples()[4]);
    *bytes.last_mut().unwrap() ^= 1;
    let big = Frame::Batch(BatchFrame {
        producer: ProducerId(9),
        seq: 7,
        attempt: 0,
        durability: Durability::Durable,
        payload: Bytes::from(vec![0; 300]),
    });
    bytes.extend(encoded(&big));
    bytes.extend(encoded(&samples()[5]));
    let mut reader = FrameReader::new(200);
    let mut all = Vec::new();
    for chunk in bytes.chunks(7) {
        reader.feed(Bytes::copy_from_slice(chunk));
        all.extend(read_all(&mut reader).unwrap());
        assert!(reader.buffered() < 100, "skipped bytes are not kept");
    }
    assert!(matches!(all[0], Received::DamagedBatch { seq: 42, .. }));
    assert_eq!(all[1], Received::OversizedBatch { producer: ProducerId(9), seq: 7, attempt: 0, length: 300, max: 200 });
    assert_eq!(all[2], Received::Frame(samples()[5].clone()));
}

/// A header with a right checksum around whatever it says.
fn header(kind: u8, length: u32) -> Header {
    Header { kind, length, checksum: 0, attempt: 0, producer: ProducerId(0), seq: 0, flags: 0 }
}

#[test]
fn unknown_frames_have_an_answer() {
    let error = read(&header(9, 0).encode()).unwrap_err();
    assert_eq!((error.clone(), error.close_code()), (FrameError::UnknownKind { found: 9 }, CloseCode::UnknownFrame));
    // From 128 on they are skipped.
    let mut bytes = header(200, 5).encode().to_vec();
    bytes.extend(b"12345");
    bytes.extend(encoded(&samples()[0]));
    assert_eq!(read(&bytes).unwrap(), [Received::Frame(samples()[0].clone())]);
    let error = read(&header(200, 5_000).encode()).unwrap_err();
    assert_eq!(error.close_code(), CloseCode::FrameTooLarge);
}

#[test]
fn broken_headers_end_the_lane() {
    let code = |bytes: &[u8]| read(bytes).unwrap_err().close_code();
    assert_eq!(code(&[b'G'; HEADER_BYTES]), CloseCode::BadHeader);
    let resum = |mut bytes: [u8; HEADER_BYTES]| {
        let sum = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let mut version = header(6, 0).encode();
    version[2] = 2;
    assert_eq!(code(&version), CloseCode::BadHeader);
    assert_eq!(code(&resum(version)), CloseCode::UnsupportedVersion);
    let mut reserved = header(6, 0).encode();
    reserved[41] = 1;
    assert_eq!(code(&resum(reserved)), CloseCode::BadHeader);
    // Lengths are refused before a byte of the payload is there.
    for kind in Kind::ALL {
        let length = u32::try_from(kind.max_payload()).unwrap() + 1;
        assert_eq!(code(&header(kind as u8, length).encode()), CloseCode::FrameTooLarge, "{kind}");
    }
    assert!(MAX_BATCH_PAYLOAD <= u32::MAX as usize);
}

#[test]
fn control_frames_are_read_strictly() {
    let frame = |kind: Kind, seq: u64, payload: &[u8]| {
        let header = Header {
            checksum: crc32c::crc32c(payload),
            seq,
            ..header(kind as u8, u32::try_from(payload.len()).unwrap())
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(payload);
        read(&bytes)
    };
    let nack = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(frame(Kind::Nack, 1, &nack).is_ok());
    for (kind, seq, payload, names) in [
        (Kind::Nack, 1, &nack[..9], "nack frame: message at byte 8"),
        (Kind::Nack, 1, &[nack.as_slice(), &[0]].concat(), "nack frame: end at byte 10"),
        (Kind::Nack, 1, &[1, 0, 2, 0, 0, 0, 0, 0, 0, 0], "nack frame: retryable at byte 4"),
        (Kind::Batch, 0, b"x", "batch frame: seq"),
        (Kind::Hello, 1, &[1, 0, 1, 0, 0, 0], "hello frame: header"),
        (Kind::Hello, 0, &[1, 0, 1, 0, 1, 0, 0xff], "hello frame: software"),
        (Kind::Resume, 0, &[0xff, 0xff, 0xff, 0xff], "resume frame: devices at byte 4"),
        (Kind::Resumed, 0, &[2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], "resumed frame: settled at byte 4"),
        (Kind::GoAway, 0, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0], "goaway frame: reserved"),
    ] {
        let error = frame(kind, seq, payload).unwrap_err();
        assert!(error.to_string().starts_with(names), "{names}: {error}");
        assert_eq!(error.close_code(), CloseCode::MalformedFrame);
    }
    // A later version may append to the greeting.
    assert!(frame(Kind::Hello, 0, &[1, 0, 9, 0, 1, 0, b'x', 1, 2, 3]).is_ok());
}

#[test]
fn long_messages_are_cut() {
    let nack = Nack {
        producer: ProducerId(1),
        seq: 1,
        attempt: 0,
        code: RejectCode::Malformed,
        retryable: false,
        retry_after_ms: 0,
        message: "é".repeat(2_000),
    };
    let all = read(&encoded(&Frame::Nack(nack))).unwrap();
    let Received::Frame(Frame::Nack(nack)) = &all[0] else { panic!("{all:?}") };
    assert_eq!(nack.message.len(), MAX_MESSAGE_BYTES);
}

proptest! {
    #[test]
    fn any_chunks_give_the_same_frames(cuts in proptest::collection::vec(1usize..200, 1..200)) {
        let frames = samples();
        let bytes = Bytes::from(frames.iter().flat_map(encoded).collect::<Vec<_>>());
        let mut reader = FrameReader::new(MAX);
        let mut all = Vec::new();
        let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
        while at < bytes.len() {
            let end = (at + cuts.next().unwrap()).min(bytes.len());
            reader.feed(bytes.slice(at..end));
            all.extend(read_all(&mut reader).unwrap());
            at = end;
        }
        prop_assert_eq!(all, frames.into_iter().map(Received::Frame).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1u8..9) {
        let _ = read(&bytes);
        let header = Header {
            checksum: crc32c::crc32c(&bytes),
            producer: ProducerId(5),
            ..header(kind, u32::try_from(bytes.len()).unwrap())
        };
        let mut framed = header.encode().to_vec();
        framed.extend(&bytes);
        let _ = read(&framed);
    }
}

/// The frames of the document's worked example, in its order.
fn example() -> Vec<(&'static str, Frame)> {
    use tidewell_codec::{Batch, BatchField, BatchLimits, Column, DeviceRuns, Tier, Values, encode_batch};
    let producer = ProducerId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    let rows = Batch {
        table: "readings".into(),
        devices: DeviceRuns::single("truck_1", 2),
        times: vec![1_750_000_000_000_000_000, 1_750_000_001_000_000_000],
        fields: vec![BatchField {
            name: "velocity".into(),
            column: Column { values: Values::F64(vec![50.5, 51.0]), validity: None },
        }],
    };
    rows.check(&BatchLimits::default()).unwrap();
    let mut payload = Vec::new();
    encode_batch(&rows, Tier::Plain, &mut payload);
    let message = "batch 2: device \"truck_9\": certificate tidewell://device/truck_1 writes only its own id";
    vec![
        ("hello", Frame::Hello(Hello { version_min: 1, version_max: 1, software: "example/1".into() })),
        (
            "welcome",
            Frame::Welcome(Welcome {
                version: 1,
                shard_count: 2,
                max_frame_bytes: 4 << 20,
                max_rows: 65_536,
                max_in_flight_bytes: 8 << 20,
                max_in_flight_batches: 256,
                idle_ms: 600_000,
                clock_ns: 1_750_000_002_000_000_000,
                max_future_ns: 600_000_000_000,
                software: "tidewell/1".into(),
            }),
        ),
        ("resume", Frame::Resume { producer, devices: vec!["truck_1".into()] }),
        ("resumed", Frame::Resumed { producer, settled: vec![0] }),
        (
            "batch",
            Frame::Batch(BatchFrame {
                producer,
                seq: 1,
                attempt: 0,
                durability: Durability::Durable,
                payload: payload.into(),
            }),
        ),
        ("ack", Frame::Ack { producer, seq: 1 }),
        (
            "nack",
            Frame::Nack(Nack {
                producer,
                seq: 2,
                attempt: 0,
                code: RejectCode::NotAuthorised,
                retryable: false,
                retry_after_ms: 0,
                message: message.into(),
            }),
        ),
        (
            "goaway",
            Frame::GoAway(GoAway { reason: CloseCode::ShuttingDown, drain_ms: 5_000, message: "restart".into() }),
        ),
    ]
}

#[test]
fn the_documents_example_is_true() {
    let document = include_str!("../../../docs/protocol.md");
    for (name, frame) in example() {
        let bytes = encoded(&frame);
        let lines: Vec<String> = bytes
            .chunks(16)
            .map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "))
            .collect();
        let block = format!("```text\n{name}\n{}\n```", lines.join("\n"));
        assert!(document.contains(&block), "docs/protocol.md should contain:\n{block}");
        assert_eq!(read(&bytes).unwrap(), [Received::Frame(frame)]);
    }
}

#[test]
fn the_document_lists_every_code() {
    let document = include_str!("../../../docs/protocol.md");
    for code in RejectCode::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let row = format!("| {} | `{}` | {retry} |", code.value(), code.name());
        assert!(document.contains(&row), "{row}");
    }
    for code in CloseCode::ALL {
        let row = format!("| {} | `{}` |", code.value(), code.name());
        assert!(document.contains(&row), "{row}");
    }
    for kind in Kind::ALL {
        let row = format!("| {} | {} |", kind as u8, kind.name());
        assert!(document.contains(&row), "{row}");
    }
}
