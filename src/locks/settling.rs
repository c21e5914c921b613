//! A settle in progress: how far it is, and what it has decided. [`settle`](super::settle) continues it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::api::{ClientId, OfferAnswer, OfferId};
use super::file::Place;
use super::rows::Rows;
use super::segment::{FileId, OwnerId};
use crate::resync::policy::Judge;
use crate::wire::control::ClientResult;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client in this place of the run is weighed next.
    Weighing(usize),
    /// This one is judged next.
    Judging(usize),
    /// The next file in which one of the clients has something is sought.
    Files,
    /// The locks of this file are written down up to that place, and all on the files before it.
    Locks(FileId, Option<Place>),
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
    /// Clients have not got back all the time in which the process did not run, or go on to reclaim: they lose nothing.
    pub(super) cut_short: bool,
    pub(super) judge: Judge,
    pub(super) not_understood: bool,
    /// Clients (by their place in the run) that have something pending, each with the file from which on its locks are
    /// still to be looked at.
    pub(super) ahead: BTreeSet<(FileId, usize)>,
    /// The file that was looked at last: for all that have something on it.
    pub(super) last: Option<FileId>,
    /// Those who lose something.
    pub(super) losers: HashSet<ClientId>,
    /// Their addresses, but for those that are found to reclaim. A tree: no growing table moves all of them.
    pub(super) losing: BTreeSet<IpAddr>,
    /// Those who are taken for gone.
    pub(super) gone: BTreeSet<ClientId>,
    /// What becomes of the locks.
    pub(super) rows: Rows,
    /// So many rows were taken out.
    pub(super) taken: usize,
    pub(super) results: Vec<ClientResult>,
    /// Files that have something to drop.
    pub(super) dropped_in: BTreeSet<FileId>,
    pub(super) marks: BTreeSet<u32>,
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
            ahead: BTreeSet::new(),
            last: None,
            losers: HashSet::new(),
            losing: BTreeSet::new(),
            gone: BTreeSet::new(),
            rows: Rows::default(),
            taken: 0,
            results: Vec::new(),
            dropped_in: BTreeSet::new(),
            marks: BTreeSet::new(),
            kept: HashSet::new(),
            answers: Vec::new(),
        }
    }

    /// Room for all clients at once: a list that grows is moved, and a long one takes long.
    pub(super) fn make_room(&mut self, clients: usize) {
        self.losers.reserve(clients);
        self.results.reserve(clients);
    }
}
