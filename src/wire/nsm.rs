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
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
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
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct MonId {
    /// The host to monitor.
    pub mon_name: CallerName,
    /// Whom to call back.
    pub my_id: MyId,
}

/// `mon`.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct MonArgs {
    /// Whom to monitor, whom to tell.
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
