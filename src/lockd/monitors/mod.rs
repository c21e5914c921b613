//! The hosts that other programs of this host monitor through nlmd (SM_MON, `--nsm embedded`).
//!
//! # Theory
//! One task owns the records ([`book`]) and those hosts that have to be told of a crash of this one.
//! All other tasks have a [`Monitors`]. What is slow (disk, resolver, calls) is work beside the task,
//! in one `JoinSet`, and comes back as a [`Done`].
//!
//! | procedure | what it does here |
//! |---|---|
//! | SM_MON | the record is on disk, then the answer. The same request again changes nothing; another `priv` replaces the first. A host whose name does not resolve, or one too many, is STAT_FAIL |
//! | SM_UNMON, SM_UNMON_ALL | the records are gone, on disk too, then the answer. One made from a port below 1024 is removed, and replaced, only from such a port |
//! | SM_NOTIFY | the programs that monitor the sender are called on loopback ([`call_back`]), about a minute long each. One call for a record is under way; the latest state wins |
//! | SM_SIMU_CRASH | a program's locks died without this host: a new NSM state, then every host that was monitored is told and monitored no longer, as after a boot (XNFS chapter 11). nlmd's own clients are not told, for nlmd lost nothing, and no lock of theirs is touched: to check those is what a forced resync is for |
//!
//! Who is told when: after a boot of this machine all programs' locks are gone, so every monitored
//! host is told (rpc.statd does it through `sm.bak/`; here it is the table `to_tell`). A restart of
//! nlmd alone is none: the programs live on with their locks, their peers must not drop those, and
//! the records stay. A host is off the list once it acked, or once a program monitors it anew: it
//! may have locks there again, which a late notice would free. Who is left when the notices end (or
//! nlmd does) is told after the next boot or SM_SIMU_CRASH, with those of then, and not before.
//!
//! Start reading at [`Owner::run`].

mod callback;
mod notices;
mod records;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::persist::{Change, LocalMonitor, Persist, PersistError, ToTell, durably};
use super::table::{Clock, Names, Table};
use crate::rpc::resolver;
use crate::wire::control::Refusal;
use crate::wire::nsm::{MonArgs, MonId, MyId};
use crate::wire::types::{CallerName, NsmState};
pub use callback::CallBack;
use records::Book;

/// Requests that may wait; then senders wait.
const REQUESTS: usize = 256;
/// Names being looked up at once for SM_MON; one beyond that is not answered, and comes again.
const LOOKUPS_MAX: usize = 64;
/// Names being looked up at once because of notices, which any host can send: a notice beyond that
/// finds its host only where the host was.
const NOTICE_LOOKUPS_MAX: usize = 64;

/// What the task starts with.
#[derive(Debug)]
pub struct Setup {
    pub persist: Persist,
    /// The owner of the NSM state number.
    pub table: Table,
    pub clock: Clock,
    pub names: Names,
    /// The port of rpcbind, here and elsewhere.
    pub rpcbind_port: u16,
    /// The way to programs here.
    pub call_back: CallBack,
    /// The records found on disk.
    pub records: Vec<LocalMonitor>,
    pub to_tell: Vec<ToTell>,
    /// Whether this is the first start of a boot: they are told now.
    pub booted: bool,
}

#[derive(Debug)]
enum Request {
    Mon { mon: MonArgs, privileged: bool, done: oneshot::Sender<bool> },
    Unmon { id: MonId, privileged: bool, done: oneshot::Sender<()> },
    UnmonAll { asker: MyId, privileged: bool, done: oneshot::Sender<()> },
    Rebooted { source: IpAddr, name: CallerName, state: NsmState },
    Crash(oneshot::Sender<Result<(), Refusal>>),
}

/// The way to the task. Cloned freely; it ends when every one is dropped.
#[derive(Debug, Clone)]
pub struct Monitors {
    requests: mpsc::Sender<Request>,
}

impl Monitors {
    /// Starts the task, which after a boot begins to tell the hosts that have to be told.
    pub fn spawn(setup: Setup) -> Self {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        // As many at most as there are hosts to tell.
        let (tell_told, told) = mpsc::unbounded_channel();
        let mut book = Book::default();
        for record in setup.records {
            book.insert(record);
        }
        let booted = setup.booted;
        let owner = Owner {
            book,
            to_tell: setup.to_tell,
            persist: setup.persist,
            table: setup.table,
            clock: setup.clock,
            names: setup.names,
            rpcbind_port: setup.rpcbind_port,
            call_back: setup.call_back,
            work: JoinSet::new(),
            looking_up: 0,
            recording: HashMap::new(),
            writes: 0,
            looked_for: HashSet::new(),
            calling: HashMap::new(),
            telling: None,
            tell_told,
        };
        tokio::spawn(owner.run(inbox, told, booted));
        Self { requests }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.ok()?;
        answer.await.ok()
    }

    /// SM_MON, from a port below 1024 or not: whether the host is monitored. `None`: say nothing.
    pub async fn mon(&self, mon: MonArgs, privileged: bool) -> Option<bool> {
        self.ask(|done| Request::Mon { mon, privileged, done }).await
    }
    /// SM_UNMON. `None`: say nothing, it is monitored still.
    pub async fn unmon(&self, id: MonId, privileged: bool) -> Option<()> {
        self.ask(|done| Request::Unmon { id, privileged, done }).await
    }
    /// SM_UNMON_ALL. `None`: say nothing, they are monitored still.
    pub async fn unmon_all(&self, asker: MyId, privileged: bool) -> Option<()> {
        self.ask(|done| Request::UnmonAll { asker, privileged, done }).await
    }
    /// SM_NOTIFY. `None`: too much waits; say nothing.
    pub fn rebooted(&self, source: IpAddr, name: CallerName, state: NsmState) -> Option<()> {
        self.requests.try_send(Request::Rebooted { source, name, state }).ok()
    }
    /// SM_SIMU_CRASH. `None`: nlmd is stopping.
    pub async fn crash(&self) -> Option<Result<(), Refusal>> {
        self.ask(Request::Crash).await
    }
}

#[derive(Debug)]
enum Done {
    Nothing,
    /// Where the host of an SM_MON is.
    Found {
        monitor: LocalMonitor,
        done: oneshot::Sender<bool>,
    },
    Recorded {
        id: MonId,
        /// The number of the write.
        write: u64,
        outcome: Result<(), PersistError>,
        done: oneshot::Sender<bool>,
    },
    /// These are on disk still, and their programs were not answered.
    NotRemoved(Vec<LocalMonitor>),
    /// Where a monitored host is now, which a notice under `name` may have come from.
    Moved {
        source: IpAddr,
        name: CallerName,
        mon_name: CallerName,
        state: NsmState,
        addresses: Vec<IpAddr>,
    },
    CalledBack(MonId),
    Raised {
        outcome: Result<NsmState, Refusal>,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
}

#[derive(Debug)]
struct Owner {
    book: Book,
    to_tell: Vec<ToTell>,
    persist: Persist,
    table: Table,
    clock: Clock,
    names: Names,
    rpcbind_port: u16,
    call_back: CallBack,
    work: JoinSet<Done>,
    looking_up: usize,
    /// Records on the way to the disk: the number of the last write, and who asked for the same meanwhile.
    recording: HashMap<MonId, (u64, Vec<oneshot::Sender<bool>>)>,
    writes: u64,
    /// Monitored hosts that are being looked up, each for a notice from there.
    looked_for: HashSet<(IpAddr, CallerName)>,
    /// Records with a call under way, and the state to tell after it.
    calling: HashMap<MonId, Option<NsmState>>,
    telling: Option<AbortHandle>,
    tell_told: mpsc::UnboundedSender<ToTell>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop_telling();
    }
}

impl Owner {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Request>,
        mut told: mpsc::UnboundedReceiver<ToTell>,
        booted: bool,
    ) {
        let mut states = self.table.nsm_states();
        let state = *states.borrow_and_update();
        if booted {
            self.tell(state);
        } else if !self.to_tell.is_empty() {
            let hosts: Vec<_> = self.to_tell.iter().map(|host| host.mon_name.as_str()).collect();
            tracing::warn!(?hosts, "these were not notified of a crash before nlmd ended; they are after the next one");
        }
        loop {
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Some(done) = self.work.join_next(), if !self.work.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "work beside the monitor records failed"),
                },
                Some(host) = told.recv() => self.told(&host),
                // No host must hear an older number after a newer one. Notices that have ended stay ended.
                Ok(()) = states.changed() => {
                    let state = *states.borrow_and_update();
                    if self.is_telling() {
                        self.tell(state);
                    }
                }
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Mon { mon, privileged, done } => self.mon(mon, privileged, done),
            Request::Unmon { id, privileged, done } => {
                if self.book.is_reserved(&id) && !privileged {
                    tracing::warn!(host = %id.mon_name, program = id.my_id.my_prog, "SM_UNMON from a port above 1023, of what was monitored from one below: it stays");
                    let _ = done.send(());
                } else if let Some(removed) = self.book.remove(&id) {
                    tracing::info!(host = %id.mon_name, program = id.my_id.my_prog, "no longer monitored (SM_UNMON)");
                    self.remove(vec![removed], Change::NotLocal(id), done);
                } else {
                    let _ = done.send(());
                }
            }
            Request::UnmonAll { asker, privileged, done } => {
                let removed = self.book.remove_all(&asker, privileged);
                if removed.is_empty() {
                    let _ = done.send(());
                } else {
                    tracing::info!(
                        program = asker.my_prog,
                        removed = removed.len(),
                        "no longer monitors any host (SM_UNMON_ALL)"
                    );
                    self.remove(removed, Change::NoneLocal { asker, privileged }, done);
                }
            }
            Request::Rebooted { source, name, state } => self.rebooted(source, &name, state),
            Request::Crash(done) => {
                let table = self.table.clone();
                self.work.spawn(async move { Done::Raised { outcome: table.raise_state().await, done } });
            }
        }
    }

    /// Answers once they are gone from the disk; not at all if it does not take that.
    fn remove(&mut self, removed: Vec<LocalMonitor>, change: Change, done: oneshot::Sender<()>) {
        let submitted = self.persist.submit(change);
        self.work.spawn(async move {
            if let Err(error) = durably(submitted).await {
                tracing::error!(%error, "a monitor record was not removed from the disk");
                return Done::NotRemoved(removed);
            }
            let _ = done.send(());
            Done::Nothing
        });
    }

    fn mon(&mut self, mon: MonArgs, privileged: bool, done: oneshot::Sender<bool>) {
        let MonArgs { mon_id: id, private } = mon;
        if self.book.is_known(&id, &private, privileged) {
            match self.recording.get_mut(&id) {
                Some((_, asked)) => asked.push(done),
                None => _ = done.send(true),
            }
            return;
        }
        if self.book.is_reserved(&id) && !privileged {
            tracing::warn!(host = %id.mon_name, program = id.my_id.my_prog, "SM_MON from a port above 1023, of what is monitored from one below: it stays as it is");
            let _ = done.send(false);
            return;
        }
        if !self.book.has(&id) && !self.book.has_room(&id.my_id, privileged, self.to_tell.len()) {
            tracing::warn!(host = %id.mon_name, max = records::MAX, "SM_MON: too many hosts are monitored for programs here");
            let _ = done.send(false);
            return;
        }
        if self.looking_up >= LOOKUPS_MAX {
            return;
        }
        self.looking_up += 1;
        self.work.spawn(async move {
            let addresses = resolver::look_up(&id.mon_name, resolver::PATIENCE).await;
            Done::Found { monitor: LocalMonitor { id, private, privileged, addresses }, done }
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Found { monitor, done } => {
                self.looking_up -= 1;
                self.found(monitor, done);
            }
            Done::Recorded { id, write, outcome, done } => {
                let is_last = self.recording.get(&id).is_some_and(|(last, _)| *last == write);
                match &outcome {
                    Ok(()) => self.monitored_anew(&id),
                    Err(error) => {
                        tracing::error!(host = %id.mon_name, %error, "SM_MON: the record is not on disk");
                        if is_last {
                            self.book.remove(&id);
                        }
                    }
                }
                let asked = if is_last { self.recording.remove(&id) } else { None };
                for asked in asked.into_iter().flat_map(|(_, asked)| asked).chain([done]) {
                    let _ = asked.send(outcome.is_ok());
                }
            }
            Done::NotRemoved(removed) => {
                for monitor in removed.into_iter().filter(|monitor| !self.book.has(&monitor.id)).collect::<Vec<_>>() {
                    self.book.insert(monitor);
                }
            }
            Done::Moved { source, name, mon_name, state, addresses } => {
                if addresses.contains(&source) {
                    self.book.found_at(&mon_name, &addresses);
                    self.call_all_back(source, &name, state);
                }
                self.looked_for.remove(&(source, mon_name));
            }
            Done::CalledBack(id) => {
                if let Some(Some(state)) = self.calling.remove(&id) {
                    self.call_back(id, state);
                }
            }
            Done::Raised { outcome: Err(refusal), done } => {
                let _ = done.send(Err(refusal));
            }
            Done::Raised { outcome: Ok(state), done } => self.crashed(state, done),
        }
    }

    fn found(&mut self, monitor: LocalMonitor, done: oneshot::Sender<bool>) {
        let MonId { mon_name, my_id } = &monitor.id;
        if monitor.addresses.is_empty() {
            tracing::warn!(host = %mon_name, program = my_id.my_prog, "SM_MON: that name does not resolve; not monitored");
            let _ = done.send(false);
            return;
        }
        tracing::info!(host = %mon_name, program = my_id.my_prog, "monitored for a program here (SM_MON)");
        let id = monitor.id.clone();
        let submitted = self.persist.submit(Change::Local(monitor.clone()));
        // Now, so that an SM_UNMON behind it finds it.
        self.book.insert(monitor);
        self.writes += 1;
        let write = self.writes;
        // Who asked for what this one replaces is not answered, and asks again.
        self.recording.insert(id.clone(), (write, Vec::new()));
        self.work.spawn(async move { Done::Recorded { id, write, outcome: durably(submitted).await, done } });
    }

    fn rebooted(&mut self, source: IpAddr, name: &CallerName, state: NsmState) {
        // Looked at again only where a monitored host seems to have moved, one look at a time. The name
        // looked up is the one that the program gave: what the notice says is its sender's choice.
        for mon_name in self.book.elsewhere(source, name) {
            if self.looked_for.len() >= NOTICE_LOOKUPS_MAX {
                break;
            }
            if !self.looked_for.insert((source, mon_name.clone())) {
                continue;
            }
            let name = name.clone();
            self.work.spawn(async move {
                let addresses = resolver::look_up(&mon_name, resolver::PATIENCE).await;
                Done::Moved { source, name, mon_name, state, addresses }
            });
        }
        self.call_all_back(source, name, state);
    }

    fn call_all_back(&mut self, source: IpAddr, name: &CallerName, state: NsmState) {
        let Some(meant) = self.book.rebooted(source, name, state) else {
            tracing::warn!(%name, peer = %source, %state, "a reboot notice from an address that several monitored hosts share, under no name of theirs; no program is told");
            return;
        };
        for id in meant {
            if let Some(next) = self.calling.get_mut(&id) {
                *next = Some(state);
            } else {
                self.call_back(id, state);
            }
        }
    }

    fn call_back(&mut self, id: MonId, state: NsmState) {
        let Some(monitor) = self.book.get(&id).cloned() else { return };
        self.calling.insert(id.clone(), None);
        let call_back = self.call_back.clone();
        self.work.spawn(async move {
            let (host, program) = (&monitor.id.mon_name, monitor.id.my_id.my_prog);
            match call_back.tell(&monitor, state).await {
                Ok(()) => tracing::info!(%host, program, %state, "told a program here of a reboot"),
                Err(error) => {
                    tracing::warn!(%host, program, %state, %error, "a program here was not told of a reboot; given up");
                }
            }
            Done::CalledBack(id)
        });
    }

    /// The number is durable. If nlmd goes down before the list is, the crash was not answered, and
    /// its caller asks for it again.
    fn crashed(&mut self, state: NsmState, done: oneshot::Sender<Result<(), Refusal>>) {
        let hosts = self.book.take();
        tracing::info!(%state, hosts = hosts.len(), "SM_SIMU_CRASH: the hosts that programs here monitor are notified");
        super::recovery::warn_of_own_mounts();
        for host in hosts {
            if !self.to_tell.contains(&host) {
                self.to_tell.push(host);
            }
        }
        let submitted = self.persist.submit(Change::TellLocal);
        self.tell(state);
        self.work.spawn(async move {
            let outcome = durably(submitted).await;
            let refused =
                |error: PersistError| Refusal::new(crate::wire::control::RefusalCode::NotDurable, error.to_string());
            let _ = done.send(outcome.map_err(refused));
            Done::Nothing
        });
    }

    fn is_telling(&self) -> bool {
        self.telling.as_ref().is_some_and(|telling| !telling.is_finished())
    }

    fn stop_telling(&mut self) {
        if let Some(telling) = self.telling.take() {
            telling.abort();
        }
    }

    /// Tells all who are left, with this number.
    fn tell(&mut self, state: NsmState) {
        self.stop_telling();
        if self.to_tell.is_empty() {
            return;
        }
        let order = notices::Order {
            state,
            names: self.names.borrow().clone(),
            rpcbind_port: self.rpcbind_port,
            clock: self.clock,
        };
        let telling = tokio::spawn(notices::tell(self.to_tell.clone(), order, self.tell_told.clone()));
        self.telling = Some(telling.abort_handle());
    }

    /// A program may have locks there again, which a late notice would free.
    fn monitored_anew(&mut self, id: &MonId) {
        let Some(monitor) = self.book.get(id) else { return };
        let is_it = |host: &&ToTell| {
            host.mon_name == id.mon_name || host.addresses.iter().any(|address| monitor.addresses.contains(address))
        };
        let hosts: Vec<_> = self.to_tell.iter().filter(is_it).cloned().collect();
        for host in &hosts {
            self.told(host);
        }
        if !hosts.is_empty() && self.is_telling() {
            self.tell(self.table.nsm_state());
        }
    }

    /// It need not be told any more.
    fn told(&mut self, host: &ToTell) {
        self.to_tell.retain(|left| left != host);
        let told = Change::Told { mon_name: host.mon_name.clone(), my_name: host.my_name.clone() };
        if let Err(error) = self.persist.submit(told) {
            // At worst it is told once more.
            tracing::warn!(host = %host.mon_name, %error, "that it was notified is not on disk");
        }
    }
}
