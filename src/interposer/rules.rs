//! The packet rules that lead lockd's packets to the filter's queue.
//!
//! # Theory
//! A table of nf_tables (`wire/nftables.rs` shows it): what comes in to a port of lockd, and what goes out from one, goes to a
//! queue, and stays there until the filter has given its verdict. It belongs to the netlink socket in [`Rules`]
//! (`NFT_TABLE_F_OWNER`), so it ends with the process that installed it, however that ends.
//!
//! What must hold:
//! - *No packet gets by while the rules are there.* They are made in one batch. A queue without a filter, or one that is
//!   full, drops (there is no `bypass`), so the client sends again. The ports stand in two sets, and each is renewed by itself:
//!   on kernels before 6.17 a packet that is looked up at the very moment of a renewal may find neither the old port nor
//!   the new one in that set (the generation changes first, the old element goes next). It finds it in the other.
//! - *A keeper that hangs does not stop NLM for ever.* The ports have a timeout, which [`Rules::refresh`] sets anew. When
//!   they lapse packets pass unseen, and that is told: `refresh` says [`Refreshed::Lapsed`].
//! - *Other rules are not touched,* and theirs do not touch these: by the owner flag another socket's changes of the
//!   table are refused (`EPERM`) and its `flush ruleset`, as a firewall that is loaded anew sends it, passes the table by.
//!
//! The owner flag came with Linux 5.12 and is the same in 6.1, 6.12 and 6.18 (`net/netfilter/nf_tables_api.c`): any socket may
//! list the table; `nft_table_lookup` refuses changes by others; `nft_flush` skips it; `nft_rcv_nl_event` removes it when
//! the socket is released. Since 6.8 a table with `NFT_TABLE_F_PERSIST` stays without an owner instead; these do not have that
//! flag. A kernel without the owner flag refuses the table. There the method is refused: rules that any reload of a firewall
//! removes would have to be watched and put back, and what passed in between would have been refused for good.
//!
//! When a table goes, and when any other base chain of this network namespace does, the kernel drops all packets
//! that wait in queues (`nf_unregister_net_hook` calls `nfqnl_nf_hook_drop`). None of them passes unchanged; those that
//! their clients send again do, once these rules are gone.
//!
//! IPv4 datagrams and TCP segments come whole. Fragments of an IPv6 datagram reach the input hook one by one unless
//! connection tracking is loaded: the first goes to the queue, the others have no port and pass, and what the filter drops
//! of it is never joined.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use nix::libc;
use socket2::Socket;

use crate::host::netlink::{exchange, open};
use crate::wire::netlink::{Attribute, MessageError};
pub use crate::wire::nftables::Port;
use crate::wire::nftables::{
    Queueing, SETS, TABLE, ask_for_ports, ask_for_table, install, refill, remove, renew, table,
};

/// Where lockd listens.
pub type Ports = BTreeSet<Port>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// The rules were there all the time since the time before.
    InTime,
    /// They had lapsed: packets may have passed unseen. They are there again.
    Lapsed,
}

/// The rules, for as long as this is there. Its calls block, for less than a millisecond as a rule.
#[derive(Debug)]
pub struct Rules {
    owner: Socket,
    ports: Vec<Port>,
    lapse: Duration,
}

impl Rules {
    /// From its return on every packet from and to these ports goes to the queue with this number, whether anything listens there
    /// or not. Without [`refresh`](Self::refresh) they lapse after `lapse`.
    ///
    /// # Errors
    /// Nothing is installed. The error is for people, and says what is missing: CAP_NET_ADMIN, a module, owned tables; or
    /// that other rules of a keeper are there ([`remove_left`](Self::remove_left)).
    pub fn install(ports: &Ports, queue: u16, lapse: Duration) -> io::Result<Self> {
        let owner = socket()?;
        let ports: Vec<Port> = ports.iter().copied().collect();
        let by = |queueing| exchange(&owner, |sequence| install(sequence, &ports, queue, lapse, queueing));
        let made = match by(Queueing::Expression) {
            // Nothing else in it can be unknown to a kernel.
            Err(error) if is(&error, libc::ENOENT) => by(Queueing::Target),
            made => made,
        };
        made.map_err(|error| explain(&owner, &error))?;
        Ok(Self { owner, ports, lapse })
    }

    /// The ports' timeouts begin anew. To be called several times within a `lapse`.
    ///
    /// # Errors
    /// The errors of netlink. It is not known then whether the rules are there: ask [`are_there`](Self::are_there).
    pub fn refresh(&self) -> io::Result<Refreshed> {
        let mut found = Refreshed::Lapsed;
        for set in SETS {
            match exchange(&self.owner, |sequence| renew(sequence, set, &self.ports, self.lapse)) {
                Ok(_) => found = Refreshed::InTime,
                Err(error) if is(&error, libc::ENOENT) => {
                    exchange(&self.owner, |sequence| refill(sequence, set, &self.ports, self.lapse))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Whether all the ports stand in the rules now.
    ///
    /// # Errors
    /// The errors of netlink.
    pub fn are_there(&self) -> io::Result<bool> {
        let stand = |set| is_there(&self.owner, |sequence| ask_for_ports(sequence, set, &self.ports));
        Ok(stand(SETS[0])? || stand(SETS[1])?)
    }

    /// Removes rules that a keeper left, which no kernel should let it; true if there were any.
    ///
    /// # Errors
    /// They belong to a keeper that is at work; or those of netlink.
    pub fn remove_left() -> io::Result<bool> {
        let kernel = match socket() {
            // No netfilter, no rules.
            Err(error) if is(&error, libc::EPROTONOSUPPORT) => return Ok(false),
            opened => opened?,
        };
        if !is_there(&kernel, ask_for_table)? {
            return Ok(false);
        }
        match is_there(&kernel, remove) {
            Err(error) if is(&error, libc::EPERM) => Err(explain(&kernel, &error)),
            removed => removed,
        }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // The end of the socket would do it too, but not before this returns.
        if let Err(error) = exchange(&self.owner, remove) {
            tracing::warn!(%error, "cannot remove the packet rules; they go with this process");
        }
    }
}

fn socket() -> io::Result<Socket> {
    open(libc::NETLINK_NETFILTER)
}

fn is(error: &io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}

/// False where the answer is that there is no such thing.
fn is_there(kernel: &Socket, question: impl FnOnce(u32) -> Result<Vec<u8>, MessageError>) -> io::Result<bool> {
    match exchange(kernel, question) {
        Ok(_) => Ok(true),
        // nf_tables itself is not there.
        Err(error) if is(&error, libc::ENOENT) || is(&error, libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says what a refusal means.
fn explain(kernel: &Socket, error: &io::Error) -> io::Error {
    let owner = exchange(kernel, ask_for_table).map(|told| {
        Attribute::find(&told, table::OWNER).and_then(Attribute::as_network).map_or_else(String::new, |port| {
            // It is the number of its process, unless that had another socket before.
            format!("; it belongs to netlink port {port}")
        })
    });
    let words = match (owner, error.raw_os_error()) {
        (Ok(owner), _) => {
            format!("the packet rules of another nlmctl are at work (table inet {TABLE}{owner}): end it first")
        }
        (Err(_), Some(libc::EPERM)) => "packet rules need CAP_NET_ADMIN: run this as root".to_owned(),
        (Err(_), Some(libc::ENOENT)) => {
            "this kernel has no packet rules that queue: load the module nft_queue".to_owned()
        }
        (Err(_), Some(libc::EOPNOTSUPP | libc::EINVAL)) => format!(
            "this kernel has no packet rules that belong to a process (nf_tables of Linux 5.12 and newer, module nf_tables): {error}"
        ),
        _ => format!("cannot install packet rules: {error}"),
    };
    io::Error::new(error.kind(), words)
}
