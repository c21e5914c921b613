//! The entries of a roster, and what all formats share: host names, bounded reading.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::wire::nsm::MonArgs;
use crate::wire::types::{CallerName, NsmState};

/// Most hosts in one roster, ten times what a run is made for. A longer one is an error: part of it must not pass for all.
pub(super) const MAX_HOSTS: usize = 1_000_000;
/// A host name is at most this long (RFC 1035; `SM_MAXSTRLEN` is larger).
const MAX_HOST: usize = 255;
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
    pub(super) fn new(host: &str, overdue: bool) -> Self {
        Self { host: host.to_owned(), overdue, monitor: None }
    }

    /// The host in its one spelling: see [`plain_host`].
    pub fn plain(&self) -> String {
        plain_host(&self.host)
    }
}

/// The kind of statd that keeps a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Linux,
    FreeBsd,
    Illumos,
    /// A file that a person wrote: addresses or names, one a line.
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
    pub kind: Kind,
    pub path: PathBuf,
    /// The state number kept with it: the last one that its clients were, or will be, told.
    pub state: Option<NsmState>,
    /// Hosts in order of their names, or of the file's lines or records.
    pub entries: Vec<RosterEntry>,
    pub warnings: Vec<Warning>,
}

impl Roster {
    /// Whether what is in it is statd's and nothing else: of Linux a record that makes sense, of illumos its links.
    pub(super) fn is_surely_statds(&self) -> bool {
        self.kind == Kind::Illumos || self.entries.iter().any(|entry| entry.monitor.is_some())
    }

    pub(super) fn new(kind: Kind, path: &Path) -> Self {
        Self { kind, path: path.to_owned(), state: None, entries: Vec::new(), warnings: Vec::new() }
    }
    pub(super) fn warn(&mut self, file: &Path, at: Option<usize>, problem: impl Into<String>) {
        self.warnings.push(Warning { file: file.to_owned(), at, problem: problem.into() });
    }
}

/// Something in a roster that could not be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
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
    Unreadable { path: PathBuf, source: io::Error },
    /// A line of a targets file names no host.
    #[error("{path}:{line}: {problem}", path = .path.display())]
    BadLine {
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what belongs there.
        problem: String,
    },
    /// More than can be a list of clients.
    #[error("{path} has more than {max} {what}; it does not look like a list of clients", path = .path.display())]
    TooLarge {
        path: PathBuf,
        max: u64,
        /// Of what: bytes or hosts.
        what: &'static str,
    },
    /// A folder that is no statd's.
    #[error("{path} is not the folder of a statd: it has no subfolder sm, is not named sm, and has no record of a client", path = .path.display())]
    NoRecords { path: PathBuf },
    /// A file that is not FreeBSD's.
    #[error("{path} is not a statd.status of FreeBSD, of either byte order or pointer size", path = .path.display())]
    NoStatusFile { path: PathBuf },
}

pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> RosterError + '_ {
    |source| RosterError::Unreadable { path: path.to_owned(), source }
}

/// The name, if a resolver could make anything of it: an address, or labels of letters, digits,
/// `-` and `_`. The administrator writes names beyond ASCII in Punycode.
pub(super) fn host_name(name: &str) -> Option<&str> {
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

/// A name of this server, as a person writes it; blanks around it do not count.
pub fn server_name(text: &str) -> Result<CallerName, String> {
    let name = host_name(text.trim()).ok_or("it is not an address or a host name")?;
    CallerName::new(name).map_err(|error| error.to_string())
}

/// A host in one spelling, so that one that is named twice is told once: an address as it is usually written, an
/// IPv4 one without its IPv6 clothes (`::ffff:192.0.2.1`); a name in small letters and without the dot at its end.
pub(super) fn plain_host(host: &str) -> String {
    match host.parse::<IpAddr>() {
        // It has one spelling.
        Ok(IpAddr::V4(_)) => return host.to_owned(),
        Ok(address) => return address.to_canonical().to_string(),
        Err(_) => {}
    }
    if let Some((address, zone)) = host.split_once('%')
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        return format!("{address}%{zone}");
    }
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The regular file, up to one byte more than `max`. Anything else is an error: a pipe or a device
/// is no record, and reading it could hang.
pub(super) fn read_capped(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // One byte more than it has: the read that takes all of it then sees its end.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(max)).unwrap_or_default() + 1);
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a folder, sorted, without those that begin with a dot: statd keeps its temporary
/// files there, and no host is called so.
pub(super) fn names_in(dir: &Path) -> Result<Vec<OsString>, RosterError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_as_a_host_is() {
        for (written, name) in [("nas", "nas"), (" nas.example.org\t", "nas.example.org"), ("fd00::7", "fd00::7")] {
            assert_eq!(server_name(written).unwrap().as_str(), name);
        }
        for bad in ["", " ", "a b", "nas:/export", "-v", "a..b", "a;b", "a\u{0}b", "n\u{e4}s"] {
            assert!(server_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (written, plain) in [
            ("::ffff:192.0.2.9", "192.0.2.9"),
            ("::FFFF:c000:0209", "192.0.2.9"),
            ("FD00:0:0::7", "fd00::7"),
            ("FE80:0::7%eth0", "fe80::7%eth0"),
            ("192.0.2.9", "192.0.2.9"),
            ("A.Example.org.", "a.example.org"),
        ] {
            assert_eq!(plain_host(written), plain);
        }
        assert_ne!(plain_host("fe80::7%eth0"), plain_host("fe80::7%eth1"));
    }
}
