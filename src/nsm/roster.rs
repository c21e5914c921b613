//! Lists of clients to notify: a Linux statd's `sm/` directory, or a file of one target a line.
//!
//! nfs-utils keeps one file a monitored host, named after the host, with a line for each monitor
//! request: `addr prog vers proc priv mon_name my_name`, where the numbers are 8 hex digits and
//! priv is 32. The directory is live: it is read, never changed. A roster is somebody's only list
//! of who must be told, so nothing in it is lost silently: what cannot be used is a warning that
//! names the file and line, and a file whose lines are all odd still names its host.

use std::fmt;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::wire::types::CallerName;

/// Longest `sm/` file that is read, in bytes; statd writes a few hundred.
const MAX_RECORD_FILE: u64 = 64 << 10;
/// Longest targets file that is read, in bytes.
const MAX_TARGETS_FILE: u64 = 64 << 20;
/// Most hosts in one roster.
const MAX_HOSTS: usize = 1_000_000;
/// A host name is at most this long (RFC 1035; `SM_MAXSTRLEN` is larger).
const MAX_HOST: usize = 255;

/// A host to notify, as a roster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its name or address.
    pub host: String,
    /// The server's name that the host monitors or that was monitored for it, if the roster says.
    pub my_name: Option<CallerName>,
    /// The private data of the monitor request.
    pub priv_data: Option<[u8; 16]>,
}

/// A roster that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// Hosts in order of their names (`sm/`) or of the file's lines; each (host, `my_name`) once.
    pub entries: Vec<RosterEntry>,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

/// Something in a roster that could not be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which file.
    pub file: PathBuf,
    /// Which line, from 1; `None` is the whole file.
    pub line: Option<usize>,
    /// What is odd, and what was made of it.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
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
        source: std::io::Error,
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
}

/// Reads a statd's `sm/` (or `sm.bak/`) directory. Entries that begin with a dot are not hosts:
/// statd keeps its temporary files there.
pub fn read_sm_dir(dir: &Path) -> Result<Roster, RosterError> {
    let unreadable = |source| RosterError::Unreadable { path: dir.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if files.len() == MAX_HOSTS {
            return Err(RosterError::TooLarge { path: dir.into(), max: MAX_HOSTS as u64, what: "hosts" });
        }
        files.push(name);
    }
    files.sort();
    let mut roster = Roster::default();
    for name in files {
        let path = dir.join(&name);
        let mut warn = |line, problem: String| roster.warnings.push(Warning { file: path.clone(), line, problem });
        // A directory, a pipe or a device is no record, and opening it could hang.
        let is_file = fs::metadata(&path).map(|m| m.is_file());
        let Some(host) = name.to_str().and_then(host_name) else {
            warn(None, "skipped: its name is not that of a host".into());
            continue;
        };
        let text = match is_file
            .and_then(|is_file| if is_file { read_capped(&path, MAX_RECORD_FILE).map(Some) } else { Ok(None) })
        {
            Ok(Some(text)) => text,
            Ok(None) => {
                warn(None, "skipped: not a regular file".into());
                continue;
            }
            Err(error) => {
                // statd removes a record at any time: the host is no longer monitored.
                let gone = error.kind() == std::io::ErrorKind::NotFound;
                warn(
                    None,
                    format!(
                        "cannot be read ({error}); {}",
                        if gone { "skipped" } else { "its host is notified all the same" }
                    ),
                );
                if !gone {
                    roster.entries.push(RosterEntry { host: host.into(), my_name: None, priv_data: None });
                }
                continue;
            }
        };
        if text.len() as u64 > MAX_RECORD_FILE {
            warn(None, format!("longer than {MAX_RECORD_FILE} bytes; what is beyond was not read"));
        }
        read_record(host, &path, &text, &mut roster);
    }
    Ok(roster)
}

/// The lines of one file of `sm/`.
fn read_record(host: &str, path: &Path, text: &[u8], roster: &mut Roster) {
    let first = roster.entries.len();
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        if line.trim().is_empty() {
            continue;
        }
        let mut warn = |problem: &str| {
            let line = Some(number + 1);
            roster.warnings.push(Warning { file: path.into(), line, problem: problem.into() });
        };
        match parse_line(&line) {
            Ok(parsed) => {
                let entry =
                    RosterEntry { host: host.into(), my_name: Some(parsed.my_name), priv_data: Some(parsed.priv_data) };
                let known = roster.entries.get(first..).unwrap_or_default();
                if !known.iter().any(|e| e.my_name == entry.my_name) {
                    roster.entries.push(entry);
                }
            }
            Err(problem) => warn(&format!("{problem}; the line is not used, its host is notified all the same")),
        }
    }
    if roster.entries.len() == first {
        let empty = roster.warnings.last().is_none_or(|w| w.file != path);
        if empty {
            let problem = "empty; its host is notified all the same".into();
            roster.warnings.push(Warning { file: path.into(), line: None, problem });
        }
        roster.entries.push(RosterEntry { host: host.into(), my_name: None, priv_data: None });
    }
}

struct MonitorLine {
    priv_data: [u8; 16],
    my_name: CallerName,
}

/// `addr prog vers proc priv mon_name my_name`, as nfs-utils' `nsm_create_monitor_record` writes it.
fn parse_line(line: &str) -> Result<MonitorLine, &'static str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [addr, prog, vers, procedure, priv_data, mon_name, my_name] = fields.as_slice() else {
        return Err("not the seven fields of a statd record");
    };
    for number in [addr, prog, vers, procedure] {
        if number.len() != 8 || !number.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("one of the first four fields is not 8 hex digits");
        }
    }
    let mut bytes = [0; 16];
    hex::decode_to_slice(priv_data, &mut bytes).map_err(|_| "its private data is not 32 hex digits")?;
    CallerName::new(mon_name).map_err(|_| "its mon_name is not a host name")?;
    let my_name = CallerName::new(my_name).map_err(|_| "its my_name is not a host name")?;
    Ok(MonitorLine { priv_data: bytes, my_name })
}

/// Reads a file with one address or name a line. `#` begins a comment; blank lines count for
/// nothing; a host that is there twice is taken once. This list was written by hand for this one
/// purpose, so a line that names no host is an error.
pub fn read_targets_file(path: &Path) -> Result<Roster, RosterError> {
    let text =
        read_capped(path, MAX_TARGETS_FILE).map_err(|source| RosterError::Unreadable { path: path.into(), source })?;
    if text.len() as u64 > MAX_TARGETS_FILE {
        return Err(RosterError::TooLarge { path: path.into(), max: MAX_TARGETS_FILE, what: "bytes" });
    }
    let mut roster = Roster::default();
    let mut seen = std::collections::HashMap::new();
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let bad = |problem: &str| RosterError::BadLine { path: path.into(), line: number + 1, problem: problem.into() };
        let line = std::str::from_utf8(line).map_err(|_| bad("not UTF-8; write one address or host name a line"))?;
        let line = line.trim_start_matches('\u{feff}').split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let host = host_name(line)
            .ok_or_else(|| bad(&format!("{line:?} is not an address or a host name; write one a line")))?;
        if let Some(first) = seen.get(&host.to_ascii_lowercase()) {
            let problem = format!("{host} is on line {first} already; it is notified once");
            roster.warnings.push(Warning { file: path.into(), line: Some(number + 1), problem });
            continue;
        }
        if roster.entries.len() == MAX_HOSTS {
            return Err(RosterError::TooLarge { path: path.into(), max: MAX_HOSTS as u64, what: "hosts" });
        }
        seen.insert(host.to_ascii_lowercase(), number + 1);
        roster.entries.push(RosterEntry { host: host.into(), my_name: None, priv_data: None });
    }
    Ok(roster)
}

/// The name, if a resolver could make anything of it: an address, or labels of letters, digits,
/// `-` and `_`. Names beyond ASCII are for whoever configures them to write in Punycode.
fn host_name(name: &str) -> Option<&str> {
    if name.parse::<IpAddr>().is_ok() {
        return Some(name);
    }
    // A link-local IPv6 address with its interface is left to the resolver, which knows scopes.
    let scoped = name.split_once('%').is_some_and(|(address, zone)| {
        address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(|c| c.is_ascii_graphic())
    });
    let labels = name.strip_suffix('.').unwrap_or(name);
    let named = labels.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    (name.len() <= MAX_HOST && (scoped || named)).then_some(name)
}

/// The file, up to one byte more than `max`.
fn read_capped(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "0100007f 000186b5 00000003 00000010 00010203 x";

    fn line(mon_name: &str, my_name: &str) -> String {
        format!("0100007f 000186b5 00000003 00000010 {} {mon_name} {my_name}\n", "ab".repeat(16))
    }

    fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn hosts(roster: &Roster) -> Vec<&str> {
        roster.entries.iter().map(|entry| entry.host.as_str()).collect()
    }

    fn targets(text: &[u8]) -> Result<Roster, RosterError> {
        let dir = dir(&[("targets", text)]);
        read_targets_file(&dir.path().join("targets"))
    }

    #[test]
    fn a_record_gives_its_host_the_servers_name_and_the_private_data() {
        let sm = dir(&[("a.example.org", line("a", "filer").as_bytes())]);
        let roster = read_sm_dir(sm.path()).unwrap();
        assert_eq!(
            roster.entries,
            [RosterEntry {
                host: "a.example.org".into(),
                my_name: Some(CallerName::new("filer").unwrap()),
                priv_data: Some([0xAB; 16])
            }]
        );
        assert_eq!(roster.warnings, []);
    }

    #[test]
    fn every_name_that_a_host_was_monitored_for_is_kept_once() {
        let text = [line("a", "filer"), line("a", "filer"), line("a", "alias")].concat();
        let roster = read_sm_dir(dir(&[("a", text.as_bytes())]).path()).unwrap();
        let names: Vec<_> = roster.entries.iter().map(|e| e.my_name.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["filer", "alias"]);
    }

    #[test]
    fn dotfiles_are_not_hosts() {
        let roster = read_sm_dir(dir(&[(".a.tmp", line("a", "b").as_bytes()), ("10.0.0.1", b"")]).path()).unwrap();
        assert_eq!(hosts(&roster), ["10.0.0.1"]);
    }

    #[test]
    fn odd_lines_are_told_and_their_host_is_kept() {
        let odd: [&[u8]; 9] = [
            b"",
            b"\n\n",
            b"\xff\xfe\x00",
            LINE.as_bytes(),
            b"0100007f 000186b5",
            b"zzzzzzzz 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b\n",
            b"+100007f 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b\n",
            b"0100007f 000186b5 00000003 00000010 0001 a b\n",
            b"0100007f 000186b5 00000003 00000010 000102030405060708090a0b0c0d0e0f a b c\n",
        ];
        for text in odd {
            let roster = read_sm_dir(dir(&[("host", text)]).path()).unwrap();
            assert_eq!(hosts(&roster), ["host"], "{text:?}");
            assert_eq!(roster.entries[0].my_name, None);
            assert_eq!(roster.warnings.len(), 1, "{text:?}: {:?}", roster.warnings);
            let told = roster.warnings[0].to_string();
            assert!(told.contains("/host") && told.contains("notified all the same"), "{told}");
        }
    }

    #[test]
    fn a_good_line_beside_an_odd_one_counts_and_the_odd_one_is_told_with_its_number() {
        let text = format!("nonsense\n{}", line("a", "filer"));
        let roster = read_sm_dir(dir(&[("a", text.as_bytes())]).path()).unwrap();
        assert_eq!(roster.entries.len(), 1);
        assert!(roster.entries[0].my_name.is_some());
        assert_eq!(roster.warnings[0].line, Some(1));
    }

    #[test]
    fn files_that_name_no_host_and_things_that_are_no_files_are_told() {
        use std::os::unix::ffi::OsStrExt;
        let sm = dir(&[("-rf", b""), ("a b", b""), ("good", line("a", "b").as_bytes())]);
        fs::write(sm.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), b"").unwrap();
        fs::create_dir(sm.path().join("folder")).unwrap();
        nix::unistd::mkfifo(&sm.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", sm.path().join("dangling")).unwrap();
        let roster = read_sm_dir(sm.path()).unwrap();
        assert_eq!(hosts(&roster), ["good"]);
        assert_eq!(roster.warnings.len(), 6, "{:?}", roster.warnings);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_that_names_it() {
        let error = read_sm_dir(Path::new("/nonexistent/sm")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/sm"), "{error}");
    }

    #[test]
    fn reading_changes_nothing() {
        let sm = dir(&[("a", b"odd"), ("b", line("a", "b").as_bytes())]);
        let before = fs::metadata(sm.path().join("a")).unwrap().modified().unwrap();
        read_sm_dir(sm.path()).unwrap();
        assert_eq!(fs::read(sm.path().join("a")).unwrap(), b"odd");
        assert_eq!(fs::metadata(sm.path().join("a")).unwrap().modified().unwrap(), before);
        assert_eq!(fs::read_dir(sm.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_targets_file_has_one_host_a_line() {
        let text =
            b"\xef\xbb\xbf# clients\r\n10.0.0.1\r\n\n  a.example.org  # the big one\nfd00::7\nfe80::1%eth0\n_x\n";
        let roster = targets(text).unwrap();
        assert_eq!(hosts(&roster), ["10.0.0.1", "a.example.org", "fd00::7", "fe80::1%eth0", "_x"]);
        assert_eq!(roster.warnings, []);
    }

    #[test]
    fn a_host_that_is_there_twice_is_taken_once_and_told() {
        let roster = targets(b"a\nb\nA\n").unwrap();
        assert_eq!(hosts(&roster), ["a", "b"]);
        assert!(roster.warnings[0].to_string().ends_with(":3: A is on line 1 already; it is notified once"));
    }

    #[test]
    fn a_line_that_names_no_host_is_an_error_with_file_and_line() {
        for bad in ["a b", "10.0.0.1,10.0.0.2", "-v", "a..b", "\u{e4}.example.org", "http://a/", "a\u{0}b"] {
            let error = targets(format!("good\n{bad}\n").as_bytes()).unwrap_err();
            assert!(error.to_string().contains("targets:2: "), "{bad}: {error}");
        }
        assert!(targets(b"\xff\n").unwrap_err().to_string().contains("targets:1: "));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_record_holds_its_host_is_notified(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let roster = read_sm_dir(dir(&[("host", &text)]).path()).unwrap();
            proptest::prop_assert!(roster.entries.iter().all(|entry| entry.host == "host"));
            let told = roster.warnings.len() + roster.entries.iter().filter(|e| e.my_name.is_some()).count();
            proptest::prop_assert!(!roster.entries.is_empty() && told > 0);
        }
    }
}
