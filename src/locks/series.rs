//! Things under numbers that are counted up and never used again.
//!
//! Most of those that came are gone after a while. So a list of all would grow without end: it is in pages, and a page
//! of which all are gone gives its memory back. A page is small, since one thing is enough to keep it.

const PAGE: usize = 128;

type Page<T> = [Option<Box<T>>; PAGE];

#[derive(Debug)]
pub(super) struct Series<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    next: u32,
    len: usize,
}

impl<T> Series<T> {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), next: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// No thing has this number or a higher one.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Gives its number. `None`: all numbers were used.
    pub(super) fn add(&mut self, thing: T) -> Option<u32> {
        let number = self.next;
        self.next = number.checked_add(1)?;
        let (page, place) = place(number);
        if self.pages.len() <= page {
            self.pages.push(None);
        }
        let page = self.pages.get_mut(page)?.get_or_insert_with(|| Box::new([const { None }; PAGE]));
        *page.get_mut(place)? = Some(Box::new(thing));
        self.len += 1;
        Some(number)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (page, place) = place(number);
        self.pages.get(page)?.as_ref()?.get(place)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (page, place) = place(number);
        self.pages.get_mut(page)?.as_mut()?.get_mut(place)?.as_deref_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (page, place) = place(number);
        let page = self.pages.get_mut(page)?;
        let thing = page.as_mut()?.get_mut(place)?.take()?;
        self.len -= 1;
        page.take_if(|page| page.iter().all(Option::is_none));
        Some(*thing)
    }

    /// Those from that number on, in the order they came.
    pub(super) fn from(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let page = place(first).0;
        let pages = (page * PAGE..).step_by(PAGE).zip(self.pages.get(page..).unwrap_or_default());
        let places = pages.flat_map(|(start, page)| (start..).zip(page.iter().flat_map(|page| page.iter())));
        let there = places.filter_map(|(number, thing)| Some((u32::try_from(number).ok()?, thing.as_deref()?)));
        there.skip_while(move |(number, _)| *number < first)
    }
}

fn place(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / PAGE, number % PAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_thing_is_found_under_its_number_until_it_is_gone_and_no_number_is_used_again() {
        let (mut series, mut known) = (Series::new(), BTreeMap::new());
        for n in 0..5_000_u32 {
            assert_eq!((series.next(), series.add(n)), (n, Some(n)));
            known.insert(n, n);
            // All but each 300th go, in another order than they came.
            let gone = n * 7 % 5_000;
            if gone % 300 != 0 {
                assert_eq!(series.remove(gone), known.remove(&gone));
            }
        }
        for n in (0..5_000).filter(|n| n % 300 != 0) {
            assert_eq!(series.remove(n), known.remove(&n));
        }
        assert_eq!((series.len(), series.next()), (known.len(), 5_000));
        for first in [0, 1, 127, 128, 299, 300, 301, 4_800, 4_801, u32::MAX] {
            let from: Vec<(u32, u32)> = series.from(first).map(|(n, thing)| (n, *thing)).collect();
            assert_eq!(from, known.range(first..).map(|(n, thing)| (*n, *thing)).collect::<Vec<_>>(), "{first}");
        }
        *series.get_mut(300).unwrap() = 7;
        assert_eq!((series.get(300), series.get(301), series.get(5_000)), (Some(&7), None, None));
        assert_eq!(series.pages.iter().flatten().count(), known.len(), "a page that is empty is given back");
    }
}
