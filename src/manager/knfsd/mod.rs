//! The Linux kernel's lock manager, lockd, beside nfsd.
//!
//! Theory. lockd has no idea of a run. It can be made to drop *every* lock and to start grace
//! ([`drops`]), it shows ranges but no owners (`/proc/locks` has its own number for each client's
//! lock), and rpc.statd beside it keeps the names of its clients. So a run here is: all that is there
//! is written down, the state number raised, everything dropped, grace seen, clients told, and what
//! came back compared ([`driven`](super::driven) does that part).
//!
//! What must hold:
//! - Nothing is touched where it could not work or would hurt others: an NFSv3 mount here keeps lockd
//!   alive while nfsd is down; NFSv4 clients wait and reclaim too, so that wants consent; without
//!   rpc.statd nobody could be told.
//! - What is changed for a moment is on disk before ([`saved`]); where nfsd is stopped a process of its
//!   own is there to bring it back ([`guard`]).
//! - NFSv4's grace is ended with lockd's only if nobody could still reclaim in it ([`v4`]).
//! - Monitor records outlive a run ([`statd`]).
//!
//! | file | what |
//! |---|---|
//! | `proc` | what the kernel says; parsers |
//! | `statd` | state number and monitor records |
//! | `settings` | nfsd's settings |
//! | `saved` | what is to be put back |
//! | `guard` | the process that does it if nlmctl dies |
//! | `drops` | the two ways to drop |
//! | `v4` | NFSv4 clients |
//! | `paths` | names of files |
//! | `release` | frees one client's locks |
//! | `mod` | the backend; start reading at `begin` |

mod drops;
mod error;
pub mod guard;
mod paths;
mod proc;
mod release;
mod saved;
mod settings;
mod statd;
mod v4;

pub use error::KnfsdError;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::net::if_::InterfaceFlags;

use self::drops::Attempt;
use self::error::ENDPOINT;
use self::proc::{Lockd, Proc};
use self::saved::Saved;
use self::statd::Statd;
use self::v4::V4;
use super::driven::vault::Vault;
use super::driven::{Backend, ClientReleased, Driven, Dropped, GraceEnd, Identity, Recovered, Sight};
use super::{Caution, ManagerError, Weight};
use crate::nsm::{mounts, own_names};
use crate::wire::control::{Capabilities, ClientRow, Refusal, RefusalCode};
use crate::wire::types::{Address, CallerName, NsmState};
use crate::wire::xdr::List;

/// Where runs, and what is to be put back, are kept.
pub const STATE_DIR: &str = "/var/lib/nlmctl/knfsd";

/// See above.
#[derive(Debug, Clone)]
pub struct Knfsd {
    proc: Proc,
    dir: PathBuf,
    program: PathBuf,
}

/// This host's knfsd as a lock manager. `program` is nlmctl's own file: the guard is started from it.
pub fn manager(dir: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Driven<Knfsd> {
    let dir = dir.into();
    let vault = Vault::new(&dir);
    Driven::new(Knfsd { proc: Proc::default(), dir, program: program.into() }, vault)
}

/// Whether this host's nfsd serves, or would if an earlier run had not left it stopped.
pub fn is_here() -> bool {
    Proc::default().threads().is_ok_and(|threads| threads > 0) || Saved::is_there(Path::new(STATE_DIR))
}

fn caution(about: &'static str, weight: Weight, text: impl Into<String>, remedy: &str) -> Caution {
    Caution { about, weight, text: text.into(), remedy: remedy.into() }
}

impl Knfsd {
    /// Work with files, off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, KnfsdError> + Send + 'static,
    ) -> Result<T, KnfsdError> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(done) => done,
            Err(_) => Err(KnfsdError::Stuck("a thread died".into())),
        }
    }

    fn statd(&self) -> Result<Statd, KnfsdError> {
        Statd::find(&self.proc)
    }

    /// This life of lockd: its locks go with it.
    fn life(&self) -> Result<String, KnfsdError> {
        let boot = self.proc.boot_id()?;
        Ok(match self.proc.lockd()? {
            Some(lockd) => format!("{boot} {} {}", lockd.pid, lockd.start),
            None => format!("{boot} no lockd"),
        })
    }

    fn takes_signal(&self, lockd: Lockd) -> bool {
        lockd.takes_kill && self.proc.in_first_netns()
    }

    fn software(&self) -> Result<String, KnfsdError> {
        if self.proc.threads()? == 0 {
            return Err(KnfsdError::Down);
        }
        Ok(format!("knfsd (Linux {})", self.proc.release()?))
    }

    fn rows(&self) -> Result<Vec<ClientRow>, KnfsdError> {
        let roster = self.statd()?.roster()?;
        roster.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let own = server_addresses();
        let mut rows: Vec<ClientRow> = Vec::new();
        for entry in roster.entries {
            let Ok(name) = CallerName::new(&entry.host) else { continue };
            if rows.iter().any(|row| row.name == name) {
                continue;
            }
            // lockd names a client by its address unless it was told otherwise.
            let monitored = entry.monitor.as_ref().and_then(|monitor| monitor.mon_id.mon_name.as_str().parse().ok());
            let addresses: Vec<IpAddr> =
                monitored.or_else(|| entry.host.parse().ok()).map_or_else(|| resolve(&entry.host), |ip| vec![ip]);
            let same_family =
                |ip: &&IpAddr| addresses.is_empty() || addresses.iter().any(|to| to.is_ipv4() == ip.is_ipv4());
            rows.push(ClientRow {
                name,
                server_addresses: List::clipped(own.iter().filter(same_family).copied().map(Address).collect()),
                addresses: List::clipped(addresses.into_iter().map(Address).collect()),
                nsm_state: NsmState::default(),
                monitored: true,
                shared_address: false,
                locks: 0,
                unmonitored: 0,
                waiters: 0,
                suspicions: List::default(),
            });
        }
        mark_shared(&mut rows);
        Ok(rows)
    }

    /// What stands in the way or wants to be known, as far as it can be seen without touching
    /// anything.
    fn look_ahead(&self) -> Result<Vec<Caution>, KnfsdError> {
        let mut found = Vec::new();
        if !nix::unistd::geteuid().is_root() {
            found.push(caution(
                "root",
                Weight::Refuse,
                "only root may drive the kernel's lock manager",
                "run this as root",
            ));
        }
        if self.proc.named("rpc.statd")?.is_empty() {
            found.push(caution(
                "statd",
                Weight::Refuse,
                "rpc.statd does not run here: lockd could not grant a reclaim without it",
                "start it (nfs-utils' rpc-statd.service)",
            ));
        }
        let Some(lockd) = self.proc.lockd()? else {
            found.push(caution(
                "lockd",
                Weight::Refuse,
                "the kernel's lockd does not run, or cannot be seen from this process namespace",
                "start the NFS server with NFSv3, and run this in the host's own namespaces",
            ));
            return Ok(found);
        };
        if self.takes_signal(lockd) {
            found.push(caution(
                "drop",
                Weight::Say,
                "lockd is made to drop every lock by a signal; NFS service goes on",
                "",
            ));
        } else {
            found.push(caution(
                "drop",
                Weight::Say,
                "this kernel's lockd takes no signal, so NFS service stops for about a second; nfsd's reply cache is \
                 lost, so a REMOVE or an exclusive CREATE that is repeated just then can fail",
                "",
            ));
            self.look_at_mounts(&mut found)?;
        }
        found.push(caution(
            "local",
            Weight::Say,
            "processes of this host are not bound by grace: one can take a dropped lock's range before its owner \
             reclaims it (it is named then)",
            "",
        ));
        let disturbed = |who: String| {
            caution(
                "nfsv4",
                Weight::Consent,
                format!(
                    "disturb {who}: they wait while grace lasts, must reclaim too if nfsd is stopped, and NFSv4's \
                     grace cannot be ended early then"
                ),
                "wait until they have gone, or agree to it",
            )
        };
        match v4::look(&self.proc)? {
            V4::None => {}
            V4::Some { live, recorded } => {
                found.push(disturbed(format!("NFSv4 clients ({live} here now, {recorded} on record)")));
            }
            V4::NotKnown(why) => found.push(disturbed(format!("NFSv4 clients, if there are any: {why}"))),
        }
        Ok(found)
    }

    /// An NFSv3 mount of this host uses the same lockd and keeps it alive while nfsd is down.
    fn look_at_mounts(&self, found: &mut Vec<Caution>) -> Result<(), KnfsdError> {
        let path = self.proc.path("proc/self/mountinfo");
        let mounts = mounts::read_nlm_mounts(&path)
            .map_err(|error| KnfsdError::Odd { path: path.clone(), what: error.to_string() })?;
        if let Some(mount) = mounts.first() {
            found.push(caution(
                "mounts",
                Weight::Refuse,
                format!(
                    "this host has an NFSv3 mount ({} at {}) whose locks keep lockd alive: stopping nfsd would drop \
                     nothing and start no grace",
                    mount.source,
                    mount.mount_point.display()
                ),
                "unmount it, or mount it with nolock or as NFSv4",
            ));
        }
        Ok(())
    }

    async fn drop_locks(&self, wanted: Duration) -> Result<Dropped, ManagerError> {
        let looked = self.blocking(|this| Ok((this.statd()?, this.proc.lockd()?, this.look_ahead()?))).await;
        let (statd, lockd, cautions) = looked.map_err(KnfsdError::refused)?;
        refuse(cautions)?;
        if let Some(lockd) = lockd.filter(|lockd| self.takes_signal(*lockd)) {
            match drops::by_signal(&self.proc, &self.dir, &statd, lockd, wanted).await {
                Attempt::Dropped(dropped) => return Ok(dropped),
                Attempt::NoEffect(_) => {
                    tracing::warn!("lockd did not drop its locks on a signal; stopping nfsd instead");
                }
                Attempt::Untouched(error) => return Err(error.refused()),
                Attempt::Lost(error) => return Err(error.lost()),
            }
            // What does not matter to the signal may be in the way of the other.
            let mut mounts = Vec::new();
            self.look_at_mounts(&mut mounts).map_err(KnfsdError::refused)?;
            refuse(mounts)?;
        }
        let stopped = self
            .blocking(move |this| Ok(drops::by_stopping(&this.proc, &this.dir, &this.program, &statd, wanted)))
            .await
            .map_err(KnfsdError::lost)?;
        match stopped {
            Attempt::Dropped(dropped) => Ok(dropped),
            Attempt::Untouched(error) => Err(error.refused()),
            Attempt::NoEffect(down) => Err(ManagerError::Refused(Refusal::new(
                RefusalCode::Unsupported,
                format!(
                    "nfsd was stopped for {} ms and runs again as before, but something keeps lockd alive (an NFSv3 \
                     mount in a container?): no lock was dropped",
                    down.as_millis()
                ),
            ))),
            Attempt::Lost(error) => Err(error.lost()),
        }
    }
}

/// What is in the way, as a refusal.
fn refuse(cautions: Vec<Caution>) -> Result<(), ManagerError> {
    match cautions.into_iter().find(|caution| caution.weight == Weight::Refuse) {
        None => Ok(()),
        Some(stop) => {
            let message = format!("{}; {}", stop.text, stop.remedy);
            Err(ManagerError::Refused(Refusal::new(RefusalCode::Unsupported, message)))
        }
    }
}

/// This host's addresses from which clients may have mounted: of every interface that is up.
fn server_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let mut found: Vec<IpAddr> = all
        .filter(|interface| interface.flags.contains(wanted) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| {
                let v6 = address.as_sockaddr_in6()?.ip();
                // Its zone is not in a notice.
                (!v6.is_unicast_link_local()).then(|| v6.into())
            })
        })
        .collect();
    found.dedup();
    found
}

/// The resolver's answer; nothing where it has none. The notifier asks again then.
fn resolve(host: &str) -> Vec<IpAddr> {
    let mut found = dns_lookup::lookup_host(host).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    found.dedup();
    found
}

/// An ack from an address that two hosts have is evidence for neither.
fn mark_shared(rows: &mut [ClientRow]) {
    let mut names: HashMap<Address, Vec<CallerName>> = HashMap::new();
    for row in rows.iter() {
        for address in row.addresses.as_slice() {
            names.entry(*address).or_default().push(row.name.clone());
        }
    }
    for row in rows {
        let shares = |address: &Address| {
            names.get(address).is_some_and(|names| names.iter().any(|other| !other.matches(&row.name)))
        };
        row.shared_address = row.addresses.as_slice().iter().any(shares);
    }
}

#[async_trait]
impl Backend for Knfsd {
    fn kind(&self) -> &'static str {
        "knfsd"
    }
    fn endpoint(&self) -> String {
        ENDPOINT.to_owned()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mark: false,
            list_locks: true,
            knows_owners: false,
            targeted: false,
            settle_early: true,
            late_reclaims: false,
            release: true,
            knows_reclaims: true,
            knows_paths: false,
            begin_releases: true,
        }
    }

    async fn identity(&self) -> Result<Identity, ManagerError> {
        let (software, life) =
            self.blocking(|this| Ok((this.software()?, this.life()?))).await.map_err(KnfsdError::unanswered)?;
        let names =
            own_names::own_names(&[]).await.map_err(|error| KnfsdError::Stuck(error.to_string()).unanswered())?;
        Ok(Identity { software, life, names })
    }
    async fn nsm_state(&self) -> Result<NsmState, ManagerError> {
        self.blocking(|this| this.statd()?.state(&this.proc)).await.map_err(KnfsdError::unanswered)
    }
    async fn sight(&self) -> Result<Sight, ManagerError> {
        self.blocking(|this| this.proc.sight()).await.map_err(KnfsdError::unanswered)
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        self.blocking(Self::rows).await.map_err(KnfsdError::unanswered)
    }
    async fn client_count(&self) -> Result<u64, ManagerError> {
        let counted = self.blocking(|this| {
            let entries = this.statd()?.roster()?.entries;
            let hosts: HashSet<&str> = entries.iter().map(|entry| entry.host.as_str()).collect();
            Ok(hosts.len() as u64)
        });
        counted.await.map_err(KnfsdError::unanswered)
    }
    async fn in_grace(&self) -> Result<bool, ManagerError> {
        self.blocking(|this| Ok(this.proc.nlm_in_grace()? || this.proc.v4_in_grace()?))
            .await
            .map_err(KnfsdError::unanswered)
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        self.blocking(Self::look_ahead).await.map_err(KnfsdError::unanswered)
    }

    async fn recover(&self) -> Result<Recovered, ManagerError> {
        let left = self.blocking(|this| {
            guard::wait_for_another(&this.dir)?;
            let saved = Saved::find(&this.dir)?;
            let may_be_pending = match &saved {
                Some(saved) if saved.may_have_sent_a_signal(&this.proc)? => this.proc.lockd()?.is_some(),
                Some(_) | None => false,
            };
            Ok((saved, may_be_pending))
        });
        let (saved, may_be_pending) = left.await.map_err(KnfsdError::unanswered)?;
        if may_be_pending {
            // Before the length of grace is put back: its grace begins only then.
            drops::let_it_take_a_signal(&self.proc).await.map_err(KnfsdError::unanswered)?;
        }
        let Some(saved) = saved else { return Ok(Recovered::default()) };
        let lines = self.blocking(move |this| saved.put_back(&this.proc, &this.dir)).await;
        Ok(Recovered { lines: lines.map_err(KnfsdError::unanswered)?, may_have_dropped: true })
    }
    async fn raise_state(&self, state: NsmState) -> Result<(), ManagerError> {
        self.blocking(move |this| this.statd()?.raise(&this.proc, state)).await.map_err(KnfsdError::refused)
    }
    async fn begin(&self, grace: Duration) -> Result<Dropped, ManagerError> {
        self.drop_locks(grace).await
    }
    async fn end_grace(&self) -> Result<GraceEnd, ManagerError> {
        self.blocking(|this| {
            let proc = &this.proc;
            let mut goes_on = None;
            if proc.v4_in_grace()? {
                match v4::look(proc)? {
                    V4::None => {
                        // Somebody else may have ended it meanwhile, and a second time is an error.
                        let _ = proc.write("proc/fs/nfsd/v4_end_grace", "Y\n");
                    }
                    V4::Some { .. } | V4::NotKnown(_) => {
                        let why = "NFSv4's grace goes on, since its clients may still reclaim; ordinary NLM requests \
                                   are refused until it is over";
                        goes_on = Some(why.to_owned());
                    }
                }
            }
            proc.write("proc/fs/lockd/nlm_end_grace", "Y\n")?;
            if proc.nlm_in_grace()? {
                return Err(KnfsdError::Stuck("lockd's grace did not end".into()));
            }
            Ok(goes_on.map_or(GraceEnd::Over, GraceEnd::GoesOn))
        })
        .await
        .map_err(KnfsdError::lost)
    }
    async fn finish(&self) -> Result<Vec<String>, ManagerError> {
        let told = self.blocking(|this| {
            let statd = this.statd()?;
            Statd::tell_the_kernel(&this.proc, statd.state(&this.proc)?)
        });
        told.await.map_err(KnfsdError::lost)?;
        Ok(Vec::new())
    }
    async fn release_client(&self, client: &CallerName) -> Result<ClientReleased, ManagerError> {
        self.release(client.as_str()).await.map_err(KnfsdError::lost)
    }
    async fn paths(&self, files: &[String]) -> HashMap<String, String> {
        let files = files.to_vec();
        let found = self.blocking(move |this| Ok(paths::find(&this.proc, &files))).await;
        found.unwrap_or_default()
    }
}
