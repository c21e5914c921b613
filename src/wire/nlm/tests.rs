use proptest::prelude::*;

use super::*;
use crate::wire::vectors::{bytes, comes_back, is_written};
use crate::wire::xdr::decode;

fn cookie() -> Cookie {
    Cookie::new(&[0, 0, 0, 10]).unwrap()
}

fn lock(offset: u64, len: u64) -> Lock {
    Lock {
        caller_name: CallerName::new("c1").unwrap(),
        fh: FileHandle::new(&[0xaa, 0xbb, 0xcc, 0xdd]).unwrap(),
        oh: OwnerHandle::new(b"1@c1").unwrap(),
        svid: Svid(7),
        offset,
        len,
    }
}

const COOKIE: &str = "00000004 0000000a";
// XNFS chapter 14, "struct nlm4_lock": caller_name, fh, oh, svid, l_offset, l_len.
const LOCK4: &str = "00000002 63310000 00000004 aabbccdd 00000004 31406331 00000007
    00000000 00000010 00000000 00000100";
// XNFS chapter 10, "struct nlm_lock".
const LOCK3: &str = "00000002 63310000 00000004 aabbccdd 00000004 31406331 00000007 00000010 00000100";

/// In version 4 it is `four`; in versions 1 and 3 it is `three`.
fn both<T: Message + Pack + Unpack + PartialEq + std::fmt::Debug>(value: &T, four: &str, three: &str) {
    is_written(value, four);
    for version in Version::ALL {
        let text = if version == Version::V4 { four } else { three };
        let written = bytes(text);
        assert_eq!(value.encode(version).unwrap(), written, "{version:?}");
        assert_eq!(&T::decode(version, &written).unwrap(), value, "{version:?}");
        for end in 0..written.len() {
            assert!(T::decode(version, &written[..end]).is_err(), "{version:?} cut at {end}");
        }
        assert!(T::decode(version, &[written.as_slice(), &[0; 4]].concat()).is_err(), "{version:?}");
    }
}

// XNFS chapters 10 and 14, "struct nlm_testargs": cookie, exclusive, alock.
#[test]
fn testargs() {
    let args = TestArgs { cookie: cookie(), exclusive: true, alock: lock(16, 256) };
    both(&args, &format!("{COOKIE} 00000001 {LOCK4}"), &format!("{COOKIE} 00000001 {LOCK3}"));
}

// "struct nlm_lockargs": cookie, block, exclusive, alock, reclaim, state.
#[test]
fn lockargs() {
    let args = LockArgs {
        cookie: cookie(),
        block: true,
        exclusive: false,
        alock: lock(16, 256),
        reclaim: true,
        state: NsmState(-3),
    };
    let around = |lock: &str| format!("{COOKIE} 00000001 00000000 {lock} 00000001 fffffffd");
    both(&args, &around(LOCK4), &around(LOCK3));
}

// "struct nlm_cancargs": cookie, block, exclusive, alock.
#[test]
fn cancargs() {
    let args = CancArgs { cookie: cookie(), block: false, exclusive: true, alock: lock(16, 256) };
    let around = |lock: &str| format!("{COOKIE} 00000000 00000001 {lock}");
    both(&args, &around(LOCK4), &around(LOCK3));
}

// "struct nlm_unlockargs": cookie, alock.
#[test]
fn unlockargs() {
    let args = UnlockArgs { cookie: cookie(), alock: lock(16, 256) };
    both(&args, &format!("{COOKIE} {LOCK4}"), &format!("{COOKIE} {LOCK3}"));
}

// "struct nlm_res": cookie, stat.
#[test]
fn res() {
    let res = Res { cookie: cookie(), stat: Stat::DeniedGracePeriod };
    let text = format!("{COOKIE} 00000004");
    both(&res, &text, &text);
}

// "struct nlm_testres", "union nlm_testrply": a holder with LCK_DENIED, nothing with the rest.
#[test]
fn testres() {
    let holder =
        Holder { exclusive: true, svid: Svid(-2), oh: OwnerHandle::new(&[9, 8, 7]).unwrap(), offset: 5, len: 0 };
    let denied = TestRes { cookie: cookie(), reply: TestReply::Denied(holder) };
    both(
        &denied,
        &format!("{COOKIE} 00000001 00000001 fffffffe 00000003 09080700 00000000 00000005 00000000 00000000"),
        &format!("{COOKIE} 00000001 00000001 fffffffe 00000003 09080700 00000005 00000000"),
    );
    let granted = TestRes { cookie: cookie(), reply: TestReply::GRANTED };
    let text = format!("{COOKIE} 00000000");
    both(&granted, &text, &text);
}

// "struct nlm_share": caller_name, fh, oh, mode, access; "struct nlm_shareargs": cookie, share, reclaim.
#[test]
fn shareargs() {
    let Lock { caller_name, fh, oh, .. } = lock(0, 0);
    let share = Share { caller_name, fh, oh, mode: ShareBits::Write, access: ShareBits::ReadWrite };
    let args = ShareArgs { cookie: cookie(), share, reclaim: false };
    let text = format!("{COOKIE} 00000002 63310000 00000004 aabbccdd 00000004 31406331 00000002 00000003 00000000");
    both(&args, &text, &text);
}

#[test]
fn a_share_mode_or_access_beyond_three_is_refused() {
    let share = |mode: u32, access: u32| {
        let text = format!("00000000 00000001 63000000 00000000 00000000 {mode:08x} {access:08x} 00000000");
        ShareArgs::decode(Version::V3, &bytes(&text))
    };
    assert!(share(3, 3).is_ok());
    assert!(share(4, 0).is_err());
    assert!(share(0, 4).is_err());
    assert!(share(u32::MAX, 0).is_err());
}

// "struct nlm_shareres": cookie, stat, sequence.
#[test]
fn shareres() {
    let res = ShareRes { cookie: cookie(), stat: Stat::Granted, sequence: 0 };
    let text = format!("{COOKIE} 00000000 00000000");
    both(&res, &text, &text);
}

// "struct nlm_notify": name, state.
#[test]
fn notify() {
    let args = NotifyArgs { name: CallerName::new("c1").unwrap(), state: NsmState(3) };
    both(&args, "00000002 63310000 00000003", "00000002 63310000 00000003");
}

// No specification has it: name, state, and the 16 bytes that went into SM_MON.
#[test]
fn sm_notify() {
    let args = SmNotifyArgs { name: CallerName::new("c1").unwrap(), state: NsmState(3), private: [0x5a; 16] };
    let text = "00000002 63310000 00000003 5a5a5a5a 5a5a5a5a 5a5a5a5a 5a5a5a5a";
    both(&args, text, text);
}

#[test]
fn a_range_beyond_32_bits_cannot_be_told_to_the_older_versions() {
    for (offset, len) in [(1 << 32, 1), (0, 1 << 32), (u64::MAX, 0)] {
        let args = UnlockArgs { cookie: cookie(), alock: lock(offset, len) };
        assert!(args.encode(Version::V4).is_ok());
        assert_eq!(args.encode(Version::V1), Err(TooWide { offset, len }));
        assert_eq!(args.encode(Version::V3), Err(TooWide { offset, len }));
    }
    for (offset, len) in [(0, 0), (u64::from(u32::MAX), u64::from(u32::MAX))] {
        let args = UnlockArgs { cookie: cookie(), alock: lock(offset, len) };
        assert_eq!(UnlockArgs::decode(Version::V3, &args.encode(Version::V3).unwrap()).unwrap(), args);
    }
}

#[test]
fn a_holder_beyond_32_bits_can_be_clipped_for_the_older_versions() {
    let holder =
        |offset, len| Holder { exclusive: true, svid: Svid(1), oh: OwnerHandle::new(b"").unwrap(), offset, len };
    let max = u64::from(u32::MAX);
    assert_eq!(holder(5, 7).clipped(), holder(5, 7));
    assert_eq!(holder(5, 1 << 40).clipped(), holder(5, 0));
    assert_eq!(holder(1 << 40, 3).clipped(), holder(max, 0));
    assert_eq!(holder(u64::MAX, 0).clipped(), holder(max, 0));
}

#[test]
fn a_status_of_version_4_alone_becomes_nolocks_in_the_older_ones() {
    let told = |stat| {
        let res = Res { cookie: cookie(), stat };
        Res::decode(Version::V3, &res.encode(Version::V3).unwrap()).unwrap().stat
    };
    for stat in
        [Stat::Granted, Stat::Denied, Stat::DeniedNolocks, Stat::Blocked, Stat::DeniedGracePeriod, Stat::Deadlck]
    {
        assert_eq!(told(stat), stat);
    }
    for stat in [Stat::Rofs, Stat::StaleFh, Stat::Fbig, Stat::Failed] {
        assert_eq!(told(stat), Stat::DeniedNolocks);
    }
    let test = TestRes { cookie: cookie(), reply: TestReply::FBIG };
    let narrow = TestRes::decode(Version::V1, &test.encode(Version::V1).unwrap()).unwrap();
    assert_eq!(narrow.reply, TestReply::NOLOCKS);
}

#[test]
fn denied_is_never_without_its_holder() {
    assert_eq!(NotDenied::new(Stat::Denied), None);
    assert!(TestRes::decode(Version::V4, &bytes(&format!("{COOKIE} 00000001"))).is_err());
}

#[test]
fn a_range_that_would_end_beyond_64_bits_is_read_and_has_no_bytes() {
    let args = UnlockArgs { cookie: cookie(), alock: lock(u64::MAX, 2) };
    let read = UnlockArgs::decode(Version::V4, &args.encode(Version::V4).unwrap()).unwrap();
    assert_eq!(read.alock.range(), None);
    // In the older versions nothing wraps: 32 bits of offset and of length fit 64.
    let old = UnlockArgs { cookie: cookie(), alock: lock(0xffff_fff0, 0x100) };
    let read = UnlockArgs::decode(Version::V3, &old.encode(Version::V3).unwrap()).unwrap();
    assert_eq!(read.alock.range(), Some(ByteRange { start: 0xffff_fff0, end: 0x1_0000_00ef }));
}

#[test]
fn version_1_ends_before_share_and_procedures_have_their_numbers() {
    let numbers = |version| -> Vec<u32> {
        (0..100).filter_map(|n| Procedure::from_number(version, n)).map(Procedure::number).collect()
    };
    let old: Vec<u32> = (0..=16).collect();
    let all: Vec<u32> = (0..=16).chain(20..=23).collect();
    assert_eq!(numbers(Version::V1), old);
    assert_eq!(numbers(Version::V3), all);
    assert_eq!(numbers(Version::V4), all);
    assert_eq!((Procedure::GrantedRes.number(), Procedure::FreeAll.number()), (15, 23));
    assert_eq!(Version::from_number(2), None);
}

#[test]
fn strings_and_netobjs_over_1024_bytes_are_refused_before_they_are_read() {
    let mut long = bytes("00000401");
    long.resize(2000, 0);
    assert!(UnlockArgs::decode(Version::V4, &long).is_err());
    let huge = bytes("ffffffff 00000000");
    assert!(UnlockArgs::decode(Version::V4, &huge).is_err());
}

// A host without a name yet sends an empty one; others count the NUL that ends it, or send their own code page.
#[test]
fn a_caller_name_may_have_any_bytes_or_none() {
    for (sent, name) in [
        ("00000000 00000003", &b""[..]),
        ("00000003 76780000 00000003", b"vx\0"),
        ("00000002 83580000 00000003", b"\x83\x58"),
    ] {
        let args: NotifyArgs = decode(&bytes(sent)).unwrap();
        assert_eq!((args.name.bytes().as_slice(), args.state), (name, NsmState(3)));
        is_written(&args, sent);
    }
}

prop_compose! {
    fn any_lock()(
        name in prop::collection::vec(any::<u8>(), 0..40), fh in prop::collection::vec(any::<u8>(), 0..70),
        oh in prop::collection::vec(any::<u8>(), 0..40), svid: i32, offset: u64, len: u64,
    ) -> Lock {
        Lock {
            caller_name: CallerName::of_bytes(&name).unwrap(),
            fh: FileHandle::new(&fh).unwrap(),
            oh: OwnerHandle::new(&oh).unwrap(),
            svid: Svid(svid),
            offset,
            len,
        }
    }
}

proptest! {
    #[test]
    fn lockargs_come_back(alock in any_lock(), block: bool, exclusive: bool, reclaim: bool, state: i32, cookie: Vec<u8>) {
        let cookie = Cookie::new(&cookie).unwrap();
        let args = LockArgs { cookie, block, exclusive, alock, reclaim, state: NsmState(state) };
        comes_back(&args);
        if let Ok(narrow) = args.encode(Version::V3) {
            prop_assert_eq!(LockArgs::decode(Version::V3, &narrow).unwrap(), args);
        } else {
            prop_assert!(args.alock.offset > u64::from(u32::MAX) || args.alock.len > u64::from(u32::MAX));
        }
    }

    #[test]
    fn a_clipped_holder_can_always_be_told(offset: u64, len: u64) {
        let holder = Holder { exclusive: false, svid: Svid(0), oh: OwnerHandle::new(b"").unwrap(), offset, len };
        let res = TestRes { cookie: cookie(), reply: TestReply::Denied(holder.clipped()) };
        prop_assert!(res.encode(Version::V1).is_ok());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for version in Version::ALL {
            let _ = TestArgs::decode(version, &bytes);
            let _ = LockArgs::decode(version, &bytes);
            let _ = CancArgs::decode(version, &bytes);
            let _ = UnlockArgs::decode(version, &bytes);
            let _ = TestRes::decode(version, &bytes);
            let _ = Res::decode(version, &bytes);
            let _ = ShareArgs::decode(version, &bytes);
            let _ = ShareRes::decode(version, &bytes);
            let _ = NotifyArgs::decode(version, &bytes);
            let _ = SmNotifyArgs::decode(version, &bytes);
        }
    }

    #[test]
    fn a_lock_with_any_byte_changed_never_panics(at in 0_usize..60, byte: u8) {
        let mut text = bytes(&format!("{COOKIE} 00000001 00000000 {LOCK4} 00000001 fffffffd"));
        let at = at % text.len();
        text[at] = byte;
        let _ = LockArgs::decode(Version::V4, &text);
    }
}
