//! Lists of clients to notify: what a server's statd recorded, on Linux, FreeBSD or illumos, or a
//! file of one target a line.
//!
//! Which of them a path is, [`read`] sees by looking; [`find`] looks where servers keep them. The
//! lists are live: they are read, never changed. A roster is somebody's only list of who must be
//! told, so nothing in it is lost silently: what cannot be used is a warning that names the file
//! and line or record, and never a stop. What is read is bounded, whatever is there.
//!
//! | file | format |
//! |---|---|
//! | `linux` | nfs-utils: `state`, and `sm/` and `sm.bak/` with a file of lines a host |
//! | `freebsd` | `statd.status`: a C struct, in the byte order and pointer size of its machine |
//! | `illumos` | `statmon/`: `state` as text, `sm/` and `sm.bak/` with empty files and links |
//! | `targets` | one address or name a line, written by hand |

mod freebsd;
mod illumos;
mod linux;
mod targets;

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::host::statd_folders;
use crate::wire::nsm::MonArgs;
use crate::wire::types::NsmState;

pub use targets::read_targets_file;

/// Where servers keep their rosters, from the root of the file system. In the first, nfs-utils' may be in
/// `statd/`; both are found.
const KNOWN_PLACES: [&str; 3] = ["var/lib/nfs", "var/db/statd.status", "var/statmon"];
/// Most hosts in one roster.
const MAX_HOSTS: usize = 1_000_000;
/// A host name is at most this long (RFC 1035; `SM_MAXSTRLEN` is larger).
const MAX_HOST: usize = 255;
/// Longest `state` file that is looked at, in bytes.
const MAX_STATE_FILE: u64 = 64;

/// A host to notify, as a roster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its name or address. On Linux that is also the name of its file.
    pub host: String,
    /// It still has to be told of an earlier restart (`sm.bak/`, `notifyReqd`).
    pub overdue: bool,
    /// The SM_MON request behind it, where the roster keeps it (Linux): who wanted to be told.
    pub monitor: Option<MonArgs>,
}

impl RosterEntry {
    fn new(host: &str, overdue: bool) -> Self {
        Self { host: host.to_owned(), overdue, monitor: None }
    }
}

/// Who keeps a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nfs-utils' rpc.statd.
    Linux,
    /// FreeBSD's rpc.statd.
    FreeBsd,
    /// illumos' statd.
    Illumos,
    /// A person.
    Targets,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "Linux statd",
            Self::FreeBsd => "FreeBSD statd",
            Self::Illumos => "illumos statd",
            Self::Targets => "targets file",
        })
    }
}

/// A roster that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// Whose it is.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// The state number kept with it: the last one that its clients were, or will be, told.
    pub state: Option<NsmState>,
    /// Hosts in order of their names, or of the file's lines or records.
    pub entries: Vec<RosterEntry>,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

impl Roster {
    fn new(kind: Kind, path: &Path) -> Self {
        Self { kind, path: path.to_owned(), state: None, entries: Vec::new(), warnings: Vec::new() }
    }
    fn warn(&mut self, file: &Path, at: Option<usize>, problem: impl Into<String>) {
        self.warnings.push(Warning { file: file.to_owned(), at, problem: problem.into() });
    }
}

/// Something in a roster that could not be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which file.
    pub file: PathBuf,
    /// Which line, or record of a binary file, from 1; `None` is the whole file.
    pub at: Option<usize>,
    /// What is odd, and what was made of it.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, ":{at}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Why a roster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The directory or file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a targets file names no host.
    #[error("{path}:{line}: {problem}", path = .path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what belongs there.
        problem: String,
    },
    /// More than can be a list of clients.
    #[error("{path} has more than {max} {what}; it does not look like a list of clients", path = .path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The bound.
        max: u64,
        /// Of what: bytes or hosts.
        what: &'static str,
    },
    /// A file that is not FreeBSD's.
    #[error("{path} is no statd.status of FreeBSD, of either byte order or pointer size", path = .path.display())]
    NoStatusFile {
        /// Which.
        path: PathBuf,
    },
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> RosterError + '_ {
    |source| RosterError::Unreadable { path: path.to_owned(), source }
}

/// Reads what is there: FreeBSD's file; a folder of Linux or illumos with `sm/` in it (or, as Red
/// Hat has it, `statd/sm/`); or such an `sm/` itself. More than one only where both layouts of
/// Linux are there.
pub fn read(path: &Path) -> Result<Vec<Roster>, RosterError> {
    if !fs::metadata(path).map_err(unreadable(path))?.is_dir() {
        return Ok(vec![freebsd::read_status_file(path)?]);
    }
    let homes = statd_folders(path);
    if homes.is_empty() {
        return Ok(vec![Format::of(path).read_sm_dir(path)?]);
    }
    homes.iter().map(|home| read_home(home)).collect()
}

fn read_home(home: &Path) -> Result<Roster, RosterError> {
    Format::of(&home.join("sm")).read_home(home)
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

/// Where [`find`] looks.
pub fn known_places(root: &Path) -> Vec<PathBuf> {
    KNOWN_PLACES.iter().map(|place| root.join(place)).collect()
}

/// The name, if a resolver could make anything of it: an address, or labels of letters, digits,
/// `-` and `_`. Names beyond ASCII are for whoever configures them to write in Punycode.
fn host_name(name: &str) -> Option<&str> {
    if name.parse::<IpAddr>().is_ok() {
        return Some(name);
    }
    // A link-local IPv6 address with its interface is left to the resolver, which knows scopes.
    let scoped = name.split_once('%').is_some_and(|(address, zone)| {
        address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(|c| c.is_ascii_graphic())
    });
    let labels = name.strip_suffix('.').unwrap_or(name);
    let named = labels.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    (name.len() <= MAX_HOST && (scoped || named)).then_some(name)
}

/// The regular file, up to one byte more than `max`. Anything else is an error: a pipe or a device
/// is no record, and reading it could hang.
fn read_capped(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a folder, sorted, without those that begin with a dot: statd keeps its temporary
/// files there, and no host is called so.
fn names_in(dir: &Path) -> Result<Vec<std::ffi::OsString>, RosterError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
        let name = entry.map_err(unreadable(dir))?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if names.len() == MAX_HOSTS {
            return Err(RosterError::TooLarge { path: dir.into(), max: MAX_HOSTS as u64, what: "hosts" });
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// How a statd keeps its records in folders.
struct Format {
    kind: Kind,
    parse_state: fn(&[u8]) -> Option<NsmState>,
    /// Reads one folder of records; whether its hosts are overdue.
    read_into: fn(&Path, bool, &mut Roster) -> Result<(), RosterError>,
}

impl Format {
    /// That of an `sm/`.
    fn of(sm: &Path) -> &'static Self {
        if illumos::keeps(sm) { &illumos::FORMAT } else { &linux::FORMAT }
    }

    /// Reads statd's folder: `state`, `sm/` and, if it is there, `sm.bak/`.
    fn read_home(&self, home: &Path) -> Result<Roster, RosterError> {
        let mut roster = Roster::new(self.kind, home);
        self.read_state(home, &mut roster);
        (self.read_into)(&home.join("sm"), false, &mut roster)?;
        match (self.read_into)(&home.join("sm.bak"), true, &mut roster) {
            Err(RosterError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(roster),
            read => read.map(|()| roster),
        }
    }

    /// Reads an `sm/` or `sm.bak/`, and `state` beside it.
    fn read_sm_dir(&self, dir: &Path) -> Result<Roster, RosterError> {
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
fn home_of(sm: &Path) -> Option<&Path> {
    let name = sm.file_name()?;
    if name == "sm" || name == "sm.bak" { sm.parent() } else { None }
}

#[cfg(test)]
mod tests;
