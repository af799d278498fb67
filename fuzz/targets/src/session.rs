//! Owns the promises of both ends of a lane under any order of frames, outcomes and times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tidewell_ingest::session::{
    Action, ClientConfig, ClientEvent, ClientSession, Refusal, ServerConfig, ServerSession,
};
use tidewell_ingest::wire::{
    BatchFrame, CloseCode, Durability, Frame, FrameReader, GoAway, Hello, Nack, ProducerId, Received, RejectCode,
    Welcome,
};

use crate::input::Input;
use crate::sums;

const CODES: [RejectCode; 5] = [
    RejectCode::Malformed,
    RejectCode::DiskFull,
    RejectCode::AfterRefused,
    RejectCode::BadChecksum,
    RejectCode::Unknown(70),
];

/// What a producer's owner was promised on the node's end.
#[derive(Default)]
struct Owed {
    /// Numbers that were handed out since the producer was resumed.
    submitted: BTreeSet<u64>,
    /// Those that were appended, or of which the sender was told that they are refused for good.
    done: BTreeSet<u64>,
    acked: u64,
}

struct Server {
    session: ServerSession,
    reader: FrameReader,
    now: Duration,
    owed: BTreeMap<ProducerId, (u64, Owed)>,
    lives: u64,
    /// Ticket, producer, its life, number.
    tickets: Vec<(u64, ProducerId, u64, u64)>,
    closed: bool,
}

/// The node's end of a lane: each byte says what happens next.
///
/// # Panics
/// When an ack covers a batch without an outcome, something comes after the end, or more is in flight than is allowed.
pub fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let config = ServerConfig {
        max_frame_bytes: 64,
        max_in_flight_bytes: 200,
        max_in_flight_batches: 4,
        max_producers: 2,
        idle: Duration::from_secs(60),
        ..ServerConfig::default()
    };
    let reader = FrameReader::new(config.max_frame_bytes as usize);
    let now = Duration::from_secs(1);
    let session = ServerSession::new(config, now);
    let (owed, tickets) = (BTreeMap::new(), Vec::new());
    let mut node = Server { session, reader, now, owed, lives: 0, tickets, closed: false };
    while !input.is_empty() {
        node.step(&mut input);
        node.drain();
    }
    // Whatever happened, every batch that was handed out gets its outcome, and then the lane reads on or has ended.
    for (ticket, ..) in std::mem::take(&mut node.tickets) {
        node.session.settled(ticket, Err(Refusal::new(RejectCode::Malformed, "the end")));
        node.drain_quietly();
    }
    assert_eq!(node.session.in_flight(), 0, "every ticket was settled");
    assert!(node.session.wants_read() || node.session.is_closed(), "nothing is on its way, and nothing is read");
}

impl Server {
    fn step(&mut self, input: &mut Input<'_>) {
        let producer = |input: &mut Input<'_>| ProducerId(u128::from(input.u8() % 3));
        match input.u8() % 12 {
            0 => {
                let len = usize::from(input.u8());
                let mut bytes = input.take(len).to_vec();
                sums::frames(&mut bytes);
                self.reader.feed(bytes.into());
                loop {
                    match self.reader.next() {
                        Ok(Some(received)) => self.receive(received),
                        Ok(None) => break,
                        Err(error) => {
                            self.session.broken(&error);
                            break;
                        }
                    }
                }
            }
            1 => {
                let (version_min, version_max) = (u16::from(input.u8() % 3), u16::from(input.u8() % 3));
                self.frame(Frame::Hello(Hello { version_min, version_max, software: String::new() }));
            }
            2 => {
                let devices = vec!["truck".to_owned(); usize::from(input.u8() % 3)];
                self.frame(Frame::Resume { producer: producer(input), devices });
            }
            3..=5 => {
                let (producer, seq, attempt) = (producer(input), number(input), u32::from(input.u8() % 4));
                let payload = Bytes::from(vec![7; usize::from(input.u8() % 64)]);
                let durability = Durability::Durable;
                self.frame(Frame::Batch(BatchFrame { producer, seq, attempt, durability, payload }));
            }
            6 => {
                let (producer, seq, attempt) = (producer(input), number(input), u32::from(input.u8() % 4));
                self.receive(match input.u8() & 1 {
                    0 => Received::DamagedBatch { producer, seq, attempt, expected: 1, found: 2 },
                    _ => Received::OversizedBatch { producer, seq, attempt, length: 65, max: 64 },
                });
            }
            7 | 8 => {
                if self.tickets.is_empty() {
                    return;
                }
                let which = usize::from(input.u8()) % self.tickets.len();
                let (ticket, producer, life, seq) = self.tickets.remove(which);
                let code = CODES.get(usize::from(input.u8() % 8));
                let outcome = code.map_or(Ok(()), |code| Err(Refusal::new(*code, "no")));
                if let Some((_, owed)) = self.owed.get_mut(&producer).filter(|(now, _)| *now == life && outcome.is_ok())
                {
                    owed.done.insert(seq);
                }
                self.session.settled(ticket, outcome);
            }
            9 => {
                self.now += Duration::from_millis(u64::from(input.u16()) * 10);
                self.session.tick(self.now);
            }
            10 => match input.u8() % 4 {
                0 => self.session.drain(CloseCode::ShuttingDown, "bye", Duration::from_secs(5), self.now),
                1 => self.session.fence(producer(input)),
                2 => self.session.close(CloseCode::Done, String::new()),
                _ => self.session.finish(),
            },
            _ => self.frame(any_frame(input)),
        }
    }

    fn frame(&mut self, frame: Frame) {
        self.receive(Received::Frame(frame));
    }

    fn receive(&mut self, received: Received) {
        // A caller stops reading when it is told so, but what the reader has is handed on.
        self.session.receive(received, self.now, 5);
        self.drain();
    }

    fn drain_quietly(&mut self) {
        while let Some(action) = self.session.poll() {
            assert!(!self.closed || !matches!(action, Action::Close { .. }), "a lane ends once");
            self.closed |= matches!(action, Action::Close { .. });
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.session.poll() {
            assert!(!self.closed, "{action:?} after the end");
            match action {
                Action::LookUp { producer, devices } => {
                    self.lives += 1;
                    self.owed.insert(producer, (self.lives, Owed::default()));
                    self.session.resumed(producer, vec![0; devices.len()]);
                }
                Action::Submit(submission) => {
                    let (life, owed) = self.owed.get_mut(&submission.producer).expect("a batch comes after its resume");
                    owed.submitted.insert(submission.seq);
                    self.tickets.push((submission.ticket, submission.producer, *life, submission.seq));
                }
                Action::Send(Frame::Ack { producer, seq }) => {
                    let (_, owed) = self.owed.get_mut(&producer).expect("an ack comes after its resume");
                    assert!(seq >= owed.acked, "acks never fall");
                    owed.acked = seq;
                    let open: Vec<_> = owed.submitted.range(..=seq).filter(|seq| !owed.done.contains(seq)).collect();
                    assert!(open.is_empty(), "ack {seq} covers {open:?}, which have no outcome");
                }
                Action::Send(frame) => {
                    if let Frame::Nack(Nack { producer, seq, retryable: false, .. }) = &frame
                        && let Some((life, owed)) = self.owed.get_mut(producer)
                    {
                        let copy =
                            self.tickets.iter().find(|(_, of, its, number)| (of, its, number) == (producer, life, seq));
                        assert_eq!(copy, None, "batch {seq} is refused for good while a copy is on its way");
                        owed.done.insert(*seq);
                    }
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes);
                }
                Action::Skip { .. } => {}
                Action::Close { .. } => self.closed = true,
            }
        }
        assert_eq!(self.session.in_flight(), self.tickets.len(), "tickets that are open");
    }
}

fn number(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        small => u64::from(small % 16),
    }
}

fn any_frame(input: &mut Input<'_>) -> Frame {
    let producer = ProducerId(u128::from(input.u8() % 3));
    match input.u8() % 6 {
        0 => Frame::Welcome(Welcome {
            version: u16::from(input.u8() % 3),
            shard_count: u32::from(input.u8() % 3),
            max_frame_bytes: input.u32(),
            max_rows: input.u32(),
            max_in_flight_bytes: u32::from(input.u16()),
            max_in_flight_batches: u32::from(input.u8() % 6),
            idle_ms: 0,
            clock_ns: 0,
            max_future_ns: 0,
            software: String::new(),
        }),
        1 => {
            let count = usize::from(input.u8() % 4);
            Frame::Resumed { producer, settled: (0..count).map(|_| number(input)).collect() }
        }
        2 => Frame::Ack { producer, seq: number(input) },
        3 => {
            let code = CODES[usize::from(input.u8()) % CODES.len()];
            Frame::Nack(Nack {
                producer,
                seq: number(input),
                attempt: u32::from(input.u8() % 4),
                code,
                retryable: input.u8() & 1 == 1,
                retry_after_ms: u32::from(input.u16()),
                message: String::new(),
            })
        }
        4 => Frame::GoAway(GoAway { reason: CloseCode::ShuttingDown, drain_ms: 1, message: String::new() }),
        _ => Frame::Hello(Hello { version_min: 1, version_max: 1, software: String::new() }),
    }
}

/// What the sender's end was given and has told of.
#[derive(Default)]
struct Sender {
    /// Batches without an outcome, and their bytes.
    open: BTreeMap<u64, usize>,
    /// What the newest connection has sent and not been told of.
    limits: Option<Welcome>,
}

/// The sender's end of a lane under whatever a node may say.
///
/// # Panics
/// When a batch has two outcomes or gets lost, counts are wrong, or more is sent than the node takes.
pub fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let config = ClientConfig { max_buffered_batches: 8, max_buffered_bytes: 300, ..ClientConfig::default() };
    let config = ClientConfig { resend_settled: input.u8() & 1 == 1, ..config };
    let producer = ProducerId(1);
    let mut session = ClientSession::new(config, producer, None);
    let (mut sender, mut now) = (Sender::default(), Duration::from_secs(1));
    while !input.is_empty() {
        match input.u8() % 10 {
            0 | 1 => {
                let (len, shard) = (usize::from(input.u8() % 100), u32::from(input.u8() % 3));
                let pushed = session.push(vec![1; len].into(), 1, "truck", shard, Durability::Durable);
                if let Ok(seq) = pushed {
                    assert_eq!(sender.open.insert(seq, len), None, "numbers rise");
                }
            }
            2 => session.connected(),
            3 => session.disconnected(),
            4 => now += Duration::from_millis(u64::from(input.u16())),
            5 => {
                let len = usize::from(input.u8());
                let mut bytes = input.take(len).to_vec();
                sums::frames(&mut bytes);
                let mut reader = FrameReader::new(0);
                reader.feed(bytes.into());
                while let Ok(Some(received)) = reader.next() {
                    session.receive(received, now);
                }
            }
            _ => session.receive(Received::Frame(own_frame(&mut input)), now),
        }
        let _ = session.wakeup(now);
        while let Some(event) = session.poll_event() {
            match event {
                ClientEvent::Settled(batch) | ClientEvent::Refused { batch, .. } => {
                    assert_eq!(sender.open.remove(&batch.seq), Some(batch.payload.len()), "one outcome a batch");
                }
                ClientEvent::Welcome(welcome) => sender.limits = Some(welcome),
                _ => {}
            }
        }
        for _ in 0..32 {
            let Some(frame) = session.poll_send(now) else { break };
            if let Frame::Batch(batch) = &frame {
                assert_eq!(sender.open.get(&batch.seq), Some(&batch.payload.len()), "only what has no outcome is sent");
                let limits = sender.limits.as_ref().expect("batches go after the welcome");
                let (batches, bytes) = session.in_flight();
                let within =
                    batches <= limits.max_in_flight_batches as usize && bytes <= limits.max_in_flight_bytes as usize;
                assert!(batches == 1 || within, "{batches} batches with {bytes} bytes are on their way");
            }
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
        }
        assert_eq!(session.buffered(), (sender.open.len(), sender.open.values().sum()), "what waits");
        assert!(session.in_flight().0 <= sender.open.len());
    }
    let left: Vec<u64> = session.into_unsettled().iter().map(|batch| batch.seq).collect();
    assert_eq!(left, sender.open.keys().copied().collect::<Vec<_>>(), "what is left, in order");
}

/// A frame that mostly is for this sender.
fn own_frame(input: &mut Input<'_>) -> Frame {
    let stray = input.u8().is_multiple_of(16);
    let mut frame = any_frame(input);
    if let Frame::Welcome(welcome) = &mut frame {
        (welcome.version, welcome.shard_count) = if stray { (welcome.version, welcome.shard_count) } else { (1, 1) };
    }
    if !stray {
        match &mut frame {
            Frame::Resumed { producer, .. } | Frame::Ack { producer, .. } => *producer = ProducerId(1),
            Frame::Nack(nack) => nack.producer = ProducerId(1),
            _ => {}
        }
    }
    frame
}
