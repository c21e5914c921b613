//! Remembers answers, so that a call that came twice is executed once.
//!
//! # Theory
//! A datagram that was answered may come again: its reply was lost, or the network held a copy back.
//! Executed again, an old UNLOCK frees a new lock and an old LOCK makes one that nobody knows of. So
//! a call is known by where it came from, the address it was sent to, its xid, what it calls and a
//! checksum of its arguments. One caller may use an xid again at another of this host's addresses.
//!
//! An entry is in progress, then answered; an answered one lives for [`CacheLimits::age`], unless
//! its room is wanted. A source over its own bound loses its oldest answer. When the whole cache is
//! full, the source that takes up most of it loses its oldest answer; if that is younger than
//! [`CacheLimits::kept`], the oldest answer of all goes; if that is too, the oldest of the source that
//! needs the room. So one that floods never costs another an answer that may still be asked for.
//! Entries in progress are never evicted (the server bounds the calls it executes at a time); a call
//! that finds no room is executed and not remembered: its repetition is executed again.
//!
//! Memory: [`CacheLimits::bytes`] in all, by default 256 MiB (some 900,000 answers of NLM), and 16 MiB
//! of one source (some 55,000, which is more than a second of the fastest one). An entry's overhead is
//! counted as 256 bytes, which the maps may exceed by half. It takes memory as it fills, not before.
//!
//! What must hold: `entries`, `order`, `sources` and `heaviest` tell of the same entries, and the
//! weights are sums over them. Only `insert`, `reweigh` and `remove` change them.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::wire::rpc::IncomingCall;

/// What an entry takes up besides its reply, roughly, in bytes.
const OVERHEAD: usize = 256;

/// What names a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who called, with the port.
    pub source: SocketAddr,
    /// The local address that was called.
    pub called: IpAddr,
    /// The call's xid.
    pub xid: u32,
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: u32,
    /// Of the arguments.
    pub checksum: u64,
}

impl Key {
    /// The key of a call.
    pub fn new(source: SocketAddr, called: IpAddr, call: &IncomingCall<'_>) -> Self {
        let mut hasher = DefaultHasher::new();
        call.args.hash(&mut hasher);
        let IncomingCall { xid, program, version, procedure, .. } = *call;
        Self { source, called, xid, program, version, procedure, checksum: hasher.finish() }
    }
}

/// What the cache knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: execute it, then tell [`ReplyCache::answered`] or [`ReplyCache::forget`].
    New,
    /// It is being executed: drop this one.
    InProgress,
    /// It was answered with this.
    Answered(Arc<[u8]>),
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes in all, with 256 for each entry besides its reply.
    pub bytes: usize,
    /// Bytes of one source (an IPv4 address, or an IPv6 network of 64 bits).
    pub bytes_per_source: usize,
    /// Answers older than this are forgotten.
    pub age: Duration,
    /// Answers younger than this are not evicted for another source.
    pub kept: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            bytes_per_source: 16 << 20,
            age: Duration::from_mins(2),
            // Linux repeats a call after ten seconds (`nlm_timeout`), others sooner.
            kept: Duration::from_secs(15),
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct ReplyCache {
    limits: CacheLimits,
    entries: HashMap<Key, Entry>,
    /// By age; the number is the entry's.
    order: BTreeMap<u64, Key>,
    sources: HashMap<IpAddr, Source>,
    /// Sources by weight.
    heaviest: BTreeSet<(usize, IpAddr)>,
    weight: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    since: Duration,
    reply: Option<Arc<[u8]>>,
}

impl Entry {
    fn weight(&self) -> usize {
        OVERHEAD + self.reply.as_ref().map_or(0, |reply| reply.len())
    }
}

#[derive(Debug, Default)]
struct Source {
    weight: usize,
    /// Its entries, by age.
    numbers: BTreeSet<u64>,
}

/// Whose share an address counts to. A host has a whole IPv6 network of addresses to call from.
fn bucket(source: &SocketAddr) -> IpAddr {
    match source.ip().to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl ReplyCache {
    /// An empty one.
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            sources: HashMap::new(),
            heaviest: BTreeSet::new(),
            weight: 0,
            next: 0,
        }
    }

    /// Entries that it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that it takes up, as [`CacheLimits`] counts them.
    pub fn bytes(&self) -> usize {
        self.weight
    }

    /// A call came at `now`.
    pub fn begin(&mut self, now: Duration, key: Key) -> Seen {
        self.expire(now);
        match self.entries.get(&key) {
            Some(Entry { reply: None, .. }) => return Seen::InProgress,
            Some(Entry { reply: Some(reply), since, .. }) if !self.is_old(now, *since) => {
                return Seen::Answered(Arc::clone(reply));
            }
            // Old, and still here because an older one is in progress.
            Some(_) => self.remove(&key),
            None => {}
        }
        if self.make_room(now, bucket(&key.source), OVERHEAD) {
            self.insert(now, key);
        }
        Seen::New
    }

    /// The call was answered at `now`.
    pub fn answered(&mut self, now: Duration, key: &Key, reply: Arc<[u8]>) {
        if !self.entries.contains_key(key) {
            return;
        }
        if self.make_room(now, bucket(&key.source), reply.len()) {
            self.reweigh(now, key, reply);
        } else {
            self.remove(key);
        }
    }

    /// The call will not be answered. Does nothing to one that was.
    pub fn forget(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| entry.reply.is_none()) {
            self.remove(key);
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some((_, key)) = self.order.first_key_value() {
            let key = *key;
            match self.entries.get(&key) {
                // One in progress keeps its place: it is moved to the end when it is answered.
                Some(entry) if entry.reply.is_none() || !self.is_old(now, entry.since) => return,
                _ => self.remove(&key),
            }
        }
    }

    fn is_old(&self, now: Duration, since: Duration) -> bool {
        now.saturating_sub(since) > self.limits.age
    }

    /// Evicts until `more` bytes of `source` fit; false if they cannot.
    fn make_room(&mut self, now: Duration, source: IpAddr, more: usize) -> bool {
        while self.sources.get(&source).map_or(0, |s| s.weight) + more > self.limits.bytes_per_source {
            let Some(own) = self.oldest_of(source) else { return false };
            self.remove(&own);
        }
        while self.weight + more > self.limits.bytes {
            let Some(victim) = self.victim(now, source) else { return false };
            self.remove(&victim);
        }
        true
    }

    /// Which answer goes in a full cache, for the sake of `source`.
    fn victim(&self, now: Duration, source: IpAddr) -> Option<Key> {
        let may_go = |key: &Key| {
            bucket(&key.source) == source
                || self.entries.get(key).is_some_and(|entry| now.saturating_sub(entry.since) >= self.limits.kept)
        };
        let heaviest = self.heaviest.last().and_then(|&(_, heaviest)| self.oldest_of(heaviest));
        heaviest
            .filter(may_go)
            .or_else(|| self.order.values().find(|key| self.is_answered(key)).copied().filter(may_go))
            .or_else(|| self.oldest_of(source))
    }

    /// The oldest answer of a source.
    fn oldest_of(&self, source: IpAddr) -> Option<Key> {
        let mut keys = self.sources.get(&source)?.numbers.iter().filter_map(|number| self.order.get(number));
        keys.find(|key| self.is_answered(key)).copied()
    }

    fn is_answered(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.reply.is_some())
    }

    fn insert(&mut self, now: Duration, key: Key) {
        let entry = Entry { number: self.next, since: now, reply: None };
        self.next += 1;
        self.order.insert(entry.number, key);
        let source = bucket(&key.source);
        self.sources.entry(source).or_default().numbers.insert(entry.number);
        self.weigh(source, |weight| weight + OVERHEAD);
        self.entries.insert(key, entry);
    }

    /// Answered: heavier, and the youngest of all.
    fn reweigh(&mut self, now: Duration, key: &Key, reply: Arc<[u8]>) {
        let source = bucket(&key.source);
        let number = self.next;
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (old_number, old_weight) = (entry.number, entry.weight());
        *entry = Entry { number, since: now, reply: Some(reply) };
        let new_weight = entry.weight();
        self.next += 1;
        self.order.remove(&old_number);
        self.order.insert(number, *key);
        if let Some(of_source) = self.sources.get_mut(&source) {
            of_source.numbers.remove(&old_number);
            of_source.numbers.insert(number);
        }
        self.weigh(source, |weight| weight - old_weight + new_weight);
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.order.remove(&entry.number);
        let source = bucket(&key.source);
        if let Some(of_source) = self.sources.get_mut(&source) {
            of_source.numbers.remove(&entry.number);
        }
        self.weigh(source, |weight| weight - entry.weight());
    }

    fn weigh(&mut self, source: IpAddr, change: impl Fn(usize) -> usize) {
        let Some(of_source) = self.sources.get_mut(&source) else { return };
        self.heaviest.remove(&(of_source.weight, source));
        of_source.weight = change(of_source.weight);
        self.weight = change(self.weight);
        if of_source.numbers.is_empty() {
            self.sources.remove(&source);
        } else {
            self.heaviest.insert((of_source.weight, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn key(source: &str, xid: u32) -> Key {
        let (source, called) = (source.parse().unwrap(), "192.0.2.100".parse().unwrap());
        Key { source, called, xid, program: 100_021, version: 4, procedure: 2, checksum: 0 }
    }

    fn cache(entries: usize, per_source: usize) -> ReplyCache {
        ReplyCache::new(CacheLimits {
            bytes: entries * OVERHEAD,
            bytes_per_source: per_source * OVERHEAD,
            ..CacheLimits::default()
        })
    }

    fn answer_at(cache: &mut ReplyCache, now: Duration, key: Key) {
        assert_eq!(cache.begin(now, key), Seen::New);
        cache.answered(now, &key, Arc::from([]));
    }

    fn answer(cache: &mut ReplyCache, key: Key) {
        answer_at(cache, NOW, key);
    }

    #[test]
    fn a_call_is_new_then_in_progress_then_answered_again_without_executing() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let key = key("192.0.2.1:900", 1);
        assert_eq!(cache.begin(NOW, key), Seen::New);
        assert_eq!(cache.begin(NOW, key), Seen::InProgress);
        cache.answered(NOW, &key, Arc::from(*b"reply"));
        assert_eq!(cache.begin(NOW, key), Seen::Answered(Arc::from(*b"reply")));
    }

    #[test]
    fn another_port_address_xid_procedure_or_argument_is_another_call() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let one = key("192.0.2.1:900", 1);
        answer(&mut cache, one);
        let others = [
            key("192.0.2.1:901", 1),
            key("192.0.2.1:900", 2),
            Key { called: "192.0.2.101".parse().unwrap(), ..one },
            Key { program: 1, ..one },
            Key { version: 3, ..one },
            Key { procedure: 4, ..one },
            Key { checksum: 1, ..one },
        ];
        for other in others {
            assert_eq!(cache.begin(NOW, other), Seen::New);
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
        assert!(matches!(cache.begin(NOW, key), Seen::Answered(_)));
    }

    #[test]
    fn an_answer_is_forgotten_after_its_age_also_behind_a_call_that_never_ends() {
        let mut cache = ReplyCache::new(CacheLimits::default());
        let hung = key("192.0.2.1:900", 1);
        cache.begin(NOW, hung);
        let old = key("192.0.2.1:900", 2);
        answer(&mut cache, old);
        assert!(matches!(cache.begin(NOW + Duration::from_mins(2), old), Seen::Answered(_)));
        assert_eq!(cache.begin(NOW + Duration::from_secs(121), old), Seen::New);
        assert_eq!(cache.begin(NOW + Duration::from_hours(1), hung), Seen::InProgress);
    }

    #[test]
    fn a_source_over_its_bound_loses_its_own_oldest_answer() {
        let mut cache = cache(100, 3);
        answer(&mut cache, key("192.0.2.2:900", 1));
        for xid in 0..4 {
            answer(&mut cache, key("192.0.2.1:900", xid));
        }
        assert_eq!(cache.len(), 4);
        assert!(matches!(cache.begin(NOW, key("192.0.2.2:900", 1)), Seen::Answered(_)));
        assert!(matches!(cache.begin(NOW, key("192.0.2.1:900", 1)), Seen::Answered(_)));
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 0)), Seen::New);
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
            assert!(matches!(cache.begin(later, key(&format!("192.0.2.{host}:900"), 0)), Seen::Answered(_)));
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
            assert!(matches!(cache.begin(soon, key("192.0.2.1:900", xid)), Seen::Answered(_)));
        }
        assert!(matches!(cache.begin(soon, key("198.51.100.1:900", 99)), Seen::Answered(_)));
        assert_eq!(cache.begin(soon, key("192.0.2.4:900", 0)), Seen::New);
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
            assert!(matches!(cache.begin(later, key("198.51.100.1:900", xid)), Seen::Answered(_)));
        }
        assert!(matches!(cache.begin(later, key("192.0.2.4:900", 0)), Seen::Answered(_)));
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
            assert_eq!(cache.begin(NOW, key("192.0.2.1:900", xid)), Seen::New);
        }
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 2)), Seen::New);
        assert_eq!(cache.begin(NOW, key("192.0.2.9:900", 3)), Seen::New);
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.begin(NOW, key("192.0.2.1:900", 0)), Seen::InProgress);
        cache.answered(NOW, &key("192.0.2.1:900", 2), Arc::from(*b"not remembered"));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_reply_too_long_to_keep_is_not_kept() {
        let mut cache = cache(4, 4);
        let key = key("192.0.2.1:900", 1);
        cache.begin(NOW, key);
        cache.answered(NOW, &key, vec![0; 4 * OVERHEAD].into());
        assert!(cache.is_empty());
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
                    2 => cache.answered(now, &key, vec![0; len].into()),
                    _ => cache.forget(&key),
                }
                prop_assert!(cache.weight <= cache.limits.bytes);
                prop_assert_eq!(cache.weight, cache.entries.values().map(Entry::weight).sum::<usize>());
                prop_assert_eq!(cache.weight, cache.sources.values().map(|s| s.weight).sum::<usize>());
                prop_assert_eq!(cache.entries.len(), cache.order.len());
                prop_assert_eq!(cache.sources.len(), cache.heaviest.len());
                prop_assert!(cache.sources.values().all(|s| s.weight <= cache.limits.bytes_per_source));
            }
        }
    }
}
