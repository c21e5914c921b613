//! Who calls lockd, by address, and why nothing of it is dropped. Any host can call: beyond a bound only clients of the
//! account's table are noted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::wire::types::{Address, CallerName, NsmState};

/// Addresses of which anything is noted, and what else any host can fill in an account.
pub(super) const MOST: usize = 100_000;

/// What an address showed of itself. Two of each tell that it is not one machine in one life.
#[derive(Debug, Default)]
pub(super) struct Identity {
    names: Vec<CallerName>,
    states: BTreeSet<NsmState>,
    /// When it was last heard to reclaim something.
    pub(super) reclaimed: Option<Duration>,
}

impl Identity {
    pub(super) fn is_called(&mut self, name: &CallerName) {
        if let Some(known) = self.names.iter_mut().find(|known| known.matches(name)) {
            // The whole name tells it from other machines that are called the same in short.
            if known.as_str().len() < name.as_str().len() {
                known.clone_from(name);
            }
        } else if self.names.len() < 2 {
            self.names.push(name.clone());
        }
    }

    pub(super) fn is_in(&mut self, state: NsmState) {
        if self.states.len() < 2 {
            self.states.insert(state);
        }
    }
}

/// Why nothing of an address is dropped.
#[derive(Debug)]
struct Noted {
    why: String,
    /// Whether a reclaim may have been refused, or answered unseen: then the next runs keep its locks, too.
    missed: bool,
}

#[derive(Debug)]
pub(super) struct Callers {
    seen: HashMap<IpAddr, Identity>,
    unsure: BTreeMap<IpAddr, Noted>,
    /// Of a client that was heard to reclaim since then nothing is dropped.
    spares_since: Duration,
}

impl Callers {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), unsure: BTreeMap::new(), spares_since: Duration::MAX }
    }

    pub(super) fn seen(&mut self, address: IpAddr, is_client: bool) -> Option<&mut Identity> {
        let may_come = self.seen.len() < MOST || is_client;
        if may_come { Some(self.seen.entry(address).or_default()) } else { self.seen.get_mut(&address) }
    }

    pub(super) fn note(&mut self, address: IpAddr, is_client: bool, why: &str, missed: bool) {
        let weighs_more = |noted: &Noted| missed && !noted.missed;
        let is_news = self.unsure.get(&address).is_none_or(weighs_more);
        if is_news && (self.unsure.len() < MOST || is_client) {
            self.unsure.insert(address, Noted { why: why.to_owned(), missed });
        }
    }

    /// Why a reclaim from one of these addresses may have been refused, or answered unseen.
    pub(super) fn why_missed(&self, addresses: &[Address]) -> Option<String> {
        let mut noted = addresses.iter().filter_map(|address| self.unsure.get(&address.0));
        noted.find(|noted| noted.missed).map(|noted| noted.why.clone())
    }

    /// When a reclaim from one of these addresses was last heard.
    pub(super) fn last_reclaim<'a>(&self, addresses: impl IntoIterator<Item = &'a Address>) -> Option<Duration> {
        addresses.into_iter().filter_map(|address| self.seen.get(&address.0)?.reclaimed).max()
    }

    /// Of a client that is heard to reclaim after that nothing is dropped, until this is said anew: it has not had the time
    /// to claim all.
    pub(super) fn spare_who_reclaims(&mut self, since: Duration) {
        self.spares_since = since;
    }

    /// Why nothing of that address is dropped: it was noted.
    pub(super) fn why_noted(&self, address: IpAddr) -> Option<String> {
        self.unsure.get(&address).map(|noted| noted.why.clone())
    }

    /// Likewise: what it showed of itself.
    pub(super) fn why_seen(&self, address: IpAddr) -> Option<String> {
        let seen = self.seen.get(&address)?;
        if seen.reclaimed.is_some_and(|at| at > self.spares_since) {
            return Some("its client was still reclaiming when the run was to end".to_owned());
        }
        if let [first, other, ..] = seen.names.as_slice() {
            return Some(format!("{first} and {other} both call from there"));
        }
        (seen.states.len() > 1).then(|| "calls with several NSM state numbers came from there".to_owned())
    }
}
