//! The one owner of the lock table.
//!
//! # Theory
//! One value ([`state::Owner`]) owns the [`LockTable`](crate::locks::LockTable), the queue of waiting
//! calls, the monitor records' bookkeeping, the active run and the timeline. It does one thing at a time, behind a mutex,
//! and never waits. All tasks have a [`Table`]: an order (`handle.rs`) is executed in the task that gives it, because
//! handing a call of a microsecond to another task and its answer back costs more than the call. Answers come
//! through oneshots, most of them at once.
//!
//! What is slow (the disk, a GRANTED call to a client) runs as a task of its own in one `JoinSet`. The owner has a task
//! too (`owner.rs`), which takes what comes back from that work ([`state::Done`]), does long work slice by slice, and
//! waits for deadlines; an order wakes it. The calls that depend on slow work stand in the one queue (`queue.rs`) meanwhile.
//!
//! The path of an NLM call (`calls.rs`), and where it waits:
//! ```text
//! call      may the caller lock it? (an embedding server's say)     Answer
//! in turn   something that came earlier from there waits            Turn
//! identify  (address, caller_name) is the client
//! record    LOCK and SHARE: its record must be durable              Record  --failed: NOLOCKS; a reclaim is dropped
//!           (and with --nsm statd, statd must watch its address)
//! handle    the lock table: a result is being written               Commit  --then again
//!           a mirror must consent                                   Step    --then again
//!           the host of a pending lock may have moved               Move    --then again
//! reply     a late reclaim is on disk before its answer
//! ```
//! The path of a run (`runs.rs`, and its end in `endings.rs`):
//! ```text
//! Idle -> Beginning (state durable?) -> Entering -> Active -> Scanning -> Writing (result durable?) -> Idle
//!                                                     |                           '--reclaim, durable?--> Active
//!                                                     '---- abort ---------------------------------> Idle
//! ```
//! Most of a result goes to the disk in Scanning. A part that the disk refuses, there or in Writing, leads back to Active.
//! What a run dropped is freed in slices after it. The next run is marked when that is done.
//!
//! What must hold:
//! - The new NSM state is durable before `begin` marks; a result before `settle_commit`. If a reclaim came meanwhile and the
//!   run goes on, it is active on disk again before the reclaim is decided.
//! - A reply that promises a lock goes out only when the client's monitor record is durable, and
//!   where rpc.statd is the status monitor, when it watches the client (`watches.rs`).
//! - Calls and reboot notices that one address sends of one host keep their order. A call that changes
//!   nothing (TEST) is answered when it can be.
//! - Entering, scanning, sweeping, waking and calls that free much take turns with requests, slice by slice.
//! - An order neither waits nor gives another order: the mutex is held meanwhile. After a panic of one, no other is
//!   executed, because what it left may be half of something.
//!
//! Files, from the bottom up: `incoming`, `queue`, `records`, `refusals`, `watches`, `embedder`, `moves`, `phase`,
//! `archive` are what the owner has, and know nothing of it; `state` is the owner; `effects`, `calls`, `runs`, `endings`, `release` are its verbs;
//! `handle` is the way to it, `control` what controllers ask over it; `owner` is its task.
//!
//! Start reading at `Table::tell` in `handle.rs`, then at `run` in `owner.rs`.

mod archive;
mod calls;
mod control;
mod effects;
mod embedder;
mod endings;
mod handle;
mod incoming;
mod moves;
mod owner;
mod phase;
mod queue;
mod records;
mod refusals;
mod release;
mod runs;
mod state;
#[cfg(test)]
mod tests;
mod watches;

pub use handle::Table;
pub use incoming::{Clock, Incoming, Names};
pub use owner::{Setup, spawn};
pub use watches::StatdSetup;
