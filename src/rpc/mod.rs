//! RPC over tokio.
pub mod client;
pub mod reply_cache;
pub mod rpcbind;
pub mod server;
pub mod udp;
