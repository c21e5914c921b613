//! Carries out the effects of the lock table outside of it.

use std::collections::HashSet;
use std::net::IpAddr;

use super::embedder;
use super::phase::SLICE;
use super::refusals::QUIET;
use super::state::{Done, Owner};
use crate::lockd::callbacks::{Granted, Granting, Unconfirmed};
use crate::lockd::persist::{Change, Durable, MonitorRecord};
use crate::locks::{Caller, Cap, ClientId, Effect, MirrorStep, OfferAnswer, OfferId, Wanted};
use crate::wire::control::Grace;
use crate::wire::types::{Cookie, FileHandle};

impl Owner {
    /// Does what the table wants done outside. Returns what must be durable before the answer.
    pub(super) fn apply_effects(&mut self) -> Vec<Durable> {
        let mut late = Vec::new();
        while let Some(effect) = self.table.next_effect() {
            match effect {
                Effect::Offer { offer, caller, wanted, cookie } => self.offer(offer, caller, wanted, cookie),
                Effect::Withdraw(offer) => {
                    if let Some(call) = self.offers.remove(&offer) {
                        call.abort();
                    }
                }
                Effect::Forget(client) => self.forget(client),
                Effect::Late(run, fate) => match self.archive.unwritten.submit_late(run, fate, &self.persist) {
                    Ok(durable) => late.push(durable),
                    Err(error) => tracing::error!(%run, %error, "a late reclaim is missing in its run's result"),
                },
                Effect::Event(kind, detail) => {
                    tracing::info!(kind, "{detail}");
                    self.timeline.push(self.clock.unix_ms(), kind, &detail);
                }
                Effect::Mirror(file, step) => self.mirror(file, step),
                Effect::AskAgain(file, refusals) => {
                    self.work.spawn(async move {
                        tokio::time::sleep(embedder::pause(refusals)).await;
                        Done::AskAgain(file)
                    });
                }
                Effect::Full(cap, client, file) => {
                    let view = self.table.client(client);
                    let who = view.map_or_else(String::new, |view| format!("{} at {}, ", view.name, view.address));
                    self.refused(cap, &format!("{who}file {file}"));
                }
                Effect::Changed => self.timeline.changed(),
            }
        }
        late
    }

    /// Serves more of those who were woken, until a slice of time is over.
    pub(super) fn wake_more(&mut self) {
        let until = self.clock.now() + SLICE;
        while self.table.has_more_to_wake() {
            self.table.wake_more();
            let _ = self.apply_effects();
            if self.clock.now() > until {
                break;
            }
        }
    }

    fn offer(&mut self, offer: OfferId, caller: Caller, wanted: Wanted, cookie: Cookie) {
        let Some(view) = self.table.client(caller.client) else { return };
        let granted = Granted { name: view.name, addresses: vec![view.address], via: caller.via, wanted, cookie };
        self.call_granted(offer, Granting::new(granted, offer.is_renewed()));
    }

    fn call_granted(&mut self, offer: OfferId, granting: Granting) {
        let callbacks = self.callbacks.clone();
        let call = self.work.spawn(async move {
            let outcome = callbacks.granted(granting).await;
            Done::Offered { offer, outcome }
        });
        self.offers.insert(offer, call);
    }

    /// What became of calling GRANTED. An offer that is not confirmed stands, and the calls go on.
    pub(super) fn offered(&mut self, offer: OfferId, outcome: Result<OfferAnswer, Unconfirmed>) {
        // Nothing of an offer that was withdrawn when its call had just ended.
        let Some(_call) = self.offers.remove(&offer) else { return };
        match outcome {
            Ok(answer) => self.table.offer_answered(offer, answer),
            Err(Unconfirmed { granting, why }) => {
                self.table.offer_unconfirmed(offer, &why);
                self.call_granted(offer, granting);
            }
        }
        let _ = self.apply_effects();
    }

    fn mirror(&mut self, file: FileHandle, step: MirrorStep) {
        let Some(doing) = self.embedded.step(file.clone(), step) else { return };
        self.work.spawn(async move { Done::Stepped { file, stepped: doing.await } });
    }

    fn forget(&mut self, client: ClientId) {
        let in_recovery = self.table.grace() == Grace::Recovery;
        let Some((name, address)) = self.records.forget(client, in_recovery) else { return };
        if let Err(error) = self.persist.submit(Change::Forget { name: name.clone(), address }) {
            // At worst it is told of a restart that does not concern it.
            tracing::warn!(client = %name, %error, "its monitor record was not removed");
        }
        self.leave_unused([address]);
    }

    /// Those watched addresses at which no client is left need no watching.
    fn leave_unused(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if self.table.clients_at(address).is_empty()
                && let Some(leaving) = self.watches.leave(&self.persist, address)
            {
                self.work.spawn(async move {
                    leaving.await;
                    Done::Left(address)
                });
            }
        }
    }

    /// Those of a former life at which no client is left, but for those to keep.
    pub(super) fn leave_all_unused(&mut self, kept: &HashSet<IpAddr>) {
        let addresses: Vec<_> = self.watches.addresses().filter(|address| !kept.contains(address)).collect();
        self.leave_unused(addresses);
    }

    /// Evidence, no promise: no call waits for it.
    pub(super) fn keep_evidence(&mut self, record: MonitorRecord) {
        let name = record.name.clone();
        if let Err(error) = self.persist.submit(Change::Monitor(record)) {
            tracing::warn!(client = %name, %error, "its NSM state number was not recorded");
        }
    }

    /// A cap refused a lock: `who` and where.
    pub(super) fn refused(&mut self, cap: Cap, who: &str) {
        if self.refusals.add(cap, who) {
            tracing::warn!("a lock is refused (DENIED_NOLOCKS): {cap}; {who}");
            self.be_quiet(cap);
        }
    }

    pub(super) fn quiet_over(&mut self, cap: Cap) {
        if let Some((count, who)) = self.refusals.sum_up(cap) {
            let minute = QUIET.as_secs();
            tracing::warn!("{count} more refused and not logged in the last {minute} s: {cap}; the last was {who}");
            self.be_quiet(cap);
        }
    }

    fn be_quiet(&mut self, cap: Cap) {
        self.work.spawn(async move {
            tokio::time::sleep(QUIET).await;
            Done::QuietOver(cap)
        });
    }
}
