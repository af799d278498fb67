//! Owns the first inputs that peers send: frames, what happens on a lane, certificates.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tidewell_ingest::authority::Authority;
use tidewell_ingest::identity::Identity;
use tidewell_ingest::wire::{
    BatchFrame, CloseCode, Durability, Frame, GoAway, Hello, Nack, ProducerId, RejectCode, Welcome,
};

use crate::Folder;

/// Frames, sessions and certificates.
pub fn write(folder: &Folder) {
    let mut all = vec![10, 200];
    for (at, frame) in frames().iter().enumerate() {
        let mut one = vec![7, 60];
        frame.encode(&mut one);
        frame.encode(&mut all);
        folder.put("frames", &at.to_string(), &one);
    }
    folder.put("frames", "all", &all);
    lanes(folder);
    certificates(folder);
}

fn frames() -> Vec<Frame> {
    let producer = ProducerId(0x0123_4567_89ab_cdef);
    vec![
        Frame::Hello(Hello { version_min: 1, version_max: 1, software: "client/1".into() }),
        Frame::Welcome(Welcome {
            version: 1,
            shard_count: 4,
            max_frame_bytes: 1 << 20,
            max_rows: 65_536,
            max_in_flight_bytes: 8 << 20,
            max_in_flight_batches: 256,
            idle_ms: 60_000,
            clock_ns: 1_700_000_000_000_000_000,
            max_future_ns: 600_000_000_000,
            software: "tidewell/0".into(),
        }),
        Frame::Resume { producer, devices: vec!["truck_1".into(), "truck_2".into()] },
        Frame::Resumed { producer, settled: vec![0, 17] },
        Frame::Batch(BatchFrame {
            producer,
            seq: 18,
            attempt: 1,
            durability: Durability::Received,
            payload: vec![1, 2, 3].into(),
        }),
        Frame::Ack { producer, seq: 18 },
        Frame::Nack(Nack {
            producer,
            seq: 19,
            attempt: 1,
            code: RejectCode::DiskFull,
            retryable: true,
            retry_after_ms: 500,
            message: "no room".into(),
        }),
        Frame::GoAway(GoAway { reason: CloseCode::ShuttingDown, drain_ms: 5_000, message: "bye".into() }),
    ]
}

/// Steps as the targets read them: hello, resume, batches, outcomes.
fn lanes(folder: &Folder) {
    let (hello, resume) = ([1, 1, 1], [2, 1, 0]);
    let batch = |seq: u8, attempt: u8| [3, 0, seq, attempt, 20];
    let settled = |which: u8, outcome: u8| [7, which, outcome];
    let start = [&hello[..], &resume].concat();
    let lane = |rest: &[&[u8]]| [&start[..], &rest.concat()].concat();
    let servers = [
        lane(&[&batch(1, 0), &batch(2, 0), &settled(0, 7), &settled(0, 7)]),
        lane(&[&batch(1, 0), &batch(2, 0), &settled(0, 1), &batch(3, 0), &batch(1, 1), &settled(0, 7), &settled(0, 7)]),
        lane(&[&batch(1, 0), &settled(0, 0), &[6, 0, 2, 0, 0], &batch(2, 1), &settled(0, 7)]),
        lane(&[&batch(1, 0), &[10, 0], &settled(0, 7), &[9, 255, 255]]),
        lane(&[&batch(1, 0), &resume, &batch(1, 0), &settled(0, 7), &settled(0, 7), &[10, 3]]),
    ];
    for (at, server) in servers.iter().enumerate() {
        folder.put("server_session", &at.to_string(), server);
    }
    let push = [0, 30, 0];
    let welcome = [9, 1, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 200, 0, 3];
    let resumed = |settled: u8| [9, 1, 0, 1, 1, settled];
    let ack = |seq: u8| [9, 1, 0, 2, seq];
    let nack = |seq: u8, code: u8, retryable: u8| [9, 1, 0, 3, code, seq, 0, retryable, 1, 0];
    let clients = [
        [&[0][..], &push, &push, &[2], &welcome, &resumed(0), &ack(1), &ack(2)].concat(),
        [&[0][..], &[2], &welcome, &push, &push, &push, &nack(1, 1, 1), &[4, 255, 255], &ack(3)].concat(),
        [&[1][..], &push, &[2], &welcome, &resumed(1), &[3], &[2], &welcome, &resumed(0), &nack(1, 0, 0)].concat(),
    ];
    for (at, client) in clients.iter().enumerate() {
        folder.put("client_session", &at.to_string(), client);
    }
}

fn certificates(folder: &Folder) {
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::create(scratch.path()).unwrap();
    let devices = [Identity::Device("truck 1/ä".into()), Identity::Gateway("g".into()), Identity::Admin("root".into())];
    for (at, names) in [&devices[..1], &devices[..]].into_iter().enumerate() {
        let issued = authority.issue(&format!("peer{at}"), names, &["localhost"]).unwrap();
        let der = CertificateDer::from_pem_file(&issued.certificate).unwrap();
        folder.put("identity", &format!("certificate-{at}"), &der);
    }
    for (at, name) in ["truck_1", "a%20b", "tidewell://gateway/%C3%A4", "%zz"].into_iter().enumerate() {
        folder.put("identity", &format!("name-{at}"), name.as_bytes());
    }
}
