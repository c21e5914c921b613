//! Frees one client's locks: what the local statd does when that client reboots.
//!
//! lockd believes a call of procedure 16 from a loopback address and a port below 1024, finds the
//! client by the private data that it gave statd, and drops its locks if the state number is not the
//! last that it heard. Its answer is always the same, so the locks themselves are checked.

use std::time::{Duration, Instant};

use super::drops::LockdLine;
use super::{Knfsd, KnfsdError, snapshot};
use crate::host::Lock;
use crate::manager::ManagerError;
use crate::manager::adapter::{ClientReleased, Snapshot};
use crate::wire::nlm::{Procedure, SmNotifyArgs};
use crate::wire::types::NsmState;
use crate::wire::xdr::encode;

const ANSWER: Duration = Duration::from_secs(5);
/// How long the locks are looked at before nothing is taken to have gone.
const EFFECT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of a client without the private data that lockd knows it by.
const NOT_TOLD: &str = "rpc.statd has no valid record of it, which lockd needs to free all its locks, so nothing of it was freed. \
                        Its single locks can be freed without one: `nlmctl release --client NAME --export PATH`, with what \
                        `nlmctl locks` shows";

impl Knfsd {
    /// Frees the locks of the client of this name (that of its record in `sm/`). Of those that were seen
    /// to go, what others unlocked at the same moment cannot be told apart.
    ///
    /// # Errors
    /// Unreachable: nothing was sent. Lost: some may be free.
    pub(super) async fn release(&self, host: &str) -> Result<ClientReleased, ManagerError> {
        let wanted = host.to_owned();
        let looked = self.blocking(move |this| {
            let state = unheard(this.state()?);
            let calls: Vec<SmNotifyArgs> = this
                .roster()?
                .entries
                .into_iter()
                .filter(|entry| entry.host == wanted)
                .filter_map(|entry| entry.monitor)
                .map(|monitor| SmNotifyArgs { name: monitor.mon_id.mon_name, state, private: monitor.private })
                .collect();
            Ok((calls, snapshot::look(&this.machine)?))
        });
        let (calls, before) = looked.await.map_err(KnfsdError::unanswered)?;
        if calls.is_empty() {
            return Ok(ClientReleased { left: true, note: Some(NOT_TOLD.into()), ..ClientReleased::default() });
        }
        let line = LockdLine::open().await.map_err(KnfsdError::unanswered)?;
        self.notify(&line, &calls, &before).await.map_err(KnfsdError::lost)
    }

    /// Tells lockd, which may do its work whatever is heard of it; looks until something went.
    async fn notify(
        &self,
        line: &LockdLine,
        calls: &[SmNotifyArgs],
        before: &(Snapshot, Vec<Lock>),
    ) -> Result<ClientReleased, KnfsdError> {
        for call in calls {
            line.call(Procedure::SmNotify, &encode(call), ANSWER)
                .await
                .map_err(|error| KnfsdError::Call { what: "lockd did not take the notice", error })?;
        }
        let until = Instant::now() + EFFECT;
        loop {
            let now = self.blocking(|this| Ok(snapshot::look(&this.machine)?)).await?;
            let seen = what_went(before, &now);
            if !seen.freed.is_empty() || Instant::now() >= until {
                return Ok(seen);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A lock that is gone was freed, if it was there and is gone for sure. So was one that is there, if a blocked request for exactly that has
/// gone: its place was taken by an equal one.
fn what_went(before: &(Snapshot, Vec<Lock>), now: &(Snapshot, Vec<Lock>)) -> ClientReleased {
    let mut held = now.0.locks.clone();
    let no_more = missing(&before.1, &now.1);
    let granted: Vec<Lock> = no_more.into_iter().filter(|request| take(&mut held, request)).collect();
    let mut freed = missing(&before.0.locks, &held);
    if !now.0.unsure.is_empty() {
        freed.clear();
    }
    freed.retain({
        let mut unsure = before.0.unsure.clone();
        move |lock| !take(&mut unsure, lock)
    });
    // lockd's answer says nothing: where nothing went the client may have had nothing.
    let left = freed.is_empty() && !before.0.locks.is_empty();
    ClientReleased { freed, offered: granted.len() as u64, left, note: None }
}

/// Those of `before` that are not in `now`, each as often as it is missing.
fn missing(before: &[Lock], now: &[Lock]) -> Vec<Lock> {
    let mut now = now.to_vec();
    before.iter().filter(|lock| !take(&mut now, lock)).cloned().collect()
}

/// Takes one of these out, if there is one.
fn take(from: &mut Vec<Lock>, lock: &Lock) -> bool {
    let place = from.iter().position(|other| other == lock);
    place.map(|place| from.swap_remove(place)).is_some()
}

/// A state number that lockd can hardly have heard of the client, nor at an earlier release: odd, and
/// not this host's.
fn unheard(own: NsmState) -> NsmState {
    let state = NsmState(rand::random::<i32>() | 1);
    if state == own { state.next_up() } else { state }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::host::Machine;

    #[tokio::test]
    async fn of_a_client_that_lockd_cannot_be_told_of_nothing_goes_and_that_is_said() {
        let files = [("var/lib/nfs/sm/odd.lab", "not a record\n")];
        let (_root, machine) = Machine::fake(&files);
        let knfsd = Knfsd { machine, dir: PathBuf::new(), program: PathBuf::new() };
        let unseen = knfsd.release("odd.lab").await.unwrap_err();
        assert!(matches!(unseen, ManagerError::Unreachable { .. }), "nothing was sent: {unseen}");

        let locks = ("proc/locks", "1: POSIX  ADVISORY  WRITE 187 00:1a:2 100 109\n");
        let (_root, machine) = Machine::fake(&[files.as_slice(), &[locks]].concat());
        let knfsd = Knfsd { machine, ..knfsd };
        for host in ["odd.lab", "gone.lab"] {
            let told = knfsd.release(host).await.unwrap();
            assert_eq!((told.freed.len(), told.left), (0, true), "{host}");
            assert!(told.note.as_deref().is_some_and(|note| note.contains("--export")), "{host}: {:?}", told.note);
        }
    }

    fn lock(start: u64, end: u64) -> Lock {
        Lock { file: "00:1a:2".into(), exclusive: true, start, end }
    }

    fn freed_and_served(lock: &Lock) -> ClientReleased {
        ClientReleased { freed: vec![lock.clone()], offered: 1, ..ClientReleased::default() }
    }

    fn seen(held: &[Lock], waiting: &[Lock]) -> (Snapshot, Vec<Lock>) {
        (Snapshot { locks: held.to_vec(), ..Snapshot::default() }, waiting.to_vec())
    }

    #[test]
    fn what_is_gone_was_freed_and_a_blocked_request_that_is_held_now_got_it() {
        let before = seen(&[lock(0, 9), lock(50, 59)], &[lock(0, 99), lock(50, 59)]);
        let now = seen(&[lock(50, 59), lock(0, 99)], &[lock(50, 59)]);
        assert_eq!(what_went(&before, &now), freed_and_served(&lock(0, 9)));
    }

    #[test]
    fn an_equal_lock_in_the_place_of_a_blocked_request_is_not_the_old_one() {
        let before = seen(&[lock(0, 9), lock(50, 59)], &[lock(0, 9)]);
        let went = what_went(&before, &seen(&[lock(0, 9), lock(50, 59)], &[]));
        assert_eq!(went, freed_and_served(&lock(0, 9)));
    }

    #[test]
    fn what_was_not_seen_for_sure_before_or_now_is_not_called_freed() {
        let all = seen(&[lock(0, 9), lock(50, 59)], &[]);
        let mut doubted = all.clone();
        doubted.0.unsure = vec![lock(0, 9)];
        assert_eq!(what_went(&doubted, &seen(&[], &[])).freed, [lock(50, 59)]);
        let mut now = seen(&[lock(0, 9)], &[]);
        now.0.unsure = vec![lock(0, 9)];
        assert_eq!(what_went(&all, &now), ClientReleased { left: true, ..ClientReleased::default() });
    }

    #[test]
    fn where_nothing_has_changed_nothing_went() {
        let all = seen(&[lock(0, 9)], &[lock(0, 9)]);
        assert_eq!(what_went(&all, &all), ClientReleased { left: true, ..ClientReleased::default() });
    }

    #[test]
    fn the_state_number_is_odd_and_another_one_each_time() {
        for own in [0, 1, -1, 7, i32::MAX].map(NsmState) {
            let (first, second) = (unheard(own), unheard(own));
            assert!(first.is_up() && second.is_up() && first != own && first != second);
        }
    }
}
