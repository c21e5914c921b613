//! The segments of one file, in order: write locks, read locks, shares ([`Sort`]), each by first byte.
//!
//! Most files have few locks. Theirs stand in one list, which is looked through. A file that has many has a tree for
//! each sort, so that who wants to read need not look at those who read, and it knows where each owner's segments
//! begin, so that what one does with its own need not look at those of others, and how many each client has.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::api::ClientId;
use super::intervals::{Intervals, Key, key, put_in};
use super::segment::{Few, Kind, OwnerId, Segment};
use crate::wire::types::{ByteRange, FileHandle};

/// So many segments are looked through as fast as anything is looked up. With half as many, a file that had more has
/// few again.
const FEW: usize = 32;

/// What stands in one order: segments in it that are one owner's do not overlap, but its shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Write,
    Read,
    Share,
}

impl Sort {
    const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Share];

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Range { exclusive: true } => Self::Write,
            Kind::Range { exclusive: false } => Self::Read,
            Kind::Share { .. } => Self::Share,
        }
    }

    /// Whether some of this sort may exclude the kind.
    fn may_exclude(self, kind: Kind) -> bool {
        match self {
            Self::Write => matches!(kind, Kind::Range { .. }),
            Self::Read => kind == Kind::Range { exclusive: true },
            Self::Share => matches!(kind, Kind::Share { .. }),
        }
    }
}

/// Where a segment stands among those of its file.
pub(super) type Place = (Sort, Key);

pub(super) fn place(segment: &Segment) -> Place {
    (Sort::of(segment.kind), key(segment))
}

/// A segment by its owner: its first byte and the number of its kind.
type Owned = (OwnerId, Sort, u64, u8);

fn owned(segment: &Segment) -> Owned {
    let (sort, (start, owner, number)) = place(segment);
    (owner, sort, start, number)
}

/// What a client has on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    None,
    One,
    More,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) handle: FileHandle,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Few(Vec<Segment>),
    Many(Box<Many>),
}

/// A tree for each sort, where each owner's segments begin, and how many each client has.
#[derive(Debug, Default)]
struct Many {
    trees: [Intervals; 3],
    owned: BTreeSet<Owned>,
    clients: BTreeMap<ClientId, u32>,
}

impl File {
    pub(super) fn new(handle: FileHandle) -> Self {
        Self { handle, kept: Kept::Few(Vec::new()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.kept, Kept::Few(list) if list.is_empty())
    }

    fn few(&self) -> &[Segment] {
        match &self.kept {
            Kept::Few(list) => list,
            Kept::Many(_) => &[],
        }
    }

    fn many(&self) -> Option<&Many> {
        match &self.kept {
            Kept::Few(_) => None,
            Kept::Many(many) => Some(many),
        }
    }

    /// Those of all owners that overlap the range.
    pub(super) fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let few = self.few().iter().filter(move |s| s.range.overlaps(range));
        few.chain(
            self.many().into_iter().flat_map(move |many| many.trees.iter().flat_map(move |t| t.overlapping(range))),
        )
    }

    /// Those that stand behind that place; all without one.
    pub(super) fn after(&self, after: Option<Place>) -> impl Iterator<Item = &Segment> {
        let few = self.few().iter().filter(move |s| Some(place(s)) > after);
        let many = self.many().into_iter().flat_map(move |many| {
            Sort::ALL.into_iter().flat_map(move |sort| {
                let behind = after.filter(|(of, _)| *of == sort).map(|(_, key)| many.of(sort).after(key));
                let whole = after.is_none_or(|(of, _)| of < sort).then(|| many.of(sort).overlapping(ByteRange::ALL));
                behind.into_iter().flatten().chain(whole.into_iter().flatten())
            })
        });
        few.chain(many)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.few().len() + self.many().map_or(0, |many| many.trees.iter().map(Intervals::len).sum())
    }

    /// Whether the client has none of them, one, or more.
    pub(super) fn has_of(&self, client: ClientId) -> Has {
        let count = match &self.kept {
            Kept::Few(list) => list.iter().filter(|s| s.client == client).take(2).count(),
            Kept::Many(many) => many.clients.get(&client).map_or(0, |count| *count as usize),
        };
        match count {
            0 => Has::None,
            1 => Has::One,
            _ => Has::More,
        }
    }

    /// All but the first `n`.
    pub(super) fn but_first(&self, n: usize) -> impl Iterator<Item = &Segment> {
        let few = self.few().get(n..).unwrap_or_default().iter();
        let mut before = n;
        let many = self.many().into_iter().flat_map(move |many| {
            many.trees.iter().flat_map(move |tree| {
                let skipped = before.min(tree.len());
                before -= skipped;
                tree.but_first(skipped)
            })
        });
        few.chain(many)
    }

    /// Those on which no other owner may have a lock of this kind.
    pub(super) fn excluding(&self, range: ByteRange, kind: Kind) -> impl Iterator<Item = &Segment> {
        let few = self.few().iter().filter(move |s| s.range.overlaps(range));
        let many = self.many().into_iter().flat_map(move |many| {
            let sorts = Sort::ALL.into_iter().filter(move |sort| sort.may_exclude(kind));
            sorts.flat_map(move |sort| many.of(sort).overlapping(range))
        });
        few.chain(many).filter(move |s| s.kind.excludes(kind))
    }

    /// One owner's that overlap the range.
    pub(super) fn owned_in(&self, owner: OwnerId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let few = self.few().iter().filter(move |s| s.owner == owner && s.range.overlaps(range));
        let many = self.many().into_iter();
        few.chain(many.flat_map(move |many| Sort::ALL.into_iter().flat_map(move |s| many.owned_in(owner, s, range))))
    }

    pub(super) fn insert(&mut self, segment: Segment) {
        match &mut self.kept {
            Kept::Few(list) if list.len() < FEW => {
                let at = list.partition_point(|s| place(s) < place(&segment));
                put_in(list, at, segment);
            }
            Kept::Few(list) => {
                let mut many = Box::<Many>::default();
                list.drain(..).chain([segment]).for_each(|segment| many.insert(segment));
                self.kept = Kept::Many(many);
            }
            Kept::Many(many) => many.insert(segment),
        }
    }

    /// Takes out `most` of the owner's segments that overlap the range and that the test accepts.
    pub(super) fn take(
        &mut self,
        owner: OwnerId,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Segment> {
        let many = match &mut self.kept {
            Kept::Few(list) => {
                let is_meant = |s: &Segment| s.owner == owner && s.range.overlaps(range) && accept(s);
                let mut taken = Few::new();
                let mut from = 0;
                // Mostly there is none, or one.
                while taken.len() < most
                    && let Some(at) = list.iter().skip(from).position(is_meant)
                {
                    from += at;
                    taken.push(list.remove(from));
                }
                return taken;
            }
            Kept::Many(many) => many,
        };
        let taken = many.take(owner, range, most, accept);
        self.thin_out();
        taken
    }

    /// Takes out those of the next segments behind that place that the test accepts. `looks` is how many are looked at,
    /// one at least, and becomes how many more could be. Gives also behind which place it goes on; `None`: no more.
    pub(super) fn take_after(
        &mut self,
        after: Option<Place>,
        looks: &mut usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> (Few<Segment>, Option<Place>) {
        let (mut last, mut next, mut taken) = (after, None, Few::new());
        for segment in self.after(after) {
            if *looks == 0 && last != after {
                next = last;
                break;
            }
            *looks = looks.saturating_sub(1);
            last = Some(place(segment));
            if accept(segment) {
                taken.push(*segment);
            }
        }
        match &mut self.kept {
            Kept::Few(list) => list.retain(|s| !taken.contains(s)),
            Kept::Many(many) => taken.iter().for_each(|segment| many.remove(segment)),
        }
        self.thin_out();
        (taken, next)
    }

    /// With few of many left they stand in a list again.
    fn thin_out(&mut self) {
        if let Kept::Many(many) = &self.kept
            && many.owned.len() < FEW / 2
        {
            let all = many.trees.iter().flat_map(|tree| tree.overlapping(ByteRange::ALL));
            self.kept = Kept::Few(all.copied().collect());
        }
    }

    /// Hands out the owner's that overlap the range, to be changed but in their place.
    pub(super) fn change(&mut self, owner: OwnerId, range: ByteRange, mut change: impl FnMut(&mut Segment)) {
        match &mut self.kept {
            Kept::Few(list) => {
                list.iter_mut().filter(|s| s.owner == owner && s.range.overlaps(range)).for_each(change);
            }
            Kept::Many(many) => {
                for sort in Sort::ALL {
                    for key in many.keys_in(owner, sort, range, usize::MAX, |_| true) {
                        many.of_mut(sort).get_mut(key).into_iter().for_each(&mut change);
                    }
                }
            }
        }
    }
}

impl Many {
    fn of(&self, sort: Sort) -> &Intervals {
        let [writes, reads, shares] = &self.trees;
        match sort {
            Sort::Write => writes,
            Sort::Read => reads,
            Sort::Share => shares,
        }
    }

    fn of_mut(&mut self, sort: Sort) -> &mut Intervals {
        let [writes, reads, shares] = &mut self.trees;
        match sort {
            Sort::Write => writes,
            Sort::Read => reads,
            Sort::Share => shares,
        }
    }

    /// Of one owner's segments that begin before the range only the last may reach into it, since they do not overlap.
    /// Mostly it is all there is. But shares all begin with the first byte.
    fn owned_in(&self, owner: OwnerId, sort: Sort, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let tree = self.of(sort);
        let get = move |(_, _, start, number): &Owned| tree.get((*start, owner, *number));
        let from = |start: u64| self.owned.range((owner, sort, start, 0)..=(owner, sort, range.end, u8::MAX));
        let (first, rest) = match sort {
            _ if tree.is_empty() => (None, None),
            Sort::Share => (None, Some(from(0))),
            Sort::Write | Sort::Read => {
                let mut before = self.owned.range((owner, sort, 0, 0)..=(owner, sort, range.start, u8::MAX));
                let first = before.next_back().and_then(get);
                let ends = first.is_some_and(|first| first.range.end >= range.end);
                (first, range.start.checked_add(1).filter(|after| !ends && *after <= range.end).map(from))
            }
        };
        let found = first.into_iter().chain(rest.into_iter().flatten().filter_map(get));
        found.filter(move |s| s.range.overlaps(range))
    }

    fn keys_in(
        &self,
        owner: OwnerId,
        sort: Sort,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Key> {
        self.owned_in(owner, sort, range).filter(|s| accept(s)).map(key).take(most).collect()
    }

    fn insert(&mut self, segment: Segment) {
        self.of_mut(Sort::of(segment.kind)).insert(segment);
        self.owned.insert(owned(&segment));
        *self.clients.entry(segment.client).or_default() += 1;
    }

    fn take(
        &mut self,
        owner: OwnerId,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Segment> {
        let mut taken = Few::new();
        for sort in Sort::ALL {
            let keys = self.keys_in(owner, sort, range, most - taken.len(), &accept);
            taken.extend(keys.into_iter().filter_map(|key| self.of_mut(sort).remove(key)));
        }
        for segment in &taken {
            self.forget(segment);
        }
        taken
    }

    fn remove(&mut self, segment: &Segment) {
        self.of_mut(Sort::of(segment.kind)).remove(key(segment));
        self.forget(segment);
    }

    fn forget(&mut self, segment: &Segment) {
        self.owned.remove(&owned(segment));
        if let Entry::Occupied(mut count) = self.clients.entry(segment.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 4] = [
        Kind::Range { exclusive: true },
        Kind::Range { exclusive: false },
        Kind::Share { access: 1, mode: 0 },
        Kind::Share { access: 2, mode: 1 },
    ];

    fn segment(owner: u32, kind: Kind, range: ByteRange) -> Segment {
        let range = if matches!(kind, Kind::Share { .. }) { ByteRange::ALL } else { range };
        // Each client has two owners.
        Segment { client: ClientId(owner / 2), ..Segment::sample(owner, kind, range) }
    }

    /// A file, and a list that is asked by going through all of it.
    struct Both {
        file: File,
        list: Vec<Segment>,
    }

    impl Both {
        fn insert(&mut self, new: Segment) {
            let is_taken = |s: &Segment| {
                let same_place = s.range.overlaps(new.range) && (Sort::of(s.kind) != Sort::Share || s.kind == new.kind);
                s.owner == new.owner && Sort::of(s.kind) == Sort::of(new.kind) && same_place
            };
            if !self.list.iter().any(is_taken) {
                self.file.insert(new);
                self.list.push(new);
                self.list.sort_by_key(place);
            }
        }

        fn take(&mut self, owner: u32, range: ByteRange, most: usize) {
            let is_meant =
                |s: &Segment| s.range.overlaps(range) && s.owner.0 == owner && !s.range.start.is_multiple_of(3);
            let taken = self.file.take(OwnerId(owner), range, most, |s| !s.range.start.is_multiple_of(3));
            let gone: Vec<Segment> = self.list.extract_if(.., |s| is_meant(s)).take(most).collect();
            assert_eq!(taken.as_slice(), gone);
        }

        /// Behind the segment in that place of the list.
        fn take_after(&mut self, after: usize, looks: usize) {
            let is_meant = |s: &Segment| !s.range.start.is_multiple_of(3);
            let from = self.list.len().min(after);
            let after = from.checked_sub(1).map(|last| place(&self.list[last]));
            let to = self.list.len().min(from + looks.max(1));
            let next = (to < self.list.len()).then(|| to.checked_sub(1).map(|last| place(&self.list[last]))).flatten();
            let mut left = looks;
            let (taken, on) = self.file.take_after(after, &mut left, is_meant);
            assert_eq!((left, on), (looks.saturating_sub(to - from), next));
            let gone: Vec<Segment> = self.list.extract_if(from..to, |s| is_meant(s)).collect();
            assert_eq!(taken.as_slice(), gone);
        }

        fn check(&self, owner: OwnerId, range: ByteRange) {
            let sought = |test: &dyn Fn(&Segment) -> bool| {
                self.list.iter().filter(|s| s.range.overlaps(range) && test(s)).copied().collect::<Vec<_>>()
            };
            assert_eq!(self.file.overlapping(range).copied().collect::<Vec<_>>(), sought(&|_| true));
            assert_eq!(self.file.owned_in(owner, range).copied().collect::<Vec<_>>(), sought(&|s| s.owner == owner));
            for kind in KINDS {
                let excluding: Vec<Segment> = self.file.excluding(range, kind).copied().collect();
                assert_eq!(excluding, sought(&|s| s.kind.excludes(kind)));
            }
            assert_eq!(self.file.after(None).copied().collect::<Vec<_>>(), self.list);
            let n = usize::try_from(range.start).unwrap_or(usize::MAX);
            let rest: Vec<Segment> = self.file.but_first(n).copied().collect();
            assert_eq!((self.file.len(), rest.as_slice()), (self.list.len(), self.list.get(n..).unwrap_or_default()));
            for sort in Sort::ALL {
                let after = (sort, (range.start, owner, 0));
                let behind: Vec<Segment> = self.list.iter().filter(|s| place(s) > after).copied().collect();
                assert_eq!(self.file.after(Some(after)).copied().collect::<Vec<_>>(), behind);
            }
            assert_eq!(self.file.is_empty(), self.list.is_empty());
            let client = ClientId(owner.0 / 2);
            let has = match self.list.iter().filter(|s| s.client == client).count() {
                0 => Has::None,
                1 => Has::One,
                _ => Has::More,
            };
            assert_eq!(self.file.has_of(client), has);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Many, at even distances.
        Row(u32, Kind, u64, u64, u32),
        Take(u32, ByteRange, usize),
        TakeAfter(usize, usize),
        Offer(u32, ByteRange),
    }

    fn range() -> impl Strategy<Value = ByteRange> {
        let byte = prop_oneof![9 => 0..200_u64, 1 => Just(u64::MAX)];
        (byte.clone(), byte).prop_map(|(a, b)| ByteRange { start: a.min(b), end: a.max(b) })
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = prop::sample::select(KINDS.as_slice());
        let most = prop_oneof![Just(usize::MAX), 0..4_usize];
        prop_oneof![
            3 => (0..6_u32, kind, 0..200_u64, 0..9_u64, 1..20_u32)
                .prop_map(|(owner, kind, start, length, count)| Step::Row(owner, kind, start, length, count)),
            2 => (0..6_u32, range(), most).prop_map(|(owner, range, most)| Step::Take(owner, range, most)),
            1 => (0..60_usize, 0..60_usize).prop_map(|(after, looks)| Step::TakeAfter(after, looks)),
            1 => (0..6_u32, range()).prop_map(|(owner, range)| Step::Offer(owner, range)),
        ]
    }

    proptest! {
        #[test]
        fn few_and_many_segments_are_kept_alike(steps in prop::collection::vec((step(), 0..6_u32, range()), 1..60)) {
            let mut both = Both { file: File::new(FileHandle::new(b"file").unwrap()), list: Vec::new() };
            for (step, owner, range) in steps {
                match step {
                    Step::Row(owner, kind, start, length, count) => {
                        for n in 0..u64::from(count) {
                            let start = start + n * (length + 1);
                            both.insert(segment(owner, kind, ByteRange { start, end: start + length }));
                        }
                    }
                    Step::Take(owner, range, most) => both.take(owner, range, most),
                    Step::TakeAfter(after, looks) => both.take_after(after, looks),
                    Step::Offer(owner, range) => {
                        let is_meant = |s: &&mut Segment| s.owner.0 == owner && s.range.overlaps(range);
                        both.list.iter_mut().filter(is_meant).for_each(|s| s.offered = true);
                        both.file.change(OwnerId(owner), range, |s| s.offered = true);
                    }
                }
                both.check(OwnerId(owner), range);
                let many = matches!(both.file.kept, Kept::Many(_));
                let len = both.list.len();
                assert!(if many { len >= FEW / 2 } else { len <= FEW }, "{len} segments, many: {many}");
            }
        }
    }
}
