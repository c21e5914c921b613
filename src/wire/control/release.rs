//! RELEASE: freeing chosen locks, with what the caller saw of them.

use sha2::{Digest, Sha256};

use super::ids::InstanceId;
use super::listing::{LockRow, LockState};
use super::pages::PAGE;
use crate::wire::types::{Address, CallerName};
use crate::wire::xdr::{List, XdrCodec, encode};

/// Most locks chosen one by one in one call.
pub const RELEASE: usize = 4096;

/// What tells two sets of locks apart, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
pub struct LockDigest(pub [u8; 32]);

impl LockDigest {
    /// Of a client's rows as LOCKS lists them, blocked requests among them.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a LockRow>) -> Self {
        let mut encoded: Vec<Vec<u8>> = rows.into_iter().map(encode).collect();
        encoded.sort_unstable();
        let mut hash = Sha256::new();
        hash.update((encoded.len() as u64).to_be_bytes());
        // XDR of a row is self-delimiting, so the sequence is unambiguous.
        for row in &encoded {
            hash.update(row);
        }
        Self(hash.finalize().into())
    }
}

/// All that one client has, and what the caller saw of it.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientSeen {
    /// Its `caller_name`, exactly.
    pub name: CallerName,
    /// One of its addresses.
    pub address: Address,
    /// Its rows that are no blocked requests.
    pub locks: u64,
    /// Its blocked requests.
    pub waiters: u64,
    /// Of all of them.
    pub digest: LockDigest,
}

impl ClientSeen {
    /// From a client's rows.
    pub fn new(name: CallerName, address: Address, rows: &[LockRow]) -> Self {
        let waiters = rows.iter().filter(|row| row.state == LockState::Waiting).count();
        Self {
            name,
            address,
            locks: (rows.len() - waiters) as u64,
            waiters: waiters as u64,
            digest: LockDigest::of(rows),
        }
    }
}

/// Frees what is chosen, all or nothing; refused if it is not there as the caller saw it.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ReleaseArgs {
    /// The manager's instance that the caller saw.
    pub instance: InstanceId,
    /// Whole clients: locks and blocked requests.
    pub clients: List<ClientSeen, PAGE>,
    /// Single locks or blocked requests, as LOCKS lists them.
    pub locks: List<LockRow, RELEASE>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, XdrCodec)]
pub struct Released {
    /// Locks and shares that are free now.
    pub locks: u64,
    /// Blocked requests that went with them.
    pub waiters: u64,
    /// Blocked requests that were served on these files until all of it was free.
    pub offered: u64,
    /// Locks that were chosen and are still there: only where it is not one step. A manager that does
    /// not know owners counts the clients that may hold locks yet.
    pub left: u64,
    /// Of what was released, the first rows.
    pub rows: List<LockRow, PAGE>,
    /// Of what is left, the first rows.
    pub left_rows: List<LockRow, PAGE>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::xdr::decode;

    fn row(start: u64, state: LockState) -> LockRow {
        LockRow { state, ..LockRow::sample(1, start, start + 9) }
    }

    #[test]
    fn the_digest_is_that_of_the_set_whatever_its_order() {
        let (a, b) = (row(0, LockState::Held), row(100, LockState::Held));
        let both = LockDigest::of([&a, &b]);
        assert_eq!(both, LockDigest::of([&b, &a]));
        let others = [
            LockDigest::of([]),
            LockDigest::of([&a]),
            LockDigest::of([&a, &a]),
            LockDigest::of([&a, &row(100, LockState::Offered)]),
            LockDigest::of([&a, &row(101, LockState::Held)]),
        ];
        for other in others {
            assert_ne!(both, other);
        }
    }

    #[test]
    fn what_a_client_was_seen_to_have_is_counted_and_comes_back_from_the_wire() {
        let rows = [row(0, LockState::Held), row(100, LockState::Offered), row(200, LockState::Waiting)];
        let owner = rows[0].owner.clone();
        let seen = ClientSeen::new(owner.name, owner.address, &rows);
        assert_eq!((seen.locks, seen.waiters), (2, 1));
        let args = ReleaseArgs {
            instance: InstanceId([7; 16]),
            clients: List::clipped(vec![seen]),
            locks: List::clipped(rows.to_vec()),
        };
        assert_eq!(decode::<ReleaseArgs>(&encode(&args)).unwrap(), args);
        assert!(encode(&args).len() < 1024);
    }
}
