//! Replies on their way out, in datagrams and in streams.

use super::*;
use crate::interposer::messages::Reply;
use crate::wire::nlm::{Res, Stat};
use crate::wire::record::frame;
use crate::wire::rpc::Answer;
use crate::wire::xdr::encode;

fn res(xid: u32, stat: Stat) -> Vec<u8> {
    rpc::reply(xid, &Answer::Success(encode(&Res { cookie: Cookie::default(), stat })))
}

fn answer(call: u64, stat: Stat) -> FilterEvent {
    FilterEvent::Reply(Reply { call, stat })
}

fn asks(port: u16, message: &[u8]) -> Vec<u8> {
    udp((CLIENT, port), (SERVER, SERVER_PORT), message)
}

fn answers(port: u16, message: &[u8]) -> Vec<u8> {
    udp((SERVER, SERVER_PORT), (CLIENT, port), message)
}

#[test]
fn a_reply_is_joined_with_the_latest_call_of_its_port_and_xid() {
    let mut filter = Filter::in_mode(Mode::Strict);
    for port in [700, 701, 700] {
        filter.take(asks(port, &lock(1, &args())));
    }
    filter.told.clear();
    for (port, stat) in [(700, Stat::DeniedGracePeriod), (701, Stat::Granted)] {
        assert_eq!(filter.take_out(answers(port, &res(1, stat))), Some(Verdict::Pass));
    }
    assert_eq!(filter.told, [answer(3, Stat::DeniedGracePeriod), answer(2, Stat::Granted)]);
}

#[test]
fn a_reply_whose_call_was_not_seen_makes_its_client_unknown_and_one_to_a_call_that_is_not_told_does_not() {
    let mut filter = Filter::in_mode(Mode::Strict);
    filter.take(asks(700, &rpc::call(1, nlm::PROGRAM, 4, 0, &Credential::None, &[])));
    assert_eq!(filter.take_out(answers(700, &rpc::reply(1, &Answer::Success(Vec::new())))), Some(Verdict::Pass));
    assert_eq!(filter.told, []);
    assert_eq!(filter.take_out(answers(700, &res(2, Stat::Granted))), Some(Verdict::Pass));
    assert_eq!(filter.told, [FilterEvent::StrayReply(Address(CLIENT.parse().unwrap()))]);
}

#[test]
fn the_void_reply_to_a_one_way_call_says_nothing() {
    let mut filter = Filter::in_mode(Mode::Strict);
    filter.take(asks(700, &message(1, Version::V4, Procedure::LockMsg, &args())));
    filter.told.clear();
    filter.take_out(answers(700, &rpc::reply(1, &Answer::Success(Vec::new()))));
    assert_eq!(filter.told, []);
}

#[test]
fn replies_of_a_stream_are_told_before_their_last_byte_passes_and_what_is_sent_again_is_not_told_again() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let calls: Vec<u8> = (1..=3).flat_map(|xid| frame(&lock(xid, &args()))).collect();
    assert!(matches!(filter.take(line.send(0, &calls)), Some(Verdict::Changed(_))));
    filter.told.clear();
    let replies: Vec<u8> = (1..=3).flat_map(|xid| frame(&res(xid, Stat::Granted))).collect();
    let one = replies.len() / 3;
    for (from, to, told) in [
        (0, one - 1, 0),
        (0, one - 1, 0),
        (one - 1, one + 2, 1),
        // What is ahead waits at its sender.
        (2 * one, 3 * one, 1),
        (3, 3 * one, 3),
        (0, 3 * one, 3),
    ] {
        let verdict = filter.take_out(line.answer(calls.len(), from, &replies[from..to]));
        let is_ahead = from == 2 * one;
        assert_eq!(verdict, Some(if is_ahead { Verdict::Drop } else { Verdict::Pass }), "{from}..{to}");
        assert_eq!(filter.told.len(), told, "{from}..{to}");
    }
    assert_eq!(filter.told, [1, 2, 3].map(|call| answer(call, Stat::Granted)));
}

#[test]
fn what_is_missing_of_a_stream_of_replies_is_not_waited_for_without_end() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let mut tries = 0;
    while filter.take_out(line.answer(0, 100, &[0; 8])) == Some(Verdict::Drop) {
        tries += 1;
        assert!(tries < 100);
    }
    assert!(tries > 3 && !filter.blinds().is_empty());
}

#[test]
fn the_first_reply_of_a_connection_that_was_open_before_is_unknown_and_later_ones_are_told() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection { start: 5000, back: 90_000 };
    let old = frame(&res(77, Stat::Granted));
    assert_eq!(filter.take_out(line.answer(0, 0, &old)), Some(Verdict::Pass));
    assert_eq!(filter.told, [FilterEvent::StrayReply(Address(CLIENT.parse().unwrap()))]);
    filter.take(line.send(0, &frame(&lock(1, &args()))));
    filter.told.clear();
    filter.take_out(line.answer(0, old.len(), &frame(&res(1, Stat::Denied))));
    assert_eq!(filter.told, [answer(1, Stat::Denied)]);
}

#[test]
fn nlmctls_own_unlock_and_its_reply_are_not_told_and_pass_while_its_client_is_held() {
    for held in [false, true] {
        let mut filter = Filter::in_mode(Mode::Strict);
        if held {
            filter.order(Order::Hold(Address(CLIENT.parse().unwrap())));
        }
        let cookie = Cookie::new(b"nlmctl\0\0\0\x01").unwrap();
        let unlock = crate::wire::nlm::UnlockArgs { cookie, alock: args().alock };
        let args = unlock.encode(Version::V4).unwrap();
        let own = rpc::call(1, nlm::PROGRAM, 4, 4, &Credential::root("nlmctl"), &args);
        let id = filter.give(true, 1, asks(700, &own));
        assert_eq!(filter.verdict(id), Some(Verdict::Pass));
        filter.give(false, 1, answers(700, &res(1, Stat::Granted)));
        // By TCP too, with what belongs to the connection.
        let line = ClientConnection { start: 5000, back: 90_000 };
        let id = filter.give(true, 1, tcp((CLIENT, 700), (SERVER, SERVER_PORT), 4999, 0, SYN, &[]));
        assert_eq!(filter.verdict(id), Some(Verdict::Pass));
        filter.give(false, 1, tcp((SERVER, SERVER_PORT), (CLIENT, 700), 89_999, 5000, SYN | ACK, &[]));
        let stream = [frame(&own), frame(&own)].concat();
        let mut ids = Vec::new();
        for (from, to) in [(0, stream.len() - 3), (stream.len() - 3, stream.len())] {
            ids.push(filter.give(true, 1, line.send(from, &stream[from..to])));
        }
        assert!(ids.iter().all(|id| filter.verdict(*id) == Some(Verdict::Pass)));
        filter.give(false, 1, line.answer(stream.len(), 0, &frame(&res(1, Stat::Granted))));
        assert_eq!(filter.told, []);
        // The same over a cable is a client's.
        let id = filter.give(true, 2, asks(700, &own));
        assert_eq!(filter.verdict(id), (!held).then_some(Verdict::Pass));
        assert_eq!(filter.told.len(), usize::from(!held));
    }
}
