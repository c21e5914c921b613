//! RPC over sockets: the only folder that sends bytes to the network and receives them.
//!
//! # Theory
//! **What exists.** A [`udp::UdpEndpoint`] is one socket that knows which local address each
//! datagram was sent to and can answer from it. [`server`] turns sockets into calls of a
//! [`server::Service`]; [`client`] turns calls into datagrams or records and matches the
//! replies; [`reply_cache`] remembers answers, so that a call that came twice is executed once;
//! [`rpcbind`] finds and registers ports; [`program`] finds a program and calls it; [`fanout`]
//! does that on thousands of hosts at once; [`control`] serves the control protocol; `resolver` finds the
//! addresses of names; [`silence`] asks whether a host says anything at all; [`heartbeat`] tells whether this process ran
//! all the time, and [`arrivals`] whether all input that has arrived is handled.
//!
//! **Who owns what.** A socket has one reading task. Calls that do not end at once run in tasks of their own, bounded by
//! [`server::Limits`]. The reply cache is shared behind a mutex that is never held across an await.
//! A client's table of open calls belongs to the client; its reading task only hands replies in.
//!
//! **What must hold.**
//! - A reply leaves from the address (and port) that was called: clients drop any other.
//! - A reply is believed only if its xid *and* its source address and port are those of the call.
//! - No peer can make this side hold more than the stated bounds: UDP calls beyond them are dropped
//!   (the caller repeats them), a TCP connection beyond them is not read from.
//! - Errors that the network reports about one peer never end a loop that serves all.
//! - At shutdown nothing new is taken, and calls in progress are finished, for a bounded time.
//!
//! **Where to start reading.** `server::serve_udp`, then `client::UdpClient::call`.

pub(crate) mod arrivals;
mod call;
pub(crate) mod client;
mod connection;
pub mod control;
pub(crate) mod fanout;
pub(crate) mod heartbeat;
mod hosts_file;
pub(crate) mod program;
pub(crate) mod reply_cache;
pub(crate) mod resolver;
pub(crate) mod rpcbind;
pub(crate) mod server;
mod service;
pub(crate) mod silence;
mod stream;
pub(crate) mod udp;
mod xids;

#[cfg(test)]
mod tests;
