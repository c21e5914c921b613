//! The status monitor's side of a forced resync: the clients to notify, the notices, and probes of their state.
//!
//! [`notify`] and [`probe`] are calls to many statds by [`fanout`](crate::rpc::fanout). An ack means
//! *delivered*, and no ack means *not known*: they report what was observed, and nothing
//! that is concluded from it.
//!
//! | file | what | |
//! |---|---|---|
//! | `target` | the targets of notices | pure |
//! | `notify` | SM_NOTIFY | tokio |
//! | `probe` | SM_STAT | tokio |
//! | `roster` | lists of clients: what a statd recorded, a targets file | reads files |

mod notify;
#[cfg(feature = "tools")]
mod probe;
#[cfg(feature = "tools")]
pub mod roster;
pub mod target;
#[cfg(test)]
mod tests;

pub use crate::rpc::fanout::{DriverError, Event as FanoutEvent, Host, News};
pub use notify::{NO_ANSWER_AFTER, NotifyOptions, delivery, notify};
#[cfg(feature = "tools")]
pub use probe::{ProbeOptions, StatdState, probe};
pub use target::{Notice, Target};
