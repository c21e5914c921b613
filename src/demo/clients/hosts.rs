//! The knowledge about hosts that all tasks of a farm share.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::client::{Client, ClientNo, Notice};
use crate::wire::types::CallerName;

/// Most notices a farm remembers; beyond it the oldest are kept and newer ones only counted.
pub(super) const NOTICES_KEPT: usize = 1 << 20;

/// Why a farm is not there.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("cannot open the simulated clients' {what} socket: {source}")]
    Socket { what: &'static str, source: io::Error },
}

/// What all tasks of a farm share.
pub(super) struct FarmState {
    pub(super) hosts: Mutex<Hosts>,
    /// Told whenever a notice, a grant or the end of a reclaim pass has changed something.
    pub(super) changed: Notify,
    /// Hosts with a reclaim pass to make; each at most once, so never longer than the farm.
    pub(super) queue: mpsc::UnboundedSender<ClientNo>,
}

#[derive(Default)]
pub(super) struct Hosts {
    /// The names under which they mounted their server.
    pub(super) server_names: Vec<CallerName>,
    pub(super) clients: Vec<Client>,
    /// Several hosts may share an address (NAT).
    pub(super) at: HashMap<Ipv4Addr, Vec<ClientNo>>,
    pub(super) notices: Vec<Notice>,
}

impl Hosts {
    pub(super) fn get(&self, who: ClientNo) -> Option<&Client> {
        self.clients.get(who.0)
    }
    pub(super) fn get_mut(&mut self, who: ClientNo) -> Option<&mut Client> {
        self.clients.get_mut(who.0)
    }
    /// The hosts at an address; none for an address without a host.
    pub(super) fn at(&self, address: Ipv4Addr) -> &[ClientNo] {
        self.at.get(&address).map_or(&[], Vec::as_slice)
    }
}

impl FarmState {
    pub(super) fn hosts(&self) -> MutexGuard<'_, Hosts> {
        // A panic while it was held leaves a table that is whole: every update is one assignment.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
