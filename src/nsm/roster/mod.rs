//! Lists of clients to notify: what a server's statd recorded, on Linux, FreeBSD or illumos, or a
//! file of one target a line.
//!
//! Which of them a path is, [`read`] sees by looking; [`find`] looks where servers keep them. The
//! lists are live: they are read, never changed. A roster is a server's only list of who must be
//! told, so nothing in it is lost silently: what cannot be used is a warning that names the file
//! and line or record, and never a stop. What is read is bounded.
//!
//! | file | format |
//! |---|---|
//! | `linux` | nfs-utils: `state`, and `sm/` and `sm.bak/` with a file of lines a host |
//! | `freebsd` | `statd.status`: a C struct, in the byte order and pointer size of its machine |
//! | `illumos` | `statmon/`: `state` as text, `sm/` and `sm.bak/` with empty files and links |
//! | `targets` | one address or name a line, written by hand |

mod entry;
mod format;
mod freebsd;
mod illumos;
mod linux;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::statd_folders;

use entry::unreadable;
use format::{Format, home_of};

pub use entry::{Kind, Roster, RosterEntry, RosterError, server_name};
pub use targets::read_targets_file;

/// Where servers keep their rosters, from the root of the file system. In the first, nfs-utils' may be in
/// `statd/`; both are found.
const KNOWN_PLACES: [&str; 3] = ["var/lib/nfs", "var/db/statd.status", "var/statmon"];

/// Reads what is there: FreeBSD's file; a folder of Linux or illumos with `sm/` in it (or, as Red
/// Hat has it, `statd/sm/`); or such an `sm/` itself, or a copy of one with a record in it. More than one only where both layouts of
/// Linux are there.
pub fn read(path: &Path) -> Result<Vec<Roster>, RosterError> {
    if !fs::metadata(path).map_err(unreadable(path))?.is_dir() {
        return Ok(vec![freebsd::read_status_file(path)?]);
    }
    let homes = statd_folders(path);
    if homes.is_empty() {
        let roster = format_of(path).read_sm_dir(path)?;
        // A folder that is not called so is one by what is in it: any other one has files that could name hosts.
        if home_of(path).is_none() && !roster.is_surely_statds() {
            return Err(RosterError::NoRecords { path: path.into() });
        }
        return Ok(vec![roster]);
    }
    homes.iter().map(|home| read_home(home)).collect()
}

fn read_home(home: &Path) -> Result<Roster, RosterError> {
    format_of(&home.join("sm")).read_home(home)
}

/// Reads a Linux statd's `sm/` (or `sm.bak/`, or a copy of one), and `state` beside it.
pub fn read_sm_dir(dir: &Path) -> Result<Roster, RosterError> {
    linux::FORMAT.read_sm_dir(dir)
}

/// Looks in the places known under `root` (`/`). The error, if any, is of a place that is there and
/// cannot be read.
pub fn find(root: &Path) -> Result<Vec<Roster>, RosterError> {
    let mut found = Vec::new();
    for place in known_places(root) {
        if fs::symlink_metadata(&place).is_err() {
            continue;
        }
        if fs::metadata(&place).map_err(unreadable(&place))?.is_dir() {
            // Without an `sm/` it has other things of NFS, and no records.
            for home in statd_folders(&place) {
                found.push(read_home(&home)?);
            }
        } else {
            found.push(freebsd::read_status_file(&place)?);
        }
    }
    Ok(found)
}

pub fn known_places(root: &Path) -> Vec<PathBuf> {
    KNOWN_PLACES.iter().map(|place| root.join(place)).collect()
}

/// The format of an `sm/`.
fn format_of(sm: &Path) -> &'static Format {
    if illumos::keeps(sm) { &illumos::FORMAT } else { &linux::FORMAT }
}

#[cfg(test)]
mod tests;
