//! Statds that keep their records in folders: `sm/` and `sm.bak/`, with `state` beside them.

use std::io;
use std::path::Path;

use super::entry::{Kind, Roster, RosterError, read_capped};
use crate::wire::types::NsmState;

/// Longest `state` file that is looked at, in bytes: it has one number, four bytes or a line of text.
pub(super) const MAX_STATE_FILE: u64 = 64;

/// How a statd keeps its records in folders.
pub(super) struct Format {
    pub(super) kind: Kind,
    pub(super) parse_state: fn(&[u8]) -> Option<NsmState>,
    /// Reads one folder of records; whether its hosts are overdue.
    pub(super) read_into: fn(&Path, bool, &mut Roster) -> Result<(), RosterError>,
}

impl Format {
    /// Reads statd's folder: `state`, `sm/` and, if it is there, `sm.bak/`.
    pub(super) fn read_home(&self, home: &Path) -> Result<Roster, RosterError> {
        let mut roster = Roster::new(self.kind, home);
        self.read_state(home, &mut roster);
        (self.read_into)(&home.join("sm"), false, &mut roster)?;
        match (self.read_into)(&home.join("sm.bak"), true, &mut roster) {
            Err(RosterError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(roster),
            read => read.map(|()| roster),
        }
    }

    /// Reads an `sm/` or `sm.bak/`, and `state` beside it.
    pub(super) fn read_sm_dir(&self, dir: &Path) -> Result<Roster, RosterError> {
        let mut roster = Roster::new(self.kind, dir);
        if let Some(home) = home_of(dir) {
            self.read_state(home, &mut roster);
        }
        (self.read_into)(dir, dir.ends_with("sm.bak"), &mut roster)?;
        Ok(roster)
    }

    /// Reads the `state` file in a folder. A missing one says nothing, an odd one is told.
    fn read_state(&self, home: &Path, roster: &mut Roster) {
        let path = home.join("state");
        match read_capped(&path, MAX_STATE_FILE) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                roster.state = (self.parse_state)(&bytes);
                if roster.state.is_none() {
                    roster.warn(&path, None, "holds no state number; it is not compared");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                roster.warn(&path, None, format!("cannot be read ({error}); the state number is not compared"));
            }
        }
    }
}

/// The folder around an `sm/` or `sm.bak/`, which has its `state` file.
pub(super) fn home_of(sm: &Path) -> Option<&Path> {
    let name = sm.file_name()?;
    if name == "sm" || name == "sm.bak" { sm.parent() } else { None }
}
