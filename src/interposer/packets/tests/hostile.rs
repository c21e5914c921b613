//! Bytes that mean harm: nothing panics, nothing is without a verdict, and no reclaim passes.

use proptest::prelude::*;

use super::*;
use crate::wire::record::{RecordReader, frame};

/// Packets of all kinds, damaged or not.
#[derive(Debug, Clone)]
struct Piece {
    way_in: bool,
    tcp: bool,
    six: bool,
    place: u32,
    flags: u8,
    payload: Vec<u8>,
    damage: Option<(usize, u8)>,
}

fn pieces() -> impl Strategy<Value = Piece> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        Just(frame(&lock(1, &reclaim()))),
        Just(lock(1, &reclaim())),
        (0_usize..200, any::<u8>()).prop_map(|(at, byte)| {
            let mut odd = frame(&lock(1, &reclaim()));
            let at = at % odd.len();
            odd[at] = byte;
            odd
        }),
    ];
    let flags = prop::sample::select(vec![ACK, SYN, SYN | ACK, ACK | 1, ACK | 4, 0, 0xff]);
    let damage = prop::option::weighted(0.2, (0_usize..120, any::<u8>()));
    (any::<(bool, bool, bool)>(), 0_u32..600, flags, payload, damage).prop_map(
        |((way_in, tcp, six), place, flags, payload, damage)| Piece { way_in, tcp, six, place, flags, payload, damage },
    )
}

fn packet(piece: &Piece) -> Vec<u8> {
    let (client, server) = if piece.six { ("fd00::11", "fd00::1") } else { (CLIENT, SERVER) };
    let (client, server) = ((client, CLIENT_PORT), (server, SERVER_PORT));
    let (from, to) = if piece.way_in { (client, server) } else { (server, client) };
    let mut made = if piece.tcp {
        tcp(from, to, piece.place, piece.place ^ 7, piece.flags, &piece.payload)
    } else {
        udp(from, to, &piece.payload)
    };
    if let Some((at, byte)) = piece.damage {
        let at = at % made.len();
        made[at] = byte;
    }
    made
}

const MODES: [Mode; 4] = [Mode::Off, Mode::Strict, Mode::Targeted, Mode::Drain];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_gets_one_verdict_and_what_is_changed_is_sound(
        pieces in prop::collection::vec(pieces(), 0..80),
        mode in prop::sample::select(MODES.to_vec()),
    ) {
        let mut filter = Filter::in_mode(mode);
        for piece in &pieces {
            filter.give(piece.way_in, 2, packet(piece));
        }
        for _ in 0..4 {
            filter.pass_time(Duration::from_secs(3));
        }
        prop_assert_eq!(filter.verdicts.len(), pieces.len());
        for id in 1..=u32::try_from(pieces.len()).unwrap() {
            if let Some(Verdict::Changed(bytes)) = filter.verdict(id) {
                assert_sound(&bytes);
            }
        }
    }

    #[test]
    fn bytes_without_any_form_are_borne(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..30)) {
        for mode in MODES {
            let mut filter = Filter::in_mode(mode);
            for (n, bytes) in packets.iter().enumerate() {
                let changed = filter.give(n % 3 != 0, 2, bytes.clone());
                prop_assert!(!matches!(filter.verdict(changed), Some(Verdict::Changed(_))));
            }
        }
    }

    #[test]
    fn no_stream_brings_a_reclaim_to_lockd(
        parts in prop::collection::vec(prop_oneof![
            2 => Just(frame(&lock(1, &reclaim()))),
            1 => prop::collection::vec(any::<u8>(), 1..20),
            1 => (0_usize..250, 0_u8..8).prop_map(|(at, bit)| {
                let mut odd = frame(&lock(1, &reclaim()));
                let at = at % odd.len();
                odd[at] ^= 1 << bit;
                odd
            }),
        ], 1..8),
        cuts in prop::collection::vec(1_usize..200, 1..20),
        known in any::<bool>(),
    ) {
        let mut filter = Filter::in_mode(Mode::Drain);
        let line = ClientConnection { start: 5000, back: 9000 };
        if known {
            line.shake(&mut filter);
        }
        let stream = parts.concat();
        let (mut at, mut reader) = (0, RecordReader::new(1 << 16));
        let mut sizes = cuts.iter().cycle();
        let mut tries = 0;
        // A receiver that takes only what comes next; a sender that begins anew behind it.
        while at < stream.len() && tries < 60 {
            tries += 1;
            let (mut from, mut given) = (at, Vec::new());
            for _ in 0..6 {
                let to = (from + sizes.next().unwrap()).min(stream.len());
                if from < to {
                    let sent = line.send(from, &stream[from..to]);
                    given.push((filter.give(true, 2, sent.clone()), from, sent));
                }
                from = to;
            }
            for (id, from, sent) in given {
                let got = match filter.verdict(id) {
                    Some(Verdict::Pass) => sent,
                    Some(Verdict::Changed(bytes)) => bytes,
                    Some(Verdict::Drop) | None => continue,
                };
                if from <= at && got[33] & 4 == 0 {
                    let bytes = &got[payload_at(&got)..];
                    let new = bytes.get(at - from..).unwrap_or_default();
                    reader.push(new);
                    at += new.len();
                }
            }
            filter.take_out(line.answer(at, 0, &[]));
            filter.pass_time(Duration::from_millis(300));
            while let Ok(Some(record)) = reader.next() {
                let Ok(call) = rpc::parse_call(&record) else { continue };
                let is_lock = (call.program, call.procedure) == (nlm::PROGRAM, Procedure::Lock.number());
                let version = Version::from_number(call.version).filter(|_| is_lock);
                if let Some(Ok(args)) = version.map(|version| LockArgs::decode(version, call.args)) {
                    prop_assert!(!args.reclaim, "lockd refuses it, and its client forgets the lock");
                }
            }
        }
    }
}
