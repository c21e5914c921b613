//! Calls to many hosts at once: a port look-up, then a few calls, to each of thousands.
//!
//! # Theory
//! **What exists.** A *subject* is a target at work. Each goes through the same steps, and every
//! step is one or more *exchanges*, a call and its answer:
//!
//! ```text
//! name --look-up--> addresses --GETPORT udp--> port --------------> its calls --> done
//!        | none                  | 0: GETPORT tcp --> port (TCP) ---^   | silent: next address, GETPORT
//!        |                       | 0: the program's next version        |
//!        v                       | 0                                    | refused
//!      trouble <-----------------+--------------------------------------+
//!        | reported as given up; a rest; over again from the start, until the end
//! ```
//!
//! A GETPORT is a datagram. A host that has left three unanswered, or says that no program listens there, is asked by TCP
//! too, and if it answers there, its TCP port is asked for first: it is likely to be behind a firewall. The
//! datagrams go on, so that a host which answers neither is given up when it always was. Such hosts are mostly
//! dead: their connections have two thirds of the places for TCP, and the calls to the living the rest.
//!
//! A client that left a few GETPORTs unanswered where it called from is also tried at the other addresses of its name
//! ([`Host::Client`]). What answers there may be another machine: that is told as a failure, [`Failure::Elsewhere`], and
//! its own addresses are tried again until one of them answers, or the end.
//!
//! What is called, and what an answer means, is the user's affair: any results are an answer. A
//! silent exchange is repeated with back-off; the tenth second without an answer is reported, and
//! repeats go on. Where the user does not want that ([`RunOptions::keep_on`]), trouble ends a target.
//!
//! Each transmission has an xid of its own, so that every round trip is measured exactly. To its
//! receiver it is another call: only what may be executed twice can be sent this way.
//!
//! **Who owns what.** The machine owns everything but time, sockets, the resolver and TCP
//! connections. Its driver must: send what `Fanout::poll_transmit` gives, feed in what the
//! sockets have received *before* it sends more, do each `Lookup` and `StreamCall` in bounded time and
//! hand back the result, call `Fanout::handle_timeout` when `Fanout::next_timeout` has come,
//! and take the events. [`run`] is that driver, with sockets; [`ask`] runs it to the end and gathers the events.
//!
//! **What must hold.**
//! - Each target has exactly one last event, and nothing is sent to it afterwards.
//! - No more calls are under way on a lane than its window (`queue`).
//! - An answer is believed only if its xid, its source address and port, and the address it came
//!   in on are those of a call that is open. Anything else that comes in changes nothing.
//! - The same inputs with the same seed give the same outputs.
//!
//! | file | what | |
//! |---|---|---|
//! | `target` | the targets of calls, and the result for each | pure |
//! | `state` | subjects, exchanges, timers | pure |
//! | `steps` | the transitions of the diagram | pure |
//! | `machine` | in and out; start reading here, at `Fanout::poll_transmit`, then `steps::answered` | pure |
//! | `pace` | how long to wait: measured round trips, back-off | pure |
//! | `queue` | what may be sent next, and the window | pure |
//! | `sockets` | the UDP sockets | tokio |
//! | `driver` | resolver, TCP, time | tokio |
//! | `ask` | targets that are asked once | tokio |

mod ask;
mod driver;
#[cfg(test)]
pub(crate) mod farm;
mod machine;
mod pace;
mod queue;
mod sockets;
mod state;
mod steps;
mod target;
#[cfg(test)]
mod tests;

pub use ask::{Outcome, TELLS_AFTER, ask};
pub use driver::{DriverError, run};
pub use target::{Call, Event, Failure, Heard, Host, News, Program, RunOptions, Target};
