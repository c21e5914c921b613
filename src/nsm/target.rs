//! Who is told what, and what became of it.

use std::net::IpAddr;
use std::time::Duration;

use crate::rpc::fanout::{Host, Program};
use crate::wire::control::Delivery;
use crate::wire::nsm;
use crate::wire::types::CallerName;

pub(super) const STATD: Program = Program { name: "statd", number: nsm::PROGRAM, versions: &[nsm::VERSION] };

/// A host to notify or to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The caller's number for it; events carry it back. Unique within one fan-out.
    pub id: u32,
    /// Where it is.
    pub host: Host,
    /// What to tell it. Empty for a probe.
    pub notices: Vec<Notice>,
}

/// One SM_NOTIFY: peers match it by name, or by the address it comes from, or by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The server address it leaves from; `None` leaves that to the routing table. One of the other
    /// family than the target's address cannot be used there and is left to the routing table too.
    pub from: Option<IpAddr>,
    /// `mon_name`: who is said to have rebooted.
    pub name: CallerName,
}

/// Something was learned about a target.
///
/// Each target has exactly one last event ([`FanoutEvent::is_last`]): all its notices are acked, or it
/// is given up for good. Before that there may be acks of single notices
/// and any number of provisional "given up" that differ from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanoutEvent {
    /// Which target.
    pub id: u32,
    /// When, on the clock that the caller's `now` is on.
    pub at: Duration,
    /// How often it was tried until then: 1, and 1 more for each call that was sent again. 0 where
    /// nothing at all could be sent.
    pub attempts: u32,
    /// What was learned.
    pub news: News,
}

/// What was learned about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// One more of its notices was acked. All are when `acked == of`, and that is its last event.
    Acked {
        /// How many of its notices are acked now.
        acked: u32,
        /// How many notices it has.
        of: u32,
        /// From the last time the notice was sent to its ack.
        rtt: Duration,
    },
    /// Not everything could be told. Unless `last`, retries go on, and acks may still come.
    GivenUp {
        /// `Partial`, `NoAnswer`, `NoStatd`, `NameUnknown` or `Refused`; `NotTold` where nothing at
        /// all could be sent, and never after another one.
        delivery: Delivery,
        /// Details for people.
        error: Option<String>,
        /// Whether retries have ended.
        last: bool,
    },
    /// Nothing was learned but that it did not answer yet: a call was sent to it again.
    SentAgain,
}

impl FanoutEvent {
    /// Whether nothing more will be said about this target.
    pub fn is_last(&self) -> bool {
        match &self.news {
            News::Acked { acked, of, .. } => acked == of,
            News::GivenUp { last, .. } => *last,
            News::SentAgain => false,
        }
    }
}
