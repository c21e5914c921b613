//! A run as a state machine: events and `now` in, actions out.
//!
//! ```text
//!            Begun                Told                       all told at the deadline
//! Beginning ------> Announcing ---------> Notifying ------------------------> Closing
//!     |                  |   (notices may      |  ^ ^                           |  |
//!     | BeginRefused     |    leave now)       |  | '----- deadline moved ------'  |
//!     |                  |                     |  |                               |
//!     |           Signal |     nothing pending,|  | StillPending, NotDurable       | deadline
//!     |                  v     all told, quiet |  |                               v
//!     |              Aborting                  '--+-----------------------> Settling
//!     |                  |                                                      |
//!     |                  | Ended           the run is over: Fetching <----------' Ended
//!     |                  '---------------------> Fetching
//!     v                                             | ResultStored, ResultUnknown
//! Finished <----------------------------------------'
//! ```
//!
//! Any state but the last goes to `Away` when the manager is lost, and from there back to where
//! the manager then says that the run is; `Away` is bounded. A signal before the first notice
//! aborts; after it the run is left as it is (interrupted), for a resume.
//!
//! What must hold (the numbers are those of the design's statements):
//! - No notice before `begin` and `PROGRESS{notices_begun}` were both answered (4). While the
//!   manager is away none is sent either: whether grace is still on is not known then.
//! - Every phase is durable before what it announces: [`Action::Persist`] comes first.
//! - An early settle asks for it only if nothing is pending, and only when every notice is acked or given
//!   up, all of that was told, and no ack or reclaim has come for the quiet time (7). Where clients were given up, it also
//!   asks, once grace has lasted [`FOR_SLOW_CLIENTS`], only if nothing is awaited: the manager, which alone knows whose
//!   the pending locks are, decides. A slow client may until then claim what the server had lost.
//! - At the deadline every client's last delivery is told before settle (8): "no answer" only of one
//!   that a call was sent to in vain. The manager extends the deadline by itself; [`Standing`] brings
//!   it here. One that alone ends its grace refuses to settle until then: acks that come meanwhile are told too.
//! - What this process could not hear because it did not run says nothing about any client ([`Run::lagged`]).
//!
//! The driver does the actions in their order, and one call to the manager at a time; it gives the
//! answers back as events. Start reading at [`Run::handle`]; `states` has a method for each state of the diagram.

mod event;
mod states;

#[cfg(test)]
mod tests;

pub use event::{Action, Ending, Event, NoticeNews, Standing, Starting, Terms};

use std::collections::BTreeSet;
use std::time::Duration;

use crate::report::{Phase, Progress};
use crate::resync::policy::RETRANSMISSION;
use crate::wire::control::{ClientProgress, Delivery, SettleWhen};
use crate::wire::types::ms;

/// How long deliveries are gathered before they are told.
const TELL_EVERY: Duration = Duration::from_millis(30);
/// Most deliveries told at once: what `PROGRESS` takes.
const TELL_MOST: usize = 4096;
/// How long the manager may be away before the run is left to it: it settles alone, and the next command has its result.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before a manager that could not write the result is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// After a lag, settling waits this long, so that messages that arrived meanwhile are handled first.
const HEAR_FIRST: Duration = Duration::from_millis(200);
/// A run lasts at least this long, or its grace if shorter, while locks of clients that do not answer are pending.
const FOR_SLOW_CLIENTS: Duration = Duration::from_secs(30);
/// How often it is asked again.
const RETRIES: u32 = 30;

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beginning,
    Announcing,
    Notifying,
    Closing,
    Settling(SettleWhen),
    Aborting,
    Fetching,
    Away { since: Duration, aim: Aim },
    Finished,
}

/// What to do when the manager is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Begin,
    Announce,
    Abort,
    Fetch,
}

/// What is known of a client's notices.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// Acked or given up; `NotTold` until either is known.
    delivery: Delivery,
    /// When that was learned.
    at: Duration,
    /// Whether any notice was acked.
    some_acked: bool,
    /// Whether the notifier gave it up, for now: also one to which nothing could be sent.
    given_up: bool,
    /// Whether a call to it went unanswered: without one its silence says nothing.
    tried: bool,
    /// What the manager was told.
    told: Delivery,
    suspect: bool,
}

impl Client {
    fn is_decided(&self) -> bool {
        self.given_up || self.delivery != Delivery::NotTold
    }
}

/// A run: see the theory above.
#[derive(Debug)]
pub struct Run {
    terms: Terms,
    state: State,
    /// The highest phase made durable.
    phase: Phase,
    clients: Vec<Client>,
    undecided: u64,
    acked: u64,
    /// Clients whose delivery the manager was not told yet, and since when.
    untold: BTreeSet<u32>,
    untold_since: Duration,
    /// Whether a `Tell` is under way.
    telling: bool,
    /// The manager confirmed that notices may leave: some may have.
    confirmed: bool,
    /// `begin` was asked before and its answer is not known: a refusal now is no proof that
    /// nothing was touched.
    may_have_begun: bool,
    /// A signal that came before the first notice: abort as soon as `begin` is answered, or where
    /// that frees the locks leave as soon as every client is told or given up.
    leave: Option<&'static str>,
    began: Duration,
    in_scope: u64,
    pending: u64,
    deadline: Duration,
    /// When the last ack or reclaim came, or notices began.
    last_news: Duration,
    /// After a refusal: not before.
    not_before: Duration,
    retries: u32,
}

impl Run {
    /// A new run: asks for `begin`.
    pub fn begin(terms: Terms) -> (Self, Vec<Action>) {
        (Self::new(terms, State::Beginning, Phase::Beginning), vec![Action::Persist(Phase::Beginning), Action::Begin])
    }

    /// A run that an earlier controller left in `phase`. Asks for `begin` again if it may not have
    /// been answered; goes on where the manager says that the run is.
    pub fn resume(terms: Terms, phase: Phase) -> (Self, Vec<Action>) {
        // `begin` is idempotent by run id: asked again it gives the answer that was lost.
        let mut run = Self::new(terms, State::Beginning, phase);
        run.confirmed = phase >= Phase::Notifying;
        run.may_have_begun = true;
        (run, vec![Action::Begin])
    }

    /// Whether what `begin` does can be taken back.
    pub fn can_abort(&self) -> bool {
        !self.terms.begin_releases
    }

    /// Whether the lock manager alone ends its grace, whatever the deadline.
    pub fn grace_is_the_managers(&self) -> bool {
        !self.terms.settle_early
    }

    /// Whether it will be left as soon as `begin` is answered.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_some()
    }

    fn new(terms: Terms, state: State, phase: Phase) -> Self {
        Self {
            terms,
            state,
            phase,
            clients: Vec::new(),
            undecided: 0,
            acked: 0,
            untold: BTreeSet::new(),
            untold_since: Duration::ZERO,
            telling: false,
            confirmed: false,
            may_have_begun: false,
            leave: None,
            began: Duration::ZERO,
            in_scope: 0,
            pending: 0,
            deadline: Duration::MAX,
            last_news: Duration::ZERO,
            not_before: Duration::ZERO,
            retries: 0,
        }
    }

    /// Takes an event; says what to do, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match self.state {
            State::Beginning => self.while_beginning(now, event, &mut out),
            State::Announcing => self.while_announcing(now, event, &mut out),
            State::Notifying => self.while_notifying(now, event, &mut out),
            State::Closing => self.while_closing(now, event, &mut out),
            State::Settling(when) => self.while_settling(now, when, event, &mut out),
            State::Aborting => self.while_aborting(now, event, &mut out),
            State::Fetching => self.while_fetching(now, event, &mut out),
            State::Away { since, aim } => self.while_away(now, since, aim, event, &mut out),
            State::Finished => {}
        }
        self.advance(now, &mut out);
        out
    }

    /// This process did not run until `now`; call it before anything else is handled. It could not hear: what went
    /// unanswered says nothing any more about any client, and what has come in meanwhile is heard before the run settles.
    /// After a `long` lag, in which answers were lost and notices late, clients get more time.
    pub fn lagged(&mut self, now: Duration, long: bool) -> Vec<Action> {
        for client in &mut self.clients {
            client.tried = false;
        }
        match &mut self.state {
            State::Away { since, .. } => *since = now,
            State::Notifying | State::Closing => {
                self.not_before = self.not_before.max(now + HEAR_FIRST);
                if long && now + RETRANSMISSION > self.deadline {
                    return vec![Action::Extend(RETRANSMISSION)];
                }
            }
            State::Beginning
            | State::Announcing
            | State::Settling(_)
            | State::Aborting
            | State::Fetching
            | State::Finished => {}
        }
        Vec::new()
    }

    /// When [`handle`](Self::handle) wants a [`Tick`](Event::Tick); none: only when something comes.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Notifying => {
                let early = self.early().map(|(at, _)| at);
                let settle = [Some(self.deadline), early].into_iter().flatten().map(|at| at.max(self.not_before));
                let tell = (!self.telling && !self.untold.is_empty()).then(|| self.untold_since + TELL_EVERY);
                // While a `Tell` is under way its answer moves the run on, not time.
                settle.filter(|_| !self.telling).chain(tell).min()
            }
            State::Aborting => (self.retries > 0 && self.not_before < Duration::MAX).then_some(self.not_before),
            State::Away { since, .. } => Some(since + PATIENCE),
            State::Beginning
            | State::Announcing
            | State::Closing
            | State::Settling(_)
            | State::Fetching
            | State::Finished => None,
        }
    }

    /// The run at this moment, for the live view.
    pub fn progress(&self, now: Duration) -> Progress {
        let clients = self.clients.len() as u64;
        let (grace_remaining, grace_total) = match self.deadline {
            Duration::MAX => (Duration::ZERO, Duration::ZERO),
            deadline => (deadline.saturating_sub(now), deadline.saturating_sub(self.began)),
        };
        Progress {
            phase: self.phase,
            grace_remaining,
            grace_total,
            clients,
            acked: self.acked,
            given_up: self.given_up(),
            in_scope: self.in_scope,
            pending: self.pending,
        }
    }

    /// What time alone may bring: the deadline, the early settle, a batch to tell.
    fn advance(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.state != State::Notifying {
            return;
        }
        if self.undecided == 0 {
            self.persist(Phase::Reclaiming, out);
            if let Some(signal) = self.leave {
                self.interrupt(now, signal, out);
                return;
            }
        }
        if self.telling {
            return;
        }
        if now >= self.deadline.max(self.not_before) {
            for (index, client) in (0..).zip(&mut self.clients) {
                let last = last_delivery(client);
                if client.told != last {
                    self.untold.insert(index);
                }
            }
            self.state = State::Closing;
            // Told even if there is nothing new: the answer has the deadline as it stands.
            self.tell(now, out);
            return;
        }
        let may_settle = self.early().filter(|(at, _)| now >= (*at).max(self.not_before));
        match (self.untold.is_empty(), may_settle) {
            (true, Some((_, when))) => self.settle(when, out),
            (false, Some(_)) => self.tell(now, out),
            (false, None) if now >= self.untold_since + TELL_EVERY || self.untold.len() >= TELL_MOST => {
                self.tell(now, out);
            }
            (false | true, None) => {}
        }
    }

    /// When the early settle of statement 7 is allowed, as things are, and on what condition; none: not as they are.
    fn early(&self) -> Option<(Duration, SettleWhen)> {
        if !self.terms.settle_early || self.undecided > 0 {
            return None;
        }
        let quiet_at = self.last_news + self.terms.quiet_time;
        if self.pending == 0 {
            return Some((quiet_at, SettleWhen::NothingPending));
        }
        // What a beginning has freed is lost unless it comes back: none of it can be kept.
        let may_be_kept = self.given_up() > 0 && !self.terms.begin_releases;
        let long_enough = self.began + FOR_SLOW_CLIENTS.min(self.terms.grace);
        may_be_kept.then(|| (quiet_at.max(long_enough), SettleWhen::NothingAwaited))
    }

    fn given_up(&self) -> u64 {
        self.clients.len() as u64 - self.undecided - self.acked
    }

    fn start(&mut self, now: Duration, clients: &[Starting], elapsed: Duration) {
        self.began = now.saturating_sub(elapsed);
        self.clients = clients
            .iter()
            .map(|client| Client {
                delivery: client.delivery,
                at: now.saturating_sub(client.ago),
                some_acked: client.some_acked || client.delivery == Delivery::Acked,
                tried: false,
                given_up: false,
                told: Delivery::NotTold,
                suspect: client.suspect,
            })
            .collect();
        self.undecided = self.clients.iter().filter(|client| !client.is_decided()).count() as u64;
        self.acked = self.clients.iter().filter(|client| client.delivery == Delivery::Acked).count() as u64;
        self.tell_all_again(now);
        // Unknown until the first status: nothing may settle on a count that was never seen.
        self.pending = 1;
    }

    fn tell_all_again(&mut self, now: Duration) {
        for client in &mut self.clients {
            client.told = Delivery::NotTold;
        }
        let known = (0..).zip(&self.clients).filter(|(_, client)| client.is_decided());
        self.untold = known.map(|(index, _)| index).collect();
        self.untold_since = now;
    }

    fn absorb(&mut self, now: Duration, standing: Standing) {
        if let Standing::Active { in_scope, pending, last_reclaim, remaining, latest_remaining: _ } = standing {
            self.in_scope = in_scope;
            self.pending = pending;
            self.deadline = now + remaining;
            if let Some(ago) = last_reclaim {
                self.last_news = self.last_news.max(now.saturating_sub(ago));
            }
        }
    }

    fn hear(&mut self, index: u32, at: Duration, news: NoticeNews) {
        let Some(client) = self.clients.get_mut(index as usize) else { return };
        let was_decided = client.is_decided();
        let before = client.delivery;
        match news {
            NoticeNews::Acked { all } => {
                client.some_acked = true;
                self.last_news = self.last_news.max(at);
                if all {
                    client.delivery = Delivery::Acked;
                } else if client.delivery.is_given_up() {
                    client.delivery = Delivery::Partial;
                }
            }
            NoticeNews::SentAgain => client.tried = true,
            NoticeNews::GivenUp(delivery) => {
                client.given_up = true;
                if delivery == Delivery::Elsewhere {
                    // A client that acked may reclaim.
                    self.last_news = self.last_news.max(at);
                }
                // An ack stands: what was delivered stays delivered, all of it or some.
                client.delivery = match client.delivery {
                    Delivery::Acked => Delivery::Acked,
                    _ if client.some_acked && delivery.is_given_up() => Delivery::Partial,
                    _ => delivery,
                };
            }
        }
        let news = !was_decided && client.is_decided();
        if news {
            self.undecided -= 1;
        }
        if client.delivery != before {
            client.at = at;
            if client.delivery == Delivery::Acked {
                self.acked += 1;
            }
        }
        // Also of one that could not be told: the manager need not wait for it.
        if news || client.delivery != before {
            if self.untold.is_empty() {
                self.untold_since = at;
            }
            self.untold.insert(index);
        }
    }

    fn announce(&mut self, out: &mut Vec<Action>) {
        self.state = State::Announcing;
        self.telling = true;
        out.push(Action::Tell(Vec::new()));
    }

    fn tell(&mut self, now: Duration, out: &mut Vec<Action>) {
        let mut batch = Vec::new();
        let closing = self.state == State::Closing;
        while batch.len() < TELL_MOST
            && let Some(index) = self.untold.pop_first()
        {
            let Some(client) = self.clients.get_mut(index as usize) else { continue };
            let delivery = if closing { last_delivery(client) } else { client.delivery };
            client.told = delivery;
            let ago = if client.is_decided() { now.saturating_sub(client.at) } else { Duration::ZERO };
            batch.push(ClientProgress { client: index, delivery, ago_ms: ms(ago), suspect: client.suspect });
        }
        self.untold_since = now;
        self.telling = true;
        out.push(Action::Tell(batch));
    }

    fn settle(&mut self, when: SettleWhen, out: &mut Vec<Action>) {
        self.state = State::Settling(when);
        self.persist(Phase::Settling, out);
        out.push(Action::Settle(when));
    }

    fn abort(&mut self, out: &mut Vec<Action>) {
        self.state = State::Aborting;
        self.telling = false;
        self.not_before = Duration::MAX;
        out.push(Action::Abort);
    }

    /// Asks to abort a run that is being left, unless a notice may have left: what was begun, if
    /// anything, must not stay in grace for no client.
    fn undo(&mut self, out: &mut Vec<Action>) {
        if !self.confirmed {
            self.abort(out);
        }
    }

    fn fetch(&mut self, out: &mut Vec<Action>) {
        self.state = State::Fetching;
        out.extend([Action::StopNotices, Action::FetchResult]);
    }

    fn retry(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.retries += 1;
        self.not_before = now + RETRY;
        if self.retries > RETRIES {
            let why = "the lock manager cannot write the run's result";
            self.finish(Ending::Interrupted(why.to_owned()), out);
        }
    }

    fn away(&mut self, now: Duration, aim: Aim, out: &mut Vec<Action>) {
        self.may_have_begun |= aim == Aim::Begin;
        self.state = State::Away { since: now, aim };
        self.telling = false;
        out.extend([Action::StopNotices, Action::Reconnect]);
    }

    fn back(&mut self, now: Duration, aim: Aim, standing: Standing, out: &mut Vec<Action>) {
        match (aim, standing) {
            (Aim::Begin, Standing::Active { .. } | Standing::Over) => {
                self.state = State::Beginning;
                out.push(Action::Begin);
            }
            (Aim::Announce, Standing::Active { .. }) => {
                self.absorb(now, standing);
                // Messages in flight when the connection broke may not have arrived.
                self.tell_all_again(now);
                self.announce(out);
            }
            (Aim::Abort, Standing::Active { .. }) => self.abort(out),
            (Aim::Announce | Aim::Abort, Standing::Over) | (Aim::Fetch, Standing::Active { .. } | Standing::Over) => {
                self.fetch(out);
            }
        }
    }

    fn interrupt(&mut self, now: Duration, signal: &str, out: &mut Vec<Action>) {
        // From here on the manager settles alone, by the deliveries that it was told.
        if matches!(self.state, State::Notifying | State::Closing | State::Settling(_)) && !self.untold.is_empty() {
            self.tell(now, out);
        }
        self.finish(Ending::Interrupted(format!("{signal} in the middle of the run")), out);
    }

    fn finish(&mut self, ending: Ending, out: &mut Vec<Action>) {
        self.state = State::Finished;
        out.extend([Action::StopNotices, Action::Finish(ending)]);
    }

    /// Phases only grow: a run that goes back to waiting has still been settling.
    fn persist(&mut self, phase: Phase, out: &mut Vec<Action>) {
        if phase > self.phase {
            self.phase = phase;
            out.push(Action::Persist(phase));
        }
    }
}

/// A client's delivery if nothing more comes.
fn last_delivery(client: &Client) -> Delivery {
    match client.delivery {
        Delivery::NotTold if client.some_acked => Delivery::Partial,
        Delivery::NotTold if client.given_up => Delivery::NotTold,
        Delivery::NotTold if client.tried => Delivery::NoAnswer,
        known => known,
    }
}
