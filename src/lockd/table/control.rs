//! The control protocol: requests of controllers to the owner and to the archive.

use async_trait::async_trait;

use super::handle::Table;
use super::state::Owner;
use crate::locks::Listing;
use crate::rpc::control::{LockManagerControl, Timeline};
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    BeginArgs, Begun, ClientPage, ClientResultPage, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs, PageAfter,
    ProgressArgs, Refusal, ReleaseArgs, Released, RunArgs, RunClientPage, RunList, RunPageAfter, RunResult, SettleArgs,
    Status, WatchArgs, Watched,
};
use crate::wire::xdr::Void;

impl Table {
    /// What the owner answers at once.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.order(|owner, asker| {
            let _ = asker.send(Ok(at(owner)));
        })
        .await
    }
}

#[async_trait]
impl LockManagerControl for Table {
    async fn info(&self) -> Result<Info, Refusal> {
        Ok(self.archive.info(self.nsm_state()))
    }
    async fn status(&self) -> Result<Status, Refusal> {
        self.look(|owner| owner.status()).await
    }
    async fn clients(&self, args: PageAfter) -> Result<ClientPage, Refusal> {
        self.look(move |owner| owner.table.list_clients(args.after)).await
    }
    async fn locks(&self, args: LocksArgs) -> Result<LockPage, Refusal> {
        let mut page = Listing::new(args);
        loop {
            // Others have their turn in between.
            let done;
            (page, done) = self
                .look(move |owner| {
                    let done = owner.table.list_locks_on(&mut page);
                    (page, done)
                })
                .await?;
            if done {
                return Ok(page.into_page());
            }
            tokio::task::yield_now().await;
        }
    }
    async fn begin(&self, args: BeginArgs, from: ConnectionId) -> Result<Begun, Refusal> {
        self.order(move |owner, asker| owner.begin(Box::new(args), from, asker)).await
    }
    async fn run_clients(&self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        self.look(move |owner| owner.run_clients(args)).await?
    }
    async fn progress(&self, args: ProgressArgs, from: ConnectionId) -> Result<Status, Refusal> {
        self.look(move |owner| {
            let taken = owner.progress(&args, from);
            owner.told(taken)
        })
        .await?
    }
    async fn extend(&self, args: ExtendArgs) -> Result<Status, Refusal> {
        self.look(move |owner| {
            let moved = owner.table.extend(owner.clock.now(), &args);
            owner.told(moved)
        })
        .await?
    }
    async fn settle(&self, args: SettleArgs, from: ConnectionId) -> Result<RunResult, Refusal> {
        self.order(move |owner, asker| owner.settle(args, from, asker)).await
    }
    async fn abort(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.order(move |owner, asker| owner.abort(args, asker)).await
    }
    async fn result(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.archive.result(args.run).await
    }
    async fn result_clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        self.archive.clients(args).await
    }
    async fn result_locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        self.archive.locks(args).await
    }
    async fn acknowledge(&self, args: RunArgs) -> Result<Void, Refusal> {
        self.archive.acknowledge(args.run).await.map(|()| Void)
    }
    async fn release(&self, args: ReleaseArgs) -> Result<Released, Refusal> {
        self.free_chosen(args).await
    }
    async fn watch(&self, args: WatchArgs) -> Result<Watched, Refusal> {
        let cursor = self.look(|owner| owner.timeline.subscribe()).await?;
        Timeline::news(cursor, args).await;
        self.look(move |owner| Watched { status: owner.status(), events: owner.timeline.since(args.cursor) }).await
    }
    async fn unfetched(&self) -> Result<RunList, Refusal> {
        self.archive.unfetched().await
    }

    fn connection_closed(&self, connection: ConnectionId) {
        self.tell(|owner| owner.runs.detached(connection));
    }
}
