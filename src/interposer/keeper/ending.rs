//! The end of a run that does not settle: aborted, superseded.

use std::net::IpAddr;

use super::run_files;
use super::state::{Keeper, not_durable};
use crate::host;
use crate::units;
use crate::wire::control::{Outcome, Refusal, RefusalCode, RunId, RunResult};

impl Keeper {
    /// Pending locks are held again, and ordinary requests are granted.
    pub(super) async fn abort(&mut self, run: RunId, reason: &str) -> Result<RunResult, Refusal> {
        if self.owed(run).is_some() || self.run_files.result(run).map_err(not_durable)?.is_some() {
            return Err(Refusal::new(
                RefusalCode::WrongPhase,
                format!("run {run} has ended already; nothing is left to abort"),
            ));
        }
        self.take_in().await;
        self.end_unsettled(run, reason, Outcome::Aborted).await
    }

    /// An address of this host that clients of the run call has moved off. Nothing is dropped. lockd is still the one, so
    /// late reclaims that come by other addresses are granted.
    pub(super) async fn moved_off(&mut self, address: IpAddr) -> Refusal {
        let why = format!("the address {} has moved off this server", host::text_of(address));
        if let Some(active) = &mut self.active {
            active.account.doubt_callers_of(address, &why);
            let run = active.journal.args.run;
            if let Err(refusal) = self.end_unsettled(run, &why, Outcome::Superseded).await {
                return refusal;
            }
        }
        Refusal::new(RefusalCode::WrongPhase, format!("the run is superseded: {why}"))
    }

    /// Pending locks are held again, and the drain begins.
    async fn end_unsettled(&mut self, run: RunId, reason: &str, outcome: Outcome) -> Result<RunResult, Refusal> {
        let (now, unix_ms) = (self.now(), self.unix_ms());
        let active = self.running(run)?;
        let told = active.account.table.run_status(now).is_some_and(|run| run.notices_begun);
        let mut full = active.account.table.abort(unix_ms, reason)?.join();
        if told {
            self.doubt_of(&full, true);
        }
        let mut ended = "was aborted";
        if outcome == Outcome::Superseded {
            ended = "is superseded";
            full = run_files::superseded(full);
            self.timeline.push(unix_ms, "superseded", reason);
        }
        // Nothing was dropped, so this does not wait for the disk.
        if let Err(error) = self.put_away_or_owe(&full) {
            self.timeline.push(unix_ms, "abort", &format!("the result is not on disk yet: {error}"));
        }
        self.platform.log(&format!("run {run} {ended}: {reason}; nothing was dropped"));
        self.drain().await;
        if !told {
            self.end_drain_of_none().await;
        }
        Ok(full.result)
    }

    /// Grace in front of lockd has come to an end that is not the run's. Nothing is dropped.
    pub(super) async fn supersede(&mut self, why: &str) -> Refusal {
        let (now, unix_ms) = (self.now(), self.unix_ms());
        let told = self.active.as_ref().is_some_and(|active| {
            active.drain_until.is_some() || active.account.table.run_status(now).is_some_and(|run| run.notices_begun)
        });
        // What became of those of a run that has settled is in its result.
        let unsettled = self.active.as_ref().filter(|active| active.drain_until.is_none());
        let sent = unsettled.map_or(0, |active| active.journal.dropping.as_slice().len() as u64);
        let (why, dropped) = match sent {
            0 => (why.to_owned(), "; nothing was dropped"),
            some => (
                format!("{why}; UNLOCK was sent for {}, and what came of it is not known", units::count(some, "lock")),
                "",
            ),
        };
        if told {
            self.doubt_all(&why);
        }
        self.unsure.drain_was_cut_short();
        if let Some(active) = &mut self.active
            && active.drain_until.is_none()
            && let Ok(aborted) = active.account.table.abort(unix_ms, &why)
        {
            let full = run_files::superseded(aborted.join());
            if let Err(error) = self.put_away_or_owe(&full) {
                self.timeline.push(unix_ms, "superseded", &format!("the result is not on disk yet: {error}"));
            }
            self.timeline.push(unix_ms, "superseded", &why);
            self.platform.log(&format!("run {} is superseded: {why}{dropped}", full.result.run));
        }
        self.end_drain().await;
        self.look_up_unsure().await;
        Refusal::new(RefusalCode::WrongPhase, format!("the run is superseded: {why}"))
    }
}
