//! nlmctl: forced resync of NFSv3 locks on a live server.

pub mod cli;
pub mod controller;
pub mod demo;
pub mod lockd;
pub mod locks;
pub mod manager;
pub mod nsm;
pub mod report;
pub mod resync;
pub mod rpc;
pub mod store;
pub mod wire;
