//! What may be dropped when a run settles, and how far its deadline moves.
//!
//! Unclaimed locks of a client that acked are dropped: that is the cure. Everything here is about
//! when that would be wrong:
//!
//! - a client that never acked, or acked only some of its notices, may never have heard of the run;
//! - one that acked a moment ago has had no time to reclaim (the late-ack rule);
//! - an address that several names share acks for none of them;
//! - a client that called several addresses of the server may have got the notice for one of them only: a
//!   statd that keeps one callback for each name acks the others and passes them on to no lock manager;
//! - when most clients that acked reclaim nothing, it is the notices that were not understood.
//!
//! So a client's locks are judged by the server address through which they were taken. A reclaim through
//! one address says nothing of another.
//!
//! Pure: facts in, verdicts out. The lock table asks at settle; a manager that cannot mark uses the
//! same rules to say what it would have done.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::wire::control::{Delivery, PathResult, Policy, Silent, Spared, Unreachable};
use crate::wire::types::Address;
use crate::wire::xdr::Maybe;

/// The facts about a run's client at settle.
#[derive(Debug, Clone, Copy)]
pub struct ClientFacts<'a> {
    /// The fate of its notices.
    pub delivery: Delivery,
    /// How long ago its last notice was acked.
    pub acked_ago: Option<Duration>,
    /// Whether its address is shared with another name.
    pub shared_address: bool,
    /// Whether there is evidence that its locks are stale.
    pub suspect: bool,
    /// Whether the scope named it.
    pub named: bool,
    /// Whether the plan named it as unreachable and the operator consented to that.
    pub may_drop: bool,
    /// Its locks, by the server address that it called for them.
    pub paths: &'a BTreeMap<IpAddr, PathFacts>,
}

/// The facts about a client's locks through one server address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// In scope when the run began.
    pub in_scope: u64,
    /// Of them, not decided yet.
    pub pending: u64,
    /// Whether any of them was reclaimed, in whole or in part, or locked again in targeted grace.
    pub reclaimed_any: bool,
    /// Whether any reclaim through this address was granted, of a known lock or not.
    pub came_back: bool,
}

impl PathFacts {
    fn is_answered(&self) -> bool {
        self.reclaimed_any || self.came_back
    }

    /// Whether it reclaimed any of its locks as a notice makes it do. One that it only locked again, in targeted grace,
    /// shows that the client is there, but not that it has understood the notice.
    pub fn is_reclaimed(&self) -> bool {
        self.reclaimed_any && self.came_back
    }
}

impl ClientFacts<'_> {
    /// Acked, if that is evidence: behind a shared address only a reclaim is evidence.
    fn acked(&self) -> bool {
        if self.shared_address {
            self.paths.values().any(|path| path.came_back)
        } else {
            self.delivery == Delivery::Acked
        }
    }

    /// Acked, and reclaimed none of its locks through this server address.
    fn silent_at(&self, path: &PathFacts) -> bool {
        self.acked() && path.pending > 0 && !path.is_reclaimed()
    }

    /// Acked, and reclaimed none of its locks in scope.
    fn silent(&self) -> bool {
        let mut paths = self.paths.values();
        paths.any(|path| path.pending > 0) && self.paths.values().all(|path| !path.is_reclaimed()) && self.acked()
    }

    /// Whether the client reclaimed something, though not through this server address.
    fn answered_beside(&self, address: IpAddr) -> bool {
        self.paths.iter().any(|(other, path)| *other != address && path.is_answered())
    }

    /// Whether a client that is given up has not answered otherwise, and its locks are kept: then the run need not wait for it.
    pub fn is_unheard_and_kept(&self, policy: Policy, grace: Duration) -> bool {
        !self.paths.values().any(PathFacts::is_answered)
            && self.unheard(policy, grace, false) == Some(Verdict::Keep(Spared::Unreachable))
    }

    /// The verdict that does not depend on reclaims: for clients that are not known to have been notified in time.
    fn unheard(&self, policy: Policy, grace: Duration, alone: bool) -> Option<Verdict> {
        if !self.acked() {
            let may_drop =
                policy.unreachable == Unreachable::Drop && self.may_drop && self.delivery.is_given_up() && !alone;
            return Some(if may_drop { Verdict::Drop } else { Verdict::Keep(Spared::Unreachable) });
        }
        if alone && self.delivery != Delivery::Acked {
            return Some(Verdict::Keep(Spared::Unreachable));
        }
        let late = self.acked_ago.is_some_and(|ago| ago < patience(grace));
        late.then_some(Verdict::Keep(Spared::LateAck))
    }
}

/// What happens to a client's pending locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are freed for good: the client had its chance to reclaim them.
    Drop,
    /// They are held again.
    Keep(Spared),
}

/// The verdict on a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Acked, and reclaimed none of its locks in scope.
    pub silent: bool,
    /// It acked nothing and reclaimed nothing, and it may lose all its locks: it counts as gone.
    pub gone: bool,
    /// Of its pending locks, by the server address that it called for them.
    pub paths: BTreeMap<IpAddr, JudgedPath>,
}

/// The verdict on a client's pending locks through one server address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedPath {
    /// Acked, and reclaimed none of its locks through that address.
    pub silent: bool,
    /// What happens to them.
    pub verdict: Verdict,
}

impl From<(&IpAddr, &JudgedPath)> for PathResult {
    fn from((server_address, path): (&IpAddr, &JudgedPath)) -> Self {
        let spared = match path.verdict {
            Verdict::Drop => None,
            Verdict::Keep(why) => Some(why),
        };
        Self { server_address: Address(*server_address), silent: path.silent, spared: Maybe(spared) }
    }
}

impl Judged {
    /// Whether what is pending through that server address is dropped.
    pub fn drops(&self, server_address: IpAddr) -> bool {
        self.paths.get(&server_address).is_some_and(|path| path.verdict == Verdict::Drop)
    }

    /// The same, with nothing dropped, for want of time.
    #[must_use]
    pub fn spared_for_time(mut self) -> Self {
        for path in self.paths.values_mut().filter(|path| path.verdict == Verdict::Drop) {
            path.verdict = Verdict::Keep(Spared::NoTime);
        }
        Self { gone: false, ..self }
    }

    /// Whether anything is dropped.
    pub fn drops_any(&self) -> bool {
        self.paths.values().any(|path| path.verdict == Verdict::Drop)
    }

    /// Whether something is spared because too many clients were silent.
    pub fn is_not_understood(&self) -> bool {
        self.paths.values().any(|path| path.verdict == Verdict::Keep(Spared::NotUnderstood))
    }
}

/// How long a client takes to repeat an unanswered call.
pub const RETRANSMISSION: Duration = Duration::from_secs(15);

/// If the ack of a client is more recent than this, none of its locks is dropped: min(`grace`/2, 15 s).
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

/// Clients that acked and had locks in scope, and how many of those were silent: in all, or at one server
/// address.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    acked: usize,
    silent: usize,
    /// Of the silent ones, those without evidence to the contrary.
    unexplained: usize,
}

impl Group {
    fn add(&mut self, silent: bool, explained: bool) {
        self.acked += 1;
        self.silent += usize::from(silent);
        self.unexplained += usize::from(silent && !explained);
    }

    /// At least two and more than half are silent; or the only one is, is not a suspect, and has answered nowhere else.
    fn too_silent(self) -> bool {
        (self.silent >= 2 && 2 * self.silent > self.acked) || (self.acked == 1 && self.unexplained == 1)
    }
}

/// How silent the run's clients are.
#[derive(Debug, Default)]
struct Groups {
    all: Group,
    by_address: HashMap<IpAddr, Group>,
}

impl Groups {
    fn add(&mut self, facts: &ClientFacts<'_>) {
        if !facts.acked() {
            return;
        }
        let in_scope = || facts.paths.iter().filter(|(_, path)| path.in_scope > 0);
        if in_scope().next().is_some() {
            self.all.add(facts.silent(), facts.suspect);
        }
        for (address, path) in in_scope() {
            let explained = facts.suspect || facts.answered_beside(*address);
            self.by_address.entry(*address).or_default().add(facts.silent_at(path), explained);
        }
    }

    /// Whether its notices were not understood, in all or at an address where it is silent.
    fn too_silent(&self, facts: &ClientFacts<'_>) -> bool {
        let mut silent_at = facts.paths.iter().filter(|(_, path)| facts.silent_at(path)).map(|(address, _)| address);
        let is_too_silent = |address| self.by_address.get(address).is_some_and(|group| group.too_silent());
        self.all.too_silent() || silent_at.any(is_too_silent)
    }
}

/// Decides about the clients of a run. The verdict on one depends on all: first each is [weighed](Self::weigh), then
/// each is [judged](Self::judge).
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    grace: Duration,
    alone: bool,
    groups: Groups,
}

impl Judge {
    /// One that has weighed no client. `alone`: no controller asked for the settle, so only clients reported as acked
    /// can lose anything.
    pub fn new(policy: Policy, grace: Duration, alone: bool) -> Self {
        Self { policy, grace, alone, groups: Groups::default() }
    }

    /// Counts the client among those that acked, or that were silent.
    pub fn weigh(&mut self, facts: &ClientFacts<'_>) {
        self.groups.add(facts);
    }

    /// The verdict on the client, once all are weighed.
    pub fn judge(&self, facts: &ClientFacts<'_>) -> Judged {
        let unheard = facts.unheard(self.policy, self.grace, self.alone);
        let path = |(address, path): (&IpAddr, &PathFacts)| {
            let silent = facts.silent_at(path);
            let heard = || if silent { self.silent_verdict(facts, *address) } else { Verdict::Drop };
            (*address, JudgedPath { silent, verdict: unheard.unwrap_or_else(heard) })
        };
        Judged {
            silent: facts.silent(),
            gone: unheard == Some(Verdict::Drop) && !facts.paths.values().any(PathFacts::is_answered),
            paths: facts.paths.iter().filter(|(_, path)| path.pending > 0).map(path).collect(),
        }
    }

    fn silent_verdict(&self, facts: &ClientFacts<'_>, address: IpAddr) -> Verdict {
        match self.policy.silent {
            Silent::Keep => Verdict::Keep(Spared::Silent),
            Silent::Auto if !facts.named && self.groups.too_silent(facts) => Verdict::Keep(Spared::NotUnderstood),
            Silent::Auto if !facts.named && facts.answered_beside(address) => Verdict::Keep(Spared::OtherAddress),
            Silent::Auto | Silent::Drop => Verdict::Drop,
        }
    }
}

/// The verdicts on all clients of a run, in their order.
pub fn judge(clients: &[ClientFacts<'_>], policy: Policy, grace: Duration, alone: bool) -> Vec<Judged> {
    let mut judge = Judge::new(policy, grace, alone);
    for facts in clients {
        judge.weigh(facts);
    }
    clients.iter().map(|facts| judge.judge(facts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(90);
    const POLICY: Policy = Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false };

    const ONE: &str = "192.0.2.1";
    const TWO: &str = "192.0.2.2";
    const DROP: Verdict = Verdict::Drop;
    const fn keep(why: Spared) -> Verdict {
        Verdict::Keep(why)
    }

    type Paths = BTreeMap<IpAddr, PathFacts>;

    /// All but one of the locks there came back.
    fn stale() -> PathFacts {
        PathFacts { in_scope: 5, pending: 1, reclaimed_any: true, came_back: true }
    }

    fn quiet() -> PathFacts {
        PathFacts { in_scope: 5, pending: 5, reclaimed_any: false, came_back: false }
    }

    fn through(paths: &[(&str, PathFacts)]) -> Paths {
        paths.iter().map(|(address, path)| (address.parse().unwrap(), *path)).collect()
    }

    fn acked(paths: &Paths) -> ClientFacts<'_> {
        ClientFacts {
            delivery: Delivery::Acked,
            acked_ago: Some(GRACE),
            shared_address: false,
            suspect: false,
            named: false,
            may_drop: false,
            paths,
        }
    }

    /// The verdict on each path of each client, in their order; and whether notices were not understood.
    fn verdicts(clients: &[ClientFacts<'_>], policy: Policy) -> (Vec<Verdict>, bool) {
        let judged = judge(clients, policy, GRACE, false);
        let paths = judged.iter().flat_map(|client| client.paths.values());
        (paths.map(|path| path.verdict).collect(), judged.iter().any(Judged::is_not_understood))
    }

    #[test]
    fn silent_clients_are_dropped_until_they_are_too_many() {
        let (stale, quiet) = (through(&[(ONE, stale())]), through(&[(ONE, quiet())]));
        let (talks, quiet) = (acked(&stale), acked(&quiet));
        let keep = keep(Spared::NotUnderstood);
        for (clients, expected, not_understood) in [
            (vec![talks, quiet], vec![DROP, DROP], false),
            (vec![talks, talks, quiet, quiet], vec![DROP; 4], false),
            (vec![talks, quiet, quiet], vec![DROP, keep, keep], true),
            (vec![quiet], vec![keep], true),
            (vec![ClientFacts { suspect: true, ..quiet }], vec![DROP], false),
            (vec![ClientFacts { named: true, ..quiet }; 3], vec![DROP; 3], false),
            (vec![ClientFacts { paths: &Paths::new(), ..quiet }; 3], vec![], false),
        ] {
            assert_eq!(verdicts(&clients, POLICY), (expected, not_understood), "{clients:?}");
        }
        let all_quiet = [quiet; 3];
        let with = |silent| Policy { silent, ..POLICY };
        assert_eq!(verdicts(&all_quiet, with(Silent::Drop)), (vec![DROP; 3], false));
        assert_eq!(verdicts(&all_quiet, with(Silent::Keep)), (vec![Verdict::Keep(Spared::Silent); 3], false));
    }

    #[test]
    fn what_an_address_acked_that_only_has_its_name_drops_nothing_of_a_client() {
        let (silent, talks) = (through(&[(ONE, quiet())]), through(&[(ONE, stale())]));
        let told = ClientFacts { delivery: Delivery::Elsewhere, may_drop: true, named: true, ..acked(&silent) };
        let drop_all = Policy { unreachable: Unreachable::Drop, silent: Silent::Drop, ..POLICY };
        for policy in [POLICY, drop_all] {
            assert_eq!(verdicts(&[told, acked(&talks)], policy).0, [keep(Spared::Unreachable), DROP]);
        }
    }

    #[test]
    fn silence_behind_one_server_address_is_measured_there() {
        let (talks, quiet) = (through(&[(ONE, stale())]), through(&[(TWO, quiet())]));
        let clients = [acked(&talks), acked(&talks), acked(&talks), acked(&quiet), acked(&quiet)];
        let (verdicts, not_understood) = verdicts(&clients, POLICY);
        assert!(not_understood);
        assert_eq!(verdicts, [DROP, DROP, DROP, keep(Spared::NotUnderstood), keep(Spared::NotUnderstood)]);
    }

    #[test]
    fn an_address_through_which_a_client_had_nothing_in_scope_does_not_count_it() {
        // Three reclaim through ONE. What they once called TWO for is gone and says nothing of it.
        let elsewhere = through(&[(ONE, stale()), (TWO, PathFacts::default())]);
        let quiet = through(&[(TWO, quiet())]);
        let talks = acked(&elsewhere);
        let (verdicts, not_understood) = verdicts(&[talks, talks, talks, acked(&quiet), acked(&quiet)], POLICY);
        assert_eq!(verdicts, [DROP, DROP, DROP, keep(Spared::NotUnderstood), keep(Spared::NotUnderstood)]);
        assert!(not_understood);
    }

    #[test]
    fn an_address_of_which_nothing_came_back_is_spared_while_another_one_answered() {
        let (both, busy) = (through(&[(ONE, stale()), (TWO, quiet())]), through(&[(TWO, stale())]));
        let swallowed = acked(&both);
        let (busy, with) = (acked(&busy), |silent| Policy { silent, ..POLICY });
        let other = keep(Spared::OtherAddress);
        for (what, clients, policy, expected) in [
            ("alone there", vec![swallowed], POLICY, vec![DROP, other]),
            ("among others", vec![swallowed, busy, busy], POLICY, vec![DROP, other, DROP, DROP]),
            ("a suspect", vec![ClientFacts { suspect: true, ..swallowed }], POLICY, vec![DROP, other]),
            ("named", vec![ClientFacts { named: true, ..swallowed }], POLICY, vec![DROP, DROP]),
            ("by flag", vec![swallowed; 3], with(Silent::Drop), vec![DROP; 6]),
            ("kept by flag", vec![swallowed], with(Silent::Keep), vec![DROP, keep(Spared::Silent)]),
        ] {
            assert_eq!(verdicts(&clients, policy), (expected, false), "{what}");
        }
        let judged = judge(&[swallowed], POLICY, GRACE, false);
        assert!(!judged[0].silent, "it reclaimed something");
        assert!(judged[0].paths[&TWO.parse::<IpAddr>().unwrap()].silent, "though nothing there");
    }

    #[test]
    fn two_who_answer_elsewhere_and_are_most_at_an_address_did_not_understand_its_notices() {
        let (both, single) = (through(&[(ONE, stale()), (TWO, quiet())]), through(&[(TWO, quiet())]));
        let (swallowed, quiet) = (acked(&both), acked(&single));
        let keep = keep(Spared::NotUnderstood);
        assert_eq!(verdicts(&[swallowed, swallowed], POLICY), (vec![DROP, keep, DROP, keep], true));
        assert_eq!(verdicts(&[swallowed, quiet], POLICY), (vec![DROP, keep, keep], true), "nobody answered there");
    }

    #[test]
    fn a_lock_that_was_only_locked_again_does_not_show_that_the_notice_was_understood() {
        let again = PathFacts { came_back: false, ..stale() };
        let (again, busy) = (through(&[(ONE, again)]), through(&[(ONE, stale())]));
        assert_eq!(verdicts(&[acked(&again)], POLICY), (vec![keep(Spared::NotUnderstood)], true));
        let policy = Policy { silent: Silent::Keep, ..POLICY };
        assert_eq!(verdicts(&[acked(&again), acked(&busy)], policy).0, [keep(Spared::Silent), DROP]);
        assert!(judge(&[acked(&again)], POLICY, GRACE, false)[0].silent);
    }

    #[test]
    fn a_reclaim_of_a_lock_that_the_server_had_lost_is_an_answer_through_its_address() {
        let lost = PathFacts { came_back: true, ..PathFacts::default() };
        let (both, busy) = (through(&[(ONE, lost), (TWO, quiet())]), through(&[(TWO, stale())]));
        let clients = [acked(&both), acked(&busy), acked(&busy)];
        assert_eq!(verdicts(&clients, POLICY), (vec![keep(Spared::OtherAddress), DROP, DROP], false));
    }

    #[test]
    fn a_client_that_was_silent_through_every_address_is_judged_as_one() {
        let silent = through(&[(ONE, quiet()), (TWO, quiet())]);
        let busy = through(&[(ONE, stale()), (TWO, stale())]);
        let (silent, busy) = (acked(&silent), acked(&busy));
        assert_eq!(verdicts(&[silent, busy, busy], POLICY), (vec![DROP; 6], false));
        assert!(judge(&[silent], POLICY, GRACE, false)[0].silent);
        // Most are silent at one of its addresses: nothing of its is dropped, here or there.
        let only_one = through(&[(ONE, quiet())]);
        let clients = [silent, busy, acked(&only_one), acked(&only_one)];
        let (verdicts, not_understood) = verdicts(&clients, POLICY);
        assert!(not_understood);
        assert!(verdicts[..2].iter().all(|verdict| *verdict == keep(Spared::NotUnderstood)), "{verdicts:?}");
    }

    #[test]
    fn alone_the_same_is_decided_of_those_reported_as_acked_and_nothing_of_others() {
        let both = through(&[(ONE, stale()), (TWO, quiet())]);
        let told = acked(&both);
        let untold = ClientFacts { delivery: Delivery::NotTold, acked_ago: None, ..told };
        for alone in [false, true] {
            let judged = judge(&[told, untold], POLICY, GRACE, alone);
            let of = |client: usize| judged[client].paths.values().map(|p| p.verdict).collect::<Vec<_>>();
            assert_eq!(of(0), [DROP, keep(Spared::OtherAddress)]);
            assert_eq!(of(1), [keep(Spared::Unreachable); 2]);
        }
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
