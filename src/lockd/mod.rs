//! nlmd, the daemon: the lock table on the network, and a disk behind it.
//!
//! # Theory
//! ```text
//!  UDP, TCP --> rpc::server --> nlm_service --.                      .--> persist (one thread, SQLite)
//!               (reply cache)   nsm_service --+--> table (one owner)-+--> callbacks (GRANTED to clients)
//!  Unix ------> rpc::control    table::control'                      '--> timeline (watchers)
//! ```
//! The lock table has one owner (`table`), which executes calls one by one in the tasks that read them. One thread owns the database
//! (`persist`). One reply cache is shared by all sockets, so that a late duplicate of a LOCK after
//! its UNLOCK, or the other way round, is answered and not executed.
//!
//! | file | what |
//! |---|---|
//! | `daemon` | the process: command line, config file, log, start, signals, the service manager |
//! | `settings`, `server` | the same as values: start and stop, also inside another program |
//! | `sockets` | the listening sockets; the ports file |
//! | `gate`, `dispatch`, `callers` | who may call what; who has called since a run began |
//! | `nlm_service`, `nsm_service` | bytes to the table and back |
//! | `table` | the owner of the lock table; start reading there |
//! | `callbacks` | GRANTED to clients |
//! | `turns` | which client is called next |
//! | `answers` | `_RES` to clients that call asynchronously |
//! | `embed`, `ofd` | the decisions of an embedding file server; a mirror for local file systems |
//! | `monitors` | hosts that programs on this host monitor (SM_MON) |
//! | `statd` | this host's rpc.statd as the status monitor |
//! | `persist` | what survives a crash |
//! | `registry` | rpcbind's entries |
//! | `recovery` | recovery from the previous instance at start |
//!
//! To stop (on SIGTERM and SIGINT): sockets take nothing new, open calls are finished, rpcbind forgets
//! us, the database is flushed. A run that is active then is superseded at the next start.

mod answers;
mod callbacks;
mod callers;
#[cfg(feature = "tools")]
mod daemon;
mod dispatch;
pub mod embed;
mod gate;
mod monitors;
mod nlm_service;
mod nsm_service;
pub mod ofd;
mod persist;
mod recovery;
pub mod registry;
mod server;
mod settings;
mod sockets;
mod statd;
mod table;
mod turns;

pub use crate::host::raise_open_files;
pub use crate::locks::Limits;
pub use crate::shares::Bounds;
#[cfg(feature = "tools")]
pub use daemon::main;
pub use server::{Failure, Reload, Server};
pub use settings::{NsmKind, Settings};
pub use sockets::Ports;
