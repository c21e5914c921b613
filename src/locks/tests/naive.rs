//! What the lock table does, in the simplest words: byte by byte, and with a look at everything each time.
//!
//! Of each owner, byte and mode it knows what was granted and no unlock took back (`held`), what was held when the run
//! began and is not decided (`pending`), and what was offered and is not answered (`offered`); and in which life of its
//! client it was asked for. From that it predicts every verdict, and every offer. While a result is written it also predicts
//! which calls and answers wait.
//!
//! Bytes of the second file follow those of the first.

use std::collections::{BTreeMap, HashSet};

use crate::locks::{OfferAnswer, Verdict};
use crate::wire::control::Mode;
use crate::wire::types::ByteRange;

/// So many bytes of each file are locked.
pub(super) const BYTES: u64 = 6;

/// An owner, a byte, and whether exclusive: an owner has more than one mode on a byte only where a weaker reclaim stands
/// over what is pending, or is of another life.
pub(super) type Place = (usize, u64, bool);
/// The life in which each was taken.
pub(super) type Locks = BTreeMap<Place, i32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) life: i32,
    pub(super) pending: bool,
    /// Its waiter.
    by: u64,
}

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) process: usize,
    pub(super) range: ByteRange,
    pub(super) exclusive: bool,
}

impl Ask {
    fn bytes(self) -> impl Iterator<Item = u64> + Clone {
        self.range.start..=self.range.end
    }

    /// Whether it is about that owner's lock on that byte.
    fn means(self, (process, byte, _): Place) -> bool {
        self.process == process && self.range.start <= byte && byte <= self.range.end
    }

    /// Whether another owner's lock is in its way.
    fn is_excluded_by(self, (process, byte, exclusive): Place) -> bool {
        self.means((self.process, byte, exclusive)) && self.process != process && (exclusive || self.exclusive)
    }

    /// Whether an owner that is granted this has all of that lock of its own.
    fn covers(self, place: Place) -> bool {
        self.means(place) && (self.exclusive || !place.2)
    }
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    ask: Ask,
    life: i32,
    /// After so many runs it was asked for, the last time.
    asked_in: u32,
    /// Once it is offered the range: what its owner had there.
    had: Option<Locks>,
    /// So many offers to it are over.
    renewed: u32,
}

#[derive(Debug, Default)]
pub(super) struct Naive {
    pub(super) held: Locks,
    pub(super) pending: Locks,
    pub(super) offered: BTreeMap<Place, Offered>,
    pub(super) mode: Option<Mode>,
    /// Whether its result is being written.
    pub(super) frozen: bool,
    /// What was answered meanwhile to offers of what is frozen: its waiter, and to which offer to it.
    answers: Vec<(u64, u32, OfferAnswer)>,
    /// Who has reclaimed something in the run, or has got something pending otherwise.
    pub(super) came_back: HashSet<usize>,
    /// In the order they came.
    waiters: Vec<Waiter>,
    last: u64,
    runs: u32,
}

impl Naive {
    // --- what is there

    fn all(&self) -> impl Iterator<Item = (Place, i32)> {
        let locks = self.held.iter().chain(&self.pending).map(|(place, life)| (*place, *life));
        locks.chain(self.offered.iter().map(|(place, offered)| (*place, offered.life)))
    }

    /// What is not pending.
    fn granted(&self) -> impl Iterator<Item = (Place, i32)> {
        let offered = self.offered.iter().filter(|(_, offered)| !offered.pending);
        let held = self.held.iter().map(|(place, life)| (*place, *life));
        held.chain(offered.map(|(place, offered)| (*place, offered.life)))
    }

    pub(super) fn is_in_conflict(&self, ask: Ask) -> bool {
        self.all().any(|(place, _)| ask.is_excluded_by(place))
    }

    fn meets_pending(&self, ask: Ask) -> bool {
        self.undecided().any(|place| ask.is_excluded_by(place))
    }

    /// What is pending, or was offered and is.
    fn undecided(&self) -> impl Iterator<Item = Place> {
        let offered = self.offered.iter().filter(|(_, offered)| offered.pending);
        self.pending.keys().chain(offered.map(|(place, _)| place)).copied()
    }

    pub(super) fn has_undecided(&self, its: impl Fn(usize) -> bool) -> bool {
        self.undecided().any(|(process, ..)| its(process))
    }

    /// Whether it meets what is frozen.
    pub(super) fn is_frozen(&self, ask: Ask) -> bool {
        self.frozen && self.undecided().any(|(_, byte, mode)| ask.means((ask.process, byte, mode)))
    }

    /// Whether the owner holds all of that.
    fn has(&self, ask: Ask) -> bool {
        let has =
            |byte| self.granted().any(|(place, _)| place.1 == byte && ask.means(place) && (place.2 || !ask.exclusive));
        ask.bytes().all(has)
    }

    /// What is offered, in the order in which its waiters came.
    pub(super) fn offers(&self) -> Vec<Ask> {
        self.waiters.iter().filter(|waiter| waiter.had.is_some()).map(|waiter| waiter.ask).collect()
    }

    fn free(&mut self, what: impl Fn(Place, i32) -> bool) {
        self.held.retain(|place, life| !what(*place, *life));
        self.pending.retain(|place, life| !what(*place, *life));
        self.offered.retain(|place, offered| !what(*place, offered.life));
    }

    // --- calls: what they are answered, or `None` if they wait for the end of the settle

    pub(super) fn lock(&mut self, ask: Ask, life: i32, wait: bool) -> Option<Verdict> {
        (!self.is_frozen(ask)).then(|| self.lock_now(ask, life, wait))
    }

    fn lock_now(&mut self, ask: Ask, life: i32, wait: bool) -> Verdict {
        let strict = self.mode == Some(Mode::Strict);
        if let Some(place) = self.waiters.iter().position(|waiter| waiter.ask == ask) {
            let Waiter { id, life: of, ref had, .. } = self.waiters[place];
            let is_offered = had.is_some();
            if wait {
                self.waiters[place].asked_in = self.runs;
                self.waiters[place].life = if is_offered { of } else { life };
            }
            if strict || self.frozen {
                if wait {
                    return Verdict::Blocked;
                }
            } else if is_offered {
                let stands = |byte| self.offered.iter().any(|(place, o)| place.1 == byte && o.by == id);
                let is_it = of == life && ask.bytes().all(stands);
                self.confirm(id);
                self.serve();
                if is_it {
                    return Verdict::Granted;
                }
            } else if wait {
                if self.is_in_conflict(ask) {
                    return Verdict::Blocked;
                }
                self.waiters.remove(place);
            }
        }
        if strict || self.meets_pending(ask) {
            return Verdict::Grace;
        }
        if self.is_in_conflict(ask) {
            return if wait { self.enqueue(ask, life) } else { Verdict::Denied };
        }
        if self.undecided().any(|place| ask.means(place)) {
            self.came_back.insert(ask.process);
        }
        self.free(|place, _| ask.means(place));
        self.held.extend(ask.bytes().map(|byte| ((ask.process, byte, ask.exclusive), life)));
        self.renew_offers();
        self.serve();
        Verdict::Granted
    }

    pub(super) fn reclaim(&mut self, ask: Ask, life: i32) -> Option<Verdict> {
        (!self.frozen).then(|| self.reclaim_now(ask, life))
    }

    fn reclaim_now(&mut self, ask: Ask, life: i32) -> Verdict {
        if self.is_in_conflict(ask) {
            return Verdict::Denied;
        }
        if self.mode.is_some() {
            self.came_back.insert(ask.process);
        }
        let all_in_this_life = self.all().filter(|(place, _)| ask.means(*place)).all(|(_, of)| of == life);
        let holds =
            |byte| self.held.keys().any(|place| place.1 == byte && ask.means(*place) && (place.2 || !ask.exclusive));
        if ask.bytes().all(holds) && all_in_this_life {
            return Verdict::Granted;
        }
        if self.mode.is_none() && !self.has(ask) {
            return Verdict::Grace;
        }
        self.take_back(ask, life);
        self.renew_offers();
        self.serve();
        Verdict::Granted
    }

    fn take_back(&mut self, ask: Ask, life: i32) {
        self.free(|place, _| ask.covers(place));
        for byte in ask.bytes() {
            let held = self.held.range((ask.process, byte, ask.exclusive)..=(ask.process, byte, true));
            let has = held.into_iter().any(|(_, of)| *of == life);
            if !has {
                self.held.insert((ask.process, byte, ask.exclusive), life);
            }
        }
    }

    pub(super) fn unlock(&mut self, ask: Ask) -> Option<Verdict> {
        let here = |byte: u64| byte / BYTES == ask.range.start / BYTES;
        let offered = |(place, o): (&Place, &Offered)| o.pending && place.0 == ask.process && here(place.1);
        if self.frozen && (self.undecided().any(|place| ask.means(place)) || self.offered.iter().any(offered)) {
            return None;
        }
        let known = |w: &&Waiter| w.ask.process == ask.process && w.had.is_some() && w.ask.range.overlaps(ask.range);
        for id in self.waiters.iter().filter(known).map(|waiter| waiter.id).collect::<Vec<_>>() {
            self.decide(id, OfferAnswer::Accepted);
        }
        self.renew_offers();
        self.waiters.retain(|w| !(w.ask.process == ask.process && w.ask.range == ask.range));
        self.free(|place, _| ask.means(place));
        self.serve();
        Some(Verdict::Granted)
    }

    pub(super) fn cancel(&mut self, ask: Ask) -> Option<Verdict> {
        let Some(waiter) = self.waiters.iter().find(|waiter| waiter.ask == ask) else { return Some(Verdict::Denied) };
        if waiter.had.is_some() && self.is_frozen(ask) {
            return None;
        }
        self.answer(waiter.id, OfferAnswer::Refused);
        self.serve();
        Some(Verdict::Granted)
    }

    /// These owners have nothing that was taken in a life before that, and wait for nothing from then.
    pub(super) fn forget(&mut self, its: impl Fn(usize) -> bool, before: i32) {
        for had in self.waiters.iter_mut().filter_map(|waiter| waiter.had.as_mut()) {
            had.retain(|place, life| !(its(place.0) && *life < before));
        }
        let leaves = |waiter: &&Waiter| its(waiter.ask.process) && waiter.life < before;
        for id in self.waiters.iter().filter(leaves).map(|waiter| waiter.id).collect::<Vec<_>>() {
            self.decide(id, OfferAnswer::Refused);
        }
        self.free(|place, life| its(place.0) && life < before);
        self.renew_offers();
        self.serve();
    }

    // --- waiters

    fn enqueue(&mut self, ask: Ask, life: i32) -> Verdict {
        if self.closes_a_cycle(ask) {
            return Verdict::Deadlock;
        }
        self.last += 1;
        self.waiters.push(Waiter { id: self.last, ask, life, asked_in: self.runs, had: None, renewed: 0 });
        Verdict::Blocked
    }

    fn closes_a_cycle(&self, ask: Ask) -> bool {
        let (mut open, mut seen) = (vec![ask], HashSet::new());
        while let Some(next) = open.pop() {
            for ((process, ..), _) in self.all().filter(|(place, _)| next.is_excluded_by(*place)) {
                if process == ask.process {
                    return true;
                }
                if seen.insert(process) {
                    let waits = self.waiters.iter().filter(|w| w.ask.process == process && w.had.is_none());
                    open.extend(waits.map(|w| w.ask));
                }
            }
        }
        false
    }

    /// Offers each its range whose owner it is free for, has nothing pending there, and no offer to answer.
    fn serve(&mut self) {
        if self.mode == Some(Mode::Strict) || self.frozen {
            return;
        }
        for n in 0..self.waiters.len() {
            let Waiter { id, ask, life, ref had, .. } = self.waiters[n];
            let mut undecided = self.pending.keys().chain(self.offered.keys());
            if had.is_some() || undecided.any(|place| ask.means(*place)) || self.is_in_conflict(ask) {
                continue;
            }
            let had: Locks = self.held.extract_if(.., |place, _| ask.means(*place)).collect();
            for byte in ask.bytes() {
                let exclusive = ask.exclusive || had.contains_key(&(ask.process, byte, true));
                self.offered.insert((ask.process, byte, exclusive), Offered { life, pending: false, by: id });
            }
            self.waiters[n].had = Some(had);
        }
    }

    /// Of an offer nothing is left, and its owner has not got the same otherwise: its waiter waits again.
    fn renew_offers(&mut self) {
        for n in 0..self.waiters.len() {
            let Waiter { id, ask, .. } = self.waiters[n];
            let stands = self.offered.values().any(|offered| offered.by == id);
            let has =
                |byte| self.all().any(|(place, _)| place.1 == byte && ask.means(place) && (place.2 || !ask.exclusive));
            if !stands && !ask.bytes().all(has) && self.waiters[n].had.take().is_some() {
                self.waiters[n].renewed += 1;
            }
        }
    }

    /// The answer to the offer of exactly that.
    pub(super) fn answer_to(&mut self, ask: Ask, answer: OfferAnswer) {
        let Waiter { id, renewed, .. } = *self.waiters.iter().find(|waiter| waiter.ask == ask).unwrap();
        if self.is_frozen(ask) {
            return self.answers.push((id, renewed, answer));
        }
        self.answer(id, answer);
        self.serve();
    }

    /// Of the answers that wait, who has accepted.
    pub(super) fn accepting(&self) -> impl Iterator<Item = usize> {
        let accepted = self.answers.iter().filter(|(.., answer)| *answer == OfferAnswer::Accepted);
        accepted.filter_map(|(id, ..)| Some(self.waiters.iter().find(|waiter| waiter.id == *id)?.ask.process))
    }

    /// The settle is over: what was answered meanwhile counts, unless that offer is over.
    pub(super) fn thaw(&mut self) {
        self.frozen = false;
        for (id, renewed, answer) in std::mem::take(&mut self.answers) {
            let stands = |w: &Waiter| (w.id, w.renewed) == (id, renewed) && w.had.is_some();
            if self.waiters.iter().any(stands) {
                self.answer(id, answer);
                if answer != OfferAnswer::Unclear {
                    self.serve();
                }
            }
        }
        self.serve();
    }

    fn confirm(&mut self, id: u64) {
        self.answer(id, OfferAnswer::Accepted);
    }

    fn answer(&mut self, id: u64, answer: OfferAnswer) {
        self.decide(id, answer);
        self.renew_offers();
    }

    fn decide(&mut self, id: u64, answer: OfferAnswer) {
        let place = self.waiters.iter().position(|waiter| waiter.id == id).unwrap();
        let Waiter { ask, had, .. } = self.waiters.remove(place);
        for ((process, byte, exclusive), offered) in self.offered.extract_if(.., |_, o| o.by == id).collect::<Vec<_>>()
        {
            match answer {
                OfferAnswer::Accepted => {
                    let place = (process, byte, ask.exclusive);
                    self.held.entry(place).or_insert(offered.life);
                    self.pending.remove(&place);
                    self.came_back.extend(offered.pending.then_some(process));
                }
                OfferAnswer::Unclear => self.settle_on((process, byte, exclusive), offered.life, offered.pending),
                OfferAnswer::Refused => {
                    let before = had.iter().flatten().filter(|(place, _)| place.1 == byte);
                    // What its owner has got there since, it has instead.
                    let covers = |has: Place, place: &Place| (has.0, has.1) == (process, byte) && (has.2 || !place.2);
                    let covered = |place: &Place| self.all().any(|(has, _)| covers(has, place));
                    let back: Vec<_> = before.filter(|(place, _)| !covered(place)).map(|(p, l)| (*p, *l)).collect();
                    for (place, life) in back {
                        self.settle_on(place, life, offered.pending);
                    }
                }
            }
        }
        if answer == OfferAnswer::Accepted {
            self.take_back_instead(ask);
        }
    }

    /// What its owner has in place of some of an offer that it accepts is as good as reclaimed.
    fn take_back_instead(&mut self, ask: Ask) {
        for (place, life) in self.pending.clone().into_iter().rev().filter(|(place, _)| ask.means(*place)) {
            self.came_back.insert(ask.process);
            let range = ByteRange { start: place.1, end: place.1 };
            self.take_back(Ask { range, exclusive: ask.exclusive && place.2, ..ask }, life);
        }
    }

    fn settle_on(&mut self, place: Place, life: i32, pending: bool) {
        (if pending { &mut self.pending } else { &mut self.held }).insert(place, life);
    }

    // --- runs

    pub(super) fn begin(&mut self, mode: Mode, covers: impl Fn(Place) -> bool) {
        self.runs += 1;
        self.came_back.clear();
        self.mode = Some(mode);
        self.pending = self.held.extract_if(.., |place, _| covers(*place)).collect();
        self.offered.iter_mut().for_each(|(place, offered)| offered.pending = covers(*place));
    }

    /// The run is over: what is pending is held again, but of those that lose it. Who is gone does not get what it was
    /// offered, and does not wait for what it has not asked for in the run.
    pub(super) fn end(&mut self, loses: impl Fn(usize) -> bool, gone: impl Fn(usize) -> bool) {
        self.held.extend(std::mem::take(&mut self.pending).into_iter().filter(|((p, ..), _)| !loses(*p)));
        let left = |waiter: &Waiter| gone(waiter.ask.process) && waiter.asked_in < self.runs;
        let leaving: HashSet<u64> = self.waiters.iter().filter(|waiter| left(waiter)).map(|waiter| waiter.id).collect();
        self.offered.retain(|(p, ..), offered| !(offered.pending && gone(*p)));
        for id in leaving {
            self.decide(id, OfferAnswer::Refused);
        }
        self.offered.values_mut().for_each(|offered| offered.pending = false);
        self.mode = None;
        self.renew_offers();
        self.thaw();
    }
}
