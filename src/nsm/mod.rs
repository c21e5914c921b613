//! The status monitor's side of a forced resync: whom to tell, telling them, and asking how they are.
//!
//! The heart is [`fanout::Fanout`], a pure machine that talks to thousands of statds at once:
//! datagrams, timeouts and look-ups in, datagrams and [`FanoutEvent`]s out, never a socket or a
//! clock. [`driver`] gives it sockets, a resolver and time; [`notify`] and [`probe`] are all that
//! the rest of the crate calls. An ack means *delivered*, and no ack means *not known*: the events
//! carry what was observed and nothing concluded from it.
//!
//! | file | what | |
//! |---|---|---|
//! | `target` | who is told what, and what became of it | pure |
//! | `fanout` | the machine; start reading here | pure |
//! | `calls` | its calls as bytes, and their answers | pure |
//! | `pace` | how long to wait: measured round trips, back-off | pure |
//! | `queue` | what may be sent next, and the window | pure |
//! | `driver` | sockets, resolver, TCP, time | tokio |
//! | `roster` | lists of clients: what a statd recorded, a targets file | reads files |

mod calls;
pub mod driver;
pub mod fanout;
#[cfg(test)]
mod farm;
mod pace;
mod queue;
pub mod roster;
pub mod target;

pub use driver::{NotifyOptions, ProbeOptions, ProbeOutcome, ProbeResult, notify, probe};
pub use target::{FanoutEvent, Host, News, Notice, Target};
