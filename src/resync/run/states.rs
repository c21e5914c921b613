//! What each event does in each state. The last arm of a state has what says nothing in it: answers that
//! nobody waits for any more, news that come before the first notice or after the last, time where only
//! `advance` looks at it.

use std::time::Duration;

use super::event::{Action, Ending, Event, Standing};
use super::{Aim, PATIENCE, RETRY, Run, State, TELL_EVERY};
use crate::report::Phase;
use crate::wire::control::SettleWhen;

type Out<'a> = &'a mut Vec<Action>;

impl Run {
    /// `begin` is awaited; nothing was touched as far as is known.
    pub(super) fn while_beginning(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::Begun { clients, elapsed } => {
                self.start(now, &clients, elapsed);
                self.persist(Phase::Begun, out);
                match self.leave {
                    // Too late to abort; without notices no client would reclaim.
                    Some(_) if self.terms.begin_releases => self.announce(out),
                    Some(_) if !self.confirmed => self.abort(out),
                    Some(signal) => self.interrupt(now, signal, out),
                    None => self.announce(out),
                }
            }
            Event::BeginRefused(_) if self.may_have_begun => self.fetch(out),
            Event::BeginRefused(refusal) => self.finish(Ending::Refused(refusal), out),
            Event::ManagerLost => self.away(now, Aim::Begin, out),
            Event::Signal(signal) => {
                if self.leave.is_some() {
                    self.undo(out);
                    self.interrupt(now, signal, out);
                } else {
                    self.leave = Some(signal);
                }
            }
            Event::Failed(why) => {
                self.undo(out);
                self.fail(why, out);
            }
            Event::Told(_)
            | Event::Seen(_)
            | Event::Heard { .. }
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    /// Grace is on; the manager is told that notices will leave.
    pub(super) fn while_announcing(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::Told(standing @ Standing::Active { .. }) => {
                self.telling = false;
                self.confirmed = true;
                self.last_news = self.last_news.max(now);
                self.absorb(now, standing);
                self.state = State::Notifying;
                self.persist(Phase::Notifying, out);
                out.push(Action::StartNotices);
            }
            Event::Seen(standing @ Standing::Active { .. }) => self.absorb(now, standing),
            Event::Told(Standing::Over) | Event::Seen(Standing::Over) => self.fetch(out),
            Event::Heard { client, at, news } => self.hear(client, at, news),
            Event::ManagerLost => self.away(now, Aim::Announce, out),
            Event::Signal(signal) if self.terms.begin_releases => {
                if self.leave.replace(signal).is_some() {
                    self.interrupt(now, signal, out);
                }
            }
            Event::Signal(signal) if self.confirmed => self.interrupt(now, signal, out),
            Event::Signal(_) => self.abort(out),
            Event::Failed(why) => {
                self.undo(out);
                self.fail(why, out);
            }
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    /// Notices are out, reclaims come in.
    pub(super) fn while_notifying(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::Told(standing @ Standing::Active { .. }) => {
                self.telling = false;
                self.absorb(now, standing);
            }
            Event::Seen(standing @ Standing::Active { .. }) => self.absorb(now, standing),
            Event::Told(Standing::Over) | Event::Seen(Standing::Over) => self.fetch(out),
            Event::Heard { client, at, news } => self.hear(client, at, news),
            Event::ManagerLost => self.away(now, Aim::Announce, out),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    /// The deadline has come; the last deliveries are told.
    pub(super) fn while_closing(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::Told(standing @ Standing::Active { remaining, latest_remaining, .. }) => {
                self.telling = false;
                self.absorb(now, standing);
                if !self.untold.is_empty() {
                    self.tell(now, out);
                } else if remaining.is_zero() || latest_remaining.is_zero() {
                    self.settle(SettleWhen::Always, out);
                } else {
                    self.state = State::Notifying;
                }
            }
            Event::Seen(standing @ Standing::Active { .. }) => self.absorb(now, standing),
            Event::Told(Standing::Over) | Event::Seen(Standing::Over) => self.fetch(out),
            Event::Heard { client, at, news } => self.hear(client, at, news),
            Event::ManagerLost => self.away(now, Aim::Announce, out),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    pub(super) fn while_settling(&mut self, now: Duration, when: SettleWhen, event: Event, out: Out<'_>) {
        match event {
            Event::Ended | Event::Told(Standing::Over) | Event::Seen(Standing::Over) => self.fetch(out),
            // The manager alone ends its grace. Acks that come until then are told.
            Event::StillPending if when == SettleWhen::Always => {
                self.not_before = now + RETRY;
                self.state = State::Notifying;
            }
            Event::StillPending => {
                // What was seen before is older than this answer; the next status has the count.
                self.pending = self.pending.max(1);
                // Only a client that is given up changes what is awaited, or one that comes back: neither is soon.
                self.not_before = now + if when == SettleWhen::NothingAwaited { RETRY } else { TELL_EVERY };
                self.state = State::Notifying;
                out.push(Action::AskStatus);
            }
            Event::NotDurable => {
                self.state = State::Notifying;
                self.retry(now, out);
            }
            Event::Heard { client, at, news } => self.hear(client, at, news),
            Event::ManagerLost => self.away(now, Aim::Announce, out),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Told(Standing::Active { .. })
            | Event::Seen(Standing::Active { .. })
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    pub(super) fn while_aborting(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::Ended => self.fetch(out),
            Event::NotDurable => self.retry(now, out),
            Event::Tick => {
                if self.retries > 0 && now >= self.not_before {
                    self.not_before = Duration::MAX;
                    out.push(Action::Abort);
                }
            }
            Event::ManagerLost => self.away(now, Aim::Abort, out),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Told(_)
            | Event::Seen(_)
            | Event::Heard { .. }
            | Event::StillPending
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerBack(_) => {}
        }
    }

    /// The result is awaited.
    pub(super) fn while_fetching(&mut self, now: Duration, event: Event, out: Out<'_>) {
        match event {
            Event::ResultStored => {
                self.phase = Phase::Done;
                self.finish(Ending::Recorded, out);
            }
            Event::ResultUnknown => {
                let why = "the lock manager no longer knows the run: it restarted";
                self.finish(Ending::Superseded(why.into()), out);
            }
            Event::ManagerLost => self.away(now, Aim::Fetch, out),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Told(_)
            | Event::Seen(_)
            | Event::Heard { .. }
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ManagerBack(_)
            | Event::Tick => {}
        }
    }

    /// The manager is away since then.
    pub(super) fn while_away(&mut self, now: Duration, since: Duration, aim: Aim, event: Event, out: Out<'_>) {
        match event {
            Event::ManagerBack(standing) => self.back(now, aim, standing, out),
            Event::Tick if now >= since + PATIENCE => {
                self.fail("the lock manager went away and did not come back".into(), out);
            }
            Event::Heard { client, at, news } => self.hear(client, at, news),
            Event::Signal(signal) => self.interrupt(now, signal, out),
            Event::Failed(why) => self.fail(why, out),
            Event::Begun { .. }
            | Event::BeginRefused(_)
            | Event::Told(_)
            | Event::Seen(_)
            | Event::Ended
            | Event::StillPending
            | Event::NotDurable
            | Event::ResultStored
            | Event::ResultUnknown
            | Event::ManagerLost
            | Event::Tick => {}
        }
    }

    /// The next command finds out how the run stands.
    fn fail(&mut self, why: String, out: Out<'_>) {
        self.finish(Ending::Interrupted(why), out);
    }
}
