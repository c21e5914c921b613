//! illumos' statd: `state` is text; `sm/` has an empty file a monitored host, named after it, and
//! links `ipv4.<address>` or `ipv6.<address>` to its name, one for each address it called from.
//! `sm.bak/` has those who were not told of the last restart yet.
//!
//! A host with links is told at their addresses, as statd itself does: its name may belong to
//! another domain, and mean nothing here. A link whose file is gone names a host all the same.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::entry::{Kind, MAX_HOSTS, Roster, RosterEntry, RosterError, host_name, names_in, read_capped};
use super::format::{Format, MAX_STATE_FILE, home_of};
use crate::wire::types::NsmState;

pub(super) const FORMAT: Format = Format { kind: Kind::Illumos, parse_state, read_into };

/// Whether an `sm/` is one of illumos: the state beside it is text, or it has links named after
/// addresses.
pub(super) fn keeps(sm: &Path) -> bool {
    let state = home_of(sm).and_then(|home| read_capped(&home.join("state"), MAX_STATE_FILE).ok());
    // Four bytes are a number of Linux; illumos pads to ten.
    if let Some(state) = state.filter(|bytes| !bytes.is_empty()) {
        return state.len() != 4 && parse_state(&state).is_some();
    }
    let Ok(entries) = fs::read_dir(sm) else { return false };
    entries.take(MAX_HOSTS).flatten().any(|entry| {
        entry.file_name().to_str().and_then(link_address).is_some()
            && entry.file_type().is_ok_and(|kind| kind.is_symlink())
    })
}

/// The number as illumos' statd writes it: `%-10d`.
fn parse_state(bytes: &[u8]) -> Option<NsmState> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok().map(NsmState)
}

/// The address in the name of a link.
fn link_address(name: &str) -> Option<IpAddr> {
    let (family, address) = name.split_once('.')?;
    match family {
        "ipv4" => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "ipv6" => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    }
}

fn read_into(dir: &Path, overdue: bool, roster: &mut Roster) -> Result<(), RosterError> {
    let mut linked = HashSet::new();
    let mut named = Vec::new();
    for name in names_in(dir)? {
        let path = dir.join(&name);
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => {
                roster.warn(&path, None, format!("skipped: {error}"));
                continue;
            }
        };
        if kind.is_symlink() {
            let Some(address) = name.to_str().and_then(link_address) else {
                roster.warn(&path, None, "skipped: a link whose name is not ipv4.ADDRESS or ipv6.ADDRESS");
                continue;
            };
            roster.entries.push(RosterEntry::new(&address.to_string(), overdue));
            if let Ok(to) = fs::read_link(&path) {
                linked.insert(to.into_os_string());
            }
        } else if kind.is_file() {
            named.push(name);
        } else {
            roster.warn(&path, None, "skipped: neither a file nor a link");
        }
    }
    for name in named {
        if linked.contains(&name) {
            continue;
        }
        match name.to_str().and_then(host_name) {
            Some(host) => roster.entries.push(RosterEntry::new(host, overdue)),
            None => roster.warn(&dir.join(&name), None, "skipped: its name is not that of a host"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn home(state: &[u8]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("sm")).unwrap();
        fs::create_dir(home.path().join("sm.bak")).unwrap();
        fs::write(home.path().join("state"), state).unwrap();
        home
    }

    fn hosts(roster: &Roster) -> Vec<(&str, bool)> {
        roster.entries.iter().map(|entry| (entry.host.as_str(), entry.overdue)).collect()
    }

    #[test]
    fn a_host_is_told_at_the_addresses_it_called_from_or_by_name_where_there_are_none() {
        let home = home(b"1234567   ");
        let sm = home.path().join("sm");
        for name in ["linked.example.org", "legacy"] {
            fs::write(sm.join(name), b"").unwrap();
        }
        for link in ["ipv4.192.0.2.7", "ipv6.2001:db8::7"] {
            symlink("linked.example.org", sm.join(link)).unwrap();
        }
        symlink("gone", home.path().join("sm.bak/ipv4.192.0.2.9")).unwrap();
        assert!(keeps(&sm));
        let roster = FORMAT.read_home(home.path()).unwrap();
        assert_eq!(roster.state, Some(NsmState(1_234_567)));
        let wanted = [("192.0.2.7", false), ("2001:db8::7", false), ("legacy", false), ("192.0.2.9", true)];
        assert_eq!(hosts(&roster), wanted);
        assert_eq!(roster.warnings, []);
    }

    #[test]
    fn what_is_no_record_is_told_and_skipped() {
        let home = home(b"odd");
        let sm = home.path().join("sm");
        symlink("/etc/passwd", sm.join("passwd")).unwrap();
        symlink("host", sm.join("ipv4.192.0.2.999")).unwrap();
        fs::create_dir(sm.join("folder")).unwrap();
        fs::write(sm.join("a b"), b"").unwrap();
        fs::write(sm.join(OsStr::from_bytes(b"\xff")), b"").unwrap();
        fs::write(sm.join(".tmp"), b"").unwrap();
        let roster = FORMAT.read_home(home.path()).unwrap();
        assert_eq!(hosts(&roster), []);
        assert_eq!(roster.warnings.len(), 6, "{:?}", roster.warnings);
    }

    #[test]
    fn the_state_beside_it_tells_whose_an_sm_is_and_links_where_there_is_none() {
        assert!(keeps(&home(b"7         ").path().join("sm")));
        assert!(!keeps(&home(&7_i32.to_ne_bytes()).path().join("sm")));
        let unknown = home(b"");
        assert!(!keeps(&unknown.path().join("sm")));
        symlink("host", unknown.path().join("sm/ipv4.192.0.2.7")).unwrap();
        assert!(keeps(&unknown.path().join("sm")));
    }

    proptest! {
        #[test]
        fn any_names_are_hosts_or_told(names in prop::collection::hash_set("[!-.0-~]{1,30}", 0..8), links: bool) {
            let home = home(b"1");
            for name in &names {
                let path = home.path().join("sm").join(name);
                let _ = if links { symlink("somewhere", path) } else { fs::write(path, b"") };
            }
            let roster = FORMAT.read_home(home.path()).unwrap();
            let hidden = names.iter().filter(|name| name.starts_with('.')).count();
            prop_assert_eq!(roster.entries.len() + roster.warnings.len() + hidden, names.len());
        }

        #[test]
        fn any_state_is_a_number_or_none(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_state(&bytes);
        }
    }
}
