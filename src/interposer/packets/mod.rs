//! Packets of lockd's ports: what is reported of them, and their verdicts. Pure.
//!
//! # Theory
//! [`Traffic`] takes orders, packets and the time, and gives verdicts and reports. It holds packets by their
//! numbers, and each of them gets one verdict. All of its memory is bounded, with the reason at each bound; what goes beyond
//! is dropped, so that it is sent again. What must hold:
//! - A call or reply is reported no later than the packet in which it ends passes.
//! - While the mode is not off, no byte of a call passes to lockd that was not read in the place where lockd reads it.
//! - A packet is changed only in the words that must be, and only if its checksum was right; then it is right again.
//!
//! | file | what |
//! |---|---|
//! | `packet` | inputs and outputs |
//! | `ip` | IPv4 and IPv6, checksums |
//! | `tcp` | headers of segments, and segments made of others |
//! | `records` | records in a stream |
//! | `call` | a call read in place |
//! | `reply` | lockd's replies, and which calls they answer |
//! | `claims` | pending locks and waiters |
//! | `treatment` | what is done with a call |
//! | `inspector` | where every call and reply is judged and told |
//! | `stream` | what is not decided yet of one direction of a connection |
//! | `connection` | a TCP connection: what is held, passes, is changed, is reset |
//! | `table` | the connections that are known |
//! | `holds` | clients whose packets wait |
//! | `traffic` | joins all of these |
//!
//! Start reading at `traffic`, then `connection`.

mod call;
mod claims;
mod connection;
mod holds;
mod inspector;
mod ip;
mod packet;
mod records;
mod reply;
mod stream;
mod table;
mod tcp;
mod traffic;
mod treatment;

pub use packet::{Packet, Verdict};
pub use traffic::Traffic;

#[cfg(test)]
mod tests;
