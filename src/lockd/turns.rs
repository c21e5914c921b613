//! Turns: which client is called next, when more calls want to leave than may be under way.
//!
//! # Theory
//! A call to a client that answers takes milliseconds, one to a dead client seconds, and it is not known before
//! which it is. So the calls to one address stand in a line of their own ([`Line`]), and what is known of a line is
//! how many of its calls in a row had no answer (`misses`). A new line has [`NEW`]: nothing speaks for it.
//!
//! What must hold:
//! - A line with fewer misses comes first, and among equals the one that had no turn for the longest. Of the
//!   new ones the last that came has every other turn: ten thousand dead clients that were not called yet do not
//!   stand before one that lives, nor does a stream of them keep the first ones out.
//! - Calls under way are bounded: in all, for lines that have not answered, for silent ones, and for each line. So a
//!   client that answers finds room beside the others, and its own many calls leave room for others.
//! - A turn ends when it is dropped, also with its task; who waits no more leaves nothing behind.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Calls under way at once.
const AT_ONCE: usize = 256;
/// Of them, to lines whose last call had no answer.
const UNPROVEN_AT_ONCE: usize = 192;
/// Of them, to silent lines.
const SILENT_AT_ONCE: usize = 32;
/// To one line whose last call was answered. Any other is called once at a time.
const EACH_AT_ONCE: usize = 4;
/// Misses of a line that was never called.
const NEW: u32 = 1;
/// From so many on a line is silent.
const SILENT: u32 = 2;
/// Lines with so many misses are equal: the one that had no turn for the longest comes first.
const MOST_MISSES: u32 = 8;
/// Lines in which no call waits are remembered, up to so many.
const REMEMBERED: usize = 4_096;

/// Gives the turns. Cloned freely.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    lines: Arc<Mutex<Lines>>,
}

/// The right to one call. Over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// Until it is over.
    turns: Option<Turns>,
    address: IpAddr,
    /// Those of its line when it began.
    misses: u32,
    answered: Option<bool>,
}

/// All that wants to call one address.
#[derive(Debug)]
struct Line {
    misses: u32,
    under_way: usize,
    /// In the order they came.
    waiting: BTreeMap<u64, oneshot::Sender<Turn>>,
    /// When it had a turn last, or began to wait: a number that no other line has.
    place: u64,
}

#[derive(Debug, Default)]
struct Lines {
    by_address: HashMap<IpAddr, Line>,
    /// Those that may be called, by misses and place.
    ready: BTreeMap<(u32, u64), IpAddr>,
    /// Those that want nothing, by place.
    idle: BTreeMap<u64, IpAddr>,
    under_way: UnderWay,
    last_number: u64,
    newest_next: bool,
}

#[derive(Debug, Default)]
struct UnderWay {
    answering: usize,
    unproven: usize,
    silent: usize,
}

impl UnderWay {
    fn of(&mut self, misses: u32) -> &mut usize {
        match misses {
            0 => &mut self.answering,
            1..SILENT => &mut self.unproven,
            SILENT.. => &mut self.silent,
        }
    }

    /// Where a line has no room, none with more misses has.
    fn has_room_for(&self, misses: u32) -> bool {
        let Self { answering, unproven, silent } = *self;
        let room = answering + unproven + silent < AT_ONCE;
        let room_unproven = room && unproven + silent < UNPROVEN_AT_ONCE;
        match misses {
            0 => room,
            1..SILENT => room_unproven,
            SILENT.. => room_unproven && silent < SILENT_AT_ONCE,
        }
    }
}

impl Line {
    fn is_ready(&self) -> bool {
        let most = if self.misses == 0 { EACH_AT_ONCE } else { 1 };
        !self.waiting.is_empty() && self.under_way < most
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }
}

impl Lines {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Changes a line, and keeps it among the ready or the idle ones as it is then.
    fn change<T>(&mut self, address: IpAddr, change: impl FnOnce(&mut Line) -> T) -> T {
        let place = self.next_number();
        let new = || Line { misses: NEW, under_way: 0, waiting: BTreeMap::new(), place };
        let line = self.by_address.entry(address).or_insert_with(new);
        self.ready.remove(&(line.misses, line.place));
        self.idle.remove(&line.place);
        let changed = change(line);
        if line.is_ready() {
            self.ready.insert((line.misses, line.place), address);
        } else if line.is_idle() {
            self.idle.insert(line.place, address);
        }
        if self.idle.len() > REMEMBERED
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        changed
    }

    /// Gives the number of the one that waits.
    fn enter(&mut self, address: IpAddr, asker: oneshot::Sender<Turn>) -> u64 {
        let number = self.next_number();
        self.change(address, |line| {
            if line.is_idle() {
                line.place = number;
            }
            line.waiting.insert(number, asker);
        });
        number
    }

    /// Whose turn it is.
    fn next(&mut self) -> Option<(oneshot::Sender<Turn>, IpAddr, u32)> {
        let (&(misses, _), &first) = self.ready.first_key_value()?;
        if !self.under_way.has_room_for(misses) {
            return None;
        }
        let mut address = first;
        if misses == NEW {
            self.newest_next = !self.newest_next;
            let newest = self.ready.range((NEW, 0)..=(NEW, u64::MAX)).next_back();
            address = newest.filter(|_| self.newest_next).map_or(first, |(_, newest)| *newest);
        }
        let place = self.next_number();
        let (_, asker) = self.change(address, |line| {
            line.place = place;
            line.under_way += 1;
            line.waiting.pop_first()
        })?;
        *self.under_way.of(misses) += 1;
        Some((asker, address, misses))
    }
}

impl Turns {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to call that address.
    pub(super) async fn wait(&self, address: IpAddr) -> Turn {
        loop {
            let (asker, turn) = oneshot::channel();
            let number = self.lines().enter(address, asker);
            let _waiting = Waiting { turns: self, address, number };
            self.serve();
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    /// Whether its last calls had no answer.
    pub(super) fn is_silent(&self, address: IpAddr) -> bool {
        self.lines().by_address.get(&address).is_some_and(|line| line.misses >= SILENT)
    }

    /// Gives the turns that there are. No call is told while the lines are locked: a turn that is not taken is
    /// dropped, and locks them.
    fn serve(&self) {
        loop {
            let Some((asker, address, misses)) = self.lines().next() else { return };
            let turn = Turn { turns: Some(self.clone()), address, misses, answered: None };
            if let Err(mut unwanted) = asker.send(turn) {
                unwanted.end();
            }
        }
    }
}

/// A place in a line; given up when it is dropped.
struct Waiting<'a> {
    turns: &'a Turns,
    address: IpAddr,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.lines().change(self.address, |line| line.waiting.remove(&self.number));
    }
}

impl Turn {
    /// The call is over.
    pub(super) fn over(mut self, answered: bool) {
        self.answered = Some(answered);
    }

    /// Gives it back, once.
    fn end(&mut self) -> Option<Turns> {
        let turns = self.turns.take()?;
        let mut lines = turns.lines();
        *lines.under_way.of(self.misses) -= 1;
        lines.change(self.address, |line| {
            line.under_way -= 1;
            line.misses = match self.answered {
                Some(true) => 0,
                // Calls that were lost together are one miss.
                Some(false) if line.misses == self.misses => (line.misses + 1).min(MOST_MISSES),
                Some(false) | None => line.misses,
            };
        });
        drop(lines);
        Some(turns)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.end() {
            turns.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Wait<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    /// The turns that have been given, and those who still wait.
    fn given(all: Vec<Wait<'_>>) -> (Vec<Turn>, Vec<Wait<'_>>) {
        let (mut turns, mut waiting) = (Vec::new(), Vec::new());
        for mut wait in all {
            match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(turn) => turns.push(turn),
                Poll::Pending => waiting.push(wait),
            }
        }
        (turns, waiting)
    }

    fn ask(turns: &Turns, clients: impl IntoIterator<Item = IpAddr>) -> (Vec<Turn>, Vec<Wait<'_>>) {
        given(clients.into_iter().map(|address| -> Wait<'_> { Box::pin(turns.wait(address)) }).collect())
    }

    fn one(turns: &Turns, address: IpAddr) -> Turn {
        ask(turns, [address]).0.pop().expect("a turn at once")
    }

    fn under_way(turns: &Turns) -> usize {
        let UnderWay { answering, unproven, silent } = turns.lines().under_way;
        answering + unproven + silent
    }

    /// Calls them until they are silent.
    fn die(turns: &Turns, clients: impl IntoIterator<Item = IpAddr>) {
        for address in clients {
            for _ in NEW..SILENT {
                one(turns, address).over(false);
            }
        }
    }

    #[test]
    fn a_client_that_answered_has_a_turn_at_once_however_many_others_are_dead() {
        let turns = Turns::default();
        let lives = client(1_000_000);
        one(&turns, lives).over(true);
        die(&turns, (0..2_000).map(client));
        let (dead, _rest) = ask(&turns, (0..2_000).map(client));
        assert_eq!(dead.len(), SILENT_AT_ONCE);
        let (new, _others) = ask(&turns, (5_000..9_000).map(client));
        assert_eq!(dead.len() + new.len(), UNPROVEN_AT_ONCE);
        for _ in 0..20 {
            one(&turns, lives).over(true);
        }
    }

    #[test]
    fn the_grants_of_one_client_wait_behind_each_other_and_keep_nobody_else_out() {
        let turns = Turns::default();
        let (mut first, mut waiting) = ask(&turns, std::iter::repeat_n(client(1), 1_000));
        assert_eq!(first.len(), 1, "it is not known to live");
        let other = one(&turns, client(2));
        first.pop().unwrap().over(true);
        let (mut many, rest) = given(waiting);
        assert_eq!(many.len(), EACH_AT_ONCE, "it answered");
        for number in 3..100 {
            one(&turns, client(number)).over(true);
        }
        many.drain(..).for_each(|turn| turn.over(false));
        (many, waiting) = given(rest);
        assert_eq!(many.len(), 1, "what was lost together is one miss");
        assert!(!turns.is_silent(client(1)));
        many.pop().unwrap().over(false);
        assert!(turns.is_silent(client(1)));
        drop((other, waiting));
        assert_eq!(under_way(&turns), 0);
    }

    #[test]
    fn who_came_first_and_who_came_last_of_many_new_clients_are_both_served() {
        let turns = Turns::default();
        let (mut busy, waiting) = ask(&turns, (0..1_000).map(client));
        assert_eq!(busy.len(), UNPROVEN_AT_ONCE);
        busy.drain(..2).for_each(|turn| turn.over(false));
        let (served, _waiting) = given(waiting);
        let mut served: Vec<IpAddr> = served.iter().map(|turn| turn.address).collect();
        served.sort_unstable();
        assert_eq!(served, [client(u32::try_from(UNPROVEN_AT_ONCE).unwrap()), client(999)]);
    }

    #[test]
    fn a_client_that_lost_one_datagram_comes_before_those_that_have_been_silent_for_longer() {
        let turns = Turns::default();
        let dead: Vec<IpAddr> = (0..1_000).map(client).collect();
        for _ in 0..3 {
            die(&turns, dead.iter().copied());
        }
        let (mut busy, silent) = ask(&turns, dead);
        let lives = client(5_000);
        die(&turns, [lives]);
        let (none, mut all) = ask(&turns, [lives]);
        assert!(none.is_empty(), "the share of the silent ones is used up");
        busy.pop().unwrap().over(false);
        all.extend(silent);
        let (served, _waiting) = given(all);
        assert_eq!(served.iter().map(|turn| turn.address).collect::<Vec<_>>(), [lives]);
    }

    #[test]
    fn what_is_withdrawn_leaves_room_and_nothing_behind() {
        let turns = Turns::default();
        let clients = || (0..20_000).map(client);
        let (busy, waiting) = ask(&turns, clients());
        drop(waiting);
        let (none, waiting) = ask(&turns, clients());
        assert!(none.is_empty());
        drop(busy);
        let mut served = 0;
        let mut left = waiting;
        while !left.is_empty() {
            let (given, rest) = given(left);
            assert!(!given.is_empty() && given.len() <= UNPROVEN_AT_ONCE);
            served += given.len();
            left = rest;
        }
        assert_eq!((served, under_way(&turns)), (20_000, 0));
        let lines = turns.lines();
        assert!(lines.ready.is_empty() && lines.by_address.len() <= REMEMBERED && lines.idle.len() <= REMEMBERED);
    }

    #[test]
    fn all_calls_under_way_are_bounded() {
        let turns = Turns::default();
        for number in 0..500 {
            one(&turns, client(number)).over(true);
        }
        let each_many = (0..500).flat_map(|number| [client(number); 10]);
        let (busy, waiting) = ask(&turns, each_many.chain((1_000..2_000).map(client)));
        assert_eq!(busy.len(), AT_ONCE);
        drop((busy, waiting));
        assert_eq!(under_way(&turns), 0);
    }
}
