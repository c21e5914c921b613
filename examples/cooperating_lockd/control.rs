//! The control protocol: what the toy shows, and its procedures.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nfs3_types::xdr_codec::Void;
use nlmctl::rpc::server::{CallContext, Service};
use nlmctl::wire::control::{
    self, Answer, Capabilities, ClientPage, ClientResultPage, ClientRow, Grace, Info, LockFatePage, LockKind, LockPage,
    LockRow, LockState, Procedure, Refusal, RefusalCode, RunArgs, RunList, RunPageAfter, RunStatus, Status, WatchArgs,
    Watched,
};
use nlmctl::wire::rpc;
use nlmctl::wire::types::{Address, ByteRange, NsmState};
use nlmctl::wire::xdr::{List, Maybe, Pack, Text, Unpack, decode, encode};

use crate::toy::{Client, Toy, millis, names, owner_row, refused};

/// Longest wait of `watch`.
const WATCH_MAX: Duration = Duration::from_secs(10);

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

    pub(crate) fn status(&self) -> Status {
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
            cursor: *self.changes.borrow(),
        }
    }

    fn clients(&self) -> BTreeMap<&Client, u64> {
        let mut clients = BTreeMap::new();
        for lock in self.locks.values() {
            *clients.entry(&lock.client).or_default() += 1;
        }
        clients
    }

    fn client_page(&self) -> ClientPage {
        let rows = self.clients().into_iter().map(|(client, locks)| ClientRow {
            name: client.name.clone(),
            addresses: List::clipped(vec![Address(client.address)]),
            server_addresses: List::clipped(vec![Address(Ipv4Addr::LOCALHOST.into())]),
            nsm_state: NsmState(0),
            monitored: true,
            shared_address: false,
            locks,
            unmonitored: 0,
            waiters: 0,
            suspicions: List::default(),
        });
        ClientPage { clients: List::clipped(rows.collect()), next: 0 }
    }

    fn lock_page(&self) -> LockPage {
        let rows = self.locks.iter().filter_map(|(file, lock)| {
            Some(LockRow {
                file: file.clone(),
                kind: LockKind::Exclusive,
                range: ByteRange::ALL,
                state: if lock.pending { LockState::Pending } else { LockState::Held },
                owner: owner_row(&lock.client)?,
                monitored: true,
            })
        });
        LockPage { locks: List::clipped(rows.collect()), next: 0 }
    }
}

/// The control service: the toy behind a lock that is never held across an await.
pub(crate) struct Control(pub(crate) Arc<Mutex<Toy>>);

fn answered<T: Pack + Unpack>(outcome: Result<T, Refusal>) -> rpc::Answer {
    rpc::Answer::Success(encode(&match outcome {
        Ok(value) => Answer::Ok(value),
        Err(refusal) => Answer::Refused(refusal),
    }))
}

/// Calls with the decoded arguments, or answers GARBAGE_ARGS.
fn with<A: Unpack, T: Pack + Unpack>(bytes: &[u8], call: impl FnOnce(A) -> Result<T, Refusal>) -> rpc::Answer {
    decode(bytes).map_or(rpc::Answer::GarbageArgs, |args| answered(call(args)))
}

impl Control {
    fn toy(&self) -> MutexGuard<'_, Toy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(&self, args: WatchArgs) -> Watched {
        let mut seen = self.toy().changes.subscribe();
        let patience = Duration::from_millis(args.timeout_ms).min(WATCH_MAX);
        let _ = tokio::time::timeout(patience, seen.wait_for(|cursor| *cursor != args.cursor)).await;
        Watched { status: self.toy().status(), events: List::default() }
    }
}

#[async_trait]
impl Service for Control {
    async fn call(
        &self,
        _: &CallContext,
        program: u32,
        version: u32,
        number: u32,
        args: Vec<u8>,
    ) -> Option<rpc::Answer> {
        if program != control::PROGRAM {
            return Some(rpc::Answer::ProgUnavail);
        }
        if version != control::VERSION {
            return Some(rpc::Answer::ProgMismatch { low: control::VERSION, high: control::VERSION });
        }
        let Some(procedure) = Procedure::from_number(number) else { return Some(rpc::Answer::ProcUnavail) };
        if procedure == Procedure::Watch {
            let Ok(args) = decode(&args) else { return Some(rpc::Answer::GarbageArgs) };
            return Some(answered(Ok(self.watch(args).await)));
        }
        let mut toy = self.toy();
        let answer = match procedure {
            Procedure::Null => rpc::Answer::Success(Vec::new()),
            Procedure::Info => answered(Ok(toy.info())),
            Procedure::Status => answered(Ok(toy.status())),
            Procedure::Clients => answered(Ok(toy.client_page())),
            Procedure::Locks => answered(Ok(toy.lock_page())),
            Procedure::Begin => with(&args, |args| toy.begin(args)),
            Procedure::RunClients => with(&args, |args: RunPageAfter| toy.run_clients(args.run)),
            Procedure::Progress => with(&args, |args| toy.progress(&args)),
            Procedure::Extend => with(&args, |args| toy.extend(args)),
            Procedure::Settle => with(&args, |args| toy.settle(args, false)),
            Procedure::Abort => with(&args, |args: RunArgs| toy.abort(args.run, "aborted by a controller")),
            Procedure::Result => with(&args, |args: RunArgs| Ok(toy.ended(args.run)?.result.clone())),
            Procedure::ResultClients => with(&args, |args: RunPageAfter| {
                let clients = List::clipped(toy.ended(args.run)?.clients.as_slice().to_vec());
                Ok(ClientResultPage { clients, next: 0 })
            }),
            Procedure::ResultLocks => with(&args, |args: RunPageAfter| {
                let locks = List::clipped(toy.ended(args.run)?.locks.as_slice().to_vec());
                Ok(LockFatePage { locks, next: 0 })
            }),
            Procedure::Acknowledge => with(&args, |args: RunArgs| {
                toy.acknowledge(args.run);
                Ok(Void)
            }),
            Procedure::Unfetched => {
                answered(Ok(RunList { runs: List::clipped(toy.results.keys().copied().collect()) }))
            }
            Procedure::Release => {
                answered::<Void>(refused(RefusalCode::Unsupported, "single locks are not freed here"))
            }
            Procedure::Watch => rpc::Answer::ProcUnavail,
        };
        if !procedure.is_read_only() {
            toy.changed();
        }
        Some(answer)
    }
}
