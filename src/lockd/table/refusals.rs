//! Locks that a cap refused, in the log: who and where, a line a minute for each cap. A client that runs into
//! one repeats its call for hours, and must not fill the disk with that.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::locks::Cap;

/// Between two lines about one cap.
pub(super) const QUIET: Duration = Duration::from_mins(1);

/// What was left unlogged since the last line: how many, and whose the last one was.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    unlogged: BTreeMap<Cap, (u64, String)>,
}

impl Refusals {
    /// Whether this one is to be logged now. Then a quiet time begins.
    pub(super) fn add(&mut self, cap: Cap, who: &str) -> bool {
        let Some((count, last)) = self.unlogged.get_mut(&cap) else {
            self.unlogged.insert(cap, (0, String::new()));
            return true;
        };
        *count += 1;
        who.clone_into(last);
        false
    }

    /// The quiet time is over: what to say of it. Then another one begins.
    pub(super) fn sum_up(&mut self, cap: Cap) -> Option<(u64, String)> {
        let of_it = self.unlogged.remove(&cap).filter(|(count, _)| *count > 0)?;
        self.unlogged.insert(cap, (0, String::new()));
        Some(of_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_logged_once_a_quiet_time_with_the_number_of_those_left_out() {
        let mut refusals = Refusals::default();
        assert!(refusals.add(Cap::Locks, "a"), "the first at once");
        assert!(refusals.add(Cap::Waiters, "a"), "each cap for itself");
        for who in ["b", "c", "d"] {
            assert!(!refusals.add(Cap::Locks, who));
        }
        assert_eq!(refusals.sum_up(Cap::Locks), Some((3, "d".into())));
        assert!(!refusals.add(Cap::Locks, "e"), "it goes on: the next line says so");
        assert_eq!(refusals.sum_up(Cap::Locks), Some((1, "e".into())));
        assert_eq!(refusals.sum_up(Cap::Locks), None);
        assert!(refusals.add(Cap::Locks, "f"), "after a quiet time without any");
        assert_eq!(refusals.sum_up(Cap::Waiters), None);
    }
}
