//! A run of one host, by the real machine against the real table.

use std::collections::VecDeque;

use super::*;
use crate::resync::plan::{Draft, Observation, Plan, Request};
use crate::resync::run::{Action, Event, NoticeNews, Run, Standing, Starting, Terms};
use crate::wire::control::{
    BeginArgs, ClientRef, Delivery, Info, InstanceId, Mode, ProgressArgs, RunId, Scope, Status,
};
use crate::wire::types::{Address, CallerName};
use crate::wire::xdr::{List, Maybe, Text};

/// What a run's notice has come to.
struct Notice {
    since: Duration,
    acked: bool,
    given_up: bool,
}

impl World {
    fn info(&self) -> Info {
        Info {
            software: Text::clipped("nlmd"),
            instance: InstanceId([1; 16]),
            nsm_state: self.state,
            names: List::clipped(vec![CallerName::new("nas").unwrap()]),
            capabilities: Capabilities::COOPERATES,
            domains: List::default(),
        }
    }

    fn status(&self) -> Status {
        let totals = self.table.totals();
        Status {
            instance: InstanceId([1; 16]),
            nsm_state: self.state,
            grace: self.table.grace(),
            grace_remaining_ms: 0,
            clients: totals.clients,
            monitored: totals.monitored,
            locks: totals.locks,
            unmonitored: totals.unmonitored,
            waiters: totals.waiters,
            run: Maybe(self.table.run_status(self.now)),
            cursor: 1,
        }
    }

    fn plan(&self, host: usize, row: &ClientRow, silent: Silent) -> Option<Plan> {
        let grace = Duration::from_secs(90);
        let request = Request { clients: vec![row.name.to_string()], grace, silent, ..Request::default() };
        let client =
            ClientRef { name: Maybe(Some(row.name.clone())), address: Maybe(Some(Address(self.hosts[host].address))) };
        let scope = Scope { clients: List::clipped(vec![client]), files: List::default() };
        let (info, status, clients) = (self.info(), self.status(), self.rows());
        let seen = Observation { info: &info, status: &status, clients: &clients, locks: None, mounts: &[] };
        let plan = Draft::new(&request, scope, seen).ok()?.finish(&[self.probe(host)]);
        assert_eq!((plan.mode, plan.consent.len()), (Mode::Targeted, 0));
        Some(plan)
    }

    /// A run of that host, by the real machine against the real table.
    pub(super) fn run(&mut self, host: usize, row: &ClientRow, mut seen: Look) -> Result<(), String> {
        if !seen.is_still(self.probe(host)) {
            return Ok(());
        }
        let silent = (self.rules.silence)(&seen, self.hosts[host].has_reclaimed);
        self.tell(host, &format!("gets a run, {silent:?}: {:?}", seen.reasons));
        let Some(plan) = self.plan(host, row, silent) else { return Ok(()) };
        seen.begun(self.ms());
        self.running = Some(host);
        self.tally.runs += 1;
        let id = RunId(u128::from(self.tally.runs).to_be_bytes());
        let terms = Terms {
            quiet_time: Duration::from_millis(500),
            grace: plan.grace,
            settle_early: true,
            begin_releases: false,
        };
        let args = BeginArgs {
            run: id,
            instance: plan.instance,
            nsm_state: plan.nsm_state,
            scope: plan.scope,
            mode: plan.mode,
            policy: plan.policy,
            may_drop: List::default(),
            grace_ms: ms(plan.grace),
            grace_max_ms: ms(plan.grace_max),
        };
        let (mut machine, first) = Run::begin(terms);
        let mut actions = VecDeque::from(first);
        let mut notice = None;
        let result = loop {
            if let Some(action) = actions.pop_front() {
                let event = match action {
                    Action::Persist(_) | Action::StopNotices => continue,
                    Action::Finish(ending) => return Err(format!("no result: {ending:?}")),
                    Action::FetchResult => break self.table_result(),
                    Action::StartNotices => {
                        notice = Some(Notice { since: self.now, acked: false, given_up: false });
                        continue;
                    }
                    other => self.act(&args, other),
                };
                actions.extend(machine.handle(self.now, event));
                continue;
            }
            self.pass()?;
            if let Some(notice) = &mut notice {
                let news = self.deliver(host, notice);
                actions.extend(
                    news.into_iter()
                        .flat_map(|news| machine.handle(self.now, Event::Heard { client: 0, at: self.now, news })),
                );
            }
            if self.now.as_millis().is_multiple_of(500) {
                actions.extend(machine.handle(self.now, Event::Seen(Standing::of(id, &self.status()))));
            }
            if machine.wake_at().is_some_and(|at| at <= self.now) {
                actions.extend(machine.handle(self.now, Event::Tick));
            }
        };
        self.running = None;
        self.learn(host, seen, &result);
        self.check()
    }

    /// What the lock manager does when it is asked.
    fn act(&mut self, args: &BeginArgs, action: Action) -> Event {
        match action {
            Action::Begin => {
                let new = self.state.next_up();
                self.table.begin(self.now, 0, args, self.state, new).unwrap();
                self.state = new;
                assert_eq!(self.table.run_clients().len(), 1, "that client and no other one");
                let client =
                    Starting { delivery: Delivery::NotTold, some_acked: false, ago: Duration::ZERO, suspect: true };
                Event::Begun { clients: vec![client], elapsed: Duration::ZERO }
            }
            Action::Tell(clients) => {
                let args = ProgressArgs { run: args.run, notices_begun: true, clients: List::clipped(clients) };
                self.table.progress(self.now, &args).unwrap();
                Event::Told(Standing::of(args.run, &self.status()))
            }
            Action::Settle(when) => {
                if self.table.settle_start(self.now, when, false, "test").is_err() {
                    return Event::StillPending;
                }
                while !self.table.settle_scan(64) {}
                let result = self.table.settle_result(0).unwrap().join();
                self.table.settle_commit();
                while !self.table.settle_sweep(64) {}
                self.tally.dropped += result.result.counts.dropped;
                self.tally.kept += result.result.counts.kept;
                self.tally.reclaimed += result.result.counts.reclaimed;
                self.last = Some(result);
                Event::Ended
            }
            other => panic!("{other:?}"),
        }
    }

    fn table_result(&mut self) -> FullResult {
        self.last.take().expect("it has settled")
    }

    /// The notice, once a second until it is acked.
    fn deliver(&mut self, number: usize, notice: &mut Notice) -> Option<NoticeNews> {
        let age = self.now.saturating_sub(notice.since);
        if notice.acked || !age.as_millis().is_multiple_of(SECOND.as_millis()) {
            return None;
        }
        if !self.is_reached(number) || self.dice.chance(30) {
            let gives_up = age >= SECOND * 10 && !notice.given_up;
            notice.given_up |= gives_up;
            return Some(if gives_up { NoticeNews::GivenUp(Delivery::NoAnswer) } else { NoticeNews::SentAgain });
        }
        notice.acked = true;
        let (is_itself, state) = (self.is_itself(number), self.state);
        let host = &mut self.hosts[number];
        if is_itself && host.understands && host.server_state != state {
            host.server_state = state;
            host.reclaims = host.holds.iter().copied().collect();
        }
        Some(NoticeNews::Acked { all: true })
    }

    fn learn(&mut self, host: usize, mut seen: Look, result: &FullResult) {
        let locks = &LockTally::from(result.result.counts);
        let understood = result.clients.as_slice().iter().any(self.rules.understood);
        let after = self.rows().into_iter().find(|row| row.name == self.hosts[host].name);
        self.tell(host, &format!("its run: {locks:?}"));
        seen.ended(Some(Outcome::Settled), locks, after.as_ref(), self.ms());
        self.memories.insert(host, seen.memory);
        self.hosts[host].has_reclaimed |= understood;
        self.hosts[host].named |= locks.kept > 0;
    }
}
