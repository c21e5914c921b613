//! Sets up the demo: a server, clients that hold locks, and the breakage that was asked for.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::clients::{CallError, ClientNo, Farm, FarmError, Lock};
use super::server::{Server, ServerError, ServerOptions};
use crate::host::raise_open_files;
use crate::report::Failure;
use crate::wire::nlm::Stat;
use crate::wire::types::{BadName, ByteRange, CallerName, FileHandle, Svid};
use crate::wire::xdr::TooLong;

/// Most clients: each has an address of its own in 127.0.0.0/8.
pub const MAX_CLIENTS: usize = 65_000;
/// Most locks for each client.
pub const MAX_LOCKS: usize = 100_000;
/// The name under which the clients mounted their server.
pub const SERVER_NAME: &str = "nlmd.demo";

/// The first client's address; the others follow.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// Clients that take their locks, or break, at the same time.
const WORKERS: usize = 64;
/// How many clients share a file that they read-lock.
const NEIGHBOURS: usize = 8;

/// What is to be staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// Clients in all.
    pub clients: usize,
    /// Locks of each.
    pub locks: usize,
    /// Of the clients: gone after they took their locks, never answer again.
    pub dead: usize,
    /// Have forgotten one lock each.
    pub stale: usize,
    /// Came back with a higher state number and no locks; their notice to the server was lost.
    pub rebooted: usize,
    /// Hold one lock each that the server has forgotten.
    pub lost: usize,
    /// Decides which clients break, and which of their locks.
    pub seed: u64,
}

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The numbers make no sense together.
    #[error(transparent)]
    Cast(#[from] Failure),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A call of a client.
    #[error("{client}: {source}")]
    Call { client: CallerName, source: CallError },
    /// nlmd did not grant a lock without a conflict.
    #[error("nlmd answered {answer:?} to {what} of {client}")]
    Denied {
        client: CallerName,
        /// LOCK or UNLOCK.
        what: &'static str,
        answer: Stat,
    },
    /// A name or handle that is made here.
    #[error("internal error: {0}")]
    Name(#[from] BadName),
    /// A name or handle that is made here.
    #[error("internal error: {0}")]
    Handle(#[from] TooLong),
    /// A worker that must not end.
    #[error("internal error: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl Cast {
    /// Refuses what cannot be staged.
    pub fn check(&self) -> Result<(), Failure> {
        let usage = |message: String, remedy: &str| Err(Failure::usage(message, remedy));
        if self.clients == 0 || self.clients > MAX_CLIENTS {
            return usage(
                format!("--clients {} is not between 1 and {MAX_CLIENTS}", self.clients),
                "each simulated client is an address of its own in 127.0.0.0/8: ask for fewer",
            );
        }
        if self.locks > MAX_LOCKS {
            return usage(format!("--locks {} is more than {MAX_LOCKS}", self.locks), "--locks is for each client");
        }
        let broken =
            [self.dead, self.stale, self.rebooted, self.lost].iter().fold(0, |a: usize, b| a.saturating_add(*b));
        if broken > self.clients {
            return usage(
                format!(
                    "{broken} clients are to be broken (dead, stale, rebooted, lost), and there are {}",
                    self.clients
                ),
                "a client is broken in one way only: raise --clients, or break fewer",
            );
        }
        if self.locks == 0 && self.stale + self.lost > 0 {
            return usage(
                "a client without locks can neither forget one (--stale) nor be forgotten (--lost)".to_owned(),
                "give each client at least one: --locks 1",
            );
        }
        Ok(())
    }
}

/// The stage: clients with locks, and their server.
#[derive(Debug)]
pub struct Setup {
    pub farm: Arc<Farm>,
    pub server: Server,
}

impl Setup {
    /// Starts nlmd from this very binary, and has every client take its locks.
    pub async fn set(cast: &Cast, nlmctl: &Path) -> Result<Self, StageError> {
        cast.check()?;
        // Also for nlmd, which inherits it.
        raise_open_files();
        let farm = Arc::new(Farm::open(&[CallerName::new(SERVER_NAME)?])?);
        let options = ServerOptions {
            leading: vec!["nlmd".into()],
            ..ServerOptions::new(nlmctl, farm.rpcbind_port(), SERVER_NAME)
        };
        let server = Server::start(options).await?;
        farm.use_server(server.nlm());
        for number in 0..cast.clients {
            farm.add(address(number), CallerName::new(&format!("client{number:05}.demo"))?);
        }
        let locks = cast.locks;
        for_each(&farm, cast.clients, move |farm, who| async move {
            for number in 0..locks {
                let answer = farm.lock(who, &lock(who, number)?, false).await;
                granted(&farm, who, "LOCK", answer)?;
            }
            Ok(())
        })
        .await?;
        Ok(Self { farm, server })
    }

    /// Breaks what the cast says.
    pub async fn break_clients(&self, cast: &Cast) -> Result<(), StageError> {
        let mut random = StdRng::seed_from_u64(cast.seed);
        let mut order: Vec<ClientNo> = (0..cast.clients).map(ClientNo).collect();
        order.shuffle(&mut random);
        let mut order = order.into_iter();
        for who in order.by_ref().take(cast.dead) {
            self.farm.crash(who);
        }
        for who in order.by_ref().take(cast.rebooted) {
            self.farm.reboot_unnoticed(who);
        }
        for who in order.by_ref().take(cast.stale) {
            self.farm.forget(who, &lock(who, random.random_range(0..cast.locks))?);
        }
        for who in order.by_ref().take(cast.lost) {
            let lock = lock(who, random.random_range(0..cast.locks))?;
            granted(&self.farm, who, "UNLOCK", self.farm.unlock_behind_its_back(who, &lock).await)?;
        }
        Ok(())
    }
}

/// Does `what` for every client, a bounded number at a time; the first error ends it.
async fn for_each<F, W>(farm: &Arc<Farm>, clients: usize, what: W) -> Result<(), StageError>
where
    W: Fn(Arc<Farm>, ClientNo) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), StageError>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::<Result<(), StageError>>::new();
    for _ in 0..WORKERS.min(clients) {
        let (farm, next, what) = (Arc::clone(farm), Arc::clone(&next), what.clone());
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= clients {
                    return Ok(());
                }
                what(Arc::clone(&farm), ClientNo(number)).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

fn granted(farm: &Farm, who: ClientNo, what: &'static str, answer: Result<Stat, CallError>) -> Result<(), StageError> {
    let client = || Ok::<_, StageError>(farm.name(who).unwrap_or(CallerName::new("?")?));
    match answer {
        Ok(Stat::Granted) => Ok(()),
        Ok(answer) => Err(StageError::Denied { client: client()?, what, answer }),
        Err(source) => Err(StageError::Call { client: client()?, source }),
    }
}

fn address(number: usize) -> Ipv4Addr {
    // At most MAX_CLIENTS, far below 127.255.255.255.
    Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + u32::try_from(number).unwrap_or_default())
}

/// A client's lock of a number: write locks in a file of its own, read locks in one that it shares
/// with its neighbours. Ranges lie apart and each has its own process, so that none melts with another.
fn lock(who: ClientNo, number: usize) -> Result<Lock, TooLong> {
    let exclusive = number.is_multiple_of(2);
    let file =
        if exclusive { format!("demo/own/{:05}", who.0) } else { format!("demo/common/{:05}", who.0 / NEIGHBOURS) };
    let start = number as u64 * 4096;
    Ok(Lock {
        file: FileHandle::new(file.as_bytes())?,
        range: ByteRange { start, end: start + 1023 },
        exclusive,
        svid: Svid(i32::try_from(number).unwrap_or_default() + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::FailureKind;

    fn cast(clients: usize, locks: usize) -> Cast {
        Cast { clients, locks, dead: 0, stale: 0, rebooted: 0, lost: 0, seed: 0 }
    }

    #[test]
    fn more_broken_than_there_are_clients_is_refused_with_a_remedy() {
        let error = Cast { dead: 2, stale: 1, rebooted: 1, lost: 1, ..cast(4, 1) }.check().unwrap_err();
        assert!(
            matches!(error, Failure { kind: FailureKind::Usage, message, remedy } if message.contains("5 clients") && remedy.contains("--clients"))
        );
        Cast { dead: 1, stale: 1, rebooted: 1, lost: 1, ..cast(4, 1) }.check().unwrap();
    }

    #[test]
    fn a_lock_that_is_not_there_can_be_neither_forgotten_nor_lost() {
        cast(1, 0).check().unwrap();
        assert!(Cast { stale: 1, ..cast(1, 0) }.check().is_err());
        assert!(Cast { lost: 1, ..cast(1, 0) }.check().is_err());
    }

    #[test]
    fn the_last_client_still_has_an_address_of_its_own_in_127_8() {
        assert_eq!(address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(address(MAX_CLIENTS - 1), Ipv4Addr::new(127, 1, 253, 232));
    }

    #[test]
    fn write_locks_are_a_clients_own_and_read_locks_may_be_shared() {
        let (a, b) = (ClientNo(0), ClientNo(1));
        assert_ne!(lock(a, 0).unwrap().file, lock(b, 0).unwrap().file);
        assert_eq!(lock(a, 1).unwrap().file, lock(b, 1).unwrap().file);
        assert!(lock(a, 0).unwrap().exclusive && !lock(a, 1).unwrap().exclusive);
        assert!(lock(a, 0).unwrap().range.end + 1 < lock(a, 2).unwrap().range.start);
    }
}
