//! Owns one lane of a client: moves parts from its queue through the session to the stream, and outcomes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, sleep_until};

use super::delivery::{Delivery, Rejected, Settled};
use super::link::{Backoff, LinkState, stopped};
use super::split::Part;
use super::{SendError, Shared};
use crate::session::{ClientConfig as SessionConfig, ClientEvent, ClientSession, OutBatch};
use crate::wire::{CloseCode, Durability, Frame, FrameReader, ProducerId, RejectCode};

/// Chunks taken from the stream at a time; only acknowledgements come.
const CHUNKS: usize = 16;
/// Pieces of frames given to the transport at a time.
const PIECES: usize = 64;

/// A part on its way to the lane's task.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub part: Part,
    pub durability: Durability,
    pub delivery: Delivery,
    pub accepted_at: Instant,
}

/// What senders and the lane's task share.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    /// Parts that may be taken on before one is settled.
    slots: Semaphore,
    /// Every part before this one, counted from the first, is settled.
    settled: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Outgoing>,
    count: u64,
    /// Why nothing is taken any more.
    closed: Option<String>,
}

impl Queue {
    pub fn new(slots: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            slots: Semaphore::new(slots),
            settled: watch::Sender::new(0),
        }
    }

    /// Waits for room.
    pub async fn room(&self) -> Result<(), SendError> {
        match self.slots.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.closed_error()),
        }
        Ok(())
    }

    fn closed_error(&self) -> SendError {
        SendError::Closed(self.state.lock().closed.clone().unwrap_or_else(|| "the client was closed".into()))
    }

    /// Puts in a part for which there is room.
    pub fn push(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            drop(state);
            return Err(self.closed_error());
        }
        state.parts.push_back(outgoing);
        state.count += 1;
        let first = state.parts.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until everything put in so far is settled.
    pub async fn flush(&self) -> Result<(), SendError> {
        let target = self.state.lock().count;
        let mut settled = self.settled.subscribe();
        settled.wait_for(|&settled| settled >= target).await.ok();
        if *settled.borrow() == u64::MAX && self.state.lock().closed.is_some() {
            return Err(self.closed_error());
        }
        Ok(())
    }

    /// Takes nothing more; gives what nobody will send.
    pub fn close(&self, reason: &str) -> VecDeque<Outgoing> {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| reason.to_owned());
        self.slots.close();
        std::mem::take(&mut state.parts)
    }
}

/// A part that the session has taken.
struct Pending {
    seq: u64,
    /// Its place among all parts of the lane, counted from 0.
    index: u64,
    delivery: Delivery,
    accepted_at: Instant,
    sent_at: Option<Instant>,
}

/// The task of one lane.
pub(super) struct Lane {
    pub shared: Arc<Shared>,
    pub queue: Arc<Queue>,
    pub link: watch::Receiver<LinkState>,
    pub stop: watch::Receiver<bool>,
    session: ClientSession,
    pending: VecDeque<Pending>,
    /// Parts taken out of the queue so far.
    taken: u64,
    backoff: Backoff,
    started: Instant,
    failed: Option<String>,
}

/// How one connection of the lane ended.
enum End {
    Again,
    /// The node did not greet in time.
    NoGreeting,
    Stopped,
}

impl Lane {
    pub fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        link: watch::Receiver<LinkState>,
        stop: watch::Receiver<bool>,
        producer: ProducerId,
        shard_count: u32,
    ) -> Self {
        let config = SessionConfig {
            software: shared.config.software.clone(),
            // Room is given out by the queue's permits.
            max_buffered_bytes: usize::MAX / 2,
            max_buffered_batches: usize::MAX / 2,
            // A refusal that was lost with its connection must not look like an acknowledgement; the node applies
            // nothing twice, so this costs only the bytes in flight.
            resend_settled: true,
            ..SessionConfig::default()
        };
        let backoff = Backoff::new(shared.config.backoff_min, shared.config.backoff_max);
        Self {
            shared,
            queue,
            link,
            stop,
            session: ClientSession::new(config, producer, Some(shard_count)),
            pending: VecDeque::new(),
            taken: 0,
            backoff,
            started: Instant::now(),
            failed: None,
        }
    }

    /// Runs until the client is closed.
    pub async fn run(mut self) {
        let reason = loop {
            let connection = tokio::select! {
                connection = self.link.wait_for(Option::is_some) => match connection {
                    Ok(connection) => connection.clone(),
                    Err(_) => break "the client was closed".to_owned(),
                },
                () = stopped(&mut self.stop) => break "the client was closed".to_owned(),
            };
            let Some(connection) = connection else { continue };
            let streams = tokio::select! {
                streams = connection.open_bi() => streams,
                () = stopped(&mut self.stop) => break "the client was closed".to_owned(),
            };
            if let Ok((send, recv)) = streams {
                let end = self.converse(send, recv).await;
                self.session.disconnected();
                if let Some(reason) = self.failed.take() {
                    break reason;
                }
                match end {
                    End::Stopped => break "the client was closed".to_owned(),
                    // A node that died between its part of the handshake and ours leaves a connection that looks alive:
                    // its successor cannot reset what it never finished. Without this it would last until QUIC's idle
                    // timeout, however often a lane is opened on it.
                    End::NoGreeting => {
                        connection.close(u32::from(CloseCode::IdleTimeout.value()).into(), b"no greeting in time");
                    }
                    End::Again => {}
                }
            }
            let wait = self.backoff.wait();
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut self.stop) => break "the client was closed".to_owned(),
            }
        };
        self.give_up(&reason);
    }

    /// Speaks on one stream until it ends.
    async fn converse(&mut self, mut send: SendStream, mut recv: RecvStream) -> End {
        let mut reader = FrameReader::new(0);
        let mut bufs: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
        let mut out: Vec<Bytes> = Vec::new();
        let mut out_done = 0;
        let mut finished = false;
        let greeting_by = Instant::now() + self.shared.config.handshake_timeout;
        let mut leave_by: Option<Instant> = None;
        self.session.connected();
        loop {
            self.take_queue();
            if out_done == out.len() {
                out.clear();
                out_done = 0;
            }
            self.fill(&mut out);
            while let Some(event) = self.session.poll_event() {
                match self.on_event(event) {
                    Next::Go => {}
                    Next::Leave(within) => leave_by = Some(Instant::now() + within),
                    Next::Reconnect => return End::Again,
                }
            }
            let idle = out_done == out.len();
            if leave_by.is_some() && idle && !finished && self.session.in_flight().0 == 0 {
                finished = true;
                if send.finish().is_err() {
                    return End::Again;
                }
            }
            let mut wake_at = self.session.wakeup(self.started.elapsed()).map(|at| self.started + at);
            if let Some(until) = leave_by {
                wake_at = Some(wake_at.map_or(until, |at| at.min(until)));
            } else if !self.session.is_open() {
                wake_at = Some(greeting_by);
            }
            tokio::select! {
                biased;
                result = recv.read_chunks(&mut bufs) => match result {
                    Ok(Some(count)) => {
                        for buf in &mut bufs[..count] {
                            reader.feed(std::mem::take(buf));
                        }
                        loop {
                            match reader.next() {
                                Ok(Some(received)) => self.session.receive(received, self.started.elapsed()),
                                Ok(None) => break,
                                Err(error) => {
                                    tracing::warn!(%error, "the node broke the framing");
                                    recv.stop(u32::from(error.close_code().value()).into()).ok();
                                    return End::Again;
                                }
                            }
                        }
                    }
                    Ok(None) | Err(_) => return End::Again,
                },
                result = send.write_chunks(&mut out[out_done..]), if !idle => match result {
                    Ok(written) => out_done += written.chunks,
                    Err(_) => return End::Again,
                },
                () = self.queue.wake.notified() => {}
                () = async { if let Some(at) = wake_at { sleep_until(at.into()).await } }, if wake_at.is_some() => {
                    let now = Instant::now();
                    if leave_by.is_some_and(|until| now >= until) {
                        return End::Again;
                    }
                    if leave_by.is_none() && !self.session.is_open() && now >= greeting_by {
                        return End::NoGreeting;
                    }
                }
                () = stopped(&mut self.stop) => {
                    send.finish().ok();
                    return End::Stopped;
                }
            }
        }
    }

    /// Moves what senders put in into the session.
    fn take_queue(&mut self) {
        let parts = std::mem::take(&mut self.queue.state.lock().parts);
        for Outgoing { part, durability, delivery, accepted_at } in parts {
            let index = self.taken;
            self.taken += 1;
            let Part { shard, device, rows, payload } = part;
            let bytes = payload.len();
            match self.session.push(payload, rows, &device, shard, durability) {
                Ok(seq) => self.pending.push_back(Pending { seq, index, delivery, accepted_at, sent_at: None }),
                Err(error) => {
                    // The node came back with smaller limits than the part was made for.
                    let message = error.to_string();
                    self.reject(&delivery, Rejected { code: RejectCode::TooLarge, message, device, rows });
                    self.shared.free(&self.queue.slots, bytes);
                    self.publish();
                }
            }
        }
    }

    /// Takes the frames that may be written now.
    fn fill(&mut self, out: &mut Vec<Bytes>) {
        while out.len() < PIECES {
            let Some(frame) = self.session.poll_send(self.started.elapsed()) else { return };
            if let Frame::Batch(batch) = &frame
                && let Ok(index) = self.pending.binary_search_by_key(&batch.seq, |pending| pending.seq)
            {
                self.pending[index].sent_at.get_or_insert_with(Instant::now);
            }
            out.extend(frame.to_chunks().into_iter().filter(|chunk| !chunk.is_empty()));
        }
    }

    fn on_event(&mut self, event: ClientEvent) -> Next {
        match event {
            ClientEvent::Welcome(_) => {}
            ClientEvent::Ready => self.backoff.reset(),
            ClientEvent::Settled(batch) => self.settled(&batch),
            ClientEvent::Refused { batch, code, message } => {
                if let Some(pending) = self.take_pending(batch.seq) {
                    let OutBatch { device, rows, .. } = batch;
                    self.reject(&pending.delivery, Rejected { code, message, device, rows });
                    self.shared.free(&self.queue.slots, batch.payload.len());
                    self.publish();
                }
            }
            ClientEvent::Retrying { seq, code, message, wait } => {
                self.shared.stats.retries.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(seq, %code, message, ?wait, "the node asks to retry");
            }
            ClientEvent::GoAway(goaway) => {
                tracing::debug!(reason = %goaway.reason, message = goaway.message, "the node ends the lane");
                return Next::Leave(Duration::from_millis(u64::from(goaway.drain_ms)));
            }
            ClientEvent::ShardCountChanged { before, now } => {
                self.failed = Some(format!(
                    "the node at this address has {now} shards, the batches were split for {before}: it is another \
                     data directory; connect anew and send them again"
                ));
                return Next::Reconnect;
            }
            ClientEvent::Broken { code, message } => {
                tracing::warn!(%code, message, "the node broke the protocol");
                return Next::Reconnect;
            }
        }
        Next::Go
    }

    fn settled(&mut self, batch: &OutBatch) {
        let Some(pending) = self.take_pending(batch.seq) else { return };
        let now = Instant::now();
        let payload_bytes = batch.payload.len();
        let stats = &self.shared.stats;
        stats.batches.fetch_add(1, Ordering::Relaxed);
        stats.rows.fetch_add(u64::from(batch.rows), Ordering::Relaxed);
        stats.payload_bytes.fetch_add(payload_bytes as u64, Ordering::Relaxed);
        self.shared.observer.settled(&Settled {
            rows: batch.rows,
            payload_bytes,
            accepted_at: pending.accepted_at,
            sent_at: pending.sent_at.unwrap_or(pending.accepted_at),
            settled_at: now,
        });
        pending.delivery.part_done(Ok(()));
        self.shared.free(&self.queue.slots, payload_bytes);
        self.publish();
    }

    fn take_pending(&mut self, seq: u64) -> Option<Pending> {
        if self.pending.front().is_some_and(|pending| pending.seq == seq) {
            return self.pending.pop_front();
        }
        let index = self.pending.binary_search_by_key(&seq, |pending| pending.seq).ok()?;
        self.pending.remove(index)
    }

    fn reject(&self, delivery: &Delivery, rejected: Rejected) {
        self.shared.stats.rejected.fetch_add(1, Ordering::Relaxed);
        self.shared.stats.rejected_rows.fetch_add(u64::from(rejected.rows), Ordering::Relaxed);
        self.shared.observer.rejected(&rejected);
        delivery.part_done(Err(rejected));
    }

    /// Tells flushers how far settlement has come: to the oldest part that is pending.
    fn publish(&self) {
        let settled = self.pending.front().map_or(self.taken, |front| front.index);
        self.queue.settled.send_if_modified(|before| {
            let rises = settled > *before;
            *before = settled.max(*before);
            rises
        });
    }

    /// Nothing will be sent any more: whoever waits is told.
    fn give_up(mut self, reason: &str) {
        let rest = self.queue.close(reason);
        let untaken = rest.into_iter().map(|out| (out.delivery, out.part.device, out.part.rows));
        let mut session = std::mem::replace(
            &mut self.session,
            ClientSession::new(SessionConfig::default(), ProducerId::default(), None),
        );
        session.disconnected();
        let unsettled = session.into_unsettled();
        let pending = std::mem::take(&mut self.pending).into_iter().zip(unsettled);
        let lost: Vec<_> = pending.map(|(p, batch)| (p.delivery, batch.device, batch.rows)).chain(untaken).collect();
        for (delivery, device, rows) in lost {
            let message = format!("not acknowledged: {reason}");
            self.reject(&delivery, Rejected { code: RejectCode::Internal, message, device, rows });
        }
        self.queue.settled.send_replace(u64::MAX);
    }
}

enum Next {
    Go,
    /// End the lane once what is in flight is settled, at the latest after this.
    Leave(Duration),
    Reconnect,
}
