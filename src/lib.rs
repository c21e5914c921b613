//! nlmctl: forced resync of NFSv3 locks on a live server.

pub mod locks;
pub mod report;
pub mod store;
pub mod wire;
