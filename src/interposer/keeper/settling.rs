//! A run settles.
//!
//! ```text
//! what policy would drop -> hold its clients -> their open calls are answered -> walk: what is gone was released
//!   -> who has sent a reclaim by now loses nothing -> freeze: policy decides -> what is sure is to be freed: on disk
//!   -> UNLOCKs -> walk -> still the same lockd? -> what is there is kept, the rest was dropped: on disk
//!   -> the instant -> drain, let go
//! ```
//!
//! All others go on meanwhile. What lockd answers them while the table is frozen counts after the instant, and they lose
//! nothing in this settle.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::drops::{Freed, GivenUp, NotDropped, choose, still_there};
use super::owed::RETRY_AFTER;
use super::run_files;
use super::state::{Keeper, no_run, not_durable};
use crate::interposer::messages::Order;
use crate::locks::SlicedResult;
use crate::manager::knfsd::owners::View;
use crate::resync::policy;
use crate::rpc::server::ConnectionId;
use crate::units;
use crate::wire::control::{FullResult, LockFate, Refusal, RefusalCode, RunResult, SettleArgs, SettleWhen};
use crate::wire::types::Address;
use crate::wire::xdr::List;

/// How long a held client's open calls may take to be answered.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After so many failures the run is aborted: a drop that leaves no record must not happen.
const FAILURES_MAX: u32 = 5;
/// Locks that are named, each with its reason, in the timeline; the rows of the result have all.
const NAMED: usize = 100;

/// How a settle is to go.
#[derive(Debug, Clone, Copy)]
struct Terms {
    when: SettleWhen,
    alone: bool,
    reason: &'static str,
}

impl Keeper {
    pub(super) async fn settle(&mut self, args: SettleArgs, from: ConnectionId) -> Result<RunResult, Refusal> {
        if let Some(full) = self.owed(args.run) {
            return Ok(full.result.clone());
        }
        if let Some(full) = self.run_files.result(args.run).map_err(not_durable)? {
            return Ok(full.result);
        }
        self.running(args.run)?;
        self.controller = Some(from);
        self.settle_now(Terms { when: args.when, alone: false, reason: args.when.reason() }).await
    }

    /// The deadline has passed and no controller settled.
    pub(super) async fn settle_alone(&mut self) {
        let reason = match self.controller {
            Some(_) => "deadline, and the controller did not settle",
            None => "deadline, and the controller was gone",
        };
        let settled = self.settle_now(Terms { when: SettleWhen::Always, alone: true, reason }).await;
        let now = self.now();
        let (Err(refusal), Some(active)) = (settled, &mut self.active) else { return };
        if refusal.code == RefusalCode::StillPending {
            // The deadline has moved.
            return;
        }
        active.failures += 1;
        active.not_before = now + RETRY_AFTER;
        if active.failures >= FAILURES_MAX {
            let run = active.journal.args.run;
            let _ = self.abort(run, &format!("could not settle: {refusal}")).await;
        }
    }

    async fn settle_now(&mut self, terms: Terms) -> Result<RunResult, Refusal> {
        // What came before the deadline is decided before it.
        self.hear_all().await?;
        self.owes_nothing(terms)?;
        let began = self.now();
        if let Some(active) = &mut self.active {
            // As long as an ack counts for a late one. It bites where the latest deadline did not let reclaims move it.
            let grace = Duration::from_millis(active.journal.args.grace_ms);
            active.account.spare_who_reclaims(began.saturating_sub(policy::patience(grace)));
        }
        let losers = self.would_lose(terms)?;
        let held = self.hold(losers).await;
        // Also where policy keeps all: a client that was rebooted in the run has told rpc.statd, not the filter, and lockd has
        // freed its locks.
        let view = if self.has_pending() { self.walk().await } else { None };
        // A reclaim that came meanwhile waits, and is heard of.
        self.hear_all().await?;
        let gone = self.active.as_ref().and_then(|active| active.called.gone(self.platform.as_ref()));
        let settled = match gone {
            Some(address) => Err(self.moved_off(address).await),
            None => match self.owes_nothing(terms) {
                Ok(()) => self.settle_held(terms, &held, view.as_ref()).await,
                Err(refusal) => Err(refusal),
            },
        };
        // What waited of them is treated as in grace still: a reclaim comes before others' requests.
        for address in &held {
            self.order(Order::LetGo(Address(*address))).await;
        }
        if !held.is_empty() {
            let (clients, took) =
                (units::count(held.len() as u64, "client"), self.now().saturating_sub(began).as_millis());
            let words = format!("calls of {clients} waited {took} ms while locks were freed");
            self.timeline.push(self.unix_ms(), "held", &words);
        }
        if settled.is_ok() {
            self.drain().await;
        }
        settled
    }

    /// Hears of all that has come by now.
    async fn hear_all(&mut self) -> Result<(), Refusal> {
        let active = self.active()?;
        let obeyed = active.link.all_obeyed().await;
        let superseded = active.link.superseded().map(str::to_owned);
        self.take_in().await;
        match obeyed.err().or(superseded) {
            Some(why) => Err(self.supersede(&why).await),
            None => Ok(()),
        }
    }

    /// Whether clients do not have to be waited for, since they were not heard for a while.
    fn owes_nothing(&self, terms: Terms) -> Result<(), Refusal> {
        let owes = self.active.as_ref().is_some_and(|active| active.account.table.owes_time(self.now()));
        if owes && terms.when != SettleWhen::NothingPending {
            let words = "the process in front of lockd did not run for a while, and its clients get that time before the run settles";
            return Err(Refusal::new(RefusalCode::StillPending, words));
        }
        Ok(())
    }

    /// The clients whose locks the policy would drop now.
    fn would_lose(&mut self, terms: Terms) -> Result<BTreeSet<IpAddr>, Refusal> {
        let full = self.judge(terms)?;
        if let Some(active) = &mut self.active {
            active.account.table.settle_cancel();
        }
        let is_sure = |address: &IpAddr| self.active.as_ref().is_some_and(|a| a.account.why_unsure(*address).is_none());
        Ok(GivenUp::new(&full, &self.unsure).losers().into_iter().filter(is_sure).collect())
    }

    /// Freezes what is pending, and lets policy decide.
    fn judge(&mut self, terms: Terms) -> Result<FullResult, Refusal> {
        let (now, unix_ms) = (self.now(), self.unix_ms());
        let table = &mut self.active()?.account.table;
        table.settle_start(now, terms.when, terms.alone, terms.reason)?;
        while !table.settle_scan(usize::MAX) {}
        table.settle_result(unix_ms).map(SlicedResult::join).ok_or_else(no_run)
    }

    /// From here on nothing of these clients reaches lockd. Those of which a call stays open are let go again.
    async fn hold(&mut self, clients: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        for address in &clients {
            self.order(Order::Hold(Address(*address))).await;
        }
        if clients.is_empty() {
            return clients;
        }
        let until = Instant::now() + ANSWERS_WITHIN;
        loop {
            let Some(active) = &mut self.active else { return BTreeSet::new() };
            let obeyed = active.link.all_obeyed().await;
            active.link.meanwhile(tokio::time::sleep(LOOK_EVERY)).await;
            self.take_in().await;
            let Some(active) = &self.active else { return BTreeSet::new() };
            let open = clients.iter().any(|address| active.account.awaits_reply(*address));
            // No lock of a client with an open call is freed: an open call is one reason to be unsure.
            if obeyed.is_err() || !open || Instant::now() >= until {
                return clients;
            }
        }
    }

    pub(super) async fn order(&mut self, order: Order) {
        if let Some(active) = &mut self.active {
            active.link.order(order).await;
        }
    }

    fn has_pending(&self) -> bool {
        let run = self.active.as_ref().and_then(|active| active.account.table.run_status(self.now()));
        run.is_some_and(|run| run.counts.pending > 0)
    }

    async fn walk(&mut self) -> Option<View> {
        let platform = Arc::clone(&self.platform);
        let active = self.active.as_mut()?;
        match active.link.meanwhile_looking(async move { platform.view().await }).await {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::warn!(%error, "lockd's records cannot be read");
                None
            }
        }
    }

    async fn settle_held(
        &mut self,
        terms: Terms,
        held: &BTreeSet<IpAddr>,
        view: Option<&View>,
    ) -> Result<RunResult, Refusal> {
        let now = self.now();
        if let (Some(active), Some(view)) = (&mut self.active, view) {
            active.account.release_missing(now, view);
        }
        let full = self.judge(terms)?;
        let Some(active) = &mut self.active else { return Err(no_run()) };
        let (mut freed, mut left) = choose(&active.account, held, view, &GivenUp::new(&full, &self.unsure));
        if !freed.is_empty() {
            let dropping = freed.iter().map(|freed| freed.row.clone()).collect();
            active.journal.dropping = List::clipped(dropping);
            if let Err(error) = self.run_files.keep(&active.journal) {
                self.forget_drop();
                let words = format!("the locks to drop cannot be written to disk, nothing was dropped: {error}");
                return Err(Refusal::new(RefusalCode::NotDurable, words));
            }
            // The disk may have taken long, and what came meanwhile counts.
            if let Err(why) = active.link.stood_until_now().await {
                active.journal.dropping = List::default();
                active.account.table.settle_cancel();
                return Err(self.supersede(&why).await);
            }
            self.take_in().await;
            if let Err(refusal) = self.owes_nothing(terms) {
                self.forget_drop();
                return Err(refusal);
            }
            left.extend(self.no_more_sure(&mut freed));
            if let Some(active) = &mut self.active {
                active.journal.dropping = List::clipped(freed.iter().map(|freed| freed.row.clone()).collect());
            }
        }
        let mut not_dropped = match freed.as_slice() {
            [] => NotDropped::default(),
            some => self.free(view, some).await,
        };
        if !freed.is_empty() {
            self.is_same_lockd().await?;
        }
        not_dropped.kept.extend(left);
        let full = self.spare(&not_dropped).unwrap_or(full);
        self.commit(full, !freed.is_empty()).await
    }

    /// Nothing is freed, and the run goes on.
    fn forget_drop(&mut self) {
        let now = self.now();
        let Some(active) = &mut self.active else { return };
        active.journal.dropping = List::default();
        active.account.table.settle_cancel();
        active.account.catch_up(now);
    }

    /// Takes out what is not to be freed any more, with the reason.
    fn no_more_sure(&self, freed: &mut Vec<Freed>) -> Vec<(LockFate, String)> {
        let why = |freed: &Freed| self.active.as_ref()?.account.why_unsure(freed.lock.owner.way.client.0);
        let left = freed.iter().filter_map(|freed| Some((freed.row.clone(), why(freed)?))).collect();
        freed.retain(|freed| why(freed).is_none());
        left
    }

    /// What lockd has says what became of the UNLOCKs only if it is the one that got them. Else nothing is known.
    async fn is_same_lockd(&mut self) -> Result<(), Refusal> {
        let platform = Arc::clone(&self.platform);
        let active = self.active()?;
        let instance = active.link.meanwhile(async move { platform.instance().await }).await;
        let obeyed = active.link.all_obeyed().await;
        let why = match (active.link.superseded(), instance) {
            (Some(why), _) => why.to_owned(),
            (None, Ok(instance)) if instance != active.journal.args.instance => "lockd was restarted".to_owned(),
            (None, Ok(_)) => match obeyed {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            (None, Err(error)) => format!("it is not known whether lockd was restarted: {error}"),
        };
        active.account.table.settle_cancel();
        Err(self.supersede(&why).await)
    }

    /// Sends the UNLOCKs and looks.
    async fn free(&mut self, view: Option<&View>, freed: &[Freed]) -> NotDropped {
        let why = "lockd's records can no longer be read";
        let unread = || NotDropped {
            unknown: freed.iter().map(|freed| (freed.row.clone(), why.to_owned())).collect(),
            ..NotDropped::default()
        };
        let (Some(view), platform) = (view.cloned(), Arc::clone(&self.platform)) else { return unread() };
        let locks = freed.iter().map(|freed| freed.lock.clone()).collect();
        let Some(active) = &mut self.active else { return unread() };
        let whys = active.link.meanwhile(async move { platform.unlock(&view, locks).await }).await;
        match self.walk().await {
            Some(after) => still_there(&after, freed, &whys),
            None => unread(),
        }
    }

    /// What is left is kept in the result too; of what is unknown that is said.
    fn spare(&mut self, NotDropped { kept, unknown }: &NotDropped) -> Option<FullResult> {
        let unix_ms = self.unix_ms();
        for (kind, rows) in [("kept", kept), ("unverified", unknown)] {
            for (row, why) in rows.iter().take(NAMED) {
                let words = format!("{} {} of file {} of {}: {why}", row.kind, row.range, row.file, row.owner.name);
                self.timeline.push(unix_ms, kind, &words);
            }
        }
        if kept.is_empty() && unknown.is_empty() {
            return None;
        }
        let unknown: Vec<LockFate> = unknown.iter().map(|(row, _)| row.clone()).collect();
        let table = &mut self.active.as_mut()?.account.table;
        let rows: Vec<LockFate> = kept.iter().map(|(row, _)| row).chain(&unknown).cloned().collect();
        table.settle_spare(&rows);
        while !table.settle_scan(usize::MAX) {}
        let full = table.settle_result(unix_ms)?.join();
        Some(if unknown.is_empty() { full } else { run_files::unverified(full, &unknown) })
    }

    /// The result is on disk, then the one instant. What is `freed` already cannot be taken back, so its result is not given
    /// up for a disk that fails.
    async fn commit(&mut self, full: FullResult, freed: bool) -> Result<RunResult, Refusal> {
        let mut failures = 0;
        self.doubt_of(&full, false);
        while let Err(error) = self.put_away(&full) {
            failures += 1;
            let now = self.now();
            let active = self.active()?;
            if !freed {
                active.account.table.settle_cancel();
                active.account.catch_up(now);
                let words = format!("the result cannot be written to disk, nothing was dropped: {error}");
                return Err(Refusal::new(RefusalCode::NotDurable, words));
            }
            if failures > FAILURES_MAX {
                self.platform
                    .log(&format!("the result of run {} cannot be written to disk yet: {error}", full.result.run));
                self.owe(full.clone());
                break;
            }
            active.link.meanwhile(tokio::time::sleep(RETRY_AFTER)).await;
        }
        let now = self.now();
        let active = self.active()?;
        active.account.table.settle_commit();
        while !active.account.table.settle_sweep(usize::MAX) {}
        active.account.catch_up(now);
        let (run, counts) = (full.result.run, full.result.counts);
        self.platform.log(&format!(
            "run {run} has settled: {} dropped, {} kept",
            units::count(counts.dropped, "lock"),
            counts.kept
        ));
        Ok(full.result)
    }
}
