//! What happened, for watchers: the last events, and a cursor that grows with every change.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::wire::control::{EVENTS, Event, WatchArgs};
use crate::wire::xdr::{List, Text};

/// The last [`EVENTS`] events: a watcher that falls further behind misses the older ones. The cursor is
/// never 0, so that a watcher's first question is answered at once.
#[derive(Debug)]
pub struct Timeline {
    events: VecDeque<Event>,
    cursor: watch::Sender<u64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { events: VecDeque::new(), cursor: watch::Sender::new(1) }
    }
}

impl Timeline {
    /// Grows with every change.
    pub fn cursor(&self) -> u64 {
        *self.cursor.borrow()
    }

    /// The cursor and its changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.cursor.subscribe()
    }

    /// Waits for a change, for as long as a watcher wants.
    pub async fn news(mut cursor: watch::Receiver<u64>, args: WatchArgs) {
        // A cursor of a previous instance is larger than any here: answer at once.
        let changed = cursor.wait_for(|now| *now != args.cursor);
        let _ = tokio::time::timeout(args.patience(), changed).await;
    }

    /// Something changed that has no line of its own. A lock table says so with every lock, and mostly nobody watches.
    pub fn changed(&self) {
        self.cursor.send_if_modified(|cursor| {
            *cursor += 1;
            // One that subscribes from now on sees the new number.
            self.cursor.receiver_count() > 0
        });
    }

    /// Records an event: one word, and a text for people.
    pub fn push(&mut self, unix_ms: u64, kind: &str, detail: &str) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let cursor = self.cursor() + 1;
        self.events.push_back(Event { cursor, unix_ms, kind: Text::clipped(kind), detail: Text::clipped(detail) });
        self.changed();
    }

    /// The events after `cursor`; all that are kept if the cursor is not of this instance.
    pub fn since(&self, cursor: u64) -> List<Event, EVENTS> {
        let cursor = if cursor > self.cursor() { 0 } else { cursor };
        List::clipped(self.events.iter().filter(|event| event.cursor > cursor).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watcher_sees_at_once_what_changed_while_nobody_watched_and_is_woken_by_what_changes_then() {
        let timeline = Timeline::default();
        let (seen, begun) = (timeline.cursor(), Instant::now());
        timeline.changed();
        Timeline::news(timeline.subscribe(), WatchArgs { cursor: seen, timeout_ms: 9_000 }).await;
        let args = WatchArgs { cursor: timeline.cursor(), timeout_ms: 9_000 };
        let watching = tokio::spawn(Timeline::news(timeline.subscribe(), args));
        tokio::task::yield_now().await;
        assert!(!watching.is_finished(), "nothing is new");
        timeline.changed();
        watching.await.unwrap();
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO, "no time-out was waited for");
    }

    #[test]
    fn a_watcher_gets_what_is_new_and_the_last_256_at_most() {
        let mut timeline = Timeline::default();
        let seen = timeline.subscribe();
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
