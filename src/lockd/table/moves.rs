//! Finds out whether a host has changed its address, on which a reclaim in a run may depend.
//!
//! # Theory
//! A reclaim that meets a pending lock of another address waits here for an answer, `yes` only if
//! 1. each name that the host has used resolves to both addresses: by this host's resolver, and first the name
//!    of the lock's client, so that no host makes a claim true by its own name;
//! 2. nothing was heard of the first address: it has not called since the run began ([`Called`]), and when it is
//!    probed, nothing comes, not even a refusal.
//!
//! What is known is kept for the run, question by question. A call from the first address takes every `yes` about it
//! back at once; and there is one present address at most for a first one, since a host moves to one place.
//! The table looks at all the rest anew when it gets the call with the answer.
//!
//! What a stranger can cause is bounded. He must know a pending lock, with its svid, owner handle, range and state
//! number, for each question; of hosts that may have moved to one address [`QUESTIONS_OF_ONE`] are asked about, and
//! [`QUESTIONS_MAX`] in all; beyond that the answer is `no`. At most [`AT_ONCE`] questions are under way: a call
//! that asks one more is dropped unanswered. A first address is probed once in a run, and only if the names are
//! right. A question takes [`resolver::PATIENCE`] and [`PROBE`] at most.
//!
//! A run that is due waits for the questions that were asked before its deadline ([`Moves::holds_up`]), and so no
//! longer than one takes. When it is over they mean nothing any more: calls that wait go on without an answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};

use super::queue::Place;
use crate::lockd::callers::Called;
use crate::locks::Move;
use crate::rpc::resolver;
use crate::rpc::silence::is_silent;
use crate::wire::scope::Shown;

/// How long a first address is listened for: a host that is there answers in milliseconds, and [`is_silent`] asks four times.
const PROBE: Duration = Duration::from_secs(4);
/// Questions of a run, of which each may be a name that is looked up: more hosts than these do not move while it lasts.
const QUESTIONS_MAX: usize = 1_024;
/// Of them, those about hosts that may have moved to one address.
const QUESTIONS_OF_ONE: usize = 8;
/// Questions under way: half of the places that the resolver has.
const AT_ONCE: usize = 16;

/// What is known of a move.
#[derive(Debug)]
enum Known {
    /// It was asked then, and these calls wait for the answer.
    Asked(Duration, Vec<Place>),
    Answered(bool),
}

/// What is known of hosts that may have moved, in the present run.
#[derive(Debug)]
pub(super) struct Moves {
    called: Called,
    rpcbind_port: u16,
    turns: Arc<Semaphore>,
    /// Counts the runs: an answer is of the run in which it was asked for.
    run: u64,
    known: HashMap<Move, Known>,
    /// Whether a first address is silent.
    silent: HashMap<IpAddr, Arc<OnceCell<bool>>>,
}

/// The answer to a question.
#[derive(Debug)]
pub(super) struct MoveAnswer {
    pub(super) question: Move,
    run: u64,
    moved: bool,
}

impl Moves {
    pub(super) fn new(called: Called, rpcbind_port: u16) -> Self {
        Self {
            called,
            rpcbind_port,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            run: 0,
            known: HashMap::new(),
            silent: HashMap::new(),
        }
    }

    /// A run is about to begin.
    pub(super) fn begin(&mut self) {
        self.called.begin();
    }

    /// The run is over. Gives the calls that wait.
    pub(super) fn end(&mut self) -> Vec<Place> {
        self.called.end();
        self.run += 1;
        self.silent.clear();
        let known = std::mem::take(&mut self.known).into_values();
        known.flat_map(|known| if let Known::Asked(_, waiting) = known { waiting } else { Vec::new() }).collect()
    }

    /// The answer, as far as it is known. `None`: it is to be awaited.
    pub(super) fn answer(&self, question: &Move) -> Option<bool> {
        let Move { from, to, .. } = question;
        if self.called.may_have(*from) || self.place_of(*from).is_some_and(|place| place != *to) {
            return Some(false);
        }
        match self.known.get(question) {
            Some(Known::Answered(moved)) => Some(*moved),
            Some(Known::Asked(..)) => None,
            None => {
                let of_one = self.known.keys().filter(|known| known.to == *to).count();
                let too_many = self.known.len() >= QUESTIONS_MAX || of_one >= QUESTIONS_OF_ONE;
                too_many.then_some(false)
            }
        }
    }

    /// Where the hosts at that first address are by now.
    fn place_of(&self, from: IpAddr) -> Option<IpAddr> {
        let moved =
            |(question, known): &(&Move, &Known)| question.from == from && matches!(known, Known::Answered(true));
        self.known.iter().find(moved).map(|(question, _)| question.to)
    }

    pub(super) fn is_asked(&self, question: &Move) -> bool {
        self.known.contains_key(question)
    }

    /// Asks. `None`: too many questions are under way.
    pub(super) fn ask(&mut self, now: Duration, question: Move) -> Option<impl Future<Output = MoveAnswer> + use<>> {
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            tracing::warn!(from = %Shown(question.from), to = %Shown(question.to), "too many hosts may have moved; a reclaim is dropped unanswered");
            return None;
        };
        tracing::info!(
            from = %Shown(question.from), to = %Shown(question.to), name = ?question.names,
            "a reclaim meets a pending lock of another address of its name: it waits until it is known whether that host has moved"
        );
        self.known.insert(question.clone(), Known::Asked(now, Vec::new()));
        let silent = self.silent.entry(question.from).or_default().clone();
        let (rpcbind, run) = (SocketAddr::new(question.from, self.rpcbind_port), self.run);
        Some(async move {
            let listen = || is_silent(rpcbind, question.server_address, PROBE);
            let moved = have_both_addresses(&question).await && *silent.get_or_init(listen).await;
            drop(turn);
            MoveAnswer { question, run, moved }
        })
    }

    /// A call waits for the answer.
    pub(super) fn wait(&mut self, question: &Move, place: Place) {
        if let Some(Known::Asked(_, waiting)) = self.known.get_mut(question) {
            waiting.push(place);
        }
    }

    /// Gives the calls that waited for the answer, and whether the host has moved.
    pub(super) fn answered(&mut self, MoveAnswer { question, run, moved }: &MoveAnswer) -> (bool, Vec<Place>) {
        if *run != self.run {
            return (false, Vec::new());
        }
        let Move { from, to, .. } = question;
        let moved = *moved && !self.called.may_have(*from) && self.place_of(*from).is_none_or(|place| place == *to);
        match self.known.insert(question.clone(), Known::Answered(moved)) {
            Some(Known::Asked(_, waiting)) => (moved, waiting),
            Some(Known::Answered(_)) | None => (moved, Vec::new()),
        }
    }

    /// Whether a question that was asked by then has no answer yet.
    pub(super) fn holds_up(&self, deadline: Duration) -> bool {
        self.known.values().any(|known| matches!(known, Known::Asked(at, _) if *at <= deadline))
    }
}

/// Whether each of the names has both addresses, as far as the resolver says in time.
async fn have_both_addresses(Move { from, to, names, .. }: &Move) -> bool {
    let looking = async {
        for name in names {
            let found = resolver::look_up(name, resolver::PATIENCE).await;
            if !(found.contains(from) && found.contains(to)) {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(resolver::PATIENCE, looking).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockd::table::queue::Line;
    use crate::locks::ClientId;
    use crate::wire::types::CallerName;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn to(from: u8, to: u8) -> Move {
        let names = vec![CallerName::new("roamer").unwrap()];
        Move { client: ClientId(from.into()), from: ip(from), to: ip(to), names, server_address: ip(1) }
    }

    /// At the beginning of a run.
    fn moves() -> (Moves, Called) {
        let called = Called::default();
        let mut moves = Moves::new(called.clone(), 111);
        moves.begin();
        (moves, called)
    }

    impl Moves {
        /// Asked at that time; what would ask is not run.
        fn asked(&mut self, seconds: u64, question: &Move) -> bool {
            self.ask(Duration::from_secs(seconds), question.clone()).is_some()
        }

        fn told(&mut self, question: &Move, moved: bool) -> bool {
            let answer = MoveAnswer { question: question.clone(), run: self.run, moved };
            self.answered(&answer).0
        }
    }

    #[test]
    fn a_call_from_the_first_address_takes_the_answer_back() {
        let (mut moves, called) = moves();
        assert_eq!(moves.answer(&to(2, 3)), None);
        assert!(moves.asked(0, &to(2, 3)) && moves.told(&to(2, 3), true));
        assert_eq!(moves.answer(&to(2, 3)), Some(true));
        called.note(ip(3));
        assert_eq!(moves.answer(&to(2, 3)), Some(true), "where it is now it may call");
        called.note(ip(2));
        assert_eq!(moves.answer(&to(2, 3)), Some(false));
        assert!(moves.asked(0, &to(4, 5)));
        called.note(ip(4));
        assert!(!moves.told(&to(4, 5), true), "it called while it was asked");
        moves.end();
        assert_eq!(moves.answer(&to(6, 7)), Some(false), "without a run nothing is known of any");
    }

    #[test]
    fn a_host_moves_to_one_address() {
        let (mut moves, _) = moves();
        assert!(moves.asked(0, &to(2, 3)) && moves.asked(0, &to(2, 4)));
        assert!(moves.told(&to(2, 4), true) && !moves.told(&to(2, 3), true));
        assert_eq!([3, 4, 5].map(|present| moves.answer(&to(2, present))), [Some(false), Some(true), Some(false)]);
        assert_eq!(moves.answer(&to(9, 4)), None, "which is another host's affair");
    }

    #[test]
    fn an_answer_of_another_run_means_nothing_and_whoever_waits_goes_on_when_the_run_is_over() {
        let (mut moves, _) = moves();
        let place = || Line::new(ip(3), &CallerName::new("roamer").unwrap()).start();
        assert!(moves.asked(0, &to(2, 3)));
        moves.wait(&to(2, 3), place());
        let of_the_first = MoveAnswer { question: to(2, 3), run: moves.run, moved: true };
        assert_eq!(moves.end(), [place()]);
        moves.begin();
        assert!(moves.asked(0, &to(2, 3)));
        moves.wait(&to(2, 3), place());
        let (moved, waiting) = moves.answered(&of_the_first);
        assert!(!moved && waiting.is_empty());
        assert_eq!(moves.answer(&to(2, 3)), None, "it is still asked");
    }

    #[test]
    fn only_what_was_asked_by_the_deadline_holds_a_run_up() {
        let (mut moves, _) = moves();
        let at = Duration::from_secs;
        assert!(!moves.holds_up(at(9)));
        assert!(moves.asked(5, &to(2, 3)) && moves.asked(7, &to(4, 5)));
        assert_eq!([4, 5, 6].map(|deadline| moves.holds_up(at(deadline))), [false, true, true]);
        moves.told(&to(2, 3), false);
        assert_eq!([6, 7].map(|deadline| moves.holds_up(at(deadline))), [false, true]);
    }

    #[test]
    fn questions_are_bounded_at_a_time_of_an_address_and_in_a_run() {
        let (mut moves, _) = moves();
        let under_way: Vec<_> = (0..200).map_while(|n| moves.ask(Duration::ZERO, to(n, 100 + n % 50))).collect();
        assert_eq!(under_way.len(), AT_ONCE);
        drop(under_way);
        for n in 0..20 {
            if moves.answer(&to(n, 99)).is_none() {
                assert!(moves.asked(0, &to(n, 99)));
                moves.told(&to(n, 99), false);
            }
        }
        assert_eq!(moves.known.keys().filter(|known| known.to == ip(99)).count(), QUESTIONS_OF_ONE);
        for n in 0..=u16::MAX {
            let [from, present] = n.to_be_bytes();
            if moves.answer(&to(from, present)).is_none() && !moves.is_asked(&to(from, present)) {
                assert!(moves.asked(0, &to(from, present)));
            }
        }
        assert_eq!(moves.known.len(), QUESTIONS_MAX);
    }
}
