//! Samples with which tests begin: each test changes what it is about.

use super::{
    BeginArgs, ClientResult, ClientRow, Counts, Delivery, Fate, InstanceId, LockFate, LockKind, LockRow, LockState,
    Mode, Outcome, OwnerRow, Policy, Reaction, RunClient, RunId, RunResult, Scope, Silent, Unreachable,
};
use crate::wire::types::{ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use crate::wire::xdr::{List, Maybe, Text};

impl ClientRow {
    /// One that is monitored, holds a lock, and called one address of the server.
    pub(crate) fn sample(name: &str, address: &str) -> Self {
        let list = |address: &str| List::clipped(vec![address.parse().unwrap()]);
        Self {
            name: CallerName::new(name).unwrap(),
            addresses: list(address),
            server_addresses: list("192.0.2.1"),
            nsm_state: NsmState(3),
            monitored: true,
            shared_address: false,
            locks: 1,
            unmonitored: 0,
            waiters: 0,
            suspicions: List::default(),
        }
    }
}

impl LockRow {
    /// A write lock that a process of a monitored client holds.
    pub(crate) fn sample(svid: i32, start: u64, end: u64) -> Self {
        Self {
            file: FileHandle::new(b"f").unwrap(),
            kind: LockKind::Exclusive,
            range: ByteRange { start, end },
            state: LockState::Held,
            monitored: true,
            owner: OwnerRow {
                name: CallerName::new("c1").unwrap(),
                address: "192.0.2.9".parse().unwrap(),
                server_address: "192.0.2.1".parse().unwrap(),
                transport: Transport::Tcp,
                version: 4,
                svid: Svid(svid),
                oh: OwnerHandle::new(b"o").unwrap(),
            },
        }
    }
}

impl LockFate {
    /// What became of all of a lock, in time.
    pub(crate) fn sample(lock: LockRow, fate: Fate) -> Self {
        let LockRow { file, kind, range, owner, .. } = lock;
        let (other, other_range) = (Maybe(None), Maybe(None));
        Self { fate, file, kind, range, partial: false, late: false, owner, other, other_range }
    }
}

impl RunClient {
    /// One that has a lock in scope and called no known address of the server.
    pub(crate) fn sample(index: u32) -> Self {
        Self {
            index,
            name: CallerName::new("client").unwrap(),
            addresses: List::clipped(vec!["127.0.0.2".parse().unwrap()]),
            server_addresses: List::default(),
            nsm_state: NsmState(3),
            locks: 1,
            shared_address: false,
            suspect: false,
        }
    }
}

impl ClientResult {
    /// One that acked and reclaimed, and of which nothing is counted.
    pub(crate) fn sample(client: u32) -> Self {
        Self {
            client,
            name: CallerName::new("client").unwrap(),
            address: "127.0.0.2".parse().unwrap(),
            delivery: Delivery::Acked,
            suspect: false,
            reaction: Reaction::Understood,
            counts: Counts::default(),
            paths: List::default(),
        }
    }
}

impl RunResult {
    /// One that has settled over nothing.
    pub(crate) fn sample(run: RunId) -> Self {
        Self {
            run,
            outcome: Outcome::Settled,
            reason: Text::clipped("deadline"),
            alone: false,
            not_understood: false,
            mode: Mode::Strict,
            old_state: NsmState(3),
            new_state: NsmState(5),
            began_unix_ms: 1,
            ended_unix_ms: 2,
            counts: Counts::default(),
            late: 0,
        }
    }
}

impl BeginArgs {
    /// A strict run over everything, with the policy that is the default.
    pub(crate) fn sample(run: RunId) -> Self {
        Self {
            run,
            instance: InstanceId([1; 16]),
            nsm_state: NsmState(3),
            scope: Scope::default(),
            mode: Mode::Strict,
            policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false },
            may_drop: List::default(),
            grace_ms: 60_000,
            grace_max_ms: 120_000,
        }
    }
}
