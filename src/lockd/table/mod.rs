//! The one owner of the lock table.
//!
//! # Theory
//! One task ([`state::Owner`]) owns the [`LockTable`](crate::locks::LockTable), the queue of waiting
//! calls, the monitor records' bookkeeping, the active run and the timeline. All other tasks have a
//! [`Table`]: an order (`handle.rs`) says what the owner is to do and goes in through a bounded channel (a full one makes
//! senders wait), answers come back through oneshots. The task never waits for anything slow. What is slow
//! (the disk, a GRANTED call to a client) runs as a task of its own in one `JoinSet`
//! and comes back as a [`state::Done`]; the calls that depend on it stand in the one queue (`queue.rs`)
//! meanwhile.
//!
//! The path of an NLM call (`calls.rs`), and where it waits:
//! ```text
//! call      may the caller lock it? (an embedding server's say)     Answer
//! in turn   something that came earlier from there waits            Turn
//! identify  (address, caller_name) is the client
//! record    LOCK and SHARE: its record must be durable              Record  --failed: NOLOCKS
//!           (and with --nsm statd, statd must watch its address)
//! handle    the lock table: a result is being written               Commit  --then again
//!           a mirror must consent                                   Step    --then again
//!           the host of a pending lock may have moved               Move    --then again
//! reply     a late reclaim is on disk before its answer
//! ```
//! The path of a run (`runs.rs`):
//! ```text
//! Idle -> Beginning (state durable?) -> Active -> Scanning -> Writing (result durable?) -> Sweeping -> Idle
//!                                         '---- abort ----------------------------------------------> Idle
//! ```
//!
//! What must hold:
//! - The new NSM state is durable before `begin` marks; a result before `settle_commit`.
//! - A reply that promises a lock goes out only when the client's monitor record is durable, and
//!   where rpc.statd is the status monitor, when it watches the client (`watches.rs`).
//! - Calls and reboot notices that one address sends of one host keep their order. A call that changes
//!   nothing (TEST) is answered when it can be.
//! - Scanning, sweeping, waking and calls that free much take turns with requests, slice by slice.
//!
//! Files, from the bottom up: `incoming`, `queue`, `records`, `refusals`, `watches`, `outside`, `moves`, `phase`,
//! `archive` are what the owner has, and know nothing of it; `state` is the owner; `effects`, `calls`, `runs` are its verbs;
//! `handle` is the way to it, `control` what controllers ask over it; `owner` is its loop.
//!
//! Start reading at `Owner::run` in `owner.rs`.

mod archive;
mod calls;
mod control;
mod effects;
mod embedder;
mod handle;
mod incoming;
mod moves;
mod owner;
mod phase;
mod queue;
mod records;
mod refusals;
mod runs;
mod state;
#[cfg(test)]
mod tests;
mod watches;

pub use handle::Table;
pub use incoming::{Clock, Incoming, Names};
pub use owner::{Setup, spawn};
pub use watches::StatdSetup;
