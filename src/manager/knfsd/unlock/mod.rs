//! Frees single locks by UNLOCK calls in their owners' names.
//!
//! Theory. lockd frees one lock when its owner sends UNLOCK, and takes for its owner who calls with the address, transport,
//! NLM version, server address and svid of that ([`OwnerKey`]). All five can be had on this host: a
//! socket may be bound to an address that is not this host's, and a [`ReplyRoute`](crate::host::ReplyRoute) keeps the
//! answers here. The client is not told, its own connections are not touched, and it may be dead.
//!
//! What must hold:
//! - An answer proves nothing: lockd also says GRANTED if it freed nothing. The caller checks afterwards.
//! - lockd opens the file as the user that the call names, so that is the file's owner; root may be squashed.
//! - Our calls carry a [`MARK`]. Each is announced by a line in the system log before it leaves this host.
//! - lockd is one thread. If it does not answer one call in time, no more calls are made.
//! - If clients wait meanwhile, calls for which no time is left are not made.
//!
//! | file | what | |
//! |---|---|---|
//! | `message` | the call and its answer | pure |
//! | `lockd_socket` | the socket with the client's address | |
//! | `trial` | what lockd says to requests for a lock that another process has | |
//! | `mod` | all calls; start reading at [`unlock`] | |

mod lockd_socket;
mod message;
mod trial;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use self::lockd_socket::{LockdSocket, PATIENCE, UsedPorts, is_over};
use crate::host::{self, Machine};
use crate::manager::knfsd::owners::{OwnerKey, Way};
use crate::wire::nlm::{Stat, Version};
use crate::wire::rpc::RpcError;
use crate::wire::scope;
use crate::wire::types::{Address, Transport};

pub(crate) use self::message::{MARK, Unlock};
pub(crate) use self::trial::{Trial, trial};

/// What lockd said to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnlockReply {
    /// A status. GRANTED does not say that anything was freed.
    Said(Stat),
    /// It did not execute the call.
    Rejected(RpcError),
    /// The call did not leave, for this reason.
    NotSent(String),
    /// The call left, and no answer came: it may be executed yet.
    Silent(String),
}

/// Why an UNLOCK did not leave.
const TOO_LATE: &str = "the UNLOCKs of others took all the time in which clients can wait";

/// Sends an UNLOCK for each, in its owner's name; the answers in their order. `lockd` says on which port lockd listens, by
/// the family of addresses (whether IPv6) and transport. None leaves after `until`. Blocks: for [`PATIENCE`] with a lockd
/// that is silent.
pub(crate) fn unlock(
    machine: &Machine,
    wanted: &[(OwnerKey, Unlock)],
    lockd: impl Fn(bool, Transport) -> Result<u16, String>,
    until: Option<Instant>,
) -> Vec<UnlockReply> {
    let mut ways: BTreeMap<Way, Vec<usize>> = BTreeMap::new();
    for (place, (owner, _)) in wanted.iter().enumerate() {
        ways.entry(owner.way).or_default().push(place);
    }
    let not_asked = UnlockReply::NotSent("lockd did not answer another call before".to_owned());
    let mut answers = vec![not_asked; wanted.len()];
    // These lists are long on a busy server.
    let used = UsedPorts::read(machine).map_err(|error| error.to_string());
    for (way, places) in ways {
        let unlocks: Vec<&Unlock> =
            places.iter().filter_map(|place| wanted.get(*place)).map(|(_, unlock)| unlock).collect();
        let said = match used.as_ref().map_err(Clone::clone).and_then(|used| open(used, way, &lockd, until)) {
            Ok((mut socket, version)) => ask(&mut socket, version, way, &unlocks, until),
            Err(why) => vec![UnlockReply::NotSent(why); unlocks.len()],
        };
        let silent = said.iter().any(|answer| matches!(answer, UnlockReply::Silent(_)));
        for (place, said) in places.into_iter().zip(said) {
            if let Some(answer) = answers.get_mut(place) {
                *answer = said;
            }
        }
        if silent {
            break;
        }
    }
    answers
}

/// A socket whose calls lockd takes for the client's, or why there is none.
fn open(
    used: &UsedPorts,
    way: Way,
    lockd: impl Fn(bool, Transport) -> Result<u16, String>,
    until: Option<Instant>,
) -> Result<(LockdSocket, Version), String> {
    if is_over(until) {
        return Err(TOO_LATE.to_owned());
    }
    let version = callable(way)?;
    let Way { client: Address(client), server: Address(server), transport, .. } = way;
    let lockd = SocketAddr::new(server, lockd(server.is_ipv6(), transport)?);
    let socket = LockdSocket::open(used, client, lockd, transport).map_err(|error| error.to_string())?;
    Ok((socket, version))
}

/// Whether lockd can be called this way in a client's name, as far as that is known before: the version.
///
/// # Errors
/// Why it cannot, for people.
pub(crate) fn callable(
    Way { client: Address(client), server: Address(server), version, .. }: Way,
) -> Result<Version, String> {
    let Some(version) = Version::from_number(version) else {
        return Err(format!("lockd has it by NLM version {version}, which nlmctl does not know"));
    };
    if scope::interface(client).is_some() {
        return Err("its client has a link-local address".to_owned());
    }
    if !host::is_own_address(server) {
        return Err(format!("this host no longer has the address {server} that its client called"));
    }
    if host::is_own_address(client) {
        return Err("its client is this host itself".to_owned());
    }
    Ok(version)
}

fn ask(
    socket: &mut LockdSocket,
    version: Version,
    way: Way,
    unlocks: &[&Unlock],
    until: Option<Instant>,
) -> Vec<UnlockReply> {
    let first: u32 = rand::random();
    let mut answers = Vec::with_capacity(unlocks.len());
    let (mut calls, mut leaving) = (Vec::with_capacity(unlocks.len()), Vec::with_capacity(unlocks.len()));
    for (number, unlock) in (0..).zip(unlocks) {
        let xid = first.wrapping_add(number);
        match message::call(xid, version, unlock) {
            Ok(call) => {
                calls.push((xid, call));
                leaving.push(*unlock);
                answers.push(UnlockReply::NotSent(String::new()));
            }
            Err(error) => answers.push(UnlockReply::NotSent(error.to_string())),
        }
    }
    let done = socket.exchange(&calls, until, |place| {
        if let Some(unlock) = leaving.get(place) {
            log(way, unlock);
        }
    });
    let why = match &done.broken {
        Some(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            format!("lockd did not answer within {} s", PATIENCE.as_secs())
        }
        Some(error) => format!("the connection to lockd failed: {error}"),
        None if done.sent < calls.len() => TOO_LATE.to_owned(),
        None => "lockd did not answer".to_owned(),
    };
    for (place, (xid, _)) in calls.iter().enumerate() {
        let number = xid.wrapping_sub(first) as usize;
        let Some(answer) = answers.get_mut(number) else { continue };
        *answer = match done.answers.get(xid) {
            Some(Ok(stat)) => UnlockReply::Said(*stat),
            Some(Err(error)) => UnlockReply::Rejected(*error),
            None if place < done.sent => UnlockReply::Silent(why.clone()),
            None => UnlockReply::NotSent(why.clone()),
        };
    }
    answers
}

fn log(way: Way, unlock: &Unlock) {
    let Way { client: Address(client), server: Address(server), version, transport } = way;
    let Unlock { caller, file, svid, range, user: _ } = unlock;
    host::syslog(&format!(
        "UNLOCK in the name of {caller} ({client}, process {svid}) to {server} by NLM {version}/{transport}: bytes {range} \
         of file {file}"
    ));
}

#[cfg(test)]
mod tests;
