//! Locks that a run leaves unsure: their reclaim may have been refused (`manager/knfsd/unsure`).
//!
//! | the run | the clients whose locks are unsure then |
//! |---|---|
//! | its keeper was killed, or it was superseded after the first notice | of all clients that it covered |
//! | aborted after the first notice | of those that had not acked, and of which something was missed |
//! | settled | the same; of those that had not acked with [`DoubtKind::Unheard`] |
//! | its drain was cut short | also of those that had acked and had something kept |
//! | its drain ended while some reclaimed | of those |
//!
//! They are written to disk before the run is removed from it, so a keeper that is killed in between loses none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::run_files::{Journal, all_unsure, unsure};
use super::state::Keeper;
use crate::manager::knfsd::owners::View;
use crate::manager::knfsd::unsure::DoubtKind;
use crate::wire::control::{Delivery, FullResult};
use crate::wire::types::Address;

/// Locks that are named in the timeline; lists have all.
const NAMED: usize = 100;

impl Keeper {
    /// The run ends in order.
    pub(super) fn doubt_of(&mut self, full: &FullResult, aborted: bool) {
        let Some(active) = &self.active else { return };
        let Journal { args, clients, .. } = &active.journal;
        let results: HashMap<u32, _> = full.clients.as_slice().iter().map(|one| (one.client, one)).collect();
        let doubtful = clients.as_slice().iter().filter_map(|client| {
            let result = results.get(&client.index);
            let (acked, kept) = result.map_or((false, true), |r| (r.delivery == Delivery::Acked, r.counts.kept > 0));
            let (kind, why) = match (active.account.why_missed(client.addresses.as_slice()), acked, kept) {
                (Some(why), ..) => (DoubtKind::Refused, why),
                (None, false, true) if aborted => (DoubtKind::Refused, "it was aborted before the client acked".into()),
                (None, false, true) => (DoubtKind::Unheard, "nothing was heard of the client".into()),
                (None, true, true) => (DoubtKind::Draining, "the process in front of lockd was killed after it".into()),
                (None, _, false) => return None,
            };
            Some(unsure(client, args.run, kind, &why))
        });
        self.unsure.is_of(args.instance);
        self.unsure.add(doubtful.collect::<Vec<_>>());
    }

    /// Something of these may have passed since.
    pub(super) fn doubt_what_was_missed(&mut self) {
        self.doubt_each(Account::why_missed);
    }

    /// The drain ends, and these were heard to reclaim since then: what they claim next is refused.
    pub(super) fn doubt_who_reclaims(&mut self, since: Duration) {
        self.doubt_each(|account, addresses| {
            let reclaims = account.last_reclaim(addresses).is_some_and(|at| at > since);
            reclaims.then(|| "it was still reclaiming when late reclaims were no longer granted".to_owned())
        });
    }

    fn doubt_each(&mut self, why: impl Fn(&Account, &[Address]) -> Option<String>) {
        let Some(active) = &self.active else { return };
        let Journal { args, clients, .. } = &active.journal;
        let doubtful = clients.as_slice().iter().filter_map(|client| {
            let why = why(&active.account, client.addresses.as_slice())?;
            Some(unsure(client, args.run, DoubtKind::Refused, &why))
        });
        self.unsure.is_of(args.instance);
        self.unsure.add(doubtful.collect::<Vec<_>>());
    }

    /// The run ends out of order.
    pub(super) fn doubt_all(&mut self, why: &str) {
        let Some(active) = &self.active else { return };
        self.unsure.is_of(active.journal.args.instance);
        self.unsure.add(all_unsure(&active.journal, why));
    }

    /// Writes it down where nothing depends on that at once.
    pub(super) fn write_unsure(&mut self) {
        if let Err(error) = self.run_files.write_unsure(&mut self.unsure) {
            let words = format!("locks that later runs must keep cannot be written to disk: {error}");
            self.timeline.push(self.unix_ms(), "unsure", &words);
            self.platform.log(&words);
        }
    }

    /// Finds which locks they are, where that is not known yet.
    pub(super) async fn look_up_unsure(&mut self) {
        if !self.unsure.awaits_view() {
            return self.write_unsure();
        }
        let platform = Arc::clone(&self.platform);
        let look = async move { platform.view().await };
        let view = match &mut self.active {
            Some(active) => active.link.meanwhile_looking(look).await,
            None => look.await,
        };
        match view {
            Ok(view) => self.review(&view).await,
            // The next view will do: no run begins without one.
            Err(error) => {
                tracing::warn!(%error, "lockd's records cannot be read");
                self.write_unsure();
            }
        }
    }

    /// What is unsure, by what lockd has now.
    pub(super) async fn review(&mut self, view: &View) {
        if self.unsure.is_empty() {
            return;
        }
        let Ok(instance) = self.platform.instance().await else { return };
        let is_news = self.unsure.awaits_view();
        self.unsure.is_of(instance);
        self.unsure.look_up(view);
        self.write_unsure();
        let count = self.unsure.all().count();
        if !is_news || count == 0 {
            return;
        }
        let unix_ms = self.unix_ms();
        for lock in self.unsure.all().take(NAMED) {
            let words = format!("{} {} of {}: {}", lock.place(), lock.range, lock.name, lock.doubt.why.as_str());
            self.timeline.push(unix_ms, "unsure", &words);
        }
        self.platform.log(&format!(
            "reclaims of {count} locks may have been refused; runs keep them, `nlmctl locks` names them, and \
             nlmctl-lost-locks(7) says what to do on their clients"
        ));
    }
}
