//! One simulated host: what it believes, and how it is told to behave.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::nlm;
use crate::wire::types::{ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid};
use crate::wire::xdr::TooLong;

/// A client's number in its farm: the order in which it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNo(pub usize);

/// A byte-range lock as the client names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    pub file: FileHandle,
    pub range: ByteRange,
    /// Write lock or read lock.
    pub exclusive: bool,
    /// The process that holds it. Its owner handle is made of this and the host's name, as Linux does.
    pub svid: Svid,
}

/// How a client acts on what reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Whether its rpcbind, statd and lockd answer at all. A dead host's do not.
    pub answers: bool,
    /// Whether its rpcbind knows a statd.
    pub has_statd: bool,
    /// Whether its statd answers SM_NOTIFY (it hears it either way).
    pub acks: bool,
    /// After so many answers to SM_NOTIFY it gives no more.
    pub acks_at_most: u32,
    /// How long after a notice it answers.
    pub ack_after: Duration,
    /// Whether a notice makes it reclaim what it believes it holds.
    pub reclaims: bool,
    /// How long after a notice it begins to reclaim.
    pub reclaim_after: Duration,
    /// What its lockd says to GRANTED for a lock that it waits for.
    pub takes_grants: bool,
}

impl Default for Behaviour {
    /// A Linux client in good health.
    fn default() -> Self {
        Self {
            answers: true,
            has_statd: true,
            acks: true,
            acks_at_most: u32::MAX,
            ack_after: Duration::ZERO,
            reclaims: true,
            reclaim_after: Duration::ZERO,
            takes_grants: true,
        }
    }
}

impl Behaviour {
    /// A host that is gone: nothing on it answers.
    pub fn dead() -> Self {
        Self { answers: false, acks: false, reclaims: false, ..Self::default() }
    }
    /// A host that answers its notices and reclaims nothing.
    pub fn silent() -> Self {
        Self { reclaims: false, ..Self::default() }
    }
    /// A host that hears notices, never answers one, and reclaims nothing.
    pub fn deaf() -> Self {
        Self { acks: false, reclaims: false, ..Self::default() }
    }
}

/// A notice that reached a simulated statd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// To whom it came.
    pub client: ClientNo,
    /// The host whose restart it announces.
    pub name: CallerName,
    /// The state number it carries.
    pub state: NsmState,
    /// The address it came from.
    pub source: Ipv4Addr,
    /// Whether the client answered it.
    pub acked: bool,
}

/// What a reclaim was answered with, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaims {
    pub granted: u64,
    /// Refused, for any reason.
    pub refused: u64,
    /// Never answered.
    pub unanswered: u64,
}

/// A host's state. Owned by its farm.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: CallerName,
    pub(super) address: Ipv4Addr,
    pub(super) state: NsmState,
    pub(super) behaviour: Behaviour,
    /// How many notices it has answered.
    pub(super) acks: u32,
    /// What its processes think they hold.
    pub(super) holds: Vec<Lock>,
    /// What its processes sleep for.
    pub(super) waits: Vec<Lock>,
    /// The last state number it was told of the server: the same one again is ignored, as on Linux.
    pub(super) server_state: Option<NsmState>,
    pub(super) reclaims: Reclaims,
    /// A reclaim pass is queued or under way.
    pub(super) reclaiming: bool,
    /// A newer notice came meanwhile: another pass follows.
    pub(super) again: bool,
}

impl Client {
    pub(super) fn new(address: Ipv4Addr, name: CallerName) -> Self {
        Self {
            name,
            address,
            state: NsmState(FIRST_STATE),
            behaviour: Behaviour::default(),
            acks: 0,
            holds: Vec::new(),
            waits: Vec::new(),
            server_state: None,
            reclaims: Reclaims::default(),
            reclaiming: false,
            again: false,
        }
    }

    /// Takes a lock into what it believes. The same process' lock on the same bytes is replaced.
    pub(super) fn believe(&mut self, lock: Lock) {
        self.forget(&lock);
        self.holds.push(lock);
    }

    /// Its process no longer thinks it holds these bytes (exactly these).
    pub(super) fn forget(&mut self, lock: &Lock) {
        self.holds.retain(|held| !held.same_bytes(lock));
    }

    /// GRANTED came in: whether it is for a lock that is waited for (or held already: the grant was
    /// repeated). Linux wants the exact range and process.
    pub(super) fn take_grant(&mut self, granted: &nlm::TestArgs) -> bool {
        let is_it = |lock: &Lock| {
            Some(lock.range) == granted.alock.range()
                && lock.file == granted.alock.fh
                && lock.svid == granted.alock.svid
                && lock.exclusive == granted.exclusive
        };
        if let Some(at) = self.waits.iter().position(is_it) {
            let lock = self.waits.swap_remove(at);
            self.believe(lock);
            return true;
        }
        self.holds.iter().any(is_it)
    }

    /// A notice about its server came in; true when a reclaim pass is to be queued.
    pub(super) fn told(&mut self, state: NsmState) -> bool {
        if self.server_state == Some(state) {
            return false;
        }
        self.server_state = Some(state);
        if !self.behaviour.reclaims {
            return false;
        }
        self.again = self.reclaiming;
        !std::mem::replace(&mut self.reclaiming, true)
    }
}

/// What a Linux host's first state number is.
const FIRST_STATE: i32 = 3;

impl Lock {
    /// The owner handle that `host` sends with it: process and host name (`svid@name`), as Linux does.
    ///
    /// # Errors
    /// Together they are longer than NLM allows.
    pub fn owner(&self, host: &CallerName) -> Result<OwnerHandle, TooLong> {
        OwnerHandle::new(format!("{}@{host}", self.svid).as_bytes())
    }

    fn same_bytes(&self, other: &Self) -> bool {
        self.file == other.file && self.range == other.range && self.svid == other.svid
    }
}
