//! A release inside the daemon: gathered in slices, compared beside, one instant, swept in slices.

use std::ops::ControlFlow;

use super::handle::Table;
use super::phase::Phase;
use super::phase::free_beside;
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
            let looked;
            (release, looked) = self
                .look(move |owner| {
                    let looked = owner.may_release(instance).and_then(|()| owner.table.release_look(&mut release));
                    (release, looked)
                })
                .await?;
            match looked {
                Ok(true) => break,
                Ok(false) => tokio::task::yield_now().await,
                Err(refusal) => {
                    free_beside(release);
                    return Err(refusal);
                }
            }
        }
        let compared = tokio::task::spawn_blocking(move || release.compare()).await;
        let mut compared = compared.map_err(|_| Refusal::new(RefusalCode::WrongPhase, "nlmd is stopping"))??;
        let (released, number) = loop {
            match self.look(move |owner| owner.release_now(instance, compared)).await?? {
                ControlFlow::Break(released) => break released,
                ControlFlow::Continue(again) => compared = again,
            }
            tokio::task::yield_now().await;
        };
        loop {
            if let Some(offered) = self.look(move |owner| owner.table.released(number)).await? {
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
        if instance != self.archive.instance {
            let words = format!("instance {instance} has ended, this is instance {}", self.archive.instance);
            return Err(Refusal::new(RefusalCode::StalePlan, words));
        }
        Ok(())
    }

    /// The instant. Locks are not on disk, so there is nothing to wait for.
    fn release_now(
        &mut self,
        instance: InstanceId,
        release: ComparedRelease,
    ) -> Result<ControlFlow<(Released, u64), ComparedRelease>, Refusal> {
        self.may_release(instance)?;
        let released = self.table.release_now(release);
        if matches!(released, Ok(ControlFlow::Break(_))) {
            self.took_away = Some(self.clock.now());
        }
        let _ = self.apply_effects();
        released
    }
}
