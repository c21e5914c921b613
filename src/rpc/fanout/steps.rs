//! The transitions of a subject in the module's diagram.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smallvec::SmallVec;

use super::queue::Urgency;
use super::state::{CallState, Exchange, Fanout, Question, Step, Timer, subject_of};
use super::target::{Call, Event, Failure, Heard, News, Program};
use crate::rpc::rpcbind::{port_question, port_told};
use crate::wire::rpc::RpcError;
use crate::wire::rpcbind::{PROGRAM, UniversalAddress};
use crate::wire::scope;
use crate::wire::types::Transport;

/// Until a target in trouble is begun with again.
const REST: Duration = Duration::from_secs(5);
/// Calls left unanswered after which the port or the address is doubted.
const DOUBT_CALL: u32 = 4;
/// Port look-ups left unanswered after which the next address is tried, if there is one.
const DOUBT_ADDRESS: u32 = 2;
/// Datagrams left unanswered after which rpcbind is asked by TCP too.
const ASK_BY_TCP: u32 = 3;
/// Likewise, after which a client's name is asked for other addresses.
const ASK_NAME: u32 = 5;

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Fanout {
    pub(super) fn arm(&mut self, at: Duration, timer: Timer) {
        self.timers.entry(at).or_default().push(timer);
    }

    pub(super) fn is_live(&self, timer: Timer) -> bool {
        let sending = |serial: u64, sends: u32| self.exchange(serial).filter(|exchange| exchange.sends == sends);
        let subject = |subject: usize| self.subjects.get(subject).filter(|s| !s.done);
        match timer {
            Timer::Landed { exchange, sends } => sending(exchange, sends).is_some_and(|e| e.under_way.is_some()),
            Timer::Missed { exchange, sends } => sending(exchange, sends).is_some(),
            Timer::Rested { subject: number } => subject(number).is_some_and(|s| s.open.is_empty()),
            Timer::Silent { subject: number } => subject(number).is_some(),
            Timer::End => true,
        }
    }

    /// What to send for an exchange.
    pub(super) fn question(&mut self, serial: u64) -> Option<Question> {
        let Program { number: program, versions, .. } = self.options.run.program;
        let &Exchange { step, to, .. } = self.exchange(serial)?;
        match step {
            Step::Call { call, version, .. } => {
                let (Call { procedure, args, .. }, _) = self.subjects.get(subject_of(serial))?.calls.get(call)?;
                Some(Question { program, version: *versions.get(version)?, procedure: *procedure, args: args.clone() })
            }
            Step::Port { version, transport, by } => {
                let version = *versions.get(version)?;
                let question = self.port_questions.entry((step, to.is_ipv6())).or_insert_with(|| {
                    let address = UniversalAddress::default();
                    let (rpcbind, procedure, args) = port_question(to.ip(), address, program, version, transport, by);
                    Question { program: PROGRAM, version: rpcbind, procedure: procedure as u32, args: args.into() }
                });
                Some(question.clone())
            }
        }
    }

    /// The address to send an exchange from. A port look-up comes from those of the calls in turn:
    /// the host called them, so its way back to them works, and a firewall may know no other.
    pub(super) fn source(&self, serial: u64) -> Option<IpAddr> {
        let exchange = self.exchange(serial)?;
        let calls = &self.subjects.get(subject_of(serial))?.calls;
        let (call, _) = match exchange.step {
            Step::Port { .. } => calls.get(exchange.misses as usize % calls.len().max(1)),
            Step::Call { call, .. } => calls.get(call),
        }?;
        call.from.filter(|from| scope::reaches(*from, exchange.to.ip()))
    }

    /// Counts a sending, and says for how long its subject has been tried.
    pub(super) fn count_attempt(&mut self, now: Duration, serial: u64) -> Duration {
        let subject = subject_of(serial);
        let Some(&Exchange { step, sends, .. }) = self.exchange(serial) else { return Duration::ZERO };
        let Some(known) = self.subjects.get_mut(subject) else { return Duration::ZERO };
        let first_look_up = matches!(step, Step::Port { version: 0, transport: Transport::Udp, .. });
        let counts = matches!(step, Step::Call { .. }) || sends > 1 || first_look_up;
        known.attempts += u32::from(counts);
        let first_sent = known.first_sent;
        let left_before = known.left > 0;
        known.left = known.left.saturating_add(1);
        if sends > 1 && left_before {
            self.tell(now, subject, News::SentAgain);
        }
        let Some(known) = self.subjects.get_mut(subject) else { return Duration::ZERO };
        if let Some(first) = first_sent {
            return now.saturating_sub(first);
        }
        known.first_sent = Some(now);
        known.attempts = 1;
        self.arm(now + self.options.run.no_answer_after, Timer::Silent { subject });
        Duration::ZERO
    }

    /// Starts at the beginning: with its name, if that has not been resolved.
    pub(super) fn begin(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        if subject.calls.is_empty() {
            subject.done = true;
            self.unfinished -= 1;
            let news = News::Answered { call: 0, results: Vec::new(), answered: 0, of: 0, address: None };
            self.tell(now, number, news);
        } else if subject.addresses.is_empty() && subject.name.is_some() {
            self.lookups.push_back(number);
        } else {
            self.ask_first_port(now, number);
        }
    }

    /// Asks the current address, of which nothing is known yet.
    pub(super) fn ask_first_port(&mut self, now: Duration, number: usize) {
        if let Some(subject) = self.subjects.get_mut(number) {
            subject.by = None;
        }
        self.ask_port(now, number, 0, Transport::Udp);
    }

    fn ask_port(&mut self, now: Duration, number: usize, version: usize, transport: Transport) {
        self.close_all(number);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let count = subject.addresses.len();
        let usable = (subject.current..subject.current + count)
            .map(|at| at % count)
            .find(|&at| subject.addresses.get(at).is_some_and(|&address| self.queue.serves(address)));
        let Some(at) = usable else {
            let (failure, why) = match subject.addresses.first() {
                Some(address) => (Failure::NoAnswer, format!("this host has no socket to reach {address} from")),
                None => (Failure::NameUnknown, "no address of it is known".to_owned()),
            };
            self.trouble(now, number, failure, why, REST);
            return;
        };
        subject.current = at;
        let (misses, by) = (subject.misses, subject.by.unwrap_or(Transport::Udp));
        let Some(&address) = subject.addresses.get(at) else { return };
        let to = SocketAddr::new(address, self.options.run.rpcbind_port);
        self.asked.insert((address, number));
        self.open(number, Step::Port { version, transport, by }, to, misses);
        self.ask_by_tcp_too(number);
    }

    /// Asks a host that has left a few datagrams unanswered by TCP as well. The datagrams go on: a dead host is
    /// given up when they say so.
    fn ask_by_tcp_too(&mut self, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        let by_tcp = |e: &Exchange| matches!(e.step, Step::Port { by: Transport::Tcp, .. } | Step::Call { .. });
        let asked = subject.open.iter().any(by_tcp);
        if subject.misses >= ASK_BY_TCP && subject.by.is_none() && !asked {
            self.ask_by_tcp(number);
        }
    }

    fn ask_by_tcp(&mut self, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        let Some(&address) = subject.addresses.get(subject.current) else { return };
        let to = SocketAddr::new(address, self.options.run.rpcbind_port);
        // Where no datagram gets through, its program is better called over TCP too.
        let step = Step::Port { version: 0, transport: Transport::Tcp, by: Transport::Tcp };
        self.open(number, step, to, subject.misses);
    }

    /// A port look-up by TCP has failed. Where datagrams are still on their way, they decide.
    pub(super) fn no_port_by_tcp(&mut self, now: Duration, serial: u64, error: &str) {
        let number = subject_of(serial);
        if self.close(serial).is_none() {
            return;
        }
        let Some(subject) = self.subjects.get(number).filter(|subject| subject.open.is_empty()) else { return };
        let (failure, why) = match (subject.by, &subject.trouble) {
            (None, Some(refused)) => refused.clone(),
            _ => (Failure::NoAnswer, format!("its rpcbind is asked by TCP, and there: {error}")),
        };
        self.next_address(now, number, failure, why);
    }

    fn open(&mut self, number: usize, step: Step, to: SocketAddr, misses: u32) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.opened += 1;
        let serial = (number as u64) << 32 | u64::from(subject.opened);
        subject.open.push(Exchange { serial, step, to, sends: 0, misses, sent: SmallVec::new(), under_way: None });
        self.enqueue(serial);
    }

    fn enqueue(&mut self, serial: u64) {
        let Some(&Exchange { step, to, .. }) = self.exchange(serial) else { return };
        let Some(subject) = self.subjects.get(subject_of(serial)) else { return };
        match step {
            Step::Call { transport: Transport::Tcp, .. } => return self.streams.push_back(serial),
            Step::Port { by: Transport::Tcp, .. } => return self.stream_look_ups.push_back(serial),
            Step::Call { .. } | Step::Port { .. } => {}
        }
        let urgency = match (subject.heard, subject.first_sent) {
            (Heard::Answer | Heard::Refusal, _) => Urgency::Live,
            (Heard::Nothing, None) => Urgency::New,
            (Heard::Nothing, Some(_)) => Urgency::Silent,
        };
        self.queue.push(to.ip(), urgency, serial);
    }

    /// Its place in the window is free.
    pub(super) fn land(&mut self, serial: u64) {
        if let Some(lane) = self.exchange_mut(serial).and_then(|exchange| exchange.under_way.take()) {
            self.queue.landed(lane);
        }
    }

    fn close(&mut self, serial: u64) -> Option<Exchange> {
        self.land(serial);
        let open = &mut self.subjects.get_mut(subject_of(serial))?.open;
        let exchange = open.remove(open.iter().position(|exchange| exchange.serial == serial)?);
        for sending in &exchange.sent {
            if self.xids.get(&sending.xid) == Some(&serial) {
                self.xids.remove(&sending.xid);
            }
        }
        Some(exchange)
    }

    fn close_all(&mut self, number: usize) {
        while let Some(serial) = self.subjects.get(number).and_then(|s| Some(s.open.last()?.serial)) {
            self.close(serial);
        }
    }

    /// An exchange was answered.
    pub(super) fn answered(&mut self, now: Duration, serial: u64, outcome: Result<Vec<u8>, RpcError>) {
        let Some(Exchange { step, to, .. }) = self.close(serial) else { return };
        let number = subject_of(serial);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.heard = Heard::Answer;
        match (step, outcome) {
            (Step::Port { version, transport, by }, Ok(results)) => {
                subject.by = Some(by);
                self.close_all(number);
                let told = port_told(to.ip(), transport, by, &results);
                self.port_told(now, number, version, transport, to.ip(), told);
            }
            (Step::Port { .. }, Err(error)) => {
                let why = format!("its rpcbind refused a port look-up: {error}");
                self.trouble(now, number, Failure::Refused, why, REST);
            }
            (Step::Call { call, .. }, Ok(results)) => {
                let own = subject.addresses.iter().take(subject.own).any(|&own| own == to.ip());
                if own || !self.options.run.keep_on {
                    self.call_answered(now, number, call, to.ip(), results);
                } else {
                    self.call_answered_elsewhere(now, number, call, to.ip());
                }
            }
            (Step::Call { call, .. }, Err(error)) => {
                let (program, what) =
                    (self.options.run.program.name, subject.calls.get(call).map_or("", |(c, _)| c.name));
                subject.set(call, CallState::Refused);
                subject.trouble = Some((Failure::Refused, format!("its {program} refused {what}: {error}")));
                self.conclude(now, number);
            }
        }
    }

    fn port_told(
        &mut self,
        now: Duration,
        number: usize,
        version: usize,
        transport: Transport,
        ip: IpAddr,
        told: Result<Option<u16>, String>,
    ) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let (first, other) = match subject.by {
            Some(Transport::Tcp) => (Transport::Tcp, Transport::Udp),
            Some(Transport::Udp) | None => (Transport::Udp, Transport::Tcp),
        };
        match (told, transport) {
            (Ok(Some(port)), _) => {
                subject.trouble = None;
                // The look-up is answered; from here on its calls are counted.
                subject.attempts = subject.attempts.saturating_sub(1);
                if !subject.doubted {
                    subject.misses = 0;
                }
                self.open_calls(number, version, transport, SocketAddr::new(ip, port));
            }
            (Ok(None), asked) if asked == first => self.ask_port(now, number, version, other),
            (Ok(None), _) if version + 1 < self.options.run.program.versions.len() => {
                self.ask_port(now, number, version + 1, first);
            }
            (Ok(None), _) => {
                let why = format!("its rpcbind knows no {}", self.options.run.program.name);
                self.trouble(now, number, Failure::NotRegistered, why, REST);
            }
            (Err(odd), _) => {
                self.trouble(now, number, Failure::Refused, format!("its rpcbind's {odd}"), REST);
            }
        }
    }

    fn open_calls(&mut self, number: usize, version: usize, transport: Transport, to: SocketAddr) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let misses = subject.misses;
        let mut wanted = Vec::new();
        for (call, (_, state)) in subject.calls.iter_mut().enumerate().filter(|(_, (_, s))| *s != CallState::Done) {
            *state = CallState::Open;
            wanted.push(call);
        }
        for call in wanted {
            self.open(number, Step::Call { call, version, transport }, to, misses);
        }
    }

    fn call_answered(&mut self, now: Duration, number: usize, call: usize, by: IpAddr, results: Vec<u8>) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.set(call, CallState::Done);
        subject.last_answer = Some(now);
        subject.misses = 0;
        subject.doubted = false;
        if subject.calls.iter().all(|(_, state)| *state != CallState::Refused) {
            subject.trouble = None;
        }
        let (answered, of) = (count(subject.answered()), count(subject.calls.len()));
        self.tell(now, number, News::Answered { call, results, answered, of, address: Some(by) });
        self.conclude(now, number);
    }

    /// When all its calls are, its own addresses are tried again, and no others.
    fn call_answered_elsewhere(&mut self, now: Duration, number: usize, call: usize, by: IpAddr) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.set(call, CallState::Elsewhere);
        if subject.calls.iter().all(|(_, state)| matches!(state, CallState::Done | CallState::Elsewhere)) {
            (subject.elsewhere, subject.heard) = (Some(by), Heard::Nothing);
            subject.addresses.truncate(subject.own);
            self.report(now, number);
            self.arm(now + REST, Timer::Rested { subject: number });
        } else {
            self.conclude(now, number);
        }
    }

    /// A call is over: is the subject?
    fn conclude(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        if subject.answered() == subject.calls.len() {
            self.finish(number);
        } else if subject.open.is_empty() {
            let (failure, why) = subject.trouble.clone().unwrap_or((Failure::Refused, "refused".into()));
            self.trouble(now, number, failure, why, REST);
        }
    }

    /// When the answer to the last datagram of an exchange is overdue, by what is measured now.
    pub(super) fn overdue_at(&self, serial: u64) -> Option<Duration> {
        let exchange = self.exchange(serial).filter(|exchange| exchange.step.is_by_udp())?;
        let (sent, first) = (exchange.sent.last()?.at, self.subjects.get(subject_of(serial))?.first_sent?);
        Some(sent + self.pace.patience(exchange.misses, sent.saturating_sub(first)))
    }

    /// A sending went unanswered.
    pub(super) fn missed(&mut self, now: Duration, serial: u64) {
        self.land(serial);
        let number = subject_of(serial);
        let Some(exchange) = self.exchange_mut(serial) else { return };
        exchange.misses = exchange.misses.saturating_add(1);
        let (sends, misses, step) = (exchange.sends, exchange.misses, exchange.step);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.misses = subject.misses.max(misses);
        let ask_name = subject.ask_name_at.is_some_and(|at| at <= now);
        if subject.misses >= ASK_NAME && ask_name && matches!(step, Step::Port { .. }) {
            subject.ask_name_at = None;
            self.lookups.push_back(number);
        }
        match step {
            Step::Call { .. } if sends >= DOUBT_CALL => {
                subject.doubted = true;
                self.try_elsewhere(now, number);
            }
            Step::Port { .. } if sends >= DOUBT_ADDRESS && subject.addresses.len() > 1 => {
                self.try_elsewhere(now, number);
            }
            Step::Port { .. } => {
                self.enqueue(serial);
                self.ask_by_tcp_too(number);
            }
            Step::Call { .. } => self.enqueue(serial),
        }
    }

    /// A silent client's name has these addresses. None of them is this host's: it must not be told that it rebooted
    /// because a client has a strange name.
    pub(super) fn found_others(&mut self, now: Duration, number: usize, found: Vec<IpAddr>) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let called = |ip: &IpAddr| subject.calls.iter().any(|(call, _)| call.from == Some(*ip));
        let no_other = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || called(ip);
        let ours = |ip: &IpAddr| no_other(ip) || (self.options.run.has_address)(*ip);
        let others: Vec<IpAddr> = found.into_iter().filter(|ip| !ours(ip) && !subject.addresses.contains(ip)).collect();
        if others.is_empty() {
            return;
        }
        subject.addresses.extend(others);
        if subject.by.is_none() && !subject.open.is_empty() {
            subject.current = subject.own - 1;
            self.try_elsewhere(now, number);
        }
    }

    /// Asks its next address for the port; where there is only one, whether the port has changed.
    fn try_elsewhere(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.current = (subject.current + 1) % subject.addresses.len().max(1);
        self.ask_first_port(now, number);
    }

    pub(super) fn refused_by_host(&mut self, now: Duration, number: usize, to: SocketAddr) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let refused = |exchange: &&Exchange| exchange.to == to && exchange.sends > 0 && exchange.step.is_by_udp();
        let Some(&Exchange { step, .. }) = subject.open.iter().find(refused) else { return };
        let what = match step {
            Step::Port { .. } => "rpcbind",
            Step::Call { .. } => self.options.run.program.name,
        };
        let why = format!("its host says that no program listens on its {what}'s port {}", to.port());
        subject.heard = subject.heard.max(Heard::Refusal);
        if let Step::Port { .. } = step {
            // Its rpcbind may be there by TCP.
            subject.trouble = Some((Failure::Refused, why));
            self.close_all(number);
            self.ask_by_tcp(number);
        } else {
            self.next_address(now, number, Failure::Refused, why);
        }
    }

    /// Goes on at the next address; after the last one the subject is in trouble.
    fn next_address(&mut self, now: Duration, number: usize, failure: Failure, why: String) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let mut others = subject.addresses.iter().enumerate().skip(subject.current + 1);
        // No wrapping around: an address that refuses at once would be asked again at once.
        if let Some((next, _)) = others.find(|&(_, &address)| self.queue.serves(address)) {
            subject.current = next;
            self.ask_first_port(now, number);
        } else {
            self.trouble(now, number, failure, why, REST);
        }
    }

    /// Nothing more can be done just now: says so, and rests, or ends.
    pub(super) fn trouble(&mut self, now: Duration, number: usize, failure: Failure, why: String, rest: Duration) {
        self.close_all(number);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.trouble = Some((failure, why));
        if self.options.run.keep_on {
            self.report(now, number);
            self.arm(now + rest, Timer::Rested { subject: number });
        } else {
            self.give_up(now, number);
        }
    }

    pub(super) fn begin_again(&mut self, now: Duration, number: usize) {
        if let Some(subject) = self.subjects.get_mut(number) {
            subject.current = 0;
        }
        self.begin(now, number);
    }

    /// Says that a subject is given up for the time being, unless that was said already.
    fn report(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let failure = subject.failure();
        if subject.reported.replace(failure) != Some(failure) {
            self.tell_given_up(now, number, false);
        }
    }

    pub(super) fn silent(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        let heard = subject.last_answer.or(subject.first_sent).unwrap_or(now);
        let due = heard + self.options.run.no_answer_after;
        if now < due {
            self.arm(due, Timer::Silent { subject: number });
        } else if self.options.run.keep_on {
            self.report(now, number);
        }
    }

    pub(super) fn give_up(&mut self, now: Duration, number: usize) {
        if self.subjects.get(number).is_some_and(|subject| !subject.done) {
            self.finish(number);
            self.tell_given_up(now, number, true);
        }
    }

    fn tell_given_up(&mut self, now: Duration, number: usize, last: bool) {
        let Some(subject) = self.subjects.get(number) else { return };
        let (failure, heard, error) = (subject.failure(), subject.heard, subject.why());
        self.tell(now, number, News::GivenUp { failure, heard, error, last });
    }

    fn finish(&mut self, number: usize) {
        self.close_all(number);
        if let Some(subject) = self.subjects.get_mut(number).filter(|subject| !subject.done) {
            subject.done = true;
            self.unfinished -= 1;
        }
    }

    fn tell(&mut self, now: Duration, number: usize, news: News) {
        if let Some(subject) = self.subjects.get(number) {
            let (id, attempts) = (subject.id, if subject.left == 0 { 0 } else { subject.attempts });
            self.events.push_back(Event { id, at: now, attempts, news });
        }
    }
}
