//! An NFQUEUE of this process' own.
//!
//! The kernel drops what it cannot queue: when the queue is full, when this process' buffer is full (`ENOBUFS`), and
//! when no process has the queue. So a packet that was lost here has not passed either, and is sent again. The queue
//! ends with this value, and with the process.
//!
//! This is our own netlink: with the messages in `wire/nfqueue.rs` it is less code than a crate's interface to it, and the
//! verdicts of many packets go in one system call.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::Socket;

use super::packets::{Packet, Verdict};
use crate::host::netlink::{exchange, open};
use crate::wire::nfqueue::{self, Fate, Queued};

/// Most packets that wait in the kernel, those that the filter holds too. A burst of a thousand clients fits.
pub(super) const LENGTH: u32 = 8192;
/// Bytes of packets that this process has not read; each takes some hundred beside its own.
const BUFFER: usize = 16 << 20;
/// The largest message: a packet of 64 KiB, and what is said of it.
const MAX_MESSAGE: usize = 66 << 10;
/// Bytes of verdicts that go in one system call; the kernel takes some 200 KiB.
const MAX_VERDICTS: usize = 64 << 10;

/// A queue that is bound to this process.
#[derive(Debug)]
pub(super) struct Queue {
    socket: Socket,
    number: u16,
    buffer: Vec<u8>,
}

impl Queue {
    /// Takes the queue of this number.
    ///
    /// # Errors
    /// `EBUSY`: another process has it. `EPERM`: this one may not.
    pub(super) fn open(number: u16) -> io::Result<Self> {
        let socket = open(libc::NETLINK_NETFILTER)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        // Packets that come before the answer get no verdict. The kernel has few of them, and they end with the queue.
        exchange(&socket, |sequence| nfqueue::bind(number, LENGTH, sequence))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, number, buffer: vec![0; MAX_MESSAGE] })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// The packets of the next message, which may be none where some were lost; `None`: no message is there.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn receive(&mut self) -> io::Result<Option<Vec<Packet>>> {
        let len = match (&self.socket).read(&mut self.buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if is_passing(&error) => return Ok(Some(Vec::new())),
            Err(error) => return Err(error),
        };
        let read = self.buffer.get(..len).unwrap_or_default();
        let packets = nfqueue::packets(read).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let packet = |Queued { id, way_in, interface, bytes }| Packet { id, way_in, interface, bytes: bytes.to_vec() };
        Ok(Some(packets.into_iter().map(packet).collect()))
    }

    /// Gives verdicts, in their order.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn give(&self, verdicts: &[(u32, Verdict)]) -> io::Result<()> {
        let mut messages = Vec::new();
        for (id, verdict) in verdicts {
            let fate = match verdict {
                Verdict::Pass => Fate::Pass,
                Verdict::Changed(bytes) => Fate::Changed(bytes),
                Verdict::Drop => Fate::Drop,
            };
            nfqueue::add_verdict(&mut messages, self.number, *id, fate);
            if messages.len() > MAX_VERDICTS {
                (&self.socket).write_all(&messages)?;
                messages.clear();
            }
        }
        if messages.is_empty() { Ok(()) } else { (&self.socket).write_all(&messages) }
    }
}

/// What was there is lost, or the next try has it.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Interrupted || error.raw_os_error() == Some(libc::ENOBUFS)
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
