//! Requests for a lock that another process of the client has: lockd's answers show how requests are changed on their
//! way.
//!
//! lockd never grants them, as long as that process has its lock: they leave nothing. One that is granted all the same, since
//! the lock was given up just then, is freed at once.

use std::net::IpAddr;

use super::lockd_socket::{LockdSocket, UsedPorts};
use super::{Unlock, ask, message, open};
use crate::host::Machine;
use crate::manager::knfsd::owners::OwnerKey;
use crate::wire::nlm::{Stat, Version};
use crate::wire::types::Transport;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trial {
    /// To an ordinary request.
    pub(crate) ordinary: Stat,
    /// The answer to a reclaim.
    pub(crate) reclaim: Stat,
}

/// Asks for `wanted` by the way of this owner, first as an ordinary request and then as a reclaim. `lockd` is as in
/// [`unlock`](super::unlock). Blocks.
///
/// # Errors
/// One of them has no answer with a status; for people.
pub(crate) fn trial(
    machine: &Machine,
    owner: OwnerKey,
    wanted: &Unlock,
    exclusive: bool,
    lockd: impl Fn(bool, Transport) -> Result<u16, String>,
) -> Result<Trial, String> {
    let way = owner.way;
    let used = UsedPorts::read(machine).map_err(|error| error.to_string())?;
    let (mut socket, version) = open(&used, way, lockd, None)?;
    let mut said = |reclaim| {
        let stat = request(&mut socket, version, way.client.0, wanted, exclusive, reclaim)?;
        if stat == Stat::Granted {
            ask(&mut socket, version, way, &[wanted], None);
        }
        Ok::<Stat, String>(stat)
    };
    Ok(Trial { ordinary: said(false)?, reclaim: said(true)? })
}

fn request(
    socket: &mut LockdSocket,
    version: Version,
    client: IpAddr,
    wanted: &Unlock,
    exclusive: bool,
    reclaim: bool,
) -> Result<Stat, String> {
    let xid = rand::random();
    let call = message::lock_call(xid, version, wanted, exclusive, reclaim).map_err(|error| error.to_string())?;
    let done = socket.exchange(&[(xid, call)], None, |_| {});
    match (done.answers.get(&xid), done.broken) {
        (Some(Ok(stat)), _) => Ok(*stat),
        (Some(Err(error)), _) => Err(format!("lockd did not take the call: {error}")),
        (None, Some(error)) => Err(format!("no answer of lockd to a call from {client}: {error}")),
        (None, None) => Err("lockd did not answer".to_owned()),
    }
}
