//! A program on a host: rpcbind is asked where it listens, then it is called.
//!
//! rpcbind is asked over UDP, and over TCP if UDP brings no answer.
//! rpcbind is asked for the port each time: a restarted program has another one. A question to
//! rpcbind changes nothing there, so only an error of the call itself leaves it open whether the
//! program has executed it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::client::{CallError, Request, Source, StreamClient, UdpClient};
use super::rpcbind::getport;
use crate::wire::types::Transport;

/// Longest answer over TCP, in bytes: room for a cookie and an owner handle of 1,024 each.
const MAX_ANSWER: usize = 4096;

/// Why a program has no results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// rpcbind could not be asked, or has not said where it is.
    #[error("{0}")]
    Rpcbind(CallError),
    /// rpcbind knows no such program over any transport that was wanted.
    #[error("rpcbind knows no such program")]
    NotRegistered,
    /// The call did not leave.
    #[error("{0}")]
    NotCalled(CallError),
    /// The call left and has no results.
    #[error("{0}")]
    Called(CallError),
}

impl ProgramError {
    /// Whether the program may have executed the call. That other datagrams were refused proves nothing of this one:
    /// the program may have closed its port after it took it.
    pub(crate) fn maybe_executed(&self) -> bool {
        use CallError::{Io, Malformed, RefusedNow, TimedOut};
        matches!(self, Self::Called(TimedOut | Malformed(_) | Io(_) | RefusedNow))
    }
}

impl From<ProgramError> for CallError {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::NotRegistered => Self::NotThere,
            ProgramError::Rpcbind(error) | ProgramError::NotCalled(error) | ProgramError::Called(error) => error,
        }
    }
}

/// Where a program listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
}

/// The way to the programs of a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host<'a> {
    /// Asks rpcbind, and makes the calls over UDP.
    pub(crate) client: &'a UdpClient,
    pub(crate) rpcbind: SocketAddr,
    /// The local address and port to call from. The UDP client's port is its own.
    pub(crate) source: Source,
    /// Patience with one question to rpcbind.
    pub(crate) ask_patience: Duration,
}

impl<'a> Host<'a> {
    /// This host, over loopback.
    pub(crate) fn local(client: &'a UdpClient, rpcbind_port: u16, ask_patience: Duration) -> Self {
        let rpcbind = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), rpcbind_port);
        Self { client, rpcbind, source: Source { ip: None, reserved: true }, ask_patience }
    }

    /// Where a program of this version listens, over the first of `transports` that it is registered for.
    pub(crate) async fn find(
        &self,
        program: u32,
        version: u32,
        transports: &[Transport],
    ) -> Result<Listener, ProgramError> {
        let Self { client, rpcbind, source, ask_patience } = *self;
        for &transport in transports {
            let port = getport(client, rpcbind, source.ip, program, version, transport, ask_patience).await;
            if let Some(port) = port.map_err(ProgramError::Rpcbind)? {
                return Ok(Listener { transport, address: SocketAddr::new(rpcbind.ip(), port) });
            }
        }
        Err(ProgramError::NotRegistered)
    }

    /// Finds the request's program, then calls it. `patience` is that with the call.
    pub(crate) async fn call(
        &self,
        transports: &[Transport],
        request: Request<'_>,
        patience: Duration,
    ) -> Result<Vec<u8>, ProgramError> {
        let listener = self.find(request.program, request.version, transports).await?;
        self.call_at(listener, request, patience).await
    }

    /// Calls a program that was found before.
    pub(crate) async fn call_at(
        &self,
        listener: Listener,
        request: Request<'_>,
        patience: Duration,
    ) -> Result<Vec<u8>, ProgramError> {
        let Listener { transport, address } = listener;
        let outcome = match transport {
            Transport::Udp => self.client.call(address, self.source.ip, request, patience).await,
            Transport::Tcp => {
                let connecting = StreamClient::connect_tcp(address, self.source, MAX_ANSWER, patience).await;
                connecting.map_err(ProgramError::NotCalled)?.call(request, patience).await
            }
        };
        outcome.map_err(ProgramError::Called)
    }
}
