//! Finds out whether this process ran all the time.
//!
//! A process can be stopped (SIGSTOP, a freezer), starved, or asleep with its machine. Input that arrived meanwhile
//! waits in its sockets or was lost, and when it continues all its timers are due at once. So code that judges others
//! by time calls the heartbeat meanwhile, and learns here of the time in which it could not have heard them.
//!
//! Timers go by `CLOCK_MONOTONIC`, which stands still while the machine sleeps: what timers counted, and have to
//! give back, is measured with that. Whether datagrams can have been lost is measured with `CLOCK_BOOTTIME`, which
//! goes on. A pause of a virtual machine that its guest's clocks do not show is seen by neither.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time between two beats. A process that is this late ran all the time, for all that matters.
pub const BEAT: Duration = Duration::from_millis(250);
/// Beyond this, datagrams can have been lost, and their senders repeat them later than usual.
const LONG: Duration = Duration::from_secs(1);

/// Both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What timers go by.
    pub counted: Duration,
    /// With the machine's sleep.
    pub passed: Duration,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { counted: read(ClockId::Monotonic), passed: read(ClockId::Boottime) }
    }
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

/// A time in which the process did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// What timers counted of it.
    pub counted: Duration,
    /// All of it.
    pub passed: Duration,
}

impl Lag {
    /// Whether what was sent meanwhile can have been lost.
    pub fn is_long(self) -> bool {
        self.passed > LONG
    }
}

/// Beats of a loop that comes round at least once every [`BEAT`].
#[derive(Debug, Default)]
pub struct Heartbeat {
    last: Option<Moment>,
}

impl Heartbeat {
    /// Begins, if it does not beat yet.
    pub fn start(&mut self, now: Moment) {
        self.last.get_or_insert(now);
    }

    /// Ends: how long the next turn takes means nothing.
    pub fn rest(&mut self) {
        self.last = None;
    }

    /// One turn of the loop. Gives how long the process did not run since the last one, if it is worth a word.
    pub fn beat(&mut self, now: Moment) -> Option<Lag> {
        let last = self.last.replace(now)?;
        let late = |now: Duration, last| now.saturating_sub(last).saturating_sub(BEAT);
        let lag = Lag { counted: late(now.counted, last.counted), passed: late(now.passed, last.passed) };
        (lag.counted.max(lag.passed) > BEAT).then_some(lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(counted: u64, passed: u64) -> Moment {
        Moment { counted: Duration::from_millis(counted), passed: Duration::from_millis(passed) }
    }

    fn lag(counted: u64, passed: u64) -> Lag {
        Lag { counted: Duration::from_millis(counted), passed: Duration::from_millis(passed) }
    }

    #[test]
    fn a_turn_that_comes_late_tells_how_long_the_process_did_not_run() {
        let mut pulse = Heartbeat::default();
        pulse.start(at(0, 0));
        assert_eq!(pulse.beat(at(200, 200)), None);
        assert_eq!(pulse.beat(at(650, 650)), None, "as late as any busy process");
        assert_eq!(pulse.beat(at(4_900, 4_900)), Some(lag(4_000, 4_000)));
        assert_eq!(pulse.beat(at(5_000, 5_000)), None, "it is told once");
    }

    #[test]
    fn a_machines_sleep_is_seen_and_gives_timers_nothing_back() {
        let mut pulse = Heartbeat::default();
        pulse.start(at(500, 500));
        let slept = pulse.beat(at(750, 3_600_750)).unwrap();
        assert_eq!(slept, lag(0, 3_600_000));
        assert!(slept.is_long());
    }

    #[test]
    fn while_it_rests_no_turn_is_late() {
        let mut pulse = Heartbeat::default();
        assert_eq!(pulse.beat(at(60_000, 60_000)), None);
        pulse.rest();
        assert_eq!(pulse.beat(at(120_000, 120_000)), None);
    }

    #[test]
    fn the_clocks_go_on() {
        let before = Moment::now();
        let after = Moment::now();
        assert!(before.counted > Duration::ZERO && before.counted <= after.counted && before.passed <= after.passed);
    }
}
