//! The table's state, and the one place that changes segments.
//!
//! The segments are private to this file. [`cut_some`](LockTable::cut_some), [`put`](LockTable::put) and
//! [`adopt`](LockTable::adopt) change them and hand each change to all that depend on it: the counts of
//! clients and owners, the run, the late window and the mirror. All other files only read them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;

use super::api::{ClientId, ClientView, Effect, Full, Limits, Totals};
use super::clients::{Client, Clients};
use super::covers::Void;
use super::file::{File, Place};
use super::late_window::{Forgotten, LateWindow};
use super::long_waits::LongWaits;
use super::mirror::Mirror;
use super::owners::{OwnerKey, Owners};
use super::releasing::Releasing;
use super::run::{How, Run};
use super::segment::{Few, FileId, OwnerId, Segment, Want};
use super::segments::{Change, Segments};
use super::waiters::Waiters;
use crate::ranges::hull;
use crate::wire::types::{ByteRange, CallerName, FileHandle};

/// Most locks, or waiters, that one step of a call frees: then others have their turn.
pub(super) const STEP: usize = 512;

/// The lock table.
#[derive(Debug)]
pub struct LockTable {
    pub(super) limits: Limits,
    pub(super) clients: Clients,
    pub(super) owners: Owners,
    segments: Segments,
    pub(super) waiters: Waiters,
    pub(super) long_waits: LongWaits,
    /// The time of the last call, or that the owner of the table told.
    pub(super) now: Duration,
    /// Raised by each mark and each release. A segment granted since carries it.
    pub(super) epoch: u32,
    /// As the last mark raised it.
    pub(super) marked: u32,
    pub(super) recovery_until: Option<Duration>,
    /// How much longer the recovery grace may become.
    pub(super) recovery_spare: Duration,
    pub(super) run: Option<Run>,
    pub(super) void: Option<Void>,
    /// The last release.
    pub(super) releasing: Option<Releasing>,
    pub(super) late: LateWindow,
    pub(super) next_mark: u32,
    /// What another lock domain has of what is locked here, if there is one.
    pub(super) mirror: Mirror,
    pub(super) effects: VecDeque<Effect>,
    /// [`Effect::Changed`] is to be told: once, however often it was the case.
    pub(super) changed: bool,
}

impl LockTable {
    /// An empty table in no grace. The seed must be random: peers choose handles and names, and who knows the seed
    /// can choose such as make the table slow.
    pub fn new(limits: Limits, seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        let hash = RandomState::with_seeds(a, b, c, d);
        Self {
            limits,
            clients: Clients::new(&hash),
            owners: Owners::new(&hash),
            segments: Segments::new(&hash),
            waiters: Waiters::default(),
            long_waits: LongWaits::default(),
            now: Duration::ZERO,
            epoch: 1,
            marked: 1,
            recovery_until: None,
            recovery_spare: Duration::ZERO,
            run: None,
            void: None,
            releasing: None,
            late: LateWindow::default(),
            next_mark: 1,
            mirror: Mirror::default(),
            effects: VecDeque::new(),
            changed: false,
        }
    }

    /// From now on every grant needs the other domain's consent. For an empty table.
    #[must_use]
    pub fn mirrored(mut self) -> Self {
        self.mirror.switch_on();
        self
    }

    // --- clients

    /// The client of this address and name, if known.
    pub fn find(&self, address: IpAddr, name: &CallerName) -> Option<ClientId> {
        self.clients.find(address, name)
    }

    /// The clients that call from that address.
    pub fn clients_at(&self, address: IpAddr) -> &[ClientId] {
        self.clients.at(address)
    }

    /// Whether a client there holds, pends or waits for anything.
    pub fn has_something_at(&self, address: IpAddr) -> bool {
        let clients = self.clients.at(address).iter();
        clients.filter_map(|client| self.clients.get(*client)).any(Client::has_something)
    }

    /// Whether a client there can be made without another one making room.
    pub fn has_room_at(&self, address: IpAddr) -> bool {
        self.clients.has_room_at(address, self.limits.clients)
    }

    /// Makes the client. When the table (or the address) is full, the client that has been without
    /// locks and waiters the longest makes room ([`Effect::Forget`]).
    pub fn add_client(&mut self, address: IpAddr, name: &CallerName) -> Result<ClientId, Full> {
        if let Some(gone) = self.clients.makes_room(address, self.limits.clients)? {
            self.enter(gone);
            self.clients.remove(gone);
            self.effects.push_back(Effect::Forget(gone));
        }
        self.add_beyond_caps(address, name)
    }

    /// Makes the client, full or not: for one that reclaims what is known as its address' own.
    pub fn add_beyond_caps(&mut self, address: IpAddr, name: &CallerName) -> Result<ClientId, Full> {
        self.clients.add(address, name).ok_or(Full)
    }

    /// Whether its monitor record is on disk. Must be so before a LOCK or SHARE of it is handled.
    pub fn set_monitored(&mut self, client: ClientId, monitored: bool) {
        self.clients.set_monitored(client, monitored);
    }

    /// It called this server address. The last 16 are remembered.
    pub fn called(&mut self, client: ClientId, server_address: IpAddr) {
        self.clients.called(client, server_address);
    }

    /// The client, for its monitor record and for callbacks.
    pub fn client(&self, client: ClientId) -> Option<ClientView> {
        self.clients.get(client).map(Client::view)
    }

    /// Evidence that the client's locks may be stale: shown, never acted upon. Told once.
    pub fn suspect(&mut self, client: ClientId, why: &str) {
        if let Some(client) = self.clients.get_mut(client)
            && client.suspect(why)
        {
            let words = format!("{} at {}: {why}", client.name, client.address);
            self.announce("suspect", words);
        }
    }

    /// Sums over the table.
    pub fn totals(&self) -> Totals {
        let held = self.clients.held();
        Totals {
            clients: self.clients.len() as u64,
            monitored: self.clients.monitored() as u64,
            locks: held.locks as u64,
            unmonitored: held.unmonitored as u64,
            waiters: held.waiters as u64,
        }
    }

    // --- effects

    /// What is to be done outside, one after the other.
    pub fn next_effect(&mut self) -> Option<Effect> {
        if self.mirror.is_lowered() {
            let mut mirror = std::mem::take(&mut self.mirror);
            let effects = mirror.give_up(|handle, range| self.needed(handle, range));
            self.mirror = mirror;
            self.effects.extend(effects);
        }
        self.effects.pop_front().or_else(|| std::mem::take(&mut self.changed).then_some(Effect::Changed))
    }

    /// Something happened that a person and a watcher care about.
    pub(super) fn announce(&mut self, kind: &'static str, words: String) {
        self.effects.push_back(Effect::Event(kind, words));
        self.changed = true;
    }

    /// The server address that the owner calls.
    pub(super) fn server_address(&self, owner: OwnerId) -> Option<IpAddr> {
        self.owners.key(owner).map(|key| key.via.server_address)
    }

    // --- files and their segments

    pub(super) fn segments(&self) -> &Segments {
        &self.segments
    }

    pub(super) fn open(&mut self, handle: &FileHandle) -> Option<FileId> {
        self.segments.open(handle)
    }

    /// Forgets the file if it has no state left.
    pub(super) fn close(&mut self, file: FileId) {
        if self.segments.is_empty(file) && !self.waiters.has_any_in(file) && !self.late.knows(file) {
            self.segments.close(file);
        }
    }

    /// Whether the segment is in the active run's scope and not decided.
    pub(super) fn is_pending(&self, file: FileId, segment: &Segment) -> bool {
        self.run.as_ref().is_some_and(|run| run.covers.is_pending(file, segment))
    }

    /// Whether the segment was dropped and only its memory is not free yet.
    pub(super) fn is_void(&self, file: FileId, segment: &Segment) -> bool {
        self.void.as_ref().is_some_and(|void| void.is_void(file, segment))
    }

    /// Takes what lies in the range of one owner's segments that the test accepts. What was pending is
    /// decided as `how` says; what was held and its owner has no more is remembered for late
    /// reclaims. Gives the pieces taken.
    pub(super) fn cut_owned(
        &mut self,
        place: (FileId, OwnerId),
        range: ByteRange,
        how: How,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Segment> {
        self.cut_some(place, range, how, usize::MAX, accept)
    }

    /// The same of no more than so many segments.
    pub(super) fn cut_some(
        &mut self,
        (file, owner): (FileId, OwnerId),
        range: ByteRange,
        how: How,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Segment> {
        self.cut(file, range, how, |f| f.take(owner, range, most, accept))
    }

    /// The same of any owner's, among those behind that place of the file: see [`File::take_after`].
    pub(super) fn cut_after(
        &mut self,
        file: FileId,
        after: Option<Place>,
        looks: &mut usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> (Few<Segment>, Option<Place>) {
        let mut next = None;
        let taken = self.cut(file, ByteRange::ALL, How::Released, |f| {
            let (taken, place) = f.take_after(after, looks, accept);
            next = place;
            taken
        });
        (taken, next)
    }

    fn cut(
        &mut self,
        file: FileId,
        range: ByteRange,
        how: How,
        take: impl FnOnce(&mut File) -> Few<Segment>,
    ) -> Few<Segment> {
        let Self { segments, run, owners, clients, void, epoch, .. } = self;
        let carry = |segment: &Segment, left: usize| match (&mut *run, owners.key(segment.owner)) {
            (Some(run), Some(OwnerKey { via, .. })) if run.covers.is_pending(file, segment) => {
                run.enter(clients, segment.client);
                (run.decided(segment, via.server_address, left, how), segment.epoch)
            }
            // What is left of a lock that was spared might not be known for it.
            _ if void.as_ref().is_some_and(|void| !void.is_void(file, segment)) => (segment.mark, *epoch),
            _ => (segment.mark, segment.epoch),
        };
        let change = segments.cut(file, range, take, carry);
        if change.cut().next().is_some() {
            self.observe(&change, Some(how));
        }
        change.into_cut()
    }

    /// Puts a segment in, joined with the owner's held neighbours that are alike.
    pub(super) fn put(&mut self, file: FileId, segment: Segment) {
        let Self { segments, run, void, .. } = self;
        let held = |s: &Segment| {
            let pending = run.as_ref().is_some_and(|run| run.covers.is_pending(file, s));
            !pending && !void.as_ref().is_some_and(|void| void.is_void(file, s))
        };
        let change = segments.put(file, segment, held);
        self.observe(&change, None);
    }

    /// A pending lock of the same process becomes this owner's. Under another client's name it is decided:
    /// that client's lock was reclaimed, and this one holds it.
    pub(super) fn adopt(&mut self, file: FileId, segment: &Segment, lock: Segment) {
        self.enter(segment.client);
        // A waiter for it may be its new owner.
        self.waiters.free(file, segment.range);
        // It has all of that range anew: two of one owner that are alike cannot stand in one place.
        self.cut_owned((file, lock.owner), segment.range, How::Reclaimed, |s| s.kind == segment.kind);
        if segment.client != lock.client {
            self.cut_owned((file, segment.owner), segment.range, How::Reclaimed, |s| s == segment);
            return self.put(file, Segment { since: segment.since, ..lock });
        }
        let addresses = self.server_address(segment.owner).zip(self.server_address(lock.owner));
        if let (Some(run), Some((from, to))) = (&mut self.run, addresses) {
            run.moved(segment, from, to);
        }
        let (owner, range) = (segment.owner, segment.range);
        let take = |f: &mut File| f.take(owner, range, 1, |s| s == segment);
        let change = self.segments.cut(file, range, take, |_, _| (0, segment.epoch));
        self.observe(&change, None);
        self.put_pending(file, Segment { owner: lock.owner, offered: false, ..*segment });
    }

    /// Puts in a pending segment. It is not joined with what is decided.
    pub(super) fn put_pending(&mut self, file: FileId, segment: Segment) {
        let change = self.segments.put(file, segment, |_| false);
        self.observe(&change, None);
    }

    /// Marks those of the owner's pending segments in the range of which only a weaker mode was reclaimed.
    pub(super) fn weaken_pending(&mut self, want: &Want) {
        let Want { file, lock: Segment { owner, range, kind, .. }, .. } = *want;
        let Some(server_address) = self.server_address(owner) else { return };
        let Self { segments, run: Some(run), .. } = self else { return };
        segments.set_flags(file, owner, range, |s| {
            let weaker = want.owns(s) && !kind.covers(s.kind) && run.covers.is_pending(file, s);
            (if weaker { run.decided(s, server_address, 1, How::Reclaimed) } else { s.mark }, s.epoch, s.offered)
        });
    }

    /// What was offered to the owner in the range is held like any other segment. After a run that may have spared it as
    /// an offer, nothing else would tell it from what was dropped.
    pub(super) fn confirm_offered(&mut self, file: FileId, owner: OwnerId, range: ByteRange) {
        let epoch = self.void.as_ref().map(|_| self.epoch);
        self.segments.set_flags(file, owner, range, |s| (s.mark, epoch.unwrap_or(s.epoch), false));
        if let Some(client) = self.owners.key(owner).map(|key| key.client) {
            self.clients.changed(client);
        }
    }

    /// All that depends on segments learns of every change here. `how`: what was cut out of them is
    /// not put back at once. Who waits for what was given up is to be looked at.
    fn observe(&mut self, change: &Change, how: Option<How>) {
        let file = change.file();
        if let Some(how) = how {
            if let (Some(range), Some(handle)) = (change.cut_range(), self.segments.handle(file)) {
                self.mirror.may_lower(handle, range);
            }
            let remembers = self.run.is_some() || self.late.until().is_some();
            let given_up = |piece: &&Segment| match how {
                How::Reclaimed => false,
                How::Replaced(kind) => !kind.covers(piece.kind),
                How::Returned(_) | How::Released => true,
            };
            if let Some(range) = change.cut().filter(given_up).map(|piece| piece.range).reduce(hull) {
                self.waiters.free(file, range);
            }
            let marked = self.marked;
            for piece in change.cut().filter(given_up).filter(|piece| remembers && piece.epoch >= marked) {
                self.remember(file, piece);
            }
        }
        if let Self { run: Some(run), waiters, .. } = self
            && how.is_some()
        {
            // Its owner may be held back by it.
            for piece in change.cut().filter(|piece| run.covers.is_pending(file, piece)) {
                if waiters.find(piece.owner, file, |_| true).is_some() {
                    waiters.free(file, piece.range);
                }
            }
        }
        for piece in change.cut().filter(|piece| piece.offered) {
            self.waiters.offered_no_more(piece.owner, file, piece.range);
            // Its owner may wait for something else there.
            self.waiters.free(file, piece.range);
        }
        for (segment, ..) in change.counts() {
            self.enter(segment.client);
        }
        // First, while the owners of what was cut are still known.
        self.clients.observe(change, &self.owners, &self.segments);
        self.owners.observe(change);
    }

    fn remember(&mut self, file: FileId, piece: &Segment) {
        let Some(handle) = self.segments.handle(file) else { return };
        let (refers, forgotten) = self.late.remember(file, handle, piece);
        if refers {
            self.owners.acquire(piece.owner);
        }
        let Some((other, given_up)) = forgotten else { return };
        if other != file {
            return self.forget((other, given_up));
        }
        // This one is at work, and is closed when that is done.
        for segment in given_up {
            self.owners.release(segment.owner);
        }
    }

    /// Takes dropped locks of the owner out of the range before it is changed there.
    pub(super) fn purge_owned(&mut self, (file, owner): (FileId, OwnerId), range: ByteRange) {
        let Some(void) = self.void.take_if(|void| void.files.contains(&file)) else { return };
        let taken = self.cut_owned((file, owner), range, How::Released, |s| void.is_void(file, s));
        self.void = Some(void);
        self.renew_offers_of(file, &taken);
    }

    /// Takes some more dropped locks out of the file before anything looks at it; true when none is left. Only then others
    /// get what they had.
    pub(super) fn purge_some(&mut self, file: FileId) -> bool {
        self.purge_within(file, &mut { STEP })
    }

    /// The same, looking at so many segments, one at least; becomes how many more could be looked at.
    pub(super) fn purge_within(&mut self, file: FileId, looks: &mut usize) -> bool {
        let Some(mut void) = self.void.take_if(|void| void.files.contains(&file)) else { return true };
        let after = void.purged.remove(&file);
        let (taken, next) = self.cut_after(file, after, looks, |s| void.is_void(file, s));
        match next {
            Some(place) => _ = void.purged.insert(file, place),
            None => _ = void.files.remove(&file),
        }
        self.void = Some(void);
        self.renew_offers_of(file, &taken);
        self.changed = true;
        if next.is_none() {
            self.wake(file);
        }
        next.is_none()
    }

    /// Purges some more of the file; when that is done, serves its waiters, and forgets it if it has no state left.
    pub(super) fn refresh(&mut self, file: FileId) {
        if self.purge_some(file) {
            self.wake(file);
            self.close(file);
        }
    }

    /// The late window refers to these no more.
    pub(super) fn forget(&mut self, (file, given_up): Forgotten) {
        for segment in given_up {
            self.owners.release(segment.owner);
        }
        self.close(file);
    }
}
