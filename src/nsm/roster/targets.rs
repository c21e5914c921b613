//! A list of hosts, written by hand for one fan-out.

use std::collections::HashMap;
use std::path::Path;

use super::entry::{Kind, MAX_HOSTS, Roster, RosterEntry, RosterError, host_name, plain_host, read_capped, unreadable};

/// Longest targets file that is read, in bytes: a million lines of 64. A longer one is an error.
const MAX_TARGETS_FILE: u64 = 64 << 20;

/// Reads a file with one address or name a line. `#` begins a comment; blank lines count for
/// nothing; a host that is there twice is taken once. This list was written by hand for this one
/// purpose, so a line that names no host is an error.
pub fn read_targets_file(path: &Path) -> Result<Roster, RosterError> {
    let text = read_capped(path, MAX_TARGETS_FILE).map_err(unreadable(path))?;
    if text.len() as u64 > MAX_TARGETS_FILE {
        return Err(RosterError::TooLarge { path: path.into(), max: MAX_TARGETS_FILE, what: "bytes" });
    }
    let mut roster = Roster::new(Kind::Targets, path);
    let mut seen = HashMap::new();
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let bad = |problem: &str| RosterError::BadLine { path: path.into(), line: number + 1, problem: problem.into() };
        let line = std::str::from_utf8(line).map_err(|_| bad("not UTF-8; write one address or host name a line"))?;
        let line = line.trim_start_matches('\u{feff}').split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let host = host_name(line)
            .ok_or_else(|| bad(&format!("{line:?} is not an address or a host name; write one a line")))?;
        let plain = plain_host(host);
        if let Some(first) = seen.get(&plain) {
            let problem = format!("{host} is on line {first} already; it is notified once");
            roster.warn(path, Some(number + 1), problem);
            continue;
        }
        if roster.entries.len() == MAX_HOSTS {
            return Err(RosterError::TooLarge { path: path.into(), max: MAX_HOSTS as u64, what: "hosts" });
        }
        seen.insert(plain, number + 1);
        roster.entries.push(RosterEntry::new(host, false));
    }
    Ok(roster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(roster: &Roster) -> Vec<&str> {
        roster.entries.iter().map(|entry| entry.host.as_str()).collect()
    }

    fn targets(text: &[u8]) -> Result<Roster, RosterError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("targets");
        std::fs::write(&path, text).unwrap();
        read_targets_file(&path)
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
        let roster =
            targets(b"::ffff:192.0.2.1\n192.0.2.1\nfd00::7\nfd00:0::7\na.example.org\na.example.org.\n").unwrap();
        assert_eq!(hosts(&roster), ["::ffff:192.0.2.1", "fd00::7", "a.example.org"]);
        assert_eq!(roster.warnings.len(), 3);
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
        fn any_bytes_are_hosts_or_an_error_with_its_line(
            text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            match targets(&text) {
                Ok(roster) => proptest::prop_assert!(roster.entries.iter().all(|e| host_name(&e.host).is_some())),
                Err(error) => proptest::prop_assert!(matches!(error, RosterError::BadLine { .. }), "{}", error),
            }
        }
    }
}
