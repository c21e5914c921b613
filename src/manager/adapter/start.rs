//! The beginning of a run: what must hold before, the snapshot, and the step that cannot be undone.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Adapter;
use super::backend::{Backend, refused};
use super::compare::compare;
use super::record::{Began, Coded, Phase, RunRecord};
use super::run_files::RunFiles;
use crate::host::unix_ms;
use crate::manager::{ManagerError, Weight};
use crate::units::number;
use crate::wire::control::{BeginArgs, Begun, ClientRow, Mode, RefusalCode, RunClient, Silent};
use crate::wire::types::{CallerName, ms};
use crate::wire::xdr::List;

impl<B: Backend> Adapter<B> {
    /// What is in the way of a run, beyond what the operator was told.
    async fn refuse_what_was_not_said(&self) -> Result<(), ManagerError> {
        let cautions = self.backend.cautions().await?;
        let told = self.state().told.clone();
        for caution in cautions {
            match caution.weight {
                Weight::Say => {}
                Weight::Consent if told.contains(&caution.about) => {}
                Weight::Consent => {
                    return refused(RefusalCode::StalePlan, format!("since the plan was made: {}", caution.text));
                }
                Weight::Refuse => {
                    return refused(RefusalCode::Unsupported, format!("{}; {}", caution.text, caution.remedy));
                }
            }
        }
        Ok(())
    }

    /// Clients to notify: those known, and those that the run before dropped and did not tell.
    pub(super) fn to_notify(rows: Vec<ClientRow>, owed: &[RunClient]) -> Vec<RunClient> {
        let mut clients: Vec<RunClient> = rows
            .into_iter()
            .map(|row| RunClient {
                index: 0,
                name: row.name,
                addresses: row.addresses,
                server_addresses: row.server_addresses,
                nsm_state: row.nsm_state,
                locks: 0,
                shared_address: row.shared_address,
                suspect: !row.suspicions.as_slice().is_empty(),
            })
            .collect();
        let mut known: HashSet<CallerName> = clients.iter().map(|client| client.name.clone()).collect();
        clients.extend(owed.iter().filter(|client| known.insert(client.name.clone())).cloned());
        (0..).zip(&mut clients).for_each(|(index, client)| client.index = index);
        clients
    }

    /// Clients whose locks were dropped and that no run notified since. Each run passes them on.
    pub(super) async fn owed(&self) -> Result<Vec<RunClient>, ManagerError> {
        let runs = self.with_run_files(RunFiles::runs).await?;
        Ok(runs.last().filter(|run| !run.is_active()).map(RunRecord::owed).unwrap_or_default())
    }

    /// A new run, up to the point where the locks may be dropped, durable.
    pub(super) async fn prepare(&self, args: &BeginArgs) -> Result<RunRecord, ManagerError> {
        if args.mode != Mode::Strict || !args.scope.is_everything() {
            let kind = self.backend.kind();
            return refused(RefusalCode::Unsupported, format!("{kind} can only resync everything, in strict grace"));
        }
        if self.backend.in_grace().await? {
            return refused(RefusalCode::GraceActive, "a grace period is active: clients are reclaiming already");
        }
        let identity = self.backend.identity().await?;
        let instance = self.instance(&identity.life, None).await?;
        let old_state = self.backend.nsm_state().await?;
        if args.instance != instance || args.nsm_state != old_state {
            return refused(RefusalCode::StalePlan, "the lock manager or its NSM state is not what the plan saw");
        }
        self.refuse_what_was_not_said().await?;
        let soft = !self.backend.capabilities().begin_releases;
        if !soft && args.policy.silent == Silent::Keep {
            return refused(
                RefusalCode::Unsupported,
                "every lock is dropped when the run begins: those of silent clients cannot be kept",
            );
        }
        let owed = self.owed().await?;
        let clients = Self::to_notify(self.backend.clients().await?, &owed);
        let before = self.backend.sight().await?;
        let number = self.with_run_files(RunFiles::next_number).await?;
        Ok(RunRecord {
            begin: Coded(args.clone()),
            number,
            phase: Phase::Beginning,
            instance: Coded(instance),
            life: identity.life,
            old_state: Coded(old_state),
            new_state: Coded(old_state.next_up()),
            began_unix_ms: unix_ms(),
            began: Some(Began::now()),
            grace_ms: 0,
            extended_ms: 0,
            before: Arc::new(before),
            deliveries: Vec::new(),
            clients: Arc::new(Coded(List::clipped(clients))),
            notices_begun: false,
            result: None,
            acknowledged: false,
            soft,
            may_have_dropped: false,
            spared: BTreeSet::new(),
            owed: owed.into_iter().map(|client| client.name.to_string()).collect(),
        })
    }

    /// From the last snapshot to confirmed grace. Goes on when its caller does not wait any more: it must
    /// not stop half-way.
    pub(super) async fn drop_all(self, run: RunRecord) -> Result<Arc<RunRecord>, ManagerError> {
        let begun = self.drop_and_see(run).await;
        if begun.is_err() {
            // How far it came is for the next call to find out, as after another process.
            let mut state = self.state();
            state.run = None;
            state.driving = None;
        }
        begun
    }

    async fn drop_and_see(&self, run: RunRecord) -> Result<Arc<RunRecord>, ManagerError> {
        let run = self.keep(run).await?;
        self.backend.raise_state(run.new_state.0).await?;
        let run = match self.backend.enter_grace().await {
            Ok(false) => run,
            Ok(true) => {
                let clients = Self::to_notify(self.backend.clients().await?, run.clients());
                let before = Arc::new(self.backend.sight().await?);
                let clients = Arc::new(Coded(List::clipped(clients)));
                self.keep(RunRecord { before, clients, ..(*run).clone() }).await?
            }
            Err(error) => return self.not_begun(&run, error).await,
        };
        let wanted = Duration::from_millis(run.begin.0.grace_max_ms);
        let dropped = match self.backend.begin(wanted).await {
            Ok(dropped) => dropped,
            Err(error) => return self.not_begun(&run, error).await,
        };
        let before = dropped.before.map_or_else(|| Arc::clone(&run.before), Arc::new);
        let life = self.backend.identity().await?.life;
        // A host that became a client between the first list and the drop has lost its locks too.
        let clients = Self::to_notify(self.backend.clients().await?, run.clients());
        let spared = if run.soft { BTreeSet::new() } else { compare(&before, &self.backend.sight().await?).held() };
        let begun = RunRecord {
            before,
            spared,
            phase: Phase::Grace,
            life,
            grace_ms: ms(dropped.grace),
            deliveries: RunRecord::untold(clients.len()),
            clients: Arc::new(Coded(List::clipped(clients))),
            ..(*run).clone()
        };
        let run = self.keep(begun).await?;
        self.backend.recorded().await?;
        let mut state = self.state();
        state.view.start(&run);
        let what = if run.soft { "held" } else { "dropped" };
        let (spared, all) = (run.spared.len() as u64, run.before.locks.len() as u64);
        let locks = all.saturating_sub(spared);
        state.view.event("begin", format!("{} {what} and grace began", number(locks, "lock was", "locks were")));
        if spared > 0 {
            let words = number(spared, "lock was not dropped: it stays held", "locks were not dropped: they stay held");
            state.view.event("begin", words);
        }
        let unsure = run.before.unsure.len();
        if unsure > 0 {
            let why = "other locks came and went while they were listed, so they count as unverified if they are not \
                       held again";
            state.view.event("begin", format!("{unsure} of the locks may not have been held: {why}"));
        }
        dropped.notes.into_iter().for_each(|note| state.view.event("begin", note));
        drop(state);
        Ok(run)
    }

    /// A run that was refused has touched no lock.
    async fn not_begun(&self, run: &RunRecord, error: ManagerError) -> Result<Arc<RunRecord>, ManagerError> {
        if let ManagerError::Refused(_) = &error {
            let id = run.id();
            self.with_run_files(move |run_files| run_files.forget(id)).await?;
        }
        Err(error)
    }

    pub(super) fn begun(run: &RunRecord, names: Vec<CallerName>) -> Begun {
        Begun {
            run: run.id(),
            old_state: run.old_state.0,
            new_state: run.new_state.0,
            in_scope: run.before.locks.len() as u64,
            unmonitored: 0,
            clients: u32::try_from(run.clients().len()).unwrap_or(u32::MAX),
            names: List::clipped(names),
        }
    }
}
