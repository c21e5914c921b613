//! nlmctl: forced resync of NFSv3 locks on a live server.

pub mod lockd;
pub mod locks;
pub mod rpc;
pub mod resync;
pub mod nsm;
pub mod wire;
