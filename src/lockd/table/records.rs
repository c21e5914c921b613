//! Which monitor records are on disk, and which calls wait for one.

use std::collections::HashMap;
use std::net::IpAddr;

use super::calls::Parked;
use crate::lockd::persist::MonitorRecord;
use crate::locks::{ClientId, ClientView};
use crate::wire::types::{CallerName, NsmState};

/// One client's record.
#[derive(Debug)]
pub(super) struct Record {
    name: CallerName,
    key: IpAddr,
    /// As it is on disk.
    durable: Option<MonitorRecord>,
    /// As it is being written; a later one replaces it and covers it.
    writing: Option<MonitorRecord>,
    waiting: Vec<Parked>,
}

/// All records, by client.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_client: HashMap<ClientId, Record>,
}

fn covers(record: &MonitorRecord, view: &ClientView) -> bool {
    view.server_addresses.iter().all(|a| record.server_addresses.contains(a))
        && view.addresses.iter().all(|a| record.addresses.contains(a))
}

fn of(view: &ClientView) -> MonitorRecord {
    MonitorRecord {
        name: view.name.clone(),
        addresses: view.addresses.clone(),
        server_addresses: view.server_addresses.clone(),
        nsm_state: view.nsm_state,
    }
}

impl Records {
    /// A record that was read from disk.
    pub(super) fn found(&mut self, client: ClientId, record: MonitorRecord) {
        let Some(key) = record.addresses.first().copied() else { return };
        let name = record.name.clone();
        self.by_client.insert(client, Record { name, key, durable: Some(record), writing: None, waiting: Vec::new() });
    }

    /// Whether the disk knows that `client` calls from `address` and calls `server_address`.
    pub(super) fn is_durable(&self, client: ClientId, address: IpAddr, server_address: IpAddr) -> bool {
        self.by_client.get(&client).and_then(|record| record.durable.as_ref()).is_some_and(|durable| {
            durable.server_addresses.contains(&server_address) && durable.addresses.contains(&address)
        })
    }

    /// Parks a call until the client's record is durable. Returns the record to write, unless one
    /// that covers it is being written already.
    pub(super) fn wait(&mut self, client: ClientId, view: &ClientView, call: Parked) -> Option<MonitorRecord> {
        let key = view.addresses.first().copied()?;
        let record = self.by_client.entry(client).or_insert_with(|| Record {
            name: view.name.clone(),
            key,
            durable: None,
            writing: None,
            waiting: Vec::new(),
        });
        record.waiting.push(call);
        if record.writing.as_ref().is_some_and(|writing| covers(writing, view)) {
            return None;
        }
        record.writing = Some(of(view));
        record.writing.clone()
    }

    /// Whether a call of the client waits for its record.
    pub(super) fn is_waited_for(&self, client: ClientId) -> bool {
        self.by_client.get(&client).is_some_and(|record| !record.waiting.is_empty())
    }

    /// Parks what must not overtake a call that waits.
    pub(super) fn wait_behind(&mut self, client: ClientId, parked: Parked) {
        if let Some(record) = self.by_client.get_mut(&client) {
            record.waiting.push(parked);
        }
    }

    /// The calls that wait, of a client that a reboot notice may mean.
    pub(super) fn line_of(&mut self, source: IpAddr, name: &CallerName) -> Option<&mut Vec<Parked>> {
        let mut lines = self.by_client.values_mut().map(|record| &mut record.waiting);
        lines.find(|line| line.iter().any(|parked| parked.concerns(source, name)))
    }

    /// The record to write because the client's state number differs from the one on disk.
    pub(super) fn state_changed(&mut self, client: ClientId, state: NsmState) -> Option<MonitorRecord> {
        let record = self.by_client.get_mut(&client)?;
        let latest = record.writing.as_mut().or(record.durable.as_mut())?;
        if !state.is_known() || latest.nsm_state == state {
            return None;
        }
        latest.nsm_state = state;
        Some(latest.clone())
    }

    /// The outcome of a write: the calls that waited for one.
    pub(super) fn written(&mut self, client: ClientId, written: &MonitorRecord, ok: bool) -> Vec<Parked> {
        let Some(record) = self.by_client.get_mut(&client) else { return Vec::new() };
        if ok {
            record.durable = Some(written.clone());
        }
        if record.writing.as_ref().is_some_and(|writing| {
            writing.addresses == written.addresses && writing.server_addresses == written.server_addresses
        }) {
            record.writing = None;
        }
        std::mem::take(&mut record.waiting)
    }

    /// The client is gone: its key on disk and the calls that waited.
    pub(super) fn forget(&mut self, client: ClientId) -> Option<(CallerName, IpAddr, Vec<Parked>)> {
        self.by_client.remove(&client).map(|record| (record.name, record.key, record.waiting))
    }
}
