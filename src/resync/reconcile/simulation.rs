//! An hour of simulated time: a round every minute over 200 hosts that lock, unlock, reboot and are cut off, with the
//! real lock table and the real machine of a run. What each host believes is the witness.
//!
//! What a host can be like here: its kernel's number differs from its statd's for ever; its statd's number goes up
//! without a reboot; it acks notices and reclaims nothing, always or while another machine has its address for less
//! than a round, and in its run it may lock again what it has. Reboot notices get lost, and so do SM_NOTIFYs. What no rule can survive is left out: that a host is cut
//! off for the rest of its own run just after its ack (here it comes back within 40 s), that another machine takes
//! its address just then, and that two rounds in a row and the run meet another machine at its address, which looks like
//! a reboot.

mod hosts;
mod runs;

use std::collections::HashMap;

use super::*;
use crate::locks::{Limits, LockTable};
use crate::report::Probe;
use crate::wire::control::{ClientResult, FullResult, Reaction};
use hosts::{Dice, Host};

const HOSTS: usize = 200;
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const SERVER: &str = "192.0.2.1";
/// What another machine's statd says.
const OTHER: NsmState = NsmState(99);

/// A lock: a file, ten bytes of it (apart from others, which would become one with them), a process.
type Held = (u32, u64, i32);

#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    quiet: u32,
    runs: u32,
    dropped: u64,
    kept: u64,
    reclaimed: u64,
    became_stale: usize,
}

struct World {
    table: LockTable,
    now: Duration,
    dice: Dice,
    hosts: Vec<Host>,
    state: NsmState,
    memories: HashMap<usize, Memory>,
    /// Whose run is active.
    running: Option<usize>,
    rules: Rules,
    tally: Tally,
    /// How the run that settled last ended.
    last: Option<FullResult>,
}

/// What is decided by rules that a fault may break.
#[derive(Clone, Copy)]
struct Rules {
    silence: fn(&Look, bool) -> Silent,
    understood: fn(&ClientResult) -> bool,
    /// Whether a suspect gets its run in the first round that finds it so.
    at_once: bool,
    /// Between two things that happen to hosts.
    pace: Duration,
}

/// So many events happen that most rounds have runs to make, and last for minutes.
const BUSY: Rules = Rules {
    silence: Look::silent,
    understood: |client| client.reaction == Reaction::Understood,
    at_once: false,
    pace: Duration::from_millis(500),
};
/// Most rounds are quiet.
const CALM: Rules = Rules { pace: Duration::from_secs(6), ..BUSY };

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut dice = Dice(seed);
        let hosts = (0..HOSTS).map(|n| Host::new(n, &mut dice)).collect();
        Self {
            table: LockTable::new(Limits::default(), [1, 2, 3, 4]),
            now: Duration::from_secs(1_000),
            dice,
            hosts,
            state: NsmState(1),
            memories: HashMap::new(),
            running: None,
            rules,
            tally: Tally::default(),
            last: None,
        }
    }

    fn ms(&self) -> u64 {
        ms(self.now)
    }

    fn rows(&self) -> Vec<ClientRow> {
        self.table.list_clients(0).clients.into_vec()
    }

    fn probe(&self, host: usize) -> Probed {
        if !self.is_reached(host) {
            return Probed::Silent(Probe::NoAnswer);
        }
        Probed::Answers(Some(if self.is_itself(host) { self.hosts[host].statd } else { OTHER }))
    }

    fn number(&self, row: &ClientRow) -> usize {
        self.hosts.iter().position(|host| host.name == row.name).unwrap()
    }

    fn round(&mut self) -> Result<(), String> {
        let (state, now) = (self.state, self.ms());
        let mut due = Vec::new();
        for row in self.rows().into_iter().filter(|row| at_stake(row) > 0) {
            let host = self.number(&row);
            let seen = look(&row, self.probe(host), self.memories.get(&host).unwrap_or(&Memory::default()), now);
            self.memories.insert(host, seen.memory.clone());
            self.hosts[host].rounds += u32::from(self.is_itself(host));
            if seen.step == RoundStep::Run || (self.rules.at_once && seen.step == RoundStep::LookAgain) {
                due.push((host, row, seen));
            }
        }
        let is_quiet = due.is_empty();
        for (host, row, seen) in due {
            self.run(host, &row, seen)?;
        }
        self.tally.rounds += 1;
        self.tally.quiet += u32::from(is_quiet);
        if is_quiet && self.state != state {
            return Err("a state number was raised without a suspect".into());
        }
        self.check()?;
        let forgotten = |host: &&Host| !host.stale.is_empty() && host.rounds >= 2 && !host.named;
        match self.hosts.iter().find(forgotten) {
            Some(host) => Err(format!(
                "{} has stale locks after {} rounds, at {:?}: {:?}, {:#?}",
                host.name, host.rounds, self.now, host.stale, host.story
            )),
            None => Ok(()),
        }
    }
}

/// An hour, a round every minute unless the last one still goes on.
fn hour(seed: u64, rules: Rules) -> Result<Tally, String> {
    let mut world = World::new(seed, rules);
    let end = world.now + HOUR;
    let mut next = world.now;
    while world.now < end {
        world.pass()?;
        if world.now >= next {
            next = world.now + MINUTE;
            world.round()?;
        }
    }
    Ok(world.tally)
}

#[test]
fn in_an_hour_of_rounds_no_live_client_loses_a_lock_and_every_stale_one_is_gone_or_named() {
    let seeds = std::env::var("NLMCTL_SEED").map_or_else(|_| vec![2, 3, 15], |seed| vec![seed.parse().unwrap()]);
    for seed in seeds {
        let of = |rules| hour(seed, rules).unwrap_or_else(|lost| panic!("seed {seed} (NLMCTL_SEED={seed}): {lost}"));
        let busy = of(BUSY);
        assert!(busy.dropped > 10 && busy.kept > 10 && busy.reclaimed > 10 && busy.quiet > 0, "{busy:?}");
        let calm = of(CALM);
        assert!(calm.rounds > 45 && calm.quiet > 20 && calm.runs > 10, "{calm:?}");
    }
}

#[test]
fn the_simulation_notices_what_is_dropped_on_an_ack_alone() {
    let lost = (1..4).find_map(|seed| hour(seed, Rules { silence: |_, _| Silent::Auto, ..BUSY }).err());
    assert!(lost.as_ref().is_some_and(|what| what.contains("lost")), "{lost:?}");
}

#[test]
fn the_simulation_notices_what_is_dropped_on_the_number_of_one_round() {
    let one_round =
        |look: &Look, has_reclaimed| if has_reclaimed && look.has_one_path { Silent::Auto } else { Silent::Keep };
    let lost = (1..12).find_map(|seed| hour(seed, Rules { silence: one_round, at_once: true, ..BUSY }).err());
    assert!(lost.as_ref().is_some_and(|what| what.contains("lost")), "{lost:?}");
}

#[test]
fn the_simulation_notices_a_lock_that_is_locked_again_taken_for_a_reclaim() {
    let understood = |client: &ClientResult| client.counts.reclaimed > 0;
    let lost = (1..12).find_map(|seed| hour(seed, Rules { understood, ..BUSY }).err());
    assert!(lost.as_ref().is_some_and(|what| what.contains("lost")), "{lost:?}");
}
