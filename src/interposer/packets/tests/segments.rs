//! Segments on their way in, one case at a time.

use super::*;
use crate::wire::record::frame;

/// What a segment of the client's becomes at lockd: its bytes; `None`: it is dropped or waits.
fn payload(verdict: Option<Verdict>, sent: &[u8]) -> Option<Vec<u8>> {
    let got = match verdict? {
        Verdict::Pass => sent.to_vec(),
        Verdict::Changed(bytes) => bytes,
        Verdict::Drop => return None,
    };
    assert_sound(&got);
    Some(got[payload_at(&got)..].to_vec())
}

/// A record with a reclaim, and what lockd gets of it.
fn taken(xid: u32) -> (Vec<u8>, Vec<u8>) {
    (frame(&lock(xid, &reclaim())), frame(&lock(xid, &LockArgs { block: false, ..args() })))
}

fn give(filter: &mut Filter, line: &ClientConnection, offset: usize, bytes: &[u8]) -> Option<Vec<u8>> {
    let sent = line.send(offset, bytes);
    payload(filter.take(sent.clone()), &sent)
}

#[test]
fn a_record_cut_anywhere_waits_until_it_is_whole_and_its_words_are_changed_on_both_sides_of_the_cut() {
    let (sent, wanted) = taken(1);
    for cut in 1..sent.len() {
        let mut filter = Filter::in_mode(Mode::Strict);
        let line = ClientConnection::open(&mut filter);
        let (first, second) = (line.send(0, &sent[..cut]), line.send(cut, &sent[cut..]));
        let first_id = filter.give(true, 2, first.clone());
        assert_eq!((filter.verdict(first_id), filter.calls().len()), (None, 0), "{cut}");
        let second_id = filter.give(true, 2, second.clone());
        let got =
            [(first_id, first), (second_id, second)].map(|(id, sent)| payload(filter.verdict(id), &sent).unwrap());
        assert_eq!(got.concat(), wanted, "{cut}");
        assert_eq!(filter.treated(), [Treated::Taken]);
    }
}

#[test]
fn several_records_in_a_segment_are_changed_each_for_itself() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let sent = [taken(1).0, frame(&lock(2, &args())), taken(3).0].concat();
    let wanted = [taken(1).1, frame(&lock(2, &reclaim())), taken(3).1].concat();
    assert_eq!(give(&mut filter, &line, 0, &sent), Some(wanted));
    assert_eq!(filter.treated(), [Treated::Taken, Treated::Refused, Treated::Taken]);
}

#[test]
fn a_segment_that_is_sent_again_is_changed_as_the_first_time_however_it_is_cut_and_whatever_the_mode_is_by_then() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let sent = [taken(1).0, frame(&lock(2, &args()))].concat();
    let wanted = [taken(1).1, frame(&lock(2, &reclaim()))].concat();
    assert_eq!(give(&mut filter, &line, 0, &sent).as_ref(), Some(&wanted));
    filter.order(Order::Mode(Mode::Off));
    for (from, to) in [(0, sent.len()), (3, sent.len()), (100, 150), (sent.len() - 6, sent.len() - 5)] {
        assert_eq!(give(&mut filter, &line, from, &sent[from..to]).unwrap(), wanted[from..to], "{from}..{to}");
    }
    assert_eq!(filter.calls().len(), 2);
}

#[test]
fn segments_that_come_early_wait_for_those_before_them() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let (one, two) = (taken(1), taken(2));
    assert_eq!(give(&mut filter, &line, one.0.len(), &two.0), None);
    assert_eq!(filter.told, []);
    let sent = line.send(0, &one.0);
    assert_eq!(payload(filter.take(sent.clone()), &sent), Some(one.1));
    assert_eq!(filter.verdicts.len(), 3 + 2, "the one that waited passes too");
    assert_eq!(filter.calls().len(), 2);
}

#[test]
fn what_waits_and_comes_again_passes_as_far_as_it_is_decided_so_that_its_sender_goes_on() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let (one, two) = (taken(1), taken(2));
    let stream = [one.0.as_slice(), &two.0].concat();
    let cut = one.0.len() + 70;
    assert_eq!(give(&mut filter, &line, 0, &stream[..cut]), None);
    assert_eq!(give(&mut filter, &line, 0, &stream[..cut]), Some(one.1.clone()));
    // Of this nothing is decided.
    assert_eq!(give(&mut filter, &line, one.0.len(), &stream[one.0.len()..cut]), None);
    assert_eq!(give(&mut filter, &line, cut, &stream[cut..]).unwrap(), two.1[70..]);
    assert_eq!(filter.calls().len(), 2);
}

#[test]
fn a_connection_that_was_open_before_is_entered_where_a_whole_call_begins_and_nowhere_else() {
    let (sent, wanted) = taken(1);
    let other = frame(&rpc::call(1, 100_003, 3, 0, &Credential::None, &[]));
    for odd in [&sent[1..], &sent[..50], &other, b"what it may be"] {
        let mut filter = Filter::in_mode(Mode::Strict);
        let line = ClientConnection { start: 5000, back: 9000 };
        assert_eq!(give(&mut filter, &line, 0, odd), None);
        assert_eq!(filter.told, []);
        assert_eq!(give(&mut filter, &line, 600, &sent), Some(wanted.clone()));
        // What is before the call is not known, and does not pass.
        assert_eq!(give(&mut filter, &line, 590, &sent), None);
    }
}

#[test]
fn a_connection_that_cannot_be_entered_is_reset_at_both_ends() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection { start: 5000, back: 9000 };
    let sent = line.send(0, &taken(1).0[1..]);
    assert_eq!(filter.take(sent.clone()), Some(Verdict::Drop));
    assert_eq!(filter.take(sent.clone()), Some(Verdict::Drop));
    assert_eq!(filter.blinds(), [""; 0]);
    for flags in [4 | ACK, ACK, 4 | ACK] {
        let Some(Verdict::Changed(got)) = filter.take(sent.clone()) else { panic!("{:?}", filter.verdicts) };
        assert_sound(&got);
        // The header is the same but for its flags.
        assert_eq!((got.len(), got[33]), (payload_at(&sent), flags));
        assert_eq!(got[20..33], sent[20..33]);
    }
    assert_eq!(filter.blinds(), ["a connection that could not be followed was reset"]);
    // The client has made another one from the same port.
    let line = ClientConnection { start: 70_000, back: 80_000 };
    line.shake(&mut filter);
    let (sent, wanted) = taken(2);
    assert_eq!(give(&mut filter, &line, 0, &sent), Some(wanted));
}

#[test]
fn a_record_that_cannot_be_read_is_dropped_and_when_it_comes_again_its_connection_is_reset() {
    let whole = lock(2, &reclaim());
    let too_long = [&[0x80, 1, 0, 0], whole.as_slice()].concat();
    for odd in [frame(&whole[..whole.len() - 2]), too_long] {
        let mut filter = Filter::in_mode(Mode::Strict);
        let line = ClientConnection::open(&mut filter);
        let (first, wanted) = taken(1);
        let stream = [first.as_slice(), &odd].concat();
        assert_eq!(give(&mut filter, &line, 0, &stream), None);
        assert_eq!(give(&mut filter, &line, 0, &first), Some(wanted), "what was before it passes by itself");
        filter.take_out(line.answer(first.len(), 0, &[]));
        let sent = line.send(first.len(), &odd);
        let verdicts: Vec<_> = (0..4).map(|_| filter.take(sent.clone()).unwrap()).collect();
        let resets = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Changed(_))).count();
        assert!(resets > 0 && !verdicts.contains(&Verdict::Pass), "{verdicts:?}");
        assert_eq!((filter.blinds().len(), filter.calls().len()), (1, 1));
    }
}

#[test]
fn a_record_that_never_gets_whole_is_let_go_of_after_a_while_and_its_connection_is_reset_in_the_end() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let sent = line.send(0, &taken(1).0[..60]);
    let mut last = None;
    for _ in 0..3 {
        let id = filter.give(true, 2, sent.clone());
        assert_eq!(filter.verdict(id), None);
        filter.pass_time(Duration::from_secs(3));
        last = filter.verdict(id);
        assert!(last.is_some());
    }
    assert!(matches!(last, Some(Verdict::Changed(got)) if got[33] == 4 | ACK));
    assert_eq!((filter.blinds().len(), filter.calls().len()), (1, 0));
}

#[test]
fn a_handshake_that_lockd_does_not_answer_changes_nothing_of_a_connection() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let (sent, wanted) = taken(1);
    assert_eq!(give(&mut filter, &line, 0, &sent[..60]), None);
    let forged = tcp((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT), 1 << 30, 0, SYN, &[]);
    assert_eq!(filter.take(forged), Some(Verdict::Pass));
    let with_bytes = tcp((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT), 1 << 30, 0, SYN, &sent);
    assert_eq!(filter.take(with_bytes), Some(Verdict::Drop));
    assert_eq!(give(&mut filter, &line, 60, &sent[60..]).unwrap(), wanted[60..]);
}

#[test]
fn a_handshake_whose_answer_is_sent_again_leaves_what_was_followed() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let (sent, wanted) = taken(1);
    assert_eq!(give(&mut filter, &line, 0, &sent), Some(wanted.clone()));
    let answer = tcp((SERVER, SERVER_PORT), (CLIENT, CLIENT_PORT), line.back - 1, line.start, SYN | ACK, &[]);
    filter.take_out(answer);
    assert_eq!(give(&mut filter, &line, 0, &sent), Some(wanted));
    assert_eq!(filter.calls().len(), 1);
}

#[test]
fn while_the_filter_is_off_what_cannot_be_followed_passes_and_its_client_is_unknown() {
    let mut filter = Filter::in_mode(Mode::Off);
    let line = ClientConnection { start: 5000, back: 9000 };
    let (sent, _) = taken(1);
    assert_eq!(give(&mut filter, &line, 1, &sent[1..]).unwrap(), sent[1..]);
    assert_eq!(filter.blinds().len(), 1);
    let offset = sent.len();
    assert_eq!(give(&mut filter, &line, offset, &sent).unwrap(), sent);
    assert_eq!(filter.treated(), [Treated::Passed]);
    // From then on it does not pass.
    filter.order(Order::Mode(Mode::Strict));
    assert_eq!(give(&mut filter, &line, 2 * offset, &sent), Some(taken(1).1));
    assert_eq!(give(&mut filter, &line, 1, &sent[1..]), None);
}

#[test]
fn packets_of_a_held_client_wait_in_their_order_and_others_do_not() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let held = Address(CLIENT.parse().unwrap());
    filter.order(Order::Hold(held));
    filter.order(Order::Answer(5));
    let (one, two) = (taken(1), taken(2));
    let first = filter.give(true, 2, line.send(0, &one.0));
    let second = filter.give(true, 2, udp((CLIENT, 800), (SERVER, SERVER_PORT), &lock(3, &args())));
    let third = filter.give(true, 2, line.send(one.0.len(), &two.0));
    // That it reclaims is told once.
    assert_eq!(filter.told, [FilterEvent::Obeyed(5), FilterEvent::Reclaims(held)]);
    let other = udp(("10.0.0.12", 800), (SERVER, SERVER_PORT), &lock(4, &args()));
    assert!(matches!(filter.take(other), Some(Verdict::Changed(_))));
    // What lockd says goes out.
    assert_eq!(filter.take_out(line.answer(0, 0, &[])), Some(Verdict::Pass));
    let before = filter.verdicts.len();
    filter.order(Order::LetGo(held));
    let ids: Vec<_> = filter.verdicts[before..].iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [first, second, third]);
    assert_eq!(filter.calls().len(), 4);
    assert!(matches!(filter.take(line.send(0, &one.0)), Some(Verdict::Changed(_))), "nothing waits any more");
}

#[test]
fn a_held_client_reclaims_if_a_packet_of_it_has_a_reclaim_or_may_have_one() {
    let (ordinary, claims) = (frame(&lock(1, &args())), taken(2).0);
    let by_tcp = |bytes: &[u8]| tcp((CLIENT, 800), (SERVER, SERVER_PORT), 1, 1, ACK, bytes);
    let by_udp = |message: &[u8]| udp((CLIENT, 800), (SERVER, SERVER_PORT), message);
    for (packet, reclaims) in [
        (by_udp(&lock(1, &args())), false),
        (by_udp(&lock(1, &reclaim())), true),
        (by_tcp(&[]), false),
        (by_tcp(&ordinary), false),
        (by_tcp(&[ordinary.as_slice(), &ordinary].concat()), false),
        (by_tcp(&[ordinary.as_slice(), &claims].concat()), true),
        // What is cut off cannot be read.
        (by_tcp(&ordinary[..50]), true),
        (by_tcp(&ordinary[50..]), true),
    ] {
        let mut filter = Filter::in_mode(Mode::Strict);
        let held = Address(CLIENT.parse().unwrap());
        filter.order(Order::Hold(held));
        assert_eq!(filter.take(packet), None);
        let told = if reclaims { vec![FilterEvent::Reclaims(held)] } else { vec![] };
        assert_eq!(filter.told, told);
    }
}

#[test]
fn when_another_grants_reclaims_all_passes_unchanged_also_what_waits() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let (sent, _) = taken(1);
    let stream = [sent.as_slice(), &sent].concat();
    let waits = filter.give(true, 2, line.send(0, &stream[..sent.len() + 9]));
    filter.order(Order::Hold(Address("10.0.0.12".parse().unwrap())));
    let held = filter.give(true, 2, udp(("10.0.0.12", 800), (SERVER, SERVER_PORT), &lock(4, &reclaim())));
    filter.traffic.supersede("lockd is in grace");
    filter.traffic.supersede("lockd is in grace");
    filter.collect();
    let superseded = filter.told.iter().filter(|told| matches!(told, FilterEvent::Superseded(_))).count();
    assert_eq!(
        (superseded, filter.verdict(waits), filter.verdict(held)),
        (1, Some(Verdict::Pass), Some(Verdict::Pass))
    );
    assert_eq!(filter.take(line.send(0, &sent)), Some(Verdict::Pass));
    assert_eq!(filter.take(b"no packet".to_vec()), Some(Verdict::Pass));
}
