//! Requests that have waited for long: the client in their way may have forgotten its lock.
//!
//! A request that waits is looked at after [`LONG`], and again as long as it waits. Each client that then is in its
//! way and has not called for as long is a suspect, until it calls or the request waits no more. That is no proof:
//! a live process may hold a lock for days and have nothing to say. Each request is looked at once in that time,
//! and a step looks at few, so the cost is bounded however many wait.

use std::collections::BTreeSet;
use std::time::Duration;

use super::api::ClientId;
use super::table::LockTable;

/// How long is long.
const LONG: Duration = Duration::from_mins(5);
/// Requests looked at in one step.
const AT_ONCE: usize = 256;
/// Most clients that one request makes suspects.
const MAX_SUSPECTS: usize = 16;

/// A time of the table in whole seconds: 4 bytes a lock last for 136 years.
pub(super) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl LockTable {
    /// It is this time now. For what no call brings: offers after a wait, the age of what is listed.
    pub fn tell_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// The client calls, so it is there.
    pub(super) fn hear_of(&mut self, now: Duration, client: ClientId) {
        self.now = now;
        self.enter(client);
        if let Some(client) = self.clients.get_mut(client) {
            client.heard_at = now;
            client.keeps_waiting = None;
        }
    }

    pub(super) fn waits_from_now(&mut self, waiter: u64) {
        self.long_waits.watch(waiter, self.now.saturating_add(LONG), Vec::new());
    }

    pub(super) fn waits_no_more(&mut self, waiter: u64) {
        for client in self.long_waits.forget(waiter) {
            self.clear(client, waiter);
        }
    }

    fn clear(&mut self, client: ClientId, waiter: u64) {
        let client = self.clients.get_mut(client);
        if let Some(client) = client.filter(|c| c.keeps_waiting.as_ref().is_some_and(|(by, _)| *by == waiter)) {
            client.keeps_waiting = None;
        }
    }

    /// Looks at those requests whose time has come.
    pub(super) fn look_at_long_waits(&mut self, now: Duration) {
        for _ in 0..AT_ONCE {
            let due = self.long_waits.next_due().filter(|(at, _)| *at <= now);
            let Some((_, waiter)) = due else { return };
            let before = self.long_waits.forget(waiter);
            let waits = self.waiters.get(waiter).filter(|waiter| !self.is_void_waiter(waiter));
            let Some(want) = waits.map(|waiter| waiter.want) else { continue };
            let holders: BTreeSet<ClientId> = self.in_the_way(&want).map(|s| s.client).take(MAX_SUSPECTS).collect();
            let (mut again, mut silent) = (now + LONG, Vec::new());
            for holder in holders {
                match self.clients.get(holder).map(|client| client.heard_at + LONG) {
                    Some(at) if at > now => again = again.min(at),
                    Some(_) => silent.push(holder),
                    None => {}
                }
            }
            let name = self.clients.get(want.caller.client).map_or_else(String::new, |client| client.name.to_string());
            let why = format!("silent while {name} waits for its lock, for {} minutes or more", LONG.as_secs() / 60);
            for holder in before.into_iter().filter(|holder| !silent.contains(holder)) {
                self.clear(holder, waiter);
            }
            for holder in &silent {
                self.keeps_waiting(*holder, waiter, &why);
            }
            self.long_waits.watch(waiter, again, silent);
        }
    }

    fn keeps_waiting(&mut self, holder: ClientId, waiter: u64, why: &str) {
        let Some(client) = self.clients.get_mut(holder).filter(|client| client.keeps_waiting.is_none()) else { return };
        client.keeps_waiting = Some((waiter, why.to_owned()));
        let words = format!("{} at {}: {why}", client.name, client.address);
        self.announce("suspect", words);
    }
}
