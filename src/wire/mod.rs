//! Bytes to types and back. Pure: no sockets, no clock, nothing of the folders above it.
//!
//! | file | what |
//! |---|---|
//! | `xdr` | XDR with bounds (RFC 4506) |
//! | `types` | the field's nouns: file handles, owners, ranges, state numbers |
//! | `control` | the control protocol, as `control.x` has it |

pub mod control;
pub mod types;
pub mod xdr;
