//! The same owner under another spelling.
//!
//! A machine's lock manager that restarts may send another owner handle (macOS), a machine whose name
//! changed (case, short or full, a dot at the end, another domain) sends another caller_name, and a new
//! mount may call by another path. What was locked before is then another owner's here.
//!
//! The rules:
//! - In a run a reclaim that only a pending lock stands against, from the same source address, with the same
//!   svid (a share: the same owner handle), exactly the same range and mode, is that lock's owner's. It
//!   adopts the lock, once: from then on the lock is held by the new spelling, and the old one is refused.
//! - From another address that is no proof: two machines may have one name. Unless the machine was found to have
//!   moved ([`moves`](super::moves)), the reclaim is a conflict, and the pending lock is kept under any policy.
//! - Outside of a run the new spelling takes over all that its sibling has, as one step, when it gives up a range
//!   in which it has nothing and the sibling has something, or when only siblings are in the way of what it asks
//!   for. Siblings have equal source and server addresses, transport, version and svid, and names with an equal
//!   first label; and as far as was seen one machine alone is at that address: no unrelated names, and no two NSM
//!   state numbers in use (behind a NAT there are such).
//! - Otherwise nothing is freed or moved. Who gives something up that a sibling has makes its client suspect.
//!
//! Why so much is taken for one owner: the lock managers of Linux, illumos and FreeBSD do not look at the owner
//! handle, so clients rely on the svid. After its restart a client's lock manager could otherwise unlock nothing
//! of what it had locked, and its processes would be denied by their own locks.
//!
//! Two owners that share an svid under two spellings show themselves when the former spelling asks for something
//! (LOCK, TEST, SHARE) while the new one has something. From then on that svid's spellings are kept apart at that
//! client. An UNLOCK of the former spelling may just be late: it frees nothing and makes a suspect. So a window
//! remains: the second owner can be granted what the first one has, once, and again after both have given up
//! all. With the kernels' lock managers that window is always open.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::api::{Call, ClientId, Process, Via};
use super::clients::Client;
use super::owners::{OwnerKey, is_same_process};
use super::run::How;
use super::segment::{FileId, Kind, OwnerId, Segment, Want};
use super::table::LockTable;
use super::waiters::Waiter;
use crate::wire::control::Grace;
use crate::wire::types::{ByteRange, CallerName, NsmState};

/// Most names at an address that are taken for one machine's.
const MAX_NAMES: usize = 16;
/// Most spellings that an owner has had.
const MAX_FORMER: usize = 16;
/// Most owners at an address that are looked at to find what a call gives up.
const MAX_OTHERS: usize = 1_000;
/// Most files and segments that are looked at to find or move an owner's. The table serves no other call in that step.
pub(super) const MAX_LOOKED_AT: usize = 10_000;

/// Who calls, as far as its spelling matters. Not every one is a client.
#[derive(Debug, Clone, Copy)]
struct Speaker<'a> {
    address: IpAddr,
    name: &'a CallerName,
    via: Via,
    process: &'a Process,
    /// The number of its machine's life, if it is known.
    state: NsmState,
    owner: Option<OwnerId>,
}

/// Where, and what of.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: FileId,
    range: ByteRange,
    kind: Kind,
}

/// An owner under a former spelling, and the files in which it has something.
type Sibling = (OwnerId, Vec<FileId>);

impl LockTable {
    pub(super) fn spelling(&self, owner: OwnerId) -> Option<(&OwnerKey, &Client)> {
        let key = self.owners.key(owner)?;
        Some((key, self.clients.get(key.client)?))
    }

    /// Whether both are the same process of the same client, by any path.
    fn is_same_by_another_path(&self, a: OwnerId, b: OwnerId) -> bool {
        let [a, b] = [a, b].map(|owner| self.owners.key(owner).map(|key| (key.client, &key.process)));
        a.is_some() && a == b
    }

    /// Whether another owner may be the asking one under another spelling: the same number of a process, at
    /// the same address.
    fn is_sibling(&self, other: OwnerId, want: &Want) -> bool {
        let (Some((key, client)), Some((mine, me))) = (self.spelling(other), self.spelling(want.lock.owner)) else {
            return false;
        };
        client.address == me.address && is_same_process(&key.process, &mine.process, want.lock.kind)
    }

    fn is_same_name(&self, other: ClientId, want: &Want) -> bool {
        let names = [other, want.caller.client].map(|id| self.clients.get(id).map(|client| &client.name));
        matches!(names, [Some(a), Some(b)] if a.matches(b))
    }

    /// The pending lock that a reclaim adopts: the same process' by another path, or the same machine's
    /// under another spelling. Names that have nothing in common may be two hosts behind one address: there
    /// only a lock that cannot be both theirs is adopted.
    pub(super) fn pending_elsewhere(&self, want: &Want) -> Option<Segment> {
        // Nothing is pending without a run.
        self.run.as_ref()?;
        let alike = |s: &&Segment| s.range == want.lock.range && s.kind.stands_for(want.lock.kind);
        let exactly: Vec<&Segment> =
            self.at_its_start(want.place(), want.lock.range, want.lock.kind).filter(alike).collect();
        if exactly.iter().any(|s| s.owner == want.lock.owner) {
            return None;
        }
        let of_another_path = |s: &Segment| self.is_same_by_another_path(s.owner, want.lock.owner);
        let of_another_spelling = |s: &Segment| {
            s.kind == want.lock.kind
                && self.is_sibling(s.owner, want)
                && (s.kind.excludes(want.lock.kind) || self.is_same_name(s.client, want))
        };
        let pending = || exactly.iter().copied().filter(|s| self.is_pending(want.file, s));
        pending().find(|s| of_another_path(s)).or_else(|| pending().find(|s| of_another_spelling(s))).copied()
    }

    /// What may have exactly this range: it lies on the first byte. The owner's own comes first, then what is in the way: of
    /// that there is little where a reclaim can be granted. What else many owners read there is not all looked at.
    pub(super) fn at_its_start(
        &self,
        (file, owner): (FileId, OwnerId),
        range: ByteRange,
        kind: Kind,
    ) -> impl Iterator<Item = &Segment> {
        let (byte, segments) = (ByteRange { end: range.start, ..range }, self.segments());
        let first = segments.owned_in(file, owner, byte).chain(segments.excluding(file, byte, kind));
        first.chain(segments.overlapping(file, byte)).take(MAX_LOOKED_AT)
    }

    /// A reclaim is refused for this lock. If it may be the same owner's that calls from another address by now,
    /// the lock is not dropped in this run. Gives whether that may be; of what was reclaimed in the run it is not.
    pub(super) fn spare_if_it_moved(&mut self, want: &Want, lock: &Segment) -> bool {
        let (Some((key, client)), Some((mine, me))) = (self.spelling(lock.owner), self.spelling(want.lock.owner))
        else {
            return false;
        };
        let moved = client.address != me.address
            && is_same_process(&key.process, &mine.process, lock.kind)
            && client.name.matches(&me.name)
            && (lock.range, lock.kind) == (want.lock.range, want.lock.kind)
            && (self.run.is_none() || self.is_pending(want.file, lock));
        if moved && let Some(run) = &mut self.run {
            run.covers.spared.insert((want.file, lock.owner, lock.range));
        }
        moved
    }

    /// The number of the life in which the call was made. That of a client that has nothing may be an older one.
    fn number_of(&self, client: Option<ClientId>, call: &Call) -> NsmState {
        let client = client.and_then(|client| self.clients.get(client)).filter(|client| client.has_something());
        match call {
            Call::Lock { state, .. } => *state,
            _ => client.map_or(NsmState(0), |client| client.nsm_state),
        }
    }

    fn speaker(&self, want: &Want, state: NsmState) -> Option<Speaker<'_>> {
        let (OwnerKey { via, process, .. }, me) = self.spelling(want.lock.owner)?;
        let (address, name) = (me.address, &me.name);
        Some(Speaker { address, name, via: *via, process, state, owner: Some(want.lock.owner) })
    }

    // --- one owner, outside of a run

    /// Before the call acts: its owner takes over what it has under other spellings, if the call meets that. TEST
    /// changes nothing. Gives whether the call met that.
    pub(super) fn take_over(&mut self, want: &Want, call: &Call) -> bool {
        self.notice_return(want, call);
        let place = Place { file: want.file, range: want.lock.range, kind: want.lock.kind };
        if !self.meets_others(Some(want.lock.owner), place, call) {
            return false;
        }
        let number = self.number_of(Some(want.caller.client), call);
        let Some(speaker) = self.speaker(want, number) else { return false };
        let siblings = self.same_owners(&speaker, place, call);
        let met = !siblings.is_empty();
        if !matches!(call, Call::Test(_)) {
            let mut moved = BTreeSet::new();
            for (sibling, files) in siblings {
                self.move_all(want, sibling, &files);
                moved.extend(files);
            }
            // Not before all are moved: an offer to one that is still to be moved would be moved without its request.
            for file in moved {
                self.wake(file);
            }
        }
        met
    }

    /// Whether the call meets what its owner has under other spellings, and only that.
    pub fn meets_its_own(&self, address: IpAddr, name: &CallerName, via: Via, call: &Call) -> bool {
        let Some((process, handle, range, kind)) = call.subject() else { return false };
        let Some(file) = self.segments().find(handle) else { return false };
        let client = self.find(address, name);
        let owner = client.and_then(|client| self.owners.find(client, via, &process));
        let state = self.number_of(client, call);
        let speaker = Speaker { address, name, via, process: &process, state, owner };
        let place = Place { file, range, kind };
        self.meets_others(owner, place, call) && !self.same_owners(&speaker, place, call).is_empty()
    }

    /// Whether others' locks are in the way, or the caller has nothing of what it gives up. Mostly neither is the case.
    fn meets_others(&self, owner: Option<OwnerId>, place: Place, call: &Call) -> bool {
        if asks_for_more(call) {
            self.excluding(place.file, owner, place.range, place.kind).next().is_some()
        } else {
            !owner.is_some_and(|owner| self.has_some_of(owner, place, call))
        }
    }

    /// The siblings that the call meets, if all of them are its owner. In grace reclaims tell who is who.
    fn same_owners(&self, speaker: &Speaker<'_>, place: Place, call: &Call) -> Vec<Sibling> {
        if self.grace() != Grace::Open {
            return Vec::new();
        }
        let met = if asks_for_more(call) {
            self.siblings_in_the_way(speaker, place)
        } else {
            self.siblings_behind(speaker, place)
        };
        if met.is_empty() || !self.is_one_machine(speaker) {
            return Vec::new();
        }
        met.into_iter()
            .map(|sibling| self.movable(speaker, place.kind, sibling))
            .collect::<Option<_>>()
            .unwrap_or_default()
    }

    /// Those in the way, if only siblings are.
    fn siblings_in_the_way(&self, speaker: &Speaker<'_>, Place { file, range, kind }: Place) -> Vec<OwnerId> {
        let mut siblings = Vec::new();
        for (number, segment) in self.excluding(file, speaker.owner, range, kind).enumerate() {
            if number >= MAX_LOOKED_AT {
                return Vec::new();
            }
            if siblings.last() == Some(&segment.owner) || siblings.contains(&segment.owner) {
                continue;
            }
            if siblings.len() >= MAX_FORMER || !self.is_spelling_of(segment.owner, speaker, kind) {
                return Vec::new();
            }
            siblings.push(segment.owner);
        }
        siblings
    }

    /// Those that have something where the caller gives up something and has nothing.
    fn siblings_behind(&self, speaker: &Speaker<'_>, place: Place) -> Vec<OwnerId> {
        let siblings = self.others(speaker, place.kind).filter(|owner| {
            self.is_spelling_of(*owner, speaker, place.kind)
                && (self.holds(*owner, place, false) || self.waits(*owner, place, false))
        });
        siblings.take(MAX_FORMER).collect()
    }

    /// Whether the owner itself has something to give up there.
    fn has_some_of(&self, owner: OwnerId, place: Place, call: &Call) -> bool {
        self.waits(owner, place, false) || (!matches!(call, Call::Cancel(_)) && self.holds(owner, place, false))
    }

    /// Whether the owner has something there, or `just` that. The first segment tells, however many there are.
    fn holds(&self, owner: OwnerId, Place { file, range, kind }: Place, just: bool) -> bool {
        let byte = |byte| ByteRange { start: byte, end: byte };
        let looked_at = match kind {
            // A share is of the whole file, and few locks reach its last byte.
            Kind::Share { .. } => byte(u64::MAX),
            Kind::Range { .. } if just => byte(range.start),
            Kind::Range { .. } => range,
        };
        let mut there = self.segments().owned_in(file, owner, looked_at);
        there.any(|s| s.kind.same_sort(kind) && (!just || s.range == range))
    }

    fn waits(&self, owner: OwnerId, Place { file, range, kind }: Place, just: bool) -> bool {
        let there = |lock: &Segment| lock.range.overlaps(range) && lock.kind.same_sort(kind);
        let is_it =
            |w: &Waiter| there(&w.want.lock) && (!just || w.want.lock.range == range) && !self.is_void_waiter(w);
        self.waiters.find(owner, file, is_it).is_some()
    }

    /// The other owners at the address that number their process alike: of its clients, under any name.
    /// So what others have in the file costs nothing.
    fn others(&self, speaker: &Speaker<'_>, kind: Kind) -> impl Iterator<Item = OwnerId> {
        let (me, process) = (speaker.owner, speaker.process);
        let clients = self.clients.at(speaker.address).iter().take(MAX_OTHERS);
        let owners = clients.flat_map(move |client| self.owners.of_process(*client, process, kind));
        owners.filter(move |owner| Some(*owner) != me).take(MAX_OTHERS)
    }

    /// Whether the other owner has all in common with the caller but its owner handle and the spelling of its name.
    fn is_spelling_of(&self, other: OwnerId, speaker: &Speaker<'_>, kind: Kind) -> bool {
        let is_sibling = |(key, client): (&OwnerKey, &Client)| {
            (client.address, key.via) == (speaker.address, speaker.via)
                && is_same_process(&key.process, speaker.process, kind)
                && is_same_host(&client.name, speaker.name)
        };
        Some(other) != speaker.owner && self.spelling(other).is_some_and(is_sibling)
    }

    /// Whether all that was seen of the address tells of one machine, that does not use two spellings at a time.
    fn is_one_machine(&self, speaker: &Speaker<'_>) -> bool {
        let here = self.clients.at(speaker.address);
        let mut numbers = vec![speaker.state];
        here.len() <= MAX_NAMES
            && here.iter().filter_map(|id| self.clients.get(*id)).all(|client| {
                if client.has_something() {
                    numbers.push(client.nsm_state);
                }
                !client.has_two_lives
                    && is_same_host(&client.name, speaker.name)
                    && !client.keeps_apart(speaker.process.svid)
            })
            && is_one_life(numbers)
    }

    /// What is to be done to move all of the sibling. `None`: it stays, since it is not certain enough, or too much.
    fn movable(&self, speaker: &Speaker<'_>, kind: Kind, sibling: OwnerId) -> Option<Sibling> {
        let (key, client) = self.spelling(sibling)?;
        let is_former = speaker.owner.and_then(|me| self.owners.key(me)).and_then(|me| self.owners.replaced_by(me));
        if is_former == Some(sibling) || self.owners.former(sibling) >= MAX_FORMER {
            return None;
        }
        let (mut files, mut numbers, mut looked_at) = (Vec::new(), vec![speaker.state], 0);
        for file in client.files() {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return None;
            }
            let before = numbers.len();
            for segment in self.segments().owned_in(file, sibling, ByteRange::ALL) {
                looked_at += 1;
                if looked_at > MAX_LOOKED_AT {
                    return None;
                }
                if segment.kind.same_sort(kind) && !self.is_void(file, segment) {
                    numbers.push(segment.state);
                }
            }
            if numbers.len() > before {
                files.push(file);
            }
        }
        // Which spelling an unanswered offer has reached is not known.
        let mut waiters = self.waiters.of_owner(sibling).map(|(_, waiter)| waiter);
        let settled = waiters.all(|waiter| {
            numbers.push(waiter.want.lock.state);
            !waiter.offered
        });
        // Locks that must be told of a restart need a client that is.
        let told = speaker.owner.is_none() || key.client == self.owners.key(speaker.owner?)?.client || {
            self.clients.get(self.owners.key(speaker.owner?)?.client)?.monitored
        };
        (settled && told && is_one_life(numbers)).then_some((sibling, files))
    }

    fn move_all(&mut self, want: &Want, sibling: OwnerId, files: &[FileId]) {
        let Want { lock: Segment { owner, client, kind, .. }, .. } = *want;
        let words =
            |(key, client): (&OwnerKey, &Client)| format!("{} with owner handle {}", client.name, key.process.oh);
        let [before, now] = [sibling, owner].map(|owner| self.spelling(owner).map_or_else(String::new, words));
        let svid = self.owners.key(owner).map_or(0, |key| key.process.svid.0);
        self.announce("respelled", format!("process {svid} of {before} is {now} by now, and keeps what it has"));
        self.carry_numbers(sibling, client);
        self.owners.acquire(sibling);
        self.owners.replace(sibling, owner);
        for file in files {
            // What was dropped must not be moved, nor what would be renewed of an offer, without its request.
            self.purge_owned((*file, sibling), ByteRange::ALL);
            self.purge_owned((*file, owner), ByteRange::ALL);
            let moved = self.cut_owned((*file, sibling), ByteRange::ALL, How::Reclaimed, |s| s.kind.same_sort(kind));
            for piece in moved {
                // A waiter for it may be its new owner.
                self.waiters.free(*file, piece.range);
                self.cut_owned((*file, owner), piece.range, How::Reclaimed, |s| s.kind == piece.kind);
                self.put(*file, Segment { owner, client, epoch: self.epoch, ..piece });
            }
        }
        self.move_waiters(want, sibling);
        self.owners.release(sibling);
    }

    /// What is known of the sibling's life is known of the new client's.
    fn carry_numbers(&mut self, sibling: OwnerId, client: ClientId) {
        let Some((_, before)) = self.spelling(sibling) else { return };
        let (number, notice) = (before.nsm_state, before.last_notice);
        let Some(client) = self.clients.get_mut(client) else { return };
        if !client.has_something() {
            client.nsm_state = number;
        }
        // Else a late copy of that notice would be news, and free what was taken after it.
        if let Some(notice) = notice
            && client.last_notice.is_none_or(|last| notice.is_after(last))
        {
            client.last_notice = Some(notice);
        }
    }

    fn move_waiters(&mut self, want: &Want, sibling: OwnerId) {
        // What was dropped must not be moved, nor take the place of what waits.
        let its = [sibling, want.lock.owner].into_iter().flat_map(|owner| self.waiters.of_owner(owner));
        let void = its.filter(|(_, waiter)| self.is_void_waiter(waiter)).map(|(id, waiter)| (id, waiter.want.file));
        for (id, file) in void.collect::<Vec<_>>() {
            self.drop_void_waiter(id);
            // The call's own file is closed when the call is done.
            if file != want.file {
                self.close(file);
            }
        }
        let waiters = self.waiters.of_owner(sibling).map(|(id, w)| (id, w.want));
        let waiters: Vec<(u64, Want)> = waiters.filter(|(_, w)| w.lock.kind.same_sort(want.lock.kind)).collect();
        for (id, waits) in waiters {
            let Segment { range, kind, .. } = waits.lock;
            let again = |w: &Waiter| (w.want.lock.range, w.want.lock.kind) == (range, kind);
            if self.waiters.find(want.lock.owner, waits.file, again).is_some() {
                self.remove_waiter(id);
                continue;
            }
            self.owners.acquire(want.lock.owner);
            self.clients.waiter_added(want.caller.client, waits.file, self.weight(waits.file, want.lock.owner));
            self.clients.waiter_removed(waits.caller.client, waits.file, self.weight(waits.file, sibling));
            self.waiters.give_to(id, want.caller, want.lock.owner);
            self.owners.release(sibling);
        }
    }

    /// A former spelling asks for something while the new one has something: they are two owners.
    fn notice_return(&mut self, want: &Want, call: &Call) {
        let key = self.owners.key(want.lock.owner);
        let Some(new) = key.and_then(|key| self.owners.replaced_by(key)) else { return };
        if !asks_for_more(call) {
            return;
        }
        let Some((OwnerKey { client, process, .. }, _)) = self.spelling(new) else { return };
        let (client, svid) = (*client, process.svid);
        let why = format!("its process {svid} has two owner handles or names, both in use");
        for client in BTreeSet::from([client, want.caller.client]) {
            if let Some(client) = self.clients.get_mut(client) {
                client.keep_apart(svid);
            }
            self.suspect(client, &why);
        }
    }

    // --- what may be one owner's

    /// An UNLOCK or CANCEL left something in its range, and `found` something of its owner or not.
    pub(super) fn suspect_sibling(&mut self, want: &Want, found: bool) {
        let place = Place { file: want.file, range: want.lock.range, kind: want.lock.kind };
        if self.is_bare(place) {
            return;
        }
        let speaker = self.speaker(want, NsmState(0));
        let suspect = speaker.and_then(|speaker| self.may_mean(&speaker, place, found));
        self.suspect_of(suspect);
    }

    /// Whether nothing stands there, and none waits in the file, of any owner.
    fn is_bare(&self, Place { file, range, .. }: Place) -> bool {
        self.segments().overlapping(file, range).next().is_none() && !self.waiters.has_any_in(file)
    }

    /// The same by a host that is no client: it is answered without having anything here.
    pub fn given_up_by_stranger(&mut self, address: IpAddr, name: &CallerName, via: Via, call: &Call) {
        let (Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. }) = call else { return };
        let Some((process, handle, range, kind)) = call.subject() else { return };
        let Some(file) = self.segments().find(handle) else { return };
        // As long as much of the file is to be purged, nobody is suspected there.
        if !self.purge_some(file) {
            return;
        }
        let speaker = Speaker { address, name, via, process: &process, state: NsmState(0), owner: None };
        let suspect = self.may_mean(&speaker, Place { file, range, kind }, false);
        self.suspect_of(suspect);
        self.close(file);
    }

    /// Whose the lock or request may be that the caller gives up. It may be the caller's, and then it is stuck. Of a
    /// caller with another host's name it must be exactly that, and the caller must have had nothing.
    fn may_mean(&self, speaker: &Speaker<'_>, place: Place, found: bool) -> Option<(ClientId, String)> {
        let may_be_its = |owner: &OwnerId| {
            let has = |just| self.holds(*owner, place, just) || self.waits(*owner, place, just);
            if self.is_spelling_of(*owner, speaker, place.kind) { has(false) } else { !found && has(true) }
        };
        let owner = self.others(speaker, place.kind).find(may_be_its)?;
        let why = format!("{} at its address gives up what it has under another owner handle or name", speaker.name);
        Some((self.owners.key(owner)?.client, why))
    }

    fn suspect_of(&mut self, suspect: Option<(ClientId, String)>) {
        if let Some((client, why)) = suspect {
            self.suspect(client, &why);
        }
    }
}

/// Whether the call wants more than it has, or asks whether it could have it.
fn asks_for_more(call: &Call) -> bool {
    match call {
        Call::Lock { .. } | Call::Test(_) | Call::Share { .. } => true,
        Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => false,
    }
}

/// Whether no two of the numbers are known and different.
fn is_one_life(numbers: impl IntoIterator<Item = NsmState>) -> bool {
    let mut known = numbers.into_iter().filter(|number| number.is_known());
    let first = known.next();
    known.all(|number| Some(number) == first)
}

/// Whether one host may be called both: the first labels are equal without regard to case.
fn is_same_host(a: &CallerName, b: &CallerName) -> bool {
    a.short().eq_ignore_ascii_case(b.short())
}
