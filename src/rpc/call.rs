//! What calls over all transports have in common.

use std::io;

use crate::wire::rpc::{self, Credential, RpcError};

/// Why a call has no results.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time. The call may have been executed or not.
    #[error("no answer in time")]
    TimedOut,
    /// No program listens there (ICMP port unreachable on this call's one datagram, TCP reset, a socket file without a
    /// server). It was not executed.
    #[error("no program listens there")]
    Refused,
    /// The same is reported, but of other datagrams to that port, or this call was sent several times. It may have been
    /// executed.
    #[error("no program listens there")]
    RefusedNow,
    /// There is no such socket file.
    #[error("there is no such socket")]
    NotThere,
    /// This process may not use the socket.
    #[error("permission denied")]
    PermissionDenied,
    /// The other side did not execute it.
    #[error("call rejected: {0}")]
    Rejected(#[from] RpcError),
    /// What came back is no reply, or too long, or not the results that were expected.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// The connection ended, or the socket failed. The call may have been executed or not.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::NotFound => Self::NotThere,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

impl From<crate::wire::xdr::DecodeError> for CallError {
    fn from(error: crate::wire::xdr::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: u32,
    /// Who we say we are.
    pub credential: &'a Credential,
    /// The arguments, encoded.
    pub args: &'a [u8],
}

impl Request<'_> {
    pub(super) fn message(&self, xid: u32) -> Vec<u8> {
        let Self { program, version, procedure, credential, args } = *self;
        rpc::call(xid, program, version, procedure, credential, args)
    }
}

/// Takes results out of the reply to `xid`.
pub(super) fn results(message: &[u8]) -> Result<Vec<u8>, CallError> {
    let reply = rpc::parse_reply(message).map_err(|error| CallError::Malformed(error.to_string()))?;
    Ok(reply.outcome?.to_vec())
}

/// The xid that a message begins with.
pub(super) fn xid_of(message: &[u8]) -> Option<u32> {
    message.first_chunk().map(|xid| u32::from_be_bytes(*xid))
}
