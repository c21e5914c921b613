//! The next calls to send, and how many may be in flight.
//!
//! A socket's receive buffer holds a limited number of answers; answers beyond it are lost, and the calls are
//! then repeated. So each socket (a *lane*) has a window, the number of calls whose answers
//! it has room for. Among calls that wait, those to hosts that have answered go first, then those
//! to hosts not tried yet, then repeats to silent ones: the dead never delay the living.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

/// A socket to send from, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    /// Whether it is an IPv6 socket; else it is an IPv4 one.
    pub(super) ipv6: bool,
    /// How many answers its receive buffer has room for.
    pub(super) window: usize,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// The host has answered something.
    Live,
    /// Nothing was sent to it yet.
    New,
    /// It has left a call unanswered.
    Silent,
}

const URGENCIES: [Urgency; 3] = [Urgency::Live, Urgency::New, Urgency::Silent];

#[derive(Debug, Default)]
struct Family {
    waiting: [VecDeque<u64>; 3],
    /// Lane numbers.
    lanes: Vec<usize>,
}

/// Calls that wait, by their serial numbers, and the lanes.
#[derive(Debug)]
pub(super) struct SendQueue {
    families: [Family; 2],
    lanes: Vec<Lane>,
    under_way: Vec<usize>,
    /// Lanes whose send buffer is full: nothing more is sent there.
    pub(super) full: BTreeSet<usize>,
}

fn family_of(ipv6: bool) -> usize {
    usize::from(ipv6)
}

impl SendQueue {
    pub(super) fn new(lanes: Vec<Lane>) -> Self {
        let mut families = [Family::default(), Family::default()];
        for (number, lane) in lanes.iter().enumerate() {
            if let Some(family) = families.get_mut(family_of(lane.ipv6)) {
                family.lanes.push(number);
            }
        }
        Self { families, under_way: vec![0; lanes.len()], lanes, full: BTreeSet::new() }
    }

    /// Whether anything can be sent to this address at all.
    pub(super) fn serves(&self, to: IpAddr) -> bool {
        self.families.get(family_of(to.is_ipv6())).is_some_and(|family| !family.lanes.is_empty())
    }

    pub(super) fn push(&mut self, to: IpAddr, urgency: Urgency, call: u64) {
        let family = self.families.get_mut(family_of(to.is_ipv6()));
        if let Some(waiting) = family.and_then(|f| f.waiting.get_mut(urgency as usize)) {
            waiting.push_back(call);
        }
    }

    /// The next call for which `still_wanted`, and the lane that has the most room for it. It is
    /// under way from now on, until [`Self::landed`].
    pub(super) fn take(&mut self, still_wanted: impl Fn(u64) -> bool) -> Option<(u64, usize)> {
        for urgency in URGENCIES {
            for family in &mut self.families {
                let candidates = family.lanes.iter().copied().filter(|lane| !self.full.contains(lane));
                let Some(lane) = roomiest(candidates, &self.lanes, &self.under_way) else { continue };
                let Some(waiting) = family.waiting.get_mut(urgency as usize) else { continue };
                while let Some(call) = waiting.pop_front() {
                    if still_wanted(call) {
                        if let Some(count) = self.under_way.get_mut(lane) {
                            *count += 1;
                        }
                        return Some((call, lane));
                    }
                }
            }
        }
        None
    }

    /// A call was answered, or its answer is no longer expected soon.
    pub(super) fn landed(&mut self, lane: usize) {
        if let Some(count) = self.under_way.get_mut(lane) {
            *count = count.saturating_sub(1);
        }
    }

    #[cfg(test)]
    pub(super) fn under_way(&self, lane: usize) -> usize {
        self.under_way[lane]
    }
}

/// The lane with the most room left, if any has room.
fn roomiest(candidates: impl Iterator<Item = usize>, lanes: &[Lane], under_way: &[usize]) -> Option<usize> {
    candidates
        .filter_map(|number| {
            let room = lanes.get(number)?.window.checked_sub(*under_way.get(number)?)?;
            (room > 0).then_some((room, number))
        })
        // Of equals the first: the machine is deterministic either way, this reads better in logs.
        .max_by_key(|&(room, number)| (room, std::cmp::Reverse(number)))
        .map(|(_, number)| number)
}
