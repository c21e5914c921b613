//! Watching a manager.

use std::time::Duration;

use super::manager::Status;
use crate::wire::xdr::{List, Text, XdrCodec};

/// Events kept for watchers, and most of them in one answer.
pub const EVENTS: usize = 256;
/// Longest wait of one call.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Waits for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct WatchArgs {
    /// The `cursor` of the last answer, 0 at first.
    pub cursor: u64,
    /// Milliseconds to wait at most; cut at 10,000.
    pub timeout_ms: u64,
}

/// Something that happened, for a timeline.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Event {
    /// Its place.
    pub cursor: u64,
    /// Milliseconds since 1970 by the manager's clock.
    pub unix_ms: u64,
    /// One word: `begin`, `settle`, `abort`, `reboot`, `conflict`, ...
    pub kind: Text<32>,
    /// For people.
    pub detail: Text<512>,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Watched {
    /// The manager now.
    pub status: Status,
    /// Events since the cursor, the last 256 at most.
    pub events: List<Event, EVENTS>,
}

impl WatchArgs {
    /// How long to wait for a change.
    pub fn patience(self) -> Duration {
        Duration::from_millis(self.timeout_ms).min(PATIENCE_MAX)
    }
}
