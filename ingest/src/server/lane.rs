//! Owns one lane: moves bytes between its stream, the session and the store; the rules of the protocol are the session's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tidewell_codec::{Batch, BatchError, decode_batch};
use tidewell_engine as engine;
use tokio::time::{Sleep, sleep_until, timeout};

use super::mailbox::{InFlight, Letter, Mailbox};
use super::memory::{Reserving, Share};
use super::metrics::Level;
use super::{Inner, Phase};
use crate::grants::WriteGuard;
use crate::identity::Peer;
use crate::session::{Action, Refusal, ServerConfig as SessionConfig, ServerSession, Submission};
use crate::wire::{CloseCode, Durability, Frame, FrameReader, ProducerId, RejectCode};

/// Chunks taken from the stream at a time; each is at most a packet.
const CHUNKS: usize = 64;
/// Bytes that may wait to be written; a client that does not read its acks is not read either.
const OUT_BYTES_MAX: usize = 256 << 10;
/// A lane with less than this of an unfinished frame is never ended for want of memory.
const PARTIAL_FRAME_FREE: usize = 64 << 10;
/// Decoded bytes for a payload byte, before a lane has shown its own.
const EXPANSION_GUESS: usize = 4;
/// Waits between attempts to hand a batch to a full queue.
const QUEUE_WAIT: Duration = Duration::from_millis(2);
/// How long the last words of a lane may take to arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Serves one lane until it ends.
pub(super) async fn run(inner: Arc<Inner>, peer: Arc<Peer>, send: SendStream, recv: RecvStream) {
    let id = inner.lane_next.fetch_add(1, Ordering::Relaxed);
    let mailbox = Arc::new(Mailbox::new(inner.memory.clone(), inner.metrics.clone()));
    inner.lanes.lock().insert(id, mailbox.clone());
    let level = Level::raise(&inner.metrics.lanes);
    let session = ServerSession::new(session_config(&inner), inner.started.elapsed());
    let timer_at = Instant::now() + inner.config.first_frame_timeout;
    let mut lane = Lane {
        id,
        reader: FrameReader::new(session.max_frame_bytes()),
        guard: WriteGuard::new(inner.grants.clone(), peer.clone()),
        inner: &inner,
        mailbox,
        session,
        send,
        recv,
        recv_ended: false,
        out: Vec::new(),
        out_written: 0,
        waiting: None,
        unread: Share::new(&inner.unread_bytes),
        claimed: Vec::new(),
        expansion: EXPANSION_GUESS,
        timer: Box::pin(sleep_until(timer_at.into())),
        timer_at,
    };
    match lane.serve().await {
        End::Closed { code, message } => {
            inner.metrics.lane_end(code);
            if code == CloseCode::Done {
                tracing::trace!(%peer, lane = id, "lane done");
            } else {
                tracing::info!(%peer, lane = id, %code, message, "lane ended");
            }
            lane.hang_up(code).await;
        }
        End::Lost => tracing::debug!(%peer, lane = id, "lane lost"),
    }
    for &producer in &lane.claimed {
        inner.producers(producer).lock().release(producer, id);
    }
    inner.lanes.lock().remove(&id);
    drop(level);
}

fn session_config(inner: &Inner) -> SessionConfig {
    let config = &inner.config;
    let u32_of = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    SessionConfig {
        shard_count: inner.store.shard_count(),
        max_frame_bytes: u32_of(config.batch.payload),
        max_rows: u32_of(config.batch.rows),
        max_in_flight_bytes: config.lane_bytes_in_flight,
        max_in_flight_batches: config.lane_batches_in_flight,
        max_producers: config.lane_producers_max,
        hello_timeout: config.first_frame_timeout,
        idle: config.lane_idle,
        max_future: config.max_future,
        ..SessionConfig::default()
    }
}

enum End {
    /// The session ended it.
    Closed { code: CloseCode, message: String },
    /// The stream or connection is gone.
    Lost,
}

/// A batch that cannot go on yet. Meanwhile nothing is read.
enum Waiting {
    Memory { submission: Submission, reserved: u32, ready: Reserving },
    Queue { submission: Submission, since: Instant, next: Instant },
}

struct Lane<'a> {
    id: u64,
    inner: &'a Arc<Inner>,
    guard: WriteGuard,
    mailbox: Arc<Mailbox>,
    session: ServerSession,
    reader: FrameReader,
    send: SendStream,
    recv: RecvStream,
    recv_ended: bool,
    out: Vec<u8>,
    out_written: usize,
    waiting: Option<Waiting>,
    unread: Share<'a>,
    claimed: Vec<ProducerId>,
    expansion: usize,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
}

/// What woke the lane.
enum Event {
    Letters,
    Written(usize),
    Chunks(usize),
    Finished,
    Lost,
    MemoryFree,
    Time,
}

impl Lane<'_> {
    async fn serve(&mut self) -> End {
        let mut bufs: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
        let mut letters = Vec::new();
        // The lane stands in the registry by now, so an end of the node that begins later comes by letter.
        self.drain();
        loop {
            if let Some(end) = self.advance().await {
                return end;
            }
            match self.wait(&mut bufs).await {
                Event::Letters => {
                    self.mailbox.take(&mut letters);
                    for letter in letters.drain(..) {
                        match letter {
                            Letter::Settled(ticket, outcome) => {
                                self.settle(ticket, outcome.map_err(refusal_of_engine));
                            }
                            Letter::Fenced(producer) => self.session.fence(producer),
                            Letter::Stopping => self.drain(),
                        }
                    }
                }
                Event::Written(count) => {
                    self.out_written += count;
                    if self.out_written == self.out.len() {
                        self.out.clear();
                        self.out_written = 0;
                    }
                }
                Event::Chunks(count) => {
                    for buf in &mut bufs[..count] {
                        self.reader.feed(std::mem::take(buf));
                    }
                    self.unread.set(self.reader.buffered());
                }
                Event::Finished => {
                    self.recv_ended = true;
                    self.session.finish();
                }
                Event::MemoryFree => {
                    if let Some(Waiting::Memory { submission, reserved, .. }) = self.waiting.take() {
                        self.hand_over(submission, reserved, None);
                    }
                }
                Event::Time => self.on_time(),
                Event::Lost => return End::Lost,
            }
        }
    }

    /// Does what the session wants until it wants nothing, feeding it the frames that are there.
    async fn advance(&mut self) -> Option<End> {
        loop {
            while let Some(action) = self.session.poll() {
                match action {
                    Action::Send(frame) => {
                        if let Frame::Nack(nack) = &frame {
                            self.inner.metrics.nack(nack.code);
                        }
                        frame.encode(&mut self.out);
                    }
                    Action::Submit(submission) => self.submit(submission),
                    Action::Skip { producer, seq } => {
                        let producers = self.inner.producers(producer).lock();
                        if producers.owns(producer, self.id) {
                            self.inner.store.skip(engine::ProducerId(producer.0), engine::SeqNo(seq));
                        }
                    }
                    Action::LookUp { producer, devices } => self.look_up(producer, &devices),
                    Action::Close { code, message } => return Some(End::Closed { code, message }),
                }
            }
            if !self.may_read() {
                return None;
            }
            match self.reader.next() {
                Ok(Some(received)) => {
                    self.session.receive(received, self.inner.started.elapsed(), unix_ns());
                    // A lane whose input never ends lets others run.
                    tokio::task::consume_budget().await;
                }
                Ok(None) => {
                    let partial = self.reader.buffered();
                    let unread = self.unread.set(partial);
                    if partial <= PARTIAL_FRAME_FREE || unread <= self.inner.config.memory_bytes as u64 {
                        return None;
                    }
                    // Frames that are not whole hold memory that no settlement gives back, so they have a bound of
                    // their own, and it ends lanes instead of letting them wait for each other.
                    self.session.close(CloseCode::Internal, "the node's receive buffers are full".into());
                }
                Err(error) => self.session.broken(&error),
            }
        }
    }

    fn may_read(&self) -> bool {
        self.waiting.is_none() && self.out.len() < OUT_BYTES_MAX && self.session.wants_read()
    }

    async fn wait(&mut self, bufs: &mut [Bytes]) -> Event {
        let may_read = self.may_read() && !self.recv_ended;
        let to_write = &self.out[self.out_written..];
        let mut deadline = self.session.deadline().map(|at| self.inner.started + at);
        let mut memory = None;
        match &mut self.waiting {
            Some(Waiting::Memory { ready, .. }) => memory = Some(ready),
            Some(Waiting::Queue { next, .. }) => deadline = Some(deadline.map_or(*next, |at| at.min(*next))),
            None => {}
        }
        let has_memory = memory.is_some();
        // Deadlines mostly move away with every frame. The timer is left where it is, and fires early for nothing
        // once in a while, because setting it costs more than a frame.
        if let Some(at) = deadline
            && (at < self.timer_at || self.timer.is_elapsed())
        {
            self.timer_at = at;
            self.timer.as_mut().reset(at.into());
        }
        tokio::select! {
            biased;
            () = self.mailbox.wait() => Event::Letters,
            result = self.send.write(to_write), if !to_write.is_empty() => {
                result.map_or(Event::Lost, Event::Written)
            }
            () = async { if let Some(ready) = memory { ready.await } }, if has_memory => Event::MemoryFree,
            result = self.recv.read_chunks(bufs), if may_read => match result {
                Ok(Some(count)) => Event::Chunks(count),
                Ok(None) => Event::Finished,
                Err(_) => Event::Lost,
            },
            () = &mut self.timer, if deadline.is_some() => Event::Time,
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if let Some(Waiting::Queue { next, .. }) = &self.waiting
            && *next <= now
            && let Some(Waiting::Queue { submission, since, .. }) = self.waiting.take()
        {
            self.reserve(submission, Some(since));
        }
        self.session.tick(self.inner.started.elapsed());
    }

    /// When the node stops: asks the client to leave.
    fn drain(&mut self) {
        let phase = *self.inner.phase.borrow();
        if let Phase::Draining(deadline) = phase {
            let now = self.inner.started.elapsed();
            self.session.drain(CloseCode::ShuttingDown, "the node is stopping", deadline, now);
        }
    }

    fn look_up(&mut self, producer: ProducerId, devices: &[String]) {
        let mut producers = self.inner.producers(producer).lock();
        if let Some(before) = producers.claim(producer, self.id)
            && let Some(mailbox) = self.inner.lanes.lock().get(&before)
        {
            mailbox.post(Letter::Fenced(producer));
        }
        if !self.claimed.contains(&producer) {
            self.claimed.push(producer);
        }
        let id = engine::ProducerId(producer.0);
        let settled = devices.iter().map(|device| self.inner.store.last_settled(id, device).0).collect();
        drop(producers);
        self.session.resumed(producer, settled);
    }

    fn submit(&mut self, submission: Submission) {
        self.reserve(submission, None);
    }

    /// Takes memory for a batch, or begins to wait for it.
    fn reserve(&mut self, submission: Submission, queued_since: Option<Instant>) {
        // How much a batch grows when decoded is known only afterwards; the last one of the lane is a good guess.
        let estimate = submission.payload.len().saturating_mul(1 + self.expansion);
        let memory = &self.inner.memory;
        let reserved = memory.clamp(estimate);
        if memory.try_reserve(reserved) {
            self.hand_over(submission, reserved, queued_since);
        } else {
            self.inner.metrics.memory_waits.add(1);
            self.waiting = Some(Waiting::Memory { submission, reserved, ready: memory.reserve(reserved) });
        }
    }

    /// Decodes, checks and appends a batch whose memory is reserved.
    fn hand_over(&mut self, submission: Submission, reserved: u32, queued_since: Option<Instant>) {
        let inner = self.inner;
        let Submission { ticket, producer, seq, durability, payload } = submission;
        let received_ns = unix_ns();
        let batch = match self.judge(&payload, received_ns) {
            Ok(batch) => batch,
            Err(refusal) => {
                inner.memory.release(reserved as usize);
                return self.settle(ticket, Err(refusal));
            }
        };
        let rows = batch.times.len();
        let decoded = batch.memory_bytes();
        self.expansion = decoded.div_ceil(payload.len().max(1));
        let actual = payload.len() + decoded;
        let in_flight = InFlight {
            reserved: inner.memory.adjust(reserved, actual),
            payload: payload.len(),
            rows,
            values: rows * batch.fields.len(),
        };
        self.mailbox.expect(ticket, in_flight);
        let request = engine::Append {
            producer: engine::ProducerId(producer.0),
            seq: engine::SeqNo(seq),
            payload: payload.clone(),
            batch,
            received_ns,
            durability: match durability {
                Durability::Durable => engine::Durability::Durable,
                Durability::Received => engine::Durability::Received,
            },
            ticket,
            sink: self.mailbox.clone(),
        };
        let producers = inner.producers(producer).lock();
        let outcome = if producers.owns(producer, self.id) {
            inner.store.append(request).map_err(refusal_of_engine)
        } else {
            Err(Refusal::new(RejectCode::AfterRefused, format!("producer {producer} was resumed on another lane")))
        };
        drop(producers);
        let Err(refusal) = outcome else { return };
        self.mailbox.forget(ticket);
        let since = queued_since.unwrap_or_else(Instant::now);
        if refusal.code == RejectCode::Overloaded && since.elapsed() < inner.config.queue_wait_max {
            // Not reading is the better answer: flow control stops the sender, and its order stays as it is.
            if queued_since.is_none() {
                inner.metrics.queue_waits.add(1);
            }
            let submission = Submission { ticket, producer, seq, durability, payload };
            self.waiting = Some(Waiting::Queue { submission, since, next: Instant::now() + QUEUE_WAIT });
        } else {
            self.settle(ticket, Err(refusal));
        }
    }

    /// Everything that can refuse a batch before it reaches its shard.
    fn judge(&mut self, payload: &[u8], now_ns: i64) -> Result<Batch, Refusal> {
        let batch = decode_batch(payload, &self.inner.config.batch).map_err(|error| refusal_of_batch(&error))?;
        self.guard
            .check(batch.devices.iter().map(|(device, _)| device))
            .map_err(|denied| Refusal::new(RejectCode::NotAuthorised, denied.to_string()))?;
        self.inner.store.check(&batch, now_ns).map_err(refusal_of_engine)?;
        Ok(batch)
    }

    fn settle(&mut self, ticket: u64, outcome: Result<(), Refusal>) {
        self.session.settled(ticket, outcome);
    }

    /// Writes what is left, then ends both directions. The reset code of QUIC would discard what is on its way, so the
    /// sending side is finished; the reason stands in the goaway frame and in the code that stops the peer.
    async fn hang_up(&mut self, code: CloseCode) {
        let rest = &self.out[self.out_written..];
        let last_words = async {
            if self.send.write_all(rest).await.is_ok() && self.send.finish().is_ok() {
                self.send.stopped().await.ok();
            }
        };
        if !self.recv_ended {
            self.recv.stop(u32::from(code.value()).into()).ok();
        }
        timeout(LINGER, last_words).await.ok();
    }
}

fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn refusal_of_engine(refusal: engine::Refusal) -> Refusal {
    use engine::RefusalCode as Code;
    let (code, retry_after_ms) = match refusal.code {
        Code::Malformed => (RejectCode::Malformed, 0),
        Code::MixedShards => (RejectCode::MixedShards, 0),
        Code::TypeConflict => (RejectCode::TypeConflict, 0),
        Code::TooLarge => (RejectCode::TooLarge, 0),
        Code::DiskFull => (RejectCode::DiskFull, 1_000),
        Code::ShardPoisoned => (RejectCode::ShardPoisoned, 5_000),
        Code::Overloaded => (RejectCode::Overloaded, 50),
        Code::AfterRefused => (RejectCode::AfterRefused, 0),
        Code::ShuttingDown => (RejectCode::ShuttingDown, 1_000),
    };
    Refusal { code, message: refusal.message, retry_after_ms }
}

fn refusal_of_batch(error: &BatchError) -> Refusal {
    let code = match error {
        BatchError::Version { .. } => RejectCode::UnsupportedVersion,
        error if error.is_limit() => RejectCode::TooLarge,
        _ => RejectCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}
