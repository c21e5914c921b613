//! The records that are written, and those found at start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::locks::SlicedResult;
use crate::wire::control::{LockFate, Mode, PAGE, RunClient, RunId};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::List;

/// Results kept, fetched or not; the oldest goes first.
pub const RESULTS_KEPT: usize = 16;
/// Why the state directory cannot be used, or a change was not made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PersistError {
    /// Another nlmd has it.
    #[error("the state directory {0} is in use by another nlmd; stop that one, or give --state-dir another folder")]
    InUse(PathBuf),
    /// A file or folder cannot be made or opened.
    #[error(
        "cannot use the state directory {path}: {reason}; create it for nlmd's user, or give --state-dir another one"
    )]
    Directory { path: PathBuf, reason: String },
    /// The database does not open or is damaged.
    #[error("the database {path} cannot be used: {reason}; {remedy}")]
    Database {
        path: PathBuf,
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// SQLite refused a change.
    #[error("the state database did not take a change: {0}")]
    Write(String),
    /// Too many changes wait.
    #[error("too many changes wait for the state database")]
    Full,
    /// The writer is gone.
    #[error("the state database is closed")]
    Closed,
}

/// A client to tell of a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorRecord {
    pub name: CallerName,
    /// The address it calls from; with the name, the record's key.
    pub address: IpAddr,
    /// The server addresses it called.
    pub server_addresses: Vec<IpAddr>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
}

/// What a program of this host asked for by SM_MON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMonitor {
    /// The host to watch, and the program to call.
    pub id: MonId,
    /// Handed back in the call.
    pub private: [u8; 16],
    /// Whether it was asked for from a port below 1024: then the call comes from one too.
    pub privileged: bool,
    /// Where the host was when it was asked for.
    pub addresses: Vec<IpAddr>,
}

/// A host to tell that this one was down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    pub mon_name: CallerName,
    /// The name of this host that the program gave which monitored it.
    pub my_name: CallerName,
    pub addresses: Vec<IpAddr>,
}

impl ToTell {
    /// Each host once under each name that it knows this one by.
    pub(in crate::lockd) fn all_of(monitors: impl IntoIterator<Item = LocalMonitor>) -> Vec<Self> {
        let mut hosts: Vec<Self> = Vec::new();
        for LocalMonitor { id, addresses, .. } in monitors {
            let host = Self { mon_name: id.mon_name, my_name: id.my_id.my_name, addresses };
            if !hosts.iter().any(|known| (&known.mon_name, &known.my_name) == (&host.mon_name, &host.my_name)) {
                hosts.push(host);
            }
        }
        hosts
    }
}

/// An address that rpc.statd watches for nlmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    pub address: IpAddr,
    /// What comes back with the news.
    pub cookie: [u8; 16],
}

/// The active run as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    pub run: RunId,
    pub mode: Mode,
    /// The NSM state number before.
    pub old_state: NsmState,
    /// Its own.
    pub new_state: NsmState,
    /// When it began, milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Locks marked; 0 until [`Change::Marked`].
    pub in_scope: u64,
    /// The clients to notify; empty until [`Change::Marked`].
    pub clients: Arc<Vec<RunClient>>,
}

/// Something to make durable.
#[derive(Debug)]
pub enum Change {
    /// The NSM state number, of a start.
    State {
        state: NsmState,
        /// The boot of the machine that it is of.
        boot: String,
    },
    /// The NSM state number, raised by SM_SIMU_CRASH.
    Raised(NsmState),
    /// A program monitors a host; replaces what it asked for that host before.
    Local(LocalMonitor),
    /// It does not any more.
    NotLocal(MonId),
    /// It monitors no host any more.
    NoneLocal {
        asker: MyId,
        /// Whether those made from a port below 1024 go too.
        privileged: bool,
    },
    /// Every host that programs monitor is to be told, and is monitored no more.
    TellLocal,
    /// It was told.
    Told {
        mon_name: CallerName,
        /// This one, as it knows it.
        my_name: CallerName,
    },
    /// rpc.statd is going to be asked to watch an address.
    Watch(Watch),
    /// It need not watch it any longer.
    Unwatch(IpAddr),
    /// A client's monitor record, new or changed.
    Monitor(MonitorRecord),
    /// A record goes away.
    Forget { name: CallerName, address: IpAddr },
    /// A run is about to begin: its state number becomes the server's, in the same transaction.
    Begin(RunRecord),
    /// The run was not begun after all (the state number stays).
    NotBegun(RunId),
    /// What the run marked.
    Marked {
        run: RunId,
        in_scope: u64,
        /// The clients to notify.
        clients: Arc<Vec<RunClient>>,
    },
    /// Locks of the result of a run that is about to end, full pages of them, with `first` before them. Until
    /// [`Ended`](Self::Ended) comes they are no part of any result.
    Locks { run: RunId, first: usize, pages: Vec<List<LockFate, PAGE>> },
    /// The run has ended; replaces its record.
    Ended(EndedRun),
    /// The run goes on after all: its record is there again, and its result is none.
    TakenBack(RunRecord),
    /// A reclaim granted after the end. The result counts as unfetched again.
    Late(RunId, LockFate),
    /// The result was fetched.
    Acknowledge(RunId),
}

impl Change {
    /// Whether it must not overtake a result.
    pub(super) fn is_about_runs(&self) -> bool {
        matches!(
            self,
            Self::Begin(_)
                | Self::NotBegun(_)
                | Self::Marked { .. }
                | Self::Locks { .. }
                | Self::Ended(_)
                | Self::TakenBack(_)
                | Self::Late(..)
                | Self::Acknowledge(_)
        )
    }
}

/// A run that has ended. To free its rows takes long where there are many: the last clone is not the writer's.
pub type EndedRun = Arc<SlicedResult>;

/// What a start finds.
#[derive(Debug, Default)]
pub struct Found {
    /// The last NSM state number; none at the very first start.
    pub nsm_state: Option<NsmState>,
    /// The boot of the machine that it is of; empty where that is not known.
    pub boot: String,
    /// Whom to tell.
    pub monitors: Vec<MonitorRecord>,
    /// What programs asked for.
    pub local_monitors: Vec<LocalMonitor>,
    /// Hosts that still have to be told.
    pub to_tell: Vec<ToTell>,
    /// What rpc.statd was asked to watch.
    pub watches: Vec<Watch>,
    /// A run that was active when the daemon went down.
    pub run: Option<RunRecord>,
    /// Runs with a result, the oldest first.
    pub ended: Vec<RunId>,
    /// Whether clients may be missing, since it is not known how far the database had come.
    pub may_lack_clients: bool,
}
