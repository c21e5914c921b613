//! rpc.statd of this host as nlmd's status monitor (`--nsm statd`): SM_MON and SM_UNMON.
//!
//! # Theory
//! statd is asked to watch *addresses*, one registration and one cookie each, as the Linux kernel
//! does: a caller_name need not resolve here, and statd keeps one cookie for each name it is given,
//! so that two clients of one name given twice would push each other out. It calls back NLM
//! procedure 16 on loopback with that address and cookie, which the owner of the lock table
//! compares with what it gave ([`super::table`]); from any other process that can reach loopback those 16
//! random bytes are out of reach (statd's files are its own).
//!
//! statd does one thing at a time, and its disk and its resolver are in it: a few questions at once
//! are as fast as many. A repeated question is answered as the first one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::persist::Watch;
use crate::host::{StatdDirError, text_of};
use crate::rpc::client::{CallError, Request, Retransmit, UdpClient};
use crate::rpc::program::{Host, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nsm::{self, MonArgs, MonId, MyId, Procedure, ResStat, Stat, StatRes};
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, Transport};
use crate::wire::xdr::{Unpack, decode, encode};
use crate::wire::{nlm, types::BadName};

/// Questions at once: rpc.statd has one thread, and reads the others from its socket.
const AT_ONCE: usize = 8;
/// Patience with one: statd looks names up before it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Patience with those before it.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// Patience with this host's rpcbind.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// Why an address is not watched.
#[derive(Debug, thiserror::Error)]
pub enum StatdError {
    /// No program serves NSM here.
    #[error("rpcbind knows no rpc.statd on this host; start it")]
    NotThere,
    /// No answer.
    #[error("rpc.statd: {0}")]
    Call(#[from] CallError),
    /// It is slow.
    #[error("rpc.statd has not answered the questions before this one yet; see what holds it up")]
    Busy,
    /// STAT_FAIL.
    #[error("rpc.statd will not watch that address (STAT_FAIL); its log says why")]
    Refused,
    /// Not a name.
    #[error("{0}")]
    Name(#[from] BadName),
}

/// Its folder or its state number, with what nlmd's operator can do.
#[derive(Debug, thiserror::Error)]
#[error("{0}{remedy}", remedy = remedy(.0))]
pub struct StateNumberError(#[from] pub StatdDirError);

fn remedy(error: &StatdDirError) -> &'static str {
    match error {
        StatdDirError::NoFolder(_) | StatdDirError::Missing(_) => {
            "; start rpc.statd first, or name its folder with --statd-dir"
        }
        StatdDirError::Write(..) => "; nlmd must be able to replace that file",
        StatdDirError::TooShort(..) => "; restart rpc.statd, which writes the file anew, then start nlmd",
        StatdDirError::NotStatds(..) => {
            "; give it to the user that rpc.statd runs as, and let no other user write in it"
        }
        StatdDirError::Unreadable(..) => "",
    }
}

/// The way to it. Cloned freely.
#[derive(Debug, Clone)]
pub struct Statd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: UdpClient,
    rpcbind_port: u16,
    me: MyId,
    turns: Semaphore,
}

impl Statd {
    /// `my_name` is the name under which sm-notify tells of this host's reboots.
    pub fn new(rpcbind_port: u16, my_name: CallerName) -> std::io::Result<Self> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let endpoint = UdpEndpoint::bind_reserved(loopback)?;
        let shared = Shared {
            client: UdpClient::new(Arc::new(endpoint), Retransmit::default()),
            rpcbind_port,
            me: MyId {
                my_name,
                my_prog: nlm::PROGRAM,
                my_vers: nlm::Version::V4.number(),
                my_proc: nlm::Procedure::SmNotify.number(),
            },
            turns: Semaphore::new(AT_ONCE),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Has the address watched. Done means that statd has it on its disk.
    pub async fn monitor(&self, watch: Watch) -> Result<(), StatdError> {
        let mon = MonArgs { mon_id: self.mon_id(watch.address)?, private: watch.cookie };
        match self.call::<StatRes>(Procedure::Mon, &encode(&mon)).await?.res_stat {
            ResStat::Success => Ok(()),
            ResStat::Fail => Err(StatdError::Refused),
        }
    }

    /// Has it watched no longer.
    pub async fn unmonitor(&self, address: IpAddr) -> Result<(), StatdError> {
        let args = encode(&self.mon_id(address)?);
        self.call::<Stat>(Procedure::Unmon, &args).await.map(drop)
    }

    fn mon_id(&self, address: IpAddr) -> Result<MonId, BadName> {
        Ok(MonId { mon_name: CallerName::new(&text_of(address))?, my_id: self.shared.me.clone() })
    }

    async fn call<T: Unpack>(&self, procedure: Procedure, args: &[u8]) -> Result<T, StatdError> {
        let Shared { client, rpcbind_port, turns, .. } = &*self.shared;
        let turn = tokio::time::timeout(TURN_PATIENCE, turns.acquire()).await.map_err(|_| StatdError::Busy)?;
        let _turn = turn.map_err(|_| StatdError::NotThere)?;
        let (program, version, credential) = (nsm::PROGRAM, nsm::VERSION, &Credential::None);
        let request = Request { program, version, procedure: procedure as u32, credential, args };
        match Host::local(client, *rpcbind_port, ASK_PATIENCE).call(&[Transport::Udp], request, PATIENCE).await {
            Ok(results) => Ok(decode(&results).map_err(CallError::from)?),
            Err(ProgramError::NotRegistered) => Err(StatdError::NotThere),
            Err(error) => Err(CallError::from(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Machine, StatdDir};

    #[test]
    fn a_folder_without_a_number_is_said_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StatdDir::find(&Machine::default(), Some(folder.path())).unwrap();
        let error = StateNumberError(dir.state().unwrap_err()).to_string();
        assert!(error.contains("--statd-dir") && error.contains(&folder.path().display().to_string()), "{error}");
        for bytes in [&b""[..], b"7\n", b"abc"] {
            std::fs::write(folder.path().join("state"), bytes).unwrap();
            let error = StateNumberError(dir.state().unwrap_err()).to_string();
            assert!(error.contains("state") && error.contains("restart rpc.statd"), "{error}");
        }
    }
}
