//! Holders of locks of the kernel's lockd, and who waits for them: read from its memory, which is not changed.
//!
//! Theory. `/proc/locks` shows the process of lockd itself for each NLM lock, so the owner must be found in lockd's own
//! records. These are hash tables and lists: hosts (`nlm_server_hosts`: a client by an address of its, the address it
//! called, version and transport), files (`nlm_files`), on each file's inode the granted locks, whose owner leads to a
//! host, and on each file its blocked requests. BTF tells their layout ([`layout`]).
//!
//! lockd keeps running while it is read. So a record is believed only if all of this holds:
//! - each link of a list points back to the one before; a lock has lockd's operations; its owner's host is in the table of
//!   hosts; and after what it leads to was read, it is still the same. A chain of a table that changes is read again,
//! - the lock's host is the same after the pass as before,
//! - the lock is in `/proc/locks`, which the kernel prints under its own lock, as often as in memory; and each of lockd's
//!   that is listed there was found ([`agreement`]).
//!
//! If something does not hold yet, another pass is made, at most [`PASSES`]; then the view is refused. So a lock is
//! shown with its owner, or nothing is shown. For blocked requests and shares there is no second witness:
//! `/proc/locks` lists some of the former only, and none of the latter. They are those of the last pass.
//!
//! What lockd itself does not know: the owner handle of a granted lock, and names of clients behind one address but the
//! first.
//!
//! | file | what |
//! |---|---|
//! | `layout` | the layout of records |
//! | `reader` | fields, lists, strings |
//! | `clients` | hosts |
//! | `files` | files, with their locks and shares |
//! | `locks` | a lock from its records |
//! | `waiters` | blocked requests |
//! | `names` | paths of files |
//! | `agreement` | the agreement of memory and `/proc/locks`, though locks come and go |
//! | `error` | why a view was refused |
//! | `view` | the view for other modules |
//! | `mod` | finds lockd and looks at it; start reading at [`LockdMemory::look`] |

mod agreement;
mod clients;
mod error;
mod files;
mod layout;
mod locks;
mod names;
mod reader;
#[cfg(test)]
mod tests;
mod view;
mod waiters;

pub(crate) use error::OwnersError;
pub use view::Way;
pub(crate) use view::{ClientHost, HeldLock, HeldLocks, OwnerKey, Share, TO_THE_END, View, Waiter};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::agreement::Agreement;
use self::clients::Clients;
use self::error::Unsettled;
use self::files::Records;
use self::layout::Layout;
use self::reader::Reader;
use super::snapshot;
use crate::host::{Machine, is_refusal};

/// Most passes over lockd's memory.
const PASSES: usize = 20;
/// No pass begins after so long a time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most reads of one pass: some ten for each of a million locks.
const READS: u64 = 16_000_000;

const HOSTS: &str = "nlm_server_hosts";
const FILES: &str = "nlm_files";
const OPERATIONS: &str = "nlmsvc_lock_operations";

/// The kernel's lockd, as it is found in memory. Good until lockd's module is loaded anew.
#[derive(Debug)]
pub(crate) struct LockdMemory {
    machine: Machine,
    layout: Layout,
    network: u64,
    hosts: u64,
    files: u64,
    operations: u64,
}

/// What lockd has now.
///
/// # Errors
/// The errors of [`LockdMemory::find`] and [`LockdMemory::look`].
pub(crate) fn look(machine: &Machine) -> Result<View, OwnersError> {
    LockdMemory::find(machine)?.look()
}

impl LockdMemory {
    /// Finds it. This takes longer than to look at it: a list of all the kernel's names is read, and BTF.
    ///
    /// # Errors
    /// Everything that forbids to look, but a lack of agreement.
    pub(crate) fn find(machine: &Machine) -> Result<Self, OwnersError> {
        if machine.is_in_first_pid_namespace() != Some(true) {
            return Err(OwnersError::Namespace);
        }
        if !machine.has_lockd() {
            return Err(OwnersError::NotLoaded);
        }
        machine.memory(0).map_err(|error| match error {
            error if is_refusal(&error) && machine.is_locked_down() => OwnersError::LockedDown,
            error if is_refusal(&error) => OwnersError::Forbidden(error),
            error if error.is_missing() => OwnersError::NotDescribed(error),
            error => error.into(),
        })?;
        let symbols = machine.symbols("lockd", &[HOSTS, FILES, OPERATIONS])?;
        if symbols.is_hidden() {
            return Err(OwnersError::Hidden);
        }
        // Sizes of tables are in no description: what does not fit is another table than this version knows.
        let address = |name: &'static str, bytes: u64| {
            let address = symbols.address(name).ok_or(OwnersError::NoSymbol(name))?;
            let short = || OwnersError::Layout(format!("{name} has fewer than {bytes} bytes"));
            if symbols.has_room(address, bytes) { Ok(address) } else { Err(short()) }
        };
        let described = machine.types("lockd").map_err(|error| match error {
            error if error.is_missing() => OwnersError::NotDescribed(error),
            error => error.into(),
        })?;
        Ok(Self {
            layout: Layout::of(&described)?,
            network: machine.network_namespace().ok_or(OwnersError::ForeignNetwork)?,
            hosts: address(HOSTS, 8 * clients::TABLE)?,
            files: address(FILES, 8 * files::TABLE)?,
            operations: address(OPERATIONS, 8)?,
            machine: machine.clone(),
        })
    }

    /// What it has now.
    ///
    /// # Errors
    /// Memory and `/proc/locks` did not come to agree, or clients of another network namespace call.
    pub(crate) fn look(&self) -> Result<View, OwnersError> {
        let began = Instant::now();
        let (mut agreement, mut hosts) = (Agreement::default(), BTreeMap::new());
        let mut why = String::new();
        let mut passes = 0;
        while passes < PASSES && began.elapsed() < PATIENCE {
            passes += 1;
            let (Records { locks, mut waiters, mut shares }, clients) = match self.pass() {
                Ok(seen) => seen,
                Err(unsettled) => {
                    why = unsettled.to_string();
                    continue;
                }
            };
            if clients.values().any(|known| known.network != self.network) {
                return Err(OwnersError::ForeignNetwork);
            }
            // A lock of an earlier pass may be of a client that lockd has forgotten since.
            hosts.extend(clients.into_values().map(|known| (known.client.way, known.client)));
            agreement.learn(locks, snapshot::granted_in_pass(&self.machine, passes)?);
            if let Some(mut locks) = agreement.reached() {
                locks.sort_unstable();
                waiters.sort_unstable();
                shares.sort_unstable();
                return Ok(View { hosts: hosts.into_values().collect(), locks, waiters, shares, passes });
            }
            why = agreement.obstacle();
        }
        Err(OwnersError::NoAgreement { passes, why })
    }

    fn pass(&self) -> Result<(Records, Clients), Unsettled> {
        let memory =
            self.machine.memory(READS).map_err(|_| Unsettled::Changed("/proc/kcore can no longer be opened"))?;
        let reader = Reader { memory: &memory, layout: &self.layout };
        let mut clients = clients::read(reader, self.hosts)?;
        let mut found = files::read(reader, &clients, self.files, self.operations)?;
        let after = clients::read(reader, self.hosts)?;
        clients.retain(|at, known| after.get(at) == Some(known));
        found.keep_only(&clients)?;
        Ok((found, clients))
    }
}
