//! The operations of a manager that does not cooperate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use super::compare::Snapshot;
use crate::host::Lock;
use crate::manager::{Caution, ManagerError, Owners};
use crate::wire::control::{Capabilities, ClientRow, LockRow, Refusal, RefusalCode};
use crate::wire::types::{Address, CallerName, NsmState};
use crate::wire::xdr::List;

/// The manager's present identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Software and version, for people.
    pub software: String,
    /// Words that differ when the manager has lost its locks without a run: boot, process, start.
    pub life: String,
    /// The names under which clients know this server, in order.
    pub names: Vec<CallerName>,
}

/// What the irreversible step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// How long the manager's own grace lasts if it is not ended early, from when it began.
    pub grace: Duration,
    /// What was locked just before, where that may have changed since it was last asked for.
    pub before: Option<Snapshot>,
    /// What is worth a line in the record.
    pub notes: Vec<String>,
}

/// What one client's release was seen to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientReleased {
    pub freed: Vec<Lock>,
    /// Blocked requests on these files that were granted meanwhile.
    pub offered: u64,
    /// Whether the client may still hold locks.
    pub left: bool,
    /// What the operator should know of it.
    pub note: Option<String>,
}

/// What the release of single locks was seen to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocksReleased {
    /// Locks that are gone.
    pub freed: Vec<LockRow>,
    /// Those that are still there, and why.
    pub left: Vec<(LockRow, String)>,
    /// Blocked requests that went with what was freed.
    pub waiters: u64,
    /// Blocked requests on these files that were granted meanwhile.
    pub offered: u64,
    /// What the operator should know of it.
    pub notes: Vec<String>,
}

/// What became of an attempt to end grace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraceEnd {
    Over,
    /// It goes on, for this reason; the run ends all the same.
    GoesOn(String),
}

/// A client with a durable monitor record. What it holds is not known.
pub fn client_row(
    name: CallerName,
    addresses: impl IntoIterator<Item = IpAddr>,
    server_addresses: impl IntoIterator<Item = IpAddr>,
) -> ClientRow {
    ClientRow {
        name,
        addresses: List::clipped(addresses.into_iter().map(Address).collect()),
        server_addresses: List::clipped(server_addresses.into_iter().map(Address).collect()),
        nsm_state: NsmState::default(),
        monitored: true,
        shared_address: false,
        locks: 0,
        unmonitored: 0,
        waiters: 0,
        suspicions: List::default(),
    }
}

/// A lock manager that knows nothing of runs and can only be made to forget its locks and start a
/// grace period. [`Adapter`](super::Adapter) makes a lock manager of it.
///
/// A method that only looks changes nothing and may be called at any time, from several tasks.
/// `recover`, `raise_state`, `begin`, `finish_drop`, `recorded`, `end_grace` and `finish` are called by one process at a time.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What kind it is.
    fn kind(&self) -> &'static str;
    /// Where it is, for people.
    fn endpoint(&self) -> String;
    /// Why this process may not drive it now, where another one does.
    fn is_driven(&self) -> String {
        "another nlmctl drives this lock manager".to_owned()
    }
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// The lock domains that exclude each other there, as `info` has them.
    fn domains(&self) -> &'static [&'static str];

    async fn identity(&self) -> Result<Identity, ManagerError>;
    /// Its NSM state number as it is on disk.
    async fn nsm_state(&self) -> Result<NsmState, ManagerError>;
    /// What is locked now.
    async fn sight(&self) -> Result<Snapshot, ManagerError>;
    /// The owners of the locks, for lists that people read: no run asks for them.
    async fn owners(&self) -> Result<Owners, ManagerError> {
        Ok(Owners::Unknown { why: format!("{} does not tell who owns a lock", self.kind()), remedy: String::new() })
    }
    /// Clients with a durable monitor record.
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError>;
    /// How many they are: asked much more often than who.
    async fn client_count(&self) -> Result<u64, ManagerError> {
        Ok(self.clients().await?.len() as u64)
    }
    /// Whether ordinary lock requests are refused for grace.
    async fn in_grace(&self) -> Result<bool, ManagerError>;
    /// What is to be said, agreed to, or in the way of a run.
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError>;
    /// Likewise, of freeing locks outside of any run.
    async fn release_cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(Vec::new())
    }

    /// Whether a controller that died may have begun to drop locks: what is held now may be there by luck. Only looks.
    async fn may_have_dropped(&self) -> Result<bool, ManagerError>;
    /// Puts back what a controller that died left changed, and says what that was. Commands that only look
    /// call it too, so it begins no drop.
    async fn recover(&self) -> Result<Vec<String>, ManagerError> {
        Ok(Vec::new())
    }
    /// Makes `state` its NSM state number, durably.
    async fn raise_state(&self, state: NsmState) -> Result<(), ManagerError>;
    /// Starts grace before anything is dropped, where that can be a step of its own; true if it did.
    /// Nothing new is granted from then on, so what is locked and by whom is looked at once more.
    async fn enter_grace(&self) -> Result<bool, ManagerError> {
        Ok(false)
    }
    /// Drops every client's lock (but nothing, if its capabilities say that beginning releases nothing)
    /// and starts a grace period, for `grace` if it can be chosen; answers once that was seen. After a
    /// refusal every lock is held as before.
    async fn begin(&self, grace: Duration) -> Result<Dropped, ManagerError>;
    /// Finishes a drop that a controller did not live to see the end of, for the one that resumes its run, before any
    /// notice. Says what it did; nothing if nothing was left to do.
    async fn finish_drop(&self) -> Result<Vec<String>, ManagerError> {
        Ok(Vec::new())
    }
    /// The run's file says by now what was dropped: nothing else has to.
    async fn recorded(&self) -> Result<(), ManagerError> {
        Ok(())
    }
    async fn end_grace(&self) -> Result<GraceEnd, ManagerError>;
    /// Leaves the manager as a run should: called once more after its end.
    async fn finish(&self) -> Result<Vec<String>, ManagerError>;
    /// Frees all locks of one client, by its name in [`clients`](Self::clients); tells what was seen
    /// to go, and who got it.
    async fn release_client(&self, client: &CallerName) -> Result<ClientReleased, ManagerError> {
        let _ = client;
        refused(RefusalCode::Unsupported, format!("{} cannot free single clients' locks", self.kind()))
    }
    /// Frees these locks, each of which must be there as it was listed; looks afterwards.
    async fn release_locks(&self, locks: &[LockRow]) -> Result<LocksReleased, ManagerError> {
        let _ = locks;
        refused(RefusalCode::Unsupported, format!("{} can free whole clients only", self.kind()))
    }
    /// Paths of these files, of those that are found cheaply.
    async fn paths(&self, files: &[String]) -> HashMap<String, String>;
}

pub(in crate::manager) fn refused<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, ManagerError> {
    Err(ManagerError::Refused(Refusal::new(code, message)))
}
