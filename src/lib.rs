//! nlmctl: forced resync of NFSv3 locks on a live server.
//!
//! NFSv3 locks are state that a server and its clients must agree on, and NLM has no way to check
//! that they do. A forced resync is the cure a reboot would be, without the reboot: mark every lock
//! pending, tell the clients (SM_NOTIFY), take their reclaims, drop or keep the rest as policy says.
//!
//! How to read this crate, from the bottom up (CONTRIBUTING.md says who may know whom):
//!
//! | module | job |
//! |---|---|
//! | [`wire`] | bytes to types: XDR, RPC, rpcbind, NLM, NSM, the control protocol. Pure |
//! | `spread` | hash tables that never take long to grow. Pure |
//! | `shares` | who has how much of a table, and whether it may have more. Pure |
//! | `units` | durations and counts as people read them. Pure |
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
//! What a file server does not need that embeds [`lockd`] stands behind the feature `tools`, which is on by default.
//! What is public follows Semantic Versioning; `docs/embedding.md` says what each module is for. All else is private to the
//! crate.
//!
//! For the life of a run start at `resync::run`; for what a lock request does, at `locks`.

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
