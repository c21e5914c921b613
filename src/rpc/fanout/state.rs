//! The state of a fan-out: its targets, the open calls, and what is due when.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use super::pace::Pace;
use super::queue::SendQueue;
use super::target::{Call, Event, Failure, Heard, Host, Options, Target};
use crate::rpc::xids::Xids;
use crate::wire::types::Transport;

/// What an exchange is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Where the program listens over `transport`, in its version of this place among the options'; asked `by`.
    Port { version: usize, transport: Transport, by: Transport },
    /// The subject's call of this number, in that version.
    Call { call: usize, version: usize, transport: Transport },
}

impl Step {
    pub(super) fn is_by_udp(self) -> bool {
        !matches!(self, Self::Port { by: Transport::Tcp, .. } | Self::Call { transport: Transport::Tcp, .. })
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) args: Arc<[u8]>,
}

/// A call and its repeats.
#[derive(Debug)]
pub(super) struct Exchange {
    /// No other has it: the number of its subject in the high half, below it which one this is of the subject's.
    pub(super) serial: u64,
    pub(super) step: Step,
    pub(super) to: SocketAddr,
    /// How often it was sent.
    pub(super) sends: u32,
    /// Unanswered sendings, its predecessors' included: the exponent of the back-off.
    pub(super) misses: u32,
    /// The last transmissions.
    pub(super) sent: SmallVec<[Sending; 1]>,
    /// The lane in whose window it takes a place.
    pub(super) under_way: Option<usize>,
}

/// The subject of an exchange.
pub(super) fn subject_of(serial: u64) -> usize {
    usize::try_from(serial >> 32).unwrap_or(usize::MAX)
}

/// One transmission of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    pub(super) xid: u32,
    pub(super) at: Duration,
    pub(super) from: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallState {
    Open,
    Done,
    /// It was answered, by an address that is not known to be the subject's own.
    Elsewhere,
    Refused,
}

/// A target at work.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) id: u32,
    /// What is to be resolved; `None` where addresses were given.
    pub(super) name: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// How many of them, from the first on, are known to be its own: all, where a name was given.
    pub(super) own: usize,
    /// Its name may have other addresses, and is to be asked for them no sooner than this.
    pub(super) ask_name_at: Option<Duration>,
    /// The address, not known to be its own, that answered the last of its calls when its own were silent.
    pub(super) elsewhere: Option<IpAddr>,
    /// Which address is called.
    pub(super) current: usize,
    pub(super) calls: Vec<(Call, CallState)>,
    /// By what its rpcbind, at the current address, has answered.
    pub(super) by: Option<Transport>,
    pub(super) open: SmallVec<[Exchange; 1]>,
    /// How many exchanges were opened.
    pub(super) opened: u32,
    pub(super) first_sent: Option<Duration>,
    pub(super) last_answer: Option<Duration>,
    pub(super) attempts: u32,
    /// Sendings that were not handed back as unsent.
    pub(super) left: u32,
    /// Back-off that outlives an exchange.
    pub(super) misses: u32,
    /// Its port look-ups are answered and its calls are not.
    pub(super) doubted: bool,
    pub(super) heard: Heard,
    /// Why nothing more can be done just now.
    pub(super) trouble: Option<(Failure, String)>,
    pub(super) reported: Option<Failure>,
    pub(super) done: bool,
}

impl Subject {
    pub(super) fn new(Target { id, host, calls }: Target) -> Self {
        let calls = calls.into_iter().map(|call| (call, CallState::Open)).collect();
        let (name, addresses, ask_name_at) = match host {
            Host::Addresses(addresses) => (None, addresses, None),
            Host::Name(name) => (Some(name), Vec::new(), None),
            Host::Client { addresses, name } => (Some(name), addresses, Some(Duration::ZERO)),
        };
        let own = ask_name_at.map_or(usize::MAX, |_| addresses.len());
        Self { id, name, addresses, own, ask_name_at, calls, ..Self::default() }
    }

    pub(super) fn answered(&self) -> usize {
        self.calls.iter().filter(|(_, state)| *state == CallState::Done).count()
    }

    pub(super) fn set(&mut self, call: usize, state: CallState) {
        if let Some((_, known)) = self.calls.get_mut(call) {
            *known = state;
        }
    }

    pub(super) fn failure(&self) -> Failure {
        match (&self.trouble, self.answered()) {
            (_, 1..) => Failure::Partial,
            (_, 0) if self.elsewhere.is_some() => Failure::Elsewhere,
            (Some((Failure::NoAnswer, _)) | None, 0) if self.left == 0 => {
                // A client that was sent nothing has not failed to answer. Earlier observations stay.
                self.reported.unwrap_or(Failure::NotSent)
            }
            (Some((failure, _)), 0) => *failure,
            (None, 0) => Failure::NoAnswer,
        }
    }

    /// Details of its failure, for people.
    pub(super) fn why(&self) -> Option<String> {
        match self.elsewhere {
            Some(by) if self.failure() == Failure::Elsewhere => Some(format!(
                "no answer from the address that it called from; acked by {by}, which has its name and may be another \
                 machine: its locks are kept"
            )),
            _ => self.trouble.as_ref().map(|(_, why)| why.clone()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// This sending of this exchange leaves the window.
    Landed { exchange: u64, sends: u32 },
    /// This sending of this exchange went unanswered.
    Missed { exchange: u64, sends: u32 },
    /// A subject's trouble may be over.
    Rested { subject: usize },
    /// A subject may have been silent for too long.
    Silent { subject: usize },
    /// Everything ends.
    End,
}

/// The machine. The module's theory says how to drive it.
#[derive(Debug)]
pub(super) struct Fanout {
    pub(super) options: Options,
    pub(super) subjects: Vec<Subject>,
    /// Which exchange each recognised xid belongs to.
    pub(super) xids: HashMap<u32, u64, RandomState>,
    pub(super) fresh: Xids,
    /// Which subjects have been asked at an address.
    pub(super) asked: BTreeSet<(IpAddr, usize)>,
    /// How a port is asked for, in each step, of IPv6 hosts and others.
    pub(super) port_questions: BTreeMap<(Step, bool), Question>,
    pub(super) pace: Pace,
    pub(super) queue: SendQueue,
    pub(super) lookups: VecDeque<usize>,
    /// Calls over TCP that wait, and port look-ups over TCP that do.
    pub(super) streams: VecDeque<u64>,
    pub(super) stream_look_ups: VecDeque<u64>,
    pub(super) streams_open: usize,
    /// What is due when: what leaves in one burst is due together.
    pub(super) timers: BTreeMap<Duration, Vec<Timer>>,
    pub(super) events: VecDeque<Event>,
    pub(super) unfinished: usize,
}

impl Fanout {
    pub(super) fn exchange(&self, serial: u64) -> Option<&Exchange> {
        self.subjects.get(subject_of(serial))?.open.iter().find(|exchange| exchange.serial == serial)
    }

    pub(super) fn exchange_mut(&mut self, serial: u64) -> Option<&mut Exchange> {
        self.subjects.get_mut(subject_of(serial))?.open.iter_mut().find(|exchange| exchange.serial == serial)
    }
}
