//! The targets of calls, and the result for each.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Lane;
use crate::rpc::resolver::each_once;
use crate::wire::types::CallerName;

/// The program that is called on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// What people call it, as in "its statd refused".
    pub name: &'static str,
    pub number: u32,
    /// The versions that will do, the best one first.
    pub versions: &'static [u32],
}

/// How a fan-out works.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// What is called.
    pub program: Program,
    /// Whether a target in trouble is tried again until the end. Else trouble is its end.
    pub keep_on: bool,
    /// The port of the targets' rpcbind (111 outside tests and the demo).
    pub rpcbind_port: u16,
    /// When everything ends, on the clock that the caller's `now` is on.
    pub end: Duration,
    /// After how long without an answer a target is provisionally given up.
    pub no_answer_after: Duration,
    /// Whether this host has an address: it can be called from, and no name of a client leads to it.
    pub has_address: fn(IpAddr) -> bool,
}

/// What the machine works with: what its user wants, and what its driver adds.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) run: RunOptions,
    /// The sockets there are. Targets of a family without one cannot be reached.
    pub(super) lanes: Vec<Lane>,
    /// Most TCP calls at a time.
    pub(super) streams: usize,
    /// Where xids come from. Unpredictable outside tests, so that strangers cannot guess them.
    pub(super) seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The caller's number for it; events carry it back. Unique within one fan-out.
    pub id: u32,
    pub host: Host,
    /// What to call there, all at once.
    pub calls: Vec<Call>,
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Its addresses: the first one first, the others in turn when it does not answer.
    Addresses(Vec<IpAddr>),
    /// A name to resolve.
    Name(String),
    /// A client: it called from these addresses, under this name. Where they are silent, the other addresses that the
    /// name has are tried. They may be another machine's: where retries go on, that they have answered everything is told
    /// as [`Failure::Elsewhere`], and its own are tried again.
    Client {
        /// Where it called from, as in [`Self::Addresses`].
        addresses: Vec<IpAddr>,
        /// What it calls itself.
        name: String,
    },
}

impl Host {
    /// With addresses in one spelling, each once: IPv4 ones in IPv6 clothes are IPv4's, which no IPv6 socket
    /// here reaches. A name that is an address counts as that.
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Addresses(addresses) => Self::Addresses(each_once(addresses)),
            Self::Name(name) => match name.parse::<IpAddr>() {
                Ok(address) => Self::Addresses(each_once([address])),
                Err(_) => Self::Name(name),
            },
            Self::Client { addresses, name } => Self::Client { addresses: each_once(addresses), name },
        }
    }

    /// A client, by what is known of it.
    pub fn client(name: &CallerName, addresses: impl Iterator<Item = IpAddr>) -> Self {
        let can_be_asked_for = name.host().filter(|host| host.parse::<IpAddr>().is_err());
        match (Self::of(name, addresses), can_be_asked_for) {
            (Self::Addresses(addresses), Some(host)) => Self::Client { addresses, name: host.to_owned() },
            (host, _) => host,
        }
    }

    /// Its addresses, or its name where none is known.
    pub fn of(name: &CallerName, addresses: impl Iterator<Item = IpAddr>) -> Self {
        let addresses: Vec<IpAddr> = addresses.collect();
        if addresses.is_empty() { Self::Name(name.to_string()) } else { Self::Addresses(addresses) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What people call the procedure.
    pub name: &'static str,
    pub procedure: u32,
    /// Its arguments, encoded.
    pub args: Arc<[u8]>,
    /// The local address it leaves from; `None` leaves that to the routing table. One of the other
    /// family than the target's address cannot be used there and is left to the routing table too.
    pub from: Option<IpAddr>,
}

/// Something was learned about a target.
///
/// Each target has exactly one last event ([`Event::is_last`]): all its calls are answered, or it is
/// given up for good. Before that there may be answers of single calls and any number of provisional
/// "given up" that differ from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: u32,
    /// When, on the clock that the caller's `now` is on.
    pub at: Duration,
    /// How often it was tried until then: each sending of each of its calls, and each port look-up that went
    /// unanswered. 0 where nothing at all could be sent.
    pub attempts: u32,
    /// What was learned.
    pub news: News,
}

/// What was learned about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// One more of its calls was answered. All are when `answered == of`, and that is its last event.
    Answered {
        /// Which call, by its place among the target's.
        call: usize,
        results: Vec<u8>,
        /// How many of its calls are answered now.
        answered: u32,
        /// How many calls it has.
        of: u32,
        /// Who answered this call; `None` where no call was open.
        address: Option<IpAddr>,
    },
    /// Not everything was answered. Unless `last`, retries go on, and answers may still come.
    GivenUp {
        failure: Failure,
        /// What was heard of the host.
        heard: Heard,
        /// Details for people.
        error: Option<String>,
        /// Whether retries have ended.
        last: bool,
    },
    /// Nothing was learned but that it did not answer yet: a call was sent to it again.
    SentAgain,
}

impl News {
    /// Whether nothing more comes of this target.
    pub(super) fn is_last(&self) -> bool {
        match self {
            Self::Answered { answered, of, .. } => answered == of,
            Self::GivenUp { last, .. } => *last,
            Self::SentAgain => false,
        }
    }
}

/// Why a target is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing at all could be sent, which says nothing about it. Never after another failure.
    NotSent,
    /// Some of its calls were answered.
    Partial,
    /// Its calls were answered, but by an address that is not known to be the target's and has its name. That is said again
    /// whatever else is the matter, until one of its own answers.
    Elsewhere,
    /// Nothing came.
    NoAnswer,
    /// Its rpcbind knows no such program.
    NotRegistered,
    /// Its name has no address.
    NameUnknown,
    /// Its host, its rpcbind or the program refused the call.
    Refused,
}

/// What was heard of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Heard {
    #[default]
    Nothing,
    /// Its network says that no program listens.
    Refusal,
    /// An answer, if only of its rpcbind.
    Answer,
}

#[cfg(test)]
impl Event {
    /// Whether nothing more will be said about this target.
    pub fn is_last(&self) -> bool {
        match &self.news {
            News::Answered { answered, of, .. } => answered == of,
            News::GivenUp { last, .. } => *last,
            News::SentAgain => false,
        }
    }
}
