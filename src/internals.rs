//! What the tests in `tests/` and the benchmarks use beside the public API. They are crates of their own and see only what is
//! public, so what they need is named here, and nothing more: the compiler takes all of it for used. No embedder may count on it.

pub use crate::cli::args::Cli;

/// Drives a run.
pub mod controller {
    pub use crate::controller::{ControllerError, Options, plan, resync};
    pub use crate::resync::plan::Request;
    pub use crate::store::Store;
}

/// Simulated clients, and an nlmd for them.
pub mod demo {
    pub use crate::demo::clients::{Behaviour, ClientNo, Farm, Lock};
    pub use crate::demo::server::{Server, ServerOptions};
}

/// This machine.
pub mod host {
    pub use crate::host::is_own_address;
    pub use crate::host::netfilter::Netfilter;
    pub use crate::host::netlink::{exchange, list, open};
}

/// What stands in front of the kernel's lockd.
pub mod interposer {
    pub use crate::interposer::messages::{Call, Claim, FilterEvent, Mode, Order, Treated, Way};
    pub use crate::interposer::rules::{Port, Ports, Refreshed, Rules};
}

/// The lock table.
pub mod locks {
    pub use crate::locks::{
        Call, Caller, ClientId, Handled, Limits, Listing, LockTable, Process, Release, Verdict, Via, Wanted,
    };
}

/// The lock managers that can be driven.
pub mod manager {
    pub use crate::manager::adapter::{Adapter, Backend};
    pub use crate::manager::ganesha::{Ganesha, GaneshaOptions, manager as ganesha};
    pub use crate::manager::nlmd::Nlmd;
    pub use crate::manager::{LockManager, ManagerError, Weight};
}

/// Netlink, as bytes.
pub mod netlink {
    pub use crate::wire::netlink::{Attribute, CREATE, MessageError, message, step};
}

/// Packet rules, as bytes.
pub mod nftables {
    pub use crate::wire::nftables::{OWNER, TABLE, Verdict, list_rules, list_tables, remove, table, verdict};
}

/// The record of runs.
pub mod record {
    pub use crate::report::{Outcome, ScopeReport};
    pub use crate::store::{LOCKS_AT_ONCE, NewRun, RunOutcome};
}

/// What a run says of itself.
pub mod report {
    pub use crate::report::{Progress, RunReport};
}

/// A status monitor's folder.
pub mod roster {
    pub use crate::nsm::roster::{Kind, RosterEntry, read};
}

/// Calls, answers, rpcbind.
pub mod rpc {
    pub use crate::rpc::client::{Request, Retransmit, Source, StreamClient, UdpClient};
    pub use crate::rpc::rpcbind::getport;
    pub use crate::rpc::rpcbind::local::LocalRpcbind;
    pub use crate::rpc::udp::UdpEndpoint;
}
