//! Which procedures there are, as data: version, number, name, how it is answered, who may call it.
//!
//! `tests/golden/nlm_dispatch.txt` is this table as text.

use std::fmt;
use std::net::IpAddr;

use crate::wire::nlm::{Procedure as Nlm, Version};
use crate::wire::nsm::Procedure as Nsm;

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By its reply.
    Reply,
    /// By a call of this procedure to the caller's lockd (XNFS chapter 10, asynchronous procedures).
    /// Its own reply is void and says only that it came.
    OneWay(Nlm),
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every address that `--allow` covers.
    Anyone,
    /// Likewise, and it touches only what the client at the caller's own address holds.
    OwnHost,
    /// Processes of this host.
    Loopback,
    /// Nobody: it is a client's procedure, or harmful.
    Never,
}

impl Access {
    /// Whether a caller at `address` (which `--allow` covers) may.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Anyone | Self::OwnHost => true,
            Self::Loopback => address.to_canonical().is_loopback(),
            Self::Never => false,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "anyone allowed",
            Self::OwnHost => "the lock's own host",
            Self::Loopback => "loopback only",
            Self::Never => "never",
        })
    }
}

/// An NLM procedure.
#[derive(Debug, Clone, Copy)]
pub struct NlmRow {
    /// Which.
    pub procedure: Nlm,
    /// Its name in the specification, without `NLM_` or `NLMPROC4_`.
    pub name: &'static str,
    /// Whether version 1 has it; 3 and 4 have all.
    pub in_v1: bool,
    /// How it is answered.
    pub form: Form,
    /// Who may call it.
    pub access: Access,
}

const fn row(procedure: Nlm, name: &'static str, in_v1: bool, form: Form, access: Access) -> NlmRow {
    NlmRow { procedure, name, in_v1, form, access }
}

/// NLM, program 100021, versions 1, 3 and 4. nlmd is a server only: it asks nobody for locks, so a
/// GRANTED that comes in is answered DENIED, and answers (`_RES`) that come in have no question.
/// SM_NOTIFY is a local statd's callback, and nlmd is its own: from anywhere else it would free
/// locks on a stranger's word.
pub const NLM: &[NlmRow] = &[
    row(Nlm::Null, "NULL", true, Form::Reply, Access::Anyone),
    row(Nlm::Test, "TEST", true, Form::Reply, Access::Anyone),
    row(Nlm::Lock, "LOCK", true, Form::Reply, Access::Anyone),
    row(Nlm::Cancel, "CANCEL", true, Form::Reply, Access::OwnHost),
    row(Nlm::Unlock, "UNLOCK", true, Form::Reply, Access::OwnHost),
    row(Nlm::Granted, "GRANTED", true, Form::Reply, Access::Anyone),
    row(Nlm::TestMsg, "TEST_MSG", true, Form::OneWay(Nlm::TestRes), Access::Anyone),
    row(Nlm::LockMsg, "LOCK_MSG", true, Form::OneWay(Nlm::LockRes), Access::Anyone),
    row(Nlm::CancelMsg, "CANCEL_MSG", true, Form::OneWay(Nlm::CancelRes), Access::OwnHost),
    row(Nlm::UnlockMsg, "UNLOCK_MSG", true, Form::OneWay(Nlm::UnlockRes), Access::OwnHost),
    row(Nlm::GrantedMsg, "GRANTED_MSG", true, Form::OneWay(Nlm::GrantedRes), Access::Anyone),
    row(Nlm::TestRes, "TEST_RES", true, Form::Reply, Access::Never),
    row(Nlm::LockRes, "LOCK_RES", true, Form::Reply, Access::Never),
    row(Nlm::CancelRes, "CANCEL_RES", true, Form::Reply, Access::Never),
    row(Nlm::UnlockRes, "UNLOCK_RES", true, Form::Reply, Access::Never),
    row(Nlm::GrantedRes, "GRANTED_RES", true, Form::Reply, Access::Never),
    row(Nlm::SmNotify, "SM_NOTIFY", true, Form::Reply, Access::Never),
    row(Nlm::Share, "SHARE", false, Form::Reply, Access::Anyone),
    row(Nlm::Unshare, "UNSHARE", false, Form::Reply, Access::OwnHost),
    row(Nlm::NmLock, "NM_LOCK", false, Form::Reply, Access::Anyone),
    row(Nlm::FreeAll, "FREE_ALL", false, Form::Reply, Access::OwnHost),
];

/// The row of a number in a version.
pub fn nlm(version: Version, number: u32) -> Option<&'static NlmRow> {
    NLM.iter().find(|row| row.procedure.number() == number && (row.in_v1 || version != Version::V1))
}

/// An NSM procedure.
#[derive(Debug, Clone, Copy)]
pub struct NsmRow {
    /// Which.
    pub procedure: Nsm,
    /// Its name.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
}

/// NSM, program 100024, version 1. A reboot notice frees the sender's own locks and nobody else's.
pub const NSM: &[NsmRow] = &[
    NsmRow { procedure: Nsm::Null, name: "NULL", access: Access::Anyone },
    NsmRow { procedure: Nsm::Stat, name: "SM_STAT", access: Access::Anyone },
    NsmRow { procedure: Nsm::Mon, name: "SM_MON", access: Access::Loopback },
    NsmRow { procedure: Nsm::Unmon, name: "SM_UNMON", access: Access::Loopback },
    NsmRow { procedure: Nsm::UnmonAll, name: "SM_UNMON_ALL", access: Access::Loopback },
    NsmRow { procedure: Nsm::SimuCrash, name: "SM_SIMU_CRASH", access: Access::Never },
    NsmRow { procedure: Nsm::Notify, name: "SM_NOTIFY", access: Access::OwnHost },
];

/// The row of a number.
pub fn nsm(number: u32) -> Option<&'static NsmRow> {
    NSM.iter().find(|row| row.procedure as u32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

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
                writeln!(text, "nlm v{version} {number:>2} {:<12} {form:<20} {}", row.name, row.access).unwrap();
            }
        }
        for row in NSM {
            let number = row.procedure as u32;
            writeln!(text, "nsm v1 {number:>2} {:<12} {:<20} {}", row.name, "reply", row.access).unwrap();
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

    #[test]
    fn loopback_only_means_it() {
        assert!(Access::Loopback.admits("127.9.9.9".parse().unwrap()));
        assert!(Access::Loopback.admits("::1".parse().unwrap()));
        assert!(Access::Loopback.admits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!Access::Loopback.admits("192.0.2.1".parse().unwrap()));
        assert!(!Access::Never.admits("127.0.0.1".parse().unwrap()));
    }
}
