//! What happened, for watchers: the last events, and a cursor that grows with every change.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::wire::control::Event;
use crate::wire::xdr::{List, Text};

/// Events kept; a watcher that falls further behind misses the older ones.
const KEPT: usize = 256;

/// The events and the cursor.
#[derive(Debug)]
pub(super) struct Timeline {
    events: VecDeque<Event>,
    cursor: watch::Sender<u64>,
}

impl Timeline {
    pub(super) fn new() -> (Self, watch::Receiver<u64>) {
        let (cursor, seen) = watch::channel(1);
        (Self { events: VecDeque::new(), cursor }, seen)
    }

    pub(super) fn cursor(&self) -> u64 {
        *self.cursor.borrow()
    }

    /// Something changed that has no line of its own.
    pub(super) fn changed(&self) {
        self.cursor.send_modify(|cursor| *cursor += 1);
    }

    pub(super) fn push(&mut self, unix_ms: u64, kind: &str, detail: &str) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        let cursor = self.cursor() + 1;
        self.events.push_back(Event { cursor, unix_ms, kind: Text::clipped(kind), detail: Text::clipped(detail) });
        self.changed();
    }

    /// The events after `cursor`; all that are kept where it is not one of this life's.
    pub(super) fn since(&self, cursor: u64) -> List<Event, KEPT> {
        let cursor = if cursor > self.cursor() { 0 } else { cursor };
        List::clipped(self.events.iter().filter(|event| event.cursor > cursor).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_gets_what_is_new_and_the_last_256_at_most() {
        let (mut timeline, seen) = Timeline::new();
        for n in 0..300 {
            timeline.push(n, "event", &n.to_string());
        }
        assert_eq!(timeline.since(0).as_slice().len(), 256);
        let before = timeline.cursor();
        timeline.changed();
        timeline.push(1, "last", "");
        assert_eq!(timeline.since(before).as_slice().len(), 1);
        assert_eq!(*seen.borrow(), timeline.cursor());
        assert!(timeline.since(timeline.cursor()).as_slice().is_empty());
        assert_eq!(timeline.since(u64::MAX).as_slice().len(), 256, "a cursor of a former life starts over");
    }
}
