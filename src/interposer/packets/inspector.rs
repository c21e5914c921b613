//! Reads, judges, reports and remembers every call and reply of TCP and UDP, and gives the verdicts.

use std::net::IpAddr;
use std::time::Duration;

use super::call::{self, Malformed, Message, Path, ReplyBody};
use super::packet::Verdict;
use super::reply::{Calls, MAX_CALLS, Outgoing};
use super::treatment::{Edit, Treatment};
use crate::interposer::messages::{Blind, Call, FilterEvent, Mode, Reply};
use crate::wire::types::Address;
use crate::wire::xdr::Text;

/// Most bytes of packets that wait for their verdicts, in all.
const MAX_HELD: usize = 16 << 20;
/// Most calls that are remembered in all: some 64 MiB. Then each connection forgets its oldest for a new one.
const MAX_REMEMBERED: usize = 1 << 20;

/// Why a client that uses the asynchronous procedures (XNFS, chapter 10) cannot be followed.
pub(super) const UNSEEN: &str = "it uses LOCK_MSG, UNLOCK_MSG or CANCEL_MSG, whose answers are not seen here";

/// What all connections share.
#[derive(Debug)]
pub(super) struct Inspector {
    pub(super) treatment: Treatment,
    /// When the packet came that is being looked at.
    pub(super) now: Duration,
    pub(super) told: Vec<FilterEvent>,
    pub(super) verdicts: Vec<(u32, Verdict)>,
    /// The number of the last call that was told.
    calls: u64,
    held: usize,
    remembered: usize,
}

/// A call that was read and told.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) edits: Vec<Edit>,
    /// It was nlmctl's own.
    pub(super) own: bool,
}

impl Inspector {
    pub(super) fn new(treatment: Treatment) -> Self {
        Self {
            treatment,
            now: Duration::ZERO,
            told: Vec::new(),
            verdicts: Vec::new(),
            calls: 0,
            held: 0,
            remembered: 0,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.treatment.mode == Mode::Off
    }

    /// A message on its way to lockd is read; told and remembered if it is a call.
    ///
    /// # Errors
    /// It must not pass. While the filter is off all passes.
    pub(super) fn call(&mut self, path: &Path, calls: &mut Calls, message: &[u8]) -> Result<Judged, Malformed> {
        let mut judged = Judged { edits: Vec::new(), own: false };
        match call::read(message, path) {
            Ok(Message::NoCall) => {}
            Ok(Message::Untold(untold)) => {
                judged.own = untold.own;
                self.remember(calls, untold.xid, None);
            }
            Ok(Message::Told(call)) => {
                let (treated, edits) = self.treatment.of(&call);
                judged.edits = edits;
                self.treatment.passes(&call.request);
                let call::Call { xid, way, caller, request, answer, .. } = *call;
                let Some(answer) = answer else {
                    self.remember(calls, xid, None);
                    self.blind(path.client, UNSEEN);
                    return Ok(judged);
                };
                self.calls += 1;
                self.remember(calls, xid, Some((self.calls, answer)));
                self.told.push(FilterEvent::Call(Call { number: self.calls, way, caller, request, treated }));
            }
            Err(Malformed) if self.is_off() => self.blind(path.client, "a call that cannot be read passed"),
            Err(Malformed) => return Err(Malformed),
        }
        Ok(judged)
    }

    fn remember(&mut self, calls: &mut Calls, xid: u32, told: Option<(u64, ReplyBody)>) {
        let before = calls.count();
        let most = if self.remembered < MAX_REMEMBERED { MAX_CALLS } else { before.max(1) };
        calls.remember(xid, told, most);
        self.remembered = (self.remembered + calls.count()).saturating_sub(before);
    }

    /// The calls of a connection are forgotten with it.
    pub(super) fn forget(&mut self, calls: &Calls) {
        self.remembered = self.remembered.saturating_sub(calls.count());
    }

    /// A message on its way to a client is read, and told if it answers a call that was.
    pub(super) fn reply(&mut self, client: IpAddr, calls: &Calls, message: &[u8]) {
        match calls.hear(message) {
            Outgoing::Answer(call, stat) => self.told.push(FilterEvent::Reply(Reply { call, stat })),
            Outgoing::Nothing => {}
            Outgoing::Unknown => self.told.push(FilterEvent::StrayReply(Address(client))),
        }
    }

    pub(super) fn blind(&mut self, client: IpAddr, why: &str) {
        self.told.push(FilterEvent::Blind(Blind { client: Address(client), why: Text::clipped(why) }));
    }

    pub(super) fn pass(&mut self, id: u32) {
        self.verdicts.push((id, Verdict::Pass));
    }
    pub(super) fn change(&mut self, id: u32, bytes: Vec<u8>) {
        self.verdicts.push((id, Verdict::Changed(bytes)));
    }
    pub(super) fn drop(&mut self, id: u32) {
        self.verdicts.push((id, Verdict::Drop));
    }

    /// Whether so many bytes may wait too.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.held + bytes <= MAX_HELD
    }
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}
