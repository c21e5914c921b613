//! Frees one client's locks: what the local statd does when that client reboots.
//!
//! lockd believes a call of procedure 16 from a loopback address and a port below 1024, finds the
//! client by the private data that it gave statd, and drops its locks if the state number is not the
//! last that it heard. Its answer is the same whatever it did, so the locks are looked at.

use std::time::{Duration, Instant};

use super::drops::LockdLine;
use super::{Knfsd, KnfsdError};
use crate::manager::driven::{Lock, compare};
use crate::wire::nlm::{Procedure, SmNotifyArgs};
use crate::wire::types::NsmState;
use crate::wire::xdr::encode;

/// How long lockd's answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the locks are looked at before nothing is taken to have gone.
const EFFECT: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Knfsd {
    /// Frees the locks of the client of this name (that of its record in `sm/`); those that were seen
    /// to go. What others unlocked at the same moment is among them: owners are not known.
    ///
    /// # Errors
    /// It has no monitor record, or lockd was not reached.
    pub async fn release_client(&self, host: &str) -> Result<Vec<Lock>, KnfsdError> {
        let wanted = host.to_owned();
        let (calls, before) = self
            .blocking(move |this| {
                let statd = this.statd()?;
                let state = statd.state(&this.proc)?;
                let entries = statd.roster()?.entries;
                let calls: Vec<SmNotifyArgs> = entries
                    .into_iter()
                    .filter(|entry| entry.host == wanted)
                    .filter_map(|entry| entry.monitor)
                    .map(|monitor| SmNotifyArgs {
                        name: monitor.mon_id.mon_name,
                        state: unheard(state),
                        private: monitor.private,
                    })
                    .collect();
                Ok((calls, this.proc.sight()?))
            })
            .await?;
        if calls.is_empty() {
            return Err(KnfsdError::Stuck(format!("{host} has no monitor record with lockd's data in sm/")));
        }
        let line = LockdLine::open().await?;
        for call in &calls {
            line.call(Procedure::SmNotify, &encode(call), ANSWER)
                .await
                .map_err(|error| KnfsdError::Call { what: "lockd did not take the notice", error })?;
        }
        let until = Instant::now() + EFFECT;
        loop {
            let now = self.blocking(|this| this.proc.sight()).await?;
            let seen = compare::compare(&before, &now);
            let gone: Vec<Lock> = before
                .locks
                .iter()
                .zip(&seen.returns)
                .filter(|(_, now)| **now != compare::Return::Back)
                .map(|(lock, _)| lock.clone())
                .collect();
            if !gone.is_empty() || Instant::now() >= until {
                return Ok(gone);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A state number that the client can hardly have had: odd, and far from this host's.
fn unheard(own: NsmState) -> NsmState {
    NsmState(own.0.wrapping_add(0x4000_0000) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_number_is_odd_and_another_one() {
        for own in [0, 1, -1, 7, i32::MAX] {
            let state = unheard(NsmState(own));
            assert!(state.is_up() && state != NsmState(own));
        }
    }
}
