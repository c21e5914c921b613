//! Segments in order of their first byte, found by the bytes that they lie on.
//!
//! A file may have a million segments of many owners, and read locks may all lie on each other. So they stand
//! in a B+-tree. What a node says of each child is its first key and the last byte that anything in it
//! reaches: a search leaves out what ends before the range, and ends where something starts behind it. And how many are
//! in it: so that the thousandth is found without those before it.
//! - A key is the first byte, the owner and the number of the kind ([`Kind::number`](super::segment::Kind::number)),
//!   and no two segments here have the same key.
//! - All leaves are equally deep. A node that is full becomes two; neighbours that have become small are made one.
//! - What a node says of a child is true after each change: it is computed anew where the change may matter.
//!
//! To insert, to remove and to find one costs O(log n); to go through the `k` in a range O(log n + k), where the
//! segments are alike in length. In the worst case it is O(k log n). One node is
//! looked through in a row.

use std::slice::Iter;

use super::segment::{OwnerId, Segment};
use crate::wire::types::ByteRange;

/// Most segments in a leaf, and most children of a node.
const WIDTH: usize = 32;

/// The place of a segment.
pub(super) type Key = (u64, OwnerId, u8);

pub(super) fn key(segment: &Segment) -> Key {
    (segment.range.start, segment.owner, segment.kind.number())
}

#[derive(Debug)]
enum Node {
    Leaf(Vec<Segment>),
    Inner(Vec<Child>),
}

#[derive(Debug)]
struct Child {
    first: Key,
    /// The last byte of all that is in it.
    end: u64,
    /// How many are in it.
    count: usize,
    node: Node,
}

impl Child {
    fn new(node: Node) -> Option<Self> {
        let (first, end) = node.sum()?;
        Some(Self { first, end, count: node.count(), node })
    }

    fn sum_up(&mut self) {
        if let Some((first, end)) = self.node.sum() {
            (self.first, self.end) = (first, end);
        }
        self.count = self.node.count();
    }

    fn may_overlap(&self, range: ByteRange) -> bool {
        self.first.0 <= range.end && range.start <= self.end
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(segments) => segments.len(),
            Self::Inner(children) => children.len(),
        }
    }

    /// How many segments are in it.
    fn count(&self) -> usize {
        match self {
            Self::Leaf(segments) => segments.len(),
            Self::Inner(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    /// The first key and the last byte; `None` if it is empty.
    fn sum(&self) -> Option<(Key, u64)> {
        match self {
            Self::Leaf(segments) => Some((key(segments.first()?), segments.iter().map(|s| s.range.end).max()?)),
            Self::Inner(children) => Some((children.first()?.first, children.iter().map(|c| c.end).max()?)),
        }
    }

    /// Gives the right half, if it had to be cut in two.
    fn insert(&mut self, segment: Segment) -> Option<Self> {
        match self {
            Self::Leaf(segments) => {
                let at = segments.partition_point(|s| key(s) < key(&segment));
                insert_at(segments, at, segment).map(Self::Leaf)
            }
            Self::Inner(children) => {
                let at = place(children, key(&segment));
                let child = children.get_mut(at)?;
                child.first = child.first.min(key(&segment));
                child.end = child.end.max(segment.range.end);
                child.count += 1;
                let right = Child::new(child.node.insert(segment)?)?;
                child.sum_up();
                insert_at(children, at + 1, right).map(Self::Inner)
            }
        }
    }

    fn remove(&mut self, wanted: Key) -> Option<Segment> {
        match self {
            Self::Leaf(segments) => {
                let at = segments.binary_search_by_key(&wanted, key).ok()?;
                Some(segments.remove(at))
            }
            Self::Inner(children) => {
                let at = place(children, wanted);
                let child = children.get_mut(at)?;
                let removed = child.node.remove(wanted)?;
                child.count -= 1;
                if child.first == wanted || child.end == removed.range.end {
                    child.sum_up();
                }
                if child.node.len() < WIDTH / 4 {
                    join_small(children);
                }
                Some(removed)
            }
        }
    }

    /// The first leaf behind the one whose first key is given that may have something in the range.
    fn leaf_after(&self, after: Option<Key>, range: ByteRange) -> Option<&[Segment]> {
        match self {
            Self::Leaf(segments) => {
                let is_behind = segments.first().is_some_and(|s| after.is_none_or(|after| key(s) > after));
                is_behind.then_some(segments)
            }
            Self::Inner(children) => {
                let rest = children.get(after.map_or(0, |after| place(children, after))..)?.iter();
                let rest = rest.take_while(|child| child.first.0 <= range.end).filter(|child| child.may_overlap(range));
                rest.into_iter().find_map(|child| child.node.leaf_after(after, range))
            }
        }
    }
}

/// Where the child stands in which the key is, or would be.
fn place(children: &[Child], wanted: Key) -> usize {
    children.partition_point(|child| child.first <= wanted).saturating_sub(1)
}

/// Puts it in its place. The list grows in small steps: most files have few locks, and a list that doubles has room for as
/// many more.
pub(super) fn put_in<T>(list: &mut Vec<T>, at: usize, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 4 + 1);
    }
    list.insert(at, item);
}

/// Gives the right half, if it had to be cut in two. What comes in order fills the nodes.
fn insert_at<T>(list: &mut Vec<T>, at: usize, item: T) -> Option<Vec<T>> {
    if list.len() < WIDTH {
        put_in(list, at, item);
        return None;
    }
    let half = if at == list.len() { at } else { list.len() / 2 };
    let mut right = list.split_off(half);
    if at < half {
        list.insert(at, item);
    } else {
        right.insert(at - half, item);
    }
    Some(right)
}

/// Drops what is empty, and makes one of neighbours that have room in half a node.
fn join_small(children: &mut Vec<Child>) {
    children.retain(|child| child.node.len() > 0);
    children.dedup_by(|right, left| {
        let small = left.node.len() + right.node.len() <= WIDTH / 2;
        if small {
            match (&mut left.node, &mut right.node) {
                (Node::Leaf(left), Node::Leaf(right)) => left.append(right),
                (Node::Inner(left), Node::Inner(right)) => left.append(right),
                (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => return false,
            }
            left.end = left.end.max(right.end);
            left.count += right.count;
        }
        small
    });
}

#[derive(Debug)]
pub(super) struct Intervals {
    root: Node,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()) }
    }
}

impl Intervals {
    pub(super) fn is_empty(&self) -> bool {
        self.root.len() == 0
    }

    pub(super) fn insert(&mut self, segment: Segment) {
        let Some(right) = self.root.insert(segment) else { return };
        let left = std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(WIDTH)));
        if let Node::Inner(children) = &mut self.root {
            children.extend([left, right].into_iter().filter_map(Child::new));
        }
    }

    pub(super) fn get(&self, wanted: Key) -> Option<&Segment> {
        let leaf = self.leaf_of(wanted);
        leaf.get(leaf.binary_search_by_key(&wanted, key).ok()?)
    }

    /// The leaf in which the key is, or would be.
    fn leaf_of(&self, wanted: Key) -> &[Segment] {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(segments) => return segments,
                Node::Inner(children) => match children.get(place(children, wanted)) {
                    Some(child) => node = &child.node,
                    None => return &[],
                },
            }
        }
    }

    /// What stands behind the key.
    pub(super) fn after(&self, wanted: Key) -> impl Iterator<Item = &Segment> {
        let leaf = self.leaf_of(wanted);
        let (at, leaf) = (leaf.first().map(key), leaf.iter());
        Overlapping { root: &self.root, range: ByteRange::ALL, at, leaf }.filter(move |s| key(s) > wanted)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.root.count()
    }

    /// All but the first `n`.
    pub(super) fn but_first(&self, n: usize) -> impl Iterator<Item = &Segment> {
        let (mut node, mut before) = (&self.root, n);
        let leaf = loop {
            match node {
                Node::Leaf(segments) => break segments.as_slice(),
                Node::Inner(children) => {
                    let found = children.iter().find(|child| {
                        let is_here = before < child.count;
                        before -= if is_here { 0 } else { child.count };
                        is_here
                    });
                    match found {
                        Some(child) => node = &child.node,
                        None => break &[],
                    }
                }
            }
        };
        let rest = leaf.get(before..).unwrap_or_default();
        let (root, at) = (&self.root, leaf.first().map(key));
        Overlapping { root, range: ByteRange::ALL, at, leaf: rest.iter() }.take(self.len().saturating_sub(n))
    }

    /// To change it. Its key and its end must stay as they are.
    pub(super) fn get_mut(&mut self, wanted: Key) -> Option<&mut Segment> {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = place(children, wanted);
                    node = &mut children.get_mut(at)?.node;
                }
                Node::Leaf(segments) => {
                    let at = segments.binary_search_by_key(&wanted, key).ok()?;
                    return segments.get_mut(at);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, wanted: Key) -> Option<Segment> {
        let removed = self.root.remove(wanted)?;
        self.flatten();
        Some(removed)
    }

    /// A root with one child is one level too many.
    fn flatten(&mut self) {
        while let Node::Inner(children) = &mut self.root
            && children.len() < 2
        {
            self.root = children.pop().map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
    }

    /// What overlaps the range, by first byte.
    pub(super) fn overlapping(&self, range: ByteRange) -> Overlapping<'_> {
        Overlapping { root: &self.root, range, at: None, leaf: [].iter() }
    }
}

/// Goes from leaf to leaf, each found from the root.
#[derive(Debug)]
pub(super) struct Overlapping<'a> {
    root: &'a Node,
    range: ByteRange,
    /// The first key of the leaf.
    at: Option<Key>,
    leaf: Iter<'a, Segment>,
}

impl<'a> Iterator for Overlapping<'a> {
    type Item = &'a Segment;

    fn next(&mut self) -> Option<&'a Segment> {
        loop {
            for segment in self.leaf.by_ref() {
                if segment.range.overlaps(self.range) {
                    return Some(segment);
                }
                if segment.range.start > self.range.end {
                    self.leaf = [].iter();
                    return None;
                }
            }
            let leaf = self.root.leaf_after(self.at, self.range)?;
            self.at = leaf.first().map(key);
            self.leaf = leaf.iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::segment::Kind;
    use super::*;

    fn segment(owner: u32, start: u64, end: u64) -> Segment {
        Segment::sample(owner, Kind::Range { exclusive: false }, ByteRange { start, end })
    }

    impl Node {
        /// Gives the depth. What a node says of its children must be true.
        fn check(&self, is_root: bool) -> usize {
            assert!(self.len() <= WIDTH && (is_root || self.len() > 0), "a node of {}", self.len());
            match self {
                Self::Leaf(segments) => {
                    assert!(segments.is_sorted_by_key(key), "a leaf is not in order");
                    0
                }
                Self::Inner(children) => {
                    assert!(children.is_sorted_by_key(|c| c.first), "children are not in order");
                    let depths: Vec<usize> = children.iter().map(|child| child.node.check(false)).collect();
                    assert!(depths.iter().all(|depth| *depth == depths[0]), "leaves are not equally deep");
                    for child in children {
                        let told = (Some((child.first, child.end)), child.count);
                        assert_eq!((child.node.sum(), child.node.count()), told, "a node tells no truth of a child");
                    }
                    depths[0] + 1
                }
            }
        }
    }

    /// A tree, and a list that is asked by going through it.
    #[derive(Debug, Default)]
    struct Both {
        tree: Intervals,
        list: Vec<Segment>,
    }

    impl Both {
        fn insert(&mut self, new: Segment) {
            if !self.list.iter().any(|s| key(s) == key(&new)) {
                self.tree.insert(new);
                self.list.push(new);
                self.list.sort_by_key(key);
            }
        }

        fn remove(&mut self, wanted: Key) {
            let at = self.list.iter().position(|s| key(s) == wanted);
            assert_eq!(self.tree.get(wanted).copied(), at.map(|at| self.list[at]));
            assert_eq!(self.tree.get_mut(wanted).copied(), at.map(|at| self.list[at]));
            assert_eq!(self.tree.remove(wanted), at.map(|at| self.list.remove(at)));
        }

        fn remove_odd_in(&mut self, range: ByteRange) {
            let odd = self.list.iter().filter(|s| s.range.overlaps(range) && s.owner.0 % 2 == 1);
            odd.map(key).collect::<Vec<_>>().into_iter().for_each(|key| self.remove(key));
        }

        fn check(&self, range: ByteRange) -> usize {
            let found: Vec<Segment> = self.tree.overlapping(range).copied().collect();
            let sought: Vec<Segment> = self.list.iter().filter(|s| s.range.overlaps(range)).copied().collect();
            assert_eq!(found, sought, "what overlaps {range}");
            assert_eq!(self.tree.len(), self.list.len());
            let n = usize::try_from(range.start).unwrap_or(usize::MAX);
            let rest: Vec<Segment> = self.tree.but_first(n).copied().collect();
            assert_eq!(rest, self.list.get(n..).unwrap_or_default(), "all but the first {n}");
            self.tree.root.check(true)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Many of one length, at even distances.
        Row(u32, u64, u64, u64, u32),
        Remove(u64, u32),
        RemoveOddIn(ByteRange),
    }

    fn range() -> impl Strategy<Value = ByteRange> {
        let byte = prop_oneof![0..200_u64, Just(u64::MAX)];
        (byte.clone(), byte).prop_map(|(a, b)| ByteRange { start: a.min(b), end: a.max(b) })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..9_u32, 0..200_u64, 0..150_u64, 0..5_u64, 1..60_u32)
                .prop_map(|(owner, start, length, apart, count)| Step::Row(owner, start, length, apart, count)),
            2 => (0..200_u64, 0..9_u32).prop_map(|(start, owner)| Step::Remove(start, owner)),
            1 => range().prop_map(Step::RemoveOddIn),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn it_gives_what_going_through_a_list_would_give(
            steps in prop::collection::vec((step(), range()), 1..60),
        ) {
            let mut both = Both::default();
            for (step, range) in steps {
                match step {
                    Step::Row(owner, start, length, apart, count) => {
                        for (n, place) in (0..count).zip(0_u64..) {
                            let start = start + place * apart;
                            both.insert(segment(owner + if apart == 0 { n } else { 0 }, start, start + length));
                        }
                    }
                    Step::Remove(start, owner) => both.remove((start, OwnerId(owner), 0)),
                    Step::RemoveOddIn(range) => both.remove_odd_in(range),
                }
                both.check(range);
            }
        }
    }

    #[test]
    fn many_that_come_in_any_order_and_go_in_another_leave_nothing_behind() {
        let count = 5_000_u64;
        let mut both = Both::default();
        // Steps that have no divisor in common with the count go through all of it.
        for n in (0..count).map(|n| n * 7 % count) {
            both.tree.insert(segment(1, n * 10, n * 10 + 5));
        }
        assert!((2..=4).contains(&both.tree.root.check(true)), "the tree is as deep as it must be");
        for n in (0..count).map(|n| n * 3 % count) {
            assert_eq!(both.tree.remove((n * 10, OwnerId(1), 0)), Some(segment(1, n * 10, n * 10 + 5)));
            assert_eq!(both.tree.remove((n * 10, OwnerId(1), 0)), None);
        }
        assert_eq!(both.check(ByteRange::ALL), 0, "it is as flat as at first");
    }

    #[test]
    fn a_long_one_far_before_the_range_is_found_and_what_lies_between_is_left_out() {
        let mut both = Both::default();
        both.insert(segment(7, 0, u64::MAX));
        (1..2_000).for_each(|n| both.tree.insert(segment(1, n * 10, n * 10)));
        let found: Vec<u64> =
            both.tree.overlapping(ByteRange { start: 15_005, end: 15_011 }).map(|s| s.range.start).collect();
        assert_eq!(found, [0, 15_010]);
    }
}
