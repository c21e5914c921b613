//! nlmctl: forced resync of NFSv3 locks on a live server.
//!
//! An NFS server and its clients must agree on who holds which NFSv3 lock, and NLM has no way to check
//! that they do. A forced resync is the cure of a reboot without the reboot: mark every lock
//! pending, notify the clients (SM_NOTIFY), grant their reclaims, drop or keep the rest as the policy says.
//!
//! How to read this crate, from the bottom up (CONTRIBUTING.md says who may know whom):
//!
//! | module | job |
//! |---|---|
//! | [`wire`] | bytes to types: XDR, RPC, rpcbind, NLM, NSM, the control protocol. Pure |
//! | `spread` | hash tables that never take long to grow. Pure |
//! | `shares` | how much of a table each holder has, and whether it may have more. Pure |
//! | `units` | durations and counts as people read and write them. Pure |
//! | [`resync`] | the plan, the run as a state machine, what may be dropped. Pure |
//! | `locks` | the lock table of a cooperating lock manager. Pure |
//! | `report` | a run, a status, a listing as values; text and JSON. Pure |
//! | `host` | this machine: its files, processes, locks, mounts, names; rpc.statd's folder |
//! | [`rpc`] | UDP, TCP and Unix sockets; calls and replies; the reply cache |
//! | `nsm` | SM_NOTIFY to thousands of clients, SM_STAT probes, rosters |
//! | [`lockd`] | nlmd: one task owns the lock table, services around it, what it persists |
//! | `manager` | the lock managers that can be driven |
//! | `interposer` | a grace period in front of the kernel's lockd, with nothing dropped |
//! | `store` | the record of runs |
//! | `controller` | drives a run against manager, clients and record |
//! | `check` | what stands in the way of a run |
//! | `demo` | simulated clients on real sockets |
//! | [`cli`] | one file per command |
//!
//! Code that a file server which embeds [`lockd`] does not need is behind the feature `tools`, which is on by default.
//! The public API follows Semantic Versioning; `docs/embedding.md` says what each module is for. All else is private
//! to the crate.
//!
//! To follow a run, start at `resync::run`; to follow a lock request, at `locks`.

// What only the tools use is dead without them; a build with them finds what really is.
#![cfg_attr(not(feature = "tools"), allow(dead_code, unused_imports))]

#[cfg(feature = "tools")]
mod check;
#[cfg(feature = "tools")]
pub mod cli;
#[cfg(feature = "tools")]
mod controller;
#[cfg(feature = "tools")]
mod demo;
mod host;
#[cfg(feature = "tools")]
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "tools")]
mod interposer;
#[warn(missing_docs)]
pub mod lockd;
mod locks;
#[cfg(feature = "tools")]
mod manager;
mod nsm;
mod ranges;
#[cfg(feature = "tools")]
mod report;
pub mod resync;
#[warn(missing_docs)]
pub mod rpc;
mod shares;
mod spread;
#[cfg(feature = "tools")]
mod store;
mod units;
#[warn(missing_docs)]
pub mod wire;
