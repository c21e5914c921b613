//! One machine that talks to thousands of statds at once.
//!
//! # Theory
//! **What exists.** A *subject* is a target at work. Each goes through the same steps, and every
//! step is one or more *exchanges*, a call and its answer:
//!
//! ```text
//! name --look-up--> addresses --GETPORT udp--> port --------------> its calls --> done
//!        | none                  | 0: GETPORT tcp --> port (TCP) ---^   | silent: next address, GETPORT
//!        v                       | 0                                    | refused
//!      trouble <-----------------+--------------------------------------+
//!        | reported as given up; a rest; over again from the start, until the end
//! ```
//!
//! Its calls are one SM_NOTIFY for each notice, or NULL and SM_STAT for a probe. A silent exchange
//! is repeated with back-off; the tenth second without an ack is reported, and repeats go on.
//!
//! **Who owns what.** The machine owns everything but time, sockets, the resolver and TCP
//! connections. Its driver must: send what [`Fanout::poll_transmit`] gives, feed in what the
//! sockets have *before* it sends more, do each [`Lookup`] and [`StreamCall`] in bounded time and
//! hand back how it went, call [`Fanout::handle_timeout`] when [`Fanout::next_timeout`] has come,
//! and take the events.
//!
//! **What must hold.**
//! - Each target has exactly one last event, and nothing is sent to it afterwards.
//! - No more calls are under way on a lane than its window (`queue`).
//! - An answer is believed only if its xid, its source address and port, and the address it came
//!   in on are those of a call that is open. Whatever else comes in changes nothing.
//! - The same inputs with the same seed give the same outputs.
//!
//! **Where to start reading.** [`Fanout::poll_transmit`], then `answered`.

mod steps;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::calls::{self, Calls, Question, Said};
use super::pace::Pace;
pub use super::queue::Lane;
use super::queue::{SendQueue, Urgency};
use super::target::{FanoutEvent, Host, News, Target};
use crate::wire::control::Delivery;
use crate::wire::nsm::Procedure;
use crate::wire::rpc::RpcError;
use crate::wire::types::{CallerName, NsmState, Transport};

/// Until a target in trouble is begun with again.
const REST: Duration = Duration::from_secs(5);
/// The same for a name that has no address: resolvers remember that, and are others' machines.
const NAME_REST: Duration = Duration::from_secs(15);
/// Shortest wait before a TCP call is tried again.
const STREAM_REST: Duration = Duration::from_secs(1);
/// Calls left unanswered after which the port or the address is doubted.
const DOUBT_CALL: u32 = 4;
/// Port look-ups left unanswered after which the next address is tried, if there is one.
const DOUBT_ADDRESS: u32 = 2;
/// Transmissions of one call whose answers are still recognised.
const REMEMBERED: usize = 8;

/// What a fan-out is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Tell every target its notices, and go on until the end where one cannot be told.
    Notify {
        /// The state number that every notice carries.
        state: NsmState,
    },
    /// Ask every target's statd for its state number. A target in trouble is given up at once.
    Probe {
        /// The name that SM_STAT asks about.
        my_name: CallerName,
    },
}

/// What a fan-out works with. Times are on the clock of the caller's `now`.
#[derive(Debug, Clone)]
pub struct FanoutOptions {
    /// What it is for.
    pub job: Job,
    /// The port of the targets' rpcbind.
    pub rpcbind_port: u16,
    /// The sockets there are. Targets of a family without one cannot be reached.
    pub lanes: Vec<Lane>,
    /// Most TCP calls at a time.
    pub streams: usize,
    /// After how long without an ack a target is provisionally given up.
    pub no_answer_after: Duration,
    /// When everything ends.
    pub end: Duration,
    /// Where xids come from. Unpredictable outside tests, so that strangers cannot guess them.
    pub seed: u64,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From which socket.
    pub lane: usize,
    /// Where.
    pub to: SocketAddr,
    /// From which local address; any, if `None`.
    pub from: Option<IpAddr>,
    /// What.
    pub bytes: Vec<u8>,
}

/// A name to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// For [`Fanout::handle_lookup`].
    pub token: u64,
    /// The name.
    pub name: String,
}

/// Why a [`Lookup`] found nothing. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// The resolver said no.
    Failed(String),
    /// It has said nothing, or was not even asked: nothing is known about the name.
    Unanswered(String),
}

/// A call to a statd over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCall {
    /// For [`Fanout::handle_stream`].
    pub token: u64,
    /// Where.
    pub to: SocketAddr,
    /// From which local address; any, if `None`.
    pub from: Option<IpAddr>,
    /// Of program 100024, version 1.
    pub procedure: Procedure,
    /// Its arguments, encoded.
    pub args: Arc<[u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Port(Transport),
    /// The subject's call of this number.
    Call(usize, Transport),
}

/// A call and its repeats.
#[derive(Debug)]
struct Exchange {
    subject: usize,
    step: Step,
    question: Question,
    to: SocketAddr,
    /// How often it was sent.
    sends: u32,
    /// Unanswered sendings, its predecessors' included: the exponent of the back-off.
    misses: u32,
    /// The last transmissions.
    sent: VecDeque<Sending>,
    /// The lane in whose window it takes a place.
    under_way: Option<usize>,
}

/// One transmission of a call.
#[derive(Debug, Clone, Copy)]
struct Sending {
    xid: u32,
    at: Duration,
    from: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallState {
    Open,
    Done,
    Refused,
}

#[derive(Debug)]
struct Call {
    question: Question,
    from: Option<IpAddr>,
    state: CallState,
}

#[derive(Debug)]
struct Subject {
    id: u32,
    /// What is to be resolved; `None` where addresses were given.
    name: Option<String>,
    addresses: Vec<IpAddr>,
    current: usize,
    calls: Vec<Call>,
    /// The serials of its open exchanges.
    open: Vec<u64>,
    first_sent: Option<Duration>,
    last_ack: Option<Duration>,
    attempts: u32,
    /// Sendings that were not handed back as unsent.
    left: u32,
    /// Back-off that outlives an exchange.
    misses: u32,
    /// Its port look-ups are answered and its calls are not.
    doubted: bool,
    answered: bool,
    /// Why nothing more can be done just now.
    trouble: Option<(Delivery, String)>,
    reported: Option<Delivery>,
    state: Option<NsmState>,
    done: bool,
}

impl Subject {
    fn acked(&self) -> usize {
        self.calls.iter().filter(|call| call.state == CallState::Done).count()
    }

    fn delivery(&self) -> Delivery {
        match (&self.trouble, self.acked()) {
            (_, 1..) => Delivery::Partial,
            (Some((Delivery::NoAnswer, _)) | None, 0) if self.left == 0 => {
                // Who was sent nothing did not fail to answer. What was seen before stays seen.
                self.reported.unwrap_or(Delivery::NotTold)
            }
            (Some((delivery, _)), 0) => *delivery,
            (None, 0) => Delivery::NoAnswer,
        }
    }
}

/// IPv4 addresses in IPv6 clothes are IPv4's: no IPv6 socket here reaches them.
fn canonical(addresses: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().map(IpAddr::to_canonical).collect()
}

/// Ordered by time, then by number so that equals keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
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
pub struct Fanout {
    options: FanoutOptions,
    calls: Calls,
    subjects: Vec<Subject>,
    exchanges: HashMap<u64, Exchange>,
    next_exchange: u64,
    /// Which exchange each recognised xid belongs to.
    xids: HashMap<u32, u64>,
    /// Which subjects have been asked at an address.
    asked: BTreeSet<(IpAddr, usize)>,
    rng: StdRng,
    pace: Pace,
    queue: SendQueue,
    lookups: VecDeque<usize>,
    streams: VecDeque<u64>,
    streams_open: usize,
    timers: BinaryHeap<Reverse<(Duration, u64, Timer)>>,
    timers_set: u64,
    events: VecDeque<FanoutEvent>,
    unfinished: usize,
}

impl Fanout {
    /// A fan-out over `targets`, begun at `now`.
    pub fn new(now: Duration, targets: Vec<Target>, options: FanoutOptions) -> Self {
        let my_name = match &options.job {
            Job::Notify { .. } => None,
            Job::Probe { my_name } => Some(my_name),
        };
        let mut fanout = Self {
            calls: Calls::new(my_name),
            subjects: Vec::with_capacity(targets.len()),
            exchanges: HashMap::new(),
            next_exchange: 0,
            xids: HashMap::new(),
            asked: BTreeSet::new(),
            rng: StdRng::seed_from_u64(options.seed),
            pace: Pace::default(),
            queue: SendQueue::new(options.lanes.clone()),
            lookups: VecDeque::new(),
            streams: VecDeque::new(),
            streams_open: 0,
            timers: BinaryHeap::new(),
            timers_set: 0,
            events: VecDeque::new(),
            unfinished: targets.len(),
            options,
        };
        fanout.arm(fanout.options.end, Timer::End);
        for target in targets {
            fanout.admit(now, target);
        }
        fanout
    }

    fn admit(&mut self, now: Duration, target: Target) {
        let calls = match &self.options.job {
            Job::Notify { state } => {
                let state = *state;
                let open = |notice: super::target::Notice| Call {
                    question: self.calls.notice(&notice.name, state),
                    from: notice.from,
                    state: CallState::Open,
                };
                target.notices.into_iter().map(open).collect()
            }
            Job::Probe { .. } => [Question::Null, Question::Stat]
                .map(|question| Call { question, from: None, state: CallState::Open })
                .into(),
        };
        let (name, addresses) = match target.host {
            Host::Addresses(addresses) => (None, canonical(&addresses)),
            Host::Name(name) => match name.parse::<IpAddr>() {
                Ok(address) => (None, canonical(&[address])),
                Err(_) => (Some(name), Vec::new()),
            },
        };
        let subject = self.subjects.len();
        self.subjects.push(Subject {
            id: target.id,
            name,
            addresses,
            current: 0,
            calls,
            open: Vec::new(),
            first_sent: None,
            last_ack: None,
            attempts: 0,
            left: 0,
            misses: 0,
            doubted: false,
            answered: false,
            trouble: None,
            reported: None,
            state: None,
            done: false,
        });
        self.begin(now, subject);
    }

    /// The next datagram to send, if one may be sent now. It counts as sent.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Transmit> {
        let exchanges = &self.exchanges;
        let (serial, lane) = self.queue.take(|call| exchanges.contains_key(&call))?;
        let xid = self.fresh_xid(serial);
        let from = self.source(serial);
        let exchange = self.exchanges.get_mut(&serial)?;
        exchange.under_way = Some(lane);
        exchange.sends += 1;
        exchange.sent.push_back(Sending { xid, at: now, from });
        if exchange.sent.len() > REMEMBERED
            && let Some(forgotten) = exchange.sent.pop_front()
        {
            self.xids.remove(&forgotten.xid);
        }
        let (subject, sends, misses) = (exchange.subject, exchange.sends, exchange.misses);
        let transmit = Transmit {
            lane,
            to: exchange.to,
            from,
            bytes: self.calls.encode(exchange.question, exchange.to.ip(), xid),
        };
        let tried = self.count_attempt(now, subject, serial);
        let patience = self.pace.patience(misses, tried);
        let flight = self.pace.flight();
        if flight < patience {
            self.arm(now + flight, Timer::Landed { exchange: serial, sends });
        }
        self.arm(now + patience, Timer::Missed { exchange: serial, sends });
        Some(transmit)
    }

    /// The next name to resolve.
    pub fn poll_lookup(&mut self) -> Option<Lookup> {
        let token = self.lookups.pop_front()?;
        let name = self.subjects.get(token)?.name.clone()?;
        Some(Lookup { token: token as u64, name })
    }

    /// The next call to make over TCP, if one more may be open now. It counts as sent.
    pub fn poll_stream(&mut self, now: Duration) -> Option<StreamCall> {
        while self.streams_open < self.options.streams {
            let token = self.streams.pop_front()?;
            let from = self.source(token);
            let Some(exchange) = self.exchanges.get_mut(&token) else { continue };
            let Some(call) = self.calls.of_nsm(exchange.question) else { continue };
            exchange.sends += 1;
            exchange.sent = VecDeque::from([Sending { xid: 0, at: now, from }]);
            let (to, subject) = (exchange.to, exchange.subject);
            let stream = StreamCall { token, to, from, procedure: call.procedure, args: call.args.clone() };
            self.streams_open += 1;
            self.count_attempt(now, subject, token);
            return Some(stream);
        }
        None
    }

    /// The next thing that was learned.
    pub fn poll_event(&mut self) -> Option<FanoutEvent> {
        self.events.pop_front()
    }

    /// Whether [`Self::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether every target has had its last event (it may not have been taken yet).
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// When [`Self::handle_timeout`] wants to be called; earlier or later does no harm.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        if self.is_done() {
            return None;
        }
        while let Some(Reverse((at, _, timer))) = self.timers.peek() {
            if self.is_live(*timer) {
                return Some(*at);
            }
            self.timers.pop();
        }
        None
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(Reverse((at, _, timer))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if !self.is_live(timer) {
                continue;
            }
            match timer {
                Timer::Landed { exchange, .. } => self.land(exchange),
                Timer::Missed { exchange, .. } => self.missed(now, exchange),
                Timer::Rested { subject } => self.begin_again(now, subject),
                Timer::Silent { subject } => self.silent(now, subject),
                Timer::End => (0..self.subjects.len()).for_each(|subject| self.give_up(now, subject)),
            }
        }
    }

    /// A datagram came in on `lane`, from `peer` to `local_ip`.
    pub fn handle_datagram(&mut self, now: Duration, lane: usize, peer: SocketAddr, local_ip: IpAddr, bytes: &[u8]) {
        let Some(xid) = calls::xid_of(bytes) else { return };
        let Some(&serial) = self.xids.get(&xid) else { return };
        let Some(exchange) = self.exchanges.get(&serial) else { return };
        let Some(&sending) = exchange.sent.iter().find(|sending| sending.xid == xid) else { return };
        let ours = exchange.to.port() == peer.port()
            && exchange.to.ip() == peer.ip()
            && sending.from.is_none_or(|from| from == local_ip)
            && self.options.lanes.get(lane).is_some_and(|l| l.ipv6 == peer.is_ipv6());
        if !ours {
            return;
        }
        let Some(said) = calls::understand(exchange.question, exchange.to.ip(), bytes) else { return };
        let rtt = now.saturating_sub(sending.at);
        self.pace.observe(rtt);
        self.answered(now, serial, rtt, said);
    }

    /// Whether a datagram that was polled and has not been sent yet still should be.
    pub fn still_wants(&self, transmit: &Transmit) -> bool {
        calls::xid_of(&transmit.bytes).is_some_and(|xid| self.xids.contains_key(&xid))
    }

    /// A datagram could not be sent, for a reason that is not its receiver's. It counts as lost.
    pub fn handle_unsent(&mut self, transmit: &Transmit, why: &dyn std::fmt::Display) {
        let exchange = calls::xid_of(&transmit.bytes).and_then(|xid| self.exchanges.get(self.xids.get(&xid)?));
        let Some(subject) = exchange.and_then(|exchange| self.subjects.get_mut(exchange.subject)) else { return };
        let from = transmit.from.map(|from| format!(" from {from}"));
        let why = format!("cannot send to {}{}: {why}", transmit.to, from.unwrap_or_default());
        subject.left = subject.left.saturating_sub(1);
        subject.trouble = Some((Delivery::NoAnswer, why));
    }

    /// The network said that nobody listens at `to`: that host is there, and what was asked is not.
    pub fn handle_refused(&mut self, now: Duration, to: SocketAddr) {
        let subjects = self.asked.range((to.ip(), 0)..=(to.ip(), usize::MAX)).map(|&(_, subject)| subject);
        for subject in subjects.collect::<Vec<_>>() {
            self.refused_by_host(now, subject, to);
        }
    }

    /// How a [`Lookup`] went.
    pub fn handle_lookup(&mut self, now: Duration, token: u64, found: Result<Vec<IpAddr>, LookupError>) {
        let Some((number, subject)) = usize::try_from(token).ok().and_then(|n| Some((n, self.subjects.get_mut(n)?)))
        else {
            return;
        };
        if subject.done {
            return;
        }
        let name = subject.name.as_deref().unwrap_or_default();
        let (delivery, why) = match found {
            Ok(addresses) if !addresses.is_empty() => {
                subject.addresses = canonical(&addresses);
                subject.current = 0;
                self.ask_port(now, number, Transport::Udp);
                return;
            }
            Ok(_) => (Delivery::NameUnknown, format!("{name} has no address")),
            Err(LookupError::Failed(error)) => (Delivery::NameUnknown, format!("{name} cannot be resolved: {error}")),
            Err(LookupError::Unanswered(why)) => (Delivery::NoAnswer, format!("{name} is not resolved yet: {why}")),
        };
        self.trouble(now, number, delivery, why, NAME_REST);
    }

    /// How a [`StreamCall`] went: the results, a rejection, or (text for people) no answer at all.
    pub fn handle_stream(&mut self, now: Duration, token: u64, went: Result<Result<Vec<u8>, RpcError>, String>) {
        self.streams_open = self.streams_open.saturating_sub(1);
        let Some(exchange) = self.exchanges.get(&token) else { return };
        match went {
            Ok(outcome) => {
                let said =
                    calls::judge(exchange.question, exchange.to.ip(), outcome.as_deref().map_err(|error| *error));
                let rtt = exchange.sent.front().map_or(Duration::ZERO, |sending| now.saturating_sub(sending.at));
                self.answered(now, token, rtt, said);
            }
            Err(error) => {
                let (subject, misses, sends) = (exchange.subject, exchange.misses, exchange.sends);
                let why = format!("its statd is registered for TCP only, and there: {error}");
                let Some(subject) = self.subjects.get_mut(subject) else { return };
                subject.trouble = Some((Delivery::NoAnswer, why));
                let tried = now.saturating_sub(subject.first_sent.unwrap_or(now));
                let rest = self.pace.patience(misses, tried).max(STREAM_REST);
                self.arm(now + rest, Timer::Missed { exchange: token, sends });
            }
        }
    }
}
