//! A client's locks end with its life: reboot notices (SM_NOTIFY), and FREE_ALL.

use std::net::IpAddr;

use super::api::{ClientId, Effect, Handled, Reboot, Verdict};
use super::run::How;
use super::segment::FileId;
use super::table::LockTable;
use crate::wire::types::{ByteRange, CallerName, NsmState};

impl LockTable {
    /// SM_NOTIFY came from `source` and names `name`: that host has rebooted. Releases what the
    /// client took in earlier lives. Only a client that calls from `source` under that name (full or
    /// short) is meant; others at that address become suspects.
    pub fn reboot_notice(&mut self, source: IpAddr, name: &CallerName, state: NsmState) -> Reboot {
        let here = self.clients.at(source).to_vec();
        let named = |test: &dyn Fn(&CallerName) -> bool| -> Vec<ClientId> {
            here.iter().copied().filter(|id| self.clients.get(*id).is_some_and(|c| test(&c.name))).collect()
        };
        let mut meant = named(&|n| n == name);
        if meant.is_empty() {
            meant = named(&|n| n.matches(name));
        }
        let why = match *meant.as_slice() {
            [client] => return self.rebooted(client, source, name, state),
            [] => {
                meant = here;
                format!("a reboot notice from its address named {name}")
            }
            // Two hosts have this short name here. Neither can be taken for the one that rebooted.
            _ => format!("a reboot notice from its address named {name}, which others there answer to"),
        };
        for client in meant {
            self.suspect(client, &why);
        }
        Reboot::Unknown
    }

    fn rebooted(&mut self, id: ClientId, source: IpAddr, name: &CallerName, state: NsmState) -> Reboot {
        if self.clients.get(id).is_none_or(|client| client.last_notice == Some(state)) {
            return Reboot::Repeated;
        }
        if self.is_frozen_for(id) {
            return Reboot::Wait;
        }
        // What it took after that boot carries the new number and stays: the notice may be a
        // repetition whose first copy was lost.
        let released = self.release_client(id, |taken_in| taken_in != state || !state.is_known());
        if let Some(client) = self.clients.get_mut(id) {
            client.last_notice = Some(state);
            client.suspicions.clear();
        }
        self.announce("reboot", format!("{name} at {source} has rebooted (state {state}): {released} locks released"));
        Reboot::Released(released)
    }

    /// Whether a result is being written and the client has something pending.
    fn is_frozen_for(&self, client: ClientId) -> bool {
        self.run.as_ref().is_some_and(|run| run.is_frozen_for(client))
    }

    pub(super) fn free_all(&mut self, client: ClientId) -> Handled {
        if self.is_frozen_for(client) {
            return Handled::Wait;
        }
        let released = self.release_client(client, |_| true);
        self.effects.push(Effect::Event("free_all", format!("FREE_ALL released {released} locks")));
        Handled::Reply(Verdict::Granted)
    }

    /// Releases all that the client took in a life that the test accepts: segments and waiters.
    fn release_client(&mut self, client: ClientId, taken_in: impl Fn(NsmState) -> bool) -> u64 {
        let files: Vec<FileId> = self.clients.get(client).map_or(Vec::new(), |c| c.files().collect());
        let mut released = self.drop_waiters_of(client, &taken_in);
        for file in files {
            self.purge(file);
            let pieces = self.cut(file, ByteRange::ALL, How::Released, |s| s.client == client && taken_in(s.state));
            released += pieces.len() as u64;
            self.refresh(file);
        }
        released
    }
}
