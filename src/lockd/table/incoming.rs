//! An NLM call as it arrived, and the clock that timed it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::host;
use crate::locks::{Call, Via};
use crate::wire::rpc::Credential;
use crate::wire::types::CallerName;

/// The process' clock: `now` for the pure core, and Unix time for records.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The process' start.
    pub start: Instant,
}

impl Clock {
    /// Since the process' start.
    pub fn now(self) -> Duration {
        self.start.elapsed()
    }
    /// Milliseconds since 1970.
    #[expect(clippy::unused_self, reason = "the time of records comes from the same clock as `now`")]
    pub fn unix_ms(self) -> u64 {
        host::unix_ms()
    }
}

/// The names under which clients know this server, as they are now.
pub type Names = watch::Receiver<Vec<CallerName>>;

/// An NLM call as it came in.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub address: IpAddr,
    pub name: CallerName,
    pub via: Via,
    /// For which user.
    pub credential: Credential,
    pub call: Call,
}
