//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::wire::types::ms;

/// Milliseconds since 1970; none before that.
pub fn unix_ms() -> u64 {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
