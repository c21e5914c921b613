//! The procedures as data: version, number, name, how it is answered, who may call it.
//!
//! `tests/golden/nlm_dispatch.txt` is this table as text.

use std::fmt;
use std::net::SocketAddr;

use crate::wire::nlm::{Procedure as Nlm, Version};
use crate::wire::nsm::Procedure as Nsm;
use crate::wire::rpc::Answer;

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By its reply.
    Reply,
    /// By a call of this procedure to the caller's lockd (XNFS chapter 10, asynchronous procedures).
    /// Its own reply is void and says only that it came.
    OneWay(Nlm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every address that `--allow` covers.
    Anyone,
    /// Likewise, and it touches only what the client at the caller's own address holds.
    OwnHost,
    /// Processes of this host.
    Loopback,
    /// Processes of this host that may use a port below 1024, independent of the flags.
    LoopbackRoot,
    /// This host's rpc.statd, where it is the status monitor (`--nsm statd`), and no other caller.
    Statd,
    /// No host: it is a client's procedure.
    Never,
}

/// What flags say about who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// `--privileged-ports`: what changes state is taken from ports below 1024 only.
    pub privileged_ports: bool,
    /// `--nsm statd`.
    pub statd: bool,
}

/// Ports that only root may use.
const PRIVILEGED: std::ops::Range<u16> = 1..1024;

/// Whether only root can have called from this port.
pub fn is_privileged(caller: SocketAddr) -> bool {
    PRIVILEGED.contains(&caller.port())
}

/// What a caller who may not is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such procedure for it.
    NotForIt,
    /// It must call from a port below 1024.
    Port,
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotForIt => Self::ProcUnavail,
            Refused::Port => Self::TooWeak,
        }
    }
}

impl Access {
    /// Whether `caller` (whose address `--allow` covers) may call. `guarded`: what it would change
    /// is worth a port below 1024, where that is asked for.
    pub fn check(self, caller: SocketAddr, guarded: bool, rules: Rules) -> Result<(), Refused> {
        let local = caller.ip().to_canonical().is_loopback();
        let admitted = match self {
            Self::Anyone | Self::OwnHost => true,
            Self::Loopback | Self::LoopbackRoot => local,
            Self::Statd => local && rules.statd,
            Self::Never => false,
        };
        if !admitted {
            return Err(Refused::NotForIt);
        }
        let wants_port = self == Self::LoopbackRoot || (guarded && rules.privileged_ports);
        if wants_port && !is_privileged(caller) { Err(Refused::Port) } else { Ok(()) }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "anyone allowed",
            Self::OwnHost => "the lock's own host",
            Self::Loopback => "loopback only",
            Self::LoopbackRoot => "loopback only, from a port below 1024",
            Self::Statd => "this host's statd (--nsm statd)",
            Self::Never => "never",
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub struct NlmRow {
    pub procedure: Nlm,
    /// Its name in the specification, without `NLM_` or `NLMPROC4_`.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares the table as text with a file"))]
    pub name: &'static str,
    /// Whether version 1 has it; 3 and 4 have all.
    pub in_v1: bool,
    /// How it is answered.
    pub form: Form,
    pub access: Access,
    /// Whether `--privileged-ports` covers it: it changes what is locked.
    pub guarded: bool,
}

const fn row(procedure: Nlm, name: &'static str, in_v1: bool, form: Form, access: Access) -> NlmRow {
    NlmRow { procedure, name, in_v1, form, access, guarded: false }
}

impl NlmRow {
    const fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }
}

/// NLM, program 100021, versions 1, 3 and 4. nlmd is a server only: it asks no host for locks, so a
/// GRANTED that comes in is answered DENIED, and answers (`_RES`) that come in have no question.
/// SM_NOTIFY is a local statd's callback: from anywhere else it would free locks on a stranger's
/// word. Where nlmd is its own status monitor no program can have been given a cookie.
pub const NLM: &[NlmRow] = &[
    row(Nlm::Null, "NULL", true, Form::Reply, Access::Anyone),
    row(Nlm::Test, "TEST", true, Form::Reply, Access::Anyone),
    row(Nlm::Lock, "LOCK", true, Form::Reply, Access::Anyone).guarded(),
    row(Nlm::Cancel, "CANCEL", true, Form::Reply, Access::OwnHost).guarded(),
    row(Nlm::Unlock, "UNLOCK", true, Form::Reply, Access::OwnHost).guarded(),
    row(Nlm::Granted, "GRANTED", true, Form::Reply, Access::Anyone),
    row(Nlm::TestMsg, "TEST_MSG", true, Form::OneWay(Nlm::TestRes), Access::Anyone),
    row(Nlm::LockMsg, "LOCK_MSG", true, Form::OneWay(Nlm::LockRes), Access::Anyone).guarded(),
    row(Nlm::CancelMsg, "CANCEL_MSG", true, Form::OneWay(Nlm::CancelRes), Access::OwnHost).guarded(),
    row(Nlm::UnlockMsg, "UNLOCK_MSG", true, Form::OneWay(Nlm::UnlockRes), Access::OwnHost).guarded(),
    row(Nlm::GrantedMsg, "GRANTED_MSG", true, Form::OneWay(Nlm::GrantedRes), Access::Anyone),
    row(Nlm::TestRes, "TEST_RES", true, Form::Reply, Access::Never),
    row(Nlm::LockRes, "LOCK_RES", true, Form::Reply, Access::Never),
    row(Nlm::CancelRes, "CANCEL_RES", true, Form::Reply, Access::Never),
    row(Nlm::UnlockRes, "UNLOCK_RES", true, Form::Reply, Access::Never),
    row(Nlm::GrantedRes, "GRANTED_RES", true, Form::Reply, Access::Never),
    row(Nlm::SmNotify, "SM_NOTIFY", true, Form::Reply, Access::Statd).guarded(),
    row(Nlm::Share, "SHARE", false, Form::Reply, Access::Anyone).guarded(),
    row(Nlm::Unshare, "UNSHARE", false, Form::Reply, Access::OwnHost).guarded(),
    row(Nlm::NmLock, "NM_LOCK", false, Form::Reply, Access::Anyone).guarded(),
    row(Nlm::FreeAll, "FREE_ALL", false, Form::Reply, Access::OwnHost).guarded(),
];

/// The row of a number in a version.
pub fn nlm(version: Version, number: u32) -> Option<&'static NlmRow> {
    NLM.iter().find(|row| row.procedure.number() == number && (row.in_v1 || version != Version::V1))
}

#[derive(Debug, Clone, Copy)]
pub struct NsmRow {
    pub procedure: Nsm,
    pub name: &'static str,
    pub access: Access,
    /// Whether `--privileged-ports` covers it.
    pub guarded: bool,
}

const fn nsm_row(procedure: Nsm, name: &'static str, access: Access, guarded: bool) -> NsmRow {
    NsmRow { procedure, name, access, guarded }
}

/// NSM, program 100024, version 1; served with `--nsm embedded` only. A reboot notice frees the
/// sender's own locks and no others. SM_SIMU_CRASH makes other hosts drop what this host's
/// processes hold there, so it wants root.
pub const NSM: &[NsmRow] = &[
    nsm_row(Nsm::Null, "NULL", Access::Anyone, false),
    nsm_row(Nsm::Stat, "SM_STAT", Access::Anyone, false),
    nsm_row(Nsm::Mon, "SM_MON", Access::Loopback, true),
    nsm_row(Nsm::Unmon, "SM_UNMON", Access::Loopback, true),
    nsm_row(Nsm::UnmonAll, "SM_UNMON_ALL", Access::Loopback, true),
    nsm_row(Nsm::SimuCrash, "SM_SIMU_CRASH", Access::LoopbackRoot, true),
    nsm_row(Nsm::Notify, "SM_NOTIFY", Access::OwnHost, true),
];

/// The row of a number.
pub fn nsm(number: u32) -> Option<&'static NsmRow> {
    NSM.iter().find(|row| row.procedure as u32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn who(access: Access, guarded: bool) -> String {
        let port = if guarded && access != Access::LoopbackRoot { "; --privileged-ports" } else { "" };
        format!("{access}{port}")
    }

    fn rendered() -> String {
        let mut text = String::new();
        for version in Version::ALL {
            for number in 0..=24 {
                let Some(row) = nlm(version, number) else { continue };
                let form = match row.form {
                    Form::Reply => "reply".to_owned(),
                    Form::OneWay(answer) => format!("one-way, {answer:?}"),
                };
                let version = version.number();
                writeln!(
                    text,
                    "nlm v{version} {number:>2} {:<13} {form:<19} {}",
                    row.name,
                    who(row.access, row.guarded)
                )
                .unwrap();
            }
        }
        for row in NSM {
            let number = row.procedure as u32;
            writeln!(text, "nsm v1 {number:>2} {:<13} {:<19} {}", row.name, "reply", who(row.access, row.guarded))
                .unwrap();
        }
        text
    }

    /// With BLESS=1 in the environment the file is written anew.
    #[test]
    fn the_dispatch_table_is_the_one_on_record() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nlm_dispatch.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, rendered()).unwrap();
        }
        assert_eq!(rendered(), std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn every_procedure_that_the_wire_knows_has_a_row() {
        for version in Version::ALL {
            for number in 0..100 {
                assert_eq!(
                    nlm(version, number).map(|row| row.procedure),
                    Nlm::from_number(version, number),
                    "version {version:?}, procedure {number}"
                );
            }
        }
        for number in 0..10 {
            assert_eq!(nsm(number).map(|row| row.procedure), Nsm::from_number(number));
        }
    }

    fn from(address: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), port)
    }

    #[test]
    fn loopback_only_means_it() {
        let check = |access: Access, caller| access.check(caller, true, Rules::default());
        for here in ["127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(check(Access::Loopback, from(here, 5000)), Ok(()));
        }
        assert_eq!(check(Access::Loopback, from("192.0.2.1", 700)), Err(Refused::NotForIt));
        assert_eq!(check(Access::Never, from("127.0.0.1", 700)), Err(Refused::NotForIt));
        assert_eq!(check(Access::LoopbackRoot, from("127.0.0.1", 5000)), Err(Refused::Port));
        assert_eq!(check(Access::LoopbackRoot, from("127.0.0.1", 700)), Ok(()));
        assert_eq!(check(Access::LoopbackRoot, from("192.0.2.1", 700)), Err(Refused::NotForIt));
    }

    #[test]
    fn the_callback_of_a_statd_is_taken_only_where_there_is_one_and_from_here() {
        let rules = Rules { statd: true, ..Rules::default() };
        assert_eq!(Access::Statd.check(from("127.0.0.1", 700), true, rules), Ok(()));
        assert_eq!(Access::Statd.check(from("192.0.2.1", 700), true, rules), Err(Refused::NotForIt));
        assert_eq!(Access::Statd.check(from("127.0.0.1", 700), true, Rules::default()), Err(Refused::NotForIt));
    }

    #[test]
    fn privileged_ports_are_wanted_only_on_request_and_only_for_what_changes_state() {
        let rules = Rules { privileged_ports: true, ..Rules::default() };
        let (low, high) = (from("192.0.2.1", 1023), from("192.0.2.1", 1024));
        assert_eq!(Access::Anyone.check(high, true, Rules::default()), Ok(()));
        assert_eq!(Access::Anyone.check(high, true, rules), Err(Refused::Port));
        assert_eq!(Access::OwnHost.check(high, true, rules), Err(Refused::Port));
        assert_eq!(Access::Anyone.check(low, true, rules), Ok(()));
        assert_eq!(Access::Anyone.check(high, false, rules), Ok(()));
        assert_eq!(Access::Anyone.check(from("192.0.2.1", 0), true, rules), Err(Refused::Port));
    }
}
