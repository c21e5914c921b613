//! From the plan to grace.
//!
//! ```text
//! refused while another run is on -> walk: does the run make sense? -> gate -> state number raised, durable
//!   -> mode, proof -> walk: the account -> what passed meanwhile -> the run is on disk -> Begun
//! ```
//!
//! Calls that lockd answered before the second walk began are in its result; the account gets all others. A step that
//! fails before `Begun` is undone by dropping the gate, or by continuing the drain of the previous run: no notice has
//! left, and no lock was touched.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::account::Account;
use super::called::CalledAddresses;
use super::filter_link::{FilterLink, LinkEvent};
use super::run_files::Journal;
use super::state::{Active, Keeper, not_durable, unsupported};
use crate::interposer::messages::{self, Call, Claim, FilterEvent, Order, Request};
use crate::interposer::proof;
use crate::manager::knfsd::owners::View;
use crate::rpc::server::ConnectionId;
use crate::units::count;
use crate::wire::control::{BeginArgs, Begun, Mode, Refusal, RefusalCode};
use crate::wire::nlm::Stat;
use crate::wire::types::NsmState;
use crate::wire::xdr::List;

impl Keeper {
    pub(super) async fn begin(&mut self, args: BeginArgs, from: ConnectionId) -> Result<Begun, Refusal> {
        if let Ok(active) = self.running(args.run) {
            return Ok(active.journal.begun.clone());
        }
        if self.active.as_ref().is_some_and(|active| active.drain_until.is_none()) {
            return Err(Refusal::new(
                RefusalCode::RunActive,
                "another run is active; wait for its end, or abort it with `nlmctl abort`",
            ));
        }
        if self.run_files.result(args.run).map_err(not_durable)?.is_some() {
            return Err(Refusal::new(
                RefusalCode::WrongPhase,
                format!("run {} has ended already; plan again", args.run),
            ));
        }
        // The next one is written in its place.
        self.pay().map_err(not_durable)?;
        let old_state = self.agrees(&args).await?;
        let (seen, account) = self.looked().await?;
        account.table.check_begin(&args)?;
        let gate = match self.active {
            Some(_) => None,
            None => Some(self.platform.gate(&seen).await.map_err(unsupported)?),
        };
        let platform = Arc::clone(&self.platform);
        let new_state = self.meanwhile(async move { platform.raise_state(old_state).await }).await;
        let new_state = new_state.map_err(|words| Refusal::new(RefusalCode::NotDurable, words))?;
        // What was heard up to here belongs to the drain.
        self.take_in().await;
        self.doubt_what_was_missed();
        self.write_unsure();
        // A drain goes over into the run without a moment in which a late reclaim would be refused.
        let (mut drain, mut fresh) = (self.active.take(), gate.map(FilterLink::new));
        let none =
            || Refusal::new(RefusalCode::WrongPhase, "the drain phase of the previous run has just ended; try again");
        // A call of the drain that is answered from now on is news to the run.
        let follows_drain = drain.is_some();
        let open = drain.iter().flat_map(|drain| drain.account.open_calls());
        let mut before: VecDeque<LinkEvent> =
            open.map(|call| LinkEvent::FilterEvent(FilterEvent::Call(call.clone()))).collect();
        let link = drain.as_mut().map(|drain| &mut drain.link).or(fresh.as_mut()).ok_or_else(none)?;
        match self.begin_behind(link, &seen, (args, follows_drain), (old_state, new_state), &mut before).await {
            Ok((journal, account, waiters)) => {
                let drain_owed = drain.as_ref().and_then(|drain| drain.drain_until).unwrap_or_default();
                let link = drain.map(|drain| drain.link).or(fresh).ok_or_else(none)?;
                let begun = journal.begun.clone();
                self.platform.log(&format!(
                    "run {}: ordinary lock requests of NFSv3 clients are refused ({}) from now on, {} pending",
                    begun.run,
                    journal.args.mode,
                    count(begun.in_scope, "lock")
                ));
                let (began, drain_until, failures) = (self.now(), None, 0);
                let called = CalledAddresses::new(journal.clients.as_slice(), self.platform.as_ref());
                let not_before = began;
                let active = Active {
                    journal,
                    account,
                    link,
                    waiters,
                    called,
                    began,
                    drain_until,
                    drain_owed,
                    failures,
                    not_before,
                };
                self.active = Some(active);
                self.controller = Some(from);
                self.take_in().await;
                Ok(begun)
            }
            Err(words) => {
                if let Some(drain) = drain {
                    self.go_on_draining(drain, before).await;
                }
                Err(Refusal::new(
                    RefusalCode::Unsupported,
                    format!("{words}; no client was notified, and no lock was touched"),
                ))
            }
        }
    }

    /// A run that was to take its place has not begun: late reclaims of the one before are still taken.
    async fn go_on_draining(&mut self, mut drain: Active, heard: VecDeque<LinkEvent>) {
        let now = self.now();
        drain.link.forget_claims().await;
        drain.link.order(Order::Mode(messages::Mode::Drain)).await;
        for heard in heard {
            drain.account.heard(now, heard);
        }
        self.active = Some(drain);
        self.take_in().await;
    }

    /// Whether the plan is still about this lockd. Gives the state number.
    async fn agrees(&mut self, args: &BeginArgs) -> Result<NsmState, Refusal> {
        let (instance, state) = self.identity().await?;
        if args.instance != instance || args.nsm_state != state {
            let words = format!(
                "the plan was made for instance {} with NSM state {}, this is instance {instance} with state {state}; plan again",
                args.instance, args.nsm_state
            );
            return Err(Refusal::new(RefusalCode::StalePlan, words));
        }
        Ok(state)
    }

    async fn begin_behind(
        &mut self,
        link: &mut FilterLink,
        seen: &View,
        (args, follows_drain): (BeginArgs, bool),
        (old_state, new_state): (NsmState, NsmState),
        before: &mut VecDeque<LinkEvent>,
    ) -> Result<(Journal, Account, u64), String> {
        let names = link.meanwhile(self.platform.names()).await?;
        let mode = match args.mode {
            Mode::Strict => messages::Mode::Strict,
            Mode::Targeted => messages::Mode::Targeted,
        };
        link.forget_claims().await;
        link.order(Order::Mode(mode)).await;
        let proved = link.meanwhile(self.platform.prove(mode, seen)).await;
        let obeyed = link.all_obeyed().await;
        before.extend(link.heard().into_iter().filter(|heard| !is_trial(heard)));
        proved.and(obeyed)?;
        let platform = Arc::clone(&self.platform);
        let look = async move { Ok::<_, String>((platform.view().await?, platform.monitored().await?)) };
        let (view, monitored) = link.meanwhile(look).await?;
        let mut account = Account::new(self.now(), &view, &monitored)?;
        account.follows_drain = follows_drain;
        let (now, unix_ms) = (self.now(), self.unix_ms());
        let begun =
            account.table.begin(now, unix_ms, &args, old_state, new_state).map_err(|refusal| refusal.to_string())?;
        let begun = Begun { names: List::clipped(names), ..begun };
        if args.mode == Mode::Targeted {
            for claim in account.claims() {
                link.order(Order::Pending(claim)).await;
            }
        }
        for waiter in waiters(&view) {
            link.order(Order::Waiter(waiter)).await;
        }
        link.all_obeyed().await?;
        for heard in unanswered(&*before) {
            account.heard(now, heard);
        }
        for (call, stat) in answered(&*before) {
            account.learn(call, stat);
        }
        let clients = List::clipped(account.table.run_clients().to_vec());
        let journal = Journal { args, begun, began_unix_ms: unix_ms, clients, dropping: List::default() };
        self.run_files.keep(&journal).map_err(|error| format!("the run cannot be written to disk: {error}"))?;
        Ok((journal, account, view.waiters.len() as u64))
    }
}

/// What lockd has in its queue. When its client sends it again, it keeps its place.
fn waiters(view: &View) -> Vec<Claim> {
    view.waiters.iter().map(|waiter| super::requests::claim_of(&waiter.wanted)).collect()
}

/// The proof calls in a client's name, and its client knows nothing of that.
fn is_trial(heard: &LinkEvent) -> bool {
    let LinkEvent::FilterEvent(FilterEvent::Call(call)) = heard else { return false };
    match &call.request {
        Request::Lock(lock) => lock.claim.svid == proof::PROCESS,
        Request::Unlock(claim) | Request::Cancel(claim) => claim.svid == proof::PROCESS,
        Request::Share(_) | Request::Unshare(_) | Request::FreeAll(_) => false,
    }
}

/// Calls that lockd has answered.
fn answered<'a>(heard: impl IntoIterator<Item = &'a LinkEvent>) -> Vec<(&'a Call, Stat)> {
    let (mut open, mut answered) = (HashMap::new(), Vec::new());
    for heard in heard {
        match heard {
            LinkEvent::FilterEvent(FilterEvent::Call(call)) => drop(open.insert(call.number, call)),
            LinkEvent::FilterEvent(FilterEvent::Reply(reply)) => {
                answered.extend(open.remove(&reply.call).map(|call| (call, reply.stat)));
            }
            LinkEvent::FilterEvent(_) | LinkEvent::StoodStill => {}
            LinkEvent::NewFilter => open.clear(),
        }
    }
    answered
}

/// Of what was heard before the walk only calls without a reply are news to the account, and what was not seen.
fn unanswered<'a>(heard: impl IntoIterator<Item = &'a LinkEvent>) -> Vec<LinkEvent> {
    let (mut open, mut unseen) = (BTreeMap::new(), Vec::new());
    let calls = |open: &mut BTreeMap<u64, Call>| {
        std::mem::take(open).into_values().map(|call| LinkEvent::FilterEvent(FilterEvent::Call(call)))
    };
    for heard in heard {
        match heard {
            LinkEvent::FilterEvent(FilterEvent::Call(call)) => drop(open.insert(call.number, call.clone())),
            LinkEvent::FilterEvent(FilterEvent::Reply(reply)) => drop(open.remove(&reply.call)),
            LinkEvent::FilterEvent(told) => unseen.push(LinkEvent::FilterEvent(told.clone())),
            LinkEvent::StoodStill => {}
            LinkEvent::NewFilter => {
                unseen.extend(calls(&mut open));
                unseen.push(LinkEvent::NewFilter);
            }
        }
    }
    unseen.extend(calls(&mut open));
    unseen
}
