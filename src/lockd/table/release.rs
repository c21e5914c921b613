//! A release inside the daemon: looked at in slices, compared beside, one instant, swept in slices.

use std::ops::ControlFlow;

use super::handle::Table;
use super::phase::Phase;
use super::state::Owner;
use crate::locks::{ComparedRelease, Release};
use crate::wire::control::{InstanceId, Refusal, RefusalCode, ReleaseArgs, Released};

impl Table {
    /// Frees chosen locks: all at one instant, or none. A caller that goes away before it has changed nothing; after it the
    /// owner goes on.
    pub(super) async fn free_chosen(&self, args: ReleaseArgs) -> Result<Released, Refusal> {
        let instance = args.instance;
        let mut release = Release::new(args);
        loop {
            let done;
            (release, done) = self
                .look(move |owner| {
                    let done = owner.may_release(instance).and_then(|()| owner.table.release_look(&mut release));
                    let _ = owner.apply_effects();
                    done.map(|done| (release, done))
                })
                .await??;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        let compared = tokio::task::spawn_blocking(move || release.compare()).await;
        let mut compared = compared.map_err(|_| Refusal::new(RefusalCode::WrongPhase, "nlmd is going down"))??;
        let released = loop {
            match self.look(move |owner| owner.release_now(instance, compared)).await?? {
                ControlFlow::Break(released) => break released,
                ControlFlow::Continue(again) => compared = again,
            }
            tokio::task::yield_now().await;
        };
        loop {
            if let Some(offered) = self.look(Owner::released).await? {
                return Ok(Released { offered, ..released });
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Owner {
    /// Refused if a run is under way or about to be: its state number is on the way to the disk, and it is to find
    /// what its plan saw.
    fn may_release(&self, instance: InstanceId) -> Result<(), Refusal> {
        if matches!(self.runs.phase, Phase::Beginning(_)) {
            return Err(Refusal::new(RefusalCode::RunActive, "a run is about to begin"));
        }
        if instance != self.instance {
            let words = format!("instance {instance} is not here any more, this is {}", self.instance);
            return Err(Refusal::new(RefusalCode::StalePlan, words));
        }
        Ok(())
    }

    /// The instant. Locks are not on disk, so there is nothing to wait for.
    fn release_now(
        &mut self,
        instance: InstanceId,
        release: ComparedRelease,
    ) -> Result<ControlFlow<Released, ComparedRelease>, Refusal> {
        self.may_release(instance)?;
        let released = self.table.release_now(release);
        let _ = self.apply_effects();
        released
    }

    fn released(&mut self) -> Option<u64> {
        let offered = self.table.released();
        let _ = self.apply_effects();
        offered
    }
}
