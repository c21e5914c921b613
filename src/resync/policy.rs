//! What may be dropped when a run settles, and how far its deadline moves.
//!
//! Unclaimed locks of a client that acked are dropped: that is the cure. Everything here is about
//! when that would be wrong:
//!
//! - a client that never acked, or acked only some of its notices, may never have heard of the run;
//! - one that acked a moment ago has had no time to reclaim (the late-ack rule);
//! - an address that several names share acks for none of them;
//! - when most clients that acked reclaim nothing, it is the notices that were not understood.
//!
//! Pure: facts in, verdicts out. The lock table asks at settle; a manager that cannot mark uses the
//! same rules to say what it would have done.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::wire::control::{Delivery, Policy, Silent, Unreachable};

/// What is known of a run's client when it settles.
#[derive(Debug, Clone, Copy)]
pub struct ClientFacts<'a> {
    /// Its locks in scope when the run began.
    pub in_scope: u64,
    /// Of them, not decided yet.
    pub pending: u64,
    /// Whether it reclaimed any of them, in whole or in part.
    pub reclaimed_any: bool,
    /// Whether it sent any reclaim at all that was granted, known lock or not.
    pub reclaimed_anything: bool,
    /// What became of its notices.
    pub delivery: Delivery,
    /// How long ago its last notice was acked.
    pub acked_ago: Option<Duration>,
    /// Whether its address is shared with another name.
    pub shared_address: bool,
    /// Whether there is evidence that its locks are stale.
    pub suspect: bool,
    /// Whether the scope named it.
    pub named: bool,
    /// Whether the plan named it as unreachable and that was consented to.
    pub may_drop: bool,
    /// The server addresses it called.
    pub server_addresses: &'a [IpAddr],
}

impl ClientFacts<'_> {
    /// Acked, as far as that is evidence: behind a shared address only a reclaim is.
    fn acked(&self) -> bool {
        if self.shared_address { self.reclaimed_anything } else { self.delivery == Delivery::Acked }
    }

    /// Acked, and reclaimed none of its locks in scope.
    fn silent(&self) -> bool {
        self.acked() && self.pending > 0 && !self.reclaimed_any
    }
}

/// What happens to a client's pending locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are dropped.
    Drop,
    /// They are held again.
    Keep(Why),
}

/// Why a client's pending locks are spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It acked none of its notices (or only some), or nobody told the manager.
    Unreachable,
    /// It acked too short a time ago.
    LateAck,
    /// It was silent, and `--silent keep` was asked for.
    Silent,
    /// Too many were silent: the notices were not understood.
    NotUnderstood,
}

/// Verdicts for all clients of a run, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Per client.
    pub verdicts: Vec<Verdict>,
    /// Per client: acked, as far as that is evidence.
    pub acked: Vec<bool>,
    /// Per client: acked, and reclaimed none of its locks in scope.
    pub silent: Vec<bool>,
    /// Whether some were spared because too many were silent.
    pub not_understood: bool,
}

/// How recent an ack is too recent to drop anything of its client: min(`grace`/2, 15 s).
pub fn patience(grace: Duration) -> Duration {
    (grace / 2).min(Duration::from_secs(15))
}

/// The deadline as activity has moved it: [`patience`] after the last reclaim or ack, never past
/// `latest`, never before `deadline`.
pub fn extended_deadline(
    deadline: Duration,
    latest: Duration,
    grace: Duration,
    last_reclaim: Option<Duration>,
    last_ack: Option<Duration>,
) -> Duration {
    let wait = patience(grace);
    [last_reclaim, last_ack]
        .into_iter()
        .flatten()
        .fold(deadline, |end, at| end.max(at.saturating_add(wait)))
        .min(latest)
}

/// Clients that acked and had locks in scope, and how many of those were silent.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    acked: usize,
    silent: usize,
    silent_suspects: usize,
}

impl Group {
    fn add(&mut self, facts: &ClientFacts<'_>) {
        self.acked += 1;
        if facts.silent() {
            self.silent += 1;
            self.silent_suspects += usize::from(facts.suspect);
        }
    }

    /// Two or more and more than half, or the only one and no suspect.
    fn too_silent(self) -> bool {
        (self.silent >= 2 && 2 * self.silent > self.acked)
            || (self.acked == 1 && self.silent == 1 && self.silent_suspects == 0)
    }
}

/// Decides. `alone`: no controller asked for the settle, so only clients reported as acked can lose
/// anything.
pub fn judge(clients: &[ClientFacts<'_>], policy: Policy, grace: Duration, alone: bool) -> Judgement {
    let mut all = Group::default();
    let mut by_address: HashMap<IpAddr, Group> = HashMap::new();
    for facts in clients.iter().filter(|c| c.acked() && c.in_scope > 0) {
        all.add(facts);
        for address in facts.server_addresses {
            by_address.entry(*address).or_default().add(facts);
        }
    }
    let too_silent = |facts: &ClientFacts<'_>| {
        all.too_silent()
            || facts.server_addresses.iter().any(|a| by_address.get(a).copied().unwrap_or_default().too_silent())
    };
    let verdict = |facts: &ClientFacts<'_>| {
        if !facts.acked() {
            let told = match facts.delivery {
                Delivery::NoAnswer | Delivery::NoStatd | Delivery::NameUnknown | Delivery::Refused => true,
                Delivery::NotTold | Delivery::Acked | Delivery::Partial | Delivery::Elsewhere => false,
            };
            let may_drop = policy.unreachable == Unreachable::Drop && facts.may_drop && told && !alone;
            return if may_drop { Verdict::Drop } else { Verdict::Keep(Why::Unreachable) };
        }
        if alone && facts.delivery != Delivery::Acked {
            return Verdict::Keep(Why::Unreachable);
        }
        if facts.acked_ago.is_some_and(|ago| ago < patience(grace)) {
            return Verdict::Keep(Why::LateAck);
        }
        if !facts.silent() {
            return Verdict::Drop;
        }
        match policy.silent {
            Silent::Keep => Verdict::Keep(Why::Silent),
            Silent::Auto if !facts.named && too_silent(facts) => Verdict::Keep(Why::NotUnderstood),
            Silent::Auto | Silent::Drop => Verdict::Drop,
        }
    };
    let verdicts: Vec<_> = clients.iter().map(verdict).collect();
    Judgement {
        not_understood: clients
            .iter()
            .zip(&verdicts)
            .any(|(c, v)| c.pending > 0 && *v == Verdict::Keep(Why::NotUnderstood)),
        acked: clients.iter().map(ClientFacts::acked).collect(),
        silent: clients.iter().map(ClientFacts::silent).collect(),
        verdicts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(90);
    const POLICY: Policy = Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false };

    /// Acked long ago and claimed all but one lock.
    fn stale(server_addresses: &[IpAddr]) -> ClientFacts<'_> {
        ClientFacts {
            in_scope: 5,
            pending: 1,
            reclaimed_any: true,
            reclaimed_anything: true,
            delivery: Delivery::Acked,
            acked_ago: Some(GRACE),
            shared_address: false,
            suspect: false,
            named: false,
            may_drop: false,
            server_addresses,
        }
    }

    fn silent(server_addresses: &[IpAddr]) -> ClientFacts<'_> {
        ClientFacts { pending: 5, reclaimed_any: false, reclaimed_anything: false, ..stale(server_addresses) }
    }

    fn verdicts(clients: &[ClientFacts<'_>], policy: Policy) -> (Vec<Verdict>, bool) {
        let judgement = judge(clients, policy, GRACE, false);
        (judgement.verdicts, judgement.not_understood)
    }

    #[test]
    fn silent_clients_are_dropped_until_they_are_too_many() {
        let here = ["192.0.2.1".parse().unwrap()];
        let (talks, quiet) = (stale(&here), silent(&here));
        let keep = Verdict::Keep(Why::NotUnderstood);
        for (clients, expected, not_understood) in [
            (vec![talks, quiet], vec![Verdict::Drop, Verdict::Drop], false),
            (vec![talks, talks, quiet, quiet], vec![Verdict::Drop; 4], false),
            (vec![talks, quiet, quiet], vec![Verdict::Drop, keep, keep], true),
            (vec![quiet], vec![keep], true),
            (vec![ClientFacts { suspect: true, ..quiet }], vec![Verdict::Drop], false),
            (vec![ClientFacts { named: true, ..quiet }; 3], vec![Verdict::Drop; 3], false),
            (vec![ClientFacts { in_scope: 0, pending: 0, ..quiet }; 3], vec![Verdict::Drop; 3], false),
        ] {
            assert_eq!(verdicts(&clients, POLICY), (expected, not_understood), "{clients:?}");
        }
        let all_quiet = [quiet; 3];
        let with = |silent| Policy { silent, ..POLICY };
        assert_eq!(verdicts(&all_quiet, with(Silent::Drop)), (vec![Verdict::Drop; 3], false));
        assert_eq!(verdicts(&all_quiet, with(Silent::Keep)), (vec![Verdict::Keep(Why::Silent); 3], false));
    }

    #[test]
    fn what_an_address_acked_that_only_has_its_name_drops_nothing_of_a_client() {
        let here = ["192.0.2.1".parse().unwrap()];
        let told = ClientFacts { delivery: Delivery::Elsewhere, may_drop: true, named: true, ..silent(&here) };
        let drop_all = Policy { unreachable: Unreachable::Drop, silent: Silent::Drop, ..POLICY };
        for policy in [POLICY, drop_all] {
            assert_eq!(verdicts(&[told, stale(&here)], policy).0, [Verdict::Keep(Why::Unreachable), Verdict::Drop]);
        }
    }

    #[test]
    fn silence_behind_one_server_address_is_measured_there() {
        let (one, two) = (["192.0.2.1".parse().unwrap()], ["192.0.2.2".parse().unwrap()]);
        let clients = [stale(&one), stale(&one), stale(&one), silent(&two), silent(&two)];
        let (verdicts, not_understood) = verdicts(&clients, POLICY);
        assert!(not_understood);
        assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Keep(Why::NotUnderstood)).count(), 2);
    }

    #[test]
    fn the_deadline_never_moves_back_nor_past_the_latest() {
        let at = Duration::from_secs;
        assert_eq!(extended_deadline(at(90), at(180), GRACE, None, None), at(90));
        assert_eq!(extended_deadline(at(90), at(180), GRACE, Some(at(10)), Some(at(20))), at(90));
        assert_eq!(extended_deadline(at(90), at(180), GRACE, Some(at(80)), None), at(95));
        assert_eq!(extended_deadline(at(90), at(180), GRACE, Some(at(80)), Some(at(88))), at(103));
        assert_eq!(extended_deadline(at(90), at(180), GRACE, Some(at(170)), None), at(180));
        assert_eq!(patience(at(5)), Duration::from_millis(2500));
    }
}
