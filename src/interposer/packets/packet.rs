//! Inputs and outputs.

/// The number of the loopback interface: it is the first of every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// An IP packet that waits in the kernel for its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the queue.
    pub id: u32,
    /// True on its way to lockd, false on its way to a client.
    pub way_in: bool,
    /// The number of the interface that it came in by, or leaves by.
    pub interface: u32,
    /// The packet, from its IP header on.
    pub bytes: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// These bytes go on in its place.
    Changed(Vec<u8>),
    /// It is gone; who sent it sends it again.
    Drop,
}
