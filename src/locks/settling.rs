//! A settle under way: how far it is, and what it has decided. [`settle`](super::settle) is what goes on with it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::api::{ClientId, OfferAnswer, OfferId};
use super::result::Rows;
use super::run::Run;
use super::segment::{FileId, OwnerId};
use super::tally::Tally;
use crate::resync::policy::{ClientFacts, Judge};
use crate::wire::control::{ClientResult, RunClient, Spared};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client in this place of the run is weighed next.
    Weighing(usize),
    /// This one is judged next.
    Judging(usize),
    /// Of the first of the clients that have something pending so many locks on this file are written down, and all on
    /// the files before it.
    Locks(FileId, usize),
    /// The result of this client is written down next.
    Results(usize),
    Done,
}

#[derive(Debug)]
pub(super) struct Settling {
    pub(super) stage: Stage,
    /// When it began: what is known of clients counts as of then.
    pub(super) now: Duration,
    pub(super) alone: bool,
    pub(super) reason: String,
    /// Clients have not got back all the time in which the process did not run: they lose nothing.
    pub(super) cut_short: bool,
    judge: Judge,
    pub(super) not_understood: bool,
    /// Clients (by their place in the run) whose locks are still to be looked at.
    pub(super) clients: VecDeque<usize>,
    /// Those who lose something; and whether what was offered to them is spared.
    pub(super) losers: HashMap<ClientId, bool>,
    /// Those who are taken for gone.
    pub(super) gone: Vec<ClientId>,
    /// What becomes of the locks.
    pub(super) rows: Rows,
    pub(super) results: Vec<ClientResult>,
    /// Files that have something to drop.
    pub(super) dropped_in: BTreeSet<FileId>,
    pub(super) marks: HashSet<u32>,
    /// Owners whose locks are kept though their client loses others: those through another server address.
    pub(super) kept: HashSet<OwnerId>,
    /// Answers to offers that would change what is frozen.
    pub(super) answers: Vec<(OfferId, OfferAnswer)>,
}

impl Settling {
    pub(super) fn new(now: Duration, alone: bool, reason: String, cut_short: bool, judge: Judge) -> Self {
        Self {
            stage: Stage::Weighing(0),
            now,
            alone,
            reason,
            cut_short,
            judge,
            not_understood: false,
            clients: VecDeque::new(),
            losers: HashMap::new(),
            gone: Vec::new(),
            rows: Rows::default(),
            results: Vec::new(),
            dropped_in: BTreeSet::new(),
            marks: HashSet::new(),
            kept: HashSet::new(),
            answers: Vec::new(),
        }
    }

    /// Room for all clients at once: a list that grows is moved, and a long one takes long.
    fn make_room(&mut self, clients: usize) {
        self.clients.reserve(clients);
        self.losers.reserve(clients);
        self.results.reserve(clients);
    }
}

impl Run {
    fn facts(&self, settling: &Settling, place: usize) -> Option<ClientFacts<'_>> {
        let (tally, client): (&Tally, &RunClient) = self.tallies.get(place).zip(self.clients.get(place))?;
        Some(tally.facts(settling.now, client, self.covers.clients.is_some()))
    }

    /// Counts the client for the verdicts on all. Gives what is next.
    pub(super) fn weigh(&self, settling: &mut Settling, place: usize) -> Stage {
        if let Some(facts) = self.facts(settling, place) {
            settling.judge.weigh(&facts);
            return Stage::Weighing(place + 1);
        }
        settling.make_room(self.tallies.len());
        Stage::Judging(0)
    }

    /// Decides about the client. Gives what is next.
    pub(super) fn judge(&mut self, settling: &mut Settling, place: usize) -> Stage {
        let judged = self.facts(settling, place).map(|facts| settling.judge.judge(&facts));
        let Some((judged, tally)) = judged.zip(self.tallies.get_mut(place)) else {
            return Stage::Locks(FileId::FIRST, 0);
        };
        settling.not_understood |= judged.is_not_understood() && !settling.cut_short;
        tally.judged = if settling.cut_short || tally.claiming { judged.spared(Spared::NoTime) } else { judged };
        // A settle before this one may have counted and was cancelled.
        (tally.counts.dropped, tally.counts.kept) = (0, 0);
        if tally.counts.pending > 0 {
            settling.clients.push_back(place);
        }
        if tally.judged.drops_any() {
            settling.losers.insert(tally.client, tally.judged.acked);
        }
        if tally.judged.gone {
            settling.gone.push(tally.client);
        }
        Stage::Judging(place + 1)
    }

    /// Writes down what became of the client. Gives what is next.
    pub(super) fn write_down(&self, settling: &mut Settling, place: usize) -> Stage {
        match self.tallies.get(place).zip(self.clients.get(place)) {
            Some((tally, client)) => {
                settling.results.push(tally.result(client));
                Stage::Results(place + 1)
            }
            None => Stage::Done,
        }
    }
}
