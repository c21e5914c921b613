//! Locks released: all, or one client's.
//!
//! ```text
//! "1:" grace, waiters cancelled -> grace seen -> mark on disk -> "5:ADDRESS" for each address
//!   -> until nothing is left: look; every second "0:", so that grace outlasts it
//!   -> "0:" the whole grace for clients -> grace seen -> the run's file says so -> mark removed
//! ```

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bus::{BusError, GraceEvent};
use super::error::{half_released, halfway};
use super::process::Server;
use super::{Ganesha, GaneshaError, blocking, clients, refused};
use crate::host::{self, FileError, Lock};
use crate::manager::ManagerError;
use crate::manager::adapter::ClientReleased;
use crate::rpc::client::{Request, Retransmit, UdpClient};
use crate::rpc::program::{Host, Listener, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::units::{self, count};
use crate::wire::control::{Refusal, RefusalCode};
use crate::wire::nlm;
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, NsmState, Transport};
use crate::wire::xdr::encode;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long Ganesha may take to be in grace: it waits for the requests that it works on.
const GRACE_STARTS: Duration = Duration::from_secs(10);
/// How often grace's clock is started again while locks are being released.
const RENEW: Duration = Duration::from_secs(1);
/// How long nothing may go before what is left counts as left. A release queues behind calls to
/// clients that do not answer, seconds each.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one client's release may take.
const ONE_CLIENT: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(5);

/// What is still there of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    locks: u64,
    records: u64,
}

impl Ganesha {
    fn mark(&self) -> PathBuf {
        self.options.state_dir.join("ganesha.releasing")
    }
    async fn set_mark(&self, life: String) -> Result<(), GaneshaError> {
        let path = self.mark();
        let write = move || host::replace(&path, life.as_bytes(), 0o600).map_err(FileError::write(&path));
        blocking(move || Ok(write()?)).await
    }
    /// The life of the Ganesha that a release was begun of.
    pub(super) async fn marked(&self) -> Result<Option<Vec<u8>>, GaneshaError> {
        let path = self.mark();
        blocking(move || Ok(host::read_if_there(&path).map_err(FileError::read(&path))?)).await
    }
    pub(super) async fn unmark(&self) -> Result<(), GaneshaError> {
        let path = self.mark();
        blocking(move || Ok(host::remove(&path).map_err(FileError::write(&path))?)).await
    }

    /// Starts grace, and sees it. A failure has changed nothing but that.
    pub(super) async fn start_grace(&self, event: GraceEvent) -> Result<(), GaneshaError> {
        self.bus().await?.grace(event).await?;
        let until = Instant::now() + GRACE_STARTS;
        while !self.bus().await?.in_grace().await? {
            if Instant::now() >= until {
                return Err(GaneshaError::Stuck(
                    "Ganesha was asked for grace, and is not in grace (Graceless = true?)",
                ));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Releases every client's locks, in the grace that is on. Answers with what is worth a line.
    pub(super) async fn release_all(&self) -> Result<Vec<String>, ManagerError> {
        let life = self.look(Server::life).await.map_err(|error| refused(&error))?;
        self.set_mark(life).await.map_err(|error| refused(&error))?;
        // Event 5 would start a grace that does more than is wanted: see `bus`.
        if !self.bus().await?.in_grace().await.map_err(GaneshaError::from)? {
            self.unmark().await?;
            return Err(refused(&GaneshaError::Stuck("Ganesha's grace was over before its locks were released")).into());
        }
        self.release_or_tell().await
    }

    async fn release_or_tell(&self) -> Result<Vec<String>, ManagerError> {
        match self.release_in_grace().await {
            Ok(notes) => Ok(notes),
            Err(error) => {
                let crashed = matches!(self.look(Server::life).await, Err(GaneshaError::Bus(BusError::NotThere)));
                Err(halfway(&error, crashed))
            }
        }
    }

    async fn release_in_grace(&self) -> Result<Vec<String>, GaneshaError> {
        for address in self.addresses().await? {
            self.bus().await?.grace(GraceEvent::Release(address)).await?;
        }
        let notes = self.until_released().await?;
        // Clients are told from here on: the whole grace is theirs.
        self.start_grace(GraceEvent::Start).await?;
        Ok(notes)
    }

    /// Every address that a client may have called: this host's, and those of open connections,
    /// whose address may have been taken away since. Who came over UDP called none.
    async fn addresses(&self) -> Result<BTreeSet<IpAddr>, GaneshaError> {
        let mut found = host::addresses().map_err(GaneshaError::Addresses)?;
        let connections = self.look(Server::connections).await?;
        found.extend(connections.iter().map(|(server, _)| server.ip().to_canonical()));
        found.extend([IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]);
        Ok(found)
    }

    async fn left(&self) -> Result<Left, GaneshaError> {
        let locks = self.look(Server::held).await?.locks.len() as u64;
        let records = self.records().await?;
        let records = records.entries.iter().filter(|entry| clients::is_ganeshas(entry)).count() as u64;
        Ok(Left { locks, records })
    }

    async fn until_released(&self) -> Result<Vec<String>, GaneshaError> {
        let life = self.look(Server::life).await?;
        let began = Instant::now();
        let (mut last, mut changed, mut renewed) = (self.left().await?, began, began);
        loop {
            if last == (Left { locks: 0, records: 0 }) {
                let took = units::duration(began.elapsed());
                return Ok(vec![format!("all locks were seen released {took} after they were asked to be")]);
            }
            if changed.elapsed() >= PATIENCE {
                return Ok(vec![format!(
                    "{} and {} of statd's were not released in {} s: taken through an address that this \
                     host no longer has, it seems; they stay",
                    count(last.locks, "lock"),
                    count(last.records, "record"),
                    PATIENCE.as_secs()
                )]);
            }
            if renewed.elapsed() >= RENEW {
                self.bus().await?.grace(GraceEvent::Start).await?;
                renewed = Instant::now();
            }
            let looking = Instant::now();
            sleep(LOOK_EVERY).await;
            let now = self.left().await?;
            // A long list takes long to read: Ganesha has other work too.
            sleep(looking.elapsed().saturating_sub(LOOK_EVERY)).await;
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            // One that crashed and was started again has dropped all locks, in a grace of its own.
            if self.look(Server::life).await? != life {
                return Ok(vec!["Ganesha ended while it released locks, and was started again".into()]);
            }
        }
    }

    /// Finishes a release that an earlier process did not see to its end. No notice has left since.
    pub(super) async fn finish_release(&self) -> Result<Vec<String>, ManagerError> {
        let Some(marked) = self.marked().await? else { return Ok(Vec::new()) };
        let life = self.look(Server::life).await?;
        if marked != life.as_bytes() || !self.bus().await?.in_grace().await.map_err(GaneshaError::from)? {
            return Ok(Vec::new());
        }
        let mut lines = vec!["nlmctl had ended while Ganesha released locks: released again, to the end".to_owned()];
        lines.extend(self.release_or_tell().await?);
        Ok(lines)
    }

    /// Releases one client's locks: `name` is its name in statd's records. Who waits for them gets
    /// them, and no grace begins. Whose a lock is cannot be seen: what others unlocked at the same
    /// moment is among those that went; that the client has no lock left, its record that is gone says.
    ///
    /// # Errors
    /// No such client holds a lock, or Ganesha was not reached. Once a notice may have left: it is not known what came of it.
    pub(super) async fn free_client(&self, name: &CallerName) -> Result<ClientReleased, ManagerError> {
        let records = self.records().await?;
        let record = records.entries.iter().find(|entry| clients::is_ganeshas(entry) && is_named(entry, name));
        let Some(record) = record else {
            let words = format!("statd has no record of {name}: no such client of Ganesha's holds a lock");
            return Err(Refusal::new(RefusalCode::BadRequest, words).into());
        };
        let known_as = record.monitor.as_ref().map_or_else(|| name.clone(), |monitor| monitor.mon_id.mon_name.clone());
        let (before, life) = self.look(|server| Ok((server.held()?.locks, server.life()?))).await?;
        let socket = |error: std::io::Error| GaneshaError::Call { what: "a UDP socket", error: error.into() };
        let endpoint = UdpEndpoint::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into()).map_err(socket)?;
        let client = UdpClient::new(Arc::new(endpoint), Retransmit::default());
        let host = Host::local(&client, self.options.rpcbind_port, CALL);
        let nlockmgr =
            host.find(nlm::PROGRAM, nlm::Version::V4.number(), &[Transport::Udp]).await.map_err(not_called)?;
        // A notice may do its work whatever is heard of it: a failure from here on is none that has changed nothing.
        match self.notify_until_gone(&host, nlockmgr, &known_as, &life).await {
            Ok((gone, after)) => Ok(released(&before, &after, gone)),
            Err(error) => {
                let ended = match self.look(Server::life).await {
                    Ok(now) => now != life,
                    Err(GaneshaError::Bus(BusError::NotThere)) => true,
                    Err(_) => false,
                };
                Err(half_released(&error, ended))
            }
        }
    }

    /// Tells Ganesha that the client was rebooted until its record is gone, or for long enough. Whether it is, and what is held
    /// then.
    async fn notify_until_gone(
        &self,
        host: &Host<'_>,
        nlockmgr: Listener,
        known_as: &CallerName,
        life: &str,
    ) -> Result<(bool, Vec<(Lock, String)>), GaneshaError> {
        let until = Instant::now() + ONE_CLIENT;
        loop {
            // Locks taken in the state that it tells of would stay. No client's state is chosen twice.
            notify(host, nlockmgr, known_as, NsmState(rand::random())).await?;
            sleep(LOOK_EVERY).await;
            let records = self.records().await?;
            let gone = !records.entries.iter().any(|entry| clients::is_ganeshas(entry) && is_named(entry, known_as));
            if gone || Instant::now() >= until {
                let (after, now) = self.look(|server| Ok((server.held()?.locks, server.life()?))).await?;
                // One that was started again has no record of any client, and no lock.
                if now != life {
                    return Err(GaneshaError::Stuck("it was started again"));
                }
                return Ok((gone, after));
            }
        }
    }
}

/// What is not there any more, and who got it.
fn released(before: &[(Lock, String)], after: &[(Lock, String)], gone: bool) -> ClientReleased {
    let (was, is): (HashSet<_>, HashSet<_>) = (before.iter().collect(), after.iter().collect());
    let freed: Vec<Lock> = was.difference(&is).map(|(lock, _)| lock.clone()).collect();
    let got_one = |(new, _): &&&(Lock, String)| freed.iter().any(|old| old.overlaps(new));
    let offered = is.difference(&was).filter(got_one).count() as u64;
    ClientReleased { freed, offered, left: !gone, note: None }
}

/// statd's callback, as Ganesha takes it from this host only.
async fn notify(host: &Host<'_>, nlockmgr: Listener, name: &CallerName, state: NsmState) -> Result<(), GaneshaError> {
    let args = encode(&nlm::SmNotifyArgs { name: name.clone(), state, private: [0; 16] });
    let request = Request {
        program: nlm::PROGRAM,
        version: nlm::Version::V4.number(),
        procedure: nlm::Procedure::SmNotify.number(),
        credential: &Credential::None,
        args: &args,
    };
    host.call_at(nlockmgr, request, CALL).await.map(drop).map_err(not_called)
}

fn not_called(error: ProgramError) -> GaneshaError {
    let call = |what, error| GaneshaError::Call { what, error };
    match error {
        ProgramError::NotRegistered => GaneshaError::Stuck("rpcbind knows no nlockmgr over UDP"),
        ProgramError::Rpcbind(error) => call("rpcbind's answer where nlockmgr is", error),
        ProgramError::NotCalled(error) | ProgramError::Called(error) => {
            call("the callback to Ganesha's nlockmgr", error)
        }
    }
}

fn is_named(entry: &crate::nsm::roster::RosterEntry, name: &CallerName) -> bool {
    let known_as = entry.monitor.as_ref().map(|monitor| monitor.mon_id.mon_name.clone());
    let host = CallerName::of_bytes(entry.host.as_bytes()).ok();
    known_as.into_iter().chain(host).any(|known| known.as_str().eq_ignore_ascii_case(name.as_str()))
}
