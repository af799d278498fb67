//! Tests of both ends of a lane, driven in memory with made-up time.

use std::time::Duration;

use ::bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::wire::{BatchFrame, CloseCode, Durability, Frame, Hello, Nack, ProducerId, Received, RejectCode};

mod world;
use world::{Faults, World};

const P: ProducerId = ProducerId(5);
const T0: Duration = Duration::from_secs(100);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn actions(session: &mut ServerSession) -> Vec<Action> {
    std::iter::from_fn(|| session.poll()).collect()
}

fn batch(seq: u64, attempt: u32) -> Received {
    let payload = Bytes::from_static(b"rows");
    Received::Frame(Frame::Batch(BatchFrame { producer: P, seq, attempt, durability: Durability::Durable, payload }))
}

fn hello(min: u16, max: u16) -> Received {
    Received::Frame(Frame::Hello(Hello { version_min: min, version_max: max, software: "test".into() }))
}

/// A session that has greeted and opened the producer.
fn open() -> ServerSession {
    let mut session = ServerSession::new(ServerConfig { max_in_flight_batches: 4, ..ServerConfig::default() }, T0);
    session.receive(hello(1, 1), T0, 0);
    session.receive(Received::Frame(Frame::Resume { producer: P, devices: vec![] }), T0, 0);
    let all = actions(&mut session);
    assert!(matches!(all[..], [Action::Send(Frame::Welcome(_)), Action::LookUp { .. }]), "{all:?}");
    session.resumed(P, vec![]);
    assert_eq!(actions(&mut session), [Action::Send(Frame::Resumed { producer: P, settled: vec![] })]);
    session
}

/// Sends a batch that has to be handed on and gives its ticket.
fn submit(session: &mut ServerSession, seq: u64, attempt: u32) -> u64 {
    session.receive(batch(seq, attempt), T0, 0);
    match &actions(session)[..] {
        [Action::Submit(submission)] if submission.seq == seq => submission.ticket,
        other => panic!("{other:?}"),
    }
}

fn ack(seq: u64) -> Action {
    Action::Send(Frame::Ack { producer: P, seq })
}

fn nacked(actions: &[Action]) -> Vec<(u64, u32, RejectCode)> {
    let nack = |action: &Action| match action {
        Action::Send(Frame::Nack(nack)) => Some((nack.seq, nack.attempt, nack.code)),
        _ => None,
    };
    actions.iter().filter_map(nack).collect()
}

fn full() -> Result<(), Refusal> {
    Err(Refusal::new(RejectCode::DiskFull, "full"))
}

/// The code with which a lane ended, after a goaway that says the same.
fn closed(session: &mut ServerSession) -> CloseCode {
    let all = actions(session);
    let [.., Action::Send(Frame::GoAway(goaway)), Action::Close { code, .. }] = &all[..] else { panic!("{all:?}") };
    assert_eq!(goaway.reason, *code);
    assert!(session.is_closed() && !session.wants_read());
    *code
}

#[test]
fn nothing_comes_after_the_end_of_a_lane() {
    for outcome in
        [Ok(()), Err(Refusal::new(RejectCode::Malformed, "no")), Err(Refusal::new(RejectCode::DiskFull, "full"))]
    {
        let mut session = open();
        let ticket = submit(&mut session, 1, 0);
        session.fence(P);
        assert!(matches!(actions(&mut session)[..], [Action::Send(Frame::GoAway(_)), Action::Close { .. }]));
        session.settled(ticket, outcome);
        assert_eq!((actions(&mut session), session.in_flight()), (vec![], 0));
    }
}

#[test]
fn acks_are_cumulative_whatever_the_order_of_completion() {
    let mut session = open();
    let tickets: Vec<u64> = [2, 5, 9].into_iter().map(|seq| submit(&mut session, seq, 0)).collect();
    session.settled(tickets[2], Ok(()));
    assert_eq!(actions(&mut session), []);
    session.settled(tickets[0], Ok(()));
    assert_eq!(actions(&mut session), [ack(2)]);
    session.settled(tickets[1], Ok(()));
    assert_eq!(actions(&mut session), [ack(9)]);
}

#[test]
fn a_permanent_refusal_counts_as_settled() {
    let mut session = open();
    let tickets: Vec<u64> = (1..=3).map(|seq| submit(&mut session, seq, 0)).collect();
    session.settled(tickets[1], Err(Refusal::new(RejectCode::TypeConflict, "v: has f64, got utf8")));
    let all = actions(&mut session);
    assert_eq!(all[0], Action::Skip { producer: P, seq: 2 });
    assert_eq!(nacked(&all), [(2, 0, RejectCode::TypeConflict)]);
    session.settled(tickets[2], Ok(()));
    session.settled(tickets[0], Ok(()));
    assert_eq!(actions(&mut session), [ack(3)]);
}

#[test]
fn a_retryable_refusal_holds_the_ack_and_everything_after_it() {
    let mut session = open();
    let tickets: Vec<u64> = (1..=3).map(|seq| submit(&mut session, seq, 0)).collect();
    session.settled(tickets[0], Ok(()));
    session.settled(tickets[1], full());
    let all = actions(&mut session);
    assert_eq!(nacked(&all), [(2, 0, RejectCode::DiskFull)]);
    assert_eq!(all.last(), Some(&ack(1)));
    session.receive(batch(4, 0), T0, 0);
    assert_eq!(nacked(&actions(&mut session)), [(4, 0, RejectCode::AfterRefused)]);
    session.settled(tickets[2], Ok(())); // another shard
    assert_eq!(actions(&mut session), []);
    let again = submit(&mut session, 2, 1);
    session.receive(batch(3, 1), T0, 0);
    assert_eq!(actions(&mut session), [], "3 was settled meanwhile and is not handed on again");
    let four = submit(&mut session, 4, 1);
    session.settled(again, Ok(()));
    session.settled(four, Ok(()));
    assert_eq!(actions(&mut session), [ack(4)]);
}

#[test]
fn a_refusal_of_an_earlier_copy_is_not_told() {
    let mut session = open();
    let (one, two) = (submit(&mut session, 1, 0), submit(&mut session, 2, 0));
    session.settled(one, full());
    assert_eq!(nacked(&actions(&mut session)).len(), 1);
    let one = submit(&mut session, 1, 1);
    // The sender has gone back to 1, so 2 comes again whether or not it has arrived yet.
    session.settled(two, Err(Refusal::new(RejectCode::AfterRefused, "")));
    assert_eq!(actions(&mut session), []);
    let two = submit(&mut session, 2, 1);
    session.settled(one, Ok(()));
    session.settled(two, Ok(()));
    assert_eq!(actions(&mut session), [ack(2)]);
}

#[test]
fn a_refused_copy_whose_earlier_copy_was_taken_is_not_waited_for() {
    let mut session = open();
    let (one, two) = (submit(&mut session, 1, 0), submit(&mut session, 2, 0));
    session.settled(one, full());
    actions(&mut session);
    let (one, again) = (submit(&mut session, 1, 1), submit(&mut session, 2, 1));
    // The second copy of 2 finds a full queue while the first is still in it.
    session.settled(again, Err(Refusal::new(RejectCode::Overloaded, "")));
    session.settled(two, Ok(()));
    session.settled(one, Ok(()));
    assert_eq!(actions(&mut session).last(), Some(&ack(2)));
    // So 2 will not come again, and 3 may go on.
    submit(&mut session, 3, 1);
}

#[test]
fn a_copy_refused_for_good_while_another_is_on_its_way_ends_the_lane() {
    // Found by the fuzzing target `server_session`: 1 was acknowledged as refused, and then applied.
    let mut session = open();
    submit(&mut session, 1, 0);
    session.receive(Received::OversizedBatch { producer: P, seq: 1, attempt: 1, length: 65, max: 64 }, T0, 0);
    assert_eq!(closed(&mut session), CloseCode::UnexpectedFrame);

    let mut session = open();
    submit(&mut session, 1, 0);
    let again = submit(&mut session, 1, 1);
    session.settled(again, Err(Refusal::new(RejectCode::TypeConflict, "")));
    assert_eq!(closed(&mut session), CloseCode::UnexpectedFrame);
}

#[test]
fn of_two_copies_on_their_way_the_newer_decides() {
    for refusal in [RejectCode::TypeConflict, RejectCode::DiskFull] {
        let mut session = open();
        let (one, again) = (submit(&mut session, 1, 0), submit(&mut session, 1, 1));
        session.settled(one, Err(Refusal::new(refusal, "")));
        assert_eq!(actions(&mut session), []);
        session.settled(again, Ok(()));
        assert_eq!(actions(&mut session), [ack(1)]);
    }
}

#[test]
fn what_came_after_a_refused_one_comes_again_even_when_the_refused_one_need_not() {
    let mut session = open();
    let (one, two) = (submit(&mut session, 1, 0), submit(&mut session, 2, 0));
    session.settled(one, full());
    actions(&mut session);
    let (one, again) = (submit(&mut session, 1, 1), submit(&mut session, 2, 1));
    session.settled(again, Err(Refusal::new(RejectCode::Overloaded, "")));
    session.receive(batch(3, 1), T0, 0);
    session.settled(two, Ok(()));
    session.settled(one, Ok(()));
    let all = actions(&mut session);
    assert_eq!(nacked(&all).last(), Some(&(3, 1, RejectCode::AfterRefused)));
    assert_eq!(all.last(), Some(&ack(2)));
    // Were 4 taken now, its shard would take 3 for a repetition.
    session.receive(batch(4, 1), T0, 0);
    assert_eq!(nacked(&actions(&mut session)), [(4, 1, RejectCode::AfterRefused)]);
    let (three, four) = (submit(&mut session, 3, 2), submit(&mut session, 4, 2));
    session.settled(three, Ok(()));
    session.settled(four, Ok(()));
    assert_eq!(actions(&mut session), [ack(4)]);
}

#[test]
fn a_client_that_ignores_refusals_is_stopped() {
    let mut session = open();
    let one = submit(&mut session, 1, 0);
    session.settled(one, full());
    for seq in 2..=16 {
        session.receive(batch(seq, 0), T0, 0);
        assert_eq!(nacked(&actions(&mut session)).last(), Some(&(seq, 0, RejectCode::AfterRefused)));
    }
    session.receive(batch(17, 0), T0, 0);
    assert_eq!(closed(&mut session), CloseCode::WindowExceeded);
}

#[test]
fn numbers_must_rise() {
    let mut session = open();
    let five = submit(&mut session, 5, 0);
    session.receive(batch(5, 0), T0, 0);
    assert_eq!(actions(&mut session), [], "a repetition is answered with the first");
    session.receive(batch(4, 0), T0, 0);
    assert_eq!(nacked(&actions(&mut session)), [(4, 0, RejectCode::OutOfOrder)]);
    session.settled(five, Ok(()));
    assert_eq!(actions(&mut session), [ack(5)]);
    session.receive(batch(5, 0), T0, 0);
    assert_eq!(actions(&mut session), [ack(5)], "what is settled is acknowledged again");
    submit(&mut session, 6, 2);
    session.receive(batch(6, 1), T0, 0);
    assert_eq!(actions(&mut session), [], "not refused either while it may still be applied");
    session.receive(batch(7, 1), T0, 0);
    assert_eq!(nacked(&actions(&mut session)), [(7, 1, RejectCode::OutOfOrder)]);
}

#[test]
fn damaged_and_oversized_batches_cost_only_themselves() {
    let mut session = open();
    session.receive(Received::OversizedBatch { producer: P, seq: 1, attempt: 0, length: 9, max: 8 }, T0, 0);
    let all = actions(&mut session);
    assert_eq!(nacked(&all), [(1, 0, RejectCode::TooLarge)]);
    assert_eq!(all.last(), Some(&ack(1)));
    let damaged = Received::DamagedBatch { producer: P, seq: 2, attempt: 0, expected: 1, found: 2 };
    session.receive(damaged, T0, 0);
    assert_eq!(nacked(&actions(&mut session)), [(2, 0, RejectCode::BadChecksum)]);
    let two = submit(&mut session, 2, 1);
    session.settled(two, Ok(()));
    assert_eq!(actions(&mut session), [ack(2)]);
}

#[test]
fn a_lane_begins_with_hello_and_a_common_version() {
    let new = || ServerSession::new(ServerConfig::default(), T0);
    let mut session = new();
    session.receive(batch(1, 0), T0, 0);
    assert_eq!(closed(&mut session), CloseCode::UnexpectedFrame);
    let mut session = new();
    session.receive(hello(2, 3), T0, 0);
    assert_eq!(closed(&mut session), CloseCode::UnsupportedVersion);
    let mut session = new();
    session.receive(hello(0, 9), T0, 123);
    let all = actions(&mut session);
    let [Action::Send(Frame::Welcome(welcome))] = &all[..] else { panic!("{all:?}") };
    assert_eq!((welcome.version, welcome.clock_ns), (1, 123));
    session.receive(hello(1, 1), T0, 0);
    assert_eq!(closed(&mut session), CloseCode::UnexpectedFrame);
    let mut session = new();
    session.tick(T0 + ms(9_999));
    assert!(!session.is_closed());
    session.tick(session.deadline().unwrap());
    assert_eq!(closed(&mut session), CloseCode::IdleTimeout);
}

#[test]
fn producers_are_resumed_first_and_counted() {
    let mut session = open();
    let other = |seq| {
        let Received::Frame(Frame::Batch(batch)) = batch(seq, 0) else { unreachable!() };
        Received::Frame(Frame::Batch(BatchFrame { producer: ProducerId(6), ..batch }))
    };
    session.receive(other(1), T0, 0);
    assert_eq!(closed(&mut session), CloseCode::NotResumed);

    let mut session = open();
    session.receive(batch(1, 0), T0, 0);
    for id in 100..115 {
        session.receive(Received::Frame(Frame::Resume { producer: ProducerId(id), devices: vec![] }), T0, 0);
    }
    actions(&mut session);
    // Idle ones make room; one that owes an answer stays.
    session.receive(Received::Frame(Frame::Resume { producer: ProducerId(1), devices: vec![] }), T0, 0);
    assert!(!session.is_closed());
    assert_eq!(session.producers().collect::<std::collections::BTreeSet<_>>(), [P, ProducerId(1)].into());
}

#[test]
fn a_lane_that_lost_a_producer_ends() {
    let mut session = open();
    session.fence(ProducerId(999));
    assert!(!session.is_closed(), "not one of this lane's");
    session.fence(P);
    assert_eq!(closed(&mut session), CloseCode::Superseded);
}

#[test]
fn resuming_again_starts_the_producer_afresh() {
    let mut session = open();
    let one = submit(&mut session, 1, 3);
    session.receive(Received::Frame(Frame::Resume { producer: P, devices: vec![] }), T0, 0);
    session.resumed(P, vec![]);
    actions(&mut session);
    let again = submit(&mut session, 1, 0);
    session.settled(one, Ok(()));
    assert_eq!(actions(&mut session), [], "the outcome belongs to the producer's earlier life");
    session.settled(again, Ok(()));
    assert_eq!(actions(&mut session), [ack(1)]);
}

#[test]
fn reading_stops_at_the_limits_and_starts_again() {
    let mut session = open();
    let tickets: Vec<u64> = (1..=4).map(|seq| submit(&mut session, seq, 0)).collect();
    assert!(!session.wants_read());
    tickets[1..].iter().for_each(|&ticket| session.settled(ticket, Ok(())));
    assert!(!session.wants_read(), "four numbers still wait for the first");
    session.settled(tickets[0], full());
    actions(&mut session);
    assert!(session.wants_read(), "the first has to come again, so it must be read");
}

#[test]
fn draining_takes_what_is_on_its_way_and_ends() {
    let mut session = open();
    let one = submit(&mut session, 1, 0);
    session.drain(CloseCode::ShuttingDown, "restart", ms(500), T0);
    let all = actions(&mut session);
    assert!(matches!(&all[..], [Action::Send(Frame::GoAway(g))] if g.drain_ms == 500), "{all:?}");
    let two = submit(&mut session, 2, 0);
    session.finish();
    session.settled(one, Ok(()));
    assert_eq!(actions(&mut session), [ack(1)]);
    session.settled(two, Ok(()));
    assert_eq!(actions(&mut session), [ack(2), Action::Close { code: CloseCode::Done, message: String::new() }]);

    let mut session = open();
    submit(&mut session, 1, 0);
    session.drain(CloseCode::ShuttingDown, "restart", ms(500), T0);
    actions(&mut session);
    session.tick(T0 + ms(499));
    assert!(!session.is_closed());
    session.tick(session.deadline().unwrap());
    assert_eq!(closed(&mut session), CloseCode::ShuttingDown);
}

#[test]
fn an_idle_lane_ends_unless_it_owes_an_answer() {
    let mut session = open();
    let one = submit(&mut session, 1, 0);
    assert_eq!(session.deadline(), None);
    session.settled(one, Ok(()));
    assert_eq!(actions(&mut session), [ack(1)]);
    session.tick(session.deadline().unwrap());
    assert_eq!(closed(&mut session), CloseCode::IdleTimeout);
}

/// A client whose lane is open, with the frames it sent so far taken away.
fn open_client(config: ClientConfig) -> ClientSession {
    let mut client = ClientSession::new(config, P, None);
    client.connected();
    greet(&mut client, 1);
    client
}

fn greet(client: &mut ClientSession, shard_count: u32) {
    let config = ServerConfig { shard_count, max_in_flight_batches: 4, ..ServerConfig::default() };
    let mut server = ServerSession::new(config, T0);
    assert!(matches!(client.poll_send(T0), Some(Frame::Hello(_))));
    server.receive(hello(1, 1), T0, 0);
    let Some(Action::Send(welcome)) = server.poll() else { panic!("no welcome") };
    client.receive(Received::Frame(welcome), T0);
}

fn push(client: &mut ClientSession) -> u64 {
    client.push(Bytes::from_static(b"rows"), 1, "d", 0, Durability::Durable).unwrap()
}

fn sent(client: &mut ClientSession, now: Duration) -> Vec<(u64, u32)> {
    let seq = |frame| match frame {
        Frame::Batch(batch) => Some((batch.seq, batch.attempt)),
        _ => None,
    };
    std::iter::from_fn(|| client.poll_send(now)).filter_map(seq).collect()
}

fn nack(seq: u64, attempt: u32, retryable: bool, retry_after_ms: u32) -> Received {
    let (code, message) = (RejectCode::Unknown(500), String::new());
    Received::Frame(Frame::Nack(Nack { producer: P, seq, attempt, code, retryable, retry_after_ms, message }))
}

#[test]
fn the_client_goes_back_once_for_a_burst_of_refusals() {
    let mut client = open_client(ClientConfig::default());
    for _ in 0..3 {
        push(&mut client);
    }
    assert_eq!(sent(&mut client, T0), [(1, 0), (2, 0), (3, 0)]);
    client.receive(nack(2, 0, true, 100), T0);
    client.receive(nack(3, 0, true, 100), T0);
    assert_eq!(client.wakeup(T0), Some(T0 + ms(100)));
    assert_eq!(sent(&mut client, T0 + ms(99)), []);
    assert_eq!(sent(&mut client, T0 + ms(100)), [(2, 1), (3, 1)]);
    client.receive(nack(3, 0, true, 100), T0 + ms(100));
    assert_eq!(sent(&mut client, T0 + ms(500)), [], "a refusal of the first copy is old news");
    client.receive(Received::Frame(Frame::Ack { producer: P, seq: 3 }), T0 + ms(500));
    assert_eq!((client.buffered(), client.in_flight()), ((0, 0), (0, 0)));
}

#[test]
fn waits_grow_while_nothing_is_settled() {
    let mut client = open_client(ClientConfig::default());
    push(&mut client);
    let mut now = T0;
    let mut waits = Vec::new();
    for attempt in 0..10 {
        assert_eq!(sent(&mut client, now), [(1, attempt)]);
        client.receive(nack(1, attempt, true, 0), now);
        let wait = client.wakeup(now).unwrap() - now;
        waits.push(wait.as_millis());
        now += wait;
    }
    assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_000, 5_000]);
}

#[test]
fn a_permanent_refusal_comes_back_with_its_batch() {
    let mut client = open_client(ClientConfig::default());
    for _ in 0..2 {
        push(&mut client);
    }
    sent(&mut client, T0);
    while client.poll_event().is_some() {}
    client.receive(nack(1, 0, false, 0), T0);
    let Some(ClientEvent::Refused { batch, code, .. }) = client.poll_event() else { panic!("not told") };
    assert_eq!((batch.seq, &batch.payload[..], code), (1, &b"rows"[..], RejectCode::Unknown(500)));
    assert_eq!((client.buffered(), client.in_flight()), ((1, 4), (1, 4)));
}

#[test]
fn the_window_and_the_buffer_are_bounded() {
    let mut client = open_client(ClientConfig { max_buffered_batches: 6, ..ClientConfig::default() });
    for _ in 0..6 {
        push(&mut client);
    }
    let error = client.push(Bytes::new(), 1, "d", 0, Durability::Durable).unwrap_err();
    assert_eq!(error, PushError::Full { batches: 6, bytes: 24 });
    assert_eq!(sent(&mut client, T0).len(), 4);
    client.receive(Received::Frame(Frame::Ack { producer: P, seq: 1 }), T0);
    assert_eq!(sent(&mut client, T0), [(5, 0)]);
    let rows = client.push(Bytes::new(), 1 << 20, "d", 0, Durability::Durable).unwrap_err();
    assert!(matches!(rows, PushError::TooLarge { what: "rows", .. }), "{rows}");
}

#[test]
fn an_answer_to_what_was_never_sent_breaks_the_lane() {
    for frame in [
        Frame::Ack { producer: P, seq: 2 },
        Frame::Ack { producer: ProducerId(6), seq: 1 },
        Frame::Resumed { producer: P, settled: vec![1] },
        Frame::Hello(Hello { version_min: 1, version_max: 1, software: String::new() }),
    ] {
        let mut client = open_client(ClientConfig::default());
        push(&mut client);
        sent(&mut client, T0);
        client.receive(Received::Frame(frame.clone()), T0);
        let broken = std::iter::from_fn(|| client.poll_event()).last();
        assert!(matches!(broken, Some(ClientEvent::Broken { .. })), "{frame:?}: {broken:?}");
        assert_eq!(client.buffered().0, 1, "nothing is given up for it");
    }
}

#[test]
fn another_number_of_shards_is_told_and_nothing_is_sent() {
    let mut client = open_client(ClientConfig::default());
    push(&mut client);
    sent(&mut client, T0);
    client.disconnected();
    client.connected();
    while client.poll_event().is_some() {}
    greet(&mut client, 3);
    assert_eq!(client.poll_event(), Some(ClientEvent::ShardCountChanged { before: 1, now: 3 }));
    assert_eq!(client.poll_send(T0), None);
    client.connected();
    assert_eq!(client.poll_send(T0), None);
    assert_eq!(client.into_unsettled().len(), 1);
}

#[test]
fn a_restored_spool_goes_on_with_its_numbers() {
    let mut client = ClientSession::new(ClientConfig::default(), P, Some(1));
    let batch = |seq| OutBatch {
        seq,
        shard: 0,
        device: "d".into(),
        rows: 1,
        durability: Durability::Durable,
        payload: Bytes::from_static(b"rows"),
    };
    client.push_numbered(batch(7)).unwrap();
    client.push_numbered(batch(9)).unwrap();
    assert!(matches!(client.push_numbered(batch(9)), Err(PushError::NotRising { last: 9, found: 9 })));
    client.connected();
    greet(&mut client, 1);
    assert_eq!(client.poll_send(T0), Some(Frame::Resume { producer: P, devices: vec!["d".into()] }));
    assert_eq!(client.poll_send(T0), None, "first it learns what is settled");
    client.receive(Received::Frame(Frame::Resumed { producer: P, settled: vec![7] }), T0);
    assert_eq!(sent(&mut client, T0), [(9, 0)]);
    assert_eq!(push(&mut client), 10);
}

#[test]
fn the_connection_may_be_lost_at_every_byte() {
    let run = |cut_at: Option<u64>, resend_settled: bool| {
        let config = ClientConfig { resend_settled, ..ClientConfig::default() };
        let mut world = World::new(3, 2, Faults { bad: 4, ..Faults::default() }, config);
        world.cut_at = cut_at;
        for _ in 0..60 {
            world.step();
        }
        (0..6).for_each(|_| world.push());
        world.settle();
        world.check(resend_settled);
        world.delivered
    };
    let whole = run(None, false);
    assert!(whole > 1_000, "{whole}");
    for at in 1..whole {
        run(Some(at), false);
        run(Some(at), true);
    }
}

fn chaos(seed: u64, resend_settled: bool) -> World {
    let mut dice = world::Random(seed | 1);
    for _ in 0..8 {
        dice.next();
    }
    let mut rate = |most: u64| [0, most * 8, most * 2, most][dice.below(4) as usize];
    let faults =
        Faults { cut: rate(40), overloaded: rate(3), disk_full: rate(3), flip: rate(10), bad: rate(4), sour: rate(4) };
    let config = ClientConfig { retry_min: ms(1), retry_max: ms(20), resend_settled, ..ClientConfig::default() };
    let shards = 1 + dice.below(4) as usize;
    let mut world = World::new(seed, shards, faults, config);
    for _ in 0..1_500 {
        if world.random.below(10) == 0 {
            world.push();
        }
        world.step();
    }
    world.faults = Faults { bad: faults.bad, ..Faults::default() };
    world.settle();
    world.check(resend_settled);
    world
}

#[test]
fn the_model_reaches_the_interesting_cases() {
    let worlds: Vec<World> = (1..40).map(|seed| chaos(seed * 7_919, true)).collect();
    let batches: usize = worlds.iter().map(|w| w.fates.len()).sum();
    let refused: u32 = worlds.iter().flat_map(|w| w.fates.values()).map(|f| f.refused).sum();
    let retries: u64 = worlds.iter().map(|w| w.retries).sum();
    assert!(
        batches > 1_000 && refused > 50 && retries > 200,
        "{batches} batches, {refused} refused, {retries} retries"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_settled_once_and_in_order_whatever_happens(seed in any::<u64>(), resend_settled in any::<bool>()) {
        chaos(seed, resend_settled);
    }
}
