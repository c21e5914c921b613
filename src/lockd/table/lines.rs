//! The lines of callers that wait for an embedding server's word: who may lock, what a mirror takes.
//!
//! Every call and reboot notice has a number, in the order of arrival. A line has what one caller
//! (address and name) sent from the first that waits on; each entry goes on when it is the first and
//! its own wait is over. So the order stays, and questions of one caller are asked at the same time.
//! A call that comes back from another parking place (its record, a commit) finds its place again by
//! its number. Nobody waits here without an embedding server.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::calls::{OpenCall, Parked};
use crate::wire::types::CallerName;

/// Whose line.
pub(super) type Place = (IpAddr, CallerName);

/// One in a line.
#[derive(Debug)]
pub(super) enum Standing {
    /// Whether it may lock is being asked.
    Asking(OpenCall),
    /// It waits for a step of the mirror.
    Mirror(OpenCall),
    /// It only keeps its place.
    Ready(Parked),
}

/// All lines; none is empty.
#[derive(Debug, Default)]
pub(super) struct Lines {
    by_caller: HashMap<Place, BTreeMap<u64, Standing>>,
}

impl Lines {
    /// Whether something of that caller came earlier and waits.
    pub(super) fn holds_up(&self, address: IpAddr, name: &CallerName, number: u64) -> bool {
        !self.by_caller.is_empty()
            && self
                .by_caller
                .get(&(address, name.clone()))
                .is_some_and(|line| line.first_key_value().is_some_and(|(first, _)| *first < number))
    }

    /// The line of a client that a reboot notice from `source` about `name` may mean, if something
    /// that came earlier than `number` waits there.
    pub(super) fn held_up_notice(&self, source: IpAddr, name: &CallerName, number: u64) -> Option<Place> {
        let mut lines = self.by_caller.iter();
        let line = lines.find(|((address, caller), line)| {
            *address == source
                && caller.matches(name)
                && line.first_key_value().is_some_and(|(first, _)| *first < number)
        });
        line.map(|(place, _)| place.clone())
    }

    pub(super) fn stand(&mut self, place: Place, number: u64, standing: Standing) {
        self.by_caller.entry(place).or_default().insert(number, standing);
    }

    fn change(&mut self, place: &Place, number: u64, change: impl FnOnce(Standing) -> Option<Standing>) {
        let Some(line) = self.by_caller.get_mut(place) else { return };
        if let Some(standing) = line.remove(&number).and_then(change) {
            line.insert(number, standing);
        }
        if line.is_empty() {
            self.by_caller.remove(place);
        }
    }

    /// What the call waited for is there: `change` says how it goes on. `None`: it is dropped.
    /// Whether there was such a call.
    pub(super) fn ready(
        &mut self,
        place: &Place,
        number: u64,
        change: impl FnOnce(OpenCall) -> Option<OpenCall>,
    ) -> bool {
        let mut found = false;
        self.change(place, number, |standing| match standing {
            Standing::Asking(call) | Standing::Mirror(call) => {
                found = true;
                change(call).map(|call| Standing::Ready(Parked::Call(call)))
            }
            Standing::Ready(parked) => Some(Standing::Ready(parked)),
        });
        found
    }

    /// The first of the line, if it waits for nothing more.
    pub(super) fn next(&mut self, place: &Place) -> Option<Parked> {
        let (number, _) =
            self.by_caller.get(place)?.first_key_value().filter(|(_, first)| matches!(first, Standing::Ready(_)))?;
        let (number, mut next) = (*number, None);
        self.change(place, number, |standing| {
            if let Standing::Ready(parked) = standing {
                next = Some(parked);
            }
            None
        });
        next
    }
}
