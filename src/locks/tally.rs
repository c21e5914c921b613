//! A client's part of a run. What is pending is counted by the server address that the client called for it, as
//! the policy judges it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::api::ClientId;
use crate::resync::policy::{ClientFacts, Judged, PathFacts};
use crate::wire::control::{ClientProgress, ClientResult, Counts, Delivery, PathResult, Reaction, RunClient};
use crate::wire::xdr::List;

#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) client: ClientId,
    pub(super) address: IpAddr,
    pub(super) counts: Counts,
    delivery: Delivery,
    /// The controller has given it up, and could send it nothing.
    cannot_be_told: bool,
    pub(super) acked_at: Option<Duration>,
    suspect: bool,
    pub(super) may_drop: bool,
    paths: BTreeMap<IpAddr, PathFacts>,
    /// What is decided of it, from the start of the settle.
    pub(super) judged: Judged,
}

impl Tally {
    /// Of a client with nothing in scope.
    pub(super) fn new(client: ClientId, address: IpAddr, suspect: bool) -> Self {
        Self {
            client,
            address,
            counts: Counts::default(),
            delivery: Delivery::NotTold,
            cannot_be_told: false,
            acked_at: None,
            suspect,
            may_drop: false,
            paths: BTreeMap::new(),
            judged: Judged::default(),
        }
    }

    /// Its locks through this server address. There are no more of them than this host has addresses.
    pub(super) fn path(&mut self, server_address: IpAddr) -> &mut PathFacts {
        self.paths.entry(server_address).or_default()
    }

    /// Takes what became of its notices; `since` then it could be heard. Gives the time of the last ack, if that is news.
    pub(super) fn heard(&mut self, now: Duration, since: Duration, seen: &ClientProgress) -> Option<Duration> {
        self.suspect |= seen.suspect;
        self.cannot_be_told = seen.delivery == Delivery::NotTold;
        // Delivered once is delivered: a later failure of a retry takes nothing back.
        if self.delivery == Delivery::Acked || seen.delivery == Delivery::NotTold {
            return None;
        }
        // So is some of it, and what another address took: a controller that resumes the run tries all of it anew.
        if matches!(self.delivery, Delivery::Partial | Delivery::Elsewhere) && seen.delivery.is_given_up() {
            return None;
        }
        self.delivery = seen.delivery;
        if seen.delivery == Delivery::Acked {
            self.acked_at = Some(now.saturating_sub(Duration::from_millis(seen.ago_ms)).max(since));
        }
        self.acked_at
    }

    /// Whether its notices were given up: nothing was delivered, or could be.
    pub(super) fn is_given_up(&self) -> bool {
        self.delivery.is_given_up() || (self.delivery == Delivery::NotTold && self.cannot_be_told)
    }

    pub(super) fn facts(&self, now: Duration, client: &RunClient, named: bool) -> ClientFacts<'_> {
        ClientFacts {
            delivery: self.delivery,
            acked_ago: self.acked_at.map(|at| now.saturating_sub(at)),
            shared_address: client.shared_address,
            suspect: self.suspect,
            named,
            may_drop: self.may_drop,
            paths: &self.paths,
        }
    }

    /// As if nothing was decided of it.
    pub(super) fn aborted(&self) -> Self {
        let counts = Counts { dropped: 0, kept: self.counts.pending, ..self.counts };
        Self { judged: Judged::default(), counts, ..self.clone() }
    }

    pub(super) fn result(&self, client: &RunClient) -> ClientResult {
        ClientResult {
            delivery: self.delivery,
            suspect: self.suspect,
            reaction: self.reaction(),
            counts: Counts { pending: 0, ..self.counts },
            paths: List::clipped(self.judged.paths.iter().map(PathResult::from).collect()),
            ..ClientResult::untold(client)
        }
    }

    fn reaction(&self) -> Reaction {
        if self.judged.silent {
            Reaction::Silent
        } else if self.paths.values().any(PathFacts::is_reclaimed) {
            Reaction::Understood
        } else {
            Reaction::Unclear
        }
    }

    #[cfg(test)]
    pub(super) fn pending_by_path(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        self.paths.iter().map(|(address, path)| (*address, path.pending))
    }
}
