//! The inputs and outputs of a fan-out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ahash::RandomState;
use smallvec::smallvec;

use super::pace::Pace;
use super::queue::SendQueue;
use super::state::{Fanout, Question, Sending, Step, Subject, Timer, subject_of};
use super::target::{Event, Failure, Options, Target};
use crate::rpc::call::xid_of;
use crate::rpc::resolver::Unresolved;
use crate::rpc::xids::Xids;
use crate::wire::rpc::{self, Credential, RpcError};

/// Until a name that has no address, or of which the resolver said nothing, is looked up again: resolvers are others' machines.
pub(super) const NAME_REST: Duration = Duration::from_secs(15);
/// Shortest wait before a TCP call is tried again.
const STREAM_REST: Duration = Duration::from_secs(1);
/// Transmissions of one call whose answers are still recognised.
const REMEMBERED: usize = 8;

/// A datagram to send. `from`: the local address; any, if `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transmit {
    pub(super) lane: usize,
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) bytes: Vec<u8>,
}

/// A name to resolve, for [`Fanout::handle_lookup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lookup {
    pub(super) token: u64,
    pub(super) name: String,
}

/// A call over TCP, for [`Fanout::handle_stream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamCall {
    pub(super) token: u64,
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) question: Question,
}

impl Fanout {
    /// A fan-out over `targets`, begun at `now`. Their addresses, and those of look-ups, are canonical.
    pub(super) fn new(now: Duration, targets: Vec<Target>, options: Options) -> Self {
        let mut fanout = Self {
            subjects: Vec::with_capacity(targets.len()),
            xids: HashMap::with_hasher(RandomState::with_seeds(options.seed, 1, 2, 3)),
            fresh: Xids::new(options.seed),
            asked: BTreeSet::new(),
            port_questions: BTreeMap::new(),
            pace: Pace::default(),
            queue: SendQueue::new(options.lanes.clone()),
            lookups: VecDeque::new(),
            streams: VecDeque::new(),
            stream_look_ups: VecDeque::new(),
            streams_open: 0,
            timers: BTreeMap::new(),
            events: VecDeque::new(),
            unfinished: targets.len(),
            options,
        };
        fanout.arm(fanout.options.run.end, Timer::End);
        for target in targets {
            fanout.subjects.push(Subject::new(target));
            fanout.begin(now, fanout.subjects.len() - 1);
        }
        fanout
    }

    /// The next datagram to send, if one may be sent now. It counts as sent.
    pub(super) fn poll_transmit(&mut self, now: Duration) -> Option<Transmit> {
        let subjects = &self.subjects;
        let open = |call| subjects.get(subject_of(call)).is_some_and(|s| s.open.iter().any(|e| e.serial == call));
        let (serial, lane) = self.queue.take(open)?;
        let Question { program, version, procedure, args } = self.question(serial)?;
        let from = self.source(serial);
        let xid = self.fresh.draw();
        self.xids.insert(xid, serial);
        let exchange = self.exchange_mut(serial)?;
        exchange.under_way = Some(lane);
        exchange.sends += 1;
        exchange.sent.push(Sending { xid, at: now, from });
        let forgotten = (exchange.sent.len() > REMEMBERED).then(|| exchange.sent.remove(0));
        let (to, sends, misses) = (exchange.to, exchange.sends, exchange.misses);
        if let Some(forgotten) = forgotten {
            self.xids.remove(&forgotten.xid);
        }
        let bytes = rpc::call(xid, program, version, procedure, &Credential::None, &args);
        let tried = self.count_attempt(now, serial);
        let patience = self.pace.patience(misses, tried);
        let flight = self.pace.flight();
        if flight < patience {
            self.arm(now + flight, Timer::Landed { exchange: serial, sends });
        }
        self.arm(now + patience, Timer::Missed { exchange: serial, sends });
        Some(Transmit { lane, to, from, bytes })
    }

    /// The next name to resolve.
    pub(super) fn poll_lookup(&mut self) -> Option<Lookup> {
        let token = self.lookups.pop_front()?;
        let name = self.subjects.get(token)?.name.clone()?;
        Some(Lookup { token: token as u64, name })
    }

    /// The next call to make over TCP, if one more may be open now. It counts as sent.
    pub(super) fn poll_stream(&mut self, now: Duration) -> Option<StreamCall> {
        // Most hosts that are asked by TCP are dead, and each of them has its place for long: a third is the
        // living's.
        let for_look_ups = self.options.streams - self.options.streams / 3;
        while self.streams_open < self.options.streams {
            let may_look_up = self.streams_open < for_look_ups;
            let look_up = || if may_look_up { self.stream_look_ups.pop_front() } else { None };
            let token = self.streams.pop_front().or_else(look_up)?;
            let from = self.source(token);
            let Some(question) = self.question(token) else { continue };
            let Some(exchange) = self.exchange_mut(token) else { continue };
            exchange.sends += 1;
            exchange.sent = smallvec![Sending { xid: 0, at: now, from }];
            let (to, step) = (exchange.to, exchange.step);
            self.streams_open += 1;
            // What rpcbind is asked by TCP it was asked by UDP before, and counted then.
            if matches!(step, Step::Call { .. }) {
                self.count_attempt(now, token);
            }
            return Some(StreamCall { token, to, from, question });
        }
        None
    }

    /// The next thing that was learned.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Self::poll_event`] has something.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether every target has had its last event (it may not have been taken yet).
    pub(super) fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// When [`Self::handle_timeout`] wants to be called; earlier or later does no harm.
    pub(super) fn next_timeout(&mut self) -> Option<Duration> {
        if self.is_done() {
            return None;
        }
        // Most of what is armed is answered long before: that need not wake anybody.
        while let Some((&at, timers)) = self.timers.first_key_value() {
            if timers.iter().any(|timer| self.is_live(*timer)) {
                return Some(at);
            }
            self.timers.pop_first();
        }
        None
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        while let Some(due) = self.timers.first_entry().filter(|first| *first.key() <= now) {
            for timer in due.remove() {
                if !self.is_live(timer) {
                    continue;
                }
                match timer {
                    Timer::Landed { exchange, .. } => self.land(exchange),
                    Timer::Missed { exchange, .. } => match self.overdue_at(exchange) {
                        // Answers take longer than they did when this was sent.
                        Some(at) if at > now => self.arm(at, timer),
                        _ => self.missed(now, exchange),
                    },
                    Timer::Rested { subject } => self.begin_again(now, subject),
                    Timer::Silent { subject } => self.silent(now, subject),
                    Timer::End => self.end(now),
                }
            }
        }
    }

    /// Gives up every target that is left.
    pub(super) fn end(&mut self, now: Duration) {
        (0..self.subjects.len()).for_each(|subject| self.give_up(now, subject));
    }

    /// A datagram came in on `lane`, from `peer` to `local_ip`.
    pub(super) fn handle_datagram(
        &mut self,
        now: Duration,
        lane: usize,
        peer: SocketAddr,
        local_ip: IpAddr,
        bytes: &[u8],
    ) {
        let Some(xid) = xid_of(bytes) else { return };
        let Some(&serial) = self.xids.get(&xid) else { return };
        let Some(exchange) = self.exchange(serial) else { return };
        let Some(&sending) = exchange.sent.iter().find(|sending| sending.xid == xid) else { return };
        let ours = exchange.to.port() == peer.port()
            && exchange.to.ip() == peer.ip()
            && sending.from.is_none_or(|from| from == local_ip)
            && self.options.lanes.get(lane).is_some_and(|l| l.ipv6 == peer.is_ipv6());
        if !ours {
            return;
        }
        let Ok(reply) = rpc::parse_reply(bytes) else { return };
        self.pace.observe(now.saturating_sub(sending.at));
        self.answered(now, serial, reply.outcome.map(<[u8]>::to_vec));
    }

    /// Whether a datagram that was polled and has not been sent yet still should be.
    pub(super) fn still_wants(&self, transmit: &Transmit) -> bool {
        xid_of(&transmit.bytes).is_some_and(|xid| self.xids.contains_key(&xid))
    }

    /// A datagram could not be sent, for a reason that is not its receiver's. It counts as lost.
    pub(super) fn handle_unsent(&mut self, transmit: &Transmit, why: &dyn std::fmt::Display) {
        let serial = xid_of(&transmit.bytes).and_then(|xid| self.xids.get(&xid));
        let Some(subject) = serial.and_then(|&serial| self.subjects.get_mut(subject_of(serial))) else { return };
        let from = transmit.from.map(|from| format!(" from {from}"));
        let why = format!("cannot send to {}{}: {why}", transmit.to, from.unwrap_or_default());
        subject.left = subject.left.saturating_sub(1);
        subject.trouble = Some((Failure::NoAnswer, why));
    }

    /// The network said that no program listens at `to`: that host is there, and what was asked is not.
    pub(super) fn handle_refused(&mut self, now: Duration, to: SocketAddr) {
        let subjects = self.asked.range((to.ip(), 0)..=(to.ip(), usize::MAX)).map(|&(_, subject)| subject);
        for subject in subjects.collect::<Vec<_>>() {
            self.refused_by_host(now, subject, to);
        }
    }

    /// How a [`Lookup`] went.
    pub(super) fn handle_lookup(&mut self, now: Duration, token: u64, found: Result<Vec<IpAddr>, Unresolved>) {
        let Some((number, subject)) = usize::try_from(token).ok().and_then(|n| Some((n, self.subjects.get_mut(n)?)))
        else {
            return;
        };
        if subject.done {
            return;
        }
        if !subject.addresses.is_empty() {
            return match found {
                Err(Unresolved::Unanswered(_)) => subject.ask_name_at = Some(now + NAME_REST),
                found => self.found_others(now, number, found.unwrap_or_default()),
            };
        }
        let name = subject.name.as_deref().unwrap_or_default();
        let (failure, why) = match found {
            Ok(addresses) if !addresses.is_empty() => {
                subject.addresses = addresses;
                subject.current = 0;
                self.ask_first_port(now, number);
                return;
            }
            Ok(_) => (Failure::NameUnknown, format!("{name} has no address")),
            Err(Unresolved::Unknown(error)) => (Failure::NameUnknown, format!("{name} cannot be resolved: {error}")),
            Err(Unresolved::Unanswered(why)) => (Failure::NoAnswer, format!("{name} is not resolved yet: {why}")),
        };
        self.trouble(now, number, failure, why, NAME_REST);
    }

    /// How a [`StreamCall`] went: the results, a rejection, or (text for people) no answer at all.
    pub(super) fn handle_stream(&mut self, now: Duration, token: u64, went: Result<Result<Vec<u8>, RpcError>, String>) {
        self.streams_open = self.streams_open.saturating_sub(1);
        let Some(exchange) = self.exchange(token) else { return };
        match went {
            Ok(outcome) => self.answered(now, token, outcome),
            Err(error) => {
                if let Step::Port { .. } = exchange.step {
                    return self.no_port_by_tcp(now, token, &error);
                }
                let (misses, sends) = (exchange.misses, exchange.sends);
                let name = self.options.run.program.name;
                let why = format!("its {name} is called over TCP, and there: {error}");
                let Some(subject) = self.subjects.get_mut(subject_of(token)) else { return };
                subject.trouble = Some((Failure::NoAnswer, why));
                let tried = now.saturating_sub(subject.first_sent.unwrap_or(now));
                let rest = self.pace.patience(misses, tried).max(STREAM_REST);
                self.arm(now + rest, Timer::Missed { exchange: token, sends });
            }
        }
    }
}
