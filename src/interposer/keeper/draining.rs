//! The drain: the run is over, and late reclaims are granted as ordinary requests, as long as one may come.

use std::time::Duration;

use super::state::{Active, Keeper};
use crate::interposer::messages::{Mode, Order};
use crate::wire::types::ms;

/// How long after the latest deadline a reclaim may still come that a notice in time has caused: as long as a client
/// takes to repeat a call.
const AFTERMATH: Duration = Duration::from_secs(15);

impl Keeper {
    /// No request is refused any more. Late reclaims are granted as ordinary requests, as long as one may come.
    pub(super) async fn drain(&mut self) {
        self.controller = None;
        self.order(Order::Mode(Mode::Drain)).await;
        if let Some(active) = &mut self.active {
            active.link.forget_claims().await;
            let until = active.drain_owed.max(active.began + active.latest() + AFTERMATH);
            self.drain_until(until);
        }
        self.take_in().await;
        self.look_up_unsure().await;
    }

    fn drain_until(&mut self, until: Duration) {
        let left = ms(until.saturating_sub(self.now()));
        if let Some(active) = &mut self.active {
            active.drain_until = Some(until);
        }
        // Without it others are refused all the same, and not told until when.
        let _ = self.run_files.drains_until(self.unix_ms() + left);
    }

    /// The time of the drain is over. While a client reclaims it goes on, for as long again as the run could last: one that
    /// has many locks claims them one by one, and is between two calls for most of the time. So it does where calls were not
    /// heard for a while: they are repeated.
    pub(super) async fn drain_is_due(&mut self) {
        let now = self.now();
        let Some(active) = &mut self.active else { return };
        // What came by now is heard first.
        if let Err(why) = active.link.all_obeyed().await {
            self.supersede(&why).await;
            return;
        }
        self.take_in().await;
        let Some(active) = &self.active else { return };
        let clients = active.journal.clients.as_slice().iter();
        let reclaimed = active.account.last_reclaim(clients.flat_map(|client| client.addresses.as_slice()));
        let most = active.began + 2 * active.latest() + AFTERMATH;
        match reclaimed.max(active.account.stood_still).map(|at| most.min(at + AFTERMATH)) {
            Some(until) if until > now => self.drain_until(until),
            _ => self.drain_is_over().await,
        }
    }

    /// No late reclaim is granted any more.
    async fn drain_is_over(&mut self) {
        self.doubt_what_was_missed();
        self.doubt_who_reclaims(self.now().saturating_sub(AFTERMATH));
        self.look_up_unsure().await;
        self.end_drain().await;
        self.unsure.drained();
        self.write_unsure();
    }

    /// No client was told of this run, so late reclaims come only of the run before.
    pub(super) async fn end_drain_of_none(&mut self) {
        match &mut self.active {
            // It is due at once where that time has passed.
            Some(active) if !active.drain_owed.is_zero() => active.drain_until = Some(active.drain_owed),
            _ => {
                self.end_drain().await;
                self.unsure.drained();
                self.write_unsure();
            }
        }
    }

    /// Nothing stands before lockd any more.
    pub(super) async fn end_drain(&mut self) {
        if let Some(Active { mut link, .. }) = self.active.take() {
            link.order(Order::Mode(Mode::Off)).await;
            let _ = link.all_obeyed().await;
        }
        let _ = self.run_files.drained();
        self.controller = None;
        self.timeline.changed();
    }
}
