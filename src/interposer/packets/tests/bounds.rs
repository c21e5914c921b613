//! What a client can make the filter keep.

use super::*;
use crate::interposer::packets::holds::MAX_PACKETS;
use crate::wire::record::frame;

#[test]
fn a_held_client_makes_so_many_packets_wait_and_no_more() {
    let mut filter = Filter::in_mode(Mode::Strict);
    filter.order(Order::Hold(Address(CLIENT.parse().unwrap())));
    let sent = udp((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT), &lock(1, &args()));
    let waits = (0..MAX_PACKETS + 10).filter(|_| filter.take(sent.clone()).is_none()).count();
    assert_eq!(waits, MAX_PACKETS);
    assert_eq!(filter.verdicts.len(), 10);
}

#[test]
fn segments_that_never_make_a_record_wait_in_small_number_and_not_for_long() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let stream = frame(&lock(1, &reclaim()));
    let ids: Vec<_> = (1..150).map(|at| filter.give(true, 2, line.send(2 * at, &stream[at..=at]))).collect();
    let held = ids.iter().filter(|id| filter.verdict(**id).is_none()).count();
    assert_eq!(held, 32);
    filter.pass_time(Duration::from_secs(3));
    for id in ids {
        assert_eq!(filter.verdict(id), Some(Verdict::Drop));
    }
    // The stream is sound, and goes on.
    assert!(matches!(filter.take(line.send(0, &stream)), Some(Verdict::Changed(_))));
}

#[test]
fn a_segment_that_comes_next_finds_room_where_others_came_early() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let stream: Vec<u8> = (0..60).flat_map(|xid| frame(&lock(xid, &args()))).collect();
    let size = stream.len() / 60;
    for at in (1..60).rev() {
        filter.take(line.send(at * size, &stream[at * size..(at + 1) * size]));
    }
    assert!(matches!(filter.take(line.send(0, &stream[..size])), Some(Verdict::Changed(_))));
}

#[test]
fn a_connection_that_made_room_does_not_bring_a_reclaim_in() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let line = ClientConnection::open(&mut filter);
    let stream = frame(&lock(1, &reclaim()));
    let waits = filter.give(true, 2, line.send(0, &stream[..100]));
    for port in 1000..1300 {
        filter.take(udp((CLIENT, port), (SERVER, SERVER_PORT), &lock(1, &args())));
    }
    assert_eq!(filter.verdict(waits), Some(Verdict::Drop));
    assert_eq!(filter.take(line.send(100, &stream[100..])), Some(Verdict::Drop));
    assert!(matches!(filter.take(line.send(0, &stream)), Some(Verdict::Changed(_))));
}
