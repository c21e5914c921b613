//! NSM, the status monitor's protocol (XNFS chapter 11).

use super::types::{CallerName, NsmState};
use super::xdr::XdrCodec;

/// `SM_PROG`.
pub const PROGRAM: u32 = 100_024;
/// `SM_VERS`.
pub const VERSION: u32 = 1;
/// `SM_MAXSTRLEN`: longest name in bytes ([`CallerName`] has the same bound).
pub const MAX_STRING: usize = 1024;

/// Procedure numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Procedure {
    /// void -> void
    Null = 0,
    /// [`SmName`] -> [`StatRes`]: may that host be monitored? Answers the state number of the statd asked.
    Stat = 1,
    /// [`MonArgs`] -> [`StatRes`]: monitor a host.
    Mon = 2,
    /// [`MonId`] -> [`Stat`]: stop monitoring a host.
    Unmon = 3,
    /// [`MyId`] -> [`Stat`]: stop monitoring every host.
    UnmonAll = 4,
    /// void -> void: behave as after a crash.
    SimuCrash = 5,
    /// [`NotifyArgs`] -> void: a host rebooted.
    Notify = 6,
}

impl Procedure {
    /// The procedure of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Null, Self::Stat, Self::Mon, Self::Unmon, Self::UnmonAll, Self::SimuCrash, Self::Notify]
            .into_iter()
            .find(|p| *p as u32 == number)
    }
}

/// `sm_name`.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct SmName {
    /// The host.
    pub mon_name: CallerName,
}

/// `res`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum ResStat {
    /// `STAT_SUCC`
    Success = 0,
    /// `STAT_FAIL`
    Fail = 1,
}

/// `sm_stat_res`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct StatRes {
    /// Whether the host can be monitored.
    pub res_stat: ResStat,
    /// The state number of the NSM that answers.
    pub state: NsmState,
}

/// `sm_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct Stat {
    /// The state number of the NSM that answers.
    pub state: NsmState,
}

/// `my_id`: whom to call back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
pub struct MyId {
    /// The host to call.
    pub my_name: CallerName,
    /// The program.
    pub my_prog: u32,
    /// Its version.
    pub my_vers: u32,
    /// The procedure.
    pub my_proc: u32,
}

/// `mon_id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
pub struct MonId {
    /// The host to monitor.
    pub mon_name: CallerName,
    /// The program to call back.
    pub my_id: MyId,
}

/// `mon`.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct MonArgs {
    /// The host to monitor, and the program to call.
    pub mon_id: MonId,
    /// Handed back in the callback.
    pub private: [u8; 16],
}

/// `stat_chge`: the argument of SM_NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct NotifyArgs {
    /// The host that rebooted, as its peers know it.
    pub mon_name: CallerName,
    /// Its new state number.
    pub state: NsmState,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::is_written;
    use crate::wire::xdr::decode;

    fn name(text: &str) -> CallerName {
        CallerName::new(text).unwrap()
    }

    fn me() -> MyId {
        MyId { my_name: name("srv"), my_prog: 100_021, my_vers: 4, my_proc: 16 }
    }

    // XNFS chapter 11, "struct sm_name".
    #[test]
    fn sm_name_is_a_string() {
        is_written(&SmName { mon_name: name("host1") }, "00000005 686f7374 31000000");
    }

    // XNFS chapter 11, "struct sm_stat_res".
    #[test]
    fn sm_stat_res_is_the_result_and_the_state() {
        is_written(&StatRes { res_stat: ResStat::Success, state: NsmState(3) }, "00000000 00000003");
        is_written(&StatRes { res_stat: ResStat::Fail, state: NsmState(-1) }, "00000001 ffffffff");
    }

    // XNFS chapter 11, "struct mon": mon_id { mon_name, my_id }, then 16 bytes.
    #[test]
    fn mon_is_whom_to_monitor_whom_to_call_and_sixteen_bytes() {
        let mon = MonArgs {
            mon_id: MonId { mon_name: name("h"), my_id: me() },
            private: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        };
        let text = "00000001 68000000
            00000003 73727600 000186b5 00000004 00000010
            00010203 04050607 08090a0b 0c0d0e0f";
        is_written(&mon, text);
    }

    // XNFS chapter 11, "struct mon_id", "struct my_id", "struct sm_stat".
    #[test]
    fn unmon_and_its_answer() {
        is_written(
            &MonId { mon_name: name("h"), my_id: me() },
            "00000001 68000000 00000003 73727600 000186b5 00000004 00000010",
        );
        is_written(&me(), "00000003 73727600 000186b5 00000004 00000010");
        is_written(&Stat { state: NsmState(5) }, "00000005");
    }

    // XNFS chapter 11, "struct stat_chge".
    #[test]
    fn notify_is_the_host_and_its_new_state() {
        is_written(&NotifyArgs { mon_name: name("srv1"), state: NsmState(7) }, "00000004 73727631 00000007");
    }

    #[test]
    fn a_name_over_1024_bytes_is_refused_before_it_is_read() {
        assert!(decode::<SmName>(&[0, 0, 4, 1]).is_err());
        assert!(decode::<SmName>(&[255; 8]).is_err());
        assert_eq!(MAX_STRING, crate::wire::types::MAX_NETOBJ);
    }

    #[test]
    fn procedures_have_the_numbers_of_the_specification() {
        let numbers: Vec<u32> = (0..10).filter_map(Procedure::from_number).map(|p| p as u32).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Procedure::from_number(6), Some(Procedure::Notify));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<MonArgs>(&bytes);
            let _ = decode::<MonId>(&bytes);
            let _ = decode::<NotifyArgs>(&bytes);
            let _ = decode::<StatRes>(&bytes);
        }
    }
}
