//! How much of a table each holder has, and whether it may have more.
//!
//! Every table that a peer can fill has one [`Shares`], which counts the entries of each holder, and
//! [`Bounds`]. The rule is the same for all of them:
//! - A host (a source address; on a Unix socket a user) has at most its share.
//! - An IPv6 network of 64 bits has at most half of the table: a host has all of its addresses to call from.
//! - The last tenth of the table is for those who have at most a thousandth of it, so that a few that take all
//!   they can get do not shut others out. With IPv6 this holds for a network, not an address.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use crate::spread::{self, Spread};

/// The bounds of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What there is for all.
    pub all: usize,
    /// What one host may have of it.
    pub host: usize,
}

impl Bounds {
    fn network(self) -> usize {
        self.host.max(self.all / 2)
    }

    fn little(self) -> usize {
        (self.all / 1000).max(1)
    }
}

/// The holder of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// That of the host at an address.
    Host(IpAddr),
    /// A user's of this machine.
    User(u32),
}

impl Hash for Holder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Host(address) => spread::number(address),
            Self::User(user) => user.into(),
        }
        .hash(state);
    }
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The table, or the part of it that is not kept for those who have little.
    Table,
    /// The holder's share.
    Share,
}

/// What is taken of a table, by holder. Peers choose holders, so the hash must be keyed.
#[derive(Debug)]
pub struct Shares<S = RandomState> {
    all: usize,
    holders: Spread<(Holder, usize), S>,
    /// Of IPv6 hosts.
    networks: Spread<(IpAddr, usize), S>,
}

impl<S: BuildHasher + Clone + Default> Default for Shares<S> {
    fn default() -> Self {
        Self::hashed(&S::default())
    }
}

impl<S: BuildHasher + Clone> Shares<S> {
    /// With another hash than the standard library's.
    pub fn hashed(hash: &S) -> Self {
        Self { all: 0, holders: Spread::hashed(hash.clone()), networks: Spread::hashed(hash.clone()) }
    }

    /// What is taken in all.
    #[cfg(test)]
    pub fn all(&self) -> usize {
        self.all
    }

    /// What the holder has.
    pub fn of(&self, holder: Holder) -> usize {
        self.holders.get(&holder).copied().unwrap_or_default()
    }

    /// Whether the holder may have `more`.
    pub fn room(&self, bounds: Bounds, holder: Holder, more: usize) -> Result<(), Full> {
        self.room_before(bounds, bounds.all / 10, holder, more)
    }

    /// Whether the holder may have `more` where a refusal does harm: a tenth of its share more, and half of
    /// what is kept for those who have little.
    pub fn room_in_need(&self, bounds: Bounds, holder: Holder, more: usize) -> Result<(), Full> {
        let host = bounds.host + bounds.host / 10;
        self.room_before(Bounds { host, ..bounds }, bounds.all / 20, holder, more)
    }

    fn room_before(&self, bounds: Bounds, reserve: usize, holder: Holder, more: usize) -> Result<(), Full> {
        let host = self.of(holder) + more;
        let network = ipv6_network(holder).map_or(host, |n| self.networks.get(&n).copied().unwrap_or_default() + more);
        if host > bounds.host || network > bounds.network() {
            // A share may be all there is.
            return Err(if bounds.host < bounds.all { Full::Share } else { Full::Table });
        }
        let kept = if network <= bounds.little() { 0 } else { reserve };
        if self.all + more > bounds.all - kept { Err(Full::Table) } else { Ok(()) }
    }

    /// The holder has `more`, also beyond the bounds.
    pub fn take(&mut self, holder: Holder, more: usize) {
        self.recount(holder, |count| count + more);
    }

    /// The holder has so much less.
    pub fn give_back(&mut self, holder: Holder, less: usize) {
        self.recount(holder, |count| count.saturating_sub(less));
    }

    fn recount(&mut self, holder: Holder, change: impl Fn(usize) -> usize) {
        self.all = change(self.all);
        recount(&mut self.holders, holder, &change);
        if let Some(network) = ipv6_network(holder) {
            recount(&mut self.networks, network, &change);
        }
    }

    /// Whether no holder is remembered.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.all == 0 && self.holders.len() == 0 && self.networks.len() == 0
    }
}

/// A holder that has nothing is not remembered.
fn recount<K: Copy + Eq + Hash, S: BuildHasher>(
    counts: &mut Spread<(K, usize), S>,
    key: K,
    change: impl Fn(usize) -> usize,
) {
    let known = counts.get_mut(&key);
    let count = change(known.as_deref().copied().unwrap_or_default());
    match known {
        Some(_) if count == 0 => drop(counts.remove(&key)),
        Some(known) => *known = count,
        None if count == 0 => {}
        None => counts.insert(key, count),
    }
}

/// What counts as one caller: an IPv4 address, or an IPv6 network of 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn ipv6_network(holder: Holder) -> Option<IpAddr> {
    match holder {
        Holder::Host(address) => Some(network(address)).filter(IpAddr::is_ipv6),
        Holder::User(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 1000, host: 300 };

    fn host(address: &str) -> Holder {
        Holder::Host(address.parse().unwrap())
    }

    /// Takes one at a time, for as long as there is room.
    fn fill(shares: &mut Shares, bounds: Bounds, holder: Holder) -> (usize, Full) {
        let mut taken = 0;
        loop {
            match shares.room(bounds, holder, 1) {
                Ok(()) => shares.take(holder, 1),
                Err(full) => return (taken, full),
            }
            taken += 1;
        }
    }

    #[test]
    fn a_host_has_its_share_and_the_last_tenth_is_for_those_who_have_little() {
        let mut shares: Shares = Shares::default();
        for greedy in 1..=3 {
            assert_eq!(fill(&mut shares, BOUNDS, host(&format!("192.0.2.{greedy}"))), (300, Full::Share));
        }
        assert_eq!(fill(&mut shares, BOUNDS, host("192.0.2.9")), (1, Full::Table), "with two it has more than little");
        for modest in 0..99 {
            assert_eq!(fill(&mut shares, BOUNDS, host(&format!("198.51.100.{modest}"))), (1, Full::Table));
        }
        assert_eq!(fill(&mut shares, BOUNDS, host("198.51.100.200")), (0, Full::Table), "all of it is taken");
        assert_eq!(shares.all(), 1000);
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_have_half_and_little_is_what_the_network_has() {
        let mut shares: Shares = Shares::default();
        let mut taken = 0;
        for n in 0..600 {
            taken += fill(&mut shares, Bounds { all: 1000, host: 2 }, host(&format!("2001:db8:0:1::{n:x}"))).0;
        }
        assert_eq!(taken, 500);
        shares.take(host("192.0.2.1"), 400);
        assert_eq!(fill(&mut shares, BOUNDS, host("2001:db8:0:1::9999")).0, 0);
        assert_eq!(fill(&mut shares, BOUNDS, host("2001:db8:0:2::1")), (1, Full::Table));
        assert_eq!(fill(&mut shares, BOUNDS, host("2001:db8:0:2::2")), (0, Full::Table), "its network had its one");
    }

    #[test]
    fn where_one_host_may_have_all_it_is_the_table_that_is_full() {
        let mut shares: Shares = Shares::default();
        assert_eq!(fill(&mut shares, Bounds { all: 3, host: 3 }, host("192.0.2.1")), (3, Full::Table));
    }

    #[test]
    fn in_need_there_is_a_tenth_more_and_never_all_that_is_kept() {
        let mut shares: Shares = Shares::default();
        let greedy = host("192.0.2.1");
        shares.take(greedy, 300);
        assert_eq!(shares.room_in_need(BOUNDS, greedy, 30), Ok(()));
        assert_eq!(shares.room_in_need(BOUNDS, greedy, 31), Err(Full::Share));
        shares.take(host("192.0.2.2"), 645);
        assert_eq!(shares.room_in_need(BOUNDS, greedy, 5), Ok(()));
        assert_eq!(shares.room_in_need(BOUNDS, greedy, 6), Err(Full::Table));
        assert_eq!(shares.room(BOUNDS, host("192.0.2.3"), 1), Ok(()), "one that has little");
    }

    #[test]
    fn who_has_nothing_is_forgotten_and_a_user_is_no_host() {
        let mut shares: Shares = Shares::default();
        let all = [host("192.0.2.1"), host("2001:db8::1"), host("::ffff:192.0.2.7"), Holder::User(0)];
        for holder in all {
            shares.take(holder, 3);
            assert_eq!(shares.of(holder), 3);
        }
        for holder in all {
            shares.give_back(holder, 2);
            shares.give_back(holder, 1);
        }
        assert!(shares.is_empty());
    }
}
