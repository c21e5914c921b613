//! Turns bytes into types and back. Pure: no sockets, no clock, nothing from the folders above it.
//!
//! | file | what |
//! |---|---|
//! | `xdr` | XDR with bounds (RFC 4506) |
//! | `types` | the terms of the protocols: file handles, owners, ranges, state numbers |
//! | `scope` | link-local addresses with their interface |
//! | `record` | record marking: messages in a stream |
//! | `rpc` | RPC messages (RFC 5531) |
//! | `rpcbind` | the ports of programs (RFC 1833) |
//! | `netlink` | netlink: the kernel asked, and its answers |
//! | `nfqueue` | packets that netfilter hands out, by netlink |
//! | `rtnetlink` | routes and routing rules, by netlink |
//! | `nlm` | lock manager, versions 1, 3 and 4 (XNFS chapters 10 and 14, RFC 1813 appendix II) |
//! | `nsm` | status monitor (XNFS chapter 11) |
//! | `control` | the control protocol, as `control.x` has it |

pub mod control;
#[cfg(test)]
mod control_spec;
pub(crate) mod netlink;
#[cfg(feature = "tools")]
pub(crate) mod nfqueue;
#[cfg(feature = "tools")]
pub(crate) mod nftables;
pub mod nlm;
pub mod nsm;
pub mod record;
pub mod rpc;
pub mod rpcbind;
#[cfg(feature = "tools")]
pub(crate) mod rtnetlink;
pub(crate) mod scope;
pub mod types;
pub mod xdr;

#[cfg(test)]
pub(crate) mod vectors;
