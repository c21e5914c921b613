//! Remembers answers, so that a call that came twice is executed once.
//!
//! # Theory
//! A datagram that was answered may come again: its reply was lost, or the network held a copy back.
//! Executed again, an old UNLOCK frees a new lock and an old LOCK makes one that its client does not know of. So
//! a call is known by where it came from, the address it was sent to, its xid, what it calls and its
//! arguments. One caller may use an xid again at another of this host's addresses. All of that stands in the cache as
//! 128 bits: two hashes with a secret each, so that no peer can make two calls that look alike.
//!
//! An answer can become false: locks are released, or dropped by a run, without their client. So the service
//! is asked before an answer is repeated ([`is_still_true`](crate::rpc::server::Service::is_still_true)).
//!
//! An entry is in progress, then answered; an answered one lives for [`CacheLimits::age`], unless
//! its room is wanted. A source over its own bound loses its oldest answer. When the whole cache is
//! full, a source that takes up most of it loses its oldest answer; if that is younger than
//! [`CacheLimits::kept`], the oldest answer of all goes; if that is too, the oldest of the source that
//! needs the room. So a source that floods never costs another one an answer that may still be asked for. Nor does it
//! keep the others out: the last part of the room ([`CacheLimits::reserve`]) is for sources that have little.
//! Entries in progress are never evicted (the server bounds the calls it executes at a time); a call
//! that finds no room is executed and not remembered: its repetition is executed again.
//!
//! Every call passes here, and all calls wait for each other. So a call costs the same however much
//! is remembered: answers stand in two chains by age (of all, of their source), a call takes away at most
//! [`EXPIRED_AT_ONCE`] that are too old, and the two indexes are spread over
//! many tables, of which one grows at a time. What is found is known by its number from then on.
//!
//! Memory: [`CacheLimits::bytes`] in total, by default 96 MiB (a million answers of NLM), and half of that
//! for one source. It takes memory as it fills, not before.
//!
//! What must hold: `entries`, `sources`, their indexes and `heaviest` tell of the same entries; those that are answered
//! are in both chains; the weights are sums over them. Only `insert`, `reweigh` and `remove` change them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

use ahash::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use crate::shares::network;
use crate::spread::Spread;
use crate::wire::rpc::IncomingCall;

/// What an entry takes up, roughly, in bytes, with its place in the index and the room for a short reply.
const OVERHEAD: usize = 100;
/// Replies up to this length, in bytes, stand in their entries: a header of 24, a cookie of 4 as Linux has it, a status.
const SHORT: usize = 36;
/// Answers that one call takes away for their age: more than it brings, so that they never pile up.
const EXPIRED_AT_ONCE: usize = 4;

/// What names a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The holder whose share of the cache it counts to: a host has a whole IPv6 network of addresses to call from.
    source: IpAddr,
    print: Print,
}

/// Two hashes of all that makes a call another one, with a secret each.
type Print = [u64; 2];

impl Key {
    /// The key of a call from `source`, with its port, to the local address `called`.
    pub fn new(source: SocketAddr, called: IpAddr, call: &IncomingCall<'_>) -> Self {
        static SECRETS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [secret(), secret()]);
        let IncomingCall { xid, program, version, procedure, args, .. } = *call;
        let call = (source, called, xid, program, version, procedure, args);
        Self { source: network(source.ip()), print: SECRETS.each_ref().map(|secret| secret.hash_one(call)) }
    }
}

fn secret() -> RandomState {
    let [a, b, c, d] = rand::random();
    RandomState::with_seeds(a, b, c, d)
}

/// What the cache knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing: execute it, then tell [`ReplyCache::answered`] or [`ReplyCache::forget`].
    New,
    /// It is being executed: drop this one.
    InProgress,
    /// It was answered with this.
    Answered(Reply),
}

/// A reply as it was sent.
pub type Reply = SmallVec<[u8; SHORT]>;

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes of one source (an IPv4 address, or an IPv6 network of 64 bits).
    pub bytes_per_source: usize,
    /// Of `bytes`, those that only a source with less than `little` may take.
    pub reserve: usize,
    /// Bytes of one source up to which it may take from the reserve.
    pub little: usize,
    /// Answers older than this are forgotten.
    pub age: Duration,
    /// Answers younger than this are not evicted for another source.
    pub kept: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes: 96 << 20,
            // Many processes of one host, or many hosts behind one address, may call at the full rate for as
            // long as `kept`, and none of them may lose an answer to the others.
            bytes_per_source: 48 << 20,
            reserve: 9 << 20,
            little: 96 << 10,
            age: Duration::from_mins(2),
            // Linux repeats a call after ten seconds (`nlm_timeout`) and again after twenty more, others sooner.
            kept: Duration::from_secs(40),
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct ReplyCache {
    limits: CacheLimits,
    entries: Slab<Entry>,
    /// Entries by their prints.
    prints: Spread<u32, RandomState>,
    sources: Slab<Source>,
    /// Sources by address.
    addresses: Spread<u32, RandomState>,
    /// Sources by the power of two of their weight, which seldom changes.
    heaviest: BTreeSet<(u32, usize)>,
    /// The answers of all.
    all: Chain,
    weight: usize,
}

#[derive(Debug)]
struct Entry {
    print: Print,
    reply: Option<Reply>,
    /// Its number in `sources`.
    source: u32,
    /// In whole seconds of the cache's time.
    since: u32,
    /// Its neighbours among all answers.
    in_all: Links,
    /// Its neighbours among the answers of its source.
    in_source: Links,
}

impl Entry {
    fn weight(&self) -> usize {
        OVERHEAD + self.reply.as_deref().map_or(0, more_than_short)
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_secs(self.since.into()))
    }
}

/// In 136 years of one process no time is too long for it.
fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// Memory bounds the entries and sources to far fewer.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What a reply takes up besides its entry.
fn more_than_short(reply: &[u8]) -> usize {
    if reply.len() > SHORT { reply.len() } else { 0 }
}

/// One that has entries, or is about to.
#[derive(Debug)]
struct Source {
    address: IpAddr,
    weight: usize,
    answers: Chain,
}

/// The neighbours in a chain, by their numbers in `entries`.
#[derive(Debug, Default, Clone, Copy)]
struct Links {
    older: Link,
    younger: Link,
}

/// The number of an entry, if there is one. A million entries have four of these.
#[derive(Debug, Default, Clone, Copy)]
struct Link(Option<NonZeroU32>);

impl Link {
    fn to(number: Option<usize>) -> Self {
        Self(number.and_then(|number| NonZeroU32::new(u32::try_from(number + 1).ok()?)))
    }

    fn get(self) -> Option<usize> {
        self.0.map(|number| number.get() as usize - 1)
    }
}

/// Answers by age, chained through their entries.
#[derive(Debug, Default, Clone, Copy)]
struct Chain {
    oldest: Option<usize>,
    youngest: Option<usize>,
}

impl Chain {
    fn push(&mut self, number: usize, entries: &mut Slab<Entry>, links: fn(&mut Entry) -> &mut Links) {
        let older = self.youngest.replace(number);
        match older.and_then(|older| entries.get_mut(older)) {
            Some(older) => links(older).younger = Link::to(Some(number)),
            None => self.oldest = Some(number),
        }
        if let Some(entry) = entries.get_mut(number) {
            *links(entry) = Links { older: Link::to(older), younger: Link::default() };
        }
    }

    fn unlink(&mut self, of: Links, entries: &mut Slab<Entry>, links: fn(&mut Entry) -> &mut Links) {
        match of.older.get().and_then(|older| entries.get_mut(older)) {
            Some(older) => links(older).younger = of.younger,
            None => self.oldest = of.younger.get(),
        }
        match of.younger.get().and_then(|younger| entries.get_mut(younger)) {
            Some(younger) => links(younger).older = of.older,
            None => self.youngest = of.older.get(),
        }
    }
}

fn class(weight: usize) -> u32 {
    weight.checked_ilog2().unwrap_or(0)
}

impl ReplyCache {
    /// An empty one.
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            entries: Slab::new(),
            prints: Spread::hashed(secret()),
            sources: Slab::new(),
            addresses: Spread::hashed(secret()),
            heaviest: BTreeSet::new(),
            all: Chain::default(),
            weight: 0,
        }
    }

    /// Entries that it holds.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that it takes up, as [`CacheLimits`] counts them.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.weight
    }

    /// A call came at `now`.
    pub fn begin(&mut self, now: Duration, key: Key) -> Lookup {
        self.expire(now);
        if let Some(number) = self.find(&key) {
            match self.entries.get(number) {
                Some(Entry { reply: None, .. }) => return Lookup::InProgress,
                Some(entry @ Entry { reply: Some(reply), .. }) if !self.is_old(now, entry) => {
                    return Lookup::Answered(reply.clone());
                }
                _ => self.remove(number),
            }
        }
        let source = self.source(key.source);
        if self.make_room(now, source, OVERHEAD) {
            self.insert(now, key.print, source);
        }
        self.leave_if_empty(source);
        Lookup::New
    }

    /// The call was answered at `now`.
    pub fn answered(&mut self, now: Duration, key: &Key, reply: &[u8]) {
        let Some(number) = self.find(key) else { return };
        // An answer stays as it was given.
        let Some(&Entry { source, reply: None, .. }) = self.entries.get(number) else { return };
        if self.make_room(now, source as usize, more_than_short(reply)) {
            self.reweigh(now, number, reply);
        } else {
            self.remove(number);
        }
    }

    /// The call will not be answered. Does nothing to one that was.
    pub fn forget(&mut self, key: &Key) {
        let Some(number) = self.find(key) else { return };
        if self.entries.get(number).is_some_and(|entry| entry.reply.is_none()) {
            self.remove(number);
        }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        let is_it = |number: &u32| self.entries.get(*number as usize).is_some_and(|entry| entry.print == key.print);
        self.prints.find(&key.print, is_it).map(|number| *number as usize)
    }

    /// The number of the source of that address. A new one goes with [`Self::leave_if_empty`] where nothing of it is
    /// remembered.
    fn source(&mut self, address: IpAddr) -> usize {
        let Self { sources, addresses, .. } = self;
        let is_it = |number: &u32| sources.get(*number as usize).is_some_and(|source| source.address == address);
        if let Some(known) = addresses.find(&address, is_it) {
            return *known as usize;
        }
        let number = sources.insert(Source { address, weight: 0, answers: Chain::default() });
        addresses
            .put(short(number), |hash, other| sources.get(*other as usize).map_or(0, |it| hash.hash_one(it.address)));
        number
    }

    fn leave_if_empty(&mut self, source: usize) {
        if let Some(&Source { weight: 0, address, .. }) = self.sources.get(source) {
            self.addresses.take(&address, |number| *number == short(source));
            self.sources.remove(source);
        }
    }

    fn expire(&mut self, now: Duration) {
        for _ in 0..EXPIRED_AT_ONCE {
            let is_old = |number: &usize| self.entries.get(*number).is_some_and(|entry| self.is_old(now, entry));
            let oldest = self.all.oldest.filter(is_old);
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }

    fn is_old(&self, now: Duration, entry: &Entry) -> bool {
        entry.age(now) > self.limits.age
    }

    /// Evicts until `more` bytes of `source` fit; false if they cannot.
    fn make_room(&mut self, now: Duration, source: usize, more: usize) -> bool {
        while self.weight_of(source) + more > self.limits.bytes_per_source {
            let Some(own) = self.oldest_of(source) else { return false };
            self.evict(own);
        }
        let has_little = self.weight_of(source) + more <= self.limits.little;
        let room = self.limits.bytes - if has_little { 0 } else { self.limits.reserve };
        while self.weight + more > room {
            let Some(victim) = self.victim(now, source) else { return false };
            if self.entries.get(victim).is_some_and(|entry| entry.source as usize == source) {
                self.evict(victim);
            } else {
                self.remove(victim);
            }
        }
        true
    }

    fn weight_of(&self, source: usize) -> usize {
        self.sources.get(source).map_or(0, |s| s.weight)
    }

    /// Which answer goes in a full cache, for the sake of `source`.
    fn victim(&self, now: Duration, source: usize) -> Option<usize> {
        let may_go = |number: &usize| {
            self.entries
                .get(*number)
                .is_some_and(|entry| entry.source as usize == source || entry.age(now) >= self.limits.kept)
        };
        let heaviest = self.heaviest.last().and_then(|&(_, heaviest)| self.oldest_of(heaviest));
        heaviest.filter(may_go).or_else(|| self.all.oldest.filter(may_go)).or_else(|| self.oldest_of(source))
    }

    /// The oldest answer of a source.
    fn oldest_of(&self, source: usize) -> Option<usize> {
        self.sources.get(source)?.answers.oldest
    }

    fn insert(&mut self, now: Duration, print: Print, source: usize) {
        let (in_all, in_source) = (Links::default(), Links::default());
        let entry = Entry { print, reply: None, source: short(source), since: seconds(now), in_all, in_source };
        let Self { entries, prints, .. } = self;
        let number = short(entries.insert(entry));
        prints.put(number, |hash, other| entries.get(*other as usize).map_or(0, |it| hash.hash_one(it.print)));
        self.weigh(source, |weight| weight + OVERHEAD);
    }

    /// Answered: heavier, and the youngest of all.
    fn reweigh(&mut self, now: Duration, number: usize, reply: &[u8]) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        let source = entry.source as usize;
        (entry.since, entry.reply) = (seconds(now), Some(Reply::from_slice(reply)));
        self.all.push(number, &mut self.entries, |entry| &mut entry.in_all);
        if let Some(of_source) = self.sources.get_mut(source) {
            of_source.answers.push(number, &mut self.entries, |entry| &mut entry.in_source);
        }
        self.weigh(source, |weight| weight + more_than_short(reply));
    }

    fn remove(&mut self, number: usize) {
        let source = self.entries.get(number).map(|entry| entry.source);
        self.evict(number);
        if let Some(source) = source {
            self.leave_if_empty(source as usize);
        }
    }

    /// Removes it. Its source stays, whatever is left of it.
    fn evict(&mut self, number: usize) {
        let Some(entry) = self.entries.try_remove(number) else { return };
        let source = entry.source as usize;
        self.prints.take(&entry.print, |other| *other == short(number));
        if entry.reply.is_some() {
            self.all.unlink(entry.in_all, &mut self.entries, |entry| &mut entry.in_all);
            if let Some(of_source) = self.sources.get_mut(source) {
                of_source.answers.unlink(entry.in_source, &mut self.entries, |entry| &mut entry.in_source);
            }
        }
        self.weigh(source, |weight| weight - entry.weight());
    }

    fn weigh(&mut self, number: usize, change: impl Fn(usize) -> usize) {
        let Some(source) = self.sources.get_mut(number) else { return };
        let (before, after) = (source.weight, change(source.weight));
        source.weight = after;
        self.weight = change(self.weight);
        if class(before) != class(after) || before == 0 || after == 0 {
            self.heaviest.remove(&(class(before), number));
            if after > 0 {
                self.heaviest.insert((class(after), number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::rpc::Credential;

    const NOW: Duration = Duration::from_secs(1000);

    fn key(source: &str, xid: u32) -> Key {
        let (source, called) = (source.parse().unwrap(), "192.0.2.100".parse().unwrap());
        Key::new(source, called, &call(xid))
    }

    fn call(xid: u32) -> IncomingCall<'static> {
        let (program, version, procedure, args) = (100_021, 4, 2, &[][..]);
        IncomingCall { xid, program, version, procedure, credential: Credential::None, args }
    }

    fn cache(entries: usize, per_source: usize) -> ReplyCache {
        ReplyCache::new(CacheLimits {
            bytes: entries * OVERHEAD,
            bytes_per_source: per_source * OVERHEAD,
            reserve: 0,
            ..CacheLimits::default()
        })
    }

    fn answer_at(cache: &mut ReplyCache, now: Duration, key: Key) {
        assert_eq!(cache.begin(now, key), Lookup::New);
        cache.answered(now, &key, &[]);
    }

    fn answer(cache: &mut ReplyCache, key: Key) {
        answer_at(cache, NOW, key);
    }

    /// The length of a chain, whose entries are checked to stand by age.
    fn chained(cache: &ReplyCache, chain: Chain, links: fn(&Entry) -> Links) -> usize {
        let next = |number: &usize| links(&cache.entries[*number]).younger.get();
        let ages: Vec<_> =
            std::iter::successors(chain.oldest, next).map(|number| cache.entries[number].since).collect();
        assert!(ages.is_sorted());
        ages.len()
    }

    #[test]
    fn an_entry_takes_up_what_is_counted() {
        // In a table of the index that has just grown, seven of sixteen places are taken, and a place has five bytes.
        assert!(size_of::<Option<Entry>>() + 5 * 16 / 7 <= OVERHEAD);
    }

    #[test]
    fn a_call_takes_away_a_few_old_answers_however_many_there_are() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        for xid in 0..1000 {
            answer(&mut cache, key("192.0.2.1:900", xid));
        }
        let later = NOW + CacheLimits::default().age + Duration::from_secs(1);
        assert_eq!(cache.begin(later, key("192.0.2.1:900", 999)), Lookup::New);
        // One of the old ones was asked for again, which is a new call.
        assert_eq!(cache.len(), 1000 - EXPIRED_AT_ONCE);
        for xid in 1000..1400 {
            answer_at(&mut cache, later, key("192.0.2.2:900", xid));
        }
        assert_eq!(cache.len(), 401);
    }

    #[test]
    fn a_call_is_new_then_in_progress_then_answered_again_without_executing() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let key = key("192.0.2.1:900", 1);
        assert_eq!(cache.begin(NOW, key), Lookup::New);
        assert_eq!(cache.begin(NOW, key), Lookup::InProgress);
        cache.answered(NOW, &key, b"reply");
        assert_eq!(cache.begin(NOW, key), Lookup::Answered(Reply::from_slice(b"reply")));
    }

    #[test]
    fn another_port_address_xid_procedure_or_argument_is_another_call() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let (source, called) = ("192.0.2.1:900".parse().unwrap(), "192.0.2.100".parse().unwrap());
        answer(&mut cache, Key::new(source, called, &call(1)));
        let others = [
            key("192.0.2.1:901", 1),
            key("192.0.2.1:900", 2),
            Key::new(source, "192.0.2.101".parse().unwrap(), &call(1)),
            Key::new(source, called, &IncomingCall { program: 1, ..call(1) }),
            Key::new(source, called, &IncomingCall { version: 3, ..call(1) }),
            Key::new(source, called, &IncomingCall { procedure: 4, ..call(1) }),
            Key::new(source, called, &IncomingCall { args: &[0; 4], ..call(1) }),
        ];
        for other in others {
            assert_eq!(cache.begin(NOW, other), Lookup::New);
        }
    }

    #[test]
    fn a_call_that_is_not_answered_may_be_executed_again_and_an_answer_stays() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let key = key("192.0.2.1:900", 1);
        cache.begin(NOW, key);
        cache.forget(&key);
        answer(&mut cache, key);
        cache.forget(&key);
        assert!(matches!(cache.begin(NOW, key), Lookup::Answered(_)));
    }

    #[test]
    fn an_answer_is_forgotten_after_its_age_also_behind_a_call_that_never_ends() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let hung = key("192.0.2.1:900", 1);
        cache.begin(NOW, hung);
        let old = key("192.0.2.1:900", 2);
        answer(&mut cache, old);
        assert!(matches!(cache.begin(NOW + Duration::from_mins(2), old), Lookup::Answered(_)));
        assert_eq!(cache.begin(NOW + Duration::from_secs(121), old), Lookup::New);
        assert_eq!(cache.begin(NOW + Duration::from_hours(1), hung), Lookup::InProgress);
    }

    #[test]
    fn a_source_over_its_bound_loses_its_own_oldest_answer() {
        let mut cache = cache(100, 3);
        answer(&mut cache, key("192.0.2.2:900", 1));
        for xid in 0..4 {
            answer(&mut cache, key("192.0.2.1:900", xid));
        }
        assert_eq!(cache.len(), 4);
        assert!(matches!(cache.begin(NOW, key("192.0.2.2:900", 1)), Lookup::Answered(_)));
        assert!(matches!(cache.begin(NOW, key("192.0.2.1:900", 1)), Lookup::Answered(_)));
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 0)), Lookup::New);
    }

    #[test]
    fn in_a_full_cache_the_source_that_holds_most_makes_room() {
        let mut cache = cache(10, 100);
        for host in 1..=3 {
            answer(&mut cache, key(&format!("192.0.2.{host}:900"), 0));
        }
        for xid in 0..1000 {
            answer(&mut cache, key("198.51.100.1:900", xid));
        }
        let later = NOW + CacheLimits::default().kept;
        answer_at(&mut cache, later, key("192.0.2.4:900", 0));
        assert_eq!(cache.len(), 10);
        for host in 1..=4 {
            assert!(matches!(cache.begin(later, key(&format!("192.0.2.{host}:900"), 0)), Lookup::Answered(_)));
        }
    }

    #[test]
    fn in_a_full_cache_nobody_loses_a_young_answer_to_another_source() {
        let mut cache = cache(10, 100);
        for xid in 0..9 {
            answer(&mut cache, key("192.0.2.1:900", xid));
        }
        let soon = NOW + CacheLimits::default().kept / 2;
        for xid in 0..100 {
            answer_at(&mut cache, soon, key("198.51.100.1:900", xid));
        }
        // It has nothing of its own to give: executed, and not remembered.
        answer_at(&mut cache, soon, key("192.0.2.4:900", 0));
        for xid in 0..9 {
            assert!(matches!(cache.begin(soon, key("192.0.2.1:900", xid)), Lookup::Answered(_)));
        }
        assert!(matches!(cache.begin(soon, key("198.51.100.1:900", 99)), Lookup::Answered(_)));
        assert_eq!(cache.begin(soon, key("192.0.2.4:900", 0)), Lookup::New);
        assert_eq!(cache.len(), 10);
    }

    #[test]
    fn in_a_full_cache_the_oldest_answer_goes_when_the_heaviest_source_has_young_ones_only() {
        let mut cache = cache(10, 100);
        answer(&mut cache, key("192.0.2.1:900", 0));
        let later = NOW + Duration::from_mins(1);
        for xid in 0..9 {
            answer_at(&mut cache, later, key("198.51.100.1:900", xid));
        }
        answer_at(&mut cache, later, key("192.0.2.4:900", 0));
        for xid in 0..9 {
            assert!(matches!(cache.begin(later, key("198.51.100.1:900", xid)), Lookup::Answered(_)));
        }
        assert!(matches!(cache.begin(later, key("192.0.2.4:900", 0)), Lookup::Answered(_)));
    }

    #[test]
    fn a_full_cache_has_room_for_sources_that_have_little() {
        let mut cache = cache(100, 1000);
        (cache.limits.reserve, cache.limits.little) = (10 * OVERHEAD, 2 * OVERHEAD);
        for xid in 0..1000 {
            answer(&mut cache, key("198.51.100.1:900", xid));
        }
        assert_eq!(cache.len(), 90);
        for host in 1..=5 {
            for xid in 0..2 {
                answer(&mut cache, key(&format!("192.0.2.{host}:900"), xid));
            }
        }
        assert_eq!(cache.len(), 100);
        for host in 1..=5 {
            assert!(matches!(cache.begin(NOW, key(&format!("192.0.2.{host}:900"), 0)), Lookup::Answered(_)));
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share_one_bound() {
        let mut cache = cache(100, 3);
        for host in 1..=10 {
            answer(&mut cache, key(&format!("[2001:db8::{host}]:900"), 0));
        }
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn calls_in_progress_are_not_evicted_and_one_without_room_is_executed() {
        let mut cache = cache(2, 2);
        for xid in 0..2 {
            assert_eq!(cache.begin(NOW, key("192.0.2.1:900", xid)), Lookup::New);
        }
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 2)), Lookup::New);
        assert_eq!(cache.begin(NOW, key("192.0.2.9:900", 3)), Lookup::New);
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 0)), Lookup::InProgress);
        cache.answered(NOW, &key("192.0.2.1:900", 2), b"not remembered");
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_reply_too_long_to_keep_is_not_kept() {
        let mut cache = cache(4, 4);
        let key = key("192.0.2.1:900", 1);
        cache.begin(NOW, key);
        cache.answered(NOW, &key, &vec![0; 4 * OVERHEAD]);
        assert_eq!(cache.len(), 0);
        assert_eq!(cache.bytes(), 0);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_the_books_balance(
            steps in prop::collection::vec((0_u8..4, 0_u8..6, 0_u32..30, 0_usize..600, 0_u64..40), 0..300),
        ) {
            let mut cache = cache(12, 5);
            let mut now = NOW;
            for (step, host, xid, len, later) in steps {
                let key = key(&format!("192.0.2.{host}:900"), xid);
                now += Duration::from_secs(later);
                match step {
                    0 | 1 => drop(cache.begin(now, key)),
                    2 => cache.answered(now, &key, &vec![0; len]),
                    _ => cache.forget(&key),
                }
                prop_assert!(cache.weight <= cache.limits.bytes);
                prop_assert_eq!(cache.weight, cache.entries.iter().map(|(_, entry)| entry.weight()).sum::<usize>());
                prop_assert_eq!(cache.weight, cache.sources.iter().map(|(_, s)| s.weight).sum::<usize>());
                prop_assert_eq!(cache.entries.len(), cache.prints.len());
                prop_assert_eq!(cache.sources.len(), cache.addresses.len());
                prop_assert_eq!(cache.sources.len(), cache.heaviest.len());
                let answers = cache.entries.iter().filter(|(_, entry)| entry.reply.is_some()).count();
                prop_assert_eq!(chained(&cache, cache.all, |entry| entry.in_all), answers);
                let by_source = cache.sources.iter().map(|(_, s)| chained(&cache, s.answers, |entry| entry.in_source));
                prop_assert_eq!(by_source.sum::<usize>(), answers);
                prop_assert!(cache.sources.iter().all(|(_, s)| s.weight <= cache.limits.bytes_per_source));
            }
        }
    }
}
