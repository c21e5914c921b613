//! Lists of locks, handed out page by page. Pure.
//!
//! All pages of a listing are from one reading: between readings locks come and go and those behind change their
//! places, so that a lock which was held all the time would be listed twice, or not at all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::results::row;
use crate::host::Lock;
use crate::wire::control::{LockPage, page};
use crate::wire::xdr::List;

/// Most listings that are open at a time; the one that was begun first goes.
const OPEN: usize = 4;
/// For how long one is kept of which no page is asked for.
const IDLE: Duration = Duration::from_mins(1);

/// The listings of which there are pages left.
#[derive(Debug, Default)]
pub(super) struct Listings {
    /// The last one's number.
    last: u32,
    open: VecDeque<Listing>,
}

#[derive(Debug)]
struct Listing {
    number: u32,
    asked: Instant,
    locks: Vec<Lock>,
}

impl Listings {
    /// The first page of a new listing.
    pub(super) fn begin(&mut self, locks: Vec<Lock>, now: Instant) -> LockPage {
        // 0 is no number: a cursor of 0 begins a listing.
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.forget(now);
        if self.open.len() >= OPEN {
            self.open.pop_front();
        }
        let listing = Listing { number: self.last, asked: now, locks };
        let first = listing.page(0);
        if first.next > 0 {
            self.open.push_back(listing);
        }
        first
    }

    /// The page at the cursor that came with the one before; none if its listing is not kept any more.
    pub(super) fn go_on(&mut self, cursor: u64, now: Instant) -> Option<LockPage> {
        self.forget(now);
        let listing = self.open.iter_mut().find(|listing| u64::from(listing.number) == cursor >> 32)?;
        listing.asked = now;
        let (number, next) = (listing.number, listing.page(cursor & u64::from(u32::MAX)));
        if next.next == 0 {
            self.open.retain(|listing| listing.number != number);
        }
        Some(next)
    }

    fn forget(&mut self, now: Instant) {
        self.open.retain(|listing| now.saturating_duration_since(listing.asked) < IDLE);
    }
}

impl Listing {
    /// The page after so many locks. Its cursor has the listing's number in its upper half.
    fn page(&self, after: u64) -> LockPage {
        let (locks, next) = page(&self.locks, after);
        let locks = List::clipped(locks.into_vec().iter().map(|lock| row(lock).into()).collect());
        let next = if next > 0 { u64::from(self.number) << 32 | next } else { 0 };
        LockPage { locks, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(many: u64) -> Vec<Lock> {
        (0..many).map(|n| Lock { file: "f".into(), exclusive: true, start: n, end: n }).collect()
    }

    fn starts(page: &LockPage) -> Vec<u64> {
        page.locks.as_slice().iter().map(|row| row.lock.range.start).collect()
    }

    #[test]
    fn two_listings_at_once_each_have_all_their_locks_once() {
        let (mut listings, now) = (Listings::default(), Instant::now());
        let pages = [listings.begin(locks(2_500), now), listings.begin(locks(1_500), now)];
        let mut seen = pages.each_ref().map(starts);
        let mut cursors = pages.map(|page| page.next);
        while cursors.iter().any(|cursor| *cursor > 0) {
            for (cursor, seen) in cursors.iter_mut().zip(&mut seen).filter(|(cursor, _)| **cursor > 0) {
                let page = listings.go_on(*cursor, now).unwrap();
                seen.extend(starts(&page));
                assert!(page.next == 0 || page.next > *cursor);
                *cursor = page.next;
            }
        }
        assert_eq!(seen, [(0..2_500).collect::<Vec<_>>(), (0..1_500).collect()]);
        assert!(listings.open.is_empty(), "none is kept whose last page was told");
    }

    #[test]
    fn few_are_kept_and_none_for_long() {
        let (mut listings, now) = (Listings::default(), Instant::now());
        let cursors: Vec<u64> = (0..5).map(|_| listings.begin(locks(1_025), now).next).collect();
        assert!(listings.go_on(cursors[0], now).is_none(), "the first of five");
        assert!(listings.go_on(cursors[1], now + IDLE).is_none());
        assert!(listings.open.is_empty());
    }
}
