//! A farm of simulated NFS clients: hosts with an address and a `caller_name` of their own, which
//! lock through NLM v4 over UDP and act on SM_NOTIFY as Linux does, or as they are told.
//!
//! # Theory
//! Four sockets serve all hosts, however many: one each for rpcbind, statd and the lock callback
//! ([`listeners`]), and one for calls ([`calls`]). They are bound to the wildcard address and answer from the
//! address that was asked, so that every address in 127.0.0.0/8 is a host without a descriptor of its
//! own. All hosts have one rpcbind port, chosen by the kernel.
//!
//! The state of all hosts is one table, owned by the farm behind one mutex that is held for look-ups
//! and updates only, never across an await. What must hold: a host's beliefs (`holds`) change only by
//! an answer that it got, or by the farm's user telling it to forget. So they are what its processes
//! would think, whatever the server does, and can witness against it.
//!
//! A notice that is new to a host queues it for one reclaim pass: its locks one after the other, as
//! Linux does, on the connection they were taken by. A few hosts reclaim at the same time. The queue
//! holds each host at most once; a newer notice in the meantime starts that host over.
//!
//! Start reading at [`Farm`]; what a host is and how it behaves is in [`client`].

mod calls;
mod client;
mod hosts;
mod listeners;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use calls::CallError;
pub use client::{Behaviour, ClientNo, Lock, Notice, Reclaims};
pub use hosts::FarmError;

use crate::wire::nlm;
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{TooLong, encode};
use calls::Calls;
use client::Client;
use hosts::{FarmState, Hosts};
use listeners::Listeners;

/// How many hosts reclaim at the same time.
const RECLAIMING_HOSTS: usize = 32;

/// The simulated hosts. Dropping it ends its tasks and closes its sockets.
pub struct Farm {
    shared: Arc<FarmState>,
    calls: Arc<Calls>,
    rpcbind_port: u16,
    /// Ends the listening tasks.
    _listening: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Farm {
    /// A farm without hosts, whose future hosts know their server by these names.
    pub fn open(server_names: &[CallerName]) -> Result<Self, FarmError> {
        let (queue, queued) = mpsc::unbounded_channel();
        let hosts = Hosts { server_names: server_names.to_vec(), ..Hosts::default() };
        let shared = Arc::new(FarmState { hosts: Mutex::new(hosts), changed: Notify::new(), queue });
        let calls = Arc::new(Calls::open().map_err(|source| FarmError::Socket { what: "NLM", source })?);
        let ears = Listeners::open()?;
        let rpcbind_port = ears.rpcbind_port();
        let mut tasks = JoinSet::new();
        let listening = ears.listen(&shared, &mut tasks);
        tasks.spawn(reclaim_queued(Arc::clone(&shared), Arc::clone(&calls), queued));
        Ok(Self { shared, calls, rpcbind_port, _listening: listening, _tasks: tasks })
    }

    /// The rpcbind port that all hosts share.
    pub fn rpcbind_port(&self) -> u16 {
        self.rpcbind_port
    }
    /// Where the server's NLM is. Calls made before it is known fail.
    pub fn use_server(&self, nlm: SocketAddr) {
        self.calls.use_server(nlm);
    }

    pub fn add(&self, address: Ipv4Addr, name: CallerName) -> ClientNo {
        let mut hosts = self.shared.hosts();
        let who = ClientNo(hosts.clients.len());
        hosts.clients.push(Client::new(address, name));
        hosts.at.entry(address).or_default().push(who);
        who
    }
    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.shared.hosts().clients.len()
    }
    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Tells a host how to behave from now on.
    pub fn behave(&self, who: ClientNo, behaviour: Behaviour) {
        self.update(who, |client| client.behaviour = behaviour);
    }
    pub fn name(&self, who: ClientNo) -> Option<CallerName> {
        self.shared.hosts().get(who).map(|client| client.name.clone())
    }
    pub fn address(&self, who: ClientNo) -> Option<Ipv4Addr> {
        self.shared.hosts().get(who).map(|client| client.address)
    }
    /// Sets the state number that a host's statd answers and its LOCKs carry.
    pub fn set_state(&self, who: ClientNo, state: NsmState) {
        self.update(who, |client| client.state = state);
    }

    /// What the host's processes think they hold.
    pub fn beliefs(&self, who: ClientNo) -> Vec<Lock> {
        self.shared.hosts().get(who).map(|client| client.holds.clone()).unwrap_or_default()
    }
    /// What the host's reclaims were answered with, all passes together.
    pub fn reclaims(&self, who: ClientNo) -> Reclaims {
        self.shared.hosts().get(who).map(|client| client.reclaims).unwrap_or_default()
    }
    /// The notices that reached statds, in order.
    pub fn notices(&self) -> Vec<Notice> {
        self.shared.hosts().notices.clone()
    }
    /// Makes a host forget a lock without telling the server: what a crashed process or a lost UNLOCK
    /// leaves behind.
    pub fn forget(&self, who: ClientNo, lock: &Lock) {
        self.update(who, |client| client.forget(lock));
    }
    /// Crashes a host for good: it holds nothing and answers nothing any more.
    pub fn crash(&self, who: ClientNo) {
        self.update(who, |client| {
            client.holds.clear();
            client.waits.clear();
            client.behaviour = Behaviour::dead();
        });
    }
    /// Reboots a host whose notice to the server is lost: a higher state number, and no locks.
    pub fn reboot_unnoticed(&self, who: ClientNo) {
        self.update(who, |client| {
            client.holds.clear();
            client.waits.clear();
            client.state = client.state.next_up();
        });
    }

    /// Waits until the farm is as `wanted` says, at most for `limit`; whether it became so.
    pub async fn until(&self, limit: Duration, mut wanted: impl FnMut(&Self) -> bool) -> bool {
        timeout(limit, async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                // Listening begins before the look, so that no change is missed between the two.
                changed.as_mut().enable();
                if wanted(self) {
                    return;
                }
                changed.await;
            }
        })
        .await
        .is_ok()
    }
    /// Whether no host has a reclaim pass queued or under way.
    pub fn at_rest(&self) -> bool {
        self.shared.hosts().clients.iter().all(|client| !client.reclaiming)
    }

    fn update(&self, who: ClientNo, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.shared.hosts().get_mut(who) {
            change(client);
        }
    }
}

impl std::fmt::Debug for Farm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Farm")
            .field("hosts", &self.len())
            .field("rpcbind_port", &self.rpcbind_port)
            .finish_non_exhaustive()
    }
}

/// What clients ask of their server.
impl Farm {
    /// LOCK. The host believes in the lock from the moment it is granted; with `block`, a BLOCKED one
    /// is waited for until GRANTED comes.
    pub async fn lock(&self, who: ClientNo, lock: &Lock, block: bool) -> Result<nlm::Stat, CallError> {
        let stat = self.ask_lock(who, lock, block, false).await?;
        self.update(who, |client| match stat {
            nlm::Stat::Granted => client.believe(lock.clone()),
            // The grant may have come in before the answer to LOCK.
            nlm::Stat::Blocked if !client.holds.contains(lock) => client.waits.push(lock.clone()),
            _ => {}
        });
        Ok(stat)
    }
    /// LOCK with `reclaim`, of any lock. A refusal changes no belief: the process is not told.
    pub async fn reclaim(&self, who: ClientNo, lock: &Lock) -> Result<nlm::Stat, CallError> {
        let stat = self.ask_lock(who, lock, false, true).await?;
        if stat == nlm::Stat::Granted {
            self.update(who, |client| client.believe(lock.clone()));
        }
        Ok(stat)
    }
    /// UNLOCK; the host does not believe in the lock any more, also if the call fails.
    pub async fn unlock(&self, who: ClientNo, lock: &Lock) -> Result<nlm::Stat, CallError> {
        self.forget(who, lock);
        self.unlock_behind_its_back(who, lock).await
    }
    /// UNLOCK in the host's name while the host goes on believing: afterwards the server has lost the
    /// lock.
    pub async fn unlock_behind_its_back(&self, who: ClientNo, lock: &Lock) -> Result<nlm::Stat, CallError> {
        let (address, name) = self.host(who)?;
        let args = nlm::UnlockArgs { cookie: self.calls.cookie()?, alock: wire_lock(lock, &name)? };
        let res: nlm::Res = self.calls.call(address, name.as_str(), nlm::Procedure::Unlock, &encode(&args)).await?;
        Ok(res.stat)
    }
    /// TEST: who is in the way?
    pub async fn test(&self, who: ClientNo, lock: &Lock) -> Result<nlm::Stat, CallError> {
        let (address, name) = self.host(who)?;
        let args =
            nlm::TestArgs { cookie: self.calls.cookie()?, exclusive: lock.exclusive, alock: wire_lock(lock, &name)? };
        let res: nlm::TestRes = self.calls.call(address, name.as_str(), nlm::Procedure::Test, &encode(&args)).await?;
        Ok(res.reply.stat())
    }

    async fn ask_lock(&self, who: ClientNo, lock: &Lock, block: bool, reclaim: bool) -> Result<nlm::Stat, CallError> {
        ask_lock(&self.shared, &self.calls, who, lock, block, reclaim).await
    }
    fn host(&self, who: ClientNo) -> Result<(Ipv4Addr, CallerName), CallError> {
        let hosts = self.shared.hosts();
        let client = hosts.get(who).ok_or(CallError::NoClient)?;
        Ok((client.address, client.name.clone()))
    }
}

fn wire_lock(lock: &Lock, name: &CallerName) -> Result<nlm::Lock, TooLong> {
    Ok(nlm::Lock::new(name.clone(), lock.file.clone(), lock.owner(name)?, lock.svid, lock.range))
}

async fn ask_lock(
    shared: &FarmState,
    calls: &Calls,
    who: ClientNo,
    lock: &Lock,
    block: bool,
    reclaim: bool,
) -> Result<nlm::Stat, CallError> {
    let (address, name, state) = {
        let hosts = shared.hosts();
        let client = hosts.get(who).ok_or(CallError::NoClient)?;
        (client.address, client.name.clone(), client.state)
    };
    let alock = wire_lock(lock, &name)?;
    let cookie = calls.cookie()?;
    let args = nlm::LockArgs { cookie, block, exclusive: lock.exclusive, alock, reclaim, state };
    let res: nlm::Res = calls.call(address, name.as_str(), nlm::Procedure::Lock, &encode(&args)).await?;
    Ok(res.stat)
}

/// Makes the queued reclaim passes, a few hosts at a time, for as long as the farm lives.
async fn reclaim_queued(shared: Arc<FarmState>, calls: Arc<Calls>, mut queued: mpsc::UnboundedReceiver<ClientNo>) {
    let places = Arc::new(Semaphore::new(RECLAIMING_HOSTS));
    let mut passes = JoinSet::new();
    while let Some(who) = queued.recv().await {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while passes.try_join_next().is_some() {}
        let (shared, calls) = (Arc::clone(&shared), Arc::clone(&calls));
        passes.spawn(async move {
            reclaim_all(&shared, &calls, who).await;
            drop(place);
        });
    }
}

/// A host's reclaim pass, and another if it was told of a newer state in the meantime.
async fn reclaim_all(shared: &FarmState, calls: &Calls, who: ClientNo) {
    loop {
        let Some((locks, after)) =
            shared.hosts().get(who).map(|client| (client.holds.clone(), client.behaviour.reclaim_after))
        else {
            return;
        };
        sleep(after).await;
        for lock in &locks {
            // What was forgotten since is not claimed.
            if !shared.hosts().get(who).is_some_and(|client| client.holds.contains(lock)) {
                continue;
            }
            let outcome = ask_lock(shared, calls, who, lock, false, true).await;
            if let Some(client) = shared.hosts().get_mut(who) {
                match outcome {
                    Ok(nlm::Stat::Granted) => client.reclaims.granted += 1,
                    Ok(_) => client.reclaims.refused += 1,
                    Err(_) => client.reclaims.unanswered += 1,
                }
            }
        }
        let again = shared.hosts().get_mut(who).is_some_and(|client| {
            client.reclaiming = client.again;
            std::mem::take(&mut client.again)
        });
        shared.changed.notify_waiters();
        if !again {
            return;
        }
    }
}
