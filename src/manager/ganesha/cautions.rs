//! What an operator must know before a run over Ganesha. Pure.

use std::net::IpAddr;

use super::bus::ClientStats;
use super::process::Descriptors;
use crate::manager::{Caution, Weight};
use crate::units;

/// Descriptors that Ganesha needs for other things than what a run leaks.
const RESERVE: u64 = 1_000;
/// Clients that are named before "and more".
const NAMED: usize = 3;

/// What was seen of Ganesha.
#[derive(Debug)]
pub(super) struct Observed {
    /// Whether the run is a soft one, which releases nothing.
    pub(super) soft: bool,
    /// All clients that have spoken to it.
    pub(super) stats: Vec<ClientStats>,
    /// FSALs whose locks cannot be listed.
    pub(super) unlisted: Vec<String>,
    pub(super) descriptors: Descriptors,
    /// Of them, those that hold locks.
    pub(super) locking: u64,
    pub(super) shares_network: bool,
    pub(super) version: String,
}

impl Observed {
    pub(super) fn cautions(&self) -> Vec<Caution> {
        let mut cautions = vec![say(
            "grace",
            "Ganesha's grace lasts for its Grace_Period and up to 10 s more; --grace has no effect on it",
            "Grace_Period in the NFSv4 block of its configuration sets it",
        )];
        if self.soft {
            cautions.push(say(
                "soft",
                "a soft run: no lock is released, clients reclaim what the server has lost, and stale locks stay",
                "",
            ));
        } else {
            cautions.push(say(
                "shares",
                SHARES,
                "with such clients, only a soft run is safe (--unreachable keep --silent keep)",
            ));
            cautions.push(self.fds());
        }
        cautions.extend(network(self.shares_network));
        cautions.extend(self.v4());
        cautions.extend(self.listing());
        if !self.version.starts_with("4.") {
            cautions.push(say(
                "version",
                format!("this is NFS-Ganesha {}: nlmctl was tested with 4.3 only", self.version),
                "try it on a test server first",
            ));
        }
        cautions
    }

    pub(super) fn lists_locks(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Every released (owner, file) leaks its descriptor, and each reclaim opens one.
    fn fds(&self) -> Caution {
        let Descriptors { open, limit } = self.descriptors;
        let runs = limit.saturating_sub(RESERVE).saturating_sub(open).checked_div(self.locking);
        let text = |end: String| {
            format!(
                "every run leaks a descriptor of Ganesha's for each owner and file, about {} now; {open} of {limit} \
                 are open, and at the limit every LOCK fails: {end}",
                self.locking
            )
        };
        let remedy = "restart Ganesha, whose own recovery then does what a run would; raise LimitNOFILE of its unit";
        match runs {
            Some(0) => Caution::new("descriptors", Weight::Refuse, text("there is no room for a run".into()), remedy),
            Some(runs) => say("descriptors", text(format!("room for about {runs} runs")), remedy),
            None => say("descriptors", text("no lock is held now".into()), remedy),
        }
    }

    fn v4(&self) -> Option<Caution> {
        let clients: Vec<IpAddr> =
            self.stats.iter().filter(|client| client.speaks_v4()).map(|client| client.address).collect();
        if !clients.is_empty() {
            let text = format!(
                "NFSv4 clients have used this server ({}): their state is left alone, but until grace is over \
                 they wait with every new open and lock",
                units::first(clients.iter(), NAMED)
            );
            return Some(Caution::new("nfsv4", Weight::Consent, text, "run it when they can wait"));
        }
        // A client that locks has spoken NLM; where not even that is counted, nothing is.
        let counts = self.stats.iter().any(|client| !client.protocols.is_empty());
        (!counts && self.locking > 0).then(|| {
            say(
                "nfsv4",
                "Ganesha keeps no statistics (Enable_NFS_Stats), so it is not known whether NFSv4 clients use it: \
                 until grace is over they wait with every new open and lock",
                "",
            )
        })
    }

    fn listing(&self) -> Option<Caution> {
        let text = format!(
            "locks of exports on {} cannot be listed: held, released and reclaimed locks there are not verified, \
             except by statd's records of clients with locks, so the run ends as unverified (exit code 6); some back \
             ends (MEM) grant a reclaim to two owners",
            self.unlisted.join(", ")
        );
        let remedy = "check the applications themselves after the run";
        (!self.lists_locks()).then(|| Caution::new("fsal", Weight::Consent, text, remedy))
    }
}

const SHARES: &str = "Ganesha 4.3 crashes when it releases a client that holds an NLM SHARE reservation (DOS and \
                      Windows clients have them), and nothing shows which clients do: in a crash every client's locks \
                      are lost";

/// What is to be said before one client's locks are freed. No grace period saves the others' if Ganesha crashes.
pub(super) fn of_a_release(shares_network: bool) -> Vec<Caution> {
    let shares = Caution::new("shares", Weight::Consent, SHARES, "release no client that may have them");
    network(shares_network).into_iter().chain([shares]).collect()
}

fn network(is_shared: bool) -> Option<Caution> {
    let text = "Ganesha runs in another network namespace: its addresses, by which locks are released, are not those seen \
                from here";
    let remedy = "run nlmctl in Ganesha's network namespace (nsenter, or the same container)";
    (!is_shared).then(|| Caution::new("network", Weight::Refuse, text, remedy))
}

fn say(about: &'static str, text: impl Into<String>, remedy: &str) -> Caution {
    Caution::new(about, Weight::Say, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Observed {
        Observed {
            soft: false,
            stats: vec![stats("192.0.2.1", &["NFSv3", "NMLv4"])],
            unlisted: Vec::new(),
            descriptors: Descriptors { open: 4_000, limit: 20_000 },
            locking: 2_000,
            shares_network: true,
            version: "4.3".into(),
        }
    }

    fn stats(address: &str, protocols: &[&str]) -> ClientStats {
        ClientStats {
            address: address.parse().unwrap(),
            protocols: protocols.iter().map(|&protocol| protocol.to_owned()).collect(),
        }
    }

    fn weight(seen: &Observed, about: &str) -> Option<Weight> {
        seen.cautions().iter().find(|caution| caution.about == about).map(|caution| caution.weight)
    }

    #[test]
    fn a_server_of_nfsv3_clients_with_room_wants_no_consent() {
        let heaviest = seen().cautions().iter().map(|caution| caution.weight).max();
        assert_eq!(heaviest, Some(Weight::Say));
        assert!(seen().cautions().iter().any(|caution| caution.text.contains("room for about 7 runs")));
    }

    #[test]
    fn a_run_that_the_leak_leaves_no_room_for_is_refused() {
        let full = Observed { descriptors: Descriptors { open: 17_500, limit: 20_000 }, ..seen() };
        assert_eq!(weight(&full, "descriptors"), Some(Weight::Refuse));
        let idle = Observed { locking: 0, ..full };
        assert_eq!(weight(&idle, "descriptors"), Some(Weight::Say));
    }

    #[test]
    fn a_soft_run_leaks_and_crashes_nothing() {
        let soft = Observed { soft: true, descriptors: Descriptors { open: 19_999, limit: 20_000 }, ..seen() };
        assert_eq!(weight(&soft, "descriptors"), None);
        assert_eq!(weight(&soft, "shares"), None);
        assert_eq!(weight(&seen(), "soft"), None);
        assert_eq!(weight(&soft, "soft"), Some(Weight::Say));
    }

    #[test]
    fn a_release_wants_consent_to_what_crashes_ganesha_and_is_refused_from_another_network() {
        let weights = |shared| of_a_release(shared).iter().map(|c| (c.about, c.weight)).collect::<Vec<_>>();
        assert_eq!(weights(true), [("shares", Weight::Consent)]);
        assert_eq!(weights(false), [("network", Weight::Refuse), ("shares", Weight::Consent)]);
    }

    #[test]
    fn nfsv4_clients_want_consent_and_are_named() {
        let v4 = Observed { stats: vec![stats("192.0.2.9", &["NFSv41"])], ..seen() };
        assert_eq!(weight(&v4, "nfsv4"), Some(Weight::Consent));
        assert!(v4.cautions().iter().any(|caution| caution.text.contains("192.0.2.9")));
        let blind = Observed { stats: vec![stats("192.0.2.9", &[])], ..seen() };
        assert_eq!(weight(&blind, "nfsv4"), Some(Weight::Say));
        assert_eq!(weight(&seen(), "nfsv4"), None);
    }

    #[test]
    fn another_network_is_refused_and_locks_that_cannot_be_seen_want_consent() {
        assert_eq!(weight(&Observed { shares_network: false, ..seen() }, "network"), Some(Weight::Refuse));
        let ceph = Observed { unlisted: vec!["ceph".into()], ..seen() };
        assert_eq!(weight(&ceph, "fsal"), Some(Weight::Consent));
        assert!(!ceph.lists_locks());
    }
}
