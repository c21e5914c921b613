//! The Linux kernel's lock manager, lockd, beside nfsd.
//!
//! Theory. lockd has no idea of a run. It can be made to drop *every* lock and to start grace
//! ([`drops`]), it shows ranges but no owners (`/proc/locks` has its own number for each client's
//! lock; lists for people read its memory, [`owners`]), and rpc.statd beside it keeps the names of its clients. So a run is
//! led by a process in front of it ([`grace`]), or, by `--method reboot`, from here: all that is there is written down, the
//! state number raised, everything dropped, grace seen, clients told, and what came back compared
//! ([`adapter`](super::adapter) does that part).
//!
//! What must hold:
//! - Nothing is touched where it could not work or would hurt others: an NFSv3 mount here keeps lockd
//!   alive while nfsd is down; NFSv4 clients wait and reclaim too, so this needs consent; without
//!   rpc.statd no client could be told.
//! - A setting that is changed for a moment is saved on disk before ([`saved`]); if nfsd is stopped, a process of its
//!   own is there to bring it back ([`guard`]).
//! - NFSv4's grace is ended with lockd's only if no client could still reclaim in it ([`v4`]).
//! - Monitor records outlive a run ([`records`]).
//!
//! | file | what |
//! |---|---|
//! | `snapshot` | what is locked |
//! | `records` | monitor records |
//! | `scope` | NFSv4's server scope, which a stop loses |
//! | `settings` | nfsd's settings |
//! | `saved` | settings to restore |
//! | `grace` | the default way: a process in front of lockd has the run |
//! | `keeper_files` | the files of that process |
//! | `guard` | the process that restores nfsd if nlmctl dies |
//! | `hidden` | how those two processes are started |
//! | `cautions` | what a run by `--method reboot` meets here |
//! | `drops` | the two ways to drop |
//! | `v4` | NFSv4 clients |
//! | `owners` | who owns the locks |
//! | `listing` | the same, as lists for people |
//! | `paths` | names of files |
//! | `release` | frees one client's locks |
//! | `single` | frees single locks that were chosen |
//! | `unlock` | UNLOCK in an owner's name |
//! | `unsure` | locks that runs must keep: their reclaim may have been refused |
//! | `port` | where lockd listens |
//! | `obstacles` | what stands in the way of a grace period in front of lockd |
//! | `mod` | the backend; start reading at `begin` |

mod cautions;
mod drops;
mod error;
pub mod grace;
pub mod guard;
pub mod hidden;
pub mod keeper_files;
mod listing;
pub mod obstacles;
pub(crate) mod owners;
mod paths;
mod pending;
pub(crate) mod port;
mod records;
mod release;
mod saved;
mod scope;
mod settings;
pub(crate) mod single;
mod snapshot;
pub(crate) mod unlock;
pub(crate) mod unsure;
mod v4;

pub use error::KnfsdError;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use self::drops::Attempt;
use self::error::ENDPOINT;
use self::saved::Saved;
use self::v4::{Grace, V4};
use super::adapter::run_files::RunFiles;
use super::adapter::{
    Adapter, Backend, ClientReleased, Dropped, GraceEnd, Identity, LocksReleased, Snapshot, client_row, instance_of,
};
use super::{Caution, ManagerError, Owners, Weight};
use crate::host::{self, FileError, Lockd, Machine, ReplyRoute, StatdDir, StatdDirError, may_administer_network};
use crate::nsm::roster::{self, Roster};
use crate::rpc::resolver;
use crate::units;
use crate::wire::control::{Capabilities, ClientRow, InstanceId, LockRow, Refusal, RefusalCode};
use crate::wire::types::{Address, CallerName, NsmState};

/// How long the resolver may take for the names of all clients.
const RESOLVER_PATIENCE: Duration = Duration::from_secs(8);
/// Where runs, and what is to be put back, are kept.
pub const STATE_DIR: &str = "/var/lib/nlmctl/knfsd";
/// The lock domains that lockd's locks exclude: it locks in the file system itself.
pub(crate) const DOMAINS: &[&str] = &["nlm", "nfsv4", "local processes"];

#[derive(Debug, Clone)]
pub struct Knfsd {
    machine: Machine,
    dir: PathBuf,
    program: PathBuf,
}

/// This host's knfsd as a lock manager. `program` is nlmctl's own file: the guard is started from it.
pub fn manager(dir: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Adapter<Knfsd> {
    let dir = dir.into();
    let run_files = RunFiles::new(&dir);
    Adapter::new(Knfsd::new(dir, program), run_files)
}

/// Whether this host's nfsd serves, or would if an earlier run had not left it stopped.
pub fn is_here() -> bool {
    Machine::default().nfsd_threads().is_ok_and(|threads| threads > 0) || Saved::is_there(Path::new(STATE_DIR))
}

/// Why this user cannot see whether nfsd serves, where that is so.
pub fn is_hidden() -> Option<String> {
    let error = Machine::default().nfsd_threads().err()?;
    matches!(&error, FileError::Io(.., io) if io.kind() == std::io::ErrorKind::PermissionDenied)
        .then(|| error.to_string())
}

impl Knfsd {
    /// Of this host.
    pub(crate) fn new(dir: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        Self { machine: Machine::default(), dir: dir.into(), program: program.into() }
    }

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

    pub(crate) fn statd(&self) -> Result<StatdDir, KnfsdError> {
        Ok(StatdDir::find(&self.machine, None)?)
    }

    fn roster(&self) -> Result<Roster, KnfsdError> {
        Ok(roster::read_sm_dir(&self.statd()?.sm())?)
    }

    /// All locks that lockd has, with their owners.
    fn view(&self) -> Result<owners::View, KnfsdError> {
        owners::look(&self.machine)
            .map_err(|error| KnfsdError::Owners { what: error.to_string(), remedy: error.remedy() })
    }

    /// The state number that notices of the next reboot go on from.
    pub(crate) fn state(&self) -> Result<NsmState, KnfsdError> {
        match self.statd()?.state() {
            // Made by the first sm-notify; until then the kernel's number is all there is.
            Err(StatdDirError::Missing(_)) => Ok(self.machine.kernels_nsm_state().unwrap_or_default()),
            state => Ok(state?),
        }
    }

    /// Tells the kernel that number again: statd answers each request to monitor a host with the one that it read when it
    /// started, and the kernel believes it.
    pub(crate) fn give_kernel_its_state(&self) -> Result<(), KnfsdError> {
        self.machine.set_kernels_nsm_state(self.state()?);
        Ok(())
    }

    /// A number after `last` and after that one, durable in statd's file, which is made where it is missing.
    pub(crate) fn raise_state(&self, last: NsmState) -> Result<NsmState, KnfsdError> {
        let next = self.state()?.later(last).next_up();
        self.statd()?.write_state(next)?;
        Ok(next)
    }

    /// This life of lockd: its locks go with it.
    pub(crate) fn life(&self) -> Result<String, KnfsdError> {
        Ok(match self.machine.lockd()? {
            Some(lockd) => self.machine.life(lockd.pid)?,
            None => format!("{} no lockd", self.machine.boot_id()?),
        })
    }

    /// The same as the instance of the lock manager that stands in front of it.
    pub(crate) fn grace_instance(&self) -> Result<InstanceId, KnfsdError> {
        Ok(instance_of("knfsd by grace", &self.life()?))
    }

    fn takes_signal(&self, lockd: Lockd) -> bool {
        lockd.takes_kill && self.machine.share_network("self", "1")
    }

    fn software(&self) -> Result<String, KnfsdError> {
        if self.machine.nfsd_threads()? == 0 {
            return Err(KnfsdError::Down);
        }
        Ok(format!("knfsd (Linux {})", self.machine.release()?))
    }

    pub(crate) async fn rows(&self) -> Result<Vec<ClientRow>, KnfsdError> {
        let roster = self.blocking(Self::roster).await?;
        roster.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let own = host::serving_addresses().unwrap_or_default();
        let mut known: HashMap<CallerName, Option<IpAddr>> = HashMap::new();
        let mut names = Vec::new();
        for entry in &roster.entries {
            let Ok(name) = CallerName::of_bytes(entry.host.as_bytes()) else { continue };
            if known.contains_key(&name) {
                continue;
            }
            // lockd names a client by its address unless it was told otherwise.
            let monitored = entry.monitor.as_ref().map(|monitor| monitor.mon_id.mon_name.as_str());
            let mut texts = monitored.into_iter().chain([entry.host.as_str()]);
            known.insert(name.clone(), texts.find_map(|text| host::address(text).ok()));
            names.push(name);
        }
        let to_ask = known.iter().filter(|(_, address)| address.is_none()).map(|(name, _)| name.clone()).collect();
        // Nothing, where the resolver has none in time. The notifier asks again then.
        let found = resolver::each(to_ask, RESOLVER_PATIENCE).await;
        let row = |name: CallerName| {
            let asked = || found.get(&name).and_then(|found| found.clone().ok()).unwrap_or_default();
            let addresses = known.get(&name).copied().flatten().map_or_else(asked, |ip| vec![ip.to_canonical()]);
            let same_family =
                |ip: &&IpAddr| addresses.is_empty() || addresses.iter().any(|to| to.is_ipv4() == ip.is_ipv4());
            let called = own.iter().filter(same_family).copied();
            client_row(name, addresses.iter().copied(), called)
        };
        let mut rows: Vec<ClientRow> = names.into_iter().map(row).collect();
        mark_shared(&mut rows);
        Ok(rows)
    }

    async fn drop_locks(&self, wanted: Duration) -> Result<Dropped, ManagerError> {
        let looked = self.blocking(|this| Ok((this.statd()?, this.machine.lockd()?, this.look_ahead()?))).await;
        let (statd, lockd, cautions) = looked.map_err(KnfsdError::refused)?;
        refuse(cautions)?;
        if let Some(lockd) = lockd.filter(|lockd| self.takes_signal(*lockd)) {
            match drops::by_signal(&self.machine, &self.dir, &statd, lockd, wanted).await {
                Attempt::Dropped(dropped) => return Ok(dropped),
                Attempt::NoEffect(_) => {
                    tracing::warn!("lockd did not drop its locks on a signal; stopping nfsd instead");
                }
                Attempt::Untouched(error) => return Err(error.refused()),
                Attempt::Lost(error) => return Err(error.lost()),
            }
            // What does not matter to the signal may be in the way of the other.
            let mut found = Vec::new();
            self.look_at_stopping(&mut found).map_err(KnfsdError::refused)?;
            refuse(found)?;
        }
        let stopped = self
            .blocking(move |this| Ok(drops::by_stopping(&this.machine, &this.dir, &this.program, &statd, wanted)))
            .await
            .map_err(KnfsdError::lost)?;
        match stopped {
            Attempt::Dropped(dropped) => Ok(dropped),
            Attempt::Untouched(error) => Err(error.refused()),
            Attempt::NoEffect(down) => Err(ManagerError::Refused(Refusal::new(
                RefusalCode::Unsupported,
                format!(
                    "nfsd was stopped for {} and runs again as before, but something keeps lockd alive (an NFSv3 \
                     mount in a container?): no lock was dropped",
                    units::duration(down)
                ),
            ))),
            Attempt::Lost(error) => Err(error.lost()),
        }
    }
}

/// What a release that was killed has left; true if there was anything.
fn remove_route() -> Result<bool, KnfsdError> {
    let what = |error: std::io::Error| KnfsdError::Stuck(format!("cannot remove a route for replies: {error}"));
    Ok(may_administer_network() && ReplyRoute::remove_left().map_err(what)?)
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
    fn is_driven(&self) -> String {
        match keeper_files::drain_left(&keeper_files::folder(&self.dir), SystemTime::now()) {
            Some(left) => format!(
                "late reclaims of the last run are still taken, for {} more; a release and a run by `--method reboot` must \
                 wait for that",
                units::duration(left)
            ),
            None => "another nlmctl drives this lock manager".to_owned(),
        }
    }
    fn domains(&self) -> &'static [&'static str] {
        DOMAINS
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
        let names = host::own_names(&[]).await.map_err(|error| KnfsdError::Stuck(error.to_string()).unanswered())?;
        Ok(Identity { software, life, names })
    }
    async fn nsm_state(&self) -> Result<NsmState, ManagerError> {
        self.blocking(Self::state).await.map_err(KnfsdError::unanswered)
    }
    async fn sight(&self) -> Result<Snapshot, ManagerError> {
        self.blocking(|this| Ok(snapshot::look(&this.machine)?.0)).await.map_err(KnfsdError::unanswered)
    }
    async fn owners(&self) -> Result<Owners, ManagerError> {
        self.blocking(|this| Ok(this.look_at_owners())).await.map_err(KnfsdError::unanswered)
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        self.rows().await.map_err(KnfsdError::unanswered)
    }
    async fn client_count(&self) -> Result<u64, ManagerError> {
        let counted = self.blocking(|this| {
            let entries = this.roster()?.entries;
            let hosts: HashSet<&str> = entries.iter().map(|entry| entry.host.as_str()).collect();
            Ok(hosts.len() as u64)
        });
        counted.await.map_err(KnfsdError::unanswered)
    }
    async fn in_grace(&self) -> Result<bool, ManagerError> {
        self.blocking(|this| Ok(this.machine.in_grace()?)).await.map_err(KnfsdError::unanswered)
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        self.blocking(Self::look_ahead).await.map_err(KnfsdError::unanswered)
    }

    async fn may_have_dropped(&self) -> Result<bool, ManagerError> {
        self.blocking(|this| Ok(Saved::find(&this.dir)?.is_some())).await.map_err(KnfsdError::unanswered)
    }
    async fn recover(&self) -> Result<Vec<String>, ManagerError> {
        let left = self.blocking(|this| {
            let route = remove_route()?;
            guard::wait_for_another(&this.dir)?;
            let saved = Saved::find(&this.dir)?;
            let may_be_pending = match &saved {
                Some(saved) if saved.may_have_sent_a_signal(&this.machine)? => this.machine.lockd()?.is_some(),
                Some(_) | None => false,
            };
            Ok((route, saved, may_be_pending))
        });
        let (route, saved, may_be_pending) = left.await.map_err(KnfsdError::unanswered)?;
        if may_be_pending {
            // Before the length of grace is put back: its grace begins only then.
            drops::let_it_take_a_signal(&self.machine).await.map_err(KnfsdError::unanswered)?;
        }
        let route = route.then(|| "removed the routing rule of a release that was killed".to_owned());
        let mut lines = Vec::from_iter(route);
        let Some(saved) = saved else { return Ok(lines) };
        let put_back = self.blocking(move |this| saved.put_back(&this.machine, &this.dir)).await;
        lines.extend(put_back.map_err(KnfsdError::unanswered)?);
        Ok(lines)
    }
    async fn raise_state(&self, state: NsmState) -> Result<(), ManagerError> {
        self.blocking(move |this| Ok(this.statd()?.write_state(state)?)).await.map_err(KnfsdError::refused)
    }
    async fn begin(&self, grace: Duration) -> Result<Dropped, ManagerError> {
        self.drop_locks(grace).await
    }
    async fn end_grace(&self) -> Result<GraceEnd, ManagerError> {
        self.blocking(|this| {
            let machine = &this.machine;
            let mut goes_on = None;
            if machine.v4_in_grace()? {
                match v4::look(machine)? {
                    V4::None => {
                        goes_on = match v4::end_grace(machine)? {
                            Grace::Over => None,
                            Grace::Ending => Some("NFSv4's grace was asked to end and has not ended yet"),
                            Grace::Busy => Some(
                                "the kernel answers EBUSY to the request to end NFSv4's grace (Linux 7.3 does so as long as \
                                 nfsdcld does not run)",
                            ),
                        }
                    }
                    V4::Some { .. } | V4::NotKnown(_) => {
                        goes_on = Some("NFSv4's grace goes on, since its clients may still reclaim");
                    }
                }
            }
            machine.write("proc/fs/lockd/nlm_end_grace", "Y\n")?;
            if machine.nlm_in_grace()? {
                return Err(KnfsdError::Stuck("lockd's grace did not end".into()));
            }
            let refused = |why| format!("{why}; ordinary NLM requests are refused until it is over");
            Ok(goes_on.map(refused).map_or(GraceEnd::Over, GraceEnd::GoesOn))
        })
        .await
        .map_err(KnfsdError::lost)
    }
    async fn finish(&self) -> Result<Vec<String>, ManagerError> {
        self.blocking(Self::give_kernel_its_state).await.map_err(KnfsdError::lost)?;
        Ok(Vec::new())
    }
    async fn release_client(&self, client: &CallerName) -> Result<ClientReleased, ManagerError> {
        self.release(client.as_str()).await
    }
    async fn release_locks(&self, locks: &[LockRow]) -> Result<LocksReleased, ManagerError> {
        self.free_locks(locks).await
    }
    async fn paths(&self, files: &[String]) -> HashMap<String, String> {
        let files = files.to_vec();
        let found = self.blocking(move |this| Ok(paths::find(&this.machine, &files))).await;
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_state_is_the_files_and_without_one_the_kernels_and_is_raised_from_there() {
        let root = tempfile::tempdir().unwrap();
        let (file, kernels) = (root.path().join("var/lib/nfs/state"), root.path().join("proc/sys/fs/nfs"));
        for folder in [&root.path().join("var/lib/nfs/sm"), &kernels] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(kernels.join("nsm_local_state"), "3\n").unwrap();
        let knfsd = Knfsd { machine: Machine::at(root.path()), dir: PathBuf::new(), program: PathBuf::new() };
        assert_eq!(knfsd.state().unwrap(), NsmState(3));
        assert_eq!(knfsd.raise_state(NsmState(3)).unwrap(), NsmState(5), "there was no file to go on from");
        assert_eq!((fs::read(&file).unwrap(), knfsd.state().unwrap()), (5i32.to_ne_bytes().to_vec(), NsmState(5)));
        assert_eq!(knfsd.raise_state(NsmState(3)).unwrap(), NsmState(7), "the file's is later");
        knfsd.statd().unwrap().write_state(NsmState(-7)).unwrap();
        assert_eq!(knfsd.state().unwrap(), NsmState(-7));
        assert_eq!(fs::read(&file).unwrap(), (-7i32).to_ne_bytes());
        assert_eq!(knfsd.machine.word("proc/sys/fs/nfs/nsm_local_state").unwrap(), "-7");
        fs::write(&file, b"17\n").unwrap();
        assert!(knfsd.state().is_err());
    }
}
