//! A keeper at work before a made-up lockd and gate, with its run's controller.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::super::platform::{Gate, Platform};
use super::super::run_files::KeeperFiles;
use super::super::service::KeeperHandle;
use super::super::state::{Ask, Keeper};
use crate::interposer::messages::{Call, Claim, FilterEvent, LockRequest, Mode, Order, Reply, Request, Treated, Way};
use crate::manager::knfsd::owners::{ClientHost, HeldLock, View};
use crate::manager::knfsd::single::WhyThere;
use crate::rpc::control::LockManagerControl;
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    self, BeginArgs, Begun, ClientProgress, ClientRow, Counts, Delivery, FullResult, InstanceId, ProgressArgs, Refusal,
    RefusalCode, RunClient, RunId, RunPageAfter, RunResult, SettleArgs, SettleWhen, Silent, Status,
};
use crate::wire::nlm::Stat;
use crate::wire::types::{ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid};
use crate::wire::xdr::List;

pub(super) const SERVER: &str = "192.0.2.1";
pub(super) const OTHER_SERVER: &str = "192.0.2.2";
pub(super) const RUN: RunId = RunId([7; 16]);
pub(super) const WHOLE: ByteRange = ByteRange::ALL;

/// What a made-up lockd and its gate did, and are to do.
#[derive(Debug)]
pub(super) struct World {
    pub(super) view: View,
    pub(super) monitored: Vec<ClientRow>,
    pub(super) state: NsmState,
    /// In their sequence; UNLOCKs are there as `unlock FILE`.
    pub(super) done: Vec<String>,
    pub(super) orders: Vec<Order>,
    pub(super) tell: Option<mpsc::UnboundedSender<Option<FilterEvent>>>,
    pub(super) calls: u64,
    pub(super) gates: usize,
    pub(super) refuses_proof: bool,
    /// The filter dies after that.
    pub(super) dies_at_proof: bool,
    /// What the filter tells while the way is proved.
    pub(super) at_proof: Vec<FilterEvent>,
    /// UNLOCKs of this file have no effect.
    pub(super) stubborn: Option<&'static str>,
    /// UNLOCKs are executed only after lockd's records were read again.
    pub(super) is_late: bool,
    /// The keeper's folder, which goes away with the first UNLOCK.
    pub(super) folder: Option<PathBuf>,
    /// When this client is held.
    pub(super) on_hold: Vec<FilterEvent>,
    /// When lockd's records are read next.
    pub(super) on_view: Vec<FilterEvent>,
    /// Another lockd is there when UNLOCKs are sent.
    pub(super) next_lockd: Option<InstanceId>,
    /// The filter stands still: what it was asked.
    pub(super) unanswered: Option<Vec<u64>>,
    pub(super) rules_are_gone: bool,
    /// Once its client is held for the UNLOCKs.
    pub(super) loses_rules: bool,
    /// When the rules are kept while a client is held.
    pub(super) on_rules: Vec<FilterEvent>,
    pub(super) instance: InstanceId,
    /// lockd's records cannot be read.
    pub(super) unreadable: bool,
    pub(super) addresses: BTreeSet<IpAddr>,
}

pub(super) type Shared = Arc<Mutex<World>>;

pub(super) fn of(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

pub(super) struct FakeGate {
    pub(super) world: Shared,
    pub(super) told: mpsc::UnboundedReceiver<Option<FilterEvent>>,
}

impl Drop for FakeGate {
    fn drop(&mut self) {
        let mut world = of(&self.world);
        world.gates -= 1;
        world.done.push("no gate".into());
    }
}

pub(super) struct FakeLockd(Shared);

#[async_trait]
impl Platform for FakeLockd {
    async fn instance(&self) -> Result<InstanceId, String> {
        Ok(of(&self.0).instance)
    }
    async fn names(&self) -> Result<Vec<CallerName>, String> {
        Ok(vec![name("srv")])
    }
    fn addresses(&self) -> Result<BTreeSet<IpAddr>, String> {
        Ok(of(&self.0).addresses.clone())
    }
    async fn state(&self) -> Result<NsmState, String> {
        Ok(of(&self.0).state)
    }
    async fn raise_state(&self, last: NsmState) -> Result<NsmState, String> {
        let mut world = of(&self.0);
        world.state = last.next_up();
        world.done.push("raised".into());
        Ok(world.state)
    }
    async fn monitored(&self) -> Result<Vec<ClientRow>, String> {
        Ok(of(&self.0).monitored.clone())
    }
    async fn view(&self) -> Result<View, String> {
        let mut world = of(&self.0);
        for told in std::mem::take(&mut world.on_view) {
            world.tell.as_ref().unwrap().send(Some(told)).unwrap();
        }
        if world.unreadable { Err("no agreement".into()) } else { Ok(world.view.clone()) }
    }
    async fn unlock(&self, _: &View, locks: Vec<HeldLock>) -> Vec<WhyThere> {
        let mut world = of(&self.0);
        if let Some(folder) = world.folder.take() {
            std::fs::rename(&folder, folder.with_extension("away")).unwrap();
        }
        if let Some(next) = world.next_lockd.take() {
            world.instance = next;
            world.view.locks.clear();
        }
        for lock in &locks {
            let file = String::from_utf8(lock.handle.as_slice().to_vec()).unwrap();
            world.done.push(format!("unlock {file}"));
            if world.stubborn != Some(file.as_str()) && !world.is_late {
                world.view.locks.retain(|held| !(held.owner == lock.owner && held.handle == lock.handle));
            }
        }
        vec![WhyThere { words: "lockd would not".to_owned(), may_go_yet: world.is_late }; locks.len()]
    }
    async fn gate(&self, _: &View) -> Result<Box<dyn Gate>, String> {
        let (tell, told) = mpsc::unbounded_channel();
        let mut world = of(&self.0);
        world.tell = Some(tell);
        world.gates += 1;
        world.done.push("gate".into());
        Ok(Box::new(FakeGate { world: Arc::clone(&self.0), told }))
    }
    async fn prove(&self, mode: Mode, _: &View) -> Result<(), String> {
        let mut world = of(&self.0);
        world.done.push(format!("proof of {mode:?}"));
        for told in std::mem::take(&mut world.at_proof) {
            world.tell.as_ref().unwrap().send(Some(told)).unwrap();
        }
        if std::mem::take(&mut world.dies_at_proof) {
            world.tell.as_ref().unwrap().send(None).unwrap();
        }
        if world.refuses_proof { Err("an ordinary LOCK was granted".into()) } else { Ok(()) }
    }
    fn log(&self, _: &str) {}
}

#[async_trait]
impl Gate for FakeGate {
    async fn order(&mut self, order: Order) -> Result<(), String> {
        let mut world = of(&self.world);
        let tell = world.tell.clone().unwrap();
        match &order {
            Order::Answer(number) => {
                match &mut world.unanswered {
                    Some(unanswered) => unanswered.push(*number),
                    None => drop(tell.send(Some(FilterEvent::Obeyed(*number)))),
                }
                return Ok(());
            }
            Order::Hold(_) => {
                for told in std::mem::take(&mut world.on_hold) {
                    tell.send(Some(told)).unwrap();
                }
                world.done.push("hold".into());
            }
            Order::LetGo(_) => world.done.push("let go".into()),
            Order::Mode(mode) => world.done.push(format!("{mode:?}")),
            _ => {}
        }
        world.orders.push(order);
        Ok(())
    }
    async fn told(&mut self) -> Option<FilterEvent> {
        match self.told.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
    async fn restart(&mut self) -> Result<(), String> {
        of(&self.world).orders.clear();
        of(&self.world).done.push("restart".into());
        Ok(())
    }
    fn keep_rules(&mut self) -> Result<(), String> {
        let mut world = of(&self.world);
        let is_held = world.done.iter().any(|done| done == "hold");
        if is_held {
            for told in std::mem::take(&mut world.on_rules) {
                world.tell.as_ref().unwrap().send(Some(told)).unwrap();
            }
        }
        if world.rules_are_gone || (is_held && world.loses_rules) { Err("flushed".into()) } else { Ok(()) }
    }
}

pub(super) fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

pub(super) fn address(client: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, 10 + client])
}

pub(super) fn way(client: u8) -> Way {
    Way::sample(10 + client)
}

pub(super) fn held(client: u8, svid: i32, file: &str) -> HeldLock {
    let handle = FileHandle::new(file.as_bytes()).unwrap();
    HeldLock { caller: name(&format!("c{client}")), handle, ..HeldLock::sample(10 + client, svid) }
}

pub(super) fn claim(client: u8, svid: i32, file: &str, range: ByteRange) -> Claim {
    let file = FileHandle::new(file.as_bytes()).unwrap();
    Claim { way: way(client), svid: Svid(svid), file, range, exclusive: true }
}

pub(super) fn lock(client: u8, svid: i32, file: &str, reclaim: bool) -> Request {
    Request::Lock(LockRequest {
        claim: claim(client, svid, file, WHOLE),
        oh: OwnerHandle::new(b"whatever").unwrap(),
        reclaim,
        block: false,
        monitored: true,
        state: NsmState(3),
    })
}

/// A keeper at work, with its run's controller.
pub(super) struct Stage {
    pub(super) world: Shared,
    pub(super) handle: Arc<KeeperHandle>,
    pub(super) keeper: tokio::task::JoinHandle<()>,
    pub(super) dir: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new(locks: Vec<HeldLock>) -> Self {
        let mut hosts: Vec<ClientHost> = Vec::new();
        for lock in &locks {
            let way = lock.owner.way;
            if hosts.iter().all(|host| host.way != way) {
                let (caller, mon_name) = (lock.caller.clone(), Some(lock.caller.clone()));
                hosts.push(ClientHost { way, caller, mon_name, monitored: true, nsm_state: None });
            }
        }
        let view = View { hosts, locks, waiters: vec![], shares: vec![], passes: 1 };
        let world = World {
            view,
            monitored: Vec::new(),
            state: NsmState(1),
            done: Vec::new(),
            orders: Vec::new(),
            tell: None,
            calls: 0,
            gates: 0,
            refuses_proof: false,
            dies_at_proof: false,
            at_proof: Vec::new(),
            stubborn: None,
            is_late: false,
            folder: None,
            on_hold: Vec::new(),
            on_view: Vec::new(),
            next_lockd: None,
            unanswered: None,
            rules_are_gone: false,
            loses_rules: false,
            on_rules: Vec::new(),
            instance: InstanceId([1; 16]),
            unreadable: false,
            addresses: BTreeSet::from([SERVER, OTHER_SERVER].map(|ip| ip.parse().unwrap())),
        };
        Self::on(Arc::new(Mutex::new(world)), tempfile::tempdir().unwrap())
    }

    pub(super) fn on(world: Shared, dir: tempfile::TempDir) -> Self {
        let (asks, asked) = mpsc::channel::<Ask>(16);
        let keeper = Keeper::new(Arc::new(FakeLockd(Arc::clone(&world))), run_files(dir.path())).unwrap();
        let handle = Arc::new(KeeperHandle { asks, cursor: keeper.timeline.subscribe() });
        Self { world, handle, keeper: tokio::spawn(keeper.live(asked)), dir }
    }

    pub(super) async fn begin(&self, mode: control::Mode) -> Result<Begun, Refusal> {
        self.handle.begin(self.args(RUN, mode), ConnectionId(1)).await
    }

    pub(super) fn args(&self, run: RunId, mode: control::Mode) -> BeginArgs {
        let nsm_state = of(&self.world).state;
        let mut args = BeginArgs { nsm_state, mode, ..BeginArgs::sample(run) };
        args.policy.silent = Silent::Drop;
        args
    }

    pub(super) fn tell(&self, told: FilterEvent) {
        of(&self.world).tell.as_ref().unwrap().send(Some(told)).unwrap();
    }

    pub(super) fn call(&self, client: u8, request: Request) -> u64 {
        let number = {
            let mut world = of(&self.world);
            world.calls += 1;
            world.calls
        };
        let (caller, treated) = (name(&format!("c{client}")), Treated::Taken);
        self.tell(FilterEvent::Call(Call { number, way: way(client), caller, request, treated }));
        number
    }

    pub(super) fn answered(&self, client: u8, request: Request, stat: Stat) {
        let call = self.call(client, request);
        self.tell(FilterEvent::Reply(Reply { call, stat }));
    }

    /// All clients acked, and have had time enough since.
    pub(super) async fn acked(&self) {
        self.heard_of(RUN, |_| true).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
    }

    /// All clients of the run were told: of these names acks came, of the others nothing.
    pub(super) async fn heard_of(&self, run: RunId, acked: impl Fn(&str) -> bool) {
        let clients = self.handle.run_clients(RunPageAfter { run, after: 0 }).await.unwrap().clients.into_vec();
        let progress = |client: &RunClient| {
            let delivery = if acked(client.name.as_str()) { Delivery::Acked } else { Delivery::NoAnswer };
            ClientProgress { client: client.index, delivery, ago_ms: 0, suspect: false }
        };
        let clients = List::clipped(clients.iter().map(progress).collect());
        let args = ProgressArgs { run, notices_begun: true, clients };
        self.handle.progress(args, ConnectionId(1)).await.unwrap();
    }

    /// As a controller does: where clients are to be waited for it asks again.
    pub(super) async fn settle(&self) -> RunResult {
        let args = SettleArgs { run: RUN, when: SettleWhen::Always };
        loop {
            match self.handle.settle(args, ConnectionId(1)).await {
                Err(refusal) if refusal.code == RefusalCode::StillPending => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                settled => return settled.unwrap(),
            }
        }
    }

    pub(super) async fn status(&self) -> Status {
        self.handle.status().await.unwrap()
    }

    pub(super) fn result(&self) -> FullResult {
        run_files(self.dir.path()).result(RUN).unwrap().unwrap()
    }

    pub(super) fn done(&self) -> Vec<String> {
        of(&self.world).done.clone()
    }
}

pub(super) fn run_files(dir: &Path) -> KeeperFiles {
    KeeperFiles::open(dir).unwrap()
}

/// (reclaimed, released, dropped, kept)
pub(super) fn sums(counts: Counts) -> (u64, u64, u64, u64) {
    assert_eq!(
        counts.in_scope,
        counts.reclaimed + counts.released + counts.dropped + counts.kept + counts.unverified + counts.pending
    );
    (counts.reclaimed, counts.released, counts.dropped, counts.kept)
}
