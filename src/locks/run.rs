//! The active run inside the table: its pending locks, their fate, how long the run may last.
//!
//! Marking raises the table's epoch, once for any number of locks: a lock granted in an
//! earlier epoch and in scope is pending. Nothing is written into a lock for it. Only a pending
//! lock that is touched *in part* gets a [`Mark`], so that its pieces are still counted as the one
//! lock that was marked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::api::ClientId;
use super::awaited::Awaited;
use super::covers::Covers;
use super::listed::Listed;
use super::rows::Rows;
use super::segment::{Kind, Segment};
use super::settling::Settling;
use super::tally::Tally;
use crate::resync::policy::{self, Judge, PathFacts};
use crate::shares::Bounds;
use crate::wire::control::{
    BeginArgs, Begun, ClientProgress, Counts, LockFate, Mode, Outcome, Policy, RunClient, RunId, RunResult, RunStatus,
};
use crate::wire::types::{NsmState, ms};
use crate::wire::xdr::{List, Maybe, Text};

/// Most rows a run lists of what peers did in it (resurrected, conflicts).
const ROWS: Bounds = Bounds { all: 200_000, host: 100_000 };
/// So many times a run settles anew for reclaims, each time of other addresses, before it keeps all that is pending.
const MAX_ANEW: u32 = 16;

/// What happened to a pending lock, or to a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// Its owner has it, in the mode that it had.
    Reclaimed,
    /// Its owner has it, in this mode.
    Replaced(Kind),
    /// An offer that its client does not want: so many pieces of what it had before take the place of it.
    Returned(usize),
    Released,
}

/// A pending lock that is in pieces, or of which only a weaker mode was reclaimed.
#[derive(Debug)]
pub(super) struct Mark {
    client: ClientId,
    server_address: IpAddr,
    pieces: usize,
    reclaimed: bool,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) mode: Mode,
    policy: Policy,
    pub(super) covers: Covers,
    old_state: NsmState,
    pub(super) new_state: NsmState,
    began: Duration,
    began_unix_ms: u64,
    grace: Duration,
    deadline: Duration,
    pub(super) latest: Duration,
    /// The last time that the process went on after a lag; the begin without one.
    ran_since: Duration,
    /// How long the process did not run.
    stood_still: Duration,
    /// Until when clients would have to be waited for, for that: `latest` may come first.
    owed: Duration,
    /// Shared with what writes them down, once all are entered.
    pub(super) clients: Arc<Vec<RunClient>>,
    pub(super) tallies: Vec<Tally>,
    /// Those that are not entered yet; none once all are.
    pub(super) awaited: Option<Awaited>,
    /// Locks that the scope would cover and that are left alone.
    pub(super) unmonitored: u64,
    /// Places in `tallies`.
    pub(super) index: HashMap<ClientId, usize>,
    pub(super) counts: Counts,
    pub(super) notices_begun: bool,
    last_reclaim: Option<Duration>,
    last_ack: Option<Duration>,
    pub(super) rows: Rows,
    /// Its settle is under way: nothing pending may change.
    pub(super) settling: Option<Settling>,
    /// How many times it went on for reclaims that came while its result was written.
    pub(super) went_on: u32,
    /// Addresses from which clients were reclaiming when the run was about to end: they have not had the time to claim all.
    claiming: BTreeSet<IpAddr>,
    pub(super) listed: Listed,
    /// A tree: a hash table that grows moves all that is in it, and peers choose how much that is.
    marks: BTreeMap<u32, Mark>,
    /// Marks are numbered through all runs: one left on a kept lock means nothing to the next run.
    pub(super) next_mark: u32,
}

impl Run {
    /// A run without clients.
    pub(super) fn new(
        now: Duration,
        unix_ms: u64,
        args: &BeginArgs,
        covers: Covers,
        (old_state, new_state): (NsmState, NsmState),
        next_mark: u32,
    ) -> Self {
        let grace = Duration::from_millis(args.grace_ms);
        Self {
            id: args.run,
            mode: args.mode,
            policy: args.policy,
            covers,
            old_state,
            new_state,
            began: now,
            began_unix_ms: unix_ms,
            grace,
            deadline: now + grace,
            latest: now + Duration::from_millis(args.grace_max_ms),
            ran_since: now,
            stood_still: Duration::ZERO,
            owed: Duration::ZERO,
            clients: Arc::default(),
            tallies: Vec::new(),
            awaited: None,
            unmonitored: 0,
            index: HashMap::new(),
            counts: Counts::default(),
            notices_begun: false,
            last_reclaim: None,
            last_ack: None,
            rows: Rows::default(),
            settling: None,
            went_on: 0,
            claiming: BTreeSet::new(),
            listed: Listed::new(ROWS),
            marks: BTreeMap::new(),
            next_mark,
        }
    }

    /// `locks`: those in scope, by the server address that the client called for them.
    pub(super) fn add_client(&mut self, id: ClientId, address: IpAddr, client: RunClient, locks: Vec<(IpAddr, u64)>) {
        self.index.insert(id, self.tallies.len());
        let mut tally = Tally::new(id, address, client.suspect);
        (tally.counts.in_scope, tally.counts.pending) = (client.locks, client.locks);
        for (server_address, locks) in locks {
            *tally.path(server_address) = PathFacts { in_scope: locks, pending: locks, ..PathFacts::default() };
        }
        self.tallies.push(tally);
        Arc::make_mut(&mut self.clients).push(client);
    }

    /// For so many more clients.
    pub(super) fn make_room(&mut self, more: usize) {
        Arc::make_mut(&mut self.clients).reserve(more);
        self.tallies.reserve(more);
        self.index.reserve(more);
    }

    /// The plan named the client as unreachable, and consent to drop covers it.
    pub(super) fn may_drop(&mut self, client: ClientId) {
        if let Some(tally) = self.tally_mut(client) {
            tally.may_drop = true;
        }
    }

    /// What has begun. The names are the caller's to fill in.
    pub(super) fn begun(&self) -> Begun {
        Begun {
            run: self.id,
            old_state: self.old_state,
            new_state: self.new_state,
            in_scope: self.counts.in_scope,
            unmonitored: self.unmonitored,
            clients: u32::try_from(self.clients.len()).unwrap_or(u32::MAX),
            names: List::default(),
        }
    }

    pub(super) fn tally(&self, client: ClientId) -> Option<&Tally> {
        self.tallies.get(*self.index.get(&client)?)
    }

    fn tally_mut(&mut self, client: ClientId) -> Option<&mut Tally> {
        self.tallies.get_mut(*self.index.get(&client)?)
    }

    /// Whether its settle is under way and the client has something pending.
    pub(super) fn is_frozen_for(&self, client: ClientId) -> bool {
        self.settling.is_some() && self.tally(client).is_some_and(|tally| tally.counts.pending > 0)
    }

    /// Counts for the client and in all.
    pub(super) fn count(&mut self, client: ClientId, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        if let Some(tally) = self.tally_mut(client) {
            count(&mut tally.counts);
        }
    }

    /// Some of a pending segment is decided and `left` pieces of it are not (one, where only a weaker
    /// mode of it was reclaimed). Its client called `server_address` for it. Gives the mark that those carry.
    pub(super) fn decided(&mut self, segment: &Segment, server_address: IpAddr, left: usize, how: How) -> u32 {
        let (reclaimed, left) = match how {
            How::Reclaimed | How::Replaced(_) => (true, left),
            How::Returned(pieces) => (false, left + pieces),
            How::Released => (false, left),
        };
        if reclaimed && let Some(tally) = self.tally_mut(segment.client) {
            tally.path(server_address).reclaimed_any = true;
        }
        if left == 0 && !self.is_marked(segment) {
            self.count_decided(segment.client, server_address, reclaimed);
            return 0;
        }
        let number = self.mark(segment, server_address);
        let Some(mark) = self.marks.get_mut(&number) else { return 0 };
        mark.pieces = mark.pieces - 1 + left;
        mark.reclaimed |= reclaimed;
        if mark.pieces == 0
            && let Some(mark) = self.marks.remove(&number)
        {
            self.count_decided(mark.client, mark.server_address, mark.reclaimed);
            return 0;
        }
        number
    }

    /// A pending segment has become that of an owner who calls another server address. A lock in pieces stays
    /// counted where it was.
    pub(super) fn moved(&mut self, segment: &Segment, from: IpAddr, to: IpAddr) {
        if !self.is_marked(segment)
            && let Some(tally) = self.tally_mut(segment.client)
        {
            tally.path(from).pending -= 1;
            tally.path(to).pending += 1;
        }
    }

    /// Whether a part of the lock that the segment belongs to was decided.
    pub(super) fn is_marked(&self, segment: &Segment) -> bool {
        self.marks.contains_key(&segment.mark)
    }

    /// The segment's mark, made if need be.
    fn mark(&mut self, segment: &Segment, server_address: IpAddr) -> u32 {
        if self.is_marked(segment) {
            return segment.mark;
        }
        let number = self.next_mark;
        self.next_mark = number.checked_add(1).unwrap_or(1);
        let mark = Mark { client: segment.client, server_address, pieces: 1, reclaimed: false };
        self.marks.insert(number, mark);
        number
    }

    fn count_decided(&mut self, client: ClientId, server_address: IpAddr, reclaimed: bool) {
        if let Some(tally) = self.tally_mut(client) {
            tally.path(server_address).pending -= 1;
        }
        self.count(client, |counts| {
            counts.pending -= 1;
            *(if reclaimed { &mut counts.reclaimed } else { &mut counts.released }) += 1;
        });
    }

    /// A reclaim of the client was granted that came in on `server_address`; `changed` if it was more than a
    /// repetition.
    pub(super) fn reclaim_granted(&mut self, now: Duration, client: ClientId, server_address: IpAddr, changed: bool) {
        if changed {
            self.last_reclaim = Some(now);
        }
        if let Some(tally) = self.tally_mut(client) {
            tally.path(server_address).came_back = true;
        }
    }

    /// A reclaim was granted though (a part of) its lock was not known. Beyond the bounds it is counted and not listed.
    pub(super) fn resurrected(&mut self, client: ClientId, row: LockFate) {
        self.count(client, |counts| counts.resurrected += 1);
        if self.listed.takes(&row) {
            self.rows.push(row);
        }
    }

    /// A reclaim was refused. Gives whether that is to be told. Beyond the bounds it is not known whether it is repeated, so
    /// of a client with none that counts it counts, and of others it does not.
    pub(super) fn conflict(&mut self, client: ClientId, row: LockFate) -> bool {
        let Some(is_listed) = self.listed.takes_conflict(client, &row) else { return false };
        if is_listed || self.tally(client).map_or(&self.counts, |tally| &tally.counts).conflicts == 0 {
            self.count(client, |counts| counts.conflicts += 1);
        }
        if is_listed {
            self.rows.push(row);
        }
        is_listed
    }

    pub(super) fn progress(&mut self, now: Duration, seen: &ClientProgress) -> bool {
        let Some(tally) = self.tallies.get_mut(seen.client as usize) else { return false };
        self.last_ack = self.last_ack.max(tally.heard(now, self.ran_since, seen));
        true
    }

    /// The process did not run until `now`, for `counted` on that clock. Clients get that time back, and at least
    /// `wait` from now on.
    pub(super) fn lagged(&mut self, now: Duration, counted: Duration, wait: Duration) {
        self.stood_still += counted;
        self.ran_since = now;
        let acks = self.tallies.iter_mut().filter_map(|tally| tally.acked_at.as_mut());
        for at in acks.chain(&mut self.last_ack).chain(&mut self.last_reclaim) {
            *at = at.saturating_add(counted).min(now);
        }
        self.owed = self.owed.max(self.deadline).saturating_add(counted).max(now + wait);
        self.extend(self.owed);
    }

    /// Whether the time that a lag took from clients is not over, and is to be waited for.
    pub(super) fn owes_time(&self, now: Duration) -> bool {
        self.counts.pending > 0 && now < self.owed.min(self.latest)
    }

    /// Whether a notice of this run reached the client where it called from.
    pub(super) fn has_acked(&self, client: ClientId) -> bool {
        self.tally(client).is_some_and(|tally| tally.acked_at.is_some())
    }

    /// The host was reclaiming while the run was about to end. That is all of its clients: it may have many names.
    pub(super) fn is_claiming(&mut self, address: IpAddr) {
        self.claiming.insert(address);
        if let Some(settling) = &mut self.settling {
            settling.losing.remove(&address);
        }
    }

    pub(super) fn was_claiming(&self, tally: &Tally) -> bool {
        self.claiming.contains(&tally.address)
    }

    /// Whether a client at the address is about to lose something, and none there is known to reclaim.
    pub(super) fn is_losing(&self, address: IpAddr) -> bool {
        self.settling.as_ref().is_some_and(|settling| settling.losing.contains(&address))
    }

    /// Whether what is pending of the client through this server address is about to be dropped.
    pub(super) fn is_dropping(&self, client: ClientId, server_address: IpAddr) -> bool {
        self.settling.is_some() && self.tally(client).is_some_and(|tally| tally.judged.drops(server_address))
    }

    /// The deadline as activity has moved it.
    pub(super) fn deadline(&self) -> Duration {
        if self.counts.pending == 0 {
            return self.deadline;
        }
        policy::extended_deadline(self.deadline, self.latest, self.grace, self.last_reclaim, self.last_ack)
    }

    pub(super) fn status(&self, now: Duration) -> RunStatus {
        RunStatus {
            run: self.id,
            mode: self.mode,
            nsm_state: self.new_state,
            elapsed_ms: ms(now.saturating_sub(self.began)),
            remaining_ms: ms(self.deadline().saturating_sub(now)),
            latest_remaining_ms: ms(self.latest.saturating_sub(now)),
            last_reclaim_ms: Maybe(self.last_reclaim.map(|at| ms(now.saturating_sub(at)))),
            counts: self.counts,
            notices_begun: self.notices_begun,
        }
    }

    /// The result as the counts have it. Nothing is pending in it any more.
    pub(super) fn result(&self, unix_ms: u64, outcome: Outcome, reason: &str) -> RunResult {
        RunResult {
            run: self.id,
            outcome,
            reason: Text::clipped(reason),
            alone: false,
            not_understood: false,
            mode: self.mode,
            old_state: self.old_state,
            new_state: self.new_state,
            began_unix_ms: self.began_unix_ms,
            ended_unix_ms: unix_ms,
            counts: Counts { pending: 0, ..self.counts },
            late: 0,
        }
    }

    /// Moves the deadline: never earlier, never past the latest one.
    pub(super) fn extend(&mut self, wanted: Duration) {
        self.deadline = self.deadline.max(wanted.min(self.latest));
    }

    /// Goes on as if no settle had been started.
    pub(super) fn stop_settling(&mut self) -> Option<Settling> {
        (self.counts.dropped, self.counts.kept) = (0, 0);
        self.settling.take()
    }

    /// Whether a pending lock may still be reclaimed, as far as is known, or would not be kept.
    pub(super) fn is_awaited(&self, now: Duration) -> bool {
        let named = self.covers.clients.is_some();
        let mut pending = self.tallies.iter().zip(&*self.clients).filter(|(tally, _)| tally.counts.pending > 0);
        // Clients still have time to get back for which the process did not run.
        now < self.owed && self.counts.pending > 0
            || pending.any(|(tally, client)| {
                let is_kept = || tally.facts(now, client, named).is_unheard_and_kept(self.policy, self.grace);
                self.was_claiming(tally) || !tally.is_given_up() || !is_kept()
            })
    }

    /// Freezes what is pending.
    pub(super) fn start_settling(&mut self, now: Duration, alone: bool, reason: &str) {
        let why_kept = if self.counts.pending == 0 {
            None
        } else if now < self.owed {
            // The latest deadline came before clients got back the time in which the process did not run.
            Some(kept_for_a_lag(self.stood_still))
        } else {
            // Where nothing is dropped no reclaim can come before that: clients cannot keep the grace on for ever.
            (self.went_on >= MAX_ANEW).then(|| KEPT_FOR_RECLAIMS.to_owned())
        };
        let cut_short = why_kept.is_some();
        let reason = why_kept.map_or_else(|| reason.to_owned(), |why| format!("{reason}; {why}"));
        let judge = Judge::new(self.policy, self.grace, alone);
        self.settling = Some(Settling::new(now, alone, reason, cut_short, judge));
    }

    /// Looks at everything anew, as if the settle had just been started.
    pub(super) fn settle_anew(&mut self) {
        let Some(Settling { now, alone, reason, cut_short, answers, .. }) = self.stop_settling() else { return };
        let judge = Judge::new(self.policy, self.grace, alone);
        let mut anew = Settling::new(now, alone, reason, cut_short, judge);
        anew.answers = answers;
        self.settling = Some(anew);
    }
}

const KEPT_FOR_RECLAIMS: &str =
    "reclaims went on to come while the result was written, so what was still pending is kept";

fn kept_for_a_lag(stood_still: Duration) -> String {
    format!(
        "the lock manager itself did not run for {:.1} s, so what was pending at the latest deadline is kept",
        stood_still.as_secs_f64()
    )
}
