//! Each procedure in each version, in a datagram: what is told, and what lockd gets.

use Treated::{Passed, Refused, Taken};

use super::super::inspector::UNSEEN;
use super::*;
use crate::interposer::messages::{Blind, LockRequest, Request, ShareRequest};
use crate::wire::nlm::{CancArgs, NotifyArgs, Share, ShareArgs, ShareBits, TestArgs, UnlockArgs};
use crate::wire::xdr::Text;

fn datagram(message: &[u8]) -> Vec<u8> {
    udp((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT), message)
}

/// What lockd gets of a call.
fn passed(filter: &mut Filter, message: &[u8]) -> Vec<u8> {
    let sent = datagram(message);
    let got = match filter.take(sent.clone()).expect("no datagram waits") {
        Verdict::Pass => sent.clone(),
        Verdict::Changed(bytes) => bytes,
        Verdict::Drop => panic!("it was dropped: {:?}", filter.told),
    };
    assert_sound(&got);
    assert_eq!(got.len(), sent.len());
    got[payload_at(&got)..].to_vec()
}

const LOCKS: [(Version, Procedure); 8] = [
    (Version::V1, Procedure::Lock),
    (Version::V1, Procedure::LockMsg),
    (Version::V3, Procedure::Lock),
    (Version::V3, Procedure::LockMsg),
    (Version::V3, Procedure::NmLock),
    (Version::V4, Procedure::Lock),
    (Version::V4, Procedure::LockMsg),
    (Version::V4, Procedure::NmLock),
];

#[test]
fn a_lock_of_each_kind_is_told_and_its_words_are_written_as_the_mode_wants() {
    // The mode; a reclaim; what lockd gets as (reclaim, block) of a call that blocks; how it is told.
    let table = [
        (Mode::Off, false, (false, true), Passed),
        (Mode::Off, true, (true, true), Passed),
        (Mode::Strict, false, (true, true), Refused),
        (Mode::Strict, true, (false, false), Taken),
        (Mode::Targeted, false, (false, true), Passed),
        (Mode::Targeted, true, (false, false), Taken),
        (Mode::Drain, false, (false, true), Passed),
        (Mode::Drain, true, (false, false), Taken),
    ];
    for ((version, procedure), (mode, is_reclaim, (reclaim, block), treated)) in
        LOCKS.iter().flat_map(|lock| table.map(|row| (*lock, row)))
    {
        let mut filter = Filter::in_mode(mode);
        let sent = LockArgs { reclaim: is_reclaim, ..args() };
        let got = passed(&mut filter, &message(1, version, procedure, &sent));
        let wanted = message(1, version, procedure, &LockArgs { block, reclaim, ..args() });
        assert_eq!(hex::encode(got), hex::encode(wanted), "{version:?} {procedure:?} {mode:?} {is_reclaim}");
        let request = LockRequest {
            claim: claim(version, Transport::Udp),
            oh: args().alock.oh,
            reclaim: is_reclaim,
            block: true,
            monitored: procedure != Procedure::NmLock,
            state: NsmState(3),
        };
        let call = Call {
            number: 1,
            way: way(version, Transport::Udp),
            caller: CallerName::new("c1").unwrap(),
            request: Request::Lock(request),
            treated,
        };
        let told = if procedure == Procedure::LockMsg { unseen() } else { FilterEvent::Call(call) };
        assert_eq!(filter.told, [told]);
    }
}

/// What is told of a client that gets its answers where they are not seen.
fn unseen() -> FilterEvent {
    FilterEvent::Blind(Blind { client: Address(CLIENT.parse().unwrap()), why: Text::clipped(UNSEEN) })
}

#[test]
fn what_frees_is_told_and_passes_in_every_mode() {
    for mode in [Mode::Off, Mode::Strict, Mode::Targeted, Mode::Drain] {
        for version in Version::ALL {
            let LockArgs { cookie, block, exclusive, alock, .. } = args();
            let unlock = UnlockArgs { cookie: cookie.clone(), alock: alock.clone() };
            let cancel = CancArgs { cookie, block, exclusive, alock };
            let claim = claim(version, Transport::Udp);
            let mut filter = Filter::in_mode(mode);
            let unlocks = [Procedure::Unlock, Procedure::UnlockMsg].map(|p| message(1, version, p, &unlock));
            let cancels = [Procedure::Cancel, Procedure::CancelMsg].map(|p| message(1, version, p, &cancel));
            for sent in unlocks.iter().chain(&cancels) {
                assert_eq!(&passed(&mut filter, sent), sent);
            }
            let unlocked = Request::Unlock(Claim { exclusive: false, ..claim.clone() });
            let cancelled = Request::Cancel(claim);
            let requests: Vec<_> = filter.calls().iter().map(|call| call.request.clone()).collect();
            assert_eq!(requests, [unlocked, cancelled]);
            assert_eq!(filter.treated(), [Passed; 2]);
            assert_eq!(filter.told.iter().filter(|told| **told == unseen()).count(), 2);
        }
    }
}

fn share(reclaim: bool) -> ShareArgs {
    let Lock { caller_name, fh, oh, .. } = args().alock;
    let share = Share { caller_name, fh, oh, mode: ShareBits::Write, access: ShareBits::Read };
    ShareArgs { cookie: Cookie::default(), share, reclaim }
}

#[test]
fn shares_are_told_and_only_a_reclaim_is_changed_since_lockd_grants_them_outside_grace() {
    for version in [Version::V3, Version::V4] {
        let told = |reclaim| ShareRequest { file: args().alock.fh, oh: args().alock.oh, access: 1, mode: 2, reclaim };
        let mut filter = Filter::in_mode(Mode::Strict);
        for (procedure, reclaim, lockd_gets) in [
            (Procedure::Share, false, false),
            (Procedure::Share, true, false),
            (Procedure::Unshare, false, false),
            (Procedure::Unshare, true, true),
        ] {
            let got = passed(&mut filter, &message(1, version, procedure, &share(reclaim)));
            assert_eq!(got, message(1, version, procedure, &share(lockd_gets)), "{procedure:?} {reclaim}");
        }
        let requests: Vec<_> = filter.calls().iter().map(|call| call.request.clone()).collect();
        let unshare = Request::Unshare(told(false));
        assert_eq!(requests, [Request::Share(told(false)), Request::Share(told(true)), unshare.clone(), unshare]);
        assert_eq!(filter.treated(), [Passed, Taken, Passed, Passed]);
        // The last word may be missing: lockd does not read it.
        let short = message(2, version, Procedure::Share, &share(true));
        let short = &short[..short.len() - 4];
        assert_eq!(passed(&mut filter, short), short);
        assert_eq!(filter.calls().last().unwrap().request, Request::Share(told(false)));
    }
}

#[test]
fn free_all_is_told_and_tests_callbacks_and_other_programs_just_pass() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let name = CallerName::new("c1").unwrap();
    let free_all = NotifyArgs { name: name.clone(), state: NsmState(9) };
    for version in [Version::V3, Version::V4] {
        let sent = message(1, version, Procedure::FreeAll, &free_all);
        assert_eq!(passed(&mut filter, &sent), sent);
    }
    let told: Vec<_> = filter.calls().iter().map(|call| (&call.caller, &call.request)).collect();
    assert_eq!(told, [(&name, &Request::FreeAll(NsmState(9))); 2]);
    filter.told.clear();
    let LockArgs { cookie, exclusive, alock, .. } = args();
    let test = TestArgs { cookie, exclusive, alock };
    let silent = [
        message(1, Version::V4, Procedure::Test, &test),
        message(1, Version::V1, Procedure::TestMsg, &test),
        message(1, Version::V4, Procedure::Granted, &test),
        // Version 1 ends before NM_LOCK.
        rpc::call(
            1,
            nlm::PROGRAM,
            1,
            Procedure::NmLock.number(),
            &Credential::None,
            &reclaim().encode(Version::V1).unwrap(),
        ),
        rpc::call(
            1,
            nlm::PROGRAM,
            2,
            Procedure::Lock.number(),
            &Credential::None,
            &reclaim().encode(Version::V1).unwrap(),
        ),
        rpc::call(1, 100_003, 4, Procedure::Lock.number(), &Credential::None, &reclaim().encode(Version::V4).unwrap()),
        rpc::call(1, nlm::PROGRAM, 4, 0, &Credential::None, &[]),
        rpc::reply(1, &rpc::Answer::SystemErr),
        b"no call".to_vec(),
    ];
    for sent in silent {
        assert_eq!(passed(&mut filter, &sent), sent);
    }
    assert_eq!(filter.told, []);
}

#[test]
fn words_are_read_as_lockd_reads_them() {
    let mut filter = Filter::in_mode(Mode::Drain);
    let mut odd = message(1, Version::V4, Procedure::Lock, &reclaim());
    let end = odd.len();
    // Any word but 0 is true, and what is behind the arguments does not count.
    odd[end - 8..end - 4].copy_from_slice(&[7, 0, 0, 0]);
    odd.extend([1; 8]);
    let mut wanted = message(1, Version::V4, Procedure::Lock, &LockArgs { block: false, ..args() });
    wanted.extend([1; 8]);
    assert_eq!(passed(&mut filter, &odd), wanted);
}

#[test]
fn a_range_is_the_one_that_lockd_makes_of_it() {
    let range = |version: Version, offset: u64, len: u64| {
        let mut filter = Filter::in_mode(Mode::Strict);
        let alock = Lock { offset, len, ..args().alock };
        passed(&mut filter, &message(1, version, Procedure::Lock, &LockArgs { alock, ..args() }));
        let Request::Lock(lock) = &filter.calls()[0].request else { panic!() };
        (lock.claim.range.start, lock.claim.range.end)
    };
    let most = i64::MAX.cast_unsigned();
    for (version, offset, len, start, end) in [
        (Version::V4, 5, 0, 5, u64::MAX),
        (Version::V4, 5, 1, 5, 5),
        (Version::V4, 0, most, 0, most - 1),
        (Version::V4, 1, most, 1, u64::MAX),
        (Version::V4, u64::MAX, 2, u64::MAX, u64::MAX),
        (Version::V3, 5, 0, 5, u64::MAX),
        (Version::V3, 0, 0x7fff_ffff, 0, 0x7fff_fffe),
        (Version::V1, 1, 0x8000_0000, 1, u64::MAX),
    ] {
        assert_eq!(range(version, offset, len), (start, end), "{version:?} {offset} {len}");
    }
}

#[test]
fn a_waiters_resend_passes_until_it_is_taken_back() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut filter = Filter::in_mode(mode);
        let waiter = claim(Version::V4, Transport::Udp);
        filter.order(Order::Pending(Claim { svid: Svid(1), ..waiter.clone() }));
        filter.order(Order::Waiter(waiter));
        let sent = lock(1, &args());
        assert_eq!(passed(&mut filter, &sent), sent);
        let other = LockArgs { exclusive: false, ..args() };
        let does_not_wait = LockArgs { block: false, ..args() };
        for refused in [other, does_not_wait] {
            let got = passed(&mut filter, &lock(2, &refused));
            assert_eq!(got, lock(2, &LockArgs { reclaim: true, ..refused }));
        }
        let LockArgs { cookie, block, exclusive, alock, .. } = args();
        passed(&mut filter, &message(3, Version::V4, Procedure::Cancel, &CancArgs { cookie, block, exclusive, alock }));
        assert_eq!(passed(&mut filter, &sent), lock(1, &reclaim()));
        assert_eq!(filter.treated(), [Passed, Refused, Refused, Passed, Refused]);
    }
}

#[test]
fn in_targeted_mode_only_what_meets_another_owners_pending_lock_is_refused() {
    let mine = claim(Version::V4, Transport::Udp);
    let other = Claim { svid: Svid(8), ..mine.clone() };
    let range = |start, end| ByteRange { start, end };
    let shared = LockArgs { exclusive: false, ..args() };
    let elsewhere = FileHandle::new(b"another").unwrap();
    let way = Way { transport: Transport::Tcp, ..mine.way };
    for (pending, asked, refused) in [
        (mine.clone(), args(), false),
        (other.clone(), args(), true),
        (Claim { way, ..mine.clone() }, args(), true),
        (Claim { range: range(0, 9), ..other.clone() }, args(), false),
        (Claim { range: range(0, 10), ..other.clone() }, args(), true),
        (Claim { range: range(19, u64::MAX), ..other.clone() }, args(), true),
        (Claim { range: range(20, u64::MAX), ..other.clone() }, args(), false),
        (Claim { file: elsewhere, ..other.clone() }, args(), false),
        (other.clone(), shared.clone(), true),
        (Claim { exclusive: false, ..other.clone() }, args(), true),
        (Claim { exclusive: false, ..other.clone() }, shared, false),
    ] {
        let mut filter = Filter::in_mode(Mode::Targeted);
        filter.order(Order::Pending(pending.clone()));
        filter.order(Order::Pending(pending.clone()));
        filter.order(Order::NotPending(pending.clone()));
        let got = passed(&mut filter, &lock(1, &asked));
        assert_eq!(got, lock(1, &LockArgs { reclaim: refused, ..asked.clone() }), "{pending:?} {asked:?}");
        filter.order(Order::NotPending(pending));
        assert_eq!(passed(&mut filter, &lock(1, &asked)), lock(1, &asked));
    }
}

#[test]
fn what_cannot_be_read_is_dropped_and_told_when_it_comes_again_but_passes_while_the_filter_is_off() {
    let whole = lock(1, &reclaim());
    let gss = rpc::call(1, nlm::PROGRAM, 4, 2, &Credential::Other(6), &reclaim().encode(Version::V4).unwrap());
    for odd in [&whole[..whole.len() - 1], &whole[..60], &gss] {
        let mut filter = Filter::in_mode(Mode::Strict);
        assert_eq!(filter.take(datagram(odd)), Some(Verdict::Drop));
        assert_eq!(filter.told, []);
        assert_eq!(filter.take(datagram(odd)), Some(Verdict::Drop));
        assert_eq!(filter.blinds().len(), 1);
        filter.order(Order::Mode(Mode::Off));
        assert_eq!(filter.take(datagram(odd)), Some(Verdict::Pass));
        assert_eq!((filter.blinds().len(), filter.calls().len()), (2, 0));
    }
}

#[test]
fn datagrams_that_are_damaged_or_come_in_parts_do_not_pass() {
    let sound = datagram(&lock(1, &reclaim()));
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut part = sound.clone();
    // The flag "more fragments" in place of "don't fragment", and what that makes of the header's sum.
    part[6] = 0x20;
    part[10] = part[10].wrapping_add(0x20);
    let mut none = sound.clone();
    let header = payload_at(&none) - 2;
    none[header..header + 2].copy_from_slice(&[0, 0]);
    let mut filter = Filter::in_mode(Mode::Strict);
    assert_eq!(filter.take(damaged.clone()), Some(Verdict::Drop));
    assert_eq!(filter.take(part), Some(Verdict::Drop));
    assert_eq!(filter.blinds(), ["a datagram came in parts, and the filter sees one part at a time"]);
    let Some(Verdict::Changed(got)) = filter.take(none) else { panic!("{:?}", filter.verdicts) };
    assert_eq!(got[header..header + 2], [0, 0], "one without a checksum stays without");
    assert!(matches!(filter.take(sound), Some(Verdict::Changed(_))));
    filter.order(Order::Mode(Mode::Off));
    assert_eq!(filter.take(damaged), Some(Verdict::Pass));
}

#[test]
fn a_call_over_ipv6_is_changed_too_and_a_link_local_client_is_known_with_its_interface() {
    let mut filter = Filter::in_mode(Mode::Strict);
    let sent = udp(("fe80::11", CLIENT_PORT), ("fe80::1", SERVER_PORT), &lock(1, &reclaim()));
    let Some(Verdict::Changed(got)) = filter.take(sent) else { panic!("{:?}", filter.verdicts) };
    assert_sound(&got);
    assert_eq!(got[payload_at(&got)..], lock(1, &LockArgs { block: false, ..args() }));
    let way = filter.calls()[0].way;
    assert_eq!((way.client.to_string(), way.server.to_string()), ("fe80::11%2".into(), "fe80::1%2".into()));
}

#[test]
fn a_call_that_is_sent_again_is_told_again_with_a_number_of_its_own() {
    let mut filter = Filter::in_mode(Mode::Strict);
    for _ in 0..3 {
        passed(&mut filter, &lock(1, &args()));
    }
    let numbers: Vec<_> = filter.calls().iter().map(|call| call.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}
