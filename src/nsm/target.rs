//! The targets of notices.

use std::net::IpAddr;

use crate::rpc::fanout::{Host, Program};
#[cfg(feature = "tools")]
use crate::wire::control::ClientRow;
use crate::wire::nsm;
use crate::wire::types::CallerName;

pub(super) const STATD: Program = Program { name: "statd", number: nsm::PROGRAM, versions: &[nsm::VERSION] };

/// A host to notify or to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The caller's number for it; events carry it back. Unique within one fan-out.
    pub id: u32,
    pub host: Host,
    /// What to tell it. Empty for a probe.
    pub notices: Vec<Notice>,
}

#[cfg(feature = "tools")]
impl Target {
    /// Clients of a list, to be asked for their state; each one's id is its place.
    pub fn asked(rows: &[ClientRow]) -> Vec<Self> {
        let host = |row: &ClientRow| Host::of(&row.name, row.addresses.as_slice().iter().map(|address| address.0));
        (0..).zip(rows).map(|(id, row)| Self { id, host: host(row), notices: Vec::new() }).collect()
    }
}

/// One SM_NOTIFY: peers match it by name, or by the address it comes from, or by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The server address it leaves from; `None` leaves that to the routing table. One of the other
    /// family than the target's address cannot be used there and is left to the routing table too.
    pub from: Option<IpAddr>,
    /// `mon_name`: who is said to have rebooted.
    pub name: CallerName,
}

impl Notice {
    /// What a client gets that called these server addresses: from each, under each name; from any, where none is
    /// known. Linux matches either by the name or by the source address, others by the name alone.
    pub fn each(called: impl Iterator<Item = IpAddr>, names: &[CallerName]) -> Vec<Self> {
        let mut from: Vec<Option<IpAddr>> = called.map(Some).collect();
        if from.is_empty() {
            from.push(None);
        }
        from.iter().flat_map(|&from| names.iter().map(move |name| Self { from, name: name.clone() })).collect()
    }
}
