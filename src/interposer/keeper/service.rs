//! The control protocol by which nlmctl drives the keeper: each call is handed to the one task that owns the keeper.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::state::{Ask, Keeper, Work};
use crate::rpc::control::{LockManagerControl, Timeline};
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    BeginArgs, Begun, ClientPage, ClientResultPage, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs, PageAfter,
    ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Released, RunArgs, RunClientPage, RunList, RunPageAfter,
    RunResult, SettleArgs, Status, WatchArgs, Watched, page,
};
use crate::wire::xdr::{List, Void};

/// The keeper, from the tasks that serve calls.
#[derive(Debug)]
pub(super) struct KeeperHandle {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) cursor: watch::Receiver<u64>,
}

impl KeeperHandle {
    async fn ask<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut Keeper) -> Work<'a, Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let ask: Ask = Box::new(move |keeper| {
            Box::pin(async move {
                let _ = answer.send(work(keeper).await);
            })
        });
        let gone = || Refusal::new(RefusalCode::WrongPhase, "the process in front of lockd is ending; try again");
        self.asks.send(ask).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl LockManagerControl for KeeperHandle {
    async fn info(&self) -> Result<Info, Refusal> {
        self.ask(|keeper| Box::pin(keeper.info())).await
    }
    async fn status(&self) -> Result<Status, Refusal> {
        self.ask(|keeper| Box::pin(keeper.status())).await
    }
    async fn clients(&self, args: PageAfter) -> Result<ClientPage, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.clients(args))).await
    }
    async fn locks(&self, args: LocksArgs) -> Result<LockPage, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.locks(args))).await
    }
    async fn begin(&self, args: BeginArgs, from: ConnectionId) -> Result<Begun, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.begin(args, from))).await
    }
    async fn run_clients(&self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        self.ask(move |keeper| Box::pin(async move { keeper.run_clients(args) })).await
    }
    async fn progress(&self, args: ProgressArgs, from: ConnectionId) -> Result<Status, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.progress(args, from))).await
    }
    async fn extend(&self, args: ExtendArgs) -> Result<Status, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.extend(args))).await
    }
    async fn settle(&self, args: SettleArgs, from: ConnectionId) -> Result<RunResult, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.settle(args, from))).await
    }
    async fn abort(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.ask(move |keeper| Box::pin(keeper.abort(args.run, "aborted on request"))).await
    }
    async fn result(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.ask(move |keeper| Box::pin(async move { Ok(keeper.ended(args.run)?.result) })).await
    }
    async fn result_clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        let full = self.ask(move |keeper| Box::pin(async move { keeper.ended(args.run) })).await?;
        let (clients, next) = page(full.clients.as_slice(), args.after);
        Ok(ClientResultPage { clients, next })
    }
    async fn result_locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        let full = self.ask(move |keeper| Box::pin(async move { keeper.ended(args.run) })).await?;
        let (locks, next) = page(full.locks.as_slice(), args.after);
        Ok(LockFatePage { locks, next })
    }
    async fn acknowledge(&self, args: RunArgs) -> Result<Void, Refusal> {
        self.ask(move |keeper| Box::pin(async move { keeper.acknowledge(args.run).map(|()| Void) })).await
    }
    async fn release(&self, _: ReleaseArgs) -> Result<Released, Refusal> {
        Err(Refusal::new(
            RefusalCode::Unsupported,
            "locks are released by nlmctl itself, not by the process in front of lockd",
        ))
    }
    async fn watch(&self, args: WatchArgs) -> Result<Watched, Refusal> {
        Timeline::news(self.cursor.clone(), args).await;
        self.ask(move |keeper| {
            Box::pin(async move {
                let events = keeper.timeline.since(args.cursor);
                Ok(Watched { status: keeper.status().await?, events })
            })
        })
        .await
    }
    async fn unfetched(&self) -> Result<RunList, Refusal> {
        self.ask(|keeper| Box::pin(async move { keeper.unfetched().map(|runs| RunList { runs: List::clipped(runs) }) }))
            .await
    }

    fn connection_closed(&self, connection: ConnectionId) {
        let asks = self.asks.clone();
        // Room is given in the order it was asked for, so this comes after the connection's calls.
        tokio::spawn(async move {
            let ask: Ask = Box::new(move |keeper| Box::pin(async move { keeper.detached(connection) }));
            let _ = asks.send(ask).await;
        });
    }
}
