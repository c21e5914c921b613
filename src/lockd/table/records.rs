//! Which monitor records are on disk, and which are on the way there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::lockd::persist::{MonitorRecord, PersistError};
use crate::lockd::statd::{StatdError, StateNumberError};
use crate::locks::ClientId;
use crate::spread::Spread;
use crate::wire::types::{CallerName, NsmState};

/// A client's state number is written at most this often: it is evidence, and a client whose
/// requests carry two numbers in turn must not cost a write each.
const EVIDENCE_EVERY: Duration = Duration::from_secs(5);

/// Why nothing may be promised to a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRecorded {
    #[error(transparent)]
    Disk(#[from] PersistError),
    /// rpc.statd.
    #[error(transparent)]
    Statd(#[from] StatdError),
    /// rpc.statd's state number.
    #[error(transparent)]
    Number(#[from] StateNumberError),
}

/// Whether something may be promised to a client.
pub(super) type Recorded = Result<(), NotRecorded>;

#[derive(Debug)]
struct Record {
    /// With the address, its key on disk.
    name: CallerName,
    address: IpAddr,
    /// It is of the life before.
    is_found: bool,
    /// As it is on disk.
    durable: Option<MonitorRecord>,
    /// As it is being written; a later one replaces it and covers it.
    writing: Option<MonitorRecord>,
    /// Its state number is not written before.
    evidence_from: Duration,
    /// A newer one waits for that.
    evidence_waits: bool,
}

impl Record {
    fn new(record: &MonitorRecord) -> Self {
        Self {
            name: record.name.clone(),
            address: record.address,
            is_found: false,
            durable: None,
            writing: None,
            evidence_from: Duration::ZERO,
            evidence_waits: false,
        }
    }
}

/// All records, by client.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_client: Spread<(ClientId, Record)>,
    /// Whose records of the life before stay on disk though their clients made room for others in recovery: they may come
    /// back, and make room again.
    made_room: BTreeSet<(CallerName, IpAddr)>,
    /// Clients with a state number to write, and when.
    evidence: BTreeSet<(Duration, ClientId)>,
}

impl Records {
    /// A record that was read from disk.
    pub(super) fn found(&mut self, client: ClientId, record: MonitorRecord) {
        let new = Record::new(&record);
        self.by_client.insert(client, Record { is_found: true, durable: Some(record), ..new });
    }

    /// Whether the disk knows that `client` calls `server_address`.
    pub(super) fn is_durable(&self, client: ClientId, server_address: IpAddr) -> bool {
        let durable = self.by_client.get(&client).and_then(|record| record.durable.as_ref());
        durable.is_some_and(|durable| durable.server_addresses.contains(&server_address))
    }

    /// The record is on the way to the disk.
    pub(super) fn writing(&mut self, client: ClientId, record: &MonitorRecord) {
        let mut known = self.by_client.remove(&client).unwrap_or_else(|| {
            let is_found = self.made_room.contains(&(record.name.clone(), record.address));
            Record { is_found, ..Record::new(record) }
        });
        known.writing = Some(record.clone());
        self.by_client.insert(client, known);
    }

    /// The record to write because the client's state number differs from the one on disk. Within
    /// [`EVIDENCE_EVERY`] of the last such write it waits in [`due`](Self::due); the latest wins.
    pub(super) fn state_changed(&mut self, client: ClientId, state: NsmState, now: Duration) -> Option<MonitorRecord> {
        let record = self.by_client.get_mut(&client)?;
        let latest = record.writing.as_mut().or(record.durable.as_mut())?;
        if !state.is_known() || latest.nsm_state == state {
            return None;
        }
        latest.nsm_state = state;
        if now >= record.evidence_from {
            record.evidence_from = now + EVIDENCE_EVERY;
            record.evidence_waits = false;
            return Some(latest.clone());
        }
        if !record.evidence_waits {
            record.evidence_waits = true;
            self.evidence.insert((record.evidence_from, client));
        }
        None
    }

    /// When the next delayed state number is to be written.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.evidence.first().map(|(at, _)| *at)
    }

    /// The records to write because their delay is over.
    pub(super) fn due(&mut self, now: Duration) -> Vec<MonitorRecord> {
        let mut due = Vec::new();
        while let Some((at, client)) = self.evidence.first().copied().filter(|(at, _)| *at <= now) {
            self.evidence.pop_first();
            let Some(record) = self.by_client.get_mut(&client) else { continue };
            if record.evidence_from == at && std::mem::take(&mut record.evidence_waits) {
                record.evidence_from = now + EVIDENCE_EVERY;
                due.extend(record.writing.as_ref().or(record.durable.as_ref()).cloned());
            }
        }
        due
    }

    /// The outcome of a write.
    pub(super) fn written(&mut self, client: ClientId, written: &MonitorRecord, ok: bool) {
        let Some(record) = self.by_client.get_mut(&client) else { return };
        if ok {
            record.durable = Some(written.clone());
        }
        if record.writing.as_ref().is_some_and(|writing| writing.server_addresses == written.server_addresses) {
            record.writing = None;
        }
    }

    /// The client is gone. Gives the key of its record, if that is to be removed from disk. In recovery one of the life before
    /// may still reclaim: after another crash it is to be told.
    pub(super) fn forget(&mut self, client: ClientId, in_recovery: bool) -> Option<(CallerName, IpAddr)> {
        let Record { name, address, is_found, .. } = self.by_client.remove(&client)?;
        if in_recovery && is_found {
            self.made_room.insert((name, address));
            return None;
        }
        if !in_recovery {
            self.made_room.clear();
        }
        Some((name, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_state_numbers_the_latest_is_written_after_the_delay_and_once() {
        let (mut records, client) = (Records::default(), ClientId(1));
        let record = MonitorRecord {
            name: CallerName::new("a").unwrap(),
            address: "192.0.2.1".parse().unwrap(),
            server_addresses: Vec::new(),
            nsm_state: NsmState(3),
        };
        records.found(client, record);
        let at = |seconds: u64| Duration::from_secs(100 + seconds);
        let number = |record: MonitorRecord| record.nsm_state.0;
        assert_eq!(records.state_changed(client, NsmState(3), at(0)).map(number), None, "nothing new");
        assert_eq!(records.state_changed(client, NsmState(5), at(0)).map(number), Some(5));
        assert_eq!(records.state_changed(client, NsmState(7), at(1)).map(number), None);
        assert_eq!(records.state_changed(client, NsmState(9), at(2)).map(number), None);
        assert_eq!(records.next_due(), Some(at(0) + EVIDENCE_EVERY));
        assert_eq!(records.due(at(4)).len(), 0);
        assert_eq!(records.due(at(5)).into_iter().map(number).collect::<Vec<_>>(), [9]);
        assert_eq!((records.next_due(), records.due(at(60)).len()), (None, 0));
        assert_eq!(records.state_changed(client, NsmState(1), at(60)).map(number), Some(1));
    }
}
