//! The files of the process in front of lockd, by which others know whether it is active.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Its folder, in that of what is kept about lockd.
pub fn folder(state: &Path) -> PathBuf {
    state.join("keeper")
}

/// The file in its folder that is there while a run is active.
pub const ACTIVE: &str = "active";
/// The file there which says, in seconds since 1970, until when late reclaims are taken after a run.
pub const DRAIN: &str = "drain";
/// How the name of a result ends that no controller has fetched.
pub const RESULT: &str = "result";

/// How long late reclaims are still taken after the last run, by what its process has written down in this folder.
pub fn drain_left(folder: &Path, now: SystemTime) -> Option<Duration> {
    let until: u64 = fs::read_to_string(folder.join(DRAIN)).ok()?.trim().parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(until))?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_when_its_time_has_come_or_nothing_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(drain_left(dir.path(), now), None);
        fs::write(dir.path().join(DRAIN), "1090\n").unwrap();
        assert_eq!(drain_left(dir.path(), now), Some(Duration::from_secs(90)));
        assert_eq!(drain_left(dir.path(), now + Duration::from_secs(91)), None);
        fs::write(dir.path().join(DRAIN), "soon").unwrap();
        assert_eq!(drain_left(dir.path(), now), None);
    }
}
