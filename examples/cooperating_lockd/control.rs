//! The control protocol: what a controller asks, each in its line, and what the toy shows of itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use nlmctl::rpc::control::{ConnectionId, LockManagerControl, Timeline};
use nlmctl::wire::control::{
    AgedLock, BeginArgs, Begun, Capabilities, ClientPage, ClientResultPage, ClientRow, ExtendArgs, Grace, Info,
    LockFatePage, LockPage, LocksArgs, PageAfter, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Released, RunArgs,
    RunClientPage, RunList, RunPageAfter, RunResult, RunStatus, SettleArgs, Status, WatchArgs, Watched, page,
};
use nlmctl::wire::types::{Address, NsmState};
use nlmctl::wire::xdr::{List, Maybe, Text, Void};

use crate::toy::{Toy, millis, names, refused};

/// The toy behind a lock that is never held across an await.
pub(crate) struct Shared(pub(crate) Mutex<Toy>);

impl Shared {
    pub(crate) fn look(&self) -> MutexGuard<'_, Toy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// To change something: watchers look when the lock is free again.
    pub(crate) fn change(&self) -> MutexGuard<'_, Toy> {
        let toy = self.look();
        toy.timeline.changed();
        toy
    }
}

#[async_trait]
impl LockManagerControl for Shared {
    async fn info(&self) -> Result<Info, Refusal> {
        Ok(self.look().info())
    }
    async fn status(&self) -> Result<Status, Refusal> {
        Ok(self.look().status())
    }
    async fn clients(&self, args: PageAfter) -> Result<ClientPage, Refusal> {
        let (clients, next) = page(&self.look().clients(), args.after);
        Ok(ClientPage { clients, next })
    }
    async fn locks(&self, args: LocksArgs) -> Result<LockPage, Refusal> {
        let locks: Vec<_> = self.look().locks.values().cloned().map(AgedLock::from).collect();
        let (locks, next) = page(&locks, args.after);
        Ok(LockPage { locks, next })
    }
    async fn begin(&self, args: BeginArgs, _: ConnectionId) -> Result<Begun, Refusal> {
        self.change().begin(args)
    }
    async fn run_clients(&self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        let (clients, next) = page(&self.look().active(args.run)?.clients(), args.after);
        Ok(RunClientPage { clients, next })
    }
    async fn progress(&self, args: ProgressArgs, _: ConnectionId) -> Result<Status, Refusal> {
        let mut toy = self.change();
        toy.active(args.run)?.progress(&args);
        Ok(toy.status())
    }
    async fn extend(&self, args: ExtendArgs) -> Result<Status, Refusal> {
        let mut toy = self.change();
        toy.active(args.run)?.extend(args);
        Ok(toy.status())
    }
    async fn settle(&self, args: SettleArgs, _: ConnectionId) -> Result<RunResult, Refusal> {
        self.change().settle(args, false)
    }
    async fn abort(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.change().abort(args.run, "aborted by a controller")
    }
    async fn result(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        Ok(self.look().ended(args.run)?.result.clone())
    }
    async fn result_clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        let (clients, next) = page(self.look().ended(args.run)?.clients.as_slice(), args.after);
        Ok(ClientResultPage { clients, next })
    }
    async fn result_locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        let (locks, next) = page(self.look().ended(args.run)?.locks.as_slice(), args.after);
        Ok(LockFatePage { locks, next })
    }
    async fn acknowledge(&self, args: RunArgs) -> Result<Void, Refusal> {
        self.change().acknowledge(args.run);
        Ok(Void)
    }
    async fn release(&self, _: ReleaseArgs) -> Result<Released, Refusal> {
        refused(RefusalCode::Unsupported, "single locks are not freed here")
    }
    async fn watch(&self, args: WatchArgs) -> Result<Watched, Refusal> {
        let cursor = self.look().timeline.subscribe();
        Timeline::news(cursor, args).await;
        let toy = self.look();
        Ok(Watched { status: toy.status(), events: toy.timeline.since(args.cursor) })
    }
    async fn unfetched(&self) -> Result<RunList, Refusal> {
        Ok(RunList { runs: List::clipped(self.look().results.keys().copied().collect()) })
    }
}

impl Toy {
    fn info(&self) -> Info {
        Info {
            software: Text::clipped("cooperating_lockd"),
            instance: self.instance,
            nsm_state: self.state,
            names: names(),
            capabilities: Capabilities {
                mark: true,
                list_locks: true,
                knows_owners: true,
                targeted: false,
                settle_early: true,
                late_reclaims: false,
                release: false,
                knows_reclaims: true,
                knows_paths: false,
                begin_releases: false,
            },
            domains: List::clipped(vec![Text::clipped("toy")]),
        }
    }

    fn status(&self) -> Status {
        let run = self.run.as_ref().map(|run| RunStatus {
            run: run.args.run,
            mode: run.args.mode,
            nsm_state: run.begun.new_state,
            elapsed_ms: millis(run.elapsed()),
            remaining_ms: millis(run.deadline().saturating_sub(run.elapsed())),
            latest_remaining_ms: run.args.grace_max_ms.saturating_sub(millis(run.elapsed())),
            last_reclaim_ms: Maybe(run.last_reclaim.map(|at| millis(run.elapsed().saturating_sub(at)))),
            counts: run.total(),
            notices_begun: run.notices_begun,
        });
        let clients = self.clients().len() as u64;
        Status {
            instance: self.instance,
            nsm_state: self.state,
            grace: if run.is_some() { Grace::Strict } else { Grace::Open },
            grace_remaining_ms: run.as_ref().map_or(0, |run| run.remaining_ms),
            clients,
            monitored: clients,
            locks: self.locks.len() as u64,
            unmonitored: 0,
            waiters: 0,
            run: Maybe(run),
            cursor: self.timeline.cursor(),
        }
    }

    fn clients(&self) -> Vec<ClientRow> {
        let mut clients = BTreeMap::new();
        for lock in self.locks.values() {
            let row = clients.entry((&lock.owner.name, lock.owner.address.0)).or_insert_with(|| ClientRow {
                name: lock.owner.name.clone(),
                addresses: List::clipped(vec![lock.owner.address]),
                server_addresses: List::clipped(vec![Address(Ipv4Addr::LOCALHOST.into())]),
                nsm_state: NsmState(0),
                monitored: true,
                shared_address: false,
                locks: 0,
                unmonitored: 0,
                waiters: 0,
                suspicions: List::default(),
            });
            row.locks += 1;
        }
        clients.into_values().collect()
    }
}
