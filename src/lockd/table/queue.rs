//! Calls and reboot notices that wait, in the order in which they came.
//!
//! # Theory
//! There is one FIFO for each source address, and nothing waits anywhere else. Each entry says what it
//! waits for ([`Wait`]) and how far it has come, and it goes on from there. The number of entries is the
//! count that [`PARKED`] bounds: one more is dropped without an answer, which a client takes for a
//! lost datagram and sends again.
//!
//! What must hold:
//! - What one address says of one host ([`Line`]) keeps its order: only the first of a line is at work,
//!   those behind it wait for their turn. The embedding server's questions are the exception: they are
//!   asked at once, and their calls keep their places.
//! - Hosts behind one address (NAT) do not wait for each other: a slow or hostile one stalls no other.
//!   Names that are equal up to their first dot count as one host's, because a reboot notice often has the
//!   short form of the name that the calls have.
//! - Addresses do not wait for each other: the address is part of who asks.
//! - TEST changes nothing, so it keeps no order: it neither waits for its turn nor holds anything up.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::incoming::Incoming;
use crate::lockd::embed::Admission;
use crate::locks::{Call, ClientId, OtherDomain, Reboot, Verdict};
use crate::shares::{Bounds, Holder, Shares};
use crate::wire::types::{CallerName, NsmState};

/// Entries, a few hundred bytes each. They fill up while the disk does not answer: a client has hardly more calls open than
/// its host's share, and what is dropped it sends again.
pub(super) const PARKED: Bounds = Bounds { all: 16_384, host: 2048 };

/// A call that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) incoming: Incoming,
    pub(super) answer: oneshot::Sender<Verdict>,
    /// Its place in the order of arrival.
    pub(super) number: u64,
    /// What an embedding server said about it, once it was asked.
    pub(super) admission: Option<Admission>,
    /// Its client, once that is known: the lock table is next.
    pub(super) client: Option<ClientId>,
    /// What the mirror said to the step that it asked for.
    pub(super) outside: OtherDomain,
}

impl OpenCall {
    pub(super) fn answer(self, verdict: Verdict) {
        let _ = self.answer.send(verdict);
    }

    fn keeps_order(&self) -> bool {
        !matches!(self.incoming.call, Call::Test(_))
    }

    /// Whether the answer promises something that a restart of this server must be able to tell the
    /// client about.
    pub(super) fn promises(&self) -> bool {
        matches!(self.incoming.call, Call::Lock { monitored: true, .. } | Call::Share { .. })
    }

    /// Whether it takes back what its owner had: refused only for a conflict, and not because a status
    /// monitor is missing. (A client that is refused forgets the lock, and its process is not told.)
    pub(super) fn is_reclaim(&self) -> bool {
        matches!(self.incoming.call, Call::Lock { reclaim: true, .. } | Call::Share { reclaim: true, .. })
    }

    pub(super) fn takes_a_lock(&self) -> bool {
        matches!(self.incoming.call, Call::Lock { .. } | Call::Share { .. })
    }

    /// The client's NSM state number, if it carries one that counts.
    pub(super) fn carried_state(&self) -> NsmState {
        match self.incoming.call {
            Call::Lock { state, monitored: true, .. } => state,
            _ => NsmState::default(),
        }
    }
}

/// A reboot notice that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenNotice {
    pub(super) source: IpAddr,
    pub(super) name: CallerName,
    pub(super) state: NsmState,
    pub(super) answer: oneshot::Sender<Reboot>,
    /// Its place in the order of arrival.
    pub(super) number: u64,
}

/// One that waits.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are calls, and each would be a box of its own")]
pub(super) enum Entry {
    Call(OpenCall),
    Notice(OpenNotice),
}

impl Entry {
    fn place(&self) -> Place {
        let (address, name, alone, number) = match self {
            Self::Call(call) => (call.incoming.address, &call.incoming.name, !call.keeps_order(), call.number),
            Self::Notice(notice) => (notice.source, &notice.name, false, notice.number),
        };
        Place { line: Line::new(address, name), alone, number }
    }
}

/// What an entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing but its turn.
    Turn,
    /// The embedding server's answer: may the caller lock it?
    Answer,
    /// Its client's monitor record.
    Record,
    /// The end of a run, whose result is being written.
    Commit,
    /// A step of the mirror.
    Step,
    /// Whether its host has moved.
    Move,
    /// Its next slice: some of it is done.
    Slice,
}

/// What keeps its order: all that one address says of one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) address: IpAddr,
    /// The short name in small letters: names that match have it in common.
    host: Arc<str>,
}

impl Line {
    pub(super) fn new(address: IpAddr, name: &CallerName) -> Self {
        Self { address, host: name.short().to_ascii_lowercase().into() }
    }

    pub(super) fn start(&self) -> Place {
        Place { line: self.clone(), alone: false, number: 0 }
    }
}

/// Where an entry stands. It stays the same until the entry is answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: Line,
    /// It keeps no order, and stands beside the line.
    alone: bool,
    number: u64,
}

/// All entries, line by line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, (Wait, Entry)>,
    /// Those that wait for their next slice, in turns.
    begun: VecDeque<Place>,
    /// By the address that they came from.
    shares: Shares,
    arrivals: u64,
}

impl Queue {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next place in the order of arrival.
    pub(super) fn next_number(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Whether what comes now has to wait for its turn.
    pub(super) fn holds_up(&self, entry: &Entry) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let place = entry.place();
        !place.alone && self.first(&place.line).is_some()
    }

    /// The first that keeps order.
    fn first(&self, line: &Line) -> Option<&Place> {
        let (place, _) = self.waiting.range(line.start()..).next()?;
        (place.line == *line && !place.alone).then_some(place)
    }

    /// Puts it at its place. `None`: too many wait, it is dropped unanswered.
    pub(super) fn put(&mut self, wait: Wait, entry: Entry) -> Option<Place> {
        let place = entry.place();
        if let Err(full) = self.shares.room(PARKED, Holder::Host(place.line.address), 1) {
            tracing::warn!(from = %place.line.address, ?full, "too many calls wait; one is dropped unanswered");
            return None;
        }
        self.insert(place.clone(), wait, entry);
        Some(place)
    }

    /// Some of it is done: it keeps its place, and goes on when others have had their turn.
    pub(super) fn put_off(&mut self, entry: Entry) {
        let place = self.put(Wait::Slice, entry);
        self.begun.extend(place);
    }

    /// Whether one waits for its next slice.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Whose slice is next.
    pub(super) fn next_begun(&mut self) -> Option<Place> {
        self.begun.pop_front()
    }

    fn insert(&mut self, place: Place, wait: Wait, entry: Entry) {
        self.shares.take(Holder::Host(place.line.address), 1);
        self.waiting.insert(place, (wait, entry));
    }

    /// The wait of the entry at `place` is over. `change` says how the call goes on; `None` drops it unanswered.
    pub(super) fn ready(&mut self, place: &Place, change: impl FnOnce(OpenCall) -> Option<OpenCall>) {
        let entry = match self.take(place) {
            Some(Entry::Call(call)) => change(call).map(Entry::Call),
            other => other,
        };
        if let Some(entry) = entry {
            self.insert(place.clone(), Wait::Turn, entry);
        }
    }

    /// Takes out what may go on at `place`: the first of its line, or what stands there alone, if it waits
    /// for nothing but its turn.
    pub(super) fn next(&mut self, place: &Place) -> Option<Entry> {
        let first = if place.alone { place.clone() } else { self.first(&place.line)?.clone() };
        let (wait, _) = self.waiting.get(&first)?;
        if *wait == Wait::Turn { self.take(&first) } else { None }
    }

    pub(super) fn take(&mut self, place: &Place) -> Option<Entry> {
        let (_, entry) = self.waiting.remove(place)?;
        self.shares.give_back(Holder::Host(place.line.address), 1);
        Some(entry)
    }

    /// What this caller sent and what it waits for.
    pub(super) fn calls_of<'a>(
        &'a mut self,
        address: IpAddr,
        name: &'a CallerName,
    ) -> impl Iterator<Item = (&'a Place, &'a mut Wait, &'a mut OpenCall)> {
        let line = Line::new(address, name);
        let here = self.waiting.range_mut(line.start()..).take_while(move |(place, _)| place.line == line);
        here.filter_map(move |(place, (wait, entry))| match entry {
            Entry::Call(call) if call.incoming.name == *name => Some((place, wait, call)),
            Entry::Call(_) | Entry::Notice(_) => None,
        })
    }

    /// Reclaims that wait, whatever for.
    pub(super) fn reclaims(&self) -> impl Iterator<Item = &OpenCall> {
        self.waiting.values().filter_map(|(_, entry)| match entry {
            Entry::Call(call) if call.is_reclaim() => Some(call),
            Entry::Call(_) | Entry::Notice(_) => None,
        })
    }

    /// Whether a reclaim waits for something outside: the embedding server, the disk, the mirror.
    pub(super) fn has_reclaims_outside(&self) -> bool {
        self.waiting.values().any(|(wait, entry)| {
            let outside = matches!(wait, Wait::Answer | Wait::Record | Wait::Step);
            outside && matches!(entry, Entry::Call(call) if call.is_reclaim())
        })
    }

    /// What waits for the end of a run, in the order of arrival.
    pub(super) fn until_commit(&self) -> Vec<Place> {
        let waiting = self.waiting.iter().filter(|(_, (wait, _))| *wait == Wait::Commit);
        let mut places: Vec<Place> = waiting.map(|(place, _)| place.clone()).collect();
        places.sort_by_key(|place| place.number);
        places
    }
}
