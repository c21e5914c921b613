//! NLM: from bytes to the lock table and back, every version as version 4.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::answers::Answers;
use super::dispatch::{self, Form};
use super::gate::Gate;
use super::table::{Incoming, Table};
use crate::locks::{Call, Holder, Process, Verdict, Via, Wanted};
use crate::rpc::server::{Origin, Peer, Service};
use crate::wire::nlm::{
    self, CancArgs, Lock, LockArgs, Message, NotDenied, NotifyArgs, Procedure, Res, ShareArgs, ShareRes, SmNotifyArgs,
    Stat, TestArgs, TestReply, TestRes, UnlockArgs, Version,
};
use crate::wire::rpc::{self, Answer, Credential, IncomingCall, IncomingReply};
use crate::wire::types::{CallerName, Cookie, NsmState};
use crate::wire::xdr::DecodeError;

#[derive(Debug)]
pub struct NlmService {
    pub table: Table,
    /// Answers of asynchronous procedures.
    pub answers: Answers,
    /// Who may call at all.
    pub gate: Arc<Gate>,
}

struct Decoded {
    name: CallerName,
    ask: Ask,
    form: Results,
}

enum Ask {
    Table(Call),
    /// The answer is known without it.
    Known(Stat),
    /// This host's statd tells of a reboot.
    Statd {
        state: NsmState,
        cookie: [u8; 16],
    },
}

impl Ask {
    /// FBIG where the range ends beyond 64 bits.
    fn of(call: Option<Call>) -> Self {
        call.map_or(Self::Known(Stat::Fbig), Self::Table)
    }
}

/// What its results look like.
enum Results {
    Test(Cookie),
    Res(Cookie),
    Share(Cookie),
    Void,
}

#[async_trait]
impl Service for NlmService {
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let caller = self.gate.admit(origin)?;
        let IncomingCall { program, version, procedure, ref credential, args, .. } = *call;
        if program != nlm::PROGRAM {
            return Some(Answer::ProgUnavail);
        }
        let Some(nlm_version) = Version::from_number(version) else {
            return Some(Answer::ProgMismatch { low: Version::V1.number(), high: Version::V4.number() });
        };
        let Some(row) = dispatch::nlm(nlm_version, procedure) else { return Some(Answer::ProcUnavail) };
        if let Err(refused) = row.access.check(caller, row.guarded, self.gate.rules) {
            return Some(refused.into());
        }
        let peer = caller.ip();
        if row.procedure == Procedure::Null {
            return Some(Answer::Success(Vec::new()));
        }
        let Ok(decoded) = decode(row.procedure, nlm_version, args) else { return Some(Answer::GarbageArgs) };
        let via = via(origin, version);
        let results = self.execute(peer, via, credential, nlm_version, decoded).await?;
        match row.form {
            Form::Reply => Some(Answer::Success(results)),
            Form::OneWay(answer) => {
                self.answers.send(peer, via, answer, results);
                Some(Answer::Success(Vec::new()))
            }
        }
    }

    fn admits(&self, peer: &Peer) -> bool {
        self.gate.hears(peer)
    }

    fn is_idempotent(&self, call: &IncomingCall<'_>) -> bool {
        // One number in all versions.
        let idempotent = [Procedure::Null, Procedure::Test].map(Procedure::number);
        call.program == nlm::PROGRAM && idempotent.contains(&call.procedure)
    }

    /// A lock that was released or dropped meanwhile may be another's by now.
    fn is_still_true(&self, origin: &Origin, call: &IncomingCall<'_>, reply: &[u8]) -> bool {
        let IncomingCall { program, version, procedure, args, .. } = *call;
        let (nlm::PROGRAM, Some(nlm_version)) = (program, Version::from_number(version)) else { return true };
        let Some(row) = dispatch::nlm(nlm_version, procedure) else { return true };
        if !is_grant(row.procedure, nlm_version, reply) {
            return true;
        }
        let Ok(Decoded { name, ask: Ask::Table(call), .. }) = decode(row.procedure, nlm_version, args) else {
            return true;
        };
        let Some(caller) = self.gate.admit(origin) else { return false };
        self.table.may_still_have(caller.ip(), &name, via(origin, version), &call)
    }
}

fn via(origin: &Origin, version: u32) -> Via {
    Via { server_address: origin.local_ip.to_canonical(), transport: origin.transport, version }
}

/// Whether the reply, as it was sent, says that a lock or a share was granted.
fn is_grant(procedure: Procedure, version: Version, reply: &[u8]) -> bool {
    let Ok(IncomingReply { outcome: Ok(results), .. }) = rpc::parse_reply(reply) else { return false };
    let stat = match procedure {
        Procedure::Lock | Procedure::NmLock => Res::decode(version, results).map(|res| res.stat),
        Procedure::Share => ShareRes::decode(version, results).map(|res| res.stat),
        _ => return false,
    };
    stat.is_ok_and(|stat| stat == Stat::Granted)
}

impl NlmService {
    async fn execute(
        &self,
        address: IpAddr,
        via: Via,
        credential: &Credential,
        version: Version,
        decoded: Decoded,
    ) -> Option<Vec<u8>> {
        let Decoded { name, ask, form } = decoded;
        let outcome = match ask {
            Ask::Table(call) => {
                let credential = credential.clone();
                Outcome::of(self.table.call(Incoming { address, name, via, credential, call }).await?)
            }
            Ask::Known(stat) => Outcome::Stat(stat),
            Ask::Statd { state, cookie } => {
                let outcome = self.table.statd_calls(name.clone(), state, cookie).await?;
                super::nsm_service::log_reboot(&name, address, state, outcome)?;
                // Always the same answer: void.
                Outcome::Stat(Stat::Granted)
            }
        };
        encode(form, version, &outcome)
    }
}

fn decode(procedure: Procedure, version: Version, args: &[u8]) -> Result<Decoded, DecodeError> {
    Ok(match procedure {
        Procedure::Test | Procedure::TestMsg => {
            let TestArgs { cookie, exclusive, alock } = Message::decode(version, args)?;
            let ask = Ask::of(wanted(&alock, exclusive).map(Call::Test));
            Decoded { name: alock.caller_name, ask, form: Results::Test(cookie) }
        }
        Procedure::Lock | Procedure::LockMsg | Procedure::NmLock => {
            let LockArgs { cookie, block, exclusive, alock, reclaim, state } = Message::decode(version, args)?;
            let monitored = procedure != Procedure::NmLock;
            let state = if monitored { state } else { NsmState::default() };
            let call = wanted(&alock, exclusive).map(|wanted| Call::Lock {
                wanted,
                block,
                reclaim,
                monitored,
                state,
                cookie: cookie.clone(),
            });
            Decoded { name: alock.caller_name, ask: Ask::of(call), form: Results::Res(cookie) }
        }
        Procedure::Cancel | Procedure::CancelMsg => {
            let CancArgs { cookie, block: _, exclusive, alock } = Message::decode(version, args)?;
            let ask = Ask::of(wanted(&alock, exclusive).map(Call::Cancel));
            Decoded { name: alock.caller_name, ask, form: Results::Res(cookie) }
        }
        Procedure::Unlock | Procedure::UnlockMsg => {
            let UnlockArgs { cookie, alock } = Message::decode(version, args)?;
            let ask = Ask::of(wanted(&alock, false).map(Call::Unlock));
            Decoded { name: alock.caller_name, ask, form: Results::Res(cookie) }
        }
        // This server asked no host for a lock.
        Procedure::Granted | Procedure::GrantedMsg => {
            let TestArgs { cookie, alock, .. } = Message::decode(version, args)?;
            Decoded { name: alock.caller_name, ask: Ask::Known(Stat::Denied), form: Results::Res(cookie) }
        }
        Procedure::Share | Procedure::Unshare => return decode_share(procedure, version, args),
        Procedure::FreeAll => {
            let NotifyArgs { name, state: _ } = Message::decode(version, args)?;
            Decoded { name, ask: Ask::Table(Call::FreeAll), form: Results::Void }
        }
        Procedure::SmNotify => {
            let SmNotifyArgs { name, state, private } = Message::decode(version, args)?;
            Decoded { name, ask: Ask::Statd { state, cookie: private }, form: Results::Void }
        }
        // The dispatch table answered these before.
        Procedure::Null
        | Procedure::TestRes
        | Procedure::LockRes
        | Procedure::CancelRes
        | Procedure::UnlockRes
        | Procedure::GrantedRes => return Err(DecodeError::Trailing(args.len())),
    })
}

fn decode_share(procedure: Procedure, version: Version, args: &[u8]) -> Result<Decoded, DecodeError> {
    let ShareArgs { cookie, share, reclaim } = Message::decode(version, args)?;
    let (access, mode) = (share.access as u32, share.mode as u32);
    let call = if procedure == Procedure::Unshare {
        Call::Unshare { file: share.fh, oh: share.oh, access, mode }
    } else {
        Call::Share { file: share.fh, oh: share.oh, access, mode, reclaim }
    };
    Ok(Decoded { name: share.caller_name, ask: Ask::Table(call), form: Results::Share(cookie) })
}

fn wanted(lock: &Lock, exclusive: bool) -> Option<Wanted> {
    let process = Process { svid: lock.svid, oh: lock.oh.clone() };
    Some(Wanted { file: lock.fh.clone(), range: lock.range()?, len: lock.len, exclusive, process })
}

/// What to say, before it has a form.
enum Outcome {
    Stat(Stat),
    Holder(Holder),
}

impl Outcome {
    fn of(verdict: Verdict) -> Self {
        Self::Stat(match verdict {
            Verdict::Granted => Stat::Granted,
            Verdict::Denied => Stat::Denied,
            Verdict::Holder(holder) => return Self::Holder(holder),
            Verdict::NoLocks => Stat::DeniedNolocks,
            Verdict::Blocked => Stat::Blocked,
            Verdict::Grace => Stat::DeniedGracePeriod,
            Verdict::Deadlock => Stat::Deadlck,
            Verdict::Stale => Stat::StaleFh,
        })
    }
    fn stat(&self) -> Stat {
        match self {
            Self::Stat(stat) => *stat,
            Self::Holder(_) => Stat::Denied,
        }
    }
}

/// `None` cannot happen: what could be too wide for the old versions was clipped before.
fn encode(form: Results, version: Version, outcome: &Outcome) -> Option<Vec<u8>> {
    match form {
        Results::Void => Some(Vec::new()),
        Results::Res(cookie) => Res { cookie, stat: outcome.stat() }.encode(version).ok(),
        Results::Share(cookie) => ShareRes { cookie, stat: outcome.stat(), sequence: 0 }.encode(version).ok(),
        Results::Test(cookie) => {
            let reply = match outcome {
                Outcome::Holder(Holder { exclusive, process, range }) => {
                    let holder = nlm::Holder::new(*exclusive, process.svid, process.oh.clone(), *range);
                    TestReply::Denied(if version == Version::V4 { holder } else { holder.clipped() })
                }
                // A denial of TEST needs a holder; without one there is nothing true to say.
                Outcome::Stat(stat) => NotDenied::new(*stat).map_or(TestReply::FAILED, TestReply::Other),
            };
            TestRes { cookie, reply }.encode(version).ok()
        }
    }
}
