//! Things by number, while they are there. Then the number is another one's.
//!
//! A list that grows moves all that is in it, and the request that made it grow waits. So it is many lists, and none of
//! them comes to be long; one that is empty gives its memory back.

use slab::Slab;

/// Most things in one list: to move them takes some ten microseconds.
const MOST: usize = 4_096;
/// An empty list keeps memory for so many, since the next one may come and go at once.
const KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Numbered<T> {
    lists: Vec<Slab<T>>,
    /// The lists that have room.
    open: Vec<usize>,
}

impl<T> Numbered<T> {
    pub(super) fn new() -> Self {
        Self { lists: Vec::new(), open: Vec::new() }
    }

    /// The number of the thing that comes next.
    pub(super) fn next(&self) -> usize {
        let list = self.open.last().copied().unwrap_or(self.lists.len());
        list * MOST + self.lists.get(list).map_or(0, Slab::vacant_key)
    }

    pub(super) fn add(&mut self, thing: T) {
        let place = self.open.last().copied().unwrap_or_else(|| {
            self.open.push(self.lists.len());
            self.lists.push(Slab::new());
            self.lists.len() - 1
        });
        if let Some(list) = self.lists.get_mut(place) {
            list.insert(thing);
            if list.len() == MOST {
                self.open.pop();
            }
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.lists.get(number / MOST)?.get(number % MOST)
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.lists.get_mut(number / MOST)?.get_mut(number % MOST)
    }

    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        let list = self.lists.get_mut(number / MOST)?;
        let was_full = list.len() == MOST;
        let thing = list.try_remove(number % MOST)?;
        if was_full {
            self.open.push(number / MOST);
        }
        if list.is_empty() && list.capacity() > KEPT {
            *list = Slab::new();
        }
        Some(thing)
    }

    /// No thing has this number or a higher one.
    pub(super) fn end(&self) -> usize {
        self.lists.len() * MOST
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let lists = self.lists.iter().enumerate();
        lists.flat_map(|(place, list)| list.iter().map(move |(n, thing)| (place * MOST + n, thing)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_thing_is_found_by_its_number_until_it_is_gone_and_numbers_are_used_again() {
        let (mut numbered, mut known) = (Numbered::new(), HashMap::new());
        for n in 0..3 * MOST + 7 {
            known.insert(numbered.next(), n);
            numbered.add(n);
        }
        let end = numbered.end();
        for round in 0..20_000 {
            let number = round * 7_919 % end;
            assert_eq!(numbered.remove(number), known.remove(&number));
            if round % 3 > 0 {
                assert!(known.insert(numbered.next(), round).is_none(), "no two have one number");
                numbered.add(round);
            }
        }
        assert_eq!(numbered.iter().map(|(n, thing)| (n, *thing)).collect::<HashMap<_, _>>(), known);
        for (number, thing) in &known {
            assert_eq!(numbered.get(*number), Some(thing));
        }
        assert!(numbered.end() <= end, "what is free is used first");
        for number in known.into_keys() {
            numbered.remove(number);
        }
        assert!(numbered.lists.iter().all(|list| list.capacity() <= KEPT), "memory is given back");
    }
}
