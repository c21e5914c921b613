//! The messages between keeper and filter: XDR in records (`wire/record.rs`) over a pair of Unix stream sockets.
//!
//! The filter writes a [`FilterEvent`] before it gives the verdict that lets the packet pass, so the account survives the filter: what
//! it wrote is in the socket when it dies.

pub use crate::manager::knfsd::owners::Way;
use crate::wire::nlm::Stat;
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid};
use crate::wire::xdr::{Text, XdrCodec};

/// A byte range of a file, for one process of a client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
pub struct Claim {
    /// How its client reaches lockd.
    pub way: Way,
    pub svid: Svid,
    pub file: FileHandle,
    pub range: ByteRange,
    pub exclusive: bool,
}

/// What the keeper wants of the filter. Orders are obeyed in their sequence.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub enum Order {
    /// How LOCK and SHARE are treated from here on. Before the first of these the filter takes no packet.
    #[xdr(0)]
    Mode(Mode),
    /// This lock is pending. Only [`Mode::Targeted`] asks.
    #[xdr(1)]
    Pending(Claim),
    /// This lock is not pending any more: an order of the same words came before.
    #[xdr(2)]
    NotPending(Claim),
    /// lockd has this request in its queue: when its client sends it again it passes unchanged.
    #[xdr(3)]
    Waiter(Claim),
    /// What comes from this address waits, up to a bound; beyond it packets are dropped, and their client sends them again.
    #[xdr(4)]
    Hold(Address),
    /// What waits of this address goes on.
    #[xdr(5)]
    LetGo(Address),
    /// Answer with [`FilterEvent::Obeyed`]: all orders before this one are obeyed, and what had arrived before it is told.
    #[xdr(6)]
    Answer(u64),
}

/// What is done with requests. An ordinary SHARE passes in each mode: outside grace lockd grants it whatever its `reclaim`
/// word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Mode {
    /// All pass unchanged.
    Off = 0,
    /// Ordinary requests are refused for grace, but those of waiters that lockd knows; reclaims are taken as ordinary ones.
    Strict = 1,
    /// Only ordinary requests that meet another owner's pending lock are refused; reclaims are taken as ordinary ones.
    Targeted = 2,
    /// After the run: none is refused; reclaims that come late are taken as ordinary ones.
    Drain = 3,
}

/// What the filter tells the keeper.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub enum FilterEvent {
    /// A call is about to pass.
    #[xdr(0)]
    Call(Call),
    /// The reply to it is about to pass.
    #[xdr(1)]
    Reply(Reply),
    /// Something of this client may have passed, or may have been answered, unseen.
    #[xdr(2)]
    Blind(Blind),
    /// lockd is in a grace period of its own, or is another one. All passes unchanged from here on.
    #[xdr(3)]
    Superseded(Text<256>),
    /// All orders before [`Order::Answer`] with this number are obeyed, and what had arrived before it was told.
    #[xdr(4)]
    Obeyed(u64),
    /// A reclaim of this held client, or what may be one, waits: told once while it is held.
    #[xdr(5)]
    Reclaims(Address),
    /// A reply to this client passed, and its call was not seen.
    #[xdr(6)]
    StrayReply(Address),
    /// Packets were lost before they came to the filter: clients repeat what was in them.
    #[xdr(7)]
    Lost,
}

/// A call on its way to lockd. A call that is sent again is told again.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Call {
    /// Joins it with its reply; not used again by this filter.
    pub number: u64,
    /// How it came.
    pub way: Way,
    /// What the client calls itself; empty where the call does not say.
    pub caller: CallerName,
    pub request: Request,
    /// What was done with it.
    pub treated: Treated,
}

/// What a call asks.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub enum Request {
    /// `LOCK` or `NM_LOCK`.
    #[xdr(0)]
    Lock(LockRequest),
    /// `UNLOCK`.
    #[xdr(1)]
    Unlock(Claim),
    /// `CANCEL`.
    #[xdr(2)]
    Cancel(Claim),
    /// `SHARE`.
    #[xdr(3)]
    Share(ShareRequest),
    /// `UNSHARE`.
    #[xdr(4)]
    Unshare(ShareRequest),
    /// `FREE_ALL`: the client has rebooted, with this state number.
    #[xdr(5)]
    FreeAll(NsmState),
}

impl Request {
    /// Whether it is a reclaim.
    pub fn is_reclaim(&self) -> bool {
        match self {
            Self::Lock(lock) => lock.reclaim,
            Self::Share(share) => share.reclaim,
            Self::Unlock(_) | Self::Cancel(_) | Self::Unshare(_) | Self::FreeAll(_) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockRequest {
    /// What is asked for.
    pub claim: Claim,
    /// The owner handle, which lockd does not look at.
    pub oh: OwnerHandle,
    /// As the client sent it.
    pub reclaim: bool,
    pub block: bool,
    /// False for `NM_LOCK`.
    pub monitored: bool,
    /// The client's state number.
    pub state: NsmState,
}

/// A SHARE or UNSHARE.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ShareRequest {
    pub file: FileHandle,
    /// For whom.
    pub oh: OwnerHandle,
    /// What it wants to do (XNFS, `fsh4_access`).
    pub access: u32,
    /// What it denies others (XNFS, `fsh4_mode`).
    pub mode: u32,
    /// As the client sent it; false in an UNSHARE.
    pub reclaim: bool,
}

/// What the filter did with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Treated {
    /// It passed unchanged.
    Passed = 0,
    /// An ordinary request passed as a reclaim: lockd refuses it for grace.
    Refused = 1,
    /// A reclaim passed as an ordinary request.
    Taken = 2,
}

/// lockd's answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct Reply {
    /// The call's number.
    pub call: u64,
    /// What lockd said. A reply that is no success of RPC is [`Stat::Failed`].
    pub stat: Stat,
}

/// Why a client's calls are not known in full.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Blind {
    pub client: Address,
    /// What happened, for people.
    pub why: Text<256>,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::types::Transport;
    use crate::wire::xdr::{decode, encode};

    #[test]
    fn every_kind_of_message_comes_back_as_it_was_sent() {
        let client = Address(Ipv4Addr::new(10, 0, 0, 11).into());
        let way = Way { client, server: client, version: 4, transport: Transport::Tcp };
        let file = FileHandle::new(&[1, 2, 3]).unwrap();
        let claim =
            Claim { way, svid: Svid(7), file: file.clone(), range: ByteRange { start: 1, end: 9 }, exclusive: true };
        let oh = OwnerHandle::new(b"7@c1").unwrap();
        let lock = LockRequest {
            claim: claim.clone(),
            oh: oh.clone(),
            reclaim: true,
            block: false,
            monitored: true,
            state: NsmState(3),
        };
        let share = ShareRequest { file, oh, access: 1, mode: 2, reclaim: false };
        let requests = [
            Request::Lock(lock),
            Request::Unlock(claim.clone()),
            Request::Cancel(claim.clone()),
            Request::Share(share.clone()),
            Request::Unshare(share),
            Request::FreeAll(NsmState(5)),
        ];
        let calls = requests.into_iter().map(|request| {
            let caller = CallerName::new("c1").unwrap();
            FilterEvent::Call(Call { number: 1, way, caller, request, treated: Treated::Taken })
        });
        let others = [
            FilterEvent::Reply(Reply { call: 1, stat: Stat::Granted }),
            FilterEvent::Blind(Blind { client, why: Text::clipped("a record that is none") }),
            FilterEvent::Superseded(Text::clipped("lockd is in grace")),
            FilterEvent::Obeyed(9),
            FilterEvent::Reclaims(client),
            FilterEvent::StrayReply(client),
            FilterEvent::Lost,
        ];
        for told in calls.chain(others) {
            assert_eq!(decode::<FilterEvent>(&encode(&told)).unwrap(), told);
        }
        let orders = [
            Order::Mode(Mode::Targeted),
            Order::Pending(claim.clone()),
            Order::NotPending(claim.clone()),
            Order::Waiter(claim),
            Order::Hold(client),
            Order::LetGo(client),
            Order::Answer(9),
        ];
        for order in orders {
            assert_eq!(decode::<Order>(&encode(&order)).unwrap(), order);
        }
    }
}
