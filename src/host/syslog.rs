//! Lines in the system's log (syslog(3)): what an administrator must find there however nlmctl ended.

use nix::syslog::{Facility, LogFlags, Priority, Severity, openlog};

/// Longest line, in characters: a datagram to `/dev/log` is never cut.
const LONGEST: usize = 900;

/// Writes a notice. Without a system log it is lost, as with any program.
pub fn syslog(line: &str) {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    let line: String = line.chars().take(LONGEST).map(shown).collect();
    let logged = openlog(Some(c"nlmctl"), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        .and_then(|()| nix::syslog::syslog(Priority::new(Severity::LOG_NOTICE, Facility::LOG_DAEMON), &line));
    if let Err(error) = logged {
        tracing::warn!(%error, "no line in the system's log");
    }
}
