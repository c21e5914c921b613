//! NSM: nlmd is the status monitor of its own lock table, and of nothing else.

use std::sync::Arc;

use async_trait::async_trait;

use super::dispatch;
use super::gate::Gate;
use super::table::Table;
use crate::locks::Reboot;
use crate::rpc::server::{CallContext, Service};
use crate::wire::nsm::{self, MonArgs, MonId, MyId, NotifyArgs, Procedure, ResStat, SmName, Stat, StatRes};
use crate::wire::rpc::Answer;
use crate::wire::xdr::{Pack, Unpack, decode, encode};

/// The NSM service.
#[derive(Debug)]
pub struct NsmService {
    /// The lock table.
    pub table: Table,
    /// Who may call at all.
    pub gate: Arc<Gate>,
}

fn success(value: &impl Pack) -> Answer {
    Answer::Success(encode(value))
}

/// Whether the arguments are what they should be, and nothing more.
fn well_formed<T: Unpack>(args: &[u8]) -> bool {
    decode::<T>(args).is_ok()
}

#[async_trait]
impl Service for NsmService {
    async fn call(
        &self,
        cx: &CallContext,
        program: u32,
        version: u32,
        procedure: u32,
        args: Vec<u8>,
    ) -> Option<Answer> {
        let peer = self.gate.admit(cx)?;
        if program != nsm::PROGRAM {
            return Some(Answer::ProgUnavail);
        }
        if version != nsm::VERSION {
            return Some(Answer::ProgMismatch { low: nsm::VERSION, high: nsm::VERSION });
        }
        let Some(row) = dispatch::nsm(procedure) else { return Some(Answer::ProcUnavail) };
        if !row.access.admits(peer) {
            tracing::warn!(%peer, procedure = row.name, "refused");
            return Some(Answer::ProcUnavail);
        }
        match row.procedure {
            Procedure::Null => Some(Answer::Success(Vec::new())),
            Procedure::Stat => {
                if !well_formed::<SmName>(&args) {
                    return Some(Answer::GarbageArgs);
                }
                Some(success(&StatRes { res_stat: ResStat::Success, state: self.table.nsm_state() }))
            }
            Procedure::Mon => {
                let Ok(MonArgs { mon_id, .. }) = decode(&args) else { return Some(Answer::GarbageArgs) };
                // A promise to tell another program of that host's reboot, which nlmd does not keep.
                tracing::warn!(
                    host = %mon_id.mon_name, program = mon_id.my_id.my_prog,
                    "SM_MON is refused: nlmd monitors its own clients only; give that program a statd of its own"
                );
                Some(success(&StatRes { res_stat: ResStat::Fail, state: self.table.nsm_state() }))
            }
            Procedure::Unmon if !well_formed::<MonId>(&args) => Some(Answer::GarbageArgs),
            Procedure::UnmonAll if !well_formed::<MyId>(&args) => Some(Answer::GarbageArgs),
            // Nothing is monitored for others, so nothing is left to do.
            Procedure::Unmon | Procedure::UnmonAll => Some(success(&Stat { state: self.table.nsm_state() })),
            // Not reached: nobody is admitted. It must never do anything.
            Procedure::SimuCrash => Some(Answer::ProcUnavail),
            Procedure::Notify => {
                let Ok(NotifyArgs { mon_name, state }) = decode(&args) else { return Some(Answer::GarbageArgs) };
                match self.table.reboot(peer, mon_name.clone(), state).await? {
                    // The table's own timeline tells.
                    Reboot::Released(_) => {}
                    Reboot::Repeated => {
                        tracing::debug!(client = %mon_name, %peer, %state, "a reboot notice was repeated");
                    }
                    Reboot::Unknown => {
                        tracing::info!(name = %mon_name, %peer, %state, "a reboot notice matched no client; nothing is released");
                    }
                    Reboot::Wait => return None,
                }
                // The same answer whatever it did: void.
                Some(Answer::Success(Vec::new()))
            }
        }
    }

    fn is_idempotent(&self, program: u32, _version: u32, procedure: u32) -> bool {
        program == nsm::PROGRAM && [Procedure::Null as u32, Procedure::Stat as u32].contains(&procedure)
    }
}
