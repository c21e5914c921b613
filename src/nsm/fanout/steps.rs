//! What happens to a subject: the transitions of the diagram in `fanout`.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::RngExt;

use super::{
    CallState, DOUBT_ADDRESS, DOUBT_CALL, Exchange, Fanout, FanoutEvent, Job, News, Question, REST, Said, Step, Timer,
    Urgency,
};
use crate::wire::control::Delivery;
use crate::wire::types::{NsmState, Transport};

impl Fanout {
    pub(super) fn arm(&mut self, at: Duration, timer: Timer) {
        self.timers_set += 1;
        self.timers.push(Reverse((at, self.timers_set, timer)));
    }

    pub(super) fn is_live(&self, timer: Timer) -> bool {
        let sending = |exchange: u64, sends: u32| self.exchanges.get(&exchange).filter(|e| e.sends == sends);
        let subject = |subject: usize| self.subjects.get(subject).filter(|s| !s.done);
        match timer {
            Timer::Landed { exchange, sends } => sending(exchange, sends).is_some_and(|e| e.under_way.is_some()),
            Timer::Missed { exchange, sends } => sending(exchange, sends).is_some(),
            Timer::Rested { subject: number } => subject(number).is_some_and(|s| s.open.is_empty()),
            Timer::Silent { subject: number } => subject(number).is_some(),
            Timer::End => true,
        }
    }

    pub(super) fn fresh_xid(&mut self, exchange: u64) -> u32 {
        loop {
            let xid = self.rng.random();
            if let std::collections::hash_map::Entry::Vacant(free) = self.xids.entry(xid) {
                free.insert(exchange);
                return xid;
            }
        }
    }

    /// The address to send an exchange from. A port look-up comes from those of the notices in turn:
    /// the client called them, so its way back to them works, and a firewall may know no other.
    pub(super) fn source(&self, serial: u64) -> Option<IpAddr> {
        let exchange = self.exchanges.get(&serial)?;
        let calls = &self.subjects.get(exchange.subject)?.calls;
        let call = match exchange.step {
            Step::Port(_) => calls.get(exchange.misses as usize % calls.len().max(1)),
            Step::Call(call, _) => calls.get(call),
        };
        call?.from.filter(|from| from.is_ipv6() == exchange.to.is_ipv6())
    }

    /// Counts a sending, and says for how long its subject has been tried.
    pub(super) fn count_attempt(&mut self, now: Duration, subject: usize, serial: u64) -> Duration {
        let (Some(known), Some(exchange)) = (self.subjects.get_mut(subject), self.exchanges.get(&serial)) else {
            return Duration::ZERO;
        };
        let again = exchange.sends > 1 || exchange.step == Step::Port(Transport::Udp);
        known.attempts += u32::from(again);
        let first_sent = known.first_sent;
        let left_before = known.left > 0;
        known.left = known.left.saturating_add(1);
        if exchange.sends > 1 && left_before {
            self.tell(now, subject, News::SentAgain);
        }
        let Some(known) = self.subjects.get_mut(subject) else { return Duration::ZERO };
        if let Some(first) = first_sent {
            return now.saturating_sub(first);
        }
        known.first_sent = Some(now);
        known.attempts = 1;
        self.arm(now + self.options.no_answer_after, Timer::Silent { subject });
        Duration::ZERO
    }

    /// Starts at the beginning: with its name, if that has not been resolved.
    pub(super) fn begin(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        if subject.calls.is_empty() {
            subject.done = true;
            self.unfinished -= 1;
            self.tell(now, number, News::Acked { acked: 0, of: 0, rtt: Duration::ZERO });
        } else if subject.addresses.is_empty() && subject.name.is_some() {
            self.lookups.push_back(number);
        } else {
            self.ask_port(now, number, Transport::Udp);
        }
    }

    pub(super) fn ask_port(&mut self, now: Duration, number: usize, transport: Transport) {
        self.close_all(number);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let count = subject.addresses.len();
        let usable = (subject.current..subject.current + count)
            .map(|at| at % count)
            .find(|&at| subject.addresses.get(at).is_some_and(|&address| self.queue.serves(address)));
        let Some(at) = usable else {
            let (delivery, why) = match subject.addresses.first() {
                Some(address) => (Delivery::NoAnswer, format!("this host has no socket to reach {address} from")),
                None => (Delivery::NameUnknown, "no address of it is known".to_owned()),
            };
            self.trouble(now, number, delivery, why, REST);
            return;
        };
        subject.current = at;
        let misses = subject.misses;
        let Some(&address) = subject.addresses.get(at) else { return };
        let to = SocketAddr::new(address, self.options.rpcbind_port);
        self.asked.insert((address, number));
        self.open(number, Step::Port(transport), Question::Port(transport), to, misses);
    }

    fn open(&mut self, number: usize, step: Step, question: Question, to: SocketAddr, misses: u32) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        self.next_exchange += 1;
        let serial = self.next_exchange;
        subject.open.push(serial);
        let sent = VecDeque::new();
        let exchange = Exchange { subject: number, step, question, to, sends: 0, misses, sent, under_way: None };
        self.exchanges.insert(serial, exchange);
        self.enqueue(serial);
    }

    fn enqueue(&mut self, serial: u64) {
        let Some(exchange) = self.exchanges.get(&serial) else { return };
        let Some(subject) = self.subjects.get(exchange.subject) else { return };
        if let Step::Call(_, Transport::Tcp) = exchange.step {
            self.streams.push_back(serial);
            return;
        }
        let urgency = match (subject.answered, subject.first_sent) {
            (true, _) => Urgency::Live,
            (false, None) => Urgency::New,
            (false, Some(_)) => Urgency::Silent,
        };
        self.queue.push(exchange.to.ip(), urgency, serial);
    }

    /// Its place in the window is free.
    pub(super) fn land(&mut self, serial: u64) {
        if let Some(lane) = self.exchanges.get_mut(&serial).and_then(|exchange| exchange.under_way.take()) {
            self.queue.landed(lane);
        }
    }

    fn close(&mut self, serial: u64) -> Option<Exchange> {
        self.land(serial);
        let exchange = self.exchanges.remove(&serial)?;
        for sending in &exchange.sent {
            if self.xids.get(&sending.xid) == Some(&serial) {
                self.xids.remove(&sending.xid);
            }
        }
        if let Some(subject) = self.subjects.get_mut(exchange.subject) {
            subject.open.retain(|&open| open != serial);
        }
        Some(exchange)
    }

    fn close_all(&mut self, number: usize) {
        let open = self.subjects.get(number).map(|subject| subject.open.clone()).unwrap_or_default();
        for serial in open {
            self.close(serial);
        }
    }

    /// An exchange was answered.
    pub(super) fn answered(&mut self, now: Duration, serial: u64, rtt: Duration, said: Said) {
        let Some(exchange) = self.close(serial) else { return };
        let number = exchange.subject;
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.answered = true;
        match (exchange.step, said) {
            (Step::Port(transport), Said::Port(Some(port))) => {
                subject.trouble = None;
                if !subject.doubted {
                    subject.misses = 0;
                }
                self.open_calls(number, SocketAddr::new(exchange.to.ip(), port), transport);
            }
            (Step::Port(Transport::Udp), Said::Port(None)) => self.ask_port(now, number, Transport::Tcp),
            (Step::Port(Transport::Tcp), Said::Port(None)) => {
                self.trouble(now, number, Delivery::NoStatd, "its rpcbind knows no statd".into(), REST);
            }
            (Step::Port(_), Said::Refused(why)) => self.trouble(now, number, Delivery::Refused, why, REST),
            (Step::Call(call, _), Said::Done(state)) => self.acked(now, number, call, rtt, state),
            (Step::Call(call, _), Said::Refused(why)) => {
                if let Some(call) = subject.calls.get_mut(call) {
                    call.state = CallState::Refused;
                }
                subject.trouble = Some((Delivery::Refused, why));
                self.conclude(now, number);
            }
            // Every question has answers of its own kind only (`calls::judge`).
            (Step::Port(_), Said::Done(_)) | (Step::Call(..), Said::Port(_)) => {}
        }
    }

    fn open_calls(&mut self, number: usize, to: SocketAddr, transport: Transport) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let misses = subject.misses;
        let mut wanted = Vec::new();
        for (call, known) in subject.calls.iter_mut().enumerate().filter(|(_, c)| c.state != CallState::Done) {
            known.state = CallState::Open;
            wanted.push((call, known.question));
        }
        for (call, question) in wanted {
            self.open(number, Step::Call(call, transport), question, to, misses);
        }
    }

    fn acked(&mut self, now: Duration, number: usize, call: usize, rtt: Duration, state: Option<NsmState>) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        if let Some(call) = subject.calls.get_mut(call) {
            call.state = CallState::Done;
        }
        subject.last_ack = Some(now);
        subject.misses = 0;
        subject.doubted = false;
        subject.state = state.or(subject.state);
        if subject.calls.iter().all(|c| c.state != CallState::Refused) {
            subject.trouble = None;
        }
        if matches!(self.options.job, Job::Notify { .. }) {
            let of = u32::try_from(subject.calls.len()).unwrap_or(u32::MAX);
            let acked = u32::try_from(subject.acked()).unwrap_or(u32::MAX);
            self.tell(now, number, News::Acked { acked, of, rtt });
        }
        self.conclude(now, number);
    }

    /// A call is over: is the subject?
    fn conclude(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        if subject.acked() == subject.calls.len() {
            let state = subject.state;
            self.finish(number);
            if matches!(self.options.job, Job::Probe { .. }) {
                self.tell(now, number, News::State(state));
            }
        } else if subject.open.is_empty() {
            let (delivery, why) = subject.trouble.clone().unwrap_or((Delivery::Refused, "refused".into()));
            self.trouble(now, number, delivery, why, REST);
        }
    }

    /// A sending went unanswered.
    pub(super) fn missed(&mut self, now: Duration, serial: u64) {
        self.land(serial);
        let Some(exchange) = self.exchanges.get_mut(&serial) else { return };
        exchange.misses = exchange.misses.saturating_add(1);
        let (number, sends, misses, step) = (exchange.subject, exchange.sends, exchange.misses, exchange.step);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.misses = subject.misses.max(misses);
        match step {
            Step::Call(..) if sends >= DOUBT_CALL => {
                subject.doubted = true;
                self.try_elsewhere(now, number);
            }
            Step::Port(_) if sends >= DOUBT_ADDRESS && subject.addresses.len() > 1 => self.try_elsewhere(now, number),
            Step::Port(_) | Step::Call(..) => self.enqueue(serial),
        }
    }

    /// Asks its next address for the port; where there is only one, whether the port has changed.
    fn try_elsewhere(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.current = (subject.current + 1) % subject.addresses.len().max(1);
        self.ask_port(now, number, Transport::Udp);
    }

    pub(super) fn refused_by_host(&mut self, now: Duration, number: usize, to: SocketAddr) {
        let Some(subject) = self.subjects.get_mut(number) else { return };
        let mut steps = subject.open.iter().filter_map(|serial| self.exchanges.get(serial));
        let Some(exchange) = steps.find(|exchange| exchange.to == to && exchange.sends > 0) else { return };
        let what = match exchange.step {
            Step::Port(_) => "rpcbind",
            Step::Call(..) => "statd",
        };
        let why = format!("its host says that nobody listens on its {what}'s port {}", to.port());
        subject.answered = true;
        let mut others = subject.addresses.iter().enumerate().skip(subject.current + 1);
        // No wrapping around: an address that refuses at once would be asked again at once.
        if let Some((next, _)) = others.find(|&(_, &address)| self.queue.serves(address)) {
            subject.current = next;
            self.ask_port(now, number, Transport::Udp);
        } else {
            self.trouble(now, number, Delivery::Refused, why, REST);
        }
    }

    /// Nothing more can be done just now: says so, and rests. A probe ends there.
    pub(super) fn trouble(&mut self, now: Duration, number: usize, delivery: Delivery, why: String, rest: Duration) {
        self.close_all(number);
        let Some(subject) = self.subjects.get_mut(number) else { return };
        subject.trouble = Some((delivery, why));
        match self.options.job {
            Job::Probe { .. } => self.give_up(now, number),
            Job::Notify { .. } => {
                self.report(now, number);
                self.arm(now + rest, Timer::Rested { subject: number });
            }
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
        let delivery = subject.delivery();
        if subject.reported.replace(delivery) == Some(delivery) {
            return;
        }
        let error = subject.trouble.as_ref().map(|(_, why)| why.clone());
        self.tell(now, number, News::GivenUp { delivery, error, last: false });
    }

    pub(super) fn silent(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get(number) else { return };
        let heard = subject.last_ack.or(subject.first_sent).unwrap_or(now);
        let due = heard + self.options.no_answer_after;
        if now < due {
            self.arm(due, Timer::Silent { subject: number });
        } else if matches!(self.options.job, Job::Notify { .. }) {
            self.report(now, number);
        }
    }

    pub(super) fn give_up(&mut self, now: Duration, number: usize) {
        let Some(subject) = self.subjects.get(number).filter(|subject| !subject.done) else { return };
        let news = match self.options.job {
            Job::Probe { .. } if subject.acked() > 0 => News::State(subject.state),
            Job::Probe { .. } | Job::Notify { .. } => News::GivenUp {
                delivery: subject.delivery(),
                error: subject.trouble.as_ref().map(|(_, why)| why.clone()),
                last: true,
            },
        };
        self.finish(number);
        self.tell(now, number, news);
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
            self.events.push_back(FanoutEvent { id, at: now, attempts, news });
        }
    }
}
