//! NSM: nlmd as this host's status monitor, for its own lock table and for other programs here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use super::dispatch;
use super::gate::Gate;
use super::monitors::Monitors;
use super::table::Table;
use crate::locks::Reboot;
use crate::rpc::server::{Origin, Peer, Service};
use crate::wire::nsm::{self, MonArgs, MonId, MyId, NotifyArgs, Procedure, ResStat, SmName, Stat, StatRes};
use crate::wire::rpc::{Answer, IncomingCall};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{Pack, decode, encode};

#[derive(Debug)]
pub struct NsmService {
    /// The lock table, for nlmd's own clients.
    pub table: Table,
    /// What programs of this host monitor.
    pub monitors: Monitors,
    /// Who may call at all.
    pub gate: Arc<Gate>,
}

fn success(value: &impl Pack) -> Answer {
    Answer::Success(encode(value))
}

/// Logs what a reboot notice did; `None` where it did nothing and shall come again.
pub(super) fn log_reboot(name: &CallerName, peer: IpAddr, state: NsmState, outcome: Reboot) -> Option<()> {
    match outcome {
        // The table's own timeline tells.
        Reboot::Released(_) => {}
        Reboot::Repeated => tracing::debug!(client = %name, %peer, %state, "a reboot notice was repeated"),
        Reboot::Unknown => {
            tracing::info!(%name, %peer, %state, "a reboot notice matched no client; nothing is released");
        }
        Reboot::Wait | Reboot::More => return None,
    }
    Some(())
}

impl NsmService {
    /// None where the caller shall ask again.
    async fn answer(&self, procedure: Procedure, caller: SocketAddr, args: &[u8]) -> Option<Answer> {
        match procedure {
            Procedure::Null => Some(Answer::Success(Vec::new())),
            Procedure::Stat => {
                if decode::<SmName>(args).is_err() {
                    return Some(Answer::GarbageArgs);
                }
                Some(success(&StatRes { res_stat: ResStat::Success, state: self.table.nsm_state() }))
            }
            Procedure::Mon => {
                let Ok(mon) = decode::<MonArgs>(args) else { return Some(Answer::GarbageArgs) };
                let monitored = self.monitors.mon(mon, dispatch::is_privileged(caller)).await?;
                let res_stat = if monitored { ResStat::Success } else { ResStat::Fail };
                Some(success(&StatRes { res_stat, state: self.table.nsm_state() }))
            }
            Procedure::Unmon => {
                let Ok(id) = decode::<MonId>(args) else { return Some(Answer::GarbageArgs) };
                self.monitors.unmon(id, dispatch::is_privileged(caller)).await?;
                Some(success(&Stat { state: self.table.nsm_state() }))
            }
            Procedure::UnmonAll => {
                let Ok(asker) = decode::<MyId>(args) else { return Some(Answer::GarbageArgs) };
                self.monitors.unmon_all(asker, dispatch::is_privileged(caller)).await?;
                Some(success(&Stat { state: self.table.nsm_state() }))
            }
            Procedure::SimuCrash => match self.monitors.crash().await? {
                Ok(()) => Some(Answer::Success(Vec::new())),
                Err(refusal) => {
                    tracing::warn!(%refusal, "SM_SIMU_CRASH was refused");
                    Some(Answer::SystemErr)
                }
            },
            Procedure::Notify => {
                let Ok(NotifyArgs { mon_name, state }) = decode(args) else { return Some(Answer::GarbageArgs) };
                let peer = caller.ip();
                let outcome = self.table.reboot(peer, mon_name.clone(), state).await?;
                log_reboot(&mon_name, peer, state, outcome)?;
                self.monitors.rebooted(peer, mon_name, state)?;
                // Always the same answer: void.
                Some(Answer::Success(Vec::new()))
            }
        }
    }
}

#[async_trait]
impl Service for NsmService {
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let caller = self.gate.admit(origin)?;
        let IncomingCall { program, version, procedure, args, .. } = *call;
        if program != nsm::PROGRAM {
            return Some(Answer::ProgUnavail);
        }
        if version != nsm::VERSION {
            return Some(Answer::ProgMismatch { low: nsm::VERSION, high: nsm::VERSION });
        }
        let Some(row) = dispatch::nsm(procedure) else { return Some(Answer::ProcUnavail) };
        if let Err(refused) = row.access.check(caller, row.guarded, self.gate.rules) {
            tracing::warn!(%caller, procedure = row.name, ?refused, "refused");
            return Some(refused.into());
        }
        self.answer(row.procedure, caller, args).await
    }

    fn admits(&self, peer: &Peer) -> bool {
        self.gate.hears(peer)
    }

    fn is_idempotent(&self, call: &IncomingCall<'_>) -> bool {
        call.program == nsm::PROGRAM && [Procedure::Null as u32, Procedure::Stat as u32].contains(&call.procedure)
    }
}
