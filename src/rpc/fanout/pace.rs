//! The time to wait for an answer: RFC 6298's estimate over all targets together, and back-off.
//!
//! Every transmission has an xid of its own, so an answer says which one it answers and each round
//! trip is exact (Karn's problem does not arise), also where the path is slower than the first guess.

use std::time::Duration;

/// Shortest wait before a call is sent again; also the guess before anything was measured.
const FLOOR: Duration = Duration::from_millis(50);
/// Shortest time for which an unanswered call counts as under way.
const LEAST_FLIGHT: Duration = Duration::from_millis(5);
/// Longest wait while a target is new.
const CAP: Duration = Duration::from_secs(2);
/// Longest wait once it has been silent for [`PATIENCE`].
const SLOW_CAP: Duration = Duration::from_secs(5);
/// How long a target counts as new.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measured round trips.
#[derive(Debug, Default)]
pub(super) struct Pace {
    smoothed: Option<(Duration, Duration)>,
}

impl Pace {
    /// RFC 6298 section 2, with its alpha of 1/8 and beta of 1/4.
    pub(super) fn observe(&mut self, rtt: Duration) {
        let rtt = rtt.min(CAP);
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((srtt * 7 + rtt) / 8, (rttvar * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// When an answer is overdue by the measurements alone.
    fn expected(&self) -> Option<Duration> {
        self.smoothed.map(|(srtt, rttvar)| srtt + rttvar * 4)
    }

    /// For how long a call takes a place in the window. Shorter than the wait before it is sent
    /// again: else every dead target would keep a place from live ones for all of that time.
    pub(super) fn flight(&self) -> Duration {
        self.expected().map_or(FLOOR, |expected| expected.clamp(LEAST_FLIGHT, CAP))
    }

    /// The wait before a call that has gone unanswered `misses` times is sent again, to a target
    /// that has been tried for `tried`.
    pub(super) fn patience(&self, misses: u32, tried: Duration) -> Duration {
        let cap = if tried < PATIENCE { CAP } else { SLOW_CAP };
        let base = self.expected().map_or(FLOOR, |expected| expected.max(FLOOR));
        base.saturating_mul(1 << misses.min(16)).min(cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_follow_the_round_trip_above_the_floor() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(0, Duration::ZERO), 50 * MS);
        (0..100).for_each(|_| pace.observe(MS));
        assert_eq!(pace.patience(0, Duration::ZERO), 50 * MS);
        assert_eq!(pace.flight(), 5 * MS);
        (0..100).for_each(|_| pace.observe(200 * MS));
        let wait = pace.patience(0, Duration::ZERO);
        assert!(wait > 199 * MS && wait < 220 * MS, "{wait:?}");
        assert!(pace.flight() > 199 * MS);
    }

    #[test]
    fn waits_double_up_to_two_seconds_and_later_to_five() {
        let pace = Pace::default();
        let waits: Vec<_> = (0..8).map(|n| pace.patience(n, Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(pace.patience(u32::MAX, 11_000 * MS), 5000 * MS);
    }
}
